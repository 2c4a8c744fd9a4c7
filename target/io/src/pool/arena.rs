//! Address space for all of a pool's memory, so that huge pages back it however short its buffers are.
//!
//! Why: with pages of 4 KiB the kernel looks up and lists each page of a buffer that a device reads or writes, and a write of 1 MiB
//! becomes several requests; with huge pages it is one. A long buffer of its own gets huge pages anyhow, but most are shorter than one.
//!
//! Invariants: ranges that are taken are disjoint, and within the mapping; a range that is free has no memory and reads as zeros.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{PAGE_SIZE, mem};

/// A mapping that is handed out in ranges of whole pages.
pub(super) struct Arena {
    start: NonNull<u8>,
    len: usize,
    /// Free ranges by their offset; none touches another.
    free: Mutex<BTreeMap<usize, usize>>,
}

// SAFETY: the mapping has no tie to a thread, and what is shared is behind a lock.
unsafe impl Send for Arena {}
// SAFETY: as above; a shared reference gives access to no memory, only to addresses.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena for ranges of `limit` bytes in all; None if it would not make a huge page, or the system has no such address space. Takes
    /// no memory. It has more room than that, since ranges leave gaps.
    pub(super) fn new(limit: usize) -> Option<Self> {
        if limit < mem::HUGE_PAGE {
            return None;
        }
        let len = limit.checked_add(limit / 4)?.checked_next_multiple_of(mem::HUGE_PAGE)?;
        let start = mem::map_untouched(len).ok()?;
        Some(Self { start, len, free: Mutex::new(BTreeMap::from([(0, len)])) })
    }

    /// A range of `size` bytes (whole pages), of zeros; None if no gap is long enough. The lowest is taken, so that huge pages fill up.
    pub(super) fn take(&self, size: usize) -> Option<NonNull<u8>> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let mut free = self.lock();
        let (at, len) = free.iter().find(|(_, len)| **len >= size).map(|(at, len)| (*at, *len))?;
        free.remove(&at);
        if len > size {
            free.insert(at + size, len - size);
        }
        // SAFETY: free ranges lie within the mapping.
        Some(unsafe { self.start.add(at) })
    }

    /// Whether an address is of this arena.
    pub(super) fn contains(&self, start: NonNull<u8>) -> bool {
        (start.addr().get().wrapping_sub(self.start.addr().get())) < self.len
    }

    /// Gives a range back, and its memory to the system.
    ///
    /// # Safety
    /// `take` gave this very range, it was not given back since, and nobody uses it any more.
    pub(super) unsafe fn give_back(&self, start: NonNull<u8>, size: usize) {
        // SAFETY: the range is mapped, and by the caller's promise its contents matter to nobody.
        if unsafe { mem::discard(start, size) }.is_err() {
            // It would not read as zeros: better lost than handed out.
            return;
        }
        let at = start.addr().get() - self.start.addr().get();
        let (mut from, mut to) = (at, at + size);
        let mut free = self.lock();
        if let Some((before, len)) = free.range(..at).next_back().map(|(at, len)| (*at, *len))
            && before + len == at
        {
            free.remove(&before);
            from = before;
        }
        if let Some(len) = free.remove(&to) {
            to += len;
        }
        free.insert(from, to - from);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        // Nothing that can panic happens between two steps that belong together.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length. Who has a range of it holds the pool's core, and that holds this.
        unsafe { mem::unmap(self.start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 4 << 20;

    #[test]
    fn what_is_too_small_or_too_large_has_none() {
        assert!(Arena::new(mem::HUGE_PAGE - PAGE_SIZE).is_none());
        assert!(Arena::new(usize::MAX / 4).is_none(), "more than there is address space");
        let arena = Arena::new(LIMIT).unwrap();
        assert!(arena.take(0).is_none() && arena.take(PAGE_SIZE + 1).is_none() && arena.take(2 * LIMIT).is_none());
        assert!(!arena.contains(NonNull::dangling()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn ranges_are_disjoint_zeroed_and_come_back_whole(
            steps in prop::collection::vec((any::<bool>(), 1usize..400, any::<prop::sample::Index>()), 1..60),
        ) {
            let arena = Arena::new(LIMIT).unwrap();
            let mut taken: Vec<(NonNull<u8>, usize, u8)> = Vec::new();
            let check = |(start, size, mark): &(NonNull<u8>, usize, u8)| {
                // SAFETY: taken, written in full when it was, and not given back.
                let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), *size) };
                bytes.iter().all(|byte| byte == mark)
            };
            for (n, (give_back, pages, which)) in steps.into_iter().enumerate() {
                if give_back && !taken.is_empty() {
                    let range = taken.swap_remove(which.index(taken.len()));
                    prop_assert!(check(&range));
                    // SAFETY: it is not in the list any more.
                    unsafe { arena.give_back(range.0, range.1) };
                } else if let Some(start) = arena.take(pages * PAGE_SIZE) {
                    let (size, mark) = (pages * PAGE_SIZE, n as u8 | 1);
                    prop_assert!(arena.contains(start) && start.addr().get() % PAGE_SIZE == 0);
                    prop_assert!(check(&(start, size, 0)));
                    // SAFETY: just taken.
                    unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), size) }.fill(mark);
                    taken.push((start, size, mark));
                }
            }
            prop_assert!(taken.iter().all(check));
            for (start, size, _) in taken {
                // SAFETY: each once.
                unsafe { arena.give_back(start, size) };
            }
            prop_assert_eq!(&*arena.lock(), &BTreeMap::from([(0, arena.len)]));
        }
    }
}

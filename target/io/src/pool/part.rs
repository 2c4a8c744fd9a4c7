//! Parts of a pool buffer that have owners of their own, such as one read each.
//!
//! Invariants: the parts of one buffer never overlap, and while any of them lives nobody can reach the buffer as a whole. It is locked
//! away in an `Arc` that only parts hold, and nothing looks at its bytes there; parts cannot be cloned.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::slice;
use std::sync::Arc;

use super::PoolBuf;

/// A part of a [`PoolBuf`], or all of one, that is owned and writable by itself, on any thread. When the last part of a buffer is
/// dropped its memory goes back to the pool; [`Self::join`] makes the parts one buffer again.
pub struct PoolPart {
    whole: Whole,
    /// First byte in the buffer.
    at: usize,
    len: usize,
}

enum Whole {
    /// The only part of a buffer that was never split.
    Alone(PoolBuf),
    /// One of several.
    Split(Arc<Split>),
}

/// The buffer behind several parts. Its bytes are reached through the parts alone.
struct Split {
    buf: PoolBuf,
    parts: usize,
}

impl PoolBuf {
    /// Cuts the buffer into consecutive parts without copying: `n` cut points make `n + 1` parts, which share this buffer's memory.
    ///
    /// `at` counts in bytes from the buffer's start. Cut points ascend, equal ones make empty parts, and none is beyond the
    /// length; the buffer comes back if that does not hold. Memory beyond the length is in no part.
    pub fn split(self, at: &[usize]) -> Result<Vec<PoolPart>, Self> {
        let len = self.len();
        if !at.is_sorted() || at.last().is_some_and(|last| *last > len) {
            return Err(self);
        }
        if at.is_empty() {
            return Ok(vec![self.into()]);
        }
        let starts = std::iter::once(0).chain(at.iter().copied());
        let ends = at.iter().copied().chain(std::iter::once(len));
        let split = Arc::new(Split { buf: self, parts: at.len() + 1 });
        // Each part starts where the one before ends: ascending cut points within the buffer make them disjoint and keep them inside.
        Ok(starts
            .zip(ends)
            .map(|(start, end)| PoolPart { whole: Whole::Split(Arc::clone(&split)), at: start, len: end - start })
            .collect())
    }
}

impl PoolPart {
    /// The whole buffer again, from all its parts in any order. They come back as they were if any is missing, or is another buffer's.
    pub fn join(mut parts: Vec<Self>) -> Result<PoolBuf, Vec<Self>> {
        let Some(first) = parts.pop() else { return Err(parts) };
        let split = match first.whole {
            Whole::Alone(buf) if parts.is_empty() => return Ok(buf),
            Whole::Split(split) if split.parts == parts.len() + 1 && parts.iter().all(|p| p.is_of(&split)) => split,
            whole => {
                parts.push(Self { whole, ..first });
                return Err(parts);
            }
        };
        // As many parts of this buffer as there ever were: they hold every reference but `split`, which is the last now.
        drop(parts);
        Arc::into_inner(split).map(|split| split.buf).ok_or_else(Vec::new)
    }

    /// First byte in the buffer that the part is of, in bytes.
    pub fn offset(&self) -> usize {
        self.at
    }

    fn is_of(&self, split: &Arc<Split>) -> bool {
        matches!(&self.whole, Whole::Split(own) if Arc::ptr_eq(own, split))
    }

    /// Where the bytes are, for the kernel. Stays the same when the part is moved.
    pub(crate) fn start(&self) -> *mut u8 {
        let buf = match &self.whole {
            Whole::Alone(buf) => buf,
            Whole::Split(split) => &split.buf,
        };
        // Within the buffer's memory, or dangling for an empty buffer, whose only place is 0.
        buf.start().wrapping_add(self.at)
    }
}

impl From<PoolBuf> for PoolPart {
    /// All of a buffer as its only part, at no cost.
    fn from(buf: PoolBuf) -> Self {
        let len = buf.len();
        Self { whole: Whole::Alone(buf), at: 0, len }
    }
}

impl Deref for PoolPart {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `at` and `len` lie within the buffer's length, all of which is initialised, and no other part has these bytes.
        unsafe { slice::from_raw_parts(self.start(), self.len) }
    }
}

impl DerefMut for PoolPart {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` proves that there is no other access.
        unsafe { slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl AsMut<[u8]> for PoolPart {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl AsRef<[u8]> for PoolPart {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for PoolPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolPart").field("offset", &self.at).field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{PAGE_SIZE, Pool, PoolConfig};

    fn pool(limit: usize) -> Pool {
        Pool::new(PoolConfig { limit, shards: 1 })
    }

    fn lens(parts: &[PoolPart]) -> Vec<usize> {
        parts.iter().map(|p| p.len()).collect()
    }

    /// No files and no mappings: an interpreter that looks for undefined behaviour can run it.
    #[test]
    fn parts_are_written_at_once_on_many_threads_and_joined_in_any_order() {
        let pool = pool(16 * PAGE_SIZE);
        let mut parts = pool.alloc(10_000).unwrap().split(&[0, 4096, 4096, 9000]).unwrap();
        assert_eq!(lens(&parts), [0, 4096, 0, 4904, 1000]);
        assert_eq!(parts.iter().map(PoolPart::offset).collect::<Vec<_>>(), [0, 0, 4096, 4096, 9000]);
        // Every part is borrowed at the same time, which would be undefined if two overlapped.
        std::thread::scope(|s| {
            for (n, part) in parts.iter_mut().enumerate() {
                s.spawn(move || part.fill(n as u8 + 1));
            }
        });
        parts.rotate_left(2);
        let last = parts.pop().unwrap();
        let mut parts = PoolPart::join(parts).expect_err("one is missing");
        assert_eq!(lens(&parts), [0, 4904, 1000, 0], "they come back as they were");
        parts.push(last);
        let whole = PoolPart::join(parts).unwrap();
        let expected: Vec<u8> = [vec![2; 4096], vec![4; 4904], vec![5; 1000]].concat();
        assert!(*whole == expected[..]);
        assert_eq!(pool.in_use(), whole.capacity());
        drop(whole);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_buffer_in_one_piece_is_a_part_too() {
        let pool = pool(16 * PAGE_SIZE);
        for uncut in
            [PoolPart::from(pool.alloc(5000).unwrap()), pool.alloc(5000).unwrap().split(&[]).unwrap().remove(0)]
        {
            let mut part = uncut;
            part.fill(7);
            assert!(matches!(part.whole, Whole::Alone(_)), "nothing was allocated for it");
            let two = PoolPart::join(vec![part, pool.alloc(1).unwrap().into()]).expect_err("two buffers");
            let [part, _other] = <[PoolPart; 2]>::try_from(two).unwrap();
            let whole = PoolPart::join(vec![part]).unwrap();
            assert_eq!((whole.len(), whole.iter().all(|b| *b == 7)), (5000, true));
        }
        let empty = pool.alloc(0).unwrap().split(&[0]).unwrap();
        assert_eq!(lens(&empty), [0, 0]);
        assert!(PoolPart::join(empty).unwrap().is_empty());
        assert!(PoolPart::join(Vec::new()).unwrap_err().is_empty());
    }

    #[test]
    fn parts_of_two_buffers_do_not_join() {
        let pool = pool(16 * PAGE_SIZE);
        let halves = |mark| {
            let mut buf = pool.alloc(200).unwrap();
            buf.fill(mark);
            buf.split(&[100]).unwrap()
        };
        let (mut a, mut b) = (halves(1), halves(2));
        std::mem::swap(&mut a[0], &mut b[0]);
        let mut a = PoolPart::join(a).unwrap_err();
        let mut b = PoolPart::join(b).unwrap_err();
        std::mem::swap(&mut a[0], &mut b[0]);
        assert!(PoolPart::join(a).unwrap().iter().all(|x| *x == 1));
        assert!(PoolPart::join(b).unwrap().iter().all(|x| *x == 2));
    }

    #[test]
    fn the_last_part_gives_the_memory_back() {
        let pool = pool(16 * PAGE_SIZE);
        let mut parts = pool.alloc(8192).unwrap().split(&[4096]).unwrap();
        let mut kept = parts.pop().unwrap();
        drop(parts);
        assert_eq!((pool.in_use(), pool.cached()), (8192, 0));
        kept.fill(9);
        let kept = PoolPart::join(vec![kept]).expect_err("the other part is gone for good").remove(0);
        std::thread::spawn(move || drop(kept)).join().unwrap();
        assert_eq!((pool.in_use(), pool.cached()), (0, 8192));
    }

    #[test]
    fn bad_cut_points_give_the_buffer_back() {
        let pool = pool(16 * PAGE_SIZE);
        let mut buf = pool.alloc(100).unwrap();
        buf.fill(3);
        // The capacity is a page, but only 100 bytes are in use.
        for cuts in [&[101][..], &[2, 1], &[0, 50, 49, 100], &[usize::MAX], &[50, usize::MAX]] {
            buf = buf.split(cuts).expect_err("cut points out of order or beyond the end");
        }
        assert!(buf.len() == 100 && buf.iter().all(|b| *b == 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn splitting_is_slicing(
            len in 0usize..20_000,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            order in any::<u64>(),
            lost in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let pool = pool(1 << 20);
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(len + 1)).collect();
            cuts.sort_unstable();
            let mut model: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect();
            let mut buf = pool.alloc(len).unwrap();
            buf.copy_from_slice(&model);
            let at = buf.start() as usize;
            let mut parts = buf.split(&cuts).unwrap();
            prop_assert_eq!(parts.len(), cuts.len() + 1);
            let mut from = 0;
            for (n, part) in parts.iter_mut().enumerate() {
                let to = cuts.get(n).copied().unwrap_or(len);
                prop_assert_eq!(part.offset(), from);
                prop_assert!(**part == model[from..to]);
                for byte in part.iter_mut().chain(&mut model[from..to]) {
                    *byte = byte.wrapping_add(n as u8 + 1);
                }
                from = to;
            }
            // Some order of the parts, from the number.
            let mut keys: Vec<u64> = (0..parts.len() as u64).map(|n| (n + 1).wrapping_mul(order | 1).rotate_left(17)).collect();
            parts.sort_by_cached_key(|_| keys.pop());
            if let Some(lost) = lost.filter(|_| parts.len() > 1) {
                parts.remove(lost.index(parts.len()));
                prop_assert!(PoolPart::join(parts).is_err());
            } else {
                let whole = PoolPart::join(parts).unwrap();
                prop_assert!(*whole == model[..]);
                prop_assert_eq!(whole.start() as usize, at, "the same memory");
                drop(whole);
            }
            prop_assert_eq!(pool.in_use(), 0);
        }
    }
}

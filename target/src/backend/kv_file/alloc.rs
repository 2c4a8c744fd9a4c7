//! Free blocks of a file: best fit, and neighbours become one.

use std::collections::{BTreeMap, BTreeSet};

/// The free extents. Invariant: they do not overlap or touch, and both maps hold the same ones.
#[derive(Debug, Default)]
pub(super) struct Allocator {
    /// First block to number of blocks.
    by_start: BTreeMap<u64, u64>,
    /// (Number of blocks, first block).
    by_len: BTreeSet<(u64, u64)>,
    free: u64,
}

impl Allocator {
    #[cfg(test)]
    /// All free blocks.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// The first of `blocks` contiguous blocks, from the smallest extent that has as many; `None` if there is none, or if
    /// fewer than `keep` blocks would be left.
    pub(super) fn allocate(&mut self, blocks: u64, keep: u64) -> Option<u64> {
        if self.free < blocks.checked_add(keep)? {
            return None;
        }
        let (len, start) = *self.by_len.range((blocks, 0)..).next()?;
        self.remove(start, len);
        if len > blocks {
            self.insert(start + blocks, len - blocks);
        }
        self.free -= blocks;
        Some(start)
    }

    /// Makes `blocks` blocks from `start` free; they are not.
    pub(super) fn release(&mut self, mut start: u64, mut blocks: u64) {
        if blocks == 0 {
            return;
        }
        self.free += blocks;
        let before = self.by_start.range(..start).next_back().map(|(s, l)| (*s, *l));
        if let Some((s, l)) = before.filter(|(s, l)| s + l == start) {
            self.remove(s, l);
            (start, blocks) = (s, blocks + l);
        }
        if let Some(len) = self.by_start.get(&(start + blocks)).copied() {
            self.remove(start + blocks, len);
            blocks += len;
        }
        self.insert(start, blocks);
    }

    fn insert(&mut self, start: u64, len: u64) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn remove(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_smallest_that_fits_and_a_reserve() {
        let mut allocator = Allocator::default();
        allocator.release(10, 5);
        allocator.release(20, 3);
        assert_eq!(allocator.allocate(3, 0), Some(20));
        assert_eq!(allocator.allocate(3, 3), None);
        assert_eq!(allocator.allocate(3, 2), Some(10));
        assert_eq!(allocator.allocate(3, 0), None);
        assert_eq!(allocator.free(), 2);
        allocator.release(10, 3);
        assert_eq!(allocator.allocate(5, 0), Some(10));
        assert_eq!(allocator.allocate(u64::MAX, 1), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(steps in proptest::collection::vec((any::<bool>(), 1u64..9, any::<prop::sample::Index>()), 1..200)) {
            const BLOCKS: u64 = 64;
            let mut allocator = Allocator::default();
            allocator.release(0, BLOCKS);
            let mut used = [false; BLOCKS as usize];
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (take, blocks, pick) in steps {
                if take || taken.is_empty() {
                    let fits = used.split(|u| *u).any(|gap| gap.len() as u64 >= blocks);
                    let start = allocator.allocate(blocks, 0);
                    prop_assert_eq!(start.is_some(), fits);
                    if let Some(start) = start {
                        for block in start..start + blocks {
                            prop_assert!(!std::mem::replace(&mut used[block as usize], true));
                        }
                        taken.push((start, blocks));
                    }
                } else {
                    let (start, blocks) = taken.swap_remove(pick.index(taken.len()));
                    allocator.release(start, blocks);
                    used[start as usize..(start + blocks) as usize].fill(false);
                }
                prop_assert_eq!(allocator.free(), used.iter().filter(|u| !**u).count() as u64);
                let gaps = used.split(|u| *u).filter(|gap| !gap.is_empty()).count();
                prop_assert_eq!(allocator.by_start.len(), gaps);
                prop_assert_eq!(allocator.by_len.len(), gaps);
            }
        }
    }
}

//! Which parts of a region are handed out: none may overlap another.

use std::{collections::BTreeMap, ops::Range};

/// The parts of one region that are out, by their start.
#[derive(Debug, Default)]
pub(crate) struct Parts(BTreeMap<usize, usize>);

impl Parts {
    /// Hands out `range`; gives the part that it overlaps if there is one. An empty range overlaps nothing. O(log n).
    pub(crate) fn take(&mut self, range: Range<usize>) -> Result<(), Range<usize>> {
        if range.is_empty() {
            return Ok(());
        }
        // Parts do not overlap, so the last one that starts before our end is also the last one to end.
        match self.0.range(..range.end).next_back() {
            Some((start, end)) if *end > range.start => Err(*start..*end),
            _ => {
                self.0.insert(range.start, range.end);
                Ok(())
            }
        }
    }

    /// Takes back what [`Self::take`] handed out.
    pub(crate) fn give_back(&mut self, range: &Range<usize>) {
        if !range.is_empty() {
            let end = self.0.remove(&range.start);
            debug_assert_eq!(end, Some(range.end));
        }
    }

    /// Parts that are out.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_never_overlap_and_every_free_byte_can_be_had(
            steps in proptest::collection::vec((any::<bool>(), 0usize..64, 0usize..12), 1..200),
        ) {
            let mut parts = Parts::default();
            let mut taken = [false; 80];
            let mut out: Vec<Range<usize>> = Vec::new();
            for (take, start, len) in steps {
                if take {
                    let range = start..start + len;
                    let free = range.clone().all(|at| !taken[at]);
                    match parts.take(range.clone()) {
                        Ok(()) => {
                            prop_assert!(free, "{range:?} was handed out twice");
                            taken[range.clone()].fill(true);
                            out.push(range);
                        }
                        Err(other) => {
                            prop_assert!(!free, "{range:?} was free");
                            prop_assert!(out.contains(&other));
                            prop_assert!(other.start < range.end && range.start < other.end);
                        }
                    }
                } else if !out.is_empty() {
                    let range = out.swap_remove(start % out.len());
                    parts.give_back(&range);
                    taken[range].fill(false);
                }
                prop_assert_eq!(parts.len(), out.iter().filter(|r| !r.is_empty()).count());
            }
        }
    }
}

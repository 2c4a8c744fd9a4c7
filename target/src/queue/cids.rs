//! The command identifiers in use on a queue.

/// A set of 16-bit command identifiers: one bit each, so that a conflict is seen without a search.
#[derive(Debug)]
pub(super) struct CidSet(Box<[u64; 1024]>);

impl Default for CidSet {
    fn default() -> Self {
        Self(Box::new([0; 1024]))
    }
}

impl CidSet {
    /// Adds `cid`; false if it was in the set.
    pub(super) fn insert(&mut self, cid: u16) -> bool {
        let (word, bit) = self.place(cid);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Removes `cid`.
    pub(super) fn remove(&mut self, cid: u16) {
        let (word, bit) = self.place(cid);
        *word &= !bit;
    }

    fn place(&mut self, cid: u16) -> (&mut u64, u64) {
        (&mut self.0[usize::from(cid >> 6)], 1 << (cid & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identifier_has_its_own_bit() {
        let mut set = CidSet::default();
        assert!((0..=u16::MAX).all(|cid| set.insert(cid)));
        assert!((0..=u16::MAX).all(|cid| !set.insert(cid)));
        set.remove(65535);
        assert!(set.insert(65535));
        assert!(!set.insert(65534));
    }
}

//! The command identifiers in use on a queue.

/// Words of a block: 1024 identifiers.
const BLOCK: usize = 16;

/// A set of 16-bit command identifiers: one bit each, so that a conflict is seen without a search. Memory for a block of them is
/// taken when one of them is first used, since hosts use few, and idle ones hardly any.
#[derive(Debug)]
pub(super) struct CidSet([Option<Box<[u64; BLOCK]>>; 65_536 / 64 / BLOCK]);

impl Default for CidSet {
    fn default() -> Self {
        Self([const { None }; 65_536 / 64 / BLOCK])
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
        let block = self.0[usize::from(cid >> 10)].get_or_insert_with(|| Box::new([0; BLOCK]));
        (&mut block[usize::from(cid >> 6) % BLOCK], 1 << (cid & 63))
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

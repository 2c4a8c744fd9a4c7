//! Identify I/O Command Set (CNS 1Ch, section 5.17.2): combinations of command sets that can be in use together.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::U64;

/// Vectors of the data structure.
pub const IDENTIFY_IOCS_VECTORS: usize = 512;

bitflags::bitflags! {
    /// One combination: a bit for each command set.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct IocsVector: u64 {
        /// NVM command set.
        const NVM = 1 << 0;
        /// Key Value command set.
        const KV = 1 << 1;
        /// Zoned Namespace command set.
        const ZNS = 1 << 2;
        const _ = !0;
    }
}

/// Identify I/O Command Set data structure, 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyIocs {
    /// Combinations, by the index that feature 19h selects; the first 0 ends them.
    pub vectors: [U64; IDENTIFY_IOCS_VECTORS],
}
assert_layout!(IdentifyIocs, 4096, vectors @ 0);
zeroed!(IdentifyIocs);

impl IdentifyIocs {
    /// The structure with `vectors`; more than 512 are cut off.
    #[must_use]
    pub fn new(vectors: &[IocsVector]) -> Self {
        let mut id = Self::zeroed();
        for (to, from) in id.vectors.iter_mut().zip(vectors) {
            *to = from.bits().into();
        }
        id
    }

    /// The combinations before the first 0.
    pub fn iter(&self) -> impl Iterator<Item = IocsVector> + '_ {
        self.vectors.iter().map(|v| IocsVector::from_bits_retain(v.get())).take_while(|v| !v.is_empty())
    }
}

impl core::fmt::Debug for IdentifyIocs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_end_at_zero() {
        let id = IdentifyIocs::new(&[IocsVector::NVM | IocsVector::KV, IocsVector::KV]);
        assert_eq!(id.as_bytes()[..17], [3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(id.iter().count(), 2);
    }
}

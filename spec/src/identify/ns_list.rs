//! Namespace lists (CNS 02h and 07h, section 5.17.2): up to 1024 identifiers, ascending, ended by 0.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::U32;

/// Entries of a namespace list.
pub const NS_LIST_ENTRIES: usize = 1024;

/// A namespace list, 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NsList {
    /// Namespace identifiers; the first 0 ends the list.
    pub nsids: [U32; NS_LIST_ENTRIES],
}
assert_layout!(NsList, 4096, nsids @ 0);
zeroed!(NsList);

impl NsList {
    /// The list that answers a request with NSID `after`: the lowest 1024 of `nsids` that are greater than `after`,
    /// ascending, each once. The source may be in any order.
    #[must_use]
    pub fn after(after: u32, nsids: impl IntoIterator<Item = u32>) -> Self {
        let mut list = Self::zeroed();
        let mut len = 0;
        for nsid in nsids.into_iter().filter(|n| *n > after) {
            let used = list.nsids.get(..len).unwrap_or_default();
            let Err(at) = used.binary_search_by_key(&nsid, |n| n.get()) else { continue };
            len = (len + 1).min(NS_LIST_ENTRIES);
            // Empty where the list is full and `nsid` greater than all of it.
            if let Some(tail @ [_, ..]) = list.nsids.get_mut(at..len) {
                tail.rotate_right(1);
                tail[0] = nsid.into();
            }
        }
        list
    }

    /// The identifiers before the first 0.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.nsids.iter().map(|n| n.get()).take_while(|n| *n != 0)
    }
}

impl core::fmt::Debug for NsList {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascending_and_greater_than_the_start() {
        let list = NsList::after(2, [9, 1, 3, 2, 9, 7]);
        assert_eq!(list.iter().collect::<Vec<_>>(), [3, 7, 9]);
        assert_eq!(NsList::after(0, []).iter().count(), 0);
        assert_eq!(format!("{list:?}"), "[3, 7, 9]");
    }

    #[test]
    fn a_full_list_keeps_the_lowest() {
        let descending = NsList::after(10, (1..=3000).rev());
        assert_eq!(descending.iter().collect::<Vec<_>>(), (11..=1034).collect::<Vec<_>>());
        assert_eq!(descending, NsList::after(10, 1..=3000));
    }
}

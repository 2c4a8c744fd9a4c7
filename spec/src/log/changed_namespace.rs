//! Changed Namespace List (LID 04h, section 5.16.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::identify::{NS_LIST_ENTRIES, NSID_ALL, NsList};

/// Changed Namespace List log page, 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChangedNamespaceList {
    /// The namespaces; FFFFFFFFh alone if there are more than fit.
    pub list: NsList,
}
assert_layout!(ChangedNamespaceList, 4096, list @ 0);
zeroed!(ChangedNamespaceList);

impl ChangedNamespaceList {
    /// The page for `nsids`, in any order: all of them, or the overflow mark if there are more than 1024.
    #[must_use]
    pub fn new(nsids: impl IntoIterator<Item = u32>) -> Self {
        let mut seen = 0_usize;
        let list = NsList::after(0, nsids.into_iter().inspect(|_| seen += 1).take(NS_LIST_ENTRIES + 1));
        if seen > NS_LIST_ENTRIES {
            return Self { list: NsList::after(0, [NSID_ALL]) };
        }
        Self { list }
    }

    /// Whether more namespaces changed than the page can name, so that all must be looked at.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.list.iter().next() == Some(NSID_ALL)
    }
}

impl core::fmt::Debug for ChangedNamespaceList {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.overflowed() { f.write_str("[more than 1024]") } else { self.list.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_is_marked() {
        let page = ChangedNamespaceList::new([5, 2]);
        assert_eq!(page.list.iter().collect::<Vec<_>>(), [2, 5]);
        assert!(!page.overflowed());
        assert!(!ChangedNamespaceList::new(1..=1024).overflowed());
        let page = ChangedNamespaceList::new(1..=1025);
        assert!(page.overflowed());
        assert_eq!(page.as_bytes()[..8], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    }
}

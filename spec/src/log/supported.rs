//! Supported Log Pages (LID 00h, section 5.16.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::LogId;
use crate::U32;

bitflags::bitflags! {
    /// LID Supported and Effects: one log page.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LogSupport: u32 {
        /// LSUPP: the page is supported.
        const LSUPP = 1 << 0;
        /// IOS: an index as the offset is supported.
        const IOS = 1 << 1;
        const _ = !0;
    }
}

/// Supported Log Pages log page, 1024 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SupportedLogPages {
    /// By LID; see [`LogSupport`]. Bits 31:16 depend on the page.
    pub lids: [U32; 256],
}
assert_layout!(SupportedLogPages, 1024, lids @ 0);
zeroed!(SupportedLogPages);

impl SupportedLogPages {
    /// The page that names `lids`.
    #[must_use]
    pub fn new(lids: impl IntoIterator<Item = LogId>) -> Self {
        let mut page = Self::zeroed();
        for lid in lids {
            page.lids[usize::from(lid.0)] = LogSupport::LSUPP.bits().into();
        }
        page
    }

    /// Support of log page `lid`.
    #[must_use]
    pub fn support(&self, lid: LogId) -> LogSupport {
        LogSupport::from_bits_retain(self.lids[usize::from(lid.0)].get())
    }
}

impl core::fmt::Debug for SupportedLogPages {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let all = (0..=u8::MAX).map(LogId).map(|lid| (lid, self.support(lid)));
        f.debug_map().entries(all.filter(|(_, support)| !support.is_empty())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexed_by_lid() {
        let page = SupportedLogPages::new([LogId::DISCOVERY]);
        assert_eq!(page.as_bytes()[0x70 * 4], 1);
        assert_eq!(page.support(LogId::DISCOVERY), LogSupport::LSUPP);
        assert!(page.support(LogId(0xff)).is_empty());
    }
}

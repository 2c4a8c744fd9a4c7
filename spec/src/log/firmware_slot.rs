//! Firmware Slot Information (LID 03h, section 5.16.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::text::Shown;

/// Firmware Slot Information log page, 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FirmwareSlot {
    /// AFI: the running slot in bits 2:0, the slot of the next reset in bits 6:4 (0: the same).
    pub afi: u8,
    /// Reserved.
    pub rsvd1: [u8; 7],
    /// FRS1 to FRS7: revisions, ASCII; zero for an empty slot.
    pub frs: [[u8; 8]; 7],
    /// Reserved.
    pub rsvd64: [u8; 448],
}
assert_layout!(FirmwareSlot, 512, afi @ 0, frs @ 8, rsvd64 @ 64);
zeroed!(FirmwareSlot);
impl_debug!(FirmwareSlot, s => { afi: s.afi, frs: s.frs.each_ref().map(|r| Shown(r)) });

impl FirmwareSlot {
    /// A controller with one slot, which holds and runs revision `fr` (as in Identify Controller).
    #[must_use]
    pub fn single(fr: [u8; 8]) -> Self {
        let mut page = Self { afi: 1, ..Self::zeroed() };
        if let Some(slot) = page.frs.first_mut() {
            *slot = fr;
        }
        page
    }
}

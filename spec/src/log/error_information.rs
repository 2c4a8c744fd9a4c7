//! Error Information (LID 01h, section 5.16.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Status, U16, U32, U64};

/// One entry of the Error Information log page, newest first; 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorInformation {
    /// Error count: identifies the error; 0 the entry is not valid.
    pub error_count: U64,
    /// Submission queue of the command.
    pub sqid: U16,
    /// Identifier of the command.
    pub cid: U16,
    /// Status field of its completion, bits 15:1.
    pub status_field: U16,
    /// Byte in bits 7:0 and bit in bits 10:8 of the command where the error is; FFFFh if none.
    pub parameter_error_location: U16,
    /// First logical block with the error.
    pub lba: U64,
    /// Namespace.
    pub nsid: U32,
    /// Log page with vendor specific information; 0 none.
    pub vendor_log_page: u8,
    /// TRTYPE: transport type.
    pub trtype: u8,
    /// Reserved.
    pub rsvd30: [u8; 2],
    /// Command specific information.
    pub command_specific: U64,
    /// Transport type specific information.
    pub transport_specific: U16,
    /// Reserved.
    pub rsvd42: [u8; 22],
}
assert_layout!(ErrorInformation, 64,
    error_count @ 0, sqid @ 8, cid @ 10, status_field @ 12, parameter_error_location @ 14, lba @ 16, nsid @ 24,
    vendor_log_page @ 28, trtype @ 29, command_specific @ 32, transport_specific @ 40);
impl_debug!(ErrorInformation, s => {
    error_count: s.error_count.get(), sqid: s.sqid.get(), cid: s.cid.get(), status: s.status(),
    parameter_error_location: s.parameter_error_location.get(), nsid: s.nsid.get(),
});

impl ErrorInformation {
    /// The status.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status::from_wire(self.status_field.get())
    }
}

//! Completion queue entry (section 3.3.3.2). Over fabrics it is the response capsule and has no phase tag.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Status, U16, U32};

/// Size of a completion queue entry, bytes.
pub const CQE_SIZE: usize = 16;

/// A completion queue entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Cqe {
    /// Command-specific result, dword 0.
    pub dw0: U32,
    /// Command-specific result, dword 1 (Property Get of 8 bytes uses both).
    pub dw1: U32,
    /// Submission queue head pointer; FFFFh where SQ flow control is disabled.
    pub sqhd: U16,
    /// Submission queue identifier; reserved over fabrics.
    pub sqid: U16,
    /// Identifier of the command that completed.
    pub cid: U16,
    /// Status field in bits 15:1; bit 0 (phase) is reserved over fabrics.
    pub status_field: U16,
}

assert_layout!(Cqe, CQE_SIZE, dw0 @ 0, dw1 @ 4, sqhd @ 8, sqid @ 10, cid @ 12, status_field @ 14);

impl Cqe {
    /// The completion of command `cid` with `status`, result zero and SQHD zero.
    #[must_use]
    pub fn new(cid: u16, status: Status) -> Self {
        Self { cid: cid.into(), status_field: status.to_wire().into(), ..Self::default() }
    }

    /// The status, without the phase bit.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_wire(self.status_field.get())
    }

    /// Dwords 0 and 1 as one number.
    #[must_use]
    pub fn result(&self) -> u64 {
        u64::from(self.dw1.get()) << 32 | u64::from(self.dw0.get())
    }

    /// The same entry with dwords 0 and 1 set from one number.
    #[must_use]
    pub fn with_result(mut self, result: u64) -> Self {
        let b = result.to_le_bytes();
        self.dw0 = U32::from_bytes([b[0], b[1], b[2], b[3]]);
        self.dw1 = U32::from_bytes([b[4], b[5], b[6], b[7]]);
        self
    }

    /// The entry as it is on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CQE_SIZE] {
        zerocopy::transmute!(*self)
    }

    /// The entry that `bytes` hold.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; CQE_SIZE]) -> Self {
        zerocopy::transmute!(*bytes)
    }
}

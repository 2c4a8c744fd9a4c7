//! Abort command (section 5.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{AdminOpcode, CommandHead, U16};

/// The Abort command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AbortCmd {
    /// Common part.
    pub head: CommandHead,
    /// SQID: submission queue of the command to abort.
    pub sqid: U16,
    /// CID: identifier of the command to abort.
    pub abort_cid: U16,
    /// Reserved.
    pub rsvd44: [u8; 20],
}
assert_layout!(AbortCmd, 64, head @ 0, sqid @ 40, abort_cid @ 42);
command_view!(AbortCmd);

/// Completion dword 0 bit 0: the command was not aborted.
pub const NOT_ABORTED: u32 = 1;

impl AbortCmd {
    /// Aborts command `cid` of submission queue `sqid`.
    #[must_use]
    pub fn new(sqid: u16, cid: u16) -> Self {
        Self {
            head: CommandHead::new(AdminOpcode::ABORT, 0),
            sqid: sqid.into(),
            abort_cid: cid.into(),
            rsvd44: [0; 20],
        }
    }
}

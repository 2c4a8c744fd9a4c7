//! Submission queue entry: the 64-byte command (section 3.3.3.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{SglDescriptor, U16, U32, U64};

/// Size of a submission queue entry, bytes.
pub const SQE_SIZE: usize = 64;

/// A submission queue entry with the common layout; each command reads its own meaning out of the dwords.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Sqe {
    /// Opcode (CDW0 bits 7:0).
    pub opcode: u8,
    /// FUSE (bits 1:0) and PSDT (bits 7:6) of CDW0 bits 15:8.
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// Namespace identifier. For a Fabrics command, byte 4 is FCTYPE.
    pub nsid: U32,
    /// Command dword 2.
    pub cdw2: U32,
    /// Command dword 3.
    pub cdw3: U32,
    /// Metadata pointer.
    pub mptr: U64,
    /// Data pointer; over fabrics always one SGL descriptor.
    pub sgl1: SglDescriptor,
    /// Command dword 10.
    pub cdw10: U32,
    /// Command dword 11.
    pub cdw11: U32,
    /// Command dword 12.
    pub cdw12: U32,
    /// Command dword 13.
    pub cdw13: U32,
    /// Command dword 14.
    pub cdw14: U32,
    /// Command dword 15.
    pub cdw15: U32,
}

assert_layout!(Sqe, SQE_SIZE,
    opcode @ 0, flags @ 1, cid @ 2, nsid @ 4, cdw2 @ 8, cdw3 @ 12, mptr @ 16, sgl1 @ 24,
    cdw10 @ 40, cdw11 @ 44, cdw12 @ 48, cdw13 @ 52, cdw14 @ 56, cdw15 @ 60);

/// PSDT value 01b: SGL used for data, metadata (if any) in a contiguous buffer. The only value fabrics use.
pub const PSDT_SGL: u8 = 0x40;

impl Sqe {
    /// An entry with `opcode`, PSDT 01b (SGL) and everything else zero.
    #[must_use]
    pub fn new(opcode: impl Into<u8>) -> Self {
        Self { opcode: opcode.into(), flags: PSDT_SGL, ..Self::default() }
    }

    /// FUSE: 0 normal, 1 first and 2 second command of a fused operation.
    #[must_use]
    pub const fn fuse(&self) -> u8 {
        self.flags & 0x03
    }

    /// PSDT: 0 PRP, 1 SGL with contiguous metadata, 2 SGL with SGL metadata.
    #[must_use]
    pub const fn psdt(&self) -> u8 {
        self.flags >> 6
    }

    /// FCTYPE of a Fabrics command (byte 4).
    #[must_use]
    pub fn fctype(&self) -> u8 {
        self.nsid.get().to_le_bytes()[0]
    }

    /// The entry as it is on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SQE_SIZE] {
        zerocopy::transmute!(*self)
    }

    /// The entry that `bytes` hold.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; SQE_SIZE]) -> Self {
        zerocopy::transmute!(*bytes)
    }
}

/// Bytes 0 to 39 of a command: what all commands but those of Fabrics share. Typed command views begin with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandHead {
    /// Opcode.
    pub opcode: u8,
    /// FUSE and PSDT; see [`Sqe::flags`].
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// Namespace identifier.
    pub nsid: U32,
    /// Command dword 2.
    pub cdw2: U32,
    /// Command dword 3.
    pub cdw3: U32,
    /// Metadata pointer.
    pub mptr: U64,
    /// Data pointer.
    pub sgl1: SglDescriptor,
}

assert_layout!(CommandHead, 40, opcode @ 0, flags @ 1, cid @ 2, nsid @ 4, cdw2 @ 8, cdw3 @ 12, mptr @ 16, sgl1 @ 24);

impl CommandHead {
    /// A head with `opcode`, PSDT 01b (SGL), namespace `nsid` and everything else zero.
    #[must_use]
    pub fn new(opcode: impl Into<u8>, nsid: u32) -> Self {
        Self { opcode: opcode.into(), flags: PSDT_SGL, nsid: nsid.into(), ..Self::default() }
    }
}

impl core::fmt::Debug for Sqe {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sqe")
            .field("opcode", &format_args!("{:#04x}", self.opcode))
            .field("flags", &format_args!("{:#04x}", self.flags))
            .field("cid", &self.cid.get())
            .field("nsid", &format_args!("{:#x}", self.nsid.get()))
            .field("cdw2", &format_args!("{:#010x}", self.cdw2.get()))
            .field("cdw3", &format_args!("{:#010x}", self.cdw3.get()))
            .field("sgl1", &self.sgl1)
            .field("cdw10", &format_args!("{:#010x}", self.cdw10.get()))
            .field("cdw11", &format_args!("{:#010x}", self.cdw11.get()))
            .field("cdw12", &format_args!("{:#010x}", self.cdw12.get()))
            .field("cdw13", &format_args!("{:#010x}", self.cdw13.get()))
            .field("cdw14", &format_args!("{:#010x}", self.cdw14.get()))
            .field("cdw15", &format_args!("{:#010x}", self.cdw15.get()))
            .finish_non_exhaustive()
    }
}

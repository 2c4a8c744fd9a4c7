//! Structures that are specific to the NVM command set: CNS 05h and CNS 06h with CSI 00h (NVM section 4.1.5).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{U32, U64};

/// I/O Command Set specific Identify Controller of the NVM command set (CNS 06h, CSI 00h), 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyControllerNvm {
    /// VSL: longest Verify, 2^VSL smallest memory pages; 0 no limit.
    pub vsl: u8,
    /// WZSL: longest Write Zeroes, 2^WZSL smallest memory pages; 0 no limit.
    pub wzsl: u8,
    /// WUSL: longest Write Uncorrectable, 2^WUSL smallest memory pages; 0 no limit.
    pub wusl: u8,
    /// DMRL: most ranges of Dataset Management; 0 no limit.
    pub dmrl: u8,
    /// DMRSL: longest range of Dataset Management, logical blocks; 0 no limit.
    pub dmrsl: U32,
    /// DMSL: most logical blocks of Dataset Management; 0 no limit.
    pub dmsl: U64,
    /// Reserved.
    pub rsvd16: [u8; 4080],
}
assert_layout!(IdentifyControllerNvm, 4096, vsl @ 0, wzsl @ 1, wusl @ 2, dmrl @ 3, dmrsl @ 4, dmsl @ 8, rsvd16 @ 16);
zeroed!(IdentifyControllerNvm);
impl_debug!(IdentifyControllerNvm, s => {
    vsl: s.vsl, wzsl: s.wzsl, wusl: s.wusl, dmrl: s.dmrl, dmrsl: s.dmrsl.get(), dmsl: s.dmsl.get(),
});

/// Extended LBA Format: one dword for each LBA format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct ExtendedLbaFormat(pub u32);

bit_fields! {
    ExtendedLbaFormat(u32)
    fields {
        /// STS: storage tag size, bits.
        sts / with_sts: u8 = 0, 7;
        /// PIF: protection information format; 0 is 16-bit guard.
        pif / with_pif: u8 = 7, 2;
    }
    bits {}
}

/// I/O Command Set specific Identify Namespace of the NVM command set (CNS 05h, CSI 00h), 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespaceNvm {
    /// LBSTM: logical block storage tag mask.
    pub lbstm: U64,
    /// PIC: protection information capabilities.
    pub pic: u8,
    /// Reserved.
    pub rsvd9: [u8; 3],
    /// ELBAF0 to ELBAF63; see [`ExtendedLbaFormat`].
    pub elbaf: [U32; 64],
    /// Reserved.
    pub rsvd268: [u8; 3828],
}
assert_layout!(IdentifyNamespaceNvm, 4096, lbstm @ 0, pic @ 8, elbaf @ 12, rsvd268 @ 268);
zeroed!(IdentifyNamespaceNvm);
impl_debug!(IdentifyNamespaceNvm, s => {
    lbstm: s.lbstm.get(), pic: s.pic, elbaf0: s.elbaf.first().map(|e| ExtendedLbaFormat(e.get())),
});

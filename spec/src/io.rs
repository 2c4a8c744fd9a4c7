//! NVM command set I/O commands (NVM section 3.2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{CommandHead, NvmOpcode, U16, U32, U64};

bitflags::bitflags! {
    /// Bits 31:16 of command dword 12 of Read, Write, Compare and Write Zeroes.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RwFlags: u16 {
        /// STC: storage tag check (CDW12 bit 24).
        const STC = 1 << 8;
        /// DEAC: deallocate (Write Zeroes, CDW12 bit 25).
        const DEAC = 1 << 9;
        /// PRINFO.PRCHK: check the reference tag (CDW12 bit 26).
        const PRCHK_REF = 1 << 10;
        /// PRINFO.PRCHK: check the application tag (CDW12 bit 27).
        const PRCHK_APP = 1 << 11;
        /// PRINFO.PRCHK: check the guard (CDW12 bit 28).
        const PRCHK_GUARD = 1 << 12;
        /// PRINFO.PRACT: protection information action (CDW12 bit 29).
        const PRACT = 1 << 13;
        /// FUA: force unit access (CDW12 bit 30).
        const FUA = 1 << 14;
        /// LR: limited retry (CDW12 bit 31).
        const LR = 1 << 15;
        const _ = !0;
    }
}

/// Read, Write, Compare, Write Zeroes and Write Uncorrectable.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RwCmd {
    /// Common part.
    pub head: CommandHead,
    /// SLBA: first logical block.
    pub slba: U64,
    /// NLB: logical blocks, 0's based.
    pub nlb: U16,
    /// The upper half of dword 12; see [`RwFlags`].
    pub control: U16,
    /// DSM: dataset management hints.
    pub dsm: u8,
    /// Reserved.
    pub rsvd53: u8,
    /// DSPEC: directive specific (Write).
    pub dspec: U16,
    /// ILBRT or EILBRT: reference tag.
    pub reftag: U32,
    /// LBAT or ELBAT: application tag.
    pub apptag: U16,
    /// LBATM or ELBATM: application tag mask.
    pub appmask: U16,
}
assert_layout!(RwCmd, 64,
    head @ 0, slba @ 40, nlb @ 48, control @ 50, dsm @ 52, dspec @ 54, reftag @ 56, apptag @ 60, appmask @ 62);
command_view!(RwCmd);
impl_debug!(RwCmd, s => {
    opcode: NvmOpcode(s.head.opcode), cid: s.head.cid.get(), nsid: s.head.nsid.get(), sgl1: s.head.sgl1,
    slba: s.slba.get(), nlb: s.nlb.get(), flags: s.flags(),
});

impl RwCmd {
    /// `opcode` on `blocks` logical blocks (1's based, at least 1) from `slba` of namespace `nsid`; `None` if `blocks`
    /// is 0 or more than 65,536.
    #[must_use]
    pub fn new(opcode: NvmOpcode, nsid: u32, slba: u64, blocks: u32) -> Option<Self> {
        let nlb = u16::try_from(blocks.checked_sub(1)?).ok()?;
        let mut cmd = Self::from_sqe(&crate::Sqe::new(opcode));
        cmd.head.nsid = nsid.into();
        cmd.slba = slba.into();
        cmd.nlb = nlb.into();
        Some(cmd)
    }

    /// Logical blocks, 1's based.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.nlb.get() as u32 + 1
    }

    /// FUA and the other flags, unknown bits kept.
    #[must_use]
    pub const fn flags(&self) -> RwFlags {
        RwFlags::from_bits_retain(self.control.get())
    }
}

bitflags::bitflags! {
    /// Attributes of Dataset Management (dword 11).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct DsmAttributes: u32 {
        /// IDR: integral dataset for read.
        const IDR = 1 << 0;
        /// IDW: integral dataset for write.
        const IDW = 1 << 1;
        /// AD: deallocate the ranges.
        const AD = 1 << 2;
        const _ = !0;
    }
}

/// Most ranges of one Dataset Management command.
pub const DSM_RANGES_MAX: usize = 256;

/// Dataset Management; its data is NR + 1 [`DsmRange`].
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DsmCmd {
    /// Common part.
    pub head: CommandHead,
    /// NR: ranges, 0's based.
    pub nr: u8,
    /// Reserved.
    pub rsvd41: [u8; 3],
    /// Attributes; see [`DsmAttributes`].
    pub attributes: U32,
    /// Reserved.
    pub rsvd48: [u8; 16],
}
assert_layout!(DsmCmd, 64, head @ 0, nr @ 40, attributes @ 44);
command_view!(DsmCmd);
impl_debug!(DsmCmd, s => {
    cid: s.head.cid.get(), nsid: s.head.nsid.get(), sgl1: s.head.sgl1, nr: s.nr, attributes: s.attributes(),
});

impl DsmCmd {
    /// A command for `ranges` ranges (1 to 256); `None` for any other count.
    #[must_use]
    pub fn new(nsid: u32, ranges: usize, attributes: DsmAttributes) -> Option<Self> {
        let nr = u8::try_from(ranges.checked_sub(1)?).ok()?;
        let mut cmd = Self::from_sqe(&crate::Sqe::new(NvmOpcode::DATASET_MANAGEMENT));
        cmd.head.nsid = nsid.into();
        cmd.nr = nr;
        cmd.attributes = attributes.bits().into();
        Some(cmd)
    }

    /// Ranges, 1's based.
    #[must_use]
    pub const fn ranges(&self) -> usize {
        self.nr as usize + 1
    }

    /// The attributes, unknown bits kept.
    #[must_use]
    pub const fn attributes(&self) -> DsmAttributes {
        DsmAttributes::from_bits_retain(self.attributes.get())
    }
}

/// One range of Dataset Management.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes.
    pub cattr: U32,
    /// Length in logical blocks, 1's based: 0 is an empty range.
    pub nlb: U32,
    /// First logical block.
    pub slba: U64,
}
assert_layout!(DsmRange, 16, cattr @ 0, nlb @ 4, slba @ 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_of_one_block_with_fua() {
        let mut cmd = RwCmd::new(NvmOpcode::READ, 7, 0x1122_3344_5566_7788, 1).unwrap();
        cmd.control = RwFlags::FUA.bits().into();
        let sqe = cmd.to_sqe();
        assert_eq!(sqe.cdw10.get(), 0x5566_7788);
        assert_eq!(sqe.cdw11.get(), 0x1122_3344);
        assert_eq!(sqe.cdw12.get(), 1 << 30);
        assert_eq!(RwCmd::from_sqe(&sqe).blocks(), 1);
        assert_eq!(RwCmd::new(NvmOpcode::READ, 1, 0, 0), None);
        assert_eq!(RwCmd::new(NvmOpcode::READ, 1, 0, 65_537), None);
        assert_eq!(RwCmd::new(NvmOpcode::READ, 1, 0, 65_536).unwrap().nlb.get(), 0xffff);
    }

    #[test]
    fn dataset_management() {
        let cmd = DsmCmd::new(1, 256, DsmAttributes::AD).unwrap();
        assert_eq!((cmd.nr, cmd.to_sqe().cdw11.get()), (255, 4));
        assert_eq!(DsmCmd::new(1, 0, DsmAttributes::AD), None);
        assert_eq!(DsmCmd::new(1, 257, DsmAttributes::AD), None);
    }
}

//! Identify Namespace of the NVM command set (CNS 00h, NVM section 4.1.5.1).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Nmic, NsAttributes};
use crate::text::Hex;
use crate::{U16, U32, U64, U128};

bitflags::bitflags! {
    /// Namespace Features.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct NsFeatures: u8 {
        /// Thin provisioning.
        const THIN = 1 << 0;
        /// NAWUN, NAWUPF and NACWU are defined.
        const ATOMICS = 1 << 1;
        /// Deallocated or unwritten block errors.
        const DULBE = 1 << 2;
        /// NGUID and EUI64 are never used again.
        const UID_REUSE = 1 << 3;
        /// NPWG, NPWA, NPDG, NPDA and NOWS are defined.
        const OPTPERF = 1 << 4;
        const _ = !0;
    }
}

/// LBA Format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LbaFormat {
    /// MS: metadata bytes of a block.
    pub ms: U16,
    /// LBADS: block size, 2^LBADS bytes, at least 9; 0 the format is not available.
    pub lbads: u8,
    /// RP: relative performance, bits 1:0; 0 best.
    pub rp: u8,
}
assert_layout!(LbaFormat, 4, ms @ 0, lbads @ 2, rp @ 3);

/// Identify Namespace data structure of the NVM command set, 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE: size, logical blocks.
    pub nsze: U64,
    /// NCAP: capacity, logical blocks.
    pub ncap: U64,
    /// NUSE: utilization, logical blocks.
    pub nuse: U64,
    /// NSFEAT; see [`NsFeatures`].
    pub nsfeat: u8,
    /// NLBAF: LBA formats, 0's based.
    pub nlbaf: u8,
    /// FLBAS: current format in bits 3:0 and (high part) 6:5; bit 4 metadata at the end of the data.
    pub flbas: u8,
    /// MC: metadata capabilities.
    pub mc: u8,
    /// DPC: end-to-end data protection capabilities.
    pub dpc: u8,
    /// DPS: end-to-end data protection settings.
    pub dps: u8,
    /// NMIC; see [`Nmic`].
    pub nmic: u8,
    /// RESCAP: reservation capabilities.
    pub rescap: u8,
    /// FPI: format progress.
    pub fpi: u8,
    /// DLFEAT: deallocate features; bits 2:0 001b read as zero, bit 3 Write Zeroes deallocates.
    pub dlfeat: u8,
    /// NAWUN: atomic write unit, normal, logical blocks, 0's based.
    pub nawun: U16,
    /// NAWUPF: atomic write unit, power fail, logical blocks, 0's based.
    pub nawupf: U16,
    /// NACWU: atomic compare and write unit, logical blocks, 0's based.
    pub nacwu: U16,
    /// NABSN: atomic boundary size, normal, logical blocks, 0's based.
    pub nabsn: U16,
    /// NABO: atomic boundary offset, logical blocks.
    pub nabo: U16,
    /// NABSPF: atomic boundary size, power fail, logical blocks, 0's based.
    pub nabspf: U16,
    /// NOIOB: optimal I/O boundary, logical blocks.
    pub noiob: U16,
    /// NVMCAP: capacity, bytes.
    pub nvmcap: U128,
    /// NPWG: preferred write granularity, logical blocks, 0's based.
    pub npwg: U16,
    /// NPWA: preferred write alignment, logical blocks, 0's based.
    pub npwa: U16,
    /// NPDG: preferred deallocate granularity, logical blocks, 0's based.
    pub npdg: U16,
    /// NPDA: preferred deallocate alignment, logical blocks, 0's based.
    pub npda: U16,
    /// NOWS: optimal write size, logical blocks, 0's based.
    pub nows: U16,
    /// MSSRL: longest source range of Copy, logical blocks.
    pub mssrl: U16,
    /// MCL: longest Copy, logical blocks.
    pub mcl: U32,
    /// MSRC: most source ranges of Copy, 0's based.
    pub msrc: u8,
    /// Reserved.
    pub rsvd81: u8,
    /// NULBAF: unique capability LBA formats.
    pub nulbaf: u8,
    /// Reserved.
    pub rsvd83: [u8; 9],
    /// ANAGRPID: ANA group.
    pub anagrpid: U32,
    /// Reserved.
    pub rsvd96: [u8; 3],
    /// NSATTR; see [`NsAttributes`].
    pub nsattr: u8,
    /// NVMSETID: NVM set.
    pub nvmsetid: U16,
    /// ENDGID: endurance group.
    pub endgid: U16,
    /// NGUID: globally unique identifier, big endian; zero if there is none.
    pub nguid: [u8; 16],
    /// EUI64: IEEE extended unique identifier, big endian; zero if there is none.
    pub eui64: [u8; 8],
    /// LBAF0 to LBAF63.
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vs: [u8; 3712],
}
assert_layout!(IdentifyNamespace, 4096,
    nsze @ 0, ncap @ 8, nuse @ 16, nsfeat @ 24, nlbaf @ 25, flbas @ 26, mc @ 27, dpc @ 28, dps @ 29, nmic @ 30,
    rescap @ 31, fpi @ 32, dlfeat @ 33, nawun @ 34, nawupf @ 36, nacwu @ 38, nabsn @ 40, nabo @ 42, nabspf @ 44,
    noiob @ 46, nvmcap @ 48, npwg @ 64, npwa @ 66, npdg @ 68, npda @ 70, nows @ 72, mssrl @ 74, mcl @ 76, msrc @ 80,
    nulbaf @ 82, anagrpid @ 92, nsattr @ 99, nvmsetid @ 100, endgid @ 102, nguid @ 104, eui64 @ 120, lbaf @ 128,
    vs @ 384);
zeroed!(IdentifyNamespace);
impl_debug!(IdentifyNamespace, s => {
    nsze: s.nsze.get(), ncap: s.ncap.get(), nuse: s.nuse.get(), nsfeat: s.nsfeat(), flbas: s.flbas, nmic: s.nmic(),
    nsattr: s.nsattr(), nguid: Hex(&s.nguid), eui64: Hex(&s.eui64), format: s.format(),
});

impl IdentifyNamespace {
    /// The index of the current LBA format.
    #[must_use]
    pub const fn format_index(&self) -> usize {
        // Bits 6:5 extend the index only if there are more formats than bits 3:0 can count.
        let high = if self.nlbaf > 15 { (self.flbas >> 5) & 0b11 } else { 0 };
        ((high << 4) | (self.flbas & 0xf)) as usize
    }

    /// The current LBA format.
    #[must_use]
    pub fn format(&self) -> Option<LbaFormat> {
        self.lbaf.get(self.format_index()).copied()
    }

    /// Bytes of a logical block; `None` for a format that is not available or that is out of range.
    #[must_use]
    pub fn block_size(&self) -> Option<u32> {
        let lbads = self.format()?.lbads;
        (lbads >= 9).then(|| 1_u32.checked_shl(lbads.into())).flatten()
    }

    /// Features, unknown bits kept.
    #[must_use]
    pub const fn nsfeat(&self) -> NsFeatures {
        NsFeatures::from_bits_retain(self.nsfeat)
    }

    /// Sharing, unknown bits kept.
    #[must_use]
    pub const fn nmic(&self) -> Nmic {
        Nmic::from_bits_retain(self.nmic)
    }

    /// Attributes, unknown bits kept.
    #[must_use]
    pub const fn nsattr(&self) -> NsAttributes {
        NsAttributes::from_bits_retain(self.nsattr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_size_of_the_current_format() {
        let mut id = IdentifyNamespace::zeroed();
        assert_eq!(id.block_size(), None);
        id.lbaf[0].lbads = 9;
        assert_eq!(id.block_size(), Some(512));
        id.lbaf[1].lbads = 12;
        id.flbas = 0x61;
        id.nlbaf = 1;
        assert_eq!((id.format_index(), id.block_size()), (1, Some(4096)));
        id.nlbaf = 63;
        assert_eq!((id.format_index(), id.block_size()), (49, None));
        id.lbaf[49].lbads = 255;
        assert_eq!(id.block_size(), None);
    }
}

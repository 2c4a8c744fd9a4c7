//! PDU headers (TCP section 3.6).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Digests, FatalErrorStatus, PduType};
use crate::{Cqe, Sqe, U16, U32};

bitflags::bitflags! {
    /// FLAGS of the common header.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PduFlags: u8 {
        /// HDGSTF: a header digest follows the header.
        const HDGST = 1 << 0;
        /// DDGSTF: a data digest follows the data.
        const DDGST = 1 << 1;
        /// LAST_PDU: the last H2CData of an R2T, or the last C2HData of a command.
        const LAST_PDU = 1 << 2;
        /// SUCCESS: this C2HData stands for a successful completion too; no CapsuleResp follows.
        const SUCCESS = 1 << 3;
        const _ = !0;
    }
}

/// The common header (CH), first in every PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommonHeader {
    /// PDU-Type; see [`PduType`].
    pub pdu_type: u8,
    /// FLAGS; see [`PduFlags`].
    pub flags: u8,
    /// HLEN: bytes of common and PDU specific header, without digest.
    pub hlen: u8,
    /// PDO: offset of the data from the start of the PDU, bytes; 0 without data.
    pub pdo: u8,
    /// PLEN: bytes of the whole PDU, digests and padding included.
    pub plen: U32,
}
assert_layout!(CommonHeader, 8, pdu_type @ 0, flags @ 1, hlen @ 2, pdo @ 3, plen @ 4);

impl CommonHeader {
    /// The header of a PDU with a PSH that makes `hlen` bytes in all and, if `data` > 0, `data` bytes at `pdo`.
    /// Sets the digest flags and PLEN as `digests` demands.
    ///
    /// `hlen` and `pdo` are this crate's own constants or come from [`super::data_offset`], and fit a byte.
    #[must_use]
    pub fn new(pdu_type: PduType, hlen: usize, pdo: usize, data: u32, digests: Digests) -> Self {
        let mut flags = PduFlags::empty();
        flags.set(PduFlags::HDGST, digests.header);
        flags.set(PduFlags::DDGST, digests.data && data > 0);
        let plen = if data > 0 {
            pdo as u32 + data + digests.data_size() as u32
        } else {
            (hlen + digests.header_size()) as u32
        };
        debug_assert!(hlen <= 255 && pdo <= 255);
        Self {
            pdu_type: pdu_type.0,
            flags: flags.bits(),
            hlen: hlen as u8,
            pdo: if data > 0 { pdo as u8 } else { 0 },
            plen: plen.into(),
        }
    }

    /// The PDU type.
    #[must_use]
    pub const fn kind(&self) -> PduType {
        PduType(self.pdu_type)
    }

    /// The flags, unknown bits kept.
    #[must_use]
    pub const fn flags(&self) -> PduFlags {
        PduFlags::from_bits_retain(self.flags)
    }
}

/// Initialize Connection Request (TCP section 3.6.2.1): the host's first PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcReq {
    /// Common header: HLEN and PLEN 128.
    pub ch: CommonHeader,
    /// PFV: PDU format version, 0.
    pub pfv: U16,
    /// HPDA: alignment of data that the host receives, dwords, 0's based, at most 31.
    pub hpda: u8,
    /// DGST: bit 0 header digest, bit 1 data digest, as the host asks.
    pub dgst: u8,
    /// MAXR2T: R2T PDUs that may be outstanding for one command, 0's based.
    pub maxr2t: U32,
    /// Reserved.
    pub rsvd: [u8; 112],
}
assert_layout!(IcReq, 128, ch @ 0, pfv @ 8, hpda @ 10, dgst @ 11, maxr2t @ 12);

/// Initialize Connection Response (TCP section 3.6.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcResp {
    /// Common header: HLEN and PLEN 128.
    pub ch: CommonHeader,
    /// PFV: PDU format version, 0.
    pub pfv: U16,
    /// CPDA: alignment of data that the controller receives, dwords, 0's based, at most 31.
    pub cpda: u8,
    /// DGST: the digests in use, a subset of what the host asked for.
    pub dgst: u8,
    /// MAXH2CDATA: most data bytes of one H2CData PDU, a multiple of 4, at least 4096.
    pub maxh2cdata: U32,
    /// Reserved.
    pub rsvd: [u8; 112],
}
assert_layout!(IcResp, 128, ch @ 0, pfv @ 8, cpda @ 10, dgst @ 11, maxh2cdata @ 12);

/// Header of H2CTermReq and C2HTermReq (TCP sections 3.6.2.3 and 3.6.2.4); the offending PDU's header follows as data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TermReq {
    /// Common header: HLEN 24, PDO 0 (the data directly follows the header), no digests.
    pub ch: CommonHeader,
    /// FES: why.
    pub fes: U16,
    /// FEI: where or what, by FES.
    pub fei: U32,
    /// Reserved.
    pub rsvd: [u8; 10],
}
assert_layout!(TermReq, 24, ch @ 0, fes @ 8, fei @ 10, rsvd @ 14);

/// Command capsule (TCP section 3.6.2.5); in-capsule data may follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapsuleCmd {
    /// Common header: HLEN 72.
    pub ch: CommonHeader,
    /// The command.
    pub sqe: Sqe,
}
assert_layout!(CapsuleCmd, 72, ch @ 0, sqe @ 8);

/// Response capsule (TCP section 3.6.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapsuleResp {
    /// Common header: HLEN 24.
    pub ch: CommonHeader,
    /// The completion.
    pub cqe: Cqe,
}
assert_layout!(CapsuleResp, 24, ch @ 0, cqe @ 8);

/// Header of host to controller data (TCP section 3.6.2.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct H2cData {
    /// Common header: HLEN 24.
    pub ch: CommonHeader,
    /// CCCID: identifier of the command.
    pub cccid: U16,
    /// TTAG: the tag of the R2T that this answers.
    pub ttag: U16,
    /// DATAO: offset into the command's data, bytes, a multiple of 4.
    pub datao: U32,
    /// DATAL: bytes of data in this PDU.
    pub datal: U32,
    /// Reserved.
    pub rsvd: [u8; 4],
}
assert_layout!(H2cData, 24, ch @ 0, cccid @ 8, ttag @ 10, datao @ 12, datal @ 16);

/// Header of controller to host data (TCP section 3.6.2.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct C2hData {
    /// Common header: HLEN 24.
    pub ch: CommonHeader,
    /// CCCID: identifier of the command.
    pub cccid: U16,
    /// Reserved.
    pub rsvd0: [u8; 2],
    /// DATAO: offset into the command's data, bytes, a multiple of 4.
    pub datao: U32,
    /// DATAL: bytes of data in this PDU.
    pub datal: U32,
    /// Reserved.
    pub rsvd1: [u8; 4],
}
assert_layout!(C2hData, 24, ch @ 0, cccid @ 8, datao @ 12, datal @ 16);

/// Ready to transfer (TCP section 3.6.2.9): the controller asks for data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct R2t {
    /// Common header: HLEN 24.
    pub ch: CommonHeader,
    /// CCCID: identifier of the command.
    pub cccid: U16,
    /// TTAG: tag that the host repeats in each H2CData.
    pub ttag: U16,
    /// R2TO: offset into the command's data, bytes, a multiple of 4.
    pub r2to: U32,
    /// R2TL: bytes that are asked for.
    pub r2tl: U32,
    /// Reserved.
    pub rsvd: [u8; 4],
}
assert_layout!(R2t, 24, ch @ 0, cccid @ 8, ttag @ 10, r2to @ 12, r2tl @ 16);

impl IcReq {
    /// A request with these parameters; `maxr2t` is 0's based as on the wire.
    #[must_use]
    pub fn new(hpda: u8, digests: Digests, maxr2t: u32) -> Self {
        Self {
            ch: CommonHeader::new(PduType::IC_REQ, super::IC_SIZE, 0, 0, Digests::default()),
            pfv: super::PFV_1_0.into(),
            hpda,
            dgst: digests.to_byte(),
            maxr2t: maxr2t.into(),
            rsvd: [0; 112],
        }
    }
}

impl IcResp {
    /// A response with these parameters.
    #[must_use]
    pub fn new(cpda: u8, digests: Digests, maxh2cdata: u32) -> Self {
        Self {
            ch: CommonHeader::new(PduType::IC_RESP, super::IC_SIZE, 0, 0, Digests::default()),
            pfv: super::PFV_1_0.into(),
            cpda,
            dgst: digests.to_byte(),
            maxh2cdata: maxh2cdata.into(),
            rsvd: [0; 112],
        }
    }
}

impl TermReq {
    /// The header of a terminate request of type `kind` that carries `data_len` bytes of the offending header.
    #[must_use]
    pub fn new(kind: PduType, fes: FatalErrorStatus, fei: u32, data_len: usize) -> Self {
        let mut ch = CommonHeader::new(kind, super::SHORT_HEADER_SIZE, 0, 0, Digests::default());
        ch.plen = ((super::SHORT_HEADER_SIZE + data_len.min(super::TERM_REQ_SIZE_MAX - super::SHORT_HEADER_SIZE))
            as u32)
            .into();
        Self { ch, fes: fes.0.into(), fei: fei.into(), rsvd: [0; 10] }
    }
}

impl CapsuleCmd {
    /// A command capsule with `data` bytes in the capsule, aligned as the controller's `cpda` demands.
    #[must_use]
    pub fn new(sqe: Sqe, data: u32, digests: Digests, cpda: u8) -> Self {
        let pdo = super::data_offset(super::CAPSULE_CMD_HEADER_SIZE, digests, cpda);
        Self { ch: CommonHeader::new(PduType::CAPSULE_CMD, super::CAPSULE_CMD_HEADER_SIZE, pdo, data, digests), sqe }
    }
}

impl CapsuleResp {
    /// A response capsule.
    #[must_use]
    pub fn new(cqe: Cqe, digests: Digests) -> Self {
        Self { ch: CommonHeader::new(PduType::CAPSULE_RESP, super::SHORT_HEADER_SIZE, 0, 0, digests), cqe }
    }
}

impl H2cData {
    /// `datal` bytes at `datao` of command `cccid`, in answer to the R2T with `ttag`.
    #[must_use]
    pub fn new(cccid: u16, ttag: u16, datao: u32, datal: u32, last: bool, digests: Digests, cpda: u8) -> Self {
        let pdo = super::data_offset(super::SHORT_HEADER_SIZE, digests, cpda);
        let mut ch = CommonHeader::new(PduType::H2C_DATA, super::SHORT_HEADER_SIZE, pdo, datal, digests);
        if last {
            ch.flags |= PduFlags::LAST_PDU.bits();
        }
        Self { ch, cccid: cccid.into(), ttag: ttag.into(), datao: datao.into(), datal: datal.into(), rsvd: [0; 4] }
    }
}

impl C2hData {
    /// `datal` bytes at `datao` of command `cccid`; `last` and `success` set LAST_PDU and SUCCESS.
    #[must_use]
    pub fn new(cccid: u16, datao: u32, datal: u32, last: bool, success: bool, digests: Digests, hpda: u8) -> Self {
        let pdo = super::data_offset(super::SHORT_HEADER_SIZE, digests, hpda);
        let mut ch = CommonHeader::new(PduType::C2H_DATA, super::SHORT_HEADER_SIZE, pdo, datal, digests);
        if last {
            ch.flags |= PduFlags::LAST_PDU.bits();
        }
        if success {
            ch.flags |= PduFlags::SUCCESS.bits();
        }
        Self { ch, cccid: cccid.into(), rsvd0: [0; 2], datao: datao.into(), datal: datal.into(), rsvd1: [0; 4] }
    }
}

impl R2t {
    /// Asks for `r2tl` bytes at `r2to` of command `cccid` under tag `ttag`.
    #[must_use]
    pub fn new(cccid: u16, ttag: u16, r2to: u32, r2tl: u32, digests: Digests) -> Self {
        Self {
            ch: CommonHeader::new(PduType::R2T, super::SHORT_HEADER_SIZE, 0, 0, digests),
            cccid: cccid.into(),
            ttag: ttag.into(),
            r2to: r2to.into(),
            r2tl: r2tl.into(),
            rsvd: [0; 4],
        }
    }
}

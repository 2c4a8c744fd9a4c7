//! NVMe/TCP: protocol data units (TCP sections 3.5 and 3.6).
//!
//! A PDU on the wire is: common header, PDU specific header, header digest if negotiated, padding up to PDO, data,
//! data digest if negotiated and there is data. [`CommonHeader::check`] proves a header before anything of it is used.

mod check;
mod pdu;

pub use check::{Fatal, Frame, ReceiveRules, Receiver};
pub use pdu::{C2hData, CapsuleCmd, CapsuleResp, CommonHeader, H2cData, IcReq, IcResp, PduFlags, R2t, TermReq};

/// Bytes of a header digest or a data digest (CRC-32C, little endian).
pub const DIGEST_SIZE: usize = 4;
/// Bytes of the common header.
pub const COMMON_HEADER_SIZE: usize = 8;
/// Bytes of ICReq and of ICResp.
pub const IC_SIZE: usize = 128;
/// Longest header of any PDU without its digest: ICReq and ICResp.
pub const HEADER_SIZE_MAX: usize = IC_SIZE;
/// Longest header of a PDU after initialisation, with its digest: CapsuleCmd.
pub const CAPSULE_CMD_HEADER_SIZE: usize = 72;
/// Bytes of the header of CapsuleResp, H2CData, C2HData, R2T and both TermReq.
pub const SHORT_HEADER_SIZE: usize = 24;
/// Longest H2CTermReq or C2HTermReq: header and at most 128 bytes of the offending PDU's header.
pub const TERM_REQ_SIZE_MAX: usize = SHORT_HEADER_SIZE + 128;
/// Largest HPDA or CPDA (0's based, in dwords): data offsets are a multiple of 128 bytes at the most.
pub const PDA_MAX: u8 = 31;
/// Smallest MAXH2CDATA that a controller may ask for, bytes.
pub const MAXH2CDATA_MIN: u32 = 4096;
/// PDU format version that this transport revision defines.
pub const PFV_1_0: u16 = 0;
/// Port for I/O controllers as IANA assigned it; 8009 is for discovery.
pub const NVME_TCP_IO_PORT: u16 = 4420;
/// Port of the discovery service.
pub const NVME_TCP_DISCOVERY_PORT: u16 = 8009;

open_enum! {
    /// PDU types (TCP section 3.5.1).
    pub struct PduType(u8) {
        /// Host to controller.
        IC_REQ = 0x00, "ICReq";
        /// Controller to host.
        IC_RESP = 0x01, "ICResp";
        /// Host to controller.
        H2C_TERM_REQ = 0x02, "H2CTermReq";
        /// Controller to host.
        C2H_TERM_REQ = 0x03, "C2HTermReq";
        /// Host to controller.
        CAPSULE_CMD = 0x04, "CapsuleCmd";
        /// Controller to host.
        CAPSULE_RESP = 0x05, "CapsuleResp";
        /// Host to controller.
        H2C_DATA = 0x06, "H2CData";
        /// Controller to host.
        C2H_DATA = 0x07, "C2HData";
        /// Controller to host.
        R2T = 0x09, "R2T";
    }
}

impl PduType {
    /// Whether this ends the connection: H2CTermReq or C2HTermReq. Neither is ever answered with a TermReq.
    #[must_use]
    pub const fn is_term_req(self) -> bool {
        matches!(self, Self::H2C_TERM_REQ | Self::C2H_TERM_REQ)
    }
}

open_enum! {
    /// Fatal Error Status of a TermReq (TCP section 3.6.2.3).
    pub struct FatalErrorStatus(u16) {
        /// FEI: byte offset of the field in the PDU.
        INVALID_HEADER_FIELD = 0x01, "Invalid PDU Header Field";
        /// A PDU that may not come now.
        SEQUENCE_ERROR = 0x02, "PDU Sequence Error";
        /// FEI: the digest that was received.
        HEADER_DIGEST_ERROR = 0x03, "Header Digest Error";
        /// Data outside of the command's or R2T's range.
        DATA_OUT_OF_RANGE = 0x04, "Data Transfer Out of Range";
        /// Controller to host: R2T Limit Exceeded. Host to controller: Data Transfer Limit Exceeded.
        LIMIT_EXCEEDED = 0x05, "Data Transfer Limit Exceeded";
        /// FEI: byte offset of the parameter in the PDU.
        UNSUPPORTED_PARAMETER = 0x06, "Unsupported Parameter";
    }
}

/// Which digests a connection negotiated (DGST of ICReq and ICResp).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Digests {
    /// HDGST_ENABLE, bit 0.
    pub header: bool,
    /// DDGST_ENABLE, bit 1.
    pub data: bool,
}

impl Digests {
    /// The DGST byte.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        self.header as u8 | (self.data as u8) << 1
    }

    /// From the DGST byte; the reserved bits 7:2 are ignored.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        Self { header: byte & 1 != 0, data: byte & 2 != 0 }
    }

    /// Bytes of header digest on this connection.
    #[must_use]
    pub const fn header_size(self) -> usize {
        if self.header { DIGEST_SIZE } else { 0 }
    }

    /// Bytes of data digest on this connection, for a PDU that has data.
    #[must_use]
    pub const fn data_size(self) -> usize {
        if self.data { DIGEST_SIZE } else { 0 }
    }
}

/// Data offset (PDO) of a PDU whose header has `hlen` bytes without digest, for the receiver's alignment `pda`
/// (HPDA or CPDA: dwords, 0's based).
#[must_use]
pub const fn data_offset(hlen: usize, digests: Digests, pda: u8) -> usize {
    (hlen + digests.header_size()).next_multiple_of((pda as usize + 1) * 4)
}

//! Proof of a common header before anything of it is used.

use super::{
    CAPSULE_CMD_HEADER_SIZE, CommonHeader, Digests, FatalErrorStatus, IC_SIZE, PduFlags, PduType, SHORT_HEADER_SIZE,
    TERM_REQ_SIZE_MAX,
};

/// Offsets of the common header's fields, for FEI.
const OFFSET_TYPE: u32 = 0;
const OFFSET_FLAGS: u32 = 1;
const OFFSET_HLEN: u32 = 2;
const OFFSET_PDO: u32 = 3;
const OFFSET_PLEN: u32 = 4;

/// Which end of the connection receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// ICReq, CapsuleCmd, H2CData and H2CTermReq arrive.
    Controller,
    /// ICResp, CapsuleResp, C2HData, R2T and C2HTermReq arrive.
    Host,
}

/// What a receiver has agreed to, and its limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiveRules {
    /// Which end this is.
    pub receiver: Receiver,
    /// Digests in use.
    pub digests: Digests,
    /// Alignment that this end asked for (CPDA of a controller, HPDA of a host): dwords, 0's based.
    pub pda: u8,
    /// Most bytes of in-capsule data of a command capsule.
    pub in_capsule_max: u32,
    /// Most bytes of data of an H2CData (MAXH2CDATA) or a C2HData PDU.
    pub data_max: u32,
}

/// A fatal transport error: the connection ends with a TermReq that says this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fatal {
    /// Fatal Error Status.
    pub fes: FatalErrorStatus,
    /// Fatal Error Information, by FES.
    pub fei: u32,
}

impl Fatal {
    /// An invalid header field at byte `offset` of the PDU.
    #[must_use]
    pub const fn field(offset: u32) -> Self {
        Self { fes: FatalErrorStatus::INVALID_HEADER_FIELD, fei: offset }
    }

    /// A PDU that may not come now.
    #[must_use]
    pub const fn sequence() -> Self {
        Self { fes: FatalErrorStatus::SEQUENCE_ERROR, fei: 0 }
    }
}

impl core::fmt::Display for Fatal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} (FES {:02X}h, FEI {:#x})", self.fes, self.fes.0, self.fei)
    }
}

impl std::error::Error for Fatal {}

/// Where the parts of one PDU are, all proven consistent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Type of the PDU.
    pub kind: PduType,
    /// Bytes of header without digest.
    pub hlen: usize,
    /// Offset of the data; equals the end of header and digest where there is no data.
    pub data_offset: usize,
    /// Bytes of data.
    pub data_len: u32,
    /// Whether a header digest follows the header.
    pub header_digest: bool,
    /// Whether a data digest follows the data.
    pub data_digest: bool,
}

impl CommonHeader {
    /// Checks type, flags, HLEN, PDO and PLEN against each other and against `rules`.
    ///
    /// # Errors
    /// [`Fatal`] with the offset of the first field that is wrong; PDU Sequence Error for a type that belongs to the
    /// other direction.
    pub fn check(&self, rules: &ReceiveRules) -> Result<Frame, Fatal> {
        let kind = self.kind();
        let to_host = match kind {
            PduType::IC_REQ | PduType::H2C_TERM_REQ | PduType::CAPSULE_CMD | PduType::H2C_DATA => false,
            PduType::IC_RESP | PduType::C2H_TERM_REQ | PduType::CAPSULE_RESP | PduType::C2H_DATA | PduType::R2T => true,
            _ => return Err(Fatal::field(OFFSET_TYPE)),
        };
        if to_host != (rules.receiver == Receiver::Host) {
            return Err(Fatal::field(OFFSET_TYPE));
        }
        let hlen = match kind {
            PduType::IC_REQ | PduType::IC_RESP => IC_SIZE,
            PduType::CAPSULE_CMD => CAPSULE_CMD_HEADER_SIZE,
            _ => SHORT_HEADER_SIZE,
        };
        if usize::from(self.hlen) != hlen {
            return Err(Fatal::field(OFFSET_HLEN));
        }
        let flags = self.flags();
        let plen = self.plen.get();

        if matches!(kind, PduType::IC_REQ | PduType::IC_RESP) {
            if !(flags & (PduFlags::HDGST | PduFlags::DDGST)).is_empty() {
                return Err(Fatal::field(OFFSET_FLAGS));
            }
            if plen as usize != IC_SIZE {
                return Err(Fatal::field(OFFSET_PLEN));
            }
            return Ok(Frame { kind, hlen, data_offset: hlen, data_len: 0, header_digest: false, data_digest: false });
        }
        if matches!(kind, PduType::H2C_TERM_REQ | PduType::C2H_TERM_REQ) {
            // No digests, and the data directly follows the header: PDO is reserved.
            if !(flags & (PduFlags::HDGST | PduFlags::DDGST)).is_empty() {
                return Err(Fatal::field(OFFSET_FLAGS));
            }
            if (plen as usize) < SHORT_HEADER_SIZE || plen as usize > TERM_REQ_SIZE_MAX {
                return Err(Fatal::field(OFFSET_PLEN));
            }
            let data_len = plen - SHORT_HEADER_SIZE as u32;
            return Ok(Frame { kind, hlen, data_offset: hlen, data_len, header_digest: false, data_digest: false });
        }

        if flags.contains(PduFlags::HDGST) != rules.digests.header {
            return Err(Fatal::field(OFFSET_FLAGS));
        }
        let header_end = hlen + rules.digests.header_size();
        let no_data = Frame {
            kind,
            hlen,
            data_offset: header_end,
            data_len: 0,
            header_digest: rules.digests.header,
            data_digest: false,
        };
        let data_max = match kind {
            PduType::CAPSULE_CMD => rules.in_capsule_max,
            PduType::H2C_DATA | PduType::C2H_DATA => rules.data_max,
            _ => 0,
        };
        // A capsule without data ends with its header; then there is no data digest, and PDO has no meaning.
        if plen as usize == header_end && !matches!(kind, PduType::H2C_DATA | PduType::C2H_DATA) {
            if flags.contains(PduFlags::DDGST) {
                return Err(Fatal::field(OFFSET_FLAGS));
            }
            return Ok(no_data);
        }
        if data_max == 0 && !matches!(kind, PduType::H2C_DATA | PduType::C2H_DATA) {
            return Err(Fatal::field(OFFSET_PLEN));
        }
        if flags.contains(PduFlags::DDGST) != rules.digests.data {
            return Err(Fatal::field(OFFSET_FLAGS));
        }
        let data_offset = usize::from(self.pdo);
        if data_offset < header_end || data_offset % ((usize::from(rules.pda) + 1) * 4) != 0 {
            return Err(Fatal::field(OFFSET_PDO));
        }
        let before_data = data_offset as u32 + rules.digests.data_size() as u32;
        let Some(data_len) = plen.checked_sub(before_data) else {
            return Err(Fatal::field(OFFSET_PLEN));
        };
        if data_len == 0 || data_len > data_max {
            return Err(Fatal::field(OFFSET_PLEN));
        }
        Ok(Frame { data_offset, data_len, data_digest: rules.digests.data, ..no_data })
    }
}

impl Frame {
    /// Bytes from the start of the PDU to its end.
    #[must_use]
    pub const fn total(&self) -> usize {
        let digest = if self.data_digest { super::DIGEST_SIZE } else { 0 };
        self.data_offset + self.data_len as usize + digest
    }

    /// Bytes of the header with its digest.
    #[must_use]
    pub const fn header_total(&self) -> usize {
        self.hlen + if self.header_digest { super::DIGEST_SIZE } else { 0 }
    }
}

//! Proof of a common header before anything of it is used.

use super::{
    CAPSULE_CMD_HEADER_SIZE, CommonHeader, DIGEST_SIZE, Digests, FatalErrorStatus, IC_SIZE, PduFlags, PduType,
    SHORT_HEADER_SIZE, TERM_REQ_SIZE_MAX,
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
    /// Checks type, flags, HLEN, PDO and PLEN against each other and against `rules`. Reserved flags, and PDO where
    /// there is no data, are not looked at.
    ///
    /// Where several fields are wrong, the one with the lowest offset is reported. A TermReq that is wrong itself
    /// ends the connection without an answer (see [`PduType::is_term_req`]); whether a PDU of this type may come now is
    /// the caller's to know.
    ///
    /// # Errors
    /// * Invalid PDU Header Field with the offset of the field that is wrong; the type is wrong if it is not known or
    ///   belongs to the other direction.
    /// * Data Transfer Limit Exceeded for an H2CData PDU with more data than MAXH2CDATA.
    /// * Data Transfer Out of Range for a C2HData PDU with more data than the host takes.
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
        match kind {
            PduType::IC_REQ | PduType::IC_RESP => self.check_plain(kind, IC_SIZE, IC_SIZE),
            PduType::H2C_TERM_REQ | PduType::C2H_TERM_REQ => {
                self.check_plain(kind, SHORT_HEADER_SIZE, TERM_REQ_SIZE_MAX)
            }
            _ => self.check_digested(kind, rules),
        }
    }

    /// Initialisation and termination: never digests, and what follows the header of a TermReq does so directly.
    fn check_plain(&self, kind: PduType, hlen: usize, plen_max: usize) -> Result<Frame, Fatal> {
        if self.flags().intersects(PduFlags::HDGST.union(PduFlags::DDGST)) {
            return Err(Fatal::field(OFFSET_FLAGS));
        }
        if usize::from(self.hlen) != hlen {
            return Err(Fatal::field(OFFSET_HLEN));
        }
        let plen = self.plen.get();
        if (plen as usize) < hlen || plen as usize > plen_max {
            return Err(Fatal::field(OFFSET_PLEN));
        }
        let data_len = plen - hlen as u32;
        Ok(Frame { kind, hlen, data_offset: hlen, data_len, header_digest: false, data_digest: false })
    }

    /// Capsules, data and R2T.
    fn check_digested(&self, kind: PduType, rules: &ReceiveRules) -> Result<Frame, Fatal> {
        let (hlen, has_data) = match kind {
            PduType::CAPSULE_CMD => (CAPSULE_CMD_HEADER_SIZE, None),
            PduType::H2C_DATA | PduType::C2H_DATA => (SHORT_HEADER_SIZE, Some(true)),
            _ => (SHORT_HEADER_SIZE, Some(false)),
        };
        let header_end = hlen + rules.digests.header_size();
        let plen = self.plen.get();
        // A command capsule has data if it is longer than its header.
        let has_data = has_data.unwrap_or(plen as usize > header_end);
        let data_digest = has_data && rules.digests.data;

        let flags = self.flags();
        let ddgst = flags.contains(PduFlags::DDGST);
        // A PLEN that cannot be says nothing about whether there is data to have a digest.
        let ddgst_wrong = if plen as usize >= header_end { ddgst != data_digest } else { ddgst && !rules.digests.data };
        let success_early =
            kind == PduType::C2H_DATA && flags.contains(PduFlags::SUCCESS) && !flags.contains(PduFlags::LAST_PDU);
        if flags.contains(PduFlags::HDGST) != rules.digests.header || ddgst_wrong || success_early {
            return Err(Fatal::field(OFFSET_FLAGS));
        }
        if usize::from(self.hlen) != hlen {
            return Err(Fatal::field(OFFSET_HLEN));
        }
        let header_digest = rules.digests.header;
        if !has_data {
            if plen as usize != header_end {
                return Err(Fatal::field(OFFSET_PLEN));
            }
            return Ok(Frame { kind, hlen, data_offset: header_end, data_len: 0, header_digest, data_digest });
        }

        let data_offset = usize::from(self.pdo);
        let alignment = (usize::from(rules.pda) + 1) * 4;
        if data_offset < header_end || !data_offset.is_multiple_of(alignment) {
            return Err(Fatal::field(OFFSET_PDO));
        }
        let digest_size = if data_digest { DIGEST_SIZE } else { 0 };
        let data_len = match plen.checked_sub((data_offset + digest_size) as u32) {
            Some(n) if n > 0 => n,
            _ if data_offset > plen as usize && plen as usize > header_end => return Err(Fatal::field(OFFSET_PDO)),
            _ => return Err(Fatal::field(OFFSET_PLEN)),
        };
        match kind {
            PduType::H2C_DATA if data_len > rules.data_max => {
                Err(Fatal { fes: FatalErrorStatus::LIMIT_EXCEEDED, fei: 0 })
            }
            PduType::C2H_DATA if data_len > rules.data_max => {
                Err(Fatal { fes: FatalErrorStatus::DATA_OUT_OF_RANGE, fei: 0 })
            }
            PduType::CAPSULE_CMD if data_len > rules.in_capsule_max => Err(Fatal::field(OFFSET_PLEN)),
            _ => Ok(Frame { kind, hlen, data_offset, data_len, header_digest, data_digest }),
        }
    }
}

impl Frame {
    /// Bytes from the start of the PDU to its end.
    #[must_use]
    pub const fn total(&self) -> usize {
        let digest = if self.data_digest { DIGEST_SIZE } else { 0 };
        self.data_offset + self.data_len as usize + digest
    }

    /// Bytes of the header with its digest.
    #[must_use]
    pub const fn header_total(&self) -> usize {
        self.hlen + if self.header_digest { DIGEST_SIZE } else { 0 }
    }
}

//! From completions and R2Ts to bytes.

use std::time::Instant;

use kvof_io::TxSeg;
use kvof_spec::tcp::{
    C2hData, CapsuleResp, DIGEST_SIZE, Digests, Fatal, IcResp, PDA_MAX, PduType, R2t, SHORT_HEADER_SIZE, TermReq,
};
use zerocopy::IntoBytes;

use super::{
    connection::Connection,
    digest,
    transfer::{R2T_SLOTS, Transfer},
};
use crate::{
    namespace::DataOut,
    queue::{CommandIndex, Response},
};

/// Padding between a header and its data, at the most.
const PAD_MAX: usize = (PDA_MAX as usize + 1) * 4;
static ZEROS: [u8; PAD_MAX] = [0; PAD_MAX];

impl Connection {
    pub(super) fn send_icresp(&mut self, digests: Digests) {
        let icresp = IcResp::new(self.settings.cpda, digests, self.settings.maxh2cdata);
        self.tx.push_bytes(icresp.as_bytes());
    }

    /// Sends data, then the completion, or lets the data stand for it.
    pub(super) fn respond(&mut self, response: Response) {
        let implied = match response.data {
            Some(data) if !data.is_empty() => {
                self.send_data(response.cqe.cid.get(), data, response.implied);
                response.implied
            }
            _ => false,
        };
        if !implied {
            let pdu = CapsuleResp::new(response.cqe, self.rules.digests);
            self.send_header(pdu.as_bytes());
        }
    }

    fn send_data(&mut self, cid: u16, data: DataOut, implied: bool) {
        let digests = self.rules.digests;
        let total = data.len();
        let chunk = self.settings.c2h_data as usize;
        let mut offset = 0;
        while offset < total {
            let len = chunk.min(total - offset);
            let last = offset + len == total;
            let pdu = C2hData::new(cid, offset as u32, len as u32, last, last && implied, digests, self.hpda);
            self.send_header(pdu.as_bytes());
            let pad = usize::from(pdu.ch.pdo).saturating_sub(SHORT_HEADER_SIZE + digests.header_size());
            self.tx.push_bytes(ZEROS.get(..pad).unwrap_or_default());
            if len == total {
                return self.push_data(data.into_segment());
            }
            self.push_data(data.segment(offset, len));
            offset += len;
        }
    }

    fn push_data(&mut self, seg: TxSeg) {
        if self.rules.digests.data {
            self.tx.push_digested(seg);
        } else {
            self.tx.push(seg);
        }
    }

    /// Asks the host for `len` bytes of the command's data.
    pub(super) fn start_transfer(&mut self, now: Instant, index: CommandIndex, len: u32) {
        if self.transfers.len() <= index {
            self.transfers.resize_with(index + 1, Transfer::default);
        }
        if let Some(transfer) = self.transfers.get_mut(index) {
            *transfer = Transfer::new(len);
        }
        if self.receiving == 0 {
            self.data_progress = now;
        }
        self.receiving += 1;
        self.add_due(len);
        self.send_r2ts(index);
    }

    /// Sends as many R2Ts for a command as may be outstanding.
    pub(super) fn send_r2ts(&mut self, index: CommandIndex) {
        let Some(cid) = self.queue.cid(index) else { return };
        while let Some((place, offset, len)) =
            self.transfers.get_mut(index).and_then(|t| t.next_r2t(self.maxr2t, self.settings.r2t_length))
        {
            // A queue has at most 16,384 entries, so that the tag fits.
            let tag = (index * R2T_SLOTS + place) as u16;
            let pdu = R2t::new(cid, tag, offset, len, self.rules.digests);
            self.send_header(pdu.as_bytes());
        }
    }

    pub(super) fn send_term_req(&mut self, fatal: Fatal, header: &[u8]) {
        let quoted = header.get(..header.len().min(128)).unwrap_or_default();
        let pdu = TermReq::new(PduType::C2H_TERM_REQ, fatal.fes, fatal.fei, quoted.len());
        self.tx.push_bytes(pdu.as_bytes());
        self.tx.push_bytes(quoted);
    }

    /// Queues a header with its digest, if digests are in use.
    fn send_header(&mut self, header: &[u8]) {
        let mut bytes = [0; SHORT_HEADER_SIZE + DIGEST_SIZE];
        let end = if self.rules.digests.header { bytes.len() } else { SHORT_HEADER_SIZE };
        bytes[..SHORT_HEADER_SIZE].copy_from_slice(header);
        if self.rules.digests.header {
            bytes[SHORT_HEADER_SIZE..].copy_from_slice(&digest::of(header));
        }
        self.tx.push_bytes(&bytes[..end]);
    }
}

//! What is to be sent: PDU headers in one byte queue, data in the callers' buffers, in wire order.

use std::{collections::VecDeque, io::IoSlice};

use kvof_memory::staging::{Ready, Stager};
use kvof_spec::{
    Sqe,
    tcp::{CapsuleCmd, Digests, H2cData},
};
use zerocopy::IntoBytes;

use super::{Negotiated, TcpQueue, Transfer, crc32c};
use crate::{
    ConnectionError,
    buffer::Payload,
    queue::{CommandTable, HostQueue},
};

/// Most pieces of one send.
pub(crate) const IOV_MAX: usize = 64;
/// No more H2CData PDUs are made while so many pieces wait: one send cannot take more anyway.
const PARTS_AHEAD: usize = IOV_MAX;
/// Sent header bytes that are kept before the rest is moved to the front.
const HEADS_SLACK: usize = 16 << 10;

const ZEROS: [u8; 128] = [0; 128];

/// Everything that waits to be sent.
#[derive(Debug, Default)]
pub(super) struct Transmitter {
    heads: Vec<u8>,
    heads_sent: usize,
    parts: VecDeque<Part>,
    pdus: VecDeque<Pdu>,
    /// Whether some bytes of the first PDU are sent.
    pdu_begun: bool,
    grants: VecDeque<Grant>,
    /// R2Ts for data that are staged.
    pub(super) staged: VecDeque<Grant>,
}

/// A piece of the stream.
#[derive(Debug)]
enum Part {
    /// The next bytes of `heads`.
    Head(usize),
    /// Bytes of a command's buffer.
    Data { cid: u16, offset: usize, len: usize },
    /// Bytes of a staged piece.
    Staged { slot: usize, at: usize, len: usize },
}

/// A PDU in the stream.
#[derive(Debug)]
struct Pdu {
    left: usize,
    mark: Mark,
}

/// What to note when a PDU is fully sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Other,
    Capsule { cid: u16 },
    Data { cid: u16, len: u32, last: bool },
}

/// An R2T, or what is left of it.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) cid: u16,
    pub(super) ttag: u16,
    pub(super) offset: u32,
    pub(super) left: u32,
}

impl Transmitter {
    /// Appends a PDU made of `heads`, data and a `tail` after them.
    pub(super) fn push_pdu(&mut self, heads: &[&[u8]], data: Option<(u16, usize, usize)>, tail: &[u8], mark: Mark) {
        let data = data.map(|(cid, offset, len)| (Part::Data { cid, offset, len }, len));
        self.push_parts(heads, data, tail, mark);
    }

    fn push_parts(&mut self, heads: &[&[u8]], data: Option<(Part, usize)>, tail: &[u8], mark: Mark) {
        let head_len: usize = heads.iter().map(|h| h.len()).sum();
        for head in heads {
            self.heads.extend_from_slice(head);
        }
        self.push_head(head_len);
        let mut total = head_len + tail.len();
        if let Some((part, len)) = data {
            self.parts.push_back(part);
            total += len;
        }
        self.heads.extend_from_slice(tail);
        self.push_head(tail.len());
        self.pdus.push_back(Pdu { left: total, mark });
    }

    fn push_head(&mut self, len: usize) {
        if len == 0 {
            return;
        }
        if let Some(Part::Head(last)) = self.parts.back_mut() {
            *last += len;
        } else {
            self.parts.push_back(Part::Head(len));
        }
    }

    /// Appends a command capsule with the first `data` bytes of `payload` in it. Fails if the buffer lacks them.
    pub(super) fn push_command(
        &mut self,
        sqe: &Sqe,
        cid: u16,
        data: u32,
        payload: &Payload,
        negotiated: &Negotiated,
    ) -> Result<(), ()> {
        let capsule = CapsuleCmd::new(*sqe, data, negotiated.digests, negotiated.cpda);
        self.push_framed(capsule.as_bytes(), capsule.ch.pdo, cid, 0, data, payload, negotiated, Mark::Capsule { cid })
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a PDU")]
    fn push_framed(
        &mut self,
        header: &[u8],
        pdo: u8,
        cid: u16,
        offset: u32,
        len: u32,
        payload: &Payload,
        negotiated: &Negotiated,
        mark: Mark,
    ) -> Result<(), ()> {
        let Digests { header: header_digest, data: data_digest } = negotiated.digests;
        let digest = crc32c_if(header_digest, header);
        let digest = digest.as_ref().map_or(&[][..], |d| d);
        if len == 0 {
            self.push_pdu(&[header, digest], None, &[], mark);
            return Ok(());
        }
        let (offset, len) = (offset as usize, len as usize);
        let bytes = payload.outgoing(offset, len).ok_or(())?;
        let pad = usize::from(pdo).saturating_sub(header.len() + digest.len());
        let tail = crc32c_if(data_digest, bytes);
        let tail = tail.as_ref().map_or(&[][..], |d| d);
        self.push_pdu(&[header, digest, ZEROS.get(..pad).ok_or(())?], Some((cid, offset, len)), tail, mark);
        Ok(())
    }

    /// Notes an R2T that is to be answered.
    pub(super) fn push_grant(&mut self, grant: Grant) {
        self.grants.push_back(grant);
    }

    /// Whether nothing of the first waiting PDU is sent, so that another one may go first.
    pub(super) fn between_pdus(&self) -> bool {
        !self.pdu_begun
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether so few pieces wait that another PDU is worth making.
    fn wants_more(&self) -> bool {
        self.parts.len() < PARTS_AHEAD
    }

    /// Appends an H2CData PDU with the bytes of a staged piece.
    pub(super) fn push_staged_pdu(
        &mut self,
        header: &[u8],
        pdo: u8,
        ready: Ready,
        tail: &[u8],
        negotiated: &Negotiated,
        mark: Mark,
    ) {
        let digest = crc32c_if(negotiated.digests.header, header);
        let digest = digest.as_ref().map_or(&[][..], |d| d);
        let pad = usize::from(pdo).saturating_sub(header.len() + digest.len());
        let Ready { slot, at, len, .. } = ready;
        let part = Part::Staged { slot, at, len };
        self.push_parts(&[header, digest, ZEROS.get(..pad).unwrap_or_default()], Some((part, len)), tail, mark);
    }

    /// Makes the next H2CData PDU if there is an R2T. Gives the command whose buffer lacks bytes.
    fn make_data(&mut self, commands: &CommandTable<Transfer>, negotiated: &Negotiated) -> Result<bool, &'static str> {
        while let Some(grant) = self.grants.front_mut() {
            let len = grant.left.min(negotiated.maxh2cdata);
            let last = len == grant.left;
            let (cid, offset) = (grant.cid, grant.offset);
            let pdu = H2cData::new(cid, grant.ttag, offset, len, last, negotiated.digests, negotiated.cpda);
            grant.offset += len;
            grant.left -= len;
            if last {
                self.grants.pop_front();
            }
            let Some(command) = commands.get(cid) else { continue };
            let mark = Mark::Data { cid, len, last };
            self.push_framed(pdu.as_bytes(), pdu.ch.pdo, cid, offset, len, &command.payload, negotiated, mark)
                .map_err(|()| command.name)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Notes that `sent` bytes are sent, and tells each PDU that is complete with them.
    fn advance(&mut self, mut sent: usize, stager: &mut Stager, mut complete: impl FnMut(Mark)) {
        let mut of_parts = sent;
        while of_parts > 0 {
            let Some(part) = self.parts.front_mut() else { break };
            let left = match part {
                Part::Head(left) => left,
                Part::Staged { slot, at, len } => {
                    let n = of_parts.min(*len);
                    stager.sent(*slot, n);
                    *at += n;
                    *len -= n;
                    of_parts -= n;
                    if *len == 0 {
                        self.parts.pop_front();
                    }
                    continue;
                }
                Part::Data { len, offset, .. } => {
                    let n = of_parts.min(*len);
                    *offset += n;
                    *len -= n;
                    of_parts -= n;
                    if *len == 0 {
                        self.parts.pop_front();
                    }
                    continue;
                }
            };
            let n = of_parts.min(*left);
            *left -= n;
            of_parts -= n;
            self.heads_sent += n;
            if *left == 0 {
                self.parts.pop_front();
            }
        }
        if self.heads_sent >= self.heads.len() {
            self.heads.clear();
            self.heads_sent = 0;
        } else if self.heads_sent > HEADS_SLACK {
            self.heads.drain(..self.heads_sent);
            self.heads_sent = 0;
        }
        while let Some(pdu) = self.pdus.front_mut() {
            if sent < pdu.left {
                pdu.left -= sent;
                self.pdu_begun |= sent > 0;
                return;
            }
            sent -= pdu.left;
            self.pdu_begun = false;
            complete(pdu.mark);
            self.pdus.pop_front();
        }
    }
}

impl TcpQueue {
    /// Makes ready what can be sent; gives whether there is something.
    pub(crate) fn prepare_transmit(&mut self) -> bool {
        if let Some(negotiated) = self.negotiated.filter(|_| self.ledger.ended().is_none())
            && let Err(command) = self.make_pdus(&negotiated)
        {
            self.fail(ConnectionError::Buffer { command });
        }
        if let Some(Part::Data { cid, offset, len }) = self.tx.parts.front()
            && let Some(command) = self.ledger.commands.get(*cid)
            && command.payload.outgoing(*offset, *len).is_none()
        {
            let command = command.name;
            self.fail(ConnectionError::Buffer { command });
        }
        !self.tx.parts.is_empty()
    }

    /// Makes H2CData PDUs as long as there are R2Ts and few pieces wait: of the callers' buffers and of staged bytes in
    /// turns. Gives the command whose buffer lacks bytes.
    fn make_pdus(&mut self, negotiated: &Negotiated) -> Result<(), &'static str> {
        while self.tx.wants_more() && self.ledger.ended().is_none() {
            let made = self.tx.make_data(&self.ledger.commands, negotiated)?;
            if !(self.make_staged(negotiated) || made) {
                break;
            }
        }
        Ok(())
    }

    /// The bytes to send next, in order; gives how many of `iov` are set.
    pub(crate) fn transmit<'a>(&'a self, iov: &mut [IoSlice<'a>; IOV_MAX]) -> usize {
        let mut head = self.tx.heads_sent;
        let mut count = 0;
        for (part, slot) in self.tx.parts.iter().zip(iov.iter_mut()) {
            let bytes = match *part {
                Part::Head(len) => {
                    let bytes = self.tx.heads.get(head..head + len);
                    head += len;
                    bytes
                }
                Part::Data { cid, offset, len } => {
                    self.ledger.commands.get(cid).and_then(|c| c.payload.outgoing(offset, len))
                }
                Part::Staged { slot, at, len } => self.stager.bytes(slot, at, len),
            };
            let Some(bytes) = bytes else { break };
            *slot = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// `n` bytes of what [`Self::transmit`] gave are sent.
    pub(crate) fn handle_sent(&mut self, n: usize) {
        let commands = &mut self.ledger.commands;
        self.tx.advance(n, &mut self.stager, |mark| match mark {
            Mark::Other => {}
            Mark::Capsule { cid } => {
                if let Some(command) = commands.get_mut(cid) {
                    command.transfer.capsule_sent = true;
                }
            }
            Mark::Data { cid, len, last } => {
                if let Some(command) = commands.get_mut(cid) {
                    command.transfer.unsent = command.transfer.unsent.saturating_sub(len);
                    command.transfer.r2ts = command.transfer.r2ts.saturating_sub(u32::from(last));
                }
            }
        });
    }
}

fn crc32c_if(wanted: bool, bytes: &[u8]) -> Option<[u8; 4]> {
    wanted.then(|| crc32c(bytes).to_le_bytes())
}

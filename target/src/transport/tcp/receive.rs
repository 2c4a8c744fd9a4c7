//! From bytes to PDUs, and from PDUs to the queue.

use std::time::Duration;

use kvof_io::Crc32c;
use kvof_spec::{
    Sqe, Status,
    sgl::Sgl,
    tcp::{
        CapsuleCmd, Digests, Fatal, FatalErrorStatus, Frame, H2cData, IC_SIZE, IcReq, PDA_MAX, PFV_1_0, PduFlags,
        PduType, TermReq,
    },
};
use zerocopy::FromBytes;

use super::{
    connection::{Connection, Phase, SLOWEST_RATE},
    digest,
    transfer::{R2T_SLOTS, Transfer, TransferError},
};
use crate::{
    queue::{CommandIndex, Cx, HostData, Landing, Step},
    transport::CloseReason,
};

/// Bytes of the longest header with its digest.
const HEADER_MAX: usize = IC_SIZE + 4;
/// Offsets of fields in the PDU headers, for FEI.
const OFFSET_FLAGS: u32 = 1;
const OFFSET_PFV: u32 = 8;
const OFFSET_HPDA: u32 = 10;
const OFFSET_CCCID: u32 = 8;
const OFFSET_TTAG: u32 = 10;
const OFFSET_DATAO: u32 = 12;
const OFFSET_DATAL: u32 = 16;

/// Commands that the queue is told of before their turn, at most: what is brought closer for them has to stay there until then.
const EXPECTED_MAX: usize = 32;

/// The receiving half: the PDU in progress.
#[derive(Debug)]
pub(super) struct Rx {
    state: State,
    head: [u8; HEADER_MAX],
    head_len: usize,
    /// Bytes of `head` that belong to the PDU in progress, for a TermReq to quote.
    quotable: usize,
    frame: Option<Frame>,
    fatal: Option<Fatal>,
    /// Whole and begun PDUs that wait until the host has taken answers; not empty only between PDUs.
    backlog: Vec<u8>,
    /// How often what is being handled was copied to the backlog before.
    recopied: usize,
}

#[derive(Debug)]
enum State {
    /// A header is due.
    Header,
    /// Padding up to PDO is due, then data.
    Pad(usize, DataRx),
    /// Data is due.
    Data(DataRx),
    /// The data digest is due.
    Digest(DataRx, [u8; 4], usize),
    /// Nothing that arrives counts any more.
    Deaf,
}

/// The data of the PDU in progress: first bytes that nobody wants, then those of a command, then more that nobody wants.
#[derive(Debug)]
struct DataRx {
    before: u32,
    take: u32,
    after: u32,
    /// The command that `take` is for, and where in its landing the next byte goes.
    command: CommandIndex,
    at: u32,
    /// The R2T that an H2CData PDU answers, and the PDU's length; `None` for a capsule.
    grant: Option<(usize, u32)>,
    /// Whether a command waits for this data at all.
    wanted: bool,
    crc: Option<Crc32c>,
}

impl Rx {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Header,
            head: [0; HEADER_MAX],
            head_len: 0,
            quotable: 0,
            frame: None,
            fatal: None,
            backlog: Vec::new(),
            recopied: 0,
        }
    }

    /// The error that ended the connection.
    pub(super) const fn fatal(&self) -> Option<Fatal> {
        self.fatal
    }

    /// Bytes of data that the PDU in progress still has to bring.
    const fn data_left(&self) -> u32 {
        match &self.state {
            State::Pad(_, data) | State::Data(data) => data.before.saturating_add(data.take).saturating_add(data.after),
            _ => 0,
        }
    }

    const fn is_between_pdus(&self) -> bool {
        matches!(self.state, State::Deaf) || (matches!(self.state, State::Header) && self.head_len == 0)
    }
}

impl Connection {
    /// Where the next received bytes belong, while a command's data is due: received into it, they need no copy.
    pub fn recv_place(&mut self) -> Option<&mut [u8]> {
        let State::Data(data) = &self.rx.state else { return None };
        if data.before > 0 || data.take == 0 {
            return None;
        }
        let (at, take) = (data.at as usize, data.take as usize);
        self.queue.landing(data.command)?.as_mut_slice().get_mut(at..at + take)
    }

    /// Whether data is expected soon, so that a small scratch buffer keeps it from being copied.
    #[must_use]
    pub const fn expects_data(&self) -> bool {
        self.receiving > 0
    }

    /// Goes on with what was received while too many answers waited. To be called before more is received.
    pub fn resume(&mut self, cx: &mut Cx<'_>) {
        if !self.rx.backlog.is_empty() && self.wants_receive() {
            let backlog = std::mem::take(&mut self.rx.backlog);
            self.rx.recopied += 1;
            self.handle_received(cx, 0, &backlog);
            // What has gone back is handled next, and nothing is received before.
            if self.rx.backlog.is_empty() {
                self.rx.recopied = 0;
            }
        }
    }

    /// Bytes have arrived: `placed` of them in [`Self::recv_place`], and `rest` after those.
    pub fn handle_received(&mut self, cx: &mut Cx<'_>, placed: usize, rest: &[u8]) {
        let result = self.handle_placed(cx, placed).and_then(|()| self.handle_bytes(cx, rest));
        if let Err(fatal) = result {
            self.terminate(cx, fatal);
        }
        if self.rx.is_between_pdus() {
            self.pdu_deadline = None;
        } else if self.pdu_deadline.is_none() {
            let needed = Duration::from_secs(u64::from(self.rx.data_left() / SLOWEST_RATE));
            self.pdu_deadline = Some(cx.now + self.settings.timers.pdu + needed);
        }
    }

    fn handle_placed(&mut self, cx: &mut Cx<'_>, placed: usize) -> Result<(), Fatal> {
        if placed == 0 {
            return Ok(());
        }
        if let State::Data(data) = &mut self.rx.state {
            let n = (placed as u32).min(data.take);
            let at = data.at as usize;
            if let Some(crc) = &mut data.crc
                && let Some(landing) = self.queue.landing(data.command)
                && let Some(bytes) = landing.as_slice().get(at..at + n as usize)
            {
                crc.update(bytes);
            }
            data.at += n;
            data.take -= n;
            if data.grant.is_some() {
                self.remove_due(n);
            }
        }
        self.end_data_if_done(cx)
    }

    fn handle_bytes(&mut self, cx: &mut Cx<'_>, mut input: &[u8]) -> Result<(), Fatal> {
        // Commands from here on that the queue has been told of.
        let mut expected = 0_usize;
        while !input.is_empty() {
            if self.rx.is_between_pdus() {
                if expected == 0 {
                    expected = EXPECTED_MAX;
                    // One alone has nothing to wait together with.
                    if capsules(input).nth(1).is_some() {
                        self.queue.expect(cx, capsules(input).take(EXPECTED_MAX));
                    }
                }
                expected -= 1;
            }
            match &mut self.rx.state {
                State::Deaf => return Ok(()),
                // One receive can bring a thousand commands, each with an answer of its own size.
                State::Header if self.rx.head_len == 0 && self.tx.pending() >= self.settings.tx_high_water => {
                    self.rx.backlog.extend_from_slice(input);
                    return Ok(());
                }
                State::Header => {
                    if self.gather_header(&mut input)? {
                        self.pdu_deadline = None;
                        self.handle_header(cx, &mut input)?;
                    }
                }
                State::Pad(left, _) => {
                    let n = input.len().min(*left);
                    input = input.get(n..).unwrap_or_default();
                    *left -= n;
                    if *left == 0
                        && let State::Pad(_, data) = std::mem::replace(&mut self.rx.state, State::Header)
                    {
                        self.rx.state = State::Data(data);
                    }
                }
                State::Data(_) => {
                    self.gather_data(&mut input);
                    self.end_data_if_done(cx)?;
                }
                State::Digest(_, bytes, have) => {
                    let n = input.len().min(bytes.len() - *have);
                    let (now, later) = input.split_at(n);
                    bytes[*have..*have + n].copy_from_slice(now);
                    *have += n;
                    input = later;
                    if *have == bytes.len()
                        && let State::Digest(data, received, _) = std::mem::replace(&mut self.rx.state, State::Header)
                    {
                        let intact = data.crc.as_ref().is_none_or(|crc| crc.value().to_le_bytes() == received);
                        self.end_data(cx, &data, intact)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Collects the header of the next PDU; true when it is whole and its digest is right.
    fn gather_header(&mut self, input: &mut &[u8]) -> Result<bool, Fatal> {
        let rx = &mut self.rx;
        loop {
            let need = rx.frame.map_or(kvof_spec::tcp::COMMON_HEADER_SIZE, |f| f.header_total());
            let n = input.len().min(need - rx.head_len);
            let (now, later) = input.split_at(n);
            rx.head[rx.head_len..rx.head_len + n].copy_from_slice(now);
            rx.head_len += n;
            rx.quotable = rx.head_len;
            *input = later;
            if rx.head_len < need {
                return Ok(false);
            }
            let Some(frame) = rx.frame else {
                let Ok((ch, _)) = kvof_spec::tcp::CommonHeader::read_from_prefix(&rx.head) else { return Ok(false) };
                rx.frame = Some(ch.check(&self.rules)?);
                continue;
            };
            if frame.header_digest {
                let (header, received) = rx.head[..need].split_at(frame.hlen);
                if digest::of(header) != *received {
                    let fei = u32::from_le_bytes([received[0], received[1], received[2], received[3]]);
                    return Err(Fatal { fes: FatalErrorStatus::HEADER_DIGEST_ERROR, fei });
                }
            }
            rx.head_len = 0;
            return Ok(true);
        }
    }

    /// Handles a header; `input` is what has arrived behind it, of which data that are whole are taken.
    fn handle_header(&mut self, cx: &mut Cx<'_>, input: &mut &[u8]) -> Result<(), Fatal> {
        let Some(frame) = self.rx.frame.take() else { return Ok(()) };
        let head = self.rx.head;
        match (self.phase, frame.kind) {
            (_, PduType::H2C_TERM_REQ) => {
                if let Ok((term, _)) = TermReq::read_from_prefix(&head) {
                    let fatal = Fatal { fes: FatalErrorStatus(term.fes.get()), fei: term.fei.get() };
                    self.rx.state = State::Deaf;
                    self.tx.clear();
                    self.close(CloseReason::HostTerm(fatal));
                }
                Ok(())
            }
            (Phase::AwaitIcReq, PduType::IC_REQ) => self.handle_icreq(cx, &head),
            (Phase::Ready, PduType::CAPSULE_CMD) => self.handle_capsule(cx, &frame, &head, input),
            (Phase::Ready, PduType::H2C_DATA) => self.handle_h2c_data(&frame, &head),
            _ => Err(Fatal::sequence()),
        }
    }

    fn handle_icreq(&mut self, cx: &Cx<'_>, head: &[u8]) -> Result<(), Fatal> {
        let Ok((icreq, _)) = IcReq::read_from_prefix(head) else { return Ok(()) };
        if icreq.pfv.get() != PFV_1_0 {
            return Err(Fatal { fes: FatalErrorStatus::UNSUPPORTED_PARAMETER, fei: OFFSET_PFV });
        }
        if icreq.hpda > PDA_MAX {
            return Err(Fatal::field(OFFSET_HPDA));
        }
        let asked = Digests::from_byte(icreq.dgst);
        let digests = Digests {
            header: asked.header && self.settings.header_digest,
            data: asked.data && self.settings.data_digest,
        };
        self.hpda = icreq.hpda;
        let host_limit = usize::try_from(icreq.maxr2t.get()).unwrap_or(usize::MAX).saturating_add(1);
        self.maxr2t = host_limit.min(usize::from(self.settings.r2t_outstanding)).clamp(1, R2T_SLOTS);
        self.send_icresp(digests);
        self.rules.digests = digests;
        self.phase = Phase::Ready;
        tracing::debug!(peer = %cx.transport.peer, ?digests, maxr2t = self.maxr2t, hpda = self.hpda, "connection initialised");
        Ok(())
    }

    fn handle_capsule(&mut self, cx: &mut Cx<'_>, frame: &Frame, head: &[u8], input: &mut &[u8]) -> Result<(), Fatal> {
        let Ok((capsule, _)) = CapsuleCmd::read_from_prefix(head) else { return Ok(()) };
        let sqe = capsule.sqe;
        let (host_data, offset) = read_sgl(&sqe, frame.data_len);
        let whole = if host_data.is_ok_and(|data| data.in_capsule) { whole_data(frame, input) } else { None };
        let here = whole.and_then(|(data, _)| data.get(offset as usize..)).unwrap_or_default();
        let step = self.queue.begin(cx, &sqe, host_data, here).map_err(|violation| {
            tracing::warn!(peer = %cx.transport.peer, %violation, "queue overrun");
            Fatal::sequence()
        })?;
        if let Some((_, behind)) = whole {
            *input = behind;
            self.take(cx, step);
            self.adopt_role();
            return Ok(());
        }
        let mut wanted = None;
        match step {
            Step::Receive { index, len } if host_data.is_ok_and(|d| d.in_capsule) => wanted = Some((index, len)),
            step => self.take(cx, step),
        }
        if frame.data_len > 0 {
            let (before, take, command) = match wanted {
                Some((index, len)) => (offset, len, index),
                None => (frame.data_len, 0, 0),
            };
            // The SGL was checked to lie in the capsule, and a command wants no more than its SGL describes.
            let after = frame.data_len.saturating_sub(before.saturating_add(take));
            self.begin_data(
                frame,
                DataRx {
                    before,
                    take,
                    after,
                    command,
                    at: 0,
                    grant: None,
                    wanted: wanted.is_some(),
                    crc: frame.data_digest.then(Crc32c::new),
                },
            );
        }
        Ok(())
    }

    fn handle_h2c_data(&mut self, frame: &Frame, head: &[u8]) -> Result<(), Fatal> {
        let Ok((pdu, _)) = H2cData::read_from_prefix(head) else { return Ok(()) };
        let tag = usize::from(pdu.ttag.get());
        let (index, place) = (tag / R2T_SLOTS, tag % R2T_SLOTS);
        let Some(transfer) = self.transfers.get(index) else { return Err(Fatal::field(OFFSET_TTAG)) };
        let (offset, len) = (pdu.datao.get(), pdu.datal.get());
        let last = pdu.ch.flags().contains(PduFlags::LAST_PDU);
        transfer.check(place, offset, len, last).map_err(|e| match e {
            TransferError::Tag => Fatal::field(OFFSET_TTAG),
            TransferError::Alignment => Fatal::field(OFFSET_DATAO),
            TransferError::Offset => Fatal { fes: FatalErrorStatus::DATA_OUT_OF_RANGE, fei: OFFSET_DATAO },
            TransferError::Length => Fatal { fes: FatalErrorStatus::DATA_OUT_OF_RANGE, fei: OFFSET_DATAL },
            TransferError::Last => Fatal::field(OFFSET_FLAGS),
        })?;
        if !self.queue.is_receiving(index, pdu.cccid.get()) {
            return Err(Fatal::field(OFFSET_CCCID));
        }
        if len != frame.data_len {
            return Err(Fatal::field(OFFSET_DATAL));
        }
        self.begin_data(
            frame,
            DataRx {
                before: 0,
                take: len,
                after: 0,
                command: index,
                at: offset,
                grant: Some((place, len)),
                wanted: true,
                crc: frame.data_digest.then(Crc32c::new),
            },
        );
        Ok(())
    }

    fn begin_data(&mut self, frame: &Frame, data: DataRx) {
        let pad = frame.data_offset - frame.header_total();
        self.rx.state = if pad > 0 { State::Pad(pad, data) } else { State::Data(data) };
    }

    fn gather_data(&mut self, input: &mut &[u8]) {
        let State::Data(data) = &mut self.rx.state else { return };
        let skip_before = (input.len() as u32).min(data.before);
        let (skipped, rest) = input.split_at(skip_before as usize);
        data.before -= skip_before;
        let placed = (rest.len() as u32).min(data.take);
        let (mine, rest) = rest.split_at(placed as usize);
        let at = data.at as usize;
        if placed > 0
            && let Some(landing) = self.queue.landing(data.command)
            && landing.copy_in(at, mine)
            && let Landing::Pool(buf) = landing
        {
            buf.count_copied(self.rx.recopied * mine.len());
        }
        data.at += placed;
        data.take -= placed;
        let skip_after = if data.take == 0 { (rest.len() as u32).min(data.after) } else { 0 };
        let (trailing, rest) = rest.split_at(skip_after as usize);
        data.after -= skip_after;
        if let Some(crc) = &mut data.crc {
            crc.update(skipped);
            crc.update(mine);
            crc.update(trailing);
        }
        *input = rest;
        if data.grant.is_some() {
            self.remove_due(placed);
        }
    }

    fn end_data_if_done(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        if !matches!(&self.rx.state, State::Data(d) if d.before == 0 && d.take == 0 && d.after == 0) {
            return Ok(());
        }
        match std::mem::replace(&mut self.rx.state, State::Header) {
            State::Data(data) if data.crc.is_some() => {
                self.rx.state = State::Digest(data, [0; 4], 0);
                Ok(())
            }
            State::Data(data) => self.end_data(cx, &data, true),
            other => {
                self.rx.state = other;
                Ok(())
            }
        }
    }

    /// A PDU's data is complete.
    fn end_data(&mut self, cx: &mut Cx<'_>, data: &DataRx, intact: bool) -> Result<(), Fatal> {
        // What comes next has its own time, also if it has begun already.
        self.pdu_deadline = None;
        if !intact {
            tracing::warn!(peer = %cx.transport.peer, cid = self.queue.cid(data.command), "data digest error");
        }
        if !data.wanted {
            return Ok(());
        }
        let mut intact = intact;
        if let Some((place, len)) = data.grant {
            let Some(transfer) = self.transfers.get_mut(data.command) else { return Ok(()) };
            transfer.received(place, len);
            transfer.corrupt |= !intact;
            self.data_progress = cx.now;
            if !transfer.is_complete() {
                self.send_r2ts(data.command);
                return Ok(());
            }
            intact = !transfer.corrupt;
            *transfer = Transfer::default();
            self.receiving -= 1;
        }
        let outcome = if intact { Ok(()) } else { Err(Status::TRANSIENT_TRANSPORT_ERROR) };
        let step = self.queue.received(cx, data.command, outcome);
        self.take(cx, step);
        self.adopt_role();
        Ok(())
    }

    /// Ends the connection with a C2HTermReq that says why and quotes the offending header.
    fn terminate(&mut self, cx: &Cx<'_>, fatal: Fatal) {
        if matches!(self.phase, Phase::Terminating(_)) {
            return;
        }
        let head = self.rx.head;
        if PduType(head[0]).is_term_req() {
            // A TermReq is never answered by another, not even a malformed one.
            self.rx.state = State::Deaf;
            self.tx.clear();
            return self.close(CloseReason::Fatal(fatal));
        }
        self.send_term_req(fatal, head.get(..self.rx.quotable).unwrap_or_default());
        self.phase = Phase::Terminating(cx.now);
        self.rx.state = State::Deaf;
        self.rx.fatal = Some(fatal);
        self.queue.abandon();
        self.forget_transfers();
    }
}

/// The commands of the capsules that `bytes` begin with, none of them checked.
fn capsules(mut bytes: &[u8]) -> impl Iterator<Item = &Sqe> + Clone {
    std::iter::from_fn(move || {
        let (capsule, _) = CapsuleCmd::ref_from_prefix(bytes).ok()?;
        // What is shorter than its header is none.
        let len = capsule.ch.plen.get() as usize;
        let is_capsule = capsule.ch.pdu_type == PduType::CAPSULE_CMD.0 && len >= size_of::<CapsuleCmd>();
        bytes = bytes.get(len..).unwrap_or_default();
        is_capsule.then_some(&capsule.sqe)
    })
}

/// The data of a capsule, if `input` has all of them, with the right digest where there is one; and what comes behind them.
fn whole_data<'a>(frame: &Frame, input: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (_pad, rest) = input.split_at_checked(frame.data_offset - frame.header_total())?;
    let (data, rest) = rest.split_at_checked(frame.data_len as usize)?;
    if !frame.data_digest {
        return Some((data, rest));
    }
    let (received, rest) = rest.split_first_chunk()?;
    (digest::of(data) == *received).then_some((data, rest))
}

/// What a command's SGL says about its data, given `capsule` bytes of data in its capsule, and where in the capsule
/// that data begins.
fn read_sgl(sqe: &Sqe, capsule: u32) -> (Result<HostData, Status>, u32) {
    match sqe.sgl1.decode() {
        Sgl::TransportData { length } => (Ok(HostData { len: length, in_capsule: false }), 0),
        Sgl::InCapsule { length: 0, .. } | Sgl::Address { length: 0, .. } | Sgl::Keyed { length: 0, .. } => {
            (Ok(HostData::default()), 0)
        }
        Sgl::InCapsule { offset, length } => match u32::try_from(offset) {
            Ok(offset) if offset <= capsule => match offset.checked_add(length) {
                Some(end) if end <= capsule => (Ok(HostData { len: length, in_capsule: true }), offset),
                _ => (Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()), 0),
            },
            _ => (Err(Status::SGL_OFFSET_INVALID.with_dnr()), 0),
        },
        _ => (Err(Status::SGL_TYPE_INVALID.with_dnr()), 0),
    }
}

#[cfg(test)]
mod tests {
    use kvof_spec::{IntoBytes, NvmOpcode, tcp::CommonHeader};

    use super::*;

    fn capsule(cid: u16, data: usize, digests: Digests) -> Vec<u8> {
        let mut sqe = Sqe::new(NvmOpcode::READ);
        sqe.cid = cid.into();
        let pdu = CapsuleCmd::new(sqe, data as u32, digests, 0);
        let mut bytes = pdu.as_bytes().to_vec();
        bytes.resize(pdu.ch.plen.get() as usize, 0);
        bytes
    }

    fn seen(bytes: &[u8]) -> Vec<u16> {
        capsules(bytes).map(|sqe| sqe.cid.get()).collect()
    }

    #[test]
    fn capsules_are_seen_up_to_what_is_none() {
        let plain = Digests::default();
        let both = Digests { header: true, data: true };
        let some = [capsule(1, 0, plain), capsule(2, 4096, plain), capsule(3, 77, both), capsule(4, 0, both)].concat();
        assert_eq!(seen(&some), [1, 2, 3, 4]);
        // A command whose data are not all there is seen; one whose header is not is none.
        assert_eq!(seen(&some[..72 + 72]), [1, 2]);
        assert_eq!(seen(&some[..72 + 71]), [1]);
        assert!(seen(&[]).is_empty());
        let other = CommonHeader { pdu_type: PduType::H2C_DATA.0, ..*CommonHeader::ref_from_prefix(&some).unwrap().0 };
        assert_eq!(seen(&[&some[..72], other.as_bytes(), &[0; 100], &some].concat()), [1]);
        // Lengths that lie: nobody reads beyond what is there, and nobody goes round in circles.
        for (plen, expected) in [(0, vec![1]), (71, vec![1]), (72, vec![1, 9]), (u32::MAX, vec![1, 9])] {
            let mut liar = capsule(9, 0, plain);
            liar[4..8].copy_from_slice(&u32::to_le_bytes(plen));
            assert_eq!(seen(&[&some[..72], &liar].concat()), expected, "PLEN {plen}");
        }
    }
}

//! What comes in: PDU headers through a small buffer, data straight into the callers' buffers.

use kvof_spec::tcp::{
    C2hData, COMMON_HEADER_SIZE, CapsuleResp, CommonHeader, DIGEST_SIZE, Digests, Fatal, FatalErrorStatus, Frame,
    HEADER_SIZE_MAX, IcResp, MAXH2CDATA_MIN, PDA_MAX, PFV_1_0, PduFlags, PduType, R2t, ReceiveRules,
    Receiver as ReceiverEnd, TermReq,
};
use kvof_spec::{Cqe, Status};
use zerocopy::FromBytes;

use super::transmit::Grant;
use super::{Negotiated, RunningDigest, TcpQueue, crc32c, fatal};
use crate::{
    ConnectionError, DigestMode,
    queue::{Direction, HostQueue},
};

/// Bytes of the receive buffer: a burst of small PDUs comes in with one call.
const BUFFER_SIZE: usize = 128 << 10;
/// How much is read beyond a large value: enough for the headers that follow it, little of the next value, as what is
/// read here has to be copied.
const SMALL_TAIL: usize = 4 << 10;
/// Mean size of the commands that read from which [`SMALL_TAIL`] pays.
const LARGE_VALUE: u64 = 16 << 10;
/// Data of commands that expired go here.
const SCRATCH_SIZE: usize = 64 << 10;

/// Bytes that have come and are not used yet, and where the next ones belong.
#[derive(Debug)]
pub(super) struct Receiver {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    stage: Stage,
    scratch: Vec<u8>,
    /// Bytes of the first slice that [`TcpQueue::receive`] gave last.
    direct: usize,
    /// Bytes of the buffer wait for a staging piece.
    blocked: bool,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum Stage {
    /// A header.
    Header,
    /// The data of a C2HData.
    Data(Incoming),
    /// The data digest after them.
    Digest(Incoming),
}

/// A C2HData whose header has come.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    cid: u16,
    /// Where the next byte goes in the command's buffer.
    offset: usize,
    /// Bytes that are still to come.
    left: usize,
    digest: Option<RunningDigest>,
    datal: u32,
    last: bool,
    success: bool,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_SIZE].into_boxed_slice(),
            start: 0,
            end: 0,
            stage: Stage::Header,
            scratch: Vec::new(),
            direct: 0,
            blocked: false,
        }
    }

    fn unused(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

/// A protocol error and its explanation.
type Violation = (Fatal, String);

impl TcpQueue {
    /// Where the next bytes go: first into the first slice, which may be empty, then into the second. No room at all:
    /// every staging piece is being copied, and [`Self::handle_copies`] makes room.
    pub(crate) fn receive(&mut self) -> (&mut [u8], &mut [u8]) {
        let rx = &mut self.rx;
        rx.direct = 0;
        if rx.blocked {
            return (&mut [], &mut []);
        }
        if rx.start > 0 {
            rx.buffer.copy_within(rx.start..rx.end, 0);
            rx.end -= rx.start;
            rx.start = 0;
        }
        let (bytes, count) = self.reading;
        let large = count > 0 && bytes / u64::from(count) >= LARGE_VALUE;
        let ahead = if large { SMALL_TAIL } else { BUFFER_SIZE };
        let mut direct: &mut [u8] = &mut [];
        if let Stage::Data(incoming) = &rx.stage {
            match self.ledger.commands.get_mut(incoming.cid) {
                Some(command) if command.expired.is_none() => match command.transfer.staging {
                    None => direct = command.payload.incoming(incoming.offset, incoming.left).unwrap_or_default(),
                    Some(id) => match self.stager.place(id, incoming.offset, incoming.left) {
                        Some(place) => direct = place,
                        None => return (&mut [], &mut []),
                    },
                },
                _ => {
                    rx.scratch.resize(SCRATCH_SIZE, 0);
                    direct = rx.scratch.get_mut(..incoming.left.min(SCRATCH_SIZE)).unwrap_or_default();
                }
            }
            // A part of the data only: what follows may not go into the receive buffer.
            if !direct.is_empty() && direct.len() < incoming.left {
                rx.direct = direct.len();
                return (direct, &mut []);
            }
        }
        rx.direct = direct.len();
        let until = rx.buffer.len().min(rx.end + ahead);
        (direct, rx.buffer.get_mut(rx.end..until).unwrap_or_default())
    }

    /// `n` bytes have come into what [`Self::receive`] gave. None: the controller has closed the connection.
    pub(crate) fn handle_received(&mut self, n: usize) {
        if self.ledger.ended().is_some() {
            return;
        }
        if n == 0 {
            let cause = if self.negotiated.is_none() && matches!(self.rx.stage, Stage::Header) && self.rx.end == 0 {
                ConnectionError::Negotiation("the controller closed the connection instead".into())
            } else {
                ConnectionError::ClosedByController
            };
            self.fail(cause);
            return;
        }
        let direct = n.min(self.rx.direct);
        self.rx.direct = 0;
        if direct > 0 {
            self.advance_data(direct);
        }
        self.rx.end = (self.rx.end + (n - direct)).min(self.rx.buffer.len());
        self.resume();
    }

    /// Uses the bytes that have come, as far as it can.
    pub(super) fn resume(&mut self) {
        self.rx.blocked = false;
        while self.ledger.ended().is_none() {
            match self.step() {
                Ok(true) => {}
                Ok(false) => break,
                Err((fatal, what)) => {
                    let unused = self.rx.unused();
                    let header = unused.get(..HEADER_SIZE_MAX).unwrap_or(unused).to_vec();
                    self.violation(fatal, what, &header);
                }
            }
        }
    }

    /// Uses the next bytes; gives whether there may be more to do.
    fn step(&mut self) -> Result<bool, Violation> {
        match self.rx.stage {
            Stage::Header => self.step_header(),
            Stage::Data(incoming) => {
                if incoming.left > 0 {
                    let mut n = incoming.left.min(self.rx.end - self.rx.start);
                    if n == 0 {
                        return Ok(false);
                    }
                    if let Some(command) = self.ledger.commands.get_mut(incoming.cid)
                        && command.expired.is_none()
                    {
                        let to = match command.transfer.staging {
                            None => command.payload.incoming(incoming.offset, n),
                            Some(id) => {
                                let Some(place) = self.stager.place(id, incoming.offset, n) else {
                                    self.rx.blocked = true;
                                    return Ok(false);
                                };
                                n = place.len();
                                Some(place)
                            }
                        };
                        let from = self.rx.buffer.get(self.rx.start..self.rx.start + n);
                        match (to, from) {
                            (Some(to), Some(from)) => to.copy_from_slice(from),
                            _ => {
                                let command = command.name;
                                self.fail(ConnectionError::Buffer { command });
                                return Ok(false);
                            }
                        }
                    }
                    self.rx.start += n;
                    self.advance_data(n);
                    return Ok(true);
                }
                self.rx.stage = Stage::Digest(incoming);
                Ok(true)
            }
            Stage::Digest(incoming) => {
                if let Some(digest) = incoming.digest {
                    let Some(bytes) = self.rx.unused().first_chunk::<DIGEST_SIZE>() else { return Ok(false) };
                    let digest_error = u32::from_le_bytes(*bytes) != digest.finish();
                    self.rx.start += DIGEST_SIZE;
                    if let Some(command) = self.ledger.commands.get_mut(incoming.cid) {
                        command.transfer.digest_error |= digest_error;
                    }
                }
                self.rx.stage = Stage::Header;
                self.finish_data(incoming);
                Ok(true)
            }
        }
    }

    /// `n` more bytes of the current C2HData are in the command's buffer.
    fn advance_data(&mut self, n: usize) {
        let Stage::Data(incoming) = &mut self.rx.stage else { return };
        if let Some(command) = self.ledger.commands.get_mut(incoming.cid).filter(|c| c.expired.is_none()) {
            let staged = command.transfer.staging.is_some();
            if let Some(digest) = &mut incoming.digest {
                digest.update(match staged {
                    true => self.stager.placed(n),
                    false => command.payload.incoming(incoming.offset, n).unwrap_or_default(),
                });
            }
            if staged {
                self.stager.advance(n);
            }
        }
        incoming.offset += n;
        incoming.left -= n.min(incoming.left);
    }

    fn finish_data(&mut self, incoming: Incoming) {
        let Some(command) = self.ledger.commands.get_mut(incoming.cid) else { return };
        command.transfer.received = command.transfer.received.saturating_add(incoming.datal);
        command.transfer.last |= incoming.last;
        if let (true, Some(id)) = (incoming.last, command.transfer.staging) {
            self.stager.flush(id);
        }
        if incoming.success {
            self.complete(incoming.cid, Cqe::new(incoming.cid, Status::SUCCESS));
        }
    }

    fn step_header(&mut self) -> Result<bool, Violation> {
        let digests = self.negotiated.map_or_else(Digests::default, |n| n.digests);
        let rules = ReceiveRules {
            receiver: ReceiverEnd::Host,
            digests,
            pda: self.settings.hpda,
            in_capsule_max: 0,
            data_max: u32::MAX,
        };
        let bytes = self.rx.unused();
        let Ok((header, _)) = CommonHeader::read_from_prefix(bytes) else {
            debug_assert!(bytes.len() < COMMON_HEADER_SIZE);
            return Ok(false);
        };
        let kind = header.kind();
        let frame = header.check(&rules).map_err(|e| (e, format!("{kind} with the header {header:?}")))?;
        match (self.negotiated.is_some(), kind) {
            (_, PduType::C2H_TERM_REQ) | (false, PduType::IC_RESP) => {}
            (true, PduType::IC_RESP) => return Err((Fatal::sequence(), "a second ICResp".into())),
            (true, _) => {}
            (false, _) => return Err((Fatal::sequence(), format!("{kind} before ICResp"))),
        }
        let needed = if kind == PduType::C2H_TERM_REQ { frame.total() } else { frame.data_offset };
        let Some(pdu) = bytes.get(..needed) else { return Ok(false) };
        if frame.header_digest {
            let (covered, rest) = pdu.split_at_checked(frame.hlen).unwrap_or_default();
            let received = rest.first_chunk::<DIGEST_SIZE>().map_or(0, |d| u32::from_le_bytes(*d));
            if received != crc32c(covered) {
                let fatal = Fatal { fes: FatalErrorStatus::HEADER_DIGEST_ERROR, fei: received };
                return Err((fatal, format!("header digest of {kind} is {received:#010x}")));
            }
        }
        match kind {
            PduType::IC_RESP => {
                if let Ok((pdu, _)) = IcResp::read_from_prefix(pdu) {
                    self.handle_ic_resp(&pdu)?;
                }
            }
            PduType::C2H_TERM_REQ => {
                if let Ok((pdu, _)) = TermReq::read_from_prefix(pdu) {
                    let (fes, fei) = (FatalErrorStatus(pdu.fes.get()), pdu.fei.get());
                    self.fail(ConnectionError::Terminated { fes, fei });
                    return Ok(false);
                }
            }
            PduType::CAPSULE_RESP => {
                if let Ok((pdu, _)) = CapsuleResp::read_from_prefix(pdu) {
                    self.handle_response(&pdu.cqe)?;
                }
            }
            PduType::R2T => {
                if let Ok((pdu, _)) = R2t::read_from_prefix(pdu) {
                    self.handle_r2t(&pdu)?;
                }
            }
            _ => {
                if let Ok((pdu, _)) = C2hData::read_from_prefix(pdu) {
                    self.handle_c2h_data(&pdu, &frame)?;
                }
            }
        }
        self.rx.start += needed;
        Ok(true)
    }

    fn handle_ic_resp(&mut self, pdu: &IcResp) -> Result<(), Violation> {
        if pdu.pfv.get() != PFV_1_0 {
            return Err((unsupported(8), format!("ICResp has the PDU format version {}", pdu.pfv.get())));
        }
        if pdu.cpda > PDA_MAX {
            return Err((Fatal::field(10), format!("ICResp has CPDA {}, at most {PDA_MAX} is possible", pdu.cpda)));
        }
        let maxh2cdata = pdu.maxh2cdata.get();
        if maxh2cdata < MAXH2CDATA_MIN {
            let what = format!("ICResp has MAXH2CDATA {maxh2cdata}, at least {MAXH2CDATA_MIN} is demanded");
            return Err((Fatal::field(12), what));
        }
        let digests = Digests::from_byte(pdu.dgst);
        for (name, mode, enabled) in
            [("header", self.settings.header_digest, digests.header), ("data", self.settings.data_digest, digests.data)]
        {
            match (mode, enabled) {
                (DigestMode::Off, true) => {
                    return Err((
                        Fatal::field(11),
                        format!("ICResp enables the {name} digest, which was not asked for"),
                    ));
                }
                (DigestMode::Require, false) => {
                    self.fail(ConnectionError::Negotiation(
                        format!("the controller refuses the {name} digest, which this host requires").into(),
                    ));
                    return Ok(());
                }
                _ => {}
            }
        }
        self.negotiated = Some(Negotiated { digests, cpda: pdu.cpda, maxh2cdata: maxh2cdata & !3 });
        Ok(())
    }

    fn handle_response(&mut self, cqe: &Cqe) -> Result<(), Violation> {
        let cid = cqe.cid.get();
        // The CID is at byte 12 of the entry, which follows the common header.
        let Some(command) = self.ledger.commands.get(cid) else {
            return Err((Fatal::field(20), format!("CapsuleResp for command {cid:#06x}, which is not in flight")));
        };
        let transfer = &command.transfer;
        if !transfer.capsule_sent {
            let what = format!("CapsuleResp for {} {cid:#06x}, which is not fully sent", command.name);
            return Err((Fatal::sequence(), what));
        }
        if transfer.unsent > 0 {
            let what = format!(
                "CapsuleResp for {} {cid:#06x} while {} bytes that R2Ts asked for are to be sent",
                command.name, transfer.unsent
            );
            return Err((Fatal::sequence(), what));
        }
        self.complete(cid, *cqe);
        Ok(())
    }

    fn handle_c2h_data(&mut self, pdu: &C2hData, frame: &Frame) -> Result<(), Violation> {
        let (cid, datao, datal) = (pdu.cccid.get(), pdu.datao.get(), pdu.datal.get());
        let flags = pdu.ch.flags();
        let (last, success) = (flags.contains(PduFlags::LAST_PDU), flags.contains(PduFlags::SUCCESS));
        let Some(command) = self.ledger.commands.get_mut(cid) else {
            return Err((Fatal::field(8), format!("C2HData for command {cid:#06x}, which is not in flight")));
        };
        let name = command.name;
        let transfer = &command.transfer;
        if transfer.direction != Direction::FromController {
            return Err((Fatal::field(8), format!("C2HData for {name} {cid:#06x}, which does not read")));
        }
        if !transfer.capsule_sent || transfer.last {
            let when = if transfer.last { "after its last one" } else { "before it is fully sent" };
            return Err((Fatal::sequence(), format!("C2HData for {name} {cid:#06x} {when}")));
        }
        if datal != frame.data_len {
            return Err((Fatal::field(16), format!("C2HData has DATAL {datal} and {} bytes of data", frame.data_len)));
        }
        let in_range = datao.checked_add(datal).is_some_and(|end| end <= transfer.len);
        if datao != transfer.received || !in_range {
            let what = format!(
                "C2HData for {name} {cid:#06x} has {datal} bytes for offset {datao}, where {} of {} bytes have come",
                transfer.received, transfer.len
            );
            return Err((fatal(FatalErrorStatus::DATA_OUT_OF_RANGE), what));
        }
        if success && !last {
            return Err((Fatal::field(1), "C2HData has SUCCESS without LAST_PDU".into()));
        }
        self.rx.stage = Stage::Data(Incoming {
            cid,
            offset: datao as usize,
            left: datal as usize,
            digest: frame.data_digest.then(RunningDigest::new),
            datal,
            last,
            success,
        });
        Ok(())
    }

    fn handle_r2t(&mut self, pdu: &R2t) -> Result<(), Violation> {
        let (cid, r2to, r2tl) = (pdu.cccid.get(), pdu.r2to.get(), pdu.r2tl.get());
        let Some(command) = self.ledger.commands.get_mut(cid) else {
            return Err((Fatal::field(8), format!("R2T for command {cid:#06x}, which is not in flight")));
        };
        let name = command.name;
        let transfer = &mut command.transfer;
        if transfer.direction != Direction::ToController || transfer.in_capsule {
            return Err((Fatal::field(8), format!("R2T for {name} {cid:#06x}, which has nothing to send")));
        }
        if !transfer.capsule_sent {
            return Err((Fatal::sequence(), format!("R2T for {name} {cid:#06x} before it is fully sent")));
        }
        if r2tl == 0 {
            return Err((Fatal::field(16), format!("R2T for {name} {cid:#06x} asks for 0 bytes")));
        }
        let in_range = r2to.checked_add(r2tl).is_some_and(|end| end <= transfer.len);
        let Some(solicited) = transfer.solicited.checked_add(r2tl).filter(|s| in_range && *s <= transfer.len) else {
            let what = format!(
                "R2T for {name} {cid:#06x} asks for {r2tl} bytes at {r2to}; it has {} bytes, and {} were asked for \
                 before",
                transfer.len, transfer.solicited
            );
            return Err((fatal(FatalErrorStatus::DATA_OUT_OF_RANGE), what));
        };
        if transfer.r2ts > self.settings.maxr2t {
            let what = format!("R2T for {name} {cid:#06x} while {} are outstanding", transfer.r2ts);
            return Err((fatal(FatalErrorStatus::LIMIT_EXCEEDED), what));
        }
        transfer.solicited = solicited;
        transfer.unsent += r2tl;
        transfer.r2ts += 1;
        let grant = Grant { cid, ttag: pdu.ttag.get(), offset: r2to, left: r2tl };
        match transfer.staging {
            None => self.tx.push_grant(grant),
            Some(id) => {
                self.stager.want(id, r2to as usize, r2tl as usize);
                self.tx.push_staged(grant);
            }
        }
        Ok(())
    }
}

/// An unsupported parameter at byte `offset` of the PDU.
const fn unsupported(offset: u32) -> Fatal {
    Fatal { fes: FatalErrorStatus::UNSUPPORTED_PARAMETER, fei: offset }
}

//! NVMe/TCP, host side, sans-IO: bytes in, bytes out, commands in, answers out.
//!
//! [`HostQueue`] is one connection and the queue pair on it. Its driver moves bytes:
//! [`prepare_transmit`](HostQueue::prepare_transmit), [`transmit`](HostQueue::transmit) and
//! [`handle_sent`](HostQueue::handle_sent) for one direction, [`receive`](HostQueue::receive) and
//! [`handle_received`](HostQueue::handle_received) for the other. Data go from and to the callers' buffers directly.
//!
//! Nothing that the controller sends is used before it is proven: types, lengths, offsets, tags, identifiers and order.
//! What is wrong ends the connection with an H2CTermReq; then every command is answered with that error.

mod driver;
mod receive;
mod transmit;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crc_fast::CrcAlgorithm;
use kvof_spec::tcp::{COMMON_HEADER_SIZE, Digests, Fatal, FatalErrorStatus, HEADER_SIZE_MAX, IcReq, PduType, TermReq};
use kvof_spec::{AdminOpcode, SglDescriptor, Status};
use zerocopy::IntoBytes;

use crate::{
    ConnectionError, DigestMode, Error,
    buffer::Payload,
    queue::{Answer, Command, CommandTable, InFlight, Reply},
};
use receive::Receiver;
use transmit::{Mark, Transmitter};

pub(crate) use driver::{Link, spawn};
pub(crate) use transmit::IOV_MAX;

/// In-capsule data that every controller takes on the admin queue and with Fabrics commands, bytes (TCP section 3.3.2).
pub(crate) const ADMIN_IN_CAPSULE: u32 = 8192;

/// What this end of the connection asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) header_digest: DigestMode,
    pub(crate) data_digest: DigestMode,
    /// HPDA: dwords, 0's based.
    pub(crate) hpda: u8,
    /// MAXR2T: 0's based.
    pub(crate) maxr2t: u32,
    /// Commands in flight.
    pub(crate) capacity: u16,
    /// Most in-capsule data of a command, bytes; Fabrics commands always have [`ADMIN_IN_CAPSULE`].
    pub(crate) in_capsule: u32,
}

/// What both ends agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Negotiated {
    pub(crate) digests: Digests,
    /// CPDA: dwords, 0's based.
    pub(crate) cpda: u8,
    /// Most data of one H2CData, bytes, a multiple of 4.
    pub(crate) maxh2cdata: u32,
}

/// Which way a command's data go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    None,
    ToController,
    FromController,
}

/// What the transport knows of a command in flight.
#[derive(Debug)]
struct Transfer {
    direction: Direction,
    /// Bytes of data.
    len: u32,
    /// The data go with the command.
    in_capsule: bool,
    /// The whole command capsule was sent.
    capsule_sent: bool,
    /// Bytes that came.
    received: u32,
    /// A C2HData with LAST_PDU came.
    last: bool,
    /// A data digest did not match.
    digest_error: bool,
    /// Bytes that R2Ts have asked for.
    solicited: u32,
    /// Of these, the bytes that are not sent yet.
    unsent: u32,
    /// R2Ts that are not fully answered yet.
    r2ts: u32,
}

impl Transfer {
    /// Whether bytes of the caller's buffer still have to go out.
    const fn needs_buffer(&self) -> bool {
        match self.direction {
            Direction::ToController if self.in_capsule => !self.capsule_sent,
            Direction::ToController => self.solicited < self.len || self.unsent > 0,
            Direction::None | Direction::FromController => false,
        }
    }
}

/// One connection to a controller and the queue pair on it.
#[derive(Debug)]
pub(crate) struct HostQueue {
    address: Arc<str>,
    settings: Settings,
    negotiated: Option<Negotiated>,
    commands: CommandTable<Transfer>,
    tx: Transmitter,
    rx: Receiver,
    /// Bytes and number of commands that read, to choose how much to read ahead.
    reading: (u64, u32),
    done: Vec<(usize, Answer)>,
    end: Option<ConnectionError>,
}

impl HostQueue {
    /// A queue on a fresh connection; its first bytes to send are ICReq.
    pub(crate) fn new(address: Arc<str>, settings: Settings) -> Self {
        let asked = Digests {
            header: settings.header_digest != DigestMode::Off,
            data: settings.data_digest != DigestMode::Off,
        };
        let mut tx = Transmitter::default();
        tx.push_pdu(&[IcReq::new(settings.hpda, asked, settings.maxr2t).as_bytes()], None, &[], Mark::Other);
        Self {
            address,
            settings,
            negotiated: None,
            commands: CommandTable::new(settings.capacity),
            tx,
            rx: Receiver::new(),
            reading: (0, 0),
            done: Vec::new(),
            end: None,
        }
    }

    /// What ICResp brought; commands may be submitted once it is there.
    pub(crate) const fn negotiated(&self) -> Option<Negotiated> {
        self.negotiated
    }

    /// Why the connection is over; what is left to transmit then is a TermReq at most.
    pub(crate) const fn ended(&self) -> Option<&ConnectionError> {
        self.end.as_ref()
    }

    /// Commands that may be in flight, those left out whose time was over and that keep their place.
    pub(crate) fn usable(&self) -> usize {
        self.commands.usable()
    }

    /// Whether commands wait for their answer.
    pub(crate) fn is_busy(&self) -> bool {
        self.commands.len() > 0
    }

    /// Takes the answers that have come, each with the key that the command was submitted with.
    pub(crate) fn take_answers(&mut self, into: &mut Vec<(usize, Answer)>) {
        into.append(&mut self.done);
    }

    /// Takes a command; its answer comes from [`Self::take_answers`] under `key`.
    pub(crate) fn submit(&mut self, key: usize, command: Command) {
        let Command { mut sqe, payload, len, name, limit } = command;
        let refuse = |payload, error| (key, Answer { result: Err(error), payload });
        let Some(negotiated) = self.negotiated.filter(|_| self.end.is_none()) else {
            let cause = self.end.clone().unwrap_or(ConnectionError::ClosedByHost);
            self.done.push(refuse(payload, Error::ConnectionLost { address: Arc::clone(&self.address), cause }));
            return;
        };
        let Ok(len) = u32::try_from(len) else {
            let error = Error::argument("buffer length", len, "a command moves at most 4 GiB - 1");
            self.done.push(refuse(payload, error));
            return;
        };
        let in_capsule_max =
            if sqe.opcode == AdminOpcode::FABRICS.0 { ADMIN_IN_CAPSULE } else { self.settings.in_capsule };
        let direction = match payload {
            _ if len == 0 => Direction::None,
            Payload::None => Direction::None,
            Payload::Out(_) => Direction::ToController,
            Payload::In(_) => Direction::FromController,
        };
        let in_capsule = direction == Direction::ToController && len <= in_capsule_max;
        let transfer = Transfer {
            direction,
            len,
            in_capsule,
            capsule_sent: false,
            received: 0,
            last: false,
            digest_error: false,
            solicited: 0,
            unsent: 0,
            r2ts: 0,
        };
        let cid = match self.commands.insert(key, name, payload, limit, transfer) {
            Ok(cid) => cid,
            Err(payload) => {
                let error = Error::argument("commands in flight", self.commands.len(), "the queue is full");
                self.done.push(refuse(payload, error));
                return;
            }
        };
        sqe.cid = cid.into();
        sqe.sgl1 = if in_capsule { SglDescriptor::in_capsule(0, len) } else { SglDescriptor::transport_data(len) };
        if direction == Direction::FromController {
            self.reading = (self.reading.0 + u64::from(len), self.reading.1 + 1);
        }
        let data = if in_capsule { len } else { 0 };
        let sent = match self.commands.get(cid).map(|c| &c.payload) {
            Some(payload) => self.tx.push_command(&sqe, cid, data, payload, &negotiated),
            None => Err(()),
        };
        if sent.is_err() {
            self.fail(ConnectionError::Buffer { command: name });
        }
    }

    /// Earliest time at which [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_deadline(&self) -> Option<Instant> {
        self.commands.next_check()
    }

    /// Tells the commands whose time is over. A buffer that is needed for sending takes the connection with it, and so
    /// does a command that has no answer after twice its time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for cid in self.commands.due(now) {
            let Some(InFlight { key, name, limit: Some(limit), expired, transfer, .. }) = self.commands.get(cid) else {
                continue;
            };
            let (key, name, after) = (*key, *name, limit.after);
            if expired.is_some() || transfer.needs_buffer() {
                self.answer_timeout(cid, key, name, after, now);
                self.fail(ConnectionError::CommandTimeout { command: name, after });
                return;
            }
            self.answer_timeout(cid, key, name, after, now);
        }
    }

    /// The connection is over, for `cause`: every command is answered.
    pub(crate) fn fail(&mut self, cause: ConnectionError) {
        if self.end.is_some() {
            return;
        }
        tracing::debug!(address = %self.address, %cause, "connection ended");
        for command in self.commands.drain() {
            if command.expired.is_none() {
                let result = Err(Error::ConnectionLost { address: Arc::clone(&self.address), cause: cause.clone() });
                self.done.push((command.key, Answer { result, payload: command.payload }));
            }
        }
        self.end = Some(cause);
        self.tx.clear();
    }

    fn answer_timeout(&mut self, cid: u16, key: usize, command: &'static str, after: Duration, now: Instant) {
        if let Some(payload) = self.commands.expire(cid, now) {
            self.done.push((key, Answer { result: Err(Error::Timeout { command, after }), payload }));
        }
    }

    /// The controller broke the protocol: says so in an H2CTermReq, if one can be sent, and ends the connection.
    fn violation(&mut self, fatal: Fatal, what: String, header: &[u8]) {
        // A TermReq that is wrong itself is not answered by another.
        let is_term_req = header.first().is_some_and(|kind| PduType(*kind).is_term_req());
        let sayable = self.tx.between_pdus() && !is_term_req;
        self.fail(ConnectionError::protocol(fatal, what));
        if sayable {
            let hlen = usize::from(header.get(2).copied().unwrap_or(0)).clamp(COMMON_HEADER_SIZE, HEADER_SIZE_MAX);
            let shown = header.get(..hlen).unwrap_or(header);
            let head = TermReq::new(PduType::H2C_TERM_REQ, fatal.fes, fatal.fei, shown.len());
            self.tx.push_pdu(&[head.as_bytes(), shown], None, &[], Mark::Other);
        }
    }

    /// Answers command `cid`, whose completion has come.
    fn complete(&mut self, cid: u16, cqe: kvof_spec::Cqe) {
        let Some(command) = self.commands.remove(cid) else { return };
        if command.transfer.direction == Direction::FromController {
            let (bytes, count) = self.reading;
            self.reading = (bytes.saturating_sub(u64::from(command.transfer.len)), count.saturating_sub(1));
        }
        if command.expired.is_some() {
            return;
        }
        let status = if command.transfer.digest_error && cqe.status().is_success() {
            Status::TRANSIENT_TRANSPORT_ERROR
        } else {
            cqe.status()
        };
        let result = if status.is_success() {
            Ok(Reply { cqe, received: command.transfer.received })
        } else {
            Err(Error::Status { command: command.name, status, result: cqe.result() })
        };
        self.done.push((command.key, Answer { result, payload: command.payload }));
    }
}

/// CRC-32C as header and data digests use it.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A digest that is fed piece by piece.
#[derive(Clone, Copy)]
struct RunningDigest(crc_fast::Digest);

impl RunningDigest {
    fn new() -> Self {
        Self(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

impl core::fmt::Debug for RunningDigest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("RunningDigest")
    }
}

/// A fatal error of class `fes` without further information.
const fn fatal(fes: FatalErrorStatus) -> Fatal {
    Fatal { fes, fei: 0 }
}

#[cfg(test)]
mod tests;

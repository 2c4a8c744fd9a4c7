//! NVMe/TCP, host side, sans-IO: bytes in, bytes out, commands in, answers out.
//!
//! [`TcpQueue`] is one connection and the queue pair on it. Its driver moves bytes:
//! [`prepare_transmit`](TcpQueue::prepare_transmit), [`transmit`](TcpQueue::transmit) and
//! [`handle_sent`](TcpQueue::handle_sent) for one direction, [`receive`](TcpQueue::receive) and
//! [`handle_received`](TcpQueue::handle_received) for the other. Data go from and to the callers' buffers directly, or, if
//! these are device memory, through pinned pieces, whose copies [`handle_copies`](TcpQueue::handle_copies) follows.
//!
//! Nothing that the controller sends is used before it is proven: types, lengths, offsets, tags, identifiers and order.
//! What is wrong ends the connection with an H2CTermReq; then every command is answered with that error.

mod driver;
mod receive;
mod staged;
mod transmit;

use std::{sync::Arc, time::Instant};

use crc_fast::CrcAlgorithm;
use kvof_memory::staging::{Stager, StagingLimits, TransferId};
use kvof_spec::tcp::{COMMON_HEADER_SIZE, Digests, Fatal, FatalErrorStatus, HEADER_SIZE_MAX, IcReq, PduType, TermReq};
use kvof_spec::{AdminOpcode, SglDescriptor, Status};
use zerocopy::IntoBytes;

use crate::{
    ConnectionError, DigestMode,
    queue::{Command, Direction, HostQueue, Ledger},
};
use receive::Receiver;
use staged::{Leaving, Staged};
use transmit::{Mark, Transmitter};

pub(crate) use driver::Socket;
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

/// What the transport knows of a command in flight.
#[derive(Debug)]
pub(crate) struct Transfer {
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
    /// The data are in device memory, and staged.
    staging: Option<TransferId>,
}

impl Transfer {
    /// A command without data of which nothing has happened.
    const NEW: Self = Self {
        direction: Direction::None,
        len: 0,
        in_capsule: false,
        capsule_sent: false,
        received: 0,
        last: false,
        digest_error: false,
        solicited: 0,
        unsent: 0,
        r2ts: 0,
        staging: None,
    };

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
pub(crate) struct TcpQueue {
    /// Before the buffers that it copies from and to: dropping it waits for copies.
    stager: Stager,
    /// Answers that wait for copies.
    leaving: Vec<Leaving>,
    ledger: Ledger<Transfer>,
    settings: Settings,
    negotiated: Option<Negotiated>,
    tx: Transmitter,
    rx: Receiver,
    /// Bytes and number of commands that read, to choose how much to read ahead.
    reading: (u64, u32),
}

impl TcpQueue {
    /// A queue on a fresh connection; its first bytes to send are ICReq.
    pub(crate) fn new(address: Arc<str>, settings: Settings) -> Self {
        let asked = Digests {
            header: settings.header_digest != DigestMode::Off,
            data: settings.data_digest != DigestMode::Off,
        };
        let mut tx = Transmitter::default();
        tx.push_pdu(&[IcReq::new(settings.hpda, asked, settings.maxr2t).as_bytes()], None, &[], Mark::Other);
        Self {
            stager: Stager::new(StagingLimits::default()),
            leaving: Vec::new(),
            ledger: Ledger::new(address, settings.capacity),
            settings,
            negotiated: None,
            tx,
            rx: Receiver::new(),
            reading: (0, 0),
        }
    }

    /// What ICResp brought; commands may be submitted once it is there.
    #[cfg(test)]
    pub(crate) const fn negotiated(&self) -> Option<Negotiated> {
        self.negotiated
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
        let Some(command) = self.ledger.commands.remove(cid) else { return };
        if command.transfer.direction == Direction::FromController {
            let (bytes, count) = self.reading;
            self.reading = (bytes.saturating_sub(u64::from(command.transfer.len)), count.saturating_sub(1));
        }
        let status = if command.transfer.digest_error && cqe.status().is_success() {
            Status::TRANSIENT_TRANSPORT_ERROR
        } else {
            cqe.status()
        };
        let received = command.transfer.received;
        let staged = Staged::of(&command);
        if let Some(staged) = staged {
            match command.transfer.direction {
                Direction::FromController => self.stager.flush(staged.id),
                _ => self.stager.close(staged.id),
            }
        }
        self.ledger.complete(command, cqe, status, received);
        if let Some(staged) = staged {
            self.hold_back(staged);
        }
    }
}

impl HostQueue for TcpQueue {
    type Transfer = Transfer;

    fn ledger(&self) -> &Ledger<Transfer> {
        &self.ledger
    }

    fn ledger_mut(&mut self) -> &mut Ledger<Transfer> {
        &mut self.ledger
    }

    fn submit(&mut self, key: usize, command: Command) {
        let (name, opcode) = (command.name, command.sqe.opcode);
        let in_capsule_max = if opcode == AdminOpcode::FABRICS.0 { ADMIN_IN_CAPSULE } else { self.settings.in_capsule };
        let ready = self.negotiated.is_some();
        let range = command.payload.device_range();
        let admitted = self.ledger.admit(key, command, ready, |_, direction, len| {
            // Staged data are not there yet when the capsule goes.
            let in_capsule = direction == Direction::ToController && len <= in_capsule_max && range.is_none();
            Ok(Transfer { direction, len, in_capsule, ..Transfer::NEW })
        });
        let Some((cid, mut sqe)) = admitted else { return };
        if range.is_some_and(|range| !self.stage(cid, range)) {
            return;
        }
        let sent = match (self.ledger.commands.get(cid), &self.negotiated) {
            (Some(command), Some(negotiated)) => {
                let Transfer { direction, len, in_capsule, .. } = command.transfer;
                sqe.sgl1 =
                    if in_capsule { SglDescriptor::in_capsule(0, len) } else { SglDescriptor::transport_data(len) };
                if direction == Direction::FromController {
                    self.reading = (self.reading.0 + u64::from(len), self.reading.1 + 1);
                }
                let data = if in_capsule { len } else { 0 };
                self.tx.push_command(&sqe, cid, data, &command.payload, negotiated)
            }
            _ => Err(()),
        };
        if sent.is_err() {
            self.fail(ConnectionError::Buffer { command: name });
        }
    }

    fn is_ready(&self) -> bool {
        self.negotiated.is_some()
    }

    /// A buffer that is needed for sending takes the connection with it, and so does a command that has no answer after
    /// twice its time.
    fn handle_timeout(&mut self, now: Instant) {
        let overdue = self.ledger.expire(now, Transfer::needs_buffer);
        if let Some(overdue) = &overdue {
            self.ledger.time_out(overdue, now);
        }
        if self.stager.is_in_use() {
            self.hold_back_expired();
        }
        if let Some(overdue) = overdue {
            self.fail(overdue.cause());
        }
    }

    /// What is left to transmit then is a TermReq at most.
    fn fail(&mut self, cause: ConnectionError) {
        if self.ledger.end(cause) {
            self.tx.clear();
            for cid in self.ledger.commands.cids() {
                let staged = self.ledger.commands.get(cid).and_then(Staged::of);
                self.ledger.lose(cid);
                if let Some(staged) = staged {
                    self.stager.close(staged.id);
                    self.hold_back(staged);
                }
            }
        }
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

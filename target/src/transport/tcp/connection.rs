//! A connection: initialisation, the queue that lives on it, its timers and its end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_io::{Sent, TxQueue};
use kvof_spec::tcp::{Digests, ReceiveRules, Receiver};

use super::{TcpSettings, receive::Rx, transfer::Transfer};
use crate::{
    backend::{IoError, IoOutcome},
    queue::{ADMIN_DATA_MAX, CommandIndex, Cx, Queue, Step},
    transport::CloseReason,
};

/// How long a host may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpTimers {
    /// From accept to a whole ICReq, and from there to Connect.
    pub connect: Duration,
    /// For one PDU, above what its length needs at 32 KiB a second; also for data after an R2T to begin or go on.
    pub pdu: Duration,
    /// For the socket to take anything of what waits to be sent.
    pub send: Duration,
    /// From our TermReq to the host's closing.
    pub linger: Duration,
}

impl Default for TcpTimers {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            pdu: Duration::from_secs(30),
            send: Duration::from_secs(30),
            linger: Duration::from_secs(1),
        }
    }
}

/// Bytes a second at which a host has to send a PDU that it has begun.
pub(super) const SLOWEST_RATE: u32 = 32 << 10;

/// Bytes a microsecond that one core, and so one connection, does not exceed: 100 Gbit/s.
const FASTEST_RATE: u64 = 12_500;

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// ICReq has not come yet.
    AwaitIcReq,
    /// PDUs flow.
    Ready,
    /// A TermReq is sent or on its way; nothing that still arrives counts.
    Terminating(Instant),
}

/// One NVMe/TCP connection with its queue.
#[derive(Debug)]
pub struct Connection {
    pub(super) settings: Arc<TcpSettings>,
    pub(super) phase: Phase,
    pub(super) rules: ReceiveRules,
    /// HPDA: alignment of data for the host.
    pub(super) hpda: u8,
    /// R2Ts that may be outstanding for a command, 1's based.
    pub(super) maxr2t: usize,
    pub(super) rx: Rx,
    pub(super) tx: TxQueue,
    pub(super) queue: Queue,
    /// Transfers by command index; one of length 0 stands for none.
    pub(super) transfers: Vec<Transfer>,
    /// Transfers that wait for data.
    pub(super) receiving: usize,
    /// Bytes that these transfers still wait for.
    due: u64,
    /// Bytes that may be due before further commands wait in line.
    window: u64,
    opened: Instant,
    /// When the last H2CData ended, or the oldest waiting R2T was sent.
    pub(super) data_progress: Instant,
    /// When the PDU in progress must be complete.
    pub(super) pdu_deadline: Option<Instant>,
    send_progress: Instant,
    draining: bool,
    /// There were I/O queues when an admin queue last looked, which all end with it.
    is_needed: bool,
    end: Option<CloseReason>,
}

impl Connection {
    /// A connection that has just been accepted.
    #[must_use]
    pub fn new(settings: Arc<TcpSettings>, now: Instant) -> Self {
        let rules = ReceiveRules {
            receiver: Receiver::Controller,
            digests: Digests::default(),
            pda: settings.cpda,
            in_capsule_max: ADMIN_DATA_MAX,
            data_max: settings.maxh2cdata,
        };
        let window = settings.r2t_window.into();
        Self {
            settings,
            phase: Phase::AwaitIcReq,
            rules,
            hpda: 0,
            maxr2t: 1,
            rx: Rx::new(),
            tx: TxQueue::new(),
            queue: Queue::new(),
            transfers: Vec::new(),
            receiving: 0,
            due: 0,
            window,
            opened: now,
            data_progress: now,
            pdu_deadline: None,
            send_progress: now,
            draining: false,
            is_needed: false,
            end: None,
        }
    }

    /// The queue on this connection.
    #[must_use]
    pub const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// What waits to be sent; report with [`Self::handle_sent`].
    pub const fn tx(&mut self) -> &mut TxQueue {
        &mut self.tx
    }

    /// The socket took some of [`Self::tx`].
    pub const fn handle_sent(&mut self, now: Instant, sent: Sent) {
        if sent.bytes > 0 || !sent.would_block {
            self.send_progress = now;
        }
    }

    /// Whether more should be received: not while the host does not take its answers, and no new commands when stopping.
    #[must_use]
    pub fn wants_receive(&self) -> bool {
        let enough = self.draining && self.receiving == 0 && self.pdu_deadline.is_none();
        self.end.is_none() && !enough && self.tx.pending() < self.settings.tx_high_water
    }

    /// A backend has finished the command at `index`.
    pub fn handle_outcome(&mut self, cx: &mut Cx<'_>, index: CommandIndex, outcome: Result<IoOutcome, IoError>) {
        if self.end.is_some() || matches!(self.phase, Phase::Terminating(_)) {
            self.queue.drop_outcome(index);
            return;
        }
        let step = self.queue.handle_outcome(index, outcome);
        self.take(cx, step);
    }

    /// Sends answers to events, and notices that the controller has ended.
    pub fn handle_wake(&mut self, cx: &mut Cx<'_>) {
        while let Some(response) = self.queue.poll_event(cx.now) {
            self.respond(response);
        }
        if let Some(reason) = self.queue.must_close() {
            self.close(CloseReason::Controller(reason));
        }
    }

    /// Lets commands go on that waited for pool memory, or for their turn; false while there is no memory.
    pub fn handle_memory(&mut self, cx: &mut Cx<'_>) -> bool {
        while self.queue.is_starved() {
            let Some(step) = self.queue.poll_starved(cx) else { return false };
            self.take(cx, step);
        }
        true
    }

    /// The shortest round trip to the host: as many bytes may be due as come during two of them, if the settings allow.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        let (least, most) = (self.settings.r2t_window.into(), self.settings.r2t_window_max.into());
        self.window = micros.saturating_mul(2 * FASTEST_RATE).min(most).max(least);
        self.set_due(self.due);
    }

    /// Whether commands wait until fewer bytes are due: a round trip that is longer than was thought would let them go on.
    #[must_use]
    pub fn is_in_line(&self) -> bool {
        self.queue.is_in_line()
    }

    /// So many bytes of data are to come now.
    pub(super) const fn set_due(&mut self, due: u64) {
        self.due = due;
        self.queue.set_fetches_enough(due >= self.window);
    }

    /// `len` more bytes have been asked for.
    pub(super) const fn add_due(&mut self, len: u32) {
        self.set_due(self.due.saturating_add(len as u64));
    }

    /// `len` of these bytes have come.
    pub(super) const fn remove_due(&mut self, len: u32) {
        self.set_due(self.due.saturating_sub(len as u64));
    }

    /// Whether commands wait for pool memory, also those whose turn to be fetched has come.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.queue.is_starved()
    }

    /// To be called a few times a second.
    pub fn handle_tick(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        if self.is_needed {
            // Those of other controllers count too: all of them are ending.
            self.is_needed = cx.target.summary().io_queues > 0;
        }
        if self.queue.poll_timeout().is_some_and(|at| at <= now) {
            self.queue.handle_timeout(now);
        }
        self.handle_wake(cx);
        let timers = self.settings.timers;
        let late = match self.phase {
            Phase::Terminating(since) if now >= since + timers.linger => return self.close_terminated(),
            Phase::Terminating(_) => None,
            Phase::AwaitIcReq if now >= self.opened + timers.connect => Some("no ICReq"),
            Phase::Ready if !self.queue.is_connected() && now >= self.opened + 2 * timers.connect => Some("no Connect"),
            _ if self.pdu_deadline.is_some_and(|at| at <= now) => Some("a PDU that was begun was not finished"),
            _ if self.receiving > 0 && now >= self.data_progress + timers.pdu => Some("no data after an R2T"),
            _ => None,
        };
        let late =
            late.or((!self.tx.is_empty() && now >= self.send_progress + timers.send).then_some("answers not taken"));
        if self.tx.is_empty() {
            self.send_progress = now;
        }
        if let Some(what) = late {
            self.tx.clear();
            self.close(CloseReason::Timeout(what));
        }
    }

    /// The target is stopping: the connection ends when no command is under way. An admin queue would take its I/O queues
    /// along, and stays until a tick finds that they are gone.
    pub fn drain(&mut self) {
        self.draining = true;
        self.is_needed = self.queue.is_admin();
    }

    /// The socket has ended, with an error or because the host closed it.
    pub fn handle_end(&mut self, error: Option<&std::io::Error>) {
        if matches!(self.phase, Phase::Terminating(_)) {
            self.close_terminated();
        }
        self.tx.clear();
        self.close(error.map_or(CloseReason::Host, |e| CloseReason::Socket(e.kind())));
    }

    /// Why the connection is over, once it is and all that it had to say is sent. Then the socket is to be closed; the
    /// connection itself must live until [`Self::is_idle`].
    pub fn poll_close(&mut self) -> Option<&CloseReason> {
        let is_done = self.queue.busy() == 0 && !self.is_needed;
        if self.draining && self.end.is_none() && is_done && self.tx.is_empty() {
            self.close(CloseReason::Stopped);
        }
        if self.tx.is_empty() { self.end.as_ref() } else { None }
    }

    /// Whether no backend works for this connection any more.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.queue.executing() == 0
    }

    /// Ends the connection; what waits to be sent is still sent. The first reason stays.
    pub(super) fn close(&mut self, reason: CloseReason) {
        if self.end.is_none() {
            self.end = Some(reason);
            self.queue.abandon();
            self.forget_transfers();
        }
    }

    /// No transfer gets any further.
    pub(super) fn forget_transfers(&mut self) {
        self.transfers.clear();
        self.receiving = 0;
        self.set_due(0);
    }

    /// Executes what the queue says about a command.
    pub(super) fn take(&mut self, cx: &Cx<'_>, step: Step) {
        match step {
            Step::Later => {}
            Step::Respond(response) => self.respond(response),
            Step::Receive { index, len } => self.start_transfer(cx.now, index, len),
        }
    }

    /// Connect has made this an admin or an I/O queue.
    pub(super) fn adopt_role(&mut self) {
        if self.queue.is_connected() && !self.queue.is_admin() {
            self.rules.in_capsule_max = self.settings.in_capsule;
        }
    }

    fn close_terminated(&mut self) {
        self.tx.clear();
        if let Some(fatal) = self.rx.fatal() {
            self.close(CloseReason::Fatal(fatal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_way_lets_more_be_due() {
        let settings = TcpSettings { r2t_window: 1 << 20, r2t_window_max: 200_000_000, ..TcpSettings::default() };
        let mut connection = Connection::new(Arc::new(settings), Instant::now());
        assert_eq!(connection.window, 1 << 20);
        for (micros, window) in [(41, 1 << 20), (42, 1_050_000), (5000, 125_000_000), (8001, 200_000_000), (0, 1 << 20)]
        {
            connection.set_round_trip(Duration::from_micros(micros));
            assert_eq!(connection.window, window, "{micros} microseconds");
        }
        connection.set_round_trip(Duration::MAX);
        assert_eq!(connection.window, 200_000_000);
    }
}

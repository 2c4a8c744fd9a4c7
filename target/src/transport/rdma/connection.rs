//! A connection: the queue that lives on it, what moves for its commands, its timers and its end.

use std::{
    collections::VecDeque,
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_spec::{Cqe, Sqe, Status, sqe::SQE_SIZE};
use slab::Slab;

use super::{
    Action, RdmaSettings, Request, Segments,
    sgl::{self, HostSgl},
};
use crate::{
    backend::{IoError, IoOutcome},
    namespace::DataOut,
    queue::{CommandIndex, Cx, Landing, Promise, Queue, QueueViolation, Response, Step},
    transport::CloseReason,
};

/// Bytes a second at which RDMA has to move a command's data.
const SLOWEST_RATE: u64 = 1 << 20;

/// What a command's SGL said, until it is used.
#[derive(Debug, Default)]
struct Remote {
    segments: Segments,
    invalidate: Option<u32>,
}

/// A fetch that the driver has not been told of.
#[derive(Debug)]
struct Fetch {
    index: CommandIndex,
    landing: Landing,
    segments: Segments,
}

/// A response that the driver has not been told of.
#[derive(Debug)]
struct Answer {
    data: Option<(DataOut, Segments)>,
    cqe: Cqe,
    invalidate: Option<u32>,
    /// Of an Asynchronous Event Request: those have a limit of their own and do not use up entries.
    is_event: bool,
}

/// What the driver is at, by token.
#[derive(Debug)]
enum Under {
    Fetch { index: CommandIndex, bytes: u64 },
    Response { bytes: u64 },
}

/// One NVMe/RDMA connection with its queue.
#[derive(Debug)]
pub struct Connection {
    settings: Arc<RdmaSettings>,
    request: Request,
    queue: Queue,
    /// By command index. What belongs to no outstanding command means nothing.
    remotes: Vec<Remote>,
    fetches: VecDeque<Fetch>,
    answers: VecDeque<Answer>,
    under_way: Slab<Under>,
    /// Of those under way.
    fetching: usize,
    responding: usize,
    opened: Instant,
    /// When the last fetch ended, or there was none.
    fetch_progress: Instant,
    /// When the last response ended, or there was none.
    send_progress: Instant,
    draining: bool,
    /// There were I/O queues when an admin queue last looked, which all end with it.
    is_needed: bool,
    end: Option<CloseReason>,
    /// The queue pair is of no use any more, so that nothing that is left to say can be said.
    is_broken: bool,
}

impl Connection {
    /// A connection that has just been established, as `request` has asked for it.
    #[must_use]
    pub fn new(settings: Arc<RdmaSettings>, request: Request, now: Instant) -> Self {
        Self {
            settings,
            request,
            queue: Queue::promised(Promise { qid: request.qid, entries: request.entries() }),
            remotes: Vec::new(),
            fetches: VecDeque::new(),
            answers: VecDeque::new(),
            under_way: Slab::new(),
            fetching: 0,
            responding: 0,
            opened: now,
            fetch_progress: now,
            send_progress: now,
            draining: false,
            is_needed: false,
            end: None,
            is_broken: false,
        }
    }

    /// The queue on this connection.
    #[must_use]
    pub const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// A message of the host has arrived. Its buffer is not used after this returns.
    ///
    /// A stopping connection takes no more commands: the host hears of that when the connection ends.
    pub fn handle_capsule(&mut self, cx: &mut Cx<'_>, capsule: &[u8]) {
        if self.end.is_some() || self.draining {
            return;
        }
        let (len, max) = (capsule.len(), self.settings.capsule_max(self.request.qid));
        let Some((sqe, behind)) = capsule.split_first_chunk::<SQE_SIZE>().filter(|_| len <= max) else {
            return self.break_off(CloseReason::Capsule { len, max });
        };
        // A command whose answer still waits here is outstanding as far as the host can tell.
        let entries = self.queue.sqsize();
        let unanswered = self.answers.iter().filter(|answer| !answer.is_event).count();
        if self.queue.busy() + unanswered >= usize::from(entries) {
            return self.break_off(CloseReason::Queue(QueueViolation::Overflow(entries)));
        }
        let sqe = Sqe::from_bytes(sqe);
        let HostSgl { data, segments, in_capsule, invalidate } = sgl::read(&sqe, behind, self.settings.segments_max);
        self.remember(self.queue.next_index(), Remote { segments, invalidate });
        match self.queue.begin(cx, &sqe, data, behind.get(in_capsule).unwrap_or_default()) {
            Err(violation) => self.break_off(CloseReason::Queue(violation)),
            Ok(step) => self.take(cx, step),
        }
    }

    /// The fetch `token` has ended, and `landing` comes back: filled, or not, with the reason.
    pub fn handle_fetched<E: Display>(&mut self, cx: &mut Cx<'_>, token: u64, landing: Landing, result: Result<(), E>) {
        let Some(Under::Fetch { index, .. }) = self.ended(token, |under| matches!(under, Under::Fetch { .. })) else {
            return;
        };
        self.fetching -= 1;
        self.fetch_progress = cx.now;
        if self.end.is_some() {
            return;
        }
        if let Err(error) = result {
            // The queue pair is in error now, and the host hears of it in that way.
            return self.break_off(CloseReason::Rdma(format!("data could not be read from the host: {error}")));
        }
        if self.queue.put_landing(index, landing) {
            let step = self.queue.received(cx, index, Ok(()));
            self.take(cx, step);
        }
    }

    /// The response `token` has been sent, or its sending has failed: then [`Self::handle_end`] follows.
    pub fn handle_sent(&mut self, now: Instant, token: u64) {
        if self.ended(token, |under| matches!(under, Under::Response { .. })).is_some() {
            self.responding -= 1;
            self.send_progress = now;
        }
    }

    /// A backend has finished the command at `index`.
    pub fn handle_outcome(&mut self, cx: &mut Cx<'_>, index: CommandIndex, outcome: Result<IoOutcome, IoError>) {
        if self.end.is_some() {
            self.queue.drop_outcome(index);
            return;
        }
        let step = self.queue.handle_outcome(index, outcome);
        self.take(cx, step);
    }

    /// Sends answers to events, and notices that the controller has ended.
    pub fn handle_wake(&mut self, cx: &mut Cx<'_>) {
        while let Some(response) = self.queue.poll_event(cx.now) {
            self.respond(response, true);
        }
        if let Some(reason) = self.queue.must_close() {
            self.close(CloseReason::Controller(reason));
        }
    }

    /// Lets commands go on that waited for pool memory; false while there is none.
    pub fn handle_memory(&mut self, cx: &mut Cx<'_>) -> bool {
        while self.queue.is_starved() {
            let Some(step) = self.queue.poll_starved(cx) else { return false };
            self.take(cx, step);
        }
        true
    }

    /// Whether commands wait for pool memory.
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
        if self.is_broken {
            return;
        }
        if self.fetching == 0 {
            self.fetch_progress = now;
        }
        if self.responding == 0 {
            self.send_progress = now;
        }
        if let Some(what) = self.late(now) {
            self.break_off(CloseReason::Timeout(what));
        }
    }

    /// The target is stopping: the connection ends when no command is under way. An admin queue would take its I/O queues
    /// along, and stays until a tick finds that they are gone.
    pub fn drain(&mut self) {
        self.draining = true;
        self.is_needed = self.queue.is_admin();
    }

    /// The queue pair has ended, or failed: nothing more can be sent. What is under way still has to be reported.
    pub fn handle_end(&mut self, reason: CloseReason) {
        self.break_off(reason);
    }

    /// Why the connection is over, once it is and all that it had to say is sent. Then the queue pair is to be
    /// disconnected; the connection itself must live until [`Self::is_idle`].
    pub fn poll_close(&mut self) -> Option<&CloseReason> {
        let is_silent = self.answers.is_empty() && self.responding == 0;
        if self.draining && self.end.is_none() && is_silent && self.queue.busy() == 0 && !self.is_needed {
            self.close(CloseReason::Stopped);
        }
        if is_silent || self.is_broken { self.end.as_ref() } else { None }
    }

    /// The queue pair is destroyed: nothing that is under way will be reported.
    pub fn handle_destroyed(&mut self) {
        self.break_off(CloseReason::Host);
        self.under_way.clear();
        (self.fetching, self.responding) = (0, 0);
    }

    /// Whether no backend works for this connection any more, and all that was lent to the driver is back.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.executing() == 0 && self.under_way.is_empty()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(Fetch { index, landing, segments }) = self.fetches.pop_front() {
            self.fetching += 1;
            let token = self.under_way.insert(Under::Fetch { index, bytes: segments.bytes() }) as u64;
            return Some(Action::Fetch { token, landing, segments });
        }
        // As many as the host has receives for; it posts one with each command.
        if self.responding >= usize::from(self.request.hrqsize.min(self.request.entries())) {
            return None;
        }
        let Answer { data, cqe, invalidate, .. } = self.answers.pop_front()?;
        self.responding += 1;
        let bytes = data.as_ref().map_or(0, |(data, _)| data.len() as u64);
        let token = self.under_way.insert(Under::Response { bytes }) as u64;
        Some(Action::Respond { token, data, cqe, invalidate })
    }

    /// Executes what the queue says about a command.
    fn take(&mut self, cx: &mut Cx<'_>, step: Step) {
        match step {
            Step::Later => {}
            Step::Respond(response) => self.respond(response, false),
            Step::Receive { index, len } => {
                let segments =
                    self.remotes.get_mut(index).and_then(|r| std::mem::take(&mut r.segments).cut(len as usize));
                match (segments, self.queue.take_landing(index)) {
                    (Some(segments), Some(landing)) => {
                        self.fetches.push_back(Fetch { index, landing, segments });
                    }
                    // A command wants no more than its SGL describes, so that this does not happen.
                    (segments, landing) => {
                        debug_assert!(false, "{len} bytes for {index}: {segments:?} and {landing:?}");
                        let step = self.queue.received(cx, index, Err(Status::INTERNAL_ERROR));
                        if let Step::Respond(response) = step {
                            self.respond(response, false);
                        }
                    }
                }
            }
        }
    }

    fn respond(&mut self, response: Response, is_event: bool) {
        let Response { index, mut cqe, data, .. } = response;
        let Remote { segments, invalidate } = self.remotes.get_mut(index).map(std::mem::take).unwrap_or_default();
        let data = data.filter(|data| !data.is_empty());
        let data = data.and_then(|data| match segments.cut(data.len()) {
            Some(segments) => Some((data, segments)),
            // The queue gives no more than the SGL describes, so that this does not happen.
            None => {
                debug_assert!(false, "{} bytes for the host, but no place for them", data.len());
                cqe = Cqe { sqhd: cqe.sqhd, ..Cqe::new(cqe.cid.get(), Status::INTERNAL_ERROR) };
                None
            }
        });
        self.answers.push_back(Answer { data, cqe, invalidate, is_event });
    }

    fn remember(&mut self, index: CommandIndex, remote: Remote) {
        if self.remotes.len() <= index {
            self.remotes.resize_with(index + 1, Remote::default);
        }
        if let Some(place) = self.remotes.get_mut(index) {
            *place = remote;
        }
    }

    /// Takes what the driver was at out of the list, if it is of the right kind.
    fn ended(&mut self, token: u64, is_right: impl FnOnce(&Under) -> bool) -> Option<Under> {
        let key = usize::try_from(token).ok()?;
        let found = self.under_way.get(key).is_some_and(is_right);
        debug_assert!(found, "the driver reports {token}, which is not under way");
        if found { self.under_way.try_remove(key) } else { None }
    }

    /// What has taken too long.
    fn late(&self, now: Instant) -> Option<&'static str> {
        let timers = &self.settings.timers;
        let is_late = |since: Instant, patience: Duration, longest: u64| {
            now.saturating_duration_since(since) >= patience.saturating_add(Duration::from_secs(longest / SLOWEST_RATE))
        };
        let longest = |of_fetches: bool| {
            let bytes = self.under_way.iter().map(|(_, under)| match *under {
                Under::Fetch { bytes, .. } if of_fetches => bytes,
                Under::Response { bytes } if !of_fetches => bytes,
                _ => 0,
            });
            bytes.max().unwrap_or(0)
        };
        let is_open = self.end.is_none();
        if is_open && !self.queue.is_connected() && is_late(self.opened, timers.connect, 0) {
            return Some("no Connect");
        }
        if is_open && self.fetching > 0 && is_late(self.fetch_progress, timers.fetch, longest(true)) {
            return Some("data could not be read from the host");
        }
        (self.responding > 0 && is_late(self.send_progress, timers.send, longest(false))).then_some("answers not taken")
    }

    /// Ends the connection in good order: answers that wait are still sent. The first reason stays.
    fn close(&mut self, reason: CloseReason) {
        if self.end.is_none() {
            self.end = Some(reason);
            self.queue.abandon();
            self.fetches.clear();
            self.remotes.clear();
        }
    }

    /// Ends the connection at once: nothing more is sent.
    fn break_off(&mut self, reason: CloseReason) {
        self.close(reason);
        self.is_broken = true;
        self.answers.clear();
    }
}

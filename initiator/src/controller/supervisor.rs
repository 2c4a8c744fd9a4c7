//! The supervisor of a controller: a thread that connects, keeps the association alive, listens for asynchronous
//! events, reconnects with back-off, and shuts down.

use std::{
    future::{Future, pending},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use kvof_spec::aen::AsyncEvent;
use kvof_spec::identify::NSID_ALL;
use kvof_spec::log::{GetLogPageCmd, LogId};
use kvof_spec::{AdminOpcode, Sqe};

use super::{ControllerInfo, Phase, Shared, establish};
use crate::{
    ConnectionError, Error, ReconnectPolicy, Result,
    buffer::Payload,
    port::{Gate, Operation, Port},
    queue::{Answer, Command, TimeLimit},
};

/// Bytes of the Changed Namespace List.
const CHANGED_NAMESPACES_SIZE: u64 = 4096;
/// How long a controller may take to shut down before its connections are closed anyway.
const SHUTDOWN_TIME: Duration = Duration::from_secs(3);

/// Starts the supervisor; it ends when the controller is closed or has failed for good.
pub(super) fn spawn(shared: &Arc<Shared>) -> Result<()> {
    let shared = Arc::clone(shared);
    thread::Builder::new()
        .name("kvof-supervisor".into())
        .spawn(move || {
            let supervisor = Supervisor::new(&shared);
            let end = supervisor.run();
            supervisor.finish(end);
        })
        .map(|_| ())
        .map_err(|e| Error::system("cannot start the supervisor of a controller", e))
}

/// Why a supervisor ends.
enum End {
    /// The handles are gone, or `disconnect` was called.
    Closing,
    /// For good.
    Failed(Error),
}

/// Why the association is over.
struct Lost {
    qid: u16,
    cause: ConnectionError,
}

struct Supervisor<'a> {
    shared: &'a Shared,
    waker: Waker,
}

impl<'a> Supervisor<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.signal.attach();
        Self { shared, waker: Waker::from(Arc::clone(&shared.signal)) }
    }

    fn run(&self) -> End {
        let mut info = match self.drive(establish::establish(self.shared), None) {
            Driven::Ready(Ok(info)) => info,
            Driven::Ready(Err(error)) => return End::Failed(error),
            Driven::Closing | Driven::TimeOver => return End::Closing,
        };
        loop {
            let lost = match self.live(info) {
                Ok(lost) => lost,
                Err(end) => return end,
            };
            tracing::warn!(controller = %self.shared.name, queue = lost.qid, cause = %lost.cause, "connection lost");
            let cause = ConnectionError::Association { qid: lost.qid, cause: Arc::new(lost.cause.clone()) };
            self.close_all(&Gate::Closed, &cause);
            info = match self.reconnect(&lost.cause) {
                Ok(info) => info,
                Err(end) => return end,
            };
            self.shared.events.update(|e| {
                e.namespaces += 1;
                e.discovery += 1;
                e.reconnects += 1;
            });
            tracing::info!(controller = %self.shared.name, "reconnected");
        }
    }

    /// Opens the queues to everyone and watches over them until a connection is lost.
    fn live(&self, info: ControllerInfo) -> Result<Lost, End> {
        let shared = self.shared;
        let keep_alive = info.keep_alive_period(shared.options.keep_alive);
        let traffic_based = info.traffic_based_keep_alive;
        let mut listens = info.listens_for_events;
        shared.max_transfer.store(info.max_transfer, Ordering::Relaxed);
        shared.few_descriptors.store(info.few_descriptors, Ordering::Relaxed);
        shared.io_count.store(usize::from(info.io_queues), Ordering::Release);
        shared.phase.update(|phase| *phase = Phase::Up(Arc::new(info)));
        shared.admin.open();
        shared.io.iter().for_each(|port| port.open());

        let mut event: Option<Operation<'_>> = None;
        let mut beat: Option<Operation<'_>> = None;
        let mut changed_list: Option<Operation<'_>> = None;
        let mut next_beat = keep_alive.map(|period| Instant::now() + period);
        let mut answered = self.answered();
        loop {
            if shared.closing.load(Ordering::Acquire) {
                return Err(End::Closing);
            }
            if let Some(lost) = self.lost() {
                return Ok(lost);
            }
            if listens {
                let operation = event.get_or_insert_with(|| self.event_request());
                if let Poll::Ready(answer) = self.poll(operation) {
                    event = None;
                    match answer.result {
                        Ok(reply) => {
                            if self.handle_event(AsyncEvent(reply.cqe.dw0.get())) {
                                changed_list = Some(self.changed_namespaces());
                            }
                            continue;
                        }
                        Err(Error::Status { status, .. }) => {
                            tracing::warn!(controller = %shared.name, %status, "asynchronous events are refused");
                            listens = false;
                        }
                        Err(_) => {}
                    }
                }
            }
            if let Some(operation) = &mut changed_list
                && self.poll(operation).is_ready()
            {
                changed_list = None;
            }
            if let Some(operation) = &mut beat
                && let Poll::Ready(answer) = self.poll(operation)
            {
                beat = None;
                if let Err(error) = answer.result {
                    return Ok(Lost { qid: 0, cause: ConnectionError::KeepAlive(error.to_string().into()) });
                }
            }
            let now = Instant::now();
            if let (Some(period), Some(at)) = (keep_alive, next_beat)
                && now >= at
            {
                next_beat = Some(now + period);
                let count = self.answered();
                if beat.is_none() && !(traffic_based && count != answered) {
                    beat = Some(self.keep_alive());
                    answered = count;
                    continue;
                }
                answered = count;
            }
            let expiry = self.expire(now);
            shared.signal.sleep([next_beat, expiry].into_iter().flatten().min());
        }
    }

    /// Makes the connection again, as often as the policy allows.
    fn reconnect(&self, cause: &ConnectionError) -> Result<ControllerInfo, End> {
        let ReconnectPolicy { initial, max, give_up_after } = self.shared.options.reconnect;
        let since = Instant::now();
        let mut pause = initial;
        let mut attempts = 0;
        let mut last = Error::ConnectionLost { address: Arc::clone(&self.shared.name), cause: cause.clone() };
        if give_up_after.is_zero() {
            return Err(End::Failed(last));
        }
        loop {
            attempts += 1;
            match self.drive(establish::establish(self.shared), None) {
                Driven::Ready(Ok(info)) => return Ok(info),
                Driven::Ready(Err(error)) => {
                    tracing::info!(controller = %self.shared.name, attempts, %error, "reconnecting failed");
                    self.close_all(&Gate::Closed, &ConnectionError::ClosedByHost);
                    let permanent = match &error {
                        Error::Status { status, .. } | Error::Refused { status, .. } => status.dnr(),
                        Error::Unsupported { .. } | Error::Argument { .. } => true,
                        _ => false,
                    };
                    last = error;
                    if permanent || since.elapsed() >= give_up_after {
                        let after = since.elapsed();
                        return Err(End::Failed(Error::GaveUp { attempts, after, last: Box::new(last) }));
                    }
                }
                Driven::Closing | Driven::TimeOver => return Err(End::Closing),
            }
            let until = Instant::now() + jittered(pause);
            pause = (pause * 2).min(max).max(initial);
            if let Driven::Closing = self.drive(pending::<()>(), Some(until)) {
                return Err(End::Closing);
            }
        }
    }

    /// The last acts: shutdown, closed doors, and the news to everyone who waits.
    fn finish(&self, end: End) {
        let shared = self.shared;
        let phase = match end {
            End::Closing => {
                let gate = || Gate::Failed(Error::Closed);
                shared.io.iter().for_each(|port| port.close(gate(), &ConnectionError::ClosedByHost));
                if shared.admin.poll_connected().is_ready() && shared.admin.lost().is_none() {
                    let until = Instant::now() + SHUTDOWN_TIME;
                    self.drive_to_the_end(establish::shut_down(shared), until);
                }
                shared.admin.close(gate(), &ConnectionError::ClosedByHost);
                Phase::Closed
            }
            End::Failed(error) => {
                tracing::error!(controller = %shared.name, %error, "controller failed");
                self.close_all(&Gate::Failed(error.clone()), &ConnectionError::ClosedByHost);
                Phase::Failed(error)
            }
        };
        shared.phase.update(|p| *p = phase);
        shared.events.update(|_| {});
    }

    fn close_all(&self, gate: &Gate, cause: &ConnectionError) {
        for port in self.ports() {
            port.close(gate.clone(), cause);
        }
    }

    fn ports(&self) -> impl Iterator<Item = &Arc<Port>> {
        std::iter::once(&self.shared.admin).chain(&self.shared.io)
    }

    fn answered(&self) -> u64 {
        self.ports().map(|port| port.answered()).sum()
    }

    /// The first queue in use whose connection is gone.
    fn lost(&self) -> Option<Lost> {
        let in_use = 1 + self.shared.io_count.load(Ordering::Acquire);
        self.ports().take(in_use).find_map(|port| port.lost().map(|cause| Lost { qid: port.qid(), cause }))
    }

    /// Tells waiting commands that their time is over; gives when to do so again.
    fn expire(&self, now: Instant) -> Option<Instant> {
        self.ports().filter_map(|port| port.expire(now)).min()
    }

    fn poll(&self, operation: &mut Operation<'_>) -> Poll<Answer> {
        Pin::new(operation).poll(&mut Context::from_waker(&self.waker))
    }

    fn event_request(&self) -> Operation<'a> {
        let sqe = Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST);
        let command = Command::new("Asynchronous Event Request", sqe, Payload::None, None);
        Operation::new(&self.shared.admin, command, true)
    }

    fn keep_alive(&self) -> Operation<'a> {
        let limit = TimeLimit::new(Instant::now(), self.shared.options.keep_alive);
        let sqe = Sqe::new(AdminOpcode::KEEP_ALIVE);
        let command = Command::new("Keep Alive", sqe, Payload::None, limit);
        Operation::new(&self.shared.admin, command, true)
    }

    /// Reads the Changed Namespace List, without which the controller does not report the next change.
    fn changed_namespaces(&self) -> Operation<'a> {
        let sqe = GetLogPageCmd::new(LogId::CHANGED_NAMESPACES, NSID_ALL, 0, CHANGED_NAMESPACES_SIZE)
            .map_or_else(Sqe::default, |c| c.to_sqe());
        let payload = Payload::from_controller(vec![0u8; CHANGED_NAMESPACES_SIZE as usize]);
        let limit = TimeLimit::new(Instant::now(), self.shared.options.command_timeout);
        let command = Command::new("Get Log Page (Changed Namespace List)", sqe, payload, limit);
        Operation::new(&self.shared.admin, command, true)
    }

    /// Tells those who wait for the event; gives whether it is one of namespaces.
    fn handle_event(&self, event: AsyncEvent) -> bool {
        tracing::debug!(controller = %self.shared.name, event = format_args!("{:#x}", event.0), "asynchronous event");
        let code = |e: AsyncEvent| (e.event_type(), e.info());
        let namespaces = code(event) == code(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
        if namespaces {
            self.shared.events.update(|e| e.namespaces += 1);
        } else if code(event) == code(AsyncEvent::DISCOVERY_LOG_CHANGED) {
            self.shared.events.update(|e| e.discovery += 1);
        }
        namespaces
    }

    /// Polls `future` until it is ready, the controller is to be closed, or `until`. Waiting commands expire meanwhile.
    fn drive<F: Future>(&self, future: F, until: Option<Instant>) -> Driven<F::Output> {
        let mut future = pin!(future);
        loop {
            if self.shared.closing.load(Ordering::Acquire) {
                return Driven::Closing;
            }
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&self.waker)) {
                return Driven::Ready(output);
            }
            let now = Instant::now();
            if until.is_some_and(|at| at <= now) {
                return Driven::TimeOver;
            }
            let expiry = self.expire(now);
            self.shared.signal.sleep([until, expiry].into_iter().flatten().min());
        }
    }

    /// Polls `future` until it is ready or `until`.
    fn drive_to_the_end(&self, future: impl Future<Output = ()>, until: Instant) {
        let mut future = pin!(future);
        while Instant::now() < until {
            if future.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready() {
                return;
            }
            self.shared.signal.sleep(Some(until));
        }
    }
}

/// What became of a future that was driven.
enum Driven<T> {
    Ready(T),
    Closing,
    TimeOver,
}

/// ±25 %, so that many hosts do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes().first().copied().unwrap_or(128));
    pause * (192 + random / 2) / 256
}

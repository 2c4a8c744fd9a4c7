//! The admin queue of a controller: which admin and Fabrics commands there are, and what becomes of each.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use kvof_spec::{
    AdminOpcode, FabricsType, Sqe, Status,
    abort::{AbortCmd, NOT_ABORTED},
    fabrics::{PropertyGetCmd, PropertySetCmd},
    feature::{AsyncEventConfig, FeatureId, GetFeaturesCmd, SetFeaturesCmd},
    identify::IdentifyCmd,
    log::{CriticalWarning, GetLogPageCmd},
};

use super::{
    AdminOutcome, CloseReason, Reply,
    controller::Controller,
    error_log::ErrorLog,
    events::{self, Events, Requested},
    features::{FeatureCx, Features},
    identify,
    keep_alive::KeepAlive,
    log_page::{self, ChangedNamespaces, LogCx},
    properties::{Properties, Transition},
    registry::Registry,
    subsystem::EnabledSets,
};

/// The admin queue of a controller, and with it the controller. Dropping it ends the association: its I/O queues are
/// told to close.
#[derive(Debug)]
pub struct AdminQueue {
    registry: Arc<Registry>,
    controller: Arc<Controller>,
    properties: Properties,
    features: Features,
    events: Events,
    keep_alive: KeepAlive,
    errors: ErrorLog,
    changed: ChangedNamespaces,
    /// Since when the controller has not been in use: not enabled yet, disabled, or shut down.
    unused_since: Option<Instant>,
    /// Asynchronous Event Requests that ended without an event.
    ended: VecDeque<(u16, Reply)>,
}

/// How a command ends when it succeeds.
enum Done {
    /// With this result and data.
    Reply(Reply),
    /// Later.
    Held,
}

impl AdminQueue {
    pub(super) fn new(registry: Arc<Registry>, controller: Arc<Controller>, kato_ms: u32, now: Instant) -> Self {
        let (limits, kind) = (&registry.limits, controller.transport.kind);
        let (properties, events) = if controller.subsystem.is_discovery {
            (Properties::discovery(limits.admin_entries(kind)), Events::discovery())
        } else {
            (Properties::io(limits.queue_entries(kind)), Events::io())
        };
        Self {
            features: Features::default(),
            keep_alive: KeepAlive::new(kato_ms),
            errors: ErrorLog::default(),
            changed: ChangedNamespaces::default(),
            unused_since: Some(now),
            ended: VecDeque::new(),
            properties,
            events,
            registry,
            controller,
        }
    }

    /// The controller's identifier.
    #[must_use]
    pub fn cntlid(&self) -> u16 {
        self.controller.cntlid
    }

    /// Runs a command. `data` is what the host sent with it, `buffer_len` the length in bytes of the host's buffer for
    /// data in the other direction: the reply has no more.
    pub fn handle_command(&mut self, now: Instant, sqe: &Sqe, data: &[u8], buffer_len: u32) -> AdminOutcome {
        self.controller.touch(now);
        self.take_notices();
        // No command here has data for the controller that it needs.
        let _ = data;
        match self.dispatch(now, sqe, buffer_len) {
            Ok(Done::Reply(reply)) => AdminOutcome::Complete(reply),
            Ok(Done::Held) => AdminOutcome::Held,
            Err(status) => {
                let status = status.with_dnr();
                self.errors.record(sqe, status);
                tracing::debug!(cntlid = self.cntlid(), opcode = sqe.opcode, %status, "admin command refused");
                AdminOutcome::Complete(Reply::status(status))
            }
        }
    }

    /// The next command that was held and completes now, by its command identifier.
    pub fn poll_completion(&mut self, now: Instant) -> Option<(u16, Reply)> {
        let _ = now;
        self.take_notices();
        if let Some(ended) = self.ended.pop_front() {
            return Some(ended);
        }
        let (cid, event) = self.events.poll()?;
        tracing::debug!(cntlid = self.cntlid(), %event, "asynchronous event");
        Some((cid, Reply::result(event.0)))
    }

    /// When to call [`Self::handle_timeout`], at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.controller.closed().is_some() {
            return None;
        }
        [self.keep_alive.deadline(), self.idle_deadline()].into_iter().flatten().min()
    }

    /// Time has passed: the association may be over.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.controller.closed().is_some() {
            return;
        }
        let (cntlid, hostnqn, peer) = (self.cntlid(), &self.controller.hostnqn, self.controller.transport.peer);
        let reason = if self.keep_alive.expired(now, self.controller.last_traffic()) {
            let kato_ms = self.keep_alive.kato_ms();
            tracing::warn!(cntlid, %hostnqn, %peer, kato_ms, "host is silent: keep alive expired, association ended");
            CloseReason::KeepAliveExpired
        } else if self.idle_deadline().is_some_and(|deadline| now >= deadline) {
            tracing::info!(cntlid, %hostnqn, %peer, "controller is not in use: association ended");
            CloseReason::Idle
        } else {
            return;
        };
        self.properties.fail();
        self.controller.close(reason);
    }

    /// Why the connection has to end, if it has to.
    #[must_use]
    pub fn must_close(&self) -> Option<CloseReason> {
        self.controller.closed()
    }

    fn idle_deadline(&self) -> Option<Instant> {
        let timeout = self.registry.limits.association_timeout;
        let since = match self.unused_since {
            Some(since) => since,
            // Without keep alive, nothing else tells that the host of a discovery controller is gone.
            None if self.controller.subsystem.is_discovery && self.keep_alive.kato_ms() == 0 => {
                self.controller.last_traffic()
            }
            None => return None,
        };
        since.checked_add(timeout)
    }

    fn take_notices(&mut self) {
        let Some(notices) = self.controller.take_notices() else { return };
        if !notices.namespaces.is_empty() {
            self.changed.add(notices.namespaces);
            self.events.raise(AsyncEventConfig::NAMESPACE_ATTRIBUTE);
        }
        if notices.discovery {
            self.events.raise(AsyncEventConfig::DISCOVERY_LOG_CHANGE);
        }
        self.events.raise(warning_events(notices.warnings));
    }

    fn dispatch(&mut self, now: Instant, sqe: &Sqe, buffer_len: u32) -> Result<Done, Status> {
        let opcode = AdminOpcode(sqe.opcode);
        if opcode == AdminOpcode::FABRICS {
            return self.fabrics(now, sqe).map(|value| Done::Reply(Reply::result64(value)));
        }
        if !self.properties.is_ready() {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        let reply = match opcode {
            AdminOpcode::IDENTIFY => {
                let cmd = IdentifyCmd::from_sqe(sqe);
                Reply::data(identify::identify(&self.registry, &self.controller, &cmd, buffer_len)?)
            }
            AdminOpcode::GET_LOG_PAGE => Reply::data(self.log_page(now, &GetLogPageCmd::from_sqe(sqe), buffer_len)?),
            AdminOpcode::GET_FEATURES => {
                let (features, mut cx) = self.features(now);
                features.get(&mut cx, &GetFeaturesCmd::from_sqe(sqe), buffer_len)?
            }
            AdminOpcode::SET_FEATURES => {
                let cmd = SetFeaturesCmd::from_sqe(sqe);
                let (features, mut cx) = self.features(now);
                let result = features.set(&mut cx, &cmd)?;
                if cmd.fid() == FeatureId::ASYNC_EVENT_CONFIGURATION {
                    // What holds already is news to a host that asks for it now.
                    self.events.raise(warning_events(self.controller.subsystem.namespaces().warnings()));
                }
                Reply::result(result)
            }
            AdminOpcode::ASYNC_EVENT_REQUEST => match self.events.request(sqe.cid.get()) {
                Requested::Waits => return Ok(Done::Held),
                Requested::Completes(event) => Reply::result(event.0),
                Requested::LimitExceeded => return Err(Status::AER_LIMIT_EXCEEDED),
            },
            AdminOpcode::ABORT => self.abort(&AbortCmd::from_sqe(sqe)),
            AdminOpcode::KEEP_ALIVE => Reply::default(),
            _ => return Err(Status::INVALID_OPCODE),
        };
        Ok(Done::Reply(reply))
    }

    fn fabrics(&mut self, now: Instant, sqe: &Sqe) -> Result<u64, Status> {
        match FabricsType(sqe.fctype()) {
            FabricsType::PROPERTY_GET => {
                let cmd = PropertyGetCmd::from_sqe(sqe);
                self.properties.get(cmd.property(), cmd.size())
            }
            FabricsType::PROPERTY_SET => {
                let cmd = PropertySetCmd::from_sqe(sqe);
                let transition = self.properties.set(cmd.property(), cmd.size(), cmd.value.get())?;
                self.transition(now, transition);
                Ok(0)
            }
            FabricsType::CONNECT => Err(Status::COMMAND_SEQUENCE_ERROR),
            FabricsType::DISCONNECT => Err(Status::DISCONNECT_INVALID_QUEUE_TYPE),
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    fn transition(&mut self, now: Instant, transition: Transition) {
        let cc = self.properties.cc();
        match transition {
            Transition::None => return,
            Transition::Enabled => {
                self.unused_since = None;
                self.keep_alive.start(now);
                self.controller.enable(EnabledSets::from_css(cc.css()));
            }
            Transition::Failed => {}
            Transition::Disabled => {
                self.stop(now);
                self.features = Features::default();
                self.changed = ChangedNamespaces::default();
                let waiting = self.events.reset();
                waiting.into_iter().for_each(|cid| self.end_request(cid));
                let limits = &self.registry.limits;
                let queues = if self.controller.subsystem.is_discovery { 0 } else { limits.io_queues() };
                // All queues have just been deleted, so this cannot fail.
                let _ = self.controller.allow_queues(queues);
            }
            Transition::ShutDown => self.stop(now),
        }
        tracing::debug!(cntlid = self.cntlid(), cc = format_args!("{:#010x}", cc.0), "controller: {transition:?}");
    }

    fn stop(&mut self, now: Instant) {
        self.unused_since = Some(now);
        self.keep_alive.stop();
        self.controller.disable();
    }

    fn log_page(&mut self, now: Instant, cmd: &GetLogPageCmd, buffer_len: u32) -> Result<Vec<u8>, Status> {
        let cx = LogCx {
            now,
            registry: &self.registry,
            controller: &self.controller,
            errors: &self.errors,
            changed: &self.changed,
        };
        let data = log_page::read(&cx, cmd, buffer_len)?;
        if !cmd.rae() {
            self.events.log_read(cmd.lid().0);
            if cmd.lid() == kvof_spec::log::LogId::CHANGED_NAMESPACES {
                self.changed = ChangedNamespaces::default();
            }
        }
        Ok(data)
    }

    fn features(&mut self, now: Instant) -> (&mut Features, FeatureCx<'_>) {
        let cx = FeatureCx {
            now,
            limits: &self.registry.limits,
            controller: &self.controller,
            events: &mut self.events,
            keep_alive: &mut self.keep_alive,
        };
        (&mut self.features, cx)
    }

    /// Only Asynchronous Event Requests stay long enough to be aborted; the rest is left to complete (section 5.1).
    fn abort(&mut self, cmd: &AbortCmd) -> Reply {
        let cid = cmd.abort_cid.get();
        if cmd.sqid.get() == 0 && self.events.abort(cid) {
            self.end_request(cid);
            return Reply::default();
        }
        Reply::result(NOT_ABORTED)
    }

    /// An Asynchronous Event Request ends without an event.
    fn end_request(&mut self, cid: u16) {
        self.ended.push_back((cid, Reply::status(Status::ABORT_REQUESTED)));
        (self.controller.transport.wake)();
    }
}

/// The bits by which a host asks to be told of `warnings`, which are the same.
fn warning_events(warnings: CriticalWarning) -> AsyncEventConfig {
    AsyncEventConfig::from_bits_truncate(u32::from(warnings.bits())) & events::SMART_WARNINGS
}

impl Drop for AdminQueue {
    fn drop(&mut self) {
        self.controller.close(CloseReason::AdminQueueGone);
        self.registry.with(|state| state.controllers.remove(&self.controller.cntlid));
        tracing::info!(cntlid = self.cntlid(), hostnqn = %self.controller.hostnqn, "host disconnected");
    }
}

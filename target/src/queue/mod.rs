//! One NVMe queue pair as fabrics define it: commands in, exactly one completion each out.
//!
//! The queue knows nothing of the transport. A transport decodes a capsule, says how much data the command moves
//! ([`HostData`]) and calls [`Queue::begin`]; the returned [`Step`] tells it to fetch data, to respond, or that the answer
//! comes later. Commands wait for pool memory in order of arrival; nothing grows beyond the queue's depth.

mod begin;
mod cids;
mod command;
mod data;

use std::{collections::VecDeque, time::Instant};

use kvof_io::{Pool, PoolBuf};
use kvof_kv::OpId;
use kvof_spec::{
    Cqe, Sqe, Status,
    fabrics::{ConnectCmd, ConnectError},
};
use slab::Slab;

use self::cids::CidSet;
pub use self::command::Landing;
use self::command::{Command, Stage, Then};
use crate::{
    backend::{Backends, IoError, IoOutcome, IoRequest, Submitted},
    control::{AdminOutcome, AdminQueue, CloseReason, ConnectedQueue, IoQueue, QueueTransport, Reply, Target},
    model::Namespace,
    namespace::{self, Completion, DataOut},
};

/// Entries of a queue before its Connect command said how many it has. Only that one command is expected.
const UNCONNECTED_SQSIZE: u16 = 2;
/// Most bytes that an admin or Fabrics command may send to the controller, or ask of it with one command.
pub const ADMIN_DATA_MAX: u32 = 8192;

/// What a queue needs from its surroundings while it handles an event.
#[derive(Debug)]
pub struct Cx<'a> {
    /// Now.
    pub now: Instant,
    /// Control plane.
    pub target: &'a Target,
    /// This core's storage.
    pub backends: &'a mut Backends,
    /// Memory for data.
    pub pool: &'a Pool,
    /// The connection that the queue lives on.
    pub transport: &'a QueueTransport,
    /// High half of every [`OpId`] that this queue submits; the low half is the command's index.
    pub op_base: u64,
    /// Most bytes of one I/O command (MDTS).
    pub transfer_max: u32,
}

/// The data of a command as its SGL describes it, after the transport has checked the descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostData {
    /// Bytes that the SGL describes.
    pub len: u32,
    /// Whether those bytes come with the capsule, so that they need not be asked for.
    pub in_capsule: bool,
}

/// Index of a command in its queue while it is outstanding; less than the queue's depth.
pub type CommandIndex = usize;

/// What the transport does next for a command.
#[derive(Debug)]
pub enum Step {
    /// Fetch `len` bytes of host data into [`Queue::landing`] (or into what [`Queue::take_landing`] gives), then call
    /// [`Queue::received`].
    Receive {
        /// The command.
        index: CommandIndex,
        /// Bytes.
        len: u32,
    },
    /// Send this, then forget the command.
    Respond(Response),
    /// Nothing now: the answer comes later.
    Later,
}

/// A finished command.
#[derive(Debug)]
pub struct Response {
    /// The index that the command had while it was outstanding. One that was answered at once never was: then this is
    /// [`Queue::next_index`] as it was before.
    pub index: CommandIndex,
    /// Its completion.
    pub cqe: Cqe,
    /// Data for the host, sent before the completion. Never longer than the host's buffer.
    pub data: Option<DataOut>,
    /// Whether the transport may let the data stand for the completion (NVMe/TCP SUCCESS flag): success, result 0 and
    /// no SQHD to tell.
    pub implied: bool,
}

/// The host broke the rules of the queue so that no completion can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QueueViolation {
    /// More commands outstanding than the queue has entries.
    #[error("more commands outstanding than the queue's {0} entries")]
    Overflow(u16),
}

/// What a host said of a queue when its connection was made, before Connect (NVMe/RDMA private data).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// QID: Connect has to name the same.
    pub qid: u16,
    /// Entries, 1's based: Connect may name fewer.
    pub entries: u16,
}

/// Which commands a queue takes.
#[derive(Debug)]
enum Role {
    Unconnected,
    Admin(AdminQueue),
    Io(IoQueue),
}

/// A queue pair.
#[derive(Debug)]
pub struct Queue {
    role: Role,
    /// What Connect must agree with.
    promise: Option<Promise>,
    /// Entries, 1's based.
    sqsize: u16,
    sqhd: u16,
    flow_control: bool,
    commands: Slab<Command>,
    cids: CidSet,
    /// The transport has enough data to fetch for now.
    fetches_enough: bool,
    /// Commands whose data are fetched when it has not any more, oldest first. They have no memory yet.
    in_line: VecDeque<CommandIndex>,
    /// Commands that wait for pool memory, oldest first.
    starved: VecDeque<CommandIndex>,
    /// Commands that a backend has.
    executing: usize,
    /// Asynchronous Event Requests that wait; they have a limit of their own and do not use up entries.
    held: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self::new()
    }
}

impl Queue {
    /// A queue that waits for its Connect command.
    #[must_use]
    pub fn new() -> Self {
        Self {
            role: Role::Unconnected,
            promise: None,
            sqsize: UNCONNECTED_SQSIZE,
            sqhd: 0,
            flow_control: true,
            commands: Slab::new(),
            cids: CidSet::default(),
            fetches_enough: false,
            in_line: VecDeque::new(),
            starved: VecDeque::new(),
            executing: 0,
            held: 0,
        }
    }

    /// A queue that waits for a Connect command which agrees with `promise`.
    #[must_use]
    pub fn promised(promise: Promise) -> Self {
        let mut queue = Self::new();
        queue.promise = Some(promise);
        queue
    }

    /// Whether Connect has succeeded.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        !matches!(self.role, Role::Unconnected)
    }

    /// Whether this is an admin queue.
    #[must_use]
    pub const fn is_admin(&self) -> bool {
        matches!(self.role, Role::Admin(_))
    }

    /// Entries, 1's based.
    #[must_use]
    pub const fn sqsize(&self) -> u16 {
        self.sqsize
    }

    /// Commands that a backend has: the connection's memory must outlive them.
    #[must_use]
    pub const fn executing(&self) -> usize {
        self.executing
    }

    /// Commands that are neither completed nor held for an event.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.commands.len() - self.held
    }

    /// Why the connection has to end, if it has to.
    #[must_use]
    pub fn must_close(&self) -> Option<CloseReason> {
        match &self.role {
            Role::Unconnected => None,
            Role::Admin(queue) => queue.must_close(),
            Role::Io(queue) => queue.must_close(),
        }
    }

    /// The index that the next command will have.
    #[must_use]
    pub fn next_index(&self) -> CommandIndex {
        self.commands.vacant_key()
    }

    /// Whether `index` still receives data for command `cid`.
    #[must_use]
    pub fn is_receiving(&self, index: CommandIndex, cid: u16) -> bool {
        self.commands.get(index).is_some_and(|c| matches!(c.stage, Stage::Receiving { .. }) && c.sqe.cid.get() == cid)
    }

    /// Command identifier of an outstanding command.
    #[must_use]
    pub fn cid(&self, index: CommandIndex) -> Option<u16> {
        Some(self.commands.get(index)?.sqe.cid.get())
    }

    /// All of a command's data has arrived, or was lost on the way (`Err` with the status that says so).
    pub fn received(&mut self, cx: &mut Cx<'_>, index: CommandIndex, outcome: Result<(), Status>) -> Step {
        let Some(command) = self.commands.get_mut(index) else { return Step::Later };
        if let Err(status) = outcome {
            return self.finish(index, Completion::status(status));
        }
        match std::mem::replace(&mut command.stage, Stage::Executing) {
            Stage::Receiving { landing, then } => self.use_data(cx, index, landing, then),
            other => {
                command.stage = other;
                Step::Later
            }
        }
    }

    /// A backend has finished the command at `index`.
    pub fn handle_outcome(&mut self, index: CommandIndex, outcome: Result<IoOutcome, IoError>) -> Step {
        self.executing = self.executing.saturating_sub(1);
        self.complete_io(index, outcome)
    }

    /// The next answer that no capsule caused: an asynchronous event.
    pub fn poll_event(&mut self, now: Instant) -> Option<Response> {
        let Role::Admin(queue) = &mut self.role else { return None };
        loop {
            let (cid, reply) = queue.poll_completion(now)?;
            let found = self.commands.iter().find(|(_, c)| c.sqe.cid.get() == cid && matches!(c.stage, Stage::Held));
            if let Some((index, _)) = found {
                return match self.finish(index, reply.into()) {
                    Step::Respond(response) => Some(response),
                    _ => None,
                };
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.role {
            Role::Admin(queue) => queue.poll_timeout(),
            _ => None,
        }
    }

    /// Time has passed: keep alive may have expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Role::Admin(queue) = &mut self.role {
            queue.handle_timeout(now);
        }
    }

    /// The connection is gone: commands that are not executing are given up without a completion.
    pub fn abandon(&mut self) {
        self.in_line.clear();
        self.starved.clear();
        self.held = 0;
        self.commands.retain(|_, command| {
            if matches!(command.stage, Stage::Executing) {
                return true;
            }
            command.obligation.abandon();
            false
        });
        // Dropping the handle tells the controller, and frees the queue identifier.
        self.role = Role::Unconnected;
    }

    /// Forgets an executing command of an abandoned queue, whose outcome nobody waits for.
    pub fn drop_outcome(&mut self, index: CommandIndex) {
        self.executing = self.executing.saturating_sub(1);
        if let Some(mut command) = self.commands.try_remove(index) {
            command.obligation.abandon();
        }
    }

    fn set_stage(&mut self, index: usize, stage: Stage) {
        if let Some(command) = self.commands.get_mut(index) {
            command.stage = stage;
        }
    }

    fn connect(&mut self, cx: &mut Cx<'_>, index: usize, data: &[u8]) -> Step {
        let Some(sqe) = self.commands.get(index).map(|c| c.sqe) else { return Step::Later };
        // Another Connect may have succeeded while this one waited for its data.
        if self.is_connected() {
            return self.finish(index, Completion::status(Status::COMMAND_SEQUENCE_ERROR.with_dnr()));
        }
        if let Some(broken) = self.promise.and_then(|promise| promise.broken_by(&ConnectCmd::from_sqe(&sqe))) {
            let status = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
            return self.finish(index, Completion { result: broken.0.into(), ..Completion::status(status) });
        }
        let reply = match cx.target.connect(cx.now, &sqe, data, cx.transport) {
            Ok(connected) => {
                self.role = match connected.queue {
                    ConnectedQueue::Admin(queue) => Role::Admin(queue),
                    ConnectedQueue::Io(queue) => Role::Io(queue),
                };
                self.sqsize = connected.sqsize.max(UNCONNECTED_SQSIZE);
                // Connect itself was the first command of the queue.
                self.sqhd = 1 % self.sqsize;
                self.flow_control = connected.flow_control;
                connected.reply
            }
            Err(reply) => reply,
        };
        self.finish(index, reply.into())
    }

    fn admin(&mut self, cx: &mut Cx<'_>, index: usize, data: &[u8]) -> Step {
        let (Role::Admin(queue), Some(command)) = (&mut self.role, self.commands.get_mut(index)) else {
            return Step::Later;
        };
        match queue.handle_command(
            cx.now,
            &command.sqe,
            data,
            command.data.len.min(ADMIN_DATA_MAX.max(cx.transfer_max)),
        ) {
            AdminOutcome::Complete(reply) => self.finish(index, reply.into()),
            AdminOutcome::Held => {
                command.stage = Stage::Held;
                self.held += 1;
                Step::Later
            }
        }
    }

    fn submit(&mut self, cx: &mut Cx<'_>, index: usize, then: Then, buf: PoolBuf) -> Step {
        match then {
            Then::Io(pending) => self.submit_request(cx, index, pending.submit(buf)),
            Then::Connect | Then::Admin => Step::Later,
        }
    }

    fn submit_request(&mut self, cx: &mut Cx<'_>, index: usize, request: IoRequest) -> Step {
        let Some(ns) = self.commands.get(index).and_then(|command| command.ns.as_ref()) else { return Step::Later };
        match cx.backends.submit(OpId(cx.op_base | index as u64), ns.backend, ns, request) {
            Submitted::Done(outcome) => self.complete_io(index, outcome),
            Submitted::Pending => {
                self.executing += 1;
                self.set_stage(index, Stage::Executing);
                Step::Later
            }
            Submitted::NoMemory(request) => {
                self.set_stage(index, Stage::AwaitSubmit(request));
                self.starved.push_back(index);
                Step::Later
            }
        }
    }

    fn complete_io(&mut self, index: usize, outcome: Result<IoOutcome, IoError>) -> Step {
        let Some(command) = self.commands.get(index) else { return Step::Later };
        let Some(ns) = &command.ns else { return Step::Later };
        let completion = self.completion(ns, &command.sqe, command.data, outcome);
        self.finish(index, completion)
    }

    /// The completion of an I/O command, which is counted.
    fn completion(&self, ns: &Namespace, sqe: &Sqe, data: HostData, outcome: Result<IoOutcome, IoError>) -> Completion {
        let completion = namespace::complete(ns, sqe, data.len, outcome);
        if let Role::Io(queue) = &self.role {
            let to_controller = sqe.opcode & 0x3 == 1;
            let sent = completion.data.as_ref().map_or(0, |data| data.len() as u64);
            let bytes = if to_controller { data.len.into() } else { sent };
            queue.count(sqe.opcode, bytes, completion.status);
        }
        completion
    }

    /// The one place where an outstanding command ends with a completion.
    fn finish(&mut self, index: usize, completion: Completion) -> Step {
        let Some(mut command) = self.commands.try_remove(index) else { return Step::Later };
        self.held -= usize::from(matches!(command.stage, Stage::Held));
        command.obligation.complete();
        let cid = command.sqe.cid.get();
        self.cids.remove(cid);
        Step::Respond(self.response(index, cid, completion))
    }

    fn response(&self, index: CommandIndex, cid: u16, completion: Completion) -> Response {
        let mut cqe = Cqe::new(cid, completion.status).with_result(completion.result);
        cqe.sqhd = if self.flow_control { self.sqhd } else { u16::MAX }.into();
        Response {
            index,
            cqe,
            implied: !self.flow_control && completion.status.is_success() && completion.result == 0,
            data: completion.data,
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        for (_, command) in &mut self.commands {
            command.obligation.abandon();
        }
    }
}

impl Promise {
    /// The parameter of a Connect command that does not agree.
    fn broken_by(self, connect: &ConnectCmd) -> Option<ConnectError> {
        if connect.qid.get() != self.qid {
            return Some(ConnectError::command(42));
        }
        // SQSIZE is 0's based.
        (connect.sqsize.get() >= self.entries).then_some(ConnectError::command(44))
    }
}

impl From<Reply> for Completion {
    fn from(reply: Reply) -> Self {
        Self {
            status: reply.status,
            result: reply.result,
            data: (!reply.data.is_empty()).then(|| DataOut::Shared(kvof_io::SharedBuf::from_vec(reply.data))),
        }
    }
}

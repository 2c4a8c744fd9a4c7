//! Commands in flight on one queue, whatever the transport: identifiers, deadlines, answers.
//!
//! Sans-IO: time comes in as an argument, nothing here blocks.

mod ledger;
mod table;

use std::time::{Duration, Instant};

use kvof_spec::{Cqe, Sqe};

use crate::{ConnectionError, Error, buffer::Payload};

pub(crate) use ledger::{Direction, Ledger};
pub(crate) use table::{CommandTable, InFlight};

/// One connection and the queue pair on it, sans-IO, as its driver sees it.
pub(crate) trait HostQueue {
    /// What the transport keeps with each command.
    type Transfer;

    /// The queue's books.
    fn ledger(&self) -> &Ledger<Self::Transfer>;

    /// The queue's books.
    fn ledger_mut(&mut self) -> &mut Ledger<Self::Transfer>;

    /// Takes a command; its answer comes from [`Self::take_answers`] under `key`.
    fn submit(&mut self, key: usize, command: Command);

    /// Whether commands may be submitted.
    fn is_ready(&self) -> bool;

    /// Commands that may be in flight, those left out whose time was over and that keep their place.
    fn usable(&self) -> usize {
        self.ledger().commands.usable()
    }

    /// Whether commands wait for their answer.
    fn is_busy(&self) -> bool {
        self.ledger().commands.len() > 0
    }

    /// Takes the answers that have come, each with the key that the command was submitted with.
    fn take_answers(&mut self, into: &mut Vec<(usize, Answer)>) {
        self.ledger_mut().take_answers(into);
    }

    /// Earliest time at which [`Self::handle_timeout`] has something to do.
    fn poll_deadline(&self) -> Option<Instant> {
        self.ledger().commands.next_check()
    }

    /// Tells the commands whose time is over.
    fn handle_timeout(&mut self, now: Instant);

    /// The connection is over, for `cause`: every command is answered, at once or when its buffer is safe.
    fn fail(&mut self, cause: ConnectionError);

    /// Why the connection is over.
    fn ended(&self) -> Option<&ConnectionError> {
        self.ledger().ended()
    }
}

/// A command on its way to a queue.
#[derive(Debug)]
pub(crate) struct Command {
    /// The command; CID and SGL are set by the queue.
    pub(crate) sqe: Sqe,
    /// Its data, all of them.
    pub(crate) payload: Payload,
    /// Bytes of data, asked for on the caller's thread: buffers are the caller's code.
    pub(crate) len: usize,
    /// Its name in errors.
    pub(crate) name: &'static str,
    /// Time limit, `None` for a command that may stay unanswered (Asynchronous Event Request).
    pub(crate) limit: Option<TimeLimit>,
    /// How much of its buffer a success fills, where the transport does not see what the controller writes.
    pub(crate) extent: Extent,
}

/// How many bytes a command that reads has brought when it has succeeded. NVMe/TCP counts them; with RDMA the
/// controller writes into the host's memory by itself, and only the command says how much that has to be. A host cannot
/// prove it: a controller that wrote less leaves bytes of the caller's own in the buffer, never anybody else's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Extent {
    /// All of the buffer: Identify, Get Log Page, Read, List.
    #[default]
    Buffer,
    /// The value, whose length is in dword 0 of the completion, as far as the Host Buffer Size (CDW10) and the buffer
    /// have room: Retrieve.
    Value,
}

impl Extent {
    /// Bytes that are filled of a buffer of `len` for command `sqe` with the completion `cqe`.
    pub(crate) fn filled(self, sqe: &Sqe, cqe: &Cqe, len: u32) -> u32 {
        match self {
            Self::Buffer => len,
            Self::Value => cqe.dw0.get().min(sqe.cdw10.get()).min(len),
        }
    }
}

impl Command {
    pub(crate) fn new(name: &'static str, sqe: Sqe, mut payload: Payload, limit: Option<TimeLimit>) -> Self {
        let len = payload.len();
        Self { sqe, payload, len, name, limit, extent: Extent::default() }
    }

    /// The command, of whose buffer a success fills as much as `extent` says.
    pub(crate) fn filling(self, extent: Extent) -> Self {
        Self { extent, ..self }
    }
}

/// A time limit: when it ends and how long it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimeLimit {
    pub(crate) deadline: Instant,
    pub(crate) after: Duration,
}

impl TimeLimit {
    pub(crate) fn new(now: Instant, after: Duration) -> Option<Self> {
        now.checked_add(after).map(|deadline| Self { deadline, after })
    }
}

/// What a successful command brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reply {
    /// The completion; its status is Successful Completion.
    pub(crate) cqe: Cqe,
    /// Bytes of data that the controller transferred into the buffer, from its start.
    pub(crate) received: u32,
}

/// The end of one command: its result, and its buffer back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) result: Result<Reply, Error>,
    pub(crate) payload: Payload,
}

//! Commands in flight on one queue, whatever the transport: identifiers, deadlines, answers.
//!
//! Sans-IO: time comes in as an argument, nothing here blocks.

mod table;

use std::time::{Duration, Instant};

use kvof_spec::{Cqe, Sqe};

use crate::{Error, buffer::Payload};

pub(crate) use table::{CommandTable, InFlight};

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
}

impl Command {
    pub(crate) fn new(name: &'static str, sqe: Sqe, mut payload: Payload, limit: Option<TimeLimit>) -> Self {
        let len = payload.len();
        Self { sqe, payload, len, name, limit }
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

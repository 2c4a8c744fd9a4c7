//! What a queue owes: the commands in flight, the answers that have come, and the end of the connection. Both
//! transports keep their books with it, so that both follow the same rules.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_spec::{Cqe, Sqe, Status};

use super::{Answer, Command, CommandTable, InFlight, Reply};
use crate::{ConnectionError, Error, buffer::Payload};

/// Which way a command's data go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    None,
    ToController,
    FromController,
}

/// The commands of one queue. `X` is what the transport keeps with each.
#[derive(Debug)]
pub(crate) struct Ledger<X> {
    address: Arc<str>,
    pub(crate) commands: CommandTable<X>,
    done: Vec<(usize, Answer)>,
    end: Option<ConnectionError>,
}

/// A command whose time is over and whose buffer cannot be given back while the connection lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Overdue {
    pub(crate) cid: u16,
    pub(crate) name: &'static str,
    pub(crate) after: Duration,
}

impl Overdue {
    /// Why the connection ends with it.
    pub(crate) const fn cause(&self) -> ConnectionError {
        ConnectionError::CommandTimeout { command: self.name, after: self.after }
    }

    /// What the command is told.
    pub(crate) const fn error(&self) -> Error {
        Error::Timeout { command: self.name, after: self.after }
    }
}

impl<X> Ledger<X> {
    /// Books for at most `capacity` commands at once, for the controller that errors call `address`.
    pub(crate) fn new(address: Arc<str>, capacity: u16) -> Self {
        Self { address, commands: CommandTable::new(capacity), done: Vec::new(), end: None }
    }

    /// Why the connection is over.
    pub(crate) const fn ended(&self) -> Option<&ConnectionError> {
        self.end.as_ref()
    }

    /// Takes the answers that have come, each with the key that the command was submitted with.
    pub(crate) fn take_answers(&mut self, into: &mut Vec<(usize, Answer)>) {
        into.append(&mut self.done);
    }

    /// Takes a command in, if the connection is `ready` and there is room, with what `plan` makes of its data, and gives
    /// its CID and the command with it; else answers it.
    pub(crate) fn admit(
        &mut self,
        key: usize,
        command: Command,
        ready: bool,
        plan: impl FnOnce(&Command, Direction, u32) -> Result<X, Error>,
    ) -> Option<(u16, Sqe)> {
        if !ready || self.end.is_some() {
            let error = self.lost();
            self.refuse(key, command.payload, error);
            return None;
        }
        let Ok(len) = u32::try_from(command.len) else {
            let error = Error::argument("buffer length", command.len, "a command moves at most 4 GiB - 1");
            self.refuse(key, command.payload, error);
            return None;
        };
        let direction = match command.payload {
            _ if len == 0 => Direction::None,
            Payload::None => Direction::None,
            Payload::Out(_) => Direction::ToController,
            Payload::In(_) => Direction::FromController,
        };
        let transfer = match plan(&command, direction, len) {
            Ok(transfer) => transfer,
            Err(error) => {
                self.refuse(key, command.payload, error);
                return None;
            }
        };
        let Command { mut sqe, payload, name, limit, .. } = command;
        match self.commands.insert(key, name, payload, limit, transfer) {
            Ok(cid) => {
                sqe.cid = cid.into();
                Some((cid, sqe))
            }
            Err(payload) => {
                let error = Error::argument("commands in flight", self.commands.len(), "the queue is full");
                self.refuse(key, payload, error);
                None
            }
        }
    }

    fn refuse(&mut self, key: usize, payload: Payload, error: Error) {
        self.done.push((key, Answer { result: Err(error), payload }));
    }

    /// Answers the commands whose time is over, which keep their place. Gives the first that cannot be answered so,
    /// because `needs_buffer` or because it has no answer after twice its time.
    pub(crate) fn expire(&mut self, now: Instant, needs_buffer: impl Fn(&X) -> bool) -> Option<Overdue> {
        for cid in self.commands.due(now) {
            let Some(InFlight { name, limit: Some(limit), expired, transfer, .. }) = self.commands.get(cid) else {
                continue;
            };
            let overdue = Overdue { cid, name, after: limit.after };
            if expired.is_some() || needs_buffer(transfer) {
                return Some(overdue);
            }
            self.time_out(&overdue, now);
        }
        None
    }

    /// Answers a command whose time is over with just that; it keeps its place.
    pub(crate) fn time_out(&mut self, overdue: &Overdue, now: Instant) {
        let Some(key) = self.commands.get(overdue.cid).map(|command| command.key) else { return };
        if let Some(payload) = self.commands.expire(overdue.cid, now) {
            self.refuse(key, payload, overdue.error());
        }
    }

    /// Notes that the connection is over; gives whether it was not before.
    pub(crate) fn end(&mut self, cause: ConnectionError) -> bool {
        if self.end.is_some() {
            return false;
        }
        tracing::debug!(address = %self.address, %cause, "connection ended");
        self.end = Some(cause);
        true
    }

    /// Answers command `cid` with the end of the connection.
    pub(crate) fn lose(&mut self, cid: u16) {
        let Some(command) = self.commands.remove(cid) else { return };
        if command.expired.is_none() {
            let error = self.lost();
            self.refuse(command.key, command.payload, error);
        }
    }

    /// Takes back the answer of the command that was submitted with `key`, which nobody has seen yet; [`Self::release`]
    /// gives it out later. None if there is none.
    pub(crate) fn recall(&mut self, key: usize) -> Option<Answer> {
        let at = self.done.iter().rposition(|(of, _)| *of == key)?;
        Some(self.done.swap_remove(at).1)
    }

    /// Gives out what [`Self::recall`] took back.
    pub(crate) fn release(&mut self, key: usize, answer: Answer) {
        self.done.push((key, answer));
    }

    /// Answers command `cid` with `error`.
    pub(crate) fn give_up(&mut self, cid: u16, error: Error) {
        let Some(command) = self.commands.remove(cid) else { return };
        if command.expired.is_none() {
            self.refuse(command.key, command.payload, error);
        }
    }

    /// Answers a command that was taken out of the table with its completion, of which `received` bytes of data came;
    /// `status` may be worse than that of the completion.
    pub(crate) fn complete(&mut self, command: InFlight<X>, cqe: Cqe, status: Status, received: u32) {
        if command.expired.is_some() {
            return;
        }
        let result = if status.is_success() {
            Ok(Reply { cqe, received })
        } else {
            Err(Error::Status { command: command.name, status, result: cqe.result() })
        };
        self.done.push((command.key, Answer { result, payload: command.payload }));
    }

    /// What a command is told that the end of the connection took with it.
    fn lost(&self) -> Error {
        let cause = self.end.clone().unwrap_or(ConnectionError::ClosedByHost);
        Error::ConnectionLost { address: Arc::clone(&self.address), cause }
    }
}

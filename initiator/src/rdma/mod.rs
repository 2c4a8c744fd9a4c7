//! NVMe/RDMA, host side, sans-IO: commands in, actions out; what the queue pair tells in, answers out.
//!
//! [`RdmaQueue`] is one connection and the queue pair on it. Its driver takes actions from
//! [`poll_action`](RdmaQueue::poll_action) and reports what comes of them: [`handle_exposed`](RdmaQueue::handle_exposed),
//! [`handle_sent`](RdmaQueue::handle_sent), [`handle_received`](RdmaQueue::handle_received) and
//! [`handle_concealed`](RdmaQueue::handle_concealed).
//!
//! # How data move
//!
//! Data to the controller that fit go in the capsule, copied. All others stay in the caller's buffer, which the
//! controller reads or writes by itself, under a key that was made for this command.
//!
//! # Who owns the buffer
//!
//! A buffer that was exposed belongs to the queue pair until its key is dead: invalidated by the controller with its
//! response, invalidated here after it, or gone with the queue pair. Only then is the command answered, so that neither a
//! late nor a hostile controller can write into memory that has a new owner.
//!
//! A command whose time is over while its buffer is exposed takes the connection down, and is answered when the queue
//! pair is destroyed. Invalidating its key alone would not do: keys come round after 255 uses of their window, and a
//! write that a slow controller sends then would hit another command's data. A command without data, or with its data in
//! the capsule, is answered at once and keeps its identifier until the response comes, as with TCP.
//!
//! # What is believed
//!
//! Nothing that the controller sends is used before it is proven: length, identifier, state of the command, key, SQHD.
//! What is wrong ends the connection. How much it wrote into a buffer is the one thing that a host cannot see; see
//! [`Extent`].

mod data;
mod driver;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod rig;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use kvof_memory::Buffer;
use kvof_spec::cqe::CQE_SIZE;
use kvof_spec::{Cqe, FromBytes, Sqe};

use crate::{
    ConnectionError, Error,
    queue::{Command, Direction, Extent, HostQueue, Ledger},
};

pub(crate) use data::{IN_CAPSULE_MAX, descriptors_for, reach_of};
pub use driver::{KeyProtection, RdmaPath};
pub(crate) use driver::{Settings, Verbs};

/// What an I/O or admin queue may use of the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Commands in flight, and what SQSIZE of Connect says: 0's based entries of the submission queue.
    pub(crate) sqsize: u16,
    /// Most data in a capsule, bytes; 0 on the admin queue.
    pub(crate) in_capsule: u32,
    /// Most keyed descriptors of a command (MSDBD), at least 1.
    pub(crate) descriptors: u16,
    /// SQHD is meaningful.
    pub(crate) flow_control: bool,
}

/// What the driver is to do. A token names the command in what it reports.
#[derive(Debug)]
pub(crate) enum Action<'a> {
    /// Make memory reachable for the controller, and report it by [`RdmaQueue::handle_exposed`] before the next action.
    Expose { token: u64, memory: Buffer, access: Access },
    /// Send a capsule.
    Send { token: u64, capsule: &'a [u8] },
    /// Take exposed memory out of the controller's reach.
    Conceal { token: u64 },
}

/// What the controller may do with exposed memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
}

/// Where the controller finds exposed memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    pub(crate) address: u64,
    pub(crate) key: u32,
    /// The controller may invalidate it with its response.
    pub(crate) invalidatable: bool,
}

/// What the transport knows of a command in flight.
#[derive(Debug)]
pub(crate) struct Transfer {
    sqe: Sqe,
    direction: Direction,
    /// Bytes of data.
    len: u32,
    extent: Extent,
    /// The data go with the command.
    in_capsule: bool,
    /// The capsule was given to the queue pair.
    posted: bool,
    /// The capsule has arrived.
    sent: bool,
    reach: Reach,
    /// What is exposed is a copy of the caller's buffer.
    staged: bool,
    /// The response has come.
    reply: Option<Cqe>,
    /// Its time was over, and that ended the connection.
    overdue: Option<Error>,
}

/// Who can reach a command's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// Only this host.
    Host,
    /// They are being exposed.
    Exposing,
    /// The controller too.
    Controller(Key),
    /// The controller, until its key is dead.
    Concealing,
}

impl Transfer {
    /// Whether the caller's buffer is needed or exposed.
    fn needs_buffer(&self) -> bool {
        self.reach != Reach::Host || (!self.posted && self.direction != Direction::None)
    }
}

/// What is to be done for a command.
#[derive(Clone, Copy, Debug)]
enum Step {
    Expose(u16),
    Send(u16),
    Conceal(u16),
}

/// One connection to a controller and the queue pair on it.
#[derive(Debug)]
pub(crate) struct RdmaQueue {
    ledger: Ledger<Transfer>,
    limits: Limits,
    steps: VecDeque<Step>,
    /// The capsule that is being sent.
    capsule: Vec<u8>,
}

impl RdmaQueue {
    /// A queue on an established connection, whose controller has posted `crqsize` receives (CRQSIZE, 1's based).
    pub(crate) fn new(address: Arc<str>, limits: Limits, crqsize: u16) -> Self {
        Self {
            ledger: Ledger::new(address, limits.sqsize.min(crqsize)),
            limits,
            steps: VecDeque::new(),
            capsule: Vec::new(),
        }
    }

    /// What is to be done next; nothing once the connection is over.
    pub(crate) fn poll_action(&mut self) -> Option<Action<'_>> {
        while self.ledger.ended().is_none() {
            match self.steps.pop_front()? {
                Step::Expose(cid) => {
                    if let Some((memory, access)) = self.lend(cid) {
                        return Some(Action::Expose { token: cid.into(), memory, access });
                    }
                }
                Step::Send(cid) => {
                    if self.write_capsule(cid) {
                        return Some(Action::Send { token: cid.into(), capsule: &self.capsule });
                    }
                }
                Step::Conceal(cid) => return Some(Action::Conceal { token: cid.into() }),
            }
        }
        None
    }

    /// Memory is exposed under a key, or could not be.
    pub(crate) fn handle_exposed(&mut self, token: u64, result: Result<Key, (Buffer, Arc<str>)>) {
        let Some((cid, command)) = command_mut(&mut self.ledger, token) else { return };
        match result {
            Ok(key) => {
                command.transfer.reach = Reach::Controller(key);
                self.steps.push_front(Step::Send(cid));
            }
            Err((memory, reason)) => {
                let is_device = memory.is_device();
                if !command.transfer.staged {
                    command.payload.restore(memory);
                }
                command.transfer.reach = Reach::Host;
                // Memory of a GPU that the device cannot reach takes the way through the host's.
                if is_device && !command.transfer.staged {
                    command.transfer.staged = true;
                    tracing::debug!(command = command.name, %reason, "device memory is staged");
                    self.steps.push_front(Step::Expose(cid));
                    return;
                }
                let (command, len) = (command.name, command.transfer.len);
                self.ledger.give_up(cid, Error::Memory { command, len, reason });
            }
        }
    }

    /// The capsule of a command has arrived, or never will.
    pub(crate) fn handle_sent(&mut self, token: u64, result: Result<(), ConnectionError>) {
        if let Err(cause) = result {
            return self.fail(cause);
        }
        if let Some((cid, command)) = command_mut(&mut self.ledger, token) {
            command.transfer.sent = true;
            self.settle(cid);
        }
    }

    /// A capsule has come; the controller has invalidated the key `invalidated` with it.
    pub(crate) fn handle_received(&mut self, capsule: &[u8], invalidated: Option<u32>) {
        if self.ledger.ended().is_some() {
            return;
        }
        match self.check_response(capsule, invalidated) {
            Ok((cid, conceal)) => {
                if conceal {
                    self.steps.push_back(Step::Conceal(cid));
                }
                self.settle(cid);
            }
            Err(what) => self.fail(ConnectionError::Misbehaviour(what.into())),
        }
    }

    /// Notes a response, if it is one; gives its command, and whether that has memory to be concealed.
    fn check_response(&mut self, capsule: &[u8], invalidated: Option<u32>) -> Result<(u16, bool), String> {
        let Ok(cqe) = Cqe::read_from_bytes(capsule) else {
            return Err(format!("a response has {} bytes, and {CQE_SIZE} are demanded", capsule.len()));
        };
        let (cid, sqhd, sqsize) = (cqe.cid.get(), cqe.sqhd.get(), self.limits.sqsize);
        let Some(command) = self.ledger.commands.get_mut(cid) else {
            return Err(format!("response to command {cid:#06x}, which is not in flight"));
        };
        let (name, transfer) = (command.name, &mut command.transfer);
        if !transfer.posted {
            return Err(format!("response to {name} {cid:#06x}, which is not sent yet"));
        }
        if transfer.reply.is_some() {
            return Err(format!("a second response to {name} {cid:#06x}"));
        }
        if self.limits.flow_control && sqhd > sqsize {
            let entries = u32::from(sqsize) + 1;
            return Err(format!("response to {name} {cid:#06x} has SQHD {sqhd} in a queue of {entries} entries"));
        }
        match (invalidated, transfer.reach) {
            (None, _) => {}
            (Some(key), Reach::Controller(own)) if own.key == key && own.invalidatable => {}
            (Some(key), _) => {
                return Err(format!(
                    "response to {name} {cid:#06x} invalidates the key {key:#010x}, which is not its own"
                ));
            }
        }
        transfer.reply = Some(cqe);
        let exposed = matches!(transfer.reach, Reach::Controller(_));
        if exposed {
            transfer.reach = Reach::Concealing;
        }
        Ok((cid, exposed))
    }

    /// The key of a command's data is dead, and they are back.
    pub(crate) fn handle_concealed(&mut self, token: u64, memory: Buffer) {
        let ended = self.ledger.ended().is_some();
        let Some((cid, command)) = command_mut(&mut self.ledger, token) else { return };
        let transfer = &mut command.transfer;
        let written = match &transfer.reply {
            Some(cqe) if transfer.direction == Direction::FromController && cqe.status().is_success() => {
                transfer.extent.filled(&transfer.sqe, cqe, transfer.len)
            }
            _ => 0,
        };
        transfer.reach = Reach::Host;
        let result = if !transfer.staged {
            let flushed = if written > 0 { memory.flush_rdma_writes() } else { Ok(()) };
            command.payload.restore(memory);
            flushed.map_err(|error| error.to_string())
        } else if written > 0 && !ended {
            // Should the caller's buffer panic, the command has not succeeded.
            let reply = transfer.reply.take();
            let copied = data::copy_back(&mut command.payload, &memory, written);
            command.transfer.reply = reply;
            copied
        } else if written > 0 {
            // A buffer of a kind that only its owner knows is not touched any more.
            transfer.reply = None;
            Ok(())
        } else {
            Ok(())
        };
        if let Err(reason) = result {
            let (command, len) = (command.name, command.transfer.len);
            return self.ledger.give_up(cid, Error::Memory { command, len, reason: reason.into() });
        }
        if ended {
            self.answer_at_the_end(cid);
        } else {
            self.settle(cid);
        }
    }

    /// The queue pair is destroyed, and all its memory was given back.
    pub(crate) fn handle_closed(&mut self) {
        for cid in self.ledger.commands.cids() {
            if let Some(command) = self.ledger.commands.get_mut(cid)
                && command.transfer.reach != Reach::Host
            {
                // The system did not destroy the queue pair: nobody may have that memory any more.
                tracing::error!(command = command.name, len = command.transfer.len, "a buffer is lost");
                command.transfer.reach = Reach::Host;
                command.transfer.reply = None;
                if !command.transfer.staged {
                    command.payload.restore(Buffer::new(command.transfer.len as usize));
                }
            }
            self.answer_at_the_end(cid);
        }
    }

    /// Answers command `cid` if its response has come, its capsule has arrived and its data are out of reach.
    fn settle(&mut self, cid: u16) {
        let Some(command) = self.ledger.commands.get(cid) else { return };
        if let Transfer { sent: true, reach: Reach::Host, reply: Some(cqe), .. } = command.transfer {
            self.answer(cid, cqe);
        }
    }

    fn answer(&mut self, cid: u16, cqe: Cqe) {
        let Some(command) = self.ledger.commands.remove(cid) else { return };
        let Transfer { direction, extent, sqe, len, .. } = &command.transfer;
        let received = if *direction == Direction::FromController { extent.filled(sqe, &cqe, *len) } else { 0 };
        self.ledger.complete(command, cqe, cqe.status(), received);
    }

    /// Answers command `cid`, whose data are out of reach, after the connection's end: with its response, if that has
    /// come before.
    fn answer_at_the_end(&mut self, cid: u16) {
        let Some(transfer) = self.ledger.commands.get_mut(cid).map(|command| &mut command.transfer) else { return };
        match (transfer.reply, transfer.overdue.take()) {
            (Some(cqe), _) => self.answer(cid, cqe),
            (None, Some(error)) => self.ledger.give_up(cid, error),
            (None, None) => self.ledger.lose(cid),
        }
    }
}

/// The command of a token.
fn command_mut(ledger: &mut Ledger<Transfer>, token: u64) -> Option<(u16, &mut crate::queue::InFlight<Transfer>)> {
    let cid = u16::try_from(token).ok()?;
    ledger.commands.get_mut(cid).map(|command| (cid, command))
}

impl HostQueue for RdmaQueue {
    type Transfer = Transfer;

    fn ledger(&self) -> &Ledger<Transfer> {
        &self.ledger
    }

    fn ledger_mut(&mut self) -> &mut Ledger<Transfer> {
        &mut self.ledger
    }

    fn submit(&mut self, key: usize, command: Command) {
        let limits = self.limits;
        let (mut sqe, extent) = (command.sqe, command.extent);
        let admitted = self.ledger.admit(key, command, true, |command, direction, len| {
            let in_capsule = direction == Direction::ToController
                && len <= limits.in_capsule
                && command.payload.device_range().is_none();
            if !in_capsule && direction != Direction::None {
                data::check_length(len, &limits)?;
            }
            Ok(Transfer {
                sqe,
                direction,
                len,
                extent,
                in_capsule,
                posted: false,
                sent: false,
                reach: Reach::Host,
                staged: false,
                reply: None,
                overdue: None,
            })
        });
        let Some((cid, named)) = admitted else { return };
        sqe = named;
        if let Some(command) = self.ledger.commands.get_mut(cid) {
            command.transfer.sqe = sqe;
            let exposes = command.transfer.direction != Direction::None && !command.transfer.in_capsule;
            self.steps.push_back(if exposes { Step::Expose(cid) } else { Step::Send(cid) });
        }
    }

    fn is_ready(&self) -> bool {
        true
    }

    /// A buffer that is exposed takes the connection with it, and so does a command that has no answer after twice its
    /// time.
    fn handle_timeout(&mut self, now: Instant) {
        if let Some(overdue) = self.ledger.expire(now, Transfer::needs_buffer) {
            if let Some(command) = self.ledger.commands.get_mut(overdue.cid) {
                command.transfer.overdue = Some(overdue.error());
            }
            self.fail(overdue.cause());
        }
    }

    /// Commands whose data are exposed are answered when they come back.
    fn fail(&mut self, cause: ConnectionError) {
        if !self.ledger.end(cause) {
            return;
        }
        self.steps.clear();
        for cid in self.ledger.commands.cids() {
            if self.ledger.commands.get(cid).is_some_and(|command| command.transfer.reach == Reach::Host) {
                self.answer_at_the_end(cid);
            }
        }
    }
}

impl RdmaQueue {
    /// Takes the data of command `cid` out of its payload, or a copy of them. None: the connection has ended over it.
    fn lend(&mut self, cid: u16) -> Option<(Buffer, Access)> {
        let command = self.ledger.commands.get_mut(cid)?;
        let transfer = &mut command.transfer;
        let len = transfer.len as usize;
        let reads = transfer.direction == Direction::ToController;
        let access = if reads { Access::Read } else { Access::Write };
        let lent = if transfer.staged { None } else { command.payload.lend() };
        let memory = match lent {
            Some(memory) => Some(memory),
            None => {
                transfer.staged = true;
                data::stage(&command.payload, len, reads)
            }
        };
        let Some(memory) = memory else {
            let command = command.name;
            self.fail(ConnectionError::Buffer { command });
            return None;
        };
        command.transfer.reach = Reach::Exposing;
        Some((memory, access))
    }

    /// Puts the capsule of command `cid` together. False if the connection has ended over it.
    fn write_capsule(&mut self, cid: u16) -> bool {
        let Some(command) = self.ledger.commands.get_mut(cid) else { return false };
        let Transfer { sqe, len, in_capsule, reach, .. } = command.transfer;
        let memory = match reach {
            Reach::Controller(key) => Some(key),
            _ => None,
        };
        let inline = match in_capsule {
            true => match command.payload.outgoing(0, len as usize) {
                Some(bytes) => Some(bytes),
                None => {
                    let command = command.name;
                    self.fail(ConnectionError::Buffer { command });
                    return false;
                }
            },
            false => None,
        };
        data::write_capsule(&mut self.capsule, sqe, len, inline, memory);
        command.transfer.posted = true;
        true
    }
}

#[cfg(test)]
mod tests;

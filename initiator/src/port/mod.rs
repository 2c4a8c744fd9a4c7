//! The door of a queue: where futures hand commands in and take answers out, and where a queue's thread does the
//! reverse.
//!
//! A port outlives its connections. While there is none, commands wait at the port, in order, until a connection
//! opens, their time is over or the controller has failed for good. The slot of a submitted command belongs to its
//! future; when the future is dropped, the slot is marked, and the answer, with the buffer in it, is dropped when it
//! comes.

mod bell;
mod operation;

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    time::Instant,
};

use slab::Slab;

use crate::{
    ConnectionError, Error, Result,
    driver::Drive,
    queue::{Answer, Command},
};

pub(crate) use bell::Bell;
pub(crate) use operation::Operation;

/// Something that wants to know when a port needs it: the controller's supervisor.
pub(crate) trait Attention: Send + Sync {
    /// A connection has come or gone, or a waiting command's time ends earlier than all others'.
    fn attend(&self);
}

/// The submission side of one queue.
pub(crate) struct Port {
    qid: u16,
    address: Arc<str>,
    inner: Mutex<Inner>,
    /// Commands submitted and not answered, for choosing the least loaded queue.
    load: AtomicUsize,
    /// Commands answered since the start.
    answered: AtomicU64,
    attention: Arc<dyn Attention>,
    /// The current connection, for callers who drive it.
    drive: Mutex<Option<Driven>>,
}

/// A connection that callers may drive, and its identity.
type Driven = (Arc<Bell>, Arc<dyn Drive>);

struct Inner {
    gate: Gate,
    /// Why the last connection ended.
    cause: ConnectionError,
    /// The current connection; a thread of an earlier one sees that it is not its own, and ends.
    bell: Option<Arc<Bell>>,
    submissions: VecDeque<(usize, Box<Command>)>,
    slots: Slab<Slot>,
    in_flight: usize,
    limit: usize,
    waiters: VecDeque<Waiter>,
    next_waiter: u64,
    /// No waiting command's time is over before this.
    next_expiry: Option<Instant>,
    asleep: bool,
}

/// Who may pass.
#[derive(Clone, Debug)]
pub(crate) enum Gate {
    /// No connection.
    Closed,
    /// The connection is being made.
    Connecting,
    /// The connection is there, for the commands that set the controller up.
    Reserved,
    /// Everyone.
    Open,
    /// Nobody any more.
    Failed(Error),
}

enum Slot {
    Waiting(Option<Waker>),
    Answered(Answer),
    /// The connection ended before the command was sent.
    Returned(Box<Command>),
    Abandoned,
}

struct Waiter {
    id: u64,
    waker: Option<Waker>,
    deadline: Option<Instant>,
    privileged: bool,
}

/// What a queue's thread is to do.
pub(crate) enum Work {
    /// Commands may have been handed over.
    Go,
    /// The port has another connection now, or none; the last one ended for this reason.
    End(ConnectionError),
}

impl Port {
    pub(crate) fn new(qid: u16, address: Arc<str>, attention: Arc<dyn Attention>) -> Arc<Self> {
        Arc::new(Self {
            qid,
            address,
            inner: Mutex::new(Inner {
                gate: Gate::Closed,
                cause: ConnectionError::ClosedByHost,
                bell: None,
                submissions: VecDeque::new(),
                slots: Slab::new(),
                in_flight: 0,
                limit: 0,
                waiters: VecDeque::new(),
                next_waiter: 0,
                next_expiry: None,
                asleep: false,
            }),
            load: AtomicUsize::new(0),
            answered: AtomicU64::new(0),
            attention,
            drive: Mutex::new(None),
        })
    }

    pub(crate) fn qid(&self) -> u16 {
        self.qid
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what can be moved on the connection without waiting; gives whether anything was.
    pub(crate) fn progress(&self) -> bool {
        let drive = self.drive().as_ref().map(|(_, drive)| Arc::clone(drive));
        drive.is_some_and(|drive| drive.progress())
    }

    // The supervisor's side.

    /// Prepares for a new connection, whose thread gets the bell.
    pub(crate) fn begin(&self) -> Result<Arc<Bell>> {
        let bell = Arc::new(Bell::new()?);
        self.close(Gate::Connecting, &ConnectionError::ClosedByHost);
        self.lock().bell = Some(Arc::clone(&bell));
        Ok(bell)
    }

    /// Lets everyone pass.
    pub(crate) fn open(&self) {
        let wakers = {
            let mut inner = self.lock();
            if !matches!(inner.gate, Gate::Reserved) {
                return;
            }
            inner.gate = Gate::Open;
            inner.runnable()
        };
        wake(wakers);
    }

    /// Ends the current connection; commands wait from now on, or fail if `gate` says so.
    pub(crate) fn close(&self, gate: Gate, cause: &ConnectionError) {
        let mut abandoned = Vec::new();
        let (bell, wakers) = {
            let mut inner = self.lock();
            if matches!(inner.gate, Gate::Failed(_)) {
                return;
            }
            let bell = inner.bell.take();
            let failed = matches!(gate, Gate::Failed(_));
            inner.gate = gate;
            if bell.is_some() {
                inner.cause = cause.clone();
            }
            inner.asleep = false;
            // They were never sent: their futures hand them in again.
            let mut wakers = Vec::new();
            for (key, command) in mem::take(&mut inner.submissions) {
                inner.in_flight = inner.in_flight.saturating_sub(1);
                self.load.fetch_sub(1, Ordering::Relaxed);
                match inner.slots.get_mut(key) {
                    Some(slot @ Slot::Waiting(_)) => {
                        if let Slot::Waiting(waker) = mem::replace(slot, Slot::Returned(command)) {
                            wakers.extend(waker);
                        }
                    }
                    _ => {
                        inner.slots.try_remove(key);
                        abandoned.push(command);
                    }
                }
            }
            if failed {
                wakers.extend(inner.waiters.iter_mut().filter_map(|w| w.waker.take()));
            } else {
                wakers.extend(inner.waiters.iter_mut().filter(|w| w.privileged).filter_map(|w| w.waker.take()));
            }
            (bell, wakers)
        };
        if let Some(bell) = bell {
            bell.ring();
        }
        wake(wakers);
    }

    /// Wakes the waiting commands whose time is over; gives when to ask again.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut wakers = Vec::new();
        let next = {
            let mut inner = self.lock();
            if inner.next_expiry.is_none_or(|at| at > now) {
                return inner.next_expiry;
            }
            let mut next: Option<Instant> = None;
            for waiter in &mut inner.waiters {
                match waiter.deadline {
                    Some(at) if at <= now => wakers.extend(waiter.waker.take()),
                    Some(at) => next = Some(next.map_or(at, |n| n.min(at))),
                    None => {}
                }
            }
            inner.next_expiry = next;
            next
        };
        wake(wakers);
        next
    }

    // The thread's side.

    /// The connection of `bell` is ready for `limit` commands.
    pub(crate) fn connected(&self, bell: &Arc<Bell>, limit: usize) {
        let wakers = {
            let mut inner = self.lock();
            if !inner.owns(bell) || !matches!(inner.gate, Gate::Connecting) {
                return;
            }
            inner.gate = Gate::Reserved;
            inner.limit = limit;
            inner.runnable()
        };
        wake(wakers);
        self.attention.attend();
    }

    /// The connection of `bell` can be driven by others than its thread.
    pub(crate) fn set_drive(&self, bell: &Arc<Bell>, drive: Arc<dyn Drive>) {
        if self.lock().owns(bell) {
            *self.drive() = Some((Arc::clone(bell), drive));
        }
    }

    /// The connection of `bell` can be driven no more.
    pub(crate) fn clear_drive(&self, bell: &Arc<Bell>) {
        // A later connection may have taken its place already.
        let old = self.drive().take_if(|(owner, _)| Arc::ptr_eq(owner, bell));
        drop(old);
    }

    fn drive(&self) -> MutexGuard<'_, Option<Driven>> {
        self.drive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection of `bell` allows `limit` commands now.
    pub(crate) fn set_limit(&self, bell: &Arc<Bell>, limit: usize) {
        let wakers = {
            let mut inner = self.lock();
            if !inner.owns(bell) {
                return;
            }
            inner.limit = limit;
            inner.runnable()
        };
        wake(wakers);
    }

    /// Takes the commands that were handed in. With `sleep`, and if there are none, the bell rings for the next one.
    pub(crate) fn take(&self, bell: &Arc<Bell>, into: &mut VecDeque<(usize, Box<Command>)>, sleep: bool) -> Work {
        let mut inner = self.lock();
        if !inner.owns(bell) {
            return Work::End(inner.cause.clone());
        }
        inner.asleep = sleep && inner.submissions.is_empty();
        into.append(&mut inner.submissions);
        Work::Go
    }

    /// Hands answers out.
    pub(crate) fn answer(&self, answers: &mut Vec<(usize, Answer)>) {
        if answers.is_empty() {
            return;
        }
        let count = answers.len();
        let mut abandoned = Vec::new();
        let wakers = {
            let mut inner = self.lock();
            let mut wakers = Vec::with_capacity(count);
            for (key, answer) in answers.drain(..) {
                wakers.extend(inner.answer(key, answer, &mut abandoned));
            }
            wakers.extend(inner.runnable());
            wakers
        };
        self.load.fetch_sub(count, Ordering::Relaxed);
        self.answered.fetch_add(count as u64, Ordering::Relaxed);
        wake(wakers);
        drop(abandoned);
    }

    /// The connection of `bell` is over.
    pub(crate) fn disconnected(&self, bell: &Arc<Bell>, cause: &ConnectionError) {
        {
            let inner = self.lock();
            if !inner.owns(bell) {
                return;
            }
        }
        self.close(Gate::Closed, cause);
        self.attention.attend();
    }

    /// What became of the connection: pending while it is being made. Nothing is woken but [`Attention`].
    pub(crate) fn poll_connected(&self) -> Poll<Result<(), ConnectionError>> {
        let inner = self.lock();
        match &inner.gate {
            Gate::Connecting => Poll::Pending,
            Gate::Reserved | Gate::Open => Poll::Ready(Ok(())),
            Gate::Closed => Poll::Ready(Err(inner.cause.clone())),
            Gate::Failed(_) => Poll::Ready(Err(ConnectionError::ClosedByHost)),
        }
    }

    /// Why there is no connection, if there is none and none is being made.
    pub(crate) fn lost(&self) -> Option<ConnectionError> {
        let inner = self.lock();
        matches!(inner.gate, Gate::Closed).then(|| inner.cause.clone())
    }
}

impl Inner {
    fn owns(&self, bell: &Arc<Bell>) -> bool {
        self.bell.as_ref().is_some_and(|b| Arc::ptr_eq(b, bell))
    }

    fn admits(&self, privileged: bool) -> bool {
        matches!(self.gate, Gate::Open) || (privileged && matches!(self.gate, Gate::Reserved))
    }

    fn room(&self) -> usize {
        self.limit.saturating_sub(self.in_flight)
    }

    /// Puts an answer into its slot; one that nobody waits for goes to `abandoned`, to be dropped without the lock.
    fn answer(&mut self, key: usize, answer: Answer, abandoned: &mut Vec<Answer>) -> Option<Waker> {
        self.in_flight = self.in_flight.saturating_sub(1);
        match self.slots.get_mut(key) {
            Some(slot @ Slot::Waiting(_)) => match mem::replace(slot, Slot::Answered(answer)) {
                Slot::Waiting(waker) => return waker,
                _ => return None,
            },
            Some(Slot::Abandoned) => {
                self.slots.remove(key);
            }
            Some(Slot::Answered(_) | Slot::Returned(_)) | None => {}
        }
        abandoned.push(answer);
        None
    }

    /// The wakers of the waiting commands that there is room for.
    fn runnable(&mut self) -> Vec<Waker> {
        let room = self.room();
        match self.gate {
            Gate::Open => self.waiters.iter_mut().take(room).filter_map(|w| w.waker.take()).collect(),
            Gate::Reserved => {
                self.waiters.iter_mut().filter(|w| w.privileged).take(room).filter_map(|w| w.waker.take()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether it is the turn of waiting command `id`, or of a new one.
    fn is_turn(&self, id: Option<u64>, privileged: bool) -> bool {
        let room = self.room();
        if privileged && matches!(self.gate, Gate::Reserved) {
            return room > 0;
        }
        match id {
            None => self.waiters.len() < room,
            Some(id) => self.waiters.binary_search_by_key(&id, |w| w.id).is_ok_and(|at| at < room),
        }
    }

    fn remove_waiter(&mut self, id: u64) {
        if let Ok(at) = self.waiters.binary_search_by_key(&id, |w| w.id) {
            self.waiters.remove(at);
        }
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;

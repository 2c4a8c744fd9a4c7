//! The future of one command.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Instant,
};

use super::{Gate, Inner, Port, Slot, Waiter, wake};
use crate::{
    Error,
    queue::{Answer, Command},
};

/// A command on its way through a port: resolves to its answer. Dropping it gives up on the answer.
pub(crate) struct Operation<'a> {
    port: &'a Port,
    privileged: bool,
    state: State,
}

enum State {
    New(Box<Command>),
    Waiting(u64, Box<Command>),
    Submitted(usize),
    Done,
}

impl<'a> Operation<'a> {
    /// Hands `command` in at `port`. A `privileged` one may pass while the controller is being set up, and fails
    /// rather than waits when there is no connection.
    pub(crate) fn new(port: &'a Port, command: Command, privileged: bool) -> Self {
        Self { port, privileged, state: State::New(Box::new(command)) }
    }
}

impl Future for Operation<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let this = &mut *self;
        let mut attend = false;
        let mut ring = None;
        let poll = {
            let mut inner = this.port.lock();
            // The common case first: the answer to a command that was sent.
            if let State::Submitted(key) = this.state {
                match inner.slots.get_mut(key) {
                    Some(Slot::Waiting(waker)) => {
                        match waker {
                            Some(waker) => waker.clone_from(cx.waker()),
                            None => *waker = Some(cx.waker().clone()),
                        }
                        return Poll::Pending;
                    }
                    _ => match inner.slots.try_remove(key) {
                        Some(Slot::Returned(command)) => this.state = State::New(command),
                        slot => {
                            this.state = State::Done;
                            return match slot {
                                Some(Slot::Answered(answer)) => Poll::Ready(answer),
                                _ => Poll::Pending,
                            };
                        }
                    },
                }
            }
            let (id, command) = match mem::replace(&mut this.state, State::Done) {
                State::New(command) => (None, command),
                State::Waiting(id, command) => (Some(id), command),
                State::Submitted(_) | State::Done => return Poll::Pending,
            };
            let late = command.limit.filter(|l| id.is_some() && l.deadline <= Instant::now());
            let refusal = refusal(&inner, &this.port.address, this.privileged)
                .or_else(|| late.map(|l| Error::Timeout { command: command.name, after: l.after }));
            if let Some(error) = refusal {
                id.into_iter().for_each(|id| inner.remove_waiter(id));
                Poll::Ready(Answer { result: Err(error), payload: command.payload })
            } else if inner.admits(this.privileged) && inner.is_turn(id, this.privileged) {
                id.into_iter().for_each(|id| inner.remove_waiter(id));
                let key = inner.slots.insert(Slot::Waiting(Some(cx.waker().clone())));
                inner.in_flight += 1;
                this.port.load.fetch_add(1, Ordering::Relaxed);
                inner.submissions.push_back((key, command));
                if mem::take(&mut inner.asleep) {
                    ring = inner.bell.clone();
                }
                this.state = State::Submitted(key);
                Poll::Pending
            } else {
                let waker = Some(cx.waker().clone());
                let deadline = command.limit.map(|l| l.deadline);
                let id = match id {
                    Some(id) => {
                        if let Ok(at) = inner.waiters.binary_search_by_key(&id, |w| w.id)
                            && let Some(waiter) = inner.waiters.get_mut(at)
                        {
                            waiter.waker = waker;
                        }
                        id
                    }
                    None => {
                        let id = inner.next_waiter;
                        inner.next_waiter += 1;
                        inner.waiters.push_back(Waiter { id, waker, deadline, privileged: this.privileged });
                        id
                    }
                };
                if let Some(at) = deadline
                    && inner.next_expiry.is_none_or(|next| at < next)
                {
                    inner.next_expiry = Some(at);
                    attend = true;
                }
                this.state = State::Waiting(id, command);
                Poll::Pending
            }
        };
        if let Some(bell) = ring {
            bell.ring();
        }
        if attend {
            this.port.attention.attend();
        }
        poll
    }
}

/// Why a command cannot even wait.
fn refusal(inner: &Inner, address: &Arc<str>, privileged: bool) -> Option<Error> {
    if let Gate::Failed(error) = &inner.gate {
        return Some(error.clone());
    }
    if privileged && matches!(inner.gate, Gate::Closed) {
        return Some(Error::ConnectionLost { address: Arc::clone(address), cause: inner.cause.clone() });
    }
    None
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        // Buffers are dropped without the lock: their drop is the caller's code.
        let state = mem::replace(&mut self.state, State::Done);
        let mut answer = None;
        let wakers = match &state {
            State::New(_) | State::Done => return,
            State::Waiting(id, _) => {
                let mut inner = self.port.lock();
                inner.remove_waiter(*id);
                inner.runnable()
            }
            State::Submitted(key) => {
                let mut inner = self.port.lock();
                if matches!(inner.slots.get(*key), Some(Slot::Answered(_) | Slot::Returned(_))) {
                    answer = Some(inner.slots.remove(*key));
                } else if let Some(slot) = inner.slots.get_mut(*key) {
                    *slot = Slot::Abandoned;
                }
                Vec::new()
            }
        };
        wake(wakers);
        drop(answer);
    }
}

//! Runs the futures of one job on its thread, with timers: commands of an open loop are due at certain times.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// A thread that sleeps wakes up late by some 60 µs, which would count as latency: the last stretch is not slept.
const AWAKE: Duration = Duration::from_micros(100);

/// The futures of one thread that wait for a time.
#[derive(Default)]
pub(super) struct Timers {
    waiting: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_id: Cell<u64>,
}

impl Timers {
    /// Waits until `at`.
    pub(super) async fn until(&self, at: Instant) {
        let mut id = None;
        poll_fn(|cx| {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            let id = *id.get_or_insert_with(|| self.next_id.replace(self.next_id.get() + 1));
            self.waiting.borrow_mut().insert((at, id), cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Wakes what is due and gives when the next is.
    fn turn(&self) -> Option<Instant> {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let first = waiting.first_entry()?;
            let at = first.key().0;
            if at > Instant::now() {
                return Some(at);
            }
            let waker = first.remove();
            drop(waiting);
            waker.wake();
        }
    }
}

struct Alarm {
    thread: Thread,
    raised: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever raised it first has woken the thread, or it is awake.
        if !self.raised.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

/// Runs `future`, which may wait for `timers`, to its end; with `turn`, that is called instead of sleeping.
pub(super) fn block_on<F: Future>(timers: &Timers, turn: Option<&dyn Fn() -> bool>, future: F) -> F::Output {
    let alarm = Arc::new(Alarm { thread: thread::current(), raised: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&alarm));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        loop {
            let next = timers.turn();
            if alarm.raised.swap(false, Ordering::AcqRel) {
                break;
            }
            if let Some(turn) = turn {
                turn();
                continue;
            }
            match next.map(|at| at.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(left) if left > AWAKE => thread::park_timeout(left - AWAKE),
                Some(_) => thread::yield_now(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join3;

    use super::*;

    #[test]
    fn futures_are_woken_in_time_and_in_order() {
        let timers = Timers::default();
        let start = Instant::now();
        let order = RefCell::new(Vec::new());
        let wait = async |ms: u64| {
            timers.until(start + Duration::from_millis(ms)).await;
            order.borrow_mut().push(ms);
        };
        block_on(&timers, None, join3(wait(20), wait(5), wait(0)));
        assert_eq!(*order.borrow(), [0, 5, 20]);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn another_thread_wakes_it() {
        let timers = Timers::default();
        let mut spawned = false;
        block_on(
            &timers,
            None,
            poll_fn(|cx| {
                if std::mem::replace(&mut spawned, true) {
                    return Poll::Ready(());
                }
                let waker = cx.waker().clone();
                thread::spawn(move || waker.wake());
                Poll::Pending
            }),
        );
    }
}

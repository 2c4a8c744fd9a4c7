//! Runs the futures of one job on its thread, with timers: commands of an open loop are due at certain times.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
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

/// Futures of one thread that are to be polled, by their numbers.
struct Ready {
    /// A bit for each.
    words: Box<[AtomicU64]>,
    /// Some bit was set since the thread last looked.
    raised: AtomicBool,
    thread: Thread,
}

/// Wakes one future.
struct Place {
    ready: Arc<Ready>,
    word: usize,
    bit: u64,
}

impl Ready {
    /// Takes the bits of a word.
    fn take(&self, word: usize) -> u64 {
        self.words
            .get(word)
            .map_or(0, |bits| if bits.load(Ordering::Relaxed) == 0 { 0 } else { bits.swap(0, Ordering::AcqRel) })
    }

    /// Whether anything may be ready.
    fn lower(&self) -> bool {
        self.raised.load(Ordering::Relaxed) && self.raised.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Place {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let ready = &self.ready;
        let before = ready.words.get(self.word).map_or(0, |bits| bits.fetch_or(self.bit, Ordering::AcqRel));
        // Whoever set the first bit of a word wakes the thread, which is awake if it was raised before.
        if before == 0 && !ready.raised.swap(true, Ordering::AcqRel) {
            ready.thread.unpark();
        }
    }
}

/// Runs `futures`, which may wait for `timers`, to their ends; with `turn`, that is called instead of sleeping.
///
/// A future that is woken costs one atomic operation, and one to all that are woken together, since what is measured here is to be the library
/// and the target.
pub(super) fn run_all<F: Future<Output = ()>>(
    timers: &Timers,
    turn: Option<&dyn Fn() -> bool>,
    futures: impl IntoIterator<Item = F>,
) {
    const BITS: usize = u64::BITS as usize;
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    let words = (0..futures.len().div_ceil(BITS)).map(|_| AtomicU64::new(0)).collect();
    let ready = Arc::new(Ready { words, raised: AtomicBool::new(false), thread: thread::current() });
    let wakers: Vec<Waker> = (0..futures.len())
        .map(|n| Arc::new(Place { ready: Arc::clone(&ready), word: n / BITS, bit: 1 << (n % BITS) }).into())
        .collect();
    wakers.iter().for_each(Waker::wake_by_ref);
    let mut left = futures.len();
    while left > 0 {
        let next = timers.turn();
        if ready.lower() {
            for word in 0..ready.words.len() {
                let mut bits = ready.take(word);
                while bits != 0 {
                    let n = word * BITS + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let (Some(slot), Some(waker)) = (futures.get_mut(n), wakers.get(n)) else { continue };
                    let Some(future) = slot else { continue };
                    if future.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
                        *slot = None;
                        left -= 1;
                    }
                }
            }
            continue;
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

#[cfg(test)]
mod tests {
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
        run_all(&timers, None, [20, 5, 0].map(wait));
        assert_eq!(*order.borrow(), [0, 5, 20]);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    /// More of them than a word has bits, each woken by another thread several times.
    #[test]
    fn other_threads_wake_any_of_them() {
        const ROUNDS: usize = 50;
        let polls = Cell::new(0);
        let future = || {
            let mut spawned = 0;
            let polls = &polls;
            poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                spawned += 1;
                if spawned > ROUNDS {
                    return Poll::Ready(());
                }
                let waker = cx.waker().clone();
                thread::spawn(move || waker.wake());
                Poll::Pending
            })
        };
        let futures: Vec<_> = (0..130).map(|_| future()).collect();
        run_all(&Timers::default(), None, futures);
        assert_eq!(polls.get(), 130 * (ROUNDS + 1));
    }

    #[test]
    fn nothing_to_run_ends_at_once() {
        run_all(&Timers::default(), None, std::iter::empty::<std::future::Ready<()>>());
    }
}

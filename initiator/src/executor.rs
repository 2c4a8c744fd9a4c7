//! Running futures on a thread of our own: the supervisor of a controller, and the blocking facade.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use crate::port::Attention;

/// Wakes one thread, whatever the reason: it then looks at everything it is in charge of.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    thread: OnceLock<Thread>,
    raised: AtomicBool,
    timer: Mutex<Option<Instant>>,
}

impl Signal {
    /// The calling thread is the one to wake from now on.
    pub(crate) fn attach(&self) {
        let _ = self.thread.set(thread::current());
    }

    /// Sleeps until the signal is raised, `until`, or the time that a sleeping future asked for.
    pub(crate) fn sleep(&self, until: Option<Instant>) {
        let timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.raised.swap(false, Ordering::AcqRel) {
            return;
        }
        match [until, timer].into_iter().flatten().min() {
            Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
        self.raised.store(false, Ordering::Release);
    }

    /// Waits until `at`; only for futures that this signal's thread polls.
    pub(crate) async fn sleep_until(&self, at: Instant) {
        std::future::poll_fn(|_| {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
            *timer = Some(timer.map_or(at, |t| t.min(at)));
            Poll::Pending
        })
        .await;
    }
}

impl Attention for Signal {
    fn attend(&self) {
        self.raised.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.attend();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.attend();
    }
}

/// Runs a future to its end on the calling thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    run(future, |signal| signal.sleep(None))
}

/// Runs a future to its end on the calling thread, which calls `turn` instead of sleeping.
pub(crate) fn spin_on<F: Future>(mut turn: impl FnMut() -> bool, future: F) -> F::Output {
    run(future, |signal| {
        while !signal.raised.swap(false, Ordering::AcqRel) {
            if !turn() {
                std::hint::spin_loop();
            }
        }
    })
}

/// Polls a future until it is ready, and calls `wait` in between, which returns when the signal was raised.
fn run<F: Future>(future: F, mut wait: impl FnMut(&Signal)) -> F::Output {
    let signal = Arc::new(Signal::default());
    signal.attach();
    let waker = Waker::from(Arc::clone(&signal));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        wait(&signal);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::watch::Watch;

    #[test]
    fn a_blocked_thread_is_woken_by_another() {
        let watch = Arc::new(Watch::new(0));
        let other = Arc::clone(&watch);
        let thread = thread::spawn(move || {
            for n in 1..=3 {
                thread::sleep(Duration::from_millis(5));
                other.update(|v| *v = n);
            }
        });
        assert_eq!(block_on(watch.wait(|v| (*v == 3).then_some("three"))), "three");
        thread.join().unwrap();
    }
}

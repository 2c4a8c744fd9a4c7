//! Waking an event loop from another thread.
//!
//! Invariant (sequentially consistent, both sides): a waker first sets `notified`, then looks at `sleeping`; the loop first sets
//! `sleeping`, then looks at `notified`. So one of them sees the other, and a wake-up cannot fall between looking and sleeping. A loop that spins
//! pays one load, and its wakers make no system call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Makes an [`EventLoop`](crate::EventLoop) report [`Woken`](crate::EventKind::Woken). Usable on any thread, also when the loop is gone.
#[derive(Debug, Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
#[repr(align(128))]
struct Shared {
    notified: AtomicBool,
    sleeping: AtomicBool,
    eventfd: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Shared { notified: AtomicBool::new(false), sleeping: AtomicBool::new(false), eventfd };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Wakes the loop. What this thread wrote before is visible to the loop's thread when it sees the event. Wakes that come before
    /// the loop has seen an earlier one cost no system call and are reported with it.
    pub fn wake(&self) {
        if !self.shared.notified.swap(true, Ordering::SeqCst) && self.shared.sleeping.load(Ordering::SeqCst) {
            // The only failure is a counter at its limit, and then the loop is woken already.
            let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.shared.eventfd, &1u64.to_ne_bytes()));
        }
    }

    /// Whether a wake-up came since the last call.
    pub(crate) fn take(&self) -> bool {
        // The plain load keeps the line shared between cores while nothing happens.
        self.shared.notified.load(Ordering::Relaxed) && self.shared.notified.swap(false, Ordering::SeqCst)
    }

    /// Announces that the loop is about to block. False if it must not, because a wake-up is waiting.
    pub(crate) fn sleep(&self) -> bool {
        self.shared.sleeping.store(true, Ordering::SeqCst);
        !self.shared.notified.load(Ordering::SeqCst)
    }

    /// The loop does not block any more.
    pub(crate) fn awake(&self) {
        self.shared.sleeping.store(false, Ordering::SeqCst);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.shared.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(waker: &Waker) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(waker.fd(), &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }

    #[test]
    fn a_wake_before_the_sleep_forbids_it() {
        let waker = Waker::new().unwrap();
        assert!(waker.sleep());
        waker.awake();
        waker.wake();
        assert!(!waker.sleep());
        waker.awake();
        assert!(waker.take() && !waker.take());
        assert!(waker.sleep());
    }

    #[test]
    fn only_a_sleeper_costs_a_write_and_only_one() {
        let waker = Waker::new().unwrap();
        waker.wake();
        assert_eq!(written(&waker), 0);
        assert!(waker.take() && waker.sleep());
        for _ in 0..10 {
            waker.clone().wake();
        }
        assert_eq!(written(&waker), 1);
    }
}

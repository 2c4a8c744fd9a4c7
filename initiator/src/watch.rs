//! A value that futures can wait for a change of. It works on every executor.

use std::{
    future::poll_fn,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

/// A value and those who wait for it.
#[derive(Debug)]
pub(crate) struct Watch<T> {
    inner: Mutex<(T, Vec<Waker>)>,
}

impl<T> Watch<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { inner: Mutex::new((value, Vec::new())) }
    }

    fn lock(&self) -> MutexGuard<'_, (T, Vec<Waker>)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value and wakes everyone who waits.
    pub(crate) fn update(&self, change: impl FnOnce(&mut T)) {
        let wakers = {
            let mut inner = self.lock();
            change(&mut inner.0);
            mem::take(&mut inner.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Reads the value.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.lock().0)
    }

    /// Waits until `until` gives something for the value.
    pub(crate) async fn wait<R>(&self, until: impl Fn(&T) -> Option<R>) -> R {
        poll_fn(|cx| {
            let mut inner = self.lock();
            match until(&inner.0) {
                Some(found) => Poll::Ready(found),
                None => {
                    if !inner.1.iter().any(|w| w.will_wake(cx.waker())) {
                        inner.1.push(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }
}

//! Capacity and key count of a namespace, kept exactly by all its shards without a lock.
//!
//! Room is reserved before a store begins and given back when it fails, so the limits are never passed. Two stores that
//! compete for the last room at the same instant may both be refused.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use kvof_kv::{Key, KvUsage};

/// The limits of one namespace and its counters. Clones share the counters.
#[derive(Clone, Debug)]
pub struct Usage {
    size: u64,
    mnks: u64,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    used: AtomicU64,
    keys: AtomicU64,
    waiting: AtomicU64,
}

/// Bytes that a key and its value count for (NUSE).
#[must_use]
pub const fn footprint(key: &Key, value_len: u32) -> u64 {
    value_len as u64 + key.len() as u64
}

impl Usage {
    /// Of a namespace of `size` bytes (NSZE) and at most `mnks` keys, 0 for no limit, with nothing in it.
    #[must_use]
    pub fn new(size: u64, mnks: u32) -> Self {
        Self { size, mnks: mnks.into(), counters: Arc::default() }
    }

    /// How full the namespace is.
    #[must_use]
    pub fn current(&self) -> KvUsage {
        let Counters { used, keys, .. } = &*self.counters;
        KvUsage { nsze: self.size, nuse: used.load(Ordering::Relaxed), keys: keys.load(Ordering::Relaxed) }
    }

    /// Adds what was found when a shard was opened.
    pub fn found(&self, keys: u64, used: u64) {
        self.counters.keys.fetch_add(keys, Ordering::Relaxed);
        self.counters.used.fetch_add(used, Ordering::Relaxed);
    }

    /// Takes back what [`Self::found`] added and stores changed since: a shard is closed.
    pub fn left(&self, keys: u64, used: u64) {
        self.counters.keys.fetch_sub(keys, Ordering::Relaxed);
        self.counters.used.fetch_sub(used, Ordering::Relaxed);
    }

    /// One more Store of a cache waits until some shard has dropped something.
    pub fn wait(&self) {
        self.counters.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// One of them waits no more.
    pub fn waited(&self) {
        let one_less = |waiting: u64| waiting.checked_sub(1);
        let _ = self.counters.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    /// Stores that wait, in all shards.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.counters.waiting.load(Ordering::Relaxed)
    }

    /// Reserves what a value of `new` bytes needs beyond the one of `old` bytes that it replaces, if any. False: no room.
    #[must_use]
    pub fn reserve(&self, old: Option<u64>, new: u64) -> bool {
        let Counters { used, keys, .. } = &*self.counters;
        if old.is_none() {
            let one_more = |keys: u64| (self.mnks == 0 || keys < self.mnks).then_some(keys.saturating_add(1));
            if keys.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
                return false;
            }
        }
        let more = new.saturating_sub(old.unwrap_or(0));
        let grown = |used: u64| used.checked_add(more).filter(|sum| *sum <= self.size);
        let fits = more == 0 || used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if !fits && old.is_none() {
            keys.fetch_sub(1, Ordering::Relaxed);
        }
        fits
    }

    /// Takes a reservation back.
    pub fn cancel(&self, old: Option<u64>, new: u64) {
        if old.is_none() {
            self.counters.keys.fetch_sub(1, Ordering::Relaxed);
        }
        self.counters.used.fetch_sub(new.saturating_sub(old.unwrap_or(0)), Ordering::Relaxed);
    }

    /// The value for which room was reserved is in place: a larger one that it replaced gives the difference back.
    pub fn commit(&self, old: Option<u64>, new: u64) {
        let less = old.unwrap_or(0).saturating_sub(new);
        if less > 0 {
            self.counters.used.fetch_sub(less, Ordering::Relaxed);
        }
    }

    /// A value of `old` bytes is gone.
    pub fn remove(&self, old: u64) {
        self.counters.keys.fetch_sub(1, Ordering::Relaxed);
        self.counters.used.fetch_sub(old, Ordering::Relaxed);
    }
}

//! Capacity and key count of a KV namespace, kept exactly by all cores without a lock.
//!
//! Room is reserved before a store begins and given back when it fails, so the limits are never passed. Two stores that
//! compete for the last room at the same instant may both be refused.

use std::sync::{Arc, atomic::Ordering};

use kvof_kv::{Key, KvLimits, KvUsage};

use crate::model::{Namespace, NamespaceKindDef};

/// The limits of one namespace, and its counters.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    ns: Arc<Namespace>,
    size: u64,
    mnks: u64,
}

/// Bytes that a key and its value count for (NUSE).
pub(super) fn footprint(key: &Key, value_len: u64) -> u64 {
    value_len.saturating_add(key.len() as u64)
}

impl Usage {
    /// `None` unless `ns` is a KV namespace.
    pub(super) fn new(ns: &Arc<Namespace>) -> Option<(Self, KvLimits)> {
        let NamespaceKindDef::Kv { limits, size, .. } = &ns.def.kind else { return None };
        Some((Self { ns: Arc::clone(ns), size: *size, mnks: u64::from(limits.mnks) }, *limits))
    }

    /// How full the namespace is.
    pub(super) fn current(&self) -> KvUsage {
        let state = &self.ns.state;
        let (nuse, keys) = (state.used.load(Ordering::Relaxed), state.keys.load(Ordering::Relaxed));
        KvUsage { nsze: self.size, nuse, keys }
    }

    /// Sets what was found when the storage was opened.
    pub(super) fn found(&self, keys: u64, used: u64) {
        self.ns.state.keys.store(keys, Ordering::Relaxed);
        self.ns.state.used.store(used, Ordering::Relaxed);
    }

    /// Reserves what a record of `new` bytes needs beyond the one of `old` bytes that it replaces, if any. False: no room.
    #[must_use]
    pub(super) fn reserve(&self, old: Option<u64>, new: u64) -> bool {
        let state = &self.ns.state;
        if old.is_none() {
            let one_more = |keys: u64| (self.mnks == 0 || keys < self.mnks).then_some(keys.saturating_add(1));
            if state.keys.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
                return false;
            }
        }
        let more = new.saturating_sub(old.unwrap_or(0));
        let grown = |used: u64| used.checked_add(more).filter(|sum| *sum <= self.size);
        let fits = more == 0 || state.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if !fits && old.is_none() {
            state.keys.fetch_sub(1, Ordering::Relaxed);
        }
        fits
    }

    /// Takes a reservation back.
    pub(super) fn cancel(&self, old: Option<u64>, new: u64) {
        if old.is_none() {
            self.ns.state.keys.fetch_sub(1, Ordering::Relaxed);
        }
        self.ns.state.used.fetch_sub(new.saturating_sub(old.unwrap_or(0)), Ordering::Relaxed);
    }

    /// The record for which room was reserved is in place: a larger one that it replaced gives the difference back.
    pub(super) fn commit(&self, old: Option<u64>, new: u64) {
        self.ns.state.used.fetch_sub(old.unwrap_or(0).saturating_sub(new), Ordering::Relaxed);
    }

    /// A record of `old` bytes is gone.
    pub(super) fn remove(&self, old: u64) {
        self.ns.state.keys.fetch_sub(1, Ordering::Relaxed);
        self.ns.state.used.fetch_sub(old, Ordering::Relaxed);
    }
}

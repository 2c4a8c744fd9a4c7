//! Which keys' values left lately without a second read. One that comes back soon is read more than once after all.
//!
//! Only hashes are kept, in a table whose size follows the number of values in the tier. "Lately" is counted in bytes: a
//! key is remembered until as many bytes as the tier may hold have left after it. A wrong answer (two keys with the same
//! hash) puts one value into the other queue and does nothing worse.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::TierKey;

/// Slots that one hash may be in. The oldest of them makes room for a new one.
const WAYS: usize = 8;
/// The clock ticks this many times while the bytes of one limit leave.
const TICKS: u64 = 1 << 16;

#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    /// The clock when the value left.
    left_at: u32,
}

pub(super) struct Ghost {
    /// A power of two of sets, or none.
    sets: Vec<[Slot; WAYS]>,
    /// Bytes that have left.
    left: u64,
    /// Bytes a tick.
    tick: u64,
}

impl Ghost {
    /// Remembers while `span` bytes leave.
    pub(super) fn new(span: u64) -> Self {
        Self { sets: Vec::new(), left: 0, tick: span.div_ceil(TICKS).max(1) }
    }

    /// Bytes allocated.
    pub(super) fn bytes(&self) -> u64 {
        (self.sets.capacity() * size_of::<[Slot; WAYS]>()) as u64
    }

    /// Bytes that [`resize`](Self::resize) to `entries` would add.
    pub(super) fn growth(&self, entries: usize) -> u64 {
        (sets(entries).saturating_sub(self.sets.len()) * size_of::<[Slot; WAYS]>()) as u64
    }

    /// Makes room to remember at least `entries` keys, or gives back the memory of more.
    pub(super) fn resize(&mut self, entries: usize) {
        let (old, new) = (self.sets.len(), sets(entries));
        if old == new {
            return;
        }
        let before = std::mem::take(&mut self.sets);
        self.sets.reserve_exact(new);
        self.sets.resize(new, [self.expired(); WAYS]);
        for slot in before.into_iter().flatten() {
            if self.is_live(&slot) {
                self.place(slot);
            }
        }
    }

    /// The value of a key leaves, and `cost` bytes with it.
    pub(super) fn put(&mut self, key: &TierKey, cost: u64) {
        self.left = self.left.wrapping_add(cost);
        self.place(Slot { hash: hash(key), left_at: self.now() });
    }

    /// Whether the value of a key left lately. Forgets it.
    pub(super) fn take(&mut self, key: &TierKey) -> bool {
        let hash = hash(key);
        let Some(set) = self.set(hash) else { return false };
        let expired = self.expired();
        let Some(way) = self.sets[set].iter().position(|slot| slot.hash == hash && self.is_live(slot)) else {
            return false;
        };
        self.sets[set][way] = expired;
        true
    }

    fn place(&mut self, slot: Slot) {
        let Some(set) = self.set(slot.hash) else { return };
        let now = self.now();
        let same = self.sets[set].iter().position(|old| old.hash == slot.hash);
        let age = |way: &usize| now.wrapping_sub(self.sets[set][*way].left_at);
        let way = same.or_else(|| (0..WAYS).max_by_key(age)).unwrap_or(0);
        self.sets[set][way] = slot;
    }

    fn set(&self, hash: u32) -> Option<usize> {
        (!self.sets.is_empty()).then(|| hash as usize & (self.sets.len() - 1))
    }

    /// Ticks since the beginning; wraps around after 65,536 limits, long after a slot has expired.
    fn now(&self) -> u32 {
        (self.left / self.tick) as u32
    }

    fn is_live(&self, slot: &Slot) -> bool {
        u64::from(self.now().wrapping_sub(slot.left_at)) <= TICKS
    }

    fn expired(&self) -> Slot {
        Slot { hash: 0, left_at: self.now().wrapping_sub(2 * TICKS as u32) }
    }
}

fn sets(entries: usize) -> usize {
    if entries == 0 { 0 } else { entries.div_ceil(WAYS).next_power_of_two() }
}

/// The same in every process, so that a simulation of an engine repeats.
fn hash(key: &TierKey) -> u32 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as u32
}

//! Which keys' values left lately, and from which queue. One that comes back soon was let go too early.
//!
//! Only hashes are kept, in a table whose size follows the number of values in the tier. "Lately" is counted in bytes: a
//! key is remembered until a number of bytes, which the policy sets, has left the same queue after it. A wrong answer (two
//! keys with the same hash) puts one value into the other queue and does nothing worse.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::TierKey;
use super::policy::Policy;

/// Slots that one hash may be in. The one that would be forgotten first makes room for a new one.
const WAYS: usize = 8;
/// A queue's clock ticks this many times while the bytes of one limit leave.
const TICKS: u64 = 1 << 16;
/// The bit of a slot's hash that says which queue the value left.
const QUEUE: u32 = 1 << 31;

#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    /// The clock of the queue when the value left.
    left_at: u32,
}

pub(super) struct Ghost {
    /// A power of two of sets, or none.
    sets: Vec<[Slot; WAYS]>,
    /// Bytes that have left each queue.
    left: [u64; 2],
    /// Bytes a tick.
    tick: u64,
}

impl Ghost {
    /// For a tier of `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self { sets: Vec::new(), left: [0; 2], tick: limit.div_ceil(TICKS).max(1) }
    }

    /// Bytes allocated.
    pub(super) fn bytes(&self) -> u64 {
        (self.sets.capacity() * size_of::<[Slot; WAYS]>()) as u64
    }

    /// Bytes that [`resize`](Self::resize) to `entries` would add.
    pub(super) fn growth(&self, entries: usize) -> u64 {
        (sets(entries).saturating_sub(self.sets.len()) * size_of::<[Slot; WAYS]>()) as u64
    }

    /// Remembers enough keys for a tier of `entries` values, and gives back the memory of more.
    pub(super) fn resize(&mut self, entries: usize, policy: &Policy) {
        let (old, new) = (self.sets.len(), sets(entries));
        if old == new {
            return;
        }
        let empty = Slot { hash: 0, left_at: self.clock(0).wrapping_sub(4 * TICKS as u32) };
        let before = std::mem::take(&mut self.sets);
        self.sets.reserve_exact(new);
        self.sets.resize(new, [empty; WAYS]);
        for slot in before.into_iter().flatten() {
            if self.rest(&slot, policy) >= 0 {
                self.place(slot, policy);
            }
        }
    }

    /// Bytes that have left each queue and are remembered.
    pub(super) fn remembered(&self, policy: &Policy) -> [u64; 2] {
        [0, 1].map(|queue| self.left[usize::from(queue)].min(policy.memory(queue)))
    }

    /// The value of a key leaves a queue, and `cost` bytes with it.
    pub(super) fn put(&mut self, key: &TierKey, queue: u8, cost: u64, policy: &Policy) {
        let left = &mut self.left[usize::from(queue)];
        *left = left.saturating_add(cost);
        let hash = hash(key) | if queue == 0 { 0 } else { QUEUE };
        self.place(Slot { hash, left_at: self.clock(queue) }, policy);
    }

    /// The queue that the value of a key left lately.
    pub(super) fn find(&self, key: &TierKey, policy: &Policy) -> Option<u8> {
        let hash = hash(key);
        let set = self.sets.get(self.set(hash)?)?;
        let slot = set.iter().find(|slot| slot.hash & !QUEUE == hash && self.rest(slot, policy) >= 0)?;
        Some(queue(slot))
    }

    /// Forgets that the value of a key left.
    pub(super) fn forget(&mut self, key: &TierKey) {
        let hash = hash(key);
        let Some(set) = self.set(hash) else { return };
        let clocks = [0, 1].map(|queue| self.clock(queue));
        for slot in self.sets[set].iter_mut().filter(|slot| slot.hash & !QUEUE == hash) {
            slot.left_at = clocks[usize::from(queue(slot))].wrapping_sub(4 * TICKS as u32);
        }
    }

    fn place(&mut self, slot: Slot, policy: &Policy) {
        let Some(set) = self.set(slot.hash & !QUEUE) else { return };
        let same = self.sets[set].iter().position(|old| (old.hash ^ slot.hash) & !QUEUE == 0);
        let way = same.or_else(|| (0..WAYS).min_by_key(|way| self.rest(&self.sets[set][*way], policy)));
        if let Some(way) = way {
            self.sets[set][way] = slot;
        }
    }

    fn set(&self, hash: u32) -> Option<usize> {
        (!self.sets.is_empty()).then(|| hash as usize & (self.sets.len() - 1))
    }

    /// Wraps around when 65,536 limits have left, long after a slot is forgotten.
    fn clock(&self, queue: u8) -> u32 {
        (self.left[usize::from(queue)] / self.tick) as u32
    }

    /// Ticks until a slot is forgotten; negative if it is.
    fn rest(&self, slot: &Slot, policy: &Policy) -> i64 {
        let queue = queue(slot);
        let age = self.clock(queue).wrapping_sub(slot.left_at);
        (policy.memory(queue) / self.tick).cast_signed() - i64::from(age)
    }
}

fn queue(slot: &Slot) -> u8 {
    u8::from(slot.hash & QUEUE != 0)
}

/// As many slots as the two queues' worth of keys that the policy remembers, and some more.
fn sets(entries: usize) -> usize {
    if entries == 0 { 0 } else { (entries + entries / 2).div_ceil(WAYS).next_power_of_two() }
}

/// The same in every process, so that a simulation of an engine repeats. A host that chooses its keys by it spoils
/// nobody's hit rate but by the few sets it fills.
fn hash(key: &TierKey) -> u32 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as u32 & !QUEUE
}

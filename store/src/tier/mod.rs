//! The DRAM tier: values that were stored or read lately and will probably be read again, in bounded memory.
//!
//! One tier belongs to one shard: single-threaded, without a clock. `docs/decisions/dram-tier.md` has the policy, its reasons
//! and its measured hit rates.
//!
//! Invariants:
//! * After [`Tier::insert`] or [`Tier::remove`] of a key, an older value of it is never returned.
//! * [`TierStats::used`] (values, table, queues and ghost entries) is never above the limit.

mod ahead;
mod arena;
mod ghost;
mod policy;

pub use ahead::{ReadAhead, ReadAheadLimits, ReadAheadStats};

use kvof_io::SharedBuf;
use kvof_kv::Key;

use arena::Arena;
use ghost::Ghost;
use policy::Policy;

/// What a value is kept under: the slot of its namespace, and its key.
pub type TierKey = (u16, Key);

/// A value may take this part of the limit; a larger one is not kept.
pub const LARGEST_SHARE: u64 = 8;
/// Reads of a value that are counted; more make no difference.
const MAX_READS: u8 = 3;
/// New values.
const SMALL: u8 = 0;
/// Values that were read again.
const MAIN: u8 = 1;

/// Why a value is offered to the tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admit {
    /// A host just stored it.
    Stored,
    /// A host just retrieved it, and it came from a device.
    Read,
    /// It was read ahead of the Retrieve that is expected.
    ReadAhead,
}

/// What a tier did since it was made, and what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TierStats {
    /// Values that [`Tier::get`] returned.
    pub hits: u64,
    /// Of these, values that were there only because they had been read ahead.
    pub ahead_hits: u64,
    /// Times that [`Tier::get`] had nothing.
    pub misses: u64,
    /// Bytes of the values that were returned.
    pub hit_bytes: u64,
    /// Values taken in.
    pub inserted: u64,
    /// Values offered and not taken in.
    pub rejected: u64,
    /// Values that left to make room.
    pub evicted: u64,
    /// Bytes in use: values and bookkeeping. At most `limit`.
    pub used: u64,
    /// Of these, bytes of bookkeeping.
    pub bookkeeping: u64,
    /// Bytes that may be used.
    pub limit: u64,
    /// Values held.
    pub entries: u64,
    /// Bytes that values may have before they have been read again; follows what is read.
    pub small: u64,
    /// Whether values that are read are hardly taken in at the moment, since that would not help: what is read comes back
    /// later than any tier of this size could keep it.
    pub closed: bool,
}

/// A bounded cache of values in memory.
pub struct Tier {
    limit: u64,
    arena: Arena<2>,
    ghost: Ghost,
    policy: Policy,
    counts: TierStats,
}

impl Tier {
    /// A tier that uses at most `limit` bytes, its own bookkeeping included. 0 turns it off.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            arena: Arena::new(),
            ghost: Ghost::new(limit),
            policy: Policy::new(limit),
            counts: TierStats::default(),
        }
    }

    /// The value of `key`, if it is here. Counts a hit or a miss.
    pub fn get(&mut self, key: &TierKey) -> Option<SharedBuf> {
        let Some(at) = self.arena.find(key) else {
            self.counts.misses += 1;
            self.policy.on_miss(self.ghost.find(key, &self.policy));
            return None;
        };
        let node = self.arena.node_mut(at);
        if node.why == Admit::ReadAhead {
            // This is the Retrieve that the value was read for, so it says nothing about a second one.
            node.why = Admit::Read;
            self.counts.ahead_hits += 1;
        } else {
            node.reads = (node.reads + 1).min(MAX_READS);
        }
        let value = node.value.clone()?;
        self.policy.on_hit();
        self.counts.hits += 1;
        self.counts.hit_bytes += value.len() as u64;
        Some(value)
    }

    /// Whether `key` is here. Counts nothing, and does not make the value any hotter.
    #[must_use]
    pub fn contains(&self, key: &TierKey) -> bool {
        self.arena.find(key).is_some()
    }

    /// Offers a value. Whatever was here for the key is gone afterwards, also if the new value is not taken in.
    ///
    /// `cost` is the number of bytes of memory that the value keeps from other use; a value that is a part of a larger
    /// buffer costs the whole buffer. It counts as at least the value's length. A value of more than an eighth of the
    /// limit ([`LARGEST_SHARE`]) is not taken in.
    ///
    /// The value has to be the current one of the key: what a device returned for a key that was deleted or overwritten
    /// meanwhile must not be offered.
    pub fn insert(&mut self, key: TierKey, value: SharedBuf, cost: u64, why: Admit) {
        let cost = cost.max(value.len() as u64);
        let mut before = None;
        if let Some(at) = self.arena.find(&key) {
            before = Some((self.arena.queue_of(at), self.arena.node(at).reads));
            self.arena.remove(at);
        }
        if cost > self.limit / LARGEST_SHARE {
            self.counts.rejected += 1;
            self.compact();
            return;
        }
        let left = self.ghost.find(&key, &self.policy);
        if !self.policy.on_offer(cost, why, left, self.ghost.remembered(&self.policy)) && before.is_none() {
            // As if it had been here for a moment, so that its coming back soon is seen.
            self.ghost.put(&key, SMALL, cost, &self.policy);
            self.counts.rejected += 1;
            return;
        }
        if left.is_some() {
            self.ghost.forget(&key);
        }
        let (queue, reads) = before.unwrap_or((if left.is_some() { MAIN } else { SMALL }, 0));
        if !self.make_room(cost) {
            self.counts.rejected += 1;
            return;
        }
        let at = self.arena.insert(queue, key, value, cost, why);
        self.ghost.resize(self.arena.capacity(), &self.policy);
        self.arena.node_mut(at).reads = reads;
        self.counts.inserted += 1;
    }

    /// Forgets the value of `key`: it was deleted or overwritten, or has left the devices.
    pub fn remove(&mut self, key: &TierKey) {
        if let Some(at) = self.arena.find(key) {
            self.arena.remove(at);
            self.compact();
        }
    }

    /// Forgets all values of a namespace. Takes a time proportional to the number of values held.
    pub fn remove_namespace(&mut self, slot: u16) {
        let gone: Vec<u32> = self.arena.of_namespace(slot).collect();
        for at in gone {
            self.arena.remove(at);
        }
        self.compact();
    }

    /// What was done and what is held.
    #[must_use]
    pub fn stats(&self) -> TierStats {
        let bookkeeping = self.bookkeeping();
        TierStats {
            used: self.value_bytes() + bookkeeping,
            bookkeeping,
            limit: self.limit,
            entries: self.arena.len() as u64,
            small: self.policy.small(),
            closed: self.policy.is_closed(),
            ..self.counts
        }
    }

    /// Changes the limit, in bytes; evicts at once if less is allowed than is used. 0 turns the tier off.
    pub fn set_limit(&mut self, limit: u64) {
        if limit == self.limit {
            return;
        }
        self.limit = limit;
        self.ghost = Ghost::new(limit);
        self.policy = Policy::new(limit);
        self.make_room(0);
        if self.arena.len() == 0 {
            self.arena = Arena::new();
            self.ghost = Ghost::new(limit);
        }
    }

    /// Gives memory back that the tables no longer need.
    fn compact(&mut self) {
        if self.arena.compact() {
            self.ghost.resize(self.arena.capacity(), &self.policy);
        }
    }

    fn value_bytes(&self) -> u64 {
        self.arena.queue_bytes(SMALL) + self.arena.queue_bytes(MAIN)
    }

    fn bookkeeping(&self) -> u64 {
        self.arena.bytes() + self.ghost.bytes()
    }

    /// Evicts until a value of `cost` bytes and what the tables need for it fit. False if it cannot be.
    fn make_room(&mut self, cost: u64) -> bool {
        loop {
            let needed = cost + self.arena.growth() + self.ghost.growth(self.arena.next_capacity());
            if self.value_bytes() + self.bookkeeping() + needed <= self.limit {
                return true;
            }
            if !self.evict() {
                return false;
            }
        }
    }

    /// Lets one value go. False if there is none.
    fn evict(&mut self) -> bool {
        loop {
            let small = self.arena.oldest(SMALL);
            let main = self.arena.oldest(MAIN);
            let full = self.arena.queue_bytes(SMALL) >= self.policy.small();
            let (at, queue) = match (small, main) {
                (Some(at), None) => (at, SMALL),
                (Some(at), _) if full => (at, SMALL),
                (_, Some(at)) => (at, MAIN),
                (None, None) => return false,
            };
            let node = self.arena.node_mut(at);
            if node.reads > 0 {
                node.reads = if queue == SMALL { 0 } else { node.reads - 1 };
                self.arena.move_to(at, MAIN);
                continue;
            }
            let never_read = node.why == Admit::ReadAhead;
            let (key, cost) = self.arena.remove(at);
            if !never_read {
                self.ghost.put(&key, queue, cost, &self.policy);
            }
            self.counts.evicted += 1;
            self.compact();
            return true;
        }
    }
}

#[cfg(test)]
mod tests;

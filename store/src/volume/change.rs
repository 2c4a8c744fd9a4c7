//! Store and Delete: admitted, locked, committed, answered.

use std::collections::VecDeque;

use kvof_io::{PoolBuf, SharedBuf};
use kvof_kv::{Key, KvError, KvOutcome, OpId, StoreOptions};

use super::{
    RESERVED_GROUPS, Volume,
    group::{ENTRY_COST, cost},
    place::{self, Found, Place},
};
use crate::{
    format::{Entry, NamespaceMode, PAGE},
    geometry::Geometry,
    index::Meta,
    tier::Admit,
    usage::footprint,
};

/// Part of the space that live records may fill, in 1/16; cleaning needs the rest to go on.
const FILL: u64 = 14;

/// What a host wants changed.
#[derive(Debug)]
pub(super) enum Job {
    Store { id: OpId, slot: u16, key: Key, options: StoreOptions, value: PoolBuf },
    Delete { id: OpId, slot: u16, key: Key },
}

impl Job {
    const fn key(&self) -> (u16, Key) {
        match self {
            Self::Store { slot, key, .. } | Self::Delete { slot, key, .. } => (*slot, *key),
        }
    }

    pub(super) const fn slot(&self) -> u16 {
        self.key().0
    }

    const fn id(&self) -> OpId {
        match self {
            Self::Store { id, .. } | Self::Delete { id, .. } => *id,
        }
    }
}

/// An admitted change.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) slot: u16,
    pub(super) key: Key,
    pub(super) content: Content,
    pub(super) origin: Origin,
}

#[derive(Debug)]
pub(super) enum Content {
    /// The value, and bytes of memory behind it.
    Value(SharedBuf, u64),
    Tombstone,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// A host's; the length of the value that is replaced.
    Host(OpId, Option<u32>),
    /// A move of what is at this place (without hits).
    Move(Meta),
}

impl Change {
    pub(super) fn len(&self) -> Option<u32> {
        match &self.content {
            Content::Value(value, _) => Some(value.len() as u32),
            Content::Tombstone => None,
        }
    }

    pub(super) fn cost(&self) -> u64 {
        self.len().map_or(ENTRY_COST, cost)
    }
}

impl Volume {
    /// Bytes that live records may cost, over all namespaces.
    pub(super) fn usable(&self) -> u64 {
        let geometry = self.geometry();
        let groups = u64::from(geometry.groups().saturating_sub(RESERVED_GROUPS + 1));
        let group = geometry.k() as u64 * u64::from(geometry.segment_pages() - 4) * PAGE as u64;
        groups * group / 16 * FILL
    }

    /// Runs `job`, or lets it wait for the change of its key that is in flight.
    pub(super) fn change(&mut self, job: Job) {
        let key = job.key();
        match self.locks.get_mut(&key) {
            Some(waiting) => waiting.push_back(job),
            None => self.admit(job),
        }
    }

    fn admit(&mut self, job: Job) {
        let id = job.id();
        let (slot, key) = job.key();
        if self.read_only.is_some() {
            self.done.push_back((id, Err(KvError::Unrecovered)));
            return;
        }
        match job {
            Job::Store { id, slot, key, options, value } => match self.admit_store(slot, &key, options, value.len()) {
                Ok(old) => {
                    let pooled = value.capacity() as u64;
                    self.stats.store_copied_bytes += value.copied();
                    let content = Content::Value(value.freeze(), pooled);
                    self.start(Change { slot, key, content, origin: Origin::Host(id, old) });
                }
                Err(Refusal::Wait) => self.cramp(Job::Store { id, slot, key, options, value }),
                Err(Refusal::Error(error)) => self.done.push_back((id, Err(error))),
            },
            Job::Delete { .. } => {
                let geometry = self.geometry();
                match self.meta(slot, &key).map(|meta| place::find(&geometry, meta)) {
                    Some(Found::Value(place)) => {
                        let origin = Origin::Host(id, Some(place.len));
                        self.start(Change { slot, key, content: Content::Tombstone, origin });
                    }
                    // What was dropped from a cache comes back with a crash before its group is freed; not after this Delete.
                    // (A tombstone that is there already keeps it away.)
                    None if self.may_come_back(slot) && self.insert_pending(slot, &key) => {
                        self.start(Change { slot, key, content: Content::Tombstone, origin: Origin::Host(id, None) });
                    }
                    _ => self.done.push_back((id, Err(KvError::KeyDoesNotExist))),
                }
            }
        }
    }

    fn start(&mut self, change: Change) {
        self.pending_cost += change.cost();
        self.locks.insert((change.slot, change.key), VecDeque::new());
        self.changes.push_back(change);
    }

    /// Checks a Store and reserves all that it needs; the length of the value that it replaces.
    fn admit_store(&mut self, slot: u16, key: &Key, options: StoreOptions, len: usize) -> Result<Option<u32>, Refusal> {
        let geometry = self.geometry();
        let meta = self.meta(slot, key);
        let old = meta.and_then(|meta| value_len(&geometry, meta));
        if old.is_some() && options.contains(StoreOptions::MUST_NOT_EXIST) {
            return Err(KvError::KeyExists.into());
        }
        if old.is_none() && options.contains(StoreOptions::MUST_EXIST) {
            return Err(KvError::KeyDoesNotExist.into());
        }
        let Some(attached) = self.attached(slot) else { return Err(KvError::NotReady.into()) };
        let len = u32::try_from(len).map_err(|_| KvError::InvalidValueSize)?;
        if len > attached.limits.kvvml || len > self.value_max() {
            return Err(KvError::InvalidValueSize.into());
        }
        let (old_bytes, new_bytes) = (old.map(|old| footprint(key, old)), footprint(key, len));
        let cache = self.mode(slot) == NamespaceMode::Cache;
        let usage = attached.usage.clone();
        let full = |this: &Self| {
            let here = this.namespace(slot).map_or(0, |namespace| namespace.keys);
            let elsewhere = usage.current().keys > here;
            let can_wait = cache && new_bytes <= usage.current().nsze && (elsewhere || this.can_evict());
            if can_wait { Refusal::Wait } else { Refusal::Error(KvError::CapacityExceeded) }
        };
        if !self.has_space(slot, cost(len), cache) || !usage.reserve(old_bytes, new_bytes) {
            return Err(full(self));
        }
        if meta.is_none() && !self.insert_pending(slot, key) {
            usage.cancel(old_bytes, new_bytes);
            return Err(full(self));
        }
        Ok(old)
    }

    /// Whether a record of so much cost may be added to the namespace: the others keep what is reserved for them.
    fn has_space(&self, slot: u16, cost: u64, cache: bool) -> bool {
        let reserved: u64 = (0..)
            .zip(&self.superblock.namespaces)
            .filter(|(other, record)| record.used && *other != slot)
            .map(|(other, record)| record.reservation.saturating_sub(self.namespace(other).map_or(0, |n| n.bytes)))
            .sum();
        let most = self.usable().saturating_sub(reserved);
        // What a cache holds is dropped when the groups run out; only what does not fit at all is too much.
        if cache { cost <= most } else { self.live + self.pending_cost + cost <= most }
    }

    /// Takes a place in the index before the value is on its way, so that a commit always finds room.
    fn insert_pending(&mut self, slot: u16, key: &Key) -> bool {
        let others: u64 = (0..)
            .zip(&self.namespaces)
            .filter(|(other, _)| *other != usize::from(slot))
            .filter_map(|(_, namespace)| namespace.as_ref())
            .map(|namespace| namespace.index.memory())
            .sum();
        let limit = self.config.index_memory.saturating_sub(others);
        let Some(Some(namespace)) = self.namespaces.get_mut(usize::from(slot)) else { return false };
        if namespace.index.memory_limit() != limit {
            namespace.index.set_memory_limit(limit);
        }
        namespace.index.insert(*key, place::pending()).is_ok()
    }

    /// A change, of a host or a move, is durable: the index says so from now on.
    pub(super) fn committed(&mut self, change: &Change, entry: &Entry, group: u32) {
        let geometry = self.geometry();
        let (slot, key) = (change.slot, change.key);
        let new = match &change.content {
            Content::Value(..) => Place { group, location: entry.location, len: entry.len }.meta(&geometry),
            Content::Tombstone => place::tombstone(&geometry, group),
        };
        let cost = change.cost();
        if let Origin::Move(_) = change.origin {
            self.move_ended();
        }
        let Some(Some(namespace)) = self.namespaces.get_mut(usize::from(slot)) else {
            // Destroyed meanwhile: what was stored is dead already.
            self.answer(change, Ok(KvOutcome::Stored));
            return;
        };
        let old = namespace.index.get(&key);
        if let Origin::Move(from) = change.origin
            && old.map(place::without_hits) != Some(from)
        {
            return;
        }
        let fits = namespace.index.insert(key, new).is_ok();
        debug_assert!(fits, "a place was reserved");
        self.revive(group, cost);
        let old = old.map(|meta| place::find(&geometry, meta));
        match old {
            Some(Found::Value(place)) => self.kill(place.group, super::group::cost(place.len)),
            Some(Found::Tombstone(group)) => self.kill(group, ENTRY_COST),
            Some(Found::Pending) | None => {}
        }
        self.stats.records += 1;
        let Origin::Host(..) = change.origin else {
            self.stats.moved_bytes += u64::from(entry.len);
            return;
        };
        self.count(slot, &key, old, &change.content);
        let tier_key = (slot, key);
        if let Some(ahead) = &mut self.ahead {
            ahead.on_retrieve(&tier_key);
        }
        let outcome = match &change.content {
            Content::Value(value, pooled) => {
                self.stats.stored_bytes += value.len() as u64;
                self.tier.insert(tier_key, value.clone(), (*pooled).max(64), Admit::Stored);
                KvOutcome::Stored
            }
            Content::Tombstone => {
                self.tier.remove(&tier_key);
                if matches!(change.origin, Origin::Host(_, None)) {
                    return self.answer(change, Err(KvError::KeyDoesNotExist));
                }
                KvOutcome::Deleted
            }
        };
        self.answer(change, Ok(outcome));
    }

    /// Counts keys and bytes after a host's change.
    fn count(&mut self, slot: u16, key: &Key, old: Option<Found>, content: &Content) {
        let Some(Some(namespace)) = self.namespaces.get_mut(usize::from(slot)) else { return };
        let old = match old {
            Some(Found::Value(place)) => Some(footprint(key, place.len)),
            _ => None,
        };
        namespace.bytes -= old.unwrap_or(0).min(namespace.bytes);
        namespace.keys -= u64::from(old.is_some());
        match content {
            Content::Value(value, _) => {
                let new = footprint(key, value.len() as u32);
                namespace.bytes += new;
                namespace.keys += 1;
                if let Some(attached) = &namespace.attached {
                    attached.usage.commit(old, new);
                }
            }
            Content::Tombstone => {
                if let (Some(attached), Some(old)) = (&namespace.attached, old) {
                    attached.usage.remove(old);
                }
            }
        }
    }

    /// A host's change, or a move, cannot be made: the index stays as it was.
    pub(super) fn failed(&mut self, change: &Change, error: KvError) {
        let (slot, key) = (change.slot, change.key);
        let Origin::Host(_, old) = change.origin else {
            self.move_ended();
            return;
        };
        if let Content::Value(value, _) = &change.content {
            let new = footprint(&key, value.len() as u32);
            if let Some(attached) = self.attached(slot) {
                attached.usage.cancel(old.map(|old| footprint(&key, old)), new);
            }
        }
        let geometry = self.geometry();
        if let Some(Some(namespace)) = self.namespaces.get_mut(usize::from(slot))
            && namespace.index.get(&key).is_some_and(|meta| place::find(&geometry, meta) == Found::Pending)
        {
            namespace.index.remove(&key);
        }
        self.answer(change, Err(error));
    }

    /// Answers a host's change and lets the next one of its key go on.
    fn answer(&mut self, change: &Change, result: kvof_kv::KvResult<SharedBuf>) {
        let Origin::Host(id, _) = change.origin else { return };
        self.pending_cost = self.pending_cost.saturating_sub(change.cost());
        self.done.push_back((id, result));
        let key = (change.slot, change.key);
        let Some(mut waiting) = self.locks.remove(&key) else { return };
        while let Some(job) = waiting.pop_front() {
            self.admit(job);
            // It may have been refused at once; else the others go on waiting, for it.
            if let Some(lock) = self.locks.get_mut(&key) {
                lock.append(&mut waiting);
                return;
            }
            if self.cramped.back().is_some_and(|job| job.key() == key) {
                waiting.drain(..).for_each(|job| self.cramp(job));
                return;
            }
        }
    }

    /// Answers a change that was not started.
    pub(super) fn refuse(&mut self, job: Job, error: KvError) {
        self.done.push_back((job.id(), Err(error)));
        drop(job);
    }

    /// Lets a Store of a cache wait for an eviction, in this shard or another.
    pub(super) fn cramp(&mut self, job: Job) {
        if let Some(attached) = self.attached(job.slot()) {
            attached.usage.wait();
        }
        self.cramped.push_back(job);
    }

    /// All that waits for an eviction; it waits no more.
    pub(super) fn take_cramped(&mut self) -> VecDeque<Job> {
        let jobs = std::mem::take(&mut self.cramped);
        for job in &jobs {
            if let Some(attached) = self.attached(job.slot()) {
                attached.usage.waited();
            }
        }
        jobs
    }

    /// Gives stores that waited for an eviction another try.
    pub(super) fn retry_cramped(&mut self) {
        for job in self.take_cramped() {
            self.change(job);
        }
    }
}

/// Why a Store is not admitted.
#[derive(Debug)]
enum Refusal {
    /// Room will be made for it.
    Wait,
    Error(KvError),
}

impl From<KvError> for Refusal {
    fn from(error: KvError) -> Self {
        Self::Error(error)
    }
}

fn value_len(geometry: &Geometry, meta: Meta) -> Option<u32> {
    match place::find(geometry, meta) {
        Found::Value(place) => Some(place.len),
        Found::Tombstone(_) | Found::Pending => None,
    }
}

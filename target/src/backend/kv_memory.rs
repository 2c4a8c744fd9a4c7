//! A KV namespace in memory: the core that a key's hash picks holds the key and its value.
//!
//! A value is the very buffer that the socket filled, frozen; a Retrieve lends it out, and a Store or Delete meanwhile
//! leaves the lent one as it is. Values of at most [`COPY_MAX`] bytes are copied into memory of their own size instead:
//! the pool deals in pages, and a page for each small value would cost more than the copy.
//!
//! Memory: beside the value a key takes about 64 bytes in the index (17 of key, 32 of buffer handle, and the tree's own).
//! Values in pool buffers may hold [`kv_memory_pool`] of the pool, and never more than [`POOL_SHARE`] of it; the rest stays
//! free for commands in flight. Beyond that the namespace is full, whatever its size says.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kvof_io::{PoolBuf, SharedBuf};
use kvof_kv::{Key, KvError, KvLimits, KvOutcome, KvRequest, ListWriter, OpId, StoreOptions, list::entry_len};

use super::{
    Env, IoError, IoOutcome, Submitted,
    message::{BackendMessage, Body},
    usage::{Usage, footprint},
};
use crate::model::BackendId;

/// Longest value that is copied out of its pool buffer, bytes.
const COPY_MAX: usize = 2048;
/// How much of the pool values may fill: 7/8.
const POOL_SHARE: (usize, usize) = (7, 8);

/// Room for the last pages of values in a namespace too small for its seventh to make up for them.
const POOL_SLACK: u64 = 1 << 20;

/// Bytes of the pool that a KV namespace of `size` bytes in memory may hold, and that are to be added to the pool for it: a
/// seventh more than its size, to make up for whole pages.
#[must_use]
pub const fn kv_memory_pool(size: u64) -> u64 {
    (size / 7 + 1).saturating_mul(8).saturating_add(POOL_SLACK)
}

/// One core's shard.
#[derive(Debug)]
pub(super) struct KvMemory {
    index: BTreeMap<Key, Value>,
    usage: Usage,
    limits: KvLimits,
    room: PoolRoom,
    /// Lists that wait for other cores.
    gathers: BTreeMap<OpId, Gather>,
}

#[derive(Debug)]
struct Value {
    bytes: SharedBuf,
    /// Bytes of the pool behind it.
    pooled: usize,
}

/// Pool memory that all shards of a namespace hold.
#[derive(Clone, Debug)]
pub(super) struct PoolRoom {
    held: Arc<AtomicUsize>,
    most: usize,
}

#[derive(Debug)]
struct Gather {
    max_bytes: u32,
    missing: usize,
    keys: Vec<Key>,
    failed: Option<KvError>,
}

impl PoolRoom {
    /// For a namespace of `size` bytes in a pool of `limit` bytes. However many namespaces share the pool, each keeps to the
    /// part that was added to the pool for it, so that together they leave the rest free.
    pub(super) fn new(limit: usize, size: u64) -> Self {
        let (share, of) = POOL_SHARE;
        let added = usize::try_from(kv_memory_pool(size)).unwrap_or(usize::MAX);
        Self { held: Arc::default(), most: added.min(limit / of * share) }
    }

    fn take(&self, bytes: usize) -> bool {
        let grown = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.most);
        bytes == 0 || self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The core that holds `key`. The hash spreads keys evenly; it is no secret, and a host that picks its keys to meet on
/// one core slows down itself.
fn shard_of(key: &Key, cores: usize) -> usize {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let bytes = u128::from_le_bytes(key.padded());
    // Halves of the padded key and its length, mixed so that the upper bits depend on all.
    let mut hash = (bytes as u64).wrapping_mul(MULTIPLIER);
    hash = (hash.rotate_left(29) ^ (bytes >> 64) as u64 ^ key.len() as u64).wrapping_mul(MULTIPLIER);
    hash ^= hash >> 32;
    usize::try_from((u128::from(hash.wrapping_mul(MULTIPLIER)) * cores as u128) >> 64).unwrap_or(0)
}

impl KvMemory {
    pub(super) fn new(usage: Usage, limits: KvLimits, room: PoolRoom) -> Self {
        Self { index: BTreeMap::new(), usage, limits, room, gathers: BTreeMap::new() }
    }

    /// Runs `request` here or sends it to where its key is.
    pub(super) fn submit(&mut self, env: &mut Env, id: BackendId, op: OpId, request: KvRequest<PoolBuf>) -> Submitted {
        let key = match &request {
            KvRequest::Store { key, .. }
            | KvRequest::Retrieve { key, .. }
            | KvRequest::Delete { key }
            | KvRequest::Exist { key } => *key,
            KvRequest::List { start, max_bytes } if env.cores > 1 => {
                self.scatter(env, id, op, *start, *max_bytes);
                return Submitted::Pending;
            }
            KvRequest::List { .. } => return self.done(request),
        };
        let owner = shard_of(&key, env.cores);
        if owner == env.core {
            return self.done(request);
        }
        env.send(owner, BackendMessage { backend: id, op, body: Body::Request(request) });
        Submitted::Pending
    }

    fn done(&mut self, request: KvRequest<PoolBuf>) -> Submitted {
        Submitted::Done(self.execute(request).map(IoOutcome::Kv).map_err(IoError::Kv))
    }

    /// Runs `request` on this shard alone.
    pub(super) fn execute(&mut self, request: KvRequest<PoolBuf>) -> Result<KvOutcome<SharedBuf>, KvError> {
        match request {
            KvRequest::Store { key, options, value } => self.store(key, options, value),
            KvRequest::Retrieve { key, .. } => {
                let value = self.index.get(&key).ok_or(KvError::KeyDoesNotExist)?;
                Ok(KvOutcome::Retrieved(value.bytes.clone()))
            }
            KvRequest::Delete { key } => {
                let value = self.index.remove(&key).ok_or(KvError::KeyDoesNotExist)?;
                self.usage.remove(footprint(&key, value.bytes.len() as u64));
                self.room.give_back(value.pooled);
                Ok(KvOutcome::Deleted)
            }
            KvRequest::Exist { key } => {
                let value = self.index.get(&key).ok_or(KvError::KeyDoesNotExist)?;
                let len = u32::try_from(value.bytes.len()).map_err(|_| KvError::Internal)?;
                Ok(KvOutcome::Exists { len })
            }
            KvRequest::List { start, max_bytes } => {
                let mut list = ListWriter::new(max_bytes);
                let _ = self.range(start).all(|key| list.push(key));
                Ok(KvOutcome::Listed(list.finish()))
            }
        }
    }

    fn store(&mut self, key: Key, options: StoreOptions, value: PoolBuf) -> Result<KvOutcome<SharedBuf>, KvError> {
        let old = self.index.get(&key);
        check_conditions(options, old.is_some())?;
        if u32::try_from(value.len()).map_or(true, |len| len > self.limits.kvvml) {
            return Err(KvError::InvalidValueSize);
        }
        let old_pooled = old.map_or(0, |old| old.pooled);
        let old = old.map(|old| footprint(&key, old.bytes.len() as u64));
        let new = footprint(&key, value.len() as u64);
        let pooled = if value.len() <= COPY_MAX { 0 } else { value.capacity() };
        if !self.usage.reserve(old, new) {
            return Err(KvError::CapacityExceeded);
        }
        if !self.room.take(pooled) {
            self.usage.cancel(old, new);
            return Err(KvError::CapacityExceeded);
        }
        let bytes = if pooled == 0 { SharedBuf::from_vec(value.to_vec()) } else { value.freeze() };
        self.index.insert(key, Value { bytes, pooled });
        self.usage.commit(old, new);
        self.room.give_back(old_pooled);
        Ok(KvOutcome::Stored)
    }

    fn range(&self, start: Option<Key>) -> impl Iterator<Item = &Key> {
        let from = start.map_or(Bound::Unbounded, Bound::Included);
        self.index.range((from, Bound::Unbounded)).map(|(key, _)| key)
    }

    /// The first keys of this shard, from `start`, that a list of `max_bytes` has room for.
    pub(super) fn keys(&self, start: Option<Key>, max_bytes: u32) -> Vec<Key> {
        let mut room = (max_bytes as usize).saturating_sub(size_of::<u32>());
        self.range(start)
            .take_while(|key| match room.checked_sub(entry_len(key.len())) {
                Some(rest) => {
                    room = rest;
                    true
                }
                None => false,
            })
            .copied()
            .collect()
    }

    fn scatter(&mut self, env: &mut Env, id: BackendId, op: OpId, start: Option<Key>, max_bytes: u32) {
        let here = env.core;
        for core in (0..env.cores).filter(|core| *core != here) {
            env.send(core, BackendMessage { backend: id, op, body: Body::ListKeys { start, max_bytes } });
        }
        let keys = self.keys(start, max_bytes);
        self.gathers.insert(op, Gather { max_bytes, missing: env.cores - 1, keys, failed: None });
    }

    /// Another shard's answer to a List. Each answer holds all of that shard's keys that can be in the list, so the list is
    /// the beginning of their union.
    pub(super) fn gather(&mut self, env: &mut Env, op: OpId, keys: Result<Vec<Key>, KvError>) {
        let Some(gather) = self.gathers.get_mut(&op) else { return };
        match keys {
            Ok(keys) => gather.merge(&keys),
            Err(error) => gather.failed = Some(error),
        }
        gather.missing -= 1;
        if gather.missing > 0 {
            return;
        }
        let Some(gather) = self.gathers.remove(&op) else { return };
        let result = match gather.failed {
            Some(error) => Err(error.into()),
            None => {
                let mut list = ListWriter::new(gather.max_bytes);
                let _ = gather.keys.iter().all(|key| list.push(key));
                Ok(IoOutcome::Kv(KvOutcome::Listed(list.finish())))
            }
        };
        env.done.push_back((op, result));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.gathers.is_empty()
    }
}

impl Gather {
    /// Merges `more` into the keys so far and cuts what the list has no room for, so that memory does not grow with cores.
    fn merge(&mut self, more: &[Key]) {
        let mut room = (self.max_bytes as usize).saturating_sub(size_of::<u32>());
        let mut merged = Vec::with_capacity(self.keys.len().max(more.len()));
        let (mut left, mut right) = (self.keys.iter().peekable(), more.iter().peekable());
        loop {
            let next = match (left.peek(), right.peek()) {
                (Some(l), Some(r)) if l <= r => left.next(),
                (Some(_), None) => left.next(),
                (_, Some(_)) => right.next(),
                (None, None) => None,
            };
            let Some(key) = next else { break };
            let Some(rest) = room.checked_sub(entry_len(key.len())) else { break };
            room = rest;
            merged.push(*key);
        }
        self.keys = merged;
    }
}

/// What Store's conditions say, given whether the key exists.
pub(super) fn check_conditions(options: StoreOptions, exists: bool) -> Result<(), KvError> {
    if exists && options.contains(StoreOptions::MUST_NOT_EXIST) {
        return Err(KvError::KeyExists);
    }
    if !exists && options.contains(StoreOptions::MUST_EXIST) {
        return Err(KvError::KeyDoesNotExist);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_over_cores() {
        for cores in [1, 2, 3, 8, 64] {
            let mut count = vec![0u32; cores];
            for i in 0..6400u32 {
                let key = Key::new(format!("block_{i}").as_bytes()).unwrap();
                count[shard_of(&key, cores)] += 1;
            }
            let fair = 6400 / cores as u32;
            assert!(count.iter().all(|c| *c > fair / 2 && *c < fair * 2), "{cores} cores: {count:?}");
        }
    }
}

//! One core's part of a KV namespace in memory: the engine behind [`KvStore`], without the other cores.
//!
//! A value is the very buffer that the socket filled, frozen; a Retrieve lends it out, and a Store or Delete meanwhile
//! leaves the lent one as it is. Values of at most [`COPY_MAX`] bytes are copied into memory of their own size instead:
//! the pool deals in pages, and a page for each small value would cost more than the copy.
//!
//! Memory: beside the value a key takes about 130 bytes in the index (64 of key and buffer handle, in a table that is between seven
//! sixteenths and seven eighths full, and 25 in the order of keys).
//! Values in pool buffers may hold [`kv_memory_pool`] of the pool, and never more than [`POOL_SHARE`] of it; the rest stays
//! free for commands in flight. Beyond that the namespace is full, whatever its size says.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kvof_io::{Pool, PoolBuf, SharedBuf};
use kvof_kv::{
    Key, KvError, KvLimits, KvOutcome, KvRequest, KvResult, KvStore, KvUsage, ListWriter, OpId, StoreOptions,
    list::entry_len,
};
use kvof_store::usage::{Usage, footprint};

use super::memory_index::MemoryIndex;

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

/// One core's keys and values.
#[derive(Debug)]
pub(super) struct MemoryShard {
    index: MemoryIndex<Value>,
    usage: Usage,
    limits: KvLimits,
    room: PoolRoom,
    pool: Pool,
    /// Results that have not been fetched.
    done: VecDeque<(OpId, KvResult<SharedBuf>)>,
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
        if bytes > 0 {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl MemoryShard {
    pub(super) fn new(usage: Usage, limits: KvLimits, room: PoolRoom, pool: Pool) -> Self {
        Self { index: MemoryIndex::new(), usage, limits, room, pool, done: VecDeque::new() }
    }

    /// A command for `key` comes soon: its place in the index is brought closer.
    pub(super) fn prefetch_key(&self, key: &Key) {
        self.index.prefetch(key);
    }

    /// The same, when its place in the index is there: what its value is held by, and the value's beginning.
    pub(super) fn prefetch_value(&self, key: &Key) {
        if let Some(value) = self.index.get(key) {
            value.bytes.prefetch();
        }
    }

    fn execute(&mut self, request: KvRequest<PoolBuf>) -> KvResult<SharedBuf> {
        match request {
            KvRequest::Store { key, options, value } => self.store(key, options, value),
            KvRequest::Retrieve { key, .. } => {
                let value = self.index.get(&key).ok_or(KvError::KeyDoesNotExist)?;
                Ok(KvOutcome::Retrieved(value.bytes.clone()))
            }
            KvRequest::Delete { key } => {
                let value = self.index.remove(&key).ok_or(KvError::KeyDoesNotExist)?;
                self.usage.remove(footprint(&key, len_of(&value.bytes)));
                self.room.give_back(value.pooled);
                Ok(KvOutcome::Deleted)
            }
            KvRequest::Exist { key } => {
                let value = self.index.get(&key).ok_or(KvError::KeyDoesNotExist)?;
                Ok(KvOutcome::Exists { len: len_of(&value.bytes) })
            }
            KvRequest::List { start, max_bytes } => {
                let mut list = ListWriter::new(max_bytes);
                let _ = self.index.keys(start).all(|key| list.push(key));
                Ok(KvOutcome::Listed(list.finish()))
            }
        }
    }

    fn store(&mut self, key: Key, options: StoreOptions, value: PoolBuf) -> KvResult<SharedBuf> {
        let old = self.index.get(&key);
        check_conditions(options, old.is_some())?;
        if u32::try_from(value.len()).map_or(true, |len| len > self.limits.kvvml) {
            return Err(KvError::InvalidValueSize);
        }
        let old_pooled = old.map_or(0, |old| old.pooled);
        let old = old.map(|old| footprint(&key, len_of(&old.bytes)));
        let new = footprint(&key, len_of(&value));
        let pooled = if value.len() <= COPY_MAX { 0 } else { value.capacity() };
        if !self.usage.reserve(old, new) {
            return Err(KvError::CapacityExceeded);
        }
        if !self.room.take(pooled.saturating_sub(old_pooled)) {
            self.usage.cancel(old, new);
            return Err(KvError::CapacityExceeded);
        }
        let bytes = if pooled == 0 { SharedBuf::from_vec(value.to_vec()) } else { value.freeze() };
        self.index.insert(key, Value { bytes, pooled });
        self.usage.commit(old, new);
        self.room.give_back(old_pooled.saturating_sub(pooled));
        Ok(KvOutcome::Stored)
    }

    /// The first keys of this shard, from `start`, that a list of `max_bytes` has room for.
    pub(super) fn keys(&self, start: Option<Key>, max_bytes: u32) -> Vec<Key> {
        let mut room = (max_bytes as usize).saturating_sub(size_of::<u32>());
        self.index
            .keys(start)
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
}

impl KvStore for MemoryShard {
    type Slot = PoolBuf;
    type Value = SharedBuf;

    fn limits(&self) -> KvLimits {
        self.limits
    }

    fn usage(&self) -> KvUsage {
        self.usage.current()
    }

    fn reserve(&mut self, len: u32) -> Option<PoolBuf> {
        self.pool.alloc(len as usize)
    }

    fn submit(&mut self, id: OpId, request: KvRequest<PoolBuf>) {
        let result = self.execute(request);
        self.done.push_back((id, result));
    }

    fn poll(&mut self) -> Option<(OpId, KvResult<SharedBuf>)> {
        self.done.pop_front()
    }
}

/// Length of a stored value, which is at most KVVML.
fn len_of(value: &[u8]) -> u32 {
    u32::try_from(value.len()).unwrap_or(u32::MAX)
}

/// What Store's conditions say, given whether the key exists.
fn check_conditions(options: StoreOptions, exists: bool) -> Result<(), KvError> {
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
    use kvof_io::PoolConfig;
    use kvof_kv::{
        conformance::{self, RunOptions},
        model::StorePort,
    };

    use super::*;

    #[test]
    fn a_shard_alone_conforms() {
        let limits = KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 0, novg: 4096 };
        let size = 1 << 30;
        let usage = Usage::new(size, limits.mnks);
        let pool = Pool::new(PoolConfig { limit: kv_memory_pool(size) as usize, shards: 1 });
        let shard = MemoryShard::new(usage, limits, PoolRoom::new(pool.limit(), size), pool);
        let port = StorePort::new(shard, 1, 1 << 20, "one shard in memory");
        let mut failed = Vec::new();
        let summary = conformance::run(&port, &RunOptions::default(), &mut |report| {
            if matches!(report.outcome, conformance::Outcome::Failed(_)) {
                failed.push(format!("{report:?}"));
            }
        });
        assert!(summary.ok(), "{failed:#?}");
        assert_eq!(port.with_store(|shard| shard.usage()), KvUsage { nsze: size, nuse: 0, keys: 0 });
    }

    #[test]
    fn a_value_takes_the_place_of_one_of_its_own_size_when_all_room_is_taken() {
        let limits = KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 0, novg: 4096 };
        let pool = Pool::new(PoolConfig { limit: 16 * 4096, shards: 1 });
        let room = PoolRoom::new(pool.limit(), 1 << 20);
        let mut shard = MemoryShard::new(Usage::new(1 << 20, 0), limits, room, pool.clone());
        let mut store = |number: u8, len: usize| {
            let mut value = pool.alloc(len).unwrap();
            value.fill(number);
            shard.store(Key::new(&[number]).unwrap(), StoreOptions::empty(), value)
        };
        // Seven eighths of the pool.
        assert!((0..14).all(|number| matches!(store(number, 4096), Ok(KvOutcome::Stored))));
        assert!(matches!(store(14, 4096), Err(KvError::CapacityExceeded)));
        assert!((0..14).all(|number| matches!(store(number, 4096), Ok(KvOutcome::Stored))));
        assert!(matches!(store(3, 8192), Err(KvError::CapacityExceeded)));
        // A small one lies outside of the pool, and what it leaves is free for another.
        assert!(matches!(store(3, 100), Ok(KvOutcome::Stored)));
        assert!(matches!(store(14, 4096), Ok(KvOutcome::Stored)));
        assert!(matches!(store(15, 4096), Err(KvError::CapacityExceeded)));
        assert_eq!(pool.in_use(), 14 * 4096);
    }
}

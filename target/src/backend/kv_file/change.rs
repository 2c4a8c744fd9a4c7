//! Store and Delete: from the request to the durable record, and from the record that it replaces to free blocks.
//!
//! A change goes through: [lock of its key](KvFile::change) → [checks and reservations](KvFile::start) → blocks →
//! [writes](KvFile::write) → [sync](KvFile::try_sync) → [commit](KvFile::commit), which answers it → erasure of the old
//! record → a later sync → free blocks.

use std::{collections::btree_map::Entry, io, mem};

use kvof_io::PoolBuf;
use kvof_kv::{Key, KvError, KvOutcome, StoreOptions};

use super::{
    Closing, Death, DiskTag, Env, KvFile, Origin, Record, TOMBSTONE_RESERVE,
    format::{BLOCK, Content, Secret, Trailer, crc32c, record_blocks, whole_blocks_len},
};
use crate::backend::{memory_shard::check_conditions, usage::footprint};

/// A change before it is written.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) origin: Origin,
    key: Key,
    action: Action,
    /// The record that it replaces. Set when the change has the key's lock.
    old: Option<usize>,
    /// Bytes that the old record and the new one count for.
    footprints: (Option<u64>, u64),
}

#[derive(Debug)]
enum Action {
    Store(StoreOptions, PoolBuf),
    Delete,
}

/// A change whose record is being written or synced.
#[derive(Debug)]
pub(super) struct Mutation {
    origin: Origin,
    key: Key,
    old: Option<usize>,
    footprints: (Option<u64>, u64),
    sequence: u64,
    first: u64,
    content: Content,
    writes: u32,
    error: Option<io::Error>,
}

/// Something that the next sync makes durable.
#[derive(Debug)]
pub(super) enum Durable {
    /// The record of this mutation.
    Change(usize),
    /// The erasure of a record. That of an undone one is urgent: its key is locked until it is durable.
    Erasure { record: usize, urgent: bool },
}

impl Job {
    pub(super) fn store(origin: Origin, key: Key, options: StoreOptions, value: PoolBuf) -> Self {
        Self { origin, key, action: Action::Store(options, value), old: None, footprints: (None, 0) }
    }

    pub(super) fn delete(origin: Origin, key: Key) -> Self {
        Self { origin, key, action: Action::Delete, old: None, footprints: (None, 0) }
    }
}

impl KvFile {
    /// Does `job` now or when the changes of its key before it are done.
    pub(super) fn change(&mut self, env: &mut Env, job: Job) {
        let key = job.key;
        match self.locks.entry(key) {
            Entry::Occupied(mut waiting) => waiting.get_mut().push_back(job),
            Entry::Vacant(free) => {
                free.insert(Default::default());
                if !self.start(env, job) {
                    self.unlock(env, key);
                }
            }
        }
        self.try_sync(env);
    }

    /// The change of `key` is over: starts those that wait, until one has to wait itself.
    fn unlock(&mut self, env: &mut Env, key: Key) {
        while let Some(job) = self.locks.get_mut(&key).and_then(std::collections::VecDeque::pop_front) {
            if self.start(env, job) {
                return;
            }
        }
        self.locks.remove(&key);
    }

    /// Checks `job`, which has its key's lock, and starts it; false if it is over.
    fn start(&mut self, env: &mut Env, mut job: Job) -> bool {
        if let Err(error) = self.check(&mut job) {
            self.finish(env, job.origin, Err(error));
            return false;
        }
        // What waits for blocks has a right to the next ones; a Delete needs only one of the reserve, and brings blocks.
        let waits = !self.cramped.is_empty() && matches!(job.action, Action::Store(..));
        let Some(job) = (if waits { Some(job) } else { self.write(env, job) }) else { return true };
        if self.may_get_blocks() {
            self.cramped.push_back(job);
            return true;
        }
        self.cancel(&job);
        self.finish(env, job.origin, Err(KvError::CapacityExceeded));
        false
    }

    /// Conditions, limits and the reservation of room.
    fn check(&self, job: &mut Job) -> Result<(), KvError> {
        if self.closing != Closing::Open {
            return Err(KvError::NotReady);
        }
        job.old = self.index.get(&job.key).copied();
        let old_len = job.old.and_then(|old| self.records.get(old)).map(|record| u64::from(record.len));
        job.footprints.0 = old_len.map(|len| footprint(&job.key, len));
        match &job.action {
            Action::Store(options, value) => {
                check_conditions(*options, job.old.is_some())?;
                let len = u32::try_from(value.len()).ok().filter(|len| *len <= self.limits.kvvml);
                let len = len.ok_or(KvError::InvalidValueSize)?;
                if self.failed {
                    return Err(KvError::Unrecovered);
                }
                if record_blocks(len).saturating_add(TOMBSTONE_RESERVE) >= self.superblock.blocks {
                    return Err(KvError::CapacityExceeded);
                }
                job.footprints.1 = footprint(&job.key, u64::from(len));
                if !self.usage.reserve(job.footprints.0, job.footprints.1) {
                    return Err(KvError::CapacityExceeded);
                }
            }
            Action::Delete if job.old.is_none() => return Err(KvError::KeyDoesNotExist),
            Action::Delete if self.failed => return Err(KvError::Unrecovered),
            Action::Delete => {}
        }
        Ok(())
    }

    /// Whether blocks may become free without another command.
    fn may_get_blocks(&self) -> bool {
        !self.failed && (!self.graves.is_empty() || !self.mutations.is_empty())
    }

    /// Gives back what [`Self::check`] has reserved.
    fn cancel(&self, job: &Job) {
        if matches!(job.action, Action::Store(..)) {
            self.usage.cancel(job.footprints.0, job.footprints.1);
        }
    }

    /// Answers a job that has its key's lock, but no blocks, and never will have them.
    pub(super) fn abandon(&mut self, env: &mut Env, job: &Job, error: KvError) {
        self.cancel(job);
        self.finish(env, job.origin, Err(error));
        self.unlock(env, job.key);
    }

    /// Takes blocks and starts to write; the job comes back if there are none.
    fn write(&mut self, env: &mut Env, job: Job) -> Option<Job> {
        let (blocks, keep, content) = match &job.action {
            Action::Store(_, value) => {
                let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
                (record_blocks(len), TOMBSTONE_RESERVE, Content::Value { len, crc: 0 })
            }
            Action::Delete => (1, 0, Content::Tombstone),
        };
        let Some(first) = self.free.allocate(blocks, keep) else { return Some(job) };
        let content = match (&job.action, content) {
            (Action::Store(_, value), Content::Value { len, .. }) => Content::Value { len, crc: crc32c(value) },
            (_, content) => content,
        };
        let durable = self.durable();
        self.sequence += 1;
        let sequence = self.sequence;
        self.unsettled.insert(sequence);
        let Job { origin, key, action, old, footprints } = job;
        let trailer = Trailer { key, sequence, durable, block: first + blocks - 1, content };
        let secret: Secret = self.superblock.secret;
        let mutation = self.mutations.insert(Mutation {
            origin,
            key,
            old,
            footprints,
            sequence,
            first,
            content,
            writes: 1,
            error: None,
        });
        let owner = (self.id, DiskTag::KvWrite(mutation));
        let whole = match action {
            Action::Store(_, value) => {
                let whole_len = whole_blocks_len(value.len());
                let value = value.freeze();
                let end = trailer.encode(secret, value.get(whole_len..).unwrap_or_default());
                env.disk.write(owner, &self.file, first * BLOCK + whole_len as u64, end);
                value.slice(..whole_len).filter(|whole| !whole.is_empty())
            }
            Action::Delete => {
                env.disk.write(owner, &self.file, first * BLOCK, trailer.encode(secret, &[]));
                None
            }
        };
        self.in_flight += 1;
        if let Some(whole) = whole {
            env.disk.write(owner, &self.file, first * BLOCK, whole);
            self.in_flight += 1;
            if let Some(mutation) = self.mutations.get_mut(mutation) {
                mutation.writes += 1;
            }
        }
        None
    }

    pub(super) fn write_done(&mut self, env: &mut Env, index: usize, result: io::Result<()>) {
        let Some(mutation) = self.mutations.get_mut(index) else { return };
        mutation.writes -= 1;
        if let Err(error) = result {
            mutation.error = Some(error);
        }
        if mutation.writes > 0 {
            return;
        }
        if mutation.error.is_none() {
            self.written.push(Durable::Change(index));
        } else {
            self.undo(env, index);
        }
        self.try_sync(env);
    }

    /// A record could not be written: what there is of it is erased, so that it does not count after a restart.
    fn undo(&mut self, env: &mut Env, index: usize) {
        let Some(mutation) = self.mutations.try_remove(index) else { return };
        if let Some(error) = &mutation.error {
            let path = self.file.path().display();
            tracing::error!(%path, key = ?mutation.key, %error, "cannot write a record");
        }
        let (len, crc) = match mutation.content {
            Content::Value { len, crc } => (len, crc),
            // A tombstone is one block, as is the record of an empty value.
            Content::Tombstone => (0, 0),
        };
        let record = Record { first: mutation.first, len, crc, readers: 0, dead: None };
        let record = self.records.insert(record);
        self.bury(env, record, Death { key: mutation.key, undone: Some(mutation.sequence) });
        self.refuse(env, &mutation);
    }

    /// Answers a change that has failed.
    fn refuse(&self, env: &mut Env, mutation: &Mutation) {
        if mutation.content != Content::Tombstone {
            self.usage.cancel(mutation.footprints.0, mutation.footprints.1);
        }
        self.finish(env, mutation.origin, Err(KvError::Unrecovered));
    }

    /// Starts a sync if none is in flight and somebody waits for one.
    pub(super) fn try_sync(&mut self, env: &mut Env) {
        let awaited = |durable: &Durable| !matches!(durable, Durable::Erasure { urgent: false, .. });
        let wanted = !self.cramped.is_empty() || self.written.iter().any(awaited);
        if self.syncing.is_none() && wanted && !self.written.is_empty() {
            self.syncing = Some(mem::take(&mut self.written));
            self.in_flight += 1;
            env.disk.sync((self.id, DiskTag::KvSync), &self.file);
        }
    }

    pub(super) fn sync_done(&mut self, env: &mut Env, result: &io::Result<()>) {
        let batch = self.syncing.take().unwrap_or_default();
        if let Err(error) = result {
            // Which of the writes are on the medium is not known, and no later sync will tell. Nothing that depends on
            // them may be written any more.
            self.fail("sync", error);
        }
        for durable in batch {
            match durable {
                Durable::Change(index) => {
                    let Some(mutation) = self.mutations.try_remove(index) else { continue };
                    if self.failed {
                        self.refuse(env, &mutation);
                        self.unlock(env, mutation.key);
                    } else {
                        self.commit(env, &mutation);
                    }
                }
                Durable::Erasure { record, .. } => self.reclaim(env, record),
            }
        }
        self.retry_cramped(env);
        self.try_sync(env);
    }

    /// The record of `mutation` is durable: it counts now, and the command is answered.
    fn commit(&mut self, env: &mut Env, mutation: &Mutation) {
        self.unsettled.remove(&mutation.sequence);
        let outcome = match mutation.content {
            Content::Value { len, crc } => {
                let record = Record { first: mutation.first, len, crc, readers: 0, dead: None };
                let record = self.records.insert(record);
                self.index.insert(mutation.key, record);
                self.usage.commit(mutation.footprints.0, mutation.footprints.1);
                KvOutcome::Stored
            }
            Content::Tombstone => {
                self.index.remove(&mutation.key);
                self.usage.remove(mutation.footprints.0.unwrap_or(0));
                self.graves.entry(mutation.key).or_default().tombstones.push(mutation.first);
                KvOutcome::Deleted
            }
        };
        self.finish(env, mutation.origin, Ok(outcome));
        if let Some(old) = mutation.old {
            self.bury(env, old, Death { key: mutation.key, undone: None });
        }
        self.unlock(env, mutation.key);
    }

    /// A record does not count any more.
    fn bury(&mut self, env: &mut Env, index: usize, death: Death) {
        let Some(record) = self.records.get_mut(index) else { return };
        self.graves.entry(death.key).or_default().records += 1;
        record.dead = Some(Box::new(death));
        if record.readers == 0 {
            self.erase(env, index);
        }
    }

    /// Overwrites the trailer of a dead record that nobody reads.
    pub(super) fn erase(&mut self, env: &mut Env, index: usize) {
        let Some(record) = self.records.get(index) else { return };
        let block = record.first + record_blocks(record.len) - 1;
        self.in_flight += 1;
        env.disk.write((self.id, DiskTag::KvErase(index)), &self.file, block * BLOCK, self.eraser.clone());
    }

    pub(super) fn erase_done(&mut self, env: &mut Env, index: usize, result: io::Result<()>) {
        let death = self.records.get(index).and_then(|record| record.dead.as_ref());
        let urgent = death.is_some_and(|death| death.undone.is_some());
        match result {
            Ok(()) => self.written.push(Durable::Erasure { record: index, urgent }),
            // The old record might come back after a restart, if the one that replaced it is deleted or fails.
            Err(error) => {
                self.fail("an erasure", &error);
                self.reclaim(env, index);
                self.retry_cramped(env);
            }
        }
        self.try_sync(env);
    }

    /// The erasure of a record is durable: its blocks are free. Or it will never be: then they are lost until a restart.
    fn reclaim(&mut self, env: &mut Env, index: usize) {
        let Some(record) = self.records.try_remove(index) else { return };
        let Some(death) = record.dead else { return };
        if !self.failed {
            self.free.release(record.first, record_blocks(record.len));
            if let Entry::Occupied(mut grave) = self.graves.entry(death.key) {
                grave.get_mut().records -= 1;
                if grave.get().records == 0 {
                    for block in grave.remove().tombstones {
                        self.free.release(block, 1);
                    }
                }
            }
            if let Some(sequence) = death.undone {
                self.unsettled.remove(&sequence);
            }
        }
        if death.undone.is_some() {
            self.unlock(env, death.key);
        }
    }

    /// Gives the changes that wait for blocks another try, Stores in their order. What comes last when there is nothing
    /// left to wait for has come to a full namespace.
    fn retry_cramped(&mut self, env: &mut Env) {
        loop {
            let mut stores_wait = self.failed;
            for job in mem::take(&mut self.cramped) {
                let is_store = matches!(job.action, Action::Store(..));
                let waits = self.failed || is_store && stores_wait;
                if let Some(job) = if waits { Some(job) } else { self.write(env, job) } {
                    stores_wait |= is_store;
                    self.cramped.push_back(job);
                }
            }
            if self.may_get_blocks() {
                return;
            }
            let Some(job) = self.cramped.pop_front() else { return };
            let error = if self.failed { KvError::Unrecovered } else { KvError::CapacityExceeded };
            self.abandon(env, &job, error);
        }
    }
}

//! A KV namespace in one file or on one block device, owned by one core: simple, and safe against crashes.
//!
//! The format is in [`mod@format`]; this is how it is used.
//!
//! * **Nothing that counts is ever overwritten.** A Store writes its record to free blocks; so does a Delete, which writes a
//!   tombstone. Only when that is durable (fdatasync) is the command answered, and only then is the record that it replaces
//!   erased; when the erasure is durable as well, the blocks are free again.
//! * **Group commit.** One sync is in flight at most; all writes that end meanwhile share the next.
//! * **One change of a key at a time.** Commands that change a key which is being changed wait. Those that read it see the
//!   old value until the change is durable.
//! * **Every read is checked** against the CRC-32C in the index. What does not match is answered Unrecovered Error.
//!
//! What this promises: a Store or Delete that was answered survives the end of the process at any point. It survives a loss
//! of power as far as the device keeps its word on flushes. One that was not answered is there entirely or not at all.
//! What it does not promise: a rotten trailer makes its key disappear, and a value among the last few before a crash
//! that rots before the next start is taken for unfinished. A medium that fails a sync or an erasure takes no more changes
//! until the target is restarted, but is still read.
//!
//! Opening reads each block that is not within a value, and an index entry takes about 110 bytes a key. A value costs its
//! length rounded up to 4096 bytes after adding 128, beside what NUSE counts (its length and its key's); a namespace may
//! therefore be full before NUSE reaches its size.

mod alloc;
mod change;
mod format;
mod scan;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    ops::Bound,
    sync::Arc,
};

use kvof_io::{DiskFile, PAGE_SIZE, Pool, PoolBuf, SharedBuf};
use kvof_kv::{Key, KvError, KvLimits, KvOutcome, KvRequest, ListWriter, OpId};
use slab::Slab;

use self::{
    alloc::Allocator,
    change::{Durable, Job, Mutation},
    format::{BLOCK, Content, Superblock, crc32c},
};
use super::{
    DiskResult, Env, IoError, IoOutcome, IoRequest, Origin, Submitted,
    disk::{DiskTag, aligned_block},
    usage::{Usage, footprint},
};
use crate::model::{BackendId, Namespace};

/// Blocks that values leave free, so that a full namespace can still write the tombstones of Delete.
const TOMBSTONE_RESERVE: u64 = 16;

/// Why a file cannot serve as the storage of a KV namespace. The path is named by the error around it.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It is neither empty nor a KV file.
    #[error(
        "it holds other data; name another file or device, or, if what is there can go, make it empty: \
         `blkdiscard -z` or `dd if=/dev/zero bs=128K count=1 conv=notrunc of=` and the path"
    )]
    Foreign,
    /// Made by another version.
    #[error("its format has version {version}, this target has {}; use the target that made it", format::VERSION)]
    Version {
        /// The version found.
        version: u32,
    },
    /// The superblock does not match its checksum.
    #[error("its superblock is damaged (checksum mismatch); restore the file from a copy, or start with an empty one")]
    Corrupt,
    /// The file of another namespace.
    #[error(
        "it belongs to the namespace with UUID {found}, the configuration says {expected}; correct the path or the UUID"
    )]
    OtherNamespace {
        /// UUID in the file.
        found: String,
        /// UUID of the namespace.
        expected: String,
    },
    /// The configured size is below what the file was made for.
    #[error("it was made for {found} bytes, the configuration says {size}; a KV file can grow but not shrink")]
    Shrunk {
        /// Bytes it was made for.
        found: u64,
        /// Bytes configured.
        size: u64,
    },
    /// Too small to be of use.
    #[error("a size of {size} bytes is too small; at least {least} are needed")]
    TooSmall {
        /// Bytes configured.
        size: u64,
        /// Fewest bytes.
        least: u64,
    },
    /// A device with strange blocks.
    #[error("its device wants I/O in multiples of {alignment} bytes; at most 4096 are supported")]
    Alignment {
        /// What the device wants, bytes.
        alignment: usize,
    },
    /// A value could not be read for want of memory.
    #[error("no {len} bytes of memory to read it with; raise the limit of the memory pool, or lower KVVML")]
    NoMemory {
        /// Bytes needed at once.
        len: usize,
    },
    /// A system call failed.
    #[error("cannot {what} it: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl FormatError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// The storage, on the core that owns it.
#[derive(Debug)]
pub(super) struct KvFile {
    id: BackendId,
    file: Arc<DiskFile>,
    superblock: Superblock,
    limits: KvLimits,
    usage: Usage,
    /// Zeros that erase a trailer.
    eraser: SharedBuf,

    /// The keys that exist, and where in `records`.
    index: BTreeMap<Key, usize>,
    records: Slab<Record>,
    free: Allocator,

    /// Last sequence number that was given.
    sequence: u64,
    /// Sequence numbers of records that are neither durable nor durably erased.
    unsettled: BTreeSet<u64>,

    /// Keys that are being changed, and what waits for them.
    locks: BTreeMap<Key, VecDeque<Job>>,
    /// Changes whose records are being written or synced.
    mutations: Slab<Mutation>,
    /// Changes that wait for free blocks, which erasures or other changes may bring.
    cramped: VecDeque<Job>,
    /// Written, and waiting for the next sync.
    written: Vec<Durable>,
    /// What the sync in flight will make durable.
    syncing: Option<Vec<Durable>>,
    /// Keys with dead records whose erasure is not durable yet.
    graves: BTreeMap<Key, Grave>,

    reads: Slab<Read>,
    /// Reads for other cores that wait for memory.
    hungry: VecDeque<(Origin, Key)>,

    /// Disk operations in flight.
    in_flight: usize,
    /// The medium failed: no more changes.
    failed: bool,
    closing: Closing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Closing {
    Open,
    Draining,
    Superblock,
    Done,
}

/// A record on the medium.
#[derive(Debug)]
struct Record {
    first: u64,
    len: u32,
    crc: u32,
    readers: u32,
    /// It does not count any more: to be erased when the last reader is done.
    dead: Option<Box<Death>>,
}

#[derive(Debug)]
struct Death {
    key: Key,
    /// The record's sequence number if it never counted because it could not be written. Its key is locked until then.
    undone: Option<u64>,
}

/// The dead records of a key. Invariant: a tombstone's block is not used again while an older record of its key could
/// come back after a crash.
#[derive(Debug, Default)]
struct Grave {
    records: usize,
    tombstones: Vec<u64>,
}

#[derive(Debug)]
struct Read {
    origin: Origin,
    record: usize,
}

impl KvFile {
    /// Formats or recovers `file`. Blocks.
    pub(super) fn open(ns: &Arc<Namespace>, file: DiskFile, size: u64, pool: &Pool) -> Result<Self, FormatError> {
        let Some((usage, limits)) = Usage::new(ns) else { return Err(FormatError::Foreign) };
        let longest = read_len(limits.kvvml);
        if longest > pool.limit() {
            return Err(FormatError::NoMemory { len: longest });
        }
        let recovered = scan::recover(&file, ns.def.uuid, size, pool)?;
        let mut store = Self {
            id: ns.backend,
            file: Arc::new(file),
            superblock: recovered.superblock,
            limits,
            usage,
            eraser: aligned_block(PAGE_SIZE, |_| {}),
            index: BTreeMap::new(),
            records: Slab::new(),
            free: recovered.free,
            sequence: recovered.sequence,
            unsettled: BTreeSet::new(),
            locks: BTreeMap::new(),
            mutations: Slab::new(),
            cramped: VecDeque::new(),
            written: Vec::new(),
            syncing: None,
            graves: BTreeMap::new(),
            reads: Slab::new(),
            hungry: VecDeque::new(),
            in_flight: 0,
            failed: false,
            closing: Closing::Open,
        };
        let mut used = 0u64;
        for (key, trailer) in recovered.records {
            let (Content::Value { len, crc }, Some(first)) = (trailer.content, trailer.first()) else { continue };
            used = used.saturating_add(footprint(&key, u64::from(len)));
            let record = store.records.insert(Record { first, len, crc, readers: 0, dead: None });
            store.index.insert(key, record);
        }
        store.usage.found(store.index.len() as u64, used);
        Ok(store)
    }

    /// Runs a request of this core.
    pub(super) fn submit(&mut self, env: &mut Env, op: OpId, request: KvRequest<PoolBuf>) -> Submitted {
        if let KvRequest::Retrieve { key, .. } = request
            && (!self.hungry.is_empty() || !self.retrieve(env, Origin::Here(op), key))
        {
            return Submitted::NoMemory(IoRequest::Kv(request));
        }
        if !matches!(request, KvRequest::Retrieve { .. }) {
            self.submit_for(env, Origin::Here(op), request);
        }
        Submitted::Pending
    }

    /// Runs a request of any core.
    pub(super) fn submit_for(&mut self, env: &mut Env, origin: Origin, request: KvRequest<PoolBuf>) {
        match request {
            KvRequest::Store { key, options, value } => {
                self.change(env, Job::store(origin, key, options, value));
            }
            KvRequest::Delete { key } => self.change(env, Job::delete(origin, key)),
            KvRequest::Retrieve { key, .. } => {
                if !self.hungry.is_empty() || !self.retrieve(env, origin, key) {
                    self.hungry.push_back((origin, key));
                    env.hungry += 1;
                }
            }
            KvRequest::Exist { key } => {
                let record = self.index.get(&key).and_then(|record| self.records.get(*record));
                let result = record.map(|record| KvOutcome::Exists { len: record.len });
                self.finish(env, origin, result.ok_or(KvError::KeyDoesNotExist));
            }
            KvRequest::List { start, max_bytes } => {
                let mut list = ListWriter::new(max_bytes);
                let from = start.map_or(Bound::Unbounded, Bound::Included);
                let _ = self.index.range((from, Bound::Unbounded)).all(|(key, _)| list.push(key));
                self.finish(env, origin, Ok(KvOutcome::Listed(list.finish())));
            }
        }
    }

    /// Starts a read, or answers at once; false if there is no memory for it.
    fn retrieve(&mut self, env: &mut Env, origin: Origin, key: Key) -> bool {
        let Some(&index) = self.index.get(&key) else {
            self.finish(env, origin, Err(KvError::KeyDoesNotExist));
            return true;
        };
        let Some(record) = self.records.get_mut(index) else {
            self.finish(env, origin, Err(KvError::Internal));
            return true;
        };
        // A value that has become too long for the pool cannot be waited for.
        if read_len(record.len) > env.pool.limit() {
            self.finish(env, origin, Err(KvError::Internal));
            return true;
        }
        let Some(buf) = env.pool.alloc(read_len(record.len)) else { return false };
        if buf.is_empty() {
            self.finish(env, origin, Ok(KvOutcome::Retrieved(buf.freeze())));
            return true;
        }
        record.readers += 1;
        let offset = record.first * BLOCK;
        let read = self.reads.insert(Read { origin, record: index });
        self.in_flight += 1;
        env.disk.read((self.id, DiskTag::KvRead(read)), &self.file, offset, buf);
        true
    }

    /// Gives reads for other cores that wait for memory another try.
    pub(super) fn retry_hungry(&mut self, env: &mut Env) {
        while let Some(&(origin, key)) = self.hungry.front() {
            if !self.retrieve(env, origin, key) {
                return;
            }
            self.hungry.pop_front();
            env.hungry -= 1;
        }
    }

    pub(super) fn handle_disk(&mut self, env: &mut Env, tag: DiskTag, result: DiskResult) {
        self.in_flight -= 1;
        match (tag, result) {
            (DiskTag::KvRead(read), DiskResult::Read { buf, result }) => self.read_done(env, read, buf, result),
            (DiskTag::KvWrite(mutation), DiskResult::Write { result }) => self.write_done(env, mutation, result),
            (DiskTag::KvErase(record), DiskResult::Write { result }) => self.erase_done(env, record, result),
            (DiskTag::KvSync, DiskResult::Sync { result }) => self.sync_done(env, &result),
            (DiskTag::KvSuperblock, DiskResult::Write { result: Ok(()) }) => {
                self.in_flight += 1;
                env.disk.sync((self.id, DiskTag::KvSuperblock), &self.file);
            }
            (
                DiskTag::KvSuperblock,
                DiskResult::Write { result: Err(error) } | DiskResult::Sync { result: Err(error) },
            ) => {
                tracing::warn!(path = %self.file.path().display(), %error, "closing a KV file");
                self.closing = Closing::Done;
            }
            (DiskTag::KvSuperblock, _) => self.closing = Closing::Done,
            // The reactor answers each operation in kind.
            _ => self.fail("disk I/O", &io::Error::other("mismatched result")),
        }
        self.advance_closing(env);
    }

    fn read_done(&mut self, env: &mut Env, read: usize, mut buf: PoolBuf, result: io::Result<usize>) {
        let Some(Read { origin, record: index }) = self.reads.try_remove(read) else { return };
        let Some(record) = self.records.get_mut(index) else { return };
        record.readers -= 1;
        let (len, crc, offset) = (record.len as usize, record.crc, record.first * BLOCK);
        if record.dead.is_some() && record.readers == 0 {
            self.erase(env, index);
        }
        let path = self.file.path().display();
        let outcome = match result {
            Ok(read) if read >= len => {
                buf.truncate(len);
                if crc32c(&buf) == crc {
                    Ok(KvOutcome::Retrieved(buf.freeze()))
                } else {
                    tracing::error!(%path, offset, len, "a value does not match its checksum");
                    Err(KvError::Unrecovered)
                }
            }
            Ok(read) => {
                tracing::error!(%path, offset, len, read, "the file ends within a value; was it truncated?");
                Err(KvError::Unrecovered)
            }
            Err(error) => {
                tracing::error!(%path, offset, len, %error, "cannot read a value");
                Err(KvError::Unrecovered)
            }
        };
        self.finish(env, origin, outcome);
    }

    /// Answers what waits, lets what is in flight end, and closes the file then.
    pub(super) fn drain(&mut self, env: &mut Env) {
        if self.closing != Closing::Open {
            return;
        }
        self.closing = Closing::Draining;
        for (origin, _) in std::mem::take(&mut self.hungry) {
            env.hungry -= 1;
            self.finish(env, origin, Err(KvError::NotReady));
        }
        for job in std::mem::take(&mut self.cramped) {
            self.abandon(env, &job, KvError::NotReady);
        }
        let waiting: Vec<Job> = self.locks.values_mut().flat_map(std::mem::take).collect();
        for job in waiting {
            self.finish(env, job.origin, Err(KvError::NotReady));
        }
        self.advance_closing(env);
    }

    /// Notes in the superblock, as the last act, that all records are durable.
    fn advance_closing(&mut self, env: &mut Env) {
        if self.closing != Closing::Draining || self.in_flight > 0 {
            return;
        }
        self.superblock.durable = self.durable();
        self.closing = if self.failed { Closing::Done } else { Closing::Superblock };
        if self.closing == Closing::Superblock {
            self.in_flight += 1;
            env.disk.write((self.id, DiskTag::KvSuperblock), &self.file, 0, self.superblock.encode());
        }
    }

    /// Whether the file is closed.
    pub(super) fn is_idle(&self) -> bool {
        self.closing == Closing::Done
    }

    /// Every record up to this sequence number is durable or durably erased.
    fn durable(&self) -> u64 {
        self.unsettled.first().map_or(self.sequence, |first| first - 1)
    }

    fn finish(&self, env: &mut Env, origin: Origin, result: Result<KvOutcome<SharedBuf>, KvError>) {
        env.finish(self.id, origin, result.map(IoOutcome::Kv).map_err(IoError::Kv));
    }

    fn fail(&mut self, what: &str, error: &io::Error) {
        tracing::error!(
            path = %self.file.path().display(), %error,
            "{what} failed: the namespace takes no more changes until the target is restarted"
        );
        self.failed = true;
    }
}

/// Bytes to read for a value of `len` bytes: whole blocks, of which the last is the record's last only where the value does
/// not fill it.
fn read_len(len: u32) -> usize {
    (len as usize).next_multiple_of(PAGE_SIZE)
}

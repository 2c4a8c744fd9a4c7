//! Storage of namespaces: one [`Backends`] for each core, without a lock on the way of a command.
//!
//! | storage | who works | how |
//! |---|---|---|
//! | KV in memory | the core that the key's hash picks | other cores send it the request; List asks all |
//! | KV in a pool | the core of the key's shard, with its volume ([`pool`]) | others send it the request; List and Flush ask all |
//! | NVM in memory | every core | one shared [`Region`](kvof_io::Region) |
//! | NVM in a file | every core | its own ring, on one shared file |
//!
//! Sans-IO: disk requests and messages to other cores come out of `poll_*`, what came of them goes in by `handle_*`. There
//! is no clock and no thread, and everything happens in an order that follows from the order of the calls.
//!
//! Every request is answered exactly once, also when its namespace is detached meanwhile.

mod disk;
mod expect;
mod gather;
mod kv_memory;
mod memory_index;
mod memory_shard;
mod message;
mod nvm_file;
mod nvm_memory;
mod open;
mod pool;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use kvof_io::{DiskFile, Pool, PoolBuf, SharedBuf};
pub use kvof_kv::OpId;
use kvof_kv::{KvError, KvOutcome, KvRequest};
use kvof_spec::Status;
use kvof_store::{
    format::Uuid,
    volume::{AttachError, NamespaceSpec, Volume},
};

use self::{
    disk::{DiskQueue, Owner},
    kv_memory::KvMemory,
    message::Body,
    open::PartKind,
    pool::{Ended, Pooled},
};
pub use self::{
    disk::{DiskRequest, DiskResult},
    memory_shard::kv_memory_pool,
    message::BackendMessage,
    open::{BackendPart, OpenError, namespace_spec, open},
    pool::{DeviceChange, OpenPool, OpenProgress, PoolHandle, PoolId, PoolOpenError, PoolPart, PoolStatus},
};
use crate::{
    model::{BackendId, Namespace},
    namespace::DataOut,
};

/// A request to the storage of a namespace.
#[derive(Debug)]
pub enum IoRequest {
    /// To a KV namespace.
    Kv(KvRequest<PoolBuf>),
    /// Flush, to a KV namespace.
    KvFlush,
    /// To a block namespace.
    Nvm(NvmRequest),
}

/// A request to a block namespace. Offsets and lengths are in bytes, multiples of the block size, within the namespace.
#[derive(Debug)]
pub enum NvmRequest {
    /// Read.
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u32,
    },
    /// Write.
    Write {
        /// First byte.
        offset: u64,
        /// The data.
        data: PoolBuf,
        /// Complete when the data are on the medium.
        fua: bool,
    },
    /// Write zeros.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// The space may be given back as well.
        deallocate: bool,
        /// Complete when the zeros are on the medium.
        fua: bool,
    },
    /// Compare the medium with the data.
    Compare {
        /// First byte.
        offset: u64,
        /// What it should hold.
        data: PoolBuf,
    },
    /// The host has no use for the content of these ranges any more.
    Deallocate {
        /// The ranges; may be empty, overlap, or have no bytes.
        ranges: Vec<ByteRange>,
    },
    /// Put on the medium what has been written.
    Flush,
    /// The data of the command turned out to be wrong: complete with this.
    Refused {
        /// The error.
        status: Status,
    },
}

/// A range of bytes of a block namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// What came of a request that succeeded.
#[derive(Debug)]
pub enum IoOutcome {
    /// KV.
    Kv(KvOutcome<SharedBuf>),
    /// A KV namespace was flushed.
    Flushed,
    /// A block command without data for the host.
    Nvm,
    /// What was read.
    NvmData(DataOut),
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IoError {
    /// KV.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A block command's status.
    #[error("{0}")]
    Nvm(Status),
}

/// What became of a request when it was submitted.
#[derive(Debug)]
pub enum Submitted {
    /// It is done.
    Done(Result<IoOutcome, IoError>),
    /// [`Backends::poll`] will tell.
    Pending,
    /// It needs memory of the pool, and there is none: submit it again when some has come back.
    NoMemory(IoRequest),
}

pub(crate) type IoResult = Result<IoOutcome, IoError>;

/// Who waits for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    /// This core.
    Here(OpId),
    /// Another core, under its own name for the request.
    Core(usize, OpId),
}

/// The storage of all namespaces, as one core sees it.
#[derive(Debug)]
pub struct Backends {
    parts: BTreeMap<BackendId, Part>,
    pools: BTreeMap<PoolId, PoolPart>,
    /// Volumes at rest, of pools that are drained.
    closed: VecDeque<(PoolId, u16, Box<Volume>)>,
    /// The volumes of pools may have something to say.
    stirred: bool,
    env: Env,
}

/// What the storages share on a core.
#[derive(Debug)]
struct Env {
    core: usize,
    cores: usize,
    pool: Pool,
    done: VecDeque<(OpId, IoResult)>,
    disk: DiskQueue,
    outbox: VecDeque<(usize, BackendMessage)>,
}

#[derive(Debug)]
struct Part {
    kind: PartKind,
    /// Takes no more requests; goes when what is in flight has ended.
    detached: bool,
}

impl Backends {
    /// No storage yet, on core `core` (0's based) of `cores`; buffers for reads come from `pool`.
    #[must_use]
    pub fn new(core: usize, cores: usize, pool: Pool) -> Self {
        let env = Env {
            core,
            cores: cores.max(1),
            pool,
            done: VecDeque::new(),
            disk: DiskQueue::default(),
            outbox: VecDeque::new(),
        };
        Self { parts: BTreeMap::new(), pools: BTreeMap::new(), closed: VecDeque::new(), stirred: false, env }
    }

    /// Adds this core's part of a pool, before that of any namespace in it.
    pub fn attach_pool(&mut self, part: PoolPart) {
        self.pools.insert(part.id(), part);
        self.stirred = true;
    }

    /// Serves a namespace from a pool that is here already, under the storage's identifier `id`.
    ///
    /// # Errors
    /// What a volume of this core says.
    pub fn attach_pooled(&mut self, id: BackendId, pool: PoolId, spec: &NamespaceSpec) -> Result<(), PoolAttachError> {
        let part = self.pools.get_mut(&pool).filter(|part| part.is_open()).ok_or(PoolAttachError::Closed)?;
        let slots = part.attach(spec)?;
        let kind = PartKind::Pooled(Pooled::new(pool, spec.durability, slots));
        self.parts.insert(id, Part { kind, detached: false });
        self.stirred = true;
        Ok(())
    }

    /// Takes no more requests for namespaces in the pool, and lets go of its volumes as they come to rest:
    /// [`Self::poll_closed`]. Its namespaces should be detached before.
    pub fn detach_pool(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.drain();
            self.stirred = true;
        }
    }

    /// A volume of a detached pool that is at rest, to be closed by whoever opened it; the pool, and the volume's shard.
    pub fn poll_closed(&mut self) -> Option<(PoolId, u16, Box<Volume>)> {
        self.closed.pop_front()
    }

    /// The device of `member` was taken away (`None`, and `why`), or is there again under this UUID.
    pub fn handle_device(&mut self, pool: PoolId, member: u16, device: Option<(Uuid, Arc<DiskFile>)>, why: &str) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.device(member, device, why);
            self.stirred = true;
        }
    }

    /// Time has passed; `now` counts from any moment that stays the same. To be called every 100 ms at least.
    pub fn handle_time(&mut self, now: Duration) {
        for pool in self.pools.values_mut() {
            pool.handle_time(now);
            self.stirred = true;
        }
    }

    /// Adds this core's part of a storage. All cores must have theirs before hosts see the namespace.
    pub fn attach(&mut self, id: BackendId, part: BackendPart) {
        self.parts.insert(id, Part { kind: part.0, detached: false });
    }

    /// Takes no more requests for the storage `id`, and closes it when those in flight have ended.
    pub fn detach(&mut self, id: BackendId) {
        if let Some(part) = self.parts.get_mut(&id) {
            part.detached = true;
        }
        self.sweep(id);
    }

    /// Submits `request` to the storage `id` of `ns`. `op` must differ from those of all other requests in flight.
    pub fn submit(&mut self, op: OpId, id: BackendId, ns: &Arc<Namespace>, request: IoRequest) -> Submitted {
        let not_ready = |request: &IoRequest| match request {
            IoRequest::Kv(_) | IoRequest::KvFlush => Submitted::Done(Err(KvError::NotReady.into())),
            IoRequest::Nvm(_) => Submitted::Done(Err(IoError::Nvm(Status::NAMESPACE_NOT_READY))),
        };
        let part = match self.parts.get_mut(&id) {
            Some(part) if !part.detached && ns.backend == id => part,
            _ => return not_ready(&request),
        };
        let env = &mut self.env;
        match (&mut part.kind, request) {
            (PartKind::KvMemory(store), IoRequest::Kv(request)) => store.submit(env, id, op, request),
            (PartKind::KvMemory(_), IoRequest::KvFlush) => Submitted::Done(Ok(IoOutcome::Flushed)),
            (PartKind::Pooled(store), request @ (IoRequest::Kv(_) | IoRequest::KvFlush)) => {
                let Some(pool) = self.pools.get_mut(&store.pool()).filter(|pool| pool.is_open()) else {
                    return not_ready(&request);
                };
                self.stirred = true;
                match request {
                    IoRequest::Kv(request) => store.submit(env, pool, id, op, request),
                    _ => store.flush(env, pool, id, op),
                }
            }
            (PartKind::NvmMemory(store), IoRequest::Nvm(request)) => Submitted::Done(store.execute(&request)),
            (PartKind::NvmFile(store), IoRequest::Nvm(request)) => store.submit(env, id, op, request),
            (_, IoRequest::Kv(_) | IoRequest::KvFlush) => Submitted::Done(Err(KvError::Internal.into())),
            (_, IoRequest::Nvm(_)) => Submitted::Done(Err(IoError::Nvm(Status::INTERNAL_ERROR))),
        }
    }

    /// Writes `data` from byte `offset` of the block namespace `ns`, if its storage is memory, which has the result at once; `None`, with no
    /// effect, if it is anything else, or is not served: [`Self::submit`] knows what to say then.
    pub fn write_through(&mut self, ns: &Namespace, offset: u64, data: &[u8]) -> Option<Result<IoOutcome, IoError>> {
        match self.parts.get(&ns.backend)? {
            Part { kind: PartKind::NvmMemory(store), detached: false } => Some(store.write(offset, data)),
            _ => None,
        }
    }

    /// A request that has ended, or `None` if there is none now. Also gives reads that wait for memory of the pool another
    /// try.
    pub fn poll(&mut self) -> Option<(OpId, Result<IoOutcome, IoError>)> {
        if self.env.done.is_empty() {
            self.pump();
        }
        self.env.done.pop_front()
    }

    /// Whether there is something to do here that waits for nobody: [`Self::work`].
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.pools.values().any(PoolPart::has_work)
    }

    /// Does some of it, so little that others can have their turn meanwhile: a few hundred KiB are read.
    pub fn work(&mut self) {
        self.pools.values_mut().for_each(PoolPart::work);
        self.stirred = true;
    }

    /// Whether requests wait here for memory of the pool: [`Self::poll`] is to be called when some has come back.
    #[must_use]
    pub fn wants_memory(&self) -> bool {
        self.pools.values().any(PoolPart::wants_memory)
    }

    /// Whether nothing is under way: no disk operation, no message, no result that has not been fetched, and no pool that
    /// has not come to rest.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let Env { done, outbox, disk, .. } = &self.env;
        done.is_empty() && outbox.is_empty() && disk.is_idle() && self.closed.is_empty() && self.pools.is_empty()
    }

    /// A disk operation to start; its result goes to [`Self::handle_disk`].
    pub fn poll_disk(&mut self) -> Option<DiskRequest> {
        self.env.disk.poll()
    }

    /// The disk operation `token` has ended.
    pub fn handle_disk(&mut self, token: u64, result: DiskResult) {
        match self.env.disk.take(token) {
            Some(Owner::Nvm(id, request)) => {
                if let Some(Part { kind: PartKind::NvmFile(store), .. }) = self.parts.get_mut(&id) {
                    store.handle_disk(&mut self.env, id, request, result);
                }
                self.sweep(id);
            }
            Some(Owner::Volume { pool, shard, token }) => {
                if let Some(pool) = self.pools.get_mut(&pool) {
                    pool.handle_disk(shard, token, result);
                    self.stirred = true;
                }
            }
            None => {}
        }
    }

    /// A message for another core's [`Self::handle_message`], and that core. Messages between two cores must arrive in
    /// order and must not be lost; at most one for each request in flight is under way.
    pub fn poll_message(&mut self) -> Option<(usize, BackendMessage)> {
        self.env.outbox.pop_front()
    }

    /// A message from core `from`.
    pub fn handle_message(&mut self, from: usize, message: BackendMessage) {
        let BackendMessage { backend: id, op, body } = message;
        let env = &mut self.env;
        let part = self.parts.get_mut(&id);
        let origin = Origin::Core(from, op);
        match body {
            Body::Result(result) => env.done.push_back((op, result)),
            Body::Request(request) => match live(part, &mut self.pools) {
                Some(Live::Memory(store)) => {
                    let result = store.execute(op, request);
                    env.finish(id, origin, result.map(IoOutcome::Kv).map_err(IoError::Kv));
                }
                Some(Live::Pooled(store, pool)) => {
                    store.execute(env, pool, id, origin, request);
                    self.stirred = true;
                }
                None => env.finish(id, origin, Err(KvError::NotReady.into())),
            },
            Body::ListKeys { start, max_bytes } => {
                let keys = match live(part, &mut self.pools) {
                    Some(Live::Memory(store)) => Ok(store.keys(start, max_bytes)),
                    Some(Live::Pooled(store, pool)) => Ok(store.keys(pool, start, max_bytes)),
                    None => Err(KvError::NotReady),
                };
                env.send(from, BackendMessage { backend: id, op, body: Body::Keys(keys) });
            }
            Body::Keys(keys) => match part.map(|part| &mut part.kind) {
                Some(PartKind::KvMemory(store)) => store.gather(env, op, keys),
                Some(PartKind::Pooled(store)) => store.gather_keys(env, op, keys),
                _ => {}
            },
            Body::Flush => match live(part, &mut self.pools) {
                Some(Live::Pooled(store, pool)) => {
                    store.flush_for(env, pool, id, (from, op));
                    self.stirred = true;
                }
                Some(Live::Memory(_)) => env.flushed(id, (from, op), Ok(())),
                None => env.flushed(id, (from, op), Err(KvError::NotReady)),
            },
            Body::Flushed(result) => {
                if let Some(PartKind::Pooled(store)) = part.map(|part| &mut part.kind) {
                    store.gather_flush(env, op, result);
                }
            }
        }
        self.sweep(id);
    }

    /// Moves what the volumes have to say.
    fn pump(&mut self) {
        if !self.stirred && !self.wants_memory() {
            return;
        }
        self.stirred = false;
        let mut ended = Vec::new();
        for pool in self.pools.values_mut() {
            pool.pump(&mut self.env.disk, &mut ended);
        }
        for one in ended {
            let (id, answer) = match one {
                Ended::Request(id, origin, result) => {
                    self.env.finish(id, origin, result.map(IoOutcome::Kv).map_err(IoError::Kv));
                    (id, None)
                }
                Ended::Flush(id, Origin::Core(core, op), result) => {
                    self.env.flushed(id, (core, op), result);
                    (id, None)
                }
                Ended::Flush(id, Origin::Here(op), result) => (id, Some((op, result))),
            };
            if let Some(Part { kind: PartKind::Pooled(store), .. }) = self.parts.get_mut(&id) {
                store.ended();
                if let Some((op, result)) = answer {
                    store.gather_flush(&mut self.env, op, result);
                }
            }
            self.sweep(id);
        }
        for (id, pool) in &mut self.pools {
            while let Some((shard, volume)) = pool.poll_closed() {
                self.closed.push_back((*id, shard, volume));
            }
        }
        self.pools.retain(|_, pool| !pool.is_closed());
    }

    /// Drops the storage `id` if it is detached and nothing is in flight.
    fn sweep(&mut self, id: BackendId) {
        let over = self.parts.get(&id).is_some_and(|part| {
            part.detached
                && match &part.kind {
                    PartKind::KvMemory(store) => store.is_idle(),
                    PartKind::Pooled(store) => store.is_idle(),
                    PartKind::NvmFile(store) => store.is_idle(),
                    PartKind::NvmMemory(_) => true,
                }
        });
        if over
            && let Some(Part { kind: PartKind::Pooled(store), .. }) = self.parts.remove(&id)
            && let Some(pool) = self.pools.get_mut(&store.pool())
        {
            store.leave(pool);
            self.stirred = true;
        }
    }
}

/// Storage of keys that takes requests.
enum Live<'a> {
    Memory(&'a mut KvMemory),
    Pooled(&'a mut Pooled, &'a mut PoolPart),
}

fn live<'a>(part: Option<&'a mut Part>, pools: &'a mut BTreeMap<PoolId, PoolPart>) -> Option<Live<'a>> {
    match &mut part.filter(|part| !part.detached)?.kind {
        PartKind::KvMemory(store) => Some(Live::Memory(store)),
        PartKind::Pooled(store) => {
            let pool = pools.get_mut(&store.pool()).filter(|pool| pool.is_open())?;
            Some(Live::Pooled(store, pool))
        }
        PartKind::NvmMemory(_) | PartKind::NvmFile(_) => None,
    }
}

/// Why a namespace cannot be served from a pool that is open.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PoolAttachError {
    /// What a volume says.
    #[error(transparent)]
    Volume(#[from] AttachError),
    /// The pool is on its way out, or a core is.
    #[error("the pool is being closed; try again when it is")]
    Closed,
}

impl Env {
    fn send(&mut self, core: usize, message: BackendMessage) {
        self.outbox.push_back((core, message));
    }

    fn finish(&mut self, id: BackendId, origin: Origin, result: IoResult) {
        match origin {
            Origin::Here(op) => self.done.push_back((op, result)),
            Origin::Core(core, op) => {
                self.send(core, BackendMessage { backend: id, op, body: Body::Result(result) });
            }
        }
    }

    /// Answers another core's Flush.
    fn flushed(&mut self, id: BackendId, (core, op): (usize, OpId), result: Result<(), KvError>) {
        self.send(core, BackendMessage { backend: id, op, body: Body::Flushed(result) });
    }
}

#[cfg(test)]
mod tests;

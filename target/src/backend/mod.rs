//! Storage of namespaces: one [`Backends`] for each core, without a lock on the way of a command.
//!
//! | storage | who works | how |
//! |---|---|---|
//! | KV in memory | the core that the key's hash picks | other cores send it the request; List asks all |
//! | KV in a file | one core, by the namespace's identifier | others send it the request ([`kv_file`]) |
//! | NVM in memory | every core | one shared [`Region`](kvof_io::Region) |
//! | NVM in a file | every core | its own ring, on one shared file |
//!
//! Sans-IO: disk requests and messages to other cores come out of `poll_*`, what came of them goes in by `handle_*`. There
//! is no clock and no thread, and everything happens in an order that follows from the order of the calls.
//!
//! Every request is answered exactly once, also when its namespace is detached meanwhile.

mod disk;
mod kv_file;
mod kv_memory;
mod memory_shard;
mod message;
mod nvm_file;
mod nvm_memory;
mod open;
mod usage;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use kvof_io::{Pool, PoolBuf, SharedBuf};
pub use kvof_kv::OpId;
use kvof_kv::{KvError, KvOutcome, KvRequest};
use kvof_spec::Status;

use self::{disk::DiskQueue, message::Body, open::PartKind};
pub use self::{
    disk::{DiskRequest, DiskResult},
    memory_shard::kv_memory_pool,
    message::BackendMessage,
    open::{BackendPart, OpenError, open},
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
    /// Requests of other cores that wait for memory of the pool.
    hungry: usize,
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
            hungry: 0,
        };
        Self { parts: BTreeMap::new(), env }
    }

    /// Adds this core's part of a storage. All cores must have theirs before hosts see the namespace.
    pub fn attach(&mut self, id: BackendId, part: BackendPart) {
        self.parts.insert(id, Part { kind: part.0, detached: false });
    }

    /// Takes no more requests for the storage `id`, and closes it when those in flight have ended. What waits for another
    /// request is answered Namespace Not Ready.
    pub fn detach(&mut self, id: BackendId) {
        if let Some(part) = self.parts.get_mut(&id) {
            part.detached = true;
            if let PartKind::KvFile(file) = &mut part.kind {
                file.drain(&mut self.env);
            }
        }
        self.sweep(id);
    }

    /// Submits `request` to the storage `id` of `ns`. `op` must differ from those of all other requests in flight.
    pub fn submit(&mut self, op: OpId, id: BackendId, ns: &Arc<Namespace>, request: IoRequest) -> Submitted {
        let not_ready = || match &request {
            IoRequest::Kv(_) => Submitted::Done(Err(KvError::NotReady.into())),
            IoRequest::Nvm(_) => Submitted::Done(Err(IoError::Nvm(Status::NAMESPACE_NOT_READY))),
        };
        let part = match self.parts.get_mut(&id) {
            Some(part) if !part.detached && ns.backend == id => part,
            _ => return not_ready(),
        };
        let env = &mut self.env;
        match (&mut part.kind, request) {
            (PartKind::KvMemory(store), IoRequest::Kv(request)) => store.submit(env, id, op, request),
            (PartKind::KvFile(store), IoRequest::Kv(request)) => store.submit(env, op, request),
            (PartKind::KvFileElsewhere { owner }, IoRequest::Kv(request)) => {
                env.send(*owner, BackendMessage { backend: id, op, body: Body::Request(request) });
                Submitted::Pending
            }
            (PartKind::NvmMemory(store), IoRequest::Nvm(request)) => Submitted::Done(store.execute(&request)),
            (PartKind::NvmFile(store), IoRequest::Nvm(request)) => store.submit(env, id, op, request),
            (_, IoRequest::Kv(_)) => Submitted::Done(Err(KvError::Internal.into())),
            (_, IoRequest::Nvm(_)) => Submitted::Done(Err(IoError::Nvm(Status::INTERNAL_ERROR))),
        }
    }

    /// A request that has ended, or `None` if there is none now. Also gives requests of other cores that wait for memory
    /// of the pool another try.
    pub fn poll(&mut self) -> Option<(OpId, Result<IoOutcome, IoError>)> {
        if self.env.hungry > 0 {
            for part in self.parts.values_mut() {
                if let PartKind::KvFile(store) = &mut part.kind {
                    store.retry_hungry(&mut self.env);
                }
            }
        }
        self.env.done.pop_front()
    }

    /// Whether requests wait here for memory of the pool: [`Self::poll`] is to be called when some has come back.
    #[must_use]
    pub const fn wants_memory(&self) -> bool {
        self.env.hungry > 0
    }

    /// Whether nothing is under way: no disk operation, no message, no result that has not been fetched.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.env.done.is_empty() && self.env.outbox.is_empty() && self.env.disk.is_idle()
    }

    /// A disk operation to start; its result goes to [`Self::handle_disk`].
    pub fn poll_disk(&mut self) -> Option<DiskRequest> {
        self.env.disk.poll()
    }

    /// The disk operation `token` has ended.
    pub fn handle_disk(&mut self, token: u64, result: DiskResult) {
        let Some((id, tag)) = self.env.disk.take(token) else { return };
        if let Some(part) = self.parts.get_mut(&id) {
            match &mut part.kind {
                PartKind::KvFile(store) => store.handle_disk(&mut self.env, tag, result),
                PartKind::NvmFile(store) => store.handle_disk(&mut self.env, id, tag, result),
                PartKind::KvMemory(_) | PartKind::KvFileElsewhere { .. } | PartKind::NvmMemory(_) => {}
            }
        }
        self.sweep(id);
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
        match body {
            Body::Result(result) => env.done.push_back((op, result)),
            Body::Request(request) => match part.filter(|part| !part.detached).map(|part| &mut part.kind) {
                Some(PartKind::KvMemory(store)) => {
                    let result = store.execute(op, request);
                    env.finish(id, Origin::Core(from, op), result.map(IoOutcome::Kv).map_err(IoError::Kv));
                }
                Some(PartKind::KvFile(store)) => store.submit_for(env, Origin::Core(from, op), request),
                _ => env.finish(id, Origin::Core(from, op), Err(KvError::NotReady.into())),
            },
            Body::ListKeys { start, max_bytes } => {
                let keys = match part.filter(|part| !part.detached).map(|part| &mut part.kind) {
                    Some(PartKind::KvMemory(store)) => Ok(store.keys(start, max_bytes)),
                    _ => Err(KvError::NotReady),
                };
                env.send(from, BackendMessage { backend: id, op, body: Body::Keys(keys) });
            }
            Body::Keys(keys) => {
                if let Some(PartKind::KvMemory(store)) = part.map(|part| &mut part.kind) {
                    store.gather(env, op, keys);
                }
            }
        }
        self.sweep(id);
    }

    /// Drops the storage `id` if it is detached and nothing is in flight.
    fn sweep(&mut self, id: BackendId) {
        let over = self.parts.get(&id).is_some_and(|part| {
            part.detached
                && match &part.kind {
                    PartKind::KvMemory(store) => store.is_idle(),
                    PartKind::KvFile(store) => store.is_idle(),
                    PartKind::NvmFile(store) => store.is_idle(),
                    PartKind::KvFileElsewhere { .. } | PartKind::NvmMemory(_) => true,
                }
        });
        if over {
            self.parts.remove(&id);
        }
    }
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
}

#[cfg(test)]
mod tests;

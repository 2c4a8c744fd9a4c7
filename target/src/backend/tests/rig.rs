//! A deterministic machine around a set of [`Backends`]: mailboxes between cores, and a disk that can lose power.
//!
//! The disk keeps two images: what reads see, and what has been synced. In what order messages arrive and operations end
//! is drawn from a seed.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kvof_io::{Pool, PoolConfig, TxQueue};
use kvof_kv::{KvLimits, OpId};
use kvof_store::{
    ec::Profile,
    pool::{FormatOptions, format},
};

use crate::{
    backend::{
        BackendMessage, Backends, DiskRequest, DiskResult, IoOutcome, IoRequest, IoResult, OpenError, OpenPool,
        PoolHandle, PoolId, Submitted, open,
    },
    model::{
        BackendId, Durability, KvStorageDef, Namespace, NamespaceDef, NamespaceKindDef, NamespaceMode, PoolDef,
        PoolLimits, PoolUse, StorageDef,
    },
    namespace::DataOut,
};

pub(super) const LIMITS: KvLimits = KvLimits { kvkml: 16, kvvml: 64 << 10, mnks: 0, novg: 4096 };
const POOL: usize = 32 << 20;

/// splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn chance(&mut self, one_in: usize) -> bool {
        one_in > 0 && self.below(one_in) == 0
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

pub(super) fn kv_namespace(limits: KvLimits, size: u64, storage: KvStorageDef) -> Arc<Namespace> {
    let kind = NamespaceKindDef::Kv { limits, size, storage };
    Namespace::new(NamespaceDef { nsid: 1, uuid: [0x11; 16], nguid: [0x22; 16], kind }, BackendId(5))
}

/// In the pool of the rig.
pub(super) fn pooled(durability: Durability) -> KvStorageDef {
    let (pool, mode) = ("p".to_owned(), NamespaceMode::Store);
    KvStorageDef::Pool(PoolUse { pool, mode, durability, reservation: 0 })
}

/// A pool on new files in `folder`, formatted: `(k, m)` on as many devices, with so many shards.
pub(super) fn new_pool(folder: &Path, (k, m): (u8, u8), shards: u16) -> PoolDef {
    let devices: Vec<PathBuf> = (0..k + m).map(|i| folder.join(format!("d{i}"))).collect();
    let options = FormatOptions {
        profile: Some(Profile::new(k, m).unwrap()),
        shards: Some(shards),
        segment: Some(1 << 20),
        size: Some(u64::from(shards) * (24 << 20)),
        ..FormatOptions::default()
    };
    format(&devices, &options).unwrap();
    PoolDef { name: "p".to_owned(), devices, create: None, limits: new_pool_limits() }
}

pub(super) fn new_pool_limits() -> PoolLimits {
    let (index_memory, scratch) = (64 << 20, 32 << 20);
    PoolLimits { index_memory, tier: 0, scratch, read_ahead: 0, rebuild_rate: 0, scrub_rate: 0 }
}

pub(super) fn nvm_namespace(block_size: u32, size: u64, storage: StorageDef) -> Arc<Namespace> {
    let kind = NamespaceKindDef::Nvm { block_size, size, storage };
    Namespace::new(NamespaceDef { nsid: 1, uuid: [0x11; 16], nguid: [0x22; 16], kind }, BackendId(5))
}

pub(super) fn file(path: &Path) -> StorageDef {
    StorageDef::File { path: path.to_owned() }
}

/// A folder in memory, if there is any: the rig loses power thousands of times, and real syncs take milliseconds.
pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The disk of a machine.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// What reads see.
    pub(super) image: Vec<u8>,
    durable: Vec<u8>,
    /// Writes that have ended and are not in `durable`, oldest first.
    unsynced: VecDeque<(u64, Vec<u8>)>,
    /// How many writes have left `unsynced`.
    synced: usize,
    /// Core, operation, and for a sync the number of writes that it covers.
    pending: Vec<(usize, DiskRequest, usize)>,
    /// One operation in so many fails; 0 for none.
    pub(super) faults: usize,
    /// Reads do not end.
    pub(super) hold_reads: bool,
    pub(super) syncs: usize,
    pub(super) writes: usize,
}

impl Disk {
    fn new(image: Vec<u8>) -> Self {
        Self { durable: image.clone(), image, ..Self::default() }
    }

    fn submit(&mut self, core: usize, request: DiskRequest) {
        self.pending.push((core, request, self.synced + self.unsynced.len()));
    }

    /// Which of the pending operations can end.
    fn ready(&self) -> Vec<usize> {
        let held = |request: &DiskRequest| {
            self.hold_reads && matches!(request, DiskRequest::Read { .. } | DiskRequest::ReadPart { .. })
        };
        (0..self.pending.len()).filter(|i| !held(&self.pending[*i].1)).collect()
    }

    fn complete(&mut self, rng: &mut Rng) -> (usize, u64, DiskResult) {
        let ready = self.ready();
        let (core, request, covered) = self.pending.swap_remove(ready[rng.below(ready.len())]);
        let fault = rng.chance(self.faults).then(|| io::Error::other("injected"));
        match request {
            DiskRequest::Read { offset, mut buf, token, .. } => {
                let start = (offset as usize).min(self.image.len());
                let len = buf.len().min(self.image.len() - start);
                buf[..len].copy_from_slice(&self.image[start..start + len]);
                (core, token, DiskResult::Read { buf, result: fault.map_or(Ok(len), Err) })
            }
            DiskRequest::ReadPart { file, offset, mut buf, token } => {
                let result = fault.map_or_else(|| file.read_at(offset, &mut buf), Err);
                (core, token, DiskResult::ReadPart { buf, result })
            }
            DiskRequest::WritePieces { file, mut offset, bufs, token } => {
                self.writes += 1;
                for piece in &bufs {
                    file.write_at(offset, piece).unwrap();
                    offset += piece.len() as u64;
                }
                (core, token, DiskResult::Write { result: fault.map_or(Ok(()), Err) })
            }
            DiskRequest::Write { offset, buf, token, .. } => {
                assert_eq!(buf.as_ptr() as usize % 4096, 0, "a direct file needs aligned memory");
                self.writes += 1;
                // A write that fails may still have been done, in part.
                if fault.is_none() {
                    self.apply(offset, buf.to_vec());
                } else {
                    for (at, piece) in sectors(offset, &buf).filter(|_| rng.chance(2)).collect::<Vec<_>>() {
                        self.apply(at, piece);
                    }
                }
                (core, token, DiskResult::Write { result: fault.map_or(Ok(()), Err) })
            }
            DiskRequest::Sync { token, .. } => {
                self.syncs += 1;
                if fault.is_none() {
                    while self.synced < covered {
                        let (offset, bytes) = self.unsynced.pop_front().unwrap();
                        self.durable[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
                        self.synced += 1;
                    }
                }
                (core, token, DiskResult::Sync { result: fault.map_or(Ok(()), Err) })
            }
        }
    }

    fn apply(&mut self, offset: u64, bytes: Vec<u8>) {
        self.image[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
        self.unsynced.push_back((offset, bytes));
    }

    /// What is left when the power goes: of each write that was not synced, ended or not, all, nothing or some sectors.
    pub(super) fn crash(&self, rng: &mut Rng) -> Vec<u8> {
        let mut image = self.durable.clone();
        let in_flight = self.pending.iter().filter_map(|(_, request, _)| match request {
            DiskRequest::Write { offset, buf, .. } => Some((*offset, buf.to_vec())),
            _ => None,
        });
        for (offset, bytes) in self.unsynced.iter().cloned().chain(in_flight) {
            let fate = rng.below(3);
            for (at, piece) in sectors(offset, &bytes) {
                if fate == 0 || fate == 1 && rng.chance(2) {
                    image[at as usize..at as usize + piece.len()].copy_from_slice(&piece);
                }
            }
        }
        image
    }
}

fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, Vec<u8>)> + '_ {
    bytes.chunks(512).enumerate().map(move |(i, piece)| (offset + i as u64 * 512, piece.to_vec()))
}

/// A machine.
pub(super) struct Rig {
    pub(super) cores: Vec<Backends>,
    pub(super) ns: Arc<Namespace>,
    /// The pool of the namespace, if it lies in one.
    pub(super) handle: Option<PoolHandle>,
    pub(super) pool: Pool,
    pub(super) disk: Disk,
    pub(super) rng: Rng,
    /// From and to which core.
    mail: BTreeMap<(usize, usize), VecDeque<BackendMessage>>,
    pub(super) done: BTreeMap<u64, IoResult>,
    next_op: u64,
    /// The time: one for each step.
    pub(super) now: u64,
}

impl Rig {
    pub(super) fn new(ns: Arc<Namespace>, cores: usize, seed: u64) -> Result<Self, OpenError> {
        let pool = Pool::new(PoolConfig { limit: POOL, shards: 1 });
        Self::with_pool(ns, cores, seed, pool)
    }

    pub(super) fn with_pool(ns: Arc<Namespace>, cores: usize, seed: u64, pool: Pool) -> Result<Self, OpenError> {
        let parts = open(&ns, cores, &pool)?;
        let disk = ns.def.kind.file().map_or_else(Disk::default, |path| Disk::new(std::fs::read(path).unwrap()));
        let mut backends: Vec<Backends> = (0..cores).map(|core| Backends::new(core, cores, pool.clone())).collect();
        for (one, part) in backends.iter_mut().zip(parts) {
            one.attach(ns.backend, part);
        }
        Ok(Self::around(backends, ns, None, (pool, disk, seed)))
    }

    /// With the namespace in a pool.
    pub(super) fn in_pool(ns: Arc<Namespace>, def: &PoolDef, cores: usize, seed: u64) -> Self {
        Self::in_pool_with(ns, def, cores, seed, Pool::new(PoolConfig { limit: POOL, shards: 1 }))
    }

    pub(super) fn in_pool_with(ns: Arc<Namespace>, def: &PoolDef, cores: usize, seed: u64, pool: Pool) -> Self {
        let mut opened = OpenPool::open(def, PoolId(3), cores, &pool, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
        let parts = opened.attach(&ns).unwrap();
        let (handle, pools) = opened.into_parts();
        let mut backends: Vec<Backends> = (0..cores).map(|core| Backends::new(core, cores, pool.clone())).collect();
        for ((one, pool), part) in backends.iter_mut().zip(pools).zip(parts) {
            one.attach_pool(pool);
            one.attach(ns.backend, part);
        }
        Self::around(backends, ns, Some(handle), (pool, Disk::default(), seed))
    }

    fn around(
        cores: Vec<Backends>,
        ns: Arc<Namespace>,
        handle: Option<PoolHandle>,
        (pool, disk, seed): (Pool, Disk, u64),
    ) -> Self {
        Self {
            cores,
            ns,
            handle,
            pool,
            disk,
            rng: Rng(seed),
            mail: BTreeMap::new(),
            done: BTreeMap::new(),
            next_op: 0,
            now: 0,
        }
    }

    /// Submits on `core`; the request comes back if there is no memory.
    pub(super) fn submit(&mut self, core: usize, request: IoRequest) -> Result<u64, IoRequest> {
        let op = self.next_op;
        let id = self.ns.backend;
        match self.cores[core].submit(OpId(op), id, &self.ns, request) {
            Submitted::Done(result) => {
                self.done.insert(op, result);
            }
            Submitted::Pending => {}
            Submitted::NoMemory(request) => return Err(request),
        }
        self.next_op += 1;
        self.collect();
        Ok(op)
    }

    /// Fetches what the cores have to say.
    pub(super) fn collect(&mut self) {
        for (from, core) in self.cores.iter_mut().enumerate() {
            while let Some((OpId(op), result)) = core.poll() {
                assert!(self.done.insert(op, result).is_none(), "request {op} was answered twice");
            }
            while let Some((to, message)) = core.poll_message() {
                assert_ne!(to, from);
                self.mail.entry((from, to)).or_default().push_back(message);
            }
            while let Some(request) = core.poll_disk() {
                self.disk.submit(from, request);
            }
        }
    }

    /// Lets one thing happen; false if nothing can.
    pub(super) fn step(&mut self) -> bool {
        self.now += 1;
        let boxes: Vec<_> = self.mail.iter().filter(|(_, mail)| !mail.is_empty()).map(|(key, _)| *key).collect();
        let choices = boxes.len() + self.disk.ready().len();
        if choices == 0 {
            return false;
        }
        match boxes.get(self.rng.below(choices)) {
            Some((from, to)) => {
                let message = self.mail.get_mut(&(*from, *to)).unwrap().pop_front().unwrap();
                self.cores[*to].handle_message(*from, message);
            }
            None => {
                let (core, token, result) = self.disk.complete(&mut self.rng);
                self.cores[core].handle_disk(token, result);
            }
        }
        self.collect();
        true
    }

    pub(super) fn settle(&mut self) {
        while self.step() {}
    }

    /// Submits one request and lets everything happen.
    pub(super) fn run(&mut self, core: usize, request: IoRequest) -> IoResult {
        let op = self.submit(core, request).expect("there is memory when nothing is in flight");
        self.settle();
        self.done.remove(&op).expect("a request is answered when nothing is left to happen")
    }

    /// Detaches everything, lets it end, and leaves in the file what is on the disk.
    pub(super) fn close(mut self) -> Vec<u8> {
        for core in &mut self.cores {
            core.detach(self.ns.backend);
        }
        self.collect();
        self.settle();
        if let Some(handle) = &mut self.handle {
            self.cores.iter_mut().for_each(|core| core.detach_pool(handle.id()));
        }
        self.collect();
        self.settle();
        if let Some(mut handle) = self.handle.take() {
            let mut volumes = 0;
            for core in &mut self.cores {
                while let Some((pool, _, volume)) = core.poll_closed() {
                    assert_eq!(pool, handle.id());
                    handle.close(*volume).unwrap();
                    volumes += 1;
                }
            }
            assert_eq!(volumes, handle.status().label.geometry.shards());
        }
        assert!(self.cores.iter().all(Backends::is_idle));
        let image = std::mem::take(&mut self.disk.image);
        self.power_off(&image);
        image
    }

    /// Stops at once, and leaves `image` in the file.
    pub(super) fn power_off(self, image: &[u8]) {
        let path = self.ns.def.kind.file().cloned();
        drop(self);
        if let Some(path) = path {
            std::fs::write(path, image).unwrap();
        }
    }
}

/// The bytes for the host.
pub(super) fn bytes_of(data: &DataOut) -> Vec<u8> {
    let (mut queue, mut bytes) = (TxQueue::new(), Vec::new());
    queue.push(data.clone().into_segment());
    queue.drain_into(&mut bytes);
    bytes
}

/// The bytes that a block namespace read.
pub(super) fn read_bytes(result: IoResult) -> Vec<u8> {
    match result {
        Ok(IoOutcome::NvmData(data)) => bytes_of(&data),
        other => panic!("{other:?}"),
    }
}

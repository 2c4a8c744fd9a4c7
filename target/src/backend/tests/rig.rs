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

use kvof_io::{Pool, PoolConfig};
use kvof_kv::{KvLimits, OpId};

use crate::{
    backend::{
        BackendMessage, Backends, DiskRequest, DiskResult, IoOutcome, IoRequest, IoResult, OpenError, Submitted, open,
    },
    model::{BackendId, Namespace, NamespaceDef, NamespaceKindDef, StorageDef},
    namespace::DataOut,
};

pub(super) const LIMITS: KvLimits = KvLimits { kvkml: 16, kvvml: 64 << 10, mnks: 0, novg: 4096 };
const POOL: usize = 8 << 20;

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

pub(in crate::backend) fn kv_namespace(limits: KvLimits, size: u64, storage: StorageDef) -> Arc<Namespace> {
    let kind = NamespaceKindDef::Kv { limits, size, storage };
    Namespace::new(NamespaceDef { nsid: 1, uuid: [0x11; 16], nguid: [0x22; 16], kind }, BackendId(5))
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
        let held = |request: &DiskRequest| self.hold_reads && matches!(request, DiskRequest::Read { .. });
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
        let disk = path_of(&ns).map_or_else(Disk::default, |path| Disk::new(std::fs::read(path).unwrap()));
        let mut backends = Vec::new();
        for (core, part) in parts.into_iter().enumerate() {
            let mut one = Backends::new(core, cores, pool.clone());
            one.attach(ns.backend, part);
            backends.push(one);
        }
        Ok(Self {
            cores: backends,
            ns,
            pool,
            disk,
            rng: Rng(seed),
            mail: BTreeMap::new(),
            done: BTreeMap::new(),
            next_op: 0,
            now: 0,
        })
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
        assert!(self.cores.iter().all(Backends::is_idle));
        let image = std::mem::take(&mut self.disk.image);
        self.power_off(&image);
        image
    }

    /// Stops at once, and leaves `image` in the file.
    pub(super) fn power_off(self, image: &[u8]) {
        let path = path_of(&self.ns);
        drop(self);
        if let Some(path) = path {
            std::fs::write(path, image).unwrap();
        }
    }
}

fn path_of(ns: &Namespace) -> Option<PathBuf> {
    match &ns.def.kind {
        NamespaceKindDef::Kv { storage, .. } | NamespaceKindDef::Nvm { storage, .. } => match storage {
            StorageDef::File { path } => Some(path.clone()),
            StorageDef::Memory => None,
        },
    }
}

/// The bytes for the host.
pub(super) fn bytes_of(data: &DataOut) -> Vec<u8> {
    match data.to_stable().as_ref().unwrap_or(data) {
        DataOut::Shared(buf) => buf.to_vec(),
        DataOut::Region { .. } => panic!("not stable"),
    }
}

/// The bytes that a block namespace read.
pub(super) fn read_bytes(result: IoResult) -> Vec<u8> {
    match result {
        Ok(IoOutcome::NvmData(data)) => bytes_of(&data),
        other => panic!("{other:?}"),
    }
}

//! A target with one core that works and one that may be slow, and the hosts of its connections.
//!
//! The driver's part is done here: actions are carried out on the host's memory at once, or held until a test lets them go.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use kvof_io::{Pool, PoolConfig, TxQueue};
use kvof_kv::{Key, KvCommand, KvLimits, OpId, RetrieveOptions, StoreOptions};
use kvof_spec::{
    Cqe, IntoBytes, Nqn, Property, SglDescriptor, Sqe, Status,
    fabrics::{CNTLID_DYNAMIC, ConnectCmd, ConnectData, ConnectResult, PropertySetCmd},
    rdma::CmRequest,
};

use super::super::{Action, Connection, RdmaSettings, RemoteSegment, RequestLimits, Segments, check_request};
use crate::{
    backend::{Backends, open},
    control::{QueueTransport, Target, TargetLimits, TransportKind},
    model::{KvStorageDef, NamespaceDef, NamespaceKindDef, StorageDef, SubsystemDef, TargetDef},
    namespace::DataOut,
    queue::{Cx, Landing},
    transport::CloseReason,
};

pub(super) const NQN: &str = "nqn.2024-01.com.example:rdma";
/// A KV namespace.
pub(super) const KV: u32 = 1;
/// A block namespace of 512-byte blocks.
pub(super) const BLOCKS: u32 = 2;
pub(super) const TRANSFER_MAX: u32 = 128 << 20;
pub(super) const LIMITS: RequestLimits = RequestLimits { admin_entries: 32, queue_entries: 128, io_queues: 8 };

/// The host's memory: regions under their keys, each at an address of its own.
#[derive(Debug, Default)]
pub(super) struct Memory {
    regions: BTreeMap<u32, (u64, Vec<u8>)>,
    made: u32,
}

/// A region of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mr {
    pub(super) key: u32,
    pub(super) address: u64,
    pub(super) len: u32,
}

impl Mr {
    pub(super) fn sgl(self) -> SglDescriptor {
        SglDescriptor::keyed(self.address, self.len, self.key, false).unwrap()
    }

    pub(super) fn invalidated(self) -> SglDescriptor {
        SglDescriptor::keyed(self.address, self.len, self.key, true).unwrap()
    }

    /// The part of `len` bytes from `offset` on.
    pub(super) fn part(self, offset: u32, len: u32) -> Self {
        assert!(offset + len <= self.len);
        Self { address: self.address + u64::from(offset), len, ..self }
    }
}

impl Memory {
    pub(super) fn register(&mut self, bytes: Vec<u8>) -> Mr {
        self.made += 1;
        // Keys and addresses that use all their bits.
        let key = self.made.wrapping_mul(0x9e37_79b1);
        let address = u64::MAX - (u64::from(self.made) << 32);
        let len = u32::try_from(bytes.len()).unwrap();
        self.regions.insert(key, (address, bytes));
        Mr { key, address, len }
    }

    pub(super) fn zeros(&mut self, len: u32) -> Mr {
        self.register(vec![0; len as usize])
    }

    /// Registers zeros as `mr` if nothing is registered there any more.
    pub(super) fn renew(&mut self, mr: Mr) {
        self.regions.entry(mr.key).or_insert_with(|| (mr.address, vec![0; mr.len as usize]));
    }

    pub(super) fn bytes(&self, mr: Mr) -> &[u8] {
        let (base, bytes) = &self.regions[&mr.key];
        &bytes[(mr.address - base) as usize..][..mr.len as usize]
    }

    fn place(&mut self, segment: RemoteSegment) -> Result<&mut [u8], &'static str> {
        assert!(segment.len > 0, "an empty segment");
        let (base, bytes) = self.regions.get_mut(&segment.key).ok_or("remote access error")?;
        let start = segment.address.checked_sub(*base).ok_or("remote access error")? as usize;
        bytes.get_mut(start..start + segment.len as usize).ok_or("remote access error")
    }

    fn read(&mut self, segments: &[RemoteSegment]) -> Result<Vec<u8>, &'static str> {
        let mut out = Vec::new();
        for &segment in segments {
            out.extend_from_slice(self.place(segment)?);
        }
        Ok(out)
    }

    fn write(&mut self, mut bytes: &[u8], segments: &[RemoteSegment]) -> Result<(), &'static str> {
        for &segment in segments {
            let (now, later) = bytes.split_at(segment.len as usize);
            self.place(segment)?.copy_from_slice(now);
            bytes = later;
        }
        assert!(bytes.is_empty());
        Ok(())
    }
}

/// A response that the host has got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) cqe: Cqe,
    /// Bytes that were written before.
    pub(super) written: usize,
    pub(super) invalidated: Option<u32>,
}

impl Done {
    pub(super) fn cid(&self) -> u16 {
        self.cqe.cid.get()
    }

    #[track_caller]
    pub(super) fn ok(&self) -> &Self {
        assert_eq!(self.cqe.status(), Status::SUCCESS);
        self
    }

    /// Refused, for good, without data.
    #[track_caller]
    pub(super) fn refused(&self, status: Status) {
        assert_eq!((self.cqe.status(), self.written), (status.with_dnr(), 0));
    }
}

/// One connection, its driver and its host.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conn: Connection,
    pub(super) memory: Memory,
    /// Fetches, and responses, wait until a test lets them go.
    pub(super) hold: (bool, bool),
    pub(super) held: VecDeque<Action>,
    pub(super) done: Vec<Done>,
    /// Set once the connection says that it is over.
    pub(super) closed: Option<CloseReason>,
    transport: QueueTransport,
    woken: Arc<AtomicBool>,
    next_cid: u16,
    qid: u16,
}

/// What is not as usual.
pub(super) struct Options {
    pub(super) pool: usize,
    pub(super) settings: RdmaSettings,
    pub(super) kvvml: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { pool: 64 << 20, settings: RdmaSettings::default(), kvvml: 2 << 20 }
    }
}

pub(super) struct Rig {
    pub(super) target: Arc<Target>,
    pub(super) pool: Pool,
    pub(super) now: Instant,
    pub(super) links: Vec<Link>,
    settings: Arc<RdmaSettings>,
    /// All connections are on the first core; the other has storage.
    cores: [Backends; 2],
    /// The other core does nothing, so that what it has stays with it.
    pub(super) stalled: bool,
}

macro_rules! with_link {
    ($rig:expr, $index:expr, |$link:ident, $cx:ident| $body:expr) => {{
        let index: usize = $index;
        let $link = &mut $rig.links[index];
        let transport = $link.transport.clone();
        #[allow(unused_mut)]
        let mut $cx = Cx {
            now: $rig.now,
            target: &$rig.target,
            backends: &mut $rig.cores[0],
            pool: &$rig.pool,
            transport: &transport,
            op_base: (index as u64) << 32,
            transfer_max: TRANSFER_MAX,
        };
        $body
    }};
}

fn nqn(text: &str) -> Nqn {
    text.parse().unwrap()
}

pub(super) fn definition(kvvml: u32) -> TargetDef {
    let limits = KvLimits { kvkml: 16, kvvml, mnks: 0, novg: 4096 };
    let size = 4 * u64::from(kvvml);
    let namespace =
        |nsid: u32, kind| NamespaceDef { nsid, uuid: [nsid as u8; 16], nguid: [nsid as u8 | 0x80; 16], kind };
    let namespaces = vec![
        namespace(KV, NamespaceKindDef::Kv { limits, size, storage: KvStorageDef::Memory }),
        namespace(BLOCKS, NamespaceKindDef::Nvm { block_size: 512, size: 1 << 20, storage: StorageDef::Memory }),
    ];
    let (serial, model) = ("7".into(), "kvof".into());
    let subsystem = SubsystemDef { nqn: nqn(NQN), serial, model, allowed_hosts: None, namespaces };
    TargetDef { ports: Vec::new(), subsystems: vec![subsystem], referrals: Vec::new(), pools: Vec::new() }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        let now = Instant::now();
        let limits = TargetLimits {
            max_io_queues: LIMITS.io_queues,
            max_queue_size: LIMITS.queue_entries,
            mdts: TRANSFER_MAX,
            in_capsule: options.settings.in_capsule,
            ..TargetLimits::default()
        };
        let target = Target::new(definition(options.kvvml), limits, now).unwrap();
        let pool = Pool::new(PoolConfig { limit: options.pool, shards: 1 });
        let mut cores = [0, 1].map(|core| Backends::new(core, 2, pool.clone()));
        for ns in target.namespaces() {
            for (core, part) in cores.iter_mut().zip(open(&ns, 2, &pool).unwrap()) {
                core.attach(ns.backend, part);
            }
        }
        let settings = Arc::new(options.settings);
        Self { target, pool, now, links: Vec::new(), settings, cores, stalled: false }
    }

    /// A connection for queue `qid` of `entries` entries, established.
    pub(super) fn open(&mut self, qid: u16, entries: u16) -> usize {
        self.open_with(CmRequest::new(qid, entries, entries - 1, 0))
    }

    pub(super) fn open_with(&mut self, request: CmRequest) -> usize {
        let request = check_request(request.as_bytes(), &LIMITS).unwrap();
        let woken = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&woken);
        self.links.push(Link {
            conn: Connection::new(Arc::clone(&self.settings), request, self.now),
            memory: Memory::default(),
            hold: (false, false),
            held: VecDeque::new(),
            done: Vec::new(),
            closed: None,
            transport: QueueTransport {
                kind: TransportKind::Rdma,
                portid: 1,
                local: "192.0.2.1:4420".parse().unwrap(),
                peer: "192.0.2.200:50000".parse().unwrap(),
                wake: Arc::new(move || flag.store(true, Ordering::Release)),
            },
            woken,
            next_cid: 0,
            qid: request.qid,
        });
        self.links.len() - 1
    }

    /// An admin queue with an enabled controller on link 0, and an I/O queue of 128 entries on link 1.
    pub(super) fn connected(options: Options) -> Self {
        let mut rig = Self::with(options);
        let admin = rig.open(0, 32);
        let cntlid = rig.connect(admin, 0, 31, CNTLID_DYNAMIC).unwrap();
        rig.execute(
            admin,
            PropertySetCmd::new(Property::CC, 0x0046_0061).unwrap().into(),
            SglDescriptor::default(),
            &[],
        )
        .ok();
        let io = rig.open(1, 128);
        rig.connect(io, 1, 127, cntlid).unwrap();
        assert_eq!((admin, io), (0, 1));
        rig
    }

    /// Connects in the way of the Linux host: data by a keyed SGL for the admin queue, in the capsule for I/O queues.
    pub(super) fn connect(&mut self, link: usize, qid: u16, sqsize: u16, cntlid: u16) -> Result<u16, Cqe> {
        let data = ConnectData::new([7; 16], cntlid, &nqn(NQN), &nqn("nqn.2024-01.com.example:host"));
        let sqe = ConnectCmd::new(qid, sqsize, 0).to_sqe();
        let done = if self.links[link].qid == 0 {
            let sgl = self.links[link].memory.register(data.as_bytes().to_vec()).sgl();
            self.execute(link, sqe, sgl, &[])
        } else {
            self.execute(link, sqe, SglDescriptor::in_capsule(0, 1024), data.as_bytes())
        };
        if done.cqe.status().is_success() { Ok(ConnectResult(done.cqe.dw0.get()).cntlid()) } else { Err(done.cqe) }
    }

    pub(super) fn capsule(&mut self, link: usize, capsule: &[u8]) {
        self.deliver(link, capsule);
        self.settle();
    }

    /// Gives the connection a message, and looks at nothing that comes of it.
    fn deliver(&mut self, link: usize, capsule: &[u8]) {
        with_link!(self, link, |link, cx| link.conn.handle_capsule(&mut cx, capsule));
    }

    /// Sends a command, and gives its identifier.
    pub(super) fn send(&mut self, link: usize, sqe: Sqe, sgl: SglDescriptor, behind: &[u8]) -> u16 {
        let cid = self.send_only(link, sqe, sgl, behind);
        self.settle();
        cid
    }

    /// The same, and looks at nothing that comes of it.
    pub(super) fn send_only(&mut self, link: usize, sqe: Sqe, sgl: SglDescriptor, behind: &[u8]) -> u16 {
        let cid = self.links[link].next_cid;
        self.links[link].next_cid += 1;
        let sqe = Sqe { cid: cid.into(), sgl1: sgl, ..sqe };
        self.deliver(link, &[sqe.as_bytes(), behind].concat());
        cid
    }

    /// Sends a command, and gives its response, which comes at once.
    #[track_caller]
    pub(super) fn execute(&mut self, link: usize, sqe: Sqe, sgl: SglDescriptor, behind: &[u8]) -> Done {
        let cid = self.send(link, sqe, sgl, behind);
        self.take_done(link, cid).expect("a response")
    }

    pub(super) fn take_done(&mut self, link: usize, cid: u16) -> Option<Done> {
        let done = &mut self.links[link].done;
        let at = done.iter().position(|done| done.cid() == cid)?;
        Some(done.remove(at))
    }

    /// Stores `value` under `key`, out of one region.
    #[track_caller]
    pub(super) fn store(&mut self, link: usize, key: &Key, value: &[u8]) -> Done {
        let sgl = self.links[link].memory.register(value.to_vec()).sgl();
        self.execute(link, store(key, value.len() as u32), sgl, &[])
    }

    /// Retrieves the value of `key` into one region of `len` bytes: the response, and the region's bytes.
    #[track_caller]
    pub(super) fn retrieve(&mut self, link: usize, key: &Key, len: u32) -> (Done, Vec<u8>) {
        let mr = self.links[link].memory.zeros(len);
        let done = self.execute(link, retrieve(key, len), mr.sgl(), &[]);
        (done, self.links[link].memory.bytes(mr).to_vec())
    }

    /// Lets time pass as it does for a driver: with a tick now and then.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = until.min(self.now + Duration::from_millis(100));
            for link in 0..self.links.len() {
                with_link!(self, link, |link, cx| link.conn.handle_tick(&mut cx));
            }
            self.settle();
        }
    }

    /// Moves everything that can move.
    pub(super) fn settle(&mut self) {
        loop {
            let mut moved = false;
            for link in 0..self.links.len() {
                moved |= self.settle_link(link);
            }
            while let Some((_, message)) = self.cores[0].poll_message() {
                self.cores[1].handle_message(0, message);
            }
            if !self.stalled {
                while let Some((_, message)) = self.cores[1].poll_message() {
                    self.cores[0].handle_message(1, message);
                }
            }
            while let Some((OpId(op), outcome)) = self.cores[0].poll() {
                let index = (op & u64::from(u32::MAX)) as usize;
                with_link!(self, (op >> 32) as usize, |link, cx| link.conn.handle_outcome(&mut cx, index, outcome));
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    fn settle_link(&mut self, index: usize) -> bool {
        let mut moved = false;
        with_link!(self, index, |link, cx| {
            if link.woken.swap(false, Ordering::AcqRel) {
                link.conn.handle_wake(&mut cx);
                moved = true;
            }
            if link.conn.is_starved() {
                moved |= link.conn.handle_memory(&mut cx);
            }
        });
        while let Some(action) = self.links[index].conn.poll_action() {
            moved = true;
            check(&action);
            let link = &mut self.links[index];
            assert!(link.closed.is_none(), "an action after the end: {action:?}");
            let hold = match action {
                Action::Fetch { .. } => link.hold.0,
                Action::Respond { .. } => link.hold.1,
            };
            if hold {
                link.held.push_back(action);
            } else {
                self.carry_out(index, action);
            }
        }
        let link = &mut self.links[index];
        if link.closed.is_none()
            && let Some(reason) = link.conn.poll_close()
        {
            link.closed = Some(reason.clone());
            moved = true;
        }
        moved
    }

    /// Lets what is held go, and no more is held.
    pub(super) fn release(&mut self, link: usize) {
        self.links[link].hold = (false, false);
        self.flush(link);
    }

    /// Lets what is held now go.
    pub(super) fn flush(&mut self, link: usize) {
        for action in std::mem::take(&mut self.links[link].held) {
            self.carry_out(link, action);
        }
        self.settle();
    }

    /// What a queue pair in error does with what is under way.
    pub(super) fn fail_held(&mut self, link: usize) {
        for action in std::mem::take(&mut self.links[link].held) {
            match action {
                Action::Fetch { token, landing, .. } => self.fetched(link, token, landing, Err("flushed")),
                Action::Respond { token, .. } => self.links[link].conn.handle_sent(self.now, token),
            }
        }
        self.settle();
    }

    pub(super) fn fetched(&mut self, link: usize, token: u64, landing: Landing, result: Result<(), &'static str>) {
        with_link!(self, link, |link, cx| link.conn.handle_fetched(&mut cx, token, landing, result));
    }

    pub(super) fn carry_out(&mut self, index: usize, action: Action) {
        let now = self.now;
        let link = &mut self.links[index];
        match action {
            Action::Fetch { token, mut landing, segments } => {
                let result = link.memory.read(&segments).map(|bytes| {
                    landing.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
                });
                self.fetched(index, token, landing, result);
            }
            Action::Respond { token, data, cqe, invalidate } => {
                let mut written = 0;
                if let Some((data, segments)) = data {
                    let bytes = bytes_of(&data);
                    if let Err(error) = link.memory.write(&bytes, &segments) {
                        link.conn.handle_sent(now, token);
                        link.conn.handle_end(CloseReason::Rdma(error.to_owned()));
                        return;
                    }
                    written = bytes.len();
                }
                if let Some(key) = invalidate {
                    link.memory.regions.remove(&key);
                }
                link.done.push(Done { cqe, written, invalidated: invalidate });
                link.conn.handle_sent(now, token);
            }
        }
    }

    /// Ends everything, and looks for what is left behind.
    pub(super) fn finish(mut self) {
        self.stalled = false;
        self.settle();
        for link in 0..self.links.len() {
            self.links[link].conn.handle_end(CloseReason::Host);
            self.fail_held(link);
        }
        self.settle();
        for link in &mut self.links {
            assert!(link.conn.is_idle(), "{:?}", link.conn);
            assert!(link.conn.poll_action().is_none());
            assert_eq!(link.conn.queue().busy(), 0);
        }
        self.links.clear();
        let summary = self.target.summary();
        assert_eq!((summary.io_controllers, summary.io_queues), (0, 0));
        for ns in self.target.namespaces() {
            for core in &mut self.cores {
                core.detach(ns.backend);
            }
        }
        assert_eq!(self.pool.in_use(), 0, "memory of the pool is lost");
    }
}

/// What holds for every action.
fn check(action: &Action) {
    let whole = |segments: &Segments, len: usize| {
        assert!(segments.iter().all(|s| s.len > 0 && s.address.checked_add(u64::from(s.len) - 1).is_some()));
        assert_eq!(segments.bytes(), len as u64);
        assert!(len > 0);
    };
    match action {
        Action::Fetch { landing, segments, .. } => whole(segments, landing.as_slice().len()),
        Action::Respond { data, cqe, .. } => {
            if let Some((data, segments)) = data {
                whole(segments, data.len());
                assert!(cqe.status().is_success(), "data and then {}", cqe.status());
            }
        }
    }
}

pub(super) fn bytes_of(data: &DataOut) -> Vec<u8> {
    let (mut queue, mut bytes) = (TxQueue::new(), Vec::new());
    queue.push(data.clone().into_segment());
    queue.drain_into(&mut bytes);
    bytes
}

pub(super) fn key(text: &str) -> Key {
    Key::new(text.as_bytes()).unwrap()
}

pub(super) fn store(key: &Key, len: u32) -> Sqe {
    KvCommand::store(KV, key, StoreOptions::empty(), len).to_sqe(SglDescriptor::default())
}

pub(super) fn retrieve(key: &Key, len: u32) -> Sqe {
    KvCommand::retrieve(KV, key, RetrieveOptions::empty(), len).to_sqe(SglDescriptor::default())
}

/// `len` bytes that differ from place to place and by `seed`.
pub(super) fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| seed.wrapping_mul(31).wrapping_add((i % 251) as u8) ^ (i >> 8) as u8).collect()
}

/// A list of descriptors as it is in a capsule.
pub(super) fn list(descriptors: &[SglDescriptor]) -> Vec<u8> {
    descriptors.as_bytes().to_vec()
}

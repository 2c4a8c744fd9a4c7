//! One target and the hosts around it.
//!
//! What the reactor does is done here too, in the same order but at the fuzzer's pace: bytes in place and beside it,
//! outcomes and messages between cores, memory for those that wait, timers, and the end of connections.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use kvof_io::{Pool, PoolConfig};
use kvof_kv::{Key, KvCommand, KvLimits, RetrieveOptions, StoreOptions};
use kvof_spec::{
    AdminOpcode, Cc, FabricsType, IntoBytes, KvOpcode, Nqn, NvmOpcode, Property, Sqe,
    abort::AbortCmd,
    fabrics::{CNTLID_DYNAMIC, ConnectCmd, ConnectData, FabricsHead, PropertyGetCmd, PropertySetCmd},
    feature::{GetFeaturesCmd, SetFeaturesCmd},
    identify::{Cns, IdentifyCmd},
    log::{GetLogPageCmd, LogId},
    sgl::SglDescriptor,
    tcp::{CapsuleCmd, Digests, H2cData, IcReq},
};
use kvof_target::{
    backend::{self, Backends, OpId},
    control::{QueueTransport, RdmaLimits, Target, TargetLimits, TransportKind},
    model::{KvStorageDef, NamespaceDef, NamespaceKindDef, PortDef, StorageDef, SubsystemDef, TargetDef},
    queue::Cx,
    transport::tcp::{Connection, TcpSettings, TcpTimers},
};

use super::{
    action::{Action, Answer, Command, Damage, Sgl},
    host::{Broken, Host, IN_CAPSULE},
};
use crate::input::{Input, crc32c, pattern};

pub(crate) const TRANSFER_MAX: u32 = 64 << 10;
pub(crate) const KV_SIZE: u64 = 48 << 10;
const CONNECTIONS: usize = 6;
pub(crate) const HOST_ID: [u8; 16] = [0x5a; 16];

/// QID of the admin queue.
pub(crate) const ADMIN: u8 = 0;

/// What a run begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Setup {
    /// Bit 0: two cores. Bits 2:1: CPDA of 0, 3, 15 or 31. Bit 3: one R2T at a time. Bit 4: no header digests.
    /// Bit 5: no data digests. Bit 6: small PDUs. Bit 7: little memory.
    pub(crate) bits: u8,
}

impl Setup {
    pub(super) fn read(input: &mut Input<'_>) -> Self {
        Self { bits: input.u8() }
    }

    /// Puts the setup before a seed's actions.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.push(self.bits);
    }

    const fn has(self, bit: u8) -> bool {
        self.bits >> bit & 1 != 0
    }

    const fn cores(self) -> usize {
        1 + self.has(0) as usize
    }

    fn tcp(self) -> TcpSettings {
        let small = self.has(6);
        TcpSettings {
            in_capsule: IN_CAPSULE,
            maxh2cdata: if small { 4096 } else { 1 << 20 },
            r2t_length: if small { 1000 } else { 16 << 10 },
            r2t_outstanding: if self.has(3) { 1 } else { 4 },
            r2t_window: if small { 20_000 } else { 1 << 20 },
            r2t_window_max: 1 << 20,
            c2h_data: if small { 4096 } else { 1 << 20 },
            cpda: [0, 3, 15, 31][usize::from(self.bits >> 1 & 3)],
            header_digest: !self.has(4),
            data_digest: !self.has(5),
            tx_high_water: 128 << 10,
            timers: TcpTimers::default(),
        }
    }

    /// Values of both KV namespaces, rounded up to pages, fill at most so much, and a command must always go through.
    fn pool(self) -> usize {
        let values = 2 * 2 * KV_SIZE as usize;
        values + TRANSFER_MAX as usize * if self.has(7) { 1 } else { 32 }
    }
}

struct Conn {
    core: usize,
    tcp: Connection,
    transport: QueueTransport,
    woken: Arc<AtomicBool>,
    host: Host,
    /// On the way to the target.
    inbound: VecDeque<u8>,
    piece: usize,
    place: bool,
    listens: bool,
    /// The socket is there.
    open: bool,
    /// The host has closed it.
    closed: bool,
    next_cid: u16,
    /// Data for the R2Ts of Connect commands, by their identifiers.
    connect_data: BTreeMap<u16, Vec<u8>>,
    /// High half of its operations.
    key: u64,
}

pub(super) struct World {
    setup: Setup,
    tcp: Arc<TcpSettings>,
    now: Instant,
    target: Arc<Target>,
    pool: Pool,
    backends: Vec<Backends>,
    conns: Vec<Option<Conn>>,
    keys: u64,
    reloaded: bool,
}

pub(crate) fn nqn(name: u8) -> Nqn {
    match name % 4 {
        0 => "nqn.2024-01.localhost:kvof".parse().unwrap(),
        1 => Nqn::discovery(),
        2 => "nqn.2024-01.localhost:private".parse().unwrap(),
        _ => "nqn.2024-01.localhost:nowhere".parse().unwrap(),
    }
}

pub(crate) fn host_nqn() -> Nqn {
    "nqn.2024-01.localhost:host".parse().unwrap()
}

fn namespace(nsid: u32, kind: NamespaceKindDef) -> NamespaceDef {
    NamespaceDef { nsid, uuid: [nsid as u8; 16], nguid: [nsid as u8 | 0x80; 16], kind }
}

pub(crate) fn definition(with_fourth: bool) -> TargetDef {
    let limits = KvLimits { kvkml: 16, kvvml: TRANSFER_MAX, mnks: 0, novg: 4096 };
    let kv = || NamespaceKindDef::Kv { limits, size: KV_SIZE, storage: KvStorageDef::Memory };
    let nvm = |block_size| NamespaceKindDef::Nvm { block_size, size: 256 << 10, storage: StorageDef::Memory };
    let mut namespaces = vec![namespace(1, kv()), namespace(2, nvm(512)), namespace(3, nvm(4096))];
    if with_fourth {
        namespaces.push(namespace(4, kv()));
    }
    let subsystem = |name, allowed_hosts, namespaces| SubsystemDef {
        nqn: nqn(name),
        serial: "1".into(),
        model: "kvof".into(),
        allowed_hosts,
        namespaces,
    };
    let port =
        PortDef { portid: 1, transport: TransportKind::Tcp, listen: ([127, 0, 0, 1], 4420).into(), advertise: None };
    TargetDef {
        ports: vec![port],
        subsystems: vec![subsystem(0, None, namespaces), subsystem(2, Some(Vec::new()), Vec::new())],
        referrals: Vec::new(),
        pools: Vec::new(),
    }
}

/// Runs `$body` with `$conn` and `$cx`, its surroundings.
macro_rules! with_conn {
    ($world:ident, $index:expr, |$conn:ident, $cx:ident| $body:expr) => {
        if let Some($conn) = &mut $world.conns[$index] {
            let transport = $conn.transport.clone();
            #[allow(unused_mut, reason = "some bodies only read it")]
            let mut $cx = Cx {
                now: $world.now,
                target: &$world.target,
                backends: &mut $world.backends[$conn.core],
                pool: &$world.pool,
                transport: &transport,
                op_base: $conn.key << 32,
                transfer_max: TRANSFER_MAX,
            };
            $body
        }
    };
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let now = Instant::now();
        let limits = TargetLimits {
            max_controllers: 3,
            max_io_queues: 2,
            max_queue_size: 64,
            mdts: TRANSFER_MAX,
            in_capsule: IN_CAPSULE,
            rdma: RdmaLimits::default(),
            association_timeout: Duration::from_secs(120),
        };
        let target = Target::new(definition(false), limits, now).unwrap();
        let pool = Pool::new(PoolConfig { limit: setup.pool(), shards: 1 });
        let cores = setup.cores();
        let mut world = Self {
            setup,
            tcp: Arc::new(setup.tcp()),
            now,
            backends: (0..cores).map(|core| Backends::new(core, cores, pool.clone())).collect(),
            target,
            pool,
            conns: (0..CONNECTIONS).map(|_| None).collect(),
            keys: 0,
            reloaded: false,
        };
        for ns in world.target.namespaces() {
            world.attach(&ns);
        }
        world
    }

    fn attach(&mut self, ns: &Arc<kvof_target::model::Namespace>) {
        let parts = backend::open(ns, self.setup.cores(), &self.pool).unwrap();
        for (backends, part) in self.backends.iter_mut().zip(parts) {
            backends.attach(ns.backend, part);
        }
    }

    pub(super) fn act(&mut self, action: &Action) {
        match action {
            Action::Open(core) => drop(self.open(usize::from(*core))),
            Action::IcReq { conn, hpda, digests, maxr2t, damage } => {
                let icreq = IcReq::new(*hpda, Digests::from_byte(*digests), u32::from(*maxr2t));
                let mut bytes = icreq.as_bytes().to_vec();
                damage.apply(&mut bytes);
                self.send(self.pick(*conn), &bytes);
            }
            Action::Connect { conn, qid, sqsize, kato, cattr, name, cntlid, in_capsule, damage } => {
                let mut cmd = ConnectCmd::new(u16::from(*qid), *sqsize, u32::from(*kato));
                cmd.cattr = *cattr;
                let cntlid = match cntlid {
                    0 if *qid == ADMIN => CNTLID_DYNAMIC,
                    0 => self.controller().unwrap_or(1),
                    any => u16::from(*any),
                };
                let data = ConnectData::new(HOST_ID, cntlid, &nqn(*name), &host_nqn());
                let len = data.as_bytes().len() as u32;
                let sgl =
                    if *in_capsule { SglDescriptor::in_capsule(0, len) } else { SglDescriptor::transport_data(len) };
                let index = self.pick(*conn);
                if let Some(conn) = &mut self.conns[index]
                    && !*in_capsule
                {
                    conn.connect_data.insert(conn.next_cid.wrapping_add(1) | 0x100, data.as_bytes().to_vec());
                }
                let data = if *in_capsule { data.as_bytes() } else { &[] };
                self.send_command(index, cmd.to_sqe(), sgl, 0, data, *damage, false);
            }
            Action::Command { conn, command } => self.command(self.pick(*conn), command),
            Action::RawCommand { conn, sqe } => {
                let sqe = Sqe::from_bytes(sqe);
                let cid = sqe.cid.get().max(1);
                let sgl = sqe.sgl1;
                self.send_command(self.pick(*conn), sqe, sgl, cid, &[], Damage::default(), false);
            }
            Action::Data { conn, which, answer, damage } => self.answer(self.pick(*conn), *which, *answer, *damage),
            Action::Raw { conn, bytes } => self.send(self.pick(*conn), bytes),
            Action::Time(ms) => self.pass(Duration::from_millis(u64::from(*ms))),
            Action::Close(conn) => self.close(self.pick(*conn)),
            Action::Work(steps) => self.work(usize::from(*steps)),
            Action::Drain(conn) => {
                let index = self.pick(*conn);
                with_conn!(self, index, |conn, _cx| conn.tcp.drain());
                self.settle();
            }
            Action::Delivery { conn, piece, place } => {
                let index = self.pick(*conn);
                if let Some(conn) = &mut self.conns[index] {
                    conn.piece = usize::from(*piece).max(1);
                    conn.place = *place;
                }
            }
            Action::Listen { conn, listens } => {
                let index = self.pick(*conn);
                if let Some(conn) = &mut self.conns[index] {
                    conn.listens = *listens;
                    conn.host.deaf |= !*listens;
                }
                self.settle();
            }
            Action::Reload(present) => self.reload(*present),
        }
    }

    /// The connection that `number` means: of those that are open, if there are any.
    fn pick(&self, number: u8) -> usize {
        usize::from(number) % CONNECTIONS
    }

    fn open(&mut self, core: usize) -> Option<usize> {
        let index = self.conns.iter().position(Option::is_none)?;
        let woken = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&woken);
        self.keys += 1;
        self.conns[index] = Some(Conn {
            core: core % self.setup.cores(),
            tcp: Connection::new(Arc::clone(&self.tcp), self.now),
            transport: QueueTransport {
                kind: TransportKind::Tcp,
                portid: 1,
                local: ([127, 0, 0, 1], 4420).into(),
                peer: ([127, 0, 0, 1], 1000).into(),
                wake: Arc::new(move || flag.store(true, Ordering::Release)),
            },
            woken,
            host: Host::new((*self.tcp).clone()),
            inbound: VecDeque::new(),
            piece: usize::MAX,
            place: true,
            listens: true,
            open: true,
            closed: false,
            next_cid: 0,
            connect_data: BTreeMap::new(),
            key: self.keys,
        });
        Some(index)
    }

    /// A controller that some host's admin queue has.
    fn controller(&self) -> Option<u16> {
        let roles = self.conns.iter().flatten().filter(|c| c.open).filter_map(|c| c.host.role);
        roles.filter(|role| role.qid == 0).map(|role| role.cntlid).last()
    }

    fn command(&mut self, index: usize, command: &Command) {
        let sqe = template(command);
        let sgl = match command.sgl {
            Sgl::Transport(len) => SglDescriptor::transport_data(len),
            Sgl::InCapsule(offset, len) => SglDescriptor::in_capsule(u64::from(offset), len),
            Sgl::Raw(identifier, len) => SglDescriptor { identifier, ..SglDescriptor::transport_data(len) },
        };
        let data = pattern(command.what, usize::from(command.capsule));
        let cid = u16::from(command.cid);
        self.send_command(index, sqe, sgl, cid, &data, command.damage, command.bad_digest);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a capsule")]
    fn send_command(
        &mut self,
        index: usize,
        mut sqe: Sqe,
        sgl: SglDescriptor,
        cid: u16,
        data: &[u8],
        damage: Damage,
        bad_digest: bool,
    ) {
        let cpda = self.tcp.cpda;
        let Some(conn) = &mut self.conns[index] else { return };
        conn.next_cid = conn.next_cid.wrapping_add(1);
        sqe.cid = if cid == 0 { conn.next_cid | 0x100 } else { cid }.into();
        sqe.sgl1 = sgl;
        let pdu = CapsuleCmd::new(sqe, data.len() as u32, conn.host.digests, cpda);
        let bytes = frame(pdu.as_bytes(), pdu.ch.pdo, data, conn.host.digests, damage, bad_digest);
        self.send(index, &bytes);
    }

    fn answer(&mut self, index: usize, which: u8, answer: Answer, damage: Damage) {
        let cpda = self.tcp.cpda;
        let Some(conn) = &mut self.conns[index] else { return };
        let Some(asked) = conn.host.r2ts.get(usize::from(which) % conn.host.r2ts.len().max(1)).copied() else { return };
        let most = asked.left.min(self.tcp.maxh2cdata & !3);
        let (mut cid, mut tag, mut offset, mut len, mut last) =
            (asked.cid, asked.tag, asked.offset, most, most == asked.left);
        match answer {
            Answer::Whole | Answer::BadDigest => {}
            Answer::Part(n) => {
                len = u32::from(n).clamp(1, most);
                last = len == asked.left;
            }
            Answer::WrongTag => tag ^= 1,
            Answer::WrongOffset => offset = offset.wrapping_add(4),
            Answer::TooLong => len += 4,
            Answer::WrongCommand => cid ^= 1,
            Answer::EarlyLast => {
                len = len.div_ceil(2);
                last = true;
            }
        }
        let digests = conn.host.digests;
        let pdu = H2cData::new(cid, tag, offset, len, last, digests, cpda);
        let (from, to) = (asked.offset as usize, asked.offset.saturating_add(len) as usize);
        let data = match conn.connect_data.get(&asked.cid).and_then(|data| data.get(from..to)) {
            Some(data) => data.to_vec(),
            None => pattern(cid as u8, len as usize),
        };
        let bytes = frame(pdu.as_bytes(), pdu.ch.pdo, &data, digests, damage, answer == Answer::BadDigest);
        self.send(index, &bytes);
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        let Some(conn) = &mut self.conns[index] else { return };
        if !conn.closed {
            conn.inbound.extend(bytes);
        }
        self.settle();
    }

    fn close(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        conn.closed = true;
        conn.inbound.clear();
        if conn.open {
            conn.tcp.handle_end(None);
        }
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for index in 0..CONNECTIONS {
            with_conn!(self, index, |conn, cx| if conn.open {
                conn.tcp.handle_tick(&mut cx);
            });
        }
        self.settle();
    }

    fn reload(&mut self, present: bool) {
        if present == self.reloaded {
            return;
        }
        self.reloaded = present;
        let plan = self.target.plan(definition(present)).unwrap();
        for ns in plan.attach().to_vec() {
            self.attach(&ns);
        }
        for ns in self.target.apply(plan).unwrap().detached {
            for backends in &mut self.backends {
                backends.detach(ns.backend);
            }
        }
        self.settle();
    }

    /// Lets the storage get so far; connections see up to `steps` outcomes.
    fn work(&mut self, steps: usize) {
        for _ in 0..steps {
            let mut moved = false;
            for core in 0..self.backends.len() {
                while let Some((to, message)) = self.backends[core].poll_message() {
                    self.backends[to].handle_message(core, message);
                    moved = true;
                }
                if let Some((OpId(op), outcome)) = self.backends[core].poll() {
                    let key = op >> 32;
                    let found = self.conns.iter().position(|c| c.as_ref().is_some_and(|c| c.key == key));
                    let index = found.expect("an operation whose connection is gone");
                    with_conn!(self, index, |conn, cx| conn.tcp.handle_outcome(
                        &mut cx,
                        (op & 0xffff_ffff) as usize,
                        outcome
                    ));
                    moved = true;
                }
            }
            self.settle();
            if !moved {
                return;
            }
        }
    }

    /// Moves bytes both ways until nothing moves, and ends connections that are over.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for index in 0..CONNECTIONS {
                moved |= self.settle_one(index);
            }
            if !moved {
                return;
            }
        }
    }

    fn settle_one(&mut self, index: usize) -> bool {
        let mut moved = false;
        with_conn!(self, index, |conn, cx| {
            if conn.woken.swap(false, Ordering::AcqRel) && conn.open {
                conn.tcp.handle_wake(&mut cx);
                moved = true;
            }
            if conn.open {
                moved |= conn.receive(&mut cx);
            }
            if conn.tcp.is_starved() {
                moved |= conn.tcp.handle_memory(&mut cx);
            }
            moved |= conn.transmit();
        });
        let Some(conn) = &mut self.conns[index] else { return moved };
        if conn.open && conn.tcp.poll_close().is_some() {
            conn.open = false;
            conn.host.assert_whole();
            moved = true;
        }
        if !conn.open && conn.tcp.is_idle() {
            assert!(!conn.tcp.is_starved(), "a connection that is over waits for memory");
            self.conns[index] = None;
            moved = true;
        }
        moved
    }

    /// How every connection stands, for people.
    pub(super) fn trace(&self) -> String {
        let conns = self.conns.iter().enumerate().filter_map(|(index, conn)| Some((index, conn.as_ref()?)));
        let lines = conns.map(|(index, conn)| {
            let host = &conn.host;
            format!(
                "{index}: open {}, role {:?}, {} outstanding, {} R2Ts, last {}, broken {:?}, terminated {}",
                conn.open,
                host.role,
                host.outstanding(),
                host.r2ts.len(),
                host.last_status,
                host.broken,
                host.terminated
            )
        });
        lines.collect::<Vec<_>>().join("\n    ")
    }

    /// Ends the run in good order: every command of a connection that is up completes, and nothing is left behind.
    pub(super) fn finish(mut self) {
        self.finish_commands();
        for index in 0..CONNECTIONS {
            self.close(index);
        }
        self.work(usize::MAX);
        assert!(self.conns.iter().all(Option::is_none), "a connection does not end");
        let summary = self.target.summary();
        assert_eq!(
            (summary.io_controllers, summary.discovery_controllers, summary.io_queues),
            (0, 0, 0),
            "{summary:?}"
        );
        self.empty_namespaces();
        assert_eq!(self.pool.in_use(), 0, "pool memory in use with nothing stored and nobody connected");
    }

    fn finish_commands(&mut self) {
        for index in 0..CONNECTIONS {
            let Some(conn) = &mut self.conns[index] else { continue };
            conn.listens = true;
            conn.piece = usize::MAX;
            self.settle();
            // What was begun is brought to its end, however it ends.
            while let Some(conn) = &self.conns[index]
                && conn.open
                && conn.host.is_mid_pdu()
            {
                self.send(index, &[0; 512]);
                self.work(1);
            }
        }
        for round in 0.. {
            assert!(round < 10_000, "commands never end");
            self.work(usize::MAX);
            let index = self
                .conns
                .iter()
                .position(|c| c.as_ref().is_some_and(|c| c.open && c.host.is_good() && !c.host.r2ts.is_empty()));
            let Some(index) = index else { break };
            self.answer(index, 0, Answer::Whole, Damage::default());
        }
        // Completions that hosts would see at the next tick.
        self.pass(Duration::from_millis(1));
        self.work(usize::MAX);
        for conn in self.conns.iter().flatten().filter(|c| c.open) {
            let host = &conn.host;
            if host.is_good() {
                let waiting: Vec<_> = host.commands.values().flatten().filter(|c| !may_wait(&c.sqe)).collect();
                assert!(waiting.is_empty(), "commands without completion: {waiting:?}; {:?}", conn.tcp);
                assert_eq!(conn.tcp.queue().busy(), 0, "the queue counts commands that nobody sent");
            } else if !host.terminated && host.broken != Some(Broken::HostTerm) && !host.deaf {
                panic!("the host broke the protocol and got no C2HTermReq: {:?}; {:?}", host.broken, conn.tcp);
            }
        }
    }

    /// A new host finds a target that works, and deletes everything.
    fn empty_namespaces(&mut self) {
        let admin = self.connect(0);
        let enable = PropertySetCmd::new(Property::CC, u64::from(enable().0)).unwrap();
        self.execute(admin, enable.to_sqe(), &[]);
        let io = self.connect(1);
        let nsids = if self.reloaded { &[1, 4][..] } else { &[1] };
        for &nsid in nsids {
            loop {
                let listed = self.execute(
                    io,
                    KvCommand::list(nsid, None, 4096).to_sqe(SglDescriptor::transport_data(4096)),
                    &[],
                );
                let list = kvof_kv::ListReader::new(&listed).unwrap();
                let keys: Vec<Key> = list.map(|key| key.expect("a list without faults")).collect();
                if keys.is_empty() {
                    break;
                }
                for key in keys {
                    let none = SglDescriptor::transport_data(0);
                    self.execute(io, KvCommand::delete(nsid, &key).to_sqe(none), &[]);
                }
            }
        }
        self.close(io);
        self.close(admin);
        self.work(usize::MAX);
        assert!(self.conns.iter().all(Option::is_none));
    }

    fn connect(&mut self, qid: u8) -> usize {
        let index = self.open(usize::from(qid)).expect("all connections are closed");
        let conn = index as u8;
        self.act(&Action::IcReq { conn, hpda: 0, digests: 0, maxr2t: 0, damage: Damage::default() });
        self.act(&Action::Connect {
            conn,
            qid,
            sqsize: 31,
            kato: 0,
            cattr: 0,
            name: 0,
            cntlid: 0,
            in_capsule: true,
            damage: Damage::default(),
        });
        assert!(self.conns[index].as_ref().is_some_and(|c| c.host.role.is_some()), "a good host cannot connect");
        index
    }

    /// Runs one command of a good host, and gives what it got.
    fn execute(&mut self, index: usize, sqe: Sqe, data: &[u8]) -> Vec<u8> {
        let sgl = sqe.sgl1;
        if let Some(conn) = &mut self.conns[index] {
            conn.host.last_data.clear();
        }
        self.send_command(index, sqe, sgl, 0, data, Damage::default(), false);
        self.work(usize::MAX);
        let conn = self.conns[index].as_ref().expect("a good host's connection is closed");
        assert_eq!(conn.host.outstanding(), 0, "a good host's command does not complete: {sqe:?}");
        assert!(conn.host.last_status.is_success(), "a good host's command fails: {sqe:?}: {}", conn.host.last_status);
        conn.host.last_data.clone()
    }
}

impl Conn {
    /// Gives the target bytes as long as it wants some.
    fn receive(&mut self, cx: &mut Cx<'_>) -> bool {
        let mut moved = false;
        self.tcp.resume(cx);
        while !self.inbound.is_empty() && self.tcp.wants_receive() {
            let n = self.inbound.len().min(self.piece);
            let bytes: Vec<u8> = self.inbound.drain(..n).collect();
            let mut placed = 0;
            if self.place
                && let Some(place) = self.tcp.recv_place()
            {
                placed = place.len().min(n);
                place[..placed].copy_from_slice(&bytes[..placed]);
            }
            self.host.handle_sent(&bytes);
            self.tcp.handle_received(cx, placed, &bytes[placed..]);
            self.tcp.resume(cx);
            moved = true;
        }
        moved
    }

    fn transmit(&mut self) -> bool {
        let pending = self.tcp.tx().pending();
        let busy = usize::from(self.tcp.queue().sqsize()) * (TRANSFER_MAX as usize + 4096);
        assert!(pending <= (128 << 10) + busy, "{pending} bytes wait to be sent");
        if !self.listens || pending == 0 || !self.open {
            return false;
        }
        let mut bytes = Vec::new();
        self.tcp.tx().drain_into(&mut bytes);
        assert_eq!(bytes.len(), pending);
        let now = Instant::now();
        self.tcp.handle_sent(now, kvof_io::Sent { bytes: bytes.len(), would_block: false });
        self.host.handle_received(&bytes);
        true
    }
}

impl Damage {
    fn apply(self, header: &mut [u8]) {
        let len = header.len();
        if self.xor != 0
            && let Some(byte) = header.get_mut(usize::from(self.offset) % len.max(1))
        {
            *byte ^= self.xor;
        }
    }
}

/// A PDU as it is on the wire.
fn frame(header: &[u8], pdo: u8, data: &[u8], digests: Digests, damage: Damage, bad_digest: bool) -> Vec<u8> {
    let mut header = header.to_vec();
    let early = crc32c(&header);
    damage.apply(&mut header);
    let mut bytes = header.clone();
    if digests.header {
        bytes.extend(if damage.late { early } else { crc32c(&header) });
    }
    if !data.is_empty() {
        bytes.resize(usize::from(pdo).max(bytes.len()), 0);
        bytes.extend(data);
        if digests.data {
            let [a, b, c, d] = crc32c(data);
            bytes.extend([a ^ u8::from(bad_digest), b, c, d]);
        }
    }
    bytes
}

/// Whether a command may stay without a completion.
pub(crate) fn may_wait(sqe: &Sqe) -> bool {
    sqe.opcode == AdminOpcode::ASYNC_EVENT_REQUEST.0
}

pub(crate) fn enable() -> Cc {
    Cc::default().with_en(true).with_css(Cc::CSS_IOCS).with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16)
}

/// Kinds of [`Command`], for seeds.
pub(crate) mod kinds {
    /// Property Set of CC: `options` 0 enables, 1 disables, 2 shuts down, others set that value.
    pub(crate) const ENABLE: u8 = 0;
    /// KV Store.
    pub(crate) const STORE: u8 = 1;
    /// KV Retrieve.
    pub(crate) const RETRIEVE: u8 = 2;
    /// KV Delete.
    pub(crate) const DELETE: u8 = 3;
    /// KV Exist.
    pub(crate) const EXIST: u8 = 4;
    /// KV List.
    pub(crate) const LIST: u8 = 5;
    /// NVM Read.
    pub(crate) const READ: u8 = 6;
    /// NVM Write.
    pub(crate) const WRITE: u8 = 7;
    /// NVM Compare.
    pub(crate) const COMPARE: u8 = 8;
    /// NVM Write Zeroes.
    pub(crate) const WRITE_ZEROES: u8 = 9;
    /// NVM Dataset Management.
    pub(crate) const DATASET_MANAGEMENT: u8 = 10;
    /// Flush.
    pub(crate) const FLUSH: u8 = 11;
    /// Identify; `what` is CNS, `options` CSI.
    pub(crate) const IDENTIFY: u8 = 12;
    /// Get Log Page; `what` is LID.
    pub(crate) const LOG: u8 = 13;
    /// Get Features; `what` is FID.
    pub(crate) const GET_FEATURES: u8 = 14;
    /// Set Features; `what` is FID.
    pub(crate) const SET_FEATURES: u8 = 15;
    /// Asynchronous Event Request.
    pub(crate) const EVENT: u8 = 16;
    /// Abort of command `what` + 256.
    pub(crate) const ABORT: u8 = 17;
    /// Keep Alive.
    pub(crate) const KEEP_ALIVE: u8 = 18;
    /// Property Get of `what`.
    pub(crate) const PROPERTY: u8 = 19;
    /// Disconnect.
    pub(crate) const DISCONNECT: u8 = 20;
    /// How many there are; an opcode follows as `what`.
    pub(crate) const OTHER: u8 = 21;
}

/// The queue entry of a command, without identifier and SGL.
pub(crate) fn template(c: &Command) -> Sqe {
    let nsid = u32::from(c.nsid);
    let none = SglDescriptor::transport_data(0);
    let key = Key::new(&[b'k', c.what][..usize::from(c.what % 2) + 1]).unwrap();
    let kv = |opcode| {
        let mut command = KvCommand::for_key(opcode, nsid, &key);
        command.options = c.options;
        command.size = c.size;
        command.to_sqe(none)
    };
    let nvm = |opcode: NvmOpcode| {
        let mut sqe = Sqe::new(opcode);
        sqe.nsid = nsid.into();
        sqe.cdw10 = u32::from(c.what).into();
        sqe.cdw12 = (c.size & 0xffff | u32::from(c.options) << 24).into();
        sqe
    };
    match c.kind % (kinds::OTHER + 1) {
        kinds::ENABLE => {
            let cc = match c.options {
                0 => enable().0,
                1 => 0,
                2 => enable().with_shn(1).0,
                other => u32::from(other) | c.size,
            };
            PropertySetCmd::new(Property::CC, u64::from(cc)).map(|cmd| cmd.to_sqe()).unwrap_or_default()
        }
        kinds::STORE => KvCommand::store(nsid, &key, StoreOptions::from_bits_retain(c.options), c.size).to_sqe(none),
        kinds::RETRIEVE => {
            KvCommand::retrieve(nsid, &key, RetrieveOptions::from_bits_retain(c.options), c.size).to_sqe(none)
        }
        kinds::DELETE => kv(KvOpcode::DELETE),
        kinds::EXIST => kv(KvOpcode::EXIST),
        kinds::LIST => KvCommand::list(nsid, (c.what > 0).then_some(&key), c.size).to_sqe(none),
        kinds::READ => nvm(NvmOpcode::READ),
        kinds::WRITE => nvm(NvmOpcode::WRITE),
        kinds::COMPARE => nvm(NvmOpcode::COMPARE),
        kinds::WRITE_ZEROES => nvm(NvmOpcode::WRITE_ZEROES),
        kinds::DATASET_MANAGEMENT => {
            let mut sqe = nvm(NvmOpcode::DATASET_MANAGEMENT);
            sqe.cdw11 = u32::from(c.options).into();
            sqe
        }
        kinds::FLUSH => nvm(NvmOpcode::FLUSH),
        kinds::IDENTIFY => IdentifyCmd::new(Cns(c.what), nsid, kvof_spec::Csi(c.options)).to_sqe(),
        kinds::LOG => {
            let log = GetLogPageCmd::new(
                LogId(c.what),
                nsid,
                u64::from(c.options) * 4,
                u64::from(c.size.clamp(4, 1 << 20) & !3),
            );
            log.map(|cmd| cmd.to_sqe()).unwrap_or_default()
        }
        kinds::GET_FEATURES => {
            let mut sqe = GetFeaturesCmd::new(
                kvof_spec::feature::FeatureId(c.what),
                kvof_spec::feature::FeatureSelect(c.options),
            )
            .to_sqe();
            sqe.nsid = nsid.into();
            sqe
        }
        kinds::SET_FEATURES => {
            let mut sqe = SetFeaturesCmd::new(kvof_spec::feature::FeatureId(c.what), c.size).to_sqe();
            sqe.nsid = nsid.into();
            sqe
        }
        kinds::EVENT => Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST),
        kinds::ABORT => AbortCmd::new(u16::from(c.options), u16::from(c.what) | 0x100).to_sqe(),
        kinds::KEEP_ALIVE => Sqe::new(AdminOpcode::KEEP_ALIVE),
        kinds::PROPERTY => {
            let property = Property(u32::from(c.what));
            PropertyGetCmd::new(property).map(|cmd| cmd.to_sqe()).unwrap_or_default()
        }
        kinds::DISCONNECT => fabrics(FabricsType::DISCONNECT),
        _ => {
            let mut sqe = nvm(NvmOpcode(c.what));
            sqe.cdw11 = u32::from(c.options).into();
            sqe
        }
    }
}

fn fabrics(kind: FabricsType) -> Sqe {
    let head = FabricsHead::new(kind);
    let mut bytes = [0; 64];
    for (to, from) in bytes.iter_mut().zip(head.as_bytes()) {
        *to = *from;
    }
    Sqe::from_bytes(&bytes)
}

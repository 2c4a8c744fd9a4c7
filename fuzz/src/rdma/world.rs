//! One target, the driver of its connections, and the hosts around it.
//!
//! What the reactor does is done here too, in the same order but at the fuzzer's pace: messages, fetches and responses,
//! outcomes and messages between cores, memory for those that wait, timers, and the end of connections.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use kvof_io::{Pool, PoolConfig, TxQueue};
use kvof_kv::{Key, KvCommand};
use kvof_spec::{
    IntoBytes, Property, SglDescriptor, Sqe,
    fabrics::{CNTLID_DYNAMIC, ConnectCmd, ConnectData, PropertySetCmd},
    rdma::CmRequest,
};
use kvof_target::{
    backend::{self, Backends, OpId},
    control::{QueueTransport, Target, TargetLimits, TransportKind},
    namespace::DataOut,
    queue::Cx,
    transport::{
        CloseReason,
        rdma::{self, Connection, RdmaSettings, RequestLimits, check_request},
    },
};

use super::{
    action::{Action, Command, Sgl},
    host::Host,
};
use crate::{
    input::{Input, pattern},
    target::{self, ADMIN, HOST_ID, KV_SIZE, TRANSFER_MAX, definition, enable, host_nqn, may_wait, nqn, template},
};

const CONNECTIONS: usize = 6;
const LIMITS: RequestLimits = RequestLimits { admin_entries: 32, queue_entries: 64, io_queues: 2 };

/// What a run begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Setup {
    /// Bit 0: two cores. Bit 1: little memory. Bit 2: few descriptors. Bit 3: short capsules. Bit 4: the driver takes many
    /// messages at once.
    pub(super) bits: u8,
}

impl Setup {
    pub(super) fn read(input: &mut Input<'_>) -> Self {
        Self { bits: input.u8() }
    }

    const fn has(self, bit: u8) -> bool {
        self.bits >> bit & 1 != 0
    }

    const fn cores(self) -> usize {
        1 + self.has(0) as usize
    }

    fn settings(self) -> RdmaSettings {
        RdmaSettings {
            in_capsule: if self.has(3) { 1024 } else { 8192 },
            segments_max: if self.has(2) { 2 } else { 16 },
            ..RdmaSettings::default()
        }
    }

    /// Values of both KV namespaces, rounded up to pages, fill at most so much, and a command must always go through.
    fn pool(self) -> usize {
        let values = 2 * 2 * KV_SIZE as usize;
        values + TRANSFER_MAX as usize * if self.has(1) { 1 } else { 32 }
    }
}

struct Conn {
    core: usize,
    rdma: Connection,
    transport: QueueTransport,
    woken: Arc<AtomicBool>,
    host: Host,
    /// Fetches, and responses, wait.
    hold: [bool; 2],
    held: VecDeque<rdma::Action>,
    /// The queue pair is there.
    open: bool,
    next_cid: u16,
    /// High half of its operations.
    key: u64,
}

pub(super) struct World {
    setup: Setup,
    settings: Arc<RdmaSettings>,
    now: Instant,
    target: Arc<Target>,
    pool: Pool,
    backends: Vec<Backends>,
    conns: Vec<Option<Conn>>,
    keys: u64,
    reloaded: bool,
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
        let settings = setup.settings();
        let limits = TargetLimits {
            max_controllers: 3,
            max_io_queues: LIMITS.io_queues,
            max_queue_size: LIMITS.queue_entries,
            mdts: TRANSFER_MAX,
            in_capsule: settings.in_capsule,
            ..TargetLimits::default()
        };
        let target = Target::new(definition(false), limits, now).unwrap();
        let pool = Pool::new(PoolConfig { limit: setup.pool(), shards: 1 });
        let cores = setup.cores();
        let mut world = Self {
            setup,
            settings: Arc::new(settings),
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
            Action::Open { core, qid, hrqsize, hsqsize, cntlid } => {
                let [qid, hrqsize, hsqsize, cntlid] = [*qid, *hrqsize, *hsqsize, *cntlid].map(u16::from);
                let request = CmRequest::new(qid, hrqsize, hsqsize, cntlid);
                self.open(usize::from(*core), request.as_bytes());
            }
            Action::OpenRaw(private_data) => {
                self.open(0, private_data);
            }
            Action::Connect { conn, qid, sqsize, kato, cattr, name, cntlid, form } => {
                let mut cmd = ConnectCmd::new(u16::from(*qid), *sqsize, u32::from(*kato));
                cmd.cattr = *cattr;
                let cntlid = match cntlid {
                    0 if *qid == ADMIN => CNTLID_DYNAMIC,
                    0 => self.controller().unwrap_or(1),
                    any => u16::from(*any),
                };
                let data = ConnectData::new(HOST_ID, cntlid, &nqn(*name), &host_nqn());
                self.connect(pick(*conn), cmd.to_sqe(), data.as_bytes(), *form);
            }
            Action::Command { conn, command } => self.command(pick(*conn), command),
            Action::Raw { conn, bytes } => self.send(pick(*conn), bytes),
            Action::Message { conn, len } => self.send(pick(*conn), &vec![0; usize::from(*len)]),
            Action::Hold { conn, what } => {
                if let Some(conn) = &mut self.conns[pick(*conn)] {
                    conn.hold = [what & 1 != 0, what & 2 != 0];
                }
            }
            Action::Let { conn, which, fails } => {
                self.let_one(pick(*conn), usize::from(*which), *fails);
                self.settle();
            }
            Action::Time(ms) => self.pass(Duration::from_millis(u64::from(*ms))),
            Action::Close(conn) => self.close(pick(*conn)),
            Action::Work(steps) => self.work(usize::from(*steps)),
            Action::Drain(conn) => {
                with_conn!(self, pick(*conn), |conn, _cx| {
                    conn.host.drained = true;
                    conn.rdma.drain();
                });
                self.settle();
            }
            Action::Reload(present) => self.reload(*present),
        }
    }

    fn open(&mut self, core: usize, private_data: &[u8]) -> Option<usize> {
        let index = self.conns.iter().position(Option::is_none)?;
        let request = check_request(private_data, &LIMITS).ok()?;
        let entries = if request.qid == 0 { LIMITS.admin_entries } else { LIMITS.queue_entries };
        assert!((2..=entries).contains(&request.entries()) && request.qid <= LIMITS.io_queues && request.hrqsize > 0);
        let woken = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&woken);
        self.keys += 1;
        self.conns[index] = Some(Conn {
            core: core % self.setup.cores(),
            rdma: Connection::new(Arc::clone(&self.settings), request, self.now),
            transport: QueueTransport {
                kind: TransportKind::Rdma,
                portid: 1,
                local: ([127, 0, 0, 1], 4420).into(),
                peer: ([127, 0, 0, 1], 1000).into(),
                wake: Arc::new(move || flag.store(true, Ordering::Release)),
            },
            woken,
            host: Host::new(request.qid, request.entries(), self.settings.capsule_max(request.qid)),
            hold: [false; 2],
            held: VecDeque::new(),
            open: true,
            next_cid: 0,
            key: self.keys,
        });
        Some(index)
    }

    /// A controller that some host's admin queue has.
    fn controller(&self) -> Option<u16> {
        let roles = self.conns.iter().flatten().filter(|c| c.open).filter_map(|c| c.host.role);
        roles.filter(|role| role.qid == 0).map(|role| role.cntlid).last()
    }

    fn connect(&mut self, index: usize, sqe: Sqe, data: &[u8], form: u8) {
        let Some(conn) = &mut self.conns[index] else { return };
        let len = data.len() as u32;
        let (sgl, behind) = match form % 4 {
            0 => (SglDescriptor::in_capsule(0, len), data.to_vec()),
            1 | 2 => {
                let (address, key) = conn.host.register(data.to_vec());
                (SglDescriptor::keyed(address, len, key, form % 4 == 2).unwrap(), Vec::new())
            }
            _ => {
                let (first, second) = data.split_at(100);
                let descriptors = [first, second].map(|part| {
                    let (address, key) = conn.host.register(part.to_vec());
                    SglDescriptor::keyed(address, part.len() as u32, key, false).unwrap()
                });
                (SglDescriptor::last_segment_offset(0, 32), descriptors.as_bytes().to_vec())
            }
        };
        self.send_command(index, sqe, sgl, 0, &behind);
    }

    fn command(&mut self, index: usize, command: &Command) {
        let Some(conn) = &mut self.conns[index] else { return };
        let sqe = template(&target::Command {
            kind: command.kind,
            cid: 0,
            nsid: command.nsid,
            what: command.what,
            options: command.options,
            size: command.size,
            sgl: target::Sgl::Transport(0),
            capsule: 0,
            bad_digest: false,
            damage: target::Damage::default(),
        });
        let mut behind = pattern(command.what, usize::from(command.behind));
        let sgl = match &command.sgl {
            Sgl::Keyed { len, invalidate, fault } => conn.host.keyed(command.what, *len, *invalidate, *fault),
            Sgl::List { lens, offset, fault } => {
                let count = lens.len();
                let mut bytes = Vec::new();
                for (i, len) in lens.iter().enumerate() {
                    let is_last = i + 1 == count;
                    let fault_here = if is_last { *fault } else { 0 };
                    let mut d = conn.host.keyed(command.what ^ i as u8, u32::from(*len), fault_here == 4, fault_here);
                    if fault_here == 5 {
                        d.identifier = 0x31;
                    }
                    bytes.extend_from_slice(d.as_bytes());
                }
                let offset = usize::from(*offset);
                behind.resize(behind.len().max(offset + bytes.len()), 0);
                behind[offset..offset + bytes.len()].copy_from_slice(&bytes);
                let wrong = match fault {
                    6 => 8,
                    7 => 16,
                    _ => 0,
                };
                SglDescriptor::last_segment_offset(offset as u64, bytes.len() as u32 + wrong)
            }
            Sgl::InCapsule(offset, len) => SglDescriptor::in_capsule(u64::from(*offset), *len),
            Sgl::Raw { identifier, address, length } => SglDescriptor {
                address: u64::from(*address).into(),
                length: (*length).into(),
                rsvd: [0; 3],
                identifier: *identifier,
            },
        };
        self.send_command(index, sqe, sgl, u16::from(command.cid), &behind);
    }

    fn send_command(&mut self, index: usize, mut sqe: Sqe, sgl: SglDescriptor, cid: u16, behind: &[u8]) {
        let Some(conn) = &mut self.conns[index] else { return };
        conn.next_cid = conn.next_cid.wrapping_add(1);
        sqe.cid = if cid == 0 { conn.next_cid | 0x100 } else { cid }.into();
        sqe.sgl1 = sgl;
        self.send(index, &[sqe.as_bytes(), behind].concat());
    }

    fn send(&mut self, index: usize, message: &[u8]) {
        let segments_max = self.settings.segments_max;
        with_conn!(self, index, |conn, cx| if conn.open {
            conn.host.handle_sent(message, segments_max);
            conn.rdma.handle_capsule(&mut cx, message);
        });
        if !self.setup.has(4) {
            self.settle();
        }
    }

    fn close(&mut self, index: usize) {
        if let Some(conn) = &mut self.conns[index]
            && conn.open
        {
            conn.host.closed = true;
            conn.rdma.handle_end(CloseReason::Host);
        }
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for index in 0..CONNECTIONS {
            with_conn!(self, index, |conn, cx| if conn.open {
                conn.host.waited = true;
                conn.rdma.handle_tick(&mut cx);
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
                    let command = (op & 0xffff_ffff) as usize;
                    with_conn!(self, index, |conn, cx| conn.rdma.handle_outcome(&mut cx, command, outcome));
                    moved = true;
                }
            }
            moved |= self.settle();
            if !moved {
                return;
            }
        }
    }

    /// Carries out one of the actions that wait: a fetch, or the first response, since those are sent in order.
    fn let_one(&mut self, index: usize, which: usize, fails: bool) {
        let Some(conn) = &mut self.conns[index] else { return };
        let which = which % conn.held.len().max(1);
        let is_response = |action: &rdma::Action| matches!(action, rdma::Action::Respond { .. });
        let at = match conn.held.get(which) {
            Some(action) if is_response(action) => conn.held.iter().position(is_response).unwrap_or(which),
            _ => which,
        };
        if let Some(action) = conn.held.remove(at) {
            self.carry_out(index, action, fails);
        }
    }

    fn carry_out(&mut self, index: usize, action: rdma::Action, fails: bool) {
        with_conn!(self, index, |conn, cx| match action {
            rdma::Action::Fetch { token, mut landing, segments } => {
                let mut result = conn.host.read(&mut landing, &segments);
                if fails || !conn.open {
                    conn.host.bad_memory = true;
                    result = Err("flushed");
                }
                conn.rdma.handle_fetched(&mut cx, token, landing, result);
            }
            rdma::Action::Respond { token, data, cqe, invalidate } => {
                let bytes = data.map(|(data, segments)| (bytes_of(&data), segments));
                let data = bytes.as_ref().map(|(data, segments)| (data.clone(), &segments[..]));
                let is_sent = !fails && conn.open && conn.host.handle_response(data, &cqe, invalidate);
                conn.rdma.handle_sent(cx.now, token);
                if !is_sent && conn.open {
                    conn.host.bad_memory = true;
                    conn.rdma.handle_end(CloseReason::Rdma("remote access error".into()));
                }
            }
        });
    }

    /// Moves what can move, and ends connections that are over; true if anything did.
    fn settle(&mut self) -> bool {
        let mut any = false;
        while (0..CONNECTIONS).fold(false, |moved, index| self.settle_one(index) | moved) {
            any = true;
        }
        any
    }

    fn settle_one(&mut self, index: usize) -> bool {
        let mut moved = false;
        with_conn!(self, index, |conn, cx| {
            if conn.woken.swap(false, Ordering::AcqRel) && conn.open {
                conn.rdma.handle_wake(&mut cx);
                moved = true;
            }
            if conn.rdma.is_starved() {
                moved |= conn.rdma.handle_memory(&mut cx);
            }
        });
        while let Some(conn) = &mut self.conns[index]
            && let Some(action) = conn.rdma.poll_action()
        {
            moved = true;
            assert!(conn.open && !conn.host.closed, "after the end: {action:?}");
            let hold = match &action {
                rdma::Action::Fetch { landing, segments, .. } => {
                    conn.host.check_fetch(landing, segments);
                    conn.hold[0]
                }
                rdma::Action::Respond { .. } => conn.hold[1],
            };
            let entries = usize::from(LIMITS.queue_entries);
            assert!(conn.held.len() <= 2 * entries, "{} actions at once", conn.held.len());
            if hold {
                conn.held.push_back(action);
            } else if matches!(action, rdma::Action::Respond { .. }) && !conn.held.is_empty() {
                // Behind those that wait.
                conn.held.push_back(action);
                let is_response = |action: &rdma::Action| matches!(action, rdma::Action::Respond { .. });
                while let Some(conn) = &mut self.conns[index]
                    && let Some(at) = conn.held.iter().position(is_response)
                    && let Some(action) = conn.held.remove(at)
                {
                    self.carry_out(index, action, false);
                }
            } else {
                self.carry_out(index, action, false);
            }
        }
        let Some(conn) = &mut self.conns[index] else { return moved };
        if conn.open
            && let Some(reason) = conn.rdma.poll_close()
        {
            assert!(conn.host.has_deserved(reason), "{reason}, for nothing: {:?}", conn.host);
            conn.open = false;
            moved = true;
            // The queue pair gives everything back.
            for action in std::mem::take(&mut conn.held) {
                self.carry_out(index, action, true);
            }
        }
        let Some(conn) = &mut self.conns[index] else { return moved };
        if !conn.open && conn.rdma.is_idle() {
            assert!(!conn.rdma.is_starved(), "a connection that is over waits for memory");
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
            let (held, outstanding) = (conn.held.len(), host.outstanding());
            format!(
                "{index}: open {}, role {:?}, {outstanding} outstanding, {held} held, last {}",
                conn.open, host.role, host.last_status
            )
        });
        lines.collect::<Vec<_>>().join("\n    ")
    }

    /// Ends the run in good order: every command of a connection that is up completes, and nothing is left behind.
    pub(super) fn finish(mut self) {
        for conn in self.conns.iter_mut().flatten() {
            conn.hold = [false; 2];
        }
        for round in 0.. {
            assert!(round < 10_000, "commands never end");
            self.work(usize::MAX);
            let Some(index) = self.conns.iter().position(|c| c.as_ref().is_some_and(|c| !c.held.is_empty())) else {
                break;
            };
            self.let_one(index, 0, false);
            self.settle();
        }
        for conn in self.conns.iter().flatten().filter(|c| c.open) {
            let waiting: Vec<_> = conn.host.commands.values().flatten().filter(|c| !may_wait(&c.sqe)).collect();
            assert!(waiting.is_empty(), "commands without completion: {waiting:?}; {:?}", conn.rdma);
            assert_eq!(conn.rdma.queue().busy(), 0, "the queue counts commands that nobody sent");
        }
        for index in 0..CONNECTIONS {
            self.close(index);
        }
        self.work(usize::MAX);
        assert!(self.conns.iter().all(Option::is_none), "a connection does not end");
        let summary = self.target.summary();
        let left = (summary.io_controllers, summary.discovery_controllers, summary.io_queues);
        assert_eq!(left, (0, 0, 0), "{summary:?}");
        self.empty_namespaces();
        assert_eq!(self.pool.in_use(), 0, "pool memory in use with nothing stored and nobody connected");
    }

    /// A new host finds a target that works, and deletes everything.
    fn empty_namespaces(&mut self) {
        let none = SglDescriptor::default();
        let admin = self.connect_well(0);
        let set = PropertySetCmd::new(Property::CC, u64::from(enable().0)).unwrap();
        self.execute(admin, set.to_sqe(), none);
        let io = self.connect_well(1);
        let nsids = if self.reloaded { &[1, 4][..] } else { &[1] };
        for &nsid in nsids {
            loop {
                let sgl = self.conns[io].as_mut().map(|conn| conn.host.keyed(0, 4096, true, 0)).unwrap();
                let listed = self.execute(io, KvCommand::list(nsid, None, 4096).to_sqe(none), sgl);
                let list = kvof_kv::ListReader::new(&listed).unwrap();
                let keys: Vec<Key> = list.map(|key| key.expect("a list without faults")).collect();
                if keys.is_empty() {
                    break;
                }
                for key in keys {
                    self.execute(io, KvCommand::delete(nsid, &key).to_sqe(none), none);
                }
            }
        }
        self.close(io);
        self.close(admin);
        self.work(usize::MAX);
        assert!(self.conns.iter().all(Option::is_none));
    }

    fn connect_well(&mut self, qid: u8) -> usize {
        let request = CmRequest::new(u16::from(qid), 32, 31, 0);
        let index = self.open(usize::from(qid), request.as_bytes()).expect("all connections are closed");
        self.act(&Action::Connect {
            conn: index as u8,
            qid,
            sqsize: 31,
            kato: 0,
            cattr: 0,
            name: 0,
            cntlid: 0,
            form: 1 - qid.min(1),
        });
        self.settle();
        assert!(self.conns[index].as_ref().is_some_and(|c| c.host.role.is_some()), "a good host cannot connect");
        index
    }

    /// Runs one command of a good host, and gives what it got.
    fn execute(&mut self, index: usize, sqe: Sqe, sgl: SglDescriptor) -> Vec<u8> {
        self.send_command(index, sqe, sgl, 0, &[]);
        self.work(usize::MAX);
        let conn = self.conns[index].as_ref().expect("a good host's connection is closed");
        assert_eq!(conn.host.outstanding(), 0, "a good host's command does not complete: {sqe:?}");
        assert!(conn.host.last_status.is_success(), "a good host's command fails: {sqe:?}: {}", conn.host.last_status);
        conn.host.last_data.clone()
    }
}

/// The connection that `number` means.
fn pick(number: u8) -> usize {
    usize::from(number) % CONNECTIONS
}

fn bytes_of(data: &DataOut) -> Vec<u8> {
    let (mut queue, mut bytes) = (TxQueue::new(), Vec::new());
    queue.push(data.clone().into_segment());
    queue.drain_into(&mut bytes);
    bytes
}

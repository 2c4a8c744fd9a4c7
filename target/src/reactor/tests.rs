//! A core that is taken from turn to turn by the test, with hosts on real sockets: what a small command waits for is counted, not
//! timed.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use kvof_io::PoolConfig;
use kvof_kv::{Key, KvCommand, KvLimits, RetrieveOptions, StoreOptions};
use kvof_spec::{
    Cc, Cqe, FromBytes, IntoBytes, Property, Sqe,
    fabrics::{CNTLID_DYNAMIC, ConnectCmd, ConnectData, ConnectResult, PropertySetCmd},
    sgl::SglDescriptor,
    tcp::{C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, H2cData, IcReq, PduType, R2t},
};
use rustix::net::sockopt;

use super::{core::Pace, turns, *};
use crate::{
    backend,
    control::TargetLimits,
    model::{KvStorageDef, NamespaceDef, NamespaceKindDef, PortDef, SubsystemDef, TargetDef, TransportKind},
};

const NQN: &str = "nqn.2024-01.localhost:turns";
const LARGE: usize = 8 << 20;
const SMALL: usize = 4096;
/// Buffers of each socket, fixed so that all that is under way is known.
const SOCKET: usize = 2 << 20;
/// Turns in which something has to come that needs no more than one core.
const TURNS: usize = 10_000;

/// A core with a KV namespace in memory, and where its connections come from.
struct Bench {
    core: Core,
    pace: Pace,
    listener: TcpListener,
}

impl Bench {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let limits = KvLimits { kvkml: 16, kvvml: LARGE as u32, mnks: 0, novg: 4096 };
        let kind = NamespaceKindDef::Kv { limits, size: 256 << 20, storage: KvStorageDef::Memory };
        let subsystem = SubsystemDef {
            nqn: NQN.parse().unwrap(),
            serial: "7".into(),
            model: "kvof".into(),
            allowed_hosts: None,
            namespaces: vec![NamespaceDef { nsid: 1, uuid: [1; 16], nguid: [2; 16], kind }],
        };
        let definition = TargetDef {
            ports: vec![PortDef { portid: 1, transport: TransportKind::Tcp, listen, advertise: None }],
            subsystems: vec![subsystem],
            referrals: Vec::new(),
            pools: Vec::new(),
        };
        let limits = TargetLimits { mdts: LARGE as u32, ..TargetLimits::default() };
        let target = Target::new(definition, limits, Instant::now()).unwrap();
        let pool = Pool::new(PoolConfig { limit: 1 << 30, shards: 1 });
        let config = ReactorConfig {
            cores: 1,
            pin: Vec::new(),
            busy_poll: Duration::from_secs(1),
            max_connections: 64,
            transfer_max: LARGE as u32,
            max_disk_ops: 64,
            tcp: TcpSettings::default(),
            rdma: RdmaConfig::default(),
        };
        let ring = open_loop(0, &config).unwrap();
        let (closed, _) = mpsc::channel();
        let (sender, inbox) = mpsc::channel();
        let mailbox = Mailbox { sender, waker: ring.waker() };
        let ns = target.namespaces().remove(0);
        let mut parts = backend::open(&ns, 1, &pool).unwrap();
        mailbox.send(CoreMessage::Attach(ns.backend, parts.remove(0)));
        let shared = Arc::new(Shared {
            target,
            pool,
            config,
            loads: vec![AtomicUsize::new(0)],
            at_rest: vec![AtomicBool::new(false)],
            failed: AtomicBool::new(false),
            closed,
        });
        let core = Core::new(0, shared, ring, inbox, vec![mailbox], Listeners::default(), None).unwrap();
        let pace = Pace {
            events: Vec::new(),
            next_tick: Instant::now() + Duration::from_secs(600),
            spin_until: Instant::now() + Duration::from_secs(600),
        };
        let mut bench = Self { core, pace, listener };
        bench.turn();
        bench
    }

    fn turn(&mut self) {
        // It never sleeps, and looks at no timers, however slow the machine is.
        self.pace.spin_until = Instant::now() + Duration::from_secs(600);
        assert!(self.core.turn(&mut self.pace).unwrap());
    }

    /// A connection that has said what the protocol begins with.
    fn host(&mut self) -> Host {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (accepted, peer) = self.listener.accept().unwrap();
        for socket in [&stream, &accepted] {
            sockopt::set_socket_send_buffer_size(socket, SOCKET).unwrap();
            sockopt::set_socket_recv_buffer_size(socket, SOCKET).unwrap();
            socket.set_nodelay(true).unwrap();
            socket.set_nonblocking(true).unwrap();
        }
        let local = accepted.local_addr().unwrap();
        self.core.shared.loads[0].fetch_add(1, Ordering::Relaxed);
        self.core.open(OwnedFd::from(accepted), Origin { portid: 1, local, peer });
        let mut host = Host { stream, got: Vec::new(), owed: Vec::new(), taken: 0, heard: 0 };
        host.say(IcReq::new(0, Digests::default(), 0).as_bytes());
        self.wait(&mut host);
        host
    }

    /// Takes turns until `host` has a PDU, and gives that.
    fn wait(&mut self, host: &mut Host) -> Pdu {
        for _ in 0..TURNS {
            if let Some(pdu) = host.hear() {
                return pdu;
            }
            self.turn();
            host.push();
        }
        panic!("no answer in {TURNS} turns");
    }

    fn execute(&mut self, host: &mut Host, sqe: Sqe, sgl: SglDescriptor, data: &[u8]) -> Cqe {
        host.command(sqe, 1, sgl, data);
        let cqe = self.wait(host).cqe();
        assert!(cqe.status().is_success(), "{}", cqe.status());
        cqe
    }

    fn connect(&mut self, qid: u16, cntlid: u16) -> (Host, Cqe) {
        let mut host = self.host();
        let connect = ConnectCmd::new(qid, 31, 0);
        let name = "nqn.2024-01.localhost:host".parse().unwrap();
        let data = ConnectData::new([0x5a; 16], cntlid, &NQN.parse().unwrap(), &name);
        let sgl = SglDescriptor::in_capsule(0, data.as_bytes().len() as u32);
        let cqe = self.execute(&mut host, connect.to_sqe(), sgl, data.as_bytes());
        (host, cqe)
    }

    /// A controller with so many I/O queues; its admin queue is the last.
    fn controller(&mut self, queues: u16) -> Vec<Host> {
        let (mut admin, cqe) = self.connect(0, CNTLID_DYNAMIC);
        let cc =
            Cc::default().with_en(true).with_css(Cc::CSS_IOCS).with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16);
        let set = PropertySetCmd::new(Property::CC, cc.0.into()).unwrap().to_sqe();
        self.execute(&mut admin, set, set.sgl1, &[]);
        let cntlid = ConnectResult(cqe.dw0.get()).cntlid();
        let mut hosts: Vec<Host> = (1..=queues).map(|qid| self.connect(qid, cntlid).0).collect();
        hosts.push(admin);
        hosts
    }
}

/// A host's end of a connection. Nothing of it blocks.
struct Host {
    stream: TcpStream,
    got: Vec<u8>,
    /// What the socket has not taken yet.
    owed: Vec<u8>,
    /// Bytes that the socket has taken, and bytes that came.
    taken: usize,
    heard: usize,
}

struct Pdu {
    kind: PduType,
    bytes: Vec<u8>,
}

impl Pdu {
    fn cqe(&self) -> Cqe {
        assert_eq!(self.kind, PduType::CAPSULE_RESP);
        CapsuleResp::read_from_bytes(&self.bytes).unwrap().cqe
    }
}

impl Host {
    fn say(&mut self, bytes: &[u8]) {
        self.owed.extend_from_slice(bytes);
        self.push();
    }

    fn push(&mut self) {
        while !self.owed.is_empty() {
            match self.stream.write(&self.owed) {
                Ok(n) => {
                    self.owed.drain(..n);
                    self.taken += n;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn command(&mut self, mut sqe: Sqe, cid: u16, sgl: SglDescriptor, data: &[u8]) {
        sqe.cid = cid.into();
        sqe.sgl1 = sgl;
        let pdu = CapsuleCmd::new(sqe, data.len() as u32, Digests::default(), 0);
        self.say(&[pdu.as_bytes(), data].concat());
    }

    fn store(&mut self, cid: u16, key: &str, len: usize) {
        let sgl = SglDescriptor::transport_data(len as u32);
        let key = Key::new(key.as_bytes()).unwrap();
        let sqe = KvCommand::store(1, &key, StoreOptions::empty(), len as u32).to_sqe(sgl);
        self.command(sqe, cid, sgl, &[]);
    }

    fn retrieve(&mut self, cid: u16, key: &str, len: usize) {
        let sgl = SglDescriptor::transport_data(len as u32);
        let key = Key::new(key.as_bytes()).unwrap();
        let sqe = KvCommand::retrieve(1, &key, RetrieveOptions::empty(), len as u32).to_sqe(sgl);
        self.command(sqe, cid, sgl, &[]);
    }

    /// Takes all that has arrived.
    fn drain(&mut self) {
        let mut part = [0; 64 << 10];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => panic!("the target has closed the connection"),
                Ok(n) => {
                    self.heard += n;
                    self.got.extend_from_slice(&part[..n]);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// The next PDU, if it is there as a whole.
    fn hear(&mut self) -> Option<Pdu> {
        self.drain();
        let header = CommonHeader::read_from_bytes(self.got.get(..8)?).unwrap();
        let len = header.plen.get() as usize;
        if self.got.len() < len {
            return None;
        }
        let bytes: Vec<u8> = self.got.drain(..len).collect();
        Some(Pdu { kind: PduType(bytes[0]), bytes })
    }

    /// Answers an R2T with everything that it asks for.
    fn answer(&mut self, pdu: &Pdu) {
        assert_eq!(pdu.kind, PduType::R2T);
        let r2t = R2t::read_from_bytes(&pdu.bytes).unwrap();
        let (mut offset, end) = (r2t.r2to.get(), r2t.r2to.get() + r2t.r2tl.get());
        while offset < end {
            let len = (end - offset).min(1 << 20);
            let last = offset + len == end;
            let header = H2cData::new(r2t.cccid.get(), r2t.ttag.get(), offset, len, last, Digests::default(), 0);
            self.owed.extend_from_slice(header.as_bytes());
            self.owed.resize(self.owed.len() + len as usize, 7);
            offset += len;
        }
    }
}

/// Sends `probe`'s Retrieve when floods have all that their sockets take, and counts the turns until all of its answer is there. `flood`
/// is what the floods do between two turns.
fn probe(bench: &mut Bench, probe: &mut Host, mut flood: impl FnMut()) -> usize {
    flood();
    probe.retrieve(9, "small", SMALL);
    for turns in 1..TURNS {
        bench.turn();
        flood();
        probe.drain();
        if probe.got.len() >= SMALL + size_of::<C2hData>() + size_of::<CapsuleResp>() {
            assert_eq!(probe.hear().unwrap().kind, PduType::C2H_DATA);
            assert!(probe.hear().unwrap().cqe().status().is_success());
            return turns;
        }
    }
    panic!("no answer in {TURNS} turns");
}

fn store_small(bench: &mut Bench, host: &mut Host) {
    host.store(1, "small", SMALL);
    let r2t = bench.wait(host);
    host.answer(&r2t);
    host.push();
    assert!(bench.wait(host).cqe().status().is_success());
}

#[test]
fn a_small_retrieve_waits_for_a_turn_and_not_for_a_flood_of_stores() {
    let floods = 3;
    let mut bench = Bench::new();
    let mut hosts = bench.controller(floods + 1);
    let _admin = hosts.pop();
    let mut small = hosts.pop().unwrap();
    store_small(&mut bench, &mut small);
    for (n, host) in hosts.iter_mut().enumerate() {
        for cid in 0..4 {
            host.store(cid, &format!("large{n}-{cid}"), LARGE);
        }
    }
    let begun: usize = hosts.iter().map(|host| host.taken).sum();
    let mut turns = 0;
    for _ in 0..100 {
        let took = probe(&mut bench, &mut small, || {
            for (n, host) in hosts.iter_mut().enumerate() {
                while let Some(pdu) = host.hear() {
                    if pdu.kind == PduType::R2T {
                        host.answer(&pdu);
                    } else {
                        let cqe = pdu.cqe();
                        assert!(cqe.status().is_success(), "{}", cqe.status());
                        host.store(cqe.cid.get(), &format!("large{n}-{}", cqe.cid.get()), LARGE);
                    }
                }
                host.push();
            }
        });
        assert!(took <= 2, "a Retrieve of {SMALL} bytes took {took} turns");
        turns += took;
    }
    // All that the target took it took in these turns; what the sockets hold comes on top.
    let moved = hosts.iter().map(|host| host.taken).sum::<usize>() - begun;
    let under_way = usize::from(floods) * 4 * SOCKET;
    let most = turns * 2 * turns::SLICE + under_way;
    assert!(moved <= most, "{moved} bytes of Stores in {turns} turns, where {most} are due");
    assert!(moved > turns * turns::SLICE / 4, "{moved} bytes of Stores in {turns} turns: the flood stands still");
}

#[test]
fn a_small_retrieve_waits_for_a_turn_and_not_for_a_flood_of_retrieves() {
    let floods = 3;
    let mut bench = Bench::new();
    let mut hosts = bench.controller(floods + 1);
    let _admin = hosts.pop();
    let mut small = hosts.pop().unwrap();
    store_small(&mut bench, &mut small);
    hosts[0].store(1, "large", LARGE);
    let r2t = bench.wait(&mut hosts[0]);
    hosts[0].answer(&r2t);
    hosts[0].push();
    assert!(bench.wait(&mut hosts[0]).cqe().status().is_success());
    for host in &mut hosts {
        (1..=2).for_each(|cid| host.retrieve(cid, "large", LARGE));
    }
    let begun: usize = hosts.iter().map(|host| host.heard).sum();
    let mut turns = 0;
    for _ in 0..100 {
        let took = probe(&mut bench, &mut small, || {
            for host in &mut hosts {
                while let Some(pdu) = host.hear() {
                    if pdu.kind != PduType::C2H_DATA {
                        let cqe = pdu.cqe();
                        assert!(cqe.status().is_success(), "{}", cqe.status());
                        host.retrieve(cqe.cid.get(), "large", LARGE);
                    }
                }
            }
        });
        assert!(took <= 2, "a Retrieve of {SMALL} bytes took {took} turns");
        turns += took;
    }
    let moved = hosts.iter().map(|host| host.heard).sum::<usize>() - begun;
    let most = turns * 2 * turns::SLICE + usize::from(floods) * 4 * SOCKET;
    assert!(moved <= most, "{moved} bytes of Retrieves in {turns} turns, where {most} are due");
    assert!(moved > turns * turns::SLICE / 4, "{moved} bytes of Retrieves in {turns} turns: the flood stands still");
}

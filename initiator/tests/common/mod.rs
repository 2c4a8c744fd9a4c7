//! A small controller on 127.0.0.1 whose behaviour tests can change: a reference KV store behind NVMe/TCP.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

mod admin;
pub mod rdma;

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use kvof_initiator::{Address, ConnectOptions, ReconnectPolicy};
use kvof_kv::model::{ReferenceConfig, ReferenceStore, StorePort};
use kvof_kv::{Data, KvCommand, KvLimits, KvPort, ListReader};
use kvof_spec::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, Frame, H2cData, IcReq, IcResp, PduType, R2t, ReceiveRules,
    Receiver,
};
use kvof_spec::{Cqe, FromBytes, IntoBytes, KvOpcode, NvmOpcode, Sqe, Status};

pub const SUBNQN: &str = "nqn.2024-01.com.example:scripted";
pub const KV_NSID: u32 = 1;
pub const NVM_NSID: u32 = 2;
pub const BLOCK: usize = 512;
pub const BLOCKS: usize = 256;

/// What the controller does, to be changed while it runs.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Digests it agrees to.
    pub digests: Digests,
    pub cpda: u8,
    pub maxh2cdata: u32,
    /// Most bytes of one C2HData and of one R2T.
    pub split: usize,
    /// IOCCSZ, 16-byte units.
    pub ioccsz: u32,
    /// SGLS and MSDBD.
    pub sgls: u32,
    pub msdbd: u8,
    /// MDTS.
    pub mdts: u8,
    /// MQES, 0's based.
    pub mqes: u16,
    /// I/O queues it grants.
    pub io_queues: u32,
    /// Status of Connect.
    pub connect_status: Status,
    /// I/O commands are taken and not answered.
    pub hold_io: bool,
    /// No admin command is answered.
    pub mute_admin: bool,
    /// ICReq is not answered.
    pub mute_ic: bool,
    /// Writes are answered without asking for their data.
    pub ignore_writes: bool,
    /// CTRATT.TBKAS.
    pub traffic_based_keep_alive: bool,
    /// CSTS.RDY is reported only after so many reads.
    pub ready_after: u32,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            digests: Digests { header: true, data: true },
            cpda: 0,
            maxh2cdata: 16_384,
            split: 50_000,
            ioccsz: 4 + 4096 / 16,
            sgls: 1,
            msdbd: 1,
            mdts: 5,
            mqes: 127,
            io_queues: 8,
            connect_status: Status::SUCCESS,
            hold_io: false,
            mute_admin: false,
            mute_ic: false,
            ignore_writes: false,
            traffic_based_keep_alive: false,
            ready_after: 0,
        }
    }
}

/// What tests look at.
#[derive(Default)]
pub struct Seen {
    pub connections: AtomicUsize,
    /// Connections that the host closed while ICReq was not answered.
    pub hung_up: AtomicUsize,
    pub keep_alives: AtomicU64,
    pub io_commands: AtomicU64,
    pub shutdowns: AtomicU64,
    pub flow_control_disabled: AtomicBool,
    pub hosts: Mutex<Vec<(String, [u8; 16])>>,
    pub qids: Mutex<Vec<u16>>,
}

pub struct Target {
    pub address: SocketAddr,
    state: Arc<State>,
}

pub struct State {
    pub behaviour: Mutex<Behaviour>,
    pub seen: Seen,
    port: StorePort<ReferenceStore>,
    blocks: Mutex<Vec<u8>>,
    stopped: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    /// Commands that are held: where their answers go.
    held: Mutex<Vec<Held>>,
    /// Asynchronous Event Requests.
    events: Mutex<Vec<(Arc<Wire>, u16)>>,
    /// Entries and generation of the discovery log.
    pub discovery: Mutex<(u64, Vec<u8>)>,
}

impl Target {
    pub fn start() -> Self {
        Self::start_with(Behaviour::default())
    }

    pub fn start_with(behaviour: Behaviour) -> Self {
        let state = State::new(behaviour);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = Self { address, state };
        target.listen(listener);
        target
    }
    pub fn address(&self) -> Address {
        self.address.to_string().parse().unwrap()
    }

    pub fn seen(&self) -> &Seen {
        &self.state.seen
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.behaviour.lock().unwrap());
    }

    /// Ends all connections.
    pub fn cut(&self) {
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Ends all connections and takes no more.
    pub fn stop(&self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        self.cut();
        let end = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(self.address).is_ok() {
            assert!(Instant::now() < end, "the scripted target does not stop");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Listens again, at the same address.
    pub fn restart(&self) {
        self.state.stopped.store(false, Ordering::SeqCst);
        let end = Instant::now() + Duration::from_secs(5);
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(e) => assert!(Instant::now() < end, "{e}"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.listen(listener);
    }

    /// Answers the commands that were held, and holds no more.
    pub fn release(&self) {
        self.change(|b| b.hold_io = false);
        for (wire, sqe, data) in self.state.held.lock().unwrap().drain(..) {
            self.state.execute_io(&wire, &sqe, &data);
        }
    }

    pub fn held(&self) -> usize {
        self.state.held.lock().unwrap().len()
    }

    /// Completes an Asynchronous Event Request with `dw0`; false if there is none.
    pub fn event(&self, dw0: u32) -> bool {
        match self.state.events.lock().unwrap().pop() {
            Some((wire, cid)) => {
                wire.respond(Cqe::new(cid, Status::SUCCESS).with_result(dw0.into()));
                true
            }
            None => false,
        }
    }

    fn listen(&self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if state.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { return };
                stream.set_nodelay(true).unwrap();
                state.seen.connections.fetch_add(1, Ordering::SeqCst);
                state.streams.lock().unwrap().push(stream.try_clone().unwrap());
                let state = Arc::clone(&state);
                thread::spawn(move || serve(&state, stream));
            }
        });
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.cut();
    }
}

/// A command whose answer waits, and its data.
type Held = (Arc<Wire>, Sqe, Vec<u8>);

/// The sending half of a connection.
pub enum Wire {
    Tcp {
        stream: Mutex<TcpStream>,
        digests: Digests,
        hpda: u8,
        split: usize,
    },
    /// Data and completions, for the thread that has the queue pair.
    Rdma(mpsc::Sender<(Vec<u8>, Cqe)>),
}

fn crc32c(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

impl Wire {
    fn send(&self, header: &[u8], pdo: u8, data: &[u8]) {
        let Self::Tcp { stream, digests, .. } = self else { return };
        let mut pdu = header.to_vec();
        if digests.header {
            pdu.extend(crc32c(header));
        }
        if !data.is_empty() {
            pdu.resize(usize::from(pdo), 0);
            pdu.extend_from_slice(data);
            if digests.data {
                pdu.extend(crc32c(data));
            }
        }
        let _ = stream.lock().unwrap().write_all(&pdu);
    }

    pub fn respond(&self, cqe: Cqe) {
        match self {
            Self::Tcp { digests, .. } => self.send(CapsuleResp::new(cqe, *digests).as_bytes(), 0, &[]),
            Self::Rdma(sender) => drop(sender.send((Vec::new(), cqe))),
        }
    }

    pub fn status(&self, cid: u16, status: Status) {
        self.respond(Cqe::new(cid, status));
    }

    /// Sends data and the response.
    pub fn answer(&self, cid: u16, data: &[u8], dw0: u32) {
        let (digests, hpda, split) = match self {
            Self::Tcp { digests, hpda, split, .. } => (*digests, *hpda, *split),
            Self::Rdma(sender) => {
                let cqe = Cqe::new(cid, Status::SUCCESS).with_result(dw0.into());
                return drop(sender.send((data.to_vec(), cqe)));
            }
        };
        let mut offset = 0;
        for chunk in data.chunks(split) {
            let last = offset + chunk.len() == data.len();
            let success = last && dw0 == 0 && offset % 2 == 0;
            let pdu = C2hData::new(cid, offset as u32, chunk.len() as u32, last, success, digests, hpda);
            self.send(pdu.as_bytes(), pdu.ch.pdo, chunk);
            if success {
                return;
            }
            offset += chunk.len();
        }
        self.respond(Cqe::new(cid, Status::SUCCESS).with_result(dw0.into()));
    }
}

/// A write whose data come with H2CData.
struct Incoming {
    sqe: Sqe,
    data: Vec<u8>,
    received: usize,
}

fn serve(state: &State, mut stream: TcpStream) -> Option<()> {
    let behaviour = state.behaviour.lock().unwrap().clone();
    if behaviour.mute_ic {
        // The host may go before it has sent its ICReq.
        let _ = stream.read_to_end(&mut Vec::new());
        state.seen.hung_up.fetch_add(1, Ordering::SeqCst);
        return None;
    }
    let mut ic_req = [0u8; 128];
    stream.read_exact(&mut ic_req).ok()?;
    let ic_req = IcReq::read_from_bytes(&ic_req).ok()?;
    let asked = Digests::from_byte(ic_req.dgst);
    let digests =
        Digests { header: asked.header && behaviour.digests.header, data: asked.data && behaviour.digests.data };
    let ic_resp = IcResp::new(behaviour.cpda, digests, behaviour.maxh2cdata);
    stream.write_all(ic_resp.as_bytes()).ok()?;
    let wire = Arc::new(Wire::Tcp {
        stream: Mutex::new(stream.try_clone().ok()?),
        digests,
        hpda: ic_req.hpda,
        split: behaviour.split,
    });
    let mut session = admin::Session::default();
    let mut incoming: HashMap<u16, Incoming> = HashMap::new();
    loop {
        let (frame, pdu) = read_pdu(&mut stream, digests, behaviour.cpda)?;
        let data = pdu.get(frame.data_offset..frame.data_offset + frame.data_len as usize)?;
        match frame.kind {
            PduType::CAPSULE_CMD => {
                let sqe = CapsuleCmd::read_from_prefix(&pdu).ok()?.0.sqe;
                let len = sqe.sgl1.decode().data_length()? as usize;
                let writes = sqe.opcode & 3 == 1 && sqe.opcode != 0x7f;
                if writes && data.len() < len && !state.behaviour.lock().unwrap().ignore_writes {
                    let cid = sqe.cid.get();
                    let mut offset = 0;
                    while offset < len {
                        let n = behaviour.split.min(len - offset);
                        let r2t = R2t::new(cid, offset as u16, offset as u32, n as u32, digests);
                        wire.send(r2t.as_bytes(), 0, &[]);
                        offset += n;
                    }
                    incoming.insert(cid, Incoming { sqe, data: vec![0; len], received: 0 });
                } else {
                    state.handle(&wire, &mut session, &sqe, data);
                }
            }
            PduType::H2C_DATA => {
                let h2c = H2cData::read_from_prefix(&pdu).ok()?.0;
                let cid = h2c.cccid.get();
                let command = incoming.get_mut(&cid)?;
                let at = h2c.datao.get() as usize;
                command.data.get_mut(at..at + data.len())?.copy_from_slice(data);
                command.received += data.len();
                if command.received == command.data.len() {
                    let command = incoming.remove(&cid)?;
                    state.handle(&wire, &mut session, &command.sqe, &command.data);
                }
            }
            _ => return None,
        }
    }
}

fn read_pdu(stream: &mut TcpStream, digests: Digests, cpda: u8) -> Option<(Frame, Vec<u8>)> {
    let mut pdu = vec![0u8; 8];
    stream.read_exact(&mut pdu).ok()?;
    let rules =
        ReceiveRules { receiver: Receiver::Controller, digests, pda: cpda, in_capsule_max: 8192, data_max: 1 << 20 };
    let frame = CommonHeader::read_from_bytes(&pdu).ok()?.check(&rules).expect("the host sends sound headers");
    pdu.resize(frame.total(), 0);
    stream.read_exact(&mut pdu[8..]).ok()?;
    if frame.header_digest {
        assert_eq!(pdu[frame.hlen..frame.hlen + 4], crc32c(&pdu[..frame.hlen]));
    }
    if frame.data_digest {
        assert_eq!(pdu[pdu.len() - 4..], crc32c(&pdu[frame.data_offset..pdu.len() - 4]));
    }
    Some((frame, pdu))
}

impl State {
    fn new(behaviour: Behaviour) -> Arc<Self> {
        let limits = KvLimits { kvkml: 16, kvvml: 100_000, mnks: 0, novg: 0 };
        let config = ReferenceConfig { limits, capacity: 1 << 30, slot_quota: 1 << 30 };
        Arc::new(Self {
            behaviour: Mutex::new(behaviour),
            seen: Seen::default(),
            port: StorePort::new(ReferenceStore::new(config), KV_NSID, 1 << 30, "reference"),
            blocks: Mutex::new(vec![0; BLOCK * BLOCKS]),
            stopped: AtomicBool::new(false),
            streams: Mutex::default(),
            held: Mutex::default(),
            events: Mutex::default(),
            discovery: Mutex::default(),
        })
    }

    pub fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    fn handle(&self, wire: &Arc<Wire>, session: &mut admin::Session, sqe: &Sqe, data: &[u8]) {
        if session.qid == Some(0) || session.qid.is_none() || sqe.opcode == 0x7f {
            session.handle(self, wire, sqe, data);
            return;
        }
        self.seen.io_commands.fetch_add(1, Ordering::SeqCst);
        if self.behaviour().hold_io {
            self.held.lock().unwrap().push((Arc::clone(wire), *sqe, data.to_vec()));
            return;
        }
        self.execute_io(wire, sqe, data);
    }

    fn execute_io(&self, wire: &Wire, sqe: &Sqe, data: &[u8]) {
        let cid = sqe.cid.get();
        if sqe.nsid.get() == NVM_NSID {
            self.execute_nvm(wire, sqe, data);
            return;
        }
        let len = sqe.sgl1.decode().data_length().unwrap_or(0) as usize;
        let command = KvCommand::from_sqe(sqe);
        let mut buffer = vec![0u8; len];
        let (reply, reads) = match command.opcode {
            KvOpcode::STORE => (self.port.execute(&command, Data::Out(data)), false),
            KvOpcode::RETRIEVE | KvOpcode::LIST => (self.port.execute(&command, Data::In(&mut buffer)), true),
            _ => (self.port.execute(&command, Data::None), false),
        };
        let reply = reply.unwrap();
        if !reply.status.is_success() || !reads {
            wire.respond(Cqe::new(cid, reply.status).with_result(reply.dw0.into()));
            return;
        }
        let used = if command.opcode == KvOpcode::LIST {
            let mut list = ListReader::new(&buffer).unwrap();
            assert!(list.by_ref().all(|key| key.is_ok()));
            list.consumed()
        } else {
            len.min(reply.dw0 as usize).min(command.size as usize)
        };
        wire.answer(cid, &buffer[..used], reply.dw0);
    }

    fn execute_nvm(&self, wire: &Wire, sqe: &Sqe, data: &[u8]) {
        let cid = sqe.cid.get();
        let start = sqe.cdw10.get() as usize * BLOCK;
        let len = ((sqe.cdw12.get() & 0xffff) as usize + 1) * BLOCK;
        let mut blocks = self.blocks.lock().unwrap();
        match (NvmOpcode(sqe.opcode), blocks.get_mut(start..start + len)) {
            (NvmOpcode::FLUSH, _) => wire.status(cid, Status::SUCCESS),
            (_, None) => wire.status(cid, Status::LBA_OUT_OF_RANGE),
            (NvmOpcode::WRITE, Some(range)) => {
                range.copy_from_slice(data);
                wire.status(cid, Status::SUCCESS);
            }
            (NvmOpcode::READ, Some(range)) => wire.answer(cid, range, 0),
            _ => wire.status(cid, Status::INVALID_OPCODE),
        }
    }
}

/// Options for tests: quick, and with their own host name.
pub fn options() -> ConnectOptions {
    let mut options = ConnectOptions::default();
    options.hostnqn = "nqn.2024-01.com.example:host".into();
    options.io_queues = 2;
    options.queue_depth = 16;
    options.keep_alive = Duration::from_secs(5);
    options.connect_timeout = Duration::from_secs(5);
    options.command_timeout = Duration::from_secs(10);
    options.reconnect = ReconnectPolicy {
        initial: Duration::from_millis(10),
        max: Duration::from_millis(50),
        give_up_after: Duration::from_secs(10),
    };
    options
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "it did not happen: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

//! The same controller behind NVMe/RDMA, on a device of this machine, and lies that only RDMA knows.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use kvof_initiator::{Address, Buffer, Transport};
use kvof_rdma::{
    CmChannel, CmEvent, CmId, CmListener, CompletionQueue, ConnectionEvent, Endpoint, EndpointConfig, Event,
    RemoteSegment, inspect,
};
use kvof_spec::rdma::{CmAccept, CmReject, CmRequest, CmStatus};
use kvof_spec::sgl::{Sgl, SglDescriptor};
use kvof_spec::{Cqe, FromBytes, IntoBytes, Sqe};

use super::{Behaviour, State, Wire, admin};

const ENTRIES: u32 = 128;
const IN_CAPSULE: u32 = 4096;
/// What the device refused may be told after the host has gone because of it.
const AFTERMATH: Duration = Duration::from_secs(1);

/// How the controller misbehaves, on I/O queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    None,
    /// Keys are left to the host to invalidate, though the controller was asked to.
    LeavesKeys,
    /// As that, and the data are to be written once more.
    WritesLate,
    /// Now that is done.
    WritesNow,
    /// The key of another command is invalidated, once: a second time is too much for the kernel's Soft-RoCE, which
    /// invalidates a window that is not bound through a null pointer.
    InvalidatesAnother,
    /// A response has 15 bytes.
    Short,
    /// More is written than the command has room for.
    WritesBeyond,
}

/// A controller that listens over RDMA.
pub struct RdmaTarget {
    pub address: SocketAddr,
    state: Arc<State>,
    lie: Arc<Mutex<Lie>>,
    /// Work of the controller that its device refused.
    pub refused: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// An address of this machine that RDMA connections can be made to.
fn address() -> Option<IpAddr> {
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => !ip.is_loopback(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    kvof_rdma::is_available().ok()?;
    let devices = inspect::devices().ok()?;
    devices.iter().flat_map(|d| &d.ports).flat_map(|p| &p.gids).find_map(|gid| gid.ip().filter(usable))
}

impl RdmaTarget {
    /// None, and says so, where this machine has no RDMA device.
    pub fn start() -> Option<Self> {
        let Some(ip) = address() else {
            println!("skipped: no RDMA device");
            return None;
        };
        let channel = CmChannel::new().unwrap();
        let listener = CmListener::bind(&channel, 0, (ip, 0).into(), 16).unwrap();
        let behaviour = Behaviour {
            sgls: 1 | 1 << 2 | 1 << 20,
            msdbd: 4,
            ioccsz: 4 + IN_CAPSULE / 16,
            mdts: 0,
            ..Behaviour::default()
        };
        let mut target = Self {
            address: listener.local_addr(),
            state: State::new(behaviour),
            lie: Arc::new(Mutex::new(Lie::None)),
            refused: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let server = Server {
            state: Arc::clone(&target.state),
            lie: Arc::clone(&target.lie),
            refused: Arc::clone(&target.refused),
            stop: Arc::clone(&target.stop),
            channel,
            _listener: listener,
            connections: Vec::new(),
            next_key: 1,
        };
        target.thread = Some(thread::spawn(move || server.run()));
        Some(target)
    }

    pub fn address(&self) -> Address {
        let address: Address = self.address.to_string().parse().unwrap();
        address.with_transport(Transport::Rdma)
    }

    pub fn lie(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
    }

    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.behaviour.lock().unwrap());
    }

    pub fn held(&self) -> usize {
        self.state.held.lock().unwrap().len()
    }

    /// Answers the commands that were held.
    pub fn release(&self) {
        self.change(|b| b.hold_io = false);
        for (wire, sqe, data) in self.state.held.lock().unwrap().drain(..) {
            self.state.execute_io(&wire, &sqe, &data);
        }
    }
}

impl Drop for RdmaTarget {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A command at the controller: where its data are, and the key to invalidate.
struct Command {
    sqe: Sqe,
    segments: Vec<RemoteSegment>,
    invalidate: Option<u32>,
}

struct Connection {
    key: u64,
    endpoint: Endpoint<Buffer>,
    cq: Arc<CompletionQueue>,
    session: admin::Session,
    wire: Arc<Wire>,
    responses: mpsc::Receiver<(Vec<u8>, Cqe)>,
    commands: HashMap<u16, Command>,
    over: bool,
    /// The host has gone.
    ends: Option<Instant>,
    lied: bool,
    /// Where to write once more, and how much.
    late: Vec<(Vec<RemoteSegment>, usize)>,
}

struct Server {
    state: Arc<State>,
    lie: Arc<Mutex<Lie>>,
    refused: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    channel: Arc<CmChannel>,
    _listener: CmListener,
    connections: Vec<Connection>,
    next_key: u64,
}

impl Server {
    fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            while let Some(event) = self.channel.poll().unwrap() {
                match event {
                    CmEvent::Request { id, private_data, .. } => self.accept(id, &private_data),
                    CmEvent::Connection { key, event: ConnectionEvent::Disconnected } => {
                        let ends = Instant::now() + AFTERMATH;
                        self.connections.iter_mut().filter(|c| c.key == key).for_each(|c| c.ends = Some(ends));
                    }
                    CmEvent::Connection { .. } => {}
                }
            }
            let lie = *self.lie.lock().unwrap();
            let mut busy = false;
            for connection in &mut self.connections {
                busy |= connection.serve(&self.state, lie, &self.refused);
            }
            let now = Instant::now();
            self.connections.retain(|c| !c.over && c.ends.is_none_or(|ends| now < ends));
            if !busy {
                thread::sleep(Duration::from_micros(200));
            }
        }
    }

    fn accept(&mut self, mut id: CmId, private_data: &[u8]) {
        let request = CmRequest::parse(private_data).expect("the host says who it is");
        let (qid, hrqsize, hsqsize) = (request.qid.get(), request.hrqsize.get(), request.hsqsize.get());
        assert_eq!(hrqsize, hsqsize + 1, "queue {qid}");
        assert_eq!(request.cntlid.get(), if qid == 0 { 0 } else { 7 });
        let config = EndpointConfig {
            key: 0,
            receives: ENTRIES,
            receive_size: 64 + IN_CAPSULE,
            sends: ENTRIES,
            send_size: 16,
            transfers: 32,
            reads: 16,
            reads_served: 0,
        };
        let key = self.next_key;
        self.next_key += 1;
        id.migrate(&self.channel, key).unwrap();
        let cq = CompletionQueue::new(&id.device().unwrap(), config.completions()).unwrap();
        let refusal = CmReject::new(CmStatus::NO_RESOURCES);
        let endpoint =
            Endpoint::accept(id, &cq, config, CmAccept::new(ENTRIES as u16).as_bytes(), refusal.as_bytes()).unwrap();
        let (sender, responses) = mpsc::channel();
        self.connections.push(Connection {
            key,
            endpoint,
            cq,
            session: admin::Session::default(),
            wire: Arc::new(Wire::Rdma(sender)),
            responses,
            commands: HashMap::new(),
            over: false,
            ends: None,
            lied: false,
            late: Vec::new(),
        });
    }
}

impl Connection {
    fn serve(&mut self, state: &State, lie: Lie, refused: &AtomicUsize) -> bool {
        let mut completions = Vec::new();
        let mut events = Vec::new();
        self.cq.poll(&mut completions);
        for completion in completions {
            self.endpoint.handle(completion, &mut events);
        }
        self.endpoint.take_events(&mut events);
        let mut busy = !events.is_empty();
        for event in events {
            match event {
                Event::Received { slot, .. } => {
                    let capsule = self.endpoint.received(slot).to_vec();
                    self.endpoint.release(slot);
                    self.command(state, &capsule);
                }
                Event::Fetched { token, memory, result } => {
                    if result.is_ok()
                        && let Some(command) = self.commands.get(&u16::try_from(token).unwrap())
                    {
                        state.handle(&self.wire, &mut self.session, &command.sqe, &memory);
                    }
                }
                Event::Failed(error) => {
                    if !error.is_flush() {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    self.over = true;
                }
                Event::Sent { .. } | Event::Concealed { .. } => {}
            }
        }
        while let Ok((data, cqe)) = self.responses.try_recv() {
            busy = true;
            self.respond(&data, &cqe, lie);
        }
        if lie == Lie::WritesNow {
            for (segments, len) in std::mem::take(&mut self.late) {
                let late = Buffer::from(&vec![0xbb; len][..]);
                self.endpoint.respond(0, Some((late, &segments)), &[0; 16], None);
            }
        }
        busy
    }

    fn command(&mut self, state: &State, capsule: &[u8]) {
        let (sqe, behind) = Sqe::read_from_prefix(capsule).expect("a capsule has 64 bytes and more");
        let keyed = |sgl: &SglDescriptor| match sgl.decode() {
            Sgl::Keyed { address, length, key, invalidate } => {
                (RemoteSegment { address, key, len: length }, invalidate.then_some(key))
            }
            other => panic!("{other:?} is no keyed descriptor"),
        };
        let (mut segments, mut invalidate, mut data) = (Vec::new(), None, &[][..]);
        match sqe.sgl1.decode() {
            Sgl::Keyed { length: 0, .. } => {}
            Sgl::Keyed { .. } => {
                let (segment, key) = keyed(&sqe.sgl1);
                segments.push(segment);
                invalidate = key;
            }
            Sgl::InCapsule { offset, length } => data = &behind[offset as usize..][..length as usize],
            Sgl::LastSegmentOffset { offset, length } => {
                let list = &behind[offset as usize..][..length as usize];
                segments.extend(<[SglDescriptor]>::ref_from_bytes(list).unwrap().iter().map(|sgl| keyed(sgl).0));
            }
            other => panic!("the host describes data by {other:?}"),
        }
        let cid = sqe.cid.get();
        let kind = if sqe.opcode == 0x7f { sqe.fctype() } else { sqe.opcode };
        let len: u32 = segments.iter().map(|s| s.len).sum();
        let fetches = kind & 3 == 1 && len > 0;
        if fetches {
            self.endpoint.fetch(cid.into(), Buffer::new(len as usize), &segments);
        }
        let earlier = self.commands.insert(cid, Command { sqe, segments, invalidate });
        assert!(earlier.is_none(), "command {cid:#x} twice");
        if !fetches {
            state.handle(&self.wire, &mut self.session, &sqe, data);
        }
    }

    fn respond(&mut self, data: &[u8], cqe: &Cqe, lie: Lie) {
        let cid = cqe.cid.get();
        let Some(command) = self.commands.remove(&cid) else { return };
        let lie = if self.session.qid == Some(0) { Lie::None } else { lie };
        let mut segments = command.segments.clone();
        let mut bytes = data.to_vec();
        if lie == Lie::WritesBeyond && !bytes.is_empty() {
            bytes.resize(segments.iter().map(|s| s.len as usize).sum::<usize>() + 1, 0xbb);
            segments.iter_mut().for_each(|s| s.len += 1);
        }
        if lie == Lie::InvalidatesAnother && self.lied {
            return;
        }
        self.lied = lie != Lie::None;
        let data = (!bytes.is_empty()).then(|| (Buffer::from(&bytes[..]), &segments[..]));
        let invalidate = match lie {
            Lie::LeavesKeys | Lie::WritesLate | Lie::WritesNow => None,
            Lie::InvalidatesAnother => self.commands.values().find_map(|c| c.invalidate).or(command.invalidate),
            _ => command.invalidate,
        };
        let response = cqe.as_bytes();
        let response = if lie == Lie::Short { &response[..15] } else { response };
        self.endpoint.respond(cid.into(), data, response, invalidate);
        if lie == Lie::WritesLate && !bytes.is_empty() {
            self.late.push((segments, bytes.len()));
        }
    }
}

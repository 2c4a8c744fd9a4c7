//! A host that says what it is told to, right or wrong, with memory of its own.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_kv::{Key, KvCommand, RetrieveOptions, StoreOptions};
use kvof_rdma::{
    CmChannel, CmEvent, CmId, CompletionQueue, ConnectionEvent, Endpoint, EndpointConfig, Event, HostMemory,
    RemoteAccess, RemoteKey,
};
use kvof_spec::{
    Cc, Cqe, FromBytes, IntoBytes, Property, SglDescriptor, Sqe, Status,
    fabrics::{CNTLID_DYNAMIC, ConnectCmd, ConnectData, ConnectResult, PropertySetCmd},
    rdma::{CmAccept, CmReject, CmRequest, CmStatus},
};

use super::rig::{KV, NQN, Rig};

const PATIENCE: Duration = Duration::from_secs(20);

/// One connection of a host.
pub(crate) struct Host {
    channel: Arc<CmChannel>,
    cq: Arc<CompletionQueue>,
    pub(crate) endpoint: Endpoint<HostMemory>,
    done: HashMap<u16, Cqe>,
    events: VecDeque<Event<HostMemory>>,
    concealed: HashMap<u64, HostMemory>,
    /// The target or the network has ended it.
    pub(crate) is_over: bool,
    pub(crate) cntlid: u16,
    pub(crate) crqsize: u16,
    next: u16,
}

/// Private data of a good request.
pub(crate) fn request(qid: u16, entries: u16, cntlid: u16) -> CmRequest {
    let mut request = CmRequest::read_from_bytes(&[0; 32]).unwrap();
    (request.qid, request.hrqsize) = (qid.into(), entries.into());
    (request.hsqsize, request.cntlid) = ((entries - 1).into(), cntlid.into());
    request
}

fn wait(channel: &Arc<CmChannel>) -> ConnectionEvent {
    let until = Instant::now() + PATIENCE;
    loop {
        match channel.poll().unwrap() {
            Some(CmEvent::Connection { event, .. }) => return event,
            Some(CmEvent::Request { .. }) => panic!("a request"),
            None => assert!(Instant::now() < until, "no connection event in time"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connection to be, its route resolved.
pub(crate) fn resolve(to: SocketAddr) -> (CmId, Arc<CmChannel>) {
    let channel = CmChannel::new().unwrap();
    let id = CmId::resolve(&channel, 1, to, PATIENCE).unwrap();
    assert_eq!(wait(&channel), ConnectionEvent::AddressResolved);
    id.resolve_route(PATIENCE).unwrap();
    assert_eq!(wait(&channel), ConnectionEvent::RouteResolved);
    (id, channel)
}

impl Host {
    /// Asks for a connection with these words, for a queue of `entries` entries.
    pub(crate) fn ask(rig: &Rig, private_data: &[u8], entries: u32) -> Result<Self, CmStatus> {
        Self::ask_serving(rig, private_data, entries, 16)
    }

    /// The same; the target may have up to `reads` RDMA READs outstanding.
    pub(crate) fn ask_serving(rig: &Rig, private_data: &[u8], entries: u32, reads: u8) -> Result<Self, CmStatus> {
        let (id, channel) = resolve(rig.rdma.unwrap());
        let cq = CompletionQueue::new(&id.device().unwrap(), 4096).unwrap();
        let config = EndpointConfig {
            key: 1,
            receives: entries + 4,
            receive_size: 16,
            // More than the target has receives for, so that it can be overrun.
            sends: 4 * entries,
            send_size: 128 << 10,
            transfers: 1,
            reads: 0,
            reads_served: reads,
        };
        let endpoint = Endpoint::connect(id, &cq, config, private_data).unwrap();
        match wait(&channel) {
            ConnectionEvent::Established { private_data } => {
                let (accept, _) = CmAccept::read_from_prefix(&private_data).unwrap();
                assert_eq!(accept.recfmt.get(), 0);
                Ok(Self {
                    channel,
                    cq,
                    endpoint,
                    done: HashMap::new(),
                    events: VecDeque::new(),
                    concealed: HashMap::new(),
                    is_over: false,
                    cntlid: 0,
                    crqsize: accept.crqsize.get(),
                    next: 0,
                })
            }
            ConnectionEvent::Rejected { private_data, .. } => {
                let (reject, _) = CmReject::read_from_prefix(&private_data).expect("a refusal says why");
                Err(reject.status())
            }
            other => panic!("{other:?}"),
        }
    }

    /// The admin queue of an enabled controller.
    pub(crate) fn admin(rig: &Rig) -> Self {
        let mut host = Self::ask(rig, request(0, 32, 0).as_bytes(), 32).unwrap();
        let cqe = host.connect_queue(0, 32, CNTLID_DYNAMIC);
        assert_eq!(cqe.status(), Status::SUCCESS);
        host.cntlid = ConnectResult(cqe.dw0.get()).cntlid();
        let cc =
            Cc::default().with_en(true).with_css(Cc::CSS_IOCS).with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16);
        let set = PropertySetCmd::new(Property::CC, cc.0.into()).unwrap().to_sqe();
        assert_eq!(host.execute(set, none()).status(), Status::SUCCESS);
        host
    }

    /// I/O queue `qid` of the controller that `admin` has.
    pub(crate) fn io(rig: &Rig, admin: &Self, qid: u16, entries: u16) -> Self {
        let mut host = Self::ask(rig, request(qid, entries, admin.cntlid).as_bytes(), entries.into()).unwrap();
        assert_eq!(host.crqsize, entries);
        host.cntlid = admin.cntlid;
        assert_eq!(host.connect_queue(qid, entries, admin.cntlid).status(), Status::SUCCESS);
        host
    }

    /// A controller's admin queue and I/O queue 1.
    pub(crate) fn pair(rig: &Rig) -> (Self, Self) {
        let admin = Self::admin(rig);
        let io = Self::io(rig, &admin, 1, 32);
        (admin, io)
    }

    /// Connect, its data in the capsule.
    pub(crate) fn connect_queue(&mut self, qid: u16, entries: u16, cntlid: u16) -> Cqe {
        let connect = ConnectCmd::new(qid, entries - 1, 0);
        let hostnqn = "nqn.2024-01.localhost:host".parse().unwrap();
        let data = ConnectData::new([0x5a; 16], cntlid, &NQN.parse().unwrap(), &hostnqn);
        let cid = self.capsule(connect.to_sqe(), SglDescriptor::in_capsule(0, 1024), data.as_bytes());
        self.completion(cid)
    }

    /// Sends bytes that may be a capsule.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.endpoint.send(0, bytes);
        self.turn();
    }

    /// Sends a command under a fresh identifier, and gives that.
    pub(crate) fn capsule(&mut self, sqe: Sqe, sgl: SglDescriptor, behind: &[u8]) -> u16 {
        self.next += 1;
        let sqe = Sqe { cid: self.next.into(), sgl1: sgl, ..sqe };
        let mut bytes = sqe.as_bytes().to_vec();
        bytes.extend(behind);
        self.send(&bytes);
        self.next
    }

    /// Runs a command.
    #[track_caller]
    pub(crate) fn execute(&mut self, sqe: Sqe, sgl: SglDescriptor) -> Cqe {
        let cid = self.capsule(sqe, sgl, &[]);
        self.completion(cid)
    }

    /// Whether command `cid` is completed, as far as was looked.
    pub(crate) fn is_completed(&self, cid: u16) -> bool {
        self.done.contains_key(&cid)
    }

    /// The completion of command `cid`.
    #[track_caller]
    pub(crate) fn completion(&mut self, cid: u16) -> Cqe {
        self.wait("completed", |host| host.done.remove(&cid))
    }

    /// Exposes memory; it comes back with [`Self::conceal`].
    pub(crate) fn expose(&mut self, token: u64, bytes: &[u8], access: RemoteAccess) -> RemoteKey {
        let mut memory = HostMemory::new(bytes.len()).unwrap();
        memory.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        self.endpoint.expose(token, memory, access).unwrap_or_else(|(_, error)| panic!("{error}"))
    }

    /// Takes exposed memory back.
    #[track_caller]
    pub(crate) fn conceal(&mut self, token: u64) -> HostMemory {
        self.endpoint.conceal(token);
        self.wait("concealed", |host| host.concealed.remove(&token))
    }

    #[track_caller]
    pub(crate) fn store(&mut self, name: &str, value: &[u8]) -> Status {
        let memory = self.expose(7, value, RemoteAccess::Read);
        let cqe = self.execute(store(name, value.len()), keyed(&memory, 0, value.len(), memory.invalidatable));
        self.conceal(7);
        cqe.status()
    }

    #[track_caller]
    pub(crate) fn retrieve(&mut self, name: &str, buffer: usize) -> (Cqe, Vec<u8>) {
        let memory = self.expose(8, &vec![0; buffer], RemoteAccess::Write);
        let cqe = self.execute(retrieve(name, buffer), keyed(&memory, 0, buffer, memory.invalidatable));
        let bytes = self.conceal(8).as_slice()[..buffer].to_vec();
        (cqe, bytes)
    }

    /// The connection still works.
    #[track_caller]
    pub(crate) fn expect_alive(&mut self) {
        assert_eq!(self.execute(exist("alive?"), none()).status().code(), Status::KEY_DOES_NOT_EXIST);
    }

    /// The target ends the connection.
    #[track_caller]
    pub(crate) fn expect_over(&mut self) {
        self.wait("over", |host| host.is_over.then_some(()));
    }

    /// The target disconnects, while this host looks at no answer.
    #[track_caller]
    pub(crate) fn expect_disconnect(&mut self) {
        assert_eq!(wait(&self.channel), ConnectionEvent::Disconnected);
        self.is_over = true;
        self.endpoint.disconnect();
    }

    #[track_caller]
    fn wait<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < until, "not {what} in time; over: {}", self.is_over);
            self.turn();
        }
    }

    /// Moves everything on once.
    pub(crate) fn turn(&mut self) {
        let (mut completions, mut events) = (Vec::new(), Vec::new());
        self.cq.poll(&mut completions);
        for completion in completions {
            self.endpoint.handle(completion, &mut events);
        }
        self.endpoint.take_events(&mut events);
        self.events.extend(events);
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Received { slot, .. } => {
                    let cqe = Cqe::read_from_bytes(self.endpoint.received(slot)).expect("a response capsule");
                    self.endpoint.release(slot);
                    assert!(self.done.insert(cqe.cid.get(), cqe).is_none(), "answered twice");
                }
                Event::Concealed { token, memory } => {
                    self.concealed.insert(token, memory);
                }
                Event::Failed(_) => self.is_over = true,
                Event::Sent { .. } | Event::Fetched { .. } => {}
            }
        }
        while let Some(CmEvent::Connection { event, .. }) = self.channel.poll().unwrap() {
            if event == ConnectionEvent::Disconnected {
                self.is_over = true;
                self.endpoint.disconnect();
            }
        }
    }
}

/// A descriptor of no data.
pub(crate) fn none() -> SglDescriptor {
    SglDescriptor::keyed(0, 0, 0, false).unwrap()
}

/// `len` bytes from `offset` of exposed memory.
pub(crate) fn keyed(memory: &RemoteKey, offset: usize, len: usize, invalidate: bool) -> SglDescriptor {
    SglDescriptor::keyed(memory.address + offset as u64, len as u32, memory.key, invalidate).unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text.as_bytes()).unwrap()
}

pub(crate) fn store(name: &str, len: usize) -> Sqe {
    KvCommand::store(KV, &key(name), StoreOptions::empty(), len as u32).to_sqe(none())
}

pub(crate) fn retrieve(name: &str, buffer: usize) -> Sqe {
    KvCommand::retrieve(KV, &key(name), RetrieveOptions::empty(), buffer as u32).to_sqe(none())
}

pub(crate) fn exist(name: &str) -> Sqe {
    KvCommand::exist(KV, &key(name)).to_sqe(none())
}

/// `len` bytes that differ from place to place and by `seed`.
pub(crate) fn value(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(7) ^ (i >> 8) as u8 ^ seed).collect()
}

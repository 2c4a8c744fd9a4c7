//! A connected queue pair that owns all memory which its device may still touch.
//!
//! Work is taken at any time and in any amount that its owner allows; what the send queue has no room for waits here, in order. RDMA READs
//! wait apart, so that none of them ever keeps other work from going: no more are posted than the device has room for, and large
//! transfers take turns.
//!
//! When anything fails, the queue pair is in error: everything that was taken still comes back, as failed.

mod qp;
mod transfer;

use std::{
    collections::{HashMap, VecDeque},
    mem::{self, ManuallyDrop},
    slice,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use slab::Slab;

use self::{
    qp::{Qp, Work},
    transfer::Transfer,
};
use crate::{
    CmId, CompletionQueue, Device, HostMemory, Memory, Mr, MrAccess, RdmaError, WorkCompletion, WorkError,
    completion::{Invalidated, WrId, WrKind},
    window::Window,
};

/// Bytes of data that RDMA WRITEs of one endpoint may have in the send queue; beyond that they wait, and small answers pass them.
const WRITE_WINDOW: u64 = 4 << 20;
/// Capsules begin at multiples of this, so that two of them share no cache line.
const CAPSULE_ALIGN: usize = 64;

/// Remote memory, under a key that its owner has given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RemoteSegment {
    /// First byte.
    pub address: u64,
    /// Remote key.
    pub key: u32,
    /// Bytes.
    pub len: u32,
}

/// What a peer may do with exposed memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteAccess {
    /// RDMA READ.
    Read,
    /// RDMA WRITE.
    Write,
}

/// Where a peer finds exposed memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteKey {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// Remote key, of no use once the memory is concealed.
    pub key: u32,
    /// The peer may invalidate the key with its SEND.
    pub invalidatable: bool,
}

/// How an endpoint is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndpointConfig {
    /// What completions of its work are found by; less than 2^20.
    pub key: u32,
    /// Capsules of the peer that can be received before any is released.
    pub receives: u32,
    /// Most bytes of a received capsule.
    pub receive_size: u32,
    /// Capsules to the peer under way at once; more wait.
    pub sends: u32,
    /// Most bytes of a capsule to the peer.
    pub send_size: u32,
    /// RDMA READs and WRITEs in the send queue at once; more wait.
    pub transfers: u32,
    /// Most RDMA READs at once, of which the peer and the device may allow fewer.
    pub reads: u8,
    /// Most RDMA READs of the peer served at once.
    pub reads_served: u8,
}

impl EndpointConfig {
    /// Bytes of memory for capsules.
    #[must_use]
    pub const fn capsule_memory(&self) -> u64 {
        stride(self.receive_size) * self.receives as u64 + stride(self.send_size) * self.sends as u64
    }

    /// Entries of a completion queue that an endpoint like this reserves, at most.
    #[must_use]
    pub const fn completions(&self) -> u32 {
        self.send_queue().saturating_add(self.receives)
    }

    /// A capsule may come with a bind, and be followed by an invalidation.
    const fn send_queue(&self) -> u32 {
        self.sends.saturating_mul(3).saturating_add(self.transfers)
    }
}

const fn stride(capsule: u32) -> u64 {
    (capsule as u64).next_multiple_of(CAPSULE_ALIGN as u64)
}

/// What an endpoint tells.
#[derive(Debug)]
pub enum Event<B> {
    /// A capsule has come: read it by [`Endpoint::received`], then [`Endpoint::release`] it.
    Received {
        /// Where it is.
        slot: u32,
        /// Bytes.
        len: u32,
        /// The key that the peer has invalidated with it.
        invalidated: Option<u32>,
    },
    /// A fetch is over.
    Fetched {
        /// Its name.
        token: u64,
        /// The memory, with the data if that succeeded.
        memory: B,
        /// Whether it did.
        result: Result<(), WorkError>,
    },
    /// A capsule, with the data before it, has reached the peer, or never will.
    Sent {
        /// Its name.
        token: u64,
        /// The memory of the data.
        memory: Option<B>,
        /// Whether it has.
        result: Result<(), WorkError>,
    },
    /// Exposed memory is out of the peer's reach.
    Concealed {
        /// Its name.
        token: u64,
        /// The memory.
        memory: B,
    },
    /// The queue pair is in error. All that is under way comes back as failed; nothing new succeeds.
    Failed(WorkError),
}

/// A connected queue pair; `B` is the memory that it moves data from and to.
#[derive(Debug)]
pub struct Endpoint<B: Memory> {
    // The queue pair goes first: nothing below may be given up while it lives.
    qp: Qp,
    unique: u32,
    config: EndpointConfig,
    device: Arc<Device>,
    /// Key of `capsules` on the device.
    lkey: u32,
    /// Receive slots, then send slots.
    capsules: ManuallyDrop<HostMemory>,
    /// Of each receive slot: how many bytes have come, if it is not posted.
    held: Vec<Option<u32>>,
    free_sends: Vec<u32>,
    ops: Slab<Op<B>>,
    /// Operations in the send queue, in order: each with its number of requests.
    posted: VecDeque<Posted>,
    /// Requests in the send queue.
    in_queue: u32,
    /// Capsules, bindings and invalidations that wait for room, in order.
    waiting: VecDeque<usize>,
    /// Transfers with requests left to post, in turns.
    transfers: VecDeque<usize>,
    /// RDMA READs that may be outstanding.
    reads_max: u32,
    reads: u32,
    /// Bytes of RDMA WRITEs in the send queue.
    writing: u64,
    windows: Vec<Window>,
    exposed: HashMap<u64, Exposure<B>>,
    /// Which exposure has a key.
    keys: HashMap<u32, u64>,
    /// Bindings that go with the next capsule.
    binds: Vec<Work>,
    batch: Vec<(WrId, Work)>,
    events: VecDeque<Event<B>>,
    failed: Option<WorkError>,
}

// SAFETY: all parts may go to another thread; the pointers in `binds` name verbs objects, which may be used from any thread.
unsafe impl<B: Memory> Send for Endpoint<B> {}

#[derive(Debug)]
enum Op<B> {
    Capsule { token: u64, capsule: Capsule, binds: Vec<Work>, memory: Option<B> },
    Respond { token: u64, capsule: Capsule, transfer: Transfer<B> },
    Fetch { token: u64, transfer: Transfer<B>, result: Result<(), WorkError> },
    Invalidate { token: u64, key: u32 },
}

/// A capsule to be sent.
#[derive(Debug)]
struct Capsule {
    invalidate: Option<u32>,
    len: u32,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Slot(u32),
    /// All slots were taken.
    Heap(Box<[u8]>),
}

/// Requests of one operation in the send queue, of which the last one tells when all are done.
#[derive(Debug)]
struct Posted {
    op: usize,
    requests: u32,
    reads: u32,
    written: u64,
}

/// Memory that the peer can reach.
#[derive(Debug)]
struct Exposure<B> {
    memory: B,
    by: By,
    /// The peer's SEND has invalidated its key.
    is_dead: bool,
}

#[derive(Debug)]
enum By {
    Window(Window),
    /// A registration of its own, for devices without windows.
    Registration(Mr),
}

impl<B: Memory> Endpoint<B> {
    /// Accepts the connection that was asked for with `id`; `reads` of the configuration is at most what the request allows.
    ///
    /// # Errors
    /// [`RdmaError`]; `is_exhaustion` tells what may succeed later or with less. The request is refused with `refusal` then.
    pub fn accept(
        id: CmId,
        cq: &Arc<CompletionQueue>,
        config: EndpointConfig,
        private_data: &[u8],
        refusal: &[u8],
    ) -> Result<Self, RdmaError> {
        let endpoint = Self::new(id, cq, config).map_err(|(error, id)| {
            if let Some(Err(error)) = id.map(|id| id.reject(refusal)) {
                tracing::debug!(%error, "a connection request could not be refused");
            }
            error
        })?;
        let (reads, served) = (endpoint.reads_max, config.reads_served.min(cq.device().limits().max_reads_served));
        endpoint.qp.accept(private_data, u8::try_from(reads).unwrap_or(u8::MAX), served)?;
        Ok(endpoint)
    }

    /// Asks for the connection of `id`, whose route is resolved. Capsules may be sent once it is established.
    ///
    /// # Errors
    /// [`RdmaError`].
    pub fn connect(
        id: CmId,
        cq: &Arc<CompletionQueue>,
        config: EndpointConfig,
        private_data: &[u8],
    ) -> Result<Self, RdmaError> {
        let endpoint = Self::new(id, cq, config).map_err(|(error, _)| error)?;
        let served = config.reads_served.min(cq.device().limits().max_reads_served);
        endpoint.qp.connect(private_data, u8::try_from(endpoint.reads_max).unwrap_or(u8::MAX), served)?;
        Ok(endpoint)
    }

    /// The id comes back where no queue pair was made of it.
    fn new(id: CmId, cq: &Arc<CompletionQueue>, config: EndpointConfig) -> Result<Self, (RdmaError, Option<CmId>)> {
        static UNIQUE: AtomicU32 = AtomicU32::new(0);
        let device = Arc::clone(cq.device());
        let memory = usize::try_from(config.capsule_memory()).unwrap_or(usize::MAX);
        let exhausted = RdmaError::Call { call: "allocating memory for capsules", errno: libc::ENOMEM };
        let Some(capsules) = HostMemory::new(memory) else { return Err((exhausted, Some(id))) };
        let lkey = match capsules.registration(&device) {
            Ok(mr) => mr.lkey(),
            Err(error) => return Err((error, Some(id))),
        };
        let qp = Qp::new(id, cq, config.send_queue(), config.receives).map_err(|(error, id)| (error, Some(id)))?;
        let reads_max = u32::from(config.reads.min(device.limits().max_reads));
        let mut endpoint = Self {
            qp,
            unique: UNIQUE.fetch_add(1, Ordering::Relaxed) % WrId::KEYS,
            config,
            device,
            lkey,
            capsules: ManuallyDrop::new(capsules),
            held: vec![Some(0); config.receives as usize],
            free_sends: (0..config.sends).rev().collect(),
            ops: Slab::new(),
            posted: VecDeque::new(),
            in_queue: 0,
            waiting: VecDeque::new(),
            transfers: VecDeque::new(),
            reads_max,
            reads: 0,
            writing: 0,
            windows: Vec::new(),
            exposed: HashMap::new(),
            keys: HashMap::new(),
            binds: Vec::new(),
            batch: Vec::new(),
            events: VecDeque::new(),
            failed: None,
        };
        for slot in 0..config.receives {
            endpoint.post_receive(slot).map_err(|error| (error, None))?;
        }
        Ok(endpoint)
    }

    /// The device that it works through.
    #[must_use]
    pub const fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The connection's address at this end.
    #[must_use]
    pub fn local_addr(&self) -> std::net::SocketAddr {
        self.qp.id().local_addr()
    }

    /// The connection's address at the peer's end.
    #[must_use]
    pub fn peer_addr(&self) -> std::net::SocketAddr {
        self.qp.id().peer_addr()
    }

    /// Reads the remote memory `from`, all of it, in order, into the first bytes of `into`; [`Event::Fetched`] gives it back. Bytes that
    /// do not fit are not read.
    pub fn fetch(&mut self, token: u64, into: B, from: &[RemoteSegment]) {
        let lkey = match into.registration(&self.device) {
            Ok(mr) if into.is_writable() => mr.lkey(),
            refused => {
                tracing::warn!(error = ?refused.err(), len = into.len(), "memory cannot be read into");
                let result = Err(WorkError::NOT_POSTED);
                return self.events.push_back(Event::Fetched { token, memory: into, result });
            }
        };
        let transfer = Transfer::new(into, lkey, from);
        let is_empty = transfer.is_over();
        let op = self.ops.insert(Op::Fetch { token, transfer, result: Ok(()) });
        if is_empty || self.failed.is_some() {
            return self.give_back(op, self.failed.map_or(Ok(()), |_| Err(WorkError::FLUSHED)));
        }
        self.transfers.push_back(op);
        self.pump();
    }

    /// Writes `data`, all of it, to the remote memory in order, then sends `capsule`, and has the peer's key `invalidate` die with it;
    /// [`Event::Sent`] gives the memory back.
    pub fn respond(
        &mut self,
        token: u64,
        data: Option<(B, &[RemoteSegment])>,
        capsule: &[u8],
        invalidate: Option<u32>,
    ) {
        let capsule = self.place(capsule, invalidate);
        let Some((memory, to)) = data else {
            let op = self.ops.insert(Op::Capsule { token, capsule, binds: Vec::new(), memory: None });
            return self.enqueue(op);
        };
        let transfer = match memory.registration(&self.device).map(Mr::lkey) {
            Ok(lkey) => Transfer::new(memory, lkey, to),
            Err(error) => {
                tracing::warn!(%error, len = memory.len(), "memory cannot be written from");
                let op = self.ops.insert(Op::Capsule { token, capsule, binds: Vec::new(), memory: Some(memory) });
                return self.give_back(op, Err(WorkError::NOT_POSTED));
            }
        };
        let op = self.ops.insert(Op::Respond { token, capsule, transfer });
        if self.failed.is_some() {
            return self.give_back(op, Err(WorkError::FLUSHED));
        }
        self.transfers.push_back(op);
        self.pump();
    }

    /// Lets the peer read or write `memory` under a key of its own, from the next capsule on, until [`Self::conceal`] of the same
    /// `token`.
    ///
    /// # Errors
    /// The memory, and why it cannot be exposed: it is read-only, cannot be registered, or the token is in use.
    pub fn expose(&mut self, token: u64, memory: B, access: RemoteAccess) -> Result<RemoteKey, (B, RdmaError)> {
        if self.exposed.contains_key(&token) {
            return Err((memory, RdmaError::Call { call: "exposing memory", errno: libc::EEXIST }));
        }
        let write = access == RemoteAccess::Write;
        if write && !memory.is_writable() {
            let len = memory.len();
            return Err((memory, RdmaError::ReadOnly { len }));
        }
        let (address, len) = (memory.address(), memory.len() as u64);
        let by = if self.device.limits().windows { self.bind(&memory, write) } else { self.register(&memory, write) };
        let by = match by {
            Ok(by) => by,
            Err(error) => return Err((memory, error)),
        };
        let (key, invalidatable) = match &by {
            By::Window(window) => (window.key(), true),
            By::Registration(mr) => (mr.rkey(), false),
        };
        self.keys.insert(key, token);
        self.exposed.insert(token, Exposure { memory, by, is_dead: false });
        Ok(RemoteKey { address, len, key, invalidatable })
    }

    fn bind(&mut self, memory: &B, write: bool) -> Result<By, RdmaError> {
        let mr = memory.registration(&self.device)?.raw();
        let mut window = match self.windows.pop() {
            Some(window) => window,
            None => Window::new(&self.device)?,
        };
        let (key, address, len) = (window.next_key(), memory.address(), memory.len() as u64);
        self.binds.push(Work::Bind { window: window.raw(), key, mr, address, len, write });
        Ok(By::Window(window))
    }

    fn register(&self, memory: &B, write: bool) -> Result<By, RdmaError> {
        let access = if write { MrAccess::RemoteWrite } else { MrAccess::RemoteRead };
        memory.register_exactly(&self.device, access).map(By::Registration)
    }

    /// Sends `capsule`; [`Event::Sent`] tells when it has arrived.
    pub fn send(&mut self, token: u64, capsule: &[u8]) {
        let capsule = self.place(capsule, None);
        let binds = mem::take(&mut self.binds);
        let op = self.ops.insert(Op::Capsule { token, capsule, binds, memory: None });
        self.enqueue(op);
    }

    /// Takes exposed memory out of the peer's reach; [`Event::Concealed`] gives it back, at once where its key is dead already, and after
    /// a failure. Nothing happens if nothing is exposed as `token`.
    pub fn conceal(&mut self, token: u64) {
        let Some(exposure) = self.exposed.get(&token) else { return };
        if let By::Window(window) = &exposure.by
            && let Some(at) =
                self.binds.iter().position(|bind| matches!(bind, Work::Bind { key, .. } if *key == window.key()))
        {
            // No capsule took the binding along: it never was.
            self.binds.remove(at);
            return self.concealed(token);
        }
        let key = match &exposure.by {
            By::Window(window) if !exposure.is_dead && self.failed.is_none() => window.key(),
            // After a failure no work request can invalidate the key: it goes with its window or registration.
            By::Window(_) | By::Registration(_) => return self.concealed(token),
        };
        let op = self.ops.insert(Op::Invalidate { token, key });
        self.enqueue(op);
    }

    /// A received capsule, until it is released.
    #[must_use]
    pub fn received(&self, slot: u32) -> &[u8] {
        let Some(Some(len)) = self.held.get(slot as usize) else { return &[] };
        let start = self.receive_offset(slot);
        // SAFETY: the slot lies within the capsules' memory and has at least `len` bytes, initialised; the device does not write it
        // before `release`, which takes `&mut self`. It writes other slots meanwhile, so there must be no slice of them all.
        unsafe { slice::from_raw_parts(self.capsules.start().add(start), *len as usize) }
    }

    /// Gives the place of a received capsule back for another.
    pub fn release(&mut self, slot: u32) {
        if self.held.get(slot as usize).is_some_and(Option::is_some)
            && self.failed.is_none()
            && let Err(error) = self.post_receive(slot)
        {
            tracing::warn!(%error, "a receive cannot be posted");
            self.fail(WorkError::NOT_POSTED);
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "a completion is handled once")]
    /// Takes a completion of this endpoint's work, and tells what came of it. Those of other endpoints are ignored.
    pub fn handle(&mut self, completion: WorkCompletion, into: &mut Vec<Event<B>>) {
        let WorkCompletion { id, result, len, invalidated } = completion;
        if id.key() == self.config.key && id.unique() == self.unique {
            match id.kind() {
                WrKind::Receive => self.handle_receive(id.index(), result, len, invalidated),
                WrKind::Last => self.handle_last(id.index(), result),
                WrKind::Part => {
                    // The operation ends with its last request, which fails too.
                    if let Err(error) = result {
                        self.fail(error);
                    }
                }
            }
            self.pump();
        }
        self.take_events(into);
    }

    /// Gives what has happened without a completion, or since the last.
    pub fn take_events(&mut self, into: &mut Vec<Event<B>>) {
        into.extend(self.events.drain(..));
    }

    /// Whether [`Self::take_events`] has anything to give.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Ends the connection: what is under way comes back as failed.
    pub fn disconnect(&mut self) {
        self.qp.disconnect();
        self.fail(WorkError::FLUSHED);
    }

    /// Whether nothing is in the send queue any more.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.ops.is_empty()
    }

    /// Why the queue pair is in error, if it is.
    #[must_use]
    pub const fn failed(&self) -> Option<WorkError> {
        self.failed
    }

    /// Destroys the queue pair and gives all memory back, exposed memory too: nothing remote can reach it any more.
    #[must_use]
    pub fn close(mut self) -> Vec<Event<B>> {
        self.conceal_all();
        if self.qp.destroy() {
            for op in self.ops.iter().map(|(op, _)| op).collect::<Vec<_>>() {
                self.give_back(op, Err(WorkError::FLUSHED));
            }
        }
        self.events.drain(..).collect()
    }

    /// Takes all memory out of the peer's reach, at the price of the queue pair.
    fn conceal_all(&mut self) {
        self.fail(WorkError::FLUSHED);
        // Windows go before their queue pair: Soft-RoCE keeps it for 50 seconds otherwise.
        for token in self.exposed.keys().copied().collect::<Vec<_>>() {
            self.concealed(token);
        }
        self.windows.clear();
    }

    fn concealed(&mut self, token: u64) {
        let Some(exposure) = self.exposed.remove(&token) else { return };
        match exposure.by {
            By::Window(window) => {
                self.keys.remove(&window.key());
                if self.failed.is_none() {
                    self.windows.push(window);
                }
            }
            By::Registration(mr) => {
                self.keys.remove(&mr.rkey());
            }
        }
        self.events.push_back(Event::Concealed { token, memory: exposure.memory });
    }

    fn handle_receive(&mut self, slot: u32, result: Result<(), WorkError>, len: u32, invalidated: Option<Invalidated>) {
        let Some(place) = self.held.get_mut(slot as usize).filter(|place| place.is_none()) else { return };
        let len = len.min(self.config.receive_size);
        *place = Some(len);
        match result {
            Ok(()) => {
                let invalidated = invalidated.filter(|i| i.is_certain || self.keys.contains_key(&i.key)).map(|i| i.key);
                if let Some(exposure) =
                    invalidated.and_then(|key| self.keys.get(&key)).and_then(|token| self.exposed.get_mut(token))
                    && matches!(exposure.by, By::Window(_))
                {
                    exposure.is_dead = true;
                }
                self.events.push_back(Event::Received { slot, len, invalidated });
            }
            Err(error) => self.fail(error),
        }
    }

    /// The last request of the oldest operations in the send queue is done.
    fn handle_last(&mut self, op: u32, result: Result<(), WorkError>) {
        let op = op as usize;
        // The send queue works in order: whatever was posted before is done as well. It had a completion of its own.
        let Some(posted) = self.posted.pop_front_if(|posted| posted.op == op) else { return };
        self.in_queue -= posted.requests;
        self.reads -= posted.reads;
        self.writing -= posted.written;
        if let Err(error) = result {
            self.fail(error);
        }
        match self.ops.get_mut(op) {
            Some(Op::Fetch { transfer, result: outcome, .. }) => {
                transfer.outstanding -= 1;
                if let Err(error) = result {
                    *outcome = Err(error);
                }
                let outcome = *outcome;
                if transfer.outstanding == 0 && (transfer.is_over() || self.failed.is_some()) {
                    self.give_back(op, outcome.and(result));
                }
            }
            Some(Op::Respond { transfer, .. }) => {
                transfer.outstanding -= 1;
                if transfer.outstanding == 0 && (transfer.is_sent || self.failed.is_some()) {
                    self.give_back(op, result);
                }
            }
            Some(Op::Capsule { .. } | Op::Invalidate { .. }) => self.give_back(op, result),
            None => {}
        }
    }

    /// The queue pair is in error: what is not posted comes back now, what is posted when it is flushed.
    fn fail(&mut self, error: WorkError) {
        if self.failed.is_some() {
            return;
        }
        self.failed = Some(error);
        self.qp.fail();
        self.events.push_back(Event::Failed(error));
        self.binds.clear();
        let unposted: Vec<usize> = self.waiting.drain(..).chain(self.transfers.drain(..)).collect();
        for op in unposted {
            let outstanding = match self.ops.get(op) {
                Some(Op::Fetch { transfer, .. } | Op::Respond { transfer, .. }) => transfer.outstanding,
                _ => 0,
            };
            if outstanding == 0 {
                self.give_back(op, Err(WorkError::FLUSHED));
            }
        }
    }

    /// An operation is over: tells, and gives its memory back. None of its requests is in the send queue.
    fn give_back(&mut self, op: usize, result: Result<(), WorkError>) {
        let result = if self.failed.is_some() { result.and(Err(WorkError::FLUSHED)) } else { result };
        match self.ops.try_remove(op) {
            Some(Op::Fetch { token, transfer, .. }) => {
                self.events.push_back(Event::Fetched { token, memory: transfer.memory, result });
            }
            Some(Op::Respond { token, capsule, transfer }) => {
                self.free(&capsule);
                self.events.push_back(Event::Sent { token, memory: Some(transfer.memory), result });
            }
            Some(Op::Capsule { token, capsule, memory, .. }) => {
                self.free(&capsule);
                self.events.push_back(Event::Sent { token, memory, result });
            }
            Some(Op::Invalidate { token, .. }) if result.is_ok() => self.concealed(token),
            Some(Op::Invalidate { .. }) | None => {}
        }
    }

    fn enqueue(&mut self, op: usize) {
        if self.failed.is_some() {
            return self.give_back(op, Err(WorkError::FLUSHED));
        }
        self.waiting.push_back(op);
        self.pump();
    }

    /// Posts what there is room for.
    fn pump(&mut self) {
        if self.failed.is_some() || (self.waiting.is_empty() && self.transfers.is_empty()) {
            return;
        }
        let mut batch = mem::take(&mut self.batch);
        let mut fresh = 0;
        while let Some(&op) = self.waiting.front() {
            let Some(posted) = self.start_waiting(op, &mut batch) else { break };
            self.waiting.pop_front();
            self.note(posted);
            fresh += 1;
        }
        // Each transfer has its turn; a round in which none could move ends it.
        let mut stuck = 0;
        while stuck < self.transfers.len() {
            let Some(op) = self.transfers.pop_front() else { break };
            match self.start_transfer(op, &mut batch) {
                Some((posted, more)) => {
                    self.note(posted);
                    fresh += 1;
                    stuck = 0;
                    if more {
                        self.transfers.push_back(op);
                    }
                }
                None => {
                    self.transfers.push_back(op);
                    stuck += 1;
                }
            }
        }
        if !batch.is_empty() {
            // SAFETY: all memory that the requests name is owned by `ops`, `capsules` and `exposed`, which give it up when the last
            // request of an operation is done or the queue pair destroyed; windows and registrations likewise.
            let (taken, error) = unsafe { self.qp.post(&batch) };
            if let Some(error) = error {
                tracing::warn!(%error, "work requests were not taken");
                self.unpost(fresh, taken, &batch);
            }
        }
        batch.clear();
        self.batch = batch;
    }

    fn note(&mut self, posted: Posted) {
        self.in_queue += posted.requests;
        self.reads += posted.reads;
        self.writing += posted.written;
        self.posted.push_back(posted);
    }

    /// Of the `fresh` operations that `batch` consists of, only the first `taken` requests are in the send queue: the others are
    /// over. One that is there in part ends with the queue pair, as its last request never will.
    fn unpost(&mut self, fresh: usize, taken: usize, batch: &[(WrId, Work)]) {
        let mut left = batch.len();
        let mut over = Vec::new();
        for _ in 0..fresh {
            let Some(posted) = self.posted.back() else { break };
            left -= (posted.requests as usize).min(left);
            if left < taken {
                break;
            }
            let Some(posted) = self.posted.pop_back() else { break };
            self.in_queue -= posted.requests;
            self.reads -= posted.reads;
            self.writing -= posted.written;
            if let Some(Op::Fetch { transfer, .. } | Op::Respond { transfer, .. }) = self.ops.get_mut(posted.op) {
                transfer.outstanding -= 1;
                if transfer.outstanding > 0 {
                    continue;
                }
            }
            over.push(posted.op);
        }
        self.fail(WorkError::NOT_POSTED);
        for op in over {
            self.give_back(op, Err(WorkError::NOT_POSTED));
        }
    }

    /// The requests of a waiting operation, if there is room for them.
    fn start_waiting(&mut self, op: usize, batch: &mut Vec<(WrId, Work)>) -> Option<Posted> {
        let room = self.qp.sends - self.in_queue;
        let (key, unique) = (self.config.key, self.unique);
        let id = |kind| WrId::new(key, unique, kind, op as u32);
        let requests = match self.ops.get(op) {
            Some(Op::Capsule { binds, .. }) => 1 + binds.len() as u32,
            _ => 1,
        };
        if requests > room || !self.settle(op) {
            return None;
        }
        match self.ops.get(op) {
            Some(Op::Capsule { capsule, binds, .. }) => {
                batch.extend(binds.iter().map(|bind| (id(WrKind::Part), *bind)));
                batch.push((id(WrKind::Last), self.send_work(capsule)));
            }
            Some(Op::Invalidate { key, .. }) => batch.push((id(WrKind::Last), Work::Invalidate { key: *key })),
            _ => {}
        }
        Some(Posted { op, requests, reads: 0, written: 0 })
    }

    /// The next requests of a transfer, if there is room for them, and whether more are left.
    fn start_transfer(&mut self, op: usize, batch: &mut Vec<(WrId, Work)>) -> Option<(Posted, bool)> {
        let room = self.qp.sends - self.in_queue;
        let (key, unique) = (self.config.key, self.unique);
        let id = |kind| WrId::new(key, unique, kind, op as u32);
        let may_start = match self.ops.get(op)? {
            Op::Fetch { .. } => room > 0 && self.reads < self.reads_max,
            // The last piece goes together with the capsule.
            Op::Respond { .. } => room >= 2 && self.writing < WRITE_WINDOW && self.settle(op),
            Op::Capsule { .. } | Op::Invalidate { .. } => false,
        };
        if !may_start {
            return None;
        }
        match self.ops.get_mut(op)? {
            Op::Fetch { transfer, .. } => {
                let (address, from) = transfer.next()?;
                transfer.outstanding += 1;
                batch.push((id(WrKind::Last), Work::Read { address, lkey: transfer.lkey, from }));
                Some((Posted { op, requests: 1, reads: 1, written: 0 }, !transfer.is_over()))
            }
            Op::Respond { transfer, .. } => {
                let mut posted = Posted { op, requests: 0, reads: 0, written: 0 };
                transfer.outstanding += 1;
                if let Some((address, to)) = transfer.next() {
                    posted.requests = 1;
                    posted.written = to.len.into();
                    let kind = if transfer.is_over() { WrKind::Part } else { WrKind::Last };
                    batch.push((id(kind), Work::Write { address, lkey: transfer.lkey, to }));
                }
                if !transfer.is_over() {
                    return Some((posted, true));
                }
                transfer.is_sent = true;
                posted.requests += 1;
                if let Some(Op::Respond { capsule, .. }) = self.ops.get(op) {
                    batch.push((id(WrKind::Last), self.send_work(capsule)));
                }
                Some((posted, false))
            }
            Op::Capsule { .. } | Op::Invalidate { .. } => None,
        }
    }

    /// A place in a send slot for a capsule.
    fn place(&mut self, bytes: &[u8], invalidate: Option<u32>) -> Capsule {
        let bytes = bytes.get(..self.config.send_size as usize).unwrap_or(bytes);
        let place = match self.free_sends.pop() {
            Some(slot) => {
                self.write_slot(slot, bytes);
                Place::Slot(slot)
            }
            None => Place::Heap(bytes.into()),
        };
        Capsule { invalidate, len: bytes.len() as u32, place }
    }

    /// Whether the capsule of an operation has a slot; one that waited for a slot gets one, if there is one.
    fn settle(&mut self, op: usize) -> bool {
        let Some(Op::Capsule { capsule, .. } | Op::Respond { capsule, .. }) = self.ops.get_mut(op) else { return true };
        if matches!(capsule.place, Place::Slot(_)) {
            return true;
        }
        let Some(slot) = self.free_sends.pop() else { return false };
        if let Place::Heap(bytes) = mem::replace(&mut capsule.place, Place::Slot(slot)) {
            self.write_slot(slot, &bytes);
        }
        true
    }

    /// The SEND of an operation's capsule, which has a slot.
    fn send_work(&self, capsule: &Capsule) -> Work {
        let slot = if let Place::Slot(slot) = capsule.place { slot } else { 0 };
        let address = self.capsules.address() + self.send_offset(slot) as u64;
        Work::Send { address, lkey: self.lkey, len: capsule.len, invalidate: capsule.invalidate }
    }

    fn free(&mut self, capsule: &Capsule) {
        if let Place::Slot(slot) = capsule.place {
            self.free_sends.push(slot);
        }
    }

    /// Copies a capsule into a send slot that no request names.
    fn write_slot(&mut self, slot: u32, bytes: &[u8]) {
        let start = self.send_offset(slot);
        // SAFETY: the slot lies within the capsules' memory and has room for `send_size` bytes; it is free, so that neither the
        // device nor a reference has it. The device writes other slots meanwhile, so there must be no slice of them all.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.capsules.start().add(start), bytes.len()) };
    }

    const fn receive_offset(&self, slot: u32) -> usize {
        slot as usize * stride(self.config.receive_size) as usize
    }

    const fn send_offset(&self, slot: u32) -> usize {
        self.receive_offset(self.config.receives) + slot as usize * stride(self.config.send_size) as usize
    }

    fn post_receive(&mut self, slot: u32) -> Result<(), RdmaError> {
        let id = WrId::new(self.config.key, self.unique, WrKind::Receive, slot);
        let address = self.capsules.address() + self.receive_offset(slot) as u64;
        let mr = self.capsules.registration(&self.device)?;
        // SAFETY: the slot lies within the capsules' memory, which outlives the queue pair, and `received` gives no reference to it
        // until it is held again.
        unsafe { self.qp.post_receive(id, address, mr, self.config.receive_size) }?;
        if let Some(place) = self.held.get_mut(slot as usize) {
            *place = None;
        }
        Ok(())
    }
}

impl<B: Memory> Drop for Endpoint<B> {
    fn drop(&mut self) {
        self.conceal_all();
        if self.qp.destroy() {
            // SAFETY: dropped once, here, and nothing is left that uses it.
            unsafe { ManuallyDrop::drop(&mut self.capsules) };
        } else {
            // The device may still have the memory: it is never used again.
            mem::forget(mem::take(&mut self.ops));
        }
    }
}

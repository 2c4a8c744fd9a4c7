//! A connected queue pair that owns all memory which its device may still touch.
//!
//! Work is taken at any time and in any amount that its owner allows; what the send queue has no room for waits here, in order. RDMA READs
//! wait apart, so that none of them ever keeps other work from going: no more are posted than the device has room for, and large
//! transfers take turns.
//!
//! When anything fails, the queue pair is in error: everything that was taken still comes back, as failed.

mod capsule;
mod config;
mod expose;
mod post;
mod qp;
mod transfer;

use std::{
    collections::{HashMap, VecDeque},
    mem::{self, ManuallyDrop},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use slab::Slab;

pub use self::config::EndpointConfig;
use self::{
    capsule::Capsule,
    expose::{By, Exposure},
    post::Posted,
    qp::{Qp, Work},
    transfer::Transfer,
};
use crate::{
    CmId, CompletionQueue, Device, HostMemory, Memory, Mr, RdmaError, WorkCompletion, WorkError,
    completion::{Invalidated, WrId, WrKind},
    window::Window,
};

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

    /// Sends `capsule`; [`Event::Sent`] tells when it has arrived.
    pub fn send(&mut self, token: u64, capsule: &[u8]) {
        let capsule = self.place(capsule, None);
        let binds = mem::take(&mut self.binds);
        let op = self.ops.insert(Op::Capsule { token, capsule, binds, memory: None });
        self.enqueue(op);
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

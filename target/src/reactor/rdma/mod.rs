//! RDMA on a core: completion queues that are polled every turn and watched while the core sleeps, connections that come
//! and go, and devices that do.

mod link;
mod listen;
mod reaper;

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use kvof_io::{EventKind, EventLoop, RdmaBuf, WatchId};
use kvof_rdma::{
    CmChannel, CmEvent, CompletionQueue, ConnectionEvent, Device, Endpoint, EndpointConfig, Event, RdmaError,
    WorkCompletion,
};
use kvof_spec::{
    IntoBytes,
    rdma::{CmAccept, CmReject, CmStatus},
};
use slab::Slab;

pub use self::listen::RdmaListeners;
pub(super) use self::{
    link::RdmaLink,
    listen::Requested,
    reaper::{Reaper, ReaperHandle, Reserved},
};
use super::{
    conn::{Conn, Link, Origin},
    core::{Core, Token},
    turns::Class,
};
use crate::transport::{
    CloseReason,
    rdma::{Connection, RdmaSettings, Request, RequestLimits},
};

/// Entries of a completion queue, where the device has queues of that size: those of some dozens of connections.
const COMPLETIONS: u32 = 16 << 10;
/// Rounds of polling of one completion queue before other work has its turn.
const POLL_ROUNDS: usize = 4;
/// RDMA READs and WRITEs of one connection in its send queue.
const TRANSFERS: u32 = 64;
/// Bytes of a response capsule.
const RESPONSE: u32 = 16;
/// Connections that completions can tell apart.
const KEYS: usize = 1 << 20;

/// How NVMe/RDMA connections are served.
#[derive(Clone, Debug)]
pub struct RdmaConfig {
    /// The protocol.
    pub settings: RdmaSettings,
    /// What hosts may ask for.
    pub limits: RequestLimits,
    /// Bytes of memory for the capsules of one core's connections.
    pub capsule_memory: u64,
}

impl Default for RdmaConfig {
    fn default() -> Self {
        let limits = RequestLimits { admin_entries: 128, queue_entries: 128, io_queues: 128 };
        Self { settings: RdmaSettings::default(), limits, capsule_memory: 64 << 20 }
    }
}

/// What a watched descriptor tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// Events of connections.
    Connections,
    /// Requests for connections.
    Listeners,
    /// A completion queue.
    Queue(usize),
}

impl Source {
    pub(super) const fn pack(self) -> u64 {
        match self {
            Self::Connections => 0,
            Self::Listeners => 1,
            Self::Queue(index) => 2 + index as u64,
        }
    }

    pub(super) const fn unpack(source: u64) -> Self {
        match source {
            0 => Self::Connections,
            1 => Self::Listeners,
            index => Self::Queue((index - 2) as usize),
        }
    }
}

/// RDMA on one core.
#[derive(Debug)]
pub(super) struct RdmaCore {
    channel: Arc<CmChannel>,
    reaper: ReaperHandle,
    /// On the core that accepts connections.
    listeners: Option<RdmaListeners>,
    /// When listeners without a device are tried again.
    listen_again: Option<Instant>,
    /// More requests wait than were taken in this turn.
    has_requests: bool,
    queues: Slab<CoreQueue>,
    settings: Arc<RdmaSettings>,
    limits: RequestLimits,
    /// Bytes of capsules in use.
    capsules: u64,
    /// Empty between uses.
    completions: Vec<WorkCompletion>,
    /// Empty between uses.
    events: Vec<Event<RdmaBuf>>,
}

/// A completion queue of the core.
#[derive(Debug)]
struct CoreQueue {
    cq: Arc<CompletionQueue>,
    watch: WatchId,
    /// The next completion makes its descriptor readable.
    is_armed: bool,
    /// Connections that use it.
    users: usize,
    /// Its device is gone.
    is_lost: bool,
}

/// Why a request gets no connection.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "the receive buffers of this core's connections have {used} of rdma.receive_memory's {limit} bytes, and this one needs {wanted}"
    )]
    Memory { wanted: u64, used: u64, limit: u64 },
    #[error("the core has as many connections as can be told apart")]
    Keys,
    #[error("the target stops")]
    Stopping,
    #[error(transparent)]
    Rdma(#[from] RdmaError),
    #[error("a completion queue cannot be watched: {0}")]
    Watch(io::Error),
}

impl RdmaCore {
    pub(super) fn new(
        config: &RdmaConfig,
        reaper: ReaperHandle,
        mut listeners: Option<RdmaListeners>,
        ring: &mut EventLoop,
    ) -> io::Result<Self> {
        if let Some(listeners) = &mut listeners {
            listeners.watch(ring)?;
        }
        let channel = CmChannel::new().map_err(io::Error::other)?;
        ring.watch_readable(channel.as_fd(), Token::Rdma(Source::Connections).pack())?;
        Ok(Self {
            channel,
            reaper,
            listeners,
            listen_again: None,
            has_requests: false,
            queues: Slab::new(),
            settings: Arc::new(config.settings.clone()),
            limits: config.limits,
            capsules: 0,
            completions: Vec::new(),
            events: Vec::new(),
        })
    }

    /// A completion queue on `device` with room for `entries`.
    fn queue(&mut self, device: &Arc<Device>, entries: u32, ring: &mut EventLoop) -> Result<usize, Refusal> {
        let fits =
            |queue: &CoreQueue| !queue.is_lost && Arc::ptr_eq(queue.cq.device(), device) && queue.cq.room() >= entries;
        if let Some((index, _)) = self.queues.iter().find(|(_, queue)| fits(queue)) {
            return Ok(index);
        }
        let size = COMPLETIONS.min(device.limits().max_cqe).max(entries);
        let cq = CompletionQueue::new(device, size)?;
        let entry = self.queues.vacant_entry();
        let index = entry.key();
        let token = Token::Rdma(Source::Queue(index)).pack();
        let watch = ring.watch_readable(cq.fd(), token).map_err(Refusal::Watch)?;
        tracing::debug!(device = device.name(), entries = size, "completion queue made");
        entry.insert(CoreQueue { cq, watch, is_armed: false, users: 0, is_lost: false });
        Ok(index)
    }

    /// Destroys a completion queue that nobody uses, unless it is a device's only one.
    fn tidy(&mut self, index: usize, ring: &mut EventLoop) {
        let Some(queue) = self.queues.get(index).filter(|queue| queue.users == 0) else { return };
        let device = queue.cq.device();
        let has_more = self.queues.iter().filter(|(_, other)| Arc::ptr_eq(other.cq.device(), device)).count() > 1;
        if queue.is_lost || has_more {
            let queue = self.queues.remove(index);
            ring.unwatch(queue.watch);
        }
    }
}

impl Core {
    /// Looks for completions, and for requests that had to wait; true if there were any.
    pub(super) fn poll_rdma(&mut self) -> bool {
        let Some(rdma) = &mut self.rdma else { return false };
        if rdma.has_requests {
            self.accept_rdma();
            self.poll_queues();
            return true;
        }
        self.poll_queues()
    }

    fn poll_queues(&mut self) -> bool {
        let Some(rdma) = &mut self.rdma else { return false };
        for (_, queue) in &rdma.queues {
            for _ in 0..POLL_ROUNDS {
                if queue.cq.poll(&mut rdma.completions) == 0 {
                    break;
                }
            }
        }
        let found = !rdma.completions.is_empty();
        for completion in rdma.completions.drain(..) {
            let key = completion.key() as usize;
            if let Some(conn) = self.conns.get_mut(key)
                && let Link::Rdma(link) = &mut conn.link
                && link.handle_completion(completion, &mut rdma.events)
                && !conn.is_ready
            {
                conn.is_ready = true;
                self.ready.push(key, Class::Prompt);
            }
        }
        found
    }

    /// Before the core sleeps: has the next completion end its sleep. True if there are some already.
    pub(super) fn arm_rdma(&mut self) -> bool {
        let Some(rdma) = &mut self.rdma else { return false };
        let mut is_fresh = false;
        for (_, queue) in rdma.queues.iter_mut().filter(|(_, queue)| !queue.is_armed && !queue.is_lost) {
            if let Err(error) = queue.cq.arm() {
                tracing::warn!(device = queue.cq.device().name(), %error, "a completion queue tells nothing any more");
            }
            queue.is_armed = true;
            is_fresh = true;
        }
        // What came before the queue was armed is not told.
        rdma.has_requests || (is_fresh && self.poll_queues())
    }

    /// A descriptor is readable, or cannot be watched any more.
    pub(super) fn handle_rdma(&mut self, source: Source, kind: EventKind) -> io::Result<()> {
        match (source, kind) {
            (Source::Queue(index), EventKind::WatchFailed { error }) => self.lose_queue(index, &error.to_string()),
            (_, EventKind::WatchFailed { error }) => {
                tracing::error!(core = self.id, %error, "RDMA connections cannot be watched any more");
                return Err(io::Error::new(error.kind(), format!("RDMA connection events: {error}")));
            }
            (Source::Connections, _) => self.handle_connection_events(),
            (Source::Listeners, _) => self.accept_rdma(),
            (Source::Queue(index), _) => {
                if let Some(queue) = self.rdma.as_mut().and_then(|rdma| rdma.queues.get_mut(index))
                    && queue.cq.clear()
                {
                    queue.is_armed = false;
                }
            }
        }
        Ok(())
    }

    /// Ends the connections that would never hear of their completions.
    fn lose_queue(&mut self, index: usize, why: &str) {
        let Some(queue) = self.rdma.as_mut().and_then(|rdma| rdma.queues.get_mut(index)) else { return };
        queue.is_lost = true;
        tracing::error!(device = queue.cq.device().name(), why, "a completion queue is of no use any more");
        for key in self.keys() {
            if let Some(Conn { link: Link::Rdma(link), .. }) = self.conns.get_mut(key)
                && link.reserved.queue == index
            {
                link.connection.handle_end(CloseReason::Rdma(format!("its completion queue: {why}")));
                self.mark_dirty(key);
            }
        }
    }

    fn handle_connection_events(&mut self) {
        loop {
            let Some(rdma) = &self.rdma else { return };
            match rdma.channel.poll() {
                Ok(Some(CmEvent::Connection { key, event })) => {
                    if let Ok(key) = usize::try_from(key) {
                        self.handle_connection_event(key, &event);
                    }
                }
                // Nothing listens here.
                Ok(Some(CmEvent::Request { .. })) => {}
                Ok(None) => return,
                Err(error) => return tracing::error!(%error, "RDMA connection events cannot be read"),
            }
        }
    }

    fn handle_connection_event(&mut self, key: usize, event: &ConnectionEvent) {
        let now = self.now;
        let (Some(conn), Some(rdma)) = (self.conns.get_mut(key), &mut self.rdma) else { return };
        let Link::Rdma(link) = &mut conn.link else { return };
        match event {
            ConnectionEvent::Disconnected | ConnectionEvent::AddressChanged => {
                link.connection.handle_end(CloseReason::Host);
            }
            ConnectionEvent::DeviceRemoved => {
                link.give_up(now);
                if let Some(queue) = rdma.queues.get_mut(link.reserved.queue) {
                    queue.is_lost = true;
                }
            }
            ConnectionEvent::Failed { what, status } => {
                link.connection.handle_end(CloseReason::Rdma(format!("{what} failed ({status})")));
            }
            ConnectionEvent::Rejected { status, .. } => {
                link.connection.handle_end(CloseReason::Rdma(format!("the host took the acceptance back ({status})")));
            }
            // The first capsule may come before it; nothing waits for it.
            _ => return,
        }
        self.mark_dirty(key);
    }

    /// Makes a connection of a request that is counted as one of this core's.
    pub(super) fn open_rdma(&mut self, requested: Requested) {
        let Requested { origin, request, .. } = requested;
        let Origin { peer, local, .. } = origin;
        match self.try_open(requested) {
            Ok(key) => {
                let qid = request.qid;
                tracing::debug!(core = self.id, %peer, %local, qid, entries = request.entries(), "RDMA connection accepted");
                self.mark_dirty(key);
            }
            Err(refusal) => {
                tracing::warn!(core = self.id, %peer, %refusal, "RDMA connection refused");
                if let Some(load) = self.shared.loads.get(self.id) {
                    load.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn try_open(&mut self, requested: Requested) -> Result<usize, Refusal> {
        let Requested { mut id, request, origin, reads } = requested;
        let key = self.conns.vacant_key();
        let limit = self.shared.config.rdma.capsule_memory;
        let (Some(rdma), Some(mailbox)) = (&mut self.rdma, self.mailboxes.get(self.id)) else {
            return Err(Refusal::Stopping);
        };
        let config = endpoint_config(&rdma.settings, request, key, reads);
        let (wanted, used) = (config.capsule_memory(), rdma.capsules);
        let checked = if self.stopping.is_some() {
            Err(Refusal::Stopping)
        } else if used.saturating_add(wanted) > limit {
            Err(Refusal::Memory { wanted, used, limit })
        } else if key >= KEYS {
            Err(Refusal::Keys)
        } else {
            id.device().map_err(Refusal::from).and_then(|device| {
                let index = rdma.queue(&device, config.completions(), &mut self.ring)?;
                id.migrate(&rdma.channel, key as u64)?;
                Ok(index)
            })
        };
        let index = match checked {
            Ok(index) => index,
            Err(refusal) => {
                rdma.reaper.refuse(id, CmStatus::NO_RESOURCES);
                return Err(refusal);
            }
        };
        let Some(queue) = rdma.queues.get_mut(index) else { return Err(Refusal::Keys) };
        let (accept, refusal) = (CmAccept::new(request.entries()), CmReject::new(CmStatus::NO_RESOURCES));
        let endpoint = Endpoint::accept(id, &queue.cq, config, accept.as_bytes(), refusal.as_bytes())?;
        queue.users += 1;
        rdma.capsules += wanted;
        let connection = Connection::new(Arc::clone(&rdma.settings), request, self.now);
        let reserved = Reserved { queue: index, capsules: wanted };
        let link = Link::Rdma(Box::new(RdmaLink::new(endpoint, connection, reserved)));
        Ok(self.conns.insert(Conn::new(link, origin, (mailbox.clone(), key))))
    }

    /// Has the queue pair of connection `key` destroyed, if it is over and that is possible by now.
    pub(super) fn close_rdma(&mut self, key: usize) {
        let (Some(conn), Some(rdma)) = (self.conns.get_mut(key), &self.rdma) else { return };
        if let Link::Rdma(link) = &mut conn.link
            && let Some(endpoint) = link.close(self.now)
            && let Some(mailbox) = self.mailboxes.get(self.id)
        {
            rdma.reaper.destroy(endpoint, link.reserved, mailbox.clone());
        }
    }

    /// A queue pair is gone: so is what its connection had.
    pub(super) fn handle_reaped(&mut self, reserved: Reserved) {
        if let Some(load) = self.shared.loads.get(self.id) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
        let Some(rdma) = &mut self.rdma else { return };
        rdma.capsules = rdma.capsules.saturating_sub(reserved.capsules);
        if let Some(queue) = rdma.queues.get_mut(reserved.queue) {
            queue.users = queue.users.saturating_sub(1);
            rdma.tidy(reserved.queue, &mut self.ring);
        }
    }

    /// Looks after the listeners a few times a second.
    pub(super) fn tick_rdma(&mut self) {
        let now = self.now;
        let Some(rdma) = self.rdma.as_mut().filter(|rdma| rdma.listen_again.is_some_and(|at| at <= now)) else {
            return;
        };
        let is_missing = rdma.listeners.as_mut().is_some_and(RdmaListeners::bind_again);
        rdma.listen_again = is_missing.then(|| now + listen::LISTEN_AGAIN);
    }

    /// Listens no more.
    pub(super) fn stop_rdma(&mut self) {
        let Some(rdma) = &mut self.rdma else { return };
        rdma.listen_again = None;
        if let Some(mut listeners) = rdma.listeners.take() {
            listeners.unwatch(&mut self.ring);
        }
    }
}

/// What a connection needs of its queue pair.
fn endpoint_config(settings: &RdmaSettings, request: Request, key: usize, reads: u8) -> EndpointConfig {
    let entries = u32::from(request.entries());
    EndpointConfig {
        key: u32::try_from(key).unwrap_or(u32::MAX),
        receives: entries,
        receive_size: u32::try_from(settings.capsule_max(request.qid)).unwrap_or(u32::MAX),
        sends: entries.min(request.hrqsize.into()),
        send_size: RESPONSE,
        transfers: TRANSFERS,
        reads,
        reads_served: 0,
    }
}

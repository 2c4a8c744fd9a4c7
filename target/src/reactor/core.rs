//! The loop of one core.

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd,
    rc::Rc,
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use kvof_io::{Event, EventKind, EventLoop};
use kvof_kv::OpId;
use slab::Slab;

use super::{
    CoreMessage, Listener, Listeners, Mailbox, Shared,
    conn::{Conn, Link},
    disk::DiskBacklog,
    rdma::{RdmaCore, ReaperHandle, Source},
    tcp::TcpLink,
    turns::{Class, Company, Line},
};
use crate::{
    backend::{Backends, DiskResult, PoolId},
    model::BackendId,
    queue::Cx,
    transport::tcp::TcpSettings,
};

/// How long storage may take to come to rest after the last connection, or after the time that connections had.
const STORAGE_PATIENCE: Duration = Duration::from_secs(2);
/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Connections whose timers are looked at before others have their turn.
const TICK_BATCH: usize = 64;
/// How soon a command that waits for memory tries again; memory may come back on another core, which does not tell.
const STARVED_RETRY: Duration = Duration::from_millis(1);
/// Bytes received at once beside a command's data: 32 blocks of 4 KiB in their capsules, and more. All that came together is answered
/// together.
const SCRATCH: usize = 256 << 10;

/// What the token of an event says.
#[derive(Clone, Copy)]
pub(super) enum Token {
    Listener(usize),
    Connection(usize),
    Disk(u64),
    Rdma(Source),
}

const CLASS_LISTENER: u64 = 1 << 62;
const CLASS_DISK: u64 = 2 << 62;
const CLASS_RDMA: u64 = 3 << 62;
const CLASS_MASK: u64 = 3 << 62;

impl Token {
    pub(super) const fn pack(self) -> u64 {
        match self {
            Self::Rdma(source) => CLASS_RDMA | source.pack(),
            Self::Connection(key) => key as u64,
            Self::Listener(index) => CLASS_LISTENER | index as u64,
            Self::Disk(token) => CLASS_DISK | (token & !CLASS_MASK),
        }
    }

    const fn unpack(token: u64) -> Self {
        let rest = token & !CLASS_MASK;
        match token & CLASS_MASK {
            CLASS_LISTENER => Self::Listener(rest as usize),
            CLASS_DISK => Self::Disk(rest),
            CLASS_RDMA => Self::Rdma(Source::unpack(rest)),
            _ => Self::Connection(rest as usize),
        }
    }
}

/// One core: its loop, its connections, its storage.
pub(super) struct Core {
    pub(super) id: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) ring: EventLoop,
    inbox: mpsc::Receiver<CoreMessage>,
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) listeners: Vec<Listener>,
    pub(super) accept_again: Option<Instant>,
    pub(super) tcp_settings: Arc<TcpSettings>,
    backends: Backends,
    /// The storage that `backends` has.
    attached: Vec<BackendId>,
    /// The pools that `backends` has.
    pools: Vec<PoolId>,
    /// The moment that the storage counts time from.
    started: Instant,
    pub(super) conns: Slab<Conn>,
    /// Where there are RDMA ports.
    pub(super) rdma: Option<RdmaCore>,
    /// Connections that may have something to receive.
    pub(super) ready: Line,
    /// Connections with something to send, or to look after otherwise.
    pub(super) dirty: Vec<usize>,
    /// Connections with so much to send that others come first.
    pub(super) sending: Line,
    /// Whether several connections are at work.
    pub(super) company: Company,
    /// Connections whose timers are still to be looked at in this tick.
    ticking: Vec<usize>,
    pub(super) starved: VecDeque<usize>,
    disk_backlog: DiskBacklog,
    scratch: Vec<u8>,
    pub(super) stopping: Option<Instant>,
    pub(super) now: Instant,
}

/// When a core does what, from turn to turn.
pub(super) struct Pace {
    /// Room for what has happened.
    pub(super) events: Vec<Event>,
    pub(super) next_tick: Instant,
    /// Until when it looks for work without sleeping.
    pub(super) spin_until: Instant,
}

/// Runs `$body` with `$conn`, the connection under `$key`, and `$cx`, its surroundings.
macro_rules! with_conn {
    ($core:ident, $key:expr, |$conn:ident, $cx:ident| $body:expr) => {{
        let key: usize = $key;
        match $core.conns.get_mut(key) {
            Some($conn) => {
                let transport = Rc::clone(&$conn.transport);
                #[allow(unused_mut)]
                let mut $cx = Cx {
                    now: $core.now,
                    target: &$core.shared.target,
                    backends: &mut $core.backends,
                    pool: &$core.shared.pool,
                    transport: &transport,
                    op_base: (key as u64) << 32,
                    transfer_max: $core.shared.config.transfer_max,
                };
                Some($body)
            }
            None => None,
        }
    }};
}

impl Core {
    pub(super) fn new(
        id: usize,
        shared: Arc<Shared>,
        mut ring: EventLoop,
        inbox: mpsc::Receiver<CoreMessage>,
        mailboxes: Vec<Mailbox>,
        listeners: Listeners,
        reaper: Option<ReaperHandle>,
    ) -> io::Result<Self> {
        for (index, listener) in listeners.tcp.iter().enumerate() {
            ring.watch_readable(listener.socket.as_fd(), Token::Listener(index).pack())?;
        }
        let rdma =
            reaper.map(|reaper| RdmaCore::new(&shared.config.rdma, reaper, listeners.rdma, &mut ring)).transpose()?;
        let backends = Backends::new(id, mailboxes.len(), shared.pool.clone());
        Ok(Self {
            id,
            tcp_settings: Arc::new(shared.config.tcp.clone()),
            shared,
            ring,
            inbox,
            mailboxes,
            listeners: listeners.tcp,
            accept_again: None,
            backends,
            attached: Vec::new(),
            pools: Vec::new(),
            started: Instant::now(),
            conns: Slab::new(),
            rdma,
            ready: Line::default(),
            dirty: Vec::new(),
            sending: Line::default(),
            company: Company::default(),
            ticking: Vec::new(),
            starved: VecDeque::new(),
            disk_backlog: DiskBacklog::default(),
            scratch: vec![0; SCRATCH],
            stopping: None,
            now: Instant::now(),
        })
    }

    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut pace = Pace { events: Vec::new(), next_tick: self.now + TICK, spin_until: self.now };
        while self.turn(&mut pace)? {}
        Ok(())
    }

    /// One turn of the loop; false when it was the last.
    pub(super) fn turn(&mut self, pace: &mut Pace) -> io::Result<bool> {
        self.poll_rdma();
        let mut timeout = self.timeout(pace);
        if !timeout.is_zero() && self.arm_rdma() {
            timeout = Duration::ZERO;
        }
        self.ring.turn(Some(timeout), &mut pace.events)?;
        self.now = Instant::now();
        let mut worked = !pace.events.is_empty() || !self.ready.is_empty();
        for event in pace.events.drain(..) {
            self.handle_event(event)?;
        }
        self.receive()?;
        worked |= self.settle()?;
        worked |= self.send_bulk()?;
        if self.backends.has_work() {
            self.backends.work();
            worked |= self.settle()?;
        }
        if self.now >= pace.next_tick {
            self.tick();
            pace.next_tick = self.now + TICK;
        }
        if !self.ticking.is_empty() {
            self.tick_connections();
            self.settle()?;
        }
        if worked {
            pace.spin_until = self.now + self.shared.config.busy_poll;
        }
        Ok(!self.may_end())
    }

    fn timeout(&self, pace: &Pace) -> Duration {
        let has_connections = !self.ready.is_empty() || !self.sending.is_empty() || !self.ticking.is_empty();
        if has_connections || self.backends.has_work() || self.now < pace.spin_until {
            return Duration::ZERO;
        }
        let until_tick = pace.next_tick.saturating_duration_since(self.now);
        if self.is_hungry() || self.stopping.is_some() { until_tick.min(STARVED_RETRY) } else { until_tick }
    }

    /// Whether commands wait for memory.
    pub(super) fn is_hungry(&self) -> bool {
        !self.starved.is_empty() || self.backends.wants_memory()
    }

    fn handle_event(&mut self, event: Event) -> io::Result<()> {
        let token = Token::unpack(event.token);
        if let Token::Disk(token) = token {
            self.disk_backlog.ended(token);
        }
        match (token, event.kind) {
            (_, EventKind::Woken) => self.handle_inbox(),
            (Token::Disk(token), EventKind::ReadDone { buf, result }) => {
                self.backends.handle_disk(token, DiskResult::Read { buf, result });
            }
            (Token::Disk(token), EventKind::PartReadDone { buf, result }) => {
                self.backends.handle_disk(token, DiskResult::ReadPart { buf, result });
            }
            (Token::Disk(token), EventKind::WriteDone { result, .. } | EventKind::WriteVectoredDone { result, .. }) => {
                self.backends.handle_disk(token, DiskResult::Write { result });
            }
            (Token::Disk(token), EventKind::FsyncDone { result }) => {
                self.backends.handle_disk(token, DiskResult::Sync { result });
            }
            (Token::Listener(index), EventKind::WatchFailed { error }) => {
                tracing::error!(core = self.id, %error, "the listener cannot be watched any more");
                return Err(io::Error::new(error.kind(), format!("listener {index}: {error}")));
            }
            (Token::Listener(index), _) => self.accept(index),
            (Token::Rdma(source), kind) => self.handle_rdma(source, kind)?,
            (Token::Connection(key), EventKind::WatchFailed { error }) => {
                if let Some(link) = self.tcp(key) {
                    link.connection.handle_end(Some(&error));
                }
                self.mark_dirty(key);
            }
            (Token::Connection(key), EventKind::Writable) => {
                if let Some(link) = self.tcp(key) {
                    link.writable = None;
                }
                self.mark_dirty(key);
                self.mark_ready(key);
            }
            (Token::Connection(key), _) => self.mark_ready(key),
            (Token::Disk(_), _) => {}
        }
        Ok(())
    }

    fn handle_inbox(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                CoreMessage::Accepted { socket, origin } => self.open(socket, origin),
                CoreMessage::Requested(requested) => self.open_rdma(*requested),
                CoreMessage::Reaped(reserved) => self.handle_reaped(reserved),
                CoreMessage::Backend { from, message } => self.backends.handle_message(from, message),
                CoreMessage::Attach(id, part) => {
                    self.attached.push(id);
                    self.backends.attach(id, part);
                }
                CoreMessage::AttachPool(part) => {
                    self.pools.push(part.id());
                    self.backends.attach_pool(*part);
                }
                CoreMessage::AttachPooled { id, pool, spec, answer } => {
                    let attached = self.backends.attach_pooled(id, pool, &spec);
                    if attached.is_ok() {
                        self.attached.push(id);
                    }
                    // The daemon waits for it, unless it is gone.
                    let _ = answer.send(attached);
                }
                CoreMessage::DetachPool(id) => {
                    self.pools.retain(|&pool| pool != id);
                    self.backends.detach_pool(id);
                }
                CoreMessage::Device { pool, member, device, why } => {
                    self.backends.handle_device(pool, member, device, &why);
                }
                CoreMessage::Detach(id) => {
                    self.attached.retain(|&attached| attached != id);
                    self.backends.detach(id);
                }
                CoreMessage::Wake(key) => {
                    with_conn!(self, key, |conn, cx| conn.handle_wake(&mut cx));
                    self.mark_dirty(key);
                }
                CoreMessage::Stop { deadline } => {
                    self.stopping = Some(deadline);
                    self.listeners.clear();
                    self.stop_rdma();
                    for key in self.keys() {
                        if let Some(conn) = self.conns.get_mut(key) {
                            conn.drain();
                        }
                        self.mark_dirty(key);
                    }
                }
            }
        }
    }

    /// Lets those receive whose turn it is, and sends what they have to say to it: an answer does not wait for what others
    /// bring.
    fn receive(&mut self) -> io::Result<()> {
        let slice = self.company.slice(self.now);
        self.ready.begin(slice);
        while let Some((key, class)) = self.ready.next() {
            self.company.served(key, self.now);
            let mut scratch = std::mem::take(&mut self.scratch);
            let received = with_conn!(self, key, |conn, cx| {
                conn.is_ready = false;
                conn.receive(&mut cx, &mut scratch, slice)
            });
            self.scratch = scratch;
            let Some(received) = received else { continue };
            self.ready.moved(received.bytes, class);
            if let Some(class) = received.more {
                self.stand_in_line(key, Some(class));
            }
            self.flush_one(key)?;
        }
        Ok(())
    }

    /// Moves completions, messages and disk requests on until nothing moves; true if anything did.
    pub(super) fn settle(&mut self) -> io::Result<bool> {
        let mut worked = false;
        loop {
            let mut moved = false;
            while let Some((OpId(op), outcome)) = self.backends.poll() {
                let (key, index) = ((op >> 32) as usize, (op & u64::from(u32::MAX)) as usize);
                with_conn!(self, key, |conn, cx| conn.handle_outcome(&mut cx, index, outcome));
                self.mark_dirty(key);
                moved = true;
            }
            moved |= self.feed_starved();
            while let Some((core, message)) = self.backends.poll_message() {
                if let Some(mailbox) = self.mailboxes.get(core) {
                    mailbox.send(CoreMessage::Backend { from: self.id, message });
                }
                moved = true;
            }
            while let Some(closed) = self.backends.poll_closed() {
                self.shared.hand_back(closed);
                moved = true;
            }
            moved |= self.disk_backlog.start(
                &mut self.ring,
                &mut self.backends,
                |token| Token::Disk(token).pack(),
                self.now,
            );
            moved |= self.flush()?;
            if !moved {
                return Ok(worked);
            }
            worked = true;
        }
    }

    /// Lets commands that wait for memory go on, in order, until one still finds none.
    fn feed_starved(&mut self) -> bool {
        let mut moved = false;
        while let Some(&key) = self.starved.front() {
            let before = self.shared.pool.in_use();
            let fed = with_conn!(self, key, |conn, cx| conn.handle_memory(&mut cx)).unwrap_or(true);
            moved |= self.shared.pool.in_use() != before;
            self.mark_dirty(key);
            if !fed {
                break;
            }
            self.starved.pop_front();
            if let Some(conn) = self.conns.get_mut(key) {
                conn.is_starved = false;
            }
            moved = true;
        }
        moved
    }

    fn tick(&mut self) {
        self.backends.handle_time(self.now.saturating_duration_since(self.started));
        if self.accept_again.is_some_and(|at| at <= self.now) {
            self.accept_again = None;
            for index in 0..self.listeners.len() {
                self.accept(index);
            }
        }
        self.tick_rdma();
        self.ticking = self.keys();
    }

    /// Looks at the timers of some connections.
    fn tick_connections(&mut self) {
        let rest = self.ticking.len().saturating_sub(TICK_BATCH);
        for key in self.ticking.split_off(rest) {
            with_conn!(self, key, |conn, cx| conn.handle_tick(&mut cx));
            self.mark_dirty(key);
        }
    }

    /// Whether the core may stop: all connections are gone or had their time, on every core, since others may need this one's
    /// storage; and the storage has come to rest. Or that took too long.
    fn may_end(&mut self) -> bool {
        let Some(deadline) = self.stopping else { return false };
        let is_late = self.now >= deadline;
        if let Some(mine) = self.shared.at_rest.get(self.id) {
            mine.store(self.conns.is_empty() || is_late, Ordering::Release);
        }
        if self.shared.at_rest.iter().all(|core| core.load(Ordering::Acquire)) {
            for id in std::mem::take(&mut self.attached) {
                self.backends.detach(id);
            }
            for id in std::mem::take(&mut self.pools) {
                self.backends.detach_pool(id);
            }
            if self.backends.is_idle() && self.ring.disk_ops() == 0 && self.disk_backlog.is_empty() {
                return true;
            }
        }
        self.now >= deadline + STORAGE_PATIENCE
    }

    pub(super) fn keys(&self) -> Vec<usize> {
        self.conns.iter().map(|(key, _)| key).collect()
    }

    fn tcp(&mut self, key: usize) -> Option<&mut TcpLink> {
        match &mut self.conns.get_mut(key)?.link {
            Link::Tcp(link) => Some(link),
            Link::Rdma(_) => None,
        }
    }

    pub(super) fn mark_ready(&mut self, key: usize) {
        self.stand_in_line(key, None);
    }

    /// Lets a connection receive when it is its turn, in the line of its kind unless `class` says which.
    fn stand_in_line(&mut self, key: usize, class: Option<Class>) {
        if let Some(conn) = self.conns.get_mut(key)
            && !conn.is_ready
            && conn.is_open()
        {
            conn.is_ready = true;
            self.ready.push(key, class.unwrap_or_else(|| conn.class()));
        }
    }

    pub(super) fn mark_dirty(&mut self, key: usize) {
        if let Some(conn) = self.conns.get_mut(key)
            && !conn.is_dirty
        {
            conn.is_dirty = true;
            self.dirty.push(key);
        }
    }
}

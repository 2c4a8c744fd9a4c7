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
/// How soon a command that waits for memory tries again; memory may come back on another core, which does not tell.
const STARVED_RETRY: Duration = Duration::from_millis(1);
/// Bytes received at once beside a command's data.
const SCRATCH: usize = 64 << 10;

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
    pub(super) ready: VecDeque<usize>,
    /// Connections with something to send, or to look after otherwise.
    dirty: Vec<usize>,
    starved: VecDeque<usize>,
    disk_backlog: DiskBacklog,
    scratch: Vec<u8>,
    pub(super) stopping: Option<Instant>,
    pub(super) now: Instant,
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
            ready: VecDeque::new(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            disk_backlog: DiskBacklog::default(),
            scratch: vec![0; SCRATCH],
            stopping: None,
            now: Instant::now(),
        })
    }

    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        let mut next_tick = self.now + TICK;
        let mut spin_until = self.now;
        loop {
            self.poll_rdma();
            let mut timeout = self.timeout(next_tick, spin_until);
            if !timeout.is_zero() && self.arm_rdma() {
                timeout = Duration::ZERO;
            }
            self.ring.turn(Some(timeout), &mut events)?;
            self.now = Instant::now();
            let mut worked = !events.is_empty() || !self.ready.is_empty();
            for event in events.drain(..) {
                self.handle_event(event)?;
            }
            self.receive();
            worked |= self.settle()?;
            if self.now >= next_tick {
                self.tick();
                self.settle()?;
                next_tick = self.now + TICK;
            }
            if worked {
                spin_until = self.now + self.shared.config.busy_poll;
            }
            if self.may_end() {
                return Ok(());
            }
        }
    }

    fn timeout(&self, next_tick: Instant, spin_until: Instant) -> Duration {
        if !self.ready.is_empty() || self.now < spin_until {
            return Duration::ZERO;
        }
        let until_tick = next_tick.saturating_duration_since(self.now);
        let hungry = !self.starved.is_empty() || self.backends.wants_memory();
        if hungry || self.stopping.is_some() { until_tick.min(STARVED_RETRY) } else { until_tick }
    }

    fn handle_event(&mut self, event: Event) -> io::Result<()> {
        match (Token::unpack(event.token), event.kind) {
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

    fn receive(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { return };
            let mut scratch = std::mem::take(&mut self.scratch);
            let more = with_conn!(self, key, |conn, cx| {
                conn.is_ready = false;
                conn.receive(&mut cx, &mut scratch)
            });
            self.scratch = scratch;
            if more == Some(true) {
                self.mark_ready(key);
            }
            self.mark_dirty(key);
        }
    }

    /// Moves completions, messages and disk requests on until nothing moves; true if anything did.
    fn settle(&mut self) -> io::Result<bool> {
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
            moved |= self.disk_backlog.start(&mut self.ring, &mut self.backends, |token| Token::Disk(token).pack());
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

    /// Sends what connections have to say, and closes those that are over.
    fn flush(&mut self) -> io::Result<bool> {
        let mut moved = false;
        for key in std::mem::take(&mut self.dirty) {
            let Some(conn) = self.conns.get_mut(key) else { continue };
            conn.is_dirty = false;
            let flushed = match &mut conn.link {
                Link::Tcp(link) => link.flush(&mut self.ring, Token::Connection(key).pack(), self.now)?,
                Link::Rdma(link) => link.flush(),
            };
            moved |= flushed.moved;
            if flushed.resume {
                self.mark_ready(key);
            }
            self.look_after(key);
        }
        Ok(moved)
    }

    fn look_after(&mut self, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.wants_memory() && !conn.is_starved {
            conn.is_starved = true;
            self.starved.push_back(key);
        }
        let Some(reason) = conn.poll_close().cloned() else { return };
        let ended = match &mut conn.link {
            Link::Tcp(link) => link.close(&mut self.ring),
            Link::Rdma(link) => link.disconnect(self.now),
        };
        if ended {
            let peer = conn.transport.peer;
            if reason.is_fault() {
                tracing::warn!(core = self.id, %peer, %reason, "connection ended");
            } else {
                tracing::debug!(core = self.id, %peer, %reason, "connection ended");
            }
        }
        match &conn.link {
            Link::Rdma(_) => self.close_rdma(key),
            Link::Tcp(_) if ended => {
                if let Some(load) = self.shared.loads.get(self.id) {
                    load.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Link::Tcp(_) => {}
        }
        // The key names this connection's operations until the last of them is back.
        if self.conns.get(key).is_some_and(Conn::is_gone) {
            self.conns.remove(key);
        }
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
        for key in self.keys() {
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
        if let Some(conn) = self.conns.get_mut(key)
            && !conn.is_ready
            && conn.is_open()
        {
            conn.is_ready = true;
            self.ready.push_back(key);
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

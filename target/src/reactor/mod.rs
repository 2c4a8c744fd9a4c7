//! The threads: one per core, each with its own event loop, connections and storage parts.
//!
//! A connection is accepted on the first core, handed to the core with the fewest, and stays there. Cores share no data on
//! the path of a command; they send each other messages, of which each command has at most one under way, so that the
//! depths of the queues bound the mailboxes too.

mod accept;
mod conn;
mod core;
mod disk;
mod rdma;
mod send;
mod tcp;
mod turns;

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use kvof_io::{DiskFile, EventLoop, EventLoopConfig, Pool, Waker};
use kvof_store::{
    format::Uuid,
    volume::{NamespaceSpec, Volume},
};

pub use self::rdma::{RdmaConfig, RdmaListeners};
use self::{
    conn::Origin,
    core::Core,
    rdma::{Reaper, ReaperHandle, Requested, Reserved},
};
use crate::{
    backend::{BackendMessage, BackendPart, PoolAttachError, PoolId, PoolPart},
    control::Target,
    model::BackendId,
    transport::tcp::TcpSettings,
};

/// Storage parts of one namespace, one for each core.
pub type Parts = (BackendId, Vec<BackendPart>);

/// A volume that a core has let go of: its pool, its shard.
pub type ClosedVolume = (PoolId, u16, Box<Volume>);

/// What the cores have from the start.
#[derive(Debug, Default)]
pub struct Storage {
    /// Of each pool its parts, one for each core.
    pub pools: Vec<Vec<PoolPart>>,
    /// Of each namespace its parts.
    pub parts: Vec<Parts>,
}

/// How the cores work.
#[derive(Clone, Debug)]
pub struct ReactorConfig {
    /// Threads.
    pub cores: usize,
    /// Bind thread `i` to processor `pin[i]`; empty leaves it to the scheduler.
    pub pin: Vec<usize>,
    /// How long a core looks for work without sleeping after it last had some.
    pub busy_poll: Duration,
    /// Connections in all; more are closed as soon as they are accepted.
    pub max_connections: usize,
    /// Most bytes of one I/O command (MDTS).
    pub transfer_max: u32,
    /// Disk operations in flight on a core.
    pub max_disk_ops: usize,
    /// NVMe/TCP.
    pub tcp: TcpSettings,
    /// NVMe/RDMA; only looked at where there are RDMA ports.
    pub rdma: RdmaConfig,
}

/// Where connections come in.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Listening sockets.
    pub tcp: Vec<Listener>,
    /// RDMA ports. Without any, nothing of RDMA is touched.
    pub rdma: Option<RdmaListeners>,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    /// The socket, listening and non-blocking.
    pub socket: OwnedFd,
    /// Its port in the discovery log.
    pub portid: u16,
    /// The address it is bound to.
    pub local: SocketAddr,
}

/// A thread that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread of core {core}: {error}")]
pub struct StartError {
    /// Its number.
    pub core: usize,
    /// Why.
    #[source]
    pub error: io::Error,
}

/// What a core is told by others.
#[derive(Debug)]
enum CoreMessage {
    Accepted {
        socket: OwnedFd,
        origin: Origin,
    },
    /// A request for an RDMA connection that was found good.
    Requested(Box<Requested>),
    /// The queue pair of a connection that is over is gone.
    Reaped(Reserved),
    Backend {
        from: usize,
        message: BackendMessage,
    },
    Attach(BackendId, BackendPart),
    Detach(BackendId),
    AttachPool(Box<PoolPart>),
    /// Serve a namespace from a pool that the core has.
    AttachPooled {
        id: BackendId,
        pool: PoolId,
        spec: Box<NamespaceSpec>,
        answer: mpsc::Sender<Result<(), PoolAttachError>>,
    },
    DetachPool(PoolId),
    /// A device of a pool is gone, or there again.
    Device {
        pool: PoolId,
        member: u16,
        device: Option<(Uuid, Arc<DiskFile>)>,
        why: String,
    },
    /// A queue's controller has something for it.
    Wake(usize),
    /// Take no new connections and end those that have nothing under way; the rest at the deadline.
    Stop {
        deadline: Instant,
    },
}

/// Sends to one core.
#[derive(Clone, Debug)]
struct Mailbox {
    sender: mpsc::Sender<CoreMessage>,
    waker: Waker,
}

impl Mailbox {
    fn send(&self, message: CoreMessage) {
        // A core that is gone has stopped; nobody waits for its answer.
        if self.sender.send(message).is_ok() {
            self.waker.wake();
        }
    }
}

/// What the cores share.
#[derive(Debug)]
struct Shared {
    target: Arc<Target>,
    pool: Pool,
    config: ReactorConfig,
    /// Connections on each core.
    loads: Vec<AtomicUsize>,
    /// Which cores have no connections any more; only told while stopping.
    at_rest: Vec<AtomicBool>,
    /// A core ended by a panic, or its ring failed.
    failed: AtomicBool,
    /// Volumes at rest go here.
    closed: mpsc::Sender<ClosedVolume>,
}

impl Shared {
    fn hand_back(&self, volume: ClosedVolume) {
        // Without a receiver the daemon is gone, and the volume recovers at the next start.
        let _ = self.closed.send(volume);
    }

    fn connections(&self) -> usize {
        self.loads.iter().map(|l| l.load(Ordering::Relaxed)).sum()
    }

    fn idlest(&self) -> usize {
        let load = |&i: &usize| self.loads.get(i).map(|l| l.load(Ordering::Relaxed));
        (0..self.loads.len()).min_by_key(load).unwrap_or(0)
    }
}

/// The running cores.
#[derive(Debug)]
pub struct Reactors {
    shared: Arc<Shared>,
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<()>>,
    /// Where there are RDMA ports.
    reaper: Option<Reaper>,
    closed: mpsc::Receiver<ClosedVolume>,
}

impl Reactors {
    /// Starts the threads and begins to accept connections.
    ///
    /// # Errors
    /// [`StartError`] if a thread or its event loop cannot be made; those already started are stopped again.
    pub fn start(
        config: ReactorConfig,
        target: Arc<Target>,
        pool: Pool,
        storage: Storage,
        listeners: Listeners,
    ) -> Result<Self, StartError> {
        let cores = config.cores.max(1);
        let (hand_back, closed) = mpsc::channel();
        let shared = Arc::new(Shared {
            target,
            pool,
            loads: (0..cores).map(|_| AtomicUsize::new(0)).collect(),
            at_rest: (0..cores).map(|_| AtomicBool::new(false)).collect(),
            failed: AtomicBool::new(false),
            closed: hand_back,
            config,
        });
        // Every core's mailbox must be known to every other before the first of them runs, but an event loop belongs to
        // the thread that made it: threads make theirs, report, and wait for the others.
        let (ready, made) = mpsc::channel();
        let mut starters = Vec::new();
        let reaper = listeners.rdma.as_ref().map(|_| Reaper::start()).transpose();
        let reaper = reaper.map_err(|error| StartError { core: 0, error })?;
        let mut reactors =
            Self { shared: Arc::clone(&shared), mailboxes: Vec::new(), threads: Vec::new(), reaper, closed };
        // Goes before `reactors`, which waits for the reaper.
        let handle = reactors.reaper.as_ref().map(Reaper::handle);
        for core in 0..cores {
            let (sender, inbox) = mpsc::channel();
            let (starter, go) = mpsc::channel::<Start>();
            let (shared, ready) = (Arc::clone(&shared), ready.clone());
            let thread = std::thread::Builder::new().name(format!("kvof-core-{core}")).spawn(move || {
                let ring = match open_loop(core, &shared.config) {
                    Ok(ring) => ring,
                    Err(error) => return drop(ready.send((core, Err(error)))),
                };
                let _ = ready.send((core, Ok(ring.waker())));
                let Ok(start) = go.recv() else { return };
                run(core, &shared, ring, inbox, start);
            });
            match thread {
                Ok(thread) => reactors.threads.push(thread),
                Err(error) => return Err(StartError { core, error }),
            }
            starters.push((sender, starter));
        }
        let mut wakers: Vec<Option<Waker>> = vec![None; cores];
        for _ in 0..cores {
            match made.recv() {
                Ok((core, Ok(waker))) => wakers[core] = Some(waker),
                Ok((core, Err(error))) => return Err(StartError { core, error }),
                Err(_) => return Err(StartError { core: 0, error: io::Error::other("the thread ended at once") }),
            }
        }
        reactors.mailboxes = starters
            .iter()
            .zip(wakers)
            .filter_map(|((sender, _), waker)| Some(Mailbox { sender: sender.clone(), waker: waker? }))
            .collect();
        let mut listeners = Some(listeners);
        for (_, starter) in starters {
            let start = Start {
                mailboxes: reactors.mailboxes.clone(),
                listeners: listeners.take().unwrap_or_default(),
                reaper: handle.clone(),
            };
            let _ = starter.send(start);
        }
        for parts in storage.pools {
            reactors.attach_pool(parts);
        }
        for parts in storage.parts {
            reactors.attach(parts);
        }
        Ok(reactors)
    }

    /// Gives the cores their parts of a pool, one for each; before any namespace in it.
    pub fn attach_pool(&self, parts: Vec<PoolPart>) {
        for (mailbox, part) in self.mailboxes.iter().zip(parts) {
            mailbox.send(CoreMessage::AttachPool(Box::new(part)));
        }
    }

    /// Serves a namespace from a pool that the cores have. Waits for them.
    ///
    /// # Errors
    /// What a core says; then no core has the namespace.
    pub fn attach_pooled(&self, id: BackendId, pool: PoolId, spec: &NamespaceSpec) -> Result<(), PoolAttachError> {
        let (answer, answers) = mpsc::channel();
        for mailbox in &self.mailboxes {
            let (spec, answer) = (Box::new(spec.clone()), answer.clone());
            mailbox.send(CoreMessage::AttachPooled { id, pool, spec, answer });
        }
        drop(answer);
        let mut outcome = Ok(());
        for _ in &self.mailboxes {
            outcome = outcome.and(answers.recv().unwrap_or(Err(PoolAttachError::Closed)));
        }
        if outcome.is_err() {
            self.detach(id);
        }
        outcome
    }

    /// Takes a pool away from the cores, whose namespaces were detached before. Its volumes come by [`Self::closed`].
    pub fn detach_pool(&self, id: PoolId) {
        for mailbox in &self.mailboxes {
            mailbox.send(CoreMessage::DetachPool(id));
        }
    }

    /// Tells the cores that the device of `member` is gone (`None`, and `why`), or there again.
    pub fn device(&self, pool: PoolId, member: u16, device: Option<&(Uuid, Arc<DiskFile>)>, why: &str) {
        for mailbox in &self.mailboxes {
            let (device, why) = (device.cloned(), why.to_owned());
            mailbox.send(CoreMessage::Device { pool, member, device, why });
        }
    }

    /// A volume of a detached pool that has come to rest and is to be closed.
    #[must_use]
    pub fn closed(&self) -> Option<ClosedVolume> {
        self.closed.try_recv().ok()
    }

    /// Gives the cores their parts of a namespace's storage; before hosts can see the namespace.
    pub fn attach(&self, (id, parts): Parts) {
        for (mailbox, part) in self.mailboxes.iter().zip(parts) {
            mailbox.send(CoreMessage::Attach(id, part));
        }
    }

    /// Takes a namespace's storage away again; after hosts cannot see the namespace any more.
    pub fn detach(&self, id: BackendId) {
        for mailbox in &self.mailboxes {
            mailbox.send(CoreMessage::Detach(id));
        }
    }

    /// Connections now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// Whether every core still works.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.shared.failed.load(Ordering::Acquire)
    }

    /// Stops: commands under way are completed, for up to `drain`. Gives the volumes of pools that came to rest meanwhile, to
    /// be closed.
    #[must_use]
    pub fn stop(mut self, drain: Duration) -> Vec<ClosedVolume> {
        self.end(drain);
        self.closed.try_iter().collect()
    }

    fn end(&mut self, drain: Duration) {
        let deadline = Instant::now() + drain;
        for mailbox in self.mailboxes.drain(..) {
            mailbox.send(CoreMessage::Stop { deadline });
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(reaper) = self.reaper.take() {
            reaper.finish();
        }
    }
}

impl Drop for Reactors {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// What a core gets once all cores exist.
struct Start {
    mailboxes: Vec<Mailbox>,
    listeners: Listeners,
    reaper: Option<ReaperHandle>,
}

fn open_loop(core: usize, config: &ReactorConfig) -> io::Result<EventLoop> {
    if let Some(&cpu) = config.pin.get(core) {
        kvof_io::pin_thread(cpu)?;
    }
    EventLoop::new(EventLoopConfig { max_disk_ops: config.max_disk_ops, ..EventLoopConfig::default() })
}

fn run(core: usize, shared: &Arc<Shared>, ring: EventLoop, inbox: mpsc::Receiver<CoreMessage>, start: Start) {
    let body = std::panic::AssertUnwindSafe(|| {
        Core::new(core, Arc::clone(shared), ring, inbox, start.mailboxes, start.listeners, start.reaper)
            .and_then(|mut core| core.run())
    });
    match std::panic::catch_unwind(body) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(core, %error, "the event loop failed");
            shared.failed.store(true, Ordering::Release);
        }
        Err(_) => {
            tracing::error!(core, "the core's thread panicked; this is a bug");
            shared.failed.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;

//! A connected controller: its queues, its namespaces, its admin commands.

mod admin;
mod auto;
mod establish;
mod supervisor;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kvof_spec::{Cqe, Nqn, Sqe};

use crate::{
    Address, ConnectOptions, Error, IoBuf, IoBufMut, KvNamespace, NvmNamespace, Result, Transport,
    buffer::Payload,
    executor::Signal,
    port::{Attention, Operation, Port},
    queue::{Answer, Command, Extent, Reply, TimeLimit},
    watch::Watch,
};

pub use admin::{AdminData, NamespaceInfo};
pub use establish::ControllerInfo;

/// A connection to one controller of an NVM subsystem.
///
/// A clone is another handle to the same controller; when the last handle, and the last namespace made from one, is
/// dropped, the controller is shut down in the background. [`Self::disconnect`] does the same and waits for it.
#[derive(Clone)]
pub struct Controller {
    handle: Arc<Handle>,
}

/// Tells the supervisor when the last handle is gone.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.signal.attend();
    }
}

/// What the handles and the supervisor share.
struct Shared {
    options: ConnectOptions,
    address: Address,
    subnqn: Nqn,
    hostnqn: Nqn,
    /// Subsystem and address, for errors.
    name: Arc<str>,
    signal: Arc<Signal>,
    closing: AtomicBool,
    phase: Watch<Phase>,
    events: Watch<Events>,
    admin: Arc<Port>,
    io: Vec<Arc<Port>>,
    /// Most bytes of one command's data.
    max_transfer: AtomicU32,
    /// It is the descriptors that limit them (MSDBD), not MDTS.
    few_descriptors: AtomicBool,
    /// I/O queues that the controller granted.
    io_count: AtomicUsize,
    /// Where to begin looking for the least loaded I/O queue.
    next_io: AtomicUsize,
}

/// The state of a controller.
#[derive(Clone)]
enum Phase {
    /// The first connection is being made.
    Starting,
    /// Connected, or reconnecting after that.
    Up(Arc<ControllerInfo>),
    /// Failed for good.
    Failed(Error),
    /// Disconnected by this host.
    Closed,
}

/// What asynchronous events have told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Events {
    /// Changes of the set of namespaces or their attributes, reconnects included.
    namespaces: u64,
    /// Changes of the discovery log, reconnects included.
    discovery: u64,
    /// Connections made after the first.
    reconnects: u64,
}

impl Controller {
    /// Connects to the controller of subsystem `subnqn` at `address`: the admin queue, the controller's enable
    /// sequence, Identify and the I/O queues.
    ///
    /// The first connection is tried once, so that a wrong address is told at once; a connection that is lost later is
    /// made again as [`ConnectOptions::reconnect`] says.
    ///
    /// An `auto://` address is that of a discovery service, which is asked over TCP, else over RDMA. Of the addresses it
    /// knows for the subsystem, those over RDMA come first if this machine has an RDMA device; if the connection cannot
    /// be made, the next one is tried, and the log says so. [`Self::address`] says what it came to.
    ///
    /// # Errors
    /// [`Error::Argument`] for options that make no sense, [`Error::Connect`] if the connection cannot be made,
    /// [`Error::Refused`] if the controller does not take the host, [`Error::Unsupported`] if it lacks something essential,
    /// [`Error::NotOffered`] if discovery at an `auto://` address does not know the subsystem.
    pub async fn connect(address: &Address, subnqn: &str, options: &ConnectOptions) -> Result<Self> {
        match address.transport() {
            Transport::Auto => auto::connect(address, subnqn, options).await,
            Transport::Tcp | Transport::Rdma => Self::connect_at(address, subnqn, options).await,
        }
    }

    /// As [`Self::connect`], over the transport of the address.
    async fn connect_at(address: &Address, subnqn: &str, options: &ConnectOptions) -> Result<Self> {
        let nqn = |what, text: &str| {
            text.parse::<Nqn>().map_err(|e| Error::argument(what, format!("{text:?}"), e.to_string()))
        };
        options.check()?;
        if address.transport() == Transport::Rdma && options.requires_digests() {
            let rule = "RDMA has no digests of its own (each packet has a checksum); leave them off, or use tcp://";
            return Err(Error::argument("digests", "required", rule));
        }
        let subnqn = nqn("subnqn", subnqn)?;
        let hostnqn = nqn("hostnqn", &options.hostnqn)?;
        let name: Arc<str> = format!("{subnqn} at {address}").into();
        let signal = Arc::new(Signal::default());
        let port = |qid| {
            let attention: Arc<dyn Attention> = Arc::clone(&signal) as Arc<dyn Attention>;
            Port::new(qid, Arc::clone(&name), attention)
        };
        let shared = Arc::new(Shared {
            options: options.clone(),
            address: address.clone(),
            subnqn,
            hostnqn,
            signal: Arc::clone(&signal),
            closing: AtomicBool::new(false),
            phase: Watch::new(Phase::Starting),
            events: Watch::new(Events::default()),
            admin: port(0),
            io: (1..=options.io_queues).map(port).collect(),
            max_transfer: AtomicU32::new(0),
            few_descriptors: AtomicBool::new(false),
            io_count: AtomicUsize::new(0),
            next_io: AtomicUsize::new(0),
            name,
        });
        supervisor::spawn(&shared)?;
        let controller = Self { handle: Arc::new(Handle { shared }) };
        controller.info_when_up().await?;
        Ok(controller)
    }

    /// What the controller said of itself when it was last connected.
    ///
    /// # Errors
    /// [`Error::GaveUp`] or the last error if the controller has failed for good, [`Error::Closed`] after
    /// [`Self::disconnect`].
    pub fn info(&self) -> Result<Arc<ControllerInfo>> {
        self.shared().phase.read(|phase| match phase {
            Phase::Up(info) => Ok(Arc::clone(info)),
            Phase::Failed(error) => Err(error.clone()),
            Phase::Starting | Phase::Closed => Err(Error::Closed),
        })
    }

    /// Times the connection was lost and made again.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.shared().events.read(|e| e.reconnects)
    }

    /// The address that this controller was connected at.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.shared().address
    }

    /// The NQN of its subsystem.
    #[must_use]
    pub fn subnqn(&self) -> &str {
        self.shared().subnqn.as_str()
    }

    /// The KV namespace `nsid`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the namespace is not one of keys and values, else as any admin command.
    pub async fn kv(&self, nsid: u32) -> Result<KvNamespace> {
        KvNamespace::open(self.clone(), nsid).await
    }

    /// The NVM (block) namespace `nsid`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the namespace is not one of logical blocks, else as any admin command.
    pub async fn nvm(&self, nsid: u32) -> Result<NvmNamespace> {
        NvmNamespace::open(self.clone(), nsid).await
    }

    /// Waits until the controller reports a change of its namespaces, or was reconnected, after `seen` changes, and
    /// gives the new count; start with 0. Needs a controller that supports Namespace Attribute Notices.
    ///
    /// # Errors
    /// As [`Self::info`].
    pub async fn namespaces_changed(&self, seen: u64) -> Result<u64> {
        self.changed(seen, |e| e.namespaces).await
    }

    /// Moves what can be moved on the I/O queues without waiting: sends commands that were handed in, takes answers and wakes
    /// those who wait for them. Gives whether anything was.
    ///
    /// Nobody has to call this: each queue has a thread. But a caller who has nothing better to do saves the hand-over to
    /// that thread and back by calling it in a loop until its operations are ready (see
    /// [`blocking::block_on_polling`](crate::blocking::block_on_polling)). The threads stand by meanwhile, and go on by
    /// themselves within 2 ms after the last call, or 32 if the calls came for more than a quarter of a second.
    pub fn progress(&self) -> bool {
        let shared = self.shared();
        let count = shared.io_count.load(Ordering::Acquire);
        shared.io.iter().take(count).fold(false, |any, port| port.progress() | any)
    }

    /// Shuts the controller down (CC.SHN) and closes its connections. Operations that wait or come later fail with
    /// [`Error::Closed`].
    pub async fn disconnect(&self) {
        let shared = self.shared();
        shared.closing.store(true, Ordering::Release);
        shared.signal.attend();
        shared.phase.wait(|p| matches!(p, Phase::Closed | Phase::Failed(_)).then_some(())).await;
    }

    pub(crate) async fn discovery_changed(&self, seen: u64) -> Result<u64> {
        self.changed(seen, |e| e.discovery).await
    }

    async fn changed(&self, seen: u64, count: impl Fn(&Events) -> u64) -> Result<u64> {
        let shared = self.shared();
        // A phase that ends wakes the waiters of events too; see the supervisor.
        shared
            .events
            .wait(|events| {
                if count(events) > seen {
                    return Some(Ok(count(events)));
                }
                shared.phase.read(|phase| match phase {
                    Phase::Failed(error) => Some(Err(error.clone())),
                    Phase::Closed => Some(Err(Error::Closed)),
                    Phase::Starting | Phase::Up(_) => None,
                })
            })
            .await
    }

    async fn info_when_up(&self) -> Result<Arc<ControllerInfo>> {
        self.shared()
            .phase
            .wait(|phase| match phase {
                Phase::Starting => None,
                Phase::Up(info) => Some(Ok(Arc::clone(info))),
                Phase::Failed(error) => Some(Err(error.clone())),
                Phase::Closed => Some(Err(Error::Closed)),
            })
            .await
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Most bytes of one command's data.
    pub(crate) fn max_transfer(&self) -> u32 {
        self.shared().max_transfer.load(Ordering::Relaxed)
    }

    /// As [`Self::max_transfer`], and what says so.
    pub(crate) fn transfer_limit(&self) -> (u32, &'static str) {
        let few = self.shared().few_descriptors.load(Ordering::Relaxed);
        (self.max_transfer(), if few { "MSDBD and the 24 bits of a keyed descriptor's length" } else { "MDTS" })
    }

    /// Sends a command with data to the controller and gives the buffer back.
    pub(crate) async fn io_out<B: IoBuf>(&self, io: Io, buffer: B) -> (Result<Reply>, B) {
        let (result, payload) = self.io(io, Payload::to_controller(buffer)).await;
        (result, give_back(payload))
    }

    /// Sends a command that reads data into `buffer` and gives the buffer back.
    pub(crate) async fn io_in<B: IoBufMut>(&self, io: Io, buffer: B) -> (Result<Reply>, B) {
        let (result, payload) = self.io(io, Payload::from_controller(buffer)).await;
        (result, give_back(payload))
    }

    /// Sends a command without data.
    pub(crate) async fn io_none(&self, io: Io) -> Result<Reply> {
        self.io(io, Payload::None).await.0
    }

    async fn io(&self, io: Io, mut payload: Payload) -> (Result<Reply>, Payload) {
        let shared = self.shared();
        let limit = TimeLimit::new(Instant::now(), io.timeout.unwrap_or(shared.options.command_timeout));
        loop {
            let port = match shared.pick_io() {
                Ok(port) => port,
                Err(error) => return (Err(error), payload),
            };
            let command = Command::new(io.name, io.sqe, payload, limit).filling(io.extent);
            let answer = Operation::new(port, command, false).await;
            let lost = matches!(answer.result, Err(Error::ConnectionLost { .. }));
            if !(lost && io.repeat && limit.is_some_and(|l| l.deadline > Instant::now())) {
                return (answer.result, answer.payload);
            }
            payload = answer.payload;
        }
    }
}

/// An I/O command and how to treat it.
#[derive(Clone, Copy)]
pub(crate) struct Io {
    /// Its name in errors.
    pub(crate) name: &'static str,
    pub(crate) sqe: Sqe,
    /// Time limit, if not the controller's.
    pub(crate) timeout: Option<Duration>,
    /// Sent again when the connection is lost: the command may be executed twice.
    pub(crate) repeat: bool,
    /// What a success fills of the buffer.
    pub(crate) extent: Extent,
}

/// The buffer that went in. An answer always carries the payload of its command.
fn give_back<B: 'static>(payload: Payload) -> B {
    payload.take().unwrap_or_else(|| unreachable!("an answer has the payload of its command"))
}

impl Shared {
    /// The least loaded I/O queue; between equals, in turn.
    fn pick_io(&self) -> Result<&Port> {
        let count = self.io_count.load(Ordering::Acquire).clamp(1, self.io.len().max(1));
        let start = self.next_io.fetch_add(1, Ordering::Relaxed);
        (0..count)
            .filter_map(|i| self.io.get(start.wrapping_add(i) % count))
            .min_by_key(|port| port.load())
            .map(Arc::as_ref)
            .ok_or_else(|| Error::argument("io_queues", 0, "I/O commands need at least one I/O queue"))
    }

    async fn send(
        &self,
        port: &Arc<Port>,
        name: &'static str,
        sqe: Sqe,
        payload: Payload,
        timeout: Option<Duration>,
        privileged: bool,
    ) -> (Result<Reply>, Payload) {
        let limit = TimeLimit::new(Instant::now(), timeout.unwrap_or(self.options.command_timeout));
        let command = Command::new(name, sqe, payload, limit);
        let Answer { result, payload } = Operation::new(port, command, privileged).await;
        (result, payload)
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Controller").field(&self.shared().name).finish()
    }
}

/// The completion of a raw command, whatever its status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawCompletion {
    /// Status field.
    pub status: kvof_spec::Status,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
    /// Bytes of data that the controller transferred to the host. Over RDMA a host cannot count them: then it is all of
    /// the buffer for a success, and for Retrieve what its completion says of the value, as far as that fits.
    pub received: u32,
}

impl RawCompletion {
    /// From the result of a command: an error status is a completion, other errors stay errors.
    pub(crate) fn from_result(result: Result<Reply>) -> Result<Self> {
        match result {
            Ok(Reply { cqe, received }) => Ok(Self { status: Cqe::status(&cqe), result: cqe.result(), received }),
            Err(Error::Status { status, result, .. }) => Ok(Self { status, result, received: 0 }),
            Err(error) => Err(error),
        }
    }
}

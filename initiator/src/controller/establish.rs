//! From nothing to a ready controller: connections, Connect, enable, Identify, I/O queues. And back: shutdown.

use std::{
    future::{Future, poll_fn},
    sync::{Arc, OnceLock},
    task::Poll,
    time::{Duration, Instant},
};

use kvof_spec::fabrics::{
    CNTLID_DYNAMIC, ConnectAttributes, ConnectCmd, ConnectData, ConnectError, ConnectResult, PropertyGetCmd,
    PropertySetCmd,
};
use kvof_spec::feature::{AsyncEventConfig, FeatureId, NumberOfQueues, SetFeaturesCmd};
use kvof_spec::identify::{Cns, Ctratt, IDENTIFY_SIZE, IdentifyCmd, IdentifyController, Sgls};
use kvof_spec::property::Crto;
use kvof_spec::{Cap, Cc, Csi, Csts, FromBytes, IntoBytes, Property, Sqe, Status, Vs};

use super::Shared;
use crate::{
    ConnectionError, Error, RdmaPath, Result, Transport,
    buffer::Payload,
    driver::{self, Link},
    port::Port,
    queue::Reply,
    rdma,
    tcp::{self, ADMIN_IN_CAPSULE},
};

/// Entries of the admin submission queue, 0's based, as Linux has it.
const ADMIN_SQSIZE: u16 = 31;
/// Pause between two looks at CSTS.
const STATUS_PAUSE: Duration = Duration::from_millis(2);
/// Shortest time that a controller gets to become ready, whatever CAP.TO says.
const READY_TIME_MIN: Duration = Duration::from_secs(1);

/// What a controller said of itself when it was connected.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ControllerInfo {
    /// Controller identifier.
    pub cntlid: u16,
    /// Model number (MN).
    pub model: String,
    /// Serial number (SN).
    pub serial: String,
    /// Firmware revision (FR).
    pub firmware: String,
    /// Version of the base specification that it follows (VS).
    pub version: Vs,
    /// NQN of its subsystem (SUBNQN).
    pub subnqn: String,
    /// Most bytes of one command's data (MDTS; over RDMA also what the descriptors of a command hold, 16 MiB - 1 each and
    /// MSDBD of them); `u32::MAX` without a limit.
    pub max_transfer: u32,
    /// I/O queues in use.
    pub io_queues: u16,
    /// Commands in flight on one I/O queue.
    pub queue_depth: u16,
    /// Most data that go in the capsule of an I/O command, bytes (IOCCSZ; over RDMA at most 16 KiB).
    pub in_capsule: u32,
    /// How the controller is connected: TCP or RDMA.
    pub transport: Transport,
    /// Over RDMA: the device, and how it keeps the controller from memory of other commands.
    pub rdma: Option<RdmaPath>,
    /// Whether it serves command sets beside NVM (CAP.CSS), which KV needs.
    pub command_sets: bool,
    /// The Identify Controller data structure.
    pub identify: Box<IdentifyController>,
    /// Keep Alive is supported (KAS).
    pub(super) keep_alive: bool,
    /// Any command restarts the keep alive timer (CTRATT.TBKAS).
    pub(super) traffic_based_keep_alive: bool,
    /// The events that this library understands are enabled.
    pub(super) listens_for_events: bool,
    /// It is the descriptors that limit `max_transfer`.
    pub(super) few_descriptors: bool,
}

impl ControllerInfo {
    /// Pause between two Keep Alive commands for the timeout `kato`; `None`: none are sent.
    pub(super) fn keep_alive_period(&self, kato: Duration) -> Option<Duration> {
        if !self.keep_alive || kato.is_zero() {
            return None;
        }
        // With traffic as a sign of life, an interval without any is noticed one period late.
        Some(if self.traffic_based_keep_alive { kato / 4 } else { kato / 2 })
    }
}

/// Connects all queues of a controller and makes it ready. Whatever it leaves behind on failure, the caller closes.
pub(super) async fn establish(shared: &Shared) -> Result<ControllerInfo> {
    let admin = &shared.admin;
    let transport = shared.address.transport();
    // Over RDMA, the admin queue's capsules have no data.
    let in_capsule = if transport == Transport::Rdma { 0 } else { ADMIN_IN_CAPSULE };
    let queue = QueueLimits { sqsize: ADMIN_SQSIZE, in_capsule, descriptors: 1, cntlid: CNTLID_DYNAMIC };
    let rdma = open_connection(shared, admin, queue).await?;
    let kato = u32::try_from(shared.options.keep_alive.as_millis()).unwrap_or(u32::MAX);
    let cntlid = connect_queue(shared, admin, ADMIN_SQSIZE, CNTLID_DYNAMIC, kato).await?;

    let cap = Cap(get_property(shared, Property::CAP).await?);
    let config = Cc::default()
        .with_css(if cap.css_iocs() { Cc::CSS_IOCS } else { Cc::CSS_NVM })
        .with_iosqes(Cc::IOSQES_64)
        .with_iocqes(Cc::IOCQES_16);
    set_property(shared, Property::CC, config.0).await?;
    // The capabilities may depend on the command sets that were just selected.
    let cap = Cap(get_property(shared, Property::CAP).await?);
    let mut ready_time = Duration::from_millis(500) * u32::from(cap.to());
    if cap.crwms() {
        let crto = Crto(low_half(get_property(shared, Property::CRTO).await?));
        ready_time = ready_time.max(Duration::from_millis(500) * u32::from(crto.crwmt()));
    }
    set_property(shared, Property::CC, config.with_en(true).0).await?;
    await_ready(shared, ready_time.max(READY_TIME_MIN)).await?;
    let version = Vs(low_half(get_property(shared, Property::VS).await?));

    let identify = identify_controller(shared).await?;
    if identify.cntlid.get() != cntlid {
        let reason = format!("CNTLID is {} and was {cntlid} in the response to Connect", identify.cntlid);
        return Err(Error::invalid_answer("Identify (controller)", reason));
    }
    let max_transfer = match identify.mdts {
        0 => u32::MAX,
        mdts => cap.page_size_min().checked_shl(u32::from(mdts)).filter(|n| *n != 0).unwrap_or(u32::MAX),
    };
    let listens_for_events = enable_events(shared, identify.oaes.get()).await?;
    let mut info = ControllerInfo {
        cntlid,
        model: text(&identify.mn),
        serial: text(&identify.sn),
        firmware: text(&identify.fr),
        version,
        subnqn: text(&identify.subnqn),
        max_transfer,
        io_queues: 0,
        queue_depth: 0,
        in_capsule: 0,
        transport,
        rdma,
        command_sets: cap.css_iocs(),
        keep_alive: identify.kas.get() != 0,
        traffic_based_keep_alive: Ctratt::from_bits_retain(identify.ctratt.get()).contains(Ctratt::TBKAS),
        listens_for_events,
        few_descriptors: false,
        identify,
    };
    if !shared.io.is_empty() {
        connect_io_queues(shared, cap, &mut info).await?;
    }
    Ok(info)
}

/// Shuts the controller down as a host should before it leaves.
pub(super) async fn shut_down(shared: &Shared) {
    let shut_down = async {
        let cc = Cc(low_half(get_property(shared, Property::CC).await?));
        set_property(shared, Property::CC, cc.with_shn(Cc::SHN_NORMAL).0).await?;
        loop {
            let status = Csts(low_half(get_property(shared, Property::CSTS).await?));
            if status.shst() == Csts::SHST_COMPLETE {
                return Ok(());
            }
            shared.signal.sleep_until(Instant::now() + STATUS_PAUSE).await;
        }
    };
    let result: Result<()> = shut_down.await;
    if let Err(error) = result {
        tracing::debug!(controller = %shared.name, %error, "shutdown was not completed");
    }
}

/// Asks for I/O queues and connects as many as are granted, all at once.
async fn connect_io_queues(shared: &Shared, cap: Cap, info: &mut ControllerInfo) -> Result<()> {
    let unsupported = |what: String| Error::Unsupported { address: shared.name.to_string(), what };
    let (ioccsz, icdoff) = (info.identify.ioccsz.get(), info.identify.icdoff.get());
    if ioccsz < 4 || icdoff != 0 {
        return Err(unsupported(format!("I/O capsules that this host can send (IOCCSZ {ioccsz}, ICDOFF {icdoff})")));
    }
    if shared.options.keep_alive > Duration::ZERO && !info.keep_alive {
        tracing::warn!(controller = %shared.name, "Keep Alive is not supported (KAS 0): a dead peer is noticed late");
    }
    let asked = u32::try_from(shared.io.len()).unwrap_or(1);
    let value = NumberOfQueues::pairs(asked).map_or(0, |n| n.0);
    let command = SetFeaturesCmd::new(FeatureId::NUMBER_OF_QUEUES, value).to_sqe();
    let reply = send(shared, &shared.admin, "Set Features (Number of Queues)", command, Payload::None).await?.0;
    let granted = NumberOfQueues(reply.cqe.dw0.get())
        .pair_count()
        .ok_or_else(|| unsupported("the number of I/O queues that it reports (FFFFh)".into()))?;
    let count = granted.min(asked) as usize;
    let maxcmd = match info.identify.maxcmd.get() {
        0 => u16::MAX,
        maxcmd => maxcmd,
    };
    // A queue of n entries holds n - 1 commands; MQES and SQSIZE are 0's based.
    let sqsize = shared.options.queue_depth.min(cap.mqes()).min(maxcmd).max(1);
    info.io_queues = u16::try_from(count).unwrap_or(u16::MAX);
    info.queue_depth = sqsize;
    info.in_capsule = ioccsz.saturating_mul(16).saturating_sub(64);
    let mut descriptors = 1;
    if info.transport == Transport::Rdma {
        descriptors = rdma_limits(shared, info)?;
    }
    let queue = QueueLimits { sqsize, in_capsule: info.in_capsule, descriptors, cntlid: info.cntlid };
    all(shared.io.iter().take(count).map(|port| async move {
        open_connection(shared, port, queue).await?;
        connect_queue(shared, port, sqsize, queue.cntlid, 0).await
    }))
    .await
}

/// Runs them all at once, until all have ended or one has failed. Whatever wakes this polls every one of them: ports wake the
/// supervisor, not the future that waits, and what joins futures elsewhere polls of many only those that were woken.
async fn all<T>(futures: impl Iterator<Item = impl Future<Output = Result<T>>>) -> Result<()> {
    let mut waiting: Vec<_> = futures.map(Box::pin).collect();
    poll_fn(|cx| {
        let mut failed = None;
        waiting.retain_mut(|future| match future.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                failed = failed.take().or(result.err());
                false
            }
        });
        match failed {
            Some(error) => Poll::Ready(Err(error)),
            None if waiting.is_empty() => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await
}

/// Sets what I/O commands may do over RDMA; gives how many descriptors they may have.
fn rdma_limits(shared: &Shared, info: &mut ControllerInfo) -> Result<u16> {
    let sgls = info.identify.sgls();
    if !sgls.contains(Sgls::KEYED) {
        let what = format!("keyed SGL descriptors, which NVMe/RDMA needs (SGLS {:#x}, bit 2)", sgls.bits());
        return Err(Error::Unsupported { address: shared.name.to_string(), what });
    }
    if !sgls.contains(Sgls::OFFSET) {
        info.in_capsule = 0;
    }
    info.in_capsule = info.in_capsule.min(rdma::IN_CAPSULE_MAX);
    let descriptors = rdma::descriptors_for(info.identify.msdbd, info.in_capsule);
    let reach = rdma::reach_of(descriptors);
    info.few_descriptors = reach < info.max_transfer;
    info.max_transfer = info.max_transfer.min(reach);
    Ok(descriptors)
}

/// What a queue may use.
#[derive(Clone, Copy)]
struct QueueLimits {
    /// Commands in flight, and SQSIZE of Connect.
    sqsize: u16,
    /// Most data of a command in its capsule, bytes.
    in_capsule: u32,
    /// Most keyed descriptors of a command.
    descriptors: u16,
    /// The controller.
    cntlid: u16,
}

/// Makes the connection of `port`; commands of this module pass through it then. Gives what an RDMA connection goes
/// through.
async fn open_connection(shared: &Shared, port: &Arc<Port>, queue: QueueLimits) -> Result<Option<RdmaPath>> {
    let options = &shared.options;
    let QueueLimits { sqsize, in_capsule, descriptors, cntlid } = queue;
    let path = Arc::new(OnceLock::new());
    match shared.address.transport() {
        Transport::Tcp | Transport::Auto => {
            let settings = tcp::Settings {
                header_digest: options.header_digest,
                data_digest: options.data_digest,
                hpda: options.hpda,
                maxr2t: options.maxr2t,
                capacity: sqsize,
                in_capsule,
            };
            driver::spawn::<tcp::Socket>(link(shared, port.qid(), settings), port)?;
        }
        Transport::Rdma => {
            let flow_control = !options.disable_sq_flow_control;
            let limits = rdma::Limits { sqsize, in_capsule, descriptors, flow_control };
            let settings = rdma::Settings { qid: port.qid(), cntlid, limits, path: Arc::clone(&path) };
            driver::spawn::<rdma::Verbs>(link(shared, port.qid(), settings), port)?;
        }
    }
    poll_fn(|_| port.poll_connected())
        .await
        .map_err(|cause| Error::Connect { address: Arc::clone(&shared.name), cause })?;
    Ok(path.get().cloned())
}

fn link<S>(shared: &Shared, qid: u16, settings: S) -> Link<S> {
    let cores = &shared.options.cores;
    let io = usize::from(qid).checked_sub(1);
    Link {
        address: shared.address.clone(),
        name: Arc::clone(&shared.name),
        settings,
        connect_timeout: shared.options.connect_timeout,
        busy_poll: shared.options.busy_poll,
        core: io.and_then(|queue| cores.get(queue.checked_rem(cores.len())?)).copied(),
    }
}

/// Fabrics Connect on `port`; gives the controller identifier.
async fn connect_queue(shared: &Shared, port: &Arc<Port>, sqsize: u16, cntlid: u16, kato: u32) -> Result<u16> {
    let mut command = ConnectCmd::new(port.qid(), sqsize, kato);
    if shared.options.disable_sq_flow_control {
        command.cattr = ConnectAttributes::DISABLE_SQ_FLOW_CONTROL.bits();
    }
    let data = ConnectData::new(shared.options.hostid.into_bytes(), cntlid, &shared.subnqn, &shared.hostnqn);
    let payload = Payload::to_controller(data.as_bytes().to_vec());
    let reply = match send(shared, port, "Connect", command.to_sqe(), payload).await {
        Ok((reply, _)) => reply,
        Err(Error::Status { status, result, .. }) => {
            let invalid = status.code() == Status::CONNECT_INVALID_PARAMETERS;
            return Err(Error::Refused {
                address: Arc::clone(&shared.name),
                hostnqn: shared.options.hostnqn.clone(),
                parameter: ConnectError(low_half(result)).parameter().filter(|_| invalid),
                status,
            });
        }
        Err(error) => return Err(error),
    };
    let result = ConnectResult(reply.cqe.dw0.get());
    if result.atr() || result.ascr() {
        let what = "hosts that do not authenticate, and this library cannot yet".into();
        return Err(Error::Unsupported { address: shared.name.to_string(), what });
    }
    if cntlid != CNTLID_DYNAMIC && result.cntlid() != cntlid {
        let reason = format!("queue {} belongs to controller {}, not {cntlid}", port.qid(), result.cntlid());
        return Err(Error::invalid_answer("Connect", reason));
    }
    Ok(result.cntlid())
}

async fn await_ready(shared: &Shared, time: Duration) -> Result<()> {
    let deadline = Instant::now() + time;
    loop {
        let status = Csts(low_half(get_property(shared, Property::CSTS).await?));
        if status.cfs() {
            let cause = ConnectionError::ControllerFatal(status.0);
            return Err(Error::Connect { address: Arc::clone(&shared.name), cause });
        }
        if status.rdy() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout { command: "enabling the controller (CSTS.RDY)", after: time });
        }
        shared.signal.sleep_until(Instant::now() + STATUS_PAUSE).await;
    }
}

async fn identify_controller(shared: &Shared) -> Result<Box<IdentifyController>> {
    let command = IdentifyCmd::new(Cns::CONTROLLER, 0, Csi::NVM).to_sqe();
    let payload = Payload::from_controller(vec![0u8; IDENTIFY_SIZE]);
    let (reply, payload) = send(shared, &shared.admin, "Identify (controller)", command, payload).await?;
    if reply.received as usize != IDENTIFY_SIZE {
        let reason = format!("{} of {} bytes came", reply.received, IDENTIFY_SIZE);
        return Err(Error::invalid_answer("Identify (controller)", reason));
    }
    let bytes: Vec<u8> = payload.take().unwrap_or_default();
    IdentifyController::read_from_bytes(&bytes)
        .map(Box::new)
        .map_err(|_| Error::invalid_answer("Identify (controller)", "not 4096 bytes"))
}

/// Enables the events of `oaes` that this library understands; gives whether there are any.
async fn enable_events(shared: &Shared, oaes: u32) -> Result<bool> {
    let wanted = AsyncEventConfig::from_bits_retain(oaes)
        & (AsyncEventConfig::NAMESPACE_ATTRIBUTE | AsyncEventConfig::DISCOVERY_LOG_CHANGE);
    if wanted.is_empty() {
        return Ok(false);
    }
    let command = SetFeaturesCmd::new(FeatureId::ASYNC_EVENT_CONFIGURATION, wanted.bits()).to_sqe();
    match send(shared, &shared.admin, "Set Features (Asynchronous Event Configuration)", command, Payload::None).await {
        Ok(_) => Ok(true),
        Err(error @ Error::Status { .. }) => {
            tracing::warn!(controller = %shared.name, %error, "no asynchronous events");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn get_property(shared: &Shared, property: Property) -> Result<u64> {
    let command = PropertyGetCmd::new(property)
        .ok_or_else(|| Error::argument("property", property, "a property of known size"))?;
    let reply = send(shared, &shared.admin, "Property Get", command.to_sqe(), Payload::None).await?.0;
    Ok(reply.cqe.result())
}

async fn set_property(shared: &Shared, property: Property, value: u32) -> Result<()> {
    let command = PropertySetCmd::new(property, u64::from(value))
        .ok_or_else(|| Error::argument("property", property, "a property of known size"))?;
    send(shared, &shared.admin, "Property Set", command.to_sqe(), Payload::None).await.map(|_| ())
}

/// Sends a command of the set-up.
async fn send(
    shared: &Shared,
    port: &Arc<Port>,
    name: &'static str,
    sqe: Sqe,
    payload: Payload,
) -> Result<(Reply, Payload)> {
    let (result, payload) = shared.send(port, name, sqe, payload, Some(shared.options.connect_timeout), true).await;
    result.map(|reply| (reply, payload))
}

/// A text field, whatever is in it.
fn text(field: &[u8]) -> String {
    let text = field.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_owned()
}

/// A property of 4 bytes is in the low half of the result.
const fn low_half(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

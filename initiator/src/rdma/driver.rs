//! An RDMA connection and the [`RdmaQueue`] on it: takes the queue's actions to the queue pair, and what the queue pair
//! tells back to the queue.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use kvof_memory::Buffer;
use kvof_rdma::{
    CmChannel, CmEvent, CmId, CompletionQueue, ConnectionEvent, Endpoint, EndpointConfig, Event, RdmaError,
    RemoteAccess, WorkCompletion, WorkError,
};
use kvof_spec::rdma::{CmAccept, CmReject, CmRequest, RECFMT};
use kvof_spec::sqe::SQE_SIZE;
use kvof_spec::{FromBytes, FromZeros, IntoBytes};
use rustix::{event::PollFlags, fd::AsFd, io::Errno};

use super::{Access, Action, Key, Limits, RdmaQueue};
use crate::{
    ConnectionError,
    driver::{Line, Link, Patience, wait},
    port::Bell,
    queue::HostQueue,
};

/// Room for a response: more than it needs, so that one that is too long is seen as what it is.
const RECEIVE_SIZE: u32 = 64;
/// Looks at the completion queue in one round, so that new commands get their turn.
const POLLS_A_ROUND: usize = 8;
/// Rounds without sleep after which connection events are looked for; they cost a system call.
const ROUNDS_A_LOOK: u32 = 1024;
/// Time for one attempt to find a neighbour.
const RESOLVE_TIME: Duration = Duration::from_secs(1);
/// The system's code for a time that is over.
const ETIMEDOUT: i32 = Errno::TIMEDOUT.raw_os_error();
/// The reason for which a connection manager refuses where its consumer does.
const REJECTED_BY_CONSUMER: i32 = 28;

/// What a connection has to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The queue that it will carry.
    pub(crate) qid: u16,
    /// The controller, for an I/O queue.
    pub(crate) cntlid: u16,
    pub(crate) limits: Limits,
    /// Where to tell what the connection goes through.
    pub(crate) path: Arc<OnceLock<RdmaPath>>,
}

/// What an RDMA connection goes through.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RdmaPath {
    /// Name of the device, such as `mlx5_0`.
    pub device: String,
    /// How the memory of a command is protected from the controller.
    pub keys: KeyProtection,
}

/// How the controller gets at the memory of one command and no other, and only while the command runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KeyProtection {
    /// A memory window of type 2B: a key for this command on this connection, bound and invalidated by the device, by
    /// the controller's response where it can.
    Windows,
    /// A registration of exactly this memory for this command, ended when it is answered: for devices without such
    /// windows, at the price of two system calls a command.
    Registrations,
}

/// An established connection and its queue.
pub(crate) struct Verbs {
    queue: RdmaQueue,
    /// Gone once the connection has ended.
    endpoint: Option<Endpoint<Buffer>>,
    cq: Arc<CompletionQueue>,
    channel: Arc<CmChannel>,
    completions: Vec<WorkCompletion>,
    events: Vec<Event<Buffer>>,
    /// Events that the queue is being told of: none is lost should a caller's buffer panic meanwhile.
    telling: VecDeque<Event<Buffer>>,
    /// The completion queue's descriptor becomes readable with the next completion.
    armed: bool,
    /// Rounds until connection events are looked for.
    rounds: u32,
}

impl Line for Verbs {
    type Settings = Settings;
    type Queue = RdmaQueue;

    fn connect(to: &SocketAddr, link: &Link<Settings>, patience: &Patience<'_>) -> Result<Self, ConnectionError> {
        let Settings { qid, cntlid, limits, path } = &link.settings;
        let channel = CmChannel::new()?;
        let id = resolve(&channel, to, patience)?;
        id.resolve_route(patience.left()).map_err(|error| no_way(to, &error))?;
        await_event(&channel, patience, |event| matches!(event, ConnectionEvent::RouteResolved).then_some(()))?;

        let device = id.device()?;
        let keys = if device.limits().windows { KeyProtection::Windows } else { KeyProtection::Registrations };
        let _ = path.set(RdmaPath { device: device.name().to_owned(), keys });
        // A queue of SQSIZE + 1 entries; as many responses may come as there are commands in flight.
        let entries = u32::from(limits.sqsize) + 1;
        let config = EndpointConfig {
            key: 0,
            receives: entries,
            receive_size: RECEIVE_SIZE,
            sends: u32::from(limits.sqsize),
            send_size: SQE_SIZE as u32 + limits.in_capsule,
            transfers: 0,
            reads: 0,
            reads_served: u8::MAX,
        };
        let cq = CompletionQueue::new(&device, config.completions())?;
        let request = CmRequest {
            recfmt: RECFMT.into(),
            qid: (*qid).into(),
            hrqsize: u16::try_from(entries).unwrap_or(u16::MAX).into(),
            hsqsize: limits.sqsize.into(),
            cntlid: if *qid == 0 { 0 } else { *cntlid }.into(),
            ..CmRequest::new_zeroed()
        };
        let endpoint = Endpoint::connect(id, &cq, config, request.as_bytes())?;
        let accept = await_event(&channel, patience, |event| match event {
            ConnectionEvent::Established { private_data } => Some(private_data),
            _ => None,
        })?;
        let crqsize = crqsize(&accept)?;
        tracing::debug!(
            queue = qid, device = device.name(), ?keys, crqsize, local = %endpoint.local_addr(), "RDMA connection established"
        );
        Ok(Self {
            queue: RdmaQueue::new(Arc::clone(&link.name), *limits, crqsize),
            endpoint: Some(endpoint),
            cq,
            channel,
            completions: Vec::new(),
            events: Vec::new(),
            telling: VecDeque::new(),
            armed: false,
            rounds: 0,
        })
    }

    fn queue(&mut self) -> &mut RdmaQueue {
        &mut self.queue
    }

    fn exchange(&mut self) -> Result<bool, ConnectionError> {
        let mut progress = self.act();
        for _ in 0..POLLS_A_ROUND {
            self.cq.poll(&mut self.completions);
            let Some(endpoint) = self.endpoint.as_mut().filter(|_| !self.completions.is_empty()) else { break };
            for completion in self.completions.drain(..) {
                endpoint.handle(completion, &mut self.events);
            }
            progress = true;
            self.tell();
            self.act();
        }
        if self.rounds == 0 {
            self.look()?;
            self.rounds = ROUNDS_A_LOOK;
        }
        self.rounds -= 1;
        Ok(progress)
    }

    fn sleep(&mut self, bell: &Bell, time: Option<Duration>) -> Result<(), ConnectionError> {
        if !self.armed {
            self.cq.arm()?;
            self.armed = true;
            // What came before it was armed is not told.
            if self.cq.poll(&mut self.completions) > 0 {
                return Ok(());
            }
        }
        let on = [(self.cq.fd(), PollFlags::IN), (self.channel.as_fd(), PollFlags::IN)];
        if wait(&on, bell, time)? {
            self.armed &= !self.cq.clear();
            self.rounds = 0;
        }
        Ok(())
    }

    /// Tells the controller good-bye and destroys the queue pair, which makes every key dead.
    fn part(&mut self) {
        let Some(mut endpoint) = self.endpoint.take() else { return };
        endpoint.disconnect();
        self.events.extend(endpoint.close());
        for event in self.telling.drain(..).chain(self.events.drain(..)) {
            if let Event::Concealed { token, memory } = event {
                self.queue.handle_concealed(token, memory);
            }
        }
        self.queue.handle_closed();
    }
}

impl Verbs {
    /// Takes the queue's actions to the queue pair; gives whether there were any.
    fn act(&mut self) -> bool {
        let mut any = false;
        loop {
            let Some(endpoint) = &mut self.endpoint else { return any };
            let Some(action) = self.queue.poll_action() else { break };
            any = true;
            match action {
                Action::Expose { token, memory, access } => {
                    let access = match access {
                        Access::Read => RemoteAccess::Read,
                        Access::Write => RemoteAccess::Write,
                    };
                    let invalidates = endpoint.device().limits().remote_invalidate;
                    let exposed = endpoint
                        .expose(token, memory, access)
                        .map(|key| Key {
                            address: key.address,
                            key: key.key,
                            invalidatable: key.invalidatable && invalidates,
                        })
                        .map_err(|(memory, error)| (memory, error.to_string().into()));
                    self.queue.handle_exposed(token, exposed);
                }
                Action::Send { token, capsule } => endpoint.send(token, capsule),
                Action::Conceal { token } => endpoint.conceal(token),
            }
            if endpoint.has_events() {
                endpoint.take_events(&mut self.events);
                self.tell();
            }
        }
        any
    }

    /// Tells the queue what the queue pair has told.
    fn tell(&mut self) {
        let Some(endpoint) = &mut self.endpoint else { return };
        self.telling.extend(self.events.drain(..));
        while let Some(event) = self.telling.pop_front() {
            match event {
                Event::Received { slot, invalidated, .. } => {
                    self.queue.handle_received(endpoint.received(slot), invalidated);
                    endpoint.release(slot);
                }
                Event::Sent { token, result, .. } => self.queue.handle_sent(token, result.map_err(work_failed)),
                Event::Concealed { token, memory } => self.queue.handle_concealed(token, memory),
                Event::Failed(error) => {
                    // A disconnection says more than the work that it flushed.
                    let told = look(&self.channel).err();
                    self.queue.fail(told.unwrap_or_else(|| work_failed(error)));
                }
                // This side fetches nothing.
                Event::Fetched { .. } => {}
            }
        }
    }

    /// Looks whether the connection has come to its end.
    fn look(&self) -> Result<(), ConnectionError> {
        look(&self.channel)
    }
}

/// Finds the device and the neighbour for `to`.
///
/// The kernel can miss the neighbour's answer, and then looks again only when the time is over that it was given: so it is given
/// little, and asked again.
fn resolve(channel: &Arc<CmChannel>, to: &SocketAddr, patience: &Patience<'_>) -> Result<CmId, ConnectionError> {
    loop {
        let time = patience.left().min(RESOLVE_TIME);
        let id = CmId::resolve(channel, 0, *to, time).map_err(|error| no_way(to, &error))?;
        let resolved = await_event(channel, patience, |event| match event {
            ConnectionEvent::AddressResolved => Some(true),
            ConnectionEvent::Failed { status, .. } if status.saturating_abs() == ETIMEDOUT => Some(false),
            _ => None,
        })?;
        if resolved {
            return Ok(id);
        }
    }
}

/// Takes the connection events that have come; an error is the end of the connection.
fn look(channel: &Arc<CmChannel>) -> Result<(), ConnectionError> {
    while let Some(event) = channel.poll()? {
        let CmEvent::Connection { event, .. } = event else { continue };
        match event {
            ConnectionEvent::Disconnected => return Err(ConnectionError::ClosedByController),
            ConnectionEvent::DeviceRemoved => return Err(ConnectionError::DeviceRemoved),
            event => refused(event)?,
        }
    }
    Ok(())
}

/// Waits for the event that `wanted` is content with.
fn await_event<T>(
    channel: &Arc<CmChannel>,
    patience: &Patience<'_>,
    mut wanted: impl FnMut(ConnectionEvent) -> Option<T>,
) -> Result<T, ConnectionError> {
    loop {
        while let Some(event) = channel.poll()? {
            let CmEvent::Connection { event, .. } = event else { continue };
            match event {
                ConnectionEvent::Disconnected => return Err(ConnectionError::ClosedByController),
                ConnectionEvent::DeviceRemoved => return Err(ConnectionError::DeviceRemoved),
                event => match wanted(event.clone()) {
                    Some(found) => return Ok(found),
                    None => refused(event)?,
                },
            }
        }
        patience.wait(channel.as_fd(), PollFlags::IN)?;
    }
}

/// Why a connection is not made, if `event` says so.
fn refused(event: ConnectionEvent) -> Result<(), ConnectionError> {
    match event {
        ConnectionEvent::Rejected { status: REJECTED_BY_CONSUMER, private_data } => {
            match CmReject::read_from_prefix(&private_data) {
                Ok((reject, _)) => Err(ConnectionError::Rejected(reject.status())),
                Err(_) => Err(ConnectionError::Unreachable {
                    what: format!("rejected by the controller, with {} bytes of reason", private_data.len()).into(),
                }),
            }
        }
        ConnectionEvent::Rejected { status, .. } => {
            Err(ConnectionError::Unreachable { what: rejection(status).into() })
        }
        ConnectionEvent::Failed { what, status } => {
            Err(ConnectionError::Unreachable { what: failure(what, status).into() })
        }
        _ => Ok(()),
    }
}

/// A reason of the connection manager for people.
fn rejection(reason: i32) -> String {
    let what = match reason {
        6 => "its connection manager has no room for another connection",
        8 => "nobody listens there over RDMA; is it the port of an RDMA listener?",
        _ => "its connection manager refuses",
    };
    format!("{what} (reason {reason})")
}

/// No device leads to `to`.
fn no_way(to: &SocketAddr, error: &RdmaError) -> ConnectionError {
    let hint = if to.ip().is_loopback() {
        "loopback addresses are not for RDMA: use the address of an interface with an RDMA device"
    } else {
        "`kvof doctor` tells which addresses the RDMA devices of this machine have"
    };
    ConnectionError::Unreachable { what: format!("no RDMA device leads to {}: {error}; {hint}", to.ip()).into() }
}

/// A failure of the connection manager for people.
fn failure(what: &str, status: i32) -> String {
    let error = std::io::Error::from_raw_os_error(status.saturating_abs());
    format!("{what}: {error}; `kvof doctor` tells which addresses the RDMA devices of this machine have")
}

/// CRQSIZE of an acceptance.
fn crqsize(private_data: &[u8]) -> Result<u16, ConnectionError> {
    let (accept, _) = CmAccept::read_from_prefix(private_data).map_err(|_| {
        ConnectionError::Terms(format!("{} bytes of private data, 32 are demanded", private_data.len()).into())
    })?;
    let (recfmt, crqsize) = (accept.recfmt.get(), accept.crqsize.get());
    if recfmt != RECFMT {
        return Err(ConnectionError::Terms(format!("record format {recfmt} (RECFMT), 0 is known").into()));
    }
    if crqsize == 0 {
        return Err(ConnectionError::Terms("no room for any command (CRQSIZE 0)".into()));
    }
    Ok(crqsize)
}

fn work_failed(error: WorkError) -> ConnectionError {
    if error.is_flush() { ConnectionError::ClosedByController } else { ConnectionError::Work(error.to_string().into()) }
}

impl From<RdmaError> for ConnectionError {
    fn from(error: RdmaError) -> Self {
        Self::Rdma(error.to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use kvof_spec::rdma::CmStatus;

    use super::*;

    #[test]
    fn what_an_acceptance_says_is_checked() {
        let accept = CmAccept::new(32);
        assert_eq!(crqsize(&[accept.as_bytes(), &[0; 164]].concat()).unwrap(), 32);
        for (private_data, said) in [
            (accept.as_bytes()[..31].to_vec(), "31 bytes"),
            (CmAccept::new(0).as_bytes().to_vec(), "CRQSIZE 0"),
            ([&[1, 0], &accept.as_bytes()[2..]].concat(), "RECFMT"),
        ] {
            let error = crqsize(&private_data).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn a_refusal_says_why() {
        let reject = |status, private_data: &[u8]| {
            let event = ConnectionEvent::Rejected { status, private_data: private_data.to_vec() };
            refused(event).unwrap_err().to_string()
        };
        let said = reject(28, &[CmReject::new(CmStatus::INVALID_HRQSIZE).as_bytes(), &[0; 140]].concat());
        assert!(said.contains("Invalid HRQSIZE"), "{said}");
        assert!(reject(28, &[0; 3]).contains("3 bytes"));
        assert!(reject(8, &[]).contains("nobody listens"));
        assert!(reject(6, &[]).contains("reason 6"));
        let failed = ConnectionEvent::Failed { what: "resolving the route", status: -110 };
        let said = refused(failed).unwrap_err().to_string();
        assert!(said.contains("resolving the route") && said.contains("kvof doctor"), "{said}");
        assert!(refused(ConnectionEvent::TimewaitExit).is_ok());
        let said = no_way(&"127.0.0.1:4420".parse().unwrap(), &RdmaError::NoDevice).to_string();
        assert!(said.contains("127.0.0.1") && said.contains("loopback"), "{said}");
    }
}

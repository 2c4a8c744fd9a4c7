//! A connection of an NVMe/RDMA host that says whatever it is told to, right or wrong.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvof_rdma::{
    CmChannel, CmEvent, CmId, CompletionQueue, ConnectionEvent, Endpoint, EndpointConfig, Event, HostMemory,
};
use kvof_spec::FromBytes;
use kvof_spec::rdma::{CmReject, CmStatus};

/// How long anything may take that should happen at once; emulated processors are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The key of endpoints, each of which has a completion queue of its own.
const KEY: u32 = 1;

/// "Rejected by the consumer", of the connection manager's reasons: the peer has said no, and why.
const REJECTED_BY_CONSUMER: i32 = 28;

/// What a connection has room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Receives that are posted, and stay posted until they are used.
    pub(crate) receives: u32,
    /// Receives that the target is told of.
    pub(crate) promised: u16,
    /// Capsules on their way.
    pub(crate) sends: u32,
    /// Bytes of the largest capsule to send.
    pub(crate) send_size: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { receives: 32, promised: 32, sends: 32, send_size: 64 }
    }
}

/// What came of asking for a connection.
pub(crate) enum Answer {
    Accepted(Box<Raw>),
    /// Refused by the target, with this in its private data.
    Refused(CmStatus),
}

/// An established connection.
pub(crate) struct Raw {
    // First, so that it is gone before its queue.
    endpoint: Endpoint<HostMemory>,
    queue: Arc<CompletionQueue>,
    channel: Arc<CmChannel>,
    events: VecDeque<Event<HostMemory>>,
    has_ended: bool,
}

/// A connection that was asked for; nobody has looked for the answer yet.
pub(crate) struct Asked {
    endpoint: Endpoint<HostMemory>,
    queue: Arc<CompletionQueue>,
    channel: Arc<CmChannel>,
}

impl Asked {
    /// Asks for a connection to `to`, with `private_data`.
    ///
    /// # Errors
    /// When the way to the target cannot be found, or this side has no room.
    pub(crate) fn new(to: SocketAddr, shape: Shape, private_data: &[u8]) -> Result<Self> {
        let channel = CmChannel::new()?;
        let id = resolve(&channel, to)?;
        id.resolve_route(PATIENCE)?;
        expect_event(&channel, &ConnectionEvent::RouteResolved)?;
        let config = EndpointConfig {
            key: KEY,
            receives: shape.receives,
            receive_size: 4096,
            sends: shape.sends,
            send_size: shape.send_size,
            transfers: 1,
            reads: 1,
            reads_served: 16,
        };
        // Devices round the lengths of queues up.
        let queue = CompletionQueue::new(&id.device()?, 2 * config.completions() + 64)?;
        let endpoint = Endpoint::connect(id, &queue, config, private_data)?;
        Ok(Self { endpoint, queue, channel })
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// When there is none, or it is neither yes nor a proper no.
    pub(crate) fn answer(self) -> Result<Answer> {
        match next_event(&self.channel)? {
            ConnectionEvent::Established { .. } => Ok(Answer::Accepted(Box::new(Raw {
                endpoint: self.endpoint,
                queue: self.queue,
                channel: self.channel,
                events: VecDeque::new(),
                has_ended: false,
            }))),
            ConnectionEvent::Rejected { status: REJECTED_BY_CONSUMER, private_data } => {
                let (reject, _) = CmReject::read_from_prefix(&private_data)
                    .map_err(|_| anyhow::anyhow!("refused with {} bytes of private data", private_data.len()))?;
                if reject.recfmt.get() != 0 {
                    bail!("refused with record format {}", reject.recfmt.get());
                }
                Ok(Answer::Refused(reject.status()))
            }
            other => bail!("neither accepted nor refused: {other:?}"),
        }
    }
}

impl Raw {
    /// A connection that has to be accepted.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn connect(to: SocketAddr, shape: Shape, private_data: &[u8]) -> Result<Self> {
        match Asked::new(to, shape, private_data)?.answer()? {
            Answer::Accepted(raw) => Ok(*raw),
            Answer::Refused(status) => bail!("the connection was refused: {status}"),
        }
    }

    /// Its queue pair, to send, expose and conceal.
    pub(crate) const fn endpoint(&mut self) -> &mut Endpoint<HostMemory> {
        &mut self.endpoint
    }

    /// What has happened, within `patience`; `None` when nothing has.
    ///
    /// # Errors
    /// When the connection manager fails.
    pub(crate) fn event(&mut self, patience: Duration) -> Result<Option<Event<HostMemory>>> {
        let until = Instant::now() + patience;
        loop {
            self.turn()?;
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.has_ended || Instant::now() >= until {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the target has ended it, or its queue pair is in error.
    pub(crate) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Waits for the end of the connection; what comes meanwhile is dropped.
    ///
    /// # Errors
    /// When it does not end in time.
    pub(crate) fn wait_for_end(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.has_ended {
            if let Some(Event::Received { slot, .. }) = self.event(Duration::from_millis(50))? {
                self.endpoint.release(slot);
            }
            if Instant::now() > until {
                bail!("the target did not end the connection within {} s", PATIENCE.as_secs());
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        while let Some(event) = self.channel.poll()? {
            if let CmEvent::Connection { event: ConnectionEvent::Disconnected, .. } = event {
                self.has_ended = true;
            }
        }
        let (mut done, mut events) = (Vec::new(), Vec::new());
        while self.queue.poll(&mut done) > 0 {
            for completion in done.drain(..) {
                self.endpoint.handle(completion, &mut events);
            }
        }
        self.endpoint.take_events(&mut events);
        for event in events {
            if matches!(event, Event::Failed(_)) {
                self.has_ended = true;
            } else {
                self.events.push_back(event);
            }
        }
        Ok(())
    }
}

/// Finds the device that leads to `to`. The kernel may miss the answer to a question for the neighbour, and look again only when its time is
/// over: so that time is short.
fn resolve(channel: &Arc<CmChannel>, to: SocketAddr) -> Result<CmId> {
    let until = Instant::now() + PATIENCE;
    loop {
        let id = CmId::resolve(channel, KEY.into(), to, Duration::from_millis(500))?;
        match next_event(channel)? {
            ConnectionEvent::AddressResolved => return Ok(id),
            ConnectionEvent::Failed { .. } if Instant::now() < until => {}
            other => bail!("{other:?} instead of a resolved address"),
        }
    }
}

fn expect_event(channel: &Arc<CmChannel>, wanted: &ConnectionEvent) -> Result<()> {
    let event = next_event(channel)?;
    if event == *wanted { Ok(()) } else { bail!("{event:?} instead of {wanted:?}") }
}

fn next_event(channel: &Arc<CmChannel>) -> Result<ConnectionEvent> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match channel.poll().context("waiting for the connection manager")? {
            Some(CmEvent::Connection { event, .. }) => return Ok(event),
            Some(CmEvent::Request { .. }) => bail!("a request to one who does not listen"),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    bail!("the connection manager said nothing for {} s", PATIENCE.as_secs())
}

//! A connection on its core, whatever its transport.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    CoreMessage, Mailbox,
    rdma::RdmaLink,
    tcp::{Received, TcpLink},
    turns::Class,
};
use crate::{
    backend::{IoError, IoOutcome},
    control::{QueueTransport, TransportKind},
    queue::{CommandIndex, Cx},
    transport::CloseReason,
};

/// A connection, and where it stands in the core's lists.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) link: Link,
    pub(super) transport: Rc<QueueTransport>,
    /// A wake-up message is under way; more would say nothing new.
    woken: Arc<AtomicBool>,
    /// In the core's list of connections that may have something to receive.
    pub(super) is_ready: bool,
    /// In the core's list of connections to look after at the end of the turn.
    pub(super) is_dirty: bool,
    /// In the core's line of connections with much to send.
    pub(super) is_sending: bool,
    /// In the core's list of connections that wait for pool memory.
    pub(super) is_starved: bool,
}

/// A protocol and what carries it.
#[derive(Debug)]
pub(super) enum Link {
    Tcp(Box<TcpLink>),
    Rdma(Box<RdmaLink>),
}

/// How a host came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// Port of the discovery log.
    pub(super) portid: u16,
    /// The address that the host reached.
    pub(super) local: SocketAddr,
    /// The host's address.
    pub(super) peer: SocketAddr,
}

/// Runs `$body` with `$connection`, the state machine of either transport.
macro_rules! either {
    ($conn:expr, |$connection:ident| $body:expr) => {
        match $conn {
            Link::Tcp(link) => {
                let $connection = &mut link.connection;
                $body
            }
            Link::Rdma(link) => {
                let $connection = &mut link.connection;
                $body
            }
        }
    };
}

impl Conn {
    /// The connection `key` of the core that `mailbox` belongs to.
    pub(super) fn new(link: Link, origin: Origin, (mailbox, key): (Mailbox, usize)) -> Self {
        let woken = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&woken);
        let wake = Arc::new(move || {
            if !flag.swap(true, Ordering::AcqRel) {
                mailbox.send(CoreMessage::Wake(key));
            }
        });
        let kind = match link {
            Link::Tcp(_) => TransportKind::Tcp,
            Link::Rdma(_) => TransportKind::Rdma,
        };
        let Origin { portid, local, peer } = origin;
        let transport = Rc::new(QueueTransport { kind, portid, local, peer, wake });
        Self { link, transport, woken, is_ready: false, is_dirty: false, is_sending: false, is_starved: false }
    }

    /// Receives what has come, about `most` bytes of it.
    pub(super) fn receive(&mut self, cx: &mut Cx<'_>, scratch: &mut [u8], most: usize) -> Received {
        match &mut self.link {
            Link::Tcp(link) => link.receive(cx, scratch, most),
            Link::Rdma(link) => Received { bytes: 0, more: link.receive(cx).then_some(Class::Prompt) },
        }
    }

    /// How the connection stands in line to receive. The data of RDMA come by themselves.
    pub(super) const fn class(&self) -> Class {
        match &self.link {
            Link::Tcp(link) if link.connection.expects_data() => Class::Bulk,
            Link::Tcp(_) | Link::Rdma(_) => Class::Prompt,
        }
    }

    /// A backend has finished the command at `index`.
    pub(super) fn handle_outcome(&mut self, cx: &mut Cx<'_>, index: CommandIndex, outcome: Result<IoOutcome, IoError>) {
        either!(&mut self.link, |connection| connection.handle_outcome(cx, index, outcome));
    }

    /// The controller has something for the queue.
    pub(super) fn handle_wake(&mut self, cx: &mut Cx<'_>) {
        self.woken.store(false, Ordering::Release);
        either!(&mut self.link, |connection| connection.handle_wake(cx));
    }

    /// Lets commands go on that waited for pool memory; false while there is none.
    pub(super) fn handle_memory(&mut self, cx: &mut Cx<'_>) -> bool {
        either!(&mut self.link, |connection| connection.handle_memory(cx))
    }

    /// To be called a few times a second.
    pub(super) fn handle_tick(&mut self, cx: &mut Cx<'_>) {
        match &mut self.link {
            Link::Tcp(link) => link.handle_tick(cx),
            Link::Rdma(link) if link.is_open() => link.connection.handle_tick(cx),
            _ => {}
        }
    }

    /// The target stops.
    pub(super) fn drain(&mut self) {
        either!(&mut self.link, |connection| connection.drain());
    }

    /// Whether commands wait for pool memory.
    pub(super) fn wants_memory(&mut self) -> bool {
        either!(&mut self.link, |connection| connection.is_starved())
    }

    /// Why the connection is over, once all that it had to say is sent.
    pub(super) fn poll_close(&mut self) -> Option<&CloseReason> {
        either!(&mut self.link, |connection| connection.poll_close())
    }

    /// Whether anything can still come from the host, or from the device.
    pub(super) fn is_open(&self) -> bool {
        match &self.link {
            Link::Tcp(link) => link.socket.is_some(),
            Link::Rdma(link) => link.is_open(),
        }
    }

    /// Whether nothing refers to the connection any more: no socket, no queue pair, no backend.
    pub(super) fn is_gone(&self) -> bool {
        let is_idle = match &self.link {
            Link::Tcp(link) => link.connection.is_idle(),
            Link::Rdma(link) => link.connection.is_idle(),
        };
        !self.is_open() && is_idle && !self.is_ready && !self.is_sending && !self.is_starved
    }
}

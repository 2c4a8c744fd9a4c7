//! A connection on its core: the socket, its watches, and how bytes move between the two.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kvof_io::{WatchId, recv_vectored};

use super::{CoreMessage, Mailbox};
use crate::{
    control::{QueueTransport, TransportKind},
    queue::Cx,
    transport::tcp::Connection,
};

/// Receives of one connection before others have their turn.
const RECV_BUDGET: usize = 8;
/// Scratch to use while a command's data is due: what comes behind the data is copied, so only a few headers should.
const SCRATCH_WITH_DATA: usize = 4096;

/// A connection and its socket.
#[derive(Debug)]
pub(super) struct Conn {
    /// `None` once the connection is over and only waits for its last backend operations.
    pub(super) socket: Option<OwnedFd>,
    pub(super) readable: Option<WatchId>,
    pub(super) tcp: Connection,
    pub(super) transport: Rc<QueueTransport>,
    /// A wake-up message is under way; more would say nothing new.
    pub(super) woken: Arc<AtomicBool>,
    /// In the core's list of connections that may have something to receive.
    pub(super) is_ready: bool,
    /// In the core's list of connections to look after at the end of the turn.
    pub(super) is_dirty: bool,
    /// In the core's list of connections that wait for pool memory.
    pub(super) is_starved: bool,
    /// Waits for the socket to take more.
    pub(super) writable: Option<WatchId>,
}

impl Conn {
    pub(super) fn new(
        socket: OwnedFd,
        tcp: Connection,
        (portid, local, peer): (u16, std::net::SocketAddr, std::net::SocketAddr),
        (mailbox, key): (Mailbox, usize),
    ) -> Self {
        let woken = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&woken);
        let wake = Arc::new(move || {
            if !flag.swap(true, Ordering::AcqRel) {
                mailbox.send(CoreMessage::Wake(key));
            }
        });
        let transport = Rc::new(QueueTransport { kind: TransportKind::Tcp, portid, local, peer, wake });
        Self {
            socket: Some(socket),
            readable: None,
            tcp,
            transport,
            woken,
            is_ready: false,
            is_dirty: false,
            is_starved: false,
            writable: None,
        }
    }

    /// Receives what has come, up to a budget; true if there may be more.
    pub(super) fn receive(&mut self, cx: &mut Cx<'_>, scratch: &mut [u8]) -> bool {
        for _ in 0..RECV_BUDGET {
            let Some(socket) = &self.socket else { return false };
            self.tcp.resume(cx);
            if !self.tcp.wants_receive() {
                return false;
            }
            let tail = if self.tcp.expects_data() { SCRATCH_WITH_DATA.min(scratch.len()) } else { scratch.len() };
            let tail = &mut scratch[..tail];
            let place = self.tcp.recv_place();
            let place_len = place.as_ref().map_or(0, |p| p.len());
            let room = place_len + tail.len();
            let received = match place {
                Some(place) => recv_vectored(socket.as_fd(), &mut [IoSliceMut::new(place), IoSliceMut::new(tail)]),
                None => recv_vectored(socket.as_fd(), &mut [IoSliceMut::new(tail)]),
            };
            match received {
                Ok(0) => {
                    self.tcp.handle_end(None);
                    return false;
                }
                Ok(n) => {
                    let placed = n.min(place_len);
                    self.tcp.handle_received(cx, placed, &tail[..n - placed]);
                    // Less than there was room for: the socket is empty, and the next bytes raise an event of their own.
                    if n < room {
                        return false;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) => {
                    self.tcp.handle_end(Some(&e));
                    return false;
                }
            }
        }
        true
    }

    /// Sends what waits; true if the socket has to become writable first.
    pub(super) fn send(&mut self, cx: &Cx<'_>) -> bool {
        let Some(socket) = &self.socket else { return false };
        if self.tcp.tx().is_empty() {
            return false;
        }
        match self.tcp.tx().send(socket.as_fd()) {
            Ok(sent) => {
                self.tcp.handle_sent(cx.now, sent);
                sent.would_block
            }
            Err(e) => {
                self.tcp.handle_end(Some(&e));
                false
            }
        }
    }
}

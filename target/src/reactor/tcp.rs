//! A TCP connection on its core: the socket, its watches, and how bytes move between the two.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use kvof_io::{EventLoop, WatchId, recv_vectored};

use crate::{queue::Cx, transport::tcp::Connection};

/// Receives of one connection before others have their turn.
const RECV_BUDGET: usize = 8;
/// Scratch to use while a command's data is due: what comes behind the data is copied, so only a few headers should.
const SCRATCH_WITH_DATA: usize = 4096;

/// A connection and its socket.
#[derive(Debug)]
pub(super) struct TcpLink {
    /// `None` once the connection is over and only waits for its last backend operations.
    pub(super) socket: Option<OwnedFd>,
    pub(super) connection: Connection,
    readable: Option<WatchId>,
    /// Waits for the socket to take more.
    pub(super) writable: Option<WatchId>,
}

/// What a flush has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flushed {
    /// Something was sent.
    pub(super) moved: bool,
    /// The connection may have something to receive that no event tells of.
    pub(super) resume: bool,
}

impl TcpLink {
    /// A connection over `socket`, whose events come under `token`.
    pub(super) fn new(ring: &mut EventLoop, socket: OwnedFd, mut connection: Connection, token: u64) -> Self {
        let readable = match ring.watch_readable(socket.as_fd(), token) {
            Ok(watch) => Some(watch),
            Err(error) => {
                connection.handle_end(Some(&error));
                None
            }
        };
        Self { socket: Some(socket), connection, readable, writable: None }
    }

    /// Receives what has come, up to a budget; true if there may be more.
    pub(super) fn receive(&mut self, cx: &mut Cx<'_>, scratch: &mut [u8]) -> bool {
        let tcp = &mut self.connection;
        for _ in 0..RECV_BUDGET {
            let Some(socket) = &self.socket else { return false };
            tcp.resume(cx);
            if !tcp.wants_receive() {
                return false;
            }
            let tail = if tcp.expects_data() { SCRATCH_WITH_DATA.min(scratch.len()) } else { scratch.len() };
            let tail = &mut scratch[..tail];
            let place = tcp.recv_place();
            let place_len = place.as_ref().map_or(0, |p| p.len());
            let room = place_len + tail.len();
            let received = match place {
                Some(place) => recv_vectored(socket.as_fd(), &mut [IoSliceMut::new(place), IoSliceMut::new(tail)]),
                None => recv_vectored(socket.as_fd(), &mut [IoSliceMut::new(tail)]),
            };
            match received {
                Ok(0) => {
                    tcp.handle_end(None);
                    return false;
                }
                Ok(n) => {
                    let placed = n.min(place_len);
                    tcp.handle_received(cx, placed, &tail[..n - placed]);
                    // Less than there was room for: the socket is empty, and the next bytes raise an event of their own.
                    if n < room {
                        return false;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) => {
                    tcp.handle_end(Some(&e));
                    return false;
                }
            }
        }
        true
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self, ring: &mut EventLoop, token: u64, now: Instant) -> io::Result<Flushed> {
        if self.writable.is_some() {
            return Ok(Flushed::default());
        }
        let before = self.connection.tx().pending();
        let held_off = !self.connection.wants_receive();
        let is_full = self.send(now);
        // What came while its answers waited raised its event then, and nothing else will tell of it.
        let resume = held_off && self.connection.wants_receive();
        if is_full && let Some(socket) = &self.socket {
            self.writable = Some(ring.watch_writable_once(socket.as_fd(), token)?);
        }
        Ok(Flushed { moved: self.connection.tx().pending() != before, resume })
    }

    /// Sends what waits; true if the socket has to become writable first.
    fn send(&mut self, now: Instant) -> bool {
        let Some(socket) = &self.socket else { return false };
        if self.connection.tx().is_empty() {
            return false;
        }
        match self.connection.tx().send(socket.as_fd()) {
            Ok(sent) => {
                self.connection.handle_sent(now, sent);
                sent.would_block
            }
            Err(e) => {
                self.connection.handle_end(Some(&e));
                false
            }
        }
    }

    /// Closes the socket; true if it was open.
    pub(super) fn close(&mut self, ring: &mut EventLoop) -> bool {
        let Some(socket) = self.socket.take() else { return false };
        // A watch holds the socket: closed without this, the host would not hear of it.
        for watch in [self.readable.take(), self.writable.take()].into_iter().flatten() {
            ring.unwatch(watch);
        }
        drop(socket);
        true
    }
}

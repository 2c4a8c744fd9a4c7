//! A TCP connection on its core: the socket, its watches, and how bytes move between the two.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use kvof_io::{EventLoop, Pool, WatchId, recv_vectored, round_trip};

use super::turns::{Class, PROMPT};
use crate::{queue::Cx, transport::tcp::Connection};

/// Receives of one connection before others have their turn, if they do not bring much.
const RECV_BUDGET: usize = 8;
/// Least room that is offered to the socket: the last receive of a slice is not to be a small one.
const RECV_LEAST: usize = 64 << 10;
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
    /// The connection has been told how long a round trip takes, since the last tick.
    knows_round_trip: bool,
}

/// What a receive has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    /// Bytes that came.
    pub(super) bytes: usize,
    /// There may be more, and in which line the connection should wait for its next turn.
    pub(super) more: Option<Class>,
}

/// What a flush has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flushed {
    /// Something was sent, or dropped.
    pub(super) moved: bool,
    /// Bytes of that, over TCP.
    pub(super) bytes: usize,
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
        Self { socket: Some(socket), connection, readable, writable: None, knows_round_trip: false }
    }

    /// To be called a few times a second.
    pub(super) fn handle_tick(&mut self, cx: &mut Cx<'_>) {
        if self.socket.is_some() {
            self.knows_round_trip = false;
            self.connection.handle_tick(cx);
        }
    }

    /// Tells the connection how long a round trip takes, where that makes a difference.
    fn learn_round_trip(&mut self) {
        let Some(socket) = &self.socket else { return };
        self.knows_round_trip = true;
        match round_trip(socket.as_fd()) {
            Ok(Some(time)) => self.connection.set_round_trip(time),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the kernel does not tell the round trip"),
        }
    }

    /// Receives what has come, about `most` bytes of it.
    pub(super) fn receive(&mut self, cx: &mut Cx<'_>, scratch: &mut [u8], most: usize) -> Received {
        let mut bytes = 0;
        if self.connection.is_in_line() && !self.knows_round_trip {
            self.learn_round_trip();
        }
        let tcp = &mut self.connection;
        for _ in 0..RECV_BUDGET {
            if bytes >= most {
                break;
            }
            let Some(socket) = &self.socket else { return Received { bytes, more: None } };
            tcp.resume(cx);
            if !tcp.wants_receive() {
                return Received { bytes, more: None };
            }
            let most_now = (most - bytes).max(RECV_LEAST);
            let tail = if tcp.expects_data() { SCRATCH_WITH_DATA.min(scratch.len()) } else { scratch.len() };
            let place = tcp.recv_place();
            let due = place.as_ref().map_or(0, |place| place.len());
            // What comes behind the data can wait if the data alone is enough.
            let tail = if due >= most_now { &mut [][..] } else { scratch.get_mut(..tail).unwrap_or_default() };
            let place_len = due.min(most_now);
            let room = place_len + tail.len();
            let received = match place.and_then(|place| place.get_mut(..place_len)) {
                Some(place) => recv_vectored(socket.as_fd(), &mut [IoSliceMut::new(place), IoSliceMut::new(tail)]),
                None => recv_vectored(socket.as_fd(), &mut [IoSliceMut::new(tail)]),
            };
            match received {
                Ok(0) => {
                    tcp.handle_end(None);
                    return Received { bytes, more: None };
                }
                Ok(n) => {
                    let placed = n.min(place_len);
                    tcp.handle_received(cx, placed, tail.get(..n - placed).unwrap_or_default());
                    bytes += n;
                    // Less than there was room for: the socket is empty, and the next bytes raise an event of their own.
                    if n < room {
                        return Received { bytes, more: None };
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Received { bytes, more: None },
                Err(e) => {
                    tcp.handle_end(Some(&e));
                    return Received { bytes, more: None };
                }
            }
        }
        let much = bytes >= most || self.connection.expects_data();
        Received { bytes, more: Some(if much { Class::Bulk } else { Class::Prompt }) }
    }

    /// Whether what waits to be sent is so much that others come first.
    pub(super) fn is_bulky(&mut self) -> bool {
        self.writable.is_none() && self.connection.tx().pending() > PROMPT
    }

    /// Sends what waits, as far as the socket takes it, and about `most` bytes of it.
    pub(super) fn flush(
        &mut self,
        ring: &mut EventLoop,
        pool: &Pool,
        token: u64,
        now: Instant,
        most: usize,
    ) -> io::Result<Flushed> {
        if self.writable.is_some() {
            return Ok(Flushed::default());
        }
        let before = self.connection.tx().pending();
        let held_off = !self.connection.wants_receive();
        // No small rest is left over.
        let most = if before <= most.saturating_add(PROMPT) { before } else { most };
        let is_full = self.send(pool, now, most);
        // What came while its answers waited raised its event then, and nothing else will tell of it.
        let resume = held_off && self.connection.wants_receive();
        if is_full && let Some(socket) = &self.socket {
            self.writable = Some(ring.watch_writable_once(socket.as_fd(), token)?);
        }
        let left = self.connection.tx().pending();
        Ok(Flushed { moved: left != before, bytes: before.saturating_sub(left), resume })
    }

    /// Sends what waits, at most `most` bytes; true if the socket has to become writable first.
    fn send(&mut self, pool: &Pool, now: Instant, most: usize) -> bool {
        let Some(socket) = &self.socket else { return false };
        if self.connection.tx().is_empty() {
            return false;
        }
        match self.connection.tx().send_some(socket.as_fd(), pool, most) {
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

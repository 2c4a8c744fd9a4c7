//! A TCP socket and the [`TcpQueue`] on it: moves the bytes.

use std::{
    io::{IoSlice, IoSliceMut},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags,
        SocketType, ipproto, recvmsg, sendmsg, socket_with, sockopt,
    },
};

use super::{IOV_MAX, Settings, TcpQueue};
use crate::{
    ConnectionError,
    driver::{Line, Link, Patience, wait},
    port::Bell,
    queue::HostQueue,
};

/// Receives in one round, so that sending and new commands get their turn.
const RECEIVES_A_ROUND: usize = 16;
/// Copies of device memory are looked at so often even if nothing tells that one is over.
const COPY_CHECK: Duration = Duration::from_millis(10);
/// After this time it is told that copies keep a connection from ending.
const COPY_PATIENCE: Duration = Duration::from_secs(10);

/// A connected socket and its queue.
pub(crate) struct Socket {
    queue: TcpQueue,
    socket: OwnedFd,
    /// The socket takes no more bytes.
    full: bool,
    /// The queue takes no more bytes: it waits for copies to device memory.
    paused: bool,
}

impl Line for Socket {
    type Settings = Settings;
    type Queue = TcpQueue;

    fn connect(to: &SocketAddr, link: &Link<Settings>, patience: &Patience<'_>) -> Result<Self, ConnectionError> {
        let failed = |e: Errno| ConnectionError::io("connect", e);
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(failed)?;
        sockopt::set_tcp_nodelay(&socket, true).map_err(failed)?;
        match rustix::net::connect(&socket, to) {
            Ok(()) => {}
            Err(Errno::INPROGRESS | Errno::INTR) => {
                while !patience.wait(socket.as_fd(), PollFlags::OUT)? {}
                sockopt::socket_error(&socket).map_err(failed)?.map_err(failed)?;
            }
            Err(e) => return Err(failed(e)),
        }
        Ok(Self { queue: TcpQueue::new(Arc::clone(&link.name), link.settings), socket, full: false, paused: false })
    }

    fn queue(&mut self) -> &mut TcpQueue {
        &mut self.queue
    }

    fn exchange(&mut self) -> Result<bool, ConnectionError> {
        let copied = self.queue.handle_copies();
        let sent = self.send()?;
        Ok(self.receive()? || sent || copied)
    }

    fn sleep(&mut self, bell: &Bell, time: Option<Duration>) -> Result<(), ConnectionError> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, !self.paused);
        events.set(PollFlags::OUT, self.full);
        let socket = (self.socket.as_fd(), events);
        match self.queue.copies_fd().filter(|_| self.queue.is_copying()) {
            None => wait(&[socket], bell, time)?,
            Some(copies) => {
                let time = time.map_or(COPY_CHECK, |t| t.min(COPY_CHECK));
                wait(&[socket, (copies, PollFlags::IN)], bell, Some(time))?
            }
        };
        Ok(())
    }

    /// Says good-bye, as far as the socket takes it at once, and waits for copies from and to device memory: their
    /// buffers go back to their owners after that.
    fn part(&mut self) {
        let _ = self.send();
        let _ = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Write);
        let begun = Instant::now();
        let mut told = false;
        while self.queue.is_leaving() {
            if !told && begun.elapsed() > COPY_PATIENCE {
                told = true;
                tracing::warn!("copies from or to device memory do not end; their buffers cannot be given back before");
            }
            if !self.queue.handle_copies() {
                let time = Timespec::try_from(COPY_CHECK).ok();
                let fds = self.queue.copies_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
                // Whatever it says, the copies are looked at again.
                let _ = poll(&mut fds.into_iter().collect::<Vec<_>>(), time.as_ref());
            }
        }
    }
}

impl Socket {
    fn send(&mut self) -> Result<bool, ConnectionError> {
        let mut progress = false;
        while self.queue.prepare_transmit() {
            let mut iov = [IoSlice::new(&[]); IOV_MAX];
            let count = self.queue.transmit(&mut iov);
            let pieces = iov.get(..count).unwrap_or_default();
            let sent = sendmsg(
                &self.socket,
                pieces,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            );
            match sent {
                Ok(n) => {
                    self.queue.handle_sent(n);
                    progress = true;
                    self.full = false;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.full = true;
                    return Ok(progress);
                }
                // What the controller said before it closed is worth more than this error.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    while self.queue.ended().is_none() && self.receive()? {}
                    return Err(ConnectionError::ClosedByController);
                }
                Err(e) => return Err(ConnectionError::io("sendmsg", e)),
            }
        }
        self.full = false;
        Ok(progress)
    }

    fn receive(&mut self) -> Result<bool, ConnectionError> {
        let mut progress = false;
        for _ in 0..RECEIVES_A_ROUND {
            let (direct, buffered) = self.queue.receive();
            let room = direct.len() + buffered.len();
            self.paused = room == 0;
            if self.paused {
                break;
            }
            let mut both = [IoSliceMut::new(direct), IoSliceMut::new(buffered)];
            let iov = if both[0].is_empty() { &mut both[1..] } else { &mut both[..] };
            match recvmsg(&self.socket, iov, &mut RecvAncillaryBuffer::default(), RecvFlags::DONTWAIT) {
                Ok(message) => {
                    self.queue.handle_received(message.bytes);
                    progress = true;
                    if message.bytes < room || self.queue.ended().is_some() {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(Errno::CONNRESET) => return Err(ConnectionError::ClosedByController),
                Err(e) => return Err(ConnectionError::io("recvmsg", e)),
            }
        }
        Ok(progress)
    }
}

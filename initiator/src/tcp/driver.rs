//! The thread of one connection: moves bytes between a socket and its [`HostQueue`], and commands between the queue
//! and its [`Port`]. It makes no decision about the protocol.

use std::{
    collections::VecDeque,
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
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

use super::{HostQueue, IOV_MAX, Settings};
use crate::{
    Address, ConnectionError, Error, Result,
    port::{Bell, Port, Work},
    queue::{Answer, Command},
};

/// Receives in one round, so that sending and new commands get their turn.
const RECEIVES_A_ROUND: usize = 16;

/// A connection to be made, and how to drive it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) address: Address,
    /// What errors call the controller.
    pub(crate) name: Arc<str>,
    pub(crate) settings: Settings,
    pub(crate) connect_timeout: Duration,
    pub(crate) busy_poll: Duration,
}

/// Starts the thread of a connection for `port`. What becomes of it is seen at the port.
pub(crate) fn spawn(link: Link, port: &Arc<Port>) -> Result<()> {
    let bell = port.begin()?;
    let port = Arc::clone(port);
    thread::Builder::new()
        .name(format!("kvof-queue-{}", port.qid()))
        .spawn(move || {
            let cause = match connect(&link, &port, &bell) {
                Ok(socket) => Driver::new(link, socket, &port, &bell).run(),
                Err(cause) => cause,
            };
            port.disconnected(&bell, &cause);
        })
        .map(|_| ())
        .map_err(|e| Error::system("cannot start the thread of a queue", e))
}

/// Connects to the first of the host's addresses that answers.
fn connect(link: &Link, port: &Port, bell: &Arc<Bell>) -> Result<OwnedFd, ConnectionError> {
    let deadline = Instant::now() + link.connect_timeout;
    let addresses: Vec<SocketAddr> = (link.address.host(), link.address.port())
        .to_socket_addrs()
        .map_err(|e| ConnectionError::Resolve(format!("{:?} has no address: {e}", link.address.host()).into()))?
        .collect();
    let mut failure = ConnectionError::Resolve(format!("{:?} has no address", link.address.host()).into());
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
        match connect_one(address, Instant::now() + share, link, port, bell) {
            Ok(socket) => return Ok(socket),
            Err(cause) => failure = cause,
        }
    }
    Err(failure)
}

fn connect_one(
    address: &SocketAddr,
    deadline: Instant,
    link: &Link,
    port: &Port,
    bell: &Arc<Bell>,
) -> Result<OwnedFd, ConnectionError> {
    let failed = |e: Errno| ConnectionError::io("connect", e);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(failed)?;
    sockopt::set_tcp_nodelay(&socket, true).map_err(failed)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) => return Ok(socket),
        Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(e) => return Err(failed(e)),
    }
    loop {
        let now = Instant::now();
        if now >= deadline {
            return Err(ConnectionError::ConnectTimeout(link.connect_timeout));
        }
        if wait(&socket, PollFlags::OUT, bell, Some(deadline - now))? {
            sockopt::socket_error(&socket).map_err(failed)?.map_err(failed)?;
            return Ok(socket);
        }
        if let Work::End(cause) = port.take(bell, &mut VecDeque::new(), false) {
            return Err(cause);
        }
    }
}

/// Sleeps until the socket is ready, the bell rings or the time is over; gives whether the socket is ready.
fn wait(socket: &OwnedFd, events: PollFlags, bell: &Bell, time: Option<Duration>) -> Result<bool, ConnectionError> {
    let timeout = time.and_then(|t| Timespec::try_from(t).ok());
    let bell_fd = bell.fd();
    let mut fds = [PollFd::new(socket, events), PollFd::from_borrowed_fd(bell_fd, PollFlags::IN)];
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(false),
        Err(e) => return Err(ConnectionError::io("poll", e)),
    }
    let [socket, rung] = fds;
    if !rung.revents().is_empty() {
        bell.silence();
    }
    Ok(!socket.revents().is_empty())
}

struct Driver<'a> {
    queue: HostQueue,
    socket: OwnedFd,
    port: &'a Port,
    bell: &'a Arc<Bell>,
    connect_deadline: Option<Instant>,
    link: Link,
    commands: VecDeque<(usize, Command)>,
    answers: Vec<(usize, Answer)>,
    limit: usize,
    /// The socket takes no more bytes.
    full: bool,
}

impl<'a> Driver<'a> {
    fn new(link: Link, socket: OwnedFd, port: &'a Port, bell: &'a Arc<Bell>) -> Self {
        Self {
            queue: HostQueue::new(Arc::clone(&link.name), link.settings),
            socket,
            port,
            bell,
            connect_deadline: Instant::now().checked_add(link.connect_timeout),
            link,
            commands: VecDeque::new(),
            answers: Vec::new(),
            limit: 0,
            full: false,
        }
    }

    /// Runs the connection to its end and gives the reason.
    fn run(mut self) -> ConnectionError {
        let mut spin_until = Instant::now();
        loop {
            // A buffer is the caller's code. Should it panic, its connection fails and no other one hangs.
            let progress = catch_unwind(AssertUnwindSafe(|| self.round())).unwrap_or_else(|_| {
                self.queue.fail(ConnectionError::BufferPanicked);
                false
            });
            if let Some(cause) = self.queue.ended() {
                let cause = cause.clone();
                self.hand_out();
                self.part();
                return cause;
            }
            if progress && self.link.busy_poll.is_zero() {
                continue;
            }
            let now = Instant::now();
            if progress {
                spin_until = now + self.link.busy_poll;
                continue;
            }
            if now < spin_until && self.queue.is_busy() {
                std::hint::spin_loop();
                continue;
            }
            if let Err(cause) = self.sleep(now) {
                self.queue.fail(cause);
            }
        }
    }

    /// Moves what can be moved; gives whether anything was.
    fn round(&mut self) -> bool {
        if let Work::End(cause) = self.port.take(self.bell, &mut self.commands, false) {
            self.queue.fail(cause);
        }
        let mut progress = !self.commands.is_empty();
        while let Some((key, command)) = self.commands.pop_front() {
            self.queue.submit(key, command);
        }
        let moved = self.send().and_then(|sent| self.receive().map(|received| sent || received));
        match moved {
            Ok(moved) => progress |= moved,
            Err(cause) => self.queue.fail(cause),
        }
        if self.queue.poll_deadline().is_some_and(|at| at <= Instant::now()) {
            self.queue.handle_timeout(Instant::now());
        }
        progress |= self.hand_out();
        let usable = self.queue.usable();
        if self.queue.negotiated().is_some() && self.limit != usable {
            self.limit = usable;
            match self.connect_deadline.take() {
                Some(_) => self.port.connected(self.bell, usable),
                None => self.port.set_limit(self.bell, usable),
            }
        }
        if self.connect_deadline.is_some_and(|at| at <= Instant::now()) {
            self.queue.fail(ConnectionError::ConnectTimeout(self.link.connect_timeout));
        }
        progress
    }

    /// Hands the answers out; gives whether there were any.
    fn hand_out(&mut self) -> bool {
        self.queue.take_answers(&mut self.answers);
        let any = !self.answers.is_empty();
        self.port.answer(&mut self.answers);
        any
    }

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

    /// Sleeps until there is something to do.
    fn sleep(&mut self, now: Instant) -> Result<(), ConnectionError> {
        match self.port.take(self.bell, &mut self.commands, true) {
            Work::End(_) => return Ok(()),
            Work::Go if !self.commands.is_empty() => return Ok(()),
            Work::Go => {}
        }
        let mut events = PollFlags::IN;
        if self.full {
            events |= PollFlags::OUT;
        }
        let deadline = [self.queue.poll_deadline(), self.connect_deadline].into_iter().flatten().min();
        let time = deadline.map(|at| at.saturating_duration_since(now));
        wait(&self.socket, events, self.bell, time).map(|_| ())
    }

    /// Says good-bye, as far as the socket takes it at once.
    fn part(&mut self) {
        let _ = self.send();
        let _ = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Write);
    }
}

//! What drives one connection, whatever the transport: moves commands between the queue and its [`Port`], watches the
//! clock, spins and sleeps. What moves on the wire is the transport's [`Line`]; it makes no decision about the protocol
//! either.
//!
//! A connection has a thread, which drives it unless a caller does so ([`Drive`]): as long as callers come regularly, the
//! thread stands by and only looks now and then whether they still do.

use std::{
    collections::VecDeque,
    net::{SocketAddr, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::BorrowedFd,
    io::Errno,
    thread::{CpuSet, sched_setaffinity},
};

use crate::{
    Address, ConnectionError, Error, Result,
    port::{Bell, Port, Work},
    queue::{Answer, Command, HostQueue},
};

/// How long a queue's thread leaves the driving to a caller who was there a moment ago.
const STANDBY: Duration = Duration::from_millis(1);
/// The same where callers have come for long: looking for them takes the processor from those who share it, in a virtual machine for 50 µs.
const STANDBY_MAX: Duration = Duration::from_millis(16);
/// Of the time that callers have come for, the part that the next look for them may be late.
const STANDBY_SHARE: u32 = 16;

/// A connection that callers may drive.
pub(crate) trait Drive: Send + Sync {
    /// Moves what can be moved without waiting; gives whether anything was.
    fn progress(&self) -> bool;
}

/// A connection to be made, and how to drive it; `S` is what the transport wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Link<S> {
    pub(crate) address: Address,
    /// What errors call the controller.
    pub(crate) name: Arc<str>,
    pub(crate) settings: S,
    pub(crate) connect_timeout: Duration,
    pub(crate) busy_poll: Duration,
    /// The processor for the queue's thread.
    pub(crate) core: Option<usize>,
}

/// A connection of one transport, and the queue on it.
pub(crate) trait Line: Sized + Send + 'static {
    /// What it has to know to connect.
    type Settings: Send + 'static;
    /// The queue.
    type Queue: HostQueue;

    /// Connects to `to`, for as long as `patience` lasts.
    fn connect(to: &SocketAddr, link: &Link<Self::Settings>, patience: &Patience<'_>) -> Result<Self, ConnectionError>;

    /// The queue.
    fn queue(&mut self) -> &mut Self::Queue;

    /// Moves what can be moved without waiting; gives whether anything was.
    fn exchange(&mut self) -> Result<bool, ConnectionError>;

    /// Sleeps until there is something to move, the bell rings or the time is over.
    fn sleep(&mut self, bell: &Bell, time: Option<Duration>) -> Result<(), ConnectionError>;

    /// Ends the connection, whose queue has ended. Every command of the queue is answered after it.
    fn part(&mut self);
}

/// How long making a connection may take, and who may not want it any more.
pub(crate) struct Patience<'a> {
    deadline: Instant,
    /// The whole connect timeout, for the error.
    limit: Duration,
    port: &'a Port,
    bell: &'a Arc<Bell>,
}

impl Patience<'_> {
    /// Time that is left.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Sleeps until `on` is ready, and gives whether it is.
    ///
    /// # Errors
    /// The time is over, or nobody wants the connection any more.
    pub(crate) fn wait(&self, on: BorrowedFd<'_>, events: PollFlags) -> Result<bool, ConnectionError> {
        let left = self.left();
        if left.is_zero() {
            return Err(ConnectionError::ConnectTimeout(self.limit));
        }
        if wait(&[(on, events)], self.bell, Some(left))? {
            return Ok(true);
        }
        match self.port.take(self.bell, &mut VecDeque::new(), false) {
            Work::End(cause) => Err(cause),
            Work::Go => Ok(false),
        }
    }
}

/// Starts the thread of a connection for `port`. What becomes of it is seen at the port.
pub(crate) fn spawn<L: Line>(link: Link<L::Settings>, port: &Arc<Port>) -> Result<()> {
    let bell = port.begin()?;
    let port = Arc::clone(port);
    thread::Builder::new()
        .name(format!("kvof-queue-{}", port.qid()))
        .spawn(move || {
            if let Some(core) = link.core {
                pin(core);
            }
            let cause = match connect::<L>(&link, &port, &bell) {
                Ok(line) => {
                    let wheel = Arc::new(Wheel::new(Driver::new(&link, line, &port, &bell)));
                    port.set_drive(&bell, Arc::clone(&wheel) as Arc<dyn Drive>);
                    let cause = wheel.run(link.busy_poll);
                    port.clear_drive(&bell);
                    cause
                }
                Err(cause) => cause,
            };
            port.disconnected(&bell, &cause);
        })
        .map(|_| ())
        .map_err(|e| Error::system("cannot start the thread of a queue", e))
}

/// Keeps the calling thread on one processor.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        set.set(core);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "a queue's thread cannot be kept on its processor; the scheduler chooses");
    }
}

/// Connects to the first of the host's addresses that answers.
fn connect<L: Line>(link: &Link<L::Settings>, port: &Port, bell: &Arc<Bell>) -> Result<L, ConnectionError> {
    let deadline = Instant::now() + link.connect_timeout;
    let addresses: Vec<SocketAddr> = (link.address.host(), link.address.port())
        .to_socket_addrs()
        .map_err(|e| ConnectionError::Resolve(format!("{:?} has no address: {e}", link.address.host()).into()))?
        .collect();
    let mut failure = ConnectionError::Resolve(format!("{:?} has no address", link.address.host()).into());
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
        let patience = Patience { deadline: Instant::now() + share, limit: link.connect_timeout, port, bell };
        match L::connect(address, link, &patience) {
            Ok(line) => return Ok(line),
            Err(cause) => failure = cause,
        }
    }
    Err(failure)
}

/// Sleeps until one of `on` is ready, the bell rings or the time is over; gives whether one of `on` is ready.
pub(crate) fn wait(
    on: &[(BorrowedFd<'_>, PollFlags)],
    bell: &Bell,
    time: Option<Duration>,
) -> Result<bool, ConnectionError> {
    let timeout = time.and_then(|t| Timespec::try_from(t).ok());
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(on.len() + 1);
    fds.push(PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN));
    fds.extend(on.iter().map(|(fd, events)| PollFd::from_borrowed_fd(*fd, *events)));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(false),
        Err(e) => return Err(ConnectionError::io("poll", e)),
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    if ready.next() == Some(true) {
        bell.silence();
    }
    Ok(ready.any(|ready| ready))
}

/// A driver, and who has it.
struct Wheel<L> {
    driver: Mutex<Driver<L>>,
    bell: Arc<Bell>,
    /// The connection's own.
    thread: Thread,
    /// Times that a caller came.
    visits: AtomicU64,
    /// The thread sleeps, and has the driver.
    asleep: AtomicBool,
    /// The connection has ended; the rest is the thread's.
    is_over: AtomicBool,
}

impl<L: Line> Drive for Wheel<L> {
    fn progress(&self) -> bool {
        if self.is_over.load(Ordering::Acquire) {
            return false;
        }
        self.visits.fetch_add(1, Ordering::SeqCst);
        let mut driver = match self.driver.try_lock() {
            Ok(driver) => driver,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // Woken, the thread sees that there was a visit, and stands by.
                if self.asleep.swap(false, Ordering::SeqCst) {
                    self.bell.ring();
                }
                return false;
            }
        };
        let progress = driver.step();
        if driver.has_ended() {
            self.is_over.store(true, Ordering::Release);
            self.thread.unpark();
        }
        progress
    }
}

impl<L: Line> Wheel<L> {
    fn new(driver: Driver<L>) -> Self {
        Self {
            bell: Arc::clone(&driver.bell),
            driver: Mutex::new(driver),
            thread: thread::current(),
            visits: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Driver<L>> {
        // Code that is not ours runs behind `catch_unwind`.
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drives the connection to its end and gives the reason; on the connection's own thread.
    fn run(&self, busy_poll: Duration) -> ConnectionError {
        let mut spin_until = Instant::now();
        let mut seen = 0;
        loop {
            let mut visited: Option<Instant> = None;
            while !self.is_over.load(Ordering::Acquire) && self.visits.load(Ordering::SeqCst) != seen {
                seen = self.visits.load(Ordering::SeqCst);
                let for_long = visited.get_or_insert_with(Instant::now).elapsed();
                thread::park_timeout((for_long / STANDBY_SHARE).clamp(STANDBY, STANDBY_MAX));
            }
            let mut driver = self.lock();
            let progress = driver.step();
            if driver.has_ended() {
                self.is_over.store(true, Ordering::Release);
                return driver.end();
            }
            if progress && busy_poll.is_zero() {
                continue;
            }
            let now = Instant::now();
            if progress {
                spin_until = now + busy_poll;
                continue;
            }
            if now < spin_until && driver.line.queue().is_busy() {
                drop(driver);
                std::hint::spin_loop();
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            // A visit before this was told nothing of the sleep.
            if self.visits.load(Ordering::SeqCst) == seen
                && let Err(cause) = driver.sleep(now)
            {
                driver.line.queue().fail(cause);
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
    }
}

/// A connection with its queue, and what is on its way between the queue and the port.
struct Driver<L> {
    line: L,
    port: Arc<Port>,
    bell: Arc<Bell>,
    connect_timeout: Duration,
    connect_deadline: Option<Instant>,
    commands: VecDeque<(usize, Box<Command>)>,
    answers: Vec<(usize, Answer)>,
    limit: usize,
}

impl<L: Line> Driver<L> {
    fn new(link: &Link<L::Settings>, line: L, port: &Arc<Port>, bell: &Arc<Bell>) -> Self {
        Self {
            line,
            port: Arc::clone(port),
            bell: Arc::clone(bell),
            connect_timeout: link.connect_timeout,
            connect_deadline: Instant::now().checked_add(link.connect_timeout),
            commands: VecDeque::new(),
            answers: Vec::new(),
            limit: 0,
        }
    }

    /// Moves what can be moved; gives whether anything was. To be called until [`Self::has_ended`].
    fn step(&mut self) -> bool {
        // A buffer is the caller's code. Should it panic, its connection fails and no other one hangs.
        catch_unwind(AssertUnwindSafe(|| self.round())).unwrap_or_else(|_| {
            self.line.queue().fail(ConnectionError::BufferPanicked);
            false
        })
    }

    fn has_ended(&mut self) -> bool {
        self.line.queue().ended().is_some()
    }

    /// Ends the connection and gives the reason.
    fn end(&mut self) -> ConnectionError {
        let cause = self.line.queue().ended().cloned().unwrap_or(ConnectionError::ClosedByHost);
        // Those that are lost hear of it before the good-byes; the others have their buffers after them.
        self.hand_out();
        self.line.part();
        self.hand_out();
        cause
    }

    fn round(&mut self) -> bool {
        if let Work::End(cause) = self.port.take(&self.bell, &mut self.commands, false) {
            self.line.queue().fail(cause);
        }
        let mut progress = !self.commands.is_empty();
        while let Some((key, command)) = self.commands.pop_front() {
            self.line.queue().submit(key, *command);
        }
        match self.line.exchange() {
            Ok(moved) => progress |= moved,
            Err(cause) => self.line.queue().fail(cause),
        }
        let queue = self.line.queue();
        if queue.poll_deadline().is_some_and(|at| at <= Instant::now()) {
            queue.handle_timeout(Instant::now());
        }
        progress |= self.hand_out();
        let queue = self.line.queue();
        let usable = queue.usable();
        if queue.is_ready() && self.limit != usable {
            self.limit = usable;
            match self.connect_deadline.take() {
                Some(_) => self.port.connected(&self.bell, usable),
                None => self.port.set_limit(&self.bell, usable),
            }
        }
        if self.connect_deadline.is_some_and(|at| at <= Instant::now()) {
            self.line.queue().fail(ConnectionError::ConnectTimeout(self.connect_timeout));
        }
        progress
    }

    /// Hands the answers out; gives whether there were any.
    fn hand_out(&mut self) -> bool {
        self.line.queue().take_answers(&mut self.answers);
        let any = !self.answers.is_empty();
        self.port.answer(&mut self.answers);
        any
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self, now: Instant) -> Result<(), ConnectionError> {
        match self.port.take(&self.bell, &mut self.commands, true) {
            Work::End(_) => return Ok(()),
            Work::Go if !self.commands.is_empty() => return Ok(()),
            Work::Go => {}
        }
        let deadline = [self.line.queue().poll_deadline(), self.connect_deadline].into_iter().flatten().min();
        self.line.sleep(&self.bell, deadline.map(|at| at.saturating_duration_since(now)))
    }
}

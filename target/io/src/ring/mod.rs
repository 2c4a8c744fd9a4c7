//! The event loop of one core: socket readiness, disk I/O and wake-ups on one io_uring.
//!
//! Invariants:
//! * A slot (watch or operation) is freed only when the kernel has posted its last completion, so a completion always finds the slot it
//!   belongs to, and memory named in a request outlives the request.
//! * Requests reach the kernel in the order they were made: a cancellation never overtakes what it cancels.
//! * The loop stays on the thread that made it (the type is not `Send`), as the kernel requires of a single issuer.

mod gather;
mod op;
mod setup;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

use crate::{DiskFile, Event, EventKind, PoolBuf, PoolPart, RejectReason, Rejected, SharedBuf, Waker, WatchId};
use gather::Gather;
use op::{DiskOp, Work};
pub use setup::RingSetup;

const READ_EVENTS: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
const WRITE_EVENTS: u32 = libc::POLLOUT as u32;

/// The upper half of a request's user data says what it is; the lower half is the slot.
const CLASS_WATCH: u64 = 1 << 32;
const CLASS_DISK: u64 = 2 << 32;
/// Cancellations, whose own outcome tells nothing that the cancelled request's does not.
const CLASS_CANCEL: u64 = 3 << 32;
const SLOT: u64 = u32::MAX as u64;

/// How long a dropped loop waits for its I/O. A device that does not answer for longer keeps its buffers for good.
const DROP_PATIENCE: Duration = Duration::from_secs(30);

/// How an [`EventLoop`] is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLoopConfig {
    /// Requests that can be handed to the kernel in one call; more are handed over in several.
    pub submission_entries: u32,
    /// Most disk operations in flight.
    pub max_disk_ops: usize,
    /// The ring to ask for; for diagnosis, since the best that the kernel has is taken anyway.
    pub setup: RingSetup,
}

impl Default for EventLoopConfig {
    fn default() -> Self {
        Self { submission_entries: 256, max_disk_ops: 1024, setup: RingSetup::Deferred }
    }
}

/// Sockets, disks and wake-ups of one core thread.
pub struct EventLoop {
    ring: IoUring,
    setup: RingSetup,
    watches: Slab<Watch>,
    ops: Slab<DiskOp>,
    max_disk_ops: usize,
    /// Requests that wait for room in the submission queue. While there are any, new ones queue behind them.
    backlog: VecDeque<squeue::Entry>,
    waker: Waker,
    next_generation: u64,
    turn: u64,
    _bound_to_thread: PhantomData<*mut ()>,
}

struct Watch {
    fd: RawFd,
    token: u64,
    generation: u64,
    kind: WatchKind,
    /// The turn that reported it last: one report a turn is enough.
    reported: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchKind {
    Readable,
    WritableOnce,
    /// The loop's own eventfd, which only ends a wait.
    Waker,
    /// Cancelled: waits for the kernel's last word.
    Ended,
}

impl EventLoop {
    /// A loop for the calling thread.
    pub fn new(config: EventLoopConfig) -> io::Result<Self> {
        let max_disk_ops = config.max_disk_ops.min(1 << 16);
        let cq_entries =
            (max_disk_ops as u32).saturating_mul(2).max(config.submission_entries.saturating_mul(2)).max(4096);
        let (ring, setup) = setup::build(config.setup, config.submission_entries, cq_entries)?;
        let mut event_loop = Self {
            ring,
            setup,
            watches: Slab::new(),
            ops: Slab::new(),
            max_disk_ops,
            backlog: VecDeque::new(),
            waker: Waker::new()?,
            next_generation: 0,
            turn: 0,
            _bound_to_thread: PhantomData,
        };
        let eventfd = event_loop.waker.fd().as_raw_fd();
        event_loop.watch(eventfd, 0, WatchKind::Waker)?;
        Ok(event_loop)
    }

    /// What ring the kernel gave.
    pub fn setup(&self) -> RingSetup {
        self.setup
    }

    /// A handle that ends this loop's waits from any thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Disk operations in flight.
    pub fn disk_ops(&self) -> usize {
        self.ops.len()
    }

    /// Reports [`EventKind::Readable`] when `fd` becomes readable, has an error or its peer shuts down, starting with its
    /// state now, until [`Self::unwatch`].
    ///
    /// The file must stay open until then: if it is closed before, the loop may watch another file that got its number. After `unwatch` it
    /// may be closed at once (the kernel lets go of it at the next turn).
    pub fn watch_readable(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<WatchId> {
        self.watch(fd.as_raw_fd(), token, WatchKind::Readable)
    }

    /// Reports [`EventKind::Writable`] once, when `fd` takes data or has an error. The file must stay open until then or
    /// until [`Self::unwatch`].
    pub fn watch_writable_once(&mut self, fd: BorrowedFd<'_>, token: u64) -> io::Result<WatchId> {
        self.watch(fd.as_raw_fd(), token, WatchKind::WritableOnce)
    }

    /// Ends a watch: no later turn reports an event of it. (Events of this turn that the caller has not looked at yet are the caller's.)
    /// No effect when the watch is over already.
    pub fn unwatch(&mut self, id: WatchId) {
        let key = id.key as usize;
        let live = self.watches.get_mut(key).filter(|w| w.generation == id.generation && w.kind != WatchKind::Ended);
        if let Some(watch) = live {
            watch.kind = WatchKind::Ended;
            self.push(cancel(CLASS_WATCH | u64::from(id.key)));
        }
    }

    /// Fills `buf` from `file` at `offset`. Short transfers are continued inside; the result is shorter than the buffer
    /// only at the end of the file. The request reaches the kernel at the next turn.
    pub fn read(
        &mut self,
        file: &Arc<DiskFile>,
        offset: u64,
        buf: PoolBuf,
        token: u64,
    ) -> Result<(), Rejected<PoolBuf>> {
        if let Some(reason) = self.refusal(file, offset, [(buf.start().cast_const(), buf.len())]) {
            return Err(Rejected { buf, reason });
        }
        self.start(DiskOp::new(Arc::clone(file), token, offset, Work::Read(buf)));
        Ok(())
    }

    /// As [`Self::read`], into a part of a buffer. For a direct file the part must start at a multiple of the file's alignment in the
    /// buffer.
    pub fn read_part(
        &mut self,
        file: &Arc<DiskFile>,
        offset: u64,
        buf: PoolPart,
        token: u64,
    ) -> Result<(), Rejected<PoolPart>> {
        if let Some(reason) = self.refusal(file, offset, [(buf.start().cast_const(), buf.len())]) {
            return Err(Rejected { buf, reason });
        }
        self.start(DiskOp::new(Arc::clone(file), token, offset, Work::ReadPart(buf)));
        Ok(())
    }

    /// Writes all of `buf` to `file` at `offset`. The request reaches the kernel at the next turn. For a direct file the memory must be
    /// aligned too, as a frozen pool buffer is.
    pub fn write(
        &mut self,
        file: &Arc<DiskFile>,
        offset: u64,
        buf: SharedBuf,
        token: u64,
    ) -> Result<(), Rejected<SharedBuf>> {
        if let Some(reason) = self.refusal(file, offset, [(buf.start(), buf.len())]) {
            return Err(Rejected { buf, reason });
        }
        self.start(DiskOp::new(Arc::clone(file), token, offset, Work::Write(buf)));
        Ok(())
    }

    /// Writes all of `bufs`, one after the other, to `file` from `offset`. It counts as one operation, though the kernel may get several
    /// requests, each of at most 1024 pieces. For a direct file memory and length of every piece must be aligned.
    pub fn write_vectored(
        &mut self,
        file: &Arc<DiskFile>,
        offset: u64,
        bufs: Vec<SharedBuf>,
        token: u64,
    ) -> Result<(), Rejected<Vec<SharedBuf>>> {
        let pieces = bufs.iter().map(|buf| (buf.start(), buf.len()));
        if let Some(reason) = self.refusal(file, offset, pieces) {
            return Err(Rejected { buf: bufs, reason });
        }
        self.start(DiskOp::new(Arc::clone(file), token, offset, Work::WriteVectored(Gather::new(bufs))));
        Ok(())
    }

    /// Makes writes that were reported done durable. With `data_only` metadata that is not needed to read them back may
    /// be left out (fdatasync).
    pub fn fsync(&mut self, file: &Arc<DiskFile>, data_only: bool, token: u64) -> Result<(), Rejected<()>> {
        if let Some(reason) = self.refusal(file, 0, []) {
            return Err(Rejected { buf: (), reason });
        }
        self.start(DiskOp::new(Arc::clone(file), token, 0, Work::Fsync { data_only }));
        Ok(())
    }

    /// Hands new requests to the kernel and appends what happened to `out`.
    ///
    /// `Some(Duration::ZERO)` only looks, without a system call when nothing is to do, so that a loop can spin; another timeout waits
    /// that long for the first event; None waits without end. Signals do not end a wait; a [`Waker`] does.
    pub fn turn(&mut self, timeout: Option<Duration>, out: &mut Vec<Event>) -> io::Result<()> {
        self.turn = self.turn.wrapping_add(1);
        let before = out.len();
        self.look(out)?;
        if timeout == Some(Duration::ZERO) || out.len() > before {
            return Ok(());
        }
        // A deadline beyond the clock's range is none.
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let waited = if self.waker.sleep() { self.wait(left) } else { Ok(()) };
            self.waker.awake();
            waited?;
            self.reap(out);
            self.report_wake(out);
            if out.len() > before || left == Some(Duration::ZERO) {
                return Ok(());
            }
        }
    }

    /// Submits what there is, without waiting, and collects what is complete.
    fn look(&mut self, out: &mut Vec<Event>) -> io::Result<()> {
        self.fill_queue();
        let queue = self.ring.submission();
        let enter = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if enter {
            settle(self.ring.submit())?;
        }
        self.reap(out);
        self.report_wake(out);
        Ok(())
    }

    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        // Requests beyond the queue's room must not wait for an event that only they would cause.
        while !self.fill_queue() {
            settle(self.ring.submit())?;
            if !self.ring.completion().is_empty() {
                return Ok(());
            }
        }
        settle(match limit {
            None => self.ring.submit_and_wait(1),
            Some(limit) => {
                let limit = Timespec::from(limit);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
        })
    }

    fn report_wake(&mut self, out: &mut Vec<Event>) {
        if self.waker.take() {
            out.push(Event { token: 0, kind: EventKind::Woken });
        }
    }

    /// Turns completions into events; follow-up requests go to the backlog.
    fn reap(&mut self, out: &mut Vec<Event>) {
        let Self { ring, watches, ops, backlog, turn, .. } = self;
        for cqe in ring.completion() {
            let key = (cqe.user_data() & SLOT) as usize;
            match cqe.user_data() & !SLOT {
                CLASS_WATCH => watch_done(watches, key, &cqe, *turn, backlog, out),
                CLASS_DISK => {
                    let Some(op) = ops.get_mut(key) else { continue };
                    match op.advance(cqe.result()) {
                        None => backlog.push_back(op.entry(cqe.user_data())),
                        Some(result) => {
                            let op = ops.remove(key);
                            out.push(Event { token: op.token, kind: op.into_event(result) });
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn watch(&mut self, fd: RawFd, token: u64, kind: WatchKind) -> io::Result<WatchId> {
        let generation = self.next_generation;
        let entry = self.watches.vacant_entry();
        let key = u32::try_from(entry.key()).map_err(|_| io::Error::other("2^32 watches are in use"))?;
        let watch = Watch { fd, token, generation, kind, reported: 0 };
        let request = watch.entry(CLASS_WATCH | u64::from(key));
        entry.insert(watch);
        self.next_generation += 1;
        self.push(request);
        Ok(WatchId { key, generation })
    }

    /// Why pieces of memory, each its start and length in bytes, cannot be moved to or from `file` from `offset`.
    fn refusal(
        &self,
        file: &DiskFile,
        offset: u64,
        pieces: impl IntoIterator<Item = (*const u8, usize)>,
    ) -> Option<RejectReason> {
        if self.ops.len() >= self.max_disk_ops {
            return Some(RejectReason::Full { limit: self.max_disk_ops });
        }
        let mut at = offset;
        // Nothing at the end, so that the offset is looked at even if there are no pieces.
        for (start, len) in pieces.into_iter().chain([(ptr::null(), 0)]) {
            if let Some(reason) = file.refusal(at, start.addr(), len) {
                return Some(reason);
            }
            // Below 2^64: `refusal` saw that it is below 2^63.
            at = at.wrapping_add(len as u64);
        }
        None
    }

    fn start(&mut self, mut op: DiskOp) {
        let slot = self.ops.vacant_entry();
        // At most 2^16 operations: the key fits its half of the user data.
        let request = op.entry(CLASS_DISK | slot.key() as u64);
        slot.insert(op);
        self.push(request);
    }

    fn push(&mut self, request: squeue::Entry) {
        self.backlog.push_back(request);
        self.fill_queue();
    }

    /// Moves requests from the backlog to the submission queue; false if some had no room.
    fn fill_queue(&mut self) -> bool {
        if self.backlog.is_empty() {
            return true;
        }
        let mut queue = self.ring.submission();
        while let Some(request) = self.backlog.front() {
            // SAFETY: the memory and the file that a disk request names belong to its `DiskOp`, which stays in `self.ops` until the
            // completion is seen (or for good, see `drop`); watches and cancellations name no memory.
            if unsafe { queue.push(request) }.is_err() {
                return false;
            }
            self.backlog.pop_front();
        }
        true
    }

    /// Cancels everything and waits until the kernel has let go of it; false if it did not in time.
    fn drain(&mut self, patience: Duration) -> bool {
        // A request that never reached the kernel needs no cancellation, but telling which did is not worth it: nothing comes later.
        let watches: Vec<u64> = self.watches.iter().map(|(key, _)| CLASS_WATCH | key as u64).collect();
        let ops: Vec<u64> = self.ops.iter().map(|(key, _)| CLASS_DISK | key as u64).collect();
        for (_, watch) in &mut self.watches {
            watch.kind = WatchKind::Ended;
        }
        for target in watches.into_iter().chain(ops) {
            self.push(cancel(target));
        }
        let deadline = Instant::now() + patience;
        let mut events = Vec::new();
        loop {
            self.reap(&mut events);
            events.clear();
            if self.watches.is_empty() && self.ops.is_empty() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.wait(Some(left)).is_err() {
                return false;
            }
        }
    }
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("setup", &self.setup)
            .field("watches", &self.watches.len())
            .field("disk_ops", &self.ops.len())
            .finish_non_exhaustive()
    }
}

impl Drop for EventLoop {
    /// Waits for I/O in flight, since the kernel may still write to its memory.
    fn drop(&mut self) {
        if !self.drain(DROP_PATIENCE) {
            // The kernel did not let go: what it may still touch must never be freed.
            mem::forget(mem::take(&mut self.ops));
        }
    }
}

impl Watch {
    fn entry(&self, user_data: u64) -> squeue::Entry {
        let (events, multi) = match self.kind {
            WatchKind::WritableOnce => (WRITE_EVENTS, false),
            _ => (READ_EVENTS, true),
        };
        opcode::PollAdd::new(Fd(self.fd), events).multi(multi).build().user_data(user_data)
    }
}

fn cancel(target: u64) -> squeue::Entry {
    opcode::AsyncCancel::new(target).build().user_data(CLASS_CANCEL)
}

/// A completion of the watch in slot `key`.
fn watch_done(
    watches: &mut Slab<Watch>,
    key: usize,
    cqe: &cqueue::Entry,
    turn: u64,
    backlog: &mut VecDeque<squeue::Entry>,
    out: &mut Vec<Event>,
) {
    let Some(watch) = watches.get_mut(key) else { return };
    let last = !cqueue::more(cqe.flags());
    let token = watch.token;
    match watch.kind {
        WatchKind::Ended => {
            if last {
                watches.remove(key);
            }
            return;
        }
        // Without its eventfd the loop could sleep through a wake-up: only a shortage of memory ends this watch, so it is set up again.
        WatchKind::Waker => {}
        _ if cqe.result() < 0 => {
            // Nothing arms a watch again that the kernel refuses: that would spin.
            let error = io::Error::from_raw_os_error(cqe.result().saturating_neg());
            if last {
                watches.remove(key);
            } else {
                watch.kind = WatchKind::Ended;
            }
            out.push(Event { token, kind: EventKind::WatchFailed { error } });
            return;
        }
        WatchKind::WritableOnce => {
            watches.remove(key);
            out.push(Event { token, kind: EventKind::Writable });
            return;
        }
        WatchKind::Readable => {
            if watch.reported != turn {
                watch.reported = turn;
                out.push(Event { token, kind: EventKind::Readable });
            }
        }
    }
    if last {
        // The kernel ends a multishot poll when the completion queue is full, for one.
        backlog.push_back(watch.entry(cqe.user_data()));
    }
}

/// The outcomes of an enter that only mean "look and try again".
fn settle(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(e) => match e.raw_os_error() {
            // Timeout; signal; no memory or a full completion queue, which reaping relieves.
            Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
            _ => Err(e),
        },
    }
}

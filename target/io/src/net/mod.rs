//! Non-blocking vectored socket I/O: a queue of what is to be sent, and a receive into several places at once.
//!
//! Invariant: what leaves the socket is exactly what was pushed, in order; a partly sent segment keeps its memory until its last byte is
//! taken by the kernel.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

use crate::{Crc32c, Pool, RegionSlice, SharedBuf, publish_writes, region::PREFETCH_MAX};

mod digested;
mod path;
mod processor;

use digested::take_front;
pub use path::round_trip;

/// Most segments handed to the kernel in one call; beyond some dozens the copy dwarfs the call.
const MAX_IOVECS: usize = 256;

/// Most slices that the kernel takes in one receive (UIO_MAXIOV).
const MAX_RECV_IOVECS: usize = 1024;

/// Bytes of a digest.
const DIGEST_SIZE: usize = 4;

/// Small bytes that are sent, but not yet forgotten because others follow them, up to which nothing is moved.
const SPENT_MAX: usize = 16 << 10;

/// Small bytes of a part from which on the next ones begin another: a part is forgotten when all of it is sent.
const SMALL_MAX: usize = 4 << 10;

/// Bytes that are summed, and copied where that is needed, before the first of them is sent: so few that the processor still has them in its
/// caches then.
const DIGESTED_AHEAD: usize = 512 << 10;

/// Memory from this length on, which nobody prefetches, is read before it is sent, where that pays: see [`processor::copies_blindly`].
const TOUCH_MIN: usize = PREFETCH_MAX + 1;

/// Memory to send.
#[derive(Debug, Clone)]
pub enum TxSeg {
    /// Immutable memory; held until it is sent.
    Shared(SharedBuf),
    /// Memory of a region, as it is at the time of sending. When other commands write it meanwhile, or between two parts of a
    /// segment that the socket took piecemeal, the receiver may see some old and some new bytes.
    Region(RegionSlice),
}

impl TxSeg {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Shared(buf) => buf.len(),
            Self::Region(slice) => slice.len(),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads a little of every cache line of `len` bytes from `offset`.
    fn touch(&self, offset: usize, len: usize) {
        match self {
            Self::Shared(buf) => {
                let bytes = buf.get(offset..offset + len).unwrap_or_default();
                std::hint::black_box(bytes.iter().step_by(64).fold(0, |sum, byte| sum ^ byte));
            }
            Self::Region(slice) => slice.touch(offset, len),
        }
    }

    /// Appends the bytes to `out`, as they are now.
    fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Shared(buf) => out.extend_from_slice(buf),
            Self::Region(slice) => slice.append_to(out),
        }
    }

    fn start(&self) -> *const u8 {
        match self {
            Self::Shared(buf) => buf.start(),
            Self::Region(slice) => slice.start(),
        }
    }
}

/// What [`TxQueue::send`] or [`TxQueue::send_some`] achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Bytes that the socket took.
    pub bytes: usize,
    /// The socket is full and the queue is not empty: send again when it is writable.
    pub would_block: bool,
}

/// What waits for a socket, in order: memory, and small bytes (headers, digests, padding) that live in the queue itself.
#[derive(Debug, Default)]
pub struct TxQueue {
    parts: VecDeque<Part>,
    /// The small bytes of all parts, one after the other, behind those that are spent.
    small: Vec<u8>,
    /// Bytes of `small` whose parts are gone.
    spent: usize,
    /// Bytes of the first part that are sent already; less than its length.
    front_sent: usize,
    /// Bytes still to send.
    pending: usize,
    /// Parts of which not all is summed yet.
    unsummed: usize,
    /// The sum of what is taken already of the first of them.
    sum: Crc32c,
    /// Some memory was long enough to be touched, since nothing waited.
    has_long: bool,
    /// Bytes from the first one on that were looked through for it: what a full socket left is not touched twice.
    touched: usize,
}

#[derive(Debug)]
enum Part {
    /// So many of the small bytes.
    Small(usize),
    Memory(TxSeg),
    /// Memory that is not summed yet. The first of the small bytes behind it are its digest.
    Unsummed(TxSeg),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Small(len) => *len,
            Self::Memory(seg) | Self::Unsummed(seg) => seg.len(),
        }
    }
}

impl TxQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes not yet taken by the socket.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Whether everything is sent.
    pub fn is_empty(&self) -> bool {
        self.pending == 0
    }

    /// Appends memory; a segment without bytes is dropped.
    pub fn push(&mut self, seg: TxSeg) {
        if !seg.is_empty() {
            self.pending = self.pending.saturating_add(seg.len());
            self.has_long |= seg.len() >= TOUCH_MIN && processor::copies_blindly();
            self.parts.push_back(Part::Memory(seg));
        }
    }

    /// Appends memory and, behind it, its CRC-32C in four bytes, the least significant first: both of what the memory holds when it is about
    /// to be sent. A segment without bytes is dropped, and its digest with it.
    pub fn push_digested(&mut self, seg: TxSeg) {
        if !seg.is_empty() {
            self.pending = self.pending.saturating_add(seg.len());
            self.unsummed += 1;
            self.parts.push_back(Part::Unsummed(seg));
            self.push_bytes(&[0; DIGEST_SIZE]);
        }
    }

    /// Appends a copy of a few bytes. Those that follow each other are one part, up to some 4 KiB.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.pending = self.pending.saturating_add(bytes.len());
        self.small.extend_from_slice(bytes);
        match self.parts.back_mut() {
            Some(Part::Small(len)) if *len < SMALL_MAX => *len += bytes.len(),
            _ => self.parts.push_back(Part::Small(bytes.len())),
        }
    }

    /// Forgets everything not yet sent.
    pub fn clear(&mut self) {
        self.parts.clear();
        self.small.clear();
        (self.spent, self.front_sent, self.pending) = (0, 0, 0);
        (self.has_long, self.touched) = (false, 0);
        (self.unsummed, self.sum) = (0, Crc32c::new());
    }

    /// Moves everything that is not yet sent to the end of `out`, for a transport without a socket: a simulated network,
    /// a test, a fuzzer.
    pub fn drain_into(&mut self, out: &mut Vec<u8>) {
        let mut skip = self.front_sent;
        for part in std::mem::take(&mut self.parts) {
            let start = out.len();
            match &part {
                Part::Small(len) => {
                    out.extend_from_slice(self.small.get(self.spent..self.spent + len).unwrap_or_default());
                    self.spent += len;
                }
                Part::Memory(seg) => seg.append_to(out),
                Part::Unsummed(seg) => {
                    seg.append_to(out);
                    self.sum.update(out.get(start..).unwrap_or_default());
                    self.finish_sum(self.spent);
                }
            }
            out.drain(start..start + std::mem::take(&mut skip));
        }
        self.clear();
    }

    /// Sends until the queue is empty or the socket is full. Never blocks and never raises SIGPIPE. After an error what was
    /// not sent is still queued; the connection is usually lost.
    ///
    /// What needs a digest and may change meanwhile is copied to memory of `pool`, up to 512 KiB of it ahead of the socket.
    pub fn send(&mut self, fd: BorrowedFd<'_>, pool: &Pool) -> io::Result<Sent> {
        self.send_some(fd, pool, usize::MAX)
    }

    /// As [`Self::send`], but no more than `most` bytes, so that others may have their turn.
    pub fn send_some(&mut self, fd: BorrowedFd<'_>, pool: &Pool, most: usize) -> io::Result<Sent> {
        // An answer may say that a write is done.
        publish_writes();
        let mut bytes = 0;
        while !self.parts.is_empty() && bytes < most {
            if self.unsummed > 0 {
                self.sum(pool, most - bytes);
            }
            if self.has_long {
                self.touch(most - bytes);
            }
            let (sent, offered) = match self.send_once(fd, most - bytes) {
                Ok(done) => done,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Sent { bytes, would_block: true }),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.advance(sent);
            bytes += sent;
            // A socket that took less than it was offered is full: asking again would cost a call to learn just that.
            if sent < offered {
                return Ok(Sent { bytes, would_block: true });
            }
        }
        Ok(Sent { bytes, would_block: false })
    }

    /// One sendmsg of the first parts, of at most `most` bytes (not 0): bytes taken and bytes offered.
    fn send_once(&self, fd: BorrowedFd<'_>, most: usize) -> io::Result<(usize, usize)> {
        let mut iovecs = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_IOVECS];
        let mut count = 0;
        let mut offered = 0;
        let mut skip = self.front_sent;
        let mut small = self.small.as_ptr().wrapping_add(self.spent);
        for (slot, part) in iovecs.iter_mut().zip(&self.parts) {
            if offered == most {
                break;
            }
            let len = (part.len() - skip).min(most - offered);
            let start = match part {
                Part::Small(len) => {
                    let start = small;
                    small = start.wrapping_add(*len);
                    start
                }
                Part::Memory(seg) => seg.start(),
                // Its turn comes when what is before it is sent.
                Part::Unsummed(_) => break,
            };
            // The kernel only reads from a sent iovec, so the cast to a mutable pointer is a formality.
            let base = start.wrapping_add(skip).cast_mut().cast();
            slot.write(libc::iovec { iov_base: base, iov_len: len });
            skip = 0;
            count += 1;
            offered += len;
        }
        // SAFETY: a msghdr of zero bytes is valid: null pointers with zero lengths.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = iovecs.as_mut_ptr().cast();
        header.msg_iovlen = count as _;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the first `count` iovecs are initialised and name memory that `self` keeps alive and in place during the call (parts lie
        // within `self.small`, one after the other); the kernel only reads it, and no Rust reference to region memory is made.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) };
        usize::try_from(sent).map(|sent| (sent, offered)).map_err(|_| io::Error::last_os_error())
    }

    /// Sums as much as is to be sent now, of at most `most` bytes.
    #[inline(never)]
    fn sum(&mut self, pool: &Pool, most: usize) {
        let ahead = most.min(DIGESTED_AHEAD);
        let (mut at, mut skip, mut small) = (0, self.front_sent, self.spent);
        let mut index = 0;
        while self.unsummed > 0 && at < ahead && index < MAX_IOVECS {
            let Some(part) = self.parts.get_mut(index) else { break };
            if let Part::Unsummed(seg) = part {
                let front = take_front(seg, ahead - at, &mut self.sum, pool);
                at += front.len();
                let front = Part::Memory(TxSeg::Shared(front));
                if seg.is_empty() {
                    *part = front;
                    self.finish_sum(small);
                } else {
                    self.parts.insert(index, front);
                }
            } else {
                at += part.len() - skip;
                if let Part::Small(len) = part {
                    small += *len;
                }
            }
            skip = 0;
            index += 1;
        }
    }

    /// Writes the digest of a part that is summed where its place was kept, `at` of the small bytes.
    fn finish_sum(&mut self, at: usize) {
        let digest = std::mem::take(&mut self.sum).value();
        self.unsummed -= 1;
        if let Some(place) = self.small.get_mut(at..at + DIGEST_SIZE) {
            place.copy_from_slice(&digest.to_le_bytes());
        }
    }

    /// Touches the long memory of what one sendmsg of at most `most` bytes offers.
    #[inline(never)]
    fn touch(&mut self, most: usize) {
        let (mut offered, mut skip) = (0, self.front_sent);
        for part in self.parts.iter().take(MAX_IOVECS) {
            if offered == most {
                break;
            }
            let len = (part.len() - skip).min(most - offered);
            // Of what was looked through, nothing again; of a part that was in part, the rest.
            let done = self.touched.saturating_sub(offered).min(len);
            match part {
                Part::Memory(seg) if len - done >= TOUCH_MIN => seg.touch(skip + done, len - done),
                Part::Memory(_) | Part::Small(_) => {}
                Part::Unsummed(_) => break,
            }
            offered += len;
            skip = 0;
        }
        self.touched = self.touched.max(offered);
    }

    fn advance(&mut self, sent: usize) {
        self.pending -= sent;
        self.touched = self.touched.saturating_sub(sent);
        let mut left = sent + self.front_sent;
        while let Some(part) = self.parts.front() {
            let len = part.len();
            if left < len {
                break;
            }
            left -= len;
            if let Some(Part::Small(len)) = self.parts.pop_front() {
                self.spent += len;
            }
        }
        self.front_sent = left;
        if self.parts.is_empty() {
            self.small.clear();
            (self.spent, self.has_long, self.touched) = (0, false, 0);
        } else if self.spent > SPENT_MAX {
            self.small.drain(..self.spent);
            self.spent = 0;
        }
    }
}

/// Receives what has arrived into `bufs`, in order, without blocking: the number of bytes, 0 when the peer will send no more.
///
/// `WouldBlock` when nothing has arrived, `InvalidInput` when `bufs` has no room (0 would be mistaken for the end). Of more than 1024
/// slices the first 1024 are used.
pub fn recv_vectored(fd: BorrowedFd<'_>, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let usable = bufs.len().min(MAX_RECV_IOVECS);
    let bufs = bufs.get_mut(..usable).unwrap_or_default();
    if bufs.iter().all(|b| b.is_empty()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no room to receive into"));
    }
    let mut control = RecvAncillaryBuffer::default();
    let received = rustix::io::retry_on_intr(|| recvmsg(fd, bufs, &mut control, RecvFlags::DONTWAIT))?;
    Ok(received.bytes)
}

#[cfg(test)]
mod tests;

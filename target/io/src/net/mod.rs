//! Non-blocking vectored socket I/O: a queue of segments to send, and a receive into several places at once.
//!
//! Invariant: what leaves the socket is exactly the pushed segments in order; a partly sent segment keeps its memory until its last byte is
//! taken by the kernel.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

use crate::{RegionSlice, SharedBuf};

/// Most segments handed to the kernel in one call; beyond some dozens the copy dwarfs the call.
const MAX_IOVECS: usize = 256;

/// Most slices that the kernel takes in one receive (UIO_MAXIOV).
const MAX_RECV_IOVECS: usize = 1024;

/// Bytes an [`InlineBytes`] can hold: a data digest and a PDU header, twice.
const INLINE_CAPACITY: usize = 56;

/// A few bytes that live in the queue itself: PDU headers, digests, padding.
#[derive(Clone, Copy)]
pub struct InlineBytes {
    bytes: [u8; INLINE_CAPACITY],
    len: u8,
}

impl InlineBytes {
    /// A copy of `bytes`; None if there are more than 56.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut inline = Self { bytes: [0; INLINE_CAPACITY], len: 0 };
        inline.append(bytes).then_some(inline)
    }

    /// Appends all of `bytes`, or nothing when they do not fit.
    fn append(&mut self, bytes: &[u8]) -> bool {
        let from = usize::from(self.len);
        let Some(room) = self.bytes.get_mut(from..from + bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        // The capacity fits a u8, so the new length does.
        self.len += bytes.len() as u8;
        true
    }
}

impl Deref for InlineBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Debug for InlineBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InlineBytes").field(&self.deref()).finish()
    }
}

/// Something to send.
#[derive(Debug, Clone)]
pub enum TxSeg {
    /// Bytes in the queue itself.
    Inline(InlineBytes),
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
            Self::Inline(bytes) => bytes.len(),
            Self::Shared(buf) => buf.len(),
            Self::Region(slice) => slice.len(),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn start(&self) -> *const u8 {
        match self {
            Self::Inline(bytes) => bytes.as_ptr(),
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

/// Segments waiting for a socket, in order.
#[derive(Debug, Default)]
pub struct TxQueue {
    segs: VecDeque<TxSeg>,
    /// Bytes of the first segment that are sent already; less than its length.
    front_sent: usize,
    /// Bytes still to send.
    pending: usize,
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

    /// Appends a segment; one without bytes is dropped. Inline bytes join an inline segment before them when they fit, so that a
    /// series of headers takes few segments.
    pub fn push(&mut self, seg: TxSeg) {
        if seg.is_empty() {
            return;
        }
        self.pending = self.pending.saturating_add(seg.len());
        if let (Some(TxSeg::Inline(last)), TxSeg::Inline(bytes)) = (self.segs.back_mut(), &seg)
            && last.append(bytes)
        {
            return;
        }
        self.segs.push_back(seg);
    }

    /// Appends a copy of `bytes`: inline when they are at most 56, on the heap otherwise.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.push(match InlineBytes::new(bytes) {
            Some(inline) => TxSeg::Inline(inline),
            None => TxSeg::Shared(SharedBuf::from_vec(bytes.to_vec())),
        });
    }

    /// Forgets everything not yet sent.
    pub fn clear(&mut self) {
        self.segs.clear();
        self.front_sent = 0;
        self.pending = 0;
    }

    /// Moves everything that is not yet sent to the end of `out`, for a transport without a socket: a simulated network,
    /// a test, a fuzzer.
    pub fn drain_into(&mut self, out: &mut Vec<u8>) {
        let mut skip = std::mem::take(&mut self.front_sent);
        for seg in self.segs.drain(..) {
            let start = out.len();
            match &seg {
                TxSeg::Inline(bytes) => out.extend_from_slice(bytes),
                TxSeg::Shared(buf) => out.extend_from_slice(buf),
                TxSeg::Region(slice) => slice.append_to(out),
            }
            out.drain(start..start + std::mem::take(&mut skip));
        }
        self.pending = 0;
    }

    /// Sends until the queue is empty or the socket is full. Never blocks and never raises SIGPIPE. After an error what was
    /// not sent is still queued; the connection is usually lost.
    pub fn send(&mut self, fd: BorrowedFd<'_>) -> io::Result<Sent> {
        self.send_some(fd, usize::MAX)
    }

    /// As [`Self::send`], but no more than `most` bytes, so that others may have their turn.
    pub fn send_some(&mut self, fd: BorrowedFd<'_>, most: usize) -> io::Result<Sent> {
        let mut bytes = 0;
        while !self.segs.is_empty() && bytes < most {
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

    /// One sendmsg of the first segments, of at most `most` bytes (not 0): bytes taken and bytes offered.
    fn send_once(&self, fd: BorrowedFd<'_>, most: usize) -> io::Result<(usize, usize)> {
        let mut iovecs = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_IOVECS];
        let mut count = 0;
        let mut offered = 0;
        let mut skip = self.front_sent;
        for (slot, seg) in iovecs.iter_mut().zip(&self.segs) {
            if offered == most {
                break;
            }
            let len = (seg.len() - skip).min(most - offered);
            // The kernel only reads from a sent iovec, so the cast to a mutable pointer is a formality.
            let base = seg.start().wrapping_add(skip).cast_mut().cast();
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
        // SAFETY: the first `count` iovecs are initialised and name memory that `self.segs` keeps alive and in place during the call; the
        // kernel only reads it, and no Rust reference to region memory is made.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) };
        usize::try_from(sent).map(|sent| (sent, offered)).map_err(|_| io::Error::last_os_error())
    }

    fn advance(&mut self, sent: usize) {
        self.pending -= sent;
        let mut left = sent + self.front_sent;
        while let Some(seg) = self.segs.front() {
            let len = seg.len();
            if left < len {
                break;
            }
            left -= len;
            self.segs.pop_front();
        }
        self.front_sent = left;
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

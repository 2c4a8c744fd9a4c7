//! What the event loop reports.

use std::io;

use crate::{PoolBuf, PoolPart, SharedBuf};

/// Something that happened, under the token that its cause was registered with.
#[derive(Debug)]
pub struct Event {
    /// The caller's own number for the socket or the I/O; 0 for [`EventKind::Woken`].
    pub token: u64,
    /// What happened.
    pub kind: EventKind,
}

/// The kinds of [`Event`].
#[derive(Debug)]
pub enum EventKind {
    /// The socket has data, a connection to accept, an error, or its peer has shut down. Reported when that becomes so, not
    /// as long as it is so: receive until `WouldBlock` (or remember that there may be more). May be spurious.
    Readable,
    /// The socket takes data again, or has an error. The watch is over.
    Writable,
    /// The kernel cannot watch the file (any more). The watch is over.
    WatchFailed {
        /// The kernel's reason.
        error: io::Error,
    },
    /// A read is complete.
    ReadDone {
        /// The buffer that was lent. Its contents beyond the result are unspecified.
        buf: PoolBuf,
        /// Bytes read: the length of the buffer, or less when the file ends before.
        result: io::Result<usize>,
    },
    /// A read into a part of a buffer is complete.
    PartReadDone {
        /// The part that was lent. Its contents beyond the result are unspecified.
        buf: PoolPart,
        /// Bytes read: the length of the part, or less when the file ends before.
        result: io::Result<usize>,
    },
    /// A write is complete.
    WriteDone {
        /// The buffer that was lent.
        buf: SharedBuf,
        /// Ok when all bytes were written (not necessarily durable: see `fsync`). After an error any part of them may have been.
        result: io::Result<()>,
    },
    /// A write of several pieces is complete.
    WriteVectoredDone {
        /// The buffers that were lent, in their order.
        bufs: Vec<SharedBuf>,
        /// As of [`Self::WriteDone`], for all pieces together.
        result: io::Result<()>,
    },
    /// An fsync is complete: on success all writes that were reported done before it was asked for are durable.
    FsyncDone {
        /// The outcome. An error means that earlier writes may be lost, and a later success does not take that back.
        result: io::Result<()>,
    },
    /// A [`Waker`](crate::Waker) was used, once or more, since this was last reported.
    Woken,
}

/// Names one watch of an [`EventLoop`](crate::EventLoop). It never names another one later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WatchId {
    pub(crate) key: u32,
    pub(crate) generation: u64,
}

/// A disk operation that was not started; the buffer comes back.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Rejected<B> {
    /// What was to be read into or written.
    pub buf: B,
    /// Why.
    pub reason: RejectReason,
}

/// Why a disk operation was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// As many operations are in flight as the loop allows: try again after a completion.
    #[error(
        "all {limit} disk operations of this event loop are in flight; wait for one to complete or raise `max_disk_ops`"
    )]
    Full {
        /// The loop's `max_disk_ops`.
        limit: usize,
    },
    /// The file bypasses the page cache, which needs aligned transfers.
    #[error(
        "{len} bytes at offset {offset}, in memory {skew} bytes off a multiple of {alignment}: direct I/O needs offset, length and memory \
         to be multiples of {alignment} bytes"
    )]
    Misaligned {
        /// First byte in the file, of the piece at fault when there are several.
        offset: u64,
        /// Number of bytes.
        len: usize,
        /// Bytes from the last multiple of `alignment` in memory to the first byte.
        skew: usize,
        /// What the file asks for, in bytes.
        alignment: usize,
    },
    /// The last byte would lie beyond 2^63 - 1.
    #[error("{len} bytes at offset {offset} reach beyond the largest file offset")]
    OutOfRange {
        /// First byte in the file.
        offset: u64,
        /// Number of bytes.
        len: usize,
    },
}

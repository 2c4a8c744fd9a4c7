//! I/O commands: from a submission queue entry to a request to the storage, and from its outcome to a completion.
//!
//! Pure functions over one command. What cannot be checked without the storage or the data is left to
//! [`backend`](crate::backend); everything else is decided here, before any memory is taken.
//!
//! Who checks what: the transport has checked the SGL descriptor's type, the queue MDTS, readiness and the namespace
//! identifier. Errors that the same command would meet again carry Do Not Retry.

mod kv;
mod nvm;

use std::sync::atomic::Ordering;

use kvof_io::{PoolBuf, RegionSlice, SharedBuf, TxSeg};
use kvof_kv::KvOp;
use kvof_spec::{Sqe, Status};

use crate::{
    backend::{ByteRange, IoError, IoOutcome, IoRequest},
    model::{Namespace, NamespaceKindDef},
};

/// What a command needs next.
#[derive(Debug)]
pub enum Prepared {
    /// The command's data, before it can be submitted.
    Receive {
        /// Bytes to receive, from the start of the host's buffer; at most its length, which may be more. May be 0.
        len: u32,
        /// What to do with them.
        then: PendingStore,
    },
    /// The storage.
    Submit(IoRequest),
    /// Nothing: it is done, and data that the host may have sent with it has no use.
    Complete(Completion),
}

/// A checked command that waits for its data.
#[derive(Debug)]
pub struct PendingStore(Pending);

#[derive(Debug)]
enum Pending {
    Kv(KvOp),
    Nvm(nvm::PendingData),
}

/// How a command completes.
#[derive(Debug)]
pub struct Completion {
    /// Status.
    pub status: Status,
    /// Completion dwords 0 and 1.
    pub result: u64,
    /// Bytes for the host: never more than its buffer takes, never none.
    pub data: Option<DataOut>,
}

/// Where bytes for the host come from.
#[derive(Clone, Debug)]
pub enum DataOut {
    /// Immutable memory, all of it.
    Shared(SharedBuf),
    /// Blocks of a namespace in memory. Another command may be writing them.
    Region(RegionSlice),
}

/// Decodes and checks one I/O command for `ns`. `sgl_len` is the length of the host's buffer in bytes.
#[must_use]
pub fn prepare(ns: &Namespace, sqe: &Sqe, sgl_len: u32) -> Prepared {
    if ns.state.removed.load(Ordering::Acquire) {
        return Prepared::Complete(Completion::error(Status::INVALID_NAMESPACE_OR_FORMAT));
    }
    // No fused operation is supported (Identify Controller, FUSES 0).
    if sqe.fuse() != 0 {
        return Prepared::Complete(Completion::error(Status::INVALID_FIELD));
    }
    let prepared = match &ns.def.kind {
        NamespaceKindDef::Kv { limits, .. } => kv::prepare(limits, sqe, sgl_len),
        NamespaceKindDef::Nvm { block_size, size, .. } => {
            nvm::Geometry::new(*block_size, *size).and_then(|geometry| nvm::prepare(geometry, sqe, sgl_len))
        }
    };
    prepared.unwrap_or_else(|status| Prepared::Complete(Completion::error(status)))
}

/// The bytes of `ns` that the command `sqe` reads, if it is a Read of a block namespace.
#[must_use]
pub fn read_of(ns: &Namespace, sqe: &Sqe) -> Option<ByteRange> {
    match ns.def.kind {
        NamespaceKindDef::Nvm { block_size, size, .. } => nvm::Geometry::new(block_size, size).ok()?.read_of(sqe),
        NamespaceKindDef::Kv { .. } => None,
    }
}

/// The completion of the command `sqe`, which [`prepare`] has let pass, with the storage's `outcome`.
#[must_use]
pub fn complete(ns: &Namespace, sqe: &Sqe, sgl_len: u32, outcome: Result<IoOutcome, IoError>) -> Completion {
    let mut completion = match (&ns.def.kind, outcome) {
        (_, Err(IoError::Nvm(status))) => Completion::error(status),
        (NamespaceKindDef::Kv { limits, .. }, Ok(IoOutcome::Kv(outcome))) => kv::complete(ns, limits, sqe, Ok(outcome)),
        (NamespaceKindDef::Kv { limits, .. }, Err(IoError::Kv(error))) => kv::complete(ns, limits, sqe, Err(error)),
        (NamespaceKindDef::Kv { .. }, Ok(IoOutcome::Flushed)) | (NamespaceKindDef::Nvm { .. }, Ok(IoOutcome::Nvm)) => {
            Completion::success()
        }
        (NamespaceKindDef::Nvm { .. }, Ok(IoOutcome::NvmData(data))) => {
            Completion { data: Some(data), ..Completion::success() }
        }
        (_, Err(IoError::Kv(error))) => Completion::error(error.into()),
        (_, Ok(_)) => Completion::error(Status::INTERNAL_ERROR),
    };
    completion.data = completion.data.and_then(|data| data.first(sgl_len as usize));
    completion
}

impl PendingStore {
    /// Where the data are to be written, if that is all that the command does.
    #[must_use]
    pub const fn written_to(&self) -> Option<u64> {
        match &self.0 {
            Pending::Nvm(nvm::PendingData::Write { offset, .. }) => Some(*offset),
            Pending::Nvm(_) | Pending::Kv(_) => None,
        }
    }

    /// The request, now that its data have arrived: exactly as many bytes as [`Prepared::Receive`] said.
    #[must_use]
    pub fn submit(self, data: PoolBuf) -> IoRequest {
        match self.0 {
            Pending::Kv(op) => kv::submit(&op, data),
            Pending::Nvm(pending) => pending.submit(data),
        }
    }
}

impl Completion {
    /// Success without result and data.
    #[must_use]
    pub const fn success() -> Self {
        Self { status: Status::SUCCESS, result: 0, data: None }
    }

    /// A completion with `status` as it is, without result and data.
    #[must_use]
    pub const fn status(status: Status) -> Self {
        Self { status, result: 0, data: None }
    }

    /// A completion with `status`, and Do Not Retry if the same command would end the same way again.
    #[must_use]
    pub fn error(status: Status) -> Self {
        let passing = [
            Status::SUCCESS,
            Status::INTERNAL_ERROR,
            Status::NAMESPACE_NOT_READY,
            Status::COMMAND_INTERRUPTED,
            Status::ABORT_REQUESTED,
            Status::TRANSIENT_TRANSPORT_ERROR,
        ];
        Self::status(if passing.contains(&status.code()) { status } else { status.with_dnr() })
    }
}

impl DataOut {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Shared(buf) => buf.len(),
            Self::Region(slice) => slice.len(),
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `len` bytes from `offset`, as far as there are any, for the socket.
    #[must_use]
    pub fn segment(&self, offset: usize, len: usize) -> TxSeg {
        let start = offset.min(self.len());
        let len = len.min(self.len() - start);
        let nothing = || TxSeg::Shared(SharedBuf::from_vec(Vec::new()));
        match self {
            Self::Shared(buf) => buf.slice(start..start + len).map_or_else(nothing, TxSeg::Shared),
            Self::Region(slice) => slice.part(start, len).map_or_else(nothing, TxSeg::Region),
        }
    }

    /// All of them, for the socket.
    #[must_use]
    pub fn into_segment(self) -> TxSeg {
        match self {
            Self::Shared(buf) => TxSeg::Shared(buf),
            Self::Region(slice) => TxSeg::Region(slice),
        }
    }

    /// The first `max` bytes, or all if there are fewer; `None` for no bytes.
    fn first(self, max: usize) -> Option<Self> {
        let cut = match self {
            Self::Shared(buf) if buf.len() <= max => Self::Shared(buf),
            Self::Shared(buf) => Self::Shared(buf.slice(..max)?),
            Self::Region(mut slice) => {
                slice.truncate(max);
                Self::Region(slice)
            }
        };
        (!cut.is_empty()).then_some(cut)
    }
}

#[cfg(test)]
mod tests;

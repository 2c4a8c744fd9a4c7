//! Disk operations on their way to the reactor's ring, and whose they are.

use std::{collections::VecDeque, io, sync::Arc};

use kvof_io::{DiskFile, PAGE_SIZE, PoolBuf, PoolPart, SharedBuf};
use slab::Slab;

use super::pool::PoolId;
use crate::model::BackendId;

/// A disk operation to start.
#[derive(Debug)]
pub enum DiskRequest {
    /// Fill `buf`.
    Read {
        /// The file.
        file: Arc<DiskFile>,
        /// First byte in the file.
        offset: u64,
        /// Where the bytes go.
        buf: PoolBuf,
        /// Names the operation in [`Backends::handle_disk`](super::Backends::handle_disk).
        token: u64,
    },
    /// Write all of `buf`, whose memory is aligned to 4096 bytes.
    Write {
        /// The file.
        file: Arc<DiskFile>,
        /// First byte in the file.
        offset: u64,
        /// The bytes.
        buf: SharedBuf,
        /// Names the operation.
        token: u64,
    },
    /// Fill `buf`, a part of a buffer that starts at a multiple of 4096 bytes in it.
    ReadPart {
        /// The file.
        file: Arc<DiskFile>,
        /// First byte in the file.
        offset: u64,
        /// Where the bytes go.
        buf: PoolPart,
        /// Names the operation.
        token: u64,
    },
    /// Write all of `bufs`, one after the other; memory and length of each are multiples of 4096 bytes.
    WritePieces {
        /// The file.
        file: Arc<DiskFile>,
        /// First byte in the file.
        offset: u64,
        /// The bytes.
        bufs: Vec<SharedBuf>,
        /// Names the operation.
        token: u64,
    },
    /// Make the writes that have been reported done durable (fdatasync).
    Sync {
        /// The file.
        file: Arc<DiskFile>,
        /// Names the operation.
        token: u64,
    },
}

/// What came of a [`DiskRequest`] of the same kind.
#[derive(Debug)]
pub enum DiskResult {
    /// Of a read.
    Read {
        /// The buffer.
        buf: PoolBuf,
        /// Bytes read: less than the buffer's length only where the file ends.
        result: io::Result<usize>,
    },
    /// Of a read into a part of a buffer.
    ReadPart {
        /// The part.
        buf: PoolPart,
        /// Bytes read: less than the part's length only where the file ends.
        result: io::Result<usize>,
    },
    /// Of a write, also of one of several pieces.
    Write {
        /// Ok when all bytes are written.
        result: io::Result<()>,
    },
    /// Of a sync.
    Sync {
        /// The outcome.
        result: io::Result<()>,
    },
}

/// Whose an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A step of this request of a block namespace; a key of its own table.
    Nvm(BackendId, usize),
    /// A volume of a pool, which knows the operation by a token of its own.
    Volume { pool: PoolId, shard: u16, token: u64 },
}

/// Operations that have not been fetched, and the owners of all that have not ended.
#[derive(Debug, Default)]
pub(super) struct DiskQueue {
    requests: VecDeque<DiskRequest>,
    owners: Slab<Owner>,
}

impl DiskQueue {
    pub(super) fn read(&mut self, owner: Owner, file: &Arc<DiskFile>, offset: u64, buf: PoolBuf) {
        let token = self.owners.insert(owner) as u64;
        self.requests.push_back(DiskRequest::Read { file: Arc::clone(file), offset, buf, token });
    }

    pub(super) fn write(&mut self, owner: Owner, file: &Arc<DiskFile>, offset: u64, buf: SharedBuf) {
        let token = self.owners.insert(owner) as u64;
        self.requests.push_back(DiskRequest::Write { file: Arc::clone(file), offset, buf, token });
    }

    pub(super) fn read_part(&mut self, owner: Owner, file: &Arc<DiskFile>, offset: u64, buf: PoolPart) {
        let token = self.owners.insert(owner) as u64;
        self.requests.push_back(DiskRequest::ReadPart { file: Arc::clone(file), offset, buf, token });
    }

    pub(super) fn write_pieces(&mut self, owner: Owner, file: &Arc<DiskFile>, offset: u64, bufs: Vec<SharedBuf>) {
        let token = self.owners.insert(owner) as u64;
        self.requests.push_back(DiskRequest::WritePieces { file: Arc::clone(file), offset, bufs, token });
    }

    pub(super) fn sync(&mut self, owner: Owner, file: &Arc<DiskFile>) {
        let token = self.owners.insert(owner) as u64;
        self.requests.push_back(DiskRequest::Sync { file: Arc::clone(file), token });
    }

    pub(super) fn poll(&mut self) -> Option<DiskRequest> {
        self.requests.pop_front()
    }

    pub(super) fn take(&mut self, token: u64) -> Option<Owner> {
        self.owners.try_remove(usize::try_from(token).ok()?)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.owners.is_empty()
    }
}

/// `len` zero bytes on the heap at a page boundary.
pub(super) fn aligned_zeros(len: usize) -> SharedBuf {
    let bytes = vec![0; len + PAGE_SIZE];
    // The vector is never resized, so that its memory, and with it the aligned part, stays where it is.
    let start = bytes.as_ptr().align_offset(PAGE_SIZE).min(PAGE_SIZE);
    let all = SharedBuf::from_vec(bytes);
    all.slice(start..start + len).unwrap_or(all)
}

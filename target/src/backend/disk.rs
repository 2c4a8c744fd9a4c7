//! Disk operations on their way to the reactor's ring, and whose they are.

use std::{collections::VecDeque, io, sync::Arc};

use kvof_io::{DiskFile, PAGE_SIZE, PoolBuf, SharedBuf};
use slab::Slab;

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
    /// Of a write.
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

/// What an operation was for; numbers are keys of the storage's own tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DiskTag {
    /// NVM: a step of this request.
    Nvm(usize),
    /// KV: the read of a value.
    KvRead(usize),
    /// KV: a part of the new record of this mutation.
    KvWrite(usize),
    /// KV: the erasure of this record.
    KvErase(usize),
    /// KV: the sync.
    KvSync,
    /// KV: the superblock.
    KvSuperblock,
}

/// Operations that have not been fetched, and the owners of all that have not ended.
#[derive(Debug, Default)]
pub(super) struct DiskQueue {
    requests: VecDeque<DiskRequest>,
    owners: Slab<(BackendId, DiskTag)>,
}

impl DiskQueue {
    pub(super) fn read(&mut self, owner: (BackendId, DiskTag), file: &Arc<DiskFile>, offset: u64, buf: PoolBuf) {
        let token = self.owners.insert(owner) as u64;
        self.requests.push_back(DiskRequest::Read { file: Arc::clone(file), offset, buf, token });
    }

    pub(super) fn write(&mut self, owner: (BackendId, DiskTag), file: &Arc<DiskFile>, offset: u64, buf: SharedBuf) {
        let token = self.owners.insert(owner) as u64;
        self.requests.push_back(DiskRequest::Write { file: Arc::clone(file), offset, buf, token });
    }

    pub(super) fn sync(&mut self, owner: (BackendId, DiskTag), file: &Arc<DiskFile>) {
        let token = self.owners.insert(owner) as u64;
        self.requests.push_back(DiskRequest::Sync { file: Arc::clone(file), token });
    }

    pub(super) fn poll(&mut self) -> Option<DiskRequest> {
        self.requests.pop_front()
    }

    pub(super) fn take(&mut self, token: u64) -> Option<(BackendId, DiskTag)> {
        self.owners.try_remove(usize::try_from(token).ok()?)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.owners.is_empty()
    }
}

/// `len` zero bytes on the heap at a page boundary, written to by `fill`: for blocks that must be written even when the
/// pool is dry, or stores that wait for memory and hold some would wait for each other.
pub(super) fn aligned_block(len: usize, fill: impl FnOnce(&mut [u8])) -> SharedBuf {
    let mut bytes = vec![0; len + PAGE_SIZE];
    // The vector is never resized, so that its memory, and with it the aligned part, stays where it is.
    let start = bytes.as_ptr().align_offset(PAGE_SIZE).min(PAGE_SIZE);
    if let Some(block) = bytes.get_mut(start..start + len) {
        fill(block);
    }
    let all = SharedBuf::from_vec(bytes);
    all.slice(start..start + len).unwrap_or(all)
}

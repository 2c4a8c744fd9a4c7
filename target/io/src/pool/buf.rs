//! A buffer of the pool with one owner.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::slice;
use std::sync::Arc;

use kvof_rdma::Registrations;

use super::{Chunk, Shard, SharedBuf};

/// Page-aligned memory from a [`Pool`](super::Pool): a `[u8]` of exactly the length asked for. Dropping it, on any thread,
/// gives the memory back. The length is at most the capacity, and all of the capacity is initialised.
pub struct PoolBuf {
    /// None for a buffer of no bytes, which has no memory.
    memory: Option<Memory>,
    len: usize,
}

struct Memory {
    chunk: Chunk,
    class: usize,
    home: Arc<Shard>,
}

impl PoolBuf {
    pub(super) fn empty() -> Self {
        Self { memory: None, len: 0 }
    }

    pub(super) fn new(chunk: Chunk, len: usize, class: usize, home: Arc<Shard>) -> Self {
        let len = len.min(chunk.size);
        Self { memory: Some(Memory { chunk, class, home }), len }
    }

    /// Bytes of memory behind the buffer: the length rounded up to its size class, 0 for an empty buffer.
    pub fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, |m| m.chunk.size)
    }

    /// Shortens the buffer to `len` bytes; no effect if it is not longer. The memory behind it stays.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Sets the length; false, with no effect, beyond the capacity. Bytes that become part of the buffer are initialised but
    /// unspecified: they may be an earlier user's, so write them before anybody else sees them.
    pub fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= self.capacity();
        if fits {
            self.len = len;
        }
        fits
    }

    /// Lengthens the buffer to `len` bytes with zeros; false, with no effect, if that is beyond the capacity or below the length.
    pub fn zero_extend(&mut self, len: usize) -> bool {
        let old = self.len;
        if len < old || !self.set_len(len) {
            return false;
        }
        if let Some(tail) = self.get_mut(old..) {
            tail.fill(0);
        }
        true
    }

    /// Makes the contents immutable and shareable, without copying.
    pub fn freeze(self) -> SharedBuf {
        SharedBuf::from_pool(self)
    }

    /// Where the bytes are, for the kernel. Stays the same when the buffer is moved.
    pub(crate) fn start(&self) -> *mut u8 {
        self.memory.as_ref().map_or(std::ptr::dangling_mut(), |m| m.chunk.start.as_ptr())
    }

    /// The memory behind the buffer: where it begins, its length, its RDMA keys. None for an empty buffer.
    pub(crate) fn chunk(&self) -> Option<(*mut u8, usize, &Registrations)> {
        self.memory.as_ref().map(|m| (m.chunk.start.as_ptr(), m.chunk.size, &m.chunk.registrations))
    }
}

impl Deref for PoolBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` names at least `len` initialised bytes (or none, when dangling) that only this value gives access to.
        unsafe { slice::from_raw_parts(self.start(), self.len) }
    }
}

impl DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` proves that there is no other access.
        unsafe { slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl AsMut<[u8]> for PoolBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl AsRef<[u8]> for PoolBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        if let Some(Memory { chunk, class, home }) = self.memory.take() {
            home.give_back(chunk, class);
        }
    }
}

impl fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuf").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

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
    class: u32,
    copied: u32,
    home: Arc<Shard>,
}

impl PoolBuf {
    pub(super) fn empty() -> Self {
        Self { memory: None, len: 0 }
    }

    pub(super) fn new(chunk: Chunk, len: usize, class: usize, home: Arc<Shard>) -> Self {
        let len = len.min(chunk.size);
        // There are a few hundred classes.
        Self { memory: Some(Memory { chunk, class: class as u32, copied: 0, home }), len }
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

    /// Copies `bytes` to `at`, and counts them as [`copied`](Self::copied); false, with no effect, if they do not lie within the length.
    pub fn copy_in(&mut self, at: usize, bytes: &[u8]) -> bool {
        let end = at.saturating_add(bytes.len());
        if self.get(at..end).is_none() {
            return false;
        }
        // Counted first: whoever moves the buffer next would wait for this store, and with it for all stores of the copy.
        self.count_copied(bytes.len());
        let Some(place) = self.get_mut(at..end) else { return false };
        place.copy_from_slice(bytes);
        true
    }

    /// Counts bytes that were copied elsewhere on their way to this buffer.
    pub fn count_copied(&mut self, bytes: usize) {
        if let Some(memory) = &mut self.memory {
            memory.copied = memory.copied.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Bytes that the processor copied on their way to this buffer since it was allocated: a byte that was copied twice counts twice, and
    /// what the kernel or a device put here does not count. 0 when every byte was received in its place.
    pub fn copied(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.copied.into())
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
        if let Some(Memory { chunk, class, home, .. }) = self.memory.take() {
            home.give_back(chunk, class as usize);
        }
    }
}

impl fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuf").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

//! Immutable bytes that many may hold: a frozen pool buffer, a vector, or static data.

use std::fmt;
use std::ops::{Bound, Deref, RangeBounds};
use std::slice;
use std::sync::Arc;

use kvof_rdma::Registrations;

use super::PoolBuf;
use crate::prefetch::{line, prefetch};

/// A cheaply cloned view of immutable bytes. The memory lives as long as any clone or slice of it.
#[derive(Clone)]
pub struct SharedBuf {
    start: *const u8,
    len: usize,
    /// None for static data.
    owner: Option<Arc<Owner>>,
}

/// What keeps the bytes alive; nothing looks at them through it again.
enum Owner {
    Pool(PoolBuf),
    /// The RDMA keys go before the memory.
    Vec(Registrations, Vec<u8>),
}

// SAFETY: the bytes are never written while a `SharedBuf` exists (their owner is locked away in the `Arc`), and the owner is Send and Sync.
unsafe impl Send for SharedBuf {}
// SAFETY: as above: shared access only ever reads.
unsafe impl Sync for SharedBuf {}

impl SharedBuf {
    pub(super) fn from_pool(buf: PoolBuf) -> Self {
        let (start, len) = (buf.start().cast_const(), buf.len());
        Self { start, len, owner: Some(Arc::new(Owner::Pool(buf))) }
    }

    /// Takes over a vector without copying: for small replies that need no pool memory.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let (start, len) = (bytes.as_ptr(), bytes.len());
        Self { start, len, owner: Some(Arc::new(Owner::Vec(Registrations::new(), bytes))) }
    }

    /// The bytes of `range` as a view of the same memory. None if the range is not within the buffer.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Option<Self> {
        let from = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n.checked_add(1)?,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(n) => n.checked_add(1)?,
            Bound::Excluded(n) => *n,
            Bound::Unbounded => self.len,
        };
        let part = self.get(from..to)?;
        Some(Self { start: part.as_ptr(), len: part.len(), owner: self.owner.clone() })
    }

    /// Asks the processor for what a clone of this will need, its first reader, the end of the last clone, and whoever gets the memory then.
    pub fn prefetch(&self) {
        if let Some(owner) = &self.owner {
            // The count of clones lies just before what it counts.
            line(Arc::as_ptr(owner).cast::<u8>().wrapping_sub(2 * size_of::<usize>()));
            prefetch(&**owner);
        }
        line(self.start);
    }

    /// Where the bytes are, for the kernel. Stays the same when the value is moved.
    pub(crate) fn start(&self) -> *const u8 {
        self.start
    }

    /// Whether the bytes are in a pool's memory.
    pub(crate) fn is_pool(&self) -> bool {
        matches!(self.owner.as_deref(), Some(Owner::Pool(_)))
    }

    /// The memory that the bytes lie in: where it begins, its length, its RDMA keys. None for static data and where there is none.
    pub(crate) fn memory(&self) -> Option<(*mut u8, usize, &Registrations)> {
        match &**self.owner.as_ref()? {
            Owner::Pool(buf) => buf.chunk(),
            // Registered for reading alone: nobody writes through this pointer.
            Owner::Vec(registrations, bytes) => Some((bytes.as_ptr().cast_mut(), bytes.len(), registrations)),
        }
    }
}

impl From<&'static [u8]> for SharedBuf {
    fn from(bytes: &'static [u8]) -> Self {
        Self { start: bytes.as_ptr(), len: bytes.len(), owner: None }
    }
}

impl From<PoolBuf> for SharedBuf {
    fn from(buf: PoolBuf) -> Self {
        buf.freeze()
    }
}

impl Deref for SharedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` names `len` initialised bytes that the owner keeps alive and that nobody writes.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl AsRef<[u8]> for SharedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for SharedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBuf").field("len", &self.len).finish()
    }
}

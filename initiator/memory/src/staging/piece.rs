//! Host memory that one copy at a time uses.

use core::{fmt, slice};
use std::{any::Any, ptr::NonNull, sync::Mutex};

use crate::host::HeapMemory;

/// Host memory of a fixed length for copies from and to a device, owned by whoever may touch it.
pub struct Piece {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the memory. A mutex, since only dropping it matters.
    _owner: Mutex<Box<dyn Any + Send>>,
}

// SAFETY: it owns its bytes and gives them out by the borrowing rules only.
unsafe impl Send for Piece {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Piece {}

impl Piece {
    /// # Safety
    /// `len` initialised bytes from `start` on are `owner`'s, stay there until it is dropped, and nobody else uses them.
    pub(crate) unsafe fn new(start: NonNull<u8>, len: usize, owner: impl Any + Send) -> Self {
        Self { start, len, _owner: Mutex::new(Box::new(owner)) }
    }

    /// Ordinary memory, for devices that do not mind.
    #[must_use]
    pub fn heap(len: usize) -> Self {
        let memory = HeapMemory::from_vec(vec![0; len]);
        // SAFETY: the memory of a vector of `len` bytes goes with the value.
        unsafe { Self::new(memory.start(), len, memory) }
    }

    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: the value owns these initialised bytes.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes.
    pub const fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the value owns these initialised bytes, and `&mut self` makes this the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({} bytes)", self.len)
    }
}

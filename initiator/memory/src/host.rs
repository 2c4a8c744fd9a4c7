//! Host memory that a buffer owns: from the heap, or mapped with huge pages.
//!
//! Invariant: the bytes that these types name are initialised, stay where they are when the owner moves, and live as
//! long as it does. That is what lets a network device write to them while a queue has them.

use std::{
    io,
    mem::ManuallyDrop,
    ptr::{self, NonNull},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::BUFFER_ALIGN;

/// Size of a huge page on x86-64 and on aarch64 with 4 KiB pages, bytes.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// A vector taken apart. Its bytes are reached by a pointer that no move of the owner touches; a `Vec` or `Box` that is
/// moved claims to be the only way to its bytes, and a device that writes meanwhile would prove that wrong.
pub(crate) struct HeapMemory {
    start: NonNull<u8>,
    /// Initialised bytes: the length of the vector.
    len: usize,
    capacity: usize,
}

// SAFETY: it owns its bytes like the vector it was, and gives them out by the borrowing rules only.
unsafe impl Send for HeapMemory {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for HeapMemory {}

impl HeapMemory {
    /// `len` zeroed bytes and where the part of them starts that is aligned to [`BUFFER_ALIGN`].
    pub(crate) fn aligned(len: usize) -> (Self, usize) {
        // Large zeroed vectors come fresh from the kernel, which has cleared them already.
        let memory = Self::from_vec(vec![0u8; len.saturating_add(BUFFER_ALIGN - 1)]);
        let offset = memory.start.addr().get().wrapping_neg() % BUFFER_ALIGN;
        (memory, offset)
    }

    pub(crate) fn from_vec(vec: Vec<u8>) -> Self {
        let mut vec = ManuallyDrop::new(vec);
        let start = NonNull::new(vec.as_mut_ptr()).unwrap_or(NonNull::dangling());
        Self { start, len: vec.len(), capacity: vec.capacity() }
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        let memory = ManuallyDrop::new(self);
        // SAFETY: these came from a vector in `from_vec`, and `memory` is not dropped.
        unsafe { Vec::from_raw_parts(memory.start.as_ptr(), memory.len, memory.capacity) }
    }

    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for HeapMemory {
    fn drop(&mut self) {
        // SAFETY: these came from a vector in `from_vec`; nobody uses them after the drop.
        drop(unsafe { Vec::from_raw_parts(self.start.as_ptr(), self.len, self.capacity) });
    }
}

/// Anonymous memory of its own mapping, zero at first, with huge pages where the kernel has them.
pub(crate) struct MappedMemory {
    start: NonNull<u8>,
    /// Mapped bytes.
    len: usize,
}

// SAFETY: it owns its mapping.
unsafe impl Send for MappedMemory {}
// SAFETY: it gives out an address only.
unsafe impl Sync for MappedMemory {}

impl MappedMemory {
    /// Maps `len` bytes, more than 0. From 2 MiB upwards they start at a huge page.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        if len < HUGE_PAGE {
            return Self::map(len);
        }
        // Not every kernel aligns large mappings by itself: map more than needed and give both ends back.
        let padded = len
            .checked_next_multiple_of(BUFFER_ALIGN)
            .and_then(|l| l.checked_add(HUGE_PAGE))
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let whole = ManuallyDrop::new(Self::map(padded)?);
        let kept = padded - HUGE_PAGE;
        let head = whole.start.addr().get().wrapping_neg() % HUGE_PAGE;
        // SAFETY: `head` < HUGE_PAGE, so that `kept` bytes from there on are inside the mapping.
        let start = unsafe { whole.start.add(head) };
        // SAFETY: the end of the kept part is inside the mapping, or one past it.
        let end = unsafe { start.add(kept) };
        // SAFETY: the ends are page-aligned parts of the mapping that nobody knows of. A failure leaves them mapped, which
        // wastes address space and nothing else.
        let _ = unsafe { munmap_part(whole.start, head) };
        // SAFETY: as above.
        let _ = unsafe { munmap_part(end, HUGE_PAGE - head) };
        // SAFETY: the range is mapped and advice does not change its content. A kernel without huge pages refuses it, and
        // the memory works all the same.
        let _ = unsafe { madvise(start.as_ptr().cast(), kept, Advice::LinuxHugepage) };
        Ok(Self { start, len: kept })
    }

    fn map(len: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a private anonymous mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, len })
    }

    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody uses it after the drop.
        let _ = unsafe { munmap_part(self.start, self.len) };
    }
}

/// # Safety
/// The range is page-aligned, a part of a mapping of ours, and not in use.
unsafe fn munmap_part(start: NonNull<u8>, len: usize) -> io::Result<()> {
    if len > 0 {
        // SAFETY: promised by the caller.
        unsafe { munmap(start.as_ptr().cast(), len) }?;
    }
    Ok(())
}

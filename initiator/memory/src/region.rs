//! Host memory that is registered once and handed out in parts.

use std::{
    any::Any,
    fmt,
    ops::Range,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvof_rdma::{Mr, MrAccess, RdmaError, Registrations};

use crate::{Buffer, RegionError, host::MappedMemory, parts::Parts};

/// Host memory that RDMA devices register once, whole, and whose parts are [`Buffer`]s: no operation ever waits for a
/// registration. An inference engine makes one of its host cache, or lets this library make one.
///
/// A clone is another handle to the same memory, which lives as long as there is a handle or a buffer of it.
#[derive(Clone)]
pub struct MemoryRegion {
    memory: Arc<HostRegion>,
    parts: Arc<PartTable>,
}

/// The memory of a region.
pub(crate) struct HostRegion {
    /// First: a registration ends before its memory does.
    registrations: Registrations,
    start: NonNull<u8>,
    len: usize,
    /// Whatever keeps the memory.
    _owner: Owner,
}

enum Owner {
    Mapped {
        _memory: MappedMemory,
    },
    /// A mutex, as the caller's value may not be for several threads at once; nobody ever locks it.
    Caller {
        _keep_alive: Mutex<Box<dyn Any + Send>>,
    },
}

// SAFETY: the address is that of memory which the owner keeps; its bytes are only reached through buffers, each of which
// has its own part.
unsafe impl Send for HostRegion {}
// SAFETY: as above.
unsafe impl Sync for HostRegion {}

impl HostRegion {
    /// Address of byte `offset`, which is inside or at the end.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset <= self.len);
        // SAFETY: parts were checked against the length of the region.
        unsafe { self.start.add(offset) }
    }

    pub(crate) fn registration(&self, device: &Arc<kvof_rdma::Device>) -> Result<&Mr, RdmaError> {
        self.registrations.get_or_register(device, || {
            let begun = std::time::Instant::now();
            // SAFETY: the owner keeps the memory longer than `registrations`, and access to it goes through buffers,
            // whose owners allow it by giving them away.
            let mr = unsafe { Mr::register(device, self.start.as_ptr(), self.len, MrAccess::Windows) }?;
            tracing::debug!(device = device.name(), len = self.len, took = ?begun.elapsed(), "memory region registered");
            Ok(mr)
        })
    }
}

impl MemoryRegion {
    /// A region of `len` bytes of its own, all zero, with huge pages where the kernel has them.
    ///
    /// # Errors
    /// [`RegionError::Empty`], [`RegionError::Memory`].
    pub fn new(len: usize) -> Result<Self, RegionError> {
        if len == 0 {
            return Err(RegionError::Empty);
        }
        let memory = MappedMemory::new(len).map_err(|source| RegionError::Memory { len, source: Arc::new(source) })?;
        Ok(Self::with(memory.start(), len, Owner::Mapped { _memory: memory }))
    }

    /// A region of memory that exists already, such as an engine's pinned host cache. `keep_alive` is dropped when
    /// neither the region nor a buffer of it is left; `()` if the memory is never freed.
    ///
    /// # Safety
    /// For as long as `keep_alive` lives: `len` bytes from `start` are mapped, readable, writable and initialised, and
    /// nobody writes a byte, or reads one that an operation may be writing, while a [`Buffer`] of it is out.
    ///
    /// # Errors
    /// [`RegionError::Empty`] if `len` is 0 or `start` is null.
    pub unsafe fn from_raw_parts(start: *mut u8, len: usize, keep_alive: impl Any + Send) -> Result<Self, RegionError> {
        match NonNull::new(start) {
            Some(start) if len > 0 => {
                Ok(Self::with(start, len, Owner::Caller { _keep_alive: Mutex::new(Box::new(keep_alive)) }))
            }
            _ => Err(RegionError::Empty),
        }
    }

    fn with(start: NonNull<u8>, len: usize, owner: Owner) -> Self {
        let memory = HostRegion { registrations: Registrations::new(), start, len, _owner: owner };
        Self { memory: Arc::new(memory), parts: Arc::new(PartTable::new(len)) }
    }

    /// The `len` bytes from `offset` on, until the buffer is dropped. What they hold stays as it is. O(log n) in the
    /// number of buffers that are out.
    ///
    /// # Errors
    /// [`RegionError::OutOfBounds`], [`RegionError::Overlap`].
    pub fn buffer(&self, offset: usize, len: usize) -> Result<Buffer, RegionError> {
        Ok(Buffer::of_region(Arc::clone(&self.memory), self.parts.claim(offset, len)?))
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len
    }

    /// Never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Buffers of at least one byte that are out.
    #[must_use]
    pub fn buffers_out(&self) -> usize {
        self.parts.lock().len()
    }

    /// Registers the region with `device` now rather than with the first operation: takes about as long as touching
    /// every page, and locks them.
    ///
    /// # Errors
    /// [`RegionError::Register`], which says how much memory this process may lock (RLIMIT_MEMLOCK).
    pub fn register(&self, device: &Arc<kvof_rdma::Device>) -> Result<(), RegionError> {
        self.memory.registration(device).map(|_| ()).map_err(|source| register_error(self.len(), device, source))
    }
}

pub(crate) fn register_error(len: usize, device: &kvof_rdma::Device, source: RdmaError) -> RegionError {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    RegionError::Register { len, device: device.name().to_owned(), limit, source }
}

impl fmt::Debug for MemoryRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryRegion({} bytes, {} buffers out)", self.len(), self.buffers_out())
    }
}

/// The parts of one region, whatever its memory.
pub(crate) struct PartTable {
    len: usize,
    out: Mutex<Parts>,
}

impl PartTable {
    pub(crate) fn new(len: usize) -> Self {
        Self { len, out: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Parts> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to `len` bytes from `offset` on.
    pub(crate) fn claim(self: &Arc<Self>, offset: usize, len: usize) -> Result<Claim, RegionError> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len).ok_or(RegionError::OutOfBounds {
            offset,
            len,
            region: self.len,
        })?;
        let range = offset..end;
        match self.lock().take(range.clone()) {
            Ok(()) => Ok(Claim { parts: Arc::clone(self), range }),
            Err(other) => Err(RegionError::Overlap { offset, len, other }),
        }
    }
}

/// The right to some bytes of a region, given back by dropping it.
pub(crate) struct Claim {
    parts: Arc<PartTable>,
    range: Range<usize>,
}

impl Claim {
    pub(crate) const fn start(&self) -> usize {
        self.range.start
    }

    pub(crate) const fn len(&self) -> usize {
        self.range.end - self.range.start
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.parts.lock().give_back(&self.range);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::{MemoryKind, host::HUGE_PAGE};

    #[test]
    fn parts_are_exclusive_until_they_are_dropped() {
        let region = MemoryRegion::new(100).unwrap();
        let mut a = region.buffer(0, 40).unwrap();
        let mut b = region.buffer(40, 60).unwrap();
        a.fill(1);
        b.fill(2);
        let overlap = region.buffer(39, 1).unwrap_err();
        assert!(matches!(&overlap, RegionError::Overlap { other, .. } if *other == (0..40)), "{overlap}");
        assert!(overlap.to_string().contains("drop it first"));
        for (offset, len) in [(100, 1), (usize::MAX, 1), (0, usize::MAX), (101, 0)] {
            assert!(matches!(region.buffer(offset, len), Err(RegionError::OutOfBounds { region: 100, .. })));
        }
        assert_eq!(region.buffers_out(), 2);
        drop(a);
        let c = region.buffer(10, 30).unwrap();
        assert_eq!((c.kind(), &c[..]), (MemoryKind::Region, &[1; 30][..]));
        drop((b, c));
        assert_eq!(region.buffers_out(), 0);
        let all = region.buffer(0, 100).unwrap();
        drop(region);
        assert_eq!((all[39], all[40]), (1, 2));
    }

    #[test]
    fn large_regions_begin_at_a_huge_page() {
        for len in [1, 4096, HUGE_PAGE, HUGE_PAGE + 1, 3 * HUGE_PAGE - 4096] {
            let region = MemoryRegion::new(len).unwrap();
            let mut buffer = region.buffer(0, len).unwrap();
            assert!(buffer.iter().all(|b| *b == 0));
            buffer.fill(9);
            let align = if len < HUGE_PAGE { 4096 } else { HUGE_PAGE };
            assert_eq!(buffer.as_ptr().addr() % align, 0);
        }
        assert!(matches!(MemoryRegion::new(0), Err(RegionError::Empty)));
        let error = MemoryRegion::new(usize::MAX - 10).unwrap_err();
        assert!(matches!(error, RegionError::Memory { .. }), "{error}");
    }

    #[test]
    fn foreign_memory_is_kept_until_the_last_buffer_is_gone() {
        struct Pool(Vec<u8>, Arc<AtomicBool>);
        impl Drop for Pool {
            fn drop(&mut self) {
                self.1.store(true, Ordering::SeqCst);
            }
        }
        let gone = Arc::new(AtomicBool::new(false));
        let mut pool = Pool(vec![5; 1000], Arc::clone(&gone));
        let start = pool.0.as_mut_ptr();
        // SAFETY: the vector of 1000 bytes lives as long as the pool, and nobody else touches it.
        let region = unsafe { MemoryRegion::from_raw_parts(start, 1000, pool) }.unwrap();
        let mut buffer = region.buffer(990, 10).unwrap();
        buffer.fill(6);
        drop(region);
        assert!(!gone.load(Ordering::SeqCst));
        assert_eq!(&buffer[..], &[6; 10]);
        drop(buffer);
        assert!(gone.load(Ordering::SeqCst));
        // SAFETY: a null pointer is refused before anything is done with it.
        let refused = unsafe { MemoryRegion::from_raw_parts(std::ptr::null_mut(), 5, ()) };
        assert!(matches!(refused, Err(RegionError::Empty)));
    }
}

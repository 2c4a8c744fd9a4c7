//! The one type for values' memory, whatever it is.

use core::{fmt, slice};
use std::{ptr::NonNull, sync::Arc};

use kvof_rdma::{Memory as RdmaMemory, Mr, MrAccess, RdmaError, Registrations};

use crate::{
    CopyError,
    device::DeviceMemory,
    host::HeapMemory,
    region::{Claim, HostRegion},
    staging::DeviceRange,
};

/// Alignment of a [`Buffer::new`], bytes.
pub const BUFFER_ALIGN: usize = 4096;

/// Where the bytes of a [`Buffer`] are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum MemoryKind {
    /// Host memory of the buffer's own.
    Host,
    /// A part of a [`MemoryRegion`](crate::MemoryRegion): host memory that is registered once for all its parts.
    Region,
    /// Memory of a CUDA device.
    Cuda {
        /// The device's number, as CUDA counts.
        device: u32,
    },
    /// Memory of the simulated device, for tests.
    #[cfg(any(test, feature = "simulated"))]
    Simulated,
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Region => f.write_str("region"),
            Self::Cuda { device } => write!(f, "cuda:{device}"),
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated => f.write_str("simulated"),
        }
    }
}

/// How an RDMA device reaches the bytes of a [`Buffer`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum RdmaPath {
    /// Host memory, registered.
    Host,
    /// GPU memory, exported as a dma-buf: the network card and the GPU talk to each other.
    DmaBuf,
    /// GPU memory by its device pointer, through the nvidia-peermem kernel module: as direct as [`Self::DmaBuf`].
    PeerMem,
    /// Not at all: values go through pinned host memory.
    Staging,
}

impl fmt::Display for RdmaPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "registered host memory",
            Self::DmaBuf => "dma-buf",
            Self::PeerMem => "nvidia-peermem",
            Self::Staging => "pinned staging",
        })
    }
}

/// Memory of a fixed length for one value: what a Store sends from and a Retrieve reads into.
///
/// [`Self::new`] gives page-aligned host memory, [`MemoryRegion::buffer`](crate::MemoryRegion::buffer) a part of memory
/// that is registered once, [`CudaRegion::buffer`](crate::cuda::CudaRegion::buffer) GPU memory. Operations take all of
/// them alike. On RDMA a buffer is registered when it is first used and keeps that until it is dropped, so use buffers
/// again; the parts of a region share one registration.
///
/// It dereferences to its bytes if the host has them ([`Self::host`]); with device memory that is a panic, so that code
/// for every kind uses [`Self::host`], [`Self::copy_to_host`] and [`Self::copy_from_host`].
pub struct Buffer {
    memory: Memory,
    len: usize,
}

enum Memory {
    Host(OwnMemory),
    Region { memory: Arc<HostRegion>, claim: Claim },
    Device { memory: Arc<dyn DeviceMemory>, claim: Claim },
}

/// Host memory of one buffer.
struct OwnMemory {
    /// First: a registration ends before its memory does.
    registrations: Registrations,
    heap: HeapMemory,
    /// Where the buffer starts in it, bytes.
    offset: usize,
}

impl OwnMemory {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: `offset` is inside the memory, or at its end if the buffer is empty.
        unsafe { self.heap.start().add(self.offset) }
    }
}

impl Buffer {
    /// Host memory of `len` bytes, all zero, aligned to [`BUFFER_ALIGN`].
    #[must_use]
    pub fn new(len: usize) -> Self {
        let (heap, offset) = HeapMemory::aligned(len);
        Self { memory: Memory::Host(OwnMemory { registrations: Registrations::new(), heap, offset }), len }
    }

    /// The memory of `vec`, without a copy; as it is aligned.
    #[must_use]
    pub fn from_vec(vec: Vec<u8>) -> Self {
        let len = vec.len();
        let heap = HeapMemory::from_vec(vec);
        Self { memory: Memory::Host(OwnMemory { registrations: Registrations::new(), heap, offset: 0 }), len }
    }

    /// The bytes as a vector: the same memory if it came from [`Self::from_vec`], otherwise a copy.
    ///
    /// # Errors
    /// The device's error if the bytes have to be copied from one and cannot.
    pub fn into_vec(self) -> Result<Vec<u8>, CopyError> {
        match self.memory {
            Memory::Host(OwnMemory { registrations, heap, offset: 0 }) => {
                drop(registrations);
                let mut vec = heap.into_vec();
                vec.truncate(self.len);
                Ok(vec)
            }
            memory => {
                let buffer = Self { memory, len: self.len };
                let mut vec = vec![0; buffer.len];
                buffer.copy_to_host(0, &mut vec)?;
                Ok(vec)
            }
        }
    }

    pub(crate) const fn of_region(memory: Arc<HostRegion>, claim: Claim) -> Self {
        let len = claim.len();
        Self { memory: Memory::Region { memory, claim }, len }
    }

    pub(crate) fn of_device(memory: Arc<dyn DeviceMemory>, claim: Claim) -> Self {
        let len = claim.len();
        Self { memory: Memory::Device { memory, claim }, len }
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

    /// Where the bytes are.
    #[must_use]
    pub fn kind(&self) -> MemoryKind {
        match &self.memory {
            Memory::Host(_) => MemoryKind::Host,
            Memory::Region { .. } => MemoryKind::Region,
            Memory::Device { memory, .. } => memory.kind(),
        }
    }

    /// Whether the bytes are in memory that the CPU cannot address.
    #[must_use]
    pub const fn is_device(&self) -> bool {
        matches!(self.memory, Memory::Device { .. })
    }

    /// The bytes, if the host has them.
    #[must_use]
    pub fn host(&self) -> Option<&[u8]> {
        let start = self.host_start()?;
        // SAFETY: `len` initialised bytes from there on belong to this buffer, and `&self` keeps everybody from writing.
        Some(unsafe { slice::from_raw_parts(start.as_ptr(), self.len) })
    }

    /// The bytes, if the host has them.
    pub fn host_mut(&mut self) -> Option<&mut [u8]> {
        let start = self.host_start()?;
        // SAFETY: as in `host`, and `&mut self` makes this the only access.
        Some(unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.len) })
    }

    fn host_start(&self) -> Option<NonNull<u8>> {
        match &self.memory {
            Memory::Host(own) => Some(own.start()),
            Memory::Region { memory, claim } => Some(memory.at(claim.start())),
            Memory::Device { .. } => None,
        }
    }

    /// Copies `bytes` into the buffer from byte `offset` on; from device memory's point of view, when this returns.
    ///
    /// # Errors
    /// [`CopyError::OutOfBounds`]; the device's error.
    pub fn copy_from_host(&mut self, offset: usize, bytes: &[u8]) -> Result<(), CopyError> {
        self.check(offset, bytes.len())?;
        if let Memory::Device { memory, claim } = &self.memory {
            return memory.write(claim.start() + offset, bytes);
        }
        if let Some(to) = self.host_mut().and_then(|b| b.get_mut(offset..offset + bytes.len())) {
            to.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Copies the bytes from `offset` on into `bytes`, all of it.
    ///
    /// # Errors
    /// [`CopyError::OutOfBounds`]; the device's error.
    pub fn copy_to_host(&self, offset: usize, bytes: &mut [u8]) -> Result<(), CopyError> {
        self.check(offset, bytes.len())?;
        if let Memory::Device { memory, claim } = &self.memory {
            return memory.read(claim.start() + offset, bytes);
        }
        if let Some(from) = self.host().and_then(|b| b.get(offset..offset + bytes.len())) {
            bytes.copy_from_slice(from);
        }
        Ok(())
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), CopyError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(CopyError::OutOfBounds { offset, len, buffer: self.len }),
        }
    }

    /// The device memory, for copies through a [`Stager`](crate::staging::Stager); `None` for host memory.
    #[must_use]
    pub fn device_range(&self) -> Option<DeviceRange> {
        match &self.memory {
            Memory::Device { memory, claim } => Some(DeviceRange::new(Arc::clone(memory), claim.start(), self.len)),
            Memory::Host(_) | Memory::Region { .. } => None,
        }
    }

    /// How `device` reaches the bytes. For GPU memory this is found out, and logged, when it is first asked for: by
    /// dma-buf, else nvidia-peermem, else not at all, which leaves staging.
    #[must_use]
    pub fn rdma_path(&self, device: &Arc<kvof_rdma::Device>) -> RdmaPath {
        match &self.memory {
            Memory::Host(_) | Memory::Region { .. } => RdmaPath::Host,
            Memory::Device { memory, .. } => memory.rdma_path(device),
        }
    }

    /// To be called when RDMA has written into the buffer, before its owner gets it back: makes the bytes visible to
    /// the GPU where its hardware does not do that by itself. Nothing to do for host memory.
    ///
    /// # Errors
    /// The device's error.
    pub fn flush_rdma_writes(&self) -> Result<(), CopyError> {
        match &self.memory {
            Memory::Host(_) | Memory::Region { .. } => Ok(()),
            Memory::Device { memory, .. } => memory.flush_rdma_writes(),
        }
    }
}

// SAFETY: no kind of memory moves with the value. Own memory is a vector taken apart, whose registrations are dropped
// first; a region and device memory are kept by the `Arc`, and the claim gives nobody else their bytes. All can be
// written, and `&mut`-less access to them is by this value only.
unsafe impl RdmaMemory for Buffer {
    fn address(&self) -> u64 {
        match &self.memory {
            Memory::Host(own) => own.start().addr().get() as u64,
            Memory::Region { memory, claim } => memory.at(claim.start()).addr().get() as u64,
            Memory::Device { memory, claim } => memory.address() + claim.start() as u64,
        }
    }

    fn len(&self) -> usize {
        self.len
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn registration(&self, device: &Arc<kvof_rdma::Device>) -> Result<&Mr, RdmaError> {
        match &self.memory {
            Memory::Host(own) => {
                own.registrations.get_or_register(device, || self.register_exactly(device, MrAccess::Windows))
            }
            Memory::Region { memory, .. } => memory.registration(device),
            Memory::Device { memory, .. } => memory.registration(device),
        }
    }

    fn register_exactly(&self, device: &Arc<kvof_rdma::Device>, access: MrAccess) -> Result<Mr, RdmaError> {
        match &self.memory {
            // SAFETY: the bytes stay there as long as the value, which whoever registers keeps with the registration;
            // the value's owner allows the access by giving it away.
            Memory::Host(own) => unsafe { Mr::register(device, own.start().as_ptr(), self.len, access) },
            Memory::Region { memory, claim } => {
                // SAFETY: as above.
                unsafe { Mr::register(device, memory.at(claim.start()).as_ptr(), self.len, access) }
            }
            Memory::Device { memory, claim } => memory.register_exactly(device, claim.start(), self.len, access),
        }
    }
}

impl core::ops::Deref for Buffer {
    type Target = [u8];

    /// # Panics
    /// If the bytes are in device memory.
    fn deref(&self) -> &[u8] {
        self.host().unwrap_or_else(|| not_host(self.kind()))
    }
}

impl core::ops::DerefMut for Buffer {
    /// # Panics
    /// If the bytes are in device memory.
    fn deref_mut(&mut self) -> &mut [u8] {
        let kind = self.kind();
        self.host_mut().unwrap_or_else(|| not_host(kind))
    }
}

#[cold]
#[track_caller]
fn not_host(kind: MemoryKind) -> ! {
    panic!(
        "the bytes of this buffer are in {kind} memory, which the CPU cannot address: use copy_to_host and \
         copy_from_host, or ask host()"
    )
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes, {})", self.len, self.kind())
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::new(bytes.len());
        if let Some(to) = buffer.host_mut() {
            to.copy_from_slice(bytes);
        }
        buffer
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(vec: Vec<u8>) -> Self {
        Self::from_vec(vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_exact() {
        for len in [0, 1, 4095, 4096, 4097, 2 << 20] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().addr() % BUFFER_ALIGN, 0);
            assert!(buffer.iter().all(|b| *b == 0));
            buffer.fill(7);
            assert_eq!(&*Buffer::from(&*buffer), &*buffer);
            assert_eq!(buffer.kind(), MemoryKind::Host);
            assert_eq!(RdmaMemory::len(&buffer), len);
            assert_eq!(buffer.into_vec().unwrap(), vec![7; len]);
        }
    }

    #[test]
    fn a_vector_comes_back_without_a_copy() {
        let mut vec = Vec::with_capacity(100);
        vec.extend_from_slice(b"value");
        let at = vec.as_ptr();
        let mut buffer = Buffer::from_vec(vec);
        buffer[0] = b'V';
        assert_eq!(RdmaMemory::address(&buffer), at.addr() as u64);
        let back = buffer.into_vec().unwrap();
        assert_eq!((back.as_ptr(), back.capacity(), &back[..]), (at, 100, &b"Value"[..]));
        assert_eq!(Buffer::from_vec(Vec::new()).into_vec().unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn copies_stay_inside() {
        let mut buffer = Buffer::new(10);
        buffer.copy_from_host(8, &[1, 2]).unwrap();
        buffer.copy_from_host(10, &[]).unwrap();
        for (offset, len) in [(9, 2), (11, 0), (usize::MAX, 2)] {
            let error = buffer.copy_from_host(offset, &vec![9; len]).unwrap_err();
            assert!(matches!(error, CopyError::OutOfBounds { .. }));
            assert!(buffer.copy_to_host(offset, &mut vec![9; len]).is_err());
        }
        let mut end = [0; 3];
        buffer.copy_to_host(7, &mut end).unwrap();
        assert_eq!(end, [0, 1, 2]);
    }
}

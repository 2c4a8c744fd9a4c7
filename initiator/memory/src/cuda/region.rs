//! GPU memory that is handed out in parts.

use std::{
    any::Any,
    ffi::{c_int, c_uint},
    fmt,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    sync::{Arc, Mutex, OnceLock},
};

use cudarc::driver::sys;
use kvof_rdma::{Mr, MrAccess, RdmaError, Registrations};

use super::{CudaError, context::Gpu, copy::CudaCopy, driver::CUdeviceptr};
use crate::{
    Buffer, CopyError, MemoryKind, RdmaPath, RegionError,
    device::DeviceMemory,
    region::{PartTable, register_error},
    staging::{CopyBell, DeviceCopy, Piece},
};

/// What GPU memory is aligned to for a dma-buf: the largest host page of the systems that this library runs on.
const EXPORT_ALIGN: u64 = 64 << 10;
/// Size of the smallest page of a host: what an export of foreign memory is rounded to.
const HOST_PAGE: u64 = 4 << 10;

/// Memory of a GPU whose parts are [`Buffer`]s: its own, or one that an engine has already, such as a KV-cache tensor.
///
/// A clone is another handle to the same memory, which lives as long as there is a handle or a buffer of it.
#[derive(Clone)]
pub struct CudaRegion {
    memory: Arc<CudaMemory>,
    parts: Arc<PartTable>,
}

impl CudaRegion {
    /// `len` bytes of memory of GPU `device`, all zero.
    ///
    /// # Errors
    /// [`RegionError::Empty`]; [`RegionError::Cuda`], also where there is no driver or no such GPU.
    pub fn alloc(device: u32, len: usize) -> Result<Self, RegionError> {
        if len == 0 {
            return Err(RegionError::Empty);
        }
        let gpu = Gpu::get(device)?;
        let f = &gpu.driver().functions;
        // Whole pages, so that all of it can be exported.
        let size = len.checked_next_multiple_of(EXPORT_ALIGN as usize).unwrap_or(len);
        let mut address = 0;
        gpu.with(|| {
            // SAFETY: writes the address of memory that is ours until it is freed.
            let code = unsafe { (f.cuMemAlloc_v2)(&raw mut address, size) };
            gpu.driver().check("cuMemAlloc", code)
        })?;
        let owner = Owner::Own(Allocation { gpu, address });
        gpu.with(|| {
            // SAFETY: the memory is ours.
            let code = unsafe { (f.cuMemsetD8_v2)(address, 0, size) };
            gpu.driver().check("cuMemsetD8", code)
        })?;
        Ok(Self::with(gpu, address, len, owner))
    }

    /// GPU memory that exists already: `len` bytes at device address `address` of GPU `device`. `keep_alive` is dropped
    /// when neither the region nor a buffer of it is left; `()` if the memory outlives everything.
    ///
    /// # Safety
    /// For as long as `keep_alive` lives the memory stays allocated, and nothing writes a byte of it, or reads one that
    /// an operation may be writing, while a [`Buffer`] of it is out.
    ///
    /// # Errors
    /// [`RegionError::Empty`]; [`CudaError::NotDeviceMemory`] if the driver knows another kind of memory there, or none.
    pub unsafe fn from_device_ptr(
        device: u32,
        address: u64,
        len: usize,
        keep_alive: impl Any + Send,
    ) -> Result<Self, RegionError> {
        if len == 0 {
            return Err(RegionError::Empty);
        }
        let gpu = Gpu::get(device)?;
        check_pointer(gpu, address, len)?;
        Ok(Self::with(gpu, address, len, Owner::Caller { _keep_alive: Mutex::new(Box::new(keep_alive)) }))
    }

    fn with(gpu: &'static Gpu, address: CUdeviceptr, len: usize, owner: Owner) -> Self {
        let memory =
            CudaMemory { registrations: Registrations::new(), paths: Box::default(), gpu, address, len, _owner: owner };
        memory.order_memory_operations();
        Self { memory: Arc::new(memory), parts: Arc::new(PartTable::new(len)) }
    }

    /// The `len` bytes from `offset` on, until the buffer is dropped. What they hold stays as it is. O(log n) in the
    /// number of buffers that are out.
    ///
    /// # Errors
    /// [`RegionError::OutOfBounds`], [`RegionError::Overlap`].
    pub fn buffer(&self, offset: usize, len: usize) -> Result<Buffer, RegionError> {
        let memory: Arc<dyn DeviceMemory> = Arc::<CudaMemory>::clone(&self.memory);
        Ok(Buffer::of_device(memory, self.parts.claim(offset, len)?))
    }

    /// The GPU's number.
    #[must_use]
    pub fn device(&self) -> u32 {
        self.memory.gpu.device()
    }

    /// Where it starts, in the GPU's addresses.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.memory.address
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

    /// How `device` reaches the memory; registers it if that was not tried yet.
    #[must_use]
    pub fn rdma_path(&self, device: &Arc<kvof_rdma::Device>) -> RdmaPath {
        self.memory.rdma_path(device)
    }

    /// Registers the memory with `device` now rather than with the first operation, and gives the path that was found.
    ///
    /// # Errors
    /// [`RegionError::Register`] if the device reaches GPU memory by no path; operations then go through pinned staging.
    pub fn register(&self, device: &Arc<kvof_rdma::Device>) -> Result<RdmaPath, RegionError> {
        self.memory.registration(device).map_err(|source| register_error(self.len(), device, source))?;
        Ok(self.rdma_path(device))
    }
}

impl fmt::Debug for CudaRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaRegion({} bytes, cuda:{}, {} buffers out)", self.len(), self.device(), self.buffers_out())
    }
}

/// Whether the driver knows `len` bytes of device memory there.
fn check_pointer(gpu: &Gpu, address: u64, len: usize) -> Result<(), CudaError> {
    use sys::CUpointer_attribute as Attribute;
    let device = gpu.device();
    let wrong = |reason: String| CudaError::NotDeviceMemory { address, len, device, reason: reason.into() };
    let last = (len as u64)
        .checked_sub(1)
        .and_then(|n| address.checked_add(n))
        .ok_or_else(|| wrong("it goes beyond all addresses".into()))?;
    for at in [address, last] {
        let attribute = |attribute: Attribute| -> Result<c_uint, CudaError> {
            let mut value: c_uint = 0;
            gpu.with(|| {
                let f = &gpu.driver().functions;
                // SAFETY: these attributes are 32-bit numbers, and any address may be asked for.
                let code = unsafe { (f.cuPointerGetAttribute)((&raw mut value).cast(), attribute as c_int, at) };
                gpu.driver().check("cuPointerGetAttribute", code)
            })?;
            Ok(value)
        };
        let kind = attribute(Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
            .map_err(|e| wrong(format!("byte {at:#x} is no memory that CUDA knows ({e})")))?;
        if kind != sys::CUmemorytype_enum::CU_MEMORYTYPE_DEVICE as c_uint {
            return Err(wrong(format!("byte {at:#x} is memory of the host (type {kind})")));
        }
        let ordinal = attribute(Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)?;
        if ordinal != device {
            return Err(wrong(format!("byte {at:#x} is memory of device {ordinal}")));
        }
    }
    Ok(())
}

/// The memory of a region.
struct CudaMemory {
    /// First: a registration ends before its memory does.
    registrations: Registrations,
    /// How each RDMA device reaches it, by the device's index; and why it does not, if so.
    paths: Box<[OnceLock<Result<RdmaPath, RdmaError>>; kvof_rdma::DEVICES_MAX]>,
    gpu: &'static Gpu,
    address: CUdeviceptr,
    len: usize,
    _owner: Owner,
}

enum Owner {
    Own(#[expect(dead_code, reason = "kept to be freed")] Allocation),
    /// A mutex, as the caller's value may not be for several threads at once; nobody ever locks it.
    Caller {
        _keep_alive: Mutex<Box<dyn Any + Send>>,
    },
}

/// What `cuMemAlloc` gave.
struct Allocation {
    gpu: &'static Gpu,
    address: CUdeviceptr,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let freed = self.gpu.with(|| {
            // SAFETY: it came from cuMemAlloc, and whoever used it is gone.
            let code = unsafe { (self.gpu.driver().functions.cuMemFree_v2)(self.address) };
            self.gpu.driver().check("cuMemFree", code)
        });
        if let Err(error) = freed {
            tracing::warn!(%error, device = self.gpu.device(), "GPU memory could not be freed");
        }
    }
}

impl CudaMemory {
    /// Has the driver finish copies and fills of this memory before they return, which it otherwise may not where RDMA
    /// devices are at work on the same memory.
    fn order_memory_operations(&self) {
        let on: c_uint = 1;
        let set = self.gpu.with(|| {
            let f = &self.gpu.driver().functions;
            let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS as c_int;
            // SAFETY: the attribute is a 32-bit number, and the memory is the region's.
            let code = unsafe { (f.cuPointerSetAttribute)((&raw const on).cast(), attribute, self.address) };
            self.gpu.driver().check("cuPointerSetAttribute", code)
        });
        // Memory of the virtual memory API does not have it, and behaves so by itself.
        if let Err(error) = set {
            tracing::debug!(%error, "CU_POINTER_ATTRIBUTE_SYNC_MEMOPS");
        }
    }

    /// Registers `len` bytes from `offset` on, by the first path that works; gives it too.
    fn register(
        &self,
        device: &Arc<kvof_rdma::Device>,
        offset: usize,
        len: usize,
        access: MrAccess,
    ) -> Result<(Mr, RdmaPath), RdmaError> {
        let address = self.address + offset as u64;
        let dmabuf = self.export(address, len).and_then(|export| {
            // SAFETY: the memory outlives `registrations`, and other registrations are kept with a buffer of it.
            unsafe { Mr::register_dmabuf(device, export.dmabuf.as_fd(), export.offset, len, address, access) }
                .map_err(|e| e.to_string())
        });
        let dmabuf_error = match dmabuf {
            Ok(mr) => return Ok((mr, RdmaPath::DmaBuf)),
            Err(error) => error,
        };
        let (name, gpu) = (device.name(), self.gpu.device());
        tracing::info!(device = name, gpu, reason = dmabuf_error, "no dma-buf of GPU memory; trying nvidia-peermem");
        let start = std::ptr::without_provenance_mut(usize::try_from(address).unwrap_or(usize::MAX));
        // SAFETY: as above. The address is no host memory: a kernel that does not know it refuses it.
        match unsafe { Mr::register(device, start, len, access) } {
            Ok(mr) => Ok((mr, RdmaPath::PeerMem)),
            Err(error) => {
                tracing::info!(
                    device = name,
                    gpu,
                    %error,
                    "no nvidia-peermem either (`modprobe nvidia-peermem`); values go through pinned staging"
                );
                Err(error)
            }
        }
    }

    /// Exports the pages that hold `len` bytes at `address` as a dma-buf.
    fn export(&self, address: CUdeviceptr, len: usize) -> Result<Export, String> {
        use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED as DMA_BUF;
        use sys::CUmemRangeHandleType_enum::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD as DMA_BUF_FD;
        let driver = self.gpu.driver();
        let export = driver.functions.cuMemGetHandleForAddressRange.ok_or_else(|| {
            format!("the CUDA driver ({}) is older than 11.7: it lacks cuMemGetHandleForAddressRange", driver.version())
        })?;
        if self.gpu.attribute(DMA_BUF) == 0 {
            return Err("the GPU or its kernel module cannot export dma-bufs (the open kernel module can)".into());
        }
        let (base, end) = self.allocation(address).map_err(|e| e.to_string())?;
        let (from, to) = export_range(address, len, (base, end), page_size())?;
        let mut fd: c_int = -1;
        self.gpu
            .with(|| {
                let size = usize::try_from(to - from).unwrap_or(usize::MAX);
                // SAFETY: writes a descriptor, which is ours to close.
                let code = unsafe { export((&raw mut fd).cast(), from, size, DMA_BUF_FD as c_int, 0) };
                driver.check("cuMemGetHandleForAddressRange", code)
            })
            .map_err(|e| e.to_string())?;
        if fd < 0 {
            return Err("cuMemGetHandleForAddressRange gave no descriptor".into());
        }
        // SAFETY: the driver has just opened it for us.
        let dmabuf = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Export { dmabuf, offset: address - from })
    }

    /// Start and end of the allocation that has `address`.
    fn allocation(&self, address: CUdeviceptr) -> Result<(u64, u64), CudaError> {
        let (mut base, mut size) = (0, 0);
        self.gpu.with(|| {
            let f = &self.gpu.driver().functions;
            // SAFETY: writes both; any address may be asked for.
            let code = unsafe { (f.cuMemGetAddressRange_v2)(&raw mut base, &raw mut size, address) };
            self.gpu.driver().check("cuMemGetAddressRange", code)
        })?;
        Ok((base, base.saturating_add(size as u64)))
    }
}

/// Pages of GPU memory as a dma-buf.
struct Export {
    dmabuf: OwnedFd,
    /// Where the wanted bytes start in it.
    offset: u64,
}

/// The whole pages around `len` bytes at `address`, inside their allocation from `base` to `end`.
fn export_range(address: u64, len: usize, (base, end): (u64, u64), page: u64) -> Result<(u64, u64), String> {
    let from = address / page * page;
    let to = address.checked_add(len as u64).and_then(|to| to.checked_next_multiple_of(page));
    match to {
        Some(to) if from >= base && to <= end => Ok((from, to)),
        _ => Err(format!(
            "{len} bytes at {address:#x} do not leave room for whole pages of {page} bytes in their allocation ({base:#x} \
             to {end:#x})"
        )),
    }
}

/// Bytes of a page of this host.
fn page_size() -> u64 {
    (rustix::param::page_size() as u64).max(HOST_PAGE)
}

// SAFETY: the owner keeps the memory, and buffers of it have parts of their own.
unsafe impl DeviceMemory for CudaMemory {
    fn kind(&self) -> MemoryKind {
        MemoryKind::Cuda { device: self.gpu.device() }
    }

    fn copier(&self, bell: Arc<CopyBell>) -> Result<Box<dyn DeviceCopy>, CopyError> {
        Ok(Box::new(CudaCopy::new(self.gpu, bell)?))
    }

    fn pinned(&self, len: usize) -> Result<Piece, CopyError> {
        Ok(self.gpu.pinned(len)?)
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), CopyError> {
        Ok(self.gpu.read(self.address + offset as u64, into)?)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), CopyError> {
        Ok(self.gpu.write(self.address + offset as u64, from)?)
    }

    fn address(&self) -> u64 {
        self.address
    }

    fn rdma_path(&self, device: &Arc<kvof_rdma::Device>) -> RdmaPath {
        // An error is kept, so that the answer stays the same.
        let _ = self.registration(device);
        let path = self.paths.get(device.index()).and_then(OnceLock::get);
        path.and_then(|found| found.as_ref().ok().copied()).unwrap_or(RdmaPath::Staging)
    }

    fn registration(&self, device: &Arc<kvof_rdma::Device>) -> Result<&Mr, RdmaError> {
        let path = self.paths.get(device.index()).ok_or(RdmaError::NoDevice)?;
        if let Some(Err(error)) = path.get() {
            return Err(error.clone());
        }
        let mut found = None;
        let result = self.registrations.get_or_register(device, || {
            let registered = self.register(device, 0, self.len, MrAccess::Windows);
            registered.map(|(mr, path)| {
                found = Some(path);
                mr
            })
        });
        match (&result, found) {
            (Ok(_), Some(by)) => {
                if path.set(Ok(by)).is_ok() {
                    tracing::info!(device = device.name(), gpu = self.gpu.device(), len = self.len, path = %by, "GPU memory registered");
                }
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                let _ = path.set(Err(error.clone()));
            }
        }
        result
    }

    fn register_exactly(
        &self,
        device: &Arc<kvof_rdma::Device>,
        offset: usize,
        len: usize,
        access: MrAccess,
    ) -> Result<Mr, RdmaError> {
        self.register(device, offset, len, access).map(|(mr, _)| mr)
    }

    fn flush_rdma_writes(&self) -> Result<(), CopyError> {
        /// `CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX`.
        const CURRENT_CTX: c_int = 0;
        /// `CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER`.
        const TO_OWNER: c_int = 100;
        if !self.gpu.needs_flush() {
            return Ok(());
        }
        // Without the function the end of a kernel or copy that starts later does the same.
        let Some(flush) = self.gpu.driver().functions.cuFlushGPUDirectRDMAWrites else { return Ok(()) };
        self.gpu.with(|| {
            // SAFETY: no memory of ours is involved.
            let code = unsafe { flush(CURRENT_CTX, TO_OWNER) };
            self.gpu.driver().check("cuFlushGPUDirectRDMAWrites", code)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_whole_pages_inside_the_allocation() {
        let allocation = (0x10000, 0x20000);
        assert_eq!(export_range(0x10000, 0x10000, allocation, 4096), Ok((0x10000, 0x20000)));
        assert_eq!(export_range(0x11010, 0x10, allocation, 4096), Ok((0x11000, 0x12000)));
        assert_eq!(export_range(0x11ff0, 0x20, allocation, 4096), Ok((0x11000, 0x13000)));
        // The pages around it are not all of the allocation.
        assert!(export_range(0x10200, 16, (0x10200, 0x10400), 4096).is_err());
        assert!(export_range(0x1f000, 0x1001, allocation, 4096).is_err());
        assert!(export_range(u64::MAX - 5, 10, (0, u64::MAX), 4096).is_err());
        // A host with larger pages.
        assert_eq!(export_range(0x11010, 0x10, allocation, 65_536), Ok((0x10000, 0x20000)));
    }
}

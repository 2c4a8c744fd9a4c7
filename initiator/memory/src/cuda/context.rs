//! A GPU as this process uses it: its primary context, which PyTorch and every program of the CUDA runtime share.

use std::{
    collections::BTreeMap,
    ffi::{c_int, c_void},
    ptr::{self, NonNull},
    sync::{Mutex, OnceLock, PoisonError},
};

use cudarc::driver::sys;

use super::{
    CudaError,
    driver::{CUcontext, CUdeviceptr, Driver},
};
use crate::staging::Piece;

/// A device with its primary context. There is one for each device used, for the life of the process: buffers of it may
/// be anywhere.
pub(super) struct Gpu {
    driver: &'static Driver,
    device: u32,
    handle: c_int,
    context: CUcontext,
    /// How the GPU sees what RDMA writes: whether it has to be told.
    needs_flush: bool,
}

// SAFETY: a context may be used from any thread that makes it current.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// Where `CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER` begins: from there on the GPU itself sees RDMA writes in order.
const ORDERED_FOR_OWNER: c_int = 100;

impl Gpu {
    /// Device number `device`.
    pub(super) fn get(device: u32) -> Result<&'static Self, CudaError> {
        static GPUS: OnceLock<Mutex<BTreeMap<u32, &'static Gpu>>> = OnceLock::new();
        let mut gpus = GPUS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = gpus.get(&device) {
            return Ok(gpu);
        }
        let gpu: &'static Self = Box::leak(Box::new(Self::open(device)?));
        gpus.insert(device, gpu);
        Ok(gpu)
    }

    fn open(device: u32) -> Result<Self, CudaError> {
        use sys::CUdevice_attribute as Attribute;
        let driver = Driver::get()?;
        let handle = driver.device(device)?;
        let mut context = ptr::null_mut();
        // SAFETY: writes the context, which is ours until it is released, and that is never.
        let code = unsafe { (driver.functions.cuDevicePrimaryCtxRetain)(&raw mut context, handle) };
        driver.check("cuDevicePrimaryCtxRetain", code)?;
        let ordering = driver.attribute(handle, Attribute::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING);
        let gpu = Self { driver, device, handle, context, needs_flush: ordering < ORDERED_FOR_OWNER };
        tracing::debug!(device, writes_ordering = ordering, "CUDA device opened");
        Ok(gpu)
    }

    pub(super) const fn driver(&self) -> &'static Driver {
        self.driver
    }

    pub(super) const fn device(&self) -> u32 {
        self.device
    }

    pub(super) fn attribute(&self, attribute: sys::CUdevice_attribute) -> c_int {
        self.driver.attribute(self.handle, attribute)
    }

    pub(super) const fn needs_flush(&self) -> bool {
        self.needs_flush
    }

    /// Runs `work` with this device's context as the thread's current one, and puts back the one that was.
    pub(super) fn with<T>(&self, work: impl FnOnce() -> Result<T, CudaError>) -> Result<T, CudaError> {
        let f = &self.driver.functions;
        // SAFETY: the context is retained.
        self.driver.check("cuCtxPushCurrent", unsafe { (f.cuCtxPushCurrent_v2)(self.context) })?;
        let result = work();
        let mut popped = ptr::null_mut();
        // SAFETY: takes off what was pushed above; `work` is this crate's, and leaves the stack as it found it.
        let code = unsafe { (f.cuCtxPopCurrent_v2)(&raw mut popped) };
        // The outcome of the work counts: a copy that was started runs, whatever this says.
        if let Err(error) = self.driver.check("cuCtxPopCurrent", code) {
            tracing::warn!(%error, device = self.device, "the thread's CUDA context could not be put back");
        }
        result
    }

    /// Memory of the host that this and every other GPU copies from and to by itself.
    pub(super) fn pinned(&'static self, len: usize) -> Result<Piece, CudaError> {
        let f = &self.driver.functions;
        let mut start: *mut c_void = ptr::null_mut();
        self.with(|| {
            // SAFETY: writes the address of memory that is ours until it is freed.
            let code = unsafe { (f.cuMemHostAlloc)(&raw mut start, len, sys::CU_MEMHOSTALLOC_PORTABLE) };
            self.driver.check("cuMemHostAlloc", code)
        })?;
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(CudaError::Call { call: "cuMemHostAlloc", code: 2, name: "no address".into() });
        };
        // The driver does not promise zeros, and Rust wants its bytes initialised.
        // SAFETY: `len` bytes from `start` on were just allocated for us.
        unsafe { start.as_ptr().write_bytes(0, len) };
        // SAFETY: the memory is the owner's, which frees it.
        Ok(unsafe { Piece::new(start, len, PinnedMemory { gpu: self, start }) })
    }

    /// Copies from the device, and waits.
    pub(super) fn read(&self, from: CUdeviceptr, into: &mut [u8]) -> Result<(), CudaError> {
        if into.is_empty() {
            return Ok(());
        }
        self.with(|| {
            // SAFETY: the caller owns `into.len()` bytes of device memory at `from`, and `into` is exclusive.
            let code = unsafe { (self.driver.functions.cuMemcpyDtoH_v2)(into.as_mut_ptr().cast(), from, into.len()) };
            self.driver.check("cuMemcpyDtoH", code)
        })
    }

    /// Copies to the device, and waits.
    pub(super) fn write(&self, to: CUdeviceptr, from: &[u8]) -> Result<(), CudaError> {
        if from.is_empty() {
            return Ok(());
        }
        self.with(|| {
            // SAFETY: the caller owns `from.len()` bytes of device memory at `to`.
            let code = unsafe { (self.driver.functions.cuMemcpyHtoD_v2)(to, from.as_ptr().cast(), from.len()) };
            self.driver.check("cuMemcpyHtoD", code)
        })
    }
}

/// What `cuMemHostAlloc` gave.
struct PinnedMemory {
    gpu: &'static Gpu,
    start: NonNull<u8>,
}

// SAFETY: it owns the memory and does nothing with it but free it.
unsafe impl Send for PinnedMemory {}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        let freed = self.gpu.with(|| {
            let f = &self.gpu.driver.functions;
            // SAFETY: it came from cuMemHostAlloc, and whoever used it is gone.
            let code = unsafe { (f.cuMemFreeHost)(self.start.as_ptr().cast()) };
            self.gpu.driver.check("cuMemFreeHost", code)
        });
        if let Err(error) = freed {
            tracing::warn!(%error, "pinned memory could not be freed");
        }
    }
}

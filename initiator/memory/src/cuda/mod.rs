//! Memory of NVIDIA GPUs, through the driver, which is opened when it is first asked for.
//!
//! A program that runs without a GPU asks [`available`] and says what it answers. With one, a [`CudaRegion`] is memory of
//! a GPU, its own or an engine's, whose parts are [`Buffer`](crate::Buffer)s like any other.
//!
//! # What to know
//!
//! * The device's primary context is used, as PyTorch and the CUDA runtime do, so that pointers of theirs mean the same
//!   here. A thread's current context is put back after every call.
//! * Work on streams is the caller's to order: what a kernel writes must be over (`cuStreamSynchronize`, an event)
//!   before the buffer goes to a Store, and no kernel may use a buffer that a Retrieve has. When the operation is over,
//!   the bytes are there for every stream.

mod context;
mod copy;
mod driver;
mod error;
mod region;

use std::ffi::{CStr, c_char, c_int};

use cudarc::driver::sys::CUdevice_attribute as Attribute;

use driver::Driver;

pub use error::CudaError;
pub use region::CudaRegion;

/// A GPU, for people and for choosing one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CudaDeviceInfo {
    /// Its number: what [`CudaRegion::alloc`] takes.
    pub device: u32,
    /// Its name.
    pub name: String,
    /// Its memory, bytes.
    pub memory: u64,
    /// Compute capability, such as `(9, 0)`.
    pub compute: (u32, u32),
    /// PCI address, such as `0000:17:00.0`.
    pub pci: String,
    /// Newest CUDA version that the driver knows, such as `12.4`.
    pub driver: String,
    /// Its memory can be exported as a dma-buf, which RDMA devices register without further kernel modules.
    pub dma_buf: bool,
    /// RDMA devices can reach its memory at all, by dma-buf or by nvidia-peermem.
    pub gpu_direct: bool,
}

/// The GPUs that this process sees.
///
/// # Errors
/// What is missing, and how to get it: [`CudaError::NoDriver`], [`CudaError::OldDriver`], [`CudaError::NoDevice`], or the
/// driver's own error.
pub fn available() -> Result<Vec<CudaDeviceInfo>, CudaError> {
    let driver = Driver::get()?;
    (0..driver.devices()).map(|device| describe(driver, device)).collect()
}

fn describe(driver: &Driver, device: u32) -> Result<CudaDeviceInfo, CudaError> {
    let f = &driver.functions;
    let handle = driver.device(device)?;
    let name = text(|at, len| {
        // SAFETY: writes at most `len` bytes, a C string.
        driver.check("cuDeviceGetName", unsafe { (f.cuDeviceGetName)(at, len, handle) })
    })?;
    let pci = text(|at, len| {
        // SAFETY: writes at most `len` bytes, a C string.
        driver.check("cuDeviceGetPCIBusId", unsafe { (f.cuDeviceGetPCIBusId)(at, len, handle) })
    })?;
    let mut memory = 0;
    // SAFETY: writes the size.
    driver.check("cuDeviceTotalMem", unsafe { (f.cuDeviceTotalMem_v2)(&raw mut memory, handle) })?;
    let number = |attribute| u32::try_from(driver.attribute(handle, attribute)).unwrap_or(0);
    Ok(CudaDeviceInfo {
        device,
        name,
        memory: memory as u64,
        compute: (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        ),
        pci,
        driver: driver.version(),
        dma_buf: number(Attribute::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED) != 0
            && f.cuMemGetHandleForAddressRange.is_some(),
        gpu_direct: number(Attribute::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED) != 0,
    })
}

/// A string that the driver writes.
fn text(write: impl FnOnce(*mut c_char, c_int) -> Result<(), CudaError>) -> Result<String, CudaError> {
    const LEN: usize = 256;
    let mut bytes = [0u8; LEN];
    write(bytes.as_mut_ptr().cast(), LEN as c_int)?;
    Ok(CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned())
}

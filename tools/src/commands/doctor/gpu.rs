//! GPUs as CUDA tells of them.

use kvof_memory::cuda::{self, CudaDeviceInfo, CudaError};
use serde::Serialize;

#[derive(Clone, Default, Serialize)]
pub(super) struct Gpus {
    pub(super) devices: Vec<Gpu>,
    /// Whether the driver's library is there.
    pub(super) driver: bool,
    /// Why there is no device, and how to get one.
    pub(super) error: Option<String>,
}

#[derive(Clone, Serialize)]
pub(super) struct Gpu {
    pub(super) device: u32,
    pub(super) name: String,
    pub(super) pci: String,
    pub(super) memory: u64,
    pub(super) compute_capability: (u32, u32),
    /// The newest CUDA that the driver knows.
    pub(super) cuda: String,
    /// Whether its memory can be exported as a dma-buf.
    pub(super) dma_buf: bool,
    /// Whether RDMA devices reach its memory, by dma-buf or nvidia-peermem.
    pub(super) gpu_direct: bool,
}

impl Gpus {
    pub(super) fn look() -> Self {
        match cuda::available() {
            Ok(devices) => Self { devices: devices.into_iter().map(Gpu::new).collect(), driver: true, error: None },
            Err(error) => Self {
                devices: Vec::new(),
                driver: !matches!(error, CudaError::NoDriver),
                error: Some(error.to_string()),
            },
        }
    }
}

impl Gpu {
    fn new(info: CudaDeviceInfo) -> Self {
        Self {
            device: info.device,
            name: info.name,
            pci: info.pci,
            memory: info.memory,
            compute_capability: info.compute,
            cuda: info.driver,
            dma_buf: info.dma_buf,
            gpu_direct: info.gpu_direct,
        }
    }
}

//! Memory that the CPU cannot address: what every kind of it has to offer.

use std::sync::Arc;

use kvof_rdma::{Mr, MrAccess, RdmaError};

use crate::{
    CopyError, MemoryKind, RdmaPath,
    staging::{CopyBell, DeviceCopy, Piece},
};

/// A range of device memory. The bytes stay there for as long as the value lives.
///
/// # Safety
/// `address()` and the registrations describe the same bytes for as long as the value lives, and nothing but the owner of
/// a [`Buffer`](crate::Buffer) of some of these bytes accesses them.
pub(crate) unsafe trait DeviceMemory: Send + Sync {
    /// The kind of memory, which names the device.
    fn kind(&self) -> MemoryKind;

    /// Something that copies from and to all memory of this kind without waiting, and rings `bell` when a copy is over.
    fn copier(&self, bell: Arc<CopyBell>) -> Result<Box<dyn DeviceCopy>, CopyError>;

    /// Host memory that the device copies from and to without help of the CPU.
    fn pinned(&self, len: usize) -> Result<Piece, CopyError>;

    /// Copies from device to host, and waits. The range was checked.
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), CopyError>;

    /// Copies from host to device, and waits. The range was checked.
    fn write(&self, offset: usize, from: &[u8]) -> Result<(), CopyError>;

    /// Where it starts, in the device's addresses.
    fn address(&self) -> u64;

    /// How `device` reaches it; decided, and reported, when first asked for.
    fn rdma_path(&self, device: &Arc<kvof_rdma::Device>) -> RdmaPath;

    /// The lasting registration of all of it.
    fn registration(&self, device: &Arc<kvof_rdma::Device>) -> Result<&Mr, RdmaError>;

    /// A registration of a part of it.
    fn register_exactly(
        &self,
        device: &Arc<kvof_rdma::Device>,
        offset: usize,
        len: usize,
        access: MrAccess,
    ) -> Result<Mr, RdmaError>;

    /// Makes what RDMA has written visible to the device.
    fn flush_rdma_writes(&self) -> Result<(), CopyError>;
}

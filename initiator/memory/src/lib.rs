//! Memory for values, of every kind behind one type: [`Buffer`].
//!
//! | kind | made by | RDMA | TCP |
//! |---|---|---|---|
//! | host | [`Buffer::new`], [`Buffer::from_vec`] | registered at its first use | straight from and into it |
//! | region | [`MemoryRegion::buffer`] | registered once for all parts | straight from and into it |
//! | CUDA | [`cuda::CudaRegion::buffer`] | straight from and into it by dma-buf or nvidia-peermem, else [staged](staging) | [staged](staging) |
//!
//! CUDA's driver is opened when it is first asked for; without one, [`cuda::available`] says what is missing.
//!
//! Invariant of the whole crate: the bytes of a buffer belong to it alone, do not move when it does, and stay until it is
//! dropped; that is what makes it a [`kvof_rdma::Memory`].

mod buffer;
pub mod cuda;
mod device;
mod error;
mod host;
mod parts;
mod region;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
pub mod staging;

pub use buffer::{BUFFER_ALIGN, Buffer, MemoryKind, RdmaPath};
pub use error::{CopyError, RegionError};
pub use region::MemoryRegion;

//! What can go wrong with memory.

use std::{io, ops::Range, sync::Arc};

use kvof_rdma::RdmaError;

use crate::cuda::CudaError;

/// Why a region cannot be made or a part of it not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// A region of no bytes.
    #[error("a memory region needs at least 1 byte")]
    Empty,
    /// The part is not inside the region.
    #[error("bytes {offset} to {offset} + {len} are not all inside the region, which has {region} bytes")]
    OutOfBounds {
        /// Where the part was to start, bytes.
        offset: usize,
        /// Its length, bytes.
        len: usize,
        /// Bytes of the region.
        region: usize,
    },
    /// A buffer that is out has some of the bytes.
    #[error(
        "bytes {offset} to {offset} + {len} overlap the buffer of bytes {} to {}, which is in use: drop it first",
        .other.start, .other.end
    )]
    Overlap {
        /// Where the part was to start, bytes.
        offset: usize,
        /// Its length, bytes.
        len: usize,
        /// The bytes that the other buffer has.
        other: Range<usize>,
    },
    /// The system gives no memory.
    #[error("cannot map {len} bytes of memory: {source}")]
    Memory {
        /// Bytes asked for.
        len: usize,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// A device cannot register the memory.
    #[error("cannot register {len} bytes with {device}: {source}{}", memlock(*.limit))]
    Register {
        /// Bytes of the region.
        len: usize,
        /// Name of the RDMA device.
        device: String,
        /// RLIMIT_MEMLOCK of this process, bytes; `None` if it has none.
        limit: Option<u64>,
        /// Why.
        source: RdmaError,
    },
    /// CUDA refused.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

fn memlock(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |bytes| format!(" (RLIMIT_MEMLOCK of this process is {bytes} bytes)"))
}

/// Why bytes cannot be copied from or to a buffer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The buffer does not have these bytes.
    #[error("bytes {offset} to {offset} + {len} are not all inside the buffer, which has {buffer} bytes")]
    OutOfBounds {
        /// First byte.
        offset: usize,
        /// Number of bytes.
        len: usize,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// CUDA refused.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The device failed.
    #[error("device memory: {0}")]
    Device(Arc<str>),
}

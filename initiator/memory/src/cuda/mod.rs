//! Memory of NVIDIA GPUs, through the driver, which is opened when it is first asked for.

mod error;

pub use error::CudaError;

//! What can go wrong with CUDA, and what to do about it.

use std::sync::Arc;

/// Why something with a GPU failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The machine, or the container, has no CUDA driver.
    #[error(
        "no CUDA driver (libcuda.so.1): install NVIDIA's driver; in a container, start it with the GPU \
         (`docker run --gpus all`, which needs nvidia-container-toolkit)"
    )]
    NoDriver,
    /// The driver lacks what every driver since 11.4 has.
    #[error("the CUDA driver is too old: {found}, and 11.4 or newer is needed; install a newer NVIDIA driver")]
    OldDriver {
        /// Its version, or the function that it lacks.
        found: Arc<str>,
    },
    /// There is a driver and no GPU.
    #[error(
        "the CUDA driver finds no GPU: `nvidia-smi` should list one; look at CUDA_VISIBLE_DEVICES, and at /dev/nvidia* in \
         a container"
    )]
    NoDevice,
    /// There is no such GPU.
    #[error("there is no CUDA device {device}: this process sees {count}, counted from 0 (CUDA_VISIBLE_DEVICES)")]
    UnknownDevice {
        /// The number asked for.
        device: u32,
        /// Devices that there are.
        count: u32,
    },
    /// An address that is no memory of the device.
    #[error("{len} bytes at {address:#x} are not memory of CUDA device {device}: {reason}")]
    NotDeviceMemory {
        /// The address.
        address: u64,
        /// Bytes.
        len: usize,
        /// The device.
        device: u32,
        /// What they are instead.
        reason: Arc<str>,
    },
    /// A call failed.
    #[error("{call}: {name} ({code}){}", way_out(*.code))]
    Call {
        /// The function.
        call: &'static str,
        /// CUresult.
        code: i32,
        /// The name of the code.
        name: Arc<str>,
    },
}

/// What to do about a CUresult, as far as one can tell.
const fn way_out(code: i32) -> &'static str {
    match code {
        2 => "; the device has too little free memory, or the host too little that can be pinned",
        3 | 999 => "; load the kernel modules (`nvidia-modprobe -u`) and look at the kernel's log (`dmesg`)",
        34 => {
            "; the CUDA toolkit's stub was found in place of the driver: take its `stubs` folder out of LD_LIBRARY_PATH"
        }
        46 => "; another process has the device for itself (`nvidia-smi -q -d COMPUTE`)",
        700 | 719 => "; a kernel of this process has failed before, and the device is lost to the process",
        803 => "; the driver's library and the kernel module are of different versions: reboot, or reload the module",
        804 => "; the forward-compatibility library (cuda-compat) does not go with this GPU",
        _ => "",
    }
}

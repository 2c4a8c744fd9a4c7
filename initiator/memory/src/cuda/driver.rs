//! The CUDA driver, opened at run time.
//!
//! Library, types and constants are cudarc's. The functions are looked up here, once and all together, with results as
//! plain integers: a driver that lacks one is an error then, not a panic, and a code that is newer than the bindings is a
//! number, not a value that its enumeration cannot have.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void},
    ptr,
    sync::{Arc, OnceLock},
};

use cudarc::driver::sys;

use super::CudaError;

pub(super) use sys::{CUcontext, CUdeviceptr, CUevent, CUstream};

/// Oldest driver that will do, as CUDA writes versions: 11.4.
const VERSION_MIN: c_int = 11_040;

const SUCCESS: c_int = 0;
const NO_DEVICE: c_int = 100;
/// The work is not over yet; no error.
const NOT_READY: c_int = 600;

type HostFn = unsafe extern "C" fn(*mut c_void);

macro_rules! functions {
    (
        needed { $($name:ident: fn($($argument:ty),*);)* }
        optional { $($extra:ident: fn($($extra_argument:ty),*);)* }
    ) => {
        /// The functions of the driver that this crate calls. All give a CUresult.
        #[allow(non_snake_case, reason = "the driver's own names")]
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> c_int,)*
            $(pub(super) $extra: Option<unsafe extern "C" fn($($extra_argument),*) -> c_int>,)*
        }

        impl Functions {
            fn load() -> Result<Self, CudaError> {
                // SAFETY: opening the driver's library runs its constructors, which every CUDA program does.
                if !unsafe { sys::is_culib_present() } {
                    return Err(CudaError::NoDriver);
                }
                // SAFETY: as above.
                let library = unsafe { sys::culib() };
                Ok(Self {
                    // SAFETY: these are the types of the functions in cuda.h, and the library is never closed.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }
                        .map_err(|_| CudaError::OldDriver { found: concat!("it lacks ", stringify!($name)).into() })?,)*
                    // SAFETY: as above.
                    $($extra: unsafe { library.get(concat!(stringify!($extra), "\0").as_bytes()) }.ok().map(|f| *f),)*
                })
            }
        }
    };
}

functions! {
    needed {
        cuInit: fn(c_uint);
        cuDriverGetVersion: fn(*mut c_int);
        cuGetErrorName: fn(c_int, *mut *const c_char);
        cuDeviceGetCount: fn(*mut c_int);
        cuDeviceGet: fn(*mut c_int, c_int);
        cuDeviceGetName: fn(*mut c_char, c_int, c_int);
        cuDeviceTotalMem_v2: fn(*mut usize, c_int);
        cuDeviceGetAttribute: fn(*mut c_int, c_int, c_int);
        cuDeviceGetPCIBusId: fn(*mut c_char, c_int, c_int);
        cuDevicePrimaryCtxRetain: fn(*mut CUcontext, c_int);
        cuCtxPushCurrent_v2: fn(CUcontext);
        cuCtxPopCurrent_v2: fn(*mut CUcontext);
        cuMemAlloc_v2: fn(*mut CUdeviceptr, usize);
        cuMemFree_v2: fn(CUdeviceptr);
        cuMemHostAlloc: fn(*mut *mut c_void, usize, c_uint);
        cuMemFreeHost: fn(*mut c_void);
        cuMemcpyHtoD_v2: fn(CUdeviceptr, *const c_void, usize);
        cuMemcpyDtoH_v2: fn(*mut c_void, CUdeviceptr, usize);
        cuMemcpyHtoDAsync_v2: fn(CUdeviceptr, *const c_void, usize, CUstream);
        cuMemcpyDtoHAsync_v2: fn(*mut c_void, CUdeviceptr, usize, CUstream);
        cuMemsetD8_v2: fn(CUdeviceptr, u8, usize);
        cuMemGetAddressRange_v2: fn(*mut CUdeviceptr, *mut usize, CUdeviceptr);
        cuPointerGetAttribute: fn(*mut c_void, c_int, CUdeviceptr);
        cuPointerSetAttribute: fn(*const c_void, c_int, CUdeviceptr);
        cuStreamCreate: fn(*mut CUstream, c_uint);
        cuStreamSynchronize: fn(CUstream);
        cuStreamDestroy_v2: fn(CUstream);
        cuEventCreate: fn(*mut CUevent, c_uint);
        cuEventRecord: fn(CUevent, CUstream);
        cuEventQuery: fn(CUevent);
        cuEventDestroy_v2: fn(CUevent);
        cuLaunchHostFunc: fn(CUstream, HostFn, *mut c_void);
    }
    optional {
        // Since 11.7.
        cuMemGetHandleForAddressRange: fn(*mut c_void, CUdeviceptr, usize, c_int, c_ulonglong);
        // Since 11.3; not in every build of the driver.
        cuFlushGPUDirectRDMAWrites: fn(c_int, c_int);
    }
}

/// The driver, initialised.
pub(super) struct Driver {
    pub(super) functions: Functions,
    /// As CUDA writes versions: 12040 is 12.4.
    version: c_int,
    devices: u32,
}

static DRIVER: OnceLock<Result<Driver, CudaError>> = OnceLock::new();

impl Driver {
    /// The driver; opened and initialised when this is first called, and the same answer ever after.
    pub(super) fn get() -> Result<&'static Self, CudaError> {
        DRIVER.get_or_init(Self::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Self, CudaError> {
        let mut driver = Self { functions: Functions::load()?, version: 0, devices: 0 };
        let f = &driver.functions;
        let mut version = 0;
        // SAFETY: writes the version; may be called before cuInit.
        driver.check("cuDriverGetVersion", unsafe { (f.cuDriverGetVersion)(&raw mut version) })?;
        if version < VERSION_MIN {
            return Err(CudaError::OldDriver { found: format!("it is {}", version_text(version)).into() });
        }
        // SAFETY: cuInit may be called any number of times, from any thread.
        driver.check("cuInit", unsafe { (f.cuInit)(0) })?;
        let mut count = 0;
        // SAFETY: writes the count.
        driver.check("cuDeviceGetCount", unsafe { (f.cuDeviceGetCount)(&raw mut count) })?;
        driver.version = version;
        driver.devices = u32::try_from(count).unwrap_or(0);
        if driver.devices == 0 {
            return Err(CudaError::NoDevice);
        }
        tracing::debug!(version = version_text(version), devices = driver.devices, "CUDA driver opened");
        Ok(driver)
    }

    /// Devices that this process sees.
    pub(super) const fn devices(&self) -> u32 {
        self.devices
    }

    /// Newest CUDA version that the driver knows, such as `12.4`.
    pub(super) fn version(&self) -> String {
        version_text(self.version)
    }

    /// The result of function `call`.
    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<(), CudaError> {
        match code {
            SUCCESS => Ok(()),
            NO_DEVICE => Err(CudaError::NoDevice),
            code => Err(CudaError::Call { call, code, name: self.name_of(code) }),
        }
    }

    /// The result of a query: whether the work is over.
    pub(super) fn check_ready(&self, call: &'static str, code: c_int) -> Result<bool, CudaError> {
        match code {
            NOT_READY => Ok(false),
            code => self.check(call, code).map(|()| true),
        }
    }

    fn name_of(&self, code: c_int) -> Arc<str> {
        let mut name = ptr::null();
        // SAFETY: writes a pointer to a constant string, or null for a code that it does not know.
        let known = unsafe { (self.functions.cuGetErrorName)(code, &raw mut name) };
        if known != SUCCESS || name.is_null() {
            return "unknown error".into();
        }
        // SAFETY: the driver's constant string.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into()
    }

    /// The handle of device `device`.
    pub(super) fn device(&self, device: u32) -> Result<c_int, CudaError> {
        let unknown = CudaError::UnknownDevice { device, count: self.devices };
        let ordinal = c_int::try_from(device).ok().filter(|_| device < self.devices).ok_or(unknown)?;
        let mut handle = 0;
        // SAFETY: writes the handle.
        self.check("cuDeviceGet", unsafe { (self.functions.cuDeviceGet)(&raw mut handle, ordinal) })?;
        Ok(handle)
    }

    /// An attribute of the device with this handle; 0 if the driver does not know the attribute.
    pub(super) fn attribute(&self, handle: c_int, attribute: sys::CUdevice_attribute) -> c_int {
        let mut value = 0;
        // SAFETY: writes the value.
        let code = unsafe { (self.functions.cuDeviceGetAttribute)(&raw mut value, attribute as c_int, handle) };
        if code == SUCCESS { value } else { 0 }
    }
}

/// 12040 is 12.4.
fn version_text(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(version_text(11_040), "11.4");
        assert_eq!(version_text(13_000), "13.0");
        assert_eq!(version_text(12_080), "12.8");
    }
}

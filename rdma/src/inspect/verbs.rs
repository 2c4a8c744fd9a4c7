//! The verbs library's side: what a program gets when it opens a device.

use std::{
    ffi::{CStr, c_int},
    io, mem, ptr,
};

use rdma_mummy_sys as ffi;

use super::{InspectError, Library, open_library};
use crate::{DeviceLimits, RdmaError};

/// What is registered to see whether registering works. Small, so that it says something about rights, not about size.
const TRIAL_BYTES: usize = 64 << 10;

/// A device that could be opened.
#[derive(Debug)]
pub struct VerbsDevice {
    /// What it can do.
    pub limits: DeviceLimits,
    /// MTUs of the ports, in order of their numbers from 1.
    pub mtus: Vec<PortMtu>,
    /// Whether 64 KiB can be registered.
    pub registration: Result<(), RdmaError>,
    /// Whether a memory window of type 2 can be had.
    pub window: Result<(), RdmaError>,
    /// Whether dma-buf memory, such as a GPU's, can be registered; `None` if the answer of the driver does not tell.
    pub dma_buf: Option<bool>,
}

/// MTU of a port in bytes of payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortMtu {
    /// What is used.
    pub active: u32,
    /// What the device could use.
    pub max: u32,
}

/// A device of the library's list, and what came of opening it.
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) verbs: Result<VerbsDevice, RdmaError>,
}

/// Every device that the library knows, opened and asked.
pub(super) fn devices() -> Result<Vec<Opened>, InspectError> {
    open_library(Library::Verbs).map_err(InspectError::Library)?;
    let list = DeviceList::new()?;
    Ok(list.iter().map(|device| Opened { name: name(device), verbs: look(device) }).collect())
}

fn name(device: *mut ffi::ibv_device) -> String {
    // SAFETY: `device` is of a list that is still there; its name is part of it.
    let name = unsafe { ffi::ibv_get_device_name(device) };
    if name.is_null() {
        return String::new();
    }
    // SAFETY: not null, so it is the C string within the device.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

fn look(device: *mut ffi::ibv_device) -> Result<VerbsDevice, RdmaError> {
    let context = Context::open(device)?;
    let (limits, ports) = context.limits()?;
    let mtus = (1..=ports).map(|port| context.mtu(port)).collect::<Result<_, _>>()?;
    let domain = Domain::new(&context)?;
    Ok(VerbsDevice {
        limits,
        mtus,
        registration: domain.try_register(),
        window: domain.try_window(),
        dma_buf: domain.try_dma_buf(),
    })
}

/// The list that the library made, and frees.
struct DeviceList {
    list: *mut *mut ffi::ibv_device,
    len: usize,
}

impl DeviceList {
    fn new() -> Result<Self, RdmaError> {
        let mut len: c_int = 0;
        // SAFETY: `len` may be written.
        let list = unsafe { ffi::ibv_get_device_list(&raw mut len) };
        if list.is_null() {
            return Err(RdmaError::last("ibv_get_device_list"));
        }
        Ok(Self { list, len: usize::try_from(len).unwrap_or(0) })
    }

    fn iter(&self) -> impl Iterator<Item = *mut ffi::ibv_device> {
        // SAFETY: the library says that the list has `len` devices; it is not changed while it is there.
        unsafe { std::slice::from_raw_parts(self.list, self.len) }.iter().copied()
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        // SAFETY: made by the library and freed once. Devices that were opened are closed by now.
        unsafe { ffi::ibv_free_device_list(self.list) };
    }
}

/// An open device.
struct Context(*mut ffi::ibv_context);

impl Context {
    fn open(device: *mut ffi::ibv_device) -> Result<Self, RdmaError> {
        // SAFETY: `device` is of a list that is still there.
        let context = unsafe { ffi::ibv_open_device(device) };
        if context.is_null() { Err(RdmaError::last("ibv_open_device")) } else { Ok(Self(context)) }
    }

    /// Its limits, and the number of its ports.
    fn limits(&self) -> Result<(DeviceLimits, u8), RdmaError> {
        // SAFETY: a structure of numbers, for which zeros are valid.
        let mut attr: ffi::ibv_device_attr = unsafe { mem::zeroed() };
        // SAFETY: the context is open, and `attr` may be written.
        let code = unsafe { ffi::ibv_query_device(self.0, &raw mut attr) };
        if code != 0 {
            return Err(RdmaError::from_errno("ibv_query_device", code));
        }
        Ok((DeviceLimits::new(&attr), attr.phys_port_cnt))
    }

    fn mtu(&self, port: u8) -> Result<PortMtu, RdmaError> {
        // SAFETY: a structure of numbers, for which zeros are valid.
        let mut attr: ffi::ibv_port_attr = unsafe { mem::zeroed() };
        // SAFETY: the context is open, and `attr` may be written.
        let code = unsafe { ffi::ibv_query_port(self.0, port, &raw mut attr) };
        if code != 0 {
            return Err(RdmaError::from_errno("ibv_query_port", code));
        }
        Ok(PortMtu { active: mtu_bytes(attr.active_mtu), max: mtu_bytes(attr.max_mtu) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once, and nothing that was made of it is left.
        unsafe { ffi::ibv_close_device(self.0) };
    }
}

/// A protection domain to try things in.
struct Domain<'a> {
    pd: *mut ffi::ibv_pd,
    _context: &'a Context,
}

impl<'a> Domain<'a> {
    fn new(context: &'a Context) -> Result<Self, RdmaError> {
        // SAFETY: the context is open, and outlives the domain.
        let pd = unsafe { ffi::ibv_alloc_pd(context.0) };
        if pd.is_null() { Err(RdmaError::last("ibv_alloc_pd")) } else { Ok(Self { pd, _context: context }) }
    }

    fn try_register(&self) -> Result<(), RdmaError> {
        let mut memory = vec![0_u8; TRIAL_BYTES];
        let access = ffi::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0 as c_int;
        // SAFETY: the memory is there, and stays until the registration has ended below. Nothing refers to the key.
        let mr = unsafe { ffi::ibv_reg_mr(self.pd, memory.as_mut_ptr().cast(), TRIAL_BYTES, access) };
        if mr.is_null() {
            return Err(RdmaError::last("ibv_reg_mr"));
        }
        // SAFETY: registered above, and ended once.
        let code = unsafe { ffi::ibv_dereg_mr(mr) };
        if code == 0 {
            return Ok(());
        }
        // Memory that a device may still have is never given back to the allocator.
        mem::forget(memory);
        Err(RdmaError::from_errno("ibv_dereg_mr", code))
    }

    fn try_window(&self) -> Result<(), RdmaError> {
        // SAFETY: the domain is there.
        let window = unsafe { ffi::ibv_alloc_mw(self.pd, ffi::ibv_mw_type::IBV_MW_TYPE_2) };
        if window.is_null() {
            return Err(RdmaError::last("ibv_alloc_mw"));
        }
        // SAFETY: made above, never bound, and freed once.
        match unsafe { ffi::ibv_dealloc_mw(window) } {
            0 => Ok(()),
            code => Err(RdmaError::from_errno("ibv_dealloc_mw", code)),
        }
    }

    /// Asks for a registration of descriptor -1: a driver that can look at the descriptor says that it is none, one that
    /// cannot says that.
    fn try_dma_buf(&self) -> Option<bool> {
        let access = ffi::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0 as c_int;
        // SAFETY: the domain is there; there is no memory behind descriptor -1 that anything could happen to.
        let mr = unsafe { ffi::ibv_reg_dmabuf_mr(self.pd, 0, 4096, 0, -1, access) };
        if !mr.is_null() {
            // SAFETY: registered above, and ended once.
            unsafe { ffi::ibv_dereg_mr(mr) };
            return None;
        }
        dma_buf_of(io::Error::last_os_error().raw_os_error())
    }
}

impl Drop for Domain<'_> {
    fn drop(&mut self) {
        // SAFETY: made once and freed once; whatever was made in it is gone, or keeps it, which the call then reports.
        unsafe { ffi::ibv_dealloc_pd(mem::replace(&mut self.pd, ptr::null_mut())) };
    }
}

/// What the error for a descriptor that is none says about dma-buf.
fn dma_buf_of(errno: Option<i32>) -> Option<bool> {
    match errno {
        Some(libc::EBADF) => Some(true),
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOSYS) => Some(false),
        _ => None,
    }
}

/// Bytes of an MTU of the verbs, which is a power of two from 256 on.
fn mtu_bytes(mtu: ffi::ibv_mtu::Type) -> u32 {
    match mtu {
        1..=5 => 128 << mtu,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtus() {
        assert_eq!([0, 1, 2, 3, 4, 5, 6, u32::MAX].map(mtu_bytes), [0, 256, 512, 1024, 2048, 4096, 0, 0]);
        assert_eq!(mtu_bytes(ffi::ibv_mtu::IBV_MTU_4096), 4096);
    }

    #[test]
    fn dma_buf_by_the_error() {
        assert_eq!(dma_buf_of(Some(libc::EBADF)), Some(true));
        assert_eq!(dma_buf_of(Some(libc::EOPNOTSUPP)), Some(false));
        assert_eq!(dma_buf_of(Some(libc::ENOMEM)), None);
        assert_eq!(dma_buf_of(None), None);
    }
}

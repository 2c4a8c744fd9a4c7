//! Memory windows of type 2B: a remote key for some bytes of registered memory on one queue pair. Binding one and invalidating it are
//! work requests, so that every command can have a key of its own.

use std::{ptr::NonNull, sync::Arc};

use rdma_mummy_sys as sys;

use crate::{Device, RdmaError};

/// A memory window, bound or free.
#[derive(Debug)]
pub(crate) struct Window {
    raw: NonNull<sys::ibv_mw>,
    /// The key of its last binding; the low 8 bits are ours to choose, the rest names the window.
    rkey: u32,
    _device: Arc<Device>,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for Window {}

impl Window {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self, RdmaError> {
        // SAFETY: the protection domain lives as long as the process.
        let raw = unsafe { sys::ibv_alloc_mw(device.pd(), sys::ibv_mw_type::IBV_MW_TYPE_2) };
        let raw = NonNull::new(raw).ok_or_else(|| RdmaError::last("ibv_alloc_mw"))?;
        // SAFETY: the window is live.
        let rkey = unsafe { raw.as_ref() }.rkey;
        Ok(Self { raw, rkey, _device: Arc::clone(device) })
    }

    /// The key for the next binding: one that the last 255 bindings of this window did not have.
    pub(crate) const fn next_key(&mut self) -> u32 {
        self.rkey = (self.rkey & !0xff) | (self.rkey.wrapping_add(1) & 0xff);
        self.rkey
    }

    pub(crate) const fn key(&self) -> u32 {
        self.rkey
    }

    pub(crate) const fn raw(&self) -> *mut sys::ibv_mw {
        self.raw.as_ptr()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the window is live; the queue pair that it was bound to is gone (`Endpoint` drops its windows after that).
        let errno = unsafe { sys::ibv_dealloc_mw(self.raw.as_ptr()) };
        if errno != 0 {
            tracing::warn!(errno, "a memory window could not be freed");
        }
    }
}

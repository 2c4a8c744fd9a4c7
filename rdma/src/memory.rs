//! Memory that devices may access, and its registrations.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    slice,
    sync::{Arc, OnceLock},
};

use rdma_mummy_sys as sys;

use crate::{Device, RdmaError, device::DEVICES_MAX};

/// What a registration allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MrAccess {
    /// This side's work requests read it.
    LocalRead,
    /// This side's work requests read and write it.
    Local,
    /// As [`Self::Local`], and parts of it can be exposed to a peer by memory windows, if the device has them.
    Windows,
    /// The peer reads it, by the registration's own key.
    RemoteRead,
    /// The peer writes it, by the registration's own key.
    RemoteWrite,
}

impl MrAccess {
    fn flags(self, device: &Device) -> i32 {
        use sys::ibv_access_flags as Flags;
        let flags = match self {
            Self::LocalRead => 0,
            Self::Local => Flags::IBV_ACCESS_LOCAL_WRITE.0,
            Self::Windows if device.limits().windows => Flags::IBV_ACCESS_LOCAL_WRITE.0 | Flags::IBV_ACCESS_MW_BIND.0,
            Self::Windows => Flags::IBV_ACCESS_LOCAL_WRITE.0,
            Self::RemoteRead => Flags::IBV_ACCESS_REMOTE_READ.0,
            Self::RemoteWrite => Flags::IBV_ACCESS_LOCAL_WRITE.0 | Flags::IBV_ACCESS_REMOTE_WRITE.0,
        };
        // Access flags are low bits of an int.
        flags as i32
    }
}

/// A registration of memory on one device; dropping it ends it.
pub struct Mr {
    raw: NonNull<sys::ibv_mr>,
    _device: Arc<Device>,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for Mr {}
// SAFETY: as above.
unsafe impl Sync for Mr {}

impl Mr {
    /// Registers `len` bytes from `start`; also GPU memory by its device pointer, where the kernel knows it (nvidia-peermem).
    ///
    /// # Safety
    /// The memory stays mapped there for as long as the registration lives, and what the device does to it within `access` is no more
    /// than its owner allows.
    ///
    /// # Errors
    /// [`RdmaError::Call`], with ENOMEM if the limit of locked memory or of registrations is reached.
    pub unsafe fn register(
        device: &Arc<Device>,
        start: *mut u8,
        len: usize,
        access: MrAccess,
    ) -> Result<Self, RdmaError> {
        // SAFETY: the protection domain lives as long as the process; the rest is the caller's promise.
        let raw = unsafe { sys::ibv_reg_mr(device.pd(), start.cast(), len, access.flags(device)) };
        let raw = NonNull::new(raw).ok_or_else(|| RdmaError::last("ibv_reg_mr"))?;
        Ok(Self { raw, _device: Arc::clone(device) })
    }

    /// Registers `len` bytes from `offset` of a dma-buf, such as exported GPU memory; work requests name them by addresses from
    /// `address` upwards.
    ///
    /// # Safety
    /// As of [`Self::register`].
    ///
    /// # Errors
    /// [`RdmaError::Call`], with EOPNOTSUPP if the device or the kernel cannot.
    pub unsafe fn register_dmabuf(
        device: &Arc<Device>,
        dmabuf: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        address: u64,
        access: MrAccess,
    ) -> Result<Self, RdmaError> {
        let fd = dmabuf.as_raw_fd();
        // SAFETY: as in `register`; the descriptor is open.
        let raw = unsafe { sys::ibv_reg_dmabuf_mr(device.pd(), offset, len, address, fd, access.flags(device)) };
        let raw = NonNull::new(raw).ok_or_else(|| RdmaError::last("ibv_reg_dmabuf_mr"))?;
        Ok(Self { raw, _device: Arc::clone(device) })
    }

    /// Key for this side's work requests.
    #[must_use]
    pub fn lkey(&self) -> u32 {
        // SAFETY: the registration is live.
        unsafe { self.raw.as_ref() }.lkey
    }

    /// Key for the peer's, if the registration allows it any.
    #[must_use]
    pub fn rkey(&self) -> u32 {
        // SAFETY: the registration is live.
        unsafe { self.raw.as_ref() }.rkey
    }

    pub(crate) const fn raw(&self) -> *mut sys::ibv_mr {
        self.raw.as_ptr()
    }
}

impl Drop for Mr {
    fn drop(&mut self) {
        // SAFETY: the registration is live, and this value was its only owner.
        let errno = unsafe { sys::ibv_dereg_mr(self.raw.as_ptr()) };
        if errno != 0 {
            tracing::warn!(errno, "a memory registration could not be ended");
        }
    }
}

impl fmt::Debug for Mr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mr").field("lkey", &self.lkey()).finish_non_exhaustive()
    }
}

/// The registrations of one piece of memory: made when a device first needs it, kept until the memory goes. Whoever owns the memory keeps
/// this beside it and drops it first.
#[derive(Debug, Default)]
pub struct Registrations(OnceLock<Box<[OnceLock<Mr>; DEVICES_MAX]>>);

impl Registrations {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The registration on `device`, made by `register` if there is none.
    ///
    /// # Errors
    /// That of `register`.
    pub fn get_or_register(
        &self,
        device: &Device,
        register: impl FnOnce() -> Result<Mr, RdmaError>,
    ) -> Result<&Mr, RdmaError> {
        let slots = self.0.get_or_init(Box::default);
        let slot = slots.get(device.index()).ok_or(RdmaError::NoDevice)?;
        match slot.get() {
            Some(mr) => Ok(mr),
            // Where two threads register at once, one registration is dropped again.
            None => register().map(|mr| slot.get_or_init(|| mr)),
        }
    }
}

/// Memory that can be given to an [`Endpoint`](crate::Endpoint).
///
/// # Safety
/// While the value lives, moved or not: `address()` and `len()` do not change; registrations from both methods cover those bytes at
/// those addresses; the bytes stay mapped; if `is_writable`, nobody else reads or writes them, else nobody writes them (memory that is
/// only ever accessed atomically may be written meanwhile, and shows some mixture).
pub unsafe trait Memory: Send {
    /// Where the bytes are, as work requests name them; a device address for GPU memory.
    fn address(&self) -> u64;

    /// Bytes.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether devices may write them.
    fn is_writable(&self) -> bool;

    /// The lasting registration on `device`, which may cover more than these bytes; made when first asked for.
    ///
    /// # Errors
    /// Why it cannot be made.
    fn registration(&self, device: &Arc<Device>) -> Result<&Mr, RdmaError>;

    /// A new registration of exactly these bytes.
    ///
    /// # Errors
    /// Why it cannot be made.
    fn register_exactly(&self, device: &Arc<Device>, access: MrAccess) -> Result<Mr, RdmaError>;
}

/// Page-aligned memory on the heap, zero at first: for capsules.
pub struct HostMemory {
    registrations: Registrations,
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory, which has no tie to a thread.
unsafe impl Send for HostMemory {}
// SAFETY: shared access only ever reads.
unsafe impl Sync for HostMemory {}

const PAGE: usize = 4096;

impl HostMemory {
    /// `len` bytes, rounded up to whole pages, at least one. None where the system has no memory.
    #[must_use]
    pub fn new(len: usize) -> Option<Self> {
        let size = len.max(1).checked_next_multiple_of(PAGE)?;
        let layout = Layout::from_size_align(size, PAGE).ok()?;
        // SAFETY: the size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { registrations: Registrations::new(), start, layout })
    }

    /// The bytes.
    #[must_use]
    pub const fn as_slice(&self) -> &[u8] {
        // SAFETY: this value owns that many initialised bytes there.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    /// The bytes, to write.
    pub const fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` proves that there is no other access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }

    /// Where they are; reading and writing by it is the caller's to order.
    pub(crate) const fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

// SAFETY: the memory is owned, does not move with the value, and is registered whole.
unsafe impl Memory for HostMemory {
    fn address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    fn len(&self) -> usize {
        self.layout.size()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn registration(&self, device: &Arc<Device>) -> Result<&Mr, RdmaError> {
        self.registrations.get_or_register(device, || self.register_exactly(device, MrAccess::Windows))
    }

    fn register_exactly(&self, device: &Arc<Device>, access: MrAccess) -> Result<Mr, RdmaError> {
        // SAFETY: the memory lives until this value is dropped, which drops the registrations first; others are the caller's, who
        // keeps the value with them.
        unsafe { Mr::register(device, self.start.as_ptr(), self.layout.size(), access) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        self.registrations = Registrations::new();
        // SAFETY: allocated with this layout, and nothing refers to it any more.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMemory").field("len", &self.layout.size()).finish()
    }
}

//! Verbs devices, each with the protection domain of this process.

use std::{
    ffi::{CStr, c_int},
    fmt,
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rdma_mummy_sys as sys;

use crate::RdmaError;

/// Most devices that one process uses; a removed device that comes back counts again.
pub const DEVICES_MAX: usize = 16;

/// What a device can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceLimits {
    /// Memory registrations.
    pub max_mr: u32,
    /// Bytes of one registration.
    pub max_mr_size: u64,
    /// Queue pairs.
    pub max_qp: u32,
    /// Work requests of one queue of a queue pair.
    pub max_qp_wr: u32,
    /// Pieces of memory of one work request.
    pub max_sge: u32,
    /// Completion queues.
    pub max_cq: u32,
    /// Entries of one completion queue.
    pub max_cqe: u32,
    /// Shared receive queues.
    pub max_srq: u32,
    /// Memory windows.
    pub max_mw: u32,
    /// RDMA READs that one queue pair may have outstanding.
    pub max_reads: u8,
    /// RDMA READs of its peer that one queue pair serves at once.
    pub max_reads_served: u8,
    /// Memory windows of type 2B: a key for one command on one queue pair, made and invalidated without a system call.
    pub windows: bool,
    /// SEND with invalidate.
    pub remote_invalidate: bool,
}

/// A device that a connection goes through.
pub struct Device {
    index: usize,
    name: String,
    context: NonNull<sys::ibv_context>,
    pd: NonNull<sys::ibv_pd>,
    limits: DeviceLimits,
}

// SAFETY: verbs objects may be used from any thread (libibverbs is thread safe).
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// Every device that was used. They stay for the life of the process: registrations of memory point to them.
static DEVICES: Mutex<Vec<Arc<Device>>> = Mutex::new(Vec::new());

/// Whether libibverbs and librdmacm are on this machine.
pub(crate) fn is_library_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    let has = |name: &CStr| {
        // SAFETY: the name is a C string; loading these libraries runs no code but their constructors, as the bindings do at start.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        !handle.is_null()
    };
    *THERE.get_or_init(|| has(c"libibverbs.so.1") && has(c"librdmacm.so.1"))
}

/// Whether this machine can make RDMA connections: rdma-core, the kernel's connection manager, and a device.
///
/// # Errors
/// What is missing, and how to get it.
pub fn is_available() -> Result<(), RdmaError> {
    if !is_library_there() {
        return Err(RdmaError::NoLibrary);
    }
    crate::CmChannel::new()?;
    let mut count: c_int = 0;
    // SAFETY: writes the count and gives a list to be freed, or null.
    let list = unsafe { sys::ibv_get_device_list(&raw mut count) };
    if list.is_null() {
        return Err(RdmaError::last("ibv_get_device_list"));
    }
    // SAFETY: the list came from ibv_get_device_list and is not used any more.
    unsafe { sys::ibv_free_device_list(list) };
    if count > 0 { Ok(()) } else { Err(RdmaError::Call { call: "rdma_bind_addr", errno: libc::ENODEV }) }
}

impl Device {
    /// The device that the connection manager has opened as `context`.
    ///
    /// # Safety
    /// `context` is the `verbs` of a live `rdma_cm_id`.
    pub(crate) unsafe fn of(context: *mut sys::ibv_context) -> Result<Arc<Self>, RdmaError> {
        let context = NonNull::new(context).ok_or(RdmaError::NoDevice)?;
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = devices.iter().find(|d| d.context == context) {
            return Ok(Arc::clone(device));
        }
        if devices.len() >= DEVICES_MAX {
            let (value, limit) = (DEVICES_MAX as u64 + 1, DEVICES_MAX as u64);
            return Err(RdmaError::Limit { device: "(all)".into(), what: "the number of devices", value, limit });
        }
        keep_contexts_open();
        // SAFETY: the context is open and stays so (`keep_contexts_open`).
        let device = Arc::new(unsafe { Self::open(context, devices.len()) }?);
        tracing::debug!(device = device.name, limits = ?device.limits, "RDMA device opened");
        devices.push(Arc::clone(&device));
        Ok(device)
    }

    /// # Safety
    /// `context` is open and stays so.
    unsafe fn open(context: NonNull<sys::ibv_context>, index: usize) -> Result<Self, RdmaError> {
        // SAFETY: the context is open; a device has a name as long as its context.
        let name = unsafe {
            let name = sys::ibv_get_device_name((*context.as_ptr()).device);
            if name.is_null() { String::from("?") } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
        };
        let mut attr = MaybeUninit::<sys::ibv_device_attr>::zeroed();
        // SAFETY: the context is open, and `attr` is a place for the answer.
        let errno = unsafe { sys::ibv_query_device(context.as_ptr(), attr.as_mut_ptr()) };
        if errno != 0 {
            return Err(RdmaError::from_errno("ibv_query_device", errno));
        }
        // SAFETY: all fields are integers, for which zeros are valid, and the call has filled them.
        let attr = unsafe { attr.assume_init() };
        // SAFETY: the context is open.
        let pd = unsafe { sys::ibv_alloc_pd(context.as_ptr()) };
        let pd = NonNull::new(pd).ok_or_else(|| RdmaError::last("ibv_alloc_pd"))?;
        Ok(Self { index, name, context, pd, limits: DeviceLimits::new(&attr) })
    }

    /// Its name, such as `mlx5_0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it can do.
    #[must_use]
    pub const fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    /// A small number that no other device of this process has, less than [`DEVICES_MAX`].
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    pub(crate) const fn context(&self) -> *mut sys::ibv_context {
        self.context.as_ptr()
    }

    pub(crate) const fn pd(&self) -> *mut sys::ibv_pd {
        self.pd.as_ptr()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.name).finish_non_exhaustive()
    }
}

impl DeviceLimits {
    pub(crate) fn new(attr: &sys::ibv_device_attr) -> Self {
        let count = |n: c_int| u32::try_from(n).unwrap_or(0);
        let small = |n: c_int| u8::try_from(n.clamp(0, 255)).unwrap_or(0);
        let has = |flag: sys::ibv_device_cap_flags| attr.device_cap_flags & flag.0 != 0;
        Self {
            max_mr: count(attr.max_mr),
            max_mr_size: attr.max_mr_size,
            max_qp: count(attr.max_qp),
            max_qp_wr: count(attr.max_qp_wr),
            max_sge: count(attr.max_sge),
            max_cq: count(attr.max_cq),
            max_cqe: count(attr.max_cqe),
            max_srq: count(attr.max_srq),
            max_mw: count(attr.max_mw),
            max_reads: small(attr.max_qp_init_rd_atom),
            max_reads_served: small(attr.max_qp_rd_atom),
            windows: has(sys::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B) && attr.max_mw > 0,
            remote_invalidate: has(sys::ibv_device_cap_flags::IBV_DEVICE_MEM_MGT_EXTENSIONS)
                || has(sys::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B),
        }
    }
}

/// librdmacm closes the context of a removed device when its last user is gone, but memory may be registered through it longer. A list
/// of devices that is never given back counts as a user.
fn keep_contexts_open() {
    // SAFETY: the count may be left out, and the list is leaked on purpose.
    let _ = unsafe { sys::rdma_get_devices(ptr::null_mut()) };
}

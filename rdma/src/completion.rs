//! Completion queues: where finished work shows up.

use std::{
    cell::RefCell,
    fmt, mem,
    os::fd::{AsFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rdma_mummy_sys as sys;

use crate::{Device, RdmaError};

/// Completions taken with one call.
const BATCH: usize = 64;

/// A completion queue with an event descriptor, shared by the endpoints of one thread. Endpoints reserve as many entries as they have
/// work requests, so that it cannot overflow.
pub struct CompletionQueue {
    device: Arc<Device>,
    channel: NonNull<sys::ibv_comp_channel>,
    cq: NonNull<sys::ibv_cq>,
    entries: u32,
    reserved: AtomicU32,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue of at least `entries` on `device`.
    ///
    /// # Errors
    /// [`RdmaError::Limit`] if the device has no queues of that size, [`RdmaError::Call`] if it has none left.
    pub fn new(device: &Arc<Device>, entries: u32) -> Result<Arc<Self>, RdmaError> {
        let limit = device.limits().max_cqe;
        let Some(count) = i32::try_from(entries).ok().filter(|_| entries <= limit) else {
            let (what, value) = ("the number of entries of a completion queue", entries.into());
            return Err(RdmaError::Limit { device: device.name().into(), what, value, limit: limit.into() });
        };
        // SAFETY: the context is open for the life of the process.
        let channel = unsafe { sys::ibv_create_comp_channel(device.context()) };
        let channel = NonNull::new(channel).ok_or_else(|| RdmaError::last("ibv_create_comp_channel"))?;
        // SAFETY: the channel is live and its descriptor open.
        let nonblocking = unsafe { set_nonblocking(channel.as_ref().fd) };
        // SAFETY: context and channel are live.
        let cq = unsafe { sys::ibv_create_cq(device.context(), count, ptr::null_mut(), channel.as_ptr(), 0) };
        match (nonblocking, NonNull::new(cq)) {
            (Ok(()), Some(cq)) => {
                Ok(Arc::new(Self { device: Arc::clone(device), channel, cq, entries, reserved: AtomicU32::new(0) }))
            }
            (nonblocking, cq) => {
                let error = nonblocking.err().unwrap_or_else(|| RdmaError::last("ibv_create_cq"));
                if let Some(cq) = cq {
                    // SAFETY: just made, and nothing uses it.
                    unsafe { sys::ibv_destroy_cq(cq.as_ptr()) };
                }
                // SAFETY: no queue uses the channel any more.
                unsafe { sys::ibv_destroy_comp_channel(channel.as_ptr()) };
                Err(error)
            }
        }
    }

    /// The device that it belongs to.
    #[must_use]
    pub const fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Entries that no endpoint has reserved.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.entries.saturating_sub(self.reserved.load(Ordering::Relaxed))
    }

    /// Readable when the queue was armed and something has come since.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel's descriptor is open as long as the channel.
        unsafe { BorrowedFd::borrow_raw(self.channel.as_ref().fd) }
    }

    /// Has the descriptor become readable with the next completion. What came before may not be told: poll once more before sleeping.
    ///
    /// # Errors
    /// [`RdmaError::Call`].
    pub fn arm(&self) -> Result<(), RdmaError> {
        // SAFETY: the queue is live.
        match unsafe { sys::ibv_req_notify_cq(self.cq.as_ptr(), 0) } {
            0 => Ok(()),
            errno => Err(RdmaError::from_errno("ibv_req_notify_cq", errno)),
        }
    }

    /// Takes the events that made the descriptor readable; gives whether there were any. The queue is not armed then.
    pub fn clear(&self) -> bool {
        let (mut cq, mut context) = (ptr::null_mut(), ptr::null_mut());
        // Armed once, it tells once: there is no second event to look for.
        // SAFETY: the channel is live and does not block; both places take a pointer.
        let told = unsafe { sys::ibv_get_cq_event(self.channel.as_ptr(), &raw mut cq, &raw mut context) } == 0;
        if told {
            // SAFETY: the channel has this queue only, so the event was its.
            unsafe { sys::ibv_ack_cq_events(self.cq.as_ptr(), 1) };
        }
        told
    }

    /// Takes up to 64 completions; gives how many.
    pub fn poll(&self, into: &mut Vec<WorkCompletion>) -> usize {
        thread_local! {
            // Made once: what a poll that finds nothing costs is mostly clearing this. Providers leave fields out that have no
            // meaning, which then hold those of an earlier completion.
            // SAFETY: a work completion consists of integers, for which zeros are valid.
            static PLACES: RefCell<[sys::ibv_wc; BATCH]> = const { RefCell::new(unsafe { mem::zeroed() }) };
        }
        PLACES.with_borrow_mut(|places| {
            // SAFETY: the queue is live, and the array has as many places as are told.
            let count = unsafe { sys::ibv_poll_cq(self.cq.as_ptr(), BATCH as i32, places.as_mut_ptr()) };
            let count = usize::try_from(count).unwrap_or(0).min(BATCH);
            into.extend(places.iter().take(count).map(WorkCompletion::new));
            count
        })
    }

    /// Sets `entries` aside; false if there are not that many.
    pub(crate) fn reserve(&self, entries: u32) -> bool {
        let add = |now: u32| now.checked_add(entries).filter(|n| *n <= self.entries);
        self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    pub(crate) fn release(&self, entries: u32) {
        self.reserved.fetch_sub(entries, Ordering::Relaxed);
    }

    pub(crate) const fn raw(&self) -> *mut sys::ibv_cq {
        self.cq.as_ptr()
    }
}

impl AsFd for CompletionQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.clear();
        // SAFETY: no queue pair uses it: each holds a reference to this value. All its events are acknowledged.
        let errno = unsafe { sys::ibv_destroy_cq(self.cq.as_ptr()) };
        if errno != 0 {
            tracing::warn!(errno, "a completion queue could not be destroyed");
            return;
        }
        // SAFETY: the only queue of the channel is gone.
        unsafe { sys::ibv_destroy_comp_channel(self.channel.as_ptr()) };
    }
}

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reserved = self.reserved.load(Ordering::Relaxed);
        f.debug_struct("CompletionQueue")
            .field("entries", &self.entries)
            .field("reserved", &reserved)
            .finish_non_exhaustive()
    }
}

/// Makes the calls on `fd` return where they would wait.
///
/// # Safety
/// `fd` is open.
pub(crate) unsafe fn set_nonblocking(fd: i32) -> Result<(), RdmaError> {
    // SAFETY: the descriptor is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(RdmaError::last("fcntl"));
    }
    Ok(())
}

/// One finished work request, for its endpoint's `handle`.
#[derive(Debug)]
pub struct WorkCompletion {
    pub(crate) id: WrId,
    pub(crate) result: Result<(), WorkError>,
    /// Bytes received.
    pub(crate) len: u32,
    /// The key that the peer's SEND invalidated.
    pub(crate) invalidated: Option<Invalidated>,
}

/// A key that may have been invalidated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Invalidated {
    pub(crate) key: u32,
    /// The device says so clearly; otherwise it holds only for a key that there is.
    pub(crate) is_certain: bool,
}

impl WorkCompletion {
    fn new(wc: &sys::ibv_wc) -> Self {
        let result = match wc.status {
            sys::ibv_wc_status::IBV_WC_SUCCESS => Ok(()),
            status => Err(WorkError { status, vendor: wc.vendor_err }),
        };
        use sys::ibv_wc_flags as Flags;
        let flag = |flag: Flags| result.is_ok() && wc.wc_flags & flag.0 != 0;
        // Soft-RoCE passes the kernel's flag on, which user space knows as IP_CSUM_OK: that means nothing on a reliable connection.
        let (told, hinted) = (flag(Flags::IBV_WC_WITH_INV), flag(Flags::IBV_WC_IP_CSUM_OK));
        // SAFETY: both fields of the union are 32-bit integers.
        let key = unsafe { wc.imm_data_invalidated_rkey_union.invalidated_rkey };
        let invalidated = (told || hinted).then_some(Invalidated { key, is_certain: told });
        Self { id: WrId(wc.wr_id), result, len: wc.byte_len, invalidated }
    }

    /// The key of the endpoint whose work it was.
    #[must_use]
    pub const fn key(&self) -> u32 {
        self.id.key()
    }
}

/// What a work request is called: its endpoint's key (20 bits), a number that tells the endpoint from a later one with the same key
/// (20 bits), what it is (2 bits), and which (22 bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WrId(pub(crate) u64);

/// Kinds of work requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WrKind {
    /// One of several of an operation, and not the last.
    Part,
    /// The last or only one of its operation's current batch.
    Last,
    /// A receive.
    Receive,
}

impl WrId {
    /// Most different endpoint keys.
    pub(crate) const KEYS: u32 = 1 << 20;
    const INDEX_MASK: u64 = (1 << 22) - 1;

    pub(crate) const fn new(key: u32, unique: u32, kind: WrKind, index: u32) -> Self {
        let kind = match kind {
            WrKind::Part => 0,
            WrKind::Last => 1,
            WrKind::Receive => 2,
        };
        let owner = ((key % Self::KEYS) as u64) << 44 | ((unique % Self::KEYS) as u64) << 24;
        Self(owner | kind << 22 | (index as u64 & Self::INDEX_MASK))
    }

    pub(crate) const fn key(self) -> u32 {
        (self.0 >> 44) as u32
    }

    pub(crate) const fn unique(self) -> u32 {
        ((self.0 >> 24) as u32) % Self::KEYS
    }

    pub(crate) const fn kind(self) -> WrKind {
        match (self.0 >> 22) & 3 {
            0 => WrKind::Part,
            1 => WrKind::Last,
            _ => WrKind::Receive,
        }
    }

    pub(crate) const fn index(self) -> u32 {
        (self.0 & Self::INDEX_MASK) as u32
    }
}

/// Why a work request failed, as the device says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} (status {status}, vendor error {vendor:#x})", self.what())]
pub struct WorkError {
    /// Status of the work completion (`ibv_wc_status`).
    pub status: u32,
    /// The device's own code.
    pub vendor: u32,
}

impl WorkError {
    /// The queue pair was in error before the request was worked on.
    pub(crate) const FLUSHED: Self = Self { status: sys::ibv_wc_status::IBV_WC_WR_FLUSH_ERR, vendor: 0 };
    /// The request could not be posted.
    pub(crate) const NOT_POSTED: Self = Self { status: sys::ibv_wc_status::IBV_WC_GENERAL_ERR, vendor: 0 };

    /// Whether the request only shared the fate of an earlier one, or of the connection.
    #[must_use]
    pub const fn is_flush(&self) -> bool {
        self.status == sys::ibv_wc_status::IBV_WC_WR_FLUSH_ERR
    }

    const fn what(&self) -> &'static str {
        use sys::ibv_wc_status as S;
        match self.status {
            S::IBV_WC_LOC_LEN_ERR => "more was received than the buffer holds",
            S::IBV_WC_LOC_QP_OP_ERR => "local queue pair error",
            S::IBV_WC_LOC_PROT_ERR => "local memory is not registered for this",
            S::IBV_WC_WR_FLUSH_ERR => "flushed: the queue pair was in error before",
            S::IBV_WC_MW_BIND_ERR => "a memory window could not be bound",
            S::IBV_WC_LOC_ACCESS_ERR => "local memory may not be accessed like this",
            S::IBV_WC_REM_INV_REQ_ERR => "the peer found the request invalid",
            S::IBV_WC_REM_ACCESS_ERR => {
                "the peer's memory may not be accessed like this: wrong or dead key, or outside its bounds"
            }
            S::IBV_WC_REM_OP_ERR => "the peer could not carry the request out",
            S::IBV_WC_RETRY_EXC_ERR => "the peer does not answer",
            S::IBV_WC_RNR_RETRY_EXC_ERR => "the peer has no receive posted",
            S::IBV_WC_FATAL_ERR => "the device failed",
            _ => "the request failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_request_is_named_without_loss() {
        for kind in [WrKind::Part, WrKind::Last, WrKind::Receive] {
            for (key, unique, index) in [(0, 0, 0), (0xf_ffff, 1, 0x3f_ffff), (1, 0xf_ffff, 5)] {
                let id = WrId::new(key, unique, kind, index);
                assert_eq!((id.key(), id.unique(), id.kind(), id.index()), (key, unique, kind, index));
            }
        }
    }
}

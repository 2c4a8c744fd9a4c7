//! The target's memory for RDMA: devices read and write it in place.

use std::sync::Arc;

use kvof_rdma::{Device, HostMemory, Memory, Mr, MrAccess, RdmaError, Registrations};

use crate::{PoolBuf, RegionSlice, SharedBuf};

/// Memory that an [`Endpoint`](kvof_rdma::Endpoint) moves data from or to.
#[derive(Debug)]
pub enum RdmaBuf {
    /// To receive into, and then to store from.
    Pool(PoolBuf),
    /// To receive a little into.
    Heap(HeapBuf),
    /// To send from.
    Shared(SharedBuf),
    /// To send from; it shows what the region holds when the device reads it, of which others may be writing some.
    Region(RegionSlice),
}

/// A little memory that is in no pool: for the data of admin commands.
#[derive(Debug)]
pub struct HeapBuf {
    memory: HostMemory,
    len: usize,
}

impl HeapBuf {
    /// `len` zero bytes; none where the system has no memory.
    pub fn new(len: usize) -> Option<Self> {
        HostMemory::new(len).map(|memory| Self { memory, len })
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.memory.as_slice().get(..self.len).unwrap_or_default().to_vec()
    }
}

impl From<SharedBuf> for RdmaBuf {
    /// Static data has no keys, and is copied.
    fn from(buf: SharedBuf) -> Self {
        Self::Shared(if buf.memory().is_some() { buf } else { SharedBuf::from_vec(buf.to_vec()) })
    }
}

impl RdmaBuf {
    /// The memory that the bytes lie in.
    fn whole(&self) -> Option<(*mut u8, usize, &Registrations)> {
        match self {
            Self::Pool(buf) => buf.chunk(),
            Self::Heap(_) => None,
            Self::Shared(buf) => buf.memory(),
            Self::Region(slice) => Some(slice.memory()),
        }
    }

    const fn access(&self) -> MrAccess {
        match self {
            Self::Pool(_) | Self::Heap(_) => MrAccess::Local,
            Self::Shared(_) | Self::Region(_) => MrAccess::LocalRead,
        }
    }
}

// SAFETY: each kind owns its memory, or a share of it, wherever the value is moved, and keeps it mapped; a `PoolBuf` and a `HeapBuf` are
// the only way to their bytes, a `SharedBuf` is never written, and a region is only ever accessed as atomics. Registrations lie beside
// the memory and are given up before it.
unsafe impl Memory for RdmaBuf {
    fn address(&self) -> u64 {
        let start = match self {
            Self::Pool(buf) => buf.start().cast_const(),
            Self::Heap(buf) => return buf.memory.address(),
            Self::Shared(buf) => buf.start(),
            Self::Region(slice) => slice.start(),
        };
        start.addr() as u64
    }

    fn len(&self) -> usize {
        match self {
            Self::Pool(buf) => buf.len(),
            Self::Heap(buf) => buf.len,
            Self::Shared(buf) => buf.len(),
            Self::Region(slice) => slice.len(),
        }
    }

    fn is_writable(&self) -> bool {
        matches!(self, Self::Pool(_) | Self::Heap(_))
    }

    fn registration(&self, device: &Arc<Device>) -> Result<&Mr, RdmaError> {
        if let Self::Heap(buf) = self {
            return buf.memory.registration(device);
        }
        let (start, len, registrations) = self.whole().ok_or(RdmaError::NoDevice)?;
        // What is frozen now may be received into when it is a pool buffer again, and takes its keys along.
        let is_pool = matches!(self, Self::Pool(_)) || matches!(self, Self::Shared(buf) if buf.is_pool());
        let access = if is_pool { MrAccess::Local } else { self.access() };
        // SAFETY: the memory stays mapped until its registrations are dropped; the device only does what the endpoint asks of it.
        registrations.get_or_register(device, || unsafe { Mr::register(device, start, len, access) })
    }

    fn register_exactly(&self, device: &Arc<Device>, access: MrAccess) -> Result<Mr, RdmaError> {
        // SAFETY: the memory is mapped; the caller keeps this value for as long as the registration, as the trait demands.
        unsafe { Mr::register(device, self.address() as *mut u8, self.len(), access) }
    }
}

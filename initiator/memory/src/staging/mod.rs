//! The way of values between device memory and the network where a CPU has to carry them: through a few pinned pieces
//! of host memory. While one piece is on the wire the next is being copied.
//!
//! [`Stager`] has the logic: which bytes are copied when, and in which piece; it is one connection's, knows no clock and no
//! socket, and never waits. [`DeviceCopy`] is what a device has to offer: it takes a [`Job`] and gives it back when the
//! copy is over, in any order.

use std::{fmt, os::fd::BorrowedFd, sync::Arc};

use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, OwnedFd},
};

use crate::{CopyError, MemoryKind, device::DeviceMemory};

mod incoming;
mod outgoing;
mod piece;
mod pool;
mod stager;
#[cfg(test)]
mod tests;

pub use outgoing::Ready;
pub use piece::Piece;
pub use pool::POOL_MAX;
pub use stager::{Stager, StagingLimits, TransferId};

/// A range of device memory. It keeps the memory from being freed, and nothing else: whoever copies from or to it is to
/// own the [`Buffer`](crate::Buffer) meanwhile.
#[derive(Clone)]
pub struct DeviceRange {
    memory: Arc<dyn DeviceMemory>,
    start: usize,
    len: usize,
}

impl DeviceRange {
    pub(crate) fn new(memory: Arc<dyn DeviceMemory>, start: usize, len: usize) -> Self {
        Self { memory, start, len }
    }

    /// The kind of memory, which names the device.
    #[must_use]
    pub fn kind(&self) -> MemoryKind {
        self.memory.kind()
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes of it from `offset` on, if it has them.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| Self { memory: Arc::clone(&self.memory), start: self.start + offset, len })
    }

    /// Where it starts, in the device's addresses.
    pub(crate) fn address(&self) -> u64 {
        self.memory.address() + self.start as u64
    }

    /// Copies the range to the host, and waits.
    #[cfg(any(test, feature = "simulated"))]
    pub(crate) fn read(&self, into: &mut [u8]) -> Result<(), CopyError> {
        self.memory.read(self.start, into)
    }

    /// Copies to the range, and waits.
    #[cfg(any(test, feature = "simulated"))]
    pub(crate) fn write(&self, from: &[u8]) -> Result<(), CopyError> {
        self.memory.write(self.start, from)
    }

    pub(crate) fn copier(&self, bell: Arc<CopyBell>) -> Result<Box<dyn DeviceCopy>, CopyError> {
        self.memory.copier(bell)
    }
}

impl fmt::Debug for DeviceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceRange({} bytes, {})", self.len, self.kind())
    }
}

/// Which way a copy goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From device memory to host memory: a value that is stored.
    ToHost,
    /// From host memory to device memory: a value that is retrieved.
    ToDevice,
}

/// One copy, between all of a range and the first bytes of a piece, which has at least as many.
#[derive(Debug)]
pub struct Job {
    /// The starter's name for it.
    pub token: u64,
    /// Which way it goes.
    pub direction: Direction,
    /// The device's bytes.
    pub range: DeviceRange,
    /// The host's bytes. They come back with the job: nobody can touch them while the device does.
    pub piece: Piece,
}

/// Copies between the memory of one device and the host's, without waiting.
///
/// Copies may end in any order, and late. Dropping it waits for those that run.
pub trait DeviceCopy: Send {
    /// Host memory of `len` bytes that this device copies from and to without help of the CPU.
    ///
    /// # Errors
    /// The device's.
    fn piece(&mut self, len: usize) -> Result<Piece, CopyError>;

    /// Starts a copy. One that cannot be started comes from [`Self::poll`] with its error.
    fn start(&mut self, job: Job);

    /// Takes the copies that are over.
    fn poll(&mut self, done: &mut Vec<(Job, Result<(), CopyError>)>);
}

/// Tells a sleeping thread that a copy is over.
#[derive(Debug)]
pub struct CopyBell(OwnedFd);

impl CopyBell {
    /// A bell that was not rung.
    ///
    /// # Errors
    /// [`CopyError::Device`] if the process has no descriptor left.
    pub fn new() -> Result<Self, CopyError> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Self)
            .map_err(|e| CopyError::Device(format!("cannot make an eventfd: {e}").into()))
    }

    /// Readable from [`Self::ring`] until [`Self::silence`].
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A copy may be over.
    pub fn ring(&self) {
        // It fails only when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Forgets that it was rung.
    pub fn silence(&self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

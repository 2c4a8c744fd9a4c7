//! Host memory for values of device memory that an RDMA device cannot reach: pinned, and registered once.
//!
//! RDMA has no use for pieces: the whole value is exposed at once. So this memory comes in whole values, from regions
//! that are kept, with their registrations, for the next one.

use std::sync::{Mutex, PoisonError};

use super::{DeviceRange, Piece};
use crate::{Buffer, CopyError, MemoryRegion};

/// Most bytes that the pool of a process keeps. Beyond it staging takes ordinary memory, which is slower to copy and
/// registered each time.
pub const POOL_MAX: usize = 256 << 20;
/// Size of the smallest region, bytes; the others are larger by powers of two.
const REGION_MIN: usize = 256 << 10;

/// Regions, each for one buffer at a time.
struct Pool {
    regions: Vec<MemoryRegion>,
    total: usize,
    max: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { regions: Vec::new(), total: 0, max: POOL_MAX });

impl DeviceRange {
    /// A copy in host memory, to store from where RDMA does not reach the device: pinned and registered already if there
    /// is room in the pool ([`POOL_MAX`]), else ordinary. Waits for the copy.
    ///
    /// # Errors
    /// The device's.
    pub fn staged_copy(&self) -> Result<Buffer, CopyError> {
        let mut buffer = self.host_buffer();
        if let Some(bytes) = buffer.host_mut() {
            self.memory.read(self.start, bytes)?;
        }
        Ok(buffer)
    }

    /// Host memory of the same length, all zero, to retrieve into where RDMA does not reach the device; as that of
    /// [`Self::staged_copy`].
    #[must_use]
    pub fn staging_buffer(&self) -> Buffer {
        let mut buffer = self.host_buffer();
        // It may hold another value, of which a controller that writes too little must not make this one.
        if let Some(bytes) = buffer.host_mut() {
            bytes.fill(0);
        }
        buffer
    }

    /// Host memory of the same length, with anything in it.
    fn host_buffer(&self) -> Buffer {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = pool.take(self.len, |size| self.memory.pinned(size));
        drop(pool);
        pooled.unwrap_or_else(|| Buffer::new(self.len))
    }
}

impl Pool {
    /// A buffer of `len` bytes from a region that nobody uses, or from a new one.
    fn take(&mut self, len: usize, pinned: impl FnOnce(usize) -> Result<Piece, CopyError>) -> Option<Buffer> {
        let size = len.checked_next_power_of_two()?.max(REGION_MIN);
        let free = self.regions.iter().filter(|r| r.len() >= size && r.buffers_out() == 0).min_by_key(|r| r.len());
        if let Some(region) = free {
            return region.buffer(0, len).ok();
        }
        if len == 0 || size > self.max.saturating_sub(self.total) {
            return None;
        }
        let piece =
            pinned(size).inspect_err(|error| tracing::debug!(%error, size, "no pinned memory for staging")).ok()?;
        let (start, size) = (piece.start(), piece.len());
        // SAFETY: the bytes are the piece's, which goes along and gives them to nobody else.
        let region = unsafe { MemoryRegion::from_raw_parts(start.as_ptr(), size, piece) }.ok()?;
        let buffer = region.buffer(0, len).ok()?;
        self.total += size;
        self.regions.push(region);
        Some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_bounded() {
        let mut pool = Pool { regions: Vec::new(), total: 0, max: 2 << 20 };
        let mut take = |len| pool.take(len, |size| Ok(Piece::heap(size)));
        let first = take(1 << 20).unwrap();
        let second = take((256 << 10) + 1).unwrap();
        assert_ne!(first.as_ptr(), second.as_ptr());
        let at = first.as_ptr();
        drop(first);
        // The same memory, for a shorter value as well.
        let again = take(1000).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (at, 1000));
        // 1 MiB and 512 KiB are taken: there is room for 512 KiB, and not for 1 MiB.
        assert!(take(600 << 10).is_none());
        let last = take(500 << 10).unwrap();
        assert!(take(1).is_none());
        drop((again, last));
        assert!(take(1).is_some() && take(usize::MAX).is_none());
        assert_eq!(pool.total, 2 << 20);
        assert!(pool.take(2 << 20, |_| Err(CopyError::Device("none".into()))).is_none());
    }

    #[test]
    fn a_staged_copy_is_the_value_and_a_staging_buffer_is_nothing() {
        let device = crate::simulated::SimulatedDevice::new();
        for len in [0, 1, 1000, 300 << 10] {
            let mut value = device.region(len).buffer(0, len).unwrap();
            value.copy_from_host(0, &vec![7; len]).unwrap();
            let range = value.device_range().unwrap();
            for _ in 0..3 {
                assert_eq!(&range.staged_copy().unwrap()[..], &vec![7; len]);
                assert_eq!(&range.staging_buffer()[..], &vec![0; len]);
            }
        }
    }
}

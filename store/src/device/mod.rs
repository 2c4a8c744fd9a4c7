//! What a volume asks of its devices, and what they answer. A device is named by its member number in the pool.
//!
//! At run time a volume hands out [`DeviceRequest`]s and takes [`DeviceDone`]s, in any order. Start-up, clean stop and the
//! offline tools use a device directly through [`BlockIo`].

pub mod driver;
pub mod memory;
pub mod sim;
pub mod standalone;

use std::{io, time::Duration};

use kvof_io::{PoolPart, SharedBuf};

/// Something to do on a device. Offsets and lengths are multiples of 4096 bytes.
#[derive(Debug)]
pub struct DeviceRequest {
    /// Names the request in its answer.
    pub token: u64,
    /// The device: its member number.
    pub member: u16,
    /// What to do.
    pub op: DeviceOp,
}

/// The operations on a device.
#[derive(Debug)]
pub enum DeviceOp {
    /// Fill `buf` from `offset`.
    Read {
        /// First byte on the device.
        offset: u64,
        /// Where the bytes go.
        buf: PoolPart,
    },
    /// Write the pieces, one behind the other, from `offset`. Each piece is a whole number of pages and page-aligned in
    /// memory.
    Write {
        /// First byte on the device.
        offset: u64,
        /// The bytes.
        bufs: Vec<SharedBuf>,
    },
    /// Make what was answered so far survive a loss of power.
    Flush,
}

/// What became of a [`DeviceRequest`].
#[derive(Debug)]
pub enum DeviceDone {
    /// Of a read. The buffer comes back, whatever happened; fewer bytes than it has are an error ([`io::ErrorKind::UnexpectedEof`]).
    Read {
        /// The buffer.
        buf: PoolPart,
        /// The outcome.
        result: io::Result<()>,
    },
    /// Of a write. After an error any part may have been written.
    Write(io::Result<()>),
    /// Of a flush.
    Flush(io::Result<()>),
}

/// Blocking access to the devices of a pool, for start-up, clean stop and tools.
pub trait BlockIo {
    /// Number of members; some may be absent.
    fn members(&self) -> u16;

    /// Whether there is a device at this place.
    fn is_present(&self, member: u16) -> bool;

    /// Fills `buf` from `offset`; both multiples of 4096 bytes.
    ///
    /// # Errors
    /// The device's; also when it is absent or ends before.
    fn read(&mut self, member: u16, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `offset`; both multiples of 4096 bytes.
    ///
    /// # Errors
    /// The device's; also when it is absent.
    fn write(&mut self, member: u16, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written survive a loss of power.
    ///
    /// # Errors
    /// The device's; also when it is absent.
    fn flush(&mut self, member: u16) -> io::Result<()>;
}

/// Devices that are asked and answer later, for one or several volumes.
pub trait Devices {
    /// Takes a request of the volume of `shard`.
    fn start(&mut self, shard: u16, request: DeviceRequest);

    /// An answer: shard, token and outcome. `None` if there is none, after waiting at most about `wait` for one (where
    /// waiting makes sense).
    ///
    /// # Errors
    /// The means of asking itself failed, not a device.
    fn finish(&mut self, wait: Duration) -> io::Result<Option<(u16, u64, DeviceDone)>>;

    /// Time since some fixed moment.
    fn now(&self) -> Duration;

    /// The same devices with blocking calls; nothing may be in flight.
    fn block_io(&mut self) -> &mut dyn BlockIo;
}

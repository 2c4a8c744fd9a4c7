//! NVMe/RDMA, sans-IO: [`Connection`] takes capsules and the ends of transfers, and gives transfers and answers to make.
//!
//! A capsule is one message: a queue entry, and what the host put behind it. All other data moves by RDMA between the
//! host's memory, which the command's SGL names, and the memory that keeps it here: [`Action::Fetch`] lends a landing of
//! the queue to the device, [`Action::Respond`] lends what was read. What is lent comes back with
//! [`Connection::handle_fetched`] and [`Connection::handle_sent`], whatever becomes of the queue pair.
//!
//! The host's memory is touched only where its SGL says, never beyond the bytes that the command moves, and never after
//! its completion: a completion follows the data that it is about, and a command that waits for data has none before it.

mod connection;
mod request;
mod sgl;

use std::time::Duration;

pub use kvof_rdma::RemoteSegment;
use kvof_spec::{Cqe, sqe::SQE_SIZE};

pub use self::{
    connection::Connection,
    request::{Request, RequestLimits, check_request},
    sgl::Segments,
};
use crate::{namespace::DataOut, queue::Landing};

/// Bytes of data that a capsule of an admin queue may have: those of Connect, which is also more descriptors than
/// anybody needs for [`ADMIN_DATA_MAX`](crate::queue::ADMIN_DATA_MAX).
pub const ADMIN_IN_CAPSULE: u32 = 1024;

/// How long a host may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaTimers {
    /// From the connection's being established to Connect.
    pub connect: Duration,
    /// For any outstanding fetch to end, above what the longest of them needs at 1 MiB a second.
    pub fetch: Duration,
    /// For any answer under way to be taken, above what the longest of them needs at 1 MiB a second.
    pub send: Duration,
}

impl Default for RdmaTimers {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), fetch: Duration::from_secs(30), send: Duration::from_secs(30) }
    }
}

/// What a controller offers and tolerates on NVMe/RDMA connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaSettings {
    /// Most bytes of data in the capsules of an I/O queue (IOCCSZ says the same in 16-byte units, plus 64).
    pub in_capsule: u32,
    /// MSDBD: most keyed data block descriptors of a command, at least 1.
    pub segments_max: usize,
    /// Timeouts.
    pub timers: RdmaTimers,
}

impl Default for RdmaSettings {
    fn default() -> Self {
        Self { in_capsule: 8192, segments_max: 16, timers: RdmaTimers::default() }
    }
}

impl RdmaSettings {
    /// Most bytes of a capsule of queue `qid`: the size that its receive buffers need.
    #[must_use]
    pub const fn capsule_max(&self, qid: u16) -> usize {
        SQE_SIZE + if qid == 0 { ADMIN_IN_CAPSULE } else { self.in_capsule } as usize
    }
}

/// What the driver of a connection does next.
#[derive(Debug)]
pub enum Action {
    /// Read the host's memory, by RDMA READ, into the first bytes of `landing`: as many as `segments` have, in their order.
    /// Then, also if it failed, [`Connection::handle_fetched`].
    Fetch {
        /// Names the fetch until it is reported.
        token: u64,
        /// At least as many bytes as `segments`.
        landing: Landing,
        /// The host's memory; not empty, and no segment is.
        segments: Segments,
    },
    /// Write `data`, by RDMA WRITE, then send the response capsule. Then, also if it failed, [`Connection::handle_sent`].
    Respond {
        /// Names the response until it is reported.
        token: u64,
        /// Data for the host, and exactly as many bytes of its memory; no segment is empty.
        data: Option<(DataOut, Segments)>,
        /// The response capsule.
        cqe: Cqe,
        /// The key that the host wants invalidated with the response.
        invalidate: Option<u32>,
    },
}

#[cfg(test)]
mod tests;

//! The control plane: subsystems, controllers, admin and fabrics commands, discovery, keep alive.
//!
//! Sans-IO: time and events come in as arguments, replies and wake-ups go out. The state is shared by all cores behind
//! mutexes, which the data path never takes: an I/O queue holds a [`IoQueue`] handle that it reads through atomics.

mod admin;
mod connect;
mod controller;
mod definition;
mod discovery;
mod error_log;
mod events;
mod features;
mod identify;
mod io_counters;
mod io_queue;
mod keep_alive;
mod log_page;
mod pool_page;
mod properties;
mod registry;
mod reload;
mod subsystem;
mod target;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kvof_spec::Status;

pub use self::{
    admin::AdminQueue,
    controller::CloseReason,
    definition::DefError,
    io_queue::IoQueue,
    reload::{Changes, ReloadPlan},
    target::{RdmaLimits, Summary, Target, TargetLimits},
};
pub use crate::model::TransportKind;

/// Called, from any thread, when a queue must look at its controller again: an event is ready, or the association ended.
pub type QueueWaker = Arc<dyn Fn() + Send + Sync>;

/// What a transport knows of the connection on which a Connect command arrived.
#[derive(Clone)]
pub struct QueueTransport {
    /// Kind of transport.
    pub kind: TransportKind,
    /// Port that accepted the connection.
    pub portid: u16,
    /// The address that the host reached, for the discovery log.
    pub local: std::net::SocketAddr,
    /// The host's address, for logs.
    pub peer: std::net::SocketAddr,
    /// Wakes this queue.
    pub wake: QueueWaker,
}

impl std::fmt::Debug for QueueTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueTransport")
            .field("kind", &self.kind)
            .field("portid", &self.portid)
            .field("local", &self.local)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Answer to an admin, Fabrics or Connect command.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// Status.
    pub status: Status,
    /// Completion dwords 0 and 1.
    pub result: u64,
    /// Data for the host; empty for none. Never longer than the host's buffer.
    pub data: Vec<u8>,
}

impl Reply {
    /// `status`, without result and data.
    #[must_use]
    pub const fn status(status: Status) -> Self {
        Self { status, result: 0, data: Vec::new() }
    }

    /// Success with dword 0 as the result.
    fn result(dword: u32) -> Self {
        Self::result64(dword.into())
    }

    /// Success with dwords 0 and 1 as the result.
    const fn result64(result: u64) -> Self {
        Self { status: Status::SUCCESS, result, data: Vec::new() }
    }

    /// Success with data for the host.
    const fn data(data: Vec<u8>) -> Self {
        Self { status: Status::SUCCESS, result: 0, data }
    }
}

/// What becomes of an admin command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminOutcome {
    /// Complete it now.
    Complete(Reply),
    /// It stays outstanding (Asynchronous Event Request) until `poll_completion` names it.
    Held,
}

/// A queue that a Connect command made.
#[derive(Debug)]
pub struct Connected {
    /// Its handle.
    pub queue: ConnectedQueue,
    /// Answer to the Connect command; dword 0 is the controller identifier.
    pub reply: Reply,
    /// Entries, 1's based, at least 2.
    pub sqsize: u16,
    /// Whether completions tell the submission queue head; false if the host disabled SQ flow control.
    pub flow_control: bool,
}

/// Kind of a connected queue.
#[derive(Debug)]
pub enum ConnectedQueue {
    /// QID 0: with it, a controller was made.
    Admin(AdminQueue),
    /// Any other QID.
    Io(IoQueue),
}

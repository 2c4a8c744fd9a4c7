//! Transports: what turns bytes or messages of a network into capsules, and completions back.

pub mod rdma;
pub mod tcp;

use kvof_spec::{sqe::SQE_SIZE, tcp::Fatal};

use crate::{control, queue::QueueViolation};

/// Why a connection ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// The host closed the connection.
    #[error("closed by the host")]
    Host,
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(std::io::ErrorKind),
    /// The host broke the protocol; over NVMe/TCP it has been told why.
    #[error("protocol error by the host: {0}")]
    Fatal(Fatal),
    /// The host found us breaking the protocol.
    #[error("terminated by the host: {0}")]
    HostTerm(Fatal),
    /// The host sent a message that is no capsule of this queue.
    #[error("protocol error by the host: a capsule of {len} bytes, where {min} to {max} are allowed", min = SQE_SIZE)]
    Capsule {
        /// Bytes of the message.
        len: usize,
        /// Most bytes of a capsule on this queue.
        max: usize,
    },
    /// The host broke the rules of the queue.
    #[error("protocol error by the host: {0}")]
    Queue(QueueViolation),
    /// An operation of the queue pair failed, or the queue pair did.
    #[error("RDMA: {0}")]
    Rdma(String),
    /// The RDMA device is going away.
    #[error("the RDMA device was removed")]
    DeviceRemoved,
    /// The controller demands it.
    #[error("{0}")]
    Controller(control::CloseReason),
    /// The host took too long.
    #[error("timed out: {0}")]
    Timeout(&'static str),
    /// The target is stopping.
    #[error("the target is stopping")]
    Stopped,
}

impl CloseReason {
    /// Whether an operator should hear of it: everything but an orderly end.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::Host | Self::Stopped | Self::Controller(_))
    }
}

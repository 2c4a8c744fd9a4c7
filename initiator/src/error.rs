//! What can go wrong, in one enumeration that clones cheaply, because one lost connection fails many operations.

use std::{io, sync::Arc, time::Duration};

use kvof_spec::Status;
use kvof_spec::rdma::CmStatus;
use kvof_spec::tcp::{Fatal, FatalErrorStatus};

use crate::Address;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why an operation, a connection or a discovery failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no address, or names no host.
    #[error("address {address:?}: {reason}; write host:port, [ipv6]:port, or either after tcp://, rdma:// or auto://")]
    Address {
        /// The text as it was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An argument that no controller or not this controller accepts; nothing was sent.
    #[error("{what} is {value}: {rule}")]
    Argument {
        /// Name of the argument.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        rule: String,
    },
    /// The controller completed the command with an error status.
    #[error("{command}: {status}")]
    Status {
        /// Name of the command.
        command: &'static str,
        /// The status of its completion.
        status: Status,
        /// Dwords 0 and 1 of its completion.
        result: u64,
    },
    /// The controller does not let this host connect.
    #[error("{address} refuses host {hostnqn}: {status}{}", parameter_text(*parameter))]
    Refused {
        /// Subsystem and address.
        address: Arc<str>,
        /// The name that this host gave.
        hostnqn: String,
        /// The field of Connect that is invalid, if the controller named one.
        parameter: Option<&'static str>,
        /// The status of Connect.
        status: Status,
    },
    /// The controller does not have what the host needs.
    #[error("{address} does not support {what}")]
    Unsupported {
        /// The controller's address and NQN.
        address: String,
        /// What is missing.
        what: String,
    },
    /// Discovery knows no way to the subsystem.
    #[error("discovery at {address} tells of no way to {subnqn} over RDMA or TCP that this host may use{}", digests_text(*.digests))]
    NotOffered {
        /// The discovery service.
        address: Address,
        /// The subsystem.
        subnqn: String,
        /// RDMA was left out, as digests are required, which only TCP has.
        digests: bool,
    },
    /// The controller answered with data that contradict themselves or the specification.
    #[error("{command}: the controller's answer is invalid: {reason}")]
    InvalidAnswer {
        /// Name of the command.
        command: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// No answer in time. The command may or may not have been executed.
    #[error("{command}: no answer within {after:?}")]
    Timeout {
        /// Name of the command.
        command: &'static str,
        /// The time limit.
        after: Duration,
    },
    /// The connection could not be made.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// Address of the controller.
        address: Arc<str>,
        /// Why.
        cause: ConnectionError,
    },
    /// The connection ended before the answer came. The command may or may not have been executed.
    #[error("connection to {address} lost: {cause}")]
    ConnectionLost {
        /// Address of the controller.
        address: Arc<str>,
        /// Why.
        cause: ConnectionError,
    },
    /// Reconnecting was given up after the time that the policy allows. Permanent.
    #[error("gave up reconnecting after {attempts} attempts in {after:?}; the last one: {last}")]
    GaveUp {
        /// Attempts that were made.
        attempts: u32,
        /// Time since the connection was lost.
        after: Duration,
        /// Why the last attempt failed.
        last: Box<Self>,
    },
    /// The command's buffer cannot be moved: the RDMA device cannot reach it, or the GPU cannot copy it. Nothing was sent
    /// if it could not be exposed.
    #[error("{command}: its buffer of {len} bytes cannot be moved: {reason}")]
    Memory {
        /// Name of the command.
        command: &'static str,
        /// Bytes.
        len: u32,
        /// What the device, or the one that the memory is on, says.
        reason: Arc<str>,
    },
    /// The controller handle was closed by [`disconnect`](crate::Controller::disconnect) or dropped.
    #[error("the controller was disconnected by this host")]
    Closed,
    /// The operating system refused something that this library needs.
    #[error("{what}: {source}")]
    System {
        /// What was refused.
        what: &'static str,
        /// The system's error.
        source: Arc<io::Error>,
    },
}

/// Why a connection could not be made, or ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// A socket call failed.
    #[error("{what}: {source}")]
    Io {
        /// Which call.
        what: &'static str,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The name of the host has no address.
    #[error("{0}")]
    Resolve(Arc<str>),
    /// The controller closed the connection.
    #[error("closed by the controller")]
    ClosedByController,
    /// The controller ended the connection with a C2HTermReq.
    #[error("terminated by the controller: {fes} (FES {:02X}h, FEI {fei:#x})", fes.0)]
    Terminated {
        /// Fatal Error Status.
        fes: FatalErrorStatus,
        /// Fatal Error Information.
        fei: u32,
    },
    /// The controller broke the transport protocol; it was told so with an H2CTermReq.
    #[error("the controller broke NVMe/TCP: {what}: {fatal}")]
    Protocol {
        /// What was wrong, with the values.
        what: Arc<str>,
        /// What the H2CTermReq says.
        fatal: Fatal,
    },
    /// The controller broke NVMe/RDMA; the connection was closed, which is all that can be said there.
    #[error("the controller broke NVMe/RDMA: {0}")]
    Misbehaviour(Arc<str>),
    /// Something with RDMA failed on this machine.
    #[error("{0}")]
    Rdma(Arc<str>),
    /// The controller rejects the RDMA connection.
    #[error("the controller rejects the RDMA connection: {0}{way_out}", way_out = rejected_way_out(*.0))]
    Rejected(CmStatus),
    /// No RDMA connection to the address can be made.
    #[error("no RDMA connection: {what}")]
    Unreachable {
        /// Which step failed and why.
        what: Arc<str>,
    },
    /// The controller accepted the RDMA connection with terms that cannot work.
    #[error("the controller accepts the RDMA connection with {0}")]
    Terms(Arc<str>),
    /// The device could not do what the connection needs, or the peer did not let it.
    #[error("RDMA work failed: {0}")]
    Work(Arc<str>),
    /// The RDMA device of the connection was removed.
    #[error("its RDMA device was removed")]
    DeviceRemoved,
    /// Device memory could not be read while the controller waited for it.
    #[error("the data of {command} could not be read: {reason}")]
    Memory {
        /// Name of the command.
        command: &'static str,
        /// What the device says.
        reason: Arc<str>,
    },
    /// The negotiated parameters cannot work.
    #[error("ICResp is not acceptable: {0}")]
    Negotiation(Arc<str>),
    /// A caller's buffer panicked while the queue's thread used it.
    #[error("the buffer of a command panicked")]
    BufferPanicked,
    /// A command was not answered for so long that its buffer had to be taken back with the connection.
    #[error("{command} was not answered within {after:?}")]
    CommandTimeout {
        /// Name of the command.
        command: &'static str,
        /// Time that it was given.
        after: Duration,
    },
    /// The connection was not made within the connect timeout.
    #[error("not established within {0:?}")]
    ConnectTimeout(Duration),
    /// The caller's buffer has become shorter while the command had it.
    #[error("the buffer of {command} changed its length while the command had it")]
    Buffer {
        /// Name of the command.
        command: &'static str,
    },
    /// Another connection of the same controller ended, and the association with it.
    #[error("queue {qid} of the same controller failed: {cause}")]
    Association {
        /// The queue whose connection ended first.
        qid: u16,
        /// Why it ended.
        cause: Arc<Self>,
    },
    /// The controller reported a fatal status (CSTS.CFS).
    #[error("the controller reports a fatal status (CSTS {0:#x})")]
    ControllerFatal(u32),
    /// Keep Alive failed.
    #[error("keep alive failed: {0}")]
    KeepAlive(Arc<str>),
    /// This host closed the connection.
    #[error("closed by this host")]
    ClosedByHost,
}

impl Error {
    /// The NVMe status, if the controller answered with one.
    #[must_use]
    pub const fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } | Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same operation may well succeed if it is repeated (after a pause, and if repeating it is harmless:
    /// all KV commands but conditional stores are idempotent).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::ConnectionLost { .. } => true,
            Self::Connect { cause, .. } => !matches!(cause, ConnectionError::Negotiation(_)),
            Self::Status { status, .. } | Self::Refused { status, .. } => {
                !status.dnr()
                    && [
                        Status::TRANSIENT_TRANSPORT_ERROR,
                        Status::COMMAND_INTERRUPTED,
                        Status::NAMESPACE_NOT_READY,
                        Status::ABORT_REQUESTED,
                        Status::ABORTED_SQ_DELETION,
                        Status::CONNECT_CONTROLLER_BUSY,
                        Status::INTERNAL_PATH_ERROR,
                        Status::CONTROLLER_PATHING_ERROR,
                        Status::HOST_PATHING_ERROR,
                    ]
                    .contains(&status.code())
            }
            _ => false,
        }
    }

    /// Whether the command may have been executed although this error is its answer.
    #[must_use]
    pub const fn may_have_executed(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::ConnectionLost { .. })
    }

    /// Whether the controller says that the key does not exist.
    #[must_use]
    pub fn is_key_missing(&self) -> bool {
        self.status().is_some_and(|s| s.code() == Status::KEY_DOES_NOT_EXIST)
    }

    /// Whether the controller says that the key exists already (conditional Store).
    #[must_use]
    pub fn is_key_exists(&self) -> bool {
        self.status().is_some_and(|s| s.code() == Status::KEY_EXISTS)
    }

    pub(crate) fn argument(what: &'static str, value: impl std::fmt::Display, rule: impl Into<String>) -> Self {
        Self::Argument { what, value: value.to_string(), rule: rule.into() }
    }

    pub(crate) fn invalid_answer(command: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidAnswer { command, reason: reason.into() }
    }

    pub(crate) fn system(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::System { what, source: Arc::new(source.into()) }
    }
}

/// The end of the text of [`Error::Refused`].
fn parameter_text(parameter: Option<&'static str>) -> String {
    parameter.map_or_else(String::new, |name| format!("; invalid is {name}"))
}

/// The end of the text of [`Error::NotOffered`].
const fn digests_text(digests: bool) -> &'static str {
    if digests { " (RDMA is left out: it has no digests, which are required)" } else { "" }
}

/// What to do about a rejection, as far as one can tell.
const fn rejected_way_out(status: CmStatus) -> &'static str {
    match status {
        CmStatus::NO_RESOURCES => "; fewer queues (io_queues) or a smaller queue_depth may fit, or try later",
        CmStatus::INVALID_HSQSIZE | CmStatus::INVALID_HRQSIZE => "; a smaller queue_depth may fit",
        CmStatus::INVALID_QID => "; fewer queues (io_queues) may fit",
        _ => "",
    }
}

impl ConnectionError {
    pub(crate) fn io(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io { what, source: Arc::new(source.into()) }
    }

    pub(crate) fn protocol(fatal: Fatal, what: impl Into<Arc<str>>) -> Self {
        Self::Protocol { what: what.into(), fatal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_advice_follows_the_status() {
        let status = |s: Status| Error::Status { command: "Store", status: s, result: 0 };
        assert!(status(Status::TRANSIENT_TRANSPORT_ERROR).is_retryable());
        assert!(!status(Status::TRANSIENT_TRANSPORT_ERROR.with_dnr()).is_retryable());
        assert!(!status(Status::CAPACITY_EXCEEDED).is_retryable());
        assert!(status(Status::KEY_EXISTS.with_dnr()).is_key_exists());
        assert!(!Error::Closed.is_retryable());
        let lost = Error::ConnectionLost { address: "a".into(), cause: ConnectionError::ClosedByController };
        assert!(lost.is_retryable() && lost.may_have_executed());
    }
}

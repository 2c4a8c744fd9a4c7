//! Why something with RDMA failed.

use std::io;

/// An error of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RdmaError {
    /// rdma-core is not installed.
    #[error(
        "rdma-core is not on this machine (libibverbs.so.1, librdmacm.so.1): install it, on Debian `apt-get install rdma-core \
         ibverbs-providers`"
    )]
    NoLibrary,
    /// A call into rdma-core or the kernel failed.
    #[error("{call}: {}{}", io::Error::from_raw_os_error(*.errno), way_out(.call, *.errno))]
    Call {
        /// The function.
        call: &'static str,
        /// errno.
        errno: i32,
    },
    /// A device cannot do as much as was asked of it.
    #[error("RDMA device {device}: {what} is {value}, and it has at most {limit}")]
    Limit {
        /// Its name.
        device: String,
        /// Of what.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// What it has.
        limit: u64,
    },
    /// Memory that may not be written was given to be written into.
    #[error("memory of {len} bytes is read-only, and the device was to write into it")]
    ReadOnly {
        /// Its length in bytes.
        len: usize,
    },
    /// The connection manager knows no device for an address yet or any more.
    #[error("the connection has no RDMA device: its address is not resolved, or the device was removed")]
    NoDevice,
}

impl RdmaError {
    /// The last call's error as errno tells it.
    pub(crate) fn last(call: &'static str) -> Self {
        Self::from_errno(call, io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// Of a call that returns errno, positive or negative.
    pub(crate) fn from_errno(call: &'static str, errno: i32) -> Self {
        match errno.saturating_abs() {
            libc::EOPNOTSUPP if !crate::device::is_library_there() => Self::NoLibrary,
            errno => Self::Call { call, errno },
        }
    }

    /// Whether memory, registrations or queue pairs are used up, so that less or later may succeed.
    #[must_use]
    pub const fn is_exhaustion(&self) -> bool {
        matches!(self, Self::Call { errno: libc::ENOMEM | libc::EAGAIN | libc::ENOSPC, .. } | Self::Limit { .. })
    }
}

/// What to do about an error, as far as one can tell.
fn way_out(call: &str, errno: i32) -> &'static str {
    match (call, errno) {
        ("ibv_reg_mr" | "ibv_reg_dmabuf_mr", libc::ENOMEM) => {
            "; memory for RDMA is locked: raise the limit (`ulimit -l unlimited`, LimitMEMLOCK=infinity in a systemd unit), or the \
             device is out of registrations"
        }
        ("ibv_reg_mr", libc::EFAULT | libc::EINVAL) => {
            "; the memory is not mapped, or the device cannot register its kind"
        }
        ("rdma_create_event_channel", libc::ENODEV | libc::ENOENT) => {
            "; the kernel has no RDMA connection manager: load it (`modprobe rdma_ucm ib_uverbs`) and give this process \
             /dev/infiniband/rdma_cm"
        }
        ("rdma_create_event_channel", libc::EACCES | libc::EPERM) => {
            "; this process may not open /dev/infiniband/rdma_cm"
        }
        ("rdma_bind_addr" | "rdma_resolve_addr", libc::ENODEV | libc::EADDRNOTAVAIL) => {
            "; no RDMA device has this address: `rdma link` lists the devices, and `rdma link add rxe0 type rxe netdev eth0` makes a \
             Soft-RoCE device of any network interface"
        }
        ("rdma_bind_addr" | "rdma_listen", libc::EADDRINUSE) => {
            "; something else listens there already (`rdma resource show cm_id`)"
        }
        _ => "",
    }
}

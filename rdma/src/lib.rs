//! RDMA verbs and connection management, behind an interface that safe code cannot misuse.
//!
//! rdma-core (libibverbs, librdmacm) is opened at run time, when the program starts, so that one binary runs with and without it. This is
//! the only crate that calls it:
//!
//! * [`Device`]: a verbs device with its protection domain; [`Registrations`] keeps the keys of one piece of memory on every device;
//! * [`CmChannel`], [`CmListener`], [`CmId`]: the RDMA connection manager, without blocking;
//! * [`CompletionQueue`]: where finished work shows up, to be polled or slept on;
//! * [`Endpoint`]: a connected queue pair that owns all memory which its device may still touch;
//! * [`inspect`]: what there is on this machine, for people.
//!
//! Invariant of the whole crate: memory that a device may read or write on our or the peer's behalf is owned by an [`Endpoint`] until its
//! work is complete, its remote key is dead, or its queue pair is destroyed. Giving the wrong completion to the wrong endpoint, or
//! dropping anything at any time, cannot break that.
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a call into C takes pointers out of structures of C: one reason covers both"
)]

mod cm;
mod completion;
mod device;
mod endpoint;
mod error;
pub mod inspect;
mod memory;
mod window;

pub use cm::{CmChannel, CmEvent, CmId, CmListener, ConnectionEvent};
pub use completion::{CompletionQueue, WorkCompletion, WorkError};
pub use device::{DEVICES_MAX, Device, DeviceLimits, is_available};
pub use endpoint::{Endpoint, EndpointConfig, Event, RemoteAccess, RemoteKey, RemoteSegment};
pub use error::RdmaError;
pub use memory::{HostMemory, Memory, Mr, MrAccess, Registrations};

//! Host library for NVMe Key Value over Fabrics: stores and retrieves values on any target that serves the Key Value
//! command set over NVMe/TCP or NVMe/RDMA.
//!
//! # The whole of it
//!
//! ```no_run
//! use kvof_initiator::{Buffer, ConnectOptions, Controller, Key, StoreOptions, blocking::block_on, discover};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! block_on(async {
//!     let options = ConnectOptions::default();
//!
//!     // Which subsystems are there?
//!     for entry in discover(&"storage-1:8009".parse()?, &options).await? {
//!         println!("{} at {}:{}", entry.subnqn, entry.traddr, entry.trsvcid);
//!     }
//!
//!     // Connect to one, and open its namespace 1.
//!     let nqn = "nqn.2024-01.com.example:kv";
//!     let controller = Controller::connect(&"storage-1:4420".parse()?, nqn, &options).await?;
//!     let kv = controller.kv(1).await?;
//!
//!     // A buffer goes in with the operation and comes back with its answer.
//!     let key = Key::new(b"prefix-0001")?;
//!     let (stored, value) = kv.store(key, vec![7u8; 2 << 20], StoreOptions::empty()).await;
//!     stored?;
//!
//!     let (found, buffer) = kv.retrieve(key, Buffer::new(value.len())).await;
//!     let found = found?;
//!     assert_eq!(found.value_len as usize, value.len());
//!     assert_eq!(&buffer[..], &value[..]);
//!
//!     assert!(kv.exist(key).await?);
//!     let mut keys = kv.keys();
//!     loop {
//!         let page = keys.next_page().await?;
//!         if page.is_empty() {
//!             break;
//!         }
//!         println!("{page:?}");
//!     }
//!     kv.delete(key).await?;
//!     controller.disconnect().await;
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # What to know
//!
//! * **Any executor.** The futures need no runtime of their own: they run on tokio, on [`blocking::block_on`], on
//!   anything. Every queue has a thread that owns its connection; a supervisor thread keeps the controller alive.
//! * **Many in flight.** Start as many operations as you like; each takes a slot on the least loaded I/O queue, and
//!   waits its turn if all [`ConnectOptions::queue_depth`] slots are taken.
//! * **TCP, RDMA or whatever is there.** The [`Address`] says it: `tcp://`, `rdma://`, or `auto://`, which asks discovery.
//!   Everything else is the same. RDMA needs rdma-core and a device on this machine when it is used, and neither before.
//! * **No copy.** The socket reads into and writes from the buffer that you hand in ([`IoBuf`], [`IoBufMut`]); over RDMA
//!   the controller does, if it is a [`Buffer`] or a vector. A [`Buffer`] that is used again keeps its registration,
//!   a vector is registered for each command, and a type of your own is copied.
//! * **Dropping a future is safe.** The answer is given up; the buffer stays with the queue until the command is
//!   answered or the connection is gone, so nothing is ever written into memory that has a new owner.
//! * **Dead keys.** Over RDMA each command has a key of its own for its buffer, and is answered when that key is dead: a
//!   late or hostile controller writes into no memory that has a new owner.
//! * **Time limits.** Every operation ends within its time limit, waiting and reconnecting included. A Store whose
//!   data the controller has not fetched by then takes its connection down, as its buffer has to come back; over RDMA
//!   every command does whose buffer the controller can reach.
//! * **Reconnecting.** A lost connection fails what is in flight with [`Error::ConnectionLost`], which says that a
//!   command may or may not have been executed. Nothing is repeated unless you ask for it with
//!   [`KvNamespace::with_repeats`]; see [`Error::is_retryable`]. New
//!   operations wait for the reconnect, which goes on as [`ConnectOptions::reconnect`] says.
//! * **Large values.** One command moves at most [`KvNamespace::max_value_len`] bytes; cutting values into several is
//!   the business of the caller.
#![forbid(unsafe_code)]

mod address;
pub mod blocking;
mod buffer;
mod controller;
mod discovery;
mod driver;
mod error;
mod executor;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod kv;
#[cfg(feature = "measuring")]
#[doc(hidden)]
pub mod measuring;
mod nvm;
mod options;
mod port;
mod queue;
mod rdma;
mod tcp;
mod watch;

pub use address::{Address, DEFAULT_PORT, Transport};
pub use buffer::{IoBuf, IoBufMut};
pub use controller::{AdminData, Controller, ControllerInfo, NamespaceInfo, RawCompletion};
pub use discovery::{DiscoveryController, DiscoveryEntry, discover};
pub use error::{ConnectionError, Error, Result};
pub use kv::{Keys, KvNamespace, Retrieved};
pub use nvm::NvmNamespace;
pub use options::{ConnectOptions, DigestMode, ReconnectPolicy};
pub use rdma::{KeyProtection, RdmaPath};

pub use kvof_memory::{self as memory, BUFFER_ALIGN, Buffer, MemoryKind, MemoryRegion};

pub use kvof_kv::{Key, KvCommand, KvLimits, StoreOptions};
pub use kvof_spec::feature::FeatureId;
pub use kvof_spec::identify::Cns;
pub use kvof_spec::log::{AddressFamily, DiscoveryFlags, LogId, SubsystemType, TransportRequirements, TransportType};
pub use kvof_spec::{Csi, Sqe, Status};

//! KV namespaces in pools of devices: the flash engine's volumes, spread over the cores.
//!
//! A pool has shards, each with a volume of its own; volume `s` lives on core `s` modulo the number of cores and is touched
//! by no other. The daemon opens a pool before its cores have it ([`OpenPool`]), keeps its devices' identities meanwhile
//! ([`PoolHandle`]), and gets each volume back to be closed when the cores have drained it.

mod core;
mod namespace;
mod open;
mod status;

pub(super) use self::{core::Ended, namespace::Pooled};
pub use self::{
    core::PoolPart,
    open::{DeviceChange, OpenPool, OpenProgress, PoolHandle, PoolOpenError},
    status::PoolStatus,
};

/// Names a pool on every core; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PoolId(pub u32);

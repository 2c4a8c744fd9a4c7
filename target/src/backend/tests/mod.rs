//! Tests of the storages through [`namespace`](crate::namespace), driven by the rig.

mod kv;
mod nvm;
mod opening;
pub(super) mod rig;
mod ring;

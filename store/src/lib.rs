//! The flash engine of kvof: nothing acknowledged is ever lost, on any m failed devices.
//!
//! A [pool] of devices is divided into volumes, one for each shard. A [`Volume`](volume::Volume) is an append-only
//! log over stripe groups of segments, an exact index in memory, and the rules that keep both together. It is sans-IO: it
//! takes requests, finished device operations and the time, and gives device operations and results.
//!
//! `docs/on-disk-format.md` has the tables of what lies on a device.

#![forbid(unsafe_code)]

pub mod checksum;
pub mod device;
pub mod ec;
pub mod format;
pub mod geometry;
pub mod index;
pub mod pool;
pub mod tier;
pub mod usage;
pub mod verify;
pub mod volume;

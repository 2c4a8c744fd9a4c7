//! The kvof target: an NVMe over Fabrics target that serves the Key Value command set.
//!
//! Data flows one way, and each room has one door: [`transport`] delivers a capsule, [`queue`] decodes it and owns its
//! one completion, [`control`] answers fabrics and admin commands, [`namespace`] decodes I/O commands, [`backend`] runs
//! them against storage, and the completion goes back out. [`reactor`] drives all of it, one thread per core; everything
//! else is sans-IO. `docs/architecture.md` tells the story.
#![forbid(unsafe_code)]

pub mod backend;
pub mod config;
pub mod control;
pub mod daemon;
pub mod model;
pub mod namespace;
pub mod queue;
pub mod reactor;
pub mod transport;

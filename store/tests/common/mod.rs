//! What the tests of the engine share: a reference model, and a world of simulated devices, volumes and hosts.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

pub mod checks;
pub mod dump;
pub mod minimize;
pub mod model;
pub mod scenario;
pub mod world;

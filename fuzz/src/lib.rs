//! Fuzz bodies: each takes arbitrary bytes and panics if kvof does what it must not.
//!
//! | body | the bytes are | what is checked |
//! |---|---|---|
//! | [`pdu`] | PDU headers, and data as either end finds it in commands, logs and Identify | no parser panics or reads past its input; what is accepted is consistent |
//! | [`target`] | actions of several hosts, good and bad | the target's bytes, every command's one completion, memory, and that it still serves |
//! | [`rdma_target`] | the same over NVMe/RDMA, and when data moves | which of the hosts' memory is touched, and the rest as above |
//! | [`initiator`] | actions of a controller, good and bad | the host library's bytes, every operation's one result, and what was written to its buffer |
//! | [`rdma_initiator`] | the same over NVMe/RDMA, and when work completes | that and no memory is given back in reach of the controller |
//! | [`config`] | a configuration file | no panic; what is accepted reads back from what it prints as |
//!
//! They run three ways: as plain tests on the committed corpus and on mutations of it (`cargo test -p kvof-fuzz`), under
//! libFuzzer with coverage (`fuzz/run.sh`), and on one file (`cargo run -p kvof-fuzz --bin replay -- BODY FILE`).
#![forbid(unsafe_code)]

mod config;
mod initiator;
mod input;
mod pdu;
mod rdma;
mod rdma_initiator;
pub mod seeds;
mod target;

pub use config::config;
pub use initiator::initiator;
pub use pdu::pdu;
pub use rdma::rdma_target;
pub use rdma_initiator::rdma_initiator;
pub use target::target;

/// A fuzz body.
pub type Body = fn(&[u8]);

/// Every body, by the name of its corpus and of its libFuzzer target.
pub const BODIES: [(&str, Body); 6] = [
    ("config", config),
    ("initiator", initiator),
    ("pdu", pdu),
    ("rdma_initiator", rdma_initiator),
    ("rdma_target", rdma_target),
    ("target", target),
];

/// The body called `name`.
#[must_use]
pub fn body(name: &str) -> Option<Body> {
    BODIES.iter().find(|(known, _)| *known == name).map(|(_, body)| *body)
}

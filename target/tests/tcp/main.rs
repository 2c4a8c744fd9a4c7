//! The NVMe/TCP target on real sockets: good hosts, bad hosts and absent ones, against the running reactor.

mod copies;
mod cores;
mod data;
mod flood;
mod header;
mod host;
mod library;
mod pools;
mod queue;
mod rig;
mod time;

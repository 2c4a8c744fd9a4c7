//! The `kvof` command against a `kvof-target` process on the loopback interface: every subcommand, what it prints, and
//! its exit codes.
//!
//! The target is the program that `KVOF_TARGET` names, else the one beside `kvof`, which is built if it is not there.

mod bench;
mod conformance;
mod finding;
mod keys;
mod support;
mod values;

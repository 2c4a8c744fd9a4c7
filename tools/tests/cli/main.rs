//! The `kvof` command against a `kvof-target` process on the loopback interface: every subcommand, what it prints, and
//! its exit codes. The commands for pools work on files.
//!
//! The target is the program that `KVOF_TARGET` names, else the one beside `kvof`, which is built if it is not there.

mod bench;
mod conformance;
mod doctor;
mod finding;
mod keys;
mod pool;
mod support;
mod values;

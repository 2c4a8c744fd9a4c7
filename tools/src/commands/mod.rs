//! One module for each subcommand but `bench`: its arguments, what it does and what it prints.

pub(crate) mod conformance;
pub(crate) mod delete;
pub(crate) mod discover;
pub(crate) mod doctor;
pub(crate) mod dump;
pub(crate) mod exist;
pub(crate) mod format;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod remove_namespace;
pub(crate) mod replace;
pub(crate) mod retrieve;
pub(crate) mod store;
pub(crate) mod verify;

mod keys;
mod pool;

use kvof_initiator::{Error, Key};

use crate::failure::{coded, exit_of_operation};

/// Why `what` was not done with `key`; what scripts ask for in plain words.
fn explain(what: &str, key: Key, error: &Error) -> anyhow::Error {
    let exit = exit_of_operation(error);
    if error.is_key_missing() {
        coded(exit, format!("{key} does not exist"))
    } else if error.is_key_exists() {
        coded(exit, format!("{key} exists already"))
    } else {
        coded(exit, format!("cannot {what} {key}: {error}"))
    }
}

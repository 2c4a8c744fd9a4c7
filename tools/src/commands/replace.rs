//! `kvof replace`: gives a lost device's place in a pool to a new one.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use kvof_store::pool::{self, ReplaceOptions};
use serde::Serialize;

use super::pool::{path, pool_error, uuid, warn};
use crate::{
    failure::Exit,
    output::Output,
    units::{parse_size, size},
};

/// Give a lost device's place in a pool to a new device.
///
/// Only the new device is written to, so the pool may be in use. The new device is filled when kvof-target next looks for its
/// devices (on SIGHUP or a restart), with its path among the pool's devices.
#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    /// The new device.
    #[arg(value_name = "NEW_PATH")]
    new: PathBuf,

    /// The devices of the pool that are left.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pool: Vec<PathBuf>,

    /// Which member it replaces [default: the one that is missing or failed].
    #[arg(long, value_name = "N")]
    member: Option<u16>,

    /// Make the file with this size if it is missing, or extend it.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,

    /// Overwrite whatever the new device holds. It is lost.
    #[arg(long)]
    force: bool,

    /// Check everything and show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Document {
    done: bool,
    path: String,
    member: u16,
    pool: String,
    device: String,
    replaces: String,
    unused_bytes: u64,
    held: Option<String>,
}

pub(crate) fn run(args: &ReplaceArgs, output: &mut Output) -> Result<Exit> {
    let options = ReplaceOptions { member: args.member, size: args.size, force: args.force, dry_run: args.dry_run };
    let replaced = pool::replace(&args.new, &args.pool, &options).map_err(|error| pool_error(&error))?;
    warn(&replaced.problems);
    let label = &replaced.label;
    let document = Document {
        done: !args.dry_run,
        path: path(&args.new),
        member: label.member,
        pool: uuid(label.pool),
        device: uuid(label.device),
        replaces: uuid(label.replaces),
        unused_bytes: replaced.unused,
        held: replaced.held.clone(),
    };
    let verb = if args.dry_run { "would take" } else { "takes" };
    let held = replaced.held.map(|held| format!("; it held {held}")).unwrap_or_default();
    let unused =
        if replaced.unused > 0 { format!("; {} of it stay unused", size(replaced.unused)) } else { String::new() };
    let next = if args.dry_run {
        "nothing was changed (--dry-run)"
    } else {
        "name it among the pool's devices in the configuration, and have the target look (SIGHUP or a restart)"
    };
    let text = format!(
        "{} {verb} the place of member {} of pool {}{held}{unused}\n{next}",
        path(&args.new),
        label.member,
        uuid(label.pool)
    );
    output.show(&document, text)?;
    Ok(Exit::Success)
}

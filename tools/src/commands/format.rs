//! `kvof format`: makes a pool of devices.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use kvof_store::{
    ec::Profile,
    pool::{self, FormatOptions, Formatted, index_memory},
};
use serde::Serialize;

use super::pool::{PoolDocument, path, pool_error, section, uuid, warn};
use crate::{
    failure::Exit,
    output::{Align, Output, Table},
    units::{parse_size, size},
};

/// Make a pool of block devices or files, for kvof-target to keep Key Value namespaces on.
///
/// The pool survives the loss of as many devices as its profile has parity. Nothing is overwritten that is not blank, unless
/// --force says so; the error tells what was recognised. Devices of different sizes may be mixed: the smallest counts.
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// The devices, in the order of their places in the pool; later the order does not matter.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Data + parity columns, such as 4+1 [default: by the number of devices: 1+0, 1+1, 2+1, 3+1, 4+1, from 6 on n-2 + 2, at
    /// most 16+2].
    #[arg(long, value_name = "K+M")]
    profile: Option<Profile>,

    /// Independent parts of the pool, each served by one core [default: one for each processor, at most 16, of at least
    /// 8 GiB of a device].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: Option<u16>,

    /// Bytes of a segment, a multiple of 1 MiB up to 1 GiB; the largest value is k segments [default: about 1/64 of a shard's
    /// part of a device, up to 256MiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    segment: Option<u64>,

    /// Make missing files of this size, and extend shorter ones. Block devices are taken whole.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,

    /// What to call the pool, at most 64 bytes.
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,

    /// Overwrite whatever the devices hold. It is lost.
    #[arg(long)]
    force: bool,

    /// Do not tell block devices that their old contents are not needed (TRIM).
    #[arg(long)]
    no_discard: bool,

    /// Check everything and show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Document {
    done: bool,
    pool: PoolDocument,
    index_memory: Vec<IndexDocument>,
    devices: Vec<DeviceDocument>,
    remarks: Vec<String>,
}

#[derive(Serialize)]
struct IndexDocument {
    value_bytes: u64,
    memory_bytes: u64,
}

#[derive(Serialize)]
struct DeviceDocument {
    member: usize,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
    bytes: u64,
    unused_bytes: u64,
    held: Option<String>,
}

/// Lengths of values that memory for the index is shown for.
const INDEX_AT: [u64; 2] = [64 << 10, 1 << 20];

pub(crate) fn run(args: &FormatArgs, output: &mut Output) -> Result<Exit> {
    let options = FormatOptions {
        profile: args.profile,
        shards: args.shards,
        segment: args.segment,
        size: args.size,
        name: args.name.clone(),
        force: args.force,
        discard: !args.no_discard,
        dry_run: args.dry_run,
    };
    let formatted = pool::format(&args.paths, &options).map_err(|error| pool_error(&error))?;
    if output.is_json() {
        output.document(&document(&formatted, args.dry_run))?;
    } else {
        warn(&formatted.remarks);
        show(&formatted, args.dry_run, output)?;
    }
    Ok(Exit::Success)
}

fn document(formatted: &Formatted, dry_run: bool) -> Document {
    let mut pool = PoolDocument::new(&formatted.label);
    if dry_run {
        pool.forget_identity();
    }
    let memory =
        |value_bytes| IndexDocument { value_bytes, memory_bytes: index_memory(&formatted.label.geometry, value_bytes) };
    let devices = formatted.devices.iter().enumerate().map(|(member, device)| DeviceDocument {
        member,
        path: path(&device.path),
        uuid: (!dry_run).then(|| uuid(device.device)),
        bytes: device.bytes,
        unused_bytes: device.unused,
        held: device.held.clone(),
    });
    Document {
        done: !dry_run,
        pool,
        index_memory: INDEX_AT.map(memory).into(),
        devices: devices.collect(),
        remarks: formatted.remarks.iter().map(ToString::to_string).collect(),
    }
}

fn show(formatted: &Formatted, dry_run: bool, output: &mut Output) -> Result<()> {
    let label = &formatted.label;
    let memory =
        INDEX_AT.map(|len| format!("{} with values of {}", size(index_memory(&label.geometry, len)), size(len)));
    output.line(section(label, dry_run).field("index when full", memory.join(", ")))?;
    let mut table = Table::new(&[
        ("\nMEMBER", Align::Right),
        ("SIZE", Align::Right),
        ("UNUSED", Align::Right),
        ("DEVICE", Align::Left),
        ("HELD BEFORE", Align::Left),
    ]);
    for (member, device) in formatted.devices.iter().enumerate() {
        table.row(vec![
            member.to_string(),
            size(device.bytes),
            size(device.unused),
            path(&device.path),
            device.held.clone().unwrap_or_default(),
        ]);
    }
    output.line(table)?;
    let end = if dry_run { "\nnothing was changed (--dry-run)" } else { "\nformatted" };
    Ok(output.line(end)?)
}

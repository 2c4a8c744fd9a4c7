//! `kvof remove-namespace`: gives the room of a namespace that nobody serves any more back to its pool.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use kvof_io::{EventLoopConfig, Pool, PoolConfig};
use kvof_store::{
    device::driver::UringDriver,
    format::Label,
    pool::PoolDevices,
    volume::{Volume, VolumeConfig},
};
use serde::Serialize;

use super::pool::{pool_error, uuid, warn};
use crate::{
    failure::{Exit, coded},
    output::Output,
    units::size,
};

/// Memory for values and stripes on their way.
const MEMORY: usize = 64 << 20;

/// Remove a namespace and all that it holds from a pool. No target may be serving the pool.
///
/// A namespace that is taken out of the configuration keeps its data and its room in the pool, so that it can come back. This
/// is how the room comes back instead. What is removed cannot be brought back.
#[derive(Debug, Args)]
pub(crate) struct RemoveNamespaceArgs {
    /// UUID of the namespace; `kvof dump --superblocks` shows those of a pool.
    #[arg(value_name = "UUID")]
    namespace: uuid::Uuid,

    /// All devices of the pool.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pool: Vec<PathBuf>,

    /// Show what would be removed; change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Document {
    done: bool,
    namespace: String,
    keys: u64,
    bytes: u64,
}

pub(crate) fn run(args: &RemoveNamespaceArgs, output: &mut Output) -> Result<Exit> {
    let devices = PoolDevices::open(&args.pool).map_err(|error| pool_error(&error))?;
    warn(devices.problems());
    let present = devices.uuids();
    if let Some(member) = present.iter().position(Option::is_none) {
        return Err(coded(
            Exit::Usage,
            anyhow!(
                "member {member} of the pool is not among the paths: without it the pool would go on degraded; name all devices"
            ),
        ));
    }
    let mut io = devices.io().map_err(|error| pool_error(&error))?;
    let label = devices.label();
    let (mut keys, mut bytes, mut found) = (0, 0, false);
    for shard in 0..label.geometry.shards() {
        let mut volume = Volume::open(config(label, shard), &present, &mut io, &mut |_| {})?;
        let here = volume.namespaces().find(|(_, uuid, ..)| uuid == args.namespace.as_bytes());
        if let Some((slot, _, here_keys, here_bytes)) = here {
            found = true;
            keys += here_keys;
            bytes += here_bytes;
            if !args.dry_run {
                volume.destroy(slot);
            }
        }
        volume.drain();
        let mut driver = UringDriver::new(devices.files(), EventLoopConfig::default())?;
        while !volume.is_idle() {
            driver.pump(&mut volume, Duration::from_millis(20))?;
            while volume.poll().is_some() {}
        }
        if let Some(why) = volume.stats().read_only {
            return Err(anyhow!("shard {shard}: {why}"));
        }
        volume.close(&mut io).with_context(|| format!("shard {shard}"))?;
    }
    if !found {
        let error = anyhow!("the pool {} has no namespace {}", uuid(label.pool), args.namespace);
        return Err(coded(Exit::Usage, error));
    }
    let document = Document { done: !args.dry_run, namespace: args.namespace.to_string(), keys, bytes };
    let text = if args.dry_run {
        format!("{} would be removed: {keys} keys, {}\nnothing was changed (--dry-run)", args.namespace, size(bytes))
    } else {
        format!("{} was removed: {keys} keys, {}", args.namespace, size(bytes))
    };
    output.show(&document, text)?;
    Ok(Exit::Success)
}

fn config(label: &Label, shard: u16) -> VolumeConfig {
    VolumeConfig {
        pool: label.pool,
        secret: label.secret,
        geometry: label.geometry,
        shard,
        buffers: Pool::new(PoolConfig::new(MEMORY)),
        scratch: MEMORY,
        index_memory: u64::MAX / 2,
        tier: 0,
        read_ahead: 0,
        rebuild_rate: 0,
        scrub_rate: 0,
    }
}

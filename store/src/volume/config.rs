//! How a volume is opened, and what it tells of itself.

use std::io;

use kvof_io::Pool;
use kvof_kv::KvLimits;
use thiserror::Error;

use crate::{
    format::{FormatError, MemberState, NAMESPACES_MAX, NamespaceMode, Secret, Uuid},
    geometry::Geometry,
    tier::TierStats,
    usage::Usage,
};

/// How a volume is opened.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// The pool, as its labels say.
    pub pool: Uuid,
    /// The pool's secret.
    pub secret: Secret,
    /// The pool's layout.
    pub geometry: Geometry,
    /// Which volume of the pool.
    pub shard: u16,
    /// Memory for values that are read.
    pub buffers: Pool,
    /// Most bytes of memory for stripes on their way and for background work. A value that needs more alone is
    /// still committed, alone.
    pub scratch: usize,
    /// Most bytes of memory for the index.
    pub index_memory: u64,
    /// Most bytes of memory for values that are kept to be read again; 0: none.
    pub tier: u64,
    /// Most bytes that are read ahead after an Exist; 0: none.
    pub read_ahead: u64,
    /// Bytes a second of a rebuild, of what is written; 0: as fast as it goes.
    pub rebuild_rate: u64,
    /// Bytes a second that scrubbing reads; 0: only when asked, as fast as it goes.
    pub scrub_rate: u64,
}

/// What an acknowledged Store survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// A loss of power: it was flushed to the medium, with its parity.
    Media,
    /// The end of the process: the devices have it, perhaps in volatile caches. Flush makes it survive a loss of power.
    Device,
}

/// A namespace to serve.
#[derive(Clone, Debug)]
pub struct NamespaceSpec {
    /// Its UUID, by which the pool knows it.
    pub uuid: Uuid,
    /// What it does when it is full.
    pub mode: NamespaceMode,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Its limits.
    pub limits: KvLimits,
    /// Its size and counters, shared with its other shards.
    pub usage: Usage,
    /// Bytes of this volume that no other namespace can take from it.
    pub reservation: u64,
}

/// Why a volume could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Too many devices are missing.
    #[error(
        "shard {shard}: {live} of {members} devices can be used, at least {needed} are needed; missing or failed: {missing}; \
         bring back the devices that are missing"
    )]
    TooFewDevices {
        /// The shard.
        shard: u16,
        /// Devices that can be used.
        live: usize,
        /// Devices of the pool.
        members: usize,
        /// Fewest.
        needed: usize,
        /// Member numbers.
        missing: String,
    },
    /// No superblock could be read.
    #[error("shard {shard}: no device has a whole superblock ({source}); was the pool formatted to the end?")]
    NoSuperblock {
        /// The shard.
        shard: u16,
        /// What the last device had instead.
        source: FormatError,
    },
    /// A superblock of another pool.
    #[error("shard {shard}: the superblock belongs to another {what}")]
    Foreign {
        /// The shard.
        shard: u16,
        /// In what it differs.
        what: &'static str,
    },
    /// The index has no room for what the pool holds.
    #[error("shard {shard}: the index needs more than its limit of {limit} bytes; raise `index_memory`")]
    IndexFull {
        /// The shard.
        shard: u16,
        /// The limit, bytes.
        limit: u64,
    },
    /// The memory limit is too small for one stripe.
    #[error("shard {shard}: {scratch} bytes of memory for stripes are too few, at least {least} are needed")]
    Scratch {
        /// The shard.
        shard: u16,
        /// Bytes.
        scratch: usize,
        /// Fewest.
        least: usize,
    },
    /// Group data that should be there cannot be read.
    #[error(
        "shard {shard}: group {group} cannot be read: {why}; more devices than the pool's parity allows are damaged or \
         missing: bring back a device, or see what is left with `kvof verify`"
    )]
    Group {
        /// The shard.
        shard: u16,
        /// The group.
        group: u32,
        /// What is wrong.
        why: String,
    },
    /// Something had to be written and could not be.
    #[error("shard {shard}: cannot {what}: {source}")]
    Io {
        /// The shard.
        shard: u16,
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// Why a namespace cannot be served from a volume.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AttachError {
    /// The table is full.
    #[error("the pool has {NAMESPACES_MAX} namespaces, which is all that it can have; remove one first")]
    Full,
    /// It is served already.
    #[error("the namespace is served already")]
    Attached,
    /// Its longest values do not fit.
    #[error(
        "values of {kvvml} bytes do not fit: a group of this pool takes values of at most {most} bytes; lower \
         `max_value_size`, or format the pool with larger segments"
    )]
    ValueTooLarge {
        /// KVVML.
        kvvml: u32,
        /// Most bytes of a value.
        most: u64,
    },
    /// More is reserved than there is.
    #[error("{reservation} bytes are to be reserved, {free} can be")]
    Reservation {
        /// Bytes wanted.
        reservation: u64,
        /// Bytes that are not reserved yet.
        free: u64,
    },
}

/// How far opening a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub of: u64,
    /// Keys found.
    pub keys: u64,
    /// Bytes read.
    pub read: u64,
}

/// The phases of opening a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Reading the checkpoint of a clean stop.
    Checkpoint,
    /// Looking at the headers of all groups.
    Headers,
    /// Reading the footers of sealed groups.
    Footers,
    /// Reading groups that were not sealed.
    OpenGroups,
}

/// Counters and gauges of a volume. Counters start at 0 when it is opened.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct VolumeStats {
    /// Groups in all, and how many are free.
    pub groups: u32,
    /// Free groups.
    pub groups_free: u32,
    /// Bytes of data that there is room for, parity not counted.
    pub capacity: u64,
    /// Bytes of live records (values and trailers, rounded to units).
    pub live: u64,
    /// Keys.
    pub keys: u64,
    /// Bytes of memory of the index.
    pub index_bytes: u64,
    /// Bytes of memory of the tables of groups and stripes.
    pub table_bytes: u64,
    /// Bytes of values that hosts stored.
    pub stored_bytes: u64,
    /// Bytes of hosts' values that the processor copied between the socket and the devices, small values and the last parts of large
    /// ones among them; what the kernel copies out of the socket does not count, nor what cleaning moves.
    pub store_copied_bytes: u64,
    /// Bytes of values that hosts retrieved.
    pub retrieved_bytes: u64,
    /// Bytes that the processor copied between the devices, or the memory tier, and the socket: only where a device is lost.
    pub retrieve_copied_bytes: u64,
    /// Bytes written to devices, parity and headers included.
    pub written_bytes: u64,
    /// Bytes read from devices.
    pub read_bytes: u64,
    /// Bytes of records moved by cleaning or reinserted.
    pub moved_bytes: u64,
    /// Stripes committed.
    pub stripes: u64,
    /// Records committed, tombstones included.
    pub records: u64,
    /// Groups cleaned or dropped.
    pub groups_cleaned: u64,
    /// Values dropped from cache namespaces.
    pub evicted: u64,
    /// Reads that had to be reconstructed.
    pub degraded_reads: u64,
    /// Pieces that were found damaged.
    pub damaged: u64,
    /// Pieces that were repaired in place.
    pub repaired: u64,
    /// Reads that failed for good.
    pub unrecovered: u64,
    /// State of each device.
    pub members: Vec<MemberState>,
    /// A rebuild that runs: groups done, groups in all.
    pub rebuild: Option<(u32, u32)>,
    /// A scrub that runs: groups done, groups in all.
    pub scrub: Option<(u32, u32)>,
    /// Scrub passes completed.
    pub scrubs: u64,
    /// The memory tier.
    pub tier: TierStats,
    /// Read-ahead: started, used, wasted.
    pub read_ahead: (u64, u64, u64),
    /// The volume takes no more changes, and why.
    pub read_only: Option<String>,
}

impl VolumeStats {
    /// Bytes written to devices for each byte that hosts stored.
    #[must_use]
    pub fn write_amplification(&self) -> f64 {
        if self.stored_bytes == 0 { 0.0 } else { self.written_bytes as f64 / self.stored_bytes as f64 }
    }
}

//! One volume: the log, the index and the rules of one shard of a pool. Sans-IO and single-threaded.
//!
//! | file | what |
//! |---|---|
//! | `change.rs` | Store and Delete, from their admission to their answer |
//! | `layout.rs`, `sums.rs`, `build.rs`, `commit.rs` | stripes: laid out, summed, put together, written, acknowledged in order |
//! | `fetch.rs` | reading a record, and reconstructing it where that fails |
//! | `stripe_task.rs` | reading and repairing a whole stripe: for cleaning, scrub, rebuild |
//! | `clean.rs` | making room: cleaning, eviction, freeing groups |
//! | `rebuild.rs`, `scrub.rs` | filling a device again; finding and repairing rot |
//! | `members.rs` | devices, flushes, the superblock |
//! | `recover.rs`, `scan.rs`, `checkpoint.rs`, `blocking.rs` | opening and closing |
//!
//! Invariants:
//! * Stripes are acknowledged in the order of their numbers, when they are durable and the superblock says which devices missed
//!   them. So after a crash all that was acknowledged is in an unbroken run of stripes.
//! * Of a key at most one change of a host is in flight. A move takes part only while the index still names what it moves.
//! * A group is freed only when nothing in it is live and what was live in it is durable elsewhere.

mod blocking;
mod build;
mod change;
mod checkpoint;
mod clean;
mod commit;
mod config;
mod fetch;
mod group;
mod layout;
mod members;
mod place;
mod rebuild;
mod recover;
mod scan;
mod scrub;
mod stripe_task;
mod sums;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kvof_io::{Pool, PoolBuf, SharedBuf};
use kvof_kv::{Key, KvError, KvLimits, KvOutcome, KvRequest, KvResult, ListWriter, OpId, list::entry_len};
use slab::Slab;

pub use self::config::{AttachError, Durability, NamespaceSpec, OpenError, Phase, Progress, VolumeConfig, VolumeStats};
use self::{
    build::Zeros,
    change::{Change, Job},
    clean::Cleaner,
    commit::{Assembly, OpenGroup, Stripe},
    fetch::Fetch,
    group::Group,
    members::{MemberRuntime, SuperblockWriter},
    place::Found,
    rebuild::Rebuild,
    scrub::Scrub,
    stripe_task::StripeTask,
};
use crate::{
    device::{DeviceDone, DeviceOp, DeviceRequest},
    ec::CpuCode,
    format::{NAMESPACES_MAX, NamespaceMode, NamespaceRecord, Superblock},
    geometry::Geometry,
    index::{Index, Meta},
    tier::{ReadAhead, Tier, TierKey},
    usage::Usage,
};

/// Groups that only cleaning and deletes may open.
pub const RESERVED_GROUPS: u32 = 2;

/// The shard of a key. The hash spreads keys evenly; it is no secret, and a host that picks its keys to meet in one shard
/// slows down itself.
#[must_use]
pub fn shard_of(key: &Key, shards: u16) -> u16 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let bytes = u128::from_le_bytes(key.padded());
    // Halves of the padded key and its length, mixed so that the upper bits depend on all.
    let mut hash = (bytes as u64).wrapping_mul(MULTIPLIER);
    hash = (hash.rotate_left(29) ^ (bytes >> 64) as u64 ^ key.len() as u64).wrapping_mul(MULTIPLIER);
    hash ^= hash >> 32;
    ((u128::from(hash.wrapping_mul(MULTIPLIER)) * u128::from(shards.max(1))) >> 64) as u16
}

/// One volume of a pool.
pub struct Volume {
    config: VolumeConfig,
    code: CpuCode,
    scratch: Pool,
    zeros: Zeros,
    now: Duration,

    superblock: Superblock,
    superblock_writer: SuperblockWriter,
    members: Vec<MemberRuntime>,
    /// Why no more changes are taken.
    read_only: Option<String>,

    groups: Vec<Group>,
    /// How many of them are free.
    free: u32,
    /// Headers, by group and row, that say Freed in one copy, or of stripes that were dropped; only while opening.
    to_free: Vec<(u32, u32)>,
    /// Copies of headers that could not be read; only while opening.
    unread_headers: u64,
    /// What all live records cost, bytes.
    live: u64,
    open: Option<OpenGroup>,
    seal_wanted: bool,
    /// Where the search for a free group goes on, so that groups wear alike.
    next_group: u32,
    /// The last that were given.
    incarnation: u64,
    sequence: u64,
    stripe: u64,
    /// The last stripe that is durable together with all before it.
    committed: u64,
    /// The first stripe that was acknowledged before it was flushed, and the last one since: numbers, and writes to be flushed.
    unflushed: Option<(u64, Vec<(u16, u64)>)>,
    unflushed_latest: Option<(u64, Vec<(u16, u64)>)>,

    namespaces: Vec<Option<Namespace>>,
    /// Changes of hosts, and moves, that wait for a stripe.
    changes: VecDeque<Change>,
    moves: VecDeque<Change>,
    /// Keys with a change of a host in flight, and what waits for it.
    locks: BTreeMap<TierKey, VecDeque<Job>>,
    /// Stores of cache namespaces that wait for an eviction.
    cramped: VecDeque<Job>,
    /// What changes in flight will cost, bytes.
    pending_cost: u64,
    /// What becomes the next stripe.
    assembly: Option<Assembly>,
    stripes: VecDeque<Stripe>,
    flushes: Vec<(OpId, Vec<(u16, u64)>)>,

    fetches: Slab<Fetch>,
    fetching: BTreeMap<TierKey, usize>,
    /// Retrieves and reconstructions that wait for memory.
    hungry: VecDeque<(OpId, u16, Key)>,
    stalled: VecDeque<usize>,
    tier: Tier,
    ahead: Option<ReadAhead>,

    tasks: Slab<StripeTask>,
    /// Stores of a cache wait, in any shard, and this one could drop something for them.
    pressed: bool,
    cleaner: Option<Cleaner>,
    /// Groups cleaned since there was room enough.
    clean_rounds: u32,
    /// Groups that cannot be cleaned, since something in them cannot be read.
    stuck: BTreeSet<u32>,
    rebuild: Option<Rebuild>,
    /// Rebuilds that were started.
    rebuilds: u64,
    scrub: Option<Scrub>,
    scrub_due: Duration,
    /// Stripes that a read found damaged.
    repairs: VecDeque<(u32, u32)>,
    repairing: bool,
    draining: bool,
    takes_turns: bool,

    ops: Slab<Op>,
    out: VecDeque<DeviceRequest>,
    done: VecDeque<(OpId, KvResult<SharedBuf>)>,
    stats: VolumeStats,
}

/// What a device operation in flight is for.
#[derive(Clone, Copy, Debug)]
enum Op {
    Stripe { number: u64, column: usize, member: u16 },
    Flush { member: u16 },
    Superblock { member: u16 },
    SuperblockFlush { member: u16 },
    Fetch { fetch: usize, part: usize, member: u16 },
    Task { task: usize, piece: usize, member: u16 },
    Erase { member: u16 },
    Freed { member: u16, group: u32 },
    EraseFree { member: u16, group: u32, serial: u64 },
}

/// A namespace and its keys in this volume.
struct Namespace {
    index: Index,
    keys: u64,
    bytes: u64,
    attached: Option<Attached>,
}

#[derive(Debug)]
struct Attached {
    durability: Durability,
    limits: KvLimits,
    usage: Usage,
}

impl Volume {
    const fn geometry(&self) -> Geometry {
        self.config.geometry
    }

    /// The longest value that a group has room for, bytes.
    #[must_use]
    pub fn value_max(&self) -> u32 {
        let geometry = self.geometry();
        // A header row, a footer of two rows, and the padding of the last column.
        let pages = u64::from(geometry.segment_pages() - 4) * geometry.k() as u64;
        u32::try_from(pages * crate::format::PAGE as u64 - 4096).unwrap_or(u32::MAX).min(place::VALUE_MAX)
    }

    /// Serves a namespace. What it has in this volume is added to its usage. Its slot names it from now on.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(&mut self, spec: NamespaceSpec) -> Result<u16, AttachError> {
        if spec.limits.kvvml > self.value_max() {
            return Err(AttachError::ValueTooLarge { kvvml: spec.limits.kvvml, most: self.value_max().into() });
        }
        let table = &self.superblock.namespaces;
        let found = table.iter().position(|record| record.used && record.uuid == spec.uuid);
        let slot = found.or_else(|| table.iter().position(|record| !record.used)).ok_or(AttachError::Full)?;
        let reserved: u64 =
            table.iter().enumerate().filter(|(n, r)| r.used && *n != slot).map(|(_, r)| r.reservation).sum();
        let free = self.usable().saturating_sub(reserved);
        if spec.reservation > free {
            return Err(AttachError::Reservation { reservation: spec.reservation, free });
        }
        if let Some(Some(namespace)) = self.namespaces.get(slot)
            && namespace.attached.is_some()
        {
            return Err(AttachError::Attached);
        }
        self.ensure_scratch(spec.limits.kvvml);
        let Some(record) = self.superblock.namespaces.get_mut(slot) else { return Err(AttachError::Full) };
        let wanted = NamespaceRecord {
            uuid: spec.uuid,
            generation: record.generation,
            mode: spec.mode,
            used: true,
            reservation: spec.reservation,
        };
        if *record != wanted {
            *record = wanted;
            self.superblock_writer.dirty = true;
        }
        let memory = self.config.index_memory;
        let Some(place) = self.namespaces.get_mut(slot) else { return Err(AttachError::Full) };
        let namespace =
            place.get_or_insert_with(|| Namespace { index: Index::new(memory), keys: 0, bytes: 0, attached: None });
        spec.usage.found(namespace.keys, namespace.bytes);
        namespace.attached = Some(Attached { durability: spec.durability, limits: spec.limits, usage: spec.usage });
        self.pump();
        Ok(slot as u16)
    }

    /// Stops serving a namespace; its data stay. Requests in flight go on.
    pub fn detach(&mut self, slot: u16) {
        if let Some(Some(namespace)) = self.namespaces.get_mut(usize::from(slot))
            && let Some(attached) = namespace.attached.take()
        {
            attached.usage.left(namespace.keys, namespace.bytes);
        }
    }

    /// Removes a namespace and its data. There must be no requests of it in flight.
    pub fn destroy(&mut self, slot: u16) {
        self.detach(slot);
        let geometry = self.geometry();
        let Some(namespace) = self.namespaces.get_mut(usize::from(slot)).and_then(Option::take) else { return };
        for (_, meta) in namespace.index.range(None) {
            match place::find(&geometry, meta) {
                Found::Value(place) => self.kill(place.group, group::cost(place.len)),
                Found::Tombstone(group) => self.kill(group, group::ENTRY_COST),
                Found::Pending => {}
            }
        }
        self.tier.remove_namespace(slot);
        if let Some(record) = self.superblock.namespaces.get_mut(usize::from(slot)) {
            record.used = false;
            record.generation = record.generation.wrapping_add(1);
            record.reservation = 0;
        }
        self.superblock_writer.dirty = true;
        self.pump();
    }

    /// The namespaces of the volume, attached or not: slot, UUID, keys, bytes.
    pub fn namespaces(&self) -> impl Iterator<Item = (u16, crate::format::Uuid, u64, u64)> + '_ {
        self.superblock.namespaces.iter().enumerate().filter(|(_, record)| record.used).map(|(slot, record)| {
            let namespace = self.namespaces.get(slot).and_then(Option::as_ref);
            (slot as u16, record.uuid, namespace.map_or(0, |n| n.keys), namespace.map_or(0, |n| n.bytes))
        })
    }

    /// Takes a request. Its result comes from [`Self::poll`] exactly once, under `id`.
    pub fn submit(&mut self, slot: u16, id: OpId, request: KvRequest<PoolBuf>) {
        if self.attached(slot).is_none() {
            self.done.push_back((id, Err(KvError::NotReady)));
            return;
        }
        match request {
            KvRequest::Store { key, options, value } => {
                self.change(Job::Store { id, slot, key, options, value });
            }
            KvRequest::Delete { key } => self.change(Job::Delete { id, slot, key }),
            KvRequest::Retrieve { key, .. } => {
                if !self.hungry.is_empty() || !self.retrieve(id, slot, key) {
                    self.hungry.push_back((id, slot, key));
                }
            }
            KvRequest::Exist { key } => {
                let result = self.exist(slot, key);
                self.done.push_back((id, result));
            }
            KvRequest::List { start, max_bytes } => {
                let mut list = ListWriter::new(max_bytes);
                if let Some(namespace) = self.namespace(slot) {
                    namespace.live_keys(&self.geometry(), start, |key| list.push(&key));
                }
                self.done.push_back((id, Ok(KvOutcome::Listed(list.finish()))));
            }
        }
        self.pump();
    }

    /// The first keys of this shard, from `start`, that a list of `max_bytes` has room for.
    #[must_use]
    pub fn keys(&self, slot: u16, start: Option<Key>, max_bytes: u32) -> Vec<Key> {
        let mut room = (max_bytes as usize).saturating_sub(size_of::<u32>());
        let mut keys = Vec::new();
        if let Some(namespace) = self.namespace(slot) {
            namespace.live_keys(&self.geometry(), start, |key| {
                let Some(rest) = room.checked_sub(entry_len(key.len())) else { return false };
                room = rest;
                keys.push(key);
                true
            });
        }
        keys
    }

    fn exist(&mut self, slot: u16, key: Key) -> KvResult<SharedBuf> {
        let geometry = self.geometry();
        let place = match self.meta(slot, &key).map(|meta| place::find(&geometry, meta)) {
            Some(Found::Value(place)) => place,
            _ => return Err(KvError::KeyDoesNotExist),
        };
        if let Some(ahead) = &mut self.ahead {
            let tier_key = (slot, key);
            let cached = self.tier.contains(&tier_key) || self.fetching.contains_key(&tier_key);
            if ahead.on_exist(&tier_key, place.len.into(), cached)
                && !self.fetch_ahead(slot, key, place)
                && let Some(ahead) = &mut self.ahead
            {
                ahead.on_done(&tier_key, None);
            }
        }
        Ok(KvOutcome::Exists { len: place.len })
    }

    /// Makes what was acknowledged so far survive a loss of power; the result, under `id`, is `Stored`.
    pub fn flush(&mut self, id: OpId) {
        let marks = (0u16..).zip(&self.members).map(|(member, state)| (member, state.completed)).collect();
        self.flushes.push((id, marks));
        self.pump();
    }

    /// A finished request, or `None` if there is none now. Also gives reads that wait for memory another try, so that there may be
    /// device operations afterwards.
    pub fn poll(&mut self) -> Option<(OpId, KvResult<SharedBuf>)> {
        if self.wants_memory() {
            self.retry_hungry();
        }
        self.done.pop_front()
    }

    /// An operation for a device; its outcome goes to [`Self::handle_device`]. When there is none there is nothing to do either, unless
    /// the driver has said that it [`takes turns`](Self::take_turns).
    pub fn poll_device(&mut self) -> Option<DeviceRequest> {
        while self.out.is_empty() && !self.takes_turns && self.has_work() {
            self.work();
        }
        self.out.pop_front()
    }

    /// The driver serves others, too, and calls [`Self::work`] now and then while [`Self::has_work`] says so.
    pub const fn take_turns(&mut self) {
        self.takes_turns = true;
    }

    /// The operation `token` has ended.
    pub fn handle_device(&mut self, token: u64, done: DeviceDone) {
        let Some(op) = usize::try_from(token).ok().and_then(|token| self.ops.try_remove(token)) else { return };
        match (op, done) {
            (Op::Stripe { number, column, member }, DeviceDone::Write(result)) => {
                self.stripe_written(number, column, member, &result);
            }
            (Op::Flush { member }, DeviceDone::Flush(result)) => self.flushed(member, result),
            (Op::Superblock { member }, DeviceDone::Write(result)) => self.superblock_written(member, result),
            (Op::SuperblockFlush { member }, DeviceDone::Flush(result)) => self.superblock_flushed(member, result),
            (Op::Fetch { fetch, part, member }, DeviceDone::Read { buf, result }) => {
                self.read_ended(member, &result);
                self.fetched(fetch, part, buf, &result);
            }
            (Op::Task { task, piece, member }, DeviceDone::Read { buf, result }) => {
                self.read_ended(member, &result);
                self.task_read(task, piece, buf, &result);
            }
            (Op::Task { task, member, .. }, DeviceDone::Write(result)) => self.task_written(task, member, result),
            (Op::Erase { member }, DeviceDone::Write(result)) => self.erased(member, result),
            (Op::Freed { member, group }, DeviceDone::Write(result)) => self.freed_renewed(member, group, result),
            (Op::EraseFree { member, group, serial }, DeviceDone::Write(result)) => {
                self.free_erased(serial, member, group, result);
            }
            (op, _) => {
                // A driver answers each operation in kind; one that does not cannot be trusted with more.
                self.set_read_only(format!("an answer does not match its operation: {op:?}"));
            }
        }
        self.pump();
    }

    /// The time, counted from any fixed instant. To be called at least every 100 ms.
    pub fn handle_time(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.look_at_pressure();
        self.pump();
    }

    /// Whether reads wait for memory of the pool: [`Self::poll`] is to be called when some has come back.
    #[must_use]
    pub fn wants_memory(&self) -> bool {
        !self.hungry.is_empty() || !self.stalled.is_empty()
    }

    /// Whether nothing is under way: no request, no device operation, no result that has not been fetched.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty()
            && self.out.is_empty()
            && self.done.is_empty()
            && self.changes.is_empty()
            && self.moves.is_empty()
            && self.locks.is_empty()
            && self.cramped.is_empty()
            && self.assembly.is_none()
            && self.stripes.is_empty()
            && self.flushes.is_empty()
            && self.fetches.is_empty()
            && self.hungry.is_empty()
            && self.superblock_writer.is_resting()
            && (self.superblock_writer.is_settled() || self.read_only.is_some())
            && self.cleaner.is_none()
            && (self.draining || (self.rebuild.is_none() && self.scrub.is_none()))
    }

    /// Starts no more background work, so that [`Self::is_idle`] becomes true when all requests have ended.
    pub fn drain(&mut self) {
        self.draining = true;
        self.repairs.clear();
        self.pump();
    }

    /// Starts a scrub pass now, unless one is running.
    pub fn scrub(&mut self) {
        self.start_scrub();
        self.pump();
    }

    /// What the volume is doing and has done.
    #[must_use]
    pub fn stats(&self) -> VolumeStats {
        let namespaces = self.namespaces.iter().flatten();
        let mut stats = self.stats.clone();
        stats.groups = self.groups.len() as u32;
        stats.groups_free = self.free;
        stats.capacity = self.usable();
        stats.live = self.live;
        stats.keys = namespaces.clone().map(|n| n.keys).sum();
        stats.index_bytes = namespaces.map(|n| n.index.memory()).sum();
        stats.table_bytes =
            self.groups.iter().map(|g| g.stripes.capacity() * size_of::<crate::format::StripeRef>()).sum::<usize>()
                as u64
                + (self.groups.capacity() * size_of::<Group>()) as u64;
        stats.members = self.superblock.members.iter().map(|member| member.state).collect();
        stats.rebuild = self.rebuild.as_ref().map(|rebuild| (rebuild.group, self.groups.len() as u32));
        stats.scrub = self.scrub.as_ref().map(|scrub| (scrub.group, self.groups.len() as u32));
        stats.tier = self.tier.stats();
        if let Some(ahead) = &self.ahead {
            let ahead = ahead.stats();
            stats.read_ahead = (ahead.started, ahead.used, ahead.wasted);
        }
        stats.read_only.clone_from(&self.read_only);
        stats
    }

    /// Does all that can be done now.
    fn pump(&mut self) {
        self.pump_members();
        self.finish_stripes();
        self.start_stripes();
        self.pump_cleaner();
        self.start_stripes();
        self.pump_rebuild();
        self.pump_scrub();
        self.pump_members();
        self.pump_flushes();
    }

    fn namespace(&self, slot: u16) -> Option<&Namespace> {
        self.namespaces.get(usize::from(slot))?.as_ref()
    }

    fn attached(&self, slot: u16) -> Option<&Attached> {
        self.namespace(slot)?.attached.as_ref()
    }

    fn mode(&self, slot: u16) -> NamespaceMode {
        self.superblock.namespaces.get(usize::from(slot)).map_or(NamespaceMode::Store, |record| record.mode)
    }

    fn generation(&self, slot: u16) -> u32 {
        self.superblock.namespaces.get(usize::from(slot)).map_or(0, |record| record.generation)
    }

    fn meta(&self, slot: u16, key: &Key) -> Option<Meta> {
        self.namespace(slot)?.index.get(key)
    }

    /// A value or tombstone that cost so much does not count any more.
    fn kill(&mut self, group: u32, cost: u64) {
        if let Some(group) = self.groups.get_mut(group as usize) {
            group.remove_live(cost);
            self.live = self.live.saturating_sub(cost);
        }
    }

    /// A value or tombstone that costs so much counts from now on.
    fn revive(&mut self, group: u32, cost: u64) {
        if let Some(group) = self.groups.get_mut(group as usize) {
            group.add_live(cost);
            self.live += cost;
        }
    }

    fn request(&mut self, op: Op, member: u16, device_op: DeviceOp) {
        match &device_op {
            DeviceOp::Read { buf, .. } => self.stats.read_bytes += buf.len() as u64,
            DeviceOp::Write { bufs, .. } => {
                self.stats.written_bytes += bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
            }
            DeviceOp::Flush => {}
        }
        let token = self.ops.insert(op) as u64;
        self.out.push_back(DeviceRequest { token, member, op: device_op });
    }

    fn set_read_only(&mut self, why: String) {
        if self.read_only.is_none() {
            tracing::error!(shard = self.config.shard, why, "the volume takes no more changes");
            self.read_only = Some(why);
        }
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("shard", &self.config.shard)
            .field("stripe", &self.stripe)
            .field("free", &self.free)
            .field("open", &self.open.as_ref().map(|open| (open.group, open.row, open.free)))
            .field("seal_wanted", &self.seal_wanted)
            .field("groups", &self.groups.iter().map(|g| (g.state, g.live, g.live_records, g.pins)).collect::<Vec<_>>())
            .field("changes", &self.changes.len())
            .field("moves", &self.moves.len())
            .field("locks", &self.locks.len())
            .field("cramped", &self.cramped.len())
            .field("stripes", &self.stripes.len())
            .field("fetches", &self.fetches.len())
            .field("hungry", &self.hungry.len())
            .field("stalled", &self.stalled.len())
            .field("tasks", &self.tasks.len())
            .field("ops", &self.ops.len())
            .field("scratch", &self.scratch)
            .field("cleaner", &self.cleaner)
            .field("clean_rounds", &self.clean_rounds)
            .field("stuck", &self.stuck)
            .field("superblock", &self.superblock_writer)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

impl Namespace {
    /// Gives the keys that have values, in order from `start`, to `take` until it returns false.
    fn live_keys(&self, geometry: &Geometry, start: Option<Key>, mut take: impl FnMut(Key) -> bool) {
        let live = |meta| matches!(place::find(geometry, meta), Found::Value(_));
        let _ = self.index.range(start.as_ref()).filter(|(_, meta)| live(*meta)).all(|(key, _)| take(key));
    }
}

const _: () = assert!(NAMESPACES_MAX <= 1 << 16);

#[cfg(test)]
mod tests;

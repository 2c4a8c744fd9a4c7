//! What a pool tells of itself: written by the cores that have its volumes, read by the control plane and the daemon.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kvof_spec::log::CriticalWarning;
use kvof_store::{
    format::{Label, MemberState},
    volume::VolumeStats,
};

/// The state of one pool, over all its shards. What it says is at most half a second old.
#[derive(Debug)]
pub struct PoolStatus {
    /// What the configuration calls the pool.
    pub name: String,
    /// What its devices say of it: identity and layout.
    pub label: Label,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    shards: Vec<VolumeStats>,
    /// Where the device of each member is, as far as it has been found.
    paths: Vec<Option<PathBuf>>,
}

impl PoolStatus {
    /// Of a pool that has just been opened.
    #[must_use]
    pub fn new(name: String, label: Label, paths: Vec<Option<PathBuf>>) -> Self {
        let shards = vec![VolumeStats::default(); usize::from(label.geometry.shards())];
        Self { name, label, state: Mutex::new(State { shards, paths }) }
    }

    /// What the volume of `shard` says now.
    pub fn publish(&self, shard: u16, stats: VolumeStats) {
        if let Some(place) = self.lock().shards.get_mut(usize::from(shard)) {
            *place = stats;
        }
    }

    /// The device of `member` is at `path` now, or nowhere.
    pub fn locate(&self, member: u16, path: Option<PathBuf>) {
        if let Some(place) = self.lock().paths.get_mut(usize::from(member)) {
            *place = path;
        }
    }

    /// Where the device of `member` is.
    #[must_use]
    pub fn path(&self, member: u16) -> Option<PathBuf> {
        self.lock().paths.get(usize::from(member)).cloned().flatten()
    }

    /// Sums over the shards. The state of a member is the worst that any shard reports.
    #[must_use]
    pub fn total(&self) -> VolumeStats {
        let state = self.lock();
        let mut total = VolumeStats::default();
        for shard in &state.shards {
            add(&mut total, shard);
        }
        total
    }

    /// What a host should know of the pool's health.
    #[must_use]
    pub fn warnings(&self) -> CriticalWarning {
        let total = self.total();
        let mut warnings = CriticalWarning::empty();
        if total.members.iter().any(|state| *state != MemberState::Live) {
            warnings |= CriticalWarning::DEGRADED;
        }
        if total.read_only.is_some() {
            warnings |= CriticalWarning::READ_ONLY;
        }
        warnings
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(total: &mut VolumeStats, shard: &VolumeStats) {
    total.groups = total.groups.saturating_add(shard.groups);
    total.groups_free = total.groups_free.saturating_add(shard.groups_free);
    for (sum, part) in [
        (&mut total.capacity, shard.capacity),
        (&mut total.live, shard.live),
        (&mut total.keys, shard.keys),
        (&mut total.index_bytes, shard.index_bytes),
        (&mut total.table_bytes, shard.table_bytes),
        (&mut total.stored_bytes, shard.stored_bytes),
        (&mut total.store_copied_bytes, shard.store_copied_bytes),
        (&mut total.retrieved_bytes, shard.retrieved_bytes),
        (&mut total.retrieve_copied_bytes, shard.retrieve_copied_bytes),
        (&mut total.written_bytes, shard.written_bytes),
        (&mut total.read_bytes, shard.read_bytes),
        (&mut total.moved_bytes, shard.moved_bytes),
        (&mut total.stripes, shard.stripes),
        (&mut total.records, shard.records),
        (&mut total.groups_cleaned, shard.groups_cleaned),
        (&mut total.evicted, shard.evicted),
        (&mut total.degraded_reads, shard.degraded_reads),
        (&mut total.damaged, shard.damaged),
        (&mut total.repaired, shard.repaired),
        (&mut total.unrecovered, shard.unrecovered),
        (&mut total.scrubs, shard.scrubs),
        (&mut total.tier.hits, shard.tier.hits),
        (&mut total.tier.ahead_hits, shard.tier.ahead_hits),
        (&mut total.tier.misses, shard.tier.misses),
        (&mut total.tier.hit_bytes, shard.tier.hit_bytes),
        (&mut total.tier.inserted, shard.tier.inserted),
        (&mut total.tier.rejected, shard.tier.rejected),
        (&mut total.tier.evicted, shard.tier.evicted),
        (&mut total.tier.used, shard.tier.used),
        (&mut total.tier.bookkeeping, shard.tier.bookkeeping),
        (&mut total.tier.limit, shard.tier.limit),
        (&mut total.tier.entries, shard.tier.entries),
        (&mut total.read_ahead.0, shard.read_ahead.0),
        (&mut total.read_ahead.1, shard.read_ahead.1),
        (&mut total.read_ahead.2, shard.read_ahead.2),
    ] {
        *sum = sum.saturating_add(part);
    }
    total.rebuild = progress(total.rebuild, shard.rebuild);
    total.scrub = progress(total.scrub, shard.scrub);
    if total.read_only.is_none() {
        total.read_only.clone_from(&shard.read_only);
    }
    if total.members.len() < shard.members.len() {
        total.members.resize(shard.members.len(), MemberState::Live);
    }
    for (state, part) in total.members.iter_mut().zip(&shard.members) {
        *state = worse(*state, *part);
    }
}

/// Of two passes, over as much as both.
fn progress(sum: Option<(u32, u32)>, part: Option<(u32, u32)>) -> Option<(u32, u32)> {
    match (sum, part) {
        (Some((done, of)), Some((more, rest))) => Some((done.saturating_add(more), of.saturating_add(rest))),
        (sum, part) => sum.or(part),
    }
}

fn worse(a: MemberState, b: MemberState) -> MemberState {
    match (a, b) {
        (MemberState::Failed, _) | (_, MemberState::Failed) => MemberState::Failed,
        (MemberState::Live, other) | (other, MemberState::Live) => other,
        (MemberState::Rebuilding { rebuilt: a }, MemberState::Rebuilding { rebuilt: b }) => {
            MemberState::Rebuilding { rebuilt: a.min(b) }
        }
    }
}

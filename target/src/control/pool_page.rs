//! The log page Pool Statistics (C0h, vendor specific; `docs/log-pages.md`).

use kvof_spec::{
    Status,
    log::{POOL_MEMBERS_MAX, PoolFlags, PoolMember, PoolMemberState, PoolStatistics},
};
use kvof_store::{format::MemberState, volume::VolumeStats};

use super::controller::Controller;
use crate::backend::PoolStatus;

/// Of the pool that namespace `nsid` lies in.
pub(super) fn read(controller: &Controller, nsid: u32) -> Result<PoolStatistics, Status> {
    let namespaces = controller.subsystem.namespaces();
    let ns = namespaces.get(nsid).filter(|ns| controller.sets().contains(ns.csi()));
    let ns = ns.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?;
    Ok(page(ns.state.pool.get().ok_or(Status::INVALID_FIELD)?))
}

fn page(pool: &PoolStatus) -> PoolStatistics {
    let total = pool.total();
    let geometry = &pool.label.geometry;
    let mut page = PoolStatistics::zeroed();
    page.signature = PoolStatistics::SIGNATURE;
    page.version = PoolStatistics::VERSION.into();
    page.members = geometry.members().min(POOL_MEMBERS_MAX as u16).into();
    page.flags = flags(&total).bits().into();
    page.uuid = pool.label.pool;
    page.data_columns = geometry.profile().k();
    page.parity_columns = geometry.profile().m();
    page.shards = geometry.shards().into();
    for (to, from) in page.name.iter_mut().zip(pool.name.bytes()) {
        *to = from;
    }
    page.capacity = total.capacity.into();
    page.live = total.live.into();
    page.keys = total.keys.into();
    page.index_bytes = total.index_bytes.into();
    page.table_bytes = total.table_bytes.into();
    page.groups = u64::from(total.groups).into();
    page.groups_free = u64::from(total.groups_free).into();
    page.stored_bytes = total.stored_bytes.into();
    page.store_copied_bytes = total.store_copied_bytes.into();
    page.retrieved_bytes = total.retrieved_bytes.into();
    page.retrieve_copied_bytes = total.retrieve_copied_bytes.into();
    page.written_bytes = total.written_bytes.into();
    page.read_bytes = total.read_bytes.into();
    page.moved_bytes = total.moved_bytes.into();
    page.stripes = total.stripes.into();
    page.records = total.records.into();
    page.groups_cleaned = total.groups_cleaned.into();
    page.evicted = total.evicted.into();
    page.degraded_reads = total.degraded_reads.into();
    page.damaged = total.damaged.into();
    page.repaired = total.repaired.into();
    page.unrecovered = total.unrecovered.into();
    let (done, of) = total.rebuild.unwrap_or_default();
    (page.rebuild_done, page.rebuild_of) = (u64::from(done).into(), u64::from(of).into());
    let (done, of) = total.scrub.unwrap_or_default();
    (page.scrub_done, page.scrub_of) = (u64::from(done).into(), u64::from(of).into());
    page.scrubs = total.scrubs.into();
    page.tier_hits = total.tier.hits.into();
    page.tier_misses = total.tier.misses.into();
    page.tier_hit_bytes = total.tier.hit_bytes.into();
    page.tier_ahead_hits = total.tier.ahead_hits.into();
    page.tier_used = total.tier.used.into();
    page.tier_limit = total.tier.limit.into();
    page.tier_values = total.tier.entries.into();
    let (started, used, wasted) = total.read_ahead;
    (page.ahead_started, page.ahead_used, page.ahead_wasted) = (started.into(), used.into(), wasted.into());
    for (place, state) in page.member.iter_mut().zip(&total.members) {
        *place = member(*state);
    }
    page
}

fn flags(total: &VolumeStats) -> PoolFlags {
    let mut flags = PoolFlags::empty();
    flags.set(PoolFlags::DEGRADED, total.members.iter().any(|state| *state != MemberState::Live));
    flags.set(PoolFlags::READ_ONLY, total.read_only.is_some());
    flags.set(PoolFlags::REBUILD, total.rebuild.is_some());
    flags.set(PoolFlags::SCRUB, total.scrub.is_some());
    flags
}

fn member(state: MemberState) -> PoolMember {
    let (state, rebuilt) = match state {
        MemberState::Live => (PoolMemberState::LIVE, 0),
        MemberState::Failed => (PoolMemberState::FAILED, 0),
        MemberState::Rebuilding { rebuilt } => (PoolMemberState::REBUILDING, rebuilt),
    };
    PoolMember { state: state.0, rebuilt: rebuilt.into(), ..PoolMember::zeroed() }
}

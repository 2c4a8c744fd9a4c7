//! What hosts hear of the pools that KV namespaces lie in: health, events, the volatile write cache, statistics.

use kvof_spec::{
    AdminOpcode,
    aen::AsyncEvent,
    feature::AsyncEventConfig,
    identify::{IdentifyController, Vwc},
    log::{CriticalWarning, LogSupport, PoolFlags, PoolMemberState, PoolStatistics, SmartHealth, SupportedLogPages},
};
use kvof_store::{
    ec::Profile,
    format::{Label, MemberState, Secret},
    geometry::Geometry,
    volume::VolumeStats,
};

use super::*;
use crate::{
    backend::PoolStatus,
    model::{Durability, NamespaceMode, PoolDef, PoolLimits, PoolUse},
};

const POOLED: u32 = 4;

fn definition_with_pool(durability: Durability) -> TargetDef {
    let mut def = definition();
    let limits =
        PoolLimits { index_memory: 1 << 20, tier: 0, scratch: 1 << 20, read_ahead: 0, rebuild_rate: 0, scrub_rate: 0 };
    def.pools.push(PoolDef { name: "flash".into(), devices: vec!["/nonexistent".into()], create: None, limits });
    let mut ns = kv_namespace(POOLED);
    let used = PoolUse { pool: "flash".into(), mode: NamespaceMode::Store, durability, reservation: 0 };
    if let NamespaceKindDef::Kv { storage, .. } = &mut ns.kind {
        *storage = KvStorageDef::Pool(used);
    }
    def.subsystems[0].namespaces.push(ns);
    def
}

/// A pool of 1+1 with two shards, whose volumes say `members` of their devices.
fn open(rig: &Rig, members: [MemberState; 2]) -> Arc<PoolStatus> {
    let geometry = Geometry::new(Profile::new(1, 1).unwrap(), 2, 2, 256, 64).unwrap();
    let label = Label {
        pool: [0xaa; 16],
        device: [1; 16],
        replaces: [0; 16],
        secret: Secret([0; 16]),
        member: 0,
        geometry,
        created: 0,
        name: "x".into(),
    };
    let status = Arc::new(PoolStatus::new("flash".into(), label, vec![None, None]));
    say(&status, members);
    let namespaces = rig.target.namespaces();
    let ns = namespaces.iter().find(|ns| ns.def.nsid == POOLED).unwrap();
    ns.state.pool.set(Arc::clone(&status)).unwrap();
    status
}

fn say(status: &PoolStatus, members: [MemberState; 2]) {
    for shard in 0..2u64 {
        let mut stats = VolumeStats {
            keys: 10 + shard,
            index_bytes: 300,
            stored_bytes: 1000,
            written_bytes: 2500,
            rebuild: (shard == 1).then_some((5, 64)),
            // The worst of all shards counts.
            members: if shard == 0 { vec![MemberState::Live; 2] } else { members.to_vec() },
            ..VolumeStats::default()
        };
        (stats.tier.hits, stats.tier.misses) = (3, 1);
        status.publish(shard as u16, stats);
    }
}

const LIVE: [MemberState; 2] = [MemberState::Live; 2];

#[test]
fn health_and_events_follow_the_devices() {
    let rig = Rig::with(definition_with_pool(Durability::Media), TargetLimits::default());
    let pool = open(&rig, LIVE);
    let mut host = rig.host();
    let enable = |host: &mut Host| {
        let bits = AsyncEventConfig::SMART_DEGRADED.bits();
        host.set_feature(FeatureId::ASYNC_EVENT_CONFIGURATION, bits).unwrap();
    };
    let request = |host: &mut Host| {
        assert_eq!(host.send(Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST), 0), AdminOutcome::Held);
        host.cid
    };
    enable(&mut host);
    let waiting = request(&mut host);
    rig.target.check_health();
    assert_eq!(host.completions(), [], "all is well");

    let failed = [MemberState::Live, MemberState::Failed];
    say(&pool, failed);
    let smart: SmartHealth = host.log_as(LogId::SMART_HEALTH);
    assert_eq!(smart.critical_warning(), CriticalWarning::DEGRADED);
    let wakes = rig.wakes.load(Ordering::Relaxed);
    rig.target.check_health();
    assert!(rig.wakes.load(Ordering::Relaxed) > wakes);
    assert_eq!(host.completions(), [(waiting, Reply::result(AsyncEvent::SUBSYSTEM_RELIABILITY.0))]);
    // Told once.
    let waiting = request(&mut host);
    let smart: SmartHealth = host.log_as(LogId::SMART_HEALTH);
    assert_eq!(smart.critical_warning(), CriticalWarning::DEGRADED);
    rig.target.check_health();
    assert_eq!(host.completions(), []);
    say(&pool, LIVE);
    rig.target.check_health();
    let smart: SmartHealth = host.log_as(LogId::SMART_HEALTH);
    assert!(smart.critical_warning().is_empty());
    say(&pool, [MemberState::Rebuilding { rebuilt: 7 }, MemberState::Live]);
    rig.target.check_health();
    assert_eq!(host.completions().first().map(|(cid, _)| *cid), Some(waiting), "a new time is a new event");

    // A host that comes later hears of what holds already.
    let mut late = rig.host();
    let waiting = request(&mut late);
    enable(&mut late);
    assert_eq!(late.completions().first().map(|(cid, _)| *cid), Some(waiting));
}

#[test]
fn statistics_of_the_pool_of_a_namespace() {
    let rig = Rig::with(definition_with_pool(Durability::Media), TargetLimits::default());
    let mut host = rig.host();
    let read = |nsid, len| GetLogPageCmd::new(LogId::POOL_STATISTICS, nsid, 0, len).unwrap();
    assert_eq!(host.log(read(POOLED, 1024)), Err(Status::INVALID_LOG_PAGE), "no pool is open");
    let pool = open(&rig, [MemberState::Failed, MemberState::Rebuilding { rebuilt: 7 }]);
    let supported: SupportedLogPages = host.log_as(LogId::SUPPORTED_LOG_PAGES);
    assert_eq!(supported.support(LogId::POOL_STATISTICS), LogSupport::LSUPP);
    assert_eq!(host.log(read(1, 1024)), Err(Status::INVALID_FIELD), "in memory");
    assert_eq!(host.log(read(77, 1024)), Err(Status::INVALID_NAMESPACE_OR_FORMAT));
    assert_eq!(host.log(read(u32::MAX, 1024)), Err(Status::INVALID_NAMESPACE_OR_FORMAT));
    let data = host.log(read(POOLED, 1024)).unwrap();
    let page = PoolStatistics::from_bytes(&data).unwrap();
    assert_eq!((page.name(), page.uuid), ("flash", [0xaa; 16]));
    assert_eq!((page.data_columns, page.parity_columns, page.shards.get(), page.members.get()), (1, 1, 2, 2));
    assert_eq!(page.flags(), PoolFlags::DEGRADED | PoolFlags::REBUILD);
    assert_eq!((page.keys.get(), page.index_bytes.get()), (21, 600));
    assert_eq!((page.stored_bytes.get(), page.written_bytes.get()), (2000, 5000));
    assert_eq!((page.rebuild_done.get(), page.rebuild_of.get()), (5, 64));
    assert_eq!((page.tier_hits.get(), page.tier_misses.get()), (6, 2));
    let members: Vec<_> = page.member_states().map(|m| (m.state(), m.rebuilt.get())).collect();
    assert_eq!(members, [(PoolMemberState::FAILED, 0), (PoolMemberState::REBUILDING, 7)]);
    pool.publish(0, VolumeStats { read_only: Some("why".into()), ..VolumeStats::default() });
    let data = host.log(read(POOLED, 16)).unwrap();
    assert_eq!(data[12], 0x07, "read only, too");
    assert_eq!(pool.warnings(), CriticalWarning::DEGRADED | CriticalWarning::READ_ONLY);
    // A host that knows blocks only sees no KV namespace.
    let mut blocks = rig.admin_as(HOST, SUBSYSTEM, 0).unwrap();
    blocks.enable(CC_ENABLE_NVM);
    assert_eq!(blocks.log(read(POOLED, 1024)), Err(Status::INVALID_NAMESPACE_OR_FORMAT));
}

#[test]
fn a_volatile_write_cache_is_there_if_an_acknowledgement_may_be_lost() {
    for (durability, vwc) in
        [(Durability::Media, Vwc::empty()), (Durability::Device, Vwc::PRESENT | Vwc::FLUSH_ALL_UNSUPPORTED)]
    {
        let rig = Rig::with(definition_with_pool(durability), TargetLimits::default());
        let mut host = rig.host();
        let id: IdentifyController = host.identify_as(Cns::CONTROLLER, 0, kvof_spec::Csi::NVM).unwrap();
        assert_eq!(id.vwc, vwc.bits());
    }
}

#[test]
fn definitions_name_pools_that_exist_once() {
    let wrong = |edit: fn(&mut TargetDef)| {
        let mut def = definition_with_pool(Durability::Media);
        edit(&mut def);
        Target::new(def, TargetLimits::default(), Instant::now()).expect_err("must be refused")
    };
    assert!(matches!(wrong(|def| def.pools.clear()), DefError::UnknownPool { nsid: POOLED, .. }));
    let twice = wrong(|def| def.pools.push(def.pools[0].clone()));
    assert_eq!(twice, DefError::DuplicatePool { name: "flash".into() });
}

#[test]
fn a_place_in_a_pool_changes_hands_in_two_steps() {
    let rig = Rig::with(definition_with_pool(Durability::Media), TargetLimits::default());
    let mut moved = definition_with_pool(Durability::Media);
    moved.subsystems[0].namespaces.last_mut().unwrap().nsid = 5;
    assert!(matches!(rig.target.plan(moved.clone()), Err(DefError::StorageInUse { nsid: 5, .. })));
    let mut without = definition_with_pool(Durability::Media);
    without.subsystems[0].namespaces.pop();
    let plan = rig.target.plan(without).unwrap();
    rig.target.apply(plan).unwrap();
    assert_eq!(rig.target.plan(moved).unwrap().attach().len(), 1);
}

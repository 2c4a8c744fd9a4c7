//! Any operations, with a crash and a new start after every one of them, against the reference model.
//!
//! The pools are so small that groups are filled, cleaned, dropped and used again all the time. After each operation the
//! devices are forked as a kill and as a loss of power would leave them, the fork is opened, every key is read, and List and
//! the counters are compared with what was read. The run itself goes on; a crash of its own is one of the operations.

mod common;

use std::time::Duration;

use common::world::{Check, NamespacePlan, PoolPlan, World};
use kvof_kv::StoreOptions;
use kvof_store::{
    device::sim::{Crash, FaultPlan, derive},
    ec::Profile,
    format::NamespaceMode,
    geometry::Geometry,
    volume::Durability,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Store {
        key: u64,
        len: u32,
        options: StoreOptions,
    },
    Delete {
        key: u64,
    },
    Retrieve {
        key: u64,
    },
    Exist {
        key: u64,
    },
    /// Stores of one key, one behind the other, all in flight.
    Burst {
        key: u64,
        lens: Vec<u32>,
    },
    Flush,
    /// This many completions.
    Wait(u8),
    Settle,
    Crash(Crash),
    Restart,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    k: u8,
    m: u8,
    members: u16,
    groups: u32,
    mode: NamespaceMode,
    durability: Durability,
    keys: usize,
    /// Bytes of the namespace, in percent of what the volume holds.
    size: u64,
}

const UNIT: u32 = 32;
const PAGE: u32 = 4096;
const LARGE: u32 = 128 << 10;

/// Lengths around the places where the layout changes: units, the header page, pages, and where values are no longer copied.
fn len() -> impl Strategy<Value = u32> {
    prop_oneof![
        1 => Just(0),
        2 => 1..=3 * UNIT,
        2 => (1u32..130, 0u32..3).prop_map(|(units, by)| units * UNIT + by - 1),
        2 => 3600u32..4000,
        2 => PAGE - 70..PAGE + 70,
        2 => 2 * PAGE - 70..2 * PAGE + 70,
        4 => 1u32..40_000,
        2 => LARGE - 70..LARGE + 70,
        2 => (0u32..40, 0u32..80).prop_map(|(pages, by)| LARGE + pages * PAGE + by - 40),
        2 => LARGE..700_000,
    ]
}

fn options() -> impl Strategy<Value = StoreOptions> {
    prop_oneof![
        8 => Just(StoreOptions::empty()),
        1 => Just(StoreOptions::MUST_EXIST),
        1 => Just(StoreOptions::MUST_NOT_EXIST),
        1 => Just(StoreOptions::MUST_EXIST | StoreOptions::MUST_NOT_EXIST),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop_oneof![0u64..3, 0u64..64];
    prop_oneof![
        12 => (key(), len(), options()).prop_map(|(key, len, options)| Op::Store { key, len, options }),
        3 => key().prop_map(|key| Op::Delete { key }),
        2 => key().prop_map(|key| Op::Retrieve { key }),
        1 => key().prop_map(|key| Op::Exist { key }),
        2 => (key(), proptest::collection::vec(len(), 2..6)).prop_map(|(key, lens)| Op::Burst { key, lens }),
        1 => Just(Op::Flush),
        6 => (1u8..6).prop_map(Op::Wait),
        1 => Just(Op::Settle),
        1 => prop_oneof![Just(Op::Crash(Crash::Kill)), Just(Op::Crash(Crash::Power))],
        1 => Just(Op::Restart),
    ]
}

fn world(plan: Plan, seed: u64) -> World {
    let profile = Profile::new(plan.k, plan.m).unwrap();
    let width = u32::from(profile.width());
    let segments = plan.groups.div_ceil(u32::from(plan.members)) * width;
    let geometry = Geometry::new(profile, plan.members, 1, 256, segments).unwrap();
    let mut world = World::new(PoolPlan {
        seed,
        geometry,
        buffers: 32 << 20,
        scratch: 16 << 20,
        tier: 0,
        read_ahead: 0,
        rebuild_rate: 0,
        scrub_rate: 0,
    });
    assert!(world.open().unwrap());
    let namespace = NamespacePlan {
        mode: plan.mode,
        durability: plan.durability,
        size: geometry.data_bytes() * plan.size / 100,
        mnks: 0,
        reservation: 0,
        keys: plan.keys,
    };
    world.add_namespace(namespace).unwrap();
    world.rest(Duration::from_millis(100)).unwrap();
    world
}

fn apply(world: &mut World, op: &Op) -> Check {
    let name = |world: &World, key: u64| world.key(0, key);
    match op {
        Op::Store { key, len, options } => world.store(0, name(world, *key), *options, *len)?,
        Op::Delete { key } => world.delete(0, name(world, *key))?,
        Op::Retrieve { key } => world.retrieve(0, name(world, *key))?,
        Op::Exist { key } => world.exist(0, name(world, *key))?,
        Op::Burst { key, lens } => {
            for len in lens {
                world.store(0, name(world, *key), StoreOptions::empty(), *len)?;
            }
        }
        Op::Flush => world.flush()?,
        Op::Wait(count) => {
            for _ in 0..*count {
                world.advance()?;
            }
        }
        Op::Settle => {
            world.settle()?;
            world.verify()?;
        }
        Op::Crash(kind) => {
            world.crash(*kind);
            world.open()?;
        }
        Op::Restart => {
            world.close()?;
            world.open()?;
            if world.phases.contains("footers") || world.phases.contains("open groups") {
                return Err(format!("after a clean stop, {:?} was read", world.phases));
            }
        }
    }
    Ok(())
}

/// `ops` with both crashes looked at after each.
fn run(plan: Plan, seed: u64, ops: &[Op]) -> Result<World, String> {
    let mut world = world(plan, seed);
    for (step, op) in ops.iter().enumerate() {
        let told = |error: String| format!("step {step} ({op:?}) of {}: {error}", ops.len());
        apply(&mut world, op).map_err(told)?;
        for kind in [Crash::Kill, Crash::Power] {
            world.check_crash(kind, derive(seed, step as u64)).map_err(told)?;
        }
    }
    world.verify()?;
    Ok(world)
}

fn plan() -> impl Strategy<Value = Plan> {
    let profile = prop_oneof![
        Just((1, 0, 1)),
        Just((1, 1, 2)),
        Just((1, 1, 3)),
        Just((2, 1, 3)),
        Just((4, 1, 5)),
        Just((4, 2, 7)),
        Just((1, 2, 3))
    ];
    let mode = prop_oneof![2 => Just(NamespaceMode::Store), 1 => Just(NamespaceMode::Cache)];
    let durability = prop_oneof![2 => Just(Durability::Media), 1 => Just(Durability::Device)];
    (profile, mode, durability, 8u32..12, 4usize..40, prop_oneof![Just(30u64), Just(60), Just(200)]).prop_map(
        |((k, m, members), mode, durability, groups, keys, size)| Plan {
            k,
            m,
            members,
            groups,
            mode,
            durability,
            keys,
            size,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_after_any_step(
        plan in plan(),
        seed in any::<u64>(),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        if let Err(error) = run(plan, seed, &ops) {
            prop_assert!(false, "{error}");
        }
    }
}

/// Overwrites until groups have been cleaned many times over.
fn churn(plan: Plan, rounds: u64) -> World {
    let mut world = world(plan, 7);
    for n in 0..rounds {
        let len = [100, 5000, 130_000, 40_000, 300_000][n as usize % 5];
        let key = world.key(0, derive(n, 1));
        let step = |world: &mut World| {
            world.store(0, key, StoreOptions::empty(), len)?;
            while world.in_flight() > 6 {
                world.advance()?;
            }
            if n % 16 == 0 {
                world.check_crash(if n % 32 == 0 { Crash::Kill } else { Crash::Power }, n)?;
            }
            Ok(())
        };
        let done: Check = step(&mut world);
        done.unwrap_or_else(|error| panic!("round {n}: {error}"));
    }
    world.verify().unwrap();
    world
}

const CHURN: Plan = Plan {
    k: 2,
    m: 1,
    members: 3,
    groups: 9,
    mode: NamespaceMode::Store,
    durability: Durability::Media,
    keys: 60,
    size: 300,
};

#[test]
fn groups_are_cleaned_while_crashes_are_looked_at() {
    let world = churn(CHURN, 1200);
    let stats = world.volumes[0].stats();
    assert!(stats.groups_cleaned > 20 && stats.moved_bytes > 1 << 20, "{stats:?}");
    assert_eq!((stats.evicted, world.tally.misses), (0, 0));
}

#[test]
fn a_full_volume_says_so_and_takes_what_replaces_something() {
    let world = churn(Plan { keys: 400, ..CHURN }, 900);
    let stats = world.volumes[0].stats();
    assert!(world.tally.full > 10, "{:?}", world.tally);
    assert!(stats.live * 100 > stats.capacity * 45, "it was full with {} of {} bytes", stats.live, stats.capacity);
}

#[test]
fn a_cache_is_never_full() {
    let world = churn(Plan { mode: NamespaceMode::Cache, keys: 400, ..CHURN }, 1200);
    let stats = world.volumes[0].stats();
    assert_eq!(world.tally.full, 0);
    assert!(stats.evicted > 100, "{stats:?}");
    assert!(world.tally.misses <= stats.evicted, "{} misses, {} evicted", world.tally.misses, stats.evicted);
}

#[test]
fn a_cache_with_room_drops_nothing() {
    let world = churn(Plan { mode: NamespaceMode::Cache, keys: 20, ..CHURN }, 300);
    assert_eq!((world.evicted(), world.tally.misses, world.tally.full), (0, 0, 0));
}

/// With m devices gone the same holds.
#[test]
fn a_crash_after_any_step_with_m_devices_gone() {
    let plan = Plan { k: 4, m: 2, members: 7, ..CHURN };
    let mut world = world(plan, 11);
    world.suspects = vec![2, 5];
    world.set_faults(FaultPlan::NONE);
    for n in 0..120u64 {
        if n == 20 {
            world.devices.kill(2);
        }
        if n == 60 {
            world.devices.kill(5);
        }
        let key = world.key(0, derive(n, 1));
        let step = |world: &mut World| {
            world.store(0, key, StoreOptions::empty(), [50, 9000, 200_000][n as usize % 3])?;
            for _ in 0..4 {
                world.advance()?;
            }
            world.check_crash(if n % 2 == 0 { Crash::Kill } else { Crash::Power }, n)
        };
        let done: Check = step(&mut world);
        done.unwrap_or_else(|error| panic!("step {n}: {error}"));
    }
    world.verify().unwrap();
}

//! One fault at a time: what the engine does about it, and what it says.

mod common;

use std::time::Duration;

use common::world::{NamespacePlan, PoolPlan, World};
use kvof_kv::StoreOptions;
use kvof_store::{
    device::{
        BlockIo,
        sim::{Crash, FaultPlan, derive},
    },
    ec::Profile,
    format::{MemberState, NamespaceMode, PAGE, SUPERBLOCK_LEN},
    geometry::Geometry,
    volume::{Durability, VolumeStats},
};

const CERTAIN: u32 = 1_000_000;

fn world(k: u8, m: u8, members: u16) -> World {
    let profile = Profile::new(k, m).unwrap();
    let geometry = Geometry::new(profile, members, 1, 256, 8 * u32::from(profile.width())).unwrap();
    let mut world = World::new(PoolPlan {
        seed: 5,
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
        mode: NamespaceMode::Store,
        durability: Durability::Media,
        size: geometry.data_bytes() / 2,
        mnks: 0,
        reservation: 0,
        keys: 40,
    };
    world.add_namespace(namespace).unwrap();
    world.rest(Duration::from_millis(100)).unwrap();
    world
}

/// Stores every key, small and large ones.
fn fill(world: &mut World, round: u64) {
    for n in 0..40 {
        let len = [0, 90, 4000, 20_000, 131_072, 250_000][(n + round) as usize % 6];
        let key = world.key(0, n);
        world.store(0, key, StoreOptions::empty(), len).unwrap();
        if n % 3 == 0 {
            world.advance().unwrap();
        }
    }
    world.settle().unwrap();
}

fn stats(world: &World) -> VolumeStats {
    world.volumes[0].stats()
}

fn faults(world: &mut World, suspects: &[u16], set: &[(&str, u32)]) {
    let mut plan = FaultPlan::NONE;
    for (name, often) in set {
        assert!(plan.set(name, *often));
    }
    world.suspects = suspects.to_vec();
    world.set_faults(plan);
}

fn redundant(world: &World) {
    for seed in 0..6 {
        world.check_redundancy(&mut kvof_store::device::sim::Rng::new(seed)).unwrap();
    }
}

#[test]
fn write_errors_take_a_device_out_and_cost_nothing() {
    for name in ["write-error", "no-space", "flush-error"] {
        let mut world = world(2, 1, 3);
        fill(&mut world, 0);
        faults(&mut world, &[1], &[(name, CERTAIN)]);
        fill(&mut world, 1);
        assert_eq!(stats(&world).members[1], MemberState::Failed, "{name}");
        assert_eq!(stats(&world).read_only, None, "{name}");
        world.verify().unwrap();
        // What the device missed is never taken from it, whatever happens.
        for (seed, kind) in [(1, Crash::Kill), (2, Crash::Power)] {
            world.check_crash(kind, seed).unwrap();
        }
        world.heal(&mut kvof_store::device::sim::Rng::new(1)).unwrap();
        world.verify().unwrap();
        redundant(&world);
    }
}

#[test]
fn reads_that_fail_are_reconstructed() {
    for name in ["read-error", "bad-page", "short-read", "misread"] {
        let mut world = world(4, 2, 6);
        for n in 0..40 {
            let key = world.key(0, n);
            world.store(0, key, StoreOptions::empty(), 3000 * n as u32).unwrap();
            world.settle().unwrap();
        }
        faults(&mut world, &[0, 3], &[(name, CERTAIN / 2)]);
        world.verify().unwrap();
        let stats = stats(&world);
        assert!(stats.degraded_reads > 1 && stats.unrecovered == 0, "{name}: {stats:?}");
        world.heal(&mut kvof_store::device::sim::Rng::new(1)).unwrap();
        world.verify().unwrap();
        redundant(&world);
    }
}

#[test]
fn rot_is_found_and_repaired_by_a_scrub() {
    let mut world = world(2, 1, 4);
    fill(&mut world, 0);
    for _ in 0..200 {
        world.devices.rot(2);
    }
    world.suspects = vec![2];
    world.scrub().unwrap();
    let found = stats(&world);
    assert!(found.damaged > 0 && found.repaired == found.damaged, "{found:?}");
    world.scrub().unwrap();
    assert_eq!(stats(&world).damaged, found.damaged, "the second pass finds nothing");
    world.suspects.clear();
    world.verify().unwrap();
    redundant(&world);
}

#[test]
fn lost_and_misdirected_writes_are_found() {
    for name in ["lost", "misdirected"] {
        let mut world = world(4, 1, 5);
        fill(&mut world, 0);
        faults(&mut world, &[4], &[(name, CERTAIN / 3)]);
        fill(&mut world, 1);
        fill(&mut world, 2);
        faults(&mut world, &[4], &[]);
        world.verify().unwrap();
        for seed in 0..4 {
            world.check_crash(if seed % 2 == 0 { Crash::Kill } else { Crash::Power }, seed).unwrap();
        }
        world.heal(&mut kvof_store::device::sim::Rng::new(1)).unwrap();
        world.suspects.clear();
        world.verify().unwrap();
        redundant(&world);
    }
}

#[test]
fn a_device_that_dies_returns_stale_and_is_brought_up_to_date() {
    for empty in [false, true] {
        let mut world = world(2, 1, 3);
        fill(&mut world, 0);
        world.suspects = vec![0];
        world.devices.kill(0);
        fill(&mut world, 1);
        assert_eq!(stats(&world).members[0], MemberState::Failed);
        // It is there again at the next start, with what it had.
        world.crash(Crash::Power);
        if !empty {
            world.devices.revive(0);
        }
        world.open().unwrap();
        world.verify().unwrap();
        if empty {
            world.bring_back(0, true).unwrap();
        }
        fill(&mut world, 2);
        world.heal(&mut kvof_store::device::sim::Rng::new(1)).unwrap();
        world.suspects.clear();
        world.verify().unwrap();
        redundant(&world);
    }
}

#[test]
fn a_device_that_was_absent_for_a_run_does_not_count_in_the_next() {
    let mut world = world(1, 1, 2);
    fill(&mut world, 0);
    assert!(world.close().unwrap());
    world.devices.kill(0);
    world.open().unwrap();
    fill(&mut world, 1);
    world.crash(Crash::Kill);
    world.devices.revive(0);
    world.plan.rebuild_rate = 1;
    world.open().unwrap();
    world.verify().unwrap();
    world.rest(Duration::from_secs(1)).unwrap();
    // It is being filled, and not nearly done: alone it is not enough, and must not pass for an empty pool.
    assert!(matches!(stats(&world).members[0], MemberState::Rebuilding { .. }));
    let mut fork = world.fork(Crash::Kill, 1);
    fork.devices.kill(1);
    let error = fork.open().unwrap_err();
    assert!(error.contains("at least 1 are needed"), "{error}");
    // The other alone has everything.
    let mut fork = world.fork(Crash::Kill, 1);
    fork.devices.kill(0);
    fork.open().unwrap();
    fork.verify().unwrap();
}

#[test]
fn a_hang_is_waited_for() {
    let mut world = world(4, 1, 5);
    fill(&mut world, 0);
    world.devices.hang(2, Duration::from_secs(30));
    world.devices.hang(3, Duration::from_secs(20));
    fill(&mut world, 1);
    world.verify().unwrap();
    assert!(stats(&world).members.iter().all(|state| *state == MemberState::Live));
}

#[test]
fn damaged_superblocks_are_passed_over_and_written_again() {
    let mut world = world(1, 2, 3);
    fill(&mut world, 0);
    world.crash(Crash::Kill);
    let geometry = world.plan.geometry;
    for member in [0, 1] {
        for slot in 0..2 {
            let garbage = vec![0xa5; SUPERBLOCK_LEN];
            BlockIo::write(&mut world.devices, member, geometry.superblock(0, slot), &garbage).unwrap();
        }
    }
    world.open().unwrap();
    world.verify().unwrap();
    redundant(&world);
}

#[test]
fn more_damage_than_the_parity_allows_is_said_and_never_guessed() {
    let mut world = world(4, 1, 5);
    fill(&mut world, 0);
    let geometry = world.plan.geometry;
    // All payload of two devices, under the running volume.
    for member in [1, 2] {
        for page in 0..u64::from(geometry.segments()) * 256 {
            let offset = geometry.superblock(0, 1) + (512 << 10) + page * PAGE as u64;
            if page % 256 >= 4 {
                BlockIo::write(&mut world.devices, member, offset, &[derive(page, 1) as u8; PAGE]).unwrap();
            }
        }
    }
    world.strictness = common::world::Strictness::Safety;
    world.verify().unwrap();
    assert!(world.tally.unrecovered > 5, "{:?}", world.tally);
    // What a start makes of it may be less, or an error, but nothing wrong.
    world.crash(Crash::Kill);
    if world.open().unwrap() {
        world.verify().unwrap();
    }
}

/// A pool that cannot be written to any more answers, and still gives what can be read.
#[test]
fn without_enough_devices_to_write_to_it_still_answers() {
    let mut world = world(1, 1, 2);
    fill(&mut world, 0);
    world.strictness = common::world::Strictness::Safety;
    faults(&mut world, &[0, 1], &[("write-error", CERTAIN)]);
    fill(&mut world, 1);
    let stats = stats(&world);
    assert!(stats.read_only.is_some(), "{stats:?}");
    let before = world.tally;
    world.verify().unwrap();
    assert!(world.tally.checks > before.checks + 39);
}

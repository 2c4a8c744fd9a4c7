//! The host library against the target: conformance, discovery, events, restarts.

use std::{thread, time::Duration};

use kvof_initiator::{
    Address, ConnectOptions, Controller, DigestMode, DiscoveryController, KvNamespace, ReconnectPolicy, StoreOptions,
    blocking::{BlockingKv, block_on},
    discover,
};
use kvof_kv::conformance::{Outcome, RunOptions, run};
use kvof_target::control::TargetLimits;

use super::{
    host::{key, value},
    rig::{KV, KV_POOL, NQN, Options, Rig, new_pool, wait_until},
};

pub(crate) fn address(rig: &Rig) -> Address {
    rig.address.to_string().parse().unwrap()
}

pub(crate) fn connect(rig: &Rig, options: &ConnectOptions) -> Controller {
    block_on(Controller::connect(&address(rig), NQN, options)).unwrap()
}

fn open(controller: &Controller, nsid: u32) -> KvNamespace {
    block_on(controller.kv(nsid)).unwrap()
}

/// Runs the conformance suite and gives the names of what failed or could not be checked.
fn conformance(controller: &Controller, nsid: u32) -> Vec<String> {
    conformance_by(&BlockingKv::new(open(controller, nsid)))
}

fn conformance_by(port: &BlockingKv) -> Vec<String> {
    let mut bad = Vec::new();
    let summary = run(port, &RunOptions { seed: 1, ..RunOptions::default() }, &mut |case| {
        // Keys that are longer than KVKML but no longer than 16 bytes do not exist here.
        let expected = case.name == "key.length_over_kvkml" && matches!(case.outcome, Outcome::Skipped(_));
        println!("{}: {} in {:?}", case.name, case.outcome, case.duration);
        if case.outcome != Outcome::Passed && !expected {
            bad.push(format!("{}: {}", case.name, case.outcome));
        }
    });
    assert!(summary.passed > 20, "{summary:?}");
    bad
}

/// Passes the suite on a namespace of a target with so many cores, in memory or in a pool of this shape.
fn conforms(cores: usize, pool: Option<((u8, u8), u16)>, digests: DigestMode, disable_sq_flow_control: bool) {
    let folder = tempfile::tempdir().unwrap();
    let nsid = if pool.is_some() { KV_POOL } else { KV };
    let pool = pool.map(|(profile, shards)| new_pool(folder.path(), profile, shards, 2 << 20));
    let rig = Rig::start(Options { cores, pool, ..Options::default() });
    let mut options = ConnectOptions::default();
    options.io_queues = 2;
    (options.header_digest, options.data_digest) = (digests, digests);
    options.disable_sq_flow_control = disable_sq_flow_control;
    let controller = connect(&rig, &options);
    assert_eq!(conformance(&controller, nsid), [""; 0], "NSID {nsid}");
    block_on(controller.disconnect());
    wait_until("without connections", || rig.connections() == 0);
    rig.stop(Duration::from_secs(10));
}

#[test]
fn conforms_on_one_core() {
    conforms(1, None, DigestMode::Off, false);
}

#[test]
fn conforms_on_one_core_with_digests() {
    conforms(1, None, DigestMode::Require, false);
}

#[test]
fn conforms_on_two_cores() {
    conforms(2, None, DigestMode::Off, true);
}

/// The caller moves the bytes, and the queues' threads stand by.
#[test]
fn conforms_to_a_caller_who_polls() {
    let rig = Rig::start(Options::default());
    let controller = connect(&rig, &ConnectOptions::default());
    assert_eq!(conformance_by(&BlockingKv::new(open(&controller, KV)).polling()), [""; 0]);
    block_on(controller.disconnect());
    rig.stop(Duration::from_secs(10));
}

#[test]
fn a_pool_of_one_device_conforms_on_one_core() {
    conforms(1, Some(((1, 0), 1)), DigestMode::Off, false);
}

#[test]
fn a_pool_of_one_device_and_three_shards_conforms_on_two_cores_with_digests() {
    conforms(2, Some(((1, 0), 3)), DigestMode::Require, true);
}

#[test]
fn a_pool_with_parity_conforms_on_two_cores() {
    conforms(2, Some(((4, 1), 1)), DigestMode::Off, false);
}

#[test]
fn a_pool_with_parity_and_three_shards_conforms_on_two_cores() {
    conforms(2, Some(((4, 1), 3)), DigestMode::Off, true);
}

/// MDTS up to 256 MiB, so that a value of 128 MiB is one command.
#[test]
fn a_value_of_128_mib() {
    const LEN: usize = 128 << 20;
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path(), (4, 1), 1, LEN as u64);
    let limits = TargetLimits { mdts: 256 << 20, ..TargetLimits::default() };
    let memory = 3 * LEN;
    let rig = Rig::start(Options { pool: Some(pool), limits, memory, pool_value: LEN as u32, ..Options::default() });
    let controller = connect(&rig, &ConnectOptions::default());
    let kv = open(&controller, KV_POOL).with_timeout(Duration::from_secs(60));
    let data = value(7, LEN);
    let begin = std::time::Instant::now();
    let (stored, data) = block_on(kv.store(key("large"), data, StoreOptions::empty()));
    stored.unwrap();
    let took = begin.elapsed();
    let begin = std::time::Instant::now();
    let got = block_on(kv.retrieve_vec(key("large"))).unwrap();
    println!("128 MiB: stored in {took:?}, retrieved in {:?}", begin.elapsed());
    assert!(got == data);
    block_on(controller.disconnect());
    rig.stop(Duration::from_secs(10));
}

#[test]
fn discovery_names_what_is_served_and_tells_of_changes() {
    let mut rig = Rig::start(Options::default());
    let options = ConnectOptions::default();
    let names =
        |entries: &[kvof_initiator::DiscoveryEntry]| entries.iter().map(|e| e.subnqn.clone()).collect::<Vec<_>>();
    let entries = block_on(discover(&address(&rig), &options)).unwrap();
    assert!(names(&entries).contains(&NQN.to_owned()), "{entries:?}");
    let entry = entries.iter().find(|e| e.subnqn == NQN).unwrap();
    assert_eq!((entry.traddr.as_str(), entry.trsvcid.clone()), ("127.0.0.1", rig.address.port().to_string()));

    let persistent = block_on(DiscoveryController::connect(&address(&rig), &options)).unwrap();
    assert_eq!(names(&block_on(persistent.entries()).unwrap()), names(&entries));
    let other = "nqn.2024-01.localhost:later";
    thread::scope(|scope| {
        let changed = scope.spawn(|| block_on(persistent.changed(0)).unwrap());
        thread::sleep(Duration::from_millis(100));
        assert!(!changed.is_finished(), "a change before anything changed");
        rig.add_subsystem(other);
        changed.join().unwrap();
    });
    assert!(names(&block_on(persistent.entries()).unwrap()).contains(&other.to_owned()));
    // What was added serves.
    let added = block_on(Controller::connect(&address(&rig), other, &options)).unwrap();
    let kv = open(&added, 1);
    block_on(kv.store(key("k"), vec![1, 2, 3], StoreOptions::empty())).0.unwrap();
    assert_eq!(block_on(kv.retrieve_vec(key("k"))).unwrap(), [1, 2, 3]);
}

#[test]
fn a_host_finds_the_target_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path(), (1, 1), 2, 2 << 20);
    let rig = Rig::start(Options { pool: Some(pool.clone()), ..Options::default() });
    let mut options = ConnectOptions::default();
    options.reconnect = ReconnectPolicy { initial: Duration::from_millis(20), ..ReconnectPolicy::default() };
    let controller = connect(&rig, &options);
    let kv = open(&controller, KV_POOL);
    let data = value(3, 200_000);
    block_on(kv.store(key("kept"), data.clone(), StoreOptions::empty())).0.unwrap();
    let at = rig.address;
    rig.stop(Duration::from_secs(5));
    let rig = Rig::start(Options { pool: Some(pool), address: at, ..Options::default() });
    assert_eq!(rig.address, at);
    let kv = kv.with_repeats();
    assert!(block_on(kv.retrieve_vec(key("kept"))).unwrap() == data);
    assert!(controller.reconnects() > 0);
}

#[test]
fn a_controller_has_as_many_queues_as_it_asks_for() {
    let rig = Rig::start(Options { cores: 2, ..Options::default() });
    let mut options = ConnectOptions::default();
    options.io_queues = 64;
    let controller = connect(&rig, &options);
    assert_eq!((controller.info().unwrap().io_queues, rig.connections()), (64, 65));
    let kv = open(&controller, KV);
    for i in 0..128 {
        let name = key(&format!("q{i}"));
        block_on(kv.store(name, value(i, 100), StoreOptions::empty())).0.unwrap();
        assert_eq!(block_on(kv.retrieve_vec(name)).unwrap(), value(i, 100));
    }
    block_on(controller.disconnect());
}

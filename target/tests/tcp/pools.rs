//! Pools as hosts meet them when they are full, damaged, or asked for less than the medium.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    time::Duration,
};

use kvof_initiator::{ConnectOptions, KvNamespace, StoreOptions, blocking::block_on};
use kvof_spec::{KvOpcode, Sqe, Status};
use kvof_target::model::{Durability, NamespaceMode, PoolDef, PoolLimits};

use super::{
    host::{Ask, Host, key, value},
    library::connect,
    rig::{KV_POOL, Options, Rig, new_pool},
};

const LEN: usize = 60_000;

fn store(kv: &KvNamespace, i: usize) -> Result<(), Status> {
    let stored = block_on(kv.store(key(&format!("k{i}")), value(i as u8, LEN), StoreOptions::empty())).0;
    stored.map_err(|error| error.status().unwrap_or_else(|| panic!("{error}")).code())
}

fn retrieve(kv: &KvNamespace, i: usize) -> Result<Vec<u8>, Status> {
    let got = block_on(kv.retrieve_vec(key(&format!("k{i}"))));
    got.map_err(|error| error.status().unwrap_or_else(|| panic!("{error}")).code())
}

/// A pool whose values are always read from its devices, for values of up to 64 KiB.
fn without_tier(folder: &Path, profile: (u8, u8)) -> PoolDef {
    let pool = new_pool(folder, profile, 1, 64 << 10);
    PoolDef { limits: PoolLimits { tier: 0, read_ahead: 0, ..pool.limits }, ..pool }
}

#[test]
fn a_full_store_says_so_and_takes_again_what_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let pool = without_tier(folder.path(), (1, 1));
    let rig = Rig::start(Options { cores: 2, pool: Some(pool), pool_value: 64 << 10, ..Options::default() });
    let controller = connect(&rig, &ConnectOptions::default());
    let kv = block_on(controller.kv(KV_POOL)).unwrap();
    for round in 0..3 {
        let mut stored = 0;
        let full = loop {
            match store(&kv, stored) {
                Ok(()) => stored += 1,
                Err(status) => break status,
            }
        };
        assert_eq!(full, Status::CAPACITY_EXCEEDED);
        assert!(stored > 100, "round {round}: {stored} values");
        for i in 0..stored {
            assert!(retrieve(&kv, i).unwrap() == value(i as u8, LEN), "round {round}, value {i}");
        }
        // Every other one first, so that there is something to clean.
        for i in (0..stored).step_by(2).chain((1..stored).step_by(2)) {
            block_on(kv.delete(key(&format!("k{i}")))).unwrap();
        }
    }
    assert_eq!(block_on(kv.list(None)).unwrap(), []);
    block_on(controller.disconnect());
    rig.stop(Duration::from_secs(10));
}

#[test]
fn a_cache_is_never_full() {
    let folder = tempfile::tempdir().unwrap();
    let pool = without_tier(folder.path(), (1, 0));
    let options =
        Options { pool: Some(pool), pool_mode: NamespaceMode::Cache, pool_value: 64 << 10, ..Options::default() };
    let rig = Rig::start(options);
    let controller = connect(&rig, &ConnectOptions::default());
    let kv = block_on(controller.kv(KV_POOL)).unwrap();
    // Several times what the devices have room for.
    let count = 1500;
    for i in 0..count {
        store(&kv, i).unwrap_or_else(|status| panic!("value {i}: {status}"));
    }
    let found: Vec<usize> = (0..count)
        .filter(|i| match retrieve(&kv, *i) {
            Ok(got) => {
                assert!(got == value(*i as u8, LEN), "value {i}");
                true
            }
            Err(status) => {
                assert_eq!(status, Status::KEY_DOES_NOT_EXIST, "value {i}");
                false
            }
        })
        .collect();
    assert!(found.len() > 50 && found.len() < count && found.contains(&(count - 1)), "{} are left", found.len());
    block_on(controller.disconnect());
    rig.stop(Duration::from_secs(10));
}

/// Overwrites all that a device has.
fn destroy(path: &Path) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(0)).unwrap();
    let garbage: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for _ in 0..len >> 20 {
        file.write_all(&garbage).unwrap();
    }
    file.sync_all().unwrap();
}

#[test]
fn damage_is_made_good_by_parity_and_told_without_and_never_served() {
    for (profile, outcome) in [((2, 1), None), ((1, 0), Some(Status::UNRECOVERED_ERROR))] {
        let folder = tempfile::tempdir().unwrap();
        let pool = without_tier(folder.path(), profile);
        let rig = Rig::start(Options { pool: Some(pool.clone()), pool_value: 64 << 10, ..Options::default() });
        let controller = connect(&rig, &ConnectOptions::default());
        let kv = block_on(controller.kv(KV_POOL)).unwrap();
        for i in 0..20 {
            store(&kv, i).unwrap();
        }
        destroy(&pool.devices[0]);
        for i in 0..20 {
            match (retrieve(&kv, i), outcome) {
                (Ok(got), None) => assert!(got == value(i as u8, LEN), "value {i}"),
                (Err(status), Some(expected)) => assert_eq!(status, expected, "value {i}"),
                (got, expected) => panic!("value {i}: {:?} instead of {expected:?}", got.map(|bytes| bytes.len())),
            }
        }
        block_on(controller.disconnect());
    }
}

#[test]
fn flush_of_a_namespace_whose_durability_is_the_devices() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path(), (1, 1), 3, 1 << 20);
    let options = Options { cores: 2, pool: Some(pool), pool_durability: Durability::Device, ..Options::default() };
    let rig = Rig::start(Options { pool_value: 1 << 20, ..options });
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let controller = connect(&rig, &ConnectOptions::default());
    let kv = block_on(controller.kv(KV_POOL)).unwrap();
    for i in 0..10 {
        store(&kv, i).unwrap();
    }
    let mut flush = Sqe::new(KvOpcode::FLUSH);
    flush.nsid = KV_POOL.into();
    for _ in 0..3 {
        assert_eq!(io.execute(flush, &[]).0.status(), Status::SUCCESS);
    }
    flush.nsid = u32::MAX.into();
    assert_eq!(io.execute(flush, &[]).0.status(), Status::INVALID_FIELD.with_dnr(), "of all namespaces at once");
}

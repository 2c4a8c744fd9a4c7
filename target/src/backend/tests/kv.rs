//! KV storages against the reference model and the conformance suite, command by command.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use kvof_io::{Pool, PoolConfig};
use kvof_kv::{
    Data, Key, KvCommand, KvLimits, KvOpcode, KvOutcome, KvPort, KvRequest, KvStore, PortError, PortInfo, Reply,
    StoreOptions,
    conformance::{RunOptions, run},
    model::{ReferenceConfig, ReferenceStore, StorePort},
};
use kvof_spec::{SglDescriptor, Status};
use proptest::prelude::*;

use super::rig::{LIMITS, Rig, Rng, bytes_of, kv_namespace, new_pool, pooled, scratch};
use crate::{
    backend::{DeviceChange, IoError, IoOutcome, IoRequest},
    model::{Durability, KvStorageDef, Namespace, NamespaceKindDef, PoolDef},
    namespace::{self, Completion, Prepared},
};

/// A namespace behind the rig, one command at a time, on one core after the other.
struct RigPort {
    rig: Mutex<Rig>,
    ns: Arc<Namespace>,
    limits: KvLimits,
}

impl RigPort {
    fn new(rig: Rig) -> Self {
        let ns = Arc::clone(&rig.ns);
        let NamespaceKindDef::Kv { limits, .. } = ns.def.kind else { panic!("no KV namespace") };
        Self { rig: Mutex::new(rig), ns, limits }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Rig) -> R) -> R {
        f(&mut self.rig.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KvPort for RigPort {
    fn info(&self) -> PortInfo {
        PortInfo { nsid: 1, limits: self.limits, max_transfer: 256 << 10, name: "backends".into() }
    }

    fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
        let refused = |status| Ok(Reply { status, dw0: 0 });
        match command.nsid {
            1 => {}
            u32::MAX => return refused(Status::INVALID_FIELD),
            _ => return refused(Status::INVALID_NAMESPACE_OR_FORMAT),
        }
        let sgl_len = data.len() as u32;
        let sqe = command.to_sqe(SglDescriptor::transport_data(sgl_len));
        let completion: Completion = self.with(|rig| {
            let request = match namespace::prepare(&self.ns, &sqe, sgl_len) {
                Prepared::Complete(completion) => return completion,
                Prepared::Submit(request) => request,
                Prepared::Receive { len, then } => {
                    assert!(len <= sgl_len);
                    let Data::Out(bytes) = &data else { panic!("data wanted of a command without") };
                    let mut buf = rig.pool.alloc(len as usize).unwrap();
                    buf.copy_from_slice(&bytes[..len as usize]);
                    then.submit(buf)
                }
            };
            let core = rig.rng.below(rig.cores.len());
            let result = rig.run(core, request);
            namespace::complete(&self.ns, &sqe, sgl_len, result)
        });
        let bytes = completion.data.as_ref().map(bytes_of).unwrap_or_default();
        match data {
            Data::In(buffer) => buffer[..bytes.len()].copy_from_slice(&bytes),
            _ => assert!(bytes.is_empty()),
        }
        Ok(Reply { status: completion.status, dw0: u32::try_from(completion.result).unwrap() })
    }

    fn admin_set_ednek(&self, on: bool) -> Option<Result<Status, PortError>> {
        self.ns.state.ednek.store(on, Ordering::Relaxed);
        Some(Ok(Status::SUCCESS))
    }

    fn admin_get_ednek(&self) -> Option<Result<bool, PortError>> {
        Some(Ok(self.ns.state.ednek.load(Ordering::Relaxed)))
    }
}

fn conforms(rig: Rig) {
    let port = RigPort::new(rig);
    let mut failures = Vec::new();
    let summary = run(&port, &RunOptions { seed: 7, ..RunOptions::default() }, &mut |case| {
        if matches!(case.outcome, kvof_kv::conformance::Outcome::Failed(_)) {
            failures.push(format!("{}: {}", case.name, case.outcome));
        }
    });
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(summary.ok(), "{summary:?}");
    // The suite removes what it has stored: nothing must be left to account for.
    let usage = port.ns.state.usage.current();
    assert_eq!((usage.nuse, usage.keys), (0, 0));
    port.rig.into_inner().unwrap().close();
}

#[test]
fn memory_conforms() {
    for cores in [1, 3] {
        conforms(Rig::new(kv_namespace(LIMITS, 4 << 20, KvStorageDef::Memory), cores, 1).unwrap());
    }
}

#[test]
fn pools_conform() {
    for (profile, cores, shards) in [((1, 0), 1, 1), ((1, 0), 3, 2), ((4, 1), 2, 3), ((1, 1), 2, 1)] {
        for durability in [Durability::Media, Durability::Device] {
            let dir = scratch();
            let def = new_pool(dir.path(), profile, shards);
            conforms(Rig::in_pool(kv_namespace(LIMITS, 8 << 20, pooled(durability)), &def, cores, 1));
        }
    }
}

/// A command that often hits one of few keys.
fn random_command(rng: &mut Rng, limits: &KvLimits) -> (KvCommand, usize) {
    let all = [&b"a"[..], b"a\0", b"b", b"bb", b"key-00000000001", b"key-000000000016", b"\0", b"\xff\xff"];
    let key = Key::new(all[rng.below(all.len())]).unwrap();
    let len = match rng.below(6) {
        0 => rng.below(20),
        1 => 4096 * rng.below(4) + rng.below(2),
        2 => limits.kvvml as usize + rng.below(3) - 1,
        _ => rng.below(limits.kvvml as usize / 2),
    };
    let options = StoreOptions::from_bits_truncate(if rng.chance(3) { rng.next() as u8 } else { 0 });
    let mut command = match rng.below(8) {
        0..=2 => KvCommand::store(1, &key, options, len as u32),
        3..=4 => KvCommand::retrieve(1, &key, kvof_kv::RetrieveOptions::empty(), len as u32),
        5 => KvCommand::delete(1, &key),
        6 => KvCommand::exist(1, &key),
        _ => KvCommand::list(1, rng.chance(2).then_some(&key), (len % 100) as u32),
    };
    if rng.chance(40) {
        // Flush is not the store's.
        command.opcode = KvOpcode((rng.next() as u8).max(1));
    }
    if rng.chance(40) {
        command.key_len = rng.next() as u8 % 20;
    }
    let has_data = [KvOpcode::STORE, KvOpcode::RETRIEVE, KvOpcode::LIST].contains(&command.opcode);
    let sgl = if has_data { command.size as usize + rng.below(2) * rng.below(8) } else { 0 };
    (command, if rng.chance(40) { sgl / 2 } else { sgl })
}

fn same_as_reference(
    ns: &Arc<Namespace>,
    pool: Option<&PoolDef>,
    cores: usize,
    seed: u64,
) -> Result<(), TestCaseError> {
    let NamespaceKindDef::Kv { limits, size, .. } = ns.def.kind else { panic!("no KV namespace") };
    let config = ReferenceConfig { limits, capacity: size, slot_quota: u64::MAX };
    let reference = StorePort::new(ReferenceStore::new(config), 1, u32::MAX, "reference");
    let open = |ns: Arc<Namespace>, seed| match pool {
        Some(def) => RigPort::new(Rig::in_pool(ns, def, cores, seed)),
        None => RigPort::new(Rig::new(ns, cores, seed).unwrap()),
    };
    let mut port = open(Arc::clone(ns), seed);
    let mut rng = Rng(seed ^ 0xabcd);
    for i in 0..120 {
        if pool.is_some() && i % 40 == 39 {
            // A clean stop, or an end in the middle of nothing, which is what is left of a killed process.
            let rig = port.rig.into_inner().unwrap();
            if rng.chance(2) {
                drop(rig.close());
            } else {
                drop(rig);
            }
            port = open(Namespace::new(ns.def.clone(), ns.backend), seed + i);
        }
        let (command, len) = random_command(&mut rng, &limits);
        let value = rng.bytes(len);
        let store = command.opcode.0 & 3 == 1;
        let (mut ours, mut theirs) = (vec![0xa5; len], vec![0xa5; len]);
        let (got, expected) = if store {
            (port.execute(&command, Data::Out(&value)), reference.execute(&command, Data::Out(&value)))
        } else {
            (port.execute(&command, Data::In(&mut ours)), reference.execute(&command, Data::In(&mut theirs)))
        };
        let (got, expected) = (got.unwrap(), expected.unwrap());
        prop_assert_eq!(got.status.code(), expected.status.code(), "{:?} with {} bytes", command, len);
        prop_assert_eq!(got.dw0, expected.dw0, "{:?}", command);
        prop_assert!(ours == theirs, "{command:?}: other data");
        let usage = reference.with_store(|store| store.usage());
        prop_assert_eq!(port.ns.state.usage.current(), usage);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A capacity and a number of keys that are reached often.
    #[test]
    fn memory_is_as_the_reference(cores in 1usize..5, seed: u64, mnks in 0u32..7) {
        let limits = KvLimits { kvvml: 20_000, mnks, ..LIMITS };
        same_as_reference(&kv_namespace(limits, 50_000, KvStorageDef::Memory), None, cores, seed)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn pools_are_as_the_reference(cores in 1usize..4, shards in 1u16..4, parity in 0u8..2, seed: u64, mnks in 0u32..7) {
        let dir = scratch();
        let limits = KvLimits { kvvml: 20_000, mnks, ..LIMITS };
        let def = new_pool(dir.path(), (2, parity), shards);
        let ns = kv_namespace(limits, 50_000, pooled(Durability::Media));
        same_as_reference(&ns, Some(&def), cores, seed)?;
    }
}

#[test]
fn configuration_of_the_port_is_the_namespaces() {
    let port = RigPort::new(Rig::new(kv_namespace(LIMITS, 1 << 20, KvStorageDef::Memory), 2, 1).unwrap());
    let key = Key::new(b"missing").unwrap();
    assert_eq!(port.delete(&key).unwrap().status, Status::SUCCESS);
    assert_eq!(port.admin_set_ednek(true), Some(Ok(Status::SUCCESS)));
    assert_eq!(port.delete(&key).unwrap().status, Status::KEY_DOES_NOT_EXIST.with_dnr());
    assert_eq!(port.admin_get_ednek(), Some(Ok(true)));
}

fn store(rig: &Rig, key: &str, value: &[u8]) -> IoRequest {
    let mut buf = rig.pool.alloc(value.len()).unwrap();
    buf.copy_from_slice(value);
    let key = Key::new(key.as_bytes()).unwrap();
    IoRequest::Kv(KvRequest::Store { key, options: StoreOptions::empty(), value: buf })
}

fn retrieve(key: &str) -> IoRequest {
    IoRequest::Kv(KvRequest::Retrieve { key: Key::new(key.as_bytes()).unwrap(), raw: false })
}

fn delete(key: &str) -> IoRequest {
    IoRequest::Kv(KvRequest::Delete { key: Key::new(key.as_bytes()).unwrap() })
}

#[test]
fn memory_lends_the_very_buffer_that_was_stored() {
    let mut rig = Rig::new(kv_namespace(LIMITS, 1 << 20, KvStorageDef::Memory), 1, 1).unwrap();
    let request = store(&rig, "k", &[7; 5000]);
    let IoRequest::Kv(KvRequest::Store { value, .. }) = &request else { unreachable!() };
    let place = value.as_ptr();
    rig.run(0, request).unwrap();
    let Ok(IoOutcome::Kv(KvOutcome::Retrieved(lent))) = rig.run(0, retrieve("k")) else { panic!() };
    assert_eq!(lent.as_ptr(), place);
    rig.run(0, store(&rig, "k", &[8; 5000])).unwrap();
    rig.run(0, delete("k")).unwrap();
    assert!(lent.iter().all(|byte| *byte == 7), "a lent value must not change");
    let held = rig.pool.in_use();
    drop(lent);
    assert!(rig.pool.in_use() < held, "a deleted value's memory goes back with its last reader");
}

#[test]
fn memory_leaves_room_in_the_pool() {
    let pool = Pool::new(PoolConfig { limit: 1 << 20, shards: 1 });
    let ns = kv_namespace(LIMITS, 1 << 30, KvStorageDef::Memory);
    let mut rig = Rig::with_pool(ns, 2, 1, pool).unwrap();
    let mut stored = 0;
    let full = loop {
        let request = store(&rig, &format!("k{stored}"), &[1; 64 << 10]);
        match rig.run(0, request) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, IoError::Kv(kvof_kv::KvError::CapacityExceeded));
    assert_eq!(stored, 14);
    assert!(rig.pool.alloc(128 << 10).is_some());
    rig.run(1, delete("k3")).unwrap();
    rig.run(1, store(&rig, "again", &[1; 64 << 10])).unwrap();
}

#[test]
fn reads_wait_for_memory_here_and_elsewhere() {
    let dir = scratch();
    let def = new_pool(dir.path(), (1, 0), 1);
    let pool = Pool::new(PoolConfig { limit: 1 << 20, shards: 1 });
    let ns = kv_namespace(LIMITS, 4 << 20, pooled(Durability::Media));
    // One shard: its volume is on core 0.
    let mut rig = Rig::in_pool_with(ns, &def, 2, 3, pool.clone());
    rig.run(0, store(&rig, "k", &[9; 60_000])).unwrap();
    let hog: Vec<_> = std::iter::from_fn(|| pool.alloc(4096)).collect();
    let ops = [0, 1].map(|core| rig.submit(core, retrieve("k")).unwrap());
    rig.settle();
    assert!(rig.done.is_empty());
    assert!(rig.cores[0].wants_memory() && !rig.cores[1].wants_memory());
    drop(hog);
    rig.collect();
    rig.settle();
    for op in ops {
        let read = rig.done.remove(&op);
        let Some(Ok(IoOutcome::Kv(KvOutcome::Retrieved(bytes)))) = read else { panic!("{read:?}") };
        assert!(*bytes == [9; 60_000]);
    }
    assert!(!rig.cores[0].wants_memory());
}

#[test]
fn flush_reaches_the_devices_of_every_shard_where_it_has_to() {
    for (durability, syncs) in [(Durability::Device, 4), (Durability::Media, 0)] {
        let dir = scratch();
        let def = new_pool(dir.path(), (1, 1), 2);
        let mut rig = Rig::in_pool(kv_namespace(LIMITS, 4 << 20, pooled(durability)), &def, 3, 3);
        for i in 0..8 {
            rig.run(i % 3, store(&rig, &format!("k{i}"), &[1; 100])).unwrap();
        }
        for core in 0..3 {
            let before = rig.disk.syncs;
            assert!(matches!(rig.run(core, IoRequest::KvFlush), Ok(IoOutcome::Flushed)));
            assert!(rig.disk.syncs >= before + syncs || core > 0, "{} of {syncs} syncs", rig.disk.syncs - before);
        }
        rig.close();
    }
}

#[test]
fn detached_storage_answers_everything_and_closes() {
    for (cores, shards) in [(1, 1), (2, 3), (3, 2)] {
        let dir = scratch();
        let def = new_pool(dir.path(), (1, 0), shards);
        let ns = kv_namespace(LIMITS, 4 << 20, pooled(Durability::Media));
        let mut rig = Rig::in_pool(Arc::clone(&ns), &def, cores, 3);
        let mut ops = Vec::new();
        for i in 0..40 {
            let key = format!("k{}", i % 3);
            let request = if i % 4 == 0 { retrieve(&key) } else { store(&rig, &key, &[i as u8; 9000]) };
            ops.push(rig.submit(i % cores, request).unwrap());
        }
        ops.push(rig.submit(0, IoRequest::Kv(KvRequest::List { start: None, max_bytes: 100 })).unwrap());
        for _ in 0..20 {
            rig.step();
        }
        for core in &mut rig.cores {
            core.detach(ns.backend);
        }
        rig.collect();
        rig.settle();
        assert!(ops.iter().all(|op| rig.done.contains_key(op)));
        let late = rig.run(0, retrieve("k0"));
        assert_eq!(late.unwrap_err(), IoError::Kv(kvof_kv::KvError::NotReady));
        rig.close();
        // Closed: it can be opened again while the machine still runs.
        Rig::in_pool(Namespace::new(ns.def.clone(), ns.backend), &def, cores, 4).close();
    }
}

#[test]
fn a_device_that_is_given_up_and_taken_back_costs_nothing() {
    let dir = scratch();
    let def = new_pool(dir.path(), (2, 1), 2);
    let mut rig = Rig::in_pool(kv_namespace(LIMITS, 4 << 20, pooled(Durability::Media)), &def, 2, 3);
    let value = |i: usize| vec![i as u8; 5000 + i];
    let change = |rig: &mut Rig, def: &PoolDef| {
        let mut handle = rig.handle.take().unwrap();
        let id = handle.id();
        let mut changes = 0;
        handle
            .update(def, &mut |change| {
                changes += 1;
                for core in &mut rig.cores {
                    match &change {
                        DeviceChange::Gone { member, why } => core.handle_device(id, *member, None, why),
                        DeviceChange::Back { member, uuid, file } => {
                            core.handle_device(id, *member, Some((*uuid, Arc::clone(file))), "");
                        }
                    }
                }
                rig.collect();
                rig.settle();
            })
            .unwrap();
        rig.handle = Some(handle);
        rig.collect();
        rig.settle();
        changes
    };
    for i in 0..20 {
        rig.run(i % 2, store(&rig, &format!("k{i}"), &value(i))).unwrap();
    }
    let without = PoolDef { devices: def.devices[1..].to_vec(), ..def.clone() };
    assert_eq!(change(&mut rig, &without), 1);
    let warnings = rig.handle.as_ref().unwrap().status().warnings();
    assert_eq!(warnings, kvof_spec::log::CriticalWarning::DEGRADED);
    for i in 20..40 {
        rig.run(i % 2, store(&rig, &format!("k{i}"), &value(i))).unwrap();
    }
    let read_all = |rig: &mut Rig| {
        for i in 0..40 {
            let read = rig.run(i % 2, retrieve(&format!("k{i}")));
            let Ok(IoOutcome::Kv(KvOutcome::Retrieved(bytes))) = read else { panic!("{i}: {read:?}") };
            assert!(*bytes == *value(i), "{i}");
        }
    };
    read_all(&mut rig);
    assert_eq!(change(&mut rig, &def), 1);
    // The rebuild goes on with the time.
    for ms in 0..200 {
        for core in &mut rig.cores {
            core.handle_time(Duration::from_millis(100 * ms));
        }
        rig.collect();
        rig.settle();
    }
    assert!(rig.handle.as_ref().unwrap().status().warnings().is_empty(), "{:?}", rig.handle);
    // Another device can go now.
    let without = PoolDef { devices: def.devices[..2].to_vec(), ..def.clone() };
    assert_eq!(change(&mut rig, &without), 1);
    read_all(&mut rig);
    rig.close();
}

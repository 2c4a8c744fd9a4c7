//! A volume on devices in memory. The simulator (`tests/`) goes on from here.

use std::time::Duration;

use kvof_io::{Pool, PoolConfig};
use kvof_kv::{Key, KvError, KvLimits, KvOutcome, KvRequest, KvResult, OpId, StoreOptions};

use super::*;
use crate::{
    device::{memory::MemoryDevices, standalone::write_first_superblocks},
    ec::Profile,
    format::{NamespaceMode, Secret},
};

struct Rig {
    volume: Volume,
    slot: u16,
    devices: MemoryDevices,
    config: VolumeConfig,
    next: u64,
    present: Vec<Option<[u8; 16]>>,
    size: u64,
    mode: NamespaceMode,
}

fn config(profile: Profile, members: u16, segments: u32) -> VolumeConfig {
    VolumeConfig {
        pool: [7; 16],
        secret: Secret([9; 16]),
        geometry: Geometry::new(profile, members, 1, if profile.k() < 3 { 1024 } else { 256 }, segments).unwrap(),
        shard: 0,
        buffers: Pool::new(PoolConfig { limit: 256 << 20, shards: 1 }),
        scratch: 64 << 20,
        index_memory: 16 << 20,
        tier: 0,
        read_ahead: 0,
        rebuild_rate: 0,
        scrub_rate: 0,
    }
}

impl Rig {
    fn new(k: u8, m: u8, segments: u32, size: u64, mode: NamespaceMode) -> Self {
        let profile = Profile::new(k, m).unwrap();
        let members = u16::from(profile.width());
        let config = config(profile, members, segments);
        let ids: Vec<[u8; 16]> = (0..members).map(|n| [n as u8 + 1; 16]).collect();
        let mut devices = MemoryDevices::new(members, config.geometry.device_bytes());
        write_first_superblocks(&config, &ids, &mut devices).unwrap();
        let present: Vec<_> = ids.into_iter().map(Some).collect();
        Self::open(config, devices, present, size, mode)
    }

    fn open(
        config: VolumeConfig,
        mut devices: MemoryDevices,
        present: Vec<Option<[u8; 16]>>,
        size: u64,
        mode: NamespaceMode,
    ) -> Self {
        let mut volume = Volume::open(config.clone(), &present, &mut devices, &mut |_| {}).unwrap();
        let slot = volume
            .attach(NamespaceSpec {
                uuid: [5; 16],
                mode,
                durability: Durability::Media,
                limits: KvLimits { kvkml: 16, kvvml: 2 << 20, mnks: 0, novg: 4096 },
                usage: Usage::new(size, 0),
                reservation: 0,
            })
            .unwrap();
        Self { volume, slot, devices, config, next: 0, present, size, mode }
    }

    fn crash(self) -> Self {
        Self::open(self.config, self.devices, self.present, self.size, self.mode)
    }

    fn restart(mut self) -> Self {
        self.volume.drain();
        self.run();
        assert!(self.volume.is_idle());
        self.volume.close(&mut self.devices).unwrap();
        Self::open(self.config, self.devices, self.present, self.size, self.mode)
    }

    fn run(&mut self) -> Vec<(OpId, KvResult<SharedBuf>)> {
        let mut results = Vec::new();
        for step in 0.. {
            assert!(step < 1_000_000, "it does not come to rest");
            let mut worked = false;
            while let Some(request) = self.volume.poll_device() {
                let token = request.token;
                let done = self.devices.execute(request);
                self.volume.handle_device(token, done);
                worked = true;
            }
            while let Some(result) = self.volume.poll() {
                results.push(result);
                worked = true;
            }
            if !worked {
                break;
            }
        }
        self.volume.handle_time(Duration::from_secs(1));
        results
    }

    fn submit(&mut self, request: KvRequest<PoolBuf>) -> OpId {
        self.next += 1;
        let id = OpId(self.next);
        self.volume.submit(self.slot, id, request);
        id
    }

    fn one(&mut self, request: KvRequest<PoolBuf>) -> KvResult<SharedBuf> {
        let id = self.submit(request);
        let mut results = self.run();
        assert_eq!(results.len(), 1, "{id:?}: {results:?}");
        results.pop().unwrap().1
    }

    fn value(&self, len: usize, seed: u64) -> PoolBuf {
        let mut buf = self.config.buffers.alloc(len).unwrap();
        buf.copy_from_slice(&bytes(len, seed));
        buf
    }

    fn store(&mut self, key: &str, len: usize, seed: u64) -> KvResult<SharedBuf> {
        let value = self.value(len, seed);
        self.one(KvRequest::Store { key: Key::parse(key).unwrap(), options: StoreOptions::empty(), value })
    }

    fn check(&mut self, key: &str, len: usize, seed: u64) {
        match self.one(KvRequest::Retrieve { key: Key::parse(key).unwrap(), raw: false }) {
            Ok(KvOutcome::Retrieved(value)) => assert!(*value == bytes(len, seed)[..], "{key}: wrong bytes"),
            other => panic!("{key}: {other:?}"),
        }
    }

    fn delete(&mut self, key: &str) -> KvResult<SharedBuf> {
        self.one(KvRequest::Delete { key: Key::parse(key).unwrap() })
    }
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

const SIZES: [usize; 12] =
    [0, 1, 100, 3700, 4064, 4065, 4096, 65536, (128 << 10) - 1, 128 << 10, 1 << 20, (2 << 20) - 17];

#[test]
fn values_of_all_sizes_come_back_and_survive_crash_and_restart() {
    for (k, m) in [(1, 0), (1, 1), (1, 2), (2, 1), (4, 1), (4, 2), (3, 0)] {
        let mut rig = Rig::new(k, m, 20 * u32::from(k + m), 1 << 40, NamespaceMode::Store);
        for round in 0..3 {
            for (n, len) in SIZES.iter().enumerate() {
                assert!(rig.store(&format!("k{n}"), *len, n as u64 + round).is_ok(), "{k}+{m} {len}");
            }
            let check = |rig: &mut Rig| {
                for (n, len) in SIZES.iter().enumerate() {
                    rig.check(&format!("k{n}"), *len, n as u64 + round);
                }
            };
            check(&mut rig);
            rig = rig.crash();
            check(&mut rig);
            rig = rig.restart();
            check(&mut rig);
            assert_eq!(rig.volume.stats().keys, SIZES.len() as u64);
        }
        assert!(rig.delete("k3").is_ok());
        assert_eq!(rig.delete("k3").unwrap_err(), KvError::KeyDoesNotExist);
        rig = rig.crash();
        assert_eq!(rig.delete("k3").unwrap_err(), KvError::KeyDoesNotExist);
    }
}

#[test]
fn stores_in_flight_share_stripes() {
    let mut rig = Rig::new(4, 1, 50, 1 << 40, NamespaceMode::Store);
    for n in 0..1000 {
        let value = rig.value(100, n);
        rig.submit(KvRequest::Store {
            key: Key::new(&n.to_le_bytes()).unwrap(),
            options: StoreOptions::empty(),
            value,
        });
    }
    assert_eq!(rig.run().iter().filter(|(_, result)| result.is_ok()).count(), 1000);
    assert!(rig.volume.stats().stripes < 10, "{}", rig.volume.stats().stripes);
}

#[test]
fn a_full_store_refuses_and_deletes_make_room() {
    let mut rig = Rig::new(4, 1, 50, 1 << 40, NamespaceMode::Store);
    let mut stored = 0;
    loop {
        match rig.store(&format!("k{stored}"), 300_000, stored) {
            Ok(_) => stored += 1,
            Err(KvError::CapacityExceeded) => break,
            Err(other) => panic!("{other}"),
        }
        assert!(stored < 100_000);
    }
    let stats = rig.volume.stats();
    let raw = (u64::from(stats.groups) * 4) << 20;
    assert!(stored * 300_000 > raw / 2, "{stored} values in {raw} bytes");
    for round in 0..5 {
        for n in (round..stored).step_by(5) {
            assert!(rig.delete(&format!("k{n}")).is_ok());
            assert!(rig.store(&format!("n{n}"), 290_000, n).is_ok(), "{n}");
        }
        rig = rig.crash();
    }
    for n in 0..stored {
        rig.check(&format!("n{n}"), 290_000, n);
    }
    assert_eq!(rig.volume.stats().keys, stored);
}

#[test]
fn a_cache_is_never_full() {
    for size in [1 << 40, 3 << 20, 40 << 20] {
        let mut rig = Rig::new(4, 1, 50, size, NamespaceMode::Cache);
        for n in 0..1500u64 {
            assert!(rig.store(&format!("k{n}"), 200_000, n).is_ok(), "{n} of {size}");
            rig.check(&format!("k{n}"), 200_000, n);
        }
        assert!(rig.volume.stats().evicted > 100);
        rig = rig.crash();
        rig.check("k1499", 200_000, 1499);
    }
}

#[test]
fn any_m_devices_may_go_and_come_back() {
    let mut rig = Rig::new(4, 2, 66, 1 << 40, NamespaceMode::Store);
    for n in 0..60 {
        assert!(rig.store(&format!("k{n}"), SIZES[n % SIZES.len()], n as u64).is_ok());
    }
    rig.volume.device_failed(1, "pulled");
    rig.volume.device_failed(4, "pulled");
    rig.run();
    rig.devices.remove(1);
    rig.devices.remove(4);
    for n in 0..60 {
        rig.check(&format!("k{n}"), SIZES[n % SIZES.len()], n as u64);
    }
    for n in 60..120 {
        assert!(rig.store(&format!("k{n}"), SIZES[n % SIZES.len()], n as u64).is_ok());
    }
    (rig.present[1], rig.present[4]) = (None, None);
    rig = rig.crash();
    for n in 0..120 {
        rig.check(&format!("k{n}"), SIZES[n % SIZES.len()], n as u64);
    }
    let len = rig.config.geometry.device_bytes();
    for member in [1, 4] {
        rig.devices.insert(member, crate::device::memory::Image::new(len));
        rig.volume.device_returned(member, [40 + member as u8; 16]);
        rig.present[usize::from(member)] = Some([40 + member as u8; 16]);
    }
    rig.run();
    rig.run();
    let stats = rig.volume.stats();
    assert!(stats.members.iter().all(|state| *state == crate::format::MemberState::Live), "{:?}", stats.members);
    for member in [0, 3] {
        rig.devices.remove(member);
        rig.present[usize::from(member)] = None;
    }
    rig = rig.crash();
    for n in 0..120 {
        rig.check(&format!("k{n}"), SIZES[n % SIZES.len()], n as u64);
    }
    rig.volume.device_failed(5, "one too many");
    rig.run();
    assert_eq!(rig.store("more", 100, 0).unwrap_err(), KvError::Unrecovered);
}

#[test]
fn whoever_takes_turns_is_not_held_up_by_large_values() {
    let mut rig = Rig::new(4, 1, 64, 64 << 20, NamespaceMode::Store);
    assert!(matches!(rig.store("small", 4096, 1), Ok(KvOutcome::Stored)));
    rig.volume.take_turns();
    let lens = [1 << 20, (1 << 20) + 5000, 300_000];
    for (n, len) in lens.iter().enumerate() {
        let (key, value) = (Key::parse(&format!("large{n}")).unwrap(), rig.value(*len, n as u64));
        rig.submit(KvRequest::Store { key, options: StoreOptions::empty(), value });
    }
    let mut steps = 0;
    let mut answers = 0;
    while rig.volume.has_work() {
        assert!(steps < 100, "it does not end");
        // What is asked meanwhile is answered meanwhile.
        if steps < 3 {
            rig.check("small", 4096, 1);
            assert!(rig.volume.has_work() && rig.volume.poll_device().is_none());
        }
        rig.volume.work();
        steps += 1;
        if !rig.volume.has_work() {
            answers += rig.run().len();
        }
    }
    // The first is alone in its stripe, and the others share the next one.
    assert!(steps >= 2 * (1 << 20) / (256 << 10), "{steps} steps");
    assert_eq!(answers, lens.len());
    assert!(rig.volume.is_idle());
    let mut rig = rig.crash();
    for (n, len) in lens.iter().enumerate() {
        rig.check(&format!("large{n}"), *len, n as u64);
    }
    // A crash in between: as if it had never been asked for.
    rig.volume.take_turns();
    let (key, value) = (Key::parse("large0").unwrap(), rig.value(1 << 20, 77));
    rig.submit(KvRequest::Store { key, options: StoreOptions::empty(), value });
    rig.volume.work();
    assert!(rig.volume.has_work() && !rig.volume.is_idle());
    let mut rig = rig.crash();
    rig.check("large0", 1 << 20, 0);
}

#[test]
fn a_flood_of_overwrites_is_never_refused_for_want_of_room() {
    let mut rig = Rig::new(4, 1, 12, 64 << 20, NamespaceMode::Store);
    let mut in_flight = 0;
    let (mut begun, mut ended) = (0_u64, 0);
    // Twenty times as many groups as there are, with somebody always waiting.
    while ended < 700 {
        while in_flight < 12 {
            let (key, value) = (Key::parse(&format!("k{}", begun % 6)).unwrap(), rig.value(1 << 20, begun));
            rig.submit(KvRequest::Store { key, options: StoreOptions::empty(), value });
            begun += 1;
            in_flight += 1;
        }
        if let Some(request) = rig.volume.poll_device() {
            let token = request.token;
            let done = rig.devices.execute(request);
            rig.volume.handle_device(token, done);
        }
        while let Some((_, result)) = rig.volume.poll() {
            assert!(matches!(result, Ok(KvOutcome::Stored)), "after {ended} Stores: {result:?}");
            in_flight -= 1;
            ended += 1;
        }
    }
}

//! Whatever moment a pool stops at, its second reader finds nothing wrong with what the engine has written.
//!
//! Simulated devices reorder and tear what is in flight; requests of all kinds run on a pool so small that it is cleaned all
//! the time. A failure prints the seed; `KVOF_SEED=…` repeats it, and `KVOF_EPISODES=1000` tries more of them.

use std::{env, time::Duration};

use kvof_io::{Pool, PoolConfig};
use kvof_kv::{Key, KvLimits, KvRequest, KvStore as _, OpId, StoreOptions};
use kvof_store::{
    device::{
        Devices,
        sim::{Crash, Rng, SimDevices, derive},
        standalone::{Standalone, write_first_superblocks},
    },
    ec::Profile,
    format::{NamespaceMode, Secret, Uuid},
    geometry::Geometry,
    usage::Usage,
    verify::{Depth, Finding, Kind, Report, Severity, Subject, verify_shard},
    volume::{Durability, NamespaceSpec, VolumeConfig},
};

struct Run {
    seed: u64,
    rng: Rng,
    config: VolumeConfig,
    spec: NamespaceSpec,
    subject: Subject,
    id: u64,
    pending: usize,
}

impl Run {
    fn new(seed: u64) -> (Self, SimDevices) {
        let mut rng = Rng::new(seed);
        let (k, m, more) = [(1, 0, 0), (1, 1, 0), (2, 1, 1), (4, 1, 0), (3, 2, 2)][rng.below(5) as usize];
        let profile = Profile::new(k, m).unwrap();
        let members = u16::from(k + m) + more;
        let shards = 1 + rng.below(2) as u16;
        // Some twelve groups.
        let segments = 12_u32.div_ceil(members.into()) * u32::from(profile.width());
        let geometry = Geometry::new(profile, members, shards, 256, segments).unwrap();
        let (pool, secret) = ([9; 16], Secret([5; 16]));
        let config = VolumeConfig {
            pool,
            secret,
            geometry,
            shard: 0,
            buffers: Pool::new(PoolConfig::new(48 << 20)),
            scratch: 16 << 20,
            index_memory: 8 << 20,
            tier: 0,
            read_ahead: 0,
            rebuild_rate: 0,
            scrub_rate: 0,
        };
        let uuids: Vec<Uuid> = (0..members).map(|member| [member as u8 + 1; 16]).collect();
        let mut devices = SimDevices::new(derive(seed, 1), members, geometry.device_bytes());
        write_first_superblocks(&config, &uuids, devices.block_io()).unwrap();
        let spec = NamespaceSpec {
            uuid: [7; 16],
            mode: if rng.one_in(2) { NamespaceMode::Store } else { NamespaceMode::Cache },
            durability: if rng.one_in(3) { Durability::Device } else { Durability::Media },
            limits: KvLimits { kvkml: 16, kvvml: 400_000, mnks: 0, novg: 1 },
            usage: Usage::new(1 << 40, 0),
            reservation: 0,
        };
        let devices_of = uuids.into_iter().map(Some).collect();
        let subject = Subject { pool, secret, geometry, devices: devices_of };
        (Self { seed, rng, config, spec, subject, id: 0, pending: 0 }, devices)
    }

    fn open(&self, devices: SimDevices) -> Standalone<SimDevices> {
        let spec = NamespaceSpec { usage: Usage::new(1 << 40, 0), ..self.spec.clone() };
        Standalone::open(self.config.clone(), &self.subject.devices, devices, &spec, &mut |_| ())
            .unwrap_or_else(|error| panic!("seed {:#x}: {error}", self.seed))
    }

    /// Begins a request, and drives the pool a little.
    fn step(&mut self, store: &mut Standalone<SimDevices>) {
        self.id += 1;
        let key = Key::new(format!("k{}", self.rng.below(60)).as_bytes()).unwrap();
        if self.rng.one_in(8) {
            store.submit(OpId(self.id), KvRequest::Delete { key });
            self.pending += 1;
        } else {
            let most = [40, 4000, 40_000, 400_000][self.rng.below(4) as usize];
            if let Some(mut value) = store.reserve(self.rng.below(most) as u32) {
                value.fill(self.id as u8);
                store.submit(OpId(self.id), KvRequest::Store { key, options: StoreOptions::default(), value });
                self.pending += 1;
            }
        }
        for _ in 0..self.rng.below(4) {
            self.drive(store);
        }
        while self.pending > 24 {
            self.drive(store);
        }
    }

    fn drive(&mut self, store: &mut Standalone<SimDevices>) {
        store.pump(Duration::from_micros(200)).unwrap();
        // A full pool and a missing key are answers like others.
        while store.poll().is_some() {
            self.pending -= 1;
        }
    }

    /// Nothing may be worse than what a crash leaves.
    fn check(&self, devices: &mut SimDevices, when: &str) -> Report {
        let mut all = Report::default();
        for depth in [Depth::Quick, Depth::Full] {
            for shard in 0..self.subject.geometry.shards() {
                let report = verify_shard(devices.block_io(), &self.subject, shard, depth, &mut |_| ());
                let fine =
                    report.findings.iter().all(|finding| finding.severity == Severity::Note || self.is_half(finding));
                assert!(fine, "KVOF_SEED={:#x}, {when}, {depth:?}: {:#?}", self.seed, report.findings);
                if depth == Depth::Full {
                    all.merge(report);
                }
            }
        }
        all
    }

    /// Half a footer, the last commit before a crash, or half a group that was being freed: recovery does not write again what
    /// is enough as it is.
    fn is_half(&self, finding: &Finding) -> bool {
        let last = self.subject.geometry.segment_pages() - 1;
        match finding.kind {
            Kind::Column => finding.spot.row == Some(last),
            Kind::HeaderCopy => finding.spot.row == Some(last) || finding.spot.row == Some(0),
            _ => false,
        }
    }

    fn crash(&mut self, devices: &SimDevices) -> (SimDevices, Crash) {
        let kind = if self.rng.one_in(2) { Crash::Kill } else { Crash::Power };
        (devices.fork(kind, self.rng.next()), kind)
    }
}

/// Checks at so many moments; how many findings there were in all, to see that crashes leave something to find.
fn episode(seed: u64, moments: usize) -> u64 {
    let (mut run, devices) = Run::new(seed);
    let mut store = run.open(devices);
    let mut notes = 0;
    for moment in 0..moments {
        for _ in 0..run.rng.below(120) {
            run.step(&mut store);
        }
        let (mut after, kind) = run.crash(store.devices());
        let report = run.check(&mut after, &format!("moment {moment}, {kind:?}"));
        notes += report.count(Severity::Note);
        // What recovery makes of it, and a crash soon after; or a clean stop.
        let pending = std::mem::take(&mut run.pending);
        let mut again = run.open(after);
        for _ in 0..run.rng.below(30) {
            run.step(&mut again);
        }
        if run.rng.one_in(2) {
            let mut stopped = again.close().unwrap_or_else(|error| panic!("seed {seed:#x}: {error}"));
            run.check(&mut stopped, &format!("moment {moment}, {kind:?}, stopped cleanly"));
        } else {
            let (mut after, second) = run.crash(again.devices());
            run.check(&mut after, &format!("moment {moment}, {kind:?}, then {second:?}"));
        }
        run.pending = pending;
    }
    notes
}

#[test]
fn whenever_a_pool_stops_it_is_sound() {
    if let Ok(seed) = env::var("KVOF_SEED") {
        let seed = u64::from_str_radix(seed.trim_start_matches("0x"), 16).unwrap();
        episode(seed, 12);
        return;
    }
    let notes: u64 = (1..=24).map(|seed| episode(seed, 12)).sum();
    assert!(notes > 0, "no crash has left an unfinished commit: nothing was tested");
}

#[test]
fn fresh_seeds_are_sound_too() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let episodes = env::var("KVOF_EPISODES").map_or(6, |text| text.parse().unwrap());
    for n in 0..episodes {
        let seed = derive(now.as_nanos() as u64, n);
        println!("KVOF_SEED={seed:#x}");
        episode(seed, 12);
    }
}

//! The KV conformance suite on the engine: on devices in memory of several profiles, with devices absent, and on files
//! through io_uring.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use kvof_io::{DiskFile, DiskOpenOptions, EventLoopConfig, Pool, PoolConfig};
use kvof_kv::{
    Data, KvCommand, KvConfiguration, KvLimits, KvPort, KvStore, KvUsage, PortError, PortInfo, Reply,
    conformance::{self, Outcome, RunOptions},
    model::execute_on,
};
use kvof_spec::Status;
use kvof_store::{
    device::{
        Devices,
        driver::UringDriver,
        memory::{MemoryDevices, MemoryQueue},
        standalone::{Standalone, write_first_superblocks},
    },
    ec::Profile,
    format::{NamespaceMode, Secret, Uuid},
    geometry::Geometry,
    usage::Usage,
    volume::{Durability, NamespaceSpec, VolumeConfig},
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 40 * MIB;
const KVVML: u32 = 1 << 19;

struct Plan {
    k: u8,
    m: u8,
    extra: u16,
    shards: u16,
    mode: NamespaceMode,
    durability: Durability,
    tier: u64,
}

impl Plan {
    const fn new(k: u8, m: u8, shards: u16) -> Self {
        Self { k, m, extra: 0, shards, mode: NamespaceMode::Store, durability: Durability::Media, tier: 0 }
    }

    fn config(&self) -> VolumeConfig {
        let profile = Profile::new(self.k, self.m).unwrap();
        let width = u16::from(profile.width());
        // Room for the namespace twice over, in each shard's part.
        let segments = u32::from(width) * (2 * 40 / u32::from(self.k) / u32::from(self.shards)).max(8);
        let geometry = Geometry::new(profile, width + self.extra, self.shards, 256, segments).unwrap();
        VolumeConfig {
            pool: [1; 16],
            secret: Secret([2; 16]),
            geometry,
            shard: 0,
            buffers: Pool::new(PoolConfig { limit: 64 << 20, shards: 1 }),
            scratch: 32 << 20,
            index_memory: 16 << 20,
            tier: self.tier,
            read_ahead: self.tier / 4,
            rebuild_rate: 0,
            scrub_rate: 0,
        }
    }

    fn spec(&self) -> NamespaceSpec {
        NamespaceSpec {
            uuid: [3; 16],
            mode: self.mode,
            durability: self.durability,
            limits: KvLimits { kvkml: 16, kvvml: KVVML, mnks: 0, novg: 4096 },
            usage: Usage::new(SIZE, 0),
            reservation: 0,
        }
    }
}

fn uuids(config: &VolumeConfig) -> Vec<Uuid> {
    (0..config.geometry.members()).map(|n| [n as u8 + 10; 16]).collect()
}

/// Runs the suite on a pool that another thread drives: a ring belongs to the thread that made it. It is stopped
/// cleanly in the end.
fn run<D: Devices>(
    name: &str,
    plan: &Plan,
    config: VolumeConfig,
    present: &[Option<Uuid>],
    devices: impl FnOnce() -> D + Send,
) {
    let spec = plan.spec();
    let (port, jobs) = ThreadPort::new(spec.limits, name);
    std::thread::scope(|scope| {
        let driver = scope.spawn(|| {
            let mut store = Standalone::open(config, present, devices(), &spec, &mut |_| {}).unwrap();
            for job in jobs {
                job.run(&mut store);
            }
            for volume in store.volumes() {
                let stats = volume.stats();
                assert_eq!((stats.unrecovered, stats.read_only.clone()), (0, None), "{stats:?}");
            }
            store.close().unwrap();
        });
        let mut failed = Vec::new();
        let mut skipped = Vec::new();
        let options = RunOptions::default();
        let summary = conformance::run(&port, &options, &mut |report| match report.outcome {
            Outcome::Failed(_) => failed.push(format!("{report:?}")),
            Outcome::Skipped(_) => skipped.push(format!("{report:?}")),
            Outcome::Passed => {}
        });
        drop(port);
        driver.join().unwrap();
        assert!(summary.ok(), "{name}, seed {:#x}: {failed:#?}", options.seed);
        assert!(skipped.len() < 6, "{skipped:#?}");
        assert_eq!(spec.usage.current(), KvUsage { nsze: SIZE, nuse: 0, keys: 0 }, "{name}");
    });
}

/// A command on its way to the thread that drives the pool.
struct Job {
    command: KvCommand,
    ednek: bool,
    out: Option<Vec<u8>>,
    inward: Option<Vec<u8>>,
    answer: mpsc::Sender<(Reply, Vec<u8>)>,
}

impl Job {
    fn run<S: KvStore>(mut self, store: &mut S) {
        let data = match (&self.out, &mut self.inward) {
            (Some(bytes), _) => Data::Out(bytes),
            (None, Some(bytes)) => Data::In(bytes),
            (None, None) => Data::None,
        };
        let reply = execute_on(store, KvConfiguration { ednek: self.ednek }, &self.command, data);
        self.answer.send((reply, self.inward.unwrap_or_default())).unwrap();
    }
}

struct ThreadPort {
    jobs: Mutex<mpsc::Sender<Job>>,
    ednek: AtomicBool,
    limits: KvLimits,
    name: String,
}

impl ThreadPort {
    fn new(limits: KvLimits, name: &str) -> (Self, mpsc::Receiver<Job>) {
        let (jobs, receiver) = mpsc::channel();
        (Self { jobs: Mutex::new(jobs), ednek: AtomicBool::new(false), limits, name: name.to_owned() }, receiver)
    }
}

impl KvPort for ThreadPort {
    fn info(&self) -> PortInfo {
        PortInfo { nsid: 1, limits: self.limits, max_transfer: KVVML, name: self.name.clone() }
    }

    fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
        let refused = |status| Ok(Reply { status, dw0: 0 });
        match command.nsid {
            1 => {}
            u32::MAX => return refused(Status::INVALID_FIELD),
            _ => return refused(Status::INVALID_NAMESPACE_OR_FORMAT),
        }
        if data.len() as u64 > u64::from(KVVML) {
            return Err(PortError::Unsupported(format!("{} bytes: at most {KVVML}", data.len())));
        }
        let (answer, reply) = mpsc::channel();
        let (out, inward) = match &data {
            Data::None => (None, None),
            Data::Out(bytes) => (Some(bytes.to_vec()), None),
            Data::In(bytes) => (None, Some(bytes.to_vec())),
        };
        let job = Job { command: *command, ednek: self.ednek.load(Ordering::Relaxed), out, inward, answer };
        let gone = |_| PortError::Failed("the pool's thread has ended".to_owned());
        self.jobs.lock().unwrap().send(job).map_err(|error| gone(error.to_string()))?;
        let (reply, bytes) = reply.recv().map_err(|error| gone(error.to_string()))?;
        if let Data::In(to) = data {
            to.copy_from_slice(&bytes);
        }
        Ok(reply)
    }

    fn admin_set_ednek(&self, on: bool) -> Option<Result<Status, PortError>> {
        self.ednek.store(on, Ordering::Relaxed);
        Some(Ok(Status::SUCCESS))
    }

    fn admin_get_ednek(&self) -> Option<Result<bool, PortError>> {
        Some(Ok(self.ednek.load(Ordering::Relaxed)))
    }
}

fn in_memory(name: &str, plan: &Plan, absent: &[u16]) {
    let config = plan.config();
    let uuids = uuids(&config);
    let mut devices = MemoryDevices::new(config.geometry.members(), config.geometry.device_bytes());
    write_first_superblocks(&config, &uuids, &mut devices).unwrap();
    for member in absent {
        devices.remove(*member);
    }
    let present: Vec<Option<Uuid>> =
        (0..).zip(&uuids).map(|(member, uuid)| (!absent.contains(&member)).then_some(*uuid)).collect();
    run(name, plan, config, &present, || MemoryQueue::new(devices));
}

#[test]
fn one_device() {
    in_memory("1+0", &Plan::new(1, 0, 1), &[]);
}

#[test]
fn a_mirror_in_three_shards() {
    in_memory("1+1, 3 shards", &Plan::new(1, 1, 3), &[]);
}

#[test]
fn four_and_one_with_a_tier() {
    in_memory("4+1", &Plan { tier: 8 * MIB, ..Plan::new(4, 1, 1) }, &[]);
}

#[test]
fn four_and_two_on_eight_devices_in_three_shards() {
    in_memory("4+2 on 8, 3 shards", &Plan { extra: 2, ..Plan::new(4, 2, 3) }, &[]);
}

#[test]
fn durability_of_the_devices() {
    in_memory("4+1, device", &Plan { durability: Durability::Device, ..Plan::new(4, 1, 3) }, &[]);
}

#[test]
fn a_cache_with_room() {
    in_memory("4+1, cache", &Plan { mode: NamespaceMode::Cache, ..Plan::new(4, 1, 1) }, &[]);
}

#[test]
fn without_m_devices() {
    in_memory("1+1 without 0", &Plan::new(1, 1, 1), &[0]);
    in_memory("4+2 without 1 and 4", &Plan::new(4, 2, 3), &[1, 4]);
    in_memory("4+1 on 7 without 2, cache", &Plan { extra: 2, mode: NamespaceMode::Cache, ..Plan::new(4, 1, 1) }, &[2]);
}

#[test]
fn more_than_m_absent_devices_are_an_error_that_names_them() {
    let plan = Plan::new(4, 1, 1);
    let config = plan.config();
    let mut devices = MemoryDevices::new(5, config.geometry.device_bytes());
    let uuids = uuids(&config);
    write_first_superblocks(&config, &uuids, &mut devices).unwrap();
    let present: Vec<Option<Uuid>> =
        (0..).zip(&uuids).map(|(n, u): (u16, _)| (n != 1 && n != 3).then_some(*u)).collect();
    let error = Standalone::open(config, &present, MemoryQueue::new(devices), &plan.spec(), &mut |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("3 of 5 devices") && text.contains("1, 3"), "{text}");
}

#[test]
fn files_through_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    for plan in [Plan::new(1, 1, 1), Plan { durability: Durability::Device, ..Plan::new(4, 1, 3) }] {
        let name = format!("{}+{} on files", plan.k, plan.m);
        let config = plan.config();
        let uuids = uuids(&config);
        // What the first run leaves is found by the second one, without one of the files.
        for absent in [None, Some(0)] {
            let make = || {
                let files = (0..config.geometry.members()).map(|n| {
                    let path = dir.path().join(format!("{name}-{n}"));
                    let size = Some(config.geometry.device_bytes());
                    let options = DiskOpenOptions { create: true, size, direct: true, read_only: false };
                    (absent != Some(n)).then(|| Arc::new(DiskFile::open(path, options).unwrap()))
                });
                // So few operations at once that the backlog is used.
                let ring = EventLoopConfig { max_disk_ops: 4, ..EventLoopConfig::default() };
                let mut devices = UringDriver::new(files.collect(), ring).unwrap();
                if absent.is_none() {
                    write_first_superblocks(&config, &uuids, &mut devices).unwrap();
                }
                devices
            };
            let present: Vec<Option<Uuid>> =
                (0..).zip(&uuids).map(|(n, uuid)| (absent != Some(n)).then_some(*uuid)).collect();
            run(&format!("{name}, without {absent:?}"), &plan, config.clone(), &present, make);
        }
    }
}

/// The driver as a reactor uses it: one volume, no store around it.
#[test]
fn a_volume_alone_on_files() {
    use kvof_kv::{Key, KvOutcome, KvRequest, OpId, StoreOptions};
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan::new(1, 1, 1);
    let config = plan.config();
    let open = |n: u16| {
        let size = Some(config.geometry.device_bytes());
        let options = DiskOpenOptions { create: true, size, direct: true, read_only: false };
        Some(Arc::new(DiskFile::open(dir.path().join(n.to_string()), options).unwrap()))
    };
    let mut driver = UringDriver::new(vec![open(0), open(1)], EventLoopConfig::default()).unwrap();
    let uuids = uuids(&config);
    write_first_superblocks(&config, &uuids, &mut driver).unwrap();
    let present: Vec<Option<Uuid>> = uuids.iter().copied().map(Some).collect();
    let mut volume =
        kvof_store::volume::Volume::open(config.clone(), &present, driver.block_io(), &mut |_| {}).unwrap();
    let slot = volume.attach(plan.spec()).unwrap();
    let key = Key::new(b"alone").unwrap();
    let mut value = config.buffers.alloc(300_000).unwrap();
    value.fill(7);
    volume.submit(slot, OpId(1), KvRequest::Store { key, options: StoreOptions::empty(), value });
    let result = |volume: &mut kvof_store::volume::Volume, driver: &mut UringDriver| {
        (0..1000).find_map(|_| {
            driver.pump(volume, Duration::from_millis(20)).unwrap();
            volume.poll()
        })
    };
    assert!(matches!(result(&mut volume, &mut driver), Some((OpId(1), Ok(KvOutcome::Stored)))));
    volume.submit(slot, OpId(2), KvRequest::Retrieve { key, raw: false });
    match result(&mut volume, &mut driver) {
        Some((OpId(2), Ok(KvOutcome::Retrieved(bytes)))) => {
            assert!(bytes.len() == 300_000 && bytes.iter().all(|b| *b == 7));
        }
        other => panic!("{other:?}"),
    }
}

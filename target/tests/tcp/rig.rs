//! A target on a free port of the loopback interface, in this process.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_io::{Pool, PoolConfig};
use kvof_kv::KvLimits;
use kvof_spec::Nqn;
use kvof_store::{
    ec::Profile,
    pool::{FormatOptions, format},
};
use kvof_target::{
    backend::{self, OpenPool, PoolHandle, PoolId},
    control::{Target, TargetLimits},
    model::{
        Durability, KvStorageDef, NamespaceDef, NamespaceKindDef, NamespaceMode, PoolDef, PoolLimits, PoolUse, PortDef,
        StorageDef, SubsystemDef, TargetDef, TransportKind,
    },
    reactor::{Listener, Listeners, RdmaConfig, RdmaListeners, ReactorConfig, Reactors, Storage},
    transport::tcp::{TcpSettings, TcpTimers},
};

pub(crate) const NQN: &str = "nqn.2024-01.localhost:tcp";
/// A KV namespace in memory.
pub(crate) const KV: u32 = 1;
/// A block namespace of 512-byte blocks in memory.
pub(crate) const BLOCKS: u32 = 2;
/// A KV namespace in a pool, where there is one.
pub(crate) const KV_POOL: u32 = 3;

const KV_SIZE: u64 = 32 << 20;

/// What a target is made of.
pub(crate) struct Options {
    pub(crate) cores: usize,
    pub(crate) tcp: TcpSettings,
    pub(crate) limits: TargetLimits,
    pub(crate) max_connections: usize,
    /// Memory beside what values may take.
    pub(crate) memory: usize,
    pub(crate) pool: Option<PoolDef>,
    /// Longest value of the namespace in the pool, bytes.
    pub(crate) pool_value: u32,
    pub(crate) pool_mode: NamespaceMode,
    pub(crate) pool_durability: Durability,
    pub(crate) address: SocketAddr,
    /// An RDMA port beside the TCP one, if there is a device for it.
    pub(crate) rdma: Option<(IpAddr, RdmaConfig)>,
}

/// The usual settings, but for the time that a host has to read a C2HTermReq before its connection is closed.
pub(crate) fn settings() -> TcpSettings {
    let timers = TcpTimers { linger: Duration::from_millis(50), ..TcpTimers::default() };
    TcpSettings { timers, ..TcpSettings::default() }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores: 1,
            tcp: settings(),
            limits: TargetLimits::default(),
            max_connections: 256,
            memory: 64 << 20,
            pool: None,
            pool_value: 2 << 20,
            pool_mode: NamespaceMode::Store,
            pool_durability: Durability::Media,
            address: ([127, 0, 0, 1], 0).into(),
            rdma: None,
        }
    }
}

impl Options {
    /// Impatient timers, for tests of them; a machine that is busy with other things needs some time to connect.
    pub(crate) fn impatient() -> Self {
        let timers = TcpTimers {
            connect: Duration::from_secs(5),
            pdu: Duration::from_millis(400),
            send: Duration::from_millis(400),
            linger: Duration::from_millis(300),
        };
        Self { tcp: TcpSettings { timers, ..TcpSettings::default() }, ..Self::default() }
    }
}

/// A running target, which stops with the test.
pub(crate) struct Rig {
    pub(crate) reactors: Option<Reactors>,
    pub(crate) target: Arc<Target>,
    pub(crate) pool: Pool,
    pub(crate) address: SocketAddr,
    #[allow(dead_code, reason = "the tests of NVMe/RDMA use it")]
    pub(crate) rdma: Option<SocketAddr>,
    cores: usize,
    definition: TargetDef,
    handle: Option<PoolHandle>,
}

/// A pool on new files in `folder`: (k, m) on as many of them, with so many shards, and for values of up to `value` bytes.
pub(crate) fn new_pool(folder: &Path, (k, m): (u8, u8), shards: u16, value: u64) -> PoolDef {
    let devices: Vec<PathBuf> = (0..k + m).map(|i| folder.join(format!("d{i}"))).collect();
    // A group takes a value with its bookkeeping.
    let segment = (value / u64::from(k) + (256 << 10)).next_power_of_two().max(1 << 20);
    let size = u64::from(shards) * segment * 4 * u64::from(k + m).max(4) + (8 << 20);
    let options = FormatOptions {
        profile: Some(Profile::new(k, m).unwrap()),
        shards: Some(shards),
        segment: Some(segment),
        size: Some(size),
        ..FormatOptions::default()
    };
    format(&devices, &options).unwrap();
    let limits = PoolLimits {
        index_memory: 64 << 20,
        tier: 4 << 20,
        scratch: 16 << 20,
        read_ahead: 1 << 20,
        rebuild_rate: 0,
        scrub_rate: 1 << 20,
    };
    PoolDef { name: "flash".into(), devices, create: None, limits }
}

fn namespace(nsid: u32, kind: NamespaceKindDef) -> NamespaceDef {
    NamespaceDef { nsid, uuid: [nsid as u8; 16], nguid: [nsid as u8 | 0x80; 16], kind }
}

pub(crate) fn kv(nsid: u32, storage: KvStorageDef, kvvml: u32) -> NamespaceDef {
    let limits = KvLimits { kvkml: 16, kvvml, mnks: 0, novg: 4096 };
    namespace(nsid, NamespaceKindDef::Kv { limits, size: KV_SIZE.max(4 * u64::from(kvvml)), storage })
}

fn definition(options: &Options, address: SocketAddr) -> TargetDef {
    let blocks = NamespaceKindDef::Nvm { block_size: 512, size: 4 << 20, storage: StorageDef::Memory };
    let mut namespaces = vec![kv(KV, KvStorageDef::Memory, 2 << 20), namespace(BLOCKS, blocks)];
    if let Some(pool) = &options.pool {
        let (mode, durability) = (options.pool_mode, options.pool_durability);
        let used = PoolUse { pool: pool.name.clone(), mode, durability, reservation: 0 };
        namespaces.push(kv(KV_POOL, KvStorageDef::Pool(used), options.pool_value));
    }
    let subsystem = SubsystemDef {
        nqn: NQN.parse().unwrap(),
        serial: "7".into(),
        model: "kvof".into(),
        allowed_hosts: None,
        namespaces,
    };
    TargetDef {
        ports: vec![PortDef { portid: 1, transport: TransportKind::Tcp, listen: address, advertise: None }],
        subsystems: vec![subsystem],
        referrals: Vec::new(),
        pools: options.pool.iter().cloned().collect(),
    }
}

impl Rig {
    pub(crate) fn start(options: Options) -> Self {
        let socket = kvof_io::listen_tcp(options.address, 1024).unwrap();
        let address = kvof_io::local_addr(socket.as_fd()).unwrap();
        let definition = definition(&options, address);
        let target = Target::new(definition.clone(), options.limits.clone(), Instant::now()).unwrap();
        // Room for the values of one namespace in memory, each rounded up to its size class.
        let limit = 2 * KV_SIZE as usize + options.memory;
        let pool = Pool::new(PoolConfig { limit, shards: options.cores });
        let mut opened = options.pool.as_ref().map(|def| {
            OpenPool::open(def, PoolId(1), options.cores, &pool, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"))
        });
        let mut storage = Storage::default();
        for ns in target.namespaces() {
            let parts = match (&mut opened, ns.def.kind.pool()) {
                (Some(pool), Some(_)) => pool.attach(&ns),
                _ => backend::open(&ns, options.cores, &pool),
            };
            storage.parts.push((ns.backend, parts.unwrap()));
        }
        let handle = opened.map(|opened| {
            let (handle, parts) = opened.into_parts();
            storage.pools.push(parts);
            handle
        });
        let config = ReactorConfig {
            cores: options.cores,
            pin: Vec::new(),
            busy_poll: Duration::ZERO,
            max_connections: options.max_connections,
            transfer_max: options.limits.mdts,
            max_disk_ops: 64,
            tcp: options.tcp,
            rdma: options.rdma.as_ref().map_or_else(RdmaConfig::default, |(_, config)| config.clone()),
        };
        let mut listeners = Listeners { tcp: vec![Listener { socket, portid: 1, local: address }], rdma: None };
        let rdma = options.rdma.as_ref().map(|(ip, _)| {
            let rdma = listeners.rdma.insert(RdmaListeners::new(64).unwrap());
            rdma.bind(2, SocketAddr::new(*ip, 0)).unwrap_or_else(|error| panic!("{error}"))
        });
        let reactors = Reactors::start(config, Arc::clone(&target), pool.clone(), storage, listeners).unwrap();
        Self { reactors: Some(reactors), target, pool, address, rdma, cores: options.cores, definition, handle }
    }

    pub(crate) fn connections(&self) -> usize {
        self.reactors.as_ref().unwrap().connections()
    }

    /// Adds the subsystem `nqn` with a KV namespace while the target serves.
    pub(crate) fn add_subsystem(&mut self, nqn: &str) {
        let nqn: Nqn = nqn.parse().unwrap();
        let mut storage = kv(1, KvStorageDef::Memory, 2 << 20);
        (storage.uuid, storage.nguid) = ([0x77; 16], [0x78; 16]);
        let subsystem = SubsystemDef {
            nqn,
            serial: "8".into(),
            model: "kvof".into(),
            allowed_hosts: None,
            namespaces: vec![storage],
        };
        self.definition.subsystems.push(subsystem);
        let plan = self.target.plan(self.definition.clone()).unwrap();
        for ns in plan.attach() {
            let parts = backend::open(ns, self.cores, &self.pool).unwrap();
            self.reactors.as_ref().unwrap().attach((ns.backend, parts));
        }
        self.target.apply(plan).unwrap();
    }

    pub(crate) fn stop(mut self, drain: Duration) -> Duration {
        let begin = Instant::now();
        let volumes = self.reactors.take().unwrap().stop(drain);
        if let Some(mut handle) = self.handle.take() {
            assert_eq!(volumes.len(), usize::from(handle.status().label.geometry.shards()), "all came to rest");
            for (_, _, volume) in volumes {
                handle.close(*volume).unwrap();
            }
        }
        begin.elapsed()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(reactors) = &self.reactors
            && !std::thread::panicking()
        {
            assert!(reactors.is_healthy(), "a core has panicked");
        }
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(10), "not {what} after 10 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

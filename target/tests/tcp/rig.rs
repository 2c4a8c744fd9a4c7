//! A target on a free port of the loopback interface, in this process.

use std::{
    net::SocketAddr,
    os::fd::AsFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_io::{Pool, PoolConfig};
use kvof_kv::KvLimits;
use kvof_spec::Nqn;
use kvof_target::{
    backend,
    control::{Target, TargetLimits},
    model::{NamespaceDef, NamespaceKindDef, PortDef, StorageDef, SubsystemDef, TargetDef},
    reactor::{Listener, ReactorConfig, Reactors},
    transport::tcp::{TcpSettings, TcpTimers},
};

pub(crate) const NQN: &str = "nqn.2024-01.localhost:tcp";
/// A KV namespace in memory.
pub(crate) const KV: u32 = 1;
/// A block namespace of 512-byte blocks in memory.
pub(crate) const BLOCKS: u32 = 2;
/// A KV namespace in a file, where there is one.
pub(crate) const KV_FILE: u32 = 3;

const KV_SIZE: u64 = 32 << 20;

/// What a target is made of.
pub(crate) struct Options {
    pub(crate) cores: usize,
    pub(crate) tcp: TcpSettings,
    pub(crate) limits: TargetLimits,
    pub(crate) max_connections: usize,
    /// Memory beside what values may take.
    pub(crate) memory: usize,
    pub(crate) kv_file: Option<PathBuf>,
    pub(crate) address: SocketAddr,
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
            kv_file: None,
            address: ([127, 0, 0, 1], 0).into(),
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
    cores: usize,
    definition: TargetDef,
}

fn namespace(nsid: u32, kind: NamespaceKindDef) -> NamespaceDef {
    NamespaceDef { nsid, uuid: [nsid as u8; 16], nguid: [nsid as u8 | 0x80; 16], kind }
}

pub(crate) fn kv(nsid: u32, storage: StorageDef) -> NamespaceDef {
    let limits = KvLimits { kvkml: 16, kvvml: 2 << 20, mnks: 0, novg: 4096 };
    namespace(nsid, NamespaceKindDef::Kv { limits, size: KV_SIZE, storage })
}

fn definition(options: &Options, address: SocketAddr) -> TargetDef {
    let blocks = NamespaceKindDef::Nvm { block_size: 512, size: 4 << 20, storage: StorageDef::Memory };
    let mut namespaces = vec![kv(KV, StorageDef::Memory), namespace(BLOCKS, blocks)];
    if let Some(path) = &options.kv_file {
        namespaces.push(kv(KV_FILE, StorageDef::File { path: path.clone() }));
    }
    let subsystem = SubsystemDef {
        nqn: NQN.parse().unwrap(),
        serial: "7".into(),
        model: "kvof".into(),
        allowed_hosts: None,
        namespaces,
    };
    TargetDef {
        ports: vec![PortDef { portid: 1, listen: address, advertise: None }],
        subsystems: vec![subsystem],
        referrals: Vec::new(),
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
        let namespaces = target.namespaces();
        let parts = namespaces.iter().map(|ns| (ns.backend, backend::open(ns, options.cores, &pool).unwrap()));
        let config = ReactorConfig {
            cores: options.cores,
            pin: Vec::new(),
            busy_poll: Duration::ZERO,
            max_connections: options.max_connections,
            transfer_max: options.limits.mdts,
            max_disk_ops: 64,
            tcp: options.tcp,
        };
        let listeners = vec![Listener { socket, portid: 1, local: address }];
        let reactors = Reactors::start(config, Arc::clone(&target), pool.clone(), parts.collect(), listeners).unwrap();
        Self { reactors: Some(reactors), target, pool, address, cores: options.cores, definition }
    }

    pub(crate) fn connections(&self) -> usize {
        self.reactors.as_ref().unwrap().connections()
    }

    /// Adds the subsystem `nqn` with a KV namespace while the target serves.
    pub(crate) fn add_subsystem(&mut self, nqn: &str) {
        let nqn: Nqn = nqn.parse().unwrap();
        let mut storage = kv(1, StorageDef::Memory);
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
        self.reactors.take().unwrap().stop(drain);
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

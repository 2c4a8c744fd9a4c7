//! A target with a KV and a block namespace in memory, on one core, that time does not pass for.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result};
use kvof_io::{Pool, PoolConfig};
use kvof_kv::KvLimits;
use kvof_spec::{
    Cc, Nqn, Property, Sqe,
    fabrics::{CNTLID_DYNAMIC, ConnectAttributes, ConnectCmd, ConnectData, PropertySetCmd},
};
use kvof_target::{
    backend::{self, Backends},
    control::{QueueTransport, Target, TargetLimits, TransportKind},
    model::{KvStorageDef, NamespaceDef, NamespaceKindDef, PortDef, StorageDef, SubsystemDef, TargetDef},
    queue::Cx,
};

/// The KV namespace.
pub(super) const KV: u32 = 1;
/// The block namespace, of blocks of 4096 bytes.
pub(super) const NVM: u32 = 2;
/// Blocks of it.
pub(super) const BLOCKS: u64 = 16 << 10;
/// Entries of the I/O queue.
pub(super) const ENTRIES: u16 = 128;
/// Most bytes of a command.
const TRANSFER_MAX: u32 = 2 << 20;
const KV_SIZE: u64 = 256 << 20;

/// All that a connection needs of its surroundings.
pub(super) struct Served {
    pub(super) now: Instant,
    target: Arc<Target>,
    pool: Pool,
    backends: Backends,
    transport: QueueTransport,
}

impl Served {
    pub(super) fn new(kind: TransportKind) -> Result<Self> {
        let now = Instant::now();
        let limits = TargetLimits { mdts: TRANSFER_MAX, ..TargetLimits::default() };
        let target = Target::new(definition(kind)?, limits, now)?;
        let limit = usize::try_from(backend::kv_memory_pool(KV_SIZE))? + (64 << 20);
        let pool = Pool::new(PoolConfig { limit, shards: 1 });
        let mut backends = Backends::new(0, 1, pool.clone());
        for ns in target.namespaces() {
            let part = backend::open(&ns, 1, &pool)?.pop().context("a core without a part of a namespace")?;
            backends.attach(ns.backend, part);
        }
        let transport = QueueTransport {
            kind,
            portid: 1,
            local: ([127, 0, 0, 1], 4420).into(),
            peer: ([127, 0, 0, 1], 1000).into(),
            wake: Arc::new(|| {}),
        };
        Ok(Self { now, target, pool, backends, transport })
    }

    pub(super) fn cx(&mut self) -> Cx<'_> {
        Cx {
            now: self.now,
            target: &self.target,
            backends: &mut self.backends,
            pool: &self.pool,
            transport: &self.transport,
            op_base: 0,
            transfer_max: TRANSFER_MAX,
        }
    }
}

fn definition(kind: TransportKind) -> Result<TargetDef> {
    let limits = KvLimits { kvkml: 16, kvvml: TRANSFER_MAX, mnks: 0, novg: 4096 };
    let namespace =
        |nsid: u32, kind| NamespaceDef { nsid, uuid: [nsid as u8; 16], nguid: [nsid as u8 | 0x80; 16], kind };
    let namespaces = vec![
        namespace(KV, NamespaceKindDef::Kv { limits, size: KV_SIZE, storage: KvStorageDef::Memory }),
        namespace(NVM, NamespaceKindDef::Nvm { block_size: 4096, size: BLOCKS * 4096, storage: StorageDef::Memory }),
    ];
    let port = PortDef { portid: 1, transport: kind, listen: ([127, 0, 0, 1], 4420).into(), advertise: None };
    let subsystem = SubsystemDef {
        nqn: subsystem_nqn()?,
        serial: "1".into(),
        model: "kvof".into(),
        allowed_hosts: None,
        namespaces,
    };
    Ok(TargetDef { ports: vec![port], subsystems: vec![subsystem], ..TargetDef::default() })
}

fn subsystem_nqn() -> Result<Nqn> {
    Ok("nqn.2024-01.localhost:kvof".parse()?)
}

/// Connect to the admin queue (`None`) or to I/O queue 1 of a controller, without flow control of the submission queue
/// unless `flow_control`: the command and its data.
pub(super) fn connect(cntlid: Option<u16>, flow_control: bool) -> Result<(Sqe, ConnectData)> {
    let (qid, sqsize) = cntlid.map_or((0, 31), |_| (1, ENTRIES - 1));
    let mut command = ConnectCmd::new(qid, sqsize, 0);
    if !flow_control {
        command.cattr = ConnectAttributes::DISABLE_SQ_FLOW_CONTROL.bits();
    }
    let host: Nqn = "nqn.2024-01.localhost:host".parse()?;
    let data = ConnectData::new([0x5a; 16], cntlid.unwrap_or(CNTLID_DYNAMIC), &subsystem_nqn()?, &host);
    Ok((command.to_sqe(), data))
}

/// Property Set of CC that enables the controller.
pub(super) fn enable() -> Result<Sqe> {
    let cc = Cc::default().with_en(true).with_css(Cc::CSS_IOCS).with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16);
    let command = PropertySetCmd::new(Property::CC, u64::from(cc.0)).context("CC is a property")?;
    Ok(command.to_sqe())
}

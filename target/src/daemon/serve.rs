//! The target and its threads: where configuration, control plane, storage and reactors meet.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_io::{Pool, PoolConfig};

use super::{files, notify::ServiceManager, pools::Pools};
use crate::{
    backend::{self, OpenError, OpenPool, PoolOpenError},
    config::{Cores, Settings},
    control::{DefError, RdmaLimits, Target, TargetLimits},
    model::{KvStorageDef, Namespace, NamespaceKindDef, NamespaceMode, PoolDef, TargetDef, TransportKind},
    reactor::{Listeners, Parts, RdmaConfig, ReactorConfig, Reactors, StartError, Storage},
    transport::{
        rdma::{RdmaSettings, RdmaTimers, RequestLimits},
        tcp::{TcpSettings, TcpTimers},
    },
};

/// Disk operations that a core keeps in flight.
const DISK_OPS: usize = 1024;

/// Why the target could not start to serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The definition of the target.
    #[error(transparent)]
    Definition(#[from] DefError),
    /// The storage of a namespace.
    #[error(transparent)]
    Storage(#[from] OpenError),
    /// A pool.
    #[error(transparent)]
    Pool(#[from] PoolOpenError),
    /// The threads.
    #[error(transparent)]
    Start(#[from] StartError),
    /// More memory than addresses.
    #[error(
        "{0} bytes of memory are more than this machine can address; lower reactor.memory or the sizes of memory namespaces"
    )]
    Memory(u64),
}

/// Why a reload was refused. The target goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The definition contradicts itself, or what cannot change.
    #[error(transparent)]
    Definition(#[from] DefError),
    /// The storage of a namespace that is new.
    #[error(transparent)]
    Storage(#[from] OpenError),
    /// A pool that is new.
    #[error(transparent)]
    Pool(#[from] PoolOpenError),
    /// A pool that was removed and is wanted again.
    #[error("pool {0} is still being closed; reload again in a moment")]
    PoolCloses(String),
    /// Memory was taken at start.
    #[error(
        "its KV namespaces in memory need {wanted} bytes, but at start they needed {reserved}, and memory is reserved then; \
         restart, or make them smaller"
    )]
    Memory {
        /// Bytes that they would need.
        wanted: u64,
        /// Bytes that were reserved for them.
        reserved: u64,
    },
}

/// What a reload changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reloaded {
    pub(super) namespaces_added: usize,
    pub(super) namespaces_removed: usize,
    /// Of hosts or subsystems that are not allowed or served any more.
    pub(super) controllers_closed: usize,
}

/// A target that serves.
#[derive(Debug)]
pub(super) struct Serving {
    target: Arc<Target>,
    pool: Pool,
    reactors: Reactors,
    pools: Pools,
    cores: usize,
    /// Bytes of KV namespaces in memory that the pool has room for.
    reserved: u64,
}

impl Serving {
    /// Opens the storage of `def` and lets hosts in. Takes as long as opening the storage does.
    pub(super) fn start(
        settings: &Settings,
        def: TargetDef,
        listeners: Listeners,
        manager: &ServiceManager,
    ) -> Result<Self, ServeError> {
        let reserved = kv_memory(&def);
        let pool = new_pool(settings, reserved)?;
        let cores = settings.cpus.len();
        if listeners.rdma.is_some() {
            let receive = settings.rdma.receive_memory.saturating_mul(u64::try_from(cores).unwrap_or(u64::MAX));
            files::raise_locked_memory(reserved.saturating_add(settings.memory).saturating_add(receive));
        }
        let defs = def.pools.clone();
        let target = Target::new(def, limits(settings), Instant::now())?;
        let mut pools = Pools::default();
        let mut opened = open_pools(&mut pools, &defs, cores, &pool, manager)?;
        let parts = target
            .namespaces()
            .iter()
            .map(|ns| open(ns, &mut opened, cores, &pool))
            .collect::<Result<Vec<Parts>, OpenError>>()?;
        warn_of_overcommitment(&target.namespaces(), &opened);
        tell_of_others(&target.namespaces(), &opened);
        let mut storage = Storage { pools: Vec::new(), parts };
        for (handle, parts) in opened.into_values().map(OpenPool::into_parts) {
            pools.add(handle);
            storage.pools.push(parts);
        }
        let reactors =
            Reactors::start(reactor_config(settings), Arc::clone(&target), pool.clone(), storage, listeners)?;
        Ok(Self { target, pool, reactors, pools, cores, reserved })
    }

    /// Serves `def` from now on, if it differs only in what can change live. The devices of pools are looked for again.
    pub(super) fn reload(&mut self, def: TargetDef, manager: &ServiceManager) -> Result<Reloaded, ReloadError> {
        let wanted = kv_memory(&def);
        if wanted > self.reserved {
            return Err(ReloadError::Memory { wanted, reserved: self.reserved });
        }
        let pools = def.pools.clone();
        let plan = self.target.plan(def)?;
        if let Some(closing) = pools.iter().find(|pool| self.pools.is_closing(&pool.name)) {
            return Err(ReloadError::PoolCloses(closing.name.clone()));
        }
        // Storage first: a namespace that hosts can see must answer.
        let new: Vec<PoolDef> = pools.iter().filter(|pool| self.pools.get(&pool.name).is_none()).cloned().collect();
        let mut opened = open_pools(&mut self.pools, &new, self.cores, &self.pool, manager)?;
        let (running, fresh): (Vec<_>, Vec<_>) = plan.attach().iter().partition(|ns| self.running_pool(ns).is_some());
        let parts = fresh
            .into_iter()
            .map(|ns| open(ns, &mut opened, self.cores, &self.pool))
            .collect::<Result<Vec<Parts>, OpenError>>()?;
        let mut attached: Vec<_> = parts.iter().map(|(id, _)| *id).collect();
        let added: Vec<String> = opened.keys().cloned().collect();
        for (handle, parts) in opened.into_values().map(OpenPool::into_parts) {
            self.pools.add(handle);
            self.reactors.attach_pool(parts);
        }
        for part in parts {
            self.reactors.attach(part);
        }
        let joined = running.iter().try_for_each(|ns| {
            self.join(ns)?;
            attached.push(ns.backend);
            Ok::<_, ReloadError>(())
        });
        let applied = joined.and_then(|()| Ok(self.target.apply(plan)?));
        match applied {
            Ok(changes) => {
                for ns in &changes.detached {
                    self.reactors.detach(ns.backend);
                }
                self.pools.update(&pools, &self.reactors);
                for (nqn, what) in changes
                    .subsystems_added
                    .iter()
                    .map(|nqn| (nqn, "added"))
                    .chain(changes.subsystems_removed.iter().map(|nqn| (nqn, "removed")))
                {
                    tracing::info!(subsystem = %nqn, "{what}");
                }
                Ok(Reloaded {
                    namespaces_added: attached.len(),
                    namespaces_removed: changes.detached.len(),
                    controllers_closed: changes.controllers_closed,
                })
            }
            Err(error) => {
                for id in attached {
                    self.reactors.detach(id);
                }
                self.pools.give_up(&added, &self.reactors);
                Err(error)
            }
        }
    }

    fn running_pool(&self, ns: &Namespace) -> Option<&backend::PoolHandle> {
        self.pools.get(&ns.def.kind.pool()?.pool)
    }

    /// Serves a namespace from a pool that is at work.
    fn join(&self, ns: &Arc<Namespace>) -> Result<(), OpenError> {
        let Some(pool) = self.running_pool(ns) else { return Ok(()) };
        let Some(spec) = backend::namespace_spec(ns, pool.status().label.geometry.shards()) else { return Ok(()) };
        let (nsid, name) = (ns.def.nsid, pool.def().name.clone());
        self.reactors.attach_pooled(ns.backend, pool.id(), &spec).map_err(|source| OpenError::Attach {
            nsid,
            pool: name,
            source,
        })?;
        let _ = ns.state.pool.set(Arc::clone(pool.status()));
        Ok(())
    }

    /// Looks after the pools: closes what has come to rest, says what has happened, and tells hosts what concerns them.
    pub(super) fn tend(&mut self) {
        while let Some(volume) = self.reactors.closed() {
            self.pools.closed(volume);
        }
        self.pools.watch();
        self.target.check_health();
    }

    /// Connections now.
    pub(super) fn connections(&self) -> usize {
        self.reactors.connections()
    }

    /// Whether every core still works.
    pub(super) fn is_healthy(&self) -> bool {
        self.reactors.is_healthy()
    }

    /// Completes what runs, for up to `drain`, closes the pools, and ends.
    pub(super) fn stop(self, drain: Duration, manager: &ServiceManager) {
        let volumes = self.reactors.stop(drain);
        self.target.stop();
        self.pools.stop(volumes, manager);
    }
}

/// Opens pools, one after the other.
fn open_pools(
    pools: &mut Pools,
    defs: &[PoolDef],
    cores: usize,
    buffers: &Pool,
    manager: &ServiceManager,
) -> Result<BTreeMap<String, OpenPool>, PoolOpenError> {
    let open = |def: &PoolDef| Ok((def.name.clone(), pools.open(def, cores, buffers, manager)?));
    defs.iter().map(open).collect()
}

/// Namespaces that never drop anything and together promise more than their pool has.
fn warn_of_overcommitment(namespaces: &[Arc<Namespace>], opened: &BTreeMap<String, OpenPool>) {
    for (name, pool) in opened {
        let of_pool = namespaces.iter().filter(|ns| {
            ns.def.kind.pool().is_some_and(|pool| pool.pool == *name && pool.mode == NamespaceMode::Store)
        });
        let sizes = of_pool.map(|ns| ns.state.usage.current().nsze).fold(0, u64::saturating_add);
        let capacity = pool.status().total().capacity;
        if sizes > capacity {
            tracing::warn!(
                pool = name,
                sizes,
                capacity,
                "the namespaces of the pool are larger than it is: it may be full before they are"
            );
        }
    }
}

fn open(
    ns: &Arc<Namespace>,
    pools: &mut BTreeMap<String, OpenPool>,
    cores: usize,
    pool: &Pool,
) -> Result<Parts, OpenError> {
    let begin = Instant::now();
    let parts = match ns.def.kind.pool().and_then(|used| pools.get_mut(&used.pool)) {
        Some(open) => open.attach(ns)?,
        None => {
            if let Some(path) = ns.def.kind.file() {
                tracing::info!(nsid = ns.def.nsid, path = %path.display(), "opening storage");
            }
            backend::open(ns, cores, pool)?
        }
    };
    tracing::info!(nsid = ns.def.nsid, kind = ?Kind(ns), took = ?begin.elapsed(), "storage is open");
    Ok((ns.backend, parts))
}

/// Namespaces that the pools have and nobody serves: they take room.
fn tell_of_others(namespaces: &[Arc<Namespace>], opened: &BTreeMap<String, OpenPool>) {
    for (name, pool) in opened {
        for (uuid, (keys, bytes)) in pool.namespaces() {
            if !namespaces.iter().any(|ns| ns.def.uuid == uuid) {
                let uuid = uuid::Uuid::from_bytes(uuid);
                tracing::warn!(pool = name, %uuid, keys, bytes, "the pool has a namespace that is not in the configuration");
            }
        }
    }
}

/// Shows a namespace's command set and what was found in it.
struct Kind<'a>(&'a Namespace);

impl fmt::Debug for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_kv() {
            let usage = self.0.state.usage.current();
            write!(f, "KV with {} keys, {} bytes used", usage.keys, usage.nuse)
        } else {
            f.write_str("NVM")
        }
    }
}

/// Bytes of the pool for the KV namespaces in memory. (NVM namespaces in memory take theirs from the system.)
fn kv_memory(def: &TargetDef) -> u64 {
    let namespaces = def.subsystems.iter().flat_map(|subsystem| &subsystem.namespaces);
    let sizes = namespaces.filter_map(|ns| match &ns.kind {
        NamespaceKindDef::Kv { size, storage: KvStorageDef::Memory, .. } => Some(backend::kv_memory_pool(*size)),
        _ => None,
    });
    sizes.fold(0, u64::saturating_add)
}

/// A pool with room for data on its way and for `values` bytes of memory namespaces.
fn new_pool(settings: &Settings, values: u64) -> Result<Pool, ServeError> {
    let bytes = values.saturating_add(settings.memory);
    let limit = usize::try_from(bytes).map_err(|_| ServeError::Memory(bytes))?;
    let pool = Pool::new(PoolConfig { limit, shards: settings.cpus.len() });
    pool.keep(kept(settings.memory, settings.limits.transfer.into()));
    Ok(pool)
}

/// Bytes of the memory for data on its way that commands with much data leave to others, so that a flood of Stores does not
/// hold up Retrieves. None where so few of the longest commands fit that one of them could wait for ever.
fn kept(memory: u64, transfer: u64) -> usize {
    const MOST: u64 = 32 << 20;
    const LONGEST: u64 = 32;
    if memory < transfer.saturating_mul(LONGEST) { 0 } else { usize::try_from((memory / 16).min(MOST)).unwrap_or(0) }
}

/// What the protocol of RDMA connections needs to know.
fn rdma_settings(settings: &Settings) -> RdmaSettings {
    let rdma = &settings.rdma;
    let timers = RdmaTimers { connect: rdma.handshake_timeout, ..RdmaTimers::default() };
    RdmaSettings { in_capsule: rdma.in_capsule, timers, ..RdmaSettings::default() }
}

fn limits(settings: &Settings) -> TargetLimits {
    let limits = &settings.limits;
    TargetLimits {
        max_controllers: limits.controllers,
        max_io_queues: limits.io_queues,
        max_queue_size: limits.queue_size,
        mdts: limits.transfer,
        in_capsule: settings.tcp.in_capsule,
        rdma: RdmaLimits {
            in_capsule: settings.rdma.in_capsule,
            max_queue_size: settings.rdma.queue_size,
            segments: u8::try_from(rdma_settings(settings).segments_max).unwrap_or(u8::MAX),
        },
        association_timeout: limits.association_timeout,
    }
}

fn reactor_config(settings: &Settings) -> ReactorConfig {
    let tcp = &settings.tcp;
    let limits = limits(settings);
    let requests = RequestLimits {
        admin_entries: limits.admin_entries(TransportKind::Rdma),
        queue_entries: limits.queue_entries(TransportKind::Rdma),
        io_queues: limits.max_io_queues,
    };
    ReactorConfig {
        cores: settings.cpus.len(),
        // A list is an order; a number leaves the choice to the system.
        pin: if matches!(settings.cores, Cores::List(_)) { settings.cpus.clone() } else { Vec::new() },
        busy_poll: settings.busy_poll,
        max_connections: usize::try_from(settings.limits.connections).unwrap_or(usize::MAX),
        transfer_max: settings.limits.transfer,
        max_disk_ops: DISK_OPS,
        tcp: TcpSettings {
            in_capsule: tcp.in_capsule,
            maxh2cdata: tcp.max_h2c_data,
            r2t_outstanding: tcp.max_r2t,
            header_digest: tcp.header_digest,
            data_digest: tcp.data_digest,
            timers: TcpTimers {
                connect: tcp.handshake_timeout,
                pdu: tcp.pdu_timeout,
                send: tcp.pdu_timeout,
                ..TcpTimers::default()
            },
            ..TcpSettings::default()
        },
        rdma: RdmaConfig {
            settings: rdma_settings(settings),
            limits: requests,
            capsule_memory: settings.rdma.receive_memory,
        },
    }
}

//! The target and its threads: where configuration, control plane, storage and reactors meet.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use kvof_io::{Pool, PoolConfig};

use crate::{
    backend::{self, OpenError},
    config::{Cores, Settings},
    control::{DefError, Target, TargetLimits},
    model::{Namespace, NamespaceKindDef, StorageDef, TargetDef},
    reactor::{Listener, Parts, ReactorConfig, Reactors, StartError},
    transport::tcp::{TcpSettings, TcpTimers},
};

/// Disk operations that a core keeps in flight.
const DISK_OPS: usize = 256;

/// Why the target could not start to serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The definition of the target.
    #[error(transparent)]
    Definition(#[from] DefError),
    /// The storage of a namespace.
    #[error(transparent)]
    Storage(#[from] OpenError),
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
    cores: usize,
    /// Bytes of KV namespaces in memory that the pool has room for.
    reserved: u64,
}

impl Serving {
    /// Opens the storage of `def` and lets hosts in. Takes as long as opening the storage does.
    pub(super) fn start(settings: &Settings, def: TargetDef, listeners: Vec<Listener>) -> Result<Self, ServeError> {
        let reserved = kv_memory(&def);
        let pool = new_pool(settings, reserved)?;
        let cores = settings.cpus.len();
        let target = Target::new(def, limits(settings), Instant::now())?;
        let parts =
            target.namespaces().iter().map(|ns| open(ns, cores, &pool)).collect::<Result<Vec<Parts>, OpenError>>()?;
        let reactors = Reactors::start(reactor_config(settings), Arc::clone(&target), pool.clone(), parts, listeners)?;
        Ok(Self { target, pool, reactors, cores, reserved })
    }

    /// Serves `def` from now on, if it differs only in what can change live.
    pub(super) fn reload(&mut self, def: TargetDef) -> Result<Reloaded, ReloadError> {
        let wanted = kv_memory(&def);
        if wanted > self.reserved {
            return Err(ReloadError::Memory { wanted, reserved: self.reserved });
        }
        let plan = self.target.plan(def)?;
        // Storage first: a namespace that hosts can see must answer.
        let parts = plan
            .attach()
            .iter()
            .map(|ns| open(ns, self.cores, &self.pool))
            .collect::<Result<Vec<Parts>, OpenError>>()?;
        let opened: Vec<_> = parts.iter().map(|(id, _)| *id).collect();
        for part in parts {
            self.reactors.attach(part);
        }
        match self.target.apply(plan) {
            Ok(changes) => {
                for ns in &changes.detached {
                    self.reactors.detach(ns.backend);
                }
                for (nqn, what) in changes
                    .subsystems_added
                    .iter()
                    .map(|nqn| (nqn, "added"))
                    .chain(changes.subsystems_removed.iter().map(|nqn| (nqn, "removed")))
                {
                    tracing::info!(subsystem = %nqn, "{what}");
                }
                Ok(Reloaded {
                    namespaces_added: opened.len(),
                    namespaces_removed: changes.detached.len(),
                    controllers_closed: changes.controllers_closed,
                })
            }
            Err(error) => {
                for id in opened {
                    self.reactors.detach(id);
                }
                Err(error.into())
            }
        }
    }

    /// Connections now.
    pub(super) fn connections(&self) -> usize {
        self.reactors.connections()
    }

    /// Whether every core still works.
    pub(super) fn is_healthy(&self) -> bool {
        self.reactors.is_healthy()
    }

    /// Completes what runs, for up to `drain`, and ends.
    pub(super) fn stop(self, drain: Duration) {
        self.reactors.stop(drain);
        self.target.stop();
    }
}

fn open(ns: &Arc<Namespace>, cores: usize, pool: &Pool) -> Result<Parts, OpenError> {
    let begin = Instant::now();
    if let NamespaceKindDef::Kv { storage: StorageDef::File { path }, .. }
    | NamespaceKindDef::Nvm { storage: StorageDef::File { path }, .. } = &ns.def.kind
    {
        tracing::info!(nsid = ns.def.nsid, path = %path.display(), "opening storage");
    }
    let parts = backend::open(ns, cores, pool)?;
    tracing::info!(nsid = ns.def.nsid, kind = ?Kind(ns), took = ?begin.elapsed(), "storage is open");
    Ok((ns.backend, parts))
}

/// Shows a namespace's command set and what was found in it.
struct Kind<'a>(&'a Namespace);

impl fmt::Debug for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_kv() {
            let state = &self.0.state;
            write!(f, "KV with {} keys, {} bytes used", state.keys.load(Relaxed), state.used.load(Relaxed))
        } else {
            f.write_str("NVM")
        }
    }
}

/// Bytes of the pool for the KV namespaces in memory. (NVM namespaces in memory take theirs from the system.)
fn kv_memory(def: &TargetDef) -> u64 {
    let namespaces = def.subsystems.iter().flat_map(|subsystem| &subsystem.namespaces);
    let sizes = namespaces.filter_map(|ns| match &ns.kind {
        NamespaceKindDef::Kv { size, storage: StorageDef::Memory, .. } => Some(backend::kv_memory_pool(*size)),
        _ => None,
    });
    sizes.fold(0, u64::saturating_add)
}

/// A pool with room for data on its way and for `values` bytes of memory namespaces.
fn new_pool(settings: &Settings, values: u64) -> Result<Pool, ServeError> {
    let bytes = values.saturating_add(settings.memory);
    let limit = usize::try_from(bytes).map_err(|_| ServeError::Memory(bytes))?;
    Ok(Pool::new(PoolConfig { limit, shards: settings.cpus.len() }))
}

fn limits(settings: &Settings) -> TargetLimits {
    let limits = &settings.limits;
    TargetLimits {
        max_controllers: limits.controllers,
        max_io_queues: limits.io_queues,
        max_queue_size: limits.queue_size,
        mdts: limits.transfer,
        in_capsule: settings.tcp.in_capsule,
        association_timeout: limits.association_timeout,
    }
}

fn reactor_config(settings: &Settings) -> ReactorConfig {
    let tcp = &settings.tcp;
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
    }
}

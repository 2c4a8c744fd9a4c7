//! What a target consists of: subsystems, namespaces, ports and hosts, as the configuration defines them.
//!
//! These are plain, validated definitions without behaviour: `config` makes them, `control` serves them, and `backend`
//! opens the storage that they name.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use kvof_kv::KvLimits;
use kvof_spec::{Csi, nqn::Nqn};
use kvof_store::usage::Usage;
pub use kvof_store::{format::NamespaceMode, volume::Durability};

use crate::backend::PoolStatus;

/// Everything that a target serves.
#[derive(Clone, Debug, Default)]
pub struct TargetDef {
    /// Addresses that accept connections.
    pub ports: Vec<PortDef>,
    /// Subsystems beside the discovery subsystem, which always exists.
    pub subsystems: Vec<SubsystemDef>,
    /// Discovery services elsewhere that this target's discovery log refers to.
    pub referrals: Vec<ReferralDef>,
    /// Pools of devices, in which KV namespaces lie; unique by name.
    pub pools: Vec<PoolDef>,
}

/// A pool of devices: the storage of KV namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDef {
    /// What namespaces call it. That of a file which one namespace has for itself is `file:` and its path.
    pub name: String,
    /// Where its devices may be, in any order: they tell themselves apart. At least one.
    pub devices: Vec<PathBuf>,
    /// Make the only device, a file, where there is none, and format it where it is empty.
    pub create: Option<FileDef>,
    /// What it may use.
    pub limits: PoolLimits,
}

/// How the file of a namespace is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDef {
    /// Its length in bytes, a multiple of 1 MiB.
    pub bytes: u64,
    /// Bytes of a segment of its pool, a power of two from 1 MiB to 1 GiB.
    pub segment: u64,
}

/// What a pool may use, on all its shards together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Bytes of memory for the index.
    pub index_memory: u64,
    /// Bytes of memory for values that are kept to be read again; 0: none.
    pub tier: u64,
    /// Bytes of memory for stripes on their way and background work.
    pub scratch: u64,
    /// Bytes that are read ahead after an Exist; 0: none.
    pub read_ahead: u64,
    /// Bytes a second of a rebuild; 0: as fast as it goes.
    pub rebuild_rate: u64,
    /// Bytes a second that scrubbing reads; 0: it does not run by itself.
    pub scrub_rate: u64,
}

/// Transport types that a connection can come by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TransportKind {
    /// NVMe/TCP.
    #[default]
    Tcp,
    /// NVMe/RDMA.
    Rdma,
}

impl TransportKind {
    /// What it is called in addresses and in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One listening address. A port serves every subsystem and discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDef {
    /// Port identifier of the discovery log (PORTID), unique in the target.
    pub portid: u16,
    /// Transport of its connections.
    pub transport: TransportKind,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Address that the discovery log names instead of `listen`; needed where `listen` is the unspecified address
    /// and hosts should not simply use the address that they reached the discovery service by.
    pub advertise: Option<String>,
}

impl PortDef {
    /// Its address as people write it: `rdma://192.0.2.7:4420`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.transport, self.listen)
    }

    /// Whether `other` listens on the same address by the same transport.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        (self.transport, self.listen) == (other.transport, other.listen)
    }
}

/// Another discovery service (discovery log entry of subtype 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferralDef {
    /// Transport that it is reached by.
    pub transport: TransportKind,
    /// Its address.
    pub traddr: SocketAddr,
    /// Port identifier of the discovery log.
    pub portid: u16,
}

/// An NVM subsystem.
#[derive(Clone, Debug)]
pub struct SubsystemDef {
    /// Its NQN.
    pub nqn: Nqn,
    /// Serial number, at most 20 ASCII characters.
    pub serial: String,
    /// Model number, at most 40 ASCII characters.
    pub model: String,
    /// Hosts that may connect; `None` lets any host in.
    pub allowed_hosts: Option<Vec<Nqn>>,
    /// Namespaces, unique by `nsid`.
    pub namespaces: Vec<NamespaceDef>,
}

/// A namespace as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceDef {
    /// Namespace identifier, 1 to FFFFFFFEh.
    pub nsid: u32,
    /// UUID (NIDT 3h).
    pub uuid: [u8; 16],
    /// NGUID (NIDT 2h).
    pub nguid: [u8; 16],
    /// Command set, geometry and where its data lies.
    pub kind: NamespaceKindDef,
}

/// Command set and storage of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceKindDef {
    /// Key Value command set.
    Kv {
        /// Limits that hosts see.
        limits: KvLimits,
        /// Bytes of values and keys that it may hold (NSZE).
        size: u64,
        /// Where the data lies.
        storage: KvStorageDef,
    },
    /// NVM (block) command set.
    Nvm {
        /// Bytes in a logical block: 512 or 4096.
        block_size: u32,
        /// Bytes in all, a multiple of `block_size`.
        size: u64,
        /// Where the data lies.
        storage: StorageDef,
    },
}

/// Where the data of a KV namespace lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvStorageDef {
    /// In memory: gone when the target stops.
    Memory,
    /// In a pool of devices.
    Pool(PoolUse),
}

/// How a KV namespace uses its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// The pool's name.
    pub pool: String,
    /// What happens when there is no room.
    pub mode: NamespaceMode,
    /// What an acknowledged Store survives.
    pub durability: Durability,
    /// Bytes of the pool that no other namespace can take from it.
    pub reservation: u64,
}

/// Where the data of an NVM namespace lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageDef {
    /// In memory: gone when the target stops.
    Memory,
    /// In one file or block device.
    File {
        /// Its path.
        path: PathBuf,
    },
}

/// Names the storage of a namespace on every core; given by `control` when a namespace is added, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BackendId(pub u32);

/// A live namespace: its definition, and what changes while it is served. Shared by all cores.
#[derive(Debug)]
pub struct Namespace {
    /// Definition.
    pub def: NamespaceDef,
    /// Storage.
    pub backend: BackendId,
    /// What changes.
    pub state: NamespaceState,
}

/// The changing part of a namespace. Cores update it without locks; each value is exact by itself.
#[derive(Debug)]
pub struct NamespaceState {
    /// Bytes in use (NUSE) and keys of a KV namespace.
    pub usage: Usage,
    /// What the pool tells of itself, once the namespace is served from one.
    pub pool: OnceLock<Arc<PoolStatus>>,
    /// Feature 20h bit 0, EDNEK: Delete of a missing key is an error.
    pub ednek: AtomicBool,
    /// Set when the namespace has been removed from its subsystem: new commands get Invalid Namespace or Format.
    pub removed: AtomicBool,
}

impl Namespace {
    /// A namespace that has just been added.
    #[must_use]
    pub fn new(def: NamespaceDef, backend: BackendId) -> Arc<Self> {
        let usage = match &def.kind {
            NamespaceKindDef::Kv { limits, size, .. } => Usage::new(*size, limits.mnks),
            NamespaceKindDef::Nvm { size, .. } => Usage::new(*size, 0),
        };
        let (pool, ednek, removed) = (OnceLock::new(), AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { def, backend, state: NamespaceState { usage, pool, ednek, removed } })
    }

    /// Whether it serves the Key Value command set.
    #[must_use]
    pub const fn is_kv(&self) -> bool {
        matches!(self.def.kind, NamespaceKindDef::Kv { .. })
    }

    /// Its command set.
    #[must_use]
    pub const fn csi(&self) -> Csi {
        match self.def.kind {
            NamespaceKindDef::Kv { .. } => Csi::KV,
            NamespaceKindDef::Nvm { .. } => Csi::NVM,
        }
    }
}

impl NamespaceKindDef {
    /// The file or device that is this namespace's alone.
    #[must_use]
    pub const fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Nvm { storage: StorageDef::File { path }, .. } => Some(path),
            _ => None,
        }
    }

    /// How it uses its pool, if it lies in one.
    #[must_use]
    pub const fn pool(&self) -> Option<&PoolUse> {
        match self {
            Self::Kv { storage: KvStorageDef::Pool(pool), .. } => Some(pool),
            _ => None,
        }
    }
}

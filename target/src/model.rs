//! What a target consists of: subsystems, namespaces, ports and hosts, as the configuration defines them.
//!
//! These are plain, validated definitions without behaviour: `config` makes them, `control` serves them, and `backend`
//! opens the storage that they name.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use kvof_kv::KvLimits;
use kvof_spec::{Csi, nqn::Nqn};

/// Everything that a target serves.
#[derive(Clone, Debug, Default)]
pub struct TargetDef {
    /// Addresses that accept connections.
    pub ports: Vec<PortDef>,
    /// Subsystems beside the discovery subsystem, which always exists.
    pub subsystems: Vec<SubsystemDef>,
    /// Discovery services elsewhere that this target's discovery log refers to.
    pub referrals: Vec<ReferralDef>,
}

/// One listening address. A port serves every subsystem and discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDef {
    /// Port identifier of the discovery log (PORTID), unique in the target.
    pub portid: u16,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Address that the discovery log names instead of `listen`; needed where `listen` is the unspecified address
    /// and hosts should not simply use the address that they reached the discovery service by.
    pub advertise: Option<String>,
}

/// Another discovery service (discovery log entry of subtype 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferralDef {
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
        storage: StorageDef,
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

/// Where the data of a namespace lies.
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
#[derive(Debug, Default)]
pub struct NamespaceState {
    /// Bytes in use (NUSE of a KV namespace).
    pub used: AtomicU64,
    /// Keys stored (KV).
    pub keys: AtomicU64,
    /// Feature 20h bit 0, EDNEK: Delete of a missing key is an error.
    pub ednek: AtomicBool,
    /// Set when the namespace has been removed from its subsystem: new commands get Invalid Namespace or Format.
    pub removed: AtomicBool,
}

impl Namespace {
    /// A namespace that has just been added.
    #[must_use]
    pub fn new(def: NamespaceDef, backend: BackendId) -> Arc<Self> {
        Arc::new(Self { def, backend, state: NamespaceState::default() })
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
    /// Where its data lies.
    #[must_use]
    pub const fn storage(&self) -> &StorageDef {
        match self {
            Self::Kv { storage, .. } | Self::Nvm { storage, .. } => storage,
        }
    }
}

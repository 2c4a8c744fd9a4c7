//! A subsystem as it is served: what a reload can change about it is behind a lock, and a generation number tells I/O
//! queues when to look again.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

use kvof_spec::{Csi, Nqn, feature::KvConfiguration, log::CriticalWarning};

use super::io_counters::IoHistory;
use crate::model::{Durability, Namespace, NamespaceKindDef, StorageDef, SubsystemDef};

/// NN: the largest NSID, at least. More namespaces can be added as long as none has a larger one.
const NN_MIN: u32 = 1024;

/// A subsystem.
#[derive(Debug)]
pub(super) struct Subsystem {
    pub(super) nqn: Nqn,
    pub(super) serial: String,
    pub(super) model: String,
    /// The discovery subsystem, which any host may use.
    pub(super) is_discovery: bool,
    /// What hosts did.
    pub(super) io: IoHistory,
    /// Changes with `state`.
    generation: AtomicU64,
    /// [`CriticalWarning`]s that hosts were told of.
    warnings: AtomicU8,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// `None` lets any host in.
    allowed_hosts: Option<Vec<Nqn>>,
    namespaces: NamespaceTable,
}

/// The namespaces of a subsystem by NSID. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct NamespaceTable(Arc<[Arc<Namespace>]>);

impl Subsystem {
    /// The subsystem `def` with `namespaces`.
    pub(super) fn new(def: &SubsystemDef, namespaces: NamespaceTable) -> Self {
        let state = State { allowed_hosts: def.allowed_hosts.clone(), namespaces };
        Self {
            nqn: def.nqn.clone(),
            serial: def.serial.clone(),
            model: def.model.clone(),
            is_discovery: false,
            io: IoHistory::default(),
            generation: AtomicU64::new(0),
            warnings: AtomicU8::new(0),
            state: Mutex::new(state),
        }
    }

    /// The discovery subsystem.
    pub(super) fn discovery() -> Self {
        Self {
            nqn: Nqn::discovery(),
            serial: "0".into(),
            model: "kvof discovery".into(),
            is_discovery: true,
            io: IoHistory::default(),
            generation: AtomicU64::new(0),
            warnings: AtomicU8::new(0),
            state: Mutex::default(),
        }
    }

    /// Whether `hostnqn` may connect.
    pub(super) fn allows(&self, hostnqn: &Nqn) -> bool {
        self.with(|state| state.allowed_hosts.as_ref().is_none_or(|hosts| hosts.contains(hostnqn)))
    }

    /// The hosts that may connect; `None` is any.
    pub(super) fn allowed_hosts(&self) -> Option<Vec<Nqn>> {
        self.with(|state| state.allowed_hosts.clone())
    }

    /// A number that is another one after each change of the namespaces.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The namespaces.
    pub(super) fn namespaces(&self) -> NamespaceTable {
        self.with(|state| state.namespaces.clone())
    }

    /// Replaces what a reload can change.
    pub(super) fn update(&self, allowed_hosts: Option<Vec<Nqn>>, namespaces: NamespaceTable) {
        self.with(|state| *state = State { allowed_hosts, namespaces });
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Looks at the pools: the warnings that are new since the last time.
    pub(super) fn new_warnings(&self) -> CriticalWarning {
        let now = self.namespaces().warnings();
        let before = self.warnings.swap(now.bits(), Ordering::Relaxed);
        now.difference(CriticalWarning::from_bits_retain(before))
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl NamespaceTable {
    /// A table of `namespaces`, unique by NSID, in any order.
    pub(super) fn new(mut namespaces: Vec<Arc<Namespace>>) -> Self {
        namespaces.sort_by_key(|ns| ns.def.nsid);
        Self(namespaces.into())
    }

    /// Namespace `nsid`.
    pub(super) fn get(&self, nsid: u32) -> Option<&Arc<Namespace>> {
        let index = self.0.binary_search_by_key(&nsid, |ns| ns.def.nsid).ok()?;
        self.0.get(index)
    }

    /// All, by ascending NSID.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Arc<Namespace>> {
        self.0.iter()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// NN: no NSID is larger.
    pub(super) fn largest_nsid(&self) -> u32 {
        self.0.last().map_or(NN_MIN, |ns| ns.def.nsid.max(NN_MIN))
    }

    /// MNAN: most namespaces.
    pub(super) fn most(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX).max(NN_MIN)
    }

    /// Whether acknowledged writes may still be in a cache that loses them without power, unless the host asks for more: files
    /// are written without waiting for the medium, and so is a pool for a namespace whose durability is `device`.
    pub(super) fn has_volatile_cache(&self) -> bool {
        self.iter().any(|ns| match (&ns.def.kind, ns.def.kind.pool()) {
            (NamespaceKindDef::Nvm { storage, .. }, _) => matches!(storage, StorageDef::File { .. }),
            (NamespaceKindDef::Kv { .. }, pool) => pool.is_some_and(|pool| pool.durability == Durability::Device),
        })
    }

    /// What the pools of the namespaces warn of.
    pub(super) fn warnings(&self) -> CriticalWarning {
        let pools = self.iter().filter_map(|ns| ns.state.pool.get());
        pools.fold(CriticalWarning::empty(), |warnings, pool| warnings | pool.warnings())
    }
}

/// Which namespaces a host sees, by CC.CSS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub(super) enum EnabledSets {
    /// None: the controller is not enabled, or for admin commands only.
    #[default]
    None = 0,
    /// CSS 000b.
    NvmOnly = 1,
    /// CSS 110b.
    All = 2,
}

impl EnabledSets {
    pub(super) const fn from_css(css: u8) -> Self {
        match css {
            kvof_spec::Cc::CSS_NVM => Self::NvmOnly,
            kvof_spec::Cc::CSS_IOCS => Self::All,
            _ => Self::None,
        }
    }

    /// Inverse of `as u8`.
    pub(super) const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::NvmOnly,
            2 => Self::All,
            _ => Self::None,
        }
    }

    pub(super) fn contains(self, csi: Csi) -> bool {
        match self {
            Self::None => false,
            Self::NvmOnly => csi == Csi::NVM,
            Self::All => csi == Csi::NVM || csi == Csi::KV,
        }
    }
}

/// Feature 20h of a namespace.
pub(super) fn kv_configuration(ns: &Namespace) -> KvConfiguration {
    KvConfiguration(0).with_ednek(ns.state.ednek.load(Ordering::Relaxed))
}

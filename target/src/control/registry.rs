//! What the target serves now, and to whom: subsystems, ports, referrals and controllers, behind one lock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use kvof_spec::{Nqn, fabrics::CNTLID_MAX};

use super::{
    TargetLimits,
    controller::Controller,
    subsystem::{NamespaceTable, Subsystem},
};
use crate::model::{BackendId, Namespace, NamespaceDef, PortDef, ReferralDef, TargetDef};

/// Everything that queues and reloads share.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) limits: TargetLimits,
    /// When the target started, for power on hours.
    pub(super) started: Instant,
    tokens: AtomicU64,
    state: Mutex<State>,
}

/// The part behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) ports: Vec<PortDef>,
    pub(super) referrals: Vec<ReferralDef>,
    pub(super) subsystems: BTreeMap<Nqn, Arc<Subsystem>>,
    pub(super) discovery: Arc<Subsystem>,
    pub(super) controllers: BTreeMap<u16, Arc<Controller>>,
    /// GENCTR of the discovery log page.
    pub(super) genctr: u64,
    /// Counts reloads.
    pub(super) revision: u64,
    /// The target stops: nobody may connect.
    pub(super) stopped: bool,
    last_cntlid: u16,
    last_backend: u32,
}

impl Registry {
    pub(super) fn new(def: TargetDef, limits: TargetLimits, now: Instant) -> Self {
        let mut state = State {
            ports: def.ports,
            referrals: def.referrals,
            subsystems: BTreeMap::new(),
            discovery: Arc::new(Subsystem::discovery()),
            controllers: BTreeMap::new(),
            genctr: 1,
            revision: 0,
            stopped: false,
            last_cntlid: 0,
            last_backend: 0,
        };
        for subsystem in def.subsystems {
            let namespaces = subsystem.namespaces.iter().map(|ns| state.new_namespace(ns)).collect();
            let served = Subsystem::new(&subsystem, NamespaceTable::new(namespaces));
            state.subsystems.insert(served.nqn.clone(), Arc::new(served));
        }
        Self { limits, started: now, tokens: AtomicU64::new(1), state: Mutex::new(state) }
    }

    /// Runs `f` on the state. Wakers must not be called inside.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number that was never given before.
    pub(super) fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }
}

impl State {
    /// A live namespace with storage of its own.
    pub(super) fn new_namespace(&mut self, def: &NamespaceDef) -> Arc<Namespace> {
        self.last_backend += 1;
        Namespace::new(def.clone(), BackendId(self.last_backend))
    }

    /// The subsystem that `subnqn` names.
    pub(super) fn subsystem(&self, subnqn: &Nqn) -> Option<&Arc<Subsystem>> {
        if subnqn.is_discovery() { Some(&self.discovery) } else { self.subsystems.get(subnqn) }
    }

    /// A controller identifier that is free, and was given last as long ago as possible; `None` if all are in use.
    pub(super) fn free_cntlid(&mut self) -> Option<u16> {
        let after = self.last_cntlid;
        let free = (after.saturating_add(1)..=CNTLID_MAX)
            .chain(1..=after)
            .find(|cntlid| !self.controllers.contains_key(cntlid))?;
        self.last_cntlid = free;
        Some(free)
    }
}

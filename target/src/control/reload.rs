//! Serving another definition without a restart, in two steps, so that the storage of new namespaces is open before a
//! host can see them.
//!
//! Namespaces and subsystems come and go; they do not change in place, because hosts would not notice.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use kvof_spec::Nqn;

use super::{
    CloseReason, DefError,
    controller::{Controller, Notices},
    definition::own_storage,
    registry::{Registry, State},
    subsystem::{NamespaceTable, Subsystem},
};
use crate::model::{Namespace, TargetDef};

/// What a reload would change.
#[derive(Debug)]
pub struct ReloadPlan {
    revision: u64,
    def: TargetDef,
    /// The namespaces of each subsystem of `def`, in its order.
    tables: Vec<NamespaceTable>,
    attach: Vec<Arc<Namespace>>,
    detach: Vec<Arc<Namespace>>,
}

/// What a reload changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Namespaces that are served now.
    pub attached: Vec<Arc<Namespace>>,
    /// Namespaces that are not served any more. Commands to them may still be under way.
    pub detached: Vec<Arc<Namespace>>,
    /// Subsystems that are served now.
    pub subsystems_added: Vec<Nqn>,
    /// Subsystems that are not served any more.
    pub subsystems_removed: Vec<Nqn>,
    /// Controllers whose association ended because host or subsystem is gone.
    pub controllers_closed: usize,
}

impl ReloadPlan {
    /// Namespaces whose storage has to be opened before the plan is applied.
    #[must_use]
    pub fn attach(&self) -> &[Arc<Namespace>] {
        &self.attach
    }

    /// Namespaces that the plan removes.
    #[must_use]
    pub fn detach(&self) -> &[Arc<Namespace>] {
        &self.detach
    }

    pub(super) fn new(registry: &Registry, def: TargetDef) -> Result<Self, DefError> {
        registry.with(|state| {
            let mut plan =
                Self { revision: state.revision, tables: Vec::new(), attach: Vec::new(), detach: Vec::new(), def };
            for index in 0..plan.def.subsystems.len() {
                plan.add_subsystem(state, index)?;
            }
            let kept: Vec<_> = plan.tables.iter().flat_map(|table| table.iter().map(|ns| ns.backend)).collect();
            plan.detach = state
                .subsystems
                .values()
                .flat_map(|subsystem| subsystem.namespaces().iter().cloned().collect::<Vec<_>>())
                .filter(|ns| !kept.contains(&ns.backend))
                .collect();
            plan.check_storage()?;
            Ok(plan)
        })
    }

    fn add_subsystem(&mut self, state: &mut State, index: usize) -> Result<(), DefError> {
        let Some(def) = self.def.subsystems.get(index) else { return Ok(()) };
        let served = state.subsystems.get(&def.nqn).cloned();
        if let Some(served) = &served
            && (served.serial != def.serial || served.model != def.model)
        {
            return Err(DefError::SubsystemChanged { nqn: def.nqn.clone() });
        }
        let old = served.map(|subsystem| subsystem.namespaces()).unwrap_or_default();
        let mut namespaces = Vec::new();
        for ns in &def.namespaces {
            namespaces.push(match old.get(ns.nsid) {
                Some(same) if same.def == *ns => Arc::clone(same),
                Some(_) => return Err(DefError::NamespaceChanged { nqn: def.nqn.clone(), nsid: ns.nsid }),
                None => {
                    let new = state.new_namespace(ns);
                    self.attach.push(Arc::clone(&new));
                    new
                }
            });
        }
        self.tables.push(NamespaceTable::new(namespaces));
        Ok(())
    }

    /// Storage cannot change hands in one step: it is closed only after commands to its old namespace have ended.
    fn check_storage(&self) -> Result<(), DefError> {
        for subsystem in &self.def.subsystems {
            for ns in &subsystem.namespaces {
                let Some(storage) = own_storage(ns) else { continue };
                let leaves = |old: &Arc<Namespace>| own_storage(&old.def).as_ref() == Some(&storage);
                if self.attach.iter().any(|new| new.def == *ns) && self.detach.iter().any(leaves) {
                    return Err(DefError::StorageInUse { nqn: subsystem.nqn.clone(), nsid: ns.nsid, storage });
                }
            }
        }
        Ok(())
    }

    pub(super) fn apply(self, registry: &Registry) -> Result<Changes, DefError> {
        let (changes, closing, telling) = registry.with(|state| self.apply_to(state))?;
        // Wakers are called without the lock.
        for controller in closing {
            controller.close(CloseReason::Removed);
        }
        for (controller, notices) in telling {
            controller.notify(&notices);
        }
        Ok(changes)
    }

    #[expect(clippy::type_complexity, reason = "taken apart at once")]
    fn apply_to(
        self,
        state: &mut State,
    ) -> Result<(Changes, Vec<Arc<Controller>>, Vec<(Arc<Controller>, Notices)>), DefError> {
        if self.revision != state.revision {
            return Err(DefError::Superseded);
        }
        state.revision += 1;
        let mut changes = Changes { attached: self.attach, detached: self.detach, ..Changes::default() };
        for ns in &changes.detached {
            ns.state.removed.store(true, Ordering::Release);
        }
        // The log page as each host with a discovery controller would see it differs if any of this does.
        let mut listing_changed = state.ports != self.def.ports || state.referrals != self.def.referrals;
        let mut touched: BTreeMap<Nqn, Vec<u32>> = BTreeMap::new();
        let mut left = std::mem::take(&mut state.subsystems);
        for (def, table) in self.def.subsystems.iter().zip(self.tables) {
            let subsystem = match left.remove(&def.nqn) {
                Some(served) => {
                    listing_changed |= served.allowed_hosts() != def.allowed_hosts;
                    touched.insert(def.nqn.clone(), difference(&served.namespaces(), &table));
                    served.update(def.allowed_hosts.clone(), table);
                    served
                }
                None => {
                    listing_changed = true;
                    changes.subsystems_added.push(def.nqn.clone());
                    Arc::new(Subsystem::new(def, table))
                }
            };
            state.subsystems.insert(def.nqn.clone(), subsystem);
        }
        listing_changed |= !left.is_empty();
        changes.subsystems_removed = left.into_keys().collect();
        state.ports = self.def.ports;
        state.referrals = self.def.referrals;
        state.genctr += u64::from(listing_changed);
        let (mut closing, mut telling) = (Vec::new(), Vec::new());
        for controller in state.controllers.values() {
            let subnqn = &controller.subsystem.nqn;
            if controller.subsystem.is_discovery {
                if listing_changed {
                    telling.push((Arc::clone(controller), Notices { discovery: true, ..Notices::default() }));
                }
            } else if changes.subsystems_removed.contains(subnqn) || !controller.subsystem.allows(&controller.hostnqn) {
                closing.push(Arc::clone(controller));
            } else if let Some(nsids) = touched.get(subnqn).filter(|nsids| !nsids.is_empty()) {
                let notices = Notices { namespaces: nsids.clone(), ..Notices::default() };
                telling.push((Arc::clone(controller), notices));
            }
        }
        changes.controllers_closed = closing.len();
        Ok((changes, closing, telling))
    }
}

/// NSIDs that are in one of the tables only.
fn difference(old: &NamespaceTable, new: &NamespaceTable) -> Vec<u32> {
    let only = |a: &NamespaceTable, b: &NamespaceTable| {
        a.iter().map(|ns| ns.def.nsid).filter(|nsid| b.get(*nsid).is_none()).collect::<Vec<_>>()
    };
    let mut nsids = only(old, new);
    nsids.extend(only(new, old));
    nsids
}

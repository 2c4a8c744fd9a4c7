//! What must hold of a world when nothing is in flight.

use std::{collections::BTreeSet, time::Duration};

use kvof_kv::{Key, KvUsage};
use kvof_store::{
    device::{
        Devices,
        sim::{Crash, FaultPlan, Rng},
    },
    usage::footprint,
    volume::Volume,
};

use super::world::{Check, Strictness, World};

/// How long a rebuild and a scrub of the small pools of tests may take, by the simulated clock.
const HEALING: Duration = Duration::from_secs(3600);

impl World {
    /// Reads every key, and compares with it what List and the counters say.
    pub fn verify(&mut self) -> Check {
        self.settle()?;
        for number in 0..self.namespaces.len() {
            if self.namespaces[number].is_attached() {
                self.verify_namespace(number)?;
            }
        }
        Ok(())
    }

    fn verify_namespace(&mut self, number: usize) -> Check {
        let names = self.namespaces[number].names.clone();
        for some in names.chunks(8) {
            for key in some {
                self.retrieve(number, *key)?;
            }
            self.settle()?;
        }
        if self.strictness == Strictness::Safety {
            return Ok(());
        }
        for key in &names {
            self.exist(number, *key)?;
        }
        self.settle()?;
        let mut listed: Vec<Key> = Vec::new();
        let namespace = &self.namespaces[number];
        for (volume, slot) in self.volumes.iter().zip(&namespace.slots) {
            listed.extend(volume.keys(*slot, None, u32::MAX));
        }
        listed.sort_unstable();
        let is_cache = namespace.plan.mode == kvof_store::format::NamespaceMode::Cache;
        let mut sum = KvUsage { nsze: namespace.plan.size, ..KvUsage::default() };
        let mut present = Vec::new();
        let mut certain = true;
        for key in &names {
            let states = namespace.keys[key].visible();
            let mut lens: BTreeSet<_> = states.iter().map(|state| state.map(|value| value.len)).collect();
            if is_cache && !listed.contains(key) {
                lens = BTreeSet::from([None]);
            }
            certain &= lens.len() == 1;
            if let Some(Some(len)) = lens.first() {
                sum.keys += 1;
                sum.nuse += footprint(key, *len);
                present.push(*key);
            }
        }
        if certain && listed != present {
            return Err(format!("List of namespace {number} gives {listed:?}, there are {present:?}"));
        }
        let usage = namespace.usage.current();
        if certain && usage != sum {
            return Err(format!("namespace {number} says {usage:?}, its keys make {sum:?}"));
        }
        Ok(())
    }

    /// Looks at what a crash now would leave: the pool opens, and every key is what it may be.
    pub fn check_crash(&self, kind: Crash, seed: u64) -> Check {
        let mut fork = self.fork(kind, seed);
        let result = fork.open().and_then(|_| fork.verify());
        result.map_err(|error| format!("after a crash ({kind:?}, chances {seed:#x}) at this point: {error}"))
    }

    /// Ends all faults, brings every device back, and waits until the pool has repaired itself.
    pub fn heal(&mut self, rng: &mut Rng) -> Check {
        self.tell("heal".to_owned());
        self.set_faults(FaultPlan::NONE);
        self.settle()?;
        let members = self.plan.geometry.members();
        for member in 0..members {
            if !self.devices.is_alive(member) {
                let empty = rng.one_in(2);
                self.bring_back(member, empty)?;
            }
        }
        let began = self.devices.now();
        loop {
            self.rest(Duration::from_millis(100))?;
            let failed = self.not_live();
            let rebuilding = self.volumes.iter().any(|volume| volume.stats().rebuild.is_some());
            if failed.is_empty() && !rebuilding {
                break;
            }
            if !rebuilding {
                for member in &failed {
                    // It was marked failed while it was there, or another one is rebuilt first.
                    self.bring_back(*member, false)?;
                }
            }
            if self.devices.now() - began > HEALING {
                let stats: Vec<_> = self.volumes.iter().map(|v| (v.stats().members, v.stats().rebuild)).collect();
                return Err(format!("the pool does not become whole: {stats:?}"));
            }
        }
        self.verify().map_err(|error| format!("before the scrub: {error}"))?;
        self.scrub()
    }

    /// A whole pass of scrubbing, begun now.
    pub fn scrub(&mut self) -> Check {
        let began = self.devices.now();
        // One that runs already may have passed the place of the last fault.
        while self.volumes.iter().any(|volume| volume.stats().scrub.is_some()) {
            self.advance()?;
            if self.devices.now() - began > HEALING {
                return Err("a scrub does not end".to_owned());
            }
        }
        let before: Vec<u64> = self.volumes.iter().map(|volume| volume.stats().scrubs).collect();
        self.tell("scrub".to_owned());
        self.volumes.iter_mut().for_each(Volume::scrub);
        self.pump()?;
        while self.volumes.iter().zip(&before).any(|(volume, before)| volume.stats().scrubs == *before) {
            self.advance()?;
            if self.devices.now() - began > HEALING {
                return Err("a scrub does not end".to_owned());
            }
        }
        self.settle()?;
        // Repairs that it asked for are still on their way.
        self.rest(Duration::from_secs(1))
    }

    /// The redundancy is all there: whichever m devices are taken away, everything can be read.
    pub fn check_redundancy(&self, rng: &mut Rng) -> Check {
        let members = u64::from(self.plan.geometry.members());
        let m = self.plan.geometry.m();
        let mut gone = BTreeSet::new();
        while gone.len() < m {
            gone.insert(rng.below(members) as u16);
        }
        let mut fork = self.fork(Crash::Kill, rng.next());
        gone.iter().for_each(|member| fork.devices.kill(*member));
        let result = fork.open().and_then(|_| fork.verify());
        result.map_err(|error| format!("the pool was healed, and without the devices {gone:?}: {error}"))
    }
}

//! The reference: for each key the set of states that it may be in, given what was answered.

use std::collections::{BTreeMap, BTreeSet};

use kvof_kv::{Key, OpId};
use kvof_store::device::sim::{Crash, Rng, derive};

/// A value that was given to a Store: its bytes follow from the key and this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Value {
    pub version: u64,
    pub len: u32,
}

/// What a key may be: absent, or a value.
pub type State = Option<Value>;

impl Value {
    pub fn bytes(self, key: &Key) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        // One in eight is all alike: zeros and repetitions are what hides mistakes about places.
        if self.version % 8 == 7 {
            bytes.fill(self.version as u8 & 0x38);
            return bytes;
        }
        let name = u128::from_le_bytes(key.padded());
        let seed = derive(name as u64, (name >> 64) as u64 ^ key.len() as u64);
        Rng::new(derive(seed, self.version)).fill(&mut bytes);
        bytes
    }
}

/// A change in flight.
#[derive(Clone, Debug)]
struct Change {
    effect: State,
    began: u64,
    /// Effects of changes that were answered while this one was in flight, and when.
    meanwhile: Vec<(State, u64)>,
}

/// One key.
#[derive(Clone, Debug)]
pub struct KeyModel {
    /// The last is what the key may be now; the ones before are what a loss of power may bring back. With the time of each.
    history: Vec<(u64, BTreeSet<State>)>,
    changes: BTreeMap<OpId, Change>,
    /// Effects of changes that failed without saying whether they happened.
    limbo: BTreeSet<State>,
    /// What was dropped from a cache: a crash may bring it back.
    ghosts: BTreeSet<State>,
    /// Every value that was ever given to a Store of the key.
    pub ever: BTreeSet<Value>,
}

impl Default for KeyModel {
    fn default() -> Self {
        Self {
            history: vec![(0, BTreeSet::from([None]))],
            changes: BTreeMap::new(),
            limbo: BTreeSet::new(),
            ghosts: BTreeSet::new(),
            ever: BTreeSet::new(),
        }
    }
}

impl KeyModel {
    /// What the key is, if only answered changes count.
    pub fn settled(&self) -> &BTreeSet<State> {
        &self.history.last().expect("never empty").1
    }

    /// What a read that begins now may find.
    pub fn visible(&self) -> BTreeSet<State> {
        let effects = self.changes.values().map(|change| change.effect);
        self.settled().iter().copied().chain(effects).chain(self.limbo.iter().copied()).collect()
    }

    pub fn is_quiet(&self) -> bool {
        self.changes.is_empty()
    }

    /// The longest that the value may be.
    pub fn longest(&self) -> u32 {
        self.visible().iter().flatten().map(|value| value.len).max().unwrap_or(0)
    }

    pub fn begin(&mut self, id: OpId, effect: State, now: u64) {
        self.ever.extend(effect);
        self.changes.insert(id, Change { effect, began: now, meanwhile: Vec::new() });
    }

    /// The change took effect. `keeps_history`: a loss of power may undo it.
    pub fn succeeded(&mut self, id: OpId, now: u64, keeps_history: bool) {
        let Some(change) = self.changes.remove(&id) else { return };
        let mut states = BTreeSet::from([change.effect]);
        states.extend(change.meanwhile.iter().map(|(state, _)| *state));
        for other in self.changes.values_mut() {
            other.meanwhile.retain(|(_, at)| *at > change.began);
            other.meanwhile.push((change.effect, now));
        }
        self.limbo.clear();
        if keeps_history {
            // A loss of power that undoes this change may bring back what the cache had dropped before it.
            if let Some((_, before)) = self.history.last_mut() {
                before.append(&mut self.ghosts);
            }
        } else {
            self.history.clear();
        }
        self.ghosts.clear();
        self.history.push((now, states));
    }

    /// The change did not happen, and will not.
    pub fn refused(&mut self, id: OpId) {
        self.changes.remove(&id);
    }

    /// Nobody knows whether the change happened.
    pub fn failed(&mut self, id: OpId) {
        if let Some(change) = self.changes.remove(&id) {
            self.limbo.insert(change.effect);
        }
    }

    /// A read found these states possible, with nothing in flight.
    pub fn found(&mut self, states: BTreeSet<State>) {
        if let Some((_, last)) = self.history.last_mut() {
            *last = states;
        }
    }

    /// A read found that the cache dropped the key.
    pub fn evicted(&mut self) {
        let was = self.settled().clone();
        self.ghosts.extend(was);
        self.found(BTreeSet::from([None]));
    }

    /// A flush that was asked for at `asked` has ended well.
    pub fn flushed(&mut self, asked: u64) {
        let durable = self.history.iter().rposition(|(at, _)| *at <= asked).unwrap_or(0);
        self.history.drain(..durable);
    }

    pub fn crash(&mut self, kind: Crash, now: u64, keeps_history: bool) {
        let mut states = self.visible();
        states.extend(self.ghosts.iter().copied());
        if kind == Crash::Power {
            states.extend(self.history.iter().flat_map(|(_, states)| states.iter().copied()));
        }
        self.changes.clear();
        self.limbo.clear();
        if kind == Crash::Power || !keeps_history {
            self.history.clear();
        }
        self.history.push((now, states));
    }
}

//! What a policy that knows the future would reach: it keeps what is read soonest. A bound for values of one size, and
//! close to one for values of many sizes.

use std::collections::BTreeSet;

use kvof_store::tier::Admit;

use super::Policy;
use crate::traces::{Op, Trace};

pub(crate) struct Belady {
    sizes: Vec<u32>,
    limit: u64,
    used: u64,
    /// For each op, when its value is read next.
    next: Vec<u32>,
    now: usize,
    held: BTreeSet<(u32, u32)>,
    due: Vec<Option<u32>>,
    fresh: bool,
}

impl Belady {
    pub(crate) fn new(trace: &Trace, limit: u64) -> Self {
        let mut last = vec![u32::MAX; trace.sizes.len()];
        let mut next = vec![u32::MAX; trace.ops.len()];
        for (at, op) in trace.ops.iter().enumerate().rev() {
            match *op {
                Op::Read(id) => {
                    next[at] = last[id as usize];
                    last[id as usize] = at as u32;
                }
                Op::Store(id) => next[at] = std::mem::replace(&mut last[id as usize], u32::MAX),
            }
        }
        let due = vec![None; trace.sizes.len()];
        Self { sizes: trace.sizes.clone(), limit, used: 0, next, now: 0, held: BTreeSet::new(), due, fresh: false }
    }

    fn drop(&mut self, id: u32) {
        if let Some(due) = self.due[id as usize].take() {
            self.held.remove(&(due, id));
            self.used -= u64::from(self.sizes[id as usize]);
        }
    }
}

impl Policy for Belady {
    fn get(&mut self, id: u32) -> bool {
        let next = self.next[self.now];
        self.now += 1;
        self.fresh = true;
        let Some(due) = self.due[id as usize] else { return false };
        self.held.remove(&(due, id));
        self.held.insert((next, id));
        self.due[id as usize] = Some(next);
        true
    }

    fn put(&mut self, id: u32, why: Admit) {
        // A read that missed has moved on already; a Store has not.
        let next = if why == Admit::Stored {
            self.now += 1;
            self.next[self.now - 1]
        } else {
            self.next[self.now - 1]
        };
        self.drop(id);
        if next == u32::MAX {
            return;
        }
        self.held.insert((next, id));
        self.due[id as usize] = Some(next);
        self.used += u64::from(self.sizes[id as usize]);
        while self.used > self.limit {
            let Some((_, last)) = self.held.last().copied() else { break };
            self.drop(last);
        }
    }
}

//! Policies of two queues and a memory of what left: S3-FIFO and its relatives, ARC.

use kvof_store::tier::Admit;

use super::Policy;
use super::lists::Lists;
use crate::traces::Trace;

const SMALL: u8 = 0;
const MAIN: u8 = 1;
/// Left the small queue unread; left the main queue.
const GHOST_SMALL: u8 = 2;
const GHOST_MAIN: u8 = 3;

/// S3-FIFO, counted in bytes; optionally with a small queue whose share follows the ghost hits, and with queues in the
/// order of last use.
pub(crate) struct S3 {
    lists: Lists,
    limit: u64,
    small: u64,
    adapt: bool,
    lru: bool,
    reads: Vec<u8>,
}

impl S3 {
    pub(crate) fn new(trace: &Trace, limit: u64, percent: u64, adapt: bool, lru: bool) -> Self {
        let reads = vec![0; trace.sizes.len()];
        Self { lists: Lists::new(&trace.sizes, 4), limit, small: limit * percent / 100, adapt, lru, reads }
    }

    fn evict(&mut self) {
        loop {
            let small = self.lists.oldest(SMALL);
            let from_small =
                small.is_some() && (self.lists.bytes(SMALL) >= self.small || self.lists.oldest(MAIN).is_none());
            let Some(id) = (if from_small { small } else { self.lists.oldest(MAIN) }) else { return };
            let reads = &mut self.reads[id as usize];
            if *reads > 0 {
                *reads = if from_small { 0 } else { *reads - 1 };
                self.lists.push(id, MAIN);
                continue;
            }
            self.lists.push(id, if from_small { GHOST_SMALL } else { GHOST_MAIN });
            if !from_small && !self.adapt {
                self.lists.take(id);
            }
            for ghost in [GHOST_SMALL, GHOST_MAIN] {
                while self.lists.bytes(ghost) > self.limit {
                    let Some(old) = self.lists.oldest(ghost) else { break };
                    self.lists.take(old);
                }
            }
            return;
        }
    }
}

impl Policy for S3 {
    fn get(&mut self, id: u32) -> bool {
        let list = self.lists.of(id);
        let hit = list == SMALL || list == MAIN;
        if hit {
            if self.lru && list == MAIN {
                self.lists.push(id, MAIN);
            } else {
                let reads = &mut self.reads[id as usize];
                *reads = (*reads + 1).min(3);
            }
        }
        hit
    }

    fn put(&mut self, id: u32, _why: Admit) {
        let size = self.lists.size(id);
        if size > self.limit / 8 {
            return;
        }
        let before = self.lists.of(id);
        if self.adapt {
            let (s, m) = (self.lists.bytes(GHOST_SMALL).max(1), self.lists.bytes(GHOST_MAIN).max(1));
            let scale = |num: u64, den: u64| (size as f64 * (num as f64 / den as f64).clamp(1.0, 8.0)) as u64;
            if before == GHOST_SMALL {
                self.small = (self.small + scale(m, s)).min(self.limit * 9 / 10);
            } else if before == GHOST_MAIN {
                self.small = self.small.saturating_sub(scale(s, m)).max(self.limit / 50);
            }
        }
        self.lists.take(id);
        while self.lists.bytes(SMALL) + self.lists.bytes(MAIN) + size > self.limit {
            self.evict();
        }
        self.reads[id as usize] = 0;
        self.lists.push(id, if matches!(before, MAIN | GHOST_SMALL | GHOST_MAIN) { MAIN } else { SMALL });
    }
}

/// ARC, counted in bytes.
pub(crate) struct Arc {
    lists: Lists,
    limit: u64,
    target: u64,
}

impl Arc {
    pub(crate) fn new(trace: &Trace, limit: u64) -> Self {
        Self { lists: Lists::new(&trace.sizes, 4), limit, target: 0 }
    }

    fn evict(&mut self) {
        let recent = self.lists.bytes(SMALL);
        let from_recent = recent > 0 && (recent > self.target || self.lists.oldest(MAIN).is_none());
        let (from, ghost) = if from_recent { (SMALL, GHOST_SMALL) } else { (MAIN, GHOST_MAIN) };
        if let Some(id) = self.lists.oldest(from) {
            self.lists.push(id, ghost);
        }
        while self.lists.bytes(SMALL) + self.lists.bytes(GHOST_SMALL) > self.limit {
            let Some(old) = self.lists.oldest(GHOST_SMALL) else { break };
            self.lists.take(old);
        }
        while (0..4).map(|list| self.lists.bytes(list)).sum::<u64>() > 2 * self.limit {
            let Some(old) = self.lists.oldest(GHOST_MAIN) else { break };
            self.lists.take(old);
        }
    }
}

impl Policy for Arc {
    fn get(&mut self, id: u32) -> bool {
        let hit = matches!(self.lists.of(id), SMALL | MAIN);
        if hit {
            self.lists.push(id, MAIN);
        }
        hit
    }

    fn put(&mut self, id: u32, _why: Admit) {
        let size = self.lists.size(id);
        if size > self.limit / 8 {
            return;
        }
        let before = self.lists.of(id);
        let (s, m) = (self.lists.bytes(GHOST_SMALL).max(1), self.lists.bytes(GHOST_MAIN).max(1));
        if before == GHOST_SMALL {
            self.target = (self.target + size * (m / s).max(1)).min(self.limit);
        } else if before == GHOST_MAIN {
            self.target = self.target.saturating_sub(size * (s / m).max(1));
        }
        self.lists.take(id);
        while self.lists.bytes(SMALL) + self.lists.bytes(MAIN) + size > self.limit {
            self.evict();
        }
        self.lists.push(id, if matches!(before, MAIN | GHOST_SMALL | GHOST_MAIN) { MAIN } else { SMALL });
    }
}

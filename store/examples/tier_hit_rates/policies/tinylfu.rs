//! W-TinyLFU: a window in the order of last use, and a segmented main part that a value enters only if a sketch says that
//! it is asked for more often than what it would push out. The window's share climbs towards more hits.

use kvof_store::tier::Admit;

use super::Policy;
use super::lists::{Lists, NONE};
use crate::traces::Trace;

const WINDOW: u8 = 0;
const PROBATION: u8 = 1;
const PROTECTED: u8 = 2;

pub(crate) struct TinyLfu {
    lists: Lists,
    limit: u64,
    window: u64,
    sketch: Vec<[u8; 4]>,
    seen: u64,
    sample: u64,
    // Hill climbing.
    asked: u64,
    hits: u64,
    last_rate: f64,
    step: f64,
}

impl TinyLfu {
    pub(crate) fn new(trace: &Trace, limit: u64) -> Self {
        let mean = trace.sizes.iter().map(|size| u64::from(*size)).sum::<u64>() / trace.sizes.len() as u64;
        let entries = (limit / mean).max(64);
        Self {
            lists: Lists::new(&trace.sizes, 3),
            limit,
            window: limit / 100,
            sketch: vec![[0; 4]; (entries as usize * 4).next_power_of_two()],
            seen: 0,
            sample: entries * 10,
            asked: 0,
            hits: 0,
            last_rate: 0.0,
            step: limit as f64 / 16.0,
        }
    }

    fn slot(&self, id: u32, row: u32) -> usize {
        let hash = (u64::from(id) + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ u64::from(row).wrapping_mul(0xd6e8_feb8_6659_fd93));
        (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) as usize >> 20 & (self.sketch.len() - 1)
    }

    fn count(&mut self, id: u32) {
        for row in 0..4 {
            let at = self.slot(id, row);
            let counter = &mut self.sketch[at][row as usize];
            *counter = (*counter + 1).min(15);
        }
        self.seen += 1;
        if self.seen >= self.sample {
            self.seen /= 2;
            self.sketch.iter_mut().flatten().for_each(|counter| *counter /= 2);
        }
    }

    fn frequency(&self, id: u32) -> u8 {
        (0..4).map(|row| self.sketch[self.slot(id, row)][row as usize]).min().unwrap_or(0)
    }

    fn climb(&mut self) {
        if self.asked < self.sample {
            return;
        }
        let rate = self.hits as f64 / self.asked as f64;
        if rate < self.last_rate {
            self.step = -self.step;
        }
        self.step = if (rate - self.last_rate).abs() > 0.05 {
            self.step.signum() * self.limit as f64 / 16.0
        } else {
            self.step * 0.98
        };
        self.window = (self.window as f64 + self.step).clamp(self.limit as f64 / 100.0, self.limit as f64 * 0.8) as u64;
        (self.last_rate, self.asked, self.hits) = (rate, 0, 0);
    }

    fn fit(&mut self) {
        while self.lists.bytes(WINDOW) > self.window {
            let Some(candidate) = self.lists.oldest(WINDOW) else { break };
            self.lists.take(candidate);
            let mut admitted = true;
            while self.main() + self.lists.size(candidate) > self.limit - self.window {
                let victim = self.lists.oldest(PROBATION).or_else(|| self.lists.oldest(PROTECTED));
                let Some(victim) = victim else { break };
                if self.frequency(candidate) <= self.frequency(victim) {
                    admitted = false;
                    break;
                }
                self.lists.take(victim);
            }
            if admitted {
                self.lists.push(candidate, PROBATION);
            }
        }
        while self.main() + self.lists.bytes(WINDOW) > self.limit {
            let victim = self.lists.oldest(PROBATION).or_else(|| self.lists.oldest(PROTECTED));
            let Some(victim) = victim else { break };
            self.lists.take(victim);
        }
    }

    fn main(&self) -> u64 {
        self.lists.bytes(PROBATION) + self.lists.bytes(PROTECTED)
    }
}

impl Policy for TinyLfu {
    fn get(&mut self, id: u32) -> bool {
        self.count(id);
        self.asked += 1;
        self.climb();
        let list = self.lists.of(id);
        match list {
            NONE => return false,
            WINDOW => self.lists.push(id, WINDOW),
            _ => {
                self.lists.push(id, PROTECTED);
                while self.lists.bytes(PROTECTED) > (self.limit - self.window) * 4 / 5 {
                    let Some(old) = self.lists.oldest(PROTECTED) else { break };
                    self.lists.push(old, PROBATION);
                }
            }
        }
        self.hits += 1;
        true
    }

    fn put(&mut self, id: u32, why: Admit) {
        if self.lists.size(id) > self.limit / 8 {
            return;
        }
        if why == Admit::Stored {
            self.count(id);
        }
        self.lists.push(id, WINDOW);
        self.fit();
    }
}

//! What the tier learns from the reads it sees: how much of it new values should have, and whether taking values in helps.
//!
//! New values wait in the small queue until a second read moves them to the main queue. A key that comes back after its
//! value left the small queue says that the small queue is too short; one that left the main queue says that it is too long.
//!
//! When a whole tier's worth of values was taken in and hardly any read found anything, nor would have in a tier twice
//! as large (a loop over more than memory holds, a scan), values that are read are mostly not taken in any more: what is
//! here stays, and a loop finds it on the next lap. Keys that come back soon end that.

use super::{Admit, MAIN, SMALL};

/// The small queue's share of the limit, percent: at first, at least, at most.
const SHARE: u64 = 10;
const SHARE_MIN: u64 = 2;
const SHARE_MAX: u64 = 90;
/// The most that one returning key moves the share by, in times its value's bytes.
const STEP_MAX: u64 = 8;
/// Below one hit in so many reads, taking values in does not help.
const USELESS: u64 = 50;
/// Fewer reads than this decide nothing.
const READS_MIN: u64 = 128;
/// While it does not help, one in so many values that are read is taken in all the same.
const SAMPLE: u64 = 32;

pub(super) struct Policy {
    limit: u64,
    /// Bytes that the small queue may have.
    small: u64,
    /// Values that are read are not taken in, but for a sample.
    closed: bool,
    /// Since the last decision: reads, those that hit, those that missed what left the small queue lately, bytes offered.
    reads: u64,
    hits: u64,
    returns: u64,
    offered: u64,
    /// Values turned away or let in as a sample.
    sampled: u64,
}

impl Policy {
    pub(super) fn new(limit: u64) -> Self {
        let small = percent(limit, SHARE);
        Self { limit, small, closed: false, reads: 0, hits: 0, returns: 0, offered: 0, sampled: 0 }
    }

    /// Bytes that the small queue may have before it has to give way.
    pub(super) fn small(&self) -> u64 {
        self.small
    }

    /// Whether values that are read are not taken in, but for a sample.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many bytes have to leave a queue until what left it is forgotten.
    pub(super) fn memory(&self, queue: u8) -> u64 {
        if queue == SMALL { self.limit / 2 + self.small / 2 } else { self.limit / 2 }
    }

    pub(super) fn on_hit(&mut self) {
        self.reads += 1;
        self.hits += 1;
    }

    /// A read found nothing. `from` is the queue that the value left lately.
    pub(super) fn on_miss(&mut self, from: Option<u8>) {
        self.reads += 1;
        // "Lately" is long ago for a main queue that little leaves, as in a loop.
        self.returns += u64::from(from == Some(SMALL));
    }

    /// A value of `cost` bytes is offered. `from` is the queue that it left lately, and `remembered` are the bytes that have left
    /// each queue, as far as they are remembered. Whether to take it in.
    pub(super) fn on_offer(&mut self, cost: u64, why: Admit, from: Option<u8>, remembered: [u64; 2]) -> bool {
        self.offered = self.offered.saturating_add(cost);
        if self.offered >= self.limit && self.reads >= READS_MIN {
            // While closed, hits are what the closing has kept. Only keys that come back soon are a reason to open.
            let useful = if self.closed { self.returns } else { self.hits + self.returns };
            self.closed = useful * USELESS < self.reads;
            (self.reads, self.hits, self.returns, self.offered) = (0, 0, 0, 0);
        }
        let [small, main] = remembered.map(|bytes| bytes.max(1));
        match from {
            Some(SMALL) => {
                let step = cost * (main / small).clamp(1, STEP_MAX);
                self.small = (self.small + step).min(percent(self.limit, SHARE_MAX));
            }
            Some(MAIN) => {
                let step = cost * (small / main).clamp(1, STEP_MAX);
                self.small = self.small.saturating_sub(step).max(percent(self.limit, SHARE_MIN));
            }
            _ => {}
        }
        if !self.closed || why != Admit::Read || from.is_some() {
            return true;
        }
        self.sampled += 1;
        self.sampled.is_multiple_of(SAMPLE)
    }
}

fn percent(of: u64, percent: u64) -> u64 {
    of / 100 * percent + of % 100 * percent / 100
}

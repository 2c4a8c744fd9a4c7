//! Whether to read a value ahead of the Retrieve that is expected.
//!
//! Engines ask Exist for a run of keys and then Retrieve them in the same order. So an Exist of a key whose value is
//! not in memory may start its read. Three things keep this from doing harm:
//!
//! * Bytes in flight, bytes that no Retrieve has asked for yet, and values are bounded. At a bound, new reads are
//!   declined: the first keys of a run are retrieved first, so giving up an older one for a newer one would waste both.
//! * There is no clock. A value that no Retrieve asked for within some number of calls is given up, and counts as wasted.
//! * When less than half of what was read ahead lately was used, reading ahead turns itself off. It tries again after a
//!   number of Exists that doubles each time it fails.

use std::collections::{HashMap, VecDeque};

use super::TierKey;

/// Outcomes that the decision looks back on. The bits of the window's integer.
const WINDOW: u32 = u128::BITS;
/// Fewer outcomes than this decide nothing.
const WINDOW_MIN: u32 = 32;
/// Exists of cold keys before the first new try.
const PAUSE_MIN: u32 = 256;
/// The longest pause, in Exists of cold keys.
const PAUSE_MAX: u32 = 65_536;
/// Bytes in flight that are enough to keep a device busy.
const IN_FLIGHT: u64 = 8 << 20;
/// A value is given up after this many calls for each value that may be expected.
const PATIENCE: u64 = 8;

/// The bounds of [`ReadAhead`]. Any of them 0 turns it off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadAheadLimits {
    /// Bytes of values whose reads have started and not finished.
    pub in_flight: u64,
    /// Bytes of values that were read or are being read, and that no Retrieve has asked for yet. They wait in the tier, so
    /// this should be at most a twentieth of its limit; see [`ReadAheadLimits::for_tier`].
    pub unread: u64,
    /// Values in flight or unread. Bounds the bookkeeping.
    pub entries: usize,
}

impl ReadAheadLimits {
    /// Bounds that fit a [`Tier`](super::Tier) of `limit` bytes: a twentieth of it unread, half of that and at most 8 MiB in
    /// flight, 4,096 values. More in flight would make others wait longer than it saves.
    #[must_use]
    pub const fn for_tier(limit: u64) -> Self {
        let in_flight = if limit / 40 < IN_FLIGHT { limit / 40 } else { IN_FLIGHT };
        Self { in_flight, unread: limit / 20, entries: 4096 }
    }
}

/// What was read ahead, and what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadAheadStats {
    /// Reads started.
    pub started: u64,
    /// Values that a Retrieve then asked for.
    pub used: u64,
    /// Values that none asked for in time.
    pub wasted: u64,
    /// Reads that brought nothing.
    pub failed: u64,
    /// Exists of a cold key for which no read was started, since a bound was reached or reading ahead was off.
    pub declined: u64,
    /// Times that reading ahead turned itself off.
    pub turned_off: u64,
    /// Whether it is on.
    pub on: bool,
    /// Bytes in flight.
    pub in_flight: u64,
    /// Bytes in flight or unread, without those that were given up.
    pub unread: u64,
}

/// A value that was asked for.
struct Expected {
    bytes: u64,
    /// The read has not finished.
    in_flight: bool,
    /// Used or given up; here only until its read finishes.
    settled: bool,
    /// Tells this read from an earlier one of the same key.
    serial: u64,
    /// The try in which it was started: outcomes of an earlier one do not count in a later one.
    attempt: u64,
}

/// Decides which values to read ahead. See the [module](self) for the rules.
pub struct ReadAhead {
    limits: ReadAheadLimits,
    expected: HashMap<TierKey, Expected>,
    /// Keys in the order in which their reads started: serial, and calls seen until then.
    order: VecDeque<(TierKey, u64, u64)>,
    serial: u64,
    calls: u64,
    /// The newest outcome is the lowest bit; 1 is used.
    outcomes: u128,
    outcomes_len: u32,
    attempt: u64,
    /// Exists of cold keys to let pass until the next try; 0 while on.
    pause: u32,
    /// The length of the next pause.
    next_pause: u32,
    counts: ReadAheadStats,
}

impl ReadAhead {
    /// Reads ahead within `limits`.
    #[must_use]
    pub fn new(limits: ReadAheadLimits) -> Self {
        Self {
            limits,
            expected: HashMap::new(),
            order: VecDeque::new(),
            serial: 0,
            calls: 0,
            outcomes: 0,
            outcomes_len: 0,
            attempt: 0,
            pause: 0,
            next_pause: PAUSE_MIN,
            counts: ReadAheadStats::default(),
        }
    }

    /// A host asked whether `key` exists, and it does: its value has `bytes` bytes and is in the tier if `cached`. True if its
    /// read should start now; [`on_done`](Self::on_done) must then follow exactly once.
    pub fn on_exist(&mut self, key: &TierKey, bytes: u64, cached: bool) -> bool {
        self.calls += 1;
        self.give_up_old();
        if cached || self.expected.contains_key(key) {
            return false;
        }
        if self.pause > 0 {
            self.pause -= 1;
            if self.pause > 0 {
                self.counts.declined += 1;
                return false;
            }
            self.attempt += 1;
        }
        let fits = |used: u64, limit: u64| used.checked_add(bytes).is_some_and(|sum| sum <= limit);
        if self.expected.len() >= self.limits.entries
            || !fits(self.counts.in_flight, self.limits.in_flight)
            || !fits(self.counts.unread, self.limits.unread)
        {
            self.counts.declined += 1;
            return false;
        }
        self.serial += 1;
        let (serial, attempt) = (self.serial, self.attempt);
        self.expected.insert(*key, Expected { bytes, in_flight: true, settled: false, serial, attempt });
        self.order.push_back((*key, serial, self.calls));
        self.counts.started += 1;
        self.counts.in_flight += bytes;
        self.counts.unread += bytes;
        true
    }

    /// A host retrieves `key`, whether or not it was read ahead.
    pub fn on_retrieve(&mut self, key: &TierKey) {
        self.calls += 1;
        self.give_up_old();
        self.settle(key, None, true);
    }

    /// The read that [`on_exist`](Self::on_exist) asked for has finished with a value of `bytes` bytes, or has failed or was
    /// called off and brought none.
    pub fn on_done(&mut self, key: &TierKey, bytes: Option<u64>) {
        let Some(entry) = self.expected.get_mut(key).filter(|entry| entry.in_flight) else { return };
        entry.in_flight = false;
        self.counts.in_flight -= entry.bytes;
        if entry.settled {
            self.expected.remove(key);
            return;
        }
        self.counts.unread -= entry.bytes;
        if let Some(bytes) = bytes {
            entry.bytes = bytes;
            self.counts.unread = self.counts.unread.saturating_add(bytes);
        } else {
            self.expected.remove(key);
            self.counts.failed += 1;
        }
    }

    /// What was read ahead and what became of it.
    #[must_use]
    pub fn stats(&self) -> ReadAheadStats {
        ReadAheadStats { on: self.pause == 0, ..self.counts }
    }

    /// Gives up what nobody asked for in time. `order` is bounded by this: nothing in it is older than the patience.
    fn give_up_old(&mut self) {
        let patience = PATIENCE * self.limits.entries as u64;
        while let Some((key, serial, since)) = self.order.front().copied() {
            if self.calls - since <= patience {
                break;
            }
            self.order.pop_front();
            self.settle(&key, Some(serial), false);
        }
    }

    fn settle(&mut self, key: &TierKey, serial: Option<u64>, used: bool) {
        let Some(entry) = self.expected.get_mut(key) else { return };
        if entry.settled || serial.is_some_and(|serial| serial != entry.serial) {
            return;
        }
        entry.settled = true;
        self.counts.unread -= entry.bytes;
        let counts = entry.attempt == self.attempt;
        if !entry.in_flight {
            self.expected.remove(key);
        }
        if used {
            self.counts.used += 1;
        } else {
            self.counts.wasted += 1;
        }
        if counts && self.pause == 0 {
            self.judge(used);
        }
    }

    fn judge(&mut self, used: bool) {
        self.outcomes = self.outcomes << 1 | u128::from(used);
        self.outcomes_len = (self.outcomes_len + 1).min(WINDOW);
        if self.outcomes_len < WINDOW_MIN {
            return;
        }
        if self.outcomes.count_ones() * 2 < self.outcomes_len {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(PAUSE_MAX);
            (self.outcomes, self.outcomes_len) = (0, 0);
            self.counts.turned_off += 1;
        } else if self.outcomes_len == WINDOW {
            self.next_pause = PAUSE_MIN;
        }
    }
}

#[cfg(test)]
mod tests;

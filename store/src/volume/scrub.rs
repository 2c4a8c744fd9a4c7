//! Reads everything once in a while, finds what has rotted, and repairs it.

use std::time::Duration;

use super::{
    Volume,
    group::GroupState,
    stripe_task::{Outcome, Why},
};

/// Time between the end of a pass and the start of the next.
const PAUSE: Duration = Duration::from_secs(3600);

/// A pass that is running.
#[derive(Debug)]
pub(super) struct Scrub {
    pub(super) group: u32,
    row: u32,
    footer_done: bool,
    in_flight: bool,
    next_at: Duration,
    damaged: u64,
    lost: u64,
}

impl Volume {
    pub(super) fn start_scrub(&mut self) {
        if self.scrub.is_none() && !self.draining {
            // Both slots of the superblock, on all devices.
            (self.superblock_writer.dirty, self.superblock_writer.again) = (true, true);
            let next_at = self.now;
            self.scrub =
                Some(Scrub { group: 0, row: 0, footer_done: false, in_flight: false, next_at, damaged: 0, lost: 0 });
        }
    }

    pub(super) fn pump_scrub(&mut self) {
        if self.draining {
            self.scrub = None;
            return;
        }
        self.pump_repairs();
        if self.config.scrub_rate > 0 && self.now >= self.scrub_due {
            self.start_scrub();
        }
        while self.scrub_on() {}
    }

    /// Stripes that a read found damaged.
    fn pump_repairs(&mut self) {
        if self.repairing || self.read_only.is_some() {
            return;
        }
        let Some(&(number, row)) = self.repairs.front() else { return };
        let stripe = self
            .groups
            .get(number as usize)
            .filter(|group| matches!(group.state, GroupState::Open | GroupState::Sealed))
            .and_then(|group| group.stripe_at(row));
        let in_flight = self.stripes.iter().any(|stripe| stripe.group == number);
        match stripe {
            Some(_) if in_flight => {}
            Some(stripe) => {
                self.repairing = true;
                if self.start_task(Why::Repair, number, stripe, false) {
                    self.repairs.pop_front();
                } else {
                    self.repairing = false;
                }
            }
            None => {
                self.repairs.pop_front();
            }
        }
    }

    fn scrub_on(&mut self) -> bool {
        let Some(scrub) = &mut self.scrub else { return false };
        if scrub.in_flight || scrub.next_at > self.now || self.read_only.is_some() {
            return false;
        }
        let number = scrub.group;
        let Some(group) = self.groups.get(number as usize) else {
            tracing::info!(
                shard = self.config.shard,
                damaged = scrub.damaged,
                lost = scrub.lost,
                "scrub pass completed"
            );
            self.scrub = None;
            self.scrub_due = self.now + PAUSE;
            self.stats.scrubs += 1;
            return false;
        };
        let stripe = group.stripe_at(scrub.row);
        if group.state != GroupState::Sealed || (stripe.is_none() && scrub.footer_done) {
            scrub.group += 1;
            scrub.row = 0;
            scrub.footer_done = false;
            return true;
        }
        if self.stripes.iter().any(|stripe| stripe.group == number) {
            return false;
        }
        let footer = stripe.is_none();
        let Some(stripe) = stripe.or_else(|| self.footer_of(number)) else { return false };
        if let Some(scrub) = &mut self.scrub {
            scrub.in_flight = true;
        }
        if !self.start_task(Why::Scrub, number, stripe, footer) {
            if let Some(scrub) = &mut self.scrub {
                scrub.in_flight = false;
            }
            return false;
        }
        if let Some(scrub) = &mut self.scrub {
            if footer {
                scrub.footer_done = true;
            } else {
                scrub.row = stripe.row + 1 + stripe.rows;
            }
        }
        true
    }

    pub(super) fn scrubbed(&mut self, outcome: &Outcome) {
        let rate = self.config.scrub_rate;
        let now = self.now;
        let Some(scrub) = &mut self.scrub else { return };
        scrub.in_flight = false;
        scrub.damaged += outcome.damaged;
        scrub.lost += u64::from(outcome.lost);
        if let Some(nanos) = (u128::from(outcome.bytes) * 1_000_000_000).checked_div(u128::from(rate)) {
            scrub.next_at = scrub.next_at.max(now.saturating_sub(Duration::from_millis(200)))
                + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
    }
}

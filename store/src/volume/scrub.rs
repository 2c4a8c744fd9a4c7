//! Reads everything once in a while, finds what has rotted, and repairs it.

use std::{io, time::Duration};

use super::{
    Op, Volume,
    group::GroupState,
    stripe_task::{Outcome, Why},
};
use crate::device::DeviceOp;

/// Time from opening to the first pass.
pub(super) const FIRST: Duration = Duration::from_secs(600);
/// Time between the end of a pass and the start of the next.
const PAUSE: Duration = Duration::from_secs(3600);

/// A pass that is running.
#[derive(Debug)]
pub(super) struct Scrub {
    pub(super) group: u32,
    row: u32,
    footer_done: bool,
    in_flight: usize,
    next_at: Duration,
    damaged: u64,
    lost: u64,
    /// What it wrote, to be flushed before it has ended.
    marks: Option<Vec<(u16, u64)>>,
}

impl Volume {
    pub(super) fn start_scrub(&mut self) {
        if self.scrub.is_none() && !self.draining {
            // Both slots of the superblock, on all devices.
            (self.superblock_writer.dirty, self.superblock_writer.again) = (true, true);
            // What has been written so far is looked at, the group that is being filled included.
            self.seal_wanted = self.open.is_some();
            let next_at = self.now;
            self.scrub = Some(Scrub {
                group: 0,
                row: 0,
                footer_done: false,
                in_flight: 0,
                next_at,
                damaged: 0,
                lost: 0,
                marks: None,
            });
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
        if scrub.in_flight > 0 || scrub.next_at > self.now || self.read_only.is_some() {
            return false;
        }
        let number = scrub.group;
        let Some(group) = self.groups.get(number as usize) else {
            let Some(marks) = &scrub.marks else {
                let marks: Vec<(u16, u64)> =
                    (0u16..).zip(&self.members).map(|(n, member)| (n, member.completed)).collect();
                scrub.marks = Some(marks.clone());
                marks.into_iter().for_each(|(member, mark)| self.want_flush(member, mark));
                return false;
            };
            let marks = marks.clone();
            if marks.iter().any(|(member, mark)| self.counts(*member) && !self.is_flushed(*member, *mark)) {
                return false;
            }
            let Some(scrub) = &self.scrub else { return false };
            tracing::info!(
                shard = self.config.shard,
                damaged = scrub.damaged,
                lost = scrub.lost,
                "scrub pass completed"
            );
            self.scrub = None;
            self.scrub_due = self.now + PAUSE;
            self.stats.scrubs += 1;
            // What could not be read may be whole again.
            self.stuck.clear();
            return false;
        };
        if group.state == GroupState::Free && group.incarnation > 0 && !scrub.footer_done {
            return self.renew_freed(number);
        }
        if group.state == GroupState::Erasing || (group.state == GroupState::Open && self.seal_wanted) {
            return false;
        }
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
            scrub.in_flight = 1;
        }
        if !self.start_task(Why::Scrub, number, stripe, footer) {
            if let Some(scrub) = &mut self.scrub {
                scrub.in_flight = 0;
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

    /// Says once more that a group was freed, in all copies: one of them may have missed it.
    fn renew_freed(&mut self, number: u32) -> bool {
        let geometry = self.geometry();
        if self.groups.get(number as usize).is_none_or(|group| group.pins > 0) {
            return false;
        }
        if let Some(group) = self.groups.get_mut(number as usize) {
            // It counts more than all that was ever in the group.
            group.incarnation = self.incarnation;
        }
        let mut writes = Vec::new();
        for row in [0, geometry.segment_pages() - 1] {
            let Some(page) = self.freed_page(number, row) else { return false };
            for column in geometry.header_columns(row) {
                let member = geometry.member(number, column);
                if self.is_trusted(member, number) {
                    let offset = geometry.offset(self.config.shard, number, column, row);
                    writes.push((member, DeviceOp::Write { offset, bufs: vec![page.clone()] }));
                }
            }
        }
        if let Some(group) = self.groups.get_mut(number as usize) {
            // Nobody may open it meanwhile.
            group.pins += writes.len() as u32;
        }
        if let Some(scrub) = &mut self.scrub {
            scrub.in_flight = writes.len();
            scrub.footer_done = true;
        }
        for (member, write) in writes {
            self.request(Op::Freed { member, group: number }, member, write);
        }
        true
    }

    pub(super) fn freed_renewed(&mut self, member: u16, group: u32, result: io::Result<()>) {
        if let Some(group) = self.groups.get_mut(group as usize) {
            group.pins = group.pins.saturating_sub(1);
        }
        match result {
            Ok(()) => self.write_completed(member),
            Err(error) => {
                self.fail_member(member, &format!("the header of a free group could not be written: {error}"));
            }
        }
        if let Some(scrub) = self.scrub.as_mut().filter(|scrub| scrub.group == group) {
            scrub.in_flight = scrub.in_flight.saturating_sub(1);
        }
    }

    pub(super) fn scrubbed(&mut self, outcome: &Outcome) {
        let rate = self.config.scrub_rate;
        let now = self.now;
        let Some(scrub) = &mut self.scrub else { return };
        scrub.in_flight = 0;
        scrub.damaged += outcome.damaged;
        scrub.lost += u64::from(outcome.lost);
        if let Some(nanos) = (u128::from(outcome.bytes) * 1_000_000_000).checked_div(u128::from(rate)) {
            scrub.next_at = scrub.next_at.max(now.saturating_sub(Duration::from_millis(200)))
                + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
    }
}

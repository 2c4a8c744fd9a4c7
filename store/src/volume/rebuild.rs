//! Fills a device that came back, or one that took another's place, group by group.

use std::{io, time::Duration};

use super::{
    Op, Volume,
    group::GroupState,
    stripe_task::{Outcome, Why},
};
use crate::{device::DeviceOp, format::MemberState};

/// Most stripes that are rebuilt at a time.
const WINDOW: usize = 4;
/// Groups between two records of the progress in the superblock.
const SAVE_EVERY: u32 = 64;

/// A rebuild that is running.
#[derive(Debug)]
pub(super) struct Rebuild {
    /// Tells what one rebuild asked for from what another did.
    pub(super) serial: u64,
    pub(super) member: u16,
    /// Groups below this are complete.
    pub(super) group: u32,
    /// The next stripe's row in it; the footer comes after the last.
    row: u32,
    footer_done: bool,
    /// Stripes, or headers of free groups, that are under way.
    in_flight: usize,
    /// The incarnation of the group that is being filled.
    incarnation: Option<u64>,
    next_at: Duration,
    lost: u64,
    /// Progress that is recorded when these writes are flushed.
    saving: Option<(u32, u64)>,
}

impl Rebuild {
    pub(super) const fn new(serial: u64, member: u16, group: u32, now: Duration) -> Self {
        Self {
            serial,
            member,
            group,
            row: 0,
            footer_done: false,
            in_flight: 0,
            incarnation: None,
            next_at: now,
            lost: 0,
            saving: None,
        }
    }
}

impl Volume {
    pub(super) fn pump_rebuild(&mut self) {
        if self.draining {
            self.rebuild = None;
            return;
        }
        self.next_rebuild();
        while self.rebuild_on() {}
    }

    /// One step; false if there is nothing to do before something else happens.
    fn rebuild_on(&mut self) -> bool {
        self.save_progress();
        let Some(rebuild) = &self.rebuild else { return false };
        if self.read_only.is_some() || rebuild.in_flight >= WINDOW || rebuild.next_at > self.now {
            return false;
        }
        let (member, number) = (rebuild.member, rebuild.group);
        let serial = rebuild.serial;
        let Some(group) = self.groups.get(number as usize) else { return self.finish_rebuild() };
        let since = self.superblock.members.get(usize::from(member)).map_or(0, |member| member.since);
        if self.geometry().column(number, member).is_none() {
            return self.group_rebuilt();
        }
        match group.state {
            GroupState::Free => {
                if rebuild.incarnation == Some(0) {
                    return rebuild.in_flight == 0 && self.group_rebuilt();
                }
                rebuild.in_flight == 0 && group.pins == 0 && self.erase_free(serial, member, number)
            }
            GroupState::Open | GroupState::Sealed if group.incarnation >= since => {
                rebuild.in_flight == 0 && self.group_rebuilt()
            }
            GroupState::Open | GroupState::Erasing => false,
            GroupState::Sealed if self.stripes.iter().any(|stripe| stripe.group == number) => false,
            GroupState::Sealed if rebuild.incarnation != Some(group.incarnation) => {
                let incarnation = group.incarnation;
                let idle = rebuild.in_flight == 0;
                if let Some(rebuild) = self.rebuild.as_mut().filter(|_| idle) {
                    rebuild.incarnation = Some(incarnation);
                    rebuild.row = 0;
                    rebuild.footer_done = false;
                }
                idle
            }
            GroupState::Sealed => self.rebuild_stripe(serial, member, number),
        }
    }

    fn rebuild_stripe(&mut self, serial: u64, member: u16, number: u32) -> bool {
        let Some(rebuild) = &self.rebuild else { return false };
        let Some(group) = self.groups.get(number as usize) else { return false };
        let (stripe, footer) = match group.stripe_at(rebuild.row) {
            Some(stripe) => (stripe, false),
            None if rebuild.footer_done => return rebuild.in_flight == 0 && self.group_rebuilt(),
            None => match self.footer_of(number) {
                Some(footer) => (footer, true),
                None => return false,
            },
        };
        if !self.start_task(Why::Rebuild(member, serial), number, stripe, footer) {
            return false;
        }
        if let Some(rebuild) = &mut self.rebuild {
            rebuild.in_flight += 1;
            if footer {
                rebuild.footer_done = true;
            } else {
                rebuild.row = stripe.row + 1 + stripe.rows;
            }
        }
        true
    }

    pub(super) fn stripe_rebuilt(&mut self, serial: u64, outcome: &Outcome) {
        let rate = self.config.rebuild_rate;
        let now = self.now;
        let Some(rebuild) = self.rebuild.as_mut().filter(|rebuild| rebuild.serial == serial) else { return };
        rebuild.in_flight = rebuild.in_flight.saturating_sub(1);
        rebuild.lost += u64::from(outcome.lost);
        if let Some(nanos) = (u128::from(outcome.bytes) * 1_000_000_000).checked_div(u128::from(rate)) {
            rebuild.next_at = rebuild.next_at.max(now.saturating_sub(Duration::from_millis(200)))
                + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
    }

    /// What a device has in the headers of a free group is from before: it must not be taken for a group.
    fn erase_free(&mut self, serial: u64, member: u16, number: u32) -> bool {
        let geometry = self.geometry();
        let Some(zeros) = self.zeros.page() else { return false };
        let Some(column) = geometry.column(number, member) else { return false };
        let mut writes = 0;
        for row in [0, geometry.segment_pages() - 1] {
            if geometry.header_columns(row).any(|header| header == column) {
                let offset = geometry.offset(self.config.shard, number, column, row);
                let bufs = vec![zeros.clone()];
                self.request(Op::EraseFree { member, group: number, serial }, member, DeviceOp::Write { offset, bufs });
                writes += 1;
            }
        }
        if let Some(group) = self.groups.get_mut(number as usize) {
            // Nobody may open it while zeros are on their way to its first row.
            group.pins += writes as u32;
        }
        if let Some(rebuild) = &mut self.rebuild {
            rebuild.incarnation = Some(0);
            rebuild.in_flight += writes;
        }
        true
    }

    pub(super) fn free_erased(&mut self, serial: u64, member: u16, group: u32, result: io::Result<()>) {
        if let Some(group) = self.groups.get_mut(group as usize) {
            group.pins = group.pins.saturating_sub(1);
        }
        match result {
            Ok(()) => self.write_completed(member),
            Err(error) => self.fail_member(member, &format!("a free group could not be erased: {error}")),
        }
        if let Some(rebuild) = self.rebuild.as_mut().filter(|rebuild| rebuild.serial == serial) {
            rebuild.in_flight = rebuild.in_flight.saturating_sub(1);
        }
    }

    fn group_rebuilt(&mut self) -> bool {
        let Some(rebuild) = &mut self.rebuild else { return false };
        rebuild.group += 1;
        rebuild.row = 0;
        rebuild.footer_done = false;
        rebuild.incarnation = None;
        let (member, group) = (rebuild.member, rebuild.group);
        if let Some(state) = self.members.get_mut(usize::from(member)) {
            state.rebuilt = group;
            if group.is_multiple_of(SAVE_EVERY) && rebuild.saving.is_none() {
                let mark = state.completed;
                rebuild.saving = Some((group, mark));
                self.want_flush(member, mark);
            }
        }
        true
    }

    /// Records the progress once it is flushed.
    fn save_progress(&mut self) {
        let Some(rebuild) = &self.rebuild else { return };
        let Some((rebuilt, mark)) = rebuild.saving else { return };
        let member = rebuild.member;
        if !self.is_flushed(member, mark) {
            return;
        }
        if let Some(state) = self.superblock.members.get_mut(usize::from(member)) {
            state.state = MemberState::Rebuilding { rebuilt };
            self.superblock_writer.dirty = true;
        }
        if let Some(rebuild) = &mut self.rebuild {
            rebuild.saving = None;
        }
    }

    fn finish_rebuild(&mut self) -> bool {
        let Some(rebuild) = &self.rebuild else { return false };
        if rebuild.in_flight > 0 {
            return false;
        }
        let (member, lost, saving) = (rebuild.member, rebuild.lost, rebuild.saving.is_some());
        let Some(state) = self.members.get(usize::from(member)) else { return false };
        let mark = state.completed;
        if !saving && !self.is_flushed(member, mark) {
            // The last of it first.
            self.want_flush(member, mark);
            return false;
        }
        if saving {
            return false;
        }
        if let Some(state) = self.superblock.members.get_mut(usize::from(member)) {
            state.state = MemberState::Live;
            state.since = 0;
        }
        self.superblock_writer.dirty = true;
        self.rebuild = None;
        self.stuck.clear();
        tracing::info!(shard = self.config.shard, member, lost, "device rebuilt");
        true
    }
}

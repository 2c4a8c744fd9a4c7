//! Makes room: what is live in a group is moved (or, in a cache, dropped), and the group is freed.

use std::io;

use super::{
    Op, RESERVED_GROUPS, Volume,
    change::{Change, Content, Origin},
    group::{ENTRY_COST, Group, GroupState, cost},
    place::{self, Found},
    stripe_task::{Outcome, Why},
};
use crate::{
    device::DeviceOp,
    format::{Entry, EntryKind, NamespaceMode, PAGE},
    usage::footprint,
};

/// Cleaning starts when fewer groups than this part of all are free.
const FREE_SHARE: u32 = 20;
/// Most moves in flight.
const MOVES_MAX: usize = 2048;
/// Most bytes of moves that are read before they are written: as dense as stripes can be.
const MOVE_BYTES: u64 = 4 << 20;
/// Of a group of caches at most one part in this many is kept for having been read.
const REINSERT_SHARE: u64 = 4;
/// A group whose live records fill more than this, in 1/64, is not worth cleaning.
const WORTH: u64 = 62;

/// The group that is being cleaned.
#[derive(Debug)]
pub(super) struct Cleaner {
    group: u32,
    phase: CleanPhase,
    entries: Vec<Entry>,
    next: usize,
    moves: usize,
    /// Of these, records that are being read, and bytes of those that have been.
    fetching: usize,
    ready: u64,
    /// Cost of what was kept for having been read.
    kept: u64,
    /// Live records when the pass began, to see whether it got anywhere.
    before: Option<u32>,
    /// Something in it cannot be read.
    unreadable: bool,
    /// Writes and flushes that overwrite its headers.
    erasing: usize,
    marks: Vec<(u16, u64)>,
    /// Values of caches may be dropped: it is the oldest group.
    oldest: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CleanPhase {
    /// To be read, or being read.
    Footer {
        asked: bool,
    },
    Records,
    /// What took the place of its records is flushed.
    FlushOthers,
    /// The footer's headers, then those of row 0, are overwritten.
    EraseFooter,
    FlushFooter,
    EraseFirst,
    FlushFirst,
}

impl Volume {
    /// Whether dropping values of caches could make room.
    pub(super) fn can_evict(&self) -> bool {
        self.groups.iter().any(|group| group.live_records > 0 || group.state == GroupState::Sealed)
            || self.cleaner.is_some()
            || self.assembly.is_some()
            || !self.stripes.is_empty()
            || !self.changes.is_empty()
    }

    pub(super) fn pump_cleaner(&mut self) {
        loop {
            if self.cleaner.is_none() && !self.start_cleaner() {
                return;
            }
            if !self.clean_on() {
                return;
            }
        }
    }

    /// Free groups below which cleaning starts.
    fn free_wanted(&self) -> u32 {
        (self.groups.len() as u32 / FREE_SHARE).max(RESERVED_GROUPS + 1)
    }

    fn start_cleaner(&mut self) -> bool {
        if self.is_stopping() {
            return false;
        }
        let free = self.free;
        let wanted = self.free_wanted();
        let pressed = !self.cramped.is_empty() || self.pressed;
        if free > wanted && !pressed {
            self.clean_rounds = 0;
            return false;
        }
        let caches = (0..).zip(&self.superblock.namespaces).any(|(slot, record)| {
            record.used && self.mode(slot) == NamespaceMode::Cache && self.namespace(slot).is_some_and(|n| n.keys > 0)
        });
        let in_flight = |group: u32| self.stripes.iter().any(|stripe| stripe.group == group);
        let ready = |(number, group): &(u32, &Group)| {
            group.state == GroupState::Sealed && !in_flight(*number) && !self.stuck.contains(number)
        };
        let groups = || (0u32..).zip(&self.groups).filter(ready);
        let oldest = groups().min_by_key(|(_, group)| group.incarnation).map(|(number, _)| number);
        let emptiest = groups().min_by_key(|(_, group)| (group.live, group.incarnation)).map(|(number, _)| number);
        let waiting = self.changes.iter().any(|change| matches!(change.content, Content::Value(..)));
        let choice = if caches || self.tombstones_press() { oldest } else { emptiest };
        let Some(group) = choice else {
            if pressed && self.open.is_some() {
                // What could be dropped is in the group that is being filled.
                self.seal_wanted = true;
                return false;
            }
            if self.assembly.is_none() && self.stripes.is_empty() && self.ops.is_empty() {
                self.no_progress(!self.changes.is_empty() || pressed, free);
            }
            return false;
        };
        let live = self.groups.get(group as usize).map_or(0, |group| group.live);
        let geometry = self.geometry();
        let room = geometry.k() as u64 * u64::from(geometry.segment_pages()) * PAGE as u64;
        // Free groups above the reserve are for whoever comes; only when somebody waits is a full group worth moving.
        let worth = caches || live * 64 <= room * WORTH;
        let needed = pressed || (waiting && free <= RESERVED_GROUPS);
        if !worth && !needed {
            return false;
        }
        if needed && self.clean_rounds > 2 * self.groups.len() as u32 {
            self.no_progress(true, free);
            return false;
        }
        if !worth && free <= RESERVED_GROUPS {
            self.no_progress(waiting || pressed, free);
            return false;
        }
        // A group that is half dead makes room for certain. Only moves that may gain nothing count towards giving up.
        self.clean_rounds = if live * 2 > room { self.clean_rounds + 1 } else { 0 };
        tracing::debug!(shard = self.config.shard, group, live, "cleaning");
        let is_oldest = self.is_oldest(group);
        self.cleaner = Some(Cleaner {
            group,
            phase: CleanPhase::Footer { asked: false },
            entries: Vec::new(),
            next: 0,
            moves: 0,
            fetching: 0,
            ready: 0,
            kept: 0,
            before: None,
            unreadable: false,
            erasing: 0,
            marks: Vec::new(),
            oldest: is_oldest,
        });
        true
    }

    /// Looks whether Stores of a cache wait in other shards for what this one could drop, and gives those that wait here
    /// another try: others may have made room.
    pub(super) fn look_at_pressure(&mut self) {
        self.pressed = (0u16..).zip(&self.namespaces).any(|(slot, namespace)| {
            namespace.as_ref().is_some_and(|namespace| {
                let waiting = namespace.attached.as_ref().is_some_and(|attached| attached.usage.waiting() > 0);
                waiting && namespace.keys > 0 && self.mode(slot) == NamespaceMode::Cache
            })
        });
        if !self.cramped.is_empty() {
            self.retry_cramped();
        }
    }

    /// Whether no group in use is older.
    fn is_oldest(&self, group: u32) -> bool {
        let incarnation = self.groups.get(group as usize).map_or(0, |group| group.incarnation);
        self.groups.iter().all(|other| other.state == GroupState::Free || other.incarnation >= incarnation)
    }

    /// Whether tombstones take so much of the index that the oldest groups must go, so that they can.
    fn tombstones_press(&self) -> bool {
        let (mut entries, mut keys) = (0, 0);
        for namespace in self.namespaces.iter().flatten() {
            entries += namespace.index.len();
            keys += namespace.keys;
        }
        entries > keys + keys / 8 + 4096
    }

    /// Nothing can be cleaned: what waits for room is refused.
    fn no_progress(&mut self, waiting: bool, free: u32) {
        if !waiting {
            return;
        }
        self.clean_rounds = 0;
        if free <= RESERVED_GROUPS {
            let changes = std::mem::take(&mut self.changes);
            for change in changes {
                match change.content {
                    Content::Value(..) => self.failed(&change, kvof_kv::KvError::CapacityExceeded),
                    // Only the last group is not theirs.
                    Content::Tombstone if free <= 1 => self.failed(&change, kvof_kv::KvError::CapacityExceeded),
                    Content::Tombstone => self.changes.push_back(change),
                }
            }
        }
        for job in self.take_cramped() {
            // Another shard may have what can be dropped for it.
            let elsewhere = self.attached(job.slot()).is_some_and(|attached| {
                attached.usage.current().keys > self.namespace(job.slot()).map_or(0, |namespace| namespace.keys)
            });
            if elsewhere && free > RESERVED_GROUPS {
                self.cramp(job);
            } else {
                self.refuse(job, kvof_kv::KvError::CapacityExceeded);
            }
        }
    }

    /// Gives up when there is no group left to move to: only a pool that has lost more than its parity can replace comes to that.
    fn is_cornered(&mut self) -> bool {
        let is_waiting = self.assembly.is_some() || !self.stripes.is_empty() || !self.ops.is_empty();
        if self.free > 0 || self.moves.is_empty() || is_waiting {
            return false;
        }
        let Some(cleaner) = self.cleaner.take() else { return false };
        self.stuck.insert(cleaner.group);
        self.moves.clear();
        self.no_progress(true, 0);
        for change in std::mem::take(&mut self.changes) {
            self.failed(&change, kvof_kv::KvError::CapacityExceeded);
        }
        true
    }

    /// Goes on with cleaning; false if there is nothing to do before something else happens.
    fn clean_on(&mut self) -> bool {
        if self.is_cornered() {
            return false;
        }
        let Some(cleaner) = &self.cleaner else { return false };
        let group = cleaner.group;
        if self.read_only.is_some() && cleaner.moves == 0 && cleaner.phase != (CleanPhase::Footer { asked: true }) {
            // What is half freed is freed by the next start.
            self.cleaner = None;
            return false;
        }
        match cleaner.phase {
            CleanPhase::Footer { asked: true } => false,
            CleanPhase::Footer { asked: false } => {
                let dead = self.groups.get(group as usize).is_some_and(|group| group.live_records == 0);
                if dead {
                    self.flush_others();
                    return true;
                }
                let Some(footer) = self.footer_of(group) else { return false };
                if self.start_task(Why::Footer, group, footer, true)
                    && let Some(cleaner) = &mut self.cleaner
                    && cleaner.phase == (CleanPhase::Footer { asked: false })
                {
                    cleaner.phase = CleanPhase::Footer { asked: true };
                }
                false
            }
            CleanPhase::Records => self.clean_records(),
            CleanPhase::EraseFooter | CleanPhase::EraseFirst => self.erase(),
            CleanPhase::FlushOthers | CleanPhase::FlushFooter | CleanPhase::FlushFirst => self.erase_flushed(),
        }
    }

    fn set_phase(&mut self, phase: CleanPhase) {
        if let Some(cleaner) = &mut self.cleaner {
            cleaner.phase = phase;
        }
    }

    /// The footer of the group that is being cleaned has been read.
    pub(super) fn footer_read(&mut self, group: u32, outcome: Outcome) {
        let Some(cleaner) = self.cleaner.as_mut().filter(|cleaner| cleaner.group == group) else { return };
        if outcome.lost {
            tracing::error!(
                shard = self.config.shard,
                group,
                "the footer of a group cannot be read: it is not cleaned"
            );
            self.stuck.insert(group);
            self.cleaner = None;
            return;
        }
        cleaner.entries = outcome.entries;
        cleaner.phase = CleanPhase::Records;
    }

    /// Whether cleaning is to end as soon as it can: the volume is being closed, and nobody waits for room.
    fn is_stopping(&self) -> bool {
        self.read_only.is_some()
            || (self.draining && self.assembly.is_none() && self.changes.is_empty() && self.cramped.is_empty())
    }

    fn clean_records(&mut self) -> bool {
        if self.is_stopping() {
            if self.cleaner.as_ref().is_some_and(|cleaner| cleaner.moves == 0) {
                self.cleaner = None;
            }
            return false;
        }
        loop {
            let Some(cleaner) = &mut self.cleaner else { return false };
            let group = cleaner.group;
            if cleaner.next == 0 && cleaner.moves == 0 {
                cleaner.before = self.groups.get(group as usize).map(|group| group.live_records);
            }
            if cleaner.moves >= MOVES_MAX || cleaner.ready >= MOVE_BYTES {
                return false;
            }
            let Some(entry) = cleaner.entries.get(cleaner.next).copied() else { break };
            cleaner.next += 1;
            if !self.clean_entry(group, &entry) {
                if let Some(cleaner) = &mut self.cleaner {
                    cleaner.next -= 1;
                }
                return false;
            }
        }
        let Some(cleaner) = &mut self.cleaner else { return false };
        if cleaner.moves > 0 {
            return false;
        }
        let left = self.groups.get(cleaner.group as usize).map_or(0, |group| group.live_records);
        if left == 0 {
            cleaner.entries = Vec::new();
            self.flush_others();
            return true;
        }
        let stuck = cleaner.before.is_some_and(|before| left >= before);
        cleaner.next = 0;
        if cleaner.unreadable {
            self.stuck.insert(cleaner.group);
            self.cleaner = None;
            return true;
        }
        // What is left is being changed by hosts: the next change of it makes the difference.
        !stuck
    }

    /// Moves, drops or passes over one entry; false if that has to wait.
    fn clean_entry(&mut self, group: u32, entry: &Entry) -> bool {
        let geometry = self.geometry();
        if entry.generation != self.generation(entry.slot) {
            return true;
        }
        let Some(meta) = self.meta(entry.slot, &entry.key) else { return true };
        let key = (entry.slot, entry.key);
        match (place::find(&geometry, meta), entry.kind) {
            (Found::Value(place), EntryKind::Value) if place.group == group && place.location == entry.location => {
                if !self.locks.contains_key(&key) && self.may_drop(entry.slot, meta, place.len) {
                    self.evict(entry, place.len);
                    return true;
                }
                // Counted first: it may end at once.
                if let Some(cleaner) = &mut self.cleaner {
                    cleaner.moves += 1;
                    cleaner.fetching += 1;
                    cleaner.ready += cost(place.len);
                }
                let started = self.fetch_to_move(entry.slot, entry.key, place);
                if !started {
                    self.move_fetched();
                    self.move_ended();
                }
                started
            }
            (Found::Tombstone(at), EntryKind::Tombstone) if at == group => {
                if !self.locks.contains_key(&key) && self.may_forget(group, entry.sequence) {
                    self.kill(group, ENTRY_COST);
                    if let Some(Some(namespace)) = self.namespaces.get_mut(usize::from(entry.slot)) {
                        namespace.index.remove(&entry.key);
                    }
                    return true;
                }
                let origin = Origin::Move(place::without_hits(meta));
                self.moves.push_back(Change { slot: entry.slot, key: entry.key, content: Content::Tombstone, origin });
                if let Some(cleaner) = &mut self.cleaner {
                    cleaner.moves += 1;
                }
                true
            }
            _ => true,
        }
    }

    /// Whether a value may be dropped: its namespace is a cache, it was not read lately (or too much was), and its group is the
    /// oldest, so that no older value of its key can come back after a crash.
    fn may_drop(&mut self, slot: u16, meta: crate::index::Meta, len: u32) -> bool {
        if self.mode(slot) != NamespaceMode::Cache {
            return false;
        }
        let geometry = self.geometry();
        let room = geometry.k() as u64 * u64::from(geometry.segment_pages()) * PAGE as u64;
        let scarce = self.free <= self.free_wanted();
        // What takes the room may be garbage: then moving costs less than what is dropped.
        let scarce = scarce && self.live + self.pending_cost > self.usable() / 2;
        let full = self.attached(slot).is_some_and(|attached| attached.usage.waiting() > 0);
        let Some(cleaner) = &mut self.cleaner else { return false };
        if !cleaner.oldest || !(scarce || full) {
            return false;
        }
        if place::hits(meta) > 0 && cleaner.kept + cost(len) <= room / REINSERT_SHARE {
            cleaner.kept += cost(len);
            return false;
        }
        true
    }

    fn evict(&mut self, entry: &Entry, len: u32) {
        let geometry = self.geometry();
        let Some(Some(namespace)) = self.namespaces.get_mut(usize::from(entry.slot)) else { return };
        let Some(meta) = namespace.index.remove(&entry.key) else { return };
        let bytes = footprint(&entry.key, len);
        namespace.keys -= 1;
        namespace.bytes -= bytes.min(namespace.bytes);
        if let Some(attached) = &namespace.attached {
            attached.usage.remove(bytes);
        }
        if let Found::Value(place) = place::find(&geometry, meta) {
            self.kill(place.group, cost(place.len));
        }
        self.tier.remove(&(entry.slot, entry.key));
        self.stats.evicted += 1;
    }

    /// Whether a tombstone is not needed any more: nothing that is older than it is left in any other group.
    fn may_forget(&self, group: u32, sequence: u64) -> bool {
        (0u32..)
            .zip(&self.groups)
            .all(|(number, other)| number == group || other.state == GroupState::Free || other.opened > sequence)
    }

    /// A record that is to be moved has been read, or cannot be.
    pub(super) fn move_fetched(&mut self) {
        if let Some(cleaner) = &mut self.cleaner {
            cleaner.fetching = cleaner.fetching.saturating_sub(1);
        }
    }

    /// Whether moves may be written: all that could be read for them has been, so that they share stripes.
    pub(super) fn moves_ready(&self) -> bool {
        self.cleaner.as_ref().is_none_or(|cleaner| cleaner.fetching == 0)
    }

    /// A move has been committed, or was not needed any more.
    pub(super) fn move_ended(&mut self) {
        if let Some(cleaner) = &mut self.cleaner {
            cleaner.moves = cleaner.moves.saturating_sub(1);
            if cleaner.moves == 0 {
                cleaner.ready = 0;
            }
        }
    }

    /// A value that was to be moved cannot be read.
    pub(super) fn move_unreadable(&mut self, group: u32) {
        if let Some(cleaner) = self.cleaner.as_mut().filter(|cleaner| cleaner.group == group) {
            cleaner.unreadable = true;
        }
        self.move_ended();
    }

    /// Whether a key that does not exist could be there again after a crash: what was dropped is in a group that is not freed yet.
    pub(super) fn may_come_back(&self, slot: u16) -> bool {
        self.mode(slot) == NamespaceMode::Cache && self.cleaner.as_ref().is_some_and(|cleaner| cleaner.oldest)
    }

    /// Before a group goes, what replaced its records must survive a loss of power, whatever was promised for it.
    fn flush_others(&mut self) {
        let marks: Vec<(u16, u64)> = (0u16..).zip(&self.members).map(|(n, member)| (n, member.completed)).collect();
        for (member, mark) in &marks {
            self.want_flush(*member, *mark);
        }
        if let Some(cleaner) = &mut self.cleaner {
            cleaner.marks = marks;
            cleaner.phase = CleanPhase::FlushOthers;
        }
    }

    /// Overwrites the headers of the footer, or of row 0, on all devices that have a copy: with a header that says so, since a
    /// copy that could not be overwritten must not be taken for what is newer.
    fn erase(&mut self) -> bool {
        let geometry = self.geometry();
        let Some(cleaner) = &self.cleaner else { return false };
        let (number, first) = (cleaner.group, cleaner.phase == CleanPhase::EraseFirst);
        if cleaner.erasing > 0 {
            return false;
        }
        let Some(group) = self.groups.get(number as usize) else { return false };
        if group.pins > 0 || self.stripes.iter().any(|stripe| stripe.group == number) {
            return false;
        }
        let row = if first { 0 } else { geometry.segment_pages() - 1 };
        let Some(freed) = self.freed_page(number, row) else { return false };
        if let Some(group) = self.groups.get_mut(number as usize) {
            group.state = GroupState::Erasing;
        }
        let mut erasing = 0;
        for column in geometry.header_columns(row) {
            let member = geometry.member(number, column);
            if self.is_trusted(member, number) {
                erasing += 1;
                let offset = geometry.offset(self.config.shard, number, column, row);
                self.request(Op::Erase { member }, member, DeviceOp::Write { offset, bufs: vec![freed.clone()] });
            }
        }
        self.set_phase(if first { CleanPhase::FlushFirst } else { CleanPhase::FlushFooter });
        if let Some(cleaner) = &mut self.cleaner {
            cleaner.erasing = erasing;
        }
        erasing == 0
    }

    pub(super) fn erased(&mut self, member: u16, result: io::Result<()>) {
        match result {
            Ok(()) => self.write_completed(member),
            Err(error) => self.fail_member(member, &format!("a group could not be freed: {error}")),
        }
        let mark = self.members.get(usize::from(member)).map_or(0, |member| member.completed);
        if let Some(cleaner) = &mut self.cleaner {
            cleaner.erasing = cleaner.erasing.saturating_sub(1);
            cleaner.marks.push((member, mark));
        }
        self.want_flush(member, mark);
    }

    fn erase_flushed(&mut self) -> bool {
        let Some(cleaner) = &self.cleaner else { return false };
        let group = cleaner.group;
        let flushed = |(member, mark): &(u16, u64)| !self.counts(*member) || self.is_flushed(*member, *mark);
        // A device that failed meanwhile still has its copies: the superblock must say so first.
        if cleaner.erasing > 0 || !cleaner.marks.iter().all(flushed) || !self.superblock_writer.is_settled() {
            return false;
        }
        let next = match cleaner.phase {
            CleanPhase::FlushOthers => Some(CleanPhase::EraseFooter),
            CleanPhase::FlushFooter => Some(CleanPhase::EraseFirst),
            _ => None,
        };
        if let Some(next) = next {
            if let Some(cleaner) = &mut self.cleaner {
                cleaner.marks.clear();
            }
            self.set_phase(next);
            return true;
        }
        self.cleaner = None;
        self.stats.groups_cleaned += 1;
        if let Some(state) = self.groups.get_mut(group as usize) {
            *state = Group { pins: state.pins, incarnation: state.incarnation, ..Group::FREE };
            self.free += 1;
        }
        self.retry_cramped();
        self.start_stripes();
        true
    }
}

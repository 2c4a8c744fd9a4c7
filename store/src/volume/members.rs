//! The devices of a volume: which of them count, what they have flushed, and the superblock that says so.

use std::io;

use kvof_io::SharedBuf;
use kvof_kv::KvOutcome;

use super::{Op, Volume, build::paged, rebuild::Rebuild};
use crate::{
    device::DeviceOp,
    format::{MemberState, Uuid},
};

/// Reads in a row that may fail before a device counts as failed.
const BAD_READS: u32 = 64;

/// Whether a count is 1, 10, 100…: which of many equal events are logged.
pub(super) const fn is_round(count: u64) -> bool {
    let mut power = 1;
    while power < count && power < 1 << 60 {
        power *= 10;
    }
    power == count
}

/// What a device has done.
#[derive(Clone, Debug, Default)]
pub(super) struct MemberRuntime {
    /// Writes that were answered.
    pub(super) completed: u64,
    /// Writes up to this count survive a loss of power.
    pub(super) flushed: u64,
    /// The flush in flight makes these writes survive.
    flushing: Option<u64>,
    /// Writes up to this count are to be flushed.
    wanted: u64,
    /// Reads that failed since one succeeded, and all that did.
    bad_reads: u32,
    read_errors: u64,
    /// While it is being filled again: groups below this are complete. (The superblock may say fewer.)
    pub(super) rebuilt: u32,
}

/// The superblock on its way to the devices.
#[derive(Debug, Default)]
pub(super) struct SuperblockWriter {
    /// The superblock was changed since it was last written.
    pub(super) dirty: bool,
    /// It is to be written once more, to the other slot.
    pub(super) again: bool,
    /// Operations in flight.
    left: usize,
}

impl SuperblockWriter {
    /// Whether nothing of it is in flight.
    pub(super) const fn is_resting(&self) -> bool {
        self.left == 0
    }

    /// Whether what the superblock says is durable.
    pub(super) const fn is_settled(&self) -> bool {
        !self.dirty && !self.again && self.left == 0
    }
}

impl Volume {
    fn state(&self, member: u16) -> MemberState {
        self.superblock.members.get(usize::from(member)).map_or(MemberState::Failed, |member| member.state)
    }

    /// Whether a device has not failed.
    pub(super) fn counts(&self, member: u16) -> bool {
        self.state(member) != MemberState::Failed
    }

    /// Whether what a device has of a group counts.
    pub(super) fn is_trusted(&self, member: u16, group: u32) -> bool {
        match self.state(member) {
            MemberState::Live => true,
            MemberState::Failed => false,
            MemberState::Rebuilding { .. } => {
                let since = self.superblock.members.get(usize::from(member)).map_or(u64::MAX, |member| member.since);
                let rebuilt = self.members.get(usize::from(member)).map_or(0, |member| member.rebuilt);
                group < rebuilt || self.groups.get(group as usize).is_some_and(|group| group.incarnation >= since)
            }
        }
    }

    /// Takes a device out: it was pulled, or an operator or the system knows that it does not work. What is on it does not
    /// count any more.
    pub fn device_failed(&mut self, member: u16, why: &str) {
        self.fail_member(member, why);
        self.pump();
    }

    pub(super) fn fail_member(&mut self, member: u16, why: &str) {
        let parity = self.geometry().m();
        let members = || (0u16..).zip(&self.superblock.members);
        let others = members().filter(|(n, other)| *n != member && other.state != MemberState::Live).count();
        let Some(state) = self.superblock.members.get_mut(usize::from(member)) else { return };
        if state.state == MemberState::Failed {
            return;
        }
        if others >= parity {
            // The superblock must not say so: nothing that it missed will be acknowledged, and with it the pool is whole.
            self.set_read_only(format!(
                "member {member}: {why}; with it, more devices are lost than the parity can replace"
            ));
            return;
        }
        tracing::error!(shard = self.config.shard, member, why, "device failed");
        state.state = MemberState::Failed;
        self.superblock_writer.dirty = true;
        if self.rebuild.as_ref().is_some_and(|rebuild| rebuild.member == member) {
            self.rebuild = None;
        }
    }

    /// A failed device is there again, or another one has taken its place. It is filled in the background; until then what
    /// it has counts group by group. No effect if the very device has not failed.
    pub fn device_returned(&mut self, member: u16, device: Uuid) {
        let known = self.superblock.members.get(usize::from(member)).map(|known| known.device);
        if known.is_some_and(|known| known != device) {
            self.fail_member(member, "another device has taken its place");
        }
        let since = self.incarnation + 1;
        let Some(state) = self.superblock.members.get_mut(usize::from(member)) else { return };
        if state.state != MemberState::Failed || self.read_only.is_some() {
            return;
        }
        tracing::info!(shard = self.config.shard, member, "device returned: it is being filled again");
        state.device = device;
        state.state = MemberState::Rebuilding { rebuilt: 0 };
        state.since = since;
        if let Some(runtime) = self.members.get_mut(usize::from(member)) {
            runtime.rebuilt = 0;
        }
        // The groups that are opened from now on are complete on it.
        self.seal_wanted = self.open.is_some();
        self.superblock_writer.dirty = true;
        self.pump();
    }

    /// The next device to fill, if none is being filled.
    pub(super) fn next_rebuild(&mut self) {
        if self.rebuild.is_some() || self.draining || self.read_only.is_some() {
            return;
        }
        let rebuilding = |state| matches!(state, MemberState::Rebuilding { .. });
        let Some(member) = self.superblock.members.iter().position(|member| rebuilding(member.state)) else { return };
        let from = self.members.get(member).map_or(0, |member| member.rebuilt);
        self.rebuilds += 1;
        self.rebuild = Some(Rebuild::new(self.rebuilds, member as u16, from, self.now));
    }

    /// A read has ended: a device that refuses them all is one that failed, as long as the others can do without it.
    pub(super) fn read_ended(&mut self, member: u16, result: &io::Result<()>) {
        let Some(state) = self.members.get_mut(usize::from(member)) else { return };
        let Err(error) = result else {
            state.bad_reads = 0;
            return;
        };
        state.bad_reads += 1;
        state.read_errors += 1;
        if is_round(state.read_errors) {
            let so_far = state.read_errors;
            tracing::warn!(shard = self.config.shard, member, %error, so_far, "a read failed");
        }
        let failed = self.superblock.members.iter().filter(|member| member.state != MemberState::Live).count();
        if state.bad_reads >= BAD_READS && failed < self.geometry().m() {
            self.fail_member(member, &format!("{BAD_READS} reads in a row failed, the last with: {error}"));
        }
    }

    pub(super) fn write_completed(&mut self, member: u16) {
        if let Some(state) = self.members.get_mut(usize::from(member)) {
            state.completed += 1;
        }
    }

    pub(super) fn want_flush(&mut self, member: u16, mark: u64) {
        if let Some(state) = self.members.get_mut(usize::from(member)) {
            state.wanted = state.wanted.max(mark);
        }
    }

    pub(super) fn is_flushed(&self, member: u16, mark: u64) -> bool {
        self.members.get(usize::from(member)).is_none_or(|state| state.flushed >= mark)
    }

    /// Starts flushes and writes the superblock.
    pub(super) fn pump_members(&mut self) {
        if self.read_only.is_some() {
            return;
        }
        for member in 0..self.members.len() as u16 {
            if self.state(member) == MemberState::Failed {
                continue;
            }
            let Some(state) = self.members.get_mut(usize::from(member)) else { continue };
            if state.flushing.is_none() && state.wanted > state.flushed {
                state.flushing = Some(state.completed);
                self.request(Op::Flush { member }, member, DeviceOp::Flush);
            }
        }
        let writer = &mut self.superblock_writer;
        if writer.left == 0 && !writer.dirty && writer.again {
            (writer.dirty, writer.again) = (true, false);
        }
        if self.superblock_writer.dirty && self.superblock_writer.left == 0 {
            self.write_superblock();
        }
    }

    pub(super) fn flushed(&mut self, member: u16, result: io::Result<()>) {
        let Some(state) = self.members.get_mut(usize::from(member)) else { return };
        let Some(mark) = state.flushing.take() else { return };
        match result {
            Ok(()) => state.flushed = state.flushed.max(mark),
            Err(error) => self.fail_member(member, &format!("a flush failed: {error}")),
        }
    }

    /// Answers Flush commands whose marks have been reached.
    pub(super) fn pump_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let mut waiting = Vec::new();
        for (id, marks) in std::mem::take(&mut self.flushes) {
            let open: Vec<(u16, u64)> = marks
                .into_iter()
                .filter(|(member, mark)| self.state(*member) != MemberState::Failed && !self.is_flushed(*member, *mark))
                .collect();
            if self.read_only.is_some() {
                self.done.push_back((id, Err(kvof_kv::KvError::Unrecovered)));
            } else if open.is_empty() && self.superblock_writer.is_settled() {
                self.done.push_back((id, Ok(KvOutcome::Stored)));
            } else {
                for (member, mark) in &open {
                    self.want_flush(*member, *mark);
                }
                waiting.push((id, open));
            }
        }
        self.flushes = waiting;
        if self.read_only.is_some() {
            return;
        }
        for member in 0..self.members.len() as u16 {
            let Some(state) = self.members.get_mut(usize::from(member)) else { continue };
            if state.flushing.is_none()
                && state.wanted > state.flushed
                && self.state(member) != MemberState::Failed
                && let Some(state) = self.members.get_mut(usize::from(member))
            {
                state.flushing = Some(state.completed);
                self.request(Op::Flush { member }, member, DeviceOp::Flush);
            }
        }
    }

    fn present(&self) -> Vec<u16> {
        (0..self.superblock.members.len() as u16).filter(|member| self.state(*member) != MemberState::Failed).collect()
    }

    fn write_superblock(&mut self) {
        let geometry = self.geometry();
        self.superblock.epoch += 1;
        let Some(page) = paged(&self.scratch, &self.superblock.encode()) else {
            // No memory now: a completion gives the next try.
            self.superblock.epoch -= 1;
            return;
        };
        self.superblock_writer.dirty = false;
        let present = self.present();
        if present.is_empty() {
            self.set_read_only("no device is left".to_owned());
        }
        for member in present {
            self.superblock_writer.left += 1;
            let offset = geometry.superblock(self.config.shard, self.superblock.slot());
            let bufs: Vec<SharedBuf> = vec![page.clone()];
            self.request(Op::Superblock { member }, member, DeviceOp::Write { offset, bufs });
        }
    }

    pub(super) fn superblock_written(&mut self, member: u16, result: io::Result<()>) {
        self.superblock_writer.left -= 1;
        match result {
            Ok(()) => self.write_completed(member),
            Err(error) => self.fail_member(member, &format!("the superblock could not be written: {error}")),
        }
        if self.superblock_writer.left == 0 {
            for member in self.present() {
                self.superblock_writer.left += 1;
                self.request(Op::SuperblockFlush { member }, member, DeviceOp::Flush);
            }
        }
    }

    pub(super) fn superblock_flushed(&mut self, member: u16, result: io::Result<()>) {
        self.superblock_writer.left -= 1;
        if let Err(error) = result {
            self.fail_member(member, &format!("the superblock could not be flushed: {error}"));
        }
    }
}

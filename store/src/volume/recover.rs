//! Opens a volume: from the checkpoint of a clean stop, or from footers and the groups that were not sealed.

use std::{collections::BTreeMap, time::Duration};

use kvof_io::{Pool, PoolConfig};

use super::{
    Namespace, OpenError, Progress, Volume, VolumeConfig, VolumeStats,
    build::Zeros,
    commit::{OpenGroup, STRIPE_BYTES},
    group::{Group, GroupState},
    members::{MemberRuntime, SuperblockWriter},
    place::{self, Found},
};
use crate::{
    device::BlockIo,
    ec::CpuCode,
    format::{Entry, FormatError, MemberState, PAGE, SUPERBLOCK_LEN, Superblock, Uuid},
    index::Index,
    tier::{ReadAhead, ReadAheadLimits, Tier},
};

/// Incarnations that one run may use: the superblock is not written each time a group is opened.
const INCARNATIONS: u64 = 1 << 32;

/// More numbers than one run gives to stripes: what a run left behind the end of the log never has the number of a later one.
const STRIPE_NUMBERS: u64 = 1 << 32;

/// A group that was not sealed, as it was found.
#[derive(Debug)]
pub(super) struct Unsealed {
    pub(super) group: u32,
    pub(super) entries: Vec<Entry>,
    /// It has a footer, which must be written again if anything is added.
    pub(super) footer: bool,
}

impl Volume {
    /// Opens the volume of `config.shard`. `devices` has the device that is present at each place of the pool. Blocks.
    ///
    /// Devices that are missing, or other ones than the volume knows, count as failed from now on; those that are there again
    /// are filled in the background, as by [`Self::device_returned`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        config: VolumeConfig,
        devices: &[Option<Uuid>],
        io: &mut dyn BlockIo,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, OpenError> {
        let shard = config.shard;
        let scratch = Pool::new(PoolConfig { limit: config.scratch.max(least_scratch(&config, 1 << 20)), shards: 1 });
        let no_memory = OpenError::Scratch { shard, scratch: config.scratch, least: least_scratch(&config, 1 << 20) };
        let Some(zeros) = Zeros::new(&scratch) else { return Err(no_memory) };
        let superblock = read_superblock(&config, io, &scratch)?;
        let geometry = config.geometry;
        let code = CpuCode::new(geometry.profile());
        let tier = Tier::new(config.tier);
        let ahead = (config.read_ahead > 0 && config.tier > 0).then(|| {
            let mut limits = ReadAheadLimits::for_tier(config.tier);
            limits.in_flight = limits.in_flight.min(config.read_ahead);
            ReadAhead::new(limits)
        });
        let mut volume = Self {
            scratch,
            zeros,
            code,
            now: Duration::ZERO,
            members: vec![MemberRuntime::default(); superblock.members.len()],
            superblock,
            superblock_writer: SuperblockWriter::default(),
            read_only: None,
            groups: vec![Group::FREE; geometry.groups() as usize],
            free: 0,
            to_free: Vec::new(),
            unread_headers: 0,
            live: 0,
            open: None,
            seal_wanted: false,
            next_group: 0,
            incarnation: 0,
            sequence: 0,
            stripe: 0,
            committed: 0,
            unflushed: None,
            unflushed_latest: None,
            namespaces: Vec::new(),
            changes: Default::default(),
            moves: Default::default(),
            locks: BTreeMap::new(),
            cramped: Default::default(),
            pending_cost: 0,
            stripes: Default::default(),
            flushes: Vec::new(),
            fetches: Default::default(),
            fetching: BTreeMap::new(),
            hungry: Default::default(),
            stalled: Default::default(),
            tier,
            ahead,
            tasks: Default::default(),
            pressed: false,
            cleaner: None,
            clean_rounds: 0,
            stuck: Default::default(),
            rebuild: None,
            rebuilds: 0,
            scrub: None,
            scrub_due: super::scrub::FIRST,
            repairs: Default::default(),
            repairing: false,
            draining: false,
            takes_turns: false,
            assembly: None,
            ops: Default::default(),
            out: Default::default(),
            done: Default::default(),
            stats: VolumeStats::default(),
            config,
        };
        let returned = volume.judge_devices(devices)?;
        volume.recover(io, progress)?;
        for (member, device) in returned {
            volume.device_returned(member, device);
        }
        volume.pump();
        Ok(volume)
    }

    /// Makes the memory for stripes large enough for values of `len` bytes.
    pub(super) fn ensure_scratch(&mut self, len: u32) {
        let least = least_scratch(&self.config, len as usize);
        if self.scratch.limit() < least {
            self.scratch = Pool::new(PoolConfig { limit: least, shards: 1 });
        }
    }

    /// Compares the devices that are present with those that the superblock knows.
    fn judge_devices(&mut self, devices: &[Option<Uuid>]) -> Result<Vec<(u16, Uuid)>, OpenError> {
        let shard = self.config.shard;
        let mut returned = Vec::new();
        for (member, known) in (0u16..).zip(&mut self.superblock.members) {
            let present = devices.get(usize::from(member)).copied().flatten();
            let same = present == Some(known.device);
            if !same && known.state != MemberState::Failed {
                tracing::error!(shard, member, missing = present.is_none(), "a device of the pool is not there");
                known.state = MemberState::Failed;
            }
            if let Some(device) = present
                && known.state == MemberState::Failed
            {
                returned.push((member, device));
            }
            if let (MemberState::Rebuilding { rebuilt }, Some(runtime)) =
                (known.state, self.members.get_mut(usize::from(member)))
            {
                runtime.rebuilt = rebuilt;
            }
        }
        let members = self.superblock.members.len();
        let failed: Vec<String> = (0..)
            .zip(&self.superblock.members)
            // One that is still being filled has not everything: it takes the place of none that is missing.
            .filter(|(_, member)| member.state != MemberState::Live)
            .map(|(number, _): (usize, _)| number.to_string())
            .collect();
        let live = members - failed.len();
        if failed.len() > self.geometry().m() {
            let needed = members - self.geometry().m();
            return Err(OpenError::TooFewDevices { shard, live, members, needed, missing: failed.join(", ") });
        }
        Ok(returned)
    }

    fn recover(&mut self, io: &mut dyn BlockIo, progress: &mut dyn FnMut(Progress)) -> Result<(), OpenError> {
        let memory = self.config.index_memory;
        self.namespaces = self
            .superblock
            .namespaces
            .iter()
            .map(|record| {
                record.used.then(|| Namespace { index: Index::new(memory), keys: 0, bytes: 0, attached: None })
            })
            .collect();
        self.incarnation = self.superblock.incarnation;
        self.sequence = self.superblock.sequence;
        self.stripe = self.superblock.stripe;
        let checkpoint = std::mem::take(&mut self.superblock.checkpoint);
        let mut unsealed = Vec::new();
        let clean = self.superblock.clean && self.load_checkpoint(io, &checkpoint, &mut unsealed, progress);
        if !clean {
            if self.superblock.clean {
                tracing::warn!(shard = self.config.shard, "the checkpoint cannot be read: recovering from the log");
            }
            self.forget();
            unsealed.clear();
            unsealed = self.scan(io, progress)?;
        }
        if clean {
            // The checkpoint does not say what was last in groups that are free.
            let newest = self.superblock.incarnation.max(1);
            for group in self.groups.iter_mut().filter(|group| group.state == GroupState::Free) {
                group.incarnation = newest;
            }
        }
        self.take_open(&mut unsealed);
        self.count_all();
        // Before anything that is written says "committed" of a number that a dropped stripe has.
        for (group, row) in std::mem::take(&mut self.to_free) {
            self.erase_now(io, group, row);
        }
        self.incarnation = self.incarnation.max(self.superblock.incarnation) + INCARNATIONS;
        // Stripes behind the end of the log may still have the numbers after the last: those are never given again.
        self.stripe += STRIPE_NUMBERS;
        self.committed = self.stripe;
        self.superblock.incarnation = self.incarnation;
        self.superblock.stripe = self.stripe;
        self.superblock.clean = false;
        self.write_superblock_now(io)?;
        for group in checkpoint {
            self.erase_now(io, group, 0);
        }
        for Unsealed { group, entries, .. } in unsealed {
            self.seal_now(io, group, &entries)?;
        }
        self.free = self.groups.iter().filter(|group| group.state == GroupState::Free).count() as u32;
        if let Some(open) = &mut self.open {
            open.free = self.free + 1;
        }
        self.next_group = (0..).zip(&self.groups).max_by_key(|(_, g)| g.incarnation).map_or(0, |(number, _)| number);
        Ok(())
    }

    /// The newest group that was not sealed goes on being filled, so that no crash costs a group; unless a device that is being
    /// filled again needs it sealed.
    fn take_open(&mut self, unsealed: &mut Vec<Unsealed>) {
        let geometry = self.geometry();
        // Groups are in the order of their records: only the newest of all may get more.
        let newest = self.groups.iter().filter(|g| g.state != GroupState::Free).map(|g| g.incarnation).max();
        if let Some(Unsealed { group, footer: false, .. }) = unsealed.last()
            && let Some(state) = self.groups.get_mut(*group as usize)
            && Some(state.incarnation) == newest
            && state.used + 8 < geometry.segment_pages()
            && self.superblock.members.iter().all(|member| {
                !matches!(member.state, MemberState::Rebuilding { .. }) || state.incarnation >= member.since
            })
        {
            state.state = GroupState::Open;
            let row = state.used;
            if let Some(Unsealed { group, entries, .. }) = unsealed.pop() {
                self.open = Some(OpenGroup { group, row, entries, free: 0 });
            }
        }
    }

    /// Forgets what a damaged checkpoint had brought.
    pub(super) fn forget(&mut self) {
        let memory = self.config.index_memory;
        for namespace in self.namespaces.iter_mut().flatten() {
            namespace.index = Index::new(memory);
        }
        self.groups.fill(Group::FREE);
        self.live = 0;
    }

    /// Counts keys and bytes, and sizes what depends on them.
    fn count_all(&mut self) {
        let geometry = self.geometry();
        let mut longest = 0;
        for namespace in self.namespaces.iter_mut().flatten() {
            (namespace.keys, namespace.bytes) = (0, 0);
            for (key, meta) in namespace.index.range(None) {
                if let Found::Value(place) = place::find(&geometry, meta) {
                    namespace.keys += 1;
                    namespace.bytes += crate::usage::footprint(&key, place.len);
                    longest = longest.max(place.len);
                }
            }
        }
        self.ensure_scratch(longest);
    }
}

/// Fewest bytes of memory for stripes with values of `len` bytes: all columns of one, and its small pieces.
fn least_scratch(config: &VolumeConfig, len: usize) -> usize {
    let geometry = config.geometry;
    let column = (len.max(STRIPE_BYTES) / geometry.k()).next_multiple_of(PAGE) + 2 * PAGE;
    // Reading one back takes all columns and one that is made again; sizes are rounded up to classes of the pool.
    let stripe = (geometry.width() + geometry.m() + 1) * (column + PAGE);
    stripe + stripe / 4 + (4 << 20)
}

fn read_superblock(config: &VolumeConfig, io: &mut dyn BlockIo, scratch: &Pool) -> Result<Superblock, OpenError> {
    let shard = config.shard;
    let mut best: Option<Superblock> = None;
    let mut source = FormatError::Absent { what: "the superblock" };
    for member in 0..io.members() {
        for slot in 0..2 {
            let Some(mut bytes) = scratch.alloc(SUPERBLOCK_LEN) else { continue };
            if !io.is_present(member) || io.read(member, config.geometry.superblock(shard, slot), &mut bytes).is_err() {
                continue;
            }
            match Superblock::decode(&bytes) {
                Ok(found) if found.pool != config.pool => {
                    tracing::warn!(shard, member, "a superblock belongs to another pool");
                }
                Ok(found) if found.shard != shard => {
                    tracing::warn!(shard, member, found = found.shard, "a superblock belongs to another shard");
                }
                Ok(found) if found.members.len() != usize::from(config.geometry.members()) => {
                    return Err(OpenError::Foreign { shard, what: "number of devices" });
                }
                Ok(found) => {
                    if best.as_ref().is_none_or(|best| best.epoch < found.epoch) {
                        best = Some(found);
                    }
                }
                Err(error) => source = error,
            }
        }
    }
    best.ok_or(OpenError::NoSuperblock { shard, source })
}

//! Opens a volume: from the checkpoint of a clean stop, or from footers and the groups that were not sealed.
//!
//! What was acknowledged is in an unbroken run of stripes. A stripe that some header calls committed was durable; the few
//! behind it are checked column by column: kept if they are whole or can be made whole, else they are where the log ends.

use std::{collections::BTreeMap, io, time::Duration};

use kvof_io::{Pool, PoolBuf, PoolConfig};

use super::{
    Namespace, OpenError, Phase, Progress, Volume, VolumeConfig, VolumeStats,
    build::{Built, Zeros},
    commit::{OpenGroup, STRIPE_BYTES},
    group::{ENTRY_COST, Group, GroupState, cost},
    members::{MemberRuntime, SuperblockWriter},
    place::{self, Found, Place},
};
use crate::{
    checksum::crc32c,
    device::BlockIo,
    ec::{CpuCode, ErasureCode as _},
    format::{
        Entry, EntryKind, FormatError, MemberState, PAGE, STRIPE_REF_LEN, SUPERBLOCK_LEN, StripeHeader, StripeKind,
        StripeRef, Superblock, Uuid, record_len,
    },
    index::Index,
    tier::{ReadAhead, ReadAheadLimits, Tier},
};

/// Incarnations that one run may use: the superblock is not written each time a group is opened.
const INCARNATIONS: u64 = 1 << 32;

/// More numbers than one run gives to stripes: what a run left behind the end of the log never has the number of a later one.
const STRIPE_NUMBERS: u64 = 1 << 32;

/// The payload columns of a stripe, whole.
type Columns = Vec<(usize, PoolBuf)>;

/// A group that was not sealed, as it was found.
#[derive(Debug)]
pub(super) struct Unsealed {
    pub(super) group: u32,
    pub(super) entries: Vec<Entry>,
    /// It has a footer, which must be written again if anything is added.
    pub(super) footer: bool,
}

/// What the first look at a group found.
struct Seen {
    group: u32,
    incarnation: u64,
    first: Option<StripeHeader>,
    footer: Option<StripeHeader>,
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

    /// Whether what `member` has of a group of this incarnation counts.
    fn trusts(&self, member: u16, group: u32, incarnation: u64) -> bool {
        let Some(known) = self.superblock.members.get(usize::from(member)) else { return false };
        match known.state {
            MemberState::Live => true,
            MemberState::Failed => false,
            MemberState::Rebuilding { rebuilt } => group < rebuilt || incarnation >= known.since,
        }
    }

    fn read(&mut self, io: &mut dyn BlockIo, group: u32, column: usize, row: u32, pages: u32) -> io::Result<PoolBuf> {
        let geometry = self.geometry();
        let mut buf = self.scratch.alloc(pages as usize * PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let offset = geometry.offset(self.config.shard, group, column, row);
        io.read(geometry.member(group, column), offset, &mut buf)?;
        self.stats.read_bytes += buf.len() as u64;
        Ok(buf)
    }

    /// The header at a row. Of copies that differ the one that was written last counts: a copy that could not be overwritten is
    /// older.
    pub(super) fn read_header(
        &mut self,
        io: &mut dyn BlockIo,
        group: u32,
        row: u32,
    ) -> Option<(StripeHeader, PoolBuf)> {
        let geometry = self.geometry();
        let mut best: Option<(StripeHeader, PoolBuf)> = None;
        for column in geometry.header_columns(row) {
            let member = geometry.member(group, column);
            if !self.trusts(member, group, u64::MAX) {
                continue;
            }
            let Ok(page) = self.read(io, group, column, row, 1) else {
                self.unread_headers += 1;
                continue;
            };
            let Ok(header) = StripeHeader::decode(&page) else { continue };
            let here = header.check_place(self.config.secret, self.config.shard, group, row).is_ok();
            let last = geometry.segment_pages();
            let fits = match header.kind {
                StripeKind::Footer => header.rows <= row && row == last - 1,
                StripeKind::Data | StripeKind::Checkpoint => header.rows < last - row,
                StripeKind::Freed => header.rows == 0,
            };
            let narrow = usize::from(header.width) <= geometry.k();
            let rank = |header: &StripeHeader| (header.incarnation, header.stripe);
            if here
                && fits
                && narrow
                && self.trusts(member, group, header.incarnation)
                && best.as_ref().is_none_or(|(best, _)| rank(best) < rank(&header))
            {
                best = Some((header, page));
            }
        }
        best
    }

    /// Whether a copy of the header at `row` differs from the others.
    fn copies_differ(&mut self, io: &mut dyn BlockIo, group: u32, row: u32) -> bool {
        let geometry = self.geometry();
        let mut first: Option<PoolBuf> = None;
        for column in geometry.header_columns(row) {
            if self.trusts(geometry.member(group, column), group, u64::MAX)
                && let Ok(page) = self.read(io, group, column, row, 1)
            {
                match &first {
                    None => first = Some(page),
                    Some(first) if **first != *page => return true,
                    Some(_) => {}
                }
            }
        }
        false
    }

    /// The payload of a stripe, all columns whole; what was missing or wrong is made again, and written if `repair`. `None`: lost.
    pub(super) fn read_columns(
        &mut self,
        io: &mut dyn BlockIo,
        header: &StripeHeader,
        repair: bool,
    ) -> Option<Columns> {
        let geometry = self.geometry();
        let row = if header.kind == StripeKind::Footer { header.row - header.rows } else { header.row + 1 };
        let width = usize::from(header.width);
        let crc = |column: usize| header.column_crc.get(column).copied().unwrap_or(0);
        let mut good = Columns::new();
        let mut bad = Vec::new();
        self.ensure_scratch((header.rows as usize * PAGE * geometry.k()).min(place::VALUE_MAX as usize) as u32);
        for column in (0..width).chain(geometry.k()..geometry.width()) {
            // Without damage, the data are enough.
            if column >= geometry.k() && bad.is_empty() && !repair {
                continue;
            }
            let member = geometry.member(header.group, column);
            let trusted = self.trusts(member, header.group, header.incarnation);
            let read = if trusted { self.read(io, header.group, column, row, header.rows).ok() } else { None };
            match read.filter(|bytes| crc32c(bytes) == crc(column)) {
                Some(bytes) => good.push((column, bytes)),
                None => bad.push((column, trusted)),
            }
        }
        let mut made = Columns::new();
        for (column, trusted) in bad {
            let present: Vec<(usize, &[u8])> = good.iter().map(|(column, bytes)| (*column, &**bytes)).collect();
            let mut out = self.scratch.alloc(header.rows as usize * PAGE)?;
            self.code.reconstruct(width, &present, &mut [(column, &mut out)]).ok()?;
            if crc32c(&out) != crc(column) {
                return None;
            }
            if trusted && repair {
                let offset = geometry.offset(self.config.shard, header.group, column, row);
                // What cannot be written is still there in parity, and the next write to that device shows its state.
                let _ = io.write(geometry.member(header.group, column), offset, &out);
            }
            made.push((column, out));
        }
        good.extend(made);
        good.sort_by_key(|(column, _)| *column);
        Some(good)
    }

    /// The stream of a stripe: its data columns, one behind the other.
    pub(super) fn read_stream(&mut self, io: &mut dyn BlockIo, header: &StripeHeader, repair: bool) -> Option<Vec<u8>> {
        let columns = self.read_columns(io, header, repair)?;
        let width = usize::from(header.width);
        let mut stream = Vec::with_capacity(width * header.rows as usize * PAGE);
        for (_, bytes) in columns.iter().filter(|(column, _)| *column < width) {
            stream.extend_from_slice(bytes);
        }
        Some(stream)
    }

    /// Recovers from the log; the groups that have to be sealed.
    fn scan(&mut self, io: &mut dyn BlockIo, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Unsealed>, OpenError> {
        let geometry = self.geometry();
        let count = u64::from(geometry.groups());
        let mut seen = Vec::new();
        let mut committed = 0;
        for group in 0..geometry.groups() {
            self.report(progress, Phase::Headers, group.into(), count);
            let unread = self.unread_headers;
            let first = self.read_header(io, group, 0).map(|(header, _)| header);
            let footer = self.read_header(io, group, geometry.segment_pages() - 1).map(|(header, _)| header);
            for header in first.iter().chain(&footer) {
                committed = committed.max(header.committed);
                self.stripe = self.stripe.max(header.stripe);
                self.sequence = self.sequence.max(header.opened.saturating_sub(1));
                self.incarnation = self.incarnation.max(header.incarnation);
            }
            let newest = first.iter().chain(&footer).map(|header| header.incarnation).max();
            if let (Some(state), Some(newest)) = (self.groups.get_mut(group as usize), newest) {
                state.incarnation = newest;
            }
            let freed = |header: &StripeHeader| (header.kind == StripeKind::Freed).then_some(header.incarnation);
            let freed = first.as_ref().and_then(freed).max(footer.as_ref().and_then(freed));
            let counts = |header: &StripeHeader| freed.is_none_or(|freed| header.incarnation > freed);
            // A crash may have come between the copies: from now on all of them say so.
            if first.as_ref().is_some_and(|header| header.kind == StripeKind::Freed) && self.copies_differ(io, group, 0)
            {
                self.to_free.push((group, 0));
            }
            // Row 0 goes last: freed in the footer alone, a group still has all that it had.
            let first = first.filter(|header| header.kind == StripeKind::Data);
            let footer = footer.filter(|footer| {
                footer.kind == StripeKind::Footer
                    && counts(footer)
                    && first.as_ref().is_none_or(|f| f.incarnation == footer.incarnation)
            });
            if first.is_none() && footer.is_none() && self.unread_headers > unread {
                // What could not be read now was never acknowledged, and must not be there at the next start.
                self.to_free.extend([(group, 0), (group, geometry.segment_pages() - 1)]);
            }
            if let Some(header) = first.as_ref().or(footer.as_ref()) {
                seen.push(Seen { group, incarnation: header.incarnation, first, footer });
            }
        }
        seen.sort_by_key(|seen| seen.incarnation);
        let mut unsealed = Vec::new();
        let count = seen.len() as u64;
        for (n, seen) in (0..).zip(seen) {
            let Seen { group, first, footer, .. } = seen;
            // A footer may have been written before the stripes in front of it: then they have to be looked at.
            let sure = footer.as_ref().filter(|footer| footer.stripe <= committed + 1);
            // A group that was being filled can have one from before, when it went on after a crash.
            let newest = n + 1 == count;
            let sure = match sure {
                Some(footer) if newest && self.goes_on(io, footer) => None,
                sure => sure,
            };
            if let Some(footer) = sure {
                self.report(progress, Phase::Footers, n, count);
                // The last one may have arrived on some devices only: from now on it counts, so it must be on all.
                let last = footer.stripe > committed;
                if self.take_footer(io, footer, last)? {
                    if last && let Some((footer, page)) = self.read_header(io, group, geometry.segment_pages() - 1) {
                        self.complete_headers(io, &footer, &page);
                    }
                    continue;
                }
            }
            self.report(progress, Phase::OpenGroups, n, count);
            if first.is_none() && sure.is_none() {
                // All of it was still on its way when the log ended, and the beginning did not arrive.
                self.to_free.extend([(group, 0), (group, self.geometry().segment_pages() - 1)]);
                continue;
            }
            if first.is_none() {
                return Err(self.group_error(group, "neither its footer nor its first header is whole"));
            }
            let entries = self.take_chain(io, group, seen.incarnation, committed)?;
            if let Some(entries) = entries {
                unsealed.push(Unsealed { group, entries, footer: footer.is_some() });
            }
        }
        self.report(progress, Phase::OpenGroups, count, count);
        Ok(unsealed)
    }

    /// Whether the group of this footer has stripes that it does not know.
    fn goes_on(&mut self, io: &mut dyn BlockIo, footer: &StripeHeader) -> bool {
        self.read_header(io, footer.group, footer.used).is_some_and(|(header, _)| {
            header.kind == StripeKind::Data && header.incarnation == footer.incarnation && header.stripe > footer.stripe
        })
    }

    fn report(&self, progress: &mut dyn FnMut(Progress), phase: Phase, done: u64, of: u64) {
        let keys = self.namespaces.iter().flatten().map(|namespace| namespace.index.len()).sum();
        progress(Progress { phase, done, of, keys, read: self.stats.read_bytes });
    }

    fn group_error(&self, group: u32, why: &str) -> OpenError {
        OpenError::Group { shard: self.config.shard, group, why: why.to_owned() }
    }

    /// Takes all entries of a sealed group from its footer, which is repaired if that is asked for; false if the footer cannot
    /// be read.
    fn take_footer(&mut self, io: &mut dyn BlockIo, footer: &StripeHeader, repair: bool) -> Result<bool, OpenError> {
        let Some(stream) = self.read_stream(io, footer, repair) else { return Ok(false) };
        let split = footer.stripes as usize * STRIPE_REF_LEN;
        let Some((refs, rest)) = stream.split_at_checked(split) else { return Ok(false) };
        let stripes: Option<Vec<StripeRef>> = refs.chunks_exact(STRIPE_REF_LEN).map(StripeRef::decode).collect();
        let entries = crate::format::decode_entries(rest, footer.entries);
        let (Some(stripes), Some(entries)) = (stripes, entries) else { return Ok(false) };
        let rows = self.geometry().segment_pages();
        let ordered = stripes.windows(2).all(|w| matches!(w, [a, b] if a.row + a.rows < b.row));
        if !ordered || footer.used >= rows || stripes.last().is_some_and(|last| last.row + last.rows >= footer.used) {
            return Ok(false);
        }
        if let Some(group) = self.groups.get_mut(footer.group as usize) {
            *group = Group {
                state: GroupState::Sealed,
                incarnation: footer.incarnation,
                opened: footer.opened,
                stripes,
                used: footer.used,
                footer_rows: footer.rows,
                entries: footer.entries,
                ..Group::FREE
            };
        }
        self.take_entries(footer.group, &entries)?;
        Ok(true)
    }

    /// Takes all entries of a group that was not sealed, stripe by stripe; `None` if nothing in it counts.
    fn take_chain(
        &mut self,
        io: &mut dyn BlockIo,
        group: u32,
        incarnation: u64,
        committed: u64,
    ) -> Result<Option<Vec<Entry>>, OpenError> {
        let geometry = self.geometry();
        let mut headers: Vec<(StripeHeader, Vec<u8>)> = Vec::new();
        let mut row = 0;
        while row < geometry.segment_pages() {
            let Some((header, page)) = self.read_header(io, group, row) else { break };
            let follows = headers.last().is_none_or(|(last, _)| header.stripe > last.stripe);
            if header.kind != StripeKind::Data || header.incarnation != incarnation || !follows {
                break;
            }
            row += 1 + header.rows;
            self.stripe = self.stripe.max(header.stripe);
            headers.push((header, page.to_vec()));
        }
        let committed = headers.iter().map(|(header, _)| header.committed).fold(committed, u64::max);
        let mut all = Vec::new();
        let mut stripes = Vec::new();
        let (mut used, mut opened) = (0, u64::MAX);
        for (header, page) in headers {
            let sure = header.stripe <= committed;
            let inline = StripeHeader::entries_inline(header.entries);
            let mut stream = None;
            if header.rows > 0 && (!sure || !inline) {
                stream = self.read_stream(io, &header, !sure);
                if stream.is_none() {
                    if !sure {
                        // It was never acknowledged: the log ends before it. Another start must not see it differently.
                        // Nor must a footer that lists it be believed, once later numbers are committed.
                        self.to_free.push((group, geometry.segment_pages() - 1));
                        break;
                    }
                    return Err(self.group_error(group, &format!("the stripe at row {} is damaged", header.row)));
                }
            }
            if !sure {
                self.complete_headers(io, &header, &page);
            }
            let body = StripeHeader::body(&page);
            let bytes = if inline { body } else { stream.as_deref().unwrap_or_default() };
            let Some(entries) = header.entries(bytes) else {
                return Err(self.group_error(group, &format!("the entries at row {} are damaged", header.row)));
            };
            if header.rows > 0 {
                stripes.push(StripeRef { row: header.row, rows: header.rows, width: header.width });
            }
            used = header.row + 1 + header.rows;
            opened = opened.min(header.opened);
            all.extend(entries);
        }
        if used < geometry.segment_pages() - 1 {
            // Here the log ends, also for another start that could read more.
            self.to_free.push((group, used));
        }
        if used == 0 {
            return Ok(None);
        }
        if let Some(state) = self.groups.get_mut(group as usize) {
            *state = Group {
                state: GroupState::Sealed,
                incarnation,
                opened,
                stripes,
                used,
                entries: all.len() as u32,
                ..Group::FREE
            };
        }
        self.take_entries(group, &all)?;
        Ok(Some(all))
    }

    /// Makes all copies of a header equal.
    fn complete_headers(&mut self, io: &mut dyn BlockIo, header: &StripeHeader, page: &[u8]) {
        let geometry = self.geometry();
        let Some(mut good) = self.scratch.alloc(PAGE) else { return };
        good.copy_from_slice(page);
        for column in geometry.header_columns(header.row) {
            let member = geometry.member(header.group, column);
            if !self.trusts(member, header.group, header.incarnation) {
                continue;
            }
            let same = self.read(io, header.group, column, header.row, 1).is_ok_and(|copy| *copy == *good);
            if !same {
                let offset = geometry.offset(self.config.shard, header.group, column, header.row);
                let _ = io.write(member, offset, &good);
            }
        }
    }

    fn take_entries(&mut self, group: u32, entries: &[Entry]) -> Result<(), OpenError> {
        let geometry = self.geometry();
        for entry in entries {
            self.sequence = self.sequence.max(entry.sequence);
            let record = self.superblock.namespaces.get(usize::from(entry.slot));
            if record.is_none_or(|record| !record.used || record.generation != entry.generation) {
                continue;
            }
            let (meta, cost) = match entry.kind {
                EntryKind::Value => {
                    let (column, _, byte) = geometry.resolve(entry.location);
                    if column >= geometry.width() || byte + record_len(0) > PAGE || entry.len > place::VALUE_MAX {
                        return Err(self.group_error(group, "an entry has an impossible place"));
                    }
                    (Place { group, location: entry.location, len: entry.len }.meta(&geometry), cost(entry.len))
                }
                EntryKind::Tombstone => (place::tombstone(&geometry, group), ENTRY_COST),
            };
            let limit = self.config.index_memory;
            let shard = self.config.shard;
            let Some(Some(namespace)) = self.namespaces.get_mut(usize::from(entry.slot)) else { continue };
            let old = namespace.index.insert(entry.key, meta).map_err(|_| OpenError::IndexFull { shard, limit })?;
            match old.map(|old| place::find(&geometry, old)) {
                Some(Found::Value(place)) => self.kill(place.group, super::group::cost(place.len)),
                Some(Found::Tombstone(group)) => self.kill(group, ENTRY_COST),
                Some(Found::Pending) | None => {}
            }
            self.revive(group, cost);
        }
        Ok(())
    }

    /// Writes the superblock to all devices that have not failed, and flushes it. A device that cannot take it has failed.
    pub(super) fn write_superblock_now(&mut self, io: &mut dyn BlockIo) -> Result<(), OpenError> {
        let geometry = self.geometry();
        let shard = self.config.shard;
        loop {
            self.superblock.epoch += 1;
            let bytes = self.superblock.encode();
            let mut page = self.scratch.alloc(bytes.len()).ok_or_else(|| OpenError::Io {
                shard,
                what: "write the superblock",
                source: io::ErrorKind::OutOfMemory.into(),
            })?;
            page.copy_from_slice(&bytes);
            let offset = geometry.superblock(shard, self.superblock.slot());
            let mut failed = Vec::new();
            for (member, known) in (0u16..).zip(&self.superblock.members) {
                if known.state != MemberState::Failed {
                    let written = io.write(member, offset, &page).and_then(|()| io.flush(member));
                    failed.extend(written.err().map(|error| (member, error)));
                }
            }
            if failed.is_empty() {
                return Ok(());
            }
            for (member, source) in failed {
                tracing::error!(shard, member, %source, "device failed: the superblock could not be written");
                if let Some(known) = self.superblock.members.get_mut(usize::from(member)) {
                    known.state = MemberState::Failed;
                }
                let failed = self.superblock.members.iter().filter(|m| m.state == MemberState::Failed).count();
                if failed > geometry.m() {
                    return Err(OpenError::Io { shard, what: "write the superblock", source });
                }
            }
        }
    }

    /// Marks a group as freed, or a stripe of it as dropped, in the header at `row`, and flushes that.
    fn erase_now(&mut self, io: &mut dyn BlockIo, group: u32, row: u32) {
        let geometry = self.geometry();
        if let Some(state) = self.groups.get_mut(group as usize).filter(|state| state.state == GroupState::Free) {
            state.incarnation = state.incarnation.max(self.incarnation);
        }
        let Some(freed) = self.freed_page(group, row) else { return };
        for column in geometry.header_columns(row) {
            let member = geometry.member(group, column);
            if self.trusts(member, group, u64::MAX) {
                let offset = geometry.offset(self.config.shard, group, column, row);
                if let Err(error) = io.write(member, offset, &freed).and_then(|()| io.flush(member)) {
                    self.fail_member(member, &format!("a group could not be freed: {error}"));
                }
            }
        }
    }

    /// Writes the footer of a group.
    pub(super) fn seal_now(&mut self, io: &mut dyn BlockIo, group: u32, entries: &[Entry]) -> Result<(), OpenError> {
        let shard = self.config.shard;
        let no_memory = || OpenError::Io { shard, what: "seal a group", source: io::ErrorKind::OutOfMemory.into() };
        let built = self.build_footer(group, entries).ok_or_else(no_memory)?;
        self.write_now(io, &built);
        if let Some(why) = &self.read_only {
            let source = io::Error::other(why.clone());
            return Err(OpenError::Io { shard, what: "seal a group", source });
        }
        if let Some(state) = self.groups.get_mut(group as usize) {
            state.footer_rows = built.header.rows;
        }
        Ok(())
    }

    /// Writes a stripe and flushes it. Its number is taken.
    pub(super) fn write_now(&mut self, io: &mut dyn BlockIo, built: &Built) {
        let geometry = self.geometry();
        let header = &built.header;
        self.stripe += 1;
        self.committed = self.stripe;
        let row = if header.kind == StripeKind::Footer { header.row - header.rows } else { header.row + 1 };
        let headers: Vec<usize> = geometry.header_columns(header.row).collect();
        for (column, pieces) in built.columns.iter().enumerate() {
            let member = geometry.member(header.group, column);
            if !self.trusts(member, header.group, header.incarnation) {
                continue;
            }
            let mut offset = geometry.offset(self.config.shard, header.group, column, row);
            let mut result = Ok(());
            for piece in pieces {
                result = result.and_then(|()| io.write(member, offset, piece));
                self.stats.written_bytes += piece.len() as u64;
                offset += piece.len() as u64;
            }
            if headers.contains(&column) {
                let offset = geometry.offset(self.config.shard, header.group, column, header.row);
                result = result.and_then(|()| io.write(member, offset, &built.header_page));
            }
            if let Err(error) = result.and_then(|()| io.flush(member)) {
                self.fail_member(member, &format!("a stripe could not be written: {error}"));
            }
        }
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

//! Stripes on their way: started from what waits, written, flushed where that is promised, acknowledged in order.

use std::io;

use kvof_io::SharedBuf;
use kvof_kv::KvError;

use super::{
    Durability, Op, RESERVED_GROUPS, Volume,
    build::{Built, Piece, blank, build, paged},
    change::{Change, Content, Origin},
    group::{Group, GroupState, footer_rows},
    layout::{LARGE, Layout, Spot, layout},
    place,
    sums::Sums,
};
use crate::{
    device::DeviceOp,
    ec::{MAX_DATA, MAX_PARITY},
    format::{
        ENTRY_LEN, Entry, EntryKind, HEADER_LEN, PAGE, RecordContext, StripeHeader, StripeKind, StripeRef, TRAILER_LEN,
        pages, record_crc, record_len, trailer_at,
    },
};

/// Most stripes in flight.
const STRIPES_MAX: usize = 8;
/// With so many in flight, small values wait for company: what arrives meanwhile shares the next stripe. Large ones gain more
/// from being under way.
const STRIPES_FEW: usize = 4;
/// Most bytes of values in a stripe, unless one value alone has more.
pub(super) const STRIPE_BYTES: usize = 8 << 20;
/// Most records in a stripe.
pub(super) const STRIPE_RECORDS: usize = 4096;
/// Most entries in a group: its footer is read at once.
const GROUP_ENTRIES: usize = 128 << 10;

/// Large values of at most so many bytes are summed at once; more take turns with everything else.
const AT_ONCE: usize = 256 << 10;

/// What stands for a group that does not exist.
static NONE: Group = Group::FREE;

/// The group that stripes are added to.
#[derive(Debug)]
pub(super) struct OpenGroup {
    pub(super) group: u32,
    /// The next free row.
    pub(super) row: u32,
    /// All entries so far, for the footer.
    pub(super) entries: Vec<Entry>,
    /// Free groups when it was opened, this one included: from the reserve, hosts' values wait until there are more, and from
    /// the last one deletes too.
    pub(super) free: u32,
}

/// What becomes the next stripe, while its large values are being summed. It has no place yet: what takes long depends on none.
#[derive(Debug)]
pub(super) struct Assembly {
    batch: Vec<Change>,
    layout: Layout,
    sums: Sums,
}

/// Whose changes go into a stripe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Who {
    /// All that waits.
    All,
    /// Moves, and deletes, which make room.
    Deletes,
    /// Moves alone.
    Moves,
}

/// A stripe in flight.
#[derive(Debug)]
pub(super) struct Stripe {
    number: u64,
    pub(super) group: u32,
    changes: Vec<(Change, Entry)>,
    /// Columns with payload, and columns with a copy of the header: bit by bit.
    payload: u32,
    headers: u32,
    /// Columns that were not written.
    lost: u32,
    /// Writes in flight.
    writes: usize,
    /// To be flushed before it is acknowledged.
    media: bool,
    /// What has to be flushed; `None` until all is written.
    marks: Option<Vec<(u16, u64)>>,
}

impl Volume {
    /// Starts stripes as long as there is something to write and room for it.
    pub(super) fn start_stripes(&mut self) {
        if self.read_only.is_some() {
            self.fail_all();
            return;
        }
        while self.stripes.len() < STRIPES_MAX && self.superblock_writer.is_settled() {
            if let Some(assembly) = self.assembly.take() {
                if !assembly.sums.is_done() {
                    self.assembly = Some(assembly);
                    return;
                }
                if let Err(batch) = self.finish_stripe(assembly) {
                    // A completion gives the next try.
                    self.put_back(batch);
                    return;
                }
                continue;
            }
            if self.seal_wanted && !self.seal_if_open() {
                return;
            }
            let opened = self.open.as_ref().map_or(0, |open| open.free);
            let first = match self.free.max(opened) {
                0 | 1 => Who::Moves,
                most if most <= RESERVED_GROUPS => Who::Deletes,
                _ => Who::All,
            };
            // What one of them cannot have, others may: only moves can have the last group.
            let started = [Who::All, Who::Deletes, Who::Moves]
                .into_iter()
                .filter(|who| *who >= first)
                .any(|who| self.try_stripe(who));
            if !started {
                return;
            }
        }
    }

    /// Whether there is something to do that waits for nobody: [`Self::work`].
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.assembly.as_ref().is_some_and(|assembly| !assembly.sums.is_done())
    }

    /// Does some of it; a few hundred KiB are read.
    pub fn work(&mut self) {
        let Some(assembly) = &mut self.assembly else { return };
        assembly.sums.work(&self.code);
        if assembly.sums.is_done() {
            self.pump();
        }
    }

    /// Starts a stripe from what waits of these. False if there is none to start now.
    fn try_stripe(&mut self, who: Who) -> bool {
        let batch = self.next_batch(who);
        if batch.is_empty() {
            return false;
        }
        let mut batch = batch;
        let large = |change: &Change| change.len().is_some_and(|len| len as usize >= LARGE);
        if self.stripes.len() >= STRIPES_FEW && !batch.iter().any(large) {
            self.put_back(batch);
            return false;
        }
        self.trim(&mut batch);
        let Err(batch) = self.start_stripe(batch) else { return true };
        // A completion gives the next try.
        self.put_back(batch);
        false
    }

    /// Puts changes back to the front, in their order.
    fn put_back(&mut self, changes: Vec<Change>) {
        for change in changes.into_iter().rev() {
            match change.origin {
                Origin::Host(..) => self.changes.push_front(change),
                Origin::Move(_) => self.moves.push_front(change),
            }
        }
    }

    /// Cuts a batch to what the rest of the open group has room for, if that is something: groups are to be filled to the end.
    fn trim(&mut self, batch: &mut Vec<Change>) {
        let geometry = self.geometry();
        let Some(open) = &self.open else { return };
        let stripes = self.groups.get(open.group as usize).map_or(0, |state| state.stripes.len());
        let footer = footer_rows(&geometry, stripes + 1, open.entries.len() + batch.len());
        let rows = geometry.segment_pages().saturating_sub(open.row + footer + 1) as usize;
        let mut room = rows * geometry.k() * PAGE;
        let fits = batch.iter().take_while(|change| {
            let record = record_len(change.len().unwrap_or(0)) + ENTRY_LEN;
            let bytes = if record > LARGE { record.next_multiple_of(PAGE) } else { record };
            let left = room.checked_sub(bytes);
            room = left.unwrap_or(0);
            left.is_some()
        });
        let fits = fits.count();
        if fits > 0 && fits < batch.len() {
            let rest = batch.split_off(fits);
            self.put_back(rest);
        }
    }

    /// Answers everything that waits: nothing can be written any more.
    fn fail_all(&mut self) {
        if let Some(assembly) = self.assembly.take() {
            self.put_back(assembly.batch);
        }
        while let Some(change) = self.changes.pop_front().or_else(|| self.moves.pop_front()) {
            self.failed(&change, KvError::Unrecovered);
        }
        for job in self.take_cramped() {
            self.refuse(job, KvError::Unrecovered);
        }
    }

    /// What goes into the next stripe: moves first, since they make room.
    fn next_batch(&mut self, who: Who) -> Vec<Change> {
        let moves_ready = self.moves_ready();
        let geometry = self.geometry();
        // A stripe has to fit in a group, with the header rows, the footer, and what a layout may be taller than it need be.
        let room = geometry.k() * (geometry.segment_pages() as usize - 6) * PAGE / 32 * 31;
        let most = STRIPE_BYTES.min(room);
        let mut batch: Vec<Change> = Vec::new();
        let mut bytes = 0;
        let mut fits = |change: &Change, count: usize| {
            let len = change.len().unwrap_or(0);
            // The entry is there twice, in the stripe and in the footer; a large record takes whole pages.
            let more = record_len(len) + 2 * ENTRY_LEN + if len as usize >= LARGE { PAGE } else { 0 };
            let fits = count == 0 || (bytes + more <= most && count < STRIPE_RECORDS);
            if fits {
                bytes += more;
            }
            fits
        };
        while let Some(change) = self.moves.front().filter(|_| moves_ready) {
            let stale = self.meta(change.slot, &change.key).map(place::without_hits) != Some(moved_from(change));
            // A change of a host that has its sequence number already must not be followed by the older value.
            let overtaken = self.locks.contains_key(&(change.slot, change.key))
                && self
                    .stripes
                    .iter()
                    .any(|stripe| stripe.changes.iter().any(|(c, _)| (c.slot, c.key) == (change.slot, change.key)));
            if stale || overtaken {
                self.moves.pop_front();
                self.move_ended();
                continue;
            }
            if !fits(change, batch.len()) {
                return batch;
            }
            batch.extend(self.moves.pop_front());
        }
        let mut skipped = Vec::new();
        while let Some(change) = self.changes.front() {
            // Deletes make room, so they do not wait for it unless moves need all there is.
            let needs = if matches!(change.content, Content::Value(..)) { Who::All } else { Who::Deletes };
            if who > needs {
                skipped.extend(self.changes.pop_front());
                continue;
            }
            if !fits(change, batch.len()) {
                break;
            }
            batch.extend(self.changes.pop_front());
        }
        for change in skipped.into_iter().rev() {
            self.changes.push_front(change);
        }
        batch
    }

    /// Begins to put a stripe together, if there is room for it now.
    fn start_stripe(&mut self, batch: Vec<Change>) -> Result<(), Vec<Change>> {
        let geometry = self.geometry();
        let lens: Vec<Option<u32>> = batch.iter().map(Change::len).collect();
        let layout = layout(&lens, geometry.k());
        if !self.make_room_for(&batch, &layout) {
            return Err(batch);
        }
        let Some(mut sums) = Sums::of(&geometry, &self.scratch, &batch, &layout) else { return Err(batch) };
        if sums.len() <= AT_ONCE {
            while !sums.is_done() {
                sums.work(&self.code);
            }
        }
        self.assembly = Some(Assembly { batch, layout, sums });
        Ok(())
    }

    fn make_room_for(&mut self, batch: &[Change], layout: &Layout) -> bool {
        let for_host = batch.iter().any(|c| matches!((&c.origin, &c.content), (Origin::Host(..), Content::Value(..))));
        let least = if for_host {
            RESERVED_GROUPS + 1
        } else if batch.iter().any(|change| matches!(change.origin, Origin::Host(..))) {
            2
        } else {
            1
        };
        self.make_room(1 + layout.rows, batch.len(), least)
    }

    /// Writes a stripe whose large values are summed.
    fn finish_stripe(&mut self, assembly: Assembly) -> Result<(), Vec<Change>> {
        let Assembly { batch, layout, sums } = assembly;
        if !self.make_room_for(&batch, &layout) {
            return Err(batch);
        }
        let Some(open) = &self.open else { return Err(batch) };
        let (group, row) = (open.group, open.row);
        let mut copied = 0;
        let built = self.build_data(&batch, &layout, sums, (group, row), &mut copied);
        self.stats.store_copied_bytes += copied;
        let Some((built, entries)) = built else { return Err(batch) };
        let media = batch.iter().any(|change| match change.origin {
            Origin::Move(_) => true,
            Origin::Host(..) => self.attached(change.slot).is_none_or(|a| a.durability == Durability::Media),
        });
        self.sequence += batch.len() as u64;
        if let Some(state) = self.groups.get_mut(group as usize) {
            if layout.rows > 0 {
                state.stripes.push(StripeRef { row, rows: layout.rows, width: layout.width });
            }
            state.used = row + 1 + layout.rows;
            state.entries += batch.len() as u32;
        }
        if let Some(open) = &mut self.open {
            open.row += 1 + layout.rows;
            open.entries.extend(&entries);
        }
        self.write(&built, batch.into_iter().zip(entries).collect(), media);
        Ok(())
    }

    pub(super) fn header(&self, kind: StripeKind, group: u32, row: u32) -> StripeHeader {
        let state = self.groups.get(group as usize).unwrap_or(&NONE);
        StripeHeader {
            kind,
            width: 0,
            shard: self.config.shard,
            secret: self.config.secret,
            group,
            row,
            incarnation: state.incarnation,
            stripe: self.stripe + 1,
            committed: self.committed,
            rows: 0,
            entries: 0,
            stripes: 0,
            used: 0,
            opened: state.opened,
            column_crc: [0; MAX_DATA + MAX_PARITY],
        }
    }

    /// The header page that says that a group was freed; `None` if there is no memory for it now.
    pub(super) fn freed_page(&self, group: u32, row: u32) -> Option<SharedBuf> {
        let mut page = blank(&self.scratch)?;
        self.header(StripeKind::Freed, group, row).write(&mut page);
        Some(page.freeze())
    }

    /// Builds a stripe of records at this group and row; `None` if there is no memory for it now. Adds to `copied` the bytes of hosts'
    /// values that had to be copied, also in vain.
    fn build_data(
        &self,
        batch: &[Change],
        layout: &Layout,
        sums: Sums,
        (group, row): (u32, u32),
        copied: &mut u64,
    ) -> Option<(Built, Vec<Entry>)> {
        let geometry = self.geometry();
        let mut header = self.header(StripeKind::Data, group, row);
        header.rows = layout.rows;
        header.width = layout.width;
        header.entries = batch.len() as u32;
        let context = RecordContext {
            secret: self.config.secret,
            shard: self.config.shard,
            group,
            incarnation: header.incarnation,
        };
        let place = |spot: Spot| match spot {
            Spot::None => 0,
            Spot::Header(byte) => {
                let column = geometry.header_columns(row).next().unwrap_or(0);
                geometry.location(column, row, byte)
            }
            Spot::Stream(at) => {
                let page = (at / PAGE as u64) as u32;
                let rows = layout.rows.max(1);
                geometry.location((page / rows) as usize, row + 1 + page % rows, (at % PAGE as u64) as usize)
            }
        };
        let mut packed = self.scratch.alloc(layout.packed)?;
        packed.fill(0);
        let mut page = blank(&self.scratch)?;
        let mut entries = Vec::with_capacity(batch.len());
        let mut large = Vec::new();
        for (n, (change, spot)) in batch.iter().zip(&layout.spots).enumerate() {
            let (kind, value) = match &change.content {
                Content::Value(value, _) => (EntryKind::Value, Some(value)),
                Content::Tombstone => (EntryKind::Tombstone, None),
            };
            let mut entry = Entry {
                key: change.key,
                sequence: self.sequence + 1 + n as u64,
                len: value.map_or(0, |value| value.len() as u32),
                location: place(*spot),
                crc: 0,
                slot: change.slot,
                generation: self.generation(change.slot),
                kind,
            };
            let value_crc = value.map_or(0, |value| sums.value_crc(n, value));
            entry.crc = record_crc(value_crc, &context, &entry);
            if let Some(value) = value {
                let moved = match *spot {
                    Spot::Header(byte) => put(&mut page, byte, value, &entry)?,
                    Spot::Stream(at) if value.len() < LARGE => put(&mut packed, at as usize, value, &entry)?,
                    Spot::Stream(at) => {
                        let (record, moved) = self.large_record(value, &entry)?;
                        large.push((at, record));
                        moved
                    }
                    Spot::None => 0,
                };
                if matches!(change.origin, Origin::Host(..)) {
                    *copied += moved as u64;
                }
            }
            entries.push(entry);
        }
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY_LEN);
        entries.iter().for_each(|entry| entry.encode(&mut bytes));
        let target = if StripeHeader::entries_inline(header.entries) {
            page.get_mut(HEADER_LEN..HEADER_LEN + bytes.len())
        } else {
            packed.get_mut(..bytes.len())
        };
        target?.copy_from_slice(&bytes);
        let mut stream = Vec::with_capacity(1 + 3 * large.len());
        let mut at = layout.packed as u64;
        if layout.packed > 0 {
            stream.push(Piece::Bytes(packed.freeze()));
        }
        for (start, [value, tail]) in large {
            if start > at {
                stream.push(Piece::Zeros(pages(start - at) as usize));
            }
            at = start + (value.len() + tail.len()) as u64;
            stream.push(Piece::Bytes(value));
            stream.push(Piece::Bytes(tail));
        }
        Some((build(&geometry, &self.code, &self.zeros, header, page, &stream, sums), entries))
    }

    /// A large record: its whole pages from where they were received, and the rest, which is copied, with the trailer; and how much of
    /// the value that rest has.
    fn large_record(&self, value: &SharedBuf, entry: &Entry) -> Option<([SharedBuf; 2], usize)> {
        let whole = value.len() / PAGE * PAGE;
        let mut tail = self.scratch.alloc(record_len(entry.len).next_multiple_of(PAGE) - whole)?;
        tail.fill(0);
        let rest = put(&mut tail, 0, value.get(whole..)?, &Entry { len: entry.len - whole as u32, ..*entry })?;
        // `put` was told the length of the rest: the trailer's own field has the whole.
        let at = trailer_at(entry.len) - whole;
        tail.get_mut(at..at + TRAILER_LEN)?.copy_from_slice(zerocopy::IntoBytes::as_bytes(&entry.trailer()));
        Some(([value.slice(..whole)?, tail.freeze()], rest))
    }

    /// Whether a stripe of `rows` rows with `entries` entries fits: in the open group, or in another that is opened for it if at
    /// least `least` are free.
    fn make_room(&mut self, rows: u32, entries: usize, least: u32) -> bool {
        let geometry = self.geometry();
        if let Some(open) = &self.open {
            let state = self.groups.get(open.group as usize).unwrap_or(&NONE);
            let footer = footer_rows(&geometry, state.stripes.len() + 1, open.entries.len() + entries);
            let fits = open.row + rows + footer <= geometry.segment_pages();
            if fits && open.entries.len() + entries <= GROUP_ENTRIES {
                return true;
            }
            if !self.seal_if_open() {
                return false;
            }
        }
        let free = self.free;
        if free < least {
            return false;
        }
        self.open_group()
    }

    fn open_group(&mut self) -> bool {
        let count = self.groups.len() as u32;
        let order = (0..count).map(|n| (self.next_group + n) % count.max(1));
        let Some(group) = order
            .into_iter()
            .find(|group| self.groups.get(*group as usize).is_some_and(|g| g.state == GroupState::Free && g.pins == 0))
        else {
            return false;
        };
        self.next_group = (group + 1) % count.max(1);
        self.incarnation += 1;
        if let Some(state) = self.groups.get_mut(group as usize) {
            *state = Group {
                state: GroupState::Open,
                incarnation: self.incarnation,
                opened: self.sequence + 1,
                ..Group::FREE
            };
        }
        self.open = Some(OpenGroup { group, row: 0, entries: Vec::new(), free: self.free });
        self.free -= 1;
        true
    }

    /// Writes the footer of the open group, if there is one. False if that cannot be done now.
    pub(super) fn seal_if_open(&mut self) -> bool {
        let Some(open) = &self.open else {
            self.seal_wanted = false;
            return true;
        };
        if self.stripes.len() >= STRIPES_MAX {
            return false;
        }
        if open.row == 0 {
            // Nothing was written to it.
            if let Some(state) = self.groups.get_mut(open.group as usize) {
                *state = Group { incarnation: state.incarnation, ..Group::FREE };
            }
            self.free += 1;
            self.open = None;
            self.seal_wanted = false;
            return true;
        }
        let (group, entries) = (open.group, &open.entries);
        let Some(built) = self.build_footer(group, entries) else { return false };
        if let Some(state) = self.groups.get_mut(group as usize) {
            state.state = GroupState::Sealed;
            state.footer_rows = built.header.rows;
        }
        self.open = None;
        self.seal_wanted = false;
        if self.unflushed.is_some() {
            // A group is the most that has to be looked at after a crash.
            self.want_all_flushed();
        }
        self.write(&built, Vec::new(), true);
        true
    }

    /// The footer of a group; `None` if there is no memory for it now.
    pub(super) fn build_footer(&self, group: u32, entries: &[Entry]) -> Option<Built> {
        let geometry = self.geometry();
        let state = self.groups.get(group as usize)?;
        let mut bytes = Vec::with_capacity(state.stripes.len() * 16 + entries.len() * ENTRY_LEN);
        state.stripes.iter().for_each(|stripe| stripe.encode(&mut bytes));
        entries.iter().for_each(|entry| entry.encode(&mut bytes));
        let mut header = self.header(StripeKind::Footer, group, geometry.segment_pages() - 1);
        let count = pages(bytes.len() as u64) as u32;
        header.rows = count.div_ceil(geometry.k() as u32);
        header.width = count.div_ceil(header.rows.max(1)) as u8;
        header.entries = entries.len() as u32;
        header.stripes = state.stripes.len() as u32;
        header.used = state.used;
        self.build_plain(header, paged(&self.scratch, &bytes)?)
    }

    /// A stripe without large values; `None` if there is no memory for it now.
    pub(super) fn build_plain(&self, header: StripeHeader, bytes: SharedBuf) -> Option<Built> {
        let geometry = self.geometry();
        let page = blank(&self.scratch)?;
        let mut sums = Sums::new(&geometry, &self.scratch, header.rows)?;
        while !sums.is_done() {
            sums.work(&self.code);
        }
        Some(build(&geometry, &self.code, &self.zeros, header, page, &[Piece::Bytes(bytes)], sums))
    }

    /// Sends a stripe to the devices.
    fn write(&mut self, built: &Built, changes: Vec<(Change, Entry)>, media: bool) {
        let geometry = self.geometry();
        let header = &built.header;
        self.stripe += 1;
        self.stats.stripes += 1;
        debug_assert_eq!(header.stripe, self.stripe, "numbers are given in the order of writing");
        let mut stripe = Stripe {
            number: self.stripe,
            group: header.group,
            changes,
            payload: 0,
            headers: 0,
            lost: 0,
            writes: 0,
            media,
            marks: None,
        };
        for column in geometry.header_columns(header.row) {
            stripe.headers |= 1 << column;
        }
        for (column, pieces) in built.columns.iter().enumerate() {
            let member = geometry.member(header.group, column);
            let mut bufs = pieces.clone();
            let mut row = if header.kind == StripeKind::Footer { header.row - header.rows } else { header.row + 1 };
            if !pieces.is_empty() {
                stripe.payload |= 1 << column;
            }
            if stripe.headers & 1 << column != 0 {
                if header.kind == StripeKind::Footer {
                    bufs.push(built.header_page.clone());
                    if pieces.is_empty() {
                        row = header.row;
                    }
                } else {
                    bufs.insert(0, built.header_page.clone());
                    row = header.row;
                }
            }
            if bufs.is_empty() {
                continue;
            }
            if !self.is_trusted(member, header.group) {
                stripe.lost |= 1 << column;
                continue;
            }
            stripe.writes += 1;
            let offset = geometry.offset(self.config.shard, header.group, column, row);
            self.request(
                Op::Stripe { number: stripe.number, column, member },
                member,
                DeviceOp::Write { offset, bufs },
            );
        }
        self.stripes.push_back(stripe);
    }

    pub(super) fn stripe_written(&mut self, number: u64, column: usize, member: u16, result: &io::Result<()>) {
        if let Err(error) = result {
            self.fail_member(member, &format!("a write failed: {error}"));
        } else {
            self.write_completed(member);
        }
        if let Some(stripe) = self.stripes.iter_mut().find(|stripe| stripe.number == number) {
            stripe.writes -= 1;
            if result.is_err() {
                stripe.lost |= 1 << column;
            }
        }
    }

    /// Acknowledges stripes that are durable, in order.
    pub(super) fn finish_stripes(&mut self) {
        self.flush_stripes();
        self.advance_committed();
        while self.superblock_writer.is_settled() || self.read_only.is_some() {
            let Some(stripe) = self.stripes.front() else { return };
            let Some(marks) = &stripe.marks else { return };
            let flushed = |(member, mark): &(u16, u64)| {
                !self.is_trusted(*member, stripe.group)
                    || self.members.get(usize::from(*member)).is_some_and(|m| m.flushed >= *mark)
            };
            if self.read_only.is_none() && stripe.media && !marks.iter().all(flushed) {
                return;
            }
            // What comes before it in the log must be there after a loss of power too, or it would not be found.
            if self.read_only.is_none() && stripe.media && self.unflushed.is_some() {
                self.want_all_flushed();
                return;
            }
            let Some(stripe) = self.stripes.pop_front() else { return };
            self.end_stripe(stripe);
        }
    }

    /// Asks for flushes for stripes whose writes have ended.
    fn flush_stripes(&mut self) {
        let geometry = self.geometry();
        let mut wanted = Vec::new();
        for stripe in self.stripes.iter_mut().filter(|stripe| stripe.writes == 0 && stripe.marks.is_none()) {
            let columns =
                (0..geometry.width()).filter(|c| (stripe.payload | stripe.headers) & !stripe.lost & 1 << c != 0);
            let marks: Vec<(u16, u64)> = columns
                .map(|column| geometry.member(stripe.group, column))
                .filter_map(|member| Some((member, self.members.get(usize::from(member))?.completed)))
                .collect();
            if stripe.media {
                wanted.extend(&marks);
            }
            stripe.marks = Some(marks);
        }
        for (member, mark) in wanted {
            self.want_flush(member, mark);
        }
    }

    /// A stripe is acknowledged. Headers call it committed when it and all before it survive a loss of power.
    fn acknowledged(&mut self, number: u64, media: bool) {
        if media && self.unflushed.is_none() {
            self.committed = number;
            return;
        }
        let marks = (0u16..).zip(&self.members).map(|(member, state)| (member, state.completed)).collect();
        let point = (number, marks);
        if self.unflushed.is_none() {
            self.unflushed = Some(point);
        } else {
            self.unflushed_latest = Some(point);
        }
    }

    fn want_all_flushed(&mut self) {
        for member in 0..self.members.len() as u16 {
            self.want_flush(member, self.members.get(usize::from(member)).map_or(0, |state| state.completed));
        }
    }

    /// Looks whether flushes have reached stripes that were acknowledged without.
    fn advance_committed(&mut self) {
        while let Some((number, marks)) = &self.unflushed {
            if !marks.iter().all(|(member, mark)| !self.counts(*member) || self.is_flushed(*member, *mark)) {
                return;
            }
            self.committed = *number;
            self.unflushed = self.unflushed_latest.take();
        }
    }

    fn end_stripe(&mut self, stripe: Stripe) {
        let geometry = self.geometry();
        // A column on a device that failed meanwhile does not count, whatever its write said.
        let mut lost = stripe.lost;
        for column in 0..geometry.width() {
            if !self.is_trusted(geometry.member(stripe.group, column), stripe.group) {
                lost |= 1 << column;
            }
        }
        let whole = (lost & stripe.payload).count_ones() as usize <= geometry.m() && stripe.headers & !lost != 0;
        if whole && self.read_only.is_none() {
            self.acknowledged(stripe.number, stripe.media);
            for (change, entry) in stripe.changes {
                self.committed(&change, &entry, stripe.group);
            }
        } else {
            self.set_read_only("a stripe could not be written to enough devices".to_owned());
            for (change, _) in stripe.changes {
                self.failed(&change, KvError::Unrecovered);
            }
        }
    }
}

fn moved_from(change: &Change) -> crate::index::Meta {
    match change.origin {
        Origin::Move(from) => from,
        Origin::Host(..) => place::pending(),
    }
}

/// Puts a value and its trailer at `at`; the bytes of the value.
fn put(target: &mut [u8], at: usize, value: &[u8], entry: &Entry) -> Option<usize> {
    target.get_mut(at..at + value.len())?.copy_from_slice(value);
    let trailer = at + trailer_at(entry.len);
    target.get_mut(trailer..trailer + TRAILER_LEN)?.copy_from_slice(zerocopy::IntoBytes::as_bytes(&entry.trailer()));
    Some(value.len())
}

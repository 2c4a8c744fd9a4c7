//! Reads a whole stripe, checks every column against its header, and writes again what is wrong or missing.

use std::io;

use kvof_io::{PoolPart, SharedBuf};

use super::{Op, Volume};
use crate::{
    checksum::crc32c,
    device::DeviceOp,
    ec::ErasureCode as _,
    format::{ENTRY_LEN, Entry, PAGE, STRIPE_REF_LEN, StripeHeader, StripeKind, StripeRef},
};

/// What a stripe is read for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// The cleaner wants the entries of a footer.
    Footer,
    Scrub,
    /// A read found it damaged.
    Repair,
    /// This device is being filled, by this rebuild.
    Rebuild(u16, u64),
}

impl Why {
    fn fills(self, member: u16) -> bool {
        matches!(self, Self::Rebuild(filled, _) if filled == member)
    }
}

/// A stripe that is being read or repaired.
#[derive(Debug)]
pub(super) struct StripeTask {
    why: Why,
    group: u32,
    stripe: StripeRef,
    footer: bool,
    /// Columns of header copies, then columns of payload, that are read.
    copies: Vec<usize>,
    columns: Vec<usize>,
    got: Vec<Option<PoolPart>>,
    reads: usize,
    writes: usize,
    outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Bytes read and written.
    pub(super) bytes: u64,
    /// Pieces that were wrong.
    pub(super) damaged: u64,
    /// Pieces that were written again.
    pub(super) repaired: u64,
    /// It cannot be repaired.
    pub(super) lost: bool,
    /// The entries of a footer.
    pub(super) entries: Vec<Entry>,
}

/// One thing to write.
struct Fix {
    column: usize,
    row: u32,
    bytes: SharedBuf,
}

impl StripeTask {
    const fn first_row(&self) -> u32 {
        if self.footer { self.stripe.row - self.stripe.rows } else { self.stripe.row + 1 }
    }
}

impl Volume {
    /// The footer of a sealed group.
    pub(super) fn footer_of(&self, group: u32) -> Option<StripeRef> {
        let rows = self.groups.get(group as usize)?.footer_rows;
        let geometry = self.geometry();
        // Its width is in its header.
        Some(StripeRef { row: geometry.segment_pages() - 1, rows, width: geometry.k() as u8 })
    }

    /// Starts reading a stripe; false if there is no memory now.
    pub(super) fn start_task(&mut self, why: Why, group: u32, stripe: StripeRef, footer: bool) -> bool {
        // Two that repair the same stripe at once would write over each other.
        if self.tasks.iter().any(|(_, task)| task.group == group && task.stripe.row == stripe.row) {
            return false;
        }
        let geometry = self.geometry();
        let readable = |column: &usize| {
            let member = geometry.member(group, *column);
            self.is_trusted(member, group) && !why.fills(member)
        };
        let copies: Vec<usize> = geometry.header_columns(stripe.row).filter(readable).collect();
        let payload = (0..usize::from(stripe.width)).chain(geometry.k()..geometry.width());
        let columns: Vec<usize> = if stripe.rows > 0 { payload.filter(readable).collect() } else { Vec::new() };
        let bytes = stripe.rows as usize * PAGE;
        let mut cuts = Vec::new();
        let mut at = 0;
        for len in copies.iter().map(|_| PAGE).chain(columns.iter().map(|_| bytes)) {
            at += len;
            cuts.push(at);
        }
        cuts.pop();
        let Some(parts) = self.scratch.alloc(at).and_then(|buf| buf.split(&cuts).ok()) else { return false };
        let reads = copies.len() + columns.len();
        let task = StripeTask {
            why,
            group,
            stripe,
            footer,
            copies: copies.clone(),
            columns: columns.clone(),
            got: (0..reads).map(|_| None).collect(),
            reads,
            writes: 0,
            outcome: Outcome { bytes: at as u64, ..Outcome::default() },
        };
        let first_row = task.first_row();
        let id = self.tasks.insert(task);
        if let Some(state) = self.groups.get_mut(group as usize) {
            state.pins += 1;
        }
        if reads == 0 {
            self.check_task(id);
            return true;
        }
        let places = copies.iter().map(|column| (*column, stripe.row)).chain(columns.iter().map(|c| (*c, first_row)));
        for (piece, ((column, row), buf)) in places.zip(parts).enumerate() {
            let offset = geometry.offset(self.config.shard, group, column, row);
            let member = geometry.member(group, column);
            self.request(Op::Task { task: id, piece, member }, member, DeviceOp::Read { offset, buf });
        }
        true
    }

    pub(super) fn task_read(&mut self, id: usize, piece: usize, buf: PoolPart, result: &io::Result<()>) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.reads -= 1;
        if result.is_ok()
            && let Some(place) = task.got.get_mut(piece)
        {
            *place = Some(buf);
        }
        if task.reads == 0 {
            self.check_task(id);
        }
    }

    /// Everything has been read: checks it, and writes what has to be written.
    fn check_task(&mut self, id: usize) {
        let fixes = self.find_fixes(id);
        let geometry = self.geometry();
        let Some(task) = self.tasks.get_mut(id) else { return };
        let group = task.group;
        let Some(fixes) = fixes else {
            task.outcome.lost = true;
            return self.end_task(id);
        };
        task.got.clear();
        task.writes = fixes.len();
        task.outcome.bytes += fixes.iter().map(|fix| fix.bytes.len() as u64).sum::<u64>();
        if fixes.is_empty() {
            return self.end_task(id);
        }
        for fix in fixes {
            let offset = geometry.offset(self.config.shard, group, fix.column, fix.row);
            let member = geometry.member(group, fix.column);
            let bufs = vec![fix.bytes];
            self.request(Op::Task { task: id, piece: 0, member }, member, DeviceOp::Write { offset, bufs });
        }
    }

    /// What has to be written; `None` if the stripe is lost.
    fn find_fixes(&mut self, id: usize) -> Option<Vec<Fix>> {
        let geometry = self.geometry();
        let task = self.tasks.get(id)?;
        let (group, stripe) = (task.group, task.stripe);
        let incarnation = self.groups.get(group as usize)?.incarnation;
        let (copies, payload) = task.got.split_at(task.copies.len().min(task.got.len()));
        let right = |page: &PoolPart| {
            StripeHeader::decode(page).ok().filter(|header| {
                header.check_place(self.config.secret, self.config.shard, group, stripe.row).is_ok()
                    && header.incarnation == incarnation
                    && header.rows == stripe.rows
                    && header.kind != StripeKind::Freed
            })
        };
        // A device that lost a write may have what was there before, in the same life of the group: the last one counts.
        let (header, page) = copies
            .iter()
            .flatten()
            .filter_map(|page| Some((right(page)?, page)))
            .max_by_key(|(header, _)| header.stripe)?;
        let writable = |column: usize| {
            let member = geometry.member(group, column);
            task.why.fills(member) || self.is_trusted(member, group)
        };
        let mut damaged = 0;
        let mut fixes = Vec::new();
        for column in geometry.header_columns(stripe.row).filter(|column| writable(*column)) {
            let copy = task.copies.iter().position(|c| *c == column).and_then(|n| copies.get(n)?.as_ref());
            if copy.is_none_or(|copy| **copy != **page) {
                damaged += u64::from(task.copies.contains(&column));
                fixes.push(Fix { column, row: stripe.row, bytes: super::build::paged(&self.scratch, page)? });
            }
        }
        let width = usize::from(header.width);
        let crc = |column: usize| header.column_crc.get(column).copied().unwrap_or(0);
        let good: Vec<(usize, &[u8])> = task
            .columns
            .iter()
            .zip(payload)
            .filter_map(|(column, bytes)| Some((*column, &**bytes.as_ref()?)))
            .filter(|(column, bytes)| crc32c(bytes) == crc(*column))
            .collect();
        let used = (0..width).chain(geometry.k()..geometry.width());
        let missing: Vec<usize> = if stripe.rows == 0 {
            Vec::new()
        } else {
            used.filter(|column| !good.iter().any(|(c, _)| c == column)).collect()
        };
        damaged += missing.iter().filter(|column| task.columns.contains(column)).count() as u64;
        let mut found = Vec::new();
        for column in missing {
            let mut out = self.scratch.alloc(stripe.rows as usize * PAGE)?;
            self.code.reconstruct(width, &good, &mut [(column, &mut out)]).ok()?;
            if crc32c(&out) != crc(column) {
                return None;
            }
            found.push((column, out.freeze()));
        }
        let mut entries = Vec::new();
        if task.why == Why::Footer {
            let mut bytes = Vec::with_capacity(width * stripe.rows as usize * PAGE);
            for column in 0..width {
                let read = good.iter().find(|(c, _)| *c == column).map(|(_, bytes)| *bytes);
                bytes.extend_from_slice(read.or_else(|| Some(&found.iter().find(|(c, _)| *c == column)?.1))?);
            }
            let skip = header.stripes as usize * STRIPE_REF_LEN;
            entries = crate::format::decode_entries(bytes.get(skip..)?, header.entries)?;
            debug_assert!(bytes.len() >= skip + entries.len() * ENTRY_LEN);
        }
        let row = task.first_row();
        fixes.extend(found.into_iter().filter(|(column, _)| writable(*column)).map(|(column, bytes)| Fix {
            column,
            row,
            bytes,
        }));
        let task = self.tasks.get_mut(id)?;
        task.outcome.entries = entries;
        task.outcome.damaged = damaged;
        Some(fixes)
    }

    pub(super) fn task_written(&mut self, id: usize, member: u16, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.write_completed(member);
                let mark = self.members.get(usize::from(member)).map_or(0, |member| member.completed);
                if self.tasks.get(id).is_some_and(|task| task.why == Why::Repair) {
                    self.want_flush(member, mark);
                }
            }
            Err(error) => self.fail_member(member, &format!("a repair could not be written: {error}")),
        }
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.writes -= 1;
        task.outcome.repaired += 1;
        if task.writes == 0 {
            self.end_task(id);
        }
    }

    fn end_task(&mut self, id: usize) {
        let Some(task) = self.tasks.try_remove(id) else { return };
        if let Some(group) = self.groups.get_mut(task.group as usize) {
            group.pins = group.pins.saturating_sub(1);
        }
        let outcome = task.outcome;
        self.stats.damaged += outcome.damaged;
        if !matches!(task.why, Why::Rebuild(..)) {
            self.stats.repaired += outcome.damaged.min(outcome.repaired);
        }
        if outcome.lost && !matches!(task.why, Why::Footer) {
            tracing::error!(
                shard = self.config.shard,
                group = task.group,
                row = task.stripe.row,
                "a stripe is damaged beyond repair"
            );
        } else if outcome.damaged > 0 {
            tracing::warn!(
                shard = self.config.shard,
                group = task.group,
                row = task.stripe.row,
                damaged = outcome.damaged,
                "a damaged stripe was repaired"
            );
        }
        match task.why {
            Why::Footer => self.footer_read(task.group, outcome),
            Why::Scrub => self.scrubbed(&outcome),
            Why::Repair => self.repairing = false,
            Why::Rebuild(_, serial) => self.stripe_rebuilt(serial, &outcome),
        }
    }
}

//! Reading a record: directly, and when that fails from the other columns of its stripe.

use std::io;

use kvof_io::{PoolPart, SharedBuf};
use kvof_kv::{Key, KvError, KvOutcome, OpId};
use zerocopy::FromBytes as _;

use super::{
    Op, Volume,
    change::{Change, Content, Origin},
    members::is_round,
    place::{self, Found, Place},
};
use crate::{
    checksum::crc32c,
    device::DeviceOp,
    ec::ErasureCode as _,
    format::{
        Entry, EntryKind, PAGE, RecordContext, StripeRef, TRAILER_LEN, Trailer, record_crc, record_len, trailer_at,
    },
    tier::Admit,
};

/// A record that is being read.
#[derive(Debug)]
pub(super) struct Fetch {
    why: Why,
    /// Retrieves that wait for it.
    waiters: Vec<OpId>,
    slot: u16,
    key: Key,
    place: Place,
    /// The stripe it is in; `None` if it stands in a header page.
    stripe: Option<StripeRef>,
    spans: Vec<Span>,
    /// First byte of the value in the first page.
    byte: usize,
    pages: usize,
    stage: Stage,
    got: Vec<Option<PoolPart>>,
    waiting: usize,
    failed: bool,
}

/// What a record is read for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    Retrieve,
    Ahead,
    Move,
}

/// A run of pages in one column.
#[derive(Clone, Copy, Debug)]
struct Span {
    column: usize,
    row: u32,
    pages: u32,
}

#[derive(Clone, Debug)]
enum Stage {
    /// From where it is.
    Direct,
    /// From a copy of its header page.
    Copy(usize),
    /// From all columns of its stripe: these columns, from this row, so many rows.
    Columns { columns: Vec<usize>, row: u32, rows: u32 },
}

impl Volume {
    /// Answers a Retrieve or starts reading for it; false if there is no memory.
    pub(super) fn retrieve(&mut self, id: OpId, slot: u16, key: Key) -> bool {
        let geometry = self.geometry();
        let Some(Some(namespace)) = self.namespaces.get_mut(usize::from(slot)) else {
            self.done.push_back((id, Err(KvError::NotReady)));
            return true;
        };
        let place = namespace.index.get_mut(&key).and_then(|meta| match place::find(&geometry, *meta) {
            Found::Value(place) => {
                place::hit(meta);
                Some(place)
            }
            Found::Tombstone(_) | Found::Pending => None,
        });
        let Some(place) = place else {
            self.done.push_back((id, Err(KvError::KeyDoesNotExist)));
            return true;
        };
        let tier_key = (slot, key);
        if let Some(value) = self.tier.get(&tier_key) {
            if let Some(ahead) = &mut self.ahead {
                ahead.on_retrieve(&tier_key);
            }
            self.stats.retrieved_bytes += value.len() as u64;
            self.done.push_back((id, Ok(KvOutcome::Retrieved(value))));
            return true;
        }
        if let Some(fetch) = self.fetching.get(&tier_key).and_then(|fetch| self.fetches.get_mut(*fetch))
            && fetch.place == place
        {
            fetch.waiters.push(id);
        } else if !self.fetch(Why::Retrieve, vec![id], slot, key, place) {
            return false;
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.on_retrieve(&tier_key);
        }
        true
    }

    pub(super) fn fetch_ahead(&mut self, slot: u16, key: Key, place: Place) -> bool {
        self.hungry.is_empty() && self.fetch(Why::Ahead, Vec::new(), slot, key, place)
    }

    pub(super) fn fetch_to_move(&mut self, slot: u16, key: Key, place: Place) -> bool {
        self.fetch(Why::Move, Vec::new(), slot, key, place)
    }

    fn fetch(&mut self, why: Why, waiters: Vec<OpId>, slot: u16, key: Key, place: Place) -> bool {
        let geometry = self.geometry();
        let (column, row, byte) = geometry.resolve(place.location);
        let pages = (byte + record_len(place.len)).div_ceil(PAGE);
        let Some(group) = self.groups.get(place.group as usize) else {
            waiters.into_iter().for_each(|id| self.done.push_back((id, Err(KvError::Internal))));
            return true;
        };
        let stripe = group.stripe_of(row);
        let spans = spans(stripe, column, row, pages as u32);
        let pool = if why == Why::Move { &self.scratch } else { &self.config.buffers };
        if pages * PAGE > pool.limit() {
            // It would wait for ever.
            waiters.into_iter().for_each(|id| self.done.push_back((id, Err(KvError::Internal))));
            return why != Why::Move;
        }
        let Some(buf) = pool.alloc(pages * PAGE) else { return false };
        let parts = if spans.len() == 1 {
            vec![PoolPart::from(buf)]
        } else {
            let cuts: Vec<usize> = spans
                .iter()
                .scan(0, |at, span| {
                    *at += span.pages as usize * PAGE;
                    Some(*at)
                })
                .take(spans.len() - 1)
                .collect();
            buf.split(&cuts).unwrap_or_default()
        };
        if let Some(group) = self.groups.get_mut(place.group as usize) {
            group.pins += 1;
        }
        let got = spans.iter().map(|_| None).collect();
        let readable = spans.iter().all(|span| self.is_trusted(geometry.member(place.group, span.column), place.group));
        let fetch = Fetch {
            why,
            waiters,
            slot,
            key,
            place,
            stripe,
            spans: spans.clone(),
            byte,
            pages,
            stage: Stage::Direct,
            got,
            waiting: spans.len(),
            failed: false,
        };
        let id = self.fetches.insert(fetch);
        if why != Why::Move {
            self.fetching.insert((slot, key), id);
        }
        if !readable || parts.len() != spans.len() {
            drop(parts);
            self.reconstruct(id);
            return true;
        }
        for (part, (span, buf)) in spans.iter().zip(parts).enumerate() {
            let offset = geometry.offset(self.config.shard, place.group, span.column, span.row);
            let member = geometry.member(place.group, span.column);
            self.request(Op::Fetch { fetch: id, part, member }, member, DeviceOp::Read { offset, buf });
        }
        true
    }

    pub(super) fn fetched(&mut self, id: usize, part: usize, buf: PoolPart, result: &io::Result<()>) {
        let Some(fetch) = self.fetches.get_mut(id) else { return };
        fetch.waiting -= 1;
        if result.is_ok()
            && let Some(place) = fetch.got.get_mut(part)
        {
            *place = Some(buf);
        } else {
            fetch.failed = true;
        }
        if fetch.waiting > 0 {
            return;
        }
        let got = std::mem::take(&mut fetch.got);
        match fetch.stage.clone() {
            Stage::Direct | Stage::Copy(_) => {
                let byte = fetch.byte;
                let parts: Option<Vec<PoolPart>> = got.into_iter().collect();
                let whole = parts.and_then(|parts| PoolPart::join(parts).ok());
                match whole {
                    Some(buf) if self.verify(id, buf.get(byte..).unwrap_or_default()) => {
                        let memory = buf.capacity() as u64;
                        self.deliver(id, &buf.freeze(), byte, memory);
                    }
                    other => {
                        if other.is_some() {
                            self.stats.damaged += 1;
                        }
                        self.want_repair(id);
                        self.reconstruct(id);
                    }
                }
            }
            Stage::Columns { columns, row, rows } => self.decode(id, &columns, row, rows, &got),
        }
    }

    /// Whether these bytes are the record's.
    fn verify(&self, id: usize, bytes: &[u8]) -> bool {
        let Some(fetch) = self.fetches.get(id) else { return false };
        let Some(group) = self.groups.get(fetch.place.group as usize) else { return false };
        let context = RecordContext {
            secret: self.config.secret,
            shard: self.config.shard,
            group: fetch.place.group,
            incarnation: group.incarnation,
        };
        verify(bytes, &context, fetch.slot, self.generation(fetch.slot), fetch.key, fetch.place)
    }

    /// Takes the next other way to a record: another copy of its header page, or all columns of its stripe.
    fn reconstruct(&mut self, id: usize) {
        let geometry = self.geometry();
        let Some(fetch) = self.fetches.get_mut(id) else { return };
        let (group, first) = (fetch.place.group, fetch.spans.first().copied());
        let Some(first) = first else { return self.give_up(id) };
        let Some(stripe) = fetch.stripe else {
            let next = match fetch.stage {
                Stage::Direct => 0,
                Stage::Copy(last) => last + 1,
                Stage::Columns { .. } => return self.give_up(id),
            };
            let copies: Vec<usize> = geometry.header_columns(first.row).collect();
            let tried = first.column;
            let usable = |(n, column): &(usize, &usize)| {
                *n >= next && **column != tried && self.is_trusted(geometry.member(group, **column), group)
            };
            let Some((n, column)) = copies.iter().enumerate().find(usable) else { return self.give_up(id) };
            let Some(fetch) = self.fetches.get_mut(id) else { return };
            let pool = if fetch.why == Why::Move { &self.scratch } else { &self.config.buffers };
            let Some(buf) = pool.alloc(PAGE) else {
                self.stalled.push_back(id);
                return;
            };
            if matches!(fetch.stage, Stage::Direct) {
                self.stats.degraded_reads += 1;
            }
            fetch.stage = Stage::Copy(n);
            fetch.got = vec![None];
            (fetch.waiting, fetch.failed) = (1, false);
            let offset = geometry.offset(self.config.shard, group, *column, first.row);
            let member = geometry.member(group, *column);
            self.request(Op::Fetch { fetch: id, part: 0, member }, member, DeviceOp::Read { offset, buf: buf.into() });
            return;
        };
        if matches!(fetch.stage, Stage::Columns { .. }) {
            return self.give_up(id);
        }
        let (row, rows) = match fetch.spans.as_slice() {
            [one] => (one.row, one.pages),
            _ => (stripe.row + 1, stripe.rows),
        };
        let all = (0..usize::from(stripe.width)).chain(geometry.k()..geometry.width());
        let columns: Vec<usize> =
            all.filter(|column| self.is_trusted(geometry.member(group, *column), group)).collect();
        if columns.len() < usize::from(stripe.width) {
            return self.give_up(id);
        }
        let Some(fetch) = self.fetches.get_mut(id) else { return };
        let bytes = rows as usize * PAGE;
        let pool = if fetch.why == Why::Move { &self.scratch } else { &self.config.buffers };
        let cuts: Vec<usize> = (1..columns.len()).map(|n| n * bytes).collect();
        if columns.len() * bytes > pool.limit() {
            return self.give_up(id);
        }
        let Some(parts) = pool.alloc(columns.len() * bytes).and_then(|buf| buf.split(&cuts).ok()) else {
            self.stalled.push_back(id);
            return;
        };
        self.stats.degraded_reads += 1;
        fetch.got = columns.iter().map(|_| None).collect();
        (fetch.waiting, fetch.failed) = (columns.len(), false);
        fetch.stage = Stage::Columns { columns: columns.clone(), row, rows };
        for (part, (column, buf)) in columns.iter().zip(parts).enumerate() {
            let offset = geometry.offset(self.config.shard, group, *column, row);
            let member = geometry.member(group, *column);
            self.request(Op::Fetch { fetch: id, part, member }, member, DeviceOp::Read { offset, buf });
        }
    }

    /// Finds the record in what could be read of its stripe: first with the columns that could not be read taken for lost,
    /// then with more of them, since which ones are wrong shows only in the record's checksum.
    fn decode(&mut self, id: usize, columns: &[usize], row: u32, rows: u32, got: &[Option<PoolPart>]) {
        let geometry = self.geometry();
        let Some(fetch) = self.fetches.get(id) else { return };
        let Some(stripe) = fetch.stripe else { return self.give_up(id) };
        let width = usize::from(stripe.width);
        let read: Vec<(usize, &[u8])> =
            columns.iter().zip(got).filter_map(|(column, part)| Some((*column, &**part.as_ref()?))).collect();
        let spare = read.len().saturating_sub(width);
        let pool = if fetch.why == Why::Move { &self.scratch } else { &self.config.buffers };
        let Some(mut out) = pool.alloc(fetch.pages * PAGE) else {
            // What was read is read again when there is memory.
            self.stalled.push_back(id);
            if let Some(fetch) = self.fetches.get_mut(id) {
                fetch.stage = Stage::Direct;
            }
            return;
        };
        if read.len() < width {
            return self.give_up(id);
        }
        let for_host = fetch.why != Why::Move;
        for wrong in 0..=spare.min(geometry.m()) {
            let mut choice: Vec<usize> = (0..wrong).collect();
            loop {
                let present: Vec<(usize, &[u8])> =
                    read.iter().enumerate().filter(|(n, _)| !choice.contains(n)).map(|(_, column)| *column).collect();
                let assembled = self.assemble(id, &present, width, (row, rows), &mut out);
                if for_host {
                    self.stats.retrieve_copied_bytes += assembled.unwrap_or(0) as u64;
                }
                if assembled.is_some() && self.verify(id, out.get(fetch.byte..).unwrap_or_default()) {
                    let (byte, memory) = (fetch.byte, out.capacity() as u64);
                    return self.deliver(id, &out.freeze(), byte, memory);
                }
                if !next_choice(&mut choice, read.len()) {
                    break;
                }
            }
        }
        self.give_up(id);
    }

    /// Puts the record's pages together from the columns that are taken for right: the bytes that were copied for it, or `None` if it
    /// cannot be.
    fn assemble(
        &self,
        id: usize,
        present: &[(usize, &[u8])],
        width: usize,
        (row, rows): (u32, u32),
        out: &mut [u8],
    ) -> Option<usize> {
        let fetch = self.fetches.get(id)?;
        let (mut at, mut copied) = (0, 0);
        for span in &fetch.spans {
            let from = (span.row - row) as usize * PAGE;
            let len = span.pages as usize * PAGE;
            let target = out.get_mut(at..at + len)?;
            at += len;
            if let Some((_, bytes)) = present.iter().find(|(column, _)| *column == span.column) {
                target.copy_from_slice(bytes.get(from..from + len)?);
                copied += len;
                continue;
            }
            debug_assert!(from + len <= rows as usize * PAGE);
            let slices: Vec<(usize, &[u8])> =
                present.iter().filter_map(|(column, bytes)| Some((*column, bytes.get(from..from + len)?))).collect();
            self.code.reconstruct(width, &slices, &mut [(span.column, target)]).ok()?;
        }
        Some(copied)
    }

    fn want_repair(&mut self, id: usize) {
        let Some(fetch) = self.fetches.get(id) else { return };
        let row = fetch.stripe.map_or_else(|| fetch.spans.first().map_or(0, |span| span.row), |stripe| stripe.row);
        let repair = (fetch.place.group, row);
        if self.repairs.len() < 1024 && !self.repairs.contains(&repair) {
            self.repairs.push_back(repair);
        }
    }

    fn give_up(&mut self, id: usize) {
        let Some(fetch) = self.end_fetch(id) else { return };
        self.stats.unrecovered += 1;
        // A device that is lost beyond parity takes many values with it: not a line for each.
        if is_round(self.stats.unrecovered) {
            tracing::error!(
            shard = self.config.shard,
            key = %fetch.key,
            group = fetch.place.group,
            so_far = self.stats.unrecovered,
            "a value cannot be read: more of its stripe is lost than the parity can replace"
            );
        }
        fetch.waiters.into_iter().for_each(|op| self.done.push_back((op, Err(KvError::Unrecovered))));
        match fetch.why {
            Why::Move => {
                self.move_fetched();
                self.move_unreadable(fetch.place.group);
            }
            Why::Ahead | Why::Retrieve => {
                if let Some(ahead) = &mut self.ahead {
                    ahead.on_done(&(fetch.slot, fetch.key), None);
                }
            }
        }
    }

    fn end_fetch(&mut self, id: usize) -> Option<Fetch> {
        let fetch = self.fetches.try_remove(id)?;
        if let Some(group) = self.groups.get_mut(fetch.place.group as usize) {
            group.pins = group.pins.saturating_sub(1);
        }
        let key = (fetch.slot, fetch.key);
        if self.fetching.get(&key) == Some(&id) {
            self.fetching.remove(&key);
        }
        Some(fetch)
    }

    fn deliver(&mut self, id: usize, pages: &SharedBuf, byte: usize, memory: u64) {
        let Some(fetch) = self.end_fetch(id) else { return };
        let Some(value) = pages.slice(byte..byte + fetch.place.len as usize) else { return };
        if fetch.why == Why::Move {
            self.move_fetched();
        }
        let geometry = self.geometry();
        let key = (fetch.slot, fetch.key);
        let meta = self.meta(fetch.slot, &fetch.key);
        let same = meta.is_some_and(|meta| place::find(&geometry, meta) == Found::Value(fetch.place));
        for op in &fetch.waiters {
            self.stats.retrieved_bytes += value.len() as u64;
            self.done.push_back((*op, Ok(KvOutcome::Retrieved(value.clone()))));
        }
        if fetch.why == Why::Move {
            if same {
                let origin = Origin::Move(fetch.place.meta(&geometry));
                let content = Content::Value(value, memory);
                self.moves.push_back(Change { slot: fetch.slot, key: fetch.key, content, origin });
            } else {
                self.move_ended();
            }
            return;
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.on_done(&key, Some(u64::from(fetch.place.len)));
        }
        if same {
            let why = if fetch.waiters.is_empty() { Admit::ReadAhead } else { Admit::Read };
            self.tier.insert(key, value, memory, why);
        }
    }

    /// Gives reads that wait for memory another try.
    pub(super) fn retry_hungry(&mut self) {
        for id in std::mem::take(&mut self.stalled) {
            self.reconstruct(id);
        }
        while let Some(&(id, slot, key)) = self.hungry.front() {
            if !self.retrieve(id, slot, key) {
                if self.fetches.is_empty() {
                    // Nothing here will give memory back but what is kept to be read again.
                    let limit = self.tier.stats().limit;
                    self.tier.set_limit(self.tier.stats().used / 2);
                    self.tier.set_limit(limit);
                }
                return;
            }
            self.hungry.pop_front();
        }
    }
}

/// Whether `bytes` begin with the value of `key` and its trailer.
pub(super) fn verify(
    bytes: &[u8],
    context: &RecordContext,
    slot: u16,
    generation: u32,
    key: Key,
    place: Place,
) -> bool {
    let at = trailer_at(place.len);
    let Some(value) = bytes.get(..place.len as usize) else { return false };
    let Some(Ok(trailer)) = bytes.get(at..at + TRAILER_LEN).map(Trailer::read_from_bytes) else { return false };
    if trailer.key != key.padded() || trailer.len.get() != place.len {
        return false;
    }
    let entry = Entry {
        key,
        sequence: trailer.sequence.get(),
        len: place.len,
        location: place.location,
        crc: 0,
        slot,
        generation,
        kind: EntryKind::Value,
    };
    record_crc(crc32c(value), context, &entry) == trailer.crc.get()
}

/// The pages of a record: down its column, then from the top of the next one.
fn spans(stripe: Option<StripeRef>, column: usize, row: u32, pages: u32) -> Vec<Span> {
    let Some(stripe) = stripe else { return vec![Span { column, row, pages: 1 }] };
    let (mut column, mut row, mut left) = (column, row, pages);
    let mut spans = Vec::new();
    while left > 0 {
        let now = left.min((stripe.row + 1 + stripe.rows).saturating_sub(row)).max(1);
        spans.push(Span { column, row, pages: now });
        left -= now;
        column += 1;
        row = stripe.row + 1;
    }
    spans
}

/// The next choice of `choice.len()` out of `of`, in order; false after the last.
fn next_choice(choice: &mut [usize], of: usize) -> bool {
    let count = choice.len();
    for n in (0..count).rev() {
        let most = of - (count - n);
        let Some(now) = choice.get(n).copied() else { return false };
        if now < most {
            for (step, place) in choice.iter_mut().skip(n).enumerate() {
                *place = now + 1 + step;
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_all_and_once() {
        let mut choice = vec![0, 1, 2];
        let mut seen = std::collections::BTreeSet::from([choice.clone()]);
        while next_choice(&mut choice, 6) {
            assert!(seen.insert(choice.clone()));
        }
        assert_eq!(seen.len(), 20);
        assert!(!next_choice(&mut [], 3));
    }
}

//! Finds what the log holds: from footers, and stripe by stripe in groups that were not sealed.
//!
//! What was acknowledged is in an unbroken run of stripes. A stripe that some header calls committed was durable; the few
//! behind it are checked column by column: kept if they are whole or can be made whole, else they are where the log ends.

use super::{
    OpenError, Phase, Progress, Volume,
    group::{ENTRY_COST, Group, GroupState, cost},
    place::{self, Found, Place},
    recover::Unsealed,
};
use crate::{
    device::BlockIo,
    format::{Entry, EntryKind, PAGE, STRIPE_REF_LEN, StripeHeader, StripeKind, StripeRef, record_len},
};

/// What the first look at a group found.
struct Seen {
    group: u32,
    incarnation: u64,
    first: Option<StripeHeader>,
    footer: Option<StripeHeader>,
}

impl Volume {
    /// Recovers from the log; the groups that have to be sealed.
    pub(super) fn scan(
        &mut self,
        io: &mut dyn BlockIo,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Unsealed>, OpenError> {
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
}

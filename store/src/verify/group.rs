//! One group: its headers, its footer, and that they agree.

use super::{
    Check, Kind, Severity,
    read::Payload,
    scan::{Scan, chosen, hidden},
    stripe::Contents,
};
use crate::format::{ENTRY_LEN, Entry, STRIPE_REF_LEN, StripeHeader, StripeKind, StripeRef};

/// What a footer says.
#[derive(Debug)]
struct Footer {
    stripes: Vec<StripeRef>,
    entries: Vec<Entry>,
    used: u32,
}

impl Check<'_> {
    pub(super) fn group(&mut self, scan: &Scan) {
        match scan.kind {
            StripeKind::Checkpoint => {
                self.report.groups_checkpoint += 1;
                // One that the superblock does not name is what a start has left behind.
                let counts = self.superblock().clean && self.superblock().checkpoint.contains(&scan.group);
                if counts {
                    scan.chain.iter().for_each(|header| self.checkpoint_stripe(header));
                }
            }
            _ => {
                self.report.groups_used += 1;
                self.data_group(scan);
            }
        }
    }

    fn checkpoint_stripe(&mut self, header: &StripeHeader) {
        let copies = self.reader.header_copies(header.group, header.row);
        if let Some((_, page)) = chosen(&copies, Some(header.incarnation)) {
            let page = page.clone();
            self.judge_copies(header.group, header.row, &copies, &page);
        }
        let payload = Payload::of(header);
        if self.contents(&payload, true).is_none() {
            let what = "a piece of the checkpoint is lost".to_owned();
            self.add(Kind::Checkpoint, Severity::Repairable, self.spot(header.group, Some(header.row)), what);
        }
    }

    fn data_group(&mut self, scan: &Scan) {
        let footer = scan.footer.as_ref().and_then(|header| self.footer(header));
        // Without a footer the headers tell where the stripes are; with one it tells, also where headers are lost.
        let end = match (&footer, scan.chain.last()) {
            (Some(footer), _) => footer.used,
            (None, Some(last)) => last.row + 1 + last.rows,
            (None, None) => scan.footer.as_ref().map_or(0, |footer| footer.used),
        };
        let mut all = Vec::new();
        let mut sure = true;
        let mut last_stripe = 0;
        let mut row = 0;
        while row < end {
            let reference = footer.as_ref().and_then(|footer| footer.stripes.iter().find(|s| s.row == row).copied());
            let copies = self.reader.header_copies(scan.group, row);
            let found = chosen(&copies, Some(scan.incarnation)).cloned();
            // Behind the end of the log there may be headers from before an earlier start.
            let early = self.is_early(scan);
            let right =
                |header: &StripeHeader| header.kind == StripeKind::Data && (!early || header.stripe > last_stripe);
            let Some((header, page)) = found.filter(|(header, _)| right(header)) else {
                if early && hidden(&self.behind(scan, row, last_stripe)) == 0 {
                    let what = "the log ends here, in front of commits that had not ended".to_owned();
                    self.add(Kind::Unfinished, Severity::Note, self.spot(scan.group, Some(row)), what);
                    return;
                }
                row = self.without_header(scan, footer.as_ref(), row, reference);
                sure = false;
                continue;
            };
            // The commits at the end of the log may not have ended.
            let unfinished = header.stripe > self.committed && !self.superblock().clean;
            let freeing = row == 0 && scan.erased;
            if !unfinished && !freeing {
                self.judge_copies(scan.group, row, &copies, &page);
            }
            self.report.stripes += 1;
            let spot = self.spot(scan.group, Some(row));
            if header.stripe <= last_stripe {
                let what = format!("stripe {} follows stripe {last_stripe}", header.stripe);
                self.add(Kind::Inconsistent, Severity::Loss, spot, what);
            }
            last_stripe = header.stripe;
            let as_footer = reference.map_or((0, 0), |s| (s.rows, s.width));
            if footer.is_some() && as_footer != (header.rows, header.width) {
                let what = format!(
                    "the footer says that the stripe has {} rows in {} columns, its header {} in {}",
                    as_footer.0, as_footer.1, header.rows, header.width
                );
                self.add(Kind::FooterDisagrees, Severity::Loss, spot, what);
            }
            match self.stripe(&header, &page, unfinished) {
                Some(entries) => all.extend(entries),
                None if unfinished => {
                    let what = "the log ends here, with a commit that had not ended".to_owned();
                    self.add(Kind::Unfinished, Severity::Note, spot, what);
                    return;
                }
                None => sure = false,
            }
            row += 1 + header.rows;
        }
        if row > end {
            let what = format!("the footer says that the group is used up to row {end}, its stripes go to {row}");
            self.add(Kind::FooterDisagrees, Severity::Loss, self.spot(scan.group, Some(row)), what);
        }
        self.entries_ascend(scan, &all);
        if let Some(footer) = footer.filter(|_| sure) {
            self.compare(scan, &footer.entries, &all);
        }
    }

    /// Checks and reads a footer; `None` if it is of no use.
    fn footer(&mut self, header: &StripeHeader) -> Option<Footer> {
        let spot = self.spot(header.group, Some(header.row));
        let copies = self.reader.header_copies(header.group, header.row);
        let (_, page) = chosen(&copies, Some(header.incarnation))?.clone();
        self.judge_copies(header.group, header.row, &copies, &page);
        let unfinished = header.stripe > self.committed && !self.superblock().clean;
        let Some(contents) = self.contents(&Payload::of(header), !unfinished) else {
            let severity = if unfinished { Severity::Note } else { Severity::Repairable };
            self.add(Kind::FooterLost, severity, spot, "the footer of the group is lost".to_owned());
            return None;
        };
        let stream = contents.stream();
        let split = header.stripes as usize * STRIPE_REF_LEN;
        let parts = stream.split_at_checked(split).map(|(refs, rest)| {
            let stripes: Option<Vec<StripeRef>> = refs.chunks_exact(STRIPE_REF_LEN).map(StripeRef::decode).collect();
            (stripes, entries(rest, header.entries))
        });
        let Some((Some(stripes), Some(entries))) = parts else {
            let what = format!("{} stripes and {} entries do not stand in it", header.stripes, header.entries);
            self.add(Kind::FooterDisagrees, Severity::Loss, spot, what);
            return None;
        };
        let overlap = stripes.windows(2).any(|pair| matches!(pair, [a, b] if a.row + a.rows >= b.row));
        let end = stripes.last().map_or(0, |last| u64::from(last.row) + u64::from(last.rows) + 1);
        let body = u64::from(header.row - header.rows);
        if overlap || end > header.used.into() || u64::from(header.used) > body {
            let what = format!(
                "its stripes reach row {end}, {} rows are used, its own payload begins in row {body}",
                header.used
            );
            self.add(Kind::FooterDisagrees, Severity::Loss, spot, what);
            return None;
        }
        Some(Footer { stripes, entries, used: header.used })
    }

    /// Whether a footer may be there before the stripes in front of it.
    fn is_early(&self, scan: &Scan) -> bool {
        !self.superblock().clean && scan.footer.as_ref().is_some_and(|footer| footer.stripe > self.committed + 1)
    }

    /// The headers of a group behind `row` that are later than stripe `last`.
    fn behind(&mut self, scan: &Scan, row: u32, last: u64) -> Vec<StripeHeader> {
        let end = scan.footer.as_ref().map_or(0, |footer| footer.used);
        let rows = row + 1..end;
        let found = rows.filter_map(|row| self.header(scan.group, row, Some(scan.incarnation)));
        found.filter(|header| header.kind == StripeKind::Data && header.stripe > last).collect()
    }

    /// A row where a header must be and none is. Gives the row to go on with.
    fn without_header(&mut self, scan: &Scan, footer: Option<&Footer>, row: u32, reference: Option<StripeRef>) -> u32 {
        let spot = self.spot(scan.group, Some(row));
        let end = row + 1 + reference.map_or(0, |reference| reference.rows);
        let geometry = self.reader.geometry();
        let inside: Vec<Entry> = footer
            .iter()
            .flat_map(|footer| &footer.entries)
            .filter(|entry| entry.kind == crate::format::EntryKind::Value)
            .filter(|entry| (row..end).contains(&geometry.resolve(entry.location).1))
            .copied()
            .collect();
        let name = if self.reader.geometry().m() == 0 {
            "the stripe header is"
        } else {
            "all copies of the stripe header are"
        };
        let Some(reference) = reference else {
            let what = format!("{name} damaged, and {} records that stand in it", inside.len());
            self.add(Kind::HeaderLost, Severity::Repairable, spot, what);
            inside.iter().for_each(|entry| self.lost.add(entry, spot, "the header page that it stands in is lost"));
            return end;
        };
        let what = format!("{name} damaged; the footer tells what the stripe holds");
        self.add(Kind::HeaderLost, Severity::Repairable, spot, what);
        let payload = Payload {
            group: scan.group,
            incarnation: scan.incarnation,
            row,
            first: row + 1,
            rows: reference.rows,
            width: reference.width.into(),
            crc: None,
        };
        self.report.stripes += 1;
        if self.depth == super::Depth::Full {
            match self.contents(&payload, true) {
                Some(contents) => self.records(&payload, &contents, &inside, 0),
                None => inside.iter().for_each(|entry| self.lost.add(entry, spot, "its stripe is lost")),
            }
        }
        end
    }

    fn entries_ascend(&mut self, scan: &Scan, entries: &[Entry]) {
        let opened = scan.first.as_ref().or(scan.footer.as_ref()).map_or(0, |header| header.opened);
        let ascend = entries.windows(2).all(|pair| matches!(pair, [a, b] if a.sequence < b.sequence));
        let first = entries.first().map_or(opened, |first| first.sequence);
        if !ascend || first < opened {
            let what = if ascend {
                format!("its first change is {first}, but it was opened with {opened}")
            } else {
                "its changes are not in the order of their sequence numbers".to_owned()
            };
            self.add(Kind::Inconsistent, Severity::Loss, self.spot(scan.group, None), what);
        }
        let superblock = self.superblock();
        if superblock.clean && entries.last().is_some_and(|last| last.sequence > superblock.sequence) {
            let what = format!("it has changes beyond {}, the last of the clean stop", superblock.sequence);
            self.add(Kind::Inconsistent, Severity::Loss, self.spot(scan.group, None), what);
        }
    }

    /// The footer must have the entries of the headers, in their order.
    fn compare(&mut self, scan: &Scan, footer: &[Entry], headers: &[Entry]) {
        if footer == headers {
            return;
        }
        let same = footer.iter().zip(headers).take_while(|(a, b)| a == b).count();
        let text = |entry: Option<&Entry>| match entry {
            Some(entry) => format!("{} at {}, sequence {}", entry.key, entry.location, entry.sequence),
            None => "nothing".to_owned(),
        };
        let what = format!(
            "entry {same}: the footer has {}, the headers have {} ({} and {} entries in all)",
            text(footer.get(same)),
            text(headers.get(same)),
            footer.len(),
            headers.len()
        );
        self.add(Kind::FooterDisagrees, Severity::Loss, self.spot(scan.group, None), what);
    }
}

/// `count` entries from the start of `bytes`.
pub(super) fn entries(bytes: &[u8], count: u32) -> Option<Vec<Entry>> {
    let bytes = bytes.get(..(count as usize).checked_mul(ENTRY_LEN)?)?;
    bytes.chunks_exact(ENTRY_LEN).map(Entry::decode).collect()
}

impl Contents {
    /// The data columns, one behind the other.
    pub(super) fn stream(&self) -> Vec<u8> {
        self.data.concat()
    }
}

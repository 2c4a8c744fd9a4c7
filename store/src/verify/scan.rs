//! The first look at every group: its first header, its footer, and if it has none the chain of its headers.

use super::{
    Check, Kind, Severity,
    read::{Fault, HeaderCopy},
};
use crate::format::{StripeHeader, StripeKind};

/// Numbers that may be missing between two stripes of one run; a start skips more.
const GAP: u64 = 8;

/// A group in use.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) group: u32,
    pub(super) incarnation: u64,
    pub(super) kind: StripeKind,
    /// The header in row 0; `None` if only the footer is left.
    pub(super) first: Option<StripeHeader>,
    pub(super) footer: Option<StripeHeader>,
    /// Without a footer: all headers from row 0 on.
    pub(super) chain: Vec<StripeHeader>,
    /// Without a footer: headers behind the end of the chain.
    pub(super) beyond: Vec<StripeHeader>,
    /// The footer was overwritten: the group was about to be freed.
    pub(super) erased: bool,
}

impl Scan {
    fn headers(&self) -> impl Iterator<Item = &StripeHeader> {
        self.first.iter().chain(&self.footer).chain(&self.chain).chain(&self.beyond)
    }

    /// The highest stripe that any header calls durable.
    pub(super) fn committed(&self) -> u64 {
        self.headers().map(|header| header.committed).max().unwrap_or(0)
    }

    fn last_stripe(&self) -> u64 {
        let sure = self.first.iter().chain(&self.footer).chain(&self.chain);
        sure.map(|header| header.stripe).max().unwrap_or(0)
    }
}

/// The header that counts at a row: of the whole copies that of the highest incarnation, or of the one asked for, and of those
/// the latest. What says that a group was freed has a higher number than what it took the place of.
pub(super) fn chosen(copies: &[HeaderCopy], incarnation: Option<u64>) -> Option<&(StripeHeader, Vec<u8>)> {
    let whole = copies.iter().filter_map(|copy| copy.found.as_ref().ok());
    let right = whole.filter(|(header, _)| incarnation.is_none_or(|incarnation| header.incarnation == incarnation));
    right.max_by_key(|(header, _)| (header.incarnation, header.stripe))
}

/// How many of the headers behind the end of a log are of stripes behind one that was durable.
///
/// They may be of several runs of the pool: a start goes on with higher numbers, and may write over what it did not find.
/// Only those of its own run say whether the stripe in front of the first one of a run was durable.
pub(super) fn hidden(beyond: &[StripeHeader]) -> usize {
    let mut headers: Vec<&StripeHeader> = beyond.iter().collect();
    headers.sort_unstable_by_key(|header| header.stripe);
    let runs = headers.chunk_by(|a, b| b.stripe - a.stripe <= GAP);
    let lost = |run: &&[&StripeHeader]| {
        let committed = run.iter().map(|header| header.committed).max().unwrap_or(0);
        run.first().is_some_and(|first| committed + 1 >= first.stripe)
    };
    runs.filter(lost).map(<[_]>::len).sum()
}

impl Check<'_> {
    /// Looks at a group; `None` if it is free.
    pub(super) fn scan(&mut self, group: u32) -> Option<Scan> {
        let last = self.reader.geometry().segment_pages() - 1;
        let copies = self.reader.header_copies(group, 0);
        let first = chosen(&copies, None).map(|(header, _)| header.clone());
        let incarnation = first.as_ref().map(|first| first.incarnation);
        if first.as_ref().is_some_and(|first| first.kind == StripeKind::Freed) {
            let older = |copy: &HeaderCopy| {
                copy.found
                    .as_ref()
                    .is_ok_and(|(h, _)| h.kind != StripeKind::Freed && Some(h.incarnation) == incarnation)
            };
            if copies.iter().any(older) {
                let what = "it was being freed: not all copies of its first header say so".to_owned();
                self.add(Kind::Stale, Severity::Note, self.spot(group, Some(0)), what);
            }
            return None;
        }
        let first = first.filter(|header| matches!(header.kind, StripeKind::Data | StripeKind::Checkpoint));
        let footer = self.header(group, last, first.as_ref().map(|first| first.incarnation));
        let erased = footer.as_ref().is_some_and(|footer| footer.kind == StripeKind::Freed);
        let footer = footer.filter(|footer| footer.kind == StripeKind::Footer);
        // After a crash a group may go on behind a footer that was written before it; in the end another takes its place.
        let goes_on = footer.as_ref().is_some_and(|footer| {
            let next =
                if footer.used < last { self.header(group, footer.used, Some(footer.incarnation)) } else { None };
            next.is_some_and(|next| next.kind == StripeKind::Data && next.stripe > footer.stripe)
        });
        let footer = footer.filter(|_| !goes_on);
        let head = first.as_ref().or(footer.as_ref())?;
        let mut scan = Scan {
            group,
            incarnation: head.incarnation,
            kind: first.as_ref().map_or(StripeKind::Data, |first| first.kind),
            first: first.clone(),
            footer,
            chain: Vec::new(),
            beyond: Vec::new(),
            erased,
        };
        if scan.footer.is_none() {
            self.chain(&mut scan);
        }
        Some(scan)
    }

    /// The header that counts at a row.
    pub(super) fn header(&mut self, group: u32, row: u32, incarnation: Option<u64>) -> Option<StripeHeader> {
        let copies = self.reader.header_copies(group, row);
        chosen(&copies, incarnation).map(|(header, _)| header.clone())
    }

    fn chain(&mut self, scan: &mut Scan) {
        let rows = self.reader.geometry().segment_pages();
        let mut row = 0;
        while row < rows {
            let Some(header) = self.header(scan.group, row, Some(scan.incarnation)) else { break };
            let follows = scan.chain.last().is_none_or(|last| last.stripe < header.stripe);
            if header.kind != scan.kind || !follows {
                break;
            }
            row += 1 + header.rows;
            scan.chain.push(header);
        }
        if scan.kind != StripeKind::Data {
            return;
        }
        // A start has taken back what stood here, and nothing durable has been written since.
        let end = if row < rows { self.header(scan.group, row, Some(scan.incarnation)) } else { None };
        if end.is_some_and(|header| header.kind == StripeKind::Freed) {
            return;
        }
        // A header that is lost in the middle hides what follows it, so the rest is searched for headers.
        let last = scan.chain.last().map_or(0, |last| last.stripe);
        row += 1;
        while row < rows {
            let found = self.header(scan.group, row, Some(scan.incarnation));
            match found.filter(|header| header.kind == StripeKind::Data && header.stripe > last) {
                Some(header) => {
                    row += 1 + header.rows;
                    scan.beyond.push(header);
                }
                None => row += 1,
            }
        }
    }

    /// What the groups say about each other: nothing durable is hidden, and no number is given twice.
    pub(super) fn order(&mut self, scans: &[Scan]) {
        let mut by_age: Vec<&Scan> = scans.iter().collect();
        by_age.sort_by_key(|scan| scan.incarnation);
        for pair in by_age.windows(2) {
            let &[older, newer] = pair else { continue };
            if older.incarnation == newer.incarnation {
                let what = format!("it has incarnation {}, as group {} has", newer.incarnation, older.group);
                self.add(Kind::Inconsistent, Severity::Loss, self.spot(newer.group, None), what);
            }
            let next = newer.first.as_ref().map_or(u64::MAX, |first| first.stripe);
            // Recovery seals the groups that a crash left open: such a footer is younger than what follows the group.
            let last = older.first.iter().chain(&older.chain).map(|header| header.stripe).max().unwrap_or(0);
            if last >= next {
                let what = format!(
                    "its first stripe is {next}, but group {}, which is older, goes up to {}",
                    older.group, last
                );
                self.add(Kind::Inconsistent, Severity::Loss, self.spot(newer.group, None), what);
            }
        }
        // What a start calls committed comprises numbers that it has skipped. Commits go to the group that is being filled, so
        // that only their headers tell of stripes in it.
        let commits = scans.iter().filter(|scan| scan.kind == StripeKind::Data).flat_map(Scan::headers);
        let commits = commits.filter(|header| header.kind == StripeKind::Data);
        let durable = commits.map(|header| header.committed).max().unwrap_or(0);
        for scan in scans.iter().filter(|scan| scan.footer.is_none() && scan.kind == StripeKind::Data) {
            let last = scan.chain.last();
            let end = last.map_or(0, |last| last.row + 1 + last.rows);
            let lost = hidden(&scan.beyond);
            if lost > 0 {
                let what = format!(
                    "all copies of the header in this row are damaged, and hide at least {lost} stripes behind it that were \
                     durable"
                );
                self.add(Kind::HeaderLost, Severity::Loss, self.spot(scan.group, Some(end)), what);
            } else if !scan.beyond.is_empty() {
                let what = "the log ends here, in front of commits that had not ended".to_owned();
                self.add(Kind::Unfinished, Severity::Note, self.spot(scan.group, Some(end)), what);
            }
        }
        self.ends(&by_age, durable);
    }

    /// All groups but the one that is being filled have a footer, unless a crash came in between. Within a run stripes are
    /// numbered without gaps, so that the group that was opened next tells whether one has lost its end.
    fn ends(&mut self, by_age: &[&Scan], durable: u64) {
        let newest = by_age.iter().rev().find(|scan| scan.kind == StripeKind::Data).map(|scan| scan.group);
        for (n, scan) in by_age.iter().enumerate() {
            if scan.footer.is_some() || scan.kind != StripeKind::Data || !scan.beyond.is_empty() {
                continue;
            }
            let spot = self.spot(scan.group, None);
            let next = by_age.get(n + 1).filter(|next| next.incarnation == scan.incarnation + 1);
            let next = next.and_then(|next| Some(next.first.as_ref()?.stripe)).unwrap_or(0);
            // The footer has a number like every stripe.
            let missing = next.min(durable + 1).saturating_sub(scan.last_stripe() + 2);
            if scan.erased {
                let what =
                    "it was about to be freed: its footer says that it is freed, and row 0 does not yet".to_owned();
                self.add(Kind::Stale, Severity::Note, spot, what);
            } else if missing > 0 {
                let first = scan.last_stripe() + 1;
                let what = format!("stripes {first} to {} were durable and are not there", first + missing - 1);
                self.add(Kind::HeaderLost, Severity::Loss, spot, what);
            } else if newest != Some(scan.group) {
                let (severity, when) = match self.superblock().clean {
                    true => (Severity::Repairable, "though the pool was stopped cleanly"),
                    false => (Severity::Note, "as a crash may leave it while it is sealed or freed"),
                };
                self.add(Kind::FooterLost, severity, spot, format!("it has no whole footer, {when}"));
            }
        }
    }

    /// The groups of the checkpoint of a clean stop must be there.
    pub(super) fn checkpoint(&mut self, scans: &[Scan]) {
        let superblock = self.superblock();
        if !superblock.clean {
            return;
        }
        let total = superblock.checkpoint_bytes;
        let mut found = 0;
        for group in superblock.checkpoint.clone() {
            let scan = scans.iter().find(|scan| scan.group == group && scan.kind == StripeKind::Checkpoint);
            match scan {
                Some(scan) => found += scan.chain.iter().map(|header| u64::from(header.used)).sum::<u64>(),
                None => {
                    let what = "the superblock says that it holds the checkpoint, and it does not".to_owned();
                    self.add(Kind::Checkpoint, Severity::Repairable, self.spot(group, None), what);
                }
            }
        }
        if found != total {
            let what = format!("the checkpoint has {found} bytes, the superblock says {total}");
            let spot = super::Spot { shard: Some(self.reader.shard), ..super::Spot::default() };
            self.add(Kind::Checkpoint, Severity::Repairable, spot, what);
        }
    }

    /// Reports the copies of a header that are not as `page`. Those of devices that do not count are none.
    ///
    /// After a crash a copy in the last row may be torn: its group was being freed, or sealed.
    pub(super) fn judge_copies(&mut self, group: u32, row: u32, copies: &[HeaderCopy], page: &[u8]) {
        let torn = row + 1 == self.reader.geometry().segment_pages() && !self.superblock().clean;
        let severity = if torn { Severity::Note } else { Severity::Repairable };
        for copy in copies {
            let why = match &copy.found {
                Err(Fault::Untrusted) => continue,
                Ok((_, other)) if other == page => continue,
                Ok((header, _)) => Fault::OtherIncarnation(header.incarnation).to_string(),
                Err(fault) => fault.to_string(),
            };
            let what = format!("a copy of the stripe header: {why}");
            self.add(Kind::HeaderCopy, severity, self.column_spot(group, row, copy.column), what);
        }
    }
}

//! Whether records that are lost count: not if their key has been stored or deleted since, or their namespace is gone.

use std::collections::BTreeMap;

use kvof_kv::Key;

use super::{Check, Severity, Spot, group, read::Payload, scan::Scan, scan::chosen};
use crate::format::{Entry, STRIPE_REF_LEN, StripeHeader, StripeKind};

/// Most lost records of a volume that are told one by one.
const LOST_MAX: usize = 100_000;

/// The records that are lost.
#[derive(Debug, Default)]
pub(super) struct Lost {
    records: Vec<(Entry, Spot, String)>,
    more: u64,
}

impl Lost {
    pub(super) fn add(&mut self, entry: &Entry, spot: Spot, why: &str) {
        if self.records.len() < LOST_MAX {
            self.records.push((*entry, spot, why.to_owned()));
        } else {
            self.more += 1;
        }
    }
}

impl Check<'_> {
    /// Reports each lost record: as a loss if it counts.
    pub(super) fn judge_lost(&mut self, scans: &[Scan]) {
        let lost = std::mem::take(&mut self.lost);
        if lost.records.is_empty() {
            return;
        }
        let mut newest: BTreeMap<(u16, u32, Key), u64> =
            lost.records.iter().map(|(entry, ..)| ((entry.slot, entry.generation, entry.key), 0)).collect();
        for scan in scans.iter().filter(|scan| scan.kind == StripeKind::Data) {
            for entry in self.entries_of(scan) {
                if let Some(sequence) = newest.get_mut(&(entry.slot, entry.generation, entry.key)) {
                    *sequence = entry.sequence.max(*sequence);
                }
            }
        }
        for (entry, spot, why) in lost.records {
            let newest = newest.get(&(entry.slot, entry.generation, entry.key)).copied().unwrap_or(0);
            let gone = self.name(&entry).namespace.is_none();
            let (severity, fate) = match () {
                () if gone => (Severity::Repairable, "; its namespace is gone"),
                () if newest > entry.sequence => (Severity::Repairable, "; the key has been stored or deleted since"),
                () => (Severity::Loss, ""),
            };
            self.add_record(severity, spot, &entry, format!("{why}{fate}"));
        }
        if lost.more > 0 {
            let spot = Spot { shard: Some(self.reader.shard), ..Spot::default() };
            let what = format!("{} more records are damaged, some of which may not count", lost.more);
            self.add(super::Kind::Record, Severity::Loss, spot, what);
        }
    }

    /// All entries of a group that can be read, from the footer or from the headers, without a check.
    pub(super) fn entries_of(&mut self, scan: &Scan) -> Vec<Entry> {
        let from_footer = scan.footer.as_ref().and_then(|header| {
            let stream = self.contents(&Payload::of(header), false)?.stream();
            group::entries(stream.get(header.stripes as usize * STRIPE_REF_LEN..)?, header.entries)
        });
        if let Some(entries) = from_footer {
            return entries;
        }
        let mut all = Vec::new();
        let end = scan.footer.as_ref().map_or(u32::MAX, |footer| footer.used);
        let mut row = 0;
        while row < end.min(self.reader.geometry().segment_pages()) {
            let copies = self.reader.header_copies(scan.group, row);
            let Some((header, page)) = chosen(&copies, Some(scan.incarnation)).cloned() else { break };
            let stream = (!StripeHeader::entries_inline(header.entries))
                .then(|| self.contents(&Payload::of(&header), false).map(|contents| contents.stream()));
            let bytes = match &stream {
                None => StripeHeader::body(&page),
                Some(stream) => stream.as_deref().unwrap_or_default(),
            };
            all.extend(group::entries(bytes, header.entries).unwrap_or_default());
            row += 1 + header.rows;
        }
        all
    }
}

//! One stripe: its columns, their parity, and every record in it.

use super::{
    Check, Depth, Finding, Kind, Severity,
    group::entries,
    read::{Fault, Payload},
};
use crate::{
    checksum::Crc32c,
    ec::ErasureCode as _,
    format::{
        ENTRY_LEN, Entry, EntryKind, HEADER_LEN, PAGE, RecordContext, StripeHeader, TRAILER_LEN, record_crc,
        record_len, trailer_at,
    },
};

/// The data columns of a stripe, whole.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) data: Vec<Vec<u8>>,
}

impl Check<'_> {
    /// Checks a stripe; its entries, `None` if it is lost. One that is `unfinished` may be damaged as it likes.
    pub(super) fn stripe(&mut self, header: &StripeHeader, page: &[u8], unfinished: bool) -> Option<Vec<Entry>> {
        let body = StripeHeader::body(page);
        let inline = StripeHeader::entries_inline(header.entries);
        let payload = Payload::of(header);
        let spot = self.spot(header.group, Some(header.row));
        let wants = header.rows > 0 && (self.depth == Depth::Full || !inline);
        let contents = if wants { self.contents(&payload, !unfinished) } else { None };
        let lost = wants && contents.is_none();
        let found = match (&contents, inline) {
            (_, true) => header.entries(body),
            (Some(contents), false) => entries(&contents.stream(), header.entries),
            (None, false) => None,
        };
        if lost && unfinished {
            return None;
        }
        let Some(found) = found else {
            let what = if lost { "its entries are lost with it" } else { "its entries are no entries" };
            self.add(Kind::StripeLost, Severity::Loss, spot, what.to_owned());
            return None;
        };
        self.count(&found);
        if lost {
            found
                .iter()
                .filter(|e| e.kind == EntryKind::Value)
                .for_each(|e| self.lost.add(e, spot, "its stripe is lost"));
        }
        let records: Vec<Entry> = found.iter().filter(|entry| entry.kind == EntryKind::Value).copied().collect();
        if header.rows == 0 {
            self.inline_records(header, page, &records);
        } else if let Some(contents) = contents.filter(|_| self.depth == Depth::Full) {
            let taken = if inline { 0 } else { header.entries as usize * ENTRY_LEN };
            self.records(&payload, &contents, &records, taken);
        }
        Some(found)
    }

    fn count(&mut self, entries: &[Entry]) {
        for entry in entries {
            match entry.kind {
                EntryKind::Value => {
                    self.report.records += 1;
                    self.report.value_bytes += u64::from(entry.len);
                }
                EntryKind::Tombstone => self.report.tombstones += 1,
            }
        }
    }

    /// Reads all columns of a stripe, reports those that are damaged if `tell`, makes them again, and compares the parity.
    /// `None` if more are gone than parity makes good.
    pub(super) fn contents(&mut self, payload: &Payload, tell: bool) -> Option<Contents> {
        let geometry = self.reader.geometry();
        let len = payload.rows as usize * PAGE;
        let mut present: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut bad: Vec<(usize, Fault)> = Vec::new();
        for column in (0..payload.width).chain(geometry.k()..geometry.width()) {
            match self.reader.column(payload, column) {
                Ok(bytes) => present.push((column, bytes)),
                Err(fault) => bad.push((column, fault)),
            }
        }
        let names: Vec<String> = bad.iter().map(|(column, fault)| format!("column {column}: {fault}")).collect();
        if tell {
            for (column, fault) in &bad {
                if !matches!(fault, Fault::Untrusted) {
                    let spot = self.column_spot(payload.group, payload.row, *column);
                    let what = format!("rows {} to {}: {fault}", payload.first, payload.first + payload.rows - 1);
                    self.add(Kind::Column, Severity::Repairable, spot, what);
                }
            }
        }
        let wanted: Vec<usize> = bad.iter().map(|(column, _)| *column).collect();
        let mut made: Vec<(usize, Vec<u8>)> = wanted.iter().map(|column| (*column, vec![0; len])).collect();
        let sources: Vec<(usize, &[u8])> = present.iter().map(|(column, bytes)| (*column, &**bytes)).collect();
        let mut out: Vec<(usize, &mut [u8])> = made.iter_mut().map(|(column, bytes)| (*column, &mut **bytes)).collect();
        let spot = self.spot(payload.group, Some(payload.row));
        if self.code.reconstruct(payload.width, &sources, &mut out).is_err() {
            if tell {
                let what = format!("{} columns are gone, {} may be: {}", bad.len(), geometry.m(), names.join("; "));
                self.add(Kind::StripeLost, Severity::Repairable, spot, what);
            }
            return None;
        }
        for (column, bytes) in &made {
            let crc = payload.crc.as_ref().and_then(|crc| crc.get(*column));
            if crc.is_some_and(|crc| *crc != crate::checksum::crc32c(bytes)) {
                if tell {
                    let what = format!(
                        "column {column} does not come out of the others as its checksum says ({})",
                        names.join("; ")
                    );
                    self.add(Kind::StripeLost, Severity::Repairable, spot, what);
                }
                return None;
            }
        }
        let parity_there = geometry.m() > 0 && present.iter().any(|(column, _)| *column >= geometry.k());
        present.extend(made);
        present.sort_unstable_by_key(|(column, _)| *column);
        let parity: Vec<(usize, Vec<u8>)> = present.split_off(payload.width.min(present.len()));
        let data: Vec<Vec<u8>> = present.into_iter().map(|(_, bytes)| bytes).collect();
        if parity_there && tell {
            self.compare_parity(payload, &data, &parity, &wanted);
        }
        Some(Contents { data })
    }

    /// Computes parity anew and compares it with what was read.
    fn compare_parity(&mut self, payload: &Payload, data: &[Vec<u8>], parity: &[(usize, Vec<u8>)], made: &[usize]) {
        let len = payload.rows as usize * PAGE;
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut again: Vec<Vec<u8>> = parity.iter().map(|_| vec![0; len]).collect();
        let mut out: Vec<&mut [u8]> = again.iter_mut().map(Vec::as_mut_slice).collect();
        self.code.encode(&data, &mut out);
        for ((column, bytes), again) in parity.iter().zip(&again) {
            if bytes != again && !made.contains(column) {
                let spot = self.column_spot(payload.group, payload.row, *column);
                let what = "the parity is not that of the data, though its checksum matches".to_owned();
                self.add(Kind::Parity, Severity::Repairable, spot, what);
            }
        }
    }

    /// Records that stand in a header page.
    fn inline_records(&mut self, header: &StripeHeader, page: &[u8], records: &[Entry]) {
        let geometry = self.reader.geometry();
        let column = geometry.header_columns(header.row).next().unwrap_or(0);
        let mut ends = HEADER_LEN + header.entries as usize * ENTRY_LEN;
        for entry in records {
            let (at_column, row, byte) = geometry.resolve(entry.location);
            let end = byte.saturating_add(record_len(entry.len));
            if (at_column, row) != (column, header.row) || byte < ends || end > PAGE - 4 {
                self.misplaced(header.group, header.row, entry);
                continue;
            }
            ends = end;
            let bytes = page.get(byte..end).unwrap_or_default();
            self.record(header.group, header.row, header.incarnation, entry, &[bytes]);
        }
    }

    /// Records in the payload; its first `taken` bytes are entries.
    pub(super) fn records(&mut self, payload: &Payload, contents: &Contents, records: &[Entry], taken: usize) {
        let geometry = self.reader.geometry();
        let height = payload.rows as usize * PAGE;
        let mut order: Vec<(usize, usize, &Entry)> = Vec::with_capacity(records.len());
        for entry in records {
            let (column, row, byte) = geometry.resolve(entry.location);
            let inside = column < payload.width && (payload.first..payload.first + payload.rows).contains(&row);
            let start = column * height + row.saturating_sub(payload.first) as usize * PAGE + byte;
            let end = start.saturating_add(record_len(entry.len));
            if !inside || start < taken || end > payload.width * height {
                self.misplaced(payload.group, payload.row, entry);
                continue;
            }
            order.push((start, end, entry));
        }
        order.sort_unstable_by_key(|(start, ..)| *start);
        let mut last = 0;
        for (start, end, entry) in order {
            if start < last {
                self.misplaced(payload.group, payload.row, entry);
                continue;
            }
            last = end;
            let mut pieces = Vec::new();
            let mut at = start;
            while at < end {
                let (column, offset) = (at / height, at % height);
                let len = (height - offset).min(end - at);
                pieces.push(contents.data.get(column).and_then(|c| c.get(offset..offset + len)).unwrap_or_default());
                at += len;
            }
            self.record(payload.group, payload.row, payload.incarnation, entry, &pieces);
        }
    }

    fn misplaced(&mut self, group: u32, row: u32, entry: &Entry) {
        let what = format!("its place ({}) is not one of its stripe, or is another record's", entry.location);
        self.bad_record(group, row, entry, &what);
    }

    /// Checks a record of which these are all bytes.
    fn record(&mut self, group: u32, row: u32, incarnation: u64, entry: &Entry, pieces: &[&[u8]]) {
        let mut crc = Crc32c::new();
        let mut left = entry.len as usize;
        let mut trailer = Vec::with_capacity(TRAILER_LEN);
        let mut skip = trailer_at(entry.len);
        for piece in pieces {
            let value = piece.get(..left.min(piece.len())).unwrap_or_default();
            crc.update(value);
            left -= value.len();
            let rest = piece.get(skip.min(piece.len())..).unwrap_or_default();
            skip = skip.saturating_sub(piece.len());
            trailer.extend_from_slice(rest);
        }
        let context =
            RecordContext { secret: self.reader.subject.secret, shard: self.reader.shard, group, incarnation };
        if record_crc(crc.finish(), &context, entry) != entry.crc {
            self.bad_record(group, row, entry, "its checksum does not match, though that of its stripe does");
        } else if trailer != zerocopy::IntoBytes::as_bytes(&entry.trailer()) {
            self.bad_record(group, row, entry, "its trailer does not agree with its entry");
        }
    }

    fn bad_record(&mut self, group: u32, row: u32, entry: &Entry, what: &str) {
        let column = self.reader.geometry().resolve(entry.location).0;
        let spot = if column < self.reader.geometry().width() {
            self.column_spot(group, row, column)
        } else {
            self.spot(group, Some(row))
        };
        self.lost.add(entry, spot, what);
    }

    /// A finding about a record.
    pub(super) fn add_record(&mut self, severity: Severity, spot: super::Spot, entry: &Entry, what: String) {
        let record = Some(self.name(entry));
        self.report.add(Finding { kind: Kind::Record, severity, spot, record, what });
    }
}

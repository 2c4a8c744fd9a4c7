//! Shows what is in a volume, for whoever looks at bytes.

use kvof_kv::Key;

use super::{
    Check, Depth, Report, Subject, devices,
    fate::Lost,
    read::{Payload, Reader},
    scan::{Scan, chosen},
};
use crate::{
    checksum::crc32c,
    device::BlockIo,
    ec::CpuCode,
    format::{Entry, EntryKind, HEADER_LEN, PAGE, RecordContext, StripeHeader, StripeKind, Superblock, record_crc},
};

/// Looks around in one volume.
pub struct Browser<'a> {
    check: Check<'a>,
}

/// A group in use.
#[derive(Clone, Debug)]
pub struct GroupView {
    /// Its number.
    pub group: u32,
    /// Its incarnation.
    pub incarnation: u64,
    /// The first sequence number that could be in it.
    pub opened: u64,
    /// What it is.
    pub kind: GroupKind,
    /// Its stripes, the footer last.
    pub stripes: Vec<StripeView>,
}

/// What a group is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupKind {
    /// It has records and no footer.
    Open,
    /// It has records and a footer.
    Sealed,
    /// It has a piece of a checkpoint.
    Checkpoint,
}

/// A stripe, or a footer.
#[derive(Clone, Debug)]
pub struct StripeView {
    /// Its header; `None` if no copy is whole.
    pub header: Option<StripeHeader>,
    /// Row of the header.
    pub row: u32,
    /// Copies of the header that are whole.
    pub copies: usize,
}

impl<'a> Browser<'a> {
    /// A look at `shard`; `None` if it has no whole superblock.
    pub fn new(io: &'a mut dyn BlockIo, subject: &'a Subject, shard: u16) -> Option<Self> {
        let mut report = Report::default();
        let superblock = devices::superblock(io, subject, shard, &mut report)?;
        let reader = Reader { io, subject, shard, superblock, bytes: 0 };
        let code = CpuCode::new(subject.geometry.profile());
        let check = Check { reader, code, depth: Depth::Quick, report, lost: Lost::default(), committed: 0 };
        Some(Self { check })
    }

    /// The superblock that counts.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        self.check.superblock()
    }

    /// What is in a group; `None` if it is free.
    pub fn group(&mut self, group: u32) -> Option<GroupView> {
        let scan = self.check.scan(group)?;
        let kind = match (scan.kind, &scan.footer) {
            (StripeKind::Checkpoint, _) => GroupKind::Checkpoint,
            (_, Some(_)) => GroupKind::Sealed,
            (_, None) => GroupKind::Open,
        };
        let end = match (&scan.footer, scan.chain.last()) {
            (Some(footer), _) => footer.used,
            (None, last) => last.map_or(0, |last| last.row + 1 + last.rows),
        };
        let mut stripes = Vec::new();
        let mut row = 0;
        while row < end {
            let view = self.stripe(&scan, row);
            row += 1 + view.header.as_ref().map_or(0, |header| header.rows);
            stripes.push(view);
        }
        if let Some(footer) = &scan.footer {
            stripes.push(self.stripe(&scan, footer.row));
        }
        let opened = scan.first.as_ref().or(scan.footer.as_ref()).map_or(0, |header| header.opened);
        Some(GroupView { group, incarnation: scan.incarnation, opened, kind, stripes })
    }

    fn stripe(&mut self, scan: &Scan, row: u32) -> StripeView {
        let copies = self.check.reader.header_copies(scan.group, row);
        let header = chosen(&copies, Some(scan.incarnation)).map(|(header, _)| header.clone());
        let whole = copies.iter().filter_map(|copy| copy.found.as_ref().ok());
        let copies = whole.filter(|(header, _)| header.incarnation == scan.incarnation).count();
        StripeView { header, row, copies }
    }

    /// The entries of a group, from its footer or its headers; with those of earlier generations and other values.
    pub fn entries(&mut self, group: u32) -> Vec<Entry> {
        match self.check.scan(group) {
            Some(scan) if scan.kind == StripeKind::Data => self.check.entries_of(&scan),
            _ => Vec::new(),
        }
    }

    /// The entry of a key that counts, and the group that has it. Reads the entries of the whole volume.
    pub fn find(&mut self, slot: u16, key: Key) -> Option<(u32, Entry)> {
        let generation = self.superblock().namespaces.get(usize::from(slot))?.generation;
        let mut found: Option<(u32, Entry)> = None;
        for group in 0..self.check.reader.geometry().groups() {
            let entries = self.entries(group);
            let same = entries.into_iter().filter(|e| (e.slot, e.generation, e.key) == (slot, generation, key));
            for entry in same {
                if found.as_ref().is_none_or(|(_, found)| found.sequence < entry.sequence) {
                    found = Some((group, entry));
                }
            }
        }
        found
    }

    /// The value of an entry of a group, if it can be read or made again.
    ///
    /// # Errors
    /// Why it cannot, for people.
    pub fn value(&mut self, group: u32, entry: &Entry) -> Result<Vec<u8>, String> {
        if entry.kind == EntryKind::Tombstone {
            return Err("it is a tombstone: the key was deleted".to_owned());
        }
        let scan = self.check.scan(group).ok_or("its group is free")?;
        let geometry = self.check.reader.geometry();
        let (column, row, byte) = geometry.resolve(entry.location);
        let mut at = 0;
        let len = entry.len as usize;
        let value = loop {
            let copies = self.check.reader.header_copies(group, at);
            let found = chosen(&copies, Some(scan.incarnation)).cloned();
            let (header, page) = found.ok_or_else(|| format!("no copy of the header in row {at} is whole"))?;
            if row == at && header.rows == 0 {
                break page.get(byte.max(HEADER_LEN)..byte.max(HEADER_LEN) + len).map(<[u8]>::to_vec);
            }
            if row > at && row <= at + header.rows {
                let contents = self.check.contents(&Payload::of(&header), false);
                let contents = contents.ok_or("more columns of its stripe are gone than parity makes good")?;
                let height = header.rows as usize * PAGE;
                let start = column * height + (row - at - 1) as usize * PAGE + byte;
                break contents.stream().get(start..start + len).map(<[u8]>::to_vec);
            }
            at += 1 + header.rows;
            if at > row {
                break None;
            }
        };
        let value = value.ok_or("its entry names a place that no stripe has")?;
        let secret = self.check.reader.subject.secret;
        let shard = self.check.reader.shard;
        let context = RecordContext { secret, shard, group, incarnation: scan.incarnation };
        if record_crc(crc32c(&value), &context, entry) != entry.crc {
            return Err("its checksum does not match".to_owned());
        }
        Ok(value)
    }
}

//! Stripes and superblocks read and written at once, for opening and closing: nothing else is under way then.

use std::io;

use kvof_io::PoolBuf;

use super::{OpenError, Volume, build::Built, group::GroupState, place};
use crate::{
    checksum::crc32c,
    device::BlockIo,
    ec::ErasureCode as _,
    format::{Entry, MemberState, PAGE, StripeHeader, StripeKind},
};

/// The payload columns of a stripe, whole.
type Columns = Vec<(usize, PoolBuf)>;

impl Volume {
    /// Whether what `member` has of a group of this incarnation counts.
    pub(super) fn trusts(&self, member: u16, group: u32, incarnation: u64) -> bool {
        let Some(known) = self.superblock.members.get(usize::from(member)) else { return false };
        match known.state {
            MemberState::Live => true,
            MemberState::Failed => false,
            MemberState::Rebuilding { rebuilt } => group < rebuilt || incarnation >= known.since,
        }
    }

    pub(super) fn read(
        &mut self,
        io: &mut dyn BlockIo,
        group: u32,
        column: usize,
        row: u32,
        pages: u32,
    ) -> io::Result<PoolBuf> {
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
    pub(super) fn copies_differ(&mut self, io: &mut dyn BlockIo, group: u32, row: u32) -> bool {
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
    pub(super) fn erase_now(&mut self, io: &mut dyn BlockIo, group: u32, row: u32) {
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

//! Reads the structures of one volume from the devices, and says of each copy what is wrong with it.

use std::{fmt, io};

use crate::{
    checksum::crc32c,
    device::BlockIo,
    format::{FormatError, MemberState, PAGE, Secret, StripeHeader, StripeKind, Superblock, Uuid},
    geometry::Geometry,
};

/// What is verified: a pool as its labels describe it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The pool.
    pub pool: Uuid,
    /// Its secret.
    pub secret: Secret,
    /// Its layout.
    pub geometry: Geometry,
    /// For each member the device that is present.
    pub devices: Vec<Option<Uuid>>,
}

/// Why a piece cannot be used.
#[derive(Debug)]
pub(super) enum Fault {
    /// Nothing is expected from this device: it is missing, has failed, or is not filled yet.
    Untrusted,
    /// The device does not answer.
    Io(io::Error),
    /// Zeros, as a header is overwritten with when its group is freed.
    Erased,
    /// It is not what should be there.
    Format(FormatError),
    /// It is a whole header, of another incarnation.
    OtherIncarnation(u64),
    /// Its bytes do not have the checksum in the header.
    Checksum,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted => f.write_str("its device does not count"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Erased => f.write_str("it is erased"),
            Self::Format(error) => write!(f, "{error}"),
            Self::OtherIncarnation(incarnation) => write!(f, "it is of incarnation {incarnation}"),
            Self::Checksum => f.write_str("its checksum does not match"),
        }
    }
}

/// One copy of a header page.
#[derive(Debug)]
pub(super) struct HeaderCopy {
    pub(super) column: usize,
    pub(super) found: Result<(StripeHeader, Vec<u8>), Fault>,
}

/// A volume that is looked at.
pub(super) struct Reader<'a> {
    pub(super) io: &'a mut dyn BlockIo,
    pub(super) subject: &'a Subject,
    pub(super) shard: u16,
    pub(super) superblock: Superblock,
    pub(super) bytes: u64,
}

impl Reader<'_> {
    pub(super) fn geometry(&self) -> Geometry {
        self.subject.geometry
    }

    /// Whether what `member` has of a group of this incarnation counts.
    pub(super) fn counts(&self, member: u16, group: u32, incarnation: u64) -> bool {
        let at = usize::from(member);
        let (Some(known), Some(Some(device))) = (self.superblock.members.get(at), self.subject.devices.get(at)) else {
            return false;
        };
        let filled = match known.state {
            MemberState::Live => true,
            MemberState::Failed => false,
            MemberState::Rebuilding { rebuilt } => group < rebuilt || incarnation >= known.since,
        };
        filled && *device == known.device && self.io.is_present(member)
    }

    /// Reads `pages` pages of a column; who asks knows that they count.
    pub(super) fn pages(&mut self, group: u32, column: usize, row: u32, pages: u32) -> io::Result<Vec<u8>> {
        let geometry = self.geometry();
        let mut bytes = vec![0; pages as usize * PAGE];
        let offset = geometry.offset(self.shard, group, column, row);
        self.io.read(geometry.member(group, column), offset, &mut bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(bytes)
    }

    /// All copies of the header at a row. A header that cannot be, for its numbers, is damaged.
    pub(super) fn header_copies(&mut self, group: u32, row: u32) -> Vec<HeaderCopy> {
        let geometry = self.geometry();
        let copy = |column| {
            let member = geometry.member(group, column);
            let found = match self.counts(member, group, u64::MAX) {
                false => Err(Fault::Untrusted),
                true => self.header_copy(group, row, column),
            };
            // A device that is being filled has an old header where the new group has not come yet.
            let found = match found {
                Ok((header, _)) if !self.counts(member, group, header.incarnation) => Err(Fault::Untrusted),
                found => found,
            };
            HeaderCopy { column, found }
        };
        geometry.header_columns(row).map(copy).collect()
    }

    fn header_copy(&mut self, group: u32, row: u32, column: usize) -> Result<(StripeHeader, Vec<u8>), Fault> {
        let page = self.pages(group, column, row, 1).map_err(Fault::Io)?;
        if page.iter().all(|byte| *byte == 0) {
            return Err(Fault::Erased);
        }
        let header = StripeHeader::decode(&page).map_err(Fault::Format)?;
        header.check_place(self.subject.secret, self.shard, group, row).map_err(Fault::Format)?;
        let geometry = self.geometry();
        let impossible = |field, value: u32| {
            Err(Fault::Format(FormatError::Field { what: "the stripe header", field, value: value.into() }))
        };
        let last = geometry.segment_pages() - 1;
        let room = if header.kind == StripeKind::Footer { row } else { last - row };
        match () {
            () if usize::from(header.width) > geometry.k() => impossible("the width", header.width.into()),
            () if header.rows > room => impossible("the number of rows", header.rows),
            () if header.kind == StripeKind::Footer && row != last => impossible("the row of a footer", row),
            () if header.kind == StripeKind::Footer && header.used > last => impossible("rows used", header.used),
            () => Ok((header, page)),
        }
    }

    /// The payload of a column of a stripe, if it is there and has its checksum (or none is known).
    pub(super) fn column(&mut self, stripe: &Payload, column: usize) -> Result<Vec<u8>, Fault> {
        let member = self.geometry().member(stripe.group, column);
        if !self.counts(member, stripe.group, stripe.incarnation) {
            return Err(Fault::Untrusted);
        }
        let bytes = self.pages(stripe.group, column, stripe.first, stripe.rows).map_err(Fault::Io)?;
        match stripe.crc.as_ref().and_then(|crc| crc.get(column)) {
            Some(crc) if *crc != crc32c(&bytes) => Err(Fault::Checksum),
            _ => Ok(bytes),
        }
    }
}

/// The payload of a stripe: where it is, and how it should add up.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    pub(super) group: u32,
    pub(super) incarnation: u64,
    /// Row of the header.
    pub(super) row: u32,
    /// First row of payload.
    pub(super) first: u32,
    pub(super) rows: u32,
    pub(super) width: usize,
    /// Checksums of the columns; `None` if the header is lost.
    pub(super) crc: Option<Vec<u32>>,
}

impl Payload {
    pub(super) fn of(header: &StripeHeader) -> Self {
        let first = if header.kind == StripeKind::Footer { header.row - header.rows } else { header.row + 1 };
        Self {
            group: header.group,
            incarnation: header.incarnation,
            row: header.row,
            first,
            rows: header.rows,
            width: usize::from(header.width),
            crc: Some(header.column_crc.to_vec()),
        }
    }
}

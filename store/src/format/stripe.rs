//! A stripe: what is committed at once. Its header page names its place, its columns' checksums and its entries.

use kvof_spec::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Entry, FormatError, PAGE, Secret, VERSION, is_whole, seal};
use crate::ec::{MAX_DATA, MAX_PARITY};

const WHAT: &str = "the stripe header";
const MAGIC: [u8; 8] = *b"kvofStrp";
const COLUMNS: usize = MAX_DATA + MAX_PARITY;

/// Bytes of a header without its entries.
pub const HEADER_LEN: usize = 176;
/// Bytes of an entry.
pub const ENTRY_LEN: usize = 48;
/// Bytes of a stripe reference.
pub const STRIPE_REF_LEN: usize = 16;
/// Bytes of a header page for entries and inline records: all but the header and the page's checksum.
const BODY_LEN: usize = PAGE - HEADER_LEN - 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U16,
    kind: u8,
    width: u8,
    shard: U16,
    flags: U16,
    secret: [u8; 16],
    group: U32,
    row: U32,
    incarnation: U64,
    stripe: U64,
    committed: U64,
    rows: U32,
    entries: U32,
    stripes: U32,
    used: U32,
    opened: U64,
    column_crc: [U32; COLUMNS],
    rsvd: [u8; 8],
}

const _: () = assert!(size_of::<Raw>() == HEADER_LEN);

/// What a stripe holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StripeKind {
    /// Records.
    Data,
    /// The list of all stripes and entries of its group, at the group's end.
    Footer,
    /// A piece of a checkpoint.
    Checkpoint,
    /// Nothing: the group of this incarnation was freed. In row 0 and in the last row; no rows, no entries.
    Freed,
}

/// The header of a stripe. Its page is the first row of the stripe (of a footer: the last row of the group), and m + 1
/// columns have a copy of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StripeHeader {
    /// What it holds.
    pub kind: StripeKind,
    /// Data columns that are written, from column 0; the others count as zeros. 0 if it has no rows.
    pub width: u8,
    /// The volume's shard.
    pub shard: u16,
    /// The pool's secret.
    pub secret: Secret,
    /// The group.
    pub group: u32,
    /// Row of the header page in its segments.
    pub row: u32,
    /// How many times any group had been opened when this one was.
    pub incarnation: u64,
    /// Number of the stripe in its volume, ascending.
    pub stripe: u64,
    /// Every stripe up to this one was durable when this one was written.
    pub committed: u64,
    /// Rows of payload behind the header (of a footer: before it).
    pub rows: u32,
    /// Number of entries. They are in the header page if they fit there, else at the start of the payload.
    pub entries: u32,
    /// Number of stripe references (footer only): in the payload, before the entries.
    pub stripes: u32,
    /// Rows of the group that its stripes take, from row 0 (footer only).
    pub used: u32,
    /// The first sequence number that could be in the group.
    pub opened: u64,
    /// CRC-32C of the payload rows of each column; 0 for columns that are not written.
    pub column_crc: [u32; COLUMNS],
}

impl StripeHeader {
    /// Bytes that the header page has for entries and inline records.
    pub const ROOM: usize = BODY_LEN;

    /// The header page; `body`, at most [`Self::ROOM`] bytes, stands behind the header.
    #[must_use]
    pub fn encode(&self, body: &[u8]) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        let body = body.get(..body.len().min(BODY_LEN)).unwrap_or_default();
        page[HEADER_LEN..HEADER_LEN + body.len()].copy_from_slice(body);
        self.write(&mut page);
        page
    }

    /// Completes a header page whose body is in its place already: writes what stands before and behind it. No effect on less
    /// than a page.
    pub fn write(&self, page: &mut [u8]) {
        let Some(page) = page.get_mut(..PAGE) else { return };
        let mut raw = Raw::new_zeroed();
        raw.magic = MAGIC;
        raw.version = (VERSION as u16).into();
        raw.kind = match self.kind {
            StripeKind::Data => 1,
            StripeKind::Footer => 2,
            StripeKind::Checkpoint => 3,
            StripeKind::Freed => 4,
        };
        raw.width = self.width;
        raw.shard = self.shard.into();
        raw.secret = self.secret.0;
        raw.group = self.group.into();
        raw.row = self.row.into();
        raw.incarnation = self.incarnation.into();
        raw.stripe = self.stripe.into();
        raw.committed = self.committed.into();
        raw.rows = self.rows.into();
        raw.entries = self.entries.into();
        raw.stripes = self.stripes.into();
        raw.used = self.used.into();
        raw.opened = self.opened.into();
        for (to, from) in raw.column_crc.iter_mut().zip(self.column_crc) {
            *to = from.into();
        }
        page[..HEADER_LEN].copy_from_slice(raw.as_bytes());
        seal(page);
    }

    /// Decodes a page.
    ///
    /// # Errors
    /// [`FormatError`]. Whether it is the header that belongs at this place is the caller's to ask: [`Self::check_place`].
    pub fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let absent = FormatError::Absent { what: WHAT };
        let page = page.get(..PAGE).ok_or(absent)?;
        let (raw, _) = Raw::ref_from_prefix(page).map_err(|_| absent)?;
        if raw.magic != MAGIC {
            return Err(absent);
        }
        if u32::from(raw.version.get()) != VERSION {
            return Err(FormatError::Version { what: WHAT, version: raw.version.get().into() });
        }
        if !is_whole(page) {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let field = |field, value| FormatError::Field { what: WHAT, field, value };
        let kind = match raw.kind {
            1 => StripeKind::Data,
            2 => StripeKind::Footer,
            3 => StripeKind::Checkpoint,
            4 => StripeKind::Freed,
            other => return Err(field("the kind", other.into())),
        };
        if usize::from(raw.width) > MAX_DATA || (raw.width == 0) != (raw.rows.get() == 0) {
            return Err(field("the width", raw.width.into()));
        }
        Ok(Self {
            kind,
            width: raw.width,
            shard: raw.shard.get(),
            secret: Secret(raw.secret),
            group: raw.group.get(),
            row: raw.row.get(),
            incarnation: raw.incarnation.get(),
            stripe: raw.stripe.get(),
            committed: raw.committed.get(),
            rows: raw.rows.get(),
            entries: raw.entries.get(),
            stripes: raw.stripes.get(),
            used: raw.used.get(),
            opened: raw.opened.get(),
            column_crc: raw.column_crc.map(U32::get),
        })
    }

    /// Whether this header belongs at this place.
    ///
    /// # Errors
    /// [`FormatError::Elsewhere`], naming the first field that says otherwise.
    pub fn check_place(&self, secret: Secret, shard: u16, group: u32, row: u32) -> Result<(), FormatError> {
        let elsewhere = |field| Err(FormatError::Elsewhere { what: WHAT, field });
        match () {
            () if self.secret != secret => elsewhere("pool"),
            () if self.shard != shard => elsewhere("shard"),
            () if self.group != group => elsewhere("group"),
            () if self.row != row => elsewhere("row"),
            () => Ok(()),
        }
    }

    /// The body of a header page.
    #[must_use]
    pub fn body(page: &[u8]) -> &[u8] {
        page.get(HEADER_LEN..HEADER_LEN + BODY_LEN).unwrap_or_default()
    }

    /// Whether `entries` entries stand in the header page.
    #[must_use]
    pub const fn entries_inline(entries: u32) -> bool {
        entries as usize * ENTRY_LEN <= BODY_LEN
    }

    /// The entries of a data stripe, from its header page or, if they are not there, from the start of its payload.
    /// `None` if they are no entries, or too few bytes.
    #[must_use]
    pub fn entries(&self, bytes: &[u8]) -> Option<Vec<Entry>> {
        decode_entries(bytes, self.entries)
    }
}

/// `count` entries from `bytes`.
pub(crate) fn decode_entries(bytes: &[u8], count: u32) -> Option<Vec<Entry>> {
    let all = bytes.get(..(count as usize).checked_mul(ENTRY_LEN)?)?;
    all.chunks_exact(ENTRY_LEN).map(Entry::decode).collect()
}

/// Where a stripe with payload is in its group (16 bytes in a footer).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StripeRef {
    /// Row of the header page.
    pub row: u32,
    /// Rows of payload behind it.
    pub rows: u32,
    /// Data columns that are written.
    pub width: u8,
}

impl StripeRef {
    /// Appends its 16 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.row.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&[self.width, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// Decodes 16 bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (row, rest) = bytes.split_first_chunk::<4>()?;
        let (rows, rest) = rest.split_first_chunk::<4>()?;
        let width = *rest.first()?;
        let (row, rows) = (u32::from_le_bytes(*row), u32::from_le_bytes(*rows));
        (usize::from(width) <= MAX_DATA && (width == 0) == (rows == 0)).then_some(Self { row, rows, width })
    }
}

//! A record: a value and its trailer, and the entry that the directory of its stripe has of it.

use kvof_kv::Key;
use kvof_spec::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Secret;
use crate::checksum::Crc32c;

/// Bytes of a trailer. It stands behind the value, at the next multiple of [`UNIT`](super::UNIT), so that the value starts
/// where the record starts and is sent from where it was read.
pub const TRAILER_LEN: usize = 32;

/// What an entry says about its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// There is a value.
    Value,
    /// The key was deleted.
    Tombstone,
}

/// One change of one key, as directories and footers have it (48 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// Place in the order of all changes of the volume; the highest of a key counts.
    pub sequence: u64,
    /// Bytes of the value; 0 for a tombstone.
    pub len: u32,
    /// Where the record starts in its group, in units of 32 bytes: columns follow one another. 0 for a tombstone.
    pub location: u32,
    /// The checksum of the record ([`record_crc`]).
    pub crc: u32,
    /// The namespace's slot in the superblock.
    pub slot: u16,
    /// The namespace's generation when it was written: entries of an earlier one do not count.
    pub generation: u32,
    /// Value or tombstone.
    pub kind: EntryKind,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    key: [u8; 16],
    sequence: U64,
    len: U32,
    location: U32,
    crc: U32,
    generation: U32,
    slot: [u8; 2],
    key_len: u8,
    kind: u8,
    rsvd: U32,
}

/// What stands behind a value (32 bytes): enough that one read shows that these are the bytes of this key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Trailer {
    /// The key, zeros behind it.
    pub key: [u8; 16],
    /// As in the entry.
    pub sequence: U64,
    /// Bytes of the value.
    pub len: U32,
    /// The checksum of the record ([`record_crc`]).
    pub crc: U32,
}

const _: () = assert!(size_of::<RawEntry>() == super::ENTRY_LEN && size_of::<Trailer>() == TRAILER_LEN);

/// Where a record is: part of its checksum, so that a record in the wrong place is not taken for the right one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordContext {
    /// The pool's secret.
    pub secret: Secret,
    /// The volume's shard.
    pub shard: u16,
    /// The group.
    pub group: u32,
    /// The group's incarnation.
    pub incarnation: u64,
}

/// The checksum of a record: of its value, then of what it is and where.
///
/// The value comes first so that its own CRC-32C (the NVMe/TCP data digest) can be used: `value_crc`.
#[must_use]
pub fn record_crc(value_crc: u32, context: &RecordContext, entry: &Entry) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(&value_crc.to_le_bytes());
    crc.update(&context.secret.0);
    crc.update(&context.shard.to_le_bytes());
    crc.update(&context.group.to_le_bytes());
    crc.update(&context.incarnation.to_le_bytes());
    crc.update(&RawEntry::new(&Entry { crc: 0, ..*entry }).as_bytes()[..48]);
    crc.finish()
}

impl RawEntry {
    fn new(entry: &Entry) -> Self {
        Self {
            key: entry.key.padded(),
            sequence: entry.sequence.into(),
            len: entry.len.into(),
            location: entry.location.into(),
            crc: entry.crc.into(),
            generation: entry.generation.into(),
            slot: entry.slot.to_le_bytes(),
            key_len: entry.key.len() as u8,
            kind: match entry.kind {
                EntryKind::Value => 1,
                EntryKind::Tombstone => 2,
            },
            rsvd: 0.into(),
        }
    }
}

impl Entry {
    /// Appends its 48 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(RawEntry::new(self).as_bytes());
    }

    /// Decodes 48 bytes; `None` if they are no entry. (They come from where a checksum has been verified.)
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (raw, _) = RawEntry::ref_from_prefix(bytes).ok()?;
        Some(Self {
            key: raw.key.get(..usize::from(raw.key_len)).and_then(|key| Key::new(key).ok())?,
            sequence: raw.sequence.get(),
            len: raw.len.get(),
            location: raw.location.get(),
            crc: raw.crc.get(),
            slot: u16::from_le_bytes(raw.slot),
            generation: raw.generation.get(),
            kind: match raw.kind {
                1 => EntryKind::Value,
                2 => EntryKind::Tombstone,
                _ => return None,
            },
        })
    }

    /// The trailer of this record.
    #[must_use]
    pub fn trailer(&self) -> Trailer {
        Trailer { key: self.key.padded(), sequence: self.sequence.into(), len: self.len.into(), crc: self.crc.into() }
    }
}

/// Bytes from the start of a value to its trailer.
#[must_use]
pub const fn trailer_at(len: u32) -> usize {
    (len as usize).next_multiple_of(super::UNIT)
}

/// Bytes of a record whose value has `len` bytes.
#[must_use]
pub const fn record_len(len: u32) -> usize {
    trailer_at(len) + TRAILER_LEN
}

//! What lies on a device, byte by byte. All numbers are little-endian, all checksums CRC-32C.
//!
//! `docs/on-disk-format.md` has the same in tables, and why it is so. Every structure is decoded by a function that takes any
//! bytes and says precisely what is wrong with them; nothing that was read is used before its checksum and its bounds hold.

mod label;
mod record;
mod stripe;
mod superblock;

use thiserror::Error;

pub(crate) use self::stripe::decode_entries;
pub use self::{
    label::Label,
    record::{Entry, EntryKind, RecordContext, TRAILER_LEN, Trailer, record_crc, record_len, trailer_at},
    stripe::{ENTRY_LEN, HEADER_LEN, STRIPE_REF_LEN, StripeHeader, StripeKind, StripeRef},
    superblock::{
        CHECKPOINT_GROUPS_MAX, MEMBERS_MAX, Member, MemberState, NAMESPACES_MAX, NamespaceMode, NamespaceRecord,
        SUPERBLOCK_LEN, Superblock,
    },
};

/// Version of all that is described here.
pub const VERSION: u32 = 1;

/// Bytes of a page: what is written and read in, and what devices are aligned to.
pub const PAGE: usize = 4096;
/// Bytes between the places where a record may start.
pub const UNIT: usize = 32;
/// Bytes at the start of a device before its volumes.
pub const LABEL_AREA: u64 = 1 << 20;
/// Bytes at the start of a volume's region before its segments: the superblock slots.
pub const SUPERBLOCK_AREA: u64 = 1 << 20;
/// Bytes between the two superblock slots.
pub const SUPERBLOCK_SLOT: u64 = SUPERBLOCK_AREA / 2;

/// A UUID as it is stored.
pub type Uuid = [u8; 16];

/// Makes the headers and checksums of one pool its own, so that no value can hold bytes that would pass for a header in
/// what remains of it in free space. It is made when the pool is formatted and never leaves it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why bytes are not the structure that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FormatError {
    /// Something else, or nothing, is there.
    #[error("there is no {what}")]
    Absent {
        /// The structure.
        what: &'static str,
    },
    /// It was written by another version.
    #[error("{what} has format version {version}, this program has {VERSION}")]
    Version {
        /// The structure.
        what: &'static str,
        /// The version found.
        version: u32,
    },
    /// Its checksum does not match.
    #[error("{what} is damaged: its checksum does not match")]
    Checksum {
        /// The structure.
        what: &'static str,
    },
    /// It is whole, but says something impossible.
    #[error("{what} is damaged: {field} is {value}")]
    Field {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// It belongs to another pool, volume or place.
    #[error("{what} belongs elsewhere: its {field} differs")]
    Elsewhere {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// `a / b` rounded up, for byte counts.
#[must_use]
pub const fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE as u64)
}

/// The CRC-32C of a page whose checksum field, the last four bytes, counts as absent.
fn page_crc(page: &[u8]) -> u32 {
    crate::checksum::crc32c(page.get(..page.len().saturating_sub(4)).unwrap_or_default())
}

/// Whether the last four bytes are the checksum of the others.
fn is_whole(page: &[u8]) -> bool {
    let (_, crc) = page.split_at(page.len().saturating_sub(4));
    crc == page_crc(page).to_le_bytes()
}

fn seal(page: &mut [u8]) {
    let crc = page_crc(page).to_le_bytes();
    let at = page.len().saturating_sub(4);
    if let Some(field) = page.get_mut(at..) {
        field.copy_from_slice(&crc);
    }
}

#[cfg(test)]
mod tests;

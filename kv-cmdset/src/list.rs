//! Data that List returns (KV section 3.2.3): a count of keys, then each key with its length, padded to 4 bytes.
//!
//! ```text
//! u32 NRK                        number of keys that follow
//! NRK times: u16 KL, KL bytes of key, zeros up to a multiple of 4 bytes
//! ```

use thiserror::Error;

use crate::Key;

const COUNT_LEN: usize = 4;
const KL_LEN: usize = 2;
const ALIGN: usize = 4;

/// Bytes that a key of `key_len` bytes takes in a list: its length field, itself and padding.
#[must_use]
pub const fn entry_len(key_len: usize) -> usize {
    (KL_LEN + key_len).next_multiple_of(ALIGN)
}

/// An encoded list of keys: exactly the bytes of its count and its entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyList {
    bytes: Vec<u8>,
    count: u32,
}

impl KeyList {
    /// The bytes to transfer, at least 4, a multiple of 4.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes to transfer, as their owner.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// NRK: how many keys it has.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }
}

/// Room for the first keys of a list, bytes.
const FIRST_ROOM: usize = 4096;

/// Encodes keys until a byte limit is reached. Allocates a page at most, and then as keys come, not by the limit.
#[derive(Debug)]
pub struct ListWriter {
    bytes: Vec<u8>,
    count: u32,
    limit: usize,
}

impl ListWriter {
    /// A writer of at most `max_bytes` bytes. The count alone takes 4: with less, the list is still those 4 bytes, which
    /// [`KvCommand::validate`](crate::KvCommand::validate) rules out.
    #[must_use]
    pub fn new(max_bytes: u32) -> Self {
        let limit = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(limit.clamp(COUNT_LEN, FIRST_ROOM));
        bytes.resize(COUNT_LEN, 0);
        Self { bytes, count: 0, limit }
    }

    /// Adds `key` and says whether it fitted. If not, nothing has changed, and the list is to be finished: a later key
    /// must not take the room that this one did not have.
    #[must_use = "a key that did not fit ends the list"]
    pub fn push(&mut self, key: &Key) -> bool {
        let end = self.bytes.len().saturating_add(entry_len(key.len()));
        if end > self.limit {
            return false;
        }
        // A key has at most 16 bytes.
        #[expect(clippy::cast_possible_truncation, reason = "1 to 16")]
        let key_len = key.len() as u16;
        let [low, high] = key_len.to_le_bytes();
        // The longest entry, of which only so much is there as this key has: one copy instead of three.
        let mut entry = [0; entry_len(Key::MAX_LEN)];
        entry[..KL_LEN].copy_from_slice(&[low, high]);
        entry[KL_LEN..KL_LEN + Key::MAX_LEN].copy_from_slice(&key.padded());
        self.bytes.extend_from_slice(entry.get(..entry_len(key.len())).unwrap_or(&entry));
        // An entry has at least 4 bytes and the limit comes from 32 bits: the count cannot overflow.
        self.count = self.count.saturating_add(1);
        true
    }

    /// The list.
    #[must_use]
    pub fn finish(mut self) -> KeyList {
        if let Some(count) = self.bytes.first_chunk_mut::<COUNT_LEN>() {
            *count = self.count.to_le_bytes();
        }
        KeyList { bytes: self.bytes, count: self.count }
    }
}

/// What is wrong with a list. Offsets are in bytes from the start of the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ListError {
    /// The data cannot hold even the count.
    #[error("a key list of {len} bytes: its count alone takes 4")]
    NoCount {
        /// Bytes of data.
        len: usize,
    },
    /// The data ends within an entry.
    #[error("key {index} of {count}, at byte {offset}, needs {needed} bytes and {left} are left")]
    Truncated {
        /// Which entry, from 0.
        index: u32,
        /// NRK.
        count: u32,
        /// Where the entry starts.
        offset: usize,
        /// Bytes of the entry, as far as known.
        needed: usize,
        /// Bytes left in the data.
        left: usize,
    },
    /// A key length that is not 1 to 16.
    #[error("key {index}, at byte {offset}, has a length of {key_len} bytes: keys have 1 to 16")]
    KeyLength {
        /// Which entry, from 0.
        index: u32,
        /// Where the entry starts.
        offset: usize,
        /// Its KL field.
        key_len: u16,
    },
    /// A padding byte that is not zero.
    #[error("key {index}: padding byte {offset} is {byte:#04x} instead of zero")]
    Padding {
        /// Which entry, from 0.
        index: u32,
        /// Where the byte is.
        offset: usize,
        /// Its value.
        byte: u8,
    },
}

/// Decodes a list; an iterator over its keys that ends after the first error. Any bytes are survived, and nothing is
/// allocated.
#[derive(Clone, Debug)]
pub struct ListReader<'a> {
    bytes: &'a [u8],
    offset: usize,
    count: u32,
    index: u32,
    failed: bool,
}

impl<'a> ListReader<'a> {
    /// A reader of `bytes`, which may be longer than the list.
    ///
    /// # Errors
    /// [`ListError::NoCount`] if there are fewer than 4 bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ListError> {
        let count = bytes.first_chunk::<COUNT_LEN>().ok_or(ListError::NoCount { len: bytes.len() })?;
        Ok(Self { bytes, offset: COUNT_LEN, count: u32::from_le_bytes(*count), index: 0, failed: false })
    }

    /// NRK, as the data says; the data may be too short for so many.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Bytes read so far; after the last key, the length of the list.
    #[must_use]
    pub const fn consumed(&self) -> usize {
        self.offset
    }

    fn entry(&self) -> Result<(Key, usize), ListError> {
        let (index, offset) = (self.index, self.offset);
        let rest = self.bytes.get(offset..).unwrap_or_default();
        let truncated = |needed| ListError::Truncated { index, count: self.count, offset, needed, left: rest.len() };
        let (key_len, tail) = rest.split_first_chunk::<KL_LEN>().ok_or_else(|| truncated(KL_LEN))?;
        let key_len = u16::from_le_bytes(*key_len);
        let wrong_length = ListError::KeyLength { index, offset, key_len };
        if key_len == 0 || usize::from(key_len) > Key::MAX_LEN {
            return Err(wrong_length);
        }
        let len = entry_len(usize::from(key_len));
        let body = tail.get(..len - KL_LEN).ok_or_else(|| truncated(len))?;
        let (key, padding) = body.split_at_checked(usize::from(key_len)).ok_or(wrong_length)?;
        if let Some(at) = padding.iter().position(|b| *b != 0) {
            let byte = padding.get(at).copied().unwrap_or_default();
            return Err(ListError::Padding { index, offset: offset + KL_LEN + key.len() + at, byte });
        }
        Ok((Key::new(key).map_err(|_| wrong_length)?, len))
    }
}

impl Iterator for ListReader<'_> {
    type Item = Result<Key, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.index >= self.count {
            return None;
        }
        Some(match self.entry() {
            Ok((key, len)) => {
                self.offset += len;
                self.index += 1;
                Ok(key)
            }
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        })
    }
}

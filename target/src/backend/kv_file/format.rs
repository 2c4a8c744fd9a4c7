//! What a KV file holds, byte by byte. All numbers are little-endian, all checksums CRC-32C.
//!
//! The file is a row of blocks of 4096 bytes. Block 0 begins with the [`Superblock`]. The rest is free space and records.
//!
//! A record is a whole number of blocks: the value, zeros, and in the last 128 bytes of the last block the [`Trailer`]. With
//! the trailer at the end, the value starts at a block and is read, and sent, from where the device put it. Blocks that the
//! value fills are written from the very buffer that the socket filled. A tombstone is a block with a trailer alone.
//!
//! A record counts if its trailer is whole and carries the file's secret. The secret is made when the file is formatted
//! and never leaves it, so that no value can hold bytes that would pass for a trailer in what remains of it in free space.
//!
//! The record of a key with the highest sequence number is the one that counts; a tombstone says that there is none.

use kvof_io::{PAGE_SIZE, SharedBuf};
use kvof_kv::Key;
use kvof_spec::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::backend::disk::aligned_block;

/// Bytes of a block.
pub(super) const BLOCK: u64 = PAGE_SIZE as u64;
/// Bytes of a trailer and of the superblock.
const META_LEN: usize = 128;
/// Fewest blocks of a file: the superblock, the reserve for tombstones, and room for something.
pub(super) const MIN_BLOCKS: u64 = 64;

/// Far beyond what stores can reach, and far from overflow.
const SEQUENCE_MAX: u64 = 1 << 62;

const SUPERBLOCK_MAGIC: [u8; 8] = *b"kvofKVf\x1a";
const TRAILER_MAGIC: [u8; 8] = *b"kvofRec\x1a";
/// Version of all that is described here.
pub(super) const VERSION: u32 = 1;

const KIND_VALUE: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;

/// Makes the trailers of one file its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Secret(pub(super) [u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The start of block 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    magic: [u8; 8],
    version: U32,
    block_size: U32,
    uuid: [u8; 16],
    secret: [u8; 16],
    blocks: U64,
    durable: U64,
    rsvd: [u8; 60],
    crc: U32,
}

/// The end of the last block of a record.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTrailer {
    magic: [u8; 8],
    secret: [u8; 16],
    sequence: U64,
    durable: U64,
    block: U64,
    kind: u8,
    key_len: u8,
    rsvd: [u8; 2],
    value_len: U32,
    value_crc: U32,
    key: [u8; 16],
    rsvd2: [u8; 48],
    crc: U32,
}

const _: () = assert!(size_of::<RawSuperblock>() == META_LEN && size_of::<RawTrailer>() == META_LEN);

/// What identifies a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    /// UUID of the namespace.
    pub(super) uuid: [u8; 16],
    pub(super) secret: Secret,
    /// Blocks in use by the format, this one included.
    pub(super) blocks: u64,
    /// As [`Trailer::durable`].
    pub(super) durable: u64,
}

/// What a block 0 turned out to be.
#[derive(Debug)]
pub(super) enum Found {
    Superblock(Superblock),
    Foreign,
    Version(u32),
    Corrupt,
}

/// A record as its trailer describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trailer {
    pub(super) key: Key,
    /// Order among the records of the file, from 1.
    pub(super) sequence: u64,
    /// When this was written, every record up to this sequence number was durable (or erased): one of those whose value
    /// does not match has rotted, while a later one may just not have been finished.
    pub(super) durable: u64,
    /// The block that holds this trailer.
    pub(super) block: u64,
    pub(super) content: Content,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Value { len: u32, crc: u32 },
    Tombstone,
}

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Blocks of the record of a value of `len` bytes.
pub(super) fn record_blocks(len: u32) -> u64 {
    (u64::from(len) + META_LEN as u64).div_ceil(BLOCK)
}

/// Bytes at the start of a value of `len` that fill blocks.
pub(super) fn whole_blocks_len(len: usize) -> usize {
    len - len % PAGE_SIZE
}

impl Superblock {
    /// Block 0 with this superblock.
    pub(super) fn encode(&self) -> SharedBuf {
        let mut raw = RawSuperblock {
            magic: SUPERBLOCK_MAGIC,
            version: VERSION.into(),
            block_size: (PAGE_SIZE as u32).into(),
            uuid: self.uuid,
            secret: self.secret.0,
            blocks: self.blocks.into(),
            durable: self.durable.into(),
            rsvd: [0; 60],
            crc: 0.into(),
        };
        raw.crc = checksum(raw.as_bytes()).into();
        aligned_block(PAGE_SIZE, |block| {
            if let Some(start) = block.first_chunk_mut::<META_LEN>() {
                start.copy_from_slice(raw.as_bytes());
            }
        })
    }

    pub(super) fn decode(block: &[u8]) -> Found {
        let Ok((raw, _)) = RawSuperblock::read_from_prefix(block) else { return Found::Foreign };
        if raw.magic != SUPERBLOCK_MAGIC {
            return Found::Foreign;
        }
        if raw.version.get() != VERSION {
            return Found::Version(raw.version.get());
        }
        let sound = raw.crc.get() == checksum(raw.as_bytes())
            && u64::from(raw.block_size.get()) == BLOCK
            && raw.durable.get() <= SEQUENCE_MAX;
        if !sound {
            return Found::Corrupt;
        }
        Found::Superblock(Self {
            uuid: raw.uuid,
            secret: Secret(raw.secret),
            blocks: raw.blocks.get(),
            durable: raw.durable.get(),
        })
    }
}

impl Trailer {
    /// The end of a record: `tail` (what of the value does not fill a block), zeros, and this trailer in the end.
    pub(super) fn encode(&self, secret: Secret, tail: &[u8]) -> SharedBuf {
        let (kind, len, crc) = match self.content {
            Content::Value { len, crc } => (KIND_VALUE, len, crc),
            Content::Tombstone => (KIND_TOMBSTONE, 0, 0),
        };
        let mut raw = RawTrailer {
            magic: TRAILER_MAGIC,
            secret: secret.0,
            sequence: self.sequence.into(),
            durable: self.durable.into(),
            block: self.block.into(),
            kind,
            key_len: u8::try_from(self.key.len()).unwrap_or(0),
            rsvd: [0; 2],
            value_len: len.into(),
            value_crc: crc.into(),
            key: self.key.padded(),
            rsvd2: [0; 48],
            crc: 0.into(),
        };
        raw.crc = checksum(raw.as_bytes()).into();
        aligned_block((tail.len() + META_LEN).next_multiple_of(PAGE_SIZE), |blocks| {
            if let Some(start) = blocks.get_mut(..tail.len()) {
                start.copy_from_slice(tail);
            }
            if let Some(end) = blocks.last_chunk_mut::<META_LEN>() {
                end.copy_from_slice(raw.as_bytes());
            }
        })
    }

    /// The trailer at the end of `block`, which is block number `number` of a file with this secret; `None` if there is none.
    pub(super) fn decode(block: &[u8], number: u64, secret: Secret) -> Option<Self> {
        let raw = RawTrailer::read_from_bytes(block.last_chunk::<META_LEN>()?).ok()?;
        let whole = raw.magic == TRAILER_MAGIC
            && raw.secret == secret.0
            && raw.block.get() == number
            && raw.sequence.get() <= SEQUENCE_MAX
            && raw.durable.get() <= SEQUENCE_MAX
            && raw.crc.get() == checksum(raw.as_bytes());
        if !whole {
            return None;
        }
        let content = match raw.kind {
            KIND_VALUE => Content::Value { len: raw.value_len.get(), crc: raw.value_crc.get() },
            KIND_TOMBSTONE => Content::Tombstone,
            _ => return None,
        };
        let key = Key::new(raw.key.get(..usize::from(raw.key_len))?).ok()?;
        Some(Self { key, sequence: raw.sequence.get(), durable: raw.durable.get(), block: number, content })
    }

    pub(super) fn blocks(&self) -> u64 {
        match self.content {
            Content::Value { len, .. } => record_blocks(len),
            Content::Tombstone => 1,
        }
    }

    /// First block of the record, if it lies behind block 0.
    pub(super) fn first(&self) -> Option<u64> {
        (self.block + 1).checked_sub(self.blocks()).filter(|first| *first > 0)
    }
}

/// The checksum of a structure that ends with it.
fn checksum(raw: &[u8]) -> u32 {
    crc32c(raw.split_last_chunk::<4>().map_or(raw, |(covered, _)| covered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: Secret = Secret([7; 16]);

    fn trailer(len: u32) -> Trailer {
        let content = Content::Value { len, crc: 0x1234_5678 };
        Trailer { key: Key::new(b"key\0").unwrap(), sequence: 9, durable: 3, block: 40, content }
    }

    #[test]
    fn sizes_of_records() {
        for (len, blocks) in [(0, 1), (3968, 1), (3969, 2), (4096, 2), (8064, 2), (8065, 3), (2 << 20, 513)] {
            assert_eq!(record_blocks(len), blocks, "{len}");
        }
        assert_eq!(record_blocks(u32::MAX), (1 << 20) + 1);
    }

    #[test]
    fn superblock_reads_back_and_damage_is_seen() {
        let superblock = Superblock { uuid: [1; 16], secret: SECRET, blocks: 77, durable: 5 };
        let block = superblock.encode();
        assert_eq!(block.len(), PAGE_SIZE);
        let Found::Superblock(back) = Superblock::decode(&block) else { panic!("not recognised") };
        assert_eq!((back.uuid, back.secret, back.blocks, back.durable), ([1; 16], SECRET, 77, 5));
        let mut bytes = block.to_vec();
        bytes[50] ^= 1;
        assert!(matches!(Superblock::decode(&bytes), Found::Corrupt));
        bytes[8] = 2;
        assert!(matches!(Superblock::decode(&bytes), Found::Version(2)));
        bytes[0] = 0;
        assert!(matches!(Superblock::decode(&bytes), Found::Foreign));
        assert!(matches!(Superblock::decode(&[]), Found::Foreign));
    }

    proptest! {
        #[test]
        fn trailers_read_back_and_any_flipped_bit_unmakes_them(tail in 0usize..4096, bit in 0usize..META_LEN * 8) {
            let value: Vec<u8> = (0..tail).map(|i| i as u8 | 1).collect();
            let trailer = trailer(tail as u32);
            let blocks = trailer.encode(SECRET, &value);
            prop_assert_eq!(blocks.len() as u64, record_blocks(tail as u32) * BLOCK);
            prop_assert_eq!(blocks.as_ptr() as usize % PAGE_SIZE, 0);
            prop_assert_eq!(&blocks[..tail], &value[..]);
            prop_assert_eq!(Trailer::decode(&blocks, 40, SECRET), Some(trailer));
            prop_assert_eq!(Trailer::decode(&blocks, 41, SECRET), None);
            prop_assert_eq!(Trailer::decode(&blocks, 40, Secret([8; 16])), None);
            let mut bytes = blocks.to_vec();
            let at = bytes.len() - META_LEN + bit / 8;
            bytes[at] ^= 1 << (bit % 8);
            prop_assert_eq!(Trailer::decode(&bytes, 40, SECRET), None);
        }
    }
}

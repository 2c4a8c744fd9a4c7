//! Opening a file: formats an empty one, finds the records of any other, and repairs what a crash has left.
//!
//! The scan goes backwards, since a record ends with its trailer, and jumps over the value of each record that it meets.
//! Records that may not have been finished (those after the durable mark) are checked against their checksum; unfinished
//! ones and those that a newer record has replaced are erased before the file is served. This runs before the event loop
//! does, with plain blocking I/O.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::FileExt},
};

use kvof_io::{DiskFile, PAGE_SIZE, Pool, PoolBuf};
use kvof_kv::Key;

use super::{
    FormatError,
    alloc::Allocator,
    format::{BLOCK, Content, Found, MIN_BLOCKS, Secret, Superblock, Trailer, crc32c},
};
use crate::backend::disk::aligned_block;

/// Bytes that a file must have zeros in to count as empty: where file systems and partition tables keep their marks.
const EMPTY_LEN: usize = 128 << 10;
/// Most bytes of a read, where the pool has them.
const WINDOW_LEN: usize = 1 << 20;
/// Progress is logged each time that as many bytes have been scanned.
const PROGRESS_STEP: u64 = 16 << 30;

/// What an opened file holds.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) superblock: Superblock,
    /// The record that counts, of each key.
    pub(super) records: BTreeMap<Key, Trailer>,
    pub(super) free: Allocator,
    /// Highest sequence number in use; all up to it are durable.
    pub(super) sequence: u64,
}

/// Opens `file`, of which `size` bytes (a multiple of the block size) belong to the namespace `uuid`.
pub(super) fn recover(file: &DiskFile, uuid: [u8; 16], size: u64, pool: &Pool) -> Result<Recovered, FormatError> {
    let blocks = size / BLOCK;
    if blocks < MIN_BLOCKS {
        return Err(FormatError::TooSmall { size, least: MIN_BLOCKS * BLOCK });
    }
    if file.alignment() > PAGE_SIZE {
        return Err(FormatError::Alignment { alignment: file.alignment() });
    }
    let fd = file.as_fd().try_clone_to_owned().map_err(FormatError::io("duplicate the descriptor of"))?;
    let medium = Medium { file: File::from(fd), pool };
    let start = medium.read(0, EMPTY_LEN)?;
    if start.iter().all(|byte| *byte == 0) {
        return format(&medium, uuid, blocks);
    }
    let mut superblock = match Superblock::decode(&start) {
        Found::Superblock(superblock) => superblock,
        Found::Foreign => return Err(FormatError::Foreign),
        Found::Version(version) => return Err(FormatError::Version { version }),
        Found::Corrupt => return Err(FormatError::Corrupt),
    };
    drop(start);
    if superblock.uuid != uuid {
        let text = |uuid| uuid::Uuid::from_bytes(uuid).to_string();
        return Err(FormatError::OtherNamespace { found: text(superblock.uuid), expected: text(uuid) });
    }
    if superblock.blocks > blocks {
        return Err(FormatError::Shrunk { found: superblock.blocks.saturating_mul(BLOCK), size });
    }
    let path = file.path().display();
    let found = scan(&medium, &superblock, &path)?;
    let durable = found.iter().map(|trailer| trailer.durable).fold(superblock.durable, u64::max);
    let sequence = found.iter().map(|trailer| trailer.sequence).fold(durable, u64::max);
    let (records, leftovers) = choose(&medium, found, durable, &path)?;
    for trailer in &leftovers {
        medium.write(trailer.block * BLOCK, &aligned_block(PAGE_SIZE, |_| {}))?;
    }
    // All that was found is durable before it is served, and the erasures are before their space is used again. They also
    // are before the durable mark moves past them, which would turn what was unfinished into what has rotted.
    medium.sync()?;
    superblock = Superblock { blocks, durable: sequence, ..superblock };
    medium.write(0, &superblock.encode())?;
    medium.sync()?;
    let mut free = Allocator::default();
    let mut taken: Vec<(u64, u64)> = records.values().filter_map(|t| Some((t.first()?, t.blocks()))).collect();
    taken.sort_unstable();
    let mut next = 1;
    for (start, len) in taken {
        free.release(next, start.saturating_sub(next));
        next = start + len;
    }
    free.release(next, blocks.saturating_sub(next));
    tracing::info!(%path, keys = records.len(), erased = leftovers.len(), "KV file opened");
    Ok(Recovered { superblock, records, free, sequence })
}

fn format(medium: &Medium<'_>, uuid: [u8; 16], blocks: u64) -> Result<Recovered, FormatError> {
    let secret = Secret(uuid::Uuid::new_v4().into_bytes());
    let superblock = Superblock { uuid, secret, blocks, durable: 0 };
    medium.write(0, &superblock.encode())?;
    medium.sync()?;
    let mut free = Allocator::default();
    free.release(1, blocks - 1);
    Ok(Recovered { superblock, records: BTreeMap::new(), free, sequence: 0 })
}

/// Every record of the file, from its end to its start. They do not overlap.
fn scan(
    medium: &Medium<'_>,
    superblock: &Superblock,
    path: &std::path::Display<'_>,
) -> Result<Vec<Trailer>, FormatError> {
    let mut found = Vec::new();
    // Blocks of the file from `window_start`, as far as they have been read.
    let mut window: Option<(u64, PoolBuf)> = None;
    let mut end = superblock.blocks;
    let mut next_report = end.saturating_sub(PROGRESS_STEP / BLOCK);
    while let Some(block) = end.checked_sub(1).filter(|block| *block > 0) {
        if end <= next_report {
            next_report = end.saturating_sub(PROGRESS_STEP / BLOCK);
            let percent = (superblock.blocks - end) * 100 / superblock.blocks;
            tracing::info!(%path, percent, keys = found.len(), "scanning the KV file");
        }
        let bytes = match &window {
            Some((start, bytes)) if block >= *start => block_of(bytes, block - start),
            _ => {
                let len = usize::try_from(block * BLOCK).map_or(WINDOW_LEN, |before| before.min(WINDOW_LEN));
                let start = end - len as u64 / BLOCK;
                // The old window goes first, so that a small pool has room for the new one.
                drop(window.take());
                let (_, bytes) = window.insert((start, medium.read(start * BLOCK, len)?));
                block_of(bytes, block - start)
            }
        };
        end = match Trailer::decode(bytes, block, superblock.secret).and_then(|t| Some((t, t.first()?))) {
            Some((trailer, first)) => {
                found.push(trailer);
                first
            }
            None => block,
        };
    }
    Ok(found)
}

fn block_of(bytes: &[u8], index: u64) -> &[u8] {
    let start = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(PAGE_SIZE);
    bytes.get(start..).and_then(|rest| rest.get(..PAGE_SIZE)).unwrap_or_default()
}

/// The record that counts of each key, and the trailers to erase.
fn choose(
    medium: &Medium<'_>,
    found: Vec<Trailer>,
    durable: u64,
    path: &std::path::Display<'_>,
) -> Result<(BTreeMap<Key, Trailer>, Vec<Trailer>), FormatError> {
    let mut newest: BTreeMap<Key, Trailer> = BTreeMap::new();
    let mut leftovers = Vec::new();
    for trailer in found {
        if trailer.sequence > durable && !medium.is_whole(&trailer)? {
            tracing::info!(%path, key = ?trailer.key, "dropping a value that was being stored when the target stopped");
            leftovers.push(trailer);
            continue;
        }
        match newest.get_mut(&trailer.key) {
            Some(other) if other.sequence >= trailer.sequence => leftovers.push(trailer),
            Some(other) => leftovers.push(std::mem::replace(other, trailer)),
            None => {
                newest.insert(trailer.key, trailer);
            }
        }
    }
    // Tombstones stay where they are until their block is used again: they only speak of older records, and to erase them
    // before those would bring the older ones back.
    newest.retain(|_, trailer| trailer.content != Content::Tombstone);
    leftovers.retain(|trailer| trailer.content != Content::Tombstone);
    Ok((newest, leftovers))
}

/// The file, before the event loop has it.
struct Medium<'a> {
    file: File,
    pool: &'a Pool,
}

impl Medium<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<PoolBuf, FormatError> {
        let mut buf = self.pool.alloc(len).ok_or(FormatError::NoMemory { len })?;
        self.file.read_exact_at(&mut buf, offset).map_err(FormatError::io("read"))?;
        Ok(buf)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), FormatError> {
        self.file.write_all_at(bytes, offset).map_err(FormatError::io("write"))
    }

    fn sync(&self) -> Result<(), FormatError> {
        self.file.sync_data().map_err(FormatError::io("sync"))
    }

    /// Whether a record's value matches its checksum. A value that cannot be read does not.
    fn is_whole(&self, trailer: &Trailer) -> Result<bool, FormatError> {
        let (Content::Value { len, crc }, Some(first)) = (trailer.content, trailer.first()) else { return Ok(true) };
        let len = len as usize;
        match self.read(first * BLOCK, len.next_multiple_of(PAGE_SIZE)) {
            Ok(bytes) => Ok(bytes.get(..len).is_some_and(|value| crc32c(value) == crc)),
            Err(FormatError::Io { source, .. }) if source.kind() != io::ErrorKind::UnexpectedEof => {
                tracing::error!(key = ?trailer.key, error = %source, "cannot read a value");
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }
}

//! Memory of a block namespace that every core reads and writes without a lock.
//!
//! Invariant: the mapping is only ever accessed as aligned 64-bit atomics, or by the kernel on our behalf, so concurrent copies cannot be
//! a data race. Two copies that overlap may interleave at 8-byte steps; whoever needs more than that orders the commands.

use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvof_rdma::Registrations;

use crate::mem;
use crate::prefetch::{LINE, far_line};

mod words;

pub use words::publish_writes;

const WORD: usize = 8;
/// Slices that are longer are not prefetched: of so many lines asked for at once the processor drops most. They are touched when they are sent.
pub(crate) const PREFETCH_MAX: usize = 16 << 10;
/// What is written to a region of at most this length is left in the caches. Blocks of a longer one are seldom there when they are written,
/// nor soon read again: such writes pass the caches, and what is read is fetched in another order. See "What was tried" in docs/performance.md.
const CACHED_MAX: usize = 32 << 20;

/// Zeroed memory of fixed length, shared by its clones. Huge pages are asked for from 2 MiB upwards.
#[derive(Debug, Clone)]
pub struct Region {
    mapping: Arc<Mapping>,
}

/// Why an access to a [`Region`] was refused. Nothing was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// The bytes asked for are not all within the region.
    #[error("{len} bytes at offset {offset} reach beyond the region of {size} bytes")]
    OutOfBounds {
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        len: usize,
        /// Length of the region in bytes.
        size: usize,
    },
    /// Offset or length is not a multiple of 8 bytes: words are never split, so that a write cannot undo a neighbour's.
    #[error("{len} bytes at offset {offset}: offset and length must be multiples of 8 bytes")]
    Unaligned {
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        len: usize,
    },
}

impl Region {
    /// A region of `len` zero bytes. An error of kind `InvalidInput` if `len` is 0 or no multiple of 8, else whatever the system says.
    pub fn new(len: usize) -> io::Result<Self> {
        if !len.is_multiple_of(WORD) {
            let text = format!("a region of {len} bytes: the length must be a multiple of 8 bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let start = mem::map_zeroed(len)?;
        Ok(Self { mapping: Arc::new(Mapping { start, len, registrations: Registrations::new() }) })
    }

    /// Length in bytes, never 0.
    #[expect(clippy::len_without_is_empty, reason = "a region of no bytes cannot be made")]
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Copies `src` to the bytes from `offset`. This thread sees them at once, all others and devices when it has sent something by a
    /// [`TxQueue`](crate::TxQueue) or called [`publish_writes`](crate::publish_writes).
    pub fn copy_in(&self, offset: u64, src: &[u8]) -> Result<(), RegionError> {
        let words = self.words(offset, src.len())?;
        if self.len() > CACHED_MAX {
            words::stream(words, src);
        } else {
            words::store(words, src);
        }
        Ok(())
    }

    /// Copies the bytes from `offset` to `dst`.
    pub fn copy_out(&self, offset: u64, dst: &mut [u8]) -> Result<(), RegionError> {
        let words = self.words(offset, dst.len())?;
        if self.len() > CACHED_MAX {
            words::load_far(words, dst);
        } else {
            words::load(words, dst);
        }
        Ok(())
    }

    /// Sets `len` bytes from `offset` to `value`.
    pub fn fill(&self, offset: u64, len: usize, value: u8) -> Result<(), RegionError> {
        let value = u64::from_ne_bytes([value; WORD]);
        for word in self.words(offset, len)? {
            word.store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A part of the region that the kernel can send. It need not be aligned; it shows what the region holds when it is sent.
    pub fn slice(&self, offset: u64, len: usize) -> Result<RegionSlice, RegionError> {
        let at = self.check(offset, len)?;
        Ok(RegionSlice { region: self.clone(), at, len })
    }

    /// Asks the processor to bring `len` bytes from `offset` closer, for whoever copies them soon; nothing happens beyond 16 KiB, or beyond the
    /// region's end.
    pub fn prefetch(&self, offset: u64, len: usize) {
        if len <= PREFETCH_MAX
            && let Ok(at) = self.check(offset, len)
        {
            let start = self.mapping.start.as_ptr().cast_const();
            (at..at + len).step_by(LINE).for_each(|at| far_line(start.wrapping_add(at)));
        }
    }

    fn check(&self, offset: u64, len: usize) -> Result<usize, RegionError> {
        let size = self.mapping.len;
        let start = usize::try_from(offset).ok();
        match start.and_then(|at| at.checked_add(len)).zip(start) {
            Some((end, at)) if end <= size => Ok(at),
            _ => Err(RegionError::OutOfBounds { offset, len, size }),
        }
    }

    fn words(&self, offset: u64, len: usize) -> Result<&[AtomicU64], RegionError> {
        let at = self.check(offset, len)?;
        if !at.is_multiple_of(WORD) || !len.is_multiple_of(WORD) {
            return Err(RegionError::Unaligned { offset, len });
        }
        let all = self.mapping.words();
        all.get(at / WORD..(at + len) / WORD).ok_or(RegionError::OutOfBounds { offset, len, size: self.mapping.len })
    }
}

/// A part of a [`Region`], within its bounds, that keeps the region alive.
#[derive(Debug, Clone)]
pub struct RegionSlice {
    region: Region,
    at: usize,
    len: usize,
}

impl RegionSlice {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the slice has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same without the bytes from `len` on; no effect if there are none.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The same without its first `count` bytes, or without any.
    pub(crate) fn skip(&mut self, count: usize) {
        let count = count.min(self.len);
        (self.at, self.len) = (self.at + count, self.len - count);
    }

    /// The part of `len` bytes from `offset`; `None` if there are not as many.
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| Self { region: self.region.clone(), at: self.at + offset, len })
    }

    /// Copies the bytes from `offset` to `dst`, as they are now. The part's first byte, `offset` and the length of `dst` are multiples of 8.
    pub fn copy_out(&self, offset: usize, dst: &mut [u8]) -> Result<(), RegionError> {
        match offset.checked_add(dst.len()) {
            Some(end) if end <= self.len => self.region.copy_out((self.at + offset) as u64, dst),
            _ => Err(RegionError::OutOfBounds { offset: offset as u64, len: dst.len(), size: self.len }),
        }
    }

    /// Reads a word of every cache line of `len` bytes from `offset`; a range that the slice does not have is cut.
    pub(crate) fn touch(&self, offset: usize, len: usize) {
        let from = (self.at + offset.min(self.len)) / WORD;
        let to = (self.at + offset.saturating_add(len).min(self.len)).div_ceil(WORD);
        let words = self.region.mapping.words().get(from..to).unwrap_or_default();
        std::hint::black_box(words.iter().step_by(64 / WORD).fold(0, |sum, word| sum ^ word.load(Ordering::Relaxed)));
    }

    /// Appends the bytes to `out`, as they are now.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        let first = self.at - self.at % WORD;
        let end = (self.at + self.len).next_multiple_of(WORD);
        let mut copy = vec![0; end - first];
        // A mapping is made of whole words, so the widened range is in it too.
        if self.region.copy_out(first as u64, &mut copy).is_ok() {
            out.extend_from_slice(copy.get(self.at - first..self.at - first + self.len).unwrap_or_default());
        }
    }

    /// Where the bytes are, for the kernel alone: others may be writing them.
    pub(crate) fn start(&self) -> *const u8 {
        // SAFETY: `at` is at most the length of the mapping, checked when the slice was made.
        unsafe { self.region.mapping.start.as_ptr().cast_const().add(self.at) }
    }

    /// The memory that the bytes lie in: where it begins, its length, its RDMA keys.
    pub(crate) fn memory(&self) -> (*mut u8, usize, &Registrations) {
        let mapping = &*self.region.mapping;
        (mapping.start.as_ptr(), mapping.len, &mapping.registrations)
    }
}

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
    registrations: Registrations,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access goes through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, zeroed, `len` bytes long, lives as long as `self`, and is accessed as atomics alone.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.len / WORD) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.registrations = Registrations::new();
        // SAFETY: mapped with this length by `Region::new`; the last owner is going, so nothing refers to it.
        unsafe { mem::unmap(self.start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flag that is set with an ordinary store, as on x86-64, could overtake writes that pass the caches.
    #[test]
    fn others_see_what_was_published_of_a_region_that_no_cache_holds() {
        const BLOCK: usize = 4096;
        const ROUNDS: u64 = if cfg!(miri) { 10 } else { 20_000 };
        let region = Region::new(CACHED_MAX + BLOCK).unwrap();
        let place = |round: u64| round * 7919 % (region.len() / BLOCK) as u64 * BLOCK as u64;
        let (written, read) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    region.copy_in(place(round), round.to_le_bytes().repeat(BLOCK / 8).as_slice()).unwrap();
                    publish_writes();
                    written.store(round, Ordering::Release);
                    while read.load(Ordering::Acquire) < round {
                        std::thread::yield_now();
                    }
                }
            });
            let mut block = vec![0; BLOCK];
            for round in 1..=ROUNDS {
                while written.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                region.copy_out(place(round), &mut block).unwrap();
                assert!(block.as_chunks::<8>().0.iter().all(|word| *word == round.to_le_bytes()), "round {round}");
                read.store(round, Ordering::Release);
            }
        });
    }

    #[test]
    fn copies_are_exact_and_bounded() {
        let region = Region::new(4096).unwrap();
        let src: Vec<u8> = (0..512u32).map(|i| (i % 251) as u8).collect();
        region.copy_in(1024, &src).unwrap();
        let mut all = vec![0xffu8; 4096];
        region.copy_out(0, &mut all).unwrap();
        assert!(all[..1024].iter().all(|b| *b == 0));
        assert_eq!(&all[1024..1536], &src[..]);
        assert!(all[1536..].iter().all(|b| *b == 0));
        region.fill(1032, 16, 0xab).unwrap();
        region.copy_out(0, &mut all).unwrap();
        assert_eq!(&all[1024..1032], &src[..8]);
        assert_eq!(&all[1032..1048], &[0xab; 16]);
        assert_eq!(&all[1048..1536], &src[24..]);
        region.copy_in(4096, &[]).unwrap();
        region.copy_in(4088, &[1; 8]).unwrap();
        for (offset, len) in [(4096, 8), (4088, 16), (u64::MAX, 8), (u64::MAX - 7, 8), (0, 4104)] {
            let expected = Err(RegionError::OutOfBounds { offset, len, size: 4096 });
            assert_eq!(region.copy_in(offset, &vec![0; len]), expected);
            assert_eq!(region.copy_out(offset, &mut vec![0; len]), expected);
            assert_eq!(region.fill(offset, len, 0), expected);
            assert!(region.slice(offset, len).is_err());
        }
        assert_eq!(
            region.fill(0, usize::MAX, 0),
            Err(RegionError::OutOfBounds { offset: 0, len: usize::MAX, size: 4096 })
        );
        assert_eq!(region.copy_in(4, &[0; 8]), Err(RegionError::Unaligned { offset: 4, len: 8 }));
        assert_eq!(region.copy_in(8, &[0; 7]), Err(RegionError::Unaligned { offset: 8, len: 7 }));
        assert_eq!(region.slice(3, 5).unwrap().len(), 5);
    }

    #[test]
    fn odd_lengths_are_refused() {
        assert_eq!(Region::new(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Region::new(4097).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Region::new(8).unwrap().len(), 8);
    }

    #[test]
    fn concurrent_writers_keep_words_whole_and_neighbours_intact() {
        const BLOCK: usize = 512;
        let region = Region::new(4 * BLOCK).unwrap();
        std::thread::scope(|s| {
            // Writers 0 and 1 share the first block, writer 2 owns the second, a reader looks on.
            for id in 0..3u8 {
                let region = region.clone();
                s.spawn(move || {
                    let offset = if id == 2 { BLOCK as u64 } else { 0 };
                    for round in 0..2000u32 {
                        let fill = (round as u8 & 0x3f) | (id << 6);
                        region.copy_in(offset, &[fill; BLOCK]).unwrap();
                    }
                });
            }
            let region = region.clone();
            s.spawn(move || {
                let mut seen = [0u8; 2 * BLOCK];
                for _ in 0..2000 {
                    region.copy_out(0, &mut seen).unwrap();
                    for word in seen.as_chunks::<8>().0 {
                        assert!(word.iter().all(|b| *b == word[0]), "torn word {word:?}");
                    }
                    assert!(seen[BLOCK..].iter().all(|b| *b == 0 || b >> 6 == 2));
                }
            });
        });
        let mut end = [0u8; 4 * BLOCK];
        region.copy_out(0, &mut end).unwrap();
        assert_eq!(&end[BLOCK..2 * BLOCK], &[(1999u32 as u8 & 0x3f) | 0x80; BLOCK]);
        assert!(end[2 * BLOCK..].iter().all(|b| *b == 0));
    }
}

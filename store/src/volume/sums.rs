//! Checksums and parity of a stripe's large values, strip by strip: all that has to be read of them is read once, and whoever
//! drives the volume may do something else between two strips.

use kvof_io::{Pool, PoolBuf, SharedBuf};

use super::{
    change::{Change, Content},
    layout::{LARGE, Layout, Spot},
};
use crate::{
    checksum::{Crc32c, combine, crc32c},
    ec::ErasureCode,
    format::PAGE,
    geometry::Geometry,
};

/// About as many bytes are read for one strip, of all columns together.
const STRIP: usize = 256 << 10;

/// The whole pages of a large value that lie in one column.
#[derive(Debug)]
struct Part {
    /// Which of the batch has the value.
    change: usize,
    bytes: SharedBuf,
    column: usize,
    /// First byte in the column.
    at: usize,
    crc: Crc32c,
}

/// What is known of a stripe's payload before its records are.
#[derive(Debug)]
pub(super) struct Sums {
    /// In the order of the stream.
    parts: Vec<Part>,
    parity: Vec<PoolBuf>,
    /// Bytes of a column, of which those before `done` are summed, `strip` at a time.
    height: usize,
    done: usize,
    strip: usize,
}

impl Sums {
    /// Of a stripe of so many rows, without large values; `None` if `scratch` has no memory for its parity now.
    pub(super) fn new(geometry: &Geometry, scratch: &Pool, rows: u32) -> Option<Self> {
        let height = rows as usize * PAGE;
        let columns = if height > 0 { geometry.m() } else { 0 };
        let parity = (0..columns).map(|_| scratch.alloc(height)).collect::<Option<Vec<_>>>()?;
        let strip = (STRIP / geometry.k().max(1)).next_multiple_of(PAGE);
        Some(Self { parts: Vec::new(), parity, height, done: 0, strip })
    }

    /// Of the stripe that `batch` becomes.
    pub(super) fn of(geometry: &Geometry, scratch: &Pool, batch: &[Change], layout: &Layout) -> Option<Self> {
        let mut sums = Self::new(geometry, scratch, layout.rows)?;
        for (n, (change, spot)) in batch.iter().zip(&layout.spots).enumerate() {
            if let (Content::Value(value, _), Spot::Stream(start)) = (&change.content, *spot)
                && value.len() >= LARGE
            {
                sums.add(n, value, start as usize)?;
            }
        }
        Some(sums)
    }

    /// Adds the whole pages of a value that begins at byte `start` of the stream.
    fn add(&mut self, change: usize, value: &SharedBuf, start: usize) -> Option<()> {
        let whole = value.len() / PAGE * PAGE;
        let mut from = 0;
        while from < whole {
            let (column, at) = ((start + from) / self.height, (start + from) % self.height);
            let to = whole.min(from + self.height - at);
            self.parts.push(Part { change, bytes: value.slice(from..to)?, column, at, crc: Crc32c::new() });
            from = to;
        }
        Some(())
    }

    /// Bytes of large values.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    pub(super) const fn is_done(&self) -> bool {
        self.done >= self.height
    }

    /// Sums one strip.
    pub(super) fn work(&mut self, code: &dyn ErasureCode) {
        let (start, end) = (self.done, (self.done + self.strip).min(self.height));
        for buf in &mut self.parity {
            buf.get_mut(start..end).unwrap_or_default().fill(0);
        }
        for part in &mut self.parts {
            let (from, to) = (start.max(part.at), end.min(part.at + part.bytes.len()));
            if from >= to {
                continue;
            }
            let bytes = part.bytes.get(from - part.at..to - part.at).unwrap_or_default();
            part.crc.update(bytes);
            add_parity(code, part.column, from, bytes, &mut self.parity);
        }
        self.done = end;
    }

    /// The CRC-32C of the value of change `n`.
    pub(super) fn value_crc(&self, n: usize, value: &[u8]) -> u32 {
        let (mut crc, mut known) = (0, 0);
        for part in self.parts.iter().filter(|part| part.change == n) {
            crc = combine(crc, part.crc.finish(), part.bytes.len() as u64);
            known += part.bytes.len();
        }
        let rest = value.get(known..).unwrap_or_default();
        combine(crc, crc32c(rest), rest.len() as u64)
    }

    /// Adds everything else to the parity, and gives that with the CRC-32C of each of `columns`, the parity last.
    pub(super) fn finish(mut self, code: &dyn ErasureCode, columns: &[Vec<SharedBuf>]) -> (Vec<u32>, Vec<SharedBuf>) {
        let mut parts = self.parts.iter().peekable();
        let mut crcs = Vec::with_capacity(columns.len() + self.parity.len());
        let mut others: Vec<(usize, usize, &SharedBuf)> = Vec::new();
        for (number, column) in columns.iter().enumerate() {
            let (mut crc, mut at) = (0, 0);
            for piece in column {
                let is_part = |part: &&Part| {
                    (part.column, part.at, part.bytes.len()) == (number, at, piece.len())
                        && part.bytes.as_ptr() == piece.as_ptr()
                };
                let piece_crc = match parts.next_if(is_part) {
                    Some(part) => part.crc.finish(),
                    None => {
                        others.push((number, at, piece));
                        crc32c(piece)
                    }
                };
                crc = combine(crc, piece_crc, piece.len() as u64);
                at += piece.len();
            }
            crcs.push(crc);
        }
        debug_assert!(parts.peek().is_none() && self.is_done(), "every part is somewhere in its column");
        // In strips that stay in the cache: each strip of parity is touched once for every column.
        let strips = if self.parity.is_empty() { 0 } else { self.height.div_ceil(self.strip) };
        for (start, end) in (0..strips).map(|n| (n * self.strip, (n + 1) * self.strip)) {
            for (column, at, piece) in &others {
                let (from, to) = (start.max(*at), end.min(at + piece.len()));
                if from < to {
                    let bytes = piece.get(from - at..to - at).unwrap_or_default();
                    add_parity(code, *column, from, bytes, &mut self.parity);
                }
            }
        }
        let parity: Vec<SharedBuf> = self.parity.into_iter().map(PoolBuf::freeze).collect();
        crcs.extend(parity.iter().map(|buf| crc32c(buf)));
        (crcs, parity)
    }
}

/// Adds the bytes of a column from `at` on to the parity.
fn add_parity(code: &dyn ErasureCode, column: usize, at: usize, bytes: &[u8], parity: &mut [PoolBuf]) {
    if parity.is_empty() {
        return;
    }
    let mut targets: Vec<&mut [u8]> = parity.iter_mut().filter_map(|buf| buf.get_mut(at..at + bytes.len())).collect();
    code.update(column, bytes, &mut targets);
}

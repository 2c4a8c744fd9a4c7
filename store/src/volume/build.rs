//! Puts a stripe together: its columns, parity, checksums and header page.

use kvof_io::{Pool, PoolBuf, SharedBuf};

use crate::{
    checksum::Crc32c,
    ec::ErasureCode,
    format::{PAGE, StripeHeader},
    geometry::Geometry,
};

/// A stripe that is ready to be written.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) header: StripeHeader,
    pub(super) header_page: SharedBuf,
    /// For each column of the group its payload: `rows` pages, or nothing.
    pub(super) columns: Vec<Vec<SharedBuf>>,
}

/// A stretch of the payload stream.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// These bytes, whole pages.
    Bytes(SharedBuf),
    /// Pages of zeros.
    Zeros(usize),
}

/// Zero pages to write where a stripe has gaps.
#[derive(Debug, Clone)]
pub(super) struct Zeros(SharedBuf);

impl Zeros {
    const PAGES: usize = 64;

    /// `None` if there is no memory.
    pub(super) fn new(scratch: &Pool) -> Option<Self> {
        let mut buf = scratch.alloc(Self::PAGES * PAGE)?;
        buf.fill(0);
        Some(Self(buf.freeze()))
    }

    /// One page of zeros.
    pub(super) fn page(&self) -> Option<SharedBuf> {
        self.0.slice(..PAGE)
    }

    fn append(&self, mut pages: usize, out: &mut Vec<SharedBuf>) {
        while pages > 0 {
            let now = pages.min(Self::PAGES);
            out.extend(self.0.slice(..now * PAGE));
            pages -= now;
        }
    }
}

/// A page-aligned copy of `bytes`, padded with zeros to whole pages.
pub(super) fn paged(scratch: &Pool, bytes: &[u8]) -> Option<SharedBuf> {
    let mut buf = scratch.alloc(bytes.len().next_multiple_of(PAGE))?;
    let (head, tail) = buf.split_at_mut(bytes.len());
    head.copy_from_slice(bytes);
    tail.fill(0);
    Some(buf.freeze())
}

/// A page of zeros to write to; `None` if `scratch` has no memory for it now.
pub(super) fn blank(scratch: &Pool) -> Option<PoolBuf> {
    let mut page = scratch.alloc(PAGE)?;
    page.fill(0);
    Some(page)
}

/// Builds a stripe of `header.width` columns of `header.rows` pages from its stream. `page` becomes the header page: what is to
/// stand behind the header is there already. `None` if `scratch` has no memory for it now.
pub(super) fn build(
    geometry: &Geometry,
    code: &dyn ErasureCode,
    scratch: &Pool,
    zeros: &Zeros,
    mut header: StripeHeader,
    mut page: PoolBuf,
    stream: &[Piece],
) -> Option<Built> {
    let rows = header.rows as usize;
    let mut columns = cut(stream, rows, usize::from(header.width), zeros);
    let mut parity: Vec<PoolBuf> = Vec::new();
    if rows > 0 {
        for _ in 0..geometry.m() {
            let mut buf = scratch.alloc(rows * PAGE)?;
            buf.fill(0);
            parity.push(buf);
        }
        add_parity(code, &columns, &mut parity);
    }
    for (crc, column) in header.column_crc.iter_mut().zip(&columns) {
        *crc = pieces_crc(column);
    }
    columns.resize(geometry.k(), Vec::new());
    for (buf, crc) in parity.into_iter().zip(header.column_crc.iter_mut().skip(geometry.k())) {
        let buf = buf.freeze();
        *crc = pieces_crc(std::slice::from_ref(&buf));
        columns.push(vec![buf]);
    }
    columns.resize(geometry.width(), Vec::new());
    header.write(&mut page);
    Some(Built { header, header_page: page.freeze(), columns })
}

fn pieces_crc(pieces: &[SharedBuf]) -> u32 {
    let mut crc = Crc32c::new();
    for piece in pieces {
        crc.update(piece);
    }
    crc.finish()
}

/// Cuts the stream into `width` columns of `rows` pages; the last one ends with zeros.
fn cut(stream: &[Piece], rows: usize, width: usize, zeros: &Zeros) -> Vec<Vec<SharedBuf>> {
    let mut columns = vec![Vec::new(); width];
    let mut page = 0;
    let mut put = |piece: &Piece| {
        let pages = match piece {
            Piece::Bytes(bytes) => bytes.len() / PAGE,
            Piece::Zeros(pages) => *pages,
        };
        let mut done = 0;
        while done < pages {
            let Some(column) = page_column(&mut columns, page, rows) else { return };
            let now = (pages - done).min(rows - page % rows);
            match piece {
                Piece::Bytes(bytes) => column.extend(bytes.slice(done * PAGE..(done + now) * PAGE)),
                Piece::Zeros(_) => zeros.append(now, column),
            }
            done += now;
            page += now;
        }
    };
    stream.iter().for_each(&mut put);
    put(&Piece::Zeros(rows * width));
    columns
}

fn page_column(columns: &mut [Vec<SharedBuf>], page: usize, rows: usize) -> Option<&mut Vec<SharedBuf>> {
    columns.get_mut(page.checked_div(rows)?)
}

fn add_parity(code: &dyn ErasureCode, columns: &[Vec<SharedBuf>], parity: &mut [PoolBuf]) {
    // In strips that stay in the cache: each strip of parity is touched once for every column.
    const STRIP: usize = 64 << 10;
    if parity.is_empty() {
        return;
    }
    let height = parity.first().map_or(0, |buf| buf.len());
    let mut cursors = vec![(0usize, 0usize); columns.len()];
    let mut strip = 0;
    while strip < height {
        let end = (strip + STRIP).min(height);
        for (number, (column, (piece, offset))) in columns.iter().zip(cursors.iter_mut()).enumerate() {
            let mut at = strip;
            while at < end {
                let Some(bytes) = column.get(*piece).and_then(|bytes| bytes.get(*offset..)) else { break };
                let now = bytes.len().min(end - at);
                let mut targets: Vec<&mut [u8]> =
                    parity.iter_mut().filter_map(|buf| buf.get_mut(at..at + now)).collect();
                code.update(number, bytes.get(..now).unwrap_or_default(), &mut targets);
                at += now;
                *offset += now;
                if now == bytes.len() {
                    *piece += 1;
                    *offset = 0;
                }
            }
        }
        strip = end;
    }
}

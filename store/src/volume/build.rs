//! Puts a stripe together: its columns, parity, checksums and header page.

use kvof_io::{Pool, PoolBuf, SharedBuf};

use super::sums::Sums;
use crate::{
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

/// Builds a stripe of `header.width` columns of `header.rows` pages from its stream, of whose large values `sums` has all that is to
/// be known. `page` becomes the header page: what is to stand behind the header is there already.
pub(super) fn build(
    geometry: &Geometry,
    code: &dyn ErasureCode,
    zeros: &Zeros,
    mut header: StripeHeader,
    mut page: PoolBuf,
    stream: &[Piece],
    sums: Sums,
) -> Built {
    let width = usize::from(header.width);
    let mut columns = cut(stream, header.rows as usize, width, zeros);
    let (crcs, parity) = sums.finish(code, &columns);
    let (data, redundant) = crcs.split_at(width.min(crcs.len()));
    header.column_crc.iter_mut().zip(data).for_each(|(to, crc)| *to = *crc);
    header.column_crc.iter_mut().skip(geometry.k()).zip(redundant).for_each(|(to, crc)| *to = *crc);
    columns.resize(geometry.k(), Vec::new());
    columns.extend(parity.into_iter().map(|buf| vec![buf]));
    columns.resize(geometry.width(), Vec::new());
    header.write(&mut page);
    Built { header, header_page: page.freeze(), columns }
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

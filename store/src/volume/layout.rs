//! How the records of a batch are laid out in a stripe.

use crate::format::{ENTRY_LEN, HEADER_LEN, PAGE, StripeHeader, UNIT, record_len};

/// Values of at least this many bytes start at a page and are written from where they were received. Smaller ones are
/// copied together: the copy costs less than the rest of their last pages.
pub(super) const LARGE: usize = 128 << 10;
/// A stripe may be this much taller than its bytes need, in 1/n, so that large values stay whole in one column.
const PAD: usize = 32;

/// Where a record of a batch goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spot {
    /// Nowhere: it has no value (tombstone).
    None,
    /// In the header page, at this byte of it.
    Header(usize),
    /// In the payload, at this byte of the stream.
    Stream(u64),
}

/// The layout of a stripe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// Rows of payload.
    pub(super) rows: u32,
    /// Columns with payload.
    pub(super) width: u8,
    /// For each record of the batch.
    pub(super) spots: Vec<Spot>,
    /// Bytes at the start of the stream for entries (if they are not in the header page) and small records; whole pages.
    pub(super) packed: usize,
}

/// Lays out records of these lengths (`None` for tombstones) over `k` columns.
pub(super) fn layout(lens: &[Option<u32>], k: usize) -> Layout {
    let entries = lens.len() * ENTRY_LEN;
    let inline = entries <= StripeHeader::ROOM;
    if let Some(spots) = in_header(lens, entries) {
        return Layout { rows: 0, width: 0, spots, packed: 0 };
    }
    let mut spots = vec![Spot::None; lens.len()];
    let mut at = if inline { 0 } else { entries.next_multiple_of(UNIT) };
    for (spot, len) in spots.iter_mut().zip(lens) {
        if let Some(len) = len.filter(|len| (*len as usize) < LARGE) {
            *spot = Spot::Stream(at as u64);
            at += record_len(len);
        }
    }
    let packed = at.next_multiple_of(PAGE);
    let first = packed / PAGE;
    let large: Vec<usize> = lens
        .iter()
        .flatten()
        .filter(|len| **len as usize >= LARGE)
        .map(|len| record_len(*len).div_ceil(PAGE))
        .collect();
    let total = first + large.iter().sum::<usize>();
    let least = total.div_ceil(k);
    let mut rows = least;
    let starts = loop {
        if let Some(starts) = whole(first, &large, rows, k) {
            break starts;
        }
        rows += (least / (2 * PAD)).max(1);
        if rows > least + least / PAD {
            rows = least;
            break consecutive(first, &large);
        }
    };
    let end = starts.last().zip(large.last()).map_or(first, |(start, pages)| start + pages);
    let mut starts = starts.into_iter();
    for (spot, len) in spots.iter_mut().zip(lens) {
        if len.is_some_and(|len| len as usize >= LARGE) {
            *spot = starts.next().map_or(Spot::None, |page| Spot::Stream((page * PAGE) as u64));
        }
    }
    Layout { rows: rows as u32, width: end.div_ceil(rows.max(1)) as u8, spots, packed }
}

fn in_header(lens: &[Option<u32>], entries: usize) -> Option<Vec<Spot>> {
    let room = HEADER_LEN + StripeHeader::ROOM;
    let mut at = (HEADER_LEN + entries).next_multiple_of(UNIT);
    if HEADER_LEN + entries > room {
        return None;
    }
    lens.iter()
        .map(|len| match len {
            None => Some(Spot::None),
            Some(len) => {
                let start = at;
                at = at.checked_add(record_len(*len))?;
                (at <= room).then_some(Spot::Header(start))
            }
        })
        .collect()
}

/// Start pages of the large records such that none that fits in a column runs over its foot; `None` if they do not fit in
/// `k` columns of `rows` then.
fn whole(first: usize, large: &[usize], rows: usize, k: usize) -> Option<Vec<usize>> {
    let mut page = first;
    let mut starts = Vec::with_capacity(large.len());
    for pages in large {
        let left = rows - page % rows;
        if *pages <= rows && *pages > left {
            page += left;
        }
        starts.push(page);
        page += pages;
    }
    (page <= k * rows).then_some(starts)
}

fn consecutive(first: usize, large: &[usize]) -> Vec<usize> {
    let start = |page: &mut usize, pages: &usize| {
        let start = *page;
        *page += pages;
        Some(start)
    };
    large.iter().scan(first, start).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_batch_fits_in_the_header() {
        let small = layout(&[Some(100), None, Some(0)], 4);
        assert_eq!((small.rows, small.width), (0, 0));
        assert_eq!(small.spots, [Spot::Header(320), Spot::None, Spot::Header(320 + 160)]);
        assert_eq!(layout(&[Some(4096)], 4).rows, 1);
    }

    #[test]
    fn a_lone_large_value_is_spread_and_several_stay_whole() {
        let mib = 1 << 20;
        let lone = layout(&[Some(mib)], 4);
        assert_eq!((lone.rows, lone.width, lone.packed), (65, 4, 0));
        let four = layout(&[Some(mib); 4], 4);
        assert_eq!((four.rows, four.width), (257, 4));
        let starts: Vec<_> = four.spots.iter().map(|s| matches!(s, Spot::Stream(at) if at / 4096 % 257 == 0)).collect();
        assert_eq!(starts, [true; 4]);
    }

    proptest! {
        #[test]
        fn records_do_not_meet(
            lens in proptest::collection::vec(proptest::option::weighted(0.9, prop_oneof![
                0..300u32, 0..20_000u32, 120_000..400_000u32]), 1..200),
            k in 1..=16usize,
        ) {
            let layout = layout(&lens, k);
            prop_assert!(usize::from(layout.width) <= k);
            let header_entries = StripeHeader::entries_inline(lens.len() as u32);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            if layout.rows == 0 {
                taken.push((0, (HEADER_LEN + lens.len() * ENTRY_LEN) as u64));
            } else if !header_entries {
                taken.push((0, (lens.len() * ENTRY_LEN) as u64));
            }
            for (spot, len) in layout.spots.iter().zip(&lens) {
                match (*spot, *len) {
                    (Spot::None, None) => {}
                    (Spot::Header(at), Some(len)) => {
                        prop_assert!(layout.rows == 0 && at + record_len(len) <= PAGE - 4);
                        taken.push((at as u64, (at + record_len(len)) as u64));
                    }
                    (Spot::Stream(at), Some(len)) => {
                        prop_assert!(layout.rows > 0);
                        prop_assert!(at % UNIT as u64 == 0);
                        if len as usize >= LARGE {
                            prop_assert!(at % PAGE as u64 == 0 && at >= layout.packed as u64);
                        } else {
                            prop_assert!(at as usize + record_len(len) <= layout.packed);
                        }
                        taken.push((at, at + record_len(len) as u64));
                    }
                    (spot, len) => prop_assert!(false, "{spot:?} for {len:?}"),
                }
            }
            taken.sort_unstable();
            prop_assert!(taken.windows(2).all(|w| w[0].1 <= w[1].0), "{taken:?}");
            if layout.rows > 0 {
                let end = taken.last().map_or(0, |t| t.1);
                let room = u64::from(layout.rows) * u64::from(layout.width) * PAGE as u64;
                prop_assert!(end <= room && room < end + u64::from(layout.rows) * PAGE as u64 + 1);
                let least = taken.iter().map(|(a, b)| (b - a).div_ceil(32) * 32).sum::<u64>();
                prop_assert!(u64::from(layout.rows) * k as u64 * 4096 <= least * 34 / 32 + (lens.len() * 4096 + k * 8192) as u64);
            }
        }
    }
}

//! Where a value is, in the 64 bits that the index has for it.
//!
//! | bits | short form (bit 63 clear) | long form (bit 63 set) |
//! |---|---|---|
//! | 61-62 | how often it was read lately, 0 to 3 | the same |
//! | 22-60 | place in units of 32 bytes | |
//! | 0-21 | length of the value | |
//! | 28-60 | | place in pages |
//! | 0-27 | | length of the value |
//!
//! Values of 4 MiB and more, which start at a page, have the long form. A long form with the length all ones is no value but a
//! mark: of a key that is being stored for the first time, or that was deleted, with the group of its tombstone.

use crate::{
    format::{PAGE, UNIT},
    geometry::Geometry,
    index::Meta,
};

/// Most bytes of a value.
pub(super) const VALUE_MAX: u32 = MARK - 1;

const MARK: u32 = (1 << 28) - 1;
const LONG: u64 = 1 << 63;
const HITS_AT: u32 = 61;
const PENDING: u64 = (1 << 33) - 1;
const UNITS_PER_PAGE: u64 = (PAGE / UNIT) as u64;

/// What the index has of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Its value.
    Value(Place),
    /// It was deleted; its tombstone is in this group.
    Tombstone(u32),
    /// It is being stored for the first time.
    Pending,
}

/// Where a value is, and its length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) group: u32,
    /// Units of 32 bytes in the group.
    pub(super) location: u32,
    pub(super) len: u32,
}

impl Place {
    pub(super) fn meta(self, geometry: &Geometry) -> Meta {
        let unit = u64::from(self.group) * geometry.group_pages() * UNITS_PER_PAGE + u64::from(self.location);
        if self.len < 1 << 22 {
            Meta(unit << 22 | u64::from(self.len))
        } else {
            Meta(LONG | (unit / UNITS_PER_PAGE) << 28 | u64::from(self.len))
        }
    }
}

pub(super) fn tombstone(geometry: &Geometry, group: u32) -> Meta {
    Meta(LONG | (u64::from(group) * geometry.group_pages()) << 28 | u64::from(MARK))
}

pub(super) const fn pending() -> Meta {
    Meta(LONG | PENDING << 28 | MARK as u64)
}

pub(super) fn find(geometry: &Geometry, meta: Meta) -> Found {
    let bits = meta.0 & !(3 << HITS_AT);
    let group_units = geometry.group_pages() * UNITS_PER_PAGE;
    let (unit, len) = if bits & LONG == 0 {
        (bits >> 22, (bits & ((1 << 22) - 1)) as u32)
    } else {
        let page = (bits & !LONG) >> 28;
        let len = (bits & u64::from(MARK)) as u32;
        if len == MARK {
            return if page == PENDING {
                Found::Pending
            } else {
                Found::Tombstone((page / geometry.group_pages()) as u32)
            };
        }
        (page * UNITS_PER_PAGE, len)
    };
    Found::Value(Place { group: (unit / group_units) as u32, location: (unit % group_units) as u32, len })
}

/// How often the value was read lately, 0 to 3.
pub(super) const fn hits(meta: Meta) -> u8 {
    (meta.0 >> HITS_AT & 3) as u8
}

/// Counts a read.
pub(super) fn hit(meta: &mut Meta) {
    if hits(*meta) < 3 {
        meta.0 += 1 << HITS_AT;
    }
}

/// The same without its reads, for comparing places.
pub(super) const fn without_hits(meta: Meta) -> Meta {
    Meta(meta.0 & !(3 << HITS_AT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec::Profile;

    #[test]
    fn places_come_back() {
        let geometry = Geometry::new(Profile::new(4, 1).unwrap(), 5, 1, 1 << 18, 3000).unwrap();
        let last = geometry.groups() - 1;
        let most = (geometry.group_pages() * UNITS_PER_PAGE - 128) as u32;
        for group in [0, 1, last] {
            for (location, len) in
                [(0, 0), (1, 100), (most, 4096), (most, (1 << 22) - 1), (most, 1 << 22), (0, VALUE_MAX)]
            {
                let place = Place { group, location, len };
                let mut meta = place.meta(&geometry);
                assert_eq!(find(&geometry, meta), Found::Value(place));
                for n in 1..5 {
                    hit(&mut meta);
                    assert_eq!(hits(meta), n.min(3));
                }
                assert_eq!((find(&geometry, meta), without_hits(meta)), (Found::Value(place), place.meta(&geometry)));
            }
            assert_eq!(find(&geometry, tombstone(&geometry, group)), Found::Tombstone(group));
        }
        assert_eq!(find(&geometry, pending()), Found::Pending);
    }
}

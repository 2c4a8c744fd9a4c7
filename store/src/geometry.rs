//! How a pool is laid out: which place of which device belongs to which column of which group.
//!
//! A device is: the label area, then one region for each shard, then a copy of the label. A region is: the superblock area,
//! then `segments` segments. A group has one segment on each of k + m devices. Groups are dealt out in cycles of n groups
//! over the n devices of the pool, so that each device has k + m segments of every cycle: group q of a cycle has its column
//! i on device (q + i) mod n. Thus data and parity wear all devices alike, and with n > k + m a rebuild reads from all.

use thiserror::Error;

use crate::{
    ec::Profile,
    format::{LABEL_AREA, MEMBERS_MAX, PAGE, SUPERBLOCK_AREA, UNIT},
};

/// Fewest pages of a segment: 1 MiB.
pub const SEGMENT_PAGES_MIN: u32 = 256;
/// Most pages of a segment: 1 GiB.
pub const SEGMENT_PAGES_MAX: u32 = 1 << 18;
/// Most shards of a pool.
pub const SHARDS_MAX: u16 = 256;
/// Fewest groups of a volume that can be worked with.
pub const GROUPS_MIN: u32 = 8;

/// The layout of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    profile: Profile,
    members: u16,
    shards: u16,
    segment_pages: u32,
    segments: u32,
}

/// Why there is no such layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum GeometryError {
    /// Fewer devices than columns, or too many.
    #[error("{members} devices: a {profile} pool has from {} to {MEMBERS_MAX}", profile.width())]
    Members {
        /// Devices.
        members: u16,
        /// The profile.
        profile: Profile,
    },
    /// No such number of shards.
    #[error("{shards} shards: a pool has from 1 to {SHARDS_MAX}")]
    Shards {
        /// Shards.
        shards: u16,
    },
    /// A segment too small or too large.
    #[error(
        "a segment of {pages} pages of 4 KiB: it has from {SEGMENT_PAGES_MIN} (1 MiB) to {SEGMENT_PAGES_MAX} (1 GiB)"
    )]
    Segment {
        /// Pages.
        pages: u32,
    },
    /// Too few segments, or more than can be addressed.
    #[error(
        "{segments} segments for each shard on a device make {groups} groups: a shard has from {GROUPS_MIN} to {most} \
         with segments of {pages} pages; use larger or smaller devices, segments, or more or fewer shards"
    )]
    Groups {
        /// Segments.
        segments: u32,
        /// Groups.
        groups: u64,
        /// Most groups.
        most: u64,
        /// Pages of a segment.
        pages: u32,
    },
}

impl Geometry {
    /// A layout; `segments` is the number of segments that a shard has on each device.
    ///
    /// # Errors
    /// [`GeometryError`].
    pub fn new(
        profile: Profile,
        members: u16,
        shards: u16,
        segment_pages: u32,
        segments: u32,
    ) -> Result<Self, GeometryError> {
        if members < u16::from(profile.width()) || usize::from(members) > MEMBERS_MAX {
            return Err(GeometryError::Members { members, profile });
        }
        if shards == 0 || shards > SHARDS_MAX {
            return Err(GeometryError::Shards { shards });
        }
        if !(SEGMENT_PAGES_MIN..=SEGMENT_PAGES_MAX).contains(&segment_pages) {
            return Err(GeometryError::Segment { pages: segment_pages });
        }
        let this = Self { profile, members, shards, segment_pages, segments };
        let groups = u64::from(segments) / u64::from(profile.width()) * u64::from(members);
        let most = MAX_PAGES / this.group_pages();
        if groups < u64::from(GROUPS_MIN) || groups > most {
            return Err(GeometryError::Groups { segments, groups, most, pages: segment_pages });
        }
        Ok(this)
    }

    /// The layout for devices of at least `device_bytes` bytes; segments of `segment_pages` pages, or as they suit.
    ///
    /// # Errors
    /// [`GeometryError`], also when the devices are too small.
    pub fn for_devices(
        profile: Profile,
        members: u16,
        shards: u16,
        device_bytes: u64,
        segment_pages: Option<u32>,
    ) -> Result<Self, GeometryError> {
        let usable = device_bytes.saturating_sub(2 * LABEL_AREA) / u64::from(shards.max(1));
        let usable = usable.saturating_sub(SUPERBLOCK_AREA) / PAGE as u64;
        // Sixty-four segments on a small device are few enough to be large and enough to clean one by one.
        let suits = (usable / 64).max(1).next_power_of_two() / 2;
        let suits = u32::try_from(suits).unwrap_or(u32::MAX).clamp(SEGMENT_PAGES_MIN, SEGMENT_PAGES_MAX / 4);
        let segment_pages = segment_pages.unwrap_or(suits);
        let segments = u32::try_from(usable / u64::from(segment_pages.max(1))).unwrap_or(u32::MAX);
        Self::new(profile, members, shards, segment_pages, segments)
    }

    /// The erasure profile.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Devices.
    #[must_use]
    pub const fn members(&self) -> u16 {
        self.members
    }

    /// Shards, each with a volume of its own.
    #[must_use]
    pub const fn shards(&self) -> u16 {
        self.shards
    }

    /// Pages of a segment.
    #[must_use]
    pub const fn segment_pages(&self) -> u32 {
        self.segment_pages
    }

    /// Segments of one shard on one device.
    #[must_use]
    pub const fn segments(&self) -> u32 {
        self.segments
    }

    /// Columns of a group.
    #[must_use]
    pub fn width(&self) -> usize {
        usize::from(self.profile.width())
    }

    /// Data columns.
    #[must_use]
    pub fn k(&self) -> usize {
        usize::from(self.profile.k())
    }

    /// Parity columns.
    #[must_use]
    pub fn m(&self) -> usize {
        usize::from(self.profile.m())
    }

    /// Groups of a volume.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.segments / u32::from(self.profile.width()) * u32::from(self.members)
    }

    /// Pages of a group, parity included.
    #[must_use]
    pub fn group_pages(&self) -> u64 {
        self.width() as u64 * u64::from(self.segment_pages)
    }

    /// Bytes of data that a volume's groups have room for, parity not counted.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        u64::from(self.groups()) * self.k() as u64 * u64::from(self.segment_pages) * PAGE as u64
    }

    /// Bytes of a shard's region on a device.
    #[must_use]
    pub fn region_bytes(&self) -> u64 {
        SUPERBLOCK_AREA + u64::from(self.segments) * u64::from(self.segment_pages) * PAGE as u64
    }

    /// Bytes of a device that the layout uses, the second label's area included.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        LABEL_AREA + u64::from(self.shards) * self.region_bytes() + LABEL_AREA
    }

    /// Where the second copy of the label is.
    #[must_use]
    pub fn second_label(&self) -> u64 {
        self.device_bytes() - LABEL_AREA
    }

    /// Where a shard's superblock slot is on every device.
    #[must_use]
    pub fn superblock(&self, shard: u16, slot: u64) -> u64 {
        LABEL_AREA + u64::from(shard) * self.region_bytes() + slot % 2 * (SUPERBLOCK_AREA / 2)
    }

    /// The device of a column of a group.
    #[must_use]
    pub fn member(&self, group: u32, column: usize) -> u16 {
        ((group % u32::from(self.members) + column as u32) % u32::from(self.members)) as u16
    }

    /// The column that a device has of a group, if any.
    #[must_use]
    pub fn column(&self, group: u32, member: u16) -> Option<usize> {
        let n = u32::from(self.members);
        let column = ((u32::from(member) + n - group % n) % n) as usize;
        (column < self.width()).then_some(column)
    }

    /// Where on its device a row of a column of a group is, bytes.
    #[must_use]
    pub fn offset(&self, shard: u16, group: u32, column: usize, row: u32) -> u64 {
        let segment = u64::from(group / u32::from(self.members)) * self.width() as u64 + column as u64;
        let page = segment * u64::from(self.segment_pages) + u64::from(row);
        LABEL_AREA + u64::from(shard) * self.region_bytes() + SUPERBLOCK_AREA + page * PAGE as u64
    }

    /// The columns that have a copy of the page in `row` when it is a header: m + 1 of them.
    pub fn header_columns(&self, row: u32) -> impl Iterator<Item = usize> + use<> {
        let width = self.width();
        (0..=self.m()).map(move |copy| (row as usize + copy) % width)
    }

    /// The location in a group, in units of 32 bytes, of a byte of a row of a column.
    #[must_use]
    pub fn location(&self, column: usize, row: u32, byte: usize) -> u32 {
        let page = column as u64 * u64::from(self.segment_pages) + u64::from(row);
        (page * (PAGE / UNIT) as u64 + (byte / UNIT) as u64) as u32
    }

    /// Column, row and byte of a location in a group.
    #[must_use]
    pub fn resolve(&self, location: u32) -> (usize, u32, usize) {
        let per_page = (PAGE / UNIT) as u32;
        let (page, unit) = (location / per_page, location % per_page);
        ((page / self.segment_pages) as usize, page % self.segment_pages, unit as usize * UNIT)
    }
}

/// Pages that the index can name in a volume: 39 bits of units of 32 bytes.
const MAX_PAGES: u64 = (1 << 39) / (PAGE / UNIT) as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_device_belongs_to_one_column_of_one_group() {
        for (k, m, members) in [(4, 1, 5), (4, 1, 7), (1, 1, 2), (1, 2, 5), (8, 2, 24), (1, 0, 1), (2, 0, 3)] {
            let profile = Profile::new(k, m).unwrap();
            let segments = 3 * u32::from(profile.width()) + 40;
            let geometry = Geometry::new(profile, members, 2, 256, segments).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for group in 0..geometry.groups() {
                let mut devices = std::collections::BTreeSet::new();
                for column in 0..geometry.width() {
                    let member = geometry.member(group, column);
                    assert_eq!(geometry.column(group, member), Some(column));
                    assert!(devices.insert(member), "one device twice in a group");
                    for shard in 0..2 {
                        let offset = geometry.offset(shard, group, column, 255);
                        assert!(offset + PAGE as u64 <= geometry.second_label());
                        assert!(seen.insert((member, offset)), "one place twice");
                    }
                }
            }
            assert_eq!(seen.len(), 2 * geometry.groups() as usize * geometry.width());
        }
    }

    #[test]
    fn locations_come_back() {
        let geometry = Geometry::new(Profile::new(4, 2).unwrap(), 6, 1, 1 << 18, 64).unwrap();
        for (column, row, byte) in [(0, 0, 0), (5, (1 << 18) - 1, 4064), (3, 77, 32)] {
            assert_eq!(geometry.resolve(geometry.location(column, row, byte)), (column, row, byte));
        }
    }

    #[test]
    fn small_and_large_devices_get_segments_that_suit() {
        let profile = Profile::new(4, 1).unwrap();
        let small = Geometry::for_devices(profile, 5, 1, 64 << 20, None).unwrap();
        assert!(small.device_bytes() <= 64 << 20 && small.groups() >= 40, "{small:?}");
        let large = Geometry::for_devices(profile, 5, 16, 30 << 40, None).unwrap();
        assert!(large.device_bytes() <= 30 << 40 && large.device_bytes() > 29 << 40, "{large:?}");
        assert!(Geometry::for_devices(profile, 5, 1, 3 << 20, None).is_err());
        assert!(Geometry::for_devices(profile, 4, 1, 64 << 20, None).is_err());
    }
}

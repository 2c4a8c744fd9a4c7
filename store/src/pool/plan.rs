//! The layout that suits some devices.

use super::PoolError;
use crate::{
    ec::Profile,
    format::{LABEL_AREA, PAGE, SUPERBLOCK_AREA},
    geometry::{GROUPS_MIN, Geometry, SEGMENT_PAGES_MIN},
};

/// Bytes of a device that a shard should have at least, so that its segments take values of 128 MiB.
const SHARD_BYTES: u64 = 8 << 30;
/// Shards beyond this are asked for, not taken.
const SHARDS_DEFAULT_MAX: u16 = 16;
/// What a value's length has 28 bits for in the index, less the marks.
const VALUE_MAX: u64 = (1 << 28) - 2;
/// Bytes of index for each key.
const INDEX_BYTES: u64 = 32;

/// The profile for a number of devices, where none is asked for: one device has no parity, up to five have one column of it,
/// more have two; at most 16 columns are data.
#[must_use]
pub fn default_profile(devices: usize) -> Option<Profile> {
    let (data, parity) = match devices {
        0 => return None,
        1 => (1, 0),
        2..=5 => (devices - 1, 1),
        _ => ((devices - 2).min(16), 2),
    };
    Profile::new(u8::try_from(data).ok()?, parity).ok()
}

/// The number of shards for devices of so many bytes on a machine with so many processors, where none is asked for: one for
/// each processor, at most 16, and none with less than 8 GiB of each device.
#[must_use]
pub fn default_shards(device_bytes: u64, processors: usize) -> u16 {
    let most = u16::try_from(processors).unwrap_or(u16::MAX).clamp(1, SHARDS_DEFAULT_MAX);
    u16::try_from(device_bytes / SHARD_BYTES).unwrap_or(u16::MAX).clamp(1, most)
}

/// The longest value that a pool of this layout takes, bytes: one that fits in a group with its headers and footer.
#[must_use]
pub fn value_max(geometry: &Geometry) -> u64 {
    let pages = u64::from(geometry.segment_pages() - 4) * geometry.k() as u64;
    (pages * PAGE as u64 - 4096).min(VALUE_MAX)
}

/// Memory for the index when the pool is full of values of `len` bytes.
#[must_use]
pub fn index_memory(geometry: &Geometry, len: u64) -> u64 {
    let data = geometry.data_bytes() * u64::from(geometry.shards());
    data / (len + 128) * INDEX_BYTES
}

/// The least bytes of a device for this layout.
pub(super) fn least_bytes(profile: Profile, members: u16, shards: u16, segment_pages: Option<u32>) -> u64 {
    let cycles = GROUPS_MIN.div_ceil(members.max(1).into());
    let segments = u64::from(cycles) * u64::from(profile.width());
    let segment = u64::from(segment_pages.unwrap_or(SEGMENT_PAGES_MIN)) * PAGE as u64;
    2 * LABEL_AREA + u64::from(shards) * (SUPERBLOCK_AREA + segments * segment)
}

/// A segment size in pages.
pub(super) fn segment_pages(bytes: u64) -> Result<u32, PoolError> {
    let wrong = PoolError::Segment { bytes };
    if !bytes.is_multiple_of(1 << 20) || !(1 << 20..=1 << 30).contains(&bytes) {
        return Err(wrong);
    }
    u32::try_from(bytes / PAGE as u64).map_err(|_| wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_follows_the_number_of_devices() {
        let text = |n| default_profile(n).map(|profile| profile.to_string()).unwrap_or_default();
        let expected = ["", "1+0", "1+1", "2+1", "3+1", "4+1", "4+2", "5+2"];
        assert_eq!((0..8).map(text).collect::<Vec<_>>(), expected);
        assert_eq!((text(18), text(19), text(64)), ("16+2".into(), "16+2".into(), "16+2".into()));
    }

    #[test]
    fn shards_follow_processors_and_size() {
        assert_eq!([1 << 20, 8 << 30, 20 << 30, 1 << 40].map(|bytes| default_shards(bytes, 4)), [1, 1, 2, 4]);
        assert_eq!(default_shards(u64::MAX, 1000), 16);
        assert_eq!(default_shards(u64::MAX, 0), 1);
    }

    #[test]
    fn the_least_size_is_exact() {
        for (k, m, members, shards) in [(4, 1, 5, 1), (1, 0, 1, 3), (8, 2, 24, 2), (1, 1, 2, 1), (2, 1, 7, 4)] {
            let profile = Profile::new(k, m).unwrap();
            let least = least_bytes(profile, members, shards, Some(512));
            assert!(Geometry::for_devices(profile, members, shards, least, Some(512)).is_ok(), "{k}+{m}");
            assert!(
                Geometry::for_devices(profile, members, shards, least - 4096 * u64::from(shards), Some(512)).is_err()
            );
        }
    }

    #[test]
    fn segments_are_whole_mebibytes() {
        assert_eq!(segment_pages(64 << 20).unwrap(), 16384);
        for wrong in [0, 1 << 19, (1 << 20) + 4096, 2 << 30] {
            assert!(segment_pages(wrong).is_err(), "{wrong}");
        }
    }
}

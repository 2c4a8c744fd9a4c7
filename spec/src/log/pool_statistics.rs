//! Pool Statistics (LID C0h, vendor specific): what kvof's target tells of the pool that a KV namespace lies in.
//!
//! `docs/log-pages.md` has the table. Counters start at 0 when the target opens the pool.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{U16, U32, U64};

/// How many devices the page has room for.
pub const POOL_MEMBERS_MAX: usize = 64;

bitflags::bitflags! {
    /// Flags of a pool.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PoolFlags: u32 {
        /// A device is missing, failed, or being filled again.
        const DEGRADED = 1 << 0;
        /// It takes no more changes.
        const READ_ONLY = 1 << 1;
        /// A device is being filled again.
        const REBUILD = 1 << 2;
        /// Everything is being read, to find what has rotted.
        const SCRUB = 1 << 3;
        const _ = !0;
    }
}

open_enum! {
    /// State of a device of a pool.
    pub struct PoolMemberState(u8) {
        /// There is no such device.
        NONE = 0, "none";
        /// It has all that was committed.
        LIVE = 1, "live";
        /// It is missing, or missed something.
        FAILED = 2, "failed";
        /// It is being filled again.
        REBUILDING = 3, "rebuilding";
    }
}

/// One device of a pool.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PoolMember {
    /// See [`PoolMemberState`].
    pub state: u8,
    /// Reserved.
    pub rsvd1: [u8; 3],
    /// Groups of each shard that are complete on it, while it is being filled again; of the shard that is furthest behind.
    pub rebuilt: U32,
}
assert_layout!(PoolMember, 8, state @ 0, rsvd1 @ 1, rebuilt @ 4);
zeroed!(PoolMember);
impl_debug!(PoolMember, s => { state: s.state(), rebuilt: s.rebuilt.get() });

impl PoolMember {
    /// The state.
    #[must_use]
    pub const fn state(&self) -> PoolMemberState {
        PoolMemberState(self.state)
    }
}

/// Pool Statistics log page, 1024 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PoolStatistics {
    /// ASCII `kvofPool`: tells the page from those that other vendors have under this identifier.
    pub signature: [u8; 8],
    /// Version of the page, [`PoolStatistics::VERSION`]. A later one only fills what is reserved here.
    pub version: U16,
    /// Devices of the pool.
    pub members: U16,
    /// See [`PoolFlags`].
    pub flags: U32,
    /// UUID of the pool.
    pub uuid: [u8; 16],
    /// Erasure profile: data columns.
    pub data_columns: u8,
    /// Erasure profile: parity columns.
    pub parity_columns: u8,
    /// Shards.
    pub shards: U16,
    /// Reserved.
    pub rsvd36: [u8; 4],
    /// What the configuration calls it, UTF-8, cut to fit, padded with zeros.
    pub name: [u8; 64],
    /// Bytes of data that there is room for, parity not counted.
    pub capacity: U64,
    /// Bytes of what is stored now, with its bookkeeping.
    pub live: U64,
    /// Keys.
    pub keys: U64,
    /// Bytes of memory of the index.
    pub index_bytes: U64,
    /// Bytes of memory of the tables of groups and stripes.
    pub table_bytes: U64,
    /// Groups.
    pub groups: U64,
    /// Of these, free ones.
    pub groups_free: U64,
    /// Bytes of values that hosts stored.
    pub stored_bytes: U64,
    /// Bytes written to devices, parity and headers included.
    pub written_bytes: U64,
    /// Bytes read from devices.
    pub read_bytes: U64,
    /// Bytes of values moved to make room.
    pub moved_bytes: U64,
    /// Stripes committed.
    pub stripes: U64,
    /// Records committed.
    pub records: U64,
    /// Groups emptied to make room.
    pub groups_cleaned: U64,
    /// Values dropped from namespaces that are caches.
    pub evicted: U64,
    /// Reads that had to be reconstructed.
    pub degraded_reads: U64,
    /// Pieces that were found damaged.
    pub damaged: U64,
    /// Pieces that were repaired.
    pub repaired: U64,
    /// Reads that failed for good.
    pub unrecovered: U64,
    /// Groups that the rebuild which runs has done, over all shards.
    pub rebuild_done: U64,
    /// Groups that it has in all.
    pub rebuild_of: U64,
    /// Groups that the scrub which runs has done, over all shards.
    pub scrub_done: U64,
    /// Groups that it has in all.
    pub scrub_of: U64,
    /// Scrubs of a shard that were completed.
    pub scrubs: U64,
    /// Values read from the memory tier.
    pub tier_hits: U64,
    /// Values that were not there.
    pub tier_misses: U64,
    /// Bytes of the values read from there.
    pub tier_hit_bytes: U64,
    /// Of the hits, values that had been read ahead.
    pub tier_ahead_hits: U64,
    /// Bytes in use.
    pub tier_used: U64,
    /// Bytes that may be used.
    pub tier_limit: U64,
    /// Values held.
    pub tier_values: U64,
    /// Values that were read ahead.
    pub ahead_started: U64,
    /// Of these, those that were asked for then.
    pub ahead_used: U64,
    /// Of these, those that were not.
    pub ahead_wasted: U64,
    /// Bytes of values that hosts retrieved. From version 2 on.
    pub retrieved_bytes: U64,
    /// The devices, by their place in the pool.
    pub member: [PoolMember; POOL_MEMBERS_MAX],
    /// Bytes of values that the target's processor copied between the network and the devices when they were stored; what the kernel
    /// copies does not count. From version 2 on.
    pub store_copied_bytes: U64,
    /// The same of values that were retrieved. From version 2 on.
    pub retrieve_copied_bytes: U64,
    /// Reserved.
    pub rsvd912: [u8; 112],
}
assert_layout!(PoolStatistics, 1024,
    signature @ 0, version @ 8, members @ 10, flags @ 12, uuid @ 16, data_columns @ 32, parity_columns @ 33, shards @ 34,
    rsvd36 @ 36, name @ 40, capacity @ 104, live @ 112, keys @ 120, index_bytes @ 128, table_bytes @ 136, groups @ 144,
    groups_free @ 152, stored_bytes @ 160, written_bytes @ 168, read_bytes @ 176, moved_bytes @ 184, stripes @ 192,
    records @ 200, groups_cleaned @ 208, evicted @ 216, degraded_reads @ 224, damaged @ 232, repaired @ 240,
    unrecovered @ 248, rebuild_done @ 256, rebuild_of @ 264, scrub_done @ 272, scrub_of @ 280, scrubs @ 288,
    tier_hits @ 296, tier_misses @ 304, tier_hit_bytes @ 312, tier_ahead_hits @ 320, tier_used @ 328, tier_limit @ 336,
    tier_values @ 344, ahead_started @ 352, ahead_used @ 360, ahead_wasted @ 368, retrieved_bytes @ 376, member @ 384,
    store_copied_bytes @ 896, retrieve_copied_bytes @ 904, rsvd912 @ 912);
zeroed!(PoolStatistics);
impl_debug!(PoolStatistics, s => {
    name: s.name(), members: s.members.get(), flags: s.flags(), capacity: s.capacity.get(), live: s.live.get(),
    keys: s.keys.get(), index_bytes: s.index_bytes.get(), stored_bytes: s.stored_bytes.get(),
    written_bytes: s.written_bytes.get(), unrecovered: s.unrecovered.get(),
});

impl PoolStatistics {
    /// What [`Self::signature`] is.
    pub const SIGNATURE: [u8; 8] = *b"kvofPool";
    /// The version that is described here.
    pub const VERSION: u16 = 2;

    /// The page that `bytes` start with; `None` if it is shorter, or another vendor's. In a page of an earlier version the fields that
    /// it does not have are 0: [`Self::version`] tells.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<&Self> {
        let (page, _) = Self::ref_from_prefix(bytes).ok()?;
        (page.signature == Self::SIGNATURE && page.version.get() >= 1).then_some(page)
    }

    /// The flags, unknown bits kept.
    #[must_use]
    pub const fn flags(&self) -> PoolFlags {
        PoolFlags::from_bits_retain(u32::from_le_bytes(self.flags.to_bytes()))
    }

    /// The pool's name, as far as it is UTF-8.
    #[must_use]
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        let bytes = self.name.get(..end).unwrap_or_default();
        match core::str::from_utf8(bytes) {
            Ok(name) => name,
            Err(error) => {
                bytes.get(..error.valid_up_to()).and_then(|part| core::str::from_utf8(part).ok()).unwrap_or_default()
            }
        }
    }

    /// The devices that there are.
    pub fn member_states(&self) -> impl Iterator<Item = &PoolMember> {
        self.member.iter().take(usize::from(self.members.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_page_is_told() {
        let mut page = PoolStatistics::zeroed();
        assert!(PoolStatistics::from_bytes(page.as_bytes()).is_none());
        page.signature = PoolStatistics::SIGNATURE;
        page.version = PoolStatistics::VERSION.into();
        assert!(PoolStatistics::from_bytes(page.as_bytes()).is_some());
        assert!(PoolStatistics::from_bytes(&page.as_bytes()[..1023]).is_none());
        for (version, is_page) in [(0, false), (1, true), (2, true), (u16::MAX, true)] {
            page.version = version.into();
            assert_eq!(PoolStatistics::from_bytes(page.as_bytes()).is_some(), is_page, "version {version}");
        }
        // Hostile: more devices than there is room for, a name that is cut within a character.
        page.members = u16::MAX.into();
        page.name = [b'x'; 64];
        page.name[63] = 0xc3;
        assert_eq!((page.member_states().count(), page.name().len()), (POOL_MEMBERS_MAX, 63));
    }
}

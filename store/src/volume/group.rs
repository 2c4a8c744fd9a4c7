//! The table of groups.

use crate::{
    format::{ENTRY_LEN, StripeRef, record_len},
    geometry::Geometry,
};

use super::layout::LARGE;
use crate::format::PAGE;

/// Bytes that a tombstone, or the entries of a value, count for: one in its stripe and one in the footer.
pub(super) const ENTRY_COST: u64 = 2 * ENTRY_LEN as u64;

/// Bytes that a value counts for in its group.
pub(super) const fn cost(len: u32) -> u64 {
    let record = record_len(len);
    let bytes = if len as usize >= LARGE { record.next_multiple_of(PAGE) } else { record };
    bytes as u64 + ENTRY_COST
}

/// What a group is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GroupState {
    /// Nothing in it counts.
    Free,
    /// Stripes are added to it.
    Open,
    /// It is full; its footer may still be on its way.
    Sealed,
    /// Everything in it is dead; its headers are being overwritten.
    Erasing,
}

/// A group of a volume.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) state: GroupState,
    pub(super) incarnation: u64,
    /// The first sequence number that could be in it.
    pub(super) opened: u64,
    /// Its stripes with payload, by row. The other rows below `used` are headers with inline records.
    pub(super) stripes: Vec<StripeRef>,
    /// Rows that are taken, from row 0, without the footer.
    pub(super) used: u32,
    /// Rows of payload of the footer, once it is sealed.
    pub(super) footer_rows: u32,
    /// Entries.
    pub(super) entries: u32,
    /// What live records and tombstones in it cost, bytes.
    pub(super) live: u64,
    /// How many they are.
    pub(super) live_records: u32,
    /// Reads of it in flight: it cannot be used again before they have ended.
    pub(super) pins: u32,
}

impl Group {
    pub(super) const FREE: Self = Self {
        state: GroupState::Free,
        incarnation: 0,
        opened: 0,
        stripes: Vec::new(),
        used: 0,
        footer_rows: 0,
        entries: 0,
        live: 0,
        live_records: 0,
        pins: 0,
    };

    pub(super) fn add_live(&mut self, cost: u64) {
        self.live += cost;
        self.live_records += 1;
    }

    pub(super) fn remove_live(&mut self, cost: u64) {
        debug_assert!(self.live >= cost && self.live_records > 0, "a record died twice");
        self.live = self.live.saturating_sub(cost);
        self.live_records = self.live_records.saturating_sub(1);
    }

    /// The stripe whose payload has `row`; `None` if the row is a header.
    pub(super) fn stripe_of(&self, row: u32) -> Option<StripeRef> {
        let after = self.stripes.partition_point(|stripe| stripe.row < row);
        let stripe = *self.stripes.get(after.checked_sub(1)?)?;
        (row > stripe.row && row <= stripe.row + stripe.rows).then_some(stripe)
    }

    /// The stripe whose header is the first at or after `row`: with payload, or inline; `None` behind the last.
    pub(super) fn stripe_at(&self, row: u32) -> Option<StripeRef> {
        if row >= self.used {
            return None;
        }
        let at = self.stripes.partition_point(|stripe| stripe.row < row);
        let here = self.stripes.get(at).filter(|stripe| stripe.row == row);
        Some(here.copied().unwrap_or(StripeRef { row, rows: 0, width: 0 }))
    }
}

/// Rows that the footer of a group with so many stripes and entries takes, its header included.
pub(super) fn footer_rows(geometry: &Geometry, stripes: usize, entries: usize) -> u32 {
    let bytes = stripes * crate::format::STRIPE_REF_LEN + entries * ENTRY_LEN;
    1 + bytes.div_ceil(PAGE).div_ceil(geometry.k()) as u32
}

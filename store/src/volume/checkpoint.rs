//! A clean stop: the index and the tables of groups in free groups, so that the next start reads only them.
//!
//! The checkpoint is a stream of numbers (little-endian): for each group in use its table, the entries of the group that is being
//! filled, then for each namespace its keys in order. It is cut into stripes, whose columns have checksums and parity like all others. If there is no room for it, there
//! is none, and the next start recovers from footers.

use std::io;

use kvof_kv::Key;

use super::{
    OpenError, Phase, Progress, Volume,
    build::paged,
    group::{ENTRY_COST, Group, GroupState, cost},
    place::{self, Found},
    recover::Unsealed,
};
use crate::{
    device::BlockIo,
    format::{CHECKPOINT_GROUPS_MAX, ENTRY_LEN, PAGE, StripeKind, StripeRef},
    index::{Index, Meta},
};

/// Most bytes of a stripe of a checkpoint.
const PIECE: usize = 4 << 20;

impl Volume {
    /// Closes the volume, which must be idle: writes a checkpoint and says so in the superblock. Blocks.
    ///
    /// # Errors
    /// A device's. The volume is as safe as after a crash then.
    pub fn close(mut self, io: &mut dyn BlockIo) -> io::Result<()> {
        if self.read_only.is_some() {
            return Ok(());
        }
        let other = |error: OpenError| io::Error::other(error.to_string());
        if let Some(open) = self.open.take_if(|open| open.row == 0)
            && let Some(group) = self.groups.get_mut(open.group as usize)
        {
            *group = Group::FREE;
        }
        for member in 0..self.superblock.members.len() as u16 {
            if self.is_trusted(member, 0) && io.flush(member).is_err() {
                self.fail_member(member, "a flush failed");
            }
        }
        let checkpoint = self.encode_checkpoint();
        let groups = self.write_checkpoint(io, &checkpoint)?;
        self.superblock.clean = groups.is_some();
        self.superblock.checkpoint = groups.unwrap_or_default();
        self.superblock.checkpoint_bytes = checkpoint.len() as u64;
        self.superblock.sequence = self.sequence;
        self.superblock.stripe = self.stripe;
        self.superblock.incarnation = self.incarnation;
        self.write_superblock_now(io).map_err(other)
    }

    fn encode_checkpoint(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let in_use = |group: &Group| matches!(group.state, GroupState::Sealed | GroupState::Open);
        let used: Vec<(u32, &Group)> = (0..).zip(&self.groups).filter(|(_, group)| in_use(group)).collect();
        out.extend_from_slice(&(used.len() as u32).to_le_bytes());
        for (number, group) in used {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&group.incarnation.to_le_bytes());
            out.extend_from_slice(&group.opened.to_le_bytes());
            for field in [group.used, group.footer_rows, group.entries, group.stripes.len() as u32] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            group.stripes.iter().for_each(|stripe| stripe.encode(&mut out));
        }
        // The group that is being filled goes on being filled: the number of its entries, and they.
        let (group, entries) = self.open.as_ref().map_or((u32::MAX, &[][..]), |open| (open.group, &open.entries));
        out.extend_from_slice(&group.to_le_bytes());
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        entries.iter().for_each(|entry| entry.encode(&mut out));
        let namespaces: Vec<_> = (0u32..).zip(&self.namespaces).filter_map(|(n, ns)| Some((n, ns.as_ref()?))).collect();
        out.extend_from_slice(&(namespaces.len() as u32).to_le_bytes());
        for (slot, namespace) in namespaces {
            out.extend_from_slice(&slot.to_le_bytes());
            out.extend_from_slice(&namespace.index.len().to_le_bytes());
            for (key, meta) in namespace.index.range(None) {
                out.push(key.len() as u8);
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(&place::without_hits(meta).0.to_le_bytes());
            }
        }
        out
    }

    /// Writes a checkpoint to free groups; `None` if there is no room or no memory for it.
    fn write_checkpoint(&mut self, io: &mut dyn BlockIo, checkpoint: &[u8]) -> io::Result<Option<Vec<u32>>> {
        let geometry = self.geometry();
        let free: Vec<u32> = (0..)
            .zip(&self.groups)
            .filter(|(_, group)| group.state == GroupState::Free)
            .map(|(number, _)| number)
            .collect();
        let mut groups = Vec::new();
        let mut free = free.into_iter();
        let mut row = geometry.segment_pages();
        for piece in checkpoint.chunks(PIECE.min((geometry.segment_pages() as usize - 4) * geometry.k() * PAGE)) {
            let pages = piece.len().div_ceil(PAGE) as u32;
            let rows = pages.div_ceil(geometry.k() as u32);
            if row + 1 + rows >= geometry.segment_pages() {
                let Some(group) = free.next().filter(|_| groups.len() < CHECKPOINT_GROUPS_MAX) else { return Ok(None) };
                self.incarnation += 1;
                if let Some(state) = self.groups.get_mut(group as usize) {
                    state.incarnation = self.incarnation;
                }
                groups.push(group);
                row = 0;
            }
            let Some(group) = groups.last().copied() else { return Ok(None) };
            let Some(bytes) = paged(&self.scratch, piece) else { return Ok(None) };
            let mut header = self.header(StripeKind::Checkpoint, group, row);
            header.rows = rows;
            header.width = pages.div_ceil(rows) as u8;
            header.used = piece.len() as u32;
            let Some(built) = self.build_plain(header, bytes) else { return Ok(None) };
            self.write_now(io, &built);
            if let Some(why) = &self.read_only {
                return Err(io::Error::other(why.clone()));
            }
            row += 1 + rows;
        }
        Ok(Some(groups))
    }

    /// Loads the checkpoint that is in `groups`; false if it cannot be read.
    pub(super) fn load_checkpoint(
        &mut self,
        io: &mut dyn BlockIo,
        groups: &[u32],
        unsealed: &mut Vec<Unsealed>,
        progress: &mut dyn FnMut(Progress),
    ) -> bool {
        let total = self.superblock.checkpoint_bytes;
        let mut bytes = Vec::new();
        for group in groups {
            let mut row = 0;
            let mut last = None;
            while (bytes.len() as u64) < total {
                let Some((header, _)) = self.read_header(io, *group, row) else { break };
                let follows = last
                    .is_none_or(|(incarnation, stripe)| header.incarnation == incarnation && header.stripe > stripe);
                if header.kind != StripeKind::Checkpoint || !follows {
                    break;
                }
                let Some(stream) = self.read_stream(io, &header, false) else { return false };
                let Some(piece) = stream.get(..header.used as usize) else { return false };
                bytes.extend_from_slice(piece);
                last = Some((header.incarnation, header.stripe));
                row += 1 + header.rows;
                progress(Progress {
                    phase: Phase::Checkpoint,
                    done: bytes.len() as u64,
                    of: total,
                    keys: 0,
                    read: self.stats.read_bytes,
                });
            }
        }
        bytes.len() as u64 == total && self.decode_checkpoint(&bytes, unsealed).is_some()
    }

    fn decode_checkpoint(&mut self, bytes: &[u8], unsealed: &mut Vec<Unsealed>) -> Option<()> {
        let mut input = Input(bytes);
        let geometry = self.geometry();
        for _ in 0..input.u32()? {
            let number = input.u32()?;
            let (incarnation, opened) = (input.u64()?, input.u64()?);
            let (used, footer_rows, entries, count) = (input.u32()?, input.u32()?, input.u32()?, input.u32()?);
            let refs = input.take((count as usize).checked_mul(crate::format::STRIPE_REF_LEN)?)?;
            let stripes: Option<Vec<StripeRef>> =
                refs.chunks_exact(crate::format::STRIPE_REF_LEN).map(StripeRef::decode).collect();
            let state = GroupState::Sealed;
            let group =
                Group { state, incarnation, opened, stripes: stripes?, used, footer_rows, entries, ..Group::FREE };
            *self.groups.get_mut(number as usize)? = group;
        }
        let (group, count) = (input.u32()?, input.u32()?);
        let entries = crate::format::decode_entries(input.take((count as usize).checked_mul(ENTRY_LEN)?)?, count)?;
        if group != u32::MAX {
            unsealed.push(Unsealed { group, entries, footer: false });
        }
        for _ in 0..input.u32()? {
            let slot = input.u32()? as usize;
            let count = input.u64()?;
            // A key takes at least ten bytes, so that a wrong count ends here and not in the memory of the machine.
            if count > input.0.len() as u64 / 10 {
                return None;
            }
            let mut keys = Vec::with_capacity(count as usize);
            for _ in 0..count {
                let len = usize::from(input.u8()?);
                let key = Key::new(input.take(len)?).ok()?;
                keys.push((key, Meta(input.u64()?)));
            }
            for (_, meta) in &keys {
                match place::find(&geometry, *meta) {
                    Found::Value(place) => {
                        self.groups.get(place.group as usize).filter(|g| g.state == GroupState::Sealed)?;
                        self.revive(place.group, cost(place.len));
                    }
                    Found::Tombstone(group) => self.revive(group, ENTRY_COST),
                    Found::Pending => return None,
                }
            }
            let namespace = self.namespaces.get_mut(slot)?.as_mut()?;
            namespace.index = Index::load(self.config.index_memory, keys.into_iter()).ok()?;
        }
        input.0.is_empty().then_some(())
    }
}

/// Numbers from bytes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

//! From device memory to the network.
//!
//! What the controller wants is cut into chunks, each a stretch of one piece, and given out in the order in which it was
//! wanted. A piece is read from the device as long as the value goes on, since more of it will be wanted next; what lies
//! in pieces and nobody has wanted yet gives way when pieces are short.

use std::collections::VecDeque;

use slab::Slab;

use super::{Piece, Stager, TransferId};
use crate::CopyError;

/// Pieces on their way out.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Pieces that exist.
    pub(super) total: usize,
    free: Vec<Piece>,
    slots: Slab<Slot>,
    /// What is wanted and has no piece yet.
    wants: VecDeque<Want>,
    /// What has a piece, in the order of giving out.
    chunks: VecDeque<Chunk>,
}

/// A piece with bytes of a value.
struct Slot {
    id: TransferId,
    /// None while the copy runs.
    piece: Option<Piece>,
    /// Where its bytes are in the value.
    offset: usize,
    /// Bytes in it.
    len: usize,
    /// Bytes from its start that chunks were made of.
    assigned: usize,
    /// Of these, bytes that are not sent yet.
    pending: usize,
    /// The transfer was closed while the copy runs.
    stale: bool,
}

struct Want {
    id: TransferId,
    offset: usize,
    left: usize,
}

struct Chunk {
    id: TransferId,
    slot: usize,
    /// Where it is in the piece.
    at: usize,
    len: usize,
}

/// Bytes of a value that are there to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Of which transfer.
    pub id: TransferId,
    /// Where they are in the value.
    pub offset: usize,
    /// How many they are.
    pub len: usize,
    /// The piece that has them, for [`Stager::bytes`] and [`Stager::sent`].
    pub slot: usize,
    /// Where they are in that piece.
    pub at: usize,
}

impl Outgoing {
    pub(super) fn add(&mut self, piece: Piece) {
        self.total += 1;
        self.free.push(piece);
    }

    /// Pieces that nobody uses.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.free.len()
    }

    /// A copy into the piece of `slot` is over.
    pub(super) fn copied(&mut self, slot: usize, piece: Piece) {
        match self.slots.get_mut(slot) {
            Some(slot) if !slot.stale => slot.piece = Some(piece),
            _ => {
                self.slots.try_remove(slot);
                self.free.push(piece);
            }
        }
    }

    /// The piece whose next unassigned byte is byte `offset` of the value.
    fn holder(&self, id: TransferId, offset: usize) -> Option<usize> {
        let holds = |s: &Slot| s.id == id && !s.stale && s.assigned < s.len && s.offset + s.assigned == offset;
        self.slots.iter().find(|(_, s)| holds(s)).map(|(key, _)| key)
    }

    /// Takes back a piece that was read ahead and that nobody waits for.
    fn steal(&mut self) -> Option<Piece> {
        let wanted = |s: &Slot| self.wants.iter().any(|w| w.id == s.id && w.offset == s.offset + s.assigned);
        let idle = |s: &Slot| s.piece.is_some() && s.pending == 0;
        let victim = self.slots.iter().filter(|(_, s)| idle(s)).min_by_key(|(_, s)| wanted(s)).map(|(key, _)| key)?;
        self.slots.try_remove(victim)?.piece
    }
}

impl Stager {
    /// The controller asks for `len` bytes from `offset` of an outgoing value.
    pub fn want(&mut self, id: TransferId, offset: usize, len: usize) {
        let known = self.transfers.get(id.0).filter(|t| !t.closed).map(|t| t.range.len());
        let inside = known.zip(offset.checked_add(len)).is_some_and(|(has, end)| end <= has);
        debug_assert!(inside, "{len} bytes at {offset} of {known:?}");
        if inside && len > 0 {
            self.outgoing.wants.push_back(Want { id, offset, left: len });
            self.plan();
        }
    }

    /// The next bytes that were wanted, at most `max`, if they are there. What is given is the caller's to send, all of
    /// it, in this order.
    ///
    /// # Errors
    /// The transfer whose bytes cannot be had, with the device's error; it stays next until it is closed.
    pub fn next(&mut self, max: usize) -> Result<Option<Ready>, (TransferId, CopyError)> {
        let Some(chunk) = self.outgoing.chunks.front_mut() else { return Ok(None) };
        if let Some(error) = self.transfers.get(chunk.id.0).and_then(|t| t.error.clone()) {
            return Err((chunk.id, error));
        }
        let Some(slot) = self.outgoing.slots.get(chunk.slot).filter(|s| s.piece.is_some()) else { return Ok(None) };
        let len = chunk.len.min(max);
        if len == 0 {
            return Ok(None);
        }
        let ready = Ready { id: chunk.id, offset: slot.offset + chunk.at, len, slot: chunk.slot, at: chunk.at };
        chunk.at += len;
        chunk.len -= len;
        if chunk.len == 0 {
            self.outgoing.chunks.pop_front();
        }
        Ok(Some(ready))
    }

    /// `len` bytes from `at` of the piece `slot`, as [`Self::next`] gave them; `None` if the transfer was closed.
    #[must_use]
    pub fn bytes(&self, slot: usize, at: usize, len: usize) -> Option<&[u8]> {
        self.outgoing.slots.get(slot)?.piece.as_ref()?.bytes().get(at..at.checked_add(len)?)
    }

    /// `n` bytes of the piece `slot` are sent.
    pub fn sent(&mut self, slot: usize, n: usize) {
        let Some(found) = self.outgoing.slots.get_mut(slot) else { return };
        debug_assert!(n <= found.pending, "{n} bytes sent of {}", found.pending);
        found.pending = found.pending.saturating_sub(n);
        if found.pending == 0 && found.assigned == found.len {
            if let Some(piece) = self.outgoing.slots.try_remove(slot).and_then(|s| s.piece) {
                self.outgoing.free.push(piece);
            }
            self.plan();
        } else if found.pending == 0 {
            // It may be taken back now.
            self.plan();
        }
    }

    /// Finds pieces for what is wanted, in order, and starts the copies into them.
    pub(super) fn plan(&mut self) {
        while let Some(&Want { id, offset, left }) = self.outgoing.wants.front() {
            let Some(value_len) = self.transfers.get(id.0).map(|t| t.range.len()) else {
                self.outgoing.wants.pop_front();
                continue;
            };
            if let Some(key) = self.outgoing.holder(id, offset) {
                self.assign(key);
                continue;
            }
            if let Some(piece) = self.free_outgoing(id) {
                self.read(id, offset, value_len - offset, piece);
            } else if let Some(piece) = self.outgoing.steal() {
                // Pieces are short: read what is wanted and no more.
                self.read(id, offset, left, piece);
            } else {
                break;
            }
        }
    }

    /// Makes the next chunk of what is wanted first and of the piece `key`.
    fn assign(&mut self, key: usize) {
        let outgoing = &mut self.outgoing;
        let (Some(slot), Some(want)) = (outgoing.slots.get_mut(key), outgoing.wants.front_mut()) else { return };
        let n = want.left.min(slot.len - slot.assigned);
        outgoing.chunks.push_back(Chunk { id: want.id, slot: key, at: slot.assigned, len: n });
        slot.assigned += n;
        slot.pending += n;
        want.offset += n;
        want.left -= n;
        if want.left == 0 {
            outgoing.wants.pop_front();
        }
    }

    /// Copies the beginning of a value before anyone asks for it, if nobody else needs the piece.
    pub(super) fn read_ahead(&mut self, id: TransferId) {
        let len = self.transfers.get(id.0).map_or(0, |t| t.range.len());
        if len > 0
            && self.outgoing.wants.is_empty()
            && let Some(piece) = self.free_outgoing(id)
        {
            self.read(id, 0, len, piece);
        }
    }

    fn free_outgoing(&mut self, id: TransferId) -> Option<Piece> {
        if let Some(piece) = self.outgoing.free.pop() {
            return Some(piece);
        }
        let piece = self.another_piece(id, self.outgoing.total)?;
        self.outgoing.total += 1;
        Some(piece)
    }

    /// Starts to copy bytes from `offset` of a value into `piece`: as many as fit, at most `most`.
    fn read(&mut self, id: TransferId, offset: usize, most: usize, piece: Piece) {
        let len = most.min(self.limits().piece_len);
        let slot = Slot { id, piece: None, offset, len, assigned: 0, pending: 0, stale: false };
        let key = self.outgoing.slots.insert(slot);
        self.start(id, key, offset, len, piece);
    }

    /// Forgets what is wanted and held of a transfer.
    pub(super) fn drop_outgoing(&mut self, id: TransferId) {
        let outgoing = &mut self.outgoing;
        outgoing.wants.retain(|w| w.id != id);
        outgoing.chunks.retain(|c| c.id != id);
        let free = &mut outgoing.free;
        outgoing.slots.retain(|_, slot| {
            if slot.id != id {
                return true;
            }
            slot.stale = true;
            match slot.piece.take() {
                Some(piece) => {
                    free.push(piece);
                    false
                }
                // The copy that runs brings the piece back, and the slot keeps its number until then.
                None => true,
            }
        });
    }

    /// Pieces for outgoing values that exist.
    #[cfg(test)]
    pub(super) fn outgoing_pieces(&self) -> usize {
        self.outgoing.total
    }
}

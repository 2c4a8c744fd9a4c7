//! From the network to device memory.
//!
//! One piece at a time is being filled. It is copied when it is full, when bytes of another place come, or when the value
//! is complete; several may be on their way to the device.

use super::{Piece, Stager, TransferId};

/// Pieces on their way in.
#[derive(Default)]
pub(super) struct Incoming {
    /// Pieces that exist.
    pub(super) total: usize,
    free: Vec<Piece>,
    filling: Option<Filling>,
}

/// The piece that bytes go into.
struct Filling {
    id: TransferId,
    piece: Piece,
    /// Where its bytes belong in the value.
    offset: usize,
    /// Bytes in it.
    filled: usize,
}

impl Incoming {
    pub(super) fn add(&mut self, piece: Piece) {
        self.total += 1;
        self.free.push(piece);
    }

    /// Pieces that nobody uses.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.free.len()
    }

    pub(super) fn add_back(&mut self, piece: Piece) {
        self.free.push(piece);
    }
}

impl Stager {
    /// Where the next bytes of an incoming value go, which belong at `offset` of it; at most `max`, at least one. `None`
    /// while every piece is being copied: then a copy runs, and its end makes room.
    pub fn place(&mut self, id: TransferId, offset: usize, max: usize) -> Option<&mut [u8]> {
        let has = self.transfers.get(id.0).filter(|t| !t.closed)?.range.len();
        let max = max.min(has.checked_sub(offset)?);
        if max == 0 {
            return None;
        }
        let goes_on = |f: &Filling| f.id == id && f.offset + f.filled == offset;
        if self.incoming.filling.as_ref().is_some_and(|f| !goes_on(f)) {
            self.copy_filled();
        }
        if self.incoming.filling.is_none() {
            let piece = self.free_incoming(id)?;
            self.incoming.filling = Some(Filling { id, piece, offset, filled: 0 });
        }
        let Filling { piece, filled, .. } = self.incoming.filling.as_mut()?;
        let end = piece.len().min(*filled + max);
        piece.bytes_mut().get_mut(*filled..end)
    }

    /// The first `n` bytes of what [`Self::place`] gave last.
    #[must_use]
    pub fn placed(&self, n: usize) -> &[u8] {
        let Some(Filling { piece, filled, .. }) = &self.incoming.filling else { return &[] };
        piece.bytes().get(*filled..*filled + n).unwrap_or_default()
    }

    /// The first `n` bytes of what [`Self::place`] gave last have come.
    pub fn advance(&mut self, n: usize) {
        let Some(Filling { piece, filled, .. }) = &mut self.incoming.filling else { return };
        *filled = (*filled + n).min(piece.len());
        if *filled == piece.len() {
            self.copy_filled();
        }
    }

    /// All bytes of an incoming value have come: copies what is not copied yet.
    pub fn flush(&mut self, id: TransferId) {
        if self.incoming.filling.as_ref().is_some_and(|f| f.id == id) {
            self.copy_filled();
        }
    }

    /// Starts to copy the piece that is being filled.
    fn copy_filled(&mut self) {
        let Some(Filling { id, piece, offset, filled }) = self.incoming.filling.take() else { return };
        if filled == 0 {
            self.incoming.free.push(piece);
            return;
        }
        self.start(id, 0, offset, filled, piece);
    }

    fn free_incoming(&mut self, id: TransferId) -> Option<Piece> {
        if let Some(piece) = self.incoming.free.pop() {
            return Some(piece);
        }
        let piece = self.another_piece(id, self.incoming.total)?;
        self.incoming.total += 1;
        Some(piece)
    }

    /// Forgets the bytes of a transfer that are not being copied yet.
    pub(super) fn drop_incoming(&mut self, id: TransferId) {
        if let Some(Filling { piece, .. }) = self.incoming.filling.take_if(|f| f.id == id) {
            self.incoming.free.push(piece);
        }
    }

    /// Pieces for incoming values that exist.
    #[cfg(test)]
    pub(super) fn incoming_pieces(&self) -> usize {
        self.incoming.total
    }
}

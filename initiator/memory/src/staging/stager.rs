//! The transfers of one connection whose values are in device memory.

use std::{fmt, os::fd::BorrowedFd, sync::Arc};

use slab::Slab;

use super::{CopyBell, DeviceCopy, DeviceRange, Direction, Job, Piece, incoming::Incoming, outgoing::Outgoing};
use crate::{CopyError, MemoryKind};

/// How much pinned memory a [`Stager`] uses at most: `pieces` of `piece_len` bytes for each direction, allocated when
/// they are first needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StagingLimits {
    /// Bytes of a piece, at least 1: one copy moves at most as many.
    pub piece_len: usize,
    /// Pieces of each direction, at least 1. Two overlap copies with the network; more even out their speeds.
    pub pieces: usize,
}

impl Default for StagingLimits {
    /// 8 pieces of 512 KiB each way: a copy that long takes some 10 µs to start and 20 µs to run.
    fn default() -> Self {
        Self { piece_len: 512 << 10, pieces: 8 }
    }
}

/// Names a transfer of a [`Stager`], from [`Stager::open`] until [`Stager::end`] has given its result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TransferId(pub(super) usize);

/// Stages values between device memory and a connection.
///
/// *Out* (Store): [`open`](Self::open), then [`want`](Self::want) for what the controller asks for; [`next`](Self::next)
/// gives the bytes as they are there, in the order in which they were wanted, [`bytes`](Self::bytes) shows them and
/// [`sent`](Self::sent) gives their piece back.
///
/// *In* (Retrieve): `open`, then [`place`](Self::place) for every stretch that comes, and [`advance`](Self::advance) when
/// bytes are in it; [`flush`](Self::flush) when the last one is.
///
/// Either way: [`close`](Self::close) when no more is to be moved, and `end` gives the result once no copy runs any more;
/// not before that may the buffer go back to its owner. [`poll`](Self::poll) is to be called when [`Self::fd`] is readable,
/// and now and then while [`Self::is_copying`].
#[derive(Default)]
pub struct Stager {
    /// First: dropping them waits for the copies that run.
    copiers: Vec<(MemoryKind, Box<dyn DeviceCopy>)>,
    limits: StagingLimits,
    bell: Option<Arc<CopyBell>>,
    pub(super) transfers: Slab<Transfer>,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    /// Copies that run.
    copying: usize,
    done: Vec<(Job, Result<(), CopyError>)>,
}

/// One value.
pub(super) struct Transfer {
    pub(super) range: DeviceRange,
    pub(super) direction: Direction,
    /// Index of the copier of its memory.
    copier: usize,
    /// Copies that run.
    copying: usize,
    /// No more is to be moved.
    pub(super) closed: bool,
    pub(super) error: Option<CopyError>,
}

impl Stager {
    /// A stager that has no memory yet.
    #[must_use]
    pub fn new(limits: StagingLimits) -> Self {
        let limits = StagingLimits { piece_len: limits.piece_len.max(1), pieces: limits.pieces.max(1) };
        Self { limits, ..Self::default() }
    }

    /// Begins with a value in `range`. One that goes out is copied ahead as far as there is room.
    ///
    /// # Errors
    /// The device's, if it gives no pinned memory, not even one piece.
    pub fn open(&mut self, range: DeviceRange, direction: Direction) -> Result<TransferId, CopyError> {
        let copier = self.copier(&range)?;
        let has_any = match direction {
            Direction::ToHost => self.outgoing.total > 0,
            Direction::ToDevice => self.incoming.total > 0,
        };
        if !has_any {
            let piece = self.allocate(copier)?;
            match direction {
                Direction::ToHost => self.outgoing.add(piece),
                Direction::ToDevice => self.incoming.add(piece),
            }
        }
        let id = TransferId(self.transfers.insert(Transfer {
            range,
            direction,
            copier,
            copying: 0,
            closed: false,
            error: None,
        }));
        if direction == Direction::ToHost {
            self.read_ahead(id);
        }
        Ok(id)
    }

    /// No more bytes of the transfer are wanted or will come; what was not copied yet is not.
    pub fn close(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get_mut(id.0) else { return };
        transfer.closed = true;
        self.drop_outgoing(id);
        self.drop_incoming(id);
        self.plan();
    }

    /// Whether no copy of the transfer runs any more.
    #[must_use]
    pub fn is_quiet(&self, id: TransferId) -> bool {
        self.transfers.get(id.0).is_none_or(|t| t.copying == 0)
    }

    /// Ends a transfer that is quiet and closed, or flushed, and gives its result: whether all that was to be copied was.
    /// `None` if it has to be asked again later.
    #[must_use]
    pub fn end(&mut self, id: TransferId) -> Option<Result<(), CopyError>> {
        if !self.is_quiet(id) {
            return None;
        }
        self.close(id);
        let transfer = self.transfers.try_remove(id.0)?;
        Some(transfer.error.map_or(Ok(()), Err))
    }

    /// Takes note of the copies that are over; gives whether there were any.
    pub fn poll(&mut self) -> bool {
        if self.copying == 0 {
            return false;
        }
        if let Some(bell) = &self.bell {
            bell.silence();
        }
        let mut done = std::mem::take(&mut self.done);
        for (_, copier) in &mut self.copiers {
            copier.poll(&mut done);
        }
        let any = !done.is_empty();
        for (Job { token, direction, range, piece }, result) in done.drain(..) {
            drop(range);
            self.copying -= 1;
            let (id, slot) = untoken(token);
            if let Some(transfer) = self.transfers.get_mut(id.0) {
                transfer.copying -= 1;
                if let Err(error) = result {
                    tracing::debug!(%error, ?direction, "copy of device memory failed");
                    transfer.error.get_or_insert(error);
                }
            }
            match direction {
                Direction::ToHost => self.outgoing.copied(slot, piece),
                Direction::ToDevice => self.incoming.add_back(piece),
            }
        }
        self.done = done;
        if any {
            self.plan();
        }
        any
    }

    /// Whether copies run, so that [`Self::poll`] is to be called again.
    #[must_use]
    pub const fn is_copying(&self) -> bool {
        self.copying > 0
    }

    /// Whether there are transfers that have not ended.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        !self.transfers.is_empty()
    }

    /// Readable when a copy is over; none before the first transfer.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(|bell| bell.fd())
    }

    /// Bytes of pinned memory in use.
    #[must_use]
    pub const fn pinned(&self) -> usize {
        (self.outgoing.total + self.incoming.total) * self.limits.piece_len
    }

    pub(super) const fn limits(&self) -> StagingLimits {
        self.limits
    }

    /// A new piece for transfer `id`, if `total` are not all yet. A device that gives none leaves it at those there are.
    pub(super) fn another_piece(&mut self, id: TransferId, total: usize) -> Option<Piece> {
        if total >= self.limits.pieces {
            return None;
        }
        let copier = self.transfers.get(id.0)?.copier;
        self.allocate(copier)
            .inspect_err(|error| tracing::debug!(%error, total, "no further piece of pinned memory"))
            .ok()
    }

    /// Starts to copy between `len` bytes from `offset` of a transfer's value and `piece`.
    pub(super) fn start(&mut self, id: TransferId, slot: usize, offset: usize, len: usize, piece: Piece) {
        let Some(transfer) = self.transfers.get_mut(id.0) else { return };
        let direction = transfer.direction;
        let copier = self.copiers.get_mut(transfer.copier);
        let (Some(range), Some((_, copier))) = (transfer.range.part(offset, len), copier) else {
            debug_assert!(false, "{len} bytes at {offset} of a value of {}", transfer.range.len());
            return;
        };
        transfer.copying += 1;
        self.copying += 1;
        copier.start(Job { token: token(id, slot), direction, range, piece });
    }

    fn allocate(&mut self, copier: usize) -> Result<Piece, CopyError> {
        let len = self.limits.piece_len;
        match self.copiers.get_mut(copier) {
            Some((_, copier)) => copier.piece(len),
            None => Err(CopyError::Device("no copier".into())),
        }
    }

    /// The index of the copier for this memory, made if there is none.
    fn copier(&mut self, range: &DeviceRange) -> Result<usize, CopyError> {
        let kind = range.kind();
        if let Some(at) = self.copiers.iter().position(|(of, _)| *of == kind) {
            return Ok(at);
        }
        let bell = match &self.bell {
            Some(bell) => Arc::clone(bell),
            None => Arc::clone(self.bell.insert(Arc::new(CopyBell::new()?))),
        };
        self.copiers.push((kind, range.copier(bell)?));
        Ok(self.copiers.len() - 1)
    }
}

/// Transfer and slot in one number; there are far fewer than 2^32 of either.
const fn token(id: TransferId, slot: usize) -> u64 {
    (id.0 as u64) << 32 | (slot as u64 & 0xffff_ffff)
}

const fn untoken(token: u64) -> (TransferId, usize) {
    (TransferId((token >> 32) as usize), (token & 0xffff_ffff) as usize)
}

impl fmt::Debug for Stager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stager")
            .field("transfers", &self.transfers.len())
            .field("copying", &self.copying)
            .field("pinned", &self.pinned())
            .finish_non_exhaustive()
    }
}

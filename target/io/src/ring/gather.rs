//! The pieces of a vectored write: which of them the next request names, and how far the kernel has got.
//!
//! Invariant: the array handed to the kernel is only changed by [`Gather::request`], which is called when no request is in flight.

use std::fmt;

use crate::SharedBuf;

/// Most pieces of one request (UIO_MAXIOV); the kernel refuses more.
pub(super) const MAX_PIECES: usize = 1024;

/// Buffers that are written one after the other, and the place that has been reached in them.
pub(super) struct Gather {
    bufs: Vec<SharedBuf>,
    total: usize,
    /// The piece that is not done yet, and how much of it is.
    piece: usize,
    within: usize,
    /// What the latest request names. On the heap, so that it stays where it is when this value moves.
    iovecs: Vec<libc::iovec>,
}

impl Gather {
    pub(super) fn new(bufs: Vec<SharedBuf>) -> Self {
        let total = bufs.iter().fold(0, |sum: usize, buf| sum.saturating_add(buf.len()));
        Self { bufs, total, piece: 0, within: 0, iovecs: Vec::new() }
    }

    /// Bytes in all pieces.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Names up to `limit` of the bytes that are left, in at most [`MAX_PIECES`] pieces: the array and the number of its elements. It stays
    /// as it is until the next call.
    pub(super) fn request(&mut self, limit: usize) -> (*const libc::iovec, u32) {
        self.iovecs.clear();
        let (mut room, mut skip) = (limit, self.within);
        for buf in self.bufs.iter().skip(self.piece) {
            if room == 0 || self.iovecs.len() == MAX_PIECES {
                break;
            }
            let len = buf.len().saturating_sub(skip).min(room);
            if len > 0 {
                let base = buf.start().wrapping_add(skip).cast_mut().cast();
                self.iovecs.push(libc::iovec { iov_base: base, iov_len: len });
            }
            room -= len;
            skip = 0;
        }
        // At most MAX_PIECES, so the cast is exact.
        (self.iovecs.as_ptr(), self.iovecs.len() as u32)
    }

    /// Notes that `moved` more bytes are done.
    pub(super) fn advance(&mut self, moved: usize) {
        self.within = self.within.saturating_add(moved);
        while let Some(buf) = self.bufs.get(self.piece).filter(|buf| buf.len() <= self.within) {
            self.within -= buf.len();
            self.piece += 1;
        }
    }

    pub(super) fn into_bufs(self) -> Vec<SharedBuf> {
        self.bufs
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather")
            .field("pieces", &self.bufs.len())
            .field("total", &self.total)
            .field("piece", &self.piece)
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes that the latest request names.
    fn named(gather: &mut Gather, limit: usize) -> Vec<Vec<u8>> {
        let (start, count) = gather.request(limit);
        assert_eq!((start, count as usize), (gather.iovecs.as_ptr(), gather.iovecs.len()));
        let bytes = |v: &libc::iovec| {
            // SAFETY: the element names initialised bytes of a buffer that `gather` holds and that nobody writes.
            unsafe { std::slice::from_raw_parts(v.iov_base.cast_const().cast::<u8>(), v.iov_len) }.to_vec()
        };
        gather.iovecs.iter().map(bytes).collect()
    }

    #[test]
    fn a_request_has_at_most_1024_pieces() {
        let bufs: Vec<_> = (0..3000u32).map(|n| SharedBuf::from_vec(vec![n as u8])).collect();
        let mut gather = Gather::new(bufs);
        for expected in [1024, 1024, 952, 0] {
            let pieces = named(&mut gather, usize::MAX);
            assert_eq!(pieces.len(), expected);
            gather.advance(expected);
        }
        assert_eq!((gather.total(), gather.into_bufs().len()), (3000, 3000));
    }

    proptest! {
        #[test]
        fn whatever_the_kernel_takes_the_rest_is_named_next(
            lens in prop::collection::vec(0usize..40, 0..60),
            limit in 1usize..100,
            takes in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
        ) {
            let mut model: Vec<u8> = Vec::new();
            let mut bufs = Vec::new();
            for (n, len) in lens.iter().enumerate() {
                let bytes: Vec<u8> = (0..*len).map(|i| (n * 7 + i) as u8).collect();
                model.extend(&bytes);
                bufs.push(SharedBuf::from_vec(bytes));
            }
            let mut gather = Gather::new(bufs);
            prop_assert_eq!(gather.total(), model.len());
            let mut takes = takes.iter().cycle();
            let mut done = 0;
            while done < model.len() {
                let pieces = named(&mut gather, limit);
                prop_assert!(pieces.iter().all(|p| !p.is_empty()));
                let bytes = pieces.concat();
                prop_assert_eq!(&bytes[..], &model[done..(done + limit).min(model.len())]);
                let take = takes.next().unwrap().index(bytes.len()) + 1;
                gather.advance(take);
                done += take;
            }
            prop_assert!(named(&mut gather, limit).is_empty());
        }
    }
}

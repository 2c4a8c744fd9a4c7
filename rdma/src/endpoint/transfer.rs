//! Data on its way between memory here and remote memory, cut into pieces of a size.

use super::RemoteSegment;
use crate::Memory;

/// Most bytes of one RDMA READ or WRITE: so large that a request costs nothing beside it, so small that several share the wire.
const PIECE: u32 = 512 << 10;

/// One direction of one operation.
#[derive(Debug)]
pub(super) struct Transfer<B> {
    pub(super) memory: B,
    pub(super) lkey: u32,
    segments: Vec<RemoteSegment>,
    /// The segment that the next piece is of, and where it begins there.
    at: usize,
    within: u32,
    /// Where it begins in `memory`.
    offset: u64,
    /// Batches of requests in the send queue.
    pub(super) outstanding: u32,
    /// The capsule that follows the data is in the send queue.
    pub(super) is_sent: bool,
}

impl<B: Memory> Transfer<B> {
    pub(super) fn new(memory: B, lkey: u32, segments: &[RemoteSegment]) -> Self {
        let segments = segments.iter().copied().filter(|s| s.len > 0).collect();
        Self { memory, lkey, segments, at: 0, within: 0, offset: 0, outstanding: 0, is_sent: false }
    }

    /// Whether all pieces were given out.
    pub(super) fn is_over(&self) -> bool {
        self.at >= self.segments.len() || self.offset >= self.memory.len() as u64
    }

    /// The next piece: its address here, and there.
    pub(super) fn next(&mut self) -> Option<(u64, RemoteSegment)> {
        let segment = self.segments.get(self.at)?;
        let room = (self.memory.len() as u64).checked_sub(self.offset).filter(|room| *room > 0)?;
        let len = (segment.len - self.within).min(PIECE).min(u32::try_from(room).unwrap_or(u32::MAX));
        let piece = RemoteSegment { address: segment.address.wrapping_add(self.within.into()), key: segment.key, len };
        let address = self.memory.address() + self.offset;
        self.offset += u64::from(len);
        self.within += len;
        if self.within == segment.len {
            (self.at, self.within) = (self.at + 1, 0);
        }
        Some((address, piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostMemory;

    #[test]
    fn pieces_cover_the_segments_in_order_and_stay_within_the_memory() {
        let memory = HostMemory::new(3 << 20).unwrap();
        let start = memory.address();
        let segments = [(0x1000, 7, 5), (0x9000, 8, 0), (u64::MAX - 10, 9, (1 << 20) + 1), (0x5000, 1, 4 << 20)];
        let segments = segments.map(|(address, key, len)| RemoteSegment { address, key, len });
        let mut transfer = Transfer::new(memory, 1, &segments);
        let (mut at, mut first) = (start, None);
        while !transfer.is_over() {
            let (address, piece) = transfer.next().unwrap();
            assert_eq!(address, at);
            assert!(piece.len > 0 && piece.len <= PIECE);
            first.get_or_insert(piece);
            at += u64::from(piece.len);
        }
        assert_eq!(first, Some(segments[0]));
        assert_eq!(at, start + (3 << 20));
        assert!(transfer.next().is_none());
    }
}

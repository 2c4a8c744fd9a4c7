//! Memory that is sent with its digest behind it: what is summed is what is sent.

use super::TxSeg;
use crate::{Crc32c, Pool, RegionSlice, SharedBuf};

/// Bytes that are copied, then summed while the processor still has them in its first cache. A multiple of a word.
const STRIP: usize = 16 << 10;

/// Takes about `most` bytes from the front of `seg`, as they will be sent, and adds them to `crc`. Memory that other commands may write
/// must not change between the two, and is copied.
pub(super) fn take_front(seg: &mut TxSeg, most: usize, crc: &mut Crc32c, pool: &Pool) -> SharedBuf {
    // Whole strips: what is left of a region begins with a whole word, too.
    let len = most.max(1).checked_next_multiple_of(STRIP).unwrap_or(most).min(seg.len());
    match seg {
        TxSeg::Shared(buf) => {
            let nothing = || SharedBuf::from(&[][..]);
            let front = buf.slice(..len).unwrap_or_else(nothing);
            crc.update(&front);
            *buf = buf.slice(len..).unwrap_or_else(nothing);
            front
        }
        TxSeg::Region(slice) => {
            let front = copy(slice, len, crc, pool);
            slice.skip(len);
            front
        }
    }
}

/// The first `len` bytes of `slice`, as they are now, added to `crc`.
fn copy(slice: &RegionSlice, len: usize, crc: &mut Crc32c, pool: &Pool) -> SharedBuf {
    if let Some(mut buf) = pool.alloc(len) {
        let mut sum = *crc;
        let whole = buf.chunks_mut(STRIP).zip((0..).step_by(STRIP)).all(|(strip, at)| {
            let copied = slice.copy_out(at, strip).is_ok();
            sum.update(strip);
            copied
        });
        if whole {
            *crc = sum;
            return buf.freeze();
        }
    }
    // Nobody waits here: what the pool does not have the system has. Nor do the pool's copies take what does not consist of words.
    let mut bytes = Vec::new();
    if let Some(front) = slice.part(0, len) {
        front.append_to(&mut bytes);
    }
    crc.update(&bytes);
    SharedBuf::from_vec(bytes)
}

//! NVM (block) commands: NVM section 3, and Flush (base section 7.1).
//!
//! Protection information, limited retry, access hints and the like are ignored: a namespace has no metadata, and the
//! rest are hints. Write Uncorrectable, Verify and Copy are not implemented and not advertised.

use kvof_io::PoolBuf;
use kvof_spec::{NvmOpcode, Sqe, Status};

use super::{Completion, Pending, PendingStore, Prepared};
use crate::backend::{ByteRange, IoRequest, NvmRequest};

/// FUA, CDW12 bit 30: complete when the data are on the medium.
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// DEAC, CDW12 bit 25 of Write Zeroes: the blocks may be deallocated.
const DEALLOCATE: u32 = 1 << 25;
/// AD, CDW11 bit 2 of Dataset Management: deallocate.
const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;
/// Bytes of a range of Dataset Management.
const RANGE_LEN: usize = 16;

/// Size of blocks and of the namespace; `blocks * block_size` does not overflow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    block_size: u32,
    blocks: u64,
}

/// A command that waits for its data.
#[derive(Debug)]
pub(super) enum PendingData {
    Write { offset: u64, fua: bool },
    Compare { offset: u64 },
    Deallocate(Geometry),
}

impl Geometry {
    pub(super) fn new(block_size: u32, size: u64) -> Result<Self, Status> {
        let blocks = size.checked_div(u64::from(block_size)).ok_or(Status::INTERNAL_ERROR)?;
        Ok(Self { block_size, blocks })
    }

    /// The bytes of `count` blocks from block `first`.
    fn bytes(&self, first: u64, count: u64) -> Result<ByteRange, Status> {
        let end = first.checked_add(count).ok_or(Status::LBA_OUT_OF_RANGE)?;
        if end > self.blocks {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        let size = u64::from(self.block_size);
        Ok(ByteRange { offset: first * size, len: count * size })
    }

    /// What `sqe` reads, if it is a Read.
    pub(super) fn read_of(self, sqe: &Sqe) -> Option<ByteRange> {
        if sqe.opcode == NvmOpcode::READ.0 { blocks(self, sqe).ok() } else { None }
    }
}

pub(super) fn prepare(geometry: Geometry, sqe: &Sqe, sgl_len: u32) -> Result<Prepared, Status> {
    let cdw12 = sqe.cdw12.get();
    let fua = cdw12 & FORCE_UNIT_ACCESS != 0;
    let submit = |request| Ok(Prepared::Submit(IoRequest::Nvm(request)));
    match NvmOpcode(sqe.opcode) {
        NvmOpcode::FLUSH => submit(NvmRequest::Flush),
        NvmOpcode::READ => {
            let (offset, len) = transfer(geometry, sqe, sgl_len)?;
            submit(NvmRequest::Read { offset, len })
        }
        NvmOpcode::WRITE => {
            let (offset, len) = transfer(geometry, sqe, sgl_len)?;
            Ok(receive(len, PendingData::Write { offset, fua }))
        }
        NvmOpcode::COMPARE => {
            let (offset, len) = transfer(geometry, sqe, sgl_len)?;
            Ok(receive(len, PendingData::Compare { offset }))
        }
        NvmOpcode::WRITE_ZEROES => {
            let ByteRange { offset, len } = blocks(geometry, sqe)?;
            submit(NvmRequest::WriteZeroes { offset, len, deallocate: cdw12 & DEALLOCATE != 0, fua })
        }
        NvmOpcode::DATASET_MANAGEMENT => {
            let ranges = (sqe.cdw10.get() & 0xff) + 1;
            let len = ranges * RANGE_LEN as u32;
            if sgl_len < len {
                return Err(Status::DATA_SGL_LENGTH_INVALID);
            }
            if sqe.cdw11.get() & ATTRIBUTE_DEALLOCATE == 0 {
                // The other attributes are hints on future access, of which nothing is made.
                return Ok(Prepared::Complete(Completion::success()));
            }
            Ok(receive(len, PendingData::Deallocate(geometry)))
        }
        _ => Err(Status::INVALID_OPCODE),
    }
}

fn receive(len: u32, pending: PendingData) -> Prepared {
    Prepared::Receive { len, then: PendingStore(Pending::Nvm(pending)) }
}

/// SLBA (CDW10, CDW11) and NLB (CDW12 bits 15:0, 0's based), as bytes.
fn blocks(geometry: Geometry, sqe: &Sqe) -> Result<ByteRange, Status> {
    let first = u64::from(sqe.cdw11.get()) << 32 | u64::from(sqe.cdw10.get());
    geometry.bytes(first, u64::from(sqe.cdw12.get() & 0xffff) + 1)
}

/// As [`blocks`], for a command that moves the bytes: they must fit in the host's buffer.
fn transfer(geometry: Geometry, sqe: &Sqe, sgl_len: u32) -> Result<(u64, u32), Status> {
    let ByteRange { offset, len } = blocks(geometry, sqe)?;
    match u32::try_from(len) {
        Ok(len) if len <= sgl_len => Ok((offset, len)),
        _ => Err(Status::DATA_SGL_LENGTH_INVALID),
    }
}

impl PendingData {
    pub(super) fn submit(self, data: PoolBuf) -> IoRequest {
        IoRequest::Nvm(match self {
            Self::Write { offset, fua } => NvmRequest::Write { offset, data, fua },
            Self::Compare { offset } => NvmRequest::Compare { offset, data },
            Self::Deallocate(geometry) => match ranges(geometry, &data) {
                Ok(ranges) => NvmRequest::Deallocate { ranges },
                Err(status) => NvmRequest::Refused { status },
            },
        })
    }
}

/// The ranges of Dataset Management: each is context attributes (4 bytes), length in blocks (4), starting LBA (8).
fn ranges(geometry: Geometry, data: &[u8]) -> Result<Vec<ByteRange>, Status> {
    let (ranges, _) = data.as_chunks::<RANGE_LEN>();
    ranges
        .iter()
        .map(|&[_, _, _, _, c0, c1, c2, c3, s0, s1, s2, s3, s4, s5, s6, s7]| {
            let first = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            geometry.bytes(first, u64::from(u32::from_le_bytes([c0, c1, c2, c3])))
        })
        .collect()
}

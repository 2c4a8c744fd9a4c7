//! A block namespace in memory: one region that all cores read and write.
//!
//! A Read lends the region itself to the socket, so nothing is copied. The price: a Read and a Write of the same block that
//! are in flight together are not atomic towards each other, only words of 8 bytes are; whoever orders such commands, as
//! file systems and databases do, does not see it. Flush and FUA have nothing to do, and Deallocate keeps the data, which is
//! one of the answers that DLFEAT 000b leaves open.

use kvof_io::{Region, RegionError};
use kvof_spec::Status;

use super::{ByteRange, IoError, IoOutcome, IoResult, NvmRequest};
use crate::namespace::DataOut;

/// Bytes that Compare looks at in one go.
const COMPARE_STEP: usize = 4096;

/// The storage; every core has a clone.
#[derive(Clone, Debug)]
pub(super) struct NvmMemory {
    region: Region,
}

impl NvmMemory {
    pub(super) fn new(region: Region) -> Self {
        Self { region }
    }

    pub(super) fn execute(&self, request: &NvmRequest) -> IoResult {
        match request {
            NvmRequest::Read { offset, len } => {
                let blocks = self.region.slice(*offset, *len as usize).map_err(refused)?;
                Ok(IoOutcome::NvmData(DataOut::Region(blocks)))
            }
            NvmRequest::Write { offset, data, .. } => self.write(*offset, data),
            // At most 65536 blocks, at the speed of memory.
            NvmRequest::WriteZeroes { offset, len, .. } => {
                let len = usize::try_from(*len).map_err(|_| IoError::Nvm(Status::LBA_OUT_OF_RANGE))?;
                self.region.fill(*offset, len, 0).map_err(refused)?;
                Ok(IoOutcome::Nvm)
            }
            NvmRequest::Compare { offset, data } => self.compare(*offset, data),
            NvmRequest::Deallocate { .. } | NvmRequest::Flush => Ok(IoOutcome::Nvm),
            NvmRequest::Refused { status } => Err(IoError::Nvm(*status)),
        }
    }

    /// These bytes will be read soon.
    pub(super) fn expect_read(&self, range: ByteRange) {
        self.region.prefetch(range.offset, usize::try_from(range.len).unwrap_or(usize::MAX));
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> IoResult {
        self.region.copy_in(offset, data).map_err(refused)?;
        Ok(IoOutcome::Nvm)
    }

    fn compare(&self, mut offset: u64, data: &[u8]) -> IoResult {
        let mut held = [0; COMPARE_STEP];
        for expected in data.chunks(COMPARE_STEP) {
            let held = held.get_mut(..expected.len()).unwrap_or_default();
            self.region.copy_out(offset, held).map_err(refused)?;
            if held != expected {
                return Err(IoError::Nvm(Status::COMPARE_FAILURE));
            }
            offset = offset.saturating_add(expected.len() as u64);
        }
        Ok(IoOutcome::Nvm)
    }
}

fn refused(error: RegionError) -> IoError {
    IoError::Nvm(match error {
        RegionError::OutOfBounds { .. } => Status::LBA_OUT_OF_RANGE,
        RegionError::Unaligned { .. } => Status::INTERNAL_ERROR,
    })
}

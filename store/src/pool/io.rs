//! Blocking I/O on the devices of a pool.

use std::{io, sync::Arc};

use kvof_io::{DiskFile, Pool, PoolBuf, PoolConfig};

use super::PoolError;
use crate::{device::BlockIo, format::PAGE};

/// Bytes that are moved at a time where the caller's memory is not aligned.
const BOUNCE: usize = 1 << 20;

/// Blocking I/O on open devices by member number. Memory need not be aligned, offsets and lengths must be.
#[derive(Debug)]
pub struct PoolIo {
    files: Vec<Option<Arc<DiskFile>>>,
    bounce: PoolBuf,
}

impl PoolIo {
    /// I/O on `files`, by member number.
    ///
    /// # Errors
    /// [`PoolError::Memory`].
    pub fn new(files: Vec<Option<Arc<DiskFile>>>) -> Result<Self, PoolError> {
        Ok(Self { files, bounce: buffer(BOUNCE)? })
    }

    /// The device of a member from now on.
    pub fn set(&mut self, member: u16, file: Option<Arc<DiskFile>>) {
        if let Some(place) = self.files.get_mut(usize::from(member)) {
            *place = file;
        }
    }

    fn file(&self, member: u16) -> io::Result<&Arc<DiskFile>> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("the device of member {member} is missing"));
        self.files.get(usize::from(member)).and_then(Option::as_ref).ok_or_else(absent)
    }
}

/// `len` bytes of page-aligned memory.
pub(super) fn buffer(len: usize) -> Result<PoolBuf, PoolError> {
    Pool::new(PoolConfig { limit: len, shards: 1 }).alloc(len).ok_or(PoolError::Memory { bytes: len })
}

/// Fills `buf` from `offset`, all of it.
pub(super) fn read_exact(file: &DiskFile, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let done = file.read_at(offset, buf)?;
    if done == buf.len() {
        return Ok(());
    }
    let text = format!(
        "{} ends {done} bytes behind offset {offset}, where {} were expected",
        file.path().display(),
        buf.len()
    );
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
}

impl BlockIo for PoolIo {
    fn members(&self) -> u16 {
        u16::try_from(self.files.len()).unwrap_or(u16::MAX)
    }

    fn is_present(&self, member: u16) -> bool {
        self.file(member).is_ok()
    }

    fn read(&mut self, member: u16, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let file = Arc::clone(self.file(member)?);
        if buf.as_ptr().addr().is_multiple_of(PAGE) {
            return read_exact(&file, offset, buf);
        }
        let mut at = offset;
        for piece in buf.chunks_mut(BOUNCE) {
            let Some(bounce) = self.bounce.get_mut(..piece.len()) else {
                return Err(io::ErrorKind::OutOfMemory.into());
            };
            read_exact(&file, at, bounce)?;
            piece.copy_from_slice(bounce);
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn write(&mut self, member: u16, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = Arc::clone(self.file(member)?);
        if bytes.as_ptr().addr().is_multiple_of(PAGE) {
            return file.write_at(offset, bytes);
        }
        let mut at = offset;
        for piece in bytes.chunks(BOUNCE) {
            let Some(bounce) = self.bounce.get_mut(..piece.len()) else {
                return Err(io::ErrorKind::OutOfMemory.into());
            };
            bounce.copy_from_slice(piece);
            file.write_at(at, bounce)?;
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn flush(&mut self, member: u16) -> io::Result<()> {
        self.file(member)?.sync_data()
    }
}

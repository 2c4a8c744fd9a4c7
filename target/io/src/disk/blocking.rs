//! Blocking I/O on a [`DiskFile`]: for start-up and for tools, which have no event loop.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use super::DiskFile;

/// Discards of a block device start and end at a multiple of this many bytes, whatever its block size.
const SECTOR: u64 = 512;

impl DiskFile {
    /// Fills `buf` from `offset`; fewer bytes than it has are read only where the file ends. An error names the file. For a direct file
    /// offset, length and memory must be aligned (an error of kind `InvalidInput` otherwise); a pool buffer's memory is.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.check(offset, buf)?;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            match retry_on_intr(|| rustix::io::pread(&self.fd, &mut *rest, at)).map_err(self.failed("read"))? {
                0 => break,
                moved => done += moved,
            }
            // A direct read ends within a block only where the file does, and the rest could not be asked for.
            if !done.is_multiple_of(self.alignment) {
                break;
            }
        }
        Ok(done)
    }

    /// Writes all of `bytes` from `offset`, not necessarily durably (see [`Self::sync_data`]). What [`Self::read_at`] says of direct files
    /// holds here too. After an error any part of the bytes may have been written.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes)?;
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let moved = retry_on_intr(|| rustix::io::pwrite(&self.fd, rest, at)).map_err(self.failed("write to"))?;
            done += moved;
            if moved == 0 || !done.is_multiple_of(self.alignment) {
                let text = format!("{}: only {done} of {} bytes were written", self.path.display(), bytes.len());
                return Err(io::Error::new(io::ErrorKind::WriteZero, text));
            }
        }
        Ok(())
    }

    /// Makes all that was written durable, with the metadata needed to read it back (fdatasync). After an error earlier writes may be
    /// lost, and a later success does not take that back.
    pub fn sync_data(&self) -> io::Result<()> {
        retry_on_intr(|| rustix::fs::fdatasync(&self.fd)).map_err(self.failed("sync"))
    }

    /// Tells the device or file system that the contents of `len` bytes from `offset`, all within [`Self::len`], are not needed any more;
    /// Ok(false) where it has no use for that, and nothing has changed. Then a file reads as zeros there and keeps its length; what a
    /// device reads as is its own matter. For a device both numbers must be multiples of 512 and of its block size.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<bool> {
        let invalid = |text: &str| {
            let text = format!("cannot discard {len} bytes at offset {offset} of {}: {text}", self.path.display());
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        };
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return invalid(&format!("it has only {} bytes", self.len));
        }
        if len == 0 {
            return Ok(true);
        }
        let discarded = if self.block_device {
            let unit = (self.alignment as u64).max(SECTOR);
            if !offset.is_multiple_of(unit) || !len.is_multiple_of(unit) {
                return invalid(&format!("offset and length must be multiples of {unit} bytes"));
            }
            retry_on_intr(|| discard_blocks(self.fd.as_fd(), [offset, len]))
        } else {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            retry_on_intr(|| rustix::fs::fallocate(&self.fd, flags, offset, len))
        };
        match discarded {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY) => Ok(false),
            Err(e) => Err(self.failed("discard a part of")(e)),
        }
    }

    fn check(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.refusal(offset, bytes.as_ptr().addr(), bytes.len()) {
            None => Ok(()),
            Some(reason) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {reason}", self.path.display())))
            }
        }
    }

    fn failed(&self, what: &'static str) -> impl Fn(Errno) -> io::Error + '_ {
        move |e| {
            let error = io::Error::from(e);
            io::Error::new(error.kind(), format!("cannot {what} {}: {error}", self.path.display()))
        }
    }
}

/// `range` is an offset and a length in bytes.
fn discard_blocks(fd: rustix::fd::BorrowedFd<'_>, range: [u64; 2]) -> Result<(), Errno> {
    const BLKDISCARD: Opcode = opcode::none(0x12, 119);
    // SAFETY: the kernel reads two 64-bit numbers for this opcode.
    let setter = unsafe { Setter::<BLKDISCARD, [u64; 2]>::new(range) };
    // SAFETY: the request only reads the setter's own input; what it does to the device is what `discard` promises.
    unsafe { ioctl(fd, setter) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiskOpenOptions, Pool, PoolConfig};

    fn disk(direct: bool, size: u64) -> (tempfile::TempDir, DiskFile) {
        let dir = tempfile::tempdir().unwrap();
        let options = DiskOpenOptions { create: true, size: Some(size), direct, read_only: false };
        let file = DiskFile::open(dir.path().join("disk"), options).unwrap();
        (dir, file)
    }

    #[test]
    fn what_is_written_is_read_back_up_to_the_end() {
        for direct in [false, true] {
            let (_dir, file) = disk(direct, 64 << 10);
            let mut buf = Pool::new(PoolConfig::new(1 << 20)).alloc(20 << 10).unwrap();
            for (n, byte) in buf.iter_mut().enumerate() {
                *byte = (n >> 4) as u8;
            }
            file.write_at(8192, &buf).unwrap();
            file.sync_data().unwrap();
            let disk = std::fs::read(file.path()).unwrap();
            assert!(
                disk.len() == 64 << 10 && disk[8192..28 << 10] == buf[..] && disk[28 << 10..].iter().all(|b| *b == 0)
            );
            let written = buf.to_vec();
            buf.fill(0xff);
            assert_eq!(file.read_at(8192, &mut buf).unwrap(), 20 << 10);
            assert!(buf[..] == written[..]);
            buf.fill(0xff);
            assert_eq!(file.read_at(60 << 10, &mut buf).unwrap(), 4 << 10, "the file ends there");
            assert!(buf[..4096].iter().all(|b| *b == 0));
            assert_eq!(file.read_at(1 << 40, &mut buf).unwrap(), 0);
            assert_eq!(file.read_at(0, &mut []).unwrap(), 0);
            file.write_at(0, &[]).unwrap();
        }
    }

    #[test]
    fn the_end_of_the_file_within_a_block() {
        for direct in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("disk"), vec![6; 5000]).unwrap();
            let options = DiskOpenOptions { direct, ..Default::default() };
            let file = DiskFile::open(dir.path().join("disk"), options).unwrap();
            let mut buf = Pool::new(PoolConfig::new(1 << 20)).alloc(16 << 10).unwrap();
            assert_eq!(file.read_at(0, &mut buf).unwrap(), 5000);
            assert!(buf[..5000].iter().all(|b| *b == 6));
        }
    }

    #[test]
    fn what_direct_io_cannot_do_is_said_before_the_kernel_is_asked() {
        let (_dir, file) = disk(true, 64 << 10);
        if !file.is_direct() {
            return;
        }
        let mut buf = Pool::new(PoolConfig::new(1 << 20)).alloc(16 << 10).unwrap();
        let alignment = file.alignment();
        for (offset, range) in [(1, 0..alignment), (0, 0..100), (0, 1..alignment + 1)] {
            let skew = range.start;
            for error in [
                file.read_at(offset, &mut buf[range.clone()]).unwrap_err(),
                file.write_at(offset, &buf[range]).unwrap_err(),
            ] {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                let text = error.to_string();
                assert!(text.contains("disk: ") && text.contains(&format!("memory {skew} bytes off")), "{text}");
            }
        }
        let error = file.read_at(u64::MAX - 4095, &mut buf[..4096]).unwrap_err();
        assert!(error.to_string().contains("largest file offset"), "{error}");
    }

    #[test]
    fn errors_name_the_file_and_the_reason() {
        let (dir, file) = disk(false, 8192);
        drop(file);
        let options = DiskOpenOptions { read_only: true, ..Default::default() };
        let file = DiskFile::open(dir.path().join("disk"), options).unwrap();
        for error in [file.write_at(0, &[1]).unwrap_err(), file.discard(0, 4096).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("/disk: ") && text.contains("os error 9"), "{text}");
        }
    }

    #[test]
    fn a_discarded_part_of_a_file_is_zeros_and_takes_no_space() {
        use std::os::unix::fs::MetadataExt;
        for direct in [false, true] {
            let (_dir, file) = disk(direct, 1 << 20);
            let mut buf = Pool::new(PoolConfig::new(1 << 20)).alloc(1 << 20).unwrap();
            buf.fill(5);
            file.write_at(0, &buf).unwrap();
            file.sync_data().unwrap();
            let before = std::fs::metadata(file.path()).unwrap().blocks();
            assert!(file.discard(4096, 512 << 10).unwrap(), "the file systems that tests run on punch holes");
            let after = std::fs::metadata(file.path()).unwrap();
            assert!(after.len() == 1 << 20 && after.blocks() + 1000 < before, "{before} to {} sectors", after.blocks());
            let bytes = std::fs::read(file.path()).unwrap();
            assert!(bytes.iter().enumerate().all(|(n, b)| *b == if (4096..516 << 10).contains(&n) { 0 } else { 5 }));
            assert!(file.discard(1 << 20, 0).unwrap());
            for (offset, len) in [(1 << 20, 1), (0, (1 << 20) + 1), (u64::MAX, 2)] {
                let error = file.discard(offset, len).unwrap_err();
                assert!(error.to_string().contains("only 1048576 bytes"), "{error}");
            }
        }
    }

    /// With `KVOF_TEST_BLOCK_DEVICE`, a device that takes discards and whose contents may be lost.
    #[test]
    #[ignore = "needs a block device to overwrite, named by KVOF_TEST_BLOCK_DEVICE"]
    fn a_block_device_is_read_written_and_discarded() {
        let path = std::env::var("KVOF_TEST_BLOCK_DEVICE").unwrap();
        for direct in [false, true] {
            let file = DiskFile::open(&path, DiskOpenOptions { direct, ..Default::default() }).unwrap();
            assert!(file.is_block_device() && file.is_direct() == direct);
            let mut buf = Pool::new(PoolConfig::new(1 << 20)).alloc(64 << 10).unwrap();
            buf.fill(5);
            file.write_at(4096, &buf).unwrap();
            file.sync_data().unwrap();
            buf.fill(0);
            assert_eq!(file.read_at(4096, &mut buf).unwrap(), 64 << 10);
            assert!(buf.iter().all(|b| *b == 5));
            assert!(file.discard(8192, 4096).unwrap());
            let error = file.discard(1, 4096).unwrap_err();
            assert!(error.to_string().contains("multiples of"), "{error}");
            assert!(file.discard(0, file.len() + 4096).is_err());
            let last = file.len() - 4096;
            assert_eq!(file.read_at(last, &mut buf).unwrap(), 4096, "the device ends there");
        }
    }
}

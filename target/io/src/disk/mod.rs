//! A file or block device that the event loop reads and writes.
//!
//! Invariant: as long as a [`DiskFile`] opened for writing lives, no other can be opened on the same file by anyone who asks for the lock.

mod blocking;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

use crate::{PAGE_SIZE, RejectReason};

/// How a [`DiskFile`] is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskOpenOptions {
    /// Make a regular file if there is none (mode 0600).
    pub create: bool,
    /// Least length in bytes. A shorter regular file is extended with zeros and its space is reserved; nothing is ever cut. A shorter
    /// block device is an error.
    pub size: Option<u64>,
    /// Bypass the page cache. Where the file system cannot, the file is opened without and [`DiskFile::is_direct`] says so.
    pub direct: bool,
    /// Only read: the lock is shared with other readers, and neither `create` nor `size` changes the file.
    pub read_only: bool,
}

/// Why a file could not be opened. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process (or this one) has it open.
    #[error("{path} is in use by another target or tool; stop that one first, or give this one another file")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A directory, pipe, terminal or the like.
    #[error("{path} is neither a regular file nor a block device")]
    WrongType {
        /// The file.
        path: PathBuf,
    },
    /// Shorter than asked for and not to be extended.
    #[error("{path} has {actual} bytes, {wanted} are needed")]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        actual: u64,
        /// The length asked for, in bytes.
        wanted: u64,
    },
    /// A system call failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// An open, locked file or block device.
#[derive(Debug)]
pub struct DiskFile {
    fd: OwnedFd,
    path: PathBuf,
    len: u64,
    direct: bool,
    alignment: usize,
    block_device: bool,
    disk: u64,
}

impl DiskFile {
    /// Opens and locks `path`.
    pub fn open(path: impl AsRef<Path>, options: DiskOpenOptions) -> Result<Self, DiskError> {
        let path = path.as_ref();
        let failed = |what| move |e: Errno| DiskError::Io { path: path.to_owned(), what, source: e.into() };
        let (fd, direct) = patiently(Errno::BUSY, || open_fd(path, options)).map_err(|e| match e {
            // The kernel's own claim on a block device: mounted, part of an array, or claimed by another process.
            Errno::BUSY => DiskError::InUse { path: path.to_owned() },
            e => failed("open")(e),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(failed("stat"))?;
        let block_device = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            _ => return Err(DiskError::WrongType { path: path.to_owned() }),
        };
        let lock = if options.read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        patiently(Errno::WOULDBLOCK, || rustix::fs::flock(&fd, lock)).map_err(|e| match e {
            Errno::WOULDBLOCK => DiskError::InUse { path: path.to_owned() },
            e => failed("lock")(e),
        })?;
        let len = if block_device {
            block_device_len(fd.as_fd()).map_err(failed("ask the size of"))?
        } else {
            regular_len(fd.as_fd(), options).map_err(failed("reserve space for"))?
        };
        if let Some(wanted) = options.size.filter(|wanted| *wanted > len) {
            return Err(DiskError::TooSmall { path: path.to_owned(), actual: len, wanted });
        }
        let alignment = if direct { alignment(fd.as_fd(), block_device) } else { 1 };
        let disk = if block_device { stat.st_rdev } else { stat.st_dev };
        Ok(Self { fd, path: path.to_owned(), len, direct, alignment, block_device, disk })
    }

    /// Length in bytes at the time of opening.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether I/O bypasses the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// What offsets and lengths of I/O must be multiples of, in bytes: 1 unless the file is direct. Never more than 4096 on
    /// usual devices, and buffers of the pool are aligned to that.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Whether this is a block device.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// The number of what the bytes lie on: the block device itself, or that of a regular file's file system. Files with the same
    /// number wait for each other.
    pub fn disk(&self) -> u64 {
        self.disk
    }

    /// Why `len` bytes of memory from address `memory` cannot be moved to or from `offset`.
    pub(crate) fn refusal(&self, offset: u64, memory: usize, len: usize) -> Option<RejectReason> {
        let alignment = self.alignment;
        // Some devices ask less of the memory than of the offset; what they all take is enough for us. No bytes are nowhere.
        let skew = if len == 0 { 0 } else { memory % alignment };
        if !len.is_multiple_of(alignment) || !offset.is_multiple_of(alignment as u64) || skew != 0 {
            return Some(RejectReason::Misaligned { offset, len, skew, alignment });
        }
        let end = offset.checked_add(len as u64);
        end.is_none_or(|end| i64::try_from(end).is_err()).then_some(RejectReason::OutOfRange { offset, len })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How long a file that is in use is waited for. When a process is killed, the kernel takes a moment to end the requests of its
/// ring, and with them its hold on the file: whoever starts it again at once must not be told that it still runs.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1500 });

/// Tries again while the answer is `busy`, for as long as [`PATIENCE`] lasts.
fn patiently<T>(busy: Errno, mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if error == busy && Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
}

/// The file, and whether it was opened for direct I/O.
fn open_fd(path: &Path, options: DiskOpenOptions) -> Result<(OwnedFd, bool), Errno> {
    // NONBLOCK keeps the open of a pipe or a dead device from hanging; it has no meaning for regular files.
    let mut flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    flags |= if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    if options.create && !options.read_only {
        flags |= OFlags::CREATE;
    }
    let is_block_device =
        rustix::fs::stat(path).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::BlockDevice);
    if is_block_device && !options.read_only {
        // For a block device EXCL means: fail when it is mounted or otherwise claimed by the system.
        flags = flags.difference(OFlags::CREATE) | OFlags::EXCL;
    }
    let open = |flags| rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR));
    if options.direct {
        match open(flags | OFlags::DIRECT) {
            // File systems without direct I/O say so with this error.
            Err(Errno::INVAL) => {}
            other => return Ok((other?, true)),
        }
    }
    Ok((open(flags)?, false))
}

fn regular_len(fd: BorrowedFd<'_>, options: DiskOpenOptions) -> Result<u64, Errno> {
    let length = || Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0));
    let now = length()?;
    match options.size {
        Some(size) if size > now && !options.read_only => {
            match rustix::io::retry_on_intr(|| rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size)) {
                // The file system cannot reserve: a sparse file serves, and running out of space shows as a write error.
                Err(Errno::OPNOTSUPP) => rustix::fs::ftruncate(fd, size)?,
                other => other?,
            }
            length()
        }
        _ => Ok(now),
    }
}

fn block_device_len(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    // Declared with size_t, but the kernel writes 64 bits everywhere.
    const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
    // SAFETY: the kernel answers this opcode with a u64.
    let getter = unsafe { Getter::<BLKGETSIZE64, u64>::new() };
    // SAFETY: the request only writes the getter's own output.
    unsafe { ioctl(fd, getter) }
}

fn alignment(fd: BorrowedFd<'_>, block_device: bool) -> usize {
    // STATX_DIOALIGN, which kernels before 6.1 leave unanswered.
    const DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);
    let asked =
        rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, DIOALIGN).ok().filter(|s| s.stx_mask & DIOALIGN.bits() != 0);
    let logical_block = || block_device.then(|| rustix::fs::ioctl_blksszget(fd).ok()).flatten();
    asked
        .map(|s| s.stx_dio_offset_align)
        .filter(|a| *a > 0)
        .or_else(logical_block)
        .and_then(|a| usize::try_from(a).ok())
        .filter(|a| a.is_power_of_two())
        // Every device's blocks divide a page, so this is always enough.
        .unwrap_or(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: DiskOpenOptions = DiskOpenOptions { create: true, size: Some(1 << 20), direct: false, read_only: false };

    #[test]
    fn creates_extends_and_never_cuts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        assert!(matches!(DiskFile::open(&path, DiskOpenOptions::default()), Err(DiskError::Io { what: "open", .. })));
        assert_eq!(DiskFile::open(&path, NEW).unwrap().len(), 1 << 20);
        assert_eq!(DiskFile::open(&path, DiskOpenOptions { size: Some(2 << 20), ..NEW }).unwrap().len(), 2 << 20);
        let kept = DiskFile::open(&path, DiskOpenOptions { size: Some(4096), ..NEW }).unwrap();
        assert_eq!(kept.len(), 2 << 20);
        assert!(!kept.is_direct() && !kept.is_block_device() && !kept.is_empty());
        assert_eq!(kept.alignment(), 1);
        assert_eq!(kept.path(), path);
        assert_eq!(kept.disk(), rustix::fs::stat(dir.path()).unwrap().st_dev);
        drop(kept);
        let reader = DiskOpenOptions { read_only: true, size: Some(4 << 20), ..Default::default() };
        let error = DiskFile::open(&path, reader).unwrap_err();
        assert!(matches!(error, DiskError::TooSmall { actual: 0x20_0000, wanted: 0x40_0000, .. }), "{error}");
    }

    #[test]
    fn the_lock_admits_one_writer_or_many_readers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let reader = DiskOpenOptions { read_only: true, ..Default::default() };
        let writer = DiskFile::open(&path, NEW).unwrap();
        let error = DiskFile::open(&path, NEW).unwrap_err();
        assert!(matches!(error, DiskError::InUse { .. }));
        assert!(error.to_string().contains("disk is in use"), "{error}");
        assert!(matches!(DiskFile::open(&path, reader), Err(DiskError::InUse { .. })));
        drop(writer);
        let first = DiskFile::open(&path, reader).unwrap();
        let second = DiskFile::open(&path, reader).unwrap();
        assert!(matches!(DiskFile::open(&path, NEW), Err(DiskError::InUse { .. })));
        drop((first, second));
        DiskFile::open(&path, NEW).unwrap();
    }

    #[test]
    fn a_file_that_is_let_go_soon_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let first = DiskFile::open(&path, NEW).unwrap();
        let owner = std::thread::spawn(move || {
            std::thread::sleep(PATIENCE / 3);
            drop(first);
        });
        DiskFile::open(&path, NEW).unwrap();
        owner.join().unwrap();
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [fifo.as_path(), Path::new("/dev/null")] {
            let error = DiskFile::open(path, DiskOpenOptions::default()).unwrap_err();
            assert!(matches!(error, DiskError::WrongType { .. }), "{error}");
        }
        let error = DiskFile::open(dir.path(), DiskOpenOptions { read_only: true, ..Default::default() }).unwrap_err();
        assert!(matches!(error, DiskError::WrongType { .. }), "{error}");
    }

    #[test]
    fn direct_states_what_it_got() {
        let dir = tempfile::tempdir().unwrap();
        let file = DiskFile::open(dir.path().join("disk"), DiskOpenOptions { direct: true, ..NEW }).unwrap();
        let flags = rustix::fs::fcntl_getfl(&file).unwrap();
        assert_eq!(flags.contains(OFlags::DIRECT), file.is_direct());
        assert!(file.alignment().is_power_of_two() && file.alignment() <= PAGE_SIZE);
        assert_eq!(file.alignment() > 1, file.is_direct());
        // procfs has no direct I/O: the fallback must say so.
        let fallback =
            DiskFile::open("/proc/version", DiskOpenOptions { direct: true, read_only: true, ..Default::default() });
        assert!(!fallback.unwrap().is_direct());
    }
}

//! One path: what may be opened, and who uses it already.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use kvof_io::{DiskError, DiskFile, DiskOpenOptions};

use super::PoolError;
use crate::format::PAGE;

/// What makes two paths the same device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Identity {
    /// A block device, by its number.
    Block(u64),
    /// A file, by file system and inode.
    File(u64, u64),
}

impl Identity {
    pub(super) fn of(path: &Path) -> Result<Self, PoolError> {
        let failed = |source| PoolError::Io { path: path.to_owned(), what: "look at", source };
        let metadata = fs::metadata(path).map_err(failed)?;
        let kind = metadata.file_type();
        let kind = match () {
            () if kind.is_file() => return Ok(Self::File(metadata.dev(), metadata.ino())),
            () if kind.is_block_device() => return Ok(Self::Block(metadata.rdev())),
            () if kind.is_dir() => "directory",
            () if kind.is_char_device() => "character device (a terminal, or the like)",
            () if kind.is_fifo() => "pipe",
            () if kind.is_socket() => "socket",
            () => "special file",
        };
        Err(PoolError::NotADevice { path: path.to_owned(), kind })
    }
}

/// Opens and locks a device, for direct I/O where there is such a thing. A file shorter than `size` is extended.
pub(super) fn open(path: &Path, read_only: bool, size: Option<u64>) -> Result<DiskFile, PoolError> {
    let options = DiskOpenOptions { create: size.is_some(), size, direct: true, read_only };
    let file = DiskFile::open(path, options).map_err(|error| match error {
        DiskError::InUse { path } => PoolError::InUse { by: used_by(&path), path },
        DiskError::WrongType { path } => PoolError::NotADevice { path, kind: "special file" },
        DiskError::TooSmall { path, actual, wanted } => PoolError::TooSmall {
            path,
            bytes: actual,
            needed: wanted,
            what: "the `--size` asked for".to_owned(),
            made: false,
        },
        DiskError::Io { path, what, source } => PoolError::Io { path, what, source },
    })?;
    if file.alignment() > PAGE {
        return Err(PoolError::BlockSize { path: path.to_owned(), block: file.alignment() });
    }
    Ok(file)
}

/// Whether the pool may go on without a device that cannot be opened for this reason.
pub(super) fn is_gone(error: &PoolError) -> bool {
    match error {
        // Whoever may not open a device should not have it declared dead.
        PoolError::Io { source, .. } => source.kind() != ErrorKind::PermissionDenied,
        _ => false,
    }
}

/// Who has a device that is in use, as far as the system tells.
fn used_by(path: &Path) -> String {
    let plain = "another kvof-target or tool has it open; stop that one first".to_owned();
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_it = |other: &str| fs::canonicalize(other).unwrap_or_else(|_| PathBuf::from(other)) == real;
    let first_word = |line: &str| line.split_ascii_whitespace().next().unwrap_or_default().to_owned();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if let Some(line) = mounts.lines().find(|line| line.starts_with('/') && is_it(&first_word(line))) {
        let place = line.split_ascii_whitespace().nth(1).unwrap_or_default();
        return format!("it is mounted at {place}; unmount it if its data are not needed any more");
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().skip(1).any(|line| is_it(&first_word(line))) {
        return "it is swap space; `swapoff` it first".to_owned();
    }
    let Some(name) = real.file_name().and_then(|name| name.to_str()) else { return plain };
    let class = Path::new("/sys/class/block").join(name);
    let holders: Vec<String> = fs::read_dir(class.join("holders"))
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    if !holders.is_empty() {
        return format!("it is part of {}; take it out of there first", holders.join(", "));
    }
    let partitions = fs::read_dir(&class)
        .map(|entries| entries.flatten().filter(|entry| entry.path().join("partition").exists()).count());
    match partitions {
        Ok(count) if count > 0 => {
            format!("it has {count} partitions, of which some may be mounted; or {plain}")
        }
        _ => plain,
    }
}

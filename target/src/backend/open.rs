//! Opens the storage of a namespace: one part for each core.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kvof_io::{DiskError, DiskFile, DiskOpenOptions, PAGE_SIZE, Pool, Region};

use super::{
    kv_file::{FormatError, KvFile},
    kv_memory::KvMemory,
    memory_shard::{MemoryShard, PoolRoom},
    nvm_file::NvmFile,
    nvm_memory::NvmMemory,
    usage::Usage,
};
use crate::model::{Namespace, NamespaceKindDef, StorageDef};

/// One core's part of a storage, for [`Backends::attach`](super::Backends::attach).
#[derive(Debug)]
pub struct BackendPart(pub(super) PartKind);

#[derive(Debug)]
pub(super) enum PartKind {
    KvMemory(KvMemory),
    /// On the core that owns the file.
    KvFile(Box<KvFile>),
    /// On the others.
    KvFileElsewhere {
        owner: usize,
    },
    NvmMemory(NvmMemory),
    NvmFile(NvmFile),
}

/// Why a storage could not be opened. Every message names what it is about and the way out.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened, is in use, too small, or no file.
    #[error("namespace {nsid}: {source}{hint}")]
    Disk {
        /// The namespace.
        nsid: u32,
        /// What happened.
        source: DiskError,
        /// What to do, where the error itself does not say; starts with "; ".
        hint: &'static str,
    },
    /// There is nothing at the path, and it is no place to make a file.
    #[error("namespace {nsid}: there is no {path}; {hint}")]
    Missing {
        /// The namespace.
        nsid: u32,
        /// The path.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// The size does not fit the medium.
    #[error("namespace {nsid}: a size of {size} bytes {problem}")]
    Size {
        /// The namespace.
        nsid: u32,
        /// Its size in bytes.
        size: u64,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The file does not hold what the configuration says.
    #[error("namespace {nsid}: {path}: {source}")]
    Format {
        /// The namespace.
        nsid: u32,
        /// The path.
        path: PathBuf,
        /// What was found.
        source: FormatError,
    },
    /// Memory for the namespace.
    #[error(
        "namespace {nsid}: no memory for its {size} bytes: {source}; make the namespace smaller, keep it in a file, or \
         raise the limit of the memory pool"
    )]
    Memory {
        /// The namespace.
        nsid: u32,
        /// Bytes asked for.
        size: u64,
        /// The system's reason.
        source: io::Error,
    },
}

/// Opens the storage of `ns` for `cores` cores: the part of core 0 comes first. A file that does not exist is made (but not
/// under `/dev`), and a KV file is formatted if it holds nothing yet. May take long: a KV file is scanned. Blocks.
///
/// Sets the namespace's usage to what was found.
///
/// # Errors
/// [`OpenError`].
pub fn open(ns: &Arc<Namespace>, cores: usize, pool: &Pool) -> Result<Vec<BackendPart>, OpenError> {
    let cores = cores.max(1);
    let parts: Vec<PartKind> = match &ns.def.kind {
        NamespaceKindDef::Kv { storage: StorageDef::Memory, size, .. } => {
            let room = PoolRoom::new(pool.limit(), *size);
            let shards = (0..cores).filter_map(|_| {
                let (usage, limits) = Usage::new(ns)?;
                let shard = MemoryShard::new(usage, limits, room.clone(), pool.clone());
                Some(PartKind::KvMemory(KvMemory::new(shard)))
            });
            shards.collect()
        }
        NamespaceKindDef::Kv { storage: StorageDef::File { path }, size, .. } => kv_file(ns, path, *size, cores, pool)?,
        NamespaceKindDef::Nvm { storage: StorageDef::Memory, block_size, size } => {
            let no_memory = |source| OpenError::Memory { nsid: ns.def.nsid, size: *size, source };
            check_multiple(ns, *size, u64::from(*block_size))?;
            let len = usize::try_from(*size).map_err(|_| no_memory(io::ErrorKind::OutOfMemory.into()))?;
            let store = NvmMemory::new(Region::new(len).map_err(no_memory)?);
            (0..cores).map(|_| PartKind::NvmMemory(store.clone())).collect()
        }
        NamespaceKindDef::Nvm { storage: StorageDef::File { path }, block_size, size } => {
            check_multiple(ns, *size, u64::from(*block_size))?;
            let mut file = open_disk(ns, path, *size, true)?;
            if !(*block_size as usize).is_multiple_of(file.alignment()) {
                // A block smaller than what direct I/O can write: the page cache merges it into its surroundings.
                tracing::warn!(
                    nsid = ns.def.nsid,
                    path = %path.display(),
                    block_size,
                    alignment = file.alignment(),
                    "opened through the page cache: the block size is below the alignment of direct I/O"
                );
                drop(file);
                file = open_disk(ns, path, *size, false)?;
            }
            let no_memory =
                || OpenError::Memory { nsid: ns.def.nsid, size: *size, source: io::ErrorKind::OutOfMemory.into() };
            let stores = NvmFile::for_cores(file, *size, cores, pool).ok_or_else(no_memory)?;
            stores.into_iter().map(PartKind::NvmFile).collect()
        }
    };
    Ok(parts.into_iter().map(BackendPart).collect())
}

fn kv_file(ns: &Arc<Namespace>, path: &Path, size: u64, cores: usize, pool: &Pool) -> Result<Vec<PartKind>, OpenError> {
    check_multiple(ns, size, PAGE_SIZE as u64)?;
    let file = open_disk(ns, path, size, true)?;
    let store = KvFile::open(ns, file, size, pool).map_err(|source| OpenError::Format {
        nsid: ns.def.nsid,
        path: path.to_owned(),
        source,
    })?;
    let owner = ns.backend.0 as usize % cores;
    let mut store = Some(Box::new(store));
    let part = |core| match store.take_if(|_| core == owner) {
        Some(store) => PartKind::KvFile(store),
        None => PartKind::KvFileElsewhere { owner },
    };
    Ok((0..cores).map(part).collect())
}

fn check_multiple(ns: &Namespace, size: u64, of: u64) -> Result<(), OpenError> {
    let whole = size.checked_div(of).unwrap_or(0).saturating_mul(of);
    if size > 0 && whole == size {
        return Ok(());
    }
    let problem =
        format!("is no multiple of {of} bytes; the nearest that are: {whole} and {}", whole.saturating_add(of));
    Err(OpenError::Size { nsid: ns.def.nsid, size, problem })
}

fn open_disk(ns: &Namespace, path: &Path, size: u64, direct: bool) -> Result<DiskFile, OpenError> {
    let nsid = ns.def.nsid;
    let is_new = !path.exists();
    if is_new {
        let missing = |hint| OpenError::Missing { nsid, path: path.to_owned(), hint };
        // Memory for files is all right, a regular file in place of a device is a surprise.
        if path.starts_with("/dev") && !path.starts_with("/dev/shm") {
            return Err(missing(
                "devices are listed by `lsblk`; a regular file is made where it is missing, but not under /dev",
            ));
        }
        if path.parent().is_some_and(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
            return Err(missing("its directory does not exist either: make it, or correct the path"));
        }
    }
    let options = DiskOpenOptions { create: true, size: Some(size), direct, read_only: false };
    let file = DiskFile::open(path, options).map_err(|source| {
        let hint = match &source {
            DiskError::WrongType { .. } => "; name a file (it is made if it is missing) or a block device",
            DiskError::TooSmall { .. } => "; set the namespace's size to what is there, or use a larger device",
            DiskError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "; let the target's user read and write it"
            }
            DiskError::Io { source, .. } if source.kind() == io::ErrorKind::IsADirectory => {
                "; name a file in it (it is made if it is missing) or a block device"
            }
            DiskError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "; free some space there or make the namespace smaller"
            }
            _ => "",
        };
        OpenError::Disk { nsid, source, hint }
    })?;
    if is_new {
        sync_parent(path).map_err(|source| {
            let source = DiskError::Io { path: path.to_owned(), what: "sync the directory of", source };
            OpenError::Disk { nsid, source, hint: "" }
        })?;
    }
    Ok(file)
}

/// Makes the name of a new file durable: what is in a file without a name is lost with the power, however often it is
/// synced.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent)?.sync_all()
}

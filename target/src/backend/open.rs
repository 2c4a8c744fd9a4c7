//! Opens the storage of a namespace: one part for each core.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kvof_io::{DiskError, DiskFile, DiskOpenOptions, Pool, Region};
use kvof_store::volume::NamespaceSpec;

use super::{
    PoolAttachError,
    kv_memory::KvMemory,
    memory_shard::{MemoryShard, PoolRoom},
    nvm_file::NvmFile,
    nvm_memory::NvmMemory,
    pool::Pooled,
};
use crate::model::{KvStorageDef, Namespace, NamespaceKindDef, StorageDef};

/// One core's part of a storage, for [`Backends::attach`](super::Backends::attach).
#[derive(Debug)]
pub struct BackendPart(pub(super) PartKind);

#[derive(Debug)]
pub(super) enum PartKind {
    KvMemory(KvMemory),
    Pooled(Pooled),
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
    #[error("namespace {nsid}: {path}: {hint}")]
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
    /// The pool cannot have the namespace.
    #[error("namespace {nsid}: pool {pool}: {source}")]
    Attach {
        /// The namespace.
        nsid: u32,
        /// The pool.
        pool: String,
        /// Why.
        source: PoolAttachError,
    },
    /// The file of another namespace.
    #[error(
        "namespace {nsid}: {pool} belongs to the namespace with UUID {found}, this one has {expected}; correct the path or \
         the UUID"
    )]
    OtherNamespace {
        /// The namespace.
        nsid: u32,
        /// The file's pool.
        pool: String,
        /// UUID in the file.
        found: String,
        /// UUID of the namespace.
        expected: String,
    },
    /// The namespace lies in a pool, which its storage has to be opened through.
    #[error("namespace {nsid} lies in pool {pool}, which is not open")]
    NoPool {
        /// The namespace.
        nsid: u32,
        /// The pool.
        pool: String,
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
/// under `/dev`). A namespace in a pool is not opened here, but attached to its pool.
///
/// # Errors
/// [`OpenError`].
pub fn open(ns: &Arc<Namespace>, cores: usize, pool: &Pool) -> Result<Vec<BackendPart>, OpenError> {
    let cores = cores.max(1);
    let parts: Vec<PartKind> = match &ns.def.kind {
        NamespaceKindDef::Kv { storage: KvStorageDef::Memory, size, limits } => {
            let room = PoolRoom::new(pool.limit(), *size);
            let shard = |_| MemoryShard::new(ns.state.usage.clone(), *limits, room.clone(), pool.clone());
            (0..cores).map(|core| PartKind::KvMemory(KvMemory::new(shard(core)))).collect()
        }
        NamespaceKindDef::Kv { storage: KvStorageDef::Pool(pool), .. } => {
            return Err(OpenError::NoPool { nsid: ns.def.nsid, pool: pool.pool.clone() });
        }
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

/// What each of the `shards` volumes of its pool is told of `ns`; `None` for one that lies in no pool.
#[must_use]
pub fn namespace_spec(ns: &Namespace, shards: u16) -> Option<NamespaceSpec> {
    let NamespaceKindDef::Kv { limits, storage: KvStorageDef::Pool(pool), .. } = &ns.def.kind else { return None };
    Some(NamespaceSpec {
        uuid: ns.def.uuid,
        mode: pool.mode,
        durability: pool.durability,
        limits: *limits,
        usage: ns.state.usage.clone(),
        reservation: pool.reservation.div_ceil(u64::from(shards.max(1))),
    })
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
        place_for_new(path).map_err(|hint| OpenError::Missing { nsid, path: path.to_owned(), hint })?;
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

/// Why no file is made at `path`, where there is nothing, and what to do.
pub(super) fn place_for_new(path: &Path) -> Result<(), &'static str> {
    // Memory for files is all right, a regular file in place of a device is a surprise.
    if path.starts_with("/dev") && !path.starts_with("/dev/shm") {
        return Err(
            "there is nothing; devices are listed by `lsblk`, and a regular file is made where it is missing, but not under /dev",
        );
    }
    if path.parent().is_some_and(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
        return Err("there is nothing, and its directory does not exist either: make it, or correct the path");
    }
    Ok(())
}

/// Makes the name of a new file durable: what is in a file without a name is lost with the power, however often it is
/// synced.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent)?.sync_all()
}

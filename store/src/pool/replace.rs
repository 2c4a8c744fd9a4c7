//! Giving a lost device's place to a new one.
//!
//! This writes to the new device alone. The pool's own devices are only looked at, without their locks: the pool may be in
//! use, and the target takes the new device when it looks for devices the next time.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use kvof_io::DiskFile;

use super::{
    PoolError, Problem,
    device::{self, Identity},
    labels::{self, newest_superblock},
    make::{random, wipe, write_labels},
    recognise::{Contents, recognise},
};
use crate::{
    device::BlockIo,
    format::{FormatError, Label, MemberState, PAGE, Uuid},
};

/// How a device is replaced.
#[derive(Clone, Debug, Default)]
pub struct ReplaceOptions {
    /// Which place; the one that is missing or failed if there is one.
    pub member: Option<u16>,
    /// Least bytes of a regular file: a shorter one is extended, and a missing one made. Without, the file has to be there; it
    /// is extended to what the pool needs.
    pub size: Option<u64>,
    /// Overwrite whatever the new device holds.
    pub force: bool,
    /// Check all, change nothing.
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The label of the new device.
    pub label: Label,
    /// What it held, if anything.
    pub held: Option<String>,
    /// Bytes of it that the pool has no use for.
    pub unused: u64,
    /// Paths of the pool that could not be read.
    pub problems: Vec<Problem>,
}

/// Labels the device at `path` as the one that takes a lost device's place in the pool on `pool`.
///
/// # Errors
/// [`PoolError`].
pub fn replace(path: &Path, pool: &[PathBuf], options: &ReplaceOptions) -> Result<Replaced, PoolError> {
    let (mut members, problems) = Observed::open(pool)?;
    let label = members.label.clone();
    let geometry = label.geometry;
    // The place is free if nobody is there, or if the pool has given up on who is.
    let newest = newest_superblock(&mut members, &geometry, label.pool, 0);
    let state = |member: u16| {
        let newest = newest.as_ref()?;
        newest.superblock.members.get(usize::from(member)).copied()
    };
    let is_free = |member: u16| {
        !members.is_present(member) || state(member).is_some_and(|member| member.state == MemberState::Failed)
    };
    let member = match options.member {
        Some(member) if member >= geometry.members() => {
            return Err(PoolError::NoSuchMember { member, members: geometry.members() });
        }
        Some(member) if !is_free(member) => {
            return Err(PoolError::MemberPresent { member, present: members.path(member) });
        }
        Some(member) => member,
        None => {
            let free: Vec<u16> = (0..geometry.members()).filter(|member| is_free(*member)).collect();
            match *free.as_slice() {
                [member] => member,
                [] => return Err(PoolError::NothingMissing { members: geometry.members(), path: path.to_owned() }),
                _ => {
                    let missing = free.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
                    return Err(PoolError::SeveralMissing { missing, path: path.to_owned() });
                }
            }
        }
    };
    let old: Uuid = state(member)
        .map(|member| member.device)
        .or_else(|| members.labels.get(usize::from(member))?.as_ref().map(|(_, label)| label.device))
        .unwrap_or_default();

    if let Some((_, of)) =
        members.identities.iter().find(|(identity, _)| Identity::of(path).is_ok_and(|new| new == *identity))
    {
        return Err(PoolError::AlreadyMember { path: path.to_owned(), member: *of });
    }
    let device = New::open(path, &label, options)?;
    let label = Label { device: random(), replaces: old, member, ..label };
    let replaced = Replaced {
        unused: device.bytes.saturating_sub(geometry.device_bytes()),
        held: device.held.clone(),
        label,
        problems,
    };
    if !options.dry_run {
        device.take(&replaced.label)?;
    }
    Ok(replaced)
}

/// The new device.
struct New {
    path: PathBuf,
    file: Option<DiskFile>,
    bytes: u64,
    held: Option<String>,
    old_label: Option<u64>,
}

impl New {
    fn open(path: &Path, label: &Label, options: &ReplaceOptions) -> Result<Self, PoolError> {
        let needed = label.geometry.device_bytes();
        match Identity::of(path) {
            Ok(_) => {}
            Err(PoolError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let Some(size) = options.size else { return Err(PoolError::Missing { path: path.to_owned() }) };
                if size < needed {
                    return Err(PoolError::too_small(path.to_owned(), size, &label.geometry, true));
                }
                return Ok(Self { path: path.to_owned(), file: None, bytes: size, held: None, old_label: None });
            }
            Err(error) => return Err(error),
        }
        let file = device::open(path, false, None)?;
        let failed = |source| PoolError::Io { path: path.to_owned(), what: "read", source };
        let found = labels::read(&file, None).ok().map(|found| found.label);
        let held = match recognise(&file).map_err(failed)? {
            Contents::Nothing => None,
            Contents::Known(known) => Some(known),
            Contents::Unknown => Some("data of an unknown kind".to_owned()),
        };
        if let Some(found) = held.clone().filter(|_| !options.force) {
            return Err(PoolError::Occupied { path: path.to_owned(), found });
        }
        let bytes = match file.is_block_device() {
            true => file.len(),
            false => file.len().max(options.size.unwrap_or(needed)),
        };
        if bytes < needed {
            return Err(PoolError::too_small(path.to_owned(), bytes, &label.geometry, !file.is_block_device()));
        }
        let old_label = found.map(|label| label.geometry.second_label());
        Ok(Self { path: path.to_owned(), file: Some(file), bytes, held, old_label })
    }

    fn take(self, label: &Label) -> Result<(), PoolError> {
        let file = match self.file {
            Some(file) if file.len() >= self.bytes => file,
            other => {
                drop(other);
                device::open(&self.path, false, Some(self.bytes))?
            }
        };
        wipe(&file, &label.geometry, self.old_label)?;
        super::make::sync(std::slice::from_ref(&file))?;
        write_labels(&file, label)
    }
}

/// The pool's devices, looked at without their locks.
struct Observed {
    label: Label,
    labels: Vec<Option<(File, Label)>>,
    paths: Vec<PathBuf>,
    identities: Vec<(Identity, u16)>,
}

impl Observed {
    fn open(paths: &[PathBuf]) -> Result<(Self, Vec<Problem>), PoolError> {
        if paths.is_empty() {
            return Err(PoolError::NoPaths);
        }
        let mut problems = Vec::new();
        let mut found: Vec<(File, PathBuf, Identity, Label)> = Vec::new();
        for path in paths {
            let looked = Identity::of(path).and_then(|identity| {
                let (file, label) = observe(path)?;
                Ok((file, path.clone(), identity, label))
            });
            match looked {
                Ok(looked) => found.push(looked),
                Err(error @ (PoolError::Version { .. } | PoolError::NotADevice { .. })) => return Err(error),
                Err(error) => problems.push(Problem::unused(path, error.to_string())),
            }
        }
        let Some((_, first_path, _, first)) = found.first() else {
            let found: Vec<String> = problems.iter().map(|problem| problem.why.clone()).collect();
            return Err(PoolError::NoLabel { found: found.join("; ") });
        };
        let label = first.clone();
        if let Some((_, path, ..)) = found.iter().find(|(.., other)| other.pool != label.pool) {
            let pools = format!("{} and {} differ", first_path.display(), path.display());
            return Err(PoolError::Mixed { pools });
        }
        let count = usize::from(label.geometry.members());
        let mut this = Self {
            label,
            labels: std::iter::repeat_with(|| None).take(count).collect(),
            paths: vec![PathBuf::new(); count],
            identities: Vec::new(),
        };
        for (file, path, identity, label) in found {
            let member = label.member;
            this.identities.push((identity, member));
            let at = usize::from(member);
            // Of a device and the one that replaced it the latter has the place.
            let newer =
                this.labels.get(at).and_then(Option::as_ref).is_none_or(|(_, held)| label.replaces == held.device);
            if newer && let (Some(slot), Some(name)) = (this.labels.get_mut(at), this.paths.get_mut(at)) {
                *slot = Some((file, label));
                *name = path;
            }
        }
        Ok((this, problems))
    }

    fn path(&self, member: u16) -> PathBuf {
        self.paths.get(usize::from(member)).cloned().unwrap_or_default()
    }
}

fn observe(path: &Path) -> Result<(File, Label), PoolError> {
    let failed = |source| PoolError::Io { path: path.to_owned(), what: "read the label of", source };
    let file = File::open(path).map_err(failed)?;
    let mut page = vec![0; PAGE];
    file.read_exact_at(&mut page, 0).map_err(failed)?;
    let label = Label::decode(&page).map_err(|source| match source {
        FormatError::Version { version, .. } => PoolError::Version { path: path.to_owned(), version },
        source => PoolError::Structure { path: path.to_owned(), source },
    })?;
    Ok((file, label))
}

impl BlockIo for Observed {
    fn members(&self) -> u16 {
        self.label.geometry.members()
    }

    fn is_present(&self, member: u16) -> bool {
        matches!(self.labels.get(usize::from(member)), Some(Some(_)))
    }

    fn read(&mut self, member: u16, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.labels.get(usize::from(member)) {
            Some(Some((file, _))) => file.read_exact_at(buf, offset),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn write(&mut self, _: u16, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self, _: u16) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

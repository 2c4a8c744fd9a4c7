//! Making a pool.
//!
//! Order of writes: what the devices held is wiped at its ends, then the superblocks, then the labels; each step is flushed on
//! all devices before the next begins. So a crash in between leaves devices without labels, and no pool that looks whole.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use kvof_io::DiskFile;

use super::{
    PoolError, Problem,
    device::{self, Identity},
    first_superblock, labels, plan,
    recognise::{Contents, LOOK, recognise},
};
use crate::{
    ec::Profile,
    format::{LABEL_AREA, Label, SUPERBLOCK_AREA, Secret, Superblock, Uuid},
    geometry::{Geometry, GeometryError},
};

/// How a pool is made.
#[derive(Clone, Debug, Default)]
pub struct FormatOptions {
    /// The erasure profile; [`default_profile`](super::default_profile) if none.
    pub profile: Option<Profile>,
    /// Shards; [`default_shards`](super::default_shards) if none.
    pub shards: Option<u16>,
    /// Bytes of a segment, a multiple of 1 MiB; as it suits if none.
    pub segment: Option<u64>,
    /// Least bytes of a regular file: shorter ones are extended, and missing ones made. Block devices are taken whole.
    pub size: Option<u64>,
    /// What the operator calls the pool.
    pub name: String,
    /// Overwrite whatever the devices hold.
    pub force: bool,
    /// Tell block devices that their old contents are not needed (TRIM).
    pub discard: bool,
    /// Check and plan all, change nothing.
    pub dry_run: bool,
}

/// A pool that was made, or would be.
#[derive(Clone, Debug)]
pub struct Formatted {
    /// The pool-wide part of its labels.
    pub label: Label,
    /// Its devices, by member number.
    pub devices: Vec<FormattedDevice>,
    /// What is worth knowing.
    pub remarks: Vec<Problem>,
}

/// A device of it.
#[derive(Clone, Debug)]
pub struct FormattedDevice {
    /// Its path.
    pub path: PathBuf,
    /// Its own UUID.
    pub device: Uuid,
    /// Its size.
    pub bytes: u64,
    /// Bytes at its end that the pool has no use for, since other devices are smaller or no segment fits.
    pub unused: u64,
    /// Whether it is a block device.
    pub block: bool,
    /// What it held, if anything.
    pub held: Option<String>,
}

/// A device to be.
struct Plan {
    path: PathBuf,
    /// `None`: the file has to be made.
    file: Option<DiskFile>,
    bytes: u64,
    block: bool,
    held: Option<String>,
    /// Where an older pool has its second label.
    old_label: Option<u64>,
}

/// Makes a pool of these devices, in this order.
///
/// # Errors
/// [`PoolError`]; nothing has been changed then, unless it is an error of writing.
pub fn format(paths: &[PathBuf], options: &FormatOptions) -> Result<Formatted, PoolError> {
    if options.name.len() > 64 || options.name.chars().any(char::is_control) {
        return Err(PoolError::Name { name: options.name.clone() });
    }
    let segment_pages = options.segment.map(plan::segment_pages).transpose()?;
    let mut plans = look(paths, options)?;
    let profile = options.profile.or_else(|| plan::default_profile(paths.len())).ok_or(PoolError::NoPaths)?;
    let smallest = plans.iter().min_by_key(|plan| plan.bytes).ok_or(PoolError::NoPaths)?;
    if plans.len() < usize::from(profile.width()) {
        return Err(PoolError::Profile { devices: plans.len(), profile });
    }
    let members = u16::try_from(plans.len()).unwrap_or(u16::MAX);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let shards = options.shards.unwrap_or_else(|| plan::default_shards(smallest.bytes, processors));
    let geometry = Geometry::for_devices(profile, members, shards, smallest.bytes, segment_pages);
    let geometry = geometry.map_err(|error| {
        let needed = plan::least_bytes(profile, members, shards, segment_pages);
        match error {
            GeometryError::Groups { .. } if smallest.bytes < needed => PoolError::TooSmall {
                path: smallest.path.clone(),
                bytes: smallest.bytes,
                needed,
                what: format!("a {profile} pool with {shards} shards on {members} devices"),
                made: !smallest.block,
            },
            error => error.into(),
        }
    })?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let label = Label {
        pool: random(),
        device: [0; 16],
        replaces: [0; 16],
        secret: Secret(random()),
        member: 0,
        geometry,
        created,
        name: options.name.clone(),
    };
    let devices: Vec<FormattedDevice> = plans.iter().map(|plan| plan.describe(&geometry)).collect();
    let mut remarks = Vec::new();
    if !options.dry_run {
        let mut made = Vec::new();
        let result = carry_out(&mut plans, options, &label, &devices, &mut made, &mut remarks);
        if let Err(error) = result {
            for path in made {
                // It held nothing before; what is wrong is in the error.
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
    }
    Ok(Formatted { label, devices, remarks })
}

/// Sixteen bytes that nobody can guess (122 random bits).
pub(super) fn random() -> Uuid {
    uuid::Uuid::new_v4().into_bytes()
}

/// Looks at the paths and refuses what must not be overwritten.
fn look(paths: &[PathBuf], options: &FormatOptions) -> Result<Vec<Plan>, PoolError> {
    let mut seen: Vec<(Identity, &PathBuf)> = Vec::new();
    let mut plans: Vec<Plan> = Vec::new();
    for path in paths {
        if let Some(first) = plans.iter().find(|plan| plan.path == *path) {
            return Err(PoolError::SameDevice { first: first.path.clone(), second: path.clone() });
        }
        let identity = match Identity::of(path) {
            Ok(identity) => identity,
            Err(PoolError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let Some(bytes) = options.size else { return Err(PoolError::Missing { path: path.clone() }) };
                plans.push(Plan { path: path.clone(), file: None, bytes, block: false, held: None, old_label: None });
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == identity) {
            return Err(PoolError::SameDevice { first: (*first).clone(), second: path.clone() });
        }
        seen.push((identity, path));
        plans.push(Plan::of(path, options.force, options.size)?);
    }
    Ok(plans)
}

impl Plan {
    /// Opens a device that exists. What it holds must be worth nothing, or `force`d.
    fn of(path: &Path, force: bool, size: Option<u64>) -> Result<Self, PoolError> {
        let file = device::open(path, false, None)?;
        let failed = |source| PoolError::Io { path: path.to_owned(), what: "read", source };
        let held = match recognise(&file).map_err(failed)? {
            Contents::Nothing => None,
            Contents::Known(found) => Some(found),
            Contents::Unknown => Some("data of an unknown kind".to_owned()),
        };
        if let Some(found) = held.clone().filter(|_| !force) {
            return Err(PoolError::Occupied { path: path.to_owned(), found });
        }
        let block = file.is_block_device();
        let bytes = if block { file.len() } else { file.len().max(size.unwrap_or(0)) };
        let old_label = labels::read(&file, None).ok().map(|found| found.label.geometry.second_label());
        Ok(Self { path: path.to_owned(), file: Some(file), bytes, block, held, old_label })
    }

    fn describe(&self, geometry: &Geometry) -> FormattedDevice {
        FormattedDevice {
            path: self.path.clone(),
            device: random(),
            bytes: self.bytes,
            unused: self.bytes.saturating_sub(geometry.device_bytes()),
            block: self.block,
            held: self.held.clone(),
        }
    }

    /// The file, made or extended if need be. What was made is added to `made` first.
    fn ready(&mut self, made: &mut Vec<PathBuf>) -> Result<DiskFile, PoolError> {
        let found = self.file.take();
        let exists = found.is_some();
        match found {
            Some(file) if file.len() >= self.bytes => return Ok(file),
            // The lock is let go of for a moment; whoever takes it then is told about as in use.
            other => drop(other),
        }
        if !exists {
            made.push(self.path.clone());
        }
        let file = device::open(&self.path, false, Some(self.bytes))?;
        if !exists {
            // The name is to survive a loss of power like the contents.
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|source| PoolError::Io { path: folder.to_owned(), what: "sync the folder", source })?;
        }
        Ok(file)
    }
}

fn carry_out(
    plans: &mut [Plan],
    options: &FormatOptions,
    label: &Label,
    devices: &[FormattedDevice],
    made: &mut Vec<PathBuf>,
    remarks: &mut Vec<Problem>,
) -> Result<(), PoolError> {
    let mut files: Vec<DiskFile> = Vec::with_capacity(plans.len());
    let mut identities: Vec<Identity> = Vec::new();
    for plan in plans.iter_mut() {
        // Two names of a file that did not exist are one file, once it does.
        let first = Identity::of(&plan.path).ok().and_then(|new| identities.iter().position(|other| *other == new));
        if let Some(first) = first.and_then(|first| files.get(first)) {
            return Err(PoolError::SameDevice { first: first.path().to_owned(), second: plan.path.clone() });
        }
        let file = plan.ready(made)?;
        if !file.is_direct() {
            let why = "its file system has no direct I/O: it will be read and written through the page cache, which is \
                       slower";
            remarks.push(Problem::remark(&plan.path, why.to_owned()));
        }
        identities.push(Identity::of(&plan.path)?);
        files.push(file);
    }
    for (file, plan) in files.iter().zip(&*plans) {
        if options.discard && plan.block {
            discard(file, remarks);
        }
        wipe(file, &label.geometry, plan.old_label)?;
    }
    sync(&files)?;
    let uuids: Vec<Uuid> = devices.iter().map(|device| device.device).collect();
    for shard in 0..label.geometry.shards() {
        let superblock = first_superblock(label.pool, shard, &uuids);
        for file in &files {
            write_superblock(file, &label.geometry, &superblock)?;
        }
    }
    sync(&files)?;
    for (member, (file, device)) in (0..).zip(files.iter().zip(devices)) {
        write_labels(file, &Label { member, device: device.device, ..label.clone() })?;
    }
    Ok(())
}

fn discard(file: &DiskFile, remarks: &mut Vec<Problem>) {
    let why = match file.discard(0, file.len()) {
        Ok(true) => return,
        Ok(false) => "it takes no discards (TRIM): it may be slower at first".to_owned(),
        Err(error) => format!("the discard (TRIM) of its old contents failed: {error}"),
    };
    remarks.push(Problem::remark(file.path(), why));
}

/// Overwrites what programs recognise a device by, and where labels and superblocks go.
pub(super) fn wipe(file: &DiskFile, geometry: &Geometry, old_label: Option<u64>) -> Result<(), PoolError> {
    let mut zeros = super::io::buffer(LOOK as usize)?;
    zeros.fill(0);
    let alignment = file.alignment() as u64;
    let end = file.len() / alignment * alignment;
    let mut places = vec![0, end.saturating_sub(LOOK), geometry.second_label()];
    places.extend(old_label);
    places.extend((0..geometry.shards()).map(|shard| geometry.superblock(shard, 0)));
    const { assert!(LOOK == LABEL_AREA && LOOK == SUPERBLOCK_AREA) };
    for at in places {
        let len = usize::try_from(end.saturating_sub(at).min(LOOK)).unwrap_or(0);
        file.write_at(at, zeros.get(..len).unwrap_or_default()).map_err(failed(file, "wipe"))?;
    }
    Ok(())
}

fn write_superblock(file: &DiskFile, geometry: &Geometry, superblock: &Superblock) -> Result<(), PoolError> {
    write(file, geometry.superblock(superblock.shard, superblock.slot()), &superblock.encode())
        .map_err(failed(file, "write a superblock to"))
}

/// Writes both copies of a label, the second first, and flushes.
pub(super) fn write_labels(file: &DiskFile, label: &Label) -> Result<(), PoolError> {
    write_label(file, label, label.geometry.second_label())?;
    write_label(file, label, 0)
}

/// Writes one copy of a label and flushes.
pub(super) fn write_label(file: &DiskFile, label: &Label, at: u64) -> Result<(), PoolError> {
    write(file, at, &label.encode()).and_then(|()| file.sync_data()).map_err(failed(file, "write the label of"))
}

pub(super) fn sync(files: &[DiskFile]) -> Result<(), PoolError> {
    files.iter().try_for_each(|file| file.sync_data().map_err(failed(file, "flush")))
}

fn write(file: &DiskFile, at: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut buffer =
        super::io::buffer(bytes.len()).map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
    buffer.copy_from_slice(bytes);
    file.write_at(at, &buffer)
}

fn failed<'a>(file: &'a DiskFile, what: &'static str) -> impl Fn(std::io::Error) -> PoolError + 'a {
    move |source| PoolError::Io { path: file.path().to_owned(), what, source }
}

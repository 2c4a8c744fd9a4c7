//! Pools on real devices: making them, recognising their devices wherever they appear, and replacing one.
//!
//! | File | What it has |
//! |---|---|
//! | `mod.rs`, `find.rs` | [`PoolDevices`]: the devices of a pool, opened, locked and in their places |
//! | `device.rs` | one path: what may be opened, and who uses it already |
//! | `io.rs` | [`PoolIo`]: blocking I/O on them |
//! | `recognise.rs` | what else may lie on a device: file systems, partition tables and so on |
//! | `labels.rs` | both copies of a label; the superblocks that tell a stale device |
//! | `plan.rs` | the layout that suits some devices |
//! | `make.rs`, `replace.rs` | [`format()`] and [`replace()`] |

mod device;
mod error;
mod find;
mod io;
mod labels;
mod make;
mod plan;
mod recognise;
mod replace;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kvof_io::DiskFile;

use self::{device::Identity, find::Candidate};
pub use self::{
    error::PoolError,
    io::PoolIo,
    labels::{NewestSuperblock, first_superblock, newest_superblock},
    make::{FormatOptions, Formatted, FormattedDevice, format},
    plan::{default_profile, default_shards, index_memory, value_max},
    recognise::{Contents, recognise},
    replace::{ReplaceOptions, Replaced, replace},
};
use crate::{
    device::BlockIo,
    format::{Label, Uuid},
};

/// The devices of a pool, opened and locked, each in its place. Some may be missing.
#[derive(Debug)]
pub struct PoolDevices {
    label: Label,
    places: Vec<Option<Place>>,
    problems: Vec<Problem>,
    read_only: bool,
    io: PoolIo,
}

#[derive(Debug)]
struct Place {
    file: Arc<DiskFile>,
    identity: Identity,
    label: Label,
}

/// Why a path does not serve, though the pool may do without it; or what is worth knowing of one that does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The path.
    pub path: PathBuf,
    /// What is wrong, and the way out.
    pub why: String,
    /// Whether the device is used all the same.
    pub used: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

/// What [`PoolDevices::reprobe`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reprobed {
    /// The members whose devices answer with their right labels, and these devices' UUIDs.
    pub present: Vec<(u16, Uuid)>,
    /// Those of them whose files are new: [`PoolDevices::file`] gives another one than before.
    pub appeared: Vec<u16>,
    /// The paths that do not serve.
    pub problems: Vec<Problem>,
}

impl PoolDevices {
    /// Opens the devices of a pool for reading and writing and locks them. A copy of a label that is damaged is written
    /// again from the other.
    ///
    /// A path that is missing, dead, too short or without a label leaves its place empty ([`Self::problems`] says why):
    /// whether the pool can do without is for the volumes to say.
    ///
    /// # Errors
    /// [`PoolError`]: a path holds something else that is recognised, belongs to another pool, or is given twice; a device
    /// is in use or may not be opened; another format version; no label at all.
    pub fn open(paths: &[PathBuf]) -> Result<Self, PoolError> {
        Self::open_as(paths, false)
    }

    /// As [`Self::open`], for reading only: the lock is shared with other readers, and nothing is repaired.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_read_only(paths: &[PathBuf]) -> Result<Self, PoolError> {
        Self::open_as(paths, true)
    }

    fn open_as(paths: &[PathBuf], read_only: bool) -> Result<Self, PoolError> {
        let (candidates, mut problems) = find::candidates(paths, read_only)?;
        let label = find::pool_wide(&candidates, &problems)?;
        let chosen = find::choose(&label, candidates, &mut problems)?;
        let mut places: Vec<Option<Place>> =
            std::iter::repeat_with(|| None).take(label.geometry.members().into()).collect();
        for candidate in chosen {
            problems.extend(candidate.remarks(read_only));
            if let Some(place) = places.get_mut(usize::from(candidate.label.member)) {
                *place = Some(Place::from(candidate));
            }
        }
        let io = PoolIo::new(places.iter().map(|place| place.as_ref().map(|place| Arc::clone(&place.file))).collect())?;
        for problem in &problems {
            tracing::warn!(path = %problem.path.display(), used = problem.used, "{}", problem.why);
        }
        Ok(Self { label, places, problems, read_only, io })
    }

    /// What all labels of the pool have in common. The fields `device`, `replaces` and `member` are of one of its devices.
    #[must_use]
    pub const fn label(&self) -> &Label {
        &self.label
    }

    /// The label of a member's device, if it is present.
    #[must_use]
    pub fn label_of(&self, member: u16) -> Option<&Label> {
        Some(&self.place(member)?.label)
    }

    /// For each member the UUID of the device that is present in its place.
    #[must_use]
    pub fn uuids(&self) -> Vec<Option<Uuid>> {
        self.places.iter().map(|place| Some(place.as_ref()?.label.device)).collect()
    }

    /// The open device of a member, if it is present.
    #[must_use]
    pub fn file(&self, member: u16) -> Option<&Arc<DiskFile>> {
        Some(&self.place(member)?.file)
    }

    /// For each member its open device, if it is present.
    #[must_use]
    pub fn files(&self) -> Vec<Option<Arc<DiskFile>>> {
        self.places.iter().map(|place| Some(Arc::clone(&place.as_ref()?.file))).collect()
    }

    /// The path of a member's device, if it is present.
    #[must_use]
    pub fn path(&self, member: u16) -> Option<&Path> {
        Some(self.place(member)?.file.path())
    }

    /// The paths that do not serve, and remarks on those that do.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Blocking I/O on the devices that are present now, with a buffer of its own: one for each thread.
    ///
    /// # Errors
    /// [`PoolError::Memory`].
    pub fn io(&self) -> Result<PoolIo, PoolError> {
        PoolIo::new(self.files())
    }

    /// Lets go of a member's device, so that it can be opened again when it comes back.
    pub fn release(&mut self, member: u16) {
        if let Some(place) = self.places.get_mut(usize::from(member)) {
            *place = None;
        }
        self.io.set(member, None);
    }

    /// Looks again which devices are there: those that appeared, came back, or take the place of another.
    ///
    /// A device that is open already is asked for its label again, so that one that answers again is found, too.
    ///
    /// # Errors
    /// As [`Self::open`] for what must not be mixed up; nothing has changed then.
    pub fn reprobe(&mut self, paths: &[PathBuf]) -> Result<Reprobed, PoolError> {
        let mut found = Reprobed::default();
        let mut new: Vec<PathBuf> = Vec::new();
        for path in paths {
            let identity = Identity::of(path).ok();
            let known = self.places.iter().flatten().find(|place| Some(place.identity) == identity);
            let Some(place) = known else {
                new.push(path.clone());
                continue;
            };
            match labels::read_copy(&place.file, 0) {
                Ok(label) if label.device == place.label.device => {
                    found.present.push((label.member, label.device));
                }
                Ok(_) => found.problems.push(Problem::unused(path, "its label has changed".to_owned())),
                Err(error) => found.problems.push(Problem::unused(path, error.to_string())),
            }
        }
        if new.is_empty() {
            return Ok(found);
        }
        let (candidates, problems) = find::candidates(&new, self.read_only)?;
        found.problems.extend(problems);
        find::same_pool(&self.label, &candidates)?;
        let chosen = find::choose(&self.label, candidates, &mut found.problems)?;
        for candidate in chosen {
            let label = &candidate.label;
            let held = self.place(label.member);
            if held.is_some_and(|held| label.replaces != held.label.device) {
                let why = format!(
                    "member {} is served by {} already, which it does not replace",
                    label.member,
                    self.path(label.member).unwrap_or(Path::new("another device")).display()
                );
                found.problems.push(Problem::unused(candidate.file.path(), why));
                continue;
            }
            let (member, device) = (label.member, label.device);
            found.problems.extend(candidate.remarks(self.read_only));
            let place = Place::from(candidate);
            self.io.set(member, Some(Arc::clone(&place.file)));
            if let Some(slot) = self.places.get_mut(usize::from(member)) {
                *slot = Some(place);
            }
            found.present.retain(|(other, _)| *other != member);
            found.present.push((member, device));
            found.appeared.push(member);
        }
        Ok(found)
    }

    fn place(&self, member: u16) -> Option<&Place> {
        self.places.get(usize::from(member))?.as_ref()
    }
}

impl Problem {
    fn unused(path: &Path, why: String) -> Self {
        Self { path: path.to_owned(), why, used: false }
    }

    fn remark(path: &Path, why: String) -> Self {
        Self { path: path.to_owned(), why, used: true }
    }
}

impl From<Candidate> for Place {
    fn from(candidate: Candidate) -> Self {
        Self { file: candidate.file, identity: candidate.identity, label: candidate.label }
    }
}

impl BlockIo for PoolDevices {
    fn members(&self) -> u16 {
        self.io.members()
    }

    fn is_present(&self, member: u16) -> bool {
        self.io.is_present(member)
    }

    fn read(&mut self, member: u16, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.io.read(member, offset, buf)
    }

    fn write(&mut self, member: u16, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.io.write(member, offset, bytes)
    }

    fn flush(&mut self, member: u16) -> std::io::Result<()> {
        self.io.flush(member)
    }
}

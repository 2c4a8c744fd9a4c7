//! Which of the paths are the devices of a pool, and which place each has.

use std::{path::PathBuf, sync::Arc};

use kvof_io::DiskFile;

use super::{
    PoolError, PoolIo, Problem,
    device::{self, Identity},
    labels, newest_superblock,
    recognise::{Contents, recognise},
};
use crate::format::{Label, Uuid};

/// An open device with a whole label.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) file: Arc<DiskFile>,
    pub(super) identity: Identity,
    pub(super) label: Label,
    /// The copy of the label to write again, and why.
    pub(super) damaged: Option<(u64, PoolError)>,
}

impl Candidate {
    /// Repairs the label, and says what is worth knowing.
    pub(super) fn remarks(&self, read_only: bool) -> Vec<Problem> {
        let path = self.file.path();
        let mut remarks = Vec::new();
        if let Some((at, error)) = &self.damaged {
            let copy = if *at == 0 { "first" } else { "second" };
            let outcome = if read_only {
                "it is written again when the pool is opened for use".to_owned()
            } else {
                match super::make::write_label(&self.file, &self.label, *at) {
                    Ok(()) => "it was written again from the other".to_owned(),
                    Err(error) => format!("and it could not be written again: {error}"),
                }
            };
            remarks
                .push(Problem::remark(path, format!("the {copy} copy of the label is not whole ({error}); {outcome}")));
        }
        if !self.file.is_direct() {
            let why = "its file system has no direct I/O: it is read and written through the page cache, slower and with \
                       memory that no limit of kvof counts";
            remarks.push(Problem::remark(path, why.to_owned()));
        }
        remarks
    }
}

/// Opens all paths and reads their labels.
pub(super) fn candidates(paths: &[PathBuf], read_only: bool) -> Result<(Vec<Candidate>, Vec<Problem>), PoolError> {
    if paths.is_empty() {
        return Err(PoolError::NoPaths);
    }
    let mut open: Vec<(Identity, DiskFile)> = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        let identity = match Identity::of(path) {
            Ok(identity) => identity,
            Err(error) if device::is_gone(&error) => {
                problems.push(Problem::unused(path, gone(&error)));
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some((_, first)) = open.iter().find(|(other, _)| *other == identity) {
            return Err(PoolError::SameDevice { first: first.path().to_owned(), second: path.clone() });
        }
        match device::open(path, read_only, None) {
            Ok(file) => open.push((identity, file)),
            Err(error) if device::is_gone(&error) => problems.push(Problem::unused(path, gone(&error))),
            Err(error) => return Err(error),
        }
    }
    // One whole first label tells where the second ones are.
    let geometry = open.iter().find_map(|(_, file)| Some(labels::read_copy(file, 0).ok()?.geometry));
    let mut found = Vec::new();
    for (identity, file) in open {
        match labels::read(&file, geometry.as_ref()) {
            Ok(labels::Found { label, damaged }) => {
                let needed = label.geometry.device_bytes();
                if file.len() < needed {
                    let why = format!("it has {} bytes, but {needed} when it was formatted: it was cut", file.len());
                    problems.push(Problem::unused(file.path(), why));
                } else {
                    found.push(Candidate { file: Arc::new(file), identity, label, damaged });
                }
            }
            Err(error @ PoolError::Version { .. }) => return Err(error),
            Err(error @ PoolError::Memory { .. }) => return Err(error),
            Err(error) => {
                let why = match recognise(&file) {
                    Ok(Contents::Known(found)) => {
                        return Err(PoolError::Foreign { path: file.path().to_owned(), found });
                    }
                    Ok(Contents::Nothing) => {
                        "it is blank; to give it the place of a lost device, use `kvof replace`".to_owned()
                    }
                    _ => error.to_string(),
                };
                problems.push(Problem::unused(file.path(), why));
            }
        }
    }
    Ok((found, problems))
}

fn gone(error: &PoolError) -> String {
    match error {
        PoolError::Io { what, source, .. } => format!("cannot {what} it: {source}"),
        other => other.to_string(),
    }
}

/// What all labels have in common.
pub(super) fn pool_wide(candidates: &[Candidate], problems: &[Problem]) -> Result<Label, PoolError> {
    let Some(first) = candidates.first() else {
        let found: Vec<String> = problems.iter().map(Problem::to_string).collect();
        return Err(PoolError::NoLabel { found: found.join("; ") });
    };
    same_pool(&first.label, candidates)?;
    Ok(first.label.clone())
}

/// Refuses devices of other pools, and labels that contradict that of the pool.
pub(super) fn same_pool(label: &Label, candidates: &[Candidate]) -> Result<(), PoolError> {
    if candidates.iter().any(|candidate| candidate.label.pool != label.pool) {
        let mut pools: Vec<(&Label, Vec<String>)> = vec![(label, Vec::new())];
        for candidate in candidates {
            let path = candidate.file.path().display().to_string();
            match pools.iter_mut().find(|(label, _)| label.pool == candidate.label.pool) {
                Some((_, paths)) => paths.push(path),
                None => pools.push((&candidate.label, vec![path])),
            }
        }
        let text = |(label, paths): &(&Label, Vec<String>)| {
            let paths = if paths.is_empty() { "the other devices".to_owned() } else { paths.join(", ") };
            format!("{} has {paths}", pool_name(label))
        };
        return Err(PoolError::Mixed { pools: pools.iter().map(text).collect::<Vec<_>>().join("; ") });
    }
    let first = candidates.first().map(|first| first.file.path().to_owned()).unwrap_or_default();
    for candidate in candidates {
        let field = match () {
            () if candidate.label.secret != label.secret => "secret",
            () if candidate.label.geometry != label.geometry => "layout",
            () => continue,
        };
        return Err(PoolError::Disagree { path: candidate.file.path().to_owned(), other: first, field });
    }
    Ok(())
}

/// A pool as people know it: `pool "rack 7" (uuid, made 2026-11-21)`.
pub(super) fn pool_name(label: &Label) -> String {
    let name = if label.name.is_empty() { String::new() } else { format!("{:?} ", label.name) };
    let uuid = uuid::Uuid::from_bytes(label.pool);
    format!("kvof pool {name}({uuid}, made {})", day(label.created))
}

/// The day of a time in seconds since 1970, `2026-11-21`.
pub(super) fn day(seconds: u64) -> String {
    // Days to civil date, counted in eras of 400 years from 1 March of year 0.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + next)
}

/// One device for each place: refuses two that cannot be told apart, leaves out those that were replaced.
pub(super) fn choose(
    label: &Label,
    candidates: Vec<Candidate>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<Candidate>, PoolError> {
    let listed = listed(label, &candidates)?;
    let stale = |candidate: &Candidate| -> Option<String> {
        let label = &candidate.label;
        let newer =
            candidates.iter().find(|other| other.label.member == label.member && other.label.replaces == label.device);
        if let Some(newer) = newer {
            let newer = newer.file.path().display();
            return Some(format!("it was member {} and is replaced by {newer}: nothing on it counts", label.member));
        }
        let now = *listed.get(usize::from(label.member))?;
        (now != label.device && now != label.replaces).then(|| {
            format!(
                "it was member {}, which is device {} now: nothing on it counts; use it again with `kvof replace --force`",
                label.member,
                uuid::Uuid::from_bytes(now)
            )
        })
    };
    let verdicts: Vec<Option<String>> = candidates.iter().map(stale).collect();
    let mut chosen: Vec<Candidate> = Vec::new();
    for (candidate, verdict) in candidates.into_iter().zip(verdicts) {
        if let Some(why) = verdict {
            problems.push(Problem::unused(candidate.file.path(), why));
            continue;
        }
        if let Some(first) = chosen.iter().find(|other| other.label.member == candidate.label.member) {
            let copies = first.label.device == candidate.label.device;
            return Err(PoolError::Duplicate {
                member: candidate.label.member,
                first: first.file.path().to_owned(),
                second: candidate.file.path().to_owned(),
                why: if copies { "one is a copy of the other" } else { "both were made to replace the same device" },
            });
        }
        chosen.push(candidate);
    }
    Ok(chosen)
}

/// The devices that the newest superblock of any shard has, by member; empty if none can be read.
fn listed(label: &Label, candidates: &[Candidate]) -> Result<Vec<Uuid>, PoolError> {
    // Here a device's number is its place among the candidates: which member it is, is what has to be found out.
    let mut io = PoolIo::new(candidates.iter().map(|candidate| Some(Arc::clone(&candidate.file))).collect())?;
    let newest = newest_superblock(&mut io, &label.geometry, label.pool, 0);
    Ok(newest.map(|newest| newest.superblock.members.iter().map(|member| member.device).collect()).unwrap_or_default())
}

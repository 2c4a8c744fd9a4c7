//! Why devices cannot be used as they were to be.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    ec::Profile,
    format::{FormatError, VERSION},
    geometry::{Geometry, GeometryError},
};

/// Why a pool cannot be made, opened or changed. Every message names the path, what was found, and the way out.
#[derive(Debug, Error)]
pub enum PoolError {
    /// No path at all.
    #[error("no device was given; name the block devices or files of the pool")]
    NoPaths,
    /// A path is there, but no device.
    #[error("{path} is a {kind}; give a block device or a regular file")]
    NotADevice {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file to format that is not there.
    #[error("{path} does not exist; give `--size` to have it made as a file, or check the path")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error("{path} is in use: {by}")]
    InUse {
        /// The path.
        path: PathBuf,
        /// By whom, and the way out.
        by: String,
    },
    /// One device under two names.
    #[error("{first} and {second} are the same device; give each device once")]
    SameDevice {
        /// The first path.
        first: PathBuf,
        /// The second.
        second: PathBuf,
    },
    /// Its blocks are larger than the pages of a pool.
    #[error(
        "{path} can only be read and written in blocks of {block} bytes; a pool needs devices with blocks of at most 4096"
    )]
    BlockSize {
        /// The path.
        path: PathBuf,
        /// Bytes.
        block: usize,
    },
    /// What a path holds is known, and belongs to somebody else.
    #[error("{path} holds {found}, it is no device of this pool; check the path")]
    Foreign {
        /// The path.
        path: PathBuf,
        /// What was recognised.
        found: String,
    },
    /// The devices belong to several pools.
    #[error("the devices belong to different pools: {pools}; give the devices of one pool")]
    Mixed {
        /// Each pool with its devices.
        pools: String,
    },
    /// Two labels of a pool that cannot both be right.
    #[error(
        "{path} says that it belongs to the pool, but its label has another {field} than {other}; one of them is not what it seems: leave it out"
    )]
    Disagree {
        /// The path.
        path: PathBuf,
        /// The path that it was compared with.
        other: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// Two devices for one place.
    #[error(
        "{first} and {second} both are member {member} of the pool ({why}); leave out the one that is not to be used"
    )]
    Duplicate {
        /// The place.
        member: u16,
        /// The first path.
        first: PathBuf,
        /// The second.
        second: PathBuf,
        /// How that comes.
        why: &'static str,
    },
    /// Written by another version of the format.
    #[error(
        "{path} was formatted by another version of kvof: its format has version {version}, this program has {VERSION}; use the \
         kvof that made the pool (copy its values with it to a pool of this version to move on), or format the devices anew"
    )]
    Version {
        /// The path.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Nothing that was given is a device of a pool.
    #[error("none of the devices has the label of a pool: {found}; make a pool with `kvof format`, or check the paths")]
    NoLabel {
        /// Each path and what it has instead.
        found: String,
    },
    /// It holds something.
    #[error("{path} holds {found}; nothing was changed; format it with `--force` if that is not needed any more")]
    Occupied {
        /// The path.
        path: PathBuf,
        /// What.
        found: String,
    },
    /// It is smaller than the pool needs.
    #[error("{path} has {bytes} bytes, {needed} are needed for {what}; give larger devices{}", if *.made { ", or a larger `--size`" } else { "" })]
    TooSmall {
        /// The path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The least size.
        needed: u64,
        /// For what.
        what: String,
        /// Whether it is a file, whose size can be chosen.
        made: bool,
    },
    /// No layout for this.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The number of devices has no default profile.
    #[error("{devices} devices do not fit a {profile} pool, which has at least {}; leave `--profile` out, or give more devices", profile.width())]
    Profile {
        /// Devices.
        devices: usize,
        /// The profile.
        profile: Profile,
    },
    /// An odd segment size.
    #[error("a segment of {bytes} bytes: it must be a multiple of 1 MiB, from 1 MiB to 1 GiB")]
    Segment {
        /// Bytes.
        bytes: u64,
    },
    /// A name that does not fit.
    #[error("the name {name:?} has {} bytes: a pool's name has at most 64, without control characters", name.len())]
    Name {
        /// The name.
        name: String,
    },
    /// No place is free.
    #[error(
        "all {members} members of the pool are there; name the one that {path} is to replace with `--member`, and leave its device out of `--pool`"
    )]
    NothingMissing {
        /// Members.
        members: u16,
        /// The new device.
        path: PathBuf,
    },
    /// Several places are free.
    #[error("members {missing} of the pool are missing; say with `--member` which one {path} replaces")]
    SeveralMissing {
        /// Their numbers.
        missing: String,
        /// The new device.
        path: PathBuf,
    },
    /// There is no such place.
    #[error("the pool has members 0 to {}, there is no member {member}", .members - 1)]
    NoSuchMember {
        /// The number asked for.
        member: u16,
        /// Members.
        members: u16,
    },
    /// The place is taken by a device that works.
    #[error(
        "member {member} is at {present} and has not failed; leave that device out of `--pool` to replace it all the same"
    )]
    MemberPresent {
        /// The number.
        member: u16,
        /// Its path.
        present: PathBuf,
    },
    /// The new device is one of the pool already.
    #[error(
        "{path} is member {member} of this pool already; it is taken back by itself when the pool is opened with it"
    )]
    AlreadyMember {
        /// The path.
        path: PathBuf,
        /// Its number.
        member: u16,
    },
    /// A structure that was read is wrong.
    #[error("{path}: {source}")]
    Structure {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        source: FormatError,
    },
    /// A system call failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// No memory for a buffer.
    #[error("there is no memory for a buffer of {bytes} bytes")]
    Memory {
        /// Bytes.
        bytes: usize,
    },
}

impl PoolError {
    pub(super) fn too_small(path: PathBuf, bytes: u64, geometry: &Geometry, made: bool) -> Self {
        let what = format!("a member of this {} pool", geometry.profile());
        Self::TooSmall { path, bytes, needed: geometry.device_bytes(), what, made }
    }
}

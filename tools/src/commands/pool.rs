//! What the commands for pools on devices share: errors, names, and what a pool looks like.

use std::path::Path;

use kvof_store::{
    format::{Label, Uuid},
    pool::{PoolDevices, PoolError, Problem, value_max},
    verify::Subject,
};
use serde::Serialize;

use crate::{
    failure::{Exit, coded},
    output::Section,
    units::size,
};

/// The error with its exit code: what the command line can be changed for is a matter of usage.
pub(super) fn pool_error(error: &PoolError) -> anyhow::Error {
    let exit = match error {
        PoolError::NoPaths
        | PoolError::NotADevice { .. }
        | PoolError::Missing { .. }
        | PoolError::SameDevice { .. }
        | PoolError::Geometry(_)
        | PoolError::Profile { .. }
        | PoolError::Segment { .. }
        | PoolError::Name { .. }
        | PoolError::NothingMissing { .. }
        | PoolError::SeveralMissing { .. }
        | PoolError::NoSuchMember { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    coded(exit, error)
}

/// What the labels of open devices say there is to look at.
pub(super) fn subject(devices: &PoolDevices) -> Subject {
    let label = devices.label();
    Subject { pool: label.pool, secret: label.secret, geometry: label.geometry, devices: devices.uuids() }
}

/// The path of a member's device, or that it is missing.
pub(super) fn member_path(devices: &PoolDevices, member: u16) -> String {
    devices.path(member).map_or_else(|| "missing".to_owned(), path)
}

/// A UUID as people write it.
pub(super) fn uuid(uuid: Uuid) -> String {
    uuid::Uuid::from_bytes(uuid).to_string()
}

/// A path for people.
pub(super) fn path(path: &Path) -> String {
    path.display().to_string()
}

/// Tells of paths that do not serve, and remarks, on standard error.
pub(super) fn warn(problems: &[Problem]) {
    for problem in problems {
        eprintln!("kvof: {problem}");
    }
}

/// A pool, for programs.
#[derive(Serialize)]
pub(super) struct PoolDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
    name: String,
    profile: String,
    members: u16,
    shards: u16,
    segment_bytes: u64,
    groups: u32,
    capacity_bytes: u64,
    value_max: u64,
    device_bytes: u64,
    created: u64,
}

impl PoolDocument {
    pub(super) fn new(label: &Label) -> Self {
        let geometry = &label.geometry;
        Self {
            uuid: Some(uuid(label.pool)),
            name: label.name.clone(),
            profile: geometry.profile().to_string(),
            members: geometry.members(),
            shards: geometry.shards(),
            segment_bytes: u64::from(geometry.segment_pages()) << 12,
            groups: geometry.groups(),
            capacity_bytes: capacity(label),
            value_max: value_max(geometry),
            device_bytes: geometry.device_bytes(),
            created: label.created,
        }
    }

    /// Of a pool that was only planned.
    pub(super) fn forget_identity(&mut self) {
        self.uuid = None;
    }
}

/// Bytes that a pool has room for, parity not counted.
pub(super) fn capacity(label: &Label) -> u64 {
    label.geometry.data_bytes() * u64::from(label.geometry.shards())
}

/// A pool, for people. One that is only planned has no UUID yet.
pub(super) fn section(label: &Label, planned: bool) -> Section {
    let geometry = &label.geometry;
    let profile = geometry.profile();
    let lost = match profile.m() {
        0 => "no device may be lost".to_owned(),
        1 => "any one device may be lost".to_owned(),
        m => format!("any {m} devices may be lost"),
    };
    Section::new("Pool")
        .field("uuid", if planned { String::new() } else { uuid(label.pool) })
        .field("name", &label.name)
        .field("profile", format_args!("{profile} on {} devices, {lost}", geometry.members()))
        .field("capacity", format_args!("{} without parity", size(capacity(label))))
        .field("largest value", size(value_max(geometry)))
        .field("shards", geometry.shards())
        .field(
            "groups",
            format_args!(
                "{} of each shard, of {} segments of {}",
                geometry.groups(),
                geometry.width(),
                size(u64::from(geometry.segment_pages()) << 12)
            ),
        )
}

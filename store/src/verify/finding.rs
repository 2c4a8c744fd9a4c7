//! What verification finds, by name.

use std::fmt;

use kvof_kv::Key;

use crate::format::Uuid;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Nothing to worry about, such as the end of the log after a crash.
    Note,
    /// Parity or another copy makes it good: a scrub, a rebuild or the next start of the pool does.
    Repairable,
    /// Something that counts is lost.
    Loss,
}

/// Where something was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spot {
    /// The member of the pool.
    pub member: Option<u16>,
    /// The shard.
    pub shard: Option<u16>,
    /// The group.
    pub group: Option<u32>,
    /// The row in the group.
    pub row: Option<u32>,
    /// The column of the group.
    pub column: Option<usize>,
}

/// A record that a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordName {
    /// The namespace.
    pub namespace: Option<Uuid>,
    /// Its slot.
    pub slot: u16,
    /// The key.
    pub key: Key,
    /// The sequence number of this value.
    pub sequence: u64,
    /// Bytes of the value.
    pub len: u32,
}

/// The kinds of findings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// The device of a member is not there.
    DeviceMissing,
    /// Another device than the superblock knows is in a member's place.
    DeviceOther,
    /// The pool has given up on a device.
    DeviceFailed,
    /// A device is being filled.
    DeviceRebuilding,
    /// A copy of a label.
    Label,
    /// A slot of a superblock.
    Superblock,
    /// No superblock of a shard is left.
    SuperblockLost,
    /// A copy of a stripe header.
    HeaderCopy,
    /// All copies of a stripe header.
    HeaderLost,
    /// A column of a stripe.
    Column,
    /// More columns of a stripe than parity makes good.
    StripeLost,
    /// Parity that is not that of the data, though every checksum matches.
    Parity,
    /// A footer that does not agree with the headers.
    FooterDisagrees,
    /// A footer whose payload is lost.
    FooterLost,
    /// Numbers that contradict each other.
    Inconsistent,
    /// A record.
    Record,
    /// A commit that had not ended when the pool stopped.
    Unfinished,
    /// The checkpoint of a clean stop.
    Checkpoint,
    /// A group that the checkpoint has is not there.
    GroupLost,
    /// What an old header or footer left behind.
    Stale,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub spot: Spot,
    /// The record, if it is about one.
    pub record: Option<RecordName>,
    /// What is wrong.
    pub what: String,
}

impl Kind {
    /// For programs and people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeviceMissing => "device-missing",
            Self::DeviceOther => "device-other",
            Self::DeviceFailed => "device-failed",
            Self::DeviceRebuilding => "device-rebuilding",
            Self::Label => "label",
            Self::Superblock => "superblock",
            Self::SuperblockLost => "superblock-lost",
            Self::HeaderCopy => "header-copy",
            Self::HeaderLost => "header-lost",
            Self::Column => "column",
            Self::StripeLost => "stripe-lost",
            Self::Parity => "parity",
            Self::FooterDisagrees => "footer-disagrees",
            Self::FooterLost => "footer-lost",
            Self::Inconsistent => "inconsistent",
            Self::Record => "record",
            Self::Unfinished => "unfinished",
            Self::Checkpoint => "checkpoint",
            Self::GroupLost => "group-lost",
            Self::Stale => "stale",
        }
    }

    /// What makes it good again.
    #[must_use]
    pub const fn remedy(self, severity: Severity) -> &'static str {
        match (self, severity) {
            (_, Severity::Note) => "nothing needs to be done",
            (Self::DeviceMissing, _) => "bring the device back, or replace it (`kvof replace`)",
            (Self::DeviceOther, _) => "it is filled when the pool is opened for use",
            (Self::DeviceFailed, _) => {
                "it is filled again when the pool is opened with it; if it fails again, replace it"
            }
            (Self::DeviceRebuilding, _) => "the rebuild goes on when the pool is opened for use",
            (Self::Label, _) => "it is written again when the pool is opened for use",
            (Self::Superblock, _) => "it is written again when the pool is opened for use",
            (Self::HeaderCopy, _) => "a scrub writes it again from another copy",
            (Self::HeaderLost, Severity::Repairable) => "nothing that counts was in it; cleaning frees the group",
            (Self::Column, _) => "a scrub writes it again from the other columns",
            (Self::StripeLost, Severity::Repairable) => "nothing that counts was in it; cleaning frees the group",
            (Self::Record, Severity::Repairable) => "it does not count any more; cleaning frees the group",
            (Self::Parity, _) => "a scrub computes the parity again",
            (Self::FooterDisagrees | Self::FooterLost, Severity::Repairable) => {
                "the headers have the same; recovery uses them"
            }
            (Self::Checkpoint, _) => "the next start recovers from the log instead",
            (Self::Stale, _) => "a scrub overwrites it",
            _ => {
                "bring back a device that is missing if it had these; else these values are lost: delete them, or store them again"
            }
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Repairable => "repairable",
            Self::Loss => "LOSS",
        })
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            ("member", self.member.map(u64::from)),
            ("shard", self.shard.map(u64::from)),
            ("group", self.group.map(u64::from)),
            ("row", self.row.map(u64::from)),
            ("column", self.column.map(|column| column as u64)),
        ];
        let mut separator = "";
        for (name, value) in fields {
            if let Some(value) = value {
                write!(f, "{separator}{name} {value}")?;
                separator = " ";
            }
        }
        Ok(())
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} ({} bytes, sequence {})", self.key, self.len, self.sequence)?;
        match self.namespace {
            Some(namespace) => write!(f, " of namespace {}", uuid::Uuid::from_bytes(namespace)),
            None => write!(f, " of a namespace that is gone"),
        }
    }
}

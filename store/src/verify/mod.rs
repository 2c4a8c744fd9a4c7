//! Checks a pool that is not in use, and reads what is on it, for tools and tests.
//!
//! This is a second reader of the format. It shares with the engine what `format` and `geometry` say, and nothing else, so
//! that each finds what the other gets wrong. It only reads, and it works with as many devices as there are.
//!
//! | File | What it checks |
//! |---|---|
//! | `devices.rs` | labels and superblocks |
//! | `scan.rs` | the first header and the footer of every group, and the chains of groups without a footer |
//! | `group.rs` | one group: headers, footer, and that they agree |
//! | `stripe.rs` | one stripe: columns, parity, and every record |
//! | `fate.rs` | whether records that are lost count |
//! | `browse.rs` | no check: [`Browser`] shows groups, stripes, entries and values |

mod browse;
mod devices;
mod fate;
mod finding;
mod group;
mod read;
mod scan;
mod stripe;

use std::collections::BTreeMap;

pub use self::{
    browse::{Browser, GroupKind, GroupView, StripeView},
    finding::{Finding, Kind, RecordName, Severity, Spot},
    read::Subject,
};
use self::{fate::Lost, read::Reader};
use crate::{
    device::BlockIo,
    ec::CpuCode,
    format::{Entry, Superblock},
};

/// Most findings that a report keeps; those beyond are counted.
const FINDINGS_MAX: usize = 10_000;

/// How much is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Labels, superblocks, headers, footers, and that they agree.
    Quick,
    /// Every byte: also all values, their checksums and parity.
    Full,
}

/// How far verification is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The shard.
    pub shard: u16,
    /// Whether it is the first look at all groups, or the check of each.
    pub first_look: bool,
    /// Groups done.
    pub done: u32,
    /// Groups in all.
    pub of: u32,
    /// Bytes read of this shard so far.
    pub bytes: u64,
}

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The first findings, in the order in which they were found.
    pub findings: Vec<Finding>,
    /// How many there are of each severity and kind.
    pub counts: BTreeMap<(Severity, Kind), u64>,
    /// Groups with records.
    pub groups_used: u64,
    /// Groups without anything.
    pub groups_free: u64,
    /// Groups that hold a checkpoint.
    pub groups_checkpoint: u64,
    /// Stripes, footers not counted.
    pub stripes: u64,
    /// Records with values, live or not.
    pub records: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Bytes of values, live or not.
    pub value_bytes: u64,
    /// Bytes read.
    pub bytes: u64,
}

impl Report {
    /// The worst that was found, if anything was.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.counts.keys().map(|(severity, _)| *severity).max()
    }

    /// How many findings are at least this bad.
    #[must_use]
    pub fn count(&self, least: Severity) -> u64 {
        self.counts.iter().filter(|((severity, _), _)| *severity >= least).map(|(_, count)| count).sum()
    }

    /// Adds what was found elsewhere.
    pub fn merge(&mut self, other: Self) {
        let room = FINDINGS_MAX.saturating_sub(self.findings.len());
        self.findings.extend(other.findings.into_iter().take(room));
        for (key, count) in other.counts {
            *self.counts.entry(key).or_default() += count;
        }
        self.groups_used += other.groups_used;
        self.groups_free += other.groups_free;
        self.groups_checkpoint += other.groups_checkpoint;
        self.stripes += other.stripes;
        self.records += other.records;
        self.tombstones += other.tombstones;
        self.value_bytes += other.value_bytes;
        self.bytes += other.bytes;
    }

    fn add(&mut self, finding: Finding) {
        *self.counts.entry((finding.severity, finding.kind)).or_default() += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

impl Finding {
    fn new(kind: Kind, severity: Severity, spot: Spot, what: String) -> Self {
        Self { kind, severity, spot, record: None, what }
    }
}

/// Checks a whole pool, shard after shard.
pub fn verify(io: &mut dyn BlockIo, subject: &Subject, depth: Depth, progress: &mut dyn FnMut(Step)) -> Report {
    let mut report = verify_labels(io, subject);
    for shard in 0..subject.geometry.shards() {
        report.merge(verify_shard(io, subject, shard, depth, progress));
    }
    report
}

/// Checks that the devices are there and have their labels.
pub fn verify_labels(io: &mut dyn BlockIo, subject: &Subject) -> Report {
    let mut report = Report::default();
    devices::labels(io, subject, &mut report);
    report
}

/// Checks one shard: its superblocks, headers and footers, and if `depth` says so its values and their parity.
///
/// It needs memory for the largest stripe, twice, parity included.
pub fn verify_shard(
    io: &mut dyn BlockIo,
    subject: &Subject,
    shard: u16,
    depth: Depth,
    progress: &mut dyn FnMut(Step),
) -> Report {
    let mut report = Report::default();
    let Some(superblock) = devices::superblock(io, subject, shard, &mut report) else { return report };
    let reader = Reader { io, subject, shard, superblock, bytes: report.bytes };
    let code = CpuCode::new(subject.geometry.profile());
    let mut check = Check { reader, code, depth, report, lost: Lost::default(), committed: 0 };
    check.volume(progress);
    check.report.bytes = check.reader.bytes;
    check.report
}

/// A check of one volume.
struct Check<'a> {
    reader: Reader<'a>,
    code: CpuCode,
    depth: Depth,
    report: Report,
    lost: Lost,
    /// Every stripe up to this one was durable once.
    committed: u64,
}

impl Check<'_> {
    fn volume(&mut self, progress: &mut dyn FnMut(Step)) {
        let groups = self.reader.geometry().groups();
        let shard = self.reader.shard;
        let mut step = |first_look, done, bytes| progress(Step { shard, first_look, done, of: groups, bytes });
        let mut scans = Vec::new();
        for group in 0..groups {
            step(true, group, self.reader.bytes);
            scans.extend(self.scan(group));
        }
        self.committed = self.committed.max(scans.iter().map(scan::Scan::committed).max().unwrap_or(0));
        self.order(&scans);
        self.checkpoint(&scans);
        for (done, scan) in (0..).zip(&scans) {
            step(false, done, self.reader.bytes);
            self.group(scan);
        }
        self.judge_lost(&scans);
        self.report.groups_free = u64::from(groups) - scans.len() as u64;
        step(false, groups, self.reader.bytes);
    }

    fn superblock(&self) -> &Superblock {
        &self.reader.superblock
    }

    fn spot(&self, group: u32, row: Option<u32>) -> Spot {
        Spot { shard: Some(self.reader.shard), group: Some(group), row, ..Spot::default() }
    }

    fn column_spot(&self, group: u32, row: u32, column: usize) -> Spot {
        let member = self.reader.geometry().member(group, column);
        Spot { member: Some(member), column: Some(column), ..self.spot(group, Some(row)) }
    }

    fn add(&mut self, kind: Kind, severity: Severity, spot: Spot, what: String) {
        self.report.add(Finding::new(kind, severity, spot, what));
    }

    /// What people call the record of an entry.
    fn name(&self, entry: &Entry) -> RecordName {
        let known = self.superblock().namespaces.get(usize::from(entry.slot));
        let namespace =
            known.filter(|known| known.used && known.generation == entry.generation).map(|known| known.uuid);
        RecordName { namespace, slot: entry.slot, key: entry.key, sequence: entry.sequence, len: entry.len }
    }
}

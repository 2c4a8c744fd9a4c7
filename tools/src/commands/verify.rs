//! `kvof verify`: checks a pool that is not in use.

use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvof_store::{
    pool::PoolDevices,
    verify::{Depth, Finding, Report, Severity, Step, Subject, verify_labels, verify_shard},
};
use serde::Serialize;

use super::pool::{PoolDocument, member_path, pool_error, section, subject, uuid, warn};
use crate::{
    failure::{Exit, coded},
    output::Output,
    units::{count, duration, size},
};

/// Check a pool that no target has open: every label, superblock, header, footer, value and parity.
///
/// Nothing is written. Devices may be missing: what parity can still make good is checked, too. The exit code is 0 if
/// nothing is wrong, 7 if something is that parity or another copy makes good, 6 if values are lost.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The devices of the pool, in any order.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Check labels, superblocks, headers and footers only, not the values and their parity.
    #[arg(long)]
    quick: bool,

    /// Print at most so many findings as text.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

#[derive(Serialize)]
struct Document {
    pool: PoolDocument,
    result: &'static str,
    full: bool,
    seconds: f64,
    bytes_read: u64,
    groups_used: u64,
    groups_free: u64,
    groups_checkpoint: u64,
    stripes: u64,
    records: u64,
    tombstones: u64,
    value_bytes: u64,
    counts: Vec<CountDocument>,
    findings: Vec<FindingDocument>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct CountDocument {
    severity: &'static str,
    kind: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct FindingDocument {
    severity: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<RecordDocument>,
    what: String,
    remedy: &'static str,
}

#[derive(Serialize)]
struct RecordDocument {
    key: String,
    namespace: Option<String>,
    slot: u16,
    sequence: u64,
    length: u32,
}

pub(crate) fn run(args: &VerifyArgs, output: &mut Output) -> Result<Exit> {
    let mut devices = PoolDevices::open_read_only(&args.paths).map_err(|error| pool_error(&error))?;
    if !output.is_json() {
        warn(devices.problems());
    }
    let subject = subject(&devices);
    let depth = if args.quick { Depth::Quick } else { Depth::Full };
    let started = Instant::now();
    let mut report = verify_labels(&mut devices, &subject);
    report.merge(shards(&devices, &subject, depth)?);
    let seconds = started.elapsed().as_secs_f64();
    let exit = match report.worst() {
        None | Some(Severity::Note) => Exit::Success,
        Some(Severity::Repairable) => Exit::Damaged,
        Some(Severity::Loss) => Exit::Check,
    };
    if output.is_json() {
        output.document(&document(&devices, &report, depth, seconds))?;
    } else {
        show(args, &devices, &report, started, output)?;
    }
    Ok(exit)
}

/// Checks all shards, several at a time.
fn shards(devices: &PoolDevices, subject: &Subject, depth: Depth) -> Result<Report> {
    let shards = subject.geometry.shards();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let bar = ProgressBar::with_draw_target(
        Some(2 * u64::from(shards) * u64::from(subject.geometry.groups())),
        ProgressDrawTarget::stderr(),
    );
    if let Ok(style) = ProgressStyle::with_template("{msg:24} [{bar:30}] {percent}%, {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    let next = AtomicU16::new(0);
    let merged: Mutex<Vec<(u16, Report)>> = Mutex::new(Vec::new());
    let steps: Mutex<Vec<Option<Step>>> = Mutex::new(vec![None; shards.into()]);
    let work = || -> Result<()> {
        let mut io = devices.io().map_err(|error| pool_error(&error))?;
        loop {
            let shard = next.fetch_add(1, Ordering::Relaxed);
            if shard >= shards {
                return Ok(());
            }
            let mut tell = |step: Step| {
                let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(place) = steps.get_mut(usize::from(step.shard)) {
                    *place = Some(step);
                }
                let done = |step: &Step| u64::from(step.done) + if step.first_look { 0 } else { step.of.into() };
                bar.set_position(steps.iter().flatten().map(done).sum());
                bar.set_message(format!("{} read", size(steps.iter().flatten().map(|step| step.bytes).sum())));
            };
            let report = verify_shard(&mut io, subject, shard, depth, &mut tell);
            merged.lock().unwrap_or_else(PoisonError::into_inner).push((shard, report));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..processors.min(shards.into())).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(coded(Exit::Failed, "a thread of the check has ended unexpectedly")))
        })
    })?;
    bar.finish_and_clear();
    let mut merged = merged.into_inner().unwrap_or_else(PoisonError::into_inner);
    merged.sort_by_key(|(shard, _)| *shard);
    let mut report = Report::default();
    merged.into_iter().for_each(|(_, part)| report.merge(part));
    Ok(report)
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Repairable => "repairable",
        Severity::Loss => "loss",
    }
}

fn document(devices: &PoolDevices, report: &Report, depth: Depth, seconds: f64) -> Document {
    let finding = |finding: &Finding| FindingDocument {
        severity: severity(finding.severity),
        kind: finding.kind.name(),
        member: finding.spot.member,
        path: finding.spot.member.map(|member| member_path(devices, member)),
        shard: finding.spot.shard,
        group: finding.spot.group,
        row: finding.spot.row,
        column: finding.spot.column,
        record: finding.record.map(|record| RecordDocument {
            key: record.key.to_string(),
            namespace: record.namespace.map(uuid),
            slot: record.slot,
            sequence: record.sequence,
            length: record.len,
        }),
        what: finding.what.clone(),
        remedy: finding.kind.remedy(finding.severity),
    };
    let counts = report.counts.iter().rev().map(|((worst, kind), count)| CountDocument {
        severity: severity(*worst),
        kind: kind.name(),
        count: *count,
    });
    Document {
        pool: PoolDocument::new(devices.label()),
        result: match report.worst() {
            None | Some(Severity::Note) => "clean",
            Some(Severity::Repairable) => "repairable",
            Some(Severity::Loss) => "loss",
        },
        full: depth == Depth::Full,
        seconds,
        bytes_read: report.bytes,
        groups_used: report.groups_used,
        groups_free: report.groups_free,
        groups_checkpoint: report.groups_checkpoint,
        stripes: report.stripes,
        records: report.records,
        tombstones: report.tombstones,
        value_bytes: report.value_bytes,
        counts: counts.collect(),
        findings: report.findings.iter().map(finding).collect(),
        problems: devices.problems().iter().map(ToString::to_string).collect(),
    }
}

fn show(
    args: &VerifyArgs,
    devices: &PoolDevices,
    report: &Report,
    started: Instant,
    output: &mut Output,
) -> Result<()> {
    output.line(section(devices.label(), false))?;
    output.line("")?;
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in findings.iter().take(args.limit) {
        let path = finding.spot.member.map(|member| format!(" ({})", member_path(devices, member))).unwrap_or_default();
        let record = finding.record.map(|record| format!("{record}: ")).unwrap_or_default();
        output.line(format_args!(
            "{:<10}  {}: {}{path}: {record}{}",
            finding.severity.to_string(),
            finding.kind.name(),
            finding.spot,
            finding.what
        ))?;
    }
    let total = report.count(Severity::Note);
    let shown = findings.len().min(args.limit) as u64;
    if total > shown {
        output.line(format_args!("… and {} more (--limit; --json has those that are kept)", total - shown))?;
    }
    for ((worst, kind), number) in report.counts.iter().rev() {
        let what = format!("{} × {} ({worst})", number, kind.name());
        output.line(format_args!("{what}: {}", kind.remedy(*worst)))?;
    }
    output.line(format_args!(
        "{} with {}, {}, {} free; {}, {} of values, {}",
        count(report.groups_used, "group", "groups"),
        count(report.stripes, "stripe", "stripes"),
        count(report.groups_checkpoint, "checkpoint group", "checkpoint groups"),
        report.groups_free,
        count(report.records, "record", "records"),
        size(report.value_bytes),
        count(report.tombstones, "tombstone", "tombstones"),
    ))?;
    let took = duration(started.elapsed());
    let what = if args.quick { "headers and footers" } else { "everything" };
    let verdict = match report.worst() {
        None => format!("{what} is as it should be"),
        Some(Severity::Note) => format!("{what} is as it should be after a crash"),
        Some(Severity::Repairable) => "the pool is damaged or not complete; no value is lost".to_owned(),
        Some(Severity::Loss) => "VALUES ARE LOST, or cannot be trusted".to_owned(),
    };
    let verdict = verdict.replace("headers and footers is as it", "headers and footers are as they");
    Ok(output.line(format_args!("{verdict} ({} read in {took})", size(report.bytes)))?)
}

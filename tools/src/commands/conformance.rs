//! `kvof conformance`: checks a namespace against the Key Value command set, case by case.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use kvof_initiator::{
    ReconnectPolicy,
    blocking::{BlockingKv, block_on},
};
use kvof_kv::conformance::{self, CaseReport, Outcome, Profile, RunOptions, Summary};
use serde::Serialize;

use crate::{
    cli::{ConnectionArgs, Place},
    connect::{connect, open_kv},
    failure::{Exit, usage},
    output::{Align, Output, Table},
    units::duration,
};

/// Check a KV namespace of any target against the specification, case by case.
///
/// The exit code is 6 if a case fails, or if none could be checked.
///
/// The cases store keys with random prefixes that did not exist before, and delete them again: other data in the
/// namespace are safe. Nobody else should change the namespace meanwhile, or cases that list keys may fail.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    #[command(flatten)]
    place: Place,

    /// Run only the cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,

    /// How strict to be where the specification leaves a choice.
    #[arg(long, value_name = "PROFILE", default_value = "standard")]
    profile: ProfileChoice,

    /// Repeat an earlier run with its keys and values [default: random].
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,

    /// Print the cases, what they check and where it is specified; connects to nothing.
    #[arg(long)]
    list: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ProfileChoice {
    /// Every answer that the specification allows.
    Standard,
    /// Only the answers that kvof-target has chosen.
    Kvof,
}

#[derive(Serialize)]
struct CaseDocument {
    name: &'static str,
    about: &'static str,
    reference: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct RunDocument {
    address: String,
    subnqn: String,
    nsid: u32,
    profile: &'static str,
    seed: u64,
    passed: usize,
    failed: usize,
    skipped: usize,
    cases: Vec<CaseDocument>,
}

pub(crate) fn run(args: &ConformanceArgs, output: &mut Output) -> Result<Exit> {
    let selected = |name: &str| args.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let width = conformance::cases().filter(|case| selected(case.name)).map(|case| case.name.len()).max();
    let Some(width) = width else {
        let filter = args.filter.as_deref().unwrap_or_default();
        return Err(usage(format!("no case has {filter:?} in its name; see `kvof conformance --list`")));
    };
    if args.list {
        print_cases(selected, output)?;
        return Ok(Exit::Success);
    }
    check(args, width, output)
}

fn print_cases(selected: impl Fn(&str) -> bool, output: &mut Output) -> Result<()> {
    let cases = conformance::cases().filter(|case| selected(case.name));
    if output.is_json() {
        let cases: Vec<CaseDocument> = cases
            .map(|case| CaseDocument {
                name: case.name,
                about: case.about,
                reference: case.reference,
                outcome: None,
                reason: None,
                seconds: None,
            })
            .collect();
        return Ok(output.document(&cases)?);
    }
    let mut table = Table::new(&[("CASE", Align::Left), ("CHECKS", Align::Left), ("SPECIFIED IN", Align::Left)]);
    for case in cases {
        table.row(vec![case.name.to_owned(), case.about.to_owned(), case.reference.to_owned()]);
    }
    Ok(output.line(table)?)
}

fn check(args: &ConformanceArgs, width: usize, output: &mut Output) -> Result<Exit> {
    let address = args.place.resolve()?;
    // Cases with concurrent commands need queues that can overtake each other.
    let mut options = args.connection.options(2, None);
    // A target that answers a wrong command by closing the connection fails that case, not all that follow.
    options.reconnect = ReconnectPolicy { give_up_after: Duration::from_secs(10), ..ReconnectPolicy::default() };
    let controller = block_on(connect(&address, args.connection.nqn(), &options))?;
    let kv = block_on(open_kv(&controller, args.connection.nsid))?;
    let port = BlockingKv::new(kv.clone());

    let mut run = RunOptions { filter: args.filter.clone(), ..RunOptions::default() };
    run.profile = match args.profile {
        ProfileChoice::Standard => Profile::Standard,
        ProfileChoice::Kvof => Profile::Kvof,
    };
    if let Some(seed) = args.seed {
        run.seed = seed;
    }
    if !output.is_json() {
        output.line(format_args!(
            "{} at {}, namespace {}; its own data are left alone\n",
            controller.subnqn(),
            controller.address(),
            kv.nsid()
        ))?;
        output.flush()?;
    }
    let started = Instant::now();
    let mut cases = Vec::new();
    let mut printed = Ok(());
    let summary = conformance::run(&port, &run, &mut |report| {
        if output.is_json() {
            cases.push(case_document(report));
        } else if printed.is_ok() {
            printed = output.line(case_line(report, width)).and_then(|()| output.flush());
        }
    });
    // The connection, if there still is one, has served its purpose whatever could be printed.
    block_on(controller.disconnect());
    printed?;
    if output.is_json() {
        let Summary { passed, failed, skipped, seed } = summary;
        output.document(&RunDocument {
            address: address.to_string(),
            subnqn: controller.subnqn().to_owned(),
            nsid: kv.nsid(),
            profile: match args.profile {
                ProfileChoice::Standard => "standard",
                ProfileChoice::Kvof => "kvof",
            },
            seed,
            passed,
            failed,
            skipped,
            cases,
        })?;
    } else {
        output.line(format_args!(
            "\n{} passed, {} failed, {} skipped in {} (--seed {})",
            summary.passed,
            summary.failed,
            summary.skipped,
            duration(started.elapsed()),
            summary.seed
        ))?;
    }
    Ok(if summary.ok() { Exit::Success } else { Exit::Check })
}

fn case_line(report: &CaseReport, width: usize) -> String {
    let name = report.name;
    match &report.outcome {
        Outcome::Passed => format!("ok    {name:<width$}  {:>8}", duration(report.duration)),
        Outcome::Failed(reason) => {
            format!("FAIL  {name}\n      {reason}\n      {}, {}", report.about, report.reference)
        }
        Outcome::Skipped(reason) => format!("skip  {name:<width$}  {reason}"),
    }
}

fn case_document(report: &CaseReport) -> CaseDocument {
    let (outcome, reason) = match &report.outcome {
        Outcome::Passed => ("passed", None),
        Outcome::Failed(reason) => ("failed", Some(reason.clone())),
        Outcome::Skipped(reason) => ("skipped", Some(reason.clone())),
    };
    CaseDocument {
        name: report.name,
        about: report.about,
        reference: report.reference,
        outcome: Some(outcome),
        reason,
        seconds: Some(report.duration.as_secs_f64()),
    }
}

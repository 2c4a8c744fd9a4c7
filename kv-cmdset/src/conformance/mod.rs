//! The conformance suite: what every KV namespace must do, checked through a [`KvPort`].
//!
//! A run uses keys with a random prefix (and shorter ones only where they do not exist), so it may run on a namespace
//! that holds other data, and removes what it stored. Nobody else should change the namespace meanwhile: the List cases
//! would see that.
//!
//! ```no_run
//! # fn port() -> Box<dyn kvof_kv::KvPort> { unreachable!() }
//! use kvof_kv::conformance::{RunOptions, run};
//! let summary = run(&*port(), &RunOptions::default(), &mut |case| println!("{}: {}", case.name, case.outcome));
//! assert!(summary.ok());
//! ```

mod commands;
mod concurrent;
mod conditional;
mod context;
mod keys;
mod lists;
mod values;

use core::fmt;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use crate::KvPort;
use context::{Context, Stop};

const STORE: &str = "KV 3.2.5 (Store)";
const RETRIEVE: &str = "KV 3.2.4 (Retrieve)";
const LIST: &str = "KV 3.2.3 (List)";
const EXIST: &str = "KV 3.2.2 (Exist)";
const DELETE: &str = "KV 3.2.1 (Delete)";
const KEYS: &str = "KV 2.1 (keys), 3.2 (key fields of each command)";
const COMMANDS: &str = "Base 3.3.3.1 (common command format)";
const IDENTIFY: &str = "KV 4.1.5.1 (Identify Namespace)";
const FEATURE: &str = "KV 4.1.3 (Key Value Configuration)";

/// How strict the suite is where implementations disagree; the table in the [crate's documentation](crate) lists where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// Accepts every answer that is found in the field and is not plainly wrong.
    Standard,
    /// Requires what this project has chosen.
    #[default]
    Kvof,
}

/// One check of the suite.
pub struct Case {
    /// Unique name, `group.name`.
    pub name: &'static str,
    /// What is checked.
    pub about: &'static str,
    /// Where it is specified.
    pub reference: &'static str,
    check: fn(&mut Context<'_>) -> Result<(), Stop>,
}

/// What to run and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunOptions {
    /// Run only the cases whose name contains this.
    pub filter: Option<String>,
    /// How strict to be.
    pub profile: Profile,
    /// Decides keys and values; give an earlier run's to repeat it.
    pub seed: u64,
}

impl Default for RunOptions {
    /// All cases, [`Profile::Kvof`], a random seed.
    fn default() -> Self {
        Self { filter: None, profile: Profile::default(), seed: RandomState::new().build_hasher().finish() }
    }
}

/// What came of a case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Everything was as expected.
    Passed,
    /// Something was not; the text says what was expected and what came.
    Failed(String),
    /// It could not be checked here, and why.
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(reason) => write!(f, "FAILED: {reason}"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
        }
    }
}

/// The report of one case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaseReport {
    /// [`Case::name`].
    pub name: &'static str,
    /// [`Case::about`].
    pub about: &'static str,
    /// [`Case::reference`].
    pub reference: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Duration,
}

/// The report of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that could not be checked.
    pub skipped: usize,
    /// The seed that was used.
    pub seed: u64,
}

impl Summary {
    /// Whether something was checked and nothing failed.
    #[must_use]
    pub const fn ok(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// Every case, in the order in which they run.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    const GROUPS: &[&[Case]] =
        &[keys::CASES, values::CASES, conditional::CASES, lists::CASES, commands::CASES, concurrent::CASES];
    GROUPS.iter().flat_map(|group| group.iter())
}

/// Runs the cases that `options` select against `port`, one after another, and tells `report` of each as it ends.
pub fn run(port: &dyn KvPort, options: &RunOptions, report: &mut dyn FnMut(&CaseReport)) -> Summary {
    let mut summary = Summary { seed: options.seed, ..Summary::default() };
    let selected = |case: &&Case| options.filter.as_ref().is_none_or(|filter| case.name.contains(filter.as_str()));
    for case in cases().filter(selected) {
        let start = Instant::now();
        let outcome = run_case(port, options, case);
        match outcome {
            Outcome::Passed => summary.passed += 1,
            Outcome::Failed(_) => summary.failed += 1,
            Outcome::Skipped(_) => summary.skipped += 1,
        }
        report(&CaseReport {
            name: case.name,
            about: case.about,
            reference: case.reference,
            outcome,
            duration: start.elapsed(),
        });
    }
    summary
}

fn run_case(port: &dyn KvPort, options: &RunOptions, case: &Case) -> Outcome {
    let mut context = Context::new(port, options, case.name);
    if let Some(reason) = context.too_small() {
        return Outcome::Skipped(reason);
    }
    let result = (case.check)(&mut context);
    let cleaned = context.clean_up();
    match (result, cleaned) {
        (Err(Stop::Failed(reason)), _) | (Ok(()), Err(reason)) => Outcome::Failed(reason),
        (Err(Stop::Skipped(reason)), _) => Outcome::Skipped(reason),
        (Ok(()), Ok(())) => Outcome::Passed,
    }
}

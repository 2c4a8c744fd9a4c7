//! Makes a failure small: fewer steps, fewer kinds of faults and actions, while it still fails.

use kvof_store::device::sim::FaultPlan;

use super::scenario::{ACTIONS, Only, Outcome, Scenario};

/// The smallest limits found under which the episode of `seed` still fails, and how it fails then. `tries` runs at most.
pub fn minimize(seed: u64, only: &Only, failed: &Outcome, mut tries: usize) -> (Only, Outcome) {
    let mut best = (Only { steps: Some(failed.steps + 1), ..only.clone() }, failed.clone());
    let mut attempt = |best: &mut (Only, Outcome), candidate: Only| {
        if tries == 0 {
            return;
        }
        tries -= 1;
        let outcome = Scenario::new(seed, &candidate).run();
        if kind(&outcome) == kind(&best.1) && outcome.steps <= best.1.steps {
            *best = (Only { steps: Some(outcome.steps + 1), ..candidate }, outcome);
        }
    };
    let names = FaultPlan::NAMES.iter().chain(ACTIONS.iter().filter(|name| !matches!(**name, "store" | "wait")));
    for name in names {
        let mut candidate = best.0.clone();
        candidate.without.push((*name).to_owned());
        attempt(&mut best, candidate);
    }
    best
}

/// What sort of failure it is, so that one is not taken for another.
fn kind(outcome: &Outcome) -> Option<&'static str> {
    const KINDS: [&str; 9] = [
        "WRONG BYTES",
        "LOST",
        "no answer",
        "two writes",
        "Unrecovered",
        "there is room",
        "List of",
        "cannot be opened",
        "panic",
    ];
    let error = outcome.result.as_ref().err()?;
    Some(KINDS.iter().find(|kind| error.contains(**kind)).copied().unwrap_or("other"))
}

/// What repeats the episode.
pub fn command(seed: u64, only: &Only) -> String {
    let mut text = format!("cargo run --profile test -p kvof-store --example sim -- --episode-seed {seed:#x}");
    if let Some(steps) = only.steps {
        text += &format!(" --steps {steps}");
    }
    if let Some((k, m)) = only.profile {
        text += &format!(" --profile {k}+{m}");
    }
    if !only.without.is_empty() {
        text += &format!(" --without {}", only.without.join(","));
    }
    if let Some(chaos) = only.chaos {
        text += &format!(" --chaos {chaos}");
    }
    text
}

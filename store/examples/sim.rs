//! The long simulation: episodes of mixed faults, crashes and rebuilds against the reference, until the time is over or a
//! promise is broken. `docs/simulator.md` says how to read what it prints.
//!
//! `cargo run --profile test -p kvof-store --example sim -- [--seed N] [--hours H] [--episode N]`

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use common::{
    minimize,
    scenario::{ACTIONS, Only, Outcome, Scenario},
};
use kvof_store::device::sim::{FaultPlan, derive};

const USAGE: &str = "usage: sim [--seed N] [--hours H] [--episode N | --episode-seed N] [--steps N] [--profile K+M]
           [--without NAME,...] [--chaos true|false] [--verbose] [--keep-going]
NAME is a fault or an action:";

struct Options {
    seed: u64,
    hours: f64,
    episode: Option<u64>,
    episode_seed: Option<u64>,
    verbose: bool,
    keep_going: bool,
    only: Only,
}

fn number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |digits| u64::from_str_radix(digits, 16).ok())
}

fn options() -> Option<Options> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut options = Options {
        seed: derive(now.as_nanos() as u64, 0),
        hours: 0.05,
        episode: None,
        episode_seed: None,
        verbose: false,
        keep_going: false,
        only: Only::default(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        if name == "--verbose" {
            options.verbose = true;
            options.only.dump = true;
            continue;
        }
        if name == "--keep-going" {
            options.keep_going = true;
            continue;
        }
        let value = args.next()?;
        match name.as_str() {
            // An empty one is what `make sim` gives when nobody set it.
            "--seed" if value.is_empty() => {}
            "--seed" => options.seed = number(&value)?,
            "--hours" => options.hours = value.parse().ok().filter(|hours| *hours >= 0.0)?,
            "--episode" => options.episode = Some(number(&value)?),
            "--episode-seed" => options.episode_seed = Some(number(&value)?),
            "--steps" => options.only.steps = Some(value.parse().ok()?),
            "--chaos" => options.only.chaos = Some(value.parse().ok()?),
            "--profile" => {
                let (k, m) = value.split_once('+')?;
                options.only.profile = Some((k.parse().ok()?, m.parse().ok()?));
            }
            "--without" => {
                for name in value.split(',') {
                    if !FaultPlan::NAMES.contains(&name) && !ACTIONS.contains(&name) {
                        return None;
                    }
                    options.only.without.push(name.to_owned());
                }
            }
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE} {} {}", FaultPlan::NAMES.join(" "), ACTIONS.join(" "));
        return ExitCode::from(2);
    };
    if options.verbose {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .without_time()
            .with_writer(std::io::stdout)
            .init();
    }
    // A panic is a failure of the episode and is reported as one.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    if let Some(seed) = options.episode_seed.or_else(|| options.episode.map(|n| derive(options.seed, n))) {
        let outcome = Scenario::new(seed, &options.only).run();
        println!("episode {seed:#x}: trace {:#018x}, {} operations, {:?}", outcome.trace, outcome.ops, outcome.tally);
        if options.verbose {
            println!("{:#?}", Scenario::new(seed, &options.only));
        }
        return match &outcome.result {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => {
                report(&outcome, if options.verbose { usize::MAX } else { 60 });
                ExitCode::FAILURE
            }
        };
    }
    println!("seed {:#x}, for {} hours", options.seed, options.hours);
    let end = Instant::now() + Duration::from_secs_f64(options.hours * 3600.0);
    let mut told = Instant::now();
    let mut sums = [0u64; 6];
    let (mut episode, mut failures) = (0, 0);
    while Instant::now() < end {
        let seed = derive(options.seed, episode);
        let outcome = Scenario::new(seed, &options.only).run();
        if let (true, Err(error)) = (options.keep_going, &outcome.result) {
            failures += 1;
            println!(
                "episode {seed:#x} fails at step {}: {}",
                outcome.steps,
                error.chars().take(300).collect::<String>()
            );
        } else if outcome.result.is_err() {
            report(&outcome, 60);
            println!("episode {episode} of seed {:#x} (its own seed: {seed:#x}); making it smaller", options.seed);
            println!("to repeat: {}", minimize::command(seed, &options.only));
            let (small, failed) = minimize::minimize(seed, &options.only, &outcome, 40);
            println!("\nthe smallest failure found:");
            report(&failed, 60);
            println!("to repeat: {}", minimize::command(seed, &small));
            return ExitCode::FAILURE;
        }
        let tally = outcome.tally;
        let more = [tally.requests, outcome.ops, outcome.faults, tally.crashes, outcome.cleaned, tally.unrecovered];
        sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        episode += 1;
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            progress(episode, &sums);
        }
    }
    progress(episode, &sums);
    if failures > 0 {
        println!("{failures} episodes failed");
        return ExitCode::FAILURE;
    }
    println!("no promise was broken");
    ExitCode::SUCCESS
}

fn progress(episodes: u64, [requests, ops, faults, crashes, cleaned, unrecovered]: &[u64; 6]) {
    println!(
        "{episodes} episodes: {requests} requests, {ops} device operations, {faults} faults, {crashes} crashes, \
         {cleaned} groups cleaned since the last start of each, {unrecovered} unrecovered where more than m may fail"
    );
}

fn report(outcome: &Outcome, lines: usize) {
    for line in outcome.journal.iter().skip(outcome.journal.len().saturating_sub(lines)) {
        println!("  {line}");
    }
    if let Err(error) = &outcome.result {
        println!("FAILED at step {}: {error}", outcome.steps);
    }
}

//! Episodes of the simulator: a pool, hosts and faults of all kinds at once, against the reference.
//!
//! `make sim` runs many more. A failure prints what repeats it.

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{
    minimize,
    scenario::{Only, Scenario},
};

fn run(seed: u64, only: &Only) -> common::scenario::Outcome {
    let outcome = Scenario::new(seed, only).run();
    if let Err(error) = &outcome.result {
        for line in outcome.journal.iter().rev().take(60).rev() {
            eprintln!("  {line}");
        }
        eprintln!("FAILED at step {}: {error}", outcome.steps);
        let (small, failed) = minimize::minimize(seed, only, &outcome, 20);
        eprintln!("smallest: step {}: {}", failed.steps, failed.result.unwrap_err());
        panic!("seed {seed:#x}; to repeat: {}", minimize::command(seed, &small));
    }
    outcome
}

#[test]
fn fixed_seeds() {
    let mut faults = 0;
    for seed in 1..=12 {
        faults += run(seed, &Only::default()).faults;
    }
    assert!(faults > 100, "{faults} faults are too few to have tested anything");
}

#[test]
fn fresh_seeds() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for n in 0..3 {
        let seed = now.as_nanos() as u64 ^ n << 60;
        println!("seed {seed:#x}");
        run(seed, &Only::default());
    }
}

#[test]
fn an_episode_can_be_repeated() {
    for seed in [3, 4] {
        let once = || {
            let outcome = Scenario::new(seed, &Only { steps: Some(300), ..Only::default() }).run();
            (outcome.trace, outcome.ops, outcome.steps)
        };
        let first = once();
        assert_eq!(first, once(), "seed {seed}");
        assert!(first.1 > 1000);
    }
}

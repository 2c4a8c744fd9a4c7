//! Hit rates of the DRAM tier, and of policies it was chosen over, on generated traces.
//!
//! `cargo run --release -p kvof-store --example tier_hit_rates`
//!
//! With the name of a trace as argument, only that one.

mod ahead;
mod policies;
mod rng;
mod traces;

use std::time::Instant;

use kvof_store::tier::Admit;
use policies::{Make, POLICIES, Policy, Production, STORED, Stored};
use rng::Rng;
use traces::{Make as MakeTrace, Op, SESSIONS, TRACES, Trace};

const SEEDS: [u64; 3] = [1, 2, 3];
/// Cache sizes, in percent of the bytes of all values of a trace.
const PERCENT: [u64; 4] = [1, 5, 10, 20];

/// Hits and bytes of hits, as parts of what was read.
fn run(trace: &Trace, policy: &mut dyn Policy) -> (f64, f64) {
    let (mut reads, mut bytes, mut hits, mut hit_bytes) = (0u64, 0u64, 0u64, 0u64);
    for op in &trace.ops {
        match *op {
            Op::Store(id) => policy.put(id, Admit::Stored),
            Op::Read(id) => {
                let size = u64::from(trace.sizes[id as usize]);
                reads += 1;
                bytes += size;
                if policy.get(id) {
                    hits += 1;
                    hit_bytes += size;
                } else {
                    policy.put(id, Admit::Read);
                }
            }
        }
    }
    (hits as f64 / reads as f64, hit_bytes as f64 / bytes as f64)
}

/// A table of the hit rates of some policies on some traces.
fn table(policies: &[(&str, Make)], traces: &[(&str, MakeTrace)]) {
    print!("| trace | cache |");
    policies.iter().for_each(|(name, _)| print!(" {name} |"));
    print!("\n|---|---|");
    policies.iter().for_each(|_| print!("---|"));
    println!();
    let mut sums = vec![(0.0, 0.0); policies.len()];
    let mut rows = 0.0;
    for (name, make) in traces {
        let made: Vec<Trace> = SEEDS.iter().map(|seed| make(&mut Rng::new(*seed))).collect();
        for percent in PERCENT {
            print!("| {name} | {percent} % |");
            rows += 1.0;
            for (sum, (_, make)) in sums.iter_mut().zip(policies) {
                let (mut objects, mut bytes) = (0.0, 0.0);
                for trace in &made {
                    let one = run(trace, make(trace, trace.footprint() * percent / 100).as_mut());
                    objects += one.0 / SEEDS.len() as f64;
                    bytes += one.1 / SEEDS.len() as f64;
                }
                print!(" {:.1} / {:.1} |", objects * 100.0, bytes * 100.0);
                *sum = (sum.0 + objects, sum.1 + bytes);
            }
            println!();
        }
    }
    print!("| **mean** | |");
    for (objects, bytes) in sums {
        print!(" {:.1} / {:.1} |", objects / rows * 100.0, bytes / rows * 100.0);
    }
    println!("\n");
}

/// What a call of the tier takes, and what it remembers for each value.
fn cost(traces: &[(&str, MakeTrace)]) {
    let Some((name, make)) = traces.last() else { return };
    let trace = make(&mut Rng::new(SEEDS[0]));
    let limit = trace.footprint() / 10;
    let mut tier = Production::new(&trace, limit, Stored::Offered);
    let begin = Instant::now();
    run(&trace, &mut tier);
    let nanos = begin.elapsed().as_nanos() / trace.ops.len() as u128;
    let stats = tier.stats();
    let each = stats.bookkeeping / stats.entries.max(1);
    println!(
        "The tier on {name} at 10 %: {nanos} ns an operation of the trace, {each} bytes of bookkeeping a value.\n"
    );
}

fn read_ahead(traces: &[(&str, MakeTrace)]) {
    println!(
        "| trace | reading ahead | run, mean ms | run, p99 ms | read from device, GiB | started | used | wasted | declined | turned off |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (name, make) in traces {
        let trace = make(&mut Rng::new(SEEDS[0]));
        let limit = trace.footprint() / 20;
        for (only_ask, label) in [(0.0, ""), (0.9, ", 90 % only ask")] {
            for (on, word) in [(false, "no"), (true, "yes")] {
                let ahead::Outcome { mean, p99, device, stats } = ahead::play(&trace, limit, on, only_ask, SEEDS[0]);
                let gib = device as f64 / (1u64 << 30) as f64;
                println!(
                    "| {name}{label} | {word} | {mean:.2} | {p99:.2} | {gib:.0} | {} | {} | {} | {} | {} |",
                    stats.started, stats.used, stats.wasted, stats.declined, stats.turned_off
                );
            }
        }
    }
}

fn main() {
    let only = std::env::args().nth(1);
    let mut traces = TRACES.to_vec();
    traces.retain(|(name, _)| only.as_deref().is_none_or(|only| only == *name));
    let sessions: Vec<_> = traces.iter().filter(|(name, _)| SESSIONS.contains(name)).copied().collect();
    println!("Hit rate in percent, objects / bytes, mean of seeds {SEEDS:?}.\n");
    table(POLICIES, &traces);
    cost(&traces);
    println!("What is done with values that are stored, same figures.\n");
    table(STORED, &traces);
    println!("Reading ahead on Exist: from the first Retrieve of a run to the end of its last. Tier of 5 %.\n");
    read_ahead(&sessions);
}

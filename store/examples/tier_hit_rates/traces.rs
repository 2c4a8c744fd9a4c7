//! The generated traces. Every one follows from its name and a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::rng::{Rng, Zipf};

const KIB: u32 = 1024;

#[derive(Clone, Copy)]
pub(crate) enum Op {
    /// Retrieve: on a miss the value comes from a device and is offered to the tier.
    Read(u32),
    /// Store of a new value.
    Store(u32),
}

pub(crate) struct Trace {
    pub(crate) ops: Vec<Op>,
    /// Bytes of each value.
    pub(crate) sizes: Vec<u32>,
}

impl Trace {
    /// Bytes of all values that occur.
    pub(crate) fn footprint(&self) -> u64 {
        let mut seen = vec![false; self.sizes.len()];
        let ids = self.ops.iter().map(|op| match *op {
            Op::Read(id) | Op::Store(id) => id as usize,
        });
        ids.filter(|id| !std::mem::replace(&mut seen[*id], true)).map(|id| u64::from(self.sizes[id])).sum()
    }
}

pub(crate) type Make = fn(&mut Rng) -> Trace;

pub(crate) const TRACES: [(&str, Make); 11] = [
    ("chat", chat),
    ("agents", agents),
    ("documents", documents),
    ("zipf 0.8", |rng| zipf(rng, 0.8)),
    ("zipf 1.0", |rng| zipf(rng, 1.0)),
    ("zipf 1.2", |rng| zipf(rng, 1.2)),
    ("zipf + scans", scans),
    ("one-hit 70 %", one_hit),
    ("shifting", shifting),
    ("loop", looping),
    ("store-read", store_read),
];

/// The traces that come in runs of one session.
pub(crate) const SESSIONS: [&str; 3] = ["chat", "agents", "documents"];

const OPS: usize = 200_000;

/// 64 KiB to 2 MiB, each doubling equally often.
fn size(rng: &mut Rng) -> u32 {
    (64 * KIB) << rng.below(6)
}

fn sizes(rng: &mut Rng, n: usize) -> Vec<u32> {
    (0..n).map(|_| size(rng)).collect()
}

/// How the sessions of an inference engine behave. Times are in seconds.
struct Sessions {
    /// Prefixes that sessions share, and how uneven their popularity is.
    prompts: usize,
    prompt_skew: f64,
    prompt_blocks: (u64, u64),
    /// Time between two new sessions.
    arrival: f64,
    /// Turns: 1 / alpha is the weight of the tail.
    turns_alpha: f64,
    turns_max: u64,
    /// Time between two turns: median and spread.
    think: (f64, f64),
    /// Blocks that one turn adds.
    turn_blocks: (u64, u64),
}

/// People chatting: few shared prompts, minutes between turns, most leave after a turn or two.
fn chat(rng: &mut Rng) -> Trace {
    let kind = Sessions {
        prompts: 12,
        prompt_skew: 1.0,
        prompt_blocks: (4, 24),
        arrival: 1.0,
        turns_alpha: 1.1,
        turns_max: 60,
        think: (60.0, 1.2),
        turn_blocks: (1, 6),
    };
    kind.generate(rng)
}

/// Programs that call tools: long prompts, seconds between turns, many turns.
fn agents(rng: &mut Rng) -> Trace {
    let kind = Sessions {
        prompts: 6,
        prompt_skew: 0.7,
        prompt_blocks: (16, 48),
        arrival: 4.0,
        turns_alpha: 0.7,
        turns_max: 40,
        think: (8.0, 1.5),
        turn_blocks: (1, 4),
    };
    kind.generate(rng)
}

/// Questions about documents: the shared prefix is one of many long documents, and sessions are short.
fn documents(rng: &mut Rng) -> Trace {
    let kind = Sessions {
        prompts: 600,
        prompt_skew: 0.9,
        prompt_blocks: (8, 64),
        arrival: 2.0,
        turns_alpha: 1.5,
        turns_max: 20,
        think: (40.0, 1.0),
        turn_blocks: (1, 3),
    };
    kind.generate(rng)
}

impl Sessions {
    /// Each turn reads everything of its session in order, the shared prefix first, and stores what the turn added.
    /// Whoever needs a prefix first stores it. One model, and so one size of block, serves a prompt and its sessions.
    fn generate(&self, rng: &mut Rng) -> Trace {
        let mut sizes: Vec<u32> = Vec::new();
        let mut ops = Vec::new();
        let popularity = Zipf::new(self.prompts, self.prompt_skew);
        let mut prompts: Vec<Option<Vec<u32>>> = vec![None; self.prompts];
        let block_size: Vec<u32> = (0..self.prompts).map(|_| size(rng)).collect();
        // When (microseconds), tie-breaker, prompt, own blocks, turns left.
        let mut due = BinaryHeap::new();
        let (mut arrives, mut number) = (0.0f64, 0u64);
        while ops.len() < OPS {
            // Keep the next arrival in the queue of turns.
            while due.peek().is_none_or(|Reverse((at, ..)): &Reverse<(u64, u64, usize, Vec<u32>, u64)>| {
                *at >= (arrives * 1e6) as u64
            }) {
                number += 1;
                let prompt = popularity.draw(rng) as usize;
                let turns = rng.pareto(self.turns_alpha, self.turns_max);
                due.push(Reverse(((arrives * 1e6) as u64, number, prompt, Vec::new(), turns)));
                arrives += rng.exponential(self.arrival);
            }
            let Some(Reverse((now, me, prompt, mut own, turns))) = due.pop() else { break };
            let mut new = |count: u64, ops: &mut Vec<Op>| -> Vec<u32> {
                let first = sizes.len() as u32;
                sizes.resize(sizes.len() + count as usize, block_size[prompt]);
                let ids: Vec<u32> = (first..first + count as u32).collect();
                ops.extend(ids.iter().map(|id| Op::Store(*id)));
                ids
            };
            if let Some(shared) = &prompts[prompt] {
                ops.extend(shared.iter().map(|id| Op::Read(*id)));
            } else {
                let count = rng.range(self.prompt_blocks.0, self.prompt_blocks.1);
                prompts[prompt] = Some(new(count, &mut ops));
            }
            ops.extend(own.iter().map(|id| Op::Read(*id)));
            let count = rng.range(self.turn_blocks.0, self.turn_blocks.1);
            own.extend(new(count, &mut ops));
            if turns > 1 {
                let next = now + (rng.log_normal(self.think.0, self.think.1) * 1e6) as u64;
                due.push(Reverse((next, me, prompt, own, turns - 1)));
            }
        }
        Trace { ops, sizes }
    }
}

fn shuffled(rng: &mut Rng, n: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        ids.swap(i, rng.below(i as u64 + 1) as usize);
    }
    ids
}

const VALUES: usize = 20_000;

fn zipf(rng: &mut Rng, skew: f64) -> Trace {
    let popularity = Zipf::new(VALUES, skew);
    Trace { sizes: sizes(rng, VALUES), ops: (0..OPS).map(|_| Op::Read(popularity.draw(rng))).collect() }
}

/// Popular values, and now and then somebody reads a long run of cold ones once.
fn scans(rng: &mut Rng) -> Trace {
    let popularity = Zipf::new(VALUES, 1.0);
    let mut sizes = sizes(rng, VALUES * 3);
    let (mut ops, mut cold) = (Vec::new(), VALUES as u32);
    while ops.len() < OPS {
        ops.extend((0..8_000).map(|_| Op::Read(popularity.draw(rng))));
        for _ in 0..2_000 {
            if cold as usize == sizes.len() {
                sizes.push(size(rng));
            }
            ops.push(Op::Read(cold));
            cold += 1;
        }
    }
    Trace { ops, sizes }
}

/// 70 % of the values are stored and never read.
fn one_hit(rng: &mut Rng) -> Trace {
    let values = 100_000;
    let sizes = sizes(rng, values);
    // Three tenths of the values are read; each is stored when its turn comes, and all that is stored may be read.
    let read_again: Vec<bool> = (0..values).map(|_| !rng.chance(0.7)).collect();
    let (mut live, mut ops): (Vec<u32>, Vec<Op>) = (Vec::new(), Vec::new());
    for id in 0..values as u32 {
        ops.push(Op::Store(id));
        if read_again[id as usize] {
            live.push(id);
        }
        if !live.is_empty() {
            // Half of the reads are of any of them, the others of recent ones: the distance from the newest is Pareto
            // distributed.
            let back =
                if rng.chance(0.5) { rng.range(1, live.len() as u64) } else { rng.pareto(0.3, live.len() as u64) };
            ops.push(Op::Read(live[live.len() - back as usize]));
        }
    }
    Trace { ops, sizes }
}

/// Zipf 1.0, but which values are popular changes all ten thousand reads by a fifth.
fn shifting(rng: &mut Rng) -> Trace {
    let popularity = Zipf::new(VALUES, 1.0);
    let sizes = sizes(rng, VALUES);
    let mut order = shuffled(rng, VALUES);
    let mut ops = Vec::new();
    while ops.len() < OPS {
        ops.extend((0..10_000).map(|_| Op::Read(order[popularity.draw(rng) as usize])));
        for _ in 0..VALUES / 10 {
            // One of the popular fifth changes places with any other.
            let popular = popularity.draw(rng) as usize;
            let any = rng.below(VALUES as u64) as usize;
            order.swap(popular, any);
        }
    }
    Trace { ops, sizes }
}

/// The same values again and again, more than any of the caches holds.
fn looping(rng: &mut Rng) -> Trace {
    let values = 10_000;
    let order = shuffled(rng, values);
    Trace { sizes: sizes(rng, values), ops: order.iter().cycle().take(values * 12).map(|id| Op::Read(*id)).collect() }
}

/// Prefill on one node, decode on another: each value is read exactly once, soon after it was stored.
fn store_read(rng: &mut Rng) -> Trace {
    let values = 60_000;
    let sizes = sizes(rng, values);
    let mut due = BinaryHeap::new();
    let mut ops = Vec::new();
    for id in 0..values as u32 {
        ops.push(Op::Store(id));
        due.push(Reverse((u64::from(id) + rng.log_normal(500.0, 1.0) as u64, id)));
        while let Some(Reverse((at, read))) = due.peek().copied() {
            if at > u64::from(id) {
                break;
            }
            ops.push(Op::Read(read));
            due.pop();
        }
    }
    Trace { ops, sizes }
}

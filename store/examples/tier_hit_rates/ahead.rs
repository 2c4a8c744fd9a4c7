//! What reading ahead on Exist is worth: runs of a session trace against a model of a device.
//!
//! Workers take the runs of the trace in turn. For each, they ask Exist for all its keys, schedule for a while, and
//! retrieve the values in the same order, some at a time. Times are in nanoseconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use kvof_io::SharedBuf;
use kvof_store::tier::{Admit, ReadAhead, ReadAheadLimits, ReadAheadStats, Tier};

use crate::policies::key;
use crate::rng::Rng;
use crate::traces::{Op, Trace};

const WORKERS: usize = 4;
/// Retrieves that a worker has in flight.
const DEPTH: usize = 4;
const EXIST: u64 = 2_000;
const ROUND_TRIP: u64 = 30_000;
/// Between the answer to the last Exist and the first Retrieve.
const SCHEDULE: u64 = 1_000_000;
/// Between two runs of one worker.
const COMPUTE: u64 = 8_000_000;
const DEVICE_LATENCY: u64 = 80_000;
/// Nanoseconds for a mebibyte: 3 GiB/s and 12 GiB/s.
const DEVICE_MIB: u64 = 325_000;
const NETWORK_MIB: u64 = 81_000;
const MIB: u64 = 1 << 20;

pub(crate) struct Outcome {
    /// From the first Retrieve of a run to the end of its last, milliseconds.
    pub(crate) mean: f64,
    pub(crate) p99: f64,
    /// Bytes read from the device.
    pub(crate) device: u64,
    pub(crate) stats: ReadAheadStats,
}

struct Worker {
    run: Vec<u32>,
    /// Keys of the run that were asked for, and retrieved.
    asked: usize,
    retrieved: usize,
    only_asks: bool,
    began: u64,
    ends: Vec<u64>,
}

struct Sim<'a> {
    trace: &'a Trace,
    tier: Tier,
    ahead: ReadAhead,
    /// Ends of device reads, and whether they were started by an Exist that no Retrieve has followed.
    reads: BTreeMap<(u64, u32), bool>,
    ends: BTreeMap<u32, u64>,
    device_free: u64,
    device_bytes: u64,
}

impl Sim<'_> {
    fn size(&self, id: u32) -> u64 {
        u64::from(self.trace.sizes[id as usize])
    }

    fn put(&mut self, id: u32, why: Admit) {
        self.tier.insert(key(id), SharedBuf::from(&b""[..]), self.size(id), why);
    }

    fn start_read(&mut self, id: u32, now: u64, ahead: bool) -> u64 {
        self.device_free = self.device_free.max(now) + self.size(id) * DEVICE_MIB / MIB;
        self.device_bytes += self.size(id);
        let end = self.device_free + DEVICE_LATENCY;
        self.reads.insert((end, id), ahead);
        self.ends.insert(id, end);
        end
    }

    fn finish_reads(&mut self, now: u64) {
        while let Some(((end, id), ahead)) = self.reads.first_key_value().map(|(at, ahead)| (*at, *ahead)) {
            if end > now {
                break;
            }
            self.reads.remove(&(end, id));
            self.ends.remove(&id);
            self.ahead.on_done(&key(id), Some(self.size(id)));
            self.put(id, if ahead { Admit::ReadAhead } else { Admit::Read });
        }
    }

    fn exist(&mut self, id: u32, now: u64) {
        let here = self.tier.contains(&key(id)) || self.ends.contains_key(&id);
        if self.ahead.on_exist(&key(id), self.size(id), here) {
            self.start_read(id, now, true);
        }
    }

    /// When the value has arrived at the host.
    fn retrieve(&mut self, id: u32, now: u64) -> u64 {
        self.ahead.on_retrieve(&key(id));
        let here = if let Some(end) = self.ends.get(&id).copied() {
            self.reads.insert((end, id), false);
            end
        } else if self.tier.get(&key(id)).is_some() {
            now
        } else {
            self.start_read(id, now, false)
        };
        here + self.size(id) * NETWORK_MIB / MIB + ROUND_TRIP
    }
}

/// Plays a trace with a tier of `limit` bytes; `only_ask` of the runs ask Exist and never retrieve.
pub(crate) fn play(trace: &Trace, limit: u64, read_ahead: bool, only_ask: f64, seed: u64) -> Outcome {
    let limits = if read_ahead {
        ReadAheadLimits::for_tier(limit)
    } else {
        ReadAheadLimits { entries: 0, ..ReadAheadLimits::for_tier(limit) }
    };
    let mut sim = Sim {
        trace,
        tier: Tier::new(limit),
        ahead: ReadAhead::new(limits),
        reads: BTreeMap::new(),
        ends: BTreeMap::new(),
        device_free: 0,
        device_bytes: 0,
    };
    let mut rng = Rng::new(seed);
    let mut ops = trace.ops.iter().peekable();
    let mut times = Vec::new();
    let mut due: BinaryHeap<Reverse<(u64, usize)>> = (0..WORKERS).map(|n| Reverse((n as u64, n))).collect();
    let mut workers: Vec<Option<Worker>> = (0..WORKERS).map(|_| None).collect();
    while let Some(Reverse((now, n))) = due.pop() {
        sim.finish_reads(now);
        let Some(worker) = &mut workers[n] else {
            // The next run: reads up to the stores that end a turn.
            let mut run = Vec::new();
            while let Some(Op::Store(id)) = ops.peek() {
                sim.put(*id, Admit::Stored);
                ops.next();
            }
            while let Some(Op::Read(id)) = ops.peek() {
                run.push(*id);
                ops.next();
            }
            if !run.is_empty() {
                let only_asks = rng.chance(only_ask);
                workers[n] = Some(Worker { run, asked: 0, retrieved: 0, only_asks, began: 0, ends: Vec::new() });
                due.push(Reverse((now, n)));
            }
            continue;
        };
        let next = if let Some(id) = worker.run.get(worker.asked) {
            sim.exist(*id, now);
            worker.asked += 1;
            now + if worker.asked == worker.run.len() { ROUND_TRIP + SCHEDULE } else { EXIST }
        } else if let Some(id) = worker.run.get(worker.retrieved).filter(|_| !worker.only_asks) {
            if worker.retrieved == 0 {
                worker.began = now;
            }
            worker.ends.push(sim.retrieve(*id, now));
            worker.retrieved += 1;
            let free = worker.retrieved.checked_sub(DEPTH).map_or(now, |at| worker.ends[at]);
            free.max(now)
        } else {
            let end = worker.ends.iter().copied().max().unwrap_or(now);
            if !worker.only_asks {
                times.push(end - worker.began);
            }
            workers[n] = None;
            end.max(now) + COMPUTE
        };
        due.push(Reverse((next, n)));
    }
    times.sort_unstable();
    let millis = |nanos: u64| nanos as f64 / 1e6;
    Outcome {
        mean: millis(times.iter().sum::<u64>()) / times.len() as f64,
        p99: millis(times[times.len() * 99 / 100]),
        device: sim.device_bytes,
        stats: sim.ahead.stats(),
    }
}

//! One load: which commands, how many at once, until when; and what came of them.

use std::time::Duration;

use hdrhistogram::Histogram;
use kvof_initiator::Error;

/// What the commands do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Write,
    Read,
    Exist,
    Delete,
    Mixed { read_percent: u8 },
}

/// Which values they do it with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// Any, again and again.
    Random,
    /// Each once.
    Once,
}

/// When it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// So long after the warm-up.
    After(Duration),
    /// After so many commands after the warm-up.
    Count(u64),
    /// With the working set, in [`Order::Once`].
    Exhausted,
}

/// One load.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Load {
    pub(super) action: Action,
    pub(super) order: Order,
    /// Bytes of a value.
    pub(super) size: u32,
    /// Commands in flight, all jobs together; at least one for each.
    pub(super) depth: u32,
    pub(super) jobs: u16,
    pub(super) warmup: Duration,
    pub(super) end: End,
    /// Commands a second, all jobs together; none: as fast as answers come.
    pub(super) rate: Option<u32>,
    /// Values are stamped and checked.
    pub(super) verify: bool,
    /// The jobs drive the queues and never sleep.
    pub(super) poll: bool,
}

/// What came of a load, or of the part of one job.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Latencies of commands that read (Retrieve, Exist, Read), nanoseconds.
    pub(super) reads: Histogram<u64>,
    /// Latencies of commands that change something, nanoseconds.
    pub(super) writes: Histogram<u64>,
    /// What was measured took so long.
    pub(super) elapsed: Duration,
    /// Commands that failed.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Values that were not what they should be.
    pub(super) wrong: u64,
    pub(super) first_wrong: Option<String>,
    /// Commands that were due but never sent, since the target did not keep up.
    pub(super) unsent: u64,
    /// What ended it early.
    pub(super) fatal: Option<Error>,
}

/// Longest latency that is told from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

impl Outcome {
    pub(super) fn new() -> Self {
        let longest = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
        let histogram =
            Histogram::new_with_bounds(1, longest, 3).unwrap_or_else(|_| unreachable!("the bounds are right"));
        Self {
            reads: histogram.clone(),
            writes: histogram,
            elapsed: Duration::ZERO,
            errors: 0,
            first_error: None,
            wrong: 0,
            first_wrong: None,
            unsent: 0,
            fatal: None,
        }
    }

    /// Adds what another job did at the same time.
    pub(super) fn add(&mut self, other: Self) {
        // Both have the same bounds.
        let _ = self.reads.add(&other.reads);
        let _ = self.writes.add(&other.writes);
        self.elapsed = self.elapsed.max(other.elapsed);
        self.errors += other.errors;
        self.wrong += other.wrong;
        self.unsent += other.unsent;
        self.first_error = self.first_error.take().or(other.first_error);
        self.first_wrong = self.first_wrong.take().or(other.first_wrong);
        self.fatal = self.fatal.take().or(other.fatal);
    }

    /// All latencies, nanoseconds.
    pub(super) fn all(&self) -> Histogram<u64> {
        let mut all = self.reads.clone();
        let _ = all.add(&self.writes);
        all
    }
}

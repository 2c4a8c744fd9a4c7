//! Runs a load: a thread for each job, and on it a future for each command in flight, which sends the next as soon as it
//! has an answer. Buffers are made once; nothing is allocated or formatted between two commands.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use kvof_initiator::{Buffer, Error, Result};

use super::{
    content,
    device::{Device, Found, Verb},
    executor::{Timers, run_all},
    load::{Action, End, Load, Order, Outcome},
};

/// How often a job's progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Progress of a load that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Commands that were answered.
    pub(super) done: u64,
    pub(super) elapsed: Duration,
}

/// Runs `load` on `device` until its end, or until `interrupted`, and tells `report` how far it is now and then.
pub(super) fn run(device: &Device, load: &Load, interrupted: &AtomicBool, mut report: impl FnMut(Progress)) -> Outcome {
    let shared = Shared { stop: AtomicBool::new(false), next: AtomicU64::new(0) };
    let done: Vec<Counter> = (0..load.jobs).map(|_| Counter::default()).collect();
    let buffers: Vec<Vec<Buffer>> = (0..load.jobs)
        .map(|job| (0..share(load.depth.into(), load.jobs, job)).map(|slot| buffer(load, job, slot)).collect())
        .collect();
    let main = thread::current();
    let start = Instant::now();
    thread::scope(|scope| {
        let jobs: Vec<_> = buffers
            .into_iter()
            .zip(&done)
            .zip(0..)
            .map(|((buffers, done), number)| {
                let (shared, main) = (&shared, main.clone());
                scope.spawn(move || {
                    let job = Job::new(device, load, shared, done, number, start);
                    let outcome = job.run(buffers);
                    main.unpark();
                    outcome
                })
            })
            .collect();
        while !jobs.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::park_timeout(LOOK);
            if interrupted.load(Ordering::Relaxed) {
                shared.stop.store(true, Ordering::Relaxed);
            }
            let done = done.iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum();
            report(Progress { done, elapsed: start.elapsed() });
        }
        let mut total = Outcome::new();
        for job in jobs {
            match job.join() {
                Ok(outcome) => total.add(outcome),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        total
    })
}

/// What the jobs share.
struct Shared {
    stop: AtomicBool,
    /// The next value in [`Order::Once`].
    next: AtomicU64,
}

/// Commands that a job has finished; a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Counter(AtomicU64);

/// The part of `job` (from 0 on) when `whole` is shared as evenly as can be.
fn share(whole: u64, jobs: u16, job: u16) -> u64 {
    whole / u64::from(jobs) + u64::from(u64::from(job) < whole % u64::from(jobs))
}

/// The buffer of one command in flight, filled with what does not compress.
fn buffer(load: &Load, job: u16, slot: u64) -> Buffer {
    let mut buffer = Buffer::new(load.size as usize);
    content::write(&mut buffer, u64::from(job), slot);
    buffer
}

struct Job<'a> {
    device: &'a Device,
    load: &'a Load,
    shared: &'a Shared,
    done: &'a Counter,
    timers: Timers,
    /// The end of the warm-up.
    begins: Instant,
    /// The end of measuring, if it is a time.
    ends: Option<Instant>,
    state: RefCell<State>,
}

struct State {
    rng: u64,
    /// Commands to measure yet, if they are counted.
    left: Option<u64>,
    /// When the next command is due, and the time from one to the next.
    schedule: Option<(Instant, Duration)>,
    finished: u64,
    last: Option<Instant>,
    outcome: Outcome,
}

/// A command to send.
struct Step {
    verb: Verb,
    index: u64,
    /// When it is due, in an open loop.
    due: Option<Instant>,
    measured: bool,
}

impl<'a> Job<'a> {
    fn new(
        device: &'a Device,
        load: &'a Load,
        shared: &'a Shared,
        done: &'a Counter,
        number: u16,
        start: Instant,
    ) -> Self {
        let begins = start + load.warmup;
        let schedule = load.rate.map(|rate| {
            let one = Duration::from_secs_f64(1.0 / f64::from(rate));
            (start + one * u32::from(number), one * u32::from(load.jobs))
        });
        let (ends, left) = match load.end {
            End::After(time) => (Some(begins + time), None),
            End::Count(count) => (None, Some(share(count, load.jobs, number))),
            End::Exhausted => (None, None),
        };
        let rng = content::mix(std::process::id().into()) ^ content::mix(u64::from(number) + 1);
        let state = State { rng, left, schedule, finished: 0, last: None, outcome: Outcome::new() };
        Self { device, load, shared, done, timers: Timers::default(), begins, ends, state: RefCell::new(state) }
    }

    fn run(self, buffers: Vec<Buffer>) -> Outcome {
        let turn = || self.device.controller().progress();
        let turn = self.load.poll.then_some(&turn as &dyn Fn() -> bool);
        run_all(&self.timers, turn, buffers.into_iter().map(|buffer| self.slot(buffer)));
        let State { schedule, last, mut outcome, .. } = self.state.into_inner();
        let last = last.unwrap_or(self.begins);
        let interrupted = self.shared.stop.load(Ordering::Relaxed);
        let until = match self.ends {
            // An open loop ends with its last answer.
            Some(ends) if !interrupted => {
                if schedule.is_some() {
                    ends.max(last)
                } else {
                    ends
                }
            }
            _ => last,
        };
        outcome.elapsed = until.saturating_duration_since(self.begins);
        if let (Some((due, step)), Some(ends), false) = (schedule, self.ends, interrupted) {
            let left = ends.saturating_duration_since(due).as_secs_f64() / step.as_secs_f64();
            outcome.unsent = left.ceil() as u64;
        }
        outcome
    }

    /// One command in flight after another.
    async fn slot(&self, mut buffer: Buffer) {
        let mut now = Instant::now();
        while let Some(step) = self.next(now) {
            if self.load.verify && step.verb == Verb::Write {
                let stamp = self.state.borrow_mut().random();
                content::write(&mut buffer, step.index, stamp);
            }
            if let Some(due) = step.due {
                self.timers.until(due).await;
            }
            // Looking at the clock takes as long as a tenth of a small command; what lies between two commands is little, unless values are
            // made and compared there.
            let since = step.due.unwrap_or_else(|| if self.load.verify { Instant::now() } else { now });
            let (result, returned) = self.device.execute(step.verb, step.index, buffer).await;
            now = Instant::now();
            buffer = returned;
            if !self.finish(&step, since, now, result, &buffer) {
                return;
            }
        }
    }

    /// The next command, if there is one; `now` is when the slot became free.
    fn next(&self, now: Instant) -> Option<Step> {
        if self.shared.stop.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state.borrow_mut();
        state.forget_before(self.begins, now);
        if self.ends.is_some_and(|ends| now >= ends) {
            return None;
        }
        let due = state.schedule.map(|(due, _)| due);
        if self.ends.is_some_and(|ends| due.is_some_and(|due| due >= ends)) {
            return None;
        }
        let measured = due.unwrap_or(now) >= self.begins;
        if measured && let Some(left) = &mut state.left {
            *left = left.checked_sub(1)?;
        }
        if let Some((due, step)) = &mut state.schedule {
            *due += *step;
        }
        let len = self.device.len();
        let index = match self.load.order {
            Order::Random => state.random() % len.max(1),
            Order::Once => self.shared.next.fetch_add(1, Ordering::Relaxed),
        };
        if index >= len {
            return None;
        }
        let verb = match self.load.action {
            Action::Write => Verb::Write,
            Action::Read => Verb::Read,
            Action::Exist => Verb::Exist,
            Action::Delete => Verb::Delete,
            Action::Mixed { read_percent } if state.random() % 100 < u64::from(read_percent) => Verb::Read,
            Action::Mixed { .. } => Verb::Write,
        };
        Some(Step { verb, index, due, measured })
    }

    /// Takes note of an answer; whether to go on.
    fn finish(&self, step: &Step, since: Instant, finished: Instant, result: Result<Found>, value: &[u8]) -> bool {
        let mut state = self.state.borrow_mut();
        state.finished += 1;
        self.done.0.store(state.finished, Ordering::Relaxed);
        // A closed loop is measured by the answers within its time, whenever their commands were sent.
        let measured = match (self.ends, step.due) {
            (Some(ends), None) => finished >= self.begins && finished <= ends,
            _ => step.measured,
        };
        let outcome = &mut state.outcome;
        match result {
            Ok(found) => {
                if measured {
                    let latency = finished.saturating_duration_since(since);
                    outcome.record(step.verb, latency);
                    state.last = Some(finished);
                }
                self.check(step, found, value, &mut state.outcome);
                true
            }
            Err(error) => {
                let goes_on =
                    matches!(error, Error::Status { .. } | Error::Timeout { .. } | Error::InvalidAnswer { .. });
                outcome.errors += 1;
                outcome.first_error.get_or_insert_with(|| format!("{}: {error}", self.device.name(step.index)));
                if !goes_on {
                    self.shared.stop.store(true, Ordering::Relaxed);
                    outcome.fatal.get_or_insert(error);
                }
                goes_on
            }
        }
    }

    fn check(&self, step: &Step, found: Found, value: &[u8], outcome: &mut Outcome) {
        let wrong = match found {
            Found::Missing if step.verb == Verb::Delete => None,
            Found::Missing => Some("it does not exist".to_owned()),
            Found::OtherLength(len) => Some(format!("it has {len} bytes instead of {}", value.len())),
            Found::Yes if self.load.verify && step.verb == Verb::Read => content::check(value, step.index).err(),
            Found::Yes => None,
        };
        if let Some(reason) = wrong {
            outcome.wrong += 1;
            outcome.first_wrong.get_or_insert_with(|| format!("{}: {reason}", self.device.name(step.index)));
        }
    }
}

impl State {
    /// What was due in the warm-up and is still not sent when it ends, is not sent at all: a target that did not keep up
    /// begins anew.
    fn forget_before(&mut self, begins: Instant, now: Instant) {
        if let Some((due, step)) = &mut self.schedule
            && now >= begins
            && *due < begins
        {
            let missed = begins.duration_since(*due).as_nanos().div_ceil(step.as_nanos().max(1));
            *due += *step * u32::try_from(missed).unwrap_or(u32::MAX);
        }
    }

    /// splitmix64.
    const fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        content::mix(self.rng)
    }
}

impl Outcome {
    fn record(&mut self, verb: Verb, latency: Duration) {
        let histogram: &mut Histogram<u64> = match verb {
            Verb::Read | Verb::Exist => &mut self.reads,
            Verb::Write | Verb::Delete => &mut self.writes,
        };
        histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (whole, jobs) in [(10, 3), (3, 3), (1, 1), (65_536, 256), (7, 2)] {
            let shares: Vec<u64> = (0..jobs).map(|job| share(whole, jobs, job)).collect();
            assert_eq!(shares.iter().sum::<u64>(), whole);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}

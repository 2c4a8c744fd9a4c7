//! `kvof bench`: measures a namespace.
//!
//! [`args`] become loads ([`load`]) on a working set ([`device`]); [`runner`] runs them on threads of their own
//! ([`executor`]) with values that can be checked ([`content`]), beside connections that are [`idle`] if that is asked
//! for; [`progress`] shows that something happens, [`report`] what came of it.

mod args;
mod content;
mod device;
mod executor;
mod idle;
mod load;
mod progress;
mod report;
mod runner;
mod set;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};
use kvof_initiator::{Controller, blocking::block_on};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{
    connect::connect,
    failure::{Exit, coded, exit_of_operation},
    output::Output,
    units::{duration, size},
};
use args::{Operation, Plan};
use idle::Idle;
use load::{Action, End, Load, Order, Outcome};
use progress::Bar;
use report::Row;
use set::WorkingSet;

pub(crate) use args::BenchArgs;

#[derive(Serialize)]
struct Document<'a> {
    target: Target<'a>,
    parameters: Parameters<'a>,
    interrupted: bool,
    results: &'a [Row],
}

#[derive(Serialize)]
struct Target<'a> {
    address: String,
    subnqn: &'a str,
    nsid: u32,
    model: String,
    firmware: String,
}

#[derive(Serialize)]
struct Parameters<'a> {
    op: Operation,
    nvm: bool,
    read_percent: Option<u8>,
    sizes: &'a [u32],
    depths: &'a [u32],
    jobs: u16,
    io_queues: u16,
    queue_depth: u16,
    header_digest: bool,
    data_digest: bool,
    seconds: Option<f64>,
    count: Option<u64>,
    warmup_seconds: f64,
    keys: Vec<u32>,
    rate: Option<u32>,
    idle_connections: u32,
    poll: bool,
    verify: bool,
    version: &'static str,
}

pub(crate) fn run(args: &BenchArgs, output: &mut Output) -> Result<Exit> {
    let plan = args.plan()?;
    let address = args.place.resolve()?;
    let interrupted = catch_signals()?;
    let queues = args.connection.io_queues.unwrap_or(args.jobs);
    let deepest = args.depth.iter().copied().max().unwrap_or(1);
    let on_one = deepest.div_ceil(u32::from(queues)).clamp(32, 4096);
    let options = args.connection.options(queues, u16::try_from(on_one).ok());
    let controller = block_on(connect(&address, args.connection.nqn(), &options))?;
    let result = Idle::open(&controller, &options, args.idle_connections).and_then(|idle| {
        let bench =
            Bench { args, plan, controller: &controller, idle: &idle, interrupted: &interrupted, rows: Vec::new() };
        let result = bench.run(output).and_then(|exit| idle.check().map(|()| exit));
        idle.close();
        result
    });
    block_on(controller.disconnect());
    result
}

/// The first SIGINT or SIGTERM ends the measurement, and what was stored is deleted; the second ends the process.
fn catch_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, Exit::Interrupted as i32, Arc::clone(&interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .context("cannot catch signals")?;
    }
    Ok(interrupted)
}

struct Bench<'a> {
    args: &'a BenchArgs,
    plan: Plan,
    controller: &'a Controller,
    idle: &'a Idle,
    interrupted: &'a AtomicBool,
    rows: Vec<Row>,
}

impl Bench<'_> {
    fn run(mut self, output: &mut Output) -> Result<Exit> {
        let set = block_on(WorkingSet::open(self.controller, self.args, self.plan.nvm))?;
        let keys = self.args.sizes.iter().map(|size| set.check(*size, self.args.keys)).collect::<Result<Vec<_>>>()?;
        if !output.is_json() {
            self.introduce(&set, output)?;
        }
        let mut exit = Exit::Success;
        for (size, count) in self.args.sizes.iter().zip(&keys) {
            let device = set.device(*size, *count);
            let measured = self.measure(&device, *size, output);
            // Whatever happened, what was stored is deleted, unless there is no way to.
            if !self.plan.nvm && self.controller.info().is_ok() {
                let cleaned = self.prepare("deleting", &device, Action::Delete, *size, true);
                if let (Err(error), true) = (cleaned, measured.is_ok()) {
                    return Err(error.context("cannot delete all that was stored"));
                }
            }
            exit = worse(exit, measured?);
            if self.is_interrupted() {
                exit = if exit == Exit::Success { Exit::Interrupted } else { exit };
                break;
            }
        }
        if output.is_json() {
            output.document(&self.document(&set, keys)?)?;
        }
        Ok(exit)
    }

    /// Measures values of one size with every depth.
    fn measure(&mut self, device: &device::Device, size: u32, output: &mut Output) -> Result<Exit> {
        let mut exit = Exit::Success;
        for (number, depth) in self.args.depth.iter().enumerate() {
            if self.plan.fill && (number == 0 || self.plan.action == Action::Delete) {
                self.prepare("storing", device, Action::Write, size, false)?;
            }
            if self.is_interrupted() {
                break;
            }
            let load = Load {
                action: self.plan.action,
                order: if self.plan.end == End::Exhausted { Order::Once } else { Order::Random },
                size,
                depth: *depth,
                jobs: self.args.jobs,
                warmup: if self.plan.end == End::Exhausted { std::time::Duration::ZERO } else { self.args.warmup },
                end: self.plan.end,
                rate: self.args.rate,
                verify: self.args.verify,
                poll: self.args.poll,
            };
            let mut outcome = self.load(self.args.op.name(), device, &load);
            if self.args.verify && outcome.fatal.is_none() && load.action != Action::Read {
                let check = Load { action: Action::Read, rate: None, ..self.once(Action::Read, size) };
                let checked = self.load("verifying", device, &check);
                outcome.wrong += checked.wrong;
                outcome.first_wrong = outcome.first_wrong.or(checked.first_wrong);
                outcome.errors += checked.errors;
                outcome.first_error = outcome.first_error.or(checked.first_error);
                outcome.fatal = checked.fatal;
            }
            let row = Row::new(self.args.op, self.plan.nvm, &load, &outcome);
            if !output.is_json() {
                output.line(row.lines())?;
                output.flush()?;
            }
            self.rows.push(row);
            exit = worse(exit, tell(&load, &outcome)?);
        }
        Ok(exit)
    }

    /// Does something with each value once.
    fn prepare(&self, what: &str, device: &device::Device, action: Action, size: u32, always: bool) -> Result<()> {
        let load = self.once(action, size);
        let never = AtomicBool::new(false);
        let interrupted = if always { &never } else { self.interrupted };
        let outcome = show(what, device, &load, interrupted);
        if let Some(error) = outcome.fatal {
            return Err(anyhow::Error::new(error).context(format!("{what} the values")));
        }
        match outcome.first_error {
            Some(error) => {
                Err(coded(Exit::Failed, format!("{what} the values: {} failed, first {error}", outcome.errors)))
            }
            None => Ok(()),
        }
    }

    /// A load that does something with each value once, with little in flight at a time.
    fn once(&self, action: Action, size: u32) -> Load {
        Load {
            action,
            order: Order::Once,
            size,
            depth: 16.max(self.args.jobs.into()),
            jobs: self.args.jobs,
            warmup: std::time::Duration::ZERO,
            end: End::Exhausted,
            rate: None,
            verify: self.args.verify,
            poll: self.args.poll,
        }
    }

    fn load(&self, what: &str, device: &device::Device, load: &Load) -> Outcome {
        show(what, device, load, self.interrupted)
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn introduce(&self, set: &WorkingSet, output: &mut Output) -> Result<()> {
        let info = self.controller.info()?;
        let args = self.args;
        output.line(format_args!("{} at {}, namespace {}", info.subnqn, self.controller.address(), set.nsid()))?;
        let queues = crate::units::count(info.io_queues.into(), "I/O queue", "I/O queues");
        let jobs = crate::units::count(args.jobs.into(), "job", "jobs");
        let how_long = match self.plan.end {
            End::After(time) => format!("{} after {} of warm-up", duration(time), duration(args.warmup)),
            End::Count(count) => format!("{count} commands after {} of warm-up", duration(args.warmup)),
            End::Exhausted => "each key once".to_owned(),
        };
        let rate = args.rate.map_or(String::new(), |rate| format!(", {rate} commands a second"));
        let digests = match args.connection.host.digests {
            crate::cli::Digests::None => String::new(),
            some => format!(", digests of {}", some.describe()),
        };
        let verify = if args.verify { ", verified" } else { "" };
        let poll = if args.poll { ", polling" } else { "" };
        let idle = match self.idle.connections() {
            0 => String::new(),
            some => format!(", {some} idle connections"),
        };
        output.line(format_args!(
            "{jobs}{poll}, {queues}{digests}{idle}, {how_long}{rate}{verify}; {}\n",
            set.describe()
        ))?;
        let capacity = u32::from(info.io_queues) * u32::from(info.queue_depth);
        if let Some(depth) = args.depth.iter().find(|depth| **depth > capacity) {
            let shape = format!("{queues} of {} commands", info.queue_depth);
            eprintln!(
                "kvof: {shape} take fewer than --depth {depth}: commands wait for their turn, which counts as latency"
            );
        }
        output.line(report::header())?;
        Ok(output.flush()?)
    }

    fn document(&self, set: &WorkingSet, keys: Vec<u32>) -> Result<Document<'_>> {
        let info = self.controller.info()?;
        let args = self.args;
        Ok(Document {
            target: Target {
                address: self.controller.address().to_string(),
                subnqn: self.controller.subnqn(),
                nsid: set.nsid(),
                model: info.model.clone(),
                firmware: info.firmware.clone(),
            },
            parameters: Parameters {
                op: args.op,
                nvm: self.plan.nvm,
                read_percent: matches!(self.plan.action, Action::Mixed { .. }).then_some(args.read_percent),
                sizes: &args.sizes,
                depths: &args.depth,
                jobs: args.jobs,
                io_queues: info.io_queues,
                queue_depth: info.queue_depth,
                header_digest: args.connection.host.digests.header(),
                data_digest: args.connection.host.digests.data(),
                seconds: match self.plan.end {
                    End::After(time) => Some(time.as_secs_f64()),
                    _ => None,
                },
                count: args.count,
                warmup_seconds: args.warmup.as_secs_f64(),
                keys,
                rate: args.rate,
                idle_connections: self.idle.connections(),
                poll: args.poll,
                verify: args.verify,
                version: env!("CARGO_PKG_VERSION"),
            },
            interrupted: self.is_interrupted(),
            results: &self.rows,
        })
    }
}

/// Runs `load` with a bar.
fn show(what: &str, device: &device::Device, load: &Load, interrupted: &AtomicBool) -> Outcome {
    let mut bar = Bar::new(format!("{what} {}", size(load.size.into())), load, device.len());
    let outcome = runner::run(device, load, interrupted, |progress| bar.update(progress));
    bar.end();
    outcome
}

/// Tells on standard error what went wrong.
fn tell(load: &Load, outcome: &Outcome) -> Result<Exit> {
    if let Some(error) = &outcome.fatal {
        return Err(coded(exit_of_operation(error), error));
    }
    if let Some(rate) = load.rate.filter(|_| outcome.unsent > 0) {
        eprintln!(
            "kvof: the target did not keep up with {rate} commands a second: {} were due and not sent",
            outcome.unsent
        );
    }
    if let Some(error) = &outcome.first_error {
        eprintln!("kvof: {} commands failed; the first: {error}", outcome.errors);
    }
    if let Some(wrong) = &outcome.first_wrong {
        eprintln!("kvof: {} values were wrong; the first: {wrong}", outcome.wrong);
        return Ok(Exit::Check);
    }
    Ok(if outcome.errors > 0 { Exit::Failed } else { Exit::Success })
}

/// Of two exits the one that says more is wrong.
fn worse(a: Exit, b: Exit) -> Exit {
    if (b as u8) > (a as u8) { b } else { a }
}

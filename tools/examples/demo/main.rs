//! The main job on real input: stores real files through the host library on a pool of five devices, one of them parity; the
//! target is killed halfway, a device is lost, and every acknowledged byte is still there. Before that, shortly, the same on
//! the target as it is without a configuration.
//!
//! `make demo` builds and runs it. It ends everything it started and removes everything it wrote.

mod input;
mod pool;
mod target;
mod work;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kvof_initiator::{ConnectOptions, Controller, ReconnectPolicy, blocking::block_on};

use crate::{
    input::{Input, Value},
    pool::Pool,
    target::Target,
    work::Figures,
};

/// Stores, lists, retrieves and verifies real files on a kvof target that is killed and loses a device.
#[derive(Debug, Parser)]
struct Options {
    /// The folder of the programs kvof-target and kvof.
    #[arg(long, default_value = ".build/release")]
    bin: PathBuf,
    /// Bytes of files to store, MiB.
    #[arg(long, default_value_t = 1024)]
    mebibytes: usize,
    /// Bytes of one value, MiB.
    #[arg(long, default_value_t = 2)]
    value_mebibytes: usize,
    /// Commands in flight.
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// Where the files that serve as devices are made, and removed again.
    #[arg(long, default_value = ".build/demo")]
    directory: PathBuf,
    /// Folders to take files from; the default is what every machine that can build kvof has.
    #[arg(long)]
    from: Vec<PathBuf>,
}

/// NSID of the namespace that both targets serve.
const NSID: u32 = 1;

/// Values that the first, short part stores.
const FEW: usize = 64;

/// The device that is lost.
const LOST: usize = 2;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let Input { files, bytes, values } =
        Input::read(&options.from, options.mebibytes << 20, options.value_mebibytes << 20)?;
    println!(
        "{files} real files, {:.2} GiB, as {} values of up to {} MiB; {} commands in flight",
        bytes as f64 / (1u64 << 30) as f64,
        values.len(),
        options.value_mebibytes,
        options.depth
    );
    let values = in_memory(options, values)?;
    let stored = values.len();
    let verified = on_a_pool(options, values, bytes)?;
    ensure!(verified == bytes, "{verified} of {bytes} bytes were verified");

    println!("\nAll {bytes} bytes of {stored} values came back as they were stored. Nothing is left running.\n");
    println!("To try next, with a target started by `.build/release/kvof-target`:");
    println!("   .build/release/kvof discover tcp://127.0.0.1:4420");
    println!("   .build/release/kvof bench --help                      # other sizes, depths and mixes");
    println!("   .build/release/kvof conformance --help                # the standard, case by case");
    println!("   nvme connect -t tcp -a 127.0.0.1 -s 4420 -n NQN       # from any Linux host, 6.0 or later");
    Ok(())
}

/// A target without a configuration, for a moment.
fn in_memory(options: &Options, mut values: Vec<Value>) -> Result<Vec<Value>> {
    println!("\n1. In memory: kvof-target as it is without a configuration");
    let rest = values.split_off(FEW.min(values.len()));
    let target = Target::start(&options.bin.join("kvof-target"), &["--listen", "127.0.0.1:0", "--nqn", target::NQN])?;
    let (values, stored) = with_controller(&target, async |it| work::store(it, NSID, values, options.depth).await)?;
    stored.print("store");
    let (mut values, retrieved) =
        with_controller(&target, async |it| work::verify(it, NSID, values, options.depth).await)?;
    retrieved.print("retrieve and verify");
    target.stop()?;
    values.extend(rest);
    Ok(values)
}

/// Everything, on five devices that live through a lot; the bytes that were verified at the end.
fn on_a_pool(options: &Options, values: Vec<Value>, bytes: usize) -> Result<usize> {
    println!("\n2. On a pool of five files as devices, one of them parity (4+1)");
    let count = values.len();
    let pool = Pool::format(&options.bin, &options.directory, bytes)?;
    say("format", &pool.format_summary());
    let target = pool.start()?;
    let mut killed = None;
    let cut_off = with_controller(&target, async |controller| {
        let kill = || {
            killed = Some(target.kill());
            Ok(())
        };
        work::store_until(controller, NSID, values, options.depth, count / 2, kill).await
    })?;
    killed.context("the target was not killed")??;
    let acknowledged = cut_off.acknowledged.len();
    cut_off.figures.print("store");
    say(
        "killed",
        &format!("SIGKILL with {acknowledged} of {count} values acknowledged and {} in flight", cut_off.in_flight),
    );
    pool.lose(LOST)?;
    say("a device is lost", &format!("{} is removed while the target is down", pool.name(LOST)));

    let started = Instant::now();
    drop(target);
    let target = pool.start()?;
    done("start again", started.elapsed(), &pool.health(&target)?);
    let name = pool.name(LOST);
    let line = target.logged(&name).with_context(|| format!("the target's log does not name {name}"))?;
    say("its log", &line);
    let (mut values, retrieved) =
        with_controller(&target, async |it| work::verify(it, NSID, cut_off.acknowledged, options.depth).await)?;
    retrieved.print("retrieve and verify");
    let (rest, stored) = with_controller(&target, async |it| work::store(it, NSID, cut_off.rest, options.depth).await)?;
    stored.print("store the rest");
    values.extend(rest);

    let started = Instant::now();
    pool.replace(LOST, &target)?;
    say("replace", &format!("kvof replace: an empty {} takes its place, while the target serves", pool.name(LOST)));
    let health = pool.wait_until_whole(&target)?;
    done("rebuild", started.elapsed(), &health);
    check_list(&target, &values)?;
    let (values, retrieved) = with_controller(&target, async |it| work::verify(it, NSID, values, options.depth).await)?;
    retrieved.print("retrieve and verify");
    ensure!(values.len() == count, "{} of {count} values were verified", values.len());
    target.stop()?;
    let started = Instant::now();
    let verdict = pool.verify()?;
    done("kvof verify", started.elapsed(), &verdict);
    Ok(retrieved.bytes)
}

fn with_controller<T>(target: &Target, work: impl AsyncFnOnce(&Controller) -> Result<T>) -> Result<T> {
    block_on(async {
        let mut options = ConnectOptions::default();
        options.io_queues = 2;
        // A target that is killed is to be seen, not waited for.
        options.reconnect = ReconnectPolicy::NEVER;
        let controller = Controller::connect(&target.address.parse()?, target::NQN, &options)
            .await
            .with_context(|| format!("cannot connect to {} at {}", target::NQN, target.address))?;
        let result = work(&controller).await;
        controller.disconnect().await;
        result
    })
}

fn check_list(target: &Target, values: &[Value]) -> Result<()> {
    let started = Instant::now();
    let keys = with_controller(target, async |controller| work::list(controller, NSID).await)?;
    let mut expected: Vec<_> = values.iter().map(|v| v.key).collect();
    expected.sort();
    ensure!(keys == expected, "List returned {} keys that are not the {} stored ones", keys.len(), expected.len());
    done("list", started.elapsed(), &format!("{} keys, as stored", keys.len()));
    Ok(())
}

/// A step without a time.
fn say(what: &str, text: &str) {
    println!("   {what:<20} {:>8}     {text}", "");
}

/// A step with a time.
fn done(what: &str, elapsed: Duration, text: &str) {
    println!("   {what:<20} {:>8.2} s   {text}", elapsed.as_secs_f64());
}

impl Figures {
    fn print(&self, what: &str) {
        let seconds = self.elapsed.as_secs_f64();
        let text = format!(
            "{:>6.2} GB/s  {:>7.0} op/s   p50 {:>6.2} ms  p99 {:>6.2} ms",
            self.bytes as f64 / 1e9 / seconds,
            self.latency_us.len() as f64 / seconds,
            self.latency_us.value_at_quantile(0.5) as f64 / 1e3,
            self.latency_us.value_at_quantile(0.99) as f64 / 1e3,
        );
        done(what, self.elapsed, &text);
    }
}

//! The main job on real input: starts a target, stores real files through the host library, lists and retrieves them, and
//! verifies every byte; then the same on a file-backed namespace with a clean restart in between.
//!
//! `make demo` builds and runs it. It ends everything it started and removes everything it wrote.

mod input;
mod target;
mod work;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kvof_initiator::{ConnectOptions, Controller, blocking::block_on};

use crate::{input::Input, target::Target, work::Figures};

/// Stores, lists, retrieves and verifies real files on a kvof target.
#[derive(Debug, Parser)]
struct Options {
    /// The kvof-target program.
    #[arg(long, default_value = ".build/release/kvof-target")]
    target: PathBuf,
    /// Bytes of files to store, MiB.
    #[arg(long, default_value_t = 1024)]
    mebibytes: usize,
    /// Bytes of one value, MiB.
    #[arg(long, default_value_t = 2)]
    value_mebibytes: usize,
    /// Commands in flight.
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// Where the file-backed namespace is made, and removed again.
    #[arg(long, default_value = ".build/demo")]
    directory: PathBuf,
    /// Folders to take files from; the default is what every machine that can build kvof has.
    #[arg(long)]
    from: Vec<PathBuf>,
}

/// NSID of the namespace that both targets serve.
const NSID: u32 = 1;

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
    let input = Input::read(&options.from, options.mebibytes << 20, options.value_mebibytes << 20)?;
    println!(
        "{} real files, {:.2} GiB, as {} values of up to {} MiB; {} commands in flight\n",
        input.files,
        input.bytes as f64 / (1u64 << 30) as f64,
        input.values.len(),
        options.value_mebibytes,
        options.depth
    );

    println!("1. In memory: kvof-target as it is without a configuration");
    let target = Target::start(&options.target, &[])?;
    let (input, stored) =
        with_controller(&target, async |controller| work::store(controller, NSID, input, options.depth).await)?;
    stored.print("store");
    check_list(&target, &input)?;
    let (input, retrieved) =
        with_controller(&target, async |controller| work::verify(controller, NSID, input, options.depth).await)?;
    retrieved.print("retrieve and verify");
    target.stop()?;

    println!("\n2. In a file, with a clean restart of the target in between");
    let directory = Directory::create(&options.directory)?;
    let file = directory.0.join("kv.kvof");
    let size = format!("{}", (input.bytes as u64 * 5 / 4).next_multiple_of(4096) + (64 << 20));
    let arguments = ["--kv-file", &file.display().to_string(), "--size", &size];
    let target = Target::start(&options.target, &arguments)?;
    let (input, stored) =
        with_controller(&target, async |controller| work::store(controller, NSID, input, options.depth).await)?;
    stored.print("store");
    let stopped = Instant::now();
    target.stop()?;
    let target = Target::start(&options.target, &arguments)?;
    println!("   {:<20} {:>8.2} s   every key found again", "restart", stopped.elapsed().as_secs_f64());
    check_list(&target, &input)?;
    let (input, retrieved) =
        with_controller(&target, async |controller| work::verify(controller, NSID, input, options.depth).await)?;
    retrieved.print("retrieve and verify");
    target.stop()?;
    drop(directory);

    println!("\nAll {} bytes came back as they were stored, both times. Nothing is left running.\n", input.bytes);
    println!("To try next, with a target started by `.build/release/kvof-target`:");
    println!("   .build/release/kvof discover tcp://127.0.0.1:4420");
    println!("   .build/release/kvof bench --help                      # other sizes, depths and mixes");
    println!("   .build/release/kvof conformance --help                # the standard, case by case");
    println!("   nvme connect -t tcp -a 127.0.0.1 -s 4420 -n NQN       # from any Linux host, 6.0 or later");
    Ok(())
}

fn with_controller<T>(target: &Target, work: impl AsyncFnOnce(&Controller) -> Result<T>) -> Result<T> {
    block_on(async {
        let mut options = ConnectOptions::default();
        options.io_queues = 2;
        let controller = Controller::connect(&target.address.parse()?, &target.nqn, &options)
            .await
            .with_context(|| format!("cannot connect to {} at {}", target.nqn, target.address))?;
        let result = work(&controller).await;
        controller.disconnect().await;
        result
    })
}

fn check_list(target: &Target, input: &Input) -> Result<()> {
    let started = Instant::now();
    let keys = with_controller(target, async |controller| work::list(controller, NSID).await)?;
    let mut expected: Vec<_> = input.values.iter().map(|v| v.key).collect();
    expected.sort();
    ensure!(keys == expected, "List returned {} keys that are not the {} stored ones", keys.len(), expected.len());
    println!("   {:<20} {:>8.2} s   {} keys, as stored", "list", started.elapsed().as_secs_f64(), keys.len());
    Ok(())
}

impl Figures {
    fn print(&self, what: &str) {
        let seconds = self.elapsed.as_secs_f64();
        println!(
            "   {what:<20} {seconds:>8.2} s   {:>6.2} GB/s  {:>7.0} op/s   p50 {:>6.2} ms  p99 {:>6.2} ms",
            self.bytes as f64 / 1e9 / seconds,
            self.latency_us.len() as f64 / seconds,
            self.latency_us.value_at_quantile(0.5) as f64 / 1e3,
            self.latency_us.value_at_quantile(0.99) as f64 / 1e3,
        );
    }
}

/// A folder that goes away again.
struct Directory(PathBuf);

impl Directory {
    fn create(path: &std::path::Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

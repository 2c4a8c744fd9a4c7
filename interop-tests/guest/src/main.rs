//! `kvof-guest`: runs inside the test guest and sends KV commands through the kernel's passthrough to a `/dev/ngXnY` node.

mod bench;
mod ioctl;
mod kept;
mod loop_io;
mod max_value;
mod pattern;
mod port;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use kvof_kv::KvPort;
use kvof_kv::conformance::{self, Profile, RunOptions};

use crate::port::KernelPort;

/// KV commands through the kernel's NVMe passthrough.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run the conformance suite; exit code 1 if a case fails.
    Conformance {
        /// The namespace's node, /dev/ngXnY.
        device: PathBuf,
        /// Only the cases whose name contains this.
        #[arg(long)]
        filter: Option<String>,
        /// Repeat the keys and values of an earlier run.
        #[arg(long)]
        seed: Option<u64>,
        /// How strict to be where implementations disagree.
        #[arg(long, value_enum, default_value_t = Strictness::Kvof)]
        profile: Strictness,
    },
    /// Retrieves and Stores a second and their median latency; a line of JSON for each, exit code 1 if one failed.
    Bench {
        /// The namespace's node, /dev/ngXnY.
        device: PathBuf,
        /// Bytes of each value; each number is measured.
        #[arg(long, value_delimiter = ',', default_value = "4096")]
        sizes: Vec<usize>,
        /// Commands in flight, each a thread: one number for every size.
        #[arg(long, value_delimiter = ',', default_value = "1")]
        depths: Vec<u64>,
        /// How long each measurement takes, milliseconds.
        #[arg(long, default_value_t = 1000)]
        milliseconds: u64,
    },
    /// Store and Retrieve while the connection may come and go; one line of JSON, exit code 1 if a value was wrong.
    LoopIo {
        /// The namespace's node, /dev/ngXnY.
        device: PathBuf,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// How many threads.
        #[arg(long, default_value_t = 2)]
        threads: u64,
        /// How many keys each thread uses.
        #[arg(long, default_value_t = 64)]
        keys: u64,
        /// Part of the keys: loops that run at the same time need different ones.
        #[arg(long, default_value_t = 0)]
        tag: u16,
        /// Bytes of each value, at least 16.
        #[arg(long, default_value_t = 20_000)]
        size: usize,
        /// What was acknowledged has to outlive the target.
        #[arg(long)]
        durable: bool,
    },
    /// Store values that stay.
    Keep {
        /// The namespace's node, /dev/ngXnY.
        device: PathBuf,
        /// How many.
        #[arg(long, default_value_t = 64)]
        keys: u64,
        /// Bytes of each.
        #[arg(long, default_value_t = 60_000)]
        size: usize,
    },
    /// Retrieve what `keep` has stored; a line of JSON that counts right values, wrong ones and statuses, exit code 1 for a wrong one.
    Kept {
        /// The namespace's node, /dev/ngXnY.
        device: PathBuf,
        /// How many.
        #[arg(long, default_value_t = 64)]
        keys: u64,
        /// Bytes of each.
        #[arg(long, default_value_t = 60_000)]
        size: usize,
    },
    /// Values of every size up to the largest that the path lets through, and one byte more.
    MaxValue {
        /// The namespace's node, /dev/ngXnY.
        device: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Strictness {
    /// What this project has chosen.
    Kvof,
    /// Every answer that is found in the field and not plainly wrong.
    Standard,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kvof-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as it should be.
fn run(action: Action) -> Result<bool> {
    let ok = match action {
        Action::Conformance { device, filter, seed, profile } => {
            let profile = match profile {
                Strictness::Kvof => Profile::Kvof,
                Strictness::Standard => Profile::Standard,
            };
            let mut options = RunOptions { filter, profile, ..RunOptions::default() };
            options.seed = seed.unwrap_or(options.seed);
            conformance(&KernelPort::open(&device)?, &options)
        }
        Action::Bench { device, sizes, depths, milliseconds } => {
            let port = KernelPort::open(&device)?;
            anyhow::ensure!(sizes.len() == depths.len(), "as many --depths as --sizes are needed");
            let time = std::time::Duration::from_millis(milliseconds);
            for (size, depth) in sizes.into_iter().zip(depths) {
                for figures in bench::run(&port, &bench::Options { size, depth, time })? {
                    println!("{}", figures.json());
                }
            }
            true
        }
        Action::LoopIo { device, seconds, threads, keys, tag, size, durable } => {
            let options = loop_io::Options { seconds, threads, keys, tag, size, durable };
            let report = loop_io::run(&KernelPort::open(&device)?, &options)?;
            println!("{}", report.json());
            report.ok()
        }
        Action::Keep { device, keys, size } => {
            kept::store(&KernelPort::open(&device)?, kept::Options { keys, size })?;
            true
        }
        Action::Kept { device, keys, size } => {
            let report = kept::check(&KernelPort::open(&device)?, kept::Options { keys, size })?;
            println!("{}", report.json());
            report.wrong == 0
        }
        Action::MaxValue { device } => {
            let port = KernelPort::open(&device)?;
            let largest = max_value::run(&port)?;
            let info = port.info();
            println!(
                "largest value {largest} bytes (KVVML {}, largest transfer {})",
                info.limits.kvvml, info.max_transfer
            );
            true
        }
    };
    Ok(ok)
}

fn conformance(port: &KernelPort, options: &RunOptions) -> bool {
    println!("{}", port.info().name);
    let summary = conformance::run(port, options, &mut |case| {
        println!("{:<40} {:>6} ms  {}", case.name, case.duration.as_millis(), case.outcome);
    });
    println!(
        "{} passed, {} failed, {} skipped (seed {})",
        summary.passed, summary.failed, summary.skipped, summary.seed
    );
    summary.ok()
}

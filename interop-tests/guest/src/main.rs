//! `kvof-guest`: runs inside the test guest and sends KV commands, through the kernel's passthrough to a `/dev/ngXnY` node or by the host
//! library; and is the host that no target wants.

mod bench;
mod hostile;
mod ioctl;
mod kept;
mod loop_io;
mod max_value;
mod pattern;
mod place;
mod port;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use kvof_kv::KvPort;
use kvof_kv::conformance::{self, Profile, RunOptions};
use kvof_spec::Nqn;

use crate::place::Place;

/// KV commands through the kernel's NVMe passthrough or the host library.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run the conformance suite; exit code 1 if a case fails.
    Conformance {
        #[command(flatten)]
        place: Place,
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
        #[command(flatten)]
        place: Place,
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
        #[command(flatten)]
        place: Place,
        /// How long; with --until, how long at most.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// End with the first success after this file is there; it is an error if there is none.
        #[arg(long, value_name = "FILE")]
        until: Option<PathBuf>,
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
        #[command(flatten)]
        place: Place,
        /// How many.
        #[arg(long, default_value_t = 64)]
        keys: u64,
        /// Bytes of each.
        #[arg(long, default_value_t = 60_000)]
        size: usize,
    },
    /// Retrieve what `keep` has stored; a line of JSON that counts right values, wrong ones and statuses, exit code 1 for a wrong one.
    Kept {
        #[command(flatten)]
        place: Place,
        /// How many.
        #[arg(long, default_value_t = 64)]
        keys: u64,
        /// Bytes of each.
        #[arg(long, default_value_t = 60_000)]
        size: usize,
    },
    /// Do to an RDMA target what no host should, see that it serves others all the while; exit code 1 if something was not as it should be.
    Hostile {
        /// Where the target listens for RDMA connections, ADDRESS:PORT.
        address: std::net::SocketAddr,
        /// A subsystem with a KV namespace 1.
        #[arg(long)]
        nqn: Nqn,
        /// Only the attacks whose name contains this.
        #[arg(long)]
        only: Option<String>,
        /// Repeat an earlier run.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Values of every size up to the largest that the path lets through, and one byte more.
    MaxValue {
        #[command(flatten)]
        place: Place,
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
        Action::Conformance { place, filter, seed, profile } => {
            let profile = match profile {
                Strictness::Kvof => Profile::Kvof,
                Strictness::Standard => Profile::Standard,
            };
            let mut options = RunOptions { filter, profile, ..RunOptions::default() };
            options.seed = seed.unwrap_or(options.seed);
            conformance(&*place.open()?, &options)
        }
        Action::Bench { place, sizes, depths, milliseconds } => {
            let port = place.open()?;
            anyhow::ensure!(sizes.len() == depths.len(), "as many --depths as --sizes are needed");
            let time = std::time::Duration::from_millis(milliseconds);
            for (size, depth) in sizes.into_iter().zip(depths) {
                for figures in bench::run(&*port, &bench::Options { size, depth, time })? {
                    println!("{}", figures.json());
                }
            }
            true
        }
        Action::LoopIo { place, seconds, until, threads, keys, tag, size, durable } => {
            let options = loop_io::Options { seconds, until, threads, keys, tag, size, durable };
            let report = loop_io::run(&*place.open()?, &options)?;
            println!("{}", report.json());
            report.ok()
        }
        Action::Keep { place, keys, size } => {
            kept::store(&*place.open()?, kept::Options { keys, size })?;
            true
        }
        Action::Kept { place, keys, size } => {
            let report = kept::check(&*place.open()?, kept::Options { keys, size })?;
            println!("{}", report.json());
            report.wrong == 0
        }
        Action::Hostile { address, nqn, only, seed } => {
            let host = "nqn.2026-01.org.example:hostile".parse()?;
            let place = hostile::Place { address, subsystem: nqn, host };
            let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs()));
            hostile::run(&place, only.as_deref(), seed)?
        }
        Action::MaxValue { place } => {
            let port = place.open()?;
            let largest = max_value::run(&*port)?;
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

fn conformance(port: &dyn KvPort, options: &RunOptions) -> bool {
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

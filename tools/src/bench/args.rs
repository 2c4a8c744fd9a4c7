//! What can be measured and how: the arguments, and whether they make sense together.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::load::{Action, End};
use crate::{
    cli::{ConnectionArgs, Place},
    failure::usage,
    units::{parse_duration, parse_size_u32, size},
};

/// Measure operations a second, bandwidth and latency of a namespace.
///
/// The values are stored under keys of the benchmark's own, with a random prefix that did not exist before, and deleted
/// in the end: other data in a KV namespace are safe. Without --rate the next command follows an answer at once (closed
/// loop). With --rate commands are due at fixed times, and latency counts from when a command was due, so that a target
/// that falls behind is not spared (open loop).
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(super) place: Place,

    /// What to do. `read` and `write` are for block namespaces; `delete` deletes each key of the working set once.
    #[arg(long, value_name = "OPERATION", default_value = "retrieve")]
    pub(super) op: Operation,

    /// Let `mixed` read and write a block namespace.
    #[arg(long)]
    pub(super) nvm: bool,

    /// Part of `mixed` that retrieves or reads, percent; the rest stores or writes.
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) read_percent: u8,

    /// Sizes of the values; each is measured.
    #[arg(long, value_name = "SIZE,…", default_value = "4KiB", value_delimiter = ',', value_parser = parse_size_u32)]
    pub(super) sizes: Vec<u32>,

    /// Commands in flight, all jobs together; each number is measured.
    #[arg(long, value_name = "N,…", default_value = "32", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(super) depth: Vec<u32>,

    /// Threads that send the commands.
    #[arg(long, visible_alias = "threads", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: u16,

    /// Let the jobs' threads move the bytes themselves, and never sleep: for jobs that have a processor each.
    #[arg(long)]
    pub(super) poll: bool,

    /// How long to measure, each time.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration, conflicts_with = "count")]
    pub(super) time: Duration,

    /// How many commands to measure instead, each time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,

    /// How long to run before measuring.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(super) warmup: Duration,

    /// Keys (or blocks of SIZE) of the working set, chosen from at random [default: what half of the free space takes,
    /// at most 1 GiB and 16384].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) keys: Option<u32>,

    /// Commands a second, all jobs together.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,

    /// Connections that are open beside, with keep alive and nothing else: what hosts that do nothing cost the others. Each
    /// two of them are a controller of their own, with an admin queue and an I/O queue.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub(super) idle_connections: u32,

    /// Write values that tell what they are, and check every value that is read; exit code 6 if one is wrong.
    #[arg(long)]
    pub(super) verify: bool,

    /// Allow writing to a block namespace, whose contents are lost.
    #[arg(long)]
    pub(super) overwrite: bool,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

/// Most memory for the buffers of commands in flight, bytes.
const BUFFERS_MAX: u64 = 4 << 30;

/// What to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Operation {
    Store,
    Retrieve,
    Exist,
    Delete,
    Mixed,
    Read,
    Write,
}

/// The arguments, understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) action: Action,
    /// On a block namespace.
    pub(super) nvm: bool,
    /// The working set has to be written first.
    pub(super) fill: bool,
    pub(super) end: End,
}

impl BenchArgs {
    pub(super) fn plan(&self) -> Result<Plan> {
        use Operation::{Delete, Exist, Mixed, Read, Retrieve, Store, Write};
        let nvm = self.nvm || matches!(self.op, Read | Write);
        let action = match self.op {
            Store | Retrieve | Exist | Delete if nvm => {
                return Err(usage("--nvm measures block namespaces, with --op read, write or mixed"));
            }
            Store | Write => Action::Write,
            Retrieve | Read => Action::Read,
            Exist => Action::Exist,
            Delete => Action::Delete,
            Mixed => Action::Mixed { read_percent: self.read_percent },
        };
        let writes = !matches!(action, Action::Read | Action::Exist);
        if nvm && (writes || self.verify) && !self.overwrite {
            return Err(usage(
                "this writes over the blocks of the namespace, whose contents are lost; --overwrite says that they may be",
            ));
        }
        if self.verify && matches!(action, Action::Exist | Action::Delete) {
            return Err(usage("--verify checks values, and this operation reads none"));
        }
        if action == Action::Delete && (self.count.is_some() || self.rate.is_some()) {
            return Err(usage(
                "--op delete deletes each key once: --keys says how many, and there is no --count or --rate",
            ));
        }
        if self.time.is_zero() {
            return Err(usage("--time must be longer than nothing"));
        }
        if let Some(depth) = self.depth.iter().find(|depth| **depth < u32::from(self.jobs)) {
            return Err(usage(format!("--depth {depth} is less than one command for each of --jobs {}", self.jobs)));
        }
        let largest = self.sizes.iter().copied().max().unwrap_or(0);
        let deepest = self.depth.iter().copied().max().unwrap_or(0);
        let buffers = u64::from(largest) * u64::from(deepest);
        if buffers > BUFFERS_MAX {
            return Err(usage(format!(
                "--depth {deepest} with values of {} takes {} of buffers; at most {} are allowed",
                size(largest.into()),
                size(buffers),
                size(BUFFERS_MAX)
            )));
        }
        let fill = if nvm { self.verify } else { action != Action::Write || self.verify };
        let end = match (action, self.count) {
            (Action::Delete, _) => End::Exhausted,
            (_, Some(count)) => End::Count(count),
            (_, None) => End::After(self.time),
        };
        Ok(Plan { action, nvm, fill, end })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn plan(line: &str) -> Result<Plan> {
        Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()))?.bench.plan()
    }

    #[test]
    fn operations_become_plans() {
        let retrieve = plan("host").unwrap();
        assert_eq!((retrieve.action, retrieve.nvm, retrieve.fill), (Action::Read, false, true));
        assert_eq!(retrieve.end, End::After(Duration::from_secs(5)));
        let store = plan("host --op store --count 7").unwrap();
        assert_eq!((store.action, store.fill, store.end), (Action::Write, false, End::Count(7)));
        assert!(plan("host --op store --verify").unwrap().fill);
        let mixed = plan("host --nvm --op mixed --read-percent 20 --overwrite").unwrap();
        assert_eq!((mixed.action, mixed.nvm, mixed.fill), (Action::Mixed { read_percent: 20 }, true, false));
        assert_eq!(plan("host --op delete").unwrap().end, End::Exhausted);
    }

    #[test]
    fn what_makes_no_sense_or_harms_is_refused() {
        for line in [
            "host --op write",
            "host --op read --verify",
            "host --nvm",
            "host --op exist --verify",
            "host --op delete --count 3",
            "host --jobs 4 --depth 8,3",
            "host --time 0",
            "host --sizes 4KiB,2MiB --depth 1,4096",
            "host --sizes 4qib",
            "host --depth 0",
            "host --time 1s --count 5",
        ] {
            assert!(plan(line).is_err(), "{line}");
        }
    }
}

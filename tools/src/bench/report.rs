//! What was measured, as lines for people and documents for programs.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    args::Operation,
    load::{Action, Load, Outcome},
};
use crate::units::size;

/// One measurement.
#[derive(Serialize)]
pub(super) struct Row {
    op: &'static str,
    /// Bytes of a value.
    size: u32,
    depth: u32,
    seconds: f64,
    #[serde(flatten)]
    total: Figures,
    errors: u64,
    wrong_values: u64,
    /// Commands that were due but not sent, with --rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsent: Option<u64>,
    /// Of `mixed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    op: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Serialize)]
struct Figures {
    operations: u64,
    operations_per_second: f64,
    /// None: the operation moves no values.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<f64>,
    latency_ns: Option<Latency>,
}

#[derive(Serialize)]
struct Latency {
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

impl Row {
    pub(super) fn new(op: Operation, nvm: bool, load: &Load, outcome: &Outcome) -> Self {
        let seconds = outcome.elapsed.as_secs_f64();
        let moves = !matches!(load.action, Action::Exist | Action::Delete);
        let figures = |latencies: &Histogram<u64>| Figures::new(latencies, seconds, moves.then_some(load.size));
        let parts = match load.action {
            Action::Mixed { .. } => {
                let (read, write) = if nvm { ("read", "write") } else { ("retrieve", "store") };
                vec![
                    Part { op: read, figures: figures(&outcome.reads) },
                    Part { op: write, figures: figures(&outcome.writes) },
                ]
            }
            _ => Vec::new(),
        };
        Self {
            op: op.name(),
            size: load.size,
            depth: load.depth,
            seconds,
            total: figures(&outcome.all()),
            errors: outcome.errors,
            wrong_values: outcome.wrong,
            unsent: load.rate.map(|_| outcome.unsent),
            parts,
        }
    }

    /// The lines of this measurement, to stand below the [`header`].
    pub(super) fn lines(&self) -> String {
        let depth = self.depth.to_string();
        let mut text = line(self.op, &size(self.size.into()), &depth, &self.total, &self.errors.to_string());
        for part in &self.parts {
            text.push('\n');
            text.push_str(&line(&format!("  {}", part.op), "", "", &part.figures, ""));
        }
        text
    }
}

impl Figures {
    fn new(latencies: &Histogram<u64>, seconds: f64, size: Option<u32>) -> Self {
        let operations = latencies.len();
        let a_second = if seconds > 0.0 { operations as f64 / seconds } else { 0.0 };
        Self {
            operations,
            operations_per_second: a_second,
            bytes_per_second: size.map(|size| a_second * f64::from(size)),
            latency_ns: (operations > 0).then(|| Latency {
                mean: latencies.mean(),
                p50: latencies.value_at_quantile(0.5),
                p90: latencies.value_at_quantile(0.9),
                p99: latencies.value_at_quantile(0.99),
                p99_9: latencies.value_at_quantile(0.999),
                max: latencies.max(),
            }),
        }
    }
}

impl Operation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Retrieve => "retrieve",
            Self::Exist => "exist",
            Self::Delete => "delete",
            Self::Mixed => "mixed",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Names of the columns. They have fixed widths, so that lines can be printed as they come.
pub(super) fn header() -> String {
    columns(["", "", "", "", "", "latency, µs", "", "", "", "", "", ""]).trim_end().to_owned()
        + "\n"
        + &columns([
            "OPERATION",
            "SIZE",
            "DEPTH",
            "OP/S",
            "GB/S",
            "MEAN",
            "P50",
            "P90",
            "P99",
            "P99.9",
            "MAX",
            "ERRORS",
        ])
}

fn line(op: &str, size: &str, depth: &str, figures: &Figures, errors: &str) -> String {
    let rate = format!("{:.0}", figures.operations_per_second);
    let bandwidth = figures.bytes_per_second.map_or("-".to_owned(), |bytes| format!("{:.3}", bytes / 1e9));
    let latency = figures.latency_ns.as_ref();
    let shown = |value: fn(&Latency) -> f64| latency.map_or("-".to_owned(), |latency| micros(value(latency)));
    let [mean, p50, p90, p99, p99_9, max] = [
        shown(|l| l.mean),
        shown(|l| l.p50 as f64),
        shown(|l| l.p90 as f64),
        shown(|l| l.p99 as f64),
        shown(|l| l.p99_9 as f64),
        shown(|l| l.max as f64),
    ];
    columns([op, size, depth, &rate, &bandwidth, &mean, &p50, &p90, &p99, &p99_9, &max, errors])
}

fn columns(cells: [&str; 12]) -> String {
    let [op, size, depth, rate, bandwidth, mean, p50, p90, p99, p99_9, max, errors] = cells;
    format!(
        "{op:<10} {size:>9} {depth:>5} {rate:>9} {bandwidth:>7}  {mean:>8} {p50:>8} {p90:>8} {p99:>8} {p99_9:>8} {max:>8} \
         {errors:>6}"
    )
    .trim_end()
    .to_owned()
}

/// Nanoseconds as microseconds.
fn micros(ns: f64) -> String {
    let us = ns / 1e3;
    if us < 100.0 { format!("{us:.1}") } else { format!("{us:.0}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::load::{End, Order};

    #[test]
    fn figures_of_a_mixed_load() {
        let load = Load {
            action: Action::Mixed { read_percent: 50 },
            order: Order::Random,
            size: 4096,
            depth: 8,
            jobs: 1,
            warmup: Duration::ZERO,
            end: End::Count(4),
            rate: None,
            verify: false,
            poll: false,
        };
        let mut outcome = Outcome::new();
        for us in [10, 20, 30] {
            outcome.reads.record(us * 1000).unwrap();
        }
        outcome.writes.record(200_000).unwrap();
        outcome.elapsed = Duration::from_millis(2);
        outcome.errors = 1;
        let row = Row::new(Operation::Mixed, false, &load, &outcome);
        let lines = row.lines();
        let words: Vec<Vec<&str>> = lines.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words[0],
            ["mixed", "4", "KiB", "8", "2000", "0.008", "65.0", "20.0", "200", "200", "200", "200", "1"]
        );
        assert_eq!(words[1][..3], ["retrieve", "1500", "0.006"]);
        assert_eq!(words[2][..3], ["store", "500", "0.002"]);
        let document = serde_json::to_value(&row).unwrap();
        assert_eq!(document["operations"], 4);
        assert_eq!(document["parts"][1]["latency_ns"]["max"], 200_063);
        assert!(document.get("unsent").is_none());
    }
}

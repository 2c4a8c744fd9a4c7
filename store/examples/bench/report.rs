//! Medians, and tables in Markdown.

use std::time::Duration;

/// What one turn of a measurement gave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    /// Operations.
    pub(crate) ops: u64,
    /// Bytes of values.
    pub(crate) bytes: u64,
    /// Bytes that went to or came from devices; equal to `bytes` where nothing is added.
    pub(crate) device_bytes: u64,
    pub(crate) elapsed: Duration,
}

impl Turn {
    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub(crate) fn device_bytes_per_second(&self) -> f64 {
        self.device_bytes as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Median, least and most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of at least one number; of none, zeros.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { at(half) } else { f64::midpoint(at(half.saturating_sub(1)), at(half)) };
        Self { median, least: at(0), most: at(sorted.len().saturating_sub(1)) }
    }

    /// Of the ratios of what was measured in the same round.
    pub(crate) fn of_ratios(tops: &[f64], bottoms: &[f64]) -> Self {
        Self::of(tops.iter().zip(bottoms).map(|(top, bottom)| top / bottom.max(1e-9)))
    }

    /// `**0.97** (0.95 – 1.01)`.
    pub(crate) fn ratio(&self) -> String {
        format!("**{:.2}** ({:.2} – {:.2})", self.median, self.least, self.most)
    }

    /// Bytes a second.
    pub(crate) fn rate(&self) -> String {
        format!("{:.2} ({:.2} – {:.2})", self.median / 1e9, self.least / 1e9, self.most / 1e9)
    }
}

/// A table, printed when it is complete.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) {
        for (number, row) in self.rows.iter().enumerate() {
            println!("| {} |", row.join(" | "));
            if number == 0 {
                println!("|{}", "---|".repeat(row.len()));
            }
        }
        println!();
    }
}

/// `64 KiB`.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

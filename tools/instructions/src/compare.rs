//! Numbers beside the committed ones.

use std::fmt;

use crate::counts::Operations;

/// By how much a number may differ, percent: well above what the same code varies by, well below what matters.
pub(crate) const TOLERANCE: f64 = 2.0;

/// All operations, in the order of their names.
pub(crate) struct Comparison {
    rows: Vec<Row>,
}

#[derive(Clone, PartialEq, Debug)]
struct Row {
    name: String,
    committed: Option<u64>,
    now: Option<u64>,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Verdict {
    Same,
    Worse,
    Better,
    /// Not among the committed numbers.
    New,
    /// Only there.
    Gone,
}

impl Comparison {
    /// Compares `now` with `committed`; if `is_all`, what is missing in `now` is gone.
    pub(crate) fn new(committed: &Operations, now: &Operations, is_all: bool) -> Self {
        let gone = committed.keys().filter(|name| is_all && !now.contains_key(*name));
        let mut names: Vec<&String> = now.keys().chain(gone).collect();
        names.sort_unstable();
        let row = |name: &String| {
            let (committed, now) = (committed.get(name).copied(), now.get(name).copied());
            Row { name: name.clone(), committed, now, verdict: verdict(committed, now) }
        };
        Self { rows: names.into_iter().map(row).collect() }
    }

    fn has(&self, verdict: Verdict) -> bool {
        self.rows.iter().any(|row| row.verdict == verdict)
    }

    /// Whether an operation takes more than it did.
    pub(crate) fn is_worse(&self) -> bool {
        self.has(Verdict::Worse)
    }

    /// Whether the committed numbers should be renewed.
    pub(crate) fn is_stale(&self) -> bool {
        [Verdict::Better, Verdict::New, Verdict::Gone].into_iter().any(|verdict| self.has(verdict))
    }
}

fn verdict(committed: Option<u64>, now: Option<u64>) -> Verdict {
    match (committed, now) {
        (Some(was), Some(is)) => match percent(was, is) {
            change if change > TOLERANCE => Verdict::Worse,
            change if change < -TOLERANCE => Verdict::Better,
            _ => Verdict::Same,
        },
        (None, _) => Verdict::New,
        (Some(_), None) => Verdict::Gone,
    }
}

fn percent(was: u64, is: u64) -> f64 {
    (is as f64 / was.max(1) as f64 - 1.0) * 100.0
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("operation".len());
        writeln!(f, "{:width$} {:>12} {:>12} {:>9}", "operation", "committed", "now", "change")?;
        for Row { name, committed, now, verdict } in &self.rows {
            let number = |n: &Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let change =
                committed.zip(*now).map_or_else(String::new, |(was, is)| format!("{:+.1} %", percent(was, is)));
            let note = match verdict {
                Verdict::Same => "",
                Verdict::Worse => "  WORSE",
                Verdict::Better => "  better",
                Verdict::New => "  new",
                Verdict::Gone => "  gone",
            };
            writeln!(f, "{name:width$} {:>12} {:>12} {change:>9}{note}", number(committed), number(now))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(counts: &[(&str, u64)]) -> Operations {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn two_percent_are_the_line() {
        let committed = operations(&[("a", 1000), ("b", 1000), ("c", 1000), ("d", 1000)]);
        let now = operations(&[("a", 1020), ("b", 980), ("c", 1000), ("d", 1001)]);
        let same = Comparison::new(&committed, &now, true);
        assert!(!same.is_worse() && !same.is_stale());
        let worse = Comparison::new(&committed, &operations(&[("a", 1021)]), false);
        assert!(worse.is_worse() && !worse.is_stale());
        assert!(worse.to_string().contains("+2.1 %  WORSE"), "{worse}");
        let better = Comparison::new(&committed, &operations(&[("b", 979)]), false);
        assert!(!better.is_worse() && better.is_stale());
    }

    #[test]
    fn new_and_gone_are_told_and_no_failure() {
        let comparison = Comparison::new(&operations(&[("a", 1), ("b", 2)]), &operations(&[("a", 1), ("c", 3)]), true);
        assert!(!comparison.is_worse() && comparison.is_stale());
        let text = comparison.to_string();
        assert!(text.contains("gone") && text.contains("new"), "{text}");
    }
}

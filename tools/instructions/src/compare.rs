//! Numbers beside the committed ones.

use std::fmt;

use crate::counts::{Cost, Operations};

/// By how much a number may differ, percent: well above what the same code varies by, well below what matters.
pub(crate) const TOLERANCE: u64 = 2;

/// All operations, in the order of their names.
pub(crate) struct Comparison {
    rows: Vec<Row>,
}

#[derive(Clone, PartialEq, Debug)]
struct Row {
    name: String,
    committed: Option<Cost>,
    now: Option<Cost>,
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

fn verdict(committed: Option<Cost>, now: Option<Cost>) -> Verdict {
    let (was, is) = match (committed, now) {
        (Some(was), Some(is)) => (was, is),
        (None, _) => return Verdict::New,
        (Some(_), None) => return Verdict::Gone,
    };
    let pairs = [(was.instructions, is.instructions), (was.atomics, is.atomics)];
    let has_more = |&(was, is): &(u64, u64)| is * 100 > was * (100 + TOLERANCE);
    let has_less = |&(was, is): &(u64, u64)| is * 100 < was * (100 - TOLERANCE);
    if pairs.iter().any(has_more) {
        Verdict::Worse
    } else if pairs.iter().any(has_less) {
        Verdict::Better
    } else {
        Verdict::Same
    }
}

fn percent(was: u64, is: u64) -> f64 {
    (is as f64 / was.max(1) as f64 - 1.0) * 100.0
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("operation".len());
        writeln!(f, "{:width$} {:>12} {:>12} {:>9} {:>14}", "operation", "committed", "now", "change", "atomics")?;
        for Row { name, committed, now, verdict } in &self.rows {
            let number =
                |cost: &Option<Cost>| cost.map_or_else(|| "-".to_owned(), |cost| cost.instructions.to_string());
            let (change, atomics) = match (committed, now) {
                (Some(was), Some(is)) if was.atomics == is.atomics => {
                    (percent(was.instructions, is.instructions), is.atomics.to_string())
                }
                (Some(was), Some(is)) => {
                    (percent(was.instructions, is.instructions), format!("{} -> {}", was.atomics, is.atomics))
                }
                (_, is) => (0.0, is.map_or_else(String::new, |is| is.atomics.to_string())),
            };
            let note = match verdict {
                Verdict::Same => "",
                Verdict::Worse => "  WORSE",
                Verdict::Better => "  better",
                Verdict::New => "  new",
                Verdict::Gone => "  gone",
            };
            let (was, is) = (number(committed), number(now));
            writeln!(f, "{name:width$} {was:>12} {is:>12} {change:>+7.1} % {atomics:>14}{note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(counts: &[(&str, u64, u64)]) -> Operations {
        let cost =
            |&(name, instructions, atomics): &(&str, u64, u64)| (name.to_owned(), Cost { instructions, atomics });
        counts.iter().map(cost).collect()
    }

    #[test]
    fn two_percent_are_the_line() {
        let committed = operations(&[("a", 1000, 10), ("b", 1000, 10), ("c", 1000, 0), ("d", 1000, 10)]);
        let now = operations(&[("a", 1020, 10), ("b", 980, 10), ("c", 1000, 0), ("d", 1001, 10)]);
        let same = Comparison::new(&committed, &now, true);
        assert!(!same.is_worse() && !same.is_stale());
        let worse = Comparison::new(&committed, &operations(&[("a", 1021, 10)]), false);
        assert!(worse.is_worse() && !worse.is_stale());
        assert!(worse.to_string().contains("+2.1 %"), "{worse}");
        let better = Comparison::new(&committed, &operations(&[("b", 979, 10)]), false);
        assert!(!better.is_worse() && better.is_stale());
    }

    #[test]
    fn atomics_count_too_and_nothing_makes_up_for_more_of_them() {
        let committed = operations(&[("a", 1000, 10), ("c", 1000, 0)]);
        for now in [("a", 500, 11), ("c", 500, 1)] {
            let worse = Comparison::new(&committed, &operations(&[now]), false);
            assert!(worse.is_worse(), "{worse}");
        }
        let better = Comparison::new(&committed, &operations(&[("a", 1000, 9)]), false);
        assert!(!better.is_worse() && better.is_stale());
        assert!(better.to_string().contains("10 -> 9"), "{better}");
    }

    #[test]
    fn new_and_gone_are_told_and_no_failure() {
        let committed = operations(&[("a", 1, 1), ("b", 2, 1)]);
        let comparison = Comparison::new(&committed, &operations(&[("a", 1, 1), ("c", 3, 1)]), true);
        assert!(!comparison.is_worse() && comparison.is_stale());
        let text = comparison.to_string();
        assert!(text.contains("gone") && text.contains("new"), "{text}");
    }
}

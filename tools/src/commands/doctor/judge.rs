//! What is wrong with the facts, and the way out. No I/O: the same facts give the same findings.

mod gpu;
mod machine;
mod rdma;

use serde::Serialize;

use super::Facts;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// Something is here and does not work.
    Problem,
    /// It works, with less than this machine could give, or a target cannot run here.
    Warning,
    /// Something optional is not here, or good to know.
    Note,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One thing to know, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What it is about: `io_uring`, `rdma`, the name of a device.
    pub(super) about: String,
    pub(super) what: String,
    /// The way out: what to do, line by line.
    pub(super) fix: Vec<String>,
}

impl Finding {
    fn new(level: Level, about: impl Into<String>, what: impl Into<String>) -> Self {
        Self { level, about: about.into(), what: what.into(), fix: Vec::new() }
    }

    /// Adds a line of the way out.
    fn fix(mut self, line: impl Into<String>) -> Self {
        self.fix.push(line.into());
        self
    }
}

/// All findings, the worst first.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    machine::judge(&facts.machine, &mut findings);
    rdma::judge(&facts.rdma, &facts.machine, &mut findings);
    gpu::judge(facts, &mut findings);
    // Stable: findings of one level stay in the order of the report.
    findings.sort_by_key(|finding| finding.level);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first() {
        let mut facts = Facts::default();
        facts.machine.cpu.crc = "software-fallback-tables".to_owned();
        facts.rdma.error = Some("/sys/class/infiniband: no".to_owned());
        let levels: Vec<Level> = judge(&facts).iter().map(|finding| finding.level).collect();
        assert!(levels.is_sorted(), "{levels:?}");
        assert_eq!(levels.first(), Some(&Level::Problem));
    }
}

//! Runs the checks of `interop-tests/checks/` in one guest and reports each of them.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::binaries::Binaries;
use crate::{End, Guest, Kernel, Outcome, Tail, repository};

/// What the hosts of a guest connect by. A check says which it is for: `# transport: tcp rdma`; one that says nothing is for TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// NVMe/TCP, over loopback.
    Tcp,
    /// NVMe/RDMA, over Soft-RoCE.
    Rdma,
}

impl Transport {
    /// Both, in the order they are run.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Rdma];

    /// As checks and the command line name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        }
    }
}

/// What came of one check.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// Its name: the file's, without number and extension.
    pub name: String,
    /// Whether it ran and passed.
    pub ok: bool,
    /// How long it took; zero if it did not run.
    pub duration: Duration,
    /// What it printed.
    pub output: String,
}

/// What came of all checks on one kernel.
#[derive(Clone, Debug)]
pub struct Report {
    /// `uname -r` of the kernel.
    pub kernel: String,
    /// What the hosts connected by.
    pub transport: Transport,
    /// Every check that was to run, in order.
    pub checks: Vec<CheckResult>,
    /// The times that the guest's kernel panicked and was booted again.
    pub panics: Vec<Panic>,
    /// From starting the emulator to the first check, of all boots.
    pub boot: Duration,
    /// From starting the emulator to its end, of all boots.
    pub total: Duration,
    /// Why the guest did not end as it should, with its console.
    pub guest_fault: Option<String>,
}

/// How often the checks of one kernel go on after it has panicked.
const MAX_PANICS: usize = 2;

/// A panic of the guest's kernel.
#[derive(Clone, Debug)]
pub struct Panic {
    /// The check that ran.
    pub check: String,
    /// What the kernel said before it, and of it.
    pub words: String,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  PANIC  {}: the guest's kernel panicked:", self.check)?;
        self.words.lines().try_for_each(|line| write!(f, "\n         | {line}"))
    }
}

impl Report {
    /// Whether the guest ended as it should and every check passed.
    pub fn ok(&self) -> bool {
        self.guest_fault.is_none() && !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }
}

/// One line, and below it what a check that failed has printed.
impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.ok { "ok" } else { "FAILED" };
        write!(f, "  {word:<6} {:<24} {:>6.1} s", self.name, self.duration.as_secs_f64())?;
        if !self.ok {
            for line in self.output.lines() {
                write!(f, "\n         | {line}")?;
            }
        }
        Ok(())
    }
}

/// The closing line, after what was wrong with the guest.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fault) = &self.guest_fault {
            writeln!(f, "{fault}")?;
        }
        let failed = self.checks.iter().filter(|check| !check.ok).count();
        let (boot, total) = (self.boot.as_secs_f64(), self.total.as_secs_f64());
        write!(
            f,
            "  Linux {}, {}: {} checks, {failed} failed; boot {boot:.1} s, {total:.1} s in all",
            self.kernel,
            self.transport.name(),
            self.checks.len()
        )?;
        if !self.panics.is_empty() {
            let during: Vec<&str> = self.panics.iter().map(|panic| panic.check.as_str()).collect();
            write!(f, "; the kernel panicked during {}", during.join(", "))?;
        }
        Ok(())
    }
}

/// A line of `/run/kvof/checks`.
#[derive(Deserialize)]
struct Event {
    check: String,
    event: EventKind,
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    milliseconds: u64,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum EventKind {
    Start,
    End,
}

/// The files of all checks for `transport`, in the order they run; with `only`, those whose name contains one of its words, which
/// commas separate.
///
/// # Errors
/// When the folder or a check cannot be read.
pub fn files(transport: Transport, only: Option<&str>) -> Result<Vec<PathBuf>> {
    let dir = repository().join("interop-tests/checks");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "sh"))
        .collect();
    files.sort();
    if let Some(only) = only {
        files.retain(|file| only.split(',').any(|word| name(file).contains(word)));
    }
    let mut chosen = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if transports(&text).with_context(|| file.display().to_string())?.contains(&transport) {
            chosen.push(file);
        }
    }
    Ok(chosen)
}

/// The transports that a check's text says it is for.
fn transports(text: &str) -> Result<Vec<Transport>> {
    let Some(words) = text.lines().find_map(|line| line.strip_prefix("# transport: ")) else {
        return Ok(vec![Transport::Tcp]);
    };
    words
        .split_whitespace()
        .map(|word| {
            let known = Transport::ALL.into_iter().find(|transport| transport.name() == word);
            known.with_context(|| format!("'# transport: {words}': {word} is none; write tcp, rdma or both"))
        })
        .collect()
}

/// A check's name: its file's, without number and extension.
pub fn name(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('-').to_owned()
}

/// Boots `kernel` and runs the checks of `files` in it; `progress` is told of each as it ends.
///
/// No program can make a sound kernel panic, so a panic says nothing of what was checked: the check that ran then and those after it run
/// again on a fresh boot, [`MAX_PANICS`] times at most, and the report keeps what each panic printed. A check during which the kernel
/// panics twice has failed.
///
/// # Errors
/// When the guest cannot be started at all. What fails in it is in the report.
pub fn run(
    kernel: &Kernel,
    transport: Transport,
    binaries: &Binaries,
    files: &[PathBuf],
    mut progress: impl FnMut(&CheckResult),
) -> Result<Report> {
    let mut report = Report {
        kernel: kernel.version.clone(),
        transport,
        checks: Vec::new(),
        panics: Vec::new(),
        boot: Duration::ZERO,
        total: Duration::ZERO,
        guest_fault: None,
    };
    let mut left = files;
    loop {
        let part = run_once(kernel, transport, binaries, left, &mut progress)?;
        left = left.get(part.results.len()..).unwrap_or_default();
        report.checks.extend(part.results);
        report.boot += part.outcome.boot.unwrap_or_default();
        report.total += part.outcome.total;
        if let (End::Died, Some(check), Some(words)) = (part.outcome.end, &part.running, part.outcome.panic()) {
            let again = report.panics.len() < MAX_PANICS && report.panics.iter().all(|panic| panic.check != *check);
            let panic = Panic { check: check.clone(), words };
            eprintln!("{panic}");
            report.panics.push(panic);
            if again {
                continue;
            }
        }
        // Whoever was expected and did not report has failed, the one that was running with what it printed.
        for name in left.iter().map(|file| name(file)) {
            let output = if part.running.as_ref() == Some(&name) {
                format!("{}\nthe guest ended while this check ran", part.outcome.file(&format!("{name}.log")))
            } else {
                "did not run".to_owned()
            };
            let result = CheckResult { name, ok: false, duration: Duration::ZERO, output };
            progress(&result);
            report.checks.push(result);
        }
        report.guest_fault = match part.outcome.end {
            End::Exit(0 | 1) => None,
            End::Exit(code) => {
                Some(format!("the list of checks ended with exit code {code}:\n{}", part.outcome.file("output")))
            }
            End::Died | End::TimedOut => part.outcome.exit_code().err().map(|error| error.to_string()),
        };
        return Ok(report);
    }
}

/// What came of one boot.
struct Part {
    /// The checks that ended, in order: the first of the list.
    results: Vec<CheckResult>,
    /// The one that had begun and not ended.
    running: Option<String>,
    outcome: Outcome,
}

fn run_once(
    kernel: &Kernel,
    transport: Transport,
    binaries: &Binaries,
    files: &[PathBuf],
    progress: &mut impl FnMut(&CheckResult),
) -> Result<Part> {
    let dir = repository().join("interop-tests/checks");
    let mut script = format!("exec {}", dir.join("lib/run").display());
    for file in files {
        write!(script, " {}", file.display())?;
    }
    let guest = Guest::new(kernel.clone())
        .env("KVOF_TARGET", &binaries.target)
        .env("KVOF", &binaries.kvof)
        .env("KVOF_GUEST", &binaries.guest)
        .env("KVOF_TRANSPORT", transport.name())
        .env("KVOF_RDMA_TESTS", std::env::join_paths(&binaries.rdma_tests)?)
        .timeout(Duration::from_secs(900));

    let mut results: Vec<CheckResult> = Vec::new();
    let mut running: Option<String> = None;
    let mut events = Tail::new("checks");
    let mut unread = Vec::new();
    let outcome = guest.run(&dir, &script, |share| {
        unread.extend(events.read(share));
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let Ok(event) = serde_json::from_slice::<Event>(&line) else { continue };
            if event.event == EventKind::Start {
                running = Some(event.check);
                continue;
            }
            running = None;
            let output = fs::read(share.join(format!("{}.log", event.check))).unwrap_or_default();
            let result = CheckResult {
                name: event.check,
                ok: event.ok,
                duration: Duration::from_millis(event.milliseconds),
                output: String::from_utf8_lossy(&output).into_owned(),
            };
            progress(&result);
            results.push(result);
        }
    })?;
    Ok(Part { results, running, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_named_by_its_file() {
        assert_eq!(name(Path::new("/a/10-kernel-target.sh")), "kernel-target");
    }

    #[test]
    fn every_check_has_its_own_name_and_says_what_it_is_for() {
        for transport in Transport::ALL {
            let files = files(transport, None).unwrap();
            let mut names: Vec<_> = files.iter().map(|file| name(file)).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), files.len());
            for file in files {
                let text = fs::read_to_string(&file).unwrap();
                assert!(text.starts_with("# "), "{} does not begin with a line on what it checks", file.display());
            }
        }
    }

    #[test]
    fn a_check_says_what_it_is_for() {
        assert_eq!(transports("# A thing.\ntarget_start\n").unwrap(), [Transport::Tcp]);
        assert_eq!(transports("# A thing.\n# transport: tcp rdma\n").unwrap(), Transport::ALL);
        assert_eq!(transports("# transport: rdma\n# cpus: 2\n").unwrap(), [Transport::Rdma]);
        assert!(transports("# transport: udp\n").unwrap_err().to_string().contains("udp is none"));
    }
}

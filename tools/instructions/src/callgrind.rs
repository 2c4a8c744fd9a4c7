//! Runs this program under callgrind and reads what it counted.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{counts::Operations, scenes::Operation};

/// The functions of [`crate::measure`], as callgrind knows them; some manglings have something after the name.
const TOGGLES: [&str; 2] = ["kvof_instructions::measure::counted*", "kvof_instructions::measure::aside*"];
const BEGIN: &str = "kvof_instructions::measure::begin_operation*";
const END: &str = "kvof_instructions::measure::end_operation*";

/// Instructions of each operation. Callgrind's profiles stay in `keep`, named after the operations.
pub(crate) fn count(operations: &[Operation], keep: Option<&Path>) -> Result<Operations> {
    let folder = tempfile::tempdir().context("a folder for callgrind's profiles")?;
    let program = std::env::current_exe().context("where this program is")?;
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--combine-dumps=no"])
        .args(TOGGLES.map(|name| format!("--toggle-collect={name}")))
        .arg(format!("--zero-before={BEGIN}"))
        .arg(format!("--dump-before={END}"))
        .arg(format!("--callgrind-out-file={}", folder.path().join("out").display()))
        .arg(program)
        .arg("run")
        .args(operations.iter().map(|operation| operation.name))
        .stdin(Stdio::null());
    // What lies above the stack moves it, and with it the alignment of what is copied.
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("LC_ALL", "C");
    let output = command.output().context("cannot run valgrind; make bench-check installs it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind ended with {}:\n{said}", output.status);
    let mut counts = Operations::new();
    for (number, operation) in (1..).zip(operations) {
        let path = folder.path().join(format!("out.{number}"));
        let profile = fs::read_to_string(&path)
            .with_context(|| format!("callgrind wrote no profile of {}:\n{said}", operation.name))?;
        let total = total(&profile).with_context(|| format!("the profile of {}", operation.name))?;
        let done = operation.batch * u64::from(operation.turns);
        ensure!(total >= done, "{} instructions in {done} operations of {}", total, operation.name);
        counts.insert(operation.name.to_owned(), (total + done / 2) / done);
        if let Some(keep) = keep {
            fs::create_dir_all(keep).with_context(|| format!("cannot make {}", keep.display()))?;
            let to = keep.join(format!("{}.callgrind", operation.name.replace('/', "-")));
            fs::copy(&path, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(counts)
}

/// All instructions of a profile, whose first event they are.
fn total(profile: &str) -> Result<u64> {
    let field = |name: &str| profile.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let events = field("events:").context("no events")?;
    ensure!(events.split_whitespace().next() == Some("Ir"), "events are {events:?}, not instructions");
    let totals = field("summary:").or_else(|| field("totals:")).context("no total")?;
    let first = totals.split_whitespace().next().unwrap_or_default();
    first.parse().with_context(|| format!("the total is {first:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_read() {
        let profile = "version: 1\ncreator: callgrind-3.19.0\npid: 1\ndesc: Trigger: --dump-before=x\n\npositions: line\n\
                       events: Ir\nsummary: 52431\n\nfn=(1) x\n1 52431\n";
        assert_eq!(total(profile).unwrap(), 52_431);
        assert!(total("events: Dr\nsummary: 1\n").is_err());
        assert!(total("events: Ir\n").is_err());
    }
}

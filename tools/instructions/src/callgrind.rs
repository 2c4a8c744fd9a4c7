//! Runs this program under callgrind and reads what it counted.

use std::{
    fs,
    num::NonZero,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    counts::{Cost, Operations},
    scenes::Operation,
};

/// The functions of [`crate::measure`], as callgrind knows them; some manglings have something after the name.
const TOGGLES: [&str; 2] = ["kvof_instructions::measure::counted*", "kvof_instructions::measure::aside*"];
const BEGIN: &str = "kvof_instructions::measure::begin_operation*";
const END: &str = "kvof_instructions::measure::end_operation*";

/// What this program is called there.
const PROGRAM: &str = "operations";
/// Where valgrind may be.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What each operation takes. Callgrind's profiles stay in `keep`, named after the operations.
///
/// Each operation has a process of its own, so that its numbers do not depend on which others are counted; as many run at once
/// as there are processors.
pub(crate) fn count(operations: &[Operation], keep: Option<&Path>) -> Result<Operations> {
    if let Some(keep) = keep {
        fs::create_dir_all(keep).with_context(|| format!("cannot make {}", keep.display()))?;
    }
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(operations.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut counts = Operations::new();
        while let Some(operation) = operations.get(next.fetch_add(1, Ordering::Relaxed)) {
            let cost = count_one(operation, keep).with_context(|| format!("operation {}", operation.name))?;
            counts.insert(operation.name.to_owned(), cost);
        }
        Ok(counts)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut counts = Operations::new();
        for worker in workers {
            counts.extend(worker.join().unwrap_or_else(|_| bail!("a thread panicked"))?);
        }
        Ok(counts)
    })
}

fn count_one(operation: &Operation, keep: Option<&Path>) -> Result<Cost> {
    let folder = tempfile::tempdir().context("a folder for callgrind's profile")?;
    let program = std::env::current_exe().context("where this program is")?;
    // Where the stack and the heap begin depends on names and the environment, and on that in turn how copies are aligned and how
    // the allocator's free memory lies: a percent here and there. So nothing of that is the machine's.
    symlink(program, folder.path().join(PROGRAM)).context("a name for this program")?;
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--combine-dumps=no", "--collect-bus=yes", "--callgrind-out-file=out"])
        .args(TOGGLES.map(|name| format!("--toggle-collect={name}")))
        .args([format!("--zero-before={BEGIN}"), format!("--dump-before={END}")])
        .args([&format!("./{PROGRAM}"), "run", operation.name])
        .current_dir(folder.path())
        .stdin(Stdio::null());
    // Copies and fills by `rep movsb` and `rep stosb` count as one instruction for each byte, which says nothing: the C library
    // is to use its vector loops.
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS");
    let output = command.output().context("cannot run valgrind; make bench-check installs it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind ended with {}:\n{said}", output.status);
    let path = folder.path().join("out.1");
    let profile = fs::read_to_string(&path).with_context(|| format!("callgrind wrote no profile:\n{said}"))?;
    let total = total(&profile).context("callgrind's profile")?;
    let done = operation.batch * u64::from(operation.turns);
    ensure!(total.instructions >= done, "{total:?} in {done} operations");
    if let Some(keep) = keep {
        let to = keep.join(format!("{}.callgrind", operation.name.replace('/', "-")));
        fs::copy(&path, &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    let each = |sum: u64| (sum + done / 2) / done;
    Ok(Cost { instructions: each(total.instructions), atomics: each(total.atomics) })
}

/// All that a profile has counted.
fn total(profile: &str) -> Result<Cost> {
    let field = |name: &str| profile.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let events: Vec<&str> = field("events:").context("no events")?.split_whitespace().collect();
    let totals = field("summary:").or_else(|| field("totals:")).context("no total")?;
    // Zeros at the end are left out.
    let totals: Vec<&str> = totals.split_whitespace().collect();
    let total = |event: &str| {
        let place = events.iter().position(|found| *found == event);
        let place = place.with_context(|| format!("no event {event} among {events:?}"))?;
        let total = totals.get(place).copied().unwrap_or("0");
        total.parse().with_context(|| format!("the total of {event} is {total:?}"))
    };
    Ok(Cost { instructions: total("Ir")?, atomics: total("Ge")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        let profile = "version: 1\ncreator: callgrind-3.19.0\npid: 1\ndesc: Trigger: --dump-before=x\n\npositions: line\n\
                       events: Ir Ge\nsummary: 52431 17\n\nfn=(1) x\n1 52431 17\n";
        assert_eq!(total(profile).unwrap(), Cost { instructions: 52_431, atomics: 17 });
        assert_eq!(total("events: Ir Ge\nsummary: 3\n").unwrap(), Cost { instructions: 3, atomics: 0 });
        assert!(total("events: Ir\nsummary: 1\n").is_err());
        assert!(total("events: Ir Ge\n").is_err());
    }
}

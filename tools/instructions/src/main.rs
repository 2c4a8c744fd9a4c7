//! Instructions per operation of the hot paths, so that a regression shows on a machine whose clock shows nothing.
//!
//! Without arguments all operations of [`scenes`] run under callgrind, and what each takes is compared with the committed
//! numbers in `counts.toml`: exit code 1 and a table where one takes more. `make bench-check` is this, with all that it
//! needs installed; `docs/performance.md` has the method.
#![forbid(unsafe_code)]

mod callgrind;
mod compare;
mod counts;
mod measure;
mod scenes;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::{
    compare::{Comparison, TOLERANCE},
    counts::{Counts, Toolchain},
};

/// Counts the instructions of the hot paths and compares them with the committed numbers.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    /// Write the numbers instead of comparing them.
    #[arg(long)]
    update: bool,
    /// Keep callgrind's profiles in this folder, one for each operation, for callgrind_annotate.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Only operations whose name contains one of these.
    #[arg(value_name = "NAME")]
    only: Vec<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one operation; what callgrind looks at.
    #[command(hide = true)]
    Run {
        /// Its name.
        name: String,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.command {
        Some(Command::Run { name }) => run(name).map(|()| ExitCode::SUCCESS),
        None => check(&options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bench-check: {error:#}");
        ExitCode::FAILURE
    })
}

/// Does what is counted.
fn run(name: &str) -> Result<()> {
    let operations = scenes::all();
    let operation = operations.iter().find(|operation| operation.name == name);
    let operation = operation.with_context(|| format!("there is no operation {name}"))?;
    let mut scene = operation.scene()?;
    for _ in 0..operation.warm {
        scene.turn()?;
    }
    measure::begin_operation();
    for _ in 0..operation.turns {
        scene.turn()?;
    }
    measure::end_operation();
    Ok(())
}

fn check(options: &Options) -> Result<ExitCode> {
    let mut operations = scenes::all();
    let is_all = options.only.is_empty();
    operations.retain(|operation| is_all || options.only.iter().any(|part| operation.name.contains(part)));
    if operations.is_empty() {
        bail!("no operation has {} in its name", options.only.join(" or "));
    }
    let toolchain = Toolchain::here()?;
    let now = callgrind::count(&operations, options.keep.as_deref())?;
    let path = counts::path();
    if options.update {
        let mut counts = if is_all { Counts::empty(toolchain) } else { Counts::read(&path)?.made_with(&toolchain)? };
        counts.operations.extend(now);
        counts.write(&path)?;
        println!("{} operations written to {}", operations.len(), path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let committed = Counts::read(&path)?;
    let comparison = Comparison::new(&committed.operations, &now, is_all);
    print!("{comparison}");
    let different = committed.toolchain.differences(&toolchain);
    if !different.is_empty() {
        println!(
            "\nThe committed numbers were made with something else, and say nothing here (no failure):\n{}\nTo compare two \
             versions of kvof with this toolchain, renew the numbers at the first (UPDATE=1) and check the second.",
            different.join("\n")
        );
        return Ok(ExitCode::SUCCESS);
    }
    if comparison.is_worse() {
        println!(
            "\nMore instructions than committed, by more than {TOLERANCE} %. If that is the price of something, renew the \
             numbers (make bench-check UPDATE=1) and say in the commit what it is."
        );
        return Ok(ExitCode::FAILURE);
    }
    if comparison.is_stale() {
        println!("\nRenew the numbers, so that what was gained is kept: make bench-check UPDATE=1");
    }
    Ok(ExitCode::SUCCESS)
}

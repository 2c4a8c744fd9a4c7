//! The `kvof` command: looks at, uses, times and checks NVMe Key Value namespaces over fabrics, and makes and checks the
//! pools of devices that kvof-target keeps them on.
//!
//! [`cli`] says what can be asked for, [`connect`] finds the subsystem and the namespace, [`commands`] and [`mod@bench`]
//! do the work through the host library, [`output`] and [`units`] show what came of it, [`failure`] turns errors into exit
//! codes.
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod commands;
mod connect;
mod failure;
mod output;
mod units;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use failure::Exit;
use output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::log(cli.verbose);
    let mut output = Output::new(cli.json);
    let result = run(&cli.command, &mut output).and_then(|exit| {
        output.flush()?;
        Ok(exit)
    });
    let exit = result.unwrap_or_else(|error| {
        // A reader that has seen enough is no failure.
        if failure::is_broken_pipe(&error) {
            return Exit::Success;
        }
        // What was printed before the error belongs before it.
        let _ = output.flush();
        eprintln!("kvof: {error:#}");
        failure::exit_of(&error)
    });
    exit.into()
}

fn run(command: &Command, output: &mut Output) -> anyhow::Result<Exit> {
    match command {
        Command::Discover(args) => commands::discover::run(args, output),
        Command::Info(args) => commands::info::run(args, output),
        Command::Store(args) => commands::store::run(args, output),
        Command::Retrieve(args) => commands::retrieve::run(args, output),
        Command::Delete(args) => commands::delete::run(args, output),
        Command::Exist(args) => commands::exist::run(args, output),
        Command::List(args) => commands::list::run(args, output),
        Command::Bench(args) => bench::run(args, output),
        Command::Conformance(args) => commands::conformance::run(args, output),
        Command::Format(args) => commands::format::run(args, output),
        Command::Verify(args) => commands::verify::run(args, output),
        Command::Replace(args) => commands::replace::run(args, output),
        Command::RemoveNamespace(args) => commands::remove_namespace::run(args, output),
        Command::Dump(args) => commands::dump::run(args, output),
        Command::Doctor(args) => commands::doctor::run(args, output),
    }
}

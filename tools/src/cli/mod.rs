//! The command line: its subcommands and what they have in common.

mod connection;
mod place;

use std::io::IsTerminal;

use clap::{Parser, Subcommand};

use crate::{
    bench::BenchArgs,
    commands::{
        conformance::ConformanceArgs, delete::DeleteArgs, discover::DiscoverArgs, doctor::DoctorArgs, dump::DumpArgs,
        exist::ExistArgs, format::FormatArgs, info::InfoArgs, list::ListArgs, remove_namespace::RemoveNamespaceArgs,
        replace::ReplaceArgs, retrieve::RetrieveArgs, store::StoreArgs, verify::VerifyArgs,
    },
    failure::EXIT_HELP,
};

pub(crate) use connection::{ConnectionArgs, Digests, HostArgs};
pub(crate) use place::{KeyPlace, Place};

/// Uses, times and checks NVMe Key Value namespaces over fabrics (TCP and RDMA), on any target that serves them.
///
/// ADDRESS is tcp://HOST:PORT or HOST:PORT; without a port, 4420. The subsystem and the namespace are found by
/// themselves where there is only one.
#[derive(Debug, Parser)]
#[command(
    name = "kvof",
    version,
    max_term_width = 110,
    disable_help_subcommand = true,
    after_help = EXIT_HELP,
    after_long_help = format!(
        "{EXIT_HELP}\n\nEnvironment:\n  KVOF_ADDRESS  ADDRESS, where none is given\n  KVOF_NQN      --nqn, where none is \
         given\n\nExamples:\n  kvof discover tcp://127.0.0.1:4420\n  export KVOF_ADDRESS=127.0.0.1:4420\n  kvof store \
         greeting --value hello\n  kvof retrieve greeting\n  kvof store 0x00ff --file picture.png\n  kvof list --prefix \
         tmp | kvof delete --keys-from -\n  kvof bench --op mixed --sizes 4KiB,128KiB --depth 1,32"
    )
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Print JSON instead of text.
    #[arg(long, global = true, display_order = 900)]
    pub(crate) json: bool,

    /// Log what happens to standard error; twice: everything.
    #[arg(short, long, global = true, display_order = 901, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Discover(DiscoverArgs),
    Info(InfoArgs),
    Store(StoreArgs),
    Retrieve(RetrieveArgs),
    Delete(DeleteArgs),
    Exist(ExistArgs),
    List(ListArgs),
    Bench(BenchArgs),
    Conformance(ConformanceArgs),
    Format(FormatArgs),
    Verify(VerifyArgs),
    Replace(ReplaceArgs),
    RemoveNamespace(RemoveNamespaceArgs),
    Dump(DumpArgs),
    Doctor(DoctorArgs),
}

/// Starts the log, if it is asked for.
pub(crate) fn log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_max_level(level).with_ansi(colours).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_that_belong_to_all_may_come_last() {
        let cli = Cli::try_parse_from(["kvof", "list", "host", "--json", "-vv"]).unwrap();
        assert!(cli.json);
        assert_eq!(cli.verbose, 2);
    }
}

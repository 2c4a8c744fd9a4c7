//! `kvof-interop`: runs the checks in the test guest, or anything else in it.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use kvof_interop::binaries::Binaries;
use kvof_interop::checks::{self, CheckResult, Transport};
use kvof_interop::{Guest, Kernel, Tail, repository};

/// The test guest: a stock Linux kernel under software emulation.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run the checks, on every kernel that is there unless some are named; exit code 1 if one fails.
    Check {
        /// Kernel series, such as 6.12.
        kernels: Vec<String>,
        /// Only the checks whose name contains one of these words.
        #[arg(long, value_name = "WORD,…")]
        only: Option<String>,
        /// Only the guest whose hosts connect by this.
        #[arg(long, value_enum)]
        transport: Option<TransportName>,
        /// Print what every check printed, not only what failing ones did.
        #[arg(long)]
        verbose: bool,
    },
    /// Boot a kernel and run a bash command in it, as root, in the repository's folder; without one, a shell on this terminal.
    Shell {
        /// The kernel's series, 6.12 or 6.1, or its exact version.
        kernel: String,
        /// What to run. The guest sees this machine's files and changes none of them; /run/kvof is gone after it.
        command: Option<String>,
        /// Seconds after which the guest is killed, from its boot.
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        /// Memory in MiB.
        #[arg(long, default_value_t = 2048)]
        memory: u32,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum TransportName {
    Tcp,
    Rdma,
}

fn main() -> ExitCode {
    run(Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("kvof-interop: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Check { kernels, only, transport, verbose } => {
            let transports = match transport {
                None => Transport::ALL.to_vec(),
                Some(TransportName::Tcp) => vec![Transport::Tcp],
                Some(TransportName::Rdma) => vec![Transport::Rdma],
            };
            check(&kernels, &transports, only.as_deref(), verbose)
        }
        Action::Shell { kernel, command, timeout, memory } => {
            let guest = Guest::new(Kernel::find(&kernel)?).memory_mib(memory).timeout(Duration::from_secs(timeout));
            let Some(command) = command else {
                guest.interactive(&repository())?;
                return Ok(ExitCode::SUCCESS);
            };
            let mut output = Tail::new("output");
            let outcome = guest.run(&repository(), &command, |share| {
                let mut stdout = std::io::stdout().lock();
                let _ = stdout.write_all(&output.read(share)).and_then(|()| stdout.flush());
            })?;
            let code = outcome.exit_code()?;
            if let Some(boot) = outcome.boot {
                eprintln!(
                    "(boot {:.1} s, {:.1} s in all, exit code {code})",
                    boot.as_secs_f64(),
                    outcome.total.as_secs_f64()
                );
            }
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
    }
}

fn check(series: &[String], transports: &[Transport], only: Option<&str>, verbose: bool) -> Result<ExitCode> {
    let kernels = if series.is_empty() {
        Kernel::all()
    } else {
        series.iter().map(|name| Kernel::find(name)).collect::<Result<_>>()?
    };
    ensure!(!kernels.is_empty(), "no kernel is unpacked; interop-tests/setup.sh does that");
    let mut work = Vec::new();
    for transport in transports {
        let files = checks::files(*transport, only)?;
        if !files.is_empty() {
            work.push((*transport, files));
        }
    }
    ensure!(!work.is_empty(), "no check has {:?} in its name", only.unwrap_or_default());
    let binaries = Binaries::build()?;
    let mut ok = true;
    for kernel in kernels {
        for (transport, files) in &work {
            println!("Linux {}, {}", kernel.version, transport.name());
            let report = checks::run(&kernel, *transport, &binaries, files, |check| print(check, verbose))?;
            println!("{report}\n");
            ok &= report.ok();
        }
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(check: &CheckResult, verbose: bool) {
    println!("{check}");
    if verbose && check.ok {
        for line in check.output.lines() {
            println!("         | {line}");
        }
    }
}

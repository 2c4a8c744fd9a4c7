//! The `kvof-target` command.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser};
use kvof_target::{
    config::{self, Config, ConfigError, Cores, Kind, LogFormat, Overrides, Quick, QuickNamespace, Size},
    daemon::{self, Daemon},
};

/// Exit code when the target could not start or ended by itself.
const EXIT_FAILURE: u8 = 1;
/// Exit code for a command line or a configuration that cannot be used.
const EXIT_USAGE: u8 = 2;

/// NVMe over Fabrics target that serves the Key Value command set over TCP and RDMA.
///
/// With --config FILE it serves what the file says. Without, it serves one subsystem that the flags below describe; with
/// no flags at all, a KV namespace in memory on 127.0.0.1:4420.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Signals: SIGTERM or SIGINT completes running commands and ends, a second one ends at once; SIGHUP reads \
                  the configuration file again.\nEnvironment: KVOF_LOG replaces log.level; NOTIFY_SOCKET names the \
                  service manager.\nExit codes: 0 ended as asked; 1 could not start, or failed; 2 wrong flags or wrong \
                  configuration.",
    after_long_help = "Signals:\n  SIGTERM, SIGINT  complete running commands and end; a second one ends at once\n  \
                       SIGHUP           read the configuration file again\n\nEnvironment:\n  KVOF_LOG         replaces \
                       log.level\n  NOTIFY_SOCKET    the service manager to notify\n\nExit codes:\n  0  ended as asked\n  \
                       1  could not start, or failed\n  2  wrong flags or wrong configuration\n\nTo try it out:\n  \
                       kvof-target\n  kvof-target --kv-file /var/tmp/kv --size 10GiB\n  kvof-target --listen [::]:4420 \
                       --allow-any-host --kv-memory 1GiB --nvm-memory 256MiB"
)]
struct Cli {
    /// Configuration file (TOML); see --print-sample.
    #[arg(short, long, value_name = "FILE", conflicts_with = "Trial")]
    config: Option<PathBuf>,

    /// Address to listen on, such as 127.0.0.1:4420, [::]:4420, rdma://192.0.2.7:4420 or a host name; repeatable. Replaces
    /// the ports of the configuration file.
    #[arg(short, long, value_name = "ADDRESS:PORT")]
    listen: Vec<String>,

    /// Cores to run on: all, a number, or a list of processors such as 0,2,3.
    #[arg(long, value_name = "CORES")]
    cores: Option<Cores>,

    /// What to log: error, warn, info, debug, trace, or directives.
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,

    /// Form of the log.
    #[arg(long, value_name = "FORMAT", value_parser = log_format)]
    log_format: Option<LogFormat>,

    /// Write the bound addresses to this file, as JSON, once connections are accepted; removed at the end.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,

    #[command(flatten)]
    trial: Trial,

    #[command(flatten)]
    print: Print,
}

/// Flags that describe one subsystem.
#[derive(Debug, Args)]
#[group(id = "Trial", multiple = true)]
#[command(next_help_heading = "Trying it out (without a configuration file)")]
struct Trial {
    /// A KV namespace in memory, such as 1GiB; repeatable. Namespaces are numbered from 1 in the order of these flags'
    /// kinds: KV in memory, KV in files, NVM in memory, NVM in files.
    #[arg(long, value_name = "SIZE")]
    kv_memory: Vec<Size>,

    /// A KV namespace in a file or block device; repeatable. Needs --size.
    #[arg(long, value_name = "PATH", requires = "size")]
    kv_file: Vec<PathBuf>,

    /// An NVM (block) namespace in memory; repeatable.
    #[arg(long, value_name = "SIZE")]
    nvm_memory: Vec<Size>,

    /// An NVM (block) namespace in a file or block device; repeatable. Needs --size if it does not exist yet.
    #[arg(long, value_name = "PATH")]
    nvm_file: Vec<PathBuf>,

    /// Size of each namespace in a file.
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,

    /// NQN of the subsystem.
    #[arg(long, value_name = "NQN")]
    nqn: Option<String>,

    /// Host that may connect, by its NQN; repeatable.
    #[arg(long, value_name = "NQN", conflicts_with = "allow_any_host")]
    allow_host: Vec<String>,

    /// Let every host connect. The default as long as the target listens on loopback addresses only.
    #[arg(long)]
    allow_any_host: bool,
}

/// Flags that print instead of serving.
#[derive(Debug, Args)]
#[group(id = "Print", multiple = false)]
#[command(next_help_heading = "Looking without serving")]
struct Print {
    /// Check the configuration, say what it comes to, and exit (0 or 2).
    #[arg(long)]
    check_config: bool,

    /// Print the configuration in effect as TOML and exit.
    #[arg(long)]
    print_config: bool,

    /// Print a commented sample configuration and exit.
    #[arg(long)]
    print_sample: bool,

    /// Print the reference of all options, in Markdown, and exit.
    #[arg(long, hide = true)]
    print_reference: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.print.print_sample {
        return print(&config::sample());
    }
    if cli.print.print_reference {
        return print(&config::reference());
    }
    let config = match cli.configuration() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("kvof-target: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if cli.print.print_config {
        return print(&config.to_toml());
    }
    if cli.print.check_config {
        return print(&format!("the configuration is right\n{}", config.summary()));
    }
    match serve(cli, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvof-target: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

impl Cli {
    fn configuration(&self) -> Result<Config, ConfigError> {
        let overrides = Overrides {
            listen: self.listen.clone(),
            cores: self.cores.clone(),
            log_level: self.log.clone(),
            log_format: self.log_format,
        };
        match &self.config {
            Some(path) => Config::load(path, &overrides),
            None => Config::quick(&self.trial.quick(&self.listen), &overrides),
        }
    }
}

impl Trial {
    fn quick(&self, listen: &[String]) -> Quick {
        let memory = |kind| move |size: &Size| QuickNamespace { kind, path: None, size: Some(*size) };
        let file = |kind| move |path: &PathBuf| QuickNamespace { kind, path: Some(path.clone()), size: self.size };
        let kv = self.kv_memory.iter().map(memory(Kind::Kv)).chain(self.kv_file.iter().map(file(Kind::Kv)));
        let nvm = self.nvm_memory.iter().map(memory(Kind::Nvm)).chain(self.nvm_file.iter().map(file(Kind::Nvm)));
        Quick {
            listen: listen.to_vec(),
            nqn: self.nqn.clone(),
            allow_hosts: self.allow_host.clone(),
            allow_any_host: self.allow_any_host,
            namespaces: kv.chain(nvm).collect(),
        }
    }
}

fn serve(cli: Cli, config: Config) -> anyhow::Result<()> {
    daemon::start_log(&config.settings.log)?;
    let ready_file = cli.ready_file.clone();
    let from_file = cli.config.is_some();
    let reread: Option<daemon::Reread> = from_file.then(|| Box::new(move || cli.configuration()) as daemon::Reread);
    let announce = if from_file { |_: &Config| {} } else { introduce };
    daemon::run(Daemon { config, reread, ready_file, announce })?;
    Ok(())
}

/// Tells someone who tries the target out what it serves and how to reach it.
fn introduce(config: &Config) {
    let mut text = format!("kvof-target {} {}", env!("CARGO_PKG_VERSION"), config.summary());
    if let (Some(port), Some(subsystem)) = (config.target.ports.first(), config.target.subsystems.first()) {
        let (transport, service) = (port.transport, port.listen.port());
        let address =
            if port.listen.ip().is_unspecified() { "ADDRESS".to_owned() } else { port.listen.ip().to_string() };
        let bracketed = if port.listen.is_ipv6() { format!("[{address}]") } else { address.clone() };
        text.push_str(&format!(
            "\nFrom a Linux host:\n  nvme connect -t {transport} -a {address} -s {service} -n {}\n\nWith the kvof \
             command:\n  kvof info {transport}://{bracketed}:{service}\n",
            subsystem.nqn
        ));
    }
    let _ = print(&text);
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => Err("use human or json".to_owned()),
    }
}

/// Prints to standard output. A reader that has gone away is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("kvof-target: cannot print: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
        _ => ExitCode::SUCCESS,
    }
}

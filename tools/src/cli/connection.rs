//! Options of the connection, as the host library understands them.

use std::time::Duration;

use clap::{Args, ValueEnum};
use kvof_initiator::{ConnectOptions, DigestMode, ReconnectPolicy, Transport};
use uuid::Uuid;

use crate::units::parse_duration;

/// What every connection needs, to a discovery controller too.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct HostArgs {
    /// Name of this host [default: /etc/nvme/hostnqn, or a random one].
    #[arg(long, value_name = "NQN", help_heading = "Connection")]
    hostnqn: Option<String>,

    /// Identifier of this host [default: /etc/nvme/hostid, or a random one].
    #[arg(long, value_name = "UUID", help_heading = "Connection")]
    hostid: Option<Uuid>,

    /// Digests (CRC-32C) to protect headers and data with, over TCP; a target that does not agree is refused.
    #[arg(long, value_name = "WHICH", default_value = "none", help_heading = "Connection")]
    pub(crate) digests: Digests,

    /// Time for making a connection [default: 10s] and for each command [default: 30s].
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Connection")]
    timeout: Option<Duration>,

    /// Keep Alive Timeout; 0: none [default: 15s].
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Connection")]
    keep_alive: Option<Duration>,
}

/// How to get to the ADDRESS.
#[derive(Clone, Copy, Default, Debug, Args)]
pub(crate) struct TransportArgs {
    /// How to connect where ADDRESS does not say it; auto asks discovery at ADDRESS and takes RDMA where it can, else
    /// TCP [default: tcp].
    #[arg(long, value_name = "HOW", help_heading = "Connection")]
    transport: Option<How>,
}

/// The choice of transports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum How {
    Tcp,
    Rdma,
    Auto,
}

impl TransportArgs {
    /// The transport that was asked for.
    pub(crate) fn asked(self) -> Option<Transport> {
        self.transport.map(|how| match how {
            How::Tcp => Transport::Tcp,
            How::Rdma => Transport::Rdma,
            How::Auto => Transport::Auto,
        })
    }
}

/// What a connection to a subsystem needs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Subsystem to connect to [default: the only one that discovery at ADDRESS tells of].
    #[arg(long, value_name = "NQN", env = "KVOF_NQN", hide_env_values = true, help_heading = "Connection")]
    pub(crate) nqn: Option<String>,

    /// Namespace to use [default: the only one of the right kind].
    #[arg(long, value_name = "NSID", value_parser = clap::value_parser!(u32).range(1..0xffff_ffff), help_heading = "Connection")]
    pub(crate) nsid: Option<u32>,

    /// I/O queues to ask for, each a connection of its own [default: 1; bench: one for each job].
    #[arg(long, visible_alias = "queues", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Connection")]
    pub(crate) io_queues: Option<u16>,
    /// Processors for the threads of the I/O queues, in turns, such as 2,3 [default: the scheduler chooses].
    #[arg(long, value_name = "CPU,…", value_delimiter = ',', help_heading = "Connection")]
    pub(crate) cores: Vec<usize>,

    /// Commands in flight on one I/O queue [default: 128; bench: what its depth needs].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=4096), help_heading = "Connection")]
    pub(crate) queue_depth: Option<u16>,

    #[command(flatten)]
    pub(crate) host: HostArgs,
}

/// The choice of digests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Digests {
    None,
    Header,
    Data,
    Both,
}

impl Digests {
    /// For people.
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Header => "header",
            Self::Data => "data",
            Self::Both => "header and data",
        }
    }

    /// Whether headers are protected.
    pub(crate) const fn header(self) -> bool {
        matches!(self, Self::Header | Self::Both)
    }

    /// Whether data are protected.
    pub(crate) const fn data(self) -> bool {
        matches!(self, Self::Data | Self::Both)
    }

    const fn mode(on: bool) -> DigestMode {
        if on { DigestMode::Require } else { DigestMode::Off }
    }
}

impl HostArgs {
    /// Options of the host library. A lost connection is an error: nobody waits at a prompt for a reconnect.
    pub(crate) fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::default();
        if let Some(hostid) = self.hostid {
            options.hostid = hostid;
        }
        if let Some(hostnqn) = &self.hostnqn {
            options.hostnqn.clone_from(hostnqn);
        }
        options.header_digest = Digests::mode(self.digests.header());
        options.data_digest = Digests::mode(self.digests.data());
        if let Some(timeout) = self.timeout {
            options.connect_timeout = timeout;
            options.command_timeout = timeout;
        }
        if let Some(keep_alive) = self.keep_alive {
            options.keep_alive = keep_alive;
        }
        options.io_queues = 0;
        options.reconnect = ReconnectPolicy::NEVER;
        options
    }
}

impl ConnectionArgs {
    /// Options of the host library, with `io_queues` and `queue_depth` unless others are given.
    pub(crate) fn options(&self, io_queues: u16, queue_depth: Option<u16>) -> ConnectOptions {
        let mut options = self.host.options();
        options.io_queues = self.io_queues.unwrap_or(io_queues);
        options.cores.clone_from(&self.cores);
        if let Some(depth) = self.queue_depth.or(queue_depth) {
            options.queue_depth = depth;
        }
        options
    }

    /// The subsystem that was named. An empty variable names none.
    pub(crate) fn nqn(&self) -> Option<&str> {
        self.nqn.as_deref().filter(|nqn| !nqn.is_empty())
    }
}

//! How the target runs, beside what it serves: threads, memory, limits, log.

use std::time::Duration;

pub use super::value::{Cores, LogFormat};

/// How the target runs. Every value is within the bounds that its description names; `config` has checked them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Cores as configured; [`Settings::cpus`] is what they come to on this machine.
    pub cores: Cores,
    /// Processors to run on, one reactor thread on each; at least one, no duplicates.
    pub cpus: Vec<usize>,
    /// How long an idle reactor spins before it blocks; 0 to 1 s.
    pub busy_poll: Duration,
    /// Most bytes of data on its way, on all cores together; memory namespaces come on top. At least two commands of
    /// `limits.transfer` for each core.
    pub memory: u64,
    /// What hosts may ask for.
    pub limits: Limits,
    /// NVMe/TCP.
    pub tcp: TcpSettings,
    /// NVMe/RDMA.
    pub rdma: RdmaSettings,
    /// The log.
    pub log: LogSettings,
    /// On SIGTERM: how long commands that run may take before connections are closed; 0 to 10 min.
    pub drain_timeout: Duration,
}

/// What hosts may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most connections at a time on all cores; at least 2.
    pub connections: u32,
    /// Most controllers at a time, 1 to 65519 (cntlid FFF0h and up are reserved).
    pub controllers: u16,
    /// Most I/O queues of a controller, 1 to 65534.
    pub io_queues: u16,
    /// Most entries of an I/O queue, 1's based, 2 to 4096.
    pub queue_size: u16,
    /// Most bytes of data of one command: a power of two, 8 KiB to 64 MiB.
    pub transfer: u32,
    /// How long a controller may stay disabled or shut down, and a discovery controller without keep alive idle; 1 s to 1 h.
    pub association_timeout: Duration,
}

/// NVMe/TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpSettings {
    /// Most bytes of data in a capsule of an I/O queue: a multiple of 16, 0 to 1 MiB.
    pub in_capsule: u32,
    /// MAXH2CDATA in bytes: a multiple of 4, 4 KiB to 64 MiB.
    pub max_h2c_data: u32,
    /// Most R2Ts outstanding for a command, 1's based, 1 to 4; a host's MAXR2T may lower it.
    pub max_r2t: u8,
    /// Header digests are granted to hosts that ask.
    pub header_digest: bool,
    /// Data digests are granted to hosts that ask.
    pub data_digest: bool,
    /// From accept to the end of Connect; 100 ms to 10 min.
    pub handshake_timeout: Duration,
    /// For one PDU above what its length needs at 32 KiB a second, and for a host to take queued data; 100 ms to 10 min.
    pub pdu_timeout: Duration,
}

/// NVMe/RDMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RdmaSettings {
    /// Most bytes of data in a capsule of an I/O queue: a multiple of 16, 0 to 64 KiB.
    pub in_capsule: u32,
    /// Most entries of a queue, 1's based, 2 to 4096; [`Limits::queue_size`] may be less.
    pub queue_size: u16,
    /// Bytes of receive buffers of the connections of one core.
    pub receive_memory: u64,
    /// From accept to the end of Connect; 100 ms to 10 min.
    pub handshake_timeout: Duration,
}

impl RdmaSettings {
    /// Bytes of memory for the capsules of an I/O queue with `entries` entries.
    #[must_use]
    pub fn capsule_memory(&self, entries: u16) -> u64 {
        let capsule = (u64::from(self.in_capsule) + CAPSULE).next_multiple_of(CAPSULE);
        u64::from(entries) * (capsule + CAPSULE)
    }
}

/// Bytes of a command capsule without data, and of the place for a response.
const CAPSULE: u64 = 64;

/// The log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// Filter: a level or `tracing` directives.
    pub level: String,
    /// Form of the lines.
    pub format: LogFormat,
}

impl Settings {
    /// Keys of the settings in which `other` differs. None of them can change while the target runs.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let (limits, tcp, rdma) = (&self.limits, &self.tcp, &self.rdma);
        [
            ("reactor.cores", self.cpus != other.cpus),
            ("reactor.busy_poll", self.busy_poll != other.busy_poll),
            ("reactor.memory", self.memory != other.memory),
            ("limits.connections", limits.connections != other.limits.connections),
            ("limits.controllers", limits.controllers != other.limits.controllers),
            ("limits.io_queues", limits.io_queues != other.limits.io_queues),
            ("limits.queue_size", limits.queue_size != other.limits.queue_size),
            ("limits.transfer", limits.transfer != other.limits.transfer),
            ("limits.association_timeout", limits.association_timeout != other.limits.association_timeout),
            ("tcp.in_capsule", tcp.in_capsule != other.tcp.in_capsule),
            ("tcp.max_h2c_data", tcp.max_h2c_data != other.tcp.max_h2c_data),
            ("tcp.max_r2t", tcp.max_r2t != other.tcp.max_r2t),
            ("tcp.header_digest", tcp.header_digest != other.tcp.header_digest),
            ("tcp.data_digest", tcp.data_digest != other.tcp.data_digest),
            ("tcp.handshake_timeout", tcp.handshake_timeout != other.tcp.handshake_timeout),
            ("tcp.pdu_timeout", tcp.pdu_timeout != other.tcp.pdu_timeout),
            ("rdma.in_capsule", rdma.in_capsule != other.rdma.in_capsule),
            ("rdma.queue_size", rdma.queue_size != other.rdma.queue_size),
            ("rdma.receive_memory", rdma.receive_memory != other.rdma.receive_memory),
            ("rdma.handshake_timeout", rdma.handshake_timeout != other.rdma.handshake_timeout),
            ("log.level", self.log.level != other.log.level),
            ("log.format", self.log.format != other.log.format),
            ("daemon.drain_timeout", self.drain_timeout != other.drain_timeout),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

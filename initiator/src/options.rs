//! How to connect: who the host is, how many queues, how long to wait.

use std::time::Duration;

use uuid::Uuid;

/// Whether a digest (CRC-32C) protects the PDUs of a connection. There is none over RDMA, where a connection that
/// requires one is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DigestMode {
    /// Not asked for.
    #[default]
    Off,
    /// Asked for, and used if the controller agrees.
    Prefer,
    /// Asked for; a controller that does not agree is refused.
    Require,
}

/// What to do when a connection is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReconnectPolicy {
    /// Pause before the second attempt; the first follows at once. Doubles with every attempt, with ±25 % jitter.
    pub initial: Duration,
    /// Longest pause between attempts.
    pub max: Duration,
    /// Time after which reconnecting is given up and every operation fails; zero: never reconnect.
    pub give_up_after: Duration,
}

impl Default for ReconnectPolicy {
    /// 100 ms growing to 5 s, for 10 minutes.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(5),
            give_up_after: Duration::from_secs(600),
        }
    }
}

impl ReconnectPolicy {
    /// No reconnecting: a lost connection fails the controller for good.
    pub const NEVER: Self = Self { initial: Duration::ZERO, max: Duration::ZERO, give_up_after: Duration::ZERO };
}

/// How to connect. Start from [`ConnectOptions::default`] and change what matters.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// Name of this host (HOSTNQN), at most 223 bytes.
    pub hostnqn: String,
    /// Identifier of this host (HOSTID), the same for all controllers.
    pub hostid: Uuid,
    /// I/O queues to ask for, each a connection and a thread of its own; the controller may grant fewer.
    pub io_queues: u16,
    /// Commands in flight on one I/O queue, at most 4096; the controller's MQES may lower it.
    pub queue_depth: u16,
    /// Keep Alive Timeout (KATO); zero: none. The controller drops the association when it hears nothing for so long.
    pub keep_alive: Duration,
    /// Header digest (TCP).
    pub header_digest: DigestMode,
    /// Data digest (TCP).
    pub data_digest: DigestMode,
    /// Alignment of the data that the controller sends, dwords, 0's based (HPDA), at most 31 (TCP).
    pub hpda: u8,
    /// R2Ts that the controller may have outstanding for one command, 0's based (MAXR2T; TCP).
    pub maxr2t: u32,
    /// Disable submission queue flow control (CATTR bit 2). It is enabled by default, as in Linux.
    pub disable_sq_flow_control: bool,
    /// Time for resolving the name and making the connection of each queue (TCP: with ICReq and ICResp; RDMA: with
    /// address and route), and then for each command that sets the controller up.
    pub connect_timeout: Duration,
    /// Time for one command, from the call to its answer, waiting for a free slot or a reconnect included.
    pub command_timeout: Duration,
    /// What to do when a connection is lost.
    pub reconnect: ReconnectPolicy,
    /// How long a queue's thread spins for an answer before it sleeps, while commands are in flight. Spinning saves
    /// 10–20 µs of wake-up a command at low depth and costs a core meanwhile; zero: never.
    pub busy_poll: Duration,
    /// Processors for the threads of the I/O queues, in turns; empty leaves them to the scheduler.
    pub cores: Vec<usize>,
}

impl Default for ConnectOptions {
    /// HOSTNQN and HOSTID from `/etc/nvme/hostnqn` and `/etc/nvme/hostid` if they are there, else a random host;
    /// 4 I/O queues of 128, keep alive 15 s, no digests, 10 s to connect, 30 s a command.
    fn default() -> Self {
        let hostid = read_line("/etc/nvme/hostid").and_then(|id| id.parse().ok()).unwrap_or_else(Uuid::new_v4);
        let hostnqn = read_line("/etc/nvme/hostnqn")
            .filter(|nqn| nqn.starts_with("nqn.") && nqn.len() <= NQN_LEN_MAX)
            .unwrap_or_else(|| format!("nqn.2014-08.org.nvmexpress:uuid:{hostid}"));
        Self {
            hostnqn,
            hostid,
            io_queues: 4,
            queue_depth: 128,
            keep_alive: Duration::from_secs(15),
            header_digest: DigestMode::Off,
            data_digest: DigestMode::Off,
            hpda: 0,
            maxr2t: 15,
            disable_sq_flow_control: false,
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(30),
            reconnect: ReconnectPolicy::default(),
            busy_poll: Duration::from_micros(20),
            cores: Vec::new(),
        }
    }
}

/// Longest NQN, bytes without the terminating NUL.
pub(crate) const NQN_LEN_MAX: usize = 223;
/// Most commands in flight on one queue: a command identifier has 12 bits of index and 4 of generation.
pub(crate) const QUEUE_DEPTH_MAX: u16 = 4096;

impl ConnectOptions {
    /// Whether a connection without digests is of no use.
    pub(crate) fn requires_digests(&self) -> bool {
        [self.header_digest, self.data_digest].contains(&DigestMode::Require)
    }

    /// Checks every field.
    pub(crate) fn check(&self) -> crate::Result<()> {
        use crate::Error;
        if self.hostnqn.is_empty() || self.hostnqn.len() > NQN_LEN_MAX {
            return Err(Error::argument("hostnqn", format!("{:?}", self.hostnqn), "an NQN has 1 to 223 bytes"));
        }
        if self.queue_depth < 2 || self.queue_depth > QUEUE_DEPTH_MAX {
            return Err(Error::argument("queue_depth", self.queue_depth, "a queue holds 2 to 4096 commands"));
        }
        if self.hpda > kvof_spec::tcp::PDA_MAX {
            return Err(Error::argument("hpda", self.hpda, "HPDA is at most 31 (128 bytes)"));
        }
        if self.keep_alive.as_millis() > u128::from(u32::MAX) {
            return Err(Error::argument("keep_alive", format!("{:?}", self.keep_alive), "KATO has 32 bits of ms"));
        }
        for (what, value) in [("connect_timeout", self.connect_timeout), ("command_timeout", self.command_timeout)] {
            if value.is_zero() {
                return Err(Error::argument(what, "zero", "a time limit is longer than nothing"));
            }
        }
        Ok(())
    }
}

fn read_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

//! Where a KV namespace is: behind the kernel, or behind the host library.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kvof_initiator::blocking::{BlockingKv, block_on};
use kvof_initiator::{Address, ConnectOptions, Controller, ReconnectPolicy};
use kvof_kv::KvPort;

use crate::port::KernelPort;

/// A KV namespace.
#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    /// The namespace's node, /dev/ngXnY; or an address, such as rdma://10.8.0.1:4420, to connect to with the host library.
    device: String,
    /// The subsystem at the address.
    #[arg(long, default_value = "nqn.2026-01.org.example:kv")]
    nqn: String,
    /// The namespace there.
    #[arg(long, default_value_t = 1)]
    nsid: u32,
    /// Keep Alive Timeout of connections of the host library, seconds.
    #[arg(long, default_value_t = 15)]
    keep_alive: u64,
}

impl Place {
    /// Opens it. Connections of the host library come back for two minutes when they are lost; nothing waits longer than 10 s.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn open(&self) -> Result<Box<dyn KvPort>> {
        if self.device.starts_with('/') {
            return Ok(Box::new(KernelPort::open(Path::new(&self.device))?));
        }
        let address: Address = self.device.parse()?;
        let mut options = ConnectOptions::default();
        options.io_queues = 2;
        options.queue_depth = 32;
        options.keep_alive = Duration::from_secs(self.keep_alive);
        options.command_timeout = Duration::from_secs(10);
        // An emulated processor that spins is away from everything else.
        options.busy_poll = Duration::ZERO;
        options.reconnect = ReconnectPolicy {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(1),
            give_up_after: Duration::from_secs(120),
        };
        let namespace =
            block_on(async { Controller::connect(&address, &self.nqn, &options).await?.kv(self.nsid).await })
                .with_context(|| format!("{address}, {}, namespace {}", self.nqn, self.nsid))?;
        Ok(Box::new(BlockingKv::new(namespace)))
    }
}

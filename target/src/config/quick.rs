//! A target from a few flags, for trying things out.

use std::path::PathBuf;

use super::{
    ConfigError, Problem, given,
    machine::Machine,
    tables::{File, NamespaceTable, PortTable, SubsystemTable},
    value::{Hosts, Kind, Size, Storage},
};

/// What is served when nothing else is said.
const NQN: &str = "nqn.2024-01.localhost:kvof";
const LISTEN: &str = "127.0.0.1:4420";
const KV_SIZE: u64 = 4 << 30;

/// One subsystem, described by flags. The default serves one KV namespace in memory on 127.0.0.1.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Quick {
    /// Addresses to listen on; empty for 127.0.0.1:4420.
    pub listen: Vec<String>,
    /// NQN of the subsystem.
    pub nqn: Option<String>,
    /// Hosts that may connect.
    pub allow_hosts: Vec<String>,
    /// Let every host in. Implied on loopback addresses when no hosts are named.
    pub allow_any_host: bool,
    /// Its namespaces, with NSIDs from 1 in this order; empty for a KV namespace in memory.
    pub namespaces: Vec<QuickNamespace>,
}

/// A namespace, described by flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuickNamespace {
    /// Command set.
    pub kind: Kind,
    /// File or block device; none for memory.
    pub path: Option<PathBuf>,
    /// Capacity; required unless a file or device gives it.
    pub size: Option<Size>,
}

impl Quick {
    pub(super) fn file(&self, machine: &Machine) -> Result<File, ConfigError> {
        let listen = if self.listen.is_empty() { vec![LISTEN.to_owned()] } else { self.listen.clone() };
        let namespaces = if self.namespaces.is_empty() {
            vec![QuickNamespace { kind: Kind::Kv, path: None, size: Some(default_size(machine)) }]
        } else {
            self.namespaces.clone()
        };
        let subsystem = SubsystemTable {
            nqn: Some(given(self.nqn.clone().unwrap_or_else(|| NQN.to_owned()))),
            allowed_hosts: Some(given(self.hosts(&listen)?)),
            namespace: namespaces.iter().zip(1..).map(|(namespace, nsid)| given(namespace.table(nsid))).collect(),
            ..SubsystemTable::default()
        };
        Ok(File {
            port: listen.iter().map(|address| given(PortTable::at(address))).collect(),
            subsystem: vec![given(subsystem)],
            ..File::default()
        })
    }

    fn hosts(&self, listen: &[String]) -> Result<Hosts, ConfigError> {
        if self.allow_any_host {
            return Ok(Hosts::Any);
        }
        if !self.allow_hosts.is_empty() {
            return Ok(Hosts::List(self.allow_hosts.iter().map(|host| given(host.clone())).collect()));
        }
        match listen.iter().find(|address| !is_loopback(address)) {
            None => Ok(Hosts::Any),
            Some(address) => Err(ConfigError::Problems(vec![Problem {
                place: None,
                key: "--listen".to_owned(),
                value: address.clone(),
                message: "other machines can reach this address; say who may connect with --allow-host NQN, or \
                          --allow-any-host for everyone"
                    .to_owned(),
            }])),
        }
    }
}

impl QuickNamespace {
    fn table(&self, nsid: u32) -> NamespaceTable {
        NamespaceTable {
            nsid: Some(given(nsid)),
            kind: Some(given(self.kind)),
            storage: Some(given(self.path.clone().map_or(Storage::Memory, Storage::Path))),
            size: self.size.map(given),
            ..NamespaceTable::default()
        }
    }
}

/// Capacity of the namespace that nobody asked for: at most half of the machine's memory.
fn default_size(machine: &Machine) -> Size {
    let half = machine.memory.map_or(KV_SIZE, |bytes| bytes / 2);
    Size(KV_SIZE.min(half >> 20 << 20))
}

/// Whether only this machine can reach `address`.
fn is_loopback(address: &str) -> bool {
    match super::address::resolve(super::address::split_transport(address).1, 0, &super::address::system_lookup) {
        Ok(addresses) => addresses.iter().all(|address| address.ip().is_loopback()),
        // What cannot be resolved cannot be listened on; the check of the port says so.
        Err(_) => true,
    }
}

//! A checked configuration as TOML and as a summary.

use std::fmt::Write as _;

use uuid::Uuid;

use super::{
    Config, Kind, Size, Span,
    value::{Class, Mode, OptionValue, Storage, Transport, quote},
};
use crate::model::{
    KvStorageDef, NamespaceDef, NamespaceKindDef, NamespaceMode, PoolDef, PortDef, StorageDef, SubsystemDef,
};

pub(super) fn to_toml(config: &Config) -> String {
    // Writing to a String cannot fail.
    let mut out = String::new();
    let _ = write_settings(&mut out, config);
    let _ = write_target(&mut out, config);
    out
}

fn write_settings(out: &mut String, config: &Config) -> std::fmt::Result {
    let settings = &config.settings;
    let (limits, tcp, rdma) = (&settings.limits, &settings.tcp, &settings.rdma);
    let size = |bytes: u64| Size(bytes).to_toml();
    let span = |time| Span(time).to_toml();
    writeln!(out, "[reactor]\ncores = {}", settings.cores.to_toml())?;
    writeln!(out, "busy_poll = {}\nmemory = {}", span(settings.busy_poll), size(settings.memory))?;
    writeln!(out, "\n[limits]\nconnections = {}\ncontrollers = {}", limits.connections, limits.controllers)?;
    writeln!(out, "io_queues = {}\nqueue_size = {}", limits.io_queues, limits.queue_size)?;
    writeln!(out, "transfer = {}", size(limits.transfer.into()))?;
    writeln!(out, "association_timeout = {}", span(limits.association_timeout))?;
    writeln!(out, "\n[tcp]\nin_capsule = {}", size(tcp.in_capsule.into()))?;
    writeln!(out, "max_h2c_data = {}\nmax_r2t = {}", size(tcp.max_h2c_data.into()), tcp.max_r2t)?;
    writeln!(out, "header_digest = {}\ndata_digest = {}", tcp.header_digest, tcp.data_digest)?;
    writeln!(out, "handshake_timeout = {}\npdu_timeout = {}", span(tcp.handshake_timeout), span(tcp.pdu_timeout))?;
    writeln!(out, "\n[rdma]\nin_capsule = {}\nqueue_size = {}", size(rdma.in_capsule.into()), rdma.queue_size)?;
    writeln!(out, "receive_memory = {}", size(rdma.receive_memory))?;
    writeln!(out, "handshake_timeout = {}", span(rdma.handshake_timeout))?;
    writeln!(out, "\n[log]\nlevel = {}\nformat = {}", quote(&settings.log.level), settings.log.format.to_toml())?;
    writeln!(out, "\n[daemon]\ndrain_timeout = {}", span(settings.drain_timeout))
}

fn write_pool(out: &mut String, pool: &PoolDef) -> std::fmt::Result {
    let devices: Vec<String> = pool.devices.iter().map(|path| quote(&path.to_string_lossy())).collect();
    let limits = &pool.limits;
    let size = |bytes: u64| Size(bytes).to_toml();
    writeln!(out, "\n[[pool]]\nname = {}\ndevices = [{}]", quote(&pool.name), devices.join(", "))?;
    writeln!(out, "index_memory = {}\ntier = {}", size(limits.index_memory), size(limits.tier))?;
    writeln!(out, "scratch = {}\nread_ahead = {}", size(limits.scratch), size(limits.read_ahead))?;
    writeln!(out, "rebuild_rate = {}\nscrub_rate = {}", size(limits.rebuild_rate), size(limits.scrub_rate))
}

fn write_target(out: &mut String, config: &Config) -> std::fmt::Result {
    for pool in config.target.pools.iter().filter(|pool| pool.create.is_none()) {
        write_pool(out, pool)?;
    }
    for port in &config.target.ports {
        let (address, transport) = (quote(&port.listen.to_string()), Transport(port.transport).to_toml());
        writeln!(out, "\n[[port]]\naddress = {address}\ntransport = {transport}")?;
        if let Some(advertise) = &port.advertise {
            writeln!(out, "advertise = {}", quote(advertise))?;
        }
    }
    for subsystem in &config.target.subsystems {
        writeln!(out, "\n[[subsystem]]\nnqn = {}", quote(subsystem.nqn.as_str()))?;
        writeln!(out, "allowed_hosts = {}", hosts(subsystem))?;
        writeln!(out, "serial = {}\nmodel = {}", quote(&subsystem.serial), quote(&subsystem.model))?;
        for namespace in &subsystem.namespaces {
            write_namespace(out, namespace)?;
        }
    }
    for referral in &config.target.referrals {
        writeln!(out, "\n[[referral]]\naddress = {}", quote(&format!("{}://{}", referral.transport, referral.traddr)))?;
        writeln!(out, "portid = {}", referral.portid)?;
    }
    Ok(())
}

fn write_namespace(out: &mut String, namespace: &NamespaceDef) -> std::fmt::Result {
    writeln!(out, "\n[[subsystem.namespace]]\nnsid = {}", namespace.nsid)?;
    match &namespace.kind {
        NamespaceKindDef::Kv { limits, size, storage } => {
            writeln!(out, "kind = {}", Kind::Kv.to_toml())?;
            match storage {
                KvStorageDef::Memory => writeln!(out, "storage = {}", Storage::Memory.to_toml())?,
                KvStorageDef::Pool(pool) => {
                    // The name of a namespace's own pool is its storage.
                    let own = pool.pool.starts_with(super::pool::FILE);
                    let storage = if own { quote(&pool.pool) } else { Storage::Pool(pool.pool.clone()).to_toml() };
                    let (mode, class) = (Mode(pool.mode).to_toml(), Class(pool.durability).to_toml());
                    writeln!(out, "storage = {storage}\nmode = {mode}\ndurability = {class}")?;
                    writeln!(out, "reservation = {}", Size(pool.reservation).to_toml())?;
                }
            }
            writeln!(out, "size = {}", Size(*size).to_toml())?;
            writeln!(out, "max_value_size = {}", Size(limits.kvvml.into()).to_toml())?;
            writeln!(out, "max_keys = {}", limits.mnks)?;
        }
        NamespaceKindDef::Nvm { block_size, size, storage } => {
            writeln!(out, "kind = {}\nstorage = {}", Kind::Nvm.to_toml(), storage_toml(storage))?;
            writeln!(out, "size = {}", Size(*size).to_toml())?;
            writeln!(out, "block_size = {}", Size((*block_size).into()).to_toml())?;
        }
    }
    writeln!(out, "uuid = \"{}\"", Uuid::from_bytes(namespace.uuid))?;
    writeln!(out, "nguid = \"{:032x}\"", u128::from_be_bytes(namespace.nguid))
}

fn hosts(subsystem: &SubsystemDef) -> String {
    match &subsystem.allowed_hosts {
        None => "\"any\"".to_owned(),
        Some(hosts) => {
            let hosts: Vec<String> = hosts.iter().map(|host| quote(host.as_str())).collect();
            format!("[{}]", hosts.join(", "))
        }
    }
}

fn storage_toml(storage: &StorageDef) -> String {
    match storage {
        StorageDef::Memory => Storage::Memory.to_toml(),
        StorageDef::File { path } => Storage::Path(path.clone()).to_toml(),
    }
}

pub(super) fn summary(config: &Config) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_summary(&mut out, config);
    out
}

fn write_summary(out: &mut String, config: &Config) -> std::fmt::Result {
    let settings = &config.settings;
    let listens: Vec<String> = config.target.ports.iter().map(PortDef::url).collect();
    writeln!(out, "listens on {} with {} cores", listens.join(", "), settings.cpus.len())?;
    for pool in config.target.pools.iter().filter(|pool| pool.create.is_none()) {
        writeln!(out, "pool {} of {} devices", pool.name, pool.devices.len())?;
    }
    if config.target.subsystems.is_empty() {
        writeln!(out, "serves no subsystem, only discovery")?;
    }
    for subsystem in &config.target.subsystems {
        let hosts = match &subsystem.allowed_hosts {
            None => "any host".to_owned(),
            Some(hosts) if hosts.is_empty() => "no host".to_owned(),
            Some(hosts) if hosts.len() == 1 => "one host".to_owned(),
            Some(hosts) => format!("{} hosts", hosts.len()),
        };
        writeln!(out, "subsystem {} for {hosts}", subsystem.nqn.as_str())?;
        for namespace in &subsystem.namespaces {
            writeln!(out, "  namespace {}: {}", namespace.nsid, describe(&namespace.kind))?;
        }
    }
    Ok(())
}

/// One namespace in words.
pub(super) fn describe(kind: &NamespaceKindDef) -> String {
    let kv_place = |storage: &KvStorageDef| match storage {
        KvStorageDef::Memory => "in memory".to_owned(),
        KvStorageDef::Pool(pool) => {
            let cache = if pool.mode == NamespaceMode::Cache { " as a cache" } else { "" };
            match pool.pool.strip_prefix(super::pool::FILE) {
                Some(path) => format!("in {path}{cache}"),
                None => format!("in pool {}{cache}", pool.pool),
            }
        }
    };
    let place = |storage: &StorageDef| match storage {
        StorageDef::Memory => "in memory".to_owned(),
        StorageDef::File { path } => format!("in {}", path.display()),
    };
    match kind {
        NamespaceKindDef::Kv { limits, size, storage } => {
            format!("KV, {} {}, values to {}", Size(*size), kv_place(storage), Size(limits.kvvml.into()),)
        }
        NamespaceKindDef::Nvm { block_size, size, storage } => {
            format!("NVM, {} {}, blocks of {block_size} bytes", Size(*size), place(storage))
        }
    }
}

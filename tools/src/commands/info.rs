//! `kvof info`: what a controller is, what it can do, what was agreed with it, and its namespaces.

use anyhow::{Context, Result};
use clap::Args;
use kvof_initiator::{
    AdminData, Cns, Controller, ControllerInfo, Csi, Error, FeatureId, KeyProtection, NamespaceInfo, RdmaPath,
};
use kvof_kv::IdentifyKvNamespace;
use kvof_spec::{
    FromBytes,
    feature::KvConfiguration,
    identify::{ControllerType, Ctratt, IdentifyNamespace},
    log::{GetLogPageCmd, LogId, PoolFlags, PoolMemberState, PoolStatistics},
};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    cli::{ConnectionArgs, Place},
    connect::with_controller,
    failure::Exit,
    output::{Align, Output, Section, Table},
    units::size,
};

/// Show what a target is, its limits and its namespaces.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Serialize)]
struct Info {
    controller: ControllerDocument,
    limits: Limits,
    connection: Connection,
    namespaces: Vec<Namespace>,
}

#[derive(Serialize)]
struct ControllerDocument {
    address: String,
    subnqn: String,
    cntlid: u16,
    kind: String,
    model: String,
    serial: String,
    firmware: String,
    version: String,
    shared_subsystem: bool,
}

#[derive(Serialize)]
struct Limits {
    /// Bytes; none: no limit.
    max_transfer: Option<u32>,
    mdts: u8,
    in_capsule: u32,
    ioccsz: u32,
    iorcsz: u32,
    maxcmd: u16,
    max_namespace_id: u32,
    keep_alive_granularity_ms: u32,
    traffic_based_keep_alive: bool,
}

#[derive(Serialize)]
struct Connection {
    transport: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdma: Option<RdmaConnection>,
    hostnqn: String,
    hostid: String,
    io_queues: u16,
    io_queues_asked: u16,
    queue_depth: u16,
    header_digest: bool,
    data_digest: bool,
    keep_alive_ms: u128,
    sq_flow_control: bool,
}

/// What an RDMA connection goes through.
#[derive(Serialize)]
struct RdmaConnection {
    device: String,
    keys: &'static str,
}

#[derive(Serialize)]
struct Namespace {
    nsid: u32,
    command_set: String,
    csi: u8,
    /// Bytes.
    size: u64,
    used: u64,
    nguid: Option<String>,
    uuid: Option<String>,
    eui64: Option<String>,
    write_protected: bool,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Kind {
    Kv { kv: Kv },
    Nvm { nvm: Nvm },
    Other {},
}

#[derive(Serialize)]
struct Kv {
    format: usize,
    formats: Vec<Format>,
    /// Bytes; 0: not reported.
    optimal_value_granularity: u32,
    /// Feature 20h: Delete of a missing key is an error. None: the feature is not supported.
    delete_missing_is_error: Option<bool>,
    /// The pool that it lies in, if it lies in one of kvof's.
    pool: Option<Box<Pool>>,
}

/// What the target tells of a pool; bytes, and counts since it was opened.
#[derive(Serialize)]
struct Pool {
    name: String,
    uuid: String,
    profile: String,
    shards: u16,
    capacity: u64,
    live: u64,
    keys: u64,
    index_bytes: u64,
    /// None: there is no key.
    index_bytes_per_key: Option<f64>,
    stored_bytes: u64,
    written_bytes: u64,
    /// Bytes written to devices for each byte stored. None: nothing was stored.
    write_amplification: Option<f64>,
    retrieved_bytes: u64,
    /// Bytes that the target's processor copied for each byte stored, between network and devices. None: nothing was stored, or the target
    /// does not count it.
    copied_per_byte_stored: Option<f64>,
    /// The same for each byte retrieved.
    copied_per_byte_retrieved: Option<f64>,
    tier_used: u64,
    tier_limit: u64,
    /// None: nothing was read.
    tier_hit_rate: Option<f64>,
    evicted: u64,
    degraded_reads: u64,
    damaged: u64,
    repaired: u64,
    unrecovered: u64,
    degraded: bool,
    read_only: bool,
    /// Groups done and in all, of what runs.
    rebuild: Option<(u64, u64)>,
    scrub: Option<(u64, u64)>,
    /// By place.
    devices: Vec<&'static str>,
}

#[derive(Serialize)]
struct Format {
    max_key: u16,
    max_value: u32,
    /// 0: no stated maximum.
    max_keys: u32,
}

#[derive(Serialize)]
struct Nvm {
    block_size: u32,
    blocks: u64,
}

pub(crate) fn run(args: &InfoArgs, output: &mut Output) -> Result<Exit> {
    let address = args.place.resolve()?;
    let options = args.connection.options(1, None);
    let info = with_controller(&address, &args.connection, &options, async |controller| {
        let info = controller.info()?;
        let mut namespaces = Vec::new();
        for namespace in controller.namespaces().await? {
            if args.connection.nsid.is_none_or(|nsid| nsid == namespace.nsid) {
                let nsid = namespace.nsid;
                namespaces.push(
                    look(controller, namespace).await.with_context(|| format!("cannot look at namespace {nsid}"))?,
                );
            }
        }
        if let (Some(nsid), true) = (args.connection.nsid, namespaces.is_empty()) {
            anyhow::bail!("{} has no namespace {nsid} for this host", controller.subnqn());
        }
        let digests = &args.connection.host.digests;
        let connection = Connection {
            transport: info.transport.name(),
            rdma: info.rdma.as_ref().map(rdma_connection),
            hostnqn: options.hostnqn.clone(),
            hostid: options.hostid.to_string(),
            io_queues: info.io_queues,
            io_queues_asked: options.io_queues,
            queue_depth: info.queue_depth,
            // A connection without the digests that were asked for is refused.
            header_digest: digests.header(),
            data_digest: digests.data(),
            keep_alive_ms: options.keep_alive.as_millis(),
            sq_flow_control: !options.disable_sq_flow_control,
        };
        Ok(Info { controller: identity(controller, &info), limits: limits(&info), connection, namespaces })
    })?;
    if output.is_json() {
        output.document(&info)?;
    } else {
        print(&info, args.connection.host.digests.describe(), output)?;
    }
    Ok(Exit::Success)
}

fn identity(controller: &Controller, info: &ControllerInfo) -> ControllerDocument {
    ControllerDocument {
        address: controller.address().to_string(),
        subnqn: info.subnqn.clone(),
        cntlid: info.cntlid,
        kind: match info.identify.cntrltype() {
            ControllerType::IO => "I/O".to_owned(),
            other => other.to_string(),
        },
        model: info.model.clone(),
        serial: info.serial.clone(),
        firmware: info.firmware.clone(),
        version: info.version.to_string(),
        shared_subsystem: info.identify.cmic & 0b10 != 0,
    }
}

fn limits(info: &ControllerInfo) -> Limits {
    Limits {
        max_transfer: Some(info.max_transfer).filter(|bytes| *bytes != u32::MAX),
        mdts: info.identify.mdts,
        in_capsule: info.in_capsule,
        ioccsz: info.identify.ioccsz.get(),
        iorcsz: info.identify.iorcsz.get(),
        maxcmd: info.identify.maxcmd.get(),
        max_namespace_id: info.identify.nn.get(),
        keep_alive_granularity_ms: u32::from(info.identify.kas.get()) * 100,
        traffic_based_keep_alive: info.identify.ctratt().contains(Ctratt::TBKAS),
    }
}

async fn look(controller: &Controller, namespace: NamespaceInfo) -> Result<Namespace> {
    let nsid = namespace.nsid;
    let mut found = Namespace {
        nsid,
        command_set: match namespace.csi {
            Csi::KV => "KV".to_owned(),
            other => other.to_string(),
        },
        csi: namespace.csi.0,
        size: 0,
        used: 0,
        nguid: namespace.nguid.map(|id| Uuid::from_bytes(id).simple().to_string()),
        uuid: namespace.uuid.map(|id| Uuid::from_bytes(id).to_string()),
        eui64: namespace.eui64.map(|id| format!("{:016x}", u64::from_be_bytes(id))),
        write_protected: false,
        kind: Kind::Other {},
    };
    match namespace.csi {
        Csi::KV => {
            let data = controller.identify(Cns::IOCS_NAMESPACE, nsid, Csi::KV).await?;
            let data = IdentifyKvNamespace::from_bytes(&data).context("the Identify data are too short")?;
            (found.size, found.used) = (data.nsze.get(), data.nuse.get());
            found.write_protected = data.nsattr & 1 != 0;
            let delete_missing_is_error = match controller.get_feature(FeatureId::KEY_VALUE_CONFIGURATION, nsid).await {
                Ok(value) => Some(KvConfiguration(value).ednek()),
                Err(Error::Status { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            let formats = data.kvf.iter().take(usize::from(data.nkvf) + 1).map(|format| Format {
                max_key: format.kvkml.get(),
                max_value: format.kvvml.get(),
                max_keys: format.mnks.get(),
            });
            found.kind = Kind::Kv {
                kv: Kv {
                    format: usize::from(data.kvfc & 0x0f),
                    formats: formats.collect(),
                    optimal_value_granularity: data.novg.get(),
                    delete_missing_is_error,
                    pool: pool(controller, nsid).await?.map(Box::new),
                },
            };
        }
        Csi::NVM => {
            let data = controller.identify(Cns::NAMESPACE, nsid, Csi::NVM).await?;
            let data = IdentifyNamespace::ref_from_bytes(&data).ok().context("the Identify data are too short")?;
            let block_size = data.block_size().context("the LBA format has no block size")?;
            found.size = data.nsze.get().saturating_mul(block_size.into());
            found.used = data.nuse.get().saturating_mul(block_size.into());
            found.write_protected = data.nsattr & 1 != 0;
            found.kind = Kind::Nvm { nvm: Nvm { block_size, blocks: data.nsze.get() } };
        }
        _ => {}
    }
    Ok(found)
}

/// The statistics of the pool that a namespace lies in; none if it lies elsewhere, or the target is not kvof's.
async fn pool(controller: &Controller, nsid: u32) -> Result<Option<Pool>> {
    const LEN: usize = size_of::<PoolStatistics>();
    let command = GetLogPageCmd::new(LogId::POOL_STATISTICS, nsid, 0, LEN as u64).context("no such log page")?;
    let (completion, data) = controller.admin(command.to_sqe(), AdminData::FromController(LEN)).await?;
    if !completion.status.is_success() {
        return Ok(None);
    }
    // Other vendors have other pages under this identifier.
    Ok(PoolStatistics::from_bytes(&data).map(Pool::new))
}

impl Pool {
    fn new(page: &PoolStatistics) -> Self {
        let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let flags = page.flags();
        let running = |flag, done, of| flags.contains(flag).then_some((done, of));
        let counts_copies = page.version.get() >= 2;
        let (hits, misses) = (page.tier_hits.get(), page.tier_misses.get());
        Self {
            name: page.name().to_owned(),
            uuid: Uuid::from_bytes(page.uuid).to_string(),
            profile: format!("{}+{}", page.data_columns, page.parity_columns),
            shards: page.shards.get(),
            capacity: page.capacity.get(),
            live: page.live.get(),
            keys: page.keys.get(),
            index_bytes: page.index_bytes.get(),
            index_bytes_per_key: ratio(page.index_bytes.get(), page.keys.get()),
            stored_bytes: page.stored_bytes.get(),
            written_bytes: page.written_bytes.get(),
            write_amplification: ratio(page.written_bytes.get(), page.stored_bytes.get()),
            retrieved_bytes: page.retrieved_bytes.get(),
            copied_per_byte_stored: ratio(page.store_copied_bytes.get(), page.stored_bytes.get())
                .filter(|_| counts_copies),
            copied_per_byte_retrieved: ratio(page.retrieve_copied_bytes.get(), page.retrieved_bytes.get()),
            tier_used: page.tier_used.get(),
            tier_limit: page.tier_limit.get(),
            tier_hit_rate: ratio(hits, hits.saturating_add(misses)),
            evicted: page.evicted.get(),
            degraded_reads: page.degraded_reads.get(),
            damaged: page.damaged.get(),
            repaired: page.repaired.get(),
            unrecovered: page.unrecovered.get(),
            degraded: flags.contains(PoolFlags::DEGRADED),
            read_only: flags.contains(PoolFlags::READ_ONLY),
            rebuild: running(PoolFlags::REBUILD, page.rebuild_done.get(), page.rebuild_of.get()),
            scrub: running(PoolFlags::SCRUB, page.scrub_done.get(), page.scrub_of.get()),
            devices: page.member_states().map(|member| state(member.state())).collect(),
        }
    }

    /// The devices by their states: `4 live, 1 failed (3)`, with the places of those that are not live.
    fn devices(&self) -> String {
        let mut states: Vec<&str> = Vec::new();
        self.devices.iter().for_each(|state| {
            if !states.contains(state) {
                states.push(state);
            }
        });
        let of = |wanted: &str| {
            let places = self.devices.iter().enumerate().filter(|(_, state)| **state == wanted);
            let places: Vec<String> = places.map(|(place, _)| place.to_string()).collect();
            let named = if wanted == LIVE { String::new() } else { format!(" ({})", places.join(", ")) };
            format!("{} {wanted}{named}", places.len())
        };
        states.into_iter().map(of).collect::<Vec<_>>().join(", ")
    }

    fn section(&self) -> Section {
        let index = match self.index_bytes_per_key {
            // What an index has from the start says nothing of a key's share.
            Some(each) if self.keys >= MANY_KEYS => {
                format!("{each:.1} B/key, {} for {} keys", size(self.index_bytes), self.keys)
            }
            _ => format!("{} for {} keys", size(self.index_bytes), self.keys),
        };
        let amplification = match self.write_amplification {
            Some(ratio) => {
                format!("{ratio:.2}, {} written for {} stored", size(self.written_bytes), size(self.stored_bytes))
            }
            None => "nothing stored yet".to_owned(),
        };
        let tier = match (self.tier_limit, self.tier_hit_rate) {
            (0, _) => "none".to_owned(),
            (limit, None) => format!("{} of {}, nothing read yet", size(self.tier_used), size(limit)),
            (limit, Some(rate)) => {
                format!("{} of {}, hit rate {:.1}%", size(self.tier_used), size(limit), rate * 100.0)
            }
        };
        let copies = match (self.copied_per_byte_stored, self.copied_per_byte_retrieved) {
            (None, None) => "not known yet".to_owned(),
            (stored, retrieved) => {
                let each = [(stored, "stored"), (retrieved, "retrieved")];
                let each = each.map(|(ratio, what)| ratio.map(|ratio| format!("{ratio:.3} for each byte {what}")));
                each.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
        };
        let health = match (self.read_only, self.degraded) {
            (true, _) => "takes no more changes",
            (false, true) => "degraded",
            (false, false) => "good",
        };
        let running = |pass: Option<(u64, u64)>| pass.map(|(done, of)| percent(done, of));
        let mut section = Section::new("\nPool")
            .field("name", &self.name)
            .field("profile", format_args!("{}, {} shards", self.profile, self.shards))
            .field("devices", self.devices())
            .field("health", health)
            .field("capacity", format_args!("{}, {} in use", size(self.capacity), percent(self.live, self.capacity)))
            .field("index", index)
            .field("write amplification", amplification)
            .field("bytes copied", copies)
            .field("memory tier", tier);
        if let Some(progress) = running(self.rebuild) {
            section = section.field("rebuild", progress);
        }
        if let Some(progress) = running(self.scrub) {
            section = section.field("scrub", progress);
        }
        if self.evicted > 0 {
            section = section.field("evicted", format_args!("{} values", self.evicted));
        }
        if self.damaged + self.unrecovered > 0 {
            let Self { damaged, repaired, unrecovered, .. } = self;
            section = section.field(
                "damage",
                format_args!("{damaged} pieces found, {repaired} repaired; {unrecovered} reads failed"),
            );
        }
        section
    }
}

const LIVE: &str = "live";

/// Keys from which on the index's bytes for each are worth telling.
const MANY_KEYS: u64 = 10_000;

fn state(state: PoolMemberState) -> &'static str {
    match state {
        PoolMemberState::LIVE => LIVE,
        PoolMemberState::FAILED => "failed or missing",
        PoolMemberState::REBUILDING => "being filled",
        _ => "in an unknown state",
    }
}

fn rdma_connection(path: &RdmaPath) -> RdmaConnection {
    let keys = match path.keys {
        KeyProtection::Windows => "memory windows",
        KeyProtection::Registrations => "registrations for each command",
        _ => "unknown means",
    };
    RdmaConnection { device: path.device.clone(), keys }
}

fn print(info: &Info, digests: &str, output: &mut Output) -> Result<()> {
    let Info { controller, limits, connection, namespaces } = info;
    output.line(
        Section::new("Controller")
            .field("address", &controller.address)
            .field("subsystem", &controller.subnqn)
            .field("model", &controller.model)
            .field("serial number", &controller.serial)
            .field("firmware", &controller.firmware)
            .field("NVMe version", &controller.version)
            .field("controller ID", format_args!("{}, {}", controller.cntlid, controller.kind)),
    )?;
    let max_transfer = limits.max_transfer.map_or("no limit".to_owned(), |bytes| size(bytes.into()));
    let maxcmd = if limits.maxcmd == 0 { "not reported".to_owned() } else { limits.maxcmd.to_string() };
    let keep_alive = match (limits.keep_alive_granularity_ms, limits.traffic_based_keep_alive) {
        (0, _) => "not supported".to_owned(),
        (ms, true) => format!("in steps of {ms} ms, any command counts"),
        (ms, false) => format!("in steps of {ms} ms"),
    };
    output.line(
        Section::new("\nLimits")
            .field("data of a command", format_args!("{max_transfer} (MDTS {})", limits.mdts))
            .field("data in the capsule", format_args!("{} (IOCCSZ {})", size(limits.in_capsule.into()), limits.ioccsz))
            .field("commands on a queue", format_args!("{maxcmd} (MAXCMD)"))
            .field("Keep Alive", keep_alive),
    )?;
    let transport = match &connection.rdma {
        Some(RdmaConnection { device, keys }) => {
            format!("{} through {device}, keys by {keys}", connection.transport)
        }
        None => connection.transport.to_owned(),
    };
    let keep_alive = match connection.keep_alive_ms {
        0 => "none".to_owned(),
        ms => format!("{} s", ms as f64 / 1e3),
    };
    output.line(
        Section::new("\nConnection")
            .field("transport", transport)
            .field("host", &connection.hostnqn)
            .field("host ID", &connection.hostid)
            .field("I/O queues", format_args!("{} of {} asked for", connection.io_queues, connection.io_queues_asked))
            .field("queue depth", connection.queue_depth)
            .field("digests", digests)
            .field("Keep Alive Timeout", keep_alive),
    )?;
    output.line("\nNamespaces")?;
    if namespaces.is_empty() {
        return Ok(output.line("  none for this host")?);
    }
    let mut table = Table::new(&[
        ("NSID", Align::Right),
        ("KIND", Align::Left),
        ("SIZE", Align::Right),
        ("USED", Align::Right),
        ("FORMAT", Align::Left),
        ("IDENTIFIER", Align::Left),
    ])
    .indented(2);
    for namespace in namespaces {
        let used = format!("{} ({})", size(namespace.used), percent(namespace.used, namespace.size));
        let identifier = namespace.uuid.clone().or(namespace.nguid.clone()).or(namespace.eui64.clone());
        table.row(vec![
            namespace.nsid.to_string(),
            namespace.command_set.clone(),
            size(namespace.size),
            used,
            format(namespace),
            identifier.unwrap_or_default(),
        ]);
    }
    output.line(table)?;
    let mut told: Vec<&str> = Vec::new();
    for namespace in namespaces {
        if let Kind::Kv { kv: Kv { pool: Some(pool), .. } } = &namespace.kind
            && !told.contains(&pool.uuid.as_str())
        {
            told.push(&pool.uuid);
            output.line(pool.section())?;
        }
    }
    Ok(())
}

fn format(namespace: &Namespace) -> String {
    let mut text = match &namespace.kind {
        Kind::Kv { kv } => {
            let mut text = match kv.formats.get(kv.format) {
                Some(format) => {
                    let keys = if format.max_keys == 0 { String::new() } else { format!(", {} keys", format.max_keys) };
                    let value = size(format.max_value.into());
                    format!("keys to {} B, values to {value}{keys}", format.max_key)
                }
                None => format!("format {}, which is not described", kv.format),
            };
            if kv.delete_missing_is_error == Some(true) {
                text.push_str(", EDNEK");
            }
            text
        }
        Kind::Nvm { nvm } => format!("{} blocks of {}", nvm.blocks, size(nvm.block_size.into())),
        Kind::Other {} => String::new(),
    };
    if namespace.write_protected {
        text.push_str(", write protected");
    }
    text
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => match part as f64 * 100.0 / whole as f64 {
            0.0 => "0%".to_owned(),
            p if p < 0.1 => "<0.1%".to_owned(),
            100.0 => "100%".to_owned(),
            p => format!("{p:.1}%"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_in_words() {
        let mut page = PoolStatistics::zeroed();
        page.members = 3.into();
        page.name[..5].copy_from_slice(b"flash");
        page.flags = (PoolFlags::DEGRADED | PoolFlags::REBUILD).bits().into();
        (page.rebuild_done, page.rebuild_of) = (1.into(), 4.into());
        (page.keys, page.index_bytes) = (10_000.into(), 298_000.into());
        (page.stored_bytes, page.written_bytes) = (1000.into(), 1300.into());
        (page.version, page.store_copied_bytes, page.retrieved_bytes) = (2.into(), 4.into(), 77.into());
        (page.tier_hits, page.tier_misses, page.tier_limit) = (3.into(), 1.into(), 4096.into());
        for (member, state) in
            page.member.iter_mut().zip([PoolMemberState::LIVE, PoolMemberState::REBUILDING, PoolMemberState(77)])
        {
            member.state = state.0;
        }
        let pool = Pool::new(&page);
        assert_eq!(pool.devices(), "1 live, 1 being filled (1), 1 in an unknown state (2)");
        let text = pool.section().to_string();
        for part in [
            "flash",
            "29.8 B/key",
            "1.30, ",
            "0.004 for each byte stored, 0.000 for each byte retrieved",
            "hit rate 75.0%",
            "degraded",
            "25.0%",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let empty = Pool::new(&PoolStatistics::zeroed()).section().to_string();
        for part in ["0 B for 0 keys", "nothing stored yet", "none"] {
            assert!(empty.contains(part), "{part} is not in {empty}");
        }
    }

    #[test]
    fn percentages() {
        assert_eq!(
            [percent(0, 10), percent(1, 100_000), percent(1, 3), percent(2, 2), percent(1, 0)],
            ["0%", "<0.1%", "33.3%", "100%", "-"]
        );
    }
}

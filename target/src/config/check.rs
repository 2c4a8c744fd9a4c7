//! From the tables of a file to what the target runs on: every rule beyond the form of single values.
//!
//! All problems are collected, so that one attempt shows them all.

use std::{collections::HashMap, ops::Range, path::Path, time::Duration};

use kvof_spec::nqn::Nqn;
use toml::Spanned;

use super::{
    Config,
    address::{self, Resolve},
    error::{Problem, Source},
    ids,
    machine::Machine,
    namespace, pool,
    settings::{Limits, LogSettings, RdmaSettings, Settings, TcpSettings},
    tables::{File, LimitsTable, PortTable, RdmaTable, SubsystemTable, TcpTable},
    value::{Cores, Hosts, OptionValue, Size, Span},
};
use crate::model::{PoolDef, PortDef, ReferralDef, SubsystemDef, TargetDef, TransportKind};

/// Ports of discovery services and of subsystems when an address names none (as registered with IANA).
const PORT_IO: u16 = 4420;
const PORT_DISCOVERY: u16 = 8009;

/// Bounds of `limits.transfer`, bytes.
const TRANSFER: (u64, u64) = (8 << 10, 256 << 20);

/// Bounds of `rdma.receive_memory`, bytes.
const RECEIVE_MEMORY: (u64, u64) = (1 << 20, 64 << 30);

const MAX_TIMEOUT: Duration = Duration::from_secs(600);
const MIN_TIMEOUT: Duration = Duration::from_millis(100);

/// What the checks need to know of the world.
#[derive(Clone, Copy)]
pub(super) struct World<'a> {
    pub(super) machine: &'a Machine,
    /// Folder at which relative paths start.
    pub(super) folder: &'a Path,
    pub(super) resolve: &'a Resolve,
}

/// Collects problems.
pub(super) struct Checker<'a> {
    source: Source<'a>,
    pub(super) world: World<'a>,
    pub(super) problems: Vec<Problem>,
    /// Those of the file, and then those of namespaces with a file of their own.
    pub(super) pools: Vec<PoolDef>,
}

/// Checks `file`, which was read from `source`.
pub(super) fn check(file: &File, source: Source<'_>, world: World<'_>) -> Result<Config, Vec<Problem>> {
    let mut checker = Checker { source, world, problems: Vec::new(), pools: Vec::new() };
    let settings = checker.settings(file);
    let mut seen = namespace::Seen::default();
    checker.pools = checker.pools(&file.pool, &mut seen);
    let ports = checker.ports(file);
    let subsystems = checker.subsystems(file, settings.limits.transfer, &mut seen);
    let referrals = checker.referrals(file);
    let pools = std::mem::take(&mut checker.pools);
    let target = TargetDef { ports, subsystems, referrals, pools };
    checker.memory(file, &settings, &target);
    let mut problems = checker.problems;
    if problems.is_empty() {
        return Ok(Config { settings, target });
    }
    problems.sort_by_key(|p| p.place.as_ref().map(|place| (place.line, place.column)));
    Err(problems)
}

impl Checker<'_> {
    /// Notes that `value`, the value of `key`, is wrong.
    pub(super) fn fault<T: OptionValue>(&mut self, key: &str, value: &Spanned<T>, message: impl Into<String>) {
        self.fault_at(key, &value.span(), value.get_ref().to_toml(), message);
    }

    /// Notes that something at `span` is wrong; `value` may be empty.
    pub(super) fn fault_at(&mut self, key: &str, span: &Range<usize>, value: String, message: impl Into<String>) {
        self.problems.push(self.source.value_problem(key.to_owned(), span, value, message.into()));
    }

    /// The value, or a note that it is missing from the table at `table`.
    pub(super) fn required<'v, T: OptionValue>(
        &mut self,
        key: &str,
        value: Option<&'v Spanned<T>>,
        table: &Range<usize>,
    ) -> Option<&'v Spanned<T>> {
        if value.is_none() {
            self.fault_at(key, table, String::new(), format!("missing; it must be given: {}", T::VALUES));
        }
        value
    }

    /// A name, or a note of what is wrong with it.
    pub(super) fn nqn(&mut self, key: &str, text: &Spanned<String>) -> Option<Nqn> {
        match text.get_ref().parse() {
            Ok(nqn) => Some(nqn),
            Err(error) => {
                self.fault(key, text, format!("{error}"));
                None
            }
        }
    }

    /// `size` as 32 bits if it is within `least` and `most` and a multiple of `step`.
    pub(super) fn size(&mut self, key: &str, size: &Spanned<Size>, (least, most, step): (u64, u64, u64)) -> u32 {
        let bytes = size.get_ref().0;
        if bytes < least || bytes > most || !bytes.is_multiple_of(step) {
            let multiple = if step > 1 { format!(", and be a multiple of {step} bytes") } else { String::new() };
            let text = format!("must be from {} to {}{multiple}", Size(least), Size(most));
            self.fault(key, size, text);
        }
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    fn number(&mut self, key: &str, number: &Spanned<u32>, least: u32, most: u32) -> u32 {
        if !(least..=most).contains(number.get_ref()) {
            self.fault(key, number, format!("must be from {least} to {most}"));
        }
        *number.get_ref()
    }

    fn short(&mut self, key: &str, number: &Spanned<u32>, least: u16, most: u16) -> u16 {
        u16::try_from(self.number(key, number, least.into(), most.into())).unwrap_or(most)
    }

    fn span(&mut self, key: &str, span: &Spanned<Span>, least: Duration, most: Duration) -> Duration {
        if !(least..=most).contains(&span.get_ref().0) {
            self.fault(key, span, format!("must be from {} to {}", Span(least), Span(most)));
        }
        span.get_ref().0
    }

    fn settings(&mut self, file: &File) -> Settings {
        let reactor = &file.reactor;
        let cores = reactor.cores();
        let limits = self.limits(&file.limits);
        Settings {
            cpus: self.cpus(&cores),
            cores: cores.into_inner(),
            busy_poll: self.span("reactor.busy_poll", &reactor.busy_poll(), Duration::ZERO, Duration::from_secs(1)),
            memory: reactor.memory().get_ref().0,
            tcp: self.tcp(&file.tcp),
            rdma: self.rdma(&file.rdma, limits.queue_size),
            limits,
            log: self.log(file),
            drain_timeout: self.span("daemon.drain_timeout", &file.daemon.drain_timeout(), Duration::ZERO, MAX_TIMEOUT),
        }
    }

    fn cpus(&mut self, cores: &Spanned<Cores>) -> Vec<usize> {
        let have = &self.world.machine.cpus;
        let names = super::machine::ranges(have);
        match cores.get_ref() {
            Cores::All => have.clone(),
            Cores::Count(count) if *count <= have.len() => have.iter().copied().take(*count).collect(),
            Cores::Count(_) => {
                let text = format!("this process may use {} processors ({names}); ask for at most as many", have.len());
                self.fault("reactor.cores", cores, text);
                Vec::new()
            }
            Cores::List(list) => {
                let mut seen = Vec::new();
                for cpu in list {
                    if !have.contains(cpu) {
                        let text = format!("there is no processor {cpu} that this process may use; it has {names}");
                        self.fault("reactor.cores", cores, text);
                    } else if seen.contains(cpu) {
                        self.fault("reactor.cores", cores, format!("processor {cpu} is named twice; name it once"));
                    }
                    seen.push(*cpu);
                }
                seen
            }
        }
    }

    fn limits(&mut self, table: &LimitsTable) -> Limits {
        let transfer = table.transfer();
        let (least, most) = TRANSFER;
        let bytes = self.size("limits.transfer", &transfer, (least, most, 4 << 10));
        if (least..=most).contains(&bytes.into()) && bytes.is_multiple_of(4 << 10) && !bytes.is_power_of_two() {
            let text = format!("must be a power of two; {} is the next", Size(u64::from(bytes.next_power_of_two())));
            self.fault("limits.transfer", &transfer, text);
        }
        Limits {
            connections: self.number("limits.connections", &table.connections(), 2, 1 << 20),
            controllers: self.short("limits.controllers", &table.controllers(), 1, 0xFFEF),
            io_queues: self.short("limits.io_queues", &table.io_queues(), 1, 0xFFFE),
            queue_size: self.short("limits.queue_size", &table.queue_size(), 2, 4096),
            transfer: bytes,
            association_timeout: self.span(
                "limits.association_timeout",
                &table.association_timeout(),
                Duration::from_secs(1),
                Duration::from_secs(3600),
            ),
        }
    }

    fn tcp(&mut self, table: &TcpTable) -> TcpSettings {
        let max_r2t = self.number("tcp.max_r2t", &table.max_r2t(), 1, 4);
        TcpSettings {
            in_capsule: self.size("tcp.in_capsule", &table.in_capsule(), (0, 1 << 20, 16)),
            max_h2c_data: self.size("tcp.max_h2c_data", &table.max_h2c_data(), (4 << 10, 64 << 20, 4)),
            max_r2t: u8::try_from(max_r2t).unwrap_or(u8::MAX),
            header_digest: table.header_digest().into_inner(),
            data_digest: table.data_digest().into_inner(),
            handshake_timeout: self.span("tcp.handshake_timeout", &table.handshake_timeout(), MIN_TIMEOUT, MAX_TIMEOUT),
            pdu_timeout: self.span("tcp.pdu_timeout", &table.pdu_timeout(), MIN_TIMEOUT, MAX_TIMEOUT),
        }
    }

    fn rdma(&mut self, table: &RdmaTable, queue_size: u16) -> RdmaSettings {
        let receive_memory = table.receive_memory();
        let (least, most) = RECEIVE_MEMORY;
        let settings = RdmaSettings {
            in_capsule: self.size("rdma.in_capsule", &table.in_capsule(), (0, 64 << 10, 16)),
            queue_size: self.short("rdma.queue_size", &table.queue_size(), 2, 4096),
            receive_memory: receive_memory.get_ref().0,
            handshake_timeout: self.span(
                "rdma.handshake_timeout",
                &table.handshake_timeout(),
                MIN_TIMEOUT,
                MAX_TIMEOUT,
            ),
        };
        let queue = settings.capsule_memory(settings.queue_size.min(queue_size));
        if !(least..=most).contains(&settings.receive_memory) {
            let text = format!("must be from {} to {}", Size(least), Size(most));
            self.fault("rdma.receive_memory", &receive_memory, text);
        } else if settings.receive_memory < queue {
            let text =
                format!("one I/O queue of the largest size takes {}; give more, or lower rdma.queue_size", Size(queue));
            self.fault("rdma.receive_memory", &receive_memory, text);
        }
        settings
    }

    fn log(&mut self, file: &File) -> LogSettings {
        let level = file.log.level();
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(level.get_ref()) {
            let text =
                format!("{error}; use error, warn, info, debug or trace, or directives such as info,kvof_target=debug");
            self.fault("log.level", &level, text);
        }
        LogSettings { level: level.into_inner(), format: file.log.format().into_inner() }
    }

    fn ports(&mut self, file: &File) -> Vec<PortDef> {
        let mut ports: Vec<PortDef> = Vec::new();
        if file.port.is_empty() {
            let text = "missing; give at least one [[port]] with an address such as \"0.0.0.0:4420\"";
            self.fault_at("port", &(0..0), String::new(), text);
        }
        for (index, table) in file.port.iter().enumerate() {
            let key = format!("port[{index}].address");
            let port = table.get_ref();
            let advertise = port.advertise.as_ref().map(|text| self.advertise(index, text));
            let Some(text) = self.required(&key, port.address.as_ref(), &table.span()) else { continue };
            let (named, rest) = address::split_transport(text.get_ref());
            let transport = self.transport(index, port, named);
            let addresses = match address::resolve(rest, PORT_IO, self.world.resolve) {
                Ok(addresses) => addresses,
                Err(error) => {
                    self.fault(&key, text, error.to_string());
                    continue;
                }
            };
            for listen in addresses {
                let same = |port: &PortDef| port.listen == listen && port.transport == transport;
                // Port 0 is another free port each time.
                if listen.port() != 0 && ports.iter().any(same) {
                    let message = format!("another port listens on {transport}://{listen} already; remove one of them");
                    self.fault(&key, text, message);
                    continue;
                }
                let Ok(portid) = u16::try_from(ports.len() + 1) else {
                    self.fault(&key, text, "too many ports; at most 65535 are possible");
                    return ports;
                };
                ports.push(PortDef { portid, transport, listen, advertise: advertise.clone() });
            }
        }
        ports
    }

    /// The transport of a port, whose address may begin with one.
    fn transport(&mut self, index: usize, port: &PortTable, named: Option<TransportKind>) -> TransportKind {
        let Some(given) = &port.transport else { return named.unwrap_or_default() };
        if let Some(named) = named.filter(|&named| named != given.get_ref().0) {
            let text = format!("the address of this port begins with {named}://; remove one of the two");
            self.fault(&format!("port[{index}].transport"), given, text);
        }
        given.get_ref().0
    }

    fn advertise(&mut self, index: usize, text: &Spanned<String>) -> String {
        let address = text.get_ref();
        if address.parse::<std::net::IpAddr>().is_err() && !address::is_host_name(address) {
            let key = format!("port[{index}].advertise");
            self.fault(&key, text, "neither an IP address nor a host name; give one, without a port");
        }
        address.clone()
    }

    fn referrals(&mut self, file: &File) -> Vec<ReferralDef> {
        let mut referrals = Vec::new();
        for (index, table) in file.referral.iter().enumerate() {
            let key = format!("referral[{index}]");
            let referral = table.get_ref();
            let portid = self.number(&format!("{key}.portid"), &referral.portid(), 0, 65535);
            let key = format!("{key}.address");
            let Some(text) = self.required(&key, referral.address.as_ref(), &table.span()) else { continue };
            let (transport, rest) = address::split_transport(text.get_ref());
            match address::resolve(rest, PORT_DISCOVERY, self.world.resolve) {
                Ok(addresses) => {
                    let (transport, portid) =
                        (transport.unwrap_or_default(), u16::try_from(portid).unwrap_or_default());
                    referrals.extend(addresses.first().map(|&traddr| ReferralDef { transport, traddr, portid }));
                }
                Err(error) => self.fault(&key, text, error.to_string()),
            }
        }
        referrals
    }

    fn subsystems(&mut self, file: &File, transfer: u32, seen: &mut namespace::Seen) -> Vec<SubsystemDef> {
        let mut subsystems = Vec::new();
        let mut nqns = HashMap::new();
        for (index, table) in file.subsystem.iter().enumerate() {
            let key = format!("subsystem[{index}]");
            let subsystem = table.get_ref();
            let nqn_key = format!("{key}.nqn");
            let text = self.required(&nqn_key, subsystem.nqn.as_ref(), &table.span());
            let nqn = text.and_then(|text| {
                let nqn = self.nqn(&nqn_key, text)?;
                if nqn.is_discovery() {
                    self.fault(
                        &nqn_key,
                        text,
                        "this name belongs to the discovery service, which always exists; choose another",
                    );
                } else if let Some(first) = nqns.insert(nqn.clone(), index) {
                    self.fault(&nqn_key, text, format!("subsystem[{first}] has this name already; choose another"));
                }
                Some(nqn)
            });
            let allowed_hosts = self.allowed_hosts(&key, subsystem, &table.span());
            let serial = match &subsystem.serial {
                Some(serial) => self.ascii(&format!("{key}.serial"), serial, 20),
                None => ids::serial(nqn.as_ref().map_or("", Nqn::as_str)),
            };
            let model = self.ascii(&format!("{key}.model"), &subsystem.model(), 40);
            // Namespaces are checked even if the subsystem has no name, to show their problems too.
            let name = nqn.as_ref().map_or("", Nqn::as_str);
            let namespaces = self.namespaces(&key, name, &subsystem.namespace, transfer, seen);
            if let Some(nqn) = nqn {
                subsystems.push(SubsystemDef { nqn, serial, model, allowed_hosts, namespaces });
            }
        }
        subsystems
    }

    fn allowed_hosts(&mut self, key: &str, table: &SubsystemTable, span: &Range<usize>) -> Option<Vec<Nqn>> {
        let key = format!("{key}.allowed_hosts");
        match self.required(&key, table.allowed_hosts.as_ref(), span)?.get_ref() {
            Hosts::Any => None,
            Hosts::List(list) => {
                let mut hosts = Vec::new();
                for (index, text) in list.iter().enumerate() {
                    let key = format!("{key}[{index}]");
                    if let Some(nqn) = self.nqn(&key, text) {
                        if hosts.contains(&nqn) {
                            self.fault(&key, text, "this host is in the list already; name it once");
                        }
                        hosts.push(nqn);
                    }
                }
                Some(hosts)
            }
        }
    }

    fn ascii(&mut self, key: &str, text: &Spanned<String>, most: usize) -> String {
        let value = text.get_ref();
        let printable = value.bytes().all(|b| (0x20..0x7F).contains(&b));
        if value.trim().is_empty() || value.len() > most || !printable {
            self.fault(key, text, format!("must have 1 to {most} printable ASCII characters"));
        }
        value.clone()
    }

    /// Memory that is asked for against what the machine has.
    fn memory(&mut self, file: &File, settings: &Settings, target: &TargetDef) {
        let memory = file.reactor.memory();
        let cores = u64::try_from(settings.cpus.len().max(1)).unwrap_or(1);
        let least = u64::from(settings.limits.transfer).saturating_mul(2).saturating_mul(cores);
        if settings.memory < least {
            let text = format!(
                "must be at least {}: two commands of limits.transfer ({}) for each of {cores} cores",
                Size(least),
                Size(u64::from(settings.limits.transfer)),
            );
            self.fault("reactor.memory", &memory, text);
        }
        let namespaces: u64 = target.memory_namespaces().fold(0, u64::saturating_add);
        let pools: u64 = target.pools.iter().map(pool::memory).fold(0, u64::saturating_add);
        let uses_rdma = target.ports.iter().any(|port| port.transport == TransportKind::Rdma);
        let receive = if uses_rdma { settings.rdma.receive_memory.saturating_mul(cores) } else { 0 };
        let wanted = namespaces.saturating_add(settings.memory).saturating_add(pools).saturating_add(receive);
        if let Some(have) = self.world.machine.memory.filter(|&have| wanted > have) {
            let text = format!(
                "with the memory namespaces ({}), the pools' index, tier and scratch ({}) and the receive buffers of RDMA \
                 ({}) this is {} in all, but the machine has {}; make one of them smaller",
                rounded(namespaces),
                rounded(pools),
                rounded(receive),
                rounded(wanted),
                rounded(have),
            );
            self.fault("reactor.memory", &memory, text);
        }
    }
}

/// Bytes for people: in MiB from there up, since the machine's memory is no round number.
fn rounded(bytes: u64) -> Size {
    if bytes < 1 << 20 { Size(bytes) } else { Size(bytes >> 20 << 20) }
}

impl TargetDef {
    /// Sizes of the namespaces that lie in memory, bytes.
    fn memory_namespaces(&self) -> impl Iterator<Item = u64> {
        use crate::model::{KvStorageDef, NamespaceKindDef, StorageDef};
        self.subsystems.iter().flat_map(|s| &s.namespaces).filter_map(|namespace| match &namespace.kind {
            NamespaceKindDef::Kv { size, storage: KvStorageDef::Memory, .. }
            | NamespaceKindDef::Nvm { size, storage: StorageDef::Memory, .. } => Some(*size),
            _ => None,
        })
    }
}

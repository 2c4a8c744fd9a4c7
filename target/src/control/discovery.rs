//! The Discovery log page (section 5.16.1): what the asking host may connect to, and by which addresses.

use std::net::{IpAddr, SocketAddr};

use kvof_spec::{
    IntoBytes, Nqn, Status,
    log::{
        AddressFamily, DISCOVERY_RECORD_SIZE, DiscoveryEntry, DiscoveryFlags, DiscoveryHeader, SubsystemType,
        TransportRequirements, TransportType,
    },
    text,
};

use super::{TargetLimits, controller::Controller, registry::Registry};
use crate::model::{PortDef, TransportKind};

/// The page as one host sees it over one connection.
#[derive(Debug)]
pub(super) struct DiscoveryPage {
    genctr: u64,
    limits: TargetLimits,
    records: Vec<Record>,
}

/// An entry, not laid out yet.
#[derive(Debug)]
struct Record {
    subtype: SubsystemType,
    subnqn: Nqn,
    transport: TransportKind,
    address: SocketAddr,
    /// Name to use instead of the address's IP.
    name: Option<String>,
    portid: u16,
    eflags: DiscoveryFlags,
}

impl DiscoveryPage {
    /// The page for the host of `controller`.
    pub(super) fn new(registry: &Registry, controller: &Controller) -> Self {
        let local = controller.transport.local;
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        registry.with(|state| {
            let ports: Vec<_> = state
                .ports
                .iter()
                .filter_map(|port| {
                    let (address, name) = reachable(port, local, controller.transport.portid)?;
                    Some((port.portid, port.transport, address, name))
                })
                .collect();
            let mut own = DiscoveryFlags::EXPLICIT_PERSISTENT_CONNECTION;
            own.set(DiscoveryFlags::DUPLICATE_RETURNED_INFORMATION, ports.len() > 1);
            let itself = (SubsystemType::CURRENT_DISCOVERY, Nqn::discovery(), own);
            let subsystems = state
                .subsystems
                .values()
                .filter(|subsystem| subsystem.allows(&controller.hostnqn))
                .map(|subsystem| (SubsystemType::NVM, subsystem.nqn.clone(), DiscoveryFlags::empty()));
            let local_records = std::iter::once(itself).chain(subsystems).flat_map(|(subtype, subnqn, eflags)| {
                ports.iter().map(move |(portid, transport, address, name)| Record {
                    subtype,
                    subnqn: subnqn.clone(),
                    transport: *transport,
                    address: *address,
                    name: name.clone(),
                    portid: *portid,
                    eflags,
                })
            });
            let referrals = state.referrals.iter().map(|referral| Record {
                subtype: SubsystemType::REFERRAL,
                subnqn: Nqn::discovery(),
                transport: referral.transport,
                address: referral.traddr,
                name: None,
                portid: referral.portid,
                eflags: DiscoveryFlags::empty(),
            });
            Self {
                genctr: state.genctr,
                limits: registry.limits.clone(),
                records: local_records.chain(referrals).collect(),
            }
        })
    }

    /// `length` bytes from byte `offset`, zeros after the last entry.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Status> {
        let record_size = DISCOVERY_RECORD_SIZE as u64;
        let end = (self.records.len() as u64 + 1) * record_size;
        if offset > end {
            return Err(Status::INVALID_FIELD);
        }
        // Record 0 is the header. Only those that overlap with what is asked for are laid out.
        let mut data = Vec::with_capacity(length);
        let mut skip = usize::try_from(offset % record_size).unwrap_or(0);
        let mut index = usize::try_from(offset / record_size).unwrap_or(usize::MAX);
        while data.len() < length && index <= self.records.len() {
            let left = length - data.len();
            let record = match index.checked_sub(1).and_then(|i| self.records.get(i)) {
                None => DiscoveryHeader::new(self.genctr, self.records.len() as u64).as_bytes().to_vec(),
                Some(record) => record.entry(self.limits.admin_entries(record.transport)).as_bytes().to_vec(),
            };
            data.extend(record.into_iter().skip(skip).take(left));
            skip = 0;
            index += 1;
        }
        data.resize(length, 0);
        Ok(data)
    }
}

impl Record {
    fn entry(&self, asqsz: u16) -> DiscoveryEntry {
        let trtype = match self.transport {
            TransportKind::Tcp => TransportType::TCP,
            TransportKind::Rdma => TransportType::RDMA,
        };
        let mut entry = DiscoveryEntry::ip(trtype, self.subtype, &self.subnqn, self.address, self.portid);
        // "Not specified" rather than "not required": nvme-cli has a name for this one together with the flow control bit.
        entry.treq = TransportRequirements::DISABLE_SQ_FLOW_CONTROL.bits();
        entry.asqsz = asqsz.into();
        entry.eflags = self.eflags.bits().into();
        if let Some(Ok(name)) = self.name.as_deref().map(text::to_field) {
            entry.traddr = name;
        }
        debug_assert!(matches!(entry.adrfam(), AddressFamily::IPV4 | AddressFamily::IPV6));
        entry
    }
}

/// How a host that came by `local`, an address of port `portid`, reaches `port`: an address, and the name that stands for
/// its IP if one is advertised. `None` if nothing is known that it could reach.
fn reachable(port: &PortDef, local: SocketAddr, portid: u16) -> Option<(SocketAddr, Option<String>)> {
    let same = port.portid == portid;
    let service = match port.listen.port() {
        // The system chose one, which only a connection to it tells.
        0 if same => local.port(),
        0 => return None,
        service => service,
    };
    if let Some(advertise) = &port.advertise {
        return Some(match advertise.parse::<IpAddr>() {
            Ok(ip) => (SocketAddr::new(ip, service), None),
            Err(_) => (SocketAddr::new(port.listen.ip(), service), Some(advertise.clone())),
        });
    }
    if !port.listen.ip().is_unspecified() {
        return Some((SocketAddr::new(port.listen.ip(), service), None));
    }
    // It listens on every address of this machine, so on the one that the host came by, if that is of its family.
    if port.listen.is_ipv4() && local.is_ipv6() {
        return None;
    }
    // No device carries RDMA to a loopback address.
    if port.transport == TransportKind::Rdma && local.ip().is_loopback() {
        return None;
    }
    Some((SocketAddr::new(local.ip(), service), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(portid: u16, listen: &str, advertise: Option<&str>) -> PortDef {
        let (transport, listen) = (TransportKind::Tcp, listen.parse().unwrap());
        PortDef { portid, transport, listen, advertise: advertise.map(Into::into) }
    }

    fn rdma(portid: u16, listen: &str, advertise: Option<&str>) -> PortDef {
        PortDef { transport: TransportKind::Rdma, ..port(portid, listen, advertise) }
    }

    #[test]
    fn addresses_that_the_host_can_use() {
        let v4 = "192.0.2.1:4420".parse().unwrap();
        let v6 = "[2001:db8::1]:4420".parse().unwrap();
        let plain =
            |port: PortDef, local| reachable(&port, local, 1).map(|(address, name)| (address.to_string(), name));
        let some = |text: &str| Some((text.to_owned(), None));
        assert_eq!(plain(port(1, "198.51.100.7:4420", None), v4), some("198.51.100.7:4420"));
        assert_eq!(plain(port(1, "0.0.0.0:4420", None), v4), some("192.0.2.1:4420"));
        assert_eq!(plain(port(2, "0.0.0.0:8009", None), v4), some("192.0.2.1:8009"));
        assert_eq!(plain(port(2, "0.0.0.0:8009", None), v6), None);
        assert_eq!(plain(port(1, "[::]:4420", None), v6), some("[2001:db8::1]:4420"));
        assert_eq!(plain(port(1, "0.0.0.0:0", None), v4), some("192.0.2.1:4420"));
        assert_eq!(plain(port(2, "0.0.0.0:0", None), v4), None);
        assert_eq!(plain(port(2, "0.0.0.0:4420", Some("203.0.113.9")), v4), some("203.0.113.9:4420"));
        let named = plain(port(2, "0.0.0.0:4420", Some("kv.example.com")), v4);
        assert_eq!(named, Some(("0.0.0.0:4420".into(), Some("kv.example.com".into()))));
        // A host that came by TCP reaches RDMA at the same address of this machine, except where no device carries it.
        assert_eq!(plain(rdma(2, "0.0.0.0:4420", None), v4), some("192.0.2.1:4420"));
        assert_eq!(plain(rdma(2, "[::]:4421", None), v6), some("[2001:db8::1]:4421"));
        let loopback = "127.0.0.1:8009".parse().unwrap();
        assert_eq!(plain(rdma(2, "0.0.0.0:4420", None), loopback), None);
        assert_eq!(plain(port(2, "0.0.0.0:4420", None), loopback), some("127.0.0.1:4420"));
        assert_eq!(plain(rdma(2, "198.51.100.7:4420", None), loopback), some("198.51.100.7:4420"));
        assert_eq!(plain(rdma(2, "0.0.0.0:4420", Some("203.0.113.9")), loopback), some("203.0.113.9:4420"));
    }
}

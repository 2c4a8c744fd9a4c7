//! Discovery log page (LID 70h, section 5.16.1): a 1024-byte header and 1024-byte entries.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::nqn::NqnError;
use crate::text::{Shown, TextError, from_field, to_field};
use crate::{Nqn, U16, U64};

/// Bytes of the header and of each entry.
pub const DISCOVERY_RECORD_SIZE: usize = 1024;

open_enum! {
    /// Transport Type (TRTYPE).
    pub struct TransportType(u8) {
        /// NVMe/RDMA.
        RDMA = 0x01, "RDMA";
        /// NVMe over Fibre Channel.
        FIBRE_CHANNEL = 0x02, "Fibre Channel";
        /// NVMe/TCP.
        TCP = 0x03, "TCP";
        /// Within one host.
        LOOP = 0xfe, "Intra-host";
    }
}

open_enum! {
    /// Address Family (ADRFAM).
    pub struct AddressFamily(u8) {
        /// IPv4, dotted decimal.
        IPV4 = 0x01, "IPv4";
        /// IPv6, RFC 5952 text.
        IPV6 = 0x02, "IPv6";
        /// InfiniBand.
        INFINIBAND = 0x03, "InfiniBand";
        /// Fibre Channel.
        FIBRE_CHANNEL = 0x04, "Fibre Channel";
        /// Within one host.
        LOOP = 0xfe, "Intra-host";
    }
}

open_enum! {
    /// Subsystem Type (SUBTYPE).
    pub struct SubsystemType(u8) {
        /// A discovery service elsewhere, whose log page holds more.
        REFERRAL = 0x01, "referral to another Discovery subsystem";
        /// A subsystem with I/O controllers.
        NVM = 0x02, "NVM subsystem";
        /// The discovery subsystem that returns this page.
        CURRENT_DISCOVERY = 0x03, "current Discovery subsystem";
    }
}

open_enum! {
    /// Security Type (SECTYPE) of NVMe/TCP.
    pub struct TcpSecurityType(u8) {
        /// Plain TCP.
        NONE = 0x00, "no security";
        /// Obsolete.
        TLS_1_2 = 0x01, "TLS 1.2";
        /// TLS 1.3 or newer.
        TLS_1_3 = 0x02, "TLS 1.3";
    }
}

bitflags::bitflags! {
    /// Transport Requirements (TREQ).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct TransportRequirements: u8 {
        /// Bits 1:0 01b: a secure channel is required.
        const SECURE_CHANNEL_REQUIRED = 0b01;
        /// Bits 1:0 10b: a secure channel is not required.
        const SECURE_CHANNEL_NOT_REQUIRED = 0b10;
        /// Bit 2: SQ flow control can be disabled.
        const DISABLE_SQ_FLOW_CONTROL = 1 << 2;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Entry Flags (EFLAGS).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct DiscoveryFlags: u16 {
        /// DUPRETINFO: the same information is returned on other ports of this subsystem.
        const DUPLICATE_RETURNED_INFORMATION = 1 << 0;
        /// EPCSD: explicit persistent connections are supported.
        const EXPLICIT_PERSISTENT_CONNECTION = 1 << 1;
        const _ = !0;
    }
}

/// Header of the Discovery log page.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// GENCTR: generation counter; changes with the page.
    pub genctr: U64,
    /// NUMREC: entries.
    pub numrec: U64,
    /// RECFMT: 0.
    pub recfmt: U16,
    /// Reserved.
    pub rsvd18: [u8; 1006],
}
assert_layout!(DiscoveryHeader, 1024, genctr @ 0, numrec @ 8, recfmt @ 16, rsvd18 @ 18);
zeroed!(DiscoveryHeader);
impl_debug!(DiscoveryHeader, s => { genctr: s.genctr.get(), numrec: s.numrec.get(), recfmt: s.recfmt.get() });

impl DiscoveryHeader {
    /// A header of generation `genctr` before `numrec` entries.
    #[must_use]
    pub fn new(genctr: u64, numrec: u64) -> Self {
        Self { genctr: genctr.into(), numrec: numrec.into(), ..Self::zeroed() }
    }
}

/// One entry of the Discovery log page: a way to reach a subsystem.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// TRTYPE; see [`TransportType`].
    pub trtype: u8,
    /// ADRFAM; see [`AddressFamily`].
    pub adrfam: u8,
    /// SUBTYPE; see [`SubsystemType`].
    pub subtype: u8,
    /// TREQ; see [`TransportRequirements`].
    pub treq: u8,
    /// PORTID: the subsystem's port.
    pub portid: U16,
    /// CNTLID: FFFFh for the dynamic controller model.
    pub cntlid: U16,
    /// ASQSZ: most entries of the admin queue, 1's based, at least 32.
    pub asqsz: U16,
    /// EFLAGS; see [`DiscoveryFlags`].
    pub eflags: U16,
    /// Reserved.
    pub rsvd12: [u8; 20],
    /// TRSVCID: service identifier (port number), ASCII, padded with spaces.
    pub trsvcid: [u8; 32],
    /// Reserved.
    pub rsvd64: [u8; 192],
    /// SUBNQN: NVM subsystem NQN, UTF-8, NUL-terminated.
    pub subnqn: [u8; 256],
    /// TRADDR: address, ASCII, padded with spaces.
    pub traddr: [u8; 256],
    /// TSAS: transport specific; byte 0 is [`TcpSecurityType`] for TCP, see [`RdmaTsas`] for RDMA.
    pub tsas: [u8; 256],
}
assert_layout!(DiscoveryEntry, 1024,
    trtype @ 0, adrfam @ 1, subtype @ 2, treq @ 3, portid @ 4, cntlid @ 6, asqsz @ 8, eflags @ 10, trsvcid @ 32,
    subnqn @ 256, traddr @ 512, tsas @ 768);
zeroed!(DiscoveryEntry);
impl_debug!(DiscoveryEntry, s => {
    trtype: s.trtype(), adrfam: s.adrfam(), subtype: s.subtype(), treq: s.treq(), portid: s.portid.get(),
    cntlid: s.cntlid.get(), asqsz: s.asqsz.get(), eflags: s.eflags(), trsvcid: Shown(&s.trsvcid),
    subnqn: Shown(&s.subnqn), traddr: Shown(&s.traddr),
});

/// TSAS of an RDMA entry.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RdmaTsas {
    /// RDMA_QPTYPE: 1 reliable connected.
    pub qptype: u8,
    /// RDMA_PRTYPE: 1 no provider named, 2 InfiniBand, 3 RoCE, 4 RoCEv2, 5 iWARP.
    pub prtype: u8,
    /// RDMA_CMS: 1 RDMA_IP_CM.
    pub cms: u8,
    /// Reserved.
    pub rsvd3: [u8; 5],
    /// RDMA_PKEY: partition key.
    pub pkey: U16,
    /// Reserved.
    pub rsvd10: [u8; 246],
}
assert_layout!(RdmaTsas, 256, qptype @ 0, prtype @ 1, cms @ 2, pkey @ 8);
zeroed!(RdmaTsas);
impl_debug!(RdmaTsas, s => { qptype: s.qptype, prtype: s.prtype, cms: s.cms, pkey: s.pkey.get() });

impl RdmaTsas {
    /// Reliable connected queue pairs over RoCEv2, made with the RDMA connection manager.
    #[must_use]
    pub fn roce_v2() -> Self {
        Self { qptype: 1, prtype: 4, cms: 1, ..Self::zeroed() }
    }
}

/// Why an entry is not a usable IP address and port.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TransportAddressError {
    /// A field is not ASCII text.
    Text(TextError),
    /// TRADDR is not an address of the family in ADRFAM.
    Address {
        /// TRADDR.
        traddr: String,
        /// ADRFAM.
        adrfam: AddressFamily,
    },
    /// TRSVCID is not a port number.
    Service {
        /// TRSVCID.
        trsvcid: String,
    },
}

impl core::fmt::Display for TransportAddressError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Text(error) => write!(f, "transport address: {error}"),
            Self::Address { traddr, adrfam } => write!(f, "TRADDR {traddr:?} is not an address of family {adrfam}"),
            Self::Service { trsvcid } => write!(f, "TRSVCID {trsvcid:?} is not a port number (1 to 65535)"),
        }
    }
}

impl std::error::Error for TransportAddressError {}

impl DiscoveryEntry {
    /// An entry for `subnqn` of type `subtype`, reached over `trtype` at `address`: dynamic controllers, ASQSZ 32, no
    /// secure channel, port identifier `portid`.
    #[must_use]
    pub fn ip(
        trtype: TransportType,
        subtype: SubsystemType,
        subnqn: &Nqn,
        address: std::net::SocketAddr,
        portid: u16,
    ) -> Self {
        let tsas = match trtype {
            TransportType::RDMA => zerocopy::transmute!(RdmaTsas::roce_v2()),
            _ => [0; 256],
        };
        Self {
            trtype: trtype.0,
            adrfam: if address.is_ipv4() { AddressFamily::IPV4 } else { AddressFamily::IPV6 }.0,
            subtype: subtype.0,
            treq: TransportRequirements::SECURE_CHANNEL_NOT_REQUIRED.bits(),
            portid: portid.into(),
            cntlid: crate::fabrics::CNTLID_DYNAMIC.into(),
            asqsz: 32.into(),
            // Addresses and ports are short printable ASCII, so neither fails.
            trsvcid: to_field(&address.port().to_string()).unwrap_or([b' '; 32]),
            subnqn: subnqn.to_field(),
            traddr: to_field(&address.ip().to_string()).unwrap_or([b' '; 256]),
            tsas,
            ..Self::zeroed()
        }
    }

    /// The IP address and port.
    ///
    /// # Errors
    /// [`TransportAddressError`] if TRADDR or TRSVCID is not one, or the address is not of the family in ADRFAM.
    pub fn socket_addr(&self) -> Result<std::net::SocketAddr, TransportAddressError> {
        let traddr = self.traddr().map_err(TransportAddressError::Text)?;
        let trsvcid = self.trsvcid().map_err(TransportAddressError::Text)?;
        let ip = traddr.parse::<std::net::IpAddr>().ok().filter(|ip| match self.adrfam() {
            AddressFamily::IPV4 => ip.is_ipv4(),
            AddressFamily::IPV6 => ip.is_ipv6(),
            _ => false,
        });
        let ip =
            ip.ok_or_else(|| TransportAddressError::Address { traddr: traddr.to_owned(), adrfam: self.adrfam() })?;
        let port = trsvcid.parse::<u16>().ok().filter(|p| *p != 0);
        let port = port.ok_or_else(|| TransportAddressError::Service { trsvcid: trsvcid.to_owned() })?;
        Ok((ip, port).into())
    }

    /// Transport address.
    ///
    /// # Errors
    /// [`TextError`] if it is not printable ASCII.
    pub fn traddr(&self) -> Result<&str, TextError> {
        from_field(&self.traddr)
    }

    /// Transport service identifier.
    ///
    /// # Errors
    /// [`TextError`] if it is not printable ASCII.
    pub fn trsvcid(&self) -> Result<&str, TextError> {
        from_field(&self.trsvcid)
    }

    /// Subsystem NQN.
    ///
    /// # Errors
    /// [`NqnError`] if the field has no valid name.
    pub fn subnqn(&self) -> Result<Nqn, NqnError> {
        Nqn::from_field(&self.subnqn)
    }

    /// Transport type.
    #[must_use]
    pub const fn trtype(&self) -> TransportType {
        TransportType(self.trtype)
    }

    /// Address family.
    #[must_use]
    pub const fn adrfam(&self) -> AddressFamily {
        AddressFamily(self.adrfam)
    }

    /// Subsystem type.
    #[must_use]
    pub const fn subtype(&self) -> SubsystemType {
        SubsystemType(self.subtype)
    }

    /// Transport requirements, unknown bits kept.
    #[must_use]
    pub const fn treq(&self) -> TransportRequirements {
        TransportRequirements::from_bits_retain(self.treq)
    }

    /// Entry flags, unknown bits kept.
    #[must_use]
    pub const fn eflags(&self) -> DiscoveryFlags {
        DiscoveryFlags::from_bits_retain(self.eflags.get())
    }

    /// Security type of a TCP entry; `None` for any other transport.
    #[must_use]
    pub fn tcp_security(&self) -> Option<TcpSecurityType> {
        (self.trtype() == TransportType::TCP).then(|| TcpSecurityType(self.tsas.first().copied().unwrap_or(0)))
    }

    /// TSAS of an RDMA entry; `None` for any other transport.
    #[must_use]
    pub fn rdma(&self) -> Option<RdmaTsas> {
        (self.trtype() == TransportType::RDMA).then(|| zerocopy::transmute!(self.tsas))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: &str) -> DiscoveryEntry {
        let nqn = "nqn.2024-01.com.example:kv".parse().unwrap();
        DiscoveryEntry::ip(TransportType::TCP, SubsystemType::NVM, &nqn, address.parse().unwrap(), 1)
    }

    #[test]
    fn address_both_ways() {
        for text in ["192.0.2.1:4420", "[2001:db8::1]:8009"] {
            assert_eq!(entry(text).socket_addr().unwrap().to_string(), text);
        }
        assert_eq!(entry("192.0.2.1:4420").traddr(), Ok("192.0.2.1"));
        assert_eq!(entry("192.0.2.1:4420").tcp_security(), Some(TcpSecurityType::NONE));
        assert_eq!(entry("192.0.2.1:4420").rdma(), None);
    }

    #[test]
    fn bad_addresses() {
        let mut e = entry("192.0.2.1:4420");
        e.adrfam = AddressFamily::IPV6.0;
        assert!(matches!(e.socket_addr(), Err(TransportAddressError::Address { .. })));
        let mut e = entry("192.0.2.1:4420");
        e.trsvcid = to_field("0").unwrap();
        assert!(matches!(e.socket_addr(), Err(TransportAddressError::Service { .. })));
        e.trsvcid[0] = 0xff;
        assert!(matches!(e.socket_addr(), Err(TransportAddressError::Text(_))));
    }

    #[test]
    fn rdma_entry() {
        let nqn = Nqn::discovery();
        let e =
            DiscoveryEntry::ip(TransportType::RDMA, SubsystemType::REFERRAL, &nqn, ([192, 0, 2, 1], 4420).into(), 7);
        assert_eq!(e.tsas[..3], [1, 4, 1]);
        assert_eq!(e.rdma(), Some(RdmaTsas::roce_v2()));
        assert_eq!(e.tcp_security(), None);
    }
}

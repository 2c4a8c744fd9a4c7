//! Addresses of ports (GIDs), and what kind of packets each stands for.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// An address of a port. On Ethernet each IP address of the network device gives one or two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gid {
    /// Its place in the port's table.
    pub index: u32,
    /// The kind of packets that it sends.
    pub kind: GidKind,
    /// Its 128 bits.
    pub address: Ipv6Addr,
    /// The network device that it came from; `None` on InfiniBand.
    pub netdev: Option<String>,
}

/// What a [`Gid`] sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GidKind {
    /// InfiniBand packets.
    InfiniBand,
    /// RoCE v1: Ethernet frames of their own type, which no router forwards.
    RoceV1,
    /// RoCE v2: UDP to port 4791.
    RoceV2,
    /// The kernel does not say.
    Unknown,
}

impl Gid {
    /// The IP address that it stands for: an IPv4 address, or an IPv6 address that is not of the link only. Those are what
    /// hosts connect to.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.address.to_ipv4_mapped() {
            Some(v4) => Some(v4.into()),
            None if self.address.is_unicast_link_local() => None,
            None => Some(self.address.into()),
        }
    }
}

impl GidKind {
    /// As `gid_attrs/types` of sysfs names it. The kernel has one name for InfiniBand and RoCE v1: the link tells them apart.
    pub(super) fn parse(text: &str, ethernet: bool) -> Self {
        match text.trim() {
            "IB/RoCE v1" if ethernet => Self::RoceV1,
            "IB/RoCE v1" | "IB" => Self::InfiniBand,
            "RoCE v1" => Self::RoceV1,
            "RoCE v2" => Self::RoceV2,
            _ => Self::Unknown,
        }
    }

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InfiniBand => "IB",
            Self::RoceV1 => "RoCE v1",
            Self::RoceV2 => "RoCE v2",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for GidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ip_address_of_a_gid() {
        let ip = |text: &str| {
            let address = text.parse().unwrap();
            Gid { index: 0, kind: GidKind::RoceV2, address, netdev: None }.ip().map(|ip| ip.to_string())
        };
        assert_eq!(ip("0000:0000:0000:0000:0000:ffff:0a08:0001").as_deref(), Some("10.8.0.1"));
        assert_eq!(ip("fe80:0000:0000:0000:5054:00ff:fe12:3456"), None);
        assert_eq!(ip("2001:db8::7").as_deref(), Some("2001:db8::7"));
    }

    #[test]
    fn kinds_as_the_kernel_names_them() {
        assert_eq!(GidKind::parse("RoCE v2\n", true), GidKind::RoceV2);
        assert_eq!(GidKind::parse("IB/RoCE v1\n", true), GidKind::RoceV1);
        assert_eq!(GidKind::parse("IB/RoCE v1\n", false), GidKind::InfiniBand);
        assert_eq!(GidKind::parse("", true), GidKind::Unknown);
    }
}

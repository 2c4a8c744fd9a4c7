//! Where a controller listens: `tcp://host:port`, `rdma://host:port`, `auto://host:port`, and shorter forms.

use std::{fmt, net::IpAddr, str::FromStr};

use kvof_spec::tcp::NVME_TCP_IO_PORT;

use crate::{Error, Result};

/// The port of a controller where an address has none, over TCP and over RDMA; discovery controllers have 8009.
pub const DEFAULT_PORT: u16 = NVME_TCP_IO_PORT;

/// How to get there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Transport {
    /// NVMe/TCP.
    #[default]
    Tcp,
    /// NVMe/RDMA: RoCE, InfiniBand or iWARP, whatever device leads there.
    Rdma,
    /// Whatever the discovery service at the address offers for the subsystem, RDMA before TCP.
    Auto,
}

impl Transport {
    /// Its name, as addresses begin with it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The address of a controller: transport, host (name or IP address) and port.
///
/// Parses `tcp://host:port`, `rdma://host:port`, `auto://host:port`, `host:port` (TCP), `host` (port 4420),
/// `1.2.3.4:4420`, `[::1]:4420` and `::1`. Names are resolved at every connection attempt, so that a reconnect follows a
/// moved service.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    transport: Transport,
    host: String,
    port: u16,
}

impl Address {
    /// The address of `host` (a name or an IP address without brackets) at `port`, over TCP.
    ///
    /// # Errors
    /// [`Error::Address`] if `host` is empty or has characters that no host name has.
    pub fn new(host: impl Into<String>, port: u16) -> Result<Self> {
        let host = host.into();
        let bad = |reason: &str| Error::Address { address: host.clone(), reason: reason.to_owned() };
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        let is_v6 = host.split('%').next().is_some_and(|ip| matches!(ip.parse(), Ok(IpAddr::V6(_))));
        if !is_name && !is_v6 {
            return Err(bad("the host is neither a name nor an IP address"));
        }
        if port == 0 {
            return Err(bad("port 0 cannot be connected to"));
        }
        Ok(Self { transport: Transport::Tcp, host, port })
    }

    /// The same host and port over `transport`.
    #[must_use]
    pub fn with_transport(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// How to get there.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Host name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port, of TCP or of the RDMA connection manager.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Parses `text` with `port` where the text has none.
    ///
    /// # Errors
    /// [`Error::Address`] if the text is no address.
    pub fn parse_with_port(text: &str, port: u16) -> Result<Self> {
        Self::parse(text, None, port)
    }

    /// Parses `text`, with `port` where it has none, over `transport`. A text that begins with a transport, and with
    /// another one, is refused; one without either means TCP.
    ///
    /// # Errors
    /// [`Error::Address`] if the text is no address.
    pub fn parse(text: &str, transport: Option<Transport>, port: u16) -> Result<Self> {
        let bad = |reason: &str| Error::Address { address: text.to_owned(), reason: reason.to_owned() };
        let (scheme, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (Some(Transport::Tcp), rest),
            Some(("rdma", rest)) => (Some(Transport::Rdma), rest),
            Some(("auto", rest)) => (Some(Transport::Auto), rest),
            Some((scheme, _)) => {
                return Err(bad(&format!("transport {scheme:?} is not supported, only tcp, rdma and auto")));
            }
            None => (None, text),
        };
        let transport = match (scheme, transport) {
            (Some(own), Some(other)) if own != other => {
                return Err(bad(&format!("it says {own}, and the transport {other} is asked for")));
            }
            (own, other) => own.or(other).unwrap_or_default(),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port_text) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, after) = bracketed.split_once(']').ok_or_else(|| bad("the ] is missing"))?;
            match after {
                "" => (host, None),
                _ => (host, Some(after.strip_prefix(':').ok_or_else(|| bad("only :port may follow the ]"))?)),
            }
        } else if rest.matches(':').count() > 1 {
            (rest, None)
        } else {
            rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)))
        };
        let port = match port_text {
            None => port,
            Some(p) => p.parse().map_err(|_| bad("the port is no number from 1 to 65535"))?,
        };
        let address = Self::new(host, port).map_err(|e| match e {
            Error::Address { reason, .. } => Error::Address { address: text.to_owned(), reason },
            other => other,
        })?;
        Ok(address.with_transport(transport))
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse_with_port(text, DEFAULT_PORT)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.transport, self.host, self.port)
        } else {
            write!(f, "{}://{}:{}", self.transport, self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_that_are_addresses() {
        for (text, shown) in [
            ("tcp://storage-1:8009", "tcp://storage-1:8009"),
            ("storage.example", "tcp://storage.example:4420"),
            ("127.0.0.1:4421", "tcp://127.0.0.1:4421"),
            ("[::1]:4422", "tcp://[::1]:4422"),
            ("::1", "tcp://[::1]:4420"),
            ("[fe80::1%eth0]", "tcp://[fe80::1%eth0]:4420"),
            ("tcp://10.0.0.1/", "tcp://10.0.0.1:4420"),
            ("rdma://10.0.0.1", "rdma://10.0.0.1:4420"),
            ("rdma://[fe80::1%eth0]:1", "rdma://[fe80::1%eth0]:1"),
            ("auto://storage-1:8009/", "auto://storage-1:8009"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn forms_that_are_not() {
        for text in [
            "",
            ":4420",
            "host:",
            "host:0",
            "host:70000",
            "fc://host:4420",
            "rdma://",
            "RDMA://host",
            "[::1",
            "[::1]x",
            "a b:1",
            "[x]:1/",
        ] {
            let result = text.parse::<Address>();
            if text == "[x]:1/" {
                assert_eq!(result.unwrap().host(), "x");
            } else {
                assert!(result.is_err(), "{text:?} parsed as {result:?}");
            }
        }
    }

    #[test]
    fn a_transport_that_is_asked_for_is_no_contradiction() {
        let parse = |text, transport| Address::parse(text, transport, 8009).map(|a| a.to_string());
        assert_eq!(parse("host", Some(Transport::Rdma)).unwrap(), "rdma://host:8009");
        assert_eq!(parse("rdma://host:1", Some(Transport::Rdma)).unwrap(), "rdma://host:1");
        assert_eq!(parse("host", None).unwrap(), "tcp://host:8009");
        let error = parse("tcp://host", Some(Transport::Auto)).unwrap_err().to_string();
        assert!(error.contains("says tcp") && error.contains("auto is asked for"), "{error}");
        assert_eq!("host".parse::<Address>().unwrap().with_transport(Transport::Auto).to_string(), "auto://host:4420");
    }
}

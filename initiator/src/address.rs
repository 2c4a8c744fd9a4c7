//! Where a controller listens: `tcp://host:port` and its shorter forms.

use std::{fmt, net::IpAddr, str::FromStr};

use kvof_spec::tcp::NVME_TCP_IO_PORT;

use crate::{Error, Result};

/// The address of a controller: transport, host (name or IP address) and port.
///
/// Parses `tcp://host:port`, `host:port`, `host` (port 4420), `1.2.3.4:4420`, `[::1]:4420` and `::1`. Names are
/// resolved at every connection attempt, so that a reconnect follows a moved service.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The address of `host` (a name or an IP address without brackets) at TCP `port`.
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
        Ok(Self { host, port })
    }

    /// Host name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Parses `text` with `port` where the text has none.
    ///
    /// # Errors
    /// [`Error::Address`] if the text is no address.
    pub fn parse_with_port(text: &str, port: u16) -> Result<Self> {
        let bad = |reason: &str| Error::Address { address: text.to_owned(), reason: reason.to_owned() };
        let rest = match text.split_once("://") {
            Some(("tcp", rest)) => rest,
            Some((scheme, _)) => return Err(bad(&format!("transport {scheme:?} is not supported, only tcp"))),
            None => text,
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
        Self::new(host, port).map_err(|e| match e {
            Error::Address { reason, .. } => Error::Address { address: text.to_owned(), reason },
            other => other,
        })
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse_with_port(text, NVME_TCP_IO_PORT)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "tcp://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "tcp://{}:{}", self.host, self.port)
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
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn forms_that_are_not() {
        for text in
            ["", ":4420", "host:", "host:0", "host:70000", "rdma://host:4420", "[::1", "[::1]x", "a b:1", "[x]:1/"]
        {
            let result = text.parse::<Address>();
            if text == "[x]:1/" {
                assert_eq!(result.unwrap().host(), "x");
            } else {
                assert!(result.is_err(), "{text:?} parsed as {result:?}");
            }
        }
    }
}

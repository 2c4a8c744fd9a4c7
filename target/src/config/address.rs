//! Addresses as people write them.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs},
};

use crate::model::TransportKind;

/// Looks a host name up. A function, so that tests need no name service.
pub(super) type Resolve = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not of any accepted form.
    #[error(
        "not an address: write ADDRESS:PORT, [IPV6]:PORT or NAME:PORT, such as \"192.0.2.7:4420\" or \"[::]:4420\", \
         with tcp:// or rdma:// before it if wanted"
    )]
    Form,
    /// The name is not known.
    #[error("the host name {name} cannot be resolved: {source}; use an IP address, or mend the name")]
    Unknown {
        /// The name.
        name: String,
        /// What the resolver says.
        source: io::Error,
    },
}

/// The transport that `text` begins with, if it names one, and the rest of it.
pub(super) fn split_transport(text: &str) -> (Option<TransportKind>, &str) {
    let named = [TransportKind::Tcp, TransportKind::Rdma].into_iter().find_map(|kind| {
        let rest = text.strip_prefix(kind.name())?.strip_prefix("://")?;
        Some((Some(kind), rest))
    });
    named.unwrap_or((None, text))
}

/// The addresses that `text` stands for, at least one, without duplicates; `port` when it names none.
pub(super) fn resolve(text: &str, port: u16, lookup: &Resolve) -> Result<Vec<SocketAddr>, AddressError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    if let Some(ip) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let ip: Ipv6Addr = ip.parse().map_err(|_| AddressError::Form)?;
        return Ok(vec![SocketAddr::new(ip.into(), port)]);
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().map_err(|_| AddressError::Form)?),
        None => (text, port),
    };
    if !is_host_name(name) {
        return Err(AddressError::Form);
    }
    let unknown = |source| AddressError::Unknown { name: name.to_owned(), source };
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in lookup(name, port).map_err(unknown)? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(unknown(io::Error::from(io::ErrorKind::NotFound)));
    }
    Ok(addresses)
}

/// Looks up with the system's resolver.
pub(super) fn system_lookup(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((name, port).to_socket_addrs()?.collect())
}

/// Whether `name` has the form of a host name that is not a mistyped IPv4 address.
pub(super) fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && !numeric && name.trim_end_matches('.').split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<String>, String> {
        let lookup = |name: &str, port: u16| match name {
            "two.example" => Ok(vec![
                SocketAddr::new([192, 0, 2, 1].into(), port),
                SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
                SocketAddr::new([192, 0, 2, 1].into(), port),
            ]),
            "none.example" => Ok(Vec::new()),
            _ => Err(io::Error::other("no such name")),
        };
        let addresses = resolve(text, 4420, &lookup).map_err(|error| error.to_string())?;
        Ok(addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn all_forms() {
        assert_eq!(parse("192.0.2.7:1").unwrap(), ["192.0.2.7:1"]);
        assert_eq!(parse("192.0.2.7").unwrap(), ["192.0.2.7:4420"]);
        assert_eq!(parse("::").unwrap(), ["[::]:4420"]);
        assert_eq!(parse("[::1]").unwrap(), ["[::1]:4420"]);
        assert_eq!(parse("[::1]:7").unwrap(), ["[::1]:7"]);
        assert_eq!(parse("two.example:9").unwrap(), ["192.0.2.1:9", "[::1]:9"]);
        assert_eq!(parse("two.example").unwrap(), ["192.0.2.1:4420", "[::1]:4420"]);
    }

    #[test]
    fn a_transport_before_the_address() {
        assert_eq!(split_transport("rdma://a:1"), (Some(TransportKind::Rdma), "a:1"));
        assert_eq!(split_transport("tcp://[::]"), (Some(TransportKind::Tcp), "[::]"));
        assert_eq!(split_transport("rdma:1"), (None, "rdma:1"));
        assert_eq!(split_transport("http://a"), (None, "http://a"));
    }

    #[test]
    fn wrong_forms_show_right_ones() {
        for wrong in [
            "",
            ":4420",
            "192.0.2:4420",
            "256.1.1.1:1",
            "a b:1",
            "name:70000",
            "name:",
            "[::1",
            "-a",
            "a..b",
            "http://a",
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains("ADDRESS:PORT"), "{wrong}: {error}");
        }
    }

    #[test]
    fn unknown_names_are_named() {
        assert!(parse("nowhere.example").unwrap_err().contains("nowhere.example cannot be resolved: no such name"));
        assert!(parse("none.example").unwrap_err().contains("none.example cannot be resolved"));
    }
}

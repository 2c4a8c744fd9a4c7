//! The ports: listening sockets, and what listens to the RDMA connection manager.

use std::{io, net::SocketAddr, os::fd::AsFd};

use kvof_rdma::RdmaError;

use crate::{
    model::{PortDef, TransportKind},
    reactor::{Listener, Listeners, RdmaListeners},
};

/// Connections that may wait to be accepted; the system lowers it to its own limit.
const BACKLOG: i32 = 1024;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// By TCP.
    #[error("cannot listen on {address}: {source}{}", way_out(.address, .source))]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// By RDMA.
    #[error("cannot listen on rdma://{address}: {source} (`kvof doctor` shows what this machine has for RDMA)")]
    Rdma {
        /// The address.
        address: SocketAddr,
        /// What is missing.
        source: RdmaError,
    },
}

/// Binds every port, and puts the port number that the system chose in the place of 0. Nothing of RDMA is touched unless a
/// port wants it.
pub(super) fn bind_all(ports: &mut [PortDef]) -> Result<Listeners, ListenError> {
    let mut listeners = Listeners::default();
    for port in ports {
        match port.transport {
            TransportKind::Tcp => listeners.tcp.push(bind_tcp(port)?),
            TransportKind::Rdma => bind_rdma(port, &mut listeners.rdma)?,
        }
    }
    Ok(listeners)
}

fn bind_rdma(port: &mut PortDef, listeners: &mut Option<RdmaListeners>) -> Result<(), ListenError> {
    let address = port.listen;
    let error = |source| ListenError::Rdma { address, source };
    let listeners = match listeners {
        Some(listeners) => listeners,
        None => {
            // An address of every device can be listened on without any, and would be in vain.
            kvof_rdma::is_available().map_err(error)?;
            listeners.insert(RdmaListeners::new(BACKLOG).map_err(error)?)
        }
    };
    port.listen = listeners.bind(port.portid, address).map_err(error)?;
    Ok(())
}

fn bind_tcp(port: &mut PortDef) -> Result<Listener, ListenError> {
    let address = port.listen;
    let error = |source| ListenError::Tcp { address, source };
    let socket = kvof_io::listen_tcp(address, BACKLOG).map_err(error)?;
    let local = kvof_io::local_addr(socket.as_fd()).map_err(error)?;
    port.listen = local;
    Ok(Listener { socket, portid: port.portid, local })
}

/// The bound ports, with what can change of a port taken from `wanted`. `configured` is what `bound` was made from.
///
/// Ports come and go only at a start; differences are logged.
pub(super) fn still_bound(wanted: &[PortDef], configured: &[PortDef], bound: &[PortDef]) -> Vec<PortDef> {
    for new in wanted.iter().filter(|new| !configured.iter().any(|old| old.is_same_place(new))) {
        tracing::warn!(address = %new.url(), "this port will be listened on from the next start");
    }
    let mut unclaimed: Vec<&PortDef> = wanted.iter().collect();
    configured
        .iter()
        .zip(bound)
        .map(|(old, bound)| match unclaimed.iter().position(|new| new.is_same_place(old)) {
            Some(at) => PortDef { advertise: unclaimed.remove(at).advertise.clone(), ..bound.clone() },
            None => {
                tracing::warn!(address = %bound.url(), "this port will be listened on until the next start");
                bound.clone()
            }
        })
        .collect()
}

fn way_out(address: &SocketAddr, source: &io::Error) -> String {
    let port = address.port();
    match source.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; another target or program listens there: stop it (`ss -ltnp 'sport = :{port}'` names it), or choose \
             another address"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has this address (`ip address` lists those that it has)".to_owned()
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(portid: u16, listen: &str, advertise: Option<&str>) -> PortDef {
        let (transport, listen) = (TransportKind::Tcp, listen.parse().unwrap());
        PortDef { portid, transport, listen, advertise: advertise.map(str::to_owned) }
    }

    #[test]
    fn a_taken_address_is_named_with_a_way_out() {
        let mut first = [port(1, "127.0.0.1:0", None)];
        let listeners = bind_all(&mut first).unwrap();
        assert_ne!(first[0].listen.port(), 0);
        assert_eq!(listeners.tcp[0].local, first[0].listen);
        let error = bind_all(&mut first.clone()).unwrap_err().to_string();
        assert!(error.contains(&first[0].listen.to_string()) && error.contains("another target"), "{error}");
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = bind_all(&mut [port(1, "192.0.2.1:0", None)]).unwrap_err().to_string();
        assert!(error.contains("no interface of this machine"), "{error}");
    }

    #[test]
    fn what_is_missing_for_rdma_is_named_with_a_way_out() {
        let mut ports = [PortDef { transport: TransportKind::Rdma, ..port(1, "192.0.2.1:0", None) }];
        let error = bind_all(&mut ports).unwrap_err().to_string();
        assert!(error.contains("cannot listen on rdma://192.0.2.1:0: ") && error.contains("kvof doctor"), "{error}");
        let ways = ["apt-get install rdma-core", "modprobe rdma_ucm", "rdma link add", "/dev/infiniband/rdma_cm"];
        assert!(ways.iter().any(|way| error.contains(way)), "{error}");
    }

    #[test]
    fn a_reload_tells_transports_apart() {
        let rdma = |port| PortDef { transport: TransportKind::Rdma, ..port };
        let both = [port(1, "192.0.2.1:9", None), rdma(port(2, "192.0.2.1:9", None))];
        let wanted = [rdma(port(1, "192.0.2.1:9", Some("x"))), port(2, "192.0.2.1:9", Some("y"))];
        let kept = still_bound(&wanted, &both, &both);
        assert_eq!(kept, [port(1, "192.0.2.1:9", Some("y")), rdma(port(2, "192.0.2.1:9", Some("x")))]);
    }

    #[test]
    fn a_reload_keeps_the_bound_ports_and_takes_what_they_advertise() {
        let configured =
            [port(1, "127.0.0.1:0", None), port(2, "127.0.0.1:0", Some("a")), port(3, "127.0.0.1:9", None)];
        let bound = [port(1, "127.0.0.1:100", None), port(2, "127.0.0.1:200", Some("a")), port(3, "127.0.0.1:9", None)];
        let wanted = [port(1, "127.0.0.1:0", Some("x")), port(2, "127.0.0.1:0", None), port(3, "127.0.0.1:8", None)];
        let kept = still_bound(&wanted, &configured, &bound);
        assert_eq!(
            kept,
            [port(1, "127.0.0.1:100", Some("x")), port(2, "127.0.0.1:200", None), port(3, "127.0.0.1:9", None)]
        );
    }
}

//! Connecting by TCP.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{Reach, Step, Stop};

/// Connects to the first of `addresses` that takes it.
pub(super) fn walk(reach: &mut Reach, addresses: &[SocketAddr], timeout: Duration) -> Result<(), Stop> {
    let mut failures = Vec::new();
    for &address in addresses {
        let begin = Instant::now();
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(_) => {
                let failed: String = failures.iter().map(|(at, error)| format!("; {at}: {error}")).collect();
                return reach.add(Step::ok("TCP", format!("{address} takes connections{failed}")).took(begin));
            }
            Err(error) => failures.push((address, error)),
        }
    }
    let text: Vec<String> = failures.iter().map(|(at, error)| format!("{at}: {error}")).collect();
    let mut step = Step::failed("TCP", text.join("; "));
    if let Some((address, error)) = failures.first() {
        step = step.fix(way_out(*address, error));
    }
    reach.add(step)
}

fn way_out(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            format!(
                "nothing listens on port {} there: start the target, or look at its [[port]] address",
                address.port()
            )
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            "no answer at all: the machine is off, or a firewall drops the packets".to_owned()
        }
        ErrorKind::HostUnreachable => {
            "the machine is off, or not on the network that its address belongs to".to_owned()
        }
        _ => format!("try it from the target's own machine: kvof doctor {address}"),
    }
}

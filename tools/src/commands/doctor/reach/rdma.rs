//! Resolving an address and a route by RDMA. The connection itself is NVMe's: it needs a queue pair, and is made by the host library.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use kvof_rdma::{CmChannel, CmEvent, CmId, ConnectionEvent, RdmaError};

use super::{Reach, Step, Stop};

/// Time between looks for an event.
const PAUSE: Duration = Duration::from_millis(2);

/// Resolves the first of `addresses` that can be.
pub(super) fn walk(reach: &mut Reach, addresses: &[SocketAddr], timeout: Duration) -> Result<(), Stop> {
    let channel = match CmChannel::new() {
        Ok(channel) => channel,
        Err(error) => return reach.add(Step::failed("connection manager", error.to_string())),
    };
    reach.add(Step::ok("connection manager", "rdma-core and the kernel's are there"))?;
    let mut failures = Vec::new();
    for (key, &address) in (0..).zip(addresses) {
        let begin = Instant::now();
        match resolve(&channel, key, address, timeout) {
            Ok(id) => {
                let device = id.device().map_or_else(|error| error.to_string(), |device| device.name().to_owned());
                let text = format!("{} by device {device}, from {}", address.ip(), id.local_addr().ip());
                reach.add(Step::ok("address", text).took(begin))?;
                return route(reach, &channel, key, &id, timeout);
            }
            Err(error) => failures.push(format!("{}: {error}", address.ip())),
        }
    }
    let step = Step::failed("address", failures.join("; "));
    reach.add(step.fix("the way there has to lead through a network device of an RDMA device: ip route get, rdma link"))
}

fn resolve(channel: &Arc<CmChannel>, key: u64, to: SocketAddr, timeout: Duration) -> Result<CmId, String> {
    let id = CmId::resolve(channel, key, to, timeout).map_err(|error| error.to_string())?;
    match wait(channel, key, timeout)? {
        ConnectionEvent::AddressResolved => Ok(id),
        other => Err(failure(&other)),
    }
}

fn route(reach: &mut Reach, channel: &Arc<CmChannel>, key: u64, id: &CmId, timeout: Duration) -> Result<(), Stop> {
    let begin = Instant::now();
    let resolved = id.resolve_route(timeout).map_err(|error| error.to_string()).and_then(|()| {
        match wait(channel, key, timeout)? {
            ConnectionEvent::RouteResolved => Ok(()),
            other => Err(failure(&other)),
        }
    });
    reach.add(match resolved {
        Ok(()) => Step::ok("route", format!("to {}", id.peer_addr())).took(begin),
        Err(error) => Step::failed("route", error).fix(if id.peer_addr().ip().is_loopback() {
            "loopback addresses have no RDMA: give the address of a network device that an RDMA device belongs to"
        } else {
            "InfiniBand asks its subnet manager (sminfo shows whether there is one), Ethernet its neighbours (ip neigh)"
        }),
    })
}

/// The next event of connection `key`.
fn wait(channel: &Arc<CmChannel>, key: u64, timeout: Duration) -> Result<ConnectionEvent, String> {
    let late = Instant::now() + timeout + PAUSE;
    loop {
        match channel.poll().map_err(|error: RdmaError| error.to_string())? {
            Some(CmEvent::Connection { key: of, event }) if of == key => return Ok(event),
            // Of an address that was given up.
            Some(_) => {}
            None if Instant::now() > late => return Err(format!("no answer within {timeout:?}")),
            None => thread::sleep(PAUSE),
        }
    }
}

fn failure(event: &ConnectionEvent) -> String {
    match event {
        ConnectionEvent::Failed { what, status } => {
            let error = std::io::Error::from_raw_os_error(status.saturating_abs());
            format!("{what} failed: {error}")
        }
        ConnectionEvent::DeviceRemoved => "the device was removed".to_owned(),
        other => format!("unexpected event {other:?}"),
    }
}

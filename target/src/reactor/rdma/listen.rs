//! RDMA listeners, and what becomes of the requests that come to them.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kvof_io::{EventLoop, WatchId};
use kvof_rdma::{CmChannel, CmEvent, CmId, CmListener, ConnectionEvent, RdmaError};
use kvof_spec::rdma::CmStatus;

use super::super::{
    CoreMessage,
    conn::Origin,
    core::{Core, Token},
};
use super::Source;
use crate::transport::rdma::{Request, check_request};

/// How soon a listener whose device is gone is tried again.
pub(super) const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Requests taken at once.
const REQUEST_BUDGET: usize = 16;

/// The RDMA ports.
#[derive(Debug)]
pub struct RdmaListeners {
    channel: Arc<CmChannel>,
    ports: Vec<Port>,
    backlog: i32,
    watch: Option<WatchId>,
}

#[derive(Debug)]
struct Port {
    portid: u16,
    local: SocketAddr,
    /// `None` while its device is gone.
    listener: Option<CmListener>,
}

/// A request that was found good: the core that gets it makes a connection of it.
#[derive(Debug)]
pub(in super::super) struct Requested {
    pub(super) id: CmId,
    pub(super) request: Request,
    pub(super) origin: Origin,
    /// RDMA READs that may be outstanding at the host.
    pub(super) reads: u8,
}

impl RdmaListeners {
    /// None yet; up to `backlog` requests may wait at each.
    ///
    /// # Errors
    /// [`RdmaError`] if this machine has no RDMA.
    pub fn new(backlog: i32) -> Result<Self, RdmaError> {
        Ok(Self { channel: CmChannel::new()?, ports: Vec::new(), backlog, watch: None })
    }

    /// Listens on `address` as port `portid` of the discovery log; gives the address with the port number that the system
    /// chose for 0.
    ///
    /// # Errors
    /// [`RdmaError`].
    pub fn bind(&mut self, portid: u16, address: SocketAddr) -> Result<SocketAddr, RdmaError> {
        let listener = CmListener::bind(&self.channel, self.ports.len() as u64, address, self.backlog)?;
        let local = listener.local_addr();
        self.ports.push(Port { portid, local, listener: Some(listener) });
        Ok(local)
    }

    /// Listens again where the device was gone; true if some are still missing.
    pub(super) fn bind_again(&mut self) -> bool {
        let mut missing = false;
        for (key, port) in (0..).zip(&mut self.ports).filter(|(_, port)| port.listener.is_none()) {
            match CmListener::bind(&self.channel, key, port.local, self.backlog) {
                Ok(listener) => {
                    port.listener = Some(listener);
                    tracing::info!(address = %format_args!("rdma://{}", port.local), "listening again");
                }
                Err(error) => {
                    tracing::debug!(%error, address = %port.local, "still not listening");
                    missing = true;
                }
            }
        }
        missing
    }

    /// Has the ring tell of requests.
    pub(super) fn watch(&mut self, ring: &mut EventLoop) -> io::Result<()> {
        let token = Token::Rdma(Source::Listeners).pack();
        self.watch = Some(ring.watch_readable(self.channel.as_fd(), token)?);
        Ok(())
    }

    /// Ends what [`Self::watch`] has begun.
    pub(super) fn unwatch(&mut self, ring: &mut EventLoop) {
        if let Some(watch) = self.watch.take() {
            ring.unwatch(watch);
        }
    }

    /// The device of a port is gone.
    fn lose(&mut self, key: u64) {
        let port = usize::try_from(key).ok().and_then(|key| self.ports.get_mut(key));
        if let Some(port) = port
            && port.listener.take().is_some()
        {
            let address = format_args!("rdma://{}", port.local);
            tracing::error!(%address, "the RDMA device of this address is gone; listening is tried again every second");
        }
    }
}

impl Core {
    /// Takes the requests that wait, up to a budget; the others have their turn soon.
    pub(super) fn accept_rdma(&mut self) {
        for _ in 0..REQUEST_BUDGET {
            let Some(rdma) = &mut self.rdma else { return };
            rdma.has_requests = false;
            let Some(listeners) = &mut rdma.listeners else { return };
            match listeners.channel.poll() {
                Ok(Some(CmEvent::Request { listener, id, private_data, reads, .. })) => {
                    let port = usize::try_from(listener).ok().and_then(|key| listeners.ports.get(key));
                    let Some(portid) = port.map(|port| port.portid) else { continue };
                    let origin = Origin { portid, local: id.local_addr(), peer: id.peer_addr() };
                    self.request(id, &private_data, reads, origin);
                }
                Ok(Some(CmEvent::Connection { key, event })) => match event {
                    ConnectionEvent::DeviceRemoved | ConnectionEvent::AddressChanged => {
                        listeners.lose(key);
                        if listeners.bind_again()
                            && let Some(rdma) = &mut self.rdma
                        {
                            rdma.listen_again = Some(self.now + LISTEN_AGAIN);
                        }
                    }
                    // Of a request that has not got to its core: that one will find out.
                    _ => {}
                },
                Ok(None) => return,
                Err(error) => return tracing::error!(%error, "no requests for RDMA connections can be taken"),
            }
        }
        if let Some(rdma) = &mut self.rdma {
            rdma.has_requests = true;
        }
    }

    /// Refuses a request, or hands it to the core with the fewest connections.
    fn request(&mut self, id: CmId, private_data: &[u8], reads: u8, origin: Origin) {
        let peer = origin.peer;
        let Some(rdma) = &self.rdma else { return };
        let request = match check_request(private_data, &rdma.limits) {
            // Without READs no data would ever come from the host.
            Ok(_) if reads == 0 => Err(CmStatus::INVALID_IRD),
            checked => checked,
        };
        let request = match request {
            Ok(request) => request,
            Err(status) => {
                tracing::warn!(%peer, %status, "RDMA connection refused: its request is wrong");
                return rdma.reaper.refuse(id, status);
            }
        };
        let limit = self.shared.config.max_connections;
        if self.shared.connections() >= limit {
            tracing::warn!(%peer, limit, "RDMA connection refused: max_connections reached");
            return rdma.reaper.refuse(id, CmStatus::NO_RESOURCES);
        }
        let core = self.shared.idlest();
        if let Some(load) = self.shared.loads.get(core) {
            load.fetch_add(1, Ordering::Relaxed);
        }
        let requested = Box::new(Requested { id, request, origin, reads });
        if core == self.id {
            self.open_rdma(*requested);
        } else if let Some(mailbox) = self.mailboxes.get(core) {
            mailbox.send(CoreMessage::Requested(requested));
        }
    }
}

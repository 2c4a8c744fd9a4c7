//! The RDMA connection manager, without blocking: events come out of a channel whose descriptor can be watched.

use std::{
    ffi::c_void,
    fmt, mem,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd},
    ptr::{self, NonNull},
    slice,
    sync::Arc,
    time::Duration,
};

use rdma_mummy_sys as sys;

use crate::{Device, RdmaError, completion::set_nonblocking, device::is_library_there};

/// Where connection events come from.
pub struct CmChannel {
    raw: NonNull<sys::rdma_event_channel>,
}

// SAFETY: librdmacm is thread safe.
unsafe impl Send for CmChannel {}
// SAFETY: as above.
unsafe impl Sync for CmChannel {}

/// Something has happened.
#[derive(Debug)]
pub enum CmEvent {
    /// A peer wants to connect to a listener.
    Request {
        /// The listener's key.
        listener: u64,
        /// The connection to be: accept it with an endpoint, or reject it. Its events come under the listener's key until it is
        /// migrated.
        id: CmId,
        /// What the peer said, as the connection manager delivers it: up to 56 bytes on InfiniBand and RoCE, padded with zeros.
        private_data: Vec<u8>,
        /// RDMA READs that this side may have outstanding at the peer.
        reads: u8,
        /// RDMA READs that the peer wants to have outstanding here.
        reads_served: u8,
    },
    /// A connection has moved on.
    Connection {
        /// Its key.
        key: u64,
        /// How.
        event: ConnectionEvent,
    },
}

/// What has become of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// Its address belongs to a device: the route is next.
    AddressResolved,
    /// It can be connected.
    RouteResolved,
    /// It is connected.
    Established {
        /// What the peer said when it accepted.
        private_data: Vec<u8>,
    },
    /// The peer refused.
    Rejected {
        /// Reason of the connection manager; 28 is "by the consumer", who then says why in the private data.
        status: i32,
        /// What the peer said.
        private_data: Vec<u8>,
    },
    /// It cannot be made.
    Failed {
        /// What failed.
        what: &'static str,
        /// errno, negative, or the connection manager's code.
        status: i32,
    },
    /// The peer or the network has ended it.
    Disconnected,
    /// Its device, or the address of a listener, is gone.
    DeviceRemoved,
    /// The address of the network device has moved to another one.
    AddressChanged,
    /// Its queue pair's number may be used again.
    TimewaitExit,
}

impl CmChannel {
    /// A channel whose calls do not wait.
    ///
    /// # Errors
    /// [`RdmaError::NoLibrary`], or [`RdmaError::Call`] where the kernel has no connection manager.
    pub fn new() -> Result<Arc<Self>, RdmaError> {
        if !is_library_there() {
            return Err(RdmaError::NoLibrary);
        }
        // SAFETY: the call has no preconditions.
        let raw = unsafe { sys::rdma_create_event_channel() };
        let raw = NonNull::new(raw).ok_or_else(|| RdmaError::last("rdma_create_event_channel"))?;
        let channel = Self { raw };
        // SAFETY: the channel's descriptor is open.
        unsafe { set_nonblocking(raw.as_ref().fd) }?;
        Ok(Arc::new(channel))
    }

    /// The next event, if there is one.
    ///
    /// # Errors
    /// [`RdmaError::Call`].
    pub fn poll(self: &Arc<Self>) -> Result<Option<CmEvent>, RdmaError> {
        loop {
            let mut raw = ptr::null_mut();
            // SAFETY: the channel is live and does not block; `raw` takes the event.
            if unsafe { sys::rdma_get_cm_event(self.raw.as_ptr(), &raw mut raw) } != 0 {
                return match RdmaError::last("rdma_get_cm_event") {
                    RdmaError::Call { errno: libc::EAGAIN | libc::EINTR, .. } => Ok(None),
                    error => Err(error),
                };
            }
            // SAFETY: the call gave an event, which stays until it is acknowledged, below, when `read` has copied all it wants.
            let event = unsafe { self.read(&*raw) };
            // SAFETY: the event is this channel's, and is acknowledged once.
            unsafe { sys::rdma_ack_cm_event(raw) };
            if let Some(event) = event {
                return Ok(Some(event));
            }
        }
    }

    /// # Safety
    /// `event` came from this channel and is not acknowledged; it is read once.
    unsafe fn read(self: &Arc<Self>, event: &sys::rdma_cm_event) -> Option<CmEvent> {
        use sys::rdma_cm_event_type as E;
        // SAFETY: ids of events are live: they are destroyed only by their `CmId`, which waits for events to be acknowledged.
        let key = unsafe { (*event.id).context }.addr() as u64;
        let failed = |what| ConnectionEvent::Failed { what, status: event.status };
        // SAFETY: events of connections carry connection parameters, whose private data is as long as they say.
        let private_data = || unsafe { private_data(&event.param.conn) };
        let event = match event.event {
            E::RDMA_CM_EVENT_CONNECT_REQUEST => {
                // SAFETY: a request has connection parameters, and a live listener.
                let (conn, listener) = unsafe { (&event.param.conn, (*event.listen_id).context.addr() as u64) };
                let private_data = private_data();
                let id = CmId { raw: NonNull::new(event.id)?, channel: Arc::clone(self) };
                let (reads, reads_served) = (conn.initiator_depth, conn.responder_resources);
                return Some(CmEvent::Request { listener, id, private_data, reads, reads_served });
            }
            E::RDMA_CM_EVENT_ADDR_RESOLVED => ConnectionEvent::AddressResolved,
            E::RDMA_CM_EVENT_ADDR_ERROR => failed("resolving the address"),
            E::RDMA_CM_EVENT_ROUTE_RESOLVED => ConnectionEvent::RouteResolved,
            E::RDMA_CM_EVENT_ROUTE_ERROR => failed("resolving the route"),
            E::RDMA_CM_EVENT_CONNECT_ERROR => failed("connecting"),
            E::RDMA_CM_EVENT_UNREACHABLE => failed("reaching the peer"),
            E::RDMA_CM_EVENT_REJECTED => {
                ConnectionEvent::Rejected { status: event.status, private_data: private_data() }
            }
            E::RDMA_CM_EVENT_ESTABLISHED => ConnectionEvent::Established { private_data: private_data() },
            E::RDMA_CM_EVENT_DISCONNECTED => ConnectionEvent::Disconnected,
            E::RDMA_CM_EVENT_DEVICE_REMOVAL => ConnectionEvent::DeviceRemoved,
            E::RDMA_CM_EVENT_ADDR_CHANGE => ConnectionEvent::AddressChanged,
            E::RDMA_CM_EVENT_TIMEWAIT_EXIT => ConnectionEvent::TimewaitExit,
            _ => return None,
        };
        Some(CmEvent::Connection { key, event })
    }
}

/// # Safety
/// The parameters are of an event that is not acknowledged.
unsafe fn private_data(conn: &sys::rdma_conn_param) -> Vec<u8> {
    let len = usize::from(conn.private_data_len);
    if conn.private_data.is_null() || len == 0 {
        return Vec::new();
    }
    // SAFETY: the private data of an event is that long and stays until it is acknowledged.
    unsafe { slice::from_raw_parts(conn.private_data.cast::<u8>(), len) }.to_vec()
}

impl AsFd for CmChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel's descriptor is open as long as the channel.
        unsafe { BorrowedFd::borrow_raw(self.raw.as_ref().fd) }
    }
}

impl Drop for CmChannel {
    fn drop(&mut self) {
        // SAFETY: no id uses the channel: each holds a reference to this value.
        unsafe { sys::rdma_destroy_event_channel(self.raw.as_ptr()) };
    }
}

impl fmt::Debug for CmChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CmChannel")
    }
}

/// An address that is listened on.
#[derive(Debug)]
pub struct CmListener {
    id: CmId,
}

impl CmListener {
    /// Listens on `address` of any device that has it; the unspecified address is every device's. Requests come out of `channel` under
    /// `key`.
    ///
    /// # Errors
    /// [`RdmaError::Call`] where no device has the address or it is taken.
    pub fn bind(channel: &Arc<CmChannel>, key: u64, address: SocketAddr, backlog: i32) -> Result<Self, RdmaError> {
        let id = CmId::new(channel, key)?;
        // Without this a listener on [::] would take the port of 0.0.0.0 too, so that both cannot be listened on.
        if address.is_ipv6() {
            let mut yes: i32 = 1;
            // SAFETY: the option is an int, and the id is live. Where it is not known, `bind` decides.
            unsafe {
                sys::rdma_set_option(
                    id.raw.as_ptr(),
                    OPTION_ID,
                    OPTION_ID_AFONLY,
                    (&raw mut yes).cast(),
                    size_of::<i32>(),
                )
            };
        }
        let mut reuse: i32 = 1;
        // SAFETY: as above: connections of an earlier process that linger must not keep the port from this one.
        unsafe {
            sys::rdma_set_option(
                id.raw.as_ptr(),
                OPTION_ID,
                OPTION_ID_REUSEADDR,
                (&raw mut reuse).cast(),
                size_of::<i32>(),
            )
        };
        let mut sockaddr = SockAddr::new(address);
        // SAFETY: the id is live, the address has the form of its family.
        if unsafe { sys::rdma_bind_addr(id.raw.as_ptr(), sockaddr.as_mut_ptr()) } != 0 {
            return Err(RdmaError::last("rdma_bind_addr"));
        }
        // SAFETY: the id is live and bound.
        if unsafe { sys::rdma_listen(id.raw.as_ptr(), backlog) } != 0 {
            return Err(RdmaError::last("rdma_listen"));
        }
        Ok(Self { id })
    }

    /// The address with the port that the system chose where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.id.local_addr()
    }
}

// Level and names of options of librdmacm; the bindings leave anonymous enums out.
const OPTION_ID: i32 = 0;
const OPTION_ID_REUSEADDR: i32 = 1;
const OPTION_ID_AFONLY: i32 = 2;

/// One end of a connection to be. Dropping it ends it.
pub struct CmId {
    raw: NonNull<sys::rdma_cm_id>,
    channel: Arc<CmChannel>,
}

// SAFETY: librdmacm is thread safe, and nothing else has this id.
unsafe impl Send for CmId {}

impl CmId {
    fn new(channel: &Arc<CmChannel>, key: u64) -> Result<Self, RdmaError> {
        let mut raw = ptr::null_mut();
        // SAFETY: the channel is live; the context is a number that is never followed.
        let made = unsafe {
            sys::rdma_create_id(channel.raw.as_ptr(), &raw mut raw, context(key), sys::rdma_port_space::RDMA_PS_TCP)
        };
        if made != 0 {
            return Err(RdmaError::last("rdma_create_id"));
        }
        let raw = NonNull::new(raw).ok_or(RdmaError::NoDevice)?;
        Ok(Self { raw, channel: Arc::clone(channel) })
    }

    /// Begins a connection to `to`, whose events come out of `channel` under `key`: on `AddressResolved` call
    /// [`Self::resolve_route`], on `RouteResolved` make an endpoint.
    ///
    /// # Errors
    /// [`RdmaError::Call`].
    pub fn resolve(channel: &Arc<CmChannel>, key: u64, to: SocketAddr, timeout: Duration) -> Result<Self, RdmaError> {
        let id = Self::new(channel, key)?;
        let mut sockaddr = SockAddr::new(to);
        let (raw, timeout) = (id.raw.as_ptr(), milliseconds(timeout));
        // SAFETY: the id is live, the address has the form of its family; no source address means any.
        if unsafe { sys::rdma_resolve_addr(raw, ptr::null_mut(), sockaddr.as_mut_ptr(), timeout) } != 0 {
            return Err(RdmaError::last("rdma_resolve_addr"));
        }
        Ok(id)
    }

    /// Finds the way to the peer.
    ///
    /// # Errors
    /// [`RdmaError::Call`].
    pub fn resolve_route(&self, timeout: Duration) -> Result<(), RdmaError> {
        // SAFETY: the id is live.
        match unsafe { sys::rdma_resolve_route(self.raw.as_ptr(), milliseconds(timeout)) } {
            0 => Ok(()),
            _ => Err(RdmaError::last("rdma_resolve_route")),
        }
    }

    /// This end's address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        // SAFETY: the id is live, and its addresses have room for every family.
        unsafe { socket_addr(&raw const (*self.raw.as_ptr()).route.addr.src_addr_union.src_storage) }
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        // SAFETY: as above.
        unsafe { socket_addr(&raw const (*self.raw.as_ptr()).route.addr.dst_addr_union.dst_storage) }
    }

    /// The device that the connection goes through.
    ///
    /// # Errors
    /// [`RdmaError::NoDevice`] before the address is resolved; otherwise why the device cannot be used.
    pub fn device(&self) -> Result<Arc<Device>, RdmaError> {
        // SAFETY: the id is live, so that its context is too.
        unsafe { Device::of((*self.raw.as_ptr()).verbs) }
    }

    /// Has the events of this connection come out of `channel`, under `key`. Those that `poll` has not given yet come there too.
    ///
    /// # Errors
    /// [`RdmaError::Call`].
    pub fn migrate(&mut self, channel: &Arc<CmChannel>, key: u64) -> Result<(), RdmaError> {
        // SAFETY: the id is live, and `&mut self` keeps others from reading its context; a number that is never followed.
        unsafe { (*self.raw.as_ptr()).context = context(key) };
        // SAFETY: both are live.
        if unsafe { sys::rdma_migrate_id(self.raw.as_ptr(), channel.raw.as_ptr()) } != 0 {
            return Err(RdmaError::last("rdma_migrate_id"));
        }
        self.channel = Arc::clone(channel);
        Ok(())
    }

    /// Refuses a request, and says why in up to 148 bytes.
    ///
    /// # Errors
    /// [`RdmaError::Call`]; the request is gone either way.
    pub fn reject(self, private_data: &[u8]) -> Result<(), RdmaError> {
        let len = u8::try_from(private_data.len()).unwrap_or(u8::MAX);
        // SAFETY: the id is live, and the private data at least as long as told.
        match unsafe { sys::rdma_reject(self.raw.as_ptr(), private_data.as_ptr().cast(), len) } {
            0 => Ok(()),
            _ => Err(RdmaError::last("rdma_reject")),
        }
    }

    pub(crate) const fn raw(&self) -> *mut sys::rdma_cm_id {
        self.raw.as_ptr()
    }
}

impl Drop for CmId {
    fn drop(&mut self) {
        // SAFETY: the id is live and this value its only owner; its queue pair is gone (`Endpoint` sees to that), and its events are
        // acknowledged as soon as they are read.
        unsafe { sys::rdma_destroy_id(self.raw.as_ptr()) };
    }
}

impl fmt::Debug for CmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CmId")
            .field("local", &self.local_addr())
            .field("peer", &self.peer_addr())
            .finish_non_exhaustive()
    }
}

const fn context(key: u64) -> *mut c_void {
    ptr::without_provenance_mut(key as usize)
}

fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

/// An address as the C library has it.
struct SockAddr(libc::sockaddr_storage);

impl SockAddr {
    fn new(address: SocketAddr) -> Self {
        // SAFETY: the structure consists of integers, for which zeros are valid.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let place = &raw mut storage;
        match address {
            SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: a storage has room and alignment for every address.
                unsafe { place.cast::<libc::sockaddr_in>().write(sin) };
            }
            SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { place.cast::<libc::sockaddr_in6>().write(sin6) };
            }
        }
        Self(storage)
    }

    const fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.0).cast()
    }
}

/// # Safety
/// `storage` points to an address, or to zeros.
unsafe fn socket_addr(storage: *const libc::sockaddr_storage) -> SocketAddr {
    // SAFETY: every address begins with its family.
    match i32::from(unsafe { (*storage).ss_family }) {
        libc::AF_INET6 => {
            // SAFETY: the family says that it is of this kind.
            let sin6 = unsafe { &*storage.cast::<libc::sockaddr_in6>() };
            let (ip, port) = (sin6.sin6_addr.s6_addr.into(), u16::from_be(sin6.sin6_port));
            SocketAddr::V6(SocketAddrV6::new(ip, port, sin6.sin6_flowinfo, sin6.sin6_scope_id))
        }
        libc::AF_INET => {
            // SAFETY: as above.
            let sin = unsafe { &*storage.cast::<libc::sockaddr_in>() };
            SocketAddr::V4(SocketAddrV4::new(sin.sin_addr.s_addr.to_ne_bytes().into(), u16::from_be(sin.sin_port)))
        }
        _ => SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_c_library_s_form() {
        for text in ["192.0.2.7:4420", "[2001:db8::7]:4421", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let sockaddr = SockAddr::new(address);
            // SAFETY: a live address.
            assert_eq!(unsafe { socket_addr(&raw const sockaddr.0) }, address);
        }
    }
}

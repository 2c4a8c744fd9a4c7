//! The socket calls of a TCP server.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, ipproto, listen, socket_with, sockopt,
};

/// A non-blocking socket that listens on `addr`; port 0 lets the system choose (see [`local_addr`]). `backlog` is the number of connections
/// that may wait for [`accept`]. An IPv6 address takes IPv6 connections only, so that both families can share a port.
pub fn listen_tcp(addr: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &addr)?;
    listen(&socket, backlog)?;
    Ok(socket)
}

/// The next connection that waits at a listening socket, non-blocking, and where it comes from. None when there is none. Errors such as
/// `EMFILE` leave the connection waiting: close something or back off before the next call.
pub fn accept(fd: BorrowedFd<'_>) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
    loop {
        match acceptfrom_with(fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((socket, peer)) => {
                // A peer that is gone before it could be named is a connection that never was.
                match peer.map(SocketAddr::try_from) {
                    Some(Ok(peer)) => return Ok(Some((socket, peer))),
                    Some(Err(e)) => return Err(e.into()),
                    None => continue,
                }
            }
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(e) => return Err(e.into()),
        }
    }
}

/// Sends small segments at once instead of waiting for more (TCP_NODELAY).
pub fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(fd, true)?)
}

/// The address that a socket is bound to.
pub fn local_addr(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(getsockname(fd)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{IoSliceMut, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    fn accept_soon(fd: BorrowedFd<'_>) -> (OwnedFd, SocketAddr) {
        let start = Instant::now();
        loop {
            if let Some(found) = accept(fd).unwrap() {
                return found;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "no connection arrived");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn listen_accept_receive() {
        let listener = listen_tcp((Ipv4Addr::LOCALHOST, 0).into(), 8).unwrap();
        let addr = local_addr(listener.as_fd()).unwrap();
        assert_ne!(addr.port(), 0);
        assert!(accept(listener.as_fd()).unwrap().is_none());
        let mut client = TcpStream::connect(addr).unwrap();
        let (server, peer) = accept_soon(listener.as_fd());
        assert_eq!(peer, client.local_addr().unwrap());
        set_nodelay(server.as_fd()).unwrap();
        assert!(sockopt::tcp_nodelay(&server).unwrap());
        let mut bytes = [0u8; 8];
        let blocked = crate::recv_vectored(server.as_fd(), &mut [IoSliceMut::new(&mut bytes)]).unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"hello").unwrap();
        let start = Instant::now();
        let got = loop {
            match crate::recv_vectored(server.as_fd(), &mut [IoSliceMut::new(&mut bytes)]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && start.elapsed() < Duration::from_secs(10) => {}
                other => break other.unwrap(),
            }
        };
        assert_eq!(&bytes[..got], b"hello");
        drop(server);
        drop(listener);
        // The port is in TIME_WAIT at worst: a restarted daemon must be able to take it.
        listen_tcp(addr, 8).unwrap();
    }

    #[test]
    fn families_share_a_port() {
        let Ok(six) = listen_tcp((Ipv6Addr::LOCALHOST, 0).into(), 8) else { return };
        assert!(sockopt::ipv6_v6only(&six).unwrap());
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let first = listen_tcp((Ipv4Addr::LOCALHOST, 0).into(), 8).unwrap();
        let addr = local_addr(first.as_fd()).unwrap();
        assert_eq!(listen_tcp(addr, 8).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}

//! What the kernel knows of the way to a peer.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

/// Dwords of the kernel's `struct tcp_info` (linux/tcp.h, which only ever grows) up to `tcpi_min_rtt`, the last of them. The C library's
/// ends before.
const TCP_INFO_DWORDS: usize = 38;

/// The shortest round trip that the kernel has seen on this TCP connection in the last minutes; `None` if it knows none.
pub fn round_trip(fd: BorrowedFd<'_>) -> io::Result<Option<Duration>> {
    let mut info = [0_u32; TCP_INFO_DWORDS];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` has `len` bytes, which may become anything.
    let rc = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // An older kernel fills less, and all ones stand for a round trip that has not been.
    let min_rtt = if len as usize == size_of_val(&info) { info[TCP_INFO_DWORDS - 1] } else { u32::MAX };
    Ok((min_rtt != u32::MAX).then(|| Duration::from_micros(min_rtt.into())))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::*;

    #[test]
    fn the_round_trip_of_a_connection_that_has_moved_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut there, _) = listener.accept().unwrap();
        here.write_all(&[1; 100]).unwrap();
        there.read_exact(&mut [0; 100]).unwrap();
        there.write_all(&[1; 100]).unwrap();
        here.read_exact(&mut [0; 100]).unwrap();
        let time = round_trip(here.as_fd()).unwrap().expect("the first bytes were acknowledged");
        assert!(time < Duration::from_secs(10), "{time:?}");
        assert!(round_trip(UnixStream::pair().unwrap().0.as_fd()).is_err());
    }
}

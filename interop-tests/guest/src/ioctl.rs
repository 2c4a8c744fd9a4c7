//! Linux's NVMe passthrough calls, for which no crate has the 64-bit form: the only unsafe code of the interop tests.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

/// A command as user space may give it; the kernel fills in the rest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Command {
    pub(crate) opcode: u8,
    pub(crate) nsid: u32,
    /// CDW2 and CDW3.
    pub(crate) cdw2: [u32; 2],
    /// CDW10 to CDW15.
    pub(crate) cdw10: [u32; 6],
}

/// `struct nvme_passthru_cmd64` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PassthruCmd64 {
    opcode: u8,
    /// The kernel refuses anything but 0.
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: [u32; 2],
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: [u32; 6],
    /// 0 takes the kernel's default, 30 s for I/O and 60 s for admin commands.
    timeout_ms: u32,
    rsvd2: u32,
    /// DW0-1 of the completion.
    result: u64,
}

const _: () = {
    assert!(size_of::<PassthruCmd64>() == 80);
    assert!(std::mem::offset_of!(PassthruCmd64, addr) == 24);
    assert!(std::mem::offset_of!(PassthruCmd64, data_len) == 36);
    assert!(std::mem::offset_of!(PassthruCmd64, cdw10) == 40);
    assert!(std::mem::offset_of!(PassthruCmd64, timeout_ms) == 64);
    assert!(std::mem::offset_of!(PassthruCmd64, result) == 72);
};

/// Which queue a command goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Admin,
    Io,
}

/// The host buffer of a passthrough command. The kernel takes the direction from opcode bit 0, so the caller must not lend a
/// buffer to be read from to a command that the kernel writes with; [`submit`] checks it.
#[derive(Debug)]
pub(crate) enum Buffer<'a> {
    None,
    ToController(&'a [u8]),
    FromController(&'a mut [u8]),
}

/// Sends a command and waits for its completion: status (0 is success) and DW0-1.
///
/// # Errors
/// When the kernel did not complete it: `EINVAL` for what it refuses, others when the path is gone.
pub(crate) fn submit(device: &File, queue: Queue, command: Command, buffer: Buffer<'_>) -> io::Result<(u16, u64)> {
    let writes_to_device = command.opcode & 1 == 1;
    let (addr, len) = match buffer {
        Buffer::None => (0, 0),
        Buffer::ToController(bytes) if writes_to_device => (bytes.as_ptr() as u64, bytes.len()),
        Buffer::FromController(bytes) if !writes_to_device => (bytes.as_mut_ptr() as u64, bytes.len()),
        Buffer::ToController(_) | Buffer::FromController(_) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("opcode {:02x}h moves data the other way than its buffer", command.opcode),
            ));
        }
    };
    let data_len = u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut passthru = PassthruCmd64 {
        opcode: command.opcode,
        nsid: command.nsid,
        cdw2: command.cdw2,
        // An empty slice's pointer is not an address.
        addr: if data_len == 0 { 0 } else { addr },
        data_len,
        cdw10: command.cdw10,
        ..PassthruCmd64::default()
    };
    let number = match queue {
        Queue::Admin => read_write_number::<PassthruCmd64>(0x47),
        Queue::Io => read_write_number::<PassthruCmd64>(0x48),
    };
    // SAFETY: the number says that the argument is a `PassthruCmd64`, which is alive and exclusively ours during the call. `addr`
    // and `data_len` describe a slice that is borrowed until the call returns: shared when the kernel only reads it (opcode bit
    // 0 set), exclusive when it writes it. There is no metadata. The kernel keeps none of these addresses after it returned.
    let code = unsafe { libc::ioctl(device.as_raw_fd(), number, std::ptr::from_mut(&mut passthru)) };
    match u16::try_from(code) {
        Ok(status) => Ok((status, passthru.result)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// The namespace identifier of an `ngXnY` or `nvmeXnY` node.
///
/// # Errors
/// When the node is not an NVMe namespace.
pub(crate) fn namespace_id(device: &File) -> io::Result<u32> {
    // SAFETY: this call takes no argument and writes nothing; the namespace identifier is its return value.
    let code = unsafe { libc::ioctl(device.as_raw_fd(), NAMESPACE_ID) };
    u32::try_from(code).map_err(|_| io::Error::last_os_error())
}

/// `_IO('N', 0x40)`.
const NAMESPACE_ID: libc::Ioctl = (b'N' as libc::Ioctl) << 8 | 0x40;

/// `_IOWR('N', number, T)`: direction in bits 31:30, size of `T` in 29:16, type in 15:8, number in 7:0.
const fn read_write_number<T>(number: u8) -> libc::Ioctl {
    3 << 30 | (size_of::<T>() as libc::Ioctl) << 16 | (b'N' as libc::Ioctl) << 8 | number as libc::Ioctl
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_kernels() {
        assert_eq!(read_write_number::<PassthruCmd64>(0x47), 0xc050_4e47);
        assert_eq!(read_write_number::<PassthruCmd64>(0x48), 0xc050_4e48);
        assert_eq!(NAMESPACE_ID, 0x4e40);
    }

    #[test]
    fn a_buffer_of_the_wrong_direction_is_refused_before_the_kernel_sees_it() {
        let device = File::open("/dev/null").unwrap();
        let retrieve = Command { opcode: 0x02, ..Command::default() };
        let error = submit(&device, Queue::Io, retrieve, Buffer::ToController(&[1, 2, 3])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = submit(&device, Queue::Io, retrieve, Buffer::None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY), "/dev/null knows no passthrough");
    }
}

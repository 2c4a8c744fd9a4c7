//! A KV namespace behind the kernel's `/dev/ngXnY`, as a [`KvPort`].

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kvof_kv::{Data, IdentifyKvNamespace, KvCommand, KvConfiguration, KvPort, PortError, PortInfo, Reply, Status};
use kvof_spec::SglDescriptor;

use crate::ioctl::{self, Buffer, Command, Queue};

const GET_FEATURES: u8 = 0x0a;
const IDENTIFY: u8 = 0x06;
const SET_FEATURES: u8 = 0x09;

const CNS_CONTROLLER: u32 = 0x01;
const CNS_NAMESPACE_OF_COMMAND_SET: u32 = 0x05;
const CSI_KV: u32 = 0x01;
const MDTS_OFFSET: usize = 77;

const IDENTIFY_SIZE: usize = 4096;

/// Of the x86-64 kernels that this runs on.
const PAGE: usize = 4096;

/// How the names of these paths begin.
pub(crate) const KERNEL: &str = "Linux passthrough";

/// One open `ngXnY` node.
#[derive(Debug)]
pub(crate) struct KernelPort {
    device: File,
    info: PortInfo,
}

impl KernelPort {
    /// Opens a node and asks the controller behind it for the namespace's limits and its largest transfer.
    ///
    /// # Errors
    /// When it is not the node of a KV namespace, or the controller does not answer.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let nsid = ioctl::namespace_id(&device)
            .with_context(|| format!("{} is not the node of an NVMe namespace", path.display()))?;
        let identify = identify(&device, nsid, CNS_NAMESPACE_OF_COMMAND_SET, CSI_KV)
            .with_context(|| format!("{}: Identify of the KV namespace (CNS 05h, CSI 1)", path.display()))?;
        let Some(namespace) = IdentifyKvNamespace::from_bytes(&identify) else {
            bail!("{}: the Identify data is not that of a KV namespace", path.display());
        };
        let controller =
            identify_controller(&device).with_context(|| format!("{}: Identify Controller", path.display()))?;
        let max_transfer = match controller.get(MDTS_OFFSET) {
            Some(0) | None => u32::MAX,
            // Linux takes pages of 4 KiB, the least that a controller on a fabric may have.
            Some(&mdts) => 4096_u32.checked_shl(mdts.into()).unwrap_or(u32::MAX),
        };
        let name = format!("{KERNEL}, {}", path.display());
        Ok(Self { device, info: PortInfo { nsid, limits: namespace.limits(), max_transfer, name } })
    }

    fn admin(&self, command: Command, buffer: Buffer<'_>) -> Result<Reply, PortError> {
        let (status, result) =
            ioctl::submit(&self.device, Queue::Admin, command, buffer).map_err(|error| failed(&error))?;
        Ok(reply(status, result))
    }
}

impl KvPort for KernelPort {
    fn info(&self) -> PortInfo {
        self.info.clone()
    }

    fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
        if command.nsid != self.info.nsid {
            return Err(PortError::Unsupported(format!(
                "the kernel sends commands for namespace {} only, not for {}",
                self.info.nsid, command.nsid
            )));
        }
        let sqe = command.to_sqe(SglDescriptor::default());
        let passthru = Command {
            opcode: sqe.opcode,
            nsid: command.nsid,
            cdw2: [sqe.cdw2.get(), sqe.cdw3.get()],
            cdw10: [sqe.cdw10, sqe.cdw11, sqe.cdw12, sqe.cdw13, sqe.cdw14, sqe.cdw15].map(|dword| dword.get()),
        };
        let len = data.len();
        let mut bounce = Bounce::default();
        let result = match data {
            Data::None => ioctl::submit(&self.device, Queue::Io, passthru, Buffer::None),
            Data::Out(bytes) if needs_bounce(bytes) => {
                let aligned = bounce.holding(bytes);
                ioctl::submit(&self.device, Queue::Io, passthru, Buffer::ToController(aligned))
            }
            Data::Out(bytes) => ioctl::submit(&self.device, Queue::Io, passthru, Buffer::ToController(bytes)),
            Data::In(bytes) if needs_bounce(bytes) => {
                let aligned = bounce.holding(bytes);
                let result = ioctl::submit(&self.device, Queue::Io, passthru, Buffer::FromController(aligned));
                bytes.copy_from_slice(aligned);
                result
            }
            Data::In(bytes) => ioctl::submit(&self.device, Queue::Io, passthru, Buffer::FromController(bytes)),
        };
        match result {
            Ok((status, result)) => Ok(reply(status, result)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let opcode = sqe.opcode;
                Err(PortError::Unsupported(format!(
                    "the kernel refuses opcode {opcode:02x}h with {len} bytes: {error}"
                )))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// A buffer whose address or length is not aligned is bounced through zeroed pages and copied back whole.
    fn keeps_untransferred(&self) -> bool {
        false
    }

    fn admin_set_ednek(&self, on: bool) -> Option<Result<Status, PortError>> {
        let configuration = KvConfiguration { ednek: on };
        let command = Command {
            opcode: SET_FEATURES,
            nsid: self.info.nsid,
            cdw10: [KvConfiguration::FID.into(), configuration.to_dword(), 0, 0, 0, 0],
            ..Command::default()
        };
        Some(self.admin(command, Buffer::None).map(|reply| reply.status))
    }

    fn admin_get_ednek(&self) -> Option<Result<bool, PortError>> {
        let command = Command {
            opcode: GET_FEATURES,
            nsid: self.info.nsid,
            cdw10: [KvConfiguration::FID.into(), 0, 0, 0, 0, 0],
            ..Command::default()
        };
        Some(self.admin(command, Buffer::None).and_then(|reply| {
            if reply.status.is_success() {
                Ok(KvConfiguration::from_dword(reply.dw0).ednek)
            } else {
                Err(PortError::Failed(format!("Get Features 20h: {}", reply.status)))
            }
        }))
    }

    fn admin_identify_namespace(&self) -> Option<Result<Vec<u8>, PortError>> {
        let data = identify(&self.device, self.info.nsid, CNS_NAMESPACE_OF_COMMAND_SET, CSI_KV);
        Some(data.map_err(|error| PortError::Failed(format!("Identify CNS 05h: {error}"))))
    }
}

fn identify_controller(device: &File) -> io::Result<Vec<u8>> {
    identify(device, 0, CNS_CONTROLLER, 0)
}

fn identify(device: &File, nsid: u32, cns: u32, csi: u32) -> io::Result<Vec<u8>> {
    let mut data = vec![0; IDENTIFY_SIZE];
    let command = Command { opcode: IDENTIFY, nsid, cdw10: [cns, csi << 24, 0, 0, 0, 0], ..Command::default() };
    let (status, _) = ioctl::submit(device, Queue::Admin, command, Buffer::FromController(&mut data))?;
    let status = Status(status);
    if status.is_success() { Ok(data) } else { Err(io::Error::other(status.to_string())) }
}

fn reply(status: u16, result: u64) -> Reply {
    #[expect(clippy::cast_possible_truncation, reason = "DW0 is the lower half")]
    let dw0 = result as u32;
    Reply { status: Status(status), dw0 }
}

/// Linux maps at most 256 pages at once, and adds no more to a first part that does not start on a page: what begins within a
/// page and spans more pages is refused, unless some of them happen to be neighbours in memory.
fn needs_bounce(bytes: &[u8]) -> bool {
    let offset = bytes.as_ptr().addr() % PAGE;
    offset != 0 && offset + bytes.len() > 256 * PAGE
}

/// A copy of a buffer that starts on a page.
#[derive(Debug, Default)]
struct Bounce(Vec<u8>);

impl Bounce {
    fn holding(&mut self, bytes: &[u8]) -> &mut [u8] {
        self.0 = vec![0; bytes.len() + PAGE];
        let start = self.0.as_ptr().align_offset(PAGE);
        let aligned = &mut self.0[start..start + bytes.len()];
        aligned.copy_from_slice(bytes);
        aligned
    }
}

fn failed(error: &io::Error) -> PortError {
    PortError::Failed(format!("passthrough call: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounced_buffer_starts_on_a_page_and_has_the_same_bytes() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
        let inside = &bytes[5..];
        let mut bounce = Bounce::default();
        let aligned = bounce.holding(inside);
        assert_eq!(aligned.as_ptr().addr() % PAGE, 0);
        assert!(aligned == inside);
        assert!(!needs_bounce(aligned));
    }

    #[test]
    fn only_what_the_kernel_refuses_is_bounced() {
        let mut bounce = Bounce::default();
        let page = bounce.holding(&vec![0; 2 << 20]);
        assert!(!needs_bounce(page), "starts on a page");
        assert!(!needs_bounce(&page[16..1 << 20]), "256 pages");
        assert!(needs_bounce(&page[16..(1 << 20) + 1]), "257 pages");
    }
}

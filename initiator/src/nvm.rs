//! A namespace of logical blocks: read, write and flush, enough to test and time the transport.

use std::time::Duration;

use kvof_spec::identify::{Cns, IdentifyNamespace};
use kvof_spec::io::RwCmd;
use kvof_spec::{Csi, FromBytes, NvmOpcode, Sqe};

use crate::{Controller, Error, IoBuf, IoBufMut, Result, controller::Io, queue::Extent};

/// An NVM namespace of a connected [`Controller`]. A clone is another handle to the same namespace.
#[derive(Clone, Debug)]
pub struct NvmNamespace {
    controller: Controller,
    nsid: u32,
    blocks: u64,
    block_size: u32,
    timeout: Option<Duration>,
}

impl NvmNamespace {
    pub(crate) async fn open(controller: Controller, nsid: u32) -> Result<Self> {
        let found = controller.namespace(nsid).await?;
        if found.csi != Csi::NVM {
            let what = format!("the NVM command set in namespace {nsid}; it is of command set {}", found.csi);
            return Err(Error::Unsupported { address: controller.address().to_string(), what });
        }
        let data = controller.identify(Cns::NAMESPACE, nsid, Csi::NVM).await?;
        let (blocks, block_size) = geometry(&data).ok_or_else(|| {
            Error::invalid_answer("Identify (NVM namespace)", "no LBA format that this library can use")
        })?;
        Ok(Self { controller, nsid, blocks, block_size, timeout: None })
    }

    /// The same namespace with another time limit for its operations than [`ConnectOptions::command_timeout`].
    ///
    /// [`ConnectOptions::command_timeout`]: crate::ConnectOptions::command_timeout
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// Namespace identifier.
    #[must_use]
    pub const fn nsid(&self) -> u32 {
        self.nsid
    }

    /// The controller.
    #[must_use]
    pub const fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Logical blocks (NSZE).
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Bytes of one logical block.
    #[must_use]
    pub const fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Reads blocks from `slba` on into `buffer`, which is whole blocks, and gives the buffer back.
    ///
    /// # Errors
    /// [`Error::Argument`] for a buffer that is not whole blocks or too large for one command.
    pub async fn read<B: IoBufMut>(&self, slba: u64, mut buffer: B) -> (Result<()>, B) {
        let len = buffer.room();
        let sqe = match self.command(NvmOpcode::READ, slba, len) {
            Ok(sqe) => sqe,
            Err(error) => return (Err(error), buffer),
        };
        let (result, buffer) = self.controller.io_in(self.io("Read", sqe), buffer).await;
        let result = result.and_then(|reply| match reply.received as usize {
            received if received == len => Ok(()),
            received => Err(Error::invalid_answer("Read", format!("{received} of {len} bytes came"))),
        });
        (result, buffer)
    }

    /// Writes `data`, whole blocks, from `slba` on and gives the buffer back.
    ///
    /// # Errors
    /// [`Error::Argument`] for a buffer that is not whole blocks or too large for one command.
    pub async fn write<B: IoBuf>(&self, slba: u64, data: B) -> (Result<()>, B) {
        let sqe = match self.command(NvmOpcode::WRITE, slba, data.size()) {
            Ok(sqe) => sqe,
            Err(error) => return (Err(error), data),
        };
        let (result, data) = self.controller.io_out(self.io("Write", sqe), data).await;
        (result.map(|_| ()), data)
    }

    /// Commits what was written to non-volatile media.
    ///
    /// # Errors
    /// As the controller answers.
    pub async fn flush(&self) -> Result<()> {
        let mut sqe = Sqe::new(NvmOpcode::FLUSH);
        sqe.nsid = self.nsid.into();
        self.controller.io_none(self.io("Flush", sqe)).await.map(|_| ())
    }

    const fn io(&self, name: &'static str, sqe: Sqe) -> Io {
        Io { name, sqe, timeout: self.timeout, repeat: false, extent: Extent::Buffer }
    }

    fn command(&self, opcode: NvmOpcode, slba: u64, len: usize) -> Result<Sqe> {
        let max = self.controller.max_transfer();
        let blocks = u32::try_from(len)
            .ok()
            .filter(|len| *len <= max && len.is_multiple_of(self.block_size))
            .map(|len| len / self.block_size);
        blocks.and_then(|blocks| RwCmd::new(opcode, self.nsid, slba, blocks)).map(|c| c.to_sqe()).ok_or_else(|| {
            let rule = format!(
                "one command of namespace {} moves 1 to 65536 blocks of {} bytes, at most {max} bytes (MDTS)",
                self.nsid, self.block_size
            );
            Error::argument("buffer length", len, rule)
        })
    }
}

/// Blocks and block size, if this library can use the format.
fn geometry(data: &[u8]) -> Option<(u64, u32)> {
    let data = IdentifyNamespace::ref_from_bytes(data).ok()?;
    // Bit 4: metadata between the blocks.
    if data.flbas & 0x10 != 0 && data.format()?.ms.get() != 0 {
        return None;
    }
    Some((data.nsze.get(), data.block_size()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_follows_the_format_in_use() {
        let mut data = vec![0u8; 4096];
        data[..8].copy_from_slice(&1000u64.to_le_bytes());
        data[26] = 1;
        data[130] = 9;
        data[134] = 12;
        assert_eq!(geometry(&data), Some((1000, 4096)));
        data[134] = 0;
        assert_eq!(geometry(&data), None);
        data[26] = 0x10;
        data[128] = 8;
        assert_eq!(geometry(&data), None);
        assert_eq!(geometry(&data[..64]), None);
    }
}

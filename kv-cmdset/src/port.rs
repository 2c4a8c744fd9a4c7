//! A path to a KV namespace on which commands are executed one at a time per caller: the library, the kernel's
//! passthrough, or a store in the same process. The conformance suite and the tools speak to this.

use core::fmt;

use kvof_spec::Status;
use thiserror::Error;

use crate::{Key, KvCommand, KvLimits, RetrieveOptions, StoreOptions};

/// The host's data buffer of one command.
pub enum Data<'a> {
    /// None: Delete and Exist.
    None,
    /// To the controller: Store.
    Out(&'a [u8]),
    /// From the controller: Retrieve and List. Bytes that the controller does not transfer stay as they are, or, on a
    /// path where [`KvPort::keeps_untransferred`] is false, become zero.
    In(&'a mut [u8]),
}

impl Data<'_> {
    /// The buffer's length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Out(bytes) => bytes.len(),
            Self::In(bytes) => bytes.len(),
        }
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Out(bytes) => write!(f, "Out({} bytes)", bytes.len()),
            Self::In(bytes) => write!(f, "In({} bytes)", bytes.len()),
        }
    }
}

/// A completion, as far as every path can see it. How many bytes were transferred is not among it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Status field.
    pub status: Status,
    /// Completion dword 0.
    pub dw0: u32,
}

/// What is at the other end of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortInfo {
    /// The namespace under test.
    pub nsid: u32,
    /// Its limits, as Identify Namespace for the KV command set gives them.
    pub limits: KvLimits,
    /// Most bytes that the path can move in one command.
    pub max_transfer: u32,
    /// For people: which path this is.
    pub name: String,
}

/// The command did not complete: there is no status.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PortError {
    /// This path cannot express the command (the kernel refuses foreign NSIDs, for instance). Nothing was sent.
    #[error("not possible on this path: {0}")]
    Unsupported(String),
    /// The path failed: the connection is lost, the command timed out, the call was refused.
    #[error("the path failed: {0}")]
    Failed(String),
}

/// A path to a KV namespace. Calls block; several threads may call at once.
pub trait KvPort: Send + Sync {
    /// What is at the other end; constant.
    fn info(&self) -> PortInfo;

    /// Executes `command` as it is, however wrong it may be, with `data` as its buffer: the SGL says `data`'s length,
    /// CDW10 says `command.size`, and the two may differ.
    ///
    /// # Errors
    /// [`PortError`] if there is no completion. A completion with an error status is `Ok`.
    fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError>;

    /// Whether bytes of a [`Data::In`] buffer that the controller does not transfer stay as they are. If not, they may
    /// also become zero: Linux does that where it bounces a buffer that is not aligned.
    fn keeps_untransferred(&self) -> bool {
        true
    }

    /// Sets feature 20h's EDNEK for the namespace. `None`: this path has no admin commands.
    fn admin_set_ednek(&self, _on: bool) -> Option<Result<Status, PortError>> {
        None
    }

    /// Feature 20h's EDNEK of the namespace. `None`: this path has no admin commands.
    fn admin_get_ednek(&self) -> Option<Result<bool, PortError>> {
        None
    }

    /// Identify, CNS 05h, CSI 1 (Key Value): 4096 bytes. `None`: this path has no admin commands.
    fn admin_identify_namespace(&self) -> Option<Result<Vec<u8>, PortError>> {
        None
    }

    /// Store `value` under `key`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    fn store(&self, key: &Key, options: StoreOptions, value: &[u8]) -> Result<Reply, PortError> {
        let command = KvCommand::store(self.info().nsid, key, options, size_of_buffer(value.len())?);
        self.execute(&command, Data::Out(value))
    }

    /// Retrieve the value of `key` into `buffer`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    fn retrieve(&self, key: &Key, buffer: &mut [u8]) -> Result<Reply, PortError> {
        let size = size_of_buffer(buffer.len())?;
        let command = KvCommand::retrieve(self.info().nsid, key, RetrieveOptions::empty(), size);
        self.execute(&command, Data::In(buffer))
    }

    /// Delete `key`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    fn delete(&self, key: &Key) -> Result<Reply, PortError> {
        self.execute(&KvCommand::delete(self.info().nsid, key), Data::None)
    }

    /// Whether `key` exists.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    fn exist(&self, key: &Key) -> Result<Reply, PortError> {
        self.execute(&KvCommand::exist(self.info().nsid, key), Data::None)
    }

    /// List keys from `start` into `buffer`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    fn list(&self, start: Option<&Key>, buffer: &mut [u8]) -> Result<Reply, PortError> {
        let command = KvCommand::list(self.info().nsid, start, size_of_buffer(buffer.len())?);
        self.execute(&command, Data::In(buffer))
    }
}

fn size_of_buffer(len: usize) -> Result<u32, PortError> {
    u32::try_from(len)
        .map_err(|_| PortError::Unsupported(format!("a buffer of {len} bytes: a command's size field has 32 bits")))
}

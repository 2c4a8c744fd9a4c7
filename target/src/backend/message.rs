//! What cores tell each other about requests.

use kvof_io::PoolBuf;
use kvof_kv::{Key, KvError, KvRequest, OpId};

use super::IoResult;
use crate::model::BackendId;

/// A message from one core's [`Backends`](super::Backends) to another's.
#[derive(Debug)]
pub struct BackendMessage {
    pub(super) backend: BackendId,
    /// The request, as the core that took it from its queue calls it.
    pub(super) op: OpId,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    /// Do this.
    Request(KvRequest<PoolBuf>),
    /// What came of it.
    Result(IoResult),
    /// Your first keys from `start`, as many as fit in a list of `max_bytes`.
    ListKeys { start: Option<Key>, max_bytes: u32 },
    /// Those keys, in order.
    Keys(Result<Vec<Key>, KvError>),
    /// Flush what you have of the storage.
    Flush,
    /// What came of it.
    Flushed(Result<(), KvError>),
}

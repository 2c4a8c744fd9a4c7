//! What a storage engine offers to a namespace.
//!
//! The engine never blocks its caller: [`KvStore::submit`] takes a request, [`KvStore::poll`] gives finished ones in any
//! order. Two requests on one key that are in flight together are done in some order, each entirely.
//!
//! No copy is forced: the place of a value is [reserved](KvStore::reserve) before its bytes arrive and is filled by the
//! transport, and a value that was read is lent out until its bytes are sent.

use kvof_spec::Status;
use thiserror::Error;

use crate::{Key, KeyList, KvLimits, KvOp, StoreOptions};

/// Names a request from its submission to its completion; chosen by the caller, unique among those in flight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OpId(pub u64);

/// A request to a store. `S` is the store's [`KvStore::Slot`].
#[derive(Debug)]
pub enum KvRequest<S> {
    /// Store the whole of `value` under `key`, replacing what was there.
    Store {
        /// The key.
        key: Key,
        /// Conditions and hints. With both conditions: an existing key gives [`KvError::KeyExists`], a missing one
        /// [`KvError::KeyDoesNotExist`].
        options: StoreOptions,
        /// The value; its length is the value's length.
        value: S,
    },
    /// Read the value of `key`, the whole of it.
    Retrieve {
        /// The key.
        key: Key,
        /// Without decompression.
        raw: bool,
    },
    /// Remove `key`; if it is missing, [`KvError::KeyDoesNotExist`].
    Delete {
        /// The key.
        key: Key,
    },
    /// Ask whether `key` exists; if it is missing, [`KvError::KeyDoesNotExist`].
    Exist {
        /// The key.
        key: Key,
    },
    /// The keys in [their order](Key#order), first the smallest that is not below `start`.
    List {
        /// Where to start; `None` for the first key.
        start: Option<Key>,
        /// Most bytes of encoded list, at least 4. An engine writes through [`ListWriter`](crate::ListWriter), which
        /// keeps to it and allocates only what the keys need.
        max_bytes: u32,
    },
}

/// What came of a request that succeeded. `V` is the store's [`KvStore::Value`].
#[derive(Debug)]
pub enum KvOutcome<V> {
    /// The value is stored, as durably as the namespace promises.
    Stored,
    /// The whole value.
    Retrieved(V),
    /// The key existed and is gone.
    Deleted,
    /// The key exists.
    Exists {
        /// Its value's length in bytes.
        len: u32,
    },
    /// Keys, already encoded.
    Listed(KeyList),
}

/// Why a request did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum KvError {
    /// There is no such key.
    #[error("the key does not exist")]
    KeyDoesNotExist,
    /// There is such a key, and the store was conditional on there being none.
    #[error("the key exists")]
    KeyExists,
    /// No room for the value, or MNKS keys are stored.
    #[error("the namespace is full")]
    CapacityExceeded,
    /// The value is longer than KVVML.
    #[error("the value is too long")]
    InvalidValueSize,
    /// The value cannot be read or written.
    #[error("the medium failed")]
    Unrecovered,
    /// The namespace cannot serve requests now.
    #[error("the namespace is not ready")]
    NotReady,
    /// The engine has a fault.
    #[error("the store failed")]
    Internal,
}

impl From<KvError> for Status {
    fn from(error: KvError) -> Self {
        match error {
            KvError::KeyDoesNotExist => Self::KEY_DOES_NOT_EXIST,
            KvError::KeyExists => Self::KEY_EXISTS,
            KvError::CapacityExceeded => Self::CAPACITY_EXCEEDED,
            KvError::InvalidValueSize => Self::INVALID_VALUE_SIZE,
            KvError::Unrecovered => Self::UNRECOVERED_ERROR,
            KvError::NotReady => Self::NAMESPACE_NOT_READY,
            KvError::Internal => Self::INTERNAL_ERROR,
        }
    }
}

/// How full a namespace is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KvUsage {
    /// NSZE: size of the namespace, bytes.
    pub nsze: u64,
    /// NUSE: bytes in use.
    pub nuse: u64,
    /// Keys stored.
    pub keys: u64,
}

/// How a request ended.
pub type KvResult<V> = Result<KvOutcome<V>, KvError>;

/// A storage engine's side of one KV namespace.
pub trait KvStore {
    /// Where a value that is being stored is received: exactly as long as was reserved. Dropping it gives it back.
    type Slot: AsRef<[u8]> + AsMut<[u8]>;
    /// A value that was read. Dropping it gives it back.
    type Value: AsRef<[u8]>;

    /// What the namespace's format allows; constant while the store is open.
    fn limits(&self) -> KvLimits;

    /// How full the namespace is.
    fn usage(&self) -> KvUsage;

    /// A place for a value of `len` bytes, `len` at most KVVML. Its content is arbitrary. `None`: no memory now; try
    /// again after a completion.
    fn reserve(&mut self, len: u32) -> Option<Self::Slot>;

    /// Takes a request. Its result comes from [`poll`](Self::poll) exactly once, under `id`.
    fn submit(&mut self, id: OpId, request: KvRequest<Self::Slot>);

    /// A finished request, or `None` if there is none now.
    fn poll(&mut self) -> Option<(OpId, KvResult<Self::Value>)>;
}

impl KvOp {
    /// The request that does this operation; `None` for Store, which needs its value: [`KvOp::store_request`].
    ///
    /// Retrieve into a buffer of 0 bytes wants the value's length alone: that is an Exist to the store.
    #[must_use]
    pub const fn request<S>(&self) -> Option<KvRequest<S>> {
        match *self {
            Self::Store { .. } => None,
            Self::Retrieve { key, raw: false, buffer: 0 } => Some(KvRequest::Exist { key }),
            Self::Retrieve { key, raw, .. } => Some(KvRequest::Retrieve { key, raw }),
            Self::Delete { key } => Some(KvRequest::Delete { key }),
            Self::Exist { key } => Some(KvRequest::Exist { key }),
            Self::List { start, buffer } => Some(KvRequest::List { start, max_bytes: buffer }),
        }
    }

    /// The request that stores `value`, whose bytes have all arrived; `None` unless this is Store.
    #[must_use]
    pub fn store_request<S>(&self, value: S) -> Option<KvRequest<S>> {
        match *self {
            Self::Store { key, options, .. } => Some(KvRequest::Store { key, options, value }),
            _ => None,
        }
    }
}

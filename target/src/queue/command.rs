//! A command between its capsule and its completion.

use std::sync::Arc;

use kvof_io::PoolBuf;
use kvof_spec::Sqe;

use super::HostData;
use crate::{backend::IoRequest, model::Namespace, namespace::PendingStore};

/// An outstanding command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) sqe: Sqe,
    pub(super) data: HostData,
    pub(super) ns: Option<Arc<Namespace>>,
    pub(super) stage: Stage,
    pub(super) obligation: Obligation,
}

/// How far a command has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Waits until the transport fetches more data.
    AwaitTurn { len: u32, then: Then },
    /// Waits for pool memory to receive its data into.
    AwaitMemory { len: u32, then: Then },
    /// The transport fills `landing`.
    Receiving { landing: Landing, then: Then },
    /// The same, but the transport has taken the landing: a device fills it.
    Lent { then: Then },
    /// Its data came in the capsule when the pool was empty, and waits for a place there.
    Spilled { bytes: Vec<u8>, then: Then },
    /// Waits for pool memory that the backend needs.
    AwaitSubmit(IoRequest),
    /// A backend has it, or the queue is in the middle of handling it.
    Executing,
    /// An Asynchronous Event Request that waits for its event.
    Held,
}

/// What received data is for.
#[derive(Debug)]
pub(super) enum Then {
    Connect,
    Admin,
    Io(PendingStore),
}

/// Where a command's data is received.
#[derive(Debug)]
pub enum Landing {
    /// The place from which it is stored; no copy follows.
    Pool(PoolBuf),
    /// Ordinary memory, for admin data and for small in-capsule data when the pool is empty.
    Heap(Vec<u8>),
}

impl Landing {
    /// The received bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Pool(buf) => buf,
            Self::Heap(bytes) => bytes,
        }
    }

    /// Copies received bytes to `at`, which a pool buffer counts; false, with no effect, if there is no room for them.
    pub fn copy_in(&mut self, at: usize, from: &[u8]) -> bool {
        match self {
            Self::Pool(buf) => buf.copy_in(at, from),
            // What lands here is copied once more, and counted twice then.
            Self::Heap(bytes) => match bytes.get_mut(at..at.saturating_add(from.len())) {
                Some(place) => {
                    place.copy_from_slice(from);
                    true
                }
                None => false,
            },
        }
    }

    /// The place to fill.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Self::Pool(buf) => buf,
            Self::Heap(bytes) => bytes,
        }
    }
}

/// The duty to complete a command that was taken, exactly once. Dropping it undischarged is a bug: debug builds panic.
#[derive(Debug)]
pub(super) struct Obligation {
    cid: u16,
    open: bool,
}

impl Obligation {
    pub(super) const fn taken(cid: u16) -> Self {
        Self { cid, open: true }
    }

    /// The completion is on its way.
    pub(super) fn complete(&mut self) {
        debug_assert!(self.open, "command {} completed twice", self.cid);
        self.open = false;
    }

    /// The connection is gone, and no completion can be sent.
    pub(super) fn abandon(&mut self) {
        self.open = false;
    }
}

impl Drop for Obligation {
    fn drop(&mut self) {
        debug_assert!(!self.open || std::thread::panicking(), "command {} dropped without a completion", self.cid);
    }
}

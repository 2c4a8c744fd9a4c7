//! What every case works with: a port, keys of its own, and expectations that say what was expected and what came.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use kvof_spec::Status;

use super::{Profile, RunOptions};
use crate::{Data, Key, KvCommand, KvPort, PortError, PortInfo, Reply, StoreOptions};

/// Why a case ends early.
pub(super) enum Stop {
    Failed(String),
    Skipped(String),
}

impl From<PortError> for Stop {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Unsupported(_) => Self::Skipped(error.to_string()),
            PortError::Failed(_) => Self::Failed(error.to_string()),
        }
    }
}

/// One case's view of the port.
pub(super) struct Context<'a> {
    pub(super) port: &'a dyn KvPort,
    pub(super) info: PortInfo,
    pub(super) profile: Profile,
    prefix: [u8; PREFIX_LEN],
    rng: Rng,
    /// Keys that may be stored and are to be deleted in the end.
    claimed: BTreeSet<Key>,
}

/// Bytes of random prefix in the keys of a case.
pub(super) const PREFIX_LEN: usize = 4;

impl<'a> Context<'a> {
    pub(super) fn new(port: &'a dyn KvPort, options: &RunOptions, case: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (options.seed, case).hash(&mut hasher);
        let mut rng = Rng::new(hasher.finish());
        let prefix = rng.bytes();
        Self { port, info: port.info(), profile: options.profile, prefix, rng, claimed: BTreeSet::new() }
    }

    /// Removes what the case has stored.
    pub(super) fn clean_up(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        for key in core::mem::take(&mut self.claimed) {
            match self.port.delete(&key) {
                Ok(reply) if matches!(reply.status.code(), Status::SUCCESS | Status::KEY_DOES_NOT_EXIST) => {}
                Ok(reply) => result = Err(format!("cleaning up: Delete of {key:?}: {}", reply.status)),
                Err(error) => result = Err(format!("cleaning up: Delete of {key:?}: {error}")),
            }
        }
        result
    }
}

/// A small generator (splitmix64): good enough to make data that differ, and the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self) -> [u8; PREFIX_LEN] {
        let [a, b, c, d, ..] = self.next().to_le_bytes();
        [a, b, c, d]
    }
}

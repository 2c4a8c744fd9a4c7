//! What every case works with: a port, keys of its own, and expectations that say what was expected and what came.

use core::fmt::{Debug, Display};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use kvof_spec::Status;

use super::{Profile, RunOptions};
use crate::{Data, Key, KvCommand, KvPort, PortError, PortInfo, Reply, StoreOptions};

/// Why a case ends early.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(String),
    Skipped(String),
}

pub(super) type CaseResult = Result<(), Stop>;

impl From<PortError> for Stop {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Unsupported(_) => Self::Skipped(error.to_string()),
            PortError::Failed(_) => Self::Failed(error.to_string()),
        }
    }
}

pub(super) fn fail<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Failed(reason.into()))
}

pub(super) fn skip<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Skipped(reason.into()))
}

/// What buffers are filled with before they are lent to a command.
pub(super) const FILL: u8 = 0xa5;

/// Bytes of value that every case may store.
const MIN_VALUE: usize = 4096;
/// Keys that every case may store.
const MIN_KEYS: u32 = 512;

/// Bytes of random prefix in the keys of a case.
pub(super) const PREFIX_LEN: usize = 4;

/// One case's view of the port.
pub(super) struct Context<'a> {
    pub(super) port: &'a dyn KvPort,
    pub(super) info: PortInfo,
    pub(super) profile: Profile,
    pub(super) rng: Rng,
    prefix: [u8; PREFIX_LEN],
    /// Keys that may be stored and are to be deleted in the end.
    claimed: BTreeSet<Key>,
}

impl<'a> Context<'a> {
    pub(super) fn new(port: &'a dyn KvPort, options: &RunOptions, case: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (options.seed, case).hash(&mut hasher);
        let mut rng = Rng::new(hasher.finish());
        let prefix = rng.bytes();
        Self { port, info: port.info(), profile: options.profile, prefix, rng, claimed: BTreeSet::new() }
    }

    /// Why the cases, which take some room for granted, cannot run here.
    pub(super) fn too_small(&self) -> Option<String> {
        let limits = self.info.limits;
        if self.longest_value() < MIN_VALUE {
            let (kvvml, path) = (limits.kvvml, self.info.max_transfer);
            return Some(format!("needs values of {MIN_VALUE} bytes: KVVML is {kvvml} and the path moves {path}"));
        }
        if limits.mnks != 0 && limits.mnks < MIN_KEYS {
            return Some(format!("needs room for {MIN_KEYS} keys: MNKS is {}", limits.mnks));
        }
        None
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

    pub(super) fn kvkml(&self) -> usize {
        usize::from(self.info.limits.kvkml).min(Key::MAX_LEN)
    }

    /// The longest value that the namespace takes and the path can move, bytes.
    pub(super) fn longest_value(&self) -> usize {
        self.info.limits.kvvml.min(self.info.max_transfer) as usize
    }

    /// A key of this case: its prefix, then `suffix`. It does not exist yet.
    pub(super) fn key(&mut self, suffix: &[u8]) -> Result<Key, Stop> {
        let bytes = [&self.prefix[..], suffix].concat();
        if bytes.len() > self.kvkml() {
            return skip(format!("needs keys of {} bytes, and KVKML is {}", bytes.len(), self.kvkml()));
        }
        let key = Key::new(&bytes).map_err(|error| Stop::Failed(error.to_string()))?;
        if self.claim(&key)? { Ok(key) } else { skip(format!("the random key {key:?} exists")) }
    }

    /// Makes `key` this case's own, unless it exists already: then it is somebody else's, and false is returned.
    pub(super) fn claim(&mut self, key: &Key) -> Result<bool, Stop> {
        if self.claimed.contains(key) {
            return Ok(true);
        }
        let reply = self.port.exist(key)?;
        match reply.status.code() {
            Status::SUCCESS => Ok(false),
            Status::KEY_DOES_NOT_EXIST => Ok(self.claimed.insert(*key)),
            _ => {
                fail(unexpected(format_args!("Exist of the new key {key:?}"), reply.status, Status::KEY_DOES_NOT_EXIST))
            }
        }
    }

    /// Bytes that look random and depend on the seed of the run.
    pub(super) fn value(&mut self, len: usize) -> Vec<u8> {
        stamped(self.rng.next(), len)
    }

    pub(super) fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, Stop> {
        Ok(self.port.execute(command, data)?)
    }

    /// The status must be `expected`; DNR and the like do not count.
    pub(super) fn expect(&self, what: impl Display, reply: Reply, expected: Status) -> CaseResult {
        self.expect_any(what, reply, expected, &[])
    }

    /// The status must be `ours`, or, for targets with other choices, one of `theirs`.
    pub(super) fn expect_any(&self, what: impl Display, reply: Reply, ours: Status, theirs: &[Status]) -> CaseResult {
        let got = reply.status.code();
        if got == ours || (self.profile == Profile::Standard && theirs.contains(&got)) {
            return Ok(());
        }
        fail(unexpected(what, reply.status, ours))
    }

    /// Stores `value`, which must succeed.
    pub(super) fn store(&self, key: &Key, value: &[u8]) -> CaseResult {
        self.store_with(key, StoreOptions::empty(), value)
    }

    pub(super) fn store_with(&self, key: &Key, options: StoreOptions, value: &[u8]) -> CaseResult {
        let what = format!("Store of {} bytes under {key:?}", value.len());
        let reply = self.port.store(key, options, value)?;
        self.expect(&what, reply, Status::SUCCESS)?;
        if reply.dw0 != 0 && (self.profile == Profile::Kvof || reply.dw0 as usize != value.len()) {
            return fail(format!("{what}: expected DW0 0, got {}", reply.dw0));
        }
        Ok(())
    }

    /// Deletes `key`, which exists.
    pub(super) fn delete(&self, key: &Key) -> CaseResult {
        let reply = self.port.delete(key)?;
        self.expect(format_args!("Delete of the existing key {key:?}"), reply, Status::SUCCESS)?;
        expect_eq(format_args!("DW0 of Delete of {key:?}"), reply.dw0, 0)
    }

    /// `key` must exist with exactly `value`; read with some bytes of buffer to spare where the path can move as many.
    pub(super) fn expect_value(&self, key: &Key, value: &[u8]) -> CaseResult {
        let buffer = (value.len() + 16).min(self.info.max_transfer as usize).max(value.len());
        self.expect_retrieve(key, value, buffer)
    }

    /// Retrieve into a buffer of `buffer` bytes must give the start of `value`, its full length, and nothing more.
    pub(super) fn expect_retrieve(&self, key: &Key, value: &[u8], buffer: usize) -> CaseResult {
        let what = format!("Retrieve of {key:?}, {} bytes, into a buffer of {buffer}", value.len());
        let mut bytes = vec![FILL; buffer];
        let reply = self.port.retrieve(key, &mut bytes)?;
        self.expect(&what, reply, Status::SUCCESS)?;
        expect_eq(format_args!("{what}: DW0 (the value's full length)"), reply.dw0 as usize, value.len())?;
        let transferred = value.len().min(buffer);
        let (head, tail) = bytes.split_at(transferred);
        expect_bytes(&what, head, &value[..transferred])?;
        self.expect_untouched(&what, tail, transferred)
    }

    /// The bytes of a buffer that lie after what was transferred must be as they were.
    pub(super) fn expect_untouched(&self, what: impl Display, tail: &[u8], offset: usize) -> CaseResult {
        let zeros_too = !self.port.keeps_untransferred();
        match tail.iter().position(|b| *b != FILL && !(zeros_too && *b == 0)) {
            Some(at) => fail(format!(
                "{what}: byte {} of the buffer, after the last to transfer, was {FILL:#04x} and became {:#04x}",
                offset + at,
                tail[at]
            )),
            None => Ok(()),
        }
    }

    /// `key` must exist.
    pub(super) fn expect_exists(&self, key: &Key, len: usize) -> CaseResult {
        let what = format!("Exist of {key:?}");
        let reply = self.port.exist(key)?;
        self.expect(&what, reply, Status::SUCCESS)?;
        if reply.dw0 != 0 && (self.profile == Profile::Kvof || reply.dw0 as usize != len) {
            return fail(format!("{what}: expected DW0 0, got {}", reply.dw0));
        }
        Ok(())
    }

    /// `key` must not exist, for Exist and for Retrieve, which must not touch its buffer.
    pub(super) fn expect_absent(&self, key: &Key) -> CaseResult {
        let reply = self.port.exist(key)?;
        self.expect(format_args!("Exist of the missing key {key:?}"), reply, Status::KEY_DOES_NOT_EXIST)?;
        let what = format!("Retrieve of the missing key {key:?}");
        let mut buffer = [FILL; 64];
        let reply = self.port.retrieve(key, &mut buffer)?;
        self.expect(&what, reply, Status::KEY_DOES_NOT_EXIST)?;
        self.expect_untouched(&what, &buffer, 0)
    }
}

pub(super) fn unexpected(what: impl Display, got: Status, expected: Status) -> String {
    format!("{what}: expected {expected}, got {got}")
}

#[expect(clippy::needless_pass_by_value, reason = "callers compare temporaries")]
pub(super) fn expect_eq<T: PartialEq + Debug>(what: impl Display, got: T, expected: T) -> CaseResult {
    if got == expected { Ok(()) } else { fail(format!("{what}: expected {expected:?}, got {got:?}")) }
}

pub(super) fn expect_bytes(what: impl Display, got: &[u8], expected: &[u8]) -> CaseResult {
    if got == expected {
        return Ok(());
    }
    match got.iter().zip(expected).position(|(g, e)| g != e) {
        Some(at) => fail(format!("{what}: byte {at}: expected {:#04x}, got {:#04x}", expected[at], got[at])),
        None => fail(format!("{what}: expected {} bytes, got {}", expected.len(), got.len())),
    }
}

/// Length of the stamp that [`stamped`] puts first.
pub(super) const STAMP_LEN: usize = 8;

/// `len` bytes: `stamp` in the first 8 (as far as they go), then bytes that follow from it.
pub(super) fn stamped(stamp: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(stamp);
    let mut bytes = Vec::with_capacity(len + STAMP_LEN);
    bytes.extend_from_slice(&stamp.to_le_bytes());
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
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

    /// A number below `bound`, which is not 0.
    pub(super) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    const fn bytes(&mut self) -> [u8; PREFIX_LEN] {
        let [a, b, c, d, ..] = self.next().to_le_bytes();
        [a, b, c, d]
    }
}

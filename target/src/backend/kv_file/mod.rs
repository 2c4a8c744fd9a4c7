//! A KV namespace in a file.
use std::sync::Arc;

use kvof_io::{DiskFile, Pool, PoolBuf};
use kvof_kv::{KvRequest, OpId};

use super::{DiskResult, Env, Origin, Submitted, disk::DiskTag};
use crate::model::Namespace;

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not yet.
    #[error("KV namespaces in files cannot be opened yet")]
    Unsupported,
}

#[derive(Debug)]
pub(super) enum KvFile {}

#[expect(clippy::needless_pass_by_value, reason = "shape")]
impl KvFile {
    pub(super) fn open(_: &Arc<Namespace>, _: DiskFile, _: &Pool) -> Result<Self, FormatError> {
        Err(FormatError::Unsupported)
    }
    pub(super) fn submit(&mut self, _: &mut Env, _: OpId, _: KvRequest<PoolBuf>) -> Submitted {
        match *self {}
    }
    pub(super) fn submit_for(&mut self, _: &mut Env, _: Origin, _: KvRequest<PoolBuf>) {
        match *self {}
    }
    pub(super) fn handle_disk(&mut self, _: &mut Env, _: DiskTag, _: DiskResult) {
        match *self {}
    }
    pub(super) fn retry_hungry(&mut self, _: &mut Env) {
        match *self {}
    }
    pub(super) fn is_hungry(&self) -> bool {
        match *self {}
    }
    pub(super) fn drain(&mut self, _: &mut Env) {
        match *self {}
    }
    pub(super) fn is_idle(&self) -> bool {
        match *self {}
    }
}

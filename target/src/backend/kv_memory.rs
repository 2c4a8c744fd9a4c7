//! A KV namespace in memory: the core that a key's hash picks holds the key and its value, in its [`MemoryShard`].
//! Requests for the keys of other cores travel there as messages; a List asks all of them.

use kvof_io::{PoolBuf, SharedBuf};
use kvof_kv::{Key, KvError, KvRequest, KvResult, KvStore as _, OpId};
use kvof_store::volume::shard_of;

use super::{
    Env, IoError, IoOutcome, Submitted,
    gather::Gathers,
    memory_shard::MemoryShard,
    message::{BackendMessage, Body},
};
use crate::model::BackendId;

/// One core's shard, and its part in the traffic between cores.
#[derive(Debug)]
pub(super) struct KvMemory {
    shard: MemoryShard,
    /// Lists that wait for other cores.
    gathers: Gathers,
}

/// The core that holds `key`.
fn core_of(key: &Key, cores: usize) -> usize {
    shard_of(key, u16::try_from(cores).unwrap_or(u16::MAX)).into()
}

impl KvMemory {
    pub(super) fn new(shard: MemoryShard) -> Self {
        Self { shard, gathers: Gathers::default() }
    }

    /// Runs `request` here or sends it to where its key is.
    pub(super) fn submit(&mut self, env: &mut Env, id: BackendId, op: OpId, request: KvRequest<PoolBuf>) -> Submitted {
        let key = match &request {
            KvRequest::Store { key, .. }
            | KvRequest::Retrieve { key, .. }
            | KvRequest::Delete { key }
            | KvRequest::Exist { key } => *key,
            KvRequest::List { start, max_bytes } if env.cores > 1 => {
                self.scatter(env, id, op, *start, *max_bytes);
                return Submitted::Pending;
            }
            KvRequest::List { .. } => return self.done(op, request),
        };
        let owner = core_of(&key, env.cores);
        if owner == env.core {
            return self.done(op, request);
        }
        env.send(owner, BackendMessage { backend: id, op, body: Body::Request(request) });
        Submitted::Pending
    }

    /// Commands with values come soon, for `keys`. Each would wait for memory two or three times, one after the other; here all of them wait
    /// together.
    pub(super) fn expect(&self, env: &Env, keys: impl Iterator<Item = Key> + Clone) {
        let here = keys.filter(|key| core_of(key, env.cores) == env.core);
        here.clone().for_each(|key| self.shard.prefetch_key(&key));
        here.for_each(|key| self.shard.prefetch_value(&key));
    }

    fn done(&mut self, op: OpId, request: KvRequest<PoolBuf>) -> Submitted {
        Submitted::Done(self.execute(op, request).map(IoOutcome::Kv).map_err(IoError::Kv))
    }

    /// Runs `request` on this core's shard alone, which has the result at once.
    pub(super) fn execute(&mut self, op: OpId, request: KvRequest<PoolBuf>) -> KvResult<SharedBuf> {
        self.shard.submit(op, request);
        self.shard.poll().map_or(Err(KvError::Internal), |(_, result)| result)
    }

    /// The first keys of this shard, from `start`, that a list of `max_bytes` has room for.
    pub(super) fn keys(&self, start: Option<Key>, max_bytes: u32) -> Vec<Key> {
        self.shard.keys(start, max_bytes)
    }

    fn scatter(&mut self, env: &mut Env, id: BackendId, op: OpId, start: Option<Key>, max_bytes: u32) {
        let here = env.core;
        for core in (0..env.cores).filter(|core| *core != here) {
            env.send(core, BackendMessage { backend: id, op, body: Body::ListKeys { start, max_bytes } });
        }
        let keys = self.shard.keys(start, max_bytes);
        if let Some(result) = self.gathers.list(op, max_bytes, env.cores - 1, keys) {
            env.done.push_back((op, result));
        }
    }

    /// Another shard's answer to a List.
    pub(super) fn gather(&mut self, env: &mut Env, op: OpId, keys: Result<Vec<Key>, KvError>) {
        if let Some(result) = self.gathers.keys(op, keys) {
            env.done.push_back((op, result));
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.gathers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_over_cores() {
        for cores in [1, 2, 3, 8, 64] {
            let mut count = vec![0u32; cores];
            for i in 0..6400u32 {
                let key = Key::new(format!("block_{i}").as_bytes()).unwrap();
                count[core_of(&key, cores)] += 1;
            }
            let fair = 6400 / cores as u32;
            assert!(count.iter().all(|c| *c > fair / 2 && *c < fair * 2), "{cores} cores: {count:?}");
        }
    }
}

//! One core's part of a KV namespace in a pool: requests for keys of other cores travel there as messages; a List asks all
//! cores that have volumes, and so does a Flush.

use kvof_io::PoolBuf;
use kvof_kv::{Key, KvError, KvRequest, OpId};
use kvof_store::volume::Durability;

use super::{PoolId, PoolPart};
use crate::{
    backend::{
        Env, IoOutcome, Origin, Submitted,
        gather::Gathers,
        message::{BackendMessage, Body},
    },
    model::BackendId,
};

/// A namespace, and what of it is under way on this core.
#[derive(Debug)]
pub(in crate::backend) struct Pooled {
    pool: PoolId,
    durability: Durability,
    /// In each of this core's volumes.
    slots: Vec<u16>,
    gathers: Gathers,
    /// Requests that this core's volumes have.
    in_flight: usize,
}

impl Pooled {
    pub(in crate::backend) fn new(pool: PoolId, durability: Durability, slots: Vec<u16>) -> Self {
        Self { pool, durability, slots, gathers: Gathers::default(), in_flight: 0 }
    }

    pub(in crate::backend) const fn pool(&self) -> PoolId {
        self.pool
    }

    /// Runs a request of this core, here or where its key is.
    pub(in crate::backend) fn submit(
        &mut self,
        env: &mut Env,
        pool: &mut PoolPart,
        id: BackendId,
        op: OpId,
        request: KvRequest<PoolBuf>,
    ) -> Submitted {
        let key = match &request {
            KvRequest::Store { key, .. }
            | KvRequest::Retrieve { key, .. }
            | KvRequest::Delete { key }
            | KvRequest::Exist { key } => *key,
            KvRequest::List { start, max_bytes } => {
                let others =
                    self.ask_others(env, pool, id, op, || Body::ListKeys { start: *start, max_bytes: *max_bytes });
                let keys = pool.keys(&self.slots, *start, *max_bytes);
                return self.gathers.list(op, *max_bytes, others, keys).map_or(Submitted::Pending, Submitted::Done);
            }
        };
        let owner = pool.core_of(&key, env.cores);
        if owner == env.core {
            self.execute(env, pool, id, Origin::Here(op), request);
        } else {
            env.send(owner, BackendMessage { backend: id, op, body: Body::Request(request) });
        }
        Submitted::Pending
    }

    /// Runs a request whose key is on this core.
    pub(in crate::backend) fn execute(
        &mut self,
        env: &mut Env,
        pool: &mut PoolPart,
        id: BackendId,
        origin: Origin,
        request: KvRequest<PoolBuf>,
    ) {
        match pool.submit(id, &self.slots, origin, request) {
            Ok(()) => self.in_flight += 1,
            // Cores agree on who has which key.
            Err(_) => env.finish(id, origin, Err(KvError::Internal.into())),
        }
    }

    /// Makes survive a loss of power what was acknowledged before, on all cores.
    pub(in crate::backend) fn flush(
        &mut self,
        env: &mut Env,
        pool: &mut PoolPart,
        id: BackendId,
        op: OpId,
    ) -> Submitted {
        // What is acknowledged is on the medium already.
        if self.durability == Durability::Media {
            return Submitted::Done(Ok(IoOutcome::Flushed));
        }
        let others = self.ask_others(env, pool, id, op, || Body::Flush);
        let here = usize::from(pool.flush(id, Origin::Here(op)).is_some());
        self.in_flight += here;
        if others + here == 0 {
            return Submitted::Done(Ok(IoOutcome::Flushed));
        }
        self.gathers.flush(op, others + here);
        Submitted::Pending
    }

    /// Flushes this core's volumes for another core.
    pub(in crate::backend) fn flush_for(
        &mut self,
        env: &mut Env,
        pool: &mut PoolPart,
        id: BackendId,
        (core, op): (usize, OpId),
    ) {
        match pool.flush(id, Origin::Core(core, op)) {
            Some(()) => self.in_flight += 1,
            None => env.flushed(id, (core, op), Ok(())),
        }
    }

    /// The first keys of this core's volumes.
    pub(in crate::backend) fn keys(&self, pool: &PoolPart, start: Option<Key>, max_bytes: u32) -> Vec<Key> {
        pool.keys(&self.slots, start, max_bytes)
    }

    /// Another core's answer to a List.
    pub(in crate::backend) fn gather_keys(&mut self, env: &mut Env, op: OpId, keys: Result<Vec<Key>, KvError>) {
        if let Some(result) = self.gathers.keys(op, keys) {
            env.done.push_back((op, result));
        }
    }

    /// A core's answer to a Flush.
    pub(in crate::backend) fn gather_flush(&mut self, env: &mut Env, op: OpId, result: Result<(), KvError>) {
        if let Some(result) = self.gathers.flushed(op, result) {
            env.done.push_back((op, result));
        }
    }

    /// A request of this core's volumes has ended.
    pub(in crate::backend) fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub(in crate::backend) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.gathers.is_empty()
    }

    /// Takes the namespace away from the volumes; nothing is in flight.
    pub(in crate::backend) fn leave(&self, pool: &mut PoolPart) {
        pool.detach(&self.slots);
    }

    /// Sends a message to each of the other cores that have volumes; how many those are.
    fn ask_others(&self, env: &mut Env, pool: &PoolPart, id: BackendId, op: OpId, body: impl Fn() -> Body) -> usize {
        let here = env.core;
        let mut asked = 0;
        for core in (0..pool.cores(env.cores)).filter(|core| *core != here) {
            env.send(core, BackendMessage { backend: id, op, body: body() });
            asked += 1;
        }
        asked
    }
}

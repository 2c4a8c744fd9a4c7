//! From operations to work requests, as the send queue has room.

use std::mem;

use super::{Endpoint, Op, qp::Work};
use crate::{
    Memory, WorkError,
    completion::{WrId, WrKind},
};

/// Bytes of data that RDMA WRITEs of one endpoint may have in the send queue; beyond that they wait, and small answers pass them.
const WRITE_WINDOW: u64 = 4 << 20;
/// Requests of one operation in the send queue, of which the last one tells when all are done.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) op: usize,
    pub(super) requests: u32,
    pub(super) reads: u32,
    pub(super) written: u64,
}

impl<B: Memory> Endpoint<B> {
    /// Posts what there is room for.
    pub(super) fn pump(&mut self) {
        if self.failed.is_some() || (self.waiting.is_empty() && self.transfers.is_empty()) {
            return;
        }
        let mut batch = mem::take(&mut self.batch);
        let mut fresh = 0;
        while let Some(&op) = self.waiting.front() {
            let Some(posted) = self.start_waiting(op, &mut batch) else { break };
            self.waiting.pop_front();
            self.note(posted);
            fresh += 1;
        }
        // Each transfer has its turn; a round in which none could move ends it.
        let mut stuck = 0;
        while stuck < self.transfers.len() {
            let Some(op) = self.transfers.pop_front() else { break };
            match self.start_transfer(op, &mut batch) {
                Some((posted, more)) => {
                    self.note(posted);
                    fresh += 1;
                    stuck = 0;
                    if more {
                        self.transfers.push_back(op);
                    }
                }
                None => {
                    self.transfers.push_back(op);
                    stuck += 1;
                }
            }
        }
        if !batch.is_empty() {
            // SAFETY: all memory that the requests name is owned by `ops`, `capsules` and `exposed`, which give it up when the last
            // request of an operation is done or the queue pair destroyed; windows and registrations likewise.
            let (taken, error) = unsafe { self.qp.post(&batch) };
            if let Some(error) = error {
                tracing::warn!(%error, "work requests were not taken");
                self.unpost(fresh, taken, &batch);
            }
        }
        batch.clear();
        self.batch = batch;
    }

    fn note(&mut self, posted: Posted) {
        self.in_queue += posted.requests;
        self.reads += posted.reads;
        self.writing += posted.written;
        self.posted.push_back(posted);
    }

    /// Of the `fresh` operations that `batch` consists of, only the first `taken` requests are in the send queue: the others are
    /// over. One that is there in part ends with the queue pair, as its last request never will.
    fn unpost(&mut self, fresh: usize, taken: usize, batch: &[(WrId, Work)]) {
        let mut left = batch.len();
        let mut over = Vec::new();
        for _ in 0..fresh {
            let Some(posted) = self.posted.back() else { break };
            left -= (posted.requests as usize).min(left);
            if left < taken {
                break;
            }
            let Some(posted) = self.posted.pop_back() else { break };
            self.in_queue -= posted.requests;
            self.reads -= posted.reads;
            self.writing -= posted.written;
            if let Some(Op::Fetch { transfer, .. } | Op::Respond { transfer, .. }) = self.ops.get_mut(posted.op) {
                transfer.outstanding -= 1;
                if transfer.outstanding > 0 {
                    continue;
                }
            }
            over.push(posted.op);
        }
        self.fail(WorkError::NOT_POSTED);
        for op in over {
            self.give_back(op, Err(WorkError::NOT_POSTED));
        }
    }

    /// The requests of a waiting operation, if there is room for them.
    fn start_waiting(&mut self, op: usize, batch: &mut Vec<(WrId, Work)>) -> Option<Posted> {
        let room = self.qp.sends - self.in_queue;
        let (key, unique) = (self.config.key, self.unique);
        let id = |kind| WrId::new(key, unique, kind, op as u32);
        let requests = match self.ops.get(op) {
            Some(Op::Capsule { binds, .. }) => 1 + binds.len() as u32,
            _ => 1,
        };
        if requests > room || !self.settle(op) {
            return None;
        }
        match self.ops.get(op) {
            Some(Op::Capsule { capsule, binds, .. }) => {
                batch.extend(binds.iter().map(|bind| (id(WrKind::Part), *bind)));
                batch.push((id(WrKind::Last), self.send_work(capsule)));
            }
            Some(Op::Invalidate { key, .. }) => batch.push((id(WrKind::Last), Work::Invalidate { key: *key })),
            _ => {}
        }
        Some(Posted { op, requests, reads: 0, written: 0 })
    }

    /// The next requests of a transfer, if there is room for them, and whether more are left.
    fn start_transfer(&mut self, op: usize, batch: &mut Vec<(WrId, Work)>) -> Option<(Posted, bool)> {
        let room = self.qp.sends - self.in_queue;
        let (key, unique) = (self.config.key, self.unique);
        let id = |kind| WrId::new(key, unique, kind, op as u32);
        let may_start = match self.ops.get(op)? {
            Op::Fetch { .. } => room > 0 && self.reads < self.reads_max,
            // The last piece goes together with the capsule.
            Op::Respond { .. } => room >= 2 && self.writing < WRITE_WINDOW && self.settle(op),
            Op::Capsule { .. } | Op::Invalidate { .. } => false,
        };
        if !may_start {
            return None;
        }
        match self.ops.get_mut(op)? {
            Op::Fetch { transfer, .. } => {
                let (address, from) = transfer.next()?;
                transfer.outstanding += 1;
                batch.push((id(WrKind::Last), Work::Read { address, lkey: transfer.lkey, from }));
                Some((Posted { op, requests: 1, reads: 1, written: 0 }, !transfer.is_over()))
            }
            Op::Respond { transfer, .. } => {
                let mut posted = Posted { op, requests: 0, reads: 0, written: 0 };
                transfer.outstanding += 1;
                if let Some((address, to)) = transfer.next() {
                    posted.requests = 1;
                    posted.written = to.len.into();
                    let kind = if transfer.is_over() { WrKind::Part } else { WrKind::Last };
                    batch.push((id(kind), Work::Write { address, lkey: transfer.lkey, to }));
                }
                if !transfer.is_over() {
                    return Some((posted, true));
                }
                transfer.is_sent = true;
                posted.requests += 1;
                if let Some(Op::Respond { capsule, .. }) = self.ops.get(op) {
                    batch.push((id(WrKind::Last), self.send_work(capsule)));
                }
                Some((posted, false))
            }
            Op::Capsule { .. } | Op::Invalidate { .. } => None,
        }
    }
}

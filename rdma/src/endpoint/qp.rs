//! The queue pair itself: made, fed with work requests, destroyed.

use std::{mem, ptr, sync::Arc};

use rdma_mummy_sys as sys;

use super::{RemoteSegment, config::SENDS_MIN};
use crate::{
    CmId, CompletionQueue, RdmaError,
    completion::{WrId, WrKind},
    memory::Mr,
};

/// Bytes that a SEND carries in its work request where the device can: a completion queue entry, and small commands.
const INLINE: u32 = 128;
/// Work requests handed over with one call.
const BATCH: usize = 32;

/// One work request, ready to be posted. Whoever makes one keeps the memory that it names until its completion.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Send { address: u64, lkey: u32, len: u32, invalidate: Option<u32> },
    Read { address: u64, lkey: u32, from: RemoteSegment },
    Write { address: u64, lkey: u32, to: RemoteSegment },
    Bind { window: *mut sys::ibv_mw, key: u32, mr: *mut sys::ibv_mr, address: u64, len: u64, write: bool },
    Invalidate { key: u32 },
}

/// A queue pair and its connection.
#[derive(Debug)]
pub(super) struct Qp {
    id: CmId,
    cq: Arc<CompletionQueue>,
    /// Entries reserved in `cq`.
    reserved: u32,
    /// Work requests that the send queue holds.
    pub(super) sends: u32,
    /// Bytes that a SEND may carry in its work request.
    inline: u32,
    destroyed: bool,
}

impl Qp {
    /// Makes the queue pair of `id`, with as many of the `sends` as the device has, and room in `cq` for all its completions.
    pub(super) fn new(
        id: CmId,
        cq: &Arc<CompletionQueue>,
        sends: u32,
        receives: u32,
    ) -> Result<Self, (RdmaError, CmId)> {
        let device = cq.device();
        let limit = device.limits().max_qp_wr;
        if receives > limit {
            let (what, value) = ("the number of receives of a queue pair", receives.into());
            return Err((RdmaError::Limit { device: device.name().into(), what, value, limit: limit.into() }, id));
        }
        let mut sends = sends.min(limit).max(SENDS_MIN);
        let mut inline = INLINE;
        loop {
            let mut attr = init_attr(cq, sends, receives, inline);
            // SAFETY: id, protection domain and completion queue are live and stay so until the queue pair is destroyed.
            if unsafe { sys::rdma_create_qp(id.raw(), device.pd(), &raw mut attr) } == 0 {
                break;
            }
            // Limits of a device are for each of them alone; together it may have to be less.
            match RdmaError::last("rdma_create_qp") {
                RdmaError::Call { errno: libc::EINVAL | libc::ENOMEM, .. } if inline > 0 => inline = 0,
                RdmaError::Call { errno: libc::EINVAL | libc::ENOMEM, .. } if sends / 2 >= SENDS_MIN => sends /= 2,
                error => return Err((error, id)),
            }
        }
        let reserved = sends + receives;
        if !cq.reserve(reserved) {
            let (what, value) = ("the number of free entries needed of the completion queue", reserved.into());
            let error = RdmaError::Limit { device: device.name().into(), what, value, limit: cq.room().into() };
            // SAFETY: the queue pair was just made, and nothing was posted to it.
            unsafe { sys::rdma_destroy_qp(id.raw()) };
            return Err((error, id));
        }
        Ok(Self { id, cq: Arc::clone(cq), reserved, sends, inline, destroyed: false })
    }

    pub(super) const fn id(&self) -> &CmId {
        &self.id
    }

    /// Accepts the connection. `reads`: RDMA READs of this side at once.
    pub(super) fn accept(&self, private_data: &[u8], reads: u8, reads_served: u8) -> Result<(), RdmaError> {
        let mut param = conn_param(private_data, reads, reads_served);
        // SAFETY: the id is live, the private data at least as long as told.
        match unsafe { sys::rdma_accept(self.id.raw(), &raw mut param) } {
            0 => Ok(()),
            _ => Err(RdmaError::last("rdma_accept")),
        }
    }

    /// Asks for the connection.
    pub(super) fn connect(&self, private_data: &[u8], reads: u8, reads_served: u8) -> Result<(), RdmaError> {
        let mut param = conn_param(private_data, reads, reads_served);
        // SAFETY: as above.
        match unsafe { sys::rdma_connect(self.id.raw(), &raw mut param) } {
            0 => Ok(()),
            _ => Err(RdmaError::last("rdma_connect")),
        }
    }

    /// Tells the peer good-bye and has all work flushed.
    pub(super) fn disconnect(&self) {
        // SAFETY: the id is live.
        if unsafe { sys::rdma_disconnect(self.id.raw()) } != 0 {
            self.fail();
        }
    }

    /// Has all work flushed.
    pub(super) fn fail(&self) {
        // SAFETY: the structure consists of integers, for which zeros are valid.
        let mut attr: sys::ibv_qp_attr = unsafe { mem::zeroed() };
        attr.qp_state = sys::ibv_qp_state::IBV_QPS_ERR;
        let mask = sys::ibv_qp_attr_mask::IBV_QP_STATE.0 as i32;
        // SAFETY: the queue pair is live until `destroy`.
        let errno = unsafe { sys::ibv_modify_qp((*self.id.raw()).qp, &raw mut attr, mask) };
        if errno != 0 {
            tracing::debug!(errno, "a queue pair could not be put into the error state");
        }
    }

    /// Posts work in order; gives how many requests were taken, and the error that kept the others out.
    ///
    /// # Safety
    /// The memory that the requests name, and what they bind and invalidate, stays until their completions, or the queue pair's end.
    pub(super) unsafe fn post(&self, work: &[(WrId, Work)]) -> (usize, Option<RdmaError>) {
        let mut posted = 0;
        for batch in work.chunks(BATCH) {
            // SAFETY: the caller's promise.
            let (taken, error) = unsafe { self.post_batch(batch) };
            posted += taken;
            if error.is_some() {
                return (posted, error);
            }
        }
        (posted, None)
    }

    /// # Safety
    /// As of [`Self::post`]; at most [`BATCH`] requests.
    unsafe fn post_batch(&self, work: &[(WrId, Work)]) -> (usize, Option<RdmaError>) {
        // SAFETY: both consist of integers and null pointers, for which zeros are valid.
        let mut wrs: [sys::ibv_send_wr; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut sges: [sys::ibv_sge; BATCH] = unsafe { mem::zeroed() };
        for (((id, work), wr), sge) in work.iter().zip(&mut wrs).zip(&mut sges) {
            self.fill(wr, sge, *id, *work);
        }
        for at in 1..work.len() {
            let next = &raw mut wrs[at];
            wrs[at - 1].next = next;
        }
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is live, the requests form a list in arrays that outlive the call.
        let errno = unsafe { sys::ibv_post_send((*self.id.raw()).qp, &raw mut wrs[0], &raw mut bad) };
        let taken = if errno == 0 { work.len() } else { wrs.iter().position(|wr| ptr::eq(wr, bad)).unwrap_or(0) };
        for (_, work) in work.iter().take(taken) {
            if let Work::Bind { window, key, .. } = *work {
                // A provider takes the key that a window has now from here, and whoever binds it keeps that up to date.
                // SAFETY: the window is live, and nobody else uses it.
                unsafe { (*window).rkey = key };
            }
        }
        (taken, (errno != 0).then(|| RdmaError::from_errno("ibv_post_send", errno)))
    }

    fn fill(&self, wr: &mut sys::ibv_send_wr, sge: &mut sys::ibv_sge, id: WrId, work: Work) {
        use sys::{ibv_send_flags as Flags, ibv_wr_opcode as Op};
        wr.wr_id = id.0;
        wr.send_flags = if id.kind() == WrKind::Last { Flags::IBV_SEND_SIGNALED.0 } else { 0 };
        let mut local = |wr: &mut sys::ibv_send_wr, addr: u64, lkey: u32, length: u32| {
            *sge = sys::ibv_sge { addr, length, lkey };
            wr.sg_list = &raw mut *sge;
            wr.num_sge = 1;
        };
        match work {
            Work::Send { address, lkey, len, invalidate } => {
                wr.opcode = if invalidate.is_some() { Op::IBV_WR_SEND_WITH_INV } else { Op::IBV_WR_SEND };
                wr.imm_data_invalidated_rkey_union.invalidated_rkey = invalidate.unwrap_or(0);
                if len <= self.inline {
                    wr.send_flags |= Flags::IBV_SEND_INLINE.0;
                }
                local(wr, address, lkey, len);
            }
            Work::Read { address, lkey, from } => {
                wr.opcode = Op::IBV_WR_RDMA_READ;
                wr.wr.rdma = sys::rdma_t { remote_addr: from.address, rkey: from.key };
                local(wr, address, lkey, from.len);
            }
            Work::Write { address, lkey, to } => {
                wr.opcode = Op::IBV_WR_RDMA_WRITE;
                wr.wr.rdma = sys::rdma_t { remote_addr: to.address, rkey: to.key };
                local(wr, address, lkey, to.len);
            }
            Work::Bind { window, key, mr, address, len, write } => {
                use sys::ibv_access_flags as Access;
                let access = if write { Access::IBV_ACCESS_REMOTE_WRITE } else { Access::IBV_ACCESS_REMOTE_READ };
                wr.opcode = Op::IBV_WR_BIND_MW;
                let bind_info = sys::ibv_mw_bind_info { mr, addr: address, length: len, mw_access_flags: access.0 };
                wr.bind_mw_tso_union.bind_mw = sys::bind_mw_t { mw: window, rkey: key, bind_info };
            }
            Work::Invalidate { key } => {
                wr.opcode = Op::IBV_WR_LOCAL_INV;
                wr.imm_data_invalidated_rkey_union.invalidated_rkey = key;
            }
        }
    }

    /// Posts a receive of `len` bytes at `address`.
    ///
    /// # Safety
    /// The memory is registered under `mr`, and nobody else touches it until its completion, or the queue pair's end.
    pub(super) unsafe fn post_receive(&self, id: WrId, address: u64, mr: &Mr, len: u32) -> Result<(), RdmaError> {
        let mut sge = sys::ibv_sge { addr: address, length: len, lkey: mr.lkey() };
        let mut wr = sys::ibv_recv_wr { wr_id: id.0, next: ptr::null_mut(), sg_list: &raw mut sge, num_sge: 1 };
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is live, the request outlives the call; the memory is the caller's promise.
        match unsafe { sys::ibv_post_recv((*self.id.raw()).qp, &raw mut wr, &raw mut bad) } {
            0 => Ok(()),
            errno => Err(RdmaError::from_errno("ibv_post_recv", errno)),
        }
    }

    /// Destroys the queue pair: after this its device touches no memory on its behalf. False if that failed.
    pub(super) fn destroy(&mut self) -> bool {
        if !self.destroyed {
            let id = self.id.raw();
            // SAFETY: the id and its queue pair are live; nobody posts to it any more.
            let errno = unsafe { sys::ibv_destroy_qp((*id).qp) };
            if errno != 0 {
                tracing::error!(errno, "a queue pair could not be destroyed");
                return false;
            }
            // SAFETY: the id is live, and has no queue pair any more.
            unsafe { (*id).qp = ptr::null_mut() };
            self.destroyed = true;
        }
        true
    }
}

impl Drop for Qp {
    fn drop(&mut self) {
        if self.destroy() {
            self.cq.release(self.reserved);
        }
    }
}

fn init_attr(cq: &CompletionQueue, sends: u32, receives: u32, inline: u32) -> sys::ibv_qp_init_attr {
    sys::ibv_qp_init_attr {
        qp_context: ptr::null_mut(),
        send_cq: cq.raw(),
        recv_cq: cq.raw(),
        srq: ptr::null_mut(),
        cap: sys::ibv_qp_cap {
            max_send_wr: sends,
            max_recv_wr: receives,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: inline,
        },
        qp_type: sys::ibv_qp_type::IBV_QPT_RC,
        sq_sig_all: 0,
    }
}

fn conn_param(private_data: &[u8], reads: u8, reads_served: u8) -> sys::rdma_conn_param {
    sys::rdma_conn_param {
        private_data: private_data.as_ptr().cast(),
        private_data_len: u8::try_from(private_data.len()).unwrap_or(u8::MAX),
        responder_resources: reads_served,
        initiator_depth: reads,
        flow_control: 1,
        retry_count: 7,
        // Without end: a peer that is slow to post receives is not gone.
        rnr_retry_count: 7,
        srq: 0,
        qp_num: 0,
    }
}

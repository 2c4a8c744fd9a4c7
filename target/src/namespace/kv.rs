//! Key Value commands (KV section 3), and Flush (base section 7.1). The rules are those of `kvof-kv`; here they meet the storage.

use std::sync::atomic::Ordering;

use kvof_io::{PoolBuf, SharedBuf};
use kvof_kv::{
    KvCommand, KvConfiguration, KvError, KvLimits, KvOp, KvOpcode, KvOutcome, KvRequest, Payload, respond::respond,
};
use kvof_spec::{Sqe, Status};

use super::{Completion, DataOut, Pending, PendingStore, Prepared};
use crate::{backend::IoRequest, model::Namespace};

pub(super) fn prepare(limits: &KvLimits, sqe: &Sqe, sgl_len: u32) -> Result<Prepared, Status> {
    if KvOpcode(sqe.opcode) == KvOpcode::FLUSH {
        return Ok(Prepared::Submit(IoRequest::KvFlush));
    }
    let op = KvCommand::from_sqe(sqe).validate(limits)?;
    op.check_data_length(sgl_len)?;
    Ok(match (op.request(), op) {
        // A buffer of no bytes asks for the length alone, which needs no reading.
        (_, KvOp::Retrieve { key, buffer: 0, .. }) => Prepared::Submit(IoRequest::Kv(KvRequest::Exist { key })),
        (Some(request), _) => Prepared::Submit(IoRequest::Kv(request)),
        (None, op) => Prepared::Receive { len: op.max_transfer(), then: PendingStore(Pending::Kv(op)) },
    })
}

pub(super) fn submit(op: &KvOp, data: PoolBuf) -> IoRequest {
    match *op {
        KvOp::Store { key, options, .. } => IoRequest::Kv(KvRequest::Store { key, options, value: data }),
        KvOp::Retrieve { key, raw, .. } => IoRequest::Kv(KvRequest::Retrieve { key, raw }),
        KvOp::Delete { key } => IoRequest::Kv(KvRequest::Delete { key }),
        KvOp::Exist { key } => IoRequest::Kv(KvRequest::Exist { key }),
        KvOp::List { start, buffer } => IoRequest::Kv(KvRequest::List { start, max_bytes: buffer }),
    }
}

pub(super) fn complete(
    ns: &Namespace,
    limits: &KvLimits,
    sqe: &Sqe,
    result: Result<KvOutcome<SharedBuf>, KvError>,
) -> Completion {
    if let (KvOpcode::FLUSH, Err(error)) = (KvOpcode(sqe.opcode), &result) {
        return Completion::error((*error).into());
    }
    let op = match KvCommand::from_sqe(sqe).validate(limits) {
        Ok(op) => op,
        Err(status) => return Completion::error(status),
    };
    if let (KvOp::Retrieve { buffer: 0, .. }, Ok(KvOutcome::Exists { len })) = (&op, &result) {
        return Completion { result: u64::from(*len), ..Completion::success() };
    }
    let configuration = KvConfiguration { ednek: ns.state.ednek.load(Ordering::Relaxed) };
    let response = respond(&op, result, configuration);
    let transfer = response.transfer as usize;
    let data = match response.payload {
        Some(Payload::Value(value)) => value.slice(..transfer.min(value.len())),
        Some(Payload::List(list)) => Some(SharedBuf::from_vec(list.into_bytes())),
        None => None,
    };
    Completion {
        result: u64::from(response.dw0),
        data: data.map(DataOut::Shared),
        ..Completion::error(response.status)
    }
}

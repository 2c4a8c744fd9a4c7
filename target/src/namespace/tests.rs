//! Decoding of commands: every field at and beyond its limits.

use std::sync::{Arc, atomic::Ordering};

use kvof_io::{Pool, PoolConfig, Region, TxQueue};
use kvof_kv::{Key, KvCommand, KvLimits, KvOpcode, KvRequest, RetrieveOptions, StoreOptions};
use kvof_spec::{NvmOpcode, SglDescriptor};
use proptest::prelude::*;

use super::*;
use crate::{
    backend::{ByteRange, NvmRequest},
    model::{BackendId, KvStorageDef, NamespaceDef, StorageDef},
};

fn namespace(kind: NamespaceKindDef) -> Arc<Namespace> {
    Namespace::new(NamespaceDef { nsid: 1, uuid: [1; 16], nguid: [2; 16], kind }, BackendId(1))
}

fn nvm() -> Arc<Namespace> {
    namespace(NamespaceKindDef::Nvm { block_size: 512, size: 512 * 1000, storage: StorageDef::Memory })
}

fn kv() -> Arc<Namespace> {
    let limits = KvLimits { kvkml: 12, kvvml: 1000, mnks: 0, novg: 0 };
    namespace(NamespaceKindDef::Kv { limits, size: 1 << 20, storage: KvStorageDef::Memory })
}

/// A command of `nlb` blocks (not 0's based) from `slba`.
fn rw(opcode: NvmOpcode, slba: u64, nlb: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode);
    sqe.nsid = 1.into();
    sqe.cdw10 = (slba as u32).into();
    sqe.cdw11 = ((slba >> 32) as u32).into();
    sqe.cdw12 = (nlb - 1).into();
    sqe
}

fn status(prepared: Prepared) -> Status {
    match prepared {
        Prepared::Complete(completion) => completion.status,
        other => panic!("{other:?}"),
    }
}

fn buffer(bytes: &[u8]) -> PoolBuf {
    let mut buf = Pool::new(PoolConfig { limit: 1 << 20, shards: 1 }).alloc(bytes.len()).unwrap();
    buf.copy_from_slice(bytes);
    buf
}

fn nvm_request(prepared: Prepared, data: &[u8]) -> NvmRequest {
    let request = match prepared {
        Prepared::Submit(request) => request,
        Prepared::Receive { len, then } => then.submit(buffer(&data[..len as usize])),
        other => panic!("{other:?}"),
    };
    match request {
        IoRequest::Nvm(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn block_ranges_are_checked_without_overflow() {
    let ns = nvm();
    for opcode in [NvmOpcode::READ, NvmOpcode::WRITE, NvmOpcode::COMPARE, NvmOpcode::WRITE_ZEROES] {
        for (slba, nlb) in [(999, 2), (1000, 1), (u64::MAX, 1), (u64::MAX, 65536), (1 << 63, 1), (0, 1001)] {
            let sqe = rw(opcode, slba, nlb);
            assert_eq!(
                status(prepare(&ns, &sqe, u32::MAX)),
                Status::LBA_OUT_OF_RANGE.with_dnr(),
                "{opcode} {slba} {nlb}"
            );
        }
        assert!(!matches!(prepare(&ns, &rw(opcode, 999, 1), 512), Prepared::Complete(_)));
        assert!(!matches!(prepare(&ns, &rw(opcode, 0, 1000), 512_000), Prepared::Complete(_)));
        if opcode != NvmOpcode::WRITE_ZEROES {
            let short = prepare(&ns, &rw(opcode, 0, 2), 1023);
            assert_eq!(status(short), Status::DATA_SGL_LENGTH_INVALID.with_dnr());
        }
    }
}

#[test]
fn block_commands_become_requests() {
    let ns = nvm();
    let read = nvm_request(prepare(&ns, &rw(NvmOpcode::READ, 7, 3), 4096), &[]);
    assert!(matches!(read, NvmRequest::Read { offset: 3584, len: 1536 }), "{read:?}");
    let mut sqe = rw(NvmOpcode::WRITE, 7, 1);
    let data = [9; 4096];
    let NvmRequest::Write { offset: 3584, data: written, fua: false } = nvm_request(prepare(&ns, &sqe, 4096), &data)
    else {
        panic!()
    };
    assert_eq!(*written, data[..512], "what the buffer holds beyond the blocks is not received");
    sqe.cdw12 = (1 << 30).into();
    assert!(matches!(nvm_request(prepare(&ns, &sqe, 512), &data), NvmRequest::Write { fua: true, .. }));
    sqe.opcode = NvmOpcode::WRITE_ZEROES.0;
    sqe.cdw12 = (1 << 25 | 3).into();
    let zeros = nvm_request(prepare(&ns, &sqe, 0), &[]);
    assert!(
        matches!(zeros, NvmRequest::WriteZeroes { offset: 3584, len: 2048, deallocate: true, fua: false }),
        "{zeros:?}"
    );
    assert!(matches!(nvm_request(prepare(&ns, &Sqe::new(NvmOpcode::FLUSH), 0), &[]), NvmRequest::Flush));
    for opcode in [0x04, 0x0c, 0x0d, 0x19, 0x7f, 0x80, 0xff] {
        assert_eq!(status(prepare(&ns, &Sqe::new(opcode), 0)), Status::INVALID_OPCODE.with_dnr());
    }
}

#[test]
fn dataset_management_reads_its_ranges() {
    let ns = nvm();
    let range = |first: u64, count: u32| [&[0xff; 4][..], &count.to_le_bytes(), &first.to_le_bytes()].concat();
    let mut sqe = Sqe::new(NvmOpcode::DATASET_MANAGEMENT);
    sqe.cdw10 = 1.into();
    assert_eq!(status(prepare(&ns, &sqe, 31)), Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    assert_eq!(status(prepare(&ns, &sqe, 32)), Status::SUCCESS, "hints alone need no data");
    sqe.cdw11 = 4.into();
    let data = [range(10, 5), range(999, 1)].concat();
    let NvmRequest::Deallocate { ranges } = nvm_request(prepare(&ns, &sqe, 64), &data) else { panic!() };
    assert_eq!(ranges, [ByteRange { offset: 5120, len: 2560 }, ByteRange { offset: 511_488, len: 512 }]);
    for bad in [range(999, 2), range(u64::MAX, u32::MAX)] {
        let data = [range(10, 5), bad].concat();
        let refused = nvm_request(prepare(&ns, &sqe, 32), &data);
        assert!(matches!(refused, NvmRequest::Refused { status: Status::LBA_OUT_OF_RANGE }), "{refused:?}");
    }
}

#[test]
fn what_no_namespace_takes() {
    for ns in [nvm(), kv()] {
        let mut sqe = Sqe::new(NvmOpcode::READ);
        sqe.flags |= 1;
        assert_eq!(status(prepare(&ns, &sqe, 4096)), Status::INVALID_FIELD.with_dnr(), "fused");
        ns.state.removed.store(true, Ordering::Release);
        let gone = status(prepare(&ns, &Sqe::new(NvmOpcode::FLUSH), 0));
        assert_eq!(gone, Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
    }
}

#[test]
fn kv_commands_become_requests() {
    let ns = kv();
    let key = Key::new(b"k").unwrap();
    let sqe = |command: KvCommand| command.to_sqe(SglDescriptor::default());
    let store = sqe(KvCommand::store(1, &key, StoreOptions::MUST_EXIST, 1000));
    assert_eq!(status(prepare(&ns, &store, 999)), Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    let Prepared::Receive { len: 1000, then } = prepare(&ns, &store, 2000) else { panic!() };
    let IoRequest::Kv(KvRequest::Store { key: stored, options, value }) = then.submit(buffer(&[3; 1000])) else {
        panic!()
    };
    assert_eq!((stored, options, value.len()), (key, StoreOptions::MUST_EXIST, 1000));
    let empty = sqe(KvCommand::store(1, &key, StoreOptions::empty(), 0));
    assert!(matches!(prepare(&ns, &empty, 0), Prepared::Receive { len: 0, .. }));
    let long = sqe(KvCommand::store(1, &key, StoreOptions::empty(), 1001));
    assert_eq!(status(prepare(&ns, &long, 1001)), Status::INVALID_VALUE_SIZE.with_dnr());
    let flush = Sqe::new(KvOpcode::FLUSH);
    assert!(matches!(prepare(&ns, &flush, 0), Prepared::Submit(IoRequest::KvFlush)));
    assert_eq!(complete(&ns, &flush, 0, Ok(IoOutcome::Flushed)).status, Status::SUCCESS);
    let failed = complete(&ns, &flush, 0, Err(IoError::Kv(kvof_kv::KvError::Unrecovered)));
    assert_eq!(failed.status, Status::UNRECOVERED_ERROR.with_dnr());
    let reserve = prepare(&ns, &Sqe::new(KvOpcode(0x0d)), 0);
    assert_eq!(status(reserve), Status::INVALID_OPCODE.with_dnr());
}

#[test]
fn completions_fit_the_hosts_buffer() {
    let ns = kv();
    let key = Key::new(b"k").unwrap();
    let value = || SharedBuf::from_vec((0..100).collect());
    let done = |buffer: u32, sgl_len| {
        let sqe = KvCommand::retrieve(1, &key, RetrieveOptions::empty(), buffer).to_sqe(SglDescriptor::default());
        complete(&ns, &sqe, sgl_len, Ok(IoOutcome::Kv(kvof_kv::KvOutcome::Retrieved(value()))))
    };
    for (buffer, expected) in [(40, 40), (100, 100), (1000, 100)] {
        let completion = done(buffer, buffer);
        assert_eq!((completion.status, completion.result), (Status::SUCCESS, 100));
        assert_eq!(completion.data.as_ref().map(DataOut::len), Some(expected));
    }
    assert_eq!(done(100, 30).data.as_ref().map(DataOut::len), Some(30), "never beyond the buffer");

    let query = KvCommand::retrieve(1, &key, RetrieveOptions::empty(), 0).to_sqe(SglDescriptor::default());
    assert!(matches!(prepare(&ns, &query, 0), Prepared::Submit(IoRequest::Kv(KvRequest::Exist { .. }))));
    let completion = complete(&ns, &query, 0, Ok(IoOutcome::Kv(kvof_kv::KvOutcome::Exists { len: 77 })));
    assert_eq!((completion.status, completion.result), (Status::SUCCESS, 77));
    assert!(completion.data.is_none());

    // An answer that does not belong to the command is the storage's fault, whatever it is.
    let crossed = complete(&ns, &query, 0, Ok(IoOutcome::Nvm));
    assert_eq!(crossed.status, Status::INTERNAL_ERROR);
    let retried = complete(&ns, &query, 0, Err(IoError::Kv(kvof_kv::KvError::NotReady)));
    assert_eq!(retried.status, Status::NAMESPACE_NOT_READY, "worth another try");
}

#[test]
fn segments_stay_within_their_bytes() {
    let region = Region::new(4096).unwrap();
    region.copy_in(1024, &[7; 512]).unwrap();
    let data = DataOut::Region(region.slice(1024, 512).unwrap());
    let stable = DataOut::Shared(SharedBuf::from_vec(vec![7; 512]));
    for data in [data, stable] {
        for (offset, len, expected) in [(0, 512, 512), (500, 100, 12), (512, 1, 0), (usize::MAX, usize::MAX, 0)] {
            let (mut queue, mut bytes) = (TxQueue::new(), Vec::new());
            queue.push(data.segment(offset, len));
            queue.drain_into(&mut bytes);
            assert_eq!(bytes, vec![7; expected]);
        }
    }
}

proptest! {
    /// No field of a command makes trouble, and what passes fits.
    #[test]
    fn any_command_is_answered(bytes: [u8; 32], more: [u8; 32], sgl_len in prop_oneof![0u32..5000, any::<u32>()]) {
        let mut all = [0; 64];
        all[..32].copy_from_slice(&bytes);
        all[32..].copy_from_slice(&more);
        let mut sqe = Sqe::from_bytes(&all);
        sqe.opcode &= 0x1f;
        for ns in [nvm(), kv()] {
            match prepare(&ns, &sqe, sgl_len) {
                Prepared::Receive { len, .. } => prop_assert!(len <= sgl_len),
                Prepared::Submit(IoRequest::Nvm(NvmRequest::Read { offset, len })) => {
                    prop_assert!(len <= sgl_len && offset + u64::from(len) <= 512_000);
                }
                Prepared::Submit(_) => {}
                Prepared::Complete(completion) => prop_assert!(completion.data.is_none()),
            }
        }
    }
}

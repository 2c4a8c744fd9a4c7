//! NVMe/TCP PDUs byte by byte.

use kvof_spec::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, FatalErrorStatus, H2cData, IcReq, IcResp, PduType, R2t,
    ReceiveRules, Receiver, TermReq, data_offset,
};
use kvof_spec::{Cqe, FromBytes, IntoBytes, KvOpcode, Sqe, Status};

const NONE: Digests = Digests { header: false, data: false };
const BOTH: Digests = Digests { header: true, data: true };

fn padded<const N: usize>(start: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..start.len()].copy_from_slice(start);
    bytes
}

fn rules(receiver: Receiver, digests: Digests, pda: u8) -> ReceiveRules {
    ReceiveRules { receiver, digests, pda, in_capsule_max: 8192, data_max: 131_072 }
}

#[test]
fn initialisation() {
    let req = padded::<128>(&[0x00, 0, 128, 0, 128, 0, 0, 0, 0, 0, 31, 0x03, 15, 0, 0, 0]);
    assert_eq!(IcReq::new(31, BOTH, 15).as_bytes(), req);
    let resp = padded::<128>(&[0x01, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 0x01, 0x00, 0x00, 0x02, 0x00]);
    assert_eq!(IcResp::new(0, Digests { header: true, data: false }, 131_072).as_bytes(), resp);
    let ch = CommonHeader::read_from_prefix(&req).unwrap().0;
    let frame = ch.check(&rules(Receiver::Controller, NONE, 0)).unwrap();
    assert_eq!((frame.kind, frame.total()), (PduType::IC_REQ, 128));
}

#[test]
fn command_capsules() {
    let sqe = Sqe::new(KvOpcode::EXIST);
    let mut bytes = padded::<72>(&[0x04, 0, 72, 0, 72, 0, 0, 0]);
    bytes[8..10].copy_from_slice(&[0x14, 0x40]);
    assert_eq!(CapsuleCmd::new(sqe, 0, NONE, 0).as_bytes(), bytes);
    // With both digests and no data: the header digest only.
    assert_eq!(CapsuleCmd::new(sqe, 0, BOTH, 7).ch.as_bytes(), [0x04, 0x01, 72, 0, 76, 0, 0, 0]);
    // 1000 bytes in the capsule: at 72 without digests, at 76 with, at 96 with an alignment of 32.
    assert_eq!(CapsuleCmd::new(sqe, 1000, NONE, 0).ch.as_bytes(), [0x04, 0x00, 72, 72, 0x30, 0x04, 0, 0]);
    assert_eq!(CapsuleCmd::new(sqe, 1000, BOTH, 0).ch.as_bytes(), [0x04, 0x03, 72, 76, 0x38, 0x04, 0, 0]);
    assert_eq!(CapsuleCmd::new(sqe, 1000, BOTH, 7).ch.as_bytes(), [0x04, 0x03, 72, 96, 0x4c, 0x04, 0, 0]);
    let frame = CapsuleCmd::new(sqe, 1000, BOTH, 7).ch.check(&rules(Receiver::Controller, BOTH, 7)).unwrap();
    assert_eq!((frame.data_offset, frame.data_len, frame.header_total(), frame.total()), (96, 1000, 76, 1100));
}

#[test]
fn response_capsule() {
    let cqe = Cqe::new(0x0102, Status::INVALID_FIELD);
    let bytes = padded::<24>(&[0x05, 0x01, 24, 0, 28, 0, 0, 0]);
    let mut bytes: [u8; 24] = bytes;
    bytes[20..].copy_from_slice(&[0x02, 0x01, 0x04, 0x00]);
    assert_eq!(CapsuleResp::new(cqe, BOTH).as_bytes(), bytes);
}

#[test]
fn data_and_r2t() {
    let h2c =
        [0x06, 0x04, 24, 24, 0x18, 0x10, 0, 0, 0x02, 0x01, 0x04, 0x03, 0x00, 0x20, 0, 0, 0x00, 0x10, 0, 0, 0, 0, 0, 0];
    assert_eq!(H2cData::new(0x0102, 0x0304, 0x2000, 0x1000, true, NONE, 0).as_bytes(), h2c);
    let c2h = [0x07, 0x0f, 24, 28, 0x20, 0x10, 0, 0, 0x02, 0x01, 0, 0, 0x00, 0x20, 0, 0, 0x00, 0x10, 0, 0, 0, 0, 0, 0];
    assert_eq!(C2hData::new(0x0102, 0x2000, 0x1000, true, true, BOTH, 0).as_bytes(), c2h);
    let r2t = [0x09, 0x01, 24, 0, 28, 0, 0, 0, 0x02, 0x01, 0x04, 0x03, 0x00, 0x20, 0, 0, 0x00, 0x10, 0, 0, 0, 0, 0, 0];
    assert_eq!(R2t::new(0x0102, 0x0304, 0x2000, 0x1000, BOTH).as_bytes(), r2t);
}

#[test]
fn termination() {
    let bytes = [0x03, 0, 24, 0, 0x20, 0, 0, 0, 0x01, 0x00, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let term = TermReq::new(PduType::C2H_TERM_REQ, FatalErrorStatus::INVALID_HEADER_FIELD, 4, 8);
    assert_eq!(term.as_bytes(), bytes);
    assert_eq!(TermReq::new(PduType::H2C_TERM_REQ, FatalErrorStatus::SEQUENCE_ERROR, 0, 999).ch.plen.get(), 152);
    assert!(PduType::C2H_TERM_REQ.is_term_req() && !PduType::C2H_DATA.is_term_req());
}

#[test]
fn data_offsets() {
    assert_eq!(data_offset(72, NONE, 0), 72);
    assert_eq!(data_offset(72, BOTH, 0), 76);
    assert_eq!(data_offset(24, NONE, 31), 128);
    assert_eq!(data_offset(72, BOTH, 18), 76);
}

//! `CommonHeader::check` on what this crate builds, on that with one field wrong, and on anything.

use kvof_spec::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, Fatal, FatalErrorStatus, H2cData, IcReq, IcResp, PDA_MAX,
    PduFlags, PduType, R2t, ReceiveRules, Receiver, TermReq,
};
use kvof_spec::{Cqe, FromBytes, Sqe};
use proptest::prelude::*;

const IN_CAPSULE_MAX: u32 = 8192;
const DATA_MAX: u32 = 131_072;

/// A PDU that is right, and the rules of its receiver.
#[derive(Clone, Debug)]
struct Pdu {
    ch: CommonHeader,
    rules: ReceiveRules,
    data: u32,
}

fn pdu() -> impl Strategy<Value = Pdu> {
    let kinds = prop_oneof![
        Just(PduType::IC_REQ),
        Just(PduType::IC_RESP),
        Just(PduType::H2C_TERM_REQ),
        Just(PduType::C2H_TERM_REQ),
        Just(PduType::CAPSULE_CMD),
        Just(PduType::CAPSULE_RESP),
        Just(PduType::H2C_DATA),
        Just(PduType::C2H_DATA),
        Just(PduType::R2T),
    ];
    (kinds, any::<(bool, bool)>(), 0..=PDA_MAX, any::<u32>(), any::<(bool, bool)>()).prop_map(
        |(kind, (header, data_digest), pda, size, (last, success))| {
            let digests = Digests { header, data: data_digest };
            let bulk = size % DATA_MAX + 1;
            let (ch, data) = match kind {
                PduType::IC_REQ => (IcReq::new(pda, digests, size).ch, 0),
                PduType::IC_RESP => (IcResp::new(pda, digests, size).ch, 0),
                PduType::H2C_TERM_REQ | PduType::C2H_TERM_REQ => {
                    let quoted = size % 129;
                    let fes = FatalErrorStatus::INVALID_HEADER_FIELD;
                    (TermReq::new(kind, fes, 0, quoted as usize).ch, quoted)
                }
                PduType::CAPSULE_CMD => {
                    let data = size % (IN_CAPSULE_MAX + 1);
                    (CapsuleCmd::new(Sqe::default(), data, digests, pda).ch, data)
                }
                PduType::CAPSULE_RESP => (CapsuleResp::new(Cqe::default(), digests).ch, 0),
                PduType::H2C_DATA => (H2cData::new(1, 2, 0, bulk, last, digests, pda).ch, bulk),
                PduType::C2H_DATA => (C2hData::new(1, 0, bulk, last, last && success, digests, pda).ch, bulk),
                _ => (R2t::new(1, 2, 0, bulk, digests).ch, 0),
            };
            // Bit 0 of every type is its direction.
            let receiver = if kind.0 & 1 == 1 { Receiver::Host } else { Receiver::Controller };
            let rules = ReceiveRules { receiver, digests, pda, in_capsule_max: IN_CAPSULE_MAX, data_max: DATA_MAX };
            Pdu { ch, rules, data }
        },
    )
}

fn is_plain(kind: PduType) -> bool {
    kind.is_term_req() || matches!(kind, PduType::IC_REQ | PduType::IC_RESP)
}

fn with_plen(mut ch: CommonHeader, plen: u32) -> CommonHeader {
    ch.plen = plen.into();
    ch
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn accepts_what_this_crate_builds(p in pdu()) {
        let frame = p.ch.check(&p.rules).unwrap();
        prop_assert_eq!(frame.kind, p.ch.kind());
        prop_assert_eq!(frame.data_len, p.data);
        prop_assert_eq!(frame.total() as u64, u64::from(p.ch.plen.get()));
        prop_assert_eq!(frame.hlen, usize::from(p.ch.hlen));
        prop_assert_eq!(frame.header_digest, p.rules.digests.header && !is_plain(frame.kind));
        prop_assert_eq!(frame.data_digest, p.rules.digests.data && p.data > 0 && !is_plain(frame.kind));
        prop_assert!(frame.data_offset >= frame.header_total());
        if p.data > 0 && !is_plain(frame.kind) {
            prop_assert_eq!(frame.data_offset % ((usize::from(p.rules.pda) + 1) * 4), 0);
        }
    }

    #[test]
    fn never_panics_and_never_promises_what_is_not_there(
        bytes: [u8; 8], host: bool, digests: (bool, bool), pda: u8, in_capsule_max: u32, data_max: u32,
    ) {
        let ch = CommonHeader::read_from_bytes(&bytes).unwrap();
        let receiver = if host { Receiver::Host } else { Receiver::Controller };
        let digests = Digests { header: digests.0, data: digests.1 };
        let rules = ReceiveRules { receiver, digests, pda, in_capsule_max, data_max };
        if let Ok(frame) = ch.check(&rules) {
            prop_assert_eq!(frame.total() as u64, u64::from(ch.plen.get()));
            prop_assert!(frame.data_len <= in_capsule_max.max(data_max).max(128));
        }
    }

    #[test]
    fn wrong_type(p in pdu(), wrong: u8) {
        let mut ch = p.ch;
        ch.pdu_type = wrong;
        let known = PduType(wrong).name().is_some();
        prop_assume!(!known || wrong & 1 != p.ch.pdu_type & 1);
        prop_assert_eq!(ch.check(&p.rules), Err(Fatal::field(0)));
    }

    #[test]
    fn wrong_flags(p in pdu()) {
        for flag in [PduFlags::HDGST, PduFlags::DDGST] {
            let mut ch = p.ch;
            ch.flags ^= flag.bits();
            prop_assert_eq!(ch.check(&p.rules), Err(Fatal::field(1)), "{:?}", flag);
        }
        if p.ch.kind() == PduType::C2H_DATA {
            let mut ch = p.ch;
            ch.flags = ch.flags & !PduFlags::LAST_PDU.bits() | PduFlags::SUCCESS.bits();
            prop_assert_eq!(ch.check(&p.rules), Err(Fatal::field(1)));
        }
        // Reserved flags have no meaning.
        let mut ch = p.ch;
        ch.flags |= 0xf0;
        prop_assert_eq!(ch.check(&p.rules), p.ch.check(&p.rules));
    }

    #[test]
    fn wrong_hlen(p in pdu(), wrong: u8) {
        prop_assume!(wrong != p.ch.hlen);
        let mut ch = p.ch;
        ch.hlen = wrong;
        prop_assert_eq!(ch.check(&p.rules), Err(Fatal::field(2)));
    }

    #[test]
    fn wrong_pdo(p in pdu(), wrong: u8) {
        let mut ch = p.ch;
        ch.pdo = wrong;
        if p.data == 0 || is_plain(ch.kind()) {
            // Reserved without data.
            prop_assert_eq!(ch.check(&p.rules), p.ch.check(&p.rules));
            return Ok(());
        }
        let header_end = usize::from(ch.hlen) + p.rules.digests.header_size();
        let alignment = (usize::from(p.rules.pda) + 1) * 4;
        let at = usize::from(wrong);
        if at < header_end || !at.is_multiple_of(alignment) || at > ch.plen.get() as usize {
            prop_assert_eq!(ch.check(&p.rules), Err(Fatal::field(3)));
        } else if let Ok(frame) = ch.check(&p.rules) {
            // Another offset that the alignment allows: less or more padding, more or less data.
            prop_assert_eq!(frame.data_offset, at);
            prop_assert_eq!(frame.total() as u64, u64::from(ch.plen.get()));
        }
    }

    #[test]
    fn wrong_plen(p in pdu(), cut: u32, add: u32) {
        let ch = p.ch;
        let digest = if is_plain(ch.kind()) { 0 } else { p.rules.digests.header_size() as u32 };
        let header_end = u32::from(ch.hlen) + digest;
        let plen = Err(Fatal::field(4));
        prop_assert_eq!(with_plen(ch, cut % header_end).check(&p.rules), plen);
        let longer = ch.plen.get().saturating_add(add.max(1));
        let got = with_plen(ch, longer).check(&p.rules);
        match ch.kind() {
            PduType::IC_REQ | PduType::IC_RESP | PduType::CAPSULE_RESP | PduType::R2T => prop_assert_eq!(got, plen),
            PduType::H2C_TERM_REQ | PduType::C2H_TERM_REQ if longer > 152 => prop_assert_eq!(got, plen),
            PduType::CAPSULE_CMD if p.data > 0 && u64::from(p.data) + u64::from(add.max(1)) > 8192 => {
                prop_assert_eq!(got, plen);
            }
            // It seems to have data now, but neither PDO nor the digest flag says so.
            PduType::CAPSULE_CMD if p.data == 0 => {
                prop_assert!(got == Err(Fatal::field(1)) || got == Err(Fatal::field(3)), "{got:?}");
            }
            PduType::H2C_DATA if u64::from(p.data) + u64::from(add.max(1)) > u64::from(DATA_MAX) => {
                prop_assert_eq!(got, Err(Fatal { fes: FatalErrorStatus::LIMIT_EXCEEDED, fei: 0 }));
            }
            PduType::C2H_DATA if u64::from(p.data) + u64::from(add.max(1)) > u64::from(DATA_MAX) => {
                prop_assert_eq!(got, Err(Fatal { fes: FatalErrorStatus::DATA_OUT_OF_RANGE, fei: 0 }));
            }
            _ => prop_assert!(got.is_ok()),
        }
    }
}

#[test]
fn the_lowest_wrong_field_is_reported() {
    let digests = Digests { header: true, data: false };
    let rules =
        ReceiveRules { receiver: Receiver::Controller, digests, pda: 0, in_capsule_max: 8192, data_max: 131_072 };
    let mut ch = CapsuleCmd::new(Sqe::default(), 64, digests, 0).ch;
    ch.plen = 9.into();
    assert_eq!(ch.check(&rules), Err(Fatal::field(4)));
    ch.pdo = 3;
    ch.plen = 100.into();
    assert_eq!(ch.check(&rules), Err(Fatal::field(3)));
    ch.hlen = 24;
    assert_eq!(ch.check(&rules), Err(Fatal::field(2)));
    // A data digest that was not negotiated, whatever the length.
    for plen in [9, 76, 100] {
        ch.flags |= PduFlags::DDGST.bits();
        ch.plen = plen.into();
        assert_eq!(ch.check(&rules), Err(Fatal::field(1)));
    }
    ch.pdu_type = PduType::R2T.0;
    assert_eq!(ch.check(&rules), Err(Fatal::field(0)));
}

#[test]
fn data_pdus_need_data() {
    let rules = ReceiveRules {
        receiver: Receiver::Controller,
        digests: Digests::default(),
        pda: 0,
        in_capsule_max: 0,
        data_max: 4096,
    };
    let mut ch = H2cData::new(1, 2, 0, 4, true, Digests::default(), 0).ch;
    ch.plen = 24.into();
    assert_eq!(ch.check(&rules), Err(Fatal::field(4)));
    // A capsule where none may have data.
    let ch = CapsuleCmd::new(Sqe::default(), 4, Digests::default(), 0).ch;
    assert_eq!(ch.check(&rules), Err(Fatal::field(4)));
}

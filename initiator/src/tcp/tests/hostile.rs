//! A controller that lies: every lie is found, named, and hurts nobody.

use kvof_spec::tcp::PFV_1_0;
use proptest::prelude::*;

use super::*;

const FIELD: u16 = 1;
const SEQUENCE: u16 = 2;
const HEADER_DIGEST: u16 = 3;
const OUT_OF_RANGE: u16 = 4;
const LIMIT_EXCEEDED: u16 = 5;
const UNSUPPORTED: u16 = 6;

/// A read of 100 bytes in flight, and a write of 10 000.
fn reading() -> (Rig, u16, u16) {
    let mut rig = Rig::plain();
    rig.submit(0, Payload::from_controller(vec![0xee; 100]));
    rig.submit(1, Payload::to_controller(vec![1u8; 10_000]));
    let (read, _) = rig.capsule();
    let (write, _) = rig.capsule();
    (rig, read, write)
}

type Lie = fn(&Rig, u16, u16) -> Vec<u8>;

#[test]
fn lies_about_commands_are_found() {
    let lies: &[(&str, u16, u32, Lie)] = &[
        ("response to nothing", FIELD, 20, |r, _, _| r.response(0x0fff, Status::SUCCESS, 0)),
        ("response to another generation", FIELD, 20, |r, read, _| r.response(read ^ 0x1000, Status::SUCCESS, 0)),
        ("data for nothing", FIELD, 8, |r, _, _| r.c2h(0x0ffe, 0, &[1; 4], true, false)),
        ("data for a write", FIELD, 8, |r, _, write| r.c2h(write, 0, &[1; 4], true, false)),
        ("data beyond the buffer", OUT_OF_RANGE, 0, |r, read, _| r.c2h(read, 0, &[1; 101], true, false)),
        ("data at a hole", OUT_OF_RANGE, 0, |r, read, _| r.c2h(read, 4, &[1; 4], true, false)),
        ("data at the end of numbers", OUT_OF_RANGE, 0, |r, read, _| r.c2h(read, u32::MAX, &[1; 4], true, false)),
        ("data twice", OUT_OF_RANGE, 0, |r, read, _| {
            [r.c2h(read, 0, &[1; 4], false, false), r.c2h(read, 0, &[1; 4], false, false)].concat()
        }),
        ("data after the last", SEQUENCE, 0, |r, read, _| {
            [r.c2h(read, 0, &[1; 4], true, false), r.c2h(read, 4, &[1; 4], true, false)].concat()
        }),
        ("success before the last", FIELD, 1, |r, read, _| r.c2h(read, 0, &[1; 4], false, true)),
        ("R2T for nothing", FIELD, 8, |r, _, _| r.r2t(0x0ffe, 0, 0, 4)),
        ("R2T for a read", FIELD, 8, |r, read, _| r.r2t(read, 0, 0, 4)),
        ("R2T for no bytes", FIELD, 16, |r, _, write| r.r2t(write, 0, 0, 0)),
        ("R2T beyond the data", OUT_OF_RANGE, 0, |r, _, write| r.r2t(write, 0, 0, 10_001)),
        ("R2T at the end of numbers", OUT_OF_RANGE, 0, |r, _, write| r.r2t(write, 0, u32::MAX, 2)),
        ("R2T for the same bytes again", OUT_OF_RANGE, 0, |r, _, write| {
            [r.r2t(write, 0, 0, 6000), r.r2t(write, 1, 0, 6000)].concat()
        }),
        ("too many R2Ts", LIMIT_EXCEEDED, 0, |r, _, write| {
            (0..5u16).flat_map(|i| r.r2t(write, i, u32::from(i) * 4, 4)).collect()
        }),
        ("response while data are asked for", SEQUENCE, 0, |r, _, write| {
            [r.r2t(write, 0, 0, 10_000), r.response(write, Status::SUCCESS, 0)].concat()
        }),
        ("a second ICResp", SEQUENCE, 0, |r, _, _| IcResp::new(0, r.digests, 8192).as_bytes().to_vec()),
        ("a PDU of the other direction", FIELD, 0, |r, read, _| {
            H2cData::new(read, 0, 0, 4, true, r.digests, 0).as_bytes().to_vec()
        }),
        ("an unknown PDU", FIELD, 0, |_, _, _| vec![0x0b, 0, 24, 0, 24, 0, 0, 0]),
        ("a header of another length", FIELD, 2, |_, _, _| vec![0x05, 0, 25, 0, 24, 0, 0, 0]),
        ("a response with data", FIELD, 4, |_, _, _| vec![0x05, 0, 24, 24, 28, 0, 0, 0]),
        ("a digest that was not agreed on", FIELD, 1, |_, _, _| vec![0x05, 1, 24, 0, 28, 0, 0, 0]),
    ];
    for (name, fes, fei, lie) in lies {
        let (mut rig, read, write) = reading();
        let bytes = lie(&rig, read, write);
        rig.feed(&bytes);
        assert!(rig.queue.ended().is_some(), "{name}: not found");
        rig.expect_term(*fes, *fei);
        for key in 0..2 {
            let answer = rig.answer(key);
            let Err(Error::ConnectionLost { cause, .. }) = &answer.result else { panic!("{name}: {answer:?}") };
            assert!(cause.to_string().len() > 40, "{name}: {cause} explains nothing");
        }
    }
}

#[test]
fn a_term_req_says_which_header_was_wrong() {
    let (mut rig, ..) = reading();
    let lie = rig.response(0x0ffe, Status::SUCCESS, 0);
    rig.feed(&lie);
    rig.pump();
    assert_eq!(rig.next(), Some(HostPdu::Term { fes: FIELD, fei: 20, header: lie }));
}

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    let asked = Settings { header_digest: DigestMode::Require, ..settings() };
    let mut rig = Rig::connected(asked, Digests { header: true, data: false }, 0, 8192);
    rig.submit(0, Payload::None);
    let (cid, _) = rig.capsule();
    let mut pdu = rig.response(cid, Status::SUCCESS, 0);
    let digest = u32::from_le_bytes(pdu[24..28].try_into().unwrap());
    pdu[9] ^= 0x40;
    rig.feed(&pdu);
    rig.expect_term(HEADER_DIGEST, digest);
}

#[test]
fn bad_initialisation_is_refused() {
    let ic_resp = |change: fn(&mut IcResp)| {
        let mut pdu = IcResp::new(0, Digests::default(), 8192);
        change(&mut pdu);
        let mut rig = Rig::fresh(settings());
        rig.pump();
        rig.from_host.clear();
        rig.feed(pdu.as_bytes());
        rig
    };
    type Change = fn(&mut IcResp);
    let cases: &[(u16, u32, Change)] = &[
        (UNSUPPORTED, 8, |p| p.pfv = (PFV_1_0 + 1).into()),
        (FIELD, 10, |p| p.cpda = 32),
        (FIELD, 11, |p| p.dgst = 1),
        (FIELD, 12, |p| p.maxh2cdata = 4095.into()),
        (FIELD, 4, |p| p.ch.plen = 129.into()),
    ];
    for (fes, fei, change) in cases {
        ic_resp(*change).expect_term(*fes, *fei);
    }
    // A response before ICResp.
    let mut rig = Rig::fresh(settings());
    rig.pump();
    rig.from_host.clear();
    rig.feed(&rig.response(0, Status::SUCCESS, 0));
    rig.expect_term(SEQUENCE, 0);
    // A controller that cannot do what this host requires.
    let mut rig = Rig::fresh(Settings { data_digest: DigestMode::Require, ..settings() });
    rig.pump();
    rig.feed(IcResp::new(0, Digests::default(), 8192).as_bytes());
    assert!(matches!(rig.queue.ended(), Some(ConnectionError::Negotiation(_))));
    // One that just hangs up.
    let mut rig = Rig::fresh(settings());
    rig.queue.handle_received(0);
    assert!(matches!(rig.queue.ended(), Some(ConnectionError::Negotiation(_))));
}

#[test]
fn a_terminate_request_is_told_and_not_answered() {
    let (mut rig, ..) = reading();
    let term = TermReq::new(PduType::C2H_TERM_REQ, FatalErrorStatus::DATA_OUT_OF_RANGE, 7, 24);
    rig.feed(&[term.as_bytes(), &[0; 24]].concat());
    assert!(matches!(
        rig.queue.ended(),
        Some(ConnectionError::Terminated { fes: FatalErrorStatus::DATA_OUT_OF_RANGE, fei: 7 })
    ));
    assert!(rig.answer(0).result.unwrap_err().to_string().contains("Data Transfer Out of Range"));
    rig.from_host.clear();
    rig.pump();
    assert_eq!(rig.next(), None);
    // One that is too long is not answered either.
    let (mut rig, ..) = reading();
    rig.feed(&[3, 0, 24, 0, 200, 0, 0, 0]);
    assert!(rig.queue.ended().is_some());
    rig.from_host.clear();
    rig.pump();
    assert_eq!(rig.next(), None);
}

#[test]
fn nothing_is_said_in_the_middle_of_a_pdu() {
    let mut rig = Rig::plain();
    rig.submit(0, Payload::None);
    assert!(rig.queue.prepare_transmit());
    rig.queue.handle_sent(10);
    rig.feed(&[0x0b, 0, 24, 0, 24, 0, 0, 0]);
    assert!(rig.queue.ended().is_some());
    assert!(!rig.queue.prepare_transmit());
}

#[test]
fn an_answer_to_a_command_that_is_not_fully_sent_is_refused() {
    let mut rig = Rig::plain();
    rig.submit(0, Payload::None);
    assert!(rig.queue.prepare_transmit());
    let guess = rig.response(0, Status::SUCCESS, 0);
    rig.feed(&guess);
    assert!(matches!(rig.queue.ended(), Some(ConnectionError::Protocol { .. })));
}

/// Several commands in flight, with digests or without; gives their CIDs.
fn busy(header: bool, data: bool) -> (Rig, Vec<u16>) {
    let mode = |on| if on { DigestMode::Prefer } else { DigestMode::Off };
    let asked = Settings { header_digest: mode(header), data_digest: mode(data), ..settings() };
    let mut rig = Rig::connected(asked, Digests { header, data }, 0, 8192);
    for key in 0..4 {
        rig.submit(key, Payload::from_controller(vec![0xee; 3000]));
    }
    for key in 4..8 {
        rig.submit(key, Payload::to_controller(vec![1u8; 9000]));
    }
    let cids = (0..8).map(|_| rig.capsule().0).collect();
    (rig, cids)
}

fn all_answered(rig: &mut Rig) {
    if rig.queue.ended().is_none() {
        rig.queue.handle_received(0);
    }
    rig.feed(&[]);
    assert_eq!(rig.answers.len(), 8, "every command is answered once");
    assert!(rig.answers.values().all(|a| !matches!(a.payload, Payload::None)), "every buffer is back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_do_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        segment in 1usize..300,
        digests in any::<(bool, bool)>(),
    ) {
        let (mut rig, _) = busy(digests.0, digests.1);
        rig.segment = segment;
        rig.feed(&bytes);
        rig.pump();
        all_answered(&mut rig);
    }

    #[test]
    fn plausible_pdus_do_no_harm(
        pdus in proptest::collection::vec(
            (0usize..8, 0u8..5, 0u32..10_000, 0u32..10_000, any::<(bool, bool, u16)>()), 1..30),
        segment in 1usize..5000,
    ) {
        let (mut rig, cids) = busy(false, false);
        rig.segment = segment;
        for (which, kind, offset, len, (a, b, tag)) in pdus {
            let cid = cids[which];
            let pdu = match kind {
                0 => rig.response(cid, Status(tag & 0x7fff), len),
                1 | 2 => rig.c2h(cid, if a { 0 } else { offset }, &vec![7; len as usize], a, b),
                3 => rig.r2t(cid, tag, if a { 0 } else { offset }, len),
                _ => rig.r2t(cid, tag, offset, len / 8),
            };
            rig.feed(&pdu);
            rig.pump();
        }
        // Nothing beyond the announced data was touched.
        all_answered(&mut rig);
        for key in 0..4 {
            let answer = rig.answer(key);
            let received = answer.result.as_ref().map_or(0, |r| r.received) as usize;
            let buffer: Vec<u8> = answer.payload.take().unwrap();
            prop_assert_eq!(buffer.len(), 3000);
            prop_assert!(buffer.iter().take(received).all(|b| *b == 7));
            prop_assert!(buffer.iter().all(|b| *b == 7 || *b == 0xee));
        }
    }

    #[test]
    fn a_flipped_bit_is_never_taken_for_data(
        at in any::<proptest::sample::Index>(),
        bit in 0u8..8,
        segment in 1usize..5000,
    ) {
        let (mut rig, cids) = busy(true, true);
        rig.segment = segment;
        let mut stream = Vec::new();
        for (key, cid) in cids.iter().enumerate().take(4) {
            let data = pattern(3000, key as u64);
            stream.extend(rig.c2h(*cid, 0, &data[..1200], false, false));
            stream.extend(rig.c2h(*cid, 1200, &data[1200..], true, key % 2 == 0));
            if key % 2 == 1 {
                stream.extend(rig.response(*cid, Status::SUCCESS, 3000));
            }
        }
        let at = at.index(stream.len());
        stream[at] ^= 1 << bit;
        rig.feed(&stream);
        all_answered(&mut rig);
        let mut failed = 0;
        for key in 0..4 {
            let answer = rig.answer(key);
            match answer.result {
                Ok(reply) => {
                    prop_assert_eq!(reply.received, 3000);
                    prop_assert!(answer.payload.take::<Vec<u8>>().unwrap() == pattern(3000, key as u64));
                }
                Err(_) => failed += 1,
            }
        }
        prop_assert!(failed > 0, "the flip at byte {} was not noticed", at);
    }
}

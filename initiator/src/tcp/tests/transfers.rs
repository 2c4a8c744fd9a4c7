//! Data both ways, in every split, on every negotiation, however TCP cuts the stream.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[test]
fn a_small_store_goes_in_the_capsule() {
    let mut rig = Rig::plain();
    let value = pattern(4096, 1);
    rig.submit(7, Payload::to_controller(value.clone()));
    rig.pump();
    let Some(HostPdu::Capsule { sqe, data }) = rig.next() else { panic!("no capsule") };
    assert_eq!(data, value);
    assert_eq!(sqe.sgl1, SglDescriptor::in_capsule(0, 4096));
    rig.feed(&rig.response(sqe.cid.get(), Status::SUCCESS, 9));
    let answer = rig.answer(7);
    assert_eq!(answer.result.unwrap().cqe.dw0.get(), 9);
    assert_eq!(answer.payload.take::<Vec<u8>>().unwrap(), value);
}

#[test]
fn a_large_store_answers_each_r2t_with_pdus_of_maxh2cdata() {
    let mut rig = Rig::plain();
    let value = pattern(20_000, 2);
    rig.submit(0, Payload::to_controller(value.clone()));
    let (cid, data) = rig.capsule();
    assert!(data.is_empty());
    // Two at once: they are answered in order.
    let both = [rig.r2t(cid, 0x51, 0, 12_000), rig.r2t(cid, 0x52, 12_000, 8_000)].concat();
    rig.feed(&both);
    rig.pump();
    let expected = [(0x51, 0, 8192, false), (0x51, 8192, 3808, true), (0x52, 12_000, 8000, true)];
    for (ttag, datao, datal, last) in expected {
        let data = value[datao..datao + datal].to_vec();
        assert_eq!(rig.next(), Some(HostPdu::Data { cccid: cid, ttag, datao: datao as u32, data, last }));
    }
    assert_eq!(rig.next(), None);
    rig.feed(&rig.response(cid, Status::SUCCESS, 0));
    rig.answer(0).result.unwrap();
}

#[test]
fn a_success_flag_completes_a_read_without_a_response() {
    let mut rig = Rig::plain();
    rig.submit(3, Payload::from_controller(vec![0u8; 100]));
    let (cid, _) = rig.capsule();
    rig.feed(&rig.c2h(cid, 0, &pattern(60, 3), false, false));
    rig.feed(&rig.c2h(cid, 60, &[5; 40], true, true));
    let answer = rig.answer(3);
    assert_eq!(answer.result.unwrap().received, 100);
    let data: Vec<u8> = answer.payload.take().unwrap();
    assert_eq!((&data[..60], &data[60..]), (&pattern(60, 3)[..], &[5; 40][..]));
}

#[test]
fn a_short_read_leaves_the_rest_of_the_buffer_alone() {
    let mut rig = Rig::plain();
    rig.submit(3, Payload::from_controller(vec![0xee; 100]));
    let (cid, _) = rig.capsule();
    rig.feed(&rig.c2h(cid, 0, &[1; 30], true, false));
    rig.feed(&rig.response(cid, Status::SUCCESS, 30));
    let answer = rig.answer(3);
    assert_eq!(answer.result.unwrap().received, 30);
    let data: Vec<u8> = answer.payload.take().unwrap();
    assert_eq!((&data[..30], &data[30..]), (&[1; 30][..], &[0xee; 70][..]));
}

#[test]
fn an_error_status_gives_the_buffer_back() {
    let mut rig = Rig::plain();
    rig.submit(3, Payload::from_controller(vec![0xee; 100]));
    let (cid, _) = rig.capsule();
    rig.feed(&rig.response(cid, Status::KEY_DOES_NOT_EXIST.with_dnr(), 0));
    let answer = rig.answer(3);
    assert!(answer.result.unwrap_err().is_key_missing());
    assert_eq!(answer.payload.take::<Vec<u8>>().unwrap(), [0xee; 100]);
}

#[test]
fn a_wrong_data_digest_fails_the_command_and_not_the_connection() {
    let digests = Digests { header: true, data: true };
    let asked = Settings { header_digest: DigestMode::Prefer, data_digest: DigestMode::Require, ..settings() };
    let mut rig = Rig::connected(asked, digests, 0, 8192);
    for (key, success) in [(1, false), (2, true)] {
        rig.submit(key, Payload::from_controller(vec![0u8; 64]));
        let (cid, _) = rig.capsule();
        let mut pdu = rig.c2h(cid, 0, &[9; 64], true, success);
        *pdu.last_mut().unwrap() ^= 1;
        rig.feed(&pdu);
        if !success {
            rig.feed(&rig.response(cid, Status::SUCCESS, 0));
        }
        let error = rig.answer(key).result.unwrap_err();
        assert_eq!(error.status(), Some(Status::TRANSIENT_TRANSPORT_ERROR));
        assert!(error.is_retryable());
    }
    rig.submit(3, Payload::from_controller(vec![0u8; 64]));
    let (cid, _) = rig.capsule();
    rig.feed(&rig.c2h(cid, 0, &[9; 64], true, true));
    assert_eq!(rig.answer(3).payload.take::<Vec<u8>>().unwrap(), [9; 64]);
}

/// A controller that serves reads and writes in splits that a seed chooses.
pub(super) struct Script {
    pub(super) random: u64,
    pub(super) open: Vec<Open>,
    pub(super) to_host: VecDeque<Vec<u8>>,
}

/// A command that the script works on.
pub(super) struct Open {
    cid: u16,
    len: u32,
    /// The data of a write, as far as they have come; of a read, all of them.
    data: Vec<u8>,
    write: bool,
    asked: u32,
    sent: u32,
    r2ts: Vec<(u16, u32, u32)>,
}

impl Script {
    pub(super) fn below(&mut self, n: u32) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 33) as u32) % n.max(1)
    }

    /// Takes what the host has sent.
    pub(super) fn take(&mut self, rig: &mut Rig, written: &mut BTreeMap<u16, Vec<u8>>, reads: &BTreeMap<u16, Vec<u8>>) {
        while let Some(pdu) = rig.next() {
            match pdu {
                HostPdu::Capsule { sqe, data } => {
                    let (cid, len) = (sqe.cid.get(), sqe.sgl1.decode().data_length().unwrap());
                    let write = sqe.opcode & 3 == 1;
                    if write && (data.len() as u32 == len) {
                        written.insert(sqe.cdw10.get() as u16, data);
                        self.to_host.push_back(rig.response(cid, Status::SUCCESS, 0));
                        continue;
                    }
                    let data = if write { vec![0; len as usize] } else { reads[&(sqe.cdw10.get() as u16)].clone() };
                    let tag = sqe.cdw10.get();
                    self.open.push(Open { cid, len, data, write, asked: 0, sent: tag, r2ts: Vec::new() });
                }
                HostPdu::Data { cccid, ttag, datao, data, last } => {
                    let open = self.open.iter_mut().find(|o| o.cid == cccid).unwrap();
                    let at = open.r2ts.iter().position(|r| r.0 == ttag).unwrap();
                    let (_, next, end) = &mut open.r2ts[at];
                    assert_eq!(datao, *next);
                    *next += data.len() as u32;
                    assert!(*next <= *end);
                    assert_eq!(last, next == end);
                    open.data[datao as usize..datao as usize + data.len()].copy_from_slice(&data);
                    if last {
                        open.r2ts.remove(at);
                    }
                    if open.r2ts.is_empty() && open.asked == open.len {
                        let open = self.open.remove(self.open.iter().position(|o| o.cid == cccid).unwrap());
                        written.insert(open.sent as u16, open.data);
                        self.to_host.push_back(rig.response(cccid, Status::SUCCESS, 0));
                    }
                }
                HostPdu::Term { .. } => panic!("the host ends the connection: {:?}", rig.queue.ended()),
            }
        }
    }

    /// Goes on with one of the open commands.
    pub(super) fn step(&mut self, rig: &Rig) {
        if self.open.is_empty() {
            return;
        }
        let at = self.below(self.open.len() as u32) as usize;
        let (success, split) = (self.below(2) == 0, self.below(9000) + 1);
        let ttag = self.below(65_536) as u16;
        let open = &mut self.open[at];
        let n = split.min(open.len - open.asked);
        if open.write {
            let free = !open.r2ts.iter().any(|r| r.0 == ttag);
            // MAXR2T of the rig is 3, 0's based.
            if n > 0 && open.r2ts.len() < 4 && free {
                self.to_host.push_back(rig.r2t(open.cid, ttag, open.asked, n));
                open.r2ts.push((ttag, open.asked, open.asked + n));
                open.asked += n;
            }
            return;
        }
        let data = &open.data[open.asked as usize..(open.asked + n) as usize];
        let last = open.asked + n == open.len;
        self.to_host.push_back(rig.c2h(open.cid, open.asked, data, last, last && success));
        open.asked += n;
        if last {
            if !success {
                self.to_host.push_back(rig.response(open.cid, Status::SUCCESS, 0));
            }
            self.open.remove(at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_however_the_stream_is_cut(
        seed in any::<u64>(),
        lens in proptest::collection::vec((any::<bool>(), 1usize..40_000), 1..12),
        header in any::<bool>(),
        data in any::<bool>(),
        hpda in prop_oneof![Just(0u8), Just(1), Just(31), 0u8..32],
        cpda in prop_oneof![Just(0u8), Just(1), Just(31), 0u8..32],
        maxh2cdata in prop_oneof![Just(4096u32), Just(8192), Just(131_072), 4096u32..20_000],
        segment in prop_oneof![Just(1usize), 1usize..100, 100usize..5000, Just(usize::MAX)],
    ) {
        let mode = |on| if on { DigestMode::Prefer } else { DigestMode::Off };
        let asked = Settings { header_digest: mode(header), data_digest: mode(data), hpda, ..settings() };
        let mut rig = Rig::connected(asked, Digests { header, data }, cpda, maxh2cdata);
        rig.segment = segment;
        let mut script = Script { random: seed, open: Vec::new(), to_host: VecDeque::new() };
        let mut written = BTreeMap::new();
        let mut reads = BTreeMap::new();
        for (key, (write, len)) in lens.iter().enumerate() {
            let bytes = pattern(*len, seed ^ key as u64);
            let payload = if *write {
                Payload::to_controller(bytes)
            } else {
                reads.insert(key as u16, bytes);
                Payload::from_controller(vec![0u8; *len])
            };
            let mut sqe = Sqe::new(OPCODE | if *write { 1 } else { 2 });
            sqe.cdw10 = (key as u32).into();
            rig.queue.submit(key, Command::new("Test", sqe, payload, None));
        }
        for _ in 0..20_000 {
            rig.pump();
            script.take(&mut rig, &mut written, &reads);
            script.step(&rig);
            if let Some(pdu) = script.to_host.pop_front() {
                rig.feed(&pdu);
            }
            prop_assert!(rig.queue.ended().is_none(), "{:?}", rig.queue.ended());
            if rig.answers.len() == lens.len() {
                break;
            }
        }
        for (key, (write, len)) in lens.iter().enumerate() {
            let answer = rig.answer(key);
            let reply = answer.result.unwrap();
            let back: Vec<u8> = answer.payload.take().unwrap();
            let expected = pattern(*len, seed ^ key as u64);
            prop_assert!(back == expected);
            if *write {
                prop_assert!(written[&(key as u16)] == expected);
            } else {
                prop_assert_eq!(reply.received as usize, *len);
            }
        }
        prop_assert!(!rig.queue.is_busy());
    }
}

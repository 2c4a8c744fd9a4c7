//! Data in the memory of a device that copies late and in any order.

use std::collections::{BTreeMap, VecDeque};

use kvof_memory::simulated::SimulatedDevice;
use kvof_memory::staging::StagingLimits;
use kvof_memory::{Buffer, MemoryKind};
use proptest::prelude::*;

use super::transfers::Script;
use super::*;
use crate::Error;

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len).map(|i| ((i as u64).wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 7) as u8).collect()
}

fn on_device(device: &SimulatedDevice, bytes: &[u8]) -> Buffer {
    let mut buffer = device.region(bytes.len()).buffer(0, bytes.len()).unwrap();
    buffer.copy_from_host(0, bytes).unwrap();
    buffer
}

fn content(buffer: &Buffer) -> Vec<u8> {
    assert_eq!(buffer.kind(), MemoryKind::Simulated);
    let mut bytes = vec![0; buffer.len()];
    buffer.copy_to_host(0, &mut bytes).unwrap();
    bytes
}

/// A connection with pieces of `piece_len` bytes.
fn rig(piece_len: usize, pieces: usize) -> Rig {
    let mut rig = Rig::plain();
    rig.queue.stager = Stager::new(StagingLimits { piece_len, pieces });
    rig
}

fn finish_all(rig: &mut Rig, device: &SimulatedDevice) {
    while device.finish(0) {}
    assert!(rig.queue.handle_copies());
    rig.collect();
}

#[test]
fn a_store_is_sent_as_its_bytes_become_ready() {
    let device = SimulatedDevice::new();
    let mut rig = rig(1000, 2);
    let value = pattern(2500, 1);
    rig.submit(4, Payload::to_controller(on_device(&device, &value)));
    // Even a value that would fit goes not with the command: its bytes are not there yet.
    let (cid, data) = rig.capsule();
    assert!(data.is_empty());
    assert_eq!(device.running(), 1, "its beginning is read before the controller asks");
    rig.feed(&rig.r2t(cid, 0x77, 0, 2500));
    rig.pump();
    assert_eq!(rig.next(), None);
    assert_eq!(device.running(), 2);
    let mut got = Vec::new();
    for (datao, datal, last) in [(0, 1000, false), (1000, 1000, false), (2000, 500, true)] {
        assert!(device.finish(0));
        assert!(rig.queue.handle_copies());
        rig.pump();
        let data = value[datao as usize..datao as usize + datal].to_vec();
        got.push(rig.next());
        assert_eq!(got.last().unwrap(), &Some(HostPdu::Data { cccid: cid, ttag: 0x77, datao, data, last }));
    }
    rig.feed(&rig.response(cid, Status::SUCCESS, 0));
    let answer = rig.answer(4);
    answer.result.unwrap();
    assert_eq!(content(&answer.payload.take().unwrap()), value);
}

#[test]
fn a_retrieve_is_answered_when_its_last_byte_is_in_the_device() {
    let device = SimulatedDevice::new();
    let mut rig = rig(1000, 2);
    rig.segment = 100;
    let value = pattern(2500, 2);
    rig.submit(1, Payload::from_controller(on_device(&device, &[0xee; 3000])));
    let (cid, _) = rig.capsule();
    let bytes = [rig.c2h(cid, 0, &value, true, false), rig.response(cid, Status::SUCCESS, 0)].concat();
    let mut at = rig.feed_some(&bytes);
    assert!(at < bytes.len(), "both pieces are being copied, so the queue takes no more");
    assert_eq!(rig.feed_some(&bytes[at..]), 0);
    assert_eq!(device.running(), 2);
    finish_all(&mut rig, &device);
    at += rig.feed_some(&bytes[at..]);
    assert_eq!(at, bytes.len());
    // The response has come, and a copy runs.
    assert!(rig.answers.is_empty() && rig.queue.is_leaving());
    finish_all(&mut rig, &device);
    let answer = rig.answer(1);
    assert_eq!(answer.result.unwrap().received, 2500);
    let back = content(&answer.payload.take().unwrap());
    assert_eq!((&back[..2500], &back[2500..]), (&value[..], &[0xee; 500][..]));
}

#[test]
fn bytes_that_came_too_early_wait_for_a_piece() {
    let device = SimulatedDevice::new();
    let mut rig = rig(16, 1);
    let mut expected = Vec::new();
    let mut bytes = Vec::new();
    for key in 0..3 {
        let value = pattern(40, key as u64);
        rig.submit(key, Payload::from_controller(on_device(&device, &[0; 40])));
        let (cid, _) = rig.capsule();
        bytes.extend(rig.c2h(cid, 0, &value, true, true));
        expected.push(value);
    }
    // All of it may be in the receive buffer at once; nothing of it is lost or overtaken.
    let mut at = 0;
    while rig.answers.len() < 3 {
        at += rig.feed_some(&bytes[at..]);
        assert!(device.running() <= 1);
        device.finish(0);
        rig.queue.handle_copies();
        rig.collect();
    }
    for (key, value) in expected.into_iter().enumerate() {
        assert_eq!(content(&rig.answer(key).payload.take().unwrap()), value);
    }
}

#[test]
fn a_copy_that_fails_fails_its_retrieve_and_no_other() {
    let device = SimulatedDevice::new();
    let mut rig = rig(1000, 4);
    rig.submit(0, Payload::from_controller(on_device(&device, &[0; 500])));
    rig.submit(1, Payload::from_controller(on_device(&device, &[0; 500])));
    device.fail(0);
    for key in 0..2 {
        let (cid, _) = rig.capsule();
        rig.feed(&rig.c2h(cid, 0, &[key; 500], true, true));
    }
    finish_all(&mut rig, &device);
    let answer = rig.answer(0);
    let error = answer.result.unwrap_err();
    assert!(matches!(&error, Error::Memory { command: "Test", len: 500, .. }), "{error}");
    assert!(error.to_string().contains("the copy failed"));
    assert_eq!(answer.payload.take::<Buffer>().unwrap().len(), 500);
    let answer = rig.answer(1);
    answer.result.unwrap();
    assert_eq!(content(&answer.payload.take().unwrap()), [1; 500]);
}

#[test]
fn a_store_whose_bytes_cannot_be_read_ends_the_connection() {
    let device = SimulatedDevice::new();
    let mut rig = rig(1000, 4);
    rig.submit(0, Payload::to_controller(on_device(&device, &[1; 5000])));
    rig.submit(1, Payload::to_controller(on_device(&device, &[2; 5000])));
    rig.submit(2, Payload::from_controller(vec![0u8; 10]));
    let (cid, _) = rig.capsule();
    device.fail(1);
    rig.feed(&rig.r2t(cid, 1, 0, 5000));
    finish_all(&mut rig, &device);
    rig.pump();
    assert!(matches!(rig.queue.ended(), Some(ConnectionError::Memory { command: "Test", .. })));
    while device.finish(0) {}
    rig.queue.handle_copies();
    assert!(matches!(rig.answer(0).result, Err(Error::Memory { .. })));
    assert!(matches!(rig.answer(1).result, Err(Error::ConnectionLost { .. })));
    assert!(matches!(rig.answer(2).result, Err(Error::ConnectionLost { .. })));
    assert!(!rig.queue.is_leaving() && !rig.queue.is_copying());
}

#[test]
fn a_device_without_pinned_memory_is_said_at_once() {
    let device = SimulatedDevice::new();
    device.limit_pieces(0);
    let mut rig = rig(1000, 4);
    rig.submit(0, Payload::to_controller(on_device(&device, &[1; 5000])));
    let error = rig.answer(0).result.unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
    assert!(rig.queue.ended().is_none() && !rig.queue.is_busy());
    // Without data there is nothing to stage.
    rig.submit(1, Payload::to_controller(on_device(&device, &[])));
    let (cid, _) = rig.capsule();
    rig.feed(&rig.response(cid, Status::SUCCESS, 0));
    rig.answer(1).result.unwrap();
}

#[test]
fn a_buffer_comes_back_late_rather_than_while_it_is_written() {
    let device = SimulatedDevice::new();
    let mut rig = rig(100, 4);
    rig.submit(0, Payload::from_controller(on_device(&device, &[0; 500])));
    rig.submit(1, Payload::from_controller(on_device(&device, &[0; 500])));
    let (cid, _) = rig.capsule();
    rig.capsule();
    rig.feed(&rig.c2h(cid, 0, &[7; 250], false, false));
    assert_eq!(device.running(), 2);
    // The time is over: the one whose memory is at rest is answered, the other when its copies are over.
    rig.queue.handle_timeout(rig.now + LIMIT);
    rig.collect();
    assert!(rig.answers.contains_key(&1) && !rig.answers.contains_key(&0));
    finish_all(&mut rig, &device);
    let answer = rig.answer(0);
    assert!(matches!(answer.result, Err(Error::Timeout { .. })));
    let buffer: Buffer = answer.payload.take().unwrap();
    // What comes now goes nowhere, and what was half in a piece is gone.
    rig.feed(&rig.c2h(cid, 250, &[9; 250], true, true));
    assert!(rig.queue.ended().is_none() && device.running() == 0);
    assert_eq!(content(&buffer), [[7; 200].as_slice(), &[0; 300]].concat());

    // The same at the end of the connection.
    rig.submit(2, Payload::from_controller(buffer));
    let (cid, _) = rig.capsule();
    rig.feed(&rig.c2h(cid, 0, &[8; 250], false, false));
    rig.queue.handle_received(0);
    rig.collect();
    assert!(rig.queue.is_leaving() && !rig.answers.contains_key(&2));
    finish_all(&mut rig, &device);
    assert!(matches!(rig.answer(2).result, Err(Error::ConnectionLost { .. })));
    assert!(!rig.queue.is_leaving());
}

/// Whether a value is written, its length, whether it is in device memory.
type Case = (bool, usize, bool);

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_from_and_in_whatever_memory(
        seed in any::<u64>(),
        cases in proptest::collection::vec((any::<bool>(), 1usize..20_000, prop_oneof![3 => Just(true), 1 => Just(false)]), 1..12),
        header in any::<bool>(),
        data in any::<bool>(),
        hpda in prop_oneof![Just(0u8), Just(31), 0u8..32],
        cpda in prop_oneof![Just(0u8), Just(31), 0u8..32],
        maxh2cdata in prop_oneof![Just(4096u32), Just(131_072), 4096u32..20_000],
        segment in prop_oneof![1usize..100, 100usize..5000, Just(usize::MAX)],
        piece_len in prop_oneof![64usize..300, 300usize..5000, Just(1 << 20)],
        pieces in 1usize..5,
    ) {
        let mode = |on| if on { DigestMode::Prefer } else { DigestMode::Off };
        let asked = Settings { header_digest: mode(header), data_digest: mode(data), hpda, ..settings() };
        let mut rig = Rig::connected(asked, Digests { header, data }, cpda, maxh2cdata);
        rig.segment = segment;
        rig.queue.stager = Stager::new(StagingLimits { piece_len, pieces });
        let device = SimulatedDevice::new();
        let mut script = Script { random: seed, open: Vec::new(), to_host: VecDeque::new() };
        let mut written = BTreeMap::new();
        let mut reads = BTreeMap::new();
        let cases: Vec<Case> = cases;
        for (key, (write, len, staged)) in cases.iter().enumerate() {
            let bytes = pattern(*len, seed ^ key as u64);
            let payload = match (*write, *staged) {
                (true, true) => Payload::to_controller(on_device(&device, &bytes)),
                (true, false) => Payload::to_controller(bytes.clone()),
                (false, true) => Payload::from_controller(on_device(&device, &vec![0; *len])),
                (false, false) => Payload::from_controller(vec![0u8; *len]),
            };
            if !write {
                reads.insert(key as u16, bytes);
            }
            let mut sqe = Sqe::new(OPCODE | if *write { 1 } else { 2 });
            sqe.cdw10 = (key as u32).into();
            rig.queue.submit(key, Command::new("Test", sqe, payload, None));
        }
        for _ in 0..60_000 {
            rig.pump();
            script.take(&mut rig, &mut written, &reads);
            script.step(&rig);
            if let Some(pdu) = script.to_host.front_mut() {
                let taken = rig.feed_some(pdu);
                pdu.drain(..taken);
                if pdu.is_empty() {
                    script.to_host.pop_front();
                } else {
                    prop_assert!(rig.queue.is_copying(), "no room and no copy");
                }
            }
            if script.below(3) == 0 {
                let nth = script.below(8) as usize;
                device.finish(nth);
                rig.queue.handle_copies();
                rig.collect();
            }
            prop_assert!(device.running() <= 2 * pieces);
            prop_assert!(rig.queue.ended().is_none(), "{:?}", rig.queue.ended());
            if rig.answers.len() == cases.len() {
                break;
            }
        }
        for (key, (write, len, staged)) in cases.iter().enumerate() {
            let answer = rig.answer(key);
            let reply = answer.result.unwrap();
            let back = if *staged { content(&answer.payload.take().unwrap()) } else { answer.payload.take().unwrap() };
            let expected = pattern(*len, seed ^ key as u64);
            prop_assert!(back == expected);
            if *write {
                prop_assert!(written[&(key as u16)] == expected);
            } else {
                prop_assert_eq!(reply.received as usize, *len);
            }
        }
        prop_assert!(!rig.queue.is_busy() && !rig.queue.is_leaving() && !rig.queue.is_copying());
        prop_assert!(!rig.queue.stager.is_in_use());
    }

    #[test]
    fn the_end_may_come_at_any_time(
        seed in any::<u64>(),
        cases in proptest::collection::vec((any::<bool>(), 1usize..5000), 1..8),
        steps in 0usize..200,
        how in 0u8..3,
        fails in proptest::option::of(0u64..20),
    ) {
        let device = SimulatedDevice::new();
        if let Some(nth) = fails {
            device.fail(nth);
        }
        let mut rig = rig(300, 2);
        let mut script = Script { random: seed, open: Vec::new(), to_host: VecDeque::new() };
        let (mut written, mut reads) = (BTreeMap::new(), BTreeMap::new());
        for (key, (write, len)) in cases.iter().enumerate() {
            let buffer = on_device(&device, &vec![0; *len]);
            let payload = if *write { Payload::to_controller(buffer) } else { Payload::from_controller(buffer) };
            reads.insert(key as u16, pattern(*len, 1));
            let mut sqe = Sqe::new(OPCODE | if *write { 1 } else { 2 });
            sqe.cdw10 = (key as u32).into();
            rig.queue.submit(key, Command::new("Test", sqe, payload, TimeLimit::new(rig.now, LIMIT)));
        }
        for _ in 0..steps {
            if rig.queue.ended().is_some() {
                break;
            }
            rig.pump();
            if rig.queue.ended().is_none() {
                script.take(&mut rig, &mut written, &reads);
            }
            script.step(&rig);
            if let Some(pdu) = script.to_host.front_mut() {
                let taken = rig.feed_some(pdu);
                pdu.drain(..taken);
                if pdu.is_empty() {
                    script.to_host.pop_front();
                }
            }
            if script.below(4) == 0 {
                device.finish(script.below(4) as usize);
                rig.queue.handle_copies();
            }
        }
        match how {
            0 => rig.queue.fail(ConnectionError::ClosedByHost),
            1 => {
                rig.queue.handle_timeout(rig.now + LIMIT);
                rig.queue.handle_timeout(rig.now + LIMIT * 2);
                rig.queue.fail(ConnectionError::ClosedByHost);
            }
            _ => {
                // Dropped in the middle: it waits for its copies.
                drop(rig);
                prop_assert_eq!(device.running(), 0);
                return Ok(());
            }
        }
        while rig.queue.is_leaving() {
            device.finish(script.below(4) as usize);
            rig.queue.handle_copies();
        }
        rig.collect();
        prop_assert_eq!(rig.answers.len(), cases.len());
        for (key, (_, len)) in cases.iter().enumerate() {
            let answer = rig.answer(key);
            prop_assert_eq!(answer.payload.take::<Buffer>().unwrap().len(), *len);
        }
        prop_assert!(!rig.queue.stager.is_in_use());
        prop_assert_eq!(device.running(), 0);
    }
}

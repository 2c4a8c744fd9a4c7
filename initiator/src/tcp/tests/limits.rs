//! Time limits, buffers that have to come back, and the end of a connection.

use super::*;

#[test]
fn a_read_that_takes_too_long_gives_its_buffer_back_and_late_data_go_nowhere() {
    let mut rig = Rig::plain();
    rig.submit(1, Payload::from_controller(vec![0u8; 10_000]));
    let (cid, _) = rig.capsule();
    let data = pattern(10_000, 4);
    let pdu = rig.c2h(cid, 0, &data, true, false);
    // The limit passes in the middle of the data.
    rig.feed(&pdu[..5000]);
    rig.queue.handle_timeout(rig.now + LIMIT);
    let answer = rig.answer(1);
    assert!(matches!(answer.result, Err(Error::Timeout { .. })), "{:?}", answer.result);
    let buffer: Vec<u8> = answer.payload.take().unwrap();
    assert_eq!(buffer[..5000 - 24], data[..5000 - 24]);
    assert_eq!(buffer[5000 - 24..], [0; 10_000 - 5000 + 24]);
    assert_eq!(rig.queue.usable(), 15);
    // The rest comes, and the connection goes on.
    rig.feed(&pdu[5000..]);
    rig.feed(&rig.response(cid, Status::SUCCESS, 0));
    assert!(rig.queue.ended().is_none());
    assert!(rig.answers.is_empty());
    assert_eq!(rig.queue.usable(), 16);
    rig.submit(2, Payload::None);
    let (next, _) = rig.capsule();
    assert_ne!(next, cid);
    rig.feed(&rig.response(next, Status::SUCCESS, 0));
    rig.answer(2).result.unwrap();
}

#[test]
fn a_command_that_expired_keeps_its_identifier_until_it_is_answered() {
    let mut rig = Rig::plain();
    rig.submit(0, Payload::None);
    let (expired, _) = rig.capsule();
    rig.queue.handle_timeout(rig.now + LIMIT);
    assert!(rig.answer(0).result.is_err());
    rig.now += LIMIT;
    for key in 1..=15 {
        rig.submit(key, Payload::None);
    }
    rig.pump();
    while let Some(HostPdu::Capsule { sqe, .. }) = rig.next() {
        assert_ne!(sqe.cid.get() & 0xfff, expired & 0xfff);
    }
    rig.submit(16, Payload::None);
    assert!(matches!(rig.answer(16).result, Err(Error::Argument { .. })), "there is no room");
}

#[test]
fn a_store_whose_data_are_not_sent_takes_the_connection_down_when_its_time_is_over() {
    let mut rig = Rig::plain();
    rig.submit(1, Payload::to_controller(pattern(50_000, 5)));
    rig.submit(2, Payload::from_controller(vec![0u8; 16]));
    rig.capsule();
    rig.queue.handle_timeout(rig.now + LIMIT);
    let answer = rig.answer(1);
    assert!(matches!(answer.result, Err(Error::Timeout { .. })), "{:?}", answer.result);
    assert_eq!(answer.payload.take::<Vec<u8>>().unwrap(), pattern(50_000, 5));
    // The other one expired at the same time or is lost with the connection; its buffer is back in either case.
    let other = rig.answer(2);
    assert!(other.result.unwrap_err().is_retryable());
    assert_eq!(other.payload.take::<Vec<u8>>().unwrap().len(), 16);
    assert!(matches!(rig.queue.ended(), Some(ConnectionError::CommandTimeout { .. })));
}

#[test]
fn a_store_that_is_sent_gives_its_buffer_back_without_ending_the_connection() {
    let mut rig = Rig::plain();
    rig.submit(1, Payload::to_controller(pattern(50_000, 6)));
    let (cid, _) = rig.capsule();
    rig.feed(&rig.r2t(cid, 1, 0, 50_000));
    rig.pump();
    rig.queue.handle_timeout(rig.now + LIMIT);
    assert_eq!(rig.answer(1).payload.take::<Vec<u8>>().unwrap().len(), 50_000);
    assert!(rig.queue.ended().is_none());
    // No answer in as much time again: the controller is stuck.
    rig.queue.handle_timeout(rig.now + LIMIT * 2);
    assert!(matches!(rig.queue.ended(), Some(ConnectionError::CommandTimeout { .. })));
}

#[test]
fn deadlines_are_told() {
    let mut rig = Rig::plain();
    assert_eq!(rig.queue.poll_deadline(), None);
    rig.submit(1, Payload::None);
    assert_eq!(rig.queue.poll_deadline(), Some(rig.now + LIMIT));
    rig.queue.handle_timeout(rig.now + LIMIT / 2);
    assert!(rig.answers.is_empty());
    assert_eq!(rig.queue.poll_deadline(), Some(rig.now + LIMIT));
}

#[test]
fn the_end_of_a_connection_answers_everything() {
    let mut rig = Rig::plain();
    for key in 0..16 {
        let payload = match key % 3 {
            0 => Payload::None,
            1 => Payload::to_controller(vec![1u8; 9000]),
            _ => Payload::from_controller(vec![2u8; 9000]),
        };
        rig.submit(key, payload);
    }
    rig.pump();
    rig.queue.handle_received(0);
    assert!(matches!(rig.queue.ended(), Some(ConnectionError::ClosedByController)));
    for key in 0..16 {
        let answer = rig.answer(key);
        assert!(matches!(answer.result, Err(Error::ConnectionLost { .. })), "{:?}", answer.result);
        assert_eq!(answer.payload.take::<Vec<u8>>().is_some(), key % 3 != 0);
    }
    // What comes later is refused with its buffer.
    rig.submit(99, Payload::to_controller(vec![3u8; 5]));
    assert_eq!(rig.answer(99).payload.take::<Vec<u8>>().unwrap(), [3; 5]);
    assert!(!rig.queue.prepare_transmit());
}

/// A buffer that becomes shorter while the queue has it.
struct Shrinking(std::cell::Cell<usize>, [u8; 9000]);

impl crate::IoBuf for Shrinking {
    fn as_bytes(&self) -> &[u8] {
        let len = self.0.get();
        self.0.set(len / 2);
        &self.1[..len]
    }
}

#[test]
fn a_buffer_that_changes_its_length_ends_the_connection_and_nothing_else() {
    for len in [4000, 9000] {
        let mut rig = Rig::plain();
        rig.submit(0, Payload::to_controller(Shrinking(len.into(), [0; 9000])));
        rig.pump();
        if let Some(HostPdu::Capsule { sqe, .. }) = rig.next() {
            rig.feed(&rig.r2t(sqe.cid.get(), 1, 0, len as u32));
            rig.pump();
        }
        assert!(matches!(rig.queue.ended(), Some(ConnectionError::Buffer { .. })), "{:?}", rig.queue.ended());
        assert!(rig.answer(0).payload.take::<Shrinking>().is_some());
    }
}

//! Time limits, buffers that have to come back, and the end of a connection.

use super::*;
use crate::Error;

#[test]
fn a_controller_with_fewer_receives_gets_fewer_commands() {
    let rig = Rig::with(limits(), 5);
    assert_eq!(rig.queue.usable(), 5);
    assert_eq!(Rig::new().queue.usable(), 16);
}

#[test]
fn an_exposed_buffer_whose_time_is_over_comes_back_with_the_queue_pair_only() {
    let mut rig = Rig::new();
    rig.submit(1, Payload::from_controller(vec![0u8; 100]));
    rig.submit(2, Payload::to_controller(pattern(9000, 1)));
    rig.submit(3, Payload::to_controller(pattern(10, 1)));
    let (read, ..) = (rig.capsule(), rig.capsule());
    rig.now += LIMIT;
    rig.queue.handle_timeout(rig.now);
    assert!(matches!(rig.queue.ended(), Some(ConnectionError::CommandTimeout { command: "Test", .. })));
    // What was in a capsule is answered, one way or the other; what the controller reaches is not.
    rig.pump();
    assert_eq!(rig.answers.keys().copied().collect::<Vec<_>>(), [3]);
    // A late write still lands where it may.
    rig.write(&read, &[9; 100]);
    rig.destroy();
    let (first, second) = (rig.answer(1), rig.answer(2));
    assert!(matches!(first.result, Err(Error::Timeout { .. })), "{:?}", first.result);
    assert!(matches!(second.result, Err(Error::ConnectionLost { .. })), "{:?}", second.result);
    assert_eq!(first.payload.take::<Vec<u8>>().unwrap(), [9; 100]);
    assert!(second.payload.take::<Vec<u8>>().unwrap() == pattern(9000, 1));
}

#[test]
fn a_command_whose_data_went_in_the_capsule_is_answered_in_time_and_keeps_its_place() {
    let mut rig = Rig::new();
    rig.submit(1, Payload::to_controller(pattern(10, 1)));
    rig.submit(2, Payload::None);
    let late = rig.capsule();
    rig.now += LIMIT;
    rig.queue.handle_timeout(rig.now);
    assert!(rig.queue.ended().is_none());
    for key in [1, 2] {
        assert!(matches!(rig.answer(key).result, Err(Error::Timeout { .. })));
    }
    assert_eq!(rig.queue.usable(), 14);
    rig.respond(&late, Status::SUCCESS, 0);
    assert!(rig.answers.is_empty());
    assert_eq!(rig.queue.usable(), 15);
    // The other one never comes.
    rig.now += LIMIT;
    rig.queue.handle_timeout(rig.now);
    assert!(matches!(rig.queue.ended(), Some(ConnectionError::CommandTimeout { .. })));
    rig.destroy();
    assert!(rig.answers.is_empty());
}

#[test]
fn a_response_that_came_counts_although_the_connection_ends_before_its_key_is_dead() {
    let mut rig = Rig::new();
    rig.give_back = false;
    rig.submit(1, Payload::from_controller(vec![0u8; 100]));
    rig.submit(2, Payload::from_controller(vec![0u8; 100]));
    let read = rig.capsule();
    rig.write(&read, &[5; 100]);
    rig.respond(&read, Status::SUCCESS, 0);
    rig.queue.fail(ConnectionError::ClosedByController);
    rig.destroy();
    let answer = rig.answer(1);
    assert_eq!(answer.result.unwrap().received, 100);
    assert_eq!(answer.payload.take::<Vec<u8>>().unwrap(), [5; 100]);
    assert!(matches!(
        rig.answer(2).result,
        Err(Error::ConnectionLost { cause: ConnectionError::ClosedByController, .. })
    ));
}

#[test]
fn after_the_end_everything_is_refused_and_nothing_is_sent() {
    let mut rig = Rig::new();
    rig.submit(1, Payload::None);
    let capsule = rig.capsule();
    rig.queue.fail(ConnectionError::ClosedByController);
    rig.destroy();
    assert!(rig.answer(1).result.is_err());
    // What comes late is of no use any more.
    rig.respond(&capsule, Status::SUCCESS, 0);
    rig.queue.handle_sent(capsule.cid().into(), Ok(()));
    rig.queue.handle_concealed(capsule.cid().into(), Buffer::new(1));
    rig.submit(2, Payload::to_controller(vec![1u8]));
    assert!(rig.capsules.is_empty());
    assert!(matches!(rig.answer(2).result, Err(Error::ConnectionLost { .. })));
    assert!(rig.answers.is_empty());
}

#[test]
fn a_buffer_that_the_system_keeps_is_replaced_rather_than_waited_for() {
    let mut rig = Rig::new();
    rig.submit(1, Payload::to_controller(pattern(5000, 2)));
    rig.queue.fail(ConnectionError::ClosedByController);
    let kept = std::mem::take(&mut rig.exposed);
    rig.queue.handle_closed();
    let answer = rig.answer(1);
    assert!(answer.result.is_err());
    assert_eq!(answer.payload.take::<Vec<u8>>().unwrap().len(), 5000);
    drop(kept);
}

#[test]
fn no_command_is_taken_twice_for_another() {
    let mut rig = Rig::new();
    let mut old = None;
    for key in 0..40 {
        rig.submit(key, Payload::None);
        let capsule = rig.capsule();
        assert_ne!(Some(capsule.cid()), old);
        rig.respond(&capsule, Status::SUCCESS, 0);
        rig.answer(key).result.unwrap();
        old = Some(capsule.cid());
    }
}

/// Panics where its bytes are asked for, when its turn comes.
struct Panicking {
    bytes: Vec<u8>,
    left: std::cell::Cell<u32>,
}

impl Panicking {
    fn new(left: u32) -> Self {
        Self { bytes: vec![0xee; 5000], left: left.into() }
    }

    fn count(&self) {
        assert!(self.left.get() > 0, "as it is meant to");
        self.left.set(self.left.get() - 1);
    }
}

impl crate::IoBuf for Panicking {
    fn as_bytes(&self) -> &[u8] {
        self.count();
        &self.bytes
    }
}

impl crate::IoBufMut for Panicking {
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        self.count();
        &mut self.bytes
    }
}

#[test]
fn a_buffer_that_panics_fails_its_connection_and_everything_comes_back() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    // Asked for its length once; then the copy out of it, or into it, panics.
    for reads in [false, true] {
        let mut rig = Rig::new();
        rig.submit(1, Payload::from_controller(vec![0u8; 100]));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            if reads {
                rig.submit(2, Payload::from_controller(Panicking::new(1)));
                let capsule = rig.capsules.pop_back().unwrap();
                rig.write(&capsule, &[1; 5000]);
                rig.respond(&capsule, Status::SUCCESS, 0);
            } else {
                rig.submit(2, Payload::to_controller(Panicking::new(1)));
            }
        }));
        assert!(panicked.is_err(), "reads: {reads}");
        // As the driver does.
        rig.queue.fail(ConnectionError::BufferPanicked);
        rig.destroy();
        assert_eq!(rig.answer(1).payload.take::<Vec<u8>>().unwrap().len(), 100);
        let answer = rig.answer(2);
        assert!(matches!(answer.result, Err(Error::ConnectionLost { .. })), "{:?}", answer.result);
        assert!(answer.payload.take::<Panicking>().is_some_and(|buffer| buffer.bytes == [0xee; 5000]));
    }
}

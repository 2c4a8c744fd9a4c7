//! A controller that lies: every lie is found, named, and hurts nobody.

use super::*;
use crate::Error;

/// A read of 100 bytes and a write of 10 000 in flight, both exposed, and a command without data.
fn busy() -> (Rig, [Capsule; 3]) {
    let mut rig = Rig::new();
    rig.submit(0, Payload::from_controller(vec![0xee; 100]));
    rig.submit(1, Payload::to_controller(vec![1u8; 10_000]));
    rig.submit(2, Payload::None);
    let capsules = [rig.capsule(), rig.capsule(), rig.capsule()];
    (rig, capsules)
}

type Lie = fn(&mut Rig, &[Capsule; 3]);

fn key_of(capsule: &Capsule) -> Option<u32> {
    capsule.descriptors().first().map(|d| d.2)
}

#[test]
fn lies_about_commands_are_found() {
    let lies: &[(&str, Lie)] = &[
        ("which is not in flight", |r, _| r.respond_with(&Cqe::new(0x0fff, Status::SUCCESS), None)),
        ("which is not in flight", |r, c| r.respond_with(&Cqe::new(c[0].cid() ^ 0x1000, Status::SUCCESS), None)),
        ("0 bytes", |r, _| r.queue.handle_received(&[], None)),
        ("15 bytes", |r, c| {
            r.queue.handle_received(&Cqe::new(c[2].cid(), Status::SUCCESS).as_bytes()[..15], None);
        }),
        ("17 bytes", |r, c| {
            let long = [Cqe::new(c[2].cid(), Status::SUCCESS).as_bytes(), &[0]].concat();
            r.queue.handle_received(&long, None);
        }),
        ("SQHD 17", |r, c| {
            let mut cqe = Cqe::new(c[2].cid(), Status::SUCCESS);
            cqe.sqhd = 17.into();
            r.respond_with(&cqe, None);
        }),
        ("which is not its own", |r, c| {
            r.respond_with(&Cqe::new(c[0].cid(), Status::SUCCESS), key_of(&c[1]));
        }),
        ("which is not its own", |r, c| r.respond_with(&Cqe::new(c[2].cid(), Status::SUCCESS), key_of(&c[0]))),
        ("which is not its own", |r, c| r.respond_with(&Cqe::new(c[0].cid(), Status::SUCCESS), Some(0xdead))),
        ("a second response", |r, c| {
            r.give_back = false;
            r.respond(&c[0], Status::SUCCESS, 0);
            r.respond_with(&Cqe::new(c[0].cid(), Status::SUCCESS), None);
        }),
        ("which is not in flight", |r, c| {
            r.respond(&c[2], Status::SUCCESS, 0);
            r.respond(&c[2], Status::SUCCESS, 0);
        }),
    ];
    for (said, lie) in lies {
        let (mut rig, capsules) = busy();
        lie(&mut rig, &capsules);
        let cause = rig.queue.ended().unwrap_or_else(|| panic!("{said}: not found")).clone();
        assert!(matches!(cause, ConnectionError::Misbehaviour(_)), "{cause}");
        assert!(cause.to_string().contains(said), "{cause}: {said}");
        rig.destroy();
        for key in 0..3 {
            let answer = rig.answer(key);
            if let Err(error) = &answer.result {
                assert!(matches!(error, Error::ConnectionLost { .. }), "{said}: {error}");
            }
            assert_eq!(matches!(answer.payload, Payload::None), key == 2, "every buffer is back");
        }
    }
}

#[test]
fn a_response_before_the_command_is_refused() {
    let mut rig = Rig::new();
    let command = Command::new("Test", Sqe::new(OPCODE), Payload::None, TimeLimit::new(rig.now, LIMIT));
    rig.queue.submit(0, command);
    rig.respond_with(&Cqe::new(0, Status::SUCCESS), None);
    assert!(rig.queue.ended().unwrap().to_string().contains("not sent yet"));
    rig.destroy();
}

#[test]
fn a_key_that_the_controller_may_not_invalidate_is_not_its_to_invalidate() {
    let mut rig = Rig::new();
    rig.invalidatable = false;
    rig.submit(0, Payload::from_controller(vec![0u8; 9]));
    let capsule = rig.capsule();
    rig.respond_with(&Cqe::new(capsule.cid(), Status::SUCCESS), key_of(&capsule));
    assert!(rig.queue.ended().unwrap().to_string().contains("not its own"));
    rig.destroy();
}

#[test]
fn without_flow_control_sqhd_means_nothing() {
    let mut rig = Rig::with(Limits { flow_control: false, ..limits() }, 32);
    rig.submit(0, Payload::None);
    let mut cqe = Cqe::new(rig.capsule().cid(), Status::SUCCESS);
    cqe.sqhd = 0xffff.into();
    rig.respond_with(&cqe, None);
    rig.answer(0).result.unwrap();
}

#[test]
fn work_that_failed_ends_the_connection_once() {
    let (mut rig, [read, ..]) = busy();
    rig.queue.handle_sent(read.cid().into(), Err(ConnectionError::Work("retries exceeded".into())));
    rig.queue.handle_sent(read.cid().into(), Err(ConnectionError::Work("flushed".into())));
    rig.respond(&read, Status::SUCCESS, 0);
    rig.destroy();
    let error = rig.answer(0).result.unwrap_err().to_string();
    assert!(error.contains("retries exceeded"), "{error}");
}

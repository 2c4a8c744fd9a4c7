//! Capsules, Connect, and the rules of the queue.

use kvof_kv::KvCommand;
use kvof_spec::{
    AdminOpcode, IntoBytes, SglDescriptor, Sqe, Status,
    fabrics::{CNTLID_DYNAMIC, ConnectError},
    rdma::CmRequest,
};

use super::rig::{KV, Options, Rig, key, pattern, retrieve, store};
use crate::{
    queue::QueueViolation,
    transport::{
        CloseReason,
        rdma::{ADMIN_IN_CAPSULE, RdmaSettings},
    },
};

const NONE: SglDescriptor =
    SglDescriptor { address: kvof_spec::U64::ZERO, length: kvof_spec::U32::ZERO, rsvd: [0; 3], identifier: 0 };

fn event() -> Sqe {
    Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST)
}

#[test]
fn a_message_that_is_no_capsule_ends_the_connection() {
    let settings = RdmaSettings { in_capsule: 4096, ..RdmaSettings::default() };
    for (link, max) in [(0, 64 + ADMIN_IN_CAPSULE as usize), (1, 64 + 4096)] {
        for len in [0, 1, 63, max + 1] {
            let mut rig = Rig::connected(Options { settings: settings.clone(), ..Options::default() });
            rig.capsule(link, &vec![0xff; len]);
            let reason = rig.links[link].closed.clone().unwrap();
            assert_eq!(reason, CloseReason::Capsule { len, max });
            assert!(reason.is_fault());
            let text = format!("a capsule of {len} bytes, where 64 to {max} are allowed");
            assert!(reason.to_string().ends_with(&text), "{reason}");
            assert!(rig.links[link].done.is_empty());
            rig.finish();
        }
        // The longest: more bytes than the command has any use for.
        let mut rig = Rig::connected(Options { settings: settings.clone(), ..Options::default() });
        let command = KvCommand::exist(KV, &key("k")).to_sqe(NONE);
        let done = rig.execute(link, command, NONE, &vec![7; max - 64]);
        assert!(!done.cqe.status().is_success());
        assert_eq!(rig.links[link].closed, None);
        rig.finish();
    }
}

#[test]
fn connect_agrees_with_what_was_said_before() {
    let mut rig = Rig::with(Options::default());
    let admin = rig.open(0, 32);
    let refused = |result: Result<u16, kvof_spec::Cqe>, error: ConnectError| {
        let cqe = result.unwrap_err();
        assert_eq!(cqe.status(), Status::CONNECT_INVALID_PARAMETERS.with_dnr());
        assert_eq!(cqe.dw0.get(), error.0);
    };
    refused(rig.connect(admin, 0, 32, CNTLID_DYNAMIC), ConnectError::command(44));
    refused(rig.connect(admin, 1, 31, CNTLID_DYNAMIC), ConnectError::command(42));
    let cntlid = rig.connect(admin, 0, 31, CNTLID_DYNAMIC).unwrap();
    // Fewer entries than there could be.
    let small = rig.open(0, 32);
    let other = rig.connect(small, 0, 3, CNTLID_DYNAMIC).unwrap();
    assert_ne!(cntlid, other);
    assert_eq!(rig.links[small].conn.queue().sqsize(), 4);
    let io = rig.open(1, 16);
    refused(rig.connect(io, 1, 16, cntlid), ConnectError::command(44));
    refused(rig.connect(io, 0, 15, CNTLID_DYNAMIC), ConnectError::command(42));
    refused(rig.connect(io, 2, 15, cntlid), ConnectError::command(42));
    rig.finish();
}

#[test]
fn a_queue_without_connect_does_nothing_else() {
    let mut rig = Rig::new();
    let link = rig.open(1, 128);
    for sqe in [store(&key("k"), 0), Sqe::new(AdminOpcode::IDENTIFY), event(), Sqe::new(0xff_u8)] {
        let done = rig.execute(link, sqe, NONE, &[]);
        done.refused(Status::COMMAND_SEQUENCE_ERROR);
    }
    rig.execute(link, Sqe::from_bytes(&[0xff; 64]), NONE, &[]).refused(Status::INVALID_FIELD);
    // Connect data of the wrong length, or where there is none.
    let connect = kvof_spec::fabrics::ConnectCmd::new(1, 127, 0).to_sqe();
    rig.execute(link, connect, NONE, &[]).refused(Status::DATA_SGL_LENGTH_INVALID);
    rig.execute(link, connect, SglDescriptor::in_capsule(0, 1023), &[0; 1023]).refused(Status::DATA_SGL_LENGTH_INVALID);
    let huge = SglDescriptor::keyed(4096, 0xff_ffff, 7, false).unwrap();
    rig.execute(link, connect, huge, &[]).refused(Status::DATA_SGL_LENGTH_INVALID);
    assert_eq!(rig.links[link].closed, None);
    rig.finish();
}

#[test]
fn identifiers_in_use_are_refused_and_the_first_command_lives() {
    let mut rig = Rig::connected(Options::default());
    rig.links[1].hold.0 = true;
    let value = pattern(1, 4096);
    let mr = rig.links[1].memory.register(value.clone());
    let cid = rig.send(1, store(&key("k"), 4096), mr.sgl(), &[]);
    // The second one asks for its key to be invalidated.
    let other = rig.links[1].memory.zeros(512);
    let mut sqe = retrieve(&key("k"), 512);
    sqe.cid = cid.into();
    sqe.sgl1 = other.invalidated();
    rig.capsule(1, sqe.as_bytes());
    let done = rig.take_done(1, cid).unwrap();
    done.refused(Status::COMMAND_ID_CONFLICT);
    assert_eq!(done.invalidated, Some(other.key));
    rig.release(1);
    let done = rig.take_done(1, cid).unwrap();
    assert_eq!((done.ok().invalidated, done.written), (None, 0));
    assert_eq!(rig.retrieve(1, &key("k"), 4096).1, value);
    rig.finish();
}

#[test]
fn more_commands_than_entries_end_the_connection() {
    // Whether they wait for data or for their answers to be sent.
    for (hold, sqe, len) in
        [((true, false), store(&key("k"), 512), 512), ((false, true), retrieve(&key("k"), 512), 512)]
    {
        let mut rig = Rig::connected(Options::default());
        rig.store(1, &key("k"), &[1; 512]).ok();
        rig.links[1].hold = hold;
        let mr = rig.links[1].memory.zeros(len);
        // Responses that the driver has are beyond our control: the host may have seen them.
        let under_way = if hold.1 { 128 } else { 0 };
        for _ in 0..under_way + 128 {
            rig.send(1, sqe, mr.sgl(), &[]);
        }
        assert_eq!(rig.links[1].closed, None);
        assert_eq!(rig.links[1].held.len(), 128);
        rig.send(1, sqe, mr.sgl(), &[]);
        assert_eq!(rig.links[1].closed, Some(CloseReason::Queue(QueueViolation::Overflow(128))));
        assert_eq!(rig.links[1].held.len(), 128, "nothing comes after the end");
        rig.finish();
    }
}

#[test]
fn events_that_wait_use_up_no_entries() {
    let mut rig = Rig::connected(Options::default());
    let events: Vec<u16> = (0..4).map(|_| rig.send(0, event(), NONE, &[])).collect();
    rig.links[0].hold.0 = true;
    for _ in 0..31 {
        // Features with data wait for it.
        let mut sqe = Sqe::new(AdminOpcode::SET_FEATURES);
        sqe.cdw10 = 0x0b_u32.into();
        let mr = rig.links[0].memory.zeros(64);
        rig.send(0, sqe, mr.sgl(), &[]);
    }
    assert_eq!(rig.links[0].conn.queue().busy(), 31);
    assert_eq!(rig.links[0].closed, None);
    rig.release(0);
    assert!(events.iter().all(|&cid| rig.take_done(0, cid).is_none()));
    assert_eq!(rig.links[0].done.len(), 31);
    rig.finish();
}

#[test]
fn no_more_responses_are_under_way_than_the_host_has_receives() {
    let mut rig = Rig::connected(Options::default());
    let link = rig.open_with(CmRequest::new(2, 3, 63, 0));
    let cntlid = 1;
    rig.connect(link, 2, 63, cntlid).unwrap();
    rig.links[link].hold.1 = true;
    let sent: Vec<u16> =
        (0..40).map(|_| rig.send(link, KvCommand::exist(KV, &key("k")).to_sqe(NONE), NONE, &[])).collect();
    assert_eq!(rig.links[link].held.len(), 3);
    rig.flush(link);
    assert_eq!((rig.links[link].done.len(), rig.links[link].held.len()), (3, 3));
    rig.release(link);
    let cids: Vec<u16> = rig.links[link].done.iter().map(|done| done.cid()).collect();
    assert_eq!(cids, sent, "in the order of their completion");
    rig.finish();
}

#[test]
fn a_stopping_or_closed_connection_takes_nothing() {
    let mut rig = Rig::connected(Options::default());
    rig.links[1].hold.0 = true;
    let mr = rig.links[1].memory.zeros(4096);
    let cid = rig.send(1, store(&key("k"), 4096), mr.sgl(), &[]);
    rig.links[1].conn.drain();
    rig.settle();
    assert_eq!(rig.links[1].closed, None, "a command is under way");
    rig.send(1, store(&key("l"), 4096), mr.sgl(), &[]);
    rig.capsule(1, b"short");
    rig.release(1);
    rig.take_done(1, cid).unwrap().ok();
    assert!(rig.links[1].done.is_empty());
    assert_eq!(rig.links[1].closed, Some(CloseReason::Stopped));
    for _ in 0..300 {
        rig.send(1, retrieve(&key("k"), 4096), mr.sgl(), &[]);
        rig.capsule(1, b"short");
    }
    assert!(rig.links[1].done.is_empty());
    assert_eq!(rig.links[1].conn.poll_close(), Some(&CloseReason::Stopped), "the first reason stays");
    rig.finish();
}

#[test]
fn sq_head_moves_or_is_ignored() {
    let mut rig = Rig::connected(Options::default());
    let heads: Vec<u16> = (0..300)
        .map(|_| rig.execute(1, KvCommand::exist(KV, &key("k")).to_sqe(NONE), NONE, &[]).cqe.sqhd.get())
        .collect();
    assert!(heads.iter().zip(&heads[1..]).all(|(a, b)| (a + 1) % 128 == *b), "{heads:?}");
    rig.finish();
}

//! Timers, failures and ends.

use std::time::Duration;

use kvof_kv::{Key, KvCommand};
use kvof_spec::{
    Property, SglDescriptor, Sqe,
    fabrics::{CNTLID_DYNAMIC, PropertySetCmd},
    rdma::CmRequest,
};

use super::{
    super::{Action, RdmaSettings, RdmaTimers},
    rig::{KV, Options, Rig, key, pattern, retrieve, store},
};
use crate::{control, transport::CloseReason};

fn patience() -> RdmaTimers {
    RdmaTimers { connect: Duration::from_secs(5), fetch: Duration::from_secs(2), send: Duration::from_secs(3) }
}

fn options() -> Options {
    Options { settings: RdmaSettings { timers: patience(), ..RdmaSettings::default() }, ..Options::default() }
}

/// Keys whose shard is on the core that works on its own, so that their commands stay with it while it is stalled.
fn remote_keys(rig: &mut Rig, count: usize) -> Vec<Key> {
    rig.stalled = true;
    let mut keys = Vec::new();
    for i in 0.. {
        let key = key(&format!("r{i}"));
        let cid =
            rig.send(1, KvCommand::exist(KV, &key).to_sqe(SglDescriptor::default()), SglDescriptor::default(), &[]);
        if rig.take_done(1, cid).is_none() {
            keys.push(key);
        }
        if keys.len() == count {
            break;
        }
    }
    rig.stalled = false;
    rig.settle();
    rig.links[1].done.clear();
    keys
}

#[test]
fn a_host_that_does_not_connect_is_dropped() {
    let mut rig = Rig::with(options());
    let (silent, late) = (rig.open(0, 32), rig.open(0, 32));
    rig.pass(Duration::from_millis(4900));
    rig.connect(late, 0, 31, CNTLID_DYNAMIC).unwrap();
    assert_eq!(rig.links[silent].closed, None);
    rig.pass(Duration::from_millis(200));
    assert_eq!(rig.links[silent].closed, Some(CloseReason::Timeout("no Connect")));
    assert_eq!(rig.links[late].closed, None);
    rig.finish();
}

#[test]
fn a_fetch_that_does_not_end_ends_the_connection() {
    let mut rig = Rig::connected(options());
    rig.links[1].hold.0 = true;
    let mr = rig.links[1].memory.register(pattern(1, 2 << 20));
    let first = rig.send(1, store(&key("a"), 4096), mr.part(0, 4096).sgl(), &[]);
    rig.send(1, store(&key("b"), 4096), mr.part(0, 4096).sgl(), &[]);
    rig.pass(Duration::from_millis(1500));
    // Any that ends shows that the others are moving.
    let action = rig.links[1].held.pop_front().unwrap();
    rig.carry_out(1, action);
    rig.settle();
    rig.take_done(1, first).unwrap().ok();
    rig.pass(Duration::from_millis(1500));
    assert_eq!(rig.links[1].closed, None);
    rig.pass(Duration::from_millis(600));
    assert_eq!(rig.links[1].closed, Some(CloseReason::Timeout("data could not be read from the host")));
    assert!(!rig.links[1].conn.is_idle(), "the device has memory of it");
    rig.fail_held(1);
    assert!(rig.links[1].conn.is_idle());
    assert_eq!(rig.links[1].done.len(), 0);
    rig.finish();
}

#[test]
fn a_long_fetch_has_longer() {
    let mut rig = Rig::connected(options());
    rig.links[1].hold.0 = true;
    let sgl = rig.links[1].memory.register(pattern(1, 2 << 20)).sgl();
    rig.send(1, store(&key("a"), 2 << 20), sgl, &[]);
    rig.pass(Duration::from_millis(3900));
    assert_eq!(rig.links[1].closed, None);
    rig.pass(Duration::from_millis(300));
    assert!(rig.links[1].closed.is_some());
    rig.finish();
}

#[test]
fn answers_that_nobody_takes_end_the_connection() {
    let mut rig = Rig::connected(options());
    rig.links[1].hold.1 = true;
    rig.send(1, retrieve(&key("a"), 0), SglDescriptor::default(), &[]);
    rig.pass(Duration::from_millis(2900));
    assert_eq!(rig.links[1].closed, None);
    rig.pass(Duration::from_millis(300));
    assert_eq!(rig.links[1].closed, Some(CloseReason::Timeout("answers not taken")));
    // An idle connection is not late.
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.links[0].closed, None);
    rig.finish();
}

#[test]
fn a_failed_fetch_ends_the_connection_without_a_completion() {
    let mut rig = Rig::connected(options());
    // A key that the host never registered.
    let sgl = SglDescriptor::keyed(0x1000, 4096, 0xdead, true).unwrap();
    rig.send(1, store(&key("a"), 4096), sgl, &[]);
    let reason = rig.links[1].closed.clone().unwrap();
    assert_eq!(reason.to_string(), "RDMA: data could not be read from the host: remote access error");
    assert!(reason.is_fault());
    assert!(rig.links[1].done.is_empty());
    assert!(rig.links[1].conn.is_idle());
    rig.finish();
}

#[test]
fn memory_that_cannot_be_written_ends_the_connection() {
    let mut rig = Rig::connected(options());
    rig.store(1, &key("a"), &[1; 4096]).ok();
    let sgl = SglDescriptor::keyed(0x1000, 4096, 0xdead, false).unwrap();
    rig.send(1, retrieve(&key("a"), 4096), sgl, &[]);
    assert_eq!(rig.links[1].closed, Some(CloseReason::Rdma("remote access error".into())));
    assert!(rig.links[1].done.is_empty());
    rig.finish();
}

#[test]
fn landings_that_come_back_after_the_end_are_dropped() {
    for reason in [CloseReason::Host, CloseReason::DeviceRemoved, CloseReason::Rdma("flushed".into())] {
        let mut rig = Rig::connected(options());
        rig.links[1].hold = (true, true);
        let sgl = rig.links[1].memory.register(pattern(1, 1 << 20)).sgl();
        for i in 0..5 {
            rig.send(1, store(&key(&format!("k{i}")), 1 << 20), sgl, &[]);
            rig.send(1, retrieve(&key("none"), 0), SglDescriptor::default(), &[]);
        }
        assert!(rig.pool.in_use() >= 5 << 20);
        rig.links[1].conn.handle_end(reason.clone());
        rig.settle();
        assert_eq!(rig.links[1].closed.as_ref(), Some(&reason));
        assert_eq!(rig.links[1].conn.queue().busy(), 0);
        // Some were done before the end, and some fail.
        let held = std::mem::take(&mut rig.links[1].held);
        assert_eq!(held.len(), 10);
        for (i, action) in held.into_iter().enumerate() {
            assert!(!rig.links[1].conn.is_idle());
            match action {
                Action::Fetch { token, landing, .. } => {
                    let result = if i % 4 == 0 { Ok(()) } else { Err("flushed") };
                    rig.fetched(1, token, landing, result);
                }
                Action::Respond { token, .. } => rig.links[1].conn.handle_sent(rig.now, token),
            }
        }
        assert!(rig.links[1].conn.is_idle());
        assert_eq!(rig.pool.in_use(), 0);
        assert_eq!(rig.links[1].conn.poll_close(), Some(&reason), "the first reason stays");
        rig.finish();
    }
}

#[test]
fn what_the_driver_was_not_told_of_before_the_end_is_dropped() {
    // At once.
    let mut rig = Rig::connected(options());
    let sgl = rig.links[1].memory.register(pattern(1, 5000)).sgl();
    rig.send_only(1, store(&key("k"), 5000), sgl, &[]);
    rig.send_only(1, retrieve(&key("k"), 0), SglDescriptor::default(), &[]);
    rig.links[1].conn.handle_end(CloseReason::Host);
    assert!(rig.links[1].conn.poll_action().is_none());
    assert!(rig.links[1].conn.is_idle());
    assert_eq!(rig.pool.in_use(), 0);
    rig.finish();
    // In good order: what is answered is still said.
    let mut rig = Rig::connected(options());
    let sgl = rig.links[1].memory.register(pattern(1, 5000)).sgl();
    rig.send_only(1, store(&key("k"), 5000), sgl, &[]);
    let answered = rig.send_only(1, retrieve(&key("k"), 0), SglDescriptor::default(), &[]);
    let disable = PropertySetCmd::new(Property::CC, 0x0046_0060).unwrap();
    rig.send_only(0, disable.into(), SglDescriptor::default(), &[]);
    rig.settle();
    assert_eq!(rig.links[1].closed, Some(CloseReason::Controller(control::CloseReason::ControllerReset)));
    assert!(rig.take_done(1, answered).is_some());
    assert!(rig.links[1].done.is_empty());
    assert_eq!(rig.pool.in_use(), 0);
    rig.finish();
}

#[test]
fn a_connection_outlives_what_backends_do_for_it() {
    let mut rig = Rig::connected(options());
    let keys = remote_keys(&mut rig, 3);
    rig.stalled = true;
    for key in &keys {
        let sgl = rig.links[1].memory.register(pattern(1, 5000)).sgl();
        rig.send(1, store(key, 5000), sgl, &[]);
    }
    assert_eq!(rig.links[1].conn.queue().executing(), 3);
    rig.links[1].conn.handle_end(CloseReason::Host);
    rig.settle();
    assert!(!rig.links[1].conn.is_idle());
    rig.stalled = false;
    rig.settle();
    assert!(rig.links[1].conn.is_idle());
    assert!(rig.links[1].done.is_empty());
    rig.finish();
}

#[test]
fn stopping_waits_for_commands_and_the_admin_queue_for_its_io_queues() {
    let mut rig = Rig::connected(options());
    let keys = remote_keys(&mut rig, 1);
    rig.stalled = true;
    let sgl = rig.links[1].memory.register(pattern(1, 5000)).sgl();
    let cid = rig.send(1, store(&keys[0], 5000), sgl, &[]);
    for link in &mut rig.links {
        link.conn.drain();
    }
    rig.settle();
    rig.pass(Duration::from_secs(1));
    assert_eq!((&rig.links[0].closed, &rig.links[1].closed), (&None, &None));
    rig.links[1].hold.1 = true;
    rig.stalled = false;
    rig.settle();
    assert_eq!(rig.links[1].closed, None, "its answer is not sent");
    rig.release(1);
    rig.take_done(1, cid).unwrap().ok();
    assert_eq!(rig.links[1].closed, Some(CloseReason::Stopped));
    assert!(!rig.links[1].closed.as_ref().unwrap().is_fault());
    rig.pass(Duration::from_millis(200));
    assert_eq!(rig.links[0].closed, Some(CloseReason::Stopped));
    rig.finish();
}

#[test]
fn the_controllers_end_is_told_after_the_last_answer() {
    // A reset: the I/O queues end, and the answer to the command that did it still goes out.
    let mut rig = Rig::connected(options());
    rig.links[1].hold = (true, true);
    let sgl = rig.links[1].memory.register(pattern(1, 5000)).sgl();
    rig.send(1, store(&key("k"), 5000), sgl, &[]);
    let answered = rig.send(1, retrieve(&key("none"), 0), SglDescriptor::default(), &[]);
    let disable = PropertySetCmd::new(Property::CC, 0x0046_0060).unwrap();
    rig.execute(0, disable.into(), SglDescriptor::default(), &[]).ok();
    rig.settle();
    assert_eq!(rig.links[1].closed, None, "an answer is under way");
    assert!(rig.links[1].conn.poll_action().is_none());
    rig.release(1);
    let reason = CloseReason::Controller(control::CloseReason::ControllerReset);
    assert_eq!(rig.links[1].closed, Some(reason));
    assert!(rig.take_done(1, answered).is_some());
    assert!(rig.links[1].done.is_empty(), "the command that waited for data has no completion");
    rig.finish();
}

#[test]
fn the_controllers_end_does_not_wait_for_ever() {
    let mut rig = Rig::connected(options());
    rig.links[1].hold = (false, true);
    rig.send(1, retrieve(&key("none"), 0), SglDescriptor::default(), &[]);
    let disable = PropertySetCmd::new(Property::CC, 0x0046_0060).unwrap();
    rig.execute(0, disable.into(), SglDescriptor::default(), &[]).ok();
    rig.pass(Duration::from_millis(2900));
    assert_eq!(rig.links[1].closed, None);
    rig.pass(Duration::from_millis(300));
    assert_eq!(rig.links[1].closed, Some(CloseReason::Controller(control::CloseReason::ControllerReset)));
    rig.finish();
}

#[test]
fn commands_that_wait_for_memory_go_with_their_connection() {
    let mut rig = Rig::connected(Options { pool: 16 << 20, ..options() });
    let mut taken = Vec::new();
    while let Some(buf) = rig.pool.alloc(4096) {
        taken.push(buf);
    }
    let sgl = rig.links[1].memory.register(pattern(1, 5000)).sgl();
    for _ in 0..10 {
        rig.send(1, store(&key("k"), 5000), sgl, &[]);
        rig.send(1, store(&key("k"), 4), SglDescriptor::in_capsule(0, 4), b"abcd");
    }
    assert!(rig.links[1].conn.is_starved());
    rig.links[1].conn.handle_end(CloseReason::Host);
    assert!(!rig.links[1].conn.is_starved() && rig.links[1].conn.is_idle());
    drop(taken);
    rig.settle();
    rig.finish();
}

/// Asks for events of namespaces, and gives the command that waits for one; `remove_namespace` is one.
fn await_event(rig: &mut Rig, link: usize) -> u16 {
    let mut sqe = Sqe::new(kvof_spec::AdminOpcode::SET_FEATURES);
    (sqe.cdw10, sqe.cdw11) = (0x0b_u32.into(), 0x100_u32.into());
    rig.execute(link, sqe, SglDescriptor::default(), &[]).ok();
    rig.send(link, Sqe::new(kvof_spec::AdminOpcode::ASYNC_EVENT_REQUEST), SglDescriptor::default(), &[])
}

fn remove_namespace(rig: &Rig) {
    let mut def = super::rig::definition(2 << 20);
    def.subsystems[0].namespaces.pop();
    let plan = rig.target.plan(def).unwrap();
    rig.target.apply(plan).unwrap();
}

#[test]
fn events_are_answered_when_they_come() {
    let mut rig = Rig::connected(options());
    let cid = await_event(&mut rig, 0);
    rig.pass(Duration::from_secs(1));
    assert!(rig.take_done(0, cid).is_none());
    remove_namespace(&rig);
    rig.pass(Duration::from_millis(100));
    rig.take_done(0, cid).unwrap().ok();
    rig.finish();
}

#[test]
fn an_event_that_is_not_sent_yet_uses_up_no_entry() {
    let mut rig = Rig::connected(options());
    let admin = rig.open_with(CmRequest::new(0, 1, 31, 0));
    rig.connect(admin, 0, 31, CNTLID_DYNAMIC).unwrap();
    rig.execute(admin, PropertySetCmd::new(Property::CC, 0x0046_0061).unwrap().into(), SglDescriptor::default(), &[])
        .ok();
    let event = await_event(&mut rig, admin);
    rig.links[admin].hold.1 = true;
    let keep_alive = Sqe::new(kvof_spec::AdminOpcode::KEEP_ALIVE);
    // The host has one receive, which this takes; the answer to the event waits.
    rig.send(admin, keep_alive, SglDescriptor::default(), &[]);
    remove_namespace(&rig);
    rig.settle();
    for _ in 0..32 {
        rig.send(admin, keep_alive, SglDescriptor::default(), &[]);
    }
    assert_eq!((&rig.links[admin].closed, rig.links[admin].held.len()), (&None, 1));
    rig.release(admin);
    rig.take_done(admin, event).unwrap().ok();
    assert_eq!(rig.links[admin].done.len(), 33);
    rig.finish();
}

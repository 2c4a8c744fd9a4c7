//! Enabling, resetting and shutting down a controller that has queues.

use kvof_spec::AdminOpcode;

use super::*;

#[test]
fn before_it_is_enabled_only_fabrics_commands_are_taken() {
    let rig = Rig::new();
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 0).unwrap();
    for opcode in 0..=u8::MAX {
        if opcode != AdminOpcode::FABRICS.0 {
            assert_eq!(host.status(Sqe::new(opcode), 4096), Status::COMMAND_SEQUENCE_ERROR, "{opcode:#x}");
        }
    }
    host.enable(CC_ENABLE);
    let known = [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x7f];
    for opcode in (0..=u8::MAX).filter(|opcode| !known.contains(opcode)) {
        assert_eq!(host.status(Sqe::new(opcode), 4096), Status::INVALID_OPCODE, "{opcode:#x}");
    }
}

#[test]
fn a_reset_deletes_io_queues_and_brings_defaults_back() {
    let rig = Rig::new();
    let mut host = rig.host();
    host.set_feature(FeatureId::NUMBER_OF_QUEUES, 0x0001_0001).unwrap();
    host.set_feature(FeatureId::ASYNC_EVENT_CONFIGURATION, 0x100).unwrap();
    host.set_feature(FeatureId::ARBITRATION, 3).unwrap();
    let old = rig.io_queue(&host, 1).unwrap();
    assert_eq!(host.send(Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST), 0), AdminOutcome::Held);
    let event = host.cid;
    let wakes = rig.wakes.load(Ordering::Relaxed);
    host.set(Property::CC, CC_ENABLE & !1);
    assert_eq!(host.csts().0, 0);
    assert_eq!(rig.wakes.load(Ordering::Relaxed), wakes + 2, "the I/O queue, and the request that ends");
    assert_eq!(old.must_close(), Some(CloseReason::ControllerReset));
    assert!(!old.is_ready());
    assert_eq!(host.admin.must_close(), None, "the association goes on");
    assert_eq!(host.completions(), [(event, Reply::status(Status::ABORT_REQUESTED))]);
    host.enable(CC_ENABLE);
    assert_eq!(host.get_feature(FeatureId::NUMBER_OF_QUEUES), 0x007f_007f);
    assert_eq!(host.get_feature(FeatureId::ASYNC_EVENT_CONFIGURATION), 0);
    assert_eq!(host.get_feature(FeatureId::ARBITRATION), 0);
    let new = rig.io_queue(&host, 1).unwrap();
    assert!(new.is_ready() && !old.is_ready());
    assert_eq!(old.must_close(), Some(CloseReason::ControllerReset));
    drop(old);
    assert!(new.is_ready());
    assert!(rig.io_queue(&host, 1).is_err(), "QID 1 belongs to the new queue");
}

#[test]
fn after_a_shutdown_nothing_but_fabrics_commands() {
    let rig = Rig::new();
    let mut host = rig.host();
    let queue = rig.io_queue(&host, 1).unwrap();
    host.set(Property::CC, CC_ENABLE | 2 << 14);
    assert_eq!(queue.must_close(), Some(CloseReason::ControllerReset));
    assert_eq!(host.status(Sqe::new(AdminOpcode::KEEP_ALIVE), 0), Status::COMMAND_SEQUENCE_ERROR);
    assert!(rig.io_queue(&host, 2).is_err());
    host.set(Property::CC, CC_ENABLE & !1);
    host.enable(CC_ENABLE);
    rig.io_queue(&host, 1).unwrap();
}

#[test]
fn an_impossible_configuration_is_a_fatal_status_until_reset() {
    let rig = Rig::new();
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 0).unwrap();
    host.set(Property::CC, 0x0046_0011);
    assert!(host.csts().cfs() && !host.csts().rdy());
    assert_eq!(host.status(Sqe::new(AdminOpcode::IDENTIFY), 4096), Status::COMMAND_SEQUENCE_ERROR);
    assert!(rig.io_queue(&host, 1).is_err());
    host.set(Property::CC, 0);
    host.enable(CC_ENABLE);
}

#[test]
fn with_the_nvm_command_set_only_a_kv_namespace_does_not_exist() {
    let rig = Rig::new();
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 0).unwrap();
    host.enable(CC_ENABLE_NVM);
    let queue = rig.io_queue(&host, 1).unwrap();
    assert!(queue.namespace(1).is_none());
    assert!(queue.namespace(2).is_some());
    let all = rig.host();
    let queue = rig.io_queue(&all, 1).unwrap();
    assert!(queue.namespace(1).is_some_and(|ns| ns.is_kv()));
    assert!(queue.namespace(2).is_some_and(|ns| !ns.is_kv()));
    for none in [0, 3, 0xffff_ffff] {
        assert!(queue.namespace(none).is_none());
    }
}

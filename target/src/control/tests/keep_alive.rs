//! Who is noticed to be gone, and when.

use kvof_spec::AdminOpcode;

use super::*;

/// Lets `ms` pass for `host` and its timers.
fn pass(rig: &mut Rig, host: &mut Host, ms: u64) {
    let end = rig.now + Duration::from_millis(ms);
    while let Some(deadline) = host.admin.poll_timeout().filter(|deadline| *deadline <= end) {
        assert!(deadline >= rig.now || host.admin.must_close().is_some(), "timers do not lie in the past");
        host.admin.handle_timeout(deadline);
        assert_ne!(host.admin.poll_timeout(), Some(deadline), "a timer that fired is not due again");
    }
    rig.now = end;
    host.now = end;
    host.admin.handle_timeout(end);
}

#[test]
fn a_silent_host_loses_its_association() {
    let mut rig = Rig::new();
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 1000).unwrap();
    host.enable(CC_ENABLE);
    let queue = rig.io_queue(&host, 1).unwrap();
    pass(&mut rig, &mut host, 999);
    assert_eq!(host.admin.must_close(), None);
    let wakes = rig.wakes.load(Ordering::Relaxed);
    pass(&mut rig, &mut host, 1);
    assert_eq!(host.admin.must_close(), Some(CloseReason::KeepAliveExpired));
    assert_eq!(queue.must_close(), Some(CloseReason::KeepAliveExpired));
    assert!(!queue.is_ready());
    assert_eq!(rig.wakes.load(Ordering::Relaxed), wakes + 2);
    assert!(host.csts().cfs());
    assert_eq!(host.admin.poll_timeout(), None);
    assert_eq!(rig.io_queue(&host, 2).unwrap_err().status, Status::CONNECT_INVALID_PARAMETERS);
}

#[test]
fn keep_alive_commands_and_io_keep_it() {
    let mut rig = Rig::new();
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 1000).unwrap();
    host.enable(CC_ENABLE);
    let queue = rig.io_queue(&host, 1).unwrap();
    for round in 0..20 {
        pass(&mut rig, &mut host, 900);
        if round % 2 == 0 {
            queue.touch(rig.now);
        } else {
            assert_eq!(host.status(Sqe::new(AdminOpcode::KEEP_ALIVE), 0), Status::SUCCESS);
        }
        assert_eq!(host.admin.must_close(), None, "round {round}");
    }
    pass(&mut rig, &mut host, 2000);
    assert_eq!(host.admin.must_close(), Some(CloseReason::KeepAliveExpired), "at most two intervals");
}

#[test]
fn kato_is_rounded_up_changed_and_switched_off() {
    let mut rig = Rig::new();
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 1001).unwrap();
    host.enable(CC_ENABLE);
    assert_eq!(host.get_feature(FeatureId::KEEP_ALIVE_TIMER), 1100);
    pass(&mut rig, &mut host, 1000);
    host.set_feature(FeatureId::KEEP_ALIVE_TIMER, 3000).unwrap();
    assert_eq!(host.admin.poll_timeout(), Some(rig.now + Duration::from_secs(3)));
    host.set_feature(FeatureId::KEEP_ALIVE_TIMER, 0).unwrap();
    assert_eq!(host.admin.poll_timeout(), None);
    pass(&mut rig, &mut host, 1 << 40);
    assert_eq!(host.admin.must_close(), None);
}

#[test]
fn a_controller_that_is_not_enabled_is_not_kept_forever() {
    let mut rig = Rig::new();
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 1000).unwrap();
    pass(&mut rig, &mut host, 119_999);
    assert_eq!(host.admin.must_close(), None, "keep alive runs only while the controller is enabled");
    pass(&mut rig, &mut host, 1);
    assert_eq!(host.admin.must_close(), Some(CloseReason::Idle));
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 1000).unwrap();
    host.enable(CC_ENABLE);
    pass(&mut rig, &mut host, 500);
    host.set(Property::CC, CC_ENABLE | 1 << 14);
    pass(&mut rig, &mut host, 119_999);
    assert_eq!(host.admin.must_close(), None);
    pass(&mut rig, &mut host, 1);
    assert_eq!(host.admin.must_close(), Some(CloseReason::Idle));
}

#[test]
fn a_discovery_controller_without_keep_alive_ends_when_idle() {
    let mut rig = Rig::new();
    let mut host = rig.discovery(HOST, 0);
    for _ in 0..10 {
        pass(&mut rig, &mut host, 100_000);
        assert_eq!(host.admin.must_close(), None);
        host.csts();
    }
    pass(&mut rig, &mut host, 120_000);
    assert_eq!(host.admin.must_close(), Some(CloseReason::Idle));
    let mut persistent = rig.discovery(HOST, 1000);
    pass(&mut rig, &mut persistent, 1000);
    assert_eq!(persistent.admin.must_close(), Some(CloseReason::KeepAliveExpired));
}

//! Serving another definition without a restart.

use super::*;

#[test]
fn namespaces_come_and_go() {
    let rig = Rig::new();
    let host = rig.host();
    let queue = rig.io_queue(&host, 1).unwrap();
    let old = queue.namespace(1).unwrap();
    let mut def = definition();
    def.subsystems[0].namespaces.remove(0);
    def.subsystems[0].namespaces.push(kv_namespace(30));
    let plan = rig.target.plan(def.clone()).unwrap();
    let nsids = |all: &[Arc<crate::model::Namespace>]| all.iter().map(|ns| ns.def.nsid).collect::<Vec<_>>();
    assert_eq!((nsids(plan.attach()), nsids(plan.detach())), (vec![30], vec![1]));
    assert!(queue.namespace(30).is_none(), "not before its storage is open");
    let backends: Vec<_> = rig.target.namespaces().iter().map(|ns| ns.backend).collect();
    assert!(!backends.contains(&plan.attach()[0].backend));
    let changes = rig.target.apply(plan).unwrap();
    assert_eq!((nsids(&changes.attached), nsids(&changes.detached)), (vec![30], vec![1]));
    assert!(queue.namespace(1).is_none());
    assert!(old.state.removed.load(Ordering::Relaxed), "for commands on their way");
    assert!(queue.namespace(30).is_some());
    assert_eq!(host.admin.must_close(), None);
    // The same again changes nothing.
    let plan = rig.target.plan(def).unwrap();
    assert!(plan.attach().is_empty() && plan.detach().is_empty());
    rig.target.apply(plan).unwrap();
}

#[test]
fn hosts_and_subsystems_that_are_gone_lose_their_controllers() {
    let rig = Rig::new();
    let host = rig.host();
    let queue = rig.io_queue(&host, 1).unwrap();
    let mut friend = rig.admin_as(FRIEND, PRIVATE, 0).unwrap();
    friend.enable(CC_ENABLE);
    let mut discovery = rig.discovery(HOST, 0);
    let mut def = definition();
    def.subsystems[0].allowed_hosts = Some(vec![nqn(FRIEND)]);
    def.subsystems.pop();
    let changes = rig.target.apply(rig.target.plan(def).unwrap()).unwrap();
    assert_eq!(changes.controllers_closed, 2);
    assert_eq!(changes.subsystems_removed, [nqn(PRIVATE)]);
    for reason in [host.admin.must_close(), queue.must_close(), friend.admin.must_close()] {
        assert_eq!(reason, Some(CloseReason::Removed));
    }
    assert!(discovery.csts().rdy());
    assert_eq!(rig.admin_as(HOST, SUBSYSTEM, 0).err().unwrap().status.code(), Status::CONNECT_INVALID_HOST);
    assert_eq!(rig.admin_as(FRIEND, PRIVATE, 0).err().unwrap().status.code(), Status::CONNECT_INVALID_PARAMETERS);
    rig.admin_as(FRIEND, SUBSYSTEM, 0).unwrap();
}

#[test]
fn what_cannot_change_is_refused_as_a_whole() {
    let rig = Rig::new();
    let refused = |change: &dyn Fn(&mut TargetDef)| {
        let mut def = definition();
        change(&mut def);
        rig.target.plan(def).unwrap_err()
    };
    let nqn = nqn(SUBSYSTEM);
    assert_eq!(
        refused(&|def| def.subsystems[0].namespaces[0].uuid = [1; 16]),
        DefError::NamespaceChanged { nqn: nqn.clone(), nsid: 1 }
    );
    assert_eq!(
        refused(&|def| def.subsystems[0].namespaces[1] = kv_namespace(2)),
        DefError::NamespaceChanged { nqn: nqn.clone(), nsid: 2 }
    );
    assert_eq!(refused(&|def| def.subsystems[0].serial = "X".into()), DefError::SubsystemChanged { nqn: nqn.clone() });
    let (one, two) = (rig.target.plan(definition()).unwrap(), rig.target.plan(definition()).unwrap());
    rig.target.apply(one).unwrap();
    assert_eq!(rig.target.apply(two).unwrap_err(), DefError::Superseded);
}

#[test]
fn a_file_does_not_change_hands_at_once() {
    let file = || StorageDef::File { path: "/nonexistent/blocks".into() };
    let def = |nsid| TargetDef {
        subsystems: vec![subsystem(SUBSYSTEM, vec![nvm_namespace(nsid, file())])],
        ..TargetDef::default()
    };
    let rig = Rig::with(def(1), TargetLimits::default());
    let error = rig.target.plan(def(2)).unwrap_err();
    assert!(matches!(error, DefError::StorageInUse { nsid: 2, .. }), "{error}");
    let none = TargetDef { subsystems: vec![subsystem(SUBSYSTEM, Vec::new())], ..TargetDef::default() };
    rig.target.apply(rig.target.plan(none).unwrap()).unwrap();
    rig.target.apply(rig.target.plan(def(2)).unwrap()).unwrap();
}

#[test]
fn contradictions_are_refused() {
    let refused = |change: &dyn Fn(&mut TargetDef)| {
        let mut def = definition();
        change(&mut def);
        Target::new(def, TargetLimits::default(), Instant::now()).unwrap_err().to_string()
    };
    let first = |def: &mut TargetDef| def.subsystems[0].namespaces[0].clone();
    for (error, expected) in [
        (refused(&|def| def.ports[1].portid = 1), "port identifier 1 is given to two ports"),
        (refused(&|def| def.subsystems[1].nqn = nqn(SUBSYSTEM)), "is defined twice"),
        (refused(&|def| def.subsystems[1].nqn = Nqn::discovery()), "the name of the discovery service"),
        (refused(&|def| def.subsystems[0].serial = "x".repeat(21)), "serial number"),
        (refused(&|def| def.subsystems[0].model = "é".into()), "model number"),
        (refused(&|def| def.subsystems[0].namespaces[0].nsid = 0), "NSID 0x0 is reserved"),
        (refused(&|def| def.subsystems[0].namespaces[0].nsid = u32::MAX), "NSID 0xffffffff is reserved"),
        (refused(&|def| def.subsystems[0].namespaces[0].nsid = 2), "NSID 2 is given to two namespaces"),
        (
            refused(&|def| {
                let twin = NamespaceDef { nsid: 3, nguid: [0; 16], ..first(def) };
                def.subsystems[1].namespaces.push(twin);
            }),
            "NSID 3: its UUID is that of another",
        ),
        (
            refused(&|def| {
                let twin = NamespaceDef { nsid: 3, uuid: [0; 16], ..first(def) };
                def.subsystems[1].namespaces.push(twin);
            }),
            "NSID 3: its NGUID is that of another",
        ),
        (
            refused(&|def| {
                let file = StorageDef::File { path: "/a".into() };
                def.subsystems[0].namespaces.extend([nvm_namespace(3, file.clone()), nvm_namespace(4, file)]);
            }),
            "/a holds another namespace",
        ),
        (
            refused(&|def| {
                let kind = NamespaceKindDef::Nvm { block_size: 512, size: 700, storage: StorageDef::Memory };
                def.subsystems[0].namespaces[1].kind = kind;
            }),
            "700 bytes in blocks of 512",
        ),
    ] {
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

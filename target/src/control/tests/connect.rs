//! Connect: every refusal, with its status and dword 0.

use kvof_spec::{
    AdminOpcode, FabricsType,
    fabrics::{ConnectError, DisconnectCmd},
};

use super::*;

const QID: u32 = 42;
const SQSIZE: u32 = 44;
const DATA: u32 = 1 << 16;

fn data() -> ConnectData {
    ConnectData::new(HOSTID, CNTLID_DYNAMIC, &nqn(SUBSYSTEM), &nqn(HOST))
}

/// The refusal's status and dword 0.
fn refused(result: Result<Connected, Reply>) -> (Status, u32) {
    let reply = result.expect_err("the connection should be refused");
    assert!(reply.data.is_empty());
    (reply.status, u32::try_from(reply.result).unwrap())
}

fn invalid(dword: u32) -> (Status, u32) {
    (Status::CONNECT_INVALID_PARAMETERS.with_dnr(), dword)
}

#[test]
fn admin_queue_refusals() {
    let rig = Rig::new();
    let cmd = ConnectCmd::new(0, 31, 0);
    let with = |change: fn(&mut ConnectData)| {
        let mut data = data();
        change(&mut data);
        refused(rig.connect(&cmd, &data))
    };
    assert_eq!(with(|d| d.subnqn = nqn("nqn.2024-01.com.example:none").to_field()), invalid(DATA | 256));
    assert_eq!(ConnectError(DATA | 256).parameter(), Some("SUBNQN"));
    assert_eq!(with(|d| d.subnqn = [b'x'; 256]), invalid(DATA | 256), "not terminated");
    assert_eq!(with(|d| d.subnqn = [0; 256]), invalid(DATA | 256), "empty");
    assert_eq!(with(|d| d.hostnqn = [0; 256]), invalid(DATA | 512));
    assert_eq!(with(|d| d.hostnqn[0] = 0xff), invalid(DATA | 512));
    assert_eq!(with(|d| d.hostid = [0; 16]), invalid(DATA));
    assert_eq!(with(|d| d.cntlid = 1.into()), invalid(DATA | 16));
    assert_eq!(with(|d| d.cntlid = 0xfffe.into()), invalid(DATA | 16), "static controllers do not exist");
    let private = |d: &mut ConnectData| d.subnqn = nqn(PRIVATE).to_field();
    assert_eq!(with(private), (Status::CONNECT_INVALID_HOST.with_dnr(), 0));
    for sqsize in [0, 1024, 4096, 65535] {
        assert_eq!(refused(rig.connect(&ConnectCmd::new(0, sqsize, 0), &data())), invalid(SQSIZE), "{sqsize}");
    }
    let old = ConnectCmd { recfmt: 1.into(), ..cmd };
    assert_eq!(refused(rig.connect(&old, &data())), (Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr(), 0));
    for len in [0, 1023, 1025] {
        let result = rig.target.connect(rig.now, &cmd.to_sqe(), &vec![0; len], &rig.transport());
        assert_eq!(refused(result), (Status::DATA_SGL_LENGTH_INVALID.with_dnr(), 0));
    }
    assert_eq!(rig.target.summary().io_controllers, 0);
    // And the host that is allowed.
    rig.admin_as(FRIEND, PRIVATE, 0).unwrap();
}

#[test]
fn io_queue_refusals() {
    let rig = Rig::new();
    let host = rig.host();
    let cntlid = host.admin.cntlid();
    let cmd = ConnectCmd::new(1, 127, 0);
    let with = |change: &dyn Fn(&mut ConnectData)| {
        let mut data = ConnectData { cntlid: cntlid.into(), ..data() };
        change(&mut data);
        refused(rig.connect(&cmd, &data))
    };
    let unknown = (Status::CONNECT_INVALID_PARAMETERS, DATA | 16);
    assert_eq!(with(&|d| d.cntlid = (cntlid + 1).into()), unknown);
    assert_eq!(with(&|d| d.cntlid = CNTLID_DYNAMIC.into()), unknown);
    assert_eq!(with(&|d| d.subnqn = nqn(PRIVATE).to_field()), unknown, "a controller of another subsystem");
    assert_eq!(with(&|d| d.subnqn = nqn("nqn.x").to_field()), invalid(DATA | 256));
    assert_eq!(with(&|d| d.hostnqn = nqn(FRIEND).to_field()), invalid(DATA | 512));
    assert_eq!(with(&|d| d.hostid = [8; 16]), invalid(DATA));
    let data = ConnectData { cntlid: cntlid.into(), ..data() };
    for sqsize in [0, 1024, 65535] {
        assert_eq!(refused(rig.connect(&ConnectCmd::new(1, sqsize, 0), &data)), invalid(SQSIZE));
    }
    for qid in [129, 65535] {
        assert_eq!(refused(rig.connect(&ConnectCmd::new(qid, 127, 0), &data)), invalid(QID));
    }
    let queue = rig.io_queue(&host, 1).unwrap();
    assert_eq!(refused(rig.connect(&cmd, &data)), (Status::COMMAND_SEQUENCE_ERROR, 0), "QID 1 is in use");
    drop(queue);
    rig.io_queue(&host, 1).unwrap();
}

#[test]
fn io_queue_before_enable_and_of_a_discovery_controller() {
    let rig = Rig::new();
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 0).unwrap();
    let early = rig.io_queue(&host, 1).unwrap_err();
    assert_eq!((early.status, early.result), (Status::COMMAND_SEQUENCE_ERROR, 0));
    host.enable(CC_ENABLE);
    rig.io_queue(&host, 1).unwrap();
    let discovery = rig.discovery(HOST, 0);
    let data = ConnectData::new(HOSTID, discovery.admin.cntlid(), &Nqn::discovery(), &nqn(HOST));
    assert_eq!(refused(rig.connect(&ConnectCmd::new(1, 31, 0), &data)), invalid(QID));
}

#[test]
fn queue_attributes() {
    let rig = Rig::new();
    let mut cmd = ConnectCmd::new(0, 63, 0);
    cmd.cattr = 0b100;
    let connected = rig.connect(&cmd, &data()).unwrap();
    assert_eq!((connected.sqsize, connected.flow_control), (64, false));
    cmd.cattr = 0b1011;
    assert!(rig.connect(&cmd, &data()).unwrap().flow_control);
    let small = Rig::with(definition(), TargetLimits { max_queue_size: 8, ..TargetLimits::default() });
    let mut host = small.host();
    assert_eq!(host.get(Property::CAP) & 0xffff, 7, "an admin queue has at least 32 entries all the same");
    assert_eq!(small.io_queue(&host, 1).unwrap_err().result, u64::from(SQSIZE));
}

#[test]
fn controllers_are_limited_and_their_identifiers_not_reused_at_once() {
    let rig = Rig::with(definition(), TargetLimits { max_controllers: 2, ..TargetLimits::default() });
    let first = rig.host();
    let second = rig.host();
    assert_eq!(refused(rig.connect(&ConnectCmd::new(0, 31, 0), &data())), (Status::CONNECT_CONTROLLER_BUSY, 0));
    let seen = [first.admin.cntlid(), second.admin.cntlid()];
    drop(first);
    let third = rig.host();
    assert!(!seen.contains(&third.admin.cntlid()));
    drop((second, third));
    let mut cntlids: Vec<_> = (0..65519).map(|_| rig.host().admin.cntlid()).collect();
    cntlids.sort_unstable();
    cntlids.dedup();
    assert_eq!((cntlids.len(), cntlids.first(), cntlids.last()), (65519, Some(&1), Some(&0xffef)));
}

#[test]
fn nobody_connects_to_a_target_that_stops() {
    let rig = Rig::new();
    let host = rig.host();
    let queue = rig.io_queue(&host, 1).unwrap();
    let before = rig.wakes.load(Ordering::Relaxed);
    rig.target.stop();
    assert_eq!(host.admin.must_close(), Some(CloseReason::TargetStopped));
    assert_eq!(queue.must_close(), Some(CloseReason::TargetStopped));
    assert_eq!(rig.wakes.load(Ordering::Relaxed), before + 2);
    assert_eq!(refused(rig.connect(&ConnectCmd::new(0, 31, 0), &data())), (Status::CONNECT_CONTROLLER_BUSY, 0));
    assert_eq!(rig.io_queue(&host, 2).unwrap_err().status, Status::CONNECT_INVALID_PARAMETERS);
}

#[test]
fn fabrics_commands_on_connected_queues() {
    let rig = Rig::new();
    let mut host = rig.host();
    assert_eq!(host.status(ConnectCmd::new(0, 31, 0), 0), Status::COMMAND_SEQUENCE_ERROR);
    assert_eq!(host.status(DisconnectCmd::new(), 0), Status::DISCONNECT_INVALID_QUEUE_TYPE);
    let mut unknown = Sqe::new(AdminOpcode::FABRICS);
    for fctype in [FabricsType::AUTH_SEND.0, FabricsType::AUTH_RECV.0, 0x7f] {
        unknown.nsid = u32::from(fctype).into();
        assert_eq!(host.status(unknown, 0), Status::INVALID_OPCODE);
    }
    let mut queue = rig.io_queue(&host, 1).unwrap();
    let mut on_io = |sqe: Sqe| queue.handle_fabrics(rig.now, &sqe).status;
    let property = PropertyGetCmd::new(Property::CAP).unwrap();
    assert_eq!(on_io(property.into()), Status::INVALID_OPCODE.with_dnr());
    assert_eq!(on_io(ConnectCmd::new(1, 31, 0).into()), Status::COMMAND_SEQUENCE_ERROR.with_dnr());
    let odd = DisconnectCmd { recfmt: 1.into(), ..DisconnectCmd::new() };
    assert_eq!(on_io(odd.into()), Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr());
    assert_eq!(on_io(DisconnectCmd::new().into()), Status::SUCCESS);
    assert!(!queue.is_ready());
    assert_eq!(queue.must_close(), None, "the connection is the host's to close");
    let again = rig.io_queue(&host, 1).unwrap();
    drop(queue);
    assert!(again.is_ready());
    assert!(rig.io_queue(&host, 1).is_err(), "a queue that is gone frees only what is its own");
}

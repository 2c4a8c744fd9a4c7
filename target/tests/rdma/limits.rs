//! Requests that are refused, each with its reason, and what refused hosts leave behind: nothing.

use std::time::Duration;

use kvof_spec::{
    IntoBytes, Status,
    rdma::{CmRequest, CmStatus},
};
use kvof_target::transport::rdma::RdmaTimers;

use super::{
    host::{Host, request, resolve},
    rig::wait_until,
    start,
};

#[test]
fn wrong_requests_hear_why() {
    let Some(rig) = start(2, |_, _| {}) else { return };
    let (_admin, mut io) = Host::pair(&rig);
    let good = request(1, 32, 1);
    let refused = |private_data: &[u8]| Host::ask(&rig, private_data, 32).err();
    assert_eq!(refused(with(good, |r| r.recfmt = 1.into()).as_bytes()), Some(CmStatus::INVALID_RECFMT));
    assert_eq!(refused(request(129, 32, 1).as_bytes()), Some(CmStatus::INVALID_QID));
    for hsqsize in [0, 128, 1024, 65535] {
        let status = refused(with(good, |r| r.hsqsize = hsqsize.into()).as_bytes());
        assert_eq!(status, Some(CmStatus::INVALID_HSQSIZE), "{hsqsize}");
    }
    assert_eq!(refused(with(good, |r| r.hrqsize = 0.into()).as_bytes()), Some(CmStatus::INVALID_HRQSIZE));
    assert_eq!(refused(with(good, |r| r.cntlid = 0xfff5.into()).as_bytes()), Some(CmStatus::INVALID_CNTLID));
    // Without READs there is no way to fetch anything.
    assert_eq!(Host::ask_serving(&rig, good.as_bytes(), 32, 0).err(), Some(CmStatus::INVALID_IRD));
    wait_until("down to two", || rig.connections() == 2);
    io.expect_alive();
    // What was asked for has to be what Connect says.
    let mut other = Host::ask(&rig, request(2, 32, io.cntlid).as_bytes(), 32).unwrap();
    assert_eq!(other.connect_queue(3, 32, io.cntlid).status().code(), Status::CONNECT_INVALID_PARAMETERS);
    assert_eq!(other.connect_queue(2, 64, io.cntlid).status().code(), Status::CONNECT_INVALID_PARAMETERS);
    assert_eq!(other.connect_queue(2, 32, io.cntlid).status(), Status::SUCCESS);
}

#[test]
fn connections_of_both_transports_have_one_limit() {
    let Some(rig) = start(2, |options, _| options.max_connections = 4) else { return };
    let _tcp = std::net::TcpStream::connect(rig.address).unwrap();
    wait_until("one", || rig.connections() == 1);
    let (admin, mut io) = Host::pair(&rig);
    let third = Host::io(&rig, &admin, 2, 32);
    assert_eq!(Host::ask(&rig, request(0, 32, 0).as_bytes(), 32).err(), Some(CmStatus::NO_RESOURCES));
    io.expect_alive();
    drop(third);
    wait_until("three", || rig.connections() == 3);
    drop(Host::io(&rig, &admin, 2, 32));
}

#[test]
fn receive_memory_is_bounded_and_comes_back() {
    // Room for an admin queue and two I/O queues of 32 entries.
    let memory = 32 * (1088 + 64) + 2 * 32 * (8256 + 64);
    let Some(rig) = start(1, |_, config| config.capsule_memory = memory) else { return };
    let (admin, mut io) = Host::pair(&rig);
    for _ in 0..3 {
        let second = Host::io(&rig, &admin, 2, 32);
        assert_eq!(Host::ask(&rig, request(3, 32, io.cntlid).as_bytes(), 32).err(), Some(CmStatus::NO_RESOURCES));
        io.expect_alive();
        drop(second);
        wait_until("two", || rig.connections() == 2);
    }
}

#[test]
fn hosts_that_come_and_go() {
    let Some(rig) = start(2, |_, _| {}) else { return };
    for round in 0..12 {
        let resolved = resolve(rig.rdma.unwrap());
        let silent = Host::ask(&rig, request(0, 32, 0).as_bytes(), 32).unwrap();
        let (admin, mut io) = Host::pair(&rig);
        io.expect_alive();
        match round % 3 {
            0 => drop((resolved, silent, admin, io)),
            1 => drop((io, admin, silent, resolved)),
            _ => {
                drop(admin);
                io.expect_over();
            }
        }
    }
    wait_until("empty", || rig.connections() == 0);
    let summary = rig.target.summary();
    assert_eq!((summary.io_controllers, summary.io_queues), (0, 0));
    assert_eq!(rig.pool.in_use(), 0);
}

#[test]
fn a_silent_connection_ends_in_time() {
    let Some(rig) = start(1, |_, config| {
        config.settings.timers = RdmaTimers { connect: Duration::from_millis(500), ..RdmaTimers::default() };
    }) else {
        return;
    };
    let mut silent = Host::ask(&rig, request(0, 32, 0).as_bytes(), 32).unwrap();
    silent.expect_over();
    wait_until("gone", || rig.connections() == 0);
}

#[test]
fn a_target_stops_under_its_hosts() {
    for cores in [1, 2] {
        let Some(rig) = start(cores, |_, _| {}) else { return };
        let (mut admin, mut io) = Host::pair(&rig);
        io.expect_alive();
        let took = rig.stop(Duration::from_secs(10));
        assert!(took < Duration::from_secs(5), "{took:?}");
        admin.expect_over();
        io.expect_over();
    }
}

fn with(mut request: CmRequest, change: impl FnOnce(&mut CmRequest)) -> CmRequest {
    change(&mut request);
    request
}

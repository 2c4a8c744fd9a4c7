//! Hosts that break the rules: each loses its own connection, and nobody else anything.

use kvof_rdma::RemoteAccess;
use kvof_spec::{IntoBytes, SglDescriptor, Sqe, Status};

use super::{
    host::{Host, exist, keyed, none, retrieve, store, value},
    rig::{Rig, wait_until},
    start,
};

/// A host does `act` on an I/O queue; the target ends that connection, another host's goes on, and no memory is lost.
fn offend(cores: usize, act: impl Fn(&mut Host)) {
    let Some(rig) = start(cores, |_, _| {}) else { return };
    let (_admin, mut witness) = Host::pair(&rig);
    assert_eq!(witness.store("v", &value(1, 100_000)), Status::SUCCESS);
    let stored = rig.pool.in_use();
    for _ in 0..3 {
        let (admin, mut offender) = Host::pair(&rig);
        act(&mut offender);
        offender.expect_over();
        drop((admin, offender));
        settle(&rig, stored);
    }
    witness.expect_alive();
    assert!(witness.retrieve("v", 100_000).1 == value(1, 100_000));
}

/// The offender and what it had are gone.
fn settle(rig: &Rig, stored: usize) {
    wait_until("down to two", || rig.connections() == 2);
    wait_until("its memory back", || rig.pool.in_use() == stored);
}

#[test]
fn messages_that_are_no_capsules() {
    for len in [0, 1, 63, 64 + 8192 + 1, 100_000] {
        offend(1, |host| host.send(&vec![0xee; len]));
    }
}

#[test]
fn more_commands_than_the_queue_has_entries() {
    // The host takes no answers: those that it has receives for are sent, as many more are under way, and the rest waits.
    offend(2, |host| {
        for cid in 1000..1120_u16 {
            let sqe = Sqe { cid: cid.into(), ..exist("x") };
            host.endpoint.send(0, sqe.as_bytes());
        }
        host.expect_disconnect();
    });
}

#[test]
fn keys_that_name_nothing() {
    for cores in [1, 2] {
        // To fetch from.
        offend(cores, |host| {
            let sgl = SglDescriptor::keyed(0x1000, 200_000, 0xdead_beef, false).unwrap();
            host.capsule(store("x", 200_000), sgl, &[]);
        });
        // To write to.
        offend(cores, |host| {
            let sgl = SglDescriptor::keyed(0x1000, 100_000, 0xdead_beef, false).unwrap();
            host.capsule(retrieve("v", 100_000), sgl, &[]);
        });
    }
}

#[test]
fn memory_that_is_shorter_or_of_the_other_kind() {
    offend(1, |host| {
        let memory = host.expose(1, &[0; 8192], RemoteAccess::Read);
        host.capsule(store("x", 16384), keyed(&memory, 0, 16384, false), &[]);
    });
    offend(1, |host| {
        let memory = host.expose(1, &[0; 8192], RemoteAccess::Write);
        host.capsule(retrieve("v", 100_000), keyed(&memory, 0, 100_000, false), &[]);
    });
    offend(1, |host| {
        let memory = host.expose(1, &vec![0; 100_000], RemoteAccess::Read);
        host.capsule(retrieve("v", 100_000), keyed(&memory, 0, 100_000, false), &[]);
    });
}

#[test]
fn descriptors_that_make_no_sense_are_refused_and_the_queue_goes_on() {
    let Some(rig) = start(1, |_, _| {}) else { return };
    let (_admin, mut io) = Host::pair(&rig);
    let list = |n: usize| vec![none(); n].as_bytes().to_vec();
    let refused: [(SglDescriptor, Vec<u8>, Status); 6] = [
        (SglDescriptor::transport_data(4096), Vec::new(), Status::SGL_TYPE_INVALID),
        (SglDescriptor::in_capsule(8000, 1000), vec![0; 8192], Status::DATA_SGL_LENGTH_INVALID),
        (SglDescriptor::in_capsule(9000, 10), vec![0; 8192], Status::SGL_OFFSET_INVALID),
        (SglDescriptor::last_segment_offset(0, 17 * 16), list(17), Status::INVALID_SGL_COUNT),
        (SglDescriptor::last_segment_offset(0, 24), list(2), Status::INVALID_SGL_SEGMENT),
        (SglDescriptor::keyed(u64::MAX - 10, 4096, 1, false).unwrap(), Vec::new(), Status::DATA_SGL_LENGTH_INVALID),
    ];
    for (sgl, behind, status) in refused {
        let cid = io.capsule(store("x", 1000), sgl, &behind);
        assert_eq!(io.completion(cid).status(), status.with_dnr(), "{sgl:?}");
    }
    io.expect_alive();
}

#[test]
fn commands_before_connect() {
    let Some(rig) = start(1, |_, _| {}) else { return };
    let mut early = Host::ask(&rig, super::host::request(0, 32, 0).as_bytes(), 32).unwrap();
    assert_eq!(early.execute(exist("x"), none()).status(), Status::COMMAND_SEQUENCE_ERROR.with_dnr());
}

#[test]
fn hosts_that_vanish_with_everything_under_way() {
    for cores in [1, 2] {
        let Some(rig) = start(cores, |_, _| {}) else { return };
        let (_admin, mut witness) = Host::pair(&rig);
        assert_eq!(witness.store("v", &value(1, 1 << 20)), Status::SUCCESS);
        let kept: usize = 6;
        for n in 0..kept {
            // What the hosts below may store is stored already.
            assert_eq!(witness.store(&format!("w{n}"), &value(2, 300_000)), Status::SUCCESS);
        }
        let stored = rig.pool.in_use();
        for round in 0..8 {
            let (admin, mut host) = Host::pair(&rig);
            let from = host.expose(1, &value(2, 300_000), RemoteAccess::Read);
            let to = host.expose(2, &vec![0; 1 << 20], RemoteAccess::Write);
            for n in 0..kept {
                host.capsule(store(&format!("w{n}"), 300_000), keyed(&from, 0, 300_000, false), &[]);
                host.capsule(retrieve("v", 1 << 20), keyed(&to, 0, 1 << 20, false), &[]);
            }
            for _ in 0..round * 20 {
                host.turn();
            }
            if round % 2 == 0 { drop((admin, host)) } else { drop((host, admin)) }
        }
        settle(&rig, stored);
        witness.expect_alive();
        assert!(witness.retrieve("v", 1 << 20).1 == value(1, 1 << 20));
    }
}

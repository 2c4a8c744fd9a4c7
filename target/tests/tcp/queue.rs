//! Rules of a queue: order of commands, identifiers, depth, SQHD, namespaces, memory.

use kvof_kv::KvCommand;
use kvof_spec::{
    AdminOpcode, NvmOpcode, Sqe, Status,
    fabrics::{CNTLID_DYNAMIC, ConnectResult},
    identify::{Cns, IdentifyCmd},
    sgl::SglDescriptor,
    tcp::{FatalErrorStatus, PduFlags, PduType},
};
use kvof_target::{control::TargetLimits, transport::tcp::TcpSettings};

use super::{
    host::{Ask, Host, exist, key, retrieve, store, value},
    rig::{BLOCKS, KV, Options, Rig, settings, wait_until},
};

fn none() -> SglDescriptor {
    SglDescriptor::transport_data(0)
}

#[test]
fn nothing_but_connect_before_connect() {
    let rig = Rig::start(Options::default());
    let mut host = Host::initialised(rig.address, Ask::default());
    for sqe in [
        exist("k"),
        Sqe::new(AdminOpcode::KEEP_ALIVE),
        IdentifyCmd::new(Cns::CONTROLLER, 0, kvof_spec::Csi::NVM).to_sqe(),
    ] {
        let cid = host.capsule(sqe, none(), &[]);
        assert_eq!(host.finish(cid, &[]).0.status().code(), Status::COMMAND_SEQUENCE_ERROR);
    }
    assert!(host.connect_queue(0, CNTLID_DYNAMIC).status().is_success());
    assert_eq!(host.connect_queue(0, CNTLID_DYNAMIC).status().code(), Status::COMMAND_SEQUENCE_ERROR);
    assert_eq!(rig.target.summary().io_controllers, 1);
}

#[test]
fn of_two_connects_at_once_one_succeeds() {
    let rig = Rig::start(Options::default());
    let mut host = Host::initialised(rig.address, Ask::default());
    let (sqe, data) = host.connect_command(0, CNTLID_DYNAMIC);
    for _ in 0..2 {
        host.capsule(sqe, SglDescriptor::transport_data(1024), &[]);
    }
    let asked = [host.read().unwrap().r2t(), host.read().unwrap().r2t()];
    let results = asked.map(|r2t| {
        host.answer(&r2t, &data, 1024);
        host.read().unwrap().cqe()
    });
    assert_eq!(results.map(|cqe| cqe.status().code()), [Status::SUCCESS, Status::COMMAND_SEQUENCE_ERROR]);
    assert_eq!(rig.target.summary().io_controllers, 1);
    host.enable();
}

#[test]
fn io_commands_wait_for_an_enabled_controller() {
    let rig = Rig::start(Options::default());
    let mut admin = Host::initialised(rig.address, Ask::default());
    admin.cntlid = ConnectResult(admin.connect_queue(0, CNTLID_DYNAMIC).dw0.get()).cntlid();
    let mut io = Host::initialised(rig.address, Ask::default());
    let status = io.connect_queue(1, admin.cntlid).status();
    assert_eq!(status.code(), Status::COMMAND_SEQUENCE_ERROR);
    admin.enable();
    assert!(io.connect_queue(1, admin.cntlid).status().is_success());
    io.expect_alive();
    let mut twin = Host::initialised(rig.address, Ask::default());
    assert!(!twin.connect_queue(1, admin.cntlid).status().is_success(), "two queues with one identifier");
}

#[test]
fn an_identifier_in_use_is_refused_and_the_first_command_goes_on() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let data = value(5, 9000);
    let bytes = io.capsule_bytes(store("k", 9000), 42, SglDescriptor::transport_data(9000), &[]);
    io.send(&bytes);
    let r2t = io.read().unwrap().r2t();
    let again = io.capsule_bytes(store("j", 4), 42, SglDescriptor::in_capsule(0, 4), b"twin");
    io.send(&again);
    let cqe = io.read().unwrap().cqe();
    assert_eq!((cqe.cid.get(), cqe.status().code()), (42, Status::COMMAND_ID_CONFLICT));
    io.answer(&r2t, &data, 4000);
    let cqe = io.read().unwrap().cqe();
    assert_eq!((cqe.cid.get(), cqe.status()), (42, Status::SUCCESS));
    assert_eq!(io.retrieve("k", 9000).1, data);
    assert_eq!(io.retrieve("j", 9).0.status().code(), Status::KEY_DOES_NOT_EXIST);
}

#[test]
fn more_commands_than_entries_end_the_connection() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask { entries: 4, ..Ask::default() });
    for _ in 0..4 {
        io.capsule(store("k", 9000), SglDescriptor::transport_data(9000), &[]);
        assert_eq!(io.read().unwrap().kind, PduType::R2T);
    }
    io.capsule(exist("k"), none(), &[]);
    io.expect_term(FatalErrorStatus::SEQUENCE_ERROR, 0);
    wait_until("free of the unfinished values", || rig.pool.in_use() == 0);
}

#[test]
fn sqhd_counts_the_commands_that_were_taken() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask { entries: 5, ..Ask::default() });
    // Connect was the first.
    for taken in 2..20_u16 {
        let (cqe, _) = io.execute(exist("k"), &[]);
        assert_eq!(cqe.sqhd.get(), taken % 5);
    }
    // A command that is taken later but completes earlier has the later SQHD.
    let data = value(1, 9000);
    let slow = io.capsule(store("slow", 9000), SglDescriptor::transport_data(9000), &[]);
    let r2t = io.read().unwrap().r2t();
    let (cqe, _) = io.execute(exist("k"), &[]);
    assert_eq!(cqe.sqhd.get(), 21 % 5);
    io.answer(&r2t, &data, u32::MAX);
    let cqe = io.read().unwrap().cqe();
    assert_eq!((cqe.cid.get(), cqe.sqhd.get()), (slow, 21 % 5));
}

#[test]
fn without_flow_control_data_may_stand_for_the_completion() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask { flow_control: false, ..Ask::default() });
    assert_eq!(io.store("k", b"12345").sqhd.get(), 0xffff);
    // Retrieve has a result, the length, and so needs its completion.
    let cid = io.capsule(retrieve("k", 10), SglDescriptor::transport_data(10), &[]);
    let pdu = io.read().unwrap();
    assert_eq!(pdu.flags & (PduFlags::SUCCESS | PduFlags::LAST_PDU), PduFlags::LAST_PDU);
    let cqe = io.read().unwrap().cqe();
    assert_eq!((cqe.cid.get(), cqe.dw0.get(), cqe.sqhd.get()), (cid, 5, 0xffff));
    // Read has none.
    let mut read = Sqe::new(NvmOpcode::READ);
    read.nsid = BLOCKS.into();
    io.capsule(read, SglDescriptor::transport_data(512), &[]);
    let pdu = io.read().unwrap();
    assert_eq!(pdu.flags & (PduFlags::SUCCESS | PduFlags::LAST_PDU), PduFlags::SUCCESS | PduFlags::LAST_PDU);
    io.expect_alive();
    // With flow control every command has its completion.
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    io.capsule(read, SglDescriptor::transport_data(512), &[]);
    assert_eq!(io.read().unwrap().flags & (PduFlags::SUCCESS | PduFlags::LAST_PDU), PduFlags::LAST_PDU);
    assert!(io.read().unwrap().cqe().status().is_success());
}

#[test]
fn namespaces_and_opcodes_that_are_not_there() {
    let rig = Rig::start(Options::default());
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    for nsid in [0, 3, 77, 0xffff_fffe, 0xffff_ffff] {
        let (cqe, _) = io.execute(KvCommand::exist(nsid, &key("k")).to_sqe(none()), &[]);
        // The broadcast value is no wrong namespace but one that this command does not take.
        let status = if nsid == u32::MAX { Status::INVALID_FIELD } else { Status::INVALID_NAMESPACE_OR_FORMAT };
        assert_eq!(cqe.status(), status.with_dnr(), "NSID {nsid:#x}");
    }
    let mut flush = Sqe::new(0x00);
    flush.nsid = KV.into();
    assert!(io.execute(flush, &[]).0.status().is_success(), "there is nothing to flush");
    flush.nsid = u32::MAX.into();
    assert_eq!(io.execute(flush, &[]).0.status(), Status::INVALID_FIELD.with_dnr(), "of all namespaces");
    for opcode in [0x03, 0x0d, 0x7e, 0xc1, 0xff] {
        let mut sqe = Sqe::new(opcode);
        sqe.nsid = KV.into();
        assert_eq!(io.execute(sqe, &[]).0.status(), Status::INVALID_OPCODE.with_dnr(), "opcode {opcode:#x}");
    }
    let mut sqe = exist("k");
    sqe.flags |= 1;
    assert_eq!(io.execute(sqe, &[]).0.status(), Status::INVALID_FIELD.with_dnr(), "fused");
    sqe.flags = 0;
    assert_eq!(io.execute(sqe, &[]).0.status(), Status::INVALID_FIELD.with_dnr(), "PRPs");
    io.expect_alive();
}

#[test]
fn commands_wait_in_order_for_memory() {
    let limits = TargetLimits { mdts: 1 << 20, ..TargetLimits::default() };
    let tcp = TcpSettings { r2t_length: 1 << 20, r2t_window: u32::MAX, ..settings() };
    // 64 MiB for values, of which none is stored, and one command's worth.
    let rig = Rig::start(Options { limits, tcp, memory: 1 << 20, ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask { entries: 128, ..Ask::default() });
    let data = value(7, 1 << 20);
    let most = rig.pool.limit() >> 20;
    let cids: Vec<u16> = (0..most + 3)
        .map(|_| io.capsule(store("large", 1 << 20), SglDescriptor::transport_data(1 << 20), &[]))
        .collect();
    let asked: Vec<_> = (0..most).map(|_| io.read().unwrap().r2t()).collect();
    assert_eq!(rig.pool.in_use(), rig.pool.limit());
    // Nothing to wait for.
    assert!(io.execute(store("empty", 0), &[]).0.status().is_success());
    // Waits, though its data are here.
    let small = io.capsule(store("small", 5000), SglDescriptor::in_capsule(0, 5000), &data[..5000]);
    let mut order = Vec::new();
    for r2t in asked {
        io.answer(&r2t, &data, u32::MAX);
    }
    while order.len() < cids.len() + 1 {
        let pdu = io.read().unwrap();
        if pdu.kind == PduType::R2T {
            io.answer(&pdu.r2t(), &data, u32::MAX);
        } else {
            assert!(pdu.cqe().status().is_success());
            order.push(pdu.cqe().cid.get());
        }
    }
    assert!(order.contains(&small));
    assert_eq!(io.retrieve("small", 5000).1, &data[..5000]);
    assert!(io.retrieve("large", 1 << 20).1 == data);
}

#[test]
fn every_command_of_the_deepest_queue_has_tags_of_its_own() {
    const ENTRIES: u16 = 4096;
    let limits = TargetLimits { max_queue_size: ENTRIES, ..TargetLimits::default() };
    let tcp = TcpSettings { r2t_length: 4, ..settings() };
    let rig = Rig::start(Options { limits, tcp, ..Options::default() });
    let admin = Host::admin(&rig, Ask::default());
    let mut io = Host::io(&rig, &admin, 1, Ask { entries: ENTRIES, maxr2t: 3, ..Ask::default() });
    let mut reader = io.twin();
    let count = ENTRIES - 1;
    let data = |i: u16| [0, 1, 2, 3].map(|part| (u32::from(i) << 2 | part).to_le_bytes()).concat();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..count {
                let bytes = io.capsule_bytes(store(&format!("t{i}"), 16), i, SglDescriptor::transport_data(16), &[]);
                io.send(&bytes);
            }
        });
        // All are asked for, four times each, before any is answered.
        let asked: Vec<_> = (0..4 * count).map(|_| reader.read().unwrap().r2t()).collect();
        let tags: std::collections::BTreeSet<u16> = asked.iter().map(|r2t| r2t.ttag.get()).collect();
        assert_eq!(tags.len(), asked.len());
        for r2t in asked.iter().rev() {
            reader.answer(r2t, &data(r2t.cccid.get()), 4);
        }
        for _ in 0..count {
            assert!(reader.read().unwrap().cqe().status().is_success());
        }
        for i in [0, 1, 2048, count - 1] {
            assert_eq!(reader.retrieve(&format!("t{i}"), 16).1, data(i), "value {i}");
        }
    });
}

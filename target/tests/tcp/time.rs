//! Hosts that take too long: the connection ends, and what it held is free again.

use std::time::{Duration, Instant};

use kvof_spec::{AdminOpcode, Sqe, Status, sgl::SglDescriptor};
use kvof_target::transport::tcp::TcpSettings;

use super::{
    host::{Ask, Host, exist, retrieve, store, value},
    rig::{Options, Rig, settings, wait_until},
};

/// The connection is closed after the timeout and not long after it.
#[track_caller]
fn expect_closed_late(host: &mut Host, least: Duration) {
    let begin = Instant::now();
    host.expect_closed();
    let took = begin.elapsed();
    assert!(took + Duration::from_millis(120) >= least, "closed after {took:?} already");
    assert!(took < least + Duration::from_secs(3), "closed after {took:?}");
}

/// Little time to connect.
fn hasty() -> Options {
    let mut options = Options::default();
    options.tcp.timers.connect = Duration::from_millis(400);
    options
}

#[test]
fn nothing_is_said() {
    let rig = Rig::start(hasty());
    let mut host = Host::silent(rig.address);
    expect_closed_late(&mut host, Duration::from_millis(400));
    wait_until("closed", || rig.connections() == 0);
}

#[test]
fn initialised_and_never_connected() {
    let rig = Rig::start(hasty());
    let mut host = Host::initialised(rig.address, Ask::default());
    expect_closed_late(&mut host, Duration::from_millis(800));
}

#[test]
fn pdus_that_are_begun_and_not_finished() {
    let rig = Rig::start(Options::impatient());
    let admin = Host::admin(&rig, Ask::default());
    for (qid, len) in [(1, 1), (2, 9), (3, 71), (4, 72), (5, 80), (6, 1071)] {
        let mut io = Host::io(&rig, &admin, qid, Ask::default());
        io.expect_alive();
        let bytes = io.capsule_bytes(store("k", 1000), 1, SglDescriptor::in_capsule(0, 1000), &value(0, 1000));
        io.send(&bytes[..len]);
        expect_closed_late(&mut io, Duration::from_millis(400));
    }
    wait_until("free of the unfinished values", || rig.pool.in_use() == 0);
}

#[test]
fn drops_that_keep_a_pdu_alive_do_not_keep_it_for_ever() {
    let rig = Rig::start(Options::impatient());
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let bytes = io.capsule_bytes(exist("k"), 1, SglDescriptor::transport_data(0), &[]);
    let begin = Instant::now();
    // A byte now and then: the header as a whole has its time, not each byte.
    for byte in &bytes[..60] {
        if std::io::Write::write_all(&mut io.stream, &[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    io.expect_closed();
    assert!(begin.elapsed() < Duration::from_millis(1700));
}

#[test]
fn a_steady_host_is_not_late_however_its_bytes_are_cut() {
    let mut options = Options::default();
    options.tcp.timers.pdu = Duration::from_millis(1200);
    let rig = Rig::start(options);
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let one = io.capsule_bytes(exist("k"), 1, SglDescriptor::transport_data(0), &[]);
    // Every piece ends in the middle of a header, for longer than a PDU may take.
    io.send(&one[..40]);
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(300));
        io.send(&[&one[40..], &one[..40]].concat());
        assert_eq!(io.read().expect("closed although every PDU was in time").cqe().cid.get(), 1);
    }
    io.send(&one[40..]);
    assert_eq!(io.read().unwrap().cqe().cid.get(), 1);
    // A PDU whose data take most of its time, and with its end the next header, which takes its own.
    let slow = io.capsule_bytes(store("k", 100), 2, SglDescriptor::in_capsule(0, 100), &value(0, 100));
    io.send(&slow[..100]);
    std::thread::sleep(Duration::from_millis(800));
    io.send(&[&slow[100..], &one[..40]].concat());
    assert_eq!(io.read().unwrap().cqe().cid.get(), 2);
    std::thread::sleep(Duration::from_millis(800));
    io.send(&one[40..]);
    assert_eq!(io.read().expect("the next PDU had what was left of the one before").cqe().cid.get(), 1);
}

#[test]
fn an_r2t_that_is_never_answered() {
    let rig = Rig::start(Options::impatient());
    let (mut admin, mut io) = Host::pair(&rig, Ask::default());
    io.capsule(store("k", 100_000), SglDescriptor::transport_data(100_000), &[]);
    let r2t = io.read().unwrap().r2t();
    assert!(rig.pool.in_use() >= 100_000);
    // Some of the data, and then no more.
    std::thread::sleep(Duration::from_millis(200));
    io.send(&io.h2c_data(r2t.cccid.get(), r2t.ttag.get(), 0, &[1; 4000], false));
    expect_closed_late(&mut io, Duration::from_millis(400));
    wait_until("free of the unfinished value", || rig.pool.in_use() == 0);
    let cid = admin.capsule(Sqe::new(AdminOpcode::KEEP_ALIVE), SglDescriptor::transport_data(0), &[]);
    assert_eq!(admin.finish(cid, &[]).0.status(), Status::SUCCESS);
}

#[test]
fn a_host_that_does_not_read() {
    let options = Options::impatient();
    let tcp = TcpSettings { tx_high_water: 4 << 20, ..options.tcp };
    let rig = Rig::start(Options { tcp, ..options });
    let (_admin, mut io) = Host::pair(&rig, Ask { entries: 512, ..Ask::default() });
    assert!(io.store("large", &value(1, 2 << 20)).status().is_success());
    let stored = rig.pool.in_use();
    let begin = Instant::now();
    for _ in 0..500 {
        io.capsule(retrieve("large", 2 << 20), SglDescriptor::transport_data(2 << 20), &[]);
    }
    // 1000 MiB are asked for; what waits is lent out by the store and takes no memory of its own.
    wait_until("closed", || rig.connections() == 1);
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(rig.pool.in_use(), stored);
    // The others are served.
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    io.expect_alive();
}

#[test]
fn a_slow_reader_is_served_to_the_end() {
    let options = Options::impatient();
    // Little may wait, so that receiving stops and goes on all the time.
    let tcp = TcpSettings { tx_high_water: 100_000, ..options.tcp };
    let rig = Rig::start(Options { tcp, ..options });
    let (_admin, mut io) = Host::pair(&rig, Ask { entries: 128, ..Ask::default() });
    let data = value(1, 1 << 20);
    assert!(io.store("large", &data).status().is_success());
    for round in 0..3 {
        let cids: Vec<u16> = (0..100)
            .map(|_| io.capsule(retrieve("large", 1 << 20), SglDescriptor::transport_data(1 << 20), &[]))
            .collect();
        for (i, cid) in cids.into_iter().enumerate() {
            if i % 20 == 7 {
                std::thread::sleep(Duration::from_millis(100));
            }
            let (cqe, got) = io.finish(cid, &[]);
            assert!(cqe.status().is_success() && got == data, "round {round}, command {i}");
        }
    }
}

#[test]
fn bursts_above_the_high_water_mark_do_not_stall() {
    // One answer is already more than may wait, and the socket takes it at once: nothing will say that it is writable.
    let tcp = TcpSettings { tx_high_water: 1000, ..settings() };
    let rig = Rig::start(Options { tcp, ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask { entries: 128, ..Ask::default() });
    let data = value(1, 8000);
    assert!(io.store("k", &data).status().is_success());
    for _ in 0..20 {
        let mut bytes = Vec::new();
        let cids: Vec<u16> = (0..60).map(|_| io.fresh_cid()).collect();
        for cid in &cids {
            bytes.extend(io.capsule_bytes(retrieve("k", 8000), *cid, SglDescriptor::transport_data(8000), &[]));
        }
        io.send(&bytes);
        for cid in cids {
            assert_eq!(io.finish(cid, &[]).1, data);
        }
    }
}

#[test]
fn keep_alive_expires_and_takes_the_io_queues_along() {
    let rig = Rig::start(Options { cores: 2, ..Options::default() });
    let (mut admin, mut io) = Host::pair(&rig, Ask { kato_ms: 1000, ..Ask::default() });
    let mut second = Host::io(&rig, &admin, 2, Ask::default());
    // Traffic counts.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1500) {
        let cid = admin.capsule(Sqe::new(AdminOpcode::KEEP_ALIVE), SglDescriptor::transport_data(0), &[]);
        assert!(admin.finish(cid, &[]).0.status().is_success());
        std::thread::sleep(Duration::from_millis(200));
    }
    io.expect_alive();
    second.capsule(store("k", 9000), SglDescriptor::transport_data(9000), &[]);
    second.read().unwrap().r2t();
    let begin = Instant::now();
    admin.expect_closed();
    io.expect_closed();
    second.expect_closed();
    assert!(begin.elapsed() >= Duration::from_millis(300) && begin.elapsed() < Duration::from_secs(5));
    wait_until("free", || rig.connections() == 0 && rig.pool.in_use() == 0);
    assert_eq!(rig.target.summary().io_controllers, 0);
}

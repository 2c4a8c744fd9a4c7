//! Many connections, and connections that end in the middle of everything: nothing is left behind.

use std::{
    io::Read,
    net::TcpStream,
    time::{Duration, Instant},
};

use kvof_spec::{
    NvmOpcode, Property, Sqe,
    fabrics::PropertyGetCmd,
    log::{GetLogPageCmd, LogId},
    sgl::SglDescriptor,
};
use kvof_target::{control::TargetLimits, transport::tcp::TcpSettings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    host::{Ask, BOTH, Host, retrieve, store, value},
    rig::{BLOCKS, Options, Rig, settings, wait_until},
};

fn expect_empty(rig: &Rig) {
    wait_until("empty", || rig.connections() == 0);
    let summary = rig.target.summary();
    assert_eq!((summary.io_controllers, summary.discovery_controllers, summary.io_queues), (0, 0, 0));
}

#[test]
fn no_more_connections_than_allowed() {
    let rig = Rig::start(Options { cores: 2, max_connections: 20, ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let flood: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(rig.address).unwrap()).collect();
    wait_until("full", || rig.connections() == 20);
    flood.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let refused = || flood.iter().filter(|stream| matches!((&**stream).read(&mut [0]), Ok(0))).count();
    wait_until("refused to the others", || refused() == 182);
    assert_eq!(rig.connections(), 20);
    io.expect_alive();
    drop(flood);
    wait_until("down to two", || rig.connections() == 2);
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    io.expect_alive();
}

#[test]
fn controllers_have_a_limit_of_their_own() {
    let limits = TargetLimits { max_controllers: 2, max_io_queues: 1, ..TargetLimits::default() };
    let rig = Rig::start(Options { limits, ..Options::default() });
    let (first, _io) = Host::pair(&rig, Ask::default());
    let second = Host::admin(&rig, Ask::default());
    let mut third = Host::initialised(rig.address, Ask::default());
    assert!(!third.connect_queue(0, 0xffff).status().is_success());
    let mut queue = Host::initialised(rig.address, Ask::default());
    assert!(!queue.connect_queue(2, first.cntlid).status().is_success());
    drop(second);
    wait_until("one controller less", || rig.target.summary().io_controllers == 1);
    assert!(third.connect_queue(0, 0xffff).status().is_success());
}

#[test]
fn connections_that_come_and_go() {
    let rig = Rig::start(Options { cores: 2, ..Options::default() });
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < Duration::from_secs(2) || rounds < 20 {
        rounds += 1;
        let silent = Host::silent(rig.address);
        let initialised = Host::initialised(rig.address, Ask { digests: BOTH, ..Ask::default() });
        let (admin, mut io) = Host::pair(&rig, Ask::default());
        io.expect_alive();
        match rounds % 3 {
            0 => drop((silent, initialised, admin, io)),
            1 => drop((io, admin, initialised, silent)),
            _ => {
                drop(admin);
                io.expect_closed();
            }
        }
    }
    expect_empty(&rig);
    assert_eq!(rig.pool.in_use(), 0);
}

#[test]
fn connections_lost_with_commands_in_flight() {
    for cores in [1, 2] {
        let rig = Rig::start(Options { cores, ..Options::default() });
        let (_admin, mut io) = Host::pair(&rig, Ask::default());
        for i in 0..8 {
            assert!(io.store(&format!("v{i}"), &value(i, 100_000)).status().is_success());
        }
        let stored = rig.pool.in_use();
        for round in 0..30_usize {
            let (admin, mut io) = Host::pair(&rig, Ask { entries: 64, maxr2t: 3, ..Ask::default() });
            // Some wait for data, some have them in part, some are executing on this core or the other.
            for i in 0..8 {
                let key = format!("v{i}");
                io.capsule(store(&format!("w{i}"), 300_000), SglDescriptor::transport_data(300_000), &[]);
                io.capsule(retrieve(&key, 100_000), SglDescriptor::transport_data(100_000), &[]);
                let bytes = io.capsule_bytes(store("x", 4000), 500 + i, SglDescriptor::in_capsule(0, 4000), &[7; 4000]);
                io.send(if i == 7 { &bytes[..round * 100] } else { &bytes });
            }
            if round % 2 == 0 {
                drop(admin);
            }
            if round % 3 == 0 {
                // Reset, not closed.
                let _ = io.stream.shutdown(std::net::Shutdown::Read);
            }
        }
        wait_until("down to two", || rig.connections() == 2);
        assert!(
            io.execute(
                kvof_kv::KvCommand::delete(1, &super::host::key("x")).to_sqe(SglDescriptor::transport_data(0)),
                &[]
            )
            .0
            .status()
            .is_success()
        );
        wait_until("free of what was in flight", || rig.pool.in_use() == stored);
        for i in 0..8 {
            assert_eq!(io.retrieve(&format!("v{i}"), 100_000).1, value(i, 100_000));
        }
    }
}

/// Bytes of memory that this process has at the moment.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn answers_that_nobody_reads_take_bounded_memory() {
    let tcp = TcpSettings { tx_high_water: 8 << 20, ..settings() };
    let rig = Rig::start(Options { tcp, ..Options::default() });
    let (mut admin, mut io) = Host::pair(&rig, Ask { digests: BOTH, ..Ask::default() });
    let log = GetLogPageCmd::new(LogId::COMMANDS_SUPPORTED, 0, 0, 2 << 20).unwrap().to_sqe();
    let mut read = Sqe::new(NvmOpcode::READ);
    read.nsid = BLOCKS.into();
    read.cdw12 = 4095.into();
    for (host, sqe) in [(&mut admin, log), (&mut io, read)] {
        let before = resident();
        // As many as one receive takes: 1.6 GiB of answers.
        let mut bytes = Vec::new();
        for cid in 0..800 {
            bytes.extend(host.capsule_bytes(sqe, cid, SglDescriptor::transport_data(2 << 20), &[]));
        }
        host.send(&bytes);
        let until = Instant::now() + Duration::from_millis(700);
        while Instant::now() < until {
            let grown = resident().saturating_sub(before) >> 20;
            // Tests in the same process have their memory too.
            assert!(grown < 300, "{grown} MiB for answers");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let data = io.read().unwrap();
    assert_eq!(data.kind, kvof_spec::tcp::PduType::C2H_DATA);
}

#[test]
fn data_in_line_have_no_memory_until_their_turn() {
    const EACH: usize = 12;
    let tcp = TcpSettings { r2t_window: 1, r2t_window_max: 1, ..settings() };
    let rig = Rig::start(Options { tcp, ..Options::default() });
    let long = 1 << 20;
    let mut hosts: Vec<Host> = Vec::new();
    let admins: Vec<Host> = (0..3)
        .map(|_| {
            let (admin, io) = Host::pair(&rig, Ask { entries: 32, ..Ask::default() });
            hosts.push(io);
            admin
        })
        .collect();
    let before = rig.pool.in_use();
    let cids: Vec<Vec<u16>> = hosts
        .iter_mut()
        .enumerate()
        .map(|(host, io)| {
            let sgl = SglDescriptor::transport_data(long as u32);
            (0..EACH).map(|_| io.capsule(store(&format!("v{host}"), long), sgl, &[])).collect()
        })
        .collect();
    wait_until("one of each is asked for", || rig.pool.in_use() >= before + 3 * long);
    assert!(rig.pool.in_use() < before + 4 * long);
    // From here on there is room for one more than there are values: hosts wait for each other's memory, too.
    rig.pool.keep(rig.pool.limit() - rig.pool.in_use() - long);
    std::thread::scope(|scope| {
        for (host, (io, cids)) in hosts.iter_mut().zip(&cids).enumerate() {
            scope.spawn(move || {
                let mut done = Vec::new();
                while done.len() < EACH {
                    let pdu = io.read().unwrap();
                    if pdu.kind == kvof_spec::tcp::PduType::R2T {
                        let index = cids.iter().position(|cid| *cid == pdu.r2t().cccid.get()).unwrap();
                        io.answer(&pdu.r2t(), &value((host * EACH + index) as u8, long), u32::MAX);
                    } else {
                        assert!(pdu.cqe().status().is_success());
                        done.push(pdu.cqe().cid.get());
                    }
                }
                assert_eq!(done, *cids, "one after the other, as they were asked for");
                let last = value((host * EACH + EACH - 1) as u8, long);
                assert!(io.retrieve(&format!("v{host}"), long).1 == last);
            });
        }
    });
    drop(admins);
}

#[test]
fn long_stores_leave_memory_to_short_commands() {
    let tcp = TcpSettings { r2t_window: u32::MAX, ..settings() };
    let rig = Rig::start(Options { tcp, ..Options::default() });
    let (long, kept) = (2 << 20, 4 << 20);
    rig.pool.keep(kept);
    let (_admin, mut flood) = Host::pair(&rig, Ask { entries: 128, ..Ask::default() });
    // More than there is memory for; their data never come.
    for i in 0..100 {
        flood.capsule(store(&format!("l{i}"), long), SglDescriptor::transport_data(long as u32), &[]);
    }
    wait_until("full", || rig.pool.in_use() + kept + long > rig.pool.limit());
    let (_other, mut io) = Host::pair(&rig, Ask::default());
    for i in 0..10 {
        assert!(io.store(&format!("s{i}"), &value(i, 60_000)).status().is_success());
        assert_eq!(io.retrieve(&format!("s{i}"), 60_000).1, value(i, 60_000));
    }
    drop(flood);
    wait_until("free of what never came", || rig.pool.in_use() < 1 << 20);
}

/// Lets this process have `files` open files: both ends of every connection are in it.
fn allow_files(files: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < files) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: limit.maximum })
            .unwrap_or_else(|error| panic!("this test needs {files} open files (ulimit -Hn): {error}"));
    }
}

#[test]
fn a_thousand_idle_connections_and_some_at_work() {
    allow_files(3000);
    let limits = TargetLimits { max_controllers: 1100, ..TargetLimits::default() };
    let rig = Rig::start(Options { cores: 2, max_connections: 1100, limits, ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    io.expect_alive();
    // Every one is an admin queue of its own controller, kept alive for longer than this takes.
    let idle: Vec<Host> = (0..1000).map(|_| Host::admin(&rig, Ask { kato_ms: 120_000, ..Ask::default() })).collect();
    assert_eq!(rig.connections(), 1002);
    let mut pairs: Vec<(Host, Host)> = (0..32).map(|_| Host::pair(&rig, Ask::default())).collect();
    for round in 0..20 {
        for (n, (_, io)) in pairs.iter_mut().enumerate() {
            let (name, data) = (format!("v{n}"), value(n as u8 ^ round, 5000));
            assert!(io.store(&name, &data).status().is_success());
            assert_eq!(io.retrieve(&name, 5000).1, data);
        }
    }
    assert_eq!(rig.connections(), 1066);
    for mut host in idle {
        // It still has its controller.
        let property = PropertyGetCmd::new(Property::CSTS).unwrap().to_sqe();
        assert!(host.execute(property, &[]).0.status().is_success());
    }
    drop(pairs);
    wait_until("down to two", || rig.connections() == 2);
}

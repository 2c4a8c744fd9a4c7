//! Two cores at work, and the end of work.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use kvof_initiator::{ConnectOptions, Error, ReconnectPolicy, StoreOptions, blocking::block_on};
use kvof_kv::Key;
use kvof_spec::sgl::SglDescriptor;

use super::{
    host::{Ask, Host, key, store, value},
    library::connect,
    rig::{KV, KV_POOL, Options, Rig, new_pool, wait_until},
};

/// splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Works on keys that nobody else has, and checks every answer against what it stored.
fn work_and_verify(kv: &kvof_initiator::KvNamespace, worker: u64, until: Instant) -> usize {
    let mut state = worker;
    let mut model: Vec<Option<Vec<u8>>> = vec![None; 16];
    let mut done = 0;
    while Instant::now() < until {
        let draw = random(&mut state);
        let slot = (draw % 16) as usize;
        let name = Key::new(format!("w{worker}-{slot}").as_bytes()).unwrap();
        match draw >> 8 & 3 {
            0 | 1 => {
                let len = [0, 1, 100, 2048, 2049, 9000, 70_000, 300_000][(draw >> 16 & 7) as usize];
                let data = value((draw >> 24) as u8, len);
                let (result, data) = block_on(kv.store(name, data, StoreOptions::empty()));
                result.unwrap();
                model[slot] = Some(data);
            }
            2 => match (&model[slot], block_on(kv.retrieve_vec(name))) {
                (Some(expected), Ok(got)) => {
                    assert!(*expected == got, "{name}: {} bytes, {}", expected.len(), got.len());
                }
                (None, Err(e)) => assert!(e.is_key_missing(), "{e}"),
                (expected, got) => panic!("{name}: {:?} and {got:?}", expected.as_ref().map(Vec::len)),
            },
            _ => match (model[slot].take(), block_on(kv.delete(name))) {
                (Some(_), Ok(())) | (None, Ok(())) => {}
                (None, Err(e)) => assert!(e.is_key_missing(), "{e}"),
                (Some(_), Err(e)) => panic!("{e}"),
            },
        }
        done += 1;
    }
    for (slot, _) in model.iter().enumerate().filter(|(_, value)| value.is_some()) {
        let name = Key::new(format!("w{worker}-{slot}").as_bytes()).unwrap();
        block_on(kv.delete(name)).unwrap();
    }
    done
}

#[test]
fn values_are_right_whichever_core_serves_them() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path(), (2, 1), 3, 2 << 20);
    let rig = Rig::start(Options { cores: 2, pool: Some(pool), ..Options::default() });
    let mut options = ConnectOptions::default();
    options.io_queues = 4;
    let controller = connect(&rig, &options);
    let namespaces = [KV, KV_POOL].map(|nsid| block_on(controller.kv(nsid)).unwrap());
    let until = Instant::now() + Duration::from_secs(3);
    thread::scope(|scope| {
        for worker in 0..8_u64 {
            let kv = &namespaces[worker as usize % 2];
            scope.spawn(move || assert!(work_and_verify(kv, worker, until) > 20));
        }
    });
    for kv in &namespaces {
        assert_eq!(block_on(kv.list(None)).unwrap(), []);
    }
    block_on(controller.disconnect());
    wait_until("free", || rig.connections() == 0 && rig.pool.in_use() == 0);
}

#[test]
fn connections_spread_over_the_cores_and_a_dead_host_frees_both() {
    let rig = Rig::start(Options { cores: 2, ..Options::default() });
    let admin = Host::admin(&rig, Ask::default());
    let mut queues: Vec<Host> = (1..=4).map(|qid| Host::io(&rig, &admin, qid, Ask::default())).collect();
    for (i, queue) in queues.iter_mut().enumerate() {
        assert!(queue.store(&format!("q{i}"), &value(i as u8, 10_000)).status().is_success());
    }
    for (i, queue) in queues.iter_mut().enumerate() {
        for other in 0..4 {
            assert_eq!(queue.retrieve(&format!("q{other}"), 10_000).1, value(other, 10_000), "queue {i}");
        }
        queue.capsule(store("never", 1 << 20), SglDescriptor::transport_data(1 << 20), &[]);
        queue.read().unwrap().r2t();
    }
    let stored = 4 * 12_288;
    assert!(rig.pool.in_use() >= 4 << 20);
    drop(admin);
    for queue in &mut queues {
        queue.expect_closed();
    }
    wait_until("free of what never came", || rig.pool.in_use() <= 2 * stored);
}

#[test]
fn a_drain_completes_what_is_under_way() {
    let rig = Rig::start(Options { cores: 2, ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    let (_other, mut idle) = Host::pair(&rig, Ask::default());
    idle.expect_alive();
    let data = value(1, 100_000);
    let cid = io.capsule(store("k", data.len()), SglDescriptor::transport_data(data.len() as u32), &[]);
    let r2t = io.read().unwrap().r2t();
    let address = rig.address;
    thread::scope(|scope| {
        let stop = scope.spawn(|| rig.stop(Duration::from_secs(8)));
        idle.expect_closed();
        assert!(!stop.is_finished(), "stopped with a command under way");
        io.answer(&r2t, &data, 10_000);
        let cqe = io.read().unwrap().cqe();
        assert_eq!((cqe.cid.get(), cqe.status().is_success()), (cid, true));
        io.expect_closed();
        let took = stop.join().unwrap();
        assert!(took < Duration::from_secs(4), "stopping took {took:?} with nothing left to do");
    });
    assert!(std::net::TcpStream::connect(address).is_err(), "somebody still listens");
}

#[test]
fn a_drain_does_not_wait_for_ever() {
    let rig = Rig::start(Options { cores: 2, ..Options::default() });
    let (_admin, mut io) = Host::pair(&rig, Ask::default());
    io.capsule(store("k", 9000), SglDescriptor::transport_data(9000), &[]);
    io.read().unwrap().r2t();
    let pool = rig.pool.clone();
    let took = rig.stop(Duration::from_millis(500));
    assert!(took >= Duration::from_millis(450) && took < Duration::from_secs(3), "{took:?}");
    io.expect_closed();
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn what_was_acknowledged_before_a_stop_is_there_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path(), (2, 1), 3, 2 << 20);
    let options = || Options { cores: 2, pool: Some(pool.clone()), ..Options::default() };
    let rig = Rig::start(options());
    let mut never = ConnectOptions::default();
    (never.io_queues, never.reconnect) = (2, ReconnectPolicy::NEVER);
    let controller = connect(&rig, &never);
    let kv = block_on(controller.kv(KV_POOL)).unwrap();
    let acknowledged: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        for (worker, count) in acknowledged.iter().enumerate() {
            let (kv, stopped) = (&kv, &stopped);
            scope.spawn(move || {
                for i in 0.. {
                    let name = key(&format!("s{worker}-{i}"));
                    match block_on(kv.store(name, value(i as u8, 5000), StoreOptions::empty())).0 {
                        Ok(()) => count.store(i + 1, Ordering::Release),
                        Err(Error::ConnectionLost { .. } | Error::GaveUp { .. } | Error::Connect { .. }) => break,
                        Err(other) => panic!("{other}"),
                    }
                }
                assert!(stopped.load(Ordering::Acquire), "lost before the target stopped");
            });
        }
        wait_until("under load", || acknowledged.iter().all(|count| count.load(Ordering::Acquire) > 20));
        stopped.store(true, Ordering::Release);
        let took = rig.stop(Duration::from_secs(5));
        assert!(took < Duration::from_secs(4), "stopping took {took:?}");
    });
    drop(controller);
    let rig = Rig::start(options());
    let controller = connect(&rig, &never);
    let kv = block_on(controller.kv(KV_POOL)).unwrap();
    for (worker, count) in acknowledged.iter().enumerate() {
        for i in 0..count.load(Ordering::Acquire) {
            let got = block_on(kv.retrieve_vec(key(&format!("s{worker}-{i}")))).unwrap();
            assert!(got == value(i as u8, 5000), "s{worker}-{i}");
        }
    }
}

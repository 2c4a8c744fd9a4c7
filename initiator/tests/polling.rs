//! Callers who drive the I/O queues themselves: they, the queues' threads and the loss of connections come together.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{KV_NSID, SUBNQN, Target, eventually, options};
use kvof_initiator::blocking::{BlockingKv, block_on, block_on_polling};
use kvof_initiator::{ConnectOptions, Controller, Error, Key, KvNamespace, ReconnectPolicy, StoreOptions};

fn key(n: usize) -> Key {
    Key::new(format!("key-{n}").as_bytes()).unwrap()
}

fn connect(target: &Target, options: &ConnectOptions) -> (Controller, KvNamespace) {
    block_on(async {
        let controller = Controller::connect(&target.address(), SUBNQN, options).await.unwrap();
        let kv = controller.kv(KV_NSID).await.unwrap();
        (controller, kv)
    })
}

/// Calls `progress` until told to stop.
fn poll_until(controller: &Controller, stop: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let (controller, stop) = (controller.clone(), Arc::clone(stop));
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            controller.progress();
        }
    })
}

#[test]
fn a_caller_who_polls_has_its_answers_and_one_who_stops_has_them_too() {
    let target = Target::start();
    let (controller, kv) = connect(&target, &options());
    for round in 0..20 {
        let value = vec![round as u8; 100 + round];
        block_on_polling(&controller, kv.store(key(round), value.clone(), StoreOptions::empty())).0.unwrap();
        // The queue's thread stands by; nobody polls for this one.
        assert_eq!(block_on(kv.retrieve_vec(key(round))).unwrap(), value);
        if round % 5 == 0 {
            // Long enough for the thread to sleep: the next visit wakes it, and takes its place.
            thread::sleep(Duration::from_millis(10));
        }
    }
    assert!(!controller.progress(), "nothing is under way");
}

#[test]
fn several_threads_may_poll_at_once() {
    let target = Target::start();
    let (controller, kv) = connect(&target, &options());
    let stop = Arc::new(AtomicBool::new(false));
    let poller = poll_until(&controller, &stop);
    thread::scope(|scope| {
        for thread in 0..3 {
            let kv = BlockingKv::new(kv.clone()).polling();
            scope.spawn(move || {
                for n in 0..50 {
                    let (key, value) = (key(thread * 1000 + n), vec![n as u8; 64 * n]);
                    kv.store(key, &value, StoreOptions::empty()).unwrap();
                    assert_eq!(kv.retrieve(key).unwrap(), value);
                }
            });
        }
    });
    stop.store(true, Ordering::Relaxed);
    poller.join().unwrap();
}

#[test]
fn a_connection_that_is_lost_while_a_caller_polls_is_made_again() {
    let target = Target::start();
    let (controller, kv) = connect(&target, &options());
    let stop = Arc::new(AtomicBool::new(false));
    let poller = poll_until(&controller, &stop);
    for round in 1..=3 {
        block_on(kv.store(key(round), vec![1; 10], StoreOptions::empty())).0.unwrap();
        target.cut();
        eventually("the connection is made again", || controller.reconnects() >= round as u64);
        // Retrieves are repeated on the new connection, which the caller drives as well.
        assert_eq!(block_on_polling(&controller, kv.retrieve_vec(key(round))).unwrap(), vec![1; 10]);
    }
    stop.store(true, Ordering::Relaxed);
    poller.join().unwrap();
}

#[test]
fn commands_of_a_connection_that_ends_for_good_fail_though_a_caller_polls() {
    let target = Target::start();
    let mut options = options();
    options.reconnect = ReconnectPolicy::NEVER;
    let (controller, kv) = connect(&target, &options);
    target.change(|b| b.hold_io = true);
    let stop = Arc::new(AtomicBool::new(false));
    let poller = poll_until(&controller, &stop);
    let begin = Instant::now();
    let cut = thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the command is there", || target.held() == 1);
            target.cut();
        });
        block_on_polling(&controller, kv.store(key(1), vec![1; 10], StoreOptions::empty())).0
    });
    assert!(matches!(cut, Err(Error::ConnectionLost { .. } | Error::GaveUp { .. })), "{cut:?}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    stop.store(true, Ordering::Relaxed);
    poller.join().unwrap();
    // That the other queue's connection has ended may still have to be found, and is progress; then there is none any more.
    eventually("nothing is left to be moved", || (0..1000).all(|_| !controller.progress()));
}

//! What goes wrong and how it is survived: lost connections, silence, dropped futures, refusals, and the end.

mod common;

use std::{
    future::Future,
    net::TcpListener,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use common::{Behaviour, KV_NSID, SUBNQN, Target, eventually, options};
use futures_util::future::join_all;
use kvof_initiator::blocking::block_on;
use kvof_initiator::{
    Address, ConnectOptions, ConnectionError, Controller, Error, IoBuf, IoBufMut, Key, KvNamespace, ReconnectPolicy,
    Status, StoreOptions,
};

fn key(n: usize) -> Key {
    Key::new(format!("key-{n}").as_bytes()).unwrap()
}

fn connect_with(target: &Target, options: &ConnectOptions) -> (Controller, KvNamespace) {
    block_on(async {
        let controller = Controller::connect(&target.address(), SUBNQN, options).await.unwrap();
        let kv = controller.kv(KV_NSID).await.unwrap();
        (controller, kv)
    })
}

fn connect(target: &Target) -> (Controller, KvNamespace) {
    connect_with(target, &options())
}

/// Polls once, so that the operation is on its way.
fn start<F: Future>(future: std::pin::Pin<&mut F>) {
    assert!(matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
}

/// A buffer that tells when it is dropped.
struct Canary(Vec<u8>, Arc<AtomicBool>);

impl Drop for Canary {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

impl IoBuf for Canary {
    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl IoBufMut for Canary {
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[test]
fn a_dropped_future_leaves_its_buffer_with_the_queue_until_the_answer() {
    let target = Target::start();
    let (_controller, kv) = connect(&target);
    block_on(kv.store(key(1), vec![5u8; 1000], StoreOptions::empty())).0.unwrap();
    target.change(|b| b.hold_io = true);
    let dropped = Arc::new(AtomicBool::new(false));
    {
        let mut retrieve = pin!(kv.retrieve(key(1), Canary(vec![0; 1000], Arc::clone(&dropped))));
        start(retrieve.as_mut());
        eventually("the command is there", || target.held() == 1);
    }
    thread::sleep(Duration::from_millis(50));
    assert!(!dropped.load(Ordering::SeqCst), "the buffer was freed while the controller may still write into it");
    target.release();
    eventually("the buffer is dropped after the answer", || dropped.load(Ordering::SeqCst));
    // The slot is free again: as many as there are slots can run.
    for round in 0..100 {
        assert_eq!(block_on(kv.retrieve_vec(key(1))).unwrap(), [5; 1000], "round {round}");
    }
}

#[test]
fn a_dropped_future_leaves_its_buffer_until_the_connection_is_gone() {
    let target = Target::start();
    let (_controller, kv) = connect(&target);
    target.change(|b| b.hold_io = true);
    let dropped = Arc::new(AtomicBool::new(false));
    {
        let mut store = pin!(kv.store(key(1), Canary(vec![0; 1000], Arc::clone(&dropped)), StoreOptions::empty()));
        start(store.as_mut());
        eventually("the command is there", || target.held() == 1);
    }
    assert!(!dropped.load(Ordering::SeqCst));
    target.cut();
    eventually("the buffer is dropped with the connection", || dropped.load(Ordering::SeqCst));
}

#[test]
fn a_future_dropped_in_the_waiting_line_makes_room_for_the_next() {
    let target = Target::start_with(Behaviour { mqes: 2, io_queues: 1, hold_io: true, ..Behaviour::default() });
    let (_controller, kv) = connect(&target);
    let dropped = Arc::new(AtomicBool::new(false));
    let mut first = Box::pin(kv.exist(key(1)));
    let mut second = Box::pin(kv.exist(key(2)));
    let mut waiting = Box::pin(kv.retrieve(key(3), Canary(vec![0; 10], Arc::clone(&dropped))));
    let mut last = Box::pin(kv.exist(key(4)));
    start(first.as_mut());
    start(second.as_mut());
    start(waiting.as_mut());
    start(last.as_mut());
    eventually("two commands are there", || target.held() == 2);
    drop(waiting);
    assert!(dropped.load(Ordering::SeqCst), "a command that was not sent keeps no buffer");
    target.release();
    for exist in [first, second, last] {
        assert!(!block_on(exist).unwrap());
    }
}

#[test]
fn a_lost_connection_fails_what_is_in_flight_and_is_made_again() {
    let target = Target::start();
    let (controller, kv) = connect(&target);
    target.change(|b| b.hold_io = true);
    block_on(async {
        let mut stores: Vec<_> =
            (0..20).map(|n| Box::pin(kv.store(key(n), vec![n as u8; 9000], StoreOptions::empty()))).collect();
        stores.iter_mut().for_each(|s| start(s.as_mut()));
        eventually("20 commands are there", || target.held() == 20);
        target.cut();
        for (n, (result, back)) in join_all(stores).await.into_iter().enumerate() {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::ConnectionLost { .. }), "{error}");
            assert!(error.is_retryable() && error.may_have_executed());
            assert_eq!(back, vec![n as u8; 9000]);
        }
        target.change(|b| b.hold_io = false);
        // New operations wait for the reconnect.
        let (result, _) = kv.store(key(1), vec![1u8; 9000], StoreOptions::empty()).await;
        result.unwrap();
        assert_eq!(controller.reconnects(), 1);
        assert_eq!(kv.retrieve_vec(key(1)).await.unwrap(), [1; 9000]);
        assert!(controller.namespaces_changed(0).await.unwrap() > 0);
    });
}

#[test]
fn operations_are_repeated_only_if_that_is_asked_for_and_harmless() {
    let target = Target::start();
    let (controller, kv) = connect(&target);
    target.change(|b| b.hold_io = true);
    block_on(async {
        let patient = kv.with_repeats();
        let mut store = Box::pin(patient.store(key(1), vec![1u8; 9000], StoreOptions::NO_COMPRESS));
        let mut read = Box::pin(patient.retrieve(key(1), vec![0u8; 9000]));
        let mut unique = Box::pin(patient.store(key(2), vec![2u8; 10], StoreOptions::MUST_NOT_EXIST));
        let mut plain = Box::pin(kv.exist(key(1)));
        start(store.as_mut());
        start(read.as_mut());
        start(unique.as_mut());
        start(plain.as_mut());
        eventually("4 commands are there", || target.held() == 4);
        target.change(|b| b.hold_io = false);
        target.cut();
        let (result, back) = store.await;
        result.unwrap();
        assert_eq!(back, [1; 9000]);
        // The reads of the second connection may overtake the store of the same.
        let (result, _) = read.await;
        assert!(result.is_ok() || result.unwrap_err().is_key_missing());
        assert!(matches!(unique.await.0, Err(Error::ConnectionLost { .. })));
        assert!(matches!(plain.await, Err(Error::ConnectionLost { .. })));
        assert_eq!(kv.retrieve_vec(key(1)).await.unwrap(), [1; 9000]);
    });
    assert_eq!(controller.reconnects(), 1);
}

#[test]
fn operations_run_on_the_threads_of_any_executor() {
    fn movable<T: Send>(value: T) -> T {
        value
    }
    let target = Target::start();
    let (address, options) = (target.address(), options());
    let controller = block_on(movable(Controller::connect(&address, SUBNQN, &options))).unwrap();
    let kv = block_on(movable(controller.kv(KV_NSID))).unwrap();
    // Begun on one thread, ended on another.
    let mut store = Box::pin(movable({
        let kv = kv.clone();
        async move { kv.store(key(1), vec![1u8; 50_000], StoreOptions::empty()).await.0 }
    }));
    start(store.as_mut());
    thread::spawn(move || block_on(store)).join().unwrap().unwrap();
    block_on(movable(kv.retrieve(key(1), vec![0u8; 50_000]))).0.unwrap();
    block_on(movable(kv.list(None))).unwrap();
    block_on(movable(controller.namespaces())).unwrap();
    block_on(movable(controller.disconnect()));
}

#[test]
fn operations_wait_for_a_target_that_restarts() {
    let target = Target::start();
    let (controller, kv) = connect(&target);
    block_on(kv.store(key(1), vec![1u8; 100], StoreOptions::empty())).0.unwrap();
    target.stop();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        // What was in flight when the connection broke is told so; it may be repeated.
                        match block_on(kv.retrieve_vec(key(1))) {
                            Err(error) if error.is_retryable() => {}
                            other => return other.unwrap(),
                        }
                    }
                })
            })
            .collect();
        // One that has less patience.
        let hasty = kv.with_timeout(Duration::from_millis(100));
        let begun = Instant::now();
        let error = loop {
            match block_on(hasty.exist(key(1))).unwrap_err() {
                Error::ConnectionLost { .. } => {}
                other => break other,
            }
        };
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(3));
        thread::sleep(Duration::from_millis(100));
        target.restart();
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), [1; 100]);
        }
    });
    assert!(controller.reconnects() >= 1);
}

#[test]
fn reconnecting_ends_when_the_policy_says_so() {
    let target = Target::start();
    let mut options = options();
    options.reconnect.give_up_after = Duration::from_millis(150);
    let (controller, kv) = connect_with(&target, &options);
    target.stop();
    eventually("it gives up", || controller.info().is_err());
    let error = block_on(kv.exist(key(1))).unwrap_err();
    let Error::GaveUp { attempts, last, .. } = &error else { panic!("{error}") };
    assert!(*attempts > 1);
    assert!(matches!(**last, Error::Connect { .. }), "{last}");
    assert!(!error.is_retryable());
    let (result, back) = block_on(kv.store(key(1), vec![3u8; 10], StoreOptions::empty()));
    assert!(matches!(result, Err(Error::GaveUp { .. })));
    assert_eq!(back, [3; 10]);
    block_on(controller.disconnect());
}

#[test]
fn a_policy_of_never_fails_at_once() {
    let target = Target::start();
    let mut options = options();
    options.reconnect = ReconnectPolicy::NEVER;
    let (controller, kv) = connect_with(&target, &options);
    target.cut();
    eventually("it has failed", || controller.info().is_err());
    assert!(matches!(block_on(kv.exist(key(1))), Err(Error::ConnectionLost { .. })));
    assert!(matches!(block_on(controller.namespaces_changed(0)), Err(Error::ConnectionLost { .. })));
}

#[test]
fn a_refusal_that_lasts_ends_reconnecting() {
    let target = Target::start();
    let (controller, kv) = connect(&target);
    target.change(|b| b.connect_status = Status::CONNECT_INVALID_HOST.with_dnr());
    target.cut();
    eventually("it gives up", || controller.info().is_err());
    let error = block_on(kv.exist(key(1))).unwrap_err();
    let Error::GaveUp { attempts: 1, last, .. } = &error else { panic!("{error}") };
    assert_eq!(last.status().map(Status::code), Some(Status::CONNECT_INVALID_HOST));
}

#[test]
fn a_command_without_an_answer_ends_in_time() {
    let target = Target::start();
    let (_controller, kv) = connect(&target);
    block_on(kv.store(key(1), vec![5u8; 1000], StoreOptions::empty())).0.unwrap();
    target.change(|b| b.hold_io = true);
    let hasty = kv.with_timeout(Duration::from_millis(400));
    let begun = Instant::now();
    let (result, back) = block_on(hasty.retrieve(key(1), vec![7u8; 1000]));
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Timeout { command: "Retrieve", .. }), "{error}");
    assert!((400..2000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    // The late answer comes before the connection is given up, and does not touch what was given back.
    target.release();
    assert_eq!(back, [7; 1000]);
    assert_eq!(block_on(kv.retrieve_vec(key(1))).unwrap(), [5; 1000]);
    assert_eq!(back, [7; 1000]);
    assert_eq!(kv.controller().reconnects(), 0);
}

#[test]
fn a_store_whose_data_are_not_fetched_gives_its_buffer_back_with_the_connection() {
    let target = Target::start_with(Behaviour { ignore_writes: true, hold_io: true, ..Behaviour::default() });
    let (controller, kv) = connect(&target);
    let hasty = kv.with_timeout(Duration::from_millis(100));
    let (result, back) = block_on(hasty.store(key(1), vec![7u8; 50_000], StoreOptions::empty()));
    assert!(matches!(result, Err(Error::Timeout { command: "Store", .. })), "{result:?}");
    assert_eq!(back, [7; 50_000]);
    eventually("it reconnects", || controller.reconnects() == 1);
}

#[test]
fn a_controller_that_stays_silent_is_given_up_and_connected_again() {
    let target = Target::start();
    let mut options = options();
    options.keep_alive = Duration::from_millis(200);
    let (controller, _kv) = connect_with(&target, &options);
    eventually("keep alive runs", || target.seen().keep_alives.load(Ordering::SeqCst) >= 3);
    assert_eq!(controller.reconnects(), 0);
    target.change(|b| b.mute_admin = true);
    let connections = target.seen().connections.load(Ordering::SeqCst);
    eventually("it tries again", || target.seen().connections.load(Ordering::SeqCst) > connections);
    target.change(|b| b.mute_admin = false);
    target.cut();
    eventually("it is back", || controller.reconnects() >= 1);
}

#[test]
fn traffic_takes_the_place_of_keep_alive_where_the_controller_says_so() {
    let run = |traffic_based_keep_alive| {
        let target = Target::start_with(Behaviour { traffic_based_keep_alive, ..Behaviour::default() });
        let mut options = options();
        options.keep_alive = Duration::from_millis(400);
        let (_controller, kv) = connect_with(&target, &options);
        let end = Instant::now() + Duration::from_millis(900);
        while Instant::now() < end {
            block_on(kv.exist(key(1))).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        let with_traffic = target.seen().keep_alives.load(Ordering::SeqCst);
        eventually("silence needs keep alive", || target.seen().keep_alives.load(Ordering::SeqCst) > with_traffic + 1);
        with_traffic
    };
    assert_eq!(run(true), 0);
    assert!(run(false) >= 3);
}

#[test]
fn a_first_connection_that_fails_is_told_at_once() {
    let mut options = options();
    options.connect_timeout = Duration::from_millis(300);
    let connect = |address: &Address| block_on(Controller::connect(address, SUBNQN, &options)).unwrap_err();
    let begun = Instant::now();

    // Nobody listens.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
    drop(listener);
    let error = connect(&address);
    assert!(matches!(error, Error::Connect { cause: ConnectionError::Io { .. }, .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    // Somebody listens and says nothing.
    let target = Target::start_with(Behaviour { mute_ic: true, ..Behaviour::default() });
    let error = connect(&target.address());
    assert!(matches!(error, Error::Connect { cause: ConnectionError::ConnectTimeout(_), .. }), "{error}");

    // The host is not allowed.
    let target = Target::start_with(Behaviour { connect_status: Status::CONNECT_INVALID_HOST, ..Behaviour::default() });
    let error = connect(&target.address());
    assert!(matches!(error, Error::Refused { status: Status::CONNECT_INVALID_HOST, .. }), "{error}");
    assert!(error.to_string().contains(&options.hostnqn), "{error}");

    // The controller cannot give I/O queues, or takes no capsules.
    let target = Target::start_with(Behaviour { io_queues: 0, ..Behaviour::default() });
    assert!(matches!(connect(&target.address()), Error::Unsupported { .. }));
    let target = Target::start_with(Behaviour { ioccsz: 3, ..Behaviour::default() });
    assert!(matches!(connect(&target.address()), Error::Unsupported { .. }));

    // It never becomes ready.
    let target = Target::start_with(Behaviour { ready_after: u32::MAX, ..Behaviour::default() });
    let error = connect(&target.address());
    assert!(error.to_string().contains("CSTS.RDY"), "{error}");

    // Names that are none, and arguments that make no sense.
    let error = connect(&"no-such-host.invalid".parse().unwrap());
    assert!(matches!(error, Error::Connect { cause: ConnectionError::Resolve(_), .. }), "{error}");
    let error = block_on(Controller::connect(&target.address(), "not an nqn", &options)).unwrap_err();
    assert!(matches!(error, Error::Argument { what: "subnqn", .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// A buffer that panics on the queue's thread.
struct Bomb(thread::ThreadId);

impl IoBuf for Bomb {
    fn as_bytes(&self) -> &[u8] {
        assert_eq!(thread::current().id(), self.0, "used on another thread");
        &[1; 50_000]
    }
}

#[test]
fn a_buffer_that_panics_fails_its_connection_and_hangs_nobody() {
    let target = Target::start_with(Behaviour { io_queues: 1, hold_io: true, ..Behaviour::default() });
    let mut options = options();
    options.command_timeout = Duration::from_secs(3);
    let (controller, kv) = connect_with(&target, &options);
    let mut other = Box::pin(kv.retrieve(key(1), vec![7u8; 10]));
    start(other.as_mut());
    eventually("the command is there", || target.held() == 1);
    let mut bomb = Box::pin(kv.store(key(2), Bomb(thread::current().id()), StoreOptions::empty()));
    start(bomb.as_mut());
    let (result, back) = block_on(other);
    assert!(matches!(result, Err(Error::ConnectionLost { cause: ConnectionError::BufferPanicked, .. })), "{result:?}");
    assert_eq!(back, [7; 10]);
    drop(bomb);
    target.change(|b| b.hold_io = false);
    assert!(!block_on(kv.exist(key(1))).unwrap());
    assert_eq!(controller.reconnects(), 1);
}

#[test]
fn a_controller_that_is_slow_to_become_ready_is_waited_for() {
    let target = Target::start_with(Behaviour { ready_after: 20, ..Behaviour::default() });
    connect(&target);
}

#[test]
fn a_connect_that_is_given_up_leaves_nothing_behind() {
    let target = Target::start_with(Behaviour { mute_ic: true, ..Behaviour::default() });
    {
        let (address, options) = (target.address(), options());
        let mut connect = pin!(Controller::connect(&address, SUBNQN, &options));
        start(connect.as_mut());
        eventually("the connection is there", || target.seen().connections.load(Ordering::SeqCst) == 1);
    }
    // The connection ends, which the target's thread waits for.
    eventually("the connection is closed", || target.seen().hung_up.load(Ordering::SeqCst) == 1);
}

#[test]
fn disconnecting_shuts_the_controller_down() {
    let target = Target::start();
    let (controller, kv) = connect(&target);
    block_on(controller.disconnect());
    assert_eq!(target.seen().shutdowns.load(Ordering::SeqCst), 1);
    assert!(matches!(block_on(kv.exist(key(1))), Err(Error::Closed)));
    assert!(matches!(controller.info(), Err(Error::Closed)));
    block_on(controller.disconnect());
    // So does dropping the last handle, in the background.
    let (controller, kv) = connect(&target);
    drop(controller);
    block_on(kv.exist(key(1))).unwrap();
    drop(kv);
    eventually("the shutdown is seen", || target.seen().shutdowns.load(Ordering::SeqCst) == 2);
}

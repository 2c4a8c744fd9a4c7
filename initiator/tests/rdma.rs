//! The host library over RDMA, on a device of this machine: data both ways, keys that die, controllers that lie.

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{
    KV_NSID, NVM_NSID, SUBNQN, eventually, options,
    rdma::{Lie, RdmaTarget},
};
use futures_util::future::join_all;
use kvof_initiator::blocking::block_on;
use kvof_initiator::{
    Buffer, ConnectOptions, ConnectionError, Controller, Error, IoBuf, IoBufMut, Key, KvNamespace, ReconnectPolicy,
    StoreOptions, Transport,
};

fn key(n: usize) -> Key {
    Key::new(format!("key-{n}").as_bytes()).unwrap()
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 7 + (i >> 8)) as u8).collect()
}

fn connect(target: &RdmaTarget, options: &ConnectOptions) -> (Controller, KvNamespace) {
    block_on(async {
        let controller = Controller::connect(&target.address(), SUBNQN, options).await.unwrap();
        let kv = controller.kv(KV_NSID).await.unwrap();
        (controller, kv)
    })
}

/// A buffer of a kind that only its owner knows.
struct Own(Vec<u8>);

impl IoBuf for Own {
    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl IoBufMut for Own {
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[test]
fn values_of_every_size_come_back_in_buffers_of_every_kind() {
    let Some(target) = RdmaTarget::start() else { return };
    let (controller, kv) = connect(&target, &options());
    let info = controller.info().unwrap();
    assert_eq!((info.transport, info.in_capsule), (Transport::Rdma, 4096));
    println!("{:?}", info.rdma.as_ref().unwrap());
    block_on(async {
        for (n, len) in [0, 1, 4095, 4096, 4097, 65_536, 100_000].into_iter().enumerate() {
            let value = pattern(len, n);
            kv.store(key(n), value.clone(), StoreOptions::empty()).await.0.unwrap();
            assert!(kv.retrieve_vec(key(n)).await.unwrap() == value, "{len}");
            assert_eq!(kv.value_len(key(n)).await.unwrap() as usize, len);
            let (found, buffer) = kv.retrieve(key(n), Buffer::new(len + 5)).await;
            assert_eq!(found.unwrap().filled as usize, len);
            assert!(buffer[..len] == value && buffer[len..] == [0; 5]);
            let (found, own) = kv.retrieve(key(n), Own(vec![0xee; len / 2 + 1])).await;
            let filled = found.unwrap().filled as usize;
            assert!(filled == len.min(len / 2 + 1) && own.0[..filled] == value[..filled]);
            kv.store(key(n), Own(pattern(len, n + 1)), StoreOptions::empty()).await.0.unwrap();
            assert!(kv.retrieve_vec(key(n)).await.unwrap() == pattern(len, n + 1));
        }
        assert_eq!(kv.list(None).await.unwrap().len(), 7);
        let nvm = controller.nvm(NVM_NSID).await.unwrap();
        nvm.write(3, pattern(16 * 512, 1)).await.0.unwrap();
        let (read, blocks) = nvm.read(3, vec![0u8; 16 * 512]).await;
        read.unwrap();
        assert!(blocks == pattern(16 * 512, 1));
    });
}

#[test]
fn many_commands_share_the_queues() {
    let Some(target) = RdmaTarget::start() else { return };
    let (_controller, kv) = connect(&target, &options());
    block_on(join_all((0..400).map(|n| {
        let kv = &kv;
        async move {
            let value = pattern(n * 37 % 20_000, n);
            kv.store(key(n), value.clone(), StoreOptions::empty()).await.0.unwrap();
            let (found, buffer) = kv.retrieve(key(n), Buffer::new(20_000)).await;
            assert!(buffer[..found.unwrap().filled as usize] == value[..], "{n}");
        }
    })));
}

#[test]
fn keys_that_the_controller_leaves_are_invalidated_here() {
    let Some(target) = RdmaTarget::start() else { return };
    let (controller, kv) = connect(&target, &options());
    target.lie(Lie::LeavesKeys);
    block_on(async {
        for n in 0..300 {
            kv.store(key(1), pattern(5000, n), StoreOptions::empty()).await.0.unwrap();
            assert!(kv.retrieve(key(1), vec![0u8; 5000]).await.1 == pattern(5000, n));
        }
    });
    assert_eq!(controller.reconnects(), 0);
}

/// Options with which a lost connection is an error.
fn fragile() -> ConnectOptions {
    let mut options = options();
    options.io_queues = 1;
    options.reconnect = ReconnectPolicy::NEVER;
    options
}

#[test]
fn a_write_after_the_response_is_refused_by_the_device() {
    let Some(target) = RdmaTarget::start() else { return };
    let (_controller, kv) = connect(&target, &fragile());
    let value = pattern(50_000, 1);
    block_on(kv.store(key(1), value.clone(), StoreOptions::empty())).0.unwrap();
    target.lie(Lie::WritesLate);
    let (found, buffer) = block_on(kv.retrieve(key(1), Buffer::new(50_000)));
    found.unwrap();
    target.lie(Lie::WritesNow);
    eventually("the controller's device refuses the write", || target.refused.load(Ordering::SeqCst) > 0);
    std::thread::sleep(Duration::from_millis(100));
    assert!(buffer[..] == value, "a late write got through");
}

#[test]
fn a_write_beyond_the_buffer_is_refused_by_the_device() {
    let Some(target) = RdmaTarget::start() else { return };
    let (_controller, kv) = connect(&target, &fragile());
    block_on(kv.store(key(1), pattern(20_000, 1), StoreOptions::empty())).0.unwrap();
    target.lie(Lie::WritesBeyond);
    let (found, buffer) = block_on(kv.retrieve(key(1), Buffer::new(20_000)));
    assert!(matches!(found, Err(Error::ConnectionLost { .. })), "{found:?}");
    assert_eq!(buffer.len(), 20_000);
    eventually("the controller's device refuses the write", || target.refused.load(Ordering::SeqCst) > 0);
}

#[test]
fn lies_end_the_connection_and_give_the_buffers_back() {
    for (lie, said) in [(Lie::InvalidatesAnother, "not its own"), (Lie::Short, "15 bytes")] {
        let Some(target) = RdmaTarget::start() else { return };
        let (_controller, kv) = connect(&target, &fragile());
        block_on(kv.store(key(1), pattern(20_000, 1), StoreOptions::empty())).0.unwrap();
        target.change(|b| b.hold_io = true);
        let results = std::thread::scope(|scope| {
            let kv = &kv;
            let running = scope.spawn(|| block_on(join_all((0..4).map(|_| kv.retrieve(key(1), Buffer::new(20_000))))));
            eventually("commands are held", || target.held() == 4);
            target.lie(lie);
            target.release();
            running.join().unwrap()
        });
        let lost = results.iter().filter_map(|(result, buffer)| {
            assert_eq!(buffer.len(), 20_000);
            result.as_ref().err()
        });
        let lost: Vec<String> = lost.map(Error::to_string).collect();
        assert!(!lost.is_empty() && lost.iter().all(|error| error.contains(said)), "{lie:?}: {lost:?}");
    }
}

#[test]
fn a_command_whose_time_is_over_has_its_buffer_back_and_a_late_answer_finds_nothing() {
    let Some(target) = RdmaTarget::start() else { return };
    let mut options = options();
    options.io_queues = 1;
    let (controller, kv) = connect(&target, &options);
    block_on(kv.store(key(1), pattern(20_000, 1), StoreOptions::empty())).0.unwrap();
    target.change(|b| b.hold_io = true);
    let hasty = kv.clone().with_timeout(Duration::from_secs(1));
    let (found, buffer) = block_on(hasty.retrieve(key(1), Buffer::new(20_000)));
    assert!(matches!(found, Err(Error::Timeout { .. })), "{found:?}");
    target.release();
    // The connection was made again; the late data went nowhere.
    assert!(block_on(kv.retrieve_vec(key(1))).unwrap() == pattern(20_000, 1));
    assert!(buffer.iter().all(|b| *b == 0));
    assert_eq!(controller.reconnects(), 1);
}

#[test]
fn a_port_without_a_listener_says_so() {
    let Some(target) = RdmaTarget::start() else { return };
    let mut nobody = target.address;
    nobody.set_port(1);
    let address: kvof_initiator::Address = nobody.to_string().parse().unwrap();
    let error =
        block_on(Controller::connect(&address.with_transport(Transport::Rdma), SUBNQN, &options())).unwrap_err();
    let Error::Connect { cause: ConnectionError::Unreachable { what }, .. } = &error else { panic!("{error}") };
    assert!(what.contains("nobody listens"), "{error}");
}

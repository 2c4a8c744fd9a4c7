//! What a user does: connect, look around, store, retrieve, list, many at once, over real sockets.

mod common;

use std::sync::atomic::Ordering;

use common::{BLOCK, BLOCKS, Behaviour, KV_NSID, NVM_NSID, SUBNQN, Target, options};
use futures_util::future::join_all;
use kvof_initiator::blocking::{BlockingKv, block_on};
use kvof_initiator::{Buffer, Controller, Csi, DigestMode, Error, Key, KvNamespace, Status, StoreOptions};
use kvof_kv::conformance::{self, Outcome, RunOptions};
use kvof_spec::tcp::Digests;

fn key(n: usize) -> Key {
    Key::new(format!("key-{n}").as_bytes()).unwrap()
}

fn value(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ seed) as u8).collect()
}

fn connect(target: &Target) -> (Controller, KvNamespace) {
    block_on(async {
        let controller = Controller::connect(&target.address(), SUBNQN, &options()).await.unwrap();
        let kv = controller.kv(KV_NSID).await.unwrap();
        (controller, kv)
    })
}

#[test]
fn a_controller_says_what_it_is() {
    let target = Target::start();
    let (controller, kv) = connect(&target);
    let info = controller.info().unwrap();
    assert_eq!((info.model.as_str(), info.serial.as_str(), info.cntlid), ("Scripted", "SERIAL", 7));
    assert_eq!((info.io_queues, info.queue_depth, info.max_transfer), (2, 16, 4096 << 5));
    assert_eq!(info.in_capsule, 4096);
    assert_eq!(kv.limits().kvvml, 100_000);
    let namespaces = block_on(controller.namespaces()).unwrap();
    let found: Vec<_> = namespaces.iter().map(|n| (n.nsid, n.csi, n.uuid.is_some())).collect();
    assert_eq!(found, [(KV_NSID, Csi::KV, true), (NVM_NSID, Csi::NVM, false)]);
    let error = block_on(controller.kv(NVM_NSID)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let error = block_on(controller.kv(9)).unwrap_err();
    assert_eq!(error.status().map(Status::code), Some(Status::INVALID_NAMESPACE_OR_FORMAT));
    let mut qids = target.seen().qids.lock().unwrap().clone();
    qids.sort_unstable();
    assert_eq!(qids, [0, 1, 2]);
    let hosts = target.seen().hosts.lock().unwrap().clone();
    assert!(hosts.iter().all(|h| h == &hosts[0] && h.0 == "nqn.2024-01.com.example:host"));
    assert!(!target.seen().flow_control_disabled.load(Ordering::SeqCst));
}

#[test]
fn values_of_every_size_come_back() {
    let target = Target::start();
    let (_controller, kv) = connect(&target);
    block_on(async {
        for (n, len) in [0, 1, 4095, 4096, 4097, 16_384, 50_000, 100_000].into_iter().enumerate() {
            let sent = value(len, n);
            let (result, back) = kv.store(key(n), sent.clone(), StoreOptions::empty()).await;
            result.unwrap();
            assert_eq!(back, sent);
            assert_eq!(kv.value_len(key(n)).await.unwrap() as usize, len);
            assert!(kv.exist(key(n)).await.unwrap());
            assert_eq!(kv.retrieve_vec(key(n)).await.unwrap(), sent);
            let (found, buffer) = kv.retrieve(key(n), Buffer::new(len + 10)).await;
            let found = found.unwrap();
            assert_eq!((found.value_len as usize, found.filled as usize, found.is_truncated()), (len, len, false));
            assert_eq!(&buffer[..len], &sent[..]);
            assert_eq!(&buffer[len..], &[0; 10]);
            let (found, buffer) = kv.retrieve(key(n), vec![0u8; len / 2]).await;
            assert_eq!(found.unwrap().value_len as usize, len);
            assert_eq!(buffer, sent[..len / 2]);
        }
        kv.delete(key(3)).await.unwrap();
        assert!(!kv.exist(key(3)).await.unwrap());
        let (found, buffer) = kv.retrieve(key(3), vec![7u8; 5]).await;
        assert!(found.unwrap_err().is_key_missing());
        assert_eq!(buffer, [7; 5]);
        let (result, _) = kv.store(key(0), vec![1u8], StoreOptions::MUST_NOT_EXIST).await;
        assert!(result.unwrap_err().is_key_exists());
    });
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_sent() {
    let target = Target::start();
    let (controller, kv) = connect(&target);
    let sent = target.seen().io_commands.load(Ordering::SeqCst);
    let (result, back) = block_on(kv.store(key(0), vec![1u8; 100_001], StoreOptions::empty()));
    assert!(result.unwrap_err().to_string().contains("100000 bytes (KVVML)"));
    assert_eq!(back.len(), 100_001);
    let (result, back) = block_on(kv.retrieve(key(0), vec![1u8; (4096 << 5) + 1]));
    assert!(result.unwrap_err().to_string().contains("(MDTS)"));
    assert_eq!(back.len(), (4096 << 5) + 1);
    assert_eq!(kv.max_value_len(), 100_000);
    assert_eq!(target.seen().io_commands.load(Ordering::SeqCst), sent);
    drop(controller);
}

#[test]
fn a_thousand_operations_share_a_few_slots() {
    let target = Target::start_with(Behaviour { mqes: 3, ..Behaviour::default() });
    let (controller, kv) = connect(&target);
    assert_eq!(controller.info().unwrap().queue_depth, 3);
    block_on(async {
        let stores = (0..1000).map(|n| kv.store(key(n), value(n * 7, n), StoreOptions::empty()));
        for (n, (result, back)) in join_all(stores).await.into_iter().enumerate() {
            result.unwrap();
            assert_eq!(back, value(n * 7, n));
        }
        let reads = (0..1000).map(|n| kv.retrieve(key(n), vec![0u8; n * 7]));
        for (n, (result, back)) in join_all(reads).await.into_iter().enumerate() {
            assert_eq!(result.unwrap().filled as usize, n * 7);
            assert!(back == value(n * 7, n), "value {n} differs");
        }
        let mut keys = kv.keys();
        let mut listed = Vec::new();
        loop {
            let page = keys.next_page().await.unwrap();
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        let mut expected: Vec<Key> = (0..1000).map(key).collect();
        expected.sort();
        listed.sort();
        assert_eq!(listed, expected);
    });
}

#[test]
fn threads_share_a_namespace() {
    let target = Target::start();
    let (_controller, kv) = connect(&target);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let kv = BlockingKv::new(kv.clone());
            scope.spawn(move || {
                for n in 0..50 {
                    let n = thread * 1000 + n;
                    kv.store(key(n), &value(3000, n), StoreOptions::empty()).unwrap();
                    assert_eq!(kv.retrieve(key(n)).unwrap(), value(3000, n));
                }
            });
        }
    });
    let seen = target.seen().io_commands.load(Ordering::SeqCst);
    assert_eq!(seen, 8 * 50 * 2);
}

#[test]
fn every_negotiation_works() {
    for (header, data, hpda, cpda, split, ioccsz) in [
        (DigestMode::Require, DigestMode::Require, 0, 0, 50_000, 260),
        (DigestMode::Off, DigestMode::Require, 31, 31, 1000, 4),
        (DigestMode::Require, DigestMode::Off, 1, 0, 100_000, 4),
        (DigestMode::Prefer, DigestMode::Prefer, 0, 7, 4096, 260),
    ] {
        let target = Target::start_with(Behaviour { cpda, split, ioccsz, ..Behaviour::default() });
        let mut options = options();
        (options.header_digest, options.data_digest, options.hpda) = (header, data, hpda);
        options.maxr2t = 127;
        options.disable_sq_flow_control = true;
        block_on(async {
            let controller = Controller::connect(&target.address(), SUBNQN, &options).await.unwrap();
            let kv = controller.kv(KV_NSID).await.unwrap();
            for len in [0, 5, 4096, 99_999] {
                kv.store(key(len), value(len, 1), StoreOptions::empty()).await.0.unwrap();
                assert!(kv.retrieve_vec(key(len)).await.unwrap() == value(len, 1));
            }
            controller.disconnect().await;
        });
        assert!(target.seen().flow_control_disabled.load(Ordering::SeqCst));
        assert_eq!(target.seen().shutdowns.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_digest_that_is_required_is_not_gone_without() {
    let target = Target::start_with(Behaviour { digests: Digests::default(), ..Behaviour::default() });
    let mut options = options();
    options.data_digest = DigestMode::Prefer;
    block_on(Controller::connect(&target.address(), SUBNQN, &options)).unwrap();
    options.data_digest = DigestMode::Require;
    let error = block_on(Controller::connect(&target.address(), SUBNQN, &options)).unwrap_err();
    assert!(error.to_string().contains("refuses the data digest"), "{error}");
    assert!(!error.is_retryable());
}

#[test]
fn blocks_are_read_and_written() {
    let target = Target::start();
    let (controller, _) = connect(&target);
    block_on(async {
        let nvm = controller.nvm(NVM_NSID).await.unwrap();
        assert_eq!((nvm.blocks(), nvm.block_size()), (BLOCKS as u64, BLOCK as u32));
        let data = value(BLOCK * 100, 3);
        nvm.write(20, data.clone()).await.0.unwrap();
        nvm.flush().await.unwrap();
        let (result, back) = nvm.read(21, vec![0u8; BLOCK * 99]).await;
        result.unwrap();
        assert!(back == data[BLOCK..]);
        assert!(matches!(nvm.read(0, vec![0u8; 100]).await.0, Err(Error::Argument { .. })));
        let (result, _) = nvm.read(200, vec![0u8; BLOCK * 100]).await;
        assert_eq!(result.unwrap_err().status(), Some(Status::LBA_OUT_OF_RANGE));
        assert!(controller.nvm(KV_NSID).await.is_err());
    });
}

#[test]
fn the_conformance_suite_passes_through_this_library() {
    let target = Target::start();
    let (_controller, kv) = connect(&target);
    let port = BlockingKv::new(kv);
    let mut failures = Vec::new();
    let summary = conformance::run(&port, &RunOptions::default(), &mut |report| {
        if let Outcome::Failed(reason) = &report.outcome {
            failures.push(format!("{}: {reason}", report.name));
        }
    });
    assert!(summary.ok(), "{failures:#?} {summary:?}");
}

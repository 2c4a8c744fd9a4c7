//! Values from and in device memory over real sockets, with a device that copies late and out of order.

mod common;

use std::time::Duration;

use common::{KV_NSID, SUBNQN, Target, options};
use futures_util::future::join_all;
use kvof_initiator::blocking::block_on;
use kvof_initiator::memory::simulated::SimulatedDevice;
use kvof_initiator::{Buffer, Controller, Key, StoreOptions};

fn key(n: usize) -> Key {
    Key::new(format!("key-{n}").as_bytes()).unwrap()
}

fn value(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ seed) as u8).collect()
}

#[test]
fn values_go_between_devices_and_back_many_at_once() {
    let target = Target::start();
    let seed = 0x6b76_6f66;
    println!("seed {seed:#x}");
    let device = SimulatedDevice::lively(seed, Duration::from_micros(200));
    block_on(async {
        let controller = Controller::connect(&target.address(), SUBNQN, &options()).await.unwrap();
        let kv = controller.kv(KV_NSID).await.unwrap();
        let lens: Vec<usize> = [1, 100, 4096, 4097, 50_000, 100_000].into_iter().cycle().take(60).collect();
        let region = device.region(100_000 * lens.len());
        join_all(lens.iter().enumerate().map(|(n, len)| {
            let (kv, region) = (&kv, &region);
            async move {
                let sent = value(*len, n);
                let mut buffer = region.buffer(n * 100_000, *len).unwrap();
                buffer.copy_from_host(0, &sent).unwrap();
                let (result, mut buffer) = kv.store(key(n), buffer, StoreOptions::empty()).await;
                result.unwrap();
                assert_eq!(kv.retrieve_vec(key(n)).await.unwrap(), sent, "value {n} as the host reads it");
                buffer.copy_from_host(0, &vec![0; *len]).unwrap();
                let (found, buffer) = kv.retrieve(key(n), buffer).await;
                assert_eq!(found.unwrap().filled as usize, *len);
                // The answer is there, so are the bytes.
                let mut back = vec![0; *len];
                buffer.copy_to_host(0, &mut back).unwrap();
                assert_eq!(back, sent, "value {n} as the device has it");
            }
        }))
        .await;
        controller.disconnect().await;
    });
    assert_eq!(device.running(), 0);
}

#[test]
fn a_lost_connection_gives_device_memory_back_when_it_is_at_rest() {
    let target = Target::start();
    // Nothing ends a copy before the test does.
    let device = SimulatedDevice::new();
    block_on(async {
        let controller = Controller::connect(&target.address(), SUBNQN, &options()).await.unwrap();
        let kv = controller.kv(KV_NSID).await.unwrap();
        let sent = value(100_000, 1);
        kv.store(key(1), sent.clone(), StoreOptions::empty()).await.0.unwrap();
        let buffer: Buffer = device.region(100_000).buffer(0, 100_000).unwrap();
        let finisher = device.clone();
        let handle = controller.clone();
        let ender = std::thread::spawn(move || {
            while finisher.running() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            block_on(handle.disconnect());
            std::thread::sleep(Duration::from_millis(30));
            while finisher.finish(0) {}
        });
        let (result, buffer) = kv.retrieve(key(1), buffer).await;
        assert_eq!(device.running(), 0, "the buffer came back while a copy into it ran");
        let mut back = vec![0; 100_000];
        buffer.copy_to_host(0, &mut back).unwrap();
        match result {
            // The controller had answered already, and the answer waited for the copy.
            Ok(found) => assert_eq!((found.filled, back), (100_000, sent)),
            Err(_) => assert!(back.iter().zip(&sent).all(|(b, s)| *b == 0 || b == s), "bytes out of place"),
        }
        ender.join().unwrap();
    });
}

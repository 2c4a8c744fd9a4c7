//! Values from and in the memory of a GPU: on a machine with one, on that; and on every machine on a simulated driver.

mod common;
#[path = "../memory/tests/driver/mod.rs"]
mod driver;

use common::{KV_NSID, SUBNQN, Target, options};
use driver::{SimulatedDriver, gpus};
use futures_util::future::join_all;
use kvof_initiator::blocking::block_on;
use kvof_initiator::memory::cuda::CudaRegion;
use kvof_initiator::{Controller, Key, MemoryKind, StoreOptions};

fn key(n: usize) -> Key {
    Key::new(format!("key-{n}").as_bytes()).unwrap()
}

fn value(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ seed) as u8).collect()
}

#[test]
fn values_go_from_the_gpu_and_into_it() {
    for gpu in gpus() {
        let target = Target::start();
        let region = CudaRegion::alloc(gpu.device, 60 * 100_000).unwrap();
        block_on(async {
            let controller = Controller::connect(&target.address(), SUBNQN, &options()).await.unwrap();
            let kv = controller.kv(KV_NSID).await.unwrap();
            let lens: Vec<usize> = [1, 100, 4096, 4097, 50_000, 100_000].into_iter().cycle().take(60).collect();
            join_all(lens.iter().enumerate().map(|(n, len)| {
                let (kv, region) = (&kv, &region);
                async move {
                    let sent = value(*len, n);
                    let mut buffer = region.buffer(n * 100_000, *len).unwrap();
                    assert_eq!(buffer.kind(), MemoryKind::Cuda { device: gpu.device });
                    buffer.copy_from_host(0, &sent).unwrap();
                    let (result, mut buffer) = kv.store(key(n), buffer, StoreOptions::empty()).await;
                    result.unwrap();
                    assert_eq!(kv.retrieve_vec(key(n)).await.unwrap(), sent, "value {n} as the host reads it");
                    buffer.copy_from_host(0, &vec![0; *len]).unwrap();
                    let (found, buffer) = kv.retrieve(key(n), buffer).await;
                    assert_eq!(found.unwrap().filled as usize, *len);
                    let mut back = vec![0; *len];
                    buffer.copy_to_host(0, &mut back).unwrap();
                    assert_eq!(back, sent, "value {n} as the GPU has it");
                }
            }))
            .await;
            controller.disconnect().await;
        });
        assert_eq!(region.buffers_out(), 0);
    }
}

#[test]
fn on_a_simulated_driver() {
    let output = SimulatedDriver::build().run(&[], &[]);
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("skipped:"), "nothing may be skipped with a driver");
}

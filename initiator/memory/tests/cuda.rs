//! GPU memory: on a machine with one, on that; and on every machine on a simulated driver, which
//! `on_a_simulated_driver` compiles and runs all of this with.

mod driver;

use std::time::{Duration, Instant};

use driver::{SimulatedDriver, gpus};
use kvof_memory::cuda::{self, CudaError, CudaRegion};
use kvof_memory::staging::{Direction, Stager, StagingLimits, TransferId};
use kvof_memory::{Buffer, CopyError, MemoryKind, MemoryRegion, RegionError};

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 7) as u8).collect()
}

fn content(buffer: &Buffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    buffer.copy_to_host(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn gpus_are_described() {
    for (n, gpu) in gpus().iter().enumerate() {
        println!("{gpu:?}");
        assert_eq!(gpu.device as usize, n);
        assert!(!gpu.name.is_empty() && gpu.memory > 0 && gpu.compute.0 > 0 && gpu.pci.contains(':'));
    }
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let gpus = gpus();
    match CudaRegion::alloc(99, 4096) {
        Err(RegionError::Cuda(CudaError::UnknownDevice { device: 99, count })) => {
            assert_eq!(count as usize, gpus.len());
        }
        Err(RegionError::Cuda(error)) => assert!(gpus.is_empty(), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn memory_of_a_gpu_is_handed_out_in_parts() {
    for gpu in gpus() {
        let region = CudaRegion::alloc(gpu.device, 100_000).unwrap();
        let mut a = region.buffer(0, 50_000).unwrap();
        let mut b = region.buffer(50_000, 50_000).unwrap();
        assert!(matches!(region.buffer(49_999, 1), Err(RegionError::Overlap { .. })));
        assert!(matches!(region.buffer(100_000, 1), Err(RegionError::OutOfBounds { .. })));
        assert_eq!((a.kind(), a.is_device(), a.host()), (MemoryKind::Cuda { device: gpu.device }, true, None));
        assert_eq!(content(&a), vec![0; 50_000]);
        a.copy_from_host(0, &pattern(50_000, 1)).unwrap();
        b.copy_from_host(100, &pattern(100, 2)).unwrap();
        assert_eq!(content(&a), pattern(50_000, 1));
        assert_eq!(content(&b)[100..200], pattern(100, 2));
        assert!(matches!(a.copy_from_host(49_999, &[1, 2]), Err(CopyError::OutOfBounds { .. })));
        b.flush_rdma_writes().unwrap();
        assert_eq!(region.buffers_out(), 2);
        drop(region);
        drop(a);
        assert_eq!(b.into_vec().unwrap()[100..200], pattern(100, 2));
    }
}

#[test]
fn bytes_of_a_gpu_are_no_slice() {
    for gpu in gpus() {
        let buffer = CudaRegion::alloc(gpu.device, 4096).unwrap().buffer(0, 10).unwrap();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| buffer.first().copied())).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        let expected = format!("cuda:{} memory, which the CPU cannot address", gpu.device);
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn memory_that_an_engine_has_is_used_where_it_is() {
    for gpu in gpus() {
        let own = CudaRegion::alloc(gpu.device, 1 << 20).unwrap();
        let mut tensor = own.buffer(0, 1 << 20).unwrap();
        tensor.copy_from_host(0, &pattern(1 << 20, 3)).unwrap();
        // SAFETY: the memory is kept by `own`, which goes along, and nobody uses `tensor` meanwhile.
        let foreign = unsafe { CudaRegion::from_device_ptr(gpu.device, own.address() + 1000, 5000, own.clone()) };
        let mut part = foreign.unwrap().buffer(0, 5000).unwrap();
        assert_eq!(content(&part), pattern(1 << 20, 3)[1000..6000]);
        part.copy_from_host(0, &[9; 5000]).unwrap();
        drop(part);
        assert_eq!(content(&tensor)[999..1002], [pattern(1 << 20, 3)[999], 9, 9]);

        let host = MemoryRegion::new(4096).unwrap().buffer(0, 4096).unwrap();
        let wrong = [
            (host.as_ptr() as u64, 10, "host memory"),
            (0x10, 10, "nothing at all"),
            (own.address(), 1 << 44, "more than any GPU has"),
            (u64::MAX - 3, 10, "beyond all addresses"),
        ];
        for (address, len, what) in wrong {
            // SAFETY: refused before anything is done with it.
            match unsafe { CudaRegion::from_device_ptr(gpu.device, address, len, ()) } {
                Err(RegionError::Cuda(CudaError::NotDeviceMemory { .. })) => {}
                other => panic!("{what} was taken for GPU memory: {other:?}"),
            }
        }
        // SAFETY: as above.
        assert!(matches!(unsafe { CudaRegion::from_device_ptr(0, 1, 0, ()) }, Err(RegionError::Empty)));
    }
}

/// Waits for a copy as a connection's thread does.
fn wait(stager: &mut Stager, deadline: Instant) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    assert!(Instant::now() < deadline, "stuck: {stager:?}");
    if stager.is_copying() {
        let time = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        poll(&mut [PollFd::from_borrowed_fd(stager.fd().unwrap(), PollFlags::IN)], Some(&time)).unwrap();
        stager.poll();
    }
}

fn end(stager: &mut Stager, id: TransferId, deadline: Instant) -> Result<(), CopyError> {
    loop {
        match stager.end(id) {
            Some(result) => return result,
            None => wait(stager, deadline),
        }
    }
}

#[test]
fn values_are_staged_out_and_in() {
    let deadline = Instant::now() + Duration::from_secs(120);
    for gpu in gpus() {
        for (len, limits) in [
            (1, StagingLimits::default()),
            (10_000, StagingLimits { piece_len: 1000, pieces: 2 }),
            (8 << 20, StagingLimits::default()),
            ((1 << 20) + 12_345, StagingLimits { piece_len: 64 << 10, pieces: 3 }),
        ] {
            let region = CudaRegion::alloc(gpu.device, 2 * len).unwrap();
            let mut from = region.buffer(0, len).unwrap();
            let to = region.buffer(len, len).unwrap();
            let value = pattern(len, len as u64);
            from.copy_from_host(0, &value).unwrap();
            let mut stager = Stager::new(limits);
            let out = stager.open(from.device_range().unwrap(), Direction::ToHost).unwrap();
            let back = stager.open(to.device_range().unwrap(), Direction::ToDevice).unwrap();
            stager.want(out, 0, len);
            let mut at = 0;
            while at < len {
                let Some(ready) = stager.next(usize::MAX).unwrap() else {
                    wait(&mut stager, deadline);
                    continue;
                };
                let bytes = stager.bytes(ready.slot, ready.at, ready.len).unwrap().to_vec();
                assert!(bytes == value[at..at + ready.len]);
                stager.sent(ready.slot, ready.len);
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    match stager.place(back, at, rest.len()) {
                        None => wait(&mut stager, deadline),
                        Some(place) => {
                            let n = place.len();
                            place.copy_from_slice(&rest[..n]);
                            stager.advance(n);
                            rest = &rest[n..];
                            at += n;
                        }
                    }
                }
            }
            stager.flush(back);
            end(&mut stager, out, deadline).unwrap();
            end(&mut stager, back, deadline).unwrap();
            assert!(content(&to) == value, "{len} bytes came back different");
        }
    }
}

#[test]
fn a_region_may_go_while_it_is_copied() {
    for gpu in gpus() {
        let region = CudaRegion::alloc(gpu.device, 4 << 20).unwrap();
        let buffer = region.buffer(0, 4 << 20).unwrap();
        let mut stager = Stager::new(StagingLimits::default());
        let id = stager.open(buffer.device_range().unwrap(), Direction::ToHost).unwrap();
        stager.want(id, 0, 4 << 20);
        // The driver would free memory that copies read, and the simulated one dies of it.
        drop((region, buffer));
        drop(stager);
    }
}

#[test]
fn on_a_simulated_driver() {
    let driver = SimulatedDriver::build();
    let with = |environment: &[(&str, &str)], tests: &[&str]| driver.run(environment, tests).status.success();
    let all = driver.run(&[], &["--skip", "a_lost_context", "--skip", "what_is_missing"]);
    assert!(all.status.success());
    assert!(!String::from_utf8_lossy(&all.stdout).contains("skipped:"), "nothing may be skipped with a driver");
    assert!(with(&[("SIMULATED_CUDA_FAIL_COPY", "2")], &["a_lost_context"]));
    for (name, value, expected) in [
        ("SIMULATED_CUDA_DEVICES", "0", "nvidia-smi"),
        ("SIMULATED_CUDA_VERSION", "11030", "it is 11.3, and 11.4 or newer"),
        ("SIMULATED_CUDA_INIT", "100", "nvidia-smi"),
        ("SIMULATED_CUDA_INIT", "34", "CUDA_ERROR_STUB_LIBRARY (34); the CUDA toolkit's stub"),
        ("SIMULATED_CUDA_INIT", "12345", "cuInit: unknown error (12345)"),
    ] {
        assert!(with(&[(name, value), ("EXPECTED", expected)], &["what_is_missing"]), "{name}={value}");
    }
}

#[test]
#[ignore = "for `on_a_simulated_driver`, which sets what is wrong"]
fn what_is_missing_is_said() {
    let error = cuda::available().unwrap_err().to_string();
    let expected = std::env::var("EXPECTED").unwrap();
    assert!(error.contains(&expected), "{error}");
}

#[test]
#[ignore = "for `on_a_simulated_driver`, which breaks a copy"]
fn a_lost_context_is_an_error_of_every_copy_and_hangs_nothing() {
    let deadline = Instant::now() + Duration::from_secs(60);
    let region = CudaRegion::alloc(0, 1 << 20).unwrap();
    let buffer = region.buffer(0, 1 << 20).unwrap();
    let mut stager = Stager::new(StagingLimits { piece_len: 1000, pieces: 4 });
    let id = stager.open(buffer.device_range().unwrap(), Direction::ToHost).unwrap();
    stager.want(id, 0, 1 << 20);
    let error = loop {
        match stager.next(usize::MAX) {
            Ok(Some(ready)) => stager.sent(ready.slot, ready.len),
            Ok(None) => wait(&mut stager, deadline),
            Err((of, error)) => {
                assert_eq!(of, id);
                break error;
            }
        }
    };
    assert!(error.to_string().contains("the device is lost to the process"), "{error}");
    stager.close(id);
    assert!(end(&mut stager, id, deadline).is_err());
    assert!(buffer.copy_to_host(0, &mut [0; 10]).is_err());
    // Memory of a lost context cannot be freed; that is told and no more.
    drop((region, buffer, stager));
}

//! Block storages against a plain array.

use kvof_spec::Status;
use proptest::prelude::*;

use super::rig::{Rig, Rng, file, nvm_namespace, read_bytes, scratch};
use crate::{
    backend::{ByteRange, IoError, IoOutcome, IoRequest, NvmRequest},
    model::StorageDef,
};

const BLOCKS: u64 = 64;

fn write(rig: &Rig, offset: u64, bytes: &[u8], fua: bool) -> IoRequest {
    let mut data = rig.pool.alloc(bytes.len()).unwrap();
    data.copy_from_slice(bytes);
    IoRequest::Nvm(NvmRequest::Write { offset, data, fua })
}

fn compare(rig: &Rig, offset: u64, bytes: &[u8]) -> IoRequest {
    let mut data = rig.pool.alloc(bytes.len()).unwrap();
    data.copy_from_slice(bytes);
    IoRequest::Nvm(NvmRequest::Compare { offset, data })
}

fn read(offset: u64, len: usize) -> IoRequest {
    IoRequest::Nvm(NvmRequest::Read { offset, len: len as u32 })
}

/// Random commands, one after another; the array in the end.
fn same_as_array(rig: &mut Rig, block: u64, seed: u64) -> Result<Vec<u8>, TestCaseError> {
    let mut array = vec![0u8; (BLOCKS * block) as usize];
    let mut rng = Rng(seed);
    for _ in 0..150 {
        let first = rng.below(BLOCKS as usize) as u64;
        let count = 1 + rng.below((BLOCKS - first) as usize) as u64;
        let (offset, len) = (first * block, (count * block) as usize);
        let range = offset as usize..offset as usize + len;
        let core = rng.below(rig.cores.len());
        match rng.below(7) {
            0 | 1 => {
                let bytes = rng.bytes(len);
                let request = write(rig, offset, &bytes, rng.chance(3));
                prop_assert!(matches!(rig.run(core, request), Ok(IoOutcome::Nvm)));
                array[range].copy_from_slice(&bytes);
            }
            2 => {
                let zeros =
                    NvmRequest::WriteZeroes { offset, len: len as u64, deallocate: rng.chance(2), fua: rng.chance(2) };
                prop_assert!(matches!(rig.run(core, IoRequest::Nvm(zeros)), Ok(IoOutcome::Nvm)));
                array[range].fill(0);
            }
            3 => {
                let mut bytes = array[range].to_vec();
                let differs = rng.chance(2);
                if differs {
                    let at = rng.below(len);
                    bytes[at] ^= 1;
                }
                let result = rig.run(core, compare(rig, offset, &bytes));
                let expected = if differs { Err(IoError::Nvm(Status::COMPARE_FAILURE)) } else { Ok(()) };
                prop_assert_eq!(result.map(|_| ()), expected);
            }
            4 => prop_assert!(rig.run(core, IoRequest::Nvm(NvmRequest::Flush)).is_ok()),
            _ => prop_assert!(read_bytes(rig.run(core, read(offset, len))) == array[range]),
        }
    }
    prop_assert!(read_bytes(rig.run(0, read(0, array.len()))) == array);
    Ok(array)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_as_an_array(cores in 1usize..5, seed: u64, small: bool) {
        let block = if small { 512 } else { 4096 };
        let ns = nvm_namespace(block, BLOCKS * u64::from(block), StorageDef::Memory);
        same_as_array(&mut Rig::new(ns, cores, seed).unwrap(), u64::from(block), seed)?;
    }

    #[test]
    fn file_is_as_an_array_and_keeps_what_was_flushed(cores in 1usize..5, seed: u64, small: bool) {
        let block = if small { 512 } else { 4096 };
        let dir = scratch();
        let ns = nvm_namespace(block, BLOCKS * u64::from(block), file(&dir.path().join("disk")));
        let mut rig = Rig::new(ns, cores, seed).unwrap();
        let mut array = same_as_array(&mut rig, u64::from(block), seed)?;
        prop_assert!(rig.disk.image == array);
        rig.run(0, IoRequest::Nvm(NvmRequest::Flush)).unwrap();
        prop_assert!(rig.disk.crash(&mut Rng(seed)) == array);
        let piece = vec![0x5a; 2 * block as usize];
        rig.run(cores - 1, write(&rig, u64::from(block), &piece, true)).unwrap();
        array[block as usize..3 * block as usize].copy_from_slice(&piece);
        prop_assert!(rig.disk.crash(&mut Rng(seed)) == array, "FUA is durable by itself");
    }
}

#[test]
fn zeros_beyond_one_write_are_complete_and_bounded() {
    let dir = scratch();
    let size = 8 << 20;
    let ns = nvm_namespace(4096, size, file(&dir.path().join("disk")));
    let mut rig = Rig::new(ns, 1, 5).unwrap();
    for i in 0..8 {
        rig.run(0, write(&rig, i << 20, &[0xee; 1 << 20], false)).unwrap();
    }
    let request = NvmRequest::WriteZeroes { offset: 4096, len: size - 8192, deallocate: false, fua: true };
    rig.run(0, IoRequest::Nvm(request)).unwrap();
    let image = rig.disk.crash(&mut Rng(1));
    let middle = 4096..size as usize - 4096;
    assert!(image[middle.clone()].iter().all(|byte| *byte == 0));
    assert!(image[..4096].iter().chain(&image[middle.end..]).all(|byte| *byte == 0xee));
}

#[test]
fn compares_need_no_memory_beside_their_own() {
    let dir = scratch();
    let ns = nvm_namespace(4096, 1 << 20, file(&dir.path().join("disk")));
    let mut rig = Rig::new(ns, 1, 5).unwrap();
    let bytes = Rng(8).bytes(1 << 20);
    rig.run(0, write(&rig, 0, &bytes, false)).unwrap();
    let mut requests = vec![compare(&rig, 0, &bytes)];
    for at in [0, 100_000, (256 << 10) - 1] {
        let mut other = bytes[4096..4096 + (256 << 10)].to_vec();
        other[at] ^= 1;
        requests.push(compare(&rig, 4096, &other));
    }
    requests.push(compare(&rig, (1 << 20) - 512, &bytes[(1 << 20) - 512..]));
    // Nothing is left in the pool.
    let hogs: Vec<_> = std::iter::from_fn(|| rig.pool.alloc(4096)).collect();
    assert!(!hogs.is_empty());
    let ops: Vec<u64> = requests.into_iter().map(|request| rig.submit(0, request).unwrap()).collect();
    rig.settle();
    let results: Vec<bool> = ops.iter().map(|op| rig.done.remove(op).unwrap().is_ok()).collect();
    assert_eq!(results, [true, false, false, false, true]);
}

#[test]
fn ranges_outside_are_refused_by_every_storage() {
    let dir = scratch();
    for storage in [StorageDef::Memory, file(&dir.path().join("disk"))] {
        let mut rig = Rig::new(nvm_namespace(512, 4096, storage), 1, 5).unwrap();
        for (offset, len) in [(4096, 512), (3584, 1024), (u64::MAX - 511, 512)] {
            let bytes = vec![0; len];
            let requests = [
                read(offset, len),
                write(&rig, offset, &bytes, false),
                compare(&rig, offset, &bytes),
                IoRequest::Nvm(NvmRequest::WriteZeroes { offset, len: len as u64, deallocate: false, fua: false }),
            ];
            for request in requests {
                assert_eq!(rig.run(0, request).unwrap_err(), IoError::Nvm(Status::LBA_OUT_OF_RANGE));
            }
        }
        let inside = NvmRequest::Deallocate { ranges: vec![ByteRange { offset: 0, len: 4096 }] };
        assert!(rig.run(0, IoRequest::Nvm(inside)).is_ok());
        let refused = NvmRequest::Refused { status: Status::LBA_OUT_OF_RANGE };
        assert_eq!(rig.run(0, IoRequest::Nvm(refused)).unwrap_err(), IoError::Nvm(Status::LBA_OUT_OF_RANGE));
    }
}

#[test]
fn failures_of_the_disk_are_statuses() {
    let dir = scratch();
    let mut rig = Rig::new(nvm_namespace(512, 65536, file(&dir.path().join("disk"))), 1, 5).unwrap();
    rig.disk.faults = 1;
    let zeros = NvmRequest::WriteZeroes { offset: 0, len: 65536, deallocate: false, fua: false };
    for (request, status) in [
        (read(0, 512), Status::UNRECOVERED_READ_ERROR),
        (compare(&rig, 0, &[0; 512]), Status::UNRECOVERED_READ_ERROR),
        (write(&rig, 0, &[1; 512], false), Status::WRITE_FAULT),
        (write(&rig, 0, &[1; 512], true), Status::WRITE_FAULT),
        (IoRequest::Nvm(zeros), Status::WRITE_FAULT),
        (IoRequest::Nvm(NvmRequest::Flush), Status::WRITE_FAULT),
    ] {
        assert_eq!(rig.run(0, request).unwrap_err(), IoError::Nvm(status));
    }
    rig.disk.faults = 0;
    rig.disk.image.truncate(1024);
    assert_eq!(rig.run(0, read(512, 1024)).unwrap_err(), IoError::Nvm(Status::UNRECOVERED_READ_ERROR));
    assert!(rig.run(0, read(512, 512)).is_ok());
}

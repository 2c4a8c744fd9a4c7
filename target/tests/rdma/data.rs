//! Values and blocks of every size, by every way that a host can name its memory.

use kvof_rdma::RemoteAccess;
use kvof_spec::{IntoBytes, NvmOpcode, SglDescriptor, Sqe, Status};

use super::{
    host::{Host, keyed, retrieve, store, value},
    rig::BLOCKS,
    start,
};

#[test]
fn values_of_every_size() {
    for cores in [1, 2] {
        let Some(rig) = start(cores, |_, _| {}) else { return };
        let (_admin, mut io) = Host::pair(&rig);
        for (seed, len) in [(1, 1), (2, 511), (3, 4096), (4, 100_001), (5, (1 << 20) + 3), (6, 2 << 20)] {
            let stored = value(seed, len);
            assert_eq!(io.store("v", &stored), Status::SUCCESS, "{len}");
            let (cqe, found) = io.retrieve("v", len);
            assert_eq!((cqe.status(), cqe.dw0.get()), (Status::SUCCESS, len as u32));
            assert!(found == stored, "{len} bytes");
            // A buffer that is longer keeps its end, and one that is shorter gets what fits.
            let longer = (len + 1000).min(2 << 20);
            let (cqe, found) = io.retrieve("v", longer);
            assert_eq!((cqe.status(), cqe.dw0.get()), (Status::SUCCESS, len as u32));
            assert!(found[..len] == stored && found[len..].iter().all(|&byte| byte == 0));
            let (cqe, found) = io.retrieve("v", len.div_ceil(2));
            assert_eq!(cqe.dw0.get(), len as u32);
            assert!(found == stored[..len.div_ceil(2)]);
        }
    }
}

#[test]
fn data_in_the_capsule() {
    let Some(rig) = start(1, |_, config| config.settings.in_capsule = 4096) else { return };
    let (_admin, mut io) = Host::pair(&rig);
    for (offset, len) in [(0, 4096), (0, 1), (96, 4000), (4095, 1)] {
        let bytes = value(9, 4096);
        let sgl = SglDescriptor::in_capsule(offset as u64, len as u32);
        let cid = io.capsule(store("c", len), sgl, &bytes);
        assert_eq!(io.completion(cid).status(), Status::SUCCESS);
        assert!(io.retrieve("c", len).1 == bytes[offset..offset + len]);
    }
}

#[test]
fn data_in_several_places() {
    let Some(rig) = start(1, |_, _| {}) else { return };
    let (_admin, mut io) = Host::pair(&rig);
    let stored = value(3, 300_000);
    let memory = io.expose(1, &stored, RemoteAccess::Read);
    // Its last third first.
    let cuts = [(200_000, 100_000), (0, 7), (7, 0), (7, 99_993), (100_000, 100_000)];
    let list: Vec<SglDescriptor> = cuts.iter().map(|&(at, len)| keyed(&memory, at, len, false)).collect();
    let sgl = SglDescriptor::last_segment_offset(0, 16 * list.len() as u32);
    let cid = io.capsule(store("s", 300_000), sgl, list.as_bytes());
    assert_eq!(io.completion(cid).status(), Status::SUCCESS);
    io.conceal(1);
    let turned: Vec<u8> = [&stored[200_000..], &stored[..200_000]].concat();
    assert!(io.retrieve("s", 300_000).1 == turned);

    let memory = io.expose(2, &[0; 300_000], RemoteAccess::Write);
    let list: Vec<SglDescriptor> = cuts.iter().map(|&(at, len)| keyed(&memory, at, len, false)).collect();
    let cid = io.capsule(retrieve("s", 300_000), sgl, list.as_bytes());
    assert_eq!(io.completion(cid).status(), Status::SUCCESS);
    assert!(io.conceal(2).as_slice()[..300_000] == stored);
}

#[test]
fn blocks_under_many_commands_at_once() {
    let Some(rig) = start(2, |_, _| {}) else { return };
    let (_admin, mut io) = Host::pair(&rig);
    let command = |opcode: NvmOpcode, block: u32, blocks: u32| {
        let mut sqe = Sqe::new(opcode);
        sqe.nsid = BLOCKS.into();
        (sqe.cdw10, sqe.cdw12) = (block.into(), (blocks - 1).into());
        sqe
    };
    let written: Vec<Vec<u8>> = (0..24).map(|n| value(n, 64 * 512)).collect();
    let send = |io: &mut Host, opcode, access, n: usize| {
        let memory = io.expose(n as u64, &written[n], access);
        io.capsule(command(opcode, 64 * n as u32, 64), keyed(&memory, 0, 64 * 512, memory.invalidatable), &[])
    };
    let cids: Vec<u16> = (0..24).map(|n| send(&mut io, NvmOpcode::WRITE, RemoteAccess::Read, n)).collect();
    for (n, cid) in cids.into_iter().enumerate() {
        assert_eq!(io.completion(cid).status(), Status::SUCCESS);
        io.conceal(n as u64);
    }
    let cids: Vec<u16> = (0..24)
        .map(|n| {
            let memory = io.expose(n as u64, &[0; 64 * 512], RemoteAccess::Write);
            let sgl = keyed(&memory, 0, 64 * 512, memory.invalidatable);
            io.capsule(command(NvmOpcode::READ, 64 * n as u32, 64), sgl, &[])
        })
        .collect();
    for (n, cid) in cids.into_iter().enumerate() {
        assert_eq!(io.completion(cid).status(), Status::SUCCESS);
        assert!(io.conceal(n as u64).as_slice()[..64 * 512] == written[n], "blocks of command {n}");
    }
}

//! Data on its way: many segments, long values, and memory that runs out.

use kvof_kv::KvCommand;
use kvof_spec::{IntoBytes, NvmOpcode, SglDescriptor, Sqe, Status, sgl::KEYED_LENGTH_MAX};

use super::{
    super::Action,
    rig::{BLOCKS, KV, Options, Rig, bytes_of, key, list, pattern, retrieve, store},
};

#[test]
fn values_come_back_as_they_went() {
    let mut rig = Rig::connected(Options::default());
    for len in [1, 2, 511, 512, 4096, 4097, 65536, 1 << 20, 2 << 20] {
        let value = pattern(len as u8, len);
        assert_eq!(rig.store(1, &key("k"), &value).ok().written, 0);
        // A longer buffer: what is behind the value stays as it was.
        let (done, bytes) = rig.retrieve(1, &key("k"), len as u32 + 10);
        assert_eq!((done.ok().written, done.cqe.dw0.get()), (len, len as u32));
        assert!(bytes[..len] == value && bytes[len..] == [0; 10]);
        // A shorter one gets the beginning.
        let (done, bytes) = rig.retrieve(1, &key("k"), 1);
        assert_eq!((done.ok().written, done.cqe.dw0.get(), &bytes[..]), (1, len as u32, &value[..1]));
    }
    rig.finish();
}

#[test]
fn values_out_of_many_segments() {
    let mut rig = Rig::connected(Options::default());
    for (round, count) in [1_usize, 2, 3, 8, 15, 16].into_iter().enumerate() {
        let lens: Vec<u32> = (0..count as u32).map(|i| if i == 1 { 0 } else { 1 + i * 777 }).collect();
        let total: u32 = lens.iter().sum();
        let value = pattern(round as u8, total as usize);
        let mut at = 0;
        let from: Vec<_> = lens
            .iter()
            .map(|&len| {
                at += len as usize;
                rig.links[1].memory.register(value[at - len as usize..at].to_vec()).sgl()
            })
            .collect();
        let offset = 5 * round;
        let behind = [&vec![0xee; offset][..], &list(&from), &[0xdd; 20]].concat();
        let last = SglDescriptor::last_segment_offset(offset as u64, 16 * count as u32);
        rig.execute(1, store(&key("k"), total), last, &behind).ok();
        let into: Vec<_> = lens.iter().rev().map(|&len| rig.links[1].memory.zeros(len)).collect();
        let behind = list(&into.iter().map(|mr| mr.sgl()).collect::<Vec<_>>());
        let last = SglDescriptor::last_segment_offset(0, 16 * count as u32);
        let done = rig.execute(1, retrieve(&key("k"), total), last, &behind);
        assert_eq!((done.ok().written, done.invalidated), (total as usize, None));
        let got: Vec<u8> = into.iter().flat_map(|&mr| rig.links[1].memory.bytes(mr).to_vec()).collect();
        assert_eq!(got, value, "{count}");
    }
    rig.finish();
}

#[test]
fn only_the_bytes_that_are_needed_are_touched() {
    let mut rig = Rig::connected(Options::default());
    rig.links[1].hold.0 = true;
    let mr = rig.links[1].memory.register(pattern(1, 1000));
    let behind = list(&[mr.part(0, 100).sgl(), mr.part(200, 100).sgl(), mr.part(400, 100).sgl()]);
    let last = SglDescriptor::last_segment_offset(0, 48);
    for (len, expected) in [(1, vec![1]), (100, vec![100]), (101, vec![100, 1]), (250, vec![100, 100, 50])] {
        let cid = rig.send(1, store(&key("k"), len), last, &behind);
        let Some(Action::Fetch { segments, landing, .. }) = rig.links[1].held.front() else { panic!() };
        assert_eq!(segments.iter().map(|s| s.len).collect::<Vec<_>>(), expected);
        assert_eq!(landing.as_slice().len(), len as usize);
        rig.flush(1);
        rig.take_done(1, cid).unwrap().ok();
    }
    let all = pattern(1, 1000);
    let value = [&all[..100], &all[200..300], &all[400..450]].concat();
    assert_eq!(rig.retrieve(1, &key("k"), 250).1, value);
    // On the way back as well.
    let to = rig.links[1].memory.register(vec![0xaa; 1000]);
    let behind = list(&[to.part(0, 100).sgl(), to.part(200, 700).sgl(), to.part(950, 50).sgl()]);
    rig.execute(1, retrieve(&key("k"), 850), last, &behind).ok();
    let bytes = rig.links[1].memory.bytes(to);
    assert_eq!([&bytes[..100], &bytes[200..350]].concat(), value);
    assert!(bytes[100..200].iter().chain(&bytes[350..]).all(|&b| b == 0xaa));
    rig.finish();
}

#[test]
fn a_long_value_takes_several_descriptors_of_24_bits() {
    const LEN: u32 = 40 << 20;
    let mut rig = Rig::connected(Options { pool: 256 << 20, kvvml: LEN, ..Options::default() });
    let value = pattern(5, LEN as usize);
    let from = rig.links[1].memory.register(value.clone());
    let parts = |mr: super::rig::Mr| {
        let first = mr.part(0, KEYED_LENGTH_MAX).sgl();
        let second = mr.part(KEYED_LENGTH_MAX, KEYED_LENGTH_MAX).sgl();
        let third = mr.part(2 * KEYED_LENGTH_MAX, LEN - 2 * KEYED_LENGTH_MAX).sgl();
        list(&[first, second, third])
    };
    let last = SglDescriptor::last_segment_offset(0, 48);
    rig.execute(1, store(&key("k"), LEN), last, &parts(from)).ok();
    let to = rig.links[1].memory.zeros(LEN);
    let done = rig.execute(1, retrieve(&key("k"), LEN), last, &parts(to));
    assert_eq!(done.ok().written, LEN as usize);
    assert!(rig.links[1].memory.bytes(to) == value);
    rig.finish();
}

#[test]
fn completions_wait_for_their_data() {
    let mut rig = Rig::connected(Options::default());
    rig.store(1, &key("k"), &pattern(1, 9000)).ok();
    rig.links[1].hold.1 = true;
    let mr = rig.links[1].memory.zeros(9000);
    let cid = rig.send(1, retrieve(&key("k"), 9000), mr.sgl(), &[]);
    let Some(Action::Respond { data: Some((data, segments)), cqe, .. }) = rig.links[1].held.pop_front() else {
        panic!()
    };
    assert_eq!(bytes_of(&data), pattern(1, 9000));
    drop(data);
    assert_eq!((segments[0].address, segments[0].key, segments[0].len), (mr.address, mr.key, mr.len));
    assert_eq!(cqe.cid.get(), cid);
    assert!(rig.links[1].held.is_empty(), "one action: the data, then the completion");
    assert!(!rig.links[1].conn.is_idle());
    rig.links[1].conn.handle_sent(rig.now, 0);
    assert!(rig.links[1].conn.is_idle());
    rig.finish();
}

#[test]
fn commands_wait_in_line_while_the_pool_is_dry() {
    let mut rig = Rig::connected(Options { pool: 16 << 20, ..Options::default() });
    let mut taken = Vec::new();
    while let Some(buf) = rig.pool.alloc(1 << 20) {
        taken.push(buf);
    }
    while let Some(buf) = rig.pool.alloc(4096) {
        taken.push(buf);
    }
    rig.links[1].hold.0 = true;
    let values: Vec<Vec<u8>> = (0..30).map(|i| pattern(i, 100_000)).collect();
    let mut cids = Vec::new();
    for (i, value) in values.iter().enumerate() {
        let sgl = rig.links[1].memory.register(value.clone()).sgl();
        cids.push(rig.send(1, store(&key(&format!("k{i}")), 100_000), sgl, &[]));
    }
    // What came with its capsule waits too, behind them.
    let small = rig.send(1, store(&key("small"), 3), SglDescriptor::in_capsule(1, 3), b"-abc-");
    assert!(rig.links[1].conn.is_starved());
    assert!(rig.links[1].held.is_empty(), "data is left with the host");
    // Commands that need no memory overtake.
    rig.execute(1, KvCommand::exist(KV, &key("k0")).to_sqe(SglDescriptor::default()), SglDescriptor::default(), &[])
        .refused(Status::KEY_DOES_NOT_EXIST);
    drop(taken.pop());
    drop(taken.drain(..1));
    rig.settle();
    assert!(!rig.links[1].held.is_empty(), "memory came back");
    assert!(rig.links[1].conn.is_starved());
    drop(taken);
    rig.settle();
    assert!(!rig.links[1].conn.is_starved());
    assert_eq!(rig.links[1].held.len(), 30);
    rig.take_done(1, small).unwrap().ok();
    rig.flush(1);
    for cid in cids {
        rig.take_done(1, cid).unwrap().ok();
    }
    rig.links[1].hold.0 = false;
    for (i, value) in values.iter().enumerate() {
        assert_eq!(rig.retrieve(1, &key(&format!("k{i}")), 100_000).1, *value);
    }
    assert_eq!(rig.retrieve(1, &key("small"), 3).1, b"abc");
    rig.finish();
}

#[test]
fn blocks_too() {
    let mut rig = Rig::connected(Options::default());
    let io = |opcode: NvmOpcode, slba: u32, blocks: u32| {
        let mut sqe = Sqe::new(opcode);
        (sqe.nsid, sqe.cdw10, sqe.cdw12) = (BLOCKS.into(), slba.into(), (blocks - 1).into());
        sqe
    };
    let data = pattern(1, 8 * 512);
    let mr = rig.links[1].memory.register(data.clone());
    let behind = list(&[mr.part(0, 1000).sgl(), mr.part(1000, 3096).sgl()]);
    rig.execute(1, io(NvmOpcode::WRITE, 16, 8), SglDescriptor::last_segment_offset(0, 32), &behind).ok();
    rig.execute(1, io(NvmOpcode::WRITE, 24, 2), SglDescriptor::in_capsule(8, 1024), &[&[0; 8], &data[..1024]].concat())
        .ok();
    let mr = rig.links[1].memory.zeros(10 * 512);
    let done = rig.execute(1, io(NvmOpcode::READ, 16, 10), mr.invalidated(), &[]);
    assert_eq!((done.ok().written, done.invalidated), (10 * 512, Some(mr.key)));
    let mr = rig.links[1].memory.zeros(10 * 512);
    rig.execute(1, io(NvmOpcode::READ, 16, 10), mr.sgl(), &[]).ok();
    assert_eq!(rig.links[1].memory.bytes(mr), [&data[..], &data[..1024]].concat());
    // Compare fetches, and finds what differs.
    rig.execute(1, io(NvmOpcode::COMPARE, 16, 10), mr.sgl(), &[]).ok();
    rig.execute(1, io(NvmOpcode::COMPARE, 17, 10), mr.sgl(), &[]);
    let done = rig.execute(1, io(NvmOpcode::COMPARE, 17, 10), mr.invalidated(), &[]);
    assert_eq!((done.cqe.status().code(), done.invalidated), (Status::COMPARE_FAILURE, Some(mr.key)));
    assert!(!io(NvmOpcode::READ, 0, 1).as_bytes().is_empty());
    rig.finish();
}

//! SGLs: every form that is taken, and the status of each that is not.

use kvof_kv::{Key, KvCommand};
use kvof_spec::{
    AdminOpcode, Property, SglDescriptor, Sqe, Status,
    fabrics::PropertyGetCmd,
    identify::{Cns, IdentifyCmd},
};

use super::rig::{KV, Options, Rig, TRANSFER_MAX, key, list, pattern, retrieve, store};
use crate::transport::rdma::RdmaSettings;

fn raw(identifier: u8, address: u64, length: u32) -> SglDescriptor {
    SglDescriptor { address: address.into(), length: length.into(), rsvd: [0; 3], identifier }
}

fn keyed(address: u64, length: u32) -> SglDescriptor {
    SglDescriptor::keyed(address, length, 99, false).unwrap()
}

/// A command with this SGL, and `behind` it in the capsule, is refused; and nothing else has happened.
#[track_caller]
fn refused(sqe: Sqe, sgl: SglDescriptor, behind: &[u8], status: Status) {
    let mut rig = Rig::connected(Options::default());
    rig.store(1, &key("there"), &[5; 600]).ok();
    rig.execute(1, sqe, sgl, behind).refused(status);
    assert_eq!(rig.links[1].closed, None);
    rig.store(1, &key("after"), &[1; 100]).ok();
    rig.finish();
}

fn there() -> Key {
    key("there")
}

#[test]
fn data_in_the_capsule_may_lie_anywhere_in_it() {
    let mut rig = Rig::connected(Options::default());
    for (offset, len, total) in
        [(0, 1, 1), (0, 8192, 8192), (1, 8191, 8192), (4095, 3, 4098), (100, 1000, 5000), (8191, 1, 8192)]
    {
        let behind = pattern(offset as u8, total);
        let sgl = SglDescriptor::in_capsule(offset as u64, len);
        rig.execute(1, store(&key("k"), len), sgl, &behind).ok();
        let (done, bytes) = rig.retrieve(1, &key("k"), len);
        assert_eq!(
            (done.ok().written, &bytes[..]),
            (len as usize, &behind[offset..offset + len as usize]),
            "{offset} {len}"
        );
    }
    // A longer place than the value.
    rig.execute(1, store(&key("k"), 10), SglDescriptor::in_capsule(5, 100), &pattern(9, 200)).ok();
    assert_eq!(rig.retrieve(1, &key("k"), 100).1[..10], pattern(9, 200)[5..15]);
    rig.finish();
}

#[test]
fn data_beyond_the_capsule_is_refused() {
    let sqe = store(&key("k"), 100);
    let behind = [1; 200];
    for offset in [201, 300, 8192, u64::from(u32::MAX), 1 << 32, u64::MAX - 63, u64::MAX] {
        refused(sqe, SglDescriptor::in_capsule(offset, 100), &behind, Status::SGL_OFFSET_INVALID);
    }
    for (offset, len) in [(0, 201), (200, 100), (101, 100), (1, u32::MAX), (200, u32::MAX)] {
        refused(sqe, SglDescriptor::in_capsule(offset, len), &behind, Status::DATA_SGL_LENGTH_INVALID);
    }
    // Shorter than the value.
    refused(sqe, SglDescriptor::in_capsule(0, 99), &behind, Status::DATA_SGL_LENGTH_INVALID);
    refused(sqe, SglDescriptor::in_capsule(0, 1), &[], Status::DATA_SGL_LENGTH_INVALID);
    // Nothing can be written to a capsule.
    refused(retrieve(&there(), 100), SglDescriptor::in_capsule(0, 100), &behind, Status::SGL_TYPE_INVALID);
    refused(
        KvCommand::list(KV, None, 100).to_sqe(keyed(0, 0)),
        SglDescriptor::in_capsule(0, 100),
        &behind,
        Status::SGL_TYPE_INVALID,
    );
}

#[test]
fn types_that_are_not_for_rdma_are_refused() {
    let mut rig = Rig::connected(Options::default());
    rig.store(1, &there(), &[5; 600]).ok();
    for identifier in 0..=u8::MAX {
        if matches!(identifier, 0x00 | 0x01 | 0x31 | 0x40 | 0x4f) {
            continue;
        }
        for sqe in [store(&key("k"), 100), retrieve(&there(), 100), KvCommand::exist(KV, &there()).to_sqe(keyed(0, 0))]
        {
            rig.execute(1, sqe, raw(identifier, 0, 112), &[0x40; 200]).refused(Status::SGL_TYPE_INVALID);
            rig.execute(1, sqe, raw(identifier, 0, 0), &[]).refused(Status::SGL_TYPE_INVALID);
        }
    }
    // An address of the host's is good for nothing but no data.
    rig.execute(1, store(&key("k"), 100), raw(0, 4096, 100), &[]).refused(Status::SGL_TYPE_INVALID);
    rig.finish();
}

#[test]
fn no_data_has_many_forms() {
    let mut rig = Rig::connected(Options::default());
    let one_key = rig.links[1].memory.zeros(16);
    let exist = KvCommand::exist(KV, &key("k")).to_sqe(keyed(0, 0));
    rig.execute(1, store(&key("k"), 0), raw(0, 0, 0), &[]).ok();
    let forms = [
        (raw(0, 0, 0), vec![]),
        (raw(0, u64::MAX, 0), vec![]),
        (raw(1, 0, 0), vec![]),
        (raw(1, 0, 0), vec![1; 100]),
        (keyed(0, 0), vec![]),
        (keyed(u64::MAX, 0), vec![]),
        (SglDescriptor::last_segment_offset(0, 32), list(&[keyed(7, 0), keyed(8, 0)])),
    ];
    for (sgl, behind) in &forms {
        for sqe in [exist, store(&key("k"), 0)] {
            let done = rig.execute(1, sqe, *sgl, behind);
            assert_eq!((done.ok().written, done.invalidated), (0, None), "{sgl:?}");
        }
        // A buffer of no bytes asks for the length alone.
        let done = rig.execute(1, retrieve(&key("k"), 0), *sgl, behind);
        assert_eq!(done.ok().written, 0);
        rig.execute(1, store(&key("k"), 1), *sgl, behind).refused(Status::DATA_SGL_LENGTH_INVALID);
    }
    let get = PropertyGetCmd::new(Property::CSTS).unwrap();
    rig.execute(0, get.into(), keyed(0, 0), &[]).ok();
    // A key may be invalidated although no bytes move.
    let none = one_key.part(0, 0).invalidated();
    assert_eq!(rig.execute(1, exist, none, &[]).ok().invalidated, Some(one_key.key));
    rig.finish();
}

#[test]
fn a_command_without_data_may_bring_some() {
    let mut rig = Rig::connected(Options::default());
    rig.links[1].hold.0 = true;
    let mr = rig.links[1].memory.zeros(4096);
    rig.execute(1, store(&key("k"), 0), mr.sgl(), &[]).ok();
    rig.execute(1, KvCommand::exist(KV, &key("k")).to_sqe(keyed(0, 0)), mr.sgl(), &[]).ok();
    rig.execute(1, KvCommand::delete(KV, &key("k")).to_sqe(keyed(0, 0)), SglDescriptor::in_capsule(3, 5), &[0; 8]).ok();
    assert!(rig.links[1].held.is_empty(), "nobody asked for it");
    rig.finish();
}

#[test]
fn lists_of_descriptors_are_checked() {
    let store = store(&key("k"), 100);
    let last = SglDescriptor::last_segment_offset;
    let good = list(&[keyed(0, 50), keyed(50, 50)]);
    for length in [0, 1, 15, 17, 31] {
        refused(store, last(0, length), &good, Status::INVALID_SGL_SEGMENT);
    }
    for length in [17 * 16, 1 << 20, !15] {
        refused(store, last(0, length), &good, Status::INVALID_SGL_COUNT);
    }
    for offset in [33, u64::from(u32::MAX), u64::MAX - 31, u64::MAX] {
        refused(store, last(offset, 32), &good, Status::SGL_OFFSET_INVALID);
    }
    for (offset, length) in [(0, 48), (1, 32), (32, 16), (32, 256)] {
        refused(store, last(offset, length), &good, Status::INVALID_SGL_SEGMENT);
    }
    refused(store, last(0, 16), &[], Status::INVALID_SGL_SEGMENT);
    // No lists in lists.
    for identifier in [0x20, 0x21, 0x30, 0x31, 0x3f] {
        for nested in [[raw(identifier, 0, 32), keyed(0, 100)], [keyed(0, 100), raw(identifier, 0, 32)]] {
            refused(store, last(0, 32), &list(&nested), Status::INVALID_SGL_SEGMENT);
        }
    }
    for other in [
        raw(0, 0, 100),
        raw(0, 0, 0),
        SglDescriptor::in_capsule(0, 16),
        raw(0x5a, 0, 100),
        raw(0xf0, 0, 1),
        raw(0x41, 0, 1),
    ] {
        refused(store, last(0, 32), &list(&[keyed(0, 100), other]), Status::SGL_TYPE_INVALID);
    }
    // One response invalidates one key.
    let invalidating = SglDescriptor::keyed(0, 50, 5, true).unwrap();
    refused(store, last(0, 32), &list(&[invalidating, keyed(0, 50)]), Status::SGL_TYPE_INVALID);
    refused(store, last(0, 32), &list(&[keyed(0, 50), invalidating]), Status::SGL_TYPE_INVALID);
    // Round the end of the address space.
    refused(store, keyed(u64::MAX - 98, 100), &[], Status::DATA_SGL_LENGTH_INVALID);
    refused(store, last(0, 32), &list(&[keyed(0, 50), keyed(u64::MAX, 50)]), Status::DATA_SGL_LENGTH_INVALID);
    // Too short for the command, whichever way it moves.
    refused(store, last(0, 32), &list(&[keyed(0, 50), keyed(50, 49)]), Status::DATA_SGL_LENGTH_INVALID);
    refused(
        retrieve(&there(), 101),
        last(0, 32),
        &list(&[keyed(0, 50), keyed(50, 50)]),
        Status::DATA_SGL_LENGTH_INVALID,
    );
}

#[test]
fn more_bytes_than_a_command_may_move_are_refused() {
    let most = |count: usize| list(&vec![keyed(0, 0xff_ffff); count]);
    let last = |count: u32| SglDescriptor::last_segment_offset(0, 16 * count);
    assert!(9 * 0xff_ffff_u64 > u64::from(TRANSFER_MAX));
    refused(store(&key("k"), 100), last(9), &most(9), Status::INVALID_FIELD);
    refused(retrieve(&there(), 100), last(16), &most(16), Status::INVALID_FIELD);
    // The sum does not fit in 32 bits, where so many descriptors are allowed.
    let settings = RdmaSettings { segments_max: 512, ..RdmaSettings::default() };
    let mut rig = Rig::connected(Options { settings, ..Options::default() });
    rig.execute(1, store(&key("k"), 100), last(257), &most(257)).refused(Status::DATA_SGL_LENGTH_INVALID);
    rig.execute(1, store(&key("k"), 100), last(256), &most(256)).refused(Status::INVALID_FIELD);
    rig.finish();
    // Nor may an admin command bring much.
    let mut rig = Rig::connected(Options::default());
    let mut sqe = Sqe::new(AdminOpcode::SET_FEATURES);
    sqe.cdw10 = 0x0b_u32.into();
    rig.execute(0, sqe, keyed(0, 0xff_ffff), &[]).refused(Status::DATA_SGL_LENGTH_INVALID);
    rig.finish();
}

#[test]
fn the_key_of_a_command_is_invalidated_with_its_response() {
    let mut rig = Rig::connected(Options::default());
    let value = pattern(3, 5000);
    let mr = rig.links[1].memory.register(value.clone());
    assert_eq!(rig.execute(1, store(&key("k"), 5000), mr.invalidated(), &[]).ok().invalidated, Some(mr.key));
    let mr = rig.links[1].memory.zeros(5000);
    let cid = rig.send(1, retrieve(&key("k"), 5000), mr.sgl(), &[]);
    assert_eq!(rig.take_done(1, cid).unwrap().ok().invalidated, None);
    assert_eq!(rig.links[1].memory.bytes(mr), value);
    assert_eq!(rig.execute(1, retrieve(&key("k"), 5000), mr.invalidated(), &[]).ok().invalidated, Some(mr.key));
    // Whatever comes of the command.
    let mr = rig.links[1].memory.zeros(5000);
    let done = rig.execute(1, retrieve(&key("missing"), 5000), mr.invalidated(), &[]);
    done.refused(Status::KEY_DOES_NOT_EXIST);
    assert_eq!(done.invalidated, Some(mr.key));
    let mr = rig.links[1].memory.zeros(10);
    let done = rig.execute(1, store(&key("k"), 11), mr.invalidated(), &[]);
    done.refused(Status::DATA_SGL_LENGTH_INVALID);
    assert_eq!(done.invalidated, Some(mr.key));
    // A list of one is as good, and one that is wrong in another way still asks for it.
    let mr = rig.links[1].memory.zeros(5000);
    let last = SglDescriptor::last_segment_offset(2, 16);
    let behind = [&[0; 2], &list(&[mr.invalidated()])[..]].concat();
    let done = rig.execute(1, retrieve(&key("k"), 5000), last, &behind);
    assert_eq!((done.ok().invalidated, done.written), (Some(mr.key), 5000));
    let mr = rig.links[1].memory.zeros(5000);
    let wrapping = SglDescriptor::keyed(u64::MAX, 5000, mr.key, true).unwrap();
    let last = SglDescriptor::last_segment_offset(0, 16);
    let done = rig.execute(1, retrieve(&key("k"), 5000), last, &list(&[wrapping]));
    done.refused(Status::DATA_SGL_LENGTH_INVALID);
    assert_eq!(done.invalidated, Some(mr.key));
    // The next command in the same place has nothing to do with it.
    assert_eq!(rig.retrieve(1, &key("k"), 5000).0.ok().invalidated, None);
    rig.finish();
}

#[test]
fn admin_commands_use_the_same_forms() {
    let mut rig = Rig::connected(Options::default());
    let identify = || IdentifyCmd::new(Cns::CONTROLLER, 0, kvof_spec::Csi::NVM).to_sqe();
    let mr = rig.links[0].memory.zeros(8192);
    let done = rig.execute(0, identify(), mr.part(100, 4096).sgl(), &[]);
    assert_eq!(done.ok().written, 4096);
    let whole = rig.links[0].memory.bytes(mr)[100..4196].to_vec();
    assert_eq!(whole[4..11], *b"7      ");
    // In three pieces, the last of them longer than needed.
    let mr = rig.links[0].memory.zeros(8192);
    let behind = list(&[mr.part(0, 1).sgl(), mr.part(2000, 95).sgl(), mr.part(3000, 5000).sgl()]);
    let done = rig.execute(0, identify(), SglDescriptor::last_segment_offset(0, 48), &behind);
    assert_eq!(done.ok().written, 4096);
    let bytes = rig.links[0].memory.bytes(mr);
    assert_eq!([&bytes[..1], &bytes[2000..2095], &bytes[3000..7000]].concat(), whole);
    assert!(bytes[1..2000].iter().chain(&bytes[2095..3000]).chain(&bytes[7000..]).all(|&b| b == 0));
    rig.finish();
}

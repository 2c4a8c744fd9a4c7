//! Commands, lists and Identify data, byte by byte.

use kvof_kv::{
    IdentifyKvController, IdentifyKvNamespace, Key, KeyList, KvCommand, KvLimits, KvOp, KvOpcode, KvUsage, ListError,
    ListReader, ListWriter, RetrieveOptions, Status, StoreOptions,
};
use kvof_spec::{SglDescriptor, Sqe};
use proptest::prelude::*;
use zerocopy::IntoBytes;

const LIMITS: KvLimits = KvLimits { kvkml: 12, kvvml: 1000, mnks: 7, novg: 512 };

fn key(bytes: &[u8]) -> Key {
    Key::new(bytes).unwrap()
}

/// `nvme io-passthru --opcode=0x01 -n 1 --cdw10=64 --cdw11=0x204 --cdw2=0x42424242`: Store of 64 bytes under "BBBB"
/// that must not exist.
#[test]
fn store_command() {
    let command = KvCommand::store(1, &key(b"BBBB"), StoreOptions::MUST_NOT_EXIST, 64);
    let bytes = command.to_sqe(SglDescriptor::in_capsule(0, 64)).to_bytes();
    let mut expected = [0; 64];
    expected[0] = 0x01;
    expected[1] = 0x40;
    expected[4] = 1;
    expected[8..12].copy_from_slice(b"BBBB");
    expected[32] = 64;
    expected[39] = 0x01;
    expected[40] = 64;
    expected[44] = 4;
    expected[45] = 2;
    assert_eq!(bytes, expected);
}

#[test]
fn key_bytes_are_in_two_places() {
    let command = KvCommand::exist(0x0102_0304, &key(b"0123456789abcdef"));
    let bytes = command.to_sqe(SglDescriptor::default()).to_bytes();
    assert_eq!(bytes[0], 0x14);
    assert_eq!(bytes[4..8], [4, 3, 2, 1]);
    assert_eq!(&bytes[8..16], b"01234567");
    assert_eq!(&bytes[56..64], b"89abcdef");
    assert_eq!(bytes[44], 16);
    assert_eq!(KvCommand::exist(1, &key(b"ab")).key_dwords()[0], 0x6261);
}

#[test]
fn opcodes_and_options() {
    let k = key(b"k");
    let of = |command: KvCommand| (command.opcode.0, command.cdw11());
    assert_eq!(of(KvCommand::store(1, &k, StoreOptions::MUST_EXIST, 0)), (0x01, 0x0101));
    assert_eq!(of(KvCommand::store(1, &k, StoreOptions::NO_COMPRESS, 0)), (0x01, 0x0401));
    assert_eq!(of(KvCommand::retrieve(1, &k, RetrieveOptions::RAW, 0)), (0x02, 0x0101));
    assert_eq!(of(KvCommand::list(1, None, 4)), (0x06, 0));
    assert_eq!(of(KvCommand::list(1, Some(&k), 4)), (0x06, 1));
    assert_eq!(of(KvCommand::delete(1, &k)), (0x10, 1));
    assert_eq!(of(KvCommand::exist(1, &k)), (0x14, 1));
}

#[test]
fn what_is_wrong_first_is_reported() {
    let status = |command: KvCommand| command.validate(&LIMITS).unwrap_err();
    let with = |opcode, key_len, size| KvCommand { opcode, key_len, size, nsid: 1, ..KvCommand::default() };
    let (store, list) = (KvOpcode::STORE, KvOpcode::LIST);
    for opcode in [store, KvOpcode::RETRIEVE, KvOpcode::DELETE, KvOpcode::EXIST] {
        assert_eq!(status(with(opcode, 0, u32::MAX)), Status::INVALID_KEY_SIZE);
        assert_eq!(status(with(opcode, 13, u32::MAX)), Status::INVALID_KEY_SIZE);
        assert_eq!(status(with(opcode, 16, u32::MAX)), Status::INVALID_KEY_SIZE);
        let over = if opcode == store { Status::INVALID_KEY_SIZE } else { Status::INVALID_FIELD };
        assert_eq!(status(with(opcode, 17, u32::MAX)), over);
        assert_eq!(status(with(opcode, 255, 0)), over);
    }
    assert_eq!(status(with(store, 12, 1001)), Status::INVALID_VALUE_SIZE);
    assert!(with(store, 12, 1000).validate(&LIMITS).is_ok());
    assert_eq!(status(with(list, 0, 3)), Status::INVALID_FIELD);
    assert_eq!(status(with(list, 13, 3)), Status::INVALID_KEY_SIZE);
    assert_eq!(status(with(list, 17, 4)), Status::INVALID_FIELD);
    assert_eq!(with(list, 0, 4).validate(&LIMITS), Ok(KvOp::List { start: None, buffer: 4 }));
    assert_eq!(status(with(KvOpcode::FLUSH, 0, 0)), Status::INVALID_OPCODE);
    assert_eq!(status(with(KvOpcode(0x83), 4, 0)), Status::INVALID_OPCODE);
}

#[test]
fn buffers_may_be_longer_than_needed_but_not_shorter() {
    let op = KvCommand::store(1, &key(b"k"), StoreOptions::empty(), 100).validate(&LIMITS).unwrap();
    assert_eq!(op.max_transfer(), 100);
    assert_eq!(op.check_data_length(99), Err(Status::DATA_SGL_LENGTH_INVALID));
    assert_eq!(op.check_data_length(100), Ok(()));
    assert_eq!(op.check_data_length(u32::MAX), Ok(()));
    let command = KvCommand { size: 4096, ..KvCommand::delete(1, &key(b"k")) };
    assert_eq!(command.validate(&LIMITS).unwrap().check_data_length(0), Ok(()));
}

fn list(keys: &[&[u8]], max_bytes: u32) -> KeyList {
    let mut writer = ListWriter::new(max_bytes);
    let _ = keys.iter().take_while(|bytes| writer.push(&key(bytes))).count();
    writer.finish()
}

#[test]
fn list_data() {
    let keys = [&b"a"[..], b"ab", b"abc", b"abcdefg"];
    #[rustfmt::skip]
    let expected = [
        4, 0, 0, 0,
        1, 0, b'a', 0,
        2, 0, b'a', b'b',
        3, 0, b'a', b'b', b'c', 0, 0, 0,
        7, 0, b'a', b'b', b'c', b'd', b'e', b'f', b'g', 0, 0, 0,
    ];
    assert_eq!(list(&keys, 32).as_bytes(), expected);
    assert_eq!(list(&keys, u32::MAX).as_bytes(), expected);
    assert_eq!(list(&keys, 31).as_bytes()[4..], expected[4..20]);
    assert_eq!(list(&keys, 31).count(), 3);
    assert_eq!(list(&keys, 7).as_bytes(), [0; 4]);
    assert_eq!(list(&[], 4).as_bytes(), [0; 4]);
}

#[test]
fn list_errors_say_where() {
    let read = |bytes: &[u8]| ListReader::new(bytes).and_then(|reader| reader.collect::<Result<Vec<_>, _>>());
    assert_eq!(read(&[1, 0, 0]), Err(ListError::NoCount { len: 3 }));
    let truncated = |index, count, offset, needed, left| ListError::Truncated { index, count, offset, needed, left };
    assert_eq!(read(&[1, 0, 0, 0]), Err(truncated(0, 1, 4, 2, 0)));
    assert_eq!(read(&[2, 0, 0, 0, 1, 0, b'a', 0, 5, 0, b'a']), Err(truncated(1, 2, 8, 8, 3)));
    assert_eq!(read(&[1, 0, 0, 0, 17, 0, 0, 0]), Err(ListError::KeyLength { index: 0, offset: 4, key_len: 17 }));
    assert_eq!(read(&[1, 0, 0, 0, 0, 0, 0, 0]), Err(ListError::KeyLength { index: 0, offset: 4, key_len: 0 }));
    assert_eq!(read(&[1, 0, 0, 0, 3, 0, 1, 2, 3, 0, 9, 0]), Err(ListError::Padding { index: 0, offset: 10, byte: 9 }));
    // A count that the data cannot have ends with the data.
    let mut reader = ListReader::new(&[0xff, 0xff, 0xff, 0xff, 1, 0, b'a', 0]).unwrap();
    assert_eq!(reader.next(), Some(Ok(key(b"a"))));
    assert!(matches!(reader.next(), Some(Err(ListError::Truncated { .. }))));
    assert_eq!(reader.next(), None);
}

#[test]
fn identify_data() {
    let usage = KvUsage { nsze: 0x0102_0304_0506, nuse: 99, keys: 3 };
    let data = IdentifyKvNamespace::new(&LIMITS, &usage);
    let bytes = data.as_bytes();
    assert_eq!(bytes[..8], [6, 5, 4, 3, 2, 1, 0, 0]);
    assert_eq!(bytes[16..24], [99, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[25], 0, "one format, 0's based");
    assert_eq!(bytes[32..36], 512_u32.to_le_bytes());
    assert_eq!(bytes[72..88], [12, 0, 0, 0, 0xe8, 3, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    assert!(bytes[88..].iter().all(|b| *b == 0));
    assert_eq!(IdentifyKvNamespace::from_bytes(bytes).unwrap().limits(), LIMITS);
    assert!(IdentifyKvNamespace::from_bytes(&bytes[..4095]).is_none());
    assert_eq!(IdentifyKvController::new().as_bytes(), [0; 4096]);
}

#[test]
fn command_effects() {
    let mut log = vec![0_u32; 256];
    for (opcode, effects) in kvof_kv::identify::COMMAND_EFFECTS {
        log[usize::from(opcode.0)] = effects.bits();
    }
    let set: Vec<(usize, u32)> = log.into_iter().enumerate().filter(|(_, effects)| *effects != 0).collect();
    assert_eq!(set, [(0x01, 3), (0x02, 1), (0x06, 1), (0x10, 3), (0x14, 1)]);
}

#[test]
fn identify_data_of_others() {
    let mut bytes = vec![0; 4096];
    bytes[25] = 1;
    bytes[29] = 0xf1;
    bytes[88..96].copy_from_slice(&[255, 0, 0, 3, 0, 16, 0, 0]);
    let limits = IdentifyKvNamespace::from_bytes(&bytes).unwrap().limits();
    assert_eq!(limits, KvLimits { kvkml: 16, kvvml: 4096, mnks: 0, novg: 0 });
}

fn any_key() -> impl Strategy<Value = Key> {
    proptest::collection::vec(any::<u8>(), 1..=16).prop_map(|bytes| key(&bytes))
}

proptest! {
    #[test]
    fn command_round_trip(bytes in any::<[u8; 64]>()) {
        let mut sqe = Sqe::from_bytes(&bytes);
        let command = KvCommand::from_sqe(&sqe);
        // All but what the queue layer owns comes back.
        sqe.flags = 0x40;
        sqe.cid = 0.into();
        sqe.mptr = 0.into();
        prop_assert_eq!(command.to_sqe(sqe.sgl1), sqe);
    }

    #[test]
    fn validation_keeps_to_the_limits(bytes in any::<[u8; 64]>(), opcode in 0_u8..0x20, key_len in 0_u8..20, size in 0_u32..2000) {
        let command = KvCommand { opcode: KvOpcode(opcode), key_len, size, ..KvCommand::from_sqe(&Sqe::from_bytes(&bytes)) };
        match command.validate(&LIMITS) {
            Ok(KvOp::Store { key, size, .. }) => prop_assert!(key.len() <= 12 && size <= 1000),
            Ok(KvOp::Retrieve { key, .. } | KvOp::Delete { key } | KvOp::Exist { key }) => {
                prop_assert_eq!(key.as_bytes(), &command.key[..usize::from(key_len)]);
            }
            Ok(KvOp::List { start, buffer }) => prop_assert!(buffer >= 4 && start.is_some() == (key_len > 0)),
            Err(status) => prop_assert!(!status.is_success() && !status.dnr()),
        }
    }

    #[test]
    fn list_round_trip(keys in proptest::collection::vec(any_key(), 0..60), max_bytes in 4_u32..1400, spare in 0_usize..9) {
        let mut writer = ListWriter::new(max_bytes);
        let fitted = keys.iter().take_while(|key| writer.push(key)).count();
        let list = writer.finish();
        let needed = |n: usize| 4 + keys[..n].iter().map(|key| (2 + key.len()).div_ceil(4) * 4).sum::<usize>();
        prop_assert_eq!(list.as_bytes().len(), needed(fitted));
        prop_assert!(needed(fitted) <= max_bytes as usize);
        prop_assert!(fitted == keys.len() || needed(fitted + 1) > max_bytes as usize);
        prop_assert_eq!(list.count() as usize, fitted);
        let mut bytes = list.as_bytes().to_vec();
        bytes.resize(bytes.len() + spare, 0xa5);
        let mut reader = ListReader::new(&bytes).unwrap();
        prop_assert_eq!(reader.by_ref().collect::<Result<Vec<_>, _>>().unwrap(), &keys[..fitted]);
        prop_assert_eq!(reader.consumed(), list.as_bytes().len());
    }

    #[test]
    fn any_list_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0_u8..12, tame in any::<bool>()) {
        let mut bytes = bytes;
        if let (true, Some(head)) = (tame, bytes.get_mut(..4)) {
            head.copy_from_slice(&[count, 0, 0, 0]);
            // Plausible lengths get the reader past the first entry.
            bytes[4..].chunks_mut(4).for_each(|word| { word[0] &= 0x13; if let Some(b) = word.get_mut(1) { *b = 0 } });
        }
        if let Ok(mut reader) = ListReader::new(&bytes) {
            let results: Vec<_> = reader.by_ref().collect();
            prop_assert!(results.iter().rev().skip(1).all(Result::is_ok));
            prop_assert!(reader.consumed() <= bytes.len());
            prop_assert_eq!(reader.next(), None);
        }
    }
}

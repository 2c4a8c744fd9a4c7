//! The reference model against the simplest possible map, and its limits; and what becomes of outcomes.

use std::collections::HashMap;

use kvof_kv::model::{ReferenceConfig, ReferenceStore, StorePort, execute_on};
use kvof_kv::{
    Data, Key, KvCommand, KvConfiguration, KvError, KvLimits, KvOp, KvOutcome, KvPort, KvRequest, KvStore, ListReader,
    ListWriter, OpId, Status, StoreOptions, respond,
};
use proptest::prelude::*;

const LIMITS: KvLimits = KvLimits { kvkml: 16, kvvml: 64, mnks: 5, novg: 0 };
const CAPACITY: u64 = 200;

fn store() -> ReferenceStore {
    ReferenceStore::new(ReferenceConfig { limits: LIMITS, capacity: CAPACITY, slot_quota: 100 })
}

fn key(bytes: &[u8]) -> Key {
    Key::new(bytes).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Store(Vec<u8>, u8, Vec<u8>),
    Retrieve(Vec<u8>, u8),
    Delete(Vec<u8>),
    Exist(Vec<u8>),
    List(Option<Vec<u8>>, u8),
}

/// Few keys, so that they are met again.
fn few_keys() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0), Just(b'a'), Just(0xff)], 1..=2)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (few_keys(), 0_u8..4, proptest::collection::vec(any::<u8>(), 0..80)).prop_map(|(k, o, v)| Step::Store(k, o, v)),
        2 => (few_keys(), 0_u8..80).prop_map(|(k, n)| Step::Retrieve(k, n)),
        2 => few_keys().prop_map(Step::Delete),
        1 => few_keys().prop_map(Step::Exist),
        1 => (proptest::option::of(few_keys()), 4_u8..60).prop_map(|(k, n)| Step::List(k, n)),
    ]
}

/// What must come of a Store, worked out from the rules.
fn store_status(map: &HashMap<Vec<u8>, Vec<u8>>, key: &[u8], options: u8, value: &[u8]) -> Status {
    let used: usize = map.iter().filter(|(k, _)| *k != key).map(|(k, v)| k.len() + v.len()).sum();
    match map.contains_key(key) {
        _ if value.len() > 64 => Status::INVALID_VALUE_SIZE,
        true if options & 2 != 0 => Status::KEY_EXISTS,
        false if options & 1 != 0 => Status::KEY_DOES_NOT_EXIST,
        false if map.len() == 5 => Status::CAPACITY_EXCEEDED,
        _ if used + key.len() + value.len() > CAPACITY as usize => Status::CAPACITY_EXCEEDED,
        _ => Status::SUCCESS,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_model_is_a_map(steps in proptest::collection::vec(step(), 1..120), ednek in any::<bool>()) {
        let configuration = KvConfiguration { ednek };
        let mut model = store();
        let mut map: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for step in steps {
            match step {
                Step::Store(k, options, value) => {
                    let flags = StoreOptions::from_bits_retain(options);
                    let command = KvCommand::store(1, &key(&k), flags, value.len() as u32);
                    let reply = execute_on(&mut model, configuration, &command, Data::Out(&value));
                    let expected = store_status(&map, &k, options, &value);
                    prop_assert_eq!((reply.status, reply.dw0), (expected, 0));
                    if expected.is_success() {
                        map.insert(k, value);
                    }
                }
                Step::Retrieve(k, size) => {
                    let mut buffer = vec![0xa5; size.into()];
                    let command = KvCommand::retrieve(1, &key(&k), Default::default(), size.into());
                    let reply = execute_on(&mut model, configuration, &command, Data::In(&mut buffer));
                    match map.get(&k) {
                        Some(value) => {
                            let n = value.len().min(size.into());
                            prop_assert_eq!((reply.status, reply.dw0 as usize), (Status::SUCCESS, value.len()));
                            prop_assert_eq!(&buffer[..n], &value[..n]);
                            prop_assert!(buffer[n..].iter().all(|b| *b == 0xa5));
                        }
                        None => prop_assert_eq!(reply.status, Status::KEY_DOES_NOT_EXIST),
                    }
                }
                Step::Delete(k) => {
                    let reply = execute_on(&mut model, configuration, &KvCommand::delete(1, &key(&k)), Data::None);
                    let found = map.remove(&k).is_some();
                    let expected = if found || !ednek { Status::SUCCESS } else { Status::KEY_DOES_NOT_EXIST };
                    prop_assert_eq!(reply.status, expected);
                }
                Step::Exist(k) => {
                    let reply = execute_on(&mut model, configuration, &KvCommand::exist(1, &key(&k)), Data::None);
                    let expected = if map.contains_key(&k) { Status::SUCCESS } else { Status::KEY_DOES_NOT_EXIST };
                    prop_assert_eq!((reply.status, reply.dw0), (expected, 0));
                }
                Step::List(start, size) => {
                    let start = start.map(|k| key(&k));
                    let mut buffer = vec![0; size.into()];
                    let command = KvCommand::list(1, start.as_ref(), size.into());
                    let reply = execute_on(&mut model, configuration, &command, Data::In(&mut buffer));
                    prop_assert_eq!((reply.status, reply.dw0), (Status::SUCCESS, 0));
                    let mut keys: Vec<Vec<u8>> = map.keys().cloned().collect();
                    keys.sort_by_key(|k| (k.len(), k.clone()));
                    keys.retain(|k| start.is_none_or(|s| (k.len(), &k[..]) >= (s.len(), s.as_bytes())));
                    let mut room = usize::from(size) - 4;
                    let expected: Vec<Key> = keys.iter().map(|k| key(k)).take_while(|_| {
                        // Keys of 1 and 2 bytes take 4 bytes each.
                        let fits = room >= 4;
                        room = room.saturating_sub(4);
                        fits
                    }).collect();
                    let got: Vec<Key> = ListReader::new(&buffer).unwrap().map(Result::unwrap).collect();
                    prop_assert_eq!(got, expected);
                }
            }
            let nuse: usize = map.iter().map(|(k, v)| k.len() + v.len()).sum();
            prop_assert_eq!((model.usage().nuse, model.usage().keys), (nuse as u64, map.len() as u64));
            prop_assert!(model.poll().is_none());
        }
    }
}

#[test]
fn reservations_count_until_they_are_stored_or_dropped() {
    let mut store = store();
    let first = store.reserve(60).unwrap();
    assert!(store.reserve(41).is_none());
    let second = store.reserve(40).unwrap();
    assert!(store.reserve(1).is_none());
    drop(second);
    assert!(store.reserve(40).is_some());
    store.submit(OpId(7), KvRequest::Store { key: key(b"k"), options: StoreOptions::empty(), value: first });
    assert!(store.reserve(64).is_some());
    assert!(matches!(store.poll(), Some((OpId(7), Ok(KvOutcome::Stored)))));
    assert!(store.poll().is_none());
}

#[test]
fn a_value_that_is_read_outlives_its_key() {
    let mut store = store();
    let mut slot = store.reserve(3).unwrap();
    slot.as_mut().copy_from_slice(b"abc");
    store.submit(OpId(1), KvRequest::Store { key: key(b"k"), options: StoreOptions::empty(), value: slot });
    store.submit(OpId(2), KvRequest::Retrieve { key: key(b"k"), raw: false });
    store.submit(OpId(3), KvRequest::Delete { key: key(b"k") });
    store.submit(OpId(4), KvRequest::Exist { key: key(b"k") });
    let mut results = Vec::new();
    while let Some(done) = store.poll() {
        results.push(done);
    }
    let [
        (OpId(1), Ok(KvOutcome::Stored)),
        (OpId(2), Ok(KvOutcome::Retrieved(value))),
        (OpId(3), Ok(KvOutcome::Deleted)),
        (OpId(4), Err(KvError::KeyDoesNotExist)),
    ] = &results[..]
    else {
        panic!("{results:?}");
    };
    assert_eq!(value.as_ref(), b"abc");
}

/// A store that never has memory.
#[test]
fn a_port_without_memory_says_so() {
    let config = ReferenceConfig { limits: LIMITS, capacity: CAPACITY, slot_quota: 10 };
    let port = StorePort::new(ReferenceStore::new(config), 1, 1000, "small");
    let reply = port.store(&key(b"k"), StoreOptions::empty(), &[0; 11]).unwrap();
    assert_eq!(reply.status, Status::INTERNAL_ERROR);
    assert_eq!(port.store(&key(b"k"), StoreOptions::empty(), &[0; 10]).unwrap().status, Status::SUCCESS);
}

#[test]
fn outcomes_become_completions() {
    let k = key(b"k");
    let off = KvConfiguration::default();
    let retrieve = |buffer| KvOp::Retrieve { key: k, raw: false, buffer };
    for (buffer, transfer) in [(0, 0), (1, 1), (4, 4), (5, 5), (6, 5), (u32::MAX, 5)] {
        let response = respond(&retrieve(buffer), Ok(KvOutcome::Retrieved(b"value")), off);
        assert_eq!((response.status, response.dw0, response.transfer), (Status::SUCCESS, 5, transfer));
        assert_eq!(response.data(), &b"value"[..transfer as usize]);
    }
    let length = respond(&retrieve(0), Ok(KvOutcome::<&[u8]>::Exists { len: 5 }), off);
    assert_eq!((length.status, length.dw0, length.transfer), (Status::SUCCESS, 5, 0));
    assert!(matches!(retrieve(0).request::<()>(), Some(KvRequest::Exist { .. })));
    assert!(matches!(retrieve(1).request::<()>(), Some(KvRequest::Retrieve { raw: false, .. })));
    type Outcome = Result<KvOutcome<&'static [u8]>, KvError>;
    let status = |op: &KvOp, outcome: Outcome, ednek| {
        let response = respond(op, outcome, KvConfiguration { ednek });
        assert_eq!((response.dw0, response.data().len()), (0, 0));
        response.status
    };
    let missing = || -> Outcome { Err(KvError::KeyDoesNotExist) };
    assert_eq!(status(&KvOp::Delete { key: k }, missing(), false), Status::SUCCESS);
    assert_eq!(status(&KvOp::Delete { key: k }, missing(), true), Status::KEY_DOES_NOT_EXIST);
    assert_eq!(status(&KvOp::Exist { key: k }, missing(), false), Status::KEY_DOES_NOT_EXIST);
    assert_eq!(status(&retrieve(9), missing(), false), Status::KEY_DOES_NOT_EXIST);
    assert_eq!(status(&KvOp::Exist { key: k }, Ok(KvOutcome::Exists { len: 9 }), false), Status::SUCCESS);
    assert_eq!(status(&retrieve(9), Ok(KvOutcome::Stored), false), Status::INTERNAL_ERROR);
    assert_eq!(status(&retrieve(9), Ok(KvOutcome::Exists { len: 5 }), false), Status::INTERNAL_ERROR);
    for (error, expected) in [
        (KvError::KeyExists, Status::KEY_EXISTS),
        (KvError::CapacityExceeded, Status::CAPACITY_EXCEEDED),
        (KvError::InvalidValueSize, Status::INVALID_VALUE_SIZE),
        (KvError::Unrecovered, Status::UNRECOVERED_ERROR),
        (KvError::NotReady, Status::NAMESPACE_NOT_READY),
        (KvError::Internal, Status::INTERNAL_ERROR),
    ] {
        assert_eq!(status(&retrieve(9), Err(error), false), expected);
    }
    // An engine that lists more than it was asked for must not overrun the host's buffer.
    let mut writer = ListWriter::new(64);
    assert!(writer.push(&k));
    let list = writer.finish();
    let op = |buffer| KvOp::List { start: None, buffer };
    assert_eq!(status(&op(7), Ok(KvOutcome::Listed(list.clone())), false), Status::INTERNAL_ERROR);
    let response = respond(&op(8), Ok(KvOutcome::<&[u8]>::Listed(list)), off);
    assert_eq!((response.status, response.dw0, response.transfer), (Status::SUCCESS, 0, 8));
}

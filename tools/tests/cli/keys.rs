//! list, and exist and delete of many keys.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::Stdio,
};

use kvof_initiator::{
    Address, ConnectOptions, Controller, Key, StoreOptions,
    blocking::{BlockingKv, block_on},
};

use crate::support::Target;

const NQN: &str = "nqn.2024-01.localhost:kvof";

/// Stores each key with its own bytes as its value.
fn store(target: &Target, keys: &[Key]) {
    let address: Address = target.address.parse().unwrap();
    let mut options = ConnectOptions::default();
    options.io_queues = 1;
    let controller = block_on(Controller::connect(&address, NQN, &options)).unwrap();
    let kv = BlockingKv::new(block_on(controller.kv(1)).unwrap());
    for key in keys {
        kv.store(*key, key.as_bytes(), StoreOptions::empty()).unwrap();
    }
    block_on(controller.disconnect());
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn thousands_of_keys_are_listed_once_each_in_order() {
    let target = Target::kv();
    assert_eq!(target.kvof(&["list"]).prints(), "");
    assert_eq!(target.kvof(&["list", "--count"]).prints(), "0\n");
    let mut keys: Vec<Key> = (0..3000u32).map(|i| Key::new(format!("number_{i}").as_bytes()).unwrap()).collect();
    keys.extend((0..500u32).map(|i| Key::new(&[&[0xfe], &i.to_be_bytes()[..], &[0; 11]].concat()).unwrap()));
    store(&target, &keys);
    keys.sort();

    let listed = target.kvof(&["list"]).prints();
    let expected: Vec<String> = keys.iter().map(Key::to_string).collect();
    assert_eq!(lines(&listed), expected);
    assert_eq!(target.kvof(&["list", "--count"]).prints(), "3500\n");
    assert_eq!(target.kvof(&["list", "--count", "--json"]).json(), serde_json::json!({"keys": 3500}));

    let some = target.kvof(&["list", "--start", "number_2500", "--limit", "1200"]).prints();
    let from = keys.iter().position(|key| key.as_bytes() == b"number_2500").unwrap();
    assert_eq!(lines(&some), expected[from..(from + 1200).min(expected.len())]);
    // A start that does not exist gives what follows.
    let later = target.kvof(&["list", "--start", "number_29999", "--limit", "2"]).prints();
    assert_eq!(lines(&later), expected[3000..3002]);

    let thousands = target.kvof(&["list", "--prefix", "number_1"]).prints();
    let begin: Vec<&String> = expected.iter().filter(|key| key.starts_with("number_1")).collect();
    assert_eq!(begin.len(), 1111);
    assert_eq!(lines(&thousands), begin);
    assert_eq!(target.kvof(&["list", "--prefix", "0xfe", "--count"]).prints(), "500\n");
    assert_eq!(target.kvof(&["list", "--prefix", "0xfe", "--limit", "600", "--count"]).prints(), "500\n");

    let json = target.kvof(&["list", "--json", "--length", "--prefix", "0xfe"]).prints();
    for (line, key) in json.lines().zip(&expected[3000..]) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line, serde_json::json!({"key": key, "length": 16}));
    }
    assert_eq!(json.lines().count(), 500);
    let long = target.kvof(&["list", "-l", "--limit", "1"]).prints();
    assert_eq!(long, "         8  number_0\n");
}

#[test]
fn what_list_prints_can_be_given_back() {
    let target = Target::kv();
    let odd: [&[u8]; 9] = [b"0x41", b"hex:", b"text:a", b"a b", b" ", b"\n", b"-", b"\xff\xfe", "grün".as_bytes()];
    let keys: Vec<Key> = odd.iter().map(|bytes| Key::new(bytes).unwrap()).collect();
    store(&target, &keys);
    let listed = target.kvof(&["list"]).prints();
    let listed_keys: BTreeSet<Key> = listed.lines().map(|line| Key::parse(line).unwrap()).collect();
    assert_eq!(listed_keys, keys.iter().copied().collect());
    for line in listed.lines() {
        let value = target.kvof(&["retrieve", "--", line]).exits(0);
        assert_eq!(value.bytes(), Key::parse(line).unwrap().as_bytes());
    }
    let exist = target.kvof_with(&["exist", "--keys-from", "-"], listed.as_bytes()).prints();
    assert!(exist.lines().count() == 9 && exist.lines().all(|line| line.ends_with(" exists")), "{exist}");
    let deleted = target.kvof_with(&["delete", "--keys-from", "-"], listed.as_bytes()).prints();
    assert_eq!(deleted, "deleted 9 keys\n");
    assert_eq!(target.kvof(&["list"]).prints(), "");
}

#[test]
fn many_keys_come_from_a_file_too_and_a_missing_one_is_told() {
    let target = Target::kv();
    let keys: Vec<Key> = (0..1000u32).map(|i| Key::new(format!("k{i}").as_bytes()).unwrap()).collect();
    store(&target, &keys);
    let file = target.folder.path().join("keys");
    let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
    std::fs::write(&file, text + "absent\n").unwrap();
    let file = file.to_str().unwrap();
    let asked = target.kvof(&["exist", "--keys-from", file, "-l"]).exits(3).out();
    assert_eq!(asked.lines().count(), 1001);
    assert_eq!(asked.lines().next(), Some("k0 exists, 2 bytes"));
    assert_eq!(asked.lines().last(), Some("absent does not exist"));
    let deleted = target.kvof(&["delete", "--json", "--keys-from", file]).json();
    assert_eq!(deleted, serde_json::json!({"deleted": 1001, "missing": 0}));

    // What was done before a wrong line is told.
    store(&target, &keys[..3]);
    let wrong = target.kvof_with(&["delete", "--keys-from", "-"], b"k0\nk1\n0xz\nk2\n");
    let wrong = wrong.fails(2, &["standard input, line 3", "0xz"]);
    assert_eq!(wrong.out(), "deleted 2 keys\n");
    assert_eq!(target.kvof(&["list"]).prints(), "k2\n");
    target.kvof(&["delete", "--keys-from", "/nowhere/at/all"]).fails(1, &["/nowhere/at/all"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let target = Target::kv();
    let keys: Vec<Key> = (0..20_000u32).map(|i| Key::new(format!("a long key {i:05}").as_bytes()).unwrap()).collect();
    store(&target, &keys);
    let mut list = target.command().arg("list").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(32, list.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(Key::parse(first.trim_end()).unwrap(), keys[0]);
    let output = list.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}

//! The conformance suite can fail: each of these ports has one fault, and the suite must find it, with the case that is
//! meant for it. And each case must find some fault, or it checks nothing.

mod commands;
mod concurrent;
mod conditional;
mod keys;
mod lists;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvof_kv::conformance::{Outcome, Profile, RunOptions, cases, run};
use kvof_kv::model::{ReferenceConfig, ReferenceStore, StorePort};
use kvof_kv::{Data, Key, KvCommand, KvLimits, KvOpcode, KvPort, ListReader, PortError, PortInfo, Reply, Status};

const NSID: u32 = 1;
const LIMITS: KvLimits = KvLimits { kvkml: 16, kvvml: 300_000, mnks: 0, novg: 4096 };

/// What a fault may work with.
struct Inner {
    port: StorePort<ReferenceStore>,
    /// Commands that are being executed.
    in_flight: AtomicUsize,
    /// For faults that count or remember.
    counter: AtomicUsize,
    memory: Mutex<BTreeMap<Key, usize>>,
}

type Fault = fn(&Inner, &KvCommand, Data<'_>) -> Result<Reply, PortError>;

struct Mutant {
    name: &'static str,
    /// Cases that must fail; others may too.
    caught_by: &'static [&'static str],
    fault: Fault,
    report: fn(&mut PortInfo),
    identify: fn(&mut [u8]),
}

struct Faulty<'a> {
    inner: Inner,
    mutant: &'a Mutant,
}

impl KvPort for Faulty<'_> {
    fn info(&self) -> PortInfo {
        let mut info = self.inner.port.info();
        (self.mutant.report)(&mut info);
        info
    }

    fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
        self.inner.in_flight.fetch_add(1, Ordering::SeqCst);
        let reply = (self.mutant.fault)(&self.inner, command, data);
        self.inner.in_flight.fetch_sub(1, Ordering::SeqCst);
        reply
    }

    fn admin_set_ednek(&self, on: bool) -> Option<Result<Status, PortError>> {
        self.inner.port.admin_set_ednek(on)
    }

    fn admin_get_ednek(&self) -> Option<Result<bool, PortError>> {
        self.inner.port.admin_get_ednek()
    }

    fn admin_identify_namespace(&self) -> Option<Result<Vec<u8>, PortError>> {
        Some(self.inner.port.admin_identify_namespace()?.map(|mut bytes| {
            (self.mutant.identify)(&mut bytes);
            bytes
        }))
    }
}

impl Inner {
    fn key(&self, command: &KvCommand) -> Option<Key> {
        Key::new(command.key.get(..usize::from(command.key_len))?).ok()
    }

    fn exists(&self, command: &KvCommand) -> bool {
        self.key(command).is_some_and(|key| self.port.exist(&key).is_ok_and(|reply| reply.status.is_success()))
    }

    fn value(&self, command: &KvCommand) -> Option<Vec<u8>> {
        let key = self.key(command)?;
        let mut bytes = vec![0; LIMITS.kvvml as usize];
        let reply = self.port.retrieve(&key, &mut bytes).ok()?;
        bytes.truncate(reply.dw0 as usize);
        reply.status.is_success().then_some(bytes)
    }

    fn keys_from(&self, start: Option<&Key>) -> Vec<Key> {
        let mut bytes = vec![0; 1 << 20];
        self.port.list(start, &mut bytes).unwrap();
        ListReader::new(&bytes).unwrap().map(Result::unwrap).collect()
    }
}

const fn status(status: Status) -> Result<Reply, PortError> {
    Ok(Reply { status, dw0: 0 })
}

fn is(command: &KvCommand, opcode: KvOpcode) -> bool {
    command.opcode == opcode
}

/// Executes with other fields.
fn altered(i: &Inner, command: &KvCommand, data: Data<'_>, alter: impl Fn(&mut KvCommand)) -> Result<Reply, PortError> {
    let mut command = *command;
    alter(&mut command);
    i.port.execute(&command, data)
}

/// Stores other data.
fn stored(i: &Inner, command: &KvCommand, data: Data<'_>, alter: impl Fn(&mut Vec<u8>)) -> Result<Reply, PortError> {
    match data {
        Data::Out(bytes) if is(command, KvOpcode::STORE) && command.size as usize == bytes.len() => {
            let mut bytes = bytes.to_vec();
            alter(&mut bytes);
            let command = KvCommand { size: bytes.len() as u32, ..*command };
            i.port.execute(&command, Data::Out(&bytes))
        }
        data => i.port.execute(command, data),
    }
}

/// Lets `alter` see reply and buffer of a Retrieve, as (reply, buffer before, buffer after).
fn retrieved(
    i: &Inner,
    command: &KvCommand,
    data: Data<'_>,
    alter: impl Fn(&mut Reply, &[u8], &mut [u8]),
) -> Result<Reply, PortError> {
    match data {
        Data::In(bytes) if is(command, KvOpcode::RETRIEVE) => {
            let before = bytes.to_vec();
            let mut reply = i.port.execute(command, Data::In(bytes))?;
            alter(&mut reply, &before, bytes);
            Ok(reply)
        }
        data => i.port.execute(command, data),
    }
}

/// Replaces the data of a List that succeeds by what `encode` makes of the keys from the start on and the buffer size.
fn listed(
    i: &Inner,
    command: &KvCommand,
    data: Data<'_>,
    encode: impl Fn(&[Key], usize) -> Vec<u8>,
) -> Result<Reply, PortError> {
    match data {
        Data::In(bytes) if is(command, KvOpcode::LIST) => {
            let before = bytes.to_vec();
            let reply = i.port.execute(command, Data::In(bytes))?;
            if reply.status.is_success() {
                bytes.copy_from_slice(&before);
                let list = encode(&i.keys_from(i.key(command).as_ref()), command.size as usize);
                let len = list.len().min(bytes.len());
                bytes[..len].copy_from_slice(&list[..len]);
            }
            Ok(reply)
        }
        data => i.port.execute(command, data),
    }
}

/// A list as it should be but for `pad`, which gives an entry's padding for its length without.
fn encode(keys: &[Key], room: usize, pad: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let mut list = vec![0; 4];
    let mut count = 0_u32;
    for key in keys {
        let mut entry = (key.len() as u16).to_le_bytes().to_vec();
        entry.extend_from_slice(key.as_bytes());
        entry.extend(pad(entry.len()));
        if list.len() + entry.len() > room {
            break;
        }
        list.extend(entry);
        count += 1;
    }
    list[..4].copy_from_slice(&count.to_le_bytes());
    list
}

fn zeros(len: usize) -> Vec<u8> {
    vec![0; len.next_multiple_of(4) - len]
}

fn mutant(name: &'static str, caught_by: &'static [&'static str], fault: Fault) -> Mutant {
    Mutant { name, caught_by, fault, report: |_| (), identify: |_| () }
}

fn failing_cases(mutant: &Mutant, profile: Profile) -> BTreeSet<&'static str> {
    let config = ReferenceConfig { limits: LIMITS, capacity: 64 << 20, slot_quota: 8 << 20 };
    let faulty = Faulty {
        inner: Inner {
            port: StorePort::new(ReferenceStore::new(config), NSID, 1 << 20, mutant.name),
            in_flight: AtomicUsize::new(0),
            counter: AtomicUsize::new(0),
            memory: Mutex::default(),
        },
        mutant,
    };
    let options = RunOptions { profile, ..RunOptions::default() };
    let mut failing = BTreeSet::new();
    run(&faulty, &options, &mut |report| {
        if let Outcome::Failed(reason) = &report.outcome {
            assert!(!reason.contains("panicked"), "{}: {}: {reason}", mutant.name, report.name);
            failing.insert(report.name);
        }
    });
    failing
}

fn mutants() -> Vec<Mutant> {
    [
        keys::mutants(),
        values::mutants(),
        conditional::mutants(),
        lists::mutants(),
        commands::mutants(),
        concurrent::mutants(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn every_fault_is_found_and_every_case_finds_one() {
    let mut useful = BTreeSet::new();
    let mut missed = Vec::new();
    for mutant in mutants() {
        let failing = failing_cases(&mutant, Profile::Kvof);
        for case in mutant.caught_by.iter().filter(|case| !failing.contains(*case)) {
            missed.push(format!("{case} does not find: {}", mutant.name));
        }
        useful.extend(failing);
    }
    let useless = cases().map(|case| case.name).filter(|name| !useful.contains(name));
    missed.extend(useless.map(|name| format!("{name} finds no fault")));
    assert!(missed.is_empty(), "{missed:#?}");
}

/// The faults that are choices in the field: the standard profile lets them pass, this project's does not.
#[test]
fn choices_of_others_pass_the_standard_profile_only() {
    let choices = [
        mutant("Exist and Store give the value's length", &[], |i, c, d| {
            let reply = i.port.execute(c, d)?;
            let length = i.value(c).map_or(0, |value| value.len() as u32);
            let gives = reply.status.is_success() && (is(c, KvOpcode::EXIST) || is(c, KvOpcode::STORE));
            Ok(if gives { Reply { dw0: length, ..reply } } else { reply })
        }),
        mutant("a key length above 16 is Invalid Key Size for all", &[], |i, c, d| {
            if c.key_len > 16 && c.nsid == NSID { status(Status::INVALID_KEY_SIZE) } else { i.port.execute(c, d) }
        }),
        mutant("both conditions are refused", &[], |i, c, d| {
            let both = is(c, KvOpcode::STORE) && c.options & 3 == 3;
            if both { status(Status::INVALID_FIELD) } else { i.port.execute(c, d) }
        }),
        mutant("reserved fields are checked", &[], |i, c, d| {
            let set = c.cdw11_upper != 0 || c.cdw12 != 0 || c.cdw13 != 0;
            if set { status(Status::INVALID_FIELD) } else { i.port.execute(c, d) }
        }),
        mutant("the order is bytewise", &[], |i, c, d| {
            let all = i.keys_from(None);
            let start = i.key(c);
            listed(i, c, d, |_, room| {
                let mut keys = all.clone();
                keys.retain(|key| start.is_none_or(|start| key.as_bytes() >= start.as_bytes()));
                keys.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
                encode(&keys, room, zeros)
            })
        }),
        mutant("List zeroes the rest of its buffer", &[], |i, c, d| {
            listed(i, c, d, |keys, room| {
                let mut list = encode(keys, room, zeros);
                list.resize(room, 0);
                list
            })
        }),
        mutant("every wrong NSID is Invalid Field", &[], |i, c, d| {
            if c.nsid == NSID { i.port.execute(c, d) } else { status(Status::INVALID_FIELD) }
        }),
    ];
    for choice in choices {
        let standard = failing_cases(&choice, Profile::Standard);
        assert!(standard.is_empty(), "{}: {standard:?}", choice.name);
        assert!(!failing_cases(&choice, Profile::Kvof).is_empty(), "{}", choice.name);
    }
}

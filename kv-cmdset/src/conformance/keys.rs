//! Keys: every length, every byte value, and what must not count.

use kvof_spec::{KvOpcode, Status};

use super::context::{CaseResult, Context, PREFIX_LEN, fail, skip};
use super::{Case, KEYS};
use crate::{Data, Key, KvCommand, StoreOptions};

pub(super) const CASES: &[Case] = &[
    Case { name: "key.lengths", about: "keys of every length from 1 to KVKML", reference: KEYS, check: lengths },
    Case {
        name: "key.one_byte",
        about: "all 256 keys of one byte are different keys",
        reference: KEYS,
        check: one_byte,
    },
    Case {
        name: "key.every_position",
        about: "every byte of a key counts, for byte values of every kind",
        reference: KEYS,
        check: every_position,
    },
    Case {
        name: "key.length_counts",
        about: "keys that differ only by zero bytes at their end are different keys",
        reference: KEYS,
        check: length_counts,
    },
    Case {
        name: "key.rest_ignored",
        about: "bytes of the key fields after the key's length do not count",
        reference: KEYS,
        check: rest_ignored,
    },
    Case {
        name: "key.length_0",
        about: "key length 0 is Invalid Key Size but for List",
        reference: KEYS,
        check: length_0,
    },
    Case {
        name: "key.length_over_16",
        about: "key lengths above 16 are refused and nothing is stored",
        reference: KEYS,
        check: length_over_16,
    },
    Case {
        name: "key.length_over_kvkml",
        about: "a key longer than KVKML, up to 16 bytes, is Invalid Key Size",
        reference: KEYS,
        check: length_over_kvkml,
    },
];

fn lengths(c: &mut Context<'_>) -> CaseResult {
    let mut keys = Vec::new();
    for len in 1..=c.kvkml() {
        // A short key may be somebody else's: look for a free one.
        for _ in 0..64 {
            let bytes: Vec<u8> = (0..len).map(|_| c.rng.next().to_le_bytes()[0]).collect();
            let key = Key::new(&bytes).map_err(|error| super::Stop::Failed(error.to_string()))?;
            if c.claim(&key)? {
                let value = c.value(len * 3);
                keys.push((key, value));
                break;
            }
        }
    }
    if keys.is_empty() {
        return skip("every key that was tried exists");
    }
    store_check_delete(c, &keys)
}

fn one_byte(c: &mut Context<'_>) -> CaseResult {
    let mut keys = Vec::new();
    for byte in 0..=u8::MAX {
        let key = Key::new(&[byte]).map_err(|error| super::Stop::Failed(error.to_string()))?;
        if c.claim(&key)? {
            let value = c.value(9);
            keys.push((key, value));
        }
    }
    store_check_delete(c, &keys)
}

/// Byte values that text handling, sign extension and masks tell apart.
const TELLING: [u8; 14] = [0x00, 0x01, 0x09, 0x0a, 0x20, 0x2f, 0x41, 0x61, 0x7f, 0x80, 0x81, 0xc3, 0xfe, 0xff];

fn every_position(c: &mut Context<'_>) -> CaseResult {
    let len = c.kvkml();
    let base: Vec<u8> = (0..len).map(|_| c.rng.next().to_le_bytes()[0]).collect();
    let mut keys = Vec::new();
    for position in 0..len {
        for byte in TELLING {
            let mut bytes = base.clone();
            bytes[position] = byte;
            let key = Key::new(&bytes).map_err(|error| super::Stop::Failed(error.to_string()))?;
            if !keys.iter().any(|(other, _)| *other == key) && c.claim(&key)? {
                let value = c.value(12);
                keys.push((key, value));
            }
        }
    }
    store_check_delete(c, &keys)
}

fn length_counts(c: &mut Context<'_>) -> CaseResult {
    let mut keys = Vec::new();
    for zeros in 0..=c.kvkml().saturating_sub(PREFIX_LEN + 1) {
        let mut suffix = vec![b'a'];
        suffix.resize(1 + zeros, 0);
        let key = c.key(&suffix)?;
        let value = c.value(20);
        keys.push((key, value));
    }
    store_check_delete(c, &keys)
}

/// Stores all, so that a confusion of any two shows; then checks each; then deletes one by one, each of which must
/// leave the next.
fn store_check_delete(c: &Context<'_>, keys: &[(Key, Vec<u8>)]) -> CaseResult {
    for (key, value) in keys {
        c.store(key, value)?;
    }
    for (key, value) in keys {
        c.expect_exists(key, value.len())?;
        c.expect_value(key, value)?;
    }
    for (index, (key, _)) in keys.iter().enumerate() {
        c.delete(key)?;
        c.expect_absent(key)?;
        if let Some((next, value)) = keys.get(index + 1) {
            c.expect_value(next, value)?;
        }
    }
    Ok(())
}

fn rest_ignored(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"k")?;
    let value = c.value(40);
    let nsid = c.info.nsid;
    let dirty = |mut command: KvCommand, byte: u8| {
        command.key[key.len()..].fill(byte);
        command
    };
    if key.len() == Key::MAX_LEN {
        return fail("the key leaves no room");
    }
    let store = dirty(KvCommand::store(nsid, &key, StoreOptions::empty(), 40), 0xee);
    let reply = c.execute(&store, Data::Out(&value))?;
    c.expect("Store with bytes after the key", reply, Status::SUCCESS)?;
    c.expect_value(&key, &value)?;
    let mut buffer = vec![0; 40];
    let retrieve = dirty(KvCommand::retrieve(nsid, &key, crate::RetrieveOptions::empty(), 40), 0x11);
    let reply = c.execute(&retrieve, Data::In(&mut buffer))?;
    c.expect("Retrieve with bytes after the key", reply, Status::SUCCESS)?;
    super::context::expect_bytes("Retrieve with bytes after the key", &buffer, &value)?;
    let reply = c.execute(&dirty(KvCommand::exist(nsid, &key), 0x22), Data::None)?;
    c.expect("Exist with bytes after the key", reply, Status::SUCCESS)?;
    let mut buffer = vec![0; 64];
    let reply = c.execute(&dirty(KvCommand::list(nsid, Some(&key), 64), 0x33), Data::In(&mut buffer))?;
    c.expect("List with bytes after the key", reply, Status::SUCCESS)?;
    let first = crate::ListReader::new(&buffer).ok().and_then(|mut list| list.next()).and_then(Result::ok);
    super::context::expect_eq("first key of List with bytes after the key", first, Some(key))?;
    let reply = c.execute(&dirty(KvCommand::delete(nsid, &key), 0x44), Data::None)?;
    c.expect("Delete with bytes after the key", reply, Status::SUCCESS)?;
    c.expect_absent(&key)
}

/// The commands that need a key, with `key_len` instead of its length.
fn with_length(nsid: u32, key: &Key, key_len: u8) -> [KvCommand; 4] {
    [
        KvCommand::store(nsid, key, StoreOptions::empty(), 32),
        KvCommand::retrieve(nsid, key, crate::RetrieveOptions::empty(), 32),
        KvCommand::exist(nsid, key),
        KvCommand::delete(nsid, key),
    ]
    .map(|command| KvCommand { key_len, key: [0x5a; 16], ..command })
}

fn execute_wrong(c: &Context<'_>, command: &KvCommand) -> Result<crate::Reply, super::Stop> {
    let mut buffer = [0; 32];
    let data = match command.opcode {
        KvOpcode::STORE => Data::Out(&buffer),
        KvOpcode::RETRIEVE | KvOpcode::LIST => Data::In(&mut buffer),
        _ => Data::None,
    };
    c.execute(command, data)
}

fn length_0(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"k")?;
    for command in with_length(c.info.nsid, &key, 0) {
        let reply = execute_wrong(c, &command)?;
        c.expect(format_args!("{} with key length 0", command.opcode), reply, Status::INVALID_KEY_SIZE)?;
    }
    let mut buffer = [0; 64];
    let list = KvCommand { key: [0x5a; 16], ..KvCommand::list(c.info.nsid, None, 64) };
    let reply = c.execute(&list, Data::In(&mut buffer))?;
    c.expect("List with key length 0", reply, Status::SUCCESS)
}

fn length_over_16(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"k")?;
    // What a target would find that cut the length down to 16, to its low 4 or 5 bits, or to a signed number.
    let cut: Vec<Key> = [16, 1].iter().filter_map(|len| Key::new(&[0x5a; 16][..*len]).ok()).collect();
    let mut free = Vec::new();
    let kvkml = c.kvkml();
    for key in cut.iter().filter(|key| key.len() <= kvkml) {
        if c.claim(key)? {
            free.push(*key);
        }
    }
    for key_len in [17, 18, 24, 31, 32, 33, 48, 127, 128, 129, 255] {
        let list = KvCommand { key_len, key: [0x5a; 16], ..KvCommand::list(c.info.nsid, Some(&key), 32) };
        for command in with_length(c.info.nsid, &key, key_len).into_iter().chain([list]) {
            let (ours, theirs) = match command.opcode {
                KvOpcode::STORE => (Status::INVALID_KEY_SIZE, Status::INVALID_FIELD),
                _ => (Status::INVALID_FIELD, Status::INVALID_KEY_SIZE),
            };
            let reply = execute_wrong(c, &command)?;
            c.expect_any(format_args!("{} with key length {key_len}", command.opcode), reply, ours, &[theirs])?;
            free.iter().try_for_each(|key| c.expect_absent(key))?;
        }
    }
    Ok(())
}

fn length_over_kvkml(c: &mut Context<'_>) -> CaseResult {
    if c.kvkml() >= Key::MAX_LEN {
        return skip("KVKML is 16");
    }
    let key = c.key(b"k")?;
    for key_len in c.kvkml() + 1..=Key::MAX_LEN {
        let Ok(key_len) = u8::try_from(key_len) else { continue };
        let list = KvCommand { key_len, key: [0x5a; 16], ..KvCommand::list(c.info.nsid, Some(&key), 32) };
        for command in with_length(c.info.nsid, &key, key_len).into_iter().chain([list]) {
            let reply = execute_wrong(c, &command)?;
            let what = format!("{} with key length {key_len}, KVKML {}", command.opcode, c.kvkml());
            c.expect(what, reply, Status::INVALID_KEY_SIZE)?;
        }
    }
    Ok(())
}

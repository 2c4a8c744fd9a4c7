//! The conformance suite can fail: each of these ports has one fault, and the suite must find it, with the case that is
//! meant for it. And each case must find some fault, or it checks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kvof_kv::conformance::{Outcome, Profile, RunOptions, cases, run};
use kvof_kv::model::{ReferenceConfig, ReferenceStore, StorePort};
use kvof_kv::{
    Data, Key, KvCommand, KvLimits, KvOpcode, KvPort, ListReader, PortError, PortInfo, Reply, RetrieveOptions, Status,
    StoreOptions,
};

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

fn key_mutants() -> Vec<Mutant> {
    vec![
        mutant("keys of 13 bytes are refused", &["key.lengths"], |i, c, d| {
            if c.key_len == 13 { status(Status::INVALID_KEY_SIZE) } else { i.port.execute(c, d) }
        }),
        mutant("keys end at a zero byte", &["key.one_byte", "key.every_position", "key.length_counts"], |i, c, d| {
            altered(i, c, d, |c| {
                let len = c.key.iter().position(|b| *b == 0).unwrap_or(16);
                c.key_len = c.key_len.min(len as u8);
            })
        }),
        mutant("keys are not case sensitive", &["key.one_byte", "key.every_position"], |i, c, d| {
            altered(i, c, d, |c| c.key.make_ascii_lowercase())
        }),
        mutant("keys have seven bits", &["key.one_byte", "key.every_position"], |i, c, d| {
            altered(i, c, d, |c| c.key.iter_mut().for_each(|b| *b &= 0x7f))
        }),
        mutant("CDW15 is not part of the key", &["key.every_position"], |i, c, d| {
            altered(i, c, d, |c| c.key[12..].fill(0))
        }),
        mutant("the length is not part of the key", &["key.length_counts"], |i, c, d| {
            altered(i, c, d, |c| {
                if (1..=16).contains(&c.key_len) {
                    c.key[usize::from(c.key_len)..].fill(0);
                    c.key_len = 16;
                }
            })
        }),
        mutant("bytes after the key count", &["key.rest_ignored"], |i, c, d| {
            altered(i, c, d, |c| {
                if (1..=16).contains(&c.key_len) && c.key[usize::from(c.key_len)..].iter().any(|b| *b != 0) {
                    c.key_len = 16;
                }
            })
        }),
        mutant("key length 0 is taken as 1", &["key.length_0"], |i, c, d| {
            altered(i, c, d, |c| c.key_len = c.key_len.max(1))
        }),
        mutant("key length 0 is refused for List", &["key.length_0", "list.walk"], |i, c, d| {
            if c.key_len == 0 { status(Status::INVALID_KEY_SIZE) } else { i.port.execute(c, d) }
        }),
        mutant("key lengths above 16 are taken as 16", &["key.length_over_16"], |i, c, d| {
            altered(i, c, d, |c| c.key_len = c.key_len.min(16))
        }),
        mutant("key lengths have five bits", &["key.length_over_16"], |i, c, d| {
            altered(i, c, d, |c| c.key_len &= 0x1f)
        }),
        mutant("a key that is too long is stored but reported", &["key.length_over_16"], |i, c, d| {
            let reply = altered(i, c, d, |c| c.key_len = c.key_len.min(16))?;
            if c.key_len <= 16 {
                return Ok(reply);
            }
            status(if is(c, KvOpcode::STORE) { Status::INVALID_KEY_SIZE } else { Status::INVALID_FIELD })
        }),
        Mutant {
            report: |info| info.limits.kvkml = 12,
            ..mutant("KVKML is not enforced", &["key.length_over_kvkml"], |i, c, d| i.port.execute(c, d))
        },
    ]
}

fn value_mutants() -> Vec<Mutant> {
    vec![
        mutant("empty values are refused", &["value.empty"], |i, c, d| {
            if is(c, KvOpcode::STORE) && c.size == 0 {
                status(Status::INVALID_VALUE_SIZE)
            } else {
                i.port.execute(c, d)
            }
        }),
        mutant("an empty value deletes", &["value.empty"], |i, c, d| {
            let delete = is(c, KvOpcode::STORE) && c.size == 0;
            if delete { altered(i, c, Data::None, |c| c.opcode = KvOpcode::DELETE) } else { i.port.execute(c, d) }
        }),
        mutant("the last byte of a full page is lost", &["value.sizes"], |i, c, d| {
            stored(i, c, d, |bytes| {
                if bytes.len().is_multiple_of(4096)
                    && let Some(last) = bytes.last_mut()
                {
                    *last = 0;
                }
            })
        }),
        mutant("the second half of 64 KiB comes first", &["value.sizes", "value.largest"], |i, c, d| {
            stored(i, c, d, |bytes| bytes.chunks_exact_mut(65_536).for_each(|chunk| chunk.rotate_left(32_768)))
        }),
        mutant("values are kept in units of 4 bytes", &["value.sizes"], |i, c, d| {
            stored(i, c, d, |bytes| bytes.resize(bytes.len().next_multiple_of(4), 0))
        }),
        mutant("KVVML is the first length that is refused", &["value.largest"], |i, c, d| {
            let refused = is(c, KvOpcode::STORE) && c.size >= LIMITS.kvvml;
            if refused { status(Status::INVALID_VALUE_SIZE) } else { i.port.execute(c, d) }
        }),
        mutant("what is too long is ignored", &["value.too_large"], |i, c, d| {
            if is(c, KvOpcode::STORE) && c.size > LIMITS.kvvml { status(Status::SUCCESS) } else { i.port.execute(c, d) }
        }),
        mutant("what is too long is cut, and reported", &["value.too_large"], |i, c, d| {
            if !is(c, KvOpcode::STORE) || c.size <= LIMITS.kvvml {
                return i.port.execute(c, d);
            }
            let len = (d.len() as u32).min(LIMITS.kvvml);
            altered(i, c, d, |c| c.size = len)?;
            status(Status::INVALID_VALUE_SIZE)
        }),
        mutant("the data length is checked before the value size", &["value.too_large"], |i, c, d| {
            let short = is(c, KvOpcode::STORE) && d.len() < c.size as usize;
            if short { status(Status::DATA_SGL_LENGTH_INVALID) } else { i.port.execute(c, d) }
        }),
        mutant("a shorter value keeps the longer one's end", &["value.overwrite"], |i, c, d| {
            let old = i.value(c).unwrap_or_default();
            stored(i, c, d, |bytes| bytes.extend_from_slice(old.get(bytes.len()..).unwrap_or_default()))
        }),
        mutant("an existing value is not replaced", &["value.overwrite"], |i, c, d| {
            if is(c, KvOpcode::STORE) && i.exists(c) { status(Status::SUCCESS) } else { i.port.execute(c, d) }
        }),
        mutant("a truncated value lacks its last byte", &["retrieve.truncated"], |i, c, d| {
            retrieved(i, c, d, |reply, before, bytes| {
                let end = (c.size as usize).min(bytes.len());
                if reply.dw0 as usize > end && end > 0 {
                    bytes[end - 1] = before[end - 1];
                }
            })
        }),
        mutant(
            "a truncated value is one byte too long",
            &["retrieve.truncated", "retrieve.buffer_longer"],
            |i, c, d| {
                let room = d.len() as u32;
                altered(i, c, d, |c| {
                    if is(c, KvOpcode::RETRIEVE) && c.size < room {
                        c.size += 1;
                    }
                })
            },
        ),
        mutant("DW0 is what was transferred", &["retrieve.truncated", "retrieve.buffer_0"], |i, c, d| {
            retrieved(i, c, d, |reply, _, _| reply.dw0 = reply.dw0.min(c.size))
        }),
        mutant("DW0 is 0", &["key.lengths", "value.sizes", "retrieve.buffer_0", "retrieve.truncated"], |i, c, d| {
            retrieved(i, c, d, |reply, _, _| reply.dw0 = 0)
        }),
        mutant("truncation is an error", &["retrieve.truncated", "retrieve.buffer_0"], |i, c, d| {
            retrieved(i, c, d, |reply, _, _| {
                if reply.dw0 > c.size {
                    reply.status = Status::INVALID_VALUE_SIZE;
                }
            })
        }),
        mutant("a buffer of 0 is refused", &["retrieve.buffer_0", "value.empty"], |i, c, d| {
            let refused = is(c, KvOpcode::RETRIEVE) && c.size == 0;
            if refused { status(Status::INVALID_FIELD) } else { i.port.execute(c, d) }
        }),
        mutant("the rest of the buffer is zeroed", &["retrieve.longer_buffer"], |i, c, d| {
            retrieved(i, c, d, |reply, _, bytes| {
                if reply.status.is_success() {
                    let len = (reply.dw0 as usize).min(bytes.len());
                    bytes[len..].fill(0);
                }
            })
        }),
        mutant(
            "a missing key has an empty value",
            &["retrieve.missing", "exist.both", "delete.existing"],
            |i, c, d| {
                retrieved(i, c, d, |reply, _, _| {
                    if reply.status == Status::KEY_DOES_NOT_EXIST {
                        reply.status = Status::SUCCESS;
                    }
                })
            },
        ),
        mutant("the buffer is cleared first", &["retrieve.missing"], |i, c, d| {
            retrieved(i, c, d, |reply, _, bytes| {
                if !reply.status.is_success() {
                    bytes.fill(0);
                }
            })
        }),
        mutant("raw reads are not implemented", &["retrieve.raw"], |i, c, d| {
            let raw = is(c, KvOpcode::RETRIEVE) && c.options & RetrieveOptions::RAW.bits() != 0;
            if raw { status(Status::INVALID_FIELD) } else { i.port.execute(c, d) }
        }),
        mutant("the SGL says how long a value is", &["store.buffer_shorter", "store.buffer_longer"], |i, c, d| {
            let len = d.len() as u32;
            altered(i, c, d, |c| {
                if is(c, KvOpcode::STORE) && len <= LIMITS.kvvml && c.size <= LIMITS.kvvml {
                    c.size = len;
                }
            })
        }),
        mutant(
            "the SGL says how much to transfer",
            &["retrieve.truncated", "retrieve.buffer_longer", "list.buffer_field"],
            |i, c, d| {
                let len = d.len() as u32;
                altered(i, c, d, |c| {
                    if is(c, KvOpcode::RETRIEVE) || (is(c, KvOpcode::LIST) && c.size >= 4) {
                        c.size = len;
                    }
                })
            },
        ),
    ]
}

fn conditional_mutants() -> Vec<Mutant> {
    vec![
        mutant("SINKE is ignored", &["store.conditions", "concurrent.store_if_missing"], |i, c, d| {
            altered(i, c, d, |c| c.options &= if is(c, KvOpcode::STORE) { 0xfd } else { 0xff })
        }),
        mutant("SIKE is ignored", &["store.conditions"], |i, c, d| {
            altered(i, c, d, |c| c.options &= if is(c, KvOpcode::STORE) { 0xfe } else { 0xff })
        }),
        mutant("SIKE and SINKE are swapped", &["store.conditions"], |i, c, d| {
            altered(i, c, d, |c| {
                if is(c, KvOpcode::STORE) {
                    c.options = c.options & 0xfc | c.options >> 1 & 1 | c.options << 1 & 2;
                }
            })
        }),
        mutant("both conditions are none", &["store.conditions"], |i, c, d| {
            altered(i, c, d, |c| {
                if is(c, KvOpcode::STORE) && c.options & 3 == 3 {
                    c.options = 0;
                }
            })
        }),
        mutant("an unfulfilled condition is reported after storing", &["store.conditions"], |i, c, d| {
            let reply = match d {
                Data::Out(bytes) if is(c, KvOpcode::STORE) => i.port.execute(c, Data::Out(bytes)).inspect(|_| {
                    let _ = altered(i, c, Data::Out(bytes), |c| c.options = 0);
                }),
                d => i.port.execute(c, d),
            }?;
            Ok(reply)
        }),
        mutant("the compression option is refused", &["store.no_compress", "retrieve.raw"], |i, c, d| {
            let refused = is(c, KvOpcode::STORE) && c.options & StoreOptions::NO_COMPRESS.bits() != 0;
            if refused { status(Status::INVALID_FIELD) } else { i.port.execute(c, d) }
        }),
        mutant("Delete does nothing", &["delete.existing", "key.lengths", "list.changes"], |i, c, d| {
            if is(c, KvOpcode::DELETE) { status(Status::SUCCESS) } else { i.port.execute(c, d) }
        }),
        mutant("Delete empties the value", &["delete.existing"], |i, c, d| {
            if is(c, KvOpcode::DELETE) && i.exists(c) {
                return altered(i, c, Data::None, |c| (c.opcode, c.size) = (KvOpcode::STORE, 0));
            }
            i.port.execute(c, d)
        }),
        mutant("Delete takes the next key with it", &["delete.existing", "key.lengths"], |i, c, d| {
            if is(c, KvOpcode::DELETE)
                && let Some(next) = i.keys_from(i.key(c).as_ref()).get(1)
            {
                i.port.delete(next)?;
            }
            i.port.execute(c, d)
        }),
        mutant("Delete of a missing key is an error", &["delete.missing", "delete.ednek"], |i, c, d| {
            let missing = is(c, KvOpcode::DELETE) && (1..=16).contains(&c.key_len) && !i.exists(c);
            if missing { status(Status::KEY_DOES_NOT_EXIST) } else { i.port.execute(c, d) }
        }),
        mutant("EDNEK has no effect", &["delete.ednek"], |i, c, d| {
            let reply = i.port.execute(c, d)?;
            let missing = is(c, KvOpcode::DELETE) && reply.status == Status::KEY_DOES_NOT_EXIST;
            if missing { status(Status::SUCCESS) } else { Ok(reply) }
        }),
        mutant("Exist remembers deleted keys", &["exist.both", "delete.existing"], |i, c, d| {
            let mut memory = i.memory.lock().unwrap();
            if let Some(key) = i.key(c) {
                match c.opcode {
                    KvOpcode::STORE => drop(memory.insert(key, 1)),
                    KvOpcode::EXIST if memory.contains_key(&key) => return status(Status::SUCCESS),
                    _ => {}
                }
            }
            drop(memory);
            i.port.execute(c, d)
        }),
        mutant(
            "key statuses are command specific",
            &["exist.both", "store.conditions", "retrieve.missing"],
            |i, c, d| {
                let reply = i.port.execute(c, d)?;
                let specific = (0x85..=0x89).contains(&reply.status.0);
                Ok(Reply { status: if specific { Status(reply.status.0 | 0x100) } else { reply.status }, ..reply })
            },
        ),
    ]
}

fn list_mutants() -> Vec<Mutant> {
    vec![
        mutant("padding is (2 + KL) % 4", &["list.walk", "list.every_start", "list.every_buffer"], |i, c, d| {
            listed(i, c, d, |keys, room| encode(keys, room, |len| vec![0; len % 4]))
        }),
        mutant("there is no padding", &["list.walk", "list.every_buffer"], |i, c, d| {
            listed(i, c, d, |keys, room| encode(keys, room, |_| Vec::new()))
        }),
        mutant("padding is not zero", &["list.every_buffer"], |i, c, d| {
            listed(i, c, d, |keys, room| encode(keys, room, |len| vec![b' '; zeros(len).len()]))
        }),
        mutant("the last key needs no padding", &["list.every_buffer"], |i, c, d| {
            listed(i, c, d, |keys, room| {
                let mut list = encode(keys, room + 3, zeros);
                list.truncate(room);
                list
            })
        }),
        mutant("a key that ends with the buffer does not fit", &["list.every_buffer"], |i, c, d| {
            listed(i, c, d, |keys, room| encode(keys, room.saturating_sub(1).max(4), zeros))
        }),
        mutant("NRK counts the key that did not fit", &["list.every_buffer", "list.small_buffer"], |i, c, d| {
            listed(i, c, d, |keys, room| {
                let mut list = encode(keys, room, zeros);
                if encode(keys, usize::MAX, zeros).len() > list.len() {
                    list[0] += 1;
                }
                list
            })
        }),
        mutant("NRK is 0's based", &["list.walk", "list.empty"], |i, c, d| {
            listed(i, c, d, |keys, room| {
                let mut list = encode(keys, room, zeros);
                let count = u32::from_le_bytes([list[0], list[1], list[2], list[3]]).wrapping_sub(1);
                list[..4].copy_from_slice(&count.to_le_bytes());
                list
            })
        }),
        mutant("the whole buffer is written", &["list.every_buffer", "list.every_start", "list.empty"], |i, c, d| {
            listed(i, c, d, |keys, room| {
                let mut list = encode(keys, room, zeros);
                list.resize(room, 0);
                list
            })
        }),
        mutant("the start key is left out", &["list.every_start", "list.walk", "key.rest_ignored"], |i, c, d| {
            let skip = i.exists(c);
            listed(i, c, d, |keys, room| encode(&keys[usize::from(skip && !keys.is_empty())..], room, zeros))
        }),
        mutant("the order is bytewise", &["list.walk"], |i, c, d| {
            let all = i.keys_from(None);
            let start = i.key(c);
            listed(i, c, d, |_, room| {
                let mut keys = all.clone();
                keys.retain(|key| start.is_none_or(|start| key.as_bytes() >= start.as_bytes()));
                keys.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
                encode(&keys, room, zeros)
            })
        }),
        mutant("the order changes", &["list.every_buffer"], |i, c, d| {
            let swap = i.counter.fetch_add(1, Ordering::Relaxed) % 5 == 4;
            listed(i, c, d, |keys, room| {
                let mut keys = keys.to_vec();
                if swap && keys.len() > 2 {
                    keys.swap(1, 2);
                }
                encode(&keys, room, zeros)
            })
        }),
        mutant("the longest keys are not listed", &["list.walk"], |i, c, d| {
            listed(i, c, d, |keys, room| {
                let short: Vec<Key> = keys.iter().copied().filter(|key| key.len() < 16).collect();
                encode(&short, room, zeros)
            })
        }),
        mutant("a start key that does not exist lists nothing", &["list.absent_start"], |i, c, d| {
            let missing = i.key(c).is_some() && !i.exists(c);
            listed(i, c, d, |keys, room| encode(if missing { &[] } else { keys }, room, zeros))
        }),
        mutant(
            "a start key that does not exist is an error",
            &["list.absent_start", "list.past_the_end"],
            |i, c, d| {
                let missing = is(c, KvOpcode::LIST) && i.key(c).is_some() && !i.exists(c);
                if missing { status(Status::KEY_DOES_NOT_EXIST) } else { i.port.execute(c, d) }
            },
        ),
        mutant("List begins again at the end", &["list.past_the_end"], |i, c, d| {
            let all = i.keys_from(None);
            listed(i, c, d, |keys, room| encode(if keys.is_empty() { &all } else { keys }, room, zeros))
        }),
        mutant("an empty list is an error", &["list.empty"], |i, c, d| {
            let empty = is(c, KvOpcode::LIST) && i.keys_from(None).is_empty();
            if empty { status(Status::KEY_DOES_NOT_EXIST) } else { i.port.execute(c, d) }
        }),
        mutant("List does not see a key before it is stored twice", &["list.changes"], |i, c, d| {
            if is(c, KvOpcode::STORE)
                && let Some(key) = i.key(c)
            {
                *i.memory.lock().unwrap().entry(key).or_default() += 1;
            }
            listed(i, c, d, |keys, room| {
                let memory = i.memory.lock().unwrap();
                let seen: Vec<Key> =
                    keys.iter().copied().filter(|key| memory.get(key).is_some_and(|n| *n > 1)).collect();
                encode(&seen, room, zeros)
            })
        }),
        mutant("a buffer without room for the count is fine", &["list.small_buffer"], |i, c, d| {
            let small = is(c, KvOpcode::LIST) && c.key_len <= 16 && c.size < 4;
            if small { status(Status::SUCCESS) } else { i.port.execute(c, d) }
        }),
        mutant("a buffer without room for a key is refused", &["list.small_buffer", "list.every_buffer"], |i, c, d| {
            let small = is(c, KvOpcode::LIST) && c.size < 8;
            if small { status(Status::INVALID_FIELD) } else { i.port.execute(c, d) }
        }),
        mutant("DW0 of List is its count", &["list.walk"], |i, c, d| {
            let reply = i.port.execute(c, d)?;
            let dw0 = if is(c, KvOpcode::LIST) { i.keys_from(None).len() as u32 } else { reply.dw0 };
            Ok(Reply { dw0, ..reply })
        }),
    ]
}

fn command_mutants() -> Vec<Mutant> {
    vec![
        mutant("the NSID is not looked at", &["nsid.zero", "nsid.broadcast", "nsid.unused"], |i, c, d| {
            altered(i, c, d, |c| c.nsid = NSID)
        }),
        mutant("NSID FFFFFFFFh means each namespace", &["nsid.broadcast"], |i, c, d| {
            altered(i, c, d, |c| {
                if c.nsid == u32::MAX {
                    c.nsid = NSID;
                }
            })
        }),
        mutant("unknown opcodes succeed", &["opcode.unknown"], |i, c, d| {
            let reply = i.port.execute(c, d)?;
            if reply.status == Status::INVALID_OPCODE { status(Status::SUCCESS) } else { Ok(reply) }
        }),
        mutant("the opcode has seven bits", &["opcode.unknown"], |i, c, d| {
            altered(i, c, d, |c| {
                if c.opcode.0 == 0x41 {
                    c.opcode = KvOpcode::EXIST;
                }
            })
        }),
        mutant("CDW12 must be zero", &["reserved.fields"], |i, c, d| {
            if c.cdw12 != 0 { status(Status::INVALID_FIELD) } else { i.port.execute(c, d) }
        }),
        mutant("option bit 3 is SIKE too", &["reserved.fields"], |i, c, d| {
            altered(i, c, d, |c| c.options |= if is(c, KvOpcode::STORE) { c.options >> 3 & 1 } else { 0 })
        }),
        mutant("the key length has 16 bits", &["reserved.fields"], |i, c, d| {
            if c.cdw11_upper != 0 { status(Status::INVALID_KEY_SIZE) } else { i.port.execute(c, d) }
        }),
        Mutant {
            identify: |bytes| bytes[25] = 16,
            ..mutant("NKVF is more than there can be", &["identify.namespace"], |i, c, d| i.port.execute(c, d))
        },
        Mutant {
            identify: |bytes| bytes[76..80].copy_from_slice(&4096_u32.to_le_bytes()),
            ..mutant("KVVML of Identify is not what holds", &["identify.namespace"], |i, c, d| i.port.execute(c, d))
        },
        Mutant {
            identify: |bytes| bytes[88] = 16,
            ..mutant("there are more formats than NKVF says", &["identify.namespace"], |i, c, d| i.port.execute(c, d))
        },
    ]
}

fn concurrent_mutants() -> Vec<Mutant> {
    vec![
        mutant("Store is not atomic", &["concurrent.one_key", "concurrent.store_and_delete"], |i, c, d| match d {
            Data::Out(bytes) if is(c, KvOpcode::STORE) && bytes.len() > 8 && c.options == 0 => {
                let half = &bytes[..bytes.len() / 2];
                altered(i, c, Data::Out(half), |c| c.size = c.size.min(half.len() as u32))?;
                std::thread::sleep(Duration::from_micros(50));
                i.port.execute(c, Data::Out(bytes))
            }
            d => i.port.execute(c, d),
        }),
        mutant("Store removes the old value first", &["concurrent.one_key"], |i, c, d| {
            if is(c, KvOpcode::STORE) && c.options == 0 && c.size <= LIMITS.kvvml && d.len() == c.size as usize {
                altered(i, c, Data::None, |c| c.opcode = KvOpcode::DELETE)?;
                std::thread::sleep(Duration::from_micros(50));
            }
            i.port.execute(c, d)
        }),
        mutant("a Store beside another command is lost", &["concurrent.disjoint_keys"], |i, c, d| {
            std::thread::sleep(Duration::from_micros(20));
            let lost = is(c, KvOpcode::STORE) && i.in_flight.load(Ordering::SeqCst) > 1;
            if lost { status(Status::SUCCESS) } else { i.port.execute(c, d) }
        }),
        mutant("SINKE is checked before the Store", &["concurrent.store_if_missing"], |i, c, d| {
            if !is(c, KvOpcode::STORE) || c.options != StoreOptions::MUST_NOT_EXIST.bits() {
                return i.port.execute(c, d);
            }
            if i.exists(c) {
                return status(Status::KEY_EXISTS);
            }
            std::thread::sleep(Duration::from_micros(200));
            altered(i, c, d, |c| c.options = 0)
        }),
        mutant("EDNEK is checked before the Delete", &["concurrent.delete"], |i, c, d| {
            let found = is(c, KvOpcode::DELETE) && i.exists(c);
            if found {
                std::thread::sleep(Duration::from_micros(200));
            }
            let reply = i.port.execute(c, d)?;
            if found { status(Status::SUCCESS) } else { Ok(reply) }
        }),
        mutant("List beside another command has a key twice", &["concurrent.list"], |i, c, d| {
            std::thread::sleep(Duration::from_micros(20));
            let busy = i.in_flight.load(Ordering::SeqCst) > 1;
            listed(i, c, d, |keys, room| {
                let twice = keys.first().filter(|_| busy);
                encode(
                    &keys.iter().take(1).chain(twice).chain(keys.iter().skip(1)).copied().collect::<Vec<_>>(),
                    room,
                    zeros,
                )
            })
        }),
    ]
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
    let groups = [key_mutants(), value_mutants(), conditional_mutants(), list_mutants(), command_mutants()];
    groups.into_iter().flatten().chain(concurrent_mutants()).collect()
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

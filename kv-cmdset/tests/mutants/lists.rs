//! Faults in List.

use std::sync::atomic::Ordering;

use kvof_kv::{Key, KvOpcode, KvPort, Reply, Status};

use super::{Mutant, encode, is, listed, mutant, status, zeros};

pub(super) fn mutants() -> Vec<Mutant> {
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

//! Faults that show when commands run beside each other.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kvof_kv::{Data, KvOpcode, KvPort, Status, StoreOptions};

use super::{LIMITS, Mutant, altered, encode, is, listed, mutant, status, zeros};

pub(super) fn mutants() -> Vec<Mutant> {
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

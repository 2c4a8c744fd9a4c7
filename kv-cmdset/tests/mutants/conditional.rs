//! Faults in conditions, Delete and Exist.

use kvof_kv::{Data, KvOpcode, KvPort, Reply, Status, StoreOptions};

use super::{Mutant, altered, is, mutant, status};

pub(super) fn mutants() -> Vec<Mutant> {
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

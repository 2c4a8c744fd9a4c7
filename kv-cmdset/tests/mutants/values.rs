//! Faults in values and their transfer.

use kvof_kv::{Data, KvOpcode, KvPort, RetrieveOptions, Status};

use super::{LIMITS, Mutant, altered, is, mutant, retrieved, status, stored};

pub(super) fn mutants() -> Vec<Mutant> {
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

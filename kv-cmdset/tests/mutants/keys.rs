//! Faults in keys.

use kvof_kv::{KvOpcode, KvPort, Status};

use super::{Mutant, altered, is, mutant, status};

pub(super) fn mutants() -> Vec<Mutant> {
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

//! Conditional Store, Delete and Exist.

use kvof_spec::Status;

use super::context::{CaseResult, Context, Stop, expect_eq, fail, skip};
use super::{Case, DELETE, EXIST, FEATURE, STORE};
use crate::{Data, KvCommand, KvPort, StoreOptions};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "store.conditions",
        about: "all combinations of the two conditions, for a key that exists and one that does not",
        reference: STORE,
        check: conditions,
    },
    Case {
        name: "store.no_compress",
        about: "the compression option changes nothing that a host can see",
        reference: STORE,
        check: no_compress,
    },
    Case {
        name: "delete.existing",
        about: "a deleted key is gone, for every command, and can be stored again",
        reference: DELETE,
        check: delete_existing,
    },
    Case {
        name: "delete.missing",
        about: "Delete of a missing key succeeds by default",
        reference: DELETE,
        check: delete_missing,
    },
    Case {
        name: "delete.ednek",
        about: "feature 20h, EDNEK: Delete of a missing key is an error when set and not when cleared",
        reference: FEATURE,
        check: delete_ednek,
    },
    Case {
        name: "exist.both",
        about: "Exist of a key that exists and of one that does not",
        reference: EXIST,
        check: exist,
    },
];

fn conditions(c: &mut Context<'_>) -> CaseResult {
    let longest = c.longest_value();
    let key = c.key(b"cond")?;
    let sike = StoreOptions::MUST_EXIST;
    let sinke = StoreOptions::MUST_NOT_EXIST;
    // Options, what a missing key gives, what an existing key gives.
    let table = [
        (StoreOptions::empty(), Status::SUCCESS, Status::SUCCESS),
        (sike, Status::KEY_DOES_NOT_EXIST, Status::SUCCESS),
        (sinke, Status::SUCCESS, Status::KEY_EXISTS),
        (sike | sinke, Status::KEY_DOES_NOT_EXIST, Status::KEY_EXISTS),
    ];
    for (options, if_missing, if_existing) in table {
        for extra in [StoreOptions::empty(), StoreOptions::NO_COMPRESS] {
            // Small values travel in the capsule and large ones after it, and an unfulfilled condition must end both.
            for len in [24, 30_000].into_iter().filter(|len| *len <= longest) {
                store_under(c, &key, options | extra, len, None, if_missing)?;
                store_under(c, &key, options | extra, len, Some(len / 2), if_existing)?;
            }
        }
    }
    Ok(())
}

/// A conditional Store of `len` bytes where the key exists with `before` bytes, or does not.
fn store_under(
    c: &mut Context<'_>,
    key: &crate::Key,
    options: StoreOptions,
    len: usize,
    before: Option<usize>,
    expected: Status,
) -> CaseResult {
    let reply = c.port.delete(key)?;
    if !matches!(reply.status.code(), Status::SUCCESS | Status::KEY_DOES_NOT_EXIST) {
        return fail(format!("Delete of {key:?}: {}", reply.status));
    }
    let before = before.map(|len| c.value(len));
    if let Some(before) = &before {
        c.store(key, before)?;
    }
    let value = c.value(len);
    let reply = c.port.store(key, options, &value)?;
    let state = if before.is_some() { "existing" } else { "missing" };
    let what = format!("Store of {len} bytes under a {state} key with {options:?}");
    let both = options.contains(StoreOptions::MUST_EXIST | StoreOptions::MUST_NOT_EXIST);
    c.expect_any(what, reply, expected, if both { &[Status::INVALID_FIELD] } else { &[] })?;
    match before {
        _ if reply.status.is_success() => c.expect_value(key, &value),
        Some(before) => c.expect_value(key, &before),
        None => c.expect_absent(key),
    }
}

fn no_compress(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"comp")?;
    let mut value = vec![0; 4000];
    value.extend(c.value(96));
    for options in [StoreOptions::empty(), StoreOptions::NO_COMPRESS] {
        c.store_with(&key, options, &value)?;
        c.expect_value(&key, &value)?;
        c.delete(&key)?;
    }
    Ok(())
}

fn delete_existing(c: &mut Context<'_>) -> CaseResult {
    let (key, other) = (c.key(b"del")?, c.key(b"stay")?);
    let kept = c.value(50);
    c.store(&other, &kept)?;
    let longest = c.longest_value();
    for len in [0, 10, 5000].into_iter().filter(|len| *len <= longest) {
        let value = c.value(len);
        c.store(&key, &value)?;
        c.delete(&key)?;
        c.expect_absent(&key)?;
        c.expect_value(&other, &kept)?;
        let reply = c.port.store(&key, StoreOptions::MUST_EXIST, &value)?;
        c.expect("Store if it exists, after Delete", reply, Status::KEY_DOES_NOT_EXIST)?;
        c.store_with(&key, StoreOptions::MUST_NOT_EXIST, &value)?;
        c.expect_value(&key, &value)?;
        c.delete(&key)?;
    }
    Ok(())
}

fn delete_missing(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"gone")?;
    if let Some(ednek) = c.port.admin_get_ednek()
        && ednek?
    {
        return skip("EDNEK is set for this namespace");
    }
    let reply = c.port.delete(&key)?;
    c.expect("Delete of a missing key", reply, Status::SUCCESS)?;
    c.store(&key, b"x")?;
    c.delete(&key)?;
    let reply = c.port.delete(&key)?;
    c.expect("Delete of a deleted key", reply, Status::SUCCESS)
}

fn delete_ednek(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"ednek")?;
    with_ednek(c.port, |set| {
        for on in [true, false, true] {
            set(on)?;
            let expected = if on { Status::KEY_DOES_NOT_EXIST } else { Status::SUCCESS };
            let reply = c.port.delete(&key)?;
            c.expect(format_args!("Delete of a missing key with EDNEK {}", u8::from(on)), reply, expected)?;
            c.store(&key, b"value")?;
            c.delete(&key)?;
            let reply = c.port.delete(&key)?;
            c.expect(format_args!("Delete of a deleted key with EDNEK {}", u8::from(on)), reply, expected)?;
        }
        Ok(())
    })
}

/// Lets `check` set EDNEK, reading back what it set, and restores it afterwards.
pub(super) fn with_ednek(
    port: &dyn KvPort,
    check: impl FnOnce(&dyn Fn(bool) -> CaseResult) -> CaseResult,
) -> CaseResult {
    let Some(before) = port.admin_get_ednek() else { return skip("this path has no admin commands") };
    let before = before?;
    let set = |on| {
        let Some(reply) = port.admin_set_ednek(on) else { return skip("this path has no admin commands") };
        let status = reply?;
        if !status.is_success() {
            return fail(super::context::unexpected("Set Features 20h", status, Status::SUCCESS));
        }
        let Some(read) = port.admin_get_ednek() else { return skip("this path has no admin commands") };
        expect_eq("EDNEK by Get Features 20h", read?, on)
    };
    let result = check(&set);
    let restored = set(before);
    match result {
        Err(stop @ Stop::Failed(_)) => Err(stop),
        Err(stop) => restored.and(Err(stop)),
        Ok(()) => restored,
    }
}

fn exist(c: &mut Context<'_>) -> CaseResult {
    let longest = c.longest_value();
    let key = c.key(b"exist")?;
    c.expect_absent(&key)?;
    for len in [0, 1, 9000].into_iter().filter(|len| *len <= longest) {
        let value = c.value(len);
        c.store(&key, &value)?;
        c.expect_exists(&key, len)?;
    }
    // Exist moves no data, whatever CDW10 says.
    let command = KvCommand { size: 4096, ..KvCommand::exist(c.info.nsid, &key) };
    let reply = c.execute(&command, Data::None)?;
    c.expect_any("Exist with CDW10 4096", reply, Status::SUCCESS, &[Status::INVALID_FIELD])?;
    c.delete(&key)?;
    c.expect_absent(&key)
}

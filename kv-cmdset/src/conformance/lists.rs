//! List: from every position, into every size of buffer.
//!
//! Whatever the order is, it is the same for each List while nothing changes: the order in which a walk through the whole
//! namespace returns the keys is what every other List is compared with.

use std::collections::BTreeSet;

use kvof_spec::Status;

use super::context::{CaseResult, Context, FILL, Stop, expect_eq, fail, skip};
use super::{Case, LIST, Profile};
use crate::{Data, Key, KvCommand, ListReader};

pub(super) const CASES: &[Case] = &[
    Case { name: "list.empty", about: "an empty namespace lists no keys", reference: LIST, check: empty },
    Case {
        name: "list.walk",
        about: "pages of every size, each from the last key of the one before, list every key once, in order",
        reference: LIST,
        check: walk_pages,
    },
    Case {
        name: "list.every_start",
        about: "List from each key starts with that key and goes on in the same order",
        reference: LIST,
        check: every_start,
    },
    Case {
        name: "list.every_buffer",
        about: "into a buffer of any size go as many whole keys as fit, exactly padded, and nothing more",
        reference: LIST,
        check: every_buffer,
    },
    Case {
        name: "list.absent_start",
        about: "List from a key that does not exist starts with the next one",
        reference: LIST,
        check: absent_start,
    },
    Case {
        name: "list.past_the_end",
        about: "List from beyond the last key succeeds with no keys",
        reference: LIST,
        check: past_the_end,
    },
    Case {
        name: "list.changes",
        about: "List sees each Store and Delete that was completed before",
        reference: LIST,
        check: changes,
    },
    Case {
        name: "list.small_buffer",
        about: "a buffer of less than 4 bytes is Invalid Field in Command; 4 bytes hold the count",
        reference: LIST,
        check: small_buffer,
    },
    Case {
        name: "list.buffer_field",
        about: "List never transfers more than its buffer size field says",
        reference: LIST,
        check: buffer_field,
    },
];

/// More keys than this in the namespace would make the cases that compare with all of them too slow.
const WALK_MAX: usize = 20_000;
/// Bytes of a page where its size does not matter.
const PAGE: usize = 4096;

/// One List command into a buffer of `buffer` bytes, its data checked in every respect but the keys.
fn list(c: &Context<'_>, start: Option<&Key>, buffer: usize) -> Result<Vec<Key>, Stop> {
    let what = format!("List from {start:?} into a buffer of {buffer}");
    let mut bytes = vec![FILL; buffer];
    let reply = c.port.list(start, &mut bytes)?;
    c.expect(&what, reply, Status::SUCCESS)?;
    expect_eq(format_args!("{what}: DW0"), reply.dw0, 0)?;
    decode(c, &what, &bytes, buffer)
}

/// The keys in `bytes`, of which the command's buffer size field covers the first `size`.
fn decode(c: &Context<'_>, what: &str, bytes: &[u8], size: usize) -> Result<Vec<Key>, Stop> {
    let broken = |error| Stop::Failed(format!("{what}: {error}"));
    let mut reader = ListReader::new(bytes).map_err(broken)?;
    let keys = reader.by_ref().collect::<Result<Vec<Key>, _>>().map_err(broken)?;
    // Nothing is to be transferred after the last key; some targets fill the buffer with zeros.
    let covered = bytes.get(reader.consumed()..size).unwrap_or_default();
    let zeros = c.profile == Profile::Standard && covered.iter().all(|b| *b == 0);
    let transferred = if zeros { size.max(reader.consumed()) } else { reader.consumed() };
    c.expect_untouched(what, bytes.get(transferred..).unwrap_or_default(), transferred)?;
    Ok(keys)
}

/// Bytes that a list of `keys` takes, worked out from the format.
fn list_len(keys: &[Key]) -> usize {
    4 + keys.iter().map(|key| (2 + key.len()).div_ceil(4) * 4).sum::<usize>()
}

/// Every key of the namespace, page by page.
fn walk(c: &Context<'_>, page: usize) -> Result<Vec<Key>, Stop> {
    let page = page.min(c.info.max_transfer as usize);
    let mut all = list(c, None, page)?;
    let mut seen: BTreeSet<Key> = all.iter().copied().collect();
    if seen.len() != all.len() {
        return fail("List returned a key twice");
    }
    while let Some(last) = all.last().copied() {
        if all.len() > WALK_MAX {
            return skip(format!("the namespace holds more than {WALK_MAX} keys"));
        }
        let next = list(c, Some(&last), page)?;
        let Some((first, rest)) = next.split_first() else {
            return fail(format!("List from the existing key {last:?} returned no keys"));
        };
        expect_eq(format_args!("first key of List from {last:?}"), *first, last)?;
        if rest.is_empty() {
            break;
        }
        for key in rest {
            if !seen.insert(*key) {
                return fail(format!("walking with pages of {page} bytes returned {key:?} twice"));
            }
        }
        all.extend_from_slice(rest);
    }
    if c.profile == Profile::Kvof
        && let Some(pair) = all.windows(2).find(|pair| pair[0] >= pair[1])
    {
        return fail(format!("List order (by length, then bytewise): {:?} came before {:?}", pair[0], pair[1]));
    }
    Ok(all)
}

/// Stores keys of all lengths; the whole namespace's keys, in List's order, and which of them are the case's own.
fn populate(c: &mut Context<'_>) -> Result<(Vec<Key>, Vec<Key>), Stop> {
    let before = walk(c, PAGE)?;
    let mut own = Vec::new();
    // Short keys, where they are free, give every length and so every padding.
    for len in 1..=3 {
        let bytes: Vec<u8> = (0..len).map(|_| c.rng.next().to_le_bytes()[0]).collect();
        let key = Key::new(&bytes).map_err(|error| Stop::Failed(error.to_string()))?;
        if c.claim(&key)? {
            own.push(key);
        }
    }
    for suffix in [
        &b""[..],
        b"\0",
        b"9",
        b"a",
        b"\xff",
        b"10",
        b"9\0",
        b"zz",
        b"abc",
        b"four",
        b"\x80five",
        b"sixsix",
        b"seven77",
        b"eight888",
        b"nine99999",
        b"ten1010101",
        b"eleven11111",
        b"twelve121212",
        b"twelve121213",
    ] {
        match c.key(suffix) {
            Ok(key) => own.push(key),
            Err(Stop::Skipped(_)) => {}
            Err(stop) => return Err(stop),
        }
    }
    for key in &own {
        c.store(key, b"v")?;
    }
    let all = walk(c, PAGE)?;
    let expected: BTreeSet<Key> = before.iter().chain(&own).copied().collect();
    let got: BTreeSet<Key> = all.iter().copied().collect();
    if let Some(key) = expected.symmetric_difference(&got).next() {
        let trouble = if expected.contains(key) { "is missing from" } else { "was never stored and is in" };
        return fail(format!("{key:?} {trouble} the list of all keys"));
    }
    Ok((all, own))
}

fn empty(c: &mut Context<'_>) -> CaseResult {
    if !list(c, None, 64)?.is_empty() {
        return skip("the namespace is not empty");
    }
    for buffer in [4, 5, 7, 8, 1024] {
        expect_eq("keys of an empty namespace", list(c, None, buffer)?, Vec::new())?;
    }
    let key = c.key(b"x")?;
    expect_eq("keys of an empty namespace from a key", list(c, Some(&key), 1024)?, Vec::new())
}

fn walk_pages(c: &mut Context<'_>) -> CaseResult {
    let (all, _) = populate(c)?;
    // Two of the longest keys must fit for a page to get on.
    for page in [44, 45, 47, 48, 63, 64, 101, 500, 65_536] {
        // Small pages on a large namespace are many commands.
        if page >= 500 || all.len() <= 500 {
            expect_keys(&format!("walk with pages of {page} bytes"), &walk(c, page)?, &all)?;
        }
    }
    Ok(())
}

fn expect_keys(what: &str, got: &[Key], expected: &[Key]) -> CaseResult {
    if got == expected {
        return Ok(());
    }
    let at = got.iter().zip(expected).position(|(g, e)| g != e).unwrap_or(got.len().min(expected.len()));
    fail(format!(
        "{what}: {} keys expected, {} came; the first difference is at key {at}: expected {:?}, got {:?}",
        expected.len(),
        got.len(),
        expected.get(at),
        got.get(at)
    ))
}

fn every_start(c: &mut Context<'_>) -> CaseResult {
    let (all, own) = populate(c)?;
    let buffer = PAGE.min(c.info.max_transfer as usize);
    for key in &own {
        let from = all.iter().position(|other| other == key).unwrap_or_default();
        expect_fit(c, Some(key), &all[from..], buffer)?;
    }
    expect_fit(c, None, &all, buffer)
}

/// List from `start` into `buffer` bytes must give as many of `expected` as fit.
fn expect_fit(c: &Context<'_>, start: Option<&Key>, expected: &[Key], buffer: usize) -> CaseResult {
    let mut fit = 0;
    while fit < expected.len() && list_len(&expected[..=fit]) <= buffer {
        fit += 1;
    }
    let what = format!("List from {start:?} into a buffer of {buffer}");
    expect_keys(&what, &list(c, start, buffer)?, &expected[..fit])
}

fn every_buffer(c: &mut Context<'_>) -> CaseResult {
    let (all, own) = populate(c)?;
    // From the start, and from two keys whose followers have other lengths.
    let middle = own.get(own.len() / 2).copied();
    for start in [None, own.first().copied(), middle] {
        let from = start.map_or(0, |key| all.iter().position(|other| *other == key).unwrap_or_default());
        let ahead = &all[from..];
        let most = list_len(ahead.get(..9).unwrap_or(ahead)) + 6;
        for buffer in 4..=most {
            expect_fit(c, start.as_ref(), ahead, buffer)?;
        }
    }
    Ok(())
}

fn absent_start(c: &mut Context<'_>) -> CaseResult {
    let (all, own) = populate(c)?;
    let buffer = 256;
    for key in &own {
        // Neighbours of a key that was stored: one bit more, one bit less, one byte longer, one byte shorter.
        let bytes = key.as_bytes();
        let (last, head) = bytes.split_last().unwrap_or((&0, &[]));
        let neighbours = [
            [head, &[last.wrapping_add(1)]].concat(),
            [head, &[last.wrapping_sub(1)]].concat(),
            [bytes, &[0]].concat(),
            [bytes, &[0xff]].concat(),
            head.to_vec(),
        ];
        for start in neighbours.iter().filter(|bytes| bytes.len() <= c.kvkml()).filter_map(|bytes| Key::new(bytes).ok())
        {
            if all.contains(&start) {
                continue;
            }
            if c.profile == Profile::Kvof {
                let from = all.iter().position(|key| *key > start).unwrap_or(all.len());
                expect_fit(c, Some(&start), &all[from..], buffer)?;
            } else if let Some(key) = list(c, Some(&start), buffer)?.iter().find(|key| !all.contains(key)) {
                return fail(format!("List from the missing key {start:?} returned {key:?}, which does not exist"));
            }
        }
    }
    Ok(())
}

fn past_the_end(c: &mut Context<'_>) -> CaseResult {
    if c.profile == Profile::Standard {
        return skip("the order is the target's own: no key is known to be past the end");
    }
    let key = c.key(b"some")?;
    c.store(&key, b"v")?;
    let last = Key::new(&[0xff; Key::MAX_LEN][..c.kvkml()]).map_err(|error| Stop::Failed(error.to_string()))?;
    if c.port.exist(&last)?.status.is_success() {
        return skip(format!("the last possible key, {last:?}, exists"));
    }
    for buffer in [4, 24, 1024] {
        expect_keys("List from past the end", &list(c, Some(&last), buffer)?, &[])?;
    }
    Ok(())
}

fn changes(c: &mut Context<'_>) -> CaseResult {
    let keys = [c.key(b"one")?, c.key(b"two")?, c.key(b"three")?];
    let listed = |c: &Context<'_>| -> Result<Vec<bool>, Stop> {
        let all = walk(c, PAGE)?;
        Ok(keys.iter().map(|key| all.contains(key)).collect())
    };
    expect_eq("before Store, listed", listed(c)?, vec![false, false, false])?;
    c.store(&keys[1], b"v")?;
    expect_eq("after Store of the second, listed", listed(c)?, vec![false, true, false])?;
    c.store(&keys[0], &[])?;
    c.store(&keys[2], b"v")?;
    c.store(&keys[2], b"other")?;
    expect_eq("after Store of all, listed", listed(c)?, vec![true, true, true])?;
    c.delete(&keys[1])?;
    expect_eq("after Delete of the second, listed", listed(c)?, vec![true, false, true])
}

fn small_buffer(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"k")?;
    c.store(&key, b"v")?;
    for start in [None, Some(&key)] {
        for buffer in 0..4 {
            let mut bytes = vec![FILL; buffer];
            let reply = c.port.list(start, &mut bytes)?;
            c.expect(format_args!("List into a buffer of {buffer}"), reply, Status::INVALID_FIELD)?;
        }
        expect_keys("List into a buffer of 4", &list(c, start, 4)?, &[])?;
    }
    Ok(())
}

fn buffer_field(c: &mut Context<'_>) -> CaseResult {
    let (all, _) = populate(c)?;
    for size in [4, 15, 40, 100] {
        let mut bytes = vec![FILL; 300];
        let command = KvCommand { size, ..KvCommand::list(c.info.nsid, None, size) };
        let reply = c.execute(&command, Data::In(&mut bytes))?;
        let what = format!("List with a size field of {size} and an SGL of 300 bytes");
        c.expect(&what, reply, Status::SUCCESS)?;
        let keys = decode(c, &what, &bytes, size as usize)?;
        let fit = (0..=all.len()).rev().find(|n| list_len(&all[..*n]) <= size as usize).unwrap_or_default();
        expect_keys(&what, &keys, &all[..fit])?;
    }
    let mut bytes = vec![FILL; 96];
    let reply = c.execute(&KvCommand::list(c.info.nsid, None, 4096), Data::In(&mut bytes[..64]))?;
    let what = "List with a size field of 4096 and an SGL of 64 bytes";
    c.expect_any(what, reply, Status::DATA_SGL_LENGTH_INVALID, &[Status::INVALID_FIELD])?;
    c.expect_untouched(what, &bytes, 0)
}

//! Several commands at once: each is done entirely, in some order.
//!
//! The port blocks, so each thread has one command in flight.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvof_spec::Status;

use super::conditional::with_ednek;
use super::context::{CaseResult, Context, FILL, Rng, STAMP_LEN, Stop, expect_bytes, expect_eq, fail, stamped};
use super::{Case, STORE};
use crate::{Key, KvPort, ListReader, StoreOptions};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "concurrent.one_key",
        about: "while several hosts store one key, each Retrieve sees one whole value, and never an older one again",
        reference: STORE,
        check: one_key,
    },
    Case {
        name: "concurrent.disjoint_keys",
        about: "threads with keys of their own do not disturb each other",
        reference: STORE,
        check: disjoint_keys,
    },
    Case {
        name: "concurrent.store_if_missing",
        about: "of several Stores of one missing key that must not exist, exactly one succeeds",
        reference: STORE,
        check: store_if_missing,
    },
    Case {
        name: "concurrent.delete",
        about: "of several Deletes of one key with EDNEK, exactly one finds it",
        reference: STORE,
        check: delete,
    },
    Case {
        name: "concurrent.store_and_delete",
        about: "while a key is stored and deleted, a Retrieve sees a whole value or none",
        reference: STORE,
        check: store_and_delete,
    },
    Case {
        name: "concurrent.list",
        about: "while keys come and go, List is well-formed, has no key twice and has those that stay",
        reference: STORE,
        check: list,
    },
];

const WRITERS: u64 = 4;
const READERS: usize = 3;

/// The stamp of what `writer` stores as its `round`th value.
const fn stamp_of(writer: u64, round: u64) -> u64 {
    0xc0de << 48 | writer << 32 | round
}

/// The length of that value: all of the ways that values travel, in every order.
fn length_of(writer: u64, round: u64, longest: usize) -> usize {
    let lengths = [STAMP_LEN, 100, 5000, 8192, 8193, 20_000, 70_000, 131_072];
    let index = (writer * 5 + round * 3) as usize % lengths.len();
    lengths[index].min(longest).max(STAMP_LEN)
}

/// What a Retrieve of a key that writers store all the time gave.
enum Seen {
    Nothing,
    Value { writer: u64, round: u64 },
}

/// Retrieves `key` and checks that what came is one whole value that some writer stored.
fn read_whole(port: &dyn KvPort, key: &Key, buffer: &mut [u8], longest: usize) -> Result<Seen, Stop> {
    buffer.fill(FILL);
    let reply = port.retrieve(key, buffer)?;
    match reply.status.code() {
        Status::SUCCESS => {}
        Status::KEY_DOES_NOT_EXIST => return Ok(Seen::Nothing),
        _ => return fail(format!("Retrieve of {key:?}: {}", reply.status)),
    }
    let length = reply.dw0 as usize;
    let Some((stamp, value)) = buffer.first_chunk::<STAMP_LEN>().zip(buffer.get(..length)) else {
        return fail(format!("Retrieve of {key:?}: DW0 {length} is more than anybody stored"));
    };
    let stamp = u64::from_le_bytes(*stamp);
    let (writer, round) = (stamp >> 32 & 0xffff, stamp & 0xffff_ffff);
    if stamp_of(writer, round) != stamp || writer >= WRITERS {
        return fail(format!("Retrieve of {key:?}: the value starts with {stamp:#x}, which nobody stored"));
    }
    let what = format!("Retrieve of {key:?}: value {round} of writer {writer}");
    expect_eq(format_args!("{what}: length"), length, length_of(writer, round, longest))?;
    expect_bytes(what, value, &stamped(stamp, length))?;
    Ok(Seen::Value { writer, round })
}

fn store_stamped(port: &dyn KvPort, key: &Key, writer: u64, round: u64, longest: usize) -> CaseResult {
    let value = stamped(stamp_of(writer, round), length_of(writer, round, longest));
    let reply = port.store(key, StoreOptions::empty(), &value)?;
    if reply.status.is_success() { Ok(()) } else { fail(format!("Store of {key:?}: {}", reply.status)) }
}

/// Runs each of `jobs` on a thread of its own, all started together, and gives the first trouble.
fn together<'scope>(jobs: Vec<Box<dyn FnOnce() -> CaseResult + Send + 'scope>>) -> CaseResult {
    let barrier = Barrier::new(jobs.len());
    let mut stops: Vec<Stop> = thread::scope(|scope| {
        let start = |job: Box<dyn FnOnce() -> CaseResult + Send + 'scope>| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                job()
            })
        };
        let threads: Vec<_> = jobs.into_iter().map(start).collect();
        let panicked = || Err(Stop::Failed("a thread of the case panicked".to_owned()));
        threads.into_iter().filter_map(|thread| thread.join().unwrap_or_else(|_| panicked()).err()).collect()
    });
    let failed = stops.iter().position(|stop| matches!(stop, Stop::Failed(_))).unwrap_or_default();
    if stops.is_empty() { Ok(()) } else { Err(stops.swap_remove(failed)) }
}

/// Sets a flag when the last of the writers is done, in whatever way.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn one_key(c: &mut Context<'_>) -> CaseResult {
    const ROUNDS: u64 = 60;
    let key = c.key(b"contested")?;
    let longest = c.longest_value();
    let port = c.port;
    store_stamped(port, &key, 0, 0, longest)?;
    let done: [AtomicBool; WRITERS as usize] = Default::default();
    let mut jobs: Vec<Box<dyn FnOnce() -> CaseResult + Send + '_>> = Vec::new();
    for (writer, done) in (0..WRITERS).zip(&done) {
        jobs.push(Box::new(move || {
            let _done = Done(done);
            (1..=ROUNDS).try_for_each(|round| store_stamped(port, &key, writer, round, longest))
        }));
    }
    let done = &done;
    for _ in 0..READERS {
        jobs.push(Box::new(move || {
            let mut buffer = vec![0; 131_072.min(longest)];
            let mut newest = [0; WRITERS as usize];
            while !done.iter().all(|done| done.load(Ordering::Relaxed)) {
                match read_whole(port, &key, &mut buffer, longest)? {
                    Seen::Nothing => return fail(format!("{key:?} did not exist between two Stores")),
                    Seen::Value { writer, round } => {
                        // A writer's values follow one another, so after a newer one an older one cannot come.
                        let newest = &mut newest[writer as usize];
                        if round < *newest {
                            return fail(format!("value {round} of writer {writer} came after value {newest}"));
                        }
                        *newest = round;
                    }
                }
            }
            Ok(())
        }));
    }
    together(jobs)?;
    match read_whole(port, &key, &mut vec![0; 131_072.min(longest)], longest)? {
        Seen::Value { round: ROUNDS, .. } => Ok(()),
        Seen::Value { writer, round } => fail(format!("value {round} of writer {writer} outlived its value {ROUNDS}")),
        Seen::Nothing => fail(format!("{key:?} is lost")),
    }
}

fn disjoint_keys(c: &mut Context<'_>) -> CaseResult {
    const KEYS: usize = 6;
    const STEPS: usize = 120;
    let longest = c.longest_value();
    let mut jobs: Vec<Box<dyn FnOnce() -> CaseResult + Send + '_>> = Vec::new();
    let mut sets = Vec::new();
    for thread in 0..6_u8 {
        let keys: Vec<Key> = (0..KEYS as u8).map(|n| c.key(&[thread, n])).collect::<Result<_, _>>()?;
        sets.push((keys, Rng::new(c.rng.next())));
    }
    let c = &*c;
    let (port, lengths) = (c.port, [0, 1, 64, 4096, 8192, 9000, 40_000]);
    for (keys, mut rng) in sets {
        jobs.push(Box::new(move || {
            let mut model: Vec<Option<Vec<u8>>> = vec![None; KEYS];
            for _ in 0..STEPS {
                let at = rng.below(KEYS as u64) as usize;
                let (key, known) = (&keys[at], &mut model[at]);
                let length = lengths[rng.below(lengths.len() as u64) as usize].min(longest);
                let value = stamped(rng.next(), length);
                let missing = if known.is_some() { Status::SUCCESS } else { Status::KEY_DOES_NOT_EXIST };
                let what = |name: &str| format!("{name} of {key:?}");
                match rng.below(6) {
                    0 | 1 => {
                        c.expect(what("Store"), port.store(key, StoreOptions::empty(), &value)?, Status::SUCCESS)?;
                        *known = Some(value);
                    }
                    2 => {
                        let reply = port.store(key, StoreOptions::MUST_EXIST, &value)?;
                        c.expect(what("Store if it exists"), reply, missing)?;
                        *known = known.take().map(|_| value);
                    }
                    3 => {
                        if known.take().is_some() {
                            c.expect(what("Delete"), port.delete(key)?, Status::SUCCESS)?;
                        }
                    }
                    4 => c.expect(what("Exist"), port.exist(key)?, missing)?,
                    _ => match known {
                        Some(value) => c.expect_value(key, value)?,
                        None => c.expect_absent(key)?,
                    },
                }
            }
            Ok(())
        }));
    }
    together(jobs)
}

fn store_if_missing(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"race")?;
    let longest = c.longest_value();
    let port = c.port;
    let mut buffer = vec![0; 131_072.min(longest)];
    for round in 0..24 {
        let won: [AtomicBool; WRITERS as usize] = Default::default();
        let mut jobs: Vec<Box<dyn FnOnce() -> CaseResult + Send + '_>> = Vec::new();
        for (writer, won) in (0..WRITERS).zip(&won) {
            jobs.push(Box::new(move || {
                let value = stamped(stamp_of(writer, round), length_of(writer, round, longest));
                let reply = port.store(&key, StoreOptions::MUST_NOT_EXIST, &value)?;
                match reply.status.code() {
                    Status::SUCCESS => won.store(true, Ordering::Relaxed),
                    Status::KEY_EXISTS => {}
                    _ => return fail(format!("Store of {key:?} if it is missing: {}", reply.status)),
                }
                Ok(())
            }));
        }
        together(jobs)?;
        let winners: Vec<u64> =
            (0..WRITERS).zip(&won).filter(|(_, won)| won.load(Ordering::Relaxed)).map(|(writer, _)| writer).collect();
        expect_eq("winners of a race to store a missing key", winners.len(), 1)?;
        match read_whole(port, &key, &mut buffer, longest)? {
            Seen::Value { writer, .. } => {
                expect_eq("whose value is there after the race", Some(&writer), winners.first())?;
            }
            Seen::Nothing => return fail("the winner's value is not there"),
        }
        c.delete(&key)?;
    }
    Ok(())
}

fn delete(c: &mut Context<'_>) -> CaseResult {
    let key = c.key(b"race")?;
    let c = &*c;
    let port = c.port;
    with_ednek(port, |set| {
        set(true)?;
        for _ in 0..24 {
            c.store(&key, b"target of all")?;
            let found: [AtomicBool; 4] = Default::default();
            let mut jobs: Vec<Box<dyn FnOnce() -> CaseResult + Send + '_>> = Vec::new();
            for found in &found {
                jobs.push(Box::new(move || {
                    let reply = port.delete(&key)?;
                    match reply.status.code() {
                        Status::SUCCESS => found.store(true, Ordering::Relaxed),
                        Status::KEY_DOES_NOT_EXIST => {}
                        _ => return fail(format!("Delete of {key:?}: {}", reply.status)),
                    }
                    Ok(())
                }));
            }
            together(jobs)?;
            let found = found.iter().filter(|found| found.load(Ordering::Relaxed)).count();
            expect_eq("Deletes that found the one key", found, 1)?;
            c.expect_absent(&key)?;
        }
        Ok(())
    })
}

fn store_and_delete(c: &mut Context<'_>) -> CaseResult {
    const ROUNDS: u64 = 60;
    let key = c.key(b"flicker")?;
    let longest = c.longest_value();
    let c = &*c;
    let port = c.port;
    let done = AtomicBool::new(false);
    let done = &done;
    let mut jobs: Vec<Box<dyn FnOnce() -> CaseResult + Send + '_>> = Vec::new();
    jobs.push(Box::new(move || {
        let _done = Done(done);
        for round in 0..ROUNDS {
            store_stamped(port, &key, 0, round, longest)?;
            c.delete(&key)?;
        }
        Ok(())
    }));
    for _ in 0..READERS {
        jobs.push(Box::new(move || {
            let mut buffer = vec![0; 131_072.min(longest)];
            while !done.load(Ordering::Relaxed) {
                read_whole(port, &key, &mut buffer, longest)?;
            }
            Ok(())
        }));
    }
    together(jobs)?;
    c.expect_absent(&key)
}

fn list(c: &mut Context<'_>) -> CaseResult {
    const ROUNDS: usize = 150;
    let stay: Vec<Key> = (0..8).map(|n| c.key(&[b's', n])).collect::<Result<_, _>>()?;
    let flicker: Vec<Key> = (0..8).map(|n| c.key(&[b'f', n])).collect::<Result<_, _>>()?;
    for key in &stay {
        c.store(key, b"stays")?;
    }
    let c = &*c;
    let port = c.port;
    let done = AtomicBool::new(false);
    let (done, stay, flicker) = (&done, &stay, &flicker);
    let mut jobs: Vec<Box<dyn FnOnce() -> CaseResult + Send + '_>> = Vec::new();
    jobs.push(Box::new(move || {
        let _done = Done(done);
        for key in flicker.iter().cycle().take(ROUNDS) {
            c.store(key, b"flickers")?;
            c.delete(key)?;
        }
        Ok(())
    }));
    for _ in 0..2 {
        jobs.push(Box::new(move || {
            let mut buffer = vec![0; 4096];
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                rounds += 1;
                let reply = port.list(stay.first(), &mut buffer)?;
                c.expect("List while keys change", reply, Status::SUCCESS)?;
                let broken = |error| Stop::Failed(format!("List while keys change: {error}"));
                let keys = ListReader::new(&buffer).map_err(broken)?.collect::<Result<Vec<_>, _>>().map_err(broken)?;
                let mut sorted = keys.clone();
                sorted.sort_unstable();
                sorted.dedup();
                expect_eq("different keys in a List while keys change", sorted.len(), keys.len())?;
                expect_eq("first key of List while keys change", keys.first(), stay.first())?;
            }
            Ok(())
        }));
    }
    together(jobs)?;
    let mut buffer = vec![0; 4096];
    let reply = port.list(stay.first(), &mut buffer)?;
    c.expect("List after the changes", reply, Status::SUCCESS)?;
    let keys: Vec<Key> = ListReader::new(&buffer).into_iter().flatten().filter_map(Result::ok).collect();
    match flicker.iter().find(|key| keys.contains(key)) {
        Some(key) => fail(format!("List has {key:?}, which was deleted")),
        None => Ok(()),
    }
}

//! The KV file when the power goes at any point, when writes tear, fail and rot.
//!
//! Several commands are in flight on few keys, on several cores. A history of each key tells which values a read may
//! return; after a crash the same must hold for what is found.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use kvof_kv::{Key, KvError, KvLimits, KvOutcome, KvRequest, StoreOptions};

use super::rig::{LIMITS, Rig, Rng, file, kv_namespace, scratch};
use crate::{
    backend::{IoError, IoOutcome, IoRequest, IoResult},
    model::Namespace,
};

const KEYS: usize = 5;
const NEVER: u64 = u64::MAX;
/// Small enough that stores often have to wait for blocks.
const SIZE: u64 = 96 * 4096;

/// A change of a key that has been asked for. Values begin with the number of their change.
#[derive(Clone, Copy, Debug)]
struct Change {
    deletes: bool,
    from: u64,
    /// When it was known to be done; `NEVER` if it was not, and may or may not be.
    until: u64,
}

/// What happened to the keys.
#[derive(Debug, Default)]
struct History {
    /// By number; 0 is the absence of every key in the beginning.
    changes: BTreeMap<usize, BTreeMap<u64, Change>>,
    lengths: BTreeMap<u64, usize>,
    next: u64,
}

impl History {
    fn of(&mut self, key: usize) -> &mut BTreeMap<u64, Change> {
        let initial = BTreeMap::from([(0, Change { deletes: true, from: 0, until: 0 })]);
        self.changes.entry(key).or_insert(initial)
    }

    fn begin(&mut self, key: usize, deletes: bool, now: u64) -> u64 {
        self.next += 1;
        let number = self.next;
        self.of(key).insert(number, Change { deletes, from: now, until: NEVER });
        number
    }

    /// Whether a read from `from` to `until` may have seen this. `seen` is the number of a store, or none for no key.
    fn check(&mut self, key: usize, seen: Option<u64>, from: u64, until: u64) -> Result<(), String> {
        let changes = self.of(key);
        let fits = |change: &Change| {
            // Not if another change came entirely between it and the read.
            change.from <= until && !changes.values().any(|other| change.until < other.from && other.until < from)
        };
        let possible = match seen {
            Some(number) => changes.get(&number).is_some_and(|change| !change.deletes && fits(change)),
            None => changes.values().any(|change| change.deletes && fits(change)),
        };
        if !possible {
            return Err(format!("key {key}: read {seen:?} from {from} to {until}, which {changes:#?} rules out"));
        }
        // What has been seen has happened.
        if let Some(change) = seen.and_then(|number| changes.get_mut(&number)) {
            change.until = change.until.min(until);
        }
        Ok(())
    }

    /// Starts anew from what was found after a crash.
    fn reset(&mut self, key: usize, seen: Option<u64>) {
        let number = seen.unwrap_or(0);
        let change = Change { deletes: seen.is_none(), from: 0, until: 0 };
        self.changes.insert(key, BTreeMap::from([(number, change)]));
    }
}

fn key(index: usize) -> Key {
    Key::new(format!("key{index}").as_bytes()).unwrap()
}

fn value(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(Rng(number).bytes(len));
    bytes
}

enum Asked {
    Store(u64),
    Delete(u64),
    Read { from: u64 },
}

struct Run {
    rig: Rig,
    history: History,
    open: BTreeMap<u64, (usize, Asked)>,
}

impl Run {
    fn start(path: &Path, cores: usize, seed: u64, history: History) -> Self {
        let limits = KvLimits { kvvml: 48 << 10, ..LIMITS };
        let rig = Rig::new(kv_namespace(limits, SIZE, file(path)), cores, seed).unwrap();
        Self { rig, history, open: BTreeMap::new() }
    }

    fn ask(&mut self, rng: &mut Rng) {
        let index = rng.below(KEYS);
        let now = self.rig.now;
        let core = rng.below(self.rig.cores.len());
        let (request, asked) = match rng.below(8) {
            0..=3 => {
                let number = self.history.begin(index, false, now);
                let len =
                    [rng.below(100), rng.below(9000), 4096 * rng.below(3) + 4088, rng.below(40_000)][rng.below(4)];
                let bytes = value(number, len);
                self.history.lengths.insert(number, len);
                let mut buf = self.rig.pool.alloc(bytes.len()).unwrap();
                buf.copy_from_slice(&bytes);
                let options = StoreOptions::empty();
                (KvRequest::Store { key: key(index), options, value: buf }, Asked::Store(number))
            }
            4..=5 => {
                let number = self.history.begin(index, true, now);
                (KvRequest::Delete { key: key(index) }, Asked::Delete(number))
            }
            _ => (KvRequest::Retrieve { key: key(index), raw: false }, Asked::Read { from: now }),
        };
        let op = self.rig.submit(core, IoRequest::Kv(request)).unwrap();
        self.open.insert(op, (index, asked));
    }

    fn look(&mut self, faults: bool) -> Result<(), String> {
        let now = self.rig.now;
        for (op, result) in std::mem::take(&mut self.rig.done) {
            let (index, asked) = self.open.remove(&op).unwrap();
            let failed = faults && matches!(result, Err(IoError::Kv(KvError::Unrecovered)));
            match asked {
                _ if failed => {}
                Asked::Store(number) => match result {
                    Ok(_) => self.settle(index, number, now),
                    // Refused: it must never show.
                    Err(IoError::Kv(KvError::CapacityExceeded)) => self.forget(index, number),
                    Err(error) => return Err(format!("store {number}: {error}")),
                },
                Asked::Delete(number) => match result {
                    Ok(_) => self.settle(index, number, now),
                    Err(IoError::Kv(KvError::KeyDoesNotExist)) => {
                        let from = self.history.of(index)[&number].from;
                        self.forget(index, number);
                        self.history.check(index, None, from, now)?;
                    }
                    Err(error) => return Err(format!("delete {number}: {error}")),
                },
                Asked::Read { from } => {
                    let seen = self.seen(result)?;
                    self.history.check(index, seen, from, now)?;
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self, index: usize, number: u64, now: u64) {
        if let Some(change) = self.history.of(index).get_mut(&number) {
            change.until = change.until.min(now);
        }
    }

    fn forget(&mut self, index: usize, number: u64) {
        self.history.of(index).remove(&number);
    }

    /// The number of the store whose value, entire and unaltered, was read.
    fn seen(&self, result: IoResult) -> Result<Option<u64>, String> {
        match result {
            Ok(IoOutcome::Kv(KvOutcome::Retrieved(bytes))) => {
                let number = u64::from_le_bytes(*bytes.first_chunk().ok_or("a value that was never stored")?);
                let len = *self.history.lengths.get(&number).ok_or("a value that was never stored")?;
                if *bytes != *value(number, len) {
                    return Err(format!("the value of store {number} is altered"));
                }
                Ok(Some(number))
            }
            Err(IoError::Kv(KvError::KeyDoesNotExist)) => Ok(None),
            other => Err(format!("{other:?}")),
        }
    }

    /// Reads every key with nothing else in flight.
    fn read_all(&mut self) -> Result<Vec<Option<u64>>, String> {
        (0..KEYS)
            .map(|index| {
                let core = self.rig.rng.below(self.rig.cores.len());
                let result = self.rig.run(core, IoRequest::Kv(KvRequest::Retrieve { key: key(index), raw: false }));
                self.seen(result)
            })
            .collect()
    }
}

/// Runs a script up to step `cut`, loses power, and looks at what is left; twice, since a recovered file must be as good as
/// any. True if the script was over before.
fn epochs(path: &Path, seed: u64, cut: u64, cores: usize, faults: usize) -> Result<bool, String> {
    let _ = std::fs::remove_file(path);
    let mut history = History::default();
    let mut over = false;
    for epoch in 0..2 {
        let mut run = Run::start(path, cores, seed + epoch, history);
        run.rig.disk.faults = faults;
        let mut script = Rng(seed ^ epoch ^ 0x5c12);
        let mut asked = 0;
        while run.rig.now < cut {
            if asked < 60 && run.open.len() < 8 && script.chance(2) {
                asked += 1;
                run.ask(&mut script);
            } else if !run.rig.step() && asked == 60 {
                over = true;
                break;
            }
            run.look(faults > 0)?;
        }
        let image = run.rig.disk.crash(&mut script);
        history = std::mem::take(&mut run.history);
        run.rig.power_off(&image);

        let mut again = Run::start(path, cores, seed, std::mem::take(&mut history));
        let found = again.read_all()?;
        for (index, seen) in found.iter().enumerate() {
            again.history.check(index, *seen, NEVER - 1, NEVER - 1)?;
        }
        let keys = found.iter().flatten().count() as u64;
        if again.rig.ns.state.keys.load(Ordering::Relaxed) != keys {
            return Err("the number of keys is wrong".into());
        }
        for (index, seen) in found.iter().enumerate() {
            again.history.reset(index, *seen);
        }
        // Power goes again before anything is done: nothing may change.
        let image = again.rig.disk.crash(&mut script);
        history = std::mem::take(&mut again.history);
        again.rig.power_off(&image);
        let mut third = Run::start(path, cores, seed, std::mem::take(&mut history));
        if third.read_all()? != found {
            return Err("what was found after a crash is gone after the next".into());
        }
        history = std::mem::take(&mut third.history);
        third.rig.close();
    }
    Ok(over)
}

#[test]
fn power_loss_at_every_point_keeps_what_was_acknowledged() {
    let dir = scratch();
    let path = dir.path().join("kv");
    for seed in 0..3 {
        let mut cut = 0;
        while !epochs(&path, seed, cut, 1 + seed as usize, 0).unwrap_or_else(|e| panic!("seed {seed}, cut {cut}: {e}"))
        {
            cut += 1;
        }
        assert!(cut > 100, "the script is too short: {cut}");
    }
}

#[test]
fn power_loss_and_a_failing_medium_keep_what_was_acknowledged() {
    let dir = scratch();
    let path = dir.path().join("kv");
    for seed in 100..300 {
        let cut = Rng(seed).below(300) as u64;
        epochs(&path, seed, cut, 1 + seed as usize % 3, 40).unwrap_or_else(|e| panic!("seed {seed}, cut {cut}: {e}"));
    }
}

fn store(rig: &mut Rig, index: usize, bytes: &[u8]) -> IoResult {
    let mut buf = rig.pool.alloc(bytes.len()).unwrap();
    buf.copy_from_slice(bytes);
    rig.run(0, IoRequest::Kv(KvRequest::Store { key: key(index), options: StoreOptions::empty(), value: buf }))
}

fn retrieve(rig: &mut Rig, index: usize) -> IoResult {
    rig.run(0, IoRequest::Kv(KvRequest::Retrieve { key: key(index), raw: false }))
}

fn find(image: &[u8], bytes: &[u8]) -> usize {
    image.windows(bytes.len()).position(|window| window == bytes).unwrap()
}

#[test]
fn rot_is_an_error_and_never_wrong_bytes() {
    let dir = scratch();
    let ns = kv_namespace(LIMITS, 1 << 20, file(&dir.path().join("kv")));
    let mut rig = Rig::new(Arc::clone(&ns), 1, 1).unwrap();
    let values = [value(1, 10), value(2, 5000), value(3, 8184)];
    for (index, bytes) in values.iter().enumerate() {
        store(&mut rig, index, bytes).unwrap();
    }
    let image = rig.close();
    for flipped in 0..values.len() {
        for at in [0, values[flipped].len() - 1] {
            let mut rotten = image.clone();
            let place = find(&rotten, &values[flipped]) + at;
            rotten[place] ^= 0x10;
            std::fs::write(dir.path().join("kv"), &rotten).unwrap();
            let mut rig = Rig::new(Namespace::new(ns.def.clone(), ns.backend), 1, 1).unwrap();
            for (index, bytes) in values.iter().enumerate() {
                match retrieve(&mut rig, index) {
                    Ok(IoOutcome::Kv(KvOutcome::Retrieved(read))) => {
                        assert_ne!(index, flipped);
                        assert!(*read == **bytes);
                    }
                    Err(error) => {
                        assert_eq!((index, error), (flipped, IoError::Kv(KvError::Unrecovered)));
                    }
                    other => panic!("{other:?}"),
                }
            }
            // It still can be replaced.
            store(&mut rig, flipped, b"new").unwrap();
            assert!(retrieve(&mut rig, flipped).is_ok());
        }
    }
}

#[test]
fn any_damage_is_survived_without_wrong_bytes() {
    let dir = scratch();
    let path = dir.path().join("kv");
    let ns = kv_namespace(LIMITS, SIZE, file(&path));
    let mut rig = Rig::new(Arc::clone(&ns), 1, 1).unwrap();
    for number in 0..30 {
        store(&mut rig, number as usize % 20, &value(number, number as usize * 333)).unwrap();
    }
    let image = rig.close();
    let mut opened = 0;
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let mut damaged = image.clone();
        for _ in 0..1 + rng.below(30) {
            // Every other time where the structures are.
            let block = rng.below(damaged.len() / 4096);
            let within = if rng.chance(2) { 4096 - 1 - rng.below(128) } else { rng.below(4096) };
            damaged[block * 4096 + within] = rng.next() as u8;
        }
        std::fs::write(&path, &damaged).unwrap();
        let Ok(mut rig) = Rig::new(Namespace::new(ns.def.clone(), ns.backend), 1, 1) else { continue };
        opened += 1;
        for index in 0..20 {
            match retrieve(&mut rig, index) {
                Ok(IoOutcome::Kv(KvOutcome::Retrieved(read))) => {
                    let number = if index < 10 { index + 20 } else { index };
                    assert!(*read == *value(number as u64, number * 333), "seed {seed}: wrong bytes for {index}");
                }
                Err(IoError::Kv(KvError::Unrecovered | KvError::KeyDoesNotExist)) => {}
                other => panic!("seed {seed}: {other:?}"),
            }
            store(&mut rig, index, b"new").unwrap();
        }
    }
    assert!(opened > 200, "{opened}");
}

#[test]
fn values_cannot_forge_records() {
    let dir = scratch();
    let path = dir.path().join("kv");
    let ns = kv_namespace(LIMITS, 1 << 20, file(&path));
    let mut rig = Rig::new(Arc::clone(&ns), 1, 1).unwrap();
    store(&mut rig, 0, b"original").unwrap();
    // A host that has seen another target's file knows the format, but not this file's secret.
    let other = dir.path().join("other");
    let mut foreign = Rig::new(kv_namespace(LIMITS, 1 << 20, file(&other)), 1, 1).unwrap();
    for number in 0..9 {
        store(&mut foreign, number as usize, &value(number, 4000)).unwrap();
    }
    // Where these bytes come to lie, they are in the very blocks that their trailers name.
    let forged = foreign.disk.image[8192..8192 + (60 << 10)].to_vec();
    store(&mut rig, 1, &forged).unwrap();
    assert_eq!(find(&rig.disk.image, &forged), 8192);
    rig.run(0, IoRequest::Kv(KvRequest::Delete { key: key(1) })).unwrap();
    rig.close();
    let mut rig = Rig::new(Namespace::new(ns.def.clone(), ns.backend), 1, 1).unwrap();
    assert_eq!(rig.ns.state.keys.load(Ordering::Relaxed), 1);
    let Ok(IoOutcome::Kv(KvOutcome::Retrieved(read))) = retrieve(&mut rig, 0) else { panic!() };
    assert_eq!(*read, *b"original");
}

#[test]
fn a_deleted_key_stays_deleted_while_an_old_value_is_read() {
    let dir = scratch();
    let path = dir.path().join("kv");
    let ns = kv_namespace(LIMITS, SIZE, file(&path));
    let mut rig = Rig::new(Arc::clone(&ns), 1, 1).unwrap();
    store(&mut rig, 0, b"old").unwrap();
    rig.disk.hold_reads = true;
    rig.submit(0, IoRequest::Kv(KvRequest::Retrieve { key: key(0), raw: false })).unwrap();
    store(&mut rig, 0, b"new").unwrap();
    rig.run(0, IoRequest::Kv(KvRequest::Delete { key: key(0) })).unwrap();
    // The old record cannot be erased yet. Everything that is free is used, several times.
    for round in 0..200 {
        store(&mut rig, 1 + round % 70, &value(round as u64, 100)).unwrap();
    }
    let image = rig.disk.crash(&mut Rng(3));
    rig.power_off(&image);
    let mut rig = Rig::new(Namespace::new(ns.def.clone(), ns.backend), 1, 1).unwrap();
    assert_eq!(retrieve(&mut rig, 0).unwrap_err(), IoError::Kv(KvError::KeyDoesNotExist));
    assert_eq!(rig.ns.state.keys.load(Ordering::Relaxed), 70);
}

#[test]
fn a_medium_that_failed_a_sync_is_still_read() {
    let dir = scratch();
    let mut rig = Rig::new(kv_namespace(LIMITS, 1 << 20, file(&dir.path().join("kv"))), 1, 1).unwrap();
    store(&mut rig, 0, b"before").unwrap();
    rig.disk.faults = 1;
    assert_eq!(store(&mut rig, 0, b"after").unwrap_err(), IoError::Kv(KvError::Unrecovered));
    rig.disk.faults = 0;
    assert_eq!(store(&mut rig, 1, b"more").unwrap_err(), IoError::Kv(KvError::Unrecovered));
    let delete = IoRequest::Kv(KvRequest::Delete { key: key(0) });
    assert_eq!(rig.run(0, delete).unwrap_err(), IoError::Kv(KvError::Unrecovered));
    let Ok(IoOutcome::Kv(KvOutcome::Retrieved(read))) = retrieve(&mut rig, 0) else { panic!() };
    assert_eq!(*read, *b"before");
    assert_eq!(rig.ns.state.keys.load(Ordering::Relaxed), 1);
}

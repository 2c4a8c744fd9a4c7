//! Commands on every connection, as many in flight as asked for, each told to the checker before it is sent and after it is
//! answered.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use kvof_initiator::{
    ConnectOptions, Controller, Error, Key, KvNamespace, ReconnectPolicy, Status, StoreOptions, blocking::block_on,
};

use crate::{
    checker::{Checker, Seen},
    content::{Content, Random},
};

/// Longest value, bytes.
pub(crate) const LONGEST: u32 = 1 << 20;

/// How long a command may take. A target that is not killed answers every one of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// One namespace: its NSID, what is known of its keys, and what was done with them.
pub(crate) struct Subject {
    pub(crate) nsid: u32,
    pub(crate) keys: usize,
    checker: Mutex<Checker>,
    pub(crate) counts: Counts,
}

/// Commands that were answered.
#[derive(Default, Debug)]
pub(crate) struct Counts {
    pub(crate) changes: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) full: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// How the load is told to end, and tells what went wrong.
#[derive(Default)]
pub(crate) struct Control {
    /// Send nothing more.
    pub(crate) stop: AtomicBool,
    /// The target is killed: connections may break.
    pub(crate) killed: AtomicBool,
}

impl Subject {
    pub(crate) fn new(nsid: u32, keys: usize) -> Self {
        Self { nsid, keys, checker: Mutex::new(Checker::new(keys)), counts: Counts::default() }
    }

    pub(crate) fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys of 1 to 16 bytes, which name their number.
    fn key(&self, number: usize) -> Result<Key> {
        let text = format!("{number:x}");
        let wanted = 1 + number % 16;
        let bytes = if wanted > text.len() { format!("{text}{}", "-".repeat(wanted - text.len())) } else { text };
        Ok(Key::new(bytes.as_bytes())?)
    }

    fn number(&self, key: &Key) -> Result<usize> {
        let text = String::from_utf8_lossy(key.as_bytes()).into_owned();
        let number = usize::from_str_radix(text.trim_end_matches('-'), 16).ok().filter(|number| *number < self.keys);
        let number = number
            .with_context(|| format!("namespace {}: List has the key {text:?}, which nobody stored", self.nsid))?;
        ensure!(self.key(number)? == *key, "namespace {}: List has the key {text:?}, which nobody stored", self.nsid);
        Ok(number)
    }
}

/// Connects `connections` controllers, runs `work` with a namespace on each, and disconnects.
pub(crate) fn with_namespaces<T>(
    address: &str,
    nqn: &str,
    nsid: u32,
    connections: usize,
    work: impl AsyncFnOnce(&[KvNamespace]) -> Result<T>,
) -> Result<T> {
    block_on(async {
        let mut options = ConnectOptions::default();
        options.io_queues = 1;
        options.reconnect = ReconnectPolicy::NEVER;
        options.command_timeout = PATIENCE;
        let mut controllers = Vec::new();
        let mut namespaces = Vec::new();
        for _ in 0..connections {
            let controller = Controller::connect(&address.parse()?, nqn, &options).await?;
            namespaces.push(controller.kv(nsid).await?);
            controllers.push(controller);
        }
        let result = work(&namespaces).await;
        drop(namespaces);
        for controller in controllers {
            controller.disconnect().await;
        }
        result
    })
}

/// Runs commands on random keys, `depth` in flight, until it is told to stop or the target is killed.
pub(crate) async fn run(
    subject: &Subject,
    namespaces: &[KvNamespace],
    depth: usize,
    seed: u64,
    control: &Control,
) -> Result<()> {
    let workers = stream::iter(0..depth).map(async |number| {
        let kv = &namespaces[number % namespaces.len()];
        let mut random = Random::new(seed.wrapping_add(number as u64));
        while !control.stop.load(Ordering::Relaxed) && !control.killed.load(Ordering::Relaxed) {
            match command(subject, kv, &mut random, control).await {
                Ok(()) => {}
                Err(error) => match error.downcast::<Killed>() {
                    Ok(Killed) => return Ok(()),
                    Err(error) => {
                        control.stop.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                },
            }
        }
        Ok(())
    });
    workers.buffer_unordered(depth).fold(Ok(()), async |all: Result<()>, one| all.and(one)).await
}

/// The target was killed before it answered.
#[derive(Debug)]
struct Killed;

impl std::error::Error for Killed {}

impl std::fmt::Display for Killed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the target was killed")
    }
}

async fn command(subject: &Subject, kv: &KvNamespace, random: &mut Random, control: &Control) -> Result<()> {
    // A few keys are wanted by many commands at a time.
    let number = if random.chance(15) { random.below(16) } else { random.below(subject.keys as u64) } as usize;
    match random.below(100) {
        0..55 => store(subject, kv, number, random, StoreOptions::empty(), control).await,
        55..60 => store(subject, kv, number, random, StoreOptions::MUST_NOT_EXIST, control).await,
        60..65 => store(subject, kv, number, random, StoreOptions::MUST_EXIST, control).await,
        65..74 => delete(subject, kv, number, control).await,
        74..80 => exist(subject, kv, number, control).await,
        _ => retrieve(subject, kv, number, control).await,
    }
}

async fn store(
    subject: &Subject,
    kv: &KvNamespace,
    number: usize,
    random: &mut Random,
    options: StoreOptions,
    control: &Control,
) -> Result<()> {
    let content = Content { seed: random.next(), len: random.length(LONGEST) };
    let (key, bytes) = (subject.key(number)?, content.bytes());
    let (id, look) = {
        let mut checker = subject.checker();
        (checker.begin(number, Some(content)), checker.look(number))
    };
    let (result, _) = kv.store(key, bytes, options).await;
    let mut checker = subject.checker();
    let (must_exist, must_not) = (options == StoreOptions::MUST_EXIST, options == StoreOptions::MUST_NOT_EXIST);
    let verdict = match &result {
        Ok(()) => {
            Counts::add(&subject.counts.changes, 1);
            Counts::add(&subject.counts.bytes, content.len.into());
            let was = match () {
                () if must_exist => checker.seen(number, look, Some(id), Seen::Present),
                () if must_not => checker.seen(number, look, Some(id), Seen::Missing),
                () => {
                    checker.seen_nothing(number);
                    Ok(())
                }
            };
            checker.acknowledged(number, id);
            was
        }
        Err(error) => {
            let seen = match error {
                _ if error.is_key_exists() && must_not => Some(Seen::Present),
                _ if error.is_key_missing() && must_exist => Some(Seen::Missing),
                _ => None,
            };
            match seen {
                Some(seen) => {
                    Counts::add(&subject.counts.refused, 1);
                    let was = checker.seen(number, look, Some(id), seen);
                    was.and(checker.refused(number, id))
                }
                None => {
                    checker.seen_nothing(number);
                    if error.status().is_some_and(|status| status.code() == Status::CAPACITY_EXCEEDED) {
                        Counts::add(&subject.counts.full, 1);
                        checker.refused(number, id)
                    } else {
                        checker.unanswered(number, id);
                        drop(checker);
                        return Err(lost(subject, "Store", &key, error, control));
                    }
                }
            }
        }
    };
    verdict.map_err(|why| wrong(subject, "Store", &key, &why))
}

async fn delete(subject: &Subject, kv: &KvNamespace, number: usize, control: &Control) -> Result<()> {
    let key = subject.key(number)?;
    let id = subject.checker().begin(number, None);
    // A key that is not there is deleted with success.
    match kv.delete(key).await {
        Ok(()) => {
            Counts::add(&subject.counts.changes, 1);
            subject.checker().acknowledged(number, id);
            Ok(())
        }
        Err(error) => {
            subject.checker().unanswered(number, id);
            Err(lost(subject, "Delete", &key, &error, control))
        }
    }
}

async fn exist(subject: &Subject, kv: &KvNamespace, number: usize, control: &Control) -> Result<()> {
    let key = subject.key(number)?;
    let look = subject.checker().look(number);
    match kv.exist(key).await {
        Ok(there) => {
            Counts::add(&subject.counts.reads, 1);
            let seen = if there { Seen::Present } else { Seen::Missing };
            subject.checker().seen(number, look, None, seen).map_err(|why| wrong(subject, "Exist", &key, &why))
        }
        Err(error) => {
            subject.checker().seen_nothing(number);
            Err(lost(subject, "Exist", &key, &error, control))
        }
    }
}

async fn retrieve(subject: &Subject, kv: &KvNamespace, number: usize, control: &Control) -> Result<()> {
    let key = subject.key(number)?;
    let look = subject.checker().look(number);
    let (result, buffer) = kv.retrieve(key, vec![0; LONGEST as usize]).await;
    let mut checker = subject.checker();
    let verdict = match &result {
        Ok(found) => {
            Counts::add(&subject.counts.reads, 1);
            let bytes = buffer.get(..found.value_len as usize);
            checker.seen(number, look, None, Seen::Value(bytes.context("a value longer than any that was stored")?))
        }
        Err(error) if error.is_key_missing() => {
            Counts::add(&subject.counts.reads, 1);
            checker.seen(number, look, None, Seen::Missing)
        }
        Err(error) => {
            checker.seen_nothing(number);
            drop(checker);
            return Err(lost(subject, "Retrieve", &key, error, control));
        }
    };
    verdict.map_err(|why| wrong(subject, "Retrieve", &key, &why))
}

/// Reads the given keys, `depth` at a time.
pub(crate) async fn verify(
    subject: &Subject,
    namespaces: &[KvNamespace],
    keys: Vec<usize>,
    depth: usize,
) -> Result<()> {
    let control = Control::default();
    stream::iter(keys.into_iter().enumerate())
        .map(async |(place, number)| retrieve(subject, &namespaces[place % namespaces.len()], number, &control).await)
        .buffer_unordered(depth)
        .fold(Ok(()), async |all: Result<()>, one| all.and(one))
        .await
}

/// Compares the whole List with what must and what may be there. Nothing else may be running.
pub(crate) async fn verify_list(subject: &Subject, kv: &KvNamespace) -> Result<()> {
    let mut pages = kv.keys();
    let mut listed = BTreeSet::new();
    loop {
        let page = pages.next_page().await?;
        if page.is_empty() {
            break;
        }
        for key in page {
            let number = subject.number(&key)?;
            ensure!(listed.insert(number), "namespace {}: List has {key} twice", subject.nsid);
        }
    }
    let mut checker = subject.checker();
    for number in 0..subject.keys {
        if let Err(why) = checker.check_listed(number, listed.contains(&number)) {
            return Err(wrong(subject, "List", &subject.key(number)?, &why));
        }
    }
    Ok(())
}

fn wrong(subject: &Subject, command: &str, key: &Key, why: &str) -> anyhow::Error {
    anyhow::anyhow!("namespace {}: {command} of {key}: {why}", subject.nsid)
}

/// A command without an outcome: due when the target was killed, else a fault of it.
fn lost(subject: &Subject, command: &str, key: &Key, error: &Error, control: &Control) -> anyhow::Error {
    if error.status().is_none() && control.killed.load(Ordering::Relaxed) && !matches!(error, Error::Timeout { .. }) {
        Counts::add(&subject.counts.unanswered, 1);
        return Killed.into();
    }
    anyhow::anyhow!("namespace {}: {command} of {key}: {error}, while the target was not killed", subject.nsid)
}

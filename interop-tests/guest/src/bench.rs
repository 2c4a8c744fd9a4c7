//! How many Retrieves and Stores a second go through the kernel's passthrough.
//!
//! The ioctl returns when its command has completed, so that every command in flight is a thread. Values lie page-aligned, as the kernel
//! takes them without a copy of this program's.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvof_kv::{Key, KvPort, StoreOptions};

use crate::pattern::Label;

const PAGE: usize = 4096;
/// Most values, and most bytes, of a working set.
const KEYS_MAX: usize = 1024;
const BYTES_MAX: usize = 32 << 20;

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Bytes of each value.
    pub(crate) size: usize,
    /// Commands in flight.
    pub(crate) depth: u64,
    /// How long, for each of the two commands.
    pub(crate) time: Duration,
}

/// What came of one command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) op: &'static str,
    size: usize,
    depth: u64,
    operations: usize,
    operations_per_second: f64,
    /// Median latency, nanoseconds.
    p50: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    Store,
    Retrieve,
}

/// Stores the working set, measures Retrieve and Store with values chosen at random, and deletes it.
///
/// # Errors
/// When a command fails, or a value does not have the length it was stored with.
pub(crate) fn run(port: &dyn KvPort, options: &Options) -> Result<[Figures; 2]> {
    let keys = working_set(options.size).map(key).collect::<Result<Vec<_>>>()?;
    let mut memory = aligned(options.size);
    let value = slice(&mut memory, options.size);
    Label { key: 1, version: 1 }.fill(value);
    for key in &keys {
        execute(port, Verb::Store, key, value)?;
    }
    let figures = measure(port, options, Verb::Retrieve, &keys)
        .and_then(|retrieve| Ok([retrieve, measure(port, options, Verb::Store, &keys)?]));
    for key in &keys {
        port.delete(key)?;
    }
    figures
}

impl Figures {
    /// As one line of JSON.
    pub(crate) fn json(&self) -> String {
        format!(
            r#"{{"op":"{}","size":{},"depth":{},"operations":{},"operations_per_second":{:.1},"p50_ns":{}}}"#,
            self.op, self.size, self.depth, self.operations, self.operations_per_second, self.p50
        )
    }
}

fn measure(port: &dyn KvPort, options: &Options, verb: Verb, keys: &[Key]) -> Result<Figures> {
    let start = Instant::now();
    let until = start + options.time;
    let mut latencies = thread::scope(|scope| {
        let workers: Vec<_> = (0..options.depth.max(1))
            .map(|number| scope.spawn(move || worker(port, options.size, verb, keys, number, until)))
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??);
        }
        anyhow::Ok(all)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let p50 = latencies.get(latencies.len() / 2).copied().context("no command completed in the time given")?;
    let op = match verb {
        Verb::Store => "store",
        Verb::Retrieve => "retrieve",
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = latencies.len() as f64 / seconds;
    Ok(Figures {
        op,
        size: options.size,
        depth: options.depth,
        operations: latencies.len(),
        operations_per_second: rate,
        p50,
    })
}

/// The latencies of one thread's commands, nanoseconds.
fn worker(port: &dyn KvPort, size: usize, verb: Verb, keys: &[Key], number: u64, until: Instant) -> Result<Vec<u64>> {
    let mut memory = aligned(size);
    let value = slice(&mut memory, size);
    Label { key: number, version: 2 }.fill(value);
    let mut random = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut latencies = Vec::new();
    let mut sent = Instant::now();
    // One at least: a busy machine may start a thread after its time.
    loop {
        // Xorshift; its state is never 0, since the multiplier is odd.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = usize::try_from(random >> 32).ok().and_then(|random| keys.get(random % keys.len()));
        execute(port, verb, key.context("there are no keys")?, value)?;
        let done = Instant::now();
        latencies.push(u64::try_from((done - sent).as_nanos()).unwrap_or(u64::MAX));
        if done >= until {
            return Ok(latencies);
        }
        sent = done;
    }
}

fn execute(port: &dyn KvPort, verb: Verb, key: &Key, value: &mut [u8]) -> Result<()> {
    let reply = match verb {
        Verb::Store => port.store(key, StoreOptions::empty(), value)?,
        Verb::Retrieve => port.retrieve(key, value)?,
    };
    if !reply.status.is_success() {
        bail!("{verb:?} of {} bytes: {}", value.len(), reply.status);
    }
    if verb == Verb::Retrieve && reply.dw0 as usize != value.len() {
        bail!("a value of {} bytes has {} bytes now", value.len(), reply.dw0);
    }
    Ok(())
}

fn working_set(size: usize) -> std::ops::Range<usize> {
    0..(BYTES_MAX / size.max(1)).clamp(1, KEYS_MAX)
}

fn key(index: usize) -> Result<Key> {
    Ok(Key::new(format!("bench{index:09}").as_bytes())?)
}

/// Room for `size` bytes that start on a page.
fn aligned(size: usize) -> Vec<u8> {
    vec![0; size + PAGE]
}

fn slice(memory: &mut [u8], size: usize) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
    memory.get_mut(start..start + size).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use kvof_kv::{Data, KvCommand, KvLimits, PortError, PortInfo, Reply, Status};

    use super::*;

    /// Values by key; a Retrieve answers with `cut` bytes less than were stored.
    #[derive(Default)]
    struct Fake {
        values: Mutex<HashMap<[u8; 16], usize>>,
        calls: Mutex<HashMap<u8, usize>>,
        cut: u32,
    }

    impl KvPort for Fake {
        fn info(&self) -> PortInfo {
            let limits = KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 0, novg: 0 };
            PortInfo { nsid: 1, limits, max_transfer: 1 << 20, name: "fake".into() }
        }

        fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
            let mut values = self.values.lock().unwrap();
            *self
                .calls
                .lock()
                .unwrap()
                .entry(command.to_sqe(kvof_spec::SglDescriptor::default()).opcode)
                .or_default() += 1;
            let dw0 = match data {
                Data::Out(bytes) => {
                    assert_eq!(bytes.as_ptr().addr() % PAGE, 0, "values are page-aligned");
                    values.insert(command.key, bytes.len());
                    0
                }
                Data::In(_) => u32::try_from(values[&command.key]).unwrap() - self.cut,
                Data::None => {
                    values.remove(&command.key).unwrap();
                    0
                }
            };
            Ok(Reply { status: Status::SUCCESS, dw0 })
        }
    }

    const OPTIONS: Options = Options { size: 1 << 20, depth: 3, time: Duration::from_millis(20) };

    #[test]
    fn counts_what_it_sends_and_leaves_nothing() {
        let fake = Fake::default();
        let figures = run(&fake, &OPTIONS).unwrap();
        assert_eq!([figures[0].op, figures[1].op], ["retrieve", "store"]);
        assert!(fake.values.lock().unwrap().is_empty());
        let calls = fake.calls.lock().unwrap();
        let set = working_set(OPTIONS.size).len();
        assert_eq!(set, 32);
        let total: usize = calls.values().sum();
        assert_eq!(total, 2 * set + figures[0].operations + figures[1].operations);
        assert!(figures[0].operations >= 3 && figures[0].operations_per_second > 0.0);
        assert!(figures[1].json().starts_with(r#"{"op":"store","size":1048576,"depth":3,"operations":"#));
    }

    #[test]
    fn a_value_of_another_length_is_an_error() {
        let error = run(&Fake { cut: 1, ..Fake::default() }, &OPTIONS).unwrap_err();
        assert_eq!(error.to_string(), "a value of 1048576 bytes has 1048575 bytes now");
    }
}

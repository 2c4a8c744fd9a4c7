//! The commands, many in flight, each timed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use kvof_initiator::{Buffer, Controller, Key, StoreOptions};

use crate::input::{Input, Value};

/// What a run took.
pub(crate) struct Figures {
    pub(crate) elapsed: Duration,
    pub(crate) bytes: usize,
    pub(crate) latency_us: Histogram<u64>,
}

/// Stores every value; the input comes back as it went in.
pub(crate) async fn store(controller: &Controller, nsid: u32, input: Input, depth: usize) -> Result<(Input, Figures)> {
    let kv = controller.kv(nsid).await?;
    run(input, depth, async |value: Value| {
        let Value { key, bytes } = value;
        let (stored, bytes) = kv.store(key, bytes, StoreOptions::empty()).await;
        stored.with_context(|| format!("Store of {key}"))?;
        Ok(Value { key, bytes })
    })
    .await
}

/// Retrieves every value and compares it with what was stored.
pub(crate) async fn verify(controller: &Controller, nsid: u32, input: Input, depth: usize) -> Result<(Input, Figures)> {
    let kv = controller.kv(nsid).await?;
    run(input, depth, async |value: Value| {
        let (found, buffer) = kv.retrieve(value.key, Buffer::new(value.bytes.len())).await;
        let found = found.with_context(|| format!("Retrieve of {}", value.key))?;
        ensure!(
            found.value_len as usize == value.bytes.len() && buffer[..] == value.bytes[..],
            "the value of {} came back altered",
            value.key
        );
        Ok(value)
    })
    .await
}

/// All keys, in the order that List gives them.
pub(crate) async fn list(controller: &Controller, nsid: u32) -> Result<Vec<Key>> {
    let mut keys = controller.kv(nsid).await?.keys();
    let mut all = Vec::new();
    loop {
        let page = keys.next_page().await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

async fn run(input: Input, depth: usize, work: impl AsyncFn(Value) -> Result<Value>) -> Result<(Input, Figures)> {
    let Input { files, bytes, values } = input;
    let count = values.len();
    let started = Instant::now();
    let timed = stream::iter(values)
        .map(async |value| {
            let started = Instant::now();
            let value = work(value).await?;
            anyhow::Ok((value, started.elapsed()))
        })
        .buffer_unordered(depth);
    let done: Vec<(Value, Duration)> = timed.try_collect().await?;
    let elapsed = started.elapsed();
    ensure!(done.len() == count, "{} of {count} commands were answered", done.len());
    let mut latency_us = Histogram::new(3)?;
    for (_, latency) in &done {
        latency_us.record(latency.as_micros() as u64)?;
    }
    let values = done.into_iter().map(|(value, _)| value).collect();
    Ok((Input { files, bytes, values }, Figures { elapsed, bytes, latency_us }))
}

//! The commands, many in flight, each timed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use kvof_initiator::{Buffer, Controller, Key, StoreOptions};

use crate::input::Value;

/// What a run took.
pub(crate) struct Figures {
    pub(crate) elapsed: Duration,
    pub(crate) bytes: usize,
    pub(crate) latency_us: Histogram<u64>,
}

/// A run of Stores that was cut off.
pub(crate) struct CutOff {
    /// The values that were acknowledged.
    pub(crate) acknowledged: Vec<Value>,
    /// The others; `in_flight` of them were on their way.
    pub(crate) rest: Vec<Value>,
    pub(crate) in_flight: usize,
    pub(crate) figures: Figures,
}

/// Stores every value; they come back as they went in.
pub(crate) async fn store(
    controller: &Controller,
    nsid: u32,
    values: Vec<Value>,
    depth: usize,
) -> Result<(Vec<Value>, Figures)> {
    let kv = controller.kv(nsid).await?;
    run(values, depth, async |value: Value| {
        let Value { key, bytes } = value;
        let (stored, bytes) = kv.store(key, bytes, StoreOptions::empty()).await;
        stored.with_context(|| format!("Store of {key}"))?;
        Ok(Value { key, bytes })
    })
    .await
}

/// Stores values until `enough` of them are acknowledged, then calls `cut` once, with the others still in flight.
pub(crate) async fn store_until(
    controller: &Controller,
    nsid: u32,
    values: Vec<Value>,
    depth: usize,
    enough: usize,
    cut: impl FnOnce() -> Result<()>,
) -> Result<CutOff> {
    let kv = controller.kv(nsid).await?;
    let started = Instant::now();
    let mut figures = Figures { elapsed: Duration::ZERO, bytes: 0, latency_us: Histogram::new(3)? };
    let (mut acknowledged, mut rest) = (Vec::new(), Vec::new());
    let (mut cut, mut in_flight) = (Some(cut), 0);
    let mut values = values.into_iter();
    let mut running = FuturesUnordered::new();
    let start = |Value { key, bytes }: Value| {
        let kv = &kv;
        async move {
            let began = Instant::now();
            let (stored, bytes) = kv.store(key, bytes, StoreOptions::empty()).await;
            (stored, Value { key, bytes }, began.elapsed())
        }
    };
    running.extend(values.by_ref().take(depth).map(start));
    while let Some((stored, value, latency)) = running.next().await {
        match (stored, cut.is_some()) {
            (Ok(()), before) => {
                if before {
                    figures.bytes += value.bytes.len();
                    figures.latency_us.record(latency.as_micros() as u64)?;
                }
                acknowledged.push(value);
            }
            (Err(error), true) => return Err(error).with_context(|| format!("Store of {}", value.key)),
            (Err(error), false) => {
                ensure!(error.may_have_executed(), "Store of {} when the target was killed: {error}", value.key);
                rest.push(value);
            }
        }
        if cut.is_some() {
            running.extend(values.by_ref().take(1).map(start));
        }
        if acknowledged.len() >= enough
            && let Some(cut) = cut.take()
        {
            figures.elapsed = started.elapsed();
            in_flight = running.len();
            cut()?;
        }
    }
    drop(running);
    rest.extend(values);
    Ok(CutOff { acknowledged, rest, in_flight, figures })
}

/// Retrieves every value and compares it with what was stored.
pub(crate) async fn verify(
    controller: &Controller,
    nsid: u32,
    values: Vec<Value>,
    depth: usize,
) -> Result<(Vec<Value>, Figures)> {
    let kv = controller.kv(nsid).await?;
    run(values, depth, async |value: Value| {
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

async fn run(
    values: Vec<Value>,
    depth: usize,
    work: impl AsyncFn(Value) -> Result<Value>,
) -> Result<(Vec<Value>, Figures)> {
    let (count, bytes) = (values.len(), values.iter().map(|value| value.bytes.len()).sum());
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
    Ok((values, Figures { elapsed, bytes, latency_us }))
}

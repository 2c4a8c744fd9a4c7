//! What is measured of the engine itself.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use kvof_store::volume::Durability;

use crate::{
    Options,
    engine::{Engine, Files, Fill, Op, Opened},
    fio::{self, Job},
    report::{Spread, Table, Turn, size},
};

/// Values of the comparison with fio.
const LEN: u32 = 1 << 20;
/// How many of them a turn stores or reads.
const COUNT: u64 = 1024;
/// Operations in flight.
const DEPTH: usize = 16;
/// Segments small enough that the number of groups in use is a fine measure.
const SEGMENT: u64 = 2 << 20;
/// Memory for the index where it is not the point.
const INDEX: u64 = 64 << 20;

fn stores(len: u32, count: u64) -> impl Iterator<Item = Op> {
    (0..count).map(move |number| Op::Store { number, len })
}

fn retrieves(len: u32, count: u64) -> impl Iterator<Item = Op> {
    // An odd multiplier visits each number of a power of two once, in no order of the devices.
    (0..count).map(move |number| Op::Retrieve { number: number.wrapping_mul(0x9e37_79b1) % count, len })
}

/// Bytes of each of `devices` that take `bytes` of values with parity, and as much again, so that nothing is cleaned meanwhile.
const fn device_bytes(bytes: u64, k: u64) -> u64 {
    (bytes / k * 3 / 2).next_multiple_of(1 << 20) + (64 << 20)
}

/// Stores and retrieves of 1 MiB on 4+1 files, beside fio on the same files with the same block size, depth and devices.
pub(crate) fn beside_fio(options: &Options, folder: &Path) -> Result<()> {
    println!("### The engine beside fio: values and blocks of 1 MiB, {DEPTH} in flight, five files, O_DIRECT\n");
    if !fio::is_there() {
        println!("skipped: fio is not installed (apt-get install fio)\n");
        return Ok(());
    }
    let files = Files::create(folder, 5, device_bytes(COUNT * u64::from(LEN), 4))?;
    let mut table = Table::new(&[
        "",
        "engine, GB/s of values",
        "engine, GB/s of the devices",
        "fio, GB/s",
        "devices: engine / fio",
        "stripes",
    ]);
    for (name, durability) in [("device", Durability::Device), ("media", Durability::Media)] {
        let (mut stored, mut retrieved, mut written, mut read) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut stripes = 0.0;
        // The first turn tells how much the engine writes between two flushes of a device, which fio then does too.
        let mut flush_every = 0;
        for round in 0..=options.rounds {
            files.format("4+1", None)?;
            let (mut engine, _) = Engine::open(&files.paths, durability, INDEX)?;
            let turn = engine.run(DEPTH, Fill::InPlace, stores(LEN, COUNT))?;
            let stats = engine.stats();
            let back = engine.run(DEPTH, Fill::InPlace, retrieves(LEN, COUNT))?;
            engine.close()?;
            stripes = stats.stripes as f64;
            let each = turn.device_bytes as f64 / stripes / 5.0;
            if durability == Durability::Media {
                flush_every = ((each / f64::from(LEN)).round() as u64).max(1);
            }
            let job = |read, bytes, flush_every| Job {
                devices: &files.paths,
                read,
                block: LEN.into(),
                depth: DEPTH,
                bytes,
                flush_every,
            };
            let fio_write = job(false, turn.device_bytes, flush_every).run()?;
            let fio_read = job(true, back.bytes, 0).run()?;
            if round > 0 {
                stored.push(turn);
                retrieved.push(back);
                written.push(fio_write);
                read.push(fio_read);
            }
        }
        let flushed = if flush_every == 0 { String::new() } else { format!(", fio with fdatasync={flush_every}") };
        line(&mut table, &format!("store, durability {name}{flushed}"), &stored, &written, stripes);
        line(&mut table, &format!("retrieve, durability {name}"), &retrieved, &read, 0.0);
    }
    table.print();
    Ok(())
}

fn line(table: &mut Table, name: &str, ours: &[Turn], fio: &[Turn], stripes: f64) {
    let device: Vec<f64> = ours.iter().map(Turn::device_bytes_per_second).collect();
    let other: Vec<f64> = fio.iter().map(Turn::device_bytes_per_second).collect();
    table.row(vec![
        name.to_owned(),
        Spread::of(ours.iter().map(Turn::bytes_per_second)).rate(),
        Spread::of(device.iter().copied()).rate(),
        Spread::of(other.iter().copied()).rate(),
        Spread::of_ratios(&device, &other).ratio(),
        if stripes > 0.0 { format!("{stripes}") } else { String::new() },
    ]);
}

/// Parity or none on as many devices, and a lost device or none.
pub(crate) fn parity(options: &Options, folder: &Path) -> Result<()> {
    println!("### Parity and a lost device: values of 1 MiB, {DEPTH} in flight, five files, durability device\n");
    let files = Files::create(folder, 5, device_bytes(COUNT * u64::from(LEN), 4))?;
    let (mut stored, mut retrieved) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let (mut whole, mut degraded, mut degraded_store) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        for (side, profile) in ["5+0", "4+1"].into_iter().enumerate() {
            files.format(profile, None)?;
            let (mut engine, _) = Engine::open(&files.paths, Durability::Device, INDEX)?;
            stored[side].push(engine.run(DEPTH, Fill::InPlace, stores(LEN, COUNT))?.bytes_per_second());
            retrieved[side].push(engine.run(DEPTH, Fill::InPlace, retrieves(LEN, COUNT))?.bytes_per_second());
            if profile == "4+1" {
                whole.push(engine.run(DEPTH, Fill::InPlace, retrieves(LEN, COUNT))?.bytes_per_second());
                engine.lose(2)?;
                degraded.push(engine.run(DEPTH, Fill::InPlace, retrieves(LEN, COUNT))?.bytes_per_second());
                degraded_store.push(engine.run(DEPTH, Fill::InPlace, stores(LEN, COUNT / 4))?.bytes_per_second());
            }
            engine.close()?;
        }
    }
    let mut table = Table::new(&["", "GB/s of values", "beside", "GB/s of values", "ratio"]);
    let [store_off, store_on] = &stored;
    let [retrieve_off, retrieve_on] = &retrieved;
    for (name, ours, beside, other) in [
        ("store, 4+1", store_on, "5+0", store_off),
        ("retrieve, 4+1", retrieve_on, "5+0", retrieve_off),
        ("retrieve, 4+1, one device lost", &degraded, "none lost", &whole),
        ("store, 4+1, one device lost", &degraded_store, "none lost", store_on),
    ] {
        let rate = |side: &Vec<f64>| Spread::of(side.iter().copied()).rate();
        table.row(vec![
            name.to_owned(),
            rate(ours),
            beside.to_owned(),
            rate(other),
            Spread::of_ratios(ours, other).ratio(),
        ]);
    }
    table.print();
    Ok(())
}

/// What opening a pool takes, by how it was left, and what a key takes of memory.
pub(crate) fn recovery(options: &Options, folder: &Path) -> Result<()> {
    let keys = options.thousand_keys * 1000;
    println!("### Opening a 4+1 pool with {keys} keys\n");
    let mut table = Table::new(&[
        "values",
        "keys",
        "left by",
        "time, ms",
        "ms for a million keys",
        "read, MiB",
        "of what is stored, %",
        "bytes of index per key",
    ]);
    for (len, keys) in [(100, keys), (LEN, 4 * COUNT)] {
        let bytes = keys * (u64::from(len) + 128);
        let files = Files::create(folder, 5, device_bytes(bytes, 4))?;
        files.format("4+1", None)?;
        let (mut engine, _) = Engine::open(&files.paths, Durability::Device, 256 << 20)?;
        engine.run(512, Fill::InPlace, stores(len, keys))?;
        let stats = engine.stats();
        let stored = (stats.stored_bytes).max(1);
        let per_key = stats.index_bytes as f64 / stats.keys.max(1) as f64;
        let (mut crashed, mut clean): (Vec<Opened>, Vec<Opened>) = (Vec::new(), Vec::new());
        // Dropped without a close: what a crash leaves.
        drop(engine);
        for _ in 0..options.rounds {
            let (engine, opened) = Engine::open(&files.paths, Durability::Device, 256 << 20)?;
            ensure!(opened.keys == keys, "{} keys of {keys} were found after a crash", opened.keys);
            crashed.push(opened);
            drop(engine);
        }
        for round in 0..=options.rounds {
            let (engine, opened) = Engine::open(&files.paths, Durability::Device, 256 << 20)?;
            ensure!(opened.keys == keys, "{} keys of {keys} were found after a clean stop", opened.keys);
            if round > 0 {
                clean.push(opened);
            }
            engine.close()?;
        }
        for (how, opened) in [("a crash", crashed), ("a clean stop", clean)] {
            let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
            let time = Spread::of(opened.iter().map(|opened| milliseconds(opened.elapsed)));
            let read = Spread::of(opened.iter().map(|opened| opened.read as f64));
            table.row(vec![
                size(len.into()),
                keys.to_string(),
                how.to_owned(),
                format!("{:.1} ({:.1} – {:.1})", time.median, time.least, time.most),
                format!("{:.0}", time.median * 1e6 / keys as f64),
                format!("{:.1}", read.median / 1048576.0),
                format!("{:.2}", 100.0 * read.median / stored as f64),
                format!("{per_key:.1}"),
            ]);
        }
    }
    table.print();
    Ok(())
}

/// Bytes that reach the devices, and room that is taken, for each byte of a value.
pub(crate) fn space(folder: &Path) -> Result<()> {
    println!("### Space: bytes for each byte stored, on a 4+1 pool of files, durability device\n");
    let mut table = Table::new(&[
        "values",
        "in flight",
        "stored, MiB",
        "written / stored",
        "room taken / stored",
        "records in a stripe",
    ]);
    let files = Files::create(folder, 5, 256 << 20)?;
    for (len, count) in [(100, 20_000), (4096, 8192), (65536, 2048), (1 << 20, 256)] {
        for depth in [1, 32] {
            let bytes = count * u64::from(len);
            files.format("4+1", Some(SEGMENT))?;
            let (mut engine, _) = Engine::open(&files.paths, Durability::Device, INDEX)?;
            engine.run(depth, Fill::InPlace, stores(len, count))?;
            let stats = engine.stats();
            engine.close()?;
            let room = f64::from(stats.groups - stats.groups_free) * 4.0 * SEGMENT as f64;
            table.row(vec![
                size(len.into()),
                depth.to_string(),
                format!("{:.1}", bytes as f64 / 1048576.0),
                format!("**{:.2}**", stats.written_bytes as f64 / bytes as f64),
                format!("{:.2}", room / bytes as f64),
                format!("{:.1}", stats.records as f64 / stats.stripes.max(1) as f64),
            ]);
        }
    }
    println!("Parity alone makes 1.25 of 1.00 written; room is counted without parity.\n");
    table.print();
    Ok(())
}

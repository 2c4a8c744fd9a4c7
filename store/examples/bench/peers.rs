//! Beside what else keeps such values: RocksDB with BlobDB, and a file for each value.

use std::path::Path;

use anyhow::Result;
use kvof_store::volume::Durability;

use crate::{
    Options,
    chunks::Chunks,
    engine::{Engine, Files, Fill, Op},
    report::{Spread, Table, Turn, size},
    rocksdb::{self, RocksDb},
};

/// What is stored and read.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) len: u64,
    pub(crate) count: u64,
    pub(crate) depth: usize,
    /// Every value is on the medium before its store is answered.
    pub(crate) sync: bool,
}

impl Shape {
    /// All numbers, shuffled, the same every time.
    pub(crate) fn order(self) -> Vec<u64> {
        let mut order: Vec<u64> = (0..self.count).collect();
        order.sort_by_key(|number| {
            (number + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        order
    }
}

/// The sides, in the order of their columns.
const KVOF: usize = 0;
const ROCKSDB: usize = 1;
const CHUNKS: usize = 2;

/// Stores and retrieves the same on all sides, in turns. The engine has one file and no parity, since the others have neither.
pub(crate) fn run(options: &Options, folder: &Path) -> Result<()> {
    println!("### Beside RocksDB (BlobDB) and a file for each value, GB/s\n");
    let rocks = rocksdb::is_there();
    if !rocks {
        println!("RocksDB: skipped, db_bench is not installed (apt-get install rocksdb-tools)\n");
    }
    let mut table =
        Table::new(&["", "size", "depth", "kvof", "RocksDB", "a file each", "kvof / RocksDB", "kvof / a file each"]);
    for (len, bulk, few) in [(64 << 10, 2048, 256), (2 << 20, 128, 32)] {
        for depth in [1, 16] {
            for sync in [false, true] {
                let count = if sync { few } else { bulk };
                let shape = Shape { len, count, depth, sync };
                let name = if sync { "store, each flushed" } else { "store, flushed at the end" };
                let files = pool(folder, shape)?;
                let sides = measure(options, |side| store(&files, folder, shape, side, rocks))?;
                row(&mut table, name, shape, &sides);
            }
            let shape = Shape { len, count: bulk, depth, sync: false };
            let sides = retrieve(options, folder, shape, rocks)?;
            row(&mut table, "retrieve", shape, &sides);
        }
    }
    table.print();
    Ok(())
}

type Sides = [Vec<f64>; 3];

fn measure(options: &Options, mut turn: impl FnMut(usize) -> Result<Option<Turn>>) -> Result<Sides> {
    let mut sides = Sides::default();
    for _ in 0..options.rounds {
        for (number, side) in sides.iter_mut().enumerate() {
            side.extend(turn(number)?.map(|turn| turn.bytes_per_second()));
        }
    }
    Ok(sides)
}

fn row(table: &mut Table, what: &str, shape: Shape, sides: &Sides) {
    let rate = |side: &Vec<f64>| if side.is_empty() { String::new() } else { Spread::of(side.iter().copied()).rate() };
    let ratio = |side: usize| {
        if sides[side].is_empty() { String::new() } else { Spread::of_ratios(&sides[KVOF], &sides[side]).ratio() }
    };
    table.row(vec![
        what.to_owned(),
        size(shape.len),
        shape.depth.to_string(),
        rate(&sides[KVOF]),
        rate(&sides[ROCKSDB]),
        rate(&sides[CHUNKS]),
        ratio(ROCKSDB),
        ratio(CHUNKS),
    ]);
}

fn store(files: &Files, folder: &Path, shape: Shape, side: usize, rocks: bool) -> Result<Option<Turn>> {
    match side {
        KVOF => {
            files.format("1+0", Some(8 << 20))?;
            let durability = if shape.sync { Durability::Media } else { Durability::Device };
            let (mut engine, _) = Engine::open(&files.paths, durability, 64 << 20)?;
            let ops = (0..shape.count).map(|number| Op::Store { number, len: shape.len as u32 });
            let turn = engine.run(shape.depth, Fill::Copied, ops)?;
            let flush = engine.flush()?;
            engine.close()?;
            Ok(Some(Turn { elapsed: turn.elapsed + flush, ..turn }))
        }
        ROCKSDB if !rocks => Ok(None),
        ROCKSDB => {
            let db = RocksDb::new(folder);
            let turn = db.store(shape)?;
            db.remove()?;
            Ok(Some(turn))
        }
        _ => {
            let chunks = Chunks::new(folder);
            let turn = chunks.store(shape)?;
            chunks.remove()?;
            Ok(Some(turn))
        }
    }
}

fn retrieve(options: &Options, folder: &Path, shape: Shape, rocks: bool) -> Result<Sides> {
    let files = pool(folder, shape)?;
    let (mut engine, _) = Engine::open(&files.paths, Durability::Device, 64 << 20)?;
    let len = shape.len as u32;
    engine.run(16, Fill::Copied, (0..shape.count).map(|number| Op::Store { number, len }))?;
    engine.flush()?;
    let (db, chunks) = (RocksDb::new(folder), Chunks::new(folder));
    if rocks {
        db.fill(shape)?;
    }
    chunks.store(shape)?;
    let order = shape.order();
    let sides = measure(options, |side| match side {
        KVOF => {
            let ops = order.iter().map(|number| Op::Retrieve { number: *number, len });
            engine.run(shape.depth, Fill::InPlace, ops).map(Some)
        }
        ROCKSDB if !rocks => Ok(None),
        ROCKSDB => db.retrieve(shape).map(Some),
        _ => chunks.retrieve(shape).map(Some),
    })?;
    engine.close()?;
    db.remove()?;
    chunks.remove()?;
    Ok(sides)
}

fn pool(folder: &Path, shape: Shape) -> Result<Files> {
    let files = Files::create(folder, 1, shape.len * shape.count * 3 / 2 + (192 << 20))?;
    files.format("1+0", Some(8 << 20))?;
    Ok(files)
}

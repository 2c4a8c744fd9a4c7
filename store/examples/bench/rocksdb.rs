//! RocksDB with BlobDB, by its own `db_bench`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{peers::Shape, report::Turn};

/// A database in a folder.
pub(crate) struct RocksDb {
    folder: PathBuf,
}

/// Whether `db_bench` can be had.
pub(crate) fn is_there() -> bool {
    Command::new("db_bench").arg("--version").output().is_ok()
}

impl RocksDb {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.join("rocksdb") }
    }

    /// Stores under random keys, into an empty database. What has no flush of its own is flushed at the end, which counts.
    pub(crate) fn store(&self, shape: Shape) -> Result<Turn> {
        self.remove()?;
        let each = shape.count / shape.depth as u64;
        // So many keys to choose from that hardly one is met twice.
        let turn = self.bench("fillrandom", shape, &[format!("--num={}", 1u64 << 40), format!("--writes={each}")])?;
        let flush = Instant::now();
        sync(&self.folder)?;
        Ok(Turn { elapsed: turn.elapsed + flush.elapsed(), ..turn })
    }

    /// Fills a database for [`Self::retrieve`].
    pub(crate) fn fill(&self, shape: Shape) -> Result<()> {
        self.remove()?;
        let shape = Shape { depth: 1, sync: false, ..shape };
        // Flushed to blob files and compacted, as data that has been there for a while is.
        self.bench("fillseq,flush,waitforcompaction", shape, &[format!("--num={}", shape.count)])?;
        sync(&self.folder)
    }

    /// Reads random keys of those there are.
    pub(crate) fn retrieve(&self, shape: Shape) -> Result<Turn> {
        let each = shape.count / shape.depth as u64;
        self.bench(
            "readrandom",
            shape,
            &[format!("--num={}", shape.count), format!("--reads={each}"), "--use_existing_db=1".to_owned()],
        )
    }

    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn bench(&self, what: &str, shape: Shape, more: &[String]) -> Result<Turn> {
        fs::create_dir_all(&self.folder)?;
        let mut arguments = vec![
            format!("--db={}", self.folder.display()),
            format!("--benchmarks={what}"),
            format!("--value_size={}", shape.len),
            format!("--threads={}", shape.depth),
            format!("--sync={}", u8::from(shape.sync)),
        ];
        arguments.extend_from_slice(more);
        arguments.extend(
            [
                "--key_size=16",
                "--compression_type=none",
                "--enable_blob_files=1",
                "--min_blob_size=0",
                "--blob_compression_type=none",
                // Neither side has the page cache between itself and the device; the log of writes has in RocksDB no other way.
                "--use_direct_reads=1",
                "--use_direct_io_for_flush_and_compaction=1",
                "--bloom_bits=10",
                "--write_buffer_size=268435456",
                "--max_background_jobs=4",
            ]
            .map(str::to_owned),
        );
        let output = Command::new("db_bench").args(&arguments).output().context("cannot start db_bench")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "db_bench {}: {text}", arguments.join(" "));
        // "fillrandom   :    2055.349 micros/op 7123 ops/sec 0.575 seconds 4096 operations;  445.3 MB/s"
        let name = what.split(',').next().unwrap_or(what);
        let line =
            text.lines().find(|line| line.starts_with(name)).with_context(|| format!("db_bench printed: {text}"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let before = |unit: &str| {
            let place = words.iter().position(|word| *word == unit)?;
            words.get(place.checked_sub(1)?)?.parse::<f64>().ok()
        };
        let rate = before("ops/sec").filter(|rate| *rate > 0.0).with_context(|| format!("db_bench printed: {line}"))?;
        let ops = shape.count / shape.depth as u64 * shape.depth as u64;
        if let Some(found) = line.split_once('(').and_then(|(_, rest)| rest.split(' ').next()) {
            ensure!(found == (ops / shape.depth as u64).to_string(), "db_bench did not find all keys: {line}");
        }
        let bytes = ops * shape.len;
        Ok(Turn { ops, bytes, device_bytes: bytes, elapsed: Duration::from_secs_f64(ops as f64 / rate) })
    }
}

/// Everything that was written in the file system of a folder is on its device.
pub(crate) fn sync(folder: &Path) -> Result<()> {
    rustix::fs::syncfs(fs::File::open(folder)?).with_context(|| format!("cannot flush {}", folder.display()))
}

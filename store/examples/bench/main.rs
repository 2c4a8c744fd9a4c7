//! What the engine does alone, beside the same devices by `fio`, beside RocksDB and beside a file for each value.
//!
//! Everything that is compared is measured in turns within one run; every figure is a median, with least and most. The tables
//! are Markdown. `cargo run --release -p kvof-store --example bench -- --help`; `make bench` runs it with the rest.

mod chunks;
mod engine;
mod fio;
mod peers;
mod report;
mod rocksdb;
mod sections;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

/// Measures the engine.
#[derive(Debug, Parser)]
struct Options {
    /// Where the files are made, and removed again: on what is to be measured.
    #[arg(long, default_value = ".build")]
    directory: PathBuf,
    /// Turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// What to measure; the default is everything.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Keys of the recovery, thousands.
    #[arg(long, default_value_t = 1000)]
    thousand_keys: u64,
}

/// A part of the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Section {
    /// Beside fio on the same files.
    Fio,
    /// With and without parity, with a device lost.
    Parity,
    /// Time to open, and memory of the index.
    Recovery,
    /// Bytes written for each byte stored.
    Space,
    /// Beside RocksDB and a file for each value.
    Peers,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let folder = Folder::create(&options.directory)?;
    let wanted = |section| options.only.is_empty() || options.only.contains(&section);
    for section in Section::value_variants() {
        if wanted(*section) {
            match section {
                Section::Fio => sections::beside_fio(options, &folder.0)?,
                Section::Parity => sections::parity(options, &folder.0)?,
                Section::Recovery => sections::recovery(options, &folder.0)?,
                Section::Space => sections::space(&folder.0)?,
                Section::Peers => peers::run(options, &folder.0)?,
            }
        }
    }
    Ok(())
}

/// A folder that goes away again.
struct Folder(PathBuf);

impl Folder {
    fn create(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("bench-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

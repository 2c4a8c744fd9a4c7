//! A file for each value, as inference engines' disk tiers keep them: written under a temporary name, then renamed.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::Advice;

use crate::{peers::Shape, report::Turn, rocksdb::sync};

/// A folder of values.
pub(crate) struct Chunks {
    folder: PathBuf,
}

impl Chunks {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.join("chunks") }
    }

    /// Stores values into an empty folder. Without a flush of each, all is flushed at the end, which counts.
    pub(crate) fn store(&self, shape: Shape) -> Result<Turn> {
        self.remove()?;
        fs::create_dir_all(&self.folder)?;
        let started = Instant::now();
        self.share(shape, |number, bytes| {
            let name = self.name(number);
            let temporary = name.with_extension("new");
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            if shape.sync {
                file.sync_data()?;
            }
            fs::rename(&temporary, &name)?;
            if shape.sync {
                // The name is in the folder, which is flushed by itself.
                File::open(&self.folder)?.sync_all()?;
            }
            Ok(())
        })?;
        sync(&self.folder)?;
        Ok(self.turn(shape, started))
    }

    /// Reads each value once, in a random order, none of them from the page cache.
    pub(crate) fn retrieve(&self, shape: Shape) -> Result<Turn> {
        for number in 0..shape.count {
            rustix::fs::fadvise(File::open(self.name(number))?, 0, None, Advice::DontNeed)?;
        }
        let started = Instant::now();
        self.share(shape, |number, bytes| {
            let mut file = File::open(self.name(number))?;
            file.read_exact(bytes).with_context(|| format!("cannot read {}", self.name(number).display()))?;
            ensure!(file.read(&mut [0])? == 0, "{} is longer than it was", self.name(number).display());
            Ok(())
        })?;
        Ok(self.turn(shape, started))
    }

    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn turn(&self, shape: Shape, started: Instant) -> Turn {
        let bytes = shape.count * shape.len;
        Turn { ops: shape.count, bytes, device_bytes: bytes, elapsed: started.elapsed() }
    }

    fn name(&self, number: u64) -> PathBuf {
        // Hexadecimal digests of token chunks are what such tiers name files by.
        self.folder.join(format!("{:016x}{number:016x}.bin", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Runs `work` for every number of a value, in an order that is no order of the disk, on `depth` threads.
    fn share(&self, shape: Shape, work: impl Fn(u64, &mut [u8]) -> Result<()> + Sync) -> Result<()> {
        let order = shape.order();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..shape.depth)
                .map(|thread| {
                    let (order, work) = (&order, &work);
                    scope.spawn(move || {
                        let mut bytes = vec![0x5a; shape.len as usize];
                        order.iter().skip(thread).step_by(shape.depth).try_for_each(|number| work(*number, &mut bytes))
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread panicked"),
            })
        })
    }
}

//! The index of the flash engine, of a hundred thousand keys.

use anyhow::{Result, ensure};
use kvof_kv::Key;
use kvof_store::index::{Index, Meta};

use super::{Operation, Scattered, Scene, key};
use crate::measure::counted;

const KEYS: u64 = 100_000;

pub(super) fn operations() -> Vec<Operation> {
    const BATCH: u64 = 256;
    vec![
        Operation::new("index/get/1", BATCH, (1, 8), |operation| Ok(Box::new(Lookup::new(operation.batch)?))),
        Operation::new("index/replace-key/1", BATCH, (1, 8), |operation| Ok(Box::new(Churn::new(operation.batch)?))),
    ]
}

fn filled() -> Result<Index> {
    let mut index = Index::new(64 << 20);
    for number in 0..KEYS {
        index.insert(key(number), Meta(number))?;
    }
    Ok(index)
}

/// Lookups of keys that are there.
struct Lookup {
    batch: u64,
    index: Index,
    scattered: Scattered,
}

impl Lookup {
    fn new(batch: u64) -> Result<Self> {
        Ok(Self { batch, index: filled()?, scattered: Scattered::new() })
    }
}

impl Scene for Lookup {
    fn turn(&mut self) -> Result<()> {
        let numbers: Vec<u64> = (0..self.batch).map(|_| self.scattered.next(KEYS)).collect();
        let keys: Vec<Key> = numbers.iter().map(|number| key(*number)).collect();
        let mut sum = 0;
        counted(&mut || {
            for key in &keys {
                sum += self.index.get(key).map_or(0, |meta| meta.0);
            }
        });
        ensure!(sum == numbers.iter().sum::<u64>(), "other metas than were put in");
        Ok(())
    }
}

/// Removes a key and inserts another.
struct Churn {
    batch: u64,
    index: Index,
    oldest: u64,
}

impl Churn {
    fn new(batch: u64) -> Result<Self> {
        Ok(Self { batch, index: filled()?, oldest: 0 })
    }
}

impl Scene for Churn {
    fn turn(&mut self) -> Result<()> {
        let keys: Vec<(Key, Key)> =
            (self.oldest..self.oldest + self.batch).map(|number| (key(number), key(number + KEYS))).collect();
        self.oldest += self.batch;
        let mut good = 0;
        counted(&mut || {
            for (old, new) in &keys {
                let gone = self.index.remove(old).is_some();
                good += u64::from(gone && self.index.insert(*new, Meta(1)).is_ok());
            }
        });
        ensure!(good == self.batch && self.index.len() == KEYS, "a key is lost");
        Ok(())
    }
}

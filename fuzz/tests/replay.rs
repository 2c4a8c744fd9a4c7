//! The committed corpus as plain tests, and mutations of it.
//!
//! `KVOF_FUZZ_ITERS` sets how many mutations each body gets; a failure prints the seed and writes the input to the
//! temporary folder. `KVOF_FUZZ_SEED` runs that one mutation again.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty; `cargo run -p kvof-fuzz --bin seeds` fills it", folder.display());
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn mutate(corpus: &[(PathBuf, Vec<u8>)], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = corpus[rng.below(corpus.len())].1.clone();
    for _ in 0..=rng.below(8) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] = rng.next() as u8,
            2 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
            4 => bytes.insert(at, rng.next() as u8),
            5 => drop(bytes.drain(at..(at + 1 + rng.below(16)).min(bytes.len()).max(at))),
            6 => {
                let other = &corpus[rng.below(corpus.len())].1;
                let from = rng.below(other.len() + 1);
                let part = &other[from..(from + rng.below(96)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            _ => {
                let from = rng.below(bytes.len() + 1);
                let part = bytes[from..(from + rng.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
        }
        bytes.truncate(16 << 10);
    }
    bytes
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name} = {text:?}: {e}; write a number")))
}

fn run(name: &str, iterations: u64) {
    let body = kvof_fuzz::body(name).unwrap();
    let corpus = corpus(name);
    if number("KVOF_FUZZ_SEED").is_none() {
        for (path, bytes) in &corpus {
            let result = catch_unwind(AssertUnwindSafe(|| body(bytes)));
            assert!(result.is_ok(), "{} fails: cargo run -p kvof-fuzz --bin replay -- {name} {0}", path.display());
        }
    }
    let seeds = match number("KVOF_FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KVOF_FUZZ_ITERS").unwrap_or(iterations),
    };
    for seed in seeds {
        let bytes = mutate(&corpus, &mut Rng(seed));
        if catch_unwind(AssertUnwindSafe(|| body(&bytes))).is_err() {
            let path = std::env::temp_dir().join(format!("kvof-fuzz-{name}-{seed}"));
            fs::write(&path, bytes).unwrap();
            panic!("body {name}, KVOF_FUZZ_SEED={seed}; the input is in {}", path.display());
        }
    }
}

#[test]
fn config() {
    run("config", 2000);
}

#[test]
fn initiator() {
    run("initiator", 3000);
}

#[test]
fn pdu() {
    run("pdu", 5000);
}

#[test]
fn rdma_initiator() {
    run("rdma_initiator", 20_000);
}

#[test]
fn rdma_target() {
    run("rdma_target", 3000);
}

#[test]
fn target() {
    run("target", 3000);
}

#[test]
fn the_sample_configuration() {
    kvof_fuzz::config(kvof_target::config::sample().as_bytes());
}

#[test]
fn every_seed_is_in_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (body, name, bytes) in kvof_fuzz::seeds::seeds() {
        let path = folder.join(body).join(&name);
        let there = fs::read(&path).unwrap_or_default();
        assert!(there == bytes, "{} is out of date: cargo run -p kvof-fuzz --bin seeds", path.display());
    }
}

//! What operations cost, next to `BTreeMap`. Ignored: `cargo test --release -p kvof-store index::tests::measure -- --ignored
//! --nocapture --test-threads 1`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;

/// Number `i` of a sequence of scattered keys without repetition.
fn scattered(i: u64) -> Key {
    let (high, low) = (Random(i).next(), Random(!i).next());
    Key::new(&(u128::from(high) << 64 | u128::from(low)).to_be_bytes()).unwrap()
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    4096 * text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0)
}

fn each(count: u64, mut what: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    (0..count).for_each(&mut what);
    start.elapsed().as_nanos() as f64 / count as f64
}

fn measure(count: u64) {
    println!("{count} scattered keys of 16 bytes, ns an operation");
    let probes = count.min(2_000_000);
    let at = |i: u64| scattered(Random(i ^ 0x5555).below(count));
    let nothing = each(probes, |i| {
        black_box(at(i));
    });

    let before = resident();
    let mut tree = BTreeMap::new();
    let insert = each(count, |i| {
        tree.insert(scattered(i), i);
    });
    let memory = (resident() - before) as f64 / count as f64;
    let get = each(probes, |i| assert!(black_box(tree.get(&at(i))).is_some())) - nothing;
    let list = each(count, {
        let mut iter = tree.iter();
        move |_| assert!(black_box(iter.next()).is_some())
    });
    let churn = each(probes, |i| {
        tree.remove(&scattered(i));
        tree.insert(scattered(count + i), i);
    });
    println!("BTreeMap: insert {insert:.0}, get {get:.0}, remove and insert {churn:.0}, list {list:.1}; {memory:.1} resident bytes a key");
    drop(tree);

    let before = resident();
    let mut index = Index::new(u64::MAX);
    let mut worst = Duration::ZERO;
    let insert = each(count, |i| {
        index.insert(scattered(i), Meta(i)).unwrap();
    });
    let memory = (resident().saturating_sub(before)) as f64 / count as f64;
    let counted = index.memory() as f64 / count as f64;
    let get = each(probes, |i| assert!(black_box(index.get(&at(i))).is_some())) - nothing;
    let list = each(count, {
        let mut iter = index.range(None);
        move |_| assert!(black_box(iter.next()).is_some())
    });
    let churn = each(probes, |i| {
        index.remove(&scattered(i));
        let start = Instant::now();
        index.insert(scattered(count + i), Meta(i)).unwrap();
        worst = worst.max(start.elapsed());
    });
    println!("Index:    insert {insert:.0}, get {get:.0}, remove and insert {churn:.0}, list {list:.1}; {memory:.1} resident, {counted:.1} counted bytes a key; longest insert {worst:?}");

    let sorted: Vec<_> = index.range(None).collect();
    drop(index);
    let start = Instant::now();
    let index = Index::load(u64::MAX, sorted.iter().copied()).unwrap();
    println!("          load {:.1}, {:.2} bytes a key", start.elapsed().as_nanos() as f64 / count as f64, index.memory() as f64 / count as f64);
}

#[test]
#[ignore = "a measurement"]
fn a_million() {
    measure(1_000_000);
}

#[test]
#[ignore = "a measurement"]
fn ten_million() {
    measure(10_000_000);
}

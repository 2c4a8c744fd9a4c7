//! What operations cost, next to `BTreeMap`. Ignored: `cargo test --release -p kvof-store index::tests::measure -- --ignored
//! --nocapture --test-threads 1`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

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

/// Nanoseconds an operation of each of some subjects: they take turns, and of many rounds the median counts, so that other
/// work on the machine disturbs all alike and little: a round is shorter than a turn of the scheduler.
fn in_turns<const N: usize>(count: u64, mut subjects: [&mut dyn FnMut(u64); N]) -> [f64; N] {
    let mut times: [Vec<f64>; N] = core::array::from_fn(|_| Vec::new());
    let each = 500;
    for round in 0..count / each {
        for (subject, times) in subjects.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (round * each..(round + 1) * each).for_each(&mut **subject);
            times.push(start.elapsed().as_nanos() as f64 / each as f64);
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn measure(count: u64) {
    println!("{count} scattered keys of 16 bytes; ns an operation, median of rounds");
    let probes = (count / 10 * 9).min(900_000);
    let mut index = Index::new(u64::MAX);
    let mut tree = BTreeMap::new();

    let before = resident();
    (0..count).for_each(|i| assert_eq!(index.insert(scattered(i), Meta(i)), Ok(None)));
    let middle = resident();
    (0..count).for_each(|i| assert_eq!(tree.insert(scattered(i), i), None));
    let memory = [(middle - before) as f64 / count as f64, (resident() - middle) as f64 / count as f64];
    let counted = index.memory() as f64 / count as f64;
    println!("resident bytes a key: Index {:.1} (counted {counted:.2}), BTreeMap {:.1}", memory[0], memory[1]);

    let at = |i: u64| scattered(Random(i ^ 0x5555).below(count));
    let [nothing, a, b] = in_turns(
        probes,
        [
            &mut |i| assert!(black_box(at(i)).len() == 16),
            &mut |i| assert!(black_box(index.get(&at(i))).is_some()),
            &mut |i| assert!(black_box(tree.get(&at(i))).is_some()),
        ],
    );
    println!("get: Index {:.0}, BTreeMap {:.0}", a - nothing, b - nothing);
    let absent = |i: u64| scattered(u64::MAX / 2 + Random(i).below(1 << 40));
    let [a, b] = in_turns(
        probes,
        [&mut |i| assert!(black_box(index.get(&absent(i))).is_none()), &mut |i| {
            assert!(black_box(tree.get(&absent(i))).is_none());
        }],
    );
    println!("get of an absent key: Index {:.0}, BTreeMap {:.0}", a - nothing, b - nothing);

    {
        let (mut a, mut b) = (index.range(None), tree.iter());
        let [a, b] = in_turns(
            probes,
            [&mut |_| assert!(black_box(a.next()).is_some()), &mut |_| assert!(black_box(b.next()).is_some())],
        );
        println!("list: Index {a:.1}, BTreeMap {b:.1}");
    }

    let mut slow: Vec<u64> = Vec::new();
    let [a, b] = in_turns(
        probes,
        [
            &mut |i| {
                let start = Instant::now();
                index.insert(scattered(count + i), Meta(i)).unwrap();
                slow.push(start.elapsed().as_nanos() as u64);
            },
            &mut |i| assert_eq!(tree.insert(scattered(count + i), i), None),
        ],
    );
    slow.sort_unstable();
    let part = |part: f64| slow[(slow.len() as f64 * part) as usize];
    println!(
        "insert: Index {a:.0}, BTreeMap {b:.0}; of Index 99 % below {} and 99.9 % below {}",
        part(0.99),
        part(0.999)
    );
    let [a, b] = in_turns(
        probes,
        [&mut |i| assert!(index.remove(&scattered(i)).is_some()), &mut |i| {
            assert!(tree.remove(&scattered(i)).is_some());
        }],
    );
    println!("remove: Index {a:.0}, BTreeMap {b:.0}");

    let sorted: Vec<_> = index.range(None).collect();
    drop((index, tree));
    let start = Instant::now();
    let index = Index::load(u64::MAX, sorted.iter().copied()).unwrap();
    println!("load: {:.1}", start.elapsed().as_nanos() as f64 / index.len() as f64);
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

#[test]
#[ignore = "a measurement"]
fn ten_thousand() {
    measure(10_000);
}

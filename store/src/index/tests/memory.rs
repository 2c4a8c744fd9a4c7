//! How much memory a key takes, and what happens when it runs out.

use super::*;

const KEYS: u64 = 1_000_000;

/// A key of 16 bytes without any order.
fn scattered(random: &mut Random) -> Key {
    let (high, low) = (u128::from(random.next()), u128::from(random.next()));
    Key::new(&((high << 64) | low).to_be_bytes()).unwrap()
}

fn index_of(keys: impl Iterator<Item = Key>) -> Index {
    let mut index = Index::new(u64::MAX);
    for key in keys {
        assert_eq!(index.insert(key, Meta(7)), Ok(None));
    }
    index
}

#[track_caller]
fn report(what: &str, index: &Index) -> f64 {
    check(&index.map);
    let bytes = index.memory() as f64 / index.len() as f64;
    println!("{what}: {bytes:.2} bytes a key, {} keys", index.len());
    assert!(bytes <= 32.0, "{what}: {bytes:.2} bytes a key");
    bytes
}

#[test]
fn scattered_keys() {
    let mut random = Random(1);
    report("scattered, 16 bytes", &index_of((0..KEYS).map(|_| scattered(&mut random))));
    report("scattered, 8 bytes", &index_of((0..KEYS).map(|_| key(8, random.next()))));
    report(
        "any length",
        &index_of((0..KEYS).map(|i| key(4 + (i % 13) as usize, random.next())).filter({
            let mut seen = std::collections::HashSet::new();
            move |key| seen.insert(*key)
        })),
    );
}

#[test]
fn keys_in_order_leave_full_leaves() {
    assert!(report("ascending", &index_of((0..KEYS).map(|i| key(16, i)))) < 25.0);
    assert!(report("descending", &index_of((0..KEYS).rev().map(|i| key(16, i)))) < 25.0);
    report("64 streams", &index_of((0..KEYS).map(|i| key(16, ((i % 64) << 32) | (i / 64)))));
    let loaded = Index::load(u64::MAX, (0..KEYS).map(|i| (key(16, i), Meta(i)))).unwrap();
    assert!(report("loaded", &loaded) < 25.0);
}

#[test]
fn churn() {
    let mut random = Random(2);
    let mut keys: Vec<Key> = (0..KEYS).map(|_| scattered(&mut random)).collect();
    let mut index = index_of(keys.iter().copied());
    for round in 1..=3 {
        for _ in 0..KEYS {
            let at = random.below(KEYS) as usize;
            assert_eq!(index.remove(&keys[at]), Some(Meta(7)));
            keys[at] = scattered(&mut random);
            assert_eq!(index.insert(keys[at], Meta(7)), Ok(None));
        }
        report(&format!("each key replaced by another {round} times"), &index);
    }
    for (i, key) in keys.iter().enumerate() {
        if i % 4 > 0 {
            index.remove(key);
        }
    }
    report("three of four deleted, scattered", &index);
    let mut index = Index::load(u64::MAX, (0..KEYS).map(|i| (key(16, i), Meta(i)))).unwrap();
    (0..KEYS).step_by(2).for_each(|i| assert!(index.remove(&key(16, i)).is_some()));
    report("every second deleted", &index);
    (KEYS..3 * KEYS).for_each(|i| {
        assert_eq!(index.insert(key(16, i), Meta(i)), Ok(None));
        index.remove(&key(16, i - KEYS));
    });
    report("first in, first out", &index);
}

/// What a full index can lack of a key for each 32 bytes: the ends of the tree, and the pages of one split.
const SLACK: u64 =
    6 * Page::<u128, Meta, LEAF>::BYTES + 4 * Inner::<u128, LEAF, FAN>::BYTES + size_of::<Index>() as u64;

fn fill(limit: u64, what: &str, mut next: impl FnMut(u64) -> Key) {
    let mut index = Index::new(limit);
    let mut keys = Vec::new();
    let refused = loop {
        let key = next(keys.len() as u64);
        match index.insert(key, Meta(1)) {
            Ok(_) => keys.push(key),
            Err(full) => {
                assert_eq!(full, IndexFull { keys: keys.len() as u64, limit });
                break key;
            }
        }
        assert!(index.memory() <= limit);
    };
    check(&index.map);
    println!("{what}: full at {} keys, {:.2} bytes of the limit a key", keys.len(), limit as f64 / keys.len() as f64);
    assert!(keys.len() as u64 * 32 + SLACK >= limit, "{what}: {} keys in {limit} bytes", keys.len());

    // Every key is there and can be replaced, and the room of a deleted key is room for it again.
    assert_eq!(index.get(&refused), None);
    for key in &keys {
        assert_eq!(index.insert(*key, Meta(2)), Ok(Some(Meta(1))));
    }
    for key in keys.iter().step_by(7) {
        assert_eq!(index.remove(key), Some(Meta(2)));
        assert_eq!(index.insert(*key, Meta(3)), Ok(None), "{what}");
        assert!(index.memory() <= limit);
    }
    check(&index.map);
    assert_eq!(index.range(None).count(), keys.len());

    // More memory makes room; less loses nothing.
    index.set_memory_limit(limit + 10_000);
    assert_eq!(index.insert(refused, Meta(1)), Ok(None), "{what}");
    index.set_memory_limit(0);
    assert_eq!(index.len(), keys.len() as u64 + 1);
    keys.iter().for_each(|key| assert!(index.remove(key).is_some()));
    assert_eq!(index.remove(&refused), Some(Meta(1)));
    assert_eq!(index.insert(refused, Meta(1)), Err(IndexFull { keys: 0, limit: 0 }));
}

#[test]
fn full_is_a_key_for_every_32_bytes() {
    let mut random = Random(3);
    for limit in [100_000, 1_000_000, 8_000_000] {
        fill(limit, "scattered", |_| scattered(&mut random));
        fill(limit, "ascending", |i| key(16, i));
        fill(limit, "descending", |i| key(16, u64::MAX - i));
        fill(limit, "7 streams", |i| key(16, ((i % 7) << 32) | (i / 7)));
        fill(limit, "in the middle", |i| key(16, if i % 2 == 0 { i } else { u64::MAX - i }));
        fill(limit, "8 bytes", |_| key(8, random.next()));
        // A dense run first, then scattered keys: they find no slack in the run.
        let half = limit / 48;
        fill(limit, "run, then scattered", |i| if i < half { key(16, i) } else { scattered(&mut random) });
    }
}

#[test]
fn no_room_at_all() {
    for limit in [0, 100, size_of::<Index>() as u64, 3000] {
        let mut index = Index::new(limit);
        let full = index.insert(key(16, 1), Meta(1)).unwrap_err();
        assert_eq!(full, IndexFull { keys: 0, limit });
        assert!(full.to_string().contains(&format!("0 keys take all of its {limit} bytes")));
        assert!(index.is_empty() && index.range(None).next().is_none());
    }
}

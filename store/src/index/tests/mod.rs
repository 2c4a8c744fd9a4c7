//! The index against a plain ordered map, with pages so small that a few hundred keys make a deep tree.

mod measure;
mod memory;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::page::{Page, Word};
use super::tree::{Inner, Kid, Leaf, Tree, floor};
use super::*;

/// A generator of numbers, good enough to scatter keys.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The key of `len` bytes that is number `number` in the order of such keys.
fn key(len: usize, number: u64) -> Key {
    let bytes = u128::from(number).to_be_bytes();
    Key::new(&bytes[16 - len..]).unwrap()
}

/// What a walk over all pages of a tree found.
#[derive(Default)]
struct Found {
    keys: u64,
    bytes: u64,
}

/// Walks over a tree and asserts everything that `tree.rs` says always holds.
struct Checker<const L: usize, const F: usize, const W: usize> {
    found: Found,
}

impl<const L: usize, const F: usize, const W: usize> Checker<L, F, W> {
    fn tree<K: Word + core::fmt::Debug>(&mut self, tree: &Tree<K, L, F, W>) {
        let (root, height) = tree.root();
        match root {
            Kid::None => assert_eq!(height, 0),
            Kid::Leaf(page, _) => assert!(page.len() > 0),
            Kid::Inner(page) => {
                assert!(page.len() > 1, "a root has children");
                assert_eq!(page.keys().last(), Some(&K::MAX), "the root has a place for every key");
            }
        }
        self.kid(root, height, None, K::MAX, (true, true));
    }

    /// `low` and `bound`: the keys that belong here are above the one and not above the other.
    fn kid<K: Word + core::fmt::Debug>(
        &mut self,
        kid: &Kid<K, L, F>,
        height: u8,
        low: Option<K>,
        bound: K,
        edges: (bool, bool),
    ) {
        match kid {
            Kid::None => assert_eq!(height, 0),
            Kid::Leaf(page, len) => {
                assert_eq!(usize::from(*len), page.len(), "the parent knows how many keys there are");
                assert_eq!(height, 0, "all leaves are at one depth");
                page.check();
                assert!(page.keys().first() > low.as_ref() && page.keys().last() <= Some(&bound), "keys are in bounds");
                self.found.keys += page.len() as u64;
                self.found.bytes += Leaf::<K, L>::BYTES;
            }
            Kid::Inner(page) => {
                assert!(height > 0, "all leaves are at one depth");
                page.check();
                self.found.bytes += Inner::<K, L, F>::BYTES;
                assert_eq!(page.keys().last(), Some(&bound), "a page and its parent agree on its bound");
                let least = page.len().min(W);
                let mut low = low;
                for (at, (to, kid)) in page.keys().iter().zip(page.values()).enumerate() {
                    let edges = (edges.0 && at == 0, edges.1 && at + 1 == page.len());
                    match kid {
                        Kid::None => panic!("an entry without a child"),
                        Kid::Leaf(leaf, _) if edges == (false, false) => {
                            assert!(leaf.len() >= floor(L, least), "a leaf with {} keys of {least} leaves", leaf.len());
                        }
                        Kid::Leaf(leaf, _) => assert!(leaf.len() > 0),
                        Kid::Inner(inner) => {
                            assert!(inner.len() >= floor(F, least), "a page with {} of {least}", inner.len());
                            assert!(inner.len() >= W);
                        }
                    }
                    self.kid(kid, height - 1, low, *to, edges);
                    low = Some(*to);
                }
                assert!((page.len()..F).all(|at| matches!(page.value(at), Kid::None)), "nothing hangs past the last");
            }
        }
    }
}

fn check<const L: usize, const F: usize, const W: usize>(map: &Map<L, F, W>) {
    let mut checker = Checker::<L, F, W> { found: Found::default() };
    map.short.iter().for_each(|tree| checker.tree(tree));
    map.long.iter().for_each(|tree| checker.tree(tree));
    assert_eq!(checker.found.keys, map.len, "the number of keys");
    assert_eq!(checker.found.bytes + size_of_val(map) as u64, map.budget.used, "the memory held");
}

/// The index and what it should be.
struct Pair<const L: usize, const F: usize, const W: usize> {
    map: Map<L, F, W>,
    model: BTreeMap<Key, u64>,
    refused: u64,
    deepest: u8,
}

impl<const L: usize, const F: usize, const W: usize> Pair<L, F, W> {
    fn new(limit: u64) -> Self {
        Self { map: Map::new(limit), model: BTreeMap::new(), refused: 0, deepest: 0 }
    }

    fn height(&self, key: &Key) -> u8 {
        if key.len() <= SHORT { self.map.short[key.len() - 1].root().1 } else { self.map.long[key.len() - 9].root().1 }
    }

    fn insert(&mut self, key: Key, meta: u64) {
        let before = self.map.budget;
        match self.map.insert(&key, Meta(meta)) {
            Ok(old) => assert_eq!(old.map(|meta| meta.0), self.model.insert(key, meta)),
            Err(full) => {
                assert_eq!(full, IndexFull { keys: self.model.len() as u64, limit: before.limit });
                assert!(!self.model.contains_key(&key), "a key that is there can always be replaced");
                assert_eq!(self.map.budget.used, before.used, "a refused key changes nothing");
                let one = (Page::<u128, Meta, L>::BYTES).max(Page::<u64, Meta, L>::BYTES);
                let path = (u64::from(self.height(&key)) + 1) * Inner::<u128, L, F>::BYTES;
                assert!(before.used + one + path > before.limit, "refused with room for a leaf");
                self.refused += 1;
            }
        }
        assert!(self.map.budget.used <= before.limit.max(before.used), "more memory than the limit");
        self.step(&key);
    }

    fn remove(&mut self, key: &Key) {
        let before = self.map.budget.used;
        assert_eq!(self.map.remove(key).map(|meta| meta.0), self.model.remove(key));
        assert!(self.map.budget.used <= before, "removing takes no memory");
        self.step(key);
    }

    fn step(&mut self, key: &Key) {
        check(&self.map);
        let model = self.model.get(key).copied();
        assert_eq!(self.map.get(key).map(|meta| meta.0), model);
        assert_eq!(self.map.get_mut(key).map(|meta| meta.0), model);
        self.deepest = self.deepest.max(self.height(key));
    }

    fn compare(&self) {
        assert_eq!(self.map.len, self.model.len() as u64);
        assert!(self.map.range(None).map(|(key, meta)| (key, meta.0)).eq(self.model.iter().map(|(k, v)| (*k, *v))));
        for key in self.model.keys() {
            assert_eq!(self.map.get(key).map(|meta| meta.0), self.model.get(key).copied());
        }
    }

    fn compare_from(&self, start: &Key) {
        let model = self.model.range(start..).map(|(k, v)| (*k, *v));
        assert!(self.map.range(Some(start)).map(|(key, meta)| (key, meta.0)).eq(model));
    }
}

/// One stretch of a history.
#[derive(Clone, Debug)]
enum Phase {
    Ascending { len: usize, count: u64 },
    Descending { len: usize, count: u64 },
    Scattered { len: usize, count: u64 },
    AnyLength { count: u64 },
    SamePrefix { count: u64 },
    Streams { streams: u64, count: u64 },
    Hammer { len: usize, count: u64 },
    DeleteAll { backwards: bool },
    DeleteEverySecond,
    DeleteFromFront { count: usize },
    DeleteScattered { count: usize },
    Churn { len: usize, count: u64 },
    Limit { bytes: u64 },
}

fn phase() -> impl Strategy<Value = Phase> {
    let len = 2usize..=16;
    prop_oneof![
        (len.clone(), 1u64..200).prop_map(|(len, count)| Phase::Ascending { len, count }),
        (len.clone(), 1u64..200).prop_map(|(len, count)| Phase::Descending { len, count }),
        (len.clone(), 1u64..200).prop_map(|(len, count)| Phase::Scattered { len, count }),
        (1u64..200).prop_map(|count| Phase::AnyLength { count }),
        (1u64..200).prop_map(|count| Phase::SamePrefix { count }),
        (1u64..6, 1u64..200).prop_map(|(streams, count)| Phase::Streams { streams, count }),
        (len.clone(), 1u64..100).prop_map(|(len, count)| Phase::Hammer { len, count }),
        any::<bool>().prop_map(|backwards| Phase::DeleteAll { backwards }),
        Just(Phase::DeleteEverySecond),
        (1usize..200).prop_map(|count| Phase::DeleteFromFront { count }),
        (1usize..200).prop_map(|count| Phase::DeleteScattered { count }),
        (len, 1u64..200).prop_map(|(len, count)| Phase::Churn { len, count }),
        (4_000u64..60_000).prop_map(|bytes| Phase::Limit { bytes }),
    ]
}

fn play<const L: usize, const F: usize, const W: usize>(pair: &mut Pair<L, F, W>, phase: &Phase, random: &mut Random) {
    let mut meta = random.next();
    let mut put = |pair: &mut Pair<L, F, W>, key: Key| {
        meta = meta.wrapping_add(1);
        pair.insert(key, meta);
    };
    let base = 20_000 + random.below(10_000);
    match *phase {
        Phase::Ascending { len, count } => (0..count).for_each(|i| put(pair, key(len, base + i))),
        Phase::Descending { len, count } => (0..count).for_each(|i| put(pair, key(len, base - i))),
        Phase::Scattered { len, count } => (0..count).for_each(|_| put(pair, key(len, random.next()))),
        Phase::AnyLength { count } => {
            (0..count).for_each(|_| put(pair, key(1 + random.below(16) as usize, random.next())));
        }
        // Up to the greatest key of all, which is also what free slots hold.
        Phase::SamePrefix { count } => (0..count).for_each(|_| {
            let mut bytes = [0xff; 16];
            bytes[15 - random.below(2) as usize] = 0xff - random.below(256) as u8;
            let len = if random.below(2) == 0 { 16 } else { 8 };
            put(pair, Key::new(&bytes[16 - len..]).unwrap());
        }),
        Phase::Streams { streams, count } => {
            (0..count).for_each(|i| put(pair, key(16, base * 100 + (i % streams) * 10_000 + i / streams)));
        }
        Phase::Hammer { len, count } => (0..count).for_each(|i| {
            let at = key(len, base + i / 4);
            if i % 4 < 2 { put(pair, at) } else { pair.remove(&at) }
        }),
        Phase::DeleteAll { backwards } => {
            let mut keys: Vec<Key> = pair.model.keys().copied().collect();
            if backwards {
                keys.reverse();
            }
            keys.iter().for_each(|key| pair.remove(key));
            assert_eq!(pair.map.budget.used, size_of_val(&pair.map) as u64, "an empty index holds no page");
        }
        Phase::DeleteEverySecond => {
            let keys: Vec<Key> = pair.model.keys().step_by(2).copied().collect();
            keys.iter().for_each(|key| pair.remove(key));
        }
        Phase::DeleteFromFront { count } => {
            let keys: Vec<Key> = pair.model.keys().take(count).copied().collect();
            keys.iter().for_each(|key| pair.remove(key));
        }
        Phase::DeleteScattered { count } => {
            for _ in 0..count {
                let start = key(2 + random.below(15) as usize, random.next());
                let next = pair.model.range(start..).next().map(|(key, _)| *key);
                pair.remove(&next.unwrap_or(start));
            }
        }
        Phase::Churn { len, count } => {
            for _ in 0..count {
                put(pair, key(len, random.next()));
                if let Some(key) = pair.model.range(key(len, random.next())..).next().map(|(key, _)| *key) {
                    pair.remove(&key);
                }
            }
        }
        Phase::Limit { bytes } => pair.map.budget.limit = bytes,
    }
    pair.compare();
    for _ in 0..4 {
        pair.compare_from(&key(1 + random.below(16) as usize, random.next()));
    }
    if let Some(start) = pair.model.keys().nth(pair.model.len() / 2) {
        pair.compare_from(start);
    }
}

fn play_all<const L: usize, const F: usize, const W: usize>(seed: u64, limit: u64, phases: &[Phase]) {
    let mut pair = Pair::<L, F, W>::new(limit);
    let mut random = Random(seed);
    for phase in phases {
        play(&mut pair, phase, &mut random);
    }
    play(&mut pair, &Phase::DeleteAll { backwards: seed.is_multiple_of(2) }, &mut random);
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Key, u64),
    Remove(Key),
    List(Key),
}

fn some_key() -> impl Strategy<Value = Key> {
    prop_oneof![
        (1usize..=16, 0u64..64).prop_map(|(len, number)| key(len, number)),
        (0u64..400).prop_map(|number| key(16, number)),
        (0u64..400).prop_map(|number| key(8, u64::MAX - number)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn single_operations_match_an_ordered_map(
        limit in 2_000u64..40_000,
        ops in proptest::collection::vec(prop_oneof![
            6 => (some_key(), any::<u64>()).prop_map(|(key, meta)| Op::Insert(key, meta)),
            3 => some_key().prop_map(Op::Remove),
            1 => some_key().prop_map(Op::List),
        ], 1..600),
    ) {
        let mut pair = Pair::<4, 8, 2>::new(limit);
        for op in ops {
            match op {
                Op::Insert(key, meta) => pair.insert(key, meta),
                Op::Remove(key) => pair.remove(&key),
                Op::List(key) => pair.compare_from(&key),
            }
        }
        pair.compare();
    }

    #[test]
    fn histories_match_an_ordered_map(
        seed in any::<u64>(),
        limit in prop_oneof![Just(u64::MAX), 4_000u64..60_000],
        phases in proptest::collection::vec(phase(), 1..12),
    ) {
        play_all::<4, 8, 2>(seed, limit, &phases);
        play_all::<8, 8, 3>(seed, limit, &phases);
        play_all::<8, 16, 4>(seed, limit, &phases);
        // Large enough for keys to be guessed at.
        play_all::<40, 8, 3>(seed, limit, &phases);
    }

    #[test]
    fn loading_gives_the_same_index(seed in any::<u64>(), count in 0u64..600) {
        let mut random = Random(seed);
        let model: BTreeMap<Key, u64> =
            (0..count).map(|_| (key(1 + random.below(16) as usize, random.next()), random.next())).collect();
        let sorted = model.iter().map(|(key, meta)| (*key, Meta(*meta)));
        let map = Map::<8, 8, 3>::load(u64::MAX, sorted).unwrap();
        check(&map);
        let mut pair = Pair { map, model, refused: 0, deepest: 0 };
        pair.compare();
        play(&mut pair, &Phase::DeleteEverySecond, &mut random);
    }
}

/// The other tests mean nothing if their trees are not deep and their limits never reached.
#[test]
fn small_pages_make_deep_trees_and_small_limits_are_reached() {
    let mut random = Random(1);
    let mut pair = Pair::<4, 8, 2>::new(u64::MAX);
    play(&mut pair, &Phase::Scattered { len: 16, count: 1500 }, &mut random);
    assert!(pair.deepest >= 3, "{} levels of inner pages", pair.deepest);
    play(&mut pair, &Phase::DeleteEverySecond, &mut random);
    play(&mut pair, &Phase::DeleteFromFront { count: 500 }, &mut random);
    play(&mut pair, &Phase::DeleteAll { backwards: true }, &mut random);
    pair.map.budget.limit = 20_000;
    play(&mut pair, &Phase::Scattered { len: 16, count: 1500 }, &mut random);
    assert!(pair.refused > 0);
}

#[test]
fn order_is_length_then_bytes() {
    let mut index = Index::new(1 << 20);
    for text in ["aaaaaaaaa", "b", "aa", "a", "zzzzzzzz", "ab", "zzzzzzzzz"] {
        assert_eq!(index.insert(Key::new(text.as_bytes()).unwrap(), Meta(text.len() as u64)), Ok(None));
    }
    assert_eq!(index.insert(Key::new(b"a\0").unwrap(), Meta(0)), Ok(None), "a key of its own");
    let keys: Vec<String> = index.range(None).map(|(key, _)| key.to_string()).collect();
    assert_eq!(keys, ["a", "b", "0x6100", "aa", "ab", "zzzzzzzz", "aaaaaaaaa", "zzzzzzzzz"]);
    let from = |start: &[u8]| index.range(Some(&Key::new(start).unwrap())).count();
    assert_eq!((from(b"a"), from(b"b"), from(b"c"), from(b"aaa"), from(&[0xff; 16])), (8, 7, 6, 3, 0));
}

#[test]
fn loading_names_the_key_that_is_out_of_order() {
    let entries = |numbers: &[u64]| numbers.iter().map(|n| (key(8, *n), Meta(*n))).collect::<Vec<_>>().into_iter();
    let error = Index::load(1 << 20, entries(&[1, 2, 2])).map(|index| index.len()).unwrap_err();
    assert_eq!(error, LoadError::Order { previous: key(8, 2), key: key(8, 2), position: 2 });
    let error = Index::load(1 << 20, entries(&[7, 3])).map(|index| index.len()).unwrap_err();
    assert!(error.to_string().contains("0x0000000000000003 at position 1 does not come after 0x0000000000000007"));
    let error = Index::load(0, entries(&[7])).map(|index| index.len()).unwrap_err();
    assert_eq!(error, LoadError::Full(IndexFull { keys: 0, limit: 0 }));
}

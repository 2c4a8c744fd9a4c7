//! The keys of a shard in memory: found by their hash, listed in their order.
//!
//! A lookup in a hash table waits for memory once or twice, one in an ordered tree on every level. The order, which only List asks
//! for, is a set of its own that is touched when a key comes or goes, not when a value is read or replaced. The table is cut in
//! parts that grow one by one, so that no Store waits until all keys have moved.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    ops::Bound,
};

use hashbrown::{HashTable, hash_table::Entry};
use kvof_io::prefetch;
use kvof_kv::Key;

/// Parts of the table. Of ten million keys, one part moves forty thousand when it grows: a millisecond.
const PARTS: usize = 256;

/// An ordered map from keys to values of a shard.
#[derive(Debug)]
pub(super) struct MemoryIndex<V> {
    parts: Box<[HashTable<Slot<V>>]>,
    seeds: Seeds,
    order: BTreeSet<Key>,
}

/// A key and its value: what a lookup waits for, on a cache line of its own where it fits one.
#[derive(Debug)]
#[repr(align(64))]
struct Slot<V> {
    key: Key,
    value: V,
}

impl<V> MemoryIndex<V> {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| HashTable::new()).collect(), seeds: Seeds::new(), order: BTreeSet::new() }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&V> {
        let slot = self.parts.get(part_of(key))?.find(self.seeds.hash_one(key), |slot| slot.key == *key)?;
        Some(&slot.value)
    }

    /// Brings closer what [`Self::get`] of `key` will wait for, without waiting for it.
    pub(super) fn prefetch(&self, key: &Key) {
        // The first slot that may have the key, judging by its hash alone, nearly always has it.
        if let Some(slot) =
            self.parts.get(part_of(key)).and_then(|part| part.iter_hash(self.seeds.hash_one(key)).next())
        {
            prefetch(slot);
        }
    }

    /// Puts `value` under `key`, and gives the one that was there.
    pub(super) fn insert(&mut self, key: Key, value: V) -> Option<V> {
        let seeds = self.seeds;
        let part = self.parts.get_mut(part_of(&key))?;
        match part.entry(seeds.hash_one(key), |slot| slot.key == key, |slot| seeds.hash_one(slot.key)) {
            Entry::Occupied(mut slot) => Some(std::mem::replace(&mut slot.get_mut().value, value)),
            Entry::Vacant(room) => {
                room.insert(Slot { key, value });
                self.order.insert(key);
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<V> {
        let part = self.parts.get_mut(part_of(key))?;
        let (slot, _) = part.find_entry(self.seeds.hash_one(key), |slot| slot.key == *key).ok()?.remove();
        self.order.remove(key);
        Some(slot.value)
    }

    /// The keys in order, from `start` on.
    pub(super) fn keys(&self, start: Option<Key>) -> impl Iterator<Item = &Key> {
        let from = start.map_or(Bound::Unbounded, Bound::Included);
        self.order.range((from, Bound::Unbounded))
    }
}

/// The part that has `key`. It is no secret: who picks keys for one part makes his own Stores wait for its growth.
fn part_of(key: &Key) -> usize {
    let bits = u128::from_le_bytes(key.padded());
    let folded = (bits as u64) ^ ((bits >> 64) as u64).rotate_left(32) ^ key.len() as u64;
    (folded.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 56) as usize % PARTS
}

/// Makes hashes that nobody can foresee who does not know the seeds.
#[derive(Clone, Copy, Debug)]
struct Seeds(u64, u64);

impl Seeds {
    fn new() -> Self {
        let random = RandomState::new();
        Self(random.hash_one(1u8), random.hash_one(2u8))
    }
}

impl BuildHasher for Seeds {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher { state: self.0, seed: self.1 }
    }
}

/// Multiplies words of 64 bits to 128 and folds the halves together: some instructions where SipHash takes two hundred for a key.
#[derive(Debug)]
struct KeyHasher {
    state: u64,
    seed: u64,
}

impl KeyHasher {
    const fn fold(a: u64, b: u64) -> u64 {
        let product = a as u128 * b as u128;
        product as u64 ^ (product >> 64) as u64
    }
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<16>();
        for word in words {
            let bits = u128::from_le_bytes(*word);
            self.state = Self::fold(bits as u64 ^ self.state, (bits >> 64) as u64 ^ self.seed);
        }
        for byte in rest {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.state = Self::fold(self.state ^ word, self.seed | 1);
    }

    /// Lengths of slices, which are the same for all keys.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        Self::fold(self.state, self.seed ^ 0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u64) -> Key {
        Key::new(format!("block_{number}").as_bytes()).unwrap()
    }

    #[test]
    fn parts_and_hashes_spread() {
        let seeds = Seeds::new();
        let count = 64 * PARTS as u64;
        let (mut parts, mut upper, mut lower) = ([0u32; PARTS], [0u32; 128], [0u32; 256]);
        for number in 0..count {
            parts[part_of(&key(number))] += 1;
            let hash = seeds.hash_one(key(number));
            upper[(hash >> 57) as usize] += 1;
            lower[(hash & 0xff) as usize] += 1;
        }
        for (what, counts) in [("parts", &parts[..]), ("upper bits", &upper), ("lower bits", &lower)] {
            let fair = count as u32 / counts.len() as u32;
            assert!(counts.iter().all(|n| *n > fair / 3 && *n < fair * 3), "{what}, seeds {seeds:?}: {counts:?}");
        }
    }

    proptest! {
        #[test]
        fn is_a_map_in_order(
            steps in prop::collection::vec((0u8..3, prop::collection::vec(0u8..3, 1..4), any::<u32>()), 0..300),
            start in prop::option::of(prop::collection::vec(0u8..3, 1..4)),
        ) {
            let (mut index, mut model) = (MemoryIndex::new(), BTreeMap::new());
            for (what, key, value) in steps {
                let key = Key::new(&key).unwrap();
                match what {
                    0 => prop_assert_eq!(index.insert(key, value), model.insert(key, value)),
                    1 => prop_assert_eq!(index.remove(&key), model.remove(&key)),
                    _ => prop_assert_eq!(index.get(&key), model.get(&key)),
                }
            }
            let start = start.map(|start| Key::new(&start).unwrap());
            let expected: Vec<&Key> = model.keys().filter(|key| start.is_none_or(|start| **key >= start)).collect();
            prop_assert_eq!(index.keys(start).collect::<Vec<_>>(), expected);
        }
    }
}

//! The exact index of one namespace of one shard: every key, in memory, in order, in at most 32 bytes.
//!
//! # Design
//!
//! A B+tree for each length of key, 1 to 16 bytes. So the length of a key takes no memory, keys compare as plain numbers,
//! and the order of `List` (length, then bytes) is that of the trees one after another. Keys of up to 8 bytes are kept in 8.
//!
//! * **Leaves** have 128 slots, keys and metas apart: 24.2 bytes for each slot of a long key, 16.2 for a short one, with what
//!   the allocator adds. **Inner pages** have 64 children, and take less than half a byte a key.
//! * **Fill.** A leaf that is full first shares with its neighbours; only eight full leaves become nine. A leaf that falls
//!   below 100 keys takes from its neighbours, and eight become seven as soon as they fit. So every leaf but the two at the
//!   ends of a tree has at least 100 keys, *always*, whatever was inserted and deleted: at most 31.5 bytes a key with the
//!   inner pages. (A tree of fewer than eight leaves has fewer neighbours to share with, and a lower floor.) The ends are
//!   exempt so that keys that come in order, up or down, leave full leaves, and keys that go in order leave the rest alone.
//! * **No stall.** Memory grows and shrinks page by page; nothing is ever rehashed or moved as a whole. The most that one
//!   operation does is to move the entries of eight neighbours on each level.
//! * **Search.** Inner pages are searched in two rounds of loads that do not depend on each other. In a leaf the place is
//!   guessed from the bounds that its parent has, and 16 keys there are looked at; only if that fails is all of the leaf
//!   searched. The guess also starts the load of the meta.
//!
//! # The limit
//!
//! [`Index::memory`] counts all pages, with 16 bytes for each that the allocator takes, and never goes above the limit. An
//! insertion knows before its first change whether a new leaf, and all splits above it, fit. If not, leaves share to their
//! last slot, and only a key whose leaf and its seven neighbours have no free slot is refused. Since all other leaves are at
//! their floor or above, at least one key for each 32 bytes of the limit is in the index by then, but for the constant of
//! the ends of each tree (18 KiB and one path of pages for each length of key in use). A refused key changes nothing, and
//! deleting needs no memory.
//!
//! # Figures
//!
//! Bytes a key of 16 bytes, a million keys (`tests/memory.rs`):
//!
//! | history | bytes a key |
//! |---|---|
//! | scattered keys inserted | 26.0 (27.6 resident; `BTreeMap` 40.8) |
//! | keys in order, up, down, or loaded | 24.6 |
//! | 64 interleaved streams in order | 27.4 |
//! | each scattered key replaced by another, three times over | 26.6 |
//! | then three of four deleted | 28.4 |
//! | loaded, then every second deleted | 27.6 |
//! | first in, first out | 24.6 |
//! | scattered keys of 8 bytes | 17.3 |
//!
//! Nanoseconds an operation, scattered keys of 16 bytes, next to `BTreeMap`, both in turns on two cores of a shared virtual
//! machine with other work (AMD EPYC, 32 MiB L3; `tests/measure.rs`): compare within a row, no more.
//!
//! | keys | get | get of an absent key | insert | remove | next of a list |
//! |---|---|---|---|---|---|
//! | 10 thousand | 69, `BTreeMap` 75 | 68, 96 | 206, 122 | 113, 115 | 11, 5 |
//! | 1 million | 393, 431 | 343, 428 | 888, 756 | 677, 807 | 14, 32 |
//! | 10 million | 792, 818 | 760, 847 | 1398, 1111 | 1034, 1128 | 15, 38 |
//!
//! An insertion costs more than that of `BTreeMap`: it moves half a leaf, and now and then eight; that is the price of the
//! memory. Of a million keys, 99 % of the insertions took less than 5.1 µs and 99.9 % less than 18 µs.

mod page;
#[cfg(test)]
mod tests;
mod tree;

use kvof_kv::Key;
use thiserror::Error;

use tree::Tree;

/// Slots of a leaf.
const LEAF: usize = 128;
/// Children of an inner page.
const FAN: usize = 64;
/// Neighbours that share before one of them splits, and that merge together.
const WINDOW: usize = 8;
/// Up to this length a key is kept in 8 bytes.
const SHORT: usize = 8;

/// 64 bits about a stored value. What they mean is the caller's matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta(pub u64);

/// A new key found no room: the index has reached its limit of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "the index is full: {keys} keys take all of its {limit} bytes of memory; delete keys, or give the index more memory (32 bytes a key)"
)]
pub struct IndexFull {
    /// Keys in the index.
    pub keys: u64,
    /// The limit of memory, bytes.
    pub limit: u64,
}

/// Why an index could not be built from a sorted sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LoadError {
    /// A key is not above the one before it.
    #[error(
        "key {key} at position {position} does not come after {previous}: keys must ascend by length, then bytes; the sequence is damaged or was not written in order"
    )]
    Order {
        /// The key before.
        previous: Key,
        /// The key that is not above it.
        key: Key,
        /// How many keys came before this one.
        position: u64,
    },
    /// There are more keys than the limit of memory has room for.
    #[error(transparent)]
    Full(#[from] IndexFull),
}

/// What pages may take, and what they have taken, bytes.
#[derive(Clone, Copy, Debug)]
struct Budget {
    used: u64,
    limit: u64,
}

impl Budget {
    fn has(&self, bytes: u64) -> bool {
        self.used.saturating_add(bytes) <= self.limit
    }

    fn take(&mut self, bytes: u64) {
        self.used += bytes;
    }

    fn give(&mut self, bytes: u64) {
        self.used -= bytes;
    }
}

/// An ordered map from keys to [`Meta`]; see the [module](self).
pub struct Index {
    map: Map<LEAF, FAN, WINDOW>,
}

/// The index with pages of any size: those of the tests are small, so that a few keys make a deep tree.
struct Map<const L: usize, const F: usize, const W: usize> {
    short: [Tree<u64, L, F, W>; SHORT],
    long: [Tree<u128, L, F, W>; Key::MAX_LEN - SHORT],
    len: u64,
    budget: Budget,
}

/// The bytes of a short key as a number.
fn short_word(key: &Key) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = key.padded();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn long_word(key: &Key) -> u128 {
    u128::from_be_bytes(key.padded())
}

fn short_key(len: usize, word: u64) -> Option<Key> {
    Key::new(word.to_be_bytes().get(..len)?).ok()
}

fn long_key(len: usize, word: u128) -> Option<Key> {
    Key::new(word.to_be_bytes().get(..len)?).ok()
}

/// Does `$then` with the tree for a key and the key as that tree has it.
macro_rules! on_tree {
    ($map:expr, $key:expr, |$tree:ident, $word:ident| $then:expr) => {
        if $key.len() <= SHORT {
            let ($tree, $word) = (&mut $map.short[$key.len() - 1], short_word($key));
            $then
        } else {
            let ($tree, $word) = (&mut $map.long[$key.len() - 1 - SHORT], long_word($key));
            $then
        }
    };
}

impl<const L: usize, const F: usize, const W: usize> Map<L, F, W> {
    fn new(limit: u64) -> Self {
        let budget = Budget { used: size_of::<Self>() as u64, limit };
        Self {
            short: core::array::from_fn(|_| Tree::default()),
            long: core::array::from_fn(|_| Tree::default()),
            len: 0,
            budget,
        }
    }

    fn get(&self, key: &Key) -> Option<Meta> {
        if key.len() <= SHORT {
            self.short[key.len() - 1].get(short_word(key))
        } else {
            self.long[key.len() - 1 - SHORT].get(long_word(key))
        }
    }

    fn get_mut(&mut self, key: &Key) -> Option<&mut Meta> {
        on_tree!(self, key, |tree, word| tree.get_mut(word))
    }

    fn insert(&mut self, key: &Key, meta: Meta) -> Result<Option<Meta>, IndexFull> {
        match on_tree!(self, key, |tree, word| tree.insert(word, meta, &mut self.budget)) {
            Ok(old) => {
                self.len += u64::from(old.is_none());
                Ok(old)
            }
            Err(()) => Err(IndexFull { keys: self.len, limit: self.budget.limit }),
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Meta> {
        let old = on_tree!(self, key, |tree, word| tree.remove(word, &mut self.budget));
        self.len -= u64::from(old.is_some());
        old
    }

    fn range(&self, start: Option<&Key>) -> impl Iterator<Item = (Key, Meta)> + '_ {
        let (from, short_start, long_start) =
            start.map_or((1, 0, 0), |key| (key.len(), short_word(key), long_word(key)));
        let short = (1..).zip(&self.short).skip_while(move |(len, _)| *len < from).flat_map(move |(len, tree)| {
            let start = if len == from { short_start } else { 0 };
            tree.range(start).filter_map(move |(word, meta)| Some((short_key(len, word)?, meta)))
        });
        let long =
            (SHORT + 1..).zip(&self.long).skip_while(move |(len, _)| *len < from).flat_map(move |(len, tree)| {
                let start = if len == from { long_start } else { 0 };
                tree.range(start).filter_map(move |(word, meta)| Some((long_key(len, word)?, meta)))
            });
        short.chain(long)
    }

    fn load(limit: u64, sorted: impl Iterator<Item = (Key, Meta)>) -> Result<Self, LoadError> {
        let mut map = Self::new(limit);
        let mut previous: Option<Key> = None;
        for (key, meta) in sorted {
            if let Some(previous) = previous
                && previous >= key
            {
                return Err(LoadError::Order { previous, key, position: map.len });
            }
            map.insert(&key, meta)?;
            previous = Some(key);
        }
        Ok(map)
    }
}

impl Index {
    /// An empty index that takes at most `memory_limit` bytes.
    #[must_use]
    pub fn new(memory_limit: u64) -> Self {
        Self { map: Map::new(memory_limit) }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.map.len
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.len == 0
    }

    /// What is known about the value of `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Meta> {
        self.map.get(key)
    }

    /// What is known about the value of `key`, to be changed in place.
    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Meta> {
        self.map.get_mut(key)
    }

    /// Inserts `key`, or replaces what is known about it; the old meta.
    ///
    /// # Errors
    /// [`IndexFull`] if the key is new and there is no room. The index is as it was.
    pub fn insert(&mut self, key: Key, meta: Meta) -> Result<Option<Meta>, IndexFull> {
        self.map.insert(&key, meta)
    }

    /// Removes `key`; its meta. This never needs memory.
    pub fn remove(&mut self, key: &Key) -> Option<Meta> {
        self.map.remove(key)
    }

    /// All entries in the order of keys, from the first key not below `start`.
    pub fn range(&self, start: Option<&Key>) -> impl Iterator<Item = (Key, Meta)> + '_ {
        self.map.range(start)
    }

    /// Builds an index from entries in strictly ascending order of keys. Its leaves are full.
    ///
    /// # Errors
    /// [`LoadError`] if a key is not above the one before, or if the limit has no room for all.
    pub fn load(memory_limit: u64, sorted: impl Iterator<Item = (Key, Meta)>) -> Result<Self, LoadError> {
        Map::load(memory_limit, sorted).map(|map| Self { map })
    }

    /// Bytes of memory held: leaves, inner pages, the allocator's headers, and this structure.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.map.budget.used
    }

    /// The most bytes of memory to hold.
    #[must_use]
    pub fn memory_limit(&self) -> u64 {
        self.map.budget.limit
    }

    /// Changes the limit. Below what is held, nothing is lost: new keys are refused for as long as they need memory.
    pub fn set_memory_limit(&mut self, bytes: u64) {
        self.map.budget.limit = bytes;
    }
}

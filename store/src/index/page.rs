//! Pages: sorted arrays of a fixed size, of which both the leaves and the inner nodes of a tree are made.

/// A key of a tree as a number whose order is the order of the keys.
pub(super) trait Word: Copy + Ord {
    /// The greatest word.
    const MAX: Self;
}

impl Word for u64 {
    const MAX: Self = Self::MAX;
}

impl Word for u128 {
    const MAX: Self = Self::MAX;
}

/// Up to `N` entries in ascending order of their keys. Keys and values lie apart, so that a search touches keys only.
///
/// Every slot past the last entry has the key [`Word::MAX`]: a search looks at whole pages, of whose size the compiler
/// knows, and need not wait for `len` to arrive from memory.
pub(super) struct Page<K, V, const N: usize> {
    keys: [K; N],
    values: [V; N],
    len: usize,
}

/// A search looks at every `step`-th key first, then at `step` neighbours: two waits for memory instead of one for each
/// halving, since the loads of one round do not depend on each other.
const fn step(slots: usize) -> usize {
    let mut step = 1;
    while (step * 2) * (step * 2) <= slots * 2 {
        step *= 2;
    }
    step
}

impl<K: Word, V: Default, const N: usize> Page<K, V, N> {
    const STEP: usize = {
        assert!(N.is_multiple_of(step(N)), "a page has a whole number of steps");
        step(N)
    };

    /// What a page takes from the allocator, bytes, with 16 for the allocator's own header and rounding.
    pub(super) const BYTES: u64 = size_of::<Self>() as u64 + 16;

    pub(super) fn new() -> Box<Self> {
        Box::new(Self { keys: [K::MAX; N], values: core::array::from_fn(|_| V::default()), len: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn keys(&self) -> &[K] {
        &self.keys[..self.len]
    }

    pub(super) fn values(&self) -> &[V] {
        &self.values[..self.len]
    }

    /// The value in slot `at`; the default value in a slot past the last.
    pub(super) fn value(&self, at: usize) -> &V {
        &self.values[at]
    }

    pub(super) fn value_mut(&mut self, at: usize) -> &mut V {
        &mut self.values[at]
    }

    pub(super) fn set_key(&mut self, at: usize, key: K) {
        self.keys[at] = key;
    }

    /// How many keys are below `key`: its slot if it is here, else the slot where it would be inserted.
    #[inline]
    pub(super) fn lower_bound(&self, key: K) -> usize {
        let blocks = N / Self::STEP;
        let block: usize = (1..blocks).map(|block| usize::from(self.keys[block * Self::STEP - 1] < key)).sum();
        let start = block * Self::STEP;
        start + self.keys[start..start + Self::STEP].iter().map(|k| usize::from(*k < key)).sum::<usize>()
    }

    /// The slot of `key`, or else the slot where it would be inserted.
    #[inline]
    pub(super) fn find(&self, key: K) -> Result<usize, usize> {
        let at = self.lower_bound(key);
        if at < self.len && self.keys[at] == key { Ok(at) } else { Err(at) }
    }

    /// Puts an entry into slot `at` of a page that is not full.
    pub(super) fn insert(&mut self, at: usize, key: K, value: V) {
        self.keys.copy_within(at..self.len, at + 1);
        self.keys[at] = key;
        self.values[at..=self.len].rotate_right(1);
        self.values[at] = value;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, at: usize) -> V {
        let value = core::mem::take(&mut self.values[at]);
        self.values[at..self.len].rotate_left(1);
        self.keys.copy_within(at + 1..self.len, at);
        self.len -= 1;
        self.keys[self.len] = K::MAX;
        value
    }

    /// Moves all entries out.
    fn drain(&mut self, keys: &mut Vec<K>, values: &mut Vec<V>) {
        keys.extend_from_slice(&self.keys[..self.len]);
        values.extend(self.values[..self.len].iter_mut().map(core::mem::take));
        self.keys[..self.len].fill(K::MAX);
        self.len = 0;
    }

    /// Takes `count` entries into an empty page.
    fn fill(&mut self, keys: &[K], values: impl Iterator<Item = V>) {
        self.keys[..keys.len()].copy_from_slice(keys);
        for (slot, value) in self.values.iter_mut().zip(values) {
            *slot = value;
        }
        self.len = keys.len();
    }

    /// Spreads the entries of neighbouring pages, and one more if there is one, evenly over `count` pages.
    pub(super) fn spread(pages: &mut Vec<Box<Self>>, count: usize, extra: Option<(K, V)>) {
        let total = pages.iter().map(|page| page.len).sum::<usize>() + usize::from(extra.is_some());
        debug_assert!(total <= count * N, "{total} entries do not fit in {count} pages of {N}");
        let mut keys = Vec::with_capacity(total);
        let mut values = Vec::with_capacity(total);
        for page in pages.iter_mut() {
            page.drain(&mut keys, &mut values);
        }
        if let Some((key, value)) = extra {
            let at = keys.partition_point(|k| *k < key);
            keys.insert(at, key);
            values.insert(at, value);
        }
        pages.resize_with(count, Self::new);
        let mut rest = keys.as_slice();
        let mut values = values.into_iter();
        for (i, page) in pages.iter_mut().enumerate() {
            let (mine, others) = rest.split_at(rest.len() / (count - i));
            page.fill(mine, values.by_ref().take(mine.len()));
            rest = others;
        }
    }

    /// Whether the slots past the last entry are as they must be; for the tests of the tree.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.keys().is_sorted_by(|a, b| a < b), "keys ascend");
        assert!(self.keys[self.len..].iter().all(|k| *k == K::MAX), "free slots have the greatest key");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_key_and_every_gap_at_every_fill() {
        fn check<const N: usize>() {
            let mut page = Page::<u64, u64, N>::new();
            for filled in 0..=N as u64 {
                for i in 0..filled {
                    assert_eq!(page.find(10 * i + 10), Ok(i as usize));
                    assert_eq!(page.find(10 * i + 5), Err(i as usize));
                }
                assert_eq!(page.find(u64::MAX), Err(filled as usize));
                if filled < N as u64 {
                    page.insert(filled as usize, 10 * filled + 10, filled);
                }
                page.check();
            }
        }
        check::<2>();
        check::<4>();
        check::<8>();
        check::<64>();
        check::<128>();
    }

    #[test]
    fn the_greatest_key_is_told_from_free_slots() {
        let mut page = Page::<u64, u64, 8>::new();
        assert_eq!(page.find(u64::MAX), Err(0));
        page.insert(0, u64::MAX, 1);
        assert_eq!(page.find(u64::MAX), Ok(0));
        page.insert(0, 3, 2);
        assert_eq!(page.find(u64::MAX), Ok(1));
        assert_eq!(page.remove(1), 1);
        assert_eq!(page.find(u64::MAX), Err(1));
    }

    #[test]
    fn spreads_evenly_and_in_order() {
        let mut pages = vec![Page::<u64, u64, 8>::new(), Page::new(), Page::new()];
        for (i, page) in pages.iter_mut().enumerate() {
            for j in 0..8 {
                let key = (i as u64 * 8 + j) * 2;
                page.insert(j as usize, key, key + 1);
            }
        }
        Page::spread(&mut pages, 4, Some((7, 8)));
        assert_eq!(pages.iter().map(|page| page.len()).collect::<Vec<_>>(), [6, 6, 6, 7]);
        let keys: Vec<u64> = pages.iter().flat_map(|page| page.keys().to_vec()).collect();
        assert!(keys.is_sorted() && keys.len() == 25 && keys.contains(&7));
        for page in &pages {
            page.check();
            assert!(page.keys().iter().zip(page.values()).all(|(k, v)| k + 1 == *v));
        }
    }
}

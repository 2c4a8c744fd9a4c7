//! Pages: sorted arrays of a fixed size, of which both the leaves and the inner nodes of a tree are made.

/// A key of a tree as a number whose order is the order of the keys.
pub(super) trait Word: Copy + Ord {
    /// The least word.
    const MIN: Self;
    /// The greatest word.
    const MAX: Self;

    /// Where this word lies between `low` and `high`: from 0, at `low`, to `whole`, at `high`. The 32 upper bits of the
    /// difference decide, since they are cheap to divide. Any number if this word does not lie there.
    fn scale(self, low: Self, high: Self, whole: usize) -> usize;
}

/// `part` of `all` parts of `whole`.
#[inline]
fn scale(part: u32, all: u32, whole: usize) -> usize {
    (u64::from(part) * whole as u64 / u64::from(all.max(1))) as usize
}

impl Word for u64 {
    const MIN: Self = 0;
    const MAX: Self = Self::MAX;

    #[inline]
    fn scale(self, low: Self, high: Self, whole: usize) -> usize {
        let all = high.wrapping_sub(low);
        let shift = 32_u32.saturating_sub(all.leading_zeros());
        scale((self.wrapping_sub(low) >> shift) as u32, (all >> shift) as u32, whole)
    }
}

impl Word for u128 {
    const MIN: Self = 0;
    const MAX: Self = Self::MAX;

    #[inline]
    fn scale(self, low: Self, high: Self, whole: usize) -> usize {
        let all = high.wrapping_sub(low);
        let shift = 96_u32.saturating_sub(all.leading_zeros());
        scale((self.wrapping_sub(low) >> shift) as u32, (all >> shift) as u32, whole)
    }
}

/// How many keys around the place where a key is guessed are looked at in one go.
const NEAR: usize = 16;

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

impl<K: Word, V: Copy, const N: usize> Page<K, V, N> {
    /// Begins to bring the value of `key` from memory while [`find_near`](Self::find_near), which takes the same `range`,
    /// waits for keys. The values of the slots around the guess lie in the same line of memory.
    #[inline]
    pub(super) fn warm(&self, key: K, (low, high, len): (K, K, usize)) {
        // Nothing waits for what a black box takes, but the processor does load it.
        core::hint::black_box(self.values[key.scale(low, high, len).min(N - 1)]);
    }
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

    /// [`Self::lower_bound`] of a page with `len` entries whose keys are above `low` and not above `high`. If they are not,
    /// the answer is right all the same.
    ///
    /// Keys that are spread evenly, as hashes and numbers are, lie about where their value says: one wait for a few
    /// neighbouring lines of memory instead of two for three times as many.
    #[inline]
    fn lower_bound_near(&self, key: K, (low, high, len): (K, K, usize)) -> usize {
        if N > 2 * NEAR {
            // The multiple of four keeps the window to as few lines of memory as can be.
            let guess = key.scale(low, high, len);
            let start = (guess.saturating_sub(NEAR / 2 - 2) & !3).min(N - NEAR);
            let below = self.keys[start..start + NEAR].iter().map(|k| usize::from(*k < key)).sum::<usize>();
            if (below > 0 || start == 0) && (below < NEAR || start + NEAR == N) {
                return start + below;
            }
        }
        self.lower_bound(key)
    }

    /// The slot of `key`, or else the slot where it would be inserted; `range` as for [`Self::lower_bound_near`].
    #[inline]
    pub(super) fn find_near(&self, key: K, range: (K, K, usize)) -> Result<usize, usize> {
        let at = self.lower_bound_near(key, range);
        if at < N && self.keys[at] == key && at < self.len { Ok(at) } else { Err(at) }
    }

    /// The slot of `key`, or else the slot where it would be inserted.
    #[inline]
    pub(super) fn find(&self, key: K) -> Result<usize, usize> {
        let at = self.lower_bound(key);
        if at < self.len && self.keys[at] == key { Ok(at) } else { Err(at) }
    }

    /// The keys of child `at`: above the first bound, not above the second. `low` is the first bound of the page itself.
    #[inline]
    pub(super) fn bounds(&self, at: usize, low: K) -> (K, K) {
        (if at > 0 { self.keys[at - 1] } else { low }, self.keys[at])
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
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_guess_never_changes_the_answer(
            keys in proptest::collection::btree_set(prop_oneof![any::<u128>(), 0u128..1000, (u128::MAX - 99)..], 0..=128),
            probes in proptest::collection::vec(prop_oneof![any::<u128>(), 0u128..1000, (u128::MAX - 99)..], 0..64),
            (low, high, len) in (any::<u128>(), any::<u128>(), 0usize..200),
        ) {
            let mut page = Page::<u128, u64, 128>::new();
            keys.iter().enumerate().for_each(|(at, key)| page.insert(at, *key, 0));
            let within = (0, keys.last().copied().unwrap_or(u128::MAX), keys.len());
            for probe in probes.iter().chain(&keys) {
                for range in [within, (low, high, len), (*probe, *probe, 128)] {
                    prop_assert_eq!(page.lower_bound_near(*probe, range), page.lower_bound(*probe));
                    prop_assert_eq!(page.find_near(*probe, range).is_ok(), keys.contains(probe));
                }
            }
        }
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

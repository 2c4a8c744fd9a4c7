//! One B+tree: the keys of one length.
//!
//! # Invariants
//!
//! * All leaves are at the same depth. An inner page has an entry for each child: the greatest key that belongs there, and
//!   the child. The bound of the last entry of the root is [`Word::MAX`]; that of the last entry of any other inner page is
//!   the bound that its parent has for it.
//! * In a page with `c` children every child has at least [`floor`]`(min(c, W))` entries, except the first and the last
//!   leaf of the tree, which have at least one. Inner pages other than the root have at least `W` children.

use super::page::{Page, Word};
use super::{Budget, Meta};

pub(super) type Leaf<K, const L: usize> = Page<K, Meta, L>;
pub(super) type Inner<K, const L: usize, const F: usize> = Page<K, Kid<K, L, F>, F>;

/// What hangs from an entry of an inner page.
#[derive(Default)]
pub(super) enum Kid<K, const L: usize, const F: usize> {
    #[default]
    None,
    /// A leaf, and how many keys it has: to know this without waiting for the leaf's memory makes a search faster.
    Leaf(Box<Leaf<K, L>>, u16),
    Inner(Box<Inner<K, L, F>>),
}

/// How a page is taken out of its kid.
type Unwrap<K, V, const N: usize, const L: usize, const F: usize> = fn(Kid<K, L, F>) -> Option<Box<Page<K, V, N>>>;

/// Why a key could not be put below a page.
enum Block {
    /// There is no memory for another page.
    Full,
    /// The page has no slot for another child: its parent has to make room first.
    Crowded,
}

/// How full pages are made when fewer will do: 123 of 128 slots.
const fn target(slots: usize) -> usize {
    slots - slots / 24
}

/// Up to how full, on average, neighbours share what they have instead of getting another page: 126 of 128 slots.
const fn share(slots: usize) -> usize {
    slots - if slots < 48 { 1 } else { slots / 48 }
}

/// The fewest entries in a page of `slots` slots with `w - 1` neighbours to share with: 100 of 128 with 7 neighbours.
pub(super) const fn floor(slots: usize, w: usize) -> usize {
    target(slots) * (w - 1) / w * 15 / 16
}

/// Over how many pages of `slots` slots the `total` entries of `w` pages should be spread: at most `w + 1`.
///
/// If the answer is at most `w`, an even spread leaves every page at or above its [`floor`].
const fn plan(total: usize, w: usize, slots: usize) -> usize {
    let fewest = total.div_ceil(target(slots));
    if fewest < w {
        if fewest == 0 { 1 } else { fewest }
    } else if total <= w * share(slots) {
        w
    } else {
        w + 1
    }
}

/// Where a page is in its tree.
#[derive(Clone, Copy)]
struct Place<K> {
    first: bool,
    last: bool,
    /// The bounds of the keys that belong here: above the one, not above the other.
    low: K,
    high: K,
}

impl<K: Word> Place<K> {
    const ROOT: Self = Self { first: true, last: true, low: K::MIN, high: K::MAX };

    /// The place of child `at` of `page`, which is here.
    fn of_child<V: Default, const N: usize>(self, page: &Page<K, V, N>, at: usize) -> Self {
        let (low, high) = page.bounds(at, self.low);
        Self { first: self.first && at == 0, last: self.last && at + 1 == page.len(), low, high }
    }

    fn is_end(self) -> bool {
        self.first || self.last
    }
}

/// A map from `K` to [`Meta`]: leaves of `L` slots, inner pages of `F`, and `W` neighbours that share before one splits.
pub(super) struct Tree<K, const L: usize, const F: usize, const W: usize> {
    root: Kid<K, L, F>,
    /// Levels of inner pages.
    height: u8,
}

impl<K, const L: usize, const F: usize, const W: usize> Default for Tree<K, L, F, W> {
    fn default() -> Self {
        Self { root: Kid::None, height: 0 }
    }
}

impl<K: Word, const L: usize, const F: usize> Kid<K, L, F> {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Leaf(_, len) => usize::from(*len),
            Self::Inner(page) => page.len(),
        }
    }

    fn leaf(page: Box<Leaf<K, L>>) -> Self {
        let len = page.len() as u16;
        Self::Leaf(page, len)
    }

    fn into_leaf(self) -> Option<Box<Leaf<K, L>>> {
        if let Self::Leaf(page, _) = self { Some(page) } else { None }
    }

    fn into_inner(self) -> Option<Box<Inner<K, L, F>>> {
        if let Self::Inner(page) = self { Some(page) } else { None }
    }
}

impl<K: Word, const L: usize, const F: usize, const W: usize> Tree<K, L, F, W> {
    /// Inner pages must always have enough children for a full window.
    const CHECKED: () = assert!(
        floor(F, 2) >= W && W >= 2 && floor(L, 2) >= 1 && L <= u16::MAX as usize,
        "pages are too small for the window"
    );

    pub(super) fn get(&self, key: K) -> Option<Meta> {
        let (mut kid, mut low, mut high) = (&self.root, K::MIN, K::MAX);
        loop {
            match kid {
                Kid::Inner(page) => {
                    let at = page.lower_bound(key);
                    (low, high) = page.bounds(at, low);
                    kid = page.value(at);
                }
                Kid::Leaf(page, len) => {
                    let range = (low, high, usize::from(*len));
                    page.warm(key, range);
                    return page.find_near(key, range).ok().map(|at| *page.value(at));
                }
                Kid::None => return None,
            }
        }
    }

    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut Meta> {
        let (mut kid, mut low, mut high) = (&mut self.root, K::MIN, K::MAX);
        loop {
            match kid {
                Kid::Inner(page) => {
                    let at = page.lower_bound(key);
                    (low, high) = page.bounds(at, low);
                    kid = page.value_mut(at);
                }
                Kid::Leaf(page, len) => {
                    let range = (low, high, usize::from(*len));
                    page.warm(key, range);
                    return page.find_near(key, range).ok().map(|at| page.value_mut(at));
                }
                Kid::None => return None,
            }
        }
    }

    /// Inserts or replaces; the old meta. `Err(())` if the key is new and there is no memory for it.
    pub(super) fn insert(&mut self, key: K, meta: Meta, budget: &mut Budget) -> Result<Option<Meta>, ()> {
        let () = Self::CHECKED;
        // A split of a leaf may split every page above it and put a new root on top. That all of it fits is asked once,
        // before the first change.
        let can_grow = budget.has(Leaf::<K, L>::BYTES + (u64::from(self.height) + 1) * Inner::<K, L, F>::BYTES);
        loop {
            match &mut self.root {
                Kid::None => {
                    if !budget.has(Leaf::<K, L>::BYTES) {
                        return Err(());
                    }
                    budget.take(Leaf::<K, L>::BYTES);
                    self.root = Kid::Leaf(Page::new(), 0);
                    self.height = 0;
                }
                Kid::Leaf(page, len) => match page.find(key) {
                    Ok(at) => return Ok(Some(core::mem::replace(page.value_mut(at), meta))),
                    Err(at) if page.len() < L => {
                        page.insert(at, key, meta);
                        *len += 1;
                        return Ok(None);
                    }
                    Err(_) if can_grow => self.raise(budget),
                    Err(_) => return Err(()),
                },
                Kid::Inner(page) => match Below::<K, L, F, W>::insert(page, key, meta, Place::ROOT, can_grow, budget) {
                    Ok(old) => {
                        self.lower(budget);
                        return Ok(old);
                    }
                    Err(Block::Full) => return Err(()),
                    Err(Block::Crowded) => self.raise(budget),
                },
            }
        }
    }

    pub(super) fn remove(&mut self, key: K, budget: &mut Budget) -> Option<Meta> {
        match &mut self.root {
            Kid::None => None,
            Kid::Leaf(page, len) => {
                let meta = page.remove(page.find(key).ok()?);
                *len -= 1;
                if *len == 0 {
                    self.root = Kid::None;
                    budget.give(Leaf::<K, L>::BYTES);
                }
                Some(meta)
            }
            Kid::Inner(page) => {
                let meta = Below::<K, L, F, W>::remove(page, key, Place::ROOT, budget)?;
                self.lower(budget);
                Some(meta)
            }
        }
    }

    /// Puts a new root above the root.
    fn raise(&mut self, budget: &mut Budget) {
        budget.take(Inner::<K, L, F>::BYTES);
        let mut page = Page::new();
        page.insert(0, K::MAX, core::mem::take(&mut self.root));
        self.root = Kid::Inner(page);
        self.height += 1;
    }

    /// Takes away roots with a single child.
    fn lower(&mut self, budget: &mut Budget) {
        while let Kid::Inner(page) = &mut self.root
            && page.len() == 1
        {
            self.root = page.remove(0);
            self.height -= 1;
            budget.give(Inner::<K, L, F>::BYTES);
        }
    }

    /// The entries in order, from the first key not below `start`.
    pub(super) fn range(&self, start: K) -> Range<'_, K, L, F> {
        let mut range = Range { path: Vec::with_capacity(usize::from(self.height)), leaf: None };
        range.descend(&self.root, start);
        range
    }

    #[cfg(test)]
    pub(super) fn root(&self) -> (&Kid<K, L, F>, u8) {
        (&self.root, self.height)
    }
}

/// Where a walk over a tree is.
pub(super) struct Range<'a, K, const L: usize, const F: usize> {
    /// Inner pages from the root down, and the child to visit next in each.
    path: Vec<(&'a Inner<K, L, F>, usize)>,
    leaf: Option<(&'a Leaf<K, L>, usize)>,
}

impl<'a, K: Word, const L: usize, const F: usize> Range<'a, K, L, F> {
    fn descend(&mut self, mut kid: &'a Kid<K, L, F>, start: K) {
        while let Kid::Inner(page) = kid {
            let at = page.lower_bound(start);
            self.path.push((page, at + 1));
            kid = page.value(at);
        }
        if let Kid::Leaf(page, _) = kid {
            self.leaf = Some((page, page.lower_bound(start)));
        }
    }

    fn descend_first(&mut self, mut kid: &'a Kid<K, L, F>) {
        while let Kid::Inner(page) = kid {
            self.path.push((page, 1));
            kid = page.value(0);
        }
        if let Kid::Leaf(page, _) = kid {
            self.leaf = Some((page, 0));
        }
    }
}

impl<K: Word, const L: usize, const F: usize> Iterator for Range<'_, K, L, F> {
    type Item = (K, Meta);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (page, at) = self.leaf.as_mut()?;
            if let (Some(key), Some(meta)) = (page.keys().get(*at), page.values().get(*at)) {
                *at += 1;
                return Some((*key, *meta));
            }
            self.leaf = None;
            while let Some((page, next)) = self.path.pop() {
                if let Some(kid) = page.values().get(next) {
                    self.path.push((page, next + 1));
                    self.descend_first(kid);
                    break;
                }
            }
        }
    }
}

/// Changes below an inner page.
struct Below<K, const L: usize, const F: usize, const W: usize>(core::marker::PhantomData<K>);

impl<K: Word, const L: usize, const F: usize, const W: usize> Below<K, L, F, W> {
    fn insert(
        page: &mut Inner<K, L, F>,
        key: K,
        meta: Meta,
        place: Place<K>,
        can_grow: bool,
        budget: &mut Budget,
    ) -> Result<Option<Meta>, Block> {
        loop {
            let at = page.lower_bound(key);
            let below = place.of_child(page, at);
            match page.value_mut(at) {
                Kid::Leaf(leaf, len) => {
                    return match leaf.find_near(key, (below.low, below.high, usize::from(*len))) {
                        Ok(slot) => Ok(Some(core::mem::replace(leaf.value_mut(slot), meta))),
                        Err(slot) if leaf.len() < L => {
                            leaf.insert(slot, key, meta);
                            *len += 1;
                            Ok(None)
                        }
                        Err(slot) => {
                            let outside = (below.last && slot == L, below.first && slot == 0);
                            Self::insert_full(page, at, key, meta, outside, can_grow, budget).map(|()| None)
                        }
                    };
                }
                Kid::Inner(inner) => match Self::insert(inner, key, meta, below, can_grow, budget) {
                    Err(Block::Crowded) => {
                        let (from, w, total) = Self::window(page, at);
                        let count = plan(total + 1, w, F);
                        if count > w && page.len() == F {
                            return Err(Block::Crowded);
                        }
                        Self::spread(page, from, w, count, None, Kid::into_inner, Kid::Inner, budget);
                    }
                    done => {
                        Self::mend_inner(page, at, budget);
                        return done;
                    }
                },
                Kid::None => return Err(Block::Full),
            }
        }
    }

    /// Inserts a new key whose leaf, child `at`, is full. `outside` says whether the key is above, and whether it is below
    /// all keys of the tree; `can_grow` whether there is memory for another leaf and what may follow from it.
    fn insert_full(
        page: &mut Inner<K, L, F>,
        at: usize,
        key: K,
        meta: Meta,
        outside: (bool, bool),
        can_grow: bool,
        budget: &mut Budget,
    ) -> Result<(), Block> {
        let (from, w, total) = Self::window(page, at);
        let mut count = plan(total + 1, w, L);
        if count > w {
            if !can_grow {
                // Without memory neighbours share to the last slot.
                if total == w * L {
                    return Err(Block::Full);
                }
                count = w;
            } else if page.len() == F {
                return Err(Block::Crowded);
            } else if outside != (false, false) {
                // Keys that come in order, up or down, leave full leaves behind.
                budget.take(Leaf::<K, L>::BYTES);
                let mut leaf = Page::new();
                leaf.insert(0, key, meta);
                if outside.0 {
                    let bound = page.keys()[at];
                    let last = Self::greatest(page.value(at)).unwrap_or(bound);
                    page.set_key(at, last);
                    page.insert(at + 1, bound, Kid::leaf(leaf));
                } else {
                    page.insert(at, key, Kid::leaf(leaf));
                }
                return Ok(());
            }
        }
        Self::spread(page, from, w, count, Some((key, meta)), Kid::into_leaf, Kid::leaf, budget);
        Ok(())
    }

    fn remove(page: &mut Inner<K, L, F>, key: K, place: Place<K>, budget: &mut Budget) -> Option<Meta> {
        let at = page.lower_bound(key);
        let below = place.of_child(page, at);
        match page.value_mut(at) {
            Kid::Leaf(leaf, len) => {
                let slot = leaf.find_near(key, (below.low, below.high, usize::from(*len))).ok()?;
                let meta = leaf.remove(slot);
                *len -= 1;
                let len = leaf.len();
                if len < floor(L, page.len().min(W)) {
                    Self::mend_leaf(page, at, len, below, budget);
                }
                Some(meta)
            }
            Kid::Inner(inner) => {
                let meta = Self::remove(inner, key, below, budget)?;
                Self::mend_inner(page, at, budget);
                Some(meta)
            }
            Kid::None => None,
        }
    }

    /// Brings leaf `at` with its `len` keys above its floor again.
    fn mend_leaf(page: &mut Inner<K, L, F>, at: usize, len: usize, place: Place<K>, budget: &mut Budget) {
        if len == 0 {
            let bound = page.keys()[at];
            if at + 1 == page.len() && at > 0 {
                page.set_key(at - 1, bound);
            }
            page.remove(at);
            budget.give(Leaf::<K, L>::BYTES);
            return;
        }
        let (from, w, total) = Self::window(page, at);
        let count = plan(total, w, L).min(w);
        // At the ends of the tree a leaf may run empty as its keys are deleted in order: its neighbours stay full.
        if count < w || !place.is_end() {
            Self::spread(page, from, w, count, None, Kid::into_leaf, Kid::leaf, budget);
        }
    }

    /// Brings inner child `at` above its floor again, if it is below.
    fn mend_inner(page: &mut Inner<K, L, F>, at: usize, budget: &mut Budget) {
        if page.value(at).len() < floor(F, page.len().min(W)) {
            let (from, w, total) = Self::window(page, at);
            let count = plan(total, w, F).min(w);
            Self::spread(page, from, w, count, None, Kid::into_inner, Kid::Inner, budget);
        }
    }

    /// The up to `W` children around child `at`: the first, how many, and how many entries they have.
    fn window(page: &Inner<K, L, F>, at: usize) -> (usize, usize, usize) {
        let w = page.len().min(W);
        let from = at.saturating_sub(W / 2).min(page.len() - w);
        (from, w, page.values()[from..from + w].iter().map(Kid::len).sum())
    }

    /// The greatest key of a leaf, or the greatest bound of an inner page.
    fn greatest(kid: &Kid<K, L, F>) -> Option<K> {
        match kid {
            Kid::None => None,
            Kid::Leaf(page, _) => page.keys().last().copied(),
            Kid::Inner(page) => page.keys().last().copied(),
        }
    }

    /// Spreads the entries of the `w` children from `from`, and one more if there is one, over `count` children.
    #[expect(clippy::too_many_arguments, reason = "a window, what to make of it, and the kind of page")]
    fn spread<V: Default, const N: usize>(
        page: &mut Inner<K, L, F>,
        from: usize,
        w: usize,
        count: usize,
        extra: Option<(K, V)>,
        unwrap: Unwrap<K, V, N, L, F>,
        wrap: fn(Box<Page<K, V, N>>) -> Kid<K, L, F>,
        budget: &mut Budget,
    ) {
        let bound = page.keys()[from + w - 1];
        let mut pages = Vec::with_capacity(w + 1);
        pages.extend((from..from + w).filter_map(|at| unwrap(core::mem::take(page.value_mut(at)))));
        Page::spread(&mut pages, count, extra);
        for _ in count..w {
            page.remove(from);
            budget.give(Page::<K, V, N>::BYTES);
        }
        for _ in w..count {
            page.insert(from, bound, Kid::None);
            budget.take(Page::<K, V, N>::BYTES);
        }
        for (i, child) in pages.into_iter().enumerate() {
            let kid = wrap(child);
            // The last child keeps the bound that the pages above know.
            let to = if i + 1 == count { bound } else { Self::greatest(&kid).unwrap_or(bound) };
            page.set_key(from + i, to);
            *page.value_mut(from + i) = kid;
        }
    }
}

//! Policies of one queue: FIFO, LRU, CLOCK, SIEVE.

use kvof_store::tier::Admit;

use super::Policy;
use super::lists::{Lists, NONE};
use crate::traces::Trace;

/// What the four have in common.
pub(crate) struct Base {
    lists: Lists,
    limit: u64,
    read: Vec<bool>,
}

impl Base {
    fn new(trace: &Trace, limit: u64) -> Self {
        Self { lists: Lists::new(&trace.sizes, 1), limit, read: vec![false; trace.sizes.len()] }
    }

    fn full(&self, id: u32) -> bool {
        self.lists.bytes(0) + self.lists.size(id) > self.limit
    }

    fn admits(&self, id: u32) -> bool {
        self.lists.size(id) <= self.limit / 8
    }
}

macro_rules! policy {
    ($name:ident, $($field:ident: $kind:ty)?) => {
        pub(crate) struct $name {
            base: Base,
            $($field: $kind,)?
        }

        impl $name {
            pub(crate) fn new(trace: &Trace, limit: u64) -> Self {
                Self { base: Base::new(trace, limit), $($field: <$kind>::default())? }
            }
        }

        impl Policy for $name {
            fn get(&mut self, id: u32) -> bool {
                let hit = self.base.lists.of(id) != NONE;
                if hit {
                    self.hit(id);
                }
                hit
            }

            fn put(&mut self, id: u32, _why: Admit) {
                if !self.base.admits(id) {
                    return;
                }
                self.base.lists.take(id);
                while self.base.full(id) {
                    self.evict();
                }
                self.base.read[id as usize] = false;
                self.base.lists.push(id, 0);
            }
        }
    };
}

policy!(Fifo,);
policy!(Lru,);
policy!(Clock,);
policy!(Sieve, hand: Option<u32>);

impl Fifo {
    #[expect(clippy::unused_self, reason = "the same shape for all")]
    fn hit(&self, _id: u32) {}

    fn evict(&mut self) {
        if let Some(id) = self.base.lists.oldest(0) {
            self.base.lists.take(id);
        }
    }
}

impl Lru {
    fn hit(&mut self, id: u32) {
        self.base.lists.push(id, 0);
    }

    fn evict(&mut self) {
        if let Some(id) = self.base.lists.oldest(0) {
            self.base.lists.take(id);
        }
    }
}

impl Clock {
    fn hit(&mut self, id: u32) {
        self.base.read[id as usize] = true;
    }

    fn evict(&mut self) {
        while let Some(id) = self.base.lists.oldest(0) {
            if !std::mem::take(&mut self.base.read[id as usize]) {
                self.base.lists.take(id);
                return;
            }
            self.base.lists.push(id, 0);
        }
    }
}

impl Sieve {
    fn hit(&mut self, id: u32) {
        self.base.read[id as usize] = true;
    }

    fn evict(&mut self) {
        let lists = &mut self.base.lists;
        let mut at = self.hand.filter(|id| lists.of(*id) != NONE).or_else(|| lists.oldest(0));
        while let Some(id) = at {
            at = lists.newer(id).or_else(|| lists.oldest(0));
            if !std::mem::take(&mut self.base.read[id as usize]) {
                self.hand = lists.newer(id);
                lists.take(id);
                return;
            }
        }
    }
}

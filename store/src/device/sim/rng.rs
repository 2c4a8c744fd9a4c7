//! Random numbers that a seed decides: xoshiro256**, seeded by splitmix64.

/// A generator. The same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

/// A number that depends on all bits of `seed` and `stream`: the seed of a part of something that has a seed.
#[must_use]
pub const fn derive(seed: u64, stream: u64) -> u64 {
    mix(seed ^ mix(stream ^ 0x6b76_6f66_2073_696d))
}

const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self([mix(seed), mix(seed ^ 1 << 62), mix(seed ^ 2 << 62), mix(seed ^ 3 << 62)])
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        let Self([a, b, c, d]) = self;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `n`; 0 if `n` is 0.
    pub const fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }

    /// A number from `from` to `to`, both included.
    pub const fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from).saturating_add(1))
    }

    /// True `n` times in a million.
    pub const fn per_million(&mut self, n: u32) -> bool {
        self.below(1_000_000) < n as u64
    }

    /// True once in `n` times.
    pub const fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `items`; `None` if there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// A place in `weights`, as often as its weight says; 0 if all are 0.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().map(|w| u64::from(*w)).sum());
        for (n, weight) in weights.iter().enumerate() {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return n,
            }
        }
        0
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.iter_mut().zip(random).for_each(|(to, from)| *to = from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference implementation's numbers for the state 1, 2, 3, 4.
    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        let mut rng = Rng([1, 2, 3, 4]);
        assert_eq!(
            [rng.next(), rng.next(), rng.next(), rng.next()],
            [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240]
        );
    }

    #[test]
    fn ranges_and_weights_hold() {
        let mut rng = Rng::new(1);
        assert_ne!(Rng::new(2).next(), rng.next());
        assert!((0..1000).all(|_| (3..=5).contains(&rng.between(3, 5))));
        assert_eq!((rng.below(0), rng.pick::<u8>(&[]), rng.weighted(&[0, 0])), (0, None, 0));
        let hits = (0..10_000).filter(|_| rng.weighted(&[1, 0, 3]) == 2).count();
        assert!((7000..8000).contains(&hits), "{hits}");
    }
}

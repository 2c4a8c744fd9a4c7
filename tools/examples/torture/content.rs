//! Values that are known by a number: nobody has to keep their bytes to check them.

/// A value: the bytes that follow from `seed`, as many as `len` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) len: u32,
}

impl Content {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        for (place, chunk) in bytes.chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&self.word(place)[..chunk.len()]);
        }
        bytes
    }

    pub(crate) fn is(self, bytes: &[u8]) -> bool {
        bytes.len() == self.len as usize
            && bytes.chunks(8).enumerate().all(|(place, chunk)| *chunk == self.word(place)[..chunk.len()])
    }

    const fn word(self, place: usize) -> [u8; 8] {
        mix(self.seed.wrapping_add(place as u64)).to_le_bytes()
    }
}

/// A sequence of numbers that follows from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to `bound - 1`.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in `percent` of 100 cases.
    pub(crate) const fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A length as they come: many small values, some large ones, empty ones too.
    pub(crate) const fn length(&mut self, longest: u32) -> u32 {
        let (least, most) = match self.below(100) {
            0..5 => (0, 0),
            5..35 => (1, 200),
            35..55 => (3000, 5000),
            55..78 => (4096, 65536),
            78..95 => (65537, 400_000),
            _ => (400_000, longest),
        };
        least + self.below((most - least) as u64 + 1) as u32
    }
}

/// Every bit of the result depends on every bit of `x`.
const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_knows_its_bytes_and_no_others() {
        for len in [0, 1, 7, 8, 9, 4096, 100_001] {
            let content = Content { seed: 5, len };
            let mut bytes = content.bytes();
            assert!(content.is(&bytes));
            assert_eq!(Content { seed: 6, len }.is(&bytes), len == 0);
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
                assert!(!content.is(&bytes));
                bytes.pop();
                assert!(!content.is(&bytes));
            }
        }
    }
}

//! Values that say what they are: from one that was read back, the key, the version and every byte can be checked.

/// Key number and version, 8 bytes each, at the start of a value.
const HEADER: usize = 16;

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) key: u64,
    pub(crate) version: u64,
}

impl Label {
    /// Fills a value of at least 16 bytes, or as much of it as there is.
    pub(crate) fn fill(self, value: &mut [u8]) {
        let bytes = self.key.to_le_bytes().into_iter().chain(self.version.to_le_bytes()).chain(self.body());
        value.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
    }

    /// A value of `len` bytes.
    pub(crate) fn value(self, len: usize) -> Vec<u8> {
        let mut value = vec![0; len];
        self.fill(&mut value);
        value
    }

    /// The label that a value carries, and how many of its bytes are not what that label says.
    pub(crate) fn read(value: &[u8]) -> Option<(Self, u64)> {
        let (key, rest) = value.split_first_chunk()?;
        let (version, _) = rest.split_first_chunk()?;
        let label = Self { key: u64::from_le_bytes(*key), version: u64::from_le_bytes(*version) };
        Some((label, label.wrong_bytes(value)))
    }

    /// How many bytes differ from what [`fill`](Self::fill) would have written.
    pub(crate) fn wrong_bytes(self, value: &[u8]) -> u64 {
        let expected = self.value(value.len());
        value.iter().zip(&expected).filter(|(read, expected)| read != expected).count() as u64
    }

    fn body(self) -> impl Iterator<Item = u8> {
        // SplitMix64's step: no two labels give the same stream.
        let mut state = self.key.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.version.rotate_left(32) ^ HEADER as u64;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 27)).to_le_bytes()
        })
        .flatten()
    }
}

/// Numbers that a seed determines.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.iter_mut().zip(random).for_each(|(byte, random)| *byte = random);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers() {
        let bytes = |seed| {
            let mut bytes = [0; 20];
            Random::new(seed).fill(&mut bytes);
            bytes
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }

    #[test]
    fn a_value_tells_its_label_and_every_changed_byte() {
        let label = Label { key: 7, version: 9 };
        let mut value = label.value(1000);
        assert_eq!(Label::read(&value), Some((label, 0)));
        value[500] ^= 1;
        value[999] ^= 0x80;
        assert_eq!(Label::read(&value), Some((label, 2)));
    }

    #[test]
    fn other_labels_and_torn_values_differ() {
        let old = Label { key: 7, version: 1 }.value(256);
        let mut torn = Label { key: 7, version: 2 }.value(256);
        torn[128..].copy_from_slice(&old[128..]);
        let (label, wrong) = Label::read(&torn).unwrap();
        assert_eq!(label.version, 2);
        assert!(wrong > 100, "{wrong}");
        assert_eq!(Label::read(&[0; 8]), None);
    }
}

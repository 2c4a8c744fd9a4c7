//! CRC-32C (Castagnoli), the checksum of everything on a device and, so that one pass serves both, of NVMe/TCP's digests.
//!
//! Sums of adjacent pieces [`combine`] without the bytes, so that a value that came in pieces is never read twice.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    narrow(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

/// The CRC-32C of A followed by B, of the sums of both and the length of B in bytes.
///
/// It costs some tens of nanoseconds for each bit that is set in the length, so that round lengths are the cheapest.
#[must_use]
pub const fn combine(crc_a: u32, crc_b: u32, len_b: u64) -> u32 {
    let (mut crc, mut bits) = (crc_a, len_b);
    while bits > 0 {
        crc = multiply(SHIFTS[bits.trailing_zeros() as usize], crc);
        bits &= bits - 1;
    }
    crc ^ crc_b
}

/// The polynomial, reflected: the highest bit is the factor of x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^8 to the power of 2^i, modulo the polynomial: what 2^i bytes that follow multiply a sum with.
const SHIFTS: [u32; 64] = {
    // x^8, since x^0 is the highest bit.
    let mut shifts = [1 << (31 - 8); 64];
    let mut i = 1;
    while i < 64 {
        shifts[i] = multiply(shifts[i - 1], shifts[i - 1]);
        i += 1;
    }
    shifts
};

/// a times b modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 1 << 31);
    while bit > 0 {
        product ^= if a & bit == 0 { 0 } else { b };
        b = b >> 1 ^ if b & 1 == 0 { 0 } else { POLYNOMIAL };
        bit >>= 1;
    }
    product
}

/// A CRC-32C that is fed piece by piece.
#[derive(Clone, Copy)]
pub struct Crc32c(Digest);

impl Crc32c {
    /// The sum of no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The CRC-32C of all bytes so far. More may follow.
    #[must_use]
    pub fn finish(&self) -> u32 {
        narrow(self.0.finalize())
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Crc32c {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crc32c({:#010x})", self.finish())
    }
}

/// The crate gives sums of every width as 64 bits; this one has 32.
const fn narrow(crc: u64) -> u32 {
    crc as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit from the definition: reflected polynomial 0x82f63b78, start and final xor of all ones.
    fn slow(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
        })
    }

    #[test]
    fn known_vectors() {
        // RFC 3720 B.4, and the check value of the catalogue of CRCs.
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        for (bytes, crc) in [
            (&b""[..], 0),
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&up, 0x46dd_794e),
            (&down, 0x113f_db5c),
        ] {
            assert_eq!(crc32c(bytes), crc, "{bytes:?}");
            assert_eq!(slow(bytes), crc, "{bytes:?}");
        }
    }

    #[test]
    fn combining_with_nothing_changes_nothing() {
        let crc = crc32c(b"123456789");
        assert_eq!(combine(crc, crc32c(b""), 0), crc);
        assert_eq!(combine(crc32c(b""), crc, 9), crc);
    }

    #[test]
    fn a_length_beyond_memory_combines() {
        // Zeros in steps that double: the sum of 2^50 bytes without having them.
        let (mut crc, mut len) = (crc32c(&[0]), 1_u64);
        let of_1_mib = crc32c(&vec![0; 1 << 20]);
        while len < 1 << 50 {
            crc = combine(crc, crc, len);
            len *= 2;
            if len == 1 << 20 {
                assert_eq!(crc, of_1_mib);
            }
        }
        // The same length from another side: (2^50 - 2^20) + 2^20.
        let (mut rest, mut rest_len) = (of_1_mib, 1_u64 << 20);
        let mut total = of_1_mib;
        while rest_len < 1 << 50 {
            total = combine(total, rest, rest_len);
            rest = combine(rest, rest, rest_len);
            rest_len *= 2;
        }
        assert_eq!(total, crc);
    }

    proptest! {
        #[test]
        fn pieces_agree_with_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let whole = crc32c(&bytes);
            prop_assert_eq!(whole, slow(&bytes));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let (mut running, mut combined) = (Crc32c::new(), crc32c(b""));
            for pair in cuts.windows(2) {
                let piece = &bytes[pair[0]..pair[1]];
                running.update(piece);
                combined = combine(combined, crc32c(piece), piece.len() as u64);
                prop_assert_eq!(running.finish(), crc32c(&bytes[..pair[1]]));
            }
            prop_assert_eq!(running.finish(), whole);
            prop_assert_eq!(combined, whole);
        }

        /// The other implementation squares matrices, which is a hundred times slower.
        #[test]
        fn combining_agrees_with_another_implementation(a: u32, b: u32, len: u64, shift in 0..64_u32) {
            let len = len >> shift;
            let other = crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, a.into(), b.into(), len);
            prop_assert_eq!(u64::from(combine(a, b, len)), other);
        }

        #[test]
        fn one_flipped_bit_shows(
            mut bytes in proptest::collection::vec(any::<u8>(), 1..2000),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let before = crc32c(&bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert_ne!(crc32c(&bytes), before);
        }
    }
}

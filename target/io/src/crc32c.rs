//! CRC-32C, as NVMe/TCP sends it behind headers and data.
//!
//! Its state is four bytes, for a queue to keep. The engine's own (`kvof_store::checksum`) keeps the library's, some 250: it adds many short
//! pieces, and each would cost a hundred instructions more here.

use crc_fast::{CrcAlgorithm, Digest, checksum};

const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// A checksum of bytes that come piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Of no bytes yet.
    pub const fn new() -> Self {
        Self(u32::MAX)
    }

    /// The checksum of `bytes` alone.
    pub fn of(bytes: &[u8]) -> u32 {
        checksum(ALGORITHM, bytes) as u32
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut digest = Digest::new_with_init_state(ALGORITHM, self.0.into());
        digest.update(bytes);
        self.0 = digest.get_state() as u32;
    }

    /// The checksum of all bytes so far.
    pub const fn value(self) -> u32 {
        !self.0
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_to_what_rfc_3720_says_of_the_whole() {
        // RFC 3720 B.4: 32 bytes of zeros, of 0xff, and ascending.
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, value) in [(vec![0; 32], 0x8a91_36aa), (vec![0xff; 32], 0x62a8_ab43), (ascending, 0x46dd_794e)] {
            assert_eq!(Crc32c::of(&bytes), value);
            for cut in 0..=bytes.len() {
                let (head, tail) = bytes.split_at(cut);
                let mut crc = Crc32c::new();
                crc.update(head);
                crc.update(tail);
                assert_eq!(crc.value(), value, "cut at {cut}");
            }
        }
        assert_eq!(Crc32c::new().value(), Crc32c::of(&[]));
    }
}

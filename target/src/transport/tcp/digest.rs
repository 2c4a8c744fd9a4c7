//! CRC-32C header and data digests (TCP section 3.4.1.1).

use crc_fast::{CrcAlgorithm, Digest};

/// The digest of `bytes`, as it is on the wire.
pub(super) fn of(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

/// A digest that is computed as bytes arrive.
pub(super) struct Running(Digest);

impl Running {
    pub(super) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn value(&self) -> [u8; 4] {
        (self.0.finalize() as u32).to_le_bytes()
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_crc32c_little_endian() {
        // RFC 3720 B.4: 32 bytes of zeros, and of 0xff.
        assert_eq!(of(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(of(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let mut running = Running::new();
        running.update(&[0; 5]);
        running.update(&[0; 27]);
        assert_eq!(running.value(), of(&[0; 32]));
    }
}

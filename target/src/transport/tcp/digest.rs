//! Header and data digests (TCP section 3.4.1.1).

use kvof_io::Crc32c;

/// The digest of `bytes`, as it is on the wire.
pub(super) fn of(bytes: &[u8]) -> [u8; 4] {
    Crc32c::of(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_crc32c_little_endian() {
        // RFC 3720 B.4: 32 bytes of zeros, and of 0xff.
        assert_eq!(of(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(of(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
    }
}

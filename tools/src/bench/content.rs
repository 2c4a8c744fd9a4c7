//! Values that tell which they are, so that a wrong, old, torn or misplaced one is noticed.

/// Index, stamp and length, mixed: 8 bytes each.
const HEADER: usize = 24;

/// Fills `value` as number `stamp` of the values of key `index`. Too short for a stamp it is the same every time.
pub(super) fn write(value: &mut [u8], index: u64, stamp: u64) {
    let len = value.len() as u64;
    let Some((header, body)) = value.split_at_mut_checked(HEADER) else {
        return fill(value, index);
    };
    let fields = [index, stamp, mix(index ^ mix(stamp ^ mix(len)))];
    for (to, field) in header.chunks_exact_mut(8).zip(fields) {
        to.copy_from_slice(&field.to_le_bytes());
    }
    fill(body, mix(index ^ mix(stamp)));
}

/// Checks that `value` is some value of key `index`, whole.
pub(super) fn check(value: &[u8], index: u64) -> Result<(), String> {
    let Some((header, body)) = value.split_at_checked(HEADER) else {
        return compare(value, index, 0);
    };
    let field = |at: usize| header.get(at..at + 8).and_then(|f| f.try_into().ok()).map_or(0, u64::from_le_bytes);
    let (found, stamp) = (field(0), field(8));
    if field(16) != mix(found ^ mix(stamp ^ mix(value.len() as u64))) {
        return Err(format!("the first {HEADER} of its {} bytes are not what was stored", value.len()));
    }
    if found != index {
        return Err(format!("it is the value of key number {found}, not {index}"));
    }
    compare(body, mix(index ^ mix(stamp)), HEADER)
}

fn fill(bytes: &mut [u8], base: u64) {
    for (chunk, number) in bytes.chunks_mut(8).zip(0u64..) {
        let word = word(base, number).to_le_bytes();
        let len = chunk.len();
        chunk.copy_from_slice(&word[..len]);
    }
}

fn compare(bytes: &[u8], base: u64, offset: usize) -> Result<(), String> {
    let wrong = bytes.chunks(8).zip(0u64..).position(|(chunk, number)| {
        let word = word(base, number).to_le_bytes();
        chunk != &word[..chunk.len()]
    });
    match wrong {
        None => Ok(()),
        Some(chunk) => Err(format!("it is wrong from about byte {} on", offset + chunk * 8)),
    }
}

const fn word(base: u64, number: u64) -> u64 {
    base.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ base
}

/// Spreads the bits of `n` (the finaliser of splitmix64).
pub(super) const fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_right() {
        for len in [0, 1, 7, 8, 23, 24, 25, 31, 32, 4096, 4099] {
            let mut value = vec![0; len];
            write(&mut value, 5, 77);
            check(&value, 5).unwrap();
        }
    }

    #[test]
    fn every_damage_is_noticed() {
        for len in [8, 23, 24, 40, 4099] {
            let mut value = vec![0; len];
            write(&mut value, 5, 77);
            for at in 0..len {
                value[at] ^= 1;
                assert!(check(&value, 5).is_err(), "{len} bytes, byte {at}");
                value[at] ^= 1;
            }
            assert!(check(&value, 6).is_err());
        }
    }

    #[test]
    fn a_value_of_two_versions_is_noticed() {
        let (mut old, mut new) = (vec![0; 4096], vec![0; 4096]);
        write(&mut old, 5, 1);
        write(&mut new, 5, 2);
        new[2048..].copy_from_slice(&old[2048..]);
        assert_eq!(check(&new, 5).unwrap_err(), "it is wrong from about byte 2048 on");
        assert!(check(&old[..4095], 5).is_err());
    }
}

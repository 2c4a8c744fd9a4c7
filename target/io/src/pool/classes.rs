//! Size classes of the pool: every 4 KiB up to 64 KiB, then four steps per power of two, so that rounding adds less than a quarter.
//! From 1 MiB upwards there are sixteen: large values have a header or trailer besides a power of two, and a quarter of them is a lot.

/// Size and alignment of the smallest allocation, in bytes.
pub const PAGE_SIZE: usize = 4096;

const LINEAR_PAGES: usize = 16;
const LINEAR_SHIFT: u32 = 4;
/// Four steps per power of two up to this one (1 MiB), sixteen from there.
const FINE_SHIFT: u32 = 8;
const COARSE_STEPS_SHIFT: u32 = 2;
const FINE_STEPS_SHIFT: u32 = 4;

/// The class that holds `len` bytes and the size of its members in bytes; None for 0 and for lengths beyond the address space.
pub(super) fn class_of(len: usize) -> Option<(usize, usize)> {
    let pages = len.div_ceil(PAGE_SIZE);
    let (class, class_pages) = match pages {
        0 => return None,
        1..=LINEAR_PAGES => (pages - 1, pages),
        _ => {
            // `pages` lies in (2^power, 2^(power+1)], which so many equal steps divide.
            let power = (pages - 1).ilog2();
            let steps_shift = if power < FINE_SHIFT { COARSE_STEPS_SHIFT } else { FINE_STEPS_SHIFT };
            let step = 1usize << (power - steps_shift);
            let steps = (pages - (1 << power)).div_ceil(step);
            let coarse = (power.min(FINE_SHIFT) - LINEAR_SHIFT) << COARSE_STEPS_SHIFT;
            let fine = power.saturating_sub(FINE_SHIFT) << FINE_STEPS_SHIFT;
            (LINEAR_PAGES + (coarse + fine) as usize + steps - 1, (1usize << power) + steps * step)
        }
    };
    Some((class, class_pages.checked_mul(PAGE_SIZE)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sizes() {
        let kib = |n: usize| n * 1024;
        for (len, size) in [
            (1, kib(4)),
            (4096, kib(4)),
            (4097, kib(8)),
            (kib(60) + 1, kib(64)),
            (kib(64), kib(64)),
            (kib(64) + 1, kib(80)),
            (kib(80) + 1, kib(96)),
            (kib(97), kib(112)),
            (kib(128), kib(128)),
            (kib(128) + 1, kib(160)),
            (kib(1024), kib(1024)),
            (kib(1024) + 1, kib(1088)),
            (kib(1028), kib(1088)),
            (kib(2048) - 1, kib(2048)),
            (kib(2048) + 1, kib(2176)),
            (kib(16 * 1024) + 1, kib(17 * 1024)),
        ] {
            assert_eq!(class_of(len).unwrap().1, size, "class size for {len} bytes");
        }
        assert_eq!(class_of(0), None);
        assert_eq!(class_of(usize::MAX), None);
    }

    #[test]
    fn classes_are_dense_and_ascending() {
        let mut last = None;
        for pages in 1..20_000 {
            let now = class_of(pages * PAGE_SIZE).unwrap();
            assert!(now.1 >= pages * PAGE_SIZE);
            let divisor = if pages <= 256 { 4 } else { 16 };
            assert!((now.1 - pages * PAGE_SIZE) * divisor < pages * PAGE_SIZE, "{pages} pages become {} bytes", now.1);
            if let Some((class, size)) = last {
                if now.1 == size {
                    assert_eq!(now.0, class);
                } else {
                    assert_eq!(now.0, class + 1);
                    assert!(now.1 > size);
                }
            } else {
                assert_eq!(now, (0, PAGE_SIZE));
            }
            last = Some(now);
        }
    }
}

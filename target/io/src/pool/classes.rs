//! Size classes of the pool: every 4 KiB up to 64 KiB, then four steps per power of two, so that rounding wastes less than a quarter.

/// Size and alignment of the smallest allocation, in bytes.
pub const PAGE_SIZE: usize = 4096;

const LINEAR_PAGES: usize = 16;
const LINEAR_SHIFT: usize = 4;

/// The class that holds `len` bytes and the size of its members in bytes; None for 0 and for lengths beyond the address space.
pub(super) fn class_of(len: usize) -> Option<(usize, usize)> {
    let pages = len.div_ceil(PAGE_SIZE);
    let (class, class_pages) = match pages {
        0 => return None,
        1..=LINEAR_PAGES => (pages - 1, pages),
        _ => {
            // `pages` lies in (2^power, 2^(power+1)], which four equal steps divide.
            let power = (pages - 1).ilog2() as usize;
            let step = 1usize << (power - 2);
            let steps = (pages - (1 << power)).div_ceil(step);
            (LINEAR_PAGES + (power - LINEAR_SHIFT) * 4 + steps - 1, (1usize << power) + steps * step)
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
            (kib(1024) + 1, kib(1280)),
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
            assert!(now.1 < pages * PAGE_SIZE * 5 / 4 + PAGE_SIZE);
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

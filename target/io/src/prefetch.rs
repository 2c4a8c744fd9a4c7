//! Asking the processor for memory before it is needed.

#[cfg(all(target_arch = "aarch64", not(miri)))]
use std::arch::asm;
use std::mem::size_of_val;

/// Bytes of a cache line, on the processors that are known here.
pub(crate) const LINE: usize = 64;

/// Asks for all cache lines of `value`. What they are used for soon afterwards waits less, or not at all.
pub fn prefetch<T>(value: &T) {
    let start = (&raw const *value).cast::<u8>();
    let mut at = 0;
    while at < size_of_val(value) {
        line(start.wrapping_add(at));
        at += LINE;
    }
    if align_of::<T>() < LINE {
        // Its end may lie in one more.
        line(start.wrapping_add(size_of_val(value).saturating_sub(1)));
    }
}

/// Asks for the cache line at `place`, which need not be memory at all, as close as it gets.
pub(crate) fn line(place: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing and reads nothing that anybody sees, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: as above; what cannot be translated is dropped.
        unsafe {
            asm!("prfm pldl1keep, [{place}]", place = in(reg) place, options(nostack, preserves_flags, readonly))
        };
    }
    #[cfg(any(not(any(target_arch = "x86_64", target_arch = "aarch64")), miri))]
    let _ = place;
}

/// The same for one of many lines, which leave the closest cache alone.
pub(crate) fn far_line(place: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        // SAFETY: as above.
        unsafe {
            asm!("prfm pldl2keep, [{place}]", place = in(reg) place, options(nostack, preserves_flags, readonly))
        };
    }
    #[cfg(any(not(any(target_arch = "x86_64", target_arch = "aarch64")), miri))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_nothing_happens() {
        let mut memory = [7_u8; 300];
        prefetch(&memory);
        prefetch(&memory[299]);
        prefetch(&());
        for place in [0, 1, usize::MAX, 0xdead_0000] {
            line(std::ptr::without_provenance(place));
            far_line(std::ptr::without_provenance(place));
        }
        memory[0] = 8;
        assert_eq!((memory[0], memory[299]), (8, 7));
    }
}

//! Copies between ordinary memory and words that others may read and write at the same time.
//!
//! A loop of relaxed atomics says so in the language, but is compiled to an instruction or more for each word. x86-64 has one that moves
//! any number of whole words, as fast as the machine can.

use std::sync::atomic::AtomicU64;
#[cfg(any(test, miri, not(target_arch = "x86_64")))]
use std::sync::atomic::Ordering;

/// Copies `src` to `words`, as many whole words as both have.
pub(super) fn store(words: &[AtomicU64], src: &[u8]) {
    let (chunks, _) = src.as_chunks::<8>();
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: both have so many words; atomics may be written through a shared reference, and as `src` is ordinary memory it does not
    // overlap them.
    unsafe {
        move_words(words.as_ptr().cast_mut().cast(), chunks.as_ptr().cast(), words.len().min(chunks.len()));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    store_each(words, chunks);
}

/// Copies `words` to `dst`, as many whole words as both have.
pub(super) fn load(words: &[AtomicU64], dst: &mut [u8]) {
    let (chunks, _) = dst.as_chunks_mut::<8>();
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: both have so many words, and as `dst` is ordinary memory it does not overlap the others.
    unsafe {
        move_words(chunks.as_mut_ptr().cast(), words.as_ptr().cast(), words.len().min(chunks.len()));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    load_each(words, chunks);
}

#[cfg(any(test, miri, not(target_arch = "x86_64")))]
fn store_each(words: &[AtomicU64], chunks: &[[u8; 8]]) {
    for (word, bytes) in words.iter().zip(chunks) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
}

#[cfg(any(test, miri, not(target_arch = "x86_64")))]
fn load_each(words: &[AtomicU64], chunks: &mut [[u8; 8]]) {
    for (word, bytes) in words.iter().zip(chunks) {
        *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
    }
}

/// Copies `count` words of 8 bytes, those that are aligned in one piece each.
///
/// # Safety
/// Both places have that many words, and do not overlap. Others may access either meanwhile, as atomics or in the kernel.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn move_words(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: in bounds, as the caller says. The compiler does not look inside, so that it cannot assume that nobody else writes. The
    // direction flag is clear, as the calling convention demands.
    unsafe {
        std::arch::asm!(
            "rep movsq",
            inout("rcx") count => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_copy_the_same_wherever_the_bytes_lie() {
        let words: Vec<AtomicU64> =
            (0..600u64).map(|i| AtomicU64::new(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        for (len, shift) in [(0, 0), (8, 0), (8, 3), (64, 1), (4096, 0), (4096, 5), (4800, 7)] {
            let (mut fast, mut slow) = (vec![0u8; len + shift], vec![0u8; len + shift]);
            load(&words, &mut fast[shift..]);
            load_each(&words, slow[shift..].as_chunks_mut().0);
            assert!(fast == slow, "{len} bytes at {shift}");
            let (mut one, mut other): (Vec<AtomicU64>, Vec<AtomicU64>) = (Vec::new(), Vec::new());
            one.resize_with(600, AtomicU64::default);
            other.resize_with(600, AtomicU64::default);
            store(&one, &fast[shift..]);
            store_each(&other, slow[shift..].as_chunks().0);
            let values = |words: &[AtomicU64]| words.iter().map(|w| w.load(Ordering::Relaxed)).collect::<Vec<_>>();
            assert!(values(&one) == values(&other), "{len} bytes at {shift}");
            assert!(values(&one[..len / 8]) == values(&words[..len / 8]), "{len} bytes at {shift}");
        }
    }
}

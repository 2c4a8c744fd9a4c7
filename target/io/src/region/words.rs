//! Copies between ordinary memory and words that others may read and write at the same time.
//!
//! A loop of relaxed atomics says so in the language, but is compiled to an instruction or more for each word. x86-64 has one that moves
//! any number of whole words, as fast as the machine can, and others that write memory without reading it into a cache first.

use std::sync::atomic::AtomicU64;
#[cfg(any(test, miri, not(target_arch = "x86_64")))]
use std::sync::atomic::Ordering;

#[cfg(any(test, all(target_arch = "x86_64", not(miri))))]
use super::WORD;

/// Bytes of a line of the cache.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE_WORDS: usize = LINE / WORD;
/// Bytes that [`load_far`] copies at once.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const FAR: usize = 4 * 4096;
#[cfg(all(target_arch = "x86_64", not(miri)))]
const FAR_WORDS: usize = FAR / WORD;

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

/// Copies `src` to `words`, as many whole words as both have, past the caches: the old bytes are not read to be replaced, and nobody waits
/// for them. Other threads and devices are sure to see the new ones after [`publish_writes`].
pub(super) fn stream(words: &[AtomicU64], src: &[u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        // Words before the first line of the cache, lines, and words behind the last.
        let before = (words.as_ptr().align_offset(LINE)).min(words.len());
        let (first, words) = words.split_at(before);
        let (first_src, src) = src.split_at(src.len().min(before * WORD));
        store(first, first_src);
        let lines = (words.len() / LINE_WORDS).min(src.len() / LINE);
        if lines > 0 {
            // SAFETY: both have so many lines, and those of `words` are aligned; the rest as for `store`.
            unsafe { stream_lines(words.as_ptr().cast_mut().cast(), src.as_ptr(), lines) };
        }
        store(words.get(lines * LINE_WORDS..).unwrap_or_default(), src.get(lines * LINE..).unwrap_or_default());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    store(words, src);
}

/// Lets every thread and device see what this thread has written to a [`Region`](crate::Region), before anything that it does from now on.
/// To be called before anybody is told that a write is done, unless a [`TxQueue`](crate::TxQueue) tells it, which does this itself.
pub fn publish_writes() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a fence reads and writes nothing. The compiler may not move memory accesses over it.
    unsafe {
        std::arch::asm!("sfence", options(nostack, preserves_flags));
    }
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

/// As [`load`], for words that no cache holds: four pages of 4 KiB at once. A processor runs ahead of its reader within a page only, so that one
/// page after the other has it wait at the beginning of each.
pub(super) fn load_far(words: &[AtomicU64], dst: &mut [u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let strips = (words.len() / FAR_WORDS).min(dst.len() / FAR);
        for (words, dst) in words.chunks_exact(FAR_WORDS).zip(dst.chunks_exact_mut(FAR)) {
            // SAFETY: both have so many bytes, and as `dst` is ordinary memory it does not overlap the words.
            unsafe { move_four_pages(dst.as_mut_ptr(), words.as_ptr().cast()) };
        }
        load(words.get(strips * FAR_WORDS..).unwrap_or_default(), dst.get_mut(strips * FAR..).unwrap_or_default());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    load(words, dst);
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

/// Copies `count` lines of 64 bytes, at least one, by stores that pass the caches.
///
/// # Safety
/// Both places have that many bytes and do not overlap, and `to` is aligned to 16 bytes. Others may access `to` meanwhile, as atomics or in
/// the kernel.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn stream_lines(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: in bounds and aligned, as the caller says. As in `move_words` the compiler does not look inside. SSE2 is a part of x86-64.
    unsafe {
        std::arch::asm!(
            "2:",
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movntdq [{to}], {a}",
            "movntdq [{to} + 16], {b}",
            "movntdq [{to} + 32], {c}",
            "movntdq [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {count}",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            count = inout(reg) count => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack)
        );
    }
}

/// Copies [`FAR`] bytes, a line of each quarter in turn.
///
/// # Safety
/// Both places have that many bytes and do not overlap. Others may access either meanwhile, as atomics or in the kernel: a processor moves what
/// is aligned to 8 bytes whole, also as half of 16.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn move_four_pages(to: *mut u8, from: *const u8) {
    /// A line, at an offset from both.
    macro_rules! line {
        ($at:literal) => {
            concat!(
                "movdqu {a}, [{from} + ",
                $at,
                "]\n",
                "movdqu {b}, [{from} + ",
                $at,
                " + 16]\n",
                "movdqu {c}, [{from} + ",
                $at,
                " + 32]\n",
                "movdqu {d}, [{from} + ",
                $at,
                " + 48]\n",
                "movdqu [{to} + ",
                $at,
                "], {a}\n",
                "movdqu [{to} + ",
                $at,
                " + 16], {b}\n",
                "movdqu [{to} + ",
                $at,
                " + 32], {c}\n",
                "movdqu [{to} + ",
                $at,
                " + 48], {d}\n",
            )
        };
    }
    // SAFETY: in bounds, as the caller says: 64 lines of each of four pages. As in `move_words` the compiler does not look inside. SSE2 is a part
    // of x86-64.
    unsafe {
        std::arch::asm!(
            "2:",
            line!("0"),
            line!("4096"),
            line!("8192"),
            line!("12288"),
            "add {from}, 64",
            "add {to}, 64",
            "dec {count}",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            count = inout(reg) FAR / 4 / LINE => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack)
        );
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
            fast.fill(0);
            load_far(&words, &mut fast[shift..]);
            assert!(fast[shift..] == slow[shift..], "{len} bytes at {shift}, far");
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

    #[test]
    fn what_is_far_comes_whole_and_in_order_wherever_it_goes() {
        let words: Vec<AtomicU64> =
            (0..10_000u64).map(|i| AtomicU64::new(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        for (first, len, shift) in [(0, 16_384, 0), (1, 16_384, 3), (5, 16_376, 0), (7, 65_600, 1), (2, 49_152, 8)] {
            let words = &words[first..];
            let (mut far, mut slow) = (vec![9u8; len + shift + 8], vec![9u8; len + shift + 8]);
            load_far(words, &mut far[shift..shift + len]);
            load_each(words, slow[shift..shift + len].as_chunks_mut().0);
            assert!(far == slow, "{len} bytes from word {first} to {shift}");
        }
        // The shorter of both decides.
        let mut far = vec![0; 20_000];
        load_far(&words[..2048], &mut far);
        assert!(far[16_384..].iter().all(|byte| *byte == 0) && far[16_383] != 0);
        load_far(&words, &mut far[..16_383]);
    }

    /// Words that another thread writes meanwhile come whole, also by 16 bytes that lie in two lines.
    #[test]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn words_that_are_far_come_whole_while_others_write_them() {
        let words: Vec<AtomicU64> = (0..FAR_WORDS + 1).map(|_| AtomicU64::new(0)).collect();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in (0..=u8::MAX).cycle() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    store(&words, &[round; FAR + WORD]);
                }
            });
            let mut seen = vec![0; FAR];
            let mut kinds = std::collections::BTreeSet::new();
            let mut torn = None;
            // At least a thousand times, and until the other thread has had its turn.
            for n in 0.. {
                if torn.is_some() || n >= 1000 && kinds.len() > 10 {
                    break;
                }
                // From either word on, so that one of both is not aligned to 16 bytes.
                load_far(&words[n % 2..n % 2 + FAR_WORDS], &mut seen);
                for word in seen.as_chunks::<WORD>().0 {
                    kinds.insert(word[0]);
                    if word.iter().any(|byte| *byte != word[0]) {
                        torn = Some(*word);
                    }
                }
            }
            over.store(true, Ordering::Relaxed);
            assert_eq!(torn, None);
        });
    }

    #[test]
    fn what_passes_the_caches_arrives_wherever_it_lies_and_touches_no_neighbour() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| i.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).collect();
        for count in [0, 1, 7, 8, 9, 15, 16, 63, 64, 512, 520] {
            for (first, shift) in [(0, 0), (1, 0), (2, 3), (3, 1), (7, 5)] {
                let words: Vec<AtomicU64> = (0..count + 16).map(|_| AtomicU64::new(u64::MAX)).collect();
                let src = &bytes[shift..shift + count * WORD];
                stream(&words[first..first + count], src);
                publish_writes();
                let now: Vec<u8> = words.iter().flat_map(|w| w.load(Ordering::Relaxed).to_ne_bytes()).collect();
                let (before, rest) = now.split_at(first * WORD);
                let (copied, behind) = rest.split_at(src.len());
                assert!(copied == src, "{count} words at {first}");
                assert!(before.iter().chain(behind).all(|byte| *byte == 0xff), "{count} words at {first}");
            }
        }
        // The shorter of both decides, as with `store`.
        let words: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(u64::MAX)).collect();
        stream(&words, &bytes[..100]);
        assert!(words.iter().skip(12).all(|w| w.load(Ordering::Relaxed) == u64::MAX));
        assert_eq!(words[11].load(Ordering::Relaxed).to_ne_bytes(), bytes[88..96]);
        stream(&words[..10], &bytes[100..]);
        assert_eq!(words[9].load(Ordering::Relaxed).to_ne_bytes(), bytes[172..180]);
        assert_eq!(words[10].load(Ordering::Relaxed).to_ne_bytes(), bytes[80..88]);
    }
}

//! Zeroed anonymous memory from the kernel, aligned so that huge pages can back it.
//!
//! Invariant: every pointer returned by [`map_zeroed`] names exactly `len` readable and writable bytes until [`unmap`].

use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Size of a huge page on x86-64 and on aarch64 with 4 KiB pages, in bytes.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Maps `len` zeroed bytes. From 2 MiB upwards the start is aligned to 2 MiB and huge pages are asked for.
pub(crate) fn map_zeroed(len: usize) -> io::Result<NonNull<u8>> {
    if len == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "cannot map 0 bytes of memory"));
    }
    if len < HUGE_PAGE {
        return map(len, MapFlags::PRIVATE);
    }
    map_aligned(len, MapFlags::PRIVATE)
}

/// Address space of `len` bytes that read as zeros, aligned to 2 MiB; huge pages are asked for. Memory is taken as it is written, and is
/// not reserved before: `len` may be more than the machine has. [`discard`] gives it back.
pub(crate) fn map_untouched(len: usize) -> io::Result<NonNull<u8>> {
    map_aligned(len, MapFlags::PRIVATE | MapFlags::NORESERVE)
}

/// Gives the memory of whole pages back to the kernel: they stay mapped, and read as zeros.
///
/// # Safety
/// The range lies in one mapping, and nobody uses it.
pub(crate) unsafe fn discard(start: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: promised by the caller.
    Ok(unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxDontNeed) }?)
}

fn map_aligned(len: usize, flags: MapFlags) -> io::Result<NonNull<u8>> {
    // The kernel aligns large anonymous mappings by itself only since 6.7: map more than needed and give back both ends.
    let padded = len
        .checked_next_multiple_of(crate::PAGE_SIZE)
        .and_then(|l| l.checked_add(HUGE_PAGE))
        .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let start = map(padded, flags)?;
    let head = start.as_ptr().align_offset(HUGE_PAGE);
    let tail = padded - head - (padded - HUGE_PAGE);
    // SAFETY: `head` < HUGE_PAGE, so the aligned start and the `len` bytes after it lie inside the `padded` bytes just mapped.
    let aligned = unsafe { start.add(head) };
    if head > 0 {
        // SAFETY: the first `head` bytes are ours, page-aligned (the mapping and its aligned start both are), and nobody knows of them.
        unsafe { unmap(start, head) };
    }
    if tail > 0 {
        // SAFETY: the end of the kept part is within (or one past) the mapping.
        let end = unsafe { aligned.add(padded - HUGE_PAGE) };
        // SAFETY: the last `tail` bytes are ours, page-aligned, and nobody knows of them.
        unsafe { unmap(end, tail) };
    }
    // Advice only: without huge pages the memory works all the same, so a kernel built without them is no error.
    // SAFETY: the range is mapped and this advice does not change its contents.
    let _ = unsafe { madvise(aligned.as_ptr().cast(), len, Advice::LinuxHugepage) };
    Ok(aligned)
}

/// Gives memory back to the kernel.
///
/// # Safety
/// `start` and `len` must come from one [`map_zeroed`] call (or be a page-aligned part of it), and nothing may use the memory any more.
pub(crate) unsafe fn unmap(start: NonNull<u8>, len: usize) {
    // A failure leaves the memory mapped (the process ran out of mappings to split): it is leaked, never freed twice.
    // SAFETY: promised by the caller.
    let _ = unsafe { munmap(start.as_ptr().cast(), len) };
}

fn map(len: usize, flags: MapFlags) -> io::Result<NonNull<u8>> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a private anonymous mapping at an address of the kernel's choice touches no existing memory.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, flags) }?;
    NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_maps_are_aligned_zeroed_and_writable() {
        for len in [1, 4096, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 4096, 5 * HUGE_PAGE + 1] {
            let start = map_zeroed(len).unwrap();
            if len >= HUGE_PAGE {
                assert_eq!(start.as_ptr() as usize % HUGE_PAGE, 0);
            }
            // SAFETY: `len` bytes were just mapped and nobody else knows of them.
            let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) };
            assert!(bytes.iter().all(|b| *b == 0));
            bytes.fill(7);
            // SAFETY: mapped above, and `bytes` is not used again.
            unsafe { unmap(start, len) };
        }
    }

    #[test]
    fn zero_and_absurd_lengths_are_errors() {
        assert!(map_zeroed(0).is_err());
        assert!(map_zeroed(usize::MAX).is_err());
        assert!(map_zeroed(usize::MAX - 4096).is_err());
    }
}

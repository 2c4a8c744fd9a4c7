//! What the kernel's copies are like on the processor that this runs on.

/// Whether the kernel's copy out of memory that is in no cache is slower than reading that memory first and copying it then.
///
/// The copy is one instruction (`rep movsb`). AMD's processors do not fetch ahead in it, but do when they see a loop read line after line.
/// Intel's fetch ahead in both, and reading first only adds to it. See "What was tried" in docs/performance.md.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) fn copies_blindly() -> bool {
    use std::sync::LazyLock;

    static BLINDLY: LazyLock<bool> = LazyLock::new(|| {
        let id = std::arch::x86_64::__cpuid(0);
        let vendor = [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes);
        vendor.as_flattened() == b"AuthenticAMD"
    });
    // What depends on it is tested on every processor.
    cfg!(test) || *BLINDLY
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(super) fn copies_blindly() -> bool {
    false
}

//! What callgrind counts: everything inside [`counted`], but for what is [`aside`].
//!
//! Callgrind is told to change between counting and not counting whenever it enters or leaves one of the two, by their
//! names; without it they only call what they are given. So neither may be inlined, lose its name, or end in a jump. The
//! names are in [`crate::callgrind`].

use std::hint::black_box;

/// Work that belongs to the operation.
#[inline(never)]
pub(crate) fn counted(work: &mut dyn FnMut()) {
    work();
    black_box(1u8);
}

/// Within [`counted`]: what the kernel, a device or the other end would do.
#[inline(never)]
pub(crate) fn aside(work: &mut dyn FnMut()) {
    work();
    black_box(2u8);
}

/// Nothing that was counted before counts.
#[inline(never)]
pub(crate) fn begin_operation() {
    black_box(3u8);
}

/// What was counted since [`begin_operation`] is written down.
#[inline(never)]
pub(crate) fn end_operation() {
    black_box(4u8);
}

//! A command's data: how its SGL describes them, and copies of those that cannot be exposed themselves.

use kvof_memory::Buffer;
use kvof_spec::sgl::{KEYED_LENGTH_MAX, SglDescriptor};
use kvof_spec::{IntoBytes, Sqe};

use super::{Key, Limits};
use crate::{
    Error,
    buffer::{Held, Payload},
};

/// Most in-capsule data that this host uses, bytes, whatever the controller would take: every command in flight has
/// registered memory for it, and a copy of more costs more than RDMA.
pub(crate) const IN_CAPSULE_MAX: u32 = 16 << 10;
/// Bytes of a descriptor.
const DESCRIPTOR_SIZE: u32 = 16;
/// Descriptors of a list begin at multiples of this, bytes, where they can.
const PIECE_ALIGN: u32 = 4096;

/// Keyed descriptors that `in_capsule` bytes of capsule hold, where the controller takes `msdbd` (0: any number).
pub(crate) fn descriptors_for(msdbd: u8, in_capsule: u32) -> u16 {
    let room = u16::try_from(in_capsule / DESCRIPTOR_SIZE).unwrap_or(u16::MAX);
    let most = if msdbd == 0 { u16::MAX } else { msdbd.into() };
    // One is in the command itself.
    room.min(most).max(1)
}

/// Most bytes that `descriptors` keyed descriptors describe.
pub(crate) const fn reach_of(descriptors: u16) -> u32 {
    (descriptors as u32).saturating_mul(KEYED_LENGTH_MAX)
}

/// Whether a queue within `limits` can describe `len` bytes.
pub(super) fn check_length(len: u32, limits: &Limits) -> Result<(), Error> {
    let most = reach_of(limits.descriptors);
    if len <= most {
        return Ok(());
    }
    let rule = format!(
        "one command moves at most {most} bytes to or from this controller over RDMA: it takes {} keyed descriptors \
         (MSDBD, IOCCSZ), each of {KEYED_LENGTH_MAX} bytes at most",
        limits.descriptors
    );
    Err(Error::argument("buffer length", len, rule))
}

/// Writes the capsule of `sqe` with `len` bytes of data: `inline`, or in `memory`, or none.
pub(super) fn write_capsule(capsule: &mut Vec<u8>, mut sqe: Sqe, len: u32, inline: Option<&[u8]>, memory: Option<Key>) {
    capsule.clear();
    let mut list: Vec<SglDescriptor> = Vec::new();
    sqe.sgl1 = match (inline, memory) {
        (Some(_), _) => SglDescriptor::in_capsule(0, len),
        // As Linux says it: a keyed descriptor of nothing.
        (None, None) => SglDescriptor::keyed(0, 0, 0, false).unwrap_or_default(),
        (None, Some(Key { address, key, invalidatable })) => {
            match SglDescriptor::keyed(address, len, key, invalidatable) {
                Some(descriptor) => descriptor,
                None => {
                    list.extend(pieces(address, len, key));
                    SglDescriptor::last_segment_offset(0, DESCRIPTOR_SIZE * u32::try_from(list.len()).unwrap_or(0))
                }
            }
        }
    };
    capsule.extend_from_slice(sqe.as_bytes());
    capsule.extend_from_slice(list.as_bytes());
    capsule.extend_from_slice(inline.unwrap_or_default());
}

/// As few keyed descriptors as `len` bytes from `address` need, of equal size.
fn pieces(address: u64, len: u32, key: u32) -> impl Iterator<Item = SglDescriptor> {
    let count = len.div_ceil(KEYED_LENGTH_MAX).max(1);
    let piece = len.div_ceil(count).next_multiple_of(PIECE_ALIGN).clamp(1, KEYED_LENGTH_MAX);
    (0..len)
        .step_by(piece as usize)
        .map_while(move |offset| SglDescriptor::keyed(address + u64::from(offset), piece.min(len - offset), key, false))
}

/// A copy of the `len` bytes of `payload`, or, unless `filled`, memory for them. None if it has become shorter or its
/// device cannot copy.
pub(super) fn stage(payload: &Payload, len: usize, filled: bool) -> Option<Buffer> {
    match payload.device_range() {
        Some(range) if filled => return range.staged_copy().ok(),
        Some(range) => return Some(range.staging_buffer()),
        None => {}
    }
    let mut memory = Buffer::new(len);
    if filled {
        memory.host_mut()?.copy_from_slice(payload.outgoing(0, len)?);
    }
    Some(memory)
}

/// Copies the first `len` bytes of a staged copy into the caller's buffer.
pub(super) fn copy_back(payload: &mut Payload, staged: &Buffer, len: u32) -> Result<(), String> {
    let len = len as usize;
    let from = staged.host().and_then(|bytes| bytes.get(..len)).ok_or("the copy has become shorter")?;
    if let Payload::In(held) = payload
        && let Held::Buffer(to) = &mut **held
    {
        return to.copy_from_host(0, from).map_err(|error| error.to_string());
    }
    payload.incoming(0, len).ok_or("it has become shorter")?.copy_from_slice(from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use kvof_spec::sgl::Sgl;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_few_and_cover_everything_once(address in 0u64..1 << 60, len in 1u32..) {
            let mut at = address;
            let mut count = 0;
            for piece in pieces(address, len, 7) {
                let Sgl::Keyed { address, length, key, invalidate } = piece.decode() else { panic!("{piece:?}") };
                prop_assert_eq!((address, key, invalidate), (at, 7, false));
                prop_assert!(length > 0);
                at += u64::from(length);
                count += 1;
            }
            prop_assert_eq!(at - address, u64::from(len));
            prop_assert_eq!(count, len.div_ceil(KEYED_LENGTH_MAX));
        }
    }

    #[test]
    fn descriptors_are_bounded_by_both() {
        assert_eq!(descriptors_for(16, 8192), 16);
        assert_eq!(descriptors_for(0, 8192), 512);
        assert_eq!(descriptors_for(255, 64), 4);
        assert_eq!((descriptors_for(16, 0), descriptors_for(0, 15)), (1, 1));
        assert_eq!(reach_of(1), KEYED_LENGTH_MAX);
        assert_eq!(reach_of(u16::MAX), u32::MAX);
    }
}

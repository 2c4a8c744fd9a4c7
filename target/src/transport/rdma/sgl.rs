//! The SGL of a command: where in the host's memory, or in the capsule, its data is.

use std::ops::{Deref, Range};

use kvof_spec::{
    AdminOpcode, FromBytes, SglDescriptor, Sqe, Status,
    sgl::{SGL_DESCRIPTOR_SIZE, Sgl},
};

use super::RemoteSegment;
use crate::queue::HostData;

/// Parts of the host's memory, in the order of the data. None is empty, and none goes round the end of the address space.
#[derive(Clone, Debug, Default)]
pub struct Segments(Parts);

/// Nearly every command has one segment, which needs no allocation.
#[derive(Clone, Debug)]
enum Parts {
    One(RemoteSegment),
    Many(Vec<RemoteSegment>),
}

impl Default for Parts {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Deref for Segments {
    type Target = [RemoteSegment];

    fn deref(&self) -> &[RemoteSegment] {
        match &self.0 {
            Parts::One(segment) => std::slice::from_ref(segment),
            Parts::Many(segments) => segments,
        }
    }
}

impl Segments {
    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.iter().map(|segment| u64::from(segment.len)).sum()
    }

    /// The first `len` bytes; `None` if there are fewer, or for no bytes.
    pub(super) fn cut(self, len: usize) -> Option<Self> {
        let mut left = u32::try_from(len).ok().filter(|&len| len > 0)?;
        match self.0 {
            Parts::One(segment) if segment.len >= left => {
                Some(Self(Parts::One(RemoteSegment { len: left, ..segment })))
            }
            Parts::One(_) => None,
            Parts::Many(mut segments) => {
                let mut count = 0;
                for segment in &mut segments {
                    count += 1;
                    segment.len = segment.len.min(left);
                    left -= segment.len;
                    if left == 0 {
                        break;
                    }
                }
                segments.truncate(count);
                (left == 0).then_some(Self(Parts::Many(segments)))
            }
        }
    }
}

/// What a command's SGL says.
#[derive(Debug)]
pub(super) struct HostSgl {
    /// For the queue: how many bytes, or the status that refuses the command.
    pub(super) data: Result<HostData, Status>,
    /// The host's memory; empty if the data is in the capsule, or there is none.
    pub(super) segments: Segments,
    /// The data in the capsule, as a range behind the queue entry.
    pub(super) in_capsule: Range<usize>,
    /// The key to invalidate with the response, whatever comes of the command.
    pub(super) invalidate: Option<u32>,
}

/// Reads the SGL of `sqe`, which came with the bytes `behind` it in its capsule (ICDOFF is 0), and may have up to
/// `segments_max` keyed descriptors.
pub(super) fn read(sqe: &Sqe, behind: &[u8], segments_max: usize) -> HostSgl {
    let mut sgl =
        HostSgl { data: Ok(HostData::default()), segments: Segments::default(), in_capsule: 0..0, invalidate: None };
    match sqe.sgl1.decode() {
        Sgl::Address { length: 0, .. } | Sgl::InCapsule { length: 0, .. } => {}
        Sgl::InCapsule { offset, length } => match place(offset, length, behind.len()) {
            // Nothing can be written to a capsule.
            Ok(_) if moves_data_to_host(sqe) => sgl.data = Err(Status::SGL_TYPE_INVALID.with_dnr()),
            Ok(range) => {
                sgl.in_capsule = range;
                sgl.data = Ok(HostData { len: length, in_capsule: true });
            }
            Err(PlaceError::Offset) => sgl.data = Err(Status::SGL_OFFSET_INVALID.with_dnr()),
            Err(PlaceError::Length) => sgl.data = Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
        },
        Sgl::Keyed { address, length, key, invalidate } => {
            sgl.invalidate = invalidate.then_some(key);
            match segment(address, length, key) {
                Ok(Some(segment)) => {
                    sgl.segments = Segments(Parts::One(segment));
                    sgl.data = Ok(HostData { len: length, in_capsule: false });
                }
                Ok(None) => {}
                Err(status) => sgl.data = Err(status),
            }
        }
        Sgl::LastSegmentOffset { offset, length } => {
            let list = list(offset, length, behind, segments_max);
            // A list of one says the same as the one itself, so that it may ask for the same.
            if let Ok([only]) = list
                && let Sgl::Keyed { key, invalidate: true, .. } = only.decode()
            {
                sgl.invalidate = Some(key);
            }
            match list.and_then(read_list) {
                Ok((segments, len)) => {
                    sgl.segments = Segments(Parts::Many(segments));
                    sgl.data = Ok(HostData { len, in_capsule: false });
                }
                Err(status) => sgl.data = Err(status),
            }
        }
        _ => sgl.data = Err(Status::SGL_TYPE_INVALID.with_dnr()),
    }
    sgl
}

/// Whether a command of this opcode brings data to the host (bit 1 of the opcode, or of the Fabrics command type).
fn moves_data_to_host(sqe: &Sqe) -> bool {
    let kind = if sqe.opcode == AdminOpcode::FABRICS.0 { sqe.fctype() } else { sqe.opcode };
    kind & 0x2 != 0
}

enum PlaceError {
    Offset,
    Length,
}

/// `length` bytes from `offset` on, out of `room`.
fn place(offset: u64, length: u32, room: usize) -> Result<Range<usize>, PlaceError> {
    let start = usize::try_from(offset).ok().filter(|&start| start <= room).ok_or(PlaceError::Offset)?;
    let end = start.checked_add(length as usize).filter(|&end| end <= room).ok_or(PlaceError::Length)?;
    Ok(start..end)
}

/// The descriptors that a Last Segment descriptor names.
fn list(offset: u64, length: u32, behind: &[u8], segments_max: usize) -> Result<&[SglDescriptor], Status> {
    let size = length as usize;
    if size == 0 || !size.is_multiple_of(SGL_DESCRIPTOR_SIZE) {
        return Err(Status::INVALID_SGL_SEGMENT.with_dnr());
    }
    if size / SGL_DESCRIPTOR_SIZE > segments_max {
        return Err(Status::INVALID_SGL_COUNT.with_dnr());
    }
    let range = place(offset, length, behind.len()).map_err(|error| match error {
        PlaceError::Offset => Status::SGL_OFFSET_INVALID.with_dnr(),
        PlaceError::Length => Status::INVALID_SGL_SEGMENT.with_dnr(),
    })?;
    let bytes = behind.get(range).unwrap_or_default();
    <[SglDescriptor]>::ref_from_bytes(bytes).map_err(|_| Status::INVALID_SGL_SEGMENT.with_dnr())
}

/// The segments of a list, and their bytes in all.
fn read_list(list: &[SglDescriptor]) -> Result<(Vec<RemoteSegment>, u32), Status> {
    let mut segments = Vec::with_capacity(list.len());
    let mut total = 0_u32;
    for descriptor in list {
        match descriptor.decode() {
            // One response can invalidate one key, and the host would take the others to be invalid too.
            Sgl::Keyed { invalidate: true, .. } if list.len() > 1 => {
                return Err(Status::SGL_TYPE_INVALID.with_dnr());
            }
            Sgl::Keyed { address, length, key, .. } => {
                total = total.checked_add(length).ok_or(Status::DATA_SGL_LENGTH_INVALID.with_dnr())?;
                segments.extend(segment(address, length, key)?);
            }
            _ if descriptor.is_segment() => return Err(Status::INVALID_SGL_SEGMENT.with_dnr()),
            _ => return Err(Status::SGL_TYPE_INVALID.with_dnr()),
        }
    }
    Ok((segments, total))
}

/// A keyed data block; `None` if it has no bytes.
fn segment(address: u64, len: u32, key: u32) -> Result<Option<RemoteSegment>, Status> {
    if len == 0 {
        return Ok(None);
    }
    match address.checked_add(u64::from(len) - 1) {
        Some(_) => Ok(Some(RemoteSegment { address, key, len })),
        None => Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
    }
}

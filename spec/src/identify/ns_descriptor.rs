//! Namespace Identification Descriptor list (CNS 03h, section 5.17.2.3): what a namespace is called and which command
//! set it has.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::IDENTIFY_SIZE;
use crate::Csi;
use crate::text::Hex;

open_enum! {
    /// Namespace Identifier Type (NIDT).
    pub struct NsIdType(u8) {
        /// 8 bytes.
        EUI64 = 0x01, "IEEE Extended Unique Identifier";
        /// 16 bytes.
        NGUID = 0x02, "Namespace Globally Unique Identifier";
        /// 16 bytes.
        UUID = 0x03, "Namespace UUID";
        /// 1 byte.
        CSI = 0x04, "Command Set Identifier";
    }
}

/// Bytes of NIDT, NIDL and the reserved bytes before each identifier.
const HEADER_SIZE: usize = 4;

/// One descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum NsDescriptor<'a> {
    /// NIDT 1h.
    Eui64([u8; 8]),
    /// NIDT 2h.
    Nguid([u8; 16]),
    /// NIDT 3h.
    Uuid([u8; 16]),
    /// NIDT 4h.
    Csi(Csi),
    /// Any other type.
    Other {
        /// NIDT.
        nidt: NsIdType,
        /// NID, at least 1 byte.
        nid: &'a [u8],
    },
}

/// Why a descriptor list cannot be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NsDescriptorError {
    /// A descriptor reaches past the end of the data.
    Truncated {
        /// Offset of the descriptor, bytes.
        offset: usize,
    },
    /// The length does not fit the type.
    WrongLength {
        /// The type.
        nidt: NsIdType,
        /// NIDL, bytes.
        nidl: usize,
    },
    /// The list has no room for another descriptor.
    Full,
}

impl core::fmt::Display for NsDescriptorError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Truncated { offset } => {
                write!(f, "the namespace descriptor at byte {offset} reaches past the end of the list")
            }
            Self::WrongLength { nidt, nidl } => {
                write!(f, "a namespace descriptor of type {nidt} cannot have {nidl} bytes")
            }
            Self::Full => write!(f, "the namespace descriptor list of {IDENTIFY_SIZE} bytes has no room"),
        }
    }
}

impl std::error::Error for NsDescriptorError {}

/// A descriptor list, 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NsDescriptorList {
    /// Descriptors one after the other; one with NIDL 0 ends the list.
    pub bytes: [u8; IDENTIFY_SIZE],
}
assert_layout!(NsDescriptorList, 4096, bytes @ 0);
zeroed!(NsDescriptorList);

impl NsDescriptorList {
    /// A list of `descriptors`.
    ///
    /// # Errors
    /// [`NsDescriptorError::Full`] if they do not fit, [`NsDescriptorError::WrongLength`] for an identifier of 0 or
    /// more than 255 bytes.
    pub fn new<'a>(descriptors: impl IntoIterator<Item = NsDescriptor<'a>>) -> Result<Self, NsDescriptorError> {
        let mut list = Self::zeroed();
        let mut at = 0;
        for descriptor in descriptors {
            let (nidt, nid) = (descriptor.nidt(), descriptor.nid());
            let wrong = NsDescriptorError::WrongLength { nidt, nidl: nid.len() };
            let nidl = u8::try_from(nid.len()).ok().filter(|n| *n != 0).ok_or(wrong)?;
            let end = at + HEADER_SIZE + nid.len();
            let slot = list.bytes.get_mut(at..end).ok_or(NsDescriptorError::Full)?;
            for (to, from) in slot.iter_mut().zip([nidt.0, nidl, 0, 0].iter().chain(nid)) {
                *to = *from;
            }
            at = end;
        }
        Ok(list)
    }

    /// The descriptors.
    #[must_use]
    pub fn descriptors(&self) -> NsDescriptors<'_> {
        NsDescriptors::new(&self.bytes)
    }
}

impl core::fmt::Debug for NsDescriptorList {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.descriptors()).finish()
    }
}

impl NsDescriptor<'_> {
    /// NIDT.
    #[must_use]
    pub const fn nidt(&self) -> NsIdType {
        match *self {
            Self::Eui64(_) => NsIdType::EUI64,
            Self::Nguid(_) => NsIdType::NGUID,
            Self::Uuid(_) => NsIdType::UUID,
            Self::Csi(_) => NsIdType::CSI,
            Self::Other { nidt, .. } => nidt,
        }
    }

    fn nid(&self) -> &[u8] {
        match self {
            Self::Eui64(id) => id,
            Self::Nguid(id) | Self::Uuid(id) => id,
            Self::Csi(csi) => core::slice::from_ref(&csi.0),
            Self::Other { nid, .. } => nid,
        }
    }
}

impl core::fmt::Debug for NsDescriptor<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Csi(csi) => write!(f, "Csi({csi})"),
            _ => write!(f, "{}({:?})", self.nidt(), Hex(self.nid())),
        }
    }
}

/// Reads descriptors; ends at NIDL 0, at the end of the data, or after the first error.
#[derive(Clone, Debug)]
pub struct NsDescriptors<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> NsDescriptors<'a> {
    /// Reads the descriptors in `data`, which may be of any length.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self { rest: data, offset: 0 }
    }
}

impl<'a> Iterator for NsDescriptors<'a> {
    type Item = Result<NsDescriptor<'a>, NsDescriptorError>;

    fn next(&mut self) -> Option<Self::Item> {
        let ([nidt, nidl, ..], rest) = self.rest.split_first_chunk::<HEADER_SIZE>()?;
        let nidl = usize::from(*nidl);
        if nidl == 0 {
            self.rest = &[];
            return None;
        }
        let Some((nid, rest)) = rest.split_at_checked(nidl) else {
            self.rest = &[];
            return Some(Err(NsDescriptorError::Truncated { offset: self.offset }));
        };
        self.rest = rest;
        self.offset += HEADER_SIZE + nidl;
        let nidt = NsIdType(*nidt);
        let descriptor = match nidt {
            NsIdType::EUI64 => nid.try_into().ok().map(NsDescriptor::Eui64),
            NsIdType::NGUID => nid.try_into().ok().map(NsDescriptor::Nguid),
            NsIdType::UUID => nid.try_into().ok().map(NsDescriptor::Uuid),
            NsIdType::CSI => <[u8; 1]>::try_from(nid).ok().map(|[csi]| NsDescriptor::Csi(Csi(csi))),
            _ => Some(NsDescriptor::Other { nidt, nid }),
        };
        if descriptor.is_none() {
            self.rest = &[];
        }
        Some(descriptor.ok_or(NsDescriptorError::WrongLength { nidt, nidl }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_a_key_value_namespace() {
        let list = NsDescriptorList::new([NsDescriptor::Csi(Csi::KV), NsDescriptor::Nguid([7; 16])]).unwrap();
        assert_eq!(list.bytes[..5], [4, 1, 0, 0, 1]);
        assert_eq!(list.bytes[5..9], [2, 16, 0, 0]);
        assert_eq!(list.bytes[9..27], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0]);
        let back: Result<Vec<_>, _> = list.descriptors().collect();
        assert_eq!(back.unwrap(), [NsDescriptor::Csi(Csi::KV), NsDescriptor::Nguid([7; 16])]);
    }

    #[test]
    fn bounds() {
        let mut it = NsDescriptors::new(&[2, 16, 0, 0, 1, 2, 3]);
        assert_eq!(it.next(), Some(Err(NsDescriptorError::Truncated { offset: 0 })));
        assert_eq!(it.next(), None);
        let mut it = NsDescriptors::new(&[4, 1, 0, 0, 1, 3, 16, 0, 0, 9]);
        assert_eq!(it.next(), Some(Ok(NsDescriptor::Csi(Csi::KV))));
        assert_eq!(it.next(), Some(Err(NsDescriptorError::Truncated { offset: 5 })));
        let mut it = NsDescriptors::new(&[4, 2, 0, 0, 1, 2, 4, 1, 0, 0, 1]);
        assert_eq!(it.next(), Some(Err(NsDescriptorError::WrongLength { nidt: NsIdType::CSI, nidl: 2 })));
        assert_eq!(it.next(), None);
        assert_eq!(NsDescriptors::new(&[4, 1, 0]).next(), None);
        let nid = [1; 255];
        let many = core::iter::repeat_n(NsDescriptor::Other { nidt: NsIdType(9), nid: &nid }, 15);
        let list = NsDescriptorList::new(many.clone()).unwrap();
        assert_eq!(list.descriptors().count(), 15);
        assert_eq!(NsDescriptorList::new(many.chain([NsDescriptor::Nguid([0; 16]); 20])), Err(NsDescriptorError::Full));
        let empty = NsDescriptor::Other { nidt: NsIdType(9), nid: &[] };
        assert!(matches!(NsDescriptorList::new([empty]), Err(NsDescriptorError::WrongLength { nidl: 0, .. })));
    }
}

//! Scatter gather list descriptors (section 4.1.2) as fabrics use them: one descriptor in the command.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{U32, U64};

/// A 16-byte SGL descriptor, undecoded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SglDescriptor {
    /// Address or offset, by type.
    pub address: U64,
    /// Length in bytes; a keyed descriptor uses the low 24 bits and keeps the low 8 bits of its key in the rest.
    pub length: U32,
    /// Reserved, or the upper 24 bits of the key in a keyed descriptor.
    pub rsvd: [u8; 3],
    /// Descriptor type (bits 7:4) and sub type (bits 3:0).
    pub identifier: u8,
}

assert_layout!(SglDescriptor, SGL_DESCRIPTOR_SIZE, address @ 0, length @ 8, rsvd @ 12, identifier @ 15);

/// Size of a descriptor, bytes.
pub const SGL_DESCRIPTOR_SIZE: usize = 16;

/// Longest transfer of one keyed descriptor: its length field has 24 bits.
pub const KEYED_LENGTH_MAX: u32 = 0x00ff_ffff;

/// A descriptor by its type and sub type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Sgl {
    /// Type 0h, sub type 0h: host memory address; not usable over fabrics but as "no data" with length 0.
    Address {
        /// Host memory address.
        address: u64,
        /// Bytes.
        length: u32,
    },
    /// Type 0h, sub type 1h: data in the capsule, `offset` bytes into its data area.
    InCapsule {
        /// Offset into the in-capsule data, after ICDOFF.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Type 4h: memory registered for remote access.
    Keyed {
        /// Remote virtual address.
        address: u64,
        /// Bytes, at most [`KEYED_LENGTH_MAX`].
        length: u32,
        /// Remote key (STag).
        key: u32,
        /// Sub type Fh: the controller shall invalidate `key` with its response.
        invalidate: bool,
    },
    /// Type 5h, sub type Ah: data moves by the transport's own PDUs (NVMe/TCP).
    TransportData {
        /// Bytes.
        length: u32,
    },
    /// Type 3h, sub type 1h: more descriptors follow in the capsule at `offset`.
    LastSegmentOffset {
        /// Offset into the in-capsule data, after ICDOFF.
        offset: u64,
        /// Bytes of descriptors, a multiple of 16.
        length: u32,
    },
    /// Any other type, unchanged.
    Other(SglDescriptor),
}

impl Sgl {
    /// Bytes that the command moves as far as this descriptor says; `None` for descriptor lists and unknown types.
    #[must_use]
    pub const fn data_length(&self) -> Option<u32> {
        match *self {
            Self::Address { length, .. }
            | Self::InCapsule { length, .. }
            | Self::Keyed { length, .. }
            | Self::TransportData { length } => Some(length),
            Self::LastSegmentOffset { .. } | Self::Other(_) => None,
        }
    }
}

impl SglDescriptor {
    /// Decodes the descriptor.
    #[must_use]
    pub fn decode(&self) -> Sgl {
        let address = self.address.get();
        let length = self.length.get();
        match self.identifier {
            0x00 => Sgl::Address { address, length },
            0x01 => Sgl::InCapsule { offset: address, length },
            0x31 => Sgl::LastSegmentOffset { offset: address, length },
            0x40 | 0x4f => {
                let [l0, l1, l2, k0] = self.length.to_bytes();
                let [k1, k2, k3] = self.rsvd;
                Sgl::Keyed {
                    address,
                    length: u32::from_le_bytes([l0, l1, l2, 0]),
                    key: u32::from_le_bytes([k0, k1, k2, k3]),
                    invalidate: self.identifier == 0x4f,
                }
            }
            0x5a => Sgl::TransportData { length },
            _ => Sgl::Other(*self),
        }
    }

    /// Whether the descriptor names more descriptors, of whatever sub type (Segment or Last Segment).
    #[must_use]
    pub const fn is_segment(&self) -> bool {
        matches!(self.identifier >> 4, 0x2 | 0x3)
    }

    /// Descriptors in the capsule at `offset`, `length` bytes of them.
    #[must_use]
    pub fn last_segment_offset(offset: u64, length: u32) -> Self {
        Self { address: offset.into(), length: length.into(), identifier: 0x31, ..Self::default() }
    }

    /// Data in the capsule at `offset`.
    #[must_use]
    pub fn in_capsule(offset: u64, length: u32) -> Self {
        Self { address: offset.into(), length: length.into(), identifier: 0x01, ..Self::default() }
    }

    /// Data in the transport's own PDUs (NVMe/TCP).
    #[must_use]
    pub fn transport_data(length: u32) -> Self {
        Self { length: length.into(), identifier: 0x5a, ..Self::default() }
    }

    /// Remote memory; `None` if `length` does not fit in 24 bits.
    #[must_use]
    pub fn keyed(address: u64, length: u32, key: u32, invalidate: bool) -> Option<Self> {
        if length > KEYED_LENGTH_MAX {
            return None;
        }
        let [l0, l1, l2, _] = length.to_le_bytes();
        let [k0, k1, k2, k3] = key.to_le_bytes();
        Some(Self {
            address: address.into(),
            length: U32::from_bytes([l0, l1, l2, k0]),
            rsvd: [k1, k2, k3],
            identifier: if invalidate { 0x4f } else { 0x40 },
        })
    }
}

impl core::fmt::Debug for SglDescriptor {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.decode() {
            Sgl::Other(_) => write!(
                f,
                "Sgl {{ identifier: {:#04x}, address: {:#x}, length: {} }}",
                self.identifier,
                self.address.get(),
                self.length.get()
            ),
            sgl => write!(f, "{sgl:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_descriptor_packs_length_and_key() {
        let d = SglDescriptor::keyed(0x1122_3344_5566_7788, 0x00ab_cdef, 0xdead_beef, true).unwrap();
        let bytes: [u8; 16] = zerocopy::transmute!(d);
        assert_eq!(
            bytes,
            [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xef, 0xcd, 0xab, 0xef, 0xbe, 0xad, 0xde, 0x4f]
        );
        assert_eq!(
            d.decode(),
            Sgl::Keyed { address: 0x1122_3344_5566_7788, length: 0x00ab_cdef, key: 0xdead_beef, invalidate: true }
        );
        assert_eq!(SglDescriptor::keyed(0, 1 << 24, 0, false), None);
    }

    #[test]
    fn descriptors_of_descriptors() {
        let list = SglDescriptor::last_segment_offset(64, 144);
        assert_eq!(list.decode(), Sgl::LastSegmentOffset { offset: 64, length: 144 });
        assert_eq!(list.decode().data_length(), None);
        for identifier in [0x20, 0x21, 0x30, 0x31] {
            assert!(SglDescriptor { identifier, ..list }.is_segment());
        }
        assert!(!SglDescriptor::in_capsule(0, 16).is_segment());
        assert!(!SglDescriptor { identifier: 0x40, ..list }.is_segment());
    }

    #[test]
    fn tcp_descriptors() {
        assert_eq!(SglDescriptor::transport_data(4096).decode(), Sgl::TransportData { length: 4096 });
        assert_eq!(SglDescriptor::in_capsule(0, 512).decode(), Sgl::InCapsule { offset: 0, length: 512 });
        let odd = SglDescriptor { identifier: 0x20, ..Default::default() };
        assert_eq!(odd.decode(), Sgl::Other(odd));
        assert_eq!(odd.decode().data_length(), None);
    }
}

//! I/O Command Set Independent Identify Namespace (CNS 08h, section 5.17.2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{U16, U32};

bitflags::bitflags! {
    /// Namespace Multi-path I/O and Namespace Sharing Capabilities.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Nmic: u8 {
        /// The namespace may be attached to several controllers at a time.
        const SHARED = 1 << 0;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Namespace Attributes.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct NsAttributes: u8 {
        /// Writes are refused.
        const WRITE_PROTECTED = 1 << 0;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Namespace Status.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct NsStatus: u8 {
        /// NRDY: the namespace is ready.
        const READY = 1 << 0;
        const _ = !0;
    }
}

/// I/O Command Set Independent Identify Namespace data structure, 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespaceIndependent {
    /// NSFEAT: bit 3 UIDREUSE, bit 4 RMEDIA (rotational).
    pub nsfeat: u8,
    /// NMIC; see [`Nmic`].
    pub nmic: u8,
    /// RESCAP: reservation capabilities.
    pub rescap: u8,
    /// FPI: format progress.
    pub fpi: u8,
    /// ANAGRPID: ANA group.
    pub anagrpid: U32,
    /// NSATTR; see [`NsAttributes`].
    pub nsattr: u8,
    /// Reserved.
    pub rsvd9: u8,
    /// NVMSETID: NVM set.
    pub nvmsetid: U16,
    /// ENDGID: endurance group.
    pub endgid: U16,
    /// NSTAT; see [`NsStatus`].
    pub nstat: u8,
    /// Reserved.
    pub rsvd15: [u8; 4081],
}
assert_layout!(IdentifyNamespaceIndependent, 4096,
    nsfeat @ 0, nmic @ 1, rescap @ 2, fpi @ 3, anagrpid @ 4, nsattr @ 8, nvmsetid @ 10, endgid @ 12, nstat @ 14,
    rsvd15 @ 15);
zeroed!(IdentifyNamespaceIndependent);
impl_debug!(IdentifyNamespaceIndependent, s => {
    nsfeat: s.nsfeat, nmic: s.nmic(), rescap: s.rescap, anagrpid: s.anagrpid.get(), nsattr: s.nsattr(),
    endgid: s.endgid.get(), nstat: s.nstat(),
});

impl IdentifyNamespaceIndependent {
    /// Sharing, unknown bits kept.
    #[must_use]
    pub const fn nmic(&self) -> Nmic {
        Nmic::from_bits_retain(self.nmic)
    }

    /// Attributes, unknown bits kept.
    #[must_use]
    pub const fn nsattr(&self) -> NsAttributes {
        NsAttributes::from_bits_retain(self.nsattr)
    }

    /// Status, unknown bits kept.
    #[must_use]
    pub const fn nstat(&self) -> NsStatus {
        NsStatus::from_bits_retain(self.nstat)
    }
}

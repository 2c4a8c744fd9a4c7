//! Identify (section 5.17): the command and its data structures. Those of the KV command set are in `kvof-kv`.

mod controller;
mod controller_flags;
mod iocs;
mod iocs_independent;
mod namespace;
mod ns_descriptor;
mod ns_list;
mod nvm;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use controller::{IdentifyController, PowerStateDescriptor};
pub use controller_flags::{AnaCap, Cmic, ControllerType, Ctratt, Lpa, Oacs, Oaes, Oncs, Sgls, Vwc};
pub use iocs::{IDENTIFY_IOCS_VECTORS, IdentifyIocs, IocsVector};
pub use iocs_independent::{IdentifyNamespaceIndependent, Nmic, NsAttributes, NsStatus};
pub use namespace::{IdentifyNamespace, LbaFormat, NsFeatures};
pub use ns_descriptor::{NsDescriptor, NsDescriptorError, NsDescriptorList, NsDescriptors, NsIdType};
pub use ns_list::{NS_LIST_ENTRIES, NsList};
pub use nvm::{ExtendedLbaFormat, IdentifyControllerNvm, IdentifyNamespaceNvm};

use crate::{AdminOpcode, CommandHead, Csi, U16, U32};

/// Bytes of every Identify data structure.
pub const IDENTIFY_SIZE: usize = 4096;
/// NSID that means all namespaces.
pub const NSID_ALL: u32 = 0xffff_ffff;

open_enum! {
    /// Controller or Namespace Structure (CNS): what Identify returns.
    pub struct Cns(u8) {
        /// See [`IdentifyNamespace`].
        NAMESPACE = 0x00, "Identify Namespace, NVM command set";
        /// See [`IdentifyController`].
        CONTROLLER = 0x01, "Identify Controller";
        /// See [`NsList`].
        ACTIVE_NAMESPACES = 0x02, "Active Namespace ID list";
        /// See [`NsDescriptorList`].
        NAMESPACE_DESCRIPTORS = 0x03, "Namespace Identification Descriptor list";
        /// NVM sets.
        NVM_SET_LIST = 0x04, "NVM Set List";
        /// By CSI; see [`IdentifyNamespaceNvm`].
        IOCS_NAMESPACE = 0x05, "I/O Command Set specific Identify Namespace";
        /// By CSI; see [`IdentifyControllerNvm`].
        IOCS_CONTROLLER = 0x06, "I/O Command Set specific Identify Controller";
        /// By CSI; see [`NsList`].
        IOCS_ACTIVE_NAMESPACES = 0x07, "I/O Command Set specific Active Namespace ID list";
        /// See [`IdentifyNamespaceIndependent`].
        IOCS_INDEPENDENT_NAMESPACE = 0x08, "I/O Command Set Independent Identify Namespace";
        /// Capabilities of a format.
        NAMESPACE_FORMAT = 0x09, "Identify Namespace, user data format";
        /// By CSI; capabilities of a format.
        IOCS_NAMESPACE_FORMAT = 0x0a, "I/O Command Set specific Identify Namespace, user data format";
        /// Namespace management.
        ALLOCATED_NAMESPACES = 0x10, "Allocated Namespace ID list";
        /// Namespace management.
        ALLOCATED_NAMESPACE = 0x11, "Identify Namespace, allocated";
        /// Namespace management.
        NAMESPACE_CONTROLLERS = 0x12, "Namespace Attached Controller list";
        /// Namespace management.
        CONTROLLERS = 0x13, "Controller list";
        /// Virtualization.
        PRIMARY_CONTROLLER = 0x14, "Primary Controller Capabilities";
        /// Virtualization.
        SECONDARY_CONTROLLERS = 0x15, "Secondary Controller list";
        /// Namespace management.
        NAMESPACE_GRANULARITY = 0x16, "Namespace Granularity List";
        /// Vendor UUIDs.
        UUIDS = 0x17, "UUID List";
        /// Domains.
        DOMAINS = 0x18, "Domain List";
        /// Endurance groups.
        ENDURANCE_GROUPS = 0x19, "Endurance Group List";
        /// By CSI; namespace management.
        IOCS_ALLOCATED_NAMESPACES = 0x1a, "I/O Command Set specific Allocated Namespace ID list";
        /// By CSI; namespace management.
        IOCS_ALLOCATED_NAMESPACE = 0x1b, "I/O Command Set specific Identify Namespace, allocated";
        /// See [`IdentifyIocs`].
        IO_COMMAND_SETS = 0x1c, "Identify I/O Command Set";
    }
}

/// The Identify command.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyCmd {
    /// Common part.
    pub head: CommandHead,
    /// CNS; see [`Cns`].
    pub cns: u8,
    /// Reserved.
    pub rsvd41: u8,
    /// CNTID: controller, for some CNS values; FFFFh is the controller that processes the command (CNS 1Ch).
    pub cntid: U16,
    /// CNS specific identifier: NVM set, domain, format index and the like.
    pub cns_specific_id: U16,
    /// Reserved.
    pub rsvd46: u8,
    /// CSI; see [`Csi`].
    pub csi: u8,
    /// Dword 12.
    pub cdw12: U32,
    /// Dword 13.
    pub cdw13: U32,
    /// Bits 6:0 (dword 14 bits 6:0): UUID index.
    pub uuid_index: u8,
    /// Reserved.
    pub rsvd57: [u8; 3],
    /// Dword 15.
    pub cdw15: U32,
}
assert_layout!(IdentifyCmd, 64,
    head @ 0, cns @ 40, cntid @ 42, cns_specific_id @ 44, csi @ 47, cdw12 @ 48, uuid_index @ 56, cdw15 @ 60);
command_view!(IdentifyCmd);
impl_debug!(IdentifyCmd, s => {
    cid: s.head.cid.get(), nsid: s.head.nsid.get(), sgl1: s.head.sgl1, cns: s.cns(), cntid: s.cntid.get(),
    cns_specific_id: s.cns_specific_id.get(), csi: s.csi(), uuid_index: s.uuid_index,
});

impl IdentifyCmd {
    /// Asks for structure `cns` of namespace `nsid` (0 where it has no meaning) in command set `csi`.
    #[must_use]
    pub fn new(cns: Cns, nsid: u32, csi: Csi) -> Self {
        let mut cmd = Self::from_sqe(&crate::Sqe::new(AdminOpcode::IDENTIFY));
        cmd.head.nsid = nsid.into();
        cmd.cns = cns.0;
        cmd.csi = csi.0;
        cmd
    }

    /// The structure.
    #[must_use]
    pub const fn cns(&self) -> Cns {
        Cns(self.cns)
    }

    /// The command set.
    #[must_use]
    pub const fn csi(&self) -> Csi {
        Csi(self.csi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_dwords() {
        let mut cmd = IdentifyCmd::new(Cns::IOCS_NAMESPACE, 1, Csi::KV);
        cmd.cntid = 0x1234.into();
        cmd.cns_specific_id = 0x5678.into();
        let sqe = cmd.to_sqe();
        assert_eq!((sqe.opcode, sqe.nsid.get()), (0x06, 1));
        assert_eq!(sqe.cdw10.get(), 0x1234_0005);
        assert_eq!(sqe.cdw11.get(), 0x0100_5678);
        assert_eq!(IdentifyCmd::from_sqe(&sqe), cmd);
    }
}

//! Log pages (section 5.16): the Get Log Page command and the pages.

mod changed_namespace;
mod discovery;
mod effects;
mod error_information;
mod firmware_slot;
mod pool_statistics;
mod smart;
mod supported;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use changed_namespace::ChangedNamespaceList;
pub use discovery::{
    AddressFamily, DISCOVERY_RECORD_SIZE, DiscoveryEntry, DiscoveryFlags, DiscoveryHeader, RdmaTsas, SubsystemType,
    TcpSecurityType, TransportAddressError, TransportRequirements, TransportType,
};
pub use effects::{CommandEffects, CommandsSupported};
pub use error_information::ErrorInformation;
pub use firmware_slot::FirmwareSlot;
pub use pool_statistics::{POOL_MEMBERS_MAX, PoolFlags, PoolMember, PoolMemberState, PoolStatistics};
pub use smart::{CriticalWarning, SmartHealth};
pub use supported::{LogSupport, SupportedLogPages};

use crate::{AdminOpcode, CommandHead, Csi, U16, U32, U64};

open_enum! {
    /// Log page identifier (LID).
    pub struct LogId(u8) {
        /// See [`SupportedLogPages`].
        SUPPORTED_LOG_PAGES = 0x00, "Supported Log Pages";
        /// See [`ErrorInformation`].
        ERROR_INFORMATION = 0x01, "Error Information";
        /// See [`SmartHealth`].
        SMART_HEALTH = 0x02, "SMART / Health Information";
        /// See [`FirmwareSlot`].
        FIRMWARE_SLOT = 0x03, "Firmware Slot Information";
        /// See [`ChangedNamespaceList`].
        CHANGED_NAMESPACES = 0x04, "Changed Namespace List";
        /// By CSI; see [`CommandsSupported`].
        COMMANDS_SUPPORTED = 0x05, "Commands Supported and Effects";
        /// Self-test.
        DEVICE_SELF_TEST = 0x06, "Device Self-test";
        /// Telemetry.
        TELEMETRY_HOST = 0x07, "Telemetry Host-Initiated";
        /// Telemetry.
        TELEMETRY_CONTROLLER = 0x08, "Telemetry Controller-Initiated";
        /// Endurance groups.
        ENDURANCE_GROUP = 0x09, "Endurance Group Information";
        /// Asymmetric namespace access.
        ANA = 0x0c, "Asymmetric Namespace Access";
        /// Events that survive resets.
        PERSISTENT_EVENT = 0x0d, "Persistent Event Log";
        /// Features.
        FEATURES_SUPPORTED = 0x12, "Feature Identifiers Supported and Effects";
        /// See [`DiscoveryHeader`] and [`DiscoveryEntry`].
        DISCOVERY = 0x70, "Discovery";
        /// Reservations.
        RESERVATION_NOTIFICATION = 0x80, "Reservation Notification";
        /// Sanitize.
        SANITIZE_STATUS = 0x81, "Sanitize Status";
        /// Vendor specific, with the meaning that kvof's target gives it; see [`PoolStatistics`].
        POOL_STATISTICS = 0xc0, "Pool Statistics (vendor specific)";
    }
}

/// The Get Log Page command.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GetLogPageCmd {
    /// Common part.
    pub head: CommandHead,
    /// LID; see [`LogId`].
    pub lid: u8,
    /// LSP in bits 6:0 and RAE in bit 7 (dword 10 bits 15:8); see [`Self::lsp`] and [`Self::rae`].
    pub lsp_rae: u8,
    /// NUMDL: low half of the dword count, which is 0's based; see [`Self::length`].
    pub numdl: U16,
    /// NUMDU: high half of the dword count.
    pub numdu: U16,
    /// LSI: log specific identifier.
    pub lsi: U16,
    /// LPO: offset into the log page, bytes, a multiple of 4; an index if [`Self::ot`].
    pub lpo: U64,
    /// Bits 6:0 (dword 14 bits 6:0): UUID index.
    pub uuid_index: u8,
    /// Reserved.
    pub rsvd57: u8,
    /// Bit 7 (dword 14 bit 23): OT; see [`Self::ot`].
    pub offset_type: u8,
    /// CSI; see [`Csi`].
    pub csi: u8,
    /// Dword 15.
    pub cdw15: U32,
}
assert_layout!(GetLogPageCmd, 64,
    head @ 0, lid @ 40, lsp_rae @ 41, numdl @ 42, numdu @ 44, lsi @ 46, lpo @ 48, uuid_index @ 56, offset_type @ 58,
    csi @ 59, cdw15 @ 60);
command_view!(GetLogPageCmd);
impl_debug!(GetLogPageCmd, s => {
    cid: s.head.cid.get(), nsid: s.head.nsid.get(), sgl1: s.head.sgl1, lid: s.lid(), lsp: s.lsp(), rae: s.rae(),
    length: s.length(), lsi: s.lsi.get(), lpo: s.lpo.get(), ot: s.ot(), csi: s.csi(), uuid_index: s.uuid_index,
});

const RAE: u8 = 1 << 7;
const OT: u8 = 1 << 7;

impl GetLogPageCmd {
    /// Reads `length` bytes at byte `offset` of page `lid`; `None` if either is not a multiple of 4, or `length` is 0 or
    /// more than 2^32 dwords.
    #[must_use]
    pub fn new(lid: LogId, nsid: u32, offset: u64, length: u64) -> Option<Self> {
        if !length.is_multiple_of(4) || !offset.is_multiple_of(4) {
            return None;
        }
        let numd = u32::try_from((length / 4).checked_sub(1)?).ok()?;
        let [l0, l1, u0, u1] = numd.to_le_bytes();
        let mut cmd = Self::from_sqe(&crate::Sqe::new(AdminOpcode::GET_LOG_PAGE));
        cmd.head.nsid = nsid.into();
        cmd.lid = lid.0;
        cmd.numdl = U16::from_bytes([l0, l1]);
        cmd.numdu = U16::from_bytes([u0, u1]);
        cmd.lpo = offset.into();
        Some(cmd)
    }

    /// The same command with Retain Asynchronous Event set or cleared.
    #[must_use]
    pub const fn with_rae(mut self, rae: bool) -> Self {
        self.lsp_rae = if rae { self.lsp_rae | RAE } else { self.lsp_rae & !RAE };
        self
    }

    /// The same command for command set `csi`.
    #[must_use]
    pub const fn with_csi(mut self, csi: Csi) -> Self {
        self.csi = csi.0;
        self
    }

    /// The log page.
    #[must_use]
    pub const fn lid(&self) -> LogId {
        LogId(self.lid)
    }

    /// LSP: log specific parameter, 7 bits.
    #[must_use]
    pub const fn lsp(&self) -> u8 {
        self.lsp_rae & !RAE
    }

    /// RAE: reading does not clear the asynchronous event of this page.
    #[must_use]
    pub const fn rae(&self) -> bool {
        self.lsp_rae & RAE != 0
    }

    /// OT: LPO is an index into a list instead of a byte offset.
    #[must_use]
    pub const fn ot(&self) -> bool {
        self.offset_type & OT != 0
    }

    /// Bytes to return: (NUMD + 1) · 4, from 4 to 16 GiB.
    #[must_use]
    pub const fn length(&self) -> u64 {
        let [l0, l1] = self.numdl.to_bytes();
        let [u0, u1] = self.numdu.to_bytes();
        (u32::from_le_bytes([l0, l1, u0, u1]) as u64 + 1) * 4
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
        let cmd = GetLogPageCmd::new(LogId::COMMANDS_SUPPORTED, 0xffff_ffff, 0x1_0000_0004, 0x4_0004)
            .unwrap()
            .with_rae(true)
            .with_csi(Csi::KV);
        let sqe = cmd.to_sqe();
        assert_eq!(sqe.cdw10.get(), 0x0000_8005);
        assert_eq!(sqe.cdw11.get(), 0x0000_0001);
        assert_eq!((sqe.cdw12.get(), sqe.cdw13.get()), (4, 1));
        assert_eq!(sqe.cdw14.get(), 0x0100_0000);
        assert_eq!(cmd.length(), 0x4_0004);
        assert!(cmd.rae() && cmd.lsp() == 0 && !cmd.with_rae(false).rae());
    }

    #[test]
    fn length_bounds() {
        let new = |offset, length| GetLogPageCmd::new(LogId::ERROR_INFORMATION, 0, offset, length);
        assert_eq!(new(0, 0), None);
        assert_eq!(new(0, 6), None);
        assert_eq!(new(2, 4), None);
        assert_eq!(new(0, 1 << 34).unwrap().length(), 1 << 34);
        assert_eq!(new(0, (1 << 34) + 4), None);
    }
}

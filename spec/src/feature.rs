//! Features (sections 5.15, 5.27 and 5.27.1): identifiers, the two commands and the values.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{AdminOpcode, CommandHead, U32};

open_enum! {
    /// Feature identifier (FID).
    pub struct FeatureId(u8) {
        /// See [`Arbitration`].
        ARBITRATION = 0x01, "Arbitration";
        /// See [`PowerManagement`].
        POWER_MANAGEMENT = 0x02, "Power Management";
        /// NVM command set.
        LBA_RANGE_TYPE = 0x03, "LBA Range Type";
        /// See [`TemperatureThreshold`].
        TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold";
        /// See [`ErrorRecovery`].
        ERROR_RECOVERY = 0x05, "Error Recovery";
        /// See [`VolatileWriteCache`].
        VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache";
        /// See [`NumberOfQueues`].
        NUMBER_OF_QUEUES = 0x07, "Number of Queues";
        /// Not supported over fabrics.
        INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing";
        /// Not supported over fabrics.
        INTERRUPT_VECTOR_CONFIGURATION = 0x09, "Interrupt Vector Configuration";
        /// See [`WriteAtomicity`].
        WRITE_ATOMICITY = 0x0a, "Write Atomicity Normal";
        /// See [`AsyncEventConfig`].
        ASYNC_EVENT_CONFIGURATION = 0x0b, "Asynchronous Event Configuration";
        /// Data is a power state transition table.
        AUTONOMOUS_POWER_STATE_TRANSITION = 0x0c, "Autonomous Power State Transition";
        /// Not supported over fabrics.
        HOST_MEMORY_BUFFER = 0x0d, "Host Memory Buffer";
        /// Data is a [`Timestamp`].
        TIMESTAMP = 0x0e, "Timestamp";
        /// Dword 11 is the timeout in milliseconds.
        KEEP_ALIVE_TIMER = 0x0f, "Keep Alive Timer";
        /// Data is [`HostBehavior`].
        HOST_BEHAVIOR_SUPPORT = 0x16, "Host Behavior Support";
        /// See [`IocsProfile`].
        IO_COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile";
        /// See [`KvConfiguration`]; per namespace.
        KEY_VALUE_CONFIGURATION = 0x20, "Key Value Configuration";
        /// Software progress marker.
        SOFTWARE_PROGRESS_MARKER = 0x80, "Software Progress Marker";
        /// Data is a 64 or 128-bit host identifier.
        HOST_IDENTIFIER = 0x81, "Host Identifier";
        /// Reservations.
        RESERVATION_NOTIFICATION_MASK = 0x82, "Reservation Notification Mask";
        /// Reservations.
        RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence";
        /// Per namespace; dword 11 bits 2:0 are the state.
        NAMESPACE_WRITE_PROTECTION = 0x84, "Namespace Write Protection Config";
    }
}

open_enum! {
    /// SEL of Get Features: which value.
    pub struct FeatureSelect(u8) {
        /// The value in use.
        CURRENT = 0, "Current";
        /// The manufacturer's value.
        DEFAULT = 1, "Default";
        /// The value that survives a reset.
        SAVED = 2, "Saved";
        /// Completion dword 0 is [`FeatureCapabilities`].
        SUPPORTED_CAPABILITIES = 3, "Supported Capabilities";
    }
}

/// Set Features (section 5.27).
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SetFeaturesCmd {
    /// Common part.
    pub head: CommandHead,
    /// FID; see [`FeatureId`].
    pub fid: u8,
    /// Reserved.
    pub rsvd41: [u8; 2],
    /// Bit 7 (dword 10 bit 31) is SV; see [`Self::sv`].
    pub save: u8,
    /// Dword 11: the value, by feature.
    pub cdw11: U32,
    /// Dword 12, by feature.
    pub cdw12: U32,
    /// Dword 13, by feature.
    pub cdw13: U32,
    /// Bits 6:0 (dword 14 bits 6:0): UUID index.
    pub uuid_index: u8,
    /// Reserved.
    pub rsvd57: [u8; 3],
    /// Dword 15, by feature.
    pub cdw15: U32,
}
assert_layout!(SetFeaturesCmd, 64,
    head @ 0, fid @ 40, save @ 43, cdw11 @ 44, cdw12 @ 48, cdw13 @ 52, uuid_index @ 56, cdw15 @ 60);
command_view!(SetFeaturesCmd);
impl_debug!(SetFeaturesCmd, s => {
    cid: s.head.cid.get(), nsid: s.head.nsid.get(), fid: s.fid(), sv: s.sv(),
    cdw11: format_args!("{:#x}", s.cdw11.get()),
});

const SV: u8 = 1 << 7;

impl SetFeaturesCmd {
    /// Sets dword 11 of feature `fid` to `cdw11`, not saved, for no namespace.
    #[must_use]
    pub fn new(fid: FeatureId, cdw11: u32) -> Self {
        let mut cmd = Self::from_sqe(&crate::Sqe::new(AdminOpcode::SET_FEATURES));
        cmd.fid = fid.0;
        cmd.cdw11 = cdw11.into();
        cmd
    }

    /// The feature.
    #[must_use]
    pub const fn fid(&self) -> FeatureId {
        FeatureId(self.fid)
    }

    /// SV: the value shall survive a reset.
    #[must_use]
    pub const fn sv(&self) -> bool {
        self.save & SV != 0
    }
}

/// Get Features (section 5.15).
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GetFeaturesCmd {
    /// Common part.
    pub head: CommandHead,
    /// FID; see [`FeatureId`].
    pub fid: u8,
    /// Bits 2:0 (dword 10 bits 10:8) are SEL; see [`Self::sel`].
    pub select: u8,
    /// Reserved.
    pub rsvd42: [u8; 2],
    /// Dword 11, by feature.
    pub cdw11: U32,
    /// Dword 12, by feature.
    pub cdw12: U32,
    /// Dword 13, by feature.
    pub cdw13: U32,
    /// Bits 6:0 (dword 14 bits 6:0): UUID index.
    pub uuid_index: u8,
    /// Reserved.
    pub rsvd57: [u8; 3],
    /// Dword 15, by feature.
    pub cdw15: U32,
}
assert_layout!(GetFeaturesCmd, 64,
    head @ 0, fid @ 40, select @ 41, cdw11 @ 44, cdw12 @ 48, cdw13 @ 52, uuid_index @ 56, cdw15 @ 60);
command_view!(GetFeaturesCmd);
impl_debug!(GetFeaturesCmd, s => {
    cid: s.head.cid.get(), nsid: s.head.nsid.get(), fid: s.fid(), sel: s.sel(),
    cdw11: format_args!("{:#x}", s.cdw11.get()),
});

impl GetFeaturesCmd {
    /// Reads the `sel` value of feature `fid`.
    #[must_use]
    pub fn new(fid: FeatureId, sel: FeatureSelect) -> Self {
        let mut cmd = Self::from_sqe(&crate::Sqe::new(AdminOpcode::GET_FEATURES));
        cmd.fid = fid.0;
        cmd.select = sel.0 & 0b111;
        cmd
    }

    /// The feature.
    #[must_use]
    pub const fn fid(&self) -> FeatureId {
        FeatureId(self.fid)
    }

    /// Which value.
    #[must_use]
    pub const fn sel(&self) -> FeatureSelect {
        FeatureSelect(self.select & 0b111)
    }
}

bitflags::bitflags! {
    /// Completion dword 0 of Get Features with SEL 3.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct FeatureCapabilities: u32 {
        /// The value can be saved.
        const SAVEABLE = 1 << 0;
        /// The value is per namespace.
        const NAMESPACE_SPECIFIC = 1 << 1;
        /// The value can be changed.
        const CHANGEABLE = 1 << 2;
        const _ = !0;
    }
}

/// Arbitration (01h).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Arbitration(pub u32);

bit_fields! {
    Arbitration(u32)
    fields {
        /// AB: commands fetched at a time, 2^AB; 7 means no limit.
        ab / with_ab: u8 = 0, 3;
        /// LPW: low priority weight, 0's based.
        lpw / with_lpw: u8 = 8, 8;
        /// MPW: medium priority weight, 0's based.
        mpw / with_mpw: u8 = 16, 8;
        /// HPW: high priority weight, 0's based.
        hpw / with_hpw: u8 = 24, 8;
    }
    bits {}
}

/// Power Management (02h).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct PowerManagement(pub u32);

bit_fields! {
    PowerManagement(u32)
    fields {
        /// PS: power state.
        ps / with_ps: u8 = 0, 5;
        /// WH: workload hint.
        wh / with_wh: u8 = 5, 3;
    }
    bits {}
}

/// Temperature Threshold (04h).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct TemperatureThreshold(pub u32);

bit_fields! {
    TemperatureThreshold(u32)
    fields {
        /// TMPTH: threshold, kelvins.
        tmpth / with_tmpth: u16 = 0, 16;
        /// TMPSEL: sensor; 0 composite, 1 to 8 a sensor, Fh all (Set Features).
        tmpsel / with_tmpsel: u8 = 16, 4;
        /// THSEL: 0 over, 1 under temperature.
        thsel / with_thsel: u8 = 20, 2;
    }
    bits {}
}

/// Error Recovery (05h).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct ErrorRecovery(pub u32);

bit_fields! {
    ErrorRecovery(u32)
    fields {
        /// TLER: time limited error recovery, units of 100 ms; 0 no limit.
        tler / with_tler: u16 = 0, 16;
    }
    bits {
        /// DULBE: error on reading deallocated or unwritten blocks.
        dulbe / with_dulbe = 16;
    }
}

/// Volatile Write Cache (06h).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct VolatileWriteCache(pub u32);

bit_fields! {
    VolatileWriteCache(u32)
    fields {}
    bits {
        /// WCE: the cache is enabled.
        wce / with_wce = 0;
    }
}

/// Number of Queues (07h): dword 11 of Set Features and completion dword 0, the same layout.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct NumberOfQueues(pub u32);

bit_fields! {
    NumberOfQueues(u32)
    fields {
        /// NSQR or NSQA: I/O submission queues, 0's based; FFFFh is not allowed in a request.
        nsq / with_nsq: u16 = 0, 16;
        /// NCQR or NCQA: I/O completion queues, 0's based; FFFFh is not allowed in a request.
        ncq / with_ncq: u16 = 16, 16;
    }
    bits {}
}

impl NumberOfQueues {
    /// `count` submission and completion queues (1's based); `None` for 0 or more than 65,535.
    #[must_use]
    pub fn pairs(count: u32) -> Option<Self> {
        let n = u16::try_from(count.checked_sub(1)?).ok().filter(|n| *n != u16::MAX)?;
        Some(Self(0).with_nsq(n).with_ncq(n))
    }

    /// The queue pairs that these numbers allow, 1's based; `None` where either is FFFFh, which a controller answers
    /// with Invalid Field.
    #[must_use]
    pub fn pair_count(self) -> Option<u32> {
        if self.nsq() == u16::MAX || self.ncq() == u16::MAX {
            return None;
        }
        Some(u32::from(self.nsq().min(self.ncq())) + 1)
    }
}

/// Write Atomicity Normal (0Ah).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct WriteAtomicity(pub u32);

bit_fields! {
    WriteAtomicity(u32)
    fields {}
    bits {
        /// DN: the host does not need AWUN and NAWUN.
        dn / with_dn = 0;
    }
}

bitflags::bitflags! {
    /// Asynchronous Event Configuration (0Bh): which events the host wants. The notices have the bits of OAES.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct AsyncEventConfig: u32 {
        /// SMART critical warning: spare below threshold.
        const SMART_SPARE = 1 << 0;
        /// SMART critical warning: temperature.
        const SMART_TEMPERATURE = 1 << 1;
        /// SMART critical warning: reliability degraded.
        const SMART_DEGRADED = 1 << 2;
        /// SMART critical warning: read only.
        const SMART_READ_ONLY = 1 << 3;
        /// SMART critical warning: volatile memory backup failed.
        const SMART_VOLATILE_BACKUP = 1 << 4;
        /// SMART critical warning: persistent memory region read only.
        const SMART_PMR_READ_ONLY = 1 << 5;
        /// Namespace Attribute Notices.
        const NAMESPACE_ATTRIBUTE = 1 << 8;
        /// Firmware Activation Notices.
        const FIRMWARE_ACTIVATION = 1 << 9;
        /// Telemetry Log Notices.
        const TELEMETRY_LOG = 1 << 10;
        /// Asymmetric Namespace Access Change Notices.
        const ANA_CHANGE = 1 << 11;
        /// Predictable Latency Event Aggregate Log Change Notices.
        const PREDICTABLE_LATENCY = 1 << 12;
        /// LBA Status Information Notices.
        const LBA_STATUS = 1 << 13;
        /// Endurance Group Event Aggregate Log Page Change Notices.
        const ENDURANCE_GROUP = 1 << 14;
        /// Normal NVM Subsystem Shutdown.
        const NORMAL_SUBSYSTEM_SHUTDOWN = 1 << 15;
        /// Discovery Log Page Change Notification.
        const DISCOVERY_LOG_CHANGE = 1 << 31;
        const _ = !0;
    }
}

/// Timestamp (0Eh): data of Set and Get Features.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01 UTC, 48 bits, little endian; see [`Self::millis`].
    pub timestamp: [u8; 6],
    /// Bit 0: the clock may have stopped; bits 3:1: 1 if a host set it.
    pub attributes: u8,
    /// Reserved.
    pub rsvd7: u8,
}
assert_layout!(Timestamp, 8, timestamp @ 0, attributes @ 6);

impl Timestamp {
    /// The origin in `attributes`: a host set the timestamp.
    pub const ORIGIN_HOST: u8 = 1 << 1;

    /// A timestamp of `millis` milliseconds, of which 48 bits are kept.
    #[must_use]
    pub const fn new(millis: u64, attributes: u8) -> Self {
        let [b0, b1, b2, b3, b4, b5, _, _] = millis.to_le_bytes();
        Self { timestamp: [b0, b1, b2, b3, b4, b5], attributes, rsvd7: 0 }
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn millis(&self) -> u64 {
        let [b0, b1, b2, b3, b4, b5] = self.timestamp;
        u64::from_le_bytes([b0, b1, b2, b3, b4, b5, 0, 0])
    }
}

/// Host Behavior Support (16h): data of Set and Get Features.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HostBehavior {
    /// ACRE: 1 if the host handles Command Interrupted and the retry delays.
    pub acre: u8,
    /// ETDAS: 1 if extended telemetry data areas are supported.
    pub etdas: u8,
    /// LBAFEE: 1 if the host handles the extended LBA formats.
    pub lbafee: u8,
    /// Reserved.
    pub rsvd3: [u8; 509],
}
assert_layout!(HostBehavior, 512, acre @ 0, etdas @ 1, lbafee @ 2);
zeroed!(HostBehavior);
impl_debug!(HostBehavior, s => { acre: s.acre, etdas: s.etdas, lbafee: s.lbafee });

/// I/O Command Set Profile (19h): dword 11 of Set Features and completion dword 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct IocsProfile(pub u32);

bit_fields! {
    IocsProfile(u32)
    fields {
        /// IOCSCI: index into the vectors of Identify CNS 1Ch.
        iocsci / with_iocsci: u16 = 0, 9;
    }
    bits {}
}

/// Key Value Configuration (20h, KV section 4.1), per namespace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct KvConfiguration(pub u32);

bit_fields! {
    KvConfiguration(u32)
    fields {}
    bits {
        /// EDNEK: Delete of a key that does not exist is an error.
        ednek / with_ednek = 0;
    }
}

/// Host Identifier (81h): dword 11.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct HostIdentifier(pub u32);

bit_fields! {
    HostIdentifier(u32)
    fields {}
    bits {
        /// EXHID: the data is 16 bytes instead of 8; the only form over fabrics.
        exhid / with_exhid = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_queues_is_zeros_based() {
        assert_eq!(NumberOfQueues::pairs(4).unwrap().0, 0x0003_0003);
        assert_eq!(NumberOfQueues::pairs(0), None);
        assert_eq!(NumberOfQueues::pairs(65_536), None);
        assert_eq!(NumberOfQueues(0x0007_0003).pair_count(), Some(4));
        assert_eq!(NumberOfQueues(0xffff_0003).pair_count(), None);
        assert_eq!(NumberOfQueues(0x0003_ffff).pair_count(), None);
        assert_eq!(NumberOfQueues(0xfffe_fffe).pair_count(), Some(65_535));
    }

    #[test]
    fn command_fields_sit_in_dword_ten() {
        let mut set = SetFeaturesCmd::new(FeatureId::KEEP_ALIVE_TIMER, 15_000);
        assert!(!set.sv());
        set.save = 0x80;
        let sqe = set.to_sqe();
        assert_eq!((sqe.cdw10.get(), sqe.cdw11.get()), (0x8000_000f, 15_000));
        assert!(SetFeaturesCmd::from_sqe(&sqe).sv());
        let get = GetFeaturesCmd::new(FeatureId::KEY_VALUE_CONFIGURATION, FeatureSelect::SUPPORTED_CAPABILITIES);
        assert_eq!(get.to_sqe().cdw10.get(), 0x0000_0320);
        assert_eq!(get.sel(), FeatureSelect::SUPPORTED_CAPABILITIES);
    }

    #[test]
    fn timestamp_keeps_48_bits() {
        let t = Timestamp::new(0xffff_1234_5678_9abc, Timestamp::ORIGIN_HOST);
        assert_eq!(t.millis(), 0x1234_5678_9abc);
        assert_eq!(t.as_bytes(), [0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 2, 0]);
    }
}

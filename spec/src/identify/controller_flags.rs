//! Bits and codes of Identify Controller (section 5.17.2.1).

open_enum! {
    /// Controller Type (CNTRLTYPE).
    pub struct ControllerType(u8) {
        /// Revision 1.3 and older.
        NOT_REPORTED = 0x00, "not reported";
        /// Serves namespaces.
        IO = 0x01, "I/O controller";
        /// Serves the discovery log page.
        DISCOVERY = 0x02, "Discovery controller";
        /// Admin commands only.
        ADMINISTRATIVE = 0x03, "Administrative controller";
    }
}

bitflags::bitflags! {
    /// Controller Multi-Path I/O and Namespace Sharing Capabilities.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cmic: u8 {
        /// The subsystem may have several ports.
        const MULTI_PORT = 1 << 0;
        /// The subsystem may have several controllers.
        const MULTI_CONTROLLER = 1 << 1;
        /// The controller is of an SR-IOV virtual function.
        const SRIOV = 1 << 2;
        /// Asymmetric namespace access reporting.
        const ANA_REPORTING = 1 << 3;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Optional Asynchronous Events Supported.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Oaes: u32 {
        /// Namespace Attribute Notices.
        const NAMESPACE_ATTRIBUTE = 1 << 8;
        /// Firmware Activation Notices.
        const FIRMWARE_ACTIVATION = 1 << 9;
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
        /// Zone Descriptor Changed Notices.
        const ZONE_DESCRIPTOR_CHANGED = 1 << 27;
        /// Discovery Log Page Change Notification.
        const DISCOVERY_LOG_CHANGE = 1 << 31;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Controller Attributes.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Ctratt: u32 {
        /// 128-bit host identifier.
        const HOST_ID_128 = 1 << 0;
        /// Non-operational power state permissive mode.
        const NOPSPM = 1 << 1;
        /// NVM sets.
        const NVM_SETS = 1 << 2;
        /// Read recovery levels.
        const READ_RECOVERY_LEVELS = 1 << 3;
        /// Endurance groups.
        const ENDURANCE_GROUPS = 1 << 4;
        /// Predictable latency mode.
        const PREDICTABLE_LATENCY = 1 << 5;
        /// TBKAS: traffic based keep alive.
        const TBKAS = 1 << 6;
        /// Namespace granularity.
        const NAMESPACE_GRANULARITY = 1 << 7;
        /// SQ associations.
        const SQ_ASSOCIATIONS = 1 << 8;
        /// UUID list.
        const UUID_LIST = 1 << 9;
        /// Multi-domain subsystem.
        const MULTI_DOMAIN = 1 << 10;
        /// Fixed capacity management.
        const FIXED_CAPACITY = 1 << 11;
        /// Variable capacity management.
        const VARIABLE_CAPACITY = 1 << 12;
        /// Delete endurance group.
        const DELETE_ENDURANCE_GROUP = 1 << 13;
        /// Delete NVM set.
        const DELETE_NVM_SET = 1 << 14;
        /// Extended LBA formats.
        const ELBAS = 1 << 15;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Optional Admin Command Support.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Oacs: u16 {
        /// Security Send and Receive.
        const SECURITY = 1 << 0;
        /// Format NVM.
        const FORMAT_NVM = 1 << 1;
        /// Firmware Commit and Firmware Image Download.
        const FIRMWARE = 1 << 2;
        /// Namespace management and attachment.
        const NAMESPACE_MANAGEMENT = 1 << 3;
        /// Device Self-test.
        const SELF_TEST = 1 << 4;
        /// Directives.
        const DIRECTIVES = 1 << 5;
        /// NVMe-MI Send and Receive.
        const NVME_MI = 1 << 6;
        /// Virtualization Management.
        const VIRTUALIZATION = 1 << 7;
        /// Doorbell Buffer Config.
        const DOORBELL_BUFFER = 1 << 8;
        /// Get LBA Status.
        const GET_LBA_STATUS = 1 << 9;
        /// Command and Feature Lockdown.
        const LOCKDOWN = 1 << 10;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Log Page Attributes.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Lpa: u8 {
        /// SMART / Health log page for each namespace.
        const SMART_PER_NAMESPACE = 1 << 0;
        /// Commands Supported and Effects log page.
        const COMMANDS_SUPPORTED = 1 << 1;
        /// Extended data of Get Log Page: NUMDU and a log page offset.
        const EXTENDED_DATA = 1 << 2;
        /// Telemetry log pages.
        const TELEMETRY = 1 << 3;
        /// Persistent Event log page.
        const PERSISTENT_EVENT = 1 << 4;
        /// Log pages 00h, 05h scope, 12h and 13h.
        const SUPPORTED_PAGES = 1 << 5;
        /// Telemetry data area 4.
        const TELEMETRY_AREA_4 = 1 << 6;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// ANA Capabilities.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct AnaCap: u8 {
        /// ANA Optimized state.
        const OPTIMIZED = 1 << 0;
        /// ANA Non-Optimized state.
        const NON_OPTIMIZED = 1 << 1;
        /// ANA Inaccessible state.
        const INACCESSIBLE = 1 << 2;
        /// ANA Persistent Loss state.
        const PERSISTENT_LOSS = 1 << 3;
        /// ANA Change state.
        const CHANGE = 1 << 4;
        /// A namespace's ANAGRPID does not change while it is attached.
        const GROUP_ID_FIXED = 1 << 6;
        /// Namespace Management may set ANAGRPID.
        const GROUP_ID_MANAGED = 1 << 7;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Optional NVM Command Support.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Oncs: u16 {
        /// Compare.
        const COMPARE = 1 << 0;
        /// Write Uncorrectable.
        const WRITE_UNCORRECTABLE = 1 << 1;
        /// Dataset Management.
        const DATASET_MANAGEMENT = 1 << 2;
        /// Write Zeroes.
        const WRITE_ZEROES = 1 << 3;
        /// Save in Set Features, Select in Get Features.
        const SAVE_SELECT = 1 << 4;
        /// Reservations.
        const RESERVATIONS = 1 << 5;
        /// Timestamp feature.
        const TIMESTAMP = 1 << 6;
        /// Verify.
        const VERIFY = 1 << 7;
        /// Copy.
        const COPY = 1 << 8;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// SGL Support.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Sgls: u32 {
        /// Bits 1:0 01b: supported, no alignment demanded.
        const SUPPORTED = 1 << 0;
        /// Bits 1:0 10b: supported, dword alignment demanded.
        const SUPPORTED_DWORD_ALIGNED = 1 << 1;
        /// Keyed SGL Data Block descriptor (RDMA).
        const KEYED = 1 << 2;
        /// SGL Bit Bucket descriptor.
        const BIT_BUCKET = 1 << 16;
        /// A byte aligned contiguous metadata buffer.
        const METADATA_BYTE_ALIGNED = 1 << 17;
        /// An SGL longer than the data.
        const OVERSIZE = 1 << 18;
        /// MPTR with an SGL descriptor.
        const METADATA_SGL = 1 << 19;
        /// The address field as an offset: data in the capsule.
        const OFFSET = 1 << 20;
        /// Transport SGL Data Block descriptor (TCP).
        const TRANSPORT = 1 << 21;
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// Volatile Write Cache.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Vwc: u8 {
        /// There is one.
        const PRESENT = 1 << 0;
        /// Bits 2:1 10b: Flush with NSID FFFFFFFFh is not supported.
        const FLUSH_ALL_UNSUPPORTED = 0b10 << 1;
        /// Bits 2:1 11b: Flush with NSID FFFFFFFFh is supported.
        const FLUSH_ALL = 0b11 << 1;
        const _ = !0;
    }
}

//! Sizes, offsets, constants and bit positions against the C headers of libnvme 1.x (`nvme/types.h`, Debian package
//! libnvme-dev): a second source for every number that this crate states.
//!
//! Skipped without a C compiler or the header, unless `KVOF_REQUIRE_PEERS=1`.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use kvof_spec::aen::{AsyncEvent, AsyncEventType};
use kvof_spec::fabrics::ConnectData;
use kvof_spec::feature::{
    Arbitration, AsyncEventConfig, ErrorRecovery, FeatureId, FeatureSelect, HostBehavior, NumberOfQueues,
    TemperatureThreshold, VolatileWriteCache,
};
use kvof_spec::identify::{
    AnaCap, Cmic, Cns, ControllerType, Ctratt, ExtendedLbaFormat, IdentifyController, IdentifyControllerNvm,
    IdentifyIocs, IdentifyNamespace, IdentifyNamespaceIndependent, IdentifyNamespaceNvm, LbaFormat, Lpa, Nmic,
    NsAttributes, NsFeatures, NsIdType, NsList, Oacs, Oaes, Oncs, PowerStateDescriptor, Sgls, Vwc,
};
use kvof_spec::io::{DsmAttributes, DsmRange, RwFlags};
use kvof_spec::log::{
    AddressFamily, CommandEffects, CommandsSupported, CriticalWarning, DiscoveryEntry, DiscoveryFlags, DiscoveryHeader,
    ErrorInformation, FirmwareSlot, LogId, RdmaTsas, SmartHealth, SupportedLogPages, TcpSecurityType,
    TransportRequirements, TransportType,
};
use kvof_spec::nqn::{NQN_FIELD_SIZE, NQN_LENGTH_MAX};
use kvof_spec::{AdminOpcode, Cap, Cc, Csi, Csts, FromZeros, NvmOpcode, Property, Status, Vs};

/// What is compared: a C expression and what this crate says it is.
struct Check {
    c: String,
    ours: u64,
}

struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, c: impl Into<String>, ours: impl TryInto<u64>) {
        let Ok(ours) = ours.try_into() else { panic!("a value that is not a u64") };
        self.0.push(Check { c: c.into(), ours });
    }
}

/// Size of the structure, and offset and size of each field; `ours = theirs` where the names differ.
macro_rules! structure {
    ($checks:ident, $ours:ty, $theirs:literal $(, $field:ident $(= $c_field:ident)?)* $(,)?) => {
        $checks.add(concat!("sizeof(", $theirs, ")"), size_of::<$ours>());
        structure!(@fields $checks, $ours, $theirs $(, $field $(= $c_field)?)*);
    };
    (@fields $checks:ident, $ours:ty, $theirs:literal $(, $field:ident $(= $c_field:ident)?)*) => {
        let zeroed = <$ours>::new_zeroed();
        $(
            #[allow(unused_mut, unused_assignments, reason = "only some fields have another name")]
            let c_field = { let mut name = stringify!($field); $( name = stringify!($c_field); )? name };
            $checks.add(format!("offsetof({}, {c_field})", $theirs), core::mem::offset_of!($ours, $field));
            $checks.add(format!("sizeof((({} *)0)->{c_field})", $theirs), size_of_val(&zeroed.$field));
        )*
    };
}

/// Named values: `OURS = THEIRS`.
macro_rules! codes {
    ($checks:ident, $ty:ty, $prefix:literal, $($ours:ident = $theirs:ident),* $(,)?) => {
        $( $checks.add(concat!("(uint32_t)", $prefix, stringify!($theirs)), <$ty>::$ours.0); )*
    };
}

/// Flags: `OURS = THEIRS`.
macro_rules! flags {
    ($checks:ident, $ty:ty, $prefix:literal, $($ours:ident = $theirs:ident),* $(,)?) => {
        $( $checks.add(concat!("(uint32_t)", $prefix, stringify!($theirs)), <$ty>::$ours.bits()); )*
    };
}

/// Bit ranges: the value with the field all ones against mask and shift; `with_field(ones) = SHIFT, MASK`.
macro_rules! bits {
    ($checks:ident, $ty:ty, $prefix:literal, $($with:ident($ones:expr) = $shift:ident, $mask:ident);* $(;)?) => {
        $( $checks.add(
            concat!("(uint64_t)", $prefix, stringify!($mask), " << ", $prefix, stringify!($shift)),
            <$ty>::default().$with($ones).0,
        ); )*
    };
}

#[test]
fn agrees_with_libnvme() {
    let mut checks = Checks(Vec::new());
    structures(&mut checks);
    log_pages(&mut checks);
    constants(&mut checks);
    statuses(&mut checks);
    identify_flags(&mut checks);
    other_flags(&mut checks);
    properties(&mut checks);

    let theirs = match evaluate(&checks.0) {
        Ok(theirs) => theirs,
        Err(Missing(reason)) => {
            assert!(std::env::var("KVOF_REQUIRE_PEERS").as_deref() != Ok("1"), "KVOF_REQUIRE_PEERS=1, but {reason}");
            println!("skipped: {reason}");
            return;
        }
    };
    assert_eq!(theirs.len(), checks.0.len());
    assert!(theirs.len() > 600, "only {} comparisons", theirs.len());
    let mut wrong = String::new();
    for (check, theirs) in checks.0.iter().zip(theirs) {
        if check.ours != theirs {
            let _ = writeln!(wrong, "{}: libnvme has {theirs:#x}, kvof-spec {:#x}", check.c, check.ours);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn structures(checks: &mut Checks) {
    structure!(
        checks,
        IdentifyController,
        "struct nvme_id_ctrl",
        vid,
        ssvid,
        sn,
        mn,
        fr,
        rab,
        ieee,
        cmic,
        mdts,
        cntlid,
        ver,
        rtd3r,
        rtd3e,
        oaes,
        ctratt,
        rrls,
        rsvd102,
        cntrltype,
        fguid,
        crdt1,
        crdt2,
        crdt3,
        rsvd134,
        nvmsr,
        vwci,
        mec,
        oacs,
        acl,
        aerl,
        frmw,
        lpa,
        elpe,
        npss,
        avscc,
        apsta,
        wctemp,
        cctemp,
        mtfa,
        hmpre,
        hmmin,
        tnvmcap,
        unvmcap,
        rpmbs,
        edstt,
        dsto,
        fwug,
        kas,
        hctma,
        mntmt,
        mxtmt,
        sanicap,
        hmminds,
        hmmaxd,
        nsetidmax,
        endgidmax,
        anatt,
        anacap,
        anagrpmax,
        nanagrpid,
        pels,
        domain_id = domainid,
        rsvd358,
        megcap,
        rsvd384,
        sqes,
        cqes,
        maxcmd,
        nn,
        oncs,
        fuses,
        fna,
        vwc,
        awun,
        awupf,
        icsvscc,
        nwpc,
        acwu,
        cdfs = ocfs,
        sgls,
        mnan,
        maxdna,
        maxcna,
        rsvd564,
        subnqn,
        rsvd1024,
        ioccsz,
        iorcsz,
        icdoff,
        fcatt,
        msdbd,
        ofcs,
        dctype,
        rsvd1807,
        psd,
        vs
    );
    structure!(
        checks,
        PowerStateDescriptor,
        "struct nvme_id_psd",
        mp,
        rsvd2,
        flags,
        enlat,
        exlat,
        rrt,
        rrl,
        rwt,
        rwl,
        idlp,
        ips,
        rsvd19,
        actp,
        apws,
        rsvd23
    );
    // libnvme puts LBSTM, which belongs to CNS 05h, where the specification has vendor specific bytes.
    structure!(
        checks,
        IdentifyNamespace,
        "struct nvme_id_ns",
        nsze,
        ncap,
        nuse,
        nsfeat,
        nlbaf,
        flbas,
        mc,
        dpc,
        dps,
        nmic,
        rescap,
        fpi,
        dlfeat,
        nawun,
        nawupf,
        nacwu,
        nabsn,
        nabo,
        nabspf,
        noiob,
        nvmcap,
        npwg,
        npwa,
        npdg,
        npda,
        nows,
        mssrl,
        mcl,
        msrc,
        rsvd81,
        nulbaf,
        rsvd83,
        anagrpid,
        rsvd96,
        nsattr,
        nvmsetid,
        endgid,
        nguid,
        eui64,
        lbaf
    );
    structure!(checks, LbaFormat, "struct nvme_lbaf", ms, lbads = ds, rp);
    structure!(
        checks,
        IdentifyNamespaceIndependent,
        "struct nvme_id_independent_id_ns",
        nsfeat,
        nmic,
        rescap,
        fpi,
        anagrpid,
        nsattr,
        rsvd9,
        nvmsetid,
        endgid,
        nstat,
        rsvd15
    );
    structure!(checks, IdentifyControllerNvm, "struct nvme_id_ctrl_nvm", vsl, wzsl, wusl, dmrl, dmrsl, dmsl, rsvd16);
    structure!(checks, IdentifyNamespaceNvm, "struct nvme_nvm_id_ns", lbstm, pic, rsvd9, elbaf, rsvd268);
    structure!(checks, IdentifyIocs, "struct nvme_id_iocs", vectors = iocsc);
    structure!(checks, NsList, "struct nvme_ns_list", nsids = ns);
    structure!(checks, HostBehavior, "struct nvme_feat_host_behavior", acre);
    structure!(checks, DsmRange, "struct nvme_dsm_range", cattr, nlb, slba);
    structure!(
        checks,
        ConnectData,
        "struct nvmf_connect_data",
        hostid,
        cntlid,
        rsvd18 = rsvd4,
        subnqn = subsysnqn,
        hostnqn,
        rsvd768 = rsvd5
    );
}

fn log_pages(checks: &mut Checks) {
    structure!(
        checks,
        ErrorInformation,
        "struct nvme_error_log_page",
        error_count,
        sqid,
        cid = cmdid,
        status_field,
        parameter_error_location = parm_error_location,
        lba,
        nsid,
        vendor_log_page = vs,
        trtype,
        rsvd30 = rsvd,
        command_specific = cs,
        transport_specific = trtype_spec_info,
        rsvd42 = rsvd2
    );
    structure!(
        checks,
        SmartHealth,
        "struct nvme_smart_log",
        critical_warning,
        composite_temperature = temperature,
        available_spare = avail_spare,
        available_spare_threshold = spare_thresh,
        percentage_used = percent_used,
        endurance_group_warning = endu_grp_crit_warn_sumry,
        rsvd7,
        data_units_read,
        data_units_written,
        host_read_commands = host_reads,
        host_write_commands = host_writes,
        controller_busy_time = ctrl_busy_time,
        power_cycles,
        power_on_hours,
        unsafe_shutdowns,
        media_errors,
        error_log_entries = num_err_log_entries,
        warning_temperature_time = warning_temp_time,
        critical_temperature_time = critical_comp_time,
        temperature_sensor = temp_sensor,
        thermal_1_transitions = thm_temp1_trans_count,
        thermal_2_transitions = thm_temp2_trans_count,
        thermal_1_time = thm_temp1_total_time,
        thermal_2_time = thm_temp2_total_time,
        rsvd232
    );
    structure!(checks, FirmwareSlot, "struct nvme_firmware_slot", afi, rsvd1, frs, rsvd64 = rsvd2);
    structure!(checks, CommandsSupported, "struct nvme_cmd_effects_log", acs, iocs, rsvd2048 = rsvd);
    structure!(checks, SupportedLogPages, "struct nvme_supported_log_pages", lids = lid_support);
    structure!(checks, DiscoveryHeader, "struct nvmf_discovery_log", genctr, numrec, recfmt, rsvd18 = rsvd14);
    structure!(
        checks,
        DiscoveryEntry,
        "struct nvmf_disc_log_entry",
        trtype,
        adrfam,
        subtype,
        treq,
        portid,
        cntlid,
        asqsz,
        eflags,
        rsvd12,
        trsvcid,
        rsvd64,
        subnqn,
        traddr,
        tsas
    );
    checks.add("sizeof(union nvmf_tsas)", size_of::<RdmaTsas>());
    checks.add("offsetof(union nvmf_tsas, rdma.qptype)", core::mem::offset_of!(RdmaTsas, qptype));
    checks.add("offsetof(union nvmf_tsas, rdma.prtype)", core::mem::offset_of!(RdmaTsas, prtype));
    checks.add("offsetof(union nvmf_tsas, rdma.cms)", core::mem::offset_of!(RdmaTsas, cms));
    checks.add("offsetof(union nvmf_tsas, rdma.pkey)", core::mem::offset_of!(RdmaTsas, pkey));
    let roce = RdmaTsas::roce_v2();
    checks.add("NVMF_RDMA_QPTYPE_CONNECTED", roce.qptype);
    checks.add("NVMF_RDMA_PRTYPE_ROCEV2", roce.prtype);
    checks.add("NVMF_RDMA_CMS_RDMA_CM", roce.cms);
}

fn constants(checks: &mut Checks) {
    checks.add("NVME_NQN_LENGTH", NQN_FIELD_SIZE);
    checks.add("NVMF_NQN_SIZE", NQN_LENGTH_MAX);
    checks.add("(uint32_t)NVME_NSID_ALL", kvof_spec::identify::NSID_ALL);
    checks.add("NVME_IDENTIFY_DATA_SIZE", kvof_spec::identify::IDENTIFY_SIZE);
    checks.add("NVME_ID_NS_LIST_MAX", kvof_spec::identify::NS_LIST_ENTRIES);
    checks.add("NVME_DSM_MAX_RANGES", kvof_spec::io::DSM_RANGES_MAX);
    codes!(
        checks,
        AdminOpcode,
        "nvme_admin_",
        DELETE_IO_SQ = delete_sq,
        CREATE_IO_SQ = create_sq,
        GET_LOG_PAGE = get_log_page,
        DELETE_IO_CQ = delete_cq,
        CREATE_IO_CQ = create_cq,
        IDENTIFY = identify,
        ABORT = abort_cmd,
        SET_FEATURES = set_features,
        GET_FEATURES = get_features,
        ASYNC_EVENT_REQUEST = async_event,
        NAMESPACE_MANAGEMENT = ns_mgmt,
        FIRMWARE_COMMIT = fw_commit,
        FIRMWARE_DOWNLOAD = fw_download,
        KEEP_ALIVE = keep_alive,
        FABRICS = fabrics,
        FORMAT_NVM = format_nvm
    );
    codes!(
        checks,
        NvmOpcode,
        "nvme_cmd_",
        FLUSH = flush,
        WRITE = write,
        READ = read,
        WRITE_UNCORRECTABLE = write_uncor,
        COMPARE = compare,
        WRITE_ZEROES = write_zeroes,
        DATASET_MANAGEMENT = dsm
    );
    codes!(checks, Csi, "NVME_CSI_", NVM = NVM, KV = KV, ZNS = ZNS);
    codes!(
        checks,
        Cns,
        "NVME_IDENTIFY_CNS_",
        NAMESPACE = NS,
        CONTROLLER = CTRL,
        ACTIVE_NAMESPACES = NS_ACTIVE_LIST,
        NAMESPACE_DESCRIPTORS = NS_DESC_LIST,
        NVM_SET_LIST = NVMSET_LIST,
        IOCS_NAMESPACE = CSI_NS,
        IOCS_CONTROLLER = CSI_CTRL,
        IOCS_ACTIVE_NAMESPACES = CSI_NS_ACTIVE_LIST,
        IOCS_INDEPENDENT_NAMESPACE = CSI_INDEPENDENT_ID_NS,
        NAMESPACE_FORMAT = NS_USER_DATA_FORMAT,
        IOCS_NAMESPACE_FORMAT = CSI_NS_USER_DATA_FORMAT,
        ALLOCATED_NAMESPACES = ALLOCATED_NS_LIST,
        ALLOCATED_NAMESPACE = ALLOCATED_NS,
        NAMESPACE_CONTROLLERS = NS_CTRL_LIST,
        CONTROLLERS = CTRL_LIST,
        PRIMARY_CONTROLLER = PRIMARY_CTRL_CAP,
        SECONDARY_CONTROLLERS = SECONDARY_CTRL_LIST,
        NAMESPACE_GRANULARITY = NS_GRANULARITY,
        UUIDS = UUID_LIST,
        DOMAINS = DOMAIN_LIST,
        ENDURANCE_GROUPS = ENDURANCE_GROUP_ID,
        IOCS_ALLOCATED_NAMESPACES = CSI_ALLOCATED_NS_LIST,
        IOCS_ALLOCATED_NAMESPACE = CSI_ID_NS_DATA_STRUCTURE,
        IO_COMMAND_SETS = COMMAND_SET_STRUCTURE
    );
    codes!(checks, NsIdType, "NVME_NIDT_", EUI64 = EUI64, NGUID = NGUID, UUID = UUID, CSI = CSI);
    codes!(
        checks,
        LogId,
        "NVME_LOG_LID_",
        SUPPORTED_LOG_PAGES = SUPPORTED_LOG_PAGES,
        ERROR_INFORMATION = ERROR,
        SMART_HEALTH = SMART,
        FIRMWARE_SLOT = FW_SLOT,
        CHANGED_NAMESPACES = CHANGED_NS,
        COMMANDS_SUPPORTED = CMD_EFFECTS,
        DEVICE_SELF_TEST = DEVICE_SELF_TEST,
        TELEMETRY_HOST = TELEMETRY_HOST,
        TELEMETRY_CONTROLLER = TELEMETRY_CTRL,
        ENDURANCE_GROUP = ENDURANCE_GROUP,
        ANA = ANA,
        PERSISTENT_EVENT = PERSISTENT_EVENT,
        FEATURES_SUPPORTED = FID_SUPPORTED_EFFECTS,
        DISCOVERY = DISCOVER,
        RESERVATION_NOTIFICATION = RESERVATION,
        SANITIZE_STATUS = SANITIZE
    );
    codes!(
        checks,
        FeatureId,
        "NVME_FEAT_FID_",
        ARBITRATION = ARBITRATION,
        POWER_MANAGEMENT = POWER_MGMT,
        LBA_RANGE_TYPE = LBA_RANGE,
        TEMPERATURE_THRESHOLD = TEMP_THRESH,
        ERROR_RECOVERY = ERR_RECOVERY,
        VOLATILE_WRITE_CACHE = VOLATILE_WC,
        NUMBER_OF_QUEUES = NUM_QUEUES,
        INTERRUPT_COALESCING = IRQ_COALESCE,
        INTERRUPT_VECTOR_CONFIGURATION = IRQ_CONFIG,
        WRITE_ATOMICITY = WRITE_ATOMIC,
        ASYNC_EVENT_CONFIGURATION = ASYNC_EVENT,
        AUTONOMOUS_POWER_STATE_TRANSITION = AUTO_PST,
        HOST_MEMORY_BUFFER = HOST_MEM_BUF,
        TIMESTAMP = TIMESTAMP,
        KEEP_ALIVE_TIMER = KATO,
        HOST_BEHAVIOR_SUPPORT = HOST_BEHAVIOR,
        IO_COMMAND_SET_PROFILE = IOCS_PROFILE,
        SOFTWARE_PROGRESS_MARKER = SW_PROGRESS,
        HOST_IDENTIFIER = HOST_ID,
        RESERVATION_NOTIFICATION_MASK = RESV_MASK,
        RESERVATION_PERSISTENCE = RESV_PERSIST,
        NAMESPACE_WRITE_PROTECTION = WRITE_PROTECT
    );
    codes!(
        checks,
        FeatureSelect,
        "NVME_GET_FEATURES_SEL_",
        CURRENT = CURRENT,
        DEFAULT = DEFAULT,
        SAVED = SAVED,
        SUPPORTED_CAPABILITIES = SUPPORTED
    );
    codes!(
        checks,
        AsyncEventType,
        "NVME_AER_",
        ERROR = ERROR,
        SMART = SMART,
        NOTICE = NOTICE,
        IO_COMMAND_SET = CSS,
        VENDOR = VS
    );
    for (theirs, ours) in [
        ("ERROR_PERSISTENT_INTERNAL_ERROR", AsyncEvent::PERSISTENT_INTERNAL_ERROR),
        ("ERROR_TRANSIENT_INTERNAL_ERROR", AsyncEvent::TRANSIENT_INTERNAL_ERROR),
        ("SMART_SUBSYSTEM_RELIABILITY", AsyncEvent::SUBSYSTEM_RELIABILITY),
        ("SMART_TEMPERATURE_THRESHOLD", AsyncEvent::TEMPERATURE_THRESHOLD),
        ("SMART_SPARE_THRESHOLD", AsyncEvent::SPARE_BELOW_THRESHOLD),
        ("NOTICE_NS_CHANGED", AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED),
        ("NOTICE_FW_ACT_STARTING", AsyncEvent::FIRMWARE_ACTIVATION_STARTING),
        ("NOTICE_ANA", AsyncEvent::ANA_CHANGE),
        ("NOTICE_DISC_CHANGED", AsyncEvent::DISCOVERY_LOG_CHANGED),
    ] {
        checks.add(format!("NVME_AER_{theirs}"), ours.info());
    }
    codes!(checks, ControllerType, "NVME_CTRL_CNTRLTYPE_", IO = IO, DISCOVERY = DISCOVERY, ADMINISTRATIVE = ADMIN);
    codes!(checks, TransportType, "NVMF_TRTYPE_", RDMA = RDMA, FIBRE_CHANNEL = FC, TCP = TCP, LOOP = LOOP);
    codes!(
        checks,
        AddressFamily,
        "NVMF_ADDR_FAMILY_",
        IPV4 = IP4,
        IPV6 = IP6,
        INFINIBAND = IB,
        FIBRE_CHANNEL = FC,
        LOOP = LOOP
    );
    codes!(checks, TcpSecurityType, "NVMF_TCP_SECTYPE_", NONE = NONE, TLS_1_2 = TLS, TLS_1_3 = TLS13);
}

fn statuses(checks: &mut Checks) {
    macro_rules! status {
        ($sct:literal, $($ours:ident = $theirs:ident),* $(,)?) => {$(
            checks.add(
                concat!("(NVME_SCT_", $sct, " << NVME_SCT_SHIFT) | NVME_SC_", stringify!($theirs)),
                Status::$ours.0,
            );
        )*};
    }
    status!(
        "GENERIC",
        SUCCESS = SUCCESS,
        INVALID_OPCODE = INVALID_OPCODE,
        INVALID_FIELD = INVALID_FIELD,
        COMMAND_ID_CONFLICT = CMDID_CONFLICT,
        DATA_TRANSFER_ERROR = DATA_XFER_ERROR,
        ABORTED_POWER_LOSS = POWER_LOSS,
        INTERNAL_ERROR = INTERNAL,
        ABORT_REQUESTED = ABORT_REQ,
        ABORTED_SQ_DELETION = ABORT_QUEUE,
        ABORTED_FAILED_FUSED = FUSED_FAIL,
        ABORTED_MISSING_FUSED = FUSED_MISSING,
        INVALID_NAMESPACE_OR_FORMAT = INVALID_NS,
        COMMAND_SEQUENCE_ERROR = CMD_SEQ_ERROR,
        INVALID_SGL_SEGMENT = SGL_INVALID_LAST,
        INVALID_SGL_COUNT = SGL_INVALID_COUNT,
        DATA_SGL_LENGTH_INVALID = SGL_INVALID_DATA,
        METADATA_SGL_LENGTH_INVALID = SGL_INVALID_METADATA,
        SGL_TYPE_INVALID = SGL_INVALID_TYPE,
        PRP_OFFSET_INVALID = PRP_INVALID_OFFSET,
        OPERATION_DENIED = OP_DENIED,
        SGL_OFFSET_INVALID = SGL_INVALID_OFFSET,
        HOST_ID_INCONSISTENT = HOSTID_FORMAT,
        KEEP_ALIVE_EXPIRED = KAT_EXPIRED,
        KEEP_ALIVE_INVALID = KAT_INVALID,
        SANITIZE_IN_PROGRESS = SANITIZE_IN_PROGRESS,
        SGL_DATA_BLOCK_GRANULARITY = SGL_INVALID_GRANULARITY,
        COMMAND_NOT_SUPPORTED_IN_CMB = CMD_IN_CMBQ_NOT_SUPP,
        NAMESPACE_WRITE_PROTECTED = NS_WRITE_PROTECTED,
        COMMAND_INTERRUPTED = CMD_INTERRUPTED,
        TRANSIENT_TRANSPORT_ERROR = TRAN_TPORT_ERROR,
        LBA_OUT_OF_RANGE = LBA_RANGE,
        CAPACITY_EXCEEDED = CAP_EXCEEDED,
        NAMESPACE_NOT_READY = NS_NOT_READY,
        RESERVATION_CONFLICT = RESERVATION_CONFLICT,
        FORMAT_IN_PROGRESS = FORMAT_IN_PROGRESS
    );
    status!(
        "CMD_SPECIFIC",
        CQ_INVALID = CQ_INVALID,
        INVALID_QUEUE_ID = QID_INVALID,
        INVALID_QUEUE_SIZE = QUEUE_SIZE,
        ABORT_LIMIT_EXCEEDED = ABORT_LIMIT,
        AER_LIMIT_EXCEEDED = ASYNC_LIMIT,
        INVALID_LOG_PAGE = INVALID_LOG_PAGE,
        FEATURE_NOT_SAVEABLE = FEATURE_NOT_SAVEABLE,
        FEATURE_NOT_CHANGEABLE = FEATURE_NOT_CHANGEABLE,
        FEATURE_NOT_NAMESPACE_SPECIFIC = FEATURE_NOT_PER_NS,
        INVALID_CONTROLLER_ID = INVALID_CTRL_ID,
        IOCS_NOT_SUPPORTED = IOCS_NOT_SUPPORTED,
        IOCS_NOT_ENABLED = IOCS_NOT_ENABLED,
        IOCS_COMBINATION_REJECTED = IOCS_COMBINATION_REJECTED,
        INVALID_IOCS = INVALID_IOCS,
        CONNECT_INCOMPATIBLE_FORMAT = CONNECT_FORMAT,
        CONNECT_CONTROLLER_BUSY = CONNECT_CTRL_BUSY,
        CONNECT_INVALID_PARAMETERS = CONNECT_INVALID_PARAM,
        CONNECT_RESTART_DISCOVERY = CONNECT_RESTART_DISC,
        CONNECT_INVALID_HOST = CONNECT_INVALID_HOST,
        DISCONNECT_INVALID_QUEUE_TYPE = DISCONNECT_INVALID_QTYPE,
        DISCOVER_RESTART = DISCOVERY_RESTART,
        AUTHENTICATION_REQUIRED = AUTH_REQUIRED
    );
    status!("MEDIA", WRITE_FAULT = WRITE_FAULT, UNRECOVERED_READ_ERROR = READ_ERROR, COMPARE_FAILURE = COMPARE_FAILED);
    status!(
        "PATH",
        INTERNAL_PATH_ERROR = ANA_INTERNAL_PATH_ERROR,
        CONTROLLER_PATHING_ERROR = CTRL_PATH_ERROR,
        HOST_PATHING_ERROR = HOST_PATH_ERROR,
        HOST_ABORTED = CMD_ABORTED_BY_HOST
    );
    checks.add("NVME_SC_DNR", Status::SUCCESS.with_dnr().0);
}

fn identify_flags(checks: &mut Checks) {
    flags!(
        checks,
        Cmic,
        "NVME_CTRL_CMIC_",
        MULTI_PORT = MULTI_PORT,
        MULTI_CONTROLLER = MULTI_CTRL,
        SRIOV = MULTI_SRIOV,
        ANA_REPORTING = MULTI_ANA_REPORTING
    );
    flags!(
        checks,
        Oaes,
        "NVME_CTRL_OAES_",
        NAMESPACE_ATTRIBUTE = NA,
        FIRMWARE_ACTIVATION = FA,
        ANA_CHANGE = ANA,
        PREDICTABLE_LATENCY = PLEA,
        LBA_STATUS = LBAS,
        ENDURANCE_GROUP = EGE,
        NORMAL_SUBSYSTEM_SHUTDOWN = NS,
        ZONE_DESCRIPTOR_CHANGED = ZD,
        DISCOVERY_LOG_CHANGE = DL
    );
    checks.add("NVME_CTRL_CTRATT_128_ID", Ctratt::HOST_ID_128.bits());
    flags!(
        checks,
        Ctratt,
        "NVME_CTRL_CTRATT_",
        NOPSPM = NON_OP_PSP,
        NVM_SETS = NVM_SETS,
        READ_RECOVERY_LEVELS = READ_RECV_LVLS,
        ENDURANCE_GROUPS = ENDURANCE_GROUPS,
        PREDICTABLE_LATENCY = PREDICTABLE_LAT,
        TBKAS = TBKAS,
        NAMESPACE_GRANULARITY = NAMESPACE_GRANULARITY,
        SQ_ASSOCIATIONS = SQ_ASSOCIATIONS,
        UUID_LIST = UUID_LIST,
        MULTI_DOMAIN = MDS,
        FIXED_CAPACITY = FIXED_CAP,
        VARIABLE_CAPACITY = VARIABLE_CAP,
        DELETE_ENDURANCE_GROUP = DEL_ENDURANCE_GROUPS,
        DELETE_NVM_SET = DEL_NVM_SETS,
        ELBAS = ELBAS
    );
    flags!(
        checks,
        Oacs,
        "NVME_CTRL_OACS_",
        SECURITY = SECURITY,
        FORMAT_NVM = FORMAT,
        FIRMWARE = FW,
        NAMESPACE_MANAGEMENT = NS_MGMT,
        SELF_TEST = SELF_TEST,
        DIRECTIVES = DIRECTIVES,
        NVME_MI = NVME_MI,
        VIRTUALIZATION = VIRT_MGMT,
        DOORBELL_BUFFER = DBBUF_CFG,
        GET_LBA_STATUS = LBA_STATUS,
        LOCKDOWN = CMD_FEAT_LD
    );
    flags!(
        checks,
        Lpa,
        "NVME_CTRL_LPA_",
        SMART_PER_NAMESPACE = SMART_PER_NS,
        COMMANDS_SUPPORTED = CMD_EFFECTS,
        EXTENDED_DATA = EXTENDED,
        TELEMETRY = TELEMETRY,
        PERSISTENT_EVENT = PERSETENT_EVENT,
        SUPPORTED_PAGES = LI0_LI5_LI12_LI13,
        TELEMETRY_AREA_4 = DA4_TELEMETRY
    );
    flags!(
        checks,
        AnaCap,
        "NVME_CTRL_ANACAP_",
        OPTIMIZED = OPT,
        NON_OPTIMIZED = NON_OPT,
        INACCESSIBLE = INACCESSIBLE,
        PERSISTENT_LOSS = PERSISTENT_LOSS,
        CHANGE = CHANGE,
        GROUP_ID_FIXED = GRPID_NO_CHG,
        GROUP_ID_MANAGED = GRPID_MGMT
    );
    flags!(
        checks,
        Oncs,
        "NVME_CTRL_ONCS_",
        COMPARE = COMPARE,
        WRITE_UNCORRECTABLE = WRITE_UNCORRECTABLE,
        DATASET_MANAGEMENT = DSM,
        WRITE_ZEROES = WRITE_ZEROES,
        SAVE_SELECT = SAVE_FEATURES,
        RESERVATIONS = RESERVATIONS,
        TIMESTAMP = TIMESTAMP,
        VERIFY = VERIFY,
        COPY = COPY
    );
    let supported = Sgls::SUPPORTED | Sgls::SUPPORTED_DWORD_ALIGNED;
    checks.add("(uint32_t)NVME_CTRL_SGLS_SUPPORTED", supported.bits());
    flags!(
        checks,
        Sgls,
        "NVME_CTRL_SGLS_",
        KEYED = KEYED,
        BIT_BUCKET = BIT_BUCKET,
        METADATA_BYTE_ALIGNED = MPTR_BYTE_ALIGNED,
        OVERSIZE = OVERSIZE,
        METADATA_SGL = MPTR_SGL,
        OFFSET = OFFSET,
        TRANSPORT = TPORT
    );
    flags!(checks, Vwc, "NVME_CTRL_VWC_", PRESENT = PRESENT, FLUSH_ALL = FLUSH);
    flags!(
        checks,
        NsFeatures,
        "NVME_NS_FEAT_",
        THIN = THIN,
        ATOMICS = NATOMIC,
        DULBE = DULBE,
        UID_REUSE = ID_REUSE,
        OPTPERF = IO_OPT
    );
    flags!(checks, Nmic, "NVME_NS_NMIC_", SHARED = SHARED);
    flags!(checks, NsAttributes, "NVME_NS_NSATTR_", WRITE_PROTECTED = WRITE_PROTECTED);
    checks.add("NVME_NVM_ELBAF_STS_MASK", ExtendedLbaFormat::default().with_sts(0x7f).0);
    checks.add("NVME_NVM_ELBAF_PIF_MASK", ExtendedLbaFormat::default().with_pif(3).0);
}

fn other_flags(checks: &mut Checks) {
    flags!(
        checks,
        AsyncEventConfig,
        "NVME_FEATURE_AENCFG_",
        SMART_SPARE = SMART_CRIT_SPARE,
        SMART_TEMPERATURE = SMART_CRIT_TEMPERATURE,
        SMART_DEGRADED = SMART_CRIT_DEGRADED,
        SMART_READ_ONLY = SMART_CRIT_READ_ONLY,
        SMART_VOLATILE_BACKUP = SMART_CRIT_VOLATILE_BACKUP,
        SMART_PMR_READ_ONLY = SMART_CRIT_READ_ONLY_PMR,
        NAMESPACE_ATTRIBUTE = NOTICE_NAMESPACE_ATTRIBUTES,
        FIRMWARE_ACTIVATION = NOTICE_FIRMWARE_ACTIVATION,
        TELEMETRY_LOG = NOTICE_TELEMETRY_LOG,
        ANA_CHANGE = NOTICE_ANA_CHANGE,
        PREDICTABLE_LATENCY = NOTICE_PL_EVENT,
        LBA_STATUS = NOTICE_LBA_STATUS,
        ENDURANCE_GROUP = NOTICE_EG_EVENT,
        DISCOVERY_LOG_CHANGE = NOTICE_DISCOVERY_CHANGE
    );
    flags!(
        checks,
        CommandEffects,
        "NVME_CMD_EFFECTS_",
        CSUPP = CSUPP,
        LBCC = LBCC,
        NCC = NCC,
        NIC = NIC,
        CCC = CCC,
        UUID_SELECTION = UUID_SEL
    );
    flags!(
        checks,
        CriticalWarning,
        "NVME_SMART_CRIT_",
        SPARE = SPARE,
        TEMPERATURE = TEMPERATURE,
        DEGRADED = DEGRADED,
        READ_ONLY = MEDIA,
        VOLATILE_BACKUP = VOLATILE_MEMORY,
        PMR_READ_ONLY = PMR_RO
    );
    flags!(
        checks,
        TransportRequirements,
        "NVMF_TREQ_",
        SECURE_CHANNEL_REQUIRED = REQUIRED,
        SECURE_CHANNEL_NOT_REQUIRED = NOT_REQUIRED,
        DISABLE_SQ_FLOW_CONTROL = DISABLE_SQFLOW
    );
    flags!(
        checks,
        DiscoveryFlags,
        "NVMF_DISC_EFLAGS_",
        DUPLICATE_RETURNED_INFORMATION = DUPRETINFO,
        EXPLICIT_PERSISTENT_CONNECTION = EPCSD
    );
    flags!(
        checks,
        RwFlags,
        "NVME_IO_",
        STC = STC,
        DEAC = DEAC,
        PRCHK_REF = PRINFO_PRCHK_REF,
        PRCHK_APP = PRINFO_PRCHK_APP,
        PRCHK_GUARD = PRINFO_PRCHK_GUARD,
        PRACT = PRINFO_PRACT,
        FUA = FUA,
        LR = LR
    );
    flags!(checks, DsmAttributes, "NVME_DSMGMT_", IDR = IDR, IDW = IDW, AD = AD);
    bits!(
        checks, Arbitration, "NVME_FEAT_ARBITRATION_",
        with_ab(7) = BURST_SHIFT, BURST_MASK;
        with_lpw(0xff) = LPW_SHIFT, LPW_MASK;
        with_mpw(0xff) = MPW_SHIFT, MPW_MASK;
        with_hpw(0xff) = HPW_SHIFT, HPW_MASK;
    );
    bits!(
        checks, TemperatureThreshold, "NVME_FEAT_TT_",
        with_tmpth(0xffff) = TMPTH_SHIFT, TMPTH_MASK;
        with_tmpsel(0xf) = TMPSEL_SHIFT, TMPSEL_MASK;
        with_thsel(3) = THSEL_SHIFT, THSEL_MASK;
    );
    bits!(
        checks, ErrorRecovery, "NVME_FEAT_ERROR_RECOVERY_",
        with_tler(0xffff) = TLER_SHIFT, TLER_MASK;
        with_dulbe(true) = DULBE_SHIFT, DULBE_MASK;
    );
    bits!(checks, VolatileWriteCache, "NVME_FEAT_VWC_", with_wce(true) = WCE_SHIFT, WCE_MASK);
    bits!(
        checks, NumberOfQueues, "NVME_FEAT_NRQS_",
        with_nsq(0xffff) = NSQR_SHIFT, NSQR_MASK;
        with_ncq(0xffff) = NCQR_SHIFT, NCQR_MASK;
    );
}

fn properties(checks: &mut Checks) {
    codes!(checks, Property, "NVME_REG_", CAP = CAP, VS = VS, CC = CC, CSTS = CSTS, NSSR = NSSR, CRTO = CRTO);
    bits!(
        checks, Cap, "NVME_CAP_",
        with_mqes(0xffff) = MQES_SHIFT, MQES_MASK;
        with_cqr(true) = CQR_SHIFT, CQR_MASK;
        with_ams(3) = AMS_SHIFT, AMS_MASK;
        with_to(0xff) = TO_SHIFT, TO_MASK;
        with_dstrd(0xf) = DSTRD_SHIFT, DSTRD_MASK;
        with_nssrs(true) = NSSRC_SHIFT, NSSRC_MASK;
        with_css(0xff) = CSS_SHIFT, CSS_MASK;
        with_css_nvm(true) = CSS_SHIFT, CSS_NVM;
        with_css_iocs(true) = CSS_SHIFT, CSS_CSI;
        with_css_admin_only(true) = CSS_SHIFT, CSS_ADMIN;
        with_bps(true) = BPS_SHIFT, BPS_MASK;
        with_mpsmin(0xf) = MPSMIN_SHIFT, MPSMIN_MASK;
        with_mpsmax(0xf) = MPSMAX_SHIFT, MPSMAX_MASK;
        with_pmrs(true) = PMRS_SHIFT, PMRS_MASK;
        with_cmbs(true) = CMBS_SHIFT, CMBS_MASK;
        with_crwms(true) = CRMS_SHIFT, CRWMS;
        with_crims(true) = CRMS_SHIFT, CRIMS;
    );
    bits!(
        checks, Vs, "NVME_VS_",
        with_ter(0xff) = TER_SHIFT, TER_MASK;
        with_mnr(0xff) = MNR_SHIFT, MNR_MASK;
        with_mjr(0xffff) = MJR_SHIFT, MJR_MASK;
    );
    bits!(
        checks, Cc, "NVME_CC_",
        with_en(true) = EN_SHIFT, EN_MASK;
        with_css(7) = CSS_SHIFT, CSS_MASK;
        with_css(Cc::CSS_IOCS) = CSS_SHIFT, CSS_CSI;
        with_css(Cc::CSS_ADMIN_ONLY) = CSS_SHIFT, CSS_ADMIN;
        with_mps(0xf) = MPS_SHIFT, MPS_MASK;
        with_ams(7) = AMS_SHIFT, AMS_MASK;
        with_shn(3) = SHN_SHIFT, SHN_MASK;
        with_shn(Cc::SHN_NORMAL) = SHN_SHIFT, SHN_NORMAL;
        with_shn(Cc::SHN_ABRUPT) = SHN_SHIFT, SHN_ABRUPT;
        with_iosqes(0xf) = IOSQES_SHIFT, IOSQES_MASK;
        with_iocqes(0xf) = IOCQES_SHIFT, IOCQES_MASK;
        with_crime(true) = CRIME_SHIFT, CRIME_MASK;
    );
    bits!(
        checks, Csts, "NVME_CSTS_",
        with_rdy(true) = RDY_SHIFT, RDY_MASK;
        with_cfs(true) = CFS_SHIFT, CFS_MASK;
        with_shst(3) = SHST_SHIFT, SHST_MASK;
        with_shst(Csts::SHST_OCCURRING) = SHST_SHIFT, SHST_OCCUR;
        with_shst(Csts::SHST_COMPLETE) = SHST_SHIFT, SHST_CMPLT;
        with_nssro(true) = NSSRO_SHIFT, NSSRO_MASK;
        with_pp(true) = PP_SHIFT, PP_MASK;
    );
}

/// Why the comparison is not possible on this machine.
struct Missing(String);

/// The value of each C expression, as a compiled program prints them.
fn evaluate(checks: &[Check]) -> Result<Vec<u64>, Missing> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let run = |args: &[&str]| Command::new(&compiler).args(args).stdin(Stdio::null()).output();
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = |name: &str| dir.join(format!("{name}-{}", std::process::id())).to_string_lossy().into_owned();

    let probe = path("libnvme-probe") + ".c";
    std::fs::write(&probe, "#include <nvme/types.h>\n").unwrap();
    let probed = run(&["-E", "-o", "/dev/null", &probe]);
    std::fs::remove_file(&probe).unwrap();
    match probed {
        Err(error) => return Err(Missing(format!("no C compiler: {compiler}: {error}"))),
        Ok(output) if !output.status.success() => {
            return Err(Missing("no nvme/types.h (on Debian: apt install libnvme-dev)".into()));
        }
        Ok(_) => {}
    }

    let mut source = String::from("#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n");
    source.push_str("#include <nvme/types.h>\nint main(void)\n{\n");
    for check in checks {
        writeln!(source, "\tprintf(\"%llu\\n\", (unsigned long long)({}));", check.c).unwrap();
    }
    source.push_str("\treturn 0;\n}\n");
    let (c, program) = (path("libnvme-layout") + ".c", path("libnvme-layout"));
    std::fs::write(&c, source).unwrap();
    let compiled = run(&["-w", "-o", &program, &c]).unwrap();
    let message = String::from_utf8_lossy(&compiled.stderr).into_owned();
    assert!(compiled.status.success(), "this test knows the names of libnvme 1.x, and they do not compile:\n{message}");
    let output = Command::new(&program).output().unwrap();
    for file in [&c, &program] {
        std::fs::remove_file(file).unwrap();
    }
    assert!(output.status.success());
    Ok(String::from_utf8(output.stdout).unwrap().lines().map(|l| l.parse().unwrap()).collect())
}

//! Flags and bit ranges.

use kvof_spec::feature::{
    Arbitration, AsyncEventConfig, ErrorRecovery, NumberOfQueues, TemperatureThreshold, VolatileWriteCache,
};
use kvof_spec::identify::{
    AnaCap, Cmic, Ctratt, ExtendedLbaFormat, Lpa, Nmic, NsAttributes, NsFeatures, Oacs, Oaes, Oncs, Sgls, Vwc,
};
use kvof_spec::io::{DsmAttributes, RwFlags};
use kvof_spec::log::{CommandEffects, CriticalWarning, DiscoveryFlags, TransportRequirements};
use kvof_spec::{Cap, Cc, Csts, Vs};

use super::Checks;

pub(super) fn identify_flags(checks: &mut Checks) {
    flags! {
        checks, Cmic, "NVME_CTRL_CMIC_", MULTI_PORT = MULTI_PORT, MULTI_CONTROLLER = MULTI_CTRL, SRIOV = MULTI_SRIOV,
        ANA_REPORTING = MULTI_ANA_REPORTING
    }
    flags! {
        checks, Oaes, "NVME_CTRL_OAES_", NAMESPACE_ATTRIBUTE = NA, FIRMWARE_ACTIVATION = FA, ANA_CHANGE = ANA,
        PREDICTABLE_LATENCY = PLEA, LBA_STATUS = LBAS, ENDURANCE_GROUP = EGE, NORMAL_SUBSYSTEM_SHUTDOWN = NS,
        ZONE_DESCRIPTOR_CHANGED = ZD, DISCOVERY_LOG_CHANGE = DL
    }
    checks.add("NVME_CTRL_CTRATT_128_ID", Ctratt::HOST_ID_128.bits());
    flags! {
        checks, Ctratt, "NVME_CTRL_CTRATT_", NOPSPM = NON_OP_PSP, NVM_SETS = NVM_SETS,
        READ_RECOVERY_LEVELS = READ_RECV_LVLS, ENDURANCE_GROUPS = ENDURANCE_GROUPS,
        PREDICTABLE_LATENCY = PREDICTABLE_LAT, TBKAS = TBKAS, NAMESPACE_GRANULARITY = NAMESPACE_GRANULARITY,
        SQ_ASSOCIATIONS = SQ_ASSOCIATIONS, UUID_LIST = UUID_LIST, MULTI_DOMAIN = MDS, FIXED_CAPACITY = FIXED_CAP,
        VARIABLE_CAPACITY = VARIABLE_CAP, DELETE_ENDURANCE_GROUP = DEL_ENDURANCE_GROUPS, DELETE_NVM_SET = DEL_NVM_SETS,
        ELBAS = ELBAS
    }
    flags! {
        checks, Oacs, "NVME_CTRL_OACS_", SECURITY = SECURITY, FORMAT_NVM = FORMAT, FIRMWARE = FW,
        NAMESPACE_MANAGEMENT = NS_MGMT, SELF_TEST = SELF_TEST, DIRECTIVES = DIRECTIVES, NVME_MI = NVME_MI,
        VIRTUALIZATION = VIRT_MGMT, DOORBELL_BUFFER = DBBUF_CFG, GET_LBA_STATUS = LBA_STATUS, LOCKDOWN = CMD_FEAT_LD
    }
    flags! {
        checks, Lpa, "NVME_CTRL_LPA_", SMART_PER_NAMESPACE = SMART_PER_NS, COMMANDS_SUPPORTED = CMD_EFFECTS,
        EXTENDED_DATA = EXTENDED, TELEMETRY = TELEMETRY, PERSISTENT_EVENT = PERSETENT_EVENT,
        SUPPORTED_PAGES = LI0_LI5_LI12_LI13, TELEMETRY_AREA_4 = DA4_TELEMETRY
    }
    flags! {
        checks, AnaCap, "NVME_CTRL_ANACAP_", OPTIMIZED = OPT, NON_OPTIMIZED = NON_OPT, INACCESSIBLE = INACCESSIBLE,
        PERSISTENT_LOSS = PERSISTENT_LOSS, CHANGE = CHANGE, GROUP_ID_FIXED = GRPID_NO_CHG, GROUP_ID_MANAGED = GRPID_MGMT
    }
    flags! {
        checks, Oncs, "NVME_CTRL_ONCS_", COMPARE = COMPARE, WRITE_UNCORRECTABLE = WRITE_UNCORRECTABLE,
        DATASET_MANAGEMENT = DSM, WRITE_ZEROES = WRITE_ZEROES, SAVE_SELECT = SAVE_FEATURES, RESERVATIONS = RESERVATIONS,
        TIMESTAMP = TIMESTAMP, VERIFY = VERIFY, COPY = COPY
    }
    let supported = Sgls::SUPPORTED | Sgls::SUPPORTED_DWORD_ALIGNED;
    checks.add("(uint32_t)NVME_CTRL_SGLS_SUPPORTED", supported.bits());
    flags! {
        checks, Sgls, "NVME_CTRL_SGLS_", KEYED = KEYED, BIT_BUCKET = BIT_BUCKET,
        METADATA_BYTE_ALIGNED = MPTR_BYTE_ALIGNED, OVERSIZE = OVERSIZE, METADATA_SGL = MPTR_SGL, OFFSET = OFFSET,
        TRANSPORT = TPORT
    }
    flags! { checks, Vwc, "NVME_CTRL_VWC_", PRESENT = PRESENT, FLUSH_ALL = FLUSH }
    flags! {
        checks, NsFeatures, "NVME_NS_FEAT_", THIN = THIN, ATOMICS = NATOMIC, DULBE = DULBE, UID_REUSE = ID_REUSE,
        OPTPERF = IO_OPT
    }
    flags! { checks, Nmic, "NVME_NS_NMIC_", SHARED = SHARED }
    flags! { checks, NsAttributes, "NVME_NS_NSATTR_", WRITE_PROTECTED = WRITE_PROTECTED }
    checks.add("NVME_NVM_ELBAF_STS_MASK", ExtendedLbaFormat::default().with_sts(0x7f).0);
    checks.add("NVME_NVM_ELBAF_PIF_MASK", ExtendedLbaFormat::default().with_pif(3).0);
}

pub(super) fn other_flags(checks: &mut Checks) {
    flags! {
        checks, AsyncEventConfig, "NVME_FEATURE_AENCFG_", SMART_SPARE = SMART_CRIT_SPARE,
        SMART_TEMPERATURE = SMART_CRIT_TEMPERATURE, SMART_DEGRADED = SMART_CRIT_DEGRADED,
        SMART_READ_ONLY = SMART_CRIT_READ_ONLY, SMART_VOLATILE_BACKUP = SMART_CRIT_VOLATILE_BACKUP,
        SMART_PMR_READ_ONLY = SMART_CRIT_READ_ONLY_PMR, NAMESPACE_ATTRIBUTE = NOTICE_NAMESPACE_ATTRIBUTES,
        FIRMWARE_ACTIVATION = NOTICE_FIRMWARE_ACTIVATION, TELEMETRY_LOG = NOTICE_TELEMETRY_LOG,
        ANA_CHANGE = NOTICE_ANA_CHANGE, PREDICTABLE_LATENCY = NOTICE_PL_EVENT, LBA_STATUS = NOTICE_LBA_STATUS,
        ENDURANCE_GROUP = NOTICE_EG_EVENT, DISCOVERY_LOG_CHANGE = NOTICE_DISCOVERY_CHANGE
    }
    flags! {
        checks, CommandEffects, "NVME_CMD_EFFECTS_", CSUPP = CSUPP, LBCC = LBCC, NCC = NCC, NIC = NIC, CCC = CCC,
        UUID_SELECTION = UUID_SEL
    }
    flags! {
        checks, CriticalWarning, "NVME_SMART_CRIT_", SPARE = SPARE, TEMPERATURE = TEMPERATURE, DEGRADED = DEGRADED,
        READ_ONLY = MEDIA, VOLATILE_BACKUP = VOLATILE_MEMORY, PMR_READ_ONLY = PMR_RO
    }
    flags! {
        checks, TransportRequirements, "NVMF_TREQ_", SECURE_CHANNEL_REQUIRED = REQUIRED,
        SECURE_CHANNEL_NOT_REQUIRED = NOT_REQUIRED, DISABLE_SQ_FLOW_CONTROL = DISABLE_SQFLOW
    }
    flags! {
        checks, DiscoveryFlags, "NVMF_DISC_EFLAGS_", DUPLICATE_RETURNED_INFORMATION = DUPRETINFO,
        EXPLICIT_PERSISTENT_CONNECTION = EPCSD
    }
    flags! {
        checks, RwFlags, "NVME_IO_", STC = STC, DEAC = DEAC, PRCHK_REF = PRINFO_PRCHK_REF, PRCHK_APP = PRINFO_PRCHK_APP,
        PRCHK_GUARD = PRINFO_PRCHK_GUARD, PRACT = PRINFO_PRACT, FUA = FUA, LR = LR
    }
    flags! { checks, DsmAttributes, "NVME_DSMGMT_", IDR = IDR, IDW = IDW, AD = AD }
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

pub(super) fn properties(checks: &mut Checks) {
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

//! Sizes and offsets.

use kvof_spec::FromZeros;
use kvof_spec::fabrics::ConnectData;
use kvof_spec::feature::HostBehavior;
use kvof_spec::identify::{
    IdentifyController, IdentifyControllerNvm, IdentifyIocs, IdentifyNamespace, IdentifyNamespaceIndependent,
    IdentifyNamespaceNvm, LbaFormat, NsList, PowerStateDescriptor,
};
use kvof_spec::io::DsmRange;
use kvof_spec::log::{
    CommandsSupported, DiscoveryEntry, DiscoveryHeader, ErrorInformation, FirmwareSlot, RdmaTsas, SmartHealth,
    SupportedLogPages,
};

use super::Checks;

pub(super) fn structures(checks: &mut Checks) {
    structure! {
        checks, IdentifyController, "struct nvme_id_ctrl", vid, ssvid, sn, mn, fr, rab, ieee, cmic, mdts, cntlid, ver,
        rtd3r, rtd3e, oaes, ctratt, rrls, rsvd102, cntrltype, fguid, crdt1, crdt2, crdt3, rsvd134, nvmsr, vwci, mec,
        oacs, acl, aerl, frmw, lpa, elpe, npss, avscc, apsta, wctemp, cctemp, mtfa, hmpre, hmmin, tnvmcap, unvmcap,
        rpmbs, edstt, dsto, fwug, kas, hctma, mntmt, mxtmt, sanicap, hmminds, hmmaxd, nsetidmax, endgidmax, anatt,
        anacap, anagrpmax, nanagrpid, pels, domain_id = domainid, rsvd358, megcap, rsvd384, sqes, cqes, maxcmd, nn,
        oncs, fuses, fna, vwc, awun, awupf, icsvscc, nwpc, acwu, cdfs = ocfs, sgls, mnan, maxdna, maxcna, rsvd564,
        subnqn, rsvd1024, ioccsz, iorcsz, icdoff, fcatt, msdbd, ofcs, dctype, rsvd1807, psd, vs
    }
    structure! {
        checks, PowerStateDescriptor, "struct nvme_id_psd", mp, rsvd2, flags, enlat, exlat, rrt, rrl, rwt, rwl, idlp,
        ips, rsvd19, actp, apws, rsvd23
    }
    // libnvme puts LBSTM, which belongs to CNS 05h, where the specification has vendor specific bytes.
    structure! {
        checks, IdentifyNamespace, "struct nvme_id_ns", nsze, ncap, nuse, nsfeat, nlbaf, flbas, mc, dpc, dps, nmic,
        rescap, fpi, dlfeat, nawun, nawupf, nacwu, nabsn, nabo, nabspf, noiob, nvmcap, npwg, npwa, npdg, npda, nows,
        mssrl, mcl, msrc, rsvd81, nulbaf, rsvd83, anagrpid, rsvd96, nsattr, nvmsetid, endgid, nguid, eui64, lbaf
    }
    structure! { checks, LbaFormat, "struct nvme_lbaf", ms, lbads = ds, rp }
    structure! {
        checks, IdentifyNamespaceIndependent, "struct nvme_id_independent_id_ns", nsfeat, nmic, rescap, fpi, anagrpid,
        nsattr, rsvd9, nvmsetid, endgid, nstat, rsvd15
    }
    structure! {
        checks, IdentifyControllerNvm, "struct nvme_id_ctrl_nvm", vsl, wzsl, wusl, dmrl, dmrsl, dmsl, rsvd16
    }
    structure! { checks, IdentifyNamespaceNvm, "struct nvme_nvm_id_ns", lbstm, pic, rsvd9, elbaf, rsvd268 }
    structure! { checks, IdentifyIocs, "struct nvme_id_iocs", vectors = iocsc }
    structure! { checks, NsList, "struct nvme_ns_list", nsids = ns }
    structure! { checks, HostBehavior, "struct nvme_feat_host_behavior", acre }
    structure! { checks, DsmRange, "struct nvme_dsm_range", cattr, nlb, slba }
    structure! {
        checks, ConnectData, "struct nvmf_connect_data", hostid, cntlid, rsvd18 = rsvd4, subnqn = subsysnqn, hostnqn,
        rsvd768 = rsvd5
    }
}

pub(super) fn log_pages(checks: &mut Checks) {
    structure! {
        checks, ErrorInformation, "struct nvme_error_log_page", error_count, sqid, cid = cmdid, status_field,
        parameter_error_location = parm_error_location, lba, nsid, vendor_log_page = vs, trtype, rsvd30 = rsvd,
        command_specific = cs, transport_specific = trtype_spec_info, rsvd42 = rsvd2
    }
    structure! {
        checks, SmartHealth, "struct nvme_smart_log", critical_warning, composite_temperature = temperature,
        available_spare = avail_spare, available_spare_threshold = spare_thresh, percentage_used = percent_used,
        endurance_group_warning = endu_grp_crit_warn_sumry, rsvd7, data_units_read, data_units_written,
        host_read_commands = host_reads, host_write_commands = host_writes, controller_busy_time = ctrl_busy_time,
        power_cycles, power_on_hours, unsafe_shutdowns, media_errors, error_log_entries = num_err_log_entries,
        warning_temperature_time = warning_temp_time, critical_temperature_time = critical_comp_time,
        temperature_sensor = temp_sensor, thermal_1_transitions = thm_temp1_trans_count,
        thermal_2_transitions = thm_temp2_trans_count, thermal_1_time = thm_temp1_total_time,
        thermal_2_time = thm_temp2_total_time, rsvd232
    }
    structure! { checks, FirmwareSlot, "struct nvme_firmware_slot", afi, rsvd1, frs, rsvd64 = rsvd2 }
    structure! { checks, CommandsSupported, "struct nvme_cmd_effects_log", acs, iocs, rsvd2048 = rsvd }
    structure! { checks, SupportedLogPages, "struct nvme_supported_log_pages", lids = lid_support }
    structure! { checks, DiscoveryHeader, "struct nvmf_discovery_log", genctr, numrec, recfmt, rsvd18 = rsvd14 }
    structure! {
        checks, DiscoveryEntry, "struct nvmf_disc_log_entry", trtype, adrfam, subtype, treq, portid, cntlid, asqsz,
        eflags, rsvd12, trsvcid, rsvd64, subnqn, traddr, tsas
    }
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

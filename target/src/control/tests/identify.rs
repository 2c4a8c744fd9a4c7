//! Identify beside what Linux asks for: other hosts, other structures, and what does not exist.

use kvof_kv::{IdentifyKvNamespace, KvLimits};
use kvof_spec::{
    Csi,
    identify::{
        ControllerType, IdentifyController, IdentifyIocs, IdentifyNamespace, IdentifyNamespaceIndependent, IocsVector,
        NsList, Oaes, Oncs, Vwc,
    },
};

use super::*;

#[test]
fn kv_namespace_structures() {
    let rig = Rig::new();
    let mut host = rig.host();
    let ns = rig.target.namespaces().into_iter().find(|ns| ns.def.nsid == 1).unwrap();
    ns.state.usage.found(1, 12_345);
    let id: IdentifyKvNamespace = host.identify_as(Cns::IOCS_NAMESPACE, 1, Csi::KV).unwrap();
    assert_eq!(id.limits(), KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 1000, novg: 4096 });
    assert_eq!((id.nsze.get(), id.nuse.get(), id.nkvf, id.nmic), (1 << 30, 12_345, 0, 1));
    assert_eq!(id.nguid, ns.def.nguid);
    // Hosts that only know the NVM structure take a namespace without capacity for an inactive one.
    let id: IdentifyNamespace = host.identify_as(Cns::NAMESPACE, 1, Csi::NVM).unwrap();
    assert_eq!((id.nsze.get(), id.ncap.get(), id.nuse.get()), (1 << 21, 1 << 21, 25));
    assert_eq!(id.block_size(), Some(512));
    // No revision of the command set is claimed.
    assert_eq!(host.identify(IdentifyCmd::new(Cns::IOCS_CONTROLLER, 0, Csi::KV)), Ok(vec![0; 4096]));
}

#[test]
fn lists() {
    let rig = Rig::new();
    let mut host = rig.host();
    let mut list =
        |cns, after, csi| host.identify_as::<NsList>(cns, after, csi).map(|list| list.iter().collect::<Vec<_>>());
    assert_eq!(list(Cns::ACTIVE_NAMESPACES, 1, Csi::NVM), Ok(vec![2, 9]));
    assert_eq!(list(Cns::ACTIVE_NAMESPACES, 9, Csi::NVM), Ok(vec![]));
    assert_eq!(list(Cns::IOCS_ACTIVE_NAMESPACES, 0, Csi::KV), Ok(vec![1, 9]));
    assert_eq!(list(Cns::IOCS_ACTIVE_NAMESPACES, 0, Csi::NVM), Ok(vec![2]));
    assert_eq!(list(Cns::IOCS_ACTIVE_NAMESPACES, 0, Csi::ZNS), Err(Status::INVALID_FIELD));
    for nsid in [0xffff_fffe, 0xffff_ffff] {
        for cns in [Cns::ACTIVE_NAMESPACES, Cns::IOCS_ACTIVE_NAMESPACES] {
            assert_eq!(list(cns, nsid, Csi::KV), Err(Status::INVALID_NAMESPACE_OR_FORMAT));
        }
    }
    let mut blocks_only = rig.admin_as(HOST, SUBSYSTEM, 0).unwrap();
    blocks_only.enable(CC_ENABLE_NVM);
    let list: NsList = blocks_only.identify_as(Cns::ACTIVE_NAMESPACES, 0, Csi::NVM).unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), [2]);
}

#[test]
fn namespaces_that_are_not_there() {
    let rig = Rig::new();
    let mut host = rig.host();
    let per_namespace = [
        (Cns::NAMESPACE, Csi::NVM),
        (Cns::IOCS_NAMESPACE, Csi::KV),
        (Cns::IOCS_NAMESPACE, Csi::NVM),
        (Cns::IOCS_INDEPENDENT_NAMESPACE, Csi::NVM),
    ];
    for (cns, csi) in per_namespace {
        assert_eq!(host.identify(IdentifyCmd::new(cns, 5, csi)), Ok(vec![0; 4096]), "{cns}: inactive");
        for nsid in [0, 1025, 0xffff_ffff] {
            let invalid = host.identify(IdentifyCmd::new(cns, nsid, csi));
            assert_eq!(invalid, Err(Status::INVALID_NAMESPACE_OR_FORMAT), "{cns}, NSID {nsid:#x}");
        }
    }
    for nsid in [0, 5, 1025, 0xffff_ffff] {
        let descriptors = host.identify(IdentifyCmd::new(Cns::NAMESPACE_DESCRIPTORS, nsid, Csi::NVM));
        assert_eq!(descriptors, Err(Status::INVALID_NAMESPACE_OR_FORMAT));
    }
    let independent: IdentifyNamespaceIndependent =
        host.identify_as(Cns::IOCS_INDEPENDENT_NAMESPACE, 2, Csi::NVM).unwrap();
    assert!(!independent.nstat().is_empty());
}

#[test]
fn command_sets() {
    let rig = Rig::new();
    let mut host = rig.host();
    let identify = |cns, nsid, csi| IdentifyCmd::new(cns, nsid, csi);
    // A host that finds CSI 2 here goes on to demand more of it.
    assert_eq!(host.identify(identify(Cns::IOCS_CONTROLLER, 0, Csi::ZNS)), Err(Status::INVALID_FIELD));
    assert_eq!(host.identify(identify(Cns::IOCS_NAMESPACE, 1, Csi::ZNS)), Err(Status::INVALID_FIELD));
    assert_eq!(host.identify(identify(Cns::IOCS_NAMESPACE, 1, Csi::NVM)), Err(Status::INVALID_IOCS));
    assert_eq!(host.identify(identify(Cns::IOCS_NAMESPACE, 2, Csi::KV)), Err(Status::INVALID_IOCS));
    let cntlid = host.admin.cntlid();
    for (cntid, ok) in [(0xffff, true), (cntlid, true), (cntlid + 1, false)] {
        let cmd = IdentifyCmd { cntid: cntid.into(), ..identify(Cns::IO_COMMAND_SETS, 0, Csi::NVM) };
        let vectors =
            host.identify(cmd).map(|data| IdentifyIocs::read_from_bytes(&data).unwrap().iter().collect::<Vec<_>>());
        assert_eq!(vectors, if ok { Ok(vec![IocsVector::NVM | IocsVector::KV]) } else { Err(Status::INVALID_FIELD) });
    }
}

#[test]
fn everything_else_is_an_invalid_field() {
    let rig = Rig::new();
    let known = [0, 1, 2, 3, 5, 6, 7, 8, 0x1c];
    let mut host = rig.host();
    let mut discovery = rig.discovery(HOST, 0);
    for cns in 0..=u8::MAX {
        let cmd = IdentifyCmd { cntid: 0xffff.into(), ..IdentifyCmd::new(Cns(cns), 1, Csi::KV) };
        let status = host.status(cmd, 4096);
        assert_eq!(status, if known.contains(&cns) { status } else { Status::INVALID_FIELD }, "CNS {cns:#x}");
        assert_eq!(discovery.status(cmd, 4096), if cns == 1 { Status::SUCCESS } else { Status::INVALID_FIELD });
        let short = host.status(cmd, 4095);
        assert!(!short.is_success(), "no structure fits 4095 bytes");
    }
}

#[test]
fn discovery_controller() {
    let rig = Rig::new();
    let mut host = rig.discovery(HOST, 0);
    let id: IdentifyController = host.identify_as(Cns::CONTROLLER, 0, Csi::NVM).unwrap();
    assert_eq!(id.cntrltype(), ControllerType::DISCOVERY);
    assert_eq!(id.oaes(), Oaes::DISCOVERY_LOG_CHANGE);
    assert!(id.subnqn().unwrap().is_discovery());
    assert_eq!((id.nn.get(), id.oncs.get(), id.oacs.get(), id.vwc), (0, 0, 0, 0));
    assert!(id.kas.get() != 0 && id.maxcmd.get() >= 32 && id.ioccsz.get() >= 4);
    assert_eq!(id.cntlid.get(), host.admin.cntlid());
}

#[test]
fn a_write_cache_is_told_of_where_there_is_one() {
    let file = StorageDef::File { path: "/nonexistent/blocks".into() };
    for (storage, vwc) in [(StorageDef::Memory, Vwc::empty()), (file, Vwc::PRESENT | Vwc::FLUSH_ALL_UNSUPPORTED)] {
        let def = TargetDef {
            subsystems: vec![subsystem(SUBSYSTEM, vec![kv_namespace(1), nvm_namespace(70_000, storage)])],
            ..TargetDef::default()
        };
        let rig = Rig::with(def, TargetLimits { mdts: 3 << 20, ..TargetLimits::default() });
        let mut host = rig.host();
        let id: IdentifyController = host.identify_as(Cns::CONTROLLER, 0, Csi::NVM).unwrap();
        assert_eq!(id.vwc(), vwc);
        assert_eq!(id.nn.get(), 70_000);
        assert_eq!(id.transfer_max(4096), Some(2 << 20), "rounded down");
        assert!(id.oncs().contains(Oncs::WRITE_ZEROES | Oncs::COMPARE | Oncs::DATASET_MANAGEMENT));
        let cache = GetFeaturesCmd::new(FeatureId::VOLATILE_WRITE_CACHE, FeatureSelect::CURRENT);
        assert_eq!(host.status(cache, 0) == Status::SUCCESS, !vwc.is_empty());
    }
}

#[test]
fn two_paths_to_a_namespace_tell_the_same() {
    let rig = Rig::new();
    let (mut a, mut b) = (rig.host(), rig.host());
    for nsid in [1, 2, 9] {
        for cns in [Cns::NAMESPACE, Cns::NAMESPACE_DESCRIPTORS, Cns::IOCS_INDEPENDENT_NAMESPACE] {
            let cmd = IdentifyCmd::new(cns, nsid, Csi::NVM);
            assert_eq!(a.identify(cmd), b.identify(cmd));
        }
    }
    assert_ne!(a.admin.cntlid(), b.admin.cntlid());
}

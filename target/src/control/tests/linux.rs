//! The admin commands of a Linux host that connects, in its order, and everything it insists on in the answers.

use kvof_spec::{
    AdminOpcode, Cap, Csi, KvOpcode, Vs,
    feature::NumberOfQueues,
    identify::{
        Cmic, ControllerType, Ctratt, IdentifyController, IdentifyControllerNvm, IdentifyNamespace,
        IdentifyNamespaceIndependent, Lpa, NsDescriptor, NsDescriptorList, NsList, NsStatus, Oaes,
    },
    log::{CommandEffects, CommandsSupported, SmartHealth},
};

use super::*;

#[test]
fn connects_finds_its_namespaces_and_leaves() {
    let rig = Rig::new();
    // 1: Connect.
    let mut host = rig.admin_as(HOST, SUBSYSTEM, 5000).unwrap();
    let cntlid = host.admin.cntlid();
    // 2 to 7: properties, enable.
    let cap = Cap(host.get(Property::CAP));
    assert_eq!(cap.0 >> 43 & 1, 1, "several command sets");
    assert!(cap.mqes() >= 31);
    host.set(Property::CC, 0x0046_0060);
    assert_eq!(host.get(Property::CC), 0x0046_0060, "6.1 goes on with what it reads");
    assert_eq!(Cap(host.get(Property::CAP)), cap);
    assert_eq!(cap.crwms(), host.get(Property::CRTO) != 0);
    host.set(Property::CC, 0x0046_0061);
    assert!(host.csts().rdy());
    // 8
    assert!(Vs(u32::try_from(host.get(Property::VS)).unwrap()) >= Vs::V1_4);
    // 9: Identify Controller.
    let id: IdentifyController = host.identify_as(Cns::CONTROLLER, 0, Csi::NVM).unwrap();
    assert_eq!(id.cntlid.get(), cntlid);
    assert_ne!(id.kas.get(), 0);
    assert!(id.ioccsz.get() >= 4 && id.iorcsz.get() >= 1);
    assert_eq!(id.in_capsule_data_max(), 8192);
    assert_ne!(id.maxcmd.get(), 0);
    assert_eq!(id.icdoff.get(), 0);
    assert_eq!(id.subnqn().unwrap(), nqn(SUBSYSTEM));
    assert_ne!(id.sgls.get() & 3, 0);
    assert_eq!(id.transfer_max(cap.page_size_min()), Some(2 << 20));
    assert_eq!(id.cntrltype(), ControllerType::IO);
    assert!(id.lpa().contains(Lpa::COMMANDS_SUPPORTED | Lpa::EXTENDED_DATA));
    assert!(id.oaes().contains(Oaes::NAMESPACE_ATTRIBUTE));
    assert!(id.ctratt().contains(Ctratt::TBKAS));
    assert!(id.cmic().contains(Cmic::MULTI_CONTROLLER));
    assert_eq!((id.sqes, id.cqes), (0x66, 0x44));
    assert_eq!(id.serial_number().unwrap(), "S123");
    assert_eq!(id.model_number().unwrap(), "kvof test");
    assert!(id.ver() >= Vs::V1_4);
    // 10: effects.
    let effects = |csi| GetLogPageCmd::new(LogId::COMMANDS_SUPPORTED, 0, 0, 4096).unwrap().with_csi(csi);
    host.log(effects(Csi::NVM)).unwrap();
    // 16: SMART.
    let smart = GetLogPageCmd::new(LogId::SMART_HEALTH, 0xffff_ffff, 0, 512).unwrap();
    assert_eq!(SmartHealth::read_from_bytes(&host.log(smart).unwrap()).unwrap().critical_warning, 0);
    // 17
    assert_eq!(host.status(Sqe::new(AdminOpcode::KEEP_ALIVE), 0), Status::SUCCESS);
    // 18, 19: queues.
    let queues = host.set_feature(FeatureId::NUMBER_OF_QUEUES, NumberOfQueues::pairs(4).unwrap().0);
    assert_eq!(NumberOfQueues(queues.unwrap()).pair_count(), Some(4));
    let io: Vec<_> = (1..=4).map(|qid| rig.io_queue(&host, qid).unwrap()).collect();
    assert!(io.iter().all(|queue| queue.is_ready() && queue.cntlid() == cntlid));
    // 20: events.
    assert_eq!(host.set_feature(FeatureId::ASYNC_EVENT_CONFIGURATION, id.oaes.get() & 0x4000_0b00), Ok(0));
    assert_eq!(host.send(Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST), 0), AdminOutcome::Held);
    // 21 to 23: namespaces.
    host.identify_as::<IdentifyControllerNvm>(Cns::IOCS_CONTROLLER, 0, Csi::NVM).unwrap();
    let list: NsList = host.identify_as(Cns::ACTIVE_NAMESPACES, 0, Csi::NVM).unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 2, 9]);
    for nsid in list.iter() {
        let list: NsDescriptorList = host.identify_as(Cns::NAMESPACE_DESCRIPTORS, nsid, Csi::NVM).unwrap();
        let descriptors: Vec<_> = list.descriptors().map(Result::unwrap).collect();
        assert!(descriptors.iter().any(|d| matches!(d, NsDescriptor::Nguid(_))));
        assert!(descriptors.iter().any(|d| matches!(d, NsDescriptor::Uuid(_))));
        if nsid == 2 {
            assert!(descriptors.contains(&NsDescriptor::Csi(Csi::NVM)));
            let ns: IdentifyNamespace = host.identify_as(Cns::NAMESPACE, nsid, Csi::NVM).unwrap();
            assert_eq!((ns.nsze.get(), ns.block_size()), (4096, Some(4096)));
        } else {
            assert!(descriptors.contains(&NsDescriptor::Csi(Csi::KV)));
            let ns: IdentifyNamespaceIndependent =
                host.identify_as(Cns::IOCS_INDEPENDENT_NAMESPACE, nsid, Csi::NVM).unwrap();
            assert_eq!(ns.nstat(), NsStatus::READY);
            let effects = CommandsSupported::read_from_bytes(&host.log(effects(Csi::KV)).unwrap()).unwrap();
            assert_eq!(effects.io(KvOpcode::STORE).bits(), 3);
            assert_eq!(effects.io(KvOpcode::DELETE).bits(), 3);
            for reading in [KvOpcode::RETRIEVE, KvOpcode::LIST, KvOpcode::EXIST] {
                assert_eq!(effects.io(reading), CommandEffects::CSUPP);
            }
        }
    }
    // Leaving: shut down, wait for it, disconnect.
    host.set(Property::CC, 0x0046_4061);
    assert_eq!(host.csts().shst(), Csts::SHST_COMPLETE);
    assert!(io.iter().all(|queue| !queue.is_ready()));
    drop(host);
    assert!(io.iter().all(|queue| queue.must_close() == Some(CloseReason::AdminQueueGone)));
    drop(io);
    assert_eq!(rig.target.summary(), Summary { subsystems: 2, namespaces: 3, ..Summary::default() });
}

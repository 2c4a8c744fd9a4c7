//! What differs between NVMe/TCP and NVMe/RDMA.

use kvof_spec::{
    Cap, Csi,
    identify::{IdentifyController, Sgls},
    log::{DiscoveryEntry, RdmaTsas, SubsystemType, TransportType},
};

use super::*;

const CONNECT_CNTLID: u64 = 1 << 16 | 16;

/// A target with an RDMA port on every address, and one that only its own address reaches.
fn rig(limits: TargetLimits) -> Rig {
    let mut def = definition();
    let port = |portid, listen: &str| PortDef {
        portid,
        transport: TransportKind::Rdma,
        listen: listen.parse().unwrap(),
        advertise: None,
    };
    def.ports.extend([port(3, "0.0.0.0:4420"), port(4, "[2001:db8::7]:4421")]);
    def.referrals.push(ReferralDef {
        transport: TransportKind::Rdma,
        traddr: "198.51.100.2:8009".parse().unwrap(),
        portid: 78,
    });
    Rig::with(def, limits)
}

fn admin(rig: &Rig, kind: TransportKind, subnqn: &str, sqsize: u16) -> Result<Host, Reply> {
    let data = ConnectData::new(HOSTID, CNTLID_DYNAMIC, &nqn(subnqn), &nqn(HOST));
    let cmd = ConnectCmd::new(0, sqsize, 0).to_sqe();
    let connected = rig.target.connect(rig.now, &cmd, data.as_bytes(), &rig.transport_of(kind))?;
    let ConnectedQueue::Admin(admin) = connected.queue else { panic!("QID 0 is an admin queue") };
    Ok(Host { admin, now: rig.now, cid: 0 })
}

fn io_queue(rig: &Rig, kind: TransportKind, host: &Host, sqsize: u16) -> Result<Connected, Reply> {
    let data = ConnectData::new(HOSTID, host.admin.cntlid(), &nqn(SUBSYSTEM), &nqn(HOST));
    let cmd = ConnectCmd::new(1, sqsize, 0).to_sqe();
    rig.target.connect(rig.now, &cmd, data.as_bytes(), &rig.transport_of(kind))
}

#[test]
fn a_controller_says_what_its_transport_can() {
    for in_capsule in [0, 4096, 16 << 10] {
        let rdma = RdmaLimits { in_capsule, max_queue_size: 64, segments: 4 };
        let rig = rig(TargetLimits { in_capsule: 8192, rdma, ..TargetLimits::default() });
        let mut host = admin(&rig, TransportKind::Rdma, SUBSYSTEM, 31).unwrap();
        assert_eq!(Cap(host.get(Property::CAP)).mqes(), 63);
        host.enable(CC_ENABLE);
        let id: IdentifyController = host.identify_as(Cns::CONTROLLER, 0, Csi::NVM).unwrap();
        // The Linux host insists on keyed descriptors, ICDOFF 0, and sends data in capsules where bit 20 is set.
        let offset = if in_capsule > 0 { Sgls::OFFSET } else { Sgls::empty() };
        assert_eq!(id.sgls(), Sgls::SUPPORTED | Sgls::KEYED | offset);
        assert_eq!((id.ioccsz.get(), id.iorcsz.get(), id.icdoff.get()), ((64 + in_capsule) / 16, 1, 0));
        // Where there is no room for a list, there is none.
        assert_eq!((id.maxcmd.get(), id.msdbd), (64, if in_capsule > 0 { 4 } else { 1 }));

        let mut host = admin(&rig, TransportKind::Tcp, SUBSYSTEM, 31).unwrap();
        assert_eq!(Cap(host.get(Property::CAP)).mqes(), 1023);
        host.enable(CC_ENABLE);
        let id: IdentifyController = host.identify_as(Cns::CONTROLLER, 0, Csi::NVM).unwrap();
        assert_eq!(id.sgls(), Sgls::SUPPORTED | Sgls::OFFSET | Sgls::TRANSPORT);
        assert_eq!((id.ioccsz.get(), id.maxcmd.get(), id.msdbd), ((64 + 8192) / 16, 1024, 1));
    }
}

#[test]
fn queues_are_as_long_as_the_transport_lets_them() {
    let rdma = RdmaLimits { max_queue_size: 64, ..RdmaLimits::default() };
    let rig = rig(TargetLimits { rdma, ..TargetLimits::default() });
    assert!(admin(&rig, TransportKind::Tcp, SUBSYSTEM, 127).is_ok());
    let refused = admin(&rig, TransportKind::Rdma, SUBSYSTEM, 127).err().unwrap();
    assert_eq!((refused.status, refused.result), (Status::CONNECT_INVALID_PARAMETERS.with_dnr(), 44));
    for (kind, most) in [(TransportKind::Rdma, 63), (TransportKind::Tcp, 1023)] {
        let mut host = admin(&rig, kind, SUBSYSTEM, 31).unwrap();
        host.enable(CC_ENABLE);
        assert_eq!(io_queue(&rig, kind, &host, most + 1).unwrap_err().result, 44);
        assert_eq!(io_queue(&rig, kind, &host, most).unwrap().sqsize, most + 1);
    }
    // A limit for both is one for each.
    let small = TargetLimits { max_queue_size: 16, rdma, ..TargetLimits::default() };
    assert_eq!((small.queue_entries(TransportKind::Rdma), small.admin_entries(TransportKind::Rdma)), (16, 32));
}

#[test]
fn all_queues_of_a_controller_come_by_its_transport() {
    let rig = rig(TargetLimits::default());
    for (own, other) in [(TransportKind::Tcp, TransportKind::Rdma), (TransportKind::Rdma, TransportKind::Tcp)] {
        let mut host = admin(&rig, own, SUBSYSTEM, 31).unwrap();
        host.enable(CC_ENABLE);
        let refused = io_queue(&rig, other, &host, 31).unwrap_err();
        assert_eq!((refused.status, refused.result), (Status::CONNECT_INVALID_PARAMETERS.with_dnr(), CONNECT_CNTLID));
        assert!(io_queue(&rig, own, &host, 31).is_ok());
    }
}

#[test]
fn the_discovery_log_has_an_entry_for_each_transport() {
    let rig = rig(TargetLimits::default());
    for kind in [TransportKind::Tcp, TransportKind::Rdma] {
        let mut host = admin(&rig, kind, kvof_spec::nqn::DISCOVERY_NQN, 31).unwrap();
        host.enable(CC_ENABLE_NVM);
        let data = host.log(GetLogPageCmd::new(LogId::DISCOVERY, 0, 1024, 10 * 1024).unwrap()).unwrap();
        let entries = <[DiscoveryEntry]>::ref_from_bytes(&data).unwrap();
        let seen: Vec<_> = entries
            .iter()
            .map(|e| (e.trtype(), e.subtype(), e.socket_addr().unwrap().to_string(), e.asqsz.get()))
            .collect();
        let (tcp, rdma) = (TransportType::TCP, TransportType::RDMA);
        let mut expected = Vec::new();
        for subtype in [SubsystemType::CURRENT_DISCOVERY, SubsystemType::NVM] {
            expected.extend([
                (tcp, subtype, "192.0.2.1:4420".to_owned(), 1024),
                (tcp, subtype, "[2001:db8::2]:4421".to_owned(), 1024),
                // The address that the host came by, whatever the transport.
                (rdma, subtype, "192.0.2.1:4420".to_owned(), 128),
                (rdma, subtype, "[2001:db8::7]:4421".to_owned(), 128),
            ]);
        }
        expected.push((tcp, SubsystemType::REFERRAL, "198.51.100.1:8009".to_owned(), 1024));
        expected.push((rdma, SubsystemType::REFERRAL, "198.51.100.2:8009".to_owned(), 128));
        assert_eq!(seen, expected);
        for entry in entries {
            let tsas = RdmaTsas::read_from_bytes(&entry.tsas).unwrap();
            let wanted = if entry.trtype() == rdma { RdmaTsas::roce_v2() } else { RdmaTsas::zeroed() };
            assert_eq!(tsas, wanted);
        }
    }
}

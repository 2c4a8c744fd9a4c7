//! Bytes written down by hand from the specification's tables, against what this crate reads and writes.

use kvof_spec::aen::AsyncEvent;
use kvof_spec::fabrics::{
    AuthCmd, ConnectAttributes, ConnectCmd, ConnectData, ConnectError, ConnectResult, DisconnectCmd, PropertyGetCmd,
    PropertySetCmd,
};
use kvof_spec::feature::{FeatureId, FeatureSelect, GetFeaturesCmd, KvConfiguration, NumberOfQueues, SetFeaturesCmd};
use kvof_spec::identify::{
    Cns, IdentifyCmd, IdentifyController, IdentifyNamespaceIndependent, IocsVector, NsDescriptor, NsDescriptorList,
    NsStatus, Oaes, Sgls,
};
use kvof_spec::io::{DsmAttributes, DsmCmd, RwCmd, RwFlags};
use kvof_spec::log::{
    AddressFamily, DiscoveryEntry, DiscoveryHeader, GetLogPageCmd, LogId, PoolFlags, PoolMemberState, PoolStatistics,
    SubsystemType, TcpSecurityType, TransportRequirements, TransportType,
};
use kvof_spec::sgl::{Sgl, SglDescriptor};
use kvof_spec::{Cqe, Csi, FabricsType, FromBytes, IntoBytes, KvOpcode, Nqn, NvmOpcode, Property, Sqe, Status, Vs};

/// A 64-byte command: zero but for the bytes at these offsets.
fn command(parts: &[(usize, &[u8])]) -> [u8; 64] {
    image(parts)
}

fn image<const N: usize>(parts: &[(usize, &[u8])]) -> [u8; N] {
    let mut bytes = [0; N];
    for (at, part) in parts {
        bytes[*at..*at + part.len()].copy_from_slice(part);
    }
    bytes
}

#[test]
fn store_command_with_a_key_in_two_halves() {
    // Store of 5 bytes under "abcdefghij" in namespace 1, command 0x0102, data in the capsule.
    let bytes = command(&[
        (0, &[0x01, 0x40, 0x02, 0x01]),
        (4, &[1, 0, 0, 0]),
        (8, b"abcdefgh"),
        (32, &[5, 0, 0, 0]),
        (39, &[0x01]),
        (40, &[5, 0, 0, 0]),
        (44, &[10]),
        (56, b"ij"),
    ]);
    let sqe = Sqe::from_bytes(&bytes);
    assert_eq!((KvOpcode(sqe.opcode), sqe.psdt(), sqe.fuse()), (KvOpcode::STORE, 1, 0));
    assert_eq!((sqe.cid.get(), sqe.nsid.get()), (0x0102, 1));
    assert_eq!((sqe.cdw2.get(), sqe.cdw3.get()), (0x6463_6261, 0x6867_6665));
    assert_eq!(sqe.sgl1.decode(), Sgl::InCapsule { offset: 0, length: 5 });
    assert_eq!((sqe.cdw10.get(), sqe.cdw11.get(), sqe.cdw14.get()), (5, 10, 0x6a69));
    assert_eq!(sqe.to_bytes(), bytes);
}

#[test]
fn key_value_codes() {
    let opcodes = [KvOpcode::STORE, KvOpcode::RETRIEVE, KvOpcode::LIST, KvOpcode::DELETE, KvOpcode::EXIST];
    assert_eq!(opcodes.map(|o| o.0), [0x01, 0x02, 0x06, 0x10, 0x14]);
    let statuses = [
        Status::CAPACITY_EXCEEDED,
        Status::INVALID_VALUE_SIZE,
        Status::INVALID_KEY_SIZE,
        Status::KEY_DOES_NOT_EXIST,
        Status::UNRECOVERED_ERROR,
        Status::KEY_EXISTS,
    ];
    assert_eq!(statuses.map(|s| s.0), [0x81, 0x85, 0x86, 0x87, 0x88, 0x89]);
    assert_eq!(FeatureId::KEY_VALUE_CONFIGURATION.0, 0x20);
    assert!(KvConfiguration(1).ednek() && !KvConfiguration(0xffff_fffe).ednek());
}

#[test]
fn completion_of_a_missing_key() {
    let bytes = [0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55, 0x0a, 0x0b, 0, 0, 0x02, 0x01, 0x0e, 0x81];
    let cqe = Cqe::from_bytes(&bytes);
    assert_eq!(cqe.status(), Status::KEY_DOES_NOT_EXIST.with_dnr());
    assert_eq!((cqe.cid.get(), cqe.sqhd.get(), cqe.sqid.get()), (0x0102, 0x0b0a, 0));
    assert_eq!(cqe.result(), 0x5566_7788_1122_3344);
    let mut built = Cqe::new(0x0102, Status::KEY_DOES_NOT_EXIST.with_dnr()).with_result(0x5566_7788_1122_3344);
    built.sqhd = 0x0b0a.into();
    assert_eq!(built.to_bytes(), bytes);
}

#[test]
fn sgl_descriptors() {
    let transport = [0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x10, 0, 0, 0, 0, 0, 0x5a];
    assert_eq!(SglDescriptor::transport_data(4096).as_bytes(), transport);
    let in_capsule = [8, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x02, 0, 0, 0, 0, 0, 0x01];
    assert_eq!(SglDescriptor::in_capsule(8, 512).as_bytes(), in_capsule);
    let keyed = [0, 0, 0, 0, 1, 0, 0, 0, 0x00, 0x10, 0x00, 0xdd, 0xcc, 0xbb, 0xaa, 0x40];
    assert_eq!(SglDescriptor::keyed(1 << 32, 4096, 0xaabb_ccdd, false).unwrap().as_bytes(), keyed);
    let segment = SglDescriptor::read_from_bytes(&[0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0x31]).unwrap();
    assert_eq!(segment.decode(), Sgl::LastSegmentOffset { offset: 0, length: 32 });
}

#[test]
fn connect_command() {
    let bytes = command(&[
        (0, &[0x7f, 0x40, 0x34, 0x12, 0x01]),
        (32, &[0x00, 0x04]),
        (39, &[0x01]),
        (42, &[3, 0]),
        (44, &[127, 0]),
        (46, &[0x04]),
        (48, &[0x98, 0x3a, 0, 0]),
    ]);
    let cmd = ConnectCmd::from_sqe(&Sqe::from_bytes(&bytes));
    assert_eq!(FabricsType(cmd.head.fctype), FabricsType::CONNECT);
    assert_eq!((cmd.recfmt.get(), cmd.qid.get(), cmd.sqsize.get(), cmd.kato.get()), (0, 3, 127, 15_000));
    assert_eq!(cmd.cattr(), ConnectAttributes::DISABLE_SQ_FLOW_CONTROL);
    let mut built = ConnectCmd::new(3, 127, 15_000);
    built.head.cid = 0x1234.into();
    built.head.sgl1 = SglDescriptor::in_capsule(0, 1024);
    built.cattr = ConnectAttributes::DISABLE_SQ_FLOW_CONTROL.bits();
    assert_eq!(built.to_sqe().to_bytes(), bytes);
}

#[test]
fn connect_data_and_results() {
    let (subnqn, hostnqn) = ("nqn.2024-01.com.example:kv", "nqn.2024-01.com.example:host");
    let bytes: [u8; 1024] =
        image(&[(0, &[0xaa; 16]), (16, &[0xff, 0xff]), (256, subnqn.as_bytes()), (512, hostnqn.as_bytes())]);
    let data = ConnectData::new([0xaa; 16], 0xffff, &subnqn.parse().unwrap(), &hostnqn.parse().unwrap());
    assert_eq!(data.as_bytes(), bytes);
    let read = ConnectData::read_from_bytes(&bytes).unwrap();
    assert_eq!(Nqn::from_field(&read.hostnqn).unwrap().as_str(), hostnqn);

    assert_eq!(ConnectResult(0x0006_0102).cntlid(), 0x0102);
    assert!(ConnectResult(0x0006_0102).atr() && ConnectResult(0x0006_0102).ascr());
    assert!(!ConnectResult(0x0001_0102).atr() && !ConnectResult(0x0001_0102).ascr());
    assert_eq!(ConnectError::data(16).0.to_le_bytes(), [16, 0, 1, 0]);
    assert_eq!(ConnectError::command(42).0.to_le_bytes(), [42, 0, 0, 0]);
}

#[test]
fn property_commands() {
    let get_cap = command(&[(0, &[0x7f, 0x40, 0, 0, 0x04]), (40, &[1])]);
    assert_eq!(PropertyGetCmd::new(Property::CAP).unwrap().to_sqe().to_bytes(), get_cap);
    let get_csts = command(&[(0, &[0x7f, 0x40, 0, 0, 0x04]), (44, &[0x1c])]);
    assert_eq!(PropertyGetCmd::new(Property::CSTS).unwrap().to_sqe().to_bytes(), get_csts);
    let set_cc = command(&[(0, &[0x7f, 0x40, 0, 0, 0x00]), (44, &[0x14]), (48, &[0x61, 0x00, 0x46, 0x00])]);
    assert_eq!(PropertySetCmd::new(Property::CC, 0x0046_0061).unwrap().to_sqe().to_bytes(), set_cc);
    let set = PropertySetCmd::from_sqe(&Sqe::from_bytes(&set_cc));
    assert_eq!((set.property(), set.size(), set.value.get()), (Property::CC, Some(4), 0x0046_0061));
}

#[test]
fn disconnect_and_authentication() {
    assert_eq!(DisconnectCmd::new().to_sqe().to_bytes(), command(&[(0, &[0x7f, 0x40, 0, 0, 0x08])]));
    let send = command(&[(0, &[0x7f, 0x40, 0, 0, 0x05]), (41, &[1, 1, 0xe9]), (44, &[0x00, 0x01, 0, 0])]);
    assert_eq!(AuthCmd::new(FabricsType::AUTH_SEND, 256).to_sqe().to_bytes(), send);
}

#[test]
fn identify_command() {
    let bytes = command(&[(0, &[0x06, 0x40]), (4, &[1]), (40, &[0x05]), (47, &[0x01])]);
    assert_eq!(IdentifyCmd::new(Cns::IOCS_NAMESPACE, 1, Csi::KV).to_sqe().to_bytes(), bytes);
}

#[test]
fn identify_controller_fields_that_hosts_insist_on() {
    let mut id = IdentifyController::zeroed();
    id.set_names("SN0001", "kvof", "0.1.0").unwrap();
    id.mdts = 8;
    id.cntlid = 0x0102.into();
    id.ver = Vs::V2_0.0.into();
    id.oaes = (Oaes::NAMESPACE_ATTRIBUTE | Oaes::DISCOVERY_LOG_CHANGE).bits().into();
    id.cntrltype = 1;
    id.kas = 10.into();
    id.sqes = 0x66;
    id.cqes = 0x44;
    id.maxcmd = 128.into();
    id.nn = 255.into();
    id.sgls = (Sgls::SUPPORTED | Sgls::OFFSET | Sgls::TRANSPORT).bits().into();
    id.subnqn = Nqn::discovery().to_field();
    id.ioccsz = 4.into();
    id.iorcsz = 1.into();
    id.msdbd = 1;
    let bytes: [u8; 4096] = image(&[
        (4, b"SN0001              "),
        (24, b"kvof                                    "),
        (64, b"0.1.0   "),
        (77, &[8, 0x02, 0x01]),
        (80, &[0, 0, 2, 0]),
        (92, &[0x00, 0x01, 0x00, 0x80]),
        (111, &[1]),
        (320, &[10, 0]),
        (512, &[0x66, 0x44, 128, 0, 255, 0, 0, 0]),
        (536, &[0x01, 0x00, 0x30, 0x00]),
        (768, b"nqn.2014-08.org.nvmexpress.discovery"),
        (1792, &[4, 0, 0, 0, 1, 0, 0, 0]),
        (1803, &[1]),
    ]);
    assert_eq!(id.as_bytes(), bytes);
    assert!(id.subnqn().unwrap().is_discovery());
    let shown = format!("{id:?}");
    assert!(shown.contains("sn: \"SN0001\"") && shown.contains("ver: 2.0.0"), "{shown}");
}

#[test]
fn namespace_structures() {
    let mut id = IdentifyNamespaceIndependent::zeroed();
    id.nmic = 1;
    id.nstat = NsStatus::READY.bits();
    assert_eq!(id.as_bytes(), image::<4096>(&[(1, &[1]), (14, &[1])]));
    let uuid = [0x11; 16];
    let list = NsDescriptorList::new([NsDescriptor::Uuid(uuid), NsDescriptor::Csi(Csi::KV)]).unwrap();
    let bytes = image::<4096>(&[(0, &[3, 16, 0, 0]), (4, &uuid), (20, &[4, 1, 0, 0, 1])]);
    assert_eq!(list.as_bytes(), bytes);
    assert_eq!(IocsVector::KV.bits(), 2);
}

#[test]
fn log_page_command() {
    // Discovery log page, bytes 0x400 to 0xbff, retained event.
    let bytes = command(&[(0, &[0x02, 0x40]), (40, &[0x70, 0x80, 0xff, 0x01]), (48, &[0x00, 0x04])]);
    assert_eq!(
        GetLogPageCmd::new(LogId::DISCOVERY, 0, 0x400, 0x800).unwrap().with_rae(true).to_sqe().to_bytes(),
        bytes
    );
    // A length whose dword count needs the upper half.
    let bytes = command(&[(0, &[0x02, 0x40]), (40, &[0x05, 0x00, 0xff, 0xff, 0x01, 0x00]), (59, &[1])]);
    let cmd = GetLogPageCmd::from_sqe(&Sqe::from_bytes(&bytes));
    assert_eq!((cmd.length(), cmd.csi(), cmd.rae()), (0x80000, Csi::KV, false));
}

#[test]
fn discovery_log_page() {
    assert_eq!(
        DiscoveryHeader::new(7, 2).as_bytes(),
        image::<1024>(&[(0, &[7, 0, 0, 0, 0, 0, 0, 0]), (8, &[2, 0, 0, 0, 0, 0, 0, 0])])
    );
    let mut port = [b' '; 32];
    port[..4].copy_from_slice(b"4420");
    let mut address = [b' '; 256];
    address[..11].copy_from_slice(b"192.0.2.200");
    let nqn = "nqn.2024-01.com.example:kv";
    let bytes: [u8; 1024] = image(&[
        (0, &[3, 1, 2, 2]),
        (4, &[5, 0]),
        (6, &[0xff, 0xff]),
        (8, &[32, 0]),
        (32, &port),
        (256, nqn.as_bytes()),
        (512, &address),
    ]);
    let built = DiscoveryEntry::ip(
        TransportType::TCP,
        SubsystemType::NVM,
        &nqn.parse().unwrap(),
        "192.0.2.200:4420".parse().unwrap(),
        5,
    );
    assert_eq!(built.as_bytes(), bytes);
    // As Linux's target writes it: NUL padding.
    let bytes: [u8; 1024] = image(&[
        (0, &[3, 2, 3, 0x06]),
        (32, b"8009"),
        (256, b"nqn.2014-08.org.nvmexpress.discovery"),
        (512, b"2001:db8::7"),
        (768, &[2]),
    ]);
    let entry = DiscoveryEntry::read_from_bytes(&bytes).unwrap();
    assert_eq!(entry.socket_addr().unwrap(), "[2001:db8::7]:8009".parse().unwrap());
    assert_eq!((entry.adrfam(), entry.subtype()), (AddressFamily::IPV6, SubsystemType::CURRENT_DISCOVERY));
    assert_eq!(entry.tcp_security(), Some(TcpSecurityType::TLS_1_3));
    assert!(entry.treq().contains(TransportRequirements::DISABLE_SQ_FLOW_CONTROL));
    assert!(entry.subnqn().unwrap().is_discovery());
}

#[test]
fn features_and_events() {
    let queues = NumberOfQueues::pairs(8).unwrap().0;
    let bytes = command(&[(0, &[0x09, 0x40]), (40, &[0x07]), (44, &[7, 0, 7, 0])]);
    assert_eq!(SetFeaturesCmd::new(FeatureId::NUMBER_OF_QUEUES, queues).to_sqe().to_bytes(), bytes);
    let bytes = command(&[(0, &[0x0a, 0x40]), (40, &[0x0f, 0x01])]);
    assert_eq!(GetFeaturesCmd::new(FeatureId::KEEP_ALIVE_TIMER, FeatureSelect::DEFAULT).to_sqe().to_bytes(), bytes);
    assert_eq!(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.0.to_le_bytes(), [0x02, 0x00, 0x04, 0x00]);
    assert_eq!(AsyncEvent::DISCOVERY_LOG_CHANGED.0.to_le_bytes(), [0x02, 0xf0, 0x70, 0x00]);
}

#[test]
fn block_commands() {
    let mut write = RwCmd::new(NvmOpcode::WRITE, 2, 0x0000_0001_0000_0080, 8).unwrap();
    write.control = (RwFlags::FUA | RwFlags::LR).bits().into();
    let bytes =
        command(&[(0, &[0x01, 0x40]), (4, &[2]), (40, &[0x80, 0, 0, 0, 1, 0, 0, 0]), (48, &[7, 0, 0x00, 0xc0])]);
    assert_eq!(write.to_sqe().to_bytes(), bytes);
    let trim = DsmCmd::new(2, 3, DsmAttributes::AD).unwrap();
    let bytes = command(&[(0, &[0x09, 0x40]), (4, &[2]), (40, &[2]), (44, &[4])]);
    assert_eq!(trim.to_sqe().to_bytes(), bytes);
}

#[test]
fn pool_statistics() {
    let bytes: [u8; 1024] = image(&[
        (0, b"kvofPool"),
        (8, &[2, 0, 2, 0]),
        (12, &[0x05, 0, 0, 0]),
        (16, &[0xaa; 16]),
        (32, &[1, 1, 3, 0]),
        (40, b"flash"),
        (104, &[0, 0, 0, 0, 1]),
        (120, &[0x10, 0x27]),
        (160, &[100]),
        (168, &[200]),
        (256, &[3]),
        (264, &[16]),
        (296, &[7]),
        (304, &[9]),
        (376, &[11]),
        (384, &[1]),
        (392, &[3, 0, 0, 0, 0x34, 0x12]),
        (896, &[12]),
        (904, &[13]),
    ]);
    let page = PoolStatistics::from_bytes(&bytes).unwrap();
    assert_eq!((page.name(), page.members.get(), page.shards.get()), ("flash", 2, 3));
    assert_eq!(page.flags(), PoolFlags::DEGRADED | PoolFlags::REBUILD);
    assert_eq!((page.capacity.get(), page.keys.get()), (1 << 32, 10_000));
    assert_eq!((page.stored_bytes.get(), page.written_bytes.get()), (100, 200));
    assert_eq!((page.version.get(), PoolStatistics::VERSION), (2, 2));
    assert_eq!(
        (page.retrieved_bytes.get(), page.store_copied_bytes.get(), page.retrieve_copied_bytes.get()),
        (11, 12, 13)
    );
    assert_eq!((page.rebuild_done.get(), page.rebuild_of.get()), (3, 16));
    assert_eq!((page.tier_hits.get(), page.tier_misses.get()), (7, 9));
    let members: Vec<_> = page.member_states().map(|member| (member.state(), member.rebuilt.get())).collect();
    assert_eq!(members, [(PoolMemberState::LIVE, 0), (PoolMemberState::REBUILDING, 0x1234)]);
    assert_eq!(page.as_bytes(), bytes);
    assert_eq!(LogId::POOL_STATISTICS.0, 0xc0);
}

//! Every structure keeps every byte, can be printed whatever it holds, and reads back what its builders wrote.

use std::fmt::Debug;

use kvof_spec::abort::AbortCmd;
use kvof_spec::aen::{AsyncEvent, AsyncEventType};
use kvof_spec::fabrics::{
    AuthCmd, ConnectCmd, ConnectData, ConnectError, ConnectResult, DisconnectCmd, FabricsHead, PropertyGetCmd,
    PropertySetCmd, fabrics_type,
};
use kvof_spec::feature::{
    FeatureId, FeatureSelect, GetFeaturesCmd, HostBehavior, NumberOfQueues, SetFeaturesCmd, Timestamp,
};
use kvof_spec::identify::{
    Cns, IdentifyCmd, IdentifyController, IdentifyControllerNvm, IdentifyIocs, IdentifyNamespace,
    IdentifyNamespaceIndependent, IdentifyNamespaceNvm, LbaFormat, NsDescriptor, NsDescriptorList, NsDescriptors,
    NsIdType, NsList, PowerStateDescriptor,
};
use kvof_spec::io::{DsmCmd, DsmRange, RwCmd};
use kvof_spec::log::{
    ChangedNamespaceList, CommandsSupported, DiscoveryEntry, DiscoveryHeader, ErrorInformation, FirmwareSlot,
    GetLogPageCmd, LogId, PoolStatistics, RdmaTsas, SmartHealth, SubsystemType, SupportedLogPages, TransportType,
};
use kvof_spec::rdma::{CmAccept, CmReject, CmRequest, CmStatus};
use kvof_spec::sgl::{KEYED_LENGTH_MAX, Sgl, SglDescriptor};
use kvof_spec::tcp::{C2hData, CapsuleCmd, CapsuleResp, CommonHeader, H2cData, IcReq, IcResp, R2t, TermReq};
use kvof_spec::{
    Cap, Cc, CommandHead, Cqe, Csi, Csts, FabricsType, FromBytes, IntoBytes, Nqn, NvmOpcode, Property, Sqe, Status, Vs,
    text,
};
use proptest::prelude::*;
use zerocopy::Immutable;

/// Random bytes of the size of the largest structure.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 4096)
}

fn keeps_all_bytes<T: FromBytes + IntoBytes + Immutable + Debug>(bytes: &[u8]) {
    let bytes = &bytes[..size_of::<T>()];
    let value = T::read_from_bytes(bytes).unwrap();
    assert_eq!(value.as_bytes(), bytes, "{}", std::any::type_name::<T>());
    assert!(!format!("{value:?}").is_empty());
    assert!(T::read_from_bytes(&bytes[1..]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn structures_keep_all_bytes(b in bytes()) {
        keeps_all_bytes::<Sqe>(&b);
        keeps_all_bytes::<CommandHead>(&b);
        keeps_all_bytes::<FabricsHead>(&b);
        keeps_all_bytes::<Cqe>(&b);
        keeps_all_bytes::<SglDescriptor>(&b);
        keeps_all_bytes::<ConnectData>(&b);
        keeps_all_bytes::<HostBehavior>(&b);
        keeps_all_bytes::<Timestamp>(&b);
        keeps_all_bytes::<DsmRange>(&b);
        keeps_all_bytes::<CmRequest>(&b);
        keeps_all_bytes::<CmAccept>(&b);
        keeps_all_bytes::<CmReject>(&b);
        keeps_all_bytes::<IdentifyController>(&b);
        keeps_all_bytes::<IdentifyControllerNvm>(&b);
        keeps_all_bytes::<IdentifyNamespace>(&b);
        keeps_all_bytes::<IdentifyNamespaceNvm>(&b);
        keeps_all_bytes::<IdentifyNamespaceIndependent>(&b);
        keeps_all_bytes::<IdentifyIocs>(&b);
        keeps_all_bytes::<LbaFormat>(&b);
        keeps_all_bytes::<PowerStateDescriptor>(&b);
        keeps_all_bytes::<NsList>(&b);
        keeps_all_bytes::<NsDescriptorList>(&b);
        keeps_all_bytes::<ChangedNamespaceList>(&b);
        keeps_all_bytes::<CommandsSupported>(&b);
        keeps_all_bytes::<DiscoveryEntry>(&b);
        keeps_all_bytes::<DiscoveryHeader>(&b);
        keeps_all_bytes::<RdmaTsas>(&b);
        keeps_all_bytes::<ErrorInformation>(&b);
        keeps_all_bytes::<FirmwareSlot>(&b);
        keeps_all_bytes::<SmartHealth>(&b);
        keeps_all_bytes::<PoolStatistics>(&b);
        keeps_all_bytes::<SupportedLogPages>(&b);
        keeps_all_bytes::<CommonHeader>(&b);
        keeps_all_bytes::<IcReq>(&b);
        keeps_all_bytes::<IcResp>(&b);
        keeps_all_bytes::<TermReq>(&b);
        keeps_all_bytes::<CapsuleCmd>(&b);
        keeps_all_bytes::<CapsuleResp>(&b);
        keeps_all_bytes::<H2cData>(&b);
        keeps_all_bytes::<C2hData>(&b);
        keeps_all_bytes::<R2t>(&b);
    }

    #[test]
    fn hostile_structures_do_not_panic(b in bytes()) {
        let controller = IdentifyController::read_from_bytes(&b).unwrap();
        let _ = (controller.serial_number(), controller.model_number(), controller.firmware_revision());
        let _ = (controller.subnqn(), controller.in_capsule_data_max(), controller.transfer_max(4096));
        let namespace = IdentifyNamespace::read_from_bytes(&b).unwrap();
        let _ = (namespace.format(), namespace.block_size());
        let entry = DiscoveryEntry::read_from_prefix(&b).unwrap().0;
        let _ = (entry.socket_addr(), entry.subnqn(), entry.rdma(), entry.tcp_security());
        prop_assert!(NsDescriptors::new(&b).count() <= b.len() / 5 + 1);
        prop_assert!(NsList::read_from_bytes(&b).unwrap().iter().count() <= 1024);
        prop_assert!(IdentifyIocs::read_from_bytes(&b).unwrap().iter().count() <= 512);
        let _ = ChangedNamespaceList::read_from_bytes(&b).unwrap().overflowed();
    }
}

/// A command view is the queue entry, byte for byte, and can be printed.
macro_rules! views {
    ($sqe:expr; $($view:ty),* $(,)?) => {$({
        let view = <$view>::from_sqe(&$sqe);
        prop_assert_eq!(view.to_sqe(), $sqe);
        prop_assert_eq!(Sqe::from(view), $sqe);
        let shown = format!("{view:?}");
        prop_assert!(shown.starts_with(stringify!($view)));
    })*};
}

proptest! {
    #[test]
    fn command_views(b: [u8; 32], c: [u8; 32]) {
        let mut all = [0; 64];
        all[..32].copy_from_slice(&b);
        all[32..].copy_from_slice(&c);
        let sqe = Sqe::from_bytes(&all);
        prop_assert_eq!(sqe.to_bytes(), all);
        views!(
            sqe; ConnectCmd, PropertyGetCmd, PropertySetCmd, DisconnectCmd, AuthCmd, IdentifyCmd, GetLogPageCmd,
            SetFeaturesCmd, GetFeaturesCmd, AbortCmd, RwCmd, DsmCmd
        );
        prop_assert_eq!(fabrics_type(&sqe).is_some(), all[0] == 0x7f);
        prop_assert!((4..=1 << 34).contains(&GetLogPageCmd::from_sqe(&sqe).length()));
        prop_assert!((1..=65_536).contains(&RwCmd::from_sqe(&sqe).blocks()));
        prop_assert!((1..=256).contains(&DsmCmd::from_sqe(&sqe).ranges()));
    }

    #[test]
    fn connect(qid: u16, sqsize: u16, kato: u32, cntlid: u16, hostid: [u8; 16], ipo: u16, bits: [bool; 3]) {
        let cmd = ConnectCmd::from_sqe(&ConnectCmd::new(qid, sqsize, kato).to_sqe());
        prop_assert_eq!((cmd.qid.get(), cmd.sqsize.get(), cmd.kato.get(), cmd.recfmt.get()), (qid, sqsize, kato, 0));
        prop_assert_eq!(fabrics_type(&cmd.to_sqe()), Some(FabricsType::CONNECT));
        let (host, subsystem) = (Nqn::from_uuid(&hostid), Nqn::discovery());
        let data = ConnectData::read_from_bytes(ConnectData::new(hostid, cntlid, &subsystem, &host).as_bytes()).unwrap();
        prop_assert_eq!((data.hostid, data.cntlid.get()), (hostid, cntlid));
        prop_assert_eq!((Nqn::from_field(&data.subnqn), Nqn::from_field(&data.hostnqn)), (Ok(subsystem), Ok(host)));
        let result = ConnectResult::default().with_cntlid(cntlid).with_atr(bits[0]).with_ascr(bits[1]);
        prop_assert_eq!((result.cntlid(), result.atr(), result.ascr()), (cntlid, bits[0], bits[1]));
        let error = if bits[2] { ConnectError::data(ipo) } else { ConnectError::command(ipo) };
        prop_assert_eq!((error.ipo(), error.in_data()), (ipo, bits[2]));
    }

    #[test]
    fn admin_commands(nsid: u32, offset: u64, dwords in 1..=1_u64 << 32, codes: [u8; 3], value: u64, cid: u16) {
        let offset = offset & !3;
        let log = GetLogPageCmd::new(LogId(codes[0]), nsid, offset, dwords * 4).unwrap().with_csi(Csi(codes[1]));
        prop_assert_eq!((log.lid(), log.length(), log.lpo.get()), (LogId(codes[0]), dwords * 4, offset));
        prop_assert_eq!((log.csi(), log.head.nsid.get(), log.ot()), (Csi(codes[1]), nsid, false));
        prop_assert!(log.with_rae(true).rae() && log.with_rae(true).with_rae(false) == log);
        let identify = IdentifyCmd::new(Cns(codes[0]), nsid, Csi(codes[1]));
        prop_assert_eq!((identify.cns(), identify.csi(), identify.head.nsid.get()), (Cns(codes[0]), Csi(codes[1]), nsid));
        let set = SetFeaturesCmd::new(FeatureId(codes[2]), nsid);
        prop_assert_eq!((set.fid(), set.cdw11.get(), set.sv()), (FeatureId(codes[2]), nsid, false));
        let get = GetFeaturesCmd::new(FeatureId(codes[2]), FeatureSelect(codes[0] & 7));
        prop_assert_eq!((get.fid(), get.sel()), (FeatureId(codes[2]), FeatureSelect(codes[0] & 7)));
        for property in [Property::CAP, Property::VS, Property::CC, Property::CSTS, Property::NSSR, Property::CRTO] {
            let get = PropertyGetCmd::new(property).unwrap();
            prop_assert_eq!((get.property(), get.size()), (property, property.size()));
            let set = PropertySetCmd::new(property, value).unwrap();
            prop_assert_eq!((set.property(), set.size(), set.value.get()), (property, property.size(), value));
        }
        let abort = AbortCmd::new(cid, !cid);
        prop_assert_eq!((abort.sqid.get(), abort.abort_cid.get()), (cid, !cid));
        prop_assert_eq!(abort.to_sqe().cdw10.get(), u32::from(!cid) << 16 | u32::from(cid));
    }

    #[test]
    fn io_commands(nsid: u32, slba: u64, blocks in 1..=65_536_u32, ranges in 1..=256_usize) {
        let rw = RwCmd::new(NvmOpcode::WRITE, nsid, slba, blocks).unwrap();
        prop_assert_eq!((rw.slba.get(), rw.blocks(), rw.head.nsid.get()), (slba, blocks, nsid));
        prop_assert_eq!(DsmCmd::new(nsid, ranges, kvof_spec::io::DsmAttributes::AD).unwrap().ranges(), ranges);
    }

    #[test]
    fn completions_and_descriptors(cid: u16, status: u16, result: u64, address: u64, length: u32, key: u32, inv: bool) {
        let status = Status(status & 0x7fff);
        let cqe = Cqe::from_bytes(&Cqe::new(cid, status).with_result(result).to_bytes());
        prop_assert_eq!((cqe.cid.get(), cqe.status(), cqe.result()), (cid, status, result));
        prop_assert_eq!(Status::new(status.sct(), status.sc()), status.code());
        prop_assert_eq!(SglDescriptor::in_capsule(address, length).decode(), Sgl::InCapsule { offset: address, length });
        prop_assert_eq!(SglDescriptor::transport_data(length).decode(), Sgl::TransportData { length });
        let keyed = SglDescriptor::keyed(address, length, key, inv);
        if length > KEYED_LENGTH_MAX {
            prop_assert_eq!(keyed, None);
        } else {
            prop_assert_eq!(keyed.unwrap().decode(), Sgl::Keyed { address, length, key, invalidate: inv });
        }
    }

    #[test]
    fn properties(raw: u64, mqes: u16, n: [u8; 4], b: [bool; 4]) {
        let cap = Cap(raw).with_mqes(mqes).with_to(n[0]).with_mpsmin(n[1] & 15).with_css(n[2]).with_cqr(b[0]);
        prop_assert_eq!((cap.mqes(), cap.to(), cap.mpsmin(), cap.css(), cap.cqr()), (mqes, n[0], n[1] & 15, n[2], b[0]));
        prop_assert_eq!((cap.mpsmax(), cap.dstrd(), cap.crims()), (Cap(raw).mpsmax(), Cap(raw).dstrd(), Cap(raw).crims()));
        let low = (raw & 0xffff_ffff) as u32;
        let cc = Cc(low).with_en(b[0]).with_shn(n[3] & 3).with_css(n[0] & 7);
        prop_assert_eq!((cc.en(), cc.shn(), cc.css()), (b[0], n[3] & 3, n[0] & 7));
        prop_assert_eq!((cc.iosqes(), cc.iocqes(), cc.mps()), (Cc(low).iosqes(), Cc(low).iocqes(), Cc(low).mps()));
        let csts = Csts(low).with_rdy(b[1]).with_cfs(b[2]).with_shst(n[1] & 3);
        prop_assert_eq!((csts.rdy(), csts.cfs(), csts.shst()), (b[1], b[2], n[1] & 3));
        let vs = Vs::new(mqes, n[0], n[1]);
        prop_assert_eq!((vs.mjr(), vs.mnr(), vs.ter()), (mqes, n[0], n[1]));
        let event = AsyncEvent::new(AsyncEventType(n[0] & 7), n[1], n[2]);
        prop_assert_eq!((event.kind(), event.info(), event.log_page()), (AsyncEventType(n[0] & 7), n[1], n[2]));
        let millis = raw & 0xffff_ffff_ffff;
        prop_assert_eq!(Timestamp::new(millis, 0).millis(), millis);
        let shown = format!("{cap:?} {cc:?} {csts:?} {vs} {event}");
        let mqes = format!("mqes: {mqes}");
        prop_assert!(shown.contains(&mqes));
    }

    #[test]
    fn queue_counts(count in 1..=65_535_u32, raw: u32) {
        prop_assert_eq!(NumberOfQueues::pairs(count).unwrap().pair_count(), Some(count));
        let asked = NumberOfQueues(raw);
        match asked.pair_count() {
            Some(n) => prop_assert_eq!(n - 1, (raw & 0xffff).min(raw >> 16)),
            None => prop_assert!(raw & 0xffff == 0xffff || raw >> 16 == 0xffff),
        }
    }

    #[test]
    fn names(tail in "[^\\p{Cc}]{1,40}", junk: [u8; 32]) {
        let text = format!("nqn.{tail}");
        prop_assume!(!text.starts_with(kvof_spec::nqn::UUID_PREFIX));
        let nqn: Nqn = text.parse().unwrap();
        prop_assert_eq!(nqn.to_string(), text.as_str());
        let mut field = nqn.to_field();
        prop_assert_eq!(Nqn::from_field(&field), Ok(nqn.clone()));
        field[224..].copy_from_slice(&junk);
        prop_assert_eq!(Nqn::from_field(&field), Ok(nqn));
    }

    #[test]
    fn any_name_field(b in proptest::collection::vec(any::<u8>(), 256), valid_start: bool) {
        let mut field: [u8; 256] = b.try_into().unwrap();
        if valid_start {
            field[..4].copy_from_slice(b"nqn.");
        }
        match Nqn::from_field(&field) {
            Ok(nqn) => {
                let len = nqn.as_str().len();
                prop_assert!(len <= 223 && field[..len] == *nqn.as_str().as_bytes() && field[len] == 0);
                prop_assert_eq!(nqn.as_str().parse::<Nqn>(), Ok(nqn));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn uuid_names(uuid: [u8; 16]) {
        let nqn = Nqn::from_uuid(&uuid);
        prop_assert_eq!(nqn.uuid(), Some(uuid));
        prop_assert_eq!(nqn.as_str().parse::<Nqn>(), Ok(nqn));
    }

    #[test]
    fn text_fields(s in "[ -~]{0,32}", any in proptest::collection::vec(any::<u8>(), 0..40)) {
        let field = text::to_field::<32>(&s).unwrap();
        prop_assert_eq!(text::from_field(&field), Ok(s.trim_end()));
        if let Ok(read) = text::from_field(&any) {
            prop_assert!(any.starts_with(read.as_bytes()));
        }
    }

    #[test]
    fn namespace_lists(nsids in proptest::collection::vec(0..5000_u32, 0..3000), after in 0..6000_u32) {
        let expected: std::collections::BTreeSet<u32> = nsids.iter().copied().filter(|n| *n > after).collect();
        let list = NsList::after(after, nsids);
        prop_assert!(list.iter().eq(expected.into_iter().take(1024)));
    }

    #[test]
    fn descriptor_lists(ids in proptest::collection::vec((5..=255_u8, proptest::collection::vec(any::<u8>(), 1..=255)), 0..40)) {
        let descriptors: Vec<_> = ids.iter().map(|(t, nid)| NsDescriptor::Other { nidt: NsIdType(*t), nid }).collect();
        let size: usize = ids.iter().map(|(_, nid)| nid.len() + 4).sum();
        match NsDescriptorList::new(descriptors.iter().copied()) {
            Ok(list) => {
                prop_assert!(size <= 4096);
                let back: Vec<_> = list.descriptors().collect::<Result<_, _>>().unwrap();
                prop_assert_eq!(back, descriptors);
            }
            Err(_) => prop_assert!(size > 4096),
        }
    }

    #[test]
    fn discovery_entries(v6: bool, a: [u8; 16], port in 1..=u16::MAX, portid: u16, rdma: bool) {
        let ip: std::net::IpAddr = if v6 { a.into() } else { [a[0], a[1], a[2], a[3]].into() };
        let address = (ip, port).into();
        let trtype = if rdma { TransportType::RDMA } else { TransportType::TCP };
        let entry = DiscoveryEntry::ip(trtype, SubsystemType::NVM, &Nqn::from_uuid(&a), address, portid);
        let entry = DiscoveryEntry::read_from_bytes(entry.as_bytes()).unwrap();
        prop_assert_eq!(entry.socket_addr(), Ok(address));
        prop_assert_eq!(entry.subnqn().unwrap().uuid(), Some(a));
        prop_assert_eq!((entry.trtype(), entry.subtype(), entry.portid.get()), (trtype, SubsystemType::NVM, portid));
        prop_assert_eq!(entry.rdma().is_some(), rdma);
    }

    #[test]
    fn connection_manager_data(b in proptest::collection::vec(any::<u8>(), 0..64), v: [u16; 4]) {
        match CmRequest::parse(&b) {
            Ok(request) => prop_assert!(b.starts_with(request.as_bytes()) && request.recfmt.get() == 0),
            Err(CmStatus::INVALID_LENGTH) => prop_assert!(b.len() < 32),
            Err(status) => prop_assert!(status == CmStatus::INVALID_RECFMT && b[..2] != [0, 0]),
        }
        let mut request = CmRequest::zeroed();
        (request.qid, request.hrqsize, request.hsqsize, request.cntlid) = (v[0].into(), v[1].into(), v[2].into(), v[3].into());
        prop_assert_eq!(CmRequest::parse(request.as_bytes()), Ok(request));
        prop_assert_eq!(CmAccept::new(v[0]).crqsize.get(), v[0]);
        prop_assert_eq!(CmReject::new(CmStatus(v[0])).status(), CmStatus(v[0]));
    }
}

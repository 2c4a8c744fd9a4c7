//! The discovery service.

use kvof_spec::{
    AdminOpcode,
    aen::AsyncEvent,
    log::{DiscoveryEntry, DiscoveryFlags, DiscoveryHeader, SubsystemType, TransportRequirements, TransportType},
};

use super::*;

fn page(offset: u64, length: u64) -> GetLogPageCmd {
    GetLogPageCmd::new(LogId::DISCOVERY, 0, offset, length).unwrap().with_rae(true)
}

fn header(host: &mut Host) -> DiscoveryHeader {
    let mut header = DiscoveryHeader::zeroed();
    // Hosts read as much of it as has a meaning.
    header.as_mut_bytes()[..20].copy_from_slice(&host.log(page(0, 20)).unwrap());
    header
}

/// The entries as (type, NQN, address, PORTID).
fn entries(host: &mut Host) -> Vec<(SubsystemType, String, String, u16)> {
    let count = header(host).numrec.get();
    let data = host.log(page(1024, count * 1024)).unwrap();
    let entries = <[DiscoveryEntry]>::ref_from_bytes(&data).unwrap();
    entries
        .iter()
        .map(|e| {
            assert_eq!(e.trtype(), TransportType::TCP);
            assert_eq!((e.cntlid.get(), e.asqsz.get()), (0xffff, 1024));
            assert!(e.treq().contains(TransportRequirements::DISABLE_SQ_FLOW_CONTROL));
            let flags = match e.subtype() {
                SubsystemType::CURRENT_DISCOVERY => DiscoveryFlags::all() & DiscoveryFlags::from_bits_retain(3),
                _ => DiscoveryFlags::empty(),
            };
            assert_eq!(e.eflags(), flags);
            let address = e.socket_addr().unwrap().to_string();
            (e.subtype(), e.subnqn().unwrap().to_string(), address, e.portid.get())
        })
        .collect()
}

#[test]
fn lists_what_the_host_may_use() {
    let rig = Rig::new();
    let (v4, v6) = ("192.0.2.1:4420".to_owned(), "[2001:db8::2]:4421".to_owned());
    let own = kvof_spec::nqn::DISCOVERY_NQN.to_owned();
    let mut expected = vec![
        (SubsystemType::CURRENT_DISCOVERY, own.clone(), v4.clone(), 1),
        (SubsystemType::CURRENT_DISCOVERY, own.clone(), v6.clone(), 2),
        (SubsystemType::NVM, SUBSYSTEM.into(), v4.clone(), 1),
        (SubsystemType::NVM, SUBSYSTEM.into(), v6.clone(), 2),
        (SubsystemType::REFERRAL, own, "198.51.100.1:8009".into(), 77),
    ];
    assert_eq!(entries(&mut rig.discovery(HOST, 0)), expected);
    expected.insert(4, (SubsystemType::NVM, PRIVATE.into(), v4, 1));
    expected.insert(5, (SubsystemType::NVM, PRIVATE.into(), v6, 2));
    assert_eq!(entries(&mut rig.discovery(FRIEND, 0)), expected);
}

#[test]
fn any_piece_of_the_page_is_the_same_page() {
    let rig = Rig::new();
    let mut host = rig.discovery(HOST, 0);
    let whole = host.log(page(0, 6 * 1024)).unwrap();
    for (offset, length) in [(0, 4), (1020, 8), (1024, 1024), (100, 5000), (5 * 1024 + 4, 1020), (6140, 4)] {
        let part = host.log(page(offset, length)).unwrap();
        assert_eq!(part, whole[offset as usize..(offset + length) as usize], "{length} bytes at {offset}");
    }
    assert_eq!(host.log(page(6140, 12)).unwrap()[4..], [0; 8], "zeros after the end");
    assert_eq!(host.log(page(6144, 4)), Ok(vec![0; 4]));
    assert_eq!(host.log(page(6148, 4)), Err(Status::INVALID_FIELD));
    assert_eq!(host.log(page(u64::MAX - 3, 4)), Err(Status::INVALID_FIELD));
}

#[test]
fn a_change_bumps_the_generation_and_is_reported() {
    let rig = Rig::new();
    let mut host = rig.discovery(HOST, 60_000);
    host.set_feature(FeatureId::ASYNC_EVENT_CONFIGURATION, 1 << 31).unwrap();
    assert_eq!(host.send(Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST), 0), AdminOutcome::Held);
    let before = header(&mut host);
    let reload = |change: fn(&mut TargetDef)| {
        let mut def = definition();
        change(&mut def);
        rig.target.apply(rig.target.plan(def).unwrap()).unwrap();
    };
    reload(|_| {});
    reload(|def| def.subsystems[0].namespaces.push(kv_namespace(50)));
    assert_eq!(header(&mut host), before, "nothing that the page shows");
    assert_eq!(host.completions(), []);
    reload(|def| drop(def.subsystems.remove(0)));
    let event = Reply::result(AsyncEvent::DISCOVERY_LOG_CHANGED.0);
    assert_eq!(host.completions().into_iter().map(|(_, reply)| reply).collect::<Vec<_>>(), [event]);
    let after = header(&mut host);
    assert!(after.genctr.get() > before.genctr.get());
    assert_eq!(after.numrec.get(), 3);
    let changes: [fn(&mut TargetDef); 4] = [
        |def| def.referrals.clear(),
        |def| def.ports[0].advertise = Some("kv.example.com".into()),
        |def| def.subsystems[1].allowed_hosts = None,
        |_| {},
    ];
    let mut last = after.genctr.get();
    for change in changes {
        reload(change);
        let now = header(&mut host).genctr.get();
        assert!(now > last);
        last = now;
    }
}

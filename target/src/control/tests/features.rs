//! Get Features and Set Features.

use kvof_spec::feature::FeatureCapabilities;

use super::*;

const IO_FEATURES: [u8; 12] = [0x01, 0x02, 0x04, 0x05, 0x07, 0x0a, 0x0b, 0x0f, 0x19, 0x20, 0x81, 0x06];

fn select(fid: FeatureId, sel: FeatureSelect, nsid: u32) -> GetFeaturesCmd {
    let mut cmd = GetFeaturesCmd::new(fid, sel);
    cmd.head.nsid = nsid.into();
    cmd.cdw11 = if fid == FeatureId::HOST_IDENTIFIER { 1 } else { 0 }.into();
    cmd
}

#[test]
fn unknown_features_and_selections() {
    let rig = Rig::new();
    let mut host = rig.host();
    let mut discovery = rig.discovery(HOST, 0);
    for fid in 0..=u8::MAX {
        // Volatile Write Cache is there only with a cache.
        let known = IO_FEATURES.contains(&fid) && fid != 0x06;
        let get = |sel| select(FeatureId(fid), sel, 1);
        for sel in [FeatureSelect::CURRENT, FeatureSelect::DEFAULT, FeatureSelect::SAVED] {
            let expected = if known { Status::SUCCESS } else { Status::INVALID_FIELD };
            assert_eq!(host.status(get(sel), 16), expected, "{fid:#x} {sel}");
        }
        for reserved in 4..8 {
            assert_eq!(host.status(get(FeatureSelect(reserved)), 16), Status::INVALID_FIELD);
        }
        let capabilities = host.reply(get(FeatureSelect::SUPPORTED_CAPABILITIES), 16);
        assert_eq!(capabilities.status.is_success(), known);
        assert_eq!(capabilities.result & 1, 0, "nothing is saveable");
        let set = SetFeaturesCmd::new(FeatureId(fid), 0);
        if !known {
            assert_eq!(host.status(set, 0), Status::INVALID_FIELD, "{fid:#x}");
        } else {
            assert_eq!(host.status(SetFeaturesCmd { save: 0x80, ..set }, 0), Status::FEATURE_NOT_SAVEABLE);
        }
        let known = [0x0b, 0x0f].contains(&fid);
        let expected = if known { Status::SUCCESS } else { Status::INVALID_FIELD };
        assert_eq!(discovery.status(get(FeatureSelect::CURRENT), 16), expected);
        assert_eq!(discovery.status(set, 0), expected);
    }
}

#[test]
fn values_are_kept_and_defaults_remembered() {
    let rig = Rig::new();
    let mut host = rig.host();
    for (fid, default, value) in [
        (FeatureId::ARBITRATION, 0, 0x0102_0303),
        (FeatureId::POWER_MANAGEMENT, 0, 0x40),
        (FeatureId::TEMPERATURE_THRESHOLD, 0xffff, 350),
        (FeatureId::ERROR_RECOVERY, 0, 77),
        (FeatureId::WRITE_ATOMICITY, 0, 1),
        (FeatureId::ASYNC_EVENT_CONFIGURATION, 0, 0x11f),
        (FeatureId::IO_COMMAND_SET_PROFILE, 0, 0),
    ] {
        assert_eq!(host.get_feature(fid), default, "{fid}");
        assert_eq!(host.set_feature(fid, value), Ok(0), "{fid}");
        assert_eq!(host.get_feature(fid), value, "{fid}");
        for sel in [FeatureSelect::DEFAULT, FeatureSelect::SAVED] {
            assert_eq!(host.reply(GetFeaturesCmd::new(fid, sel), 0).result, u64::from(default), "{fid}");
        }
        let capabilities = host.reply(GetFeaturesCmd::new(fid, FeatureSelect::SUPPORTED_CAPABILITIES), 0).result;
        assert_eq!(capabilities, u64::from(FeatureCapabilities::CHANGEABLE.bits()), "{fid}");
        let mut namespaced = SetFeaturesCmd::new(fid, value);
        namespaced.head.nsid = 1.into();
        assert_eq!(host.status(namespaced, 0), Status::FEATURE_NOT_NAMESPACE_SPECIFIC, "{fid}");
    }
    for (fid, wrong, status) in [
        (FeatureId::POWER_MANAGEMENT, 1, Status::INVALID_FIELD),
        (FeatureId::TEMPERATURE_THRESHOLD, 1 << 16, Status::INVALID_FIELD),
        (FeatureId::TEMPERATURE_THRESHOLD, 2 << 20, Status::INVALID_FIELD),
        (FeatureId::ERROR_RECOVERY, 1 << 16, Status::INVALID_FIELD),
        (FeatureId::ASYNC_EVENT_CONFIGURATION, 1 << 31, Status::INVALID_FIELD),
        (FeatureId::IO_COMMAND_SET_PROFILE, 1, Status::IOCS_COMBINATION_REJECTED),
        (FeatureId::HOST_IDENTIFIER, 1, Status::COMMAND_SEQUENCE_ERROR),
    ] {
        assert_eq!(host.set_feature(fid, wrong), Err(status), "{fid}");
    }
    assert_eq!(host.get_feature(FeatureId::TEMPERATURE_THRESHOLD), 350);
}

#[test]
fn number_of_queues() {
    let rig = Rig::with(definition(), TargetLimits { max_io_queues: 4, ..TargetLimits::default() });
    let mut host = rig.host();
    let fid = FeatureId::NUMBER_OF_QUEUES;
    assert_eq!(host.get_feature(fid), 0x0003_0003);
    for reserved in [0xffff_0000, 0x0000_ffff, 0xffff_ffff] {
        assert_eq!(host.set_feature(fid, reserved), Err(Status::INVALID_FIELD));
    }
    assert_eq!(host.set_feature(fid, 0x00ff_00ff), Ok(0x0003_0003));
    assert_eq!(host.set_feature(fid, 0x0001_0005), Ok(0x0001_0001), "pairs");
    assert_eq!(host.get_feature(fid), 0x0001_0001);
    let queue = rig.io_queue(&host, 2).unwrap();
    assert_eq!(rig.io_queue(&host, 3).unwrap_err().result, 42);
    assert_eq!(host.set_feature(fid, 0), Err(Status::COMMAND_SEQUENCE_ERROR));
    drop(queue);
    assert_eq!(host.set_feature(fid, 0), Ok(0));
    assert_eq!(rig.target.summary().io_queues, 0);
}

#[test]
fn key_value_configuration_is_per_namespace() {
    let rig = Rig::new();
    let mut host = rig.host();
    let ednek = |nsid| {
        let all = rig.target.namespaces();
        all.iter().find(|ns| ns.def.nsid == nsid).unwrap().state.ednek.load(Ordering::Relaxed)
    };
    let fid = FeatureId::KEY_VALUE_CONFIGURATION;
    let mut set = |nsid: u32, value| {
        let mut cmd = SetFeaturesCmd::new(fid, value);
        cmd.head.nsid = nsid.into();
        host.status(cmd, 0)
    };
    assert_eq!(set(1, 1), Status::SUCCESS);
    assert_eq!((ednek(1), ednek(9)), (true, false));
    assert_eq!(set(0xffff_ffff, 1), Status::SUCCESS);
    assert_eq!((ednek(1), ednek(2), ednek(9)), (true, false, true));
    assert_eq!(set(1, 0), Status::SUCCESS);
    assert_eq!((ednek(1), ednek(9)), (false, true));
    assert_eq!(set(2, 1), Status::INVALID_FIELD);
    for nsid in [0, 5] {
        assert_eq!(set(nsid, 1), Status::INVALID_NAMESPACE_OR_FORMAT);
    }
    assert_eq!(host.reply(select(fid, FeatureSelect::CURRENT, 9), 0).result, 1);
    assert_eq!(host.reply(select(fid, FeatureSelect::DEFAULT, 9), 0).result, 0);
    assert_eq!(host.reply(select(fid, FeatureSelect::SUPPORTED_CAPABILITIES, 9), 0).result, 0b110);
    for nsid in [0, 5, 0xffff_ffff] {
        assert_eq!(host.status(select(fid, FeatureSelect::CURRENT, nsid), 0), Status::INVALID_NAMESPACE_OR_FORMAT);
    }
    // A setting of the namespace outlives a reset of one of its controllers.
    host.set(Property::CC, 0);
    host.enable(CC_ENABLE);
    assert_eq!(host.reply(select(fid, FeatureSelect::CURRENT, 9), 0).result, 1);
}

#[test]
fn host_identifier() {
    let rig = Rig::new();
    let mut host = rig.host();
    let get = |exhid: u32| GetFeaturesCmd {
        cdw11: exhid.into(),
        ..GetFeaturesCmd::new(FeatureId::HOST_IDENTIFIER, FeatureSelect::CURRENT)
    };
    assert_eq!(host.reply(get(1), 16).data, HOSTID);
    assert_eq!(host.status(get(1), 15), Status::DATA_SGL_LENGTH_INVALID);
    assert_eq!(host.status(get(0), 16), Status::INVALID_FIELD);
}

#[test]
fn a_write_cache_that_cannot_be_switched_off() {
    let file = StorageDef::File { path: "/nonexistent/blocks".into() };
    let subsystems = vec![subsystem(SUBSYSTEM, vec![nvm_namespace(1, file)])];
    let rig = Rig::with(TargetDef { subsystems, ..TargetDef::default() }, TargetLimits::default());
    let mut host = rig.host();
    let fid = FeatureId::VOLATILE_WRITE_CACHE;
    assert_eq!(host.get_feature(fid), 1);
    assert_eq!(host.set_feature(fid, 1), Ok(0));
    assert_eq!(host.set_feature(fid, 0), Err(Status::FEATURE_NOT_CHANGEABLE));
}

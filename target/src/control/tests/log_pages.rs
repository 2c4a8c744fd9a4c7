//! Get Log Page: which pages there are, what is in them, and reading them in pieces.

use kvof_spec::{
    AdminOpcode, Csi, KvOpcode, NvmOpcode, U64,
    log::{
        CommandEffects, CommandsSupported, ErrorInformation, FirmwareSlot, LogSupport, SmartHealth, SupportedLogPages,
    },
};

use super::*;

#[test]
fn supported_pages_are_those_that_can_be_read() {
    let rig = Rig::new();
    for (mut host, pages) in [(rig.host(), &[0, 1, 2, 3, 4, 5][..]), (rig.discovery(HOST, 0), &[0, 1, 0x70])] {
        let supported: SupportedLogPages = host.log_as(LogId::SUPPORTED_LOG_PAGES);
        for lid in 0..=u8::MAX {
            let expected = pages.contains(&lid);
            assert_eq!(supported.support(LogId(lid)) == LogSupport::LSUPP, expected, "{lid:#x}");
            let read = host.log(GetLogPageCmd::new(LogId(lid), 0, 0, 16).unwrap()).map(|data| data.len());
            assert_eq!(read, if expected { Ok(16) } else { Err(Status::INVALID_LOG_PAGE) }, "{lid:#x}");
        }
    }
}

#[test]
fn errors_newest_first() {
    let rig = Rig::new();
    let mut host = rig.host();
    assert_eq!(host.status(Sqe::new(0xc0), 0), Status::INVALID_OPCODE);
    let first = host.cid;
    let mut bad = IdentifyCmd::new(Cns(0xff), 9, Csi::NVM);
    bad.head.nsid = 9.into();
    assert_eq!(host.status(bad, 4096), Status::INVALID_FIELD);
    let second = host.cid;
    let log: [ErrorInformation; 64] = host.log_as(LogId::ERROR_INFORMATION);
    assert_eq!((log[0].cid.get(), log[1].cid.get()), (second, first));
    assert_eq!((log[0].error_count.get(), log[1].error_count.get(), log[2].error_count.get()), (2, 1, 0));
    assert_eq!(log[0].status(), Status::INVALID_FIELD.with_dnr());
    assert_eq!((log[0].nsid.get(), log[0].sqid.get(), log[0].parameter_error_location.get()), (9, 0, 0xffff));
    let smart: SmartHealth = host.log_as(LogId::SMART_HEALTH);
    assert_eq!(smart.error_log_entries.get(), 2);
}

#[test]
fn health_counts_what_hosts_did() {
    let mut rig = Rig::new();
    rig.wait(3 * 3600 * 1000 + 5);
    let mut host = rig.host();
    let (one, two) = (rig.io_queue(&host, 1).unwrap(), rig.io_queue(&host, 2).unwrap());
    one.count(0x02, 512_000, Status::SUCCESS);
    one.count(0x01, 1, Status::SUCCESS);
    two.count(0x02, 1, Status::SUCCESS);
    two.count(0x02, 0, Status::UNRECOVERED_ERROR);
    drop(one);
    let smart: SmartHealth = host.log_as(LogId::SMART_HEALTH);
    assert_eq!((smart.data_units_read.get(), smart.data_units_written.get()), (2, 1), "rounded up");
    assert_eq!((smart.host_read_commands.get(), smart.host_write_commands.get()), (2, 1));
    assert_eq!((smart.power_on_hours.get(), smart.media_errors.get(), smart.available_spare), (3, 1, 100));
    let one = GetLogPageCmd::new(LogId::SMART_HEALTH, 1, 0, 512).unwrap();
    assert_eq!(host.log(one), Err(Status::INVALID_FIELD), "there is no page for one namespace");
}

#[test]
fn effects_by_command_set() {
    let rig = Rig::new();
    let mut host = rig.host();
    let mut page = |csi| {
        let cmd = GetLogPageCmd::new(LogId::COMMANDS_SUPPORTED, 0, 0, 4096).unwrap().with_csi(csi);
        host.log(cmd).map(|data| CommandsSupported::read_from_bytes(&data).unwrap())
    };
    let nvm = page(Csi::NVM).unwrap();
    assert_eq!(nvm.io(NvmOpcode::READ), CommandEffects::CSUPP);
    assert_eq!(nvm.io(NvmOpcode::WRITE), CommandEffects::CSUPP | CommandEffects::LBCC);
    assert_eq!(nvm.io(NvmOpcode::WRITE_UNCORRECTABLE), CommandEffects::empty());
    let kv = page(Csi::KV).unwrap();
    assert_eq!(kv.iocs.iter().filter(|effects| effects.get() != 0).count(), 6);
    assert_eq!(kv.io(KvOpcode::FLUSH), CommandEffects::CSUPP);
    for page in [nvm, kv] {
        assert_eq!(page.admin(AdminOpcode::IDENTIFY), CommandEffects::CSUPP);
        assert_eq!(page.admin(AdminOpcode::FORMAT_NVM), CommandEffects::empty());
    }
    assert_eq!(page(Csi::ZNS), Err(Status::INVALID_FIELD));
}

#[test]
fn pieces_of_a_page() {
    let rig = Rig::new();
    let mut host = rig.host();
    let whole: FirmwareSlot = host.log_as(LogId::FIRMWARE_SLOT);
    assert_eq!(whole.afi, 1);
    let whole = whole.as_bytes().to_vec();
    let read = |offset, length| GetLogPageCmd::new(LogId::FIRMWARE_SLOT, 0, offset, length).unwrap();
    assert_eq!(host.log(read(8, 8)).unwrap(), whole[8..16]);
    let past = host.log(read(508, 12)).unwrap();
    assert_eq!((past.len(), &past[..4]), (12, &whole[508..]));
    assert_eq!(past[4..], [0; 8]);
    assert_eq!(host.log(read(512, 4)), Ok(vec![0; 4]), "the end");
    assert_eq!(host.log(read(516, 4)), Err(Status::INVALID_FIELD), "behind the end");
    assert_eq!(host.log(read(u64::MAX - 3, 4)), Err(Status::INVALID_FIELD));
    let odd = GetLogPageCmd { lpo: U64::new(2), ..read(0, 4) };
    assert_eq!(host.log(odd), Err(Status::INVALID_FIELD));
    let index = GetLogPageCmd { offset_type: 0x80, ..read(0, 4) };
    assert_eq!(host.log(index), Err(Status::INVALID_FIELD));
    // Length: 16 GiB, MDTS and one more, more than the buffer.
    assert_eq!(host.log(read(0, 16 << 30)), Err(Status::INVALID_FIELD));
    assert_eq!(host.log(read(0, 2 << 20)).map(|data| data.len()), Ok(2 << 20));
    assert_eq!(host.log(read(0, (2 << 20) + 4)), Err(Status::INVALID_FIELD));
    assert_eq!(host.status(read(0, 512), 508), Status::DATA_SGL_LENGTH_INVALID);
    assert_eq!(host.reply(read(0, 512), 4096).data.len(), 512);
}

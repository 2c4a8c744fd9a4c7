//! Get Log Page (section 5.16).

use std::{collections::BTreeSet, time::Instant};

use kvof_kv::identify::COMMAND_EFFECTS;
use kvof_spec::{
    AdminOpcode, Csi, IntoBytes, KvOpcode, NvmOpcode, Status, U128,
    identify::{NS_LIST_ENTRIES, NSID_ALL},
    log::{
        ChangedNamespaceList, CommandEffects, CommandsSupported, FirmwareSlot, GetLogPageCmd, LogId, SmartHealth,
        SupportedLogPages,
    },
    text,
};

use super::{
    controller::Controller, discovery::DiscoveryPage, error_log::ErrorLog, identify::FIRMWARE, pool_page,
    registry::Registry,
};

/// Namespaces that the Changed Namespace List can name.
pub(super) const CHANGED_NAMESPACES_MAX: usize = NS_LIST_ENTRIES;

/// Pages of an I/O controller.
const IO_PAGES: [LogId; 6] = [
    LogId::SUPPORTED_LOG_PAGES,
    LogId::ERROR_INFORMATION,
    LogId::SMART_HEALTH,
    LogId::FIRMWARE_SLOT,
    LogId::CHANGED_NAMESPACES,
    LogId::COMMANDS_SUPPORTED,
];
/// Pages of an I/O controller of a subsystem with namespaces in pools.
const POOL_PAGES: [LogId; 7] = {
    let [a, b, c, d, e, f] = IO_PAGES;
    [a, b, c, d, e, f, LogId::POOL_STATISTICS]
};
/// Pages of a discovery controller.
const DISCOVERY_PAGES: [LogId; 3] = [LogId::SUPPORTED_LOG_PAGES, LogId::ERROR_INFORMATION, LogId::DISCOVERY];

/// What log pages tell of.
#[derive(Debug)]
pub(super) struct LogCx<'a> {
    pub(super) now: Instant,
    pub(super) registry: &'a Registry,
    pub(super) controller: &'a Controller,
    pub(super) errors: &'a ErrorLog,
    pub(super) changed: &'a ChangedNamespaces,
}

/// The namespaces that changed since the host last read the Changed Namespace List.
#[derive(Debug, Default)]
pub(super) struct ChangedNamespaces(BTreeSet<u32>);

impl ChangedNamespaces {
    /// Adds `nsids`. What cannot be named any more is not kept, but remembered to be too much.
    pub(super) fn add(&mut self, nsids: Vec<u32>) {
        for nsid in nsids {
            if self.0.len() > CHANGED_NAMESPACES_MAX {
                return;
            }
            self.0.insert(nsid);
        }
    }
}

/// The part of a log page that `cmd` asks for. Bytes after the end of the page are zero.
pub(super) fn read(cx: &LogCx<'_>, cmd: &GetLogPageCmd, buffer_len: u32) -> Result<Vec<u8>, Status> {
    let subsystem = &cx.controller.subsystem;
    let pages = match subsystem.is_discovery {
        true => &DISCOVERY_PAGES[..],
        false if subsystem.namespaces().iter().any(|ns| ns.state.pool.get().is_some()) => &POOL_PAGES[..],
        false => &IO_PAGES[..],
    };
    if !pages.contains(&cmd.lid()) {
        return Err(Status::INVALID_LOG_PAGE);
    }
    let offset = cmd.lpo.get();
    // Offsets that are an index are not supported by any page.
    if cmd.ot() || !offset.is_multiple_of(4) {
        return Err(Status::INVALID_FIELD);
    }
    if cmd.length() > cx.registry.limits.transfer_max() {
        return Err(Status::INVALID_FIELD);
    }
    if cmd.length() > u64::from(buffer_len) {
        return Err(Status::DATA_SGL_LENGTH_INVALID);
    }
    let length = usize::try_from(cmd.length()).map_err(|_| Status::INVALID_FIELD)?;
    let page = match cmd.lid() {
        LogId::DISCOVERY => return DiscoveryPage::new(cx.registry, cx.controller).read(offset, length),
        LogId::SUPPORTED_LOG_PAGES => SupportedLogPages::new(pages.iter().copied()).as_bytes().to_vec(),
        LogId::ERROR_INFORMATION => cx.errors.page().as_bytes().to_vec(),
        LogId::SMART_HEALTH => smart(cx, cmd.head.nsid.get())?.as_bytes().to_vec(),
        LogId::FIRMWARE_SLOT => FirmwareSlot::single(text::to_field(FIRMWARE).unwrap_or([b' '; 8])).as_bytes().to_vec(),
        LogId::CHANGED_NAMESPACES => ChangedNamespaceList::new(cx.changed.0.iter().copied()).as_bytes().to_vec(),
        LogId::COMMANDS_SUPPORTED => effects(cmd.csi())?.as_bytes().to_vec(),
        LogId::POOL_STATISTICS => pool_page::read(cx.controller, cmd.head.nsid.get())?.as_bytes().to_vec(),
        _ => return Err(Status::INVALID_LOG_PAGE),
    };
    let start = usize::try_from(offset).ok().filter(|start| *start <= page.len()).ok_or(Status::INVALID_FIELD)?;
    let mut data: Vec<u8> = page.into_iter().skip(start).take(length).collect();
    data.resize(length, 0);
    Ok(data)
}

fn smart(cx: &LogCx<'_>, nsid: u32) -> Result<SmartHealth, Status> {
    // LPA bit 0: there is no page for a single namespace.
    if nsid != 0 && nsid != NSID_ALL {
        return Err(Status::INVALID_FIELD);
    }
    let io = cx.controller.subsystem.io.totals();
    // Thousands of 512 bytes.
    let units = |bytes: u128| U128::new(bytes.div_ceil(512 * 1000));
    let hours = cx.now.saturating_duration_since(cx.registry.started).as_secs() / 3600;
    let mut page = SmartHealth::zeroed();
    page.critical_warning = cx.controller.subsystem.namespaces().warnings().bits();
    // There are no spares that are used up; devices tell of their own wear.
    page.available_spare = 100;
    page.data_units_read = units(io.bytes_read);
    page.data_units_written = units(io.bytes_written);
    page.host_read_commands = io.read_commands.into();
    page.host_write_commands = io.write_commands.into();
    page.power_on_hours = u128::from(hours).into();
    page.media_errors = io.media_errors.into();
    page.error_log_entries = u128::from(cx.errors.count()).into();
    Ok(page)
}

/// Commands and their effects in command set `csi`.
fn effects(csi: Csi) -> Result<CommandsSupported, Status> {
    let mut page = CommandsSupported::zeroed();
    for opcode in [
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::IDENTIFY,
        AdminOpcode::ABORT,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminOpcode::KEEP_ALIVE,
    ] {
        page.set_admin(opcode, CommandEffects::CSUPP);
    }
    match csi {
        Csi::NVM => {
            for opcode in [NvmOpcode::FLUSH, NvmOpcode::READ, NvmOpcode::COMPARE] {
                page.set_io(opcode, CommandEffects::CSUPP);
            }
            for opcode in [NvmOpcode::WRITE, NvmOpcode::WRITE_ZEROES, NvmOpcode::DATASET_MANAGEMENT] {
                page.set_io(opcode, CommandEffects::CSUPP | CommandEffects::LBCC);
            }
        }
        Csi::KV => {
            page.set_io(KvOpcode::FLUSH, CommandEffects::CSUPP);
            for (opcode, effects) in COMMAND_EFFECTS {
                page.set_io(opcode, effects);
            }
        }
        _ => return Err(Status::INVALID_FIELD),
    }
    Ok(page)
}

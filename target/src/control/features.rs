//! Get Features and Set Features (sections 5.15 and 5.27). No feature is saved: a reset brings the defaults back.

use std::{sync::atomic::Ordering, time::Instant};

use kvof_spec::{
    Status,
    feature::{
        AsyncEventConfig, ErrorRecovery, FeatureCapabilities, FeatureId, FeatureSelect, GetFeaturesCmd, HostIdentifier,
        IocsProfile, KvConfiguration, NumberOfQueues, PowerManagement, SetFeaturesCmd, TemperatureThreshold,
        VolatileWriteCache, WriteAtomicity,
    },
    identify::NSID_ALL,
};

use super::{
    Reply, TargetLimits,
    controller::Controller,
    events::Events,
    keep_alive::KeepAlive,
    subsystem::{self, NamespaceTable},
};

/// TMPTH of the over temperature threshold that is never passed.
const NEVER_OVER: u16 = u16::MAX;

/// The values of one controller that are kept nowhere else.
#[derive(Clone, Debug)]
pub(super) struct Features {
    arbitration: u32,
    power: PowerManagement,
    over_temperature: u16,
    under_temperature: u16,
    error_recovery: ErrorRecovery,
    write_atomicity: WriteAtomicity,
}

/// What features read and change.
#[derive(Debug)]
pub(super) struct FeatureCx<'a> {
    pub(super) now: Instant,
    pub(super) limits: &'a TargetLimits,
    pub(super) controller: &'a Controller,
    pub(super) events: &'a mut Events,
    pub(super) keep_alive: &'a mut KeepAlive,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            arbitration: 0,
            power: PowerManagement(0),
            over_temperature: NEVER_OVER,
            under_temperature: 0,
            error_recovery: ErrorRecovery(0),
            write_atomicity: WriteAtomicity(0),
        }
    }
}

impl Features {
    /// Get Features.
    pub(super) fn get(&self, cx: &mut FeatureCx<'_>, cmd: &GetFeaturesCmd, buffer_len: u32) -> Result<Reply, Status> {
        let fid = cmd.fid();
        let capabilities = capabilities(cx, fid).ok_or(Status::INVALID_FIELD)?;
        match cmd.sel() {
            FeatureSelect::CURRENT => self.current(cx, cmd, buffer_len),
            FeatureSelect::SUPPORTED_CAPABILITIES => Ok(Reply::result(capabilities.bits())),
            // What cannot be saved has its default as the saved value.
            FeatureSelect::DEFAULT | FeatureSelect::SAVED => match fid {
                FeatureId::KEEP_ALIVE_TIMER | FeatureId::ASYNC_EVENT_CONFIGURATION => Ok(Reply::default()),
                FeatureId::NUMBER_OF_QUEUES => Ok(Reply::result(queues(cx.limits.io_queues()).0)),
                FeatureId::KEY_VALUE_CONFIGURATION => {
                    kv_namespace(cx, cmd.head.nsid.get())?;
                    Ok(Reply::default())
                }
                _ => Self::default().current(cx, cmd, buffer_len),
            },
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// Set Features. Returns dword 0 of the completion.
    pub(super) fn set(&mut self, cx: &mut FeatureCx<'_>, cmd: &SetFeaturesCmd) -> Result<u32, Status> {
        let (fid, value, nsid) = (cmd.fid(), cmd.cdw11.get(), cmd.head.nsid.get());
        let capabilities = capabilities(cx, fid).ok_or(Status::INVALID_FIELD)?;
        if cmd.sv() {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        if !capabilities.contains(FeatureCapabilities::NAMESPACE_SPECIFIC) && nsid != 0 && nsid != NSID_ALL {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
        }
        match fid {
            FeatureId::ARBITRATION => self.arbitration = value,
            FeatureId::POWER_MANAGEMENT => {
                let power = PowerManagement(value);
                if power.ps() != 0 {
                    return Err(Status::INVALID_FIELD);
                }
                self.power = power;
            }
            FeatureId::TEMPERATURE_THRESHOLD => self.set_temperature(TemperatureThreshold(value))?,
            FeatureId::ERROR_RECOVERY => {
                let recovery = ErrorRecovery(value);
                if recovery.dulbe() {
                    return Err(Status::INVALID_FIELD);
                }
                self.error_recovery = recovery;
            }
            FeatureId::VOLATILE_WRITE_CACHE => {
                if !VolatileWriteCache(value).wce() {
                    return Err(Status::FEATURE_NOT_CHANGEABLE);
                }
            }
            FeatureId::NUMBER_OF_QUEUES => return set_queues(cx, NumberOfQueues(value)),
            FeatureId::WRITE_ATOMICITY => self.write_atomicity = WriteAtomicity(value),
            FeatureId::ASYNC_EVENT_CONFIGURATION => {
                if !cx.events.configure(AsyncEventConfig::from_bits_retain(value)) {
                    return Err(Status::INVALID_FIELD);
                }
            }
            FeatureId::KEEP_ALIVE_TIMER => cx.keep_alive.set_kato(cx.now, value),
            FeatureId::IO_COMMAND_SET_PROFILE => {
                if IocsProfile(value).iocsci() != 0 {
                    return Err(Status::IOCS_COMBINATION_REJECTED);
                }
            }
            FeatureId::KEY_VALUE_CONFIGURATION => set_kv(cx, nsid, KvConfiguration(value))?,
            // The host gave it with Connect, and it stays.
            FeatureId::HOST_IDENTIFIER => return Err(Status::COMMAND_SEQUENCE_ERROR),
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(0)
    }

    fn current(&self, cx: &FeatureCx<'_>, cmd: &GetFeaturesCmd, buffer_len: u32) -> Result<Reply, Status> {
        Ok(Reply::result(match cmd.fid() {
            FeatureId::ARBITRATION => self.arbitration,
            FeatureId::POWER_MANAGEMENT => self.power.0,
            FeatureId::TEMPERATURE_THRESHOLD => self.temperature(TemperatureThreshold(cmd.cdw11.get()))?.into(),
            FeatureId::ERROR_RECOVERY => self.error_recovery.0,
            FeatureId::VOLATILE_WRITE_CACHE => VolatileWriteCache(0).with_wce(true).0,
            FeatureId::NUMBER_OF_QUEUES => queues(cx.controller.queues_allowed()).0,
            FeatureId::WRITE_ATOMICITY => self.write_atomicity.0,
            FeatureId::ASYNC_EVENT_CONFIGURATION => cx.events.config().bits(),
            FeatureId::KEEP_ALIVE_TIMER => cx.keep_alive.kato_ms(),
            FeatureId::IO_COMMAND_SET_PROFILE => IocsProfile(0).0,
            FeatureId::KEY_VALUE_CONFIGURATION => {
                let (table, nsid) = kv_namespace(cx, cmd.head.nsid.get())?;
                table.get(nsid).map_or(0, |ns| subsystem::kv_configuration(ns).0)
            }
            FeatureId::HOST_IDENTIFIER => {
                let hostid = cx.controller.hostid;
                // 64-bit identifiers do not exist over fabrics.
                if !HostIdentifier(cmd.cdw11.get()).exhid() {
                    return Err(Status::INVALID_FIELD);
                }
                if (buffer_len as usize) < hostid.len() {
                    return Err(Status::DATA_SGL_LENGTH_INVALID);
                }
                return Ok(Reply::data(hostid.to_vec()));
            }
            _ => return Err(Status::INVALID_FIELD),
        }))
    }

    /// There is no sensor: thresholds are kept, and never passed.
    fn set_temperature(&mut self, threshold: TemperatureThreshold) -> Result<(), Status> {
        if !matches!(threshold.tmpsel(), 0 | 0xf) {
            return Err(Status::INVALID_FIELD);
        }
        match threshold.thsel() {
            0 => self.over_temperature = threshold.tmpth(),
            1 => self.under_temperature = threshold.tmpth(),
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(())
    }

    fn temperature(&self, which: TemperatureThreshold) -> Result<u16, Status> {
        match (which.tmpsel(), which.thsel()) {
            (0, 0) => Ok(self.over_temperature),
            (0, 1) => Ok(self.under_temperature),
            _ => Err(Status::INVALID_FIELD),
        }
    }
}

/// What can be done with feature `fid` on this controller; `None` if it has no such feature.
fn capabilities(cx: &FeatureCx<'_>, fid: FeatureId) -> Option<FeatureCapabilities> {
    let changeable = Some(FeatureCapabilities::CHANGEABLE);
    match fid {
        FeatureId::ASYNC_EVENT_CONFIGURATION | FeatureId::KEEP_ALIVE_TIMER => changeable,
        _ if cx.controller.subsystem.is_discovery => None,
        FeatureId::ARBITRATION
        | FeatureId::POWER_MANAGEMENT
        | FeatureId::TEMPERATURE_THRESHOLD
        | FeatureId::ERROR_RECOVERY
        | FeatureId::NUMBER_OF_QUEUES
        | FeatureId::WRITE_ATOMICITY
        | FeatureId::IO_COMMAND_SET_PROFILE => changeable,
        FeatureId::KEY_VALUE_CONFIGURATION => {
            Some(FeatureCapabilities::CHANGEABLE | FeatureCapabilities::NAMESPACE_SPECIFIC)
        }
        FeatureId::HOST_IDENTIFIER => Some(FeatureCapabilities::empty()),
        FeatureId::VOLATILE_WRITE_CACHE if cx.controller.subsystem.namespaces().has_volatile_cache() => {
            Some(FeatureCapabilities::empty())
        }
        _ => None,
    }
}

fn queues(pairs: u16) -> NumberOfQueues {
    NumberOfQueues::pairs(pairs.into()).unwrap_or_default()
}

fn set_queues(cx: &FeatureCx<'_>, asked: NumberOfQueues) -> Result<u32, Status> {
    let pairs = asked.pair_count().ok_or(Status::INVALID_FIELD)?;
    let allowed = u16::try_from(pairs).unwrap_or(u16::MAX).min(cx.limits.io_queues());
    cx.controller.allow_queues(allowed)?;
    Ok(queues(allowed).0)
}

/// The namespaces and `nsid`, if that is a KV namespace that the host sees.
fn kv_namespace(cx: &FeatureCx<'_>, nsid: u32) -> Result<(NamespaceTable, u32), Status> {
    let table = cx.controller.subsystem.namespaces();
    let ns = table.get(nsid).filter(|ns| cx.controller.sets().contains(ns.csi()));
    match ns {
        None => Err(Status::INVALID_NAMESPACE_OR_FORMAT),
        Some(ns) if !ns.is_kv() => Err(Status::INVALID_FIELD),
        Some(_) => Ok((table, nsid)),
    }
}

fn set_kv(cx: &FeatureCx<'_>, nsid: u32, value: KvConfiguration) -> Result<(), Status> {
    let set = |ns: &crate::model::Namespace| ns.state.ednek.store(value.ednek(), Ordering::Relaxed);
    if nsid == NSID_ALL {
        let sets = cx.controller.sets();
        cx.controller
            .subsystem
            .namespaces()
            .iter()
            .filter(|ns| ns.is_kv() && sets.contains(ns.csi()))
            .for_each(|ns| set(ns));
        return Ok(());
    }
    let (table, nsid) = kv_namespace(cx, nsid)?;
    table.get(nsid).into_iter().for_each(|ns| set(ns));
    Ok(())
}

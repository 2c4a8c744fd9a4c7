//! Identify (section 5.17): what a controller says of itself and of its namespaces.
//!
//! A host sees the namespaces of the command sets that it enabled; any other is as if it did not exist, so that a host
//! which knows blocks only does not take a KV namespace for a disk.

use std::sync::Arc;

use kvof_kv::{IdentifyKvController, IdentifyKvNamespace};
use kvof_spec::{
    Csi, FromZeros, IntoBytes, Status, Vs,
    identify::{
        Cmic, Cns, ControllerType, Ctratt, IDENTIFY_SIZE, IdentifyCmd, IdentifyController, IdentifyControllerNvm,
        IdentifyIocs, IdentifyNamespace, IdentifyNamespaceIndependent, IdentifyNamespaceNvm, IocsVector, LbaFormat,
        Lpa, Nmic, NsDescriptor, NsDescriptorList, NsList, NsStatus, Oaes, Oncs, Sgls, Vwc,
    },
};

use super::{
    TargetLimits, controller::Controller, error_log::ELPE, events::AERL, keep_alive::KAS, registry::Registry,
    subsystem::NamespaceTable,
};
use crate::model::{Namespace, NamespaceKindDef, TransportKind};

/// ACL: Abort commands at a time, 0's based. An Abort completes at once, so that there is never a second one.
const ACL: u8 = 3;
/// FRMW: one firmware slot, read only.
const FRMW: u8 = 1 << 1 | 1;
/// OFCS: Disconnect is supported.
const OFCS_DISCONNECT: u16 = 1;
/// DCTYPE: a direct discovery controller.
const DCTYPE_DIRECT: u8 = 1;
/// SQES and CQES: smallest and largest size of 2^6 and 2^4 bytes.
const SQES: u8 = 0x66;
const CQES: u8 = 0x44;
/// Bytes of a submission queue entry, and the unit of IOCCSZ and IORCSZ.
const SQE_SIZE: u32 = 64;
const CAPSULE_UNIT: u32 = 16;
/// Bytes of an SGL descriptor.
const SGL_DESCRIPTOR: u32 = 16;
/// Bytes of a block in which a KV namespace counts its size where only blocks can be said (CNS 00h).
const KV_BLOCK: u64 = 512;
/// CNTID that means the controller that processes the command.
const CNTID_SELF: u16 = 0xffff;

/// FR: firmware revision, ASCII, at most 8 characters.
pub(super) const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

/// The data structure that `cmd` asks for, 4096 bytes.
pub(super) fn identify(
    registry: &Registry,
    controller: &Controller,
    cmd: &IdentifyCmd,
    buffer_len: u32,
) -> Result<Vec<u8>, Status> {
    let data = if controller.subsystem.is_discovery {
        match cmd.cns() {
            Cns::CONTROLLER => discovery_controller(registry, controller).as_bytes().to_vec(),
            _ => return Err(Status::INVALID_FIELD),
        }
    } else {
        structure(&Cx::new(registry, controller), cmd)?
    };
    if (buffer_len as usize) < data.len() {
        return Err(Status::DATA_SGL_LENGTH_INVALID);
    }
    Ok(data)
}

struct Cx<'a> {
    registry: &'a Registry,
    controller: &'a Controller,
    namespaces: NamespaceTable,
}

impl<'a> Cx<'a> {
    fn new(registry: &'a Registry, controller: &'a Controller) -> Self {
        Self { registry, controller, namespaces: controller.subsystem.namespaces() }
    }

    fn is_visible(&self, ns: &Namespace) -> bool {
        self.controller.sets().contains(ns.csi())
    }

    /// Namespace `nsid`: `None` for one that could exist but does not.
    fn namespace(&self, nsid: u32) -> Result<Option<&Arc<Namespace>>, Status> {
        if nsid == 0 || nsid > self.namespaces.largest_nsid() {
            return Err(Status::INVALID_NAMESPACE_OR_FORMAT);
        }
        Ok(self.namespaces.get(nsid).filter(|ns| self.is_visible(ns)))
    }

    /// The visible namespaces after `nsid`, of one command set or of all.
    fn list(&self, nsid: u32, csi: Option<Csi>) -> Result<NsList, Status> {
        if nsid >= 0xffff_fffe {
            return Err(Status::INVALID_NAMESPACE_OR_FORMAT);
        }
        let visible = self.namespaces.iter().filter(|ns| self.is_visible(ns) && csi.is_none_or(|csi| ns.csi() == csi));
        Ok(NsList::after(nsid, visible.map(|ns| ns.def.nsid)))
    }
}

fn structure(cx: &Cx<'_>, cmd: &IdentifyCmd) -> Result<Vec<u8>, Status> {
    let nsid = cmd.head.nsid.get();
    // An inactive namespace has a structure full of zeros.
    let or_zeros = |data: Option<Vec<u8>>| data.unwrap_or_else(|| vec![0; IDENTIFY_SIZE]);
    Ok(match cmd.cns() {
        Cns::NAMESPACE => or_zeros(cx.namespace(nsid)?.map(|ns| namespace(ns).as_bytes().to_vec())),
        Cns::CONTROLLER => io_controller(cx).as_bytes().to_vec(),
        Cns::ACTIVE_NAMESPACES => cx.list(nsid, None)?.as_bytes().to_vec(),
        Cns::NAMESPACE_DESCRIPTORS => {
            let ns = cx.namespace(nsid)?.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?;
            descriptors(ns)?.as_bytes().to_vec()
        }
        Cns::IOCS_NAMESPACE => {
            let csi = known(cmd.csi())?;
            match cx.namespace(nsid)? {
                Some(ns) if ns.csi() != csi => return Err(Status::INVALID_IOCS),
                ns => or_zeros(ns.map(|ns| iocs_namespace(ns))),
            }
        }
        Cns::IOCS_CONTROLLER => match known(cmd.csi())? {
            Csi::KV => IdentifyKvController::new().as_bytes().to_vec(),
            _ => IdentifyControllerNvm::zeroed().as_bytes().to_vec(),
        },
        Cns::IOCS_ACTIVE_NAMESPACES => cx.list(nsid, Some(known(cmd.csi())?))?.as_bytes().to_vec(),
        Cns::IOCS_INDEPENDENT_NAMESPACE => {
            or_zeros(cx.namespace(nsid)?.map(|_| independent_namespace().as_bytes().to_vec()))
        }
        Cns::IO_COMMAND_SETS => {
            if ![CNTID_SELF, cx.controller.cntlid].contains(&cmd.cntid.get()) {
                return Err(Status::INVALID_FIELD);
            }
            IdentifyIocs::new(&[IocsVector::NVM | IocsVector::KV]).as_bytes().to_vec()
        }
        _ => return Err(Status::INVALID_FIELD),
    })
}

/// `csi`, if the target serves it.
fn known(csi: Csi) -> Result<Csi, Status> {
    if matches!(csi, Csi::NVM | Csi::KV) { Ok(csi) } else { Err(Status::INVALID_FIELD) }
}

/// What I/O and discovery controllers have in common.
fn any_controller(registry: &Registry, controller: &Controller) -> IdentifyController {
    let subsystem = &controller.subsystem;
    let mut id = IdentifyController::zeroed();
    // The names were checked when the definition was, so that this cannot fail.
    let _ = id.set_names(&subsystem.serial, &subsystem.model, FIRMWARE);
    id.mdts = registry.limits.mdts_exponent();
    id.cntlid = controller.cntlid.into();
    id.ver = Vs::V2_0.0.into();
    id.ctratt = (Ctratt::HOST_ID_128 | Ctratt::TBKAS).bits().into();
    id.acl = ACL;
    id.aerl = AERL;
    id.elpe = ELPE;
    id.kas = KAS.into();
    id.sqes = SQES;
    id.cqes = CQES;
    let (sgls, msdbd) = descriptors_of(&registry.limits, controller.transport.kind);
    id.sgls = sgls.bits().into();
    id.subnqn = subsystem.nqn.to_field();
    id.iorcsz = 1.into();
    id.msdbd = msdbd;
    id
}

/// SGLS and MSDBD: what describes the data of a command over `kind`.
fn descriptors_of(limits: &TargetLimits, kind: TransportKind) -> (Sgls, u8) {
    match kind {
        TransportKind::Tcp => (Sgls::SUPPORTED | Sgls::OFFSET | Sgls::TRANSPORT, 1),
        TransportKind::Rdma => {
            let mut sgls = Sgls::SUPPORTED | Sgls::KEYED;
            // Hosts take it for leave to send data in capsules.
            sgls.set(Sgls::OFFSET, limits.rdma.in_capsule > 0);
            // A list of them lies in the capsule.
            let room = u8::try_from(limits.rdma.in_capsule / SGL_DESCRIPTOR).unwrap_or(u8::MAX);
            (sgls, limits.rdma.segments.min(room).max(1))
        }
    }
}

fn discovery_controller(registry: &Registry, controller: &Controller) -> IdentifyController {
    let mut id = any_controller(registry, controller);
    id.cntrltype = ControllerType::DISCOVERY.0;
    id.dctype = DCTYPE_DIRECT;
    id.oaes = Oaes::DISCOVERY_LOG_CHANGE.bits().into();
    id.lpa = Lpa::EXTENDED_DATA.bits();
    id.maxcmd = registry.limits.admin_entries(controller.transport.kind).into();
    id.ioccsz = (SQE_SIZE / CAPSULE_UNIT).into();
    id
}

fn io_controller(cx: &Cx<'_>) -> IdentifyController {
    let (limits, kind) = (&cx.registry.limits, cx.controller.transport.kind);
    let mut id = any_controller(cx.registry, cx.controller);
    id.cntrltype = ControllerType::IO.0;
    id.cmic = (Cmic::MULTI_PORT | Cmic::MULTI_CONTROLLER).bits();
    id.oaes = Oaes::NAMESPACE_ATTRIBUTE.bits().into();
    id.frmw = FRMW;
    id.lpa = (Lpa::COMMANDS_SUPPORTED | Lpa::EXTENDED_DATA).bits();
    id.maxcmd = limits.queue_entries(kind).into();
    id.nn = cx.namespaces.largest_nsid().into();
    id.mnan = cx.namespaces.most().into();
    id.oncs = (Oncs::COMPARE | Oncs::DATASET_MANAGEMENT | Oncs::WRITE_ZEROES | Oncs::SAVE_SELECT).bits().into();
    if cx.namespaces.has_volatile_cache() {
        id.vwc = (Vwc::PRESENT | Vwc::FLUSH_ALL_UNSUPPORTED).bits();
    }
    id.ioccsz = (SQE_SIZE.saturating_add(limits.in_capsule(kind)) / CAPSULE_UNIT).into();
    id.ofcs = OFCS_DISCONNECT.into();
    id
}

/// CNS 00h. For a KV namespace, which this structure was not made for, hosts still ask: its size in blocks, and no more.
fn namespace(ns: &Namespace) -> IdentifyNamespace {
    let mut id = IdentifyNamespace::zeroed();
    let (block, size) = match ns.def.kind {
        NamespaceKindDef::Nvm { block_size, size, .. } => (u64::from(block_size), size),
        NamespaceKindDef::Kv { size, .. } => (KV_BLOCK, size),
    };
    let blocks = (size / block.max(1)).max(1);
    let used = match ns.def.kind {
        NamespaceKindDef::Nvm { .. } => blocks,
        NamespaceKindDef::Kv { .. } => ns.state.usage.current().nuse.div_ceil(KV_BLOCK).min(blocks),
    };
    id.nsze = blocks.into();
    id.ncap = blocks.into();
    id.nuse = used.into();
    id.nmic = Nmic::SHARED.bits();
    id.nvmcap = u128::from(size).into();
    id.nguid = ns.def.nguid;
    if let Some(format) = id.lbaf.first_mut() {
        *format = LbaFormat { lbads: u8::try_from(block.max(1).ilog2()).unwrap_or(0), ..LbaFormat::default() };
    }
    id
}

/// CNS 05h.
fn iocs_namespace(ns: &Namespace) -> Vec<u8> {
    let NamespaceKindDef::Kv { limits, .. } = &ns.def.kind else {
        // No protection information and no storage tags.
        return IdentifyNamespaceNvm::zeroed().as_bytes().to_vec();
    };
    let mut id = IdentifyKvNamespace::new(limits, &ns.state.usage.current());
    id.nmic = Nmic::SHARED.bits();
    id.nguid = ns.def.nguid;
    id.as_bytes().to_vec()
}

/// CNS 08h.
fn independent_namespace() -> IdentifyNamespaceIndependent {
    let mut id = IdentifyNamespaceIndependent::new_zeroed();
    id.nmic = Nmic::SHARED.bits();
    id.nstat = NsStatus::READY.bits();
    id
}

/// CNS 03h.
fn descriptors(ns: &Namespace) -> Result<NsDescriptorList, Status> {
    let uuid = (ns.def.uuid != [0; 16]).then_some(NsDescriptor::Uuid(ns.def.uuid));
    let nguid = (ns.def.nguid != [0; 16]).then_some(NsDescriptor::Nguid(ns.def.nguid));
    let all = [nguid, uuid, Some(NsDescriptor::Csi(ns.csi()))];
    NsDescriptorList::new(all.into_iter().flatten()).map_err(|_| Status::INTERNAL_ERROR)
}

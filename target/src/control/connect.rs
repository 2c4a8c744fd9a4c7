//! Connect (section 6.3): a host's queue finds its controller, or is told which parameter is wrong.
//!
//! Do Not Retry goes with what only a changed configuration could cure. It is left out where the target or the host is
//! on its way to another state, because hosts give up reconnecting when they see it.

use std::{sync::Arc, time::Instant};

use kvof_spec::{
    FromBytes, Nqn, Sqe, Status,
    fabrics::{CNTLID_DYNAMIC, ConnectAttributes, ConnectCmd, ConnectData, ConnectError, ConnectResult},
};

use super::{
    AdminQueue, Connected, ConnectedQueue, IoQueue, QueueTransport, Reply,
    controller::{Controller, QueueRefused},
    registry::Registry,
};

const IPO_QID: ConnectError = ConnectError::command(42);
const IPO_SQSIZE: ConnectError = ConnectError::command(44);
const IPO_HOSTID: ConnectError = ConnectError::data(0);
const IPO_CNTLID: ConnectError = ConnectError::data(16);
const IPO_SUBNQN: ConnectError = ConnectError::data(256);
const IPO_HOSTNQN: ConnectError = ConnectError::data(512);

/// The names in the data of a Connect command.
struct Names {
    hostid: [u8; 16],
    cntlid: u16,
    subnqn: Nqn,
    hostnqn: Nqn,
}

pub(super) fn connect(
    registry: &Arc<Registry>,
    now: Instant,
    sqe: &Sqe,
    data: &[u8],
    transport: &QueueTransport,
) -> Result<Connected, Reply> {
    let cmd = ConnectCmd::from_sqe(sqe);
    if cmd.recfmt.get() != 0 {
        return Err(Reply::status(Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr()));
    }
    let Ok(data) = ConnectData::ref_from_bytes(data) else {
        return Err(Reply::status(Status::DATA_SGL_LENGTH_INVALID.with_dnr()));
    };
    let names = names(data)?;
    let admin = cmd.qid.get() == 0;
    let most = if admin {
        registry.limits.admin_entries(transport.kind)
    } else {
        registry.limits.queue_entries(transport.kind)
    };
    // SQSIZE is 0's based, and a queue of one entry can hold no command.
    let sqsize = match cmd.sqsize.get().checked_add(1) {
        Some(entries) if entries >= 2 && entries <= most => entries,
        _ => return Err(invalid(IPO_SQSIZE)),
    };
    let (queue, cntlid) = if admin {
        let queue = admin_queue(registry, now, &cmd, names, transport)?;
        let cntlid = queue.cntlid();
        (ConnectedQueue::Admin(queue), cntlid)
    } else {
        let queue = io_queue(registry, now, &cmd, &names, transport)?;
        let cntlid = queue.cntlid();
        (ConnectedQueue::Io(queue), cntlid)
    };
    Ok(Connected {
        queue,
        reply: Reply { result: ConnectResult::default().with_cntlid(cntlid).0.into(), ..Reply::default() },
        sqsize,
        flow_control: !cmd.cattr().contains(ConnectAttributes::DISABLE_SQ_FLOW_CONTROL),
    })
}

fn names(data: &ConnectData) -> Result<Names, Reply> {
    let subnqn = Nqn::from_field(&data.subnqn).map_err(|_| invalid(IPO_SUBNQN))?;
    let hostnqn = Nqn::from_field(&data.hostnqn).map_err(|_| invalid(IPO_HOSTNQN))?;
    if data.hostid == [0; 16] {
        return Err(invalid(IPO_HOSTID));
    }
    Ok(Names { hostid: data.hostid, cntlid: data.cntlid.get(), subnqn, hostnqn })
}

fn admin_queue(
    registry: &Arc<Registry>,
    now: Instant,
    cmd: &ConnectCmd,
    names: Names,
    transport: &QueueTransport,
) -> Result<AdminQueue, Reply> {
    let controller = registry.with(|state| {
        let subsystem = state.subsystem(&names.subnqn).ok_or_else(|| invalid(IPO_SUBNQN))?;
        let subsystem = Arc::clone(subsystem);
        if !subsystem.allows(&names.hostnqn) {
            return Err(Reply::status(Status::CONNECT_INVALID_HOST.with_dnr()));
        }
        if names.cntlid != CNTLID_DYNAMIC {
            return Err(invalid(IPO_CNTLID));
        }
        if state.stopped || state.controllers.len() >= usize::from(registry.limits.max_controllers) {
            return Err(Reply::status(Status::CONNECT_CONTROLLER_BUSY));
        }
        let cntlid = state.free_cntlid().ok_or_else(|| Reply::status(Status::CONNECT_CONTROLLER_BUSY))?;
        let queues = if subsystem.is_discovery { 0 } else { registry.limits.io_queues() };
        let host = (names.hostnqn, names.hostid);
        let controller = Arc::new(Controller::new(cntlid, subsystem, host, transport.clone(), queues, now));
        state.controllers.insert(cntlid, Arc::clone(&controller));
        Ok(controller)
    })?;
    tracing::info!(
        cntlid = controller.cntlid,
        subnqn = %controller.subsystem.nqn,
        hostnqn = %controller.hostnqn,
        peer = %transport.peer,
        transport = %transport.kind,
        kato_ms = cmd.kato.get(),
        "host connected"
    );
    Ok(AdminQueue::new(Arc::clone(registry), controller, cmd.kato.get(), now))
}

fn io_queue(
    registry: &Arc<Registry>,
    now: Instant,
    cmd: &ConnectCmd,
    names: &Names,
    transport: &QueueTransport,
) -> Result<IoQueue, Reply> {
    let controller = registry.with(|state| {
        if state.subsystem(&names.subnqn).is_none() {
            return Err(invalid(IPO_SUBNQN));
        }
        // The host may be about to notice that its controller is gone, so that it may try again.
        let controller = state.controllers.get(&names.cntlid).filter(|c| c.subsystem.nqn == names.subnqn);
        let controller = controller.ok_or_else(|| invalid_for_now(IPO_CNTLID))?;
        if controller.hostnqn != names.hostnqn {
            return Err(invalid(IPO_HOSTNQN));
        }
        if controller.hostid != names.hostid {
            return Err(invalid(IPO_HOSTID));
        }
        // All queues of a controller are reached by one transport (section 2.2); this one has no such controller.
        if controller.transport.kind != transport.kind {
            return Err(invalid(IPO_CNTLID));
        }
        Ok(Arc::clone(controller))
    })?;
    if controller.closed().is_some() {
        return Err(invalid_for_now(IPO_CNTLID));
    }
    let (qid, token) = (cmd.qid.get(), registry.token());
    let epoch = controller.add_queue(qid, token, Arc::clone(&transport.wake)).map_err(|refused| match refused {
        QueueRefused::OutOfRange => invalid(IPO_QID),
        QueueRefused::NotReady | QueueRefused::InUse => Reply::status(Status::COMMAND_SEQUENCE_ERROR),
    })?;
    controller.touch(now);
    tracing::debug!(cntlid = controller.cntlid, qid, peer = %transport.peer, "I/O queue connected");
    Ok(IoQueue::new(controller, qid, token, epoch))
}

/// Connect Invalid Parameters, and which one.
fn invalid(error: ConnectError) -> Reply {
    Reply { status: Status::CONNECT_INVALID_PARAMETERS.with_dnr(), result: error.0.into(), data: Vec::new() }
}

/// The same, where a later attempt may succeed.
fn invalid_for_now(error: ConnectError) -> Reply {
    Reply { status: Status::CONNECT_INVALID_PARAMETERS, ..invalid(error) }
}

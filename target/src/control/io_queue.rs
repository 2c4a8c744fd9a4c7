//! The control plane's handle of an I/O queue: atomics for the data path, and the few Fabrics commands.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::Instant,
};

use kvof_spec::{FabricsType, Sqe, Status, fabrics::DisconnectCmd};

use super::{CloseReason, Reply, controller::Controller, io_counters::IoCounters, subsystem::NamespaceTable};
use crate::model::Namespace;

/// An I/O queue of a controller. Dropping it frees its identifier.
#[derive(Debug)]
pub struct IoQueue {
    controller: Arc<Controller>,
    qid: u16,
    /// Tells this queue from a later one with the same `qid`.
    token: u64,
    epoch: u32,
    cache: RefCell<(u64, NamespaceTable)>,
    /// When the controller was last told of a command.
    touched: Cell<Option<Instant>>,
    counters: Arc<IoCounters>,
    /// The host deleted the queue; the connection is its to close.
    deleted: bool,
}

impl IoQueue {
    pub(super) fn new(controller: Arc<Controller>, qid: u16, token: u64, epoch: u32) -> Self {
        let cache = RefCell::new((controller.subsystem.generation(), controller.subsystem.namespaces()));
        let counters = controller.subsystem.io.open();
        Self { controller, qid, token, epoch, cache, touched: Cell::new(None), counters, deleted: false }
    }

    /// Queue identifier, at least 1.
    #[must_use]
    pub const fn qid(&self) -> u16 {
        self.qid
    }

    /// The controller's identifier.
    #[must_use]
    pub fn cntlid(&self) -> u16 {
        self.controller.cntlid
    }

    /// Whether I/O commands are processed: the controller is enabled and not shut down, and the queue is not deleted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.deleted && self.controller.is_ready(self.epoch)
    }

    /// Namespace `nsid`, if the host sees it with the command sets that it enabled.
    #[must_use]
    pub fn namespace(&self, nsid: u32) -> Option<Arc<Namespace>> {
        let mut cache = self.cache.borrow_mut();
        let generation = self.controller.subsystem.generation();
        if cache.0 != generation {
            *cache = (generation, self.controller.subsystem.namespaces());
        }
        cache.1.get(nsid).filter(|ns| self.controller.sets().contains(ns.csi())).cloned()
    }

    /// A command came: the host is alive.
    pub fn touch(&self, now: Instant) {
        // Commands that are received together come at the same time, and telling it once is enough.
        if self.touched.replace(Some(now)) != Some(now) {
            self.controller.touch(now);
        }
    }

    /// Counts an I/O command for the SMART / Health log page: it ended with `status`, and moved `bytes` of data to or from
    /// the host.
    pub fn count(&self, opcode: u8, bytes: u64, status: Status) {
        self.counters.count(opcode, bytes, status);
    }

    /// Why the connection has to end, if it has to.
    #[must_use]
    pub fn must_close(&self) -> Option<CloseReason> {
        let reset = self.controller.epoch() != self.epoch && !self.deleted;
        self.controller.closed().or(reset.then_some(CloseReason::ControllerReset))
    }

    /// Runs a Fabrics command that came on this queue (section 6): Disconnect. Connect on a connected queue is a Command
    /// Sequence Error; the other commands do not exist here.
    pub fn handle_fabrics(&mut self, now: Instant, sqe: &Sqe) -> Reply {
        self.touch(now);
        Reply::status(match FabricsType(sqe.fctype()) {
            FabricsType::CONNECT => Status::COMMAND_SEQUENCE_ERROR.with_dnr(),
            FabricsType::DISCONNECT if DisconnectCmd::from_sqe(sqe).recfmt.get() != 0 => {
                Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr()
            }
            FabricsType::DISCONNECT => {
                self.deleted = true;
                self.controller.remove_queue(self.qid, self.token);
                Status::SUCCESS
            }
            _ => Status::INVALID_OPCODE.with_dnr(),
        })
    }
}

impl Drop for IoQueue {
    fn drop(&mut self) {
        self.controller.remove_queue(self.qid, self.token);
        self.controller.subsystem.io.close(&self.counters);
    }
}

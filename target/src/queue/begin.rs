//! A command's first step: what is checked and answered at once, and what becomes an outstanding command.

use std::sync::Arc;

use kvof_kv::OpId;
use kvof_spec::{AdminOpcode, FabricsType, Sqe, Status};

use super::{
    ADMIN_DATA_MAX, CommandIndex, Cx, HostData, Landing, Queue, QueueViolation, Role, Step,
    command::{Command, Obligation, Stage, Then},
};
use crate::{
    backend::{IoRequest, Submitted},
    model::Namespace,
    namespace::{self, Completion, Prepared},
};

/// The broadcast NSID.
const NSID_ALL: u32 = u32::MAX;
/// Bytes of the data of a Connect command.
const CONNECT_DATA_SIZE: u32 = 1024;

impl Queue {
    /// The commands `sqes` have come together and will be begun one after the other, if nothing is wrong with them.
    pub fn expect<'a>(&self, cx: &Cx<'_>, sqes: impl Iterator<Item = &'a Sqe> + Clone) {
        let Role::Io(queue) = &self.role else { return };
        let Some(nsid) = sqes.clone().next().map(|sqe| sqe.nsid.get()) else { return };
        if let Some(ns) = queue.namespace(nsid) {
            cx.backends.expect(&ns, sqes.filter(|sqe| sqe.nsid.get() == nsid));
        }
    }

    /// Takes a command whose capsule has arrived. `data` is what the transport read from the SGL, or the status with
    /// which the command is refused because its SGL is unusable. `here` is the data themselves where they came with the capsule and
    /// are whole, else empty: then no [`Step::Receive`] follows.
    ///
    /// # Errors
    /// [`QueueViolation`] where the command cannot be answered; the transport ends the connection.
    pub fn begin(
        &mut self,
        cx: &mut Cx<'_>,
        sqe: &Sqe,
        data: Result<HostData, Status>,
        here: &[u8],
    ) -> Result<Step, QueueViolation> {
        let cid = sqe.cid.get();
        self.sqhd = if self.sqhd + 1 < self.sqsize { self.sqhd + 1 } else { 0 };
        if self.busy() >= usize::from(self.sqsize) {
            return Err(QueueViolation::Overflow(self.sqsize));
        }
        if let Role::Io(queue) = &self.role {
            queue.touch(cx.now);
        }
        if !self.cids.insert(cid) {
            let conflict = Completion::status(Status::COMMAND_ID_CONFLICT.with_dnr());
            return Ok(Step::Respond(self.response(self.next_index(), cid, conflict)));
        }
        let step = match data {
            Err(status) => Err(status),
            Ok(_) if sqe.fuse() != 0 || sqe.psdt() != 1 => Err(Status::INVALID_FIELD.with_dnr()),
            Ok(data) if sqe.opcode == AdminOpcode::FABRICS.0 || !matches!(self.role, Role::Io(_)) => {
                self.begin_control(cx, sqe, data, here)
            }
            Ok(data) => self.begin_io(cx, sqe, data, here),
        };
        Ok(step.unwrap_or_else(|status| self.answer(cid, Completion::status(status))))
    }

    /// A command of an admin queue, or a Fabrics command. With an error it is not outstanding.
    fn begin_control(&mut self, cx: &mut Cx<'_>, sqe: &Sqe, data: HostData, here: &[u8]) -> Result<Step, Status> {
        let fabrics = sqe.opcode == AdminOpcode::FABRICS.0;
        let then = match &mut self.role {
            Role::Unconnected => {
                if !fabrics || sqe.fctype() != FabricsType::CONNECT.0 {
                    return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
                }
                if data.len != CONNECT_DATA_SIZE {
                    return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
                }
                Some(Then::Connect)
            }
            Role::Admin(_) => {
                let to_controller = if fabrics { fabrics_sends_data(sqe.fctype()) } else { sqe.opcode & 0x3 == 1 };
                let has_data = to_controller && data.len > 0;
                if has_data && data.len > ADMIN_DATA_MAX {
                    return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
                }
                has_data.then_some(Then::Admin)
            }
            Role::Io(queue) => {
                let reply = queue.handle_fabrics(cx.now, sqe);
                return Ok(self.answer(sqe.cid.get(), reply.into()));
            }
        };
        let index = self.outstanding(sqe, data, None, Stage::Executing);
        let Some(then) = then else { return Ok(self.admin(cx, index, &[])) };
        Ok(match (here.get(..data.len as usize), then) {
            (Some(bytes), Then::Connect) => self.connect(cx, index, bytes),
            (Some(bytes), Then::Admin) => self.admin(cx, index, bytes),
            (_, then) => {
                let landing = Landing::Heap(vec![0; data.len as usize]);
                self.set_stage(index, Stage::Receiving { landing, then });
                Step::Receive { index, len: data.len }
            }
        })
    }

    /// An I/O command. With an error, or if it is answered at once, it is not outstanding.
    fn begin_io(&mut self, cx: &mut Cx<'_>, sqe: &Sqe, data: HostData, here: &[u8]) -> Result<Step, Status> {
        let Role::Io(queue) = &self.role else { return Err(Status::INTERNAL_ERROR) };
        if !queue.is_ready() {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        let Some(ns) = queue.namespace(sqe.nsid.get()) else {
            // No I/O command here addresses all namespaces at once.
            let broadcast = sqe.nsid.get() == NSID_ALL;
            let status = if broadcast { Status::INVALID_FIELD } else { Status::INVALID_NAMESPACE_OR_FORMAT };
            return Err(status.with_dnr());
        };
        if data.len > cx.transfer_max {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let (len, then) = match namespace::prepare(&ns, sqe, data.len) {
            Prepared::Complete(completion) => return Ok(self.answer(sqe.cid.get(), completion)),
            Prepared::Submit(request) => return Ok(self.submit_new(cx, sqe, data, ns, request)),
            Prepared::Receive { len, then } => (len, then),
        };
        let bytes = match here.get(..len as usize) {
            Some(bytes) if len > 0 => bytes,
            _ => {
                let index = self.outstanding(sqe, data, Some(ns), Stage::Executing);
                return Ok(self.receive_pool(cx, index, len, Then::Io(then)));
            }
        };
        // Where the copy is the write, one is enough.
        if let Some(offset) = then.written_to()
            && let Some(outcome) = cx.backends.write_through(&ns, offset, bytes)
        {
            let completion = self.completion(&ns, sqe, data, outcome);
            return Ok(self.answer(sqe.cid.get(), completion));
        }
        if self.starved.is_empty()
            && let Some(mut buf) = cx.pool.alloc(bytes.len())
        {
            buf.copy_in(0, bytes);
            return Ok(self.submit_new(cx, sqe, data, ns, then.submit(buf)));
        }
        let index = self.outstanding(sqe, data, Some(ns), Stage::Executing);
        Ok(self.spill(index, bytes.to_vec(), Then::Io(then)))
    }

    /// Submits the request of a new command, which is outstanding only if that does not complete it.
    fn submit_new(
        &mut self,
        cx: &mut Cx<'_>,
        sqe: &Sqe,
        data: HostData,
        ns: Arc<Namespace>,
        request: IoRequest,
    ) -> Step {
        let index = self.next_index();
        match cx.backends.submit(OpId(cx.op_base | index as u64), ns.backend, &ns, request) {
            Submitted::Done(outcome) => {
                let completion = self.completion(&ns, sqe, data, outcome);
                return self.answer(sqe.cid.get(), completion);
            }
            Submitted::Pending => {
                self.executing += 1;
                self.outstanding(sqe, data, Some(ns), Stage::Executing);
            }
            Submitted::NoMemory(request) => {
                self.outstanding(sqe, data, Some(ns), Stage::AwaitSubmit(request));
                self.starved.push_back(index);
            }
        }
        Step::Later
    }

    /// Keeps a command until it is finished, under [`Self::next_index`].
    fn outstanding(&mut self, sqe: &Sqe, data: HostData, ns: Option<Arc<Namespace>>, stage: Stage) -> CommandIndex {
        let obligation = Obligation::taken(sqe.cid.get());
        self.commands.insert(Command { sqe: *sqe, data, ns, stage, obligation })
    }

    /// Ends a command that is not outstanding.
    fn answer(&mut self, cid: u16, completion: Completion) -> Step {
        self.cids.remove(cid);
        Step::Respond(self.response(self.next_index(), cid, completion))
    }
}

/// Whether a Fabrics command of this type carries data to the controller.
const fn fabrics_sends_data(fctype: u8) -> bool {
    fctype & 0x3 == 1
}

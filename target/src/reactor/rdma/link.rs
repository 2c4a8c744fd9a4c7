//! An RDMA connection on its core: the queue pair, and how its protocol drives it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use kvof_io::{HeapBuf, RdmaBuf};
use kvof_rdma::{Endpoint, Event, WorkCompletion, WorkError};
use kvof_spec::IntoBytes;

use super::{super::tcp::Flushed, reaper::Reserved};
use crate::{
    namespace::DataOut,
    queue::{Cx, Landing},
    transport::{
        CloseReason,
        rdma::{Action, Connection},
    },
};

/// Capsules and ends of transfers of one connection before others have their turn.
const EVENT_BUDGET: usize = 16;
/// How long the device has to give back what is under way once the connection is over.
const LINGER: Duration = Duration::from_secs(2);

/// A connection and its queue pair.
#[derive(Debug)]
pub(in super::super) struct RdmaLink {
    /// `None` once the connection is over and only waits for its last backend operations.
    endpoint: Option<Box<Endpoint<RdmaBuf>>>,
    pub(in super::super) connection: Connection,
    /// What the device has told, and nobody has looked at yet. Bounded by the depth of the queue pair.
    events: VecDeque<Event<RdmaBuf>>,
    pub(super) reserved: Reserved,
    /// The connection is over, and the queue pair was told.
    is_over: bool,
    /// When the queue pair is destroyed whatever is under way.
    deadline: Option<Instant>,
}

impl RdmaLink {
    /// A connection over `endpoint`, for which its core has set `reserved` aside.
    pub(super) fn new(endpoint: Endpoint<RdmaBuf>, connection: Connection, reserved: Reserved) -> Self {
        let endpoint = Some(Box::new(endpoint));
        Self { endpoint, connection, events: VecDeque::new(), reserved, is_over: false, deadline: None }
    }

    /// Whether there is a queue pair.
    pub(in super::super) const fn is_open(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Takes a completion; true if there is something to [`Self::receive`]. `scratch` is empty, and is left so.
    pub(super) fn handle_completion(&mut self, completion: WorkCompletion, scratch: &mut Vec<Event<RdmaBuf>>) -> bool {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.handle(completion, scratch);
            self.events.extend(scratch.drain(..));
        }
        !self.events.is_empty()
    }

    /// Handles what has come, up to a budget; true if there is more.
    pub(in super::super) fn receive(&mut self, cx: &mut Cx<'_>) -> bool {
        for _ in 0..EVENT_BUDGET {
            let Some(event) = self.events.pop_front() else { return false };
            self.handle_event(cx, event);
        }
        !self.events.is_empty()
    }

    fn handle_event(&mut self, cx: &mut Cx<'_>, event: Event<RdmaBuf>) {
        match event {
            Event::Received { slot, .. } => {
                let Some(endpoint) = &mut self.endpoint else { return };
                self.connection.handle_capsule(cx, endpoint.received(slot));
                endpoint.release(slot);
            }
            Event::Fetched { token, memory, result } => {
                if let Err(error) = result {
                    self.note(error);
                }
                match returned(memory) {
                    Some(landing) => self.connection.handle_fetched(cx, token, landing, result),
                    // Only landings are fetched into, so that this does not happen.
                    None => self.connection.handle_end(CloseReason::Rdma("other memory came back".to_owned())),
                }
            }
            Event::Sent { token, result, .. } => {
                if let Err(error) = result {
                    self.note(error);
                }
                self.connection.handle_sent(cx.now, token);
            }
            Event::Failed(error) => self.note(error),
            // Nothing is ever exposed.
            Event::Concealed { .. } => {}
        }
    }

    /// Something has failed, and the connection with it. What is flushed without a failure before it shared the fate of a
    /// connection that the host has ended.
    fn note(&mut self, error: WorkError) {
        self.connection.handle_end(if error.is_flush() {
            CloseReason::Host
        } else {
            CloseReason::Rdma(error.to_string())
        });
    }

    /// Gives the device what the connection wants of it.
    pub(in super::super) fn flush(&mut self) -> Flushed {
        let mut moved = false;
        while let Some(action) = self.connection.poll_action() {
            moved = true;
            // Without a queue pair the connection is over, and nobody waits for it.
            let Some(endpoint) = &mut self.endpoint else { continue };
            match action {
                Action::Fetch { token, landing, segments } => match lend(landing) {
                    Some(memory) => endpoint.fetch(token, memory, &segments),
                    None => self.connection.handle_end(CloseReason::Rdma("no memory for admin data".to_owned())),
                },
                Action::Respond { token, data, cqe, invalidate } => {
                    let invalidate = invalidate.filter(|_| endpoint.device().limits().remote_invalidate);
                    let (data, segments) = data.map(|(data, segments)| (memory(data), segments)).unzip();
                    kvof_io::publish_writes();
                    endpoint.respond(token, data.zip(segments.as_deref()), cqe.as_bytes(), invalidate);
                }
            }
        }
        // What cannot be posted comes back without a completion.
        if let Some(endpoint) = self.endpoint.as_mut().filter(|endpoint| endpoint.has_events()) {
            let mut events = Vec::new();
            endpoint.take_events(&mut events);
            self.events.extend(events);
        }
        Flushed { moved, bytes: 0, resume: !self.events.is_empty() }
    }

    /// The connection is over: ends it at the host too. True the first time.
    pub(in super::super) fn disconnect(&mut self, now: Instant) -> bool {
        if std::mem::replace(&mut self.is_over, true) {
            return false;
        }
        self.deadline = self.deadline.or(Some(now + LINGER));
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.disconnect();
        }
        true
    }

    /// The device goes away, and gives nothing back.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.connection.handle_end(CloseReason::DeviceRemoved);
        self.deadline = Some(now);
    }

    /// The queue pair, to be destroyed, if nothing is under way any more, or that has taken too long.
    pub(in super::super) fn close(&mut self, now: Instant) -> Option<Box<Endpoint<RdmaBuf>>> {
        let is_quiet = self.endpoint.as_ref().is_some_and(|endpoint| endpoint.is_quiet()) && self.events.is_empty();
        if !is_quiet && self.deadline.is_none_or(|at| at > now) {
            return None;
        }
        self.events.clear();
        self.connection.handle_destroyed();
        self.endpoint.take()
    }
}

/// What the device fills; `None` where the system has no memory.
fn lend(landing: Landing) -> Option<RdmaBuf> {
    match landing {
        Landing::Pool(buf) => Some(RdmaBuf::Pool(buf)),
        Landing::Heap(bytes) => HeapBuf::new(bytes.len()).map(RdmaBuf::Heap),
    }
}

/// The landing that was lent as `memory`.
fn returned(memory: RdmaBuf) -> Option<Landing> {
    match memory {
        RdmaBuf::Pool(buf) => Some(Landing::Pool(buf)),
        RdmaBuf::Heap(bytes) => Some(Landing::Heap(bytes.to_vec())),
        _ => None,
    }
}

/// What a device sends of `data`.
fn memory(data: DataOut) -> RdmaBuf {
    match data {
        DataOut::Shared(buf) => buf.into(),
        DataOut::Region(slice) => RdmaBuf::Region(slice),
    }
}

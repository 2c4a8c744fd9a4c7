//! A host queue whose wire is memory, for counting what it costs; not an interface for users.
//!
//! [`Host`] does what the thread of a connection does, in its order, but moves no byte itself.

use std::{
    io::IoSlice,
    time::{Duration, Instant},
};

use kvof_kv::{Key, KvCommand, RetrieveOptions, StoreOptions};
use kvof_memory::Buffer;
use kvof_spec::{
    IntoBytes, SglDescriptor,
    tcp::{Digests, IcResp},
};

use crate::{
    DigestMode, Error,
    buffer::Payload,
    queue::{Answer, Command, Extent, HostQueue, TimeLimit},
    tcp::{IOV_MAX, Settings, TcpQueue},
};

/// The namespace that commands name.
const NSID: u32 = 1;
/// Time limit of a command; no time passes.
const LIMIT: Duration = Duration::from_secs(10);

/// An NVMe/TCP connection that is up, and the queue on it.
#[derive(Debug)]
pub struct Host {
    queue: TcpQueue,
    answers: Vec<(usize, Answer)>,
    now: Instant,
}

/// How a command ended: its key, whether it succeeded, and its buffer.
pub type Ended = (usize, Result<(), Error>, Option<Buffer>);

impl Host {
    /// A connection with `capacity` commands in flight at most, whose controller takes `in_capsule` bytes of data with a
    /// command and `maxh2cdata` bytes of it in a PDU.
    #[must_use]
    pub fn new(capacity: u16, in_capsule: u32, maxh2cdata: u32, digests: Digests) -> Self {
        let mode = |on| if on { DigestMode::Prefer } else { DigestMode::Off };
        let settings = Settings {
            header_digest: mode(digests.header),
            data_digest: mode(digests.data),
            hpda: 0,
            maxr2t: 0,
            capacity,
            in_capsule,
        };
        let mut host =
            Self { queue: TcpQueue::new("memory".into(), settings), answers: Vec::new(), now: Instant::now() };
        host.send(&mut |_| {});
        let icresp = IcResp::new(0, digests, maxh2cdata);
        let (_, place) = host.place();
        for (to, from) in place.iter_mut().zip(icresp.as_bytes()) {
            *to = *from;
        }
        host.received(icresp.as_bytes().len());
        host
    }

    /// Submits a Store; `key` is also what names it in its answer.
    pub fn store(&mut self, name: usize, key: &Key, value: Buffer) {
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let sqe = KvCommand::store(NSID, key, StoreOptions::empty(), len).to_sqe(SglDescriptor::default());
        let limit = TimeLimit::new(self.now, LIMIT);
        self.queue.submit(name, Command::new("Store", sqe, Payload::to_controller(value), limit));
    }

    /// Submits a Retrieve.
    pub fn retrieve(&mut self, name: usize, key: &Key, room: Buffer) {
        let len = u32::try_from(room.len()).unwrap_or(u32::MAX);
        let sqe = KvCommand::retrieve(NSID, key, RetrieveOptions::empty(), len).to_sqe(SglDescriptor::default());
        let limit = TimeLimit::new(self.now, LIMIT);
        let command = Command::new("Retrieve", sqe, Payload::from_controller(room), limit).filling(Extent::Value);
        self.queue.submit(name, command);
    }

    /// Gives all that is to be sent to `wire`, as it would go to the socket.
    pub fn send(&mut self, wire: &mut dyn FnMut(&[IoSlice<'_>])) {
        while self.queue.prepare_transmit() {
            let mut iov = [IoSlice::new(&[]); IOV_MAX];
            let count = self.queue.transmit(&mut iov);
            let pieces = iov.get(..count).unwrap_or_default();
            wire(pieces);
            let sent = pieces.iter().map(|piece| piece.len()).sum();
            self.queue.handle_sent(sent);
        }
    }

    /// Where received bytes belong: first into the first slice, then into the second.
    pub fn place(&mut self) -> (&mut [u8], &mut [u8]) {
        self.queue.receive()
    }

    /// `n` bytes are in [`Self::place`].
    pub fn received(&mut self, n: usize) {
        self.queue.handle_received(n);
    }

    /// Hands out the answers that have come.
    pub fn answers(&mut self, mut to: impl FnMut(Ended)) {
        self.queue.take_answers(&mut self.answers);
        for (name, Answer { result, payload }) in self.answers.drain(..) {
            to((name, result.map(|_| ()), payload.take()));
        }
    }
}

//! A queue pair and a controller in one, for tests and fuzzers: takes the queue's actions, keeps what is exposed, and does
//! with it what an RDMA device would.

#![cfg_attr(not(test), allow(dead_code, reason = "fuzzers use a part of it"))]

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use kvof_spec::sgl::{Sgl, SglDescriptor};
use kvof_spec::sqe::SQE_SIZE;
use kvof_spec::{FromBytes, IntoBytes, Status};

use super::*;
use crate::{
    IoBuf, IoBufMut,
    buffer::Payload,
    queue::{Answer, TimeLimit},
};

pub(crate) const LIMIT: Duration = Duration::from_secs(5);
/// A command with these opcode bits 1:0 reads, writes or moves nothing.
pub(crate) const OPCODE: u8 = 0xc0;

/// Memory that the controller can reach, or could.
#[derive(Debug)]
pub(crate) struct Exposed {
    pub(crate) memory: Buffer,
    pub(crate) key: Key,
    pub(crate) access: Access,
    /// The controller has invalidated the key.
    pub(crate) dead: bool,
    /// The host wants it back.
    pub(crate) concealing: bool,
}

/// A capsule as the controller gets it.
#[derive(Clone, Debug)]
pub(crate) struct Capsule {
    pub(crate) sqe: Sqe,
    pub(crate) behind: Vec<u8>,
}

impl Capsule {
    pub(crate) fn cid(&self) -> u16 {
        self.sqe.cid.get()
    }

    /// The keyed descriptors of the command: address, length, key, invalidate.
    pub(crate) fn descriptors(&self) -> Vec<(u64, u32, u32, bool)> {
        let keyed = |sgl: &SglDescriptor| match sgl.decode() {
            Sgl::Keyed { address, length, key, invalidate } => (address, length, key, invalidate),
            other => panic!("{other:?} is no keyed descriptor"),
        };
        match self.sqe.sgl1.decode() {
            Sgl::LastSegmentOffset { offset: 0, length } => {
                assert_eq!(length as usize, self.behind.len());
                <[SglDescriptor]>::ref_from_bytes(&self.behind).unwrap().iter().map(keyed).collect()
            }
            Sgl::Keyed { length: 0, key: 0, .. } => Vec::new(),
            _ => vec![keyed(&self.sqe.sgl1)],
        }
    }
}

/// A queue and what is at its other end.
pub(crate) struct Rig {
    pub(crate) queue: RdmaQueue,
    pub(crate) now: Instant,
    pub(crate) exposed: BTreeMap<u64, Exposed>,
    /// Capsules that the controller has.
    pub(crate) capsules: VecDeque<Capsule>,
    /// Capsules whose arrival the host has not heard of.
    pub(crate) unacknowledged: VecDeque<u64>,
    pub(crate) answers: BTreeMap<usize, Answer>,
    /// Arrival is told at once.
    pub(crate) acknowledge: bool,
    /// Memory is given back at once.
    pub(crate) give_back: bool,
    /// The controller may invalidate keys.
    pub(crate) invalidatable: bool,
    /// Exposing fails.
    pub(crate) refuse: bool,
    next_key: u32,
}

pub(crate) fn limits() -> Limits {
    Limits { sqsize: 16, in_capsule: 4096, descriptors: 16, flow_control: true }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(limits(), 32)
    }

    pub(crate) fn with(limits: Limits, crqsize: u16) -> Self {
        Self {
            queue: RdmaQueue::new("test".into(), limits, crqsize),
            now: Instant::now(),
            exposed: BTreeMap::new(),
            capsules: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            answers: BTreeMap::new(),
            acknowledge: true,
            give_back: true,
            invalidatable: true,
            refuse: false,
            next_key: 0x100,
        }
    }

    /// Submits a command of which only the data matter.
    pub(crate) fn submit(&mut self, key: usize, payload: Payload) {
        self.submit_filling(key, payload, Extent::Buffer);
    }

    pub(crate) fn submit_filling(&mut self, key: usize, payload: Payload, extent: Extent) {
        let mut sqe = Sqe::new(match payload {
            Payload::None => OPCODE,
            Payload::Out(_) => OPCODE | 1,
            Payload::In(_) => OPCODE | 2,
        });
        let command = Command::new("Test", sqe, payload, TimeLimit::new(self.now, LIMIT));
        sqe.cdw10 = u32::try_from(command.len).unwrap().into();
        let command = Command { sqe, ..command }.filling(extent);
        self.queue.submit(key, command);
        self.pump();
    }

    /// Does what the queue wants.
    pub(crate) fn pump(&mut self) {
        while let Some(action) = self.queue.poll_action() {
            match action {
                Action::Expose { token, memory, .. } if self.refuse => {
                    self.queue.handle_exposed(token, Err((memory, "no more registrations".into())));
                }
                Action::Expose { token, memory, access } => {
                    self.next_key += 1;
                    let address = u64::from(self.next_key) << 32;
                    let key = Key { address, key: self.next_key, invalidatable: self.invalidatable };
                    let exposed = Exposed { memory, key, access, dead: false, concealing: false };
                    assert!(self.exposed.insert(token, exposed).is_none(), "token {token} is in use");
                    self.queue.handle_exposed(token, Ok(key));
                }
                Action::Send { token, capsule } => {
                    let (sqe, behind) = capsule.split_at(SQE_SIZE);
                    let capsule = Capsule { sqe: Sqe::read_from_bytes(sqe).unwrap(), behind: behind.to_vec() };
                    assert_eq!(u64::from(capsule.cid()), token);
                    assert_eq!(capsule.sqe.psdt(), 1);
                    self.capsules.push_back(capsule);
                    self.unacknowledged.push_back(token);
                }
                Action::Conceal { token } => {
                    self.exposed.get_mut(&token).expect("it is exposed").concealing = true;
                }
            }
            if self.acknowledge {
                self.acknowledge_all();
            }
            if self.give_back {
                self.conceal_all();
            }
        }
        self.collect();
    }

    pub(crate) fn acknowledge_all(&mut self) {
        while let Some(token) = self.unacknowledged.pop_front() {
            self.queue.handle_sent(token, Ok(()));
        }
        self.collect();
    }

    pub(crate) fn conceal_all(&mut self) {
        let due: Vec<u64> = self.exposed.iter().filter(|(_, e)| e.concealing).map(|(token, _)| *token).collect();
        for token in due {
            self.conceal(token);
        }
    }

    pub(crate) fn conceal(&mut self, token: u64) {
        let exposed = self.exposed.remove(&token).unwrap();
        self.queue.handle_concealed(token, exposed.memory);
        self.collect();
    }

    /// Takes the answers, of which none may be of a command whose memory is in reach of the controller.
    fn collect(&mut self) {
        let mut answers = Vec::new();
        self.queue.take_answers(&mut answers);
        for (key, answer) in answers {
            assert!(self.answers.insert(key, answer).is_none(), "command {key} is answered twice");
        }
        for token in self.exposed.keys() {
            let cid = u16::try_from(*token).unwrap();
            assert!(self.queue.ledger.commands.get(cid).is_some(), "memory of command {cid:#x} is still exposed");
        }
    }

    /// The answer to command `key`, which has to be there.
    pub(crate) fn answer(&mut self, key: usize) -> Answer {
        self.collect();
        self.answers.remove(&key).unwrap_or_else(|| panic!("command {key} is not answered"))
    }

    /// The next capsule.
    pub(crate) fn capsule(&mut self) -> Capsule {
        self.capsules.pop_front().expect("a capsule was sent")
    }

    /// Memory that `key` reaches at `address`, as an RDMA device checks it.
    pub(crate) fn reach(&mut self, address: u64, len: u32, key: u32, access: Access) -> Option<&mut [u8]> {
        let exposed = self.exposed.values_mut().find(|e| e.key.key == key && !e.dead && e.access == access)?;
        let offset = usize::try_from(address.checked_sub(exposed.key.address)?).ok()?;
        exposed.memory.host_mut()?.get_mut(offset..offset.checked_add(len as usize)?)
    }

    /// The controller writes `data` into the memory of a command, as its descriptors say.
    pub(crate) fn write(&mut self, capsule: &Capsule, mut data: &[u8]) {
        for (address, len, key, _) in capsule.descriptors() {
            let (now, later) = data.split_at(data.len().min(len as usize));
            let to = self.reach(address, now.len() as u32, key, Access::Write).expect("the memory is exposed");
            to.copy_from_slice(now);
            data = later;
        }
        assert!(data.is_empty(), "{} bytes have no place", data.len());
    }

    /// The controller reads the data of a command.
    pub(crate) fn read(&mut self, capsule: &Capsule) -> Vec<u8> {
        if let Sgl::InCapsule { offset: 0, length } = capsule.sqe.sgl1.decode() {
            assert_eq!(length as usize, capsule.behind.len());
            return capsule.behind.clone();
        }
        let mut data = Vec::new();
        for (address, len, key, _) in capsule.descriptors() {
            data.extend_from_slice(self.reach(address, len, key, Access::Read).expect("the memory is exposed"));
        }
        data
    }

    /// The controller answers a command, and invalidates its key if it was asked to.
    pub(crate) fn respond(&mut self, capsule: &Capsule, status: Status, dw0: u32) {
        let asked = match capsule.sqe.sgl1.decode() {
            Sgl::Keyed { key, invalidate: true, .. } => Some(key),
            _ => None,
        };
        self.respond_with(&Cqe::new(capsule.cid(), status).with_result(dw0.into()), asked);
    }

    /// The controller answers with this, and invalidates this key.
    pub(crate) fn respond_with(&mut self, cqe: &Cqe, invalidate: Option<u32>) {
        for exposed in self.exposed.values_mut().filter(|e| Some(e.key.key) == invalidate) {
            exposed.dead = true;
        }
        self.queue.handle_received(cqe.as_bytes(), invalidate);
        self.pump();
    }

    /// The queue pair is destroyed, as the driver does it when the connection has ended.
    pub(crate) fn destroy(&mut self) {
        assert!(self.queue.ended().is_some());
        self.pump();
        for token in self.exposed.keys().copied().collect::<Vec<_>>() {
            self.conceal(token);
        }
        self.queue.handle_closed();
        self.collect();
        assert!(!self.queue.is_busy());
    }
}

/// `len` bytes that differ from each other.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A buffer of a kind that only its owner knows.
pub(crate) struct Own(pub(crate) Vec<u8>);

impl IoBuf for Own {
    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl IoBufMut for Own {
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

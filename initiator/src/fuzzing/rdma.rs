//! An NVMe/RDMA host queue that faces an arbitrary controller and an arbitrary order of completions.

use std::collections::BTreeMap;

use kvof_memory::Buffer;
use kvof_spec::{Cqe, Status};

use super::Input;
use crate::{
    ConnectionError,
    buffer::Payload,
    queue::{Extent, HostQueue},
    rdma::{
        Access, Limits,
        rig::{LIMIT, Own, Rig},
    },
};

/// Most commands of one script.
const COMMANDS_MAX: usize = 64;
/// What buffers to be read into are filled with before, and what the controller writes.
const UNTOUCHED: u8 = 0xee;
const WRITTEN: u8 = 0x77;
/// What is stored.
const STORED: u8 = 1;

/// Runs a script.
///
/// # Panics
/// If the queue breaks a promise: a command is answered twice, never, or while the controller can reach its data; a
/// buffer is lost, is another one, or has bytes that nobody wrote; a buffer that is stored is written.
pub fn rdma_host_queue(script: &[u8]) {
    let mut input = Input(script);
    let flags = input.byte();
    let limits = Limits {
        sqsize: 8,
        in_capsule: if flags & 1 != 0 { 256 } else { 0 },
        descriptors: 1 + u16::from(flags >> 4),
        flow_control: flags & 2 != 0,
    };
    let mut rig = Rig::with(limits, 1 + u16::from(input.byte() % 12));
    rig.acknowledge = flags & 4 != 0;
    rig.give_back = flags & 8 != 0;
    rig.invalidatable = flags & 16 != 0;
    let mut run = Run { rig, submitted: Vec::new() };
    while !input.0.is_empty() {
        run.step(&mut input);
    }
    run.end();
}

/// What kind of buffer a command has.
#[derive(Clone, Copy)]
enum Kind {
    Vec,
    Buffer,
    Foreign,
}

struct Run {
    rig: Rig,
    /// Of each command: length, whether it reads, kind of buffer.
    submitted: Vec<(usize, Option<bool>, Kind)>,
}

impl Run {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0 => self.submit(input, Some(true)),
            1 => self.submit(input, Some(false)),
            2 => self.submit(input, None),
            3 => {
                let (cid, status, dw0, how) = (input.cid(), input.word(), input.word(), input.byte());
                let mut cqe = Cqe::new(cid, Status(status & 0x7fff)).with_result(dw0.into());
                if how & 1 != 0 {
                    cqe.sqhd = dw0.into();
                }
                let own = self.rig.exposed.get(&cid.into()).map(|exposed| exposed.key.key);
                let other = self.rig.exposed.values().next().map(|exposed| exposed.key.key);
                let key = match how >> 1 & 3 {
                    0 => None,
                    1 => own,
                    2 => other,
                    _ => Some(dw0.into()),
                };
                self.rig.respond_with(&cqe, key);
            }
            4 => {
                let len = usize::from(input.byte());
                let bytes = input.take(len).to_vec();
                self.rig.queue.handle_received(&bytes, None);
                self.rig.pump();
            }
            5 => self.rig.acknowledge_all(),
            6 => {
                let token = input.cid().into();
                self.rig.queue.handle_sent(token, Ok(()));
                self.rig.pump();
            }
            7 => self.rig.conceal_all(),
            8 => self.write(input),
            9 => {
                self.rig.now += LIMIT / 4 * u32::from(input.byte() % 8);
                self.rig.queue.handle_timeout(self.rig.now);
                self.rig.pump();
            }
            10 => self.rig.refuse = input.byte() & 1 != 0,
            _ => {
                if input.byte() == 0xff {
                    let work = ConnectionError::Work("fuzz".into());
                    self.rig.queue.handle_sent(input.cid().into(), Err(work));
                }
            }
        }
    }

    fn submit(&mut self, input: &mut Input<'_>, reads: Option<bool>) {
        let (len, how) = (usize::from(input.word()) % 8192, input.byte());
        if self.submitted.len() >= COMMANDS_MAX {
            return;
        }
        let kind = match how % 3 {
            0 => Kind::Vec,
            1 => Kind::Buffer,
            _ => Kind::Foreign,
        };
        let extent = if how & 64 != 0 { Extent::Value } else { Extent::Buffer };
        let filled = |byte: u8| {
            let mut buffer = Buffer::new(len);
            buffer.fill(byte);
            buffer
        };
        let payload = match (reads, kind) {
            (None, _) => Payload::None,
            (Some(true), Kind::Vec) => Payload::from_controller(vec![UNTOUCHED; len]),
            (Some(true), Kind::Buffer) => Payload::from_controller(filled(UNTOUCHED)),
            (Some(true), Kind::Foreign) => Payload::from_controller(Own(vec![UNTOUCHED; len])),
            (Some(false), Kind::Vec) => Payload::to_controller(vec![STORED; len]),
            (Some(false), Kind::Buffer) => Payload::to_controller(filled(STORED)),
            (Some(false), Kind::Foreign) => Payload::to_controller(Own(vec![STORED; len])),
        };
        self.submitted.push((len, reads, kind));
        self.rig.submit_filling(self.submitted.len() - 1, payload, extent);
    }

    /// The controller writes under some key; the device lets it where that is good for it.
    fn write(&mut self, input: &mut Input<'_>) {
        let (cid, offset, len) = (input.cid(), input.word(), input.word());
        let Some(key) = self.rig.exposed.get(&cid.into()).map(|exposed| exposed.key) else { return };
        let address = key.address.wrapping_add(offset.into());
        if let Some(to) = self.rig.reach(address, len.into(), key.key, Access::Write) {
            to.fill(WRITTEN);
        }
    }

    /// The connection ends: everything has to be answered, with its own buffer.
    fn end(mut self) {
        self.rig.queue.fail(ConnectionError::ClosedByController);
        self.rig.destroy();
        let mut answers: BTreeMap<usize, _> = std::mem::take(&mut self.rig.answers);
        assert_eq!(answers.len(), self.submitted.len(), "a command is not answered");
        for (key, (len, reads, kind)) in self.submitted.into_iter().enumerate() {
            let Some(answer) = answers.remove(&key) else { panic!("command {key} is not answered") };
            let Some(reads) = reads else { continue };
            let bytes = match kind {
                Kind::Vec => answer.payload.take::<Vec<u8>>(),
                Kind::Buffer => answer.payload.take::<Buffer>().map(|buffer| buffer.to_vec()),
                Kind::Foreign => answer.payload.take::<Own>().map(|foreign| foreign.0),
            };
            let Some(bytes) = bytes else { panic!("the buffer of command {key} is lost") };
            assert_eq!(bytes.len(), len, "another buffer came back");
            if !reads {
                assert!(bytes.iter().all(|b| *b == STORED), "a buffer that is stored was written");
                continue;
            }
            if let (Ok(reply), Kind::Foreign) = (&answer.result, kind) {
                // Of a copy only what the command brought comes back: what was written, and zeros where nothing was.
                let (brought, rest) = bytes.split_at((reply.received as usize).min(len));
                assert!(brought.iter().all(|b| [WRITTEN, 0].contains(b)), "bytes that nobody wrote");
                assert!(rest.iter().all(|b| *b == UNTOUCHED), "bytes beyond the data were touched");
            } else {
                assert!(bytes.iter().all(|b| [WRITTEN, UNTOUCHED].contains(b)), "bytes that nobody wrote");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn no_script_breaks_a_promise(
            head in any::<(u8, u8)>(),
            steps in proptest::collection::vec(
                (0u8..12, 0u8..8, proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), any::<u8>()], 0..7)), 0..60),
        ) {
            let mut script = vec![head.0, head.1];
            for (step, cid, rest) in steps {
                script.push(step);
                script.push(cid);
                script.extend(rest);
            }
            rdma_host_queue(&script);
        }
    }
}

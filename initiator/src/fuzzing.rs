//! A host queue that faces an arbitrary controller, for fuzzers and property tests; not an interface for users.
//!
//! The input is a script: what the host submits and sends, when time passes, and what the controller says, either as raw
//! bytes or as PDUs whose framing and digests are right and whose fields are not.

mod rdma;

use std::{
    collections::BTreeMap,
    io::IoSlice,
    time::{Duration, Instant},
};

use kvof_spec::tcp::{C2hData, CapsuleResp, Digests, IcResp, R2t};
use kvof_spec::{Cqe, IntoBytes, Sqe, Status};

use crate::{
    DigestMode,
    buffer::Payload,
    queue::{Answer, Command, HostQueue, TimeLimit},
    tcp::{IOV_MAX, Settings, TcpQueue, crc32c},
};

pub use rdma::rdma_host_queue;

/// Most commands of one script.
const COMMANDS_MAX: usize = 64;
/// What buffers to be read into are filled with before.
const UNTOUCHED: u8 = 0xee;
const LIMIT: Duration = Duration::from_secs(1);

/// Runs a script.
///
/// # Panics
/// If the queue breaks a promise: a command is answered twice or never, a buffer is lost or changes its length, bytes
/// beyond those received are touched.
pub fn host_queue(script: &[u8]) {
    let mut input = Input(script);
    let flags = input.byte();
    let digests = Digests { header: flags & 1 != 0, data: flags & 2 != 0 };
    let mode = |on| if on { DigestMode::Prefer } else { DigestMode::Off };
    let settings = Settings {
        header_digest: mode(digests.header),
        data_digest: mode(digests.data),
        hpda: input.byte() % 32,
        maxr2t: u32::from(input.byte() % 4),
        capacity: 8,
        in_capsule: 256,
    };
    let mut run = Run::new(settings, digests);
    if flags & 4 != 0 {
        run.send(usize::MAX);
        run.feed(IcResp::new(input.byte() % 32, digests, 4096 + u32::from(input.word())).as_bytes());
    }
    while !input.0.is_empty() {
        run.step(&mut input);
    }
    run.end();
}

struct Run {
    queue: TcpQueue,
    digests: Digests,
    hpda: u8,
    now: Instant,
    /// Length of each command's data, and whether it reads.
    lens: Vec<(usize, bool)>,
    answered: BTreeMap<usize, bool>,
}

impl Run {
    fn new(settings: Settings, digests: Digests) -> Self {
        Self {
            queue: TcpQueue::new("fuzz".into(), settings),
            digests,
            hpda: settings.hpda,
            now: Instant::now(),
            lens: Vec::new(),
            answered: BTreeMap::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 10 {
            0 => self.submit(input.word().into(), Some(true)),
            1 => self.submit(input.word().into(), Some(false)),
            2 => self.submit(0, None),
            3 => self.send(input.word().into()),
            4 => self.send(usize::MAX),
            5 => {
                let len = usize::from(input.byte());
                let bytes = input.take(len).to_vec();
                self.feed(&bytes);
            }
            6 => {
                let pdu = CapsuleResp::new(Cqe::new(input.cid(), Status(input.word() & 0x7fff)), self.digests);
                self.feed(&self.framed(pdu.as_bytes(), 0, &[]));
            }
            7 => {
                let (cid, datao, datal, how) = (input.cid(), input.word(), input.word(), input.byte());
                let (last, success) = (how & 1 != 0, how & 2 != 0);
                let pdu = C2hData::new(cid, datao.into(), datal.into(), last, success, self.digests, self.hpda);
                let data = vec![how; datal.into()];
                let cut = if how & 4 != 0 { usize::from(input.word()) } else { usize::MAX };
                let bytes = self.framed(pdu.as_bytes(), pdu.ch.pdo, &data);
                self.feed(bytes.get(..cut).unwrap_or(&bytes));
            }
            8 => {
                let (cid, ttag, r2to, r2tl) = (input.cid(), input.word(), input.word(), input.word());
                let pdu = R2t::new(cid, ttag, r2to.into(), r2tl.into(), self.digests);
                self.feed(&self.framed(pdu.as_bytes(), 0, &[]));
            }
            _ => {
                self.now += LIMIT / 4 * u32::from(input.byte() % 8);
                self.queue.handle_timeout(self.now);
                self.collect();
            }
        }
    }

    fn submit(&mut self, len: usize, reads: Option<bool>) {
        if self.lens.len() >= COMMANDS_MAX {
            return;
        }
        let payload = match reads {
            Some(true) => Payload::from_controller(vec![UNTOUCHED; len]),
            Some(false) => Payload::to_controller(vec![1u8; len]),
            None => Payload::None,
        };
        let command = Command::new("Fuzz", Sqe::new(0u8), payload, TimeLimit::new(self.now, LIMIT));
        self.queue.submit(self.lens.len(), command);
        self.lens.push((len, reads == Some(true)));
        self.collect();
    }

    /// Sends at most `most` bytes.
    fn send(&mut self, most: usize) {
        let mut room = most;
        while room > 0 && self.queue.prepare_transmit() {
            let mut iov = [IoSlice::new(&[]); IOV_MAX];
            let count = self.queue.transmit(&mut iov);
            let ready: usize = iov.iter().take(count).map(|piece| piece.len()).sum();
            assert!(ready > 0, "something is to be sent, and nothing is there");
            let sent = ready.min(room);
            self.queue.handle_sent(sent);
            room -= sent;
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.queue.ended().is_none() {
            let (direct, buffered) = self.queue.receive();
            let mut moved = 0;
            for slice in [direct, buffered] {
                let n = slice.len().min(bytes.len());
                let (now, later) = bytes.split_at(n);
                slice.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
                bytes = later;
                moved += n;
            }
            assert!(moved > 0, "the queue has no room for bytes");
            self.queue.handle_received(moved);
        }
        self.collect();
    }

    fn framed(&self, header: &[u8], pdo: u8, data: &[u8]) -> Vec<u8> {
        let mut pdu = header.to_vec();
        if self.digests.header {
            pdu.extend(crc32c(header).to_le_bytes());
        }
        if !data.is_empty() {
            pdu.resize(pdo.into(), 0);
            pdu.extend_from_slice(data);
            if self.digests.data {
                pdu.extend(crc32c(data).to_le_bytes());
            }
        }
        pdu
    }

    fn collect(&mut self) {
        let mut answers = Vec::new();
        self.queue.take_answers(&mut answers);
        for (key, Answer { result, payload }) in answers {
            assert!(self.answered.insert(key, result.is_ok()).is_none(), "command {key} is answered twice");
            let Some((len, reads)) = self.lens.get(key).copied() else { panic!("no command {key}") };
            if matches!(payload, Payload::None) {
                assert_eq!(len, 0, "the buffer of command {key} is lost");
                continue;
            }
            let buffer: Vec<u8> = payload.take().unwrap_or_else(|| panic!("another buffer came back"));
            assert_eq!(buffer.len(), len);
            if let (Ok(reply), true) = (result, reads) {
                let rest = buffer.get(reply.received as usize..).unwrap_or_else(|| panic!("more came than fits"));
                assert!(rest.iter().all(|b| *b == UNTOUCHED), "bytes beyond the data were touched");
            }
        }
    }

    /// The connection ends: everything has to be answered.
    fn end(mut self) {
        if self.queue.ended().is_none() {
            self.queue.handle_received(0);
        }
        self.collect();
        assert_eq!(self.answered.len(), self.lens.len(), "a command is not answered");
        assert!(!self.queue.is_busy());
        self.send(usize::MAX);
    }
}

/// The rest of a script; zero at its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// An identifier that is likely to be in use: index of 3 bits, generation of 2.
    fn cid(&mut self) -> u16 {
        let byte = u16::from(self.byte());
        (byte & 7) | (byte >> 3 & 3) << 12
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_script_reaches_the_depth() {
        let settings = Settings {
            header_digest: DigestMode::Off,
            data_digest: DigestMode::Off,
            hpda: 0,
            maxr2t: 0,
            capacity: 8,
            in_capsule: 256,
        };
        let mut run = Run::new(settings, Digests::default());
        run.send(usize::MAX);
        run.feed(IcResp::new(0, Digests::default(), 4096).as_bytes());
        // A read of 16 bytes, sent, answered with its data and success.
        let mut script = Input(&[0, 16, 0, 4, 7, 0, 0, 0, 16, 0, 3]);
        while !script.0.is_empty() {
            run.step(&mut script);
        }
        assert_eq!(run.answered.get(&0), Some(&true));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn no_script_breaks_a_promise(
            head in prop_oneof![Just(vec![4u8, 0, 3, 0, 0, 0]), Just(vec![7, 0, 1, 0, 0, 16]), Just(vec![7, 31, 0, 31, 0, 0]),
                proptest::collection::vec(any::<u8>(), 6)],
            steps in proptest::collection::vec(
                (0u8..10, 0u8..8, proptest::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..7)), 0..60),
        ) {
            let mut script = head;
            for (step, cid, rest) in steps {
                script.push(step);
                script.push(cid);
                script.extend(rest);
            }
            host_queue(&script);
        }
    }
}

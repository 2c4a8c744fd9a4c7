//! The host queue against a controller that is a script: bytes in, bytes out, no socket.

mod hostile;
mod limits;
mod staged;
mod transfers;

use std::{
    collections::BTreeMap,
    io::IoSlice,
    time::{Duration, Instant},
};

use kvof_spec::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, Frame, H2cData, IcReq, IcResp, PduFlags, PduType, R2t,
    ReceiveRules, Receiver as ReceiverEnd, TermReq, data_offset,
};
use kvof_spec::{Cqe, FromBytes, IntoBytes, Sqe, Status};

use super::*;
use crate::{
    Error,
    buffer::Payload,
    queue::{Answer, TimeLimit},
};

/// A command with these opcode bits 1:0 reads, writes or moves nothing.
pub(super) const OPCODE: u8 = 0xc0;

pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// A PDU that the host sent, decoded and proven.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HostPdu {
    Capsule { sqe: Sqe, data: Vec<u8> },
    Data { cccid: u16, ttag: u16, datao: u32, data: Vec<u8>, last: bool },
    Term { fes: u16, fei: u32, header: Vec<u8> },
}

/// A queue and the other end of its connection.
pub(super) struct Rig {
    pub(super) queue: TcpQueue,
    pub(super) now: Instant,
    pub(super) digests: Digests,
    pub(super) cpda: u8,
    pub(super) hpda: u8,
    /// What the host has sent and nobody has looked at.
    pub(super) from_host: Vec<u8>,
    /// Bytes that one receive or send moves at most.
    pub(super) segment: usize,
    pub(super) answers: BTreeMap<usize, Answer>,
}

pub(super) fn settings() -> Settings {
    Settings {
        header_digest: DigestMode::Off,
        data_digest: DigestMode::Off,
        hpda: 0,
        maxr2t: 3,
        capacity: 16,
        in_capsule: 4096,
    }
}

impl Rig {
    /// A connection on which ICReq and ICResp were exchanged.
    pub(super) fn connected(settings: Settings, digests: Digests, cpda: u8, maxh2cdata: u32) -> Self {
        let mut rig = Self::fresh(settings);
        rig.digests = digests;
        rig.cpda = cpda;
        rig.pump();
        let ic_req = IcReq::read_from_bytes(&rig.from_host).expect("ICReq is the first PDU");
        assert_eq!((ic_req.pfv.get(), ic_req.hpda, ic_req.maxr2t.get()), (0, settings.hpda, settings.maxr2t));
        rig.from_host.clear();
        rig.feed(IcResp::new(cpda, digests, maxh2cdata).as_bytes());
        assert!(rig.queue.negotiated().is_some(), "{:?}", rig.queue.ended());
        rig
    }

    /// A connection on which nothing was said yet.
    pub(super) fn fresh(settings: Settings) -> Self {
        Self {
            queue: TcpQueue::new("test".into(), settings),
            now: Instant::now(),
            digests: Digests::default(),
            cpda: 0,
            hpda: settings.hpda,
            from_host: Vec::new(),
            segment: usize::MAX,
            answers: BTreeMap::new(),
        }
    }

    pub(super) fn plain() -> Self {
        Self::connected(settings(), Digests::default(), 0, 8192)
    }

    /// Submits a command of which only the data matter.
    pub(super) fn submit(&mut self, key: usize, payload: Payload) {
        let sqe = Sqe::new(match payload {
            Payload::None => OPCODE,
            Payload::Out(_) => OPCODE | 1,
            Payload::In(_) => OPCODE | 2,
        });
        let command = Command::new("Test", sqe, payload, TimeLimit::new(self.now, LIMIT));
        self.queue.submit(key, command);
    }

    /// Takes everything that the host has to send.
    pub(super) fn pump(&mut self) {
        while self.queue.prepare_transmit() {
            let mut iov = [IoSlice::new(&[]); IOV_MAX];
            let count = self.queue.transmit(&mut iov);
            assert!(count > 0);
            let mut room = self.segment;
            for piece in &iov[..count] {
                let n = piece.len().min(room);
                self.from_host.extend_from_slice(&piece[..n]);
                room -= n;
            }
            self.queue.handle_sent(self.segment - room);
        }
    }

    /// Gives bytes to the host, as a socket would.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let taken = self.feed_some(bytes);
        assert!(taken == bytes.len() || self.queue.ended().is_some(), "the queue has no room for bytes");
    }

    /// As [`Self::feed`], as long as the queue has room; gives how many bytes it took.
    pub(super) fn feed_some(&mut self, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        while !bytes.is_empty() && self.queue.ended().is_none() {
            let (direct, buffered) = self.queue.receive();
            let mut moved = 0;
            for slice in [direct, buffered] {
                let n = slice.len().min(bytes.len()).min(self.segment - moved);
                slice[..n].copy_from_slice(&bytes[..n]);
                bytes = &bytes[n..];
                moved += n;
                if n < slice.len() {
                    break;
                }
            }
            if moved == 0 {
                break;
            }
            self.queue.handle_received(moved);
        }
        self.collect();
        all - bytes.len()
    }

    /// Takes the answers that are there.
    pub(super) fn collect(&mut self) {
        let mut answers = Vec::new();
        self.queue.take_answers(&mut answers);
        for (key, answer) in answers {
            assert!(self.answers.insert(key, answer).is_none(), "command {key} was answered twice");
        }
    }

    /// The next PDU from the host, if all of it is there.
    pub(super) fn next(&mut self) -> Option<HostPdu> {
        let (header, _) = CommonHeader::read_from_prefix(&self.from_host).ok()?;
        let rules = ReceiveRules {
            receiver: ReceiverEnd::Controller,
            digests: self.digests,
            pda: self.cpda,
            in_capsule_max: ADMIN_IN_CAPSULE,
            data_max: u32::MAX,
        };
        let frame = header.check(&rules).unwrap_or_else(|e| panic!("the host sent {header:?}: {e}"));
        if self.from_host.len() < frame.total() {
            return None;
        }
        let pdu: Vec<u8> = self.from_host.drain(..frame.total()).collect();
        let data = self.checked_data(&pdu, &frame);
        Some(match frame.kind {
            PduType::CAPSULE_CMD => {
                let (capsule, _) = CapsuleCmd::read_from_prefix(&pdu).unwrap();
                HostPdu::Capsule { sqe: capsule.sqe, data }
            }
            PduType::H2C_DATA => {
                let (h2c, _) = H2cData::read_from_prefix(&pdu).unwrap();
                assert_eq!(h2c.datal.get() as usize, data.len());
                HostPdu::Data {
                    cccid: h2c.cccid.get(),
                    ttag: h2c.ttag.get(),
                    datao: h2c.datao.get(),
                    data,
                    last: h2c.ch.flags().contains(PduFlags::LAST_PDU),
                }
            }
            PduType::H2C_TERM_REQ => {
                let (term, _) = TermReq::read_from_prefix(&pdu).unwrap();
                HostPdu::Term { fes: term.fes.get(), fei: term.fei.get(), header: data }
            }
            other => panic!("the host sent {other}"),
        })
    }

    fn checked_data(&self, pdu: &[u8], frame: &Frame) -> Vec<u8> {
        if frame.header_digest {
            let digest = u32::from_le_bytes(pdu[frame.hlen..frame.hlen + 4].try_into().unwrap());
            assert_eq!(digest, crc32c(&pdu[..frame.hlen]));
        }
        if frame.data_len > 0 && frame.kind != PduType::H2C_TERM_REQ {
            let end = frame.hlen + self.digests.header_size();
            assert!(pdu[end..frame.data_offset].iter().all(|b| *b == 0), "padding is zero");
            assert_eq!(frame.data_offset, data_offset(frame.hlen, self.digests, self.cpda));
        }
        let data = pdu[frame.data_offset..frame.data_offset + frame.data_len as usize].to_vec();
        if frame.data_digest {
            let digest = u32::from_le_bytes(pdu[pdu.len() - 4..].try_into().unwrap());
            assert_eq!(digest, crc32c(&data));
        }
        data
    }

    /// The next capsule; what it carries, and its CID.
    pub(super) fn capsule(&mut self) -> (u16, Vec<u8>) {
        self.pump();
        match self.next() {
            Some(HostPdu::Capsule { sqe, data }) => (sqe.cid.get(), data),
            other => panic!("expected a capsule, got {other:?}"),
        }
    }

    /// The answer to command `key`, which has to be there.
    pub(super) fn answer(&mut self, key: usize) -> Answer {
        self.feed(&[]);
        self.answers.remove(&key).unwrap_or_else(|| panic!("command {key} is not answered"))
    }

    /// A response as bytes.
    pub(super) fn response(&self, cid: u16, status: Status, dw0: u32) -> Vec<u8> {
        let pdu = CapsuleResp::new(Cqe::new(cid, status).with_result(dw0.into()), self.digests);
        self.framed(pdu.as_bytes(), 0, &[])
    }

    /// An R2T as bytes.
    pub(super) fn r2t(&self, cid: u16, ttag: u16, r2to: u32, r2tl: u32) -> Vec<u8> {
        self.framed(R2t::new(cid, ttag, r2to, r2tl, self.digests).as_bytes(), 0, &[])
    }

    /// A C2HData as bytes.
    pub(super) fn c2h(&self, cid: u16, datao: u32, data: &[u8], last: bool, success: bool) -> Vec<u8> {
        let pdu = C2hData::new(cid, datao, data.len() as u32, last, success, self.digests, self.hpda);
        self.framed(pdu.as_bytes(), pdu.ch.pdo, data)
    }

    fn framed(&self, header: &[u8], pdo: u8, data: &[u8]) -> Vec<u8> {
        let mut pdu = header.to_vec();
        if self.digests.header {
            pdu.extend(crc32c(header).to_le_bytes());
        }
        if !data.is_empty() {
            pdu.resize(usize::from(pdo), 0);
            pdu.extend_from_slice(data);
            if self.digests.data {
                pdu.extend(crc32c(data).to_le_bytes());
            }
        }
        pdu
    }

    /// Expects the connection to have ended with this TermReq.
    pub(super) fn expect_term(&mut self, fes: u16, fei: u32) {
        let cause = self.queue.ended().expect("the connection ends").clone();
        self.pump();
        match self.next() {
            Some(HostPdu::Term { fes: f, fei: i, .. }) => assert_eq!((f, i), (fes, fei), "{cause}"),
            other => panic!("expected a TermReq after {cause}, got {other:?}"),
        }
        assert!(matches!(cause, ConnectionError::Protocol { .. }), "{cause}");
    }
}

/// `len` bytes that differ from each other.
pub(super) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

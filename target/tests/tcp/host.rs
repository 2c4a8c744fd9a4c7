//! A host that says what it is told to, right or wrong, and reads what comes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crc_fast::CrcAlgorithm;
use kvof_kv::{Key, KvCommand, RetrieveOptions, StoreOptions};
use kvof_spec::{
    Cc, Cqe, FromBytes, IntoBytes, Property, Sqe, Status,
    fabrics::{CNTLID_DYNAMIC, ConnectCmd, ConnectData, ConnectResult, PropertySetCmd},
    sgl::SglDescriptor,
    tcp::{
        C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, FatalErrorStatus, H2cData, IcReq, IcResp, PduFlags,
        PduType, R2t, ReceiveRules, Receiver, TermReq,
    },
};

use super::rig::{KV, NQN, Rig};

/// Longer than anything takes here, and shorter than a run of the tests.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a host asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) digests: Digests,
    pub(crate) hpda: u8,
    /// 0's based.
    pub(crate) maxr2t: u32,
    /// Entries of queues, 1's based.
    pub(crate) entries: u16,
    pub(crate) flow_control: bool,
    pub(crate) kato_ms: u32,
}

impl Default for Ask {
    fn default() -> Self {
        Self { digests: Digests::default(), hpda: 0, maxr2t: 0, entries: 32, flow_control: true, kato_ms: 0 }
    }
}

pub(crate) const BOTH: Digests = Digests { header: true, data: true };

/// A PDU that came.
#[derive(Clone, Debug)]
pub(crate) struct Pdu {
    pub(crate) kind: PduType,
    pub(crate) flags: PduFlags,
    pub(crate) pdo: u8,
    pub(crate) header: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Pdu {
    #[track_caller]
    pub(crate) fn cqe(&self) -> Cqe {
        assert_eq!(self.kind, PduType::CAPSULE_RESP, "{self:?}");
        CapsuleResp::read_from_bytes(&self.header).unwrap().cqe
    }

    #[track_caller]
    pub(crate) fn r2t(&self) -> R2t {
        assert_eq!(self.kind, PduType::R2T, "{self:?}");
        R2t::read_from_bytes(&self.header).unwrap()
    }

    #[track_caller]
    pub(crate) fn c2h_data(&self) -> C2hData {
        assert_eq!(self.kind, PduType::C2H_DATA, "{self:?}");
        C2hData::read_from_bytes(&self.header).unwrap()
    }
}

/// One connection of a host.
pub(crate) struct Host {
    pub(crate) stream: TcpStream,
    pub(crate) ask: Ask,
    pub(crate) digests: Digests,
    pub(crate) cpda: u8,
    pub(crate) maxh2cdata: u32,
    next_cid: u16,
    pub(crate) cntlid: u16,
    /// Bytes of each write; 0 for as many as there are.
    pub(crate) piece: usize,
}

impl Host {
    /// A connection on which nothing has been said.
    pub(crate) fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            ask: Ask::default(),
            digests: Digests::default(),
            cpda: 0,
            maxh2cdata: 0,
            next_cid: 0,
            cntlid: 0,
            piece: 0,
        }
    }

    /// An initialised connection.
    pub(crate) fn initialised(address: SocketAddr, ask: Ask) -> Self {
        let mut host = Self::silent(address);
        host.ask = ask;
        host.initialise();
        host
    }

    pub(crate) fn initialise(&mut self) {
        self.send(IcReq::new(self.ask.hpda, self.ask.digests, self.ask.maxr2t).as_bytes());
        let pdu = self.read().unwrap();
        let icresp = IcResp::read_from_bytes(&pdu.header).unwrap();
        self.digests = Digests::from_byte(icresp.dgst);
        (self.cpda, self.maxh2cdata) = (icresp.cpda, icresp.maxh2cdata.get());
    }

    /// The admin queue of an enabled controller.
    pub(crate) fn admin(rig: &Rig, ask: Ask) -> Self {
        let mut host = Self::initialised(rig.address, ask);
        let cqe = host.connect_queue(0, CNTLID_DYNAMIC);
        assert!(cqe.status().is_success(), "{}", cqe.status());
        host.cntlid = ConnectResult(cqe.dw0.get()).cntlid();
        host.enable();
        host
    }

    /// I/O queue `qid` of the controller that `admin` has.
    pub(crate) fn io(rig: &Rig, admin: &Self, qid: u16, ask: Ask) -> Self {
        let mut host = Self::initialised(rig.address, ask);
        host.cntlid = admin.cntlid;
        let cqe = host.connect_queue(qid, admin.cntlid);
        assert!(cqe.status().is_success(), "{}", cqe.status());
        host
    }

    /// A controller's admin queue and I/O queue 1.
    pub(crate) fn pair(rig: &Rig, ask: Ask) -> (Self, Self) {
        let admin = Self::admin(rig, Ask { entries: 32, flow_control: true, ..ask });
        let io = Self::io(rig, &admin, 1, Ask { kato_ms: 0, ..ask });
        (admin, io)
    }

    pub(crate) fn enable(&mut self) {
        let cc =
            Cc::default().with_en(true).with_css(Cc::CSS_IOCS).with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16);
        let set = PropertySetCmd::new(Property::CC, cc.0.into()).unwrap().to_sqe();
        assert_eq!(self.execute(set, &[]).0.status(), Status::SUCCESS);
    }

    /// Connect with the data in the capsule.
    pub(crate) fn connect_queue(&mut self, qid: u16, cntlid: u16) -> Cqe {
        let (sqe, data) = self.connect_command(qid, cntlid);
        let cid = self.capsule(sqe, SglDescriptor::in_capsule(0, data.len() as u32), &data);
        let cqe = self.read().unwrap().cqe();
        assert_eq!(cqe.cid.get(), cid);
        cqe
    }

    pub(crate) fn connect_command(&self, qid: u16, cntlid: u16) -> (Sqe, Vec<u8>) {
        let mut connect = ConnectCmd::new(qid, self.ask.entries - 1, self.ask.kato_ms);
        connect.cattr = if self.ask.flow_control { 0 } else { 4 };
        let hostnqn = "nqn.2024-01.localhost:host".parse().unwrap();
        let data = ConnectData::new([0x5a; 16], cntlid, &NQN.parse().unwrap(), &hostnqn);
        (connect.to_sqe(), data.as_bytes().to_vec())
    }

    /// The same connection for another thread.
    pub(crate) fn twin(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), ..*self }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let piece = if self.piece == 0 { bytes.len().max(1) } else { self.piece };
        for part in bytes.chunks(piece) {
            self.stream.write_all(part).unwrap();
        }
    }

    pub(crate) fn fresh_cid(&mut self) -> u16 {
        self.next_cid += 1;
        self.next_cid
    }

    /// The bytes of a command capsule.
    pub(crate) fn capsule_bytes(&mut self, mut sqe: Sqe, cid: u16, sgl: SglDescriptor, data: &[u8]) -> Vec<u8> {
        sqe.cid = cid.into();
        sqe.sgl1 = sgl;
        let pdu = CapsuleCmd::new(sqe, data.len() as u32, self.digests, self.cpda);
        self.framed(pdu.as_bytes(), pdu.ch.pdo, data)
    }

    /// Sends a command under a fresh identifier, and gives that.
    pub(crate) fn capsule(&mut self, sqe: Sqe, sgl: SglDescriptor, data: &[u8]) -> u16 {
        let cid = self.fresh_cid();
        let bytes = self.capsule_bytes(sqe, cid, sgl, data);
        self.send(&bytes);
        cid
    }

    /// The bytes of an H2CData PDU.
    pub(crate) fn h2c_data(&self, cid: u16, tag: u16, offset: u32, data: &[u8], last: bool) -> Vec<u8> {
        let pdu = H2cData::new(cid, tag, offset, data.len() as u32, last, self.digests, self.cpda);
        self.framed(pdu.as_bytes(), pdu.ch.pdo, data)
    }

    /// Header, its digest, padding, data and their digest.
    pub(crate) fn framed(&self, header: &[u8], pdo: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        if self.digests.header {
            bytes.extend(crc32c(header));
        }
        if !data.is_empty() {
            bytes.resize(pdo.into(), 0);
            bytes.extend(data);
            if self.digests.data {
                bytes.extend(crc32c(data));
            }
        }
        bytes
    }

    /// Answers an R2T out of `value`, in PDUs of at most `piece` bytes.
    pub(crate) fn answer(&mut self, r2t: &R2t, value: &[u8], piece: u32) {
        let (mut offset, end) = (r2t.r2to.get(), r2t.r2to.get() + r2t.r2tl.get());
        while offset < end {
            let len = piece.min(end - offset).min(self.maxh2cdata);
            let data = &value[offset as usize..(offset + len) as usize];
            let bytes = self.h2c_data(r2t.cccid.get(), r2t.ttag.get(), offset, data, offset + len == end);
            self.send(&bytes);
            offset += len;
        }
    }

    /// The next PDU, its digests checked; `None` when the target has closed the connection.
    #[track_caller]
    pub(crate) fn read(&mut self) -> Option<Pdu> {
        let mut head = [0; 8];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(e) => panic!("nothing came: {e}"),
        }
        let ch = CommonHeader::read_from_bytes(&head).unwrap();
        let rules = ReceiveRules {
            receiver: Receiver::Host,
            digests: self.digests,
            pda: self.ask.hpda,
            in_capsule_max: 0,
            data_max: u32::MAX,
        };
        let frame = ch.check(&rules).unwrap_or_else(|e| panic!("the target sent {ch:?}: {e}"));
        let mut pdu = head.to_vec();
        pdu.resize(frame.total(), 0);
        self.stream.read_exact(&mut pdu[8..]).unwrap();
        let header = pdu[..frame.hlen].to_vec();
        if frame.header_digest {
            assert_eq!(crc32c(&header), pdu[frame.hlen..][..4]);
        }
        let data = pdu[frame.data_offset..][..frame.data_len as usize].to_vec();
        if frame.data_digest {
            assert_eq!(crc32c(&data), pdu[frame.total() - 4..]);
        }
        Some(Pdu { kind: frame.kind, flags: ch.flags(), pdo: ch.pdo, header, data })
    }

    /// Reads up to the completion of `cid`, answers R2Ts out of `value`, and gives the data that came.
    #[track_caller]
    pub(crate) fn finish(&mut self, cid: u16, value: &[u8]) -> (Cqe, Vec<u8>) {
        let mut data = Vec::new();
        loop {
            let pdu = self.read().expect("the target closed the connection");
            match pdu.kind {
                PduType::R2T => self.answer(&pdu.r2t(), value, u32::MAX),
                PduType::C2H_DATA => {
                    let header = pdu.c2h_data();
                    assert_eq!((header.cccid.get(), header.datao.get() as usize), (cid, data.len()));
                    data.extend(&pdu.data);
                    if pdu.flags.contains(PduFlags::SUCCESS) {
                        return (Cqe::new(cid, Status::SUCCESS), data);
                    }
                }
                _ => {
                    let cqe = pdu.cqe();
                    assert_eq!(cqe.cid.get(), cid);
                    return (cqe, data);
                }
            }
        }
    }

    /// Runs a command whose SGL is that of the entry.
    #[track_caller]
    pub(crate) fn execute(&mut self, sqe: Sqe, value: &[u8]) -> (Cqe, Vec<u8>) {
        let cid = self.capsule(sqe, sqe.sgl1, &[]);
        self.finish(cid, value)
    }

    #[track_caller]
    pub(crate) fn store(&mut self, key: &str, value: &[u8]) -> Cqe {
        self.execute(store(key, value.len()), value).0
    }

    #[track_caller]
    pub(crate) fn retrieve(&mut self, key: &str, buffer: usize) -> (Cqe, Vec<u8>) {
        self.execute(retrieve(key, buffer), &[])
    }

    /// The target ends the connection with a C2HTermReq; gives what it quotes.
    #[track_caller]
    pub(crate) fn expect_term(&mut self, fes: FatalErrorStatus, fei: u32) -> Vec<u8> {
        let pdu = self.read().expect("closed without C2HTermReq");
        assert_eq!(pdu.kind, PduType::C2H_TERM_REQ, "{pdu:?}");
        let term = TermReq::read_from_bytes(&pdu.header).unwrap();
        assert_eq!((FatalErrorStatus(term.fes.get()), term.fei.get()), (fes, fei));
        self.expect_closed();
        pdu.data
    }

    /// The target closes the connection without another word.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        let pdu = self.read();
        assert!(pdu.is_none(), "not closed but {pdu:?}");
    }

    /// The connection still works.
    #[track_caller]
    pub(crate) fn expect_alive(&mut self) {
        let (cqe, _) = self.execute(exist("alive?"), &[]);
        assert_eq!(cqe.status().code(), Status::KEY_DOES_NOT_EXIST);
    }
}

pub(crate) fn crc32c(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text.as_bytes()).unwrap()
}

pub(crate) fn store(name: &str, len: usize) -> Sqe {
    let command = KvCommand::store(KV, &key(name), StoreOptions::empty(), len as u32);
    command.to_sqe(SglDescriptor::transport_data(len as u32))
}

pub(crate) fn retrieve(name: &str, buffer: usize) -> Sqe {
    let command = KvCommand::retrieve(KV, &key(name), RetrieveOptions::empty(), buffer as u32);
    command.to_sqe(SglDescriptor::transport_data(buffer as u32))
}

pub(crate) fn exist(name: &str) -> Sqe {
    KvCommand::exist(KV, &key(name)).to_sqe(SglDescriptor::transport_data(0))
}

/// `len` bytes that differ from place to place and by `seed`.
pub(crate) fn value(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(7) ^ (i >> 8) as u8 ^ seed).collect()
}

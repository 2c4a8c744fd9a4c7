//! The host's view of one connection: reads what it sent and what it gets, and knows what may come.
//!
//! It reads its own bytes as a controller has to, so that it knows for any bytes, meant or not, which commands the target
//! has got and whether the protocol was broken.

use std::collections::BTreeMap;

use kvof_spec::{
    FromBytes, Sqe, Status,
    fabrics::{ConnectCmd, ConnectResult},
    tcp::{
        C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, Fatal, FatalErrorStatus, Frame, H2cData, IcReq,
        IcResp, PduFlags, PduType, R2t, ReceiveRules, Receiver, TermReq,
    },
};
use kvof_target::transport::tcp::TcpSettings;

use crate::input::crc32c;

/// Most data of a command capsule on any queue of this world.
pub(crate) const IN_CAPSULE: u32 = 8192;

/// A command that the target has got and not completed.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) sqe: Sqe,
    /// Bytes of the host's buffer.
    pub(crate) len: u32,
    /// Bytes that C2HData has brought.
    received: u32,
    /// Bytes that R2Ts have asked for.
    asked: u32,
}

/// An R2T that is not fully answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) cid: u16,
    pub(crate) tag: u16,
    pub(crate) offset: u32,
    pub(crate) left: u32,
}

/// What the target found wrong, as far as this side can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// Surely, and this is what the TermReq says; FEI only where it is certain.
    Surely(FatalErrorStatus, Option<u32>),
    /// The host itself said good-bye, in good form or not.
    HostTerm,
}

/// A queue's role, from the answer to Connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Role {
    pub(crate) qid: u16,
    pub(crate) cntlid: u16,
    pub(crate) sqsize: u16,
    pub(crate) flow_control: bool,
}

#[derive(Debug)]
pub(crate) struct Host {
    settings: TcpSettings,
    pub(crate) digests: Digests,
    pub(crate) hpda: u8,
    maxr2t: u32,
    /// ICReq was read.
    initialised: bool,
    /// ICResp came.
    pub(crate) answered: bool,
    pub(crate) role: Option<Role>,
    pub(crate) commands: BTreeMap<u16, Vec<Sent>>,
    pub(crate) r2ts: Vec<Asked>,
    pub(crate) broken: Option<Broken>,
    /// More commands were outstanding than the queue may have had entries.
    overflow: bool,
    /// The target said good-bye.
    pub(crate) terminated: bool,
    /// It does not read what the target sends, so it knows less.
    pub(crate) deaf: bool,
    sent: Vec<u8>,
    body: usize,
    got: Vec<u8>,
    /// Data of the last command, and its status.
    pub(crate) last_data: Vec<u8>,
    pub(crate) last_status: Status,
}

impl Host {
    pub(crate) fn new(settings: TcpSettings) -> Self {
        Self {
            settings,
            digests: Digests::default(),
            hpda: 0,
            maxr2t: 0,
            initialised: false,
            answered: false,
            role: None,
            commands: BTreeMap::new(),
            r2ts: Vec::new(),
            broken: None,
            overflow: false,
            terminated: false,
            deaf: false,
            sent: Vec::new(),
            body: 0,
            got: Vec::new(),
            last_data: Vec::new(),
            last_status: Status::SUCCESS,
        }
    }

    /// Commands that the target has to complete.
    pub(crate) fn outstanding(&self) -> usize {
        self.commands.values().map(Vec::len).sum()
    }

    /// Whether neither end has found fault with the other.
    pub(crate) fn is_good(&self) -> bool {
        self.broken.is_none() && !self.terminated
    }

    /// Whether the target waits for the rest of a PDU.
    pub(crate) fn is_mid_pdu(&self) -> bool {
        self.is_good() && (self.body > 0 || !self.sent.is_empty())
    }

    /// The target has got these bytes.
    pub(crate) fn handle_sent(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while self.broken.is_none() && !bytes.is_empty() {
            if self.body > 0 {
                let n = self.body.min(bytes.len());
                self.body -= n;
                bytes = &bytes[n..];
                continue;
            }
            let need = match self.header() {
                None => 8,
                Some(Ok(frame)) => frame.header_total(),
                Some(Err(_)) => 0,
            };
            let n = need.saturating_sub(self.sent.len()).min(bytes.len());
            self.sent.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            match self.header() {
                None => {}
                Some(Err(fatal)) => self.break_with(fatal, self.sent[0]),
                Some(Ok(frame)) if self.sent.len() >= frame.header_total() => {
                    let head = std::mem::take(&mut self.sent);
                    self.body = frame.total() - frame.header_total();
                    if let Err(fatal) = self.read_sent(&frame, &head) {
                        self.break_with(fatal, head[0]);
                    }
                }
                Some(Ok(_)) => {}
            }
        }
    }

    fn break_with(&mut self, fatal: Fatal, kind: u8) {
        // A TermReq is never answered by another, not even a malformed one.
        let silently = PduType(kind).is_term_req();
        self.broken = Some(if silently { Broken::HostTerm } else { Broken::Surely(fatal.fes, Some(fatal.fei)) });
    }

    fn header(&self) -> Option<Result<Frame, Fatal>> {
        let (ch, _) = CommonHeader::read_from_prefix(&self.sent).ok()?;
        Some(ch.check(&ReceiveRules {
            receiver: Receiver::Controller,
            digests: self.digests,
            pda: self.settings.cpda,
            in_capsule_max: IN_CAPSULE,
            data_max: self.settings.maxh2cdata,
        }))
    }

    fn read_sent(&mut self, frame: &Frame, head: &[u8]) -> Result<(), Fatal> {
        if frame.header_digest {
            let (header, digest) = head.split_at(frame.hlen);
            if crc32c(header) != digest {
                let fei = u32::from_le_bytes(digest.try_into().unwrap());
                return Err(Fatal { fes: FatalErrorStatus::HEADER_DIGEST_ERROR, fei });
            }
        }
        match frame.kind {
            PduType::H2C_TERM_REQ => self.broken = Some(Broken::HostTerm),
            PduType::IC_REQ if !self.initialised => {
                let icreq = IcReq::read_from_bytes(head).unwrap();
                if icreq.pfv.get() != 0 {
                    return Err(Fatal { fes: FatalErrorStatus::UNSUPPORTED_PARAMETER, fei: 8 });
                }
                if icreq.hpda > 31 {
                    return Err(Fatal::field(10));
                }
                self.initialised = true;
                self.hpda = icreq.hpda;
                self.maxr2t = icreq.maxr2t.get();
                let asked = Digests::from_byte(icreq.dgst);
                self.digests = Digests {
                    header: asked.header && self.settings.header_digest,
                    data: asked.data && self.settings.data_digest,
                };
            }
            PduType::CAPSULE_CMD if self.initialised => {
                let (capsule, _) = CapsuleCmd::read_from_prefix(head).unwrap();
                let sqe = capsule.sqe;
                // Until the answer to Connect comes, this side has to take the queue for the smallest.
                let entries = self.role.map_or(2, |role| role.sqsize);
                self.overflow |= self.outstanding() >= usize::from(entries);
                let len = match sqe.sgl1.identifier {
                    0x40 | 0x4f => sqe.sgl1.length.get() & 0x00ff_ffff,
                    _ => sqe.sgl1.length.get(),
                };
                self.commands.entry(sqe.cid.get()).or_default().push(Sent { sqe, len, received: 0, asked: 0 });
            }
            PduType::H2C_DATA if self.initialised => self.read_h2c_data(frame, head),
            _ => return Err(Fatal::sequence()),
        }
        Ok(())
    }

    fn read_h2c_data(&mut self, frame: &Frame, head: &[u8]) {
        let (pdu, _) = H2cData::read_from_prefix(head).unwrap();
        let (offset, len) = (pdu.datao.get(), pdu.datal.get());
        let last = pdu.ch.flags().contains(PduFlags::LAST_PDU);
        let field = |offset| Broken::Surely(FatalErrorStatus::INVALID_HEADER_FIELD, Some(offset));
        let range = |offset| Broken::Surely(FatalErrorStatus::DATA_OUT_OF_RANGE, Some(offset));
        let Some(at) = self.r2ts.iter().position(|r| r.tag == pdu.ttag.get()) else {
            // An R2T that this host has not read may have that tag.
            if !self.deaf {
                self.broken = Some(field(10));
            }
            return;
        };
        let asked = &mut self.r2ts[at];
        let broken = if !offset.is_multiple_of(4) {
            field(12)
        } else if offset != asked.offset {
            range(12)
        } else if len > asked.left {
            range(16)
        } else if last && len < asked.left {
            field(1)
        } else if asked.cid != pdu.cccid.get() {
            field(8)
        } else if len != frame.data_len {
            field(16)
        } else {
            asked.offset += len;
            asked.left -= len;
            if asked.left == 0 {
                self.r2ts.remove(at);
            }
            return;
        };
        self.broken = Some(broken);
    }

    /// The target has sent these bytes.
    pub(crate) fn handle_received(&mut self, bytes: &[u8]) {
        assert!(bytes.is_empty() || !self.terminated, "bytes after C2HTermReq");
        self.got.extend_from_slice(bytes);
        let mut got = std::mem::take(&mut self.got);
        let mut at = 0;
        while let Ok((ch, _)) = CommonHeader::read_from_prefix(&got[at..]) {
            let rules = ReceiveRules {
                receiver: Receiver::Host,
                digests: if self.answered { self.digests } else { Digests::default() },
                pda: self.hpda,
                in_capsule_max: 0,
                data_max: self.settings.c2h_data,
            };
            let frame = ch.check(&rules).unwrap_or_else(|e| panic!("the target sent {ch:?}: {e}"));
            let Some(pdu) = got.get(at..at + frame.total()) else { break };
            self.read_received(&frame, pdu);
            at += frame.total();
        }
        got.drain(..at);
        self.got = got;
    }

    /// The target has closed the connection, or is about to stop sending: nothing is left half sent.
    pub(crate) fn assert_whole(&self) {
        assert!(self.got.is_empty(), "the target stopped in the middle of a PDU");
    }

    fn read_received(&mut self, frame: &Frame, pdu: &[u8]) {
        assert!(!self.terminated, "a PDU after C2HTermReq: {pdu:02x?}");
        if frame.header_digest {
            let (header, rest) = pdu.split_at(frame.hlen);
            assert_eq!(crc32c(header), rest[..4], "header digest of {header:02x?}");
        }
        let data = &pdu[frame.data_offset..frame.data_offset + frame.data_len as usize];
        if frame.data_digest {
            assert_eq!(crc32c(data), pdu[frame.total() - 4..], "data digest of {frame:?}");
        }
        match frame.kind {
            PduType::C2H_TERM_REQ => self.read_term_req(&TermReq::read_from_prefix(pdu).unwrap().0, data),
            PduType::IC_RESP => {
                assert!(self.initialised && !self.answered, "ICResp that nobody asked for");
                self.answered = true;
                let icresp = IcResp::read_from_bytes(pdu).unwrap();
                assert_eq!(icresp.pfv.get(), 0);
                assert_eq!((icresp.cpda, icresp.dgst), (self.settings.cpda, self.digests.to_byte()));
                assert_eq!(icresp.maxh2cdata.get(), self.settings.maxh2cdata);
            }
            _ if !self.answered => panic!("{} before ICResp", frame.kind),
            PduType::CAPSULE_RESP => self.read_response(&CapsuleResp::read_from_prefix(pdu).unwrap().0),
            PduType::C2H_DATA => self.read_data(&C2hData::read_from_prefix(pdu).unwrap().0, data),
            PduType::R2T => self.read_r2t(&R2t::read_from_prefix(pdu).unwrap().0),
            other => panic!("{other}"),
        }
    }

    fn read_term_req(&mut self, term: &TermReq, quoted: &[u8]) {
        self.terminated = true;
        assert!(!quoted.is_empty(), "C2HTermReq quotes nothing");
        let (fes, fei) = (FatalErrorStatus(term.fes.get()), term.fei.get());
        match self.broken {
            Some(Broken::Surely(expected, offset)) if !self.deaf && !self.overflow => {
                assert_eq!((fes, fei), (expected, offset.unwrap_or(fei)), "the reason of C2HTermReq");
            }
            Some(Broken::HostTerm) if !self.deaf && !self.overflow => panic!("C2HTermReq in answer to H2CTermReq"),
            Some(_) => {}
            None => assert!(
                self.overflow && fes == FatalErrorStatus::SEQUENCE_ERROR || self.deaf,
                "C2HTermReq {fes} {fei:#x} for nothing"
            ),
        }
    }

    fn read_response(&mut self, pdu: &CapsuleResp) {
        let cqe = pdu.cqe;
        let sent = self.complete(cqe.cid.get(), cqe.status());
        assert!(cqe.status_field.get() & 1 == 0, "phase tag");
        let flow_control = self.role.is_none_or(|role| role.flow_control);
        let sqhd = cqe.sqhd.get();
        if sent.sqe.opcode == 0x7f && sent.sqe.fctype() == 0x01 && cqe.status().is_success() {
            assert!(self.role.is_none(), "a second Connect succeeded on one queue");
            let connect = ConnectCmd::from_sqe(&sent.sqe);
            let role = Role {
                qid: connect.qid.get(),
                cntlid: ConnectResult(cqe.dw0.get()).cntlid(),
                sqsize: connect.sqsize.get() + 1,
                flow_control: connect.cattr & 4 == 0,
            };
            self.role = Some(role);
            return;
        }
        match self.role {
            Some(role) if flow_control => assert!(sqhd < role.sqsize, "SQHD {sqhd} of {}", role.sqsize),
            Some(_) => assert_eq!(sqhd, 0xffff, "SQHD without flow control"),
            None => {}
        }
        assert!(sent.received == 0 || cqe.status().is_success(), "data and then {}", cqe.status());
    }

    fn complete(&mut self, cid: u16, status: Status) -> Sent {
        let Some(sent) = self.commands.get_mut(&cid) else {
            panic!("completion of {cid:#x}, which is not outstanding")
        };
        // A conflict is with the one that was there before.
        let conflict = status.code() == Status::COMMAND_ID_CONFLICT;
        assert!(!conflict || sent.len() > 1, "a conflict of {cid:#x} with nothing");
        let sent = if conflict { sent.pop() } else { Some(sent.remove(0)) };
        self.commands.retain(|_, sent| !sent.is_empty());
        if !self.commands.contains_key(&cid) {
            assert!(!self.r2ts.iter().any(|r| r.cid == cid), "completion of {cid:#x}, whose data is still asked for");
        }
        self.last_status = status;
        sent.unwrap()
    }

    fn read_data(&mut self, pdu: &C2hData, data: &[u8]) {
        let cid = pdu.cccid.get();
        let flags = pdu.ch.flags();
        let Some(sent) = self.commands.get_mut(&cid).and_then(|sent| sent.first_mut()) else {
            panic!("C2HData for {cid:#x}, which is not outstanding")
        };
        assert_eq!(pdu.datal.get() as usize, data.len());
        assert_eq!(pdu.datao.get(), sent.received, "C2HData out of order");
        sent.received = sent.received.checked_add(pdu.datal.get()).unwrap();
        self.last_data.truncate(pdu.datao.get() as usize);
        self.last_data.extend_from_slice(data);
        assert!(sent.received <= sent.len, "C2HData of {} bytes for a buffer of {}", sent.received, sent.len);
        assert_eq!(sent.sqe.opcode & 1, 0, "C2HData for opcode {:#x}", sent.sqe.opcode);
        if flags.contains(PduFlags::SUCCESS) {
            assert!(flags.contains(PduFlags::LAST_PDU));
            assert!(self.role.is_some_and(|role| !role.flow_control), "SUCCESS with flow control");
            self.complete(cid, Status::SUCCESS);
        }
    }

    fn read_r2t(&mut self, pdu: &R2t) {
        let (cid, offset, len) = (pdu.cccid.get(), pdu.r2to.get(), pdu.r2tl.get());
        assert!(!self.r2ts.iter().any(|r| r.tag == pdu.ttag.get()), "R2T tag {:#x} is in use", pdu.ttag.get());
        let outstanding = self.r2ts.iter().filter(|r| r.cid == cid).count();
        assert!(
            outstanding as u64 <= u64::from(self.maxr2t),
            "{outstanding} R2Ts and one more, MAXR2T {}",
            self.maxr2t
        );
        let Some(sent) = self.commands.get_mut(&cid).and_then(|sent| sent.first_mut()) else {
            panic!("R2T for {cid:#x}, which is not outstanding")
        };
        assert!(len > 0 && offset == sent.asked, "R2T for {len} bytes at {offset}; {} are asked for", sent.asked);
        sent.asked = offset.checked_add(len).unwrap();
        assert!(sent.asked <= sent.len, "R2T up to {} for a buffer of {}", sent.asked, sent.len);
        assert_eq!(sent.sqe.sgl1.identifier, 0x5a, "R2T for a command without transport data");
        let to_controller = if sent.sqe.opcode == 0x7f { sent.sqe.fctype() & 3 } else { sent.sqe.opcode & 3 };
        assert_eq!(to_controller, 1, "R2T for opcode {:#x}", sent.sqe.opcode);
        self.r2ts.push(Asked { cid, tag: pdu.ttag.get(), offset, left: len });
    }
}

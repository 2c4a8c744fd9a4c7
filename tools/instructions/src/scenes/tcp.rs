//! The target over NVMe/TCP: from received bytes to what waits in the queue of the socket, and its end there.
//!
//! Bytes arrive as the reactor receives them: what belongs to a payload in its place, the rest in a scratch buffer. The
//! kernel's copies are not counted. What the socket has taken is dropped at once, which costs what dropping it piece by
//! piece does; [`super::tx`] has the sending itself.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kvof_kv::{KvCommand, RetrieveOptions, StoreOptions};
use kvof_spec::{
    Cqe, FromBytes, IntoBytes, NvmOpcode, SglDescriptor, Sqe,
    io::RwCmd,
    tcp::{C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, H2cData, IcReq, PduFlags, PduType, R2t},
};
use kvof_target::{
    control::TransportKind,
    transport::tcp::{Connection, TcpSettings},
};

use super::{
    Operation, Scattered, Scene, key,
    served::{self, BLOCKS, KV, NVM, Served},
};
use crate::measure::{aside, counted};

/// As in the reactor: what is received at once, and what besides data that is due.
const SCRATCH: usize = 64 << 10;
const SCRATCH_WITH_DATA: usize = 4096;
/// Data that travels with its command.
const IN_CAPSULE: u32 = 8192;
/// Values of 4 KiB to retrieve from and to replace.
const KEYS: u64 = 4096;
/// As many of 1 MiB.
const LARGE_KEYS: u64 = 16;

pub(super) fn operations() -> Vec<Operation> {
    use Kind::{Exist, List, Read, Retrieve, Store, StoreNew, Write};
    const NONE: Digests = Digests { header: false, data: false };
    const BOTH: Digests = Digests { header: true, data: true };
    /// `scene!(kind, bytes, digests, flow control)` as a function.
    macro_rules! scene {
        ($kind:expr, $len:expr, $digests:expr, $flow_control:expr) => {
            |operation| Ok(Box::new(Tcp::new($kind, $len, operation.batch, $digests, $flow_control)?))
        };
        ($kind:expr, $len:expr, $digests:expr) => {
            scene!($kind, $len, $digests, false)
        };
    }
    const K4: u32 = 4 << 10;
    const K128: u32 = 128 << 10;
    const M1: u32 = 1 << 20;
    let few = (4, 16);
    let many = (4, 64);
    vec![
        Operation::new("tcp/nvm-read-4k/1", 1, many, scene!(Read, K4, NONE)),
        Operation::new("tcp/nvm-read-4k/32", 32, few, scene!(Read, K4, NONE)),
        Operation::new("tcp/nvm-read-4k-flow-control/32", 32, few, scene!(Read, K4, NONE, true)),
        Operation::new("tcp/nvm-read-4k-digests/32", 32, few, scene!(Read, K4, BOTH)),
        Operation::new("tcp/nvm-write-4k/1", 1, many, scene!(Write, K4, NONE)),
        Operation::new("tcp/nvm-write-4k/32", 32, few, scene!(Write, K4, NONE)),
        Operation::new("tcp/nvm-write-4k-digests/32", 32, few, scene!(Write, K4, BOTH)),
        Operation::new("tcp/nvm-read-128k/1", 1, few, scene!(Read, K128, NONE)),
        Operation::new("tcp/nvm-read-128k/8", 8, few, scene!(Read, K128, NONE)),
        Operation::new("tcp/nvm-read-128k-digests/8", 8, few, scene!(Read, K128, BOTH)),
        Operation::new("tcp/nvm-write-128k/1", 1, few, scene!(Write, K128, NONE)),
        Operation::new("tcp/nvm-write-128k/8", 8, few, scene!(Write, K128, NONE)),
        Operation::new("tcp/nvm-write-128k-digests/8", 8, few, scene!(Write, K128, BOTH)),
        Operation::new("tcp/kv-retrieve-4k/1", 1, many, scene!(Retrieve, K4, NONE)),
        Operation::new("tcp/kv-retrieve-4k/32", 32, few, scene!(Retrieve, K4, NONE)),
        Operation::new("tcp/kv-retrieve-4k-digests/32", 32, few, scene!(Retrieve, K4, BOTH)),
        Operation::new("tcp/kv-retrieve-1m/1", 1, few, scene!(Retrieve, M1, NONE)),
        Operation::new("tcp/kv-store-4k/1", 1, many, scene!(Store, K4, NONE)),
        Operation::new("tcp/kv-store-4k/32", 32, few, scene!(Store, K4, NONE)),
        Operation::new("tcp/kv-store-4k-digests/32", 32, few, scene!(Store, K4, BOTH)),
        Operation::new("tcp/kv-store-1m/1", 1, few, scene!(Store, M1, NONE)),
        Operation::new("tcp/kv-store-new-4k/32", 32, few, scene!(StoreNew, K4, NONE)),
        Operation::new("tcp/kv-exist/32", 32, few, scene!(Exist, K4, NONE)),
        Operation::new("tcp/kv-list-4k/1", 1, few, scene!(List, K4, NONE)),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Retrieve,
    /// In place of another value.
    Store,
    /// Under a new key.
    StoreNew,
    Exist,
    List,
}

impl Kind {
    const fn sends(self) -> bool {
        matches!(self, Self::Write | Self::Store | Self::StoreNew)
    }

    const fn is_kv(self) -> bool {
        !matches!(self, Self::Read | Self::Write)
    }
}

struct Tcp {
    kind: Kind,
    len: u32,
    batch: u16,
    served: Served,
    /// Ends with the controller if it goes.
    admin: Wire,
    io: Wire,
    value: Vec<u8>,
    scattered: Scattered,
    /// Keys that were stored.
    stored: u64,
    turns: u32,
    /// Bytes that answer a turn.
    answer: usize,
}

impl Tcp {
    fn new(kind: Kind, len: u32, batch: u64, digests: Digests, flow_control: bool) -> Result<Self> {
        let mut served = Served::new(TransportKind::Tcp)?;
        let mut admin = Wire::new(&mut served, Digests::default())?;
        let (connect, data) = served::connect(None, false)?;
        let connected = admin.command(&mut served, connect, data.as_bytes())?;
        admin.command(&mut served, served::enable()?, &[])?;
        let mut io = Wire::new(&mut served, digests)?;
        let cntlid = u16::try_from(connected.result() & 0xffff)?;
        let (connect, data) = served::connect(Some(cntlid), flow_control)?;
        io.command(&mut served, connect, data.as_bytes())?;
        let value: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let mut tcp = Self {
            kind,
            len,
            batch: u16::try_from(batch)?,
            served,
            admin,
            io,
            value,
            scattered: Scattered::new(),
            stored: 0,
            turns: 0,
            answer: 0,
        };
        if kind.is_kv() {
            tcp.fill()?;
        }
        Ok(tcp)
    }

    const fn keys(&self) -> u64 {
        if self.len > IN_CAPSULE { LARGE_KEYS } else { KEYS }
    }

    fn fill(&mut self) -> Result<()> {
        while self.stored < self.keys() {
            let sqe = self.store_next();
            self.io.command(&mut self.served, sqe, &self.value)?;
        }
        Ok(())
    }

    fn store_next(&mut self) -> Sqe {
        self.stored += 1;
        self.store(self.stored - 1)
    }

    fn store(&self, number: u64) -> Sqe {
        KvCommand::store(KV, &key(number), StoreOptions::empty(), self.len).to_sqe(SglDescriptor::default())
    }

    fn next(&mut self) -> Result<Sqe> {
        let number = self.scattered.next(self.keys());
        let sgl = SglDescriptor::transport_data(self.len);
        let none = SglDescriptor::transport_data(0);
        Ok(match self.kind {
            Kind::Read | Kind::Write => {
                let blocks = self.len / 4096;
                let slba = self.scattered.next(BLOCKS / u64::from(blocks)) * u64::from(blocks);
                let opcode = if self.kind == Kind::Read { NvmOpcode::READ } else { NvmOpcode::WRITE };
                let mut sqe = RwCmd::new(opcode, NVM, slba, blocks).context("a number of blocks")?.to_sqe();
                sqe.sgl1 = sgl;
                sqe
            }
            Kind::Retrieve => KvCommand::retrieve(KV, &key(number), RetrieveOptions::empty(), self.len).to_sqe(sgl),
            Kind::Store => self.store(number),
            Kind::StoreNew => self.store_next(),
            Kind::Exist => KvCommand::exist(KV, &key(number)).to_sqe(none),
            Kind::List => KvCommand::list(KV, Some(&key(number)), self.len).to_sqe(sgl),
        })
    }
}

impl Scene for Tcp {
    fn turn(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        for cid in 0..self.batch {
            let sqe = self.next()?;
            let data = if self.kind.sends() { &self.value[..] } else { &[] };
            self.io.capsule(sqe, cid, data, &mut bytes);
        }
        self.io.deliver(&mut self.served, &bytes);
        let mut heard = Heard::default();
        if self.kind.sends() && self.len > IN_CAPSULE {
            heard = self.io.hear()?;
            while !heard.r2ts.is_empty() {
                let mut bytes = Vec::new();
                for r2t in std::mem::take(&mut heard.r2ts) {
                    self.io.h2c_data(&r2t, &self.value, &mut bytes)?;
                }
                self.io.deliver(&mut self.served, &bytes);
                if self.turns < 2 {
                    let now = self.io.hear()?;
                    heard.r2ts = now.r2ts;
                    heard.completed += now.completed;
                }
            }
        }
        // The first answers are read; those that count have to be as many bytes as they were.
        self.turns += 1;
        let waiting = self.io.connection.tx().pending();
        if self.turns <= 2 {
            let now = self.io.hear()?;
            let (completed, data) = (heard.completed + now.completed, heard.data + now.data);
            ensure!(completed == u32::from(self.batch), "{completed} of {} commands completed", self.batch);
            let expected = if matches!(self.kind, Kind::Read | Kind::Retrieve) { self.len * completed } else { 0 };
            ensure!(
                data == expected as usize || (self.kind == Kind::List && data > 1000),
                "{data} bytes came instead of {expected}"
            );
            self.answer = waiting;
        } else {
            let connection = &mut self.io.connection;
            counted(&mut || connection.tx().clear());
            let is_same = waiting == self.answer || self.kind == Kind::List || (self.kind.sends() && waiting > 0);
            ensure!(is_same, "{waiting} bytes of answers where {} were", self.answer);
        }
        ensure!(self.io.connection.queue().busy() == 0, "commands are not completed");
        ensure!(self.admin.connection.queue().is_connected() && self.io.connection.queue().is_connected(), "the end");
        Ok(())
    }
}

/// What came from the target.
#[derive(Default)]
struct Heard {
    completed: u32,
    /// Bytes of data.
    data: usize,
    r2ts: Vec<R2t>,
    last: Cqe,
}

/// A connection of the target, and the host's end of it.
struct Wire {
    connection: Connection,
    digests: Digests,
    scratch: Vec<u8>,
}

impl Wire {
    fn new(served: &mut Served, digests: Digests) -> Result<Self> {
        let settings = Arc::new(TcpSettings::default());
        let connection = Connection::new(settings, served.now);
        let mut wire = Self { connection, digests, scratch: vec![0; SCRATCH] };
        let icreq = IcReq::new(0, digests, 0);
        wire.deliver(served, icreq.as_bytes());
        let mut icresp = Vec::new();
        wire.connection.tx().drain_into(&mut icresp);
        ensure!(icresp.len() == 128, "no ICResp");
        Ok(wire)
    }

    /// Runs one command, with its data in the capsule if it fits there.
    fn command(&mut self, served: &mut Served, sqe: Sqe, data: &[u8]) -> Result<Cqe> {
        let mut bytes = Vec::new();
        self.capsule(sqe, 1, data, &mut bytes);
        self.deliver(served, &bytes);
        let mut heard = self.hear()?;
        while !heard.r2ts.is_empty() {
            let mut bytes = Vec::new();
            for r2t in std::mem::take(&mut heard.r2ts) {
                self.h2c_data(&r2t, data, &mut bytes)?;
            }
            self.deliver(served, &bytes);
            heard = self.hear()?;
        }
        ensure!(heard.completed == 1, "a command of opcode {:#04x} is not completed", sqe.opcode);
        Ok(heard.last)
    }

    fn capsule(&self, mut sqe: Sqe, cid: u16, data: &[u8], out: &mut Vec<u8>) {
        let len = data.len() as u32;
        sqe.cid = cid.into();
        let in_capsule = if len <= IN_CAPSULE { data } else { &[] };
        if !data.is_empty() {
            sqe.sgl1 =
                if len <= IN_CAPSULE { SglDescriptor::in_capsule(0, len) } else { SglDescriptor::transport_data(len) };
        }
        let pdu = CapsuleCmd::new(sqe, in_capsule.len() as u32, self.digests, 0);
        self.frame(pdu.as_bytes(), in_capsule, out);
    }

    fn h2c_data(&self, r2t: &R2t, value: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (offset, len) = (r2t.r2to.get(), r2t.r2tl.get());
        let data = value.get(offset as usize..(offset + len) as usize).context("an R2T beyond the value")?;
        let pdu = H2cData::new(r2t.cccid.get(), r2t.ttag.get(), offset, len, true, self.digests, 0);
        self.frame(pdu.as_bytes(), data, out);
        Ok(())
    }

    fn frame(&self, header: &[u8], data: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(header);
        if self.digests.header {
            out.extend_from_slice(&crc32c(header));
        }
        out.extend_from_slice(data);
        if self.digests.data && !data.is_empty() {
            out.extend_from_slice(&crc32c(data));
        }
    }

    /// Gives the connection what has come, in the order of the reactor's receives.
    fn deliver(&mut self, served: &mut Served, bytes: &[u8]) {
        let Self { connection, scratch, .. } = self;
        let mut rest = bytes;
        counted(&mut || {
            let mut cx = served.cx();
            while !rest.is_empty() {
                connection.resume(&mut cx);
                assert!(connection.wants_receive(), "the connection takes no more");
                let room = if connection.expects_data() { SCRATCH_WITH_DATA } else { SCRATCH };
                let (mut placed, mut tail) = (0, 0);
                let place = connection.recv_place().unwrap_or_default();
                aside(&mut || {
                    placed = rest.len().min(place.len());
                    place[..placed].copy_from_slice(&rest[..placed]);
                    tail = (rest.len() - placed).min(room);
                    scratch[..tail].copy_from_slice(&rest[placed..placed + tail]);
                    rest = &rest[placed + tail..];
                });
                connection.handle_received(&mut cx, placed, &scratch[..tail]);
            }
        });
    }

    /// Reads what waits to be sent.
    fn hear(&mut self) -> Result<Heard> {
        let mut bytes = Vec::new();
        self.connection.tx().drain_into(&mut bytes);
        let mut heard = Heard::default();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (ch, _) = CommonHeader::read_from_prefix(rest).ok().context("half a header")?;
            let (pdu, later) = rest.split_at_checked(ch.plen.get() as usize).context("half a PDU")?;
            rest = later;
            match ch.kind() {
                PduType::CAPSULE_RESP => {
                    let (pdu, _) = CapsuleResp::read_from_prefix(pdu).ok().context("half a completion")?;
                    ensure!(pdu.cqe.status().is_success(), "a command failed: {}", pdu.cqe.status());
                    heard.completed += 1;
                    heard.last = pdu.cqe;
                }
                PduType::C2H_DATA => {
                    let (pdu, _) = C2hData::read_from_prefix(pdu).ok().context("half a header")?;
                    heard.completed += u32::from(pdu.ch.flags().contains(PduFlags::SUCCESS));
                    heard.data += pdu.datal.get() as usize;
                }
                PduType::R2T => heard.r2ts.push(R2t::read_from_prefix(pdu).ok().context("half an R2T")?.0),
                other => anyhow::bail!("a PDU of type {:#04x}", other.0),
            }
        }
        Ok(heard)
    }
}

fn crc32c(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

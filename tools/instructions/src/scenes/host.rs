//! The host library over NVMe/TCP: from a command to bytes for the socket, and from received bytes to its answer. The
//! kernel's copies are not counted, and neither are the channel between threads and the futures.

use anyhow::{Context, Result, ensure};
use kvof_initiator::{Buffer, measuring::Host};
use kvof_spec::{
    Cqe, FromBytes, IntoBytes, Status,
    tcp::{C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, H2cData, PduFlags, PduType, R2t},
};

use super::{Operation, Scene, key};
use crate::measure::{aside, counted};

const IN_CAPSULE: u32 = 8192;
const MAXH2CDATA: u32 = 1 << 20;
const NONE: Digests = Digests { header: false, data: false };

pub(super) fn operations() -> Vec<Operation> {
    macro_rules! scene {
        ($stores:expr, $len:expr) => {
            |operation| Ok(Box::new(Tcp::new($stores, $len, operation.batch)?))
        };
    }
    const K4: usize = 4 << 10;
    const M1: usize = 1 << 20;
    vec![
        Operation::new("host/kv-retrieve-4k/1", 1, (4, 64), scene!(false, K4)),
        Operation::new("host/kv-retrieve-4k/32", 32, (4, 16), scene!(false, K4)),
        Operation::new("host/kv-retrieve-1m/1", 1, (4, 16), scene!(false, M1)),
        Operation::new("host/kv-store-4k/1", 1, (4, 64), scene!(true, K4)),
        Operation::new("host/kv-store-4k/32", 32, (4, 16), scene!(true, K4)),
        Operation::new("host/kv-store-1m/1", 1, (4, 16), scene!(true, M1)),
    ]
}

struct Tcp {
    stores: bool,
    len: usize,
    batch: usize,
    host: Host,
    buffers: Vec<Buffer>,
    value: Vec<u8>,
    turns: u64,
}

impl Tcp {
    fn new(stores: bool, len: usize, batch: u64) -> Result<Self> {
        let batch = usize::try_from(batch)?;
        let host = Host::new(128, IN_CAPSULE, MAXH2CDATA, NONE);
        let buffers = (0..batch).map(|_| Buffer::new(len)).collect();
        Ok(Self { stores, len, batch, host, buffers, value: vec![7; len], turns: 0 })
    }

    /// What the controller says to all that the host has sent.
    fn answer(&self, sent: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut rest = sent;
        while !rest.is_empty() {
            let (ch, _) = CommonHeader::read_from_prefix(rest).ok().context("half a header")?;
            let (pdu, later) = rest.split_at_checked(ch.plen.get() as usize).context("half a PDU")?;
            rest = later;
            match ch.kind() {
                PduType::CAPSULE_CMD => {
                    let (capsule, _) = CapsuleCmd::read_from_prefix(pdu).ok().context("half a capsule")?;
                    let cid = capsule.sqe.cid.get();
                    let len = u32::try_from(self.len)?;
                    let has_data = pdu.len() > size_of::<CapsuleCmd>();
                    if self.stores && !has_data {
                        out.extend_from_slice(R2t::new(cid, cid, 0, len, NONE).as_bytes());
                    } else if self.stores {
                        out.extend_from_slice(CapsuleResp::new(Cqe::new(cid, Status::SUCCESS), NONE).as_bytes());
                    } else {
                        out.extend_from_slice(C2hData::new(cid, 0, len, true, false, NONE, 0).as_bytes());
                        out.extend_from_slice(&self.value);
                        let cqe = Cqe::new(cid, Status::SUCCESS).with_result(len.into());
                        out.extend_from_slice(CapsuleResp::new(cqe, NONE).as_bytes());
                    }
                }
                PduType::H2C_DATA => {
                    let (data, _) = H2cData::read_from_prefix(pdu).ok().context("half a header")?;
                    if data.ch.flags().contains(PduFlags::LAST_PDU) {
                        let cqe = Cqe::new(data.cccid.get(), Status::SUCCESS);
                        out.extend_from_slice(CapsuleResp::new(cqe, NONE).as_bytes());
                    }
                }
                other => anyhow::bail!("a PDU of type {:#04x}", other.0),
            }
        }
        Ok(out)
    }
}

impl Scene for Tcp {
    fn turn(&mut self) -> Result<()> {
        let keys: Vec<_> = (0..self.batch as u64).map(|n| key(self.turns * 1000 + n)).collect();
        self.turns += 1;
        let mut sent = Vec::with_capacity(self.batch * (self.len + 256));
        let Self { host, buffers, stores, .. } = self;
        counted(&mut || {
            for (name, (key, buffer)) in keys.iter().zip(buffers.drain(..)).enumerate() {
                if *stores { host.store(name, key, buffer) } else { host.retrieve(name, key, buffer) }
            }
            host.send(&mut |pieces| aside(&mut || pieces.iter().for_each(|piece| sent.extend_from_slice(piece))));
        });
        while !sent.is_empty() {
            let said = self.answer(&sent)?;
            sent.clear();
            let (host, buffers) = (&mut self.host, &mut self.buffers);
            let mut rest = &said[..];
            let mut failed = None;
            counted(&mut || {
                while !rest.is_empty() {
                    let (direct, buffered) = host.place();
                    let mut n = 0;
                    aside(&mut || {
                        for place in [&mut *direct, &mut *buffered] {
                            let (now, later) = rest.split_at(place.len().min(rest.len()));
                            place[..now.len()].copy_from_slice(now);
                            rest = later;
                            n += now.len();
                        }
                    });
                    assert!(n > 0, "the queue takes no more");
                    host.received(n);
                }
                host.answers(|(_, result, buffer)| {
                    aside(&mut || failed = failed.take().or(result.as_ref().err().map(ToString::to_string)));
                    buffers.extend(buffer);
                });
                host.send(&mut |pieces| aside(&mut || pieces.iter().for_each(|piece| sent.extend_from_slice(piece))));
            });
            ensure!(failed.is_none(), "a command failed: {failed:?}");
        }
        ensure!(self.buffers.len() == self.batch, "{} of {} commands ended", self.buffers.len(), self.batch);
        let is_whole = self.stores || self.buffers.iter().all(|buffer| buffer[..] == self.value[..]);
        ensure!(is_whole, "another value came");
        Ok(())
    }
}

//! The target over NVMe/RDMA: from a capsule to the transfers that it causes, and from their ends to the completion. What
//! the adapter does is not counted, and neither is posting it, which belongs to the endpoint.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use kvof_kv::{KvCommand, RetrieveOptions, StoreOptions};
use kvof_spec::{Cqe, IntoBytes, NvmOpcode, SglDescriptor, Sqe, io::RwCmd, rdma::CmRequest};
use kvof_target::{
    control::TransportKind,
    transport::rdma::{Action, Connection, RdmaSettings, RequestLimits, check_request},
};

use super::{
    Operation, Scattered, Scene, key,
    served::{self, BLOCKS, ENTRIES, KV, NVM, Served},
};
use crate::measure::{aside, counted};

const LEN: u32 = 4096;
const KEYS: u64 = 4096;
const LIMITS: RequestLimits = RequestLimits { admin_entries: 32, queue_entries: ENTRIES, io_queues: 8 };

pub(super) fn operations() -> Vec<Operation> {
    macro_rules! scene {
        ($kind:expr) => {
            |operation| Ok(Box::new(Rdma::new($kind, operation.batch)?))
        };
    }
    let few = (4, 16);
    let many = (4, 64);
    vec![
        Operation::new("rdma/nvm-read-4k/1", 1, many, scene!(Kind::Read)),
        Operation::new("rdma/nvm-read-4k/32", 32, few, scene!(Kind::Read)),
        Operation::new("rdma/nvm-write-4k/1", 1, many, scene!(Kind::Write)),
        Operation::new("rdma/nvm-write-4k/32", 32, few, scene!(Kind::Write)),
        Operation::new("rdma/kv-retrieve-4k/32", 32, few, scene!(Kind::Retrieve)),
        Operation::new("rdma/kv-store-4k/32", 32, few, scene!(Kind::Store)),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Retrieve,
    Store,
}

struct Rdma {
    kind: Kind,
    batch: u16,
    served: Served,
    /// Ends with the controller if it goes.
    admin: Connection,
    io: Connection,
    scattered: Scattered,
}

impl Rdma {
    fn new(kind: Kind, batch: u64) -> Result<Self> {
        let mut served = Served::new(TransportKind::Rdma)?;
        let mut admin = open(&served, 0, 0)?;
        let (connect, data) = served::connect(None, false)?;
        let connected = run(&mut admin, &mut served, &[capsule(connect, 0, data.as_bytes(), true)?])?;
        run(&mut admin, &mut served, &[capsule(served::enable()?, 0, &[], true)?])?;
        let cntlid = u16::try_from(connected.last.result() & 0xffff)?;
        let mut io = open(&served, 1, cntlid)?;
        let (connect, data) = served::connect(Some(cntlid), false)?;
        run(&mut io, &mut served, &[capsule(connect, 0, data.as_bytes(), true)?])?;
        if matches!(kind, Kind::Retrieve | Kind::Store) {
            for number in 0..KEYS {
                run(&mut io, &mut served, &[capsule(store(number), 0, &[0; LEN as usize], false)?])?;
            }
        }
        Ok(Self { kind, batch: u16::try_from(batch)?, served, admin, io, scattered: Scattered::new() })
    }

    fn next(&mut self) -> Result<Sqe> {
        let rw = |opcode, slba| Ok(RwCmd::new(opcode, NVM, slba, 1).context("a number of blocks")?.to_sqe());
        let (block, number) = (self.scattered.next(BLOCKS), self.scattered.next(KEYS));
        match self.kind {
            Kind::Read => rw(NvmOpcode::READ, block),
            Kind::Write => rw(NvmOpcode::WRITE, block),
            Kind::Retrieve => {
                let command = KvCommand::retrieve(KV, &key(number), RetrieveOptions::empty(), LEN);
                Ok(command.to_sqe(SglDescriptor::default()))
            }
            Kind::Store => Ok(store(number)),
        }
    }
}

impl Scene for Rdma {
    fn turn(&mut self) -> Result<()> {
        let messages = (0..self.batch)
            .map(|cid| capsule(self.next()?, cid, &[0; LEN as usize], false))
            .collect::<Result<Vec<_>>>()?;
        let done = run(&mut self.io, &mut self.served, &messages)?;
        let (fetched, sent) = match self.kind {
            Kind::Read | Kind::Retrieve => (0, usize::from(self.batch) * LEN as usize),
            Kind::Write | Kind::Store => (usize::from(self.batch) * LEN as usize, 0),
        };
        ensure!((done.fetched, done.sent) == (fetched, sent), "{} bytes in, {} out", done.fetched, done.sent);
        ensure!(self.admin.queue().is_connected() && self.io.queue().is_connected(), "a connection has ended");
        Ok(())
    }
}

fn store(number: u64) -> Sqe {
    KvCommand::store(KV, &key(number), StoreOptions::empty(), LEN).to_sqe(SglDescriptor::default())
}

fn open(served: &Served, qid: u16, cntlid: u16) -> Result<Connection> {
    let entries = if qid == 0 { LIMITS.admin_entries } else { LIMITS.queue_entries };
    let request = CmRequest::new(qid, entries, entries - 1, cntlid);
    let Ok(request) = check_request(request.as_bytes(), &LIMITS) else { bail!("the connection is refused") };
    Ok(Connection::new(Arc::new(RdmaSettings::default()), request, served.now))
}

/// A command with its data behind it, or in memory of the host.
fn capsule(mut sqe: Sqe, cid: u16, data: &[u8], in_capsule: bool) -> Result<Vec<u8>> {
    let len = u32::try_from(data.len())?;
    sqe.cid = cid.into();
    if in_capsule {
        sqe.sgl1 = SglDescriptor::in_capsule(0, len);
        return Ok([sqe.as_bytes(), data].concat());
    }
    sqe.sgl1 = SglDescriptor::keyed(0x1000 * (u64::from(cid) + 1), len, 7, true).context("a keyed descriptor")?;
    Ok(sqe.as_bytes().to_vec())
}

/// What came of commands.
#[derive(Default)]
struct Done {
    completed: usize,
    fetched: usize,
    sent: usize,
    last: Cqe,
}

/// Delivers the messages and does what the connection asks for.
fn run(connection: &mut Connection, served: &mut Served, messages: &[Vec<u8>]) -> Result<Done> {
    let mut done = Done::default();
    let mut failed = None;
    let now = served.now;
    counted(&mut || {
        let mut cx = served.cx();
        for message in messages {
            connection.handle_capsule(&mut cx, message);
        }
        while let Some(action) = connection.poll_action() {
            match action {
                Action::Fetch { token, landing, segments } => {
                    aside(&mut || done.fetched += segments.bytes() as usize);
                    connection.handle_fetched(&mut cx, token, landing, Ok::<(), &str>(()));
                }
                Action::Respond { token, data, cqe, .. } => {
                    aside(&mut || {
                        done.completed += 1;
                        done.sent += data.as_ref().map_or(0, |(data, _)| data.len());
                        done.last = cqe;
                        failed = failed.or((!cqe.status().is_success()).then(|| cqe.status()));
                    });
                    drop(data);
                    connection.handle_sent(now, token);
                }
            }
        }
    });
    if let Some(status) = failed {
        bail!("a command failed: {status}");
    }
    ensure!(done.completed == messages.len(), "{} of {} commands completed", done.completed, messages.len());
    Ok(done)
}

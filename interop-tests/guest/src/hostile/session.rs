//! A host that does everything right: what must still work while others misbehave, and the way in for those who do so later.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use kvof_kv::{Key, KvCommand, RetrieveOptions, StoreOptions};
use kvof_rdma::{Event, HostMemory, RemoteAccess};
use kvof_spec::fabrics::{CNTLID_DYNAMIC, ConnectCmd, ConnectData, PropertyGetCmd, PropertySetCmd};
use kvof_spec::property::{Cc, Csts, Property};
use kvof_spec::rdma::CmRequest;
use kvof_spec::sqe::PSDT_SGL;
use kvof_spec::{Cqe, FromBytes, IntoBytes, Nqn, SglDescriptor, Sqe, Status};

use super::raw::{PATIENCE, Raw, Shape};
use crate::pattern::Label;

/// Entries of its queues, 1's based.
pub(crate) const ENTRIES: u16 = 32;

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) subsystem: Nqn,
    pub(crate) host: Nqn,
}

/// One queue, connected by a connection of its own.
pub(crate) struct Queue {
    pub(crate) raw: Raw,
    cid: u16,
    token: u64,
}

/// What a command is answered with, and the memory it was about.
pub(crate) struct Completion {
    pub(crate) cqe: Cqe,
    pub(crate) memory: Option<HostMemory>,
}

impl Queue {
    /// A connection for queue `qid` of controller `cntlid` (0 for an admin queue), on which nothing was said yet.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) fn open(place: &Place, qid: u16, cntlid: u16, shape: Shape) -> Result<Self> {
        let request = CmRequest::new(qid, shape.promised, ENTRIES - 1, cntlid);
        let raw = Raw::connect(place.address, shape, request.as_bytes())?;
        Ok(Self { raw, cid: 0, token: 0 })
    }

    /// The Connect command of queue `qid`; `cntlid` is [`CNTLID_DYNAMIC`] for an admin queue. The controller's identifier.
    ///
    /// # Errors
    /// When there is no answer; a refusal is its status.
    pub(crate) fn connect(&mut self, place: &Place, qid: u16, cntlid: u16) -> Result<Result<u16, Status>> {
        let command = ConnectCmd::new(qid, ENTRIES - 1, if qid == 0 { 15_000 } else { 0 });
        let data = ConnectData::new([0x6b; 16], cntlid, &place.subsystem, &place.host);
        let sqe = Sqe::read_from_bytes(command.as_bytes()).map_err(|_| anyhow::anyhow!("a command has 64 bytes"))?;
        let cqe = self.with_memory(sqe, memory(data.as_bytes())?, 1024, RemoteAccess::Read)?.cqe;
        #[expect(clippy::cast_possible_truncation, reason = "the controller's identifier is the lower half of DW0")]
        Ok(if cqe.status().is_success() { Ok(cqe.dw0.get() as u16) } else { Err(cqe.status()) })
    }

    /// Exposes `memory` as the data of `sqe`, `len` bytes of it, sends it and waits for the answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) fn with_memory(
        &mut self,
        sqe: Sqe,
        memory: HostMemory,
        len: u32,
        access: RemoteAccess,
    ) -> Result<Completion> {
        let sgl = self.expose(memory, len, access)?;
        self.command(Sqe { sgl1: sgl, ..sqe })
    }

    /// Exposes `memory` to the target; the descriptor of its first `len` bytes.
    ///
    /// # Errors
    /// When it cannot be exposed.
    pub(crate) fn expose(&mut self, memory: HostMemory, len: u32, access: RemoteAccess) -> Result<SglDescriptor> {
        self.token += 1;
        let key = self.raw.endpoint().expose(self.token, memory, access).map_err(|(_, error)| error)?;
        SglDescriptor::keyed(key.address, len, key.key, false).context("more than a keyed descriptor can say")
    }

    /// Takes the memory that was exposed last back from the target.
    ///
    /// # Errors
    /// When it does not come.
    pub(crate) fn conceal(&mut self) -> Result<HostMemory> {
        let wanted = self.token;
        self.raw.endpoint().conceal(wanted);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.raw.event(PATIENCE)? {
                Some(Event::Concealed { token, memory }) if token == wanted => return Ok(memory),
                Some(Event::Received { slot, .. }) => self.raw.endpoint().release(slot),
                Some(_) => {}
                None => break,
            }
        }
        bail!("exposed memory did not come back")
    }

    /// Sends a command with what its SGL says, and waits for its answer.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn command(&mut self, sqe: Sqe) -> Result<Completion> {
        self.cid = self.cid.wrapping_add(1);
        let sqe = Sqe { cid: self.cid.into(), flags: PSDT_SGL, ..sqe };
        self.raw.endpoint().send(0, &sqe.to_bytes());
        let cqe = self.answer()?;
        ensure!(cqe.cid == sqe.cid, "command {} was answered as {}", sqe.cid.get(), cqe.cid.get());
        // Only what is exposed comes back; its key is dead before anything else is done with it.
        let exposed = self.token > 0 && sqe.sgl1.identifier & 0xf0 == 0x40;
        let memory = if exposed { Some(self.conceal()?) } else { None };
        Ok(Completion { cqe, memory })
    }

    /// The next answer.
    ///
    /// # Errors
    /// When none comes, or the connection ends.
    pub(crate) fn answer(&mut self) -> Result<Cqe> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.raw.event(PATIENCE)? {
                Some(Event::Received { slot, .. }) => {
                    let cqe = Cqe::read_from_bytes(self.raw.endpoint().received(slot))
                        .map_err(|_| anyhow::anyhow!("an answer of another length than 16 bytes"))?;
                    self.raw.endpoint().release(slot);
                    return Ok(cqe);
                }
                Some(Event::Sent { result, .. }) => result.context("a capsule did not arrive")?,
                Some(_) => {}
                None => break,
            }
        }
        if self.raw.has_ended() { bail!("the target has ended the connection") } else { bail!("no answer in time") }
    }
}

/// A controller with one I/O queue.
pub(crate) struct Host {
    pub(crate) admin: Queue,
    pub(crate) io: Queue,
    pub(crate) cntlid: u16,
}

impl Host {
    /// Connects, enables the controller and connects an I/O queue.
    ///
    /// # Errors
    /// When the target does not do its part.
    pub(crate) fn new(place: &Place) -> Result<Self> {
        Self::with(place, Shape::default())
    }

    /// The same with an I/O queue that has room for `io`.
    ///
    /// # Errors
    /// When the target does not do its part.
    pub(crate) fn with(place: &Place, io: Shape) -> Result<Self> {
        let mut admin = Queue::open(place, 0, 0, Shape::default())?;
        let cntlid = connected(admin.connect(place, 0, CNTLID_DYNAMIC)?)?;
        let cc =
            Cc::default().with_en(true).with_css(Cc::CSS_IOCS).with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16);
        let set = PropertySetCmd::new(Property::CC, cc.0.into()).context("CC has a size")?;
        success(&admin.command(fabrics(set.as_bytes())?)?.cqe, "Property Set of CC")?;
        let get = PropertyGetCmd::new(Property::CSTS).context("CSTS has a size")?;
        let until = Instant::now() + PATIENCE;
        loop {
            let cqe = admin.command(fabrics(get.as_bytes())?)?.cqe;
            success(&cqe, "Property Get of CSTS")?;
            if Csts(cqe.dw0.get()).rdy() {
                break;
            }
            ensure!(Instant::now() < until, "the controller does not become ready");
        }
        let mut io = Queue::open(place, 1, cntlid, io)?;
        connected(io.connect(place, 1, cntlid)?)?;
        Ok(Self { admin, io, cntlid })
    }

    /// Stores a value of `len` bytes, retrieves it, compares and deletes it.
    ///
    /// # Errors
    /// When anything of it fails.
    pub(crate) fn round_trip(&mut self, number: u64, len: u32) -> Result<()> {
        let key = Key::new(format!("hostile{:08x}", number & 0xffff_ffff).as_bytes())?;
        let value = Label { key: number, version: 1 }.value(len as usize);
        let store = KvCommand::store(1, &key, StoreOptions::empty(), len).to_sqe(SglDescriptor::default());
        let completion = self.io.with_memory(store, memory(&value)?, len, RemoteAccess::Read)?;
        success(&completion.cqe, "Store")?;
        let retrieve = KvCommand::retrieve(1, &key, RetrieveOptions::empty(), len).to_sqe(SglDescriptor::default());
        let completion = self.io.with_memory(retrieve, memory(&vec![0; len as usize])?, len, RemoteAccess::Write)?;
        success(&completion.cqe, "Retrieve")?;
        let read = completion.memory.context("the memory did not come back")?;
        let wrong = Label { key: number, version: 1 }.wrong_bytes(&read.as_slice()[..len as usize]);
        ensure!(wrong == 0, "{wrong} of {len} bytes came back wrong");
        let delete = KvCommand::delete(1, &key).to_sqe(SglDescriptor::default());
        success(&self.io.command(delete)?.cqe, "Delete")
    }
}

/// Memory that begins with `bytes`.
///
/// # Errors
/// When there is none left.
pub(crate) fn memory(bytes: &[u8]) -> Result<HostMemory> {
    let mut memory = HostMemory::new(bytes.len()).context("no memory for a buffer")?;
    memory.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    Ok(memory)
}

/// A command of the fabrics that moves no data, as any other.
///
/// # Errors
/// Never: all have 64 bytes.
pub(crate) fn fabrics(bytes: &[u8]) -> Result<Sqe> {
    Sqe::read_from_bytes(bytes).map_err(|_| anyhow::anyhow!("a command has 64 bytes"))
}

fn connected(answer: Result<u16, Status>) -> Result<u16> {
    answer.map_err(|status| anyhow::anyhow!("Connect: {status}"))
}

fn success(cqe: &Cqe, what: &str) -> Result<()> {
    ensure!(cqe.status().is_success(), "{what}: {}", cqe.status());
    Ok(())
}

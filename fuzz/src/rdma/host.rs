//! The host's view of one connection: its memory, what it sent, and what may come of it.
//!
//! It reads its own capsules as a controller has to, in its own way, so that it knows for any of them which memory may be
//! read, which may be written, and which key is to be invalidated.

use std::collections::BTreeMap;

use kvof_spec::{
    Cqe, FromBytes, SglDescriptor, Sqe, Status,
    fabrics::{ConnectCmd, ConnectResult},
    sgl::Sgl,
};
use kvof_target::{
    queue::Landing,
    transport::{CloseReason, rdma::RemoteSegment},
};

use crate::input::pattern;

/// Longest region that a host really has; beyond it, memory is only promised.
const REGION_MAX: u32 = 128 << 10;

/// A command that the target has got and not completed.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) sqe: Sqe,
    /// Remote memory that its SGL names.
    segments: Vec<RemoteSegment>,
    /// The key that its SGL wants invalidated.
    invalidate: Option<u32>,
    fetched: bool,
}

/// A queue's role, from the answer to Connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Role {
    pub(super) qid: u16,
    pub(super) cntlid: u16,
    sqsize: u16,
    flow_control: bool,
}

#[derive(Debug)]
pub(super) struct Host {
    /// What the connection was asked for with.
    qid: u16,
    entries: u16,
    capsule_max: usize,
    pub(super) role: Option<Role>,
    pub(super) commands: BTreeMap<u16, Vec<Sent>>,
    regions: BTreeMap<u32, (u64, Vec<u8>)>,
    made: u32,
    /// What the host, its memory, time or the target's operator did that may end the connection.
    pub(super) bad_capsule: bool,
    pub(super) overflow: bool,
    pub(super) bad_memory: bool,
    pub(super) closed: bool,
    pub(super) drained: bool,
    pub(super) waited: bool,
    /// Data of the last command, and its status.
    pub(super) last_data: Vec<u8>,
    pub(super) last_status: Status,
}

impl Host {
    pub(super) fn new(qid: u16, entries: u16, capsule_max: usize) -> Self {
        Self {
            qid,
            entries,
            capsule_max,
            role: None,
            commands: BTreeMap::new(),
            regions: BTreeMap::new(),
            made: 0,
            bad_capsule: false,
            overflow: false,
            bad_memory: false,
            closed: false,
            drained: false,
            waited: false,
            last_data: Vec::new(),
            last_status: Status::SUCCESS,
        }
    }

    /// Commands that the target has to complete.
    pub(super) fn outstanding(&self) -> usize {
        self.commands.values().map(Vec::len).sum()
    }

    /// Memory with these bytes; its descriptor.
    pub(super) fn register(&mut self, bytes: Vec<u8>) -> (u64, u32) {
        self.made += 1;
        let (address, key) = (u64::from(self.made) << 24, self.made.wrapping_mul(0x9e37_79b1));
        self.regions.insert(key, (address, bytes));
        (address, key)
    }

    /// A keyed descriptor for `len` bytes, which may have something wrong with it.
    pub(super) fn keyed(&mut self, seed: u8, len: u32, invalidate: bool, fault: u8) -> SglDescriptor {
        let len = len & 0xff_ffff;
        let (mut address, mut key) = self.register(pattern(seed, len.min(REGION_MAX) as usize));
        match fault {
            1 => key ^= 1,
            2 => address = u64::MAX - u64::from(len / 2),
            3 => address += 1,
            _ => {}
        }
        SglDescriptor::keyed(address, len, key, invalidate).unwrap()
    }

    /// The target is about to get this message.
    pub(super) fn handle_sent(&mut self, message: &[u8], segments_max: usize) {
        if self.drained {
            return;
        }
        let Some((sqe, behind)) = message.split_first_chunk::<64>().filter(|_| message.len() <= self.capsule_max)
        else {
            self.bad_capsule = true;
            return;
        };
        let sqe = Sqe::from_bytes(sqe);
        // Until the answer to Connect comes, this side has to take the queue for the smallest.
        let entries = self.role.map_or(2, |role| role.sqsize);
        self.overflow |= self.outstanding() >= usize::from(entries);
        let (segments, invalidate) = read_sgl(&sqe.sgl1, behind, segments_max);
        self.commands.entry(sqe.cid.get()).or_default().push(Sent { sqe, segments, invalidate, fetched: false });
    }

    /// The target wants to read this memory.
    pub(super) fn check_fetch(&mut self, landing: &Landing, segments: &[RemoteSegment]) {
        let bytes: u64 = segments.iter().map(|segment| u64::from(segment.len)).sum();
        assert!(bytes > 0 && bytes == landing.as_slice().len() as u64, "{segments:?}");
        let mut sent = self.commands.values_mut().flatten();
        let command = sent.find(|c| !c.fetched && direction(&c.sqe) == 1 && is_beginning(segments, &c.segments));
        let Some(command) = command else { panic!("no command has {segments:?} to be read: {:?}", self.commands) };
        command.fetched = true;
    }

    /// Reads the host's memory; what is wrong with it ends the queue pair.
    pub(super) fn read(&mut self, landing: &mut Landing, segments: &[RemoteSegment]) -> Result<(), &'static str> {
        let mut at = 0;
        for segment in segments {
            let place = self.place(*segment).ok_or("remote access error");
            self.bad_memory |= place.is_err();
            let place = place?;
            let bytes = self.regions.get(&segment.key).and_then(|(_, bytes)| bytes.get(place));
            let bytes = bytes.unwrap_or_default();
            landing.as_mut_slice()[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        }
        Ok(())
    }

    fn place(&self, segment: RemoteSegment) -> Option<std::ops::Range<usize>> {
        let (base, bytes) = self.regions.get(&segment.key)?;
        let start = usize::try_from(segment.address.checked_sub(*base)?).ok()?;
        let end = start.checked_add(segment.len as usize)?;
        (end <= bytes.len()).then_some(start..end)
    }

    /// The target has written `data` and sent the response, or false: the memory is not there.
    pub(super) fn handle_response(
        &mut self,
        data: Option<(Vec<u8>, &[RemoteSegment])>,
        cqe: &Cqe,
        invalidate: Option<u32>,
    ) -> bool {
        let sent = self.complete(cqe.cid.get(), cqe.status());
        self.last_data.clear();
        assert_eq!(invalidate, sent.invalidate, "the key to be invalidated with the response to {sent:?}");
        assert!(cqe.status_field.get() & 1 == 0, "phase tag");
        if let Some((data, segments)) = data {
            let bytes: u64 = segments.iter().map(|segment| u64::from(segment.len)).sum();
            assert!(bytes > 0 && bytes == data.len() as u64, "{} bytes for {segments:?}", data.len());
            assert!(is_beginning(segments, &sent.segments), "{segments:?} for {sent:?}");
            assert_eq!(direction(&sent.sqe) & 1, 0, "data for opcode {:#x}", sent.sqe.opcode);
            assert!(cqe.status().is_success(), "data and then {}", cqe.status());
            for segment in segments {
                let Some(place) = self.place(*segment) else {
                    self.bad_memory = true;
                    return false;
                };
                self.last_data.extend_from_slice(&data[self.last_data.len()..][..place.len()]);
            }
        }
        if let Some(key) = invalidate
            && self.regions.remove(&key).is_none()
        {
            // The host's queue pair refuses to invalidate what is not valid.
            self.bad_memory = true;
            return false;
        }
        self.read_cqe(&sent.sqe, cqe);
        true
    }

    fn read_cqe(&mut self, sqe: &Sqe, cqe: &Cqe) {
        let sqhd = cqe.sqhd.get();
        if is_connect(sqe) && cqe.status().is_success() {
            assert!(self.role.is_none(), "a second Connect succeeded on one queue");
            let connect = ConnectCmd::from_sqe(sqe);
            let role = Role {
                qid: connect.qid.get(),
                cntlid: ConnectResult(cqe.dw0.get()).cntlid(),
                sqsize: connect.sqsize.get() + 1,
                flow_control: connect.cattr & 4 == 0,
            };
            assert!(role.qid == self.qid && role.sqsize <= self.entries, "{role:?} on a connection for {}", self.qid);
            self.role = Some(role);
            return;
        }
        match self.role {
            Some(role) if role.flow_control => assert!(sqhd < role.sqsize, "SQHD {sqhd} of {}", role.sqsize),
            Some(_) => assert_eq!(sqhd, 0xffff, "SQHD without flow control"),
            None => {}
        }
    }

    fn complete(&mut self, cid: u16, status: Status) -> Sent {
        let Some(sent) = self.commands.get_mut(&cid) else {
            panic!("completion of {cid:#x}, which is not outstanding")
        };
        // A conflict is with the one that was there before.
        let conflict = status.code() == Status::COMMAND_ID_CONFLICT;
        assert!(!conflict || sent.len() > 1, "a conflict of {cid:#x} with nothing");
        // Conflicts are answered in the order in which they came.
        let sent = sent.remove(usize::from(conflict));
        self.commands.retain(|_, sent| !sent.is_empty());
        self.last_status = status;
        sent
    }

    /// Whether the connection may end for this reason.
    pub(super) fn has_deserved(&self, reason: &CloseReason) -> bool {
        match reason {
            CloseReason::Host => self.closed,
            CloseReason::Capsule { .. } => self.bad_capsule,
            CloseReason::Queue(_) => self.overflow,
            CloseReason::Rdma(_) => self.bad_memory,
            CloseReason::Timeout(_) => self.waited,
            CloseReason::Stopped => self.drained,
            // The answer to Connect may be on its way.
            CloseReason::Controller(_) => {
                self.role.is_some() || self.commands.values().flatten().any(|sent| is_connect(&sent.sqe))
            }
            _ => false,
        }
    }
}

fn is_connect(sqe: &Sqe) -> bool {
    sqe.opcode == 0x7f && sqe.fctype() == 0x01
}

/// Bits 1:0 of what the command is: 1 brings data to the controller, 2 to the host.
fn direction(sqe: &Sqe) -> u8 {
    (if sqe.opcode == 0x7f { sqe.fctype() } else { sqe.opcode }) & 3
}

/// Whether `part` is the beginning of `whole`, which may have empty segments.
fn is_beginning(part: &[RemoteSegment], whole: &[RemoteSegment]) -> bool {
    let mut whole = whole.iter().filter(|segment| segment.len > 0);
    let mut part = part.iter().peekable();
    while let Some(p) = part.next() {
        let Some(w) = whole.next() else { return false };
        let is_last = part.peek().is_none();
        let fits = if is_last { p.len > 0 && p.len <= w.len } else { p.len == w.len };
        if !fits || (p.address, p.key) != (w.address, w.key) {
            return false;
        }
    }
    true
}

/// Remote memory that the descriptor names, and the key that is to be invalidated.
fn read_sgl(sgl: &SglDescriptor, behind: &[u8], segments_max: usize) -> (Vec<RemoteSegment>, Option<u32>) {
    match sgl.decode() {
        Sgl::Keyed { address, length, key, invalidate } => {
            (vec![RemoteSegment { address, key, len: length }], invalidate.then_some(key))
        }
        Sgl::LastSegmentOffset { offset, length } => {
            let bytes = usize::try_from(offset).ok().and_then(|offset| behind.get(offset..)?.get(..length as usize));
            let bytes = bytes.unwrap_or_default();
            if bytes.len() % 16 != 0 || bytes.len() > 16 * segments_max {
                return (Vec::new(), None);
            }
            let descriptors: Vec<SglDescriptor> =
                bytes.chunks_exact(16).map(|d| SglDescriptor::read_from_bytes(d).unwrap()).collect();
            let invalidate = match descriptors[..] {
                [only] if only.identifier == 0x4f => read_sgl(&only, &[], 0).1,
                _ => None,
            };
            let segments = descriptors.iter().filter(|d| d.identifier == 0x40 || d.identifier == 0x4f);
            (segments.flat_map(|d| read_sgl(d, &[], 0).0).collect(), invalidate)
        }
        _ => (Vec::new(), None),
    }
}

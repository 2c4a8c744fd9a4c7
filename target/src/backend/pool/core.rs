//! One core's volumes of a pool: requests go to the volume of their key, device operations to the core's ring.

use std::{fmt, io, sync::Arc, time::Duration};

use kvof_io::{DiskFile, PoolBuf, SharedBuf};
use kvof_kv::{Key, KvError, KvOutcome, KvRequest, KvResult, OpId};
use kvof_store::{
    device::{DeviceDone, DeviceOp, DeviceRequest},
    format::Uuid,
    volume::{AttachError, NamespaceSpec, Volume, shard_of},
};
use slab::Slab;

use super::{PoolId, PoolStatus};
use crate::{
    backend::{
        Origin,
        disk::{DiskQueue, DiskResult, Owner},
        gather::merge,
    },
    model::BackendId,
};

/// How often the volumes tell how they are.
const PUBLISH: Duration = Duration::from_millis(500);

/// One core's part of a pool, for [`Backends::attach_pool`](crate::backend::Backends::attach_pool).
pub struct PoolPart {
    id: PoolId,
    shards: u16,
    volumes: Vec<CoreVolume>,
    /// By member.
    files: Vec<Option<Arc<DiskFile>>>,
    /// What the volumes are asked for, by the [`OpId`] that they know it by.
    requests: Slab<Asked>,
    flushes: Slab<Flush>,
    status: Arc<PoolStatus>,
    published: Option<Duration>,
    /// Takes no more requests, and hands each volume back when it is at rest.
    draining: bool,
}

struct CoreVolume {
    shard: u16,
    volume: Box<Volume>,
    /// It may have something to say.
    dirty: bool,
}

enum Asked {
    /// A request of this namespace.
    Request(BackendId, Origin),
    /// A part of this Flush.
    Flush(usize),
}

struct Flush {
    backend: BackendId,
    origin: Origin,
    missing: usize,
    result: Result<(), KvError>,
}

/// What has ended on a core.
pub(in crate::backend) enum Ended {
    Request(BackendId, Origin, KvResult<SharedBuf>),
    Flush(BackendId, Origin, Result<(), KvError>),
}

impl PoolPart {
    /// The part of core `core` of `cores`, which takes its volumes out of `volumes`.
    pub(super) fn new(
        id: PoolId,
        (core, cores): (usize, usize),
        volumes: &mut Vec<(u16, Box<Volume>)>,
        files: Vec<Option<Arc<DiskFile>>>,
        status: Arc<PoolStatus>,
    ) -> Self {
        let shards = status.label.geometry.shards();
        let mine = volumes.extract_if(.., |(shard, _)| usize::from(*shard) % cores == core);
        let mine = mine.map(|(shard, mut volume)| {
            volume.take_turns();
            CoreVolume { shard, volume, dirty: true }
        });
        let volumes = mine.collect();
        Self {
            id,
            shards,
            volumes,
            files,
            requests: Slab::new(),
            flushes: Slab::new(),
            status,
            published: None,
            draining: false,
        }
    }

    /// Its pool.
    #[must_use]
    pub const fn id(&self) -> PoolId {
        self.id
    }

    /// The core of `cores` that has `key`.
    pub(in crate::backend) fn core_of(&self, key: &Key, cores: usize) -> usize {
        usize::from(shard_of(key, self.shards)) % cores.max(1)
    }

    /// The cores of `cores` that have volumes: those from 0 up to this.
    pub(in crate::backend) fn cores(&self, cores: usize) -> usize {
        usize::from(self.shards).min(cores)
    }

    /// Whether requests are taken.
    pub(in crate::backend) const fn is_open(&self) -> bool {
        !self.draining
    }

    /// Serves a namespace from this core's volumes; its slot in each.
    pub(in crate::backend) fn attach(&mut self, spec: &NamespaceSpec) -> Result<Vec<u16>, AttachError> {
        let mut slots = Vec::with_capacity(self.volumes.len());
        for at in 0..self.volumes.len() {
            let Some(place) = self.volumes.get_mut(at) else { break };
            place.dirty = true;
            match place.volume.attach(spec.clone()) {
                Ok(slot) => slots.push(slot),
                Err(error) => {
                    self.detach(&slots);
                    return Err(error);
                }
            }
        }
        Ok(slots)
    }

    /// Takes a namespace away from the volumes; nothing of it is in flight.
    pub(in crate::backend) fn detach(&mut self, slots: &[u16]) {
        for (place, slot) in self.volumes.iter_mut().zip(slots) {
            place.dirty = true;
            place.volume.detach(*slot);
        }
    }

    /// Starts `request`, which is for one of this core's volumes and not a List. It comes back if it is not.
    pub(in crate::backend) fn submit(
        &mut self,
        backend: BackendId,
        slots: &[u16],
        origin: Origin,
        request: KvRequest<PoolBuf>,
    ) -> Result<(), KvRequest<PoolBuf>> {
        let key = match &request {
            KvRequest::Store { key, .. }
            | KvRequest::Retrieve { key, .. }
            | KvRequest::Delete { key }
            | KvRequest::Exist { key } => key,
            KvRequest::List { .. } => return Err(request),
        };
        let shard = shard_of(key, self.shards);
        let mine = self.volumes.iter_mut().zip(slots).find(|(place, _)| place.shard == shard);
        let Some((place, slot)) = mine else { return Err(request) };
        let op = OpId(self.requests.insert(Asked::Request(backend, origin)) as u64);
        place.volume.submit(*slot, op, request);
        place.dirty = true;
        Ok(())
    }

    /// Flushes all volumes; `None` if there is none, and nothing to wait for.
    pub(in crate::backend) fn flush(&mut self, backend: BackendId, origin: Origin) -> Option<()> {
        let missing = self.volumes.len();
        if missing == 0 {
            return None;
        }
        let flush = self.flushes.insert(Flush { backend, origin, missing, result: Ok(()) });
        for place in &mut self.volumes {
            let op = OpId(self.requests.insert(Asked::Flush(flush)) as u64);
            place.volume.flush(op);
            place.dirty = true;
        }
        Some(())
    }

    /// The first keys from `start` of this core's volumes that a list of `max_bytes` has room for.
    pub(in crate::backend) fn keys(&self, slots: &[u16], start: Option<Key>, max_bytes: u32) -> Vec<Key> {
        let parts = self.volumes.iter().zip(slots).map(|(place, slot)| place.volume.keys(*slot, start, max_bytes));
        parts.reduce(|left, right| merge(&left, &right, max_bytes)).unwrap_or_default()
    }

    /// Moves what the volumes have to say to `disk` and `ended`.
    pub(in crate::backend) fn pump(&mut self, disk: &mut DiskQueue, ended: &mut Vec<Ended>) {
        for place in &mut self.volumes {
            if !place.dirty && !place.volume.wants_memory() {
                continue;
            }
            place.dirty = false;
            loop {
                let mut moved = false;
                // To ask for results gives reads that wait for memory another try, which may ask for device operations.
                while let Some((OpId(op), result)) = place.volume.poll() {
                    moved = true;
                    let asked = usize::try_from(op).ok().and_then(|op| self.requests.try_remove(op));
                    match asked {
                        Some(Asked::Request(backend, origin)) => ended.push(Ended::Request(backend, origin, result)),
                        Some(Asked::Flush(flush)) => {
                            ended.extend(flushed(&mut self.flushes, flush, &result));
                        }
                        // A volume answers exactly once.
                        None => debug_assert!(false, "a volume answered what nobody asked"),
                    }
                }
                while let Some(request) = place.volume.poll_device() {
                    moved = true;
                    if let Some((token, done)) = start(request, &self.files, (self.id, place.shard), disk) {
                        place.volume.handle_device(token, done);
                    }
                }
                if !moved {
                    break;
                }
            }
        }
    }

    /// Whether there is something to do that waits for nobody.
    pub(in crate::backend) fn has_work(&self) -> bool {
        self.volumes.iter().any(|place| place.volume.has_work())
    }

    /// Does some of it.
    pub(in crate::backend) fn work(&mut self) {
        for place in self.volumes.iter_mut().filter(|place| place.volume.has_work()) {
            place.volume.work();
            place.dirty = true;
        }
    }

    /// A device operation has ended.
    pub(in crate::backend) fn handle_disk(&mut self, shard: u16, token: u64, result: DiskResult) {
        let Some(place) = self.volumes.iter_mut().find(|place| place.shard == shard) else { return };
        let done = match result {
            DiskResult::ReadPart { buf, result } => {
                let result =
                    result.and_then(|read| if read < buf.len() { Err(short(read, buf.len())) } else { Ok(()) });
                DeviceDone::Read { buf, result }
            }
            DiskResult::Write { result } => DeviceDone::Write(result),
            DiskResult::Sync { result } => DeviceDone::Flush(result),
            DiskResult::Read { buf, result } => {
                // The reactor answers each operation in kind.
                let result =
                    result.and_then(|read| if read < buf.len() { Err(short(read, buf.len())) } else { Ok(()) });
                DeviceDone::Read { buf: buf.into(), result }
            }
        };
        place.volume.handle_device(token, done);
        place.dirty = true;
    }

    /// Time has passed; `now` counts from any moment that stays the same.
    pub(in crate::backend) fn handle_time(&mut self, now: Duration) {
        for place in &mut self.volumes {
            place.volume.handle_time(now);
            place.dirty = true;
        }
        if self.published.is_none_or(|last| now.saturating_sub(last) >= PUBLISH) {
            self.published = Some(now);
            self.publish();
        }
    }

    fn publish(&self) {
        for place in &self.volumes {
            self.status.publish(place.shard, place.volume.stats());
        }
    }

    /// The device of `member` was taken away (`None`, and `why`), or is there again.
    pub(in crate::backend) fn device(&mut self, member: u16, device: Option<(Uuid, Arc<DiskFile>)>, why: &str) {
        let Some(file) = self.files.get_mut(usize::from(member)) else { return };
        let uuid = device.as_ref().map(|(uuid, _)| *uuid);
        *file = device.map(|(_, file)| file);
        for place in &mut self.volumes {
            match uuid {
                Some(uuid) => place.volume.device_returned(member, uuid),
                None => place.volume.device_failed(member, why),
            }
            place.dirty = true;
        }
        self.publish();
    }

    /// Whether a read waits for memory of the pool.
    pub(in crate::backend) fn wants_memory(&self) -> bool {
        self.volumes.iter().any(|place| place.volume.wants_memory())
    }

    /// Takes no more requests; [`Self::poll_closed`] gives the volumes as they come to rest.
    pub(in crate::backend) fn drain(&mut self) {
        self.draining = true;
        for place in &mut self.volumes {
            place.volume.drain();
            place.dirty = true;
        }
    }

    /// A volume that is at rest, once the pool is drained; and whether it was the last.
    pub(in crate::backend) fn poll_closed(&mut self) -> Option<(u16, Box<Volume>)> {
        if !self.draining {
            return None;
        }
        let at = self.volumes.iter().position(|place| !place.dirty && place.volume.is_idle())?;
        let CoreVolume { shard, volume, .. } = self.volumes.swap_remove(at);
        self.status.publish(shard, volume.stats());
        Some((shard, volume))
    }

    /// Whether all volumes have been handed back.
    pub(in crate::backend) fn is_closed(&self) -> bool {
        self.draining && self.volumes.is_empty()
    }
}

impl fmt::Debug for PoolPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards: Vec<u16> = self.volumes.iter().map(|place| place.shard).collect();
        f.debug_struct("PoolPart")
            .field("id", &self.id)
            .field("name", &self.status.name)
            .field("shards", &shards)
            .field("requests", &self.requests.len())
            .field("draining", &self.draining)
            .finish_non_exhaustive()
    }
}

/// Hands a request to the ring; the answer comes back at once where there is no device.
fn start(
    request: DeviceRequest,
    files: &[Option<Arc<DiskFile>>],
    (pool, shard): (PoolId, u16),
    disk: &mut DiskQueue,
) -> Option<(u64, DeviceDone)> {
    let DeviceRequest { token, member, op } = request;
    let owner = Owner::Volume { pool, shard, token };
    let file = files.get(usize::from(member)).and_then(Option::as_ref);
    let absent = || io::Error::new(io::ErrorKind::NotFound, format!("there is no device at place {member}"));
    match (op, file) {
        (DeviceOp::Read { offset, buf }, Some(file)) => disk.read_part(owner, file, offset, buf),
        (DeviceOp::Write { offset, bufs }, Some(file)) => disk.write_pieces(owner, file, offset, bufs),
        (DeviceOp::Flush, Some(file)) => disk.sync(owner, file),
        (DeviceOp::Read { buf, .. }, None) => return Some((token, DeviceDone::Read { buf, result: Err(absent()) })),
        (DeviceOp::Write { .. }, None) => return Some((token, DeviceDone::Write(Err(absent())))),
        (DeviceOp::Flush, None) => return Some((token, DeviceDone::Flush(Err(absent())))),
    }
    None
}

/// A volume's part of a Flush has ended.
fn flushed(flushes: &mut Slab<Flush>, key: usize, result: &KvResult<SharedBuf>) -> Option<Ended> {
    let flush = flushes.get_mut(key)?;
    let result = match result {
        Ok(KvOutcome::Stored) => Ok(()),
        Ok(_) => Err(KvError::Internal),
        Err(error) => Err(*error),
    };
    flush.result = flush.result.and(result);
    flush.missing -= 1;
    if flush.missing > 0 {
        return None;
    }
    let Flush { backend, origin, result, .. } = flushes.remove(key);
    Some(Ended::Flush(backend, origin, result))
}

fn short(read: usize, wanted: usize) -> io::Error {
    let text = format!("the device ends after {read} of {wanted} bytes to read; was it truncated?");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

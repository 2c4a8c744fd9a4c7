//! A pool with one namespace, driven by the calling thread: the engine behind [`KvStore`], without a target.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    time::Duration,
};

use kvof_io::{PoolBuf, SharedBuf};
use kvof_kv::{Key, KvError, KvLimits, KvOutcome, KvRequest, KvResult, KvStore, KvUsage, ListWriter, OpId};
use thiserror::Error;

use super::{BlockIo, Devices};
use crate::{
    format::Uuid,
    pool::first_superblock,
    usage::Usage,
    volume::{AttachError, NamespaceSpec, OpenError, Progress, Volume, VolumeConfig, shard_of},
};

/// Why there is no pool to use.
#[derive(Debug, Error)]
pub enum StandaloneError {
    /// A volume cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The namespace cannot be served.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A device or the ring failed.
    #[error("the pool cannot be driven: {0}")]
    Io(#[from] io::Error),
}

/// Writes the first superblock of every volume of a pool, as formatting does after the labels. Nothing else on the devices
/// counts then. `config` as for any of the pool's volumes, `devices` by member number.
///
/// # Errors
/// A device's; or there is no memory for a superblock in `config.buffers`.
pub fn write_first_superblocks(config: &VolumeConfig, devices: &[Uuid], io: &mut dyn BlockIo) -> io::Result<()> {
    for shard in 0..config.geometry.shards() {
        let superblock = first_superblock(config.pool, shard, devices);
        let bytes = superblock.encode();
        let mut buf = config.buffers.alloc(bytes.len()).ok_or(io::ErrorKind::OutOfMemory)?;
        buf.copy_from_slice(&bytes);
        for device in 0..config.geometry.members() {
            io.write(device, config.geometry.superblock(shard, superblock.slot()), &buf)?;
            io.flush(device)?;
        }
    }
    Ok(())
}

/// All volumes of a pool on devices that this thread drives, with one namespace.
///
/// A flush is asked for with [`Self::flush`]; its result comes from [`KvStore::poll`] like those of requests.
#[derive(Debug)]
pub struct Standalone<D> {
    devices: D,
    /// By shard, each with the slot of the namespace.
    volumes: Vec<(Volume, u16)>,
    config: VolumeConfig,
    limits: KvLimits,
    usage: Usage,
    done: VecDeque<(OpId, KvResult<SharedBuf>)>,
    /// Flushes that volumes still work on.
    flushes: BTreeMap<OpId, usize>,
    /// Those of them that failed somewhere.
    failed: BTreeSet<OpId>,
}

impl<D: Devices> Standalone<D> {
    /// Opens every volume; `config` as of any of them, `present` by member number.
    ///
    /// # Errors
    /// [`StandaloneError`].
    pub fn open(
        config: VolumeConfig,
        present: &[Option<Uuid>],
        mut devices: D,
        spec: &NamespaceSpec,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, StandaloneError> {
        let mut volumes = Vec::new();
        for shard in 0..config.geometry.shards() {
            let config = VolumeConfig { shard, ..config.clone() };
            let mut volume = Volume::open(config, present, devices.block_io(), progress)?;
            let slot = volume.attach(spec.clone())?;
            volumes.push((volume, slot));
        }
        Ok(Self {
            devices,
            volumes,
            config,
            limits: spec.limits,
            usage: spec.usage.clone(),
            done: VecDeque::new(),
            flushes: BTreeMap::new(),
            failed: BTreeSet::new(),
        })
    }

    /// The devices.
    pub const fn devices(&mut self) -> &mut D {
        &mut self.devices
    }

    /// The volumes, by shard.
    pub fn volumes(&mut self) -> impl Iterator<Item = &mut Volume> {
        self.volumes.iter_mut().map(|(volume, _)| volume)
    }

    /// Makes what was acknowledged so far survive a loss of power; the result, under `id`, is `Stored`.
    pub fn flush(&mut self, id: OpId) {
        self.flushes.insert(id, self.volumes.len());
        self.volumes.iter_mut().for_each(|(volume, _)| volume.flush(id));
    }

    /// Drives the volumes, waiting at most `wait` if nothing is done at once.
    ///
    /// # Errors
    /// The means of driving devices failed.
    pub fn pump(&mut self, mut wait: Duration) -> io::Result<()> {
        let now = self.devices.now();
        self.volumes.iter_mut().for_each(|(volume, _)| volume.handle_time(now));
        loop {
            for (shard, (volume, _)) in (0..).zip(&mut self.volumes) {
                while let Some(request) = volume.poll_device() {
                    self.devices.start(shard, request);
                }
                while let Some((id, result)) = volume.poll() {
                    let Some(left) = self.flushes.get_mut(&id) else {
                        self.done.push_back((id, result));
                        continue;
                    };
                    *left -= 1;
                    if result.is_err() {
                        self.failed.insert(id);
                    }
                    if *left == 0 {
                        self.flushes.remove(&id);
                        let failed = self.failed.remove(&id);
                        self.done
                            .push_back((id, if failed { Err(KvError::Unrecovered) } else { Ok(KvOutcome::Stored) }));
                    }
                }
            }
            if !self.done.is_empty() {
                wait = Duration::ZERO;
            }
            let Some((shard, token, done)) = self.devices.finish(wait)? else { return Ok(()) };
            wait = Duration::ZERO;
            if let Some((volume, _)) = self.volumes.get_mut(usize::from(shard)) {
                volume.handle_device(token, done);
            }
        }
    }

    /// Stops cleanly and gives the devices back. Results that were not polled are lost; requests in flight are finished.
    ///
    /// # Errors
    /// The means of driving devices failed, or a checkpoint could not be written; then the next start takes longer.
    pub fn close(mut self) -> io::Result<D> {
        self.volumes.iter_mut().for_each(|(volume, _)| volume.drain());
        while !self.volumes.iter().all(|(volume, _)| volume.is_idle()) {
            self.pump(Duration::from_millis(10))?;
            self.done.clear();
        }
        for (volume, _) in self.volumes {
            volume.close(self.devices.block_io())?;
        }
        Ok(self.devices)
    }

    /// Ends as a process does that is killed: the devices as they are, without what was still in flight.
    pub fn abandon(self) -> D {
        self.devices
    }

    fn list(&self, start: Option<Key>, max_bytes: u32) -> KvResult<SharedBuf> {
        let mut keys: Vec<Key> =
            self.volumes.iter().flat_map(|(volume, slot)| volume.keys(*slot, start, max_bytes)).collect();
        keys.sort_unstable();
        let mut list = ListWriter::new(max_bytes);
        // A shard's part ends where it would fill the list alone, so the merged list is full before any part runs out.
        let _ = keys.iter().all(|key| list.push(key));
        Ok(KvOutcome::Listed(list.finish()))
    }
}

impl<D: Devices> KvStore for Standalone<D> {
    type Slot = PoolBuf;
    type Value = SharedBuf;

    fn limits(&self) -> KvLimits {
        self.limits
    }

    fn usage(&self) -> KvUsage {
        self.usage.current()
    }

    fn reserve(&mut self, len: u32) -> Option<PoolBuf> {
        self.config.buffers.alloc(len as usize)
    }

    fn submit(&mut self, id: OpId, request: KvRequest<PoolBuf>) {
        let key = match &request {
            KvRequest::List { start, max_bytes } => {
                let result = self.list(*start, *max_bytes);
                self.done.push_back((id, result));
                return;
            }
            KvRequest::Store { key, .. }
            | KvRequest::Retrieve { key, .. }
            | KvRequest::Delete { key }
            | KvRequest::Exist { key } => *key,
        };
        let shard = shard_of(&key, self.config.geometry.shards());
        match self.volumes.get_mut(usize::from(shard)) {
            Some((volume, slot)) => volume.submit(*slot, id, request),
            None => self.done.push_back((id, Err(KvError::Internal))),
        }
    }

    fn poll(&mut self) -> Option<(OpId, KvResult<SharedBuf>)> {
        if self.done.is_empty() && self.pump(Duration::ZERO).is_err() {
            // Nothing can be done any more; who waits has to give up.
            return None;
        }
        self.done.pop_front()
    }
}

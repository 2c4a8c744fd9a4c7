//! The pools of a target that serves: opened at start and on reload, watched, and closed when their volumes have come to rest.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_io::Pool;
use kvof_store::{
    format::MemberState,
    volume::{Phase, Progress},
};

use super::notify::ServiceManager;
use crate::{
    backend::{DeviceChange, OpenPool, PoolHandle, PoolId, PoolOpenError, PoolStatus},
    model::PoolDef,
    reactor::{ClosedVolume, Reactors},
};

/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);
/// How much longer opening may take, each time that progress is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// All pools.
#[derive(Debug, Default)]
pub(super) struct Pools {
    open: Vec<Served>,
    /// Removed; their volumes are on their way to rest.
    closing: Vec<Closing>,
    last_id: u32,
}

#[derive(Debug)]
struct Served {
    handle: PoolHandle,
    watch: Watch,
}

#[derive(Debug)]
struct Closing {
    handle: PoolHandle,
    /// Volumes that are still to come.
    missing: u16,
}

impl Pools {
    /// Opens a pool, which takes as long as recovery does.
    pub(super) fn open(
        &mut self,
        def: &PoolDef,
        cores: usize,
        buffers: &Pool,
        manager: &ServiceManager,
    ) -> Result<OpenPool, PoolOpenError> {
        self.last_id += 1;
        let begin = Instant::now();
        tracing::info!(pool = def.name, devices = def.devices.len(), "opening pool");
        let mut teller = Teller::new(&def.name, manager);
        let opened = OpenPool::open(def, PoolId(self.last_id), cores, buffers, &mut |progress| {
            teller.progress(progress.shard, progress.volume);
        })?;
        let status = opened.status();
        let total = status.total();
        let geometry = &status.label.geometry;
        tracing::info!(
            pool = def.name,
            profile = %geometry.profile(),
            devices = geometry.members(),
            shards = geometry.shards(),
            capacity = total.capacity,
            keys = total.keys,
            index_bytes = total.index_bytes,
            took = ?begin.elapsed(),
            "pool is open"
        );
        Ok(opened)
    }

    /// Keeps what the daemon has of a pool that the cores have now.
    pub(super) fn add(&mut self, handle: PoolHandle) {
        let watch = Watch::new(handle.status());
        self.open.push(Served { handle, watch });
    }

    /// The pool `name`, if it is at work.
    pub(super) fn get(&self, name: &str) -> Option<&PoolHandle> {
        self.open.iter().map(|served| &served.handle).find(|handle| handle.def().name == name)
    }

    /// Whether the pool `name` is being closed.
    pub(super) fn is_closing(&self, name: &str) -> bool {
        self.closing.iter().any(|closing| closing.handle.def().name == name)
    }

    /// Lets go of the pools that `wanted` has no more, and looks for the devices of the others.
    pub(super) fn update(&mut self, wanted: &[PoolDef], reactors: &Reactors) {
        let names = self.open.iter().map(|served| served.handle.def().name.clone());
        let gone: Vec<String> = names.filter(|name| wanted.iter().all(|def| def.name != *name)).collect();
        for name in &gone {
            tracing::info!(pool = name, "closing pool");
        }
        self.give_up(&gone, reactors);
        for Served { handle, .. } in &mut self.open {
            let Some(def) = wanted.iter().find(|def| def.name == handle.def().name) else { continue };
            if def.limits != handle.def().limits {
                tracing::warn!(pool = def.name, "the pool's new limits and rates take effect at the next start");
            }
            let (id, name) = (handle.id(), def.name.clone());
            let updated = handle.update(def, &mut |change| match change {
                DeviceChange::Gone { member, why } => {
                    tracing::warn!(pool = name, member, why, "device is given up");
                    reactors.device(id, member, None, &why);
                }
                DeviceChange::Back { member, uuid, file } => {
                    tracing::info!(pool = name, member, path = %file.path().display(), "device is taken back");
                    reactors.device(id, member, Some(&(uuid, file)), "");
                }
            });
            if let Err(error) = updated {
                tracing::error!(%error, "the devices of the pool stay as they were");
            }
        }
    }

    /// Takes away again the pools with these names.
    pub(super) fn give_up(&mut self, names: &[String], reactors: &Reactors) {
        let gone = self.open.extract_if(.., |served| names.contains(&served.handle.def().name));
        for Served { handle, .. } in gone.collect::<Vec<_>>() {
            self.remove(handle, reactors);
        }
    }

    /// Takes a pool from the cores; [`Self::closed`] gets its volumes.
    fn remove(&mut self, handle: PoolHandle, reactors: &Reactors) {
        reactors.detach_pool(handle.id());
        let missing = handle.status().label.geometry.shards();
        self.closing.push(Closing { handle, missing });
    }

    /// A volume has come to rest: closes it.
    pub(super) fn closed(&mut self, (id, shard, volume): ClosedVolume) {
        let Some(at) = self.closing.iter().position(|closing| closing.handle.id() == id) else { return };
        let Some(Closing { handle, missing }) = self.closing.get_mut(at) else { return };
        let name = handle.def().name.clone();
        match handle.close(*volume) {
            Ok(()) => tracing::debug!(pool = name, shard, "volume closed"),
            Err(error) => {
                tracing::warn!(pool = name, shard, %error, "not closed cleanly; it recovers at the next start");
            }
        }
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            self.closing.swap_remove(at);
            tracing::info!(pool = name, "pool is closed");
        }
    }

    /// Says what has happened to the pools since the last time.
    pub(super) fn watch(&mut self) {
        for Served { handle, watch } in &mut self.open {
            watch.look(handle.status());
        }
    }

    /// The target stops: closes `volumes`, of all pools, which the cores have come to rest with.
    pub(super) fn stop(mut self, volumes: Vec<ClosedVolume>, manager: &ServiceManager) {
        for Served { handle, .. } in std::mem::take(&mut self.open) {
            let missing = handle.status().label.geometry.shards();
            self.closing.push(Closing { handle, missing });
        }
        for volume in volumes {
            manager.extend("closing pools", PATIENCE);
            self.closed(volume);
        }
        for Closing { handle, missing } in self.closing {
            tracing::warn!(
                pool = handle.def().name,
                volumes = missing,
                "not at rest in time; nothing acknowledged is lost, but the next start has to look for it"
            );
        }
    }
}

/// Tells how far opening a pool is.
struct Teller<'a> {
    pool: &'a str,
    manager: &'a ServiceManager,
    told: Instant,
    volumes_open: u16,
}

impl<'a> Teller<'a> {
    fn new(pool: &'a str, manager: &'a ServiceManager) -> Self {
        manager.extend(&format!("opening pool {pool}"), PATIENCE);
        Self { pool, manager, told: Instant::now(), volumes_open: 0 }
    }

    fn progress(&mut self, shard: u16, volume: Option<Progress>) {
        let Some(volume) = volume else {
            self.volumes_open += 1;
            return;
        };
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let phase = match volume.phase {
            Phase::Checkpoint => "reading the checkpoint",
            Phase::Headers => "looking at groups",
            Phase::Footers => "reading footers",
            Phase::OpenGroups => "reading open groups",
        };
        let (pool, done, of) = (self.pool, volume.done, volume.of);
        tracing::info!(pool, shard, done, of, keys = volume.keys, read = volume.read, "{phase}");
        self.manager.extend(&format!("opening pool {pool}: shard {shard}, {phase}, {done} of {of}"), PATIENCE);
    }
}

/// What is known of a pool's devices, so that changes are told once, with their paths. (Volumes tell of everything else
/// themselves.)
#[derive(Debug)]
struct Watch {
    members: Vec<MemberState>,
    /// When progress of a rebuild was told.
    told: Option<Instant>,
}

/// How often the progress of a rebuild is told.
const TELL_REBUILD: Duration = Duration::from_secs(10);

impl Watch {
    fn new(status: &Arc<PoolStatus>) -> Self {
        let members = status.total().members;
        for (member, state) in members.iter().enumerate().filter(|(_, state)| **state != MemberState::Live) {
            let path = shown(status, member);
            tracing::warn!(pool = status.name, member, path, ?state, "the pool is degraded");
        }
        Self { members, told: None }
    }

    fn look(&mut self, status: &PoolStatus) {
        let now = status.total();
        let pool = status.name.as_str();
        for (member, (before, state)) in self.members.iter().zip(&now.members).enumerate() {
            let path = shown(status, member);
            match (before, state) {
                (MemberState::Failed, MemberState::Failed) | (MemberState::Live, MemberState::Live) => {}
                (_, MemberState::Failed) => tracing::error!(pool, member, path, "device failed: the pool is degraded"),
                (MemberState::Rebuilding { .. }, MemberState::Rebuilding { .. }) => {}
                (_, MemberState::Rebuilding { .. }) => tracing::info!(pool, member, path, "filling the device again"),
                (_, MemberState::Live) => tracing::info!(pool, member, path, "device has all its data again"),
            }
        }
        if let Some((done, of)) = now.rebuild
            && self.told.is_none_or(|told| told.elapsed() >= TELL_REBUILD)
        {
            self.told = Some(Instant::now());
            tracing::info!(pool, done, of, "rebuild");
        }
        self.members = now.members;
    }
}

fn shown(status: &PoolStatus, member: usize) -> String {
    let path = u16::try_from(member).ok().and_then(|member| status.path(member));
    path.map_or_else(|| "missing".to_owned(), |path| path.display().to_string())
}

//! Opening and closing a pool, by the daemon, with blocking I/O.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use kvof_io::{DiskFile, Pool};
use kvof_store::{
    ec::Profile,
    format::{MemberState, Uuid},
    pool::{FormatOptions, PoolDevices, PoolError, PoolIo, Reprobed, format},
    volume::{OpenError as VolumeError, Progress, Volume, VolumeConfig},
};

use super::{PoolId, PoolPart, PoolStatus, Pooled};
use crate::{
    backend::{
        BackendPart, OpenError, PoolAttachError, namespace_spec,
        open::{PartKind, place_for_new, sync_parent},
    },
    model::{FileDef, Namespace, PoolDef, PoolLimits},
};

/// Bytes that must be zero in a file that is taken for empty: where file systems and partition tables keep their marks.
const EMPTY_LEN: u64 = 128 << 10;

/// How far opening a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenProgress {
    /// Its shard, 0's based.
    pub shard: u16,
    /// How far it is; `None` once it is open.
    pub volume: Option<Progress>,
}

/// Why a pool cannot be opened. Every message names the pool and the way out.
#[derive(Debug, thiserror::Error)]
pub enum PoolOpenError {
    /// Its devices.
    #[error("pool {pool}: {source}{hint}")]
    Devices {
        /// The pool.
        pool: String,
        /// What is wrong with them.
        source: Box<PoolError>,
        /// The way out where the error does not say it all; starts with "; ".
        hint: String,
    },
    /// One of its volumes.
    #[error("pool {pool}: {source}")]
    Volume {
        /// The pool.
        pool: String,
        /// What is wrong with it.
        source: VolumeError,
    },
    /// The file of a namespace cannot be made into a pool.
    #[error("{path}: {why}")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why, and the way out.
        why: String,
    },
    /// A thread could not be started, or ended by a bug.
    #[error("pool {pool}: cannot open its volumes: {source}")]
    Thread {
        /// The pool.
        pool: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// A pool whose volumes are open and not at work yet.
#[derive(Debug)]
pub struct OpenPool {
    handle: PoolHandle,
    volumes: Vec<(u16, Box<Volume>)>,
    cores: usize,
}

/// What the daemon keeps of a pool that is at work.
#[derive(Debug)]
pub struct PoolHandle {
    id: PoolId,
    def: PoolDef,
    devices: PoolDevices,
    status: Arc<PoolStatus>,
}

/// A device of a pool that is at work comes or goes.
#[derive(Debug)]
pub enum DeviceChange {
    /// It is gone.
    Gone {
        /// Its place.
        member: u16,
        /// Why.
        why: String,
    },
    /// It is there again, or another in its place.
    Back {
        /// Its place.
        member: u16,
        /// Its UUID.
        uuid: Uuid,
        /// The open device.
        file: Arc<DiskFile>,
    },
}

impl OpenPool {
    /// Opens the pool `def` for `cores` cores; memory for reads comes from `buffers`. Volumes are opened in parallel, and
    /// `progress` is told how far they are. Blocks; recovery after a crash may take long.
    ///
    /// # Errors
    /// [`PoolOpenError`].
    pub fn open(
        def: &PoolDef,
        id: PoolId,
        cores: usize,
        buffers: &Pool,
        progress: &mut dyn FnMut(OpenProgress),
    ) -> Result<Self, PoolOpenError> {
        let name = || def.name.clone();
        if let Some(file) = def.create {
            make_if_empty(def, file)?;
        }
        let wrong =
            |source| PoolOpenError::Devices { hint: hint(def, &source), pool: name(), source: Box::new(source) };
        let devices = PoolDevices::open(&def.devices).map_err(wrong)?;
        let volumes = open_volumes(def, &devices, cores.max(1), buffers, progress)?;
        let label = devices.label().clone();
        let paths = (0..label.geometry.members()).map(|member| devices.path(member).map(Path::to_owned)).collect();
        let status = Arc::new(PoolStatus::new(name(), label, paths));
        for (shard, volume) in &volumes {
            status.publish(*shard, volume.stats());
        }
        let handle = PoolHandle { id, def: def.clone(), devices, status };
        Ok(Self { handle, volumes, cores: cores.max(1) })
    }

    /// Serves a namespace from the pool, before it is at work: the namespace's parts, for every core.
    ///
    /// # Errors
    /// [`OpenError::Attach`], and [`OpenError::NoPool`] for a namespace that lies elsewhere.
    pub fn attach(&mut self, ns: &Namespace) -> Result<Vec<BackendPart>, OpenError> {
        let PoolHandle { id, def, status, .. } = &self.handle;
        let (nsid, pool) = (ns.def.nsid, def.name.clone());
        let spec = namespace_spec(ns, status.label.geometry.shards())
            .filter(|_| ns.def.kind.pool().is_some_and(|used| used.pool == def.name));
        let Some(spec) = spec else { return Err(OpenError::NoPool { nsid, pool }) };
        // The file of one namespace: another's data in it are a mistake in the configuration.
        let others = def.create.and_then(|_| self.other_than(ns.def.uuid));
        if let Some(found) = others {
            let text = |uuid| uuid::Uuid::from_bytes(uuid).to_string();
            return Err(OpenError::OtherNamespace { nsid, pool, found: text(found), expected: text(ns.def.uuid) });
        }
        let mut slots = vec![Vec::new(); self.cores];
        for at in 0..self.volumes.len() {
            let Some((shard, volume)) = self.volumes.get_mut(at) else { break };
            match volume.attach(spec.clone()) {
                Ok(slot) => slots.iter_mut().skip(usize::from(*shard) % self.cores).take(1).for_each(|s| s.push(slot)),
                Err(source) => {
                    return Err(OpenError::Attach { nsid, pool, source: PoolAttachError::Volume(source) });
                }
            }
        }
        let _ = ns.state.pool.set(Arc::clone(status));
        let part = |slots| BackendPart(PartKind::Pooled(Pooled::new(*id, spec.durability, slots)));
        Ok(slots.into_iter().map(part).collect())
    }

    /// A namespace other than `uuid` that the pool has.
    fn other_than(&self, uuid: Uuid) -> Option<Uuid> {
        let mut namespaces = self.volumes.iter().flat_map(|(_, volume)| volume.namespaces());
        namespaces.find(|(_, other, ..)| *other != uuid).map(|(_, other, ..)| other)
    }

    /// The namespaces that the pool has: UUID, keys, and bytes of keys and values.
    #[must_use]
    pub fn namespaces(&self) -> BTreeMap<Uuid, (u64, u64)> {
        let mut found = BTreeMap::new();
        for (_, uuid, keys, bytes) in self.volumes.iter().flat_map(|(_, volume)| volume.namespaces()) {
            let sum: &mut (u64, u64) = found.entry(uuid).or_default();
            *sum = (sum.0.saturating_add(keys), sum.1.saturating_add(bytes));
        }
        found
    }

    /// The pool's state.
    #[must_use]
    pub fn status(&self) -> &Arc<PoolStatus> {
        &self.handle.status
    }

    /// The parts of the cores, the first for core 0, and what the daemon keeps.
    #[must_use]
    pub fn into_parts(self) -> (PoolHandle, Vec<PoolPart>) {
        let Self { handle, mut volumes, cores } = self;
        let PoolHandle { id, devices, status, .. } = &handle;
        let part = |core| PoolPart::new(*id, (core, cores), &mut volumes, devices.files(), Arc::clone(status));
        let parts = (0..cores).map(part).collect();
        (handle, parts)
    }
}

impl PoolHandle {
    /// The pool's identifier.
    #[must_use]
    pub const fn id(&self) -> PoolId {
        self.id
    }

    /// The pool as it was defined.
    #[must_use]
    pub const fn def(&self) -> &PoolDef {
        &self.def
    }

    /// The pool's state.
    #[must_use]
    pub const fn status(&self) -> &Arc<PoolStatus> {
        &self.status
    }

    /// Takes over the list of devices of `def`, and looks which of those are there: `tell` is told of each that comes or
    /// goes. Blocks.
    ///
    /// # Errors
    /// [`PoolOpenError::Devices`] where devices might be mixed up; then none has come.
    pub fn update(&mut self, def: &PoolDef, tell: &mut dyn FnMut(DeviceChange)) -> Result<(), PoolOpenError> {
        let members = 0..self.status.label.geometry.members();
        for member in members.clone() {
            let Some(path) = self.devices.path(member).map(Path::to_owned) else { continue };
            if !def.devices.contains(&path) {
                self.let_go(member, &format!("{} is no longer in the configuration", path.display()), tell);
            }
        }
        self.def.devices.clone_from(&def.devices);
        let failed: Vec<u16> = {
            let states = self.status.total().members;
            let is_failed = |member: &u16| states.get(usize::from(*member)) == Some(&MemberState::Failed);
            members.filter(is_failed).collect()
        };
        let mut found = self.reprobe()?;
        // An open device that has failed and does not answer may answer when it is opened again.
        let answers = |member: &u16| found.present.iter().any(|(present, _)| present == member);
        let silent = failed.iter().filter(|member| self.devices.file(**member).is_some() && !answers(member));
        let silent: Vec<u16> = silent.copied().collect();
        if !silent.is_empty() {
            for member in silent {
                self.let_go(member, "it does not answer", tell);
            }
            found = self.reprobe()?;
        }
        for (member, uuid) in found.present {
            let Some(file) = self.devices.file(member).map(Arc::clone) else { continue };
            self.status.locate(member, Some(file.path().to_owned()));
            let is_failed = failed.contains(&member);
            let is_new = found.appeared.contains(&member);
            if is_new && !is_failed {
                let why = format!("{} takes its place", file.path().display());
                tell(DeviceChange::Gone { member, why });
            }
            if is_new || is_failed {
                tell(DeviceChange::Back { member, uuid, file });
            }
        }
        Ok(())
    }

    /// Closes a volume that is at rest, so that the next start need not look for what it holds. Blocks.
    ///
    /// # Errors
    /// The devices'. The volume recovers at the next start then.
    pub fn close(&mut self, volume: Volume) -> io::Result<()> {
        volume.close(&mut self.devices)
    }

    fn let_go(&mut self, member: u16, why: &str, tell: &mut dyn FnMut(DeviceChange)) {
        self.devices.release(member);
        self.status.locate(member, None);
        tell(DeviceChange::Gone { member, why: why.to_owned() });
    }

    fn reprobe(&mut self) -> Result<Reprobed, PoolOpenError> {
        let pool = || self.def.name.clone();
        match self.devices.reprobe(&self.def.devices) {
            Ok(found) => {
                for problem in &found.problems {
                    tracing::warn!(pool = self.def.name, path = %problem.path.display(), "{}", problem.why);
                }
                Ok(found)
            }
            Err(source) => {
                Err(PoolOpenError::Devices { pool: pool(), hint: hint(&self.def, &source), source: Box::new(source) })
            }
        }
    }
}

/// What remains to be said: the command that makes a pool of devices that are none.
fn hint(def: &PoolDef, error: &PoolError) -> String {
    if !matches!(error, PoolError::NoLabel { .. }) {
        return String::new();
    }
    if def.create.is_some() {
        return "; empty the file, or name another".to_owned();
    }
    let devices: Vec<String> = def.devices.iter().map(|path| shell_word(&path.display().to_string())).collect();
    let size = if def.devices.iter().all(|path| path.exists()) { "" } else { "--size SIZE " };
    format!("; to make this pool: `kvof format --name {} {size}{}`", shell_word(&def.name), devices.join(" "))
}

/// `text` as one word of a shell's command.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Formats the file of a namespace where it is new or empty.
fn make_if_empty(def: &PoolDef, file: FileDef) -> Result<(), PoolOpenError> {
    let Some(path) = def.devices.first() else { return Ok(()) };
    let cannot = |why: String| PoolOpenError::Create { path: path.clone(), why };
    let is_new = !path.exists();
    if is_new {
        place_for_new(path).map_err(|why| cannot(why.to_owned()))?;
    } else if !is_empty(path).map_err(|error| cannot(format!("cannot look into it: {error}")))? {
        return Ok(());
    }
    let (bytes, segment) = (file.bytes, file.segment);
    tracing::info!(path = %path.display(), bytes, segment, "formatting");
    let profile = Profile::new(1, 0).map_err(|error| cannot(error.to_string()))?;
    let options = FormatOptions {
        profile: Some(profile),
        shards: Some(1),
        segment: Some(segment),
        size: Some(bytes),
        ..FormatOptions::default()
    };
    format(&def.devices, &options).map_err(|source| cannot(source.to_string()))?;
    if is_new {
        sync_parent(path).map_err(|error| cannot(format!("cannot sync its directory: {error}")))?;
    }
    Ok(())
}

/// Whether there is nothing in a file, where anything would leave a mark.
fn is_empty(path: &Path) -> io::Result<bool> {
    // What is neither a file nor a device is refused by name when it is opened.
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Ok(false);
    }
    let mut start = Vec::new();
    fs::File::open(path)?.take(EMPTY_LEN).read_to_end(&mut start)?;
    Ok(start.iter().all(|byte| *byte == 0))
}

/// Opens all volumes of a pool, several at a time.
fn open_volumes(
    def: &PoolDef,
    devices: &PoolDevices,
    threads: usize,
    buffers: &Pool,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<Vec<(u16, Box<Volume>)>, PoolOpenError> {
    let label = devices.label();
    let shards = label.geometry.shards();
    let uuids = devices.uuids();
    let config = |shard| volume_config(def.limits, label, shard, buffers);
    let next = Mutex::new(0..shards);
    let (report, reports) = mpsc::channel();
    let mut volumes = Vec::with_capacity(usize::from(shards));
    thread::scope(|scope| {
        for _ in 0..threads.min(usize::from(shards)) {
            let io = devices.io();
            let (next, uuids, report, config) = (&next, &uuids, report.clone(), &config);
            let work = move || {
                let mut io = match io {
                    Ok(io) => io,
                    Err(source) => {
                        let _ = report.send(Err(Refused::Devices(source)));
                        return;
                    }
                };
                loop {
                    let Some(shard) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
                    let opened = open_volume(config(shard), uuids, &mut io, &report);
                    // The first that fails ends all.
                    if report.send(opened.map(|volume| Report::Open(shard, volume))).is_err() {
                        return;
                    }
                }
            };
            let started = thread::Builder::new().name("kvof-open".to_owned()).spawn_scoped(scope, work);
            started.map_err(|source| PoolOpenError::Thread { pool: def.name.clone(), source })?;
        }
        drop(report);
        for report in &reports {
            match report {
                Ok(Report::Progress(shard, volume)) => progress(OpenProgress { shard, volume: Some(volume) }),
                Ok(Report::Open(shard, volume)) => {
                    volumes.push((shard, volume));
                    progress(OpenProgress { shard, volume: None });
                }
                Err(refused) => {
                    // What still is to be opened need not be.
                    next.lock().unwrap_or_else(PoisonError::into_inner).by_ref().for_each(drop);
                    return Err(refused.named(def));
                }
            }
        }
        Ok(())
    })?;
    if volumes.len() < usize::from(shards) {
        let source = io::Error::other("a thread ended early; this is a bug");
        return Err(PoolOpenError::Thread { pool: def.name.clone(), source });
    }
    volumes.sort_by_key(|(shard, _)| *shard);
    Ok(volumes)
}

/// What a thread that opens volumes tells.
enum Report {
    Progress(u16, Progress),
    Open(u16, Box<Volume>),
}

enum Refused {
    Devices(PoolError),
    Volume(VolumeError),
}

impl Refused {
    fn named(self, def: &PoolDef) -> PoolOpenError {
        let pool = def.name.clone();
        match self {
            Self::Devices(source) => PoolOpenError::Devices { pool, source: Box::new(source), hint: String::new() },
            Self::Volume(source) => PoolOpenError::Volume { pool, source },
        }
    }
}

fn open_volume(
    config: VolumeConfig,
    uuids: &[Option<Uuid>],
    io: &mut PoolIo,
    report: &mpsc::Sender<Result<Report, Refused>>,
) -> Result<Box<Volume>, Refused> {
    let shard = config.shard;
    let mut progress = |progress| {
        let _ = report.send(Ok(Report::Progress(shard, progress)));
    };
    Volume::open(config, uuids, io, &mut progress).map(Box::new).map_err(Refused::Volume)
}

/// The part of the pool's limits that a shard gets.
fn volume_config(limits: PoolLimits, label: &kvof_store::format::Label, shard: u16, buffers: &Pool) -> VolumeConfig {
    let share = |all: u64| all / u64::from(label.geometry.shards().max(1));
    // A rate of 0 means another thing than a low one.
    let rate = |all: u64| if all == 0 { 0 } else { share(all).max(1) };
    VolumeConfig {
        pool: label.pool,
        secret: label.secret,
        geometry: label.geometry,
        shard,
        buffers: buffers.clone(),
        scratch: usize::try_from(share(limits.scratch)).unwrap_or(usize::MAX),
        index_memory: share(limits.index_memory),
        tier: share(limits.tier),
        read_ahead: share(limits.read_ahead),
        rebuild_rate: rate(limits.rebuild_rate),
        scrub_rate: rate(limits.scrub_rate),
    }
}

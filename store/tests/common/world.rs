//! A pool of simulated devices, its volumes, and hosts that use them and know what they may get.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kvof_io::{Pool, PoolConfig, SharedBuf};
use kvof_kv::{Key, KvError, KvLimits, KvOutcome, KvRequest, KvResult, OpId, StoreOptions};
use kvof_store::{
    device::{
        Devices,
        sim::{Crash, FaultPlan, Rng, SimDevices, derive},
        standalone::write_first_superblocks,
    },
    format::{MemberState, NamespaceMode, Secret, Uuid},
    geometry::Geometry,
    usage::{Usage, footprint},
    volume::{Durability, NamespaceSpec, Phase, Volume, VolumeConfig, shard_of},
};

use super::model::{KeyModel, State, Value};

/// What went wrong.
pub type Check<T = ()> = Result<T, String>;

/// How long a request may take, by the simulated clock.
const PATIENCE: Duration = Duration::from_secs(120);
/// Operations that a volume may ask for in one turn before it counts as running in circles.
const TURN_MAX: usize = 100_000;

/// What a pool is made of.
#[derive(Clone, Debug)]
pub struct PoolPlan {
    pub seed: u64,
    pub geometry: Geometry,
    /// Memory for values that are read.
    pub buffers: usize,
    pub scratch: usize,
    pub tier: u64,
    pub read_ahead: u64,
    pub rebuild_rate: u64,
    pub scrub_rate: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct NamespacePlan {
    pub mode: NamespaceMode,
    pub durability: Durability,
    pub size: u64,
    pub mnks: u32,
    pub reservation: u64,
    /// Keys that are used.
    pub keys: usize,
}

#[derive(Clone, Debug)]
pub struct Namespace {
    pub uuid: Uuid,
    pub plan: NamespacePlan,
    pub usage: Usage,
    /// By shard; empty while it is detached.
    pub slots: Vec<u16>,
    pub keys: BTreeMap<Key, KeyModel>,
    pub names: Vec<Key>,
}

impl Namespace {
    pub fn is_attached(&self) -> bool {
        !self.slots.is_empty()
    }

    fn keeps_history(&self) -> bool {
        self.plan.durability == Durability::Device
    }

    fn is_cache(&self) -> bool {
        self.plan.mode == NamespaceMode::Cache
    }
}

/// A request in flight.
#[derive(Clone, Debug)]
struct Asked {
    namespace: usize,
    key: Key,
    kind: AskedKind,
    began: Duration,
    /// What the key was or became during the request.
    seen: BTreeSet<State>,
    /// No change of the key was in flight when it began, and none has begun since.
    alone: bool,
}

#[derive(Clone, Debug)]
enum AskedKind {
    Store { value: Value, options: StoreOptions },
    Delete,
    Retrieve,
    Exist,
    Flush { asked: u64, left: usize },
}

/// Everything that can break the promises is allowed, or only so much that they must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strictness {
    /// At most m suspects: nothing is ever lost.
    Full,
    /// More suspects than m: never wrong bytes, never a hang.
    Safety,
}

/// Counters, for people and to see that something was tested.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub requests: u64,
    pub checks: u64,
    pub crashes: u64,
    pub opens: u64,
    pub misses: u64,
    pub full: u64,
    pub unrecovered: u64,
}

pub struct World {
    pub plan: PoolPlan,
    pub devices: SimDevices,
    pub strictness: Strictness,
    pub uuids: Vec<Uuid>,
    pub suspects: Vec<u16>,
    pub faults: FaultPlan,
    pub volumes: Vec<Volume>,
    pub namespaces: Vec<Namespace>,
    asked: BTreeMap<OpId, Asked>,
    buffers: Pool,
    /// Values that hosts have not finished with.
    held: VecDeque<SharedBuf>,
    next_id: u64,
    next_version: u64,
    clock: u64,
    pub tally: Tally,
    /// What happened last, for people.
    pub journal: VecDeque<String>,
    pub phases: BTreeSet<&'static str>,
}

impl World {
    /// A formatted pool that nobody has opened yet.
    pub fn new(plan: PoolPlan) -> Self {
        let members = plan.geometry.members();
        let devices = SimDevices::new(derive(plan.seed, 1), members, plan.geometry.device_bytes());
        let mut this = Self {
            uuids: (0..members).map(|n| uuid(plan.seed, 100 + u64::from(n))).collect(),
            devices,
            strictness: Strictness::Full,
            suspects: Vec::new(),
            faults: FaultPlan::NONE,
            volumes: Vec::new(),
            namespaces: Vec::new(),
            asked: BTreeMap::new(),
            buffers: Pool::new(PoolConfig { limit: plan.buffers, shards: 1 }),
            held: VecDeque::new(),
            next_id: 1,
            next_version: 0,
            clock: 1,
            tally: Tally::default(),
            journal: VecDeque::new(),
            phases: BTreeSet::new(),
            plan,
        };
        write_first_superblocks(&this.config(0), &this.uuids, &mut this.devices).expect("devices without faults");
        this
    }

    pub fn config(&self, shard: u16) -> VolumeConfig {
        let plan = &self.plan;
        VolumeConfig {
            pool: uuid(plan.seed, 1),
            secret: Secret(uuid(plan.seed, 2)),
            geometry: plan.geometry,
            shard,
            buffers: self.buffers.clone(),
            scratch: plan.scratch,
            index_memory: 64 << 20,
            tier: plan.tier,
            read_ahead: plan.read_ahead,
            rebuild_rate: plan.rebuild_rate,
            scrub_rate: plan.scrub_rate,
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is given what was just formatted")]
    pub fn tell(&mut self, text: String) {
        if self.journal.len() >= 5000 {
            self.journal.pop_front();
        }
        self.journal.push_back(format!("{:>12.6} {text}", self.devices.now().as_secs_f64()));
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    // Namespaces.

    /// A namespace of its own UUID, served if the pool is open.
    pub fn add_namespace(&mut self, plan: NamespacePlan) -> Check<usize> {
        let number = self.namespaces.len();
        let uuid = uuid(self.plan.seed, 1000 + number as u64);
        let mut rng = Rng::new(derive(self.plan.seed, 2000 + number as u64));
        let mut names = BTreeSet::new();
        while names.len() < plan.keys {
            let mut bytes = [0; 16];
            rng.fill(&mut bytes);
            let len = if rng.one_in(2) { 16 } else { rng.between(1, 16) as usize };
            names.insert(Key::new(&bytes[..len]).expect("1 to 16 bytes"));
        }
        let keys = names.iter().map(|key| (*key, KeyModel::default())).collect();
        let usage = Usage::new(plan.size, plan.mnks);
        let names = names.into_iter().collect();
        self.namespaces.push(Namespace { uuid, plan, usage, slots: Vec::new(), keys, names });
        if !self.volumes.is_empty() {
            self.attach(number)?;
        }
        Ok(number)
    }

    pub fn attach(&mut self, number: usize) -> Check {
        let namespace = &mut self.namespaces[number];
        namespace.usage = Usage::new(namespace.plan.size, namespace.plan.mnks);
        namespace.slots.clear();
        let kvvml = self.volumes.iter().map(Volume::value_max).min().unwrap_or(0).min(1 << 20);
        for volume in &mut self.volumes {
            let spec = NamespaceSpec {
                uuid: namespace.uuid,
                mode: namespace.plan.mode,
                durability: namespace.plan.durability,
                limits: KvLimits { kvkml: 16, kvvml, mnks: namespace.plan.mnks, novg: 4096 },
                usage: namespace.usage.clone(),
                reservation: namespace.plan.reservation,
            };
            let slot = volume.attach(spec).map_err(|error| format!("attaching namespace {number}: {error}"))?;
            namespace.slots.push(slot);
        }
        self.tell(format!("attached namespace {number}"));
        self.pump()
    }

    /// Stops serving a namespace that has no requests in flight.
    pub fn detach(&mut self, number: usize) -> Check {
        self.settle()?;
        self.tell(format!("detach namespace {number}"));
        let slots = std::mem::take(&mut self.namespaces[number].slots);
        for (volume, slot) in self.volumes.iter_mut().zip(slots) {
            volume.detach(slot);
        }
        self.pump()
    }

    /// Removes a namespace; another takes its place. Its removal is only durable after a while.
    pub fn destroy(&mut self, number: usize) -> Check {
        self.settle()?;
        self.tell(format!("destroy namespace {number}"));
        let slots = std::mem::take(&mut self.namespaces[number].slots);
        for (volume, slot) in self.volumes.iter_mut().zip(slots) {
            volume.destroy(slot);
        }
        self.pump()?;
        for key in self.namespaces[number].keys.values_mut() {
            // More faults than are allowed may undo the removal: `ever` remains.
            let ever = std::mem::take(&mut key.ever);
            *key = KeyModel::default();
            key.ever = ever;
        }
        // What a crash right now leaves of it is anybody's guess, so there is none: until the table is durable.
        self.rest(Duration::from_millis(500))?;
        let until = self.devices.now() + PATIENCE;
        while self.devices.in_flight() > 0 && self.devices.now() < until {
            self.advance()?;
        }
        Ok(())
    }

    // Requests.

    pub fn key(&self, namespace: usize, which: u64) -> Key {
        let names = &self.namespaces[namespace].names;
        names[which as usize % names.len()]
    }

    pub fn in_flight(&self) -> usize {
        self.asked.len()
    }

    fn ask(&mut self, namespace: usize, key: Key, kind: AskedKind) -> OpId {
        let id = OpId(self.next_id);
        self.next_id += 1;
        self.tally.requests += 1;
        let model = self.namespaces[namespace].keys.entry(key).or_default();
        let asked =
            Asked { namespace, key, kind, began: self.devices.now(), seen: model.visible(), alone: model.is_quiet() };
        self.asked.insert(id, asked);
        id
    }

    fn ask_change(&mut self, namespace: usize, key: Key, kind: AskedKind, effect: State) -> OpId {
        for other in self.asked.values_mut().filter(|other| other.namespace == namespace && other.key == key) {
            other.seen.insert(effect);
            other.alone = false;
        }
        let id = self.ask(namespace, key, kind);
        let now = self.tick();
        self.namespaces[namespace].keys.entry(key).or_default().begin(id, effect, now);
        id
    }

    fn submit(&mut self, namespace: usize, key: &Key, id: OpId, request: KvRequest<kvof_io::PoolBuf>) -> Check {
        let shard = usize::from(shard_of(key, self.plan.geometry.shards()));
        let slot = self.namespaces[namespace].slots[shard];
        self.volumes[shard].submit(slot, id, request);
        self.pump()
    }

    /// A Store of `len` bytes; dropped if there is no memory for it now.
    pub fn store(&mut self, namespace: usize, key: Key, options: StoreOptions, len: u32) -> Check {
        let Some(mut buf) = self.buffers.alloc(len as usize) else {
            self.held.pop_front();
            return Ok(());
        };
        self.next_version += 1;
        let value = Value { version: self.next_version, len };
        buf.copy_from_slice(&value.bytes(&key));
        let id = self.ask_change(namespace, key, AskedKind::Store { value, options }, Some(value));
        self.tell(format!("{id:?} Store {namespace}/{key} {options:?} version {} of {len} bytes", value.version));
        self.submit(namespace, &key, id, KvRequest::Store { key, options, value: buf })
    }

    pub fn delete(&mut self, namespace: usize, key: Key) -> Check {
        let id = self.ask_change(namespace, key, AskedKind::Delete, None);
        self.tell(format!("{id:?} Delete {namespace}/{key}"));
        self.submit(namespace, &key, id, KvRequest::Delete { key })
    }

    pub fn retrieve(&mut self, namespace: usize, key: Key) -> Check {
        let id = self.ask(namespace, key, AskedKind::Retrieve);
        self.tell(format!("{id:?} Retrieve {namespace}/{key}"));
        self.submit(namespace, &key, id, KvRequest::Retrieve { key, raw: false })
    }

    pub fn exist(&mut self, namespace: usize, key: Key) -> Check {
        let id = self.ask(namespace, key, AskedKind::Exist);
        self.submit(namespace, &key, id, KvRequest::Exist { key })
    }

    pub fn flush(&mut self) -> Check {
        let Some(key) = self.namespaces.first().map(|namespace| namespace.names[0]) else { return Ok(()) };
        let kind = AskedKind::Flush { asked: self.clock, left: self.volumes.len() };
        let id = self.ask(0, key, kind);
        self.tell(format!("{id:?} Flush"));
        for volume in &mut self.volumes {
            volume.flush(id);
        }
        self.pump()
    }

    // Time.

    /// Carries requests to the devices and results to the hosts until neither has any.
    pub fn pump(&mut self) -> Check {
        let mut turns = 0;
        for shard in 0..self.volumes.len() {
            loop {
                turns += 1;
                if turns > TURN_MAX {
                    return Err(format!("shard {shard} asks for operations without end"));
                }
                let volume = &mut self.volumes[shard];
                if let Some(request) = volume.poll_device() {
                    self.devices.start(shard as u16, request);
                } else if let Some((id, result)) = volume.poll() {
                    self.answered(id, result)?;
                } else {
                    break;
                }
            }
        }
        match self.devices.violation() {
            Some(violation) => Err(violation.to_owned()),
            None => Ok(()),
        }
    }

    /// One completion of a device, or 50 ms; and some of what waits for nobody.
    pub fn advance(&mut self) -> Check {
        let done = self.devices.finish(Duration::from_millis(50)).map_err(|error| error.to_string())?;
        let now = self.devices.now();
        match done {
            Some((shard, token, done)) => {
                if let Some(volume) = self.volumes.get_mut(usize::from(shard)) {
                    volume.handle_time(now);
                    volume.handle_device(token, done);
                }
            }
            None => self.volumes.iter_mut().for_each(|volume| volume.handle_time(now)),
        }
        self.volumes.iter_mut().for_each(Volume::work);
        self.pump()?;
        self.check_patience()
    }

    fn check_patience(&self) -> Check {
        let now = self.devices.now();
        match self.asked.iter().find(|(_, asked)| now - asked.began > PATIENCE) {
            Some((id, asked)) => Err(format!(
                "no answer for {} s of simulated time, {} device operations are in flight: {id:?} {asked:?}",
                (now - asked.began).as_secs(),
                self.devices.in_flight()
            )),
            None => Ok(()),
        }
    }

    /// Until every request is answered.
    pub fn settle(&mut self) -> Check {
        self.held.clear();
        self.pump()?;
        while !self.asked.is_empty() {
            self.advance()?;
        }
        Ok(())
    }

    /// Lets time pass with nothing asked.
    pub fn rest(&mut self, time: Duration) -> Check {
        let until = self.devices.now() + time;
        while self.devices.now() < until {
            self.advance()?;
        }
        Ok(())
    }

    // Results.

    fn answered(&mut self, id: OpId, result: KvResult<SharedBuf>) -> Check {
        if let Some(Asked { kind: AskedKind::Flush { left, .. }, .. }) = self.asked.get_mut(&id)
            && *left > 1
        {
            *left -= 1;
            return if result.is_ok() || self.strictness == Strictness::Safety {
                Ok(())
            } else {
                Err(format!("Flush: {result:?}"))
            };
        }
        let Some(mut asked) = self.asked.remove(&id) else {
            return Err(format!("a result that nobody asked for, or a second one: {id:?} {result:?}"));
        };
        let code = match &result {
            Ok(KvOutcome::Retrieved(bytes)) => bytes.len() as u64,
            Ok(_) => 1 << 40,
            Err(error) => 2 << 40 | *error as u64,
        };
        self.devices.note(&[9, id.0, code]);
        match &result {
            Ok(KvOutcome::Retrieved(bytes)) => self.tell(format!("{id:?} gave {} bytes", bytes.len())),
            other => self.tell(format!("{id:?} gave {other:?}")),
        }
        self.tally.checks += 1;
        let now = self.tick();
        let safety = self.strictness == Strictness::Safety;
        let namespace = &mut self.namespaces[asked.namespace];
        let (keeps_history, is_cache) = (namespace.keeps_history(), namespace.is_cache());
        let model = namespace.keys.entry(asked.key).or_default();
        asked.seen.extend(model.visible());
        let fail = |what: &str| {
            let Asked { namespace, key, kind, seen, .. } = &asked;
            Err(format!("{what}: {id:?} on {namespace}/{key}: {kind:?} gave {result:?}, possible were {seen:?}"))
        };
        let unrecovered = matches!(result, Err(KvError::Unrecovered));
        if unrecovered {
            self.tally.unrecovered += 1;
        }
        match &asked.kind {
            AskedKind::Store { value, options } => match result {
                Ok(KvOutcome::Stored) => {
                    let exists = asked.seen.iter().any(|state| state.is_some());
                    let absent = asked.seen.contains(&None) || is_cache || safety;
                    // Its own effect is among those seen, so only the other condition can be checked.
                    if options.contains(StoreOptions::MUST_NOT_EXIST) && !absent {
                        return fail("a key that exists was stored as new");
                    }
                    if options.contains(StoreOptions::MUST_EXIST) && asked.alone && !exists {
                        return fail("a key that does not exist was replaced");
                    }
                    model.succeeded(id, now, keeps_history);
                }
                Err(KvError::KeyExists) if options.contains(StoreOptions::MUST_NOT_EXIST) => {
                    let other = |state: &State| state.is_some() && *state != Some(*value);
                    let possible = asked.seen.iter().any(other) || safety;
                    model.refused(id);
                    if !possible {
                        return fail("a key that does not exist was said to exist");
                    }
                }
                Err(KvError::KeyDoesNotExist) if options.contains(StoreOptions::MUST_EXIST) => {
                    let possible = asked.seen.contains(&None) || is_cache || safety;
                    model.refused(id);
                    if !possible {
                        return fail("a key that exists was said to be absent");
                    }
                }
                Err(KvError::CapacityExceeded) => {
                    model.refused(id);
                    self.tally.full += 1;
                    if !safety && !self.may_be_full(asked.namespace, &asked.key, value.len) {
                        return fail("there is room");
                    }
                }
                Err(KvError::Unrecovered | KvError::NotReady) if safety => model.failed(id),
                _ => return fail("unexpected"),
            },
            AskedKind::Delete => match result {
                Ok(KvOutcome::Deleted) => {
                    let possible = asked.seen.iter().any(Option::is_some) || safety;
                    model.succeeded(id, now, keeps_history);
                    if !possible {
                        return fail("a key that does not exist was deleted");
                    }
                }
                Err(KvError::KeyDoesNotExist) => {
                    let before: BTreeSet<State> = model.settled().clone();
                    model.refused(id);
                    // Its own effect is among those seen.
                    let possible = before.contains(&None) || !asked.alone || is_cache || safety;
                    if !possible && !asked.seen.iter().all(Option::is_none) {
                        return fail("a key that exists was said to be absent");
                    }
                }
                Err(KvError::Unrecovered | KvError::NotReady | KvError::CapacityExceeded) if safety => {
                    model.failed(id);
                }
                _ => return fail("unexpected"),
            },
            AskedKind::Retrieve => match &result {
                Ok(KvOutcome::Retrieved(bytes)) => {
                    let same = |state: &&State| state.is_some_and(|value| same(&asked.key, value, bytes));
                    let fits: BTreeSet<State> = asked.seen.iter().filter(same).copied().collect();
                    if fits.is_empty() && !(safety && model.ever.iter().any(|value| same(&&Some(*value)))) {
                        let others = model
                            .ever
                            .iter()
                            .map(|value| Some(*value))
                            .filter(|state| same(&state))
                            .collect::<Vec<_>>();
                        let crc = kvof_store::checksum::crc32c(bytes);
                        return Err(format!(
                            "WRONG BYTES: {id:?} of {}/{}: {} bytes of checksum {crc:#x}; possible were {:?}, its \
                             values of other times with these bytes: {others:?}",
                            asked.namespace,
                            asked.key,
                            bytes.len(),
                            asked.seen
                        ));
                    }
                    if asked.alone && !fits.is_empty() {
                        model.found(fits);
                    }
                    if let Ok(KvOutcome::Retrieved(bytes)) = result
                        && id.0.is_multiple_of(5)
                    {
                        self.held.push_back(bytes);
                        if self.held.len() > 4 {
                            self.held.pop_front();
                        }
                    }
                }
                Err(KvError::KeyDoesNotExist) => {
                    if asked.seen.contains(&None) {
                        if asked.alone {
                            model.found(BTreeSet::from([None]));
                        }
                    } else if is_cache {
                        self.tally.misses += 1;
                        if asked.alone {
                            model.evicted();
                        }
                    } else if !safety {
                        return fail("LOST");
                    }
                }
                Err(KvError::Unrecovered) if safety => {}
                _ => return fail("unexpected"),
            },
            AskedKind::Exist => match result {
                Ok(KvOutcome::Exists { len }) => {
                    let possible = asked.seen.iter().flatten().any(|value| value.len == len);
                    if !possible && !safety {
                        return fail("it should be absent or of another length");
                    }
                }
                Err(KvError::KeyDoesNotExist) => {
                    if !asked.seen.contains(&None) && !is_cache && !safety {
                        return fail("LOST");
                    }
                }
                _ => return fail("unexpected"),
            },
            AskedKind::Flush { asked: at, .. } => match result {
                Ok(KvOutcome::Stored) => {
                    let at = *at;
                    for key in self.namespaces.iter_mut().flat_map(|namespace| namespace.keys.values_mut()) {
                        key.flushed(at);
                    }
                }
                Err(_) if safety => {}
                _ => return fail("unexpected"),
            },
        }
        Ok(())
    }

    /// Whether a Store may be refused for want of room.
    fn may_be_full(&self, number: usize, key: &Key, len: u32) -> bool {
        let namespace = &self.namespaces[number];
        let used: u64 = namespace.keys.iter().map(|(key, model)| footprint(key, model.longest())).sum();
        let keys = namespace.keys.values().filter(|model| model.visible().iter().any(Option::is_some)).count();
        let new = footprint(key, len);
        if namespace.is_cache() && new > namespace.plan.size {
            return true;
        }
        if !namespace.is_cache() {
            if used + new > namespace.plan.size {
                return true;
            }
            if namespace.plan.mnks != 0 && keys as u64 >= u64::from(namespace.plan.mnks) {
                return true;
            }
        }
        // The volume itself: it keeps groups to clean into, and cannot fill its groups to the last page.
        let shards = self.plan.geometry.shards();
        let shard = shard_of(key, shards);
        let live: u64 = self
            .namespaces
            .iter()
            .filter(|namespace| !namespace.is_cache())
            .flat_map(|namespace| &namespace.keys)
            .filter(|(key, _)| shard_of(key, shards) == shard)
            .map(|(_, model)| u64::from(model.longest()) + 4096)
            .sum();
        let reserved: u64 = self.namespaces.iter().map(|other| other.plan.reservation).sum();
        let groups = u64::from(self.plan.geometry.groups());
        let usable = self.plan.geometry.data_bytes() / groups * (groups - 4);
        (live + u64::from(len)) * 10 > usable.saturating_sub(reserved) * 5
    }

    // Ends and beginnings.

    pub fn present(&self) -> Vec<Option<Uuid>> {
        (0..).zip(&self.uuids).map(|(member, uuid)| self.devices.is_alive(member).then_some(*uuid)).collect()
    }

    /// Everything in flight is gone.
    pub fn crash(&mut self, kind: Crash) {
        self.tell(format!("crash: {kind:?}, {} requests in flight", self.asked.len()));
        self.tally.crashes += 1;
        self.volumes.clear();
        self.asked.clear();
        self.held.clear();
        self.devices.crash(kind);
        let now = self.tick();
        for namespace in &mut self.namespaces {
            let keeps_history = namespace.keeps_history();
            namespace.slots.clear();
            for model in namespace.keys.values_mut() {
                model.crash(kind, now, keeps_history);
            }
        }
    }

    /// Opens the pool and serves its namespaces. False: it could not be opened, which only [`Strictness::Safety`] allows.
    pub fn open(&mut self) -> Check<bool> {
        self.tally.opens += 1;
        let present = self.present();
        self.tell(format!("open with {:?}", present.iter().map(Option::is_some).collect::<Vec<_>>()));
        self.phases.clear();
        for shard in 0..self.plan.geometry.shards() {
            let config = self.config(shard);
            let phases = &mut self.phases;
            let mut progress = |progress: kvof_store::volume::Progress| {
                phases.insert(match progress.phase {
                    Phase::Checkpoint => "checkpoint",
                    Phase::Headers => "headers",
                    Phase::Footers => "footers",
                    Phase::OpenGroups => "open groups",
                });
            };
            match Volume::open(config, &present, &mut self.devices, &mut progress) {
                Ok(mut volume) => {
                    // Every other one is driven as by somebody who serves others, too.
                    if (self.tally.opens + u64::from(shard)) % 2 == 1 {
                        volume.take_turns();
                    }
                    self.volumes.push(volume);
                }
                Err(_) if self.devices.is_powerless() => return Ok(false),
                Err(_) if self.strictness == Strictness::Safety => {
                    self.volumes.clear();
                    return Ok(false);
                }
                Err(error) => return Err(format!("the pool cannot be opened: {error}")),
            }
        }
        if self.devices.is_powerless() {
            return Ok(false);
        }
        let now = self.devices.now();
        self.volumes.iter_mut().for_each(|volume| volume.handle_time(now));
        for number in 0..self.namespaces.len() {
            self.attach(number)?;
        }
        self.pump()?;
        Ok(true)
    }

    /// Stops cleanly. False: power failed meanwhile, or a suspect did not let it happen.
    pub fn close(&mut self) -> Check<bool> {
        self.settle()?;
        self.tell("close".to_owned());
        self.volumes.iter_mut().for_each(Volume::drain);
        let began = self.devices.now();
        self.pump()?;
        while !self.volumes.iter().all(Volume::is_idle) || self.devices.in_flight() > 0 {
            self.advance()?;
            if self.devices.now() - began > PATIENCE {
                return Err("a drained volume does not become idle".to_owned());
            }
        }
        let volumes = std::mem::take(&mut self.volumes);
        let mut clean = true;
        for volume in volumes {
            if let Err(error) = volume.close(&mut self.devices) {
                clean = false;
                let excused = self.devices.is_powerless() || !self.suspects.is_empty();
                if !excused && self.strictness == Strictness::Full {
                    return Err(format!("a volume cannot be closed: {error}"));
                }
            }
        }
        for namespace in &mut self.namespaces {
            namespace.slots.clear();
            if clean && !self.devices.is_powerless() {
                let at = self.clock;
                namespace.keys.values_mut().for_each(|key| key.flushed(at));
            }
        }
        Ok(clean && !self.devices.is_powerless())
    }

    /// What a crash now would leave, as a world of its own. It has no faults, and is not open.
    pub fn fork(&self, kind: Crash, seed: u64) -> Self {
        let now = self.clock;
        let mut namespaces = self.namespaces.clone();
        for namespace in &mut namespaces {
            let keeps_history = namespace.keeps_history();
            namespace.slots.clear();
            namespace.keys.values_mut().for_each(|model| model.crash(kind, now, keeps_history));
        }
        Self {
            plan: self.plan.clone(),
            devices: self.devices.fork(kind, seed),
            strictness: self.strictness,
            uuids: self.uuids.clone(),
            suspects: self.suspects.clone(),
            faults: FaultPlan::NONE,
            volumes: Vec::new(),
            namespaces,
            asked: BTreeMap::new(),
            buffers: Pool::new(PoolConfig { limit: self.plan.buffers, shards: 1 }),
            held: VecDeque::new(),
            next_id: self.next_id,
            next_version: self.next_version,
            clock: self.clock,
            tally: Tally::default(),
            journal: self.journal.clone(),
            phases: BTreeSet::new(),
        }
    }

    // Devices.

    pub fn set_faults(&mut self, faults: FaultPlan) {
        self.faults = faults;
        self.devices.set_faults(faults, &self.suspects);
    }

    /// An operator says that the device is to be used no more.
    pub fn fail(&mut self, member: u16) -> Check {
        self.tell(format!("device {member} is declared failed"));
        self.volumes.iter_mut().for_each(|volume| volume.device_failed(member, "the test says so"));
        self.pump()
    }

    /// The device is there again, with its old contents or as an empty one.
    pub fn bring_back(&mut self, member: u16, empty: bool) -> Check {
        self.tell(format!("device {member} comes back, empty: {empty}"));
        if empty {
            self.devices.replace(member);
            let next = self.tick();
            self.uuids[usize::from(member)] = uuid(self.plan.seed, 1 << 32 | next);
        } else {
            self.devices.revive(member);
        }
        let device = self.uuids[usize::from(member)];
        self.volumes.iter_mut().for_each(|volume| volume.device_returned(member, device));
        self.pump()
    }

    /// Members that some volume does not count as live.
    pub fn not_live(&self) -> BTreeSet<u16> {
        let states = self.volumes.iter().flat_map(|volume| (0u16..).zip(volume.stats().members));
        states.filter(|(_, state)| *state != MemberState::Live).map(|(member, _)| member).collect()
    }

    pub fn evicted(&self) -> u64 {
        self.volumes.iter().map(|volume| volume.stats().evicted).sum()
    }
}

fn same(key: &Key, value: Value, bytes: &[u8]) -> bool {
    value.len as usize == bytes.len() && value.bytes(key) == bytes
}

fn uuid(seed: u64, which: u64) -> Uuid {
    let mut uuid = [0; 16];
    Rng::new(derive(seed, which)).fill(&mut uuid);
    uuid
}

//! Episodes: a pool, hosts and faults that a seed decides, run to the end or to the first broken promise.

use std::time::Duration;

use kvof_kv::{Key, StoreOptions};
use kvof_store::{
    device::sim::{Crash, FaultPlan, Rng, derive},
    ec::Profile,
    format::NamespaceMode,
    geometry::Geometry,
    volume::Durability,
};

use super::world::{Check, NamespacePlan, PoolPlan, Strictness, Tally, World};

/// What hosts, operators and fate do, and how often each for another.
pub const ACTIONS: [&str; 16] = [
    "store",
    "overwrite-burst",
    "conditional",
    "delete",
    "retrieve",
    "exist",
    "flush",
    "wait",
    "settle",
    "kill",
    "power-cut",
    "restart",
    "namespaces",
    "devices",
    "season",
    "check-crash",
];

/// An episode before it runs.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub pool: PoolPlan,
    pub namespaces: Vec<NamespacePlan>,
    pub strictness: Strictness,
    /// How often each of [`ACTIONS`] is taken.
    pub weights: [u32; ACTIONS.len()],
    pub faults: FaultPlan,
    pub steps: usize,
    /// Most requests in flight.
    pub depth: usize,
    /// Longest value that is usual.
    pub usual: u32,
    pub dump: bool,
}

/// What came of an episode.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub result: Check,
    /// Steps that were taken.
    pub steps: usize,
    pub trace: u64,
    pub tally: Tally,
    pub faults: u64,
    pub ops: u64,
    pub journal: Vec<String>,
    pub evicted: u64,
    pub cleaned: u64,
}

/// Limits of an episode that the caller sets.
#[derive(Clone, Debug, Default)]
pub struct Only {
    pub profile: Option<(u8, u8)>,
    pub steps: Option<usize>,
    /// Names of faults and [`ACTIONS`] that are left out.
    pub without: Vec<String>,
    pub chaos: Option<bool>,
    /// Print what is on the devices in the end.
    pub dump: bool,
}

impl Scenario {
    /// The episode of this seed.
    pub fn new(seed: u64, only: &Only) -> Self {
        let mut rng = Rng::new(derive(seed, 77));
        let profiles = [(1, 0), (1, 1), (1, 1), (2, 1), (4, 1), (4, 1), (4, 2), (3, 2), (1, 2), (2, 0), (8, 3)];
        let (k, m) = *rng.pick(&profiles).expect("some");
        let (k, m) = only.profile.unwrap_or((k, m));
        let profile = Profile::new(k, m).expect("a valid profile");
        let width = u16::from(profile.width());
        let members = width + if rng.one_in(3) { rng.between(1, 3) as u16 } else { 0 };
        let shards = *rng.pick(&[1, 1, 1, 2, 3]).expect("some");
        // Enough segments for eight groups and a few more; few, so that groups are used again and again.
        let groups = rng.between(8, 8 + 16 / u64::from(k));
        let segments = groups.div_ceil(u64::from(members)) as u32 * u32::from(width);
        let geometry = Geometry::new(profile, members, shards, 256, segments).expect("a valid geometry");
        let mib = 1 << 20;
        let tier = *rng.pick(&[0, 0, 256 << 10, 4 * mib as u64]).expect("some");
        let pool = PoolPlan {
            seed,
            geometry,
            // What the tiers keep stays in these buffers.
            buffers: usize::from(shards) * tier as usize + *rng.pick(&[8 * mib, 16 * mib, 64 * mib]).expect("some"),
            scratch: *rng.pick(&[16 * mib, 32 * mib]).expect("some"),
            tier,
            read_ahead: *rng.pick(&[0, 0, mib as u64]).expect("some"),
            rebuild_rate: *rng.pick(&[0, 0, 20 * mib as u64]).expect("some"),
            scrub_rate: *rng.pick(&[0, 0, 0, 50 * mib as u64]).expect("some"),
        };
        let data = geometry.data_bytes() * u64::from(shards);
        let count = rng.between(1, 3) as usize;
        // Of all that is there, how much the namespaces may fill: beyond 100 the volume is full before they are.
        let fill = *rng.pick(&[20, 40, 60, 120]).expect("some");
        let usual = *rng.pick(&[200, 5000, 40_000, 200_000]).expect("some");
        let mut namespaces = Vec::new();
        for _ in 0..count {
            let size = data * fill / 100 / count as u64;
            let most = 3 * size / u64::from(usual);
            namespaces.push(NamespacePlan {
                mode: if rng.one_in(3) { NamespaceMode::Cache } else { NamespaceMode::Store },
                durability: if rng.one_in(3) { Durability::Device } else { Durability::Media },
                size,
                mnks: if rng.one_in(6) { 20 } else { 0 },
                reservation: if rng.one_in(6) { size / 4 / u64::from(shards) } else { 0 },
                keys: (rng.between(5, 80)).min(most.max(5)) as usize,
            });
        }
        // Each episode has its own idea of what is usual: rare things are then common in some.
        let mut weights = [60, 6, 10, 12, 30, 6, 4, 60, 6, 1, 1, 1, 1, 3, 1, 2];
        for weight in &mut weights {
            *weight *= *rng.pick(&[0, 1, 1, 1, 2, 5]).expect("some");
        }
        weights[0] = weights[0].max(30);
        weights[7] = weights[7].max(10);
        let mut faults = FaultPlan::NONE;
        for name in FaultPlan::NAMES {
            let often = *rng.pick(&[0, 0, 500, 3000, 20_000]).expect("some");
            let often = if matches!(name, "death" | "hang") { often / 20 } else { often };
            if !only.without.iter().any(|other| other == name) {
                let _ = faults.set(name, often);
            }
        }
        for (name, weight) in ACTIONS.iter().zip(&mut weights) {
            if only.without.iter().any(|other| other == name) {
                *weight = 0;
            }
        }
        let chaos = only.chaos.unwrap_or_else(|| rng.one_in(8));
        Self {
            seed,
            pool,
            namespaces,
            strictness: if chaos { Strictness::Safety } else { Strictness::Full },
            weights,
            faults,
            steps: only.steps.unwrap_or_else(|| rng.between(200, 3000) as usize),
            depth: rng.between(1, 40) as usize,
            usual,
            dump: only.dump,
        }
    }

    /// Runs it.
    pub fn run(&self) -> Outcome {
        let mut episode =
            Episode { scenario: self, rng: Rng::new(derive(self.seed, 88)), world: World::new(self.pool.clone()) };
        let mut steps = 0;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| episode.run(&mut steps)));
        let result = result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        });
        let world = episode.world;
        if self.dump {
            super::dump::dump(&world.devices, &self.pool.geometry);
            for (shard, volume) in world.volumes.iter().enumerate() {
                println!("VOLUME {shard} {volume:?} {:?}", volume.stats());
            }
        }
        let stats = world.devices.stats();
        Outcome {
            result,
            steps,
            trace: world.devices.trace(),
            tally: world.tally,
            faults: stats.faults,
            ops: stats.ops,
            journal: world.journal.into_iter().collect(),
            evicted: world.volumes.iter().map(|volume| volume.stats().evicted).sum(),
            cleaned: world.volumes.iter().map(|volume| volume.stats().groups_cleaned).sum(),
        }
    }
}

struct Episode<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    world: World,
}

impl Episode<'_> {
    fn run(&mut self, steps: &mut usize) -> Check {
        let scenario = self.scenario;
        let world = &mut self.world;
        world.strictness = scenario.strictness;
        world.open()?;
        for plan in &scenario.namespaces {
            world.add_namespace(*plan)?;
        }
        // The table of namespaces has to be durable before anything can be expected of them.
        world.rest(Duration::from_secs(1))?;
        self.season()?;
        for step in 0..scenario.steps {
            *steps = step;
            if !self.step()? {
                return Ok(());
            }
        }
        self.finish()
    }

    fn finish(&mut self) -> Check {
        self.world.settle()?;
        if self.scenario.strictness == Strictness::Safety {
            return self.world.verify();
        }
        self.world.heal(&mut self.rng)?;
        self.world.verify()?;
        self.world.check_redundancy(&mut self.rng)?;
        // Whatever happened before, a clean stop is one: the next start needs nothing but the checkpoint.
        self.world.suspects.clear();
        if !self.world.close()? {
            return Err("a healthy pool was not closed cleanly".to_owned());
        }
        self.world.open()?;
        if self.world.phases.contains("footers") || self.world.phases.contains("open groups") {
            return Err(format!("after a clean stop all of {:?} was done", self.world.phases));
        }
        self.world.verify()
    }

    /// One action; false: the episode ends, since the pool cannot be opened and need not be.
    fn step(&mut self) -> Check<bool> {
        let action = ACTIONS[self.rng.weighted(&self.scenario.weights)];
        match action {
            "store" => self.store()?,
            "overwrite-burst" => self.burst()?,
            "conditional" => self.conditional()?,
            "delete" => {
                if let Some((namespace, key)) = self.target()? {
                    self.world.delete(namespace, key)?;
                }
            }
            "retrieve" => {
                if let Some((namespace, key)) = self.target()? {
                    self.world.retrieve(namespace, key)?;
                }
            }
            "exist" => {
                if let Some((namespace, key)) = self.target()? {
                    self.world.exist(namespace, key)?;
                }
            }
            "flush" => self.world.flush()?,
            "wait" => {
                for _ in 0..self.rng.between(1, 8) {
                    self.world.advance()?;
                }
            }
            "settle" => {
                self.world.settle()?;
                if self.rng.one_in(4) {
                    self.world.verify()?;
                }
            }
            "kill" => return self.crash(Crash::Kill),
            "power-cut" => return self.crash(Crash::Power),
            "restart" => return self.restart(),
            "namespaces" => self.change_namespaces()?,
            "devices" => self.change_devices()?,
            "season" => self.season()?,
            _ => {
                let kind = if self.rng.one_in(2) { Crash::Kill } else { Crash::Power };
                let seed = self.rng.next();
                if self.scenario.strictness == Strictness::Full {
                    self.world.check_crash(kind, seed)?;
                }
            }
        }
        Ok(true)
    }

    /// A namespace that is served and one of its keys, once there is room for another request.
    fn target(&mut self) -> Check<Option<(usize, Key)>> {
        while self.world.in_flight() >= self.scenario.depth {
            self.world.advance()?;
        }
        let namespace = self.rng.below(self.world.namespaces.len() as u64) as usize;
        if !self.world.namespaces[namespace].is_attached() {
            return Ok(None);
        }
        // Some keys are used more than others.
        let (a, b) = (self.rng.next() >> 1, self.rng.below(6));
        let which = if self.rng.one_in(3) { b } else { a };
        Ok(Some((namespace, self.world.key(namespace, which))))
    }

    fn len(&mut self) -> u32 {
        let rng = &mut self.rng;
        let usual = self.scenario.usual;
        let around = |rng: &mut Rng, centre: u64, by: u64| rng.between(centre.saturating_sub(by), centre + by) as u32;
        match rng.below(20) {
            0 => 0,
            1 => rng.between(1, 33) as u32,
            2 => around(rng, 32 * rng.clone().between(1, 130), 2),
            3 => around(rng, 3840, 200),
            4 => around(rng, 4096, 64),
            5 => around(rng, 8192, 64),
            6 => around(rng, 128 << 10, 64),
            7 => around(rng, (128 << 10) + 4096 * rng.clone().between(0, 20), 40),
            8 => rng.below(400_000) as u32,
            9 if rng.one_in(4) => rng.between(500_000, 900_000) as u32,
            _ => rng.below(u64::from(usual) + 1) as u32,
        }
    }

    fn store(&mut self) -> Check {
        let len = self.len();
        if let Some((namespace, key)) = self.target()? {
            self.world.store(namespace, key, StoreOptions::empty(), len)?;
        }
        Ok(())
    }

    fn burst(&mut self) -> Check {
        let Some((namespace, key)) = self.target()? else { return Ok(()) };
        for _ in 0..self.rng.between(2, 6) {
            let len = self.len();
            self.world.store(namespace, key, StoreOptions::empty(), len)?;
            match self.rng.below(4) {
                0 => self.world.delete(namespace, key)?,
                1 => self.world.retrieve(namespace, key)?,
                2 => self.world.advance()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn conditional(&mut self) -> Check {
        let len = self.len();
        let options = *self
            .rng
            .pick(&[StoreOptions::MUST_EXIST, StoreOptions::MUST_NOT_EXIST, StoreOptions::all()])
            .expect("some");
        if let Some((namespace, key)) = self.target()? {
            self.world.store(namespace, key, options, len)?;
        }
        Ok(())
    }

    fn crash(&mut self, kind: Crash) -> Check<bool> {
        self.world.crash(kind);
        self.reopen()
    }

    /// Opens the pool; sometimes power fails while it does.
    fn reopen(&mut self) -> Check<bool> {
        for _ in 0..3 {
            if !self.rng.one_in(3) {
                break;
            }
            let ops = self.rng.between(1, 300);
            self.world.tell(format!("power will fail after {ops} operations of opening"));
            self.world.devices.power_fails_after(ops);
            let opened = self.world.open();
            let powerless = self.world.devices.is_powerless();
            if !powerless {
                // It was open before power failed.
                opened?;
            }
            self.world.crash(Crash::Power);
        }
        if !self.world.open()? {
            return Ok(false);
        }
        if self.rng.one_in(2) {
            self.world.verify()?;
        }
        Ok(true)
    }

    fn restart(&mut self) -> Check<bool> {
        self.world.settle()?;
        if self.rng.one_in(4) {
            let ops = self.rng.between(1, 60);
            self.world.tell(format!("power will fail after {ops} operations of closing"));
            self.world.devices.power_fails_after(ops);
        }
        let clean = self.world.close()?;
        if self.world.devices.is_powerless() {
            self.world.crash(Crash::Power);
            return self.reopen();
        }
        self.world.devices.power_holds();
        if clean && self.rng.one_in(2) {
            self.world.crash(Crash::Power);
        }
        self.reopen()
    }

    fn change_namespaces(&mut self) -> Check {
        let number = self.rng.below(self.world.namespaces.len() as u64) as usize;
        if !self.world.namespaces[number].is_attached() {
            return self.world.attach(number);
        }
        if self.rng.one_in(2) {
            return self.world.detach(number);
        }
        self.world.destroy(number)?;
        self.world.attach(number)
    }

    /// Something happens to a suspect.
    fn change_devices(&mut self) -> Check {
        let suspects = self.world.suspects.clone();
        let Some(member) = self.rng.pick(&suspects).copied() else { return Ok(()) };
        let alive = self.world.devices.is_alive(member);
        match self.rng.below(5) {
            0 if alive => {
                self.world.tell(format!("device {member} dies"));
                self.world.devices.kill(member);
                Ok(())
            }
            1 if alive => self.world.fail(member),
            2 if alive => {
                for _ in 0..self.rng.between(1, 4) {
                    self.world.devices.rot(member);
                }
                Ok(())
            }
            3 => {
                let time = Duration::from_millis(self.rng.between(1, 5000));
                self.world.tell(format!("device {member} hangs for {time:?}"));
                self.world.devices.hang(member, time);
                Ok(())
            }
            _ if !alive || self.world.not_live().contains(&member) => {
                let empty = self.rng.one_in(2);
                self.world.bring_back(member, empty)
            }
            _ => Ok(()),
        }
    }

    /// The pool heals, and others become suspects.
    fn season(&mut self) -> Check {
        let members = self.scenario.pool.geometry.members();
        let m = self.scenario.pool.geometry.m();
        let full = self.scenario.strictness == Strictness::Full;
        if full && !self.world.suspects.is_empty() {
            self.world.heal(&mut self.rng)?;
            self.world.verify()?;
            self.world.check_redundancy(&mut self.rng)?;
        }
        let most = if full { m } else { usize::from(members) };
        let count = if full { self.rng.between(0, most as u64) } else { self.rng.between(1, most as u64) };
        let mut suspects = std::collections::BTreeSet::new();
        while (suspects.len() as u64) < count {
            suspects.insert(self.rng.below(u64::from(members)) as u16);
        }
        self.world.suspects = suspects.into_iter().collect();
        let text = format!("suspects: {:?}", self.world.suspects);
        self.world.tell(text);
        self.world.set_faults(self.scenario.faults);
        Ok(())
    }
}

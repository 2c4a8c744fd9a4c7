//! Kills kvof-target with SIGKILL under full load, thousands of times, and damages up to m devices of its pools meanwhile; a
//! checker that is not part of the target knows every acknowledgement and holds it to them.
//!
//! The target serves a KV namespace from each of several pools of files. Commands run on several connections until the target
//! is killed, at a random moment: under load, while it starts, or while it stops. After each restart what was in flight and
//! a sample is read, now and then the whole List, and at the end everything, before and after a clean stop.
//!
//! `make torture KILLS=3000` builds and runs it. It ends everything it started and removes everything it wrote.

mod checker;
mod content;
mod load;
mod pool;
mod target;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use kvof_initiator::KvNamespace;

use crate::{
    content::Random,
    load::{Control, Subject},
    pool::Pool,
    target::{Folder, Program, Target},
};

/// Kills a kvof-target that serves pools of files, again and again, and checks that nothing acknowledged is lost.
#[derive(Debug, Parser)]
struct Options {
    /// How often the target is killed.
    #[arg(long, default_value_t = 30)]
    kills: u64,
    /// Decides what is done; printed when it is not given. The moments of the kills still depend on the machine.
    #[arg(long)]
    seed: Option<u64>,
    /// The folder of the programs kvof-target and kvof.
    #[arg(long, default_value = ".build/release")]
    bin: PathBuf,
    /// Where the pools are made, in a folder that is removed again unless something is wrong.
    #[arg(long, default_value = ".build")]
    directory: PathBuf,
    /// Erasure profiles k+m, a pool with k + m devices for each.
    #[arg(long = "profile", default_values = ["4+1", "1+1"])]
    profiles: Vec<String>,
    /// Bytes of values that one pool has room for, MiB.
    #[arg(long, default_value_t = 256)]
    mebibytes: u64,
    /// Keys that are used in each pool.
    #[arg(long, default_value_t = 1000)]
    keys: usize,
    /// Connections to each namespace.
    #[arg(long, default_value_t = 2)]
    connections: usize,
    /// Commands in flight in each namespace.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Longest time under load before a kill, ms.
    #[arg(long, default_value_t = 400)]
    load: u64,
    /// Devices are not damaged.
    #[arg(long)]
    no_damage: bool,
    /// Durability of the pools, in turn.
    #[arg(long = "durability", default_values = ["device", "media"])]
    durabilities: Vec<String>,
}

const NQN: &str = "nqn.2026-11.io.kvof:torture";

/// Keys that are read in each namespace after a restart, beside those that were in flight.
const SAMPLE: usize = 40;

fn main() -> ExitCode {
    let options = Options::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = options.seed.unwrap_or(now.as_nanos() as u64 & 0xffff_ffff);
    match run(&options, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture failed with --seed {seed}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What was done.
struct Figures {
    kills: [u64; 3],
    stops: u64,
    starts_us: Histogram<u64>,
    began: Instant,
}

/// How the target ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// SIGKILL under load.
    Kill,
    /// SIGTERM under load, and SIGKILL while it stops.
    KillWhileStopping,
    /// SIGTERM, and nothing else.
    Stop,
}

struct Torture<'a> {
    options: &'a Options,
    random: Random,
    program: Program,
    pools: Vec<Pool>,
    subjects: Vec<Subject>,
    figures: Figures,
    /// How much of the log is checked.
    logged: u64,
}

fn run(options: &Options, seed: u64) -> Result<()> {
    println!("{} kills, --seed {seed}", options.kills);
    let mut folder = Folder::create(&options.directory)?;
    let result = Torture::prepare(options, seed, &folder.path).and_then(|mut torture| {
        let result = torture.all();
        if result.is_err() {
            eprintln!("{}", torture.program.tail());
            for pool in &torture.pools {
                eprintln!("{}", pool.history());
            }
        }
        result
    });
    if result.is_err() {
        folder.keep = true;
        eprintln!("everything is kept in {}", folder.path.display());
    }
    result
}

impl<'a> Torture<'a> {
    fn prepare(options: &'a Options, seed: u64, folder: &std::path::Path) -> Result<Self> {
        let pools: Vec<Pool> = options
            .profiles
            .iter()
            .enumerate()
            .map(|(number, profile)| {
                Pool::format(options.bin.join("kvof"), folder, number, profile, options.mebibytes << 20)
            })
            .collect::<Result<_>>()?;
        ensure!(!options.durabilities.is_empty(), "--durability needs a value");
        let mut config = format!(
            "[reactor]\nbusy_poll = \"0s\"\nmemory = \"128MiB\"\n\n[[port]]\naddress = \"127.0.0.1:0\"\n\n\
             [[subsystem]]\nnqn = \"{NQN}\"\nallowed_hosts = \"any\"\n"
        );
        for (pool, durability) in pools.iter().zip(options.durabilities.iter().cycle()) {
            config.push_str(&pool.namespace(durability));
        }
        for pool in &pools {
            config.push_str(&pool.config());
        }
        let program = Program {
            path: options.bin.join("kvof-target"),
            config: folder.join("target.toml"),
            ready: folder.join("ready.json"),
            log: folder.join("target.log"),
        };
        std::fs::write(&program.config, config)?;
        let subjects = (1..=pools.len() as u32).map(|nsid| Subject::new(nsid, options.keys)).collect();
        let figures = Figures { kills: [0; 3], stops: 0, starts_us: Histogram::new(3)?, began: Instant::now() };
        Ok(Self { options, random: Random::new(seed), program, pools, subjects, figures, logged: 0 })
    }

    fn all(&mut self) -> Result<()> {
        let mut said = Instant::now();
        while self.killed() < self.options.kills {
            self.round().with_context(|| format!("after {} kills", self.killed()))?;
            self.check_log()?;
            if said.elapsed() > Duration::from_secs(10) {
                said = Instant::now();
                self.say();
            }
        }
        self.finish().with_context(|| format!("at the end, after {} kills", self.killed()))?;
        self.say();
        self.summary();
        Ok(())
    }

    fn killed(&self) -> u64 {
        self.figures.kills.iter().sum()
    }

    /// From one start of the target to its end.
    fn round(&mut self) -> Result<()> {
        if self.random.chance(8) {
            // Recovery is killed too.
            let mut child = self.program.spawn()?;
            std::thread::sleep(Duration::from_micros(self.random.below(60_000)));
            child.kill()?;
            child.wait()?;
            self.figures.kills[1] += 1;
        }
        let mut target = self.start()?;
        for pool in &mut self.pools {
            pool.look(&target.address, NQN)?;
        }
        self.check_after_start(&target)?;
        let ending = match self.random.below(100) {
            0..90 => Ending::Kill,
            90..95 => Ending::KillWhileStopping,
            _ => Ending::Stop,
        };
        self.load(&mut target, ending)?;
        drop(target);
        if !self.options.no_damage {
            for pool in &mut self.pools {
                pool.harm_while_down(&mut self.random)?;
            }
        }
        Ok(())
    }

    fn start(&mut self) -> Result<Target> {
        let target = self.program.start()?;
        self.figures.starts_us.record(target.start.as_micros() as u64)?;
        Ok(target)
    }

    fn check_after_start(&mut self, target: &Target) -> Result<()> {
        let lists = self.random.chance(15);
        for subject in &self.subjects {
            let mut keys = subject.checker().undecided();
            keys.extend((0..SAMPLE).map(|_| self.random.below(subject.keys as u64) as usize));
            self.with(target, subject, async |namespaces| {
                load::verify(subject, namespaces, keys, self.options.depth).await?;
                if lists {
                    load::verify_list(subject, &namespaces[0]).await?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn with<T>(
        &self,
        target: &Target,
        subject: &Subject,
        work: impl AsyncFnOnce(&[KvNamespace]) -> Result<T>,
    ) -> Result<T> {
        load::with_namespaces(&target.address, NQN, subject.nsid, self.options.connections, work)
    }

    /// Puts the target under load and ends it.
    fn load(&mut self, target: &mut Target, ending: Ending) -> Result<()> {
        let time = Duration::from_micros(self.random.below(self.options.load.max(1) * 1000));
        let control = Control::default();
        let running = AtomicU64::new(0);
        let seeds: Vec<u64> = self.subjects.iter().map(|_| self.random.next()).collect();
        let (address, options, subjects) = (&target.address.clone(), self.options, &self.subjects);
        let (pools, random) = (&mut self.pools, &mut self.random);
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = subjects
                .iter()
                .zip(&seeds)
                .map(|(subject, seed)| {
                    let (control, running) = (&control, &running);
                    scope.spawn(move || {
                        load::with_namespaces(address, NQN, subject.nsid, options.connections, async |namespaces| {
                            running.fetch_add(1, Ordering::Relaxed);
                            load::run(subject, namespaces, options.depth, *seed, control).await
                        })
                    })
                })
                .collect();
            // The time under load begins when all are connected.
            let late = Instant::now() + Duration::from_secs(20);
            while running.load(Ordering::Relaxed) < subjects.len() as u64
                && Instant::now() < late
                && !threads.iter().any(std::thread::ScopedJoinHandle::is_finished)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(time / 2);
            let harmed = if options.no_damage {
                Ok(())
            } else {
                pools.iter_mut().try_for_each(|pool| pool.harm_while_up(random))
            };
            std::thread::sleep(time / 2);
            control.killed.store(true, Ordering::SeqCst);
            let ended = harmed.and_then(|()| match ending {
                Ending::Kill => target.kill(),
                Ending::KillWhileStopping => {
                    target.terminate()?;
                    std::thread::sleep(Duration::from_micros(random.below(30_000)));
                    target.kill()
                }
                Ending::Stop => {
                    target.terminate()?;
                    let status = target.wait()?;
                    ensure!(status.success(), "the target was asked to stop and ended with {status}");
                    Ok(())
                }
            });
            if ended.is_err() {
                let _ = target.kill();
            }
            let all = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("the load panicked"),
            });
            all.chain([ended]).collect()
        });
        match ending {
            Ending::Kill => self.figures.kills[0] += 1,
            Ending::KillWhileStopping => self.figures.kills[2] += 1,
            Ending::Stop => self.figures.stops += 1,
        }
        results.into_iter().collect()
    }

    /// A target that complains of itself has a fault, even if nothing is lost.
    fn check_log(&mut self) -> Result<()> {
        let (text, end) = self.program.logged(self.logged)?;
        self.logged = end;
        let fault = text.lines().find(|line| line.contains("panicked") || line.contains("internal error"));
        fault.map_or(Ok(()), |line| bail!("the target logged: {line}"))
    }

    /// Makes the pools whole and reads everything, before and after a clean stop.
    fn finish(&mut self) -> Result<()> {
        for pool in &mut self.pools {
            pool.heal_while_down()?;
        }
        let mut target = self.start()?;
        for again in [false, true] {
            if again {
                target = self.start()?;
            }
            for subject in &self.subjects {
                self.with(&target, subject, async |namespaces| {
                    load::verify(subject, namespaces, (0..subject.keys).collect(), self.options.depth).await?;
                    load::verify_list(subject, &namespaces[0]).await
                })?;
            }
            if !again {
                for pool in &mut self.pools {
                    pool.wait_until_whole(&target.address, NQN)?;
                }
            }
            target.terminate()?;
            let status = target.wait()?;
            ensure!(status.success(), "the target was asked to stop and ended with {status}");
            self.figures.stops += 1;
            self.check_log()?;
            for pool in &self.pools {
                pool.verify_offline()?;
            }
        }
        Ok(())
    }

    fn say(&self) {
        let changes: u64 = self.subjects.iter().map(|subject| subject.counts.changes.load(Ordering::Relaxed)).sum();
        let reads: u64 = self.subjects.iter().map(|subject| subject.counts.reads.load(Ordering::Relaxed)).sum();
        let harms: u64 = self.pools.iter().map(|pool| pool.harms()).sum();
        println!(
            "{:>6} kills  {:>5.0} s  {changes:>9} changes acknowledged  {reads:>9} reads right  {harms:>4} times a device damaged",
            self.killed(),
            self.figures.began.elapsed().as_secs_f64(),
        );
    }

    fn summary(&self) {
        let Figures { kills: [under_load, starting, stopping], stops, starts_us, .. } = &self.figures;
        println!(
            "\nkilled {under_load} times under load, {starting} while starting, {stopping} while stopping; stopped {stops} times"
        );
        println!(
            "from start to service: median {:.0} ms, 99 % within {:.0} ms, longest {:.0} ms",
            starts_us.value_at_quantile(0.5) as f64 / 1e3,
            starts_us.value_at_quantile(0.99) as f64 / 1e3,
            starts_us.max() as f64 / 1e3
        );
        for (subject, pool) in self.subjects.iter().zip(&self.pools) {
            let counts = &subject.counts;
            let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            println!(
                "{}: {} changes acknowledged ({:.1} GiB), {} refused as due, {} for want of room, {} in flight when killed, {} reads; \
                 {} keys at the end\n   {}",
                pool.name(),
                of(&counts.changes),
                of(&counts.bytes) as f64 / (1u64 << 30) as f64,
                of(&counts.refused),
                of(&counts.full),
                of(&counts.unanswered),
                of(&counts.reads),
                subject.checker().present(),
                pool.summary()
            );
        }
        println!("Nothing acknowledged was lost, nothing read was wrong.");
    }
}

//! Hosts that do what no host should, over RDMA: the target may end their connection, and nothing else may happen to it.
//!
//! After each of them a host that does everything right connects, stores, retrieves and compares. What the target uses before and after
//! is for the caller to compare.

mod connects;
mod data;
mod messages;
mod raw;
mod session;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub(crate) use self::session::Place;
use self::session::{Host, Queue};
use crate::pattern::Random;

/// One way to misbehave.
struct Attack {
    name: &'static str,
    run: fn(&Place, &mut Random) -> Result<()>,
}

/// All of them, in order.
const ATTACKS: &[Attack] = &[
    Attack { name: "private data: every field out of range", run: connects::fields },
    Attack { name: "private data: random bytes", run: connects::random },
    Attack { name: "connects: many at once, each left at once", run: connects::flood },
    Attack { name: "connects: asked for and never finished", run: connects::half_open },
    Attack { name: "connects: finished and silent", run: connects::silent },
    Attack { name: "capsules: shorter than a command", run: messages::short },
    Attack { name: "capsules: longer than promised", run: messages::long },
    Attack { name: "capsules: random bytes before Connect", run: messages::random_before_connect },
    Attack { name: "capsules: random commands on an admin queue", run: messages::random_admin },
    Attack { name: "capsules: random commands on an I/O queue", run: messages::random_io },
    Attack { name: "capsules: more than the queue has entries", run: messages::overflow },
    Attack { name: "Connect: wrong names, twice, for nobody's controller", run: messages::wrong_connects },
    Attack { name: "SGLs: every kind of descriptor", run: data::descriptors },
    Attack { name: "keys: that never were", run: data::unknown_key },
    Attack { name: "keys: that are dead", run: data::dead_key },
    Attack { name: "keys: for the other direction", run: data::wrong_direction },
    Attack { name: "keys: beyond their memory", run: data::beyond },
    Attack { name: "receives: fewer than promised", run: data::no_receives },
    Attack { name: "receives: one, and many commands", run: data::one_receive },
    Attack { name: "ends: in the middle of a Store", run: data::end_in_store },
    Attack { name: "ends: in the middle of a Retrieve", run: data::end_in_retrieve },
];

/// Runs those whose name contains `only`, from `seed`. Whether the target took all of them well.
///
/// # Errors
/// When a host that does everything right is not served before anything was tried.
pub(crate) fn run(place: &Place, only: Option<&str>, seed: u64) -> Result<bool> {
    let mut random = Random::new(seed);
    println!("seed {seed}");
    serves(place, &mut random).context("before anything was tried")?;
    let mut good = true;
    let chosen = ATTACKS.iter().filter(|attack| only.is_none_or(|only| attack.name.contains(only)));
    for attack in chosen {
        let start = Instant::now();
        let result = (attack.run)(place, &mut random).and_then(|()| {
            serves(place, &mut random).context("a host that does everything right was not served afterwards")
        });
        let time = start.elapsed().as_millis();
        match result {
            Ok(()) => println!("{:<56} {time:>6} ms  passed", attack.name),
            Err(error) => {
                println!("{:<56} {time:>6} ms  FAILED: {error:#}", attack.name);
                good = false;
            }
        }
    }
    Ok(good)
}

/// Whether a host that does everything right is served. Controllers of those before it may take a moment to go.
fn serves(place: &Place, random: &mut Random) -> Result<()> {
    let until = Instant::now() + raw::PATIENCE;
    loop {
        match Host::new(place) {
            Ok(mut host) => return host.round_trip(random.next(), 70_001),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// What became of a command that should not have been sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It was answered.
    Answered(kvof_spec::Status),
    /// The target ended the connection.
    Ended,
}

/// Sends a capsule as it is, and waits for what becomes of it.
///
/// # Errors
/// When nothing does.
fn fate(queue: &mut Queue, capsule: &[u8]) -> Result<Fate> {
    queue.raw.endpoint().send(0, capsule);
    match queue.answer() {
        Ok(cqe) => Ok(Fate::Answered(cqe.status())),
        Err(_) if queue.raw.has_ended() => Ok(Fate::Ended),
        Err(error) => bail!("neither an answer nor an end: {error:#}"),
    }
}

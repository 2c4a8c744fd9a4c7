//! Capsules that are none, commands of random bytes, too many of them, and Connects that nobody should send.

use anyhow::{Context, Result, bail, ensure};
use kvof_rdma::Event;
use kvof_spec::fabrics::{CNTLID_DYNAMIC, ConnectCmd};
use kvof_spec::opcode::AdminOpcode;
use kvof_spec::{IntoBytes, Sqe};

use super::raw::{PATIENCE, Shape};
use super::session::{ENTRIES, Host, Place, Queue, fabrics};
use super::{Fate, fate};
use crate::pattern::Random;

/// More than any capsule that the target takes.
const LONG: Shape = Shape { receives: 32, promised: 32, sends: 4, send_size: 65_536 };

/// How many random commands each queue gets.
const RANDOM_COMMANDS: usize = 40;

pub(super) fn short(place: &Place, _: &mut Random) -> Result<()> {
    for len in [0, 1, 16, 63] {
        let mut queue = Queue::open(place, 0, 0, Shape::default())?;
        let fate = fate(&mut queue, &[0x55; 64][..len])?;
        ensure!(fate == Fate::Ended, "a capsule of {len} bytes: {fate:?}");
    }
    let mut host = Host::new(place)?;
    let fate = fate(&mut host.io, &[0; 63])?;
    ensure!(fate == Fate::Ended, "63 bytes on an I/O queue: {fate:?}");
    Ok(())
}

pub(super) fn long(place: &Place, _: &mut Random) -> Result<()> {
    for len in [8192, 65_536] {
        let mut queue = Queue::open(place, 0, 0, LONG)?;
        let fate = fate(&mut queue, &vec![0; len])?;
        ensure!(fate == Fate::Ended, "a capsule of {len} bytes on an admin queue: {fate:?}");
        let mut host = Host::with(place, LONG)?;
        let fate = self::fate(&mut host.io, &vec![0; len])?;
        ensure!(fate == Fate::Ended, "a capsule of {len} bytes on an I/O queue: {fate:?}");
    }
    Ok(())
}

pub(super) fn random_before_connect(place: &Place, random: &mut Random) -> Result<()> {
    for _ in 0..8 {
        let mut queue = Queue::open(place, 0, 0, Shape::default())?;
        let mut capsule = [0; 64];
        random.fill(&mut capsule);
        fate(&mut queue, &capsule)?;
    }
    Ok(())
}

pub(super) fn random_admin(place: &Place, random: &mut Random) -> Result<()> {
    let mut host = Host::new(place)?;
    for _ in 0..RANDOM_COMMANDS {
        // Asynchronous Event Requests wait for events, so that they have no answer.
        let capsule = random_command(random, |opcode| opcode != AdminOpcode::ASYNC_EVENT_REQUEST.0);
        if fate(&mut host.admin, &capsule).with_context(|| format!("{capsule:02x?}"))? == Fate::Ended {
            host = Host::new(place)?;
        }
    }
    Ok(())
}

pub(super) fn random_io(place: &Place, random: &mut Random) -> Result<()> {
    let mut host = Host::new(place)?;
    for _ in 0..RANDOM_COMMANDS {
        let capsule = random_command(random, |_| true);
        if fate(&mut host.io, &capsule).with_context(|| format!("{capsule:02x?}"))? == Fate::Ended {
            host = Host::new(place)?;
        }
    }
    Ok(())
}

/// Random bytes, more often than not with an opcode and an SGL that mean something.
fn random_command(random: &mut Random, allowed: impl Fn(u8) -> bool) -> [u8; 64] {
    loop {
        let mut capsule = [0; 64];
        random.fill(&mut capsule);
        let choice = random.next();
        if choice & 1 == 0 {
            capsule[0] = [0x01, 0x02, 0x06, 0x09, 0x0a, 0x0c, 0x10, 0x14, 0x18, 0x7f][(choice >> 8) as usize % 10];
            // The namespace that there is.
            capsule[4..8].copy_from_slice(&[1, 0, 0, 0]);
        }
        if choice & 2 == 0 {
            capsule[1] = 0x40;
            capsule[39] = [0x00, 0x01, 0x31, 0x40, 0x4f, 0x5a][(choice >> 16) as usize % 6];
        }
        if allowed(capsule[0]) {
            return capsule;
        }
    }
}

pub(super) fn overflow(place: &Place, _: &mut Random) -> Result<()> {
    let many = u32::from(ENTRIES) * 4;
    let shape = Shape { receives: many, promised: ENTRIES, sends: many, send_size: 64 };
    let mut queue = Queue::open(place, 0, 0, shape)?;
    ensure!(queue.connect(place, 0, CNTLID_DYNAMIC)?.is_ok(), "an admin queue was refused");
    let mut keep_alive = Sqe::new(AdminOpcode::KEEP_ALIVE);
    for cid in 0..many {
        keep_alive.cid = u16::try_from(cid)?.into();
        queue.raw.endpoint().send(cid.into(), &keep_alive.to_bytes());
    }
    // The target may answer all of them, if it is fast enough, or end the connection.
    let mut answers = 0;
    while answers < many {
        match queue.raw.event(PATIENCE)? {
            Some(Event::Received { slot, .. }) => {
                queue.raw.endpoint().release(slot);
                answers += 1;
            }
            Some(_) => {}
            None if queue.raw.has_ended() => return Ok(()),
            None => bail!("{answers} answers to {many} commands, and no end"),
        }
    }
    Ok(())
}

pub(super) fn wrong_connects(place: &Place, _: &mut Random) -> Result<()> {
    let refused = |name: &str, place: &Place, qid: u16, cntlid: u16| -> Result<()> {
        let mut queue = Queue::open(place, qid, if qid == 0 { 0 } else { 1 }, Shape::default())?;
        match queue.connect(place, qid, cntlid) {
            Ok(Ok(cntlid)) => bail!("{name}: controller {cntlid}"),
            Ok(Err(_)) => Ok(()),
            Err(_) if queue.raw.has_ended() => Ok(()),
            Err(error) => Err(error.context(name.to_owned())),
        }
    };
    let nobody = Place { subsystem: "nqn.2026-01.org.example:nobody".parse()?, ..place.clone() };
    refused("a subsystem that there is not", &nobody, 0, CNTLID_DYNAMIC)?;
    refused("a controller that there is not", place, 1, 0x1234)?;
    refused("an admin queue of a controller of one's choice", place, 0, 7)?;

    // The private data said queue 0.
    let mut queue = Queue::open(place, 0, 0, Shape::default())?;
    match queue.connect(place, 1, 1) {
        Ok(Ok(_)) => bail!("an I/O queue on a connection that was asked for as the admin queue's"),
        Ok(Err(_)) => {}
        Err(_) if queue.raw.has_ended() => {}
        Err(error) => return Err(error),
    }

    let mut host = Host::new(place)?;
    if let Ok(Ok(cntlid)) = host.admin.connect(place, 0, CNTLID_DYNAMIC) {
        bail!("a second Connect on an admin queue made controller {cntlid}");
    }
    // Somebody else's queue.
    let mut host = Host::new(place)?;
    let taken = host.cntlid;
    refused("a queue that is in use", place, 1, taken)?;
    host.round_trip(1, 4096).context("after another has asked for its queue")?;

    // A Connect without its data.
    let mut queue = Queue::open(place, 0, 0, Shape::default())?;
    let bare = fabrics(ConnectCmd::new(0, ENTRIES - 1, 0).as_bytes())?;
    match queue.command(bare) {
        Ok(completion) if completion.cqe.status().is_success() => bail!("a Connect without data succeeded"),
        Ok(_) => Ok(()),
        Err(_) if queue.raw.has_ended() => Ok(()),
        Err(error) => Err(error),
    }
}

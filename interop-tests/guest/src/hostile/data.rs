//! Data that is not where the command says, answers that nobody takes, and ends in the middle of a transfer.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvof_kv::{Key, KvCommand, RetrieveOptions, StoreOptions};
use kvof_rdma::{Event, RemoteAccess};
use kvof_spec::opcode::AdminOpcode;
use kvof_spec::sgl::KEYED_LENGTH_MAX;
use kvof_spec::sqe::PSDT_SGL;
use kvof_spec::{SglDescriptor, Sqe};

use super::raw::{PATIENCE, Shape};
use super::session::{ENTRIES, Host, Place, Queue, memory};
use super::{Fate, fate};
use crate::pattern::Random;

/// What is exposed.
const BYTES: u32 = 65_536;
const BIG: u32 = 1 << 20;

fn store(len: u32) -> Result<Sqe> {
    Ok(KvCommand::store(1, &Key::new(b"hostile")?, StoreOptions::empty(), len).to_sqe(SglDescriptor::default()))
}

fn retrieve(len: u32) -> Result<Sqe> {
    Ok(KvCommand::retrieve(1, &Key::new(b"hostile")?, RetrieveOptions::empty(), len).to_sqe(SglDescriptor::default()))
}

/// Stores the value that the others retrieve.
fn prepare(host: &mut Host, len: u32) -> Result<()> {
    let completion = host.io.with_memory(store(len)?, memory(&vec![7; len as usize])?, len, RemoteAccess::Read)?;
    ensure!(completion.cqe.status().is_success(), "Store: {}", completion.cqe.status());
    Ok(())
}

fn with_sgl(sqe: Sqe, sgl1: SglDescriptor) -> [u8; 64] {
    Sqe { sgl1, flags: PSDT_SGL, cid: 0x77.into(), ..sqe }.to_bytes()
}

fn keyed(address: u64, length: u32, key: u32) -> Result<SglDescriptor> {
    SglDescriptor::keyed(address, length, key, false).context("a keyed descriptor has 24 bits of length")
}

/// Every type and sub type of descriptor, on a Store and a Retrieve: an answer, or an end, and never both or neither.
pub(super) fn descriptors(place: &Place, random: &mut Random) -> Result<()> {
    let mut host = Host::new(place)?;
    prepare(&mut host, BYTES)?;
    for identifier in [0x00, 0x01, 0x0f, 0x10, 0x20, 0x30, 0x31, 0x3f, 0x50, 0x5a, 0x60, 0xf0, 0xff] {
        for (sqe, length) in [(store(BYTES)?, BYTES), (retrieve(BYTES)?, u32::MAX), (store(16)?, 16)] {
            let sgl = SglDescriptor {
                address: random.next().into(),
                length: length.into(),
                identifier,
                ..SglDescriptor::default()
            };
            match fate(&mut host.io, &with_sgl(sqe, sgl)).with_context(|| format!("{sgl:?}"))? {
                Fate::Answered(status) => ensure!(!status.is_success(), "{sgl:?} was taken"),
                Fate::Ended => host = Host::new(place)?,
            }
        }
    }
    // PRPs are for PCI Express.
    let mut prp = store(BYTES)?.to_bytes();
    prp[1] = 0;
    if let Fate::Answered(status) = fate(&mut host.io, &prp)? {
        ensure!(!status.is_success(), "a Store by PRPs was taken");
    }
    Ok(())
}

pub(super) fn unknown_key(place: &Place, random: &mut Random) -> Result<()> {
    for sqe in [store(BYTES)?, retrieve(BYTES)?] {
        for len in [BYTES, KEYED_LENGTH_MAX] {
            let mut host = Host::new(place)?;
            prepare(&mut host, BYTES)?;
            let sgl = keyed(random.next() & !0xfff, len, 0x00de_ad00 | (random.next() as u32 & 0xff))?;
            // A length that is not the command's is reason enough to refuse it.
            match fate(&mut host.io, &with_sgl(sqe, sgl))? {
                Fate::Ended => {}
                Fate::Answered(status) if len != BYTES => ensure!(!status.is_success(), "{sgl:?} was taken"),
                Fate::Answered(status) => bail!("{sgl:?}: {status}, where an end was due"),
            }
        }
    }
    // Round the end of the address space.
    let mut host = Host::new(place)?;
    let sgl = keyed(u64::MAX - 10, BYTES, 1)?;
    if let Fate::Answered(status) = fate(&mut host.io, &with_sgl(store(BYTES)?, sgl))? {
        ensure!(!status.is_success(), "data from the end of the address space was taken");
    }
    // Data on an admin queue.
    let mut host = Host::new(place)?;
    let mut identify = Sqe::new(AdminOpcode::IDENTIFY);
    identify.cdw10 = 1.into();
    ended(&mut host.admin, &with_sgl(identify, keyed(0x1000, 4096, 0x0bad_0000)?))
}

pub(super) fn dead_key(place: &Place, _: &mut Random) -> Result<()> {
    for (sqe, access) in [(store(BYTES)?, RemoteAccess::Read), (retrieve(BYTES)?, RemoteAccess::Write)] {
        let mut host = Host::new(place)?;
        prepare(&mut host, BYTES)?;
        let sgl = host.io.expose(memory(&vec![3; BYTES as usize])?, BYTES, access)?;
        // A command takes the binding along; its answer comes before the key dies.
        host.io.raw.endpoint().send(
            0,
            &with_sgl(
                KvCommand::exist(1, &Key::new(b"hostile")?).to_sqe(SglDescriptor::default()),
                SglDescriptor::default(),
            ),
        );
        host.io.answer()?;
        let mut kept = host.io.conceal()?;
        kept.as_mut_slice().fill(3);
        ended(&mut host.io, &with_sgl(sqe, sgl))?;
        ensure!(kept.as_slice().iter().all(|byte| *byte == 3), "memory was written after its key had died");
    }
    Ok(())
}

pub(super) fn wrong_direction(place: &Place, _: &mut Random) -> Result<()> {
    for (sqe, access) in [(store(BYTES)?, RemoteAccess::Write), (retrieve(BYTES)?, RemoteAccess::Read)] {
        let mut host = Host::new(place)?;
        prepare(&mut host, BYTES)?;
        let sgl = host.io.expose(memory(&vec![3; BYTES as usize])?, BYTES, access)?;
        ended(&mut host.io, &with_sgl(sqe, sgl))?;
    }
    Ok(())
}

pub(super) fn beyond(place: &Place, _: &mut Random) -> Result<()> {
    for (sqe, access) in [(store(BYTES)?, RemoteAccess::Read), (retrieve(BYTES)?, RemoteAccess::Write)] {
        let mut host = Host::new(place)?;
        prepare(&mut host, BYTES)?;
        // Half of what the descriptor says is there.
        let sgl = host.io.expose(memory(&vec![3; BYTES as usize / 2])?, BYTES, access)?;
        ended(&mut host.io, &with_sgl(sqe, sgl))?;
    }
    Ok(())
}

fn ended(queue: &mut Queue, capsule: &[u8]) -> Result<()> {
    let fate = fate(queue, capsule)?;
    ensure!(fate == Fate::Ended, "{capsule:02x?}: {fate:?}");
    Ok(())
}

/// The private data promises 32 receives, and there are two, which are not posted again.
pub(super) fn no_receives(place: &Place, random: &mut Random) -> Result<()> {
    let mut host = Host::with(place, Shape { receives: 2, promised: ENTRIES, sends: 32, send_size: 64 })?;
    prepare(&mut host, BYTES)?;
    let sgl = host.io.expose(memory(&vec![0; BYTES as usize])?, BYTES, RemoteAccess::Write)?;
    for _ in 0..u32::from(ENTRIES) - 2 {
        host.io.raw.endpoint().send(0, &with_sgl(retrieve(BYTES)?, sgl));
    }
    let mut slots = Vec::new();
    while slots.len() < 2 {
        match host.io.raw.event(PATIENCE)? {
            Some(Event::Received { slot, .. }) => slots.push(slot),
            Some(_) => {}
            None => bail!("{} answers, where 2 have room", slots.len()),
        }
    }
    let mut other = Host::new(place).context("beside a host that takes no answers")?;
    for _ in 0..5 {
        other.round_trip(random.next(), 5000).context("beside a host that takes no answers")?;
        thread::sleep(Duration::from_millis(100));
    }
    // Half of those that do this come back, the others never do.
    if random.next() & 1 == 0 {
        for slot in slots {
            host.io.raw.endpoint().release(slot);
        }
        host.io.answer().context("after receives were posted again")?;
    }
    Ok(())
}

/// As little room as can be, honestly told: every command is answered in the end.
pub(super) fn one_receive(place: &Place, _: &mut Random) -> Result<()> {
    let mut host = Host::with(place, Shape { receives: 1, promised: 1, sends: 32, send_size: 64 })?;
    let exist = KvCommand::exist(1, &Key::new(b"nowhere")?).to_sqe(SglDescriptor::default());
    let commands = u32::from(ENTRIES) - 2;
    for _ in 0..commands {
        host.io.raw.endpoint().send(0, &exist.to_bytes());
    }
    for number in 0..commands {
        host.io.answer().with_context(|| format!("answer {number} of {commands}"))?;
    }
    Ok(())
}

pub(super) fn end_in_store(place: &Place, random: &mut Random) -> Result<()> {
    end_in(place, random, store(BIG)?, RemoteAccess::Read)
}

pub(super) fn end_in_retrieve(place: &Place, random: &mut Random) -> Result<()> {
    end_in(place, random, retrieve(BIG)?, RemoteAccess::Write)
}

fn end_in(place: &Place, random: &mut Random, sqe: Sqe, access: RemoteAccess) -> Result<()> {
    for round in 0..6 {
        let mut host = Host::new(place)?;
        if access == RemoteAccess::Write {
            prepare(&mut host, BIG)?;
        }
        for _ in 0..4 {
            let sgl = host.io.expose(memory(&vec![5; BIG as usize])?, BIG, access)?;
            host.io.raw.endpoint().send(0, &with_sgl(sqe, sgl));
        }
        // From at once to about the time that it takes.
        thread::sleep(Duration::from_micros(random.next() % 60_000));
        if round % 2 == 0 {
            // With a word, and memory that the device may still write comes back only when it cannot any more.
            host.io.raw.endpoint().disconnect();
            host.io.raw.wait_for_end()?;
        }
        // Else without: the queue pair is gone all at once.
    }
    Ok(())
}

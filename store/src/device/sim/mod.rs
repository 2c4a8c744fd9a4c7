//! Simulated devices: everything that flash and the paths to it do wrong, decided by one seed.
//!
//! # The fault model
//!
//! Time is simulated. Every operation takes a random time, so operations in flight end in any order. A write that was
//! answered is in the device's volatile cache; a flush makes durable what was answered before the flush was asked for, and
//! nothing else.
//!
//! A **crash** is one of two:
//! * [`Crash::Kill`], the end of the process: what was answered stays. Of each write in flight any part arrives.
//! * [`Crash::Power`]: of each write that is not covered by a flush, answered or in flight, any part survives: all, nothing, a
//!   beginning, any pages, or any 512-byte sectors. What survives of one write says nothing about another.
//!
//! **Faults** happen on their own, each with its own probability ([`FaultPlan`]), but only on devices that are *suspects*:
//! * errors: of a write (EIO, ENOSPC; any part of it may have been written), of a flush (any part of what was cached may be
//!   lost for good), of a read (once, or sticky until the page is written again), and reads that end early;
//! * lies: a write that is answered and never done, one that lands at another place of the device, a read that gives the
//!   bytes of another place, and bits that flip at rest;
//! * sudden death: every operation gives an error from then on. The device can come back with what it had
//!   ([`SimDevices::revive`]), which is stale by then, or be replaced by an empty one ([`SimDevices::replace`]);
//! * a hang: every operation of the device takes until its end. A hang loses nothing, so any device may have one.
//!
//! # What the engine promises
//!
//! In a pool of profile k+m, while at most m devices are suspects *at a time*, whatever these do and however often it
//! crashes, no acknowledged change is lost, every Retrieve gives the exact bytes, and every request is answered. "At a time"
//! ends when the pool has healed: what failed was returned or replaced and rebuilt, and a scrub has passed after the last
//! fault. Then others may become suspects.
//!
//! With more than m suspects values may become unavailable ([`kvof_kv::KvError::Unrecovered`]) and the pool may refuse to open, and changes
//! may be lost. But a Retrieve never gives bytes that were not stored under its key, and no request is left without an
//! answer.
//!
//! What is not modelled: a device that lies about flushes and is no suspect. (Drives without power-loss protection that
//! ignore flushes break every promise of durability.)
//!
//! # Rules that it checks
//!
//! Requests must be what direct I/O takes (offset, length and memory at multiples of 4096 bytes, within the device), and no
//! two writes to one page of a device may be in flight at once, since their order would be anybody's. [`SimDevices::violation`]
//! says what broke a rule first.

mod device;
mod rng;

use std::{collections::BTreeMap, io, time::Duration};

use self::device::{Device, Fate};
pub use self::rng::{Rng, derive};
use super::{BlockIo, DeviceDone, DeviceOp, DeviceRequest, Devices, memory::Image};
use crate::format::PAGE;

/// How often each fault happens, in a million operations of a device that may have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultPlan {
    /// A write fails with EIO.
    pub write_error: u32,
    /// A write fails with ENOSPC.
    pub no_space: u32,
    /// A flush fails.
    pub flush_error: u32,
    /// A read fails once.
    pub read_error: u32,
    /// A page that is read becomes unreadable until it is written.
    pub bad_page: u32,
    /// A read ends early.
    pub short_read: u32,
    /// A read gives the bytes of another place.
    pub misread: u32,
    /// Bits flip somewhere.
    pub rot: u32,
    /// A write lands elsewhere.
    pub misdirected: u32,
    /// A write is answered and not done.
    pub lost: u32,
    /// The device dies.
    pub death: u32,
    /// The device hangs for a while. Happens to all devices.
    pub hang: u32,
}

impl FaultPlan {
    /// No faults.
    pub const NONE: Self = Self {
        write_error: 0,
        no_space: 0,
        flush_error: 0,
        read_error: 0,
        bad_page: 0,
        short_read: 0,
        misread: 0,
        rot: 0,
        misdirected: 0,
        lost: 0,
        death: 0,
        hang: 0,
    };
    /// Names of the faults, as [`Self::set`] takes them.
    pub const NAMES: [&str; 12] = [
        "write-error",
        "no-space",
        "flush-error",
        "read-error",
        "bad-page",
        "short-read",
        "misread",
        "rot",
        "misdirected",
        "lost",
        "death",
        "hang",
    ];

    /// Sets how often the fault of this name happens; false: there is none of this name.
    #[must_use]
    pub fn set(&mut self, name: &str, per_million: u32) -> bool {
        let field = match name {
            "write-error" => &mut self.write_error,
            "no-space" => &mut self.no_space,
            "flush-error" => &mut self.flush_error,
            "read-error" => &mut self.read_error,
            "bad-page" => &mut self.bad_page,
            "short-read" => &mut self.short_read,
            "misread" => &mut self.misread,
            "rot" => &mut self.rot,
            "misdirected" => &mut self.misdirected,
            "lost" => &mut self.lost,
            "death" => &mut self.death,
            "hang" => &mut self.hang,
            _ => return false,
        };
        *field = per_million;
        true
    }
}

/// How everything ends at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process ends.
    Kill,
    /// Power is lost.
    Power,
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SimStats {
    /// Operations that ended.
    pub ops: u64,
    /// Faults that happened: one for each time.
    pub faults: u64,
}

#[derive(Debug)]
struct Flight {
    shard: u16,
    request: DeviceRequest,
    fate: Fate,
    /// Of a flush: what was answered before it was asked for.
    mark: u64,
}

/// The devices of a pool, simulated.
#[derive(Debug)]
pub struct SimDevices {
    rng: Rng,
    now: Duration,
    devices: Vec<Device>,
    plan: FaultPlan,
    flights: BTreeMap<(Duration, u64), Flight>,
    /// Numbers requests and answered writes.
    order: u64,
    /// Blocking operations until power fails.
    power_left: Option<u64>,
    trace: u64,
    stats: SimStats,
    violation: Option<String>,
}

/// EIO.
const EIO: i32 = 5;
/// ENODEV.
const ENODEV: i32 = 19;
/// ENOSPC.
const ENOSPC: i32 = 28;

impl SimDevices {
    /// `members` empty devices of `len` bytes; the seed decides all that is random.
    #[must_use]
    pub fn new(seed: u64, members: u16, len: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            now: Duration::ZERO,
            devices: vec![Device::new(len); members.into()],
            plan: FaultPlan::NONE,
            flights: BTreeMap::new(),
            order: 0,
            power_left: None,
            trace: 0,
            stats: SimStats::default(),
            violation: None,
        }
    }

    /// From now on faults happen as often as `plan` says, on the suspects.
    pub fn set_faults(&mut self, plan: FaultPlan, suspects: &[u16]) {
        self.plan = plan;
        for (member, device) in (0..).zip(&mut self.devices) {
            device.suspect = suspects.contains(&member);
        }
    }

    /// Whether a device answers.
    #[must_use]
    pub fn is_alive(&self, member: u16) -> bool {
        self.device(member).is_some_and(|device| device.alive)
    }

    /// Every operation of the device gives an error from now on.
    pub fn kill(&mut self, member: u16) {
        self.note(&[1, member.into()]);
        if let Some(device) = self.device_mut(member) {
            device.alive = false;
        }
    }

    /// The device answers again, with what it had.
    pub fn revive(&mut self, member: u16) {
        self.note(&[2, member.into()]);
        if let Some(device) = self.device_mut(member) {
            device.alive = true;
        }
    }

    /// An empty device takes the place.
    pub fn replace(&mut self, member: u16) {
        self.note(&[3, member.into()]);
        if let Some(device) = self.device_mut(member) {
            let mut empty = Device::new(device.image.len());
            empty.suspect = device.suspect;
            *device = empty;
        }
    }

    /// The device answers nothing until `time` has passed.
    pub fn hang(&mut self, member: u16, time: Duration) {
        let until = self.now + time;
        self.note(&[4, member.into(), time.as_nanos() as u64]);
        let Some(device) = self.device_mut(member) else { return };
        device.hung_until = device.hung_until.max(until);
        let flights = std::mem::take(&mut self.flights);
        for ((at, order), flight) in flights {
            let at = if flight.request.member == member { at.max(until) } else { at };
            self.flights.insert((at, order), flight);
        }
    }

    /// Flips some bits of the device, where something was written.
    pub fn rot(&mut self, member: u16) {
        let mut rng = self.rng.clone();
        if let Some(device) = self.device_mut(member) {
            device.rot(&mut rng);
        }
        self.rng = rng;
        self.note(&[5, member.into()]);
    }

    /// What the device holds, as a read sees it.
    #[must_use]
    pub fn image(&self, member: u16) -> Option<&Image> {
        self.device(member).map(|device| &device.image)
    }

    /// Blocking operations fail for want of power after `ops` more of them, until [`Self::crash`].
    pub const fn power_fails_after(&mut self, ops: u64) {
        self.power_left = Some(ops);
    }

    /// Takes [`Self::power_fails_after`] back.
    pub const fn power_holds(&mut self) {
        self.power_left = None;
    }

    /// Whether power failed.
    #[must_use]
    pub fn is_powerless(&self) -> bool {
        self.power_left == Some(0)
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Lets time pass, to the end of the first request in flight at most.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.now = self.flights.keys().next().map_or(until, |(at, _)| until.min(*at)).max(self.now);
    }

    /// Everything in flight is gone, and of what is not safe any part. The devices can be used again at once.
    pub fn crash(&mut self, kind: Crash) {
        let mut rng = Rng::new(self.rng.next());
        self.crash_with(kind, &mut rng);
        self.note(&[6, kind as u64]);
    }

    /// What a crash now would leave, by the chances of `seed`; this pool goes on untouched. The copy has no faults.
    #[must_use]
    pub fn fork(&self, kind: Crash, seed: u64) -> Self {
        let flights = self.flights.iter().filter_map(|(key, flight)| {
            let DeviceOp::Write { offset, bufs } = &flight.request.op else { return None };
            let op = DeviceOp::Write { offset: *offset, bufs: bufs.clone() };
            let request = DeviceRequest { token: 0, member: flight.request.member, op };
            Some((*key, Flight { shard: 0, request, fate: flight.fate, mark: 0 }))
        });
        let mut copy = Self {
            rng: Rng::new(derive(seed, 1)),
            now: self.now,
            devices: self.devices.clone(),
            plan: FaultPlan::NONE,
            flights: flights.collect(),
            order: self.order,
            power_left: None,
            trace: 0,
            stats: SimStats::default(),
            violation: None,
        };
        copy.crash_with(kind, &mut Rng::new(seed));
        copy
    }

    /// A number that all that happened decides: two runs with the same one were the same.
    #[must_use]
    pub const fn trace(&self) -> u64 {
        self.trace
    }

    /// Adds to [`Self::trace`].
    pub fn note(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.trace = derive(self.trace, *number);
        }
    }

    /// Counters.
    #[must_use]
    pub const fn stats(&self) -> SimStats {
        self.stats
    }

    /// The first request that broke a rule.
    #[must_use]
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    fn device(&self, member: u16) -> Option<&Device> {
        self.devices.get(usize::from(member))
    }

    fn device_mut(&mut self, member: u16) -> Option<&mut Device> {
        self.devices.get_mut(usize::from(member))
    }

    fn crash_with(&mut self, kind: Crash, rng: &mut Rng) {
        for (_, flight) in std::mem::take(&mut self.flights) {
            self.order += 1;
            let order = self.order;
            if let DeviceOp::Write { offset, bufs } = flight.request.op
                && let Some(device) = self.device_mut(flight.request.member).filter(|device| device.alive)
            {
                device.tear(offset, &bufs, flight.fate, order, rng);
            }
        }
        for device in &mut self.devices {
            device.hung_until = Duration::ZERO;
            if kind == Crash::Power {
                device.lose_power(rng);
            }
        }
        self.power_left = None;
    }

    /// What will become of an operation, and how long it takes.
    fn fate(&mut self, member: u16, write: Option<bool>, bytes: usize) -> (Fate, Duration) {
        let Self { rng, plan, now, stats, .. } = self;
        // Most are quick; one in a hundred waits behind something.
        let wait = if rng.one_in(100) { rng.below(20_000_000) } else { rng.between(10_000, 200_000) };
        let mut time = Duration::from_nanos(wait + bytes as u64 / 4);
        let Some(device) = self.devices.get_mut(usize::from(member)) else { return (Fate::Error(ENODEV), time) };
        if rng.per_million(plan.hang) {
            device.hung_until = *now + Duration::from_millis(rng.between(1, 3000));
        }
        time += device.hung_until.saturating_sub(*now);
        if !device.suspect {
            return (Fate::Good, time);
        }
        if rng.per_million(plan.death) {
            device.alive = false;
            stats.faults += 1;
        }
        if rng.per_million(plan.rot) {
            device.rot(rng);
            stats.faults += 1;
        }
        let elsewhere = rng.below(device.image.len().saturating_sub(bytes as u64) / PAGE as u64) * PAGE as u64;
        let fates: &[(u32, Fate)] = match write {
            Some(true) => &[
                (plan.write_error, Fate::Error(EIO)),
                (plan.no_space, Fate::Error(ENOSPC)),
                (plan.lost, Fate::Lost),
                (plan.misdirected, Fate::Elsewhere(elsewhere)),
            ],
            Some(false) => &[
                (plan.read_error, Fate::Error(EIO)),
                (plan.bad_page, Fate::Bad),
                (plan.short_read, Fate::Short),
                (plan.misread, Fate::Elsewhere(elsewhere)),
            ],
            None => &[(plan.flush_error, Fate::Error(EIO))],
        };
        let fate = fates.iter().find(|(often, _)| rng.per_million(*often)).map_or(Fate::Good, |(_, fate)| *fate);
        stats.faults += u64::from(fate != Fate::Good);
        (fate, time)
    }

    fn check(&mut self, request: &DeviceRequest) {
        let Some(device) = self.device(request.member) else {
            return self.violated(format!("there is no device {}: {request:?}", request.member));
        };
        let page = PAGE as u64;
        let (offset, len, aligned) = match &request.op {
            DeviceOp::Read { offset, buf } => (*offset, buf.len() as u64, buf.as_ptr().addr().is_multiple_of(PAGE)),
            DeviceOp::Write { offset, bufs } => {
                let aligned = |buf: &kvof_io::SharedBuf| {
                    buf.as_ptr().addr().is_multiple_of(PAGE) && buf.len().is_multiple_of(PAGE)
                };
                (*offset, bufs.iter().map(|buf| buf.len() as u64).sum(), bufs.iter().all(aligned))
            }
            DeviceOp::Flush => return,
        };
        let within = offset.checked_add(len).is_some_and(|end| end <= device.image.len());
        if !aligned || !within || len == 0 || !offset.is_multiple_of(page) || !len.is_multiple_of(page) {
            return self.violated(format!("not what direct I/O takes: {len} bytes, aligned: {aligned}: {request:?}"));
        }
        if !matches!(request.op, DeviceOp::Write { .. }) {
            return;
        }
        let other = self.flights.values().map(|flight| &flight.request).find(|other| match &other.op {
            DeviceOp::Write { offset: start, bufs } if other.member == request.member => {
                let end = start + bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
                *start < offset + len && offset < end
            }
            _ => false,
        });
        if let Some(other) = other {
            let text = format!("two writes to one place of one device at once: {other:?} and {request:?}");
            self.violated(text);
        }
    }

    fn violated(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    fn complete(&mut self, flight: Flight) -> (u16, u64, DeviceDone) {
        let Flight { shard, request: DeviceRequest { token, member, op }, fate, mark } = flight;
        self.order += 1;
        self.stats.ops += 1;
        let order = self.order;
        let mut rng = Rng::new(self.rng.next());
        let absent = || Err(io::Error::from_raw_os_error(ENODEV));
        let device = self.device_mut(member).filter(|device| device.alive);
        let (done, kind, offset, failed) = match op {
            DeviceOp::Read { offset, mut buf } => {
                let result = device.map_or_else(absent, |device| device.read(offset, &mut buf, fate, &mut rng));
                let failed = result.is_err();
                (DeviceDone::Read { buf, result }, 0, offset, failed)
            }
            DeviceOp::Write { offset, bufs } => {
                let result = device.map_or_else(absent, |device| device.write(offset, &bufs, fate, order, &mut rng));
                let failed = result.is_err();
                (DeviceDone::Write(result), 1, offset, failed)
            }
            DeviceOp::Flush => {
                let result = device.map_or_else(absent, |device| device.flush(mark, fate, &mut rng));
                let failed = result.is_err();
                (DeviceDone::Flush(result), 2, 0, failed)
            }
        };
        self.note(&[7, kind, member.into(), offset, failed.into(), self.now.as_nanos() as u64]);
        (shard, token, done)
    }

    /// A blocking operation begins: an error if there is no power or no device.
    fn begin(&mut self, member: u16, write: Option<bool>, bytes: usize) -> io::Result<Fate> {
        self.order += 1;
        self.stats.ops += 1;
        if let Some(left) = &mut self.power_left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(io::Error::other("power has failed"));
            }
        }
        let (fate, time) = self.fate(member, write, bytes);
        self.now += time;
        if !self.is_alive(member) {
            return Err(io::Error::from_raw_os_error(ENODEV));
        }
        self.note(&[8, member.into(), bytes as u64]);
        Ok(fate)
    }
}

impl Devices for SimDevices {
    fn start(&mut self, shard: u16, request: DeviceRequest) {
        self.check(&request);
        let (write, bytes) = match &request.op {
            DeviceOp::Read { buf, .. } => (Some(false), buf.len()),
            DeviceOp::Write { bufs, .. } => (Some(true), bufs.iter().map(|buf| buf.len()).sum()),
            DeviceOp::Flush => (None, 0),
        };
        let (fate, time) = self.fate(request.member, write, bytes);
        self.order += 1;
        let (order, at) = (self.order, self.now + time);
        self.flights.insert((at, order), Flight { shard, request, fate, mark: order });
    }

    fn finish(&mut self, wait: Duration) -> io::Result<Option<(u16, u64, DeviceDone)>> {
        let limit = self.now + wait;
        match self.flights.first_key_value() {
            Some(((at, _), _)) if *at <= limit => {
                self.now = self.now.max(*at);
                Ok(self.flights.pop_first().map(|(_, flight)| self.complete(flight)))
            }
            _ => {
                self.now = limit;
                Ok(None)
            }
        }
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn block_io(&mut self) -> &mut dyn BlockIo {
        self
    }
}

impl BlockIo for SimDevices {
    fn members(&self) -> u16 {
        self.devices.len() as u16
    }

    fn is_present(&self, member: u16) -> bool {
        self.is_alive(member)
    }

    fn read(&mut self, member: u16, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let fate = self.begin(member, Some(false), buf.len())?;
        let mut rng = Rng::new(self.rng.next());
        self.device_mut(member).map_or(Ok(()), |device| device.read(offset, buf, fate, &mut rng))
    }

    fn write(&mut self, member: u16, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let had_power = !self.is_powerless();
        let fate = self.begin(member, Some(true), bytes.len());
        let mut rng = Rng::new(self.rng.next());
        let order = self.order;
        let pieces = [kvof_io::SharedBuf::from_vec(bytes.to_vec())];
        if had_power
            && self.is_powerless()
            && let Some(device) = self.device_mut(member).filter(|device| device.alive)
        {
            // The write during which power failed.
            device.tear(offset, &pieces, Fate::Good, order, &mut rng);
        }
        let fate = fate?;
        self.device_mut(member).map_or(Ok(()), |device| device.write(offset, &pieces, fate, order, &mut rng))
    }

    fn flush(&mut self, member: u16) -> io::Result<()> {
        let fate = self.begin(member, None, 0)?;
        let mut rng = Rng::new(self.rng.next());
        let mark = self.order;
        self.device_mut(member).map_or(Ok(()), |device| device.flush(mark, fate, &mut rng))
    }
}

#[cfg(test)]
mod tests;

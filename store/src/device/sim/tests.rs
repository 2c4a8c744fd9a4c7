use kvof_io::{Pool, PoolConfig, SharedBuf};

use super::*;

const LEN: u64 = 4 << 20;
const FIRST: u64 = 2 << 20;

struct Rig {
    devices: SimDevices,
    pool: Pool,
    token: u64,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let pool = Pool::new(PoolConfig { limit: 16 << 20, shards: 1 });
        Self { devices: SimDevices::new(seed, 3, LEN), pool, token: 0 }
    }

    fn buf(&self, pages: usize, fill: u8) -> kvof_io::PoolBuf {
        let mut buf = self.pool.alloc(pages * PAGE).unwrap();
        buf.fill(fill);
        buf
    }

    fn start(&mut self, member: u16, op: DeviceOp) -> u64 {
        self.token += 1;
        self.devices.start(0, DeviceRequest { token: self.token, member, op });
        self.token
    }

    fn write(&mut self, member: u16, page: u64, fill: u8) -> u64 {
        let bufs = vec![SharedBuf::from(self.buf(2, fill)), SharedBuf::from(self.buf(2, fill))];
        self.start(member, DeviceOp::Write { offset: FIRST + page * PAGE as u64, bufs })
    }

    fn finish(&mut self) -> Option<(u64, DeviceDone)> {
        self.devices.finish(Duration::from_secs(10)).unwrap().map(|(_, token, done)| (token, done))
    }

    fn finish_all(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.finish()).map(|(token, _)| token).collect()
    }

    /// How many sectors of the four pages hold `fill`; the others must hold `other`.
    fn sectors(&self, member: u16, page: u64, fill: u8, other: u8) -> usize {
        let mut bytes = vec![0; 4 * PAGE];
        self.devices.image(member).unwrap().read(FIRST + page * PAGE as u64, &mut bytes).unwrap();
        let sectors = bytes.chunks(512).map(|sector| {
            assert!(sector.iter().all(|b| *b == sector[0]) && [fill, other].contains(&sector[0]));
            usize::from(sector[0] == fill)
        });
        sectors.sum()
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut rig = Rig::new(seed);
        rig.devices.set_faults(FaultPlan { write_error: 200_000, rot: 100_000, ..FaultPlan::NONE }, &[0, 1]);
        for n in 0..50 {
            rig.write((n % 3) as u16, n * 4, n as u8);
        }
        let order = rig.finish_all();
        rig.devices.crash(Crash::Power);
        (rig.devices.trace(), order, rig.devices.stats())
    };
    assert_eq!(trace(1), trace(1));
    let (one, other) = (trace(1), trace(2));
    assert!(one.0 != other.0 && one.1 != other.1);
    assert!(one.1 != (1..=50).collect::<Vec<_>>(), "operations in flight end in any order");
    assert!(one.2.faults > 0);
}

#[test]
fn only_what_was_flushed_survives_a_power_cut_for_certain() {
    let mut survived = [0; 3];
    for seed in 0..40 {
        let mut rig = Rig::new(seed);
        rig.write(0, 0, 1);
        rig.finish_all();
        rig.start(0, DeviceOp::Flush);
        rig.finish_all();
        rig.write(0, 4, 2);
        rig.finish_all();
        // A flush that was asked for before the write ended does not cover it.
        rig.start(0, DeviceOp::Flush);
        rig.write(0, 8, 3);
        rig.write(0, 12, 4);
        rig.devices.hang(0, Duration::from_secs(1));
        let fork = rig.devices.fork(Crash::Kill, seed);
        let killed = Rig { devices: fork, pool: rig.pool.clone(), token: 0 };
        assert_eq!(
            killed.sectors(0, 0, 1, 0) + killed.sectors(0, 4, 2, 0),
            64,
            "a kill loses nothing that was answered"
        );
        rig.devices.crash(Crash::Power);
        assert!(rig.finish().is_none());
        assert_eq!(rig.sectors(0, 0, 1, 0), 32);
        survived[0] += rig.sectors(0, 4, 2, 0);
        survived[1] += rig.sectors(0, 8, 3, 0);
        survived[2] += rig.sectors(0, 12, 4, 0);
    }
    assert!(survived.iter().all(|n| (200..1100).contains(n)), "some of it: {survived:?} of 1280");
}

#[test]
fn a_flush_covers_what_was_answered_before_it_was_asked_for() {
    for seed in 0..40 {
        let mut rig = Rig::new(seed);
        rig.write(0, 0, 1);
        rig.finish_all();
        let flush = rig.start(0, DeviceOp::Flush);
        let late = rig.write(0, 4, 2);
        rig.finish_all();
        assert!(flush < late);
        rig.devices.crash(Crash::Power);
        assert_eq!(rig.sectors(0, 0, 1, 0), 32);
    }
    let lost = (0..40).filter(|seed| {
        let mut rig = Rig::new(*seed);
        rig.start(0, DeviceOp::Flush);
        rig.write(0, 4, 2);
        rig.finish_all();
        rig.devices.crash(Crash::Power);
        rig.sectors(0, 4, 2, 0) < 32
    });
    assert!(lost.count() > 10);
}

#[test]
fn faults_do_what_they_say_and_only_to_suspects() {
    let certain = 1_000_000;
    let run = |plan: FaultPlan, suspect: bool| {
        let mut rig = Rig::new(5);
        rig.write(1, 0, 7);
        rig.finish_all();
        rig.devices.set_faults(plan, if suspect { &[1] } else { &[0, 2] });
        rig.write(1, 4, 8);
        let written = matches!(rig.finish(), Some((_, DeviceDone::Write(Ok(())))));
        let buf = rig.buf(4, 0xaa).into();
        rig.start(1, DeviceOp::Read { offset: FIRST, buf });
        let Some((_, DeviceDone::Read { buf, result })) = rig.finish() else { panic!("no read") };
        let read = result.map(|()| buf.iter().all(|b| *b == 7)).map_err(|error| error.kind());
        rig.start(1, DeviceOp::Flush);
        let flushed = matches!(rig.finish(), Some((_, DeviceDone::Flush(Ok(())))));
        (written, read, flushed, rig)
    };
    for name in FaultPlan::NAMES {
        let mut plan = FaultPlan::NONE;
        assert!(plan.set(name, certain));
        let (written, read, flushed, rig) = run(plan, true);
        let arrived = || rig.sectors(1, 4, 8, 0);
        match name {
            "write-error" | "no-space" => assert!(!written && read == Ok(true) && flushed),
            "flush-error" => assert!(written && read == Ok(true) && !flushed),
            "read-error" | "bad-page" => assert!(written && read.is_err() && flushed),
            "short-read" => assert!(written && read == Err(io::ErrorKind::UnexpectedEof)),
            "misread" => assert!(written && read == Ok(false)),
            "rot" => assert_eq!(rig.devices.stats().faults, 3),
            "misdirected" | "lost" => assert!(written && arrived() == 0 && flushed),
            "death" => assert!(!written && read.is_err() && !flushed && !rig.devices.is_alive(1)),
            "hang" => assert!(written && read == Ok(true) && rig.devices.now() > Duration::from_millis(5)),
            _ => panic!("{name}"),
        }
        let (written, read, flushed, _) = run(plan, false);
        assert!(written && read == Ok(true) && flushed, "{name} on a device that is no suspect");
    }
    assert!(!FaultPlan::NONE.clone().set("fire", 1));
}

#[test]
fn a_bad_page_is_good_again_when_it_was_written() {
    let mut rig = Rig::new(1);
    rig.devices.set_faults(FaultPlan { bad_page: 1_000_000, ..FaultPlan::NONE }, &[0]);
    let mut buf = vec![0; 4 * PAGE];
    assert!(BlockIo::read(&mut rig.devices, 0, FIRST, &mut buf).is_err());
    rig.devices.set_faults(FaultPlan::NONE, &[]);
    assert!(BlockIo::read(&mut rig.devices, 0, FIRST, &mut buf).is_err(), "it stays bad");
    rig.write(0, 0, 1);
    rig.finish_all();
    BlockIo::read(&mut rig.devices, 0, FIRST, &mut buf).unwrap();
}

#[test]
fn a_device_that_came_back_has_what_it_had() {
    let mut rig = Rig::new(3);
    rig.write(2, 0, 1);
    rig.finish_all();
    rig.devices.kill(2);
    rig.write(2, 0, 2);
    assert!(matches!(rig.finish(), Some((_, DeviceDone::Write(Err(_))))));
    assert!(!rig.devices.is_present(2));
    rig.devices.revive(2);
    assert_eq!(rig.sectors(2, 0, 1, 0), 32);
    rig.devices.replace(2);
    assert_eq!(rig.sectors(2, 0, 1, 0), 0);
}

#[test]
fn power_can_fail_during_blocking_operations() {
    let mut rig = Rig::new(4);
    rig.devices.power_fails_after(3);
    let mut page = [0; PAGE];
    assert!(BlockIo::read(&mut rig.devices, 0, 0, &mut page).is_ok());
    assert!(BlockIo::write(&mut rig.devices, 1, 0, &page).is_ok() && !rig.devices.is_powerless());
    assert!(BlockIo::flush(&mut rig.devices, 1).is_err() && rig.devices.is_powerless());
    assert!(BlockIo::read(&mut rig.devices, 0, 0, &mut page).is_err());
    rig.devices.crash(Crash::Power);
    assert!(BlockIo::read(&mut rig.devices, 0, 0, &mut page).is_ok());
}

#[test]
fn rules_are_watched() {
    let mut rig = Rig::new(1);
    rig.write(0, 0, 1);
    rig.write(0, 4, 1);
    rig.write(1, 2, 1);
    assert_eq!(rig.devices.violation(), None);
    rig.write(0, 3, 2);
    assert!(rig.devices.violation().unwrap().contains("at once"));
    for (offset, len, skew) in [(512, PAGE, 0), (0, 512, 0), (0, PAGE, 512), (LEN, PAGE, 0)] {
        let mut rig = Rig::new(1);
        let buf = SharedBuf::from(rig.buf(2, 0)).slice(skew..skew + len).unwrap();
        rig.start(0, DeviceOp::Write { offset, bufs: vec![buf] });
        assert!(rig.devices.violation().unwrap().contains("direct I/O"), "{offset} {len} {skew}");
    }
}

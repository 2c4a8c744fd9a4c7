//! The event loop against a real kernel, with every kind of ring that the kernel has.

use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvof_io::{
    DiskFile, DiskOpenOptions, Event, EventKind, EventLoop, EventLoopConfig, Pool, PoolConfig, RejectReason, RingSetup,
    SharedBuf, recv_vectored,
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);
const SETUPS: [RingSetup; 3] = [RingSetup::Deferred, RingSetup::Cooperative, RingSetup::Plain];

fn event_loop(setup: RingSetup) -> EventLoop {
    EventLoop::new(EventLoopConfig { setup, ..Default::default() }).unwrap()
}

/// The next event, which must come.
fn next(lp: &mut EventLoop) -> Event {
    let mut out = Vec::new();
    lp.turn(Some(LONG), &mut out).unwrap();
    assert_eq!(out.len(), 1, "{out:?}");
    out.pop().unwrap()
}

/// Turns for a while; what happened.
fn turns(lp: &mut EventLoop, time: Duration) -> Vec<Event> {
    let end = Instant::now() + time;
    let mut out = Vec::new();
    while let left = end.saturating_duration_since(Instant::now())
        && !left.is_zero()
    {
        lp.turn(Some(left), &mut out).unwrap();
    }
    out
}

fn quiet(lp: &mut EventLoop) {
    let events = turns(lp, Duration::from_millis(30));
    assert!(events.is_empty(), "{events:?}");
}

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    (a, b)
}

fn receive_all(socket: &UnixStream) -> usize {
    let mut total = 0;
    let mut bytes = [0u8; 4096];
    while let Ok(n @ 1..) = recv_vectored(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)]) {
        total += n;
    }
    total
}

fn disk(dir: &Path, direct: bool, size: u64) -> Arc<DiskFile> {
    let options = DiskOpenOptions { create: true, size: Some(size), direct, read_only: false };
    Arc::new(DiskFile::open(dir.join("disk"), options).unwrap())
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed).wrapping_mul(2_654_435_761) >> 21) as u8).collect()
}

#[test]
fn readable_is_reported_each_time_data_arrives() {
    for setup in SETUPS {
        let mut lp = event_loop(setup);
        let (mine, mut theirs) = pair();
        theirs.write_all(b"early").unwrap();
        lp.watch_readable(mine.as_fd(), 77).unwrap();
        for round in 0..50 {
            let event = next(&mut lp);
            assert_eq!(event.token, 77);
            assert!(matches!(event.kind, EventKind::Readable), "{event:?}");
            assert!(receive_all(&mine) > 0, "round {round}");
            // Writing may be seen more than once, never after all is read and reported.
            turns(&mut lp, Duration::from_millis(1));
            receive_all(&mine);
            theirs.write_all(b"more").unwrap();
        }
        receive_all(&mine);
        turns(&mut lp, Duration::from_millis(5));
        drop(theirs);
        assert_eq!(next(&mut lp).token, 77, "the end of the stream is news");
        assert_eq!(recv_vectored(mine.as_fd(), &mut [IoSliceMut::new(&mut [0])]).unwrap(), 0);
    }
}

#[test]
fn one_report_a_turn_however_often_it_happened() {
    for setup in SETUPS {
        let mut lp = event_loop(setup);
        let (mine, mut theirs) = pair();
        lp.watch_readable(mine.as_fd(), 5).unwrap();
        quiet(&mut lp);
        for _ in 0..20 {
            theirs.write_all(b"x").unwrap();
        }
        next(&mut lp);
        assert_eq!(receive_all(&mine), 20);
    }
}

#[test]
fn a_loop_that_only_looks_sees_everything() {
    for setup in SETUPS {
        let mut lp = event_loop(setup);
        let (mine, theirs) = pair();
        lp.watch_readable(mine.as_fd(), 5).unwrap();
        let writer = std::thread::spawn(move || {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(1));
                (&theirs).write_all(b"x").unwrap();
            }
            theirs
        });
        let start = Instant::now();
        let mut received = 0;
        while received < 20 {
            let mut out = Vec::new();
            lp.turn(Some(Duration::ZERO), &mut out).unwrap();
            for event in out {
                assert!(matches!(event, Event { token: 5, kind: EventKind::Readable }), "{event:?}");
                received += receive_all(&mine);
            }
            assert!(start.elapsed() < LONG, "{received}");
        }
        writer.join().unwrap();
    }
}

#[test]
fn writable_is_reported_once_when_there_is_room() {
    for setup in SETUPS {
        let mut lp = event_loop(setup);
        let (mut mine, mut theirs) = pair();
        lp.watch_writable_once(mine.as_fd(), 1).unwrap();
        assert!(matches!(next(&mut lp), Event { token: 1, kind: EventKind::Writable }));
        quiet(&mut lp);
        let mut queued = 0;
        while let Ok(n) = mine.write(&[0; 65536]) {
            queued += n;
        }
        lp.watch_writable_once(mine.as_fd(), 2).unwrap();
        quiet(&mut lp);
        theirs.read_exact(&mut vec![0; queued]).unwrap();
        assert!(matches!(next(&mut lp), Event { token: 2, kind: EventKind::Writable }));
        quiet(&mut lp);
    }
}

#[test]
fn an_ended_watch_says_nothing_even_when_its_number_is_reused() {
    for setup in SETUPS {
        let mut lp = event_loop(setup);
        let mut reused = 0;
        for round in 0..200u64 {
            let (mine, mut theirs) = pair();
            let id = lp.watch_readable(mine.as_fd(), round).unwrap();
            let writable = lp.watch_writable_once(mine.as_fd(), round).unwrap();
            if round % 3 != 0 {
                // The kernel has the watch, and news of it waits in the ring.
                let mut seen = Vec::new();
                lp.turn(Some(Duration::ZERO), &mut seen).unwrap();
                assert!(seen.iter().all(|e| e.token == round), "{seen:?}");
            }
            theirs.write_all(b"stale").unwrap();
            let number = mine.as_raw_fd();
            lp.unwatch(id);
            lp.unwatch(writable);
            lp.unwatch(id);
            drop(mine);
            let (new, mut peer) = pair();
            reused += usize::from(new.as_raw_fd() == number);
            let token = 1_000_000 + round;
            let id = lp.watch_readable(new.as_fd(), token).unwrap();
            peer.write_all(b"fresh").unwrap();
            let event = next(&mut lp);
            assert_eq!(event.token, token, "{event:?}");
            receive_all(&new);
            lp.unwatch(id);
        }
        assert!(reused > 100, "the test needs reused descriptor numbers, and saw {reused}");
        quiet(&mut lp);
    }
}

#[test]
fn an_old_name_does_not_end_a_new_watch() {
    let mut lp = event_loop(RingSetup::Deferred);
    let (mine, mut theirs) = pair();
    let old = lp.watch_readable(mine.as_fd(), 1).unwrap();
    lp.unwatch(old);
    quiet(&mut lp);
    let new = lp.watch_readable(mine.as_fd(), 2).unwrap();
    assert_ne!(old, new);
    lp.unwatch(old);
    theirs.write_all(b"x").unwrap();
    assert_eq!(next(&mut lp).token, 2);
}

#[test]
fn unwatch_then_close_reaches_the_peer() {
    for setup in SETUPS {
        let mut lp = event_loop(setup);
        let (mine, mut theirs) = pair();
        theirs.set_read_timeout(Some(LONG)).unwrap();
        let id = lp.watch_readable(mine.as_fd(), 1).unwrap();
        quiet(&mut lp);
        lp.unwatch(id);
        drop(mine);
        turns(&mut lp, Duration::from_millis(5));
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn dropping_the_loop_lets_go_of_sockets() {
    let (mine, mut theirs) = pair();
    theirs.set_read_timeout(Some(LONG)).unwrap();
    let mut lp = event_loop(RingSetup::Deferred);
    lp.watch_readable(mine.as_fd(), 1).unwrap();
    quiet(&mut lp);
    drop(mine);
    drop(lp);
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_cannot_be_watched_is_reported() {
    let mut lp = event_loop(RingSetup::Deferred);
    let dir = tempfile::tempdir().unwrap();
    // A descriptor that only names a file cannot be polled.
    let file = rustix::fs::open(dir.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let id = lp.watch_readable(file.as_fd(), 9).unwrap();
    let event = next(&mut lp);
    assert!(matches!(event, Event { token: 9, kind: EventKind::WatchFailed { .. } }), "{event:?}");
    lp.unwatch(id);
    quiet(&mut lp);
}

#[test]
fn many_sockets_at_once() {
    // More watches than the submission queue has room for.
    let mut lp = EventLoop::new(EventLoopConfig { submission_entries: 8, ..Default::default() }).unwrap();
    let mut pairs: Vec<_> = (0..100).map(|_| pair()).collect();
    for (token, (mine, _)) in pairs.iter().enumerate() {
        lp.watch_readable(mine.as_fd(), token as u64).unwrap();
    }
    for (_, theirs) in &mut pairs {
        theirs.write_all(b"hi").unwrap();
    }
    let mut seen = [false; 100];
    let start = Instant::now();
    while seen.contains(&false) {
        assert!(start.elapsed() < LONG, "{seen:?}");
        let mut out = Vec::new();
        lp.turn(Some(SECOND), &mut out).unwrap();
        for event in out {
            seen[event.token as usize] = true;
        }
    }
}

#[test]
fn an_overflowing_completion_queue_loses_nothing() {
    const WRITERS: usize = 9000;
    for setup in SETUPS {
        // All watches fire between two turns: more completions than the queue's 4096.
        let mut lp = EventLoop::new(EventLoopConfig { setup, submission_entries: 1024, max_disk_ops: 16 }).unwrap();
        let (mut mine, mut theirs) = pair();
        let mut queued = 0;
        while let Ok(n) = mine.write(&[0; 65536]) {
            queued += n;
        }
        lp.watch_readable(mine.as_fd(), 3).unwrap();
        for token in 0..WRITERS {
            lp.watch_writable_once(mine.as_fd(), 1000 + token as u64).unwrap();
        }
        quiet(&mut lp);
        theirs.read_exact(&mut vec![0; queued]).unwrap();
        theirs.write_all(b"x").unwrap();
        let mut seen = vec![0; WRITERS];
        let mut readable = 0;
        let start = Instant::now();
        while readable == 0 || seen.contains(&0) {
            assert!(start.elapsed() < LONG);
            let mut out = Vec::new();
            lp.turn(Some(Duration::ZERO), &mut out).unwrap();
            for event in out {
                match event.kind {
                    EventKind::Writable => seen[event.token as usize - 1000] += 1,
                    EventKind::Readable => readable += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(seen.iter().all(|n| *n == 1));
        // The watch survives.
        receive_all(&mine);
        turns(&mut lp, Duration::from_millis(5));
        theirs.write_all(b"y").unwrap();
        assert_eq!(next(&mut lp).token, 3);
    }
}

#[test]
fn timeouts_are_kept() {
    for setup in SETUPS {
        let mut lp = event_loop(setup);
        let mut out = Vec::new();
        let start = Instant::now();
        lp.turn(Some(Duration::from_millis(50)), &mut out).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(50));
        assert!(start.elapsed() < LONG);
        lp.turn(Some(Duration::ZERO), &mut out).unwrap();
        assert!(out.is_empty());
        lp.waker().wake();
        lp.turn(Some(Duration::MAX), &mut out).unwrap();
        assert!(matches!(out[..], [Event { kind: EventKind::Woken, .. }]), "{out:?}");
    }
}

#[test]
fn every_wake_is_seen_by_a_loop_that_sleeps_or_spins() {
    for setup in SETUPS {
        for timeout in [LONG, Duration::ZERO] {
            let mut lp = event_loop(setup);
            let asked = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let (waker, asked) = (lp.waker(), Arc::clone(&asked));
                    std::thread::spawn(move || {
                        for n in 0..2000 {
                            asked.fetch_add(1, Ordering::Relaxed);
                            waker.wake();
                            if n % 100 == 0 {
                                std::thread::sleep(Duration::from_micros(200));
                            }
                        }
                    })
                })
                .collect();
            let start = Instant::now();
            let mut wakes = 0;
            let mut out = Vec::new();
            loop {
                lp.turn(Some(timeout), &mut out).unwrap();
                // A lost wake-up would make the turn last to its end.
                assert!(timeout.is_zero() || !out.is_empty());
                wakes += out.len();
                assert!(out.drain(..).all(|e| matches!(e.kind, EventKind::Woken)));
                if asked.load(Ordering::Relaxed) == 6000 {
                    break;
                }
                assert!(start.elapsed() < LONG);
            }
            for thread in threads {
                thread.join().unwrap();
            }
            assert!((1..=6000).contains(&wakes), "{wakes}");
        }
    }
}

#[test]
fn an_endless_wait_ends_with_a_wake() {
    for setup in SETUPS {
        let mut lp = event_loop(setup);
        let waker = lp.waker();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            waker.wake();
        });
        let mut out = Vec::new();
        lp.turn(None, &mut out).unwrap();
        assert!(matches!(out[..], [Event { kind: EventKind::Woken, .. }]), "{out:?}");
        thread.join().unwrap();
    }
}

#[test]
fn a_burst_of_wakes_is_one_event() {
    let mut lp = event_loop(RingSetup::Deferred);
    let waker = lp.waker();
    for _ in 0..1000 {
        waker.wake();
    }
    assert!(matches!(next(&mut lp).kind, EventKind::Woken));
    quiet(&mut lp);
    drop(lp);
    waker.wake();
}

#[test]
fn disk_writes_read_back() {
    for setup in SETUPS {
        for direct in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let file = disk(dir.path(), direct, 4 << 20);
            let pool = Pool::new(PoolConfig::new(8 << 20));
            let mut lp = event_loop(setup);
            let data = pattern(1 << 20, 3);
            let mut buf = pool.alloc(1 << 20).unwrap();
            buf.copy_from_slice(&data);
            let shared = buf.freeze();
            for part in 0..4u64 {
                let at = part as usize * (256 << 10);
                let slice = shared.slice(at..at + (256 << 10)).unwrap();
                lp.write(&file, 1 << 20 | at as u64, slice, part).unwrap();
            }
            let mut done = Vec::new();
            while done.len() < 4 {
                let mut out = Vec::new();
                lp.turn(Some(LONG), &mut out).unwrap();
                for event in out {
                    let EventKind::WriteDone { buf, result } = event.kind else { panic!("{event:?}") };
                    result.unwrap();
                    assert_eq!(buf.len(), 256 << 10);
                    done.push(event.token);
                }
            }
            done.sort_unstable();
            assert_eq!(done, [0, 1, 2, 3]);
            for data_only in [true, false] {
                lp.fsync(&file, data_only, 10).unwrap();
                assert!(matches!(next(&mut lp), Event { token: 10, kind: EventKind::FsyncDone { result: Ok(()) } }));
            }
            lp.read(&file, 1 << 20, pool.alloc(1 << 20).unwrap(), 11).unwrap();
            let EventKind::ReadDone { buf, result } = next(&mut lp).kind else { panic!() };
            assert_eq!(result.unwrap(), 1 << 20);
            assert!(*buf == data[..]);
            assert!(std::fs::read(file.path()).unwrap()[1 << 20..2 << 20] == data[..], "it is in the file");
            drop((buf, shared));
            assert_eq!((pool.in_use(), lp.disk_ops()), (0, 0));
        }
    }
}

#[test]
fn the_end_of_the_file_shortens_a_read() {
    for direct in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk"), pattern(5000, 1)).unwrap();
        let options = DiskOpenOptions { direct, ..Default::default() };
        let file = Arc::new(DiskFile::open(dir.path().join("disk"), options).unwrap());
        let pool = Pool::new(PoolConfig::new(1 << 20));
        let mut lp = event_loop(RingSetup::Deferred);
        lp.read(&file, 0, pool.alloc(16384).unwrap(), 0).unwrap();
        let EventKind::ReadDone { buf, result } = next(&mut lp).kind else { panic!() };
        assert_eq!(result.unwrap(), 5000);
        assert!(buf[..5000] == pattern(5000, 1)[..]);
        lp.read(&file, 1 << 30, pool.alloc(4096).unwrap(), 0).unwrap();
        assert!(matches!(next(&mut lp).kind, EventKind::ReadDone { result: Ok(0), .. }));
        lp.read(&file, 0, pool.alloc(0).unwrap(), 0).unwrap();
        assert!(matches!(next(&mut lp).kind, EventKind::ReadDone { result: Ok(0), .. }));
    }
}

#[test]
fn failures_come_back_with_the_buffer() {
    let dir = tempfile::tempdir().unwrap();
    drop(disk(dir.path(), false, 8192));
    let options = DiskOpenOptions { read_only: true, ..Default::default() };
    let file = Arc::new(DiskFile::open(dir.path().join("disk"), options).unwrap());
    let mut lp = event_loop(RingSetup::Deferred);
    lp.write(&file, 0, SharedBuf::from_vec(vec![1; 100]), 4).unwrap();
    let Event { token: 4, kind: EventKind::WriteDone { buf, result } } = next(&mut lp) else { panic!() };
    assert_eq!((buf.len(), result.unwrap_err().raw_os_error()), (100, Some(9)), "EBADF");
}

#[test]
fn what_cannot_be_started_is_refused_with_its_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let file = disk(dir.path(), true, 1 << 20);
    let pool = Pool::new(PoolConfig::new(1 << 20));
    let mut lp = EventLoop::new(EventLoopConfig { max_disk_ops: 3, ..Default::default() }).unwrap();
    for n in 0..3 {
        lp.read(&file, 0, pool.alloc(4096).unwrap(), n).unwrap();
    }
    let refused = lp.read(&file, 0, pool.alloc(8192).unwrap(), 3).unwrap_err();
    assert_eq!((refused.buf.len(), &refused.reason), (8192, &RejectReason::Full { limit: 3 }));
    assert!(refused.to_string().contains("max_disk_ops"));
    assert_eq!(lp.write(&file, 0, refused.buf.freeze(), 3).unwrap_err().buf.len(), 8192);
    assert!(lp.fsync(&file, true, 3).is_err());
    let mut out = Vec::new();
    while out.len() < 3 {
        lp.turn(Some(LONG), &mut out).unwrap();
    }
    out.clear();
    let far = lp.read(&file, u64::MAX - 4095, pool.alloc(4096).unwrap(), 3).unwrap_err();
    assert!(matches!(far.reason, RejectReason::OutOfRange { .. }));
    if file.is_direct() {
        for (offset, len) in [(1, 4096), (0, 100)] {
            let refused = lp.read(&file, offset, pool.alloc(len).unwrap(), 3).unwrap_err();
            assert!(matches!(refused.reason, RejectReason::Misaligned { .. }));
        }
    }
    quiet(&mut lp);
}

#[test]
fn more_operations_than_the_submission_queue_holds() {
    for setup in SETUPS {
        let dir = tempfile::tempdir().unwrap();
        let file = disk(dir.path(), false, 1 << 20);
        let pool = Pool::new(PoolConfig::new(4 << 20));
        let config = EventLoopConfig { setup, submission_entries: 4, max_disk_ops: 256 };
        let mut lp = EventLoop::new(config).unwrap();
        for n in 0..256u64 {
            let mut buf = pool.alloc(4096).unwrap();
            buf.fill(n as u8);
            lp.write(&file, n * 4096, buf.freeze(), n).unwrap();
        }
        let mut out = Vec::new();
        let start = Instant::now();
        while out.len() < 256 {
            assert!(start.elapsed() < LONG);
            lp.turn(Some(SECOND), &mut out).unwrap();
        }
        assert!(out.iter().all(|e| matches!(e.kind, EventKind::WriteDone { result: Ok(()), .. })));
        out.clear();
        assert_eq!(pool.in_use(), 0);
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(bytes.chunks(4096).enumerate().all(|(n, page)| page.iter().all(|b| *b == n as u8)));
    }
}

#[test]
fn dropping_the_loop_waits_for_its_io() {
    const PART: usize = 256 << 10;
    for direct in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        // Real data, so that a direct read has to wait for the device.
        std::fs::write(dir.path().join("disk"), pattern(32 * PART, 0)).unwrap();
        std::fs::File::open(dir.path().join("disk")).unwrap().sync_all().unwrap();
        let file = disk(dir.path(), direct, 0);
        for (setup, submitted) in SETUPS.into_iter().flat_map(|s| [(s, false), (s, true)]) {
            let pool = Pool::new(PoolConfig::new(32 * PART));
            let mut lp = event_loop(setup);
            for n in 0..32u64 {
                lp.read(&file, n * PART as u64, pool.alloc(PART).unwrap(), n).unwrap();
            }
            let mut out = Vec::new();
            if submitted {
                lp.turn(Some(Duration::ZERO), &mut out).unwrap();
            }
            drop(out);
            drop(lp);
            assert_eq!(pool.in_use(), 0, "the buffers are free again");
            assert_eq!(Arc::strong_count(&file), 1);
            // Nothing of the kernel's arrives later in memory that has a new owner.
            let mut reused = Vec::new();
            while let Some(mut buf) = pool.alloc(PART) {
                buf.fill(0xee);
                reused.push(buf);
            }
            assert_eq!(reused.len(), 32);
            std::thread::sleep(Duration::from_millis(20));
            assert!(reused.iter().all(|b| b.iter().all(|x| *x == 0xee)));
        }
    }
}

//! Vectored writes and reads into parts of buffers, on real files, with every kind of ring that the kernel has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvof_io::{
    DiskFile, DiskOpenOptions, Event, EventKind, EventLoop, EventLoopConfig, Pool, PoolConfig, PoolPart, RejectReason,
    RingSetup, SharedBuf,
};

const LONG: Duration = Duration::from_secs(20);
const SETUPS: [RingSetup; 3] = [RingSetup::Deferred, RingSetup::Cooperative, RingSetup::Plain];

fn event_loop(setup: RingSetup) -> EventLoop {
    EventLoop::new(EventLoopConfig { setup, ..Default::default() }).unwrap()
}

/// The next `count` events, which must come.
fn events(lp: &mut EventLoop, count: usize) -> Vec<Event> {
    let mut out = Vec::new();
    while out.len() < count {
        let before = out.len();
        lp.turn(Some(LONG), &mut out).unwrap();
        assert!(out.len() > before, "nothing happened");
    }
    assert_eq!(out.len(), count, "{out:?}");
    out
}

fn written(lp: &mut EventLoop) -> Vec<SharedBuf> {
    match events(lp, 1).pop().unwrap() {
        Event { token: 5, kind: EventKind::WriteVectoredDone { bufs, result: Ok(()) } } => bufs,
        other => panic!("{other:?}"),
    }
}

fn disk(dir: &Path, direct: bool, size: u64) -> Arc<DiskFile> {
    let options = DiskOpenOptions { create: true, size: Some(size), direct, read_only: false };
    Arc::new(DiskFile::open(dir.join("disk"), options).unwrap())
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed).wrapping_mul(2_654_435_761) >> 21) as u8).collect()
}

#[test]
fn more_pieces_than_a_request_takes_arrive_in_order() {
    for setup in SETUPS {
        for direct in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let file = disk(dir.path(), direct, 16 << 20);
            let pool = Pool::new(PoolConfig::new(32 << 20));
            let mut lp = event_loop(setup);
            // 2500 pieces of a page or two from three buffers, in no order of memory: three requests.
            let data = pattern(12 << 20, 1);
            let whole: Vec<SharedBuf> = (0..3)
                .map(|n| {
                    let mut buf = pool.alloc(4 << 20).unwrap();
                    buf.copy_from_slice(&data[n * (4 << 20)..(n + 1) * (4 << 20)]);
                    buf.freeze()
                })
                .collect();
            let mut expected = Vec::new();
            let mut pieces = Vec::new();
            for n in 0..2500usize {
                let (buf, at, len) = (n % 3, (n * 7919 % 1000) * 4096, 4096 << (n % 2));
                expected.extend_from_slice(&whole[buf][at..at + len]);
                pieces.push(whole[buf].slice(at..at + len).unwrap());
            }
            lp.write_vectored(&file, 8192, pieces, 5).unwrap();
            assert_eq!(lp.disk_ops(), 1);
            let bufs = written(&mut lp);
            assert_eq!((bufs.len(), lp.disk_ops()), (2500, 0));
            let bytes = std::fs::read(file.path()).unwrap();
            assert!(bytes[8192..8192 + expected.len()] == expected[..]);
            assert!(
                bytes[..8192].iter().chain(&bytes[8192 + expected.len()..]).all(|b| *b == 0),
                "nothing else is written"
            );
            drop((bufs, whole));
            assert_eq!(pool.in_use(), 0);
        }
    }
}

#[test]
fn pieces_of_any_length_and_memory_reach_a_buffered_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = disk(dir.path(), false, 0);
    let mut lp = event_loop(RingSetup::Deferred);
    let data = pattern(300_000, 3);
    let shared = SharedBuf::from_vec(data.clone());
    let mut pieces = vec![SharedBuf::from(&b""[..]), SharedBuf::from(&b"head"[..])];
    let mut at = 0;
    for len in (0..).map(|n| n * 13 % 257) {
        let end = data.len().min(at + len);
        pieces.push(shared.slice(at..end).unwrap());
        at = end;
        if at == data.len() {
            break;
        }
    }
    lp.write_vectored(&file, 3, pieces, 5).unwrap();
    written(&mut lp);
    let bytes = std::fs::read(file.path()).unwrap();
    assert!(bytes[..3] == [0; 3] && bytes[3..7] == *b"head" && bytes[7..] == data[..]);
    for nothing in [vec![], vec![SharedBuf::from(&b""[..]); 3]] {
        let count = nothing.len();
        lp.write_vectored(&file, 0, nothing, 5).unwrap();
        assert_eq!(written(&mut lp).len(), count);
    }
}

#[test]
fn one_buffer_is_filled_by_several_reads() {
    for setup in SETUPS {
        for direct in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let data = pattern(1 << 20, 9);
            std::fs::write(dir.path().join("disk"), &data).unwrap();
            let file = disk(dir.path(), direct, 0);
            let pool = Pool::new(PoolConfig::new(4 << 20));
            let mut lp = event_loop(setup);
            let cuts = [4096, 4096, 128 << 10, 768 << 10];
            let parts = pool.alloc(1 << 20).unwrap().split(&cuts).unwrap();
            // Each part from the mirrored place in the file.
            for (token, part) in parts.into_iter().enumerate() {
                let offset = (1 << 20) - part.offset() - part.len();
                lp.read_part(&file, offset as u64, part, token as u64).unwrap();
            }
            let parts = events(&mut lp, 5).into_iter().map(|event| match event.kind {
                EventKind::PartReadDone { buf, result } => {
                    assert_eq!(result.unwrap(), buf.len());
                    assert_eq!(buf.offset(), [0].iter().chain(&cuts).copied().nth(event.token as usize).unwrap());
                    buf
                }
                other => panic!("{other:?}"),
            });
            let whole = PoolPart::join(parts.collect()).unwrap();
            let mut from = 0;
            for to in cuts.into_iter().chain([1 << 20]) {
                assert!(whole[from..to] == data[(1 << 20) - to..(1 << 20) - from]);
                from = to;
            }
            // A whole buffer, beyond the end of the file.
            lp.read_part(&file, (1 << 20) - 4096, whole.into(), 7).unwrap();
            let event = events(&mut lp, 1).pop().unwrap();
            let Event { token: 7, kind: EventKind::PartReadDone { buf, result: Ok(4096) } } = event else {
                panic!("{event:?}")
            };
            assert!(buf[..4096] == data[(1 << 20) - 4096..]);
            drop(buf);
            assert_eq!(pool.in_use(), 0);
        }
    }
}

#[test]
fn what_direct_io_cannot_do_is_refused_with_its_buffers() {
    let dir = tempfile::tempdir().unwrap();
    let file = disk(dir.path(), true, 1 << 20);
    if !file.is_direct() {
        return;
    }
    let align = file.alignment();
    let pool = Pool::new(PoolConfig::new(1 << 20));
    let mut lp = EventLoop::new(EventLoopConfig { max_disk_ops: 1, ..Default::default() }).unwrap();
    let shared = pool.alloc(64 << 10).unwrap().freeze();
    let good = shared.slice(..align).unwrap();
    // The piece at fault is named: its place in the file, its length and how far off its memory is.
    let bad = [(0..align - 1, align - 1, 0), (0..align + 1, align + 1, 0), (1..align + 1, align, 1)];
    for (range, bad_len, bad_skew) in bad {
        let pieces = vec![good.clone(), shared.slice(range).unwrap(), good.clone()];
        let refused = lp.write_vectored(&file, 4096, pieces, 5).unwrap_err();
        assert_eq!(refused.buf.len(), 3);
        let expected =
            RejectReason::Misaligned { offset: 4096 + align as u64, len: bad_len, skew: bad_skew, alignment: align };
        assert_eq!(refused.reason, expected, "{refused}");
        let one = lp.write(&file, 0, refused.buf[1].clone(), 5).unwrap_err();
        assert!(matches!(one.reason, RejectReason::Misaligned { offset: 0, .. }), "{one}");
    }
    for pieces in [vec![], vec![good.clone()]] {
        assert!(matches!(
            lp.write_vectored(&file, 1, pieces, 5).unwrap_err().reason,
            RejectReason::Misaligned { offset: 1, .. }
        ));
    }
    let far = lp.write_vectored(&file, i64::MAX as u64 + 1 - 4096, vec![good.clone(); 4096 / align], 5).unwrap_err();
    assert!(matches!(far.reason, RejectReason::OutOfRange { .. }), "{far}");
    let [_first, mut part] = <[PoolPart; 2]>::try_from(pool.alloc(8192).unwrap().split(&[align + 1]).unwrap()).unwrap();
    part.fill(3);
    let refused = lp.read_part(&file, 0, part, 5).unwrap_err();
    assert!(refused.buf.iter().all(|b| *b == 3));
    assert!(matches!(refused.reason, RejectReason::Misaligned { skew: 1, .. }), "{refused}");
    // Memory without bytes is nowhere.
    lp.write_vectored(&file, 0, vec![shared.slice(1..1).unwrap(), good.clone()], 5).unwrap();
    let full = lp.write_vectored(&file, 0, vec![good.clone()], 5).unwrap_err();
    assert_eq!(full.reason, RejectReason::Full { limit: 1 });
    let full = lp.read_part(&file, 0, pool.alloc(4096).unwrap().into(), 5).unwrap_err();
    assert_eq!((full.buf.len(), full.reason), (4096, RejectReason::Full { limit: 1 }));
    written(&mut lp);
}

#[test]
fn failures_come_back_with_the_buffers() {
    let dir = tempfile::tempdir().unwrap();
    drop(disk(dir.path(), false, 8192));
    let options = DiskOpenOptions { read_only: true, ..Default::default() };
    let file = Arc::new(DiskFile::open(dir.path().join("disk"), options).unwrap());
    let mut lp = event_loop(RingSetup::Deferred);
    lp.write_vectored(&file, 0, vec![SharedBuf::from_vec(vec![1; 100]); 3], 4).unwrap();
    let event = events(&mut lp, 1).pop().unwrap();
    let Event { token: 4, kind: EventKind::WriteVectoredDone { bufs, result: Err(error) } } = event else {
        panic!("{event:?}")
    };
    assert_eq!((bufs.len(), error.raw_os_error()), (3, Some(9)), "EBADF");
}

#[test]
fn dropping_the_loop_waits_for_pieces_in_flight() {
    for (setup, submitted) in SETUPS.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let dir = tempfile::tempdir().unwrap();
        let file = disk(dir.path(), true, 16 << 20);
        let pool = Pool::new(PoolConfig::new(16 << 20));
        let mut lp = event_loop(setup);
        for n in 0..4u64 {
            let buf = pool.alloc(2 << 20).unwrap().freeze();
            let pieces = (0..512).map(|n| buf.slice(n * 4096..(n + 1) * 4096).unwrap()).collect();
            lp.write_vectored(&file, n << 21, pieces, n).unwrap();
            let parts = pool.alloc(64 << 10).unwrap().split(&[4096, 8192]).unwrap();
            for part in parts {
                lp.read_part(&file, n << 21, part, n).unwrap();
            }
        }
        let mut out = Vec::new();
        if submitted {
            lp.turn(Some(Duration::ZERO), &mut out).unwrap();
        }
        drop(out);
        drop(lp);
        assert_eq!((pool.in_use(), Arc::strong_count(&file)), (0, 1));
    }
}

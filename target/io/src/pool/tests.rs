//! Tests of the pool: its limit, reuse, and buffers that cross threads.

use std::sync::mpsc;

use proptest::prelude::*;

use super::*;

const KIB: usize = 1024;

fn pool(limit: usize, shards: usize) -> Pool {
    Pool::new(PoolConfig { limit, shards })
}

#[test]
fn the_limit_holds_and_memory_comes_back() {
    let pool = pool(64 * KIB + 100, 2);
    assert_eq!(pool.limit(), 64 * KIB);
    assert!(pool.alloc(64 * KIB + 1).is_none());
    let mut held: Vec<PoolBuf> = (0..16).map(|_| pool.alloc(4000).unwrap()).collect();
    assert_eq!((pool.in_use(), pool.cached()), (64 * KIB, 0));
    assert!(pool.alloc(1).is_none());
    assert_eq!(pool.alloc(0).unwrap().capacity(), 0);
    held.pop();
    assert_eq!((pool.in_use(), pool.cached()), (60 * KIB, 4 * KIB));
    assert!(pool.alloc(4097).is_none(), "the free page is too small");
    held.push(pool.alloc(4096).unwrap());
    drop(held);
    assert_eq!((pool.in_use(), pool.cached()), (0, 64 * KIB));
}

#[test]
fn cached_memory_gives_way_to_another_size() {
    let pool = pool(64 * KIB, 1);
    drop((0..16).map(|_| pool.alloc(4096).unwrap()).collect::<Vec<_>>());
    assert_eq!(pool.cached(), 64 * KIB);
    let large = pool.alloc(40 * KIB).unwrap();
    assert_eq!((pool.in_use(), pool.cached()), (40 * KIB, 24 * KIB));
    drop(large);
    let all = pool.alloc(64 * KIB).unwrap();
    assert_eq!((pool.in_use(), pool.cached()), (64 * KIB, 0));
    assert_eq!(all.len(), 64 * KIB);
}

#[test]
fn a_limit_between_two_classes_can_be_allocated_whole() {
    // The class of 132 KiB has 160 KiB: more than the limit.
    let pool = pool(132 * KIB, 1);
    let whole = pool.alloc(132 * KIB).unwrap();
    assert_eq!(whole.capacity(), 132 * KIB);
    assert!(pool.alloc(1).is_none());
    drop(whole);
    assert_eq!(pool.alloc(130 * KIB).unwrap().capacity(), 132 * KIB);
}

#[test]
fn a_pool_without_room_has_only_empty_buffers() {
    for limit in [0, 4095] {
        let pool = pool(limit, 0);
        assert!(pool.alloc(1).is_none());
        assert!(pool.alloc(0).unwrap().freeze().is_empty());
    }
    let endless = pool(usize::MAX, 1);
    assert!(endless.alloc(usize::MAX / 4).is_none(), "the system has no such memory");
    assert_eq!(endless.in_use(), 0);
    drop(endless.alloc(100).unwrap());
    assert_eq!(endless.cached(), 4 * KIB);
}

#[test]
fn fresh_memory_is_zero_aligned_and_reused() {
    let pool = pool(16 << 20, 1);
    for len in [1, 5000, 100 * KIB, 1 << 20, 3 << 20] {
        let mut buf = pool.alloc(len).unwrap();
        assert_eq!(buf.len(), len);
        assert!(buf.iter().all(|b| *b == 0), "{len} fresh bytes");
        assert_eq!(buf.as_ptr() as usize % PAGE_SIZE, 0);
        buf.fill(0x5a);
        let at = buf.as_ptr() as usize;
        drop(buf);
        let again = pool.alloc(len).unwrap();
        assert_eq!(again.as_ptr() as usize, at, "{len} bytes were not reused");
    }
}

#[test]
fn memory_freed_elsewhere_goes_home() {
    let pool = pool(8 * KIB, 64);
    let buf = pool.alloc(8 * KIB).unwrap();
    let at = buf.as_ptr() as usize;
    let shared = buf.freeze();
    let half = shared.slice(4096..).unwrap();
    std::thread::spawn(move || drop(shared)).join().unwrap();
    assert_eq!(pool.in_use(), 8 * KIB, "a slice still holds the memory");
    std::thread::spawn(move || drop(half)).join().unwrap();
    assert_eq!((pool.in_use(), pool.cached()), (0, 8 * KIB));
    assert_eq!(pool.alloc(8 * KIB).unwrap().as_ptr() as usize, at);
}

#[test]
fn memory_cached_by_other_threads_is_found() {
    let pool = pool(64 * KIB, 64);
    // More threads than one, so that the memory ends up in foreign shards.
    for _ in 0..4 {
        let pool = pool.clone();
        std::thread::spawn(move || drop(pool.alloc(16 * KIB).unwrap())).join().unwrap();
    }
    let same = pool.alloc(16 * KIB).unwrap();
    let other = pool.alloc(48 * KIB).unwrap();
    assert_eq!((pool.in_use(), pool.cached()), (64 * KIB, 0));
    drop((same, other));
}

#[test]
fn buffers_outlive_their_pool() {
    let buf = pool(4096, 1).alloc(4096).unwrap();
    let shared = buf.freeze();
    assert!(shared.iter().all(|b| *b == 0));
}

#[test]
fn truncation_keeps_the_memory() {
    let pool = pool(8 * KIB, 1);
    let mut buf = pool.alloc(5000).unwrap();
    buf.truncate(6000);
    assert_eq!(buf.len(), 5000);
    buf.truncate(3);
    buf.copy_from_slice(b"abc");
    assert_eq!((buf.len(), buf.capacity(), pool.in_use()), (3, 8 * KIB, 8 * KIB));
    assert_eq!(&*buf.freeze(), b"abc");
}

#[test]
fn the_slack_behind_the_length_can_be_used() {
    let pool = pool(16 * KIB, 1);
    let mut buf = pool.alloc(8 * KIB).unwrap();
    buf.fill(0xaa);
    assert!(!buf.set_len(8 * KIB + 1));
    assert_eq!(buf.len(), 8 * KIB);
    buf.truncate(5000);
    assert!(!buf.zero_extend(4999) && !buf.zero_extend(8 * KIB + 1));
    assert_eq!(buf.len(), 5000);
    assert!(buf.zero_extend(5000) && buf.zero_extend(6000));
    assert!(buf.len() == 6000 && buf[..5000].iter().all(|b| *b == 0xaa) && buf[5000..].iter().all(|b| *b == 0));
    assert!(buf.set_len(8 * KIB));
    assert!(buf[6000..].iter().all(|b| *b == 0xaa), "what was there before");
    let mut empty = pool.alloc(0).unwrap();
    assert!(empty.set_len(0) && empty.zero_extend(0) && !empty.set_len(1));
}

#[test]
fn slices_are_views_within_bounds() {
    let whole = SharedBuf::from_vec((0..100).collect());
    assert_eq!(&*whole.slice(10..=12).unwrap(), &[10, 11, 12]);
    assert_eq!(&*whole.slice(10..20).unwrap().slice(..2).unwrap(), &[10, 11]);
    assert_eq!(whole.slice(100..).unwrap().len(), 0);
    assert!(whole.slice(101..).is_none());
    assert!(whole.slice(10..20).unwrap().slice(..11).is_none());
    assert!(whole.slice(..=usize::MAX).is_none());
    #[expect(clippy::reversed_empty_ranges, reason = "hostile input")]
    let reversed = whole.slice(5..4);
    assert!(reversed.is_none());
    let fixed = SharedBuf::from(&b"static"[..]);
    assert_eq!(&*fixed.slice(3..).unwrap(), b"tic");
}

#[test]
fn threads_under_pressure_never_pass_the_limit() {
    const LIMIT: usize = 1 << 20;
    let pool = pool(LIMIT, 3);
    let (to_free, freed_here) = mpsc::channel::<PoolBuf>();
    std::thread::scope(|s| {
        for id in 0..4usize {
            let (pool, to_free) = (pool.clone(), to_free.clone());
            s.spawn(move || {
                let mut held = Vec::new();
                for round in 0..3000usize {
                    let len = 1 + (round * 7919 + id * 104_729) % (200 * KIB);
                    if let Some(mut buf) = pool.alloc(len) {
                        // Whoever else has this memory would see or undo the mark.
                        let mark = (id as u8) << 6 | (round as u8 & 0x3f);
                        buf.fill(mark);
                        held.push((buf, mark));
                    }
                    assert!(pool.core_reserved() <= LIMIT);
                    if held.len() > 4 || round % 5 == 0 {
                        for (buf, mark) in held.drain(..) {
                            assert!(buf.iter().all(|b| *b == mark));
                            if round % 2 == 0 {
                                to_free.send(buf).unwrap();
                            }
                        }
                    }
                }
            });
        }
        drop(to_free);
        for buf in freed_here {
            drop(buf);
        }
    });
    assert_eq!(pool.in_use(), 0);
    assert!(pool.cached() <= LIMIT);
    assert_eq!(pool.alloc(LIMIT).unwrap().len(), LIMIT, "all of it can be had again");
}

impl Pool {
    fn core_reserved(&self) -> usize {
        self.inner.core.reserved.load(Ordering::SeqCst)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_sequence_keeps_the_accounts(
        limit in 0usize..600_000,
        shards in 0usize..4,
        steps in prop::collection::vec((any::<bool>(), 0usize..300_000, any::<prop::sample::Index>()), 1..120),
    ) {
        let pool = pool(limit, shards);
        let mut live: Vec<(PoolBuf, u8)> = Vec::new();
        for (n, (free, len, pick)) in steps.into_iter().enumerate() {
            if free && !live.is_empty() {
                let (buf, mark) = live.swap_remove(pick.index(live.len()));
                prop_assert!(buf.iter().all(|b| *b == mark));
            } else {
                let used = pool.in_use();
                match pool.alloc(len) {
                    Some(mut buf) => {
                        prop_assert_eq!(buf.len(), len);
                        prop_assert!(buf.capacity() >= len);
                        buf.fill(n as u8);
                        live.push((buf, n as u8));
                    }
                    None => {
                        let size = class_of(len).map_or(0, |(_, size)| size.min(pool.limit()));
                        prop_assert!(len > pool.limit() || used + size > pool.limit(), "refused {} with {} of {} in use", len, used, pool.limit());
                    }
                }
            }
            prop_assert_eq!(pool.in_use(), live.iter().map(|(b, _)| b.capacity()).sum::<usize>());
            prop_assert!(pool.in_use() + pool.cached() <= pool.limit());
        }
        for (buf, mark) in live {
            prop_assert!(buf.iter().all(|b| *b == mark));
        }
    }
}

#[test]
fn what_is_kept_is_left_to_those_who_cannot_wait() {
    let pool = Pool::new(PoolConfig { limit: 16 << 20, shards: 2 });
    let whole = pool.alloc_patient(16 << 20);
    assert!(whole.is_some(), "nothing is kept");
    drop(whole);
    pool.keep(4 << 20);
    let patient: Vec<_> = std::iter::from_fn(|| pool.alloc_patient(1 << 20)).collect();
    assert_eq!(patient.len(), 12);
    let others: Vec<_> = std::iter::from_fn(|| pool.alloc(1 << 20)).collect();
    assert_eq!(others.len(), 4);
    drop(patient);
    // What is cached counts as free, and what others hold counts.
    assert_eq!(std::iter::from_fn(|| pool.alloc_patient(1 << 20)).take(100).collect::<Vec<_>>().len(), 8);
    assert!(pool.alloc_patient(13 << 20).is_none() && pool.alloc_patient(0).is_some());
}

#[test]
fn short_buffers_lie_side_by_side_in_huge_pages() {
    let pool = Pool::new(PoolConfig { limit: 16 << 20, shards: 1 });
    let first = pool.alloc(1 << 20).unwrap();
    let second = pool.alloc(1 << 20).unwrap();
    let at = |buf: &PoolBuf| buf.start() as usize;
    assert_eq!((at(&first) % (2 << 20), at(&second)), (0, at(&first) + (1 << 20)));
    // Memory that was evicted for another size comes back as zeros.
    let mut fill: Vec<_> = std::iter::from_fn(|| pool.alloc(64 << 10)).collect();
    fill.iter_mut().for_each(|buf| buf.fill(7));
    assert_eq!(fill.len(), 14 * 16);
    drop(fill);
    let large = pool.alloc(13 << 20).unwrap();
    assert!(large.iter().all(|byte| *byte == 0));
    assert!(pool.in_use() <= pool.limit());
}

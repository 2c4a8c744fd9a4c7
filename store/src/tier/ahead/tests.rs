use std::collections::HashSet;

use kvof_kv::Key;
use proptest::prelude::*;

use super::*;

const LIMITS: ReadAheadLimits = ReadAheadLimits { in_flight: 1000, unread: 3000, entries: 50 };

fn key(n: u32) -> TierKey {
    (0, Key::new(&n.to_be_bytes()).unwrap())
}

/// Reads `n` ahead, to the end.
fn read_ahead(ahead: &mut ReadAhead, n: u32) -> bool {
    let started = ahead.on_exist(&key(n), 100, false);
    if started {
        ahead.on_done(&key(n), Some(100));
    }
    started
}

/// Asks for values that nobody retrieves, until reading ahead is off. How many were started.
fn waste(ahead: &mut ReadAhead, from: u32) -> u32 {
    let before = ahead.stats().started;
    for n in from.. {
        read_ahead(ahead, n);
        if !ahead.stats().on {
            break;
        }
        assert!(n < from + 100_000, "it never turned itself off");
    }
    u32::try_from(ahead.stats().started - before).unwrap()
}

#[test]
fn a_cold_key_is_read_once() {
    let mut ahead = ReadAhead::new(LIMITS);
    assert!(!ahead.on_exist(&key(1), 100, true), "it is in memory");
    assert!(ahead.on_exist(&key(1), 100, false));
    assert!(!ahead.on_exist(&key(1), 100, false), "in flight");
    ahead.on_done(&key(1), Some(100));
    assert!(!ahead.on_exist(&key(1), 100, false), "not yet retrieved");
    ahead.on_retrieve(&key(1));
    ahead.on_retrieve(&key(1));
    assert!(ahead.on_exist(&key(1), 100, false), "a new round");
    let stats = ahead.stats();
    assert_eq!((stats.started, stats.used, stats.wasted, stats.declined), (2, 1, 0, 0));
    assert_eq!((stats.in_flight, stats.unread), (100, 100));
}

#[test]
fn bounds() {
    let mut ahead = ReadAhead::new(LIMITS);
    let started = (0..20).filter(|n| ahead.on_exist(&key(*n), 100, false)).count();
    assert_eq!(started, 10, "bytes in flight");
    assert!(!ahead.on_exist(&key(100), u64::MAX, false));
    (0..10).for_each(|n| ahead.on_done(&key(n), Some(100)));
    let started = (20..100).filter(|n| read_ahead(&mut ahead, *n)).count();
    assert_eq!(started, 20, "bytes unread");
    (0..100).for_each(|n| ahead.on_retrieve(&key(n)));
    let started = (200..300).filter(|n| ahead.on_exist(&key(*n), 0, false)).count();
    assert_eq!(started, 50, "values");
    for limits in [
        ReadAheadLimits { in_flight: 0, ..LIMITS },
        ReadAheadLimits { unread: 0, ..LIMITS },
        ReadAheadLimits { entries: 0, ..LIMITS },
    ] {
        assert!(!ReadAhead::new(limits).on_exist(&key(1), 1, false));
    }
}

#[test]
fn a_retrieve_may_come_before_the_read_has_finished() {
    let mut ahead = ReadAhead::new(LIMITS);
    assert!(ahead.on_exist(&key(1), 100, false));
    ahead.on_retrieve(&key(1));
    assert_eq!((ahead.stats().used, ahead.stats().unread, ahead.stats().in_flight), (1, 0, 100));
    ahead.on_done(&key(1), Some(100));
    assert_eq!((ahead.stats().unread, ahead.stats().in_flight), (0, 0));
    assert!(ahead.expected.is_empty());
}

#[test]
fn a_failed_read_is_neither_used_nor_wasted() {
    let mut ahead = ReadAhead::new(LIMITS);
    assert!(ahead.on_exist(&key(1), 100, false));
    ahead.on_done(&key(1), None);
    ahead.on_retrieve(&key(1));
    let stats = ahead.stats();
    assert_eq!((stats.failed, stats.used, stats.wasted, stats.unread, stats.in_flight), (1, 0, 0, 0, 0));
    ahead.on_done(&key(2), Some(5));
    assert_eq!(ahead.stats(), stats, "nobody asked for this one");
}

#[test]
fn what_nobody_retrieves_is_given_up_and_makes_room() {
    let mut ahead = ReadAhead::new(LIMITS);
    (0..30).for_each(|n| assert!(read_ahead(&mut ahead, n)));
    assert!(!read_ahead(&mut ahead, 100), "full");
    (0..500).for_each(|_| ahead.on_retrieve(&key(9999)));
    assert_eq!((ahead.stats().wasted, ahead.stats().unread), (30, 0));
    assert!(read_ahead(&mut ahead, 100));
}

#[test]
fn a_second_round_has_its_own_patience() {
    let mut ahead = ReadAhead::new(LIMITS);
    assert!(read_ahead(&mut ahead, 1));
    ahead.on_retrieve(&key(1));
    (0..350).for_each(|_| ahead.on_retrieve(&key(9999)));
    assert!(read_ahead(&mut ahead, 1));
    (0..100).for_each(|_| ahead.on_retrieve(&key(9999)));
    ahead.on_retrieve(&key(1));
    assert_eq!((ahead.stats().used, ahead.stats().wasted), (2, 0));
}

#[test]
fn turns_itself_off_when_it_is_of_no_use_and_tries_again() {
    let mut ahead = ReadAhead::new(LIMITS);
    waste(&mut ahead, 0);
    assert_eq!(ahead.stats().turned_off, 1);
    let mut pauses = Vec::new();
    for round in 1..=3u32 {
        let mut pause = 0;
        while !ahead.stats().on {
            read_ahead(&mut ahead, round * 1_000_000 + pause);
            pause += 1;
        }
        pauses.push(pause);
        waste(&mut ahead, round * 1_000_000 + 500_000);
    }
    // The Exist that finds the last waste is the first of the pause.
    assert_eq!(pauses, [PAUSE_MIN - 1, 2 * PAUSE_MIN - 1, 4 * PAUSE_MIN - 1]);
    assert_eq!(ahead.stats().turned_off, 4);
}

#[test]
fn stays_on_while_half_is_used() {
    let mut ahead = ReadAhead::new(LIMITS);
    for n in 0..10_000 {
        read_ahead(&mut ahead, n);
        if n % 3 != 0 {
            ahead.on_retrieve(&key(n));
        }
    }
    assert_eq!(ahead.stats().turned_off, 0);
    assert!(ahead.stats().wasted > 1000, "{:?}", ahead.stats());
}

#[test]
fn recovers_when_the_hosts_change_their_ways() {
    let mut ahead = ReadAhead::new(LIMITS);
    waste(&mut ahead, 0);
    for n in 1_000_000..1_001_000 {
        read_ahead(&mut ahead, n);
        ahead.on_retrieve(&key(n));
    }
    assert!(ahead.stats().on);
    assert_eq!(ahead.stats().turned_off, 1);
    assert!(ahead.stats().used > 700);
    assert_eq!(ahead.next_pause, PAUSE_MIN, "trust is back");
}

proptest! {
    #[test]
    fn every_read_has_one_end_and_the_bounds_hold(calls in prop::collection::vec((0..4u8, 0..40u32, 0..400u64), 1..3000)) {
        let limits = ReadAheadLimits { in_flight: 1000, unread: 2000, entries: 7 };
        let mut ahead = ReadAhead::new(limits);
        let mut in_flight = HashSet::new();
        for (call, n, bytes) in calls {
            match call {
                0 | 1 => {
                    if ahead.on_exist(&key(n), bytes, call == 1 && n % 5 == 0) {
                        prop_assert!(in_flight.insert(n), "started twice");
                    }
                }
                2 => ahead.on_retrieve(&key(n)),
                _ => {
                    if in_flight.remove(&n) {
                        // A value may have become shorter, or may be gone.
                        ahead.on_done(&key(n), (bytes > 20).then_some(0));
                    }
                }
            }
            let stats = ahead.stats();
            let open = ahead.expected.values().filter(|entry| !entry.settled).count() as u64;
            prop_assert_eq!(stats.started, stats.used + stats.wasted + stats.failed + open);
            prop_assert!(stats.in_flight <= limits.in_flight && stats.unread <= limits.unread);
            prop_assert!(ahead.expected.len() <= limits.entries && ahead.order.len() <= 8 * limits.entries + 1);
            prop_assert_eq!(ahead.expected.values().filter(|entry| entry.in_flight).count(), in_flight.len());
        }
    }
}

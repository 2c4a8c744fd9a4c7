use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1024;
const MIB: u64 = 1 << 20;

fn key(n: u32) -> TierKey {
    in_namespace(0, n)
}

fn in_namespace(slot: u16, n: u32) -> TierKey {
    (slot, Key::new(&n.to_be_bytes()).unwrap())
}

/// Offers a value that has no bytes of its own and costs `cost`.
fn put(tier: &mut Tier, n: u32, cost: u64, why: Admit) {
    tier.insert(key(n), SharedBuf::from(&b""[..]), cost, why);
}

/// As a volume does: a value that is not here is read from a device and offered. Whether it was here.
fn read(tier: &mut Tier, n: u32, cost: u64) -> bool {
    let hit = tier.get(&key(n)).is_some();
    if !hit {
        put(tier, n, cost, Admit::Read);
    }
    hit
}

fn queue_of(tier: &Tier, n: u32) -> Option<u8> {
    tier.arena.find(&key(n)).map(|at| tier.arena.queue_of(at))
}

fn check(tier: &Tier) {
    tier.arena.check();
    let stats = tier.stats();
    assert!(stats.used <= stats.limit, "{stats:?}");
    assert!(stats.bookkeeping <= stats.used);
}

#[test]
fn what_is_put_in_is_found() {
    let mut tier = Tier::new(MIB);
    assert_eq!(tier.get(&key(1)).as_deref(), None);
    tier.insert(key(1), SharedBuf::from_vec(vec![7; 100]), 100, Admit::Stored);
    assert!(tier.contains(&key(1)) && !tier.contains(&in_namespace(1, 1)), "namespaces are apart");
    assert_eq!(tier.get(&key(1)).as_deref(), Some(&[7; 100][..]));
    let stats = tier.stats();
    assert_eq!((stats.hits, stats.misses, stats.hit_bytes, stats.inserted, stats.entries), (1, 1, 100, 1, 1));
    assert!(stats.used > 100 && stats.used == 100 + stats.bookkeeping);
}

#[test]
fn off() {
    let mut tier = Tier::new(0);
    tier.insert(key(1), SharedBuf::from_vec(vec![7; 100]), 100, Admit::Stored);
    tier.insert(key(2), SharedBuf::from_vec(vec![]), 0, Admit::Stored);
    assert!(!tier.contains(&key(1)) && !tier.contains(&key(2)));
    assert_eq!((tier.stats().used, tier.stats().rejected), (0, 2));
}

#[test]
fn a_value_costs_at_least_its_length() {
    let mut tier = Tier::new(MIB);
    tier.insert(key(1), SharedBuf::from_vec(vec![7; 1000]), 1, Admit::Stored);
    assert!(tier.stats().used >= 1000);
}

#[test]
fn a_large_value_is_not_kept_and_neither_is_its_predecessor() {
    let mut tier = Tier::new(MIB);
    put(&mut tier, 1, MIB / 8, Admit::Stored);
    assert!(tier.contains(&key(1)));
    put(&mut tier, 1, MIB / 8 + 1, Admit::Stored);
    assert!(!tier.contains(&key(1)));
    assert_eq!(tier.stats().rejected, 1);
    put(&mut tier, 1, u64::MAX, Admit::Stored);
    assert_eq!(tier.stats().rejected, 2);
}

#[test]
fn values_read_once_leave_through_the_small_queue() {
    let mut tier = Tier::new(10 * MIB);
    for n in 0..50 {
        put(&mut tier, n, 100 * KIB, Admit::Stored);
        tier.get(&key(n));
    }
    for n in 1000..2000 {
        put(&mut tier, n, 100 * KIB, if n % 2 == 0 { Admit::Stored } else { Admit::Read });
        assert_eq!(queue_of(&tier, n), Some(SMALL));
    }
    assert!((0..50).all(|n| queue_of(&tier, n) == Some(MAIN)), "what was read again is still here");
    assert!((1000..1900).all(|n| !tier.contains(&key(n))), "what was not is gone");
    check(&tier);
}

#[test]
fn a_key_that_comes_back_soon_goes_to_the_main_queue() {
    let mut tier = Tier::new(10 * MIB);
    // 100 values fill it; the first ones are pushed out.
    for n in 0..130 {
        put(&mut tier, n, 100 * KIB, Admit::Stored);
    }
    assert!(!tier.contains(&key(20)));
    put(&mut tier, 20, 100 * KIB, Admit::Read);
    assert_eq!(queue_of(&tier, 20), Some(MAIN));
    put(&mut tier, 500, 100 * KIB, Admit::Read);
    assert_eq!(queue_of(&tier, 500), Some(SMALL), "a new key");
    // Far more has left since: forgotten.
    for n in 1000..1300 {
        put(&mut tier, n, 100 * KIB, Admit::Stored);
    }
    put(&mut tier, 21, 100 * KIB, Admit::Read);
    assert_eq!(queue_of(&tier, 21), Some(SMALL));
}

#[test]
fn an_overwritten_value_keeps_its_place() {
    let mut tier = Tier::new(10 * MIB);
    put(&mut tier, 1, 100 * KIB, Admit::Stored);
    tier.get(&key(1));
    for n in 100..300 {
        put(&mut tier, n, 100 * KIB, Admit::Stored);
    }
    assert_eq!(queue_of(&tier, 1), Some(MAIN));
    put(&mut tier, 1, 50 * KIB, Admit::Stored);
    assert_eq!(queue_of(&tier, 1), Some(MAIN));
}

#[test]
fn the_small_queue_grows_when_values_come_back_too_late() {
    // Each value is read once, when some 60 others were stored after it: too late for the small queue at first.
    let mut tier = Tier::new(10 * MIB);
    let before = tier.stats().small;
    let mut late = 0;
    for n in 0..5000u32 {
        put(&mut tier, n, 100 * KIB, Admit::Stored);
        if let Some(old) = n.checked_sub(60) {
            late += u32::from(n >= 1000 && !read(&mut tier, old, 100 * KIB));
        }
    }
    assert!(tier.stats().small > 4 * before, "{:?}", tier.stats());
    assert!(late < 400, "{late} of 4000 reads came too late");
}

#[test]
fn the_small_queue_shrinks_when_popular_values_fall_out() {
    // Values that are read again and again, 90 % of what fits, and a stream of values that are read once.
    let mut tier = Tier::new(10 * MIB);
    let before = tier.stats().small;
    for n in 0..20_000u32 {
        read(&mut tier, n.wrapping_mul(2_654_435_761) % 110, 100 * KIB);
        if n % 4 == 0 {
            put(&mut tier, 1000 + n, 100 * KIB, Admit::Stored);
        }
    }
    assert!(tier.stats().small < before, "{:?}", tier.stats());
}

#[test]
fn a_loop_over_more_than_fits_finds_some_of_it() {
    let mut tier = Tier::new(10 * MIB);
    let mut hits = 0u32;
    for lap in 0..10 {
        for n in 0..400 {
            hits += u32::from(read(&mut tier, n, 100 * KIB) && lap == 9);
        }
    }
    assert!(tier.stats().closed);
    assert!(hits > 60, "{hits} of 400, a quarter fits");
    // Now something that fits: it is soon here.
    for _ in 0..3 {
        for n in 1000..1030 {
            read(&mut tier, n, 100 * KIB);
        }
    }
    assert!((1000..1030).all(|n| tier.contains(&key(n))));
    // New values, each read twice: the tier takes them in at once again.
    for n in 2000..3000 {
        read(&mut tier, n, 100 * KIB);
        read(&mut tier, n - 10, 100 * KIB);
    }
    assert!(!tier.stats().closed);
}

#[test]
fn stored_values_are_taken_in_while_a_loop_runs() {
    let mut tier = Tier::new(10 * MIB);
    for n in (0..400).cycle().take(2000) {
        read(&mut tier, n, 100 * KIB);
    }
    assert!(tier.stats().closed);
    put(&mut tier, 5000, 100 * KIB, Admit::Stored);
    put(&mut tier, 5001, 100 * KIB, Admit::ReadAhead);
    assert!(tier.contains(&key(5000)) && tier.contains(&key(5001)));
}

#[test]
fn the_read_that_was_expected_says_nothing_about_another() {
    let mut tier = Tier::new(10 * MIB);
    put(&mut tier, 1, 100 * KIB, Admit::ReadAhead);
    put(&mut tier, 2, 100 * KIB, Admit::ReadAhead);
    put(&mut tier, 3, 100 * KIB, Admit::ReadAhead);
    assert!(tier.get(&key(1)).is_some() && tier.get(&key(2)).is_some() && tier.get(&key(2)).is_some());
    assert_eq!((tier.stats().hits, tier.stats().ahead_hits), (3, 2));
    for n in 100..230 {
        put(&mut tier, n, 100 * KIB, Admit::Stored);
    }
    assert_eq!([1, 2, 3].map(|n| queue_of(&tier, n)), [None, Some(MAIN), None]);
    // The one that was never read is not remembered as one that was.
    put(&mut tier, 1, 100 * KIB, Admit::Read);
    put(&mut tier, 3, 100 * KIB, Admit::Read);
    assert_eq!([1, 3].map(|n| queue_of(&tier, n)), [Some(MAIN), Some(SMALL)]);
}

#[test]
fn small_values_leave_room_for_large_ones() {
    let mut tier = Tier::new(4 * MIB);
    for n in 0..100_000 {
        put(&mut tier, n, 20, Admit::Stored);
    }
    check(&tier);
    let stats = tier.stats();
    assert!(stats.used > stats.limit * 9 / 10 && stats.bookkeeping > stats.limit / 2, "{stats:?}");
    for n in 0..1000 {
        put(&mut tier, n, 100 * KIB, Admit::Stored);
    }
    check(&tier);
    let stats = tier.stats();
    assert!(stats.used > stats.limit * 9 / 10 && stats.bookkeeping < stats.limit / 100, "{stats:?}");
}

#[test]
fn giving_memory_back_forgets_nothing() {
    let mut tier = Tier::new(10 * MIB);
    (0..1000).for_each(|n| put(&mut tier, n, 9 * KIB, Admit::Stored));
    tier.get(&key(5));
    let before = tier.stats().bookkeeping;
    (10..1000).for_each(|n| tier.remove(&key(n)));
    assert!(tier.stats().bookkeeping < before / 4, "{before} bytes before, {:?}", tier.stats());
    assert!((0..10).all(|n| tier.contains(&key(n))));
    check(&tier);
    (1000..1200).for_each(|n| put(&mut tier, n, 100 * KIB, Admit::Stored));
    assert!((0..10).all(|n| (queue_of(&tier, n) == Some(MAIN)) == (n == 5)), "it was read");
}

#[test]
fn bookkeeping_of_a_value_is_stated() {
    let mut tier = Tier::new(1 << 40);
    for n in 0..100_000 {
        put(&mut tier, n, MIB, Admit::Stored);
    }
    let stats = tier.stats();
    assert_eq!(stats.entries, 100_000);
    assert!(stats.bookkeeping / stats.entries < 160, "{} bytes a value", stats.bookkeeping / stats.entries);
}

#[test]
fn a_lower_limit_holds_at_once() {
    let mut tier = Tier::new(10 * MIB);
    for n in 0..100 {
        put(&mut tier, n, 100 * KIB, Admit::Stored);
    }
    for limit in [5 * MIB, MIB, 100 * KIB, 1000, 0] {
        tier.set_limit(limit);
        check(&tier);
    }
    assert_eq!((tier.stats().entries, tier.stats().used), (0, 0));
    tier.set_limit(MIB);
    put(&mut tier, 1, 1000, Admit::Stored);
    assert!(tier.contains(&key(1)));
}

#[test]
fn the_same_calls_lead_to_the_same_state() {
    let run = || {
        let mut tier = Tier::new(3 * MIB);
        for n in 0..50_000u32 {
            read(&mut tier, n.wrapping_mul(2_654_435_761) >> 20 & (n | 15), u64::from(n % 7) * 10 * KIB);
        }
        (tier.stats(), (0..4096).filter(|n| tier.contains(&key(*n))).collect::<Vec<_>>())
    };
    assert_eq!(run(), run());
}

#[derive(Clone, Debug)]
enum Op {
    Insert { slot: u16, n: u32, len: usize, extra: u64, why: Admit },
    Get { slot: u16, n: u32 },
    Remove { slot: u16, n: u32 },
    RemoveNamespace { slot: u16 },
    SetLimit { limit: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let slot = 0..3u16;
    let n = prop_oneof![0..20u32, 0..600u32];
    let why = prop_oneof![Just(Admit::Stored), Just(Admit::Read), Just(Admit::ReadAhead)];
    let len = prop_oneof![0..64usize, 0..2000usize, 0..20_000usize];
    let limit = prop_oneof![Just(0), 0..5000u64, 0..300_000u64];
    let insert = (slot.clone(), n.clone(), len, prop_oneof![Just(0), 0..5000u64], why);
    let one = prop_oneof![
        40 => insert.prop_map(|(slot, n, len, extra, why)| Op::Insert { slot, n, len, extra, why }),
        40 => (slot.clone(), n.clone()).prop_map(|(slot, n)| Op::Get { slot, n }),
        10 => (slot.clone(), n).prop_map(|(slot, n)| Op::Remove { slot, n }),
        1 => slot.prop_map(|slot| Op::RemoveNamespace { slot }),
        1 => limit.prop_map(|limit| Op::SetLimit { limit }),
    ];
    prop::collection::vec(one, 1..600)
}

proptest! {
    #[test]
    fn never_an_older_value_and_never_too_much_memory(limit in 1000..300_000u64, ops in ops()) {
        let mut tier = Tier::new(limit);
        // What each key's value is, whether or not the tier has it.
        let mut model: HashMap<TierKey, Vec<u8>> = HashMap::new();
        let mut held = 0;
        for (at, op) in ops.into_iter().enumerate() {
            match op {
                Op::Insert { slot, n, len, extra, why } => {
                    let mut bytes = vec![0xa5; len];
                    bytes.iter_mut().zip(at.to_le_bytes()).for_each(|(byte, stamp)| *byte = stamp);
                    model.insert(in_namespace(slot, n), bytes.clone());
                    let before = tier.stats();
                    tier.insert(in_namespace(slot, n), SharedBuf::from_vec(bytes), len as u64 + extra, why);
                    let after = tier.stats();
                    prop_assert_eq!(after.inserted + after.rejected, before.inserted + before.rejected + 1);
                    prop_assert_eq!(after.inserted > before.inserted, tier.contains(&in_namespace(slot, n)));
                }
                Op::Get { slot, n } => {
                    let here = tier.contains(&in_namespace(slot, n));
                    let value = tier.get(&in_namespace(slot, n));
                    prop_assert_eq!(here, value.is_some());
                    if let Some(value) = value {
                        held += 1;
                        prop_assert_eq!(Some(&value[..]), model.get(&in_namespace(slot, n)).map(|bytes| &bytes[..]));
                    }
                }
                Op::Remove { slot, n } => {
                    tier.remove(&in_namespace(slot, n));
                    model.remove(&in_namespace(slot, n));
                    prop_assert!(!tier.contains(&in_namespace(slot, n)));
                }
                Op::RemoveNamespace { slot } => {
                    tier.remove_namespace(slot);
                    model.retain(|key, _| key.0 != slot);
                    prop_assert!((0..600).all(|n| !tier.contains(&in_namespace(slot, n))));
                }
                Op::SetLimit { limit } => tier.set_limit(limit),
            }
            check(&tier);
        }
        prop_assert_eq!(held, tier.stats().hits);
    }
}

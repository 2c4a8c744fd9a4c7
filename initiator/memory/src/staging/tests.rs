//! The stager against a device that ends copies late and in any order.

use proptest::prelude::*;

use super::*;
use crate::{Buffer, simulated::SimulatedDevice};

const LIMITS: StagingLimits = StagingLimits { piece_len: 16, pieces: 3 };

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 5) ^ seed.wrapping_mul(97)) as u8).collect()
}

fn filled(device: &SimulatedDevice, len: usize, seed: usize) -> Buffer {
    let mut buffer = device.region(len).buffer(0, len).unwrap();
    buffer.copy_from_host(0, &pattern(len, seed)).unwrap();
    buffer
}

fn content(buffer: &Buffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    buffer.copy_to_host(0, &mut bytes).unwrap();
    bytes
}

/// An outgoing value and what was seen of it.
struct Out {
    buffer: Buffer,
    id: TransferId,
    expected: Vec<u8>,
    sent: Vec<bool>,
    /// Stretches that the controller will ask for, the last one first.
    to_ask: Vec<(usize, usize)>,
}

/// What is being sent, as a socket has it: it takes any number of bytes at a time.
struct Wire(std::collections::VecDeque<(usize, usize, usize)>);

/// Cuts `0..len` into stretches.
fn cut(len: usize, cuts: &[usize], shuffled: bool) -> Vec<(usize, usize)> {
    let mut parts = Vec::new();
    let (mut at, mut next) = (0, cuts.iter().cycle());
    while at < len {
        let n = (next.next().unwrap() + 1).min(len - at);
        parts.push((at, n));
        at += n;
    }
    parts.reverse();
    if shuffled {
        let mid = parts.len() / 2;
        parts.rotate_left(mid);
    }
    parts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_wanted_comes_in_order_from_few_pieces(
        lens in proptest::collection::vec(1usize..120, 1..6),
        cuts in proptest::collection::vec(0usize..40, 1..6),
        shuffled in any::<bool>(),
        one_by_one in any::<bool>(),
        max in 1usize..30,
        steps in proptest::collection::vec((0u8..5, any::<usize>()), 20..400),
    ) {
        let device = SimulatedDevice::new();
        let mut stager = Stager::new(LIMITS);
        let mut values: Vec<Out> = Vec::new();
        for (seed, len) in lens.iter().enumerate() {
            let buffer = filled(&device, *len, seed);
            let id = stager.open(buffer.device_range().unwrap(), Direction::ToHost).unwrap();
            values.push(Out {
                buffer, id,
                expected: pattern(*len, seed),
                sent: vec![false; *len],
                to_ask: cut(*len, &cuts, shuffled),
            });
        }
        let mut wanted = std::collections::VecDeque::new();
        let mut wire = Wire(Default::default());
        // After the given steps it all has to end, whatever is done in turns.
        let turns = (0..20_000usize).map(|n| ((n % 5) as u8, n / 5));
        for (what, n) in steps.into_iter().chain(turns) {
            match what {
                0 => {
                    let open: Vec<usize> = (0..values.len()).filter(|i| !values[*i].to_ask.is_empty()).collect();
                    // A controller may ask for the last value only, and for the others when it has all of that.
                    let at = if one_by_one { open.last() } else { open.get(n % open.len().max(1)) };
                    if let Some(at) = at.filter(|_| !one_by_one || wanted.is_empty()) {
                        let (offset, len) = values[*at].to_ask.pop().unwrap();
                        stager.want(values[*at].id, offset, len);
                        wanted.push_back((*at, offset, len));
                    }
                }
                1 => { device.finish(n); }
                2 => { stager.poll(); }
                3 => {
                    if let Some(ready) = stager.next(max).unwrap() {
                        prop_assert!(ready.len > 0 && ready.len <= max);
                        let (at, offset, left) = wanted.front_mut().expect("nothing was wanted");
                        let value = &mut values[*at];
                        prop_assert_eq!((ready.id, ready.offset), (value.id, *offset));
                        prop_assert!(ready.len <= *left);
                        let bytes = stager.bytes(ready.slot, ready.at, ready.len).unwrap();
                        prop_assert_eq!(bytes, &value.expected[*offset..*offset + ready.len]);
                        for sent in &mut value.sent[*offset..*offset + ready.len] {
                            prop_assert!(!std::mem::replace(sent, true));
                        }
                        *offset += ready.len;
                        *left -= ready.len;
                        if *left == 0 {
                            wanted.pop_front();
                        }
                        wire.0.push_back((ready.slot, ready.at, ready.len));
                    }
                }
                _ => {
                    // The socket takes a few bytes; what waits stays as it is.
                    if let Some((slot, at, len)) = wire.0.front_mut() {
                        prop_assert!(stager.bytes(*slot, *at, *len).is_some());
                        let taken = (n % *len) + 1;
                        stager.sent(*slot, taken);
                        *at += taken;
                        *len -= taken;
                        if *len == 0 {
                            wire.0.pop_front();
                        }
                    }
                }
            }
            prop_assert!(stager.outgoing_pieces() <= LIMITS.pieces);
            prop_assert!(device.running() <= LIMITS.pieces);
            if wire.0.is_empty() && values.iter().all(|v| v.sent.iter().all(|s| *s)) {
                break;
            }
        }
        for value in &values {
            prop_assert!(value.sent.iter().all(|s| *s), "stuck: {:?}", stager);
        }
        for value in values {
            stager.close(value.id);
            while !stager.is_quiet(value.id) {
                device.finish(0);
                stager.poll();
            }
            prop_assert!(stager.end(value.id).unwrap().is_ok());
            prop_assert_eq!(content(&value.buffer), value.expected);
        }
        prop_assert!(!stager.is_copying());
        prop_assert_eq!(stager.outgoing.idle(), stager.outgoing_pieces());
    }

    #[test]
    fn what_comes_is_in_the_device_when_it_is_said_to_be(
        lens in proptest::collection::vec(1usize..120, 1..6),
        runs in proptest::collection::vec((any::<usize>(), 1usize..50), 1..8),
        steps in proptest::collection::vec((0u8..4, any::<usize>()), 20..400),
    ) {
        let device = SimulatedDevice::new();
        let mut stager = Stager::new(LIMITS);
        // Buffer, transfer, bytes that have come; none of them if it has ended.
        let mut values: Vec<(Buffer, Option<TransferId>, usize)> = lens.iter().map(|len| {
            let buffer = device.region(*len).buffer(0, *len).unwrap();
            let id = stager.open(buffer.device_range().unwrap(), Direction::ToDevice).unwrap();
            (buffer, Some(id), 0)
        }).collect();
        // The value whose bytes come, and how many of this run are left: as C2HData of several commands do.
        let mut run: Option<(usize, usize)> = None;
        let mut runs = runs.into_iter().cycle();
        let turns = (0..20_000usize).map(|n| ((n % 4) as u8, n / 4));
        for (what, n) in steps.into_iter().chain(turns) {
            match what {
                0 => { device.finish(n); }
                1 => { stager.poll(); }
                2 => {
                    if run.is_none() {
                        let open: Vec<usize> = (0..values.len()).filter(|i| values[*i].2 < lens[*i]).collect();
                        let (which, len) = runs.next().unwrap();
                        run = open.get(which % open.len().max(1)).map(|at| (*at, len.min(lens[*at] - values[*at].2)));
                    }
                    if let Some((at, left)) = run {
                        let (_, id, come) = &mut values[at];
                        let id = id.unwrap();
                        let Some(place) = stager.place(id, *come, left) else {
                            prop_assert!(device.running() > 0 || stager.is_copying(), "no place and no copy");
                            continue;
                        };
                        prop_assert!(!place.is_empty() && place.len() <= left);
                        let got = n % place.len() + 1;
                        let bytes = &pattern(lens[at], at)[*come..*come + got];
                        place[..got].copy_from_slice(bytes);
                        prop_assert_eq!(stager.placed(got), bytes);
                        stager.advance(got);
                        *come += got;
                        run = (left > got).then(|| (at, left - got));
                        if *come == lens[at] {
                            stager.flush(id);
                        }
                    }
                }
                _ => {
                    let at = n % values.len();
                    let (buffer, id, come) = &mut values[at];
                    if let Some(key) = *id && *come == lens[at] && let Some(result) = stager.end(key) {
                        prop_assert!(result.is_ok());
                        prop_assert_eq!(content(buffer), pattern(lens[at], at));
                        *id = None;
                    }
                }
            }
            prop_assert!(stager.incoming_pieces() <= LIMITS.pieces);
            if values.iter().all(|v| v.1.is_none()) {
                break;
            }
        }
        prop_assert!(values.iter().all(|v| v.1.is_none()), "stuck: {:?}", stager);
        prop_assert!(!stager.is_copying());
    }

    #[test]
    fn closing_at_any_time_frees_everything_and_touches_nothing_later(
        seed in any::<u64>(),
        len in 1usize..200,
        out in any::<bool>(),
        steps in 0usize..40,
        fails in proptest::option::of(0u64..8),
    ) {
        let device = SimulatedDevice::new();
        if let Some(nth) = fails {
            device.fail(nth);
        }
        let mut stager = Stager::new(LIMITS);
        let mut random = seed;
        let mut below = |n: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % n
        };
        let buffer = filled(&device, len, 1);
        let direction = if out { Direction::ToHost } else { Direction::ToDevice };
        let id = stager.open(buffer.device_range().unwrap(), direction).unwrap();
        let mut at = 0;
        for _ in 0..steps {
            match below(3) {
                0 => { device.finish(below(4)); stager.poll(); }
                1 if out && at < len => {
                    let n = below(len - at) + 1;
                    stager.want(id, at, n);
                    at += n;
                }
                1 if !out && at < len => {
                    if let Some(place) = stager.place(id, at, len - at) {
                        let n = below(place.len()) + 1;
                        place[..n].fill(7);
                        stager.advance(n);
                        at += n;
                    }
                }
                _ => match stager.next(9) {
                    Ok(Some(ready)) if below(2) == 0 => stager.sent(ready.slot, ready.len),
                    Ok(_) => {}
                    Err((of, _)) => {
                        prop_assert_eq!(of, id);
                        prop_assert!(fails.is_some());
                    }
                },
            }
        }
        stager.close(id);
        prop_assert!(stager.place(id, at, 1).is_none());
        prop_assert_eq!(stager.next(9).unwrap(), None);
        let mut result = stager.end(id);
        let mut copies = 0;
        while result.is_none() {
            copies += usize::from(device.finish(below(4)));
            stager.poll();
            result = stager.end(id);
        }
        prop_assert!(copies <= 2 * LIMITS.pieces);
        prop_assert!(fails.is_some() || result.unwrap().is_ok());
        prop_assert!(!stager.is_copying() && device.running() == 0);
        prop_assert_eq!(stager.outgoing.idle(), stager.outgoing_pieces());
        prop_assert_eq!(stager.incoming.idle(), stager.incoming_pieces());
        if out {
            prop_assert_eq!(content(&buffer), pattern(len, 1));
        }
        // The number of the transfer is free for the next one, which finds nothing of the old.
        let next = filled(&device, 40, 2);
        let id = stager.open(next.device_range().unwrap(), Direction::ToHost).unwrap();
        stager.want(id, 0, 40);
        let mut got = Vec::new();
        while got.len() < 40 {
            device.finish(0);
            stager.poll();
            if let Ok(Some(ready)) = stager.next(100) {
                got.extend_from_slice(stager.bytes(ready.slot, ready.at, ready.len).unwrap());
                stager.sent(ready.slot, ready.len);
            } else if fails.is_some() {
                return Ok(());
            }
        }
        prop_assert_eq!(got, pattern(40, 2));
    }
}

#[test]
fn a_failed_copy_is_the_error_of_its_transfer_alone() {
    let device = SimulatedDevice::new();
    let mut stager = Stager::new(LIMITS);
    device.fail(0);
    let (bad, good) = (filled(&device, 10, 0), filled(&device, 10, 1));
    let bad_id = stager.open(bad.device_range().unwrap(), Direction::ToHost).unwrap();
    let good_id = stager.open(good.device_range().unwrap(), Direction::ToHost).unwrap();
    stager.want(bad_id, 0, 10);
    stager.want(good_id, 0, 10);
    while device.finish(0) {}
    assert!(stager.poll());
    let (id, error) = stager.next(100).unwrap_err();
    assert_eq!((id, error.to_string().as_str()), (bad_id, "device memory: the copy failed"));
    stager.close(bad_id);
    assert!(stager.end(bad_id).unwrap().is_err());
    let ready = stager.next(100).unwrap().unwrap();
    assert_eq!((ready.id, stager.bytes(ready.slot, ready.at, 10)), (good_id, Some(&pattern(10, 1)[..])));
}

#[test]
fn fewer_pieces_than_allowed_are_enough_and_none_is_an_error() {
    let device = SimulatedDevice::new();
    device.limit_pieces(1);
    let mut stager = Stager::new(LIMITS);
    let buffer = filled(&device, 50, 3);
    let id = stager.open(buffer.device_range().unwrap(), Direction::ToHost).unwrap();
    let error = stager.open(buffer.device_range().unwrap(), Direction::ToDevice).unwrap_err();
    assert!(error.to_string().contains("no pinned memory"), "{error}");
    stager.want(id, 0, 50);
    let mut got = Vec::new();
    while got.len() < 50 {
        assert!(device.running() <= 1);
        device.finish(0);
        stager.poll();
        while let Some(ready) = stager.next(7).unwrap() {
            got.extend_from_slice(stager.bytes(ready.slot, ready.at, ready.len).unwrap());
            stager.sent(ready.slot, ready.len);
        }
    }
    assert_eq!(got, pattern(50, 3));
    assert_eq!(stager.pinned(), LIMITS.piece_len);
}

#[test]
fn copies_overlap_with_what_is_on_the_wire() {
    let device = SimulatedDevice::new();
    let mut stager = Stager::new(LIMITS);
    let buffer = filled(&device, 100, 4);
    let id = stager.open(buffer.device_range().unwrap(), Direction::ToHost).unwrap();
    assert_eq!(device.running(), 1, "the first piece is read before anyone asks");
    stager.want(id, 0, 100);
    assert_eq!(device.running(), 3, "all pieces are in use at once");
    device.finish(0);
    stager.poll();
    // On the way, one by one: as soon as a piece is sent it is filled again.
    let ready = stager.next(16).unwrap().unwrap();
    assert_eq!((ready.offset, ready.len, device.running()), (0, 16, 2));
    stager.sent(ready.slot, 15);
    assert_eq!(device.running(), 2);
    stager.sent(ready.slot, 1);
    assert_eq!(device.running(), 3);
}

#[test]
fn a_sleeper_is_told_when_a_copy_is_over() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let device = SimulatedDevice::lively(1, std::time::Duration::from_millis(1));
    let mut stager = Stager::new(LIMITS);
    assert!(stager.fd().is_none());
    let buffer = filled(&device, 10, 5);
    let id = stager.open(buffer.device_range().unwrap(), Direction::ToHost).unwrap();
    stager.want(id, 0, 10);
    let long = Timespec { tv_sec: 20, tv_nsec: 0 };
    let fd = stager.fd().unwrap();
    assert_eq!(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&long)).unwrap(), 1);
    assert!(stager.poll());
    assert!(stager.next(10).unwrap().is_some());
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::from_borrowed_fd(stager.fd().unwrap(), PollFlags::IN)], Some(&now)).unwrap(), 0);
}

#[test]
fn a_stager_that_is_dropped_waits_for_its_copies() {
    let device = SimulatedDevice::new();
    let mut stager = Stager::new(LIMITS);
    let buffer = filled(&device, 60, 6);
    let id = stager.open(buffer.device_range().unwrap(), Direction::ToHost).unwrap();
    stager.want(id, 0, 60);
    assert_eq!(device.running(), 3);
    drop(stager);
    assert_eq!(device.running(), 0);
}

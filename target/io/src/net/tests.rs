//! Tests of the send queue and the receive, over socket pairs with small buffers.

use std::os::fd::{AsFd, OwnedFd};

use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

use super::*;
use crate::{PoolConfig, Region};

fn pair(send_buffer: usize) -> (OwnedFd, OwnedFd) {
    // Blocking sockets: it is each call that must not block.
    let (tx, rx) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_send_buffer_size(&tx, send_buffer).unwrap();
    (tx, rx)
}

fn spare() -> Pool {
    Pool::new(PoolConfig { limit: 1 << 20, shards: 1 })
}

/// Everything that has arrived, taken in two pieces at a time.
fn drain(rx: &OwnedFd, into: &mut Vec<u8>) {
    let (mut a, mut b) = ([0u8; 1000], [0u8; 3000]);
    loop {
        match recv_vectored(rx.as_fd(), &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)]) {
            Ok(0) => return,
            Ok(n) => {
                into.extend_from_slice(&a[..n.min(1000)]);
                into.extend_from_slice(&b[..n.saturating_sub(1000)]);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(e) => panic!("{e}"),
        }
    }
}

/// Sends all of `queue` through `tx`, checking its accounts; the number of times it was blocked.
fn pump(queue: &mut TxQueue, tx: &OwnedFd, rx: &OwnedFd, got: &mut Vec<u8>) -> usize {
    let mut blocked = 0;
    loop {
        let before = queue.pending();
        let sent = queue.send(tx.as_fd(), &spare()).unwrap();
        assert_eq!(before - queue.pending(), sent.bytes);
        assert_eq!(sent.would_block, !queue.is_empty());
        drain(rx, got);
        if !sent.would_block {
            return blocked;
        }
        blocked += 1;
    }
}

#[test]
fn every_kind_of_segment_arrives_whole_through_a_small_socket() {
    let (tx, rx) = pair(4096);
    let pool = Pool::new(PoolConfig::new(1 << 20));
    let region = Region::new(1 << 20).unwrap();
    let pattern: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    region.copy_in(0, &pattern).unwrap();
    let mut queue = TxQueue::new();
    let mut expected = Vec::new();
    for round in 0..40usize {
        let header = [round as u8; 24];
        queue.push_bytes(&header);
        expected.extend_from_slice(&header);
        let mut buf = pool.alloc(7001).unwrap();
        buf.copy_from_slice(&pattern[round * 13..][..7001]);
        expected.extend_from_slice(&buf);
        queue.push(TxSeg::Shared(buf.freeze()));
        queue.push(TxSeg::Region(region.slice(round as u64 * 4097, 20_011).unwrap()));
        expected.extend_from_slice(&pattern[round * 4097..][..20_011]);
        queue.push_bytes(&pattern[..100]);
        expected.extend_from_slice(&pattern[..100]);
        queue.push(TxSeg::Shared(SharedBuf::from_vec(Vec::new())));
    }
    assert_eq!(queue.pending(), expected.len());
    let mut got = Vec::new();
    let blocked = pump(&mut queue, &tx, &rx, &mut got);
    assert!(blocked > 10, "a small socket must have been full often, not {blocked} times");
    assert!(got == expected, "{} bytes arrived, {} were sent", got.len(), expected.len());
    assert_eq!(pool.in_use(), 0, "sent buffers must go back");
}

#[test]
fn more_segments_than_one_call_takes() {
    let (tx, rx) = pair(1 << 20);
    let mut queue = TxQueue::new();
    let one = SharedBuf::from_vec(vec![1, 2, 3]);
    for _ in 0..3 * MAX_IOVECS + 1 {
        queue.push(TxSeg::Shared(one.clone()));
    }
    let mut got = Vec::new();
    pump(&mut queue, &tx, &rx, &mut got);
    assert_eq!(got, [1u8, 2, 3].repeat(3 * MAX_IOVECS + 1));
}

#[test]
fn small_bytes_that_follow_each_other_are_one_part() {
    let mut queue = TxQueue::new();
    for n in 0..4u8 {
        queue.push_bytes(&[n; 24]);
    }
    assert_eq!(queue.parts.len(), 1);
    queue.push(TxSeg::Shared(SharedBuf::from_vec(vec![9])));
    queue.push_bytes(&[4; 8]);
    queue.push_bytes(&[]);
    assert_eq!((queue.parts.len(), queue.pending()), (3, 105));
    queue.clear();
    assert_eq!((queue.parts.len(), queue.small.len(), queue.pending(), queue.is_empty()), (0, 0, 0, true));
}

/// A queue that is never empty forgets what is sent all the same.
#[test]
fn small_bytes_do_not_pile_up() {
    let (tx, rx) = pair(64 << 10);
    let mut queue = TxQueue::new();
    let one = SharedBuf::from_vec(vec![7; 1000]);
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    for round in 0..5000_u32 {
        let header = [round as u8; 24];
        queue.push_bytes(&header);
        queue.push(TxSeg::Shared(one.clone()));
        expected.extend_from_slice(&header);
        expected.extend_from_slice(&one);
        if round > 0 {
            assert_eq!(queue.send_some(tx.as_fd(), &spare(), 1024).unwrap(), Sent { bytes: 1024, would_block: false });
            drain(&rx, &mut got);
        }
        assert!(queue.pending() > 0 && queue.small.len() <= SPENT_MAX + 100, "{}", queue.small.len());
    }
    pump(&mut queue, &tx, &rx, &mut got);
    assert!(got == expected);
}

/// Nor does one that only ever has headers, of which some are always left.
#[test]
fn small_bytes_without_memory_between_them_do_not_pile_up() {
    let (tx, rx) = pair(64 << 10);
    let mut queue = TxQueue::new();
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    queue.push_bytes(&[9; 24]);
    expected.extend_from_slice(&[9; 24]);
    for round in 0..20_000_u32 {
        let header = [round as u8; 24];
        queue.push_bytes(&header);
        expected.extend_from_slice(&header);
        assert_eq!(queue.send_some(tx.as_fd(), &spare(), 24).unwrap(), Sent { bytes: 24, would_block: false });
        if round % 100 == 0 {
            drain(&rx, &mut got);
        }
        assert_eq!(queue.pending(), 24);
        assert!(queue.small.len() <= SPENT_MAX + SMALL_MAX + 100, "{}", queue.small.len());
    }
    pump(&mut queue, &tx, &rx, &mut got);
    assert!(got == expected);
}

#[test]
fn a_gone_peer_is_an_error_and_not_a_signal() {
    let (tx, rx) = pair(4096);
    drop(rx);
    let mut queue = TxQueue::new();
    queue.push_bytes(b"anyone?");
    assert_eq!(queue.send(tx.as_fd(), &spare()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(queue.pending(), 7);
}

#[test]
fn receive_tells_nothing_from_the_end() {
    let (tx, rx) = pair(4096);
    let mut byte = [0u8; 1];
    let kind = |r: io::Result<usize>| r.unwrap_err().kind();
    assert_eq!(kind(recv_vectored(rx.as_fd(), &mut [IoSliceMut::new(&mut byte)])), io::ErrorKind::WouldBlock);
    assert_eq!(kind(recv_vectored(rx.as_fd(), &mut [])), io::ErrorKind::InvalidInput);
    assert_eq!(kind(recv_vectored(rx.as_fd(), &mut [IoSliceMut::new(&mut [])])), io::ErrorKind::InvalidInput);
    drop(tx);
    assert_eq!(recv_vectored(rx.as_fd(), &mut [IoSliceMut::new(&mut byte)]).unwrap(), 0);
}

#[test]
fn receive_takes_any_number_of_slices() {
    let (tx, rx) = pair(1 << 16);
    rustix::io::write(&tx, &[7u8; 3000]).unwrap();
    let mut bytes = vec![0u8; 3000];
    let mut slices: Vec<IoSliceMut<'_>> = bytes.chunks_mut(1).map(IoSliceMut::new).collect();
    assert_eq!(recv_vectored(rx.as_fd(), &mut slices).unwrap(), 1024);
    drop(slices);
    assert_eq!(bytes.iter().filter(|b| **b == 7).count(), 1024);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_segments_arrive_in_order(
        lens in prop::collection::vec(prop_oneof![0usize..80, 0usize..10_000], 0..60),
        buffer in 1usize..20_000,
        send_every in 1usize..8,
    ) {
        let (tx, rx) = pair(buffer);
        let mut queue = TxQueue::new();
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        for (n, len) in lens.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + n * 17) as u8).collect();
            expected.extend_from_slice(&bytes);
            if n % 3 == 0 { queue.push(TxSeg::Shared(SharedBuf::from_vec(bytes))) } else { queue.push_bytes(&bytes) }
            if n % send_every == 0 {
                queue.send(tx.as_fd(), &spare()).unwrap();
                prop_assert_eq!(queue.pending() + got.len() + arrived(&rx, &mut got), expected.len());
                prop_assert!(queue.touched <= queue.pending());
            }
        }
        pump(&mut queue, &tx, &rx, &mut got);
        prop_assert!(got == expected);
    }
}

/// Drains `rx`; how many bytes that added.
fn arrived(rx: &OwnedFd, got: &mut Vec<u8>) -> usize {
    let before = got.len();
    drain(rx, got);
    got.len() - before
}

#[test]
fn what_is_not_sent_can_be_moved_to_memory() {
    let region = Region::new(4096).unwrap();
    region.copy_in(0, &[7; 16]).unwrap();
    let mut tx = TxQueue::new();
    tx.push_bytes(b"head");
    tx.push(TxSeg::Shared(SharedBuf::from_vec(b"value".to_vec())));
    tx.push(TxSeg::Region(region.slice(3, 6).unwrap()));
    let mut out = b"before ".to_vec();
    tx.drain_into(&mut out);
    assert_eq!(out, b"before headvalue\x07\x07\x07\x07\x07\x07");
    assert!(tx.is_empty());
    tx.push_bytes(b"next");
    tx.drain_into(&mut out);
    assert!(out.ends_with(b"next"));
}

#[test]
fn no_more_than_asked_is_sent_and_nothing_is_lost_in_between() {
    let (tx, rx) = pair(1 << 20);
    let pattern: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for most in [1, 55, 56, 4096, 7000, 7056, 99_999, 100_000, usize::MAX] {
        let mut queue = TxQueue::new();
        let mut at = 0;
        for len in (0..).map(|n| [40, 7000, 16][n % 3]) {
            let Some(bytes) = pattern.get(at..at + len) else { break };
            queue.push_bytes(bytes);
            at += len;
        }
        let mut got = Vec::new();
        while !queue.is_empty() && got.len() < most.saturating_mul(200) {
            let before = queue.pending();
            let sent = queue.send_some(tx.as_fd(), &spare(), most).unwrap();
            assert_eq!((sent.bytes, sent.would_block), (before.min(most), false));
            assert_eq!(queue.pending(), before - sent.bytes);
            drain(&rx, &mut got);
        }
        assert!(got == pattern[..got.len()], "{most} at a time");
        assert!(got.len() == at || most < 500, "{} of {at} bytes, {most} at a time", got.len());
    }
    assert_eq!(TxQueue::new().send_some(tx.as_fd(), &spare(), 0).unwrap(), Sent { bytes: 0, would_block: false });
}

/// Memory and small bytes, some of it with a digest behind it, as they should arrive.
#[derive(Debug, Clone)]
enum Piece {
    Small(u8, usize),
    Shared(usize, usize, bool),
    Region(usize, usize, bool),
}

const MEMORY: usize = 1 << 20;

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let len = prop_oneof![0usize..200, 16_000usize..17_000, 250_000usize..600_000];
    let words = len.clone().prop_map(|len| len & !7);
    let piece = prop_oneof![
        (any::<u8>(), 0usize..6000).prop_map(|(byte, len)| Piece::Small(byte, len)),
        (0usize..4000, len.clone(), any::<bool>()).prop_map(|(at, len, digest)| Piece::Shared(at, len, digest)),
        (0usize..500, words, any::<bool>()).prop_map(|(at, len, digest)| Piece::Region(at * 8, len, digest)),
        (0usize..4000, len, any::<bool>()).prop_map(|(at, len, digest)| Piece::Region(at, len, digest)),
    ];
    prop::collection::vec(piece, 1..12)
}

fn queue_of(pieces: &[Piece], region: &Region, shared: &SharedBuf) -> (TxQueue, Vec<u8>) {
    let (mut queue, mut expected) = (TxQueue::new(), Vec::new());
    for piece in pieces {
        let (seg, at, len, digest) = match *piece {
            Piece::Small(byte, len) => {
                queue.push_bytes(&vec![byte; len]);
                expected.resize(expected.len() + len, byte);
                continue;
            }
            Piece::Shared(at, len, digest) => (TxSeg::Shared(shared.slice(at..at + len).unwrap()), at, len, digest),
            Piece::Region(at, len, digest) => (TxSeg::Region(region.slice(at as u64, len).unwrap()), at, len, digest),
        };
        let bytes = &shared[at..at + len];
        expected.extend_from_slice(bytes);
        if digest {
            queue.push_digested(seg);
            if len > 0 {
                expected.extend_from_slice(&Crc32c::of(bytes).to_le_bytes());
            }
        } else {
            queue.push(seg);
        }
    }
    (queue, expected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn digests_follow_what_they_are_of(
        pieces in pieces(), limit in prop_oneof![Just(4096usize), Just(64 << 10), Just(1 << 20)],
        most in prop_oneof![Just(usize::MAX), 1usize..300_000], socket in prop_oneof![Just(4096usize), Just(400_000)],
        drained in any::<bool>(),
    ) {
        let pattern: Vec<u8> = (0..MEMORY as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let region = Region::new(MEMORY).unwrap();
        region.copy_in(0, &pattern).unwrap();
        let shared = SharedBuf::from_vec(pattern);
        let pool = Pool::new(PoolConfig { limit, shards: 1 });
        let (tx, rx) = pair(socket);
        let (mut queue, expected) = queue_of(&pieces, &region, &shared);
        prop_assert_eq!(queue.pending(), expected.len());
        let mut got = Vec::new();
        let mut calls = 0;
        while !queue.is_empty() {
            let before = queue.pending();
            let sent = queue.send_some(tx.as_fd(), &pool, most).unwrap();
            prop_assert_eq!(before - queue.pending(), sent.bytes);
            prop_assert!(sent.bytes <= most && (sent.would_block || sent.bytes > 0));
            // Copies run ahead of the socket by so much, in whole strips and size classes.
            prop_assert!(pool.in_use() <= DIGESTED_AHEAD * 5 / 4 + (64 << 10), "{} bytes", pool.in_use());
            drain(&rx, &mut got);
            calls += 1;
            // The rest by another way.
            if drained && calls == 3 {
                queue.drain_into(&mut got);
            }
        }
        prop_assert!(got == expected, "{} bytes arrived, {} were sent", got.len(), expected.len());
        prop_assert_eq!(pool.in_use(), 0);
    }
}

/// Another command writes the blocks of an answer of which the socket has taken a part.
#[test]
fn a_digest_is_of_the_bytes_that_were_sent() {
    const LEN: usize = 700 << 10;
    let (tx, rx) = pair(64 << 10);
    let region = Region::new(LEN).unwrap();
    let mut queue = TxQueue::new();
    queue.push_digested(TxSeg::Region(region.slice(0, LEN).unwrap()));
    let pool = spare();
    let mut got = Vec::new();
    let mut value = 0;
    while !queue.is_empty() {
        queue.send(tx.as_fd(), &pool).unwrap();
        value += 1;
        region.fill(0, LEN, value).unwrap();
        drain(&rx, &mut got);
    }
    let (data, digest) = got.split_at(LEN);
    assert!(data[0] == 0 && data[LEN - 1] > 0, "the whole answer was copied at once");
    assert_eq!(digest, Crc32c::of(data).to_le_bytes());
    // What ran ahead of the socket did not change any more.
    assert!(data[..DIGESTED_AHEAD].iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_cleared_leaves_no_digest_behind() {
    let (tx, rx) = pair(64 << 10);
    let mut queue = TxQueue::new();
    let shared = SharedBuf::from_vec(vec![5; 1000]);
    queue.push_digested(TxSeg::Shared(shared.clone()));
    queue.clear();
    assert!(queue.is_empty());
    queue.push_bytes(&[1; 4]);
    queue.push_digested(TxSeg::Shared(shared.clone()));
    let mut got = Vec::new();
    pump(&mut queue, &tx, &rx, &mut got);
    assert_eq!(got, [&[1; 4], &shared[..], &Crc32c::of(&shared).to_le_bytes()].concat());
}

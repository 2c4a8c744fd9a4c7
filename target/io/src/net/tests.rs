//! Tests of the send queue and the receive, over socket pairs with small buffers.

use std::os::fd::{AsFd, OwnedFd};

use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

use super::*;
use crate::{Pool, PoolConfig, Region};

fn pair(send_buffer: usize) -> (OwnedFd, OwnedFd) {
    // Blocking sockets: it is each call that must not block.
    let (tx, rx) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_send_buffer_size(&tx, send_buffer).unwrap();
    (tx, rx)
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
        let sent = queue.send(tx.as_fd()).unwrap();
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
            assert_eq!(queue.send_some(tx.as_fd(), 1024).unwrap(), Sent { bytes: 1024, would_block: false });
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
        assert_eq!(queue.send_some(tx.as_fd(), 24).unwrap(), Sent { bytes: 24, would_block: false });
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
    assert_eq!(queue.send(tx.as_fd()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
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
                queue.send(tx.as_fd()).unwrap();
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
            let sent = queue.send_some(tx.as_fd(), most).unwrap();
            assert_eq!((sent.bytes, sent.would_block), (before.min(most), false));
            assert_eq!(queue.pending(), before - sent.bytes);
            drain(&rx, &mut got);
        }
        assert!(got == pattern[..got.len()], "{most} at a time");
        assert!(got.len() == at || most < 500, "{} of {at} bytes, {most} at a time", got.len());
    }
    assert_eq!(TxQueue::new().send_some(tx.as_fd(), 0).unwrap(), Sent { bytes: 0, would_block: false });
}

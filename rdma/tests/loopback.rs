//! Two endpoints of one process, through a real device: set `KVOF_RDMA_ADDRESS` to an IP address of one. In the test guest that is
//! Soft-RoCE.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_rdma::{
    CmChannel, CmEvent, CmId, CmListener, CompletionQueue, ConnectionEvent, Endpoint, EndpointConfig, Event,
    HostMemory, Memory, RemoteAccess, RemoteKey, RemoteSegment,
};

type Peer = Endpoint<HostMemory>;

const PATIENCE: Duration = Duration::from_secs(20);

/// Both ends of one connection, driven by one thread.
struct Pair {
    host: Peer,
    target: Peer,
    host_cq: Arc<CompletionQueue>,
    target_cq: Arc<CompletionQueue>,
    host_events: VecDeque<Event<HostMemory>>,
    target_events: VecDeque<Event<HostMemory>>,
    channel: Arc<CmChannel>,
    _listener: CmListener,
}

fn address() -> Option<IpAddr> {
    match std::env::var("KVOF_RDMA_ADDRESS") {
        Ok(text) => Some(text.parse().expect("KVOF_RDMA_ADDRESS is an IP address")),
        Err(_) => {
            let why =
                kvof_rdma::is_available().map_or_else(|e| e.to_string(), |()| "KVOF_RDMA_ADDRESS is not set".into());
            println!("skipped: no RDMA device to test with: {why}");
            None
        }
    }
}

fn config(key: u32) -> EndpointConfig {
    EndpointConfig {
        key,
        receives: 16,
        receive_size: 4160,
        sends: 8,
        send_size: 4160,
        transfers: 32,
        reads: 16,
        reads_served: 16,
    }
}

fn next(channel: &Arc<CmChannel>) -> CmEvent {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(event) = channel.poll().unwrap() {
            return event;
        }
        assert!(Instant::now() < until, "no connection event in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connection to be, its route resolved.
fn resolve(channel: &Arc<CmChannel>, key: u64, to: SocketAddr) -> CmId {
    let id = CmId::resolve(channel, key, to, PATIENCE).unwrap();
    let is = |event: CmEvent, wanted: ConnectionEvent| match event {
        CmEvent::Connection { key: k, event } => assert_eq!((k, event), (key, wanted)),
        CmEvent::Request { .. } => panic!("a request: {event:?}"),
    };
    is(next(channel), ConnectionEvent::AddressResolved);
    id.resolve_route(PATIENCE).unwrap();
    is(next(channel), ConnectionEvent::RouteResolved);
    id
}

impl Pair {
    fn new(ip: IpAddr) -> Self {
        let channel = CmChannel::new().unwrap();
        let listeners = CmChannel::new().unwrap();
        let listener = CmListener::bind(&listeners, 7, SocketAddr::new(ip, 0), 16).unwrap();
        let host_id = resolve(&channel, 1, listener.local_addr());
        assert_eq!(host_id.peer_addr(), listener.local_addr());
        let device = host_id.device().unwrap();
        let host_cq = CompletionQueue::new(&device, 1024).unwrap();
        let target_cq = CompletionQueue::new(&device, 1024).unwrap();
        let host = Peer::connect(host_id, &host_cq, config(1), b"from the host").unwrap();
        let CmEvent::Request { listener: 7, mut id, private_data, reads, .. } = next(&listeners) else {
            panic!("no request")
        };
        assert!(private_data.starts_with(b"from the host"));
        assert!(reads >= 1, "the host serves RDMA READs");
        id.migrate(&channel, 2).unwrap();
        let config = EndpointConfig { reads: reads.min(16), ..config(2) };
        let target = Peer::accept(id, &target_cq, config, b"from the target", b"no").unwrap();
        let mut established = 0;
        while established < 2 {
            match next(&channel) {
                CmEvent::Connection { key, event: ConnectionEvent::Established { private_data } } => {
                    assert!(key == 2 || private_data.starts_with(b"from the target"), "{private_data:?}");
                    established += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        let (host_events, target_events) = (VecDeque::new(), VecDeque::new());
        Self { host, target, host_cq, target_cq, host_events, target_events, channel, _listener: listener }
    }

    /// Moves everything on once.
    fn turn(&mut self) {
        let (mut done, mut events) = (Vec::new(), Vec::new());
        self.host_cq.poll(&mut done);
        for wc in done.drain(..) {
            assert_eq!(wc.key(), 1);
            self.host.handle(wc, &mut events);
        }
        self.host.take_events(&mut events);
        self.host_events.extend(events.drain(..));
        self.target_cq.poll(&mut done);
        for wc in done.drain(..) {
            assert_eq!(wc.key(), 2);
            self.target.handle(wc, &mut events);
        }
        self.target.take_events(&mut events);
        self.target_events.extend(events.drain(..));
    }

    fn wait<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(
                Instant::now() < until,
                "{what}: not in time; host {:?}, target {:?}",
                self.host_events,
                self.target_events
            );
            self.turn();
        }
    }

    fn host_event(&mut self, what: &str) -> Event<HostMemory> {
        self.wait(what, |pair| pair.host_events.pop_front())
    }

    fn target_event(&mut self, what: &str) -> Event<HostMemory> {
        self.wait(what, |pair| pair.target_events.pop_front())
    }

    /// A capsule at the target, released at once.
    fn target_capsule(&mut self) -> Vec<u8> {
        loop {
            match self.target_event("a capsule") {
                Event::Received { slot, len, .. } => {
                    let bytes = self.target.received(slot).to_vec();
                    assert_eq!(bytes.len(), len as usize);
                    self.target.release(slot);
                    return bytes;
                }
                Event::Sent { result, .. } => result.unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// A capsule at the host, and the key that it has killed.
    fn host_capsule(&mut self) -> (Vec<u8>, Option<u32>) {
        loop {
            match self.host_event("a capsule") {
                Event::Received { slot, invalidated, .. } => {
                    let bytes = self.host.received(slot).to_vec();
                    self.host.release(slot);
                    return (bytes, invalidated);
                }
                Event::Sent { result, .. } => result.unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn memory(len: usize, seed: u8) -> HostMemory {
    let mut memory = HostMemory::new(len).unwrap();
    for (at, byte) in memory.as_mut_slice().iter_mut().enumerate() {
        *byte = (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed);
    }
    memory
}

fn segment(key: &RemoteKey, at: u64, len: u32) -> RemoteSegment {
    RemoteSegment { address: key.address + at, key: key.key, len }
}

#[test]
fn capsules_go_both_ways_more_than_there_are_slots() {
    let Some(ip) = address() else { return };
    let mut pair = Pair::new(ip);
    for round in 0..3u64 {
        for n in 0..16u64 {
            pair.host.send(n, &[n as u8 + round as u8; 4160][..(n as usize + 1) * 260]);
        }
        for n in 0..16u64 {
            assert_eq!(pair.target_capsule(), vec![n as u8 + round as u8; (n as usize + 1) * 260]);
            pair.target.respond(n, None, &[n as u8; 16], None);
        }
        let mut answers = 0;
        let mut sent = 0;
        while answers < 16 || sent < 16 {
            match pair.host_event("an answer") {
                Event::Received { slot, len: 16, invalidated: None } => {
                    assert_eq!(pair.host.received(slot), [answers; 16]);
                    pair.host.release(slot);
                    answers += 1;
                }
                Event::Sent { result, memory: None, .. } => {
                    result.unwrap();
                    sent += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    pair.wait("the end of all sends", |pair| (pair.host.is_quiet() && pair.target.is_quiet()).then_some(()));
}

#[test]
fn data_is_read_and_written_in_pieces_of_any_size() {
    let Some(ip) = address() else { return };
    let mut pair = Pair::new(ip);
    for len in [4096, 1 << 20, (3 << 20) + 8192] {
        // Store: the target reads.
        let value = memory(len, 1);
        let copy = value.as_slice().to_vec();
        let key = pair.host.expose(5, value, RemoteAccess::Read).unwrap();
        assert_eq!(key.len, len as u64);
        pair.host.send(1, b"store");
        assert_eq!(pair.target_capsule(), b"store");
        let first = len as u32 / 3;
        let segments = [segment(&key, 0, first), segment(&key, 0, 0), segment(&key, first.into(), len as u32 - first)];
        pair.target.fetch(9, HostMemory::new(len).unwrap(), &segments);
        let stored = match pair.target_event("the data") {
            Event::Fetched { token: 9, memory, result } => {
                result.unwrap();
                memory
            }
            other => panic!("{other:?}"),
        };
        assert!(stored.as_slice() == copy);
        // The answer kills the key where the device can.
        let invalidate = key.invalidatable.then_some(key.key);
        pair.target.respond(2, None, b"stored", invalidate);
        let (capsule, invalidated) = pair.host_capsule();
        assert_eq!((&capsule[..], invalidated), (&b"stored"[..], invalidate));
        pair.host.conceal(5);
        let value = pair.wait("the value back", |pair| match pair.host_events.pop_front() {
            Some(Event::Concealed { token: 5, memory }) => Some(memory),
            _ => None,
        });
        assert!(value.as_slice() == copy);

        // Retrieve: the target writes, and this time the host kills the key itself.
        let key = pair.host.expose(6, HostMemory::new(len + 4096).unwrap(), RemoteAccess::Write).unwrap();
        pair.host.send(3, b"retrieve");
        assert_eq!(pair.target_capsule(), b"retrieve");
        let segments = [segment(&key, 0, 4096), segment(&key, 4096, len as u32)];
        pair.target.respond(4, Some((stored, &segments)), b"retrieved", None);
        assert_eq!(pair.host_capsule(), (b"retrieved".to_vec(), None));
        pair.host.conceal(6);
        let back = pair.wait("the buffer back", |pair| match pair.host_events.pop_front() {
            Some(Event::Concealed { token: 6, memory }) => Some(memory),
            _ => None,
        });
        assert!(back.as_slice()[..len] == copy);
        assert!(back.as_slice()[len..].iter().all(|b| *b == 0));
        pair.wait("rest", |pair| {
            pair.target_events.retain(|event| !matches!(event, Event::Sent { result: Ok(()), .. }));
            (pair.host.is_quiet() && pair.target.is_quiet() && pair.target_events.is_empty()).then_some(())
        });
    }
}

/// The target acts on `key` in a way that it may not; the host's memory has to stay as it is.
fn offend(concealed: bool, act: impl FnOnce(&mut Pair, &RemoteKey)) {
    let Some(ip) = address() else { return };
    let mut pair = Pair::new(ip);
    let key = pair.host.expose(1, memory(8192, 3), RemoteAccess::Read).unwrap();
    pair.host.send(1, b"here");
    assert_eq!(pair.target_capsule(), b"here");
    let mut kept = None;
    if concealed {
        pair.host.conceal(1);
        kept = Some(pair.wait("the memory back", |pair| match pair.host_events.pop_front() {
            Some(Event::Concealed { token: 1, memory }) => Some(memory),
            _ => None,
        }));
    }
    act(&mut pair, &key);
    let error = pair.wait("an error", |pair| match pair.target_events.pop_front() {
        Some(Event::Failed(error)) => Some(error),
        _ => None,
    });
    assert!(!error.is_flush(), "{error}");
    pair.wait("what was under way", |pair| pair.target.is_quiet().then_some(()));
    let memory = kept.unwrap_or_else(|| {
        // Its own queue pair may have failed with it; either way this is how memory comes back.
        let Pair { host, .. } = pair;
        let mut memories = host.close().into_iter().filter_map(|event| match event {
            Event::Concealed { token: 1, memory } => Some(memory),
            _ => None,
        });
        memories.next().expect("exposed memory comes back when the queue pair is gone")
    });
    assert!(memory.as_slice() == self::memory(8192, 3).as_slice(), "the memory was written");
}

#[test]
fn a_target_cannot_write_what_it_may_read() {
    offend(false, |pair, key| {
        let segments = [segment(key, 0, 4096)];
        pair.target.respond(1, Some((memory(4096, 9), &segments)), b"x", None);
    });
}

#[test]
fn a_target_cannot_read_beyond_what_is_exposed() {
    offend(false, |pair, key| {
        let segments = [segment(key, 4096, 8192)];
        pair.target.fetch(1, HostMemory::new(8192).unwrap(), &segments);
    });
}

#[test]
fn a_key_is_dead_once_its_memory_is_back() {
    offend(true, |pair, key| {
        let segments = [segment(key, 0, 4096)];
        pair.target.fetch(1, HostMemory::new(4096).unwrap(), &segments);
    });
}

#[test]
fn a_key_that_never_was() {
    offend(false, |pair, key| {
        let segments = [RemoteSegment { key: key.key ^ 0x5500, ..segment(key, 0, 4096) }];
        pair.target.fetch(1, HostMemory::new(4096).unwrap(), &segments);
    });
}

#[test]
fn what_is_concealed_before_a_capsule_told_of_it_never_was_exposed() {
    let Some(ip) = address() else { return };
    let mut pair = Pair::new(ip);
    let key = pair.host.expose(1, memory(4096, 1), RemoteAccess::Read).unwrap();
    pair.host.conceal(1);
    let event = pair.host_event("the memory");
    assert!(matches!(event, Event::Concealed { token: 1, .. }), "{event:?}");
    pair.host.send(1, b"go on");
    assert_eq!(pair.target_capsule(), b"go on");
    let segments = [segment(&key, 0, 4096)];
    pair.target.fetch(1, HostMemory::new(4096).unwrap(), &segments);
    pair.wait("an error", |pair| match pair.target_events.pop_front() {
        Some(Event::Fetched { result, .. }) => Some(result.unwrap_err()),
        _ => None,
    });
}

#[test]
fn everything_comes_back_when_the_connection_ends_in_the_middle() {
    let Some(ip) = address() else { return };
    let mut pair = Pair::new(ip);
    let len = 8 << 20;
    let key = pair.host.expose(1, memory(len, 1), RemoteAccess::Read).unwrap();
    pair.host.send(1, b"big");
    assert_eq!(pair.target_capsule(), b"big");
    for token in 0..4 {
        pair.target.fetch(token, HostMemory::new(len).unwrap(), &[segment(&key, 0, len as u32)]);
    }
    for _ in 0..100 {
        pair.turn();
    }
    pair.host.disconnect();
    // A new operation after the end fails at once.
    pair.host.send(2, b"late");
    // The target hears of it, and ends its side.
    while !matches!(next(&pair.channel), CmEvent::Connection { key: 2, event: ConnectionEvent::Disconnected }) {}
    pair.target.disconnect();
    let mut back = 0;
    while back < 4 {
        match pair.target_event("a fetch") {
            Event::Fetched { memory, .. } => {
                assert_eq!(memory.len(), len);
                back += 1;
            }
            Event::Failed(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(pair.target.is_quiet());
    let late = pair.wait("the late capsule", |pair| match pair.host_events.pop_front() {
        Some(Event::Sent { token: 2, result, .. }) => Some(result),
        _ => None,
    });
    assert!(late.is_err());
    drop(pair);
    // Dropped in the middle, without a word.
    let mut pair = Pair::new(ip);
    let key = pair.host.expose(1, memory(len, 1), RemoteAccess::Read).unwrap();
    pair.host.send(1, b"big");
    assert_eq!(pair.target_capsule(), b"big");
    pair.target.fetch(1, HostMemory::new(len).unwrap(), &[segment(&key, 0, len as u32)]);
    pair.turn();
}

#[test]
fn a_request_is_refused_with_a_reason() {
    let Some(ip) = address() else { return };
    let (channel, listeners) = (CmChannel::new().unwrap(), CmChannel::new().unwrap());
    let listener = CmListener::bind(&listeners, 3, SocketAddr::new(ip, 0), 16).unwrap();
    let id = resolve(&channel, 4, listener.local_addr());
    let cq = CompletionQueue::new(&id.device().unwrap(), 256).unwrap();
    let before = cq.room();
    let endpoint = Peer::connect(id, &cq, config(1), &[1, 2, 3]).unwrap();
    assert!(cq.room() < before);
    let CmEvent::Request { listener: 3, id, private_data, .. } = next(&listeners) else { panic!("no request") };
    assert_eq!(private_data[..3], [1, 2, 3]);
    id.reject(&[0, 0, 6, 0]).unwrap();
    match next(&channel) {
        CmEvent::Connection { key: 4, event: ConnectionEvent::Rejected { status, private_data } } => {
            assert_eq!((status, &private_data[..4]), (28, &[0, 0, 6, 0][..]));
        }
        other => panic!("{other:?}"),
    }
    drop(endpoint);
    assert_eq!(cq.room(), before);
}

#[test]
fn an_armed_queue_tells_by_its_descriptor() {
    let Some(ip) = address() else { return };
    let mut pair = Pair::new(ip);
    let readable = |cq: &CompletionQueue, milliseconds: i32| {
        let mut fd = libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(&cq.fd()), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, open for the time of the call.
        unsafe { libc::poll(&raw mut fd, 1, milliseconds) == 1 }
    };
    pair.target_cq.arm().unwrap();
    assert!(!readable(&pair.target_cq, 20));
    pair.host.send(1, b"wake up");
    assert!(readable(&pair.target_cq, 10_000));
    assert!(pair.target_cq.clear());
    assert!(!readable(&pair.target_cq, 0));
    assert_eq!(pair.target_capsule(), b"wake up");
}

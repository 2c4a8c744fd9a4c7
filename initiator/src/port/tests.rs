//! A port without a thread behind it: the test plays the thread.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicUsize},
    task::{Context, Wake},
    time::Duration,
};

use kvof_spec::{Cqe, Sqe, Status};

use super::*;
use crate::{
    IoBufMut,
    buffer::Payload,
    queue::{Reply, TimeLimit},
};

/// Counts calls.
#[derive(Default)]
struct Count(AtomicUsize);

impl Attention for Count {
    fn attend(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A port with a connection that has room for `limit` commands.
fn open(limit: usize) -> (Arc<Port>, Arc<Bell>) {
    let port = Port::new(1, "test".into(), Arc::new(Count::default()));
    let bell = port.begin().unwrap();
    port.connected(&bell, limit);
    port.open();
    (port, bell)
}

fn command(payload: Payload, after: Duration) -> Command {
    Command::new("Test", Sqe::new(0u8), payload, TimeLimit::new(Instant::now(), after))
}

fn operation(port: &Port) -> Operation<'_> {
    Operation::new(port, command(Payload::None, Duration::from_secs(60)), false)
}

fn poll(operation: &mut Operation<'_>) -> Poll<Answer> {
    poll_with(operation, &Waker::noop().clone())
}

fn poll_with(operation: &mut Operation<'_>, waker: &Waker) -> Poll<Answer> {
    Pin::new(operation).poll(&mut Context::from_waker(waker))
}

fn take(port: &Port, bell: &Arc<Bell>) -> Vec<(usize, Box<Command>)> {
    let mut commands = VecDeque::new();
    assert!(matches!(port.take(bell, &mut commands, false), Work::Go));
    commands.into()
}

fn done(key: usize, payload: Payload) -> (usize, Answer) {
    let reply = Reply { cqe: Cqe::new(0, Status::SUCCESS), received: 0 };
    (key, Answer { result: Ok(reply), payload })
}

/// A buffer that tells when it is dropped.
struct Canary(Arc<AtomicBool>);

impl IoBufMut for Canary {
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut []
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn commands_pass_in_the_order_they_came() {
    let (port, bell) = open(2);
    let counts: Vec<Arc<Count>> = (0..5).map(|_| Arc::new(Count::default())).collect();
    let wakers: Vec<Waker> = counts.iter().map(|c| Waker::from(Arc::clone(c))).collect();
    let mut operations: Vec<Operation<'_>> = (0..5).map(|_| operation(&port)).collect();
    for (operation, waker) in operations.iter_mut().zip(&wakers) {
        assert!(poll_with(operation, waker).is_pending());
    }
    let sent = take(&port, &bell);
    assert_eq!((sent.len(), port.load()), (2, 2));
    // A newcomer stands behind those who wait.
    let mut late = operation(&port);
    assert!(poll(&mut late).is_pending());
    port.answer(&mut vec![done(sent[0].0, Payload::None)]);
    assert!(poll(&mut late).is_pending());
    assert_eq!(take(&port, &bell).len(), 0);
    let woken: Vec<usize> = counts.iter().map(|c| c.0.load(Ordering::SeqCst)).collect();
    assert_eq!(woken, [1, 0, 1, 0, 0]);
    assert!(poll(&mut operations[0]).is_ready());
    assert!(poll(&mut operations[3]).is_pending());
    assert_eq!(take(&port, &bell).len(), 0, "it was not its turn");
    assert!(poll(&mut operations[2]).is_pending());
    assert_eq!(take(&port, &bell).len(), 1);
    assert_eq!(port.answered(), 1);
}

#[test]
fn a_dropped_operation_frees_its_slot_when_it_is_answered() {
    let (port, bell) = open(1);
    let dropped = Arc::new(AtomicBool::new(false));
    let payload = Payload::from_controller(Canary(Arc::clone(&dropped)));
    let mut first = Operation::new(&port, command(payload, Duration::from_secs(60)), false);
    assert!(poll(&mut first).is_pending());
    let mut sent = take(&port, &bell);
    drop(first);
    let mut second = operation(&port);
    assert!(poll(&mut second).is_pending());
    assert_eq!(take(&port, &bell).len(), 0, "the slot is still taken");
    assert!(!dropped.load(Ordering::SeqCst));
    let (key, first) = sent.remove(0);
    port.answer(&mut vec![done(key, first.payload)]);
    assert!(dropped.load(Ordering::SeqCst));
    assert!(poll(&mut second).is_pending());
    assert_eq!(take(&port, &bell).len(), 1);
}

#[test]
fn an_answer_that_nobody_takes_is_dropped_with_its_operation() {
    let (port, bell) = open(1);
    let dropped = Arc::new(AtomicBool::new(false));
    let payload = Payload::from_controller(Canary(Arc::clone(&dropped)));
    let mut first = Operation::new(&port, command(payload, Duration::from_secs(60)), false);
    assert!(poll(&mut first).is_pending());
    let (key, sent) = take(&port, &bell).remove(0);
    port.answer(&mut vec![done(key, sent.payload)]);
    assert!(!dropped.load(Ordering::SeqCst));
    drop(first);
    assert!(dropped.load(Ordering::SeqCst));
}

#[test]
fn a_closed_port_keeps_what_was_not_sent_and_those_who_wait() {
    let (port, bell) = open(1);
    let mut handed_in = operation(&port);
    let mut waiting = operation(&port);
    let mut privileged = Operation::new(&port, command(Payload::None, Duration::from_secs(60)), true);
    assert!(poll(&mut handed_in).is_pending());
    assert!(poll(&mut waiting).is_pending());
    assert!(poll(&mut privileged).is_pending());
    port.disconnected(&bell, &ConnectionError::ClosedByController);
    let Poll::Ready(answer) = poll(&mut privileged) else { panic!("the set-up does not wait") };
    let Err(Error::ConnectionLost { cause: ConnectionError::ClosedByController, .. }) = answer.result else {
        panic!("{answer:?}")
    };
    assert_eq!(port.load(), 0);
    assert!(poll(&mut handed_in).is_pending());
    assert!(poll(&mut waiting).is_pending());
    drop(handed_in);
    assert!(matches!(port.take(&bell, &mut VecDeque::new(), false), Work::End(ConnectionError::ClosedByController)));
    // A new connection: first for its set-up, then for everyone.
    let bell = port.begin().unwrap();
    assert!(port.poll_connected().is_pending());
    port.connected(&bell, 1);
    assert!(poll(&mut waiting).is_pending());
    assert_eq!(take(&port, &bell).len(), 0);
    let mut set_up = Operation::new(&port, command(Payload::None, Duration::from_secs(60)), true);
    assert!(poll(&mut set_up).is_pending());
    let sent = take(&port, &bell);
    port.answer(&mut vec![done(sent[0].0, Payload::None)]);
    port.open();
    assert!(poll(&mut waiting).is_pending());
    assert_eq!(take(&port, &bell).len(), 1);
    // And then the end.
    let mut last = operation(&port);
    assert!(poll(&mut last).is_pending());
    port.close(Gate::Failed(Error::Closed), &ConnectionError::ClosedByHost);
    assert!(matches!(poll(&mut last), Poll::Ready(Answer { result: Err(Error::Closed), .. })));
    assert!(matches!(poll(&mut operation(&port)), Poll::Ready(Answer { result: Err(Error::Closed), .. })));
}

#[test]
fn a_thread_of_an_earlier_connection_changes_nothing() {
    let (port, old) = open(1);
    let new = port.begin().unwrap();
    port.disconnected(&old, &ConnectionError::ClosedByController);
    port.connected(&old, 9);
    assert!(port.poll_connected().is_pending());
    assert!(port.lost().is_none());
    assert!(matches!(port.take(&old, &mut VecDeque::new(), false), Work::End(_)));
    port.connected(&new, 1);
    assert!(port.poll_connected().is_ready());
}

#[test]
fn waiting_ends_in_time() {
    let attention = Arc::new(Count::default());
    let port = Port::new(1, "test".into(), Arc::clone(&attention) as Arc<dyn Attention>);
    let mut patient = operation(&port);
    let mut hasty = Operation::new(&port, command(Payload::None, Duration::from_millis(1)), false);
    let woken = Arc::new(Count::default());
    assert!(poll(&mut patient).is_pending());
    assert!(poll_with(&mut hasty, &Waker::from(Arc::clone(&woken))).is_pending());
    assert_eq!(attention.0.load(Ordering::SeqCst), 2, "each was the first to expire when it came");
    let now = Instant::now() + Duration::from_millis(1);
    let next = port.expire(now).unwrap();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(next > now + Duration::from_secs(50));
    std::thread::sleep(Duration::from_millis(2));
    assert!(matches!(poll(&mut hasty), Poll::Ready(Answer { result: Err(Error::Timeout { .. }), .. })));
    assert!(poll(&mut patient).is_pending());
}

#[test]
fn a_sleeping_thread_is_woken_once() {
    let (port, bell) = open(4);
    assert!(matches!(port.take(&bell, &mut VecDeque::new(), true), Work::Go));
    let mut operations = [operation(&port), operation(&port)];
    for operation in &mut operations {
        assert!(poll(operation).is_pending());
    }
    let mut count = [0u8; 8];
    assert_eq!(rustix::io::read(bell.fd(), &mut count).unwrap(), 8);
    assert_eq!(u64::from_ne_bytes(count), 1);
    assert_eq!(take(&port, &bell).len(), 2);
}

//! Asynchronous Event Request and Abort.

use kvof_spec::{AdminOpcode, abort::AbortCmd, aen::AsyncEvent, log::ChangedNamespaceList};

use super::*;

fn request() -> Sqe {
    Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST)
}

/// Adds or removes namespace `nsid`, as the definition has it or not.
fn change(rig: &Rig, nsids: &[u32]) {
    let mut def = definition();
    def.subsystems[0].namespaces.extend(nsids.iter().map(|nsid| kv_namespace(*nsid)));
    rig.target.apply(rig.target.plan(def).unwrap()).unwrap();
}

#[test]
fn namespaces_changed() {
    let rig = Rig::new();
    let mut host = rig.host();
    host.set_feature(FeatureId::ASYNC_EVENT_CONFIGURATION, 0x100).unwrap();
    assert_eq!(host.send(request(), 0), AdminOutcome::Held);
    let first = host.cid;
    let wakes = rig.wakes.load(Ordering::Relaxed);
    change(&rig, &[20]);
    assert_eq!(rig.wakes.load(Ordering::Relaxed), wakes + 1);
    let event = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.0;
    assert_eq!(host.completions(), [(first, Reply::result(event))]);
    // The host asks again before it reads the log, and more happens meanwhile.
    assert_eq!(host.send(request(), 0), AdminOutcome::Held);
    change(&rig, &[20, 21]);
    assert_eq!(host.completions(), []);
    let page = |rae| GetLogPageCmd::new(LogId::CHANGED_NAMESPACES, 0, 0, 4096).unwrap().with_rae(rae);
    let changed = |data: Vec<u8>| ChangedNamespaceList::read_from_bytes(&data).unwrap().list.iter().collect::<Vec<_>>();
    assert_eq!(changed(host.log(page(true)).unwrap()), [20, 21]);
    change(&rig, &[]);
    assert_eq!(host.completions(), [], "retained, so that it is still masked");
    assert_eq!(changed(host.log(page(false)).unwrap()), [20, 21]);
    assert_eq!(changed(host.log(page(false)).unwrap()), [0; 0]);
    assert_eq!(host.completions(), []);
    change(&rig, &[30]);
    assert_eq!(host.completions().len(), 1);
    assert_eq!(changed(host.log(page(false)).unwrap()), [30]);
    // Without a request, the event waits for one.
    change(&rig, &[]);
    assert_eq!(host.completions(), []);
    assert_eq!(host.reply(request(), 0), Reply::result(event));
}

#[test]
fn more_changes_than_the_page_can_name() {
    let rig = Rig::new();
    let mut host = rig.host();
    for (nsids, page) in [(100..1124, None), (3000..4025, Some(vec![0xffff_ffff_u32]))] {
        host.log(GetLogPageCmd::new(LogId::CHANGED_NAMESPACES, 0, 0, 4096).unwrap()).unwrap();
        let nsids: Vec<_> = nsids.collect();
        change(&rig, &nsids);
        let list: ChangedNamespaceList = host.log_as(LogId::CHANGED_NAMESPACES);
        assert_eq!(list.list.iter().collect::<Vec<_>>(), page.unwrap_or(nsids));
        change(&rig, &[]);
    }
}

#[test]
fn unwanted_events_are_not_reported() {
    let rig = Rig::new();
    let mut host = rig.host();
    assert_eq!(host.send(request(), 0), AdminOutcome::Held);
    change(&rig, &[20]);
    assert_eq!(host.completions(), []);
}

#[test]
fn requests_are_limited_and_can_be_aborted() {
    let rig = Rig::new();
    let mut host = rig.host();
    let waiting: Vec<_> = (0..4).map(|_| (host.send(request(), 0), host.cid)).collect();
    assert!(waiting.iter().all(|(outcome, _)| *outcome == AdminOutcome::Held));
    assert_eq!(host.status(request(), 0), Status::AER_LIMIT_EXCEEDED);
    let cid = waiting[1].1;
    assert_eq!(host.reply(AbortCmd::new(1, cid).to_sqe(), 0).result, 1, "another queue");
    assert_eq!(host.reply(AbortCmd::new(0, 9999).to_sqe(), 0).result, 1, "no such command");
    assert_eq!(host.completions(), []);
    let wakes = rig.wakes.load(Ordering::Relaxed);
    assert_eq!(host.reply(AbortCmd::new(0, cid).to_sqe(), 0), Reply::default());
    assert_eq!(rig.wakes.load(Ordering::Relaxed), wakes + 1, "there is something to poll");
    assert_eq!(host.completions(), [(cid, Reply::status(Status::ABORT_REQUESTED))]);
    assert_eq!(host.reply(AbortCmd::new(0, cid).to_sqe(), 0).result, 1, "aborted already");
    assert_eq!(host.send(request(), 0), AdminOutcome::Held);
}

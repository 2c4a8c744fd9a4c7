//! What controllers tell unasked: changed namespaces and discovery logs; and discovery itself.

mod common;

use std::thread;

use common::{SUBNQN, Target, eventually, options};
use kvof_initiator::blocking::block_on;
use kvof_initiator::{Controller, DiscoveryController, Error, SubsystemType, TransportType, discover};
use kvof_spec::IntoBytes;
use kvof_spec::aen::AsyncEvent;
use kvof_spec::log::{DiscoveryEntry, DiscoveryHeader};

#[test]
fn changes_of_namespaces_are_told() {
    let target = Target::start();
    let controller = block_on(Controller::connect(&target.address(), SUBNQN, &options())).unwrap();
    let waiting = thread::spawn({
        let controller = controller.clone();
        move || block_on(controller.namespaces_changed(0))
    });
    eventually("an event request is there", || target.event(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.0));
    assert_eq!(waiting.join().unwrap().unwrap(), 1);
    // The next request follows.
    eventually("another event request is there", || target.event(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.0));
    assert_eq!(block_on(controller.namespaces_changed(1)).unwrap(), 2);
}

fn publish(target: &Target, generation: u64, count: u16) {
    let mut log = DiscoveryHeader::new(generation, count.into()).as_bytes().to_vec();
    for port in 0..count {
        let nqn = format!("nqn.2024-01.com.example:{port}").parse().unwrap();
        let address = ([127, 0, 0, 1], 4000 + port).into();
        log.extend_from_slice(
            DiscoveryEntry::ip(TransportType::TCP, SubsystemType::NVM, &nqn, address, port).as_bytes(),
        );
    }
    *target.state().discovery.lock().unwrap() = (generation, log);
}

#[test]
fn discovery_reads_logs_of_any_length() {
    let target = Target::start();
    for count in [0, 1, 16, 17, 100] {
        publish(&target, 1, count);
        let entries = block_on(discover(&target.address(), &options())).unwrap();
        assert_eq!(entries.len(), usize::from(count));
        for (port, entry) in entries.iter().enumerate() {
            assert_eq!(entry.subnqn, format!("nqn.2024-01.com.example:{port}"));
            assert_eq!(entry.address().unwrap().port() as usize, 4000 + port);
        }
    }
    assert!(target.seen().qids.lock().unwrap().iter().all(|qid| *qid == 0), "no I/O queues for discovery");
    // A count beyond belief allocates nothing.
    *target.state().discovery.lock().unwrap() = (1, DiscoveryHeader::new(1, u64::MAX).as_bytes().to_vec());
    let error = block_on(discover(&target.address(), &options())).unwrap_err();
    assert!(matches!(error, Error::InvalidAnswer { .. }), "{error}");
}

#[test]
fn a_lasting_discovery_connection_tells_of_changes() {
    let target = Target::start();
    publish(&target, 1, 1);
    block_on(async {
        let discovery = DiscoveryController::connect(&target.address(), &options()).await.unwrap();
        assert_eq!(discovery.entries().await.unwrap().len(), 1);
        publish(&target, 2, 3);
        eventually("an event request is there", || target.event(AsyncEvent::DISCOVERY_LOG_CHANGED.0));
        assert_eq!(discovery.changed(0).await.unwrap(), 1);
        assert_eq!(discovery.entries().await.unwrap().len(), 3);
        // A reconnect may have hidden a change, so it is one.
        target.cut();
        assert_eq!(discovery.changed(1).await.unwrap(), 2);
        discovery.disconnect().await;
        assert!(matches!(discovery.changed(2).await, Err(Error::Closed)));
    });
}

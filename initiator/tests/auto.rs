//! Addresses that leave the transport to discovery, and what a machine without RDMA says.

mod common;

use std::net::{SocketAddr, TcpListener};

use common::{Behaviour, KV_NSID, SUBNQN, Target, options};
use kvof_initiator::blocking::block_on;
use kvof_initiator::{
    Address, ConnectionError, Controller, DigestMode, DiscoveryController, Error, Key, StoreOptions, SubsystemType,
    Transport, TransportType,
};
use kvof_spec::IntoBytes;
use kvof_spec::log::{DiscoveryEntry, DiscoveryHeader};

/// A target whose discovery log names these addresses of [`SUBNQN`].
fn discovery(entries: &[(TransportType, SocketAddr)]) -> Target {
    let target = Target::start();
    publish(&target, entries);
    target
}

fn publish(target: &Target, entries: &[(TransportType, SocketAddr)]) {
    let mut log = DiscoveryHeader::new(1, entries.len() as u64).as_bytes().to_vec();
    for (trtype, address) in entries {
        let nqn = SUBNQN.parse().unwrap();
        log.extend_from_slice(DiscoveryEntry::ip(*trtype, SubsystemType::NVM, &nqn, *address, 1).as_bytes());
    }
    *target.state().discovery.lock().unwrap() = (1, log);
}

fn auto(target: &Target) -> Address {
    target.address().with_transport(Transport::Auto)
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn what_discovery_names_is_connected_to() {
    let target = Target::start();
    let service = discovery(&[(TransportType::TCP, target.address)]);
    block_on(async {
        let controller = Controller::connect(&auto(&service), SUBNQN, &options()).await.unwrap();
        assert_eq!(controller.address(), &target.address());
        let info = controller.info().unwrap();
        assert_eq!((info.transport, &info.rdma), (Transport::Tcp, &None));
        let kv = controller.kv(KV_NSID).await.unwrap();
        let key = Key::new(b"key").unwrap();
        kv.store(key, b"value".to_vec(), StoreOptions::empty()).await.0.unwrap();
        assert_eq!(kv.retrieve_vec(key).await.unwrap(), b"value");
    });
    // The discovery service itself.
    let entries = block_on(async {
        let service = DiscoveryController::connect(&auto(&service), &options()).await.unwrap();
        service.entries().await.unwrap()
    });
    assert_eq!(entries.len(), 1);
}

#[test]
fn an_address_that_is_every_address_is_the_one_that_was_asked() {
    let target = Target::start();
    let any = SocketAddr::from(([0, 0, 0, 0], target.address.port()));
    let service = discovery(&[(TransportType::TCP, any)]);
    let controller = block_on(Controller::connect(&auto(&service), SUBNQN, &options())).unwrap();
    assert_eq!(controller.address(), &target.address());
}

#[test]
fn where_one_way_fails_the_next_is_tried() {
    let target = Target::start();
    // Nobody listens over RDMA on a loopback address, with or without an RDMA device.
    let ways =
        [(TransportType::RDMA, target.address), (TransportType::TCP, nobody()), (TransportType::TCP, target.address)];
    let service = discovery(&ways);
    let controller = block_on(Controller::connect(&auto(&service), SUBNQN, &options())).unwrap();
    assert_eq!(controller.address(), &target.address());
    // Where none works, the last one says why.
    publish(&service, &[(TransportType::TCP, nobody()), (TransportType::RDMA, nobody())]);
    let error = block_on(Controller::connect(&auto(&service), SUBNQN, &options())).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

#[test]
fn a_host_that_is_refused_does_not_try_elsewhere() {
    let status = kvof_initiator::Status::CONNECT_INVALID_HOST.with_dnr();
    let refusing = Target::start_with(Behaviour { connect_status: status, ..Behaviour::default() });
    let other = Target::start();
    let service = discovery(&[(TransportType::TCP, refusing.address), (TransportType::TCP, other.address)]);
    let error = block_on(Controller::connect(&auto(&service), SUBNQN, &options())).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(other.seen().connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn what_nobody_offers_is_said() {
    let service = discovery(&[]);
    let error = block_on(Controller::connect(&auto(&service), SUBNQN, &options())).unwrap_err();
    assert!(matches!(error, Error::NotOffered { digests: false, .. }), "{error}");
    assert!(error.to_string().contains(SUBNQN), "{error}");
    // RDMA has no digests; a connection that needs them does not take it.
    publish(&service, &[(TransportType::RDMA, nobody())]);
    let mut options = options();
    options.data_digest = DigestMode::Require;
    let error = block_on(Controller::connect(&auto(&service), SUBNQN, &options)).unwrap_err();
    assert!(matches!(error, Error::NotOffered { digests: true, .. }), "{error}");
    let error = block_on(Controller::connect(&"rdma://127.0.0.1".parse().unwrap(), SUBNQN, &options)).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }) && error.to_string().contains("digests"), "{error}");
}

#[test]
fn discovery_that_does_not_answer_is_the_error() {
    let address: Address = nobody().to_string().parse().unwrap();
    let error =
        block_on(Controller::connect(&address.with_transport(Transport::Auto), SUBNQN, &options())).unwrap_err();
    let Error::Connect { address, cause: ConnectionError::Io { .. } } = &error else { panic!("{error}") };
    assert!(address.contains("tcp://"), "{error}");
}

#[test]
fn an_rdma_address_that_cannot_be_reached_says_the_way_out() {
    let error = block_on(Controller::connect(&"rdma://127.0.0.1:9".parse().unwrap(), SUBNQN, &options())).unwrap_err();
    let Error::Connect { cause, .. } = &error else { panic!("{error}") };
    assert!(matches!(cause, ConnectionError::Rdma(_) | ConnectionError::Unreachable { .. }), "{error:?}");
    let ways_out =
        ["install it", "modprobe rdma_ucm", "may not open", "loopback addresses are not for RDMA", "rdma link"];
    assert!(ways_out.iter().any(|way| error.to_string().contains(way)), "{error}");
}

//! The NVMe/RDMA target on a real device: good hosts, bad hosts and absent ones, against the running reactor. Set
//! `KVOF_RDMA_ADDRESS` to an IP address of a device; in the test guest that is Soft-RoCE.

mod data;
mod fair;
mod host;
mod hostile;
mod limits;
#[path = "../tcp/rig.rs"]
#[expect(dead_code, reason = "the tests of NVMe/TCP use all of it")]
mod rig;

use std::net::IpAddr;

use kvof_target::reactor::RdmaConfig;

/// An address of an RDMA device, or nothing, and a word about why.
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

/// A target with an RDMA port, on so many cores.
fn start(cores: usize, change: impl FnOnce(&mut rig::Options, &mut RdmaConfig)) -> Option<rig::Rig> {
    let ip = address()?;
    let (mut options, mut config) = (rig::Options { cores, ..rig::Options::default() }, RdmaConfig::default());
    change(&mut options, &mut config);
    options.rdma = Some((ip, config));
    Some(rig::Rig::start(options))
}

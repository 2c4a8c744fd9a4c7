//! The way to an address, step by step: name, route, connection, NVMe, discovery, subsystems. The first step that fails says
//! why, and is the last.

mod rdma;
mod tcp;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    time::{Duration, Instant},
};

use kvof_initiator::{
    Address, ConnectOptions, ConnectionError, Controller, DiscoveryEntry, Error, SubsystemType, Transport,
    blocking::block_on, discover,
};
use serde::{Serialize, Serializer};

use crate::units::count;

/// Subsystems that are tried; there are rarely more than two.
const SUBSYSTEMS_MAX: usize = 8;

#[derive(Serialize)]
pub(super) struct Reach {
    pub(super) address: String,
    pub(super) steps: Vec<Step>,
}

#[derive(Serialize)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) detail: String,
    /// What to do, line by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fix: Vec<String>,
    /// What it took, where that says something.
    #[serde(rename = "seconds", skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub(super) time: Option<Duration>,
}

fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

impl Step {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: true, detail: detail.into(), fix: Vec::new(), time: None }
    }

    fn failed(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: false, detail: detail.into(), fix: Vec::new(), time: None }
    }

    fn fix(mut self, line: impl Into<String>) -> Self {
        self.fix.push(line.into());
        self
    }

    fn took(mut self, since: Instant) -> Self {
        self.time = Some(since.elapsed());
        self
    }
}

/// That a step has failed, and is written down.
struct Stop;

impl Reach {
    /// Goes to `address` as a host with `options` would.
    pub(super) fn go(address: &Address, options: &ConnectOptions) -> Self {
        let mut reach = Self { address: address.to_string(), steps: Vec::new() };
        let _ = reach.walk(address, options);
        reach
    }

    pub(super) fn succeeded(&self) -> bool {
        self.steps.iter().all(|step| step.ok)
    }

    fn walk(&mut self, address: &Address, options: &ConnectOptions) -> Result<(), Stop> {
        let addresses = self.resolve(address)?;
        match address.transport() {
            Transport::Rdma => rdma::walk(self, &addresses, options.connect_timeout)?,
            Transport::Tcp => {
                let reachable = self.route(&addresses)?;
                tcp::walk(self, &reachable, options.connect_timeout)?;
            }
            // Which way to take is the library's choice, and is told in the end.
            Transport::Auto => {}
        }
        self.nvme(address, options)
    }

    fn add(&mut self, step: Step) -> Result<(), Stop> {
        let ok = step.ok;
        self.steps.push(step);
        if ok { Ok(()) } else { Err(Stop) }
    }

    fn resolve(&mut self, address: &Address) -> Result<Vec<SocketAddr>, Stop> {
        let begin = Instant::now();
        let host = address.host();
        let found = (host, address.port()).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let step = match &found {
            Ok(addresses) if !addresses.is_empty() => {
                let ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
                if host.parse::<IpAddr>().is_ok() {
                    Step::ok("name", format!("{host} is an address"))
                } else {
                    Step::ok("name", format!("{host} is {}", ips.join(", "))).took(begin)
                }
            }
            Ok(_) => Step::failed("name", format!("{host} has no address")),
            Err(error) => Step::failed("name", format!("{host} cannot be resolved: {error}"))
                .fix(format!("getent hosts {host}; or give an IP address")),
        };
        self.add(step)?;
        Ok(found.unwrap_or_default())
    }

    /// Which addresses there is a route to, by connecting a UDP socket, which sends nothing.
    fn route(&mut self, addresses: &[SocketAddr]) -> Result<Vec<SocketAddr>, Stop> {
        let mut found = Vec::new();
        let (mut ways, mut errors) = (Vec::new(), Vec::new());
        for &address in addresses {
            match source(address) {
                Ok(from) => {
                    ways.push(format!("to {} from {from}", address.ip()));
                    found.push(address);
                }
                Err(error) => errors.push(format!("none to {}: {error}", address.ip())),
            }
        }
        if found.is_empty() {
            let first = addresses.first().map_or(String::new(), |address| address.ip().to_string());
            self.add(
                Step::failed("route", errors.join("; "))
                    .fix(format!("ip route get {first}; give an interface an address of that network, or a gateway")),
            )?;
        } else {
            self.add(Step::ok("route", ways.into_iter().chain(errors).collect::<Vec<_>>().join("; ")))?;
        }
        Ok(found)
    }

    /// Discovery, and a controller of each subsystem that is at this address.
    fn nvme(&mut self, address: &Address, options: &ConnectOptions) -> Result<(), Stop> {
        let begin = Instant::now();
        let entries = match block_on(discover(address, options)) {
            Ok(entries) => entries,
            Err(error) => return self.add(nvme_error("discovery", address, &error)),
        };
        let named: Vec<&DiscoveryEntry> = entries.iter().filter(|e| e.subtype == SubsystemType::NVM).collect();
        let here = subsystems_at(address, &named);
        let subsystems: BTreeSet<&str> = named.iter().map(|entry| entry.subnqn.as_str()).collect();
        let text = count(subsystems.len() as u64, "subsystem", "subsystems");
        let step = Step::ok("discovery", format!("tells of {text}"));
        self.add(step.took(begin))?;
        if here.is_empty() {
            let elsewhere: Vec<String> = named
                .iter()
                .map(|entry| format!("{} at {}://{} {}", entry.subnqn, entry.transport(), entry.traddr, entry.trsvcid))
                .collect();
            return self.add(if elsewhere.is_empty() {
                Step::failed("subsystems", format!("none that {} may use", options.hostnqn)).fix(
                    "name this host in allowed_hosts of the target's configuration, or give another name by --hostnqn",
                )
            } else {
                Step::ok("subsystems", format!("not at this address: {}", elsewhere.join(", ")))
            });
        }
        for nqn in here.into_iter().take(SUBSYSTEMS_MAX) {
            let begin = Instant::now();
            self.add(match block_on(controller(address, nqn, options)) {
                Ok(text) => Step::ok("subsystem", format!("{nqn}: {text}")).took(begin),
                Err(error) => nvme_error("subsystem", address, &error),
            })?;
        }
        Ok(())
    }
}

/// The address that packets to `to` are sent from.
fn source(to: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// Names of the subsystems that discovery puts at `address`.
fn subsystems_at<'a>(address: &Address, entries: &[&'a DiscoveryEntry]) -> Vec<&'a str> {
    let is_here = |entry: &&&DiscoveryEntry| match (address.transport(), entry.address_from(address)) {
        (_, None) => false,
        (Transport::Auto, Some(_)) => true,
        // A name may stand for any address.
        (transport, Some(named)) => {
            named.transport() == transport
                && named.port() == address.port()
                && (named.host() == address.host() || address.host().parse::<IpAddr>().is_err())
        }
    };
    let mut names: Vec<&str> = Vec::new();
    for entry in entries.iter().filter(is_here) {
        if !names.contains(&entry.subnqn.as_str()) {
            names.push(&entry.subnqn);
        }
    }
    names
}

/// Connects to a subsystem with one I/O queue, and says what it has.
async fn controller(address: &Address, nqn: &str, options: &ConnectOptions) -> Result<String, Error> {
    let mut options = options.clone();
    options.io_queues = 1;
    let controller = Controller::connect(address, nqn, &options).await?;
    let namespaces = controller.namespaces().await;
    let way = match address.transport() {
        Transport::Auto => format!(" at {}", controller.address()),
        _ => String::new(),
    };
    controller.disconnect().await;
    let namespaces = namespaces?;
    let each: Vec<String> = namespaces.iter().map(|ns| format!("{} ({})", ns.nsid, ns.csi)).collect();
    let number = count(namespaces.len() as u64, "namespace", "namespaces");
    Ok(if each.is_empty() { format!("{number}{way}") } else { format!("{number}{way}: {}", each.join(", ")) })
}

/// The step in which `error` came; while it is the connection that fails, it is not `name` yet.
fn nvme_error(name: &'static str, address: &Address, error: &Error) -> Step {
    let fix = match error {
        Error::Connect { cause, .. } => match cause {
            // These say what to do.
            ConnectionError::Rejected(_) | ConnectionError::Rdma(_) => {
                return Step::failed("connection", error.to_string());
            }
            ConnectionError::Unreachable { .. } => {
                let line = "start the target, with a [[port]] of transport = \"rdma\" at this address, and run kvof doctor there";
                return Step::failed("connection", error.to_string()).fix(line);
            }
            ConnectionError::ConnectTimeout(_) if address.transport() == Transport::Rdma => {
                let line = "no answer: the machine is off or has no RDMA, or a firewall drops RoCE's packets (UDP to port 4791)";
                return Step::failed("connection", error.to_string()).fix(line);
            }
            ConnectionError::ConnectTimeout(_) => NOT_NVME,
            _ => {
                "what listens there does not speak NVMe over this transport, or refuses its parameters; its log says more"
            }
        },
        Error::Timeout { .. } => NOT_NVME,
        Error::ConnectionLost { .. } => "the target has ended the connection; its log says why",
        Error::Refused { .. } => "the target decides who may connect: allowed_hosts, and --hostnqn of this host",
        _ => return Step::failed(name, error.to_string()),
    };
    Step::failed(name, error.to_string()).fix(fix)
}

const NOT_NVME: &str =
    "something takes connections there and does not speak NVMe over Fabrics; look at what listens on the port";

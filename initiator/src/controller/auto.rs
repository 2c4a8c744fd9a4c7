//! `auto://`: asking discovery how a subsystem can be reached, and taking the best way that works.

use kvof_spec::nqn::DISCOVERY_NQN;

use super::Controller;
use crate::{Address, ConnectOptions, DiscoveryController, DiscoveryEntry, Error, Result, SubsystemType, Transport};

/// Connects to `subnqn` as the discovery service at `asked` says.
pub(super) async fn connect(asked: &Address, subnqn: &str, options: &ConnectOptions) -> Result<Controller> {
    if subnqn == DISCOVERY_NQN {
        return discovery(asked, options).await;
    }
    let no_keep_alive = ConnectOptions { keep_alive: std::time::Duration::ZERO, io_queues: 0, ..options.clone() };
    let service = DiscoveryController::of(discovery(asked, &no_keep_alive).await?);
    let entries = service.entries().await;
    service.disconnect().await;
    let has_rdma = kvof_rdma::is_available();
    if let Err(reason) = &has_rdma {
        tracing::debug!(%asked, %reason, "RDMA is left for last");
    }
    let digests = options.requires_digests();
    let mut ways = ways(asked, subnqn, &entries?, has_rdma.is_ok(), digests).into_iter().peekable();
    while let Some(way) = ways.next() {
        match Controller::connect_at(&way, subnqn, options).await {
            Ok(controller) => {
                tracing::info!(%asked, %way, "connected");
                return Ok(controller);
            }
            Err(error) => match ways.peek() {
                Some(next) if another_way_may_work(&error) => {
                    tracing::warn!(%way, %error, "cannot connect; trying {next} instead");
                }
                _ => return Err(error),
            },
        }
    }
    Err(Error::NotOffered { address: asked.clone(), subnqn: subnqn.to_owned(), digests })
}

/// Connects to the discovery service itself: over TCP, where most are, else over RDMA.
async fn discovery(asked: &Address, options: &ConnectOptions) -> Result<Controller> {
    let over = |transport| asked.clone().with_transport(transport);
    let error = match Controller::connect_at(&over(Transport::Tcp), DISCOVERY_NQN, options).await {
        Err(error) if another_way_may_work(&error) && !options.requires_digests() => error,
        other => return other,
    };
    match Controller::connect_at(&over(Transport::Rdma), DISCOVERY_NQN, options).await {
        Ok(controller) => {
            tracing::warn!(%asked, %error, "discovery answers over RDMA only");
            Ok(controller)
        }
        Err(rdma) => {
            tracing::info!(%asked, error = %rdma, "discovery does not answer over RDMA either");
            Err(error)
        }
    }
}

/// Whether it is the connection that failed, rather than the host that is not wanted.
const fn another_way_may_work(error: &Error) -> bool {
    matches!(
        error,
        Error::Connect { .. }
            | Error::ConnectionLost { .. }
            | Error::Timeout { .. }
            | Error::Unsupported { .. }
            | Error::Memory { .. }
    )
}

/// The ways to `subnqn` in the order in which to try them: RDMA first if this machine `has_rdma`, else last; where
/// discovery answered before elsewhere.
fn ways(asked: &Address, subnqn: &str, entries: &[DiscoveryEntry], has_rdma: bool, tcp_only: bool) -> Vec<Address> {
    let mut ways: Vec<Address> = Vec::new();
    for entry in entries.iter().filter(|e| e.subtype == SubsystemType::NVM && e.subnqn == subnqn) {
        if let Some(way) = entry.address_from(asked)
            && !ways.contains(&way)
            && !(tcp_only && way.transport() == Transport::Rdma)
        {
            ways.push(way);
        }
    }
    ways.sort_by_key(|way| ((way.transport() == Transport::Rdma) != has_rdma, way.host() != asked.host()));
    ways
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddressFamily, DiscoveryFlags, TransportRequirements, TransportType};

    const NQN: &str = "nqn.2024-01.com.example:kv";

    fn entry(trtype: TransportType, traddr: &str, trsvcid: &str) -> DiscoveryEntry {
        DiscoveryEntry {
            trtype,
            adrfam: AddressFamily::IPV4,
            subtype: SubsystemType::NVM,
            portid: 1,
            cntlid: 0xffff,
            asqsz: 32,
            treq: TransportRequirements::empty(),
            eflags: DiscoveryFlags::empty(),
            trsvcid: trsvcid.into(),
            traddr: traddr.into(),
            subnqn: NQN.into(),
        }
    }

    #[test]
    fn rdma_comes_first_where_it_can() {
        let asked: Address = "auto://10.0.0.1:8009".parse().unwrap();
        let entries = [
            entry(TransportType::TCP, "10.0.0.2", "4420"),
            entry(TransportType::TCP, "0.0.0.0", "4420"),
            entry(TransportType::RDMA, "10.0.0.2", "4421"),
            entry(TransportType::RDMA, "10.0.0.1", "4421"),
            entry(TransportType::RDMA, "10.0.0.1", "4421"),
            entry(TransportType::LOOP, "x", ""),
            DiscoveryEntry { subnqn: "another".into(), ..entry(TransportType::TCP, "10.0.0.1", "1") },
            DiscoveryEntry { subtype: SubsystemType::REFERRAL, ..entry(TransportType::TCP, "10.0.0.1", "2") },
        ];
        let shown = |has_rdma, tcp_only| {
            let ways = ways(&asked, NQN, &entries, has_rdma, tcp_only);
            ways.iter().map(Address::to_string).collect::<Vec<_>>()
        };
        let rdma = ["rdma://10.0.0.1:4421", "rdma://10.0.0.2:4421"];
        let tcp = ["tcp://10.0.0.1:4420", "tcp://10.0.0.2:4420"];
        assert_eq!(shown(true, false), [rdma, tcp].concat());
        assert_eq!(shown(false, false), [tcp, rdma].concat());
        assert_eq!(shown(true, true), tcp);
    }
}

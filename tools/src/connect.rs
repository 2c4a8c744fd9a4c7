//! From an address to a connected controller and a namespace of it, asking discovery for what was not said.

use anyhow::Result;
use kvof_initiator::{
    Address, ConnectOptions, Controller, Csi, DiscoveryEntry, Error, KvNamespace, NamespaceInfo, NvmNamespace,
    SubsystemType, Transport, blocking::block_on, discover,
};

use crate::{
    cli::ConnectionArgs,
    failure::{Exit, coded, connecting, usage},
};

/// Connects, does `work` and disconnects.
pub(crate) fn with_controller<T>(
    address: &Address,
    args: &ConnectionArgs,
    options: &ConnectOptions,
    work: impl AsyncFnOnce(&Controller) -> Result<T>,
) -> Result<T> {
    block_on(async {
        let controller = connect(address, args.nqn(), options).await?;
        let result = work(&controller).await;
        controller.disconnect().await;
        result
    })
}

/// Connects with one I/O queue, opens the KV namespace, does `work` and disconnects.
pub(crate) fn with_kv<T>(
    address: &Address,
    args: &ConnectionArgs,
    work: impl AsyncFnOnce(&KvNamespace) -> Result<T>,
) -> Result<T> {
    with_controller(address, args, &args.options(1, None), async |controller| {
        let kv = open_kv(controller, args.nsid).await?;
        work(&kv).await
    })
}

/// Connects to subsystem `nqn`, or to the only one there is.
pub(crate) async fn connect(address: &Address, nqn: Option<&str>, options: &ConnectOptions) -> Result<Controller> {
    let (address, nqn) = match nqn {
        Some(nqn) => (address.clone(), nqn.to_owned()),
        None => {
            let entries = discover(address, options).await.map_err(|error| match &error {
                // There is nobody, under whatever name.
                Error::Connect { .. } | Error::Argument { .. } | Error::Timeout { .. } => connecting(&error),
                _ => connecting(&error).context(format!(
                    "discovery at {address} failed; a target without it needs the subsystem's name, by --nqn"
                )),
            })?;
            only_subsystem(address, &entries)?
        }
    };
    Controller::connect(&address, &nqn, options).await.map_err(|error| connecting(&error))
}

/// The KV namespace `nsid`, or the only one there is.
pub(crate) async fn open_kv(controller: &Controller, nsid: Option<u32>) -> Result<KvNamespace> {
    let nsid = match nsid {
        Some(nsid) => nsid,
        None => only_namespace(controller, Csi::KV).await?,
    };
    Ok(controller.kv(nsid).await?)
}

/// The NVM (block) namespace `nsid`, or the only one there is.
pub(crate) async fn open_nvm(controller: &Controller, nsid: Option<u32>) -> Result<NvmNamespace> {
    let nsid = match nsid {
        Some(nsid) => nsid,
        None => only_namespace(controller, Csi::NVM).await?,
    };
    Ok(controller.nvm(nsid).await?)
}

async fn only_namespace(controller: &Controller, csi: Csi) -> Result<u32> {
    pick_namespace(controller.subnqn(), &controller.namespaces().await?, csi)
}

fn pick_namespace(subnqn: &str, namespaces: &[NamespaceInfo], csi: Csi) -> Result<u32> {
    let candidates: Vec<u32> = namespaces.iter().filter(|ns| ns.csi == csi).map(|ns| ns.nsid).collect();
    match candidates.as_slice() {
        [nsid] => Ok(*nsid),
        [] => {
            let others: Vec<String> = namespaces.iter().map(|ns| format!("{} ({})", ns.nsid, ns.csi)).collect();
            let others = if others.is_empty() { "no namespace at all".to_owned() } else { others.join(", ") };
            Err(coded(Exit::Failed, format!("{subnqn} has no {csi} namespace for this host; it has {others}")))
        }
        several => {
            let several: Vec<String> = several.iter().map(u32::to_string).collect();
            Err(usage(format!("{subnqn} has several {csi} namespaces; choose one by --nsid: {}", several.join(", "))))
        }
    }
}

/// The only subsystem that `entries` name, and where to reach it: where discovery answered if it is there too.
fn only_subsystem(asked: &Address, entries: &[DiscoveryEntry]) -> Result<(Address, String)> {
    let mut found: Vec<(&str, Vec<Address>)> = Vec::new();
    for entry in entries.iter().filter(|e| e.subtype == SubsystemType::NVM) {
        let Some(address) = entry.address_from(asked) else { continue };
        match found.iter_mut().find(|(nqn, _)| *nqn == entry.subnqn) {
            Some((_, addresses)) => addresses.push(address),
            None => found.push((&entry.subnqn, vec![address])),
        }
    }
    only(asked, &found)
}

/// The only one of the subsystems that were `found`, each with its addresses, and which of these to use.
fn only(asked: &Address, found: &[(&str, Vec<Address>)]) -> Result<(Address, String)> {
    match found {
        // Which way to take is the library's choice.
        [(nqn, _)] if asked.transport() == Transport::Auto => Ok((asked.clone(), (*nqn).to_owned())),
        [(nqn, addresses)] => {
            let same = addresses.iter().filter(|a| a.transport() == asked.transport());
            let Some(address) = same.clone().find(|a| *a == asked).or(same.clone().next()) else {
                let others: Vec<String> = addresses.iter().map(Address::to_string).collect();
                return Err(coded(
                    Exit::Connection,
                    format!("{nqn} is not reached over {}, but at {}", asked.transport(), others.join(", ")),
                ));
            };
            Ok((address.clone(), (*nqn).to_owned()))
        }
        [] => Err(coded(
            Exit::Connection,
            format!(
                "discovery at {asked} names no subsystem that this host may use over TCP or RDMA; see `kvof discover`"
            ),
        )),
        several => {
            let several: Vec<String> = several.iter().map(|(nqn, _)| format!("\n  {nqn}")).collect();
            Err(usage(format!("there are several subsystems at {asked}; choose one by --nqn:{}", several.concat())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_subsystem_is_reached_as_it_was_asked_for() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Address>>();
        let all = ["rdma://10.0.0.1:4421", "tcp://10.0.0.2:4420", "tcp://host:4420"];
        let pick = |asked: &str, found: &[(&str, Vec<Address>)]| {
            only(&asked.parse().unwrap(), found).map(|(address, _)| address.to_string())
        };
        let one = [("a", addresses(&all))];
        assert_eq!(pick("tcp://host:4420", &one).unwrap(), "tcp://host:4420");
        assert_eq!(pick("tcp://host:8009", &one).unwrap(), "tcp://10.0.0.2:4420");
        assert_eq!(pick("rdma://host:4420", &one).unwrap(), "rdma://10.0.0.1:4421");
        assert_eq!(pick("auto://host:8009", &one).unwrap(), "auto://host:8009");
        let error = pick("rdma://host:4420", &[("a", addresses(&all[1..]))]).unwrap_err().to_string();
        assert!(error.contains("not reached over rdma, but at tcp://10.0.0.2:4420"), "{error}");
        let two = [("a", addresses(&all)), ("b", addresses(&all[1..2]))];
        assert!(pick("auto://host", &two).unwrap_err().to_string().contains("--nqn"));
        assert!(pick("auto://host", &[]).unwrap_err().to_string().contains("TCP or RDMA"));
    }
}

//! The kernel's side: `/sys/class/infiniband`, which is there without any library.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{DeviceReport, Gid, GidKind, InspectError, PortReport};

/// Entries of a GID table that are looked at; drivers have up to 256.
const GIDS_MAX: u32 = 4096;
/// The module of Soft-RoCE.
const SOFT_ROCE: &str = "rdma_rxe";

/// What kind of node a device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// A channel adapter: InfiniBand or RoCE.
    ChannelAdapter,
    /// An RDMA NIC: iWARP.
    Rnic,
    /// Anything else, in the kernel's words.
    Other(String),
}

/// A network device that a port belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Netdev {
    /// Its name; of this network namespace unless it is gone from it.
    pub name: String,
    /// Its MTU in bytes; `None` if it is not in this network namespace.
    pub mtu: Option<u32>,
}

/// The devices below `root`/class/infiniband, by name. Their verbs are unknown yet.
pub(super) fn devices(root: &Path) -> io::Result<Vec<DeviceReport>> {
    let class = root.join("class/infiniband");
    let entries = match fs::read_dir(&class) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", class.display()))),
    };
    let mut devices: Vec<DeviceReport> = entries
        .filter_map(Result::ok)
        .map(|entry| device(root, &entry.path(), entry.file_name().to_string_lossy().into_owned()))
        .collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(devices)
}

fn device(root: &Path, path: &Path, name: String) -> DeviceReport {
    let hardware = path.join("device");
    let ports = numbered(&path.join("ports"));
    DeviceReport {
        driver: driver(path),
        kind: node_kind(&text(&path.join("node_type")).unwrap_or_default()),
        firmware: text(&path.join("fw_ver")).filter(|version| !version.is_empty()),
        node_guid: text(&path.join("node_guid")),
        board: text(&path.join("board_id")).filter(|board| !board.is_empty()),
        // -1: there is only one.
        numa_node: text(&hardware.join("numa_node")).and_then(|node| node.parse().ok()),
        uverbs: uverbs(root, &name),
        ports: ports.into_iter().map(|number| port(root, path, number)).collect(),
        verbs: Err(InspectError::NoProvider),
        name,
    }
}

/// The driver. Soft-RoCE sits on a network device, which it names, and whose own driver has nothing to do with RDMA.
fn driver(path: &Path) -> Option<String> {
    if path.join("parent").exists() {
        return Some(SOFT_ROCE.to_owned());
    }
    Some(fs::read_link(path.join("device/driver")).ok()?.file_name()?.to_string_lossy().into_owned())
}

fn node_kind(node_type: &str) -> NodeKind {
    match after_colon(node_type) {
        "CA" => NodeKind::ChannelAdapter,
        "RNIC" => NodeKind::Rnic,
        other => NodeKind::Other(other.to_owned()),
    }
}

/// The character device of `name`, by what each `uverbsN` says that it belongs to.
fn uverbs(root: &Path, name: &str) -> Option<String> {
    let entries = fs::read_dir(root.join("class/infiniband_verbs")).ok()?;
    let of_device = |path: &PathBuf| text(&path.join("ibdev")).as_deref() == Some(name);
    let path = entries.filter_map(Result::ok).map(|entry| entry.path()).find(of_device)?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}

fn port(root: &Path, device: &Path, number: u32) -> PortReport {
    let path = device.join("ports").join(number.to_string());
    let of = |name: &str| text(&path.join(name)).unwrap_or_default();
    let link_layer = of("link_layer");
    let gids = gids(&path, link_layer == "Ethernet");
    let mut names: Vec<String> = gids.iter().filter_map(|gid| gid.netdev.clone()).collect();
    if names.is_empty() {
        // Without addresses there are no GIDs: a software device names its parent, a card its network devices.
        names.extend(text(&device.join("parent")));
        names.extend(folder(&device.join("device/net")));
    }
    names.sort();
    names.dedup();
    let netdevs = names.into_iter().map(|name| {
        let mtu = text(&root.join("class/net").join(&name).join("mtu")).and_then(|mtu| mtu.parse().ok());
        Netdev { name, mtu }
    });
    PortReport {
        number,
        state: after_colon(&of("state")).to_owned(),
        physical_state: after_colon(&of("phys_state")).to_owned(),
        rate: of("rate"),
        netdevs: netdevs.collect(),
        link_layer,
        gids,
    }
}

fn gids(port: &Path, ethernet: bool) -> Vec<Gid> {
    let attributes = port.join("gid_attrs");
    let in_use = |index: &u32| {
        let address = text(&port.join("gids").join(index.to_string()))?.parse::<std::net::Ipv6Addr>().ok()?;
        if address.is_unspecified() {
            return None;
        }
        // Reading these of an empty entry is an error, which is why they come second.
        let kind = text(&attributes.join("types").join(index.to_string())).unwrap_or_default();
        let netdev = text(&attributes.join("ndevs").join(index.to_string())).filter(|name| !name.is_empty());
        let kind = if kind.is_empty() && !ethernet { GidKind::InfiniBand } else { GidKind::parse(&kind, ethernet) };
        Some(Gid { index: *index, kind, address, netdev })
    };
    numbered(&port.join("gids")).iter().take_while(|&&index| index < GIDS_MAX).filter_map(in_use).collect()
}

/// `ACTIVE` of `4: ACTIVE`.
fn after_colon(text: &str) -> &str {
    text.split_once(':').map_or(text, |(_, after)| after).trim()
}

/// The contents of a file without its line end; `None` if it cannot be read, since sysfs differs between drivers.
fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn folder(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The entries of a folder whose names are numbers, in order.
fn numbered(path: &Path) -> Vec<u32> {
    let mut numbers: Vec<u32> = folder(path).iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files that vanishes.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kvof-inspect-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, path: &str, contents: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn no_rdma_is_no_device() {
        let tree = Tree::new("none");
        assert_eq!(devices(&tree.0).unwrap().len(), 0);
    }

    #[test]
    fn a_roce_port_with_its_gids() {
        let tree = Tree::new("roce");
        let device = "class/infiniband/mlx5_0";
        for (file, contents) in [
            ("node_type", "1: CA\n"),
            ("fw_ver", "28.39.1002\n"),
            ("node_guid", "0c42:a103:0065:1a2b\n"),
            ("board_id", "MT_0000000838\n"),
            ("device/numa_node", "1\n"),
            ("ports/1/state", "4: ACTIVE\n"),
            ("ports/1/phys_state", "5: LinkUp\n"),
            ("ports/1/link_layer", "Ethernet\n"),
            ("ports/1/rate", "100 Gb/sec (4X EDR)\n"),
            ("ports/1/gids/0", "fe80:0000:0000:0000:0e42:a1ff:fe65:1a2b\n"),
            ("ports/1/gids/1", "0000:0000:0000:0000:0000:0000:0000:0000\n"),
            ("ports/1/gids/10", "0000:0000:0000:0000:0000:ffff:0a08:0001\n"),
            ("ports/1/gids/rubbish", "x\n"),
            ("ports/1/gid_attrs/types/0", "IB/RoCE v1\n"),
            ("ports/1/gid_attrs/types/10", "RoCE v2\n"),
            ("ports/1/gid_attrs/ndevs/0", "eth4\n"),
            ("ports/1/gid_attrs/ndevs/10", "eth4\n"),
        ] {
            tree.file(&format!("{device}/{file}"), contents);
        }
        tree.file("class/infiniband_verbs/uverbs0/ibdev", "other\n");
        tree.file("class/infiniband_verbs/uverbs3/ibdev", "mlx5_0\n");
        tree.file("class/infiniband_verbs/abi_version", "6\n");
        tree.file("class/net/eth4/mtu", "9000\n");
        std::os::unix::fs::symlink("../../drivers/mlx5_core", tree.0.join(format!("{device}/device/driver"))).unwrap();

        let [found] = devices(&tree.0).unwrap().try_into().unwrap();
        assert_eq!((found.name.as_str(), found.driver.as_deref()), ("mlx5_0", Some("mlx5_core")));
        assert_eq!((found.kind, found.numa_node), (NodeKind::ChannelAdapter, Some(1)));
        assert_eq!((found.uverbs.as_deref(), found.firmware.as_deref()), (Some("uverbs3"), Some("28.39.1002")));
        let gid = |index, kind, address: &str| Gid {
            index,
            kind,
            address: address.parse().unwrap(),
            netdev: Some("eth4".to_owned()),
        };
        let port = PortReport {
            number: 1,
            state: "ACTIVE".to_owned(),
            physical_state: "LinkUp".to_owned(),
            link_layer: "Ethernet".to_owned(),
            rate: "100 Gb/sec (4X EDR)".to_owned(),
            netdevs: vec![Netdev { name: "eth4".to_owned(), mtu: Some(9000) }],
            gids: vec![
                gid(0, GidKind::RoceV1, "fe80::e42:a1ff:fe65:1a2b"),
                gid(10, GidKind::RoceV2, "::ffff:10.8.0.1"),
            ],
        };
        assert_eq!(found.ports, [port]);
    }

    #[test]
    fn without_addresses_the_network_device_is_still_named() {
        let tree = Tree::new("parent");
        tree.file("class/infiniband/rxe0/node_type", "1: CA\n");
        tree.file("class/infiniband/rxe0/parent", "eth0\n");
        tree.file("class/infiniband/rxe0/device/numa_node", "-1\n");
        tree.file("class/infiniband/rxe0/ports/1/state", "1: DOWN\n");
        let [found] = devices(&tree.0).unwrap().try_into().unwrap();
        assert_eq!((found.driver.as_deref(), found.numa_node), (Some("rdma_rxe"), None));
        assert_eq!(found.uverbs, None);
        assert_eq!(found.ports[0].netdevs, [Netdev { name: "eth0".to_owned(), mtu: None }]);
        assert_eq!(found.ports[0].state, "DOWN");
        assert!(matches!(found.verbs, Err(InspectError::NoProvider)));
    }
}

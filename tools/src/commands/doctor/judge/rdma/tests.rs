use super::*;
use crate::{
    commands::doctor::{
        Facts,
        machine::{Limit, Limits, RunningTarget},
        made_up::{connectx, plain, soft_roce},
        rdma::{Netdev, OpenError},
    },
    units::parse_size,
};

fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    judge(&facts.rdma, &facts.machine, &mut findings);
    findings
}

fn changed(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    change(&mut facts);
    findings(&facts)
}

/// There is exactly one finding about `about`, and it has all `parts`.
#[track_caller]
fn has(found: &[Finding], level: Level, about: &str, parts: &[&str]) {
    let about_it: Vec<&Finding> = found.iter().filter(|finding| finding.about == about).collect();
    let [finding] = about_it.as_slice() else { panic!("{found:#?}") };
    assert_eq!(finding.level, level, "{finding:?}");
    let text = format!("{} {}", finding.what, finding.fix.join(" "));
    parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in {text:?}"));
}

#[test]
fn a_good_card_has_no_finding() {
    assert_eq!(findings(&connectx()), []);
}

#[test]
fn no_device_is_told_with_ways_to_get_one() {
    let found = findings(&plain());
    has(&found, Level::Note, "rdma", &["no RDMA device", "rdma link add rxe0 type rxe netdev ens3", "mlx5_ib"]);
    has(&found, Level::Note, "rdma-core", &["libibverbs.so.1 and librdmacm.so.1", "apt-get install rdma-core"]);
    assert_eq!(found.len(), 2, "{found:?}");

    let without = changed(plain(), |facts| facts.machine.modules = [("rdma_rxe", Module::Absent)].into());
    has(&without, Level::Note, "rdma", &["kernel 6.12.1-amd64 has no Soft-RoCE (CONFIG_RDMA_RXE"]);
}

#[test]
fn a_card_that_has_no_driver() {
    let found = changed(plain(), |facts| facts.machine.cards_without_rdma = vec!["0000:01:00.0".to_owned()]);
    assert_eq!((found[0].level, found[0].about.as_str()), (Level::Warning, "rdma"));
    assert!(found[0].what.contains("0000:01:00.0") && found[0].fix[0].contains("modprobe mlx5_ib"), "{found:?}");
}

#[test]
fn a_device_without_its_software() {
    let found = changed(connectx(), |facts| {
        facts.rdma.libraries = plain().rdma.libraries;
        facts.rdma.kernel_verbs = false;
        facts.rdma.kernel_connections = false;
        facts.rdma.devices[0].limits = None;
        facts.rdma.devices[0].error = Some(OpenError { message: "no library".to_owned(), cause: OpenCause::NoLibrary });
    });
    has(&found, Level::Problem, "rdma-core", &["No such file", "dnf install"]);
    has(&found, Level::Problem, "ib_uverbs", &["modprobe ib_uverbs", "/etc/modules-load.d/ib_uverbs.conf"]);
    has(&found, Level::Problem, "rdma_ucm", &["modprobe rdma_ucm"]);
    assert_eq!(found.len(), 3, "what is missing once is told once: {found:?}");
}

#[test]
fn a_device_that_this_process_cannot_use() {
    let found = changed(connectx(), |facts| {
        facts.rdma.connection_device_error = Some("/dev/infiniband/rdma_cm: Permission denied".to_owned());
        facts.rdma.devices[0].error =
            Some(OpenError { message: "ibv_open_device: EACCES".to_owned(), cause: OpenCause::Call });
    });
    has(&found, Level::Problem, "rdma_ucm", &["Permission denied", "--device=/dev/infiniband"]);
    has(&found, Level::Problem, "mlx5_0", &["EACCES", "/dev/infiniband/uverbs0"]);

    let found = changed(connectx(), |facts| {
        facts.rdma.devices[0].error =
            Some(OpenError { message: "no provider".to_owned(), cause: OpenCause::NoProvider });
    });
    has(&found, Level::Problem, "mlx5_0", &["no provider", "ibverbs-providers"]);

    let found = changed(connectx(), |facts| {
        facts.rdma.devices[0].registration_error = Some("ibv_reg_mr: ENOMEM".to_owned());
    });
    has(&found, Level::Problem, "mlx5_0", &["64 KiB", "ENOMEM"]);
}

#[test]
fn memory_windows() {
    let found = changed(connectx(), |facts| {
        facts.rdma.devices[0].limits.as_mut().unwrap().memory_windows_2b = false;
    });
    has(&found, Level::Warning, "mlx5_0", &["no memory windows of type 2B", "every command"]);
    let found = changed(connectx(), |facts| facts.rdma.devices[0].window_error = Some("ENOSYS".to_owned()));
    has(&found, Level::Warning, "mlx5_0", &["gives none: ENOSYS"]);
}

#[test]
fn ports_that_cannot_be_used() {
    let port = |change: fn(&mut Port)| changed(connectx(), |facts| change(&mut facts.rdma.devices[0].ports[0]));
    let about = "mlx5_0 port 1";
    let down = port(|port| (port.state, port.physical_state) = ("DOWN".to_owned(), "Disabled".to_owned()));
    has(&down, Level::Warning, about, &["DOWN (Disabled)", "ip link set ens1f0np0 up"]);
    let v1 = port(|port| port.gids.iter_mut().for_each(|gid| gid.kind = "RoCE v1"));
    has(&v1, Level::Warning, about, &["no RoCE v2 GID", "ip addr add"]);
    let local = port(|port| port.gids.iter_mut().for_each(|gid| gid.address = None));
    has(&local, Level::Warning, about, &["no RoCE v2 GID"]);
    let waits = port(|port| (port.state, port.link_layer) = ("INIT".to_owned(), "InfiniBand".to_owned()));
    has(&waits, Level::Warning, about, &["INIT", "subnet manager"]);
    let no_ip = port(|port| {
        port.link_layer = "InfiniBand".to_owned();
        port.netdevs.clear();
    });
    has(&no_ip, Level::Warning, about, &["ib_ipoib"]);
    // iWARP has neither GIDs nor an MTU of its own.
    let iwarp = changed(connectx(), |facts| {
        facts.rdma.devices[0].iwarp = true;
        facts.rdma.devices[0].ports[0].gids.clear();
    });
    assert_eq!(iwarp, []);
}

#[test]
fn small_packets() {
    let found = findings(&soft_roce());
    has(
        &found,
        Level::Warning,
        "rxe0 port 1",
        &["carry 1024 bytes", "ens3 has an MTU of 1500; 4200 gives 4096", "ip link set ens3 mtu 4200"],
    );
    has(&found, Level::Note, "rxe0", &["Soft-RoCE"]);
    // Where the network device is not the reason, it is not blamed.
    let found = changed(soft_roce(), |facts| {
        facts.rdma.devices[0].ports[0].netdevs = vec![Netdev { name: "ens3".to_owned(), mtu: Some(9000) }];
    });
    has(&found, Level::Warning, "rxe0 port 1", &["could do 4096", "switch"]);
}

#[test]
fn locked_memory_of_this_shell_and_of_targets() {
    let locked = |limit, any| {
        changed(connectx(), |facts| {
            facts.machine.limits.locked_memory = Limit { soft: limit, hard: None };
            facts.machine.may_lock_any = any;
        })
    };
    has(&locked(Some(8 << 20), false), Level::Warning, "locked memory", &["8 MiB", "1.81 GiB", "memlock"]);
    assert_eq!(locked(Some(8 << 20), true), []);
    assert_eq!(locked(Some(1856 << 20), false), []);
    assert_eq!(locked(None, false), []);

    let target = RunningTarget {
        pid: 4711,
        limits: Limits {
            locked_memory: Limit { soft: Some(64 << 10), hard: Some(64 << 10) },
            open_files: Limit::default(),
        },
        may_lock_any: false,
        pinned: 32 << 10,
    };
    let found = changed(connectx(), |facts| facts.machine.targets = vec![target.clone()]);
    has(&found, Level::Warning, "locked memory", &["process 4711", "64 KiB", "32 KiB are locked"]);
    // Without an RDMA device nobody locks anything.
    assert!(changed(plain(), |facts| facts.machine.targets = vec![target]).iter().all(|f| f.about != "locked memory"));
}

/// The figure is that of the defaults in the reference of the configuration.
#[test]
fn the_memory_of_a_target_is_what_the_reference_says() {
    let reference = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md"));
    let default = |section: &str, key: &str| {
        let after = reference.split_once(&format!("## `[{section}]`")).unwrap().1;
        let after = after.split_once(&format!("### `{key}`")).unwrap().1;
        let after = after.split_once("* Default: ").unwrap().1;
        let text: String =
            after.trim_start_matches(['`', '"']).chars().take_while(char::is_ascii_alphanumeric).collect();
        parse_size(&text).unwrap()
    };
    let sum = default("reactor", "memory") + default("[pool]", "tier") + default("[pool]", "scratch");
    assert_eq!(TARGET_MEMORY, sum);
    assert_eq!(RECEIVE_MEMORY, default("rdma", "receive_memory"));
}

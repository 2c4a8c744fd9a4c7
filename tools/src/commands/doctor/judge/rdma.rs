//! Findings about RDMA: libraries, modules, devices, ports, and memory that may be locked.

use super::{Finding, Level};
use crate::{
    commands::doctor::{
        machine::{Machine, Module},
        rdma::{Device, OpenCause, Port, Rdma},
    },
    units::size,
};

/// Memory that a target with the default configuration and one pool registers: `reactor.memory`, and `tier` and `scratch`
/// of the pool. A test compares it with the reference of the configuration.
pub(super) const TARGET_MEMORY: u64 = (512 + 256 + 64) << 20;
/// `rdma.receive_memory`, which each core has for the capsules of its connections.
const RECEIVE_MEMORY: u64 = 64 << 20;

/// The MTU of a network device that lets RoCE use packets of 4096 bytes, headers included.
const NETDEV_MTU_FOR_4096: u32 = 4200;

const INSTALL: &str = "Debian, Ubuntu: apt-get install rdma-core ibverbs-providers; Fedora, RHEL: dnf install rdma-core libibverbs \
                       librdmacm; SUSE: zypper install rdma-core libibverbs1 librdmacm1";

pub(super) fn judge(rdma: &Rdma, machine: &Machine, findings: &mut Vec<Finding>) {
    if let Some(error) = &rdma.error {
        findings.push(
            Finding::new(Level::Problem, "rdma", format!("the kernel's RDMA devices cannot be listed: {error}"))
                .fix("run this as root; a container needs /sys"),
        );
    }
    if rdma.devices.is_empty() {
        without_device(rdma, machine, findings);
        return;
    }
    libraries(rdma, Level::Problem, findings);
    kernel(rdma, findings);
    for device in &rdma.devices {
        self::device(device, findings);
    }
    locked_memory(machine, findings);
    if !machine.cards_without_rdma.is_empty() {
        findings.push(card_without_driver(machine));
    }
}

fn without_device(rdma: &Rdma, machine: &Machine, findings: &mut Vec<Finding>) {
    if !machine.cards_without_rdma.is_empty() {
        findings.push(card_without_driver(machine));
    }
    if rdma.error.is_none() {
        let netdev = machine.netdevs.first().map_or("eth0", String::as_str);
        let soft = match machine.module("rdma_rxe") {
            Module::Absent => {
                format!("kernel {} has no Soft-RoCE (CONFIG_RDMA_RXE, module rdma_rxe)", machine.kernel)
            }
            _ => format!(
                "to try RDMA without a card, on any network device: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev {netdev}"
            ),
        };
        findings.push(
            Finding::new(Level::Note, "rdma", "there is no RDMA device; TCP needs none")
                .fix("a card needs its driver: mlx5_ib (NVIDIA), bnxt_re (Broadcom), irdma (Intel), qedr (Marvell)")
                .fix(soft),
        );
    }
    libraries(rdma, Level::Note, findings);
}

fn card_without_driver(machine: &Machine) -> Finding {
    let cards = machine.cards_without_rdma.join(", ");
    let finding = Finding::new(Level::Warning, "rdma", format!("NVIDIA network card without an RDMA device: {cards}"));
    match machine.module("mlx5_ib") {
        Module::Absent => finding.fix(format!(
            "kernel {} has no mlx5_ib; Debian, Ubuntu: install linux-image-… and linux-modules-extra-… of it, or DOCA-OFED",
            machine.kernel
        )),
        _ => finding.fix("modprobe mlx5_ib; a card in InfiniBand mode or of an older kind: modprobe mlx5_ib mlx4_ib ib_ipoib"),
    }
}

fn libraries(rdma: &Rdma, level: Level, findings: &mut Vec<Finding>) {
    let missing: Vec<&str> = rdma.libraries.iter().filter_map(|library| library.error.as_deref()).collect();
    if !missing.is_empty() {
        let names: Vec<&str> = rdma.libraries.iter().filter(|l| l.error.is_some()).map(|l| l.name).collect();
        findings.push(
            Finding::new(
                level,
                "rdma-core",
                format!("{} cannot be opened ({}); kvof uses RDMA through it", names.join(" and "), missing.join("; ")),
            )
            .fix(INSTALL),
        );
    }
}

fn kernel(rdma: &Rdma, findings: &mut Vec<Finding>) {
    let module = |name: &str, what: &str| {
        Finding::new(Level::Problem, name, format!("the kernel does not let programs {what}: {name} is not loaded"))
            .fix(format!("modprobe {name}; for every start: echo {name} > /etc/modules-load.d/{name}.conf"))
    };
    if !rdma.kernel_verbs {
        findings.push(module("ib_uverbs", "use RDMA devices"));
    }
    if !rdma.kernel_connections {
        findings.push(module("rdma_ucm", "make RDMA connections"));
    } else if let Some(error) = &rdma.connection_device_error {
        findings.push(
            Finding::new(Level::Problem, "rdma_ucm", format!("this process cannot make RDMA connections: {error}"))
                .fix("a container needs /dev/infiniband (docker run --device=/dev/infiniband, and --ulimit memlock=-1)")
                .fix("a user needs the rights: rdma-core's udev rules give them to everybody, and a reload applies them (udevadm trigger)"),
        );
    }
}

fn device(device: &Device, findings: &mut Vec<Finding>) {
    let name = device.name.as_str();
    if let Some(error) = &device.error {
        match error.cause {
            // Told once for all.
            OpenCause::NoLibrary => {}
            OpenCause::NoProvider => findings.push(
                Finding::new(Level::Problem, name, &error.message)
                    .fix("Debian, Ubuntu: apt-get install ibverbs-providers; Fedora, RHEL: dnf install libibverbs; a card's own driver package brings its own"),
            ),
            OpenCause::Call => {
                let node = device.uverbs.as_deref().unwrap_or("uverbs*");
                findings.push(
                    Finding::new(Level::Problem, name, format!("it cannot be opened: {}", error.message))
                        .fix(format!("the process needs to read and write /dev/infiniband/{node}; a container needs --device=/dev/infiniband")),
                );
            }
        }
    }
    if let Some(error) = &device.registration_error {
        let what = format!("not even 64 KiB of memory can be registered: {error}");
        findings.push(Finding::new(Level::Problem, name, what));
    }
    if let Some(limits) = &device.limits {
        if !limits.memory_windows_2b {
            findings.push(without_windows(name, "the device has no memory windows of type 2B"));
        } else if let Some(error) = &device.window_error {
            findings.push(without_windows(
                name,
                &format!("the device says that it has memory windows, and gives none: {error}"),
            ));
        }
    }
    if device.driver.as_deref() == Some("rdma_rxe") {
        let what = "it is Soft-RoCE: the CPU does the work of a card; for tests, not for speed";
        findings.push(Finding::new(Level::Note, name, what));
    }
    if !device.iwarp {
        device.ports.iter().for_each(|port| self::port(name, port, findings));
    }
}

fn without_windows(name: &str, what: &str) -> Finding {
    Finding::new(
        Level::Warning,
        name,
        format!("{what}: a host registers memory for every command instead, which costs a system call or two each"),
    )
    .fix("newer firmware or another driver may have them; a target does not need them")
}

fn port(device: &str, port: &Port, findings: &mut Vec<Finding>) {
    let about = format!("{device} port {}", port.number);
    let netdev = port.netdevs.first();
    let netdev_name = netdev.map_or("eth0", |netdev| netdev.name.as_str());
    if !port.is_active() {
        let physical =
            if port.physical_state.is_empty() { String::new() } else { format!(" ({})", port.physical_state) };
        let finding = Finding::new(Level::Warning, about, format!("it is {}{physical}, not ACTIVE", port.state));
        findings.push(if port.is_ethernet() {
            finding.fix(format!("ip link set {netdev_name} up; look at its cable, and at the switch's port"))
        } else {
            finding.fix("look at its cable; an InfiniBand network needs a subnet manager, on a switch or by opensm")
        });
        return;
    }
    if port.is_ethernet() {
        if let (Some(mtu), Some(max)) = (port.mtu, port.max_mtu)
            && mtu < max
        {
            findings.push(small_mtu(&about, mtu, max, netdev_name, netdev.and_then(|netdev| netdev.mtu)));
        }
        if !port.has_routable_gid() {
            findings.push(
                Finding::new(
                    Level::Warning,
                    about,
                    "it has no RoCE v2 GID with an IP address, so that nobody can connect through it",
                )
                .fix(format!("give its network device an address: ip addr add 192.168.7.1/24 dev {netdev_name}")),
            );
        }
    } else if netdev.is_none() {
        findings.push(
            Finding::new(Level::Warning, about, "it has no network device, and connections are made by IP addresses")
                .fix("modprobe ib_ipoib; ip addr add 192.168.7.1/24 dev ib0; ip link set ib0 up"),
        );
    }
}

fn small_mtu(about: &str, mtu: u32, max: u32, netdev: &str, netdev_mtu: Option<u32>) -> Finding {
    match netdev_mtu {
        Some(of) if of < NETDEV_MTU_FOR_4096 => Finding::new(
            Level::Warning,
            about,
            format!(
                "RDMA packets carry {mtu} bytes, since {netdev} has an MTU of {of}; {NETDEV_MTU_FOR_4096} gives {max}"
            ),
        )
        .fix(format!("ip link set {netdev} mtu {NETDEV_MTU_FOR_4096} (or 9000), on hosts and switches alike; connections that exist keep theirs")),
        _ => Finding::new(
            Level::Warning,
            about,
            format!("RDMA packets carry {mtu} bytes, and the device could do {max}"),
        )
        .fix(format!("look at the MTU of {netdev} and of the switch")),
    }
}

/// How to raise the limit on locked memory.
fn raise(finding: Finding) -> Finding {
    finding
        .fix("systemd: LimitMEMLOCK=infinity, which kvof-target.service has")
        .fix("shells: \"* - memlock unlimited\" in /etc/security/limits.d/rdma.conf, and log in again")
        .fix("containers: docker run --ulimit memlock=-1")
}

fn locked_memory(machine: &Machine, findings: &mut Vec<Finding>) {
    let wanted = TARGET_MEMORY + RECEIVE_MEMORY * machine.cores as u64;
    for target in &machine.targets {
        if let Some(soft) = target.limits.locked_memory.soft
            && soft < wanted
            && !target.may_lock_any
        {
            let (pid, soft, wanted, pinned) = (target.pid, size(soft), size(wanted), size(target.pinned));
            findings.push(raise(Finding::new(
                Level::Warning,
                "locked memory",
                format!(
                    "kvof-target (process {pid}) may lock {soft}; with the default configuration it locks up to {wanted} for RDMA; \
                     {pinned} are locked now"
                ),
            )));
        }
    }
    if let Some(soft) = machine.limits.locked_memory.soft
        && soft < wanted
        && !machine.may_lock_any
    {
        let (soft, wanted) = (size(soft), size(wanted));
        findings.push(raise(Finding::new(
            Level::Warning,
            "locked memory",
            format!(
                "what is started from here may lock {soft}; a target with the default configuration locks up to {wanted} for RDMA, \
                 a host what its application registers"
            ),
        )));
    }
}

#[cfg(test)]
mod tests;

//! The report for people.

use super::{
    Facts,
    judge::{Finding, Level},
    machine::{Limit, Limits, Machine, Module},
    rdma::{Device, Limits as DeviceLimits, Port, Rdma},
    reach::Reach,
};
use crate::{
    output::{Align, Section, Table},
    units::{count, duration, size},
};

/// All facts, section by section.
pub(super) fn report(facts: &Facts) -> String {
    let mut sections = vec![machine(&facts.machine).to_string(), rdma(&facts.rdma, &facts.machine).to_string()];
    sections.extend(facts.rdma.devices.iter().map(device));
    sections.push(host(&facts.machine).to_string());
    sections.push(gpus(facts));
    sections.join("\n\n")
}

fn machine(machine: &Machine) -> Section {
    let rings = match (machine.io_uring.ring, &machine.io_uring.error) {
        (Some("deferred"), _) => "yes, with DEFER_TASKRUN".to_owned(),
        (Some("cooperative"), _) => "yes, with COOP_TASKRUN".to_owned(),
        (Some(_), _) => "yes, without optional flags".to_owned(),
        (None, Some(error)) => format!("no: {error}"),
        (None, None) => "no".to_owned(),
    };
    let transparent = match machine.transparent_huge_pages.as_str() {
        "" => "no transparent ones in this kernel",
        "never" => "transparent ones off",
        "madvise" => "transparent where asked for, which kvof does",
        _ => "transparent everywhere",
    };
    Section::new("Machine")
        .field("kernel", format_args!("Linux {}, {}", machine.kernel, machine.architecture))
        .field("cores", machine.cores)
        .field("memory", format_args!("{}, {} available", size(machine.memory), size(machine.memory_available)))
        .field("CRC-32C", &machine.cpu.crc)
        .field("parity", &machine.cpu.parity)
        .field("huge pages", format_args!("{transparent}; {} reserved", machine.reserved_huge_pages))
        .field("io_uring", rings)
        .field("open files", limits(machine.limits.open_files, &|n| n.to_string()))
        .field("locked memory", locked(&machine.limits, machine.may_lock_any))
        .field("targets", running(machine))
}

/// Soft and hard limit.
fn limits(Limit { soft, hard }: Limit, show: &dyn Fn(u64) -> String) -> String {
    let one = |limit: Option<u64>| limit.map_or("no limit".to_owned(), show);
    if soft == hard { one(soft) } else { format!("{}, can be raised to {}", one(soft), one(hard)) }
}

fn locked(of: &Limits, may_lock_any: bool) -> String {
    let limit = limits(of.locked_memory, &size);
    if may_lock_any && limit != "no limit" { format!("{limit}; CAP_IPC_LOCK lifts that") } else { limit }
}

fn running(machine: &Machine) -> String {
    let one = |target: &super::machine::RunningTarget| {
        let limit = locked(&target.limits, target.may_lock_any);
        format!("process {}, {} locked (limit: {limit})", target.pid, size(target.pinned))
    };
    machine.targets.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn rdma(rdma: &Rdma, machine: &Machine) -> Section {
    let mut section = Section::new("RDMA");
    for library in &rdma.libraries {
        let state = match &library.path {
            Some(path) => path.display().to_string(),
            None => "not there".to_owned(),
        };
        section = section.field(library.name, state);
    }
    let connections = match (rdma.kernel_connections, &rdma.connection_device_error) {
        (false, _) => module("rdma_ucm", machine),
        (true, None) => "yes".to_owned(),
        (true, Some(error)) => format!("no: {error}"),
    };
    let verbs = if rdma.kernel_verbs { "yes".to_owned() } else { module("ib_uverbs", machine) };
    let names: Vec<&str> = rdma.devices.iter().map(|device| device.name.as_str()).collect();
    section
        .field("verbs for programs", verbs)
        .field("connections", connections)
        .field("devices", if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

fn module(name: &str, machine: &Machine) -> String {
    match machine.module(name) {
        Module::Loaded => format!("{name} is there"),
        Module::Available => format!("no: modprobe {name}"),
        Module::Absent => format!("no: this kernel has no {name}"),
        Module::Unknown => format!("no: {name} is not loaded"),
    }
}

fn device(device: &Device) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut section = Section::new("Device")
        .field("name", &device.name)
        .field("kind", &device.kind)
        .field("driver", text(&device.driver))
        .field("firmware", text(&device.firmware))
        .field("board", text(&device.board))
        .field("node GUID", text(&device.node_guid))
        .field("NUMA node", device.numa_node.map_or(String::new(), |node| node.to_string()))
        .field(
            "character device",
            device.uverbs.as_ref().map_or(String::new(), |node| format!("/dev/infiniband/{node}")),
        );
    if let Some(limits) = &device.limits {
        section = section
            .field("memory regions", memory_regions(limits))
            .field("queue pairs", queue_pairs(limits))
            .field("completion queues", format_args!("{} of {} entries", number(limits.max_cq), number(limits.max_cqe)))
            .field("shared receive", format_args!("{} queues", number(limits.max_srq)))
            .field("memory windows", windows(device, limits))
            .field(
                "RDMA READs at once",
                format_args!("{} of its own, {} of its peer", limits.max_reads, limits.max_reads_served),
            )
            .field("send and invalidate", if limits.remote_invalidate { "yes" } else { "no" })
            .field(
                "dma-buf",
                match device.dma_buf {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => "not known",
                },
            );
    } else if let Some(error) = &device.error {
        section = section.field("limits", format_args!("not known: {}", error.message));
    }
    let ports: String = device.ports.iter().map(port).collect();
    format!("{section}{ports}")
}

fn memory_regions(limits: &DeviceLimits) -> String {
    let of = match limits.max_mr_size {
        u64::MAX => "of any size".to_owned(),
        bytes => format!("of {}", size(bytes)),
    };
    format!("{} {of}", number(limits.max_mr))
}

fn queue_pairs(limits: &DeviceLimits) -> String {
    format!(
        "{}, {} requests each, {} pieces a request",
        number(limits.max_qp),
        number(limits.max_qp_wr),
        limits.max_sge
    )
}

fn windows(device: &Device, limits: &DeviceLimits) -> String {
    match (limits.max_mw, limits.memory_windows_2b, &device.window_error) {
        (0, ..) => "none".to_owned(),
        (max, true, None) => format!("{}, type 2B", number(max)),
        (max, true, Some(error)) => format!("{}, type 2B, but: {error}", number(max)),
        (max, false, _) => format!("{}, not of type 2B", number(max)),
    }
}

/// Drivers say "no limit" with the largest number there is.
fn number(n: u32) -> String {
    if n >= i32::MAX as u32 { "any number".to_owned() } else { n.to_string() }
}

fn port(port: &Port) -> String {
    let netdevs = port.netdevs.iter().map(|netdev| match netdev.mtu {
        Some(mtu) => format!("{} (MTU {mtu})", netdev.name),
        None => netdev.name.clone(),
    });
    let mtu = match (port.mtu, port.max_mtu) {
        (Some(mtu), Some(max)) => format!(", MTU {mtu} of {max}"),
        _ => String::new(),
    };
    let netdevs: Vec<String> = netdevs.collect();
    let on = if netdevs.is_empty() { String::new() } else { format!(", on {}", netdevs.join(" and ")) };
    let parts = [&port.state, &port.physical_state, &port.link_layer, &port.rate];
    let parts: Vec<&str> = parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    let line = format!("\n  port {}: {}{mtu}{on}", port.number, parts.join(", "));
    if port.gids.is_empty() {
        return format!("{line}\n    no GIDs");
    }
    let mut table = Table::new(&[
        ("GID", Align::Right),
        ("TYPE", Align::Left),
        ("NETDEV", Align::Left),
        ("IP ADDRESS", Align::Left),
        ("VALUE", Align::Left),
    ])
    .indented(4);
    for gid in &port.gids {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            gid.index.to_string(),
            gid.kind.to_owned(),
            text(&gid.netdev),
            text(&gid.address),
            gid.gid.clone(),
        ]);
    }
    format!("{line}\n{table}")
}

fn host(machine: &Machine) -> Section {
    let state = |name: &str| match machine.module(name) {
        Module::Loaded => "loaded".to_owned(),
        Module::Available => format!("modprobe {name} loads it"),
        Module::Absent => "this kernel has none".to_owned(),
        Module::Unknown => "not loaded, and the kernel's modules are not to be seen from here".to_owned(),
    };
    Section::new("Linux as an NVMe host (kvof's own commands do without)")
        .field("nvme-tcp", state("nvme_tcp"))
        .field("nvme-rdma", state("nvme_rdma"))
}

fn gpus(facts: &Facts) -> String {
    let Facts { machine, gpus, .. } = facts;
    let doca = machine.doca.as_ref().map(|path| format!("{}, not used yet", path.display()));
    let cuda = match (gpus.driver, gpus.devices.first()) {
        (true, Some(gpu)) => format!("{} known to the driver", gpu.cuda),
        (true, None) => "there, without a device".to_owned(),
        (false, _) => "not installed".to_owned(),
    };
    let section = Section::new("GPU and DPU")
        .field(
            "GPUs on PCI",
            if machine.gpus.is_empty() { "none of NVIDIA".to_owned() } else { machine.gpus.join(", ") },
        )
        .field("CUDA", cuda)
        .field(
            "nvidia_peermem",
            if machine.module("nvidia_peermem") == Module::Loaded { "loaded" } else { "not loaded" },
        )
        .field("DOCA", doca.unwrap_or_else(|| "not installed".to_owned()));
    let devices = gpus.devices.iter().map(|gpu| {
        let (major, minor) = gpu.compute_capability;
        let rdma = match (gpu.gpu_direct, gpu.dma_buf) {
            (true, true) => "RDMA by dma-buf",
            (true, false) => "RDMA by nvidia_peermem",
            (false, _) => "no RDMA",
        };
        format!(
            "\n  cuda:{:<15} {}, {}, compute capability {major}.{minor}, PCI {}, {rdma}",
            gpu.device,
            gpu.name,
            size(gpu.memory),
            gpu.pci
        )
    });
    format!("{section}{}", devices.collect::<String>())
}

/// The findings, and what they come to.
pub(super) fn findings(findings: &[Finding]) -> String {
    let mut text = "\nFindings".to_owned();
    for finding in findings {
        text.push_str(&format!("\n  {:<8} {}: {}", finding.level.name(), finding.about, finding.what));
        for fix in &finding.fix {
            text.push_str(&format!("\n           → {fix}"));
        }
    }
    let number = |level: Level| findings.iter().filter(|finding| finding.level == level).count() as u64;
    let verdict = match (number(Level::Problem), number(Level::Warning)) {
        (0, 0) => "nothing is broken".to_owned(),
        (0, warnings) => format!("nothing is broken; {}", count(warnings, "warning", "warnings")),
        (problems, 0) => count(problems, "problem", "problems"),
        (problems, warnings) => {
            format!("{}, {}", count(problems, "problem", "problems"), count(warnings, "warning", "warnings"))
        }
    };
    format!("{text}\n  {verdict}")
}

/// The way to an address.
pub(super) fn reach(reach: &Reach) -> String {
    let mut text = format!("\n{}", reach.address);
    for step in &reach.steps {
        let mark = if step.ok { "ok" } else { "FAILED" };
        text.push_str(&format!("\n  {mark:<7} {:<20} {}", step.name, step.detail));
        if let Some(time) = step.time {
            text.push_str(&format!(" ({})", duration(time)));
        }
        for fix in &step.fix {
            text.push_str(&format!("\n           → {fix}"));
        }
    }
    text
}

#[cfg(test)]
mod tests;

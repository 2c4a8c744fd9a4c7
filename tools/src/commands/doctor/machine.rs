//! What the machine has apart from RDMA: kernel, processors, memory, io_uring, modules, limits, cards.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use kvof_io::{EventLoop, EventLoopConfig, RingSetup};
use kvof_store::ec::{CpuCode, ErasureCode, Profile};
use serde::Serialize;

/// The capability that lifts RLIMIT_MEMLOCK.
const CAP_IPC_LOCK: u32 = 14;

/// PCI vendors and classes.
const NVIDIA_GPU: &str = "0x10de";
const NVIDIA_NETWORKING: &str = "0x15b3";

#[derive(Clone, Default, Serialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) architecture: String,
    /// Processors that this process may use.
    pub(super) cores: usize,
    pub(super) memory: u64,
    pub(super) memory_available: u64,
    pub(super) cpu: Cpu,
    /// `always`, `madvise` or `never`; empty: a kernel without.
    pub(super) transparent_huge_pages: String,
    /// Huge pages that are set aside, which kvof does not need.
    pub(super) reserved_huge_pages: u64,
    pub(super) io_uring: IoUring,
    /// Of this process.
    pub(super) limits: Limits,
    /// Whether this process is exempt from the limit on locked memory (CAP_IPC_LOCK).
    pub(super) may_lock_any: bool,
    /// Targets that run here.
    pub(super) targets: Vec<RunningTarget>,
    pub(super) modules: BTreeMap<&'static str, Module>,
    /// Network devices beside the loopback.
    pub(super) netdevs: Vec<String>,
    /// Cards by their PCI address: NVIDIA (Mellanox) network cards without an RDMA device.
    pub(super) cards_without_rdma: Vec<String>,
    /// PCI addresses of NVIDIA GPUs.
    pub(super) gpus: Vec<String>,
    /// Where DOCA's library is.
    pub(super) doca: Option<PathBuf>,
}

/// What the two hot loops of the CPU run on.
#[derive(Clone, Default, Serialize)]
pub(super) struct Cpu {
    /// CRC-32C, as its library names it.
    pub(super) crc: String,
    /// Erasure code, as the engine names it.
    pub(super) parity: String,
}

#[derive(Clone, Default, Serialize)]
pub(super) struct IoUring {
    /// `kernel.io_uring_disabled`; absent before Linux 6.6.
    pub(super) disabled: Option<u8>,
    /// The ring that a core of the target gets.
    pub(super) ring: Option<&'static str>,
    /// Why there is none.
    pub(super) error: Option<String>,
}

/// Limits of a process.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Limits {
    pub(super) locked_memory: Limit,
    pub(super) open_files: Limit,
}

/// A limit; `None`: there is none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Limit {
    /// What holds.
    pub(super) soft: Option<u64>,
    /// What it may be raised to.
    pub(super) hard: Option<u64>,
}

#[derive(Clone, Serialize)]
pub(super) struct RunningTarget {
    pub(super) pid: u32,
    pub(super) limits: Limits,
    pub(super) may_lock_any: bool,
    /// Memory that devices hold on to.
    pub(super) pinned: u64,
}

/// Whether a kernel module can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Module {
    /// At work, as a module or as part of the kernel.
    Loaded,
    /// `modprobe` would load it.
    Available,
    /// The kernel has none.
    Absent,
    /// It is not loaded, and the kernel's modules cannot be seen from here.
    Unknown,
}

/// Modules that something of kvof or of a Linux host needs.
const MODULES: [&str; 9] =
    ["ib_core", "ib_uverbs", "rdma_cm", "rdma_ucm", "mlx5_ib", "rdma_rxe", "nvme_tcp", "nvme_rdma", "nvidia_peermem"];

impl Machine {
    /// Looks at the machine below `root`, which is `/`.
    pub(super) fn look(root: &Path) -> Self {
        let kernel = text(&root.join("proc/sys/kernel/osrelease"));
        let memory = text(&root.join("proc/meminfo"));
        let status = text(&root.join("proc/self/status"));
        let modules = Modules::read(root, &kernel);
        let pci = pci(root);
        let network =
            |card: &&Card| card.vendor == NVIDIA_NETWORKING && card.class.starts_with("0x02") && !card.has_rdma;
        let gpu = |card: &&Card| card.vendor == NVIDIA_GPU && card.class.starts_with("0x03");
        Self {
            architecture: std::env::consts::ARCH.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: meminfo(&memory, "MemTotal") << 10,
            memory_available: meminfo(&memory, "MemAvailable") << 10,
            cpu: Cpu::look(),
            transparent_huge_pages: chosen(&text(&root.join("sys/kernel/mm/transparent_hugepage/enabled"))).to_owned(),
            reserved_huge_pages: meminfo(&memory, "HugePages_Total"),
            io_uring: IoUring::look(root),
            limits: Limits::parse(&text(&root.join("proc/self/limits"))),
            may_lock_any: has_capability(&status, CAP_IPC_LOCK),
            targets: targets(root),
            modules: MODULES.iter().map(|&name| (name, modules.state(name))).collect(),
            netdevs: folder(&root.join("sys/class/net"))
                .into_iter()
                .filter(|name| name != "lo" && root.join("sys/class/net").join(name).join("device").exists())
                .collect(),
            cards_without_rdma: pci.iter().filter(network).map(|card| card.address.clone()).collect(),
            gpus: pci.iter().filter(gpu).map(|card| card.address.clone()).collect(),
            doca: doca(root),
            kernel,
        }
    }

    pub(super) fn module(&self, name: &str) -> Module {
        self.modules.get(name).copied().unwrap_or(Module::Unknown)
    }
}

impl Cpu {
    fn look() -> Self {
        // The engine proves itself when it is made: what it is called is what really runs.
        let parity = Profile::new(4, 2).map_or("", |profile| CpuCode::new(profile).name());
        let crc = crc_fast::get_calculator_target(crc_fast::CrcAlgorithm::Crc32Iscsi);
        Self { crc, parity: parity.trim_start_matches("cpu ").to_owned() }
    }
}

impl IoUring {
    fn look(root: &Path) -> Self {
        let disabled = text(&root.join("proc/sys/kernel/io_uring_disabled")).parse().ok();
        match EventLoop::new(EventLoopConfig { submission_entries: 8, max_disk_ops: 8, ..EventLoopConfig::default() }) {
            Ok(ring) => Self { disabled, ring: Some(ring_name(ring.setup())), error: None },
            Err(error) => Self { disabled, ring: None, error: Some(error.to_string()) },
        }
    }
}

const fn ring_name(setup: RingSetup) -> &'static str {
    match setup {
        RingSetup::Deferred => "deferred",
        RingSetup::Cooperative => "cooperative",
        RingSetup::Plain => "plain",
    }
}

impl Limits {
    /// Of `/proc/PID/limits`. What cannot be read counts as unlimited: nothing is known against it.
    fn parse(limits: &str) -> Self {
        let find = |name: &str| {
            let rest = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let mut values = rest.split_whitespace().map(|value| value.parse().ok());
            Limit { soft: values.next().flatten(), hard: values.next().flatten() }
        };
        Self { locked_memory: find("Max locked memory"), open_files: find("Max open files") }
    }
}

/// Processes that are a kvof-target, with what the kernel lets this process see of them.
fn targets(root: &Path) -> Vec<RunningTarget> {
    let process = |name: String| {
        let pid = name.parse().ok()?;
        let path = root.join("proc").join(&name);
        if text(&path.join("comm")) != "kvof-target" {
            return None;
        }
        let status = text(&path.join("status"));
        Some(RunningTarget {
            pid,
            limits: Limits::parse(&text(&path.join("limits"))),
            may_lock_any: has_capability(&status, CAP_IPC_LOCK),
            pinned: meminfo(&status, "VmPin") << 10,
        })
    };
    folder(&root.join("proc")).into_iter().filter_map(process).collect()
}

/// A number of `/proc/meminfo` or `/proc/PID/status`; 0 if it is not there.
fn meminfo(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn has_capability(status: &str, capability: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(line.trim(), 16).is_ok_and(|set| set >> capability & 1 == 1)
}

/// `madvise` of `always [madvise] never`.
fn chosen(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(word, _)| word)
}

/// The modules of the running kernel.
struct Modules<'a> {
    root: &'a Path,
    /// Lists of what is built in and what can be loaded; `None` if the kernel's modules are not visible.
    lists: Option<(String, String)>,
}

impl<'a> Modules<'a> {
    fn read(root: &'a Path, kernel: &str) -> Self {
        let folders = ["lib/modules", "usr/lib/modules"].map(|folder| root.join(folder).join(kernel));
        let lists = folders.iter().find_map(|folder| {
            let available = fs::read_to_string(folder.join("modules.dep")).ok()?;
            Some((text(&folder.join("modules.builtin")), available))
        });
        Self { root, lists }
    }

    fn state(&self, name: &str) -> Module {
        if self.root.join("sys/module").join(name).exists() {
            return Module::Loaded;
        }
        match &self.lists {
            None => Module::Unknown,
            Some((built_in, _)) if lists(built_in, name) => Module::Loaded,
            Some((_, available)) if lists(available, name) => Module::Available,
            Some(_) => Module::Absent,
        }
    }
}

/// Whether a list of module files, one at the start of each line, has `name`; file names have `-` or `_`.
fn lists(files: &str, name: &str) -> bool {
    files.lines().any(|line| {
        let path = line.split_once(':').map_or(line, |(path, _)| path);
        let file = path.rsplit('/').next().unwrap_or_default();
        file.split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == name)
    })
}

/// A PCI device.
struct Card {
    address: String,
    vendor: String,
    class: String,
    has_rdma: bool,
}

fn pci(root: &Path) -> Vec<Card> {
    let devices = root.join("sys/bus/pci/devices");
    let card = |address: String| {
        let path = devices.join(&address);
        Card {
            vendor: text(&path.join("vendor")),
            class: text(&path.join("class")),
            has_rdma: path.join("infiniband").exists(),
            address,
        }
    };
    folder(&devices).into_iter().map(card).collect()
}

/// Where `libdoca_common.so` is, in any version. Files are looked for, since opening it would start it.
fn doca(root: &Path) -> Option<PathBuf> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = [
        format!("opt/mellanox/doca/lib/{triple}"),
        "opt/mellanox/doca/lib64".to_owned(),
        format!("usr/lib/{triple}"),
        "usr/lib64".to_owned(),
        "usr/lib".to_owned(),
    ];
    folders.iter().find_map(|below| {
        let path = root.join(below);
        let name = folder(&path).into_iter().find(|name| name.starts_with("libdoca_common.so"))?;
        Some(path.join(name))
    })
}

/// The contents of a small file of the kernel; empty if it cannot be read.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The names in a folder, in order.
fn folder(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(io::Result::ok);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, contents) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
    }

    #[test]
    fn a_machine_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("proc/sys/kernel/osrelease", "6.12.1\n"),
                ("proc/sys/kernel/io_uring_disabled", "2\n"),
                (
                    "proc/meminfo",
                    "MemTotal:        4194304 kB\nMemAvailable:    1048576 kB\nHugePages_Total:       7\n",
                ),
                ("proc/self/status", "Name:\tkvof\nCapEff:\t0000000000004000\n"),
                (
                    "proc/self/limits",
                    "Limit                     Soft Limit           Hard Limit           Units\n\
                     Max open files            1024                 524288               files\n\
                     Max locked memory         8388608              unlimited            bytes\n",
                ),
                ("proc/17/comm", "kvof-target\n"),
                ("proc/17/status", "VmPin:\t    2048 kB\nCapEff:\t0000000000000400\n"),
                ("proc/17/limits", "Max locked memory         65536                65536                bytes\n"),
                ("proc/18/comm", "kvof\n"),
                ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
                ("sys/module/ib_uverbs/refcnt", "0\n"),
                ("sys/class/net/lo/mtu", "65536\n"),
                ("sys/class/net/dummy0/mtu", "1500\n"),
                ("sys/class/net/ens1/device/vendor", "0x15b3\n"),
                ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x15b3\n"),
                ("sys/bus/pci/devices/0000:01:00.0/class", "0x020000\n"),
                ("sys/bus/pci/devices/0000:02:00.0/vendor", "0x15b3\n"),
                ("sys/bus/pci/devices/0000:02:00.0/class", "0x020700\n"),
                ("sys/bus/pci/devices/0000:02:00.0/infiniband/mlx5_0/node_type", "1: CA\n"),
                ("sys/bus/pci/devices/0000:03:00.0/vendor", "0x10de\n"),
                ("sys/bus/pci/devices/0000:03:00.0/class", "0x030200\n"),
                ("lib/modules/6.12.1/modules.builtin", "kernel/drivers/infiniband/core/ib_core.ko\n"),
                (
                    "lib/modules/6.12.1/modules.dep",
                    "kernel/drivers/nvme/host/nvme-tcp.ko.xz: kernel/drivers/nvme/host/nvme-fabrics.ko.xz\n",
                ),
                ("opt/mellanox/doca/lib64/libdoca_common.so.2", ""),
            ],
        );
        let machine = Machine::look(root.path());
        assert_eq!((machine.kernel.as_str(), machine.memory, machine.memory_available), ("6.12.1", 4 << 30, 1 << 30));
        assert_eq!((machine.transparent_huge_pages.as_str(), machine.reserved_huge_pages), ("madvise", 7));
        assert_eq!(machine.io_uring.disabled, Some(2));
        assert!(machine.may_lock_any);
        assert_eq!(machine.limits.open_files, Limit { soft: Some(1024), hard: Some(524_288) });
        assert_eq!(machine.limits.locked_memory, Limit { soft: Some(8 << 20), hard: None });
        let [target] = machine.targets.as_slice() else { panic!("{} targets", machine.targets.len()) };
        assert_eq!((target.pid, target.pinned, target.may_lock_any), (17, 2 << 20, false));
        assert_eq!(target.limits.locked_memory, Limit { soft: Some(65_536), hard: Some(65_536) });
        let states = ["ib_core", "ib_uverbs", "nvme_tcp", "nvme_rdma"].map(|name| machine.module(name));
        assert_eq!(states, [Module::Loaded, Module::Loaded, Module::Available, Module::Absent]);
        assert_eq!(machine.netdevs, ["ens1"]);
        assert_eq!(machine.cards_without_rdma, ["0000:01:00.0"]);
        assert_eq!(machine.gpus, ["0000:03:00.0"]);
        assert_eq!(machine.doca, Some(root.path().join("opt/mellanox/doca/lib64/libdoca_common.so.2")));
    }

    #[test]
    fn a_machine_that_hides_everything() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::look(root.path());
        assert_eq!(machine.module("nvme_rdma"), Module::Unknown);
        assert_eq!((machine.limits, machine.may_lock_any), (Limits::default(), false));
        assert_eq!(machine.transparent_huge_pages, "");
        // What does not come from files is still there.
        assert!(machine.cores > 0 && !machine.cpu.crc.is_empty() && !machine.cpu.parity.is_empty());
    }
}

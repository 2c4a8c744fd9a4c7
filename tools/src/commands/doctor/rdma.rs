//! What the machine has for RDMA, in the form that is shown.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use kvof_rdma::{
    DeviceLimits,
    inspect::{self, DeviceReport, GidKind, InspectError, Library, NodeKind, PortReport},
};
use serde::Serialize;

#[derive(Clone, Default, Serialize)]
pub(super) struct Rdma {
    pub(super) libraries: Vec<LibraryState>,
    /// Whether the kernel lets programs use devices (`ib_uverbs`).
    pub(super) kernel_verbs: bool,
    /// Whether the kernel lets programs make connections (`rdma_ucm`).
    pub(super) kernel_connections: bool,
    /// Why `/dev/infiniband/rdma_cm` cannot be opened.
    pub(super) connection_device_error: Option<String>,
    pub(super) devices: Vec<Device>,
    /// Why devices cannot be looked at.
    pub(super) error: Option<String>,
}

#[derive(Clone, Serialize)]
pub(super) struct LibraryState {
    pub(super) name: &'static str,
    pub(super) path: Option<PathBuf>,
    pub(super) error: Option<String>,
}

#[derive(Clone, Default, Serialize)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) driver: Option<String>,
    /// `channel adapter`, `RNIC (iWARP)`, or the kernel's word.
    pub(super) kind: String,
    /// Whether it speaks iWARP, which has neither GIDs nor MTUs of its own.
    pub(super) iwarp: bool,
    pub(super) firmware: Option<String>,
    pub(super) board: Option<String>,
    pub(super) node_guid: Option<String>,
    pub(super) numa_node: Option<u32>,
    pub(super) uverbs: Option<String>,
    pub(super) ports: Vec<Port>,
    pub(super) limits: Option<Limits>,
    /// Why it cannot be opened.
    pub(super) error: Option<OpenError>,
    /// Why 64 KiB of memory cannot be registered.
    pub(super) registration_error: Option<String>,
    /// Why there is no memory window, although the device says that it has some.
    pub(super) window_error: Option<String>,
    /// Whether dma-buf memory can be registered; `None`: not known.
    pub(super) dma_buf: Option<bool>,
}

#[derive(Clone, Serialize)]
pub(super) struct OpenError {
    pub(super) message: String,
    pub(super) cause: OpenCause,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OpenCause {
    /// The verbs library is not there; that is told once, not for every device.
    NoLibrary,
    /// The library has no driver for it.
    NoProvider,
    /// A call failed.
    Call,
}

#[derive(Clone, Default, Serialize)]
pub(super) struct Port {
    pub(super) number: u32,
    pub(super) state: String,
    pub(super) physical_state: String,
    pub(super) link_layer: String,
    pub(super) rate: String,
    /// MTU of RDMA packets in bytes, in use and at most.
    pub(super) mtu: Option<u32>,
    pub(super) max_mtu: Option<u32>,
    pub(super) netdevs: Vec<Netdev>,
    pub(super) gids: Vec<Gid>,
}

#[derive(Clone, Serialize)]
pub(super) struct Netdev {
    pub(super) name: String,
    pub(super) mtu: Option<u32>,
}

#[derive(Clone, Serialize)]
pub(super) struct Gid {
    pub(super) index: u32,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) gid: String,
    /// The IP address that hosts connect to.
    pub(super) address: Option<String>,
    pub(super) netdev: Option<String>,
}

#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Limits {
    pub(super) max_mr: u32,
    pub(super) max_mr_size: u64,
    pub(super) max_qp: u32,
    pub(super) max_qp_wr: u32,
    pub(super) max_sge: u32,
    pub(super) max_cq: u32,
    pub(super) max_cqe: u32,
    pub(super) max_srq: u32,
    pub(super) max_mw: u32,
    pub(super) max_reads: u8,
    pub(super) max_reads_served: u8,
    pub(super) memory_windows_2b: bool,
    pub(super) remote_invalidate: bool,
}

impl Rdma {
    pub(super) fn look(root: &Path) -> Self {
        let (devices, error) = match inspect::devices() {
            Ok(devices) => (devices.into_iter().map(Device::new).collect(), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let device = root.join("dev/infiniband/rdma_cm");
        let opened = fs::OpenOptions::new().read(true).write(true).open(&device);
        Self {
            libraries: [Library::Verbs, Library::ConnectionManager].map(LibraryState::look).into(),
            kernel_verbs: root.join("sys/class/infiniband_verbs").exists(),
            kernel_connections: root.join("sys/class/misc/rdma_cm").exists(),
            connection_device_error: opened.err().map(|error: io::Error| format!("{}: {error}", device.display())),
            devices,
            error,
        }
    }
}

impl LibraryState {
    fn look(library: Library) -> Self {
        match inspect::open_library(library) {
            Ok(path) => Self { name: library.name(), path: Some(path), error: None },
            Err(error) => Self { name: library.name(), path: None, error: Some(error) },
        }
    }
}

impl Device {
    fn new(report: DeviceReport) -> Self {
        let (kind, iwarp) = match report.kind {
            NodeKind::ChannelAdapter => ("channel adapter".to_owned(), false),
            NodeKind::Rnic => ("RNIC (iWARP)".to_owned(), true),
            NodeKind::Other(other) => (other, false),
        };
        let mut device = Self {
            name: report.name,
            driver: report.driver,
            kind,
            iwarp,
            firmware: report.firmware,
            board: report.board,
            node_guid: report.node_guid,
            numa_node: report.numa_node,
            uverbs: report.uverbs,
            ports: report.ports.into_iter().map(Port::new).collect(),
            ..Self::default()
        };
        match report.verbs {
            Ok(verbs) => {
                for port in &mut device.ports {
                    let place = usize::try_from(port.number).ok().and_then(|number| number.checked_sub(1));
                    let mtu = place.and_then(|place| verbs.mtus.get(place));
                    port.mtu = mtu.map(|mtu| mtu.active);
                    port.max_mtu = mtu.map(|mtu| mtu.max);
                }
                device.limits = Some(Limits::new(&verbs.limits));
                device.registration_error = verbs.registration.err().map(|error| error.to_string());
                device.window_error = verbs.window.err().map(|error| error.to_string());
                device.dma_buf = verbs.dma_buf;
            }
            Err(error) => {
                let cause = match &error {
                    InspectError::Library(_) => OpenCause::NoLibrary,
                    InspectError::NoProvider => OpenCause::NoProvider,
                    InspectError::Call(_) => OpenCause::Call,
                };
                device.error = Some(OpenError { message: error.to_string(), cause });
            }
        }
        device
    }
}

impl Port {
    fn new(report: PortReport) -> Self {
        let netdev = |netdev: inspect::Netdev| Netdev { name: netdev.name, mtu: netdev.mtu };
        Self {
            number: report.number,
            state: report.state,
            physical_state: report.physical_state,
            link_layer: report.link_layer,
            rate: report.rate,
            mtu: None,
            max_mtu: None,
            netdevs: report.netdevs.into_iter().map(netdev).collect(),
            gids: report.gids.into_iter().map(Gid::new).collect(),
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.state == "ACTIVE"
    }

    pub(super) fn is_ethernet(&self) -> bool {
        self.link_layer == "Ethernet"
    }

    /// Whether hosts can reach it by an IP address and RoCE v2.
    pub(super) fn has_routable_gid(&self) -> bool {
        self.gids.iter().any(|gid| gid.kind == GidKind::RoceV2.name() && gid.address.is_some())
    }
}

impl Gid {
    fn new(gid: inspect::Gid) -> Self {
        Self {
            index: gid.index,
            kind: gid.kind.name(),
            gid: gid.address.to_string(),
            address: gid.ip().map(|ip| ip.to_string()),
            netdev: gid.netdev,
        }
    }
}

impl Limits {
    fn new(limits: &DeviceLimits) -> Self {
        Self {
            max_mr: limits.max_mr,
            max_mr_size: limits.max_mr_size,
            max_qp: limits.max_qp,
            max_qp_wr: limits.max_qp_wr,
            max_sge: limits.max_sge,
            max_cq: limits.max_cq,
            max_cqe: limits.max_cqe,
            max_srq: limits.max_srq,
            max_mw: limits.max_mw,
            max_reads: limits.max_reads,
            max_reads_served: limits.max_reads_served,
            memory_windows_2b: limits.windows,
            remote_invalidate: limits.remote_invalidate,
        }
    }
}

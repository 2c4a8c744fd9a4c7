//! What this machine has for RDMA, for people: libraries, devices, ports, GIDs and limits.
//!
//! Nothing here is used to move data. Two sources are asked, the kernel (sysfs) and the verbs library, and each missing part
//! says why it is missing: a device that the kernel has and the verbs library cannot open is the most common fault of all.
//! Devices are opened, and a few pages registered, to see whether that works; everything is closed again.

mod gid;
mod library;
mod sysfs;
mod verbs;

use std::{io, path::Path};

pub use gid::{Gid, GidKind};
pub use library::{Library, open_library};
pub use sysfs::{Netdev, NodeKind};
pub use verbs::{PortMtu, VerbsDevice};

use crate::RdmaError;

/// A device as the kernel and the verbs library tell of it.
#[derive(Debug)]
pub struct DeviceReport {
    /// Its name, such as `mlx5_0` or `rxe0`.
    pub name: String,
    /// The kernel's driver, such as `mlx5_core`, or `rdma_rxe` for Soft-RoCE; `None` where the kernel does not say.
    pub driver: Option<String>,
    /// InfiniBand and RoCE, or iWARP.
    pub kind: NodeKind,
    /// Version of the firmware, where there is one.
    pub firmware: Option<String>,
    /// Node GUID, as the kernel writes it: `0c42:a103:0065:1a2b`.
    pub node_guid: Option<String>,
    /// Board identifier of the vendor.
    pub board: Option<String>,
    /// The NUMA node that it is attached to, on machines with several.
    pub numa_node: Option<u32>,
    /// Its character device below `/dev/infiniband`, such as `uverbs0`; `None` without the module `ib_uverbs`.
    pub uverbs: Option<String>,
    /// Its ports, in order.
    pub ports: Vec<PortReport>,
    /// What programs can do with it, or why they cannot.
    pub verbs: Result<VerbsDevice, InspectError>,
}

/// A port of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortReport {
    /// Its number, from 1.
    pub number: u32,
    /// Logical state: `ACTIVE`, `DOWN`, `INIT`, …
    pub state: String,
    /// Physical state: `LinkUp`, `Disabled`, `Polling`, …
    pub physical_state: String,
    /// `Ethernet` or `InfiniBand`.
    pub link_layer: String,
    /// Speed as the kernel writes it: `100 Gb/sec (4X EDR)`.
    pub rate: String,
    /// The network devices that it belongs to.
    pub netdevs: Vec<Netdev>,
    /// Its GIDs that are in use.
    pub gids: Vec<Gid>,
}

/// Why the verbs library cannot tell, or do, something.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The library is not there, or does not load.
    #[error("{0}")]
    Library(String),
    /// The kernel has the device, the library leaves it out.
    #[error("the verbs library does not know the device: its user-space driver (provider) is not installed")]
    NoProvider,
    /// A call failed.
    #[error(transparent)]
    Call(#[from] RdmaError),
}

/// All RDMA devices of this network namespace, by name.
///
/// # Errors
/// The kernel's list of devices is there and cannot be read. A kernel without RDMA has no devices, which is no error.
pub fn devices() -> io::Result<Vec<DeviceReport>> {
    let mut devices = sysfs::devices(Path::new("/sys"))?;
    if devices.is_empty() {
        // The library has nothing to add, and need not be there.
        return Ok(devices);
    }
    match verbs::devices() {
        Ok(opened) => {
            for verbs::Opened { name, verbs } in opened {
                if let Some(device) = devices.iter_mut().find(|device| device.name == name) {
                    device.verbs = verbs.map_err(InspectError::from);
                }
            }
        }
        Err(error) => {
            let text = error.to_string();
            devices.iter_mut().for_each(|device| device.verbs = Err(InspectError::Library(text.clone())));
        }
    }
    Ok(devices)
}

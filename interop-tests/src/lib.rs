//! The test guest: a stock Linux kernel under software emulation in which the real NVMe host and `nvme-cli` talk to the target.
//!
//! [`Guest`] boots one of the kernels that `interop-tests/setup.sh` unpacked and runs a script in it; [`checks`] runs the list of
//! checks in `interop-tests/checks/` in one boot and reports each.

#![forbid(unsafe_code)]

pub mod binaries;
pub mod checks;
mod guest;
mod initramfs;
mod kernel;

use std::path::{Path, PathBuf};

pub use guest::{End, Guest, Outcome, Tail, unavailable};
pub use kernel::{Kernel, cache_dir};

/// The root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

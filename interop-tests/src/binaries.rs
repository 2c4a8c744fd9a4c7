//! The programs under test: the target, the `kvof` command, which formats pools, and `kvof-guest`, which sends KV commands through the
//! kernel.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::repository;

/// Where the programs under test are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `kvof-target`, the daemon.
    pub target: PathBuf,
    /// `kvof`, the command.
    pub kvof: PathBuf,
    /// `kvof-guest`, the passthrough client.
    pub guest: PathBuf,
}

impl Binaries {
    /// Takes them from the folder in `KVOF_BIN_DIR`, or has Cargo build them in release: emulation multiplies what a debug build costs.
    ///
    /// # Errors
    /// When the build fails or a program is not where it should be.
    pub fn build() -> Result<Self> {
        let dir = if let Some(dir) = std::env::var_os("KVOF_BIN_DIR") {
            std::path::absolute(PathBuf::from(dir))?
        } else {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let status = Command::new(cargo)
                .current_dir(repository())
                .args([
                    "build",
                    "--quiet",
                    "--release",
                    "-p",
                    "kvof-target",
                    "-p",
                    "kvof-tools",
                    "-p",
                    "kvof-guest",
                    "--bins",
                ])
                .status()
                .context("cannot run cargo to build the programs under test")?;
            if !status.success() {
                bail!("building kvof-target, kvof and kvof-guest failed");
            }
            repository().join(".build/release")
        };
        let binaries = Self { target: dir.join("kvof-target"), kvof: dir.join("kvof"), guest: dir.join("kvof-guest") };
        for path in [&binaries.target, &binaries.kvof, &binaries.guest] {
            if !path.exists() {
                bail!("{} is not there (KVOF_BIN_DIR names the folder to look in)", path.display());
            }
        }
        Ok(binaries)
    }
}

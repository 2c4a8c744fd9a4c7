//! The programs under test: the target, the `kvof` command, which formats pools, and `kvof-guest`, which sends KV commands through the
//! kernel; and test programs of other crates that need the guest's devices.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::repository;

/// Integration tests that want an RDMA device, with their crates: they skip themselves where there is none, and run in the guest.
const RDMA_TESTS: [(&str, &str); 3] = [("kvof-rdma", "loopback"), ("kvof-target", "rdma"), ("kvof-initiator", "rdma")];

/// Where the programs under test are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `kvof-target`, the daemon.
    pub target: PathBuf,
    /// `kvof`, the command.
    pub kvof: PathBuf,
    /// `kvof-guest`, the passthrough client.
    pub guest: PathBuf,
    /// Test programs that want an RDMA device.
    pub rdma_tests: Vec<PathBuf>,
}

/// A line that Cargo prints of what it has built.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    target: Option<ArtifactTarget>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ArtifactTarget {
    kind: Vec<String>,
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
            let status = cargo()
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
        let binaries = Self {
            target: dir.join("kvof-target"),
            kvof: dir.join("kvof"),
            guest: dir.join("kvof-guest"),
            rdma_tests: rdma_tests()?,
        };
        for path in [&binaries.target, &binaries.kvof, &binaries.guest] {
            if !path.exists() {
                bail!("{} is not there (KVOF_BIN_DIR names the folder to look in)", path.display());
            }
        }
        Ok(binaries)
    }
}

/// Has Cargo build [`RDMA_TESTS`]: the paths of the programs.
fn rdma_tests() -> Result<Vec<PathBuf>> {
    let mut command = cargo();
    command.args(["test", "--quiet", "--no-run", "--message-format=json"]);
    for (package, test) in RDMA_TESTS {
        command.args(["-p", package, "--test", test]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo to build the RDMA tests")?;
    ensure!(output.status.success(), "building the tests {RDMA_TESTS:?} failed");
    let programs = test_programs(&output.stdout)?;
    ensure!(programs.len() == RDMA_TESTS.len(), "of the tests {RDMA_TESTS:?} cargo built {programs:?}");
    Ok(programs)
}

/// The integration tests among what Cargo says to have built.
fn test_programs(messages: &[u8]) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for message in serde_json::Deserializer::from_slice(messages).into_iter::<Artifact>() {
        let message = message.context("cargo's messages are not as expected")?;
        let is_test = message.target.is_some_and(|target| target.kind.iter().any(|kind| kind == "test"));
        if message.reason == "compiler-artifact" && is_test {
            programs.extend(message.executable);
        }
    }
    Ok(programs)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_all_else_that_is_built() {
        let messages = br#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"x"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"y"},"executable":"/b/y-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"z"},"executable":"/b/z"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(test_programs(messages).unwrap(), [PathBuf::from("/b/y-1")]);
    }
}

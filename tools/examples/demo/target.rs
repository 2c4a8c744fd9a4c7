//! A kvof-target process that never outlives the demo.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// How long a target may take to open its storage, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running target.
pub(crate) struct Target {
    child: Child,
    ready_file: PathBuf,
    /// Where it listens, as an address of the host library.
    pub(crate) address: String,
    /// The subsystem that it serves.
    pub(crate) nqn: String,
}

impl Target {
    /// Starts `program` on a free port of the loopback interface and waits until it accepts connections.
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let ready_file = std::env::temp_dir().join(format!("kvof-demo-{}-{number}.json", std::process::id()));
        let nqn = "nqn.2026-11.io.kvof:demo".to_owned();
        let child = Command::new(program)
            .args(["--listen", "127.0.0.1:0", "--nqn", &nqn, "--log", "warn", "--ready-file"])
            .arg(&ready_file)
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}; `cargo build --release` makes it", program.display()))?;
        let mut target = Self { child, ready_file, address: String::new(), nqn };
        let patience = Instant::now() + PATIENCE;
        while target.address.is_empty() {
            if let Some(status) = target.child.try_wait()? {
                bail!("{} ended at once with {status}", program.display());
            }
            ensure!(Instant::now() < patience, "the target was not ready after {PATIENCE:?}");
            if let Ok(text) = fs::read_to_string(&target.ready_file) {
                let ready: serde_json::Value = serde_json::from_str(&text).context("the ready file is no JSON")?;
                let address = ready["ports"][0]["address"].as_str().context("the ready file names no address")?;
                target.address = format!("tcp://{address}");
            } else {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(target)
    }

    /// Asks the target to stop, and checks that it does so cleanly.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().context("cannot run kill")?;
        ensure!(asked.success(), "cannot signal process {pid}");
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the target stopped with {status}");
                return Ok(());
            }
            ensure!(Instant::now() < patience, "the target did not stop within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Only after an error is it still there.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = fs::remove_file(&self.ready_file);
    }
}

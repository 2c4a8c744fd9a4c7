//! A kvof-target process that never outlives the demo.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// How long a target may take to open its storage, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The subsystem that every target of the demo serves.
pub(crate) const NQN: &str = "nqn.2026-11.io.kvof:demo";

/// A running target.
pub(crate) struct Target {
    child: RefCell<Child>,
    ready_file: PathBuf,
    log: PathBuf,
    /// Where it listens, as an address of the host library.
    pub(crate) address: String,
}

impl Target {
    /// Starts `program` and waits until it accepts connections.
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let ready_file = std::env::temp_dir().join(format!("kvof-demo-{}-{number}.json", std::process::id()));
        let log = ready_file.with_extension("log");
        let child = Command::new(program)
            .arg("--ready-file")
            .arg(&ready_file)
            .args(["--log", "warn"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {}; `cargo build --release` makes it", program.display()))?;
        let mut target = Self { child: RefCell::new(child), ready_file, log, address: String::new() };
        let patience = Instant::now() + PATIENCE;
        while target.address.is_empty() {
            if let Some(status) = target.child.get_mut().try_wait()? {
                bail!("{} ended at once with {status}: {}", program.display(), target.logged("").unwrap_or_default());
            }
            ensure!(Instant::now() < patience, "the target was not ready after {PATIENCE:?}");
            if let Ok(text) = fs::read_to_string(&target.ready_file) {
                let ready: serde_json::Value = serde_json::from_str(&text).context("the ready file is no JSON")?;
                let address = ready["ports"][0]["address"].as_str().context("the ready file names no address")?;
                target.address = format!("tcp://{address}");
            } else {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(target)
    }

    /// The first line of its log with this text, without its time; nothing else is in the log but warnings and errors.
    pub(crate) fn logged(&self, text: &str) -> Option<String> {
        let log = fs::read_to_string(&self.log).ok()?;
        let line = log.lines().find(|line| line.contains(text))?;
        Some(line.split_once("Z ").map_or(line, |(_, rest)| rest).trim().to_owned())
    }

    /// Ends it by SIGKILL: it can do nothing about it.
    pub(crate) fn kill(&self) -> Result<()> {
        let mut child = self.child.borrow_mut();
        child.kill().context("cannot kill the target")?;
        child.wait()?;
        Ok(())
    }

    /// Tells it something by a signal.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.borrow().id().to_string();
        let told = Command::new("kill").args([&format!("-{name}"), &pid]).status().context("cannot run kill")?;
        ensure!(told.success(), "cannot signal process {pid}");
        Ok(())
    }

    /// Asks the target to stop, and checks that it does so cleanly.
    pub(crate) fn stop(self) -> Result<()> {
        self.signal("TERM")?;
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.borrow_mut().try_wait()? {
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
        let child = self.child.get_mut();
        if matches!(child.try_wait(), Ok(None)) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(&self.ready_file);
        let _ = fs::remove_file(&self.log);
    }
}

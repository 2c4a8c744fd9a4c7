//! The target as a process of its own, which is started often and killed as often.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// How long a target may take to start, or to stop when it is asked to.
const PATIENCE: Duration = Duration::from_secs(60);

/// How to start it, and where its log goes.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) ready: PathBuf,
    pub(crate) log: PathBuf,
}

/// A running target. It is killed when this value goes.
pub(crate) struct Target {
    child: Child,
    /// Where it listens.
    pub(crate) address: String,
    /// From its start until it took connections.
    pub(crate) start: Duration,
}

impl Program {
    /// Starts it; it may not be ready yet.
    pub(crate) fn spawn(&self) -> Result<Child> {
        let _ = fs::remove_file(&self.ready);
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        Command::new(&self.path)
            .arg("--config")
            .arg(&self.config)
            .arg("--ready-file")
            .arg(&self.ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}; `make build` makes it", self.path.display()))
    }

    /// Starts it and waits until it takes connections.
    pub(crate) fn start(&self) -> Result<Target> {
        let started = Instant::now();
        let mut target = Target { child: self.spawn()?, address: String::new(), start: Duration::ZERO };
        loop {
            if let Some(status) = target.child.try_wait()? {
                bail!("the target ended at once with {status}\n{}", self.tail());
            }
            let ready = fs::read(&self.ready).ok();
            if let Some(ready) = ready.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok()) {
                let address = ready["ports"][0]["address"].as_str().context("the ready file names no address")?;
                target.address = format!("tcp://{address}");
                target.start = started.elapsed();
                return Ok(target);
            }
            ensure!(started.elapsed() < PATIENCE, "the target was not ready after {PATIENCE:?}\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(25)..];
        format!("the last lines of {}:\n  {}", self.log.display(), last.join("\n  "))
    }

    /// What was logged since the byte `from`, and where that ends.
    pub(crate) fn logged(&self, from: u64) -> Result<(String, u64)> {
        let Ok(mut file) = File::open(&self.log) else { return Ok((String::new(), from)) };
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let end = from + text.len() as u64;
        Ok((String::from_utf8_lossy(&text).into_owned(), end))
    }
}

impl Target {
    /// Ends it without a warning.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill the target")?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) -> Result<()> {
        let asked =
            Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().context("cannot run kill")?;
        ensure!(asked.success(), "cannot signal process {}", self.child.id());
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(asked.elapsed() < PATIENCE, "the target did not stop within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The folder of a run, which goes away unless it is kept.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) keep: bool,
}

impl Folder {
    pub(crate) fn create(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("torture-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self { path: fs::canonicalize(path)?, keep: false })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

//! Five files as the devices of a pool, what `kvof` does with them, and what happens to one of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::target::{self, Target};

/// What the pool is made of, data and parity.
const PROFILE: &str = "4+1";
const DEVICES: usize = 5;

/// How long the rebuild of a device may take.
const REBUILD: Duration = Duration::from_secs(120);

/// A pool, and the folder with its files, which goes away again.
pub(crate) struct Pool {
    bin: PathBuf,
    folder: PathBuf,
    devices: Vec<PathBuf>,
    device_bytes: u64,
    summary: String,
}

impl Pool {
    /// Makes a pool for `bytes` of values, by `kvof format`, and the configuration of a target that serves it.
    pub(crate) fn format(bin: &Path, folder: &Path, bytes: usize) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let device_bytes = (bytes as u64 / 4 * 3 / 2).next_multiple_of(1 << 20) + (64 << 20);
        let devices = (0..DEVICES).map(|number| folder.join(format!("device{number}"))).collect();
        let mut pool =
            Self { bin: bin.to_owned(), folder: folder.to_owned(), devices, device_bytes, summary: String::new() };
        let size = device_bytes.to_string();
        let made =
            pool.kvof(&["format", "--name", "demo", "--profile", PROFILE, "--size", &size, "--force", "--json"], &[])?;
        let groups = &made["pool"];
        ensure!(groups["name"] == "demo", "kvof format made another pool: {made}");
        pool.summary = format!("kvof format: {DEVICES} files of {} MiB, any one may be lost", device_bytes >> 20);
        let names: Vec<String> = pool.devices.iter().map(|path| format!("{:?}", file_name(path))).collect();
        let config = format!(
            "[[port]]\naddress = \"127.0.0.1:0\"\n\n[[pool]]\nname = \"demo\"\ndevices = [{}]\n\n\
             [[subsystem]]\nnqn = \"{}\"\nallowed_hosts = \"any\"\n\n\
             [[subsystem.namespace]]\nnsid = 1\nkind = \"kv\"\nstorage = \"pool:demo\"\nsize = \"{}\"\n",
            names.join(", "),
            target::NQN,
            (bytes as u64 * 9 / 8).next_multiple_of(4096),
        );
        fs::write(pool.config(), config)?;
        Ok(pool)
    }

    pub(crate) fn format_summary(&self) -> String {
        self.summary.clone()
    }

    /// A device as people see it.
    pub(crate) fn name(&self, number: usize) -> String {
        self.devices[number].display().to_string()
    }

    /// A target that serves the pool.
    pub(crate) fn start(&self) -> Result<Target> {
        let config = self.config().display().to_string();
        Target::start(&self.bin.join("kvof-target"), &["--config", &config])
    }

    /// A device is gone.
    pub(crate) fn lose(&self, number: usize) -> Result<()> {
        fs::remove_file(&self.devices[number]).with_context(|| format!("cannot remove {}", self.name(number)))
    }

    /// An empty device takes the place of a lost one; the running target is told.
    pub(crate) fn replace(&self, number: usize, target: &Target) -> Result<()> {
        let (new, size) = (self.name(number), self.device_bytes.to_string());
        let left: Vec<&Path> = self.devices.iter().filter(|path| path.exists()).map(PathBuf::as_path).collect();
        self.run(&["replace", &new, "--size", &size, "--pool"], &left)?;
        target.signal("HUP")
    }

    /// How the pool is, in words.
    pub(crate) fn health(&self, target: &Target) -> Result<String> {
        let pool = self.info(target)?;
        let live = live(&pool);
        let keys = &pool["keys"];
        Ok(if pool["degraded"] == true {
            format!("degraded, {live} of {DEVICES} devices; {keys} keys are there")
        } else {
            format!("whole, {live} of {DEVICES} devices")
        })
    }

    /// Waits until every device has everything again.
    pub(crate) fn wait_until_whole(&self, target: &Target) -> Result<String> {
        let began = Instant::now();
        loop {
            let pool = self.info(target)?;
            if pool["degraded"] == false && live(&pool) == DEVICES {
                return self.health(target);
            }
            ensure!(began.elapsed() < REBUILD, "the pool is not whole after {REBUILD:?}: {pool}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has every record, parity and footer read, while no target has the pool.
    pub(crate) fn verify(&self) -> Result<String> {
        let devices: Vec<&Path> = self.devices.iter().map(PathBuf::as_path).collect();
        let text = self.run(&["verify"], &devices)?;
        Ok(text.lines().last().unwrap_or_default().to_owned())
    }

    fn config(&self) -> PathBuf {
        self.folder.join("target.toml")
    }

    fn info(&self, target: &Target) -> Result<Value> {
        let info = self.kvof(&["info", &target.address, "--nqn", target::NQN, "--json"], &[])?;
        let pool = info["namespaces"][0]["kv"]["pool"].clone();
        ensure!(pool.is_object(), "kvof info does not tell of the pool: {info}");
        Ok(pool)
    }

    /// Runs `kvof`, and takes what it prints as JSON. `format` gets the devices.
    fn kvof(&self, arguments: &[&str], more: &[&Path]) -> Result<Value> {
        let devices: Vec<&Path> = self.devices.iter().map(PathBuf::as_path).collect();
        let more = if arguments.first() == Some(&"format") { &devices[..] } else { more };
        serde_json::from_str(&self.run(arguments, more)?).context("kvof printed no JSON")
    }

    fn run(&self, arguments: &[&str], more: &[&Path]) -> Result<String> {
        let program = self.bin.join("kvof");
        let output = Command::new(&program)
            .args(arguments)
            .args(more)
            .output()
            .with_context(|| format!("cannot start {}; `cargo build --release` makes it", program.display()))?;
        if !output.status.success() {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            bail!("kvof {} ended with {}: {out}{err}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn live(pool: &Value) -> usize {
    pool["devices"].as_array().map_or(0, |all| all.iter().filter(|device| *device == "live").count())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

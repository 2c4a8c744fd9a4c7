//! A pool of files, and what happens to its devices. Never more than m of them are harmed at a time: one that was harmed is
//! replaced, and the replacement rebuilt, before another one's turn comes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::content::{Content, Random};

/// How the replacements are counted, beside the harms.
const REPLACED: &str = "replaced";

/// How long a device that was replaced may take until it has everything.
const REBUILD: Duration = Duration::from_secs(60);

/// A pool.
pub(crate) struct Pool {
    kvof: PathBuf,
    name: String,
    paths: Vec<PathBuf>,
    parity: usize,
    room: u64,
    device_bytes: u64,
    /// The members that cannot be trusted now.
    harmed: Vec<usize>,
    /// The members that were replaced and are being rebuilt.
    rebuilding: Vec<usize>,
    counts: BTreeMap<&'static str, u64>,
    history: String,
}

/// What happens to a device.
#[derive(Clone, Copy)]
enum Harm {
    Truncate,
    Garbage,
    Zeros,
    Remove,
}

impl Harm {
    const ALL: [Self; 4] = [Self::Truncate, Self::Garbage, Self::Zeros, Self::Remove];

    const fn name(self) -> &'static str {
        match self {
            Self::Truncate => "truncated",
            Self::Garbage => "overwritten with garbage",
            Self::Zeros => "overwritten with zeros",
            Self::Remove => "removed",
        }
    }
}

impl Pool {
    /// Makes the files and formats them; `profile` is k+m, the pool has room for `room` bytes.
    pub(crate) fn format(kvof: PathBuf, folder: &Path, number: usize, profile: &str, room: u64) -> Result<Self> {
        let parse = |text: &str| text.parse::<usize>().ok();
        let (data, parity) = profile
            .split_once('+')
            .and_then(|(k, m)| Some((parse(k)?, parse(m)?)))
            .with_context(|| format!("--profile {profile} is not k+m"))?;
        ensure!(data > 0, "--profile {profile} has no data");
        let paths = (0..data + parity).map(|member| folder.join(format!("pool{number}-{member}.img"))).collect();
        let mut pool = Self {
            kvof,
            name: format!("pool{number}"),
            paths,
            parity,
            room,
            device_bytes: room / data as u64,
            harmed: Vec::new(),
            rebuilding: Vec::new(),
            counts: BTreeMap::new(),
            history: String::new(),
        };
        let size = pool.device_bytes.to_string();
        let mut arguments = vec!["format", "--name", &pool.name, "--profile", profile, "--size", &size];
        let paths: Vec<String> = pool.paths.iter().map(|path| path.display().to_string()).collect();
        arguments.extend(paths.iter().map(String::as_str));
        pool.kvof(&arguments)?;
        pool.device_bytes = fs::metadata(&pool.paths[0])?.len();
        pool.note(&format!("{profile}, {} devices of {} bytes", pool.paths.len(), pool.device_bytes));
        Ok(pool)
    }

    /// Its part of the target's configuration.
    pub(crate) fn config(&self) -> String {
        let devices: Vec<String> = self.paths.iter().map(|path| format!("{:?}", path.display().to_string())).collect();
        format!(
            "\n[[pool]]\nname = \"{}\"\ndevices = [{}]\nindex_memory = \"16MiB\"\ntier = \"8MiB\"\nread_ahead = \"4MiB\"\n\
             rebuild_rate = 0\nscrub_rate = \"64MiB\"\n",
            self.name,
            devices.join(", ")
        )
    }

    /// A namespace on it.
    pub(crate) fn namespace(&self, durability: &str) -> String {
        let nsid = self.name.trim_start_matches("pool").parse::<u32>().unwrap_or(0) + 1;
        format!(
            "\n[[subsystem.namespace]]\nnsid = {nsid}\nkind = \"kv\"\nstorage = \"pool:{}\"\nsize = \"{}\"\n\
             max_value_size = \"1MiB\"\ndurability = \"{durability}\"\n",
            self.name,
            self.room / 10 * 6 / 4096 * 4096
        )
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How often a device was harmed.
    pub(crate) fn harms(&self) -> u64 {
        self.counts.iter().filter(|(what, _)| **what != REPLACED).map(|(_, count)| count).sum()
    }

    pub(crate) fn summary(&self) -> String {
        let counts: Vec<String> = self.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
        if counts.is_empty() { "no device was damaged".to_owned() } else { format!("devices: {}", counts.join(", ")) }
    }

    /// What happened to its devices last.
    pub(crate) fn history(&self) -> String {
        let lines: Vec<&str> = self.history.lines().collect();
        format!("{}:\n  {}", self.name, lines[lines.len().saturating_sub(20)..].join("\n  "))
    }

    fn note(&mut self, what: &str) {
        let _ = writeln!(self.history, "{what}");
    }

    /// Now and then, a device is harmed or replaced while no target runs.
    pub(crate) fn harm_while_down(&mut self, random: &mut Random) -> Result<()> {
        if self.parity == 0 {
            return Ok(());
        }
        if !self.harmed.is_empty() && random.chance(30) {
            return self.heal_while_down();
        }
        if random.chance(6) { self.harm(random, "down") } else { Ok(()) }
    }

    /// Now and then, a device is harmed under a running target.
    pub(crate) fn harm_while_up(&mut self, random: &mut Random) -> Result<()> {
        if self.parity > 0 && random.chance(4) { self.harm(random, "up") } else { Ok(()) }
    }

    fn harm(&mut self, random: &mut Random, when: &str) -> Result<()> {
        let member = match (&self.harmed[..], &self.rebuilding[..]) {
            // The same again, so that no more than m are ever harmed.
            ([.., last], _) | (_, [.., last]) if self.harmed.len() + self.rebuilding.len() >= self.parity => *last,
            _ => random.below(self.paths.len() as u64) as usize,
        };
        let harm = Harm::ALL[random.below(Harm::ALL.len() as u64) as usize];
        let path = &self.paths[member];
        let Ok(file) = OpenOptions::new().write(true).open(path) else { return Ok(()) };
        // Anywhere, but more often where the labels and superblocks are.
        let start = if random.chance(25) { 0 } else { random.below(self.device_bytes) };
        let len = match random.below(3) {
            0 => random.below(64 << 10),
            1 => random.below(8 << 20),
            _ => self.device_bytes,
        }
        .min(self.device_bytes - start);
        match harm {
            Harm::Truncate => file.set_len(start)?,
            Harm::Remove => fs::remove_file(path)?,
            Harm::Garbage => {
                let bytes = Content { seed: random.next(), len: len as u32 }.bytes();
                file.write_all_at(&bytes, start)?;
            }
            Harm::Zeros => file.write_all_at(&vec![0; len as usize], start)?,
        }
        self.note(&format!("member {member} {} from {start}, {len} bytes, while the target was {when}", harm.name()));
        *self.counts.entry(harm.name()).or_default() += 1;
        self.rebuilding.retain(|other| *other != member);
        if !self.harmed.contains(&member) {
            self.harmed.push(member);
        }
        Ok(())
    }

    /// Puts a new device in the place of each that was harmed.
    pub(crate) fn heal_while_down(&mut self) -> Result<()> {
        while let Some(member) = self.harmed.pop() {
            let path = &self.paths[member];
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    bail!("cannot remove {}: {error}", path.display())
                }
                _ => {}
            }
            self.replace(member)?;
            self.note(&format!("member {member} replaced"));
            *self.counts.entry(REPLACED).or_default() += 1;
            self.rebuilding.push(member);
        }
        Ok(())
    }

    /// Asks the target whether what was replaced is complete again.
    pub(crate) fn look(&mut self, address: &str, nqn: &str) -> Result<()> {
        if self.harmed.is_empty() && !self.rebuilding.is_empty() && self.is_whole(address, nqn)? {
            self.note("whole again");
            self.rebuilding.clear();
        }
        Ok(())
    }

    /// Waits until it is.
    pub(crate) fn wait_until_whole(&mut self, address: &str, nqn: &str) -> Result<()> {
        let began = Instant::now();
        while !self.is_whole(address, nqn)? {
            ensure!(began.elapsed() < REBUILD, "{} is not whole {REBUILD:?} after a device was replaced", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
        self.rebuilding.clear();
        Ok(())
    }

    fn is_whole(&self, address: &str, nqn: &str) -> Result<bool> {
        let info = self.kvof(&["info", address, "--nqn", nqn, "--json"])?;
        let info: Value = serde_json::from_str(&info).context("kvof info printed no JSON")?;
        let namespaces = info["namespaces"].as_array().context("kvof info names no namespaces")?;
        let mut pools = namespaces.iter().map(|namespace| &namespace["kv"]["pool"]);
        let pool = pools.find(|pool| pool["name"] == self.name.as_str());
        let pool = pool.with_context(|| format!("kvof info does not tell of {}", self.name))?;
        ensure!(pool["read_only"] == false, "{} is read-only", self.name);
        let live = pool["devices"].as_array().is_some_and(|all| all.iter().all(|device| device == "live"));
        Ok(live && pool["degraded"] == false && pool["rebuild"].is_null())
    }

    /// Has `kvof verify` read every record, parity and footer, while no target runs.
    pub(crate) fn verify_offline(&self) -> Result<()> {
        let mut arguments = vec!["verify".to_owned()];
        arguments.extend(self.paths.iter().map(|path| path.display().to_string()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.kvof(&arguments).map(drop)
    }

    fn replace(&self, member: usize) -> Result<()> {
        let (size, number) = (self.device_bytes.to_string(), member.to_string());
        let new = self.paths[member].display().to_string();
        let mut arguments = vec!["replace", &new, "--member", &number, "--size", &size, "--pool"];
        let others: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        arguments.extend(others.iter().map(String::as_str).filter(|path| *path != new));
        self.kvof(&arguments).map(drop)
    }

    fn kvof(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.kvof)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot start {}; `make build` makes it", self.kvof.display()))?;
        ensure!(
            output.status.success(),
            "kvof {} ended with {}: {}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

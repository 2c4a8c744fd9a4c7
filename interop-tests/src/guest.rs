//! Boots a stock kernel under QEMU's software emulation, runs one script in it and brings back what it left.
//!
//! The guest sees this machine's root file system read-only with a tmpfs over it, has no network card, and shares one writable
//! folder with the host: the script goes in through it, output, results and exit code come back. A guest that does not end
//! in time, or whose starter dies, is killed.
//!
//! On a busy machine a kernel under emulation may fail to start, above all because it measures its clocks against each other. That says
//! nothing of the script, so a guest that ends before the script's first line is booted again; from that line on nothing is repeated.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::initramfs;
use crate::kernel::Kernel;

const QEMU: &str = "qemu-system-x86_64";

/// How often a guest is booted before its failure to do so is the outcome.
const MAX_BOOTS: u32 = 3;

/// How long a boot may take: 6 s on an idle machine, several times that on a busy one.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// What is shown of the console of a boot that is repeated.
const LAST_LINES: usize = 20;

/// What is kept of the console before a panic: the fault's registers and stack.
const PANIC_LINES: usize = 100;

/// The kernel's command line, before what the repository's place and the caller add.
///
/// * `no_timer_check`: the kernel counts ticks of the timer during a short busy wait and panics ("IO-APIC + timer doesn't work") when there
///   are too few. The emulator's timer is a thread like any other, and late when the machine is busy.
/// * `hardened_usercopy=off`: 6.1 once stopped the target in recvmsg (kernel BUG at mm/usercopy.c) during fio over loopback.
///   `docs/linux-host.md` says what is known of it.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off cryptomgr.notests random.trust_cpu=on hardened_usercopy=off";

/// A guest to boot: a kernel and how much of a machine it gets.
#[derive(Clone, Debug)]
pub struct Guest {
    kernel: Kernel,
    cpus: u32,
    memory_mib: u32,
    timeout: Duration,
    boot_timeout: Duration,
    environment: Vec<(String, String)>,
    cmdline: String,
}

/// What a guest left behind.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// From starting QEMU to the script's first line; `None` when it never got there.
    pub boot: Option<Duration>,
    /// From starting QEMU to its end.
    pub total: Duration,
    /// How often it was booted: more than once when boots failed. All else is of the last one.
    pub boots: u32,
    /// How QEMU ended; `None` when it was killed.
    pub qemu: Option<ExitStatus>,
    /// The shared folder: everything the script wrote under `/run/kvof`.
    share: TempDir,
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The script ended with this exit code.
    Exit(i32),
    /// The guest powered off, or panicked, before the script had ended; with [`Outcome::boot`] `None`, before it had begun.
    Died,
    /// It was still running, or still booting, at its timeout and was killed.
    TimedOut,
}

/// Why no guest can run on this machine, or `None` when one can.
pub fn unavailable(series: &str) -> Option<String> {
    if Command::new(QEMU).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Some(format!("{QEMU} is not installed; interop-tests/setup.sh installs it"));
    }
    Kernel::find(series).err().map(|error| error.to_string())
}

impl Guest {
    /// A guest with 2 processors and 2 GiB that is killed five minutes after it has booted.
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            cpus: 2,
            memory_mib: 2048,
            timeout: Duration::from_secs(300),
            boot_timeout: BOOT_TIMEOUT,
            environment: Vec::new(),
            cmdline: String::new(),
        }
    }

    /// Kill the guest when it has not ended so long after the script's first line. Booting has a limit of its own.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Memory in MiB. What the guest writes outside the share lives in it.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// More words for the kernel's command line.
    #[must_use]
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline = words.to_owned();
        self
    }

    /// A variable in the script's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_string_lossy().into_owned()));
        self
    }

    /// Boots, runs `script` with bash in `dir` (a path of the host) and waits for the end. `progress` is called a few times a
    /// second with the shared folder while the guest runs, and once more after it has ended. A boot that fails is repeated, with a
    /// new shared folder and a word on standard error; the script never is.
    ///
    /// # Errors
    /// When QEMU cannot be started or the share not be written. How the script ended is in [`Outcome::end`], not an error.
    pub fn run(&self, dir: &Path, script: &str, mut progress: impl FnMut(&Path)) -> Result<Outcome> {
        let mut boots = 1;
        loop {
            let outcome = self.run_once(dir, script, boots, &mut progress)?;
            if outcome.boot.is_some() || boots == MAX_BOOTS {
                return Ok(outcome);
            }
            let console = outcome.file("console");
            let lines: Vec<&str> = console.lines().collect();
            eprintln!(
                "boot {boots} of at most {MAX_BOOTS} of Linux {} failed: {}, the last lines of its console:\n{}{}",
                self.kernel.version,
                outcome.summary(),
                lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n"),
                outcome.qemu_words()
            );
            boots += 1;
        }
    }

    /// One boot, and the script if it gets there.
    fn run_once(&self, dir: &Path, script: &str, boots: u32, progress: &mut impl FnMut(&Path)) -> Result<Outcome> {
        let share = self.prepare(dir, script)?;
        let started = Instant::now();
        let mut process = self.start(share.path(), &format!("file:{}", share.path().join("console").display()))?;
        let mut boot = None;
        let mut see_boot = || {
            if boot.is_none() && share.path().join("booted").exists() {
                boot = Some(started.elapsed());
            }
            boot
        };
        let qemu = loop {
            let limit = see_boot().map_or(self.boot_timeout, |boot| boot + self.timeout);
            progress(share.path());
            if let Some(status) = process.wait_for(Duration::from_millis(100))? {
                break Some(status);
            }
            if started.elapsed() > limit {
                break None;
            }
        };
        drop(process);
        // It may have begun and ended since the last look.
        let boot = see_boot();
        progress(share.path());
        let exit_code =
            fs::read_to_string(share.path().join("exit-code")).ok().and_then(|code| code.trim().parse().ok());
        let end = match (qemu, exit_code) {
            (_, Some(code)) => End::Exit(code),
            (None, None) => End::TimedOut,
            (Some(_), None) => End::Died,
        };
        Ok(Outcome { end, boot, total: started.elapsed(), boots, qemu, share })
    }

    /// Boots to a shell on this terminal; the guest ends with it. Ctrl-A X ends QEMU at once.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn interactive(&self, dir: &Path) -> Result<()> {
        let share = self.prepare(dir, "exec bash --norc -i")?;
        fs::write(share.path().join("interactive"), "")?;
        let mut qemu = self.start(share.path(), "mon:stdio")?;
        while qemu.wait_for(Duration::from_secs(1))?.is_none() {}
        Ok(())
    }

    fn prepare(&self, dir: &Path, script: &str) -> Result<TempDir> {
        let share = tempfile::Builder::new()
            .prefix("kvof-guest-")
            .tempdir()
            .context("cannot make the folder shared with the guest")?;
        let mut text = String::from("#!/bin/bash\n");
        for (name, value) in &self.environment {
            writeln!(text, "export {name}={}", quote(value))?;
        }
        writeln!(text, "cd {}", quote(&dir.to_string_lossy()))?;
        text.push_str(script);
        text.push('\n');
        let path = share.path().join("script");
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        fs::write(share.path().join("initramfs"), initramfs::build(&self.kernel)?)?;
        Ok(share)
    }

    fn start(&self, share: &Path, serial: &str) -> Result<Qemu> {
        let drive = |path: &Path, tag: &str, options: &str| {
            format!("local,path={},mount_tag={tag},security_model=none,multidevs=remap{options}", path.display())
        };
        let cmdline = format!(
            "{CMDLINE} kvof.modules={} kvof.repository={} {}",
            self.kernel.modules_dir().display(),
            crate::repository().display(),
            self.cmdline
        );
        // setpriv: the guest dies with the thread that started it, whatever kills that one.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", QEMU])
            .args(["-machine", "q35,sata=off,usb=off,smbus=off,hpet=off"])
            .args([
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-no-user-config",
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-nic", "none", "-serial", serial])
            .args(["-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(share.join("initramfs"))
            .args(["-append", &cmdline])
            .args(["-virtfs", &drive(Path::new("/"), "hostroot", ",readonly=on")])
            .args(["-virtfs", &drive(share, "share", "")]);
        if let Some(extra) = std::env::var_os("KVOF_QEMU_ARGS") {
            command.args(extra.to_string_lossy().split_whitespace());
        }
        if serial.starts_with("file:") {
            let words =
                fs::File::create(share.join("qemu")).context("cannot write to the folder shared with the guest")?;
            command.stdin(Stdio::null()).stderr(words);
        }
        let child = command.spawn().with_context(|| format!("cannot start setpriv or {QEMU}"))?;
        Ok(Qemu(child))
    }
}

impl Outcome {
    /// A file that the script wrote under `/run/kvof`, or an empty string; bytes that are not UTF-8 are replaced.
    pub fn file(&self, name: &str) -> String {
        fs::read(self.path(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Where that file is on the host, until the outcome is dropped.
    pub fn path(&self, name: &str) -> PathBuf {
        self.share.path().join(name)
    }

    /// The exit code, when the script ended by itself.
    ///
    /// # Errors
    /// When it did not; the message is the whole account, with the guest's console.
    pub fn exit_code(&self) -> Result<i32> {
        match self.end {
            End::Exit(code) => Ok(code),
            End::Died | End::TimedOut => bail!("{self}"),
        }
    }

    /// What the guest's kernel said before it panicked, its last words being that it does; `None` when it did not panic.
    pub fn panic(&self) -> Option<String> {
        panic_words(&self.file("console"))
    }

    fn summary(&self) -> String {
        let seconds = self.total.as_secs_f64();
        let end = match self.end {
            End::Exit(code) => format!("the script ended with exit code {code} after {seconds:.1} s"),
            End::Died => format!("the guest stopped by itself after {seconds:.1} s"),
            End::TimedOut => format!("the guest was killed at its timeout, after {seconds:.1} s"),
        };
        let boot = match (self.boot, self.boots) {
            (Some(boot), 1) => format!("booted after {:.1} s", boot.as_secs_f64()),
            (Some(boot), boots) => format!("booted after {:.1} s, at attempt {boots}", boot.as_secs_f64()),
            (None, boots) => format!("it never got to the script; attempt {boots}"),
        };
        let qemu = self.qemu.map_or("killed".to_owned(), |status| status.to_string());
        format!("{end} ({boot}; QEMU: {qemu})")
    }

    /// What QEMU itself said, if anything, as a paragraph.
    fn qemu_words(&self) -> String {
        let words = self.file("qemu");
        if words.trim().is_empty() { String::new() } else { format!("\nQEMU said:\n{}", words.trim_end()) }
    }
}

/// How it ended, the console, what QEMU said and what the script printed: all there is to find out why.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (console, output) = (self.file("console"), self.file("output"));
        write!(f, "{}; its console:\n{}{}", self.summary(), console.trim_end(), self.qemu_words())?;
        if !output.is_empty() {
            write!(f, "\nthe script printed:\n{}", output.trim_end())?;
        }
        Ok(())
    }
}

/// The part of a console that tells of a panic. The fault before it has no fixed first word: what is kept is [`PANIC_LINES`] lines.
fn panic_words(console: &str) -> Option<String> {
    let lines: Vec<&str> = console.lines().collect();
    let panic = lines.iter().position(|line| line.contains("Kernel panic - "))?;
    Some(lines[panic.saturating_sub(PANIC_LINES)..=panic].join("\n"))
}

/// Prints what has been appended to a file since the last time.
#[derive(Debug)]
pub struct Tail {
    name: &'static str,
    position: u64,
}

impl Tail {
    /// Follows `name` in the shared folder.
    pub fn new(name: &'static str) -> Self {
        Self { name, position: 0 }
    }

    /// What is new in it; empty when nothing is, or the file is not there yet.
    pub fn read(&mut self, share: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Ok(mut file) = fs::File::open(share.join(self.name))
            && file.seek(SeekFrom::Start(self.position)).is_ok()
            && let Ok(count) = file.read_to_end(&mut bytes)
        {
            self.position += count as u64;
        }
        bytes
    }
}

/// The emulator's process, killed when dropped.
struct Qemu(Child);

impl Qemu {
    fn wait_for(&mut self, time: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now() + time;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_that_hangs_is_ended_and_repeated() {
        if let Some(reason) = unavailable("6.12") {
            println!("skipped: {reason}");
            return;
        }
        let mut guest = Guest::new(Kernel::find("6.12").unwrap()).cmdline("rdinit=/bin/busybox -- sleep 600");
        guest.boot_timeout = Duration::from_secs(3);
        let outcome = guest.run(Path::new("/"), "exit 0", |_| {}).unwrap();
        assert_eq!((outcome.end, outcome.boot, outcome.boots), (End::TimedOut, None, MAX_BOOTS), "{outcome}");
        assert!(outcome.total >= Duration::from_secs(3), "{outcome}");
    }
}

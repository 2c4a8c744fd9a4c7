//! A target for one test, and the command run against it.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long a target may take to start, or one command to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `kvof-target` on a free port. It ends with this value.
pub(crate) struct Target {
    child: Child,
    /// Where it listens, `127.0.0.1:PORT`.
    pub(crate) address: String,
    /// A folder for the test's own files.
    pub(crate) folder: TempDir,
}

impl Target {
    /// One KV namespace of 64 MiB in memory.
    pub(crate) fn kv() -> Self {
        Self::start(&["--kv-memory", "64MiB"])
    }

    /// A target with these flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let ready = folder.path().join("ready.json");
        let mut child = Command::new(target_program())
            .args(["--listen", "127.0.0.1:0", "--log", "warn", "--ready-file"])
            .arg(&ready)
            .args(flags)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let late = Instant::now() + PATIENCE;
        let address = loop {
            if let Some(ready) = fs::read(&ready).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()) {
                break ready["ports"][0]["address"].as_str().unwrap().to_owned();
            }
            let ended = child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > late {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the target with {flags:?} is not ready: {ended:?}");
            }
            thread::sleep(Duration::from_millis(10));
        };
        Self { child, address, folder }
    }

    /// Runs `kvof` with this target in its environment.
    pub(crate) fn kvof<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.kvof_with(args, b"")
    }

    /// As [`Self::kvof`], with `input` on its standard input.
    pub(crate) fn kvof_with<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Ran {
        run(self.command().args(args), input)
    }

    /// Starts `kvof` with this target in its environment, to be interrupted.
    pub(crate) fn begin(&self, args: &[&str]) -> Running {
        let mut command = self.command();
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running { child: command.spawn().unwrap(), line: format!("{command:?}") }
    }

    /// The command `kvof`, with this target in its environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = kvof();
        command.env("KVOF_ADDRESS", &self.address);
        command
    }

    /// Sends the target a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Ends the target at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command `kvof` without anything in its environment that matters to it.
pub(crate) fn kvof() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvof"));
    command.env_remove("KVOF_ADDRESS").env_remove("KVOF_NQN");
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end without having read everything.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Ran { output, line: format!("{command:?}") }
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    line: String,
}

impl Running {
    /// Sends SIGINT, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Ran {
        Ran { output: self.child.wait_with_output().unwrap(), line: self.line }
    }
}

/// What a command has done.
pub(crate) struct Ran {
    output: Output,
    line: String,
}

impl Ran {
    /// The exit code must be `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.output.status.code(), Some(code), "{}\n{}{}", self.line, self.out(), self.err());
        self
    }

    /// It must have succeeded without a word on standard error; gives what it printed.
    #[track_caller]
    pub(crate) fn prints(self) -> String {
        let ran = self.exits(0);
        assert_eq!(ran.err(), "", "{}", ran.line);
        ran.out()
    }

    /// It must have printed one JSON document.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.prints();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The exit code must be `code` and standard error a single message that has all of `parts`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> Self {
        let ran = self.exits(code);
        let message = ran.err();
        assert!(message.starts_with("kvof: ") || message.starts_with("error: "), "{}\n{message}", ran.line);
        for part in parts {
            assert!(message.contains(part), "{}\n{part:?} is not in: {message}", ran.line);
        }
        ran
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.output.stdout
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// The program `kvof-target`, built if need be.
fn target_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("KVOF_TARGET") {
            return program.into();
        }
        let folder = Path::new(env!("CARGO_BIN_EXE_kvof")).parent().unwrap();
        let program = folder.join("kvof-target");
        if !program.exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "-p", "kvof-target", "--bin", "kvof-target"]);
            build.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
            build.arg("--target-dir").arg(folder.parent().unwrap());
            if folder.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "kvof-target cannot be built");
        }
        program
    })
}

/// `len` bytes that are no text.
pub(crate) fn binary(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

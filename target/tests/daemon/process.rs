//! A target in a process of its own.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use kvof_initiator::{Address, ConnectOptions};
use tempfile::TempDir;

/// A target in a process of its own, which ends with the test.
pub(crate) struct Process {
    pub(crate) child: Option<Child>,
    pub(crate) folder: TempDir,
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvof-target"));
    command.args(arguments).stdin(Stdio::null()).env_remove("KVOF_LOG").env_remove("NOTIFY_SOCKET");
    command
}

#[track_caller]
pub(crate) fn output(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Process {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments, |_| {})
    }

    pub(crate) fn start_in(folder: TempDir, arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = command(arguments);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        command.arg("--ready-file").arg(folder.path().join("ready")).arg("--cores").arg("1");
        command.stdout(log.try_clone().unwrap()).stderr(log);
        prepare(&mut command);
        let mut process = Self { child: Some(command.spawn().unwrap()), folder };
        let ready = process.path("ready");
        process.wait_until("ready", |process| {
            let ended = process.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "ended early: {}", process.log());
            ready.exists()
        });
        process
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < Duration::from_secs(20), "not {what}: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn address(&self) -> Address {
        let ready: serde_json::Value = serde_json::from_slice(&fs::read(self.path("ready")).unwrap()).unwrap();
        assert_eq!(ready["pid"], self.child.as_ref().unwrap().id());
        ready["ports"][0]["address"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// Waits for the end; gives the exit code and the log.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        self.wait_until("ended", |process| {
            status = process.child.as_mut().unwrap().try_wait().unwrap();
            status.is_some()
        });
        self.child = None;
        (status.unwrap().code(), self.log())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn options() -> ConnectOptions {
    ConnectOptions::default()
}

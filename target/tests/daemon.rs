//! The daemon as its users meet it: flags, files, signals, exit codes.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use kvof_initiator::{Address, Buffer, ConnectOptions, Controller, Key, StoreOptions, blocking::block_on};
use tempfile::TempDir;

const NQN: &str = "nqn.2024-01.localhost:kvof";

/// A target in a process of its own, which ends with the test.
struct Process {
    child: Option<Child>,
    folder: TempDir,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvof-target"));
    command.args(arguments).stdin(Stdio::null()).env_remove("KVOF_LOG").env_remove("NOTIFY_SOCKET");
    command
}

#[track_caller]
fn output(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments, |_| {})
    }

    fn start_in(folder: TempDir, arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    #[track_caller]
    fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < Duration::from_secs(20), "not {what}: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn address(&self) -> Address {
        let ready: serde_json::Value = serde_json::from_slice(&fs::read(self.path("ready")).unwrap()).unwrap();
        assert_eq!(ready["pid"], self.child.as_ref().unwrap().id());
        ready["ports"][0]["address"].as_str().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// Waits for the end; gives the exit code and the log.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, String) {
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

fn options() -> ConnectOptions {
    ConnectOptions::default()
}

#[test]
fn serves_says_how_to_connect_and_ends_on_sigterm() {
    let process = Process::start(&["--listen", "127.0.0.1:0", "--kv-memory", "64MiB"]);
    let address = process.address();
    block_on(async {
        let controller = Controller::connect(&address, NQN, &options()).await.unwrap();
        let kv = controller.kv(1).await.unwrap();
        let key = Key::new(b"k").unwrap();
        kv.store(key, vec![7; 100_000], StoreOptions::empty()).await.0.unwrap();
        let (found, buffer) = kv.retrieve(key, Buffer::new(100_000)).await;
        assert_eq!(found.unwrap().value_len, 100_000);
        assert!(buffer.iter().all(|&byte| byte == 7));
        controller.disconnect().await;
    });
    process.signal("TERM");
    let ready = process.path("ready");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!ready.exists());
    assert!(log.contains(&format!("nvme connect -t tcp -a 127.0.0.1 -s {} -n {NQN}", address.port())), "{log}");
}

#[test]
fn a_second_target_on_the_same_address_says_so() {
    let first = Process::start(&["--listen", "127.0.0.1:0"]);
    let address = format!("127.0.0.1:{}", first.address().port());
    let second = output(&["--listen", &address]);
    assert_eq!(second.status.code(), Some(1));
    let error = text(&second.stderr);
    assert!(error.contains(&format!("cannot listen on {address}")) && error.contains("another target"), "{error}");
}

#[test]
fn wrong_configurations_are_refused_with_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("target.toml");
    fs::write(&path, "[[port]]\naddress = \"127.0.0.1:0\"\n\n[limits]\nio_queues = 0\n").unwrap();
    let path = path.to_str().unwrap();
    for arguments in [&["--config", path][..], &["--config", path, "--check-config"]] {
        let refused = output(arguments);
        assert_eq!(refused.status.code(), Some(2));
        let error = text(&refused.stderr);
        assert!(error.contains(&format!("{path}:5:13: limits.io_queues = 0: must be from 1 to 65534")), "{error}");
    }
    assert_eq!(output(&["--config", "/nonexistent/file"]).status.code(), Some(2));
    assert_eq!(output(&["--no-such-flag"]).status.code(), Some(2));
    assert_eq!(output(&["--config", path, "--kv-memory", "1GiB"]).status.code(), Some(2));
}

#[test]
fn the_sample_passes_the_check_and_the_effective_configuration_reads_back() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("kvof-target.toml");
    let sample = sample.to_str().unwrap();
    let checked = output(&["--config", sample, "--check-config"]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).contains("namespace 1: KV, 1GiB in memory"));

    let printed = text(&output(&["--config", sample, "--print-config"]).stdout);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.toml");
    fs::write(&copy, &printed).unwrap();
    let again = text(&output(&["--config", copy.to_str().unwrap(), "--print-config"]).stdout);
    assert_eq!(again, printed);
    assert_eq!(text(&output(&["--print-sample"]).stdout), fs::read_to_string(sample).unwrap());
}

#[test]
fn sighup_serves_what_the_file_says_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("target.toml");
    let namespace = |nsid: u32| {
        format!("[[subsystem.namespace]]\nnsid = {nsid}\nkind = \"nvm\"\nstorage = \"memory\"\nsize = \"1MiB\"\n")
    };
    let start =
        format!("[[port]]\naddress = \"127.0.0.1:0\"\n[[subsystem]]\nnqn = \"{NQN}\"\nallowed_hosts = \"any\"\n");
    fs::write(&path, format!("{start}{}", namespace(1))).unwrap();
    let mut process = Process::start_in(folder, &["--config", path.to_str().unwrap()], |_| {});
    let address = process.address();
    let namespaces = || {
        block_on(async {
            let controller = Controller::connect(&address, NQN, &options()).await?;
            let mut found = Vec::new();
            for namespace in controller.namespaces().await? {
                found.push(namespace.nsid);
            }
            controller.disconnect().await;
            Ok::<_, kvof_initiator::Error>(found)
        })
    };
    assert_eq!(namespaces().unwrap(), [1]);

    fs::write(&path, format!("[reactor]\nbusy_poll = \"1ms\"\n{start}{}{}", namespace(1), namespace(5))).unwrap();
    process.signal("HUP");
    process.wait_until("reloaded", |process| process.log().contains("configuration reloaded"));
    assert_eq!(namespaces().unwrap(), [1, 5]);
    assert!(process.log().contains("reactor.busy_poll"), "{}", process.log());

    // A wrong file changes nothing.
    fs::write(&path, "[[port]]\naddress = 7\n").unwrap();
    process.signal("HUP");
    process.wait_until("refused", |process| process.log().contains("was not reloaded"));
    assert_eq!(namespaces().unwrap(), [1, 5]);
    assert!(process.log().contains("port[0].address = 7"), "{}", process.log());

    // Hosts that are not allowed any more.
    fs::write(&path, format!("{}{}", start.replace("\"any\"", "[]"), namespace(1))).unwrap();
    process.signal("HUP");
    process.wait_until("reloaded", |process| process.log().matches("configuration reloaded").count() == 2);
    namespaces().unwrap_err();

    process.signal("INT");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn values_in_a_file_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kv");
    let arguments = ["--listen", "127.0.0.1:0", "--kv-file", file.to_str().unwrap(), "--size", "64MiB"];
    let key = Key::new(b"kept").unwrap();
    for round in 0..2 {
        let process = Process::start(&arguments);
        let address = process.address();
        block_on(async {
            let controller = Controller::connect(&address, NQN, &options()).await.unwrap();
            let kv = controller.kv(1).await.unwrap();
            if round == 0 {
                kv.store(key, b"value".to_vec(), StoreOptions::empty()).await.0.unwrap();
            }
            let (found, buffer) = kv.retrieve(key, Buffer::new(16)).await;
            assert_eq!(found.unwrap().value_len, 5);
            assert_eq!(&buffer[..5], b"value");
            // The target is stopped with the host still connected.
            process.signal("TERM");
            let (code, log) = process.end();
            assert_eq!(code, Some(0), "{log}");
        });
    }
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let receive = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        text(&buffer[..length])
    };
    let process = Process::start_in(folder, &["--listen", "127.0.0.1:0"], |command| {
        command.env("NOTIFY_SOCKET", &socket);
    });
    assert_eq!(receive(), "READY=1");
    process.signal("TERM");
    assert_eq!(receive(), "STOPPING=1");
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn the_log_can_be_json() {
    let process = Process::start(&["--listen", "127.0.0.1:0", "--log-format", "json"]);
    process.signal("TERM");
    let (_, log) = process.end();
    let line = log.lines().find(|line| line.contains("listening")).unwrap();
    let event: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(event["message"], "listening");
    assert_eq!(event["portid"], 1);
}

/// Small values waste most of a page each, so the pool is used up long before the namespaces are full by their size.
#[test]
fn full_namespaces_say_so_and_leave_memory_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("target.toml");
    let namespace = |nsid: u32| {
        format!(
            "[[subsystem.namespace]]\nnsid = {nsid}\nkind = \"kv\"\nstorage = \"memory\"\nsize = \"24MiB\"\nmax_value_size = \"1MiB\"\n"
        )
    };
    let start =
        "[reactor]\nmemory = \"8MiB\"\n[[port]]\naddress = \"127.0.0.1:0\"\n[[subsystem]]\nallowed_hosts = \"any\"\n";
    fs::write(&path, format!("{start}nqn = \"{NQN}\"\n{}{}", namespace(1), namespace(2))).unwrap();
    let process = Process::start_in(folder, &["--config", path.to_str().unwrap()], |_| {});
    block_on(async {
        let controller = Controller::connect(&process.address(), NQN, &options()).await.unwrap();
        for nsid in [1, 2] {
            let kv = controller.kv(nsid).await.unwrap().with_timeout(Duration::from_secs(10));
            let mut stored = 0u32;
            let full = loop {
                let key = Key::new(&stored.to_be_bytes()).unwrap();
                match kv.store(key, vec![1; 2100], StoreOptions::empty()).await.0 {
                    Ok(()) => stored += 1,
                    Err(error) => break error,
                }
            };
            let capacity_exceeded =
                full.status().is_some_and(|status| status.code() == kvof_spec::Status::CAPACITY_EXCEEDED);
            assert!(capacity_exceeded, "namespace {nsid} after {stored} values: {full}");
        }
    });
}

//! The daemon as its users meet it: flags, files, signals, exit codes.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use kvof_initiator::{
    Address, Buffer, ConnectOptions, Controller, Error, Key, KvNamespace, ReconnectPolicy, StoreOptions,
    blocking::block_on,
};
use kvof_spec::log::{GetLogPageCmd, LogId, PoolFlags, PoolMemberState, PoolStatistics};
use kvof_store::{
    ec::Profile,
    pool::{FormatOptions, ReplaceOptions, format, replace},
};
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
            Ok::<_, Error>(found)
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
    assert_eq!(receive(), "READY=1\nSTATUS=serving");
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

/// Formats files in `folder` as a pool; their paths.
fn format_pool(folder: &Path, name: &str, (k, m): (u8, u8), shards: u16) -> Vec<PathBuf> {
    let devices: Vec<PathBuf> = (0..k + m).map(|i| folder.join(format!("{name}{i}"))).collect();
    let options = FormatOptions {
        profile: Some(Profile::new(k, m).unwrap()),
        shards: Some(shards),
        segment: Some(2 << 20),
        size: Some(u64::from(shards) * (64 << 20)),
        name: name.to_owned(),
        ..FormatOptions::default()
    };
    format(&devices, &options).unwrap();
    devices
}

fn pool_table(name: &str, devices: &[PathBuf]) -> String {
    let devices: Vec<String> = devices.iter().map(|path| format!("{:?}", path.display().to_string())).collect();
    format!(
        "[[pool]]\nname = \"{name}\"\ndevices = [{}]\nindex_memory = \"64MiB\"\ntier = \"1MiB\"\nrebuild_rate = 0\n",
        devices.join(", ")
    )
}

const SUBSYSTEM: &str = "[[port]]\naddress = \"127.0.0.1:0\"\n[[subsystem]]\nallowed_hosts = \"any\"\n";

fn pooled_namespace(nsid: u32, pool: &str) -> String {
    format!(
        "[[subsystem.namespace]]\nnsid = {nsid}\nkind = \"kv\"\nstorage = \"pool:{pool}\"\nsize = \"32MiB\"\nmax_value_size = \"256KiB\"\n"
    )
}

/// A folder with a pool and a configuration that serves NSID 1 from it; the devices, and the start of the configuration
/// without the pool.
fn pool_folder(profile: (u8, u8), shards: u16) -> (TempDir, Vec<PathBuf>, String) {
    let folder = tempfile::tempdir().unwrap();
    let devices = format_pool(folder.path(), "flash", profile, shards);
    let start = format!("{SUBSYSTEM}nqn = \"{NQN}\"\n{}", pooled_namespace(1, "flash"));
    fs::write(folder.path().join("target.toml"), format!("{}{start}", pool_table("flash", &devices))).unwrap();
    (folder, devices, start)
}

fn start_pool(folder: TempDir) -> Process {
    let path = folder.path().join("target.toml");
    Process::start_in(folder, &["--config", path.to_str().unwrap()], |_| {})
}

fn key(text: &str) -> Key {
    Key::new(text.as_bytes()).unwrap()
}

fn put(kv: &KvNamespace, name: &str, value: Vec<u8>) -> Result<(), Error> {
    block_on(kv.store(key(name), value, StoreOptions::empty())).0
}

fn connect(process: &Process, nsid: u32) -> (Controller, KvNamespace) {
    let mut options = options();
    options.reconnect = ReconnectPolicy::NEVER;
    let controller = block_on(Controller::connect(&process.address(), NQN, &options)).unwrap();
    let kv = block_on(controller.kv(nsid)).unwrap();
    (controller, kv)
}

fn statistics(controller: &Controller) -> PoolStatistics {
    let command = GetLogPageCmd::new(LogId::POOL_STATISTICS, 1, 0, 1024).unwrap();
    let read = controller.admin(command.to_sqe(), kvof_initiator::AdminData::FromController(1024));
    let (completion, data) = block_on(read).unwrap();
    assert!(completion.status.is_success(), "{completion:?}");
    *PoolStatistics::from_bytes(&data).unwrap()
}

/// What worker `worker` stores as its `i`th value.
fn numbered(worker: usize, i: usize) -> (String, Vec<u8>) {
    let len = [10, 3000, 70_000, 200_000][i % 4] + i % 7;
    (format!("{worker}-{i}"), (0..len).map(|at| (at * 7 + i + worker) as u8).collect())
}

#[test]
fn a_killed_target_has_lost_nothing_that_it_acknowledged() {
    let (mut folder, _, _) = pool_folder((2, 1), 2);
    let acknowledged: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
    for round in 1..=4 {
        let mut process = start_pool(folder);
        let (controller, kv) = connect(&process, 1);
        for (worker, count) in acknowledged.iter().enumerate() {
            for i in 0..count.load(Ordering::Acquire) {
                let (name, value) = numbered(worker, i);
                let got =
                    block_on(kv.retrieve_vec(key(&name))).unwrap_or_else(|error| panic!("{round}: {name}: {error}"));
                assert!(got == value, "{round}: {name}");
            }
        }
        thread::scope(|scope| {
            for (worker, count) in acknowledged.iter().enumerate() {
                let kv = &kv;
                scope.spawn(move || {
                    for i in count.load(Ordering::Acquire).. {
                        let (name, value) = numbered(worker, i);
                        match put(kv, &name, value) {
                            Ok(()) => count.store(i + 1, Ordering::Release),
                            Err(Error::Status { .. }) => panic!("worker {worker}, value {i}"),
                            Err(_) => break,
                        }
                    }
                });
            }
            let all = || acknowledged.iter().all(|count| count.load(Ordering::Acquire) >= round * 12);
            process.wait_until("under load", |_| all());
            let mut child = process.child.take().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        });
        drop(controller);
        folder = std::mem::replace(&mut process.folder, tempfile::tempdir().unwrap());
        fs::remove_file(folder.path().join("ready")).unwrap();
    }
    let process = start_pool(folder);
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("pool is closed"), "{log}");
}

#[test]
fn a_missing_device_is_done_without_and_taken_back_on_reload() {
    let (folder, devices, _) = pool_folder((2, 1), 2);
    let away = folder.path().join("away");
    fs::rename(&devices[1], &away).unwrap();
    let mut process = start_pool(folder);
    let (controller, kv) = connect(&process, 1);
    assert!(process.log().contains("flash1"), "{}", process.log());
    for i in 0..20 {
        let (name, value) = numbered(0, i);
        put(&kv, &name, value).unwrap();
    }
    let degraded = statistics(&controller);
    assert_eq!(degraded.flags() & PoolFlags::DEGRADED, PoolFlags::DEGRADED);
    let states = |page: &PoolStatistics| page.member_states().map(|member| member.state()).collect::<Vec<_>>();
    assert_eq!(states(&degraded), [PoolMemberState::LIVE, PoolMemberState::FAILED, PoolMemberState::LIVE]);

    fs::rename(&away, &devices[1]).unwrap();
    process.signal("HUP");
    process.wait_until("filled again", |_| statistics(&controller).flags().is_empty());
    assert_eq!(states(&statistics(&controller)), [PoolMemberState::LIVE; 3]);
    process.wait_until("told", |process| process.log().contains("device has all its data again"));
    process.signal("TERM");
    let folder = std::mem::replace(&mut process.folder, tempfile::tempdir().unwrap());
    fs::copy(folder.path().join("log"), process.path("log")).unwrap();
    let (code, _) = process.end();
    assert_eq!(code, Some(0));
    drop((kv, controller));

    // Another one may be missing now, and nothing is.
    fs::rename(&devices[0], &away).unwrap();
    let process = start_pool(folder);
    let (_controller, kv) = connect(&process, 1);
    for i in 0..20 {
        let (name, value) = numbered(0, i);
        assert!(block_on(kv.retrieve_vec(key(&name))).unwrap() == value, "{name}");
    }
}

#[test]
fn a_device_is_replaced_while_the_target_serves() {
    let (folder, mut devices, start) = pool_folder((2, 1), 2);
    let config = folder.path().join("target.toml");
    let new = folder.path().join("new");
    let mut process = start_pool(folder);
    let (controller, kv) = connect(&process, 1);
    let store = |range: std::ops::Range<usize>| {
        for i in range {
            let (name, value) = numbered(0, i);
            put(&kv, &name, value).unwrap();
        }
    };
    let reload = |process: &Process, devices: &[PathBuf]| {
        fs::write(&config, format!("{}{start}", pool_table("flash", devices))).unwrap();
        process.signal("HUP");
    };
    store(0..10);
    // It is taken out of the configuration, and could be pulled now.
    let old = devices.remove(0);
    reload(&process, &devices);
    process.wait_until("degraded", |_| statistics(&controller).flags().contains(PoolFlags::DEGRADED));
    store(10..20);
    replace(&new, &devices, &ReplaceOptions { size: Some(256 << 20), ..ReplaceOptions::default() }).unwrap();
    fs::write(&old, "not a device any more").unwrap();
    devices.push(new);
    reload(&process, &devices);
    process.wait_until("filled", |_| statistics(&controller).flags().is_empty());
    store(20..30);
    // The new device has what the others had.
    fs::remove_file(devices.remove(0)).unwrap();
    reload(&process, &devices);
    process.wait_until("degraded", |_| statistics(&controller).flags().contains(PoolFlags::DEGRADED));
    for i in 0..30 {
        let (name, value) = numbered(0, i);
        assert!(block_on(kv.retrieve_vec(key(&name))).unwrap() == value, "{name}");
    }
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_pool_that_cannot_be_opened_is_refused_with_the_way_out() {
    let (folder, devices, start) = pool_folder((2, 1), 1);
    let config = folder.path().join("target.toml");
    let refused = || {
        let refused = output(&["--config", config.to_str().unwrap(), "--cores", "1", "--log", "off"]);
        assert_eq!(refused.status.code(), Some(1));
        text(&refused.stderr)
    };
    for path in &devices[..2] {
        fs::rename(path, path.with_extension("away")).unwrap();
    }
    let error = refused();
    assert!(
        error.contains("pool flash") && error.contains("1 of 3 devices") && error.contains("at least 2"),
        "{error}"
    );

    let blank = folder.path().join("blank");
    fs::write(&blank, vec![0; 1 << 20]).unwrap();
    fs::write(&config, format!("{}{start}", pool_table("flash", &[blank.clone()]))).unwrap();
    let error = refused();
    assert!(error.contains(&format!("`kvof format --name flash {}`", blank.display())), "{error}");

    fs::write(&config, format!("{}{start}", pool_table("flash", &[folder.path().join("none")]))).unwrap();
    let error = refused();
    assert!(error.contains("none") && error.contains("kvof format"), "{error}");
}

#[test]
fn pools_and_their_namespaces_come_and_go_on_reload() {
    let (folder, devices, start) = pool_folder((1, 1), 2);
    let config = folder.path().join("target.toml");
    let other = format_pool(folder.path(), "other", (1, 0), 1);
    let mut process = start_pool(folder);
    let flash = pool_table("flash", &devices);
    let mut reloads = 0;
    let mut reload = |process: &mut Process, text: String| {
        fs::write(&config, text).unwrap();
        process.signal("HUP");
        reloads += 1;
        process.wait_until("reloaded", |process| {
            process.log().matches("the configuration was not reloaded").count()
                + process.log().matches("configuration reloaded").count()
                == reloads
        });
    };
    let (_controller, kv) = connect(&process, 1);
    put(&kv, "in 1", vec![1; 100]).unwrap();
    // A namespace in the pool that is there, and one in a pool that is new.
    let file = process.path("own");
    let both = format!(
        "{flash}{}{start}{}{}{}",
        pool_table("other", &other),
        pooled_namespace(2, "flash"),
        pooled_namespace(3, "other"),
        pooled_namespace(4, "x").replace("pool:x", file.to_str().unwrap()),
    );
    reload(&mut process, both.clone());
    for nsid in [2, 3, 4] {
        let (_controller, kv) = connect(&process, nsid);
        assert_eq!(block_on(kv.list(None)).unwrap(), [], "a place of its own");
        put(&kv, "mine", vec![nsid as u8; 5000]).unwrap();
    }
    assert_eq!(block_on(kv.retrieve_vec(key("in 1"))).unwrap(), [1; 100]);
    assert!(!process.log().contains("not reloaded"), "{}", process.log());
    // They go, and come back with what they had.
    reload(&mut process, format!("{flash}{start}"));
    process.wait_until("closed", |process| process.log().matches("pool is closed").count() == 2);
    reload(&mut process, both);
    for nsid in [2, 3, 4] {
        let (_controller, kv) = connect(&process, nsid);
        assert_eq!(block_on(kv.retrieve_vec(key("mine"))).unwrap(), [nsid as u8; 5000]);
    }
    assert!(!process.log().contains("not reloaded"), "{}", process.log());
    // What cannot be opened changes nothing.
    let blank = process.path("blank");
    fs::write(&blank, vec![0; 1 << 20]).unwrap();
    reload(&mut process, format!("{flash}{}{start}{}", pool_table("third", &[blank]), pooled_namespace(5, "third")));
    assert!(process.log().contains("kvof format --name third"), "{}", process.log());
    let (_controller, still) = connect(&process, 3);
    assert_eq!(block_on(still.retrieve_vec(key("mine"))).unwrap(), [3; 5000]);
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
}

//! The daemon as its users meet it: flags, files, signals, exit codes.

mod pools;
mod process;

use std::{fs, os::unix::net::UnixDatagram, path::Path, time::Duration};

use kvof_initiator::{Buffer, Controller, Error, Key, StoreOptions, blocking::block_on};

use self::process::{Process, options, output, text};

const NQN: &str = "nqn.2024-01.localhost:kvof";

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

//! discover and info; finding the subsystem and the namespace; targets that are not there.

use std::fs;

use serde_json::json;

use crate::support::{Target, kvof, run};

const NQN: &str = "nqn.2024-01.localhost:kvof";

#[test]
fn discovery_names_the_subsystem() {
    let target = Target::kv();
    let text = target.kvof(&["discover"]).prints();
    let line: Vec<&str> = text.lines().find(|line| line.starts_with(NQN)).unwrap().split_whitespace().collect();
    assert_eq!(line, [NQN, &format!("tcp://{}", target.address), "nvm", "1"]);
    let document = target.kvof(&["discover", "--json"]).json();
    let entry = document.as_array().unwrap().iter().find(|e| e["subtype"] == "nvm").unwrap();
    assert_eq!(entry["subnqn"], NQN);
    assert_eq!(entry["transport"], "tcp");
    assert_eq!(entry["address"], format!("tcp://{}", target.address));
}

#[test]
fn info_shows_limits_and_namespaces() {
    let target = Target::start(&["--kv-memory", "64MiB", "--nvm-memory", "16MiB"]);
    target.kvof(&["store", "k", "--value", "v"]).prints();
    let info =
        target.kvof(&["info", "--json", "--digests", "header", "--io-queues", "2", "--queue-depth", "17"]).json();
    assert_eq!(info["controller"]["subnqn"], NQN);
    assert_eq!(info["controller"]["kind"], "I/O");
    assert_eq!(info["limits"]["max_transfer"], 2 << 20);
    assert_eq!(info["connection"]["io_queues"], 2);
    assert_eq!(info["connection"]["queue_depth"], 17);
    assert_eq!(
        (&info["connection"]["header_digest"], &info["connection"]["data_digest"]),
        (&json!(true), &json!(false))
    );
    let [kv, nvm] = info["namespaces"].as_array().unwrap().as_slice() else { panic!("{info}") };
    assert_eq!((&kv["nsid"], &kv["command_set"], &kv["size"]), (&json!(1), &json!("KV"), &json!(64 << 20)));
    assert!(kv["used"].as_u64().unwrap() > 0);
    assert_eq!(kv["kv"]["formats"], json!([{"max_key": 16, "max_value": 2 << 20, "max_keys": 0}]));
    assert_eq!(kv["kv"]["delete_missing_is_error"], false);
    assert_eq!(nvm["nvm"], json!({"block_size": 4096, "blocks": 4096}));

    let text = target.kvof(&["info"]).prints();
    for part in [
        "data of a command    2 MiB",
        "I/O queues           1 of 1",
        "keys to 16 B, values to 2 MiB",
        "4096 blocks of 4 KiB",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let one = target.kvof(&["info", "--nsid", "2"]).prints();
    assert!(one.contains("NVM") && !one.contains("KV "), "{one}");
    target.kvof(&["info", "--nsid", "9"]).fails(1, &["no namespace 9"]);
}

#[test]
fn where_there_are_several_one_has_to_be_chosen() {
    let target = Target::start(&["--kv-memory", "64MiB", "--kv-memory", "32MiB", "--nvm-memory", "16MiB"]);
    target.kvof(&["store", "k", "--value", "v"]).fails(2, &["several", "--nsid: 1, 2"]);
    target.kvof(&["store", "k", "--value", "v", "--nsid", "2"]).prints();
    assert_eq!(target.kvof(&["list", "--nsid", "1"]).prints(), "");
    assert_eq!(target.kvof(&["list", "--nsid", "2"]).prints(), "k\n");
    target.kvof(&["list", "--nsid", "3"]).fails(1, &["namespace 3", "NVM"]);
    target.kvof(&["list", "--nsid", "4"]).fails(1, &["Invalid Namespace or Format"]);

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kvof.toml");
    let subsystem = |name: &str| {
        format!(
            "[[subsystem]]\nnqn = \"nqn.2024-01.localhost:{name}\"\nallowed_hosts = \"any\"\n[[subsystem.namespace]]\n\
             nsid = 5\nkind = \"kv\"\nstorage = \"memory\"\nsize = \"16MiB\"\n"
        )
    };
    let text = format!("[[port]]\naddress = \"127.0.0.1:0\"\n{}{}", subsystem("one"), subsystem("two"));
    fs::write(&config, text).unwrap();
    let target = Target::start(&["--config", config.to_str().unwrap()]);
    target
        .kvof(&["list"])
        .fails(2, &["several subsystems", "nqn.2024-01.localhost:one\n", "nqn.2024-01.localhost:two\n", "--nqn"]);
    target.kvof(&["store", "k", "--value", "v", "--nqn", "nqn.2024-01.localhost:two"]).prints();
    assert_eq!(run(target.command().arg("list").env("KVOF_NQN", "nqn.2024-01.localhost:two"), b"").prints(), "k\n");
    assert_eq!(run(target.command().arg("list").env("KVOF_NQN", "nqn.2024-01.localhost:one"), b"").prints(), "");
    target.kvof(&["list", "--nqn", "nqn.2024-01.localhost:three"]).fails(5, &["nqn.2024-01.localhost:three"]);
}

#[test]
fn a_block_namespace_alone_is_no_place_for_keys() {
    let target = Target::start(&["--nvm-memory", "16MiB"]);
    target.kvof(&["list"]).fails(1, &["no Key Value namespace", "1 (NVM)"]);
}

#[test]
fn a_host_that_is_not_allowed_cannot_connect() {
    let target = Target::start(&["--kv-memory", "16MiB", "--allow-host", "nqn.2024-01.localhost:friend"]);
    assert_eq!(target.kvof(&["list", "--hostnqn", "nqn.2024-01.localhost:friend"]).prints(), "");
    target.kvof(&["list", "--hostnqn", "nqn.2024-01.localhost:foe"]).fails(5, &["no subsystem"]);
    target.kvof(&["list", "--hostnqn", "nqn.2024-01.localhost:foe", "--nqn", NQN]).fails(5, &["Connect Invalid Host"]);
    let none = target.kvof(&["discover", "--hostnqn", "nqn.2024-01.localhost:foe"]).prints();
    assert!(!none.contains(NQN), "{none}");
}

#[test]
fn nobody_there_is_told_at_once() {
    let mut target = Target::kv();
    target.kill();
    for args in [&["discover"][..], &["info"], &["list"], &["retrieve", "k"], &["bench"], &["conformance"]] {
        target.kvof(args).fails(5, &["cannot connect", &target.address]);
    }
    target.kvof(&["list", "--nqn", NQN]).fails(5, &["cannot connect", "refused"]);
}

#[test]
fn help_tells_the_exit_codes() {
    let help = run(kvof().arg("--help"), b"").prints();
    for part in ["Exit codes:", "3    a key does not exist", "KVOF_ADDRESS", "conformance", "bench"] {
        assert!(help.contains(part), "{part:?} is not in\n{help}");
    }
    assert!(run(kvof().arg("--version"), b"").prints().starts_with("kvof "));
    let log = Target::kv().kvof(&["-v", "list"]).exits(0).err();
    assert!(log.contains("DEBUG"), "{log}");
}

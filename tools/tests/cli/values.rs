//! store, retrieve, exist and delete: values of every kind and way, conditions, and their exit codes.

use std::fs;

use crate::support::{Target, binary, kvof, run};

#[test]
fn a_text_is_stored_and_comes_back() {
    let target = Target::kv();
    assert_eq!(target.kvof(&["store", "greeting", "--value", "hello"]).prints(), "stored greeting, 5 bytes\n");
    assert_eq!(target.kvof(&["retrieve", "greeting"]).prints(), "hello");
    assert_eq!(target.kvof(&["exist", "greeting"]).prints(), "greeting exists\n");
    assert_eq!(target.kvof(&["exist", "greeting", "-l"]).prints(), "greeting exists, 5 bytes\n");
    assert_eq!(target.kvof(&["delete", "greeting"]).prints(), "deleted greeting\n");
    assert_eq!(target.kvof(&["exist", "greeting"]).exits(3).out(), "greeting does not exist\n");
    target.kvof(&["retrieve", "greeting"]).fails(3, &["greeting does not exist"]);
    target.kvof(&["retrieve", "--raw", "greeting"]).fails(3, &["greeting does not exist"]);
    // The namespace does not make an error of it.
    target.kvof(&["delete", "greeting"]).prints();
}

#[test]
fn bytes_pass_through_pipes_and_files_unchanged() {
    let target = Target::kv();
    for len in [0, 1, 100, 4096, 4097, 1_000_000, 2 << 20] {
        let value = binary(len);
        target.kvof_with(&["store", "0x00ff0a"], &value).exits(0);
        assert_eq!(target.kvof(&["retrieve", "hex:00FF0a"]).exits(0).bytes(), value, "{len} bytes by pipe");
        assert_eq!(target.kvof(&["retrieve", "--raw", "0x00ff0a"]).exits(0).bytes(), value, "{len} bytes, raw");

        let (from, to) = (target.folder.path().join("from"), target.folder.path().join("to"));
        fs::write(&from, &value).unwrap();
        let stored = target.kvof(&["store".as_ref(), "file".as_ref(), "--file".as_ref(), from.as_os_str()]).prints();
        assert_eq!(stored, format!("stored file, {len} bytes\n"));
        target.kvof(&["retrieve".as_ref(), "file".as_ref(), "--output".as_ref(), to.as_os_str()]).prints();
        assert_eq!(fs::read(&to).unwrap(), value, "{len} bytes by file");
    }
    // Explicit standard input, digests, and an address on the command line before the key.
    let value = binary(70_000);
    let address = format!("tcp://{}", target.address);
    run(kvof().args(["store", &address, "k", "--file", "-", "--digests", "both"]), &value).exits(0);
    let read = run(kvof().args(["retrieve", &address, "k", "--digests", "data"]), b"").exits(0);
    assert_eq!(read.bytes(), value);
}

#[test]
fn a_value_that_is_too_long_is_not_cut() {
    let target = Target::kv();
    target.kvof_with(&["store", "k"], &binary((2 << 20) + 1)).fails(1, &["standard input", "2 MiB (2097152 bytes)"]);
    target.kvof(&["exist", "k"]).exits(3);
    target.kvof(&["store", "k", "--file", "/nowhere/at/all"]).fails(1, &["/nowhere/at/all"]);
}

#[test]
fn conditions_decide_and_change_nothing_otherwise() {
    let target = Target::kv();
    target.kvof(&["store", "k", "--value", "0", "--if-exists"]).fails(3, &["k does not exist"]);
    target.kvof(&["store", "k", "--value", "1", "--if-absent"]).prints();
    target.kvof(&["store", "k", "--value", "2", "--if-absent"]).fails(4, &["k exists already"]);
    assert_eq!(target.kvof(&["retrieve", "k"]).prints(), "1");
    target.kvof(&["store", "k", "--value", "-3", "--if-exists", "--no-compress"]).prints();
    assert_eq!(target.kvof(&["retrieve", "k"]).prints(), "-3");
    target.kvof(&["store", "k", "--if-exists", "--if-absent"]).exits(2);
    target.kvof(&["store", "k", "--value", "x", "--file", "y"]).exits(2);
}

#[test]
fn json_has_everything() {
    let target = Target::kv();
    let stored = target.kvof(&["store", "k", "--value", "grün\n", "--json"]).json();
    assert_eq!(stored, serde_json::json!({"key": "k", "length": 6}));
    let text = target.kvof(&["retrieve", "k", "--json"]).json();
    assert_eq!(text, serde_json::json!({"key": "k", "length": 6, "text": "grün\n"}));
    target.kvof_with(&["store", "0x01"], &[0, 0xff]).exits(0);
    let bytes = target.kvof(&["--json", "retrieve", "0x01"]).json();
    assert_eq!(bytes, serde_json::json!({"key": "0x01", "length": 2, "hex": "00ff"}));
    let exists = target.kvof(&["exist", "k", "--json", "--length"]).json();
    assert_eq!(exists, serde_json::json!({"key": "k", "exists": true, "length": 6}));
    let missing = target.kvof(&["exist", "none", "--json"]).exits(3).out();
    assert_eq!(missing.trim(), r#"{"key":"none","exists":false}"#);
    let deleted = target.kvof(&["delete", "k", "--json"]).json();
    assert_eq!(deleted, serde_json::json!({"key": "k", "deleted": true}));
}

#[test]
fn a_wrong_command_line_says_so_before_anything_is_sent() {
    // Nobody listens there.
    let nowhere = "127.0.0.1:1";
    for (args, part) in [
        (&["store", nowhere, "seventeen-letters", "--value", "x"][..], "17 bytes"),
        (&["retrieve", nowhere, "0xabc"], "hexadecimal"),
        (&["retrieve", nowhere, ""], "0 bytes"),
        (&["retrieve", "onlyone"], "ADDRESS and KEY"),
        (&["delete"], "KEY is missing"),
        (&["list"], "ADDRESS is missing"),
        (&["list", "fc://host"], "fc"),
        (&["list", nowhere, "--start", "0xzz"], "0xzz"),
        (&["list", nowhere, "--timeout", "soon"], "soon"),
        (&["exist", nowhere, "k", "--keys-from", "-"], "together"),
        (&["info", nowhere, "--nsid", "0"], "0"),
        (&["info", nowhere, "--hostnqn", ""], "hostnqn"),
        (&["frobnicate"], "frobnicate"),
    ] {
        run(kvof().args(args), b"").fails(2, &[part]);
    }
}

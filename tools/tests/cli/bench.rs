//! bench: every operation, its figures, what it leaves behind, and how it ends when something is wrong.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::Target;

/// As many commands as give figures, however busy the machine is.
const QUICK: [&str; 4] = ["--count", "200", "--warmup", "20ms"];

#[track_caller]
fn bench(target: &Target, args: &[&str]) -> Value {
    let args: Vec<&str> = ["bench", "--json"].iter().chain(args).copied().collect();
    target.kvof(&args).json()
}

#[track_caller]
fn check_figures(result: &Value) {
    let number = |name: &str| result[name].as_f64().unwrap_or_else(|| panic!("{name} of {result}"));
    assert!(number("operations") > 0.0, "{result}");
    let expected = number("operations") / number("seconds");
    assert!((number("operations_per_second") - expected).abs() <= expected * 1e-9, "{result}");
    assert_eq!((number("errors"), number("wrong_values")), (0.0, 0.0), "{result}");
    let latency = |name: &str| result["latency_ns"][name].as_f64().unwrap();
    let order = [0.0, latency("p50"), latency("p90"), latency("p99"), latency("p99_9"), latency("max")];
    assert!(order.is_sorted() && latency("mean") > 0.0 && latency("mean") <= latency("max"), "{result}");
}

#[test]
fn every_operation_has_figures_and_leaves_nothing_behind() {
    let target = Target::kv();
    target.kvof(&["store", "mine", "--value", "precious"]).prints();
    for op in ["store", "retrieve", "exist", "mixed"] {
        let document = bench(&target, &["--op", op, "--keys", "100", "--time", "1s", "--warmup", "50ms"]);
        let [result] = document["results"].as_array().unwrap().as_slice() else { panic!("{document}") };
        check_figures(result);
        assert_eq!((&result["op"], &result["size"], &result["depth"]), (&op.into(), &4096.into(), &32.into()));
        assert!((result["seconds"].as_f64().unwrap() - 1.0).abs() < 0.001, "{result}");
        let moves = result["bytes_per_second"].as_f64();
        let expected = (op != "exist").then(|| result["operations_per_second"].as_f64().unwrap() * 4096.0);
        assert_eq!(moves, expected);
        let parts = result["parts"].as_array().map_or(0, Vec::len);
        assert_eq!(parts, if op == "mixed" { 2 } else { 0 });
    }
    let deleted = bench(&target, &["--op", "delete", "--keys", "500"]);
    check_figures(&deleted["results"][0]);
    assert_eq!(deleted["results"][0]["operations"], 500);
    assert_eq!(target.kvof(&["list"]).prints(), "mine\n");
}

#[test]
fn sizes_and_depths_make_a_table() {
    let target = Target::kv();
    let args = ["bench", "--sizes", "0,4KiB,2MiB", "--depth", "2,9", "--jobs", "2", "--keys", "4", "--digests", "both"];
    let text = target.kvof(&[&args[..], &QUICK[..]].concat()).prints();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.starts_with("OPERATION"))
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .collect();
    let shape: Vec<String> = rows.iter().map(|row| row[..4].join(" ")).collect();
    let expected = ["0 B 2", "0 B 9", "4 KiB 2", "4 KiB 9", "2 MiB 2", "2 MiB 9"];
    assert_eq!(shape, expected.map(|row| format!("retrieve {row}")), "{text}");
    assert!(rows.iter().all(|row| row.len() == 13 && row[12] == "0"), "{text}");
    assert!(
        text.contains("2 jobs, 2 I/O queues, digests of header and data, 200 commands after 20 ms of warm-up"),
        "{text}"
    );
}

#[test]
fn a_count_is_exact_and_values_are_verified() {
    let target = Target::kv();
    for op in ["store", "mixed", "retrieve"] {
        for size in ["7", "4KiB", "300000"] {
            let document = bench(
                &target,
                &[
                    "--op", op, "--count", "333", "--warmup", "20ms", "--verify", "--sizes", size, "--keys", "5",
                    "--jobs", "2",
                ],
            );
            check_figures(&document["results"][0]);
            assert_eq!(document["results"][0]["operations"], 333, "{op} of {size}");
            assert_eq!(document["parameters"]["verify"], true);
        }
    }
}

#[test]
fn a_rate_is_kept_and_falling_behind_is_told() {
    let target = Target::kv();
    let args = ["--rate", "500", "--time", "1s", "--warmup", "100ms", "--keys", "50", "--jobs", "2"];
    let args: Vec<&str> = ["bench", "--json"].into_iter().chain(args).collect();
    let kept: Value = serde_json::from_str(&target.kvof(&args).exits(0).out()).unwrap();
    let result = &kept["results"][0];
    check_figures(result);
    let (done, unsent) = (result["operations"].as_u64().unwrap(), result["unsent"].as_u64().unwrap());
    // A busy machine may not have run the benchmark in the last moment.
    assert!(done + unsent == 500 && unsent < 100, "{result}");

    // One at a time, ten million a second: nothing can.
    let args =
        ["bench", "--json", "--rate", "10000000", "--depth", "1", "--time", "300ms", "--warmup", "50ms", "--keys", "5"];
    let behind = target.kvof(&args).fails(0, &["did not keep up"]);
    let document: Value = serde_json::from_str(&behind.out()).unwrap();
    let result = &document["results"][0];
    assert!(result["unsent"].as_u64().unwrap() > 1_000_000, "{result}");
    // The last command that was sent was due soon after the first, and has waited for most of the time since.
    assert!(result["latency_ns"]["max"].as_u64().unwrap() > 200_000_000, "{result}");
}

/// Measures while the target stands still for [`STALL`] once, and gives the result.
fn measure_a_stall(args: &[&str]) -> Value {
    let target = Target::kv();
    let common = ["bench", "--json", "--time", "2s", "--warmup", "100ms", "--keys", "20"];
    let running = target.begin(&[&common[..], args].concat());
    wait_for_keys(&target, 20);
    thread::sleep(Duration::from_millis(800));
    target.signal("STOP");
    thread::sleep(STALL);
    target.signal("CONT");
    // Without --rate there is nothing to warn of; with it a slow machine may not have kept up.
    let document: Value = serde_json::from_str(&running.end().exits(0).out()).unwrap();
    document["results"][0].clone()
}

const STALL: Duration = Duration::from_millis(60);

/// A target that stands still for 60 of 2000 ms lets 3 % of the commands that are due wait for up to that long. Whoever only
/// sends the next command after an answer sees a single slow one.
#[test]
fn a_stall_counts_for_all_that_were_due_meanwhile() {
    let open = measure_a_stall(&["--rate", "1000", "--depth", "8"]);
    check_figures(&open);
    let millis = |result: &Value, name: &str| result["latency_ns"][name].as_f64().unwrap() / 1e6;
    assert!(millis(&open, "p99_9") > 45.0, "{open}");
    // The last third of those that waited did so for less than 20 ms: 1 % of all for more than 40.
    assert!(millis(&open, "p99") > 30.0, "{open}");
    let closed = measure_a_stall(&["--depth", "1"]);
    check_figures(&closed);
    assert!(millis(&closed, "max") > 45.0, "{closed}");
    assert!(millis(&closed, "p99") < millis(&open, "p99"), "{closed}");
    // So many commands that a single one is beyond any percentile.
    assert!(closed["operations"].as_u64().unwrap() > 200, "{closed}");
}

#[test]
fn idle_connections_are_there_while_it_is_measured() {
    let target = Target::kv();
    let args = ["--idle-connections", "99", "--keep-alive", "2s", "--time", "3s", "--keys", "5", "--rate", "200"];
    let args: Vec<&str> = ["bench", "--json"].into_iter().chain(args).collect();
    let document: Value = serde_json::from_str(&target.kvof(&args).exits(0).out()).unwrap();
    assert_eq!(document["parameters"]["idle_connections"], 100);
    check_figures(&document["results"][0]);
    let text = target.kvof(&[&["bench", "--idle-connections", "2", "--keys", "5"], &QUICK[..]].concat()).prints();
    assert!(text.contains("1 I/O queue, 2 idle connections, 200 commands"), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("target.toml");
    let nqn = "nqn.2024-01.localhost:few";
    let text = format!(
        "[limits]\nconnections = 10\n[[port]]\naddress = \"127.0.0.1\"\n[[subsystem]]\nnqn = {nqn:?}\n\
         allowed_hosts = \"any\"\n[[subsystem.namespace]]\nnsid = 1\nkind = \"kv\"\nstorage = \"memory\"\nsize = \"4MiB\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let full = Target::start(&["--config", config.to_str().unwrap()]);
    let args = ["bench", "--nqn", nqn, "--idle-connections", "20"];
    full.kvof(&args).fails(5, &["20 idle connections only 8", "limits.connections"]);
}

#[test]
fn a_wrong_value_is_noticed() {
    let target = Target::kv();
    for (value, verify, reason) in
        [("short", &[][..], "5 bytes instead of 4096"), ("long", &["--verify"], "what was stored")]
    {
        let args = ["bench", "--time", "60s", "--warmup", "0", "--keys", "8", "--json"];
        let running = target.begin(&[&args[..], verify].concat());
        wait_for_keys(&target, 8);
        let keys = target.kvof(&["list", "--prefix", "kvb"]).prints();
        let key = keys.lines().next().unwrap();
        let value = if value == "long" { vec![b'x'; 4096] } else { value.into() };
        target.kvof_with(&["store", key], &value).exits(0);
        thread::sleep(Duration::from_secs(1));
        running.interrupt();
        let ran = running.end().fails(6, &["values were wrong", key, reason]);
        let document: Value = serde_json::from_str(&ran.out()).unwrap();
        assert!(document["results"][0]["wrong_values"].as_u64().unwrap() > 0, "{document}");
    }
}

#[test]
fn blocks_are_only_written_with_leave() {
    let target = Target::start(&["--kv-memory", "16MiB", "--nvm-memory", "16MiB"]);
    let read = bench(&target, &[&QUICK[..], &["--op", "read", "--sizes", "4KiB,64KiB"]].concat());
    assert_eq!(read["target"]["nsid"], 2);
    for result in read["results"].as_array().unwrap() {
        check_figures(result);
    }
    target.kvof(&["bench", "--op", "write"]).fails(2, &["--overwrite"]);
    target.kvof(&["bench", "--nvm", "--op", "mixed"]).fails(2, &["--overwrite"]);
    target.kvof(&["bench", "--nvm", "--op", "store"]).fails(2, &["read, write or mixed"]);
    target.kvof(&["bench", "--op", "read", "--sizes", "1000"]).fails(2, &["whole blocks of 4096"]);
    for op in ["write", "mixed"] {
        let args = ["--nvm", "--op", op, "--overwrite", "--verify", "--sizes", "8KiB", "--depth", "4"];
        check_figures(&bench(&target, &[&QUICK[..], &args[..]].concat())["results"][0]);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_cleaned_up() {
    let target = Target::start(&["--kv-memory", "2MiB"]);
    target.kvof(&["bench", "--sizes", "3MiB"]).fails(2, &["2 MiB (2097152 bytes)", "3145728"]);
    let full = ["bench", "--keys", "100", "--sizes", "64KiB"];
    target.kvof(&[&full[..], &QUICK[..]].concat()).fails(1, &["storing the values", "Capacity Exceeded"]);
    assert_eq!(target.kvof(&["list"]).prints(), "");
    // The operation itself fails: that is counted, shown, and the exit code.
    let store = [&full[..], &QUICK[..], &["--op", "store", "--json"]].concat();
    let failed = target.kvof(&store).fails(1, &["commands failed", "Capacity Exceeded"]);
    let document: Value = serde_json::from_str(&failed.out()).unwrap();
    assert!(document["results"][0]["errors"].as_u64().unwrap() > 0, "{document}");
    assert_eq!(target.kvof(&["list"]).prints(), "");
}

#[test]
fn an_interrupted_run_reports_and_cleans_up() {
    let target = Target::kv();
    let running = target.begin(&["bench", "--time", "60s", "--warmup", "0", "--keys", "50", "--json"]);
    wait_for_keys(&target, 50);
    thread::sleep(Duration::from_secs(1));
    running.interrupt();
    let started = Instant::now();
    let ran = running.end().exits(130);
    assert!(started.elapsed() < Duration::from_secs(20));
    let document: Value = serde_json::from_slice(ran.bytes()).unwrap();
    assert_eq!(document["interrupted"], true);
    check_figures(&document["results"][0]);
    let seconds = document["results"][0]["seconds"].as_f64().unwrap();
    assert!(seconds > 0.1 && seconds < 20.0, "{document}");
    assert_eq!(target.kvof(&["list"]).prints(), "");
}

#[test]
fn a_target_that_goes_away_ends_the_run() {
    let mut target = Target::kv();
    let running = target.begin(&["bench", "--time", "60s", "--warmup", "0", "--keys", "50"]);
    wait_for_keys(&target, 50);
    thread::sleep(Duration::from_millis(200));
    target.kill();
    running.end().fails(5, &["connection", "lost"]);
}

fn wait_for_keys(target: &Target, count: usize) {
    let late = Instant::now() + Duration::from_secs(20);
    while target.kvof(&["list", "--count"]).prints().trim().parse::<usize>().unwrap() < count {
        assert!(Instant::now() < late, "the benchmark has not begun");
        thread::sleep(Duration::from_millis(20));
    }
}

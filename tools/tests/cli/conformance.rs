//! conformance: the whole suite passes, leaves other data alone, and says what it does.

use std::collections::BTreeSet;

use crate::support::{Target, kvof, run};

#[test]
fn every_case_passes_in_both_profiles_and_other_data_stay() {
    let target = Target::kv();
    target.kvof(&["store", "mine", "--value", "precious"]).prints();
    for profile in ["standard", "kvof"] {
        let text = target.kvof(&["conformance", "--profile", profile]).prints();
        let summary = text.lines().last().unwrap();
        assert!(summary.contains(" passed, 0 failed, "), "{text}");
        let passed = text.lines().filter(|line| line.starts_with("ok ")).count();
        assert!(passed > 40 && summary.starts_with(&format!("{passed} passed")), "{text}");
    }
    assert_eq!(target.kvof(&["list"]).prints(), "mine\n");
    assert_eq!(target.kvof(&["retrieve", "mine"]).prints(), "precious");
}

#[test]
fn cases_can_be_listed_chosen_and_repeated() {
    let cases = run(kvof().args(["conformance", "--list", "--json"]), b"").json();
    let names: BTreeSet<&str> = cases.as_array().unwrap().iter().map(|case| case["name"].as_str().unwrap()).collect();
    assert!(names.len() > 40 && names.contains("key.lengths"));
    let text = run(kvof().args(["conformance", "--list", "--filter", "key."]), b"").prints();
    let listed = text.lines().skip(1).count();
    assert_eq!(listed, names.iter().filter(|name| name.contains("key.")).count());
    run(kvof().args(["conformance", "--filter", "no such case"]), b"").fails(2, &["no such case", "--list"]);

    let target = Target::kv();
    let run = target.kvof(&["conformance", "--filter", "retrieve.", "--seed", "7", "--json"]).json();
    let cases = run["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    assert!(
        cases.iter().all(|case| case["outcome"] == "passed" && case["name"].as_str().unwrap().contains("retrieve."))
    );
    assert_eq!((&run["passed"], &run["failed"], &run["seed"]), (&cases.len().into(), &0.into(), &7.into()));
}

#[test]
fn a_target_that_breaks_a_rule_fails() {
    // A full namespace cannot store: no case that stores can pass.
    let target = Target::start(&["--kv-memory", "2MiB"]);
    target.kvof_with(&["store", "large"], &vec![1; 1900 << 10]).exits(0);
    let text = target.kvof(&["conformance", "--filter", "value."]).exits(6).out();
    assert!(text.contains("FAIL  value.") && text.contains("Capacity Exceeded"), "{text}");
    assert_eq!(target.kvof(&["list"]).prints(), "large\n");
}

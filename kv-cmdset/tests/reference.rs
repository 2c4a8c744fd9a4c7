//! The reference model passes the conformance suite, in every shape in which a namespace may come.

use kvof_kv::conformance::{CaseReport, Outcome, Profile, RunOptions, cases, run};
use kvof_kv::model::{ReferenceConfig, ReferenceStore, StorePort};
use kvof_kv::{Key, KvLimits, KvPort, StoreOptions};

fn port(limits: KvLimits, max_transfer: u32) -> StorePort<ReferenceStore> {
    let config = ReferenceConfig { limits, capacity: 64 << 20, slot_quota: 8 << 20 };
    StorePort::new(ReferenceStore::new(config), 3, max_transfer, "reference model")
}

fn run_all(port: &dyn KvPort, profile: Profile) -> Vec<CaseReport> {
    let options = RunOptions { profile, ..RunOptions::default() };
    let mut reports = Vec::new();
    let summary = run(port, &options, &mut |report| reports.push(report.clone()));
    let failed: Vec<_> = reports.iter().filter(|r| matches!(r.outcome, Outcome::Failed(_))).collect();
    assert!(summary.ok(), "seed {:#x}: {failed:#?}", summary.seed);
    assert_eq!(reports.len(), cases().count());
    reports
}

fn skipped(reports: &[CaseReport]) -> Vec<&'static str> {
    reports.iter().filter(|r| matches!(r.outcome, Outcome::Skipped(_))).map(|r| r.name).collect()
}

const USUAL: KvLimits = KvLimits { kvkml: 16, kvvml: 2 << 20, mnks: 0, novg: 4096 };

#[test]
fn nothing_is_skipped_but_what_cannot_be() {
    let port = port(USUAL, 4 << 20);
    assert_eq!(skipped(&run_all(&port, Profile::Kvof)), ["key.length_over_kvkml"]);
    assert_eq!(skipped(&run_all(&port, Profile::Standard)), ["key.length_over_kvkml", "list.past_the_end"]);
}

#[test]
fn the_namespace_is_left_as_it_was() {
    let port = port(USUAL, 4 << 20);
    let foreign: Vec<(Key, Vec<u8>)> = (0..300_u32)
        .map(|n| (Key::new(&n.to_le_bytes()[..1 + (n % 4) as usize]).unwrap(), vec![n as u8; n as usize]))
        .collect();
    for (key, value) in &foreign {
        assert!(port.store(key, StoreOptions::empty(), value).unwrap().status.is_success());
    }
    let before = port.with_store(|store| kvof_kv::KvStore::usage(store));
    let reports = run_all(&port, Profile::Kvof);
    assert_eq!(port.with_store(|store| kvof_kv::KvStore::usage(store)), before);
    assert!(skipped(&reports).contains(&"list.empty"));
    for (key, value) in foreign.into_iter().collect::<std::collections::BTreeMap<_, _>>() {
        let mut buffer = vec![0; 300];
        let reply = port.retrieve(&key, &mut buffer).unwrap();
        assert_eq!(&buffer[..reply.dw0 as usize], value);
    }
}

#[test]
fn small_limits() {
    for (kvkml, kvvml, max_transfer) in [(8, 4096, 4096), (12, 100_000, 65_536), (5, 4097, 65_536), (16, 1 << 20, 4096)]
    {
        run_all(&port(KvLimits { kvkml, kvvml, mnks: 10_000, novg: 0 }, max_transfer), Profile::Kvof);
    }
}

#[test]
fn a_namespace_too_small_for_the_suite_is_not_ok() {
    for limits in [KvLimits { kvvml: 100, ..USUAL }, KvLimits { mnks: 100, ..USUAL }] {
        let summary = run(&port(limits, 1 << 20), &RunOptions::default(), &mut |_| {});
        assert!(!summary.ok());
        assert_eq!(summary.skipped, cases().count());
    }
}

#[test]
fn case_names_are_unique_and_the_filter_selects_by_them() {
    let mut names: Vec<_> = cases().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases().count());
    let options = RunOptions { filter: Some("list.".to_owned()), ..RunOptions::default() };
    let mut ran = Vec::new();
    run(&port(USUAL, 1 << 20), &options, &mut |report| ran.push(report.name));
    assert!(!ran.is_empty() && ran.iter().all(|name| name.starts_with("list.")), "{ran:?}");
}

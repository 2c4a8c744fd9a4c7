//! The reference model passes the conformance suite, in every shape in which a namespace may come.

use kvof_kv::conformance::{CaseReport, Outcome, Profile, RunOptions, cases, run};
use kvof_kv::model::{ReferenceConfig, ReferenceStore, StorePort};
use kvof_kv::{Data, Key, KvCommand, KvLimits, KvPort, PortError, PortInfo, Reply, StoreOptions};

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

/// A path with the habits of the kernel's passthrough: buffers of odd length come back by way of zeroed pages, foreign
/// NSIDs are refused before anything is sent, and there are no admin commands here.
struct KernelLike(StorePort<ReferenceStore>);

impl KvPort for KernelLike {
    fn info(&self) -> PortInfo {
        self.0.info()
    }

    fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
        if command.nsid != self.0.info().nsid {
            return Err(PortError::Unsupported("foreign NSID".to_owned()));
        }
        match data {
            Data::In(bytes) if bytes.len() % 4 != 0 => {
                let mut pages = vec![0; bytes.len()];
                let reply = self.0.execute(command, Data::In(&mut pages));
                bytes.copy_from_slice(&pages);
                reply
            }
            data => self.0.execute(command, data),
        }
    }

    fn keeps_untransferred(&self) -> bool {
        false
    }
}

#[test]
fn a_path_like_the_kernels_passes() {
    let reports = run_all(&KernelLike(port(USUAL, 1 << 20)), Profile::Kvof);
    let expected = [
        "key.length_over_kvkml",
        "delete.ednek",
        "nsid.zero",
        "nsid.broadcast",
        "nsid.unused",
        "identify.namespace",
        "concurrent.delete",
    ];
    assert_eq!(skipped(&reports), expected);
}

#[test]
fn a_lost_path_fails_every_case() {
    struct Lost(StorePort<ReferenceStore>);
    impl KvPort for Lost {
        fn info(&self) -> PortInfo {
            self.0.info()
        }

        fn execute(&self, _: &KvCommand, _: Data<'_>) -> Result<Reply, PortError> {
            Err(PortError::Failed("connection lost".to_owned()))
        }
    }
    let mut failed = 0;
    let summary = run(&Lost(port(USUAL, 1 << 20)), &RunOptions::default(), &mut |report| {
        if let Outcome::Failed(reason) = &report.outcome {
            assert!(reason.contains("connection lost"), "{reason}");
            failed += 1;
        }
    });
    assert_eq!((summary.passed, summary.failed, summary.skipped), (0, failed, cases().count() - failed));
    // What needs more than this path offers is skipped before it sends anything.
    assert!(summary.skipped <= 2, "{summary:?}");
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

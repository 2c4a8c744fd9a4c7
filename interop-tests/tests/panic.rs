//! The list of checks when the guest's kernel panics, which says nothing of what was checked: what had not ended runs again.

use std::fs;
use std::path::PathBuf;

use kvof_interop::binaries::Binaries;
use kvof_interop::checks::{self, Transport};
use kvof_interop::{Kernel, unavailable};

/// Checks that need no target, one for each text.
fn check_files(folder: &tempfile::TempDir, texts: &[&str]) -> Vec<PathBuf> {
    let write = |(number, text)| {
        let path = folder.path().join(format!("{number}0-check-{number}.sh"));
        fs::write(&path, format!("# A check of the list itself.\n{text}\n")).unwrap();
        path
    };
    (1..).zip(texts).map(write).collect()
}

#[test]
fn a_check_that_panics_the_kernel_is_run_again_once_and_has_then_failed() {
    if let Some(reason) = unavailable("6.12") {
        assert!(
            std::env::var("KVOF_REQUIRE_GUEST").is_err(),
            "KVOF_REQUIRE_GUEST is set, but no guest can run: {reason}"
        );
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files = check_files(&folder, &["echo passes", "echo c >/proc/sysrq-trigger; sleep 60", "echo never"]);
    // None of the programs runs.
    let binaries = Binaries {
        target: "/nowhere".into(),
        kvof: "/nowhere".into(),
        guest: "/nowhere".into(),
        rdma_tests: Vec::new(),
    };
    let mut seen = Vec::new();
    let kernel = Kernel::find("6.12").unwrap();
    let report =
        checks::run(&kernel, Transport::Tcp, &binaries, &files, |check| seen.push(check.name.clone())).unwrap();

    assert_eq!(seen, ["check-1", "check-2", "check-3"], "what had passed is not run again: {report}");
    assert_eq!(report.checks.iter().map(|check| check.ok).collect::<Vec<_>>(), [true, false, false], "{report}");
    assert_eq!(report.panics.iter().map(|panic| panic.check.as_str()).collect::<Vec<_>>(), ["check-2", "check-2"]);
    for panic in &report.panics {
        assert!(panic.words.contains("sysrq triggered crash"), "{panic}");
    }
    assert!(!report.ok());
    assert!(report.to_string().ends_with("the kernel panicked during check-2, check-2"), "{report}");
}

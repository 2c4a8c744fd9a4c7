//! Every check of `interop-tests/checks/`, on each kernel that is supported: one boot a kernel, one after the other.
//!
//! Without the emulator or the kernels the tests pass and say `skipped`, unless `KVOF_REQUIRE_GUEST=1`.

use std::sync::{Mutex, OnceLock};

use kvof_interop::binaries::Binaries;
use kvof_interop::{Kernel, checks, unavailable};

/// One guest at a time: two would share two cores, and time limits are part of what is checked.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn linux_6_12() {
    every_check_passes_on("6.12");
}

#[test]
fn linux_6_1() {
    every_check_passes_on("6.1");
}

fn every_check_passes_on(series: &str) {
    if let Some(reason) = unavailable(series) {
        assert!(
            std::env::var("KVOF_REQUIRE_GUEST").is_err(),
            "KVOF_REQUIRE_GUEST is set, but no guest can run: {reason}"
        );
        println!("skipped: {reason}");
        return;
    }
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let kernel = Kernel::find(series).expect("it was there a moment ago");
    let files = checks::files(None).expect("the checks are part of the repository");
    let report =
        checks::run(&kernel, binaries(), &files, |check| println!("{check}")).expect("the guest can be started");
    println!("{report}\n");

    let ran: Vec<&str> = report.checks.iter().map(|check| check.name.as_str()).collect();
    let expected: Vec<String> = files.iter().map(|file| checks::name(file)).collect();
    assert_eq!(ran, expected, "every check runs, once and in order");
    assert!(report.ok(), "checks failed on Linux {}", report.kernel);
}

fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| Binaries::build().expect("the target and kvof-guest can be built"))
}

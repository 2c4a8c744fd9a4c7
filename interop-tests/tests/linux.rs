//! Every check of `interop-tests/checks/`, on each kernel that is supported and by each transport: one boot for each.
//!
//! Without the emulator or the kernels the tests pass and say `skipped`, unless `KVOF_REQUIRE_GUEST=1`.

use std::sync::{Mutex, OnceLock};

use kvof_interop::binaries::Binaries;
use kvof_interop::checks::{self, Transport};
use kvof_interop::{Kernel, unavailable};

/// One guest at a time: two would share two cores, and time limits are part of what is checked.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn linux_6_12_tcp() {
    every_check_passes_on("6.12", Transport::Tcp);
}

#[test]
fn linux_6_12_rdma() {
    every_check_passes_on("6.12", Transport::Rdma);
}

#[test]
fn linux_6_1_tcp() {
    every_check_passes_on("6.1", Transport::Tcp);
}

#[test]
fn linux_6_1_rdma() {
    every_check_passes_on("6.1", Transport::Rdma);
}

fn every_check_passes_on(series: &str, transport: Transport) {
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
    let files = checks::files(transport, None).expect("the checks are part of the repository");
    assert!(!files.is_empty(), "there are checks for {}", transport.name());
    let report = checks::run(&kernel, transport, binaries(), &files, |check| println!("{check}"))
        .expect("the guest can be started");
    println!("{report}\n");

    let ran: Vec<&str> = report.checks.iter().map(|check| check.name.as_str()).collect();
    let expected: Vec<String> = files.iter().map(|file| checks::name(file)).collect();
    assert_eq!(ran, expected, "every check runs, once and in order");
    assert!(report.ok(), "checks failed on Linux {} by {}", report.kernel, transport.name());
}

fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| Binaries::build().expect("the programs under test can be built"))
}

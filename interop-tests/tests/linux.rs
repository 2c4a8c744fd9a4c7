//! Every check of `interop-tests/checks/`, on each kernel that is supported and by each transport: one boot for each.
//!
//! One guest for each transport runs at a time. Two of RDMA would be too much for two cores: Soft-RoCE gives an answer half a second, and an
//! emulated processor that has to wait for a real one does not keep that.
//!
//! Without the emulator or the kernels the tests pass and say `skipped`, unless `KVOF_REQUIRE_GUEST=1`.

use std::sync::OnceLock;

use kvof_interop::binaries::Binaries;
use kvof_interop::checks::{self, Transport};
use kvof_interop::{Kernel, unavailable};

#[test]
fn tcp() {
    every_check_passes_by(Transport::Tcp);
}

#[test]
fn rdma() {
    every_check_passes_by(Transport::Rdma);
}

fn every_check_passes_by(transport: Transport) {
    let mut failed = Vec::new();
    for series in ["6.12", "6.1"] {
        if let Some(reason) = unavailable(series) {
            assert!(
                std::env::var("KVOF_REQUIRE_GUEST").is_err(),
                "KVOF_REQUIRE_GUEST is set, but no guest can run: {reason}"
            );
            println!("skipped: {reason}");
        } else if !every_check_passes(&Kernel::find(series).expect("it was there a moment ago"), transport) {
            failed.push(series);
        }
    }
    assert!(failed.is_empty(), "checks failed on Linux {} by {}", failed.join(" and "), transport.name());
}

fn every_check_passes(kernel: &Kernel, transport: Transport) -> bool {
    let files = checks::files(kernel, transport, None).expect("the checks are part of the repository");
    assert!(!files.is_empty(), "there are checks for {}", transport.name());
    // Two guests print at the same time.
    let place = format!("{:<4} {:<4}", kernel.series, transport.name());
    let report = checks::run(kernel, transport, binaries(), &files, |check| println!("{place} {check}"))
        .expect("the guest can be started");
    println!("{report}\n");

    let ran: Vec<&str> = report.checks.iter().map(|check| check.name.as_str()).collect();
    let expected: Vec<String> = files.iter().map(|file| checks::name(file)).collect();
    assert_eq!(ran, expected, "every check runs, once and in order");
    report.ok()
}

fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| Binaries::build().expect("the programs under test can be built"))
}

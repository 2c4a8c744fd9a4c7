//! The guest itself: what goes wrong in it must not look like success, and nothing it does may outlive it or reach the host.

use std::path::Path;
use std::time::Duration;

use kvof_interop::{End, Guest, Kernel, unavailable};

fn guest() -> Option<Guest> {
    if let Some(reason) = unavailable("6.12") {
        assert!(
            std::env::var("KVOF_REQUIRE_GUEST").is_err(),
            "KVOF_REQUIRE_GUEST is set, but no guest can run: {reason}"
        );
        println!("skipped: {reason}");
        return None;
    }
    Kernel::find("6.12").ok().map(|kernel| Guest::new(kernel).timeout(Duration::from_secs(60)))
}

#[test]
fn the_script_has_its_directory_environment_and_exit_code_and_cannot_write_to_the_host() {
    let Some(guest) = guest() else { return };
    let host = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = "set -e; uname -r; pwd; echo \"$WORD\"; touch here && ls; echo left >/run/kvof/file; ip -o link | wc -l; exit 42";
    let outcome = guest.env("WORD", "it's a 'word'").run(host.path(), script, |_| {}).unwrap();
    let output = outcome.file("output");
    assert_eq!(outcome.end, End::Exit(42), "{outcome}");
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].starts_with("6.12."), "{output}");
    assert_eq!(
        lines[1..],
        [host.path().to_str().unwrap(), "it's a 'word'", "here", "1"],
        "its only network is loopback"
    );
    assert_eq!(outcome.file("file"), "left\n");
    assert!(!host.path().join("here").exists(), "the guest wrote to the host's file system");
}

#[test]
fn a_panic_and_a_hang_are_told_apart_from_an_end() {
    let Some(guest) = guest() else { return };
    let outcome = guest.run(Path::new("/"), "echo c >/proc/sysrq-trigger; sleep 60", |_| {}).unwrap();
    assert_eq!(outcome.end, End::Died, "{outcome}");
    assert!(outcome.boot.is_some(), "{outcome}");
    let message = outcome.exit_code().unwrap_err().to_string();
    assert!(message.contains("sysrq triggered crash"), "the console is part of the message: {message}");

    // The time counts from the script's first line, however long the boot takes.
    let limit = Duration::from_secs(10);
    let outcome = guest.timeout(limit).run(Path::new("/"), "echo started; sleep 600", |_| {}).unwrap();
    assert_eq!(outcome.end, End::TimedOut, "{outcome}");
    assert_eq!(outcome.file("output"), "started\n", "{outcome}");
    assert!(outcome.boot.is_some_and(|boot| outcome.total >= boot + limit), "{outcome}");
    assert_eq!(outcome.qemu, None, "it was killed: {outcome}");
}

#[test]
fn a_boot_that_fails_is_repeated_and_never_taken_for_a_result_of_the_script() {
    let Some(guest) = guest() else { return };
    // A kernel that finds no first process, and no root to look for one.
    let outcome = guest.cmdline("rdinit=/nowhere").run(Path::new("/"), "exit 0", |_| {}).unwrap();
    assert_eq!((outcome.end, outcome.boot, outcome.boots), (End::Died, None, 3), "{outcome}");
    let message = outcome.exit_code().unwrap_err().to_string();
    assert!(message.contains("never got to the script; attempt 3"), "{message}");
    assert!(message.contains("Kernel panic"), "the console is part of the message: {message}");
}

#[test]
fn a_script_is_never_run_twice() {
    let Some(guest) = guest() else { return };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut seen = Vec::new();
    let script = "echo once >>/run/kvof/runs; echo c >/proc/sysrq-trigger; sleep 60";
    let outcome = guest
        .run(dir.path(), script, |share| {
            if share.join("runs").exists() && seen.last().is_none_or(|last| last != share) {
                seen.push(share.to_owned());
            }
        })
        .unwrap();
    assert_eq!(outcome.end, End::Died, "{outcome}");
    assert_eq!((outcome.file("runs").as_str(), seen.len()), ("once\n", 1), "{outcome}");
}

#[test]
fn an_emulator_that_does_not_start_says_why() {
    let Some(guest) = guest() else { return };
    // More memory than an address has room for.
    let outcome = guest.memory_mib(u32::MAX).run(Path::new("/"), "exit 0", |_| {}).unwrap();
    assert_eq!((outcome.end, outcome.boot), (End::Died, None), "{outcome}");
    assert!(outcome.qemu.is_some_and(|status| !status.success()), "{outcome}");
    assert!(outcome.to_string().contains("QEMU said:\nqemu-system-x86_64: "), "{outcome}");
}

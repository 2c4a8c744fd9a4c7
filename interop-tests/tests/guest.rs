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
    assert_eq!(outcome.end, End::Exit(42), "{output}{}", outcome.file("console"));
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
    assert_eq!(outcome.end, End::Died);
    let message = outcome.exit_code().unwrap_err().to_string();
    assert!(message.contains("sysrq triggered crash"), "the console is part of the message: {message}");

    let outcome =
        guest.timeout(Duration::from_secs(12)).run(Path::new("/"), "echo started; sleep 600", |_| {}).unwrap();
    assert_eq!(outcome.end, End::TimedOut);
    assert_eq!(outcome.file("output"), "started\n");
    assert!(outcome.total < Duration::from_secs(15));
}

//! doctor: what it says of this machine, whatever that is, and the way to a target.

use std::{
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{Ran, Target, kvof, run};

const NQN: &str = "nqn.2024-01.localhost:kvof";

fn doctor(args: &[&str]) -> Ran {
    run(kvof().arg("doctor").args(args), b"")
}

/// The document, and the exit code that its findings ask for.
fn facts() -> (Value, i32) {
    let ran = doctor(&["--json"]);
    let document: Value = serde_json::from_slice(ran.bytes()).unwrap();
    let broken = document["findings"].as_array().unwrap().iter().any(|finding| finding["level"] == "problem");
    (document, i32::from(broken))
}

#[test]
fn the_document_agrees_with_the_machine() {
    let (document, code) = facts();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(document["machine"]["kernel"], kernel.trim());
    assert!(document["machine"]["memory"].as_u64().unwrap() > 100 << 20);
    assert!(document["reach"].is_null());
    // The kernel's list of devices is the truth.
    let devices = document["rdma"]["devices"].as_array().unwrap();
    let mut names: Vec<String> = std::fs::read_dir("/sys/class/infiniband")
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let found: Vec<&str> = devices.iter().map(|device| device["name"].as_str().unwrap()).collect();
    assert_eq!(found, names);
    doctor(&["--json"]).exits(code);
}

#[test]
fn people_are_told_the_same() {
    let (document, code) = facts();
    let ran = doctor(&[]).exits(code);
    assert_eq!(ran.err(), "");
    let text = ran.out();
    for section in ["Machine\n", "\nRDMA\n", "\nLinux as an NVMe host", "\nGPU and DPU\n", "\nFindings\n"] {
        assert!(text.contains(section), "{section:?} is not in\n{text}");
    }
    for finding in document["findings"].as_array().unwrap() {
        let line = format!("{}: {}", finding["about"].as_str().unwrap(), finding["what"].as_str().unwrap());
        assert!(text.contains(&line), "{line:?} is not in\n{text}");
    }
    if document["rdma"]["devices"].as_array().unwrap().is_empty() {
        assert!(text.contains("note     rdma: there is no RDMA device"), "{text}");
        assert!(text.contains("Soft-RoCE") || text.contains("rdma link add rxe0"), "{text}");
        assert_eq!(code, 0, "what is not there is not broken:\n{text}");
    }
}

#[test]
fn the_way_to_a_target() {
    let target = Target::kv();
    let address = format!("tcp://{}", target.address);
    let ran = doctor(&[&address, "--json"]).exits(facts().1);
    let document: Value = serde_json::from_slice(ran.bytes()).unwrap();
    let steps = document["reach"]["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["name", "route", "TCP", "discovery", "subsystem"], "{document:#}");
    assert!(steps.iter().all(|step| step["ok"] == true), "{document:#}");
    let last = steps[4]["detail"].as_str().unwrap();
    assert_eq!(last, format!("{NQN}: 1 namespace: 1 (Key Value)"));
    let text = doctor(&[&address]).out();
    assert!(text.contains(&format!("\n{address}\n  ok      name")), "{text}");
}

#[test]
fn the_step_that_fails_is_named_and_is_the_last() {
    let mut target = Target::start(&["--kv-memory", "16MiB", "--allow-host", "nqn.2024-01.localhost:friend"]);
    let address = format!("tcp://{}", target.address);
    let refused = doctor(&[&address, "--hostnqn", "nqn.2024-01.localhost:foe"]).exits(5).out();
    assert!(refused.contains("FAILED  subsystems") && refused.contains("allowed_hosts"), "{refused}");
    doctor(&[&address, "--hostnqn", "nqn.2024-01.localhost:friend"]).exits(facts().1);
    target.kill();
    // The kernel lets go of a dead process's listener when it has taken its io_uring apart, which may be a little later.
    let late = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(&target.address).is_ok() && Instant::now() < late {
        thread::sleep(Duration::from_millis(5));
    }
    let dead = doctor(&[&address]).exits(5).out();
    assert!(dead.contains("FAILED  TCP") && dead.contains("nothing listens on port"), "{dead}");
    assert!(!dead.contains("discovery"), "{dead}");
    let nobody = doctor(&["tcp://no-such-host.invalid:4420"]).exits(5).out();
    assert!(nobody.contains("FAILED  name") && nobody.contains("no-such-host.invalid"), "{nobody}");
}

#[test]
fn somebody_else_who_listens_is_no_target() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = thread::spawn(move || {
        // One connection to see whether it is taken, one to speak NVMe/TCP over.
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let text = doctor(&[&address, "--timeout", "5s"]).exits(5).out();
    answer.join().unwrap();
    assert!(text.contains("ok      TCP") && text.contains("FAILED  discovery"), "{text}");
    assert!(text.contains("does not speak NVMe"), "{text}");
}

#[test]
fn what_is_no_address_is_refused() {
    doctor(&["ftp://host"]).fails(2, &["ftp"]);
    let help = doctor(&["--help"]).prints();
    assert!(help.contains("rdma://HOST:PORT") && help.contains("KVOF_ADDRESS"), "{help}");
}

#[test]
fn rdma_fails_at_the_first_step_that_this_machine_cannot_take() {
    // A machine may have all that RDMA needs, but a loopback address has no RDMA device anywhere.
    let ran = doctor(&["rdma://127.0.0.1:4420", "--timeout", "2s", "--json"]).exits(5);
    let document: Value = serde_json::from_slice(ran.bytes()).unwrap();
    let steps = document["reach"]["steps"].as_array().unwrap();
    let (last, before) = steps.split_last().unwrap();
    assert!(before.iter().all(|step| step["ok"] == true) && last["ok"] == false, "{document:#}");
    let name = last["name"].as_str().unwrap();
    assert!(["connection manager", "address", "route"].contains(&name), "{document:#}");
    assert!(!last["detail"].as_str().unwrap().is_empty(), "{document:#}");
}

#[test]
fn auto_says_which_way_it_took() {
    let target = Target::kv();
    let text = doctor(&[&format!("auto://{}", target.address)]).out();
    assert!(text.contains(&format!("{NQN}: 1 namespace at tcp://{}", target.address)), "{text}");
}

//! Findings about everything but RDMA.

use super::{Finding, Level};
use crate::{
    commands::doctor::machine::{IoUring, Machine},
    units::size,
};

/// Connections that a target lets in by default (`limits.connections`), and other files of one with many cores.
const FILES_WANTED: u64 = 2048 + 64;
const FILES_PER_CORE: u64 = 8;

pub(super) fn judge(machine: &Machine, findings: &mut Vec<Finding>) {
    findings.extend(io_uring(&machine.io_uring));
    findings.extend(huge_pages(machine));
    findings.extend(cpu(machine));
    findings.extend(open_files(machine));
    findings.extend(memory(machine));
}

fn io_uring(ring: &IoUring) -> Option<Finding> {
    if let Some(error) = &ring.error {
        let finding = Finding::new(
            Level::Warning,
            "io_uring",
            format!(
                "there is no io_uring for this process, so kvof-target cannot run here; hosts do not need it ({error})"
            ),
        );
        return Some(match ring.disabled {
            Some(2) => finding.fix("sysctl -w kernel.io_uring_disabled=0"),
            Some(1) => finding.fix(
                "sysctl -w kernel.io_uring_disabled=0, or put the target's user into the group of kernel.io_uring_group",
            ),
            _ => finding
                .fix("Linux 5.15 or newer has it; containers often forbid it by seccomp (docker run --security-opt seccomp=…)"),
        });
    }
    if ring.ring.is_some_and(|ring| ring != "deferred") {
        let what = "the kernel's io_uring lacks DEFER_TASKRUN, which makes a target's cores wait less";
        return Some(Finding::new(Level::Note, "io_uring", what).fix("Linux 6.1 or newer has it"));
    }
    None
}

fn huge_pages(machine: &Machine) -> Option<Finding> {
    (machine.transparent_huge_pages == "never").then(|| {
        Finding::new(
            Level::Warning,
            "huge pages",
            "transparent huge pages are off: buffers are in pages of 4 KiB, which costs time at every transfer",
        )
        .fix("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
    })
}

fn cpu(machine: &Machine) -> Option<Finding> {
    let crc = machine.cpu.crc.contains("software");
    let parity = machine.cpu.parity == "scalar";
    let what = match (crc, parity) {
        (false, false) => return None,
        (true, false) => "CRC-32C is computed without the CPU's instructions",
        (false, true) => "parity is computed without vector instructions",
        (true, true) => "neither CRC-32C nor parity have the CPU's instructions",
    };
    Some(
        Finding::new(Level::Warning, "CPU", format!("{what}, which is much slower"))
            .fix("x86-64 needs SSE4.2, PCLMULQDQ and AVX2, AArch64 the CRC and PMULL extensions; a virtual machine may hide them (-cpu host)"),
    )
}

fn open_files(machine: &Machine) -> Option<Finding> {
    let wanted = FILES_WANTED + FILES_PER_CORE * machine.cores as u64;
    // The target raises the soft limit by itself.
    let hard = machine.limits.open_files.hard?;
    (hard < wanted).then(|| {
        Finding::new(
            Level::Note,
            "open files",
            format!("a target with the default limits.connections wants {wanted} open files; started from here it may have {hard}"),
        )
        .fix("LimitNOFILE=65536 in the systemd unit, or ulimit -n as root")
    })
}

fn memory(machine: &Machine) -> Option<Finding> {
    let wanted = super::rdma::TARGET_MEMORY;
    (machine.memory > 0 && machine.memory < 2 * wanted).then(|| {
        Finding::new(
            Level::Note,
            "memory",
            format!(
                "the machine has {}, and a target with the default configuration may use {} beside its index",
                size(machine.memory),
                size(wanted)
            ),
        )
        .fix("lower reactor.memory, and tier and scratch of the pools")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::machine::Limit;

    fn findings(change: impl FnOnce(&mut Machine)) -> Vec<Finding> {
        let mut machine = Machine { cores: 4, memory: 64 << 30, ..Machine::default() };
        machine.io_uring.ring = Some("deferred");
        machine.transparent_huge_pages = "madvise".to_owned();
        machine.cpu.crc = "x86_64-avx512-vpclmulqdq".to_owned();
        machine.cpu.parity = "avx2".to_owned();
        change(&mut machine);
        let mut findings = Vec::new();
        judge(&machine, &mut findings);
        findings
    }

    #[track_caller]
    fn only(found: &[Finding], level: Level, about: &str, parts: &[&str]) {
        let [finding] = found else { panic!("{found:?}") };
        assert_eq!((finding.level, finding.about.as_str()), (level, about));
        let text = format!("{} {}", finding.what, finding.fix.join(" "));
        parts.iter().for_each(|part| assert!(text.contains(part), "{part} is not in {text}"));
    }

    #[test]
    fn a_good_machine_has_no_finding() {
        assert_eq!(findings(|_| ()), []);
    }

    #[test]
    fn io_uring_that_is_not_there() {
        let without = |disabled| {
            findings(|machine| {
                machine.io_uring = IoUring { disabled, ring: None, error: Some("not permitted".to_owned()) };
            })
        };
        only(&without(Some(2)), Level::Warning, "io_uring", &["not permitted", "io_uring_disabled=0"]);
        only(&without(Some(1)), Level::Warning, "io_uring", &["io_uring_group"]);
        only(&without(None), Level::Warning, "io_uring", &["seccomp", "5.15"]);
        let old = findings(|machine| machine.io_uring.ring = Some("plain"));
        only(&old, Level::Note, "io_uring", &["6.1"]);
    }

    #[test]
    fn what_makes_it_slow() {
        let never = findings(|machine| machine.transparent_huge_pages = "never".to_owned());
        only(&never, Level::Warning, "huge pages", &["echo madvise"]);
        let crc = findings(|machine| machine.cpu.crc = "software-fallback-tables".to_owned());
        only(&crc, Level::Warning, "CPU", &["CRC-32C is"]);
        let parity = findings(|machine| machine.cpu.parity = "scalar".to_owned());
        only(&parity, Level::Warning, "CPU", &["parity is"]);
    }

    #[test]
    fn limits() {
        let files = |hard| findings(|machine| machine.limits.open_files = Limit { soft: Some(1024), hard });
        only(&files(Some(2143)), Level::Note, "open files", &["2144", "2143", "LimitNOFILE"]);
        assert_eq!(files(Some(2144)), []);
        assert_eq!(files(None), []);
        let small = findings(|machine| machine.memory = 1 << 30);
        only(&small, Level::Note, "memory", &["1 GiB", "reactor.memory"]);
    }
}

//! The same devices by `fio` alone: io_uring, O_DIRECT.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::report::Turn;

/// A run of fio over files or devices that are there.
pub(crate) struct Job<'a> {
    pub(crate) devices: &'a [PathBuf],
    pub(crate) read: bool,
    pub(crate) block: u64,
    /// In flight on all devices together.
    pub(crate) depth: usize,
    /// Bytes in all.
    pub(crate) bytes: u64,
    /// Blocks between two flushes of a device; 0: none.
    pub(crate) flush_every: u64,
}

/// Whether fio can be had.
pub(crate) fn is_there() -> bool {
    Command::new("fio").arg("--version").output().is_ok_and(|output| output.status.success())
}

impl Job<'_> {
    pub(crate) fn run(&self) -> Result<Turn> {
        let mut arguments = vec![
            "--output-format=json".to_owned(),
            "--ioengine=io_uring".to_owned(),
            "--direct=1".to_owned(),
            "--thread=1".to_owned(),
            "--allow_file_create=0".to_owned(),
            "--randrepeat=0".to_owned(),
            "--group_reporting=1".to_owned(),
            format!("--bs={}", self.block),
            format!("--rw={}", if self.read { "randread" } else { "write" }),
        ];
        let path = |path: &Path| path.display().to_string().replace(':', "\\:");
        if self.flush_every == 0 {
            // One job that goes from device to device, as the engine's one thread does.
            let names: Vec<String> = self.devices.iter().map(|device| path(device)).collect();
            arguments.extend([
                "--name=all".to_owned(),
                format!("--filename={}", names.join(":")),
                "--file_service_type=roundrobin:1".to_owned(),
                format!("--iodepth={}", self.depth),
                format!("--size={}", self.bytes / self.block * self.block),
            ]);
        } else {
            // A flush waits for what is in flight, so that each device needs a job of its own.
            let share = self.bytes / self.devices.len() as u64 / self.block * self.block;
            arguments.push(format!("--iodepth={}", self.depth.div_ceil(self.devices.len())));
            arguments.push(format!("--fdatasync={}", self.flush_every));
            arguments.push(format!("--size={share}"));
            for (number, device) in self.devices.iter().enumerate() {
                arguments.push(format!("--name=device{number}"));
                arguments.push(format!("--filename={}", path(device)));
            }
        }
        let output = Command::new("fio").args(&arguments).output().context("cannot start fio")?;
        ensure!(output.status.success(), "fio {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Warnings come before the report.
        let report = text.find('{').and_then(|start| text.get(start..)).context("fio printed no report")?;
        let report: Value = serde_json::from_str(report).context("fio's report is no JSON")?;
        let job = &report["jobs"][0];
        ensure!(job["error"] == 0, "fio {}: error {}", arguments.join(" "), job["error"]);
        let part = &job[if self.read { "read" } else { "write" }];
        let number = |name: &str| part[name].as_u64().with_context(|| format!("fio's report has no {name}"));
        let (bytes, milliseconds) = (number("io_bytes")?, number("runtime")?);
        // Milliseconds are coarse; its own rate is exact.
        let rate = number("bw_bytes")?.max(1);
        let elapsed = Duration::from_secs_f64(bytes as f64 / rate as f64);
        ensure!(elapsed.as_millis().abs_diff(milliseconds.into()) < 1000, "fio's report contradicts itself");
        Ok(Turn { ops: number("total_ios")?, bytes, device_bytes: bytes, elapsed })
    }
}

//! Store and Retrieve in a loop while the connection comes and goes: no value may come back wrong, whatever is interrupted.
//!
//! Every value names its key and version. While nothing is interrupted the version must be the last one stored. A Store that was
//! interrupted may have taken effect or not, and a target that keeps values in memory and was restarted has lost them: after an
//! interruption a key may be missing, or hold any version that was sent. A target that keeps them on devices has to give back what it
//! acknowledged, or what was sent after that.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use kvof_kv::{Key, KvPort, PortError, Reply, Status, StoreOptions};

use crate::pattern::Label;

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How long; with a file in `until`, how long at most.
    pub(crate) seconds: u64,
    /// The loop ends with the first success after this file is there: whatever was interrupted goes on.
    pub(crate) until: Option<PathBuf>,
    pub(crate) threads: u64,
    /// Keys per thread.
    pub(crate) keys: u64,
    /// Part of the keys: loops that run at the same time need different ones.
    pub(crate) tag: u16,
    /// Bytes of each value.
    pub(crate) size: usize,
    /// What was acknowledged outlives the target.
    pub(crate) durable: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Commands that completed with success.
    pub(crate) completed: u64,
    /// Commands that ended with a path error or a refused call: the connection was away.
    pub(crate) interrupted: u64,
    /// Values that were away after an interruption.
    pub(crate) lost: u64,
    /// Completions with a status that nothing explains.
    pub(crate) errors: u64,
    /// Bytes that are not what the value's own label, or the last acknowledged Store, says.
    pub(crate) wrong_bytes: u64,
    /// Longest time between two successful completions of a thread, milliseconds.
    pub(crate) longest_gap_ms: u64,
}

/// Runs the loop.
///
/// # Errors
/// When a thread cannot be joined.
pub(crate) fn run(port: &dyn KvPort, options: &Options) -> Result<Report> {
    let limit = Instant::now() + Duration::from_secs(options.seconds);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads)
            .map(|number| scope.spawn(move || Worker::new(port, options, number).run(limit)))
            .collect();
        let mut total = Report::default();
        for worker in workers {
            let report = worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
            total.add(&report);
        }
        Ok(total)
    })
}

impl Report {
    /// Whether every value was right and every error explained.
    pub(crate) const fn ok(&self) -> bool {
        self.errors == 0 && self.wrong_bytes == 0 && self.completed > 0
    }

    /// As one line of JSON.
    pub(crate) fn json(&self) -> String {
        format!(
            r#"{{"completed":{},"interrupted":{},"lost":{},"errors":{},"wrong_bytes":{},"longest_gap_ms":{}}}"#,
            self.completed, self.interrupted, self.lost, self.errors, self.wrong_bytes, self.longest_gap_ms
        )
    }

    fn add(&mut self, other: &Self) {
        self.completed += other.completed;
        self.interrupted += other.interrupted;
        self.lost += other.lost;
        self.errors += other.errors;
        self.wrong_bytes += other.wrong_bytes;
        self.longest_gap_ms = self.longest_gap_ms.max(other.longest_gap_ms);
    }
}

/// What is known of one key.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The last version sent, 0 for none.
    sent: u64,
    /// The version that must be there; `None` when an interruption made that uncertain.
    acknowledged: Option<u64>,
    /// The oldest version that can be there whatever was interrupted; 0: there may be none.
    least: u64,
}

struct Worker<'a> {
    port: &'a dyn KvPort,
    number: u64,
    options: &'a Options,
    known: Vec<Known>,
    value: Vec<u8>,
    report: Report,
    last_success: Instant,
}

impl<'a> Worker<'a> {
    fn new(port: &'a dyn KvPort, options: &'a Options, number: u64) -> Self {
        Self {
            port,
            number: u64::from(options.tag) << 16 | number,
            options,
            known: vec![Known::default(); usize::try_from(options.keys).unwrap_or(1).max(1)],
            value: vec![0; options.size.max(16)],
            report: Report::default(),
            last_success: Instant::now(),
        }
    }

    fn run(mut self, limit: Instant) -> Report {
        for index in (0..self.known.len()).cycle() {
            if Instant::now() >= limit {
                if self.options.until.is_some() {
                    eprintln!("thread {}: nothing succeeded after the file was there", self.number);
                    self.report.errors += 1;
                }
                break;
            }
            let is_last = self.options.until.as_ref().is_some_and(|file| file.exists());
            let before = self.report.completed;
            let Ok(key) = self.key(index) else { break };
            self.store(index, &key);
            self.retrieve(index, &key);
            if is_last && self.report.completed > before {
                break;
            }
        }
        self.clean_up();
        self.report
    }

    fn store(&mut self, index: usize, key: &Key) {
        let Some(known) = self.known.get_mut(index) else { return };
        known.sent += 1;
        let version = known.sent;
        Label { key: self.label_key(index), version }.fill(&mut self.value);
        let result = self.port.store(key, StoreOptions::empty(), &self.value);
        if self.completed(index, &result).is_some_and(Status::is_success)
            && let Some(known) = self.known.get_mut(index)
        {
            known.acknowledged = Some(version);
            known.least = version;
        }
    }

    fn retrieve(&mut self, index: usize, key: &Key) {
        self.value.fill(0xa5);
        let mut value = std::mem::take(&mut self.value);
        let result = self.port.retrieve(key, &mut value);
        let len = result.as_ref().map_or(0, |reply| reply.dw0 as usize);
        let status = self.completed(index, &result);
        let known = self.known.get(index).copied().unwrap_or_default();
        match status {
            Some(status) if status.is_success() => {
                let read = Label::read(&value);
                let right_label = read.is_some_and(|(label, _)| {
                    label.key == self.label_key(index)
                        && known
                            .acknowledged
                            .map_or((known.least.max(1)..=known.sent).contains(&label.version), |version| {
                                label.version == version
                            })
                });
                self.report.wrong_bytes += match read {
                    Some((_, wrong)) if right_label && len == value.len() => wrong,
                    _ => value.len() as u64,
                };
            }
            Some(status) if status.code() == Status::KEY_DOES_NOT_EXIST => {
                if known.acknowledged.is_some() || known.least > 0 {
                    eprintln!("thread {}, key {index}: version {} is gone", self.number, known.least);
                    self.report.errors += 1;
                } else {
                    self.report.lost += 1;
                }
            }
            Some(_) | None => {}
        }
        self.value = value;
    }

    /// Counts a result; its status, unless the connection was away.
    fn completed(&mut self, index: usize, result: &Result<Reply, PortError>) -> Option<Status> {
        let status = match result {
            Ok(reply) if !is_path_error(reply.status) => reply.status,
            Ok(_) | Err(_) => {
                self.interrupted(index);
                return None;
            }
        };
        if status.is_success() {
            self.report.completed += 1;
            let gap = u64::try_from(self.last_success.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.report.longest_gap_ms = self.report.longest_gap_ms.max(gap);
            self.last_success = Instant::now();
        } else if status.code() != Status::KEY_DOES_NOT_EXIST {
            eprintln!("thread {}, key {index}: {status}", self.number);
            self.report.errors += 1;
        }
        Some(status)
    }

    /// Unless the target keeps what it acknowledged, nothing is certain any more, for any key: it may have been restarted.
    fn interrupted(&mut self, index: usize) {
        self.report.interrupted += 1;
        for (number, known) in self.known.iter_mut().enumerate() {
            if !self.options.durable {
                known.acknowledged = None;
                known.least = 0;
            } else if number == index {
                known.acknowledged = None;
            }
        }
        thread::sleep(Duration::from_millis(20));
    }

    fn clean_up(&self) {
        for key in (0..self.known.len()).filter_map(|index| self.key(index).ok()) {
            // A key that stays behind is no fault of what was measured.
            let _ = self.port.delete(&key);
        }
    }

    fn key(&self, index: usize) -> Result<Key, kvof_kv::KeySizeError> {
        Key::new(&[b"loop".as_slice(), &self.label_key(index).to_be_bytes()].concat())
    }

    fn label_key(&self, index: usize) -> u64 {
        self.number << 32 | index as u64
    }
}

/// Path related statuses (SCT 3h) and what the kernel makes of a command whose queue was torn down.
fn is_path_error(status: Status) -> bool {
    status.sct() == kvof_spec::status::SCT_PATH
        || status.code() == Status::ABORTED_SQ_DELETION
        || status.code() == Status::ABORT_REQUESTED
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use kvof_kv::{Data, KvCommand, KvLimits, PortInfo};

    use super::*;

    type Values = HashMap<[u8; 16], Vec<u8>>;

    /// Changes the values before a call (counted from 1); true makes the call fail.
    type Fault = fn(u64, &mut Values) -> bool;

    /// A store whose faults the test chooses.
    #[derive(Default)]
    struct Fake {
        values: Mutex<Values>,
        calls: Mutex<u64>,
        fault: Option<Fault>,
    }

    impl KvPort for Fake {
        fn info(&self) -> PortInfo {
            let limits = KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 0, novg: 0 };
            PortInfo { nsid: 1, limits, max_transfer: 1 << 20, name: "fake".into() }
        }

        fn execute(&self, command: &KvCommand, data: Data<'_>) -> Result<Reply, PortError> {
            let mut values = self.values.lock().unwrap();
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            if self.fault.is_some_and(|fault| fault(*calls, &mut values)) {
                return Err(PortError::Failed("away".into()));
            }
            let reply = |status, dw0| Ok(Reply { status, dw0 });
            match data {
                Data::Out(bytes) => {
                    values.insert(command.key, bytes.to_vec());
                    reply(Status::SUCCESS, 0)
                }
                Data::In(bytes) => match values.get(&command.key) {
                    Some(value) => {
                        bytes.copy_from_slice(value);
                        reply(Status::SUCCESS, u32::try_from(value.len()).unwrap())
                    }
                    None => reply(Status::KEY_DOES_NOT_EXIST, 0),
                },
                Data::None => reply(Status::SUCCESS, 0),
            }
        }
    }

    fn report(fault: Option<Fault>) -> Report {
        report_of(false, fault)
    }

    fn report_of(durable: bool, fault: Option<Fault>) -> Report {
        let fake = Fake { fault, ..Fake::default() };
        let options = Options { seconds: 1, until: None, threads: 1, keys: 4, tag: 0, size: 64, durable };
        let mut worker = Worker::new(&fake, &options, 3);
        for round in 0..5 {
            for index in 0..4 {
                let key = worker.key(index).unwrap();
                worker.store(index, &key);
                worker.retrieve(index, &key);
            }
            assert_eq!(worker.known[0].sent, round + 1);
        }
        worker.report
    }

    #[test]
    fn a_good_store_gives_a_clean_report() {
        let report = report(None);
        assert!(report.ok());
        assert_eq!((report.completed, report.interrupted, report.lost), (40, 0, 0));
    }

    #[test]
    fn a_loop_until_a_file_ends_with_a_success_after_it() {
        let file = std::env::temp_dir().join(format!("kvof-loop-{}", std::process::id()));
        let loops = |fault| {
            let options = Options {
                seconds: 1,
                until: Some(file.clone()),
                threads: 2,
                keys: 4,
                tag: 0,
                size: 64,
                durable: false,
            };
            run(&Fake { fault, ..Fake::default() }, &options).unwrap()
        };
        // Nobody makes the file: that is an error of each thread.
        assert_eq!(loops(None).errors, 2);
        std::fs::write(&file, "").unwrap();
        // The first eight calls find no connection.
        let report = loops(Some(|call, _| call <= 8));
        std::fs::remove_file(&file).unwrap();
        assert!(report.ok() && report.interrupted == 8 && report.completed <= 4, "{report:?}");
    }

    #[test]
    fn values_lost_with_the_connection_are_counted_but_forgiven() {
        let report = report(Some(|call, values| {
            if call == 11 {
                values.clear();
            }
            call == 11
        }));
        assert!(report.ok(), "{report:?}");
        assert_eq!((report.interrupted, report.lost), (1, 1));
    }

    #[test]
    fn values_that_should_outlive_the_target_are_missed() {
        // A Store of a key that has a version is interrupted: that version or the new one has to be there.
        let loss: Fault = |call, values| {
            if call == 11 {
                values.clear();
            }
            call == 11
        };
        let report = report_of(true, Some(loss));
        assert_eq!((report.interrupted, report.lost, report.errors), (1, 0, 1));
        assert!(!report.ok(), "{report:?}");
        let interrupted = report_of(true, Some(|call, _| call == 11));
        assert!(interrupted.ok() && interrupted.lost == 0, "{interrupted:?}");
    }

    #[test]
    fn a_value_lost_without_an_interruption_is_an_error() {
        let report = report(Some(|call, values| {
            if call == 12 {
                values.clear();
            }
            false
        }));
        assert_eq!(report.errors, 1);
        assert!(!report.ok());
    }

    #[test]
    fn a_stale_value_and_a_flipped_bit_are_wrong() {
        let stale = report(Some(|call, values| {
            if call == 12 {
                let old = Label { key: 3 << 32 | 1, version: 1 }.value(64);
                values.values_mut().for_each(|value| value.clone_from(&old));
            }
            false
        }));
        assert_eq!(stale.wrong_bytes, 64);
        let flipped = report(Some(|call, values| {
            if call == 12 {
                values.values_mut().for_each(|value| value[40] ^= 4);
            }
            false
        }));
        assert_eq!(flipped.wrong_bytes, 1);
    }
}

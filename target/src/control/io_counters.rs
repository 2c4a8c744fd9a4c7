//! What I/O queues did, for the SMART / Health log page.
//!
//! Each queue counts for itself, so that cores do not fight over counters; the subsystem adds up.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use kvof_spec::{KvOpcode, NvmOpcode, Status, status::SCT_MEDIA};

/// Counters of one I/O queue. Only the queue writes them.
#[derive(Debug, Default)]
pub(super) struct IoCounters {
    read_commands: AtomicU64,
    write_commands: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    media_errors: AtomicU64,
}

/// Sums over queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct IoTotals {
    /// Commands that brought the host data, and comparisons.
    pub(super) read_commands: u128,
    /// Commands that brought data from the host.
    pub(super) write_commands: u128,
    /// Bytes of `read_commands`.
    pub(super) bytes_read: u128,
    /// Bytes of `write_commands`.
    pub(super) bytes_written: u128,
    /// Commands that found data lost or damaged.
    pub(super) media_errors: u128,
}

/// The counters of all queues of a subsystem, those that are gone included.
#[derive(Debug, Default)]
pub(super) struct IoHistory(Mutex<(IoTotals, Vec<Arc<IoCounters>>)>);

impl IoCounters {
    /// Counts a command that ended with `status` and moved `bytes`.
    pub(super) fn count(&self, opcode: u8, bytes: u64, status: Status) {
        // One writer: a plain load and store do, and cost less than an atomic addition.
        let add = |counter: &AtomicU64, n: u64| {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        };
        let lost = status.sct() == SCT_MEDIA && status.code() != Status::COMPARE_FAILURE;
        if lost || status.code() == Status::UNRECOVERED_ERROR {
            add(&self.media_errors, 1);
        }
        if !status.is_success() {
            return;
        }
        // Read and Retrieve share an opcode, as Write and Store do.
        const READ: u8 = NvmOpcode::READ.0;
        const WRITE: u8 = NvmOpcode::WRITE.0;
        const COMPARE: u8 = NvmOpcode::COMPARE.0;
        const LIST: u8 = KvOpcode::LIST.0;
        match opcode {
            READ | COMPARE | LIST => {
                add(&self.read_commands, 1);
                add(&self.bytes_read, bytes);
            }
            WRITE => {
                add(&self.write_commands, 1);
                add(&self.bytes_written, bytes);
            }
            _ => {}
        }
    }
}

impl IoTotals {
    fn add(&mut self, counters: &IoCounters) {
        let read = |counter: &AtomicU64| u128::from(counter.load(Ordering::Relaxed));
        self.read_commands += read(&counters.read_commands);
        self.write_commands += read(&counters.write_commands);
        self.bytes_read += read(&counters.bytes_read);
        self.bytes_written += read(&counters.bytes_written);
        self.media_errors += read(&counters.media_errors);
    }
}

impl IoHistory {
    /// Counters for a new queue.
    pub(super) fn open(&self) -> Arc<IoCounters> {
        let counters = Arc::new(IoCounters::default());
        self.with(|(_, live)| live.push(Arc::clone(&counters)));
        counters
    }

    /// The queue of `counters` is gone; what it counted stays.
    pub(super) fn close(&self, counters: &Arc<IoCounters>) {
        self.with(|(gone, live)| {
            if let Some(index) = live.iter().position(|other| Arc::ptr_eq(other, counters)) {
                gone.add(&live.swap_remove(index));
            }
        });
    }

    /// Sums over all queues.
    pub(super) fn totals(&self) -> IoTotals {
        self.with(|(gone, live)| {
            let mut totals = *gone;
            live.iter().for_each(|counters| totals.add(counters));
            totals
        })
    }

    fn with<R>(&self, f: impl FnOnce(&mut (IoTotals, Vec<Arc<IoCounters>>)) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts() {
        let history = IoHistory::default();
        let counters = history.open();
        let dnr = Status::UNRECOVERED_ERROR.with_dnr();
        for (opcode, bytes, status) in [
            (0x01, 10, Status::SUCCESS),
            (0x02, 200, Status::SUCCESS),
            (0x06, 4, Status::SUCCESS),
            (0x05, 1000, Status::SUCCESS),
            (0x05, 1000, Status::COMPARE_FAILURE),
            (0x02, 0, Status::KEY_DOES_NOT_EXIST),
            (0x02, 0, dnr),
            (0x01, 0, Status::WRITE_FAULT),
            (0x10, 0, Status::SUCCESS),
        ] {
            counters.count(opcode, bytes, status);
        }
        let expected =
            IoTotals { read_commands: 3, write_commands: 1, bytes_read: 1204, bytes_written: 10, media_errors: 2 };
        assert_eq!(history.totals(), expected);
        history.close(&counters);
        history.close(&counters);
        assert_eq!(history.totals(), expected, "counted once, also after the queue is gone");
    }
}

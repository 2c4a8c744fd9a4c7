//! Disk requests of a core's storage: from the backends to the ring, loads before stores.
//!
//! A Retrieve waits for its host's next step, a Store for nobody's. So reads start before writes that wait with them, and while a disk
//! has reads, no more than [`BESIDE_READS`] of writes, or one of any length, are in flight on it: a disk serves them about in their
//! order, and a read behind tens of megabytes would wait for all of them. Writes go on all the same, so that they are slowed down and
//! never stopped, and disks without reads are not slowed down at all.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    time::{Duration, Instant},
};

use kvof_io::{EventLoop, RejectReason, Rejected};

use crate::backend::{Backends, DiskRequest, DiskResult};

/// Most bytes of writes that a core has in flight on a disk that has reads, but for a single write that is longer. What a disk of a
/// few GB/s writes in half a millisecond, and enough to keep it busy.
const BESIDE_READS: usize = 1 << 20;
/// How long after a read more of them are expected.
const READS_GO_ON: Duration = Duration::from_millis(10);

/// The writes of one disk.
#[derive(Debug, Default)]
struct Disk {
    /// Writes and syncs that wait.
    waiting: VecDeque<DiskRequest>,
    /// Bytes of writes in flight.
    writing: usize,
    /// Until when reads count as going on.
    reads_until: Option<Instant>,
}

impl Disk {
    fn read_starts(&mut self, now: Instant) {
        self.reads_until = Some(now + READS_GO_ON);
    }

    /// Whether a write of `bytes` may start. It always may when none is in flight.
    fn admits(&self, bytes: usize, now: Instant) -> bool {
        self.writing == 0
            || self.writing.saturating_add(bytes) <= BESIDE_READS
            || self.reads_until.is_none_or(|until| until < now)
    }
}

/// Requests that wait for the ring, or for their share of the disks.
#[derive(Debug, Default)]
pub(super) struct DiskBacklog {
    reads: VecDeque<DiskRequest>,
    /// By the disk's number. Never more than there were disks.
    disks: BTreeMap<u64, Disk>,
    /// Writes in flight: disk and bytes, by token.
    in_flight: BTreeMap<u64, (u64, usize)>,
}

/// What becomes of a request that the ring did not take.
enum Refused {
    /// There is no room: it waits.
    Full(DiskRequest),
    /// It cannot be carried out.
    Failed(u64, DiskResult),
}

impl DiskBacklog {
    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.disks.values().all(|disk| disk.waiting.is_empty())
    }

    /// Starts what the backends want of the disks, as far as the ring has room; `token` makes the ring's token of theirs.
    /// True if anything moved.
    pub(super) fn start(
        &mut self,
        ring: &mut EventLoop,
        backends: &mut Backends,
        token: fn(u64) -> u64,
        now: Instant,
    ) -> bool {
        let mut moved = false;
        while let Some(request) = backends.poll_disk() {
            self.line(&request).push_back(request);
        }
        while let Some(request) = self.next(now) {
            let about = About::of(&request);
            match start(ring, request, token) {
                Ok(()) => self.started(&about, now),
                Err(Refused::Failed(token, result)) => backends.handle_disk(token, result),
                Err(Refused::Full(request)) => {
                    self.line(&request).push_front(request);
                    break;
                }
            }
            moved = true;
        }
        moved
    }

    /// Where a request waits.
    fn line(&mut self, request: &DiskRequest) -> &mut VecDeque<DiskRequest> {
        match About::of(request) {
            About { is_read: true, .. } => &mut self.reads,
            About { disk, .. } => &mut self.disks.entry(disk).or_default().waiting,
        }
    }

    /// What is to start next.
    fn next(&mut self, now: Instant) -> Option<DiskRequest> {
        if let Some(read) = self.reads.pop_front() {
            return Some(read);
        }
        let admits =
            |disk: &&mut Disk| disk.waiting.front().is_some_and(|first| disk.admits(About::of(first).bytes, now));
        self.disks.values_mut().find(admits)?.waiting.pop_front()
    }

    /// The ring has taken a request.
    fn started(&mut self, about: &About, now: Instant) {
        let disk = self.disks.entry(about.disk).or_default();
        if about.is_read {
            disk.read_starts(now);
        } else if about.bytes > 0 {
            disk.writing += about.bytes;
            self.in_flight.insert(about.token, (about.disk, about.bytes));
        }
    }

    /// The request `token` has ended.
    pub(super) fn ended(&mut self, token: u64) {
        if let Some((disk, bytes)) = self.in_flight.remove(&token)
            && let Some(disk) = self.disks.get_mut(&disk)
        {
            disk.writing = disk.writing.saturating_sub(bytes);
        }
    }
}

/// What is remembered of a request when the ring has it.
struct About {
    disk: u64,
    token: u64,
    is_read: bool,
    /// Bytes to be written.
    bytes: usize,
}

impl About {
    fn of(request: &DiskRequest) -> Self {
        let (file, token, is_read, bytes) = match request {
            DiskRequest::Read { file, token, .. } | DiskRequest::ReadPart { file, token, .. } => (file, token, true, 0),
            DiskRequest::Write { file, buf, token, .. } => (file, token, false, buf.len()),
            DiskRequest::WritePieces { file, bufs, token, .. } => {
                (file, token, false, bufs.iter().map(|buf| buf.len()).sum())
            }
            DiskRequest::Sync { file, token } => (file, token, false, 0),
        };
        Self { disk: file.disk(), token: *token, is_read, bytes }
    }
}

fn start(ring: &mut EventLoop, request: DiskRequest, name: fn(u64) -> u64) -> Result<(), Refused> {
    match request {
        DiskRequest::Read { file, offset, buf, token } => ring.read(&file, offset, buf, name(token)).map_err(|r| {
            refused(
                r,
                token,
                |buf| DiskRequest::Read { file, offset, buf, token },
                |buf, result| DiskResult::Read { buf, result },
            )
        }),
        DiskRequest::ReadPart { file, offset, buf, token } => {
            ring.read_part(&file, offset, buf, name(token)).map_err(|r| {
                refused(
                    r,
                    token,
                    |buf| DiskRequest::ReadPart { file, offset, buf, token },
                    |buf, result| DiskResult::ReadPart { buf, result },
                )
            })
        }
        DiskRequest::Write { file, offset, buf, token } => ring
            .write(&file, offset, buf, name(token))
            .map_err(|r| refused(r, token, |buf| DiskRequest::Write { file, offset, buf, token }, unwritten)),
        DiskRequest::WritePieces { file, offset, bufs, token } => ring
            .write_vectored(&file, offset, bufs, name(token))
            .map_err(|r| refused(r, token, |bufs| DiskRequest::WritePieces { file, offset, bufs, token }, unwritten)),
        DiskRequest::Sync { file, token } => ring.fsync(&file, true, name(token)).map_err(|r| {
            refused(
                r,
                token,
                |()| DiskRequest::Sync { file, token },
                |(), result: io::Result<usize>| DiskResult::Sync { result: result.map(drop) },
            )
        }),
    }
}

fn unwritten<B>(_buf: B, result: io::Result<usize>) -> DiskResult {
    DiskResult::Write { result: result.map(drop) }
}

fn refused<B>(
    rejected: Rejected<B>,
    token: u64,
    again: impl FnOnce(B) -> DiskRequest,
    failed: impl FnOnce(B, io::Result<usize>) -> DiskResult,
) -> Refused {
    match rejected.reason {
        RejectReason::Full { .. } => Refused::Full(again(rejected.buf)),
        reason => Refused::Failed(token, failed(rejected.buf, Err(io::Error::other(reason)))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvof_io::{DiskFile, DiskOpenOptions, Pool, PoolConfig, SharedBuf};

    use super::*;

    #[test]
    fn reads_start_before_writes_that_wait_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let options = DiskOpenOptions { create: true, size: Some(1 << 20), direct: false, read_only: false };
        let file = Arc::new(DiskFile::open(folder.path().join("disk"), options).unwrap());
        let pool = Pool::new(PoolConfig::new(1 << 20));
        let write = |token, len| {
            let bufs = vec![SharedBuf::from_vec(vec![0; len])];
            DiskRequest::WritePieces { file: Arc::clone(&file), offset: 0, bufs, token }
        };
        let read =
            |token| DiskRequest::Read { file: Arc::clone(&file), offset: 0, buf: pool.alloc(4096).unwrap(), token };
        let mut backlog = DiskBacklog::default();
        for request in [
            write(1, BESIDE_READS),
            write(2, 4096),
            DiskRequest::Sync { file: Arc::clone(&file), token: 3 },
            read(4),
            read(5),
        ] {
            backlog.line(&request).push_back(request);
        }
        let now = Instant::now();
        let mut order = Vec::new();
        while let Some(request) = backlog.next(now) {
            let about = About::of(&request);
            backlog.started(&about, now);
            order.push(about.token);
        }
        assert_eq!(order, [4, 5, 1], "the rest waits for its share");
        assert!(!backlog.is_empty());
        backlog.ended(4);
        assert!(backlog.next(now).is_none(), "that was a read");
        backlog.ended(1);
        let rest: Vec<_> = std::iter::from_fn(|| backlog.next(now)).map(|request| About::of(&request).token).collect();
        assert_eq!(rest, [2, 3]);
        assert!(backlog.is_empty());
        // One that the ring had no room for is the next again.
        for request in [write(7, 4096), write(8, 4096)] {
            backlog.line(&request).push_back(request);
        }
        let seventh = backlog.next(now).unwrap();
        backlog.line(&seventh).push_front(seventh);
        assert_eq!(About::of(&backlog.next(now).unwrap()).token, 7);
    }

    #[test]
    fn reads_of_one_disk_do_not_slow_down_another() {
        let folder = tempfile::tempdir().unwrap();
        let options = DiskOpenOptions { create: true, size: Some(1 << 20), direct: false, read_only: false };
        let file = Arc::new(DiskFile::open(folder.path().join("disk"), options).unwrap());
        let beside = Arc::new(DiskFile::open(folder.path().join("beside"), options).unwrap());
        assert_eq!(file.disk(), beside.disk(), "two files of one file system");
        let mut backlog = DiskBacklog::default();
        let now = Instant::now();
        let other = file.disk() + 1;
        backlog.started(&About { disk: other, token: 9, is_read: true, bytes: 0 }, now);
        backlog.started(&About { disk: other, token: 10, is_read: false, bytes: 1 }, now);
        for token in 0..4 {
            let buf = SharedBuf::from_vec(vec![0; BESIDE_READS]);
            let request = DiskRequest::Write { file: Arc::clone(&file), offset: 0, buf, token };
            backlog.line(&request).push_back(request);
        }
        for token in 0..4 {
            let about = About::of(&backlog.next(now).expect("no reads are on this disk"));
            assert_eq!(about.token, token);
            backlog.started(&about, now);
        }
    }

    #[test]
    fn reads_slow_writes_down_and_never_stop_them() {
        let mut disk = Disk::default();
        let start = Instant::now();
        disk.writing = 100 << 20;
        assert!(disk.admits(1 << 20, start), "without reads there is no bound but the ring's");
        disk.read_starts(start);
        assert!(!disk.admits(1, start + READS_GO_ON), "reads go on");
        assert!(disk.admits(1, start + READS_GO_ON + Duration::from_nanos(1)), "and end");
        // Reads for ever, and writes of every size: at any time one is in flight or may start, and no more than fit.
        for size in [4096, 300 << 10, 1 << 20, 64 << 20] {
            disk.writing = 0;
            let (mut started, mut ended) = (0, 0);
            for step in 0..1000_u32 {
                let now = start + Duration::from_millis(1) * step;
                disk.read_starts(now);
                while disk.admits(size, now) {
                    disk.writing += size;
                    started += 1;
                }
                assert!(disk.writing > 0 && disk.writing <= BESIDE_READS.max(size), "{size}");
                disk.writing -= size;
                ended += 1;
            }
            assert!(started >= ended && ended == 1000);
        }
    }
}

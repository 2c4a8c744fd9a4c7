//! Disk requests of a core's storage: from the backends to the ring, loads before stores.
//!
//! A Retrieve waits for its host's next step, a Store for nobody's. So reads start before writes that wait with them, and while there
//! are reads, no more than [`BESIDE_READS`] of writes are in flight: a device serves them about in their order, and a read behind
//! tens of megabytes would wait for all of them. Writes go on all the same, so that they are slowed down and never stopped.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use kvof_io::{EventKind, EventLoop, RejectReason, Rejected};

use crate::backend::{Backends, DiskRequest, DiskResult};

/// Bytes of writes in flight on a core from which on no more are started while there are reads.
const BESIDE_READS: usize = 4 << 20;
/// How long after a read more of them are expected.
const READS_GO_ON: Duration = Duration::from_millis(10);

/// Which requests may start.
#[derive(Debug, Default)]
struct Shares {
    /// Bytes of writes in flight.
    writing: usize,
    /// Until when reads count as going on.
    reads_until: Option<Instant>,
}

impl Shares {
    fn read_starts(&mut self, now: Instant) {
        self.reads_until = Some(now + READS_GO_ON);
    }

    /// Whether a write may start. It always may when none is in flight.
    fn admits_write(&self, now: Instant) -> bool {
        self.writing < BESIDE_READS || self.reads_until.is_none_or(|until| until < now)
    }
}

/// Requests that wait for the ring, or for their share of the devices.
#[derive(Debug, Default)]
pub(super) struct DiskBacklog {
    reads: VecDeque<DiskRequest>,
    /// Writes and syncs.
    writes: VecDeque<DiskRequest>,
    shares: Shares,
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
        self.reads.is_empty() && self.writes.is_empty()
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
            let line = if is_read(&request) { &mut self.reads } else { &mut self.writes };
            line.push_back(request);
        }
        while let Some(request) = self.next(now) {
            let (is_read, bytes) = (is_read(&request), written(&request));
            match start(ring, request, token) {
                Ok(()) if is_read => self.shares.read_starts(now),
                Ok(()) => self.shares.writing += bytes,
                Err(Refused::Failed(token, result)) => backends.handle_disk(token, result),
                Err(Refused::Full(request)) => {
                    let line = if is_read { &mut self.reads } else { &mut self.writes };
                    line.push_front(request);
                    break;
                }
            }
            moved = true;
        }
        moved
    }

    /// An operation of the ring has ended.
    pub(super) fn ended(&mut self, kind: &EventKind) {
        let bytes = match kind {
            EventKind::WriteDone { buf, .. } => buf.len(),
            EventKind::WriteVectoredDone { bufs, .. } => bufs.iter().map(|buf| buf.len()).sum(),
            _ => 0,
        };
        self.shares.writing = self.shares.writing.saturating_sub(bytes);
    }

    /// What is to start next.
    fn next(&mut self, now: Instant) -> Option<DiskRequest> {
        if let Some(read) = self.reads.pop_front() {
            return Some(read);
        }
        if self.shares.admits_write(now) { self.writes.pop_front() } else { None }
    }
}

fn is_read(request: &DiskRequest) -> bool {
    matches!(request, DiskRequest::Read { .. } | DiskRequest::ReadPart { .. })
}

/// Bytes that a request writes.
fn written(request: &DiskRequest) -> usize {
    match request {
        DiskRequest::Write { buf, .. } => buf.len(),
        DiskRequest::WritePieces { bufs, .. } => bufs.iter().map(|buf| buf.len()).sum(),
        DiskRequest::Read { .. } | DiskRequest::ReadPart { .. } | DiskRequest::Sync { .. } => 0,
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
        backlog.writes.extend([
            write(1, BESIDE_READS),
            write(2, 4096),
            DiskRequest::Sync { file: Arc::clone(&file), token: 3 },
        ]);
        backlog.reads.extend([read(4), read(5)]);
        let now = Instant::now();
        let mut order = Vec::new();
        while let Some(request) = backlog.next(now) {
            if is_read(&request) {
                backlog.shares.read_starts(now);
            }
            backlog.shares.writing += written(&request);
            order.push(match request {
                DiskRequest::Read { token, .. } | DiskRequest::WritePieces { token, .. } => token,
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(order, [4, 5, 1], "the rest waits for its share");
        let bufs = vec![SharedBuf::from_vec(vec![0; BESIDE_READS])];
        backlog.ended(&EventKind::WriteVectoredDone { bufs, result: Ok(()) });
        assert!(matches!(backlog.next(now), Some(DiskRequest::WritePieces { token: 2, .. })));
        assert!(matches!(backlog.next(now), Some(DiskRequest::Sync { token: 3, .. })));
        assert!(backlog.is_empty());
    }

    #[test]
    fn reads_slow_writes_down_and_never_stop_them() {
        let mut shares = Shares::default();
        let start = Instant::now();
        shares.writing = 100 << 20;
        assert!(shares.admits_write(start), "without reads there is no bound but the ring's");
        shares.read_starts(start);
        assert!(!shares.admits_write(start + READS_GO_ON), "reads go on");
        assert!(shares.admits_write(start + READS_GO_ON + Duration::from_nanos(1)), "and end");
        // Reads for ever, and writes of every size: at any time one is in flight or may start.
        for size in [4096, 1 << 20, 64 << 20] {
            shares.writing = 0;
            let (mut started, mut ended) = (0, 0);
            for step in 0..1000_u32 {
                let now = start + Duration::from_millis(1) * step;
                shares.read_starts(now);
                while shares.admits_write(now) {
                    shares.writing += size;
                    started += 1;
                }
                assert!(shares.writing >= BESIDE_READS && shares.writing < BESIDE_READS + size, "{size}");
                shares.writing -= size;
                ended += 1;
            }
            assert!(started >= ended && ended == 1000);
        }
    }
}

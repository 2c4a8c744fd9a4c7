//! Disk requests of a core's storage: from the backends to the ring.

use std::{collections::VecDeque, io};

use kvof_io::{EventLoop, RejectReason, Rejected};

use crate::backend::{Backends, DiskRequest, DiskResult};

/// Requests that the ring had no room for.
#[derive(Debug, Default)]
pub(super) struct DiskBacklog(VecDeque<DiskRequest>);

/// What becomes of a request that the ring did not take.
enum Refused {
    /// There is no room: it waits.
    Full(DiskRequest),
    /// It cannot be carried out.
    Failed(u64, DiskResult),
}

impl DiskBacklog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Starts what the backends want of the disks, as far as the ring has room; `token` makes the ring's token of theirs.
    /// True if anything moved.
    pub(super) fn start(&mut self, ring: &mut EventLoop, backends: &mut Backends, token: fn(u64) -> u64) -> bool {
        let mut moved = false;
        while let Some(request) = self.0.pop_front().or_else(|| backends.poll_disk()) {
            match start(ring, request, token) {
                Ok(()) => moved = true,
                Err(Refused::Failed(token, result)) => {
                    backends.handle_disk(token, result);
                    moved = true;
                }
                Err(Refused::Full(request)) => {
                    self.0.push_front(request);
                    break;
                }
            }
        }
        moved
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
            .map_err(|r| refused(r, token, |buf| DiskRequest::Write { file, offset, buf, token }, written)),
        DiskRequest::WritePieces { file, offset, bufs, token } => ring
            .write_vectored(&file, offset, bufs, name(token))
            .map_err(|r| refused(r, token, |bufs| DiskRequest::WritePieces { file, offset, bufs, token }, written)),
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

fn written<B>(_buf: B, result: io::Result<usize>) -> DiskResult {
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

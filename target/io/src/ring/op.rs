//! One disk operation in flight: it owns all that the kernel may touch until the kernel has answered.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use super::gather::Gather;
use crate::{DiskFile, EventKind, PoolBuf, PoolPart, SharedBuf};

/// Most bytes of one request; the kernel's own limit is a little below 2 GiB, and this is aligned for every device. Little in unit tests, so
/// that they meet transfers of several requests.
const MAX_TRANSFER: usize = if cfg!(test) { 64 << 10 } else { 1 << 30 };

/// How often in a row an operation that the kernel asks to repeat is repeated.
const MAX_RETRIES: u8 = 8;

/// A disk operation and its progress.
#[derive(Debug)]
pub(super) struct DiskOp {
    file: Arc<DiskFile>,
    pub(super) token: u64,
    offset: u64,
    done: usize,
    retries: u8,
    work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    Read(PoolBuf),
    ReadPart(PoolPart),
    Write(SharedBuf),
    WriteVectored(Gather),
    Fsync { data_only: bool },
}

impl Work {
    /// Bytes to move; None for an fsync.
    fn total(&self) -> Option<usize> {
        match self {
            Self::Read(buf) => Some(buf.len()),
            Self::ReadPart(part) => Some(part.len()),
            Self::Write(buf) => Some(buf.len()),
            Self::WriteVectored(gather) => Some(gather.total()),
            Self::Fsync { .. } => None,
        }
    }
}

impl DiskOp {
    pub(super) fn new(file: Arc<DiskFile>, token: u64, offset: u64, work: Work) -> Self {
        Self { file, token, offset, done: 0, retries: 0, work }
    }

    /// The request for what is still to do, when none is in flight. It names memory of this operation, whose address does not change when
    /// the operation moves.
    pub(super) fn entry(&mut self, user_data: u64) -> squeue::Entry {
        let fd = types::Fd(self.file.as_fd().as_raw_fd());
        let done = self.done;
        let offset = self.offset.wrapping_add(done as u64);
        // At most MAX_TRANSFER, so the cast is exact.
        let len = self.work.total().unwrap_or(0).saturating_sub(done).min(MAX_TRANSFER) as u32;
        let entry = match &mut self.work {
            Work::Read(buf) => opcode::Read::new(fd, buf.start().wrapping_add(done), len).offset(offset).build(),
            Work::ReadPart(part) => opcode::Read::new(fd, part.start().wrapping_add(done), len).offset(offset).build(),
            Work::Write(buf) => opcode::Write::new(fd, buf.start().wrapping_add(done), len).offset(offset).build(),
            Work::WriteVectored(gather) => {
                let (pieces, count) = gather.request(MAX_TRANSFER);
                opcode::Writev::new(fd, pieces, count).offset(offset).build()
            }
            Work::Fsync { data_only } => {
                let flags = if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
                opcode::Fsync::new(fd).flags(flags).build()
            }
        };
        entry.user_data(user_data)
    }

    /// Takes the kernel's answer. None when the rest must be asked for (a new [`Self::entry`]), else the outcome in bytes.
    pub(super) fn advance(&mut self, answer: i32) -> Option<io::Result<usize>> {
        let Ok(moved) = usize::try_from(answer) else {
            let error = io::Error::from_raw_os_error(answer.saturating_neg());
            let again = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
            if again && self.retries < MAX_RETRIES {
                self.retries += 1;
                return None;
            }
            return Some(Err(error));
        };
        let Some(total) = self.work.total() else { return Some(Ok(0)) };
        self.retries = 0;
        // No kernel reports more than it was asked for.
        let moved = moved.min(total.saturating_sub(self.done));
        self.done += moved;
        if let Work::WriteVectored(gather) = &mut self.work {
            gather.advance(moved);
        }
        // Nothing moved, or a direct transfer that ended within a block: there is no more to be had.
        let stuck = moved == 0 || !self.done.is_multiple_of(self.file.alignment());
        match &self.work {
            _ if self.done == total => Some(Ok(total)),
            Work::Write(_) | Work::WriteVectored(_) if stuck => {
                let text = format!("{}: only {} of {total} bytes were written", self.file.path().display(), self.done);
                Some(Err(io::Error::new(io::ErrorKind::WriteZero, text)))
            }
            _ if stuck => Some(Ok(self.done)),
            _ => None,
        }
    }

    /// Hands the buffer back with the outcome.
    pub(super) fn into_event(self, result: io::Result<usize>) -> EventKind {
        match self.work {
            Work::Read(buf) => EventKind::ReadDone { buf, result },
            Work::ReadPart(buf) => EventKind::PartReadDone { buf, result },
            Work::Write(buf) => EventKind::WriteDone { buf, result: result.map(drop) },
            Work::WriteVectored(gather) => {
                EventKind::WriteVectoredDone { bufs: gather.into_bufs(), result: result.map(drop) }
            }
            Work::Fsync { .. } => EventKind::FsyncDone { result: result.map(drop) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiskOpenOptions, EventLoop, EventLoopConfig, Pool, PoolConfig};
    use std::time::Duration;

    fn file(direct: bool) -> (tempfile::TempDir, Arc<DiskFile>) {
        let dir = tempfile::tempdir().unwrap();
        let options = DiskOpenOptions { create: true, size: Some(65536), direct, read_only: false };
        let file = DiskFile::open(dir.path().join("disk"), options).unwrap();
        (dir, Arc::new(file))
    }

    #[test]
    fn short_transfers_go_on_until_nothing_moves() {
        let (_dir, file) = file(false);
        let buf = Pool::new(PoolConfig::new(8192)).alloc(8192).unwrap();
        let mut read = DiskOp::new(Arc::clone(&file), 1, 0, Work::Read(buf));
        assert!(read.advance(100).is_none());
        assert!(read.advance(-libc::EINTR).is_none());
        assert_eq!(read.advance(8092).unwrap().unwrap(), 8192);
        let buf = SharedBuf::from_vec(vec![0; 100]);
        let mut write = DiskOp::new(Arc::clone(&file), 1, 0, Work::Write(buf.clone()));
        assert!(write.advance(99).is_none());
        assert_eq!(write.advance(0).unwrap().unwrap_err().kind(), io::ErrorKind::WriteZero);
        let mut write = DiskOp::new(Arc::clone(&file), 1, 0, Work::Write(buf));
        assert_eq!(write.advance(-libc::EIO).unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
        let mut fsync = DiskOp::new(file, 1, 0, Work::Fsync { data_only: true });
        assert_eq!(fsync.advance(0).unwrap().unwrap(), 0);
    }

    #[test]
    fn transfers_of_several_requests_arrive_in_place() {
        for direct in [false, true] {
            let (_dir, file) = file(direct);
            let pool = Pool::new(PoolConfig::new(4 << 20));
            let mut event_loop = EventLoop::new(EventLoopConfig::default()).unwrap();
            let mut finish = |start: &mut dyn FnMut(&mut EventLoop)| {
                start(&mut event_loop);
                let mut out = Vec::new();
                event_loop.turn(Some(Duration::from_secs(20)), &mut out).unwrap();
                out.pop().unwrap().kind
            };
            let mut data = pool.alloc(5 * MAX_TRANSFER + 4096).unwrap();
            for (n, word) in data.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *word = (n as u32).to_le_bytes();
            }
            let data = data.freeze();
            let done = finish(&mut |l| l.write(&file, 8192, data.clone(), 0).unwrap());
            assert!(matches!(done, EventKind::WriteDone { result: Ok(()), .. }), "{done:?}");
            assert!(std::fs::read(file.path()).unwrap()[8192..] == data[..]);
            let done = finish(&mut |l| l.read(&file, 8192, pool.alloc(data.len()).unwrap(), 0).unwrap());
            let EventKind::ReadDone { buf, result } = done else { panic!("{done:?}") };
            assert_eq!(result.unwrap(), data.len());
            assert!(buf[..] == data[..]);
        }
    }

    #[test]
    fn vectored_writes_and_reads_into_parts_of_several_requests_arrive_in_place() {
        for direct in [false, true] {
            let (_dir, file) = file(direct);
            let pool = Pool::new(PoolConfig::new(16 << 20));
            let mut event_loop = EventLoop::new(EventLoopConfig::default()).unwrap();
            let mut finish = |start: &mut dyn FnMut(&mut EventLoop)| {
                start(&mut event_loop);
                let mut out = Vec::new();
                event_loop.turn(Some(Duration::from_secs(20)), &mut out).unwrap();
                out.pop().unwrap().kind
            };
            let mut data = pool.alloc(3 * MAX_TRANSFER).unwrap();
            for (n, word) in data.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *word = (n as u32).to_le_bytes();
            }
            let data = data.freeze();
            // Pieces that end before, on and after the limit of a request, and empty ones.
            let ends = [0, 4096, 60 << 10, 60 << 10, 68 << 10, 128 << 10, data.len()];
            let pieces: Vec<_> = ends.windows(2).map(|w| data.slice(w[0]..w[1]).unwrap()).collect();
            let done = finish(&mut |l| l.write_vectored(&file, 4096, pieces.clone(), 0).unwrap());
            let EventKind::WriteVectoredDone { bufs, result: Ok(()) } = done else { panic!("{done:?}") };
            assert!(bufs.iter().map(|b| b.start()).eq(pieces.iter().map(SharedBuf::start)), "the same buffers");
            assert!(std::fs::read(file.path()).unwrap()[4096..] == data[..]);
            let mut parts = pool.alloc(4096 + data.len()).unwrap().split(&[4096]).unwrap();
            let mut part = parts.pop();
            let done = finish(&mut |l| l.read_part(&file, 4096, part.take().unwrap(), 0).unwrap());
            let EventKind::PartReadDone { buf, result } = done else { panic!("{done:?}") };
            assert_eq!((result.unwrap(), buf[..] == data[..]), (data.len(), true));
            parts.push(buf);
            assert!(PoolPart::join(parts).unwrap()[4096..] == data[..]);
        }
    }

    #[test]
    fn a_short_vectored_write_goes_on_within_a_piece_until_nothing_moves() {
        let (_dir, file) = file(false);
        let pieces: Vec<_> = [10, 0, 20].map(|len| SharedBuf::from_vec(vec![0; len])).into();
        let mut write = DiskOp::new(Arc::clone(&file), 1, 0, Work::WriteVectored(Gather::new(pieces.clone())));
        assert!(write.advance(15).is_none());
        assert!(write.advance(-libc::EAGAIN).is_none());
        assert_eq!(write.advance(15).unwrap().unwrap(), 30);
        let mut write = DiskOp::new(file, 1, 0, Work::WriteVectored(Gather::new(pieces)));
        assert!(write.advance(29).is_none());
        let error = write.advance(0).unwrap().unwrap_err();
        assert!(error.kind() == io::ErrorKind::WriteZero && error.to_string().contains("29 of 30"), "{error}");
    }

    #[test]
    fn retries_end() {
        let (_dir, file) = file(false);
        let mut fsync = DiskOp::new(file, 1, 0, Work::Fsync { data_only: false });
        for _ in 0..MAX_RETRIES {
            assert!(fsync.advance(-libc::EAGAIN).is_none());
        }
        assert!(fsync.advance(-libc::EAGAIN).unwrap().is_err());
    }

    #[test]
    fn a_direct_read_that_ends_within_a_block_is_the_end_of_the_file() {
        let (_dir, file) = file(true);
        if !file.is_direct() {
            return;
        }
        let buf = Pool::new(PoolConfig::new(8192)).alloc(8192).unwrap();
        let mut read = DiskOp::new(file, 1, 0, Work::Read(buf));
        assert_eq!(read.advance(4096 + 100).unwrap().unwrap(), 4196);
    }
}

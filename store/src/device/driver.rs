//! Devices that are files or block devices, through an io_uring of their own.
//!
//! The ring takes a limited number of operations at once; the others wait here in their order. Their number is bounded by
//! what the volumes allow themselves in flight.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_io::{DiskFile, Event, EventKind, EventLoop, EventLoopConfig, RejectReason};

use super::{BlockIo, DeviceDone, DeviceOp, DeviceRequest, Devices};
use crate::volume::Volume;

/// Tokens of a volume are the places of its operations, far below this; the shard is above.
const SHARD_SHIFT: u32 = 48;

/// Drives volumes on files through an event loop that has nothing else to do.
#[derive(Debug)]
pub struct UringDriver {
    files: Vec<Option<Arc<DiskFile>>>,
    ring: EventLoop,
    events: Vec<Event>,
    backlog: VecDeque<(u16, DeviceRequest)>,
    done: VecDeque<(u16, u64, DeviceDone)>,
    start: Instant,
}

impl UringDriver {
    /// A driver for the calling thread; `files` by member number.
    ///
    /// # Errors
    /// The kernel has no ring for us.
    pub fn new(files: Vec<Option<Arc<DiskFile>>>, config: EventLoopConfig) -> io::Result<Self> {
        Ok(Self {
            files,
            ring: EventLoop::new(config)?,
            events: Vec::new(),
            backlog: VecDeque::new(),
            done: VecDeque::new(),
            start: Instant::now(),
        })
    }

    /// The file of a member.
    #[must_use]
    pub fn file(&self, member: u16) -> Option<&Arc<DiskFile>> {
        self.files.get(usize::from(member)).and_then(Option::as_ref)
    }

    /// Takes a member's file out, or puts one in. Operations in flight keep the one that they have.
    pub fn set_file(&mut self, member: u16, file: Option<Arc<DiskFile>>) {
        if let Some(place) = self.files.get_mut(usize::from(member)) {
            *place = file;
        }
    }

    /// Does what the only volume of a pool asks for, waiting at most `timeout` if nothing is done at once. Its results are
    /// then to be polled.
    ///
    /// # Errors
    /// The ring failed.
    pub fn pump(&mut self, volume: &mut Volume, timeout: Duration) -> io::Result<()> {
        volume.handle_time(self.now());
        let mut wait = timeout;
        loop {
            while let Some(request) = volume.poll_device() {
                self.start(0, request);
            }
            let Some((_, token, done)) = self.finish(wait)? else { return Ok(()) };
            volume.handle_device(token, done);
            wait = Duration::ZERO;
        }
    }

    /// Hands a request to the ring; it comes back if the ring has no room.
    fn try_start(&mut self, shard: u16, request: DeviceRequest) -> Result<(), DeviceRequest> {
        let DeviceRequest { token, member, op } = request;
        let user = u64::from(shard) << SHARD_SHIFT | token;
        let Some(file) = self.files.get(usize::from(member)).and_then(Option::as_ref) else {
            self.done.push_back((shard, token, absent(member, op)));
            return Ok(());
        };
        let (op, reason) = match op {
            DeviceOp::Read { offset, buf } => match self.ring.read_part(file, offset, buf, user) {
                Ok(()) => return Ok(()),
                Err(rejected) => (DeviceOp::Read { offset, buf: rejected.buf }, rejected.reason),
            },
            DeviceOp::Write { offset, bufs } => match self.ring.write_vectored(file, offset, bufs, user) {
                Ok(()) => return Ok(()),
                Err(rejected) => (DeviceOp::Write { offset, bufs: rejected.buf }, rejected.reason),
            },
            DeviceOp::Flush => match self.ring.fsync(file, true, user) {
                Ok(()) => return Ok(()),
                Err(rejected) => (DeviceOp::Flush, rejected.reason),
            },
        };
        if matches!(reason, RejectReason::Full { .. }) {
            return Err(DeviceRequest { token, member, op });
        }
        let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
        self.done.push_back((shard, token, failed(op, error)));
        Ok(())
    }

    fn start_backlog(&mut self) {
        while let Some((shard, request)) = self.backlog.pop_front() {
            if let Err(request) = self.try_start(shard, request) {
                self.backlog.push_front((shard, request));
                return;
            }
        }
    }
}

fn absent(member: u16, op: DeviceOp) -> DeviceDone {
    failed(op, io::Error::new(io::ErrorKind::NotFound, format!("device {member} of the pool is absent")))
}

fn failed(op: DeviceOp, error: io::Error) -> DeviceDone {
    match op {
        DeviceOp::Read { buf, .. } => DeviceDone::Read { buf, result: Err(error) },
        DeviceOp::Write { .. } => DeviceDone::Write(Err(error)),
        DeviceOp::Flush => DeviceDone::Flush(Err(error)),
    }
}

/// What the event of an operation says; `None` for an event of something else.
#[must_use]
pub fn device_done(kind: EventKind) -> Option<DeviceDone> {
    Some(match kind {
        EventKind::PartReadDone { buf, result } => {
            let result = result.and_then(|n| match n {
                n if n == buf.len() => Ok(()),
                n => {
                    let text = format!("the device ends after {n} of {} bytes", buf.len());
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
                }
            });
            DeviceDone::Read { buf, result }
        }
        EventKind::WriteVectoredDone { result, .. } => DeviceDone::Write(result),
        EventKind::FsyncDone { result } => DeviceDone::Flush(result),
        _ => return None,
    })
}

impl Devices for UringDriver {
    fn start(&mut self, shard: u16, request: DeviceRequest) {
        if !self.backlog.is_empty() {
            self.backlog.push_back((shard, request));
        } else if let Err(request) = self.try_start(shard, request) {
            self.backlog.push_back((shard, request));
        }
    }

    fn finish(&mut self, wait: Duration) -> io::Result<Option<(u16, u64, DeviceDone)>> {
        if self.done.is_empty() {
            self.start_backlog();
            // With nothing in flight there is nothing to wait for.
            let wait = if self.ring.disk_ops() == 0 || !self.done.is_empty() { Duration::ZERO } else { wait };
            self.ring.turn(Some(wait), &mut self.events)?;
            for event in self.events.drain(..) {
                let (shard, token) = ((event.token >> SHARD_SHIFT) as u16, event.token & ((1 << SHARD_SHIFT) - 1));
                self.done.extend(device_done(event.kind).map(|done| (shard, token, done)));
            }
        }
        Ok(self.done.pop_front())
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn block_io(&mut self) -> &mut dyn BlockIo {
        self
    }
}

impl BlockIo for UringDriver {
    fn members(&self) -> u16 {
        self.files.len() as u16
    }

    fn is_present(&self, member: u16) -> bool {
        self.file(member).is_some()
    }

    fn read(&mut self, member: u16, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let done = self.present(member)?.read_at(offset, buf)?;
        if done < buf.len() {
            let text = format!("{}: ends after {done} of {} bytes at {offset}", self.name(member), buf.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        Ok(())
    }

    fn write(&mut self, member: u16, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.present(member)?.write_at(offset, bytes)
    }

    fn flush(&mut self, member: u16) -> io::Result<()> {
        self.present(member)?.sync_data()
    }
}

impl UringDriver {
    fn present(&self, member: u16) -> io::Result<&Arc<DiskFile>> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("device {member} of the pool is absent"));
        self.file(member).ok_or_else(absent)
    }

    fn name(&self, member: u16) -> String {
        self.file(member).map(|file| file.path().display().to_string()).unwrap_or_default()
    }
}

//! A block namespace in a file or on a block device. Every core reads and writes it through its own ring.
//!
//! The file is the plain image of the blocks. It is opened with O_DIRECT where its alignment divides the block size;
//! otherwise through the page cache (see [`open`](super::open())), so that a block is never read to be written. Either way
//! data are durable after Flush, or when a Write with FUA completes: both end in fdatasync.
//!
//! Write Zeroes writes zeros, a few pieces at a time. Deallocate is taken as the hint that it is and keeps the data: to
//! write zeros over ranges that may span the namespace would keep the device busy for longer than hosts wait.

use std::{collections::VecDeque, io, sync::Arc};

use kvof_io::{DiskFile, Pool, PoolBuf, SharedBuf};
use kvof_spec::Status;
use slab::Slab;

use super::{
    Env, IoError, IoOutcome, IoRequest, IoResult, NvmRequest, OpId, Submitted,
    disk::{DiskResult, Owner, aligned_zeros},
};
use crate::{model::BackendId, namespace::DataOut};

/// Bytes of zeros in one write.
const ZEROS_LEN: usize = 256 << 10;
/// How many writes of zeros one request has in flight.
const ZEROS_IN_FLIGHT: u32 = 4;

/// Bytes that Compare reads in one go. A multiple of every block size.
const COMPARE_LEN: usize = 64 << 10;

/// The storage; every core has one.
#[derive(Debug)]
pub(super) struct NvmFile {
    file: Arc<DiskFile>,
    /// Bytes of the namespace, at most the file's.
    size: u64,
    zeros: SharedBuf,
    requests: Slab<Request>,
    /// Where Compare reads to, one piece after another, unless a read has it. Compares hold memory of the pool: if they
    /// waited for more of it, they could wait for each other.
    compare_buf: Option<PoolBuf>,
    /// Compares that have not ended; the first is being done.
    compares: VecDeque<usize>,
}

#[derive(Debug)]
struct Request {
    op: OpId,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Read,
    /// The first `equal` bytes from `offset` are as expected.
    Compare {
        offset: u64,
        expected: PoolBuf,
        equal: usize,
    },
    /// The last step of Write and Flush.
    Last,
    /// A write that a sync must follow.
    WriteThrough,
    Zero {
        next: u64,
        end: u64,
        in_flight: u32,
        failed: bool,
        fua: bool,
    },
}

impl NvmFile {
    /// One for each of `cores`; `None` if the pool has no memory for them.
    pub(super) fn for_cores(file: DiskFile, size: u64, cores: usize, pool: &Pool) -> Option<Vec<Self>> {
        let file = Arc::new(file);
        let zeros = aligned_zeros(ZEROS_LEN);
        let store = |_| {
            Some(Self {
                file: Arc::clone(&file),
                size,
                zeros: zeros.clone(),
                requests: Slab::new(),
                compare_buf: Some(pool.alloc(COMPARE_LEN)?),
                compares: VecDeque::new(),
            })
        };
        (0..cores).map(store).collect()
    }

    pub(super) fn submit(&mut self, env: &mut Env, id: BackendId, op: OpId, request: NvmRequest) -> Submitted {
        let out_of_range = Submitted::Done(Err(IoError::Nvm(Status::LBA_OUT_OF_RANGE)));
        let size = self.size;
        let within = |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= size);
        let add = |requests: &mut Slab<Request>, step| Owner::Nvm(id, requests.insert(Request { op, step }));
        match request {
            NvmRequest::Read { offset, len } if within(offset, u64::from(len)) => match env.pool.alloc(len as usize) {
                Some(buf) => {
                    let owner = add(&mut self.requests, Step::Read);
                    env.disk.read(owner, &self.file, offset, buf);
                }
                None => return Submitted::NoMemory(IoRequest::Nvm(request)),
            },
            NvmRequest::Write { offset, data, fua } if within(offset, data.len() as u64) => {
                let owner = add(&mut self.requests, if fua { Step::WriteThrough } else { Step::Last });
                env.disk.write(owner, &self.file, offset, data.freeze());
            }
            NvmRequest::WriteZeroes { offset, len, fua, .. } if within(offset, len) => {
                let step = Step::Zero { next: offset, end: offset + len, in_flight: 0, failed: false, fua };
                let key = self.requests.insert(Request { op, step });
                self.advance_zero(env, id, key);
            }
            NvmRequest::Compare { offset, data } if within(offset, data.len() as u64) => {
                let step = Step::Compare { offset, expected: data, equal: 0 };
                self.compares.push_back(self.requests.insert(Request { op, step }));
                self.advance_compare(env, id);
            }
            NvmRequest::Flush => {
                let owner = add(&mut self.requests, Step::Last);
                env.disk.sync(owner, &self.file);
            }
            NvmRequest::Deallocate { ranges } => {
                let inside = ranges.iter().all(|range| within(range.offset, range.len));
                return if inside { Submitted::Done(Ok(IoOutcome::Nvm)) } else { out_of_range };
            }
            NvmRequest::Refused { status } => return Submitted::Done(Err(IoError::Nvm(status))),
            _ => return out_of_range,
        }
        Submitted::Pending
    }

    /// The disk operation of the request `key` has ended.
    pub(super) fn handle_disk(&mut self, env: &mut Env, id: BackendId, key: usize, result: DiskResult) {
        let Some(request) = self.requests.get_mut(key) else { return };
        let outcome: IoResult = match (&mut request.step, result) {
            (Step::Zero { in_flight, failed, .. }, DiskResult::Write { result }) => {
                *in_flight -= 1;
                *failed |= log(&self.file, result.err().as_ref());
                self.advance_zero(env, id, key);
                return;
            }
            (step @ Step::WriteThrough, DiskResult::Write { result: Ok(()) }) => {
                *step = Step::Last;
                env.disk.sync(Owner::Nvm(id, key), &self.file);
                return;
            }
            (Step::Read, DiskResult::Read { buf, result }) => match result {
                Ok(read) if read >= buf.len() => Ok(IoOutcome::NvmData(DataOut::Shared(buf.freeze()))),
                other => {
                    log(&self.file, Some(&other.map_or_else(|error| error, short)));
                    Err(IoError::Nvm(Status::UNRECOVERED_READ_ERROR))
                }
            },
            (Step::Compare { expected, equal, .. }, DiskResult::Read { buf, result }) => {
                let rest = expected.get(*equal..).unwrap_or_default();
                let piece = rest.get(..COMPARE_LEN).unwrap_or(rest);
                let outcome = match result {
                    Ok(read) if read < piece.len() => Err(short(read)),
                    Ok(_) => Ok(buf.get(..piece.len()) == Some(piece)),
                    Err(error) => Err(error),
                };
                let is_last = piece.len() == rest.len();
                *equal += piece.len();
                self.compare_buf = Some(buf);
                match outcome {
                    Ok(true) if !is_last => {
                        self.advance_compare(env, id);
                        return;
                    }
                    Ok(true) => Ok(IoOutcome::Nvm),
                    Ok(false) => Err(IoError::Nvm(Status::COMPARE_FAILURE)),
                    Err(error) => {
                        log(&self.file, Some(&error));
                        Err(IoError::Nvm(Status::UNRECOVERED_READ_ERROR))
                    }
                }
            }
            (_, DiskResult::Write { result } | DiskResult::Sync { result }) => {
                match log(&self.file, result.err().as_ref()) {
                    false => Ok(IoOutcome::Nvm),
                    true => Err(IoError::Nvm(Status::WRITE_FAULT)),
                }
            }
            (_, DiskResult::Read { .. } | DiskResult::ReadPart { .. }) => Err(IoError::Nvm(Status::INTERNAL_ERROR)),
        };
        let Request { op, step } = self.requests.remove(key);
        env.done.push_back((op, outcome));
        if matches!(step, Step::Compare { .. }) {
            self.compares.pop_front();
            self.advance_compare(env, id);
        }
    }

    /// Reads the next piece for the first of the Compares.
    fn advance_compare(&mut self, env: &mut Env, id: BackendId) {
        let Some(key) = self.compares.front().copied() else { return };
        let Some(Request { step: Step::Compare { offset, equal, .. }, .. }) = self.requests.get(key) else { return };
        // Reads may go beyond the range, and then the end of the file: what counts is that its bytes are there.
        if let Some(buf) = self.compare_buf.take() {
            env.disk.read(Owner::Nvm(id, key), &self.file, offset + *equal as u64, buf);
        }
    }

    /// Starts the next writes of zeros, or ends the request after the last.
    fn advance_zero(&mut self, env: &mut Env, id: BackendId, key: usize) {
        let Some(Request { op, step }) = self.requests.get_mut(key) else { return };
        let Step::Zero { next, end, in_flight, failed, fua } = step else { return };
        while !*failed && *next < *end && *in_flight < ZEROS_IN_FLIGHT {
            let len = usize::try_from(*end - *next).map_or(ZEROS_LEN, |left| left.min(ZEROS_LEN));
            let Some(zeros) = self.zeros.slice(..len) else { break };
            env.disk.write(Owner::Nvm(id, key), &self.file, *next, zeros);
            *next += len as u64;
            *in_flight += 1;
        }
        if *in_flight > 0 {
            return;
        }
        if *fua && !*failed {
            *step = Step::Last;
            env.disk.sync(Owner::Nvm(id, key), &self.file);
            return;
        }
        let outcome = if *failed { Err(IoError::Nvm(Status::WRITE_FAULT)) } else { Ok(IoOutcome::Nvm) };
        env.done.push_back((*op, outcome));
        self.requests.remove(key);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }
}

/// Whether there was an error.
fn log(file: &DiskFile, error: Option<&io::Error>) -> bool {
    if let Some(error) = error {
        tracing::error!(path = %file.path().display(), %error, "disk I/O of a block namespace failed");
    }
    error.is_some()
}

fn short(read: usize) -> io::Error {
    let text = format!("the file ends after {read} of the bytes to read; was it truncated?");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

//! Copies between a GPU and pinned memory, on streams of their own.
//!
//! Invariant: a job that was started is kept, with its piece, until the event after its copy says that the copy is over,
//! or its stream is idle, or the context is lost and with it everything that could still touch the piece.

use std::{collections::VecDeque, ffi::c_void, mem, ptr, sync::Arc};

use super::{
    CudaError,
    context::Gpu,
    driver::{CUevent, CUstream},
};
use crate::{
    CopyError,
    staging::{CopyBell, DeviceCopy, Direction, Job, Piece},
};

/// `CU_STREAM_NON_BLOCKING`: no tie to the default stream, where an engine's work may be.
const STREAM_NON_BLOCKING: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`.
const EVENT_DISABLE_TIMING: u32 = 2;

/// The copies of one user of a GPU.
pub(super) struct CudaCopy {
    gpu: &'static Gpu,
    bell: Arc<CopyBell>,
    to_host: Stream,
    to_device: Stream,
    /// Events that are not in use.
    events: Vec<CUevent>,
    /// Copies that could not be started.
    refused: Vec<(Job, CudaError)>,
}

// SAFETY: streams and events may be used from any thread with the context current.
unsafe impl Send for CudaCopy {}

/// Copies of one direction. They end in order.
struct Stream {
    raw: CUstream,
    running: VecDeque<(CUevent, Job)>,
}

impl CudaCopy {
    pub(super) fn new(gpu: &'static Gpu, bell: Arc<CopyBell>) -> Result<Self, CudaError> {
        let to_host = Stream { raw: create_stream(gpu)?, running: VecDeque::new() };
        // From here on what there is so far is dropped with the value.
        let to_device = Stream { raw: ptr::null_mut(), running: VecDeque::new() };
        let mut copy = Self { gpu, bell, to_host, to_device, events: Vec::new(), refused: Vec::new() };
        copy.to_device.raw = create_stream(gpu)?;
        Ok(copy)
    }

    fn event(&mut self) -> Result<CUevent, CudaError> {
        if let Some(event) = self.events.pop() {
            return Ok(event);
        }
        let driver = self.gpu.driver();
        let mut event = ptr::null_mut();
        // SAFETY: writes the event, which is ours until it is destroyed.
        let code = unsafe { (driver.functions.cuEventCreate)(&raw mut event, EVENT_DISABLE_TIMING) };
        driver.check("cuEventCreate", code).map(|()| event)
    }

    /// Starts the copy; gives the event that follows it. With an error nothing of it runs any more.
    fn launch(&mut self, job: &Job) -> Result<CUevent, CudaError> {
        let (gpu, driver) = (self.gpu, self.gpu.driver());
        let f = &driver.functions;
        let len = job.range.len();
        gpu.with(|| {
            let event = self.event()?;
            let (host, device) = (job.piece.start().as_ptr(), job.range.address());
            let stream = match job.direction {
                Direction::ToHost => self.to_host.raw,
                Direction::ToDevice => self.to_device.raw,
            };
            let copied = match job.direction {
                Direction::ToHost => {
                    // SAFETY: the range keeps the device memory, and the piece, which has as many bytes, is the job's,
                    // which this value keeps until the copy is over.
                    let code = unsafe { (f.cuMemcpyDtoHAsync_v2)(host.cast(), device, len, stream) };
                    driver.check("cuMemcpyDtoHAsync", code)
                }
                Direction::ToDevice => {
                    // SAFETY: as above.
                    let code = unsafe { (f.cuMemcpyHtoDAsync_v2)(device, host.cast(), len, stream) };
                    driver.check("cuMemcpyHtoDAsync", code)
                }
            };
            if let Err(error) = copied {
                self.events.push(event);
                return Err(error);
            }
            // SAFETY: event and stream are ours.
            let recorded = driver.check("cuEventRecord", unsafe { (f.cuEventRecord)(event, stream) });
            if let Err(error) = recorded {
                // The copy runs and nothing tells its end: wait for it here.
                // SAFETY: the stream is ours. A failure says that the context is lost, and nothing runs in it.
                unsafe { (f.cuStreamSynchronize)(stream) };
                self.events.push(event);
                return Err(error);
            }
            let bell = Arc::into_raw(Arc::clone(&self.bell)).cast_mut().cast();
            // SAFETY: `ring` takes the bell's reference over; without its call it is lost, and nothing else.
            let code = unsafe { (f.cuLaunchHostFunc)(stream, ring, bell) };
            if let Err(error) = driver.check("cuLaunchHostFunc", code) {
                // Whoever sleeps looks now and then, too.
                tracing::debug!(%error, "a copy will not tell its end");
                // SAFETY: the function was not launched, so the reference is still ours.
                drop(unsafe { Arc::from_raw(bell.cast_const().cast::<CopyBell>()) });
            }
            Ok(event)
        })
    }
}

/// Called by the driver's thread when everything before it on the stream is over.
///
/// # Safety
/// `bell` is a reference of an `Arc<CopyBell>`, given away.
unsafe extern "C" fn ring(bell: *mut c_void) {
    // SAFETY: promised by the caller.
    let bell = unsafe { Arc::from_raw(bell.cast_const().cast::<CopyBell>()) };
    bell.ring();
}

fn create_stream(gpu: &Gpu) -> Result<CUstream, CudaError> {
    let driver = gpu.driver();
    gpu.with(|| {
        let mut stream = ptr::null_mut();
        // SAFETY: writes the stream, which is ours until it is destroyed.
        let code = unsafe { (driver.functions.cuStreamCreate)(&raw mut stream, STREAM_NON_BLOCKING) };
        driver.check("cuStreamCreate", code).map(|()| stream)
    })
}

impl DeviceCopy for CudaCopy {
    fn piece(&mut self, len: usize) -> Result<Piece, CopyError> {
        Ok(self.gpu.pinned(len)?)
    }

    fn start(&mut self, job: Job) {
        debug_assert!(job.range.len() <= job.piece.len());
        if job.range.len() > job.piece.len() {
            let error = CudaError::Call { call: "copy", code: 1, name: "the piece is too small".into() };
            self.refused.push((job, error));
            return;
        }
        match self.launch(&job) {
            Ok(event) => match job.direction {
                Direction::ToHost => self.to_host.running.push_back((event, job)),
                Direction::ToDevice => self.to_device.running.push_back((event, job)),
            },
            Err(error) => self.refused.push((job, error)),
        }
    }

    fn poll(&mut self, done: &mut Vec<(Job, Result<(), CopyError>)>) {
        done.extend(self.refused.drain(..).map(|(job, error)| (job, Err(error.into()))));
        let (gpu, driver) = (self.gpu, self.gpu.driver());
        let events = &mut self.events;
        for stream in [&mut self.to_host, &mut self.to_device] {
            if stream.running.is_empty() {
                continue;
            }
            let polled = gpu.with(|| {
                while let Some((event, _)) = stream.running.front() {
                    // SAFETY: the event is ours, and recorded.
                    let code = unsafe { (driver.functions.cuEventQuery)(*event) };
                    if !driver.check_ready("cuEventQuery", code)? {
                        break;
                    }
                    if let Some((event, job)) = stream.running.pop_front() {
                        events.push(event);
                        done.push((job, Ok(())));
                    }
                }
                Ok(())
            });
            if let Err(error) = polled {
                // The context is lost, and with it all that ran in it; the stream says so once more.
                let _ = gpu.with(|| {
                    // SAFETY: the stream is ours.
                    let code = unsafe { (driver.functions.cuStreamSynchronize)(stream.raw) };
                    driver.check("cuStreamSynchronize", code)
                });
                for (event, job) in stream.running.drain(..) {
                    events.push(event);
                    done.push((job, Err(error.clone().into())));
                }
            }
        }
    }
}

impl Drop for CudaCopy {
    fn drop(&mut self) {
        let driver = self.gpu.driver();
        let f = &driver.functions;
        let events = mem::take(&mut self.events);
        let streams = [&mut self.to_host, &mut self.to_device];
        let ended = self.gpu.with(|| {
            let mut events = events;
            for stream in streams {
                if stream.raw.is_null() {
                    continue;
                }
                // SAFETY: the stream is ours. An error says that the context is lost, and nothing runs in it.
                unsafe { (f.cuStreamSynchronize)(stream.raw) };
                events.extend(stream.running.drain(..).map(|(event, _)| event));
                // SAFETY: the stream is ours and idle.
                unsafe { (f.cuStreamDestroy_v2)(stream.raw) };
            }
            for event in events {
                // SAFETY: the event is ours, and its stream is gone.
                unsafe { (f.cuEventDestroy_v2)(event) };
            }
            Ok(())
        });
        if let Err(error) = ended {
            tracing::warn!(%error, "copies of a lost CUDA context");
        }
    }
}

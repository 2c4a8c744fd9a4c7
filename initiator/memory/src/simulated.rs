//! A device whose memory is the host's, and whose copies are late and out of order: what tests put in the place of a GPU.
//!
//! Its copies end when [`SimulatedDevice::finish`] says so, or, with [`SimulatedDevice::lively`], when its own thread
//! likes.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use kvof_rdma::{Mr, MrAccess, RdmaError};

use crate::{
    Buffer, CopyError, MemoryKind, RdmaPath, RegionError,
    device::DeviceMemory,
    region::PartTable,
    staging::{CopyBell, DeviceCopy, Direction, Job, Piece},
};

/// A simulated device. A clone is another handle to it.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDevice(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    running: Vec<Running>,
    next_copier: u64,
    /// Copies that were started since the beginning.
    started: u64,
    /// The copies with these numbers, counted from 0, fail.
    failing: Vec<u64>,
    /// Pieces of pinned memory that the device still gives; `None` for any number.
    pieces_left: Option<usize>,
}

#[derive(Debug)]
struct Running {
    copier: u64,
    number: u64,
    job: Job,
    finished: Finished,
    bell: Arc<CopyBell>,
}

type Finished = Arc<Mutex<Vec<(Job, Result<(), CopyError>)>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimulatedDevice {
    /// A device whose copies end when [`Self::finish`] is called.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A device that ends one of its copies every `pause`, in an order that `seed` gives, for as long as it is used.
    #[must_use]
    pub fn lively(seed: u64, pause: Duration) -> Self {
        let device = Self::new();
        let state = Arc::downgrade(&device.0);
        // The thread ends with the device; a machine that gives no thread has no test either.
        let _ = thread::Builder::new().name("simulated-device".into()).spawn(move || live(&state, seed, pause));
        device
    }

    /// Memory of `len` bytes, all zero.
    #[must_use]
    pub fn region(&self, len: usize) -> SimulatedRegion {
        let memory = Arc::new(SimulatedMemory { device: self.clone(), bytes: Mutex::new(vec![0; len]) });
        SimulatedRegion { memory, parts: Arc::new(PartTable::new(len)) }
    }

    /// Copies that run.
    #[must_use]
    pub fn running(&self) -> usize {
        lock(&self.0).running.len()
    }

    /// Ends the `nth` of the copies that run, counted from 0 and wrapping around; gives whether there was one.
    pub fn finish(&self, nth: usize) -> bool {
        let mut state = lock(&self.0);
        if state.running.is_empty() {
            return false;
        }
        let at = nth % state.running.len();
        let running = state.running.swap_remove(at);
        let fails = state.failing.contains(&running.number);
        drop(state);
        running.end(fails);
        true
    }

    /// The `nth` copy from the next one on, counted from 0, will fail.
    pub fn fail(&self, nth: u64) {
        let mut state = lock(&self.0);
        let number = state.started + nth;
        state.failing.push(number);
    }

    /// The device gives `pieces` more pieces of pinned memory, and then none.
    pub fn limit_pieces(&self, pieces: usize) {
        lock(&self.0).pieces_left = Some(pieces);
    }
}

impl Running {
    fn end(self, fails: bool) {
        let Self { mut job, finished, bell, .. } = self;
        let result = if fails {
            Err(CopyError::Device("the copy failed".into()))
        } else {
            let Job { range, direction, piece, .. } = &mut job;
            let len = range.len();
            match (direction, piece.bytes_mut().get_mut(..len)) {
                (Direction::ToHost, Some(bytes)) => range.read(bytes),
                (Direction::ToDevice, Some(bytes)) => range.write(bytes),
                (_, None) => Err(CopyError::Device("the piece is too small".into())),
            }
        };
        lock(&finished).push((job, result));
        bell.ring();
    }
}

fn live(state: &Weak<Mutex<State>>, seed: u64, pause: Duration) {
    let mut random = seed;
    while let Some(state) = state.upgrade() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        SimulatedDevice(state).finish((random >> 33) as usize);
        thread::sleep(pause);
    }
}

/// Memory of a [`SimulatedDevice`].
#[derive(Clone)]
pub struct SimulatedRegion {
    memory: Arc<SimulatedMemory>,
    parts: Arc<PartTable>,
}

impl SimulatedRegion {
    /// The `len` bytes from `offset` on, until the buffer is dropped.
    ///
    /// # Errors
    /// [`RegionError::OutOfBounds`], [`RegionError::Overlap`].
    pub fn buffer(&self, offset: usize, len: usize) -> Result<Buffer, RegionError> {
        let memory: Arc<dyn DeviceMemory> = Arc::<SimulatedMemory>::clone(&self.memory);
        Ok(Buffer::of_device(memory, self.parts.claim(offset, len)?))
    }
}

struct SimulatedMemory {
    device: SimulatedDevice,
    bytes: Mutex<Vec<u8>>,
}

// SAFETY: the bytes are behind a mutex, and no address of them is given out: RDMA does not reach them.
unsafe impl DeviceMemory for SimulatedMemory {
    fn kind(&self) -> MemoryKind {
        MemoryKind::Simulated
    }

    fn copier(&self, bell: Arc<CopyBell>) -> Result<Box<dyn DeviceCopy>, CopyError> {
        let mut state = lock(&self.device.0);
        state.next_copier += 1;
        let id = state.next_copier;
        drop(state);
        Ok(Box::new(SimulatedCopy { device: self.device.clone(), id, bell, finished: Arc::default() }))
    }

    fn pinned(&self, len: usize) -> Result<Piece, CopyError> {
        Ok(Piece::heap(len))
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), CopyError> {
        let bytes = lock(&self.bytes);
        let from = bytes.get(offset..offset + into.len());
        from.map(|from| into.copy_from_slice(from)).ok_or_else(|| CopyError::Device("beyond the memory".into()))
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), CopyError> {
        let mut bytes = lock(&self.bytes);
        let to = bytes.get_mut(offset..offset + from.len());
        to.map(|to| to.copy_from_slice(from)).ok_or_else(|| CopyError::Device("beyond the memory".into()))
    }

    fn address(&self) -> u64 {
        0
    }

    fn rdma_path(&self, _: &Arc<kvof_rdma::Device>) -> RdmaPath {
        RdmaPath::Staging
    }

    fn registration(&self, _: &Arc<kvof_rdma::Device>) -> Result<&Mr, RdmaError> {
        Err(RdmaError::NoDevice)
    }

    fn register_exactly(&self, _: &Arc<kvof_rdma::Device>, _: usize, _: usize, _: MrAccess) -> Result<Mr, RdmaError> {
        Err(RdmaError::NoDevice)
    }

    fn flush_rdma_writes(&self) -> Result<(), CopyError> {
        Ok(())
    }
}

struct SimulatedCopy {
    device: SimulatedDevice,
    id: u64,
    bell: Arc<CopyBell>,
    finished: Finished,
}

impl DeviceCopy for SimulatedCopy {
    fn piece(&mut self, len: usize) -> Result<Piece, CopyError> {
        match &mut lock(&self.device.0).pieces_left {
            Some(0) => return Err(CopyError::Device("no pinned memory is left".into())),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(Piece::heap(len))
    }

    fn start(&mut self, job: Job) {
        let mut state = lock(&self.device.0);
        let number = state.started;
        state.started += 1;
        let (finished, bell) = (Arc::clone(&self.finished), Arc::clone(&self.bell));
        state.running.push(Running { copier: self.id, number, job, finished, bell });
    }

    fn poll(&mut self, done: &mut Vec<(Job, Result<(), CopyError>)>) {
        done.append(&mut lock(&self.finished));
    }
}

impl Drop for SimulatedCopy {
    fn drop(&mut self) {
        let mut state = lock(&self.device.0);
        let (mine, others) = std::mem::take(&mut state.running).into_iter().partition(|r| r.copier == self.id);
        state.running = others;
        drop(state);
        let mine: Vec<Running> = mine;
        for running in mine {
            running.end(false);
        }
    }
}

//! The same storages on a real ring and a real file, with direct I/O where the file system has it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_io::{EventKind, EventLoop, EventLoopConfig, Pool, PoolConfig};
use kvof_kv::OpId;

use super::rig::{Rng, bytes_of, file, nvm_namespace};
use crate::{
    backend::{Backends, DiskRequest, DiskResult, IoOutcome, IoRequest, IoResult, NvmRequest, Submitted, open},
    model::Namespace,
};

struct Machine {
    ring: EventLoop,
    backends: Backends,
    ns: Arc<Namespace>,
    pool: Pool,
    next_op: u64,
    done: BTreeMap<u64, IoResult>,
}

impl Machine {
    fn new(ns: Arc<Namespace>) -> Self {
        let pool = Pool::new(PoolConfig { limit: 32 << 20, shards: 1 });
        let mut backends = Backends::new(0, 1, pool.clone());
        for part in open(&ns, 1, &pool).unwrap() {
            backends.attach(ns.backend, part);
        }
        let ring = EventLoop::new(EventLoopConfig::default()).unwrap();
        Self { ring, backends, ns, pool, next_op: 0, done: BTreeMap::new() }
    }

    fn submit(&mut self, request: IoRequest) -> u64 {
        let op = self.next_op;
        self.next_op += 1;
        match self.backends.submit(OpId(op), self.ns.backend, &self.ns, request) {
            Submitted::Done(result) => {
                self.done.insert(op, result);
            }
            Submitted::Pending => {}
            Submitted::NoMemory(request) => panic!("no memory for {request:?}"),
        }
        op
    }

    /// Runs until nothing is in flight.
    fn settle(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            while let Some(request) = self.backends.poll_disk() {
                match request {
                    DiskRequest::Read { file, offset, buf, token } => {
                        self.ring.read(&file, offset, buf, token).unwrap();
                    }
                    DiskRequest::Write { file, offset, buf, token } => {
                        self.ring.write(&file, offset, buf, token).unwrap();
                    }
                    DiskRequest::Sync { file, token } => self.ring.fsync(&file, true, token).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
            while let Some((OpId(op), result)) = self.backends.poll() {
                self.done.insert(op, result);
            }
            if self.backends.is_idle() {
                return;
            }
            assert!(Instant::now() < deadline, "the disk does not answer");
            let mut events = Vec::new();
            self.ring.turn(Some(Duration::from_millis(100)), &mut events).unwrap();
            for event in events {
                let result = match event.kind {
                    EventKind::ReadDone { buf, result } => DiskResult::Read { buf, result },
                    EventKind::WriteDone { result, .. } => DiskResult::Write { result },
                    EventKind::FsyncDone { result } => DiskResult::Sync { result },
                    other => panic!("{other:?}"),
                };
                self.backends.handle_disk(event.token, result);
            }
        }
    }

    fn run(&mut self, request: IoRequest) -> IoResult {
        let op = self.submit(request);
        self.settle();
        self.done.remove(&op).unwrap()
    }

    fn close(mut self) {
        self.backends.detach(self.ns.backend);
        self.settle();
    }
}

#[test]
fn blocks_survive_a_restart() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).or_else(|_| tempfile::tempdir()).unwrap();
    for block in [512, 4096] {
        let path = dir.path().join(format!("disk-{block}"));
        let open = |path: &Path| Machine::new(nvm_namespace(block, 4 << 20, file(path)));
        let mut machine = open(&path);
        let bytes = Rng(1).bytes(3 * block as usize);
        let mut data = machine.pool.alloc(bytes.len()).unwrap();
        data.copy_from_slice(&bytes);
        let offset = 5 * u64::from(block);
        machine.run(IoRequest::Nvm(NvmRequest::Write { offset, data, fua: true })).unwrap();
        let zeros = NvmRequest::WriteZeroes { offset, len: u64::from(block), deallocate: false, fua: false };
        machine.run(IoRequest::Nvm(zeros)).unwrap();
        machine.run(IoRequest::Nvm(NvmRequest::Flush)).unwrap();
        machine.close();
        let mut machine = open(&path);
        let read = machine.run(IoRequest::Nvm(NvmRequest::Read { offset, len: 3 * block }));
        let Ok(IoOutcome::NvmData(data)) = read else { panic!("{read:?}") };
        let mut expected = bytes;
        expected[..block as usize].fill(0);
        assert!(bytes_of(&data) == expected);
    }
}

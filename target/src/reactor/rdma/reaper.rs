//! The end of queue pairs and of requests, on a thread of its own: the calls that destroy them wait for the device and the
//! connection manager, and no core has time for that.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kvof_io::RdmaBuf;
use kvof_rdma::{CmId, Endpoint};
use kvof_spec::{
    IntoBytes,
    rdma::{CmReject, CmStatus},
};

use super::super::{CoreMessage, Mailbox};

/// How long the end may take in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Jobs that may wait; with more than that, those who bring them do them themselves.
const JOBS: usize = 256;

/// What a connection had of its core, which gets it back when the queue pair is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Reserved {
    /// The completion queue, in the core's list.
    pub(super) queue: usize,
    /// Bytes of capsules.
    pub(super) capsules: u64,
}

enum Job {
    Destroy { endpoint: Box<Endpoint<RdmaBuf>>, reserved: Reserved, core: Mailbox },
    Refuse { id: CmId, status: CmStatus },
}

/// The thread; it ends when every handle is gone.
#[derive(Debug)]
pub(in super::super) struct Reaper {
    handle: ReaperHandle,
    thread: JoinHandle<()>,
}

/// Brings it jobs.
#[derive(Clone, Debug)]
pub(in super::super) struct ReaperHandle(SyncSender<Job>);

impl Reaper {
    pub(in super::super) fn start() -> io::Result<Self> {
        let (sender, jobs) = sync_channel(JOBS);
        let thread = thread::Builder::new().name("kvof-rdma-end".to_owned()).spawn(move || run(&jobs))?;
        Ok(Self { handle: ReaperHandle(sender), thread })
    }

    pub(in super::super) fn handle(&self) -> ReaperHandle {
        self.handle.clone()
    }

    /// Waits until everything is gone that it was given, but not for a device that does not answer; the cores have ended
    /// before.
    pub(in super::super) fn finish(self) {
        let Self { handle, thread } = self;
        drop(handle);
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            if Instant::now() >= until {
                tracing::warn!("an RDMA device does not let go of its queue pairs; they end with the process");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl ReaperHandle {
    /// Destroys a queue pair whose connection is over, and then tells `core`.
    pub(super) fn destroy(&self, endpoint: Box<Endpoint<RdmaBuf>>, reserved: Reserved, core: Mailbox) {
        self.give(Job::Destroy { endpoint, reserved, core });
    }

    /// Refuses a request.
    pub(super) fn refuse(&self, id: CmId, status: CmStatus) {
        self.give(Job::Refuse { id, status });
    }

    fn give(&self, job: Job) {
        match self.0.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job.run(),
        }
    }
}

fn run(jobs: &Receiver<Job>) {
    for job in jobs {
        job.run();
    }
}

impl Job {
    fn run(self) {
        match self {
            Self::Destroy { endpoint, reserved, core } => {
                drop(endpoint);
                core.send(CoreMessage::Reaped(reserved));
            }
            Self::Refuse { id, status } => {
                let peer = id.peer_addr();
                if let Err(error) = id.reject(CmReject::new(status).as_bytes()) {
                    tracing::debug!(%peer, %error, "the refusal was not sent");
                }
            }
        }
    }
}

//! What the queues of one controller share: whether it is ready, whether it is over, which queues there are, and when
//! the host was last heard of.
//!
//! The admin queue owns everything else about its controller. I/O queues, which live on other cores, read atomics only;
//! the lock is for queues that come and go, and for events.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kvof_spec::{Nqn, Status, log::CriticalWarning};

use super::{
    QueueTransport, QueueWaker,
    subsystem::{EnabledSets, Subsystem},
};

/// Why a queue's connection has to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// The host was silent for longer than KATO.
    #[error("the keep alive timer expired")]
    KeepAliveExpired,
    /// The host left the controller disabled, or a discovery controller without keep alive idle, for too long.
    #[error("the controller was not used for too long")]
    Idle,
    /// The controller was reset or shut down: its I/O queues are gone.
    #[error("the host reset or shut down the controller")]
    ControllerReset,
    /// The connection of the admin queue is gone.
    #[error("the admin queue is gone")]
    AdminQueueGone,
    /// A reload removed the subsystem, or the host from its allowed hosts.
    #[error("the host or the subsystem was removed from the configuration")]
    Removed,
    /// The target stops.
    #[error("the target stops")]
    TargetStopped,
}

/// Shared state of one controller.
pub(super) struct Controller {
    pub(super) cntlid: u16,
    pub(super) subsystem: Arc<Subsystem>,
    pub(super) hostnqn: Nqn,
    pub(super) hostid: [u8; 16],
    /// How the host reached the admin queue.
    pub(super) transport: QueueTransport,
    /// The moment that `last_traffic` counts from.
    base: Instant,
    /// Milliseconds after `base` when a command last came.
    last_traffic: AtomicU64,
    /// Processes I/O commands.
    ready: AtomicBool,
    /// [`EnabledSets`].
    sets: AtomicU8,
    /// Each reset begins another epoch; an I/O queue belongs to the epoch it was made in.
    epoch: AtomicU32,
    /// 0, or 1 + [`CloseReason`].
    close: AtomicU8,
    /// Something for the admin queue is in `shared`.
    notified: AtomicBool,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    /// I/O queues by QID.
    queues: BTreeMap<u16, QueueEntry>,
    /// I/O queues that the host may make: QIDs 1 to this.
    queues_allowed: u16,
    notices: Notices,
}

struct QueueEntry {
    token: u64,
    wake: QueueWaker,
}

/// What happened since the admin queue last looked.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Notices {
    /// Namespaces that were added, removed or changed.
    pub(super) namespaces: Vec<u32>,
    /// The discovery log page changed.
    pub(super) discovery: bool,
    /// Critical warnings that are new.
    pub(super) warnings: CriticalWarning,
}

impl Controller {
    pub(super) fn new(
        cntlid: u16,
        subsystem: Arc<Subsystem>,
        (hostnqn, hostid): (Nqn, [u8; 16]),
        transport: QueueTransport,
        queues_allowed: u16,
        now: Instant,
    ) -> Self {
        Self {
            cntlid,
            subsystem,
            hostnqn,
            hostid,
            transport,
            base: now,
            last_traffic: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            sets: AtomicU8::new(EnabledSets::None as u8),
            epoch: AtomicU32::new(0),
            close: AtomicU8::new(0),
            notified: AtomicBool::new(false),
            shared: Mutex::new(Shared { queues_allowed, ..Shared::default() }),
        }
    }

    /// A command came.
    pub(super) fn touch(&self, now: Instant) {
        let ms = u64::try_from(now.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX);
        // Cores that serve the same host would fight over the cache line if each of them wrote it every time.
        if self.last_traffic.load(Ordering::Relaxed) < ms {
            self.last_traffic.store(ms, Ordering::Relaxed);
        }
    }

    /// When a command last came, to the millisecond before.
    pub(super) fn last_traffic(&self) -> Instant {
        self.base + Duration::from_millis(self.last_traffic.load(Ordering::Relaxed))
    }

    /// Whether I/O commands of queues of `epoch` are processed.
    pub(super) fn is_ready(&self, epoch: u32) -> bool {
        self.ready.load(Ordering::Acquire) && self.epoch() == epoch && self.close.load(Ordering::Relaxed) == 0
    }

    /// The command sets in use.
    pub(super) fn sets(&self) -> EnabledSets {
        EnabledSets::from_u8(self.sets.load(Ordering::Acquire))
    }

    /// The controller is enabled.
    pub(super) fn enable(&self, sets: EnabledSets) {
        self.sets.store(sets as u8, Ordering::Release);
        self.ready.store(true, Ordering::Release);
    }

    /// The controller is reset or shut down: its I/O queues are deleted.
    pub(super) fn disable(&self) {
        let queues = self.with(|shared| {
            self.ready.store(false, Ordering::Release);
            self.sets.store(EnabledSets::None as u8, Ordering::Release);
            self.epoch.fetch_add(1, Ordering::AcqRel);
            std::mem::take(&mut shared.queues)
        });
        queues.into_values().for_each(|queue| (queue.wake)());
    }

    /// Ends the association: every queue is told to close. The first reason stays.
    pub(super) fn close(&self, reason: CloseReason) {
        if self.close.compare_exchange(0, reason as u8 + 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        let wakers: Vec<_> = self.with(|shared| shared.queues.values().map(|q| Arc::clone(&q.wake)).collect());
        if reason != CloseReason::AdminQueueGone {
            (self.transport.wake)();
        }
        wakers.iter().for_each(|wake| wake());
    }

    /// Why the association is over, if it is.
    pub(super) fn closed(&self) -> Option<CloseReason> {
        const ALL: [CloseReason; 6] = [
            CloseReason::KeepAliveExpired,
            CloseReason::Idle,
            CloseReason::ControllerReset,
            CloseReason::AdminQueueGone,
            CloseReason::Removed,
            CloseReason::TargetStopped,
        ];
        let code = self.close.load(Ordering::Acquire).checked_sub(1)?;
        ALL.into_iter().find(|reason| *reason as u8 == code)
    }

    /// The present epoch.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Enters I/O queue `qid`. Returns the epoch that it belongs to.
    ///
    /// # Errors
    /// [`QueueRefused`].
    pub(super) fn add_queue(&self, qid: u16, token: u64, wake: QueueWaker) -> Result<u32, QueueRefused> {
        self.with(|shared| {
            if qid == 0 || qid > shared.queues_allowed {
                return Err(QueueRefused::OutOfRange);
            }
            if !self.ready.load(Ordering::Acquire) {
                return Err(QueueRefused::NotReady);
            }
            if shared.queues.contains_key(&qid) {
                return Err(QueueRefused::InUse);
            }
            shared.queues.insert(qid, QueueEntry { token, wake });
            Ok(self.epoch())
        })
    }

    /// Frees `qid` if it is still the queue `token`.
    pub(super) fn remove_queue(&self, qid: u16, token: u64) {
        self.with(|shared| {
            if shared.queues.get(&qid).is_some_and(|queue| queue.token == token) {
                shared.queues.remove(&qid);
            }
        });
    }

    /// Sets how many I/O queues the host may make.
    ///
    /// # Errors
    /// Command Sequence Error if there are some already.
    pub(super) fn allow_queues(&self, allowed: u16) -> Result<(), Status> {
        self.with(|shared| {
            if !shared.queues.is_empty() {
                return Err(Status::COMMAND_SEQUENCE_ERROR);
            }
            shared.queues_allowed = allowed;
            Ok(())
        })
    }

    /// How many I/O queues the host may make.
    pub(super) fn queues_allowed(&self) -> u16 {
        self.with(|shared| shared.queues_allowed)
    }

    /// How many I/O queues there are.
    pub(super) fn queues(&self) -> usize {
        self.with(|shared| shared.queues.len())
    }

    /// Tells the admin queue of changes.
    pub(super) fn notify(&self, notices: &Notices) {
        self.with(|shared| {
            shared.notices.namespaces.extend(&notices.namespaces);
            // The Changed Namespace List has no more room than this, so the rest says nothing new.
            shared.notices.namespaces.sort_unstable();
            shared.notices.namespaces.dedup();
            shared.notices.namespaces.truncate(super::log_page::CHANGED_NAMESPACES_MAX + 1);
            shared.notices.discovery |= notices.discovery;
            shared.notices.warnings |= notices.warnings;
            self.notified.store(true, Ordering::Release);
        });
        (self.transport.wake)();
    }

    /// The changes that the admin queue has not seen.
    pub(super) fn take_notices(&self) -> Option<Notices> {
        if !self.notified.load(Ordering::Acquire) {
            return None;
        }
        Some(self.with(|shared| {
            self.notified.store(false, Ordering::Release);
            std::mem::take(&mut shared.notices)
        }))
    }

    fn with<R>(&self, f: impl FnOnce(&mut Shared) -> R) -> R {
        f(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why an I/O queue cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum QueueRefused {
    /// QID 0, or more than the host asked for.
    OutOfRange,
    /// The controller is not enabled.
    NotReady,
    /// There is such a queue.
    InUse,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("cntlid", &self.cntlid)
            .field("subnqn", &self.subsystem.nqn)
            .field("hostnqn", &self.hostnqn)
            .field("peer", &self.transport.peer)
            .field("ready", &self.ready)
            .field("closed", &self.closed())
            .finish_non_exhaustive()
    }
}

//! The target as its queues and the daemon see it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kvof_spec::Sqe;

use super::{
    CloseReason, Connected, DefError, QueueTransport, Reply, TransportKind, connect,
    controller::Notices,
    definition,
    registry::Registry,
    reload::{Changes, ReloadPlan},
};
use crate::model::{Namespace, TargetDef};

/// The smallest number of entries that an admin queue may have.
pub(super) const ADMIN_ENTRIES_MIN: u16 = 32;
/// The largest number of entries that an admin queue may have (ASQSZ).
const ADMIN_ENTRIES_MAX: u16 = 4096;
/// The largest number of entries that an I/O queue may have: a transport names each command's R2Ts by 16-bit tags.
const QUEUE_ENTRIES_MAX: u16 = 4096;
/// Bytes of a memory page (CAP.MPSMIN and MPSMAX 0), the unit of MDTS.
const PAGE: u32 = 4096;

/// What hosts may ask for, at most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetLimits {
    /// Controllers at a time, discovery controllers included.
    pub max_controllers: u16,
    /// I/O queues of a controller, at least 1.
    pub max_io_queues: u16,
    /// Entries of a queue, 1's based, 2 to 4096; admin queues have 32 to 4096 of them whatever this says. For RDMA there
    /// is another limit in `rdma`.
    pub max_queue_size: u16,
    /// Bytes of data of one command (MDTS), rounded down to a power of two, at least 4096.
    pub mdts: u32,
    /// Bytes of data in the capsule of an NVMe/TCP I/O queue, a multiple of 16 (IOCCSZ less the queue entry).
    pub in_capsule: u32,
    /// What differs over NVMe/RDMA.
    pub rdma: RdmaLimits,
    /// How long a controller may stay disabled or shut down, and a discovery controller without keep alive idle, before
    /// its association ends; at least two minutes to conform (section 3.5.2).
    pub association_timeout: Duration,
}

/// What hosts may ask for over NVMe/RDMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RdmaLimits {
    /// Bytes of data in the capsule of an I/O queue, a multiple of 16.
    pub in_capsule: u32,
    /// Entries of a queue as [`TargetLimits::max_queue_size`], if that is not less.
    pub max_queue_size: u16,
    /// Data Block descriptors of a command (MSDBD), at least 1.
    pub segments: u8,
}

impl Default for RdmaLimits {
    fn default() -> Self {
        Self { in_capsule: 4096, max_queue_size: 128, segments: 16 }
    }
}

impl Default for TargetLimits {
    fn default() -> Self {
        Self {
            max_controllers: 1024,
            max_io_queues: 128,
            max_queue_size: 1024,
            mdts: 2 << 20,
            in_capsule: 8192,
            rdma: RdmaLimits::default(),
            association_timeout: Duration::from_secs(120),
        }
    }
}

impl TargetLimits {
    /// Entries of an I/O queue over `kind`, 1's based, at least 2.
    #[must_use]
    pub fn queue_entries(&self, kind: TransportKind) -> u16 {
        self.max_entries(kind).clamp(2, QUEUE_ENTRIES_MAX)
    }

    /// Entries of an admin queue over `kind`, 1's based.
    #[must_use]
    pub fn admin_entries(&self, kind: TransportKind) -> u16 {
        self.max_entries(kind).clamp(ADMIN_ENTRIES_MIN, ADMIN_ENTRIES_MAX)
    }

    fn max_entries(&self, kind: TransportKind) -> u16 {
        match kind {
            TransportKind::Tcp => self.max_queue_size,
            TransportKind::Rdma => self.max_queue_size.min(self.rdma.max_queue_size),
        }
    }

    /// Bytes of data in the capsule of an I/O queue over `kind`.
    pub(super) const fn in_capsule(&self, kind: TransportKind) -> u32 {
        match kind {
            TransportKind::Tcp => self.in_capsule,
            TransportKind::Rdma => self.rdma.in_capsule,
        }
    }

    /// I/O queues, at least 1. FFFFh is no number of queues (section 5.27.1.5).
    pub(super) fn io_queues(&self) -> u16 {
        self.max_io_queues.clamp(1, u16::MAX - 1)
    }

    /// Bytes of the longest transfer that MDTS allows.
    pub(super) fn transfer_max(&self) -> u64 {
        u64::from(PAGE) << self.mdts_exponent()
    }

    /// MDTS: longest transfer, 2^MDTS pages.
    pub(super) fn mdts_exponent(&self) -> u8 {
        // An exponent of 0 would mean no limit, so a page is taken as two.
        u8::try_from((self.mdts / PAGE).max(2).ilog2()).unwrap_or(1)
    }
}

/// What a target serves at the moment, for logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Subsystems, the discovery subsystem not counted.
    pub subsystems: usize,
    /// Namespaces.
    pub namespaces: usize,
    /// I/O controllers.
    pub io_controllers: usize,
    /// Discovery controllers.
    pub discovery_controllers: usize,
    /// I/O queues.
    pub io_queues: usize,
}

/// A target: subsystems, namespaces, and the controllers of the hosts that are connected.
#[derive(Debug)]
pub struct Target {
    registry: Arc<Registry>,
}

impl Target {
    /// Serves `def` from `now` on.
    ///
    /// # Errors
    /// [`DefError`] if `def` contradicts itself or the specification.
    pub fn new(def: TargetDef, limits: TargetLimits, now: Instant) -> Result<Arc<Self>, DefError> {
        definition::check(&def)?;
        Ok(Arc::new(Self { registry: Arc::new(Registry::new(def, limits, now)) }))
    }

    /// Runs a Connect command (section 6.3) that came on a new connection with its data.
    ///
    /// # Errors
    /// The refusal, ready to be sent: its status and, in dword 0, which parameter is wrong.
    pub fn connect(
        &self,
        now: Instant,
        sqe: &Sqe,
        data: &[u8],
        transport: &QueueTransport,
    ) -> Result<Connected, Reply> {
        connect::connect(&self.registry, now, sqe, data, transport)
    }

    /// Works out what serving `def` instead would change. The caller opens the storage of [`ReloadPlan::attach`], and then
    /// calls [`Self::apply`].
    ///
    /// # Errors
    /// [`DefError`] if `def` cannot be served, or not without a restart.
    pub fn plan(&self, def: TargetDef) -> Result<ReloadPlan, DefError> {
        definition::check(&def)?;
        ReloadPlan::new(&self.registry, def)
    }

    /// Carries a plan out: hosts see what was added and are told of what changed. The caller then closes the storage of
    /// [`Changes::detached`].
    ///
    /// # Errors
    /// [`DefError::Superseded`] if another reload was applied since the plan was made.
    pub fn apply(&self, plan: ReloadPlan) -> Result<Changes, DefError> {
        plan.apply(&self.registry)
    }

    /// All namespaces, for opening their storage.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Arc<Namespace>> {
        self.registry.with(|state| {
            state.subsystems.values().flat_map(|s| s.namespaces().iter().cloned().collect::<Vec<_>>()).collect()
        })
    }

    /// Looks at the health of the pools, and tells hosts what has become worse since the last time (Asynchronous Event
    /// Requests, section 5.2).
    pub fn check_health(&self) {
        let telling: Vec<_> = self.registry.with(|state| {
            let worse = state.subsystems.values().filter_map(|subsystem| {
                let warnings = subsystem.new_warnings();
                (!warnings.is_empty()).then_some((Arc::clone(subsystem), warnings))
            });
            let worse: Vec<_> = worse.collect();
            let controllers = state.controllers.values();
            controllers
                .filter_map(|controller| {
                    let (_, warnings) = worse.iter().find(|(s, _)| Arc::ptr_eq(s, &controller.subsystem))?;
                    Some((Arc::clone(controller), Notices { warnings: *warnings, ..Notices::default() }))
                })
                .collect()
        });
        for (controller, notices) in telling {
            controller.notify(&notices);
        }
    }

    /// Ends every association, and refuses new ones. Queues are woken, and answer [`CloseReason::TargetStopped`].
    pub fn stop(&self) {
        let controllers: Vec<_> = self.registry.with(|state| {
            state.stopped = true;
            state.controllers.values().cloned().collect()
        });
        for controller in controllers {
            controller.close(CloseReason::TargetStopped);
        }
    }

    /// Counts.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.registry.with(|state| {
            let io = state.controllers.values().filter(|c| !c.subsystem.is_discovery);
            let io_controllers = io.clone().count();
            Summary {
                subsystems: state.subsystems.len(),
                namespaces: state.subsystems.values().map(|s| s.namespaces().len()).sum(),
                io_controllers,
                discovery_controllers: state.controllers.len() - io_controllers,
                io_queues: io.map(|c| c.queues()).sum(),
            }
        })
    }
}

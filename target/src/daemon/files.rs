//! What the process may use of the system: open files, and locked memory for RDMA.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The capability that lifts the limit of locked memory, as a bit of CapEff.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Open files beside connections: logs, rings, event descriptors, listeners.
const OTHER_FILES: u64 = 64;
/// Descriptors of one core: ring, event descriptor, RDMA's channels and completion queues, and what the runtime keeps.
const FILES_PER_CORE: u64 = 24;

/// Raises the soft limit as far as the hard one lets it, and warns if that is too little for `connections`.
pub(super) fn raise_limit(connections: u32, cores: usize, storage: usize) {
    let cores = u64::try_from(cores).unwrap_or(u64::MAX).saturating_mul(FILES_PER_CORE);
    let needed = u64::from(connections)
        .saturating_add(cores)
        .saturating_add(u64::try_from(storage).unwrap_or(u64::MAX))
        .saturating_add(OTHER_FILES);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    let reachable = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum: limit.maximum });
    let have = if raised.is_ok() { reachable } else { limit.current.unwrap_or(0) };
    if have < needed {
        tracing::warn!(
            have,
            needed,
            "too few open files are allowed for limits.connections; raise the limit (ulimit -n, LimitNOFILE=) or lower \
             limits.connections"
        );
    }
}

/// Raises the soft limit of locked memory as far as the hard one lets it, and warns if RDMA cannot have `bytes` then.
pub(super) fn raise_locked_memory(bytes: u64) {
    let limit = getrlimit(Resource::Memlock);
    let (Some(current), maximum) = (limit.current, limit.maximum) else { return };
    let reachable = maximum.unwrap_or(u64::MAX);
    let raised = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    let have = if raised.is_ok() { reachable } else { current };
    if have < bytes && !has_capability(CAP_IPC_LOCK) {
        tracing::warn!(
            have,
            needed = bytes,
            "less memory may be locked than RDMA may need; raise the limit (ulimit -l, LimitMEMLOCK=), or lower \
             reactor.memory"
        );
    }
}

fn has_capability(bit: u64) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).is_some_and(|bits| bits & bit != 0)
}

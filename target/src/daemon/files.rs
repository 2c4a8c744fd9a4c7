//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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

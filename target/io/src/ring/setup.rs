//! Making a ring with the best flags that the running kernel has.

use std::io;

use io_uring::IoUring;

/// Which kind of ring an [`EventLoop`](crate::EventLoop) asks for or has. A kernel without it gets the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RingSetup {
    /// Completions are processed only when the loop asks (SINGLE_ISSUER, DEFER_TASKRUN): Linux 6.1.
    #[default]
    Deferred,
    /// Completions are processed at the loop's next system call (COOP_TASKRUN): Linux 5.19.
    Cooperative,
    /// No optional flags: Linux 5.15.
    Plain,
}

impl RingSetup {
    fn next(self) -> Option<Self> {
        match self {
            Self::Deferred => Some(Self::Cooperative),
            Self::Cooperative => Some(Self::Plain),
            Self::Plain => None,
        }
    }

    fn build(self, sq_entries: u32, cq_entries: u32) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(cq_entries);
        match self {
            Self::Deferred => {
                builder.setup_submit_all().setup_taskrun_flag().setup_single_issuer().setup_defer_taskrun();
            }
            Self::Cooperative => {
                builder.setup_submit_all().setup_taskrun_flag().setup_coop_taskrun();
            }
            Self::Plain => {}
        }
        builder.build(sq_entries)
    }
}

/// A ring as `best` says or, on an older kernel, the next best, and which one it became.
pub(super) fn build(best: RingSetup, sq_entries: u32, cq_entries: u32) -> io::Result<(IoUring, RingSetup)> {
    let mut setup = best;
    loop {
        let error = match setup.build(sq_entries, cq_entries) {
            Ok(ring) if recent_enough(&ring) => return Ok((ring, setup)),
            Ok(_) => {
                let text = "this kernel's io_uring is too old: Linux 5.15 or later is needed";
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
            Err(error) => error,
        };
        match (error.raw_os_error(), setup.next()) {
            (Some(libc::EINVAL), Some(next)) => setup = next,
            _ => return Err(explain(&error)),
        }
    }
}

/// Completions are never dropped, waits take a timeout, and polls can be multishot. That last one has no feature flag; resource tags came
/// in the same release (5.13).
fn recent_enough(ring: &IoUring) -> bool {
    let params = ring.params();
    params.is_feature_nodrop() && params.is_feature_ext_arg() && params.is_feature_resource_tagging()
}

fn explain(error: &io::Error) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring",
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is not permitted: set the sysctl kernel.io_uring_disabled to 0 and let the container's seccomp profile pass the io_uring calls"
        }
        Some(libc::ENOMEM) => {
            "no memory for an io_uring: raise the locked-memory limit (ulimit -l) or use fewer entries"
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "no file descriptor left for an io_uring: raise the open-files limit (ulimit -n)"
        }
        _ => "cannot make an io_uring",
    };
    io::Error::new(error.kind(), format!("{hint} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setup_yields_a_ring() {
        for best in [RingSetup::Deferred, RingSetup::Cooperative, RingSetup::Plain] {
            let (ring, _) = build(best, 8, 64).unwrap();
            assert!(ring.params().cq_entries() >= 64);
        }
        assert_eq!(build(RingSetup::Plain, 8, 64).unwrap().1, RingSetup::Plain);
    }

    #[test]
    fn errors_name_the_way_out() {
        let text = explain(&io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(text.contains("kernel.io_uring_disabled"), "{text}");
        assert!(build(RingSetup::Deferred, 0, 0).is_err());
    }
}

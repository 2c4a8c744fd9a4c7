//! The Error Information log page of a controller: the newest refused commands.

use std::collections::VecDeque;

use kvof_spec::{
    AdminOpcode, Sqe, Status,
    log::{ErrorInformation, TransportType},
};

/// ELPE: entries that are kept, 0's based.
pub(super) const ELPE: u8 = 63;

/// Refused commands, newest first.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    count: u64,
    entries: VecDeque<ErrorInformation>,
}

impl ErrorLog {
    /// Enters an admin command that ended with `status`.
    pub(super) fn record(&mut self, sqe: &Sqe, status: Status) {
        self.count = self.count.saturating_add(1);
        let entry = ErrorInformation {
            error_count: self.count.into(),
            sqid: 0.into(),
            cid: sqe.cid,
            status_field: status.to_wire().into(),
            parameter_error_location: u16::MAX.into(),
            // A Fabrics command has no namespace; its type is in the same place.
            nsid: if sqe.opcode == AdminOpcode::FABRICS.0 { 0.into() } else { sqe.nsid },
            trtype: TransportType::TCP.0,
            ..ErrorInformation::default()
        };
        self.entries.push_front(entry);
        self.entries.truncate(usize::from(ELPE) + 1);
    }

    /// Refused commands over the life of the controller.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The log page: newest first, then empty entries.
    pub(super) fn page(&self) -> Vec<ErrorInformation> {
        let mut page: Vec<_> = self.entries.iter().copied().collect();
        page.resize(usize::from(ELPE) + 1, ErrorInformation::default());
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest() {
        let mut log = ErrorLog::default();
        assert_eq!(log.page().len(), 64);
        assert_eq!(log.page()[0].error_count.get(), 0);
        for cid in 0..100 {
            let sqe = Sqe { cid: cid.into(), ..Sqe::new(6) };
            log.record(&sqe, Status::INVALID_FIELD.with_dnr());
        }
        let page = log.page();
        assert_eq!((page.len(), log.count()), (64, 100));
        assert_eq!((page[0].error_count.get(), page[0].cid.get()), (100, 99));
        assert_eq!((page[63].error_count.get(), page[63].cid.get()), (37, 36));
        assert_eq!(page[0].status(), Status::INVALID_FIELD.with_dnr());
    }
}

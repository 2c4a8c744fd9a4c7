//! The tier itself, behind the interface of the others.

use kvof_io::SharedBuf;
use kvof_kv::Key;
use kvof_store::tier::{Admit, Tier, TierKey, TierStats};

use super::Policy;
use crate::traces::Trace;

/// What is done with a value that a host stores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is offered, as the engine does.
    Offered,
    /// Only what is read is offered.
    KeptOut,
    /// It is offered and counts as read once, which brings it into the main queue.
    CountedAsRead,
}

pub(crate) struct Production {
    tier: Tier,
    sizes: Vec<u32>,
    stored: Stored,
}

/// The key that stands for a numbered value.
pub(crate) fn key(id: u32) -> TierKey {
    let key = Key::new(&id.to_le_bytes()).unwrap_or_else(|error| unreachable!("{error}"));
    (0, key)
}

impl Production {
    pub(crate) fn new(trace: &Trace, limit: u64, stored: Stored) -> Self {
        Self { tier: Tier::new(limit), sizes: trace.sizes.clone(), stored }
    }

    pub(crate) fn stats(&self) -> TierStats {
        self.tier.stats()
    }
}

impl Policy for Production {
    fn get(&mut self, id: u32) -> bool {
        self.tier.get(&key(id)).is_some()
    }

    fn put(&mut self, id: u32, why: Admit) {
        if why == Admit::Stored && self.stored == Stored::KeptOut {
            return;
        }
        // The tier counts what a value is said to cost, so the trace needs no memory of its own.
        self.tier.insert(key(id), SharedBuf::from(&b""[..]), u64::from(self.sizes[id as usize]), why);
        if why == Admit::Stored && self.stored == Stored::CountedAsRead {
            let _ = self.tier.get(&key(id));
        }
    }
}

//! The policies that were compared. They work on numbered values of known sizes, without keys or memory.
//!
//! All of them refuse a value larger than an eighth of the limit, as the tier does.

mod adaptive;
mod belady;
mod lists;
mod queues;
mod tier;
mod tinylfu;

use kvof_store::tier::Admit;

use crate::traces::Trace;

pub(crate) use belady::Belady;
pub(crate) use tier::{Production, Stored, key};

pub(crate) trait Policy {
    /// Whether the value is there; a read of it.
    fn get(&mut self, id: u32) -> bool;
    /// Offers a value that is not there, or a new one.
    fn put(&mut self, id: u32, why: Admit);
}

pub(crate) type Make = fn(&Trace, u64) -> Box<dyn Policy>;

pub(crate) const POLICIES: &[(&str, Make)] = &[
    ("tier", |trace, limit| Box::new(Production::new(trace, limit, Stored::Offered))),
    ("FIFO", |trace, limit| Box::new(queues::Fifo::new(trace, limit))),
    ("LRU", |trace, limit| Box::new(queues::Lru::new(trace, limit))),
    ("CLOCK", |trace, limit| Box::new(queues::Clock::new(trace, limit))),
    ("SIEVE", |trace, limit| Box::new(queues::Sieve::new(trace, limit))),
    ("S3-FIFO", |trace, limit| Box::new(adaptive::S3::new(trace, limit, 10, false, false))),
    ("S3 50 %", |trace, limit| Box::new(adaptive::S3::new(trace, limit, 50, false, false))),
    ("S3 adapt", |trace, limit| Box::new(adaptive::S3::new(trace, limit, 10, true, false))),
    ("ARC", |trace, limit| Box::new(adaptive::Arc::new(trace, limit))),
    ("W-TinyLFU", |trace, limit| Box::new(tinylfu::TinyLfu::new(trace, limit))),
    ("optimal", |trace, limit| Box::new(Belady::new(trace, limit))),
];

/// What may be done with values that hosts store.
pub(crate) const STORED: &[(&str, Make)] = &[
    ("offered (chosen)", |trace, limit| Box::new(Production::new(trace, limit, Stored::Offered))),
    ("kept out", |trace, limit| Box::new(Production::new(trace, limit, Stored::KeptOut))),
    ("as if read once", |trace, limit| Box::new(Production::new(trace, limit, Stored::CountedAsRead))),
];

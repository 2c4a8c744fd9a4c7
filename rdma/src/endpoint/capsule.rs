//! Capsules: slots to receive them into, and to send them from.

use std::{mem, slice};

use super::{Endpoint, Op, config::stride, qp::Work};
use crate::{
    Memory, RdmaError, WorkError,
    completion::{WrId, WrKind},
};

/// A capsule to be sent.
#[derive(Debug)]
pub(super) struct Capsule {
    pub(super) invalidate: Option<u32>,
    pub(super) len: u32,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) enum Place {
    Slot(u32),
    /// All slots were taken.
    Heap(Box<[u8]>),
}

impl<B: Memory> Endpoint<B> {
    /// A received capsule, until it is released.
    #[must_use]
    pub fn received(&self, slot: u32) -> &[u8] {
        let Some(Some(len)) = self.held.get(slot as usize) else { return &[] };
        let start = self.receive_offset(slot);
        // SAFETY: the slot lies within the capsules' memory and has at least `len` bytes, initialised; the device does not write it
        // before `release`, which takes `&mut self`. It writes other slots meanwhile, so there must be no slice of them all.
        unsafe { slice::from_raw_parts(self.capsules.start().add(start), *len as usize) }
    }

    /// Gives the place of a received capsule back for another.
    pub fn release(&mut self, slot: u32) {
        if self.held.get(slot as usize).is_some_and(Option::is_some)
            && self.failed.is_none()
            && let Err(error) = self.post_receive(slot)
        {
            tracing::warn!(%error, "a receive cannot be posted");
            self.fail(WorkError::NOT_POSTED);
        }
    }

    /// A place in a send slot for a capsule.
    pub(super) fn place(&mut self, bytes: &[u8], invalidate: Option<u32>) -> Capsule {
        let bytes = bytes.get(..self.config.send_size as usize).unwrap_or(bytes);
        let place = match self.free_sends.pop() {
            Some(slot) => {
                self.write_slot(slot, bytes);
                Place::Slot(slot)
            }
            None => Place::Heap(bytes.into()),
        };
        Capsule { invalidate, len: bytes.len() as u32, place }
    }

    /// Whether the capsule of an operation has a slot; one that waited for a slot gets one, if there is one.
    pub(super) fn settle(&mut self, op: usize) -> bool {
        let Some(Op::Capsule { capsule, .. } | Op::Respond { capsule, .. }) = self.ops.get_mut(op) else { return true };
        if matches!(capsule.place, Place::Slot(_)) {
            return true;
        }
        let Some(slot) = self.free_sends.pop() else { return false };
        if let Place::Heap(bytes) = mem::replace(&mut capsule.place, Place::Slot(slot)) {
            self.write_slot(slot, &bytes);
        }
        true
    }

    /// The SEND of an operation's capsule, which has a slot.
    pub(super) fn send_work(&self, capsule: &Capsule) -> Work {
        let slot = if let Place::Slot(slot) = capsule.place { slot } else { 0 };
        let address = self.capsules.address() + self.send_offset(slot) as u64;
        Work::Send { address, lkey: self.lkey, len: capsule.len, invalidate: capsule.invalidate }
    }

    pub(super) fn free(&mut self, capsule: &Capsule) {
        if let Place::Slot(slot) = capsule.place {
            self.free_sends.push(slot);
        }
    }

    /// Copies a capsule into a send slot that no request names.
    pub(super) fn write_slot(&mut self, slot: u32, bytes: &[u8]) {
        let start = self.send_offset(slot);
        // SAFETY: the slot lies within the capsules' memory and has room for `send_size` bytes; it is free, so that neither the
        // device nor a reference has it. The device writes other slots meanwhile, so there must be no slice of them all.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.capsules.start().add(start), bytes.len()) };
    }

    pub(super) const fn receive_offset(&self, slot: u32) -> usize {
        slot as usize * stride(self.config.receive_size) as usize
    }

    pub(super) const fn send_offset(&self, slot: u32) -> usize {
        self.receive_offset(self.config.receives) + slot as usize * stride(self.config.send_size) as usize
    }

    pub(super) fn post_receive(&mut self, slot: u32) -> Result<(), RdmaError> {
        let id = WrId::new(self.config.key, self.unique, WrKind::Receive, slot);
        let address = self.capsules.address() + self.receive_offset(slot) as u64;
        let mr = self.capsules.registration(&self.device)?;
        // SAFETY: the slot lies within the capsules' memory, which outlives the queue pair, and `received` gives no reference to it
        // until it is held again.
        unsafe { self.qp.post_receive(id, address, mr, self.config.receive_size) }?;
        if let Some(place) = self.held.get_mut(slot as usize) {
            *place = None;
        }
        Ok(())
    }
}

//! The table of commands in flight, by command identifier.
//!
//! A CID is an index of 12 bits and a generation of 4, so that a second answer to a command, or one to a command that
//! was answered before, hits no other command. An index whose command expired unanswered stays taken until the answer
//! comes or the connection ends.

use std::time::Instant;

use super::TimeLimit;
use crate::buffer::Payload;

const INDEX_BITS: u32 = 12;
const INDEX_MASK: u16 = (1 << INDEX_BITS) - 1;

/// One command in flight. `X` is what the transport keeps with it.
#[derive(Debug)]
pub(crate) struct InFlight<X> {
    /// Command identifier on the wire.
    pub(crate) cid: u16,
    /// The submitter's name for the command.
    pub(crate) key: usize,
    /// The command's name in errors.
    pub(crate) name: &'static str,
    /// The data; `Payload::None` again once the command has expired.
    pub(crate) payload: Payload,
    /// Time limit.
    pub(crate) limit: Option<TimeLimit>,
    /// When the submitter was told that the time is over; the command still waits for its answer.
    pub(crate) expired: Option<Instant>,
    /// The transport's state of the command.
    pub(crate) transfer: X,
}

/// The commands in flight on one queue.
#[derive(Debug)]
pub(crate) struct CommandTable<X> {
    slots: Vec<Slot<X>>,
    free: Vec<u16>,
    expired: usize,
    /// Nothing is due before this.
    next_check: Option<Instant>,
}

#[derive(Debug)]
struct Slot<X> {
    generation: u16,
    command: Option<InFlight<X>>,
}

impl<X> CommandTable<X> {
    /// A table for `capacity` commands, at most 4096.
    pub(crate) fn new(capacity: u16) -> Self {
        let capacity = capacity.min(1 << INDEX_BITS);
        Self {
            slots: (0..capacity).map(|_| Slot { generation: 0, command: None }).collect(),
            free: (0..capacity).rev().collect(),
            expired: 0,
            next_check: None,
        }
    }

    /// Commands that may be in flight beside those that expired and still keep their place.
    pub(crate) fn usable(&self) -> usize {
        self.slots.len() - self.expired
    }

    /// Commands in flight, expired ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts a command in and gives its CID; gives it back if the table is full.
    pub(crate) fn insert(
        &mut self,
        key: usize,
        name: &'static str,
        payload: Payload,
        limit: Option<TimeLimit>,
        transfer: X,
    ) -> Result<u16, Payload> {
        let Some(index) = self.free.pop() else { return Err(payload) };
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return Err(payload) };
        let cid = slot.generation << INDEX_BITS | index;
        slot.command = Some(InFlight { cid, key, name, payload, limit, expired: None, transfer });
        if let Some(limit) = limit {
            self.next_check = Some(self.next_check.map_or(limit.deadline, |at| at.min(limit.deadline)));
        }
        Ok(cid)
    }

    /// The command with this CID.
    pub(crate) fn get(&self, cid: u16) -> Option<&InFlight<X>> {
        self.slots.get(usize::from(cid & INDEX_MASK))?.command.as_ref().filter(|c| c.cid == cid)
    }

    /// The command with this CID.
    pub(crate) fn get_mut(&mut self, cid: u16) -> Option<&mut InFlight<X>> {
        self.slots.get_mut(usize::from(cid & INDEX_MASK))?.command.as_mut().filter(|c| c.cid == cid)
    }

    /// Takes the command with this CID out: it was answered.
    pub(crate) fn remove(&mut self, cid: u16) -> Option<InFlight<X>> {
        let index = cid & INDEX_MASK;
        let slot = self.slots.get_mut(usize::from(index))?;
        let command = slot.command.take_if(|c| c.cid == cid)?;
        slot.generation = (slot.generation + 1) % (1 << (16 - INDEX_BITS));
        self.free.push(index);
        if command.expired.is_some() {
            self.expired -= 1;
        }
        Some(command)
    }

    /// The CIDs of all commands.
    pub(crate) fn cids(&self) -> Vec<u16> {
        self.slots.iter().filter_map(|s| s.command.as_ref().map(|c| c.cid)).collect()
    }

    /// When [`Self::due`] has to be asked next.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        self.next_check
    }

    /// CIDs whose time is over now: their limit has passed, or they expired and as much time again has passed.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<u16> {
        if self.next_check.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for command in self.slots.iter().filter_map(|s| s.command.as_ref()) {
            let Some(limit) = command.limit else { continue };
            let at = match command.expired {
                None => limit.deadline,
                Some(since) => since.checked_add(limit.after).unwrap_or(since),
            };
            if at <= now {
                due.push(command.cid);
            } else {
                next = Some(next.map_or(at, |n| n.min(at)));
            }
        }
        self.next_check = next;
        due
    }

    /// Marks a command as expired and takes its buffer; it keeps its place.
    pub(crate) fn expire(&mut self, cid: u16, now: Instant) -> Option<Payload> {
        let command = self.get_mut(cid)?;
        if command.expired.is_some() {
            return None;
        }
        command.expired = Some(now);
        let payload = core::mem::take(&mut command.payload);
        let again = command.limit.and_then(|limit| now.checked_add(limit.after));
        self.expired += 1;
        if let Some(again) = again {
            self.next_check = Some(self.next_check.map_or(again, |at| at.min(again)));
        }
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cid_names_one_command_only() {
        let mut table = CommandTable::new(2);
        let first = table.insert(7, "a", Payload::None, None, ()).unwrap();
        assert_eq!(table.remove(first).unwrap().key, 7);
        assert!(table.remove(first).is_none());
        let mut seen = vec![first];
        for _ in 0..15 {
            let cid = table.insert(8, "b", Payload::None, None, ()).unwrap();
            assert!(!seen.contains(&cid), "{cid:#x} came back too early");
            assert!(table.get(first).is_none());
            table.remove(cid).unwrap();
            seen.push(cid);
        }
    }

    #[test]
    fn an_expired_command_keeps_its_place() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut table = CommandTable::new(2);
        let cid = table.insert(0, "a", Payload::None, TimeLimit::new(now, second), ()).unwrap();
        assert!(table.due(now).is_empty());
        assert_eq!(table.due(now + second), [cid]);
        table.expire(cid, now + second).unwrap();
        assert_eq!((table.usable(), table.len()), (1, 1));
        table.insert(1, "b", Payload::None, None, ()).unwrap();
        assert!(table.insert(2, "c", Payload::None, None, ()).is_err());
        assert_eq!(table.due(now + second * 2), [cid]);
        table.remove(cid).unwrap();
        assert_eq!((table.usable(), table.len()), (2, 1));
        assert_eq!(table.cids().len(), 1);
    }
}

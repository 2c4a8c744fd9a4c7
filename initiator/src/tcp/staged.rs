//! Commands whose data are in device memory: staged through pinned pieces, and answered when their last copy is over.

use std::os::fd::BorrowedFd;

use kvof_memory::{
    CopyError,
    staging::{self, Stager, TransferId},
};
use kvof_spec::tcp::H2cData;
use zerocopy::IntoBytes;

use super::{
    Negotiated, TcpQueue, Transfer, crc32c,
    transmit::{Grant, Mark, Transmitter},
};
use crate::{
    ConnectionError, Error,
    queue::{Answer, CommandTable, Direction, HostQueue, InFlight},
};

/// A command whose data are staged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    pub(super) id: TransferId,
    key: usize,
    name: &'static str,
    len: u32,
}

impl Staged {
    pub(super) fn of(command: &InFlight<Transfer>) -> Option<Self> {
        let id = command.transfer.staging?;
        Some(Self { id, key: command.key, name: command.name, len: command.transfer.len })
    }

    fn error(&self, reason: &CopyError) -> Error {
        Error::Memory { command: self.name, len: self.len, reason: reason.to_string().into() }
    }
}

/// A command that has its answer, which waits for copies of its data to be over.
#[derive(Debug)]
pub(super) struct Leaving {
    staged: Staged,
    /// None if it was answered before: its time was over.
    answer: Option<Answer>,
}

impl TcpQueue {
    /// Opens the staging of command `cid`, whose data are in `range`. False: it cannot be had, and the command is answered.
    pub(super) fn stage(&mut self, cid: u16, range: staging::DeviceRange) -> bool {
        let Some(command) = self.ledger.commands.get_mut(cid) else { return false };
        let direction = match command.transfer.direction {
            Direction::None => return true,
            Direction::ToController => staging::Direction::ToHost,
            Direction::FromController => staging::Direction::ToDevice,
        };
        match self.stager.open(range, direction) {
            Ok(id) => {
                command.transfer.staging = Some(id);
                true
            }
            Err(error) => {
                let (command, len) = (command.name, command.transfer.len);
                self.ledger.give_up(cid, Error::Memory { command, len, reason: error.to_string().into() });
                false
            }
        }
    }

    /// The command was just answered: holds the answer back while a copy of its data runs.
    pub(super) fn hold_back(&mut self, staged: Staged) {
        let answer = self.ledger.recall(staged.key);
        self.leaving.push(Leaving { staged, answer });
        self.let_go();
    }

    /// Gives out the answers whose copies are over.
    fn let_go(&mut self) {
        let mut at = 0;
        while let Some(leaving) = self.leaving.get(at) {
            let Some(result) = self.stager.end(leaving.staged.id) else {
                at += 1;
                continue;
            };
            let Leaving { staged, answer } = self.leaving.swap_remove(at);
            let Some(mut answer) = answer else { continue };
            if let (Err(error), Ok(_)) = (result, &answer.result) {
                answer.result = Err(staged.error(&error));
            }
            self.ledger.release(staged.key, answer);
        }
    }

    /// Takes note of copies that are over; gives whether there were any. To be called while [`Self::is_copying`], at
    /// once when [`Self::copies_fd`] is readable.
    pub(crate) fn handle_copies(&mut self) -> bool {
        if !self.stager.poll() {
            return false;
        }
        self.let_go();
        self.resume();
        true
    }

    /// Whether copies between device memory and pinned pieces run.
    pub(crate) const fn is_copying(&self) -> bool {
        self.stager.is_copying()
    }

    /// Whether answers wait for copies to be over.
    pub(crate) const fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Readable when a copy is over.
    pub(crate) fn copies_fd(&self) -> Option<BorrowedFd<'_>> {
        self.stager.fd()
    }

    /// Holds back the answers of commands whose time was just over, and that keep their place.
    pub(super) fn hold_back_expired(&mut self) {
        for cid in self.ledger.commands.cids() {
            let Some(command) = self.ledger.commands.get_mut(cid).filter(|c| c.expired.is_some()) else { continue };
            let Some(staged) = Staged::of(command) else { continue };
            command.transfer.staging = None;
            self.stager.close(staged.id);
            self.hold_back(staged);
        }
    }

    /// Makes one H2CData PDU of staged bytes, if some are there that an R2T has asked for.
    pub(super) fn make_staged(&mut self, negotiated: &Negotiated) -> bool {
        let (cid, reason) = match self.tx.make_staged(&mut self.stager, &self.ledger.commands, negotiated) {
            Ok(made) => return made,
            Err(failed) => failed,
        };
        // The controller waits for these bytes and will not have them: that is the end of the connection.
        if let Some(staged) = self.ledger.commands.get(cid).and_then(Staged::of) {
            self.stager.close(staged.id);
            self.ledger.give_up(cid, staged.error(&reason));
            self.hold_back(staged);
            self.fail(ConnectionError::Memory { command: staged.name, reason: reason.to_string().into() });
        }
        false
    }
}

impl Transmitter {
    /// Notes an R2T for staged data.
    pub(super) fn push_staged(&mut self, grant: Grant) {
        self.staged.push_back(grant);
    }

    /// Makes the next H2CData PDU of staged data if its bytes are there. Gives the command whose bytes cannot be had.
    fn make_staged(
        &mut self,
        stager: &mut Stager,
        commands: &CommandTable<Transfer>,
        negotiated: &Negotiated,
    ) -> Result<bool, (u16, CopyError)> {
        // Bytes become ready in the order of the R2Ts, so they belong to the first of them.
        while let Some(grant) = self.staged.front_mut() {
            let staging = commands.get(grant.cid).and_then(|c| c.transfer.staging);
            if staging.is_none() {
                self.staged.pop_front();
                continue;
            }
            let ready = match stager.next(negotiated.maxh2cdata as usize) {
                Ok(Some(ready)) => ready,
                Ok(None) => return Ok(false),
                Err((_, error)) => return Err((grant.cid, error)),
            };
            debug_assert!(staging == Some(ready.id) && ready.offset == grant.offset as usize);
            // At most maxh2cdata.
            let len = ready.len as u32;
            let (cid, offset, last) = (grant.cid, grant.offset, len >= grant.left);
            let pdu = H2cData::new(cid, grant.ttag, offset, len, last, negotiated.digests, negotiated.cpda);
            grant.offset += len;
            grant.left = grant.left.saturating_sub(len);
            if last {
                self.staged.pop_front();
            }
            let digest = negotiated.digests.data.then(|| {
                let bytes = stager.bytes(ready.slot, ready.at, ready.len).unwrap_or_default();
                crc32c(bytes).to_le_bytes()
            });
            let tail = digest.as_ref().map_or(&[][..], |d| d);
            self.push_staged_pdu(pdu.as_bytes(), pdu.ch.pdo, ready, tail, negotiated, Mark::Data { cid, len, last });
            return Ok(true);
        }
        Ok(false)
    }
}

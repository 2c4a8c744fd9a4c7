//! Memory that the peer may read or write, under keys that die.

use super::{Endpoint, Event, Op, RemoteAccess, RemoteKey, qp::Work};
use crate::{Memory, Mr, MrAccess, RdmaError, WorkError, window::Window};

/// Memory that the peer can reach.
#[derive(Debug)]
pub(super) struct Exposure<B> {
    pub(super) memory: B,
    pub(super) by: By,
    /// The peer's SEND has invalidated its key.
    pub(super) is_dead: bool,
}

#[derive(Debug)]
pub(super) enum By {
    Window(Window),
    /// A registration of its own, for devices without windows.
    Registration(Mr),
}

impl<B: Memory> Endpoint<B> {
    /// Lets the peer read or write `memory` under a key of its own, from the next capsule on, until [`Self::conceal`] of the same
    /// `token`.
    ///
    /// # Errors
    /// The memory, and why it cannot be exposed: it is read-only, cannot be registered, or the token is in use.
    pub fn expose(&mut self, token: u64, memory: B, access: RemoteAccess) -> Result<RemoteKey, (B, RdmaError)> {
        if self.exposed.contains_key(&token) {
            return Err((memory, RdmaError::Call { call: "exposing memory", errno: libc::EEXIST }));
        }
        let write = access == RemoteAccess::Write;
        if write && !memory.is_writable() {
            let len = memory.len();
            return Err((memory, RdmaError::ReadOnly { len }));
        }
        let (address, len) = (memory.address(), memory.len() as u64);
        let by = if self.device.limits().windows { self.bind(&memory, write) } else { self.register(&memory, write) };
        let by = match by {
            Ok(by) => by,
            Err(error) => return Err((memory, error)),
        };
        let (key, invalidatable) = match &by {
            By::Window(window) => (window.key(), true),
            By::Registration(mr) => (mr.rkey(), false),
        };
        self.keys.insert(key, token);
        self.exposed.insert(token, Exposure { memory, by, is_dead: false });
        Ok(RemoteKey { address, len, key, invalidatable })
    }

    fn bind(&mut self, memory: &B, write: bool) -> Result<By, RdmaError> {
        let mr = memory.registration(&self.device)?.raw();
        let mut window = match self.windows.pop() {
            Some(window) => window,
            None => Window::new(&self.device)?,
        };
        let (key, address, len) = (window.next_key(), memory.address(), memory.len() as u64);
        self.binds.push(Work::Bind { window: window.raw(), key, mr, address, len, write });
        Ok(By::Window(window))
    }

    fn register(&self, memory: &B, write: bool) -> Result<By, RdmaError> {
        let access = if write { MrAccess::RemoteWrite } else { MrAccess::RemoteRead };
        memory.register_exactly(&self.device, access).map(By::Registration)
    }

    /// Takes exposed memory out of the peer's reach; [`Event::Concealed`] gives it back, at once where its key is dead already, and after
    /// a failure. Nothing happens if nothing is exposed as `token`.
    pub fn conceal(&mut self, token: u64) {
        let Some(exposure) = self.exposed.get(&token) else { return };
        if let By::Window(window) = &exposure.by
            && let Some(at) =
                self.binds.iter().position(|bind| matches!(bind, Work::Bind { key, .. } if *key == window.key()))
        {
            // No capsule took the binding along: it never was.
            self.binds.remove(at);
            return self.concealed(token);
        }
        let key = match &exposure.by {
            By::Window(window) if !exposure.is_dead && self.failed.is_none() => window.key(),
            // After a failure no work request can invalidate the key: it goes with its window or registration.
            By::Window(_) | By::Registration(_) => return self.concealed(token),
        };
        let op = self.ops.insert(Op::Invalidate { token, key });
        self.enqueue(op);
    }

    /// Takes all memory out of the peer's reach, at the price of the queue pair.
    pub(super) fn conceal_all(&mut self) {
        self.fail(WorkError::FLUSHED);
        // Windows go before their queue pair: Soft-RoCE keeps it for 50 seconds otherwise.
        for token in self.exposed.keys().copied().collect::<Vec<_>>() {
            self.concealed(token);
        }
        self.windows.clear();
    }

    pub(super) fn concealed(&mut self, token: u64) {
        let Some(exposure) = self.exposed.remove(&token) else { return };
        match exposure.by {
            By::Window(window) => {
                self.keys.remove(&window.key());
                if self.failed.is_none() {
                    self.windows.push(window);
                }
            }
            By::Registration(mr) => {
                self.keys.remove(&mr.rkey());
            }
        }
        self.events.push_back(Event::Concealed { token, memory: exposure.memory });
    }
}

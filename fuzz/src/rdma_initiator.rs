//! The host library's NVMe/RDMA queue against an arbitrary controller. The script's form is the host library's own.

/// Runs `data` as a script of a host, its controller and its device.
pub fn rdma_initiator(data: &[u8]) {
    kvof_initiator::fuzzing::rdma_host_queue(data);
}

/// Steps of scripts; see `kvof_initiator::fuzzing`.
mod step {
    pub(super) const READ: u8 = 0;
    pub(super) const STORE: u8 = 1;
    pub(super) const NO_DATA: u8 = 2;
    pub(super) const RESPONSE: u8 = 3;
    pub(super) const BYTES: u8 = 4;
    pub(super) const ARRIVED: u8 = 5;
    pub(super) const ONE_ARRIVED: u8 = 6;
    pub(super) const CONCEALED: u8 = 7;
    pub(super) const WRITE: u8 = 8;
    pub(super) const TIME: u8 = 9;
    pub(super) const REFUSE: u8 = 10;
    pub(super) const WORK_FAILED: u8 = 11;
}

/// Flags of a script.
const IN_CAPSULE: u8 = 1;
const FLOW_CONTROL: u8 = 2;
const ARRIVES_AT_ONCE: u8 = 4;
const CONCEALS_AT_ONCE: u8 = 8;
const INVALIDATES: u8 = 16;

/// Whose key a response invalidates.
const NONE: u8 = 0;
const OWN: u8 = 2;
const OTHER: u8 = 4;
const ANY: u8 = 6;
/// A response has an SQHD.
const SQHD: u8 = 1;

struct Script(Vec<u8>);

impl Script {
    fn new(flags: u8, crqsize: u8) -> Self {
        Self(vec![flags, crqsize - 1])
    }

    /// `how`: 0 a vector, 1 a buffer, 2 memory of another type; 64 more: as much as the completion says.
    fn submit(self, kind: u8, len: u16, how: u8) -> Self {
        self.with(&[kind]).with(&len.to_le_bytes()).with(&[how])
    }

    fn respond(self, cid: u8, status: u16, dw0: u16, how: u8) -> Self {
        self.with(&[step::RESPONSE, cid]).with(&status.to_le_bytes()).with(&dw0.to_le_bytes()).with(&[how])
    }

    fn write(self, cid: u8, offset: u16, len: u16) -> Self {
        self.with(&[step::WRITE, cid]).with(&offset.to_le_bytes()).with(&len.to_le_bytes())
    }

    fn with(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

pub(crate) fn seeds(add: &mut dyn FnMut(&str, Vec<u8>)) {
    let prompt = IN_CAPSULE | FLOW_CONTROL | ARRIVES_AT_ONCE | CONCEALS_AT_ONCE | INVALIDATES;
    let slow = IN_CAPSULE | FLOW_CONTROL | INVALIDATES;
    let three = |flags| {
        let script = Script::new(flags, 8).submit(step::READ, 3000, 0).submit(step::STORE, 100, 1);
        script.submit(step::STORE, 5000, 2).submit(step::NO_DATA, 0, 0)
    };
    for (name, flags) in [("prompt", prompt), ("slow", slow), ("admin", ARRIVES_AT_ONCE), ("lasting-keys", slow & !16)]
    {
        let script = three(flags).write(0, 0, 3000).respond(0, 0, 0, OWN).respond(1, 0, 0, NONE);
        let script = script.respond(2, 0x82, 0, OWN).respond(3, 0, 7, SQHD);
        add(name, script.with(&[step::ARRIVED, step::CONCEALED]).0);
    }
    for (name, how) in [("key-of-another", OTHER), ("any-key", ANY), ("sqhd", SQHD)] {
        add(name, three(slow).respond(0, 0, 300, how).0);
    }
    let script = three(prompt).respond(0, 0, 0, OWN);
    add("twice", script.respond(0, 0, 0, NONE).0);
    add("retrieve", Script::new(prompt, 8).submit(step::READ, 3000, 64 + 2).write(0, 0, 50).respond(0, 0, 50, OWN).0);
    add("beyond", Script::new(prompt, 8).submit(step::READ, 30, 1).write(0, 1, 30).respond(0, 0, 0, OWN).0);
    add("late", three(slow).with(&[step::TIME, 4]).write(0, 0, 9).0);
    add(
        "late-in-capsule",
        Script::new(prompt, 8).submit(step::STORE, 9, 0).with(&[step::TIME, 4]).respond(0, 0, 0, 0).0,
    );
    add("short", three(prompt).with(&[step::BYTES, 15]).with(&[0; 15]).0);
    add(
        "refused",
        Script::new(prompt, 8).with(&[step::REFUSE, 1]).submit(step::READ, 9, 2).submit(step::STORE, 999, 0).0,
    );
    let script = three(slow).with(&[step::ONE_ARRIVED, 1, step::ONE_ARRIVED, 1]).respond(1, 0, 0, NONE);
    add("work-failed", script.with(&[step::WORK_FAILED, 0xff, 0]).respond(0, 0, 0, OWN).0);
    let crowd = (0..12).fold(Script::new(prompt, 3), |script, n| script.submit(step::READ, 100 * n, n as u8));
    add("crowd", crowd.respond(2, 0, 0, OWN).submit(step::STORE, 5, 0).0);
}

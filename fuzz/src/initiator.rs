//! The host library against an arbitrary controller. The script's form is the host library's own.

use kvof_spec::{
    Cqe, IntoBytes, Status,
    tcp::{C2hData, CapsuleResp, Digests, FatalErrorStatus, IcResp, PduType, R2t, TermReq},
};

use crate::input::crc32c;

/// Runs `data` as a script of a host and its controller.
pub fn initiator(data: &[u8]) {
    kvof_initiator::fuzzing::host_queue(data);
}

/// Parts of scripts; see `kvof_initiator::fuzzing`.
mod step {
    pub(super) const READ: u8 = 0;
    pub(super) const WRITE: u8 = 1;
    pub(super) const NO_DATA: u8 = 2;
    pub(super) const SEND_SOME: u8 = 3;
    pub(super) const SEND: u8 = 4;
    pub(super) const BYTES: u8 = 5;
    pub(super) const RESPONSE: u8 = 6;
    pub(super) const DATA: u8 = 7;
    pub(super) const R2T: u8 = 8;
    pub(super) const TIME: u8 = 9;
}

struct Script(Vec<u8>);

impl Script {
    /// `flags`: bit 0 header digest, bit 1 data digest, bit 2 a good ICResp comes at once.
    fn new(flags: u8, hpda: u8, maxr2t: u8) -> Self {
        let mut bytes = vec![flags, hpda, maxr2t];
        if flags & 4 != 0 {
            bytes.extend([0, 0, 0]);
        }
        Self(bytes)
    }

    fn step(mut self, kind: u8, words: &[u16]) -> Self {
        self.0.push(kind);
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    fn named(mut self, kind: u8, cid: u8, words: &[u16]) -> Self {
        self.0.extend([kind, cid]);
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    fn data(self, cid: u8, offset: u16, len: u16, how: u8) -> Self {
        let mut script = self.named(step::DATA, cid, &[offset, len]);
        script.0.push(how);
        script
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        for bytes in bytes.chunks(255) {
            self.0.extend([step::BYTES, bytes.len() as u8]);
            self.0.extend(bytes);
        }
        self
    }

    fn later(mut self, quarters: u8) -> Self {
        self.0.extend([step::TIME, quarters]);
        self
    }
}

pub(crate) fn seeds(add: &mut dyn FnMut(&str, Vec<u8>)) {
    for (name, flags, hpda) in [("plain", 4, 0), ("header-digest", 5, 0), ("both-digests", 7, 31), ("aligned", 4, 15)] {
        let script =
            Script::new(flags, hpda, 3).step(step::READ, &[5000]).step(step::WRITE, &[100]).step(step::WRITE, &[9000]);
        let script = script.step(step::NO_DATA, &[]).step(step::SEND, &[]);
        // CIDs are the index in the table.
        let script = script.data(0, 0, 3000, 0).data(0, 3000, 2000, 1).named(step::RESPONSE, 0, &[0]).named(
            step::RESPONSE,
            1,
            &[0],
        );
        let script =
            script.named(step::R2T, 2, &[7, 0, 4000]).named(step::R2T, 2, &[8, 4000, 5000]).step(step::SEND, &[]);
        let script = script.named(step::RESPONSE, 2, &[0]).named(step::RESPONSE, 3, &[0x0187]);
        add(&format!("session-{name}"), script.0);
    }
    let good = || Script::new(4, 0, 0);
    add("success-flag", good().step(step::READ, &[512]).step(step::SEND, &[]).data(0, 0, 512, 3).0);
    add(
        "short-read",
        good().step(step::READ, &[512]).step(step::SEND, &[]).data(0, 0, 100, 1).named(step::RESPONSE, 0, &[0]).0,
    );
    add("too-much", good().step(step::READ, &[512]).step(step::SEND, &[]).data(0, 0, 513, 1).0);
    add("out-of-order", good().step(step::READ, &[512]).step(step::SEND, &[]).data(0, 4, 100, 0).0);
    add("after-last", good().step(step::READ, &[512]).step(step::SEND, &[]).data(0, 0, 4, 1).data(0, 4, 4, 1).0);
    add("data-for-a-write", good().step(step::WRITE, &[9000]).step(step::SEND, &[]).data(0, 0, 4, 1).0);
    add(
        "answer-twice",
        good()
            .step(step::NO_DATA, &[])
            .step(step::SEND, &[])
            .named(step::RESPONSE, 0, &[0])
            .named(step::RESPONSE, 0, &[0])
            .0,
    );
    add(
        "answer-early",
        good().step(step::WRITE, &[9000]).step(step::SEND_SOME, &[10]).named(step::RESPONSE, 0, &[0]).0,
    );
    add("r2t-beyond", good().step(step::WRITE, &[900]).step(step::SEND, &[]).named(step::R2T, 0, &[1, 800, 200]).0);
    add(
        "r2t-too-many",
        good()
            .step(step::WRITE, &[900])
            .step(step::SEND, &[])
            .named(step::R2T, 0, &[1, 0, 4])
            .named(step::R2T, 0, &[2, 4, 4])
            .0,
    );
    add(
        "late-answer",
        good()
            .step(step::READ, &[512])
            .step(step::SEND, &[])
            .later(5)
            .data(0, 0, 512, 1)
            .named(step::RESPONSE, 0, &[0])
            .0,
    );
    add("late-write", good().step(step::WRITE, &[5000]).step(step::SEND, &[]).later(7).later(7).0);
    add("late-in-the-middle", {
        let mut script = good().step(step::READ, &[512]).step(step::SEND, &[]).data(0, 0, 512, 5);
        script.0.extend(200_u16.to_le_bytes());
        script.later(5).bytes(&[0; 400]).named(step::RESPONSE, 0, &[0]).0
    });
    let none = Digests::default();
    let raw = |bytes: &[u8]| {
        Script::new(3, 0, 0).step(step::SEND, &[]).bytes(bytes).step(step::NO_DATA, &[]).step(step::SEND, &[]).0
    };
    add("icresp-bytes", raw(IcResp::new(3, Digests { header: true, data: false }, 4096).as_bytes()));
    add("icresp-small-maxh2cdata", raw(IcResp::new(0, none, 4095).as_bytes()));
    add("icresp-odd-alignment", raw(IcResp::new(32, none, 4096).as_bytes()));
    add("term-req", {
        let term = TermReq::new(PduType::C2H_TERM_REQ, FatalErrorStatus::SEQUENCE_ERROR, 0, 24);
        let mut bytes = term.as_bytes().to_vec();
        bytes.resize(48, 0);
        good().step(step::READ, &[512]).step(step::SEND, &[]).bytes(&bytes).0
    });
    add("wrong-header-digest", {
        let pdu = CapsuleResp::new(Cqe::new(0, Status::SUCCESS), Digests { header: true, data: false });
        let mut bytes = pdu.as_bytes().to_vec();
        bytes.extend(crc32c(&bytes).map(|b| !b));
        Script::new(5, 0, 0).step(step::NO_DATA, &[]).step(step::SEND, &[]).bytes(&bytes).0
    });
    add("wrong-data-digest", {
        let digests = Digests { header: false, data: true };
        let mut bytes = C2hData::new(0, 0, 8, true, false, digests, 0).as_bytes().to_vec();
        bytes.extend([1; 12]);
        Script::new(6, 0, 0).step(step::READ, &[8]).step(step::SEND, &[]).bytes(&bytes).named(step::RESPONSE, 0, &[0]).0
    });
    add("r2t-bytes", {
        let pdu = R2t::new(0, 1, 0, u32::MAX, none);
        good().step(step::WRITE, &[9000]).step(step::SEND, &[]).bytes(pdu.as_bytes()).0
    });
}

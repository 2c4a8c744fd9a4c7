//! Sessions to begin from.

use super::action::{Action, Command, Sgl};
use crate::target::{ADMIN, kinds};

struct Session {
    bytes: Vec<u8>,
}

const NO_DATA: Sgl = Sgl::Keyed { len: 0, invalidate: false, fault: 0 };

const fn keyed(len: u32) -> Sgl {
    Sgl::Keyed { len, invalidate: false, fault: 0 }
}

const fn invalidated(len: u32) -> Sgl {
    Sgl::Keyed { len, invalidate: true, fault: 0 }
}

impl Session {
    fn new(bits: u8) -> Self {
        Self { bytes: vec![bits] }
    }

    fn act(&mut self, action: &Action) -> &mut Self {
        action.write(&mut self.bytes);
        self
    }

    fn open(&mut self, conn: u8, qid: u8, cattr: u8, form: u8) -> &mut Self {
        self.act(&Action::Open { core: conn, qid, hrqsize: 32, hsqsize: 31, cntlid: 0 });
        self.act(&Action::Connect { conn, qid, sqsize: 31, kato: 0, cattr, name: 0, cntlid: 0, form }).work()
    }

    /// A controller on connection 0 and an I/O queue on 1.
    fn controller(&mut self, cattr: u8) -> &mut Self {
        self.open(0, ADMIN, 0, 1).send(0, kinds::ENABLE, |_| {}).work().open(1, 1, cattr, 0)
    }

    fn send(&mut self, conn: u8, kind: u8, change: impl FnOnce(&mut Command)) -> &mut Self {
        let mut command = Command { kind, cid: 0, nsid: 1, what: 0, options: 0, size: 0, sgl: NO_DATA, behind: 0 };
        change(&mut command);
        self.act(&Action::Command { conn, command })
    }

    fn store(&mut self, what: u8, size: u32, sgl: Sgl, behind: u16) -> &mut Self {
        self.send(1, kinds::STORE, |c| (c.what, c.size, c.sgl, c.behind) = (what, size, sgl, behind))
    }

    fn retrieve(&mut self, what: u8, size: u32, sgl: Sgl) -> &mut Self {
        self.send(1, kinds::RETRIEVE, |c| (c.what, c.size, c.sgl) = (what, size, sgl))
    }

    fn hold(&mut self, what: u8) -> &mut Self {
        self.act(&Action::Hold { conn: 1, what })
    }

    fn let_go(&mut self, which: u8, fails: bool) -> &mut Self {
        self.act(&Action::Let { conn: 1, which, fails })
    }

    fn work(&mut self) -> &mut Self {
        self.act(&Action::Work(200))
    }
}

/// Gives every seed to `add`.
pub(crate) fn seeds(add: &mut dyn FnMut(&str, Vec<u8>)) {
    let mut session = |name: &str, bits: u8, write: &dyn Fn(&mut Session)| {
        let mut s = Session::new(bits);
        write(&mut s);
        add(name, s.bytes);
    };
    for (name, bits, cattr) in
        [("plain", 0, 0), ("two-cores", 1, 0), ("little", 0b1110, 4), ("many-at-once", 0b10000, 0)]
    {
        session(&format!("session-{name}"), bits, &move |s| {
            s.controller(cattr).store(1, 5000, keyed(5000), 0).work().retrieve(1, 5000, keyed(6000)).work();
            s.store(2, 100, Sgl::InCapsule(60, 100), 200).work().retrieve(2, 100, invalidated(100)).work();
            let list = Sgl::List { lens: vec![1000, 2000], offset: 8, fault: 0 };
            s.store(3, 3000, list.clone(), 100).work().retrieve(3, 2500, list).work();
            s.send(1, kinds::EXIST, |c| c.what = 3).send(1, kinds::DELETE, |c| c.what = 3).work();
            s.send(1, kinds::LIST, |c| (c.size, c.sgl) = (4096, keyed(4096))).work();
            s.send(1, kinds::WRITE, |c| (c.nsid, c.size, c.sgl) = (2, 7, keyed(4096)));
            s.send(1, kinds::READ, |c| (c.nsid, c.size, c.sgl) = (2, 7, invalidated(4096)));
            s.send(1, kinds::COMPARE, |c| (c.nsid, c.size, c.sgl) = (2, 7, keyed(4096)));
            s.send(1, kinds::FLUSH, |_| {}).work();
            s.send(0, kinds::DISCONNECT, |_| {}).work().act(&Action::Close(1)).act(&Action::Close(0));
        });
    }
    session("admin", 0, &|s| {
        s.controller(0).send(0, kinds::IDENTIFY, |c| (c.what, c.sgl) = (1, keyed(4096)));
        s.send(0, kinds::IDENTIFY, |c| {
            (c.what, c.sgl) = (1, Sgl::List { lens: vec![96, 4000], offset: 0, fault: 0 });
        });
        s.send(0, kinds::LOG, |c| (c.what, c.size, c.sgl) = (2, 512, invalidated(512)));
        s.send(0, kinds::GET_FEATURES, |c| c.what = 7)
            .send(0, kinds::SET_FEATURES, |c| (c.what, c.size) = (7, 0x10001));
        s.send(0, kinds::EVENT, |_| {}).act(&Action::Reload(true)).act(&Action::Time(200));
        s.send(0, kinds::KEEP_ALIVE, |_| {}).send(0, kinds::PROPERTY, |c| c.what = 0x1c);
        s.send(0, kinds::ENABLE, |c| c.options = 1).act(&Action::Time(200));
    });
    session("held-fetches", 0, &|s| {
        s.controller(0).hold(1);
        for what in 0..5 {
            s.store(what, 3000, invalidated(3000), 0);
        }
        s.let_go(3, false).let_go(0, false).work().let_go(1, true).work();
    });
    session("held-responses", 1, &|s| {
        s.controller(0).store(1, 3000, keyed(3000), 0).work().hold(2);
        for _ in 0..5 {
            s.retrieve(1, 3000, keyed(3000));
        }
        s.work().let_go(0, false).act(&Action::Drain(1)).let_go(0, false).hold(0).work();
    });
    session("pool-dry", 2, &|s| {
        s.controller(0).hold(1);
        for what in 0..10 {
            s.store(what, 48_000, keyed(48_000), 0).store(what ^ 0x80, 10, Sgl::InCapsule(0, 10), 10);
        }
        s.let_go(0, false).work().hold(0).let_go(0, false).work();
    });
    session("abandoned", 1, &|s| {
        s.controller(0).hold(3).store(1, 3000, keyed(3000), 0).store(4, 10, Sgl::InCapsule(0, 10), 10);
        s.act(&Action::Close(1)).work();
    });
    session("abandoned-before-the-driver-knew", 0b10000, &|s| {
        s.controller(0).store(1, 3000, keyed(3000), 0).retrieve(1, 0, NO_DATA).act(&Action::Close(1)).work();
    });
    session("reset-before-the-driver-knew", 0b10000, &|s| {
        s.controller(0).store(1, 3000, keyed(3000), 0).retrieve(1, 0, NO_DATA);
        s.send(0, kinds::ENABLE, |c| c.options = 1).work();
    });
    session("keys-in-use", 0, &|s| {
        s.controller(0).hold(1);
        for sgl in [keyed(100), invalidated(100), invalidated(100)] {
            s.send(1, kinds::STORE, |c| (c.cid, c.size, c.sgl) = (9, 100, sgl));
        }
        s.let_go(0, false).work();
    });
    for (name, fault) in [("key", 1), ("wrap", 2), ("beyond", 3)] {
        session(&format!("memory-{name}"), 0, &move |s| {
            s.controller(0).store(1, 1000, Sgl::Keyed { len: 1000, invalidate: true, fault }, 0).work();
        });
    }
    for (name, fault) in [("invalidate", 4), ("nested", 5), ("odd", 6), ("long", 7)] {
        session(&format!("list-{name}"), 0, &move |s| {
            s.controller(0);
            let list = Sgl::List { lens: vec![500, 500], offset: 3, fault };
            s.store(1, 1000, list, 0).work();
        });
    }
    session("list-of-one", 0, &|s| {
        s.controller(0).store(1, 1000, Sgl::List { lens: vec![1000], offset: 0, fault: 4 }, 0).work();
    });
    session("list-count", 4, &|s| {
        s.controller(0).store(1, 3, Sgl::List { lens: vec![1, 1, 1], offset: 0, fault: 0 }, 0).work();
    });
    session("list-huge", 0, &|s| {
        s.controller(0).store(1, 1000, Sgl::Raw { identifier: 0x31, address: 0, length: u32::MAX }, 64).work();
        s.store(1, 1000, Sgl::Raw { identifier: 0x31, address: u32::MAX, length: 16 }, 64).work();
        s.store(1, 1000, Sgl::InCapsule(u16::MAX, u32::MAX), 64).work();
        s.retrieve(1, 1000, Sgl::InCapsule(0, 1000)).store(
            1,
            1000,
            Sgl::Raw { identifier: 0x5a, address: 0, length: 1000 },
            0,
        );
    });
    session("capsule-short", 0, &|s| {
        s.controller(0)
            .act(&Action::Raw { conn: 1, bytes: vec![1; 63] })
            .act(&Action::Raw { conn: 0, bytes: Vec::new() });
    });
    session("capsule-long", 0, &|s| {
        s.controller(0).act(&Action::Message { conn: 1, len: 8256 }).act(&Action::Message { conn: 1, len: 8257 });
        s.act(&Action::Message { conn: 0, len: 1088 }).act(&Action::Message { conn: 0, len: 1089 });
    });
    session("overflow", 0, &|s| {
        s.controller(0).hold(1);
        for _ in 0..40 {
            s.store(1, 100, keyed(100), 0);
        }
    });
    session("unconnected", 0, &|s| {
        s.act(&Action::Open { core: 0, qid: 1, hrqsize: 1, hsqsize: 1, cntlid: 9 });
        s.send(0, kinds::STORE, |c| (c.size, c.sgl) = (10, keyed(10)))
            .send(0, kinds::IDENTIFY, |c| c.sgl = keyed(4096));
        s.act(&Action::Time(11_000));
    });
    session("connect-forms", 0, &|s| {
        for (conn, form) in [(0, 0), (1, 2), (2, 3)] {
            s.open(conn, ADMIN, 0, form);
        }
        s.open(3, 2, 0, 3).act(&Action::Connect {
            conn: 3,
            qid: 1,
            sqsize: 32,
            kato: 0,
            cattr: 0,
            name: 0,
            cntlid: 0,
            form: 1,
        });
    });
    session("requests", 0, &|s| {
        for (qid, hrqsize, hsqsize) in [(9, 1, 1), (0, 0, 1), (0, 1, 0), (0, 1, 32), (1, 1, 64)] {
            s.act(&Action::Open { core: 0, qid, hrqsize, hsqsize, cntlid: 0 });
        }
        s.act(&Action::OpenRaw(vec![0; 31])).act(&Action::OpenRaw(vec![1; 32]));
    });
    session("late", 0, &|s| {
        s.controller(0).hold(1).store(1, 100, keyed(100), 0).act(&Action::Time(100)).act(&Action::Time(31_000));
    });
    session("reset", 0, &|s| {
        s.controller(0).hold(3).store(1, 100, keyed(100), 0).send(1, kinds::EXIST, |_| {});
        s.send(0, kinds::ENABLE, |c| c.options = 1).act(&Action::Time(100)).let_go(0, false).let_go(0, false).work();
    });
}

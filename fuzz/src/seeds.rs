//! Seeds: inputs that mean something, to begin from. Sessions are written as their actions, in the form that the bodies
//! read; nothing is random, so that the files change only when the form does.

use kvof_kv::{Key, ListWriter};
use kvof_spec::{
    IntoBytes, Nqn, Sqe,
    fabrics::{CNTLID_DYNAMIC, ConnectCmd, ConnectData},
    identify::{NsDescriptor, NsDescriptorList},
    tcp::{C2hData, CapsuleCmd, CapsuleResp, Digests, FatalErrorStatus, H2cData, IcReq, IcResp, PduType, R2t, TermReq},
};

use crate::target::{ADMIN, Action, Answer, Command, Damage, Setup, Sgl, kinds};

/// A seed: name of the body, name of the file, content.
pub type Seed = (&'static str, String, Vec<u8>);

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    config(&mut seeds);
    pdu(&mut seeds);
    target(&mut seeds);
    crate::rdma_initiator::seeds(&mut |name, bytes| seeds.push(("rdma_initiator", name.to_owned(), bytes)));
    crate::rdma::seeds(&mut |name, bytes| seeds.push(("rdma_target", name.to_owned(), bytes)));
    crate::initiator::seeds(&mut |name, bytes| seeds.push(("initiator", name.to_owned(), bytes)));
    seeds
}

fn config(seeds: &mut Vec<Seed>) {
    let mut add = |name: &str, text: &str| seeds.push(("config", format!("{name}.toml"), text.as_bytes().to_vec()));
    add("empty", "");
    add(
        "everything",
        "[reactor]\ncores = 1\nbusy_poll = \"10us\"\nmemory = \"64MiB\"\n[log]\nlevel = \"info\"\nformat = \"json\"\n\
         [limits]\nqueue_size = 128\nio_queues = 4\ntransfer = \"1MiB\"\n\
         [tcp]\nheader_digest = false\nin_capsule = \"8KiB\"\nmax_r2t = 2\n\
         [[port]]\naddress = \"127.0.0.1:4420\"\n[[port]]\naddress = \"[::1]:8009\"\nadvertise = \"192.0.2.1\"\n\
         [[referral]]\naddress = \"192.0.2.9\"\n\
         [[subsystem]]\nnqn = \"nqn.2024-01.com.example:a\"\nserial = \"7\"\nallowed_hosts = [\"nqn.2024-01.com.example:host\"]\n\
         [[subsystem.namespace]]\nnsid = 1\nkind = \"kv\"\nsize = \"1GiB\"\nmax_value = \"2MiB\"\n\
         [[subsystem.namespace]]\nnsid = 2\nkind = \"nvm\"\nsize = \"64MiB\"\nblock_size = 4096\n",
    );
    add(
        "pools",
        "[[pool]]\nname = \"flash\"\ndevices = [\"/dev/a\", \"b\"]\nindex_memory = \"64MiB\"\ntier = 0\nscratch = \"1MiB\"\n\
         read_ahead = \"1MiB\"\nrebuild_rate = 0\nscrub_rate = \"1MiB\"\n\
         [[port]]\naddress = \"127.0.0.1:4420\"\n\
         [[subsystem]]\nnqn = \"nqn.2024-01.com.example:a\"\nallowed_hosts = \"any\"\n\
         [[subsystem.namespace]]\nnsid = 1\nkind = \"kv\"\nsize = \"1GiB\"\nmode = \"cache\"\ndurability = \"device\"\n\
         [[subsystem.namespace]]\nnsid = 2\nkind = \"kv\"\nstorage = \"pool:flash\"\nsize = \"64MiB\"\nreservation = \"1MiB\"\n\
         [[subsystem.namespace]]\nnsid = 3\nkind = \"kv\"\nstorage = \"file:/tmp/kv\"\nsize = \"64MiB\"\n",
    );
    add("wrong-types", "[reactor]\ncores = \"x\"\n[[port]]\naddress = 5\n[[subsystem]]\nnqn = [1]\n");
    add("unknown-keys", "[recator]\ncroes = 1\n[[subsystem]]\nnqm = \"nqn.2024-01.a:b\"\n");
}

fn pdu(seeds: &mut Vec<Seed>) {
    let mut add = |name: &str, bytes: &[u8]| seeds.push(("pdu", name.to_owned(), bytes.to_vec()));
    let both = Digests { header: true, data: true };
    add("icreq", IcReq::new(3, both, 4).as_bytes());
    add("icresp", IcResp::new(3, both, 1 << 20).as_bytes());
    let nqn: Nqn = "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
        .parse()
        .unwrap_or_else(|_| Nqn::discovery());
    let connect = ConnectData::new([7; 16], CNTLID_DYNAMIC, &Nqn::discovery(), &nqn);
    add("connect-data", connect.as_bytes());
    add("nqn", &nqn.to_field());
    add("connect", ConnectCmd::new(1, 127, 5000).to_sqe().as_bytes());
    for (name, digests) in [("plain", Digests::default()), ("digests", both)] {
        add(&format!("capsule-{name}"), CapsuleCmd::new(Sqe::new(0x7f_u8), 1024, digests, 0).as_bytes());
        add(&format!("response-{name}"), CapsuleResp::new(kvof_spec::Cqe::default(), digests).as_bytes());
        add(&format!("h2cdata-{name}"), H2cData::new(1, 2, 0, 4096, true, digests, 3).as_bytes());
        add(&format!("c2hdata-{name}"), C2hData::new(1, 0, 512, true, true, digests, 31).as_bytes());
        add(&format!("r2t-{name}"), R2t::new(1, 2, 0, 4096, digests).as_bytes());
    }
    let fes = FatalErrorStatus::HEADER_DIGEST_ERROR;
    add("termreq", TermReq::new(PduType::H2C_TERM_REQ, fes, 7, 24).as_bytes());
    let mut list = ListWriter::new(256);
    for key in [&b"a"[..], b"key", b"0123456789abcdef"] {
        let _ = Key::new(key).is_ok_and(|key| list.push(&key));
    }
    add("key-list", list.finish().as_bytes());
    let ids = [NsDescriptor::Uuid([1; 16]), NsDescriptor::Nguid([2; 16]), NsDescriptor::Csi(kvof_spec::Csi::KV)];
    if let Ok(list) = NsDescriptorList::new(ids) {
        add("ns-descriptors", &list.as_bytes()[..48]);
    }
    add("key-text", b"0x6b6579");
    let store = kvof_kv::KvCommand { size: 100, key_len: 3, ..kvof_kv::KvCommand::from_sqe(&Sqe::new(1_u8)) };
    add("store", store.to_sqe(kvof_spec::SglDescriptor::in_capsule(0, 100)).as_bytes());
}

/// A session under way.
struct Session {
    bytes: Vec<u8>,
}

impl Session {
    fn new(bits: u8) -> Self {
        let mut bytes = Vec::new();
        Setup { bits }.write(&mut bytes);
        Self { bytes }
    }

    fn act(&mut self, action: &Action) -> &mut Self {
        action.write(&mut self.bytes);
        self
    }

    fn open(&mut self, conn: u8, qid: u8, digests: u8, cattr: u8) -> &mut Self {
        self.act(&Action::Open(conn)).act(&Action::IcReq {
            conn,
            hpda: conn,
            digests,
            maxr2t: 3,
            damage: Damage::default(),
        });
        self.act(&Action::Connect {
            conn,
            qid,
            sqsize: 31,
            kato: 0,
            cattr,
            name: 0,
            cntlid: 0,
            in_capsule: true,
            damage: Damage::default(),
        })
    }

    /// A controller on connection 0 and an I/O queue on 1.
    fn controller(&mut self, digests: u8, cattr: u8) -> &mut Self {
        self.open(0, ADMIN, digests, 0).send(0, kinds::ENABLE, |_| {}).open(1, 1, digests, cattr)
    }

    fn send(&mut self, conn: u8, kind: u8, change: impl FnOnce(&mut Command)) -> &mut Self {
        let mut command = Command {
            kind,
            cid: 0,
            nsid: 1,
            what: 0,
            options: 0,
            size: 0,
            sgl: Sgl::Transport(0),
            capsule: 0,
            bad_digest: false,
            damage: Damage::default(),
        };
        change(&mut command);
        self.act(&Action::Command { conn, command })
    }

    /// A KV or block command that moves `len` bytes, in the capsule or not.
    fn data(&mut self, kind: u8, nsid: u8, what: u8, len: u32, in_capsule: bool) -> &mut Self {
        self.send(1, kind, |c| {
            c.nsid = nsid;
            c.what = what;
            c.size = if nsid == 1 { len } else { len / 512 - 1 };
            c.sgl = if in_capsule { Sgl::InCapsule(0, len) } else { Sgl::Transport(len) };
            c.capsule = if in_capsule { len as u16 } else { 0 };
        })
    }

    fn answer(&mut self, answer: Answer) -> &mut Self {
        self.act(&Action::Data { conn: 1, which: 0, answer, damage: Damage::default() })
    }

    fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

fn target(seeds: &mut Vec<Seed>) {
    let mut add = |name: &str, session: &mut Session| seeds.push(("target", name.to_owned(), session.done()));
    for (name, bits, digests, cattr) in [
        ("plain", 0, 0, 0),
        ("digests", 0, 3, 0),
        ("no-flow-control", 2, 0, 4),
        ("two-cores", 1, 1, 4),
        ("aligned", 6, 3, 0),
    ] {
        let mut s = Session::new(bits);
        s.controller(digests, cattr).data(kinds::STORE, 1, 1, 100, true).data(kinds::STORE, 1, 2, 5000, true);
        s.data(kinds::STORE, 1, 3, 20_000, false)
            .answer(Answer::Part(5000))
            .answer(Answer::Whole)
            .act(&Action::Work(9));
        s.data(kinds::RETRIEVE, 1, 2, 6000, false).data(kinds::RETRIEVE, 1, 3, 10, false).data(
            kinds::LIST,
            1,
            0,
            64,
            false,
        );
        s.data(kinds::EXIST, 1, 1, 0, false).data(kinds::DELETE, 1, 1, 0, false).act(&Action::Work(9));
        s.data(kinds::WRITE, 2, 0, 4096, true).data(kinds::WRITE, 2, 8, 32 << 10, false).answer(Answer::Whole);
        s.data(kinds::READ, 2, 4, 8192, false).data(kinds::COMPARE, 2, 0, 512, true).data(
            kinds::FLUSH,
            2,
            0,
            512,
            false,
        );
        s.send(1, kinds::DISCONNECT, |_| {}).send(0, kinds::ENABLE, |c| c.options = 2).act(&Action::Close(0));
        add(&format!("session-{name}"), &mut s);
    }
    for (name, piece, place) in [("byte-by-byte", 1, false), ("byte-in-place", 1, true), ("odd-pieces", 37, true)] {
        let mut s = Session::new(0);
        s.act(&Action::Open(0)).act(&Action::Delivery { conn: 0, piece, place });
        s.act(&Action::IcReq { conn: 0, hpda: 0, digests: 3, maxr2t: 0, damage: Damage::default() });
        s.bytes.clear();
        let mut s = Session::new(0);
        s.controller(3, 0).act(&Action::Delivery { conn: 1, piece, place });
        s.data(kinds::STORE, 1, 1, 300, true).data(kinds::STORE, 1, 2, 9000, false).answer(Answer::Whole);
        s.data(kinds::RETRIEVE, 1, 2, 9000, false);
        add(&format!("delivery-{name}"), &mut s);
    }
    for (name, answer) in [
        ("wrong-tag", Answer::WrongTag),
        ("wrong-offset", Answer::WrongOffset),
        ("too-long", Answer::TooLong),
        ("wrong-command", Answer::WrongCommand),
        ("early-last", Answer::EarlyLast),
        ("bad-digest", Answer::BadDigest),
    ] {
        let mut s = Session::new(0x40);
        s.controller(2, 0).data(kinds::STORE, 1, 1, 9000, false).answer(Answer::Part(100)).answer(answer);
        add(&format!("data-{name}"), &mut s);
    }
    let mut s = Session::new(0x80);
    s.controller(0, 0);
    for what in 0..6 {
        s.data(kinds::STORE, 1, what, 60_000, false).data(kinds::STORE, 1, what, 0, false).data(
            kinds::STORE,
            1,
            what,
            3000,
            true,
        );
    }
    for _ in 0..12 {
        s.answer(Answer::Whole).act(&Action::Work(1));
    }
    add("starved", &mut s);
    let mut s = Session::new(0x80);
    s.controller(0, 0).open(2, 2, 0, 0);
    for what in 0..6 {
        s.data(kinds::STORE, 1, what, 60_000, false);
    }
    s.act(&Action::Close(1)).act(&Action::Time(1000)).act(&Action::Close(0));
    add("starved-and-gone", &mut s);
    let mut s = Session::new(0);
    s.open(0, ADMIN, 0, 0).send(0, kinds::ENABLE, |_| {});
    for cns in [0, 1, 2, 3, 5, 6, 7, 8, 0x1c] {
        s.send(0, kinds::IDENTIFY, |c| (c.what, c.options, c.sgl) = (cns, u8::from(cns >= 5), Sgl::Transport(4096)));
    }
    for lid in [1, 2, 4, 5, 0x70, 0x0c] {
        s.send(0, kinds::LOG, |c| (c.what, c.size, c.sgl) = (lid, 4096, Sgl::Transport(4096)));
    }
    for fid in [1, 7, 0x0b, 0x0f, 0x10, 0x20, 0x81] {
        s.send(0, kinds::GET_FEATURES, |c| (c.what, c.sgl) = (fid, Sgl::Transport(4096)));
        s.send(0, kinds::SET_FEATURES, |c| (c.what, c.size, c.sgl) = (fid, 1, Sgl::Transport(8)));
    }
    s.send(0, kinds::KEEP_ALIVE, |_| {}).send(0, kinds::PROPERTY, |c| c.what = 0x1c).send(0, kinds::PROPERTY, |_| {});
    add("admin", &mut s);
    let mut s = Session::new(0);
    s.open(0, ADMIN, 0, 0).send(0, kinds::ENABLE, |_| {});
    s.send(0, kinds::SET_FEATURES, |c| (c.what, c.size) = (0x0b, 0x100));
    for _ in 0..5 {
        s.send(0, kinds::EVENT, |_| {});
    }
    s.send(0, kinds::ABORT, |c| c.what = 5).act(&Action::Reload(true)).act(&Action::Time(200));
    s.send(0, kinds::LOG, |c| (c.what, c.size, c.sgl) = (4, 4096, Sgl::Transport(4096))).act(&Action::Reload(false));
    s.send(0, kinds::ENABLE, |c| c.options = 1).act(&Action::Time(200)).send(0, kinds::ENABLE, |_| {});
    add("events", &mut s);
    for (name, in_capsule) in [("after", [true, false]), ("at-once", [false, false]), ("overtaking", [false, true])] {
        let mut s = Session::new(0);
        s.act(&Action::Open(0)).act(&Action::IcReq {
            conn: 0,
            hpda: 0,
            digests: 0,
            maxr2t: 0,
            damage: Damage::default(),
        });
        for in_capsule in in_capsule {
            s.act(&Action::Connect {
                conn: 0,
                qid: 0,
                sqsize: 31,
                kato: 1000,
                cattr: 0,
                name: 1,
                cntlid: 0,
                in_capsule,
                damage: Damage::default(),
            });
        }
        for which in [1, 0] {
            s.act(&Action::Data { conn: 0, which, answer: Answer::Whole, damage: Damage::default() });
        }
        add(&format!("connect-twice-{name}"), s.act(&Action::Time(60_000)));
    }
    let mut s = Session::new(0);
    s.controller(0, 0)
        .data(kinds::STORE, 1, 1, 40_000, false)
        .answer(Answer::Whole)
        .act(&Action::Listen { conn: 1, listens: false });
    for _ in 0..8 {
        s.data(kinds::RETRIEVE, 1, 1, 40_000, false);
    }
    s.act(&Action::Work(20)).act(&Action::Time(20_000)).act(&Action::Time(20_000));
    add("deaf-host", &mut s);
    for (name, ms) in [("icreq", 11_000), ("connect", 25_000)] {
        let mut s = Session::new(0);
        s.act(&Action::Open(0));
        if name == "connect" {
            s.act(&Action::IcReq { conn: 0, hpda: 0, digests: 0, maxr2t: 0, damage: Damage::default() });
        }
        add(&format!("late-{name}"), s.act(&Action::Time(ms)));
    }
    let mut s = Session::new(0);
    s.controller(0, 0).act(&Action::Raw { conn: 1, bytes: vec![4, 0, 72] }).act(&Action::Time(40_000));
    add("late-pdu", &mut s);
    let mut s = Session::new(1);
    s.controller(0, 0)
        .data(kinds::STORE, 1, 2, 9000, true)
        .data(kinds::STORE, 1, 3, 9000, false)
        .act(&Action::Drain(1));
    s.act(&Action::Drain(0)).answer(Answer::Whole).act(&Action::Work(5));
    add("drain", &mut s);
    for (name, damage) in [
        ("type", Damage { xor: 1, offset: 0, late: false }),
        ("flags", Damage { xor: 2, offset: 1, late: false }),
        ("hlen", Damage { xor: 8, offset: 2, late: false }),
        ("pdo", Damage { xor: 3, offset: 3, late: false }),
        ("plen", Damage { xor: 1, offset: 4, late: false }),
        ("digest", Damage { xor: 1, offset: 20, late: true }),
    ] {
        let mut s = Session::new(0);
        s.controller(1, 0)
            .send(1, kinds::STORE, |c| (c.size, c.sgl, c.capsule, c.damage) = (64, Sgl::InCapsule(0, 64), 64, damage));
        add(&format!("header-{name}"), &mut s);
    }
    let mut s = Session::new(0);
    s.controller(0, 0);
    for sgl in [Sgl::InCapsule(4, 60), Sgl::InCapsule(60, 60), Sgl::Raw(0, 0), Sgl::Raw(0x40, 64), Sgl::Raw(0x31, 16)] {
        s.send(1, kinds::STORE, |c| (c.size, c.sgl, c.capsule) = (60, sgl, 64));
    }
    for _ in 0..3 {
        s.send(1, kinds::STORE, |c| (c.cid, c.size, c.sgl) = (9, 9000, Sgl::Transport(9000)));
    }
    for _ in 0..40 {
        s.send(1, kinds::STORE, |c| (c.what, c.size, c.sgl) = (4, 5000, Sgl::Transport(5000)));
    }
    add("sgls-conflict-overflow", &mut s);
}

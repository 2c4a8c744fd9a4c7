//! Mixes that nobody would write down: good commands of every form at once, and hosts that make no sense.

use std::collections::{BTreeMap, VecDeque};

use kvof_kv::{Key, KvCommand};
use kvof_spec::{IntoBytes, SglDescriptor, Sqe, Status, sqe::SQE_SIZE};
use proptest::prelude::*;

use super::{
    super::Action,
    rig::{KV, Mr, Options, Rig, key, list, pattern, retrieve, store},
};

const KEYS: u8 = 6;

/// How a command names its data.
#[derive(Clone, Debug)]
enum Form {
    Keyed {
        invalidate: bool,
    },
    /// Cut at these places, out of 256.
    List {
        cuts: Vec<u8>,
        before: u8,
    },
    /// For Store.
    InCapsule {
        before: u16,
        after: u16,
    },
}

#[derive(Clone, Debug)]
enum Op {
    Store {
        key: u8,
        len: u32,
        form: Form,
    },
    Retrieve {
        key: u8,
        room: u32,
        form: Form,
    },
    Delete {
        key: u8,
    },
    Exist {
        key: u8,
    },
    /// Whether fetches and responses are held from now on.
    Hold(bool, bool),
    /// Carries out one of the held actions.
    Let(u8),
    /// Takes memory away, or gives it back.
    Dry(bool),
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        any::<bool>().prop_map(|invalidate| Form::Keyed { invalidate }),
        (prop::collection::vec(any::<u8>(), 0..15), any::<u8>()).prop_map(|(cuts, before)| Form::List { cuts, before }),
        (0..5000_u16, 0..100_u16).prop_map(|(before, after)| Form::InCapsule { before, after }),
    ]
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 1..100_u32, 1..3000_u32, 1..300_000_u32]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..KEYS, len(), form()).prop_map(|(key, len, form)| Op::Store { key, len, form }),
        4 => (0..KEYS, len(), form()).prop_map(|(key, room, form)| Op::Retrieve { key, room, form }),
        1 => (0..KEYS).prop_map(|key| Op::Delete { key }),
        1 => (0..KEYS).prop_map(|key| Op::Exist { key }),
        1 => any::<(bool, bool)>().prop_map(|(fetches, responses)| Op::Hold(fetches, responses)),
        4 => any::<u8>().prop_map(Op::Let),
        1 => any::<bool>().prop_map(Op::Dry),
    ]
}

/// What a command will have done once its response is there.
#[derive(Debug)]
enum Expected {
    Stored(Vec<u8>),
    Retrieved { room: u32, parts: Vec<Mr> },
    Deleted,
    Exists,
}

struct Mix {
    rig: Rig,
    values: BTreeMap<u8, Vec<u8>>,
    /// At most one for each key, so that there is only one right outcome. With the key to be invalidated.
    outstanding: BTreeMap<u8, (u16, Expected, Option<u32>)>,
    taken: Vec<kvof_io::PoolBuf>,
    stores: u8,
}

fn named(number: u8) -> Key {
    key(&format!("key-{number}"))
}

impl Mix {
    fn new() -> Self {
        let rig = Rig::connected(Options { pool: 16 << 20, ..Options::default() });
        Self { rig, values: BTreeMap::new(), outstanding: BTreeMap::new(), taken: Vec::new(), stores: 0 }
    }

    /// The SGL for memory that holds `bytes`, what goes behind the queue entry, the memory, and the key to be invalidated.
    fn sgl(
        &mut self,
        form: &Form,
        bytes: &[u8],
        may_be_in_capsule: bool,
    ) -> (SglDescriptor, Vec<u8>, Vec<Mr>, Option<u32>) {
        let memory = &mut self.rig.links[1].memory;
        match form {
            Form::InCapsule { before, after } if may_be_in_capsule && bytes.len() <= 3000 => {
                let sgl = SglDescriptor::in_capsule(u64::from(*before), bytes.len() as u32);
                let behind = [&vec![0xee; usize::from(*before)][..], bytes, &vec![0xdd; usize::from(*after)]].concat();
                (sgl, behind, Vec::new(), None)
            }
            Form::List { cuts, before } => {
                let mut cuts: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) * bytes.len() / 256).collect();
                cuts.extend([0, bytes.len()]);
                cuts.sort_unstable();
                let parts: Vec<Mr> =
                    cuts.windows(2).map(|ends| memory.register(bytes[ends[0]..ends[1]].to_vec())).collect();
                let descriptors: Vec<_> = parts.iter().map(|mr| mr.sgl()).collect();
                let sgl = SglDescriptor::last_segment_offset(u64::from(*before), 16 * parts.len() as u32);
                (sgl, [&vec![0xee; usize::from(*before)][..], &list(&descriptors)].concat(), parts, None)
            }
            Form::Keyed { .. } | Form::InCapsule { .. } => {
                let mr = memory.register(bytes.to_vec());
                let invalidate = matches!(form, Form::Keyed { invalidate: true });
                let sgl = if invalidate { mr.invalidated() } else { mr.sgl() };
                (sgl, Vec::new(), vec![mr], invalidate.then_some(mr.key))
            }
        }
    }

    fn act(&mut self, op: &Op) {
        let none = SglDescriptor::default();
        match op {
            Op::Store { key, .. } | Op::Retrieve { key, .. } | Op::Delete { key } | Op::Exist { key }
                if self.outstanding.contains_key(key) => {}
            Op::Store { key, len, form } => {
                self.stores += 1;
                let value = pattern(self.stores, *len as usize);
                let (sgl, behind, _, invalidate) = self.sgl(form, &value, true);
                let cid = self.rig.send(1, store(&named(*key), *len), sgl, &behind);
                self.outstanding.insert(*key, (cid, Expected::Stored(value), invalidate));
            }
            Op::Retrieve { key, room, form } => {
                let (sgl, behind, parts, invalidate) = self.sgl(form, &vec![0x55; *room as usize], false);
                let cid = self.rig.send(1, retrieve(&named(*key), *room), sgl, &behind);
                self.outstanding.insert(*key, (cid, Expected::Retrieved { room: *room, parts }, invalidate));
            }
            Op::Delete { key } => {
                let cid = self.rig.send(1, KvCommand::delete(KV, &named(*key)).to_sqe(none), none, &[]);
                self.outstanding.insert(*key, (cid, Expected::Deleted, None));
            }
            Op::Exist { key } => {
                let cid = self.rig.send(1, KvCommand::exist(KV, &named(*key)).to_sqe(none), none, &[]);
                self.outstanding.insert(*key, (cid, Expected::Exists, None));
            }
            Op::Hold(fetches, responses) => self.rig.links[1].hold = (*fetches, *responses),
            Op::Let(which) => {
                let held = &mut self.rig.links[1].held;
                if let Some(action) = held.remove(usize::from(*which) % held.len().max(1)) {
                    self.rig.carry_out(1, action);
                }
            }
            Op::Dry(true) => self.taken.extend(std::iter::from_fn(|| self.rig.pool.alloc(4096))),
            Op::Dry(false) => self.taken.clear(),
        }
        self.rig.settle();
        self.look();
    }

    /// Checks every response that has come.
    fn look(&mut self) {
        for key in 0..KEYS {
            let Some((cid, ..)) = self.outstanding.get(&key) else { continue };
            let Some(done) = self.rig.take_done(1, *cid) else { continue };
            let (_, expected, invalidate) = self.outstanding.remove(&key).unwrap();
            assert_eq!(done.invalidated, invalidate);
            let status = done.cqe.status().code();
            let value = self.values.get(&key);
            let there = if value.is_some() { Status::SUCCESS } else { Status::KEY_DOES_NOT_EXIST };
            match expected {
                Expected::Stored(new) => {
                    done.ok();
                    self.values.insert(key, new);
                }
                Expected::Retrieved { room, parts } => {
                    assert_eq!(status, there);
                    let value = value.map_or(&[][..], |value| &value[..]);
                    let moved = value.len().min(room as usize);
                    assert_eq!((done.written, done.cqe.dw0.get() as usize), (moved, value.len()));
                    // The memory of a key that has been invalidated is gone.
                    if invalidate.is_none() {
                        let memory = &self.rig.links[1].memory;
                        let bytes: Vec<u8> = parts.iter().flat_map(|&mr| memory.bytes(mr).to_vec()).collect();
                        assert!(bytes[..moved] == value[..moved] && bytes[moved..].iter().all(|&b| b == 0x55));
                    }
                }
                Expected::Deleted => {
                    done.ok();
                    self.values.remove(&key);
                }
                Expected::Exists => assert_eq!(status, there),
            }
        }
        assert!(self.rig.links[1].done.is_empty(), "a response to nothing");
        assert_eq!(self.rig.links[1].closed, None);
    }

    fn finish(mut self) {
        self.taken.clear();
        self.rig.release(1);
        self.rig.settle();
        self.look();
        assert!(self.outstanding.is_empty(), "{:?} never ended", self.outstanding);
        for (number, value) in std::mem::take(&mut self.values) {
            let (done, bytes) = self.rig.retrieve(1, &named(number), value.len() as u32);
            done.ok();
            assert!(bytes == value);
        }
        self.rig.finish();
    }
}

/// What a host that makes no sense does.
#[derive(Clone, Debug)]
enum Odd {
    /// Any message.
    Message {
        link: bool,
        bytes: Vec<u8>,
    },
    /// A command with any SGL; `key` picks one that is registered, or not.
    Command {
        link: bool,
        opcode: u8,
        cid: u8,
        nsid: u8,
        cdws: [u32; 2],
        sgl: OddSgl,
        behind: Vec<u8>,
    },
    Hold(bool, bool),
    Let {
        which: u8,
        fails: bool,
    },
    Time(u16),
    Drain(bool),
    End(bool),
}

#[derive(Clone, Debug)]
struct OddSgl {
    identifier: u8,
    address: u64,
    length: u32,
    key: bool,
}

fn odd_sgl() -> impl Strategy<Value = OddSgl> {
    let identifier = prop_oneof![Just(0x40), Just(0x4f), Just(0x01), Just(0x31), Just(0x00), any::<u8>()];
    let address = prop_oneof![0..64_u64, 0..9000_u64, any::<u64>(), (u64::MAX - 99)..=u64::MAX];
    let length = prop_oneof![(0..16_u32).prop_map(|n| 16 * n), 0..5000_u32, any::<u32>()];
    (identifier, address, length, any::<bool>()).prop_map(|(identifier, address, length, key)| OddSgl {
        identifier,
        address,
        length,
        key,
    })
}

fn odd() -> impl Strategy<Value = Odd> {
    let opcode = prop_oneof![Just(0x01), Just(0x02), Just(0x06), Just(0x7f), any::<u8>()];
    let command = (any::<bool>(), opcode, 0..8_u8, 0..4_u8, any::<[u16; 2]>(), odd_sgl(), behind()).prop_map(
        |(link, opcode, cid, nsid, cdws, sgl, behind)| Odd::Command {
            link,
            opcode,
            cid,
            nsid,
            cdws: cdws.map(u32::from),
            sgl,
            behind,
        },
    );
    prop_oneof![
        1 => (any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(link, bytes)| Odd::Message { link, bytes }),
        20 => command,
        2 => any::<(bool, bool)>().prop_map(|(fetches, responses)| Odd::Hold(fetches, responses)),
        4 => (any::<u8>(), prop::bool::weighted(0.1)).prop_map(|(which, fails)| Odd::Let { which, fails }),
        1 => (0..20_000_u16).prop_map(Odd::Time),
        1 => any::<bool>().prop_map(Odd::Drain),
        1 => any::<bool>().prop_map(Odd::End),
    ]
}

/// Bytes, or descriptors that are nearly right.
fn behind() -> impl Strategy<Value = Vec<u8>> {
    let descriptors = prop::collection::vec(odd_sgl(), 0..20).prop_map(|descriptors| {
        descriptors
            .iter()
            .flat_map(|d| {
                let identifier = if d.identifier == 0x31 { 0x40 } else { d.identifier };
                keyed(d, identifier, 7).as_bytes().to_vec()
            })
            .collect()
    });
    prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 0..1500), descriptors]
}

fn keyed(d: &OddSgl, identifier: u8, key: u32) -> SglDescriptor {
    let sgl = SglDescriptor::keyed(d.address, d.length & 0xff_ffff, key, false).unwrap();
    SglDescriptor { identifier, ..sgl }
}

/// Commands of one link that have no response yet, by identifier, and whether they may have any.
type Open = [VecDeque<u16>; 2];

fn run_odd(actions: &[Odd]) {
    let mut rig = Rig::connected(Options::default());
    let mrs = [0, 1].map(|link: usize| rig.links[link].memory.zeros(8192));
    let mut open = Open::default();
    for action in actions {
        match action {
            Odd::Message { link, bytes } => {
                let link = usize::from(*link);
                if let Some(sqe) = bytes.first_chunk::<SQE_SIZE>() {
                    open[link].push_back(Sqe::from_bytes(sqe).cid.get());
                }
                rig.capsule(link, bytes);
            }
            Odd::Command { link, opcode, cid, nsid, cdws, sgl, behind } => {
                let link = usize::from(*link);
                let mut sqe = Sqe::new(*opcode);
                (sqe.nsid, sqe.cdw10, sqe.cdw11) = (u32::from(*nsid).into(), cdws[0].into(), cdws[1].into());
                sqe.cid = (0x100 | u16::from(*cid)).into();
                sqe.sgl1 = match sgl.identifier {
                    0x40 | 0x4f if sgl.key => {
                        let len = sgl.length.min(8192);
                        SglDescriptor { identifier: sgl.identifier, ..mrs[link].part(0, len).sgl() }
                    }
                    0x40 | 0x4f => keyed(sgl, sgl.identifier, sgl.length),
                    identifier => SglDescriptor {
                        address: sgl.address.into(),
                        length: sgl.length.into(),
                        rsvd: [0; 3],
                        identifier,
                    },
                };
                open[link].push_back(sqe.cid.get());
                rig.capsule(link, &[sqe.as_bytes(), behind].concat());
            }
            Odd::Hold(fetches, responses) => rig.links.iter_mut().for_each(|link| link.hold = (*fetches, *responses)),
            Odd::Let { which, fails } => {
                let link = usize::from(which & 1);
                let held = &mut rig.links[link].held;
                match held.remove(usize::from(which >> 1) % held.len().max(1)) {
                    Some(Action::Fetch { token, landing, .. }) if *fails => {
                        rig.fetched(link, token, landing, Err("odd"));
                    }
                    Some(action) => rig.carry_out(link, action),
                    None => {}
                }
            }
            Odd::Time(ms) => rig.pass(std::time::Duration::from_millis(u64::from(*ms))),
            Odd::Drain(link) => rig.links[usize::from(*link)].conn.drain(),
            Odd::End(link) => rig.links[usize::from(*link)].conn.handle_end(crate::transport::CloseReason::Host),
        }
        rig.settle();
        for (link, open) in rig.links.iter_mut().zip(&mut open) {
            for done in std::mem::take(&mut link.done) {
                let at = open.iter().position(|&cid| cid == done.cid());
                open.remove(at.unwrap_or_else(|| panic!("a response to nothing: {done:?}")));
            }
            // What a key of the host's was invalidated for is registered again.
            for mr in mrs {
                link.memory.renew(mr);
            }
            assert!(link.conn.queue().busy() <= 128 && link.held.len() <= 3 * 128);
        }
    }
    for link in 0..2 {
        rig.release(link);
    }
    rig.finish();
}

proptest! {
    #[test]
    fn good_commands_of_every_form_move_the_right_bytes(ops in prop::collection::vec(op(), 1..80)) {
        let mut mix = Mix::new();
        for op in &ops {
            mix.act(op);
        }
        mix.finish();
    }

    #[test]
    fn a_host_that_makes_no_sense_gets_nowhere(actions in prop::collection::vec(odd(), 1..120)) {
        run_odd(&actions);
    }
}

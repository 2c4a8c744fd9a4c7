//! Arbitrary commands in any order: nothing panics, every command is completed exactly once, and no reply is longer than
//! the host's buffer.

use std::collections::BTreeSet;

use kvof_spec::{AdminOpcode, FabricsType};
use proptest::prelude::*;

use super::*;

/// A step of a hostile host, or of time and the operator beside it.
#[derive(Clone, Debug)]
enum Step {
    Command { sqe: Sqe, len: u32 },
    IoFabrics(Sqe),
    ConnectIo { qid: u16 },
    DropIo,
    Wait(u64),
    Reload(u32),
}

/// Values that mean something, more often than ones that do not.
fn dword() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0..32_u32,
        2 => Just(0),
        1 => Just(u32::MAX),
        1 => prop::sample::select(vec![0x0046_0060, 0x0046_0061, 0x0046_4061, 0x8000_0100, 0x0070, 0x03ff_0070, 0x100]),
        2 => any::<u32>(),
    ]
}

fn sqe() -> impl Strategy<Value = Sqe> {
    let opcode = prop_oneof![
        6 => prop::sample::select(vec![
            AdminOpcode::GET_LOG_PAGE.0,
            AdminOpcode::IDENTIFY.0,
            AdminOpcode::ABORT.0,
            AdminOpcode::SET_FEATURES.0,
            AdminOpcode::GET_FEATURES.0,
            AdminOpcode::ASYNC_EVENT_REQUEST.0,
            AdminOpcode::KEEP_ALIVE.0,
        ]),
        1 => any::<u8>(),
    ];
    let cdw10 = (any::<u8>(), any::<u8>(), dword()).prop_map(|(id, low, high)| {
        let id = if low < 128 { id % 0x21 } else { id };
        u32::from(id) | u32::from(low) << 8 | high << 16
    });
    let admin = (opcode, any::<u8>(), 0..12_u16, dword(), cdw10, prop::array::uniform5(dword()));
    let admin = admin.prop_map(|(opcode, flags, cid, nsid, cdw10, dwords)| {
        let [cdw11, cdw12, cdw13, cdw14, cdw15] = dwords.map(Into::into);
        Sqe {
            flags,
            cid: cid.into(),
            nsid: nsid.into(),
            cdw10: cdw10.into(),
            cdw11,
            cdw12,
            cdw13,
            cdw14,
            cdw15,
            ..Sqe::new(opcode)
        }
    });
    prop_oneof![6 => admin, 2 => fabrics(), 1 => any::<[u8; 64]>().prop_map(|bytes| Sqe::from_bytes(&bytes))]
}

fn fabrics() -> impl Strategy<Value = Sqe> {
    let fctype = prop_oneof![
        Just(FabricsType::PROPERTY_SET.0),
        Just(FabricsType::PROPERTY_GET.0),
        Just(FabricsType::DISCONNECT.0),
        any::<u8>(),
    ];
    let offset = prop_oneof![
        3 => Just(Property::CC.0),
        1 => prop::sample::select(vec![0, 8, 0x1c, 0x20, 0x68]),
        1 => any::<u32>(),
    ];
    (fctype, 0..3_u32, offset, dword(), dword(), 0..12_u16).prop_map(|(fctype, attrib, offset, low, high, cid)| Sqe {
        cid: cid.into(),
        nsid: u32::from(fctype).into(),
        cdw10: (attrib & 1).into(),
        cdw11: offset.into(),
        cdw12: low.into(),
        cdw13: (if attrib == 2 { high } else { 0 }).into(),
        ..Sqe::new(AdminOpcode::FABRICS)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![3 => Just(4096), 1 => Just(0), 1 => 0..10_000_u32, 1 => Just(4 << 20)];
    prop_oneof![
        16 => (sqe(), len).prop_map(|(sqe, len)| Step::Command { sqe, len }),
        2 => fabrics().prop_map(Step::IoFabrics),
        2 => (0..6_u16).prop_map(|qid| Step::ConnectIo { qid }),
        1 => Just(Step::DropIo),
        1 => (0..3000_u64).prop_map(Step::Wait),
        1 => (3..8_u32).prop_map(Step::Reload),
    ]
}

/// What the host waits for.
struct Session {
    rig: Rig,
    host: Host,
    held: BTreeSet<u16>,
    io: Vec<IoQueue>,
}

impl Session {
    fn run(&mut self, step: &Step) {
        match *step {
            Step::Command { ref sqe, len } => self.command(sqe, len),
            Step::IoFabrics(ref sqe) => {
                if let Some(queue) = self.io.last_mut() {
                    assert!(queue.handle_fabrics(self.rig.now, sqe).data.is_empty());
                }
            }
            Step::ConnectIo { qid } => {
                let data = ConnectData::new(HOSTID, self.host.admin.cntlid(), &nqn(SUBSYSTEM), &nqn(HOST));
                if let Ok(Connected { queue: ConnectedQueue::Io(queue), .. }) =
                    self.rig.connect(&ConnectCmd::new(qid, 31, 0), &data)
                {
                    assert!(queue.is_ready() && qid != 0);
                    assert!(self.io.iter().all(|other| !other.is_ready() || other.qid() != qid));
                    self.io.push(queue);
                }
            }
            Step::DropIo => drop(self.io.pop()),
            Step::Wait(ms) => {
                self.rig.wait(ms);
                self.host.now = self.rig.now;
                self.host.admin.handle_timeout(self.rig.now);
            }
            Step::Reload(nsid) => {
                let mut def = definition();
                def.subsystems[0].namespaces.push(kv_namespace(nsid));
                self.rig.target.apply(self.rig.target.plan(def).unwrap()).unwrap();
            }
        }
        for (cid, reply) in self.host.completions() {
            assert!(self.held.remove(&cid), "command {cid} was not held, or completed before");
            assert!(reply.data.is_empty());
        }
        assert!(self.held.len() <= 4);
        for queue in &self.io {
            let _ = (queue.namespace(1), queue.must_close());
            assert!(!queue.is_ready() || queue.must_close().is_none());
        }
    }

    fn command(&mut self, sqe: &Sqe, len: u32) {
        // A queue does not let two commands with one identifier be outstanding.
        if self.held.contains(&sqe.cid.get()) {
            return;
        }
        match self.host.admin.handle_command(self.rig.now, sqe, &[], len) {
            AdminOutcome::Complete(reply) => {
                assert!(reply.data.len() <= len as usize, "{} bytes for {len}", reply.data.len());
                assert!(reply.status.is_success() || reply.data.is_empty());
                assert!(reply.status.name().is_some());
            }
            AdminOutcome::Held => {
                assert_eq!(AdminOpcode(sqe.opcode), AdminOpcode::ASYNC_EVENT_REQUEST);
                self.held.insert(sqe.cid.get());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn commands_to_an_io_controller(enabled: bool, steps in prop::collection::vec(step(), 1..150)) {
        let rig = Rig::new();
        let mut host = rig.admin_as(HOST, SUBSYSTEM, 1000).unwrap();
        if enabled {
            host.enable(CC_ENABLE);
        }
        let mut session = Session { rig, host, held: BTreeSet::new(), io: Vec::new() };
        steps.iter().for_each(|step| session.run(step));
        let Session { rig, host, io, .. } = session;
        drop((host, io));
        prop_assert_eq!(rig.target.summary().io_controllers, 0);
    }

    #[test]
    fn commands_to_a_discovery_controller(steps in prop::collection::vec(step(), 1..150)) {
        let rig = Rig::new();
        let host = rig.discovery(HOST, 1000);
        let mut session = Session { rig, host, held: BTreeSet::new(), io: Vec::new() };
        steps.iter().for_each(|step| session.run(step));
        prop_assert!(session.io.is_empty());
    }

    #[test]
    fn arbitrary_connects(
        bytes in any::<[u8; 64]>(),
        qid in 0..4_u16,
        sqsize: u16,
        change in prop::collection::vec((0..1024_usize, any::<u8>()), 0..8),
        len in prop_oneof![9 => Just(1024_usize), 1 => 0..2000_usize],
    ) {
        let rig = Rig::new();
        let host = rig.host();
        let cntlid = if qid == 0 { CNTLID_DYNAMIC } else { host.admin.cntlid() };
        let mut data = ConnectData::new(HOSTID, cntlid, &nqn(SUBSYSTEM), &nqn(HOST)).as_bytes().to_vec();
        for (at, byte) in change {
            data[at] = byte;
        }
        data.resize(len, 0);
        let cmd = ConnectCmd { qid: qid.into(), sqsize: sqsize.into(), ..ConnectCmd::from_sqe(&Sqe::from_bytes(&bytes)) };
        match rig.target.connect(rig.now, &cmd.to_sqe(), &data, &rig.transport()) {
            Ok(connected) => {
                prop_assert_eq!(u32::from(connected.sqsize), u32::from(sqsize) + 1);
                prop_assert!(connected.reply.status.is_success());
            }
            Err(reply) => {
                prop_assert!(!reply.status.is_success() && reply.data.is_empty());
                let summary = rig.target.summary();
                prop_assert_eq!((summary.io_controllers, summary.io_queues), (1, 0));
            }
        }
    }
}

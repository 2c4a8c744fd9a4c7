//! Any order of events against what a host may expect: one answer a command, the right data, and no memory given back
//! while the controller can reach it.

use proptest::prelude::*;

use super::*;
use crate::{Error, queue::Answer};

#[derive(Clone, Debug)]
enum Step {
    Submit {
        reads: Option<bool>,
        len: usize,
        value: bool,
        foreign: bool,
    },
    /// The controller executes one of its commands and answers it.
    Respond {
        which: usize,
        fails: bool,
        invalidates: bool,
    },
    Acknowledge,
    GiveBack {
        which: usize,
    },
    Time {
        quarters: u32,
    },
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![Just(0usize), 1usize..200, 4000usize..4200, 5000usize..20_000];
    prop_oneof![
        6 => (any::<Option<bool>>(), len, any::<bool>(), any::<bool>())
            .prop_map(|(reads, len, value, foreign)| Step::Submit { reads, len, value, foreign }),
        6 => (any::<usize>(), any::<bool>(), any::<bool>())
            .prop_map(|(which, fails, invalidates)| Step::Respond { which, fails, invalidates }),
        3 => Just(Step::Acknowledge),
        4 => any::<usize>().prop_map(|which| Step::GiveBack { which }),
        1 => (0u32..3).prop_map(|quarters| Step::Time { quarters }),
        1 => Just(Step::Fail),
    ]
}

/// What was submitted, and what came of it at the controller.
#[derive(Clone, Debug)]
struct Submitted {
    reads: Option<bool>,
    len: usize,
    foreign: bool,
    /// Bytes that a success brings, once the controller has answered with one.
    brought: Option<usize>,
    refused: bool,
}

fn payload(reads: Option<bool>, len: usize, foreign: bool, key: usize) -> Payload {
    match (reads, foreign) {
        (None, _) => Payload::None,
        (Some(true), false) => Payload::from_controller(vec![0xee; len]),
        (Some(true), true) => Payload::from_controller(Own(vec![0xee; len])),
        (Some(false), false) => Payload::to_controller(pattern(len, key as u64)),
        (Some(false), true) => Payload::to_controller(Own(pattern(len, key as u64))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn every_command_is_answered_once_with_its_own_data(
        steps in proptest::collection::vec(step(), 1..80),
        crqsize in 1u16..20,
        invalidatable in any::<bool>(),
    ) {
        let mut rig = Rig::with(limits(), crqsize);
        (rig.acknowledge, rig.give_back, rig.invalidatable) = (false, false, invalidatable);
        let mut submitted: Vec<Submitted> = Vec::new();
        // By CID: which command the controller works on.
        let mut at_controller: BTreeMap<u16, usize> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Submit { reads, len, value, foreign } => {
                    let key = submitted.len();
                    let extent = if value { Extent::Value } else { Extent::Buffer };
                    let before = rig.capsules.len();
                    rig.submit_filling(key, payload(reads, len, foreign, key), extent);
                    submitted.push(Submitted { reads, len, foreign, brought: None, refused: false });
                    if rig.capsules.len() > before {
                        at_controller.insert(rig.capsules.back().unwrap().cid(), key);
                    } else {
                        submitted[key].refused = true;
                    }
                    prop_assert!(rig.capsules.len() <= usize::from(crqsize));
                }
                Step::Respond { which, fails, invalidates } => {
                    if rig.capsules.is_empty() || rig.queue.ended().is_some() {
                        continue;
                    }
                    let capsule = rig.capsules.remove(which % rig.capsules.len()).unwrap();
                    let key = at_controller.remove(&capsule.cid()).unwrap();
                    let command = &mut submitted[key];
                    let status = if fails { Status::INTERNAL_ERROR } else { Status::SUCCESS };
                    let mut dw0 = 0;
                    match command.reads {
                        Some(false) if command.len > 0 && rig.queue.ledger.commands.get(capsule.cid()).is_some() => {
                            prop_assert!(rig.read(&capsule) == pattern(command.len, key as u64));
                        }
                        Some(true) if command.len > 0 => {
                            // Half of it, or what the buffer holds of a value twice as long.
                            dw0 = (command.len / 2).max(1) as u32 * (1 + 3 * (key as u32 % 2));
                            rig.write(&capsule, &pattern(command.len, key as u64));
                        }
                        _ => {}
                    }
                    if !fails {
                        let whole = rig.queue.ledger.commands.get(capsule.cid())
                            .is_none_or(|c| c.transfer.extent == Extent::Buffer);
                        command.brought = Some(if whole { command.len } else { command.len.min(dw0 as usize) });
                    }
                    let cqe = Cqe::new(capsule.cid(), status).with_result(dw0.into());
                    let asked = capsule.descriptors_if_keyed().filter(|_| invalidates);
                    rig.respond_with(&cqe, asked);
                    prop_assert!(rig.queue.ended().is_none(), "{:?}", rig.queue.ended());
                }
                Step::Acknowledge => {
                    let tokens: Vec<u64> = rig.unacknowledged.drain(..).collect();
                    for token in tokens {
                        rig.queue.handle_sent(token, Ok(()));
                    }
                    rig.pump();
                }
                Step::GiveBack { which } => {
                    let due: Vec<u64> = rig.exposed.iter().filter(|(_, e)| e.concealing).map(|(t, _)| *t).collect();
                    if !due.is_empty() {
                        rig.conceal(due[which % due.len()]);
                    }
                }
                Step::Time { quarters } => {
                    rig.now += LIMIT / 4 * quarters;
                    rig.queue.handle_timeout(rig.now);
                    rig.pump();
                }
                Step::Fail => rig.queue.fail(ConnectionError::ClosedByController),
            }
        }
        rig.queue.fail(ConnectionError::ClosedByController);
        rig.destroy();
        prop_assert_eq!(rig.answers.len(), submitted.len());
        for (key, command) in submitted.into_iter().enumerate() {
            let Answer { result, payload } = rig.answers.remove(&key).unwrap();
            if command.refused && command.len == 0 {
                prop_assert!(result.is_err());
            }
            let is_none = matches!(payload, Payload::None);
            let bytes = match command.foreign {
                false => payload.take::<Vec<u8>>(),
                true => payload.take::<Own>().map(|f| f.0),
            };
            let Some(bytes) = bytes else {
                prop_assert!(command.reads.is_none() && is_none, "command {} lost its buffer", key);
                continue;
            };
            prop_assert_eq!(bytes.len(), command.len);
            if command.reads == Some(false) {
                prop_assert!(bytes == pattern(command.len, key as u64), "a buffer that is read was written");
            }
            match result {
                Ok(reply) if command.reads == Some(true) => {
                    prop_assert_eq!(Some(reply.received as usize), command.brought);
                    let received = reply.received as usize;
                    prop_assert!(bytes[..received] == pattern(command.len, key as u64)[..received]);
                }
                Ok(reply) => prop_assert_eq!((reply.received, command.brought.is_some()), (0, true)),
                Err(Error::Status { .. } | Error::Timeout { .. } | Error::ConnectionLost { .. }) => {}
                Err(Error::Argument { .. }) => prop_assert!(command.refused),
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}

impl Capsule {
    /// The key that the controller may invalidate.
    fn descriptors_if_keyed(&self) -> Option<u32> {
        match self.sqe.sgl1.decode() {
            Sgl::Keyed { key, invalidate: true, .. } => Some(key),
            _ => None,
        }
    }
}

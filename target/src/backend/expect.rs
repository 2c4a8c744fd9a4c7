//! Commands that are not submitted yet, but will be soon: what they wait for in memory is asked for early, so that they wait together.

use kvof_kv::KvCommand;
use kvof_spec::{KvOpcode, Sqe};

use super::{Backends, Part, PartKind};
use crate::{model::Namespace, namespace};

impl Backends {
    /// The commands `sqes` for `ns` will be submitted soon, if nothing is wrong with them. Nothing depends on it but time.
    pub fn expect<'a>(&self, ns: &Namespace, sqes: impl Iterator<Item = &'a Sqe> + Clone) {
        match self.parts.get(&ns.backend) {
            Some(Part { kind: PartKind::KvMemory(store), .. }) => {
                let moves_value = |sqe: &&Sqe| matches!(KvOpcode(sqe.opcode), KvOpcode::RETRIEVE | KvOpcode::STORE);
                store.expect(&self.env, sqes.filter(moves_value).filter_map(|sqe| KvCommand::from_sqe(sqe).any_key()));
            }
            Some(Part { kind: PartKind::NvmMemory(store), .. }) => {
                sqes.filter_map(|sqe| namespace::read_of(ns, sqe)).for_each(|range| store.expect_read(range));
            }
            _ => {}
        }
    }
}

//! Hosts against the target: connections, queues, control plane and storage in one thread, without sockets.

mod action;
mod host;
mod world;

pub(crate) use action::{Action, Answer, Command, Damage, Sgl};
pub(crate) use world::{
    ADMIN, HOST_ID, KV_SIZE, Setup, TRANSFER_MAX, definition, enable, host_nqn, kinds, may_wait, nqn, template,
};

use self::world::World;
use crate::input::Input;

/// Reads a [`Setup`] and [`Action`]s from `data` and does them.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(Setup::read(&mut input));
    // More than this finds nothing that less does not, and only makes a run slow.
    for _ in 0..400 {
        let Some(action) = Action::read(&mut input) else { break };
        world.act(&action);
        if std::env::var_os("KVOF_FUZZ_TRACE").is_some() {
            eprintln!("{action:?}\n    {}", world.trace());
        }
    }
    world.finish();
}

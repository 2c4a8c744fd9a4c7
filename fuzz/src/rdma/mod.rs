//! Hosts against the target over NVMe/RDMA: as in [`target`](crate::target), but commands come as messages, and data moves
//! when the driver, which is part of the world here, gets to it.

mod action;
mod host;
mod seeds;
mod world;

pub(crate) use self::seeds::seeds;
use self::{
    action::Action,
    world::{Setup, World},
};
use crate::input::Input;

/// Reads a setup and actions from `data` and does them.
pub fn rdma_target(data: &[u8]) {
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

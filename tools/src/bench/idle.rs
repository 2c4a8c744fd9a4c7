//! Connections that do nothing: controllers that are kept alive beside those that are measured.

use anyhow::{Context, Result};
use kvof_initiator::{ConnectOptions, Controller, blocking::block_on};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    connect::connect,
    failure::{Exit, coded},
};

/// Connections of a controller with one I/O queue.
const A_CONTROLLER: u32 = 2;
/// Open files of a connection: its socket, and what wakes its thread.
const FILES: u64 = 2;
/// Open files of everything else, at most.
const OTHER_FILES: u64 = 2048;
/// Entries of an I/O queue that nobody uses.
const DEPTH: u16 = 32;

/// Controllers that are connected and have nothing to do.
pub(super) struct Idle(Vec<Controller>);

impl Idle {
    /// Opens `connections` (rounded up to whole controllers) to where `controller` is connected.
    pub(super) fn open(controller: &Controller, options: &ConnectOptions, connections: u32) -> Result<Self> {
        allow_files(u64::from(connections) * FILES + OTHER_FILES)?;
        let mut options = options.clone();
        options.io_queues = 1;
        options.queue_depth = DEPTH;
        let mut idle = Self(Vec::new());
        for number in 0..connections.div_ceil(A_CONTROLLER) {
            let opened = block_on(connect(controller.address(), Some(controller.subnqn()), &options));
            match opened {
                Ok(controller) => idle.0.push(controller),
                Err(error) => {
                    idle.close();
                    return Err(error.context(format!(
                        "of {connections} idle connections only {} could be opened; the target's limits.connections and \
                         limits.controllers bound them",
                        number * A_CONTROLLER
                    )));
                }
            }
        }
        Ok(idle)
    }

    /// Connections there are.
    pub(super) fn connections(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX).saturating_mul(A_CONTROLLER)
    }

    /// Checks that every one of them is still there.
    pub(super) fn check(&self) -> Result<()> {
        let lost = self.0.iter().filter(|controller| controller.info().is_err()).count();
        if lost > 0 {
            let all = self.0.len();
            return Err(coded(
                Exit::Connection,
                format!("{lost} of {all} idle controllers have lost their connections"),
            ));
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        for controller in &self.0 {
            block_on(controller.disconnect());
        }
    }
}

/// Raises the soft limit of open files to `needed`, if it is less.
fn allow_files(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(most) = limit.maximum.filter(|most| *most < needed) {
        let reason = format!("so many idle connections need {needed} open files, and {most} are allowed (ulimit -Hn)");
        return Err(coded(Exit::Failed, reason));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .with_context(|| format!("cannot allow {needed} open files (ulimit -n)"))
}

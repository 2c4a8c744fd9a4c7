//! `kvof doctor`: what this machine has for kvof, what is wrong with it, and what to do about that.
//!
//! [`machine`], [`rdma`] and [`gpu`] collect facts, [`mod@judge`] turns them into findings, [`text`] shows both. [`reach`] goes to an
//! address step by step.

mod gpu;
mod judge;
mod machine;
#[cfg(test)]
mod made_up;
mod rdma;
mod reach;
mod text;

use std::path::Path;

use anyhow::Result;
use clap::Args;
use kvof_initiator::Address;
use serde::Serialize;

use crate::{cli::HostArgs, failure::Exit, output::Output};

use gpu::Gpus;
use judge::{Finding, Level, judge};
use machine::Machine;
use rdma::Rdma;
use reach::Reach;

/// Say what this machine has for kvof, and what to fix: RDMA devices, io_uring, CPU, limits, kernel modules.
///
/// With an ADDRESS, also go there step by step, as a host would, and say at which step that fails and why.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Where a target should be: tcp://HOST:PORT, rdma://HOST:PORT or auto://HOST:PORT. KVOF_ADDRESS does not count here.
    #[arg(value_name = "ADDRESS")]
    address: Option<Address>,

    #[command(flatten)]
    host: HostArgs,
}

/// Everything that was found out.
#[derive(Clone, Default, Serialize)]
struct Facts {
    machine: Machine,
    rdma: Rdma,
    gpus: Gpus,
}

#[derive(Serialize)]
struct Document<'a> {
    kvof: &'static str,
    #[serde(flatten)]
    facts: &'a Facts,
    findings: &'a [Finding],
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<&'a Reach>,
}

pub(crate) fn run(args: &DoctorArgs, output: &mut Output) -> Result<Exit> {
    let root = Path::new("/");
    let facts = Facts { machine: Machine::look(root), rdma: Rdma::look(root), gpus: Gpus::look() };
    let findings = judge(&facts);
    if !output.is_json() {
        output.line(text::report(&facts))?;
        output.line(text::findings(&findings))?;
        // What comes next may take its time.
        output.flush()?;
    }
    let reach = args.address.as_ref().map(|address| Reach::go(address, &args.host.options()));
    if output.is_json() {
        let version = env!("CARGO_PKG_VERSION");
        output.document(&Document { kvof: version, facts: &facts, findings: &findings, reach: reach.as_ref() })?;
    } else if let Some(reach) = &reach {
        output.line(text::reach(reach))?;
    }
    Ok(exit(&findings, reach.as_ref()))
}

/// That an address cannot be reached is what was asked, and counts more than what is broken besides.
fn exit(findings: &[Finding], reach: Option<&Reach>) -> Exit {
    if reach.is_some_and(|reach| !reach.succeeded()) {
        Exit::Connection
    } else if findings.iter().any(|finding| finding.level == Level::Problem) {
        Exit::Failed
    } else {
        Exit::Success
    }
}
